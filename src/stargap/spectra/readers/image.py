"""Spectra as FITS images of one dimension, whose pixels' wavelengths are in the world coordinates of the header."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card, fact_angle, fact_number, fact_text
from stargap.spectra.readers.columns import inverse_variance
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import is_image_hdu
from stargap.spectra.readers.plain import HDUs, Header
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Facts
from stargap.spectra.units import Logarithmic, attach_unit

__all__ = ["is_image", "parse_image"]

_ERROR = re.compile(r"(.*_)?(ERR|ERROR|ERRORS|SIGMA|UNCERT|STDEV|NOISE|SIG)(_.*)?")
_IVAR = re.compile(r"(.*_)?(IVAR|INVVAR)(_.*)?")


def is_image(hdul: HDUs) -> bool:
    """Whether HDU 0, or the first HDU with data, is an image of one dimension with CRVAL1 and a step.

    Axes of length 1 do not count; of IRAF's several bands (BANDID1 ...) the first is the spectrum.
    """
    hdu = _spectrum(hdul)
    return hdu is not None and "CRVAL1" in hdu.header and _step(hdu.header) is not None


def parse_image(hdul: HDUs, path: str | Path, read: ReadSettings) -> Content:
    """Read an image of one dimension: linear wavelengths, natural (WAVE-LOG) or decimal (DC-FLAG = 1) logarithms.

    With pixel i counted from 1, x = CRVAL1 + CDELT1 (i - CRPIX1), or CD1_1 in place of CDELT1. CTYPE1 WAVE-LOG means
    CRVAL1 exp(CDELT1 (i - CRPIX1) / CRVAL1) (Greisen et al. 2006, A&A 446, 747, section 3.2); DC-FLAG = 1, or a start
    below 10 without a unit that forbids it, means 10**x. Errors are those of an HDU of the same length that is named
    IVAR, ERROR, SIGMA or their like, or of IRAF's band whose BANDID says sigma.

    Raises:
        SpectrumError: a unit that is not understood, or no errors and no S/N.
    """
    hdu = _spectrum(hdul)
    assert hdu is not None
    header = hdu.header
    bands = np.asarray(hdu.data, dtype=float).reshape(-1, header["NAXIS1"])
    try:
        flux = attach_unit(bands[0], fact_text(card(header, "BUNIT")))
        wavelength = _wavelength(header)
    except ValueError as error:
        raise SpectrumError(path, str(error)) from None
    errors, ivar = _errors(hdul, hdu, bands)
    weights = inverse_variance(bands[0], errors, ivar, read, path)
    if hasattr(flux, "unit"):
        weights = weights * flux.unit**-2
    return Content(wavelength, flux, weights, None, _facts(header, path))


def _spectrum(hdul: HDUs) -> Any:
    images = [hdu for hdu in hdul if is_image_hdu(hdu) and hdu.header["NAXIS"]]
    if not images:
        return None
    header = images[0].header
    others = [header[f"NAXIS{axis}"] for axis in range(2, header["NAXIS"] + 1)]
    return images[0] if all(length == 1 for length in others) or "BANDID1" in header else None


def _step(header: Header) -> float | None:
    values = (fact_number(card(header, key)) for key in ("CDELT1", "CD1_1"))
    return next((value for value in values if value), None)


def _wavelength(header: Header) -> Any:
    start, step = fact_number(card(header, "CRVAL1")), _step(header)
    if start is None or step is None:
        message = "CRVAL1 or the step of the wavelengths is no number"
        raise ValueError(message)
    reference = fact_number(card(header, "CRPIX1"))
    place = 1 + np.arange(header["NAXIS1"]) - (1.0 if reference is None else reference)
    unit, kind = fact_text(card(header, "CUNIT1")), str(card(header, "CTYPE1") or "").strip().upper()
    if kind.endswith("-LOG"):
        return attach_unit(start * np.exp(step * place / start), unit)
    axis: NDArray[np.float64] = start + step * place
    if fact_number(card(header, "DC-FLAG")) == 1 or (start < 10 and unit in (None, "Angstrom", "LOG10")):
        return Logarithmic(axis)
    return attach_unit(axis, unit)


def _errors(hdul: HDUs, own: Any, bands: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return standard deviations and inverse variances, None for what the file does not have."""
    for number in range(1, len(bands)):
        if "SIGMA" in str(card(own.header, f"BANDID{number + 1}")).upper():
            return bands[number], None
    size = own.header["NAXIS1"]
    for hdu in hdul:
        if hdu is own or not is_image_hdu(hdu) or hdu.header["NAXIS"] == 0:
            continue
        if hdu.size and np.size(hdu.data) == size:
            if _IVAR.fullmatch(hdu.name):
                return None, np.asarray(hdu.data, dtype=float).ravel()
            if _ERROR.fullmatch(hdu.name):
                return np.asarray(hdu.data, dtype=float).ravel(), None
    return None, None


def _facts(header: Header, path: str | Path) -> Facts:
    return Facts(
        path=str(path),
        layout="image",
        designation=fact_text(card(header, "OBJECT")),
        ra=fact_angle(card(header, "RA"), 0, 360),
        dec=fact_angle(card(header, "DEC"), -90, 90),
        date_obs=fact_text(card(header, "DATE-OBS")),
        exposure=fact_number(card(header, "EXPTIME")),
    )
