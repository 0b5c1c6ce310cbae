"""The Cannon (Ness et al. 2015, ApJ 808, 16): each pixel a quadratic function of labels, with an own scatter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch

from peers.least_squares import BATCH, beyond, levenberg, nearest, scaling
from peers.survey import Spectra

SCATTERS = np.concatenate([[1e-5], np.geomspace(1e-3, 0.3, 16)])
"""Scatters of a pixel (normalised flux) among which the likeliest is chosen."""
STARTS = 400
"""Training stars whose model spectra are compared with a star to begin its fit."""
RIDGE = 1e-9


def terms(labels: torch.Tensor) -> torch.Tensor:
    """Return 1, the labels and their products of two, ``(row, term)``."""
    pairs = [labels[:, i] * labels[:, j] for i, j in _pairs(labels.shape[1])]
    return torch.cat([torch.ones_like(labels[:, :1]), labels, torch.stack(pairs, dim=1)], dim=1)


def slopes(labels: torch.Tensor) -> torch.Tensor:
    """Return the derivatives of `terms`, ``(row, label, term)``."""
    count, size = labels.shape
    found = torch.zeros(count, size, 1 + size + len(_pairs(size)), dtype=labels.dtype)
    for k in range(size):
        found[:, k, 1 + k] = 1.0
        for place, (i, j) in enumerate(_pairs(size), start=1 + size):
            found[:, k, place] = (i == k) * labels[:, j] + (j == k) * labels[:, i]
    return found


def _pairs(size: int) -> list[tuple[int, int]]:
    return list(combinations_with_replacement(range(size), 2))


@dataclass(frozen=True)
class Cannon:
    """``coefficients (term, pixel)`` of scaled labels, ``scatter (pixel,)``, and the labels it was trained on."""

    coefficients: torch.Tensor
    scatter: np.ndarray
    training: np.ndarray

    def fit(self, spectra: Spectra) -> np.ndarray:
        """Return labels ``(star, 3)`` of least chi-square, noise and scatter of pixels together."""
        middle, width = scaling(self.training)
        low, high = (torch.as_tensor((side - middle) / width) for side in beyond(self.training))
        some = torch.as_tensor((self.training[:STARTS] - middle) / width)
        templates = (terms(some).float() @ self.coefficients).numpy()

        def model(theta: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return terms(theta).float() @ self.coefficients, slopes(theta).float() @ self.coefficients

        found = []
        for first in range(0, len(spectra), BATCH):
            flux, ivar = (getattr(spectra, name)[first : first + BATCH] for name in ("flux", "ivar"))
            ivar = with_scatter(ivar, self.scatter)
            start = torch.as_tensor(nearest(flux, ivar, templates, some.numpy()))
            found.append(levenberg(model, torch.as_tensor(flux), torch.as_tensor(ivar), start, low, high).numpy())
        return middle + width * np.concatenate(found)


def with_scatter(ivar: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Return inverse variances with the scatter of pixels added, 0 where they were 0."""
    return (ivar / (1 + ivar * scatter**2)).astype(np.float32)


def train(spectra: Spectra, labels: np.ndarray) -> Cannon:
    """Fit every pixel for each scatter, and keep the likeliest (eq. 4 of the paper, on a grid of scatters)."""
    middle, width = scaling(labels)
    design = terms(torch.as_tensor((labels - middle) / width))
    size, pixels = design.shape[1], spectra.flux.shape[1]
    products = (design[:, :, None] * design[:, None]).flatten(1)
    flux, ivar = (torch.as_tensor(array).double() for array in (spectra.flux, spectra.ivar))
    best = torch.full((pixels,), -torch.inf, dtype=torch.float64)
    coefficients, scatter = torch.zeros(size, pixels, dtype=torch.float64), np.zeros(pixels)
    for one in SCATTERS:
        weight = ivar / (1 + ivar * one**2)
        normal = (products.T @ weight).T.reshape(pixels, size, size)
        normal = normal + RIDGE * normal[:, :1, :1].clamp_min(1e-30) * torch.eye(size)
        side = (design.T @ (weight * flux)).T
        found = torch.linalg.solve(normal, side).T
        logs = torch.where(weight > 0, weight, 1.0).log()
        likelihood = (logs - weight * (flux - design @ found).square()).sum(dim=0)
        better = likelihood > best
        best = torch.where(better, likelihood, best)
        coefficients[:, better] = found[:, better]
        scatter[better.numpy()] = one
    unseen = (ivar > 0).sum(dim=0) < 2 * size
    coefficients[:, unseen], scatter[unseen.numpy()] = 0.0, 1e3
    return Cannon(coefficients.float(), scatter, labels)
