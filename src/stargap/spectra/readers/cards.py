"""Values of header cards and of one-row tables as facts: text, numbers and angles, None where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

from astropy.io import fits

from stargap.spectra.readers.plain import Header, PlainHeader

__all__ = ["Value", "card", "cards", "fact_angle", "fact_int", "fact_number", "fact_text"]

Value: TypeAlias = str | int | float | bool | None

_NUMBER_SENTINELS = (-9999.0, -999.0)
_TEXT_SENTINELS = ("", "NULL", "-9999", "-9999.0", "-999")


def card(header: Header, key: str) -> Value:
    """Return the value of a card: text, a number or a bool; None when it is missing, empty or not FITS.

    Example:
        >>> header = fits.Header.fromstring("SNRR    = 37.99 / SNR".ljust(80) + "OBSID   = ?!".ljust(80))
        >>> card(header, "SNRR"), card(header, "OBSID"), card(header, "SUBCLASS")
        (37.99, None, None)
    """
    try:
        value = header.get(key)
    except fits.VerifyError:
        return None
    return value if isinstance(value, str | int | float) else None


def cards(header: Header, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Value]]:
    """Yield keyword and value of each card whose keyword is wanted, in the order of the header, repeated ones included.

    Example:
        >>> header = fits.Header([("CTYPE1", "AWAV"), ("SNRR", 37.99), ("CTYPE2", 7)])
        >>> list(cards(header, lambda keyword: keyword.startswith("CTYPE")))
        [('CTYPE1', 'AWAV'), ('CTYPE2', 7)]
    """
    if isinstance(header, PlainHeader):
        yield from ((keyword, card(header, keyword)) for keyword in header if wanted(keyword))
        return
    for found in header.cards:
        if wanted(found.keyword):
            try:
                value = found.value
            except fits.VerifyError:
                value = None
            yield found.keyword, value if isinstance(value, str | int | float) else None


def fact_text(value: Value) -> str | None:
    """Return a header value as stripped text, None for a sentinel (blank, NULL, -9999, -999) or a logical.

    Example:
        >>> fact_text(" dM2 "), fact_text("NULL"), fact_text(4055)
        ('dM2', None, '4055')
    """
    if not isinstance(value, str) and fact_number(value) is None:
        return None
    text = str(value).strip()
    return None if text.upper() in _TEXT_SENTINELS else text


def fact_number(value: Value) -> float | None:
    """Return a header value as a float, None where it is no finite number or a sentinel.

    Example:
        >>> fact_number("37.5"), fact_number(-9999), fact_number("NULL"), fact_number(True)
        (37.5, None, None, None)
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number not in _NUMBER_SENTINELS else None


def fact_int(value: Value, *, least: int = -(2**63)) -> int | None:
    """Return a header value as an int64, None where it is no whole number, a sentinel or below `least`.

    Example:
        >>> fact_int(101001), fact_int("126"), fact_int(-9999), fact_int(1.5), fact_int(-1, least=0)
        (101001, 126, None, None, None)
    """
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    number = fact_number(value)
    if number is None or number != math.floor(number):
        return None
    whole = value if isinstance(value, int) else int(number)
    return whole if least <= whole < 2**63 else None


def fact_angle(value: Value, low: float, high: float) -> float | None:
    """Return a coordinate (deg), None where it is missing, a sentinel or outside ``low..high``.

    Example:
        >>> fact_angle(332.2, 0, 360), fact_angle(-2000.0, -90, 90)
        (332.2, None)
    """
    number = fact_number(value)
    return number if number is not None and low <= number <= high else None
