"""The images of LAMOST DR1 and of DR2-DR8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card, fact_number, fact_text
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.lamost import lamost_facts
from stargap.spectra.readers.plain import HDUs
from stargap.spectra.units import attach_unit

__all__ = ["is_lamost_image", "parse_lamost_image"]

_ROWS = 5


def is_lamost_image(hdul: HDUs) -> bool:
    """Whether HDU 0 is an image."""
    return bool(hdul[0].header["NAXIS"] == 2)


def parse_lamost_image(hdul: HDUs, path: str | Path) -> Content:
    """Read the image of a low-resolution file; its layout is recognised by structure, never by name or DATA_V.

    * ``lamost-dr1``: rows flux, ivar, subcontinuum, andmask, ormask; wavelengths are ``10**(COEFF0 + COEFF1 * i)``.
    * ``lamost-image``: rows flux, ivar, wavelength, andmask, ormask. The third row distinguishes the two: here it holds
      wavelengths (2000-20000 A), where a subcontinuum is about 1.

    A pixel with any bit of the andmask (bad in every exposure) is bad. The ormask (bad in at least one exposure) is not
    used: the ivar of the co-add already reflects what was left out.

    Raises:
        SpectrumError: the image is not of such a spectrum, or rows are missing.
    """
    header = hdul[0].header
    if header["NAXIS2"] != _ROWS:
        raise SpectrumError(path, "the image does not have the 5 rows of a LAMOST spectrum")
    if str(card(header, "TELESCOP")).startswith("SDSS"):
        raise SpectrumError(path, "an SDSS spSpec image: stargap reads spec-PLATE-MJD-FIBER files")
    if hdul[0].data is None:
        raise SpectrumError(path, "the spectrum has no pixels")
    flux, ivar, third, andmask, _ = hdul[0].data
    layout, wavelength = "lamost-image", third
    if not np.mean((third > 2000) & (third < 20000)) > 0.9:
        start, step = (fact_number(card(header, key)) for key in ("COEFF0", "COEFF1"))
        if "WAVELENGTH" in str(card(header, "EXTEN0")).upper() or start is None or step is None:
            raise SpectrumError(path, "no wavelength row, nor COEFF0 and COEFF1 in its place")
        layout, wavelength = "lamost-dr1", 10.0 ** (start + step * np.arange(flux.size))
    try:
        wavelength = attach_unit(wavelength, fact_text(card(header, "CUNIT1")))
        flux = attach_unit(flux, fact_text(card(header, "BUNIT")))
    except ValueError as error:
        raise SpectrumError(path, str(error)) from None
    return Content(wavelength, flux, ivar, andmask != 0, lamost_facts(header, path, layout))
