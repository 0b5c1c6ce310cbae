"""Labels of synthetic training spectra: along isochrones, co-distributed with real stars (paper section 3.3.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.labels import A_M, LOGG, M_H, TEFF, alpha_relation
from stargap.theory.isochrones import Isochrones, shipped_isochrones

__all__ = [
    "PRESETS",
    "Agreement",
    "LabelMixture",
    "LabelPreset",
    "ReferenceDistribution",
    "agreement",
    "draw_training_labels",
    "fit_label_mixture",
    "shipped_reference",
]

COMPONENTS = 24
MOST_ROUNDS = 100
"""Rounds of draws that `draw_training_labels` takes at most."""
BLOCK = 4096
"""Rows of a density computed at a time."""


@dataclass(frozen=True, kw_only=True)
class LabelPreset:
    """A box of labels; [a/M] follows `stargap.labels.alpha_relation`."""

    name: str
    teff: tuple[float, float]
    logg: tuple[float, float]
    m_h: tuple[float, float]

    def holds(self, labels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which rows of ``(row, label)`` are within the box, ``(row,)``."""
        low, high = np.array([self.teff, self.logg, self.m_h]).T
        return ((labels[:, :A_M] >= low) & (labels[:, :A_M] <= high)).all(axis=1)


PRESETS: Final = {
    "paper": LabelPreset(name="paper", teff=(3000.0, 4000.0), logg=(4.0, 6.0), m_h=(-1.0, 0.5)),
    "stargap": LabelPreset(name="stargap", teff=(2800.0, 4400.0), logg=(4.0, 5.5), m_h=(-2.0, 0.5)),
}
"""The box of the paper, and a wider one: K7 stars are in the sample, and the final cut is at 4300 K.

The wider one ends at log g 5.5, where the shipped emulator ends; the main sequence reaches that at no other corner
than 2800 K and [M/H] -2.
"""


@dataclass(frozen=True, eq=False)
class ReferenceDistribution:
    """Numbers of real stars in bins of (Teff, [M/H]).

    Args:
        teff_edges: K, ``(teff + 1,)``, increasing.
        m_h_edges: dex, ``(m_h + 1,)``, increasing.
        counts: stars, ``(teff, m_h)``.
        sources: stars that each source adds.

    Raises:
        UsageError: shapes that do not fit, edges that do not increase, counts that are negative or all zero.
    """

    teff_edges: NDArray[np.float64]
    m_h_edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    sources: dict[str, int]

    def __post_init__(self) -> None:
        edges = (self.teff_edges, self.m_h_edges)
        shape = tuple(len(edge) - 1 for edge in edges)
        if self.counts.shape != shape or not all(len(edge) > 1 and (np.diff(edge) > 0).all() for edge in edges):
            message = f"counts of shape {self.counts.shape} need increasing edges of one more, they have {shape}"
            raise UsageError(message)
        if not (np.isfinite(self.counts).all() and (self.counts >= 0).all() and self.counts.any()):
            message = "counts of a reference distribution must be 0 or more, and not all 0"
            raise UsageError(message)

    @property
    def stars(self) -> float:
        """Number of stars."""
        return float(self.counts.sum())

    @property
    def area(self) -> NDArray[np.float64]:
        """Areas of the bins (K dex), ``(teff, m_h)``."""
        return np.outer(np.diff(self.teff_edges), np.diff(self.m_h_edges))

    def bins(self, teff: ArrayLike, m_h: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the flat bin number of each star (0 where outside) and which stars are inside."""
        inside, numbers = np.ones(np.shape(teff), dtype=bool), []
        for value, edges in ((np.asarray(teff), self.teff_edges), (np.asarray(m_h), self.m_h_edges)):
            inside &= (value >= edges[0]) & (value <= edges[-1])
            numbers.append(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2))
        return np.where(inside, numbers[0] * self.counts.shape[1] + numbers[1], 0), inside

    def density(self, teff: ArrayLike, m_h: ArrayLike) -> NDArray[np.float64]:
        """Return the probability density at (Teff, [M/H]) in 1/(K dex), ``(row,)``; 0 outside.

        In each bin a plane of the bin's own mass, whose slopes are the mean ones towards both neighbours, at most
        twice the smaller, and none at an extremum (van Leer 1977), both less where the plane would turn negative:
        counts are kept, and edges show less.
        """
        height = self.counts / self.stars / self.area
        slopes = np.stack([_limited(np.diff(height, axis=0)), _limited(np.diff(height, axis=1).T).T])
        slopes *= np.minimum(1.0, 2 * height / np.maximum(np.abs(slopes).sum(axis=0), 1e-300))
        number, inside = self.bins(teff, m_h)
        rows = np.unravel_index(number, height.shape)
        result = height[rows]
        for slope, row, value, edges in zip(slopes, rows, (teff, m_h), (self.teff_edges, self.m_h_edges), strict=True):
            place = (np.asarray(value) - edges[row]) / (edges[row + 1] - edges[row])
            result = result + slope[rows] * (place - 0.5)
        return np.where(inside, result.clip(0.0), 0.0)

    def blended(self, uniform: float) -> ReferenceDistribution:
        """Return a distribution with the fraction `uniform` of its stars spread evenly over the box.

        Real stars are rare above 4100 K and below [M/H] -0.7 in the literature (`shipped_reference`); a network that
        has to work there needs examples there.

        Raises:
            UsageError: `uniform` is not in 0..1.

        Example:
            >>> float(shipped_reference("paper").blended(0.1).counts.min().round(2))
            4.96
        """
        if not 0 <= uniform <= 1:
            message = f"uniform {uniform} is not a fraction"
            raise UsageError(message)
        flat = self.area * self.stars / self.area.sum()
        return replace(self, counts=(1 - uniform) * self.counts + uniform * flat)


def _limited(step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return limited slopes of ``(bin, any)`` from the steps between bins, ``(bin - 1, any)``."""
    still = np.zeros((1, step.shape[1]))
    before, after = np.concatenate([still, step]), np.concatenate([step, still])
    size = np.minimum(2 * np.minimum(np.abs(before), np.abs(after)), np.abs(before + after) / 2)
    return np.where(before * after > 0, np.sign(after) * size, 0.0)


@cache
def shipped_reference(preset: str = "stargap") -> ReferenceDistribution:
    """Return the distribution of stars of the literature in the box of a preset, in bins of 100 K and 0.1 dex.

    One row a star: each has the labels of the first source that lists it, of Mann et al. (2015), Gaidos & Mann
    (2014), Birky et al. (2020), Newton et al. (2015), Schweitzer et al. (2019), Passegger et al. (2018), Gaidos et
    al. (2014), Marfil et al. (2021), the compilation of Cifuentes et al. (2025), Rajpurohit et al. (2018), Casagrande
    et al. (2008) and APOGEE's ASPCAP, which adds none to Birky's. Sources are matched within 30" (epochs differ) and
    by name, and moved to the scale of Mann et al. (2015) by their median difference from it. [Fe/H] is taken for
    [M/H]. Made by docs/make_label_data.py.

    Three in four stars are Birky's, whose labels end at 4058 K and [Fe/H] -0.43. In the wider box 42 of 8022 stars are
    above 4100 K and none is below -1.1: that is what was published, not what exists (see
    `ReferenceDistribution.blended`).

    Raises:
        UsageError: no such preset.

    Example:
        >>> shipped_reference("paper").counts.shape
        (10, 15)
    """
    name = _preset(preset).name
    table = json.loads((files("stargap") / "theory" / "data" / "reference.json").read_text(encoding="utf-8"))[name]
    teff, m_h, counts = (np.array(table[key], dtype=float) for key in ("teff_edges", "m_h_edges", "counts"))
    return ReferenceDistribution(teff, m_h, counts, table["sources"])


def _preset(name: str) -> LabelPreset:
    if name not in PRESETS:
        message = f"no preset {name!r}; there are {' and '.join(PRESETS)}"
        raise UsageError(message)
    return PRESETS[name]


@dataclass(frozen=True, eq=False)
class LabelMixture:
    """A mixture of Gaussians over labels in the order of `stargap.labels.LABELS` (K, dex, dex, dex).

    Args:
        weights: ``(component,)``, of sum 1.
        means: ``(component, label)``.
        covariances: ``(component, label, label)``.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Return ``(count, label)`` draws, in the order of components."""
        share = generator.multinomial(count, self.weights)
        parts = [
            mean + np.einsum("rl,kl->rk", generator.standard_normal((n, len(mean))), factor)
            for n, mean, factor in zip(share, self.means, np.linalg.cholesky(self.covariances), strict=True)
        ]
        return np.concatenate(parts)

    def log_density(self, values: ArrayLike, labels: tuple[int, ...] = (TEFF, LOGG, M_H, A_M)) -> NDArray[np.float64]:
        """Return ln of the density, marginalised over the labels that are not named.

        Args:
            values: ``(row, len(labels))``.
            labels: numbers of the labels given.
        """
        points, picked = np.asarray(values, dtype=float), np.array(labels)
        factors = np.linalg.cholesky(self.covariances[:, picked[:, None], picked])
        inverse = np.linalg.inv(factors).transpose(0, 2, 1)
        volume = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1) + 0.5 * len(picked) * np.log(2 * np.pi)
        constant = (np.log(self.weights) - volume)[:, None]
        result = np.empty(len(points))
        for start in range(0, len(points), BLOCK):
            scaled = (points[start : start + BLOCK] - self.means[:, None, picked]) @ inverse
            terms = constant - 0.5 * np.einsum("crl,crl->cr", scaled, scaled)
            top = terms.max(axis=0)
            result[start : start + BLOCK] = top + np.log(np.exp(terms - top).sum(axis=0))
        return result


@cache
def fit_label_mixture(isochrones: Isochrones, preset: str = "stargap", seed: int = 0) -> LabelMixture:
    """Fit Gaussians, 24 of them, to the sheet (Teff, log g, [M/H], [a/M]) of the main sequence (paper section 3.3.2).

    Points are spread evenly over (Teff, [M/H]), every 20 K and 0.05 dex, and a little beyond the box of the preset,
    so that the mixture is about flat up to its edges.

    Raises:
        UsageError: no such preset, or isochrones that do not reach its box.
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    box = _preset(preset)
    teff = np.arange(box.teff[0] - 60, box.teff[1] + 61, 20.0)
    m_h = np.arange(box.m_h[0] - 0.15, box.m_h[1] + 0.151, 0.05)
    sheet = np.stack([axis.ravel() for axis in np.meshgrid(teff, m_h, indexing="ij")], axis=1)
    logg = isochrones.logg_at(sheet[:, 0], sheet[:, 1])
    points = np.column_stack([sheet[:, 0], logg, sheet[:, 1], alpha_relation(sheet[:, 1])])[np.isfinite(logg)]
    if box.holds(points).sum() < COMPONENTS:
        message = (
            f"the isochrones ({isochrones.teff.min():.0f}-{isochrones.teff.max():.0f} K) do not reach the preset "
            f"{preset} ({box.teff[0]:.0f}-{box.teff[1]:.0f} K)"
        )
        raise UsageError(message)
    scale = np.array([400.0, 0.2, 0.6, 0.15])
    with threadpool_limits(1):
        fit = GaussianMixture(COMPONENTS, reg_covar=1e-4, tol=1e-3, max_iter=200, random_state=seed).fit(points / scale)
    return LabelMixture(fit.weights_, fit.means_ * scale, fit.covariances_ * np.outer(scale, scale))


def draw_training_labels(
    count: int,
    *,
    preset: str = "stargap",
    alpha: float | None = None,
    reference: ReferenceDistribution | None = None,
    isochrones: Isochrones | None = None,
    seed: int = 0,
    draws: int = 1_000_000,
) -> NDArray[np.float64]:
    """Draw labels of synthetic training spectra, co-distributed with real stars (paper section 3.3.2).

    Of `draws` draws of the mixture along the isochrones, as many rounds of them as it takes, each within the box is
    kept with a probability proportional to reference(Teff, [M/H]) / mixture(Teff, [M/H]). Thus no draw is repeated,
    (Teff, [M/H]) follow the reference, and log g and [a/M] the mixture given these. [a/M] is put back into 0..0.4.

    Args:
        count: rows wanted.
        preset: a key of `PRESETS`.
        alpha: holds [a/M] at this value.
        reference: of (Teff, [M/H]); by default `shipped_reference` of the preset.
        isochrones: by default `shipped_isochrones`.
        seed: of the fit and of the draws; equal seeds give equal labels.
        draws: in a round; 10^6 in the paper.

    Returns:
        ``(count, label)`` in the order of `stargap.labels.LABELS`.

    Raises:
        UsageError: no such preset, isochrones that do not reach it, a count or a number of draws below 1, or a
            reference with stars where the mixture has none.

    Example:
        >>> draw_training_labels(1000, preset="paper", alpha=0.0, draws=100_000).shape
        (1000, 4)
    """
    if count < 1 or draws < 1:
        message = f"{count} labels of {draws} draws a round: both must be 1 or more"
        raise UsageError(message)
    box = _preset(preset)
    wanted = shipped_reference(preset) if reference is None else reference
    mixture = fit_label_mixture(isochrones or shipped_isochrones(), preset, seed)
    ceiling = _ceiling(wanted, mixture, box)
    if count * ceiling > MOST_ROUNDS * draws:
        message = f"{count} labels take {count * ceiling:.2g} draws of the mixture, over {MOST_ROUNDS} times {draws}"
        raise UsageError(message)
    generator = np.random.default_rng(seed)
    kept: list[NDArray[np.float64]] = []
    while sum(map(len, kept)) < count:
        labels = mixture.draw(draws, generator)
        labels = labels[box.holds(labels)]
        ratio = _ratio(wanted, mixture, labels[:, [TEFF, M_H]])
        kept.append(labels[generator.random(len(labels)) * ceiling < ratio])
    labels = np.concatenate(kept)
    labels = labels[generator.permutation(len(labels))[:count]]
    labels[:, A_M] = np.clip(labels[:, A_M], 0.0, 0.4) if alpha is None else alpha
    return labels


def _ratio(wanted: ReferenceDistribution, mixture: LabelMixture, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return reference over mixture at (Teff, [M/H]), ``(row,)``."""
    target = wanted.density(*points.T)
    there = target > 0
    target[there] /= np.exp(np.maximum(mixture.log_density(points[there], (TEFF, M_H)), -600.0))
    return target


def _ceiling(wanted: ReferenceDistribution, mixture: LabelMixture, box: LabelPreset) -> float:
    """Return what `_ratio` stays below: the largest value at 25 points of every bin, and a little more."""
    inner = np.linspace(1e-6, 1 - 1e-6, 5)
    axes = [
        (edges[:-1, None] + np.diff(edges)[:, None] * inner).ravel() for edges in (wanted.teff_edges, wanted.m_h_edges)
    ]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    ratio = _ratio(wanted, mixture, points)
    inside = box.holds(np.insert(points, LOGG, np.mean(box.logg), axis=1))
    ratio[(ratio > 0) & ~inside] = np.inf
    worst = ratio.argmax()
    if ratio[worst] > 1e4:
        message = (
            f"the reference has stars near {points[worst, 0]:.0f} K and [M/H] {points[worst, 1]:.2f}, where the "
            f"isochrones or the preset {box.name} have next to none: leave them out, or use other isochrones"
        )
        raise UsageError(message)
    return 1.1 * float(ratio[worst])


class Agreement(NamedTuple):
    """A chi-square test of counts: the statistic, its degrees of freedom, and the chance of a larger one."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


def agreement(labels: ArrayLike, reference: ReferenceDistribution) -> Agreement:
    """Test whether labels follow the reference in its bins of (Teff, [M/H]), within their counting noise.

    Pearson's chi-square of the counts against what the reference makes one expect of as many stars. Bins are joined
    in order of their expectation until each has 5 or more; labels outside the bins are put into the first.

    Args:
        labels: ``(row, label)`` in the order of `stargap.labels.LABELS`.
        reference: taken to be without noise of its own.

    Raises:
        UsageError: too few labels to fill two bins.

    Example:
        >>> labels = draw_training_labels(10_000, preset="paper")
        >>> agreement(labels, shipped_reference("paper")).p_value > 0.01
        True
    """
    from scipy.special import chdtrc

    rows = np.asarray(labels, dtype=float)
    number, inside = reference.bins(rows[:, TEFF], rows[:, M_H])
    found = np.bincount(number[inside], minlength=reference.counts.size)
    expected = reference.counts.ravel() * (len(rows) / reference.stars)
    order = np.argsort(expected, kind="stable")
    starts, running = [0], 0.0
    for position, value in enumerate(expected[order], 1):
        running += value
        if running >= 5:
            starts.append(position)
            running = 0.0
    starts = starts[:-1]
    if len(starts) < 2:
        message = f"{len(rows)} labels fill {len(starts)} bins with 5 or more expected; a test needs two"
        raise UsageError(message)
    wanted, counted = (np.add.reduceat(values[order], starts) for values in (expected, found))
    counted[0] += (~inside).sum()
    statistic = float(((counted - wanted) ** 2 / wanted).sum())
    return Agreement(statistic, len(starts) - 1, float(chdtrc(len(starts) - 1, statistic)))
