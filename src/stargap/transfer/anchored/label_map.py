"""From the labels that spectra give to those of the anchors' scale: a stretch of [M/H] that ends at low metallicity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.fit.prior import LabelPrior
from stargap.labels import LOGG, M_H, TEFF
from stargap.rows import FloatColumn, MappedLabels
from stargap.transfer.anchor_labels import PAIR_SHIFT, PAIR_WIDTH

__all__ = ["NUMBERS", "AnchorMap", "fit_map", "fit_slope", "single_weights"]

NUMBERS = ("m_h_offset", "m_h_stretch", "reach", "teff_offset", "teff_per_dex")
EXPECTED = (0.2, 0.5, 60.0, 300.0)
"""Sizes that offset (dex) and stretch of [M/H], offset of Teff (K) and its change with that of [M/H] (K/dex) may have:
they matter for a handful of anchors alone."""
LEAST_SCATTER = (15.0, 0.02)
"""Least scatter (K, dex) of fitted labels of anchors about the map."""
ROUNDS = 8
TRIALS = np.linspace(-0.5, 2.0, 251)


@dataclass(frozen=True)
class AnchorMap:
    """Published labels from fitted ones; ``numbers`` is ``(5,)`` float64 (`NUMBERS`; dex, 1, dex, K, K/dex).

    Published [M/H] = m + d(m), d = (offset + stretch m) w(m), w = 1 for m >= 0 and ``1 / (1 + |m / reach|^3)`` below: a
    straight line near solar [M/H], where spectra are compressed, which becomes the identity well below. Teff moves
    with it along the line on which spectra hardly change, by ``teff_offset + teff_per_dex d``, and log g as the main
    sequence does between the two places.

    Example:
        >>> some = AnchorMap(torch.tensor([-0.05, 0.4, 1.0, 5.0, -100.0]).double())
        >>> moved, slope = some.m_h(torch.tensor([0.2, 0.0, -0.3, -1.8]).double())
        >>> moved.numpy().round(2).tolist(), slope.numpy().round(2).tolist()
        ([0.23, -0.05, -0.47, -1.91], [1.4, 1.4, 1.35, 0.9])
    """

    numbers: Tensor

    def m_h(self, m_h: Tensor) -> tuple[Tensor, Tensor]:
        """Return published [M/H] of fitted ones (any shape, dex) and its derivative."""
        offset, stretch, reach = self.numbers[:3]
        weight, change = _weight(m_h, reach)
        line = offset + stretch * m_h
        return m_h + line * weight, 1 + stretch * weight + line * change

    def __call__(self, labels: Tensor, prior: LabelPrior) -> tuple[Tensor, Tensor]:
        """Return published labels ``(row, 3)`` of fitted ones ``(row, 4)``, and their derivatives ``(row, 3, 3)``.

        Args:
            labels: Teff, log g, [M/H], [a/M] as fitted.
            prior: whose main sequence log g follows.
        """
        moved, slope = self.m_h(labels[:, M_H])
        published = labels.clone()
        published[:, M_H] = moved
        published[:, TEFF] += self.numbers[3] + self.numbers[4] * (moved - labels[:, M_H])
        (before, steep), (after, other) = prior.logg(labels), prior.logg(published)
        published[:, LOGG] += after - before
        teff_slope = self.numbers[4] * (slope - 1)
        jacobian = torch.eye(3, dtype=labels.dtype).repeat(len(labels), 1, 1)
        jacobian[:, TEFF, M_H], jacobian[:, M_H, M_H] = teff_slope, slope
        jacobian[:, LOGG, TEFF] = other[:, TEFF] - steep[:, TEFF]
        jacobian[:, LOGG, M_H] = other[:, TEFF] * teff_slope + other[:, M_H] * slope - steep[:, M_H]
        return published[:, :3], jacobian

    @property
    def gain(self) -> float:
        """Change of fitted [M/H] per dex near solar: what spectra alone give."""
        return float(1 / (1 + self.numbers[1]))

    def rises(self) -> bool:
        """Return whether published [M/H] grows with fitted [M/H] everywhere from -3 to 1."""
        return bool((self.m_h(torch.linspace(-3, 1, 401).double())[1] > 0.1).all())


def _weight(m_h: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return w of `AnchorMap` and its derivative."""
    part = (-m_h / reach).clamp_min(0.0)
    weight = 1 / (1 + part**3)
    return weight, 3 * part**2 * weight.square() / reach


def fit_map(
    fitted: MappedLabels,
    known: MappedLabels,
    errors: MappedLabels,
    p_single: FloatColumn,
    *,
    reach: float,
) -> AnchorMap:
    """Fit the map to anchors that were left out in turn: errors in both, unresolved pairs as a part of a mixture.

    [M/H] minimises the sum of w (known - published)^2 / (error^2 + (slope scatter)^2), with the scatter that makes
    residuals as large as observed: for a straight line this is Deming's regression. w is the chance that a star is
    single (`single_weights`). Without it the regression would be shrunk by the errors of the labels.

    Args:
        fitted: labels ``(spectrum, 3)``.
        known: labels ``(spectrum, 3)`` (K, dex).
        errors: of the known ones, ``(spectrum, 3)``.
        p_single: chance before the spectrum is seen that a star is no unresolved pair, ``(spectrum,)``.
        reach: see `AnchorMap` (dex).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> true = rng.normal([3500, 4.8, 0.0], [200, 0.1, 0.2], (200, 3))
        >>> fitted, known = 0.6 * true, true + rng.normal(0, [40, 0.1, 0.1], true.shape)
        >>> fitted[:, 0] = true[:, 0]
        >>> found = fit_map(fitted, known, np.tile([40, 0.1, 0.1], (200, 1)), np.ones(200), reach=99.0)
        >>> abs(found.gain - 0.6) < 0.06
        True
    """
    m, apart = fitted[:, M_H], known[:, M_H] - fitted[:, M_H]
    weight, change = (part.numpy() for part in _weight(torch.as_tensor(m), torch.tensor(reach).double()))
    offset, stretch, scatter = 0.0, 0.0, LEAST_SCATTER[1]
    single = np.asarray(p_single, dtype=float)
    for _ in range(ROUNDS):
        lines = TRIALS[:, None]
        spread = errors[:, M_H] ** 2 + ((1 + lines * (weight + m * change)) * scatter) ** 2
        left = apart - lines * m * weight
        share = single * weight / spread
        offsets = (share * left).sum(axis=1) / ((share * weight).sum(axis=1) + EXPECTED[0] ** -2)
        costs = (single * (left - offsets[:, None] * weight) ** 2 / spread).sum(axis=1)
        costs += (offsets / EXPECTED[0]) ** 2 + (TRIALS / EXPECTED[1]) ** 2
        best = int(np.argmin(costs))
        offset, stretch = float(offsets[best]), float(TRIALS[best])
        residual = apart - (offset + stretch * m) * weight
        slope = 1 + stretch * weight + (offset + stretch * m) * change
        single = single_weights(residual, np.hypot(errors[:, M_H], slope * scatter), p_single)
        excess = float((single * (residual**2 - errors[:, M_H] ** 2)).sum() / (single * slope**2).sum())
        scatter = max(excess, LEAST_SCATTER[1] ** 2) ** 0.5
    moved = (offset + stretch * m) * weight
    teff_offset, per_dex = _fit_teff(known[:, TEFF] - fitted[:, TEFF], moved, errors[:, TEFF], single)
    return AnchorMap(torch.tensor([offset, stretch, reach, teff_offset, per_dex], dtype=torch.float64))


def _fit_teff(
    apart: NDArray[np.float64], moved: NDArray[np.float64], errors: NDArray[np.float64], single: NDArray[np.float64]
) -> tuple[float, float]:
    """Return offset (K) and change (K/dex) of Teff with the move of [M/H], by weighted least squares."""
    design = np.stack([np.ones_like(moved), moved], axis=1)
    scatter, solution = LEAST_SCATTER[0], np.asarray([0.0, 0.0])
    for _ in range(ROUNDS):
        share = single / (errors**2 + scatter**2)
        matrix = (design * share[:, None]).T @ design + np.diag(np.array(EXPECTED[2:]) ** -2.0)
        solution = np.asarray(np.linalg.solve(matrix, design.T @ (share * apart)))
        left = apart - design @ solution
        excess = (single * (left**2 - errors**2)).sum() / single.sum()
        scatter = max(excess, LEAST_SCATTER[0] ** 2) ** 0.5
    return float(solution[0]), float(solution[1])


def single_weights(
    residual: NDArray[np.float64], sigma: NDArray[np.float64], p_single: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the chance that each star is single, given known - published [M/H] and its error (dex), ``(star,)``.

    Photometry takes an unresolved pair for a star too rich in metals by up to 0.5 dex.

    Example:
        >>> single_weights(np.array([0.0, 0.5, -0.3]), np.full(3, 0.1), np.full(3, 0.9)).round(2)
        array([0.97, 0.  , 0.82])
    """
    shift, width = PAIR_SHIFT[M_H], PAIR_WIDTH[M_H]
    wide = np.hypot(sigma, width)
    one = p_single * np.exp(-0.5 * (residual / sigma) ** 2) / sigma
    two = (1 - p_single) * np.exp(-0.5 * ((residual - shift) / wide) ** 2) / wide
    return one / np.maximum(one + two, 1e-300)


def fit_slope(known: FloatColumn, ours: FloatColumn, error: FloatColumn, own: float) -> float:
    """Return the slope of our labels on known ones with errors in both (Deming), NaN where neither varies.

    Args:
        known: ``(star,)``.
        ours: ``(star,)``.
        error: of the known ones.
        own: scatter of ours.

    Example:
        >>> x = np.linspace(0.0, 1.0, 50)
        >>> round(fit_slope(x, 0.5 * x + 3, np.full(50, 0.1), 0.1), 3)
        0.5
    """
    if len(known) < 3 or np.ptp(known) == 0:
        return float("nan")
    ratio = own**2 / np.mean(error**2)
    covariance = np.cov(known, ours, bias=True)
    across, along, both = covariance[1, 1], covariance[0, 0], covariance[0, 1]
    if both == 0:
        return float("nan")
    apart = across - ratio * along
    return float((apart + np.sqrt(apart**2 + 4 * ratio * both**2)) / (2 * both))
