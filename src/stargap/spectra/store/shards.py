"""Shards of a store: consecutive spectra on the log-lambda grid, memory-mapped, each with its part of the index."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import part_folder, replacing
from stargap.pixels import BLUE_KEPT, LOG_LAMBDA
from stargap.spectra.spectrum import Facts

if TYPE_CHECKING:
    import pyarrow as pa

    from stargap.spectra.log_lambda import NativeBatch

__all__ = [
    "CATALOGUE",
    "FORMAT",
    "PLACE",
    "SHARD_ROWS",
    "Dtype",
    "FileSum",
    "Shard",
    "ShardCard",
    "check_file",
    "file_sha256",
    "index_schema",
    "read_card",
    "recover_shard",
    "shard_folder",
    "write_shard",
]

Dtype = Literal["float32", "float16"]

FORMAT = 3
"""Version of shards and manifests."""
SHARD_ROWS = 1024
"""Default number of rows of a shard, which is 16 MB in float32."""
CATALOGUE = {
    "gaia_source_id": "int | None",
    "uid": "str | None",
    "catalogue_obsid": "int | None",
    "catalogue_class": "str | None",
    "catalogue_subclass": "str | None",
    "catalogue_fibermask": "int | None",
    "catalogue_z": "float | None",
}
"""What the index keeps of a survey's catalogue, beside the facts of the file itself."""
_BY_ROW = ("scale", "spikes", "resolution")
"""Arrays with a number for each row, in the order of `NativeBatch`."""
_BLUE = "blue_"
"""With what names of arrays begin that shards have only where a spectrum has a good pixel blueward of the grid."""
_FILE = {"bytes": "int", "mtime_ns": "int", "sha256": "str", "failure": "str"}
PLACE = {"spectrum_id": "int", "shard": "int", "row": "int"}
"""Where a row is; `write_shard` fills it in."""
Card = TypeVar("Card", bound=BaseModel)


class FileSum(BaseModel):
    """Size and checksum of a file as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class ShardCard(BaseModel):
    """The metadata of a shard, as ``shard.json`` holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    stargap: str
    rows: int
    shard_rows: int
    dtype: Dtype
    files: dict[str, FileSum]


@cache
def index_schema() -> pa.Schema:
    """Return the columns of the index: place, file, facts (as in `Facts`) and what the survey's catalogue says."""
    import pyarrow as pa

    facts = {f.name: str(f.type) for f in fields(Facts)}
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    columns = PLACE | {"path": facts.pop("path")} | _FILE | facts | CATALOGUE
    return pa.schema([pa.field(name, types[kind.removesuffix(" | None")]) for name, kind in columns.items()])


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a store, complete on disk; `open` gives one, of a finished store or not."""

    folder: Path
    number: int
    card: ShardCard

    @classmethod
    def open(cls, store: str | Path, number: int) -> Shard:
        """Open a shard of a store's folder; the sizes of its files are checked, and their checksums when they are read.

        Raises:
            UsageError: it is missing, damaged, or of another version.
        """
        folder = shard_folder(store, number)
        card = read_card(folder / "shard.json", ShardCard)
        for name, file in card.files.items():
            check_file(folder / name, file)
        return cls(folder, number, card)

    def __len__(self) -> int:
        return self.card.rows

    @property
    def spectrum_id(self) -> NDArray[np.int64]:
        """Of each row, ``(row,)``."""
        return self.number * self.card.shard_rows + np.arange(self.card.rows)

    def read(self, rows: slice | NDArray[np.int64] = slice(None)) -> NativeBatch:
        """Return copies of some rows; the checksum of each file is compared when this process first reads it.

        Raises:
            UsageError: the shard is damaged.
        """
        import torch

        from stargap.spectra.log_lambda import NativeBatch

        def pixels(prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
            names = f"{prefix}flux", f"{prefix}{_weight_name(self.card.dtype)}"
            flux, weight = (torch.from_numpy(self._array(name)[rows].astype(np.float32)) for name in names)
            return flux, weight if self.card.dtype == "float32" else weight.square().reciprocal()

        by_row = (torch.from_numpy(self._array(name)[rows].copy()) for name in _BY_ROW)
        blue = pixels(_BLUE) if f"{_BLUE}flux.npy" in self.card.files else ()
        return NativeBatch(*pixels(""), *by_row, *blue)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return this shard's part of the index."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.file("index.parquet")).read(columns)

    def file(self, name: str) -> Path:
        """Return the path of a file whose content is what was written.

        Raises:
            UsageError: it is damaged.
        """
        path = self.folder / name
        _check_sum(path, self.card.files[name].sha256, *_stamp(path))
        return path

    def facts(self) -> list[Facts]:
        """Return what the file of each row says, as `native_batch` gave it."""
        return [Facts(**row) for row in self.table([f.name for f in fields(Facts)]).to_pylist()]

    def failures(self) -> list[str]:
        """Return why each row could not be read, empty if it could."""
        reasons: list[str] = self.table(["failure"])["failure"].to_pylist()
        return reasons

    def intact(self) -> bool:
        """Whether every file is what was written."""
        return all(file_sha256(self.folder / name) == file.sha256 for name, file in self.card.files.items())

    def _array(self, name: str) -> NDArray[Any]:
        count = BLUE_KEPT.size if name.startswith(_BLUE) else LOG_LAMBDA.count
        path, pixels = self.file(f"{name}.npy"), () if name in _BY_ROW else (count,)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            message = f"{path}: cannot be read ({error})"
            raise UsageError(message) from None
        if array.shape != (self.card.rows, *pixels):
            message = f"{path}: holds {array.shape}, where {(self.card.rows, *pixels)} is needed: damaged"
            raise UsageError(message)
        return array


def write_shard(
    folder: str | Path,
    number: int,
    native: NativeBatch,
    columns: Mapping[str, Sequence[Any]],
    facts: Sequence[Facts],
    *,
    dtype: Dtype = "float32",
    shard_rows: int = SHARD_ROWS,
) -> None:
    """Write a shard, complete or not at all, in place of one of that number; a store that this changes is unfinished.

    In float16 flux (of median 1) is rounded by at most 5e-4 of itself and sigma alike; where either is above 65504 the
    pixel gets weight zero.

    Args:
        folder: of the store, which must exist.
        number: of the shard; its first ``spectrum_id`` is ``number * shard_rows``.
        native: at most `shard_rows` rows; fewer only in the last shard.
        columns: more columns of the index, one value a row, None for null; those not given are null, failure empty.
        facts: of each row.
        dtype: of the pixels.
        shard_rows: the same in all shards.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        ValueError: rows or columns do not fit.
    """
    folder, count = Path(folder), len(native)
    if count > shard_rows or any(len(values) != count for values in (facts, *columns.values())):
        message = f"a shard of {count} rows of at most {shard_rows}, and columns of other lengths"
        raise ValueError(message)
    first = number * shard_rows
    known = {"spectrum_id": range(first, first + count), "shard": [number] * count, "row": range(count), **columns}
    known |= {f.name: [getattr(fact, f.name) for fact in facts] for f in fields(Facts)}
    known["path"] = [fact.path.encode("utf-8", "backslashreplace").decode() for fact in facts]
    table = _index_table({"failure": [""] * count} | known, count)
    try:
        with part_folder(folder) as part:
            files = {f"{name}.npy": _save(part / f"{name}.npy", array) for name, array in _encoded(native, dtype)}
            files["index.parquet"] = _save(part / "index.parquet", table)
            card = ShardCard(
                format=FORMAT, stargap=__version__, rows=count, shard_rows=shard_rows, dtype=dtype, files=files
            )
            with replacing(part / "shard.json") as file:
                file.write(card.model_dump_json(indent=1).encode())
            if not _written(folder, number, card):
                (folder / "manifest.json").unlink(missing_ok=True)
                _exchange(part, shard_folder(folder, number))
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


def recover_shard(folder: str | Path, number: int) -> None:
    """Put back a shard that a process was replacing when it was killed."""
    final = shard_folder(folder, number)
    if not final.exists():
        with contextlib.suppress(OSError):
            _aside(final).rename(final)


def shard_folder(store: str | Path, number: int) -> Path:
    """Return the folder of a shard."""
    return Path(store) / f"shard-{number:05d}"


def file_sha256(path: str | Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, file: FileSum) -> None:
    """Refuse a file of a store that is missing or has another size, with a UsageError."""
    try:
        size = path.stat().st_size
    except OSError as error:
        message = f"{path}: {error.strerror}: delete the folder and run the ingest again"
        raise UsageError(message) from None
    if size != file.bytes:
        message = f"{path}: {size} bytes where {file.bytes} were written: delete the folder and run the ingest again"
        raise UsageError(message)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=1024)
def _check_sum(path: Path, sha256: str, *stamp: int) -> None:
    """Refuse a file of another content; one that has not changed since is not read again."""
    try:
        right = file_sha256(path) == sha256
    except OSError as error:
        message = f"{path}: {error.strerror}: delete the folder and run the ingest again"
        raise UsageError(message) from None
    if not right:
        message = f"{path}: its checksum does not fit, it is damaged: delete the folder and run the ingest again"
        raise UsageError(message)


def read_card(path: Path, kind: type[Card]) -> Card:
    """Read ``shard.json`` or ``manifest.json``.

    Raises:
        UsageError: it is missing, damaged, foreign, or of another version.
    """
    try:
        content = json.loads(path.read_bytes())
        version = content["format"]
        card = kind(**content) if version == FORMAT else None
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}): run the ingest again"
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        message = f"{path}: damaged, or not of a stargap store"
    else:
        if card is not None:
            return card
        message = f"{path}: format {version}, where this version of stargap reads {FORMAT}"
    raise UsageError(message)


def _written(folder: Path, number: int, card: ShardCard) -> bool:
    """Whether the same shard is there already, such as another process may have written meanwhile."""
    try:
        shard = Shard.open(folder, number)
        return shard.card == card and shard.intact()
    except (UsageError, OSError):
        return False


def _exchange(new: Path, final: Path) -> None:
    """Rename a folder, in place of one of that name: that is set aside, complete, until the new one is there."""
    taken = (errno.ENOTEMPTY, errno.EEXIST)
    for last in (*[False] * 99, True):
        try:
            new.rename(final)
        except OSError as error:
            if last or error.errno not in taken:
                raise
        else:
            shutil.rmtree(_aside(final), ignore_errors=True)
            return
        shutil.rmtree(_aside(final), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            final.rename(_aside(final))


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _weight_name(dtype: Dtype) -> str:
    return "ivar" if dtype == "float32" else "sigma"


def _encoded(native: NativeBatch, dtype: Dtype) -> list[tuple[str, NDArray[Any]]]:
    arrays: dict[str, Any] = {}
    for prefix in ("", _BLUE) if native.blue_ivar.any() else ("",):
        flux, weight = getattr(native, f"{prefix}flux"), getattr(native, f"{prefix}ivar")
        if dtype == "float16":
            import torch

            flux, weight = flux.half(), weight.rsqrt().half()
            finite = torch.isfinite(flux) & torch.isfinite(weight)
            flux, weight = torch.where(finite, flux, 0), torch.where(finite, weight, torch.inf)
        arrays |= {f"{prefix}flux": flux, f"{prefix}{_weight_name(dtype)}": weight}
    arrays |= {name: getattr(native, name) for name in _BY_ROW}
    return [(name, tensor.numpy()) for name, tensor in arrays.items()]


def _index_table(columns: Mapping[str, Any], count: int) -> pa.Table:
    import pyarrow as pa

    unknown = set(columns) - set(index_schema().names)
    if unknown:
        message = f"no column of the index: {', '.join(sorted(unknown))}"
        raise ValueError(message)
    return pa.table({name: columns.get(name, [None] * count) for name in index_schema().names}, schema=index_schema())


def _save(path: Path, content: Any) -> FileSum:
    """Write an array or a table to the disk, and return what was written."""
    import pyarrow.parquet as pq

    with path.open("wb") as file:
        if isinstance(content, np.ndarray):
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(content))
            file.write(np.ascontiguousarray(content).data)
        else:
            pq.write_table(content, file, write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    return FileSum(bytes=path.stat().st_size, sha256=file_sha256(path))
