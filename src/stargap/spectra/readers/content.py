"""What every reader hands over, and what is checked of it: units, wavelengths, bad pixels, S/N."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import SpectrumError
from stargap.spectra.resolution import Power
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.units import plain_arrays

__all__ = ["BANDS", "LEAST_COVERED", "RANGE", "Content", "check_spectrum", "facts_with_snr", "snr_by_band"]

BANDS = {
    "u": (3700.0, 3850.0),
    "g": (3900.0, 5500.0),
    "r": (5500.0, 6900.0),
    "i": (6900.0, 8200.0),
    "z": (8200.0, 9090.0),
}
"""Wavelengths (A) over which S/N is taken: it agrees within 1 % with the S/N cards of LAMOST DR2-DR10."""

RANGE = (6000.0, 8900.0)
"""Wavelengths (A) that are measured."""
LEAST_COVERED = 450.0
"""Least length of that range (A) that a spectrum must cover: a little less than the red arm of LAMOST MRS."""


@dataclass(frozen=True, eq=False)
class Content:
    """A spectrum as it stands in a file or as a user gives it; `check_spectrum` makes a `Spectrum` of it.

    Args:
        wavelength: ``(pixel,)``, any order, A unless it has a unit; a `stargap.spectra.units.Logarithmic` gives log10.
        flux: ``(pixel,)``.
        ivar: ``(pixel,)``, inverse variances of the fluxes.
        bad: ``(pixel,)``, true where a mask of the survey says that the pixel must not be used; None for nowhere.
        facts: passed on.
        resolution: resolving power over wavelength (A); None for that of the models.
    """

    wavelength: Any
    flux: Any
    ivar: Any
    bad: ArrayLike | None = None
    facts: Facts = field(default_factory=Facts)
    resolution: Power | None = None


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
    """Return the facts of a spectrum, with S/N from its inverse variances where its file does not give it.

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


def check_spectrum(content: Content, path: str | Path) -> Spectrum:
    """Check the arrays of a spectrum and fold every bad pixel into ``ivar``.

    A pixel is bad, and gets an ``ivar`` of 0, where it is marked or masked as bad, where its inverse variance is not
    positive and finite, and where its flux is not finite (such a flux becomes 0). A spectrum without one good pixel is
    still returned. Units are honoured and masked wavelengths dropped (`stargap.spectra.units`). Wavelengths in another
    order are sorted with their pixels, which loses nothing. Repeated wavelengths are refused: no co-added spectrum has
    them, and nothing says which of two pixels is right.

    Args:
        content: arrays of equal length.
        path: named in the error.

    Raises:
        SpectrumError: no pixels, unequal lengths, units that do not fit, or wavelengths that are not finite and
            positive, repeat, or reach over less than 450 A of 6000-8900 A.

    Example:
        >>> grid = np.arange(6000.0, 9000.0)
        >>> spectrum = check_spectrum(Content(grid[::-1], np.ma.masked_less(grid, 6001.0), np.ones(3000)), "a.fits")
        >>> spectrum.wavelength[:2], spectrum.ivar[-2:]
        (array([6000., 6001.]), array([1., 0.]))
    """
    try:
        wave, values, weights, masked = plain_arrays(content.wavelength, content.flux, content.ivar)
    except (ValueError, TypeError) as error:
        raise SpectrumError(path, str(error)) from None
    wave, values, weights = wave.ravel(), values.ravel(), weights.ravel()
    bad = np.zeros(values.size, dtype=bool) if content.bad is None else np.array(content.bad, dtype=bool).ravel()
    if len({wave.size, values.size, weights.size, bad.size}) > 1:
        raise SpectrumError(path, "flux, ivar, wavelength and mask differ in length")
    bad |= masked.ravel()
    if wave.size == 0:
        raise SpectrumError(path, "the spectrum has no pixels")
    if not (np.isfinite(wave).all() and (wave > 0).all()):
        raise SpectrumError(path, "wavelengths are not finite and positive")
    if not (np.diff(wave) > 0).all():
        order = np.argsort(wave, kind="stable")
        wave, values, weights, bad = wave[order], values[order], weights[order], bad[order]
        if not (np.diff(wave) > 0).all():
            raise SpectrumError(path, "wavelengths repeat")
    low, high = RANGE
    if min(wave[-1], high) - max(wave[0], low) < LEAST_COVERED:
        raise SpectrumError(path, f"covers less than {LEAST_COVERED:.0f} A of 6000-8900 A")
    finite = np.isfinite(values)
    bad |= ~(finite & np.isfinite(weights) & (weights > 0))
    power = None if content.resolution is None else content.resolution(wave)
    return Spectrum(wave, np.where(finite, values, 0.0), np.where(bad, 0.0, weights), content.facts, power)
