"""LASPM-like (Du et al. 2021, RAA 21, 202; 2024): the five templates of least chi-square, combined linearly."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls

from peers.least_squares import BATCH, chi_squares
from peers.survey import Spectra
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import Emulator

BEST = 5
TEFF, LOGG, M_H = np.arange(2800.0, 4301.0, 100.0), np.arange(4.5, 5.51, 0.25), np.arange(-1.0, 0.51, 0.25)
"""Nodes of the synthetic templates, (K, dex, dex): the spacing of public grids, halved in log g."""
SUM_WEIGHT = 1e3
"""How firmly coefficients are held to a sum of 1, over the root of the trace of their normal matrix."""


def synthetic(emulator: Emulator) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised spectra of a grid of labels, ``(template, pixel)``, and the labels ``(template, 3)``."""
    labels = np.stack([axis.ravel() for axis in np.meshgrid(TEFF, LOGG, M_H, indexing="ij")], axis=1)
    return spectra_of(emulator, labels), labels


def spectra_of(emulator: Emulator, labels: np.ndarray) -> np.ndarray:
    """Return the emulator's normalised spectra at labels ``(row, 3)``, [a/M] = 0."""
    full = torch.as_tensor(np.column_stack([labels, np.zeros(len(labels))]))
    found = []
    for part in full.split(1024):
        flux = emulator.flux(part)
        found.append(normalise(flux, torch.ones_like(flux))[0].numpy())
    return np.concatenate(found)


def fit(spectra: Spectra, templates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels ``(star, 3)``: those of the best templates, weighed by the coefficients of their combination.

    The combination is that of least chi-square whose coefficients are not negative and have a sum of 1.
    """
    found = np.zeros((len(spectra), labels.shape[1]))
    for first in range(0, len(spectra), BATCH):
        flux, ivar = (getattr(spectra, name)[first : first + BATCH] for name in ("flux", "ivar"))
        distance = chi_squares(flux, ivar, templates)
        best = np.argpartition(distance, min(BEST, len(templates) - 1), axis=1)[:, :BEST]
        for row, chosen in enumerate(best):
            found[first + row] = combine(flux[row], ivar[row], templates[chosen]) @ labels[chosen]
    return found


def combine(flux: np.ndarray, ivar: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return the coefficients of a star's templates, ``(template,)``, with a sum of 1."""
    root = np.sqrt(ivar)
    design, goal = (templates * root).T.astype(float), (flux * root).astype(float)
    heavy = SUM_WEIGHT * np.sqrt((design**2).sum())
    design = np.vstack([design, np.full((1, len(templates)), heavy)])
    upper = np.linalg.qr(np.column_stack([design, np.append(goal, heavy)]), mode="r")
    coefficients, _ = nnls(upper[:, :-1], upper[:, -1])
    return coefficients / coefficients.sum()
