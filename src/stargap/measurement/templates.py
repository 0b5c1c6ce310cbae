"""Spectra at rest to measure velocities against, finely sampled, and seen at any velocity on the log-lambda grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stargap.labels import alpha_relation
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.theory.emulator import Emulator
from stargap.theory.sampling import cubic, cubic_slopes, cubic_weights

__all__ = ["Templates", "emulator_templates", "templates_at"]

FINE = 4
"""Number of template pixels per native pixel."""


@dataclass(frozen=True, eq=False)
class Templates:
    """Spectra at rest to measure velocities against.

    Args:
        flux: ``(template, fine)`` float32, any positive scale, on ``log10(lambda) = first + step * i`` (A, vacuum).
        first: log10 of the first wavelength.
        step: spacing in dex, a whole fraction of that of the log-lambda grid.
    """

    flux: Tensor
    first: float
    step: float

    def at(self, which: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Return templates seen at `velocity` on the log-lambda grid and their derivative by velocity.

        Args:
            which: template numbers ``(row,)``.
            velocity: km/s, ``(row,)``.

        Returns:
            flux ``(row, native)`` and d flux / d velocity (per km/s).
        """
        index, t = self._places(velocity)
        flux = self.flux[which]
        parts = [flux.gather(1, index + k) for k in (-1, 0, 1, 2)]
        slope = -1.0 / (np.log(10.0) * self.step) / (SPEED_OF_LIGHT + velocity.double())
        return _combined(cubic_weights(t), parts), _combined(cubic_slopes(t), parts) * slope[:, None].float()

    def all_at(self, velocity: Tensor) -> Tensor:
        """Return all templates seen at one velocity (km/s, ``()``) on the log-lambda grid, ``(template, native)``."""
        index, t = self._places(velocity[None])
        return _combined(cubic_weights(t), [self.flux.index_select(1, index[0] + k) for k in (-1, 0, 1, 2)])

    def _places(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Return the template pixel left of each native one ``(row, native)``, and the rest of the way ``(row, 1)``."""
        shift = torch.log10(1 + velocity.double() / SPEED_OF_LIGHT)
        begin = ((LOG_LAMBDA.step * LOG_LAMBDA.first - self.first - shift) / self.step)[:, None]
        left = begin.floor()
        every = round(LOG_LAMBDA.step / self.step) * torch.arange(LOG_LAMBDA.count)
        return (left.long() + every).clamp(1, self.flux.shape[1] - 3), (begin - left).float()


def _combined(weights: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total += weight * part
    return total


def templates_at(emulator: Emulator, labels: Tensor) -> Templates:
    """Return an emulator's spectra at `labels` ``(template, 4)`` as templates."""
    flux = emulator.flux(labels)
    flux = flux / flux.mean(dim=1, keepdim=True)
    support, step = STARGAP.support, LOG_LAMBDA.step / FINE
    first = float(np.log10(support[0]))
    fine = 10.0 ** (first + step * np.arange(int((np.log10(support[-1]) - first) / step)))
    return Templates(cubic(flux, torch.as_tensor((fine - support[0]) / STARGAP.step)), first, step)


@cache
def emulator_templates(emulator: Emulator) -> Templates:
    """Return the search templates: every 200 K, [M/H] -1, -0.5, 0 and 0.4, log g 4.8, [a/M] of the prior."""
    teff = np.arange(emulator.card.lower[0], emulator.card.upper[0] + 1, 200.0)
    nodes = np.array([(t, 4.8, m, float(alpha_relation(m))) for t in teff for m in (-1.0, -0.5, 0.0, 0.4)])
    inside = np.unique(nodes.clip(emulator.card.lower, emulator.card.upper), axis=0)
    return templates_at(emulator, torch.as_tensor(inside))
