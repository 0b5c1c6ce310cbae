"""Tables with the columns FLUX, IVAR and WAVELENGTH: LAMOST DR9 and later, and tables of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names, table_column
from stargap.spectra.readers.lamost import lamost_facts
from stargap.spectra.readers.plain import HDU, HDUs
from stargap.spectra.spectrum import Facts
from stargap.spectra.units import attach_unit

__all__ = ["bits", "column", "has_ivar", "is_table", "parse_table"]

_COLUMNS = {"FLUX", "IVAR", "WAVELENGTH"}
_MASKS = {"ANDMASK", "ORMASK"}
_CARDS = ("OBSID", "DESIG", "PLANID", "SPID")


def is_table(hdul: HDUs) -> bool:
    """Whether a table has at least two of the columns."""
    return any(len(column_names(hdu) & _COLUMNS) > 1 for hdu in hdul)


def has_ivar(hdul: HDUs) -> bool:
    """Whether a table has the column IVAR."""
    return any("IVAR" in column_names(hdu) for hdu in hdul)


def parse_table(hdul: HDUs, path: str | Path) -> Content:
    """Read a table of one row, or of one row per pixel.

    * ``lamost-table``: a table of LAMOST DR9 and later, with ANDMASK and ORMASK or a primary header that is LAMOST's.
      A pixel with any bit of ANDMASK (bad in every exposure) is bad; ORMASK is not used.
    * ``table``: any other; nothing is taken from its headers, whose cards may have other meanings.

    Raises:
        SpectrumError: a column is missing, or the file holds more than one spectrum.
    """
    hdu = _table_of_spectrum([hdu for hdu in hdul if len(column_names(hdu) & _COLUMNS) > 1], path)
    columns, header = column_names(hdu), hdul[0].header
    for name, title in (("FLUX", "FLUX"), ("IVAR", "IVAR"), ("WAVELENGTH", "WAVELENGTH or LOGLAM")):
        if name not in columns:
            raise SpectrumError(path, f"no {title} column")
    wavelength, flux, ivar = (column(hdu, name, path) for name in ("WAVELENGTH", "FLUX", "IVAR"))
    if np.ndim(hdu.data["FLUX"]) > 1 and len(hdu.data) > 1:
        raise SpectrumError(path, "the table holds more than one spectrum")
    telescope = str(card(header, "TELESCOP")).upper()
    if not (columns & _MASKS or telescope.startswith("LAMOST") or any(key in header for key in _CARDS)):
        return Content(wavelength, flux, ivar, None, Facts(path=str(path), layout="table"))
    bad = bits(hdu, "ANDMASK", path) != 0
    return Content(wavelength, flux, ivar, bad, lamost_facts(header, path, "lamost-table"))


def _table_of_spectrum(tables: list[HDU], path: str | Path) -> HDU:
    """Return the one table that holds the spectrum: that named COADD, or else the only one that has rows.

    Raises:
        SpectrumError: several have.
    """
    coadds = [hdu for hdu in tables if hdu.name == "COADD" and hdu.header["NAXIS2"]]
    filled = coadds or [hdu for hdu in tables if hdu.header["NAXIS2"]] or tables[:1]
    if len(filled) > 1:
        names = ", ".join(hdu.name or "without a name" for hdu in filled[:3])
        raise SpectrumError(path, f"{len(filled)} tables hold spectra ({names} ...): which is meant is not clear")
    return filled[0]


def column(hdu: HDU, name: str, path: str | Path, *, logarithm: bool = False) -> Any:
    """Return a column of numbers with the unit that TUNIT states.

    Raises:
        SpectrumError: it holds no numbers, or its unit is not understood.
    """
    found = table_column(hdu, name)
    if found.format.lstrip("0123456789")[:1] not in set("BIJKED"):
        raise SpectrumError(path, f"the column {name} does not hold one number per pixel (TFORM {found.format})")
    try:
        return attach_unit(hdu.data[name], found.unit, logarithm=logarithm)
    except ValueError as error:
        raise SpectrumError(path, f"{name}: {error}") from None


def bits(hdu: HDU, name: str, path: str | Path) -> NDArray[np.int64]:
    """Return a column of bits, 0 everywhere where there is none."""
    if name not in column_names(hdu):
        return np.zeros(np.shape(hdu.data["FLUX"]), dtype=np.int64)
    return np.asarray(column(hdu, name, path)).astype(np.int64)
