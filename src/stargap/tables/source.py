"""One table inside a file, as each format's reader gives it: its columns, their metadata, their values."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.columns import INT_NULL, Column

__all__ = ["Field", "Parts", "Source", "is_packed", "plain", "refuse_bomb", "unpacked"]

Parts = Callable[[Sequence[Column]], Iterable[Mapping[str, NDArray[Any]]]]
"""What a writer is given: a function that gives some columns from their start, part by part, whenever it is called."""

_GZIP_MAGIC = b"\x1f\x8b"
_LEAST_BOUND, _MOST_RATIO = 1 << 28, 200
"""A gzip file may unpack to this many bytes, a larger one to this many times its size; tables pack 3 to 20 times."""


class Field(NamedTuple):
    """Metadata of a column; None where the file's format has none.

    ``single``, whether it has one value per row; ``dtype`` as in `stargap.tables.columns.Column`; ``null`` of integers.
    """

    single: bool = True
    dtype: str | None = None
    unit: str | None = None
    ucd: str | None = None
    null: int | None = INT_NULL


@dataclass(frozen=True)
class Source:
    """A table that can be read.

    ``title`` names it within its file, such as ``HDU 1``; ``rows`` is their number, or None before the file is read.
    ``read`` yields the columns of the given names one after the other, ``(row,)``, nulls as in the schema.
    ``first_line`` is the line of the first row in a text file, None elsewhere.
    """

    title: str
    fields: Mapping[str, Field]
    rows: int | None
    read: Callable[[Sequence[str]], Iterator[NDArray[Any]]]
    first_line: int | None = None


def is_packed(path: Path) -> bool:
    """Return whether a file is compressed by gzip, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def unpacked(path: Path) -> BinaryIO:
    """Open a file for reading, plain or gzip, the latter up to 200 times its size.

    Raises:
        UsageError: while it is read: it unpacks to more.
    """
    return io.BufferedReader(_Bounded(path), 1 << 20) if is_packed(path) else path.open("rb")


def refuse_bomb(path: Path, size: int) -> None:
    """Refuse a gzip file that unpacks to so many bytes that it cannot be a table."""
    if size > max(_LEAST_BOUND, _MOST_RATIO * path.stat().st_size):
        message = f"{path}: unpacks to more than {_MOST_RATIO} times its size, which no table does"
        raise UsageError(message)


class _Bounded(io.RawIOBase):
    """The content of a gzip file, up to the bound."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, gzip.GzipFile(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        refuse_bomb(self._path, self._file.tell())
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def close(self) -> None:
        self._file.close()
        super().close()


def plain(values: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values in this machine's byte order with the schema's nulls.

    Integers become int64, floats float32 or float64, text str objects without spaces at the end; booleans stay so, or
    become int64 where some are null.

    Raises:
        ValueError: an unsigned integer exceeds int64.
    """
    kind = values.dtype.kind
    if kind == "b" and not null.any():
        return np.array(values, dtype=bool)
    if kind in "iub":
        if kind == "u" and values.size and values[~null].max(initial=0) > np.iinfo(np.int64).max:
            message = f"{values[~null].max()} exceeds int64"
            raise ValueError(message)
        whole = values.astype(np.int64)
        whole[null] = INT_NULL
        return whole
    if kind == "f":
        size = max(values.dtype.itemsize, 4)
        floats = values.astype(f"f{min(size, 8)}")
        floats[null] = np.nan
        return floats
    text = np.empty(values.shape, dtype=object)
    if kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    text[:] = [_text(cell) for cell in values.tolist()]
    text[null] = ""
    return text


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "backslashreplace")
    return "" if cell is None else str(cell).rstrip(" \0")
