"""The store: shards of spectra on the log-lambda grid, an index with their facts, and a manifest, written last."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import replacing
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.store.shards import (
    FORMAT,
    SHARD_ROWS,
    Dtype,
    FileSum,
    Shard,
    ShardCard,
    check_file,
    file_sha256,
    index_schema,
    read_card,
    shard_folder,
)
from stargap.tables.columns import INT_NULL

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Store", "finish", "verify"]

_ABANDONED = 3600.0
"""Age in seconds at which a temporary file or folder is taken for what a killed process left behind."""


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["stargap-store"]
    format: int
    stargap: str
    lattice: dict[str, float]
    rows: int
    shard_rows: int
    dtype: Dtype
    settings: dict[str, Any]
    index: FileSum
    shards: list[ShardCard]


@dataclass(frozen=True)
class Store:
    """A finished store of spectra; iterating gives its shards.

    ``manifest.json`` names version, lattice, settings and the checksum of every file and is written last;
    ``index.parquet`` has a row a spectrum, in the order of ``spectrum_id``; ``shard-00000/`` and so on hold ``flux``,
    ``ivar`` (in float16 ``sigma``: ivar would overflow), ``scale`` and ``spikes`` of `NativeBatch` as ``.npy`` files.

    Example:
        >>> from stargap.errors import SpectrumError
        >>> from stargap.spectra.log_lambda import native_batch
        >>> from stargap.spectra.store.shards import write_shard
        >>> folder = getfixture("tmp_path")
        >>> native, facts, failure = native_batch([SpectrumError("a.fits", "the file is empty")])
        >>> write_shard(folder, 0, native, {"failure": failure}, facts)
        >>> finish(folder, 1)
        >>> store = Store.open(folder)
        >>> len(store), store.columns("spectrum_id", "failure")
        (1, {'spectrum_id': array([0]), 'failure': array(['the file is empty'], dtype=object)})
        >>> [shard.read().flux.shape for shard in store]
        [torch.Size([1, 1891])]
    """

    folder: Path
    manifest: _Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open a store; the checksum of its index and the sizes of all files are checked, `verify` checks the rest.

        Raises:
            UsageError: no store, an unfinished one, damage, another version or another log-lambda grid.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        for path, file in _files(folder, manifest).items():
            check_file(path, file)
        if file_sha256(folder / "index.parquet") != manifest.index.sha256:
            message = f"{folder / 'index.parquet'}: its checksum does not fit: run the ingest again"
            raise UsageError(message)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    def __iter__(self) -> Iterator[Shard]:
        return map(self.shard, range(len(self.manifest.shards)))

    def shard(self, number: int) -> Shard:
        """Return a shard by number."""
        return Shard(shard_folder(self.folder, number), number, self.manifest.shards[number])

    def columns(self, *names: str) -> dict[str, NDArray[Any]]:
        """Return columns of the index, all if none is named, with the nulls of the schema (-9999, NaN, empty).

        Raises:
            UsageError: no such column.
        """
        import pyarrow.parquet as pq

        unknown = [name for name in names if name not in index_schema().names]
        if unknown:
            message = f"{self.folder}: no column {unknown[0]!r} in the index; it has {', '.join(index_schema().names)}"
            raise UsageError(message)
        table = pq.ParquetFile(self.folder / "index.parquet").read(list(names) or None)
        return {name: _plain(table[name]) for name in names or table.column_names}


def finish(
    folder: str | Path,
    rows: int,
    *,
    settings: Mapping[str, Any] | None = None,
    dtype: Dtype = "float32",
    shard_rows: int = SHARD_ROWS,
) -> None:
    """Gather the index and write the manifest, last of all.

    Args:
        folder: of the store.
        rows: of all shards together.
        settings: to be kept in the manifest, in JSON types.
        dtype: as in every shard.
        shard_rows: as in every shard.

    Raises:
        UsageError: a shard is missing, damaged, or holds other rows.
    """
    import pyarrow.parquet as pq

    folder, cards = Path(folder), []
    path = folder / "index.parquet"
    with replacing(path) as file, pq.ParquetWriter(file, index_schema()) as writer:
        for number, first in enumerate(range(0, rows, shard_rows)):
            shard = Shard.open(folder, number)
            found = (len(shard), shard.card.shard_rows, shard.card.dtype)
            wanted = (min(shard_rows, rows - first), shard_rows, dtype)
            if found != wanted:
                held, need = ("{} rows of {} in {}".format(*of) for of in (found, wanted))
                message = f"{shard.folder}: {held}, where {need} are needed: run the ingest again"
                raise UsageError(message)
            writer.write_table(shard.table(index_schema().names))
            cards.append(shard.card)
    index = FileSum(bytes=path.stat().st_size, sha256=file_sha256(path))
    manifest = _Manifest(
        kind="stargap-store",
        format=FORMAT,
        stargap=__version__,
        lattice=asdict(LOG_LAMBDA),
        rows=rows,
        shard_rows=shard_rows,
        dtype=dtype,
        settings=dict(settings or {}),
        index=index,
        shards=cards,
    )
    with replacing(folder / "manifest.json") as file:
        file.write(manifest.model_dump_json(indent=1).encode())
    for left in folder.glob(".shard-*.old"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(".stargap-*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def verify(folder: str | Path) -> list[str]:
    """Compute every checksum of a store again and return one sentence for each damaged file; empty if none is.

    A damaged shard is mended by deleting its folder and running the ingest again.

    Raises:
        UsageError: it cannot be opened at all.
    """
    folder, found = Path(folder), []
    manifest = _read_manifest(folder)
    for path, file in _files(folder, manifest).items():
        try:
            check_file(path, file)
            if file_sha256(path) != file.sha256:
                found.append(f"{path}: its checksum does not fit")
        except UsageError as error:
            found.append(str(error))
    return found


def _files(folder: Path, manifest: _Manifest) -> dict[Path, FileSum]:
    files = {folder / "index.parquet": manifest.index}
    for number, card in enumerate(manifest.shards):
        files |= {shard_folder(folder, number) / name: file for name, file in card.files.items()}
    return files


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / "manifest.json"
    if not path.exists():
        begun = next(folder.glob("shard-*"), None) or next(folder.glob("plan.parquet"), None)
        state = "the store is not finished: run the ingest again" if begun else "not a stargap store (no manifest.json)"
        message = f"{folder}: {state}"
        raise UsageError(message)
    manifest = read_card(path, _Manifest)
    if manifest.lattice != asdict(LOG_LAMBDA):
        message = f"{path}: pixels are {manifest.lattice}, where {asdict(LOG_LAMBDA)} is needed"
        raise UsageError(message)
    return manifest


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    import pyarrow as pa

    null = {pa.string(): "", pa.int64(): INT_NULL, pa.float64(): np.nan}[column.type]
    values: NDArray[Any] = column.fill_null(null).to_numpy()
    return values
