"""Prior of a dwarf's labels: log g near the main sequence, a broad [M/H]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stargap.arrays import Labels, LabelsAndDirections, PerStar, PriorSlopes, PriorTerms
from stargap.fit.polynomial import clamp_to_range
from stargap.labels import LOGG, M_H, TEFF
from stargap.theory.isochrones import Isochrones

__all__ = ["LabelPrior", "fit_sequence"]

TERMS = 2
"""Number of terms that a prior adds to the residuals: log g and [M/H]."""
CENTRE, SCALE = 3600.0, 800.0
"""Teff (K) is scaled to (Teff - 3600) / 800."""
RANGE = ((-1.1, 1.2), (-1.5, 0.3))
"""Scaled Teff and [M/H] beyond which log g keeps its value: 2720 to 4560 K, and the metallicities of the isochrones."""
DEGREES = (5, 2)
"""Degrees of the polynomial in scaled Teff and in [M/H]."""


@dataclass(frozen=True)
class LabelPrior:
    """Gaussian prior of a label fit: log g about the main sequence at the star's Teff and [M/H], [M/H] about a mean.

    Args:
        sequence: coefficients of log g as a polynomial in scaled Teff and [M/H], ``(6, 3)`` float64 (`fit_sequence`).
        logg_width: standard deviation of log g about the main sequence (dex).
        m_h: mean of [M/H] (dex).
        m_h_width: its standard deviation (dex).

    Example:
        >>> from stargap.theory.isochrones import shipped_isochrones
        >>> prior = LabelPrior(fit_sequence(shipped_isochrones()), logg_width=0.05, m_h=-0.05, m_h_width=0.5)
        >>> labels = torch.tensor([[3500.0, 4.9, 0.45, 0.0]]).double()
        >>> residual, _ = prior(labels, torch.eye(4).double()[None, :3])
        >>> residual.round(decimals=1).tolist()
        [[4.2, 1.0]]
    """

    sequence: Tensor
    logg_width: float
    m_h: float
    m_h_width: float

    def logg(self, labels: Labels) -> tuple[PerStar, Labels]:
        """Return log g of the main sequence at labels ``(row, 4)`` and its derivative by them ``(row, 4)``.

        Beyond `RANGE` it keeps its value and its derivative is 0.
        """
        given = torch.stack([(labels[:, TEFF] - CENTRE) / SCALE, labels[:, M_H]], dim=1)
        held, inside = clamp_to_range(given, *torch.tensor(RANGE, dtype=torch.float64).T)
        x, y = held[:, :1], held[:, 1:]
        in_x = torch.cumprod(torch.cat([torch.ones_like(x), x.expand(-1, DEGREES[0])], dim=1), dim=1)
        constant, linear, square = self.sequence.T
        by_power = constant + y * (linear + y * square)
        by_x = (by_power[:, 1:] * in_x[:, :-1] * torch.arange(1, DEGREES[0] + 1)).sum(dim=1)
        by_y = ((linear + 2 * y * square) * in_x).sum(dim=1)
        slope = torch.zeros_like(labels)
        slope[:, TEFF] = torch.where(inside[:, 0], by_x / SCALE, 0.0)
        slope[:, M_H] = torch.where(inside[:, 1], by_y, 0.0)
        return (by_power * in_x).sum(dim=1), slope

    def __call__(self, labels: Labels, directions: LabelsAndDirections) -> tuple[PriorTerms, PriorSlopes]:
        """Return what a fit adds to its residuals: departures in standard deviations, and their derivatives.

        Args:
            labels: ``(row, 4)`` float64.
            directions: labels per unit of each free parameter, ``(row, parameter, 4)``; the departure of a label that
                no parameter moves by itself carries no information and is 0.

        Returns:
            departures of log g and [M/H] ``(row, 2)``, and their derivatives ``(row, parameter, 2)``.
        """
        expected, slope = self.logg(labels)
        departure = torch.stack(
            [(labels[:, LOGG] - expected) / self.logg_width, (labels[:, M_H] - self.m_h) / self.m_h_width], dim=1
        )
        across = directions[:, :, LOGG] - (directions * slope[:, None]).sum(dim=2)
        change = torch.stack([across / self.logg_width, directions[:, :, M_H] / self.m_h_width], dim=2)
        free = torch.stack([(directions[:, :, place] != 0).any(dim=1) for place in (LOGG, M_H)], dim=1)
        return torch.where(free, departure, 0.0), torch.where(free[:, None], change, 0.0)


def fit_sequence(isochrones: Isochrones) -> Tensor:
    """Describe log g along isochrones by a polynomial in Teff and [M/H], ``(6, 3)`` float64.

    It follows the isochrones inside the package within 0.024 dex (rms 0.006) from 2720 to 4500 K.
    """
    teff = np.linspace(CENTRE + SCALE * RANGE[0][0], 4500.0, 120)
    grid = np.stack(np.meshgrid(teff, np.linspace(*RANGE[1], 37), indexing="ij"), axis=-1).reshape(-1, 2)
    logg = isochrones.logg_at(grid[:, 0], grid[:, 1])
    known = np.isfinite(logg)
    x, y = (grid[known, 0] - CENTRE) / SCALE, grid[known, 1]
    powers = [(j, k) for j in range(DEGREES[0] + 1) for k in range(DEGREES[1] + 1)]
    design = np.stack([x**j * y**k for j, k in powers], axis=1)
    solution = np.linalg.lstsq(design, logg[known], rcond=None)[0]
    return torch.as_tensor(solution.reshape(DEGREES[0] + 1, DEGREES[1] + 1))
