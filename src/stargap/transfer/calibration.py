"""What labels and velocities of a model are off by beyond noise, as stars of known truth that it has not seen tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from stargap.pixels import STARGAP
from stargap.rows import FloatColumn, PixelMaskRows, PixelRows, TermColumns, TwoLabels
from stargap.statistics import tailed_cost

__all__ = ["CENTRE", "Calibration", "Off", "learn_calibration", "prepared_snr"]

_Floats = NDArray[np.float64]

CENTRE, SCALE = (3600.0, 0.0, float(np.log(30.0))), (400.0, 0.4, 1.0)
"""Teff (K), [M/H] and ln S/N are scaled by these."""
TERMS = ("1", "x", "y", "x^2", "y^2", "x y", "u", "u^2")
"""Of scaled Teff x, [M/H] y and ln S/N u, in the order of the coefficients; zero points have those without u."""
VELOCITY_TERMS = 6
LEAST = 100
"""Stars below which nothing is learned: of the 33 real stars of the shipped model one number tells as much as three
(docs/decisions/021-calibrated-errors.md)."""
STARS_PER_TERM = 50
"""Stars that a term needs beyond the first one."""
TAIL, WIDE = 0.01, 3.0
"""Share of errors of labels that are this many times as wide as the others."""
VELOCITY_TAIL, VELOCITY_WIDE = 0.1, 5.0
"""The same of velocities: those of spectra with an unresolved companion are not its star's."""
PRIOR = 1.0
"""Width of the prior of every coefficient but the first, of the logarithm of an error."""
ROUNDS, CLIPPED = 10, 3.0
MANY, SNR_BINS = 1000, 5
"""Stars from which coverage is made right, in this many bins of S/N."""
COVERED = ((1.0, 0.6827), (1.96, 0.95))
"""Widths in errors, and the share of normal errors within them."""
VELOCITY_SCATTER = 2.0
"""Scatter of velocities (km/s) that is added to their noise where zero points are fitted."""

BANDS = ((6000.0, 6800.0), (7000.0, 8200.0))
"""Where S/N is taken, as in r and i (A)."""
RESAMPLED = 0.82
"""S/N of a native pixel over that of a pixel of 1 A between two of them: the root of the mean of t^2 + (1 - t)^2."""

Coefficients = Annotated[tuple[FiniteFloat, ...], Field(min_length=1, max_length=len(TERMS))]


class Calibration(BaseModel):
    """What a model is off by, in the card of a model; numbers can be read by people.

    The systematic error of a quantity is exp(c . t), of its unit, with `TERMS` t of published Teff, [M/H] and the lower
    S/N of r and i, each held at the ends of its range (``teff``, ``m_h``, ``snr``: of the stars that were learned
    from). ``systematic`` has the coefficients c by quantity (rv, teff, logg, m_h). That of rv is over and above
    ``blocks`` times what blocks of wavelength disagree by beyond noise. ``velocity`` are coefficients of the zero
    point of velocities (km/s), which are too large by c . t, and ``e_velocity`` the error of its mean. ``source`` says
    in words which stars were learned from, ``stars`` how many.

    Example:
        >>> one = {"source": "none", "stars": 40, "teff": (3000, 4000), "m_h": (-1, 0.5), "snr": (5, 300)}
        >>> found = Calibration(**one, systematic={"teff": (3.0, 0.7)}, velocity=(2.0,))
        >>> labels = np.array([[3600.0, 0.0], [4000.0, 0.0], [5000.0, 0.0]])
        >>> found.error("teff", labels, np.full(3, 20.0)).round(1), found.zero_point(labels)
        (array([20.1, 40.4, 40.4]), array([2., 2., 2.]))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    source: str
    stars: Annotated[int, Field(ge=1)]
    teff: tuple[FiniteFloat, FiniteFloat]
    m_h: tuple[FiniteFloat, FiniteFloat]
    snr: tuple[Annotated[FiniteFloat, Field(gt=0)], FiniteFloat]
    systematic: dict[Literal["rv", "teff", "logg", "m_h"], Coefficients] = {}
    velocity: Annotated[tuple[FiniteFloat, ...], Field(max_length=VELOCITY_TERMS)] = ()
    e_velocity: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    blocks: Annotated[FiniteFloat, Field(ge=0)] = 1.0

    def terms(self, labels: TwoLabels, snr: FloatColumn) -> TermColumns:
        """Return `TERMS` ``(star, term)`` at Teff and [M/H] ``(star, 2)`` and S/N ``(star,)``.

        An S/N that is not known is the lowest of the range; NaN labels give NaN.
        """
        teff, m_h = np.clip(labels[:, 0], *self.teff), np.clip(labels[:, 1], *self.m_h)
        signal = np.log(np.clip(np.nan_to_num(snr), *self.snr))
        x, y, u = ((value - c) / s for value, c, s in zip((teff, m_h, signal), CENTRE, SCALE, strict=True))
        one = np.where(np.isfinite(x + y), 1.0, np.nan)
        return np.stack([one, x, y, x**2, y**2, x * y, u, u**2], axis=1)

    def error(self, name: str, labels: TwoLabels, snr: FloatColumn) -> FloatColumn | None:
        """Return the systematic error of a quantity ``(star,)``, None where nothing is known of it."""
        for known, coefficients in self.systematic.items():
            if known == name:
                terms = self.terms(labels, snr)[:, : len(coefficients)]
                return np.asarray(np.exp(terms @ np.array(coefficients)))
        return None

    def zero_point(self, labels: TwoLabels) -> FloatColumn:
        """Return what velocities are too large by (km/s, ``(star,)``); the mean one where labels are NaN."""
        if not self.velocity:
            return np.zeros(len(labels))
        known = np.where(np.isfinite(labels), labels, CENTRE[:2])
        return np.asarray(self.terms(known, np.ones(len(labels)))[:, : len(self.velocity)] @ np.array(self.velocity))


@dataclass(frozen=True)
class Off:
    """What a quantity is off by: ``delta`` = measured - true, its ``noise``, and ``excess``, what blocks of wavelength
    disagree by beyond noise (0 for labels); ``(star,)`` each, in the quantity's unit. NaN rows do not count."""

    delta: _Floats
    noise: _Floats
    excess: _Floats | None = None


def learn_calibration(
    off: Mapping[str, Off], labels: TwoLabels, snr: FloatColumn, *, source: str, velocity_terms: int = VELOCITY_TERMS
) -> Calibration | None:
    """Learn a calibration from stars of known truth that had no part in the model; None with fewer than 100 of them.

    Coefficients are the most likely ones for normal errors of noise and systematic error together, but for a few stars
    (`TAIL`, `VELOCITY_TAIL`) whose errors are several times as wide; of 1,000 stars or more the terms 1, u and u^2 are
    then moved until as many as should be are within one error and within 1.96, at every S/N: errors are not quite
    normal. Few stars have few terms: one more for every 50.

    Args:
        off: by quantity, such as teff.
        labels: published Teff and [M/H], ``(star, 2)``.
        snr: the lower S/N of r and i, ``(star,)``.
        source: which stars these are, in words.
        velocity_terms: most terms of the zero point of velocities.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> labels = np.stack([rng.uniform(3000, 4000, 2000), rng.uniform(-0.5, 0.3, 2000)], axis=1)
        >>> delta, noise = rng.normal(0, 1, 2000) * np.hypot(20, 10), np.full(2000, 10.0)
        >>> found = learn_calibration({"teff": Off(delta, noise)}, labels, np.full(2000, 30.0), source="normal numbers")
        >>> bool(abs(np.median(found.error("teff", labels, np.full(2000, 30.0))) / 20 - 1) < 0.1)
        True
    """
    known = np.isfinite(labels).all(axis=1) & (snr > 0)
    if known.sum() < LEAST:
        return None
    ranges = [tuple(np.quantile(value[known], (0.005, 0.995)).tolist()) for value in (*labels.T, snr)]
    empty = Calibration(
        source=source, stars=int(known.sum()), teff=ranges[0], m_h=ranges[1], snr=ranges[2], systematic={}
    )
    terms = empty.terms(labels, snr)
    changes: dict[str, object] = {}
    systematic = {}
    for name, one in off.items():
        rows = known & np.isfinite(one.delta) & (one.noise > 0)
        delta, excess = one.delta, np.zeros(len(one.delta)) if one.excess is None else one.excess
        rows &= np.isfinite(excess)
        if rows.sum() < LEAST:
            continue
        count = 1 + int(rows.sum()) // STARS_PER_TERM
        if name == "rv":
            zero, error = _zero_point(delta[rows], one.noise[rows], terms[rows, : min(count, velocity_terms)])
            delta = delta - terms[:, : len(zero)] @ zero
            changes |= {"velocity": tuple(zero.tolist()), "e_velocity": error}
        tail = (VELOCITY_TAIL, VELOCITY_WIDE) if name == "rv" else (TAIL, WIDE)
        found, blocks = _most_likely(delta[rows], one.noise[rows], excess[rows], terms[rows, :count], tail)
        if rows.sum() >= MANY:
            noise = np.hypot(one.noise, blocks * excess)
            found = _covering(delta[rows], noise[rows], terms[rows], found, snr[rows])
        systematic[name] = tuple(found.tolist())
        if name == "rv":
            changes["blocks"] = blocks
    return Calibration.model_validate({**empty.model_dump(), **changes, "systematic": systematic})


def _covering(delta: _Floats, noise: _Floats, terms: _Floats, begin: _Floats, snr: _Floats) -> _Floats:
    """Return coefficients whose errors cover the truth as often as they should, by bins of S/N; near `begin`."""
    from scipy.optimize import minimize

    moved = [TERMS.index(name) for name in ("1", "u", "u^2")]
    place = np.argsort(np.argsort(snr, kind="stable"), kind="stable") * SNR_BINS // len(snr)

    def changed(steps: _Floats) -> _Floats:
        coefficients = begin.copy()
        coefficients[moved] += steps
        return coefficients

    def cost(steps: _Floats) -> float:
        pull = np.abs(delta) / np.hypot(noise, np.exp(terms @ changed(steps)))
        off = [np.mean(pull[place == k] < width) - share for k in range(SNR_BINS) for width, share in COVERED]
        return float(np.square(off).sum() + 1e-3 * np.square(steps).sum())

    simplex = np.vstack([np.zeros(3), np.diag([0.3, 0.3, 0.2])])
    return changed(minimize(cost, np.zeros(3), method="Nelder-Mead", options={"initial_simplex": simplex}).x)


def prepared_snr(sigma: PixelRows, good: PixelMaskRows) -> FloatColumn:
    """Return the lower S/N of r and i of prepared spectra, about that of native pixels, 0 where neither is known.

    Args:
        sigma: errors of normalised flux, ``(star, pixel)``.
        good: pixels that count.

    Example:
        >>> prepared_snr(np.full((1, 2901), 0.05), np.ones((1, 2901), dtype=bool)).round(1)
        array([16.4])
    """
    found = np.full((len(BANDS), len(sigma)), np.nan)
    for band, (low, high) in enumerate(BANDS):
        inside = (STARGAP.wavelength >= low) & (STARGAP.wavelength <= high)
        for row in range(len(sigma)):
            errors = sigma[row, inside][good[row, inside]]
            found[band, row] = RESAMPLED / np.median(errors) if errors.size else np.nan
    return np.asarray(np.nan_to_num(np.fmin(*found)))


def _zero_point(delta: _Floats, noise: _Floats, terms: _Floats) -> tuple[_Floats, float]:
    """Return coefficients of the mean of `delta` by least squares with clipping, and the error of its constant."""
    weight = 1.0 / np.hypot(noise, VELOCITY_SCATTER)
    middle = float(np.median(delta))
    left = delta - middle
    solution = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        spread = 1.4826 * np.median(np.abs(left * weight))
        kept = np.abs(left * weight) <= CLIPPED * max(spread, 1e-12)
        design = terms[kept] * weight[kept, None]
        solution = np.linalg.lstsq(design, delta[kept] * weight[kept], rcond=None)[0]
        left = delta - terms @ solution
    variance = np.linalg.pinv(design.T @ design)[0, 0] * np.mean((left[kept] * weight[kept]) ** 2)
    return solution, float(np.sqrt(variance))


def _most_likely(
    delta: _Floats, noise: _Floats, excess: _Floats, terms: _Floats, tail: tuple[float, float]
) -> tuple[_Floats, float]:
    """Return the coefficients of the systematic error, and the share of `excess` that is error."""
    from scipy.optimize import minimize

    begin = float(np.log(max(np.median(np.abs(delta)), 1e-12)))
    with_blocks = bool((excess > 0).any())

    def cost(numbers: _Floats) -> float:
        logarithm = np.clip(terms @ numbers[: terms.shape[1]], begin - 6.0, begin + 4.0)
        variance = np.exp(2 * logarithm) + noise**2
        if with_blocks:
            variance = variance + np.square(numbers[-1] * excess)
        prior = np.square(numbers[1 : terms.shape[1]] / PRIOR).sum()
        return tailed_cost(delta, variance, *tail) + float(prior) / 2

    start = np.zeros(terms.shape[1] + with_blocks)
    start[0] = begin
    if with_blocks:
        start[-1] = 0.5
    best = np.asarray(minimize(cost, start, method="BFGS").x)
    return best[: terms.shape[1]], abs(float(best[-1])) if with_blocks else 1.0
