"""The Payne: a neural emulator from labels to the broadened spectrum (Ting et al. 2019; paper section 2.2)."""

from __future__ import annotations

from copy import copy
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stargap.arrays import Coefficients, LabelDirections, LabelInputs, SupportSpectra, SupportTangents
from stargap.errors import ModelError
from stargap.labels import LABELS, TEFF
from stargap.modelfile import Card, check_tensors, load_model, save_model
from stargap.pixels import STARGAP

__all__ = ["KIND", "VERSION", "Emulator", "EmulatorCard", "shipped_emulator", "support_digest", "support_range"]

KIND, VERSION = "payne", 1


class EmulatorCard(Card):
    """Card of an emulator: what it predicts, from which labels, and how well."""

    pixel_grid: str
    """First and last wavelength (A) and number of the pixels on which fluxes are predicted."""
    wavelength: tuple[float, float, int]
    resolution: float
    labels: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    hidden: int
    basis: int
    training_data: str
    citation: str
    seed: int
    spectra: tuple[int, int]
    """Numbers of training and validation spectra."""
    validation: dict[str, float]
    """Eq. 1 errors over the validation split: median, 99th percentile, largest, fraction at most 1 %."""


class Emulator(nn.Module):
    """Labels to ln surface flux, broadened to ``card.resolution``, on ``STARGAP.support``.

    A perceptron with two hidden layers gives the coefficients of a fixed linear basis: log f = level + mean +
    basis c(y). Labels are teff (K), logg, m_h, a_m (dex); inside, 5040/teff and the rest are scaled to -1..1.

    Example:
        >>> emulator = shipped_emulator()
        >>> emulator(torch.tensor([[3500.0, 4.8, 0.0, 0.0]])).shape
        torch.Size([1, 3081])
    """

    offset: Tensor
    scale: Tensor
    level: Tensor
    mean: Tensor
    basis: Tensor

    def __init__(self, card: EmulatorCard) -> None:
        super().__init__()
        self.card = card
        size, count = len(card.labels), card.wavelength[2]
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("basis", torch.zeros(card.basis, count))
        self.first = nn.Linear(size, card.hidden)
        self.second = nn.Linear(card.hidden, card.hidden)
        self.last = nn.Linear(card.hidden, card.basis)

    @property
    def lower(self) -> Tensor:
        """Smallest label values of the training set, ``(label,)`` float64."""
        return torch.tensor(self.card.lower, dtype=torch.float64)

    @property
    def upper(self) -> Tensor:
        """Largest label values of the training set, ``(label,)`` float64."""
        return torch.tensor(self.card.upper, dtype=torch.float64)

    def scaled(self, labels: LabelInputs) -> LabelInputs:
        """Return network inputs ``(row, label)``, about -1..1 within the training range."""
        inputs = torch.cat([5040.0 / labels[:, :1], labels[:, 1:]], dim=1).to(self.mean.dtype)
        return (inputs - self.offset) * self.scale

    def coefficients(self, labels: LabelInputs) -> Coefficients:
        """Return the basis coefficients ``(row, basis)``."""
        hidden = nn.functional.silu(self.first(self.scaled(labels)))
        coefficients: Tensor = self.last(nn.functional.silu(self.second(hidden)))
        return coefficients

    def forward(self, labels: LabelInputs) -> SupportSpectra:
        """Return ln flux ``(row, support)`` for labels ``(row, label)``."""
        return torch.addmm(self.mean, self.coefficients(labels), self.basis) + self.level

    def flux(self, labels: LabelInputs) -> SupportSpectra:
        """Return the surface flux F_lambda (erg/s/cm2/A), ``(row, support)``."""
        log_flux: Tensor = self(labels)
        return log_flux.exp()

    def flux_and_tangents(
        self, labels: LabelInputs, directions: LabelDirections
    ) -> tuple[SupportSpectra, SupportTangents]:
        """Return the flux and its derivatives along `directions`, in one forward-mode pass.

        Args:
            labels: ``(row, label)``.
            directions: ``(row, direction, label)``: each a change of labels per unit of a parameter.

        Returns:
            flux ``(row, support)`` in units of ``exp(level)``, so that float32 keeps its precision, and its
            derivatives ``(row, direction, support)``.
        """
        inputs = self.scaled(labels)
        factor = torch.cat([-5040.0 / labels[:, :1].square(), torch.ones_like(labels[:, 1:])], dim=1)
        tangent = (directions * factor[:, None]).to(inputs.dtype) * self.scale
        hidden = inputs
        for layer in (self.first, self.second):
            before = layer(hidden)
            gate = torch.sigmoid(before)
            slope = gate * (1 + before * (1 - gate))
            hidden = before * gate
            tangent = (tangent @ layer.weight.T) * slope[:, None]
        coefficients = torch.cat([self.last(hidden)[:, None], tangent @ self.last.weight.T], dim=1)
        found = (coefficients.flatten(0, 1) @ self.basis).reshape(*coefficients.shape[:2], -1)
        flux = (found[:, 0] + self.mean).exp()
        return flux, found[:, 1:].mul_(flux[:, None])

    def at(self, pixels: Tensor) -> Emulator:
        """Return this emulator at some pixels of the support only; it is not fit for anything but fluxes there."""
        part = copy(self)
        part._buffers = self._buffers | {"mean": self.mean[pixels], "basis": self.basis[:, pixels].contiguous()}
        return part

    def save(self, path: str | Path) -> None:
        """Write the safetensors file and its card."""
        save_model(path, self.card, self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> Emulator:
        """Read an emulator written by `save`.

        Raises:
            ModelError: damaged or foreign files, another pixel grid or label order, missing or extra tensors.
        """
        return cls.assemble(path, *load_model(path, EmulatorCard, KIND, VERSION))

    @classmethod
    def assemble(cls, path: str | Path, card: EmulatorCard, tensors: dict[str, Tensor]) -> Emulator:
        """Build an emulator of the card and tensors read from `path`, checking all that could be wrong with them.

        Raises:
            ModelError: as `load`.
        """
        required = {"pixel_grid": support_digest(), "labels": LABELS}
        for name, value in required.items():
            if getattr(card, name) != value:
                msg = f"{path}: {name} of the model is {getattr(card, name)!r}, this version needs {value!r}"
                raise ModelError(msg)
        sizes = (len(card.lower), len(card.upper), len(card.labels))
        if not (len(set(sizes)) == 1 and 0 < card.hidden <= 4096 and 0 < card.basis <= 4096):
            msg = f"{path}: sizes in the card are impossible (bounds {sizes}, hidden {card.hidden}, basis {card.basis})"
            raise ModelError(msg)
        if card.wavelength != support_range():
            msg = f"{path}: the model covers {card.wavelength}, this version needs {support_range()}"
            raise ModelError(msg)
        bounds = np.array([card.lower, card.upper])
        if not (np.isfinite(bounds).all() and (bounds[0] <= bounds[1]).all() and 0 < bounds[0, TEFF] < bounds[1, TEFF]):
            message = f"{path}: bounds in the card are impossible (lower {card.lower}, upper {card.upper})"
            raise ModelError(message)
        if not (np.isfinite(card.resolution) and card.resolution > 0):
            message = f"{path}: resolution in the card is impossible ({card.resolution})"
            raise ModelError(message)
        emulator = cls(card)
        check_tensors(path, emulator.state_dict(), tensors)
        emulator.load_state_dict(tensors)
        return emulator.eval().requires_grad_(False)


def support_range() -> tuple[float, float, int]:
    """Return the first and last wavelength (A) and the number of the pixels on which emulators predict fluxes."""
    support = STARGAP.support
    return float(support[0]), float(support[-1]), support.size


def support_digest() -> str:
    """Return the text by which a card names these pixels."""
    start, stop, count = support_range()
    return f"{start:g}-{stop:g}/{count}"


@cache
def shipped_emulator() -> Emulator:
    """Return the emulator inside the package: MARCS and Turbospectrum, R = 1800 (its card says the rest)."""
    with as_file(files("stargap") / "models") as folder:
        return Emulator.load(folder / "emulator.safetensors")
