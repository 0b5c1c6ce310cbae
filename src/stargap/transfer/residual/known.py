"""What stars of known labels say of the label map: errors in both, a mixture of single stars and pairs, zero points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stargap.fit.polynomial import monomial_slopes, monomials
from stargap.transfer.anchor_labels import PAIR_SHIFT, PAIR_WIDTH, ZERO_POINT, AnchorLabels
from stargap.transfer.residual.model import MAPPED, LabelMap

__all__ = ["AnchorTerm", "LabelledFits"]

SUREST = 0.999
"""Most that a star is taken to be single, or a pair."""
WILD, WILDEST = 0.001, (1000.0, 0.7, 1.0)
"""Share of labels that are of another star or another kind of star, and how far they may be off (K, dex, dex)."""
LEAST_EXCESS = 30.0
"""Stars of a source from which its excess scatter is found."""


@dataclass(frozen=True)
class LabelledFits:
    """Fits of stars with known labels: ``fitted (anchor, 3)``, ``covariance (anchor, 3, 3)``, and ``known``."""

    fitted: Tensor
    covariance: Tensor
    known: AnchorLabels

    def __len__(self) -> int:
        return len(self.fitted)

    def __getitem__(self, rows: Tensor) -> LabelledFits:
        return LabelledFits(self.fitted[rows], self.covariance[rows], self.known[rows.numpy()])


class AnchorTerm:
    """Minus the ln likelihood of known labels y given fitted ones u and a map h, with errors in both.

    Of a single star y - h(u) - z, z the zero point of its source, has the covariance S = E + J C J', E of the known
    labels, C of the fitted ones and J = dh/du of the round before (`update`). An unresolved pair is off by more
    (`PAIR_SHIFT`, `PAIR_WIDTH`); a star is either, with the chance ``p_single`` beforehand, but for a few labels that
    are anything (`WILD`). The best map predicts y from u, so that errors of u flatten it: by its `reliability`.


    Anchors whose published labels are in the range of their source's take part, whatever their own known ones are.
    Labels of a source may scatter by more than their errors say: ``excess (source, 3)`` is what its single stars leave
    beyond S, and part of E.

    Args:
        label_map: its ``centre``, ``scale``, ``low``, ``high`` and exponents.
        fits: stars of known labels.
    """

    def __init__(self, label_map: LabelMap, fits: LabelledFits) -> None:
        known, scale = fits.known, label_map.scale
        self.scale = scale
        self.place = (fits.fitted[:, :MAPPED] - label_map.centre) / scale
        inside = self.place.clamp(label_map.low, label_map.high)
        self.terms, self.slopes = monomials(inside, label_map.exponents), monomial_slopes(inside, label_map.exponents)
        self.noise = fits.covariance / (scale[:, None] * scale)
        self.goal = (torch.as_tensor(known.labels) - label_map.centre) / scale
        self.variance = (torch.as_tensor(known.errors) / scale).square()
        self.single = torch.as_tensor(known.p_single).clamp(1 - SUREST, SUREST)
        self.source, self.sources = torch.as_tensor(known.source), len(known.names)
        self.pair = torch.tensor(PAIR_SHIFT, dtype=torch.float64) / scale
        self.wide = (torch.tensor(PAIR_WIDTH, dtype=torch.float64) / scale).square()
        self.wild = math.log(WILD) - float((torch.tensor(WILDEST, dtype=torch.float64) / scale).log().sum())
        self.width = torch.tensor(ZERO_POINT, dtype=torch.float64) / scale
        ranges = (torch.as_tensor(known.ranges()) - label_map.centre) / scale
        self.low, self.high = ranges[:, 0][self.source], ranges[:, 1][self.source]
        self.used = torch.as_tensor(known.inside)
        self.excess = torch.zeros(self.sources, MAPPED, dtype=torch.float64)
        self.chance = self.single
        self.update(torch.zeros(len(label_map.exponents), MAPPED).double(), torch.zeros(self.points).double())

    @property
    def points(self) -> int:
        """Number of zero points: three for each source but the first."""
        return (self.sources - 1) * MAPPED

    def residual(self, weight: Tensor, points: Tensor) -> Tensor:
        """Return y - h(u) - z in scaled labels, ``(anchor, 3)``, for the map's weights ``(term, 3)``."""
        first = torch.zeros(1, MAPPED, dtype=torch.float64)
        zero = torch.cat([first, points.view(-1, MAPPED)]) * self.width
        return self.goal - self.place - self.terms @ weight - zero[self.source]

    def cost(self, weight: Tensor, points: Tensor) -> Tensor:
        """Return minus the ln likelihood of all anchors, and that of the zero points (in units of their widths)."""
        return 0.5 * points.square().sum() - self._logs(weight, points)[1][self.used].sum()

    def update(self, weight: Tensor, points: Tensor) -> None:
        """Choose anchors, and take determinants and what labels scatter by beyond their errors, at a map."""
        mapped = self.place + self.terms @ weight
        self.used = ((mapped >= self.low) & (mapped <= self.high)).all(dim=1)
        jacobian = torch.eye(MAPPED, dtype=torch.float64) + torch.einsum("rfk,fj->rjk", self.slopes, weight)
        self.carried = jacobian @ self.noise @ jacobian.transpose(1, 2)
        self.spread = self.carried + torch.diag_embed(self.variance + self.excess[self.source])
        one, every = self._logs(weight, points)
        self.chance = (one - every).exp() * self.used
        left = self.residual(weight, points).square() - self.spread.diagonal(dim1=1, dim2=2)
        for source in range(self.sources):
            share = self.chance * (self.source == source)
            if share.sum() >= LEAST_EXCESS:
                more = (share[:, None] * left).sum(dim=0) / share.sum()
                self.excess[source] = (self.excess[source] + more).clamp_min(0.0)
        self.spread = self.carried + torch.diag_embed(self.variance + self.excess[self.source])

    def reliability(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of the variance of published labels that is not their errors', and their means, ``(3,)``.

        By this much a map that predicts labels is flatter than the labels are (regression dilution; Fuller 1987,
        *Measurement Error Models*, section 1.1).
        """
        share = (self.chance / self.chance.sum())[:, None]
        mapped = self.place + self.terms @ weight
        mean = (share * mapped).sum(dim=0)
        noise = (share * self.carried.diagonal(dim1=1, dim2=2)).sum(dim=0)
        return 1 - noise / (share * (mapped - mean).square()).sum(dim=0), mean

    def _logs(self, weight: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln(chance times density) of single stars, and of all kinds together, ``(anchor,)``."""
        left, wide = self.residual(weight, points), self.spread + torch.diag(self.wide)
        one = self.single.log() - 0.5 * _squares(self.spread, left) - _log_root(self.spread)
        two = (1 - self.single).log() - 0.5 * _squares(wide, left - self.pair) - _log_root(wide)
        return one, torch.stack([one, two, torch.full_like(one, self.wild)]).logsumexp(dim=0)


def _log_root(spread: Tensor) -> Tensor:
    """Return half of ln of the determinants of symmetric matrices ``(row, 3, 3)``."""
    one, two, three, *_ = _pivots(spread)
    return 0.5 * (one.log() + two.log() + three.log())


def _squares(spread: Tensor, left: Tensor) -> Tensor:
    """Return left' spread^-1 left, ``(row,)``: elementwise over rows, many times faster than LAPACK row by row."""
    one, two, three, b, c, e = _pivots(spread)
    first = left[:, 0]
    second = left[:, 1] - b * first
    third = left[:, 2] - c * first - e * second
    return first.square() / one + second.square() / two + third.square() / three


def _pivots(spread: Tensor) -> tuple[Tensor, ...]:
    """Return D and L of L D L' = spread: three pivots, then L21, L31, L32, each ``(row,)``."""
    one = spread[:, 0, 0]
    b, c = spread[:, 1, 0] / one, spread[:, 2, 0] / one
    two = spread[:, 1, 1] - b * spread[:, 1, 0]
    e = (spread[:, 2, 1] - c * spread[:, 1, 0]) / two
    three = spread[:, 2, 2] - c * spread[:, 2, 0] - e.square() * two
    return one, two, three, b, c, e
