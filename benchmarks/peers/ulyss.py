"""ULySS-like (Koleva et al. 2009, A&A 501, 1269; Ding et al. 2022 for M dwarfs): interpolator times a polynomial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial.legendre import legvander

from peers import laspm
from peers.least_squares import BATCH, levenberg, nearest
from peers.survey import Spectra
from stargap.pixels import SPEED_OF_LIGHT, STARGAP
from stargap.theory.emulator import Emulator

DEGREE, HIGH = 10, 60
"""Of the multiplicative Legendre polynomial: the default of the package, and one that follows spectra over 50 A."""
SCALE = np.array([400.0, 0.3, 0.3])
"""Changes of labels that count as 1 in a fit (K, dex, dex)."""
VELOCITY, BROADENING = 20.0, (-0.6, 3.0)
"""Most that a velocity is off (km/s), and range of the change of the line spread (half a variance, A^2)."""


@dataclass(frozen=True)
class Fitted:
    """``labels (star, 3)``, ``velocity (star,)`` beyond the one that a spectrum was prepared at (km/s)."""

    labels: np.ndarray
    velocity: np.ndarray


class Product:
    """The emulator's spectrum with velocity and broadening, times the polynomial of least chi-square.

    Its derivatives are those that the polynomial cannot make (variable projection; Kaufman 1975).
    """

    def __init__(self, emulator: Emulator, flux: torch.Tensor, ivar: torch.Tensor, degree: int):
        self.emulator, self.flux, self.root = emulator, flux, ivar.sqrt()
        x = np.linspace(-1, 1, STARGAP.wavelength.size)
        self.polynomials = torch.as_tensor(legvander(x, degree).T.copy()).float()
        self.stretch = torch.as_tensor(STARGAP.wavelength / SPEED_OF_LIGHT * VELOCITY).float()

    def __call__(self, theta: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return spectra and derivatives in scaled Teff, log g, [M/H], velocity and broadening."""
        labels = torch.zeros(len(theta), 4, dtype=torch.float64)
        labels[:, :3] = theta[:, :3] * torch.as_tensor(SCALE)
        directions = torch.zeros(len(theta), 3, 4, dtype=torch.float64)
        directions[:, range(3), range(3)] = torch.as_tensor(SCALE)
        spectrum, tangents = self.emulator.flux_and_tangents(labels, directions)
        stack = torch.cat([spectrum[:, None], tangents], dim=1)
        stack = stack / spectrum.mean(dim=1)[:, None, None]
        first, second = _differences(stack)
        inner = STARGAP.inner
        moved = -self.stretch * theta[:, None, 3:4].float() * first + theta[:, None, 4:5].float() * second
        stack = stack[:, :, inner] + moved
        stack = torch.cat([stack, (-self.stretch * first[:, 0])[:, None], second[:, :1]], dim=1)

        root, goal = self.root[rows], self.root[rows] * self.flux[rows]
        columns = self.polynomials * (root * stack[:, 0])[:, None]
        norm = columns.square().sum(dim=2, keepdim=True).sqrt().clamp_min(1e-30)
        basis = torch.linalg.qr((columns / norm).transpose(1, 2).double()).Q.float()
        part = (basis.transpose(1, 2) @ goal[:, :, None])[:, :, 0]
        model = (basis @ part[:, :, None])[:, :, 0]
        continuum = torch.where(root > 0, model / (root * stack[:, 0]).clamp_min(1e-30), 0.0)
        slopes = stack[:, 1:] * (root * continuum)[:, None]
        slopes = slopes - (slopes @ basis) @ basis.transpose(1, 2)
        inverse = torch.where(root > 0, 1 / root.clamp_min(1e-30), 0.0)
        return model * inverse, slopes * inverse[:, None]


def _differences(stack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return first and second derivatives with wavelength (per A, per A^2) at the inner pixels."""
    first, last = STARGAP.inner.start, STARGAP.inner.stop
    left, middle, right = (stack[..., first + shift : last + shift] for shift in (-1, 0, 1))
    return (right - left) / 2, right - 2 * middle + left


def fit(spectra: Spectra, emulator: Emulator, *, degree: int = DEGREE) -> Fitted:
    """Fit spectra with their shape from the node of a grid that is nearest to the normalised one."""
    templates, nodes = laspm.synthetic(emulator)
    card = emulator.card
    low = torch.as_tensor(np.array([*(np.array(card.lower[:3]) / SCALE), -1.0, BROADENING[0]]))
    high = torch.as_tensor(np.array([*(np.array(card.upper[:3]) / SCALE), 1.0, BROADENING[1]]))
    found = []
    for first in range(0, len(spectra), BATCH):
        part = spectra[first : first + BATCH]
        size = np.maximum(np.abs(part.continuum).mean(axis=1, keepdims=True), 1e-30)
        continuum = np.maximum(part.continuum / size, 1e-3)
        flux, ivar = torch.as_tensor(part.flux * continuum), torch.as_tensor(part.ivar / continuum**2)
        start = np.zeros((len(part), 5))
        start[:, :3] = nearest(part.flux, part.ivar, templates, nodes) / SCALE
        model = Product(emulator, flux, ivar, degree)
        found.append(levenberg(model, flux, ivar, torch.as_tensor(start), low, high).numpy())
    theta = np.concatenate(found)
    return Fitted(theta[:, :3] * SCALE, theta[:, 3] * VELOCITY)
