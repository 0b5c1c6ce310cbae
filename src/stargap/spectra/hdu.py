"""One header-data unit of a FITS file: cards, images and table columns, decoded only when asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hdu", "Value"]

Value: TypeAlias = str | int | float | bool | None

_IMAGE_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_COLUMN_TYPES = {"L": "S1", "B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_COLUMN_BYTES = dict(zip("LBIJKEDACMPQ", (1, 1, 2, 4, 8, 4, 8, 1, 8, 16, 8, 16), strict=True))
_STRING = re.compile(r"\s*'((?:[^']|'')*)'")
_INTEGER = re.compile(r"[+-]?\d+")
_FORMAT = re.compile(r"\s*(\d*)([A-Z])")


@dataclass(frozen=True, eq=False)
class Hdu:
    """Cards (the text after ``= ``, by keyword) and bytes of the data; both are decoded on request."""

    cards: dict[str, str]
    data: memoryview

    def value(self, key: str) -> Value:
        """Return the value of the card ``key``: text without trailing blanks, a number, a bool or None.

        None stands for a card that is missing, empty or not FITS.

        Example:
            >>> hdu = Hdu({"SUBCLASS": "'dM2     '", "SNRR": "  37.99 / SNR of r filter"}, memoryview(b""))
            >>> hdu.value("SUBCLASS"), hdu.value("SNRR"), hdu.value("OBSID")
            ('dM2', 37.99, None)
        """
        card = self.cards.get(key)
        if card is None:
            return None
        if text := _STRING.match(card):
            return text[1].replace("''", "'").rstrip()
        word = card.split("/", 1)[0].strip()
        if word in ("T", "F"):
            return word == "T"
        if _INTEGER.fullmatch(word):
            return int(word)
        try:
            return float(word.replace("D", "E").replace("d", "e"))
        except ValueError:
            return None

    def count(self, key: str, default: int | None = None) -> int:
        """Return a structural card, an int >= 0, or `default` where it is missing; ValueError otherwise."""
        number = self.value(key)
        if default is not None and key not in self.cards:
            return default
        if type(number) is not int or number < 0:
            message = f"{key} is not a count"
            raise ValueError(message)
        return number

    @cached_property
    def name(self) -> str:
        """EXTNAME in upper case, ``""`` when there is none."""
        return str(self.value("EXTNAME") or "").strip().upper()

    @cached_property
    def is_table(self) -> bool:
        """Whether this is a binary table."""
        return self.value("XTENSION") == "BINTABLE"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data in numpy's order, ``()`` when there are none (NAXIS 0, whatever NAXIS1 says)."""
        return tuple(self.count(f"NAXIS{axis}") for axis in range(min(self.count("NAXIS"), 999), 0, -1))

    @cached_property
    def size(self) -> int:
        """Bytes of data that the header promises, without padding; ValueError when it makes no sense."""
        if self.value("BITPIX") not in _IMAGE_TYPES:
            message = "BITPIX is not a FITS type"
            raise ValueError(message)
        elements = self.count("GCOUNT", 1) * (self.count("PCOUNT", 0) + prod(self.shape))
        return elements * self._dtype.itemsize if self.shape else 0

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(_IMAGE_TYPES[self.value("BITPIX")])  # type: ignore[index]

    def image(self) -> NDArray[Any]:
        """Return the image in the file's byte order, or as float64 where BSCALE or BZERO apply."""
        array: NDArray[Any] = np.frombuffer(self.data, self._dtype, prod(self.shape))
        return self._scaled(array.reshape(self.shape), "BSCALE", "BZERO")

    @cached_property
    def columns(self) -> dict[str, tuple[int, int, int, str]]:
        """Columns of a table: upper-case name to number, byte offset, repeat count and type code.

        Raises ValueError or KeyError when the descriptions are incomplete or do not fill the row.
        """
        found: dict[str, tuple[int, int, int, str]] = {}
        offset = 0
        for number in range(1, min(self.count("TFIELDS", 0), 999) + 1):
            form = _FORMAT.match(str(self.value(f"TFORM{number}")))
            if form is None:
                message = f"TFORM{number} is no column format"
                raise ValueError(message)
            repeat, code = int(form[1] or 1), form[2]
            name = str(self.value(f"TTYPE{number}")).strip().upper()
            found.setdefault(name, (number, offset, repeat, code))
            offset += (repeat + 7) // 8 if code == "X" else repeat * _COLUMN_BYTES[code]
        if len(self.shape) != 2 or offset != self.shape[1]:
            message = "the columns do not fill the row"
            raise ValueError(message)
        return found

    def column(self, name: str) -> NDArray[Any]:
        """Return the column `name` (upper case) as ``(row, element)``, numbers in the file's byte order.

        Text has one element a row; ``TSCALn`` and ``TZEROn`` are applied (to float64). Raises KeyError when
        there is no such column, or it is no array of fixed size; ValueError when the table is damaged.
        """
        number, offset, repeat, code = self.columns[name]
        rows, stride = self.shape
        dtype = np.dtype(f"S{repeat}" if code == "A" else _COLUMN_TYPES[code])
        elements = 1 if code == "A" else repeat
        array: NDArray[Any] = np.ndarray((rows, elements), dtype, self.data, offset, (stride, dtype.itemsize))
        return array if code in "AL" else self._scaled(array, f"TSCAL{number}", f"TZERO{number}")

    def _scaled(self, array: NDArray[Any], scale_key: str, zero_key: str) -> NDArray[Any]:
        scale = self.value(scale_key) if scale_key in self.cards else 1
        zero = self.value(zero_key) if zero_key in self.cards else 0
        if (scale, zero) == (1, 0):
            return array
        with np.errstate(all="ignore"):
            return array.astype(np.float64) * float(scale or 0) + float(zero or 0)
