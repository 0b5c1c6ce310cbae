"""Fits through Cycle-StarNet: the published transfer, with labels on one side of it (paper section 3.5)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stargap.fit.labels import EmulatorModel
from stargap.spectra.prepare import Prepared
from stargap.starnet.layers import interpolate
from stargap.starnet.network import CycleStarNet
from stargap.theory.emulator import Emulator
from stargap.transfer.residual.model import INTERPOLATION

__all__ = ["ReferenceModel", "ReferenceTransfer", "fast_bfloat16"]

SYNTHETIC_FLOOR = 0.01
"""Normalised error of synthetic spectra (METHOD section 2)."""
LABELS_PUBLISHED = 3
ROWS = 8
"""Stars encoded together; batches are padded, so that results do not depend on how many there are."""


def fast_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices itself, as far as torch tells."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(told.get(name)) for name in ("avx512_bf16", "amx_bf16"))


class ReferenceTransfer:
    """A trained network as fits need it: labels to observed spectra through The Payne and X_s->o.

    Published labels are those of the best-fitting emulator spectrum: the network's two domains share their labels.
    There are no split numbers to fit: z_sp is the spectrum's own.

    Args:
        network: the trained network; values are computed in the type of its weights, whatever its `precision`.
        emulator: the synthetic spectra that it was trained on.
        tangent_dtype: type of the derivatives; by default bfloat16 where `fast_bfloat16`, or else that of the values.
            Fits then end within 0.02 standard errors of each other.
    """

    observed_floor = INTERPOLATION
    prior = None
    chi2_limit = math.inf

    def __init__(self, network: CycleStarNet, emulator: Emulator, *, tangent_dtype: torch.dtype | None = None) -> None:
        self.network = copy.copy(network)
        self.network.precision = None
        self.emulator = emulator
        self.tangent_dtype = tangent_dtype or (torch.bfloat16 if fast_bfloat16() else None)
        self.floor = torch.tensor(SYNTHETIC_FLOOR)
        self.split_scale = torch.zeros(0)

    def to_synthetic(self, prepared: Prepared) -> Prepared:
        """Return the spectra as X_o->s, with the pixels and errors that they have."""
        return replace(prepared, flux=_in_parts(self.network.observed_to_synthetic, prepared))

    def model(self, prepared: Prepared) -> ReferenceModel:
        """Return the forward model of the observed domain for these stars."""
        return ReferenceModel(self, prepared)

    def split_columns(self, spectra: Tensor) -> Tensor:
        """Return no columns, ``(row, 0, pixel)``."""
        return spectra.new_zeros(len(spectra), 0, spectra.shape[1])

    def publish(self, labels: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return labels ``(row, 3)`` and covariance as they are, and no systematic error."""
        published = labels[:, :LABELS_PUBLISHED]
        return published, covariance, torch.zeros_like(published)

    def outside(self, labels: Tensor) -> Tensor:
        """Return False for every row: the network does not know its training labels."""
        return torch.zeros(len(labels), dtype=torch.bool)


class ReferenceModel:
    """X_s->o of the emulator's spectra with each star's own z_sp (a `ForwardModel`).

    Where good pixels hold too little of the smoothing kernel, inside wide windows and gaps, a star's normalisation
    says nothing; these pixels of the emulator's spectrum are in-painted as the network's other bad pixels are. The
    last spectrum of each star is kept: fits ask for their best one again, and for equal ones in spare slots.
    """

    def __init__(self, transfer: ReferenceTransfer, prepared: Prepared) -> None:
        self.network, self.tangent_dtype = transfer.network, transfer.tangent_dtype
        self.synthetic = EmulatorModel(transfer.emulator, prepared)
        self.sound = prepared.inverse_kernel * prepared.grid.least_kernel_weight < 1.0
        self.split = _in_parts(self.network.split_features, prepared)
        self.asked = torch.empty(0)
        self.answers = torch.empty(0)

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra and derivatives (see `ForwardModel`)."""
        question = torch.cat([labels[:, None], directions], dim=1).flatten(1)
        stars, pixels = self.sound.shape
        if self.asked.shape != (stars, question.shape[1]):
            self.asked = question.new_full((stars, question.shape[1]), torch.nan)
            self.answers = torch.empty(stars, 1 + directions.shape[1], pixels)
        place = torch.arange(len(rows))
        same_star = rows[:, None] == rows
        same = same_star & (question[:, None] == question).all(dim=2)
        first = (same | (place[:, None] == place)).int().argmax(dim=1)
        answers = self.answers[rows]
        wanted = place[(first == place) & (self.asked[rows] != question).any(dim=1)]
        for start in range(0, len(wanted), ROWS):
            some = wanted[torch.arange(start, start + ROWS).clamp_max(len(wanted) - 1)]
            answers[some] = self._compute(labels[some], directions[some], rows[some])
        answers = answers[first]
        kept = place[same_star.int().argmax(dim=1) == place]
        self.asked[rows[kept]], self.answers[rows[kept]] = question[kept], answers[kept]
        return answers[:, 0], answers[:, 1:]

    @torch.no_grad()
    def _compute(self, labels: Tensor, directions: Tensor, rows: Tensor) -> Tensor:
        flux, tangents = self.synthetic(labels, directions, rows)
        sound, typical = self.sound[rows], self.network.typical
        both = torch.cat([(flux - typical)[:, None], tangents], dim=1)
        both = torch.where(sound[:, None], both, interpolate(both, sound))
        value, change = self.network.observed_and_tangents(
            both[:, 0] + typical, both[:, 1:], self.split[rows], tangent_dtype=self.tangent_dtype
        )
        return torch.cat([value[:, None], change], dim=1)


@torch.no_grad()
def _in_parts(encode: Callable[[Tensor, Tensor], Tensor], prepared: Prepared) -> Tensor:
    stars = len(prepared.flux)
    rows = torch.arange(-(-stars // ROWS) * ROWS).clamp_max(stars - 1)
    parts = [encode(prepared.flux[some], prepared.good[some]) for some in rows.split(ROWS)]
    return torch.cat(parts)[:stars]
