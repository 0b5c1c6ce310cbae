"""The default transfer: the emulator, what nature adds to its spectra, and what its labels then mean."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stargap.devices import per_device
from stargap.errors import ModelError
from stargap.fit.forward import EmulatorModel
from stargap.fit.polynomial import clamp_to_range, monomial_slopes, monomials
from stargap.labels import LOGG
from stargap.pixels import SPEED_OF_LIGHT, STARGAP
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.transfer.base import TrainedTransfer, TransferCard, all_positive

__all__ = [
    "INTERPOLATION",
    "MAPPED",
    "SPLIT",
    "SPLIT_SCALE",
    "LabelMap",
    "ResidualCard",
    "ResidualModel",
    "ResidualTransfer",
    "powers",
    "shipped_transfer",
    "split_columns",
]

MAPPED = 3
"""Number of labels that the transfer depends on and maps, the first ones: teff, logg, m_h."""
SPLIT = ("line_spread", "line_spread_slope", "velocity")
"""Numbers of a spectrum that belong to its observation, not to its star (z_sp): ln of the line width over the
emulator's, its change over 1500 A, and the velocity left after the shift to the rest frame (km/s)."""
SPLIT_SCALE = (0.06, 0.06, 5.0)
"""Their standard deviations over stars: fibres differ by about 6 % in line width, velocities of M dwarfs by 5 km/s."""
INTERPOLATION = 0.004
"""Error floor of fits through the correction, which is its error of interpolation."""
EVERY = slice(None)
FWHM_TO_SIGMA = 0.42466090014400953


def powers(degree: int) -> Tensor:
    """Return the exponents of all monomials of three variables up to `degree`, ``(feature, 3)``; the first is 1.

    Example:
        >>> powers(1).tolist()
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """
    every = sorted(
        (e for e in product(range(degree + 1), repeat=MAPPED) if sum(e) <= degree), key=lambda e: (sum(e), e)
    )
    return torch.tensor(every)


class LabelMap(nn.Module):
    """From the labels at which the emulator fits best to the star's: y = u + P(u) W, P monomials of scaled labels.

    Beyond `low` and `high` (scaled labels of the training stars) P holds its value.

    Example:
        >>> identity = LabelMap(2)
        >>> identity(torch.tensor([[3500.0, 4.75, 0.0]]).double()).tolist()
        [[3500.0, 4.75, 0.0]]
    """

    exponents: Tensor
    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    weight: Tensor
    covariance: Tensor

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.register_buffer("exponents", powers(degree), persistent=False)
        count = len(self.exponents)
        self.register_buffer("centre", torch.tensor([3600.0, 4.8, 0.0], dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([400.0, 0.25, 0.3], dtype=torch.float64))
        self.register_buffer("low", torch.full((MAPPED,), -9.0, dtype=torch.float64))
        self.register_buffer("high", torch.full((MAPPED,), 9.0, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(count, MAPPED, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(MAPPED, count, count, dtype=torch.float64))

    def clamped(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled labels clamped to the range of the training stars, and where they are inside it."""
        return clamp_to_range((labels[:, :MAPPED] - self.centre) / self.scale, self.low, self.high)

    def scaled(self, labels: Tensor) -> Tensor:
        """Return scaled labels ``(row, 3)``, clamped to the range of the training stars."""
        return self.clamped(labels)[0]

    def forward(self, labels: Tensor) -> Tensor:
        """Return mapped labels ``(row, 3)`` float64 of ``(row, 3)``."""
        return labels[:, :MAPPED] + monomials(self.scaled(labels), self.exponents) @ self.weight * self.scale

    def jacobian(self, labels: Tensor) -> Tensor:
        """Return d mapped / d given ``(row, 3, 3)``."""
        x, inside = self.clamped(labels)
        change = torch.einsum("rfk,fj->rjk", monomial_slopes(x, self.exponents), self.weight)
        return torch.eye(MAPPED).double() + change * self.scale[:, None] / self.scale * inside.double()[:, None]

    def stretch(self, factor: Tensor, mean: Tensor) -> None:
        """Stretch mapped labels about a mean in scaled labels, ``(3,)`` each; of a map of degree 0 nothing changes."""
        order = self.exponents.sum(dim=1)
        if not (order == 1).any():
            return
        whole = self.weight.clone()
        for row in torch.nonzero(order == 1)[:, 0]:
            whole[row] += self.exponents[row]
        whole[0] -= mean
        self.weight += (factor - 1) * whole
        self.covariance *= factor.square()[:, None, None]

    def uncertainty(self, labels: Tensor) -> Tensor:
        """Return the standard error of the map itself ``(row, 3)``: what no number of spectra takes away."""
        x = monomials(self.scaled(labels), self.exponents)
        return torch.einsum("rf,kfg,rg->rk", x, self.covariance, x).clamp_min(0).sqrt() * self.scale


class ResidualCard(TransferCard):
    """Card of a residual transfer."""

    degree: int
    map_degree: int
    split: bool


class ResidualTransfer(TrainedTransfer[ResidualCard]):
    """Cycle-StarNet's two domains with the emulator as synthetic encoder and decoder and labels as shared latent.

    A normalised observed spectrum is the emulator's times (1 + c), where c is a parabola in the labels at every pixel
    (zero before training: the transfer starts as the identity), plus the `SPLIT` numbers of the star times derivatives
    of the spectrum. ``floor`` is the part of the emulator's error that c has to carry, pixel by pixel: fits in the
    synthetic domain weigh pixels with it, so that badly modelled ones do not decide.

    Args:
        emulator: the synthetic domain.
        degree: of c in the labels.
        map_degree: of the label map.
        split: fit a line spread and a velocity to each star.
        alpha: [a/M] at which all fits fix it, or None where it follows [M/H].

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> transfer = ResidualTransfer(shipped_emulator())
        >>> float(transfer.correction(torch.tensor([[3500.0, 4.8, 0.0, 0.0]])).abs().max())
        0.0
    """

    kind, version, card_type = "residual-transfer", 1, ResidualCard
    observed_floor = INTERPOLATION
    prior = None
    chi2_limit = math.inf
    alpha_slope = 0.4
    exponents: Tensor
    coefficients: Tensor
    floor: Tensor
    split_scale: Tensor
    sequence: Tensor

    def __init__(
        self,
        emulator: Emulator,
        *,
        degree: int = 2,
        map_degree: int = 1,
        split: bool = True,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        pixels = STARGAP.wavelength.size
        self.emulator = emulator
        every = powers(degree)
        self.register_buffer("exponents", every[every[:, LOGG] == 0], persistent=False)
        self.degree, self.map_degree = degree, map_degree
        self.alpha = alpha
        self.label_map = LabelMap(map_degree)
        self.register_buffer("coefficients", torch.zeros(len(self.exponents), pixels))
        self.register_buffer("floor", torch.full((pixels,), 0.015))
        self.register_buffer("split_scale", torch.tensor(SPLIT_SCALE if split else ()))
        self.register_buffer("sequence", torch.zeros(5, dtype=torch.float64))

    def correction(self, labels: Tensor, pixels: Tensor | slice = EVERY) -> Tensor:
        """Return c ``(row, pixel)`` at labels ``(row, 4)``."""
        return monomials(self.label_map.scaled(labels), self.exponents).float() @ self.coefficients[:, pixels]

    def correction_and_tangents(
        self, labels: Tensor, directions: Tensor, pixels: Tensor | slice = EVERY
    ) -> tuple[Tensor, Tensor]:
        """Return c ``(row, pixel)`` and its derivatives along `directions` ``(row, k, pixel)``."""
        x, inside = self.label_map.clamped(labels)
        scale = torch.where(inside, 1 / self.label_map.scale, 0.0)
        slope = monomial_slopes(x, self.exponents) * scale.unsqueeze(1)
        along = torch.einsum("rfl,rkl->rkf", slope, directions[:, :, :MAPPED])
        return self.correction(labels, pixels), along.float() @ self.coefficients[:, pixels]

    def correct(
        self, flux: Tensor, tangents: Tensor, labels: Tensor, directions: Tensor, pixels: Tensor | slice = EVERY
    ) -> tuple[Tensor, Tensor]:
        """Return the emulator's normalised spectra ``(row, pixel)`` and derivatives corrected, at some pixels."""
        change, slope = self.correction_and_tangents(labels, directions, pixels)
        return flux * (1 + change), tangents * (1 + change)[:, None] + flux[:, None] * slope

    def main_sequence(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return log g of the main sequence at labels ``(row, 3)`` and its derivative ``(row, 3)``."""
        x = ((labels - self.label_map.centre) / self.label_map.scale).clamp(-3.0, 3.0)
        a, b, c, d, _ = self.sequence
        slope = torch.stack([b + 2 * c * x[:, 0], torch.zeros_like(x[:, 0]), d.expand(len(x))], dim=1)
        return a + b * x[:, 0] + c * x[:, 0] ** 2 + d * x[:, 2], slope / self.label_map.scale

    def model(self, prepared: Prepared) -> ResidualModel:
        """Return the forward model of the observed domain for these stars."""
        return ResidualModel(self, prepared)

    @property
    def nuisance_scale(self) -> Tensor:
        """Standard deviations of the `SPLIT` numbers over stars, ``(3,)``, or none."""
        return self.split_scale

    def nuisance_columns(self, spectra: Tensor) -> Tensor:
        """Return the change of spectra per unit of each `SPLIT` number, ``(row, 3, pixel)``."""
        return split_columns(spectra)[:, : len(self.split_scale)]

    def outside(self, labels: Tensor) -> Tensor:
        """Return which fitted labels are beyond the training stars', ``(row,)`` bool."""
        place = (labels[:, :MAPPED] - self.label_map.centre) / self.label_map.scale
        return ((place < self.label_map.low) | (place > self.label_map.high)).any(dim=1)

    def publish(self, labels: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a star's labels from those at which the model fits, their covariance, and their systematic error.

        The label map, then the main sequence of the bright training stars as a prior on log g, with the width that
        they have: where a spectrum says little about log g, its place on the main sequence does. Covariances are of
        noise, as repeats show it; that stars are not on the sequence is systematic, like the error of the map.
        """
        mapped = self.label_map(labels)
        jacobian = self.label_map.jacobian(labels)
        spread = jacobian @ covariance @ jacobian.transpose(1, 2)
        systematic = self.label_map.uncertainty(labels)
        width = self.sequence[4]
        if width > 0:
            expected, slope = self.main_sequence(mapped)
            slope = slope - torch.eye(MAPPED, dtype=slope.dtype)[1]
            across = (spread @ slope[:, :, None])[:, :, 0]
            gain = across / ((slope * across).sum(dim=1) + width**2)[:, None]
            mapped = mapped - gain * (expected - mapped[:, 1])[:, None]
            keep = torch.eye(MAPPED, dtype=slope.dtype) - gain[:, :, None] * slope[:, None, :]
            spread = keep @ spread @ keep.transpose(1, 2)
            systematic = torch.hypot(systematic, gain.abs() * width)
        return mapped, spread, systematic

    def bend_map(self, degree: int) -> None:
        """Begin the label map anew, as the identity, with another degree and the same range."""
        label_map = LabelMap(degree)
        label_map.low.copy_(self.label_map.low)
        label_map.high.copy_(self.label_map.high)
        self.label_map, self.map_degree = label_map, degree

    def architecture(self) -> dict[str, Any]:
        """Return degrees and whether there are split numbers, for the card."""
        return {"degree": self.degree, "map_degree": self.map_degree, "split": len(self.split_scale) > 0}

    @classmethod
    def from_card(cls, path: str | Path, card: ResidualCard, emulator: Emulator) -> ResidualTransfer:
        """Return an untrained transfer with the degrees in the card.

        Raises:
            ModelError: the degrees are impossible.
        """
        if not (0 <= card.degree <= 4 and 0 <= card.map_degree <= 3):
            message = f"{path}: degrees in the card are impossible ({card.degree}, {card.map_degree})"
            raise ModelError(message)
        return cls(emulator, degree=card.degree, map_degree=card.map_degree, split=card.split, alpha=card.alpha)

    def find_fault(self) -> str | None:
        """Return what is impossible about the values, if anything is."""
        label_map = self.label_map
        if not (all_positive(self.floor, self.split_scale, label_map.scale) and self.sequence[4] >= 0):
            return "floors, scales or a width that are not positive"
        if (label_map.low > label_map.high).any():
            return "a reversed range of the training stars' labels"
        return None


@cache
def shipped_transfer() -> ResidualTransfer:
    """Return the transfer inside the package, trained on simulated stars and meant for such only."""
    with as_file(files("stargap") / "models") as folder:
        return ResidualTransfer.load(folder / "transfer-simulated.safetensors")


def split_columns(spectrum: Tensor) -> Tensor:
    """Return the change of normalised spectra ``(row, pixel)`` per unit of each `SPLIT` number, ``(row, 3, pixel)``."""
    first, second = _differences(spectrum)
    spread, along, velocity = _split_factors(spectrum.dtype)
    return torch.stack([second * spread, second * along, first * velocity], dim=1)


def combined_split(spectra: Tensor, numbers: Tensor) -> Tensor:
    """Return the change of spectra ``(row, k, pixel)`` by `SPLIT` `numbers` ``(row, 3)``, ``(row, k, pixel)``."""
    first, second = _differences(spectra)
    spread, along, velocity = _split_factors(spectra.dtype)
    width = numbers[:, :1] * spread + numbers[:, 1:2] * along
    return second * width[:, None] + first * (numbers[:, 2:] * velocity)[:, None]


def _differences(spectra: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and second differences per pixel, 0 at both ends."""
    step = torch.diff(spectra)
    first, second = torch.zeros_like(spectra), torch.zeros_like(spectra)
    first[..., 1:-1] = (step[..., 1:] + step[..., :-1]) / 2
    second[..., 1:-1] = step[..., 1:] - step[..., :-1]
    return first, second


@per_device
def _split_factors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_differences` are multiplied with, ``(pixel,)`` each: widths, their tilt, and the velocity."""
    wavelength = torch.as_tensor(STARGAP.wavelength, dtype=dtype)
    variance = (wavelength / 1800.0 * FWHM_TO_SIGMA) ** 2
    return variance, variance * ((wavelength - 7500.0) / 1500.0), -wavelength / SPEED_OF_LIGHT


class ResidualModel:
    """Observed-domain spectra of a `ResidualTransfer`, normalised as each star was (a `ForwardModel`)."""

    penalties = 0

    def __init__(self, transfer: ResidualTransfer, prepared: Prepared) -> None:
        self.transfer = transfer
        self.synthetic = EmulatorModel(transfer.emulator, prepared)

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra and derivatives (see `ForwardModel`)."""
        return self.transfer.correct(*self.synthetic(labels, directions, rows), labels, directions)
