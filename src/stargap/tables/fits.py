"""FITS binary tables: written block by block with all that the schema says, and read one column at a time."""

from __future__ import annotations

import gzip
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.columns import Column
from stargap.tables.source import Field, Parts, Source, is_packed, plain, refuse_bomb

__all__ = ["ascii_text", "fits_sources", "write_fits", "write_fits_gz"]

_CODES = {"int64": "K", "int32": "J", "float64": "D", "float32": "E", "bool": "L"}
_KINDS = {"int64": ">i8", "int32": ">i4", "float64": ">f8", "float32": ">f4", "bool": "u1"}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_SINGLE = frozenset("LBIJKED")
_MOST_HDUS = 64
"""Units of a file among which a table is looked for."""
_UNSAFE = re.compile(r"[^ -\[\]-~]|[ &]$")
_ROWS = 40_000
_BLOCK = 2880
_PIECE = 2**20


def ascii_text(text: str) -> str:
    """Return text as FITS can hold it, any other character and a space or ``&`` at the end as Python escapes.

    Example:
        >>> ascii_text("été &")
        '\\\\xe9t\\\\xe9\\\\x20\\\\x26'
    """
    if not _UNSAFE.search(text):
        return text
    kept = text.rstrip(" &")
    tail = "".join(f"\\x{ord(character):02x}" for character in text[len(kept) :])
    return kept.encode("unicode_escape").decode("ascii") + tail


def write_fits(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write a binary table ``STARGAP`` with TUNIT, TUCD, TCOMM, TNULL, limits, provenance, CHECKSUM and DATASUM.

    Astropy makes the header; the rows are packed in blocks, since astropy's writer needs five times the table's memory.
    Texts are gone through twice: for their lengths, and to be written. The header with its checksums comes last.

    Args:
        parts: columns of the table, part by part, as `conform` returns them.
        schema: of the table.
        provenance: names and values, kept as cards ``PROV1 = 'name = value'``.
        file: open for writing, at its start.
    """
    from astropy.io import fits

    texts = [column for column in schema if column.dtype == "str"]
    rows, longest = 0, {column.name: 1 for column in texts}
    for part in parts(texts or schema[:1]):
        rows += len(next(iter(part.values())))
        longest |= {name: max(size, _bytes(part[name]).dtype.itemsize) for name, size in longest.items()}
    kinds = [_KINDS.get(c.dtype) or f"S{longest[c.name]}" for c in schema]
    header = _header(schema, kinds, provenance)
    header["NAXIS2"] = rows
    header.set("CHECKSUM", "0" * 16, "checksum")
    header.set("DATASUM", "0" * 10, "checksum")
    primary = fits.PrimaryHDU()
    primary.add_checksum(when="checksum")
    file.write(primary.header.tostring().encode("ascii"))
    place, total, size = file.tell(), _Sum(), 0
    file.write(header.tostring().encode("ascii"))
    for block in _blocks(parts, schema, kinds):
        total.add(block)
        size += file.write(block)
    file.write(b"\0" * (-size % _BLOCK))
    header["DATASUM"] = str(total.value)
    header["CHECKSUM"] = _encoded(_folded(total.value, header.tostring().encode("ascii")))
    file.seek(place)
    file.write(header.tostring().encode("ascii"))


def write_fits_gz(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write what `write_fits` does, packed by gzip without a name or a date."""
    name = getattr(file, "name", None)
    with (
        tempfile.TemporaryFile(dir=Path(name).parent if isinstance(name, str) else None) as unpacked,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        write_fits(parts, schema, provenance, unpacked)
        unpacked.seek(0)
        shutil.copyfileobj(unpacked, packed, _PIECE)


@contextmanager
def fits_sources(path: Path) -> Iterator[list[Source]]:
    """Give the binary tables of a FITS file, plain or gzip; only the requested columns are read.

    Raises:
        UsageError: the file holds no binary table.
        ValueError: when a column is read: the table is cut short, or its DATASUM does not fit.
    """
    from astropy.io import fits

    with fits.open(path, memmap=True, uint=True) as hdus:
        tables = [(place, unit) for place, unit in _units(hdus) if isinstance(unit, fits.BinTableHDU)]
        if not tables:
            message = f"{path}: no binary table in this FITS file"
            raise UsageError(message)
        yield [_source(path, place, unit) for place, unit in tables]


def _units(hdus: Any) -> Iterator[tuple[int, Any]]:
    """Yield the units of a file, opened one by one."""
    for place in range(_MOST_HDUS):
        try:
            yield place, hdus[place]
        except IndexError:
            return


def _source(path: Path, place: int, hdu: Any) -> Source:
    fields, header = {}, hdu.header
    for number, column in enumerate(hdu.columns, start=1):
        code = re.sub("^1(?=[A-Z])", "", str(column.format))
        text = code.endswith("A")
        single = not column.dim and (text or code in _SINGLE)
        dtype = _DTYPES.get(code, "str" if text else code)
        null = header.get(f"TNULL{number}") if dtype.startswith("int") else Field().null
        ucd = str(header.get(f"TUCD{number}", ""))
        fields[column.name] = Field(single, dtype, str(column.unit or ""), ucd, null)

    def read(names: Sequence[str]) -> Iterator[NDArray[Any]]:
        _refuse_damage(path, hdu)
        for name in names:
            yield _column(hdu, name)

    return Source(f"HDU {place}", fields, int(header["NAXIS2"]), read)


def _refuse_damage(path: Path, hdu: Any) -> None:
    if packed := is_packed(path):
        refuse_bomb(path, hdu.size)
    if not packed and hdu.fileinfo()["datLoc"] + hdu.size > path.stat().st_size:
        message = "cut short: less data than its header promises"
        raise ValueError(message)
    if "DATASUM" in hdu.header and not hdu.verify_datasum():
        message = "its checksum does not fit: the file is damaged"
        raise ValueError(message)


def _column(hdu: Any, name: str) -> NDArray[Any]:
    column = hdu.columns[name]
    raw = np.asarray(hdu.data)[name]
    if raw.dtype.kind == "S":
        return plain(raw, np.zeros(len(raw), dtype=bool))
    values = np.asarray(hdu.data[name])
    if values.dtype.kind == "b":
        return plain(values, raw == 0)
    stated = column.null is not None and raw.dtype.kind in "iu"
    return plain(values, raw == column.null if stated else np.zeros(len(raw), dtype=bool))


def _header(schema: Sequence[Column], kinds: Sequence[str], provenance: Mapping[str, str]) -> Any:
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*column names contain only", fits.verify.VerifyWarning)  # [M/H]
        columns = [
            fits.Column(
                column.name,
                _CODES.get(column.dtype) or f"{kind[1:]}A",
                unit=column.unit or None,
                null=column.null if column.dtype.startswith("int") else None,
            )
            for column, kind in zip(schema, kinds, strict=True)
        ]
        header = fits.BinTableHDU.from_columns(columns, nrows=0, name="STARGAP").header
    for number, column in enumerate(schema, start=1):
        low, high = column.valid_range or (-math.inf, math.inf)
        whole = column.dtype.startswith("int")
        limits = {"TLMAX": high, "TLMIN": low}
        cards: dict[str, Any] = {
            name: int(limit) if whole else float(limit) for name, limit in limits.items() if math.isfinite(limit)
        }
        cards |= {"TCOMM": column.description, "TUCD": column.ucd}
        for name, value in cards.items():
            header.set(f"{name}{number}", value, after=f"TFORM{number}")
    for number, (name, value) in enumerate(provenance.items(), start=1):
        header[f"PROV{number}"] = ascii_text(f"{name} = {value}")
    return header


def _blocks(parts: Parts, schema: Sequence[Column], kinds: Sequence[str]) -> Iterator[bytes]:
    packed = np.dtype([(f"c{place}", kind) for place, kind in enumerate(kinds)])
    for part in parts(schema):
        columns = {c.name: _bytes(part[c.name]) if c.dtype == "str" else part[c.name] for c in schema}
        rows = len(columns[schema[0].name])
        for first in range(0, rows, _ROWS):
            block = np.empty(min(_ROWS, rows - first), dtype=packed)
            for place, column in enumerate(schema):
                values = columns[column.name][first : first + len(block)]
                block[f"c{place}"] = np.where(values, ord("T"), ord("F")) if column.dtype == "bool" else values
            yield block.tobytes()


def _bytes(values: NDArray[Any]) -> NDArray[np.bytes_]:
    cells = values.tolist()
    different = set(cells)
    text = "".join(different)
    safe = text.isascii() and text.isprintable() and "\\" not in text
    if not safe or any(cell.endswith((" ", "&")) for cell in different):
        values = np.array([ascii_text(cell) for cell in cells], dtype=object)
    return values.astype("S") if cells else np.empty(0, dtype="S1")


class _Sum:
    """The ones' complement sum of 32-bit words of the FITS standard (its appendix J), of data that come in pieces."""

    def __init__(self) -> None:
        self._total, self._rest = 0, b""

    def add(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % 4
        self._total, self._rest = _folded(self._total, data[:whole]), data[whole:]

    @property
    def value(self) -> int:
        """The sum of what was added; words that are not full are filled with zeros."""
        return _folded(self._total, self._rest + b"\0" * (-len(self._rest) % 4))


def _folded(total: int, words: bytes) -> int:
    total += int(np.frombuffer(words, dtype=">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encoded(total: int) -> str:
    """Return the complement of a sum as 16 letters and digits, as CHECKSUM holds it."""
    letters = np.zeros((4, 4), dtype=int)
    for place, byte in enumerate((0xFFFFFFFF - total).to_bytes(4, "big")):
        four = [byte // 4 + ord("0") + (byte % 4 if number == 0 else 0) for number in range(4)]
        while not all(chr(letter).isalnum() for letter in four):
            for one, other in ((0, 1), (2, 3)):
                if not (chr(four[one]).isalnum() and chr(four[other]).isalnum()):
                    four[one], four[other] = four[one] + 1, four[other] - 1
        letters[:, place] = four
    text = "".join(map(chr, letters.ravel().tolist()))
    return text[-1] + text[:-1]
