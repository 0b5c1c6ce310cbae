"""Velocities of a survey against Gaia's: their zero point, and what errors lack (paper section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from stargap import __version__
from stargap.statistics import robust_scatter, tailed_cost
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import equal_columns, numbers, whole_ids

__all__ = ["LEAST_STARS", "VelocityScale", "fit_velocity_scale", "on_scale"]

_Floats = NDArray[np.float64]

LEAST_STARS = 50
"""Stars with a velocity of Gaia's below which nothing is measured."""
MOST_RUWE = 1.4
MOST_GAIA_ERROR = 5.0
"""Error (km/s) of Gaia's velocities above which they do not count."""
TAIL, WIDE = 0.05, 5.0
"""Share of stars, most of them in binaries, whose differences are so many times as wide as those of the others."""
SHARE_WIDTH = 0.3
"""Width of the prior of the share of the systematic errors given that is right, about 1."""
FOLDS = 2


class VelocityScale(BaseModel):
    """How velocities of a run stand to Gaia's, measured on one spectrum of each of ``stars`` stars.

    Velocities are too large by ``zero_point``; the systematic error of each is ``share`` times the one given and
    ``floor`` in quadrature (km/s; with the errors ``e_zero_point`` and ``e_floor``). ``left_out_median``,
    ``left_out_scatter`` (km/s) and ``left_out_pull`` are the median and the robust scatter of ours - Gaia's, and of
    these over all errors, of each half of the stars on the scale of the other half. With fewer than 50 stars
    ``measured`` is false and nothing is changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = __version__
    reference: str = "Gaia DR3"
    measured: bool
    stars: int
    zero_point: float = 0.0
    e_zero_point: float = 0.0
    floor: float = 0.0
    e_floor: float = 0.0
    share: float = 1.0
    left_out_median: float | None = None
    left_out_scatter: float | None = None
    left_out_pull: float | None = None

    def systematic(self, error: ArrayLike) -> _Floats:
        """Return systematic errors (km/s) on this scale from those of the measurement, any shape."""
        given = np.asarray(error, dtype=float)
        return np.sqrt((self.share * given) ** 2 + self.floor**2 + self.e_zero_point**2)


def fit_velocity_scale(
    columns: Mapping[str, ArrayLike], *, use: ArrayLike | None = None, star: str = "gaia_source_id"
) -> VelocityScale:
    """Measure the zero point of velocities against Gaia's, and what their errors lack.

    Of each star the spectrum of the smallest error counts, if its RUWE is at most 1.4 and Gaia's error at most 5 km/s.
    Differences are normal about the zero point, with all errors and a floor, but for one star in twenty, whose are
    five times as wide; zero point, floor and the share of systematic errors that is right are the most likely ones.

    Args:
        columns: ``(row,)``: rv, e_rv, e_rv_sys, gaia_rv, e_gaia_rv (km/s), ruwe, use_rv and the star's identifier
            (int64, -9999 without one). Nulls are -9999 and NaN.
        use: spectra that may count, ``(row,)`` bool; all by default.
        star: name of the identifier that spectra of one star share.

    Raises:
        UsageError: lengths differ, or identifiers are floats.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> one = {name: np.full(400, 1.0) for name in ("e_rv", "e_rv_sys", "e_gaia_rv", "ruwe", "use_rv")}
        >>> gaia = rng.normal(0, 30, 400)
        >>> table = {**one, "gaia_source_id": np.arange(400), "gaia_rv": gaia, "rv": gaia + rng.normal(2.5, 3.0, 400)}
        >>> found = fit_velocity_scale(table)
        >>> round(found.zero_point, 1), round(found.floor, 1), found.measured
        (2.5, 2.3, True)
    """
    given = equal_columns(columns, star)
    rows, ids = len(given[star]), whole_ids(given[star], star)
    names = ("rv", "e_rv", "e_rv_sys", "gaia_rv", "e_gaia_rv", "ruwe", "use_rv")
    rv, error, systematic, gaia, e_gaia, ruwe, usable = (numbers(given, name, rows) for name in names)
    chosen = np.ones(rows, dtype=bool) if use is None else np.asarray(use, dtype=bool)
    chosen = chosen & (ids != INT_NULL) & (usable == 1) & (ruwe <= MOST_RUWE) & (e_gaia <= MOST_GAIA_ERROR)
    systematic = np.nan_to_num(systematic)
    chosen &= np.isfinite(rv) & np.isfinite(gaia) & (error > 0)
    kept = np.flatnonzero(chosen)
    kept = kept[np.lexsort((error[kept], ids[kept]))]
    kept = kept[np.diff(ids[kept], prepend=-1) != 0]
    if len(kept) < LEAST_STARS:
        return VelocityScale(measured=False, stars=len(kept))
    delta, noise, given_sys = rv[kept] - gaia[kept], np.hypot(error, e_gaia)[kept], systematic[kept]
    fold = np.arange(len(kept)) % FOLDS
    left, errors = np.empty(len(kept)), np.empty(len(kept))
    for out in (fold == k for k in range(FOLDS)):
        other = _most_likely(delta[~out], noise[~out], given_sys[~out])
        left[out] = delta[out] - other.zero_point
        errors[out] = np.hypot(noise[out], other.systematic(given_sys[out]))
    judged = {
        "left_out_median": float(np.median(left)),
        "left_out_scatter": robust_scatter(left),
        "left_out_pull": robust_scatter(left / errors),
    }
    return _most_likely(delta, noise, given_sys).model_copy(update=judged)


def on_scale(scale: VelocityScale, columns: Mapping[str, ArrayLike]) -> dict[str, _Floats]:
    """Return ``rv``, ``rv_zero`` and ``e_rv_sys`` on a scale (km/s, ``(row,)``); rv + rv_zero stays what it is.

    Args:
        scale: from `fit_velocity_scale`.
        columns: the same of the measurement.

    Example:
        >>> scale = VelocityScale(measured=True, stars=60, zero_point=2.0, floor=3.0)
        >>> on_scale(scale, {"rv": [10.0], "rv_zero": [0.5], "e_rv_sys": [4.0]})
        {'rv': array([8.]), 'rv_zero': array([2.5]), 'e_rv_sys': array([5.])}
    """
    rv, zero, error = (np.asarray(columns[name], dtype=float) for name in ("rv", "rv_zero", "e_rv_sys"))
    if not scale.measured:
        return {"rv": rv, "rv_zero": zero, "e_rv_sys": error}
    return {"rv": rv - scale.zero_point, "rv_zero": zero + scale.zero_point, "e_rv_sys": scale.systematic(error)}


def _most_likely(delta: _Floats, noise: _Floats, systematic: _Floats) -> VelocityScale:
    """Return the most likely scale, with errors by the second derivatives of the likelihood."""
    from scipy.optimize import minimize

    def cost(values: _Floats) -> float:
        zero, share, floor = values
        variance = noise**2 + (share * systematic) ** 2 + floor**2
        return tailed_cost(delta - zero, variance, TAIL, WIDE) + float((share - 1) / SHARE_WIDTH) ** 2 / 2

    begin = np.array([float(np.median(delta)), 1.0, robust_scatter(delta) / 2])
    found = minimize(cost, begin, method="BFGS")
    e_zero, _, e_floor = np.sqrt(np.diag(found.hess_inv).clip(0.0)).tolist()
    zero, share, floor = found.x.tolist()
    return VelocityScale(
        measured=True,
        stars=len(delta),
        zero_point=zero,
        e_zero_point=e_zero,
        floor=abs(floor),
        e_floor=e_floor,
        share=abs(share),
    )
