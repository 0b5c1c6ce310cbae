"""Least squares in two labels for very many rows at once, each with its own damping, within limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stargap.rows import TwoByTwo

__all__ = ["Search", "inverse_2x2", "least_squares"]

_Floats = NDArray[np.float64]
_Model = Callable[[_Floats, NDArray[np.intp]], tuple[_Floats, _Floats]]

_EASIER, _HARDER, _HIGHEST = 0.1, 10.0, 1e8


class Search(NamedTuple):
    """What `least_squares` returns: ``labels`` ``(row, 2)``, ``cost`` and ``curvature`` there, ``converged``.

    ``cost (row,)`` is the sum of squared residuals, ``curvature (row, 2, 2)`` the second derivatives (Gauss-Newton) of
    half of it.
    """

    labels: _Floats
    cost: _Floats
    curvature: _Floats
    converged: NDArray[np.bool_]


def least_squares(
    model: _Model, start: _Floats, limits: _Floats, *, tolerance: _Floats, iterations: int = 40
) -> Search:
    """Return the labels of least squares of residuals, by Levenberg and Marquardt.

    A label at a limit that is pushed outwards stays there and the other goes on. Rows that have ended are left alone.

    Args:
        model: called with labels ``(some, 2)`` and the rows that these are of; returns whitened residuals ``(some,
            band)`` and their derivatives ``(some, band, 2)``.
        start: labels to begin with, ``(row, 2)``.
        limits: lowest and highest labels, ``(2, 2)``.
        tolerance: a row ends when its next step is shorter than this in both labels.
        iterations: at most.

    Example:
        >>> def line(labels, rows):
        ...     return labels - np.array([[1.0, 2.0], [3.0, 9.0]])[rows], np.tile(np.eye(2), (len(rows), 1, 1))
        >>> found = least_squares(line, np.zeros((2, 2)), np.array([[0, 0], [5, 5]]), tolerance=np.full(2, 1e-6))
        >>> found.labels, found.converged
        (array([[1., 2.], [3., 5.]]), array([ True,  True]))
    """
    labels = np.clip(start, *limits)
    converged = np.zeros(len(labels), dtype=bool)
    damping = np.full(len(labels), 1e-3)
    rows = np.arange(len(labels))
    residuals, slopes = model(labels, rows)
    cost, curvature, pull = (residuals**2).sum(axis=1), *_normal(residuals, slopes)
    for _ in range(iterations):
        rows = np.flatnonzero(~converged)
        if not len(rows):
            break
        now = labels[rows]
        bent, force = _held(now, limits, curvature[rows], pull[rows])
        diagonal = np.einsum("rii->ri", bent)
        diagonal += damping[rows, None] * diagonal
        step = np.einsum("rij,rj->ri", inverse_2x2(bent), force)
        new = np.clip(now + step, *limits)
        residuals, slopes = model(new, rows)
        costs = (residuals**2).sum(axis=1)
        better = costs <= cost[rows]
        small = (np.abs(new - now) < tolerance).all(axis=1)
        damping[rows] = np.where(better, damping[rows] * _EASIER, damping[rows] * _HARDER)
        kept = rows[better]
        labels[kept], cost[kept] = new[better], costs[better]
        curvature[kept], pull[kept] = _normal(residuals[better], slopes[better])
        converged[rows] = small | (damping[rows] > _HIGHEST)
    return Search(labels, cost, curvature, converged)


def inverse_2x2(matrices: TwoByTwo) -> TwoByTwo:
    """Return inverses of symmetric matrices ``(row, 2, 2)``; of one that is singular, zero.

    Example:
        >>> inverse_2x2(np.array([[[2.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]))
        array([[[0.5 , 0.  ], [0.  , 0.25]], [[0.  , 0.  ], [0.  , 0.  ]]])
    """
    a, b, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]
    determinant = a * d - b * b
    good = determinant > 1e-12 * np.abs(a * d)
    safe = np.where(good, determinant, 1.0)
    inverse = np.stack([np.stack([d, -b], axis=-1), np.stack([-b, a], axis=-1)], axis=-2) / safe[..., None, None]
    return np.where(good[..., None, None], inverse, 0.0) + 0.0


def _normal(residuals: _Floats, slopes: _Floats) -> tuple[_Floats, _Floats]:
    """Return the curvature of half the cost, and minus its gradient."""
    turned = np.swapaxes(slopes, -1, -2)
    return turned @ slopes, -(turned @ residuals[..., None])[..., 0]


def _held(labels: _Floats, limits: _Floats, curvature: _Floats, force: _Floats) -> tuple[_Floats, _Floats]:
    """Return curvature and force with labels held that lie at a limit and are pushed outwards."""
    held = ((labels <= limits[0]) & (force < 0)) | ((labels >= limits[1]) & (force > 0))
    free = ~held
    both = free[:, :, None] & free[:, None, :]
    ones = held[:, :, None] * np.eye(2)
    return np.where(both, curvature, ones), np.where(free, force, 0.0)
