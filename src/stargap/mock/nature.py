"""Nature of the simulated survey: stars of other physics than the models that measure them, and their labels."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF
from stargap.theory.emulator import Emulator
from stargap.theory.label_prior import draw_training_labels

__all__ = ["Mix", "nature_labels", "nature_logg", "sharp_nature", "shipped_nature"]

Mix = Literal["matched", "galactic"]

LOWER = (2800.0, 4.5, -1.0)
UPPER = (4250.0, 5.5, 0.5)
"""Range of the alternate-physics grid."""
SCATTER = 0.05
"""Standard deviation of log g about the relation (dex)."""
INFLATION = 0.035
"""How much lower log g of active stars is (dex): radii 4 % larger."""


def nature_logg(teff: NDArray[np.float64], m_h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log g of nature's main sequence at Teff (K) and [M/H], without scatter.

    A quadratic in Teff and a line in [Fe/H] fitted to the 180 stars of Mann et al. 2015 (ApJ 804, 64) above 2800 K,
    from their masses and radii; it holds its value above 4150 K. It is NOT the PARSEC relation of the label prior.

    Example:
        >>> nature_logg(np.array([3000.0, 4000.0]), np.array([0.0, -0.5])).round(2)
        array([5.08, 4.78])
    """
    t = (np.minimum(teff, 4150.0) - 3500.0) / 500.0
    return 4.8155 - 0.1945 * t + 0.0669 * t**2 - 0.1748 * np.asarray(m_h)


def nature_labels(
    count: int, *, seed: int, mix: Mix = "galactic", active_fraction: float = 0.12
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw labels of simulated stars and which of them are active.

    Args:
        count: number of stars.
        seed: of everything random.
        mix: ``matched`` has the (Teff, [M/H]) distribution of the label prior; ``galactic`` is metal-poorer by 0.1 dex,
            cooler by 60 K and 1.2 times as wide.
        active_fraction: of all stars; the coolest are active four times as often as the warmest.

    Returns:
        labels ``(star, 4)`` within nature's range, [a/M] = 0, and ``(star,)`` True for active stars, whose log g is
        lower by 0.035 dex.

    Example:
        >>> labels, active = nature_labels(5, seed=1)
        >>> labels.shape, active.dtype
        ((5, 4), dtype('bool'))
    """
    rng = np.random.default_rng([seed, 1])
    kept = np.empty((0, len(LABELS)))
    batch = 0
    while len(kept) < count:
        labels = draw_training_labels(max(2 * count, 1000), alpha=0.0, seed=seed * 1000 + batch)
        if mix == "galactic":
            middle = np.median(labels, axis=0)
            for place, shift in ((TEFF, -60.0), (M_H, -0.1)):
                labels[:, place] = middle[place] + shift + 1.2 * (labels[:, place] - middle[place])
        labels[:, LOGG] = nature_logg(labels[:, TEFF], labels[:, M_H]) + rng.normal(0.0, SCATTER, len(labels))
        inside = ((labels[:, :3] >= LOWER) & (labels[:, :3] <= UPPER)).all(axis=1)
        kept = np.concatenate([kept, labels[inside]])
        batch += 1
    labels = kept[:count]
    labels[:, A_M] = 0.0
    cool = np.interp(labels[:, TEFF], [3000.0, 4000.0], [1.6, 0.4])
    active = rng.random(count) < active_fraction * cool / cool.mean()
    labels[:, LOGG] = np.clip(labels[:, LOGG] - INFLATION * active, LOWER[LOGG], UPPER[LOGG])
    return labels, active


@cache
def shipped_nature() -> Emulator:
    """Return the emulator of nature inside the package: the alternate-physics grid at R = 2600, [a/M] = 0.

    Example:
        >>> shipped_nature().card.resolution
        2600.0
    """
    return _load("nature.safetensors")


@cache
def sharp_nature() -> Emulator:
    """Return the same at R = 5200, for spectrographs that are sharper than LAMOST's.

    Example:
        >>> sharp_nature().card.resolution
        5200.0
    """
    return _load("nature-sharp.safetensors")


def _load(name: str) -> Emulator:
    with as_file(files("stargap") / "models") as folder:
        return Emulator.load(folder / name)
