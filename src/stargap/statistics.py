"""Ours against a reference: bias, scatter, outliers, slope and rank with their errors, trends, and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.rows import BoolColumn, FloatColumn, IntColumn

__all__ = [
    "Compared",
    "Statistics",
    "Trend",
    "clip",
    "compare",
    "mean_residual",
    "ranks",
    "robust_scatter",
    "statistics",
    "tailed_cost",
    "trend",
    "undiluted_slope",
]

CLIP_SIGMA = 3.0
MOST_ROUNDS = 20
"""Rounds of fitting and clipping in a trend."""
MOST_DRAWN = 10_000
"""Stars in a bootstrap sample; of more stars so many are drawn, and errors scaled by the root of the fraction."""


class Statistics(NamedTuple):
    """Six numbers that say how ours differs from a reference; delta = ours - reference.

    ``median`` of delta; ``scatter`` = ``1.4826 median |delta - median|``; ``clipped``, the standard deviation
    (divisor n - 1) after `clip`; ``slope`` of ours on the reference by ordinary least squares, which the
    reference's errors flatten; ``rank``, Spearman's correlation; ``outliers``, the fraction that `clip` leaves out
    (these three without unit). NaN where undefined.
    """

    median: float
    scatter: float
    clipped: float
    slope: float
    rank: float
    outliers: float


@dataclass(frozen=True)
class Compared:
    """What `compare` returns: ``n`` stars compared, ``dropped`` ones without a finite number on either side.

    ``errors`` are standard deviations of the same statistics over bootstrap samples, NaN below 3 stars.
    """

    n: int
    dropped: int
    values: Statistics
    errors: Statistics


class Trend(NamedTuple):
    """What `trend` returns: the slope and its error, in the unit of delta over that of the label; stars used."""

    slope: float
    error: float
    n: int


def compare(ours: ArrayLike, reference: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Compared:
    """Compare two measurements of the same stars (paper section 5); delta = ours - reference.

    Args:
        ours: ``(star,)``, any unit; NaN where there is none.
        reference: the same shape and unit.
        resamples: bootstrap samples of stars, drawn with replacement; of more than 10,000 stars so many are drawn
            each time, and the spread is scaled to all of them (m out of n).
        seed: of the bootstrap.

    Raises:
        UsageError: shapes that differ or are not one-dimensional.

    Example:
        >>> result = compare([3510.0, 3620.0, 3700.0, np.nan], [3500.0, 3600.0, 3700.0, 3800.0])
        >>> result.n, result.dropped, result.values.median, round(result.values.slope, 2), result.values.rank
        (3, 1, 10.0, 0.95, 1.0)
    """
    mine, other, finite = _finite_pair(ours, reference)
    mine, other = mine[finite], other[finite]
    count = len(mine)
    errors = Statistics(*[np.nan] * len(Statistics._fields))
    if count >= 3 and resamples >= 2:
        drawn, scale = _bootstrap(count, resamples, seed)
        first, second = _places(mine), _places(other)
        sample = np.array([_statistics(mine[d], other[d], first[d], second[d]) for d in drawn])
        errors = Statistics(*(scale * _spread(column[np.isfinite(column)]) for column in sample.T))
    return Compared(count, int((~finite).sum()), statistics(mine, other), errors)


def statistics(ours: FloatColumn, reference: FloatColumn) -> Statistics:
    """Return the six numbers of finite arrays ``(star,)``; see `Statistics`.

    Example:
        >>> statistics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
        Statistics(median=0.0, scatter=0.0, clipped=0.577..., slope=1.5, rank=1.0, outliers=0.0)
    """
    return _statistics(ours, reference, _places(ours), _places(reference))


def _statistics(ours: FloatColumn, reference: FloatColumn, place: IntColumn, reference_place: IntColumn) -> Statistics:
    """Return `statistics` of values whose order `_places` has found, among others perhaps."""
    if len(ours) == 0:
        return Statistics(*[np.nan] * len(Statistics._fields))
    delta = ours - reference
    kept = clip(delta)
    across, first, second = _centred(reference), _centred(_ranks(reference_place)), _centred(_ranks(place))
    slope = _ratio(float(across @ ours), float(across @ across))
    rank = _ratio(float(first @ second), float(np.sqrt((first @ first) * (second @ second))))
    outliers = 1.0 - float(kept.mean())
    return Statistics(float(np.median(delta)), robust_scatter(delta), _spread(delta[kept]), slope, rank, outliers)


def trend(label: ArrayLike, delta: ArrayLike, *, resamples: int = 200, seed: int = 0) -> Trend:
    """Return the slope of differences with a label: least squares, stars beyond 3 sigma of the line left out.

    Line and clip are repeated until the stars stay the same. The error is the standard deviation over bootstrap
    samples, as in `compare`: it allows for scatter that changes along the line, and for what the clip takes.

    A label that is part of the difference tilts it: errors of the reference make delta fall with the reference, and
    errors of ours make it rise with ours.

    Args:
        label: ``(star,)``, such as Teff in K; stars without a finite number in both are left out.
        delta: ``(star,)``, ours - reference.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        UsageError: shapes that differ or are not one-dimensional.

    Example:
        >>> round(trend([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.1]).slope, 2)
        2.03
    """
    x, y, finite = _finite_pair(label, delta)
    x, y = x[finite], y[finite]
    slope, used = _clipped_line(x, y)
    if not np.isfinite(slope) or resamples < 2:
        return Trend(slope, np.nan, used)
    drawn, scale = _bootstrap(len(x), resamples, seed)
    sample = np.array([_clipped_line(x[d], y[d])[0] for d in drawn])
    return Trend(slope, scale * _spread(sample[np.isfinite(sample)]), used)


def undiluted_slope(ours: ArrayLike, reference: ArrayLike, error: ArrayLike, *, weight: ArrayLike = 1.0) -> float:
    """Return the slope of ours on the true values behind a reference; NaN where they do not vary together.

    Errors of a reference flatten a plain regression on it (regression dilution), by as much as they are said to be
    large; here they are not needed. The reference is regressed on ours instead, whose variance is lessened by that of
    our errors, and the slope turned round: (var(ours) - mean(error^2)) / cov(ours, reference) (Fuller 1987,
    *Measurement Error Models*, section 1.2).

    Args:
        ours: ``(star,)``.
        reference: ``(star,)``, the same unit.
        error: standard errors of ours, ``(star,)`` or a number.
        weight: of each star, ``(star,)``.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> true = rng.normal(size=20_000)
        >>> ours, reference = 0.9 * true + rng.normal(0, 0.3, 20_000), true + rng.normal(0, 0.7, 20_000)
        >>> round(undiluted_slope(ours, reference, 0.3), 2), round(statistics(ours, reference).slope, 2)
        (0.9, 0.6)
    """
    mine, other = np.asarray(ours, dtype=float), np.asarray(reference, dtype=float)
    share = np.broadcast_to(np.asarray(weight, dtype=float), mine.shape) / np.sum(np.broadcast_to(weight, mine.shape))
    apart = mine - share @ mine
    variance = share @ apart**2 - share @ np.broadcast_to(np.asarray(error, dtype=float) ** 2, mine.shape)
    return _ratio(float(variance), float(share @ (apart * other)))


def robust_scatter(values: ArrayLike) -> float:
    """Return 1.4826 times the median distance of `values` ``(star,)`` from their median; NaN if empty.

    Example:
        >>> robust_scatter([1.0, 2.0, 3.0, 4.0, 100.0])
        1.4826
    """
    array = np.asarray(values, dtype=float)
    return 1.4826 * float(np.median(np.abs(array - np.median(array)))) if array.size else np.nan


def tailed_cost(delta: FloatColumn, variance: FloatColumn, share: float, width: float) -> float:
    """Return minus the logarithm of the likelihood of normal errors of which a share is several times as wide.

    Args:
        delta: errors.
        variance: of those that are not wide.
        share: of the wide ones.
        width: how many times as wide they are.

    Example:
        >>> round(tailed_cost(np.array([0.0, 1.0, 9.0]), np.ones(3), 0.05, 5.0), 2)
        6.8
    """
    square = delta**2 / variance
    normal, wide = np.log1p(-share) - square / 2, np.log(share / width) - square / (2 * width**2)
    return float((np.log(variance) / 2 - np.logaddexp(normal, wide)).sum())


def clip(values: ArrayLike) -> BoolColumn:
    """Return which values a 3-sigma clip keeps, ``(star,)``.

    Values more than 3 standard deviations (divisor n) from the mean of those kept so far are dropped, until
    none is: ``scipy.stats.sigmaclip(values, 3, 3)``. A set of 10 or fewer can lose none.

    Example:
        >>> int(clip([0.0] * 10 + [1.0] * 10 + [50.0]).sum())
        20
    """
    array = np.asarray(values, dtype=float)
    kept = np.ones(array.shape, dtype=bool)
    while kept.any():
        inside = array[kept]
        now = kept & (np.abs(array - inside.mean()) <= CLIP_SIGMA * inside.std())
        if not now.any() or (now == kept).all():
            break
        kept = now
    return kept


def ranks(values: ArrayLike) -> FloatColumn:
    """Return ranks from 1, ``(star,)``; equal values share the mean of their ranks.

    Example:
        >>> ranks([30.0, 10.0, 10.0, 20.0])
        array([4. , 1.5, 1.5, 3. ])
    """
    return _ranks(_places(np.asarray(values, dtype=float)))


def _places(values: FloatColumn) -> IntColumn:
    """Return the places of values in ascending order, ``(star,)``, the same for equal ones."""
    place: IntColumn = np.unique(values, return_inverse=True)[1]
    return place


def _ranks(place: IntColumn) -> FloatColumn:
    """Return ranks from 1 of values at these `_places`, which need not all be taken: a count is faster than a sort."""
    count = np.bincount(place)
    ranked: FloatColumn = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranked


def _finite_pair(first: ArrayLike, second: ArrayLike) -> tuple[FloatColumn, FloatColumn, BoolColumn]:
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.ndim != 1 or one.shape != two.shape:
        message = f"two arrays of one number a star are needed; these have shapes {one.shape} and {two.shape}"
        raise UsageError(message)
    return one, two, np.isfinite(one) & np.isfinite(two)


def _centred(values: FloatColumn) -> FloatColumn:
    return np.asarray(values - values.mean())


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else np.nan


def _spread(values: FloatColumn) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _bootstrap(count: int, resamples: int, seed: int) -> tuple[Iterator[NDArray[np.int64]], float]:
    """Return bootstrap samples of rows, and what scales the spread over them to that of all rows."""
    random = np.random.default_rng(seed)
    size = min(count, MOST_DRAWN)
    return (random.integers(0, count, size) for _ in range(resamples)), (size / count) ** 0.5


def _clipped_line(x: FloatColumn, y: FloatColumn) -> tuple[float, int]:
    """Return the slope of the line through the stars that a clip keeps, and their number."""
    kept, slope = np.ones(len(x), dtype=bool), np.nan
    for _ in range(MOST_ROUNDS):
        across = x - x[kept].mean() if kept.sum() > 2 else np.zeros(len(x))
        slope = _ratio(float(across[kept] @ y[kept]), float(across[kept] @ across[kept]))
        now = clip(y - slope * across) if np.isfinite(slope) else kept
        if (now == kept).all():
            break
        kept = now
    return slope, int(kept.sum())


def mean_residual(flux: ArrayLike, model: ArrayLike, sigma: ArrayLike, good: ArrayLike) -> NDArray[np.float64]:
    """Return the mean over good pixels of ``|flux - model| / sigma`` for each star; noise alone gives 0.80.

    Args:
        flux: ``(star, pixel)``; what it holds elsewhere, NaN included, does not matter, nor in the others.
        model: the same shape.
        sigma: the same shape, or a number.
        good: the same shape, or ``(pixel,)``, bool.

    Returns:
        ``(star,)``, NaN without a good pixel.

    Example:
        >>> mean_residual([[1.0, 2.0, 9.0]], [[1.0, 1.0, 1.0]], 0.5, [True, True, False])
        array([1.])
    """
    seen = np.asarray(flux)
    use = np.broadcast_to(np.asarray(good, dtype=bool), seen.shape)
    with np.errstate(all="ignore"):
        total = np.where(use, np.abs(seen - np.asarray(model)) / np.asarray(sigma), 0.0).sum(axis=1, dtype=np.float64)
        return np.asarray(total / use.sum(axis=1))
