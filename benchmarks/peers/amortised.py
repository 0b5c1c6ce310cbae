"""An amortised network: from a spectrum at once to labels and their covariance, trained on the emulator's spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from peers.laspm import spectra_of
from peers.survey import Spectra
from stargap.pixels import STARGAP
from stargap.theory.emulator import Emulator
from stargap.theory.label_prior import draw_training_labels

LABELS = 3
SPECTRA, BATCH, ITERATIONS, RATE = 30_000, 128, 2_500, 2e-3
WIDE = 0.5
"""Share of the training labels that are uniform over the emulator's range, log g about its main sequence."""
LOGG_WIDTH = 0.15
OPACITY, CONTRAST, NODES = 0.10, 0.10, 25
"""Opacity errors: normalised flux to a power whose logarithm has these deviations, at nodes over the range and as a
whole. The opacities of the simulated nature are wrong by 0.1 to 0.15 dex: these are comparable."""
SPREAD, VELOCITY = 0.35, 0.12
"""Deviations of the line spread (half a variance, A^2) and of the velocity left (A)."""
LIMIT = 5.0


class Network(nn.Module):
    """Convolutions with strides, then labels and the Cholesky factor of their inverse covariance."""

    def __init__(self, middle: torch.Tensor, width: torch.Tensor):
        super().__init__()
        self.register_buffer("middle", middle)
        self.register_buffer("width", width)
        sizes, strides = ((2, 16, 9), (16, 32, 7), (32, 64, 7), (64, 64, 5)), (4, 3, 3, 3)
        layers: list[nn.Module] = []
        for (into, out, kernel), stride in zip(sizes, strides, strict=True):
            layers += [nn.Conv1d(into, out, kernel, stride=stride, padding=kernel // 2), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            count = self.body(torch.zeros(1, 2, STARGAP.wavelength.size)).shape[1]
        self.head = nn.Sequential(nn.Linear(count, 128), nn.SiLU(), nn.Linear(128, LABELS + LABELS * (LABELS + 1) // 2))

    def forward(self, flux: torch.Tensor, ivar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled labels ``(star, 3)`` and the factor ``(star, 3, 3)``; pixels without weight do not matter."""
        good = ivar > 0
        depth = torch.where(good, flux - 1, 0.0).clamp(-LIMIT, LIMIT)
        noise = torch.where(good, ivar.clamp_min(1e-6).rsqrt(), 1.0).clamp(1e-3, 1.0).log() / 3
        output = self.head(self.body(torch.stack([4 * depth, noise], dim=1)))
        factor = torch.zeros(len(output), LABELS, LABELS)
        row, column = np.tril_indices(LABELS)
        factor[:, row, column] = output[:, LABELS:]
        diagonal = torch.arange(LABELS)
        factor[:, diagonal, diagonal] = factor[:, diagonal, diagonal].clamp(-6, 6).exp()
        return output[:, :LABELS], factor

    def fit(self, spectra: Spectra) -> np.ndarray:
        """Return labels ``(star, 3)``."""
        found = []
        with torch.no_grad():
            for first in range(0, len(spectra), 512):
                part = spectra[first : first + 512]
                mean, _ = self(torch.as_tensor(part.flux), torch.as_tensor(part.ivar))
                found.append((self.middle + self.width * mean).numpy())
        return np.concatenate(found).astype(float)


def negative_log_likelihood(mean: torch.Tensor, factor: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return minus the ln likelihood of labels, ``(star,)``: normal, with the inverse covariance L L'."""
    apart = (factor.transpose(1, 2) @ (labels - mean)[:, :, None])[:, :, 0]
    logs = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return apart.square().sum(dim=1) / 2 - logs + LABELS * np.log(2 * np.pi) / 2


@dataclass(frozen=True)
class Disturbed:
    """Emulator spectra ``(spectrum, pixel)`` that are drawn with everything that may be wrong with them."""

    flux: torch.Tensor
    sigma: np.ndarray
    good: np.ndarray
    generator: torch.Generator

    def draw(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return fluxes and inverse variances of some spectra, with noise and masks of random observed ones."""
        flux, count = self.flux[rows], len(rows)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=self.generator)

        nodes = CONTRAST * normal(count, 1) + OPACITY * normal(count, NODES)
        power = nn.functional.interpolate(nodes[:, None], size=flux.shape[1], mode="linear", align_corners=True)[:, 0]
        flux = flux.clamp_min(0.02) ** power.exp()
        left, right = torch.roll(flux, 1, dims=1), torch.roll(flux, -1, dims=1)
        flux = flux + VELOCITY * normal(count, 1) * (right - left) / 2
        flux = flux + SPREAD * normal(count, 1).clamp(-1.5, 2.5) * (right - 2 * flux + left)
        observed = torch.randint(len(self.sigma), (count,), generator=self.generator).numpy()
        sigma, good = torch.as_tensor(self.sigma[observed]), torch.as_tensor(self.good[observed])
        flux = flux + sigma * normal(*flux.shape)
        return torch.where(good, flux, 1.0), torch.where(good, sigma**-2, 0.0)


def training_labels(emulator: Emulator, count: int, seed: int) -> np.ndarray:
    """Draw labels ``(star, 3)``: some as the label prior has them, the others over the whole range."""
    labels = draw_training_labels(count, alpha=0.0, seed=seed)[:, :3]
    rng = np.random.default_rng(seed)
    wide = rng.permutation(count)[: round(WIDE * count)]
    low, high = (np.array(side[:3]) for side in (emulator.card.lower, emulator.card.upper))
    low = np.maximum(low, [2800.0, 4.0, -1.3])
    x, z = (labels[:, 0] - 3500) / 500, labels[:, 2]
    design = np.stack([np.ones_like(x), x, x**2, z], axis=1)
    line = np.linalg.lstsq(design, labels[:, 1], rcond=None)[0]
    labels[wide, 0], labels[wide, 2] = rng.uniform(low[0], high[0], len(wide)), rng.uniform(low[2], high[2], len(wide))
    x, z = (labels[wide, 0] - 3500) / 500, labels[wide, 2]
    labels[wide, 1] = np.stack([np.ones_like(x), x, x**2, z], axis=1) @ line
    labels[:, 1] += rng.normal(0.0, LOGG_WIDTH, count)
    return np.clip(labels, low, high)


def train(emulator: Emulator, observed: Spectra, *, seed: int = 0, iterations: int = ITERATIONS) -> Network:
    """Train on disturbed spectra of the emulator; of the observed ones only noise and masks are used."""
    labels = training_labels(emulator, SPECTRA, seed)
    middle, width = (torch.as_tensor(part).float() for part in (labels.mean(axis=0), labels.std(axis=0)))
    torch.manual_seed(seed)
    network, generator = Network(middle, width), torch.Generator().manual_seed(seed)
    good = observed.ivar > 0
    sigma = np.where(good, np.maximum(observed.ivar, 1e-8) ** -0.5, 1.0).astype(np.float32)
    spectra = Disturbed(torch.as_tensor(spectra_of(emulator, labels)).float(), sigma, good, generator)
    goal = (torch.as_tensor(labels).float() - middle) / width
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=iterations, pct_start=0.1)
    for _ in range(iterations):
        rows = torch.randint(SPECTRA, (BATCH,), generator=generator)
        flux, ivar = spectra.draw(rows)
        loss = negative_log_likelihood(*network(flux, ivar), goal[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return network.eval()
