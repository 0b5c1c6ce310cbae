"""What a file states about its wavelengths: vacuum or air, heliocentric or not; whatever the header and the type.

A statement can be a logical, a number or a text, and stand in the header of any HDU. A survey's file that states
nothing is taken to be as the survey writes files (vacuum, heliocentric); one that states the contrary is refused. Of
other files what they state is obeyed. A statement that cannot be understood is refused everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import Value, cards
from stargap.spectra.readers.plain import Header

__all__ = ["Stated", "check_statements", "stated_of"]

_UNCLEAR = object()
_YES = {"T", "TRUE", "Y", "YES", "1", "1.0"}
_NO = {"F", "FALSE", "N", "NO", "0", "0.0"}
_VACUUM = re.compile(r"VACUUM|AIR_?OR_?VAC|VAC_?OR_?AIR|AIR_?VAC|VAC_?AIR")
"""Keywords that are true in vacuum, or whose text says which of the two."""
_AIR = re.compile(r"AIR|IN_?AIR|AIR_?WAVE?|WAVE?_?AIR")
"""Keywords that are true in air."""
_AXIS_TYPE = re.compile(r"CTYPE\d+[A-Z]?|TCTYP?\d+[A-Z]?|\d+CTYP?\d*[A-Z]?")
"""The type of an axis, of a column, and of the axis of a vector column (FITS standard 4.0, table 22)."""
_HELIOCENTRIC = re.compile(r"HELIO|HELIOCEN")
"""Keywords that are true for heliocentric wavelengths."""
_FRAME = re.compile(r"SPECSYS[A-Z]?")
"""The reference frame of the spectral axis (FITS standard 4.0, section 8.4.1)."""
_ANY = re.compile("|".join(pattern.pattern for pattern in (_VACUUM, _AIR, _AXIS_TYPE, _HELIOCENTRIC, _FRAME)))


@dataclass(frozen=True)
class Stated:
    """What headers say of wavelengths: in air or not, and their frame; None for what they do not say.

    ``frame`` is ``heliocentric`` (or barycentric), ``observed``, or ``other``.
    """

    air: bool | None = None
    frame: str | None = None


def stated_of(headers: Iterable[Header], path: str | Path) -> Stated:
    """Return what headers say of wavelengths.

    Read are VACUUM and its like, AWAV and WAVE as the type of an axis or a column, HELIO and its like, and SPECSYS.

    Raises:
        SpectrumError: a card that is not understood, or two that contradict each other, and which.

    Example:
        >>> from astropy.io import fits
        >>> stated_of([fits.Header({"CTYPE1": "AWAV"}), fits.Header({"SPECSYS": "TOPOCENT"})], "a.fits")
        Stated(air=True, frame='observed')
    """
    found: dict[str, tuple[object, str]] = {}
    for what, value, said in _statements(headers):
        if value is _UNCLEAR:
            expected = "in vacuum" if what == "air" else "heliocentric"
            raise SpectrumError(path, f"it is not clear whether wavelengths are {expected} ({said})")
        if what in found and found[what][0] != value:
            raise SpectrumError(path, f"{found[what][1]} and {said} contradict each other")
        found[what] = value, said
    air, frame = (found.get(what, (None, ""))[0] for what in ("air", "frame"))
    assert air is None or isinstance(air, bool)
    return Stated(air, None if frame is None else str(frame))


def check_statements(headers: Iterable[Header], path: str | Path) -> None:
    """Refuse a survey's file that says that wavelengths are in air or not heliocentric, or does not say it clearly.

    Raises:
        SpectrumError: which card says what.

    Example:
        >>> from astropy.io import fits
        >>> check_statements([fits.Header({"VACUUM": True}), fits.Header({"VACUUM": "F"})], "a.fits")
        Traceback (most recent call last):
        stargap.errors.SpectrumError: a.fits: wavelengths are in air (VACUUM = F)
    """
    for what, value, said in _statements(headers):
        if value is _UNCLEAR:
            expected = "in vacuum" if what == "air" else "heliocentric"
            raise SpectrumError(path, f"it is not clear whether wavelengths are {expected} ({said})")
        if value is True or value in ("observed", "other"):
            problem = "in air" if what == "air" else "not heliocentric"
            raise SpectrumError(path, f"wavelengths are {problem} ({said})")


def _statements(headers: Iterable[Header]) -> Iterator[tuple[str, object, str]]:
    """Yield what each card states: ``air`` or ``frame``, its value, and the card as text."""
    for header in headers:
        for keyword, value in cards(header, _may_state):
            text = _text(value)
            statement = _statement(keyword, text)
            if statement is not None:
                yield *statement, f"{keyword} = {text}"


@lru_cache(maxsize=4096)
def _may_state(keyword: str) -> bool:
    return _ANY.fullmatch(keyword) is not None


def _statement(key: str, text: str) -> tuple[str, object] | None:
    """Return what a card states and its value; None if nothing."""
    if _AXIS_TYPE.fullmatch(key):
        return ("air", text.startswith("AWAV")) if text.startswith(("AWAV", "WAVE")) else None
    if _FRAME.fullmatch(key):
        if not text:
            return None
        kinds = {"HELIO": "heliocentric", "BARY": "heliocentric", "TOPO": "observed"}
        return "frame", next((kind for start, kind in kinds.items() if text.startswith(start)), "other")
    if _AIR.fullmatch(key):
        return ("air", True) if text in _YES else ("air", False) if text in _NO else None
    if _VACUUM.fullmatch(key):
        air = text in _NO or text.startswith("AIR")
        return "air", air if air or text in _YES or text.startswith("VAC") else _UNCLEAR
    if text in _NO or text.startswith(("TOPO", "GEO")):
        return "frame", "observed"
    known = text in _YES or text.startswith(("HELIO", "BARY"))
    return "frame", "heliocentric" if known else _UNCLEAR


def _text(value: Value) -> str:
    """Return the value of a card as upper-case text, T and F for logicals; empty where it is none."""
    if isinstance(value, bool):
        return "T" if value else "F"
    return "" if value is None else str(value).strip().upper()
