"""Names of spectra in files that hold several: ``coadd-main-dark-1.fits#12`` is the thirteenth spectrum of its file."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["join_address", "split_address"]

_ADDRESS = re.compile(r"(.+)#(\d{1,9})", re.DOTALL)


def split_address(path: str | Path) -> tuple[str, int | None]:
    """Return the file that an address names, and the place of the spectrum in it; None where it names the whole file.

    A file whose own name ends so is that file.

    Example:
        >>> split_address("coadd-main-dark-1.fits#12"), split_address("spec-1.fits")
        (('coadd-main-dark-1.fits', 12), ('spec-1.fits', None))
    """
    text = os.fspath(path)
    found = _ADDRESS.fullmatch(text) if "#" in text else None
    if found is None or _exists(text):
        return text, None
    return found[1], int(found[2])


def join_address(path: str | Path, place: int) -> str:
    """Return the address of the spectrum at `place`, counted from 0, of a file that holds several.

    Example:
        >>> join_address("coadd-main-dark-1.fits", 12)
        'coadd-main-dark-1.fits#12'
    """
    return f"{os.fspath(path)}#{place}"


def _exists(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except ValueError:
        return False
