"""Equivalent width of H-alpha and chromospheric activity (paper section 4.4; West et al. 2004, 2011)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stargap.measurement.bands import band_mean
from stargap.pixels import air_to_vacuum
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["ACTIVE_WIDTH", "HALPHA", "Halpha", "measure_halpha"]

HALPHA = air_to_vacuum(6562.801)
"""6564.61 A, vacuum."""
HALF_WIDTH = 7.0
SIDE = (9.61, 19.61)
"""Continuum windows, distances from the line (A): 6545.00-6555.00 and 6574.22-6584.22 A in vacuum."""
ACTIVE_WIDTH = 0.75


class Halpha(NamedTuple):
    """Equivalent width (A, emission positive), its error, and activity by two rules: 1, 0, or -1 where unknown."""

    width: Tensor
    error: Tensor
    active: Tensor
    active_3sigma: Tensor


def measure_halpha(native: NativeBatch, rv: Tensor, *, noise_factor: Tensor | float = 1.0) -> Halpha:
    """Measure EW = -int (1 - F / F_cont) dl over 14 A centred on H-alpha, all on native pixels.

    F_cont is the straight line through the mean fluxes of two 10 A windows, one each side; below 3 sigma it gives
    nulls, and so does a missing pixel of the line. ``active`` is the paper's rule, EW > 0.75 A; ``active_3sigma`` asks
    for EW - 3 sigma > 0.75 A, since at S/N 5 sigma is about 0.9 A.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``; NaN gives nulls.
        noise_factor: how much larger the noise is than the inverse variance says.

    Example:
        >>> flat = NativeBatch(torch.ones(1, 1891), torch.full((1, 1891), 1e4), torch.ones(1), torch.zeros(1))
        >>> line = measure_halpha(flat, torch.zeros(1))
        >>> abs(line.width.item()) < 1e-9, int(line.active)
        (True, 0)
    """
    line = band_mean(native, rv, HALPHA - HALF_WIDTH, HALPHA + HALF_WIDTH, most_missing=0.02)
    blue = band_mean(native, rv, HALPHA - SIDE[1], HALPHA - SIDE[0])
    red = band_mean(native, rv, HALPHA + SIDE[0], HALPHA + SIDE[1])
    level = (blue.mean + red.mean) / 2
    level = torch.where(level > 3 * (blue.variance + red.variance).sqrt() / 2, level, torch.nan)
    ratio = line.mean / level
    width = 2 * HALF_WIDTH * (ratio - 1)
    variance = (line.variance + ratio.square() * (blue.variance + red.variance) / 4) / level.square()
    error = 2 * HALF_WIDTH * variance.sqrt() * noise_factor
    unknown = torch.isnan(width)
    active = torch.where(unknown, -1, (width > ACTIVE_WIDTH).long())
    certain = torch.where(unknown, -1, (width - 3 * error > ACTIVE_WIDTH).long())
    return Halpha(width, error, active, certain)
