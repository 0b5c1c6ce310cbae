"""The grid behind the emulator of nature: alternate physics at many nodes, with the curvature of the base grid."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import A_M, M_H, TEFF
from stargap.mock.nature import LOWER, UPPER
from stargap.theory.grids import Grid

__all__ = ["interpolate_nature", "leave_out_errors"]

CITATIONS = Path(__file__).parents[1] / "grid-citations.txt"
"""Whom to cite for the grids; the attribute of their files was not checked against the sources, this was."""
STEP = (50.0, 0.125, 0.125)
"""Steps of the nodes in Teff (K), log g and [M/H] (dex)."""


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
    return Grid(base.wavelength, flux, full, name, alternate.resolution, CITATIONS.read_text(encoding="utf-8").strip())


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
