"""Equivalent width of H-alpha and chromospheric activity (paper section 4.4; West et al. 2004, 2011)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from stargap.arrays import PerStar, StarFlags
from stargap.features import feature
from stargap.measurement.bands import band_mean, band_ratio, mean_of
from stargap.rows import BoolColumn, FloatColumn
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["ACTIVE_WIDTH", "CHI", "Halpha", "beyond_saturation", "halpha_luminosity", "measure_halpha"]

ACTIVE_WIDTH = 0.75
"""Equivalent width (A) above which a star is active."""
MOST_MISSING = 0.02
"""Fraction of the window of the line that may be missing: less than one pixel."""
CHI = (6.6453, 6.0334, 5.2658, 4.4872, 3.5926, 2.4768, 1.7365, 1.2057, 0.6122, 0.3522)
"""Continuum flux per A at H-alpha over bolometric flux, in 1e-5 / A, of M0 to M9 (Douglas et al. 2014, ApJ 795, 161, as
public code has these numbers)."""
CHI_SCATTER = (0.6207, 0.5326, 0.5963, 0.4967, 0.5297, 0.4860, 0.3475, 0.3267, 0.2053, 0.1432)
"""How much stars of one subtype differ in it, in the same unit."""

SATURATION = 10.0**-3.3
"""L(H-alpha) / L(bol) that chromospheres do not exceed (Barrado y Navascues & Martin 2003, AJ 126, 2997)."""


class Halpha(NamedTuple):
    """Equivalent width (A, emission positive), its error, the probability that the star is active, and activity by two
    rules: 1, 0, or -1 where unknown."""

    width: PerStar
    error: PerStar
    probability: PerStar
    active: StarFlags
    active_3sigma: StarFlags


def measure_halpha(native: NativeBatch, rv: PerStar, *, noise_factor: PerStar | float = 1.0) -> Halpha:
    r"""Measure the equivalent width of H-alpha over 14 A centred on the line, on native pixels.

    .. math:: EW = -\int (1 - F / F_{cont}) d\lambda

    F_cont is the straight line through the mean fluxes of two 10 A windows, one each side; below 3 sigma it gives
    nulls, and so does a missing pixel of the line. ``active`` is the paper's rule, EW > 0.75 A; ``active_3sigma`` asks
    for EW - 3 sigma > 0.75 A, since at S/N 5 sigma is about 0.9 A; ``probability`` is that of EW > 0.75 A given the
    measurement and its noise, without a prior.

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
    (low, high), sides = feature("halpha_ew").vacuum()
    line = band_mean(native, rv, low, high, most_missing=MOST_MISSING)
    ratio = band_ratio(line, mean_of([band_mean(native, rv, *side) for side in sides]))
    width = (high - low) * (ratio.mean - 1)
    error = (high - low) * ratio.variance.sqrt() * noise_factor
    unknown = torch.isnan(width)
    active = torch.where(unknown, -1, (width > ACTIVE_WIDTH).long())
    certain = torch.where(unknown, -1, (width - 3 * error > ACTIVE_WIDTH).long())
    probability = torch.special.ndtr((width - ACTIVE_WIDTH) / error)
    return Halpha(width, error, probability, active, certain)


def halpha_luminosity(width: FloatColumn, error: FloatColumn, spt: FloatColumn) -> tuple[FloatColumn, FloatColumn]:
    r"""Return L(H-alpha) / L(bol) = EW chi and its error, from the noise and the scatter of chi, ``(row,)`` each.

    chi is interpolated between the subtypes M0 to M9 of `CHI`; other stars get NaN. Nothing is taken off for the
    photosphere, which absorbs up to 0.6 A in early M dwarfs: inactive stars come out at or below 0.

    Args:
        width: equivalent widths (A, emission positive).
        error: their errors.
        spt: numeric subtypes.

    Example:
        >>> value, error = halpha_luminosity(np.array([2.0, 2.0]), np.array([0.1, 0.1]), np.array([3.0, -2.0]))
        >>> value.round(6), error.round(6)
        (array([9.e-05,    nan]), array([1.1e-05,    nan]))
    """
    known = (spt >= -0.5) & (spt < len(CHI) - 0.5)
    chi, scatter = (np.where(known, values, np.nan) for values in _chi(spt))
    return width * chi, np.hypot(error * chi, width * scatter)


def beyond_saturation(width: FloatColumn, error: FloatColumn, spt: FloatColumn) -> BoolColumn:
    """Return where H-alpha is stronger than chromospheres make it, by three errors: accretion, a flare, or a companion.

    The limit is L(H-alpha) / L(bol) = 10^-3.3 (Barrado y Navascues & Martin 2003), which is 8 A at M0, 11 A at M3 and
    20 A at M5; K dwarfs have that of M0.

    Args:
        width: equivalent widths (A, emission positive), ``(row,)``.
        error: their errors.
        spt: numeric subtypes.

    Example:
        >>> beyond_saturation(np.array([9.0, 9.0]), np.array([0.1, 0.1]), np.array([0.0, 4.0]))
        array([ True, False])
    """
    return np.asarray((width - 3 * error) * _chi(spt)[0] > SATURATION)


def _chi(spt: FloatColumn) -> tuple[FloatColumn, FloatColumn]:
    """Return chi and its scatter (1 / A) at a subtype; before M0 those of M0."""
    types = np.arange(len(CHI))
    return 1e-5 * np.interp(spt, types, CHI), 1e-5 * np.interp(spt, types, CHI_SCATTER)
