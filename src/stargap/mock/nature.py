"""Nature of the simulated survey: stars of other physics than the models that measure them, and their labels."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF
from stargap.theory.emulator import Emulator
from stargap.theory.grids import Grid
from stargap.theory.label_prior import draw_training_labels

__all__ = ["Mix", "interpolate_nature", "leave_out_errors", "nature_labels", "nature_logg", "shipped_nature"]

Mix = Literal["matched", "galactic"]

LOWER = (2800.0, 4.5, -1.0)
UPPER = (4250.0, 5.5, 0.5)
"""Range of the alternate-physics grid."""
STEP = (50.0, 0.125, 0.125)
SCATTER = 0.05
"""Of log g about the relation (dex)."""
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


def interpolate_nature(alternate: Grid, base: Grid) -> Grid:
    """Return the alternate-physics grid at 3,510 nodes: steps of 50 K and 0.125 dex.

    The difference of ln flux between the two grids is smooth, so it is interpolated between the alternate grid's
    nodes (cubic splines, a parabola in log g); the base grid, which has four times as many nodes, gives the curvature
    between them. At its own nodes the result is the alternate grid.

    Args:
        alternate: the physics of nature, complete in Teff, log g, [M/H] at [a/M] = 0.
        base: the same wavelengths, complete at [a/M] = 0 over a range that holds all nodes of the other.

    Raises:
        UsageError: wavelengths differ, or either grid is not complete.
    """
    labels = np.array(list(product(*(np.arange(a, b + s / 2, s) for a, b, s in zip(LOWER, UPPER, STEP, strict=True)))))
    flux = np.exp(_predict(alternate, base, labels)).astype(np.float32)
    name = f"{alternate.name} between its nodes, with the curvature of {base.name}"
    full = np.concatenate([labels, np.zeros((len(labels), 1))], axis=1)
    return Grid(base.wavelength, flux, full, name, alternate.resolution, alternate.citation)


def leave_out_errors(alternate: Grid, base: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate every inner Teff of the alternate grid without its nodes.

    Returns:
        labels ``(node, 4)`` left out and the difference of ln flux ``(node, pixel)``, interpolated minus true.
    """
    teff = np.unique(alternate.labels[:, TEFF])
    places, differences = [], []
    for left_out in teff[1:-1]:
        out = alternate.labels[:, TEFF] == left_out
        rest = Grid(alternate.wavelength, alternate.flux[~out], alternate.labels[~out], alternate.name)
        predicted = _predict(rest, base, alternate.labels[out][:, :3])
        differences.append(predicted - np.log(alternate.flux[out]))
        places.append(alternate.labels[out])
    return np.concatenate(places), np.concatenate(differences)


@cache
def shipped_nature() -> Emulator:
    """Return the emulator of nature inside the package: the alternate-physics grid at R = 2600, [a/M] = 0.

    Example:
        >>> shipped_nature().card.resolution
        2600.0
    """
    with as_file(files("stargap") / "models") as folder:
        return Emulator.load(folder / "nature.safetensors")


def _predict(alternate: Grid, base: Grid, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ln flux of the alternate physics at ``(node, 3)`` labels."""
    if alternate.wavelength.shape != base.wavelength.shape or not np.allclose(alternate.wavelength, base.wavelength):
        message = f"{alternate.name} and {base.name} have other wavelengths"
        raise UsageError(message)
    axes, own = _cube(alternate)
    base_axes, base_cube = _cube(base)
    coarse = np.array(list(product(*axes)))
    difference = own - _between(base_axes, base_cube, coarse).reshape(own.shape)
    return _between(base_axes, base_cube, labels) + _between(axes, difference, labels)


def _cube(grid: Grid) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Axes of the nodes with [a/M] = 0 and [M/H] >= -1, and ln flux ``(teff, logg, m_h, pixel)``."""
    rows = (grid.labels[:, A_M] == 0) & (grid.labels[:, M_H] >= LOWER[M_H])
    labels = grid.labels[rows][:, :3]
    axes = [np.unique(labels[:, place]) for place in range(3)]
    shape = tuple(axis.size for axis in axes)
    if len(labels) != np.prod(shape):
        message = f"{grid.name}: {len(labels)} nodes with [a/M] = 0 do not fill {' x '.join(map(str, shape))}"
        raise UsageError(message)
    order = np.lexsort(labels.T[::-1])
    return axes, np.log(grid.flux[rows][order], dtype=np.float64).reshape(*shape, -1)


def _between(
    axes: list[NDArray[np.float64]], cube: NDArray[np.float64], labels: NDArray[np.float64]
) -> NDArray[np.float64]:
    from scipy.interpolate import make_interp_spline

    weights = []
    for axis, place in zip(axes, labels.T, strict=True):
        spline = make_interp_spline(axis, np.eye(axis.size), k=min(3, axis.size - 1))
        weights.append(spline(place))
    together = np.einsum("na,nb,nc->nabc", *weights).reshape(len(labels), -1)
    return np.asarray(together @ cube.reshape(together.shape[1], -1))
