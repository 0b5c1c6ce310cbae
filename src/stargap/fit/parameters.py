"""Which labels a fit varies, which it fixes, and how [a/M] follows [M/H]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from stargap.arrays import Bounds, Labels, LabelsAndDirections, ParameterValues, PerStar
from stargap.labels import A_M, LABELS, M_H, alpha_relation

__all__ = ["Parameters", "relation_of"]

ROUNDING = 0.05
"""Width (dex) over which the corners of the relation of [a/M] to [M/H] are rounded."""


@dataclass(frozen=True)
class Parameters:
    """Which labels are free, fixed or tied, and their bounds.

    Args:
        lower: lower bounds of all labels, in the order of ``LABELS`` (K, dex, dex, dex).
        upper: upper bounds.
        fixed: values of fixed labels by name; unless `free_alpha`, a_m that is not among them follows [M/H] by the
            relation of the label prior.
        free_alpha: fit [a/M] as well.
        alpha_slope: [a/M] (dex) that the relation reaches at [M/H] = -1.

    Example:
        >>> box = Parameters((2800.0, 4.0, -2.0, 0.0), (4500.0, 5.5, 0.5, 0.4), fixed={"logg": 4.8})
        >>> box.free
        ('teff', 'm_h')
        >>> labels, directions = box.expand(torch.tensor([[3500.0, -0.5]]).double())
        >>> labels.numpy().round(3).tolist(), directions[0, 1].numpy().round(3).tolist()
        ([[3500.0, 4.8, -0.5, 0.2]], [0.0, 0.0, 1.0, -0.4])
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)
    free_alpha: bool = False
    alpha_slope: float = 0.4

    def __hash__(self) -> int:
        fixed = tuple(sorted(self.fixed.items()))
        return hash((self.lower, self.upper, fixed, self.free_alpha, self.alpha_slope))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the fitted labels, in the order of ``LABELS``."""
        return tuple(name for name in LABELS if name not in self.fixed and (self.free_alpha or name != LABELS[A_M]))

    @property
    def places(self) -> list[int]:
        """Positions of the fitted labels in ``LABELS``."""
        return [LABELS.index(name) for name in self.free]

    @property
    def tied(self) -> bool:
        """Whether [a/M] follows [M/H]."""
        return not self.free_alpha and LABELS[A_M] not in self.fixed

    def bounds(self) -> tuple[Bounds, Bounds]:
        """Return the lower and upper bounds of the free labels, ``(parameter,)`` float64 each."""
        lower, upper = (torch.tensor(side, dtype=torch.float64)[self.places] for side in (self.lower, self.upper))
        return lower, upper

    def expand(self, theta: ParameterValues) -> tuple[Labels, LabelsAndDirections]:
        """Return all labels of given free ones, and their derivatives with respect to the free ones.

        Args:
            theta: values of the free labels, ``(row, parameter)``.

        Returns:
            labels ``(row, 4)`` and derivatives ``(row, parameter, 4)``; the slope of a tied [a/M] is 0 where the
            bounds cut its relation to [M/H].
        """
        labels = theta.new_zeros(theta.shape[0], len(LABELS))
        directions = theta.new_zeros(theta.shape[0], theta.shape[1], len(LABELS))
        for name, value in self.fixed.items():
            labels[:, LABELS.index(name)] = value
        for k, place in enumerate(self.places):
            labels[:, place] = theta[:, k]
            directions[:, k, place] = 1.0
        if self.tied:
            low, high = self.lower[A_M], self.upper[A_M]
            m_h = labels[:, M_H]
            relation = relation_of(labels, self.alpha_slope)
            slope = self.alpha_slope * (torch.sigmoid(-(m_h + 1) / ROUNDING) - torch.sigmoid(-m_h / ROUNDING))
            labels[:, A_M] = relation.clamp(low, high)
            inside = (relation >= low) & (relation <= high)
            directions[:, :, A_M] += directions[:, :, M_H] * torch.where(inside, slope, 0.0)[:, None]
        return labels, directions


def relation_of(labels: Labels, slope: float = 0.4) -> PerStar:
    """Return [a/M] (dex) that is related to [M/H] of `labels` ``(row, 4)``, `slope` at -1, with rounded corners."""
    return torch.as_tensor(alpha_relation(labels[:, M_H].cpu().numpy(), rounding=ROUNDING, slope=slope)).to(labels)
