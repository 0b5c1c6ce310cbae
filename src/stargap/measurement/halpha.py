"""Equivalent width of H-alpha and chromospheric activity (paper section 4.4; West et al. 2004, 2011)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from stargap.arrays import PerStar, StarFlags
from stargap.measurement.bands import Band, band_mean, band_ratio
from stargap.pixels import air_to_vacuum
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["ACTIVE_WIDTH", "HALPHA", "Halpha", "measure_halpha"]

HALPHA = air_to_vacuum(6562.801)
"""6564.61 A, vacuum."""
HALF_WIDTH = 7.0
"""Half the width of the window of the line (A)."""
SIDE = (9.61, 19.61)
"""Distances of the two continuum windows from the line (A): 6545.00-6555.00 and 6574.22-6584.22 A in vacuum."""
ACTIVE_WIDTH = 0.75
"""Equivalent width (A) above which a star is active."""
MOST_MISSING = 0.02
"""Fraction of the window of the line that may be missing: less than one pixel."""


class Halpha(NamedTuple):
    """Equivalent width (A, emission positive), its error, and activity by two rules: 1, 0, or -1 where unknown."""

    width: PerStar
    error: PerStar
    active: StarFlags
    active_3sigma: StarFlags


def measure_halpha(native: NativeBatch, rv: PerStar, *, noise_factor: PerStar | float = 1.0) -> Halpha:
    r"""Measure the equivalent width of H-alpha over 14 A centred on the line, on native pixels.

    .. math:: EW = -\int (1 - F / F_{cont}) d\lambda

    F_cont is the straight line through the mean fluxes of two 10 A windows, one each side; below 3 sigma it gives
    nulls, and so does a missing pixel of the line. ``active`` is the paper's rule, EW > 0.75 A; ``active_3sigma`` asks
    for EW - 3 sigma > 0.75 A, since at S/N 5 sigma is about 0.9 A.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``; NaN gives nulls.
        noise_factor: ratio of the noise to what the inverse variance says.

    Example:
        >>> flat = NativeBatch(torch.ones(1, 1891), torch.full((1, 1891), 1e4), torch.ones(1), torch.zeros(1))
        >>> line = measure_halpha(flat, torch.zeros(1))
        >>> abs(line.width.item()) < 1e-9, int(line.active)
        (True, 0)
    """
    line = band_mean(native, rv, HALPHA - HALF_WIDTH, HALPHA + HALF_WIDTH, most_missing=MOST_MISSING)
    blue = band_mean(native, rv, HALPHA - SIDE[1], HALPHA - SIDE[0])
    red = band_mean(native, rv, HALPHA + SIDE[0], HALPHA + SIDE[1])
    ratio = band_ratio(line, Band((blue.mean + red.mean) / 2, (blue.variance + red.variance) / 4))
    width = 2 * HALF_WIDTH * (ratio.mean - 1)
    error = 2 * HALF_WIDTH * ratio.variance.sqrt() * noise_factor
    unknown = torch.isnan(width)
    active = torch.where(unknown, -1, (width > ACTIVE_WIDTH).long())
    certain = torch.where(unknown, -1, (width - 3 * error > ACTIVE_WIDTH).long())
    return Halpha(width, error, active, certain)
