"""Kinematic ages: from positions, velocities and their errors, by the calibrations of Zoomies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.catalogue.actions import vertical_action
from stargap.flags import AgeFlag
from stargap.tables.nulls import equal_columns, numbers

__all__ = ["YOUNG", "AgeSummary", "Ages", "Calibration", "age_summary", "is_young",
           "kinematic_ages", "zoomies_calibrations"]  # fmt: skip

_Floats = NDArray[np.float64]

YOUNG = 1.0
"""Mean or median age below which the paper drops a star (Gyr; section 4)."""
LEAST_PARALLAX_SNR = 5.0
"""Parallax over its error above which its inverse is a distance."""
OLDEST = 14.0
"""Ages are between 0 and this (Gyr), each as likely before the star is seen, as in Zoomies."""
AGES = np.linspace(0.0, OLDEST, 281)

BLOCK = 20_000

_MEASURED = ("parallax", "pmra", "pmdec", "rv")


_NULL = ~AgeFlag.ERROR_UNKNOWN


@dataclass(frozen=True)
class Calibration:
    """How ln Jz (kpc km/s) grows with age: a normal distribution about a monotonic spline (Sagear et al. 2024).

    Args:
        stars: those that it was made with.
        knots: ages (Gyr), increasing.
        values: the spline at the first knot, then its slopes (1/Gyr) at the others; the slope is linear between knots
            and constant up to the second.
        variance: of ln Jz about the spline.

    Example:
        >>> zoomies_calibrations()["rgb"].ln_jz([0, 5, 14]).round(2)
        array([1.51, 2.35, 3.19])
    """

    stars: str
    knots: tuple[float, ...]
    values: tuple[float, ...]
    variance: float

    def ln_jz(self, age: ArrayLike) -> _Floats:
        """Return the spline at ages (Gyr), any shape."""
        knots, slopes = np.array(self.knots), np.array([self.values[1], *self.values[1:]])
        steps = np.diff(knots)
        starts = np.cumsum([self.values[0], *(steps * (slopes[1:] + slopes[:-1]) / 2)])
        ages = np.asarray(age, dtype=float)
        piece = np.clip(np.searchsorted(knots, ages, side="right") - 1, 0, len(steps) - 1)
        since = ages - knots[piece]
        bend = np.diff(slopes) / steps / 2
        return np.asarray(starts[piece] + slopes[piece] * since + bend[piece] * since**2)


class AgeSummary(NamedTuple):
    """Mean, median, and 16th and 84th percentile of ages (Gyr), each ``(star,)``."""

    mean: _Floats
    median: _Floats
    p16: _Floats
    p84: _Floats


@dataclass(frozen=True, eq=False)
class Ages:
    """What `kinematic_ages` returns; one row per spectrum.

    ``columns``: ln_jz and its error e_ln_jz (Jz in kpc km/s), age_flags (int64), and for each calibration the four of
    `AgeSummary`, such as age_rgb_mean (Gyr); NaN where a flag says why. ``aged``, the rows with an age; ``young``, how
    many of them the paper would drop under each calibration.
    """

    columns: dict[str, NDArray[Any]]
    aged: int
    young: dict[str, int]


@cache
def zoomies_calibrations() -> Mapping[str, Calibration]:
    """Return the two published calibrations of Zoomies: ``rgb``, of red giants, and ``msto``, of turn-off stars.

    They are the means of the published posteriors, whose widths (1 to 5 % of the first value, 5 to 15 % of the slopes)
    are not carried: they are the same for all stars and small beside the scatter.
    """
    published = json.loads((files("stargap.catalogue") / "data" / "zoomies.json").read_text(encoding="utf-8"))
    return {
        name: Calibration(one["stars"], tuple(one["knots"]), tuple(one["values"]), one["variance"])
        for name, one in published["calibrations"].items()
    }


def age_summary(calibration: Calibration, ln_jz: ArrayLike) -> AgeSummary:
    """Return ages of stars whose Jz is one of several values, each as likely given the measurement.

    The likelihood of an age is the mean, over the values, of the density of stars of that age in phase space, which is
    log-normal in Jz: p(age) ~ sum_i N(ln Jz_i; m(age), V) / Jz_i, for ages of 0 to 14 Gyr. With one value it is that
    of Zoomies.

    Args:
        calibration: m(age) and V.
        ln_jz: ``(star,)``, or ``(star, value)``; Jz in kpc km/s.

    Returns:
        the ages; NaN where a value is not finite.

    Example:
        >>> summary = age_summary(zoomies_calibrations()["rgb"], [0.0, np.nan])
        >>> summary.median.round(1), summary.mean.round(1)
        (array([2.7, nan]), array([3.7, nan]))
    """
    values = np.asarray(ln_jz, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    known = np.isfinite(values).all(axis=1)
    parts = [_summarise(calibration, values[known][first : first + BLOCK]) for first in range(0, known.sum(), BLOCK)]
    result = np.full((4, len(values)), np.nan)
    result[:, known] = np.concatenate([np.empty((4, 0)), *parts], axis=1)
    return AgeSummary(*result)


def _summarise(calibration: Calibration, ln_jz: _Floats) -> _Floats:
    from scipy.integrate import trapezoid  # np.trapezoid is of numpy 2

    middle = calibration.ln_jz(AGES)
    nearest = np.clip(ln_jz, middle[0], middle[-1])
    largest = (-((ln_jz - nearest) ** 2) / (2 * calibration.variance) - ln_jz).max(axis=1)[:, None]
    density = np.zeros((len(ln_jz), len(AGES)))
    for one in ln_jz.T[:, :, None]:
        density += np.exp(-((one - middle) ** 2) / (2 * calibration.variance) - one - largest)
    step = AGES[1] - AGES[0]
    below = np.zeros_like(density)
    np.cumsum((density[:, 1:] + density[:, :-1]) * step / 2, axis=1, out=below[:, 1:])
    total = below[:, -1]
    mean = trapezoid(density * AGES, dx=step, axis=1) / total
    return np.stack([mean, *(_quantile(below / total[:, None], share) for share in (0.5, 0.16, 0.84))])


def _quantile(below: _Floats, share: float) -> _Floats:
    """Return where each row of `below` ``(star, age)``, which grows from 0 to 1, reaches `share`."""
    row = np.arange(len(below))
    after = np.maximum((below < share).sum(axis=1), 1)
    low, high = below[row, after - 1], below[row, after]
    return np.asarray(AGES[after - 1] + (share - low) / (high - low) * (AGES[after] - AGES[after - 1]))


def kinematic_ages(columns: Mapping[str, ArrayLike]) -> Ages:
    """Return kinematic ages of stars from their Gaia astrometry and our velocities (paper section 4, cut 3).

    Errors of velocity, parallax and proper motion, taken as normal and independent, go through eight points, two
    standard errors to either side in one of the four (the spherical-radial rule, exact for cubic functions), into
    `age_summary`; e_ln_jz is the scatter of ln Jz at these. An age says how old stars on such an orbit are as a group:
    half of the stars differ from it by several Gyr. The calibrations are of giants and turn-off stars.

    Args:
        columns: ``(row,)``: spectrum_id; ra, dec (deg); parallax, e_parallax (mas); pmra, pmdec, e_pmra, e_pmdec
            (mas/yr); rv, e_rv (km/s). Nulls are -9999 and NaN; a column that is missing is null everywhere.

    Raises:
        UsageError: spectrum_id is missing, lengths differ, or galpy is not installed.

    Example:
        >>> star = {"ra": [80.0], "dec": [40.0], "parallax": [20.0], "e_parallax": [0.1], "pmra": [90.0],
        ...         "pmdec": [-60.0], "e_pmra": [0.1], "e_pmdec": [0.1], "rv": [30.0], "e_rv": [5.0]}
        >>> ages = kinematic_ages({"spectrum_id": [1], **star})
        >>> round(float(ages.columns["age_rgb_median"][0]), 1), ages.young
        (3.8, {'rgb': 0, 'msto': 0})
    """
    given = equal_columns(columns, "spectrum_id")
    rows = len(given["spectrum_id"])
    star = {name: numbers(given, name, rows) for name in ("ra", "dec", *_MEASURED)}
    error = {name: numbers(given, f"e_{name}", rows) for name in _MEASURED}
    flags = _flags(star, error)
    usable = (flags & _NULL) == 0
    places = np.full((rows, 1 + 2 * len(_MEASURED)), np.nan)
    errors = [np.where(error[name] > 0, error[name], 0.0)[usable] for name in _MEASURED]
    places[usable] = _ln_jz([one[usable] for one in star.values()], errors)
    lost = usable & ~np.isfinite(places).all(axis=1)
    flags[lost] |= AgeFlag.NO_ACTION
    places[lost] = np.nan
    table: dict[str, NDArray[Any]] = {
        "ln_jz": places[:, 0],
        "e_ln_jz": np.sqrt(((places[:, 1:] - places[:, 1:].mean(axis=1, keepdims=True)) ** 2).mean(axis=1)),
        "age_flags": flags,
    }
    for name, calibration in zoomies_calibrations().items():
        summary = age_summary(calibration, places[:, 1:])
        table |= {f"age_{name}_{what}": values for what, values in summary._asdict().items()}
    aged = int(np.isfinite(table["ln_jz"]).sum())
    return Ages(table, aged, {name: int(is_young(table, name).sum()) for name in zoomies_calibrations()})


def is_young(columns: Mapping[str, ArrayLike], calibration: str) -> NDArray[np.bool_]:
    """Return where the mean or the median age is below 1 Gyr, ``(row,)``: what the paper drops; not where it is null.

    Example:
        >>> is_young({"age_rgb_mean": [1.5, 3.0, np.nan], "age_rgb_median": [0.9, 2.5, np.nan]}, "rgb")
        array([ True, False, False])
    """
    mean, median = (np.asarray(columns[f"age_{calibration}_{what}"], dtype=float) for what in ("mean", "median"))
    return np.asarray(np.fmin(mean, median) < YOUNG)


def _flags(star: Mapping[str, _Floats], error: Mapping[str, _Floats]) -> NDArray[np.int64]:
    parallax, snr = star["parallax"], star["parallax"] / np.where(error["parallax"] > 0, error["parallax"], np.nan)
    unknown = [~(error[name] >= 0) for name in ("rv", "pmra", "pmdec")]
    tests = {
        AgeFlag.NO_RV: np.isnan(star["rv"]),
        AgeFlag.NO_PARALLAX: np.isnan(parallax),
        AgeFlag.LOW_PARALLAX_SNR: np.isfinite(parallax) & ~(snr > LEAST_PARALLAX_SNR),
        AgeFlag.NO_PROPER_MOTION: np.isnan(star["pmra"] + star["pmdec"]),
        AgeFlag.NO_POSITION: np.isnan(star["ra"]) | ~(np.abs(star["dec"]) <= 90),
        AgeFlag.ERROR_UNKNOWN: unknown[0] | unknown[1] | unknown[2],
    }
    return np.asarray(sum(np.where(test, int(flag), 0) for flag, test in tests.items()), dtype=np.int64)


def _ln_jz(star: list[_Floats], errors: list[_Floats]) -> _Floats:
    """Return ln Jz ``(star, 9)``: as measured, then with one measurement two errors off, to either side."""
    off = np.sqrt(len(errors))
    shifts = [(0, 0.0), *((place, sign * off) for place in range(len(errors)) for sign in (1.0, -1.0))]
    result = np.empty((len(star[0]), len(shifts)))
    edges = [*range(0, len(result), BLOCK), len(result)]
    for first, last in pairwise(edges):
        for column, (place, shift) in enumerate(shifts):
            moved = [one[first:last] for one in star]
            moved[2 + place] = moved[2 + place] + shift * errors[place][first:last]
            result[first:last, column] = vertical_action(*moved)
    with np.errstate(divide="ignore"):
        return np.log(result)
