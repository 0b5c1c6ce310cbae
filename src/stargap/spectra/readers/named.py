"""FITS tables whose columns are not FLUX, IVAR and WAVELENGTH but have other usual names, or names a user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.columns import has_spectrum, inverse_variance, spectrum_columns
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.plain import HDU, HDUs, PlainHDU
from stargap.spectra.readers.table import column
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Facts

__all__ = ["is_named_table", "parse_named_table"]


def is_named_table(hdul: HDUs, *, errors: bool = False) -> bool:
    """Whether a table has columns of usual names for wavelength and flux, and for errors."""
    return any(has_spectrum(_names(hdu), errors=errors) for hdu in hdul)


def parse_named_table(hdul: HDUs, path: str | Path, read: ReadSettings) -> Content:
    """Read a table of one row, or of one row per pixel, by the names of its columns.

    Raises:
        SpectrumError: columns are missing, or the table holds more than one spectrum.
    """
    tables = [hdu for hdu in hdul if _names(hdu) and hdu.header["NAXIS2"]]
    if not tables:
        raise SpectrumError(path, "no table with rows in it")
    named = {name.lower() for name in read.columns.values()}
    having = [
        hdu for hdu in tables if (named <= {n.lower() for n in _names(hdu)} if named else has_spectrum(_names(hdu)))
    ]
    hdu = (having or tables)[0]
    found = spectrum_columns(_names(hdu), read, path)
    values: dict[str, Any] = {key: _flat(hdu, name, path) for key, name in found.items()}
    ivar = inverse_variance(values["flux"], values.get("error"), values.get("ivar"), read, path)
    return Content(values["wavelength"], values["flux"], ivar, None, Facts(path=str(path), layout="table"))


def _names(hdu: Any) -> list[str]:
    if isinstance(hdu, PlainHDU):
        return [column.name for column in (hdu.columns or {}).values()]
    return list(hdu.columns.names) if isinstance(hdu, fits.BinTableHDU) else []


def _flat(hdu: HDU, name: str, path: str | Path) -> Any:
    if np.ndim(hdu.data[name.upper()]) > 1 and len(hdu.data) > 1:
        raise SpectrumError(path, "the table holds more than one spectrum")
    values = column(hdu, name.upper(), path, logarithm=name.lower().startswith("log"))
    return values.ravel() if isinstance(values, np.ndarray) else values
