"""One entrance for spectrum files: opens, tells the survey by structure, and returns a checked Spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.fitsfile import column_names, open_fits
from stargap.spectra.readers.lamost import is_medium_resolution, parse_lamost
from stargap.spectra.readers.sdss import parse_sdss
from stargap.spectra.spectrum import Spectrum

__all__ = ["read_spectrum"]

_LAMOST_COLUMNS = {"FLUX", "IVAR", "WAVELENGTH"}


def read_spectrum(path: str | Path) -> Spectrum:
    """Read one spectrum file: LAMOST LRS of any release or SDSS ``spec``, plain or gzip.

    Layout and compression are told by content, never by the name. The arrays are ``(pixel,)`` copies in
    native float64: wavelength in A (vacuum, heliocentric, strictly increasing), flux in the file's units
    (finite), ivar in 1/flux^2 (0 at every pixel that must not be used). No file stays open.

    Raises:
        SpectrumError: the file cannot be used, and why; nothing else is raised whatever the file holds.

    Example:
        >>> from stargap.errors import SpectrumError
        >>> try:
        ...     read_spectrum("no-such-file.fits")
        ... except SpectrumError as error:
        ...     print(error)
        no-such-file.fits: the file does not exist
    """
    try:
        with np.errstate(all="ignore"), open_fits(path) as hdul:
            return _parse(hdul, path)
    except SpectrumError:
        raise
    except Exception as error:
        raise SpectrumError(path, f"damaged content ({type(error).__name__})") from error


def _parse(hdul: fits.HDUList, path: str | Path) -> Spectrum:
    if is_medium_resolution(hdul, path):
        reason = "a medium-resolution (MRS) file: stargap reads low-resolution spectra"
        raise SpectrumError(path, reason)
    tables = [column_names(hdu) for hdu in hdul]
    if any("LOGLAM" in columns and columns & _LAMOST_COLUMNS for columns in tables):
        return parse_sdss(hdul, path)
    if hdul[0].header["NAXIS"] == 2 or any(len(columns & _LAMOST_COLUMNS) > 1 for columns in tables):
        return parse_lamost(hdul, path)
    raise SpectrumError(path, f"no LAMOST or SDSS spectrum in it ({_describe(hdul)})")


def _describe(hdul: fits.HDUList) -> str:
    kinds = ["a table" if isinstance(hdu, fits.BinTableHDU) else f"{hdu.header['NAXIS']}-D data" for hdu in hdul[:4]]
    return "HDUs hold " + ", ".join(kinds) + (" ..." if len(hdul) > 4 else "")
