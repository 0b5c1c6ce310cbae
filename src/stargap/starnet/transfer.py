"""The trained network as a transfer: labels to observed spectra through The Payne and X_s->o (paper section 3.5)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stargap.errors import ModelError
from stargap.fit.forward import EmulatorModel
from stargap.fit.optimise import full_chunks
from stargap.labels import A_M
from stargap.pixels import PAPER, STARGAP, PixelGrid
from stargap.processor import fast_bfloat16
from stargap.spectra.prepare import Prepared
from stargap.starnet.layers import interpolate
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings
from stargap.theory.emulator import Emulator
from stargap.transfer.base import TrainedTransfer, TransferCard
from stargap.transfer.residual.model import INTERPOLATION

__all__ = ["StarnetCard", "StarnetModel", "StarnetTransfer"]

SYNTHETIC_FLOOR = 0.01
"""Normalised error of synthetic spectra (METHOD section 2)."""
ROWS = 8
"""Stars encoded together; batches are padded, so that results do not depend on how many there are."""
GPU_ROWS = 64
"""The same on a GPU."""
LARGEST_NETWORK = 50_000_000
"""Most weights of a network that is read; the published one has about six million."""


class StarnetCard(TransferCard):
    """Card of a trained network; its scores are the label-blind validation scores of the weights that were kept."""

    network: NetworkSettings
    iterations: int


class StarnetTransfer(TrainedTransfer[StarnetCard]):
    """A trained network as fits need it: labels to observed spectra through The Payne and X_s->o.

    Published labels are those of the best-fitting emulator spectrum: the network's two domains share their labels.
    There are no nuisance parameters to fit: z_sp comes from the observed spectrum itself. The noise of the spectrum
    reaches the labels through z_sp as well, and is in their errors (`StarnetModel.pull_back`).

    Args:
        network: the trained network; values are computed in the type of its weights, whatever its `precision`.
        emulator: the synthetic spectra that it was trained on.
        grid: pixel grid of the spectra that it was trained on.
        alpha: [a/M] at which the labels of all training stars were fixed, or None.
        iterations: training steps behind the weights.
        tangent_dtype: type of the derivatives; by default bfloat16 where `stargap.processor.fast_bfloat16`, otherwise
            that of the values. Fits then end within 0.02 standard errors of each other.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> transfer = StarnetTransfer(CycleStarNet(), shipped_emulator())
        >>> transfer.outside(torch.zeros(2, 4)).tolist()
        [False, False]
    """

    kind, version, card_type = "starnet-transfer", 1, StarnetCard
    grids = (STARGAP, PAPER)
    observed_floor = INTERPOLATION
    prior = None
    chi2_limit = math.inf
    alpha_slope = 0.4
    floor: Tensor
    nuisance_scale: Tensor

    def __init__(
        self,
        network: CycleStarNet,
        emulator: Emulator,
        *,
        grid: PixelGrid = STARGAP,
        alpha: float | None = None,
        iterations: int = 0,
        tangent_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network = copy.copy(network)
        self.network.precision = None
        self.emulator, self.grid, self.alpha, self.iterations = emulator, grid, alpha, iterations
        self.tangent_dtype = tangent_dtype or (torch.bfloat16 if fast_bfloat16() else None)
        self.register_buffer("floor", torch.tensor(SYNTHETIC_FLOOR), persistent=False)
        self.register_buffer("nuisance_scale", torch.zeros(0), persistent=False)

    def architecture(self) -> dict[str, Any]:
        """Return the sizes of the network and its training steps, for the card."""
        return {"network": self.network.settings, "iterations": self.iterations}

    @classmethod
    def from_card(cls, path: str | Path, card: StarnetCard, emulator: Emulator) -> StarnetTransfer:
        """Return an untrained network of the sizes in the card.

        Raises:
            ModelError: another number of pixels than that of spectra, or a network that is too large.
        """
        with torch.device("meta"):
            size = sum(tensor.numel() for tensor in CycleStarNet(card.network).state_dict().values())
        if card.network.pixels != STARGAP.wavelength.size or size > LARGEST_NETWORK:
            message = (
                f"{path}: a network of {card.network.pixels} pixels and {size:,} numbers in the card; it needs "
                f"{STARGAP.wavelength.size} pixels and at most {LARGEST_NETWORK:,} numbers"
            )
            raise ModelError(message)
        return cls(CycleStarNet(card.network), emulator, alpha=card.alpha, iterations=card.iterations)

    def find_fault(self) -> str | None:
        """Return what is impossible about the values, if anything is."""
        return None if self.network.deviation > 0 else "a standard deviation of spectra that is not positive"

    def to_synthetic(self, prepared: Prepared) -> Prepared:
        """Return the spectra as X_o->s, with their pixels and errors; the paper's fit gives all pixels one weight."""
        flux = _in_parts(self.network.observed_to_synthetic, prepared)
        sigma = torch.full_like(prepared.sigma, SYNTHETIC_FLOOR) if self.grid == PAPER else prepared.sigma
        return replace(prepared, flux=flux, sigma=sigma)

    def model(self, prepared: Prepared) -> StarnetModel:
        """Return the forward model of the observed domain for these stars."""
        return StarnetModel(self, prepared)

    def publish(self, labels: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return labels ``(row, 3)`` and covariance unchanged, and no systematic error."""
        published = labels[:, :A_M]
        return published, covariance, torch.zeros_like(published)

    def outside(self, labels: Tensor) -> Tensor:
        """Return False for every row: the network does not know its training labels."""
        return torch.zeros(len(labels), dtype=torch.bool)


class StarnetModel:
    """X_s->o of the emulator's spectra with the z_sp of each star (a `DataDependentModel`).

    Where good pixels hold too little of the smoothing kernel, inside wide windows and gaps, a star's normalisation
    says nothing; these pixels of the emulator's spectrum are in-painted as the network's other bad pixels are. The
    last spectrum of each star is kept: fits evaluate their best one again, and spare slots repeat another.
    """

    penalties = 0

    def __init__(self, transfer: StarnetTransfer, prepared: Prepared) -> None:
        self.network, self.tangent_dtype, self.prepared = transfer.network, transfer.tangent_dtype, prepared
        self.synthetic = EmulatorModel(transfer.emulator, prepared)
        self.sound = prepared.inverse_kernel * prepared.grid.least_kernel_weight < 1.0
        self.split = _in_parts(self.network.split_features, prepared)
        self.last_labels = torch.empty(0)
        self.last_spectra = torch.empty(0)

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra and derivatives (see `ForwardModel`)."""
        question = torch.cat([labels[:, None], directions], dim=1).flatten(1)
        stars, pixels = self.sound.shape
        if self.last_labels.shape != (stars, question.shape[1]):
            self.last_labels = question.new_full((stars, question.shape[1]), torch.nan)
            self.last_spectra = torch.empty(stars, 1 + directions.shape[1], pixels)
        place = torch.arange(len(rows))
        same_star = rows[:, None] == rows
        same = same_star & (question[:, None] == question).all(dim=2)
        first = (same | (place[:, None] == place)).int().argmax(dim=1)
        answers = self.last_spectra[rows]
        new = place[(first == place) & (self.last_labels[rows] != question).any(dim=1)]
        for chunk in full_chunks(new, ROWS, GPU_ROWS):
            batch = new[chunk]
            answers[batch] = self._compute(labels[batch], directions[batch], rows[batch])
        answers = answers[first]
        kept = place[same_star.int().argmax(dim=1) == place]
        self.last_labels[rows[kept]], self.last_spectra[rows[kept]] = question[kept], answers[kept]
        return answers[:, 0], answers[:, 1:]

    def pull_back(self, labels: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """Return v^T (d model / d observed flux) through z_sp (see `DataDependentModel`)."""
        result = torch.zeros_like(vectors)
        for batch in full_chunks(rows, ROWS, GPU_ROWS):
            star = rows[batch]
            still = labels.new_zeros(len(batch), 1, labels.shape[1])
            with torch.no_grad():
                synthetic = self._synthetic(labels[batch], still, star)[:, 0]
                shared = self.network.decode_shared(self.network.encode_synthetic(synthetic))
            flux = self.prepared.flux[star].requires_grad_()
            with torch.enable_grad():
                split = self.network.split_features(flux, self.prepared.good[star])
                spectra = self.network.features_decoded(shared, split)
            for k in range(vectors.shape[1]):
                result[batch, k] = torch.autograd.grad(spectra, flux, vectors[batch, k], retain_graph=True)[0]
        return result

    @torch.no_grad()
    def _compute(self, labels: Tensor, directions: Tensor, rows: Tensor) -> Tensor:
        both = self._synthetic(labels, directions, rows)
        value, change = self.network.observed_and_tangents(
            both[:, 0], both[:, 1:], self.split[rows], tangent_dtype=self.tangent_dtype
        )
        return torch.cat([value[:, None], change], dim=1)

    def _synthetic(self, labels: Tensor, directions: Tensor, rows: Tensor) -> Tensor:
        """Return the emulator's spectra and their derivatives, in-painted, ``(row, 1 + parameter, pixel)``."""
        flux, tangents = self.synthetic(labels, directions, rows)
        sound, typical = self.sound[rows], self.network.typical
        both = torch.cat([(flux - typical)[:, None], tangents], dim=1)
        both = torch.where(sound[:, None], both, interpolate(both, sound))
        return torch.cat([both[:, :1] + typical, both[:, 1:]], dim=1)


@torch.no_grad()
def _in_parts(encode: Callable[[Tensor, Tensor], Tensor], prepared: Prepared) -> Tensor:
    stars = torch.arange(len(prepared.flux))
    batches = list(full_chunks(stars, ROWS, GPU_ROWS)) or [stars]
    parts = [encode(prepared.flux[batch], prepared.good[batch]) for batch in batches]
    return torch.cat(parts)[: len(stars)]
