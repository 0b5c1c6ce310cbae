"""SLAM-like (Zhang et al. 2020, ApJS 246, 9): each pixel a support vector regression on labels, then least squares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from sklearn.svm import SVR

from peers.least_squares import BATCH, beyond, levenberg, nearest, scaling
from peers.survey import Spectra

EPSILON = 0.05
COSTS, GAMMAS = (0.1, 1.0, 10.0), (0.03, 0.1, 0.3)
"""Grid of hyperparameters of the radial basis functions, in units of labels and fluxes of mean 0 and deviation 1."""
FOLDS = 5
EVERY = 80
"""Hyperparameters are chosen at every so many pixels by cross-validation, and those between take the nearest ones."""
STARTS = 400


@dataclass(frozen=True)
class Kernel:
    """The pixels of one gamma: dual coefficients over the training stars ``(star, pixel)``."""

    gamma: float
    pixels: np.ndarray
    dual: torch.Tensor


@dataclass(frozen=True)
class Slam:
    """Regressions of all pixels, by gamma; ``offset, width (pixel,)`` of fluxes, ``error (pixel,)`` of the model."""

    kernels: list[Kernel]
    constant: torch.Tensor
    offset: torch.Tensor
    width: torch.Tensor
    error: np.ndarray
    training: np.ndarray

    def __call__(self, theta: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return spectra ``(row, pixel)`` and derivatives ``(row, label, pixel)`` at scaled labels."""
        middle, scale = scaling(self.training)
        known = torch.as_tensor((self.training - middle) / scale)
        apart = theta[:, None] - known
        square = apart.square().sum(dim=2)
        count, pixels = len(theta), len(self.offset)
        spectrum, jacobian = torch.zeros(count, pixels), torch.zeros(count, theta.shape[1], pixels)
        for one in self.kernels:
            near = torch.exp(-one.gamma * square)
            spectrum[:, one.pixels] = near.float() @ one.dual
            change = (-2 * one.gamma * near[:, :, None] * apart).transpose(1, 2)
            jacobian[:, :, one.pixels] = change.float() @ one.dual
        return self.offset + self.width * (spectrum + self.constant), self.width * jacobian

    def fit(self, spectra: Spectra) -> np.ndarray:
        """Return labels ``(star, 3)`` of least chi-square."""
        middle, width = scaling(self.training)
        low, high = (torch.as_tensor((side - middle) / width) for side in beyond(self.training))
        some = torch.as_tensor((self.training[:STARTS] - middle) / width)
        templates = self(some, torch.arange(len(some)))[0].numpy()
        found = []
        for first in range(0, len(spectra), BATCH):
            flux, ivar = (getattr(spectra, name)[first : first + BATCH] for name in ("flux", "ivar"))
            ivar = (ivar / (1 + ivar * self.error**2)).astype(np.float32)
            start = torch.as_tensor(nearest(flux, ivar, templates, some.numpy()))
            found.append(levenberg(self, torch.as_tensor(flux), torch.as_tensor(ivar), start, low, high).numpy())
        return middle + width * np.concatenate(found)


def train(spectra: Spectra, labels: np.ndarray) -> Slam:
    """Choose hyperparameters by the mean squared error of stars left out, and train every pixel."""
    middle, scale = scaling(labels)
    known, good = (labels - middle) / scale, spectra.ivar > 0
    seen = good.sum(axis=0) >= 2 * FOLDS
    flux = np.where(good, spectra.flux, np.nan)
    offset, width = np.ones(flux.shape[1]), np.ones(flux.shape[1])
    offset[seen], width[seen] = np.nanmean(flux[:, seen], axis=0), np.nanstd(flux[:, seen], axis=0)
    scaled = (spectra.flux - offset) / width
    places = np.flatnonzero(seen)
    tried = places[EVERY // 2 :: EVERY] if len(places) > EVERY else places
    chosen = {pixel: _choose(known[good[:, pixel]], scaled[good[:, pixel], pixel]) for pixel in tried.tolist()}
    dual, constant = np.zeros(flux.shape), np.zeros(flux.shape[1])
    gammas, error = np.zeros(flux.shape[1]), np.full(flux.shape[1], 1e3)
    for pixel in places.tolist():
        cost, gammas[pixel], mean_square = chosen[int(tried[np.abs(tried - pixel).argmin()])]
        rows = np.flatnonzero(good[:, pixel])
        machine = SVR(C=cost, gamma=gammas[pixel], epsilon=EPSILON).fit(known[rows], scaled[rows, pixel])
        dual[rows[machine.support_], pixel], constant[pixel] = machine.dual_coef_[0], machine.intercept_[0]
        noise = np.median(1 / spectra.ivar[rows, pixel])
        error[pixel] = np.sqrt(max(mean_square * width[pixel] ** 2 - noise, 1e-8))
    kernels = []
    for gamma in GAMMAS:
        pixels = np.flatnonzero(seen & (gammas == gamma))
        if len(pixels):
            kernels.append(Kernel(gamma, pixels, torch.as_tensor(dual[:, pixels]).float()))
    numbers = (torch.as_tensor(array).float() for array in (constant, offset, width))
    return Slam(kernels, *numbers, error, labels)


def _choose(labels: np.ndarray, flux: np.ndarray) -> tuple[float, float, float]:
    """Return cost, gamma and mean squared error of the hyperparameters that predict stars left out best."""
    group = np.arange(len(labels)) % FOLDS
    best = (COSTS[0], GAMMAS[0], np.inf)
    for cost, gamma in product(COSTS, GAMMAS):
        errors = []
        for out in range(FOLDS):
            machine = SVR(C=cost, gamma=gamma, epsilon=EPSILON).fit(labels[group != out], flux[group != out])
            errors.append((machine.predict(labels[group == out]) - flux[group == out]) ** 2)
        mean = float(np.concatenate(errors).mean())
        if mean < best[2]:
            best = (cost, gamma, mean)
    return best
