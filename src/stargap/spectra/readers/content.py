"""What every reader checks once the arrays are out of the file: facts, wavelengths, bad pixels, S/N."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import SpectrumError
from stargap.spectra.readers.fitsfile import Value
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = [
    "BANDS",
    "REQUIRED_RANGE",
    "check_spectrum",
    "fact_angle",
    "fact_int",
    "fact_number",
    "fact_text",
    "facts_with_snr",
    "snr_by_band",
]

BANDS = {
    "u": (3700.0, 3850.0),
    "g": (3900.0, 5500.0),
    "r": (5500.0, 6900.0),
    "i": (6900.0, 8200.0),
    "z": (8200.0, 9090.0),
}
"""Wavelengths (A) over which S/N is taken: it agrees within 1 % with the S/N cards of LAMOST DR2-DR10."""

REQUIRED_RANGE = (6000.0, 8900.0)
"""Wavelengths (A) of which a spectrum must cover at least half."""

_NUMBER_SENTINELS = (-9999.0, -999.0)
_TEXT_SENTINELS = ("", "NULL", "-9999", "-9999.0", "-999")


def fact_text(value: Value) -> str | None:
    """Return a header value as stripped text, None for a sentinel (blank, NULL, -9999, -999) or a logical.

    Example:
        >>> fact_text(" dM2 "), fact_text("NULL"), fact_text(4055)
        ('dM2', None, '4055')
    """
    if not isinstance(value, str) and fact_number(value) is None:
        return None
    text = str(value).strip()
    return None if text.upper() in _TEXT_SENTINELS else text


def fact_number(value: Value) -> float | None:
    """Return a header value as a float, None where it is no finite number or a sentinel.

    Example:
        >>> fact_number("37.5"), fact_number(-9999), fact_number("NULL"), fact_number(True)
        (37.5, None, None, None)
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number not in _NUMBER_SENTINELS else None


def fact_int(value: Value, *, least: int = -(2**63)) -> int | None:
    """Return a header value as an int64, None where it is no whole number, a sentinel or below `least`.

    Example:
        >>> fact_int(101001), fact_int("126"), fact_int(-9999), fact_int(1.5), fact_int(-1, least=0)
        (101001, 126, None, None, None)
    """
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        value = int(value)
    number = fact_number(value)
    if number is None or number != math.floor(number):
        return None
    whole = value if isinstance(value, int) else int(number)
    return whole if least <= whole < 2**63 else None


def fact_angle(value: Value, low: float, high: float) -> float | None:
    """Return a coordinate (deg), None where it is missing, a sentinel or outside ``low..high``.

    Example:
        >>> fact_angle(332.2, 0, 360), fact_angle(-2000.0, -90, 90)
        (332.2, None)
    """
    number = fact_number(value)
    return number if number is not None and low <= number <= high else None


def snr_by_band(
    wavelength: NDArray[np.float64], flux: NDArray[np.float64], ivar: NDArray[np.float64]
) -> dict[str, float | None]:
    """Return the median of ``flux * sqrt(ivar)`` over the good pixels of each band of ``BANDS``.

    Args:
        wavelength: ``(pixel,)``, A.
        flux: ``(pixel,)``, finite.
        ivar: ``(pixel,)``, 0 at bad pixels.

    Returns:
        ``snr_u`` .. ``snr_z``, None for a band without a good pixel.

    Example:
        >>> grid = np.arange(5000.0, 9000.0)
        >>> snr_by_band(grid, 10 * np.ones(4000), np.ones(4000))
        {'snr_u': None, 'snr_g': 10.0, 'snr_r': 10.0, 'snr_i': 10.0, 'snr_z': 10.0}
    """
    values: dict[str, float | None] = {}
    for band, (low, high) in BANDS.items():
        here = (wavelength >= low) & (wavelength < high) & (ivar > 0)
        values[f"snr_{band}"] = float(np.median(flux[here] * np.sqrt(ivar[here]))) if here.any() else None
    return values


def facts_with_snr(spectrum: Spectrum) -> Facts:
    """Return the facts of a spectrum, with S/N from its ivar where nothing else gave it.

    Example:
        >>> grid = np.arange(6000.0, 9000.0)
        >>> facts = facts_with_snr(Spectrum(grid, 10 * np.ones(3000), np.ones(3000)))
        >>> facts.snr_r, facts.snr_source
        (10.0, 'ivar')
    """
    facts = spectrum.facts
    if facts.snr_source is not None:
        return facts
    snr: dict[str, Any] = snr_by_band(spectrum.wavelength, spectrum.flux, spectrum.ivar)
    return replace(facts, snr_source="ivar", **snr)


def check_spectrum(
    path: str | Path,
    wavelength: ArrayLike,
    flux: ArrayLike,
    ivar: ArrayLike,
    killed: ArrayLike,
    facts: Facts,
) -> Spectrum:
    """Check the arrays of a file and fold every bad pixel into ``ivar``.

    A pixel is bad, with ``ivar`` 0, where it is killed, where ivar is not positive and finite, and where flux
    is not finite (such flux becomes 0). A spectrum without one good pixel is still returned.
    Wavelengths in another order are sorted with their pixels, which loses nothing. Repeated wavelengths are
    refused: no co-add has them, and nothing tells which of two pixels is right.

    Args:
        path: for the error.
        wavelength: ``(pixel,)``, A, vacuum, any order.
        flux: ``(pixel,)``.
        ivar: ``(pixel,)``.
        killed: ``(pixel,)``, true where a mask says that the pixel must not be used.
        facts: passed on.

    Raises:
        SpectrumError: no pixels, unequal lengths, or wavelengths that are not finite and positive, repeat, or
            reach over less than half of 6000-8900 A.
    """
    with np.errstate(invalid="ignore"):
        arrays = [np.array(array, dtype=np.float64).ravel() for array in (wavelength, flux, ivar)]
    wave, values, weights = arrays
    dead = np.array(killed, dtype=bool).ravel()
    if len({wave.size, values.size, weights.size, dead.size}) > 1:
        raise SpectrumError(path, "flux, ivar, wavelength and mask differ in length")
    if wave.size == 0:
        raise SpectrumError(path, "the spectrum has no pixels")
    if not (np.isfinite(wave).all() and (wave > 0).all()):
        raise SpectrumError(path, "wavelengths are not finite and positive")
    if not (np.diff(wave) > 0).all():
        order = np.argsort(wave, kind="stable")
        wave, values, weights, dead = wave[order], values[order], weights[order], dead[order]
        if not (np.diff(wave) > 0).all():
            raise SpectrumError(path, "wavelengths repeat")
    low, high = REQUIRED_RANGE
    if min(wave[-1], high) - max(wave[0], low) < (high - low) / 2:
        raise SpectrumError(path, "covers less than half of 6000-8900 A")
    finite = np.isfinite(values)
    dead |= ~(finite & np.isfinite(weights) & (weights > 0))
    return Spectrum(wave, np.where(finite, values, 0.0), np.where(dead, 0.0, weights), facts)
