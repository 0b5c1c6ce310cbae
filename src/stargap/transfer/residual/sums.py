"""Sums over training stars, pixel by pixel: what the emulator cannot reproduce, and the correction's coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from stargap.fit.forward import EmulatorModel
from stargap.fit.polynomial import monomials
from stargap.spectra.prepare import Prepared
from stargap.transfer.residual.model import INTERPOLATION, ResidualTransfer

__all__ = ["CorrectionSum", "FloorSum"]

FLOOR_SMOOTHING = 9
"""Pixels over which the learned floor is averaged."""
CLEAR = 0.05
"""Normalised error above which a pixel says nothing of the emulator, and flux below which it says too little."""
LEAST_SEEN = 0.1
"""Fraction of the stars that must show a pixel for a correction there; windows and velocities hide some pixels."""


class FloorSum:
    """Mean square of what the emulator leaves beyond the noise, pixel by pixel."""

    def __init__(self, pixels: int) -> None:
        self.squares, self.count = torch.zeros(pixels).double(), torch.zeros(pixels).double()

    def add(self, prepared: Prepared, model: Tensor) -> None:
        """Add stars and the spectra that fit them best, ``(star, pixel)``; NaN where there is none."""
        seen = prepared.good & (prepared.sigma < CLEAR) & torch.isfinite(model)
        excess = (prepared.flux - torch.nan_to_num(model)).square() - prepared.sigma.square()
        self.squares += torch.where(seen, excess, 0.0).double().sum(dim=0)
        self.count += seen.sum(dim=0)

    def value(self, least: float) -> Tensor:
        """Return the floor ``(pixel,)``, at least `least`."""
        mean = (self.squares / self.count.clamp_min(1)).clamp_min(0)
        kernel = torch.full((1, 1, FLOOR_SMOOTHING), 1.0 / FLOOR_SMOOTHING, dtype=torch.float64)
        smooth = torch.nn.functional.conv1d(mean[None, None], kernel, padding=FLOOR_SMOOTHING // 2)[0, 0]
        return (smooth + least**2).sqrt().float()


class CorrectionSum:
    """Normal equations of the correction's coefficients, pixel by pixel."""

    def __init__(self, transfer: ResidualTransfer) -> None:
        self.transfer = transfer
        count, pixels = transfer.coefficients.shape
        self.matrix = torch.zeros(pixels, count, count).double()
        self.vector = torch.zeros(pixels, count).double()
        self.seen, self.stars = torch.zeros(pixels), 0

    def add(self, labels: Tensor, prepared: Prepared) -> None:
        """Add stars with labels ``(star, 4)``; those without, or beyond the training stars', do not count."""
        usable = torch.isfinite(labels).all(dim=1)
        labels = torch.where(usable[:, None], labels, (self.transfer.emulator.lower + self.transfer.emulator.upper) / 2)
        usable &= ~self.transfer.outside(labels)
        still = torch.zeros(len(labels), 1, 4).double()
        model = EmulatorModel(self.transfer.emulator, prepared)
        synthetic, _ = model(labels, still, torch.arange(len(labels)))
        sound = prepared.good & usable[:, None] & (synthetic > CLEAR)
        synthetic = torch.where(sound, synthetic, 1.0)
        variance = (prepared.sigma / synthetic).square() + INTERPOLATION**2
        weight = torch.where(sound, 1.0 / variance, 0.0).double()
        x = monomials(self.transfer.label_map.scaled(labels), self.transfer.exponents)
        self.seen += sound.sum(dim=0)
        self.stars += int(usable.sum())
        outer = (x[:, :, None] * x[:, None, :]).flatten(1)
        self.matrix += (weight.T @ outer).view(-1, x.shape[1], x.shape[1])
        self.vector += (weight * torch.where(sound, prepared.flux / synthetic - 1.0, 0.0)).T @ x

    def solve(self, ridge: float) -> Tensor:
        """Return coefficients ``(feature, pixel)``, expected to be about `ridge`; 0 at pixels that few stars show."""
        prior = torch.eye(self.matrix.shape[1]).double() / ridge**2
        solution = torch.linalg.solve(self.matrix + prior, self.vector).T.float()
        return torch.where(self.seen >= LEAST_SEEN * self.stars, solution, 0.0)
