"""One entrance for spectrum files: opens them, recognises the layout by structure, and returns a checked Spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.content import Content, check_spectrum, facts_with_snr
from stargap.spectra.readers.fitsfile import open_fits
from stargap.spectra.readers.lamost import is_medium_resolution
from stargap.spectra.readers.lamost_image import is_lamost_image, parse_lamost_image
from stargap.spectra.readers.sdss import is_sdss, is_sdss_mwm, parse_sdss
from stargap.spectra.readers.statements import check_statements
from stargap.spectra.readers.table import is_table, parse_table
from stargap.spectra.spectrum import Spectrum

__all__ = ["read_spectrum"]

LAYOUTS: tuple[tuple[Callable[[fits.HDUList], bool], Callable[[fits.HDUList, str | Path], Content]], ...] = (
    (is_sdss, parse_sdss),
    (is_lamost_image, parse_lamost_image),
    (is_table, parse_table),
)
"""How each layout is recognised and read, most specific first: the first that recognises a file reads it."""

REFUSED: tuple[tuple[Callable[[fits.HDUList, str | Path], bool], str], ...] = (
    (is_medium_resolution, "a medium-resolution (MRS) file: stargap reads low-resolution spectra"),
    (is_sdss_mwm, "an SDSS-V mwmStar or mwmVisit file, which can be in the rest frame: stargap reads spec files"),
)
"""Files that look like spectra that can be read, and why they are refused."""


def read_spectrum(path: str | Path) -> Spectrum:
    """Read one spectrum file: LAMOST LRS of any release, SDSS ``spec``, or a table; plain or gzip.

    Layout and compression are recognised by content, never by the name. Units that the file states are honoured.

    Args:
        path: of the file.

    Returns:
        arrays ``(pixel,)`` in native float64: wavelength in A (vacuum, heliocentric, strictly increasing), flux in the
        file's units (finite), ivar in 1/flux^2 (0 at every pixel that must not be used), and the facts of the headers.
        No file stays open.

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
            spectrum = check_spectrum(_parse(hdul, path), path)
            return replace(spectrum, facts=facts_with_snr(spectrum))
    except SpectrumError:
        raise
    except Exception as error:
        raise SpectrumError(path, f"damaged content ({type(error).__name__})") from error


def _parse(hdul: fits.HDUList, path: str | Path) -> Content:
    for recognises, reason in REFUSED:
        if recognises(hdul, path):
            raise SpectrumError(path, reason)
    parse = next((parse for recognises, parse in LAYOUTS if recognises(hdul)), None)
    if parse is None:
        raise SpectrumError(path, f"no spectrum of a known layout in it ({_describe(hdul)})")
    check_statements((hdu.header for hdu in hdul), path)
    return parse(hdul, path)


def _describe(hdul: fits.HDUList) -> str:
    kinds = ["a table" if isinstance(hdu, fits.BinTableHDU) else f"{hdu.header['NAXIS']}-D data" for hdu in hdul[:4]]
    return "HDUs hold " + ", ".join(kinds) + (" ..." if len(hdul) > 4 else "")
