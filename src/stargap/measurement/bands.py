"""Mean fluxes of wavelength bands on native pixels, with errors and missing fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stargap.arrays import PerStar
from stargap.devices import per_device
from stargap.pixels import BLUE_WAVELENGTH, LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["Band", "band_mean", "band_ratio", "line_width", "mean_of"]

MOST_MISSING = 0.2
"""Fraction of a band that may be missing."""
LEAST_REFERENCE = 3.0
"""A reference flux below this many standard errors gives no ratio."""

REACH = 0.0036
"""By how much of its wavelength a band can be moved: 1,000 km/s and a pixel."""


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
    part = _part(native, rv, low, high)
    total = part.used.sum(dim=1)
    enough = total >= (1 - most_missing) * (high - low)
    share = part.used / total.clamp_min(1e-9)[:, None]
    mean = (share * part.flux).sum(dim=1)
    variance = (share.square() * part.variance).sum(dim=1)
    return Band(torch.where(enough, mean, torch.nan), torch.where(enough, variance, torch.nan))


class _Part(NamedTuple):
    """Native pixels near a band, ``(star, near)`` float64: the width of each inside the band and good (A, rest frame),
    its wavelength (A, rest frame), flux and variance (0 where it is not good)."""

    used: Tensor
    wavelength: Tensor
    flux: Tensor
    variance: Tensor


@per_device
def _near(low: float, high: float) -> tuple[slice, slice, Tensor]:
    """Return the blue and the native pixels that a band can reach at 1,000 km/s, and their wavelengths (A)."""
    both = (BLUE_WAVELENGTH, LOG_LAMBDA.wavelength)
    blue, native = (slice(*np.searchsorted(wave, ((1 - REACH) * low, (1 + REACH) * high)).tolist()) for wave in both)
    return blue, native, torch.as_tensor(np.concatenate([both[0][blue], both[1][native]]))


def _part(native: NativeBatch, rv: PerStar, low: float, high: float) -> _Part:
    doppler = 1.0 + rv.double()[:, None] / SPEED_OF_LIGHT
    blue, near, wavelength = _near(low, high)
    centre = wavelength / doppler
    inside = torch.clamp(centre * LOG_LAMBDA.ratio, max=high) - torch.clamp(centre / LOG_LAMBDA.ratio, min=low)
    ivar = torch.cat([native.blue_ivar[:, blue], native.ivar[:, near]], dim=1).double()
    good = ivar > 0
    return _Part(
        torch.where(good, inside.clamp_min(0.0), 0.0),
        centre,
        torch.cat([native.blue_flux[:, blue], native.flux[:, near]], dim=1).double(),
        torch.where(good, 1.0 / ivar.clamp_min(1e-10), 0.0),
    )


def mean_of(bands: Sequence[Band]) -> Band:
    """Return the mean of the means of several bands without common pixels, each of which counts equally.

    Example:
        >>> one, two = (Band(torch.tensor([mean]), torch.tensor([0.01])) for mean in (1.0, 2.0))
        >>> mean_of([one, two])
        Band(mean=tensor([1.5000]), variance=tensor([0.0050]))
    """
    mean = torch.stack([band.mean for band in bands]).mean(dim=0)
    return Band(mean, torch.stack([band.variance for band in bands]).sum(dim=0) / len(bands) ** 2)


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


def line_width(
    native: NativeBatch,
    rv: PerStar,
    line: tuple[float, float],
    sides: Sequence[tuple[float, float]],
    *,
    most_missing: float = MOST_MISSING,
) -> Band:
    r"""Return the equivalent width of a line (A, positive in absorption) and its variance.

    .. math:: EW = \int (1 - F / F_{cont}) d\lambda

    over the line, where F_cont is the straight line through the mean fluxes of the bands beside it (with more than two,
    the one of least squares, in which bands count by their widths). NaN where too much of a band is missing, or where
    F_cont at the line is below 3 sigma.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``.
        line: first and last wavelength (A, vacuum, rest frame).
        sides: the same of each continuum band.
        most_missing: fraction of the line that may be missing; of continuum bands it is a fifth.

    Example:
        >>> flat = NativeBatch(torch.full((1, 1891), 2.0), torch.ones(1, 1891), torch.ones(1), torch.zeros(1))
        >>> width = line_width(flat, torch.zeros(1), (7000.0, 7010.0), [(6980.0, 6990.0), (7020.0, 7030.0)])
        >>> abs(width.mean.item()) < 1e-9, round(width.variance.sqrt().item(), 1)
        (True, 2.4)
    """
    means = [band_mean(native, rv, *side) for side in sides]
    level = torch.stack([side.mean for side in means], dim=1)
    variance = torch.stack([side.variance for side in means], dim=1)
    share = torch.tensor([high - low for low, high in sides], dtype=torch.float64)
    share = share / share.sum()
    place = torch.tensor([(low + high) / 2 for low, high in sides], dtype=torch.float64)
    middle = (share * place).sum()
    lever = share * (place - middle) / (share * (place - middle).square()).sum()

    part = _part(native, rv, *line)
    away = part.wavelength - middle
    continuum = (level @ share)[:, None] + (level @ lever)[:, None] * away
    at_line = share + ((line[0] + line[1]) / 2 - middle) * lever
    clear = level @ at_line > LEAST_REFERENCE * (variance @ at_line.square()).sqrt()
    enough = part.used.sum(dim=1) >= (1 - most_missing) * (line[1] - line[0])
    weight = part.used / continuum
    ratio = part.flux / continuum
    by_level = weight * ratio
    slope = by_level.sum(dim=1)[:, None] * share + (by_level * away).sum(dim=1)[:, None] * lever
    total = (weight.square() * part.variance).sum(dim=1) + (slope.square() * variance).sum(dim=1)
    width = (part.used * (1 - ratio)).sum(dim=1)
    known = clear & enough
    return Band(torch.where(known, width, torch.nan), torch.where(known, total, torch.nan))
