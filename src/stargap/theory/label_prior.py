"""Labels of synthetic training spectra: along isochrones, co-distributed with real stars (paper section 3.3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.labels import A_M, LOGG, M_H, TEFF, alpha_relation
from stargap.theory.isochrones import Isochrones, shipped_isochrones
from stargap.theory.reference_labels import LabelBox, ReferenceDistribution, find_label_box, shipped_reference

__all__ = ["LabelMixture", "draw_training_labels", "fit_label_mixture"]

COMPONENTS = 24
"""Number of Gaussians of the mixture."""
MOST_ROUNDS = 100
"""`draw_training_labels` takes at most this many rounds of draws."""
BLOCK = 4096
"""Densities are computed for this many rows at a time."""


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
    from threadpoolctl import threadpool_limits

    box = find_label_box(preset)
    teff = np.arange(box.teff[0] - 60, box.teff[1] + 61, 20.0)
    m_h = np.arange(box.m_h[0] - 0.15, box.m_h[1] + 0.151, 0.05)
    sheet = np.stack([axis.ravel() for axis in np.meshgrid(teff, m_h, indexing="ij")], axis=1)
    logg = isochrones.logg_at(sheet[:, 0], sheet[:, 1])
    points = np.column_stack([sheet[:, 0], logg, sheet[:, 1], alpha_relation(sheet[:, 1])])[np.isfinite(logg)]
    if box.contains(points).sum() < COMPONENTS:
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
        count: number of rows.
        preset: a key of `stargap.theory.reference_labels.LABEL_BOXES`.
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
    box = find_label_box(preset)
    target = shipped_reference(preset) if reference is None else reference
    mixture = fit_label_mixture(isochrones or shipped_isochrones(), preset, seed)
    ceiling = _ceiling(target, mixture, box)
    if count * ceiling > MOST_ROUNDS * draws:
        message = f"{count} labels take {count * ceiling:.2g} draws of the mixture, over {MOST_ROUNDS} times {draws}"
        raise UsageError(message)
    generator = np.random.default_rng(seed)
    kept: list[NDArray[np.float64]] = []
    while sum(map(len, kept)) < count:
        labels = mixture.draw(draws, generator)
        labels = labels[box.contains(labels)]
        ratio = _ratio(target, mixture, labels[:, [TEFF, M_H]])
        kept.append(labels[generator.random(len(labels)) * ceiling < ratio])
    labels = np.concatenate(kept)
    labels = labels[generator.permutation(len(labels))[:count]]
    labels[:, A_M] = np.clip(labels[:, A_M], 0.0, 0.4) if alpha is None else alpha
    return labels


def _ratio(reference: ReferenceDistribution, mixture: LabelMixture, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return reference over mixture at (Teff, [M/H]), ``(row,)``."""
    ratio = reference.density(*points.T)
    there = ratio > 0
    ratio[there] /= np.exp(np.maximum(mixture.log_density(points[there], (TEFF, M_H)), -600.0))
    return ratio


def _ceiling(reference: ReferenceDistribution, mixture: LabelMixture, box: LabelBox) -> float:
    """Return what `_ratio` stays below: the largest value at 25 points of every bin, and a little more."""
    inner = np.linspace(1e-6, 1 - 1e-6, 5)
    axes = [
        (edges[:-1, None] + np.diff(edges)[:, None] * inner).ravel()
        for edges in (reference.teff_edges, reference.m_h_edges)
    ]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    ratio = _ratio(reference, mixture, points)
    inside = box.contains(np.insert(points, LOGG, np.mean(box.logg), axis=1))
    ratio[(ratio > 0) & ~inside] = np.inf
    worst = ratio.argmax()
    if ratio[worst] > 1e4:
        message = (
            f"the reference has stars near {points[worst, 0]:.0f} K and [M/H] {points[worst, 1]:.2f}, where the "
            f"isochrones or the preset {box.name} have next to none: leave them out, or use other isochrones"
        )
        raise UsageError(message)
    return 1.1 * float(ratio[worst])
