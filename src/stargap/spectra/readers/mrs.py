"""LAMOST medium-resolution (MRS) files: the red arm, co-added and of each exposure."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card, fact_int, fact_number
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names, is_table_hdu
from stargap.spectra.readers.lamost import lamost_facts
from stargap.spectra.readers.plain import HDU, HDUs
from stargap.spectra.readers.table import bits, column
from stargap.spectra.resolution import INSTRUMENTS

__all__ = ["count_mrs", "is_mrs", "parse_mrs"]

_HDU = re.compile(r"COADD_[BR]|[BR]-\d+")
_RED = re.compile(r"COADD_R|R-\d+")
_POWER = INSTRUMENTS["lamost-mrs"]
_MASKS = ("PIXMASK", "ANDMASK", "AND_MASK")
"""Columns of bits that are not 0 where a pixel must not be used, best first."""


def is_mrs(hdul: HDUs, path: str | Path) -> bool:
    """Whether this is a medium-resolution (MRS) file: named ``med-*``, or with HDUs COADD_B/_R, B-n, R-n.

    Example:
        >>> is_mrs([], "med-58625-HD145243N141241V01_sp01-001.fits.gz")
        True
    """
    return Path(path).name.startswith("med-") or any(_HDU.fullmatch(hdu.name) for hdu in hdul)


def count_mrs(hdul: HDUs) -> int:
    """Return how many spectra of the red arm there are: the co-add, then each exposure."""
    return len(_red(hdul))


def parse_mrs(hdul: HDUs, path: str | Path, place: int) -> Content:
    """Read one spectrum of the red arm (6300-6800 A, R = 7500): a table of a row, or of a row per pixel.

    Wavelengths are vacuum, heliocentric, in WAVELENGTH or LOGLAM. A pixel of an exposure is bad where PIXMASK is not 0,
    one of a co-add where its and-mask is not. The layout is ``mrs``: the noise factor and the velocity floor of
    LAMOST's low-resolution spectra are not known to hold. ``lmjd`` of an exposure is the day of the minute in its name.

    Source: www.lamost.org, mr-data-production-description of DR7 and DR9.

    Raises:
        SpectrumError: the file has no red arm, or columns are missing.
    """
    hdus = _red(hdul)
    if not hdus:
        raise SpectrumError(path, "a medium-resolution (MRS) file without a spectrum of the red arm")
    hdu = hdus[place]
    names = column_names(hdu)
    axis = next((name for name in ("WAVELENGTH", "LOGLAM") if name in names), None)
    for name in ("FLUX", "IVAR"):
        if name not in names:
            raise SpectrumError(path, f"no {name} column in {hdu.name}")
    if axis is None:
        raise SpectrumError(path, f"no WAVELENGTH or LOGLAM column in {hdu.name}")
    flux, ivar = column(hdu, "FLUX", path), column(hdu, "IVAR", path)
    mask = next((name for name in _MASKS if name in names), None)
    bad = None if mask is None else bits(hdu, mask, path) != 0
    facts = replace(lamost_facts(hdul[0].header, path, "mrs"), snr_source=None)
    if hdu.name.startswith("R-"):
        minute = fact_int(hdu.name[2:])
        facts = replace(facts, lmjd=None if minute is None else minute // 1440, exposure=_exposure(hdu))
    return Content(column(hdu, axis, path, logarithm=axis == "LOGLAM"), flux, ivar, bad, facts, _POWER)


def _red(hdul: HDUs) -> list[HDU]:
    tables = [hdu for hdu in hdul if _RED.fullmatch(hdu.name) and is_table_hdu(hdu)]
    return sorted((hdu for hdu in tables if hdu.header["NAXIS2"]), key=_order)


def _order(hdu: HDU) -> tuple[bool, str]:
    return hdu.name != "COADD_R", hdu.name


def _exposure(hdu: HDU) -> Any:
    return fact_number(card(hdu.header, "EXPTIME"))
