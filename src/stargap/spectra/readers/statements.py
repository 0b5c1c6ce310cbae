"""What a file states about its wavelengths: vacuum or air, heliocentric or not; whatever the header and the type.

A statement can be a logical, a number or a text, and stand in the header of any HDU. A file that states nothing is
taken to be as its survey writes files (vacuum, heliocentric); a file that states the contrary is refused, and so is a
statement that cannot be understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from astropy.io import fits

from stargap.errors import SpectrumError

__all__ = ["check_statements"]

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


def check_statements(headers: Iterable[fits.Header], path: str | Path) -> None:
    """Refuse wavelengths that a header says are in air or not heliocentric, or does not say clearly.

    Read are VACUUM and its like, AWAV as the type of an axis or a column, HELIO and its like, and SPECSYS.

    Raises:
        SpectrumError: which card says what.

    Example:
        >>> check_statements([fits.Header({"VACUUM": True}), fits.Header({"VACUUM": "F"})], "a.fits")
        Traceback (most recent call last):
        stargap.errors.SpectrumError: a.fits: wavelengths are in air (VACUUM = F)
    """
    for header in headers:
        for card in header.cards:
            if _ANY.fullmatch(card.keyword):
                text = _text(card)
                problem = _problem(card.keyword, text)
                if problem is not None:
                    raise SpectrumError(path, f"{problem} ({card.keyword} = {text})")


def _problem(key: str, text: str) -> str | None:
    """Return what is wrong with a statement, None if nothing is."""
    air, not_heliocentric = "wavelengths are in air", "wavelengths are not heliocentric"
    if _AXIS_TYPE.fullmatch(key):
        return air if text.startswith("AWAV") else None
    if _FRAME.fullmatch(key):
        return None if not text or text.startswith(("HELIO", "BARY")) else not_heliocentric
    if _AIR.fullmatch(key):
        return air if text in _YES else None
    if _VACUUM.fullmatch(key):
        if text in _NO or text.startswith("AIR"):
            return air
        return None if text in _YES or text.startswith("VAC") else "it is not clear whether wavelengths are in vacuum"
    if text in _NO or text.startswith(("TOPO", "GEO")):
        return not_heliocentric
    known = text in _YES or text.startswith(("HELIO", "BARY"))
    return None if known else "it is not clear whether wavelengths are heliocentric"


def _text(card: fits.Card) -> str:
    """Return the value of a card as upper-case text, T and F for logicals; empty where it is none."""
    try:
        value = card.value
    except fits.VerifyError:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    return str(value).strip().upper() if isinstance(value, str | int | float) else ""
