"""Scatter of repeated observations in bins of S/N, and the error models that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_PULL", "MAD_ERROR", "PIVOT", "Bins", "Curve", "Repeats", "Scale", "fit_curve", "fit_scale"]

_Floats = NDArray[np.float64]

LEAST_SHARE = 0.05
"""Least fraction of a spectrum's variance that its distance from the star's mean retains; the others do not count."""
LEAST_PULL = 1e-9
"""Scatter of pulls below which values of a star do not differ at all, such as at a bound of the fit."""
LEAST_IN_BIN = 10
LEAST_TO_BEND = 6
"""Bins below which the logarithm of a scale is linear in that of S/N."""
PIVOT = 20.0
"""S/N at which the scale of an error model is given."""
MAD_ERROR = 1.17
"""Standard error of the robust scatter of n normal numbers is this times it over sqrt(n)."""


class Curve(NamedTuple):
    """a / x + b at S/N x with standard errors; ``held``, which of them is 0 because the unbounded fit made it negative.

    A component at its bound has the error of the unbounded fit.
    """

    a: float
    b: float
    e_a: float
    e_b: float
    held: Literal["", "a", "b"]


class Scale(NamedTuple):
    """sqrt((k e_fit)^2 + floor^2), ln k = ln scale + slope u + bend u^2, u = ln(x / 20), at S/N x; standard errors.

    The error of what is held at 0 is None: a floor that the fit makes 0, and the bend below 6 bins.
    """

    scale: float
    e_scale: float
    slope: float
    e_slope: float
    bend: float
    e_bend: float | None
    floor: float
    e_floor: float | None


@dataclass(frozen=True, eq=False)
class Repeats:
    """Spectra of stars with two or more, each ``(row,)``; ``star`` counts from 0."""

    value: _Floats
    error: _Floats
    snr: _Floats
    star: NDArray[np.int64]

    def pulls(self, sigma: _Floats) -> tuple[_Floats, _Floats]:
        """Return distances from the star's mean over their errors, and the fraction of the variance that each retains.

        Both ``(row,)`` and right if sigma is; the pull is NaN where that part is too little.
        """
        weight = sigma**-2
        total = np.bincount(self.star, weight)
        mean = np.bincount(self.star, weight * self.value) / total
        left = 1.0 - weight / total[self.star]
        enough = left > LEAST_SHARE
        expected = sigma * np.sqrt(np.where(enough, left, np.nan))
        return (self.value - mean[self.star]) / expected, left


class Bins:
    """Bins of S/N with equal numbers of repeats; ``snr``, the median of each."""

    def __init__(self, data: Repeats, count: int) -> None:
        edges = np.quantile(data.snr, np.linspace(0, 1, count + 1))[1:-1]
        place = np.searchsorted(edges, data.snr, side="right")
        self.rows = [np.flatnonzero(place == number) for number in range(count)]
        self.rows = [rows for rows in self.rows if len(rows) >= LEAST_IN_BIN]
        self.snr = np.array([np.median(data.snr[rows]) for rows in self.rows])
        self.data = data

    def scatter(self, sigma: _Floats) -> tuple[_Floats, _Floats]:
        """Return robust scatter of pulls in each bin, and its relative error.

        A bin without informative spectra, because other spectra of their stars are far worse, has 1 and a huge error.
        """
        pull, left = self.data.pulls(sigma)
        spread, informed = np.ones(len(self.rows)), np.full(len(self.rows), 1e-6)
        for number, rows in enumerate(self.rows):
            informative = rows[np.isfinite(pull[rows])]
            if len(informative) >= LEAST_IN_BIN:
                spread[number] = 1.4826 * np.median(np.abs(pull[informative]))
                informed[number] = left[informative].sum()
        return np.maximum(spread, LEAST_PULL), MAD_ERROR / np.sqrt(informed)


def fit_curve(data: Repeats, bins: Bins) -> tuple[Curve, _Floats, _Floats]:
    """Return the curve, and the scatter of one spectrum at the bins' S/N with its relative error, each ``(bin,)``."""
    from scipy.optimize import lsq_linear

    lines, sigma, at_bins = np.stack([1.0 / bins.snr, np.ones_like(bins.snr)], axis=1), np.ones_like(data.snr), 1.0
    for _ in range(6):  # weights and the change of S/N within a bin follow from the curve itself
        pull, relative = bins.scatter(sigma)
        scatter = pull * at_bins
        weighted = lines / (scatter * relative)[:, None]
        found = lsq_linear(weighted, 1.0 / relative, bounds=(0.0, np.inf), method="bvls")
        a, b = found.x
        sigma, at_bins = a / data.snr + b, lines @ found.x
    e_a, e_b = np.sqrt(np.diag(np.linalg.pinv(weighted.T @ weighted)))
    held: Literal["", "a", "b"] = "a" if found.active_mask[0] else "b" if found.active_mask[1] else ""
    return Curve(float(a), float(b), float(e_a), float(e_b), held), scatter, relative


def fit_scale(data: Repeats, bins: Bins) -> Scale:
    """Return how errors of fits become those that make the scatter of pulls 1 in every bin."""
    from scipy.optimize import least_squares

    signal = np.log(data.snr / PIVOT)
    start = float(np.median(bins.scatter(data.error)[0]))
    usual = start * float(np.median(data.error))

    def calibrated(parameters: _Floats) -> _Floats:
        floor, *powers = parameters - 1.0  # so that steps of 2 % are coarser than the steps of a median
        scale = start * np.exp(np.polynomial.polynomial.polyval(signal, powers))
        return np.asarray(np.sqrt((scale * data.error) ** 2 + floor * usual**2))

    def residuals(parameters: _Floats) -> _Floats:
        pull, relative = bins.scatter(calibrated(parameters))
        return np.asarray(np.log(pull) / relative)

    bends = len(bins.rows) >= LEAST_TO_BEND
    low, high = [1.0, -np.inf, -1.0, 0.0], [np.inf, np.inf, 3.0, 2.0]
    size = 4 if bends else 3
    bounds = (low[:size], high[:size])
    best = least_squares(residuals, [1.1, 1.0, 1.0, 1.0][:size], bounds=bounds, x_scale=0.1, diff_step=0.02)
    floor, change, slope, bend = np.append(best.x - 1.0, np.zeros(4 - size))
    free = np.array([floor > 1e-3, True, True, bends])
    jacobian = best.jac[:, free[:size]]
    error = np.full(4, np.nan)
    error[free] = np.sqrt(np.diag(np.linalg.pinv(jacobian.T @ jacobian)))
    scale = start * float(np.exp(change))
    return Scale(
        scale=scale,
        e_scale=scale * float(error[1]),
        slope=float(slope),
        e_slope=float(error[2]),
        bend=float(bend),
        e_bend=float(error[3]) if bends else None,
        floor=float(np.sqrt(floor)) * usual if free[0] else 0.0,
        e_floor=float(error[0] / (2 * np.sqrt(floor))) * usual if free[0] else None,
    )
