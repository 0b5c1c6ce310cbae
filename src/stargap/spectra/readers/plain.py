"""Headers and data of plain HDUs, read straight from the bytes: astropy takes milliseconds to make objects of a header.

An HDU is plain if astropy would find nothing in it to correct, to scale or to warn of: cards in the standard's fixed
places, each keyword once, no checksum, and an image or a table of numbers that is as long as the header promises.
LAMOST's files are plain. Every other HDU is `astropy.io.fits`'s, and so is every card that is not of the commonest
form; both give the same values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu import BITPIX2DTYPE

__all__ = [
    "BLOCK",
    "CARD",
    "END",
    "HDU",
    "MAX_HEADER",
    "PRINTABLE",
    "HDUs",
    "Header",
    "PlainColumn",
    "PlainHDU",
    "PlainHeader",
    "plain_hdu",
]

BLOCK = 2880
CARD = 80
MAX_HEADER = 1 << 20
"""Bytes that one header may have, which are 13,000 cards."""
END = b"END".ljust(CARD)
PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))
_COMMENTARY = (b"COMMENT ", b"HISTORY ", b"        ")
_KEYWORD = re.compile(rb"([A-Z0-9_-]+) *= ")
_VALUE = re.compile(
    rb" *(?:'(?P<text>[^']+)'|(?P<logical>[TF])|(?P<whole>[+-]?\d+)"
    rb"|(?P<real>[+-]?(?:\d+\.\d*|\.\d+)(?:E[+-]?\d+)?)) *(?:/.*)?"
)
"""A value of the commonest form, and its comment; strings with quotes in them are among the others."""
_RECORD = re.compile(rb"= *'[^']*: ")
"""A string that may be a record-valued keyword card (``DP1 = 'AXIS.1: 2'``)."""
_REFUSED = {"CHECKSUM", "DATASUM", "GROUPS", "BSCALE", "BZERO", "BLANK", "ZIMAGE", "THEAP"}
_REFUSED_OF_COLUMNS = ("TSCAL", "TZERO", "TNULL", "TDIM")
_NUMBERS = {"B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8"}
_FORM = re.compile(rf"([1-9]\d{{0,8}})?[{''.join(_NUMBERS)}]")


class PlainHeader:
    """The cards of a plain header; values as those of `astropy.io.fits.Header`, made when they are asked for.

    Args:
        raw: the bytes of the file.
        places: where the card of each keyword begins.

    Example:
        >>> card = b"SNRR    =                37.99 / S/N".ljust(80)
        >>> header = PlainHeader(card, {"SNRR": 0})
        >>> header["SNRR"], header.get("SNRI"), "SNRI" in header
        (37.99, None, False)
    """

    def __init__(self, raw: bytes, places: dict[str, int]) -> None:
        self._raw, self._places = raw, places

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, keyword: str) -> Any:
        """Return the value of a card, None where it has none.

        Raises:
            KeyError: there is no such card.
            astropy.io.fits.VerifyError: what it holds is not FITS.
        """
        place = self._places[keyword]
        found = _VALUE.fullmatch(self._raw, place + 10, place + CARD)
        if found is None:
            value = fits.Card.fromstring(self._raw[place : place + CARD]).value
            return None if isinstance(value, fits.card.Undefined) else value
        match found.lastgroup:
            case "text":
                return found["text"].decode("ascii").rstrip()
            case "logical":
                return found["logical"] == b"T"
            case "whole":
                return int(found["whole"])
        return float(found["real"])

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the value of a card, `default` where there is no such card."""
        return self[keyword] if keyword in self._places else default


class PlainColumn(NamedTuple):
    """A column of a plain table: its name as the file has it, its TFORM and its TUNIT."""

    name: str
    format: str
    unit: str | None

    @property
    def repeat(self) -> int:
        """How many numbers a row has."""
        return int(self.format[:-1] or 1)

    @property
    def number(self) -> str:
        """The type of one number, as numpy names it."""
        return _NUMBERS[self.format[-1]]

    @property
    def bytes(self) -> int:
        """How many bytes a row has."""
        return self.repeat * int(self.number[1:])


Columns: TypeAlias = dict[str, PlainColumn]


class PlainHDU:
    """A plain HDU: what readers use of astropy's HDUs, by the same names.

    Args:
        header: its cards.
        raw: the bytes of the file.
        start: where its data begin.
        size: bytes of its data.
        columns: of a table, by their names in upper case; None for an image.
    """

    def __init__(self, header: PlainHeader, raw: bytes, start: int, size: int, columns: Columns | None) -> None:
        self.header, self.size, self.columns = header, size, columns
        self.name: str = header.get("EXTNAME", "" if "XTENSION" in header else "PRIMARY")
        self._raw, self._start = raw, start

    @property
    def end(self) -> int:
        """Where the next HDU begins."""
        return self._start + self.size + -self.size % BLOCK

    @cached_property
    def data(self) -> Any:
        """An image of shape ``(NAXISn, ..., NAXIS1)``, or records ``(row,)`` whose fields are named in upper case."""
        if not self.size:
            return None
        axes = [self.header[f"NAXIS{axis}"] for axis in range(self.header["NAXIS"], 0, -1)]
        if self.columns is not None:
            return np.frombuffer(self._raw, _dtype(tuple(self.columns.values())), axes[0], self._start)
        pixel = np.dtype(BITPIX2DTYPE[self.header["BITPIX"]]).newbyteorder(">")
        return np.frombuffer(self._raw, pixel, math.prod(axes), self._start).reshape(axes)


Header: TypeAlias = PlainHeader | fits.Header
HDU: TypeAlias = PlainHDU | fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU
HDUs: TypeAlias = Sequence[HDU]


def plain_hdu(raw: bytes, start: int) -> PlainHDU | None:
    """Return the HDU that begins at `start` if it is plain, None if it is not.

    Example:
        >>> plain_hdu(b"SIMPLE  = T".ljust(80) + b"BITPIX  = 8".ljust(80) + b"CUT", 0)
    """
    end, places = _places(raw, start)
    header, place = PlainHeader(raw, places), end + CARD + -(end + CARD - start) % BLOCK
    text = raw[start:place]
    if not end or place > len(raw) or text.translate(PRINTABLE) != text or _RECORD.search(raw, start, end):
        return None
    try:
        size = None if _REFUSED.intersection(places) else _size(header, first=start == 0)
        if size is None or place + size > len(raw):
            return None
        if header.get("XTENSION") != "BINTABLE":
            return PlainHDU(header, raw, place, size, None)
        columns = _columns(header)
    except fits.VerifyError:
        return None
    return PlainHDU(header, raw, place, size, columns) if columns else None


def _places(raw: bytes, start: int) -> tuple[int, dict[str, int]]:
    """Return where END is and where each keyword's card begins; 0 and nothing where cards are not plain."""
    places: dict[str, int] = {}
    for place in range(start, min(len(raw), start + MAX_HEADER), CARD):
        keyword = _keyword(raw[place : place + 10])
        if keyword == "END" and raw.startswith(END, place):
            return place, places
        if keyword is None or keyword == "END" or keyword in places:
            break
        if keyword:
            places[keyword] = place
    return 0, {}


@lru_cache(maxsize=4096)
def _keyword(begin: bytes) -> str | None:
    """Return the keyword of a card from its first ten bytes, empty for a comment, None for anything that is not plain.

    Example:
        >>> _keyword(b"SNRR    = "), _keyword(b"COMMENT  S"), _keyword(b"END       "), _keyword(b"SNRR = 7. ")
        ('SNRR', '', 'END', None)
    """
    if begin.startswith(_COMMENTARY):
        return ""
    if begin == END[:10]:
        return "END"
    found = _KEYWORD.fullmatch(begin)
    keyword = "" if found is None else found[1].decode("ascii")
    return None if keyword in ("", "CONTINUE", "HIERARCH", "END") else keyword


def _size(header: PlainHeader, *, first: bool) -> int | None:
    """Return the bytes of an HDU's data, None unless it is a plain image or table."""

    def count(keyword: str, default: int | None = None) -> int:
        value = header.get(keyword, default)
        return value if type(value) is int else -1

    if next(iter(header), None) != ("SIMPLE" if first else "XTENSION"):
        return None
    kind = header["SIMPLE" if first else "XTENSION"]
    axes, bits = count("NAXIS"), header.get("BITPIX")
    lengths = [count(f"NAXIS{axis}") for axis in range(1, min(axes, 999) + 1)]
    image = kind is True if first else kind == "IMAGE"
    table = not first and kind == "BINTABLE" and axes == 2 and bits == 8
    known = type(bits) is int and bits in BITPIX2DTYPE and count("TFIELDS", 0) in range(1000)
    known &= isinstance(header.get("EXTNAME", ""), str)
    whole = 0 <= axes < 1000 and all(length > 0 for length in lengths)
    counts = count("PCOUNT", 0 if first else None), count("GCOUNT", 1 if first else None)
    if not (known and whole and (image or table) and counts == (0, 1)):
        return None
    return abs(bits) // 8 * math.prod(lengths) if axes else 0


def _columns(header: PlainHeader) -> Columns:
    """Return the columns of a table; none unless all hold unscaled numbers, differ in name, and fill the row."""
    columns: Columns = {}
    if any(keyword.startswith(_REFUSED_OF_COLUMNS) for keyword in header):
        return {}
    for number in range(1, header.get("TFIELDS", 0) + 1):
        name, form, unit = (header.get(f"{key}{number}") for key in ("TTYPE", "TFORM", "TUNIT"))
        if not (isinstance(name, str) and isinstance(form, str) and isinstance(unit, str | None)):
            return {}
        if not name or name.upper() in columns or not _FORM.fullmatch(form):
            return {}
        columns[name.upper()] = PlainColumn(name, form, unit)
    return columns if sum(column.bytes for column in columns.values()) == header["NAXIS1"] else {}


@lru_cache(maxsize=64)
def _dtype(columns: tuple[PlainColumn, ...]) -> np.dtype[Any]:
    """Return the type of a table's rows.

    Example:
        >>> _dtype((PlainColumn("flux", "3E", None), PlainColumn("n", "J", None)))
        dtype([('FLUX', '>f4', (3,)), ('N', '>i4')])
    """
    shape = {column: () if column.repeat == 1 else ((column.repeat,),) for column in columns}
    return np.dtype([(column.name.upper(), f">{column.number}", *shape[column]) for column in columns])
