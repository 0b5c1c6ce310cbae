"""The store: shards of spectra on the log-lambda grid, an index with their facts, and a manifest, written last.

``manifest.json`` names version, log-lambda grid, settings and the checksum of every file and is written last;
``index.parquet`` has one row per spectrum, in the order of ``spectrum_id``; ``shard-00000/`` and so on hold ``flux``,
``ivar`` (in float16 ``sigma``: ivar would overflow), ``scale``, ``spikes`` and ``resolution`` of `NativeBatch` as
``.npy`` files, and ``blue_flux`` with ``blue_ivar`` or ``blue_sigma`` where a spectrum of the shard has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import replacing, sweep_parts
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

if TYPE_CHECKING:
    pass

__all__ = ["finish", "verify"]


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
    with replacing(path) as file, pq.ParquetWriter(file, index_schema(), write_page_checksum=True) as writer:
        for number, first in enumerate(range(0, rows, shard_rows)):
            shard = Shard.open(folder, number)
            found = (len(shard), shard.card.shard_rows, shard.card.dtype)
            needed = (min(shard_rows, rows - first), shard_rows, dtype)
            if found != needed:
                here, there = ("{} rows of {} in {}".format(*of) for of in (found, needed))
                message = f"{shard.folder}: {here}, where {there} are needed: run the ingest again"
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
    sweep_parts(folder)


def verify(folder: str | Path) -> list[str]:
    """Compute every checksum of a store again and return one sentence for each damaged file, none if all are sound.

    A damaged shard is mended by deleting its folder and running the ingest again.

    Raises:
        UsageError: no store, an unfinished one, or one of another version or log-lambda grid.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> finish(folder, 0)
        >>> verify(folder)
        []
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
