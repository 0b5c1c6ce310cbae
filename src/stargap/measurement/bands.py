"""Mean fluxes of wavelength bands on native pixels, with errors and missing fractions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stargap.arrays import PerStar
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["Band", "band_mean", "band_ratio"]

MOST_MISSING = 0.2
"""Fraction of a band that may be missing."""
LEAST_REFERENCE = 3.0
"""A reference flux below this many standard errors gives no ratio."""


@dataclass(frozen=True)
class Band:
    """Mean flux of a band for each star, with its variance; NaN where too much of the band is missing."""

    mean: PerStar
    variance: PerStar


def band_mean(native: NativeBatch, rv: PerStar, low: float, high: float, *, most_missing: float = MOST_MISSING) -> Band:
    """Average the flux over a band of the rest frame; pixels at its edges count by their fraction inside.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``.
        low: start of the band (A, vacuum, rest frame).
        high: its end.
        most_missing: fraction of the band that may be missing; rows with more are NaN.

    Example:
        >>> flat = NativeBatch(torch.full((1, 1891), 2.0), torch.ones(1, 1891), torch.ones(1), torch.zeros(1))
        >>> band_mean(flat, torch.zeros(1), 7000.0, 7010.0).mean
        tensor([2.], dtype=torch.float64)
    """
    doppler = 1.0 + rv.double()[:, None] / SPEED_OF_LIGHT
    wave = LOG_LAMBDA.wavelength
    near = slice(int((wave < 0.995 * low).sum()), int((wave < 1.005 * high).sum()))
    centre = torch.as_tensor(wave[near])
    left = torch.maximum(centre / LOG_LAMBDA.ratio, low * doppler)
    right = torch.minimum(centre * LOG_LAMBDA.ratio, high * doppler)
    inside = (right - left).clamp_min(0.0)
    ivar = native.ivar[:, near].double()
    used = torch.where(ivar > 0, inside, 0.0)
    total = used.sum(dim=1)
    enough = total >= (1 - most_missing) * (high - low) * doppler[:, 0]
    share = used / total.clamp_min(1e-9)[:, None]
    mean = (share * native.flux[:, near].double()).sum(dim=1)
    variance = torch.where(ivar > 0, share.square() / ivar.clamp_min(1e-10), 0.0).sum(dim=1)
    return Band(torch.where(enough, mean, torch.nan), torch.where(enough, variance, torch.nan))


def band_ratio(band: Band, reference: Band) -> Band:
    """Return the flux of a band over that of another, with its variance; NaN where the latter is below 3 sigma.

    Example:
        >>> one, two = (Band(torch.tensor([mean]), torch.tensor([0.01])) for mean in (1.0, 2.0))
        >>> band_ratio(one, two).mean
        tensor([0.5000])
    """
    level = torch.where(reference.mean > LEAST_REFERENCE * reference.variance.sqrt(), reference.mean, torch.nan)
    ratio = band.mean / level
    return Band(ratio, (band.variance + ratio.square() * reference.variance) / level.square())
