"""Changes of the training of `architecture = "starnet"` that are tried on docs/results/starnet.md alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from stargap.starnet.layers import Down, initialise, layers_of
from stargap.starnet.losses import Batch, CycleTask, energy_distance
from stargap.starnet.network import Cycles, CycleStarNet
from stargap.starnet.recipe import new_task
from stargap.starnet.training_settings import StarnetSettings

Kind = TypeVar("Kind", bound=CycleTask)

__all__ = ["LabelMap", "MarginalsTask", "PenaltyTask", "noise_told"]

STEP = 0.05
"""Standard deviation of what is added to spectra and latents, whose own is 1, to tell how fast logits change."""
STRENGTH = 10.0
"""Of the penalty, as Mescheder et al. (2018) have it."""
QUIET = 0.01
"""Noise, in standard deviations of flux, below which the told channel hardly differs."""
RIDGE_NOISE = 0.02
"""Noise of flux that the linear map to labels is fitted for."""


def _as(kind: type[Kind], settings: StarnetSettings) -> Kind:
    plain = new_task(settings)
    return kind(plain.network, plain.critics, adversarial=plain.adversarial, noisy=plain.noisy)


class PenaltyTask(CycleTask):
    """Critics whose squared gradient at real examples is penalised (R1, Mescheder et al. 2018), by differences.

    The convolutions here have no second derivatives: the mean square of differences of logits under small noise is
    that of the gradient times the noise's variance (Lin et al. 2025, section 3.4). Slots of padding count as well.
    """

    @classmethod
    def new(cls, settings: StarnetSettings) -> PenaltyTask:
        """Return what a training begins with."""
        return _as(cls, settings)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return total and terms, with the penalty."""
        made = self.transfers(batch)
        total, terms = super().critic_loss(batch)
        z_observed = torch.cat([made.z_observed, made.z_split], dim=2)
        penalty = _steepness(self.critics.synthetic, self.network.inputs(made.synthetic), made.z_synthetic)
        penalty = penalty + _steepness(self.critics.observed, self.network.inputs(made.observed), z_observed)
        return total + STRENGTH / 2 * penalty, terms | {"penalty": penalty.detach()}


def _steepness(critic: nn.Module, spectrum: Tensor, latent: Tensor) -> Tensor:
    """Return the mean squared gradient of a critic's logits, from differences along random directions, in float32."""
    here = spectrum.float(), latent.float()
    change: Tensor = critic(*(x + STEP * torch.randn_like(x) for x in here)) - critic(*here)
    return (change / STEP).square().mean()


@dataclass(frozen=True)
class LabelMap:
    """A linear map of synthetic spectra to labels in standard deviations, ``matrix (pixel, label)`` and offsets."""

    matrix: Tensor
    offset: Tensor

    @classmethod
    def fit(cls, spectra: Tensor, labels: Tensor) -> LabelMap:
        """Fit the map by ridge regression: noise of `RIDGE_NOISE` in every pixel does the least harm."""
        scores = ((labels - labels.mean(dim=0)) / labels.std(dim=0)).double()
        flux, mean = spectra.double(), spectra.double().mean(dim=0)
        square = (flux - mean).T @ (flux - mean)
        square.diagonal().add_(len(flux) * RIDGE_NOISE**2)
        matrix = torch.linalg.solve(square, (flux - mean).T @ scores)
        return cls(matrix.float(), (-mean @ matrix).float())

    def __call__(self, flux: Tensor) -> Tensor:
        """Return labels ``(row, label)`` in standard deviations."""
        return flux @ self.matrix.to(flux) + self.offset.to(flux)


class MarginalsTask(CycleTask):
    """Generators that also bring the marginals of labels of X_o->s near those of X_s.

    The distance is the energy distance of each label's values within a batch, which has no bias, weighted as distances
    of the synthetic domain are. It presumes that both domains have the same labels.
    """

    labels: LabelMap

    @classmethod
    def new(cls, settings: StarnetSettings, labels: LabelMap) -> MarginalsTask:
        """Return what a training begins with."""
        task = _as(cls, settings)
        task.labels = labels
        return task

    def loss_of(self, batch: Batch, cycles: Cycles) -> tuple[Tensor, dict[str, Tensor]]:
        """Return total and terms, with the distance of marginals."""
        total, terms = super().loss_of(batch, cycles)
        found, wanted = (self.labels(flux).split(1, dim=1) for flux in (cycles.to_synthetic, batch.synthetic))
        apart = torch.stack([energy_distance(*pair) for pair in zip(found, wanted, strict=True)]).mean()
        return total + self.weights[0] * apart, terms | {"marginals": apart.detach()}


class _Told(nn.Module):
    """Observed encoder whose second channel is the logarithm of a spectrum's noise."""

    def __init__(self, network: CycleStarNet, seed: int) -> None:
        super().__init__()
        _, *further = layers_of(network.observed_encoder)
        s = network.settings
        told = Down(2, s.outer_filters[0], s.kernel, s.outer_strides[0], s.slope, s.length)
        initialise(told, seed, s.bias)
        self.layers = nn.Sequential(told, *further)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            noise = (x[:, 1:] - x[:, :-1]).abs().float().median(dim=1, keepdim=True).values
            level = (noise / QUIET + 0.1).log10().to(x.dtype).expand_as(x)
        features: Tensor = self.layers(torch.cat([x, level], dim=2))
        return features


def noise_told(settings: StarnetSettings) -> CycleTask:
    """Return what a training begins with whose observed encoder is told the noise of each spectrum.

    It is told by the median difference of neighbouring pixels, so that X_s->o has it as well when it is encoded again.
    """
    task = new_task(settings)
    task.network.observed_encoder = _Told(task.network, settings.seed)
    return task
