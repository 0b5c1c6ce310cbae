"""Small linear problems of many rows at once, whose bits depend neither on the other rows nor on their place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import LeftVectors, ParameterVectors, Products, RightSides, RightVectors, SquareMatrices

__all__ = ["best_steps", "bounded_step", "gram", "gram_shared", "solve_small", "times", "whole_lines"]

Array = NDArray[np.floating]


def bounded_step(
    hessian: SquareMatrices, gradient: ParameterVectors, low: ParameterVectors, high: ParameterVectors
) -> ParameterVectors:
    """Return the d that minimises d^T H d / 2 - g^T d within ``low <= d <= high``, for every row.

    Active sets (Nocedal & Wright 2006, section 16.5): bounds become active one at a time and are released where the
    gradient points inward.

    Args:
        hessian: H, ``(row, parameter, parameter)``, positive definite.
        gradient: g, ``(row, parameter)``.
        low: ``(row, parameter)``, not positive.
        high: ``(row, parameter)``, not negative.

    Example:
        >>> step = bounded_step(torch.eye(2)[None], torch.tensor([[3.0, 1.0]]), -torch.ones(1, 2), 2 * torch.ones(1, 2))
        >>> step
        tensor([[2., 1.]])
    """
    arrays = (values.cpu().numpy() for values in (hessian, gradient, low, high))
    return torch.from_numpy(best_steps(*arrays)).to(hessian.device)


def best_steps(hessian: Array, gradient: Array, low: Array, high: Array) -> Array:
    """Return what `bounded_step` returns, of arrays."""
    size = gradient.shape[1]
    found = np.zeros_like(gradient)
    rows = np.arange(len(gradient))
    step, active = found.copy(), ((low >= 0) & (gradient < 0)) | ((high <= 0) & (gradient > 0))
    eye, number = np.eye(size, dtype=hessian.dtype), np.arange(size)
    with np.errstate(all="ignore"):
        for _ in range(4 * size):
            slope = gradient - times(hessian, step)
            free = ~active
            matrix = np.where(free[:, :, None] & free[:, None], hessian, eye)
            move = eliminate(matrix, np.where(free, slope, 0.0)[:, :, None])[:, :, 0]
            reach = np.where(move > 0, high - step, low - step) / move
            share = np.where(active | (move == 0), np.inf, reach)
            first = share.argmin(axis=1)[:, None]
            share = share.min(axis=1, keepdims=True)
            blocked = share < 1.0
            moved = np.where(active, step, step + share.clip(0.0, 1.0) * move)
            at_first = (number == first) & blocked
            step = np.where(at_first, np.where(move > 0, high, low), moved)
            slope = gradient - times(hessian, step)
            inward = ((step <= low) & (slope > 0)) | ((step >= high) & (slope < 0))
            released = active & inward & ~blocked & (low < high)
            active = (active | at_first) & ~released
            found[rows] = step.clip(low, high)
            on = np.flatnonzero(blocked[:, 0] | released.any(axis=1))
            if not on.size:
                break
            if on.size < rows.size:
                rows, active = rows[on], active[on]
                hessian, gradient, low, high, step = (part[on] for part in (hessian, gradient, low, high, step))
    return found


def times(matrix: Array, vector: Array) -> Array:
    """Return products ``(row, parameter)`` of `matrix` ``(row, parameter, parameter)`` and `vector`."""
    total = matrix[:, :, 0] * vector[:, :1]
    for k in range(1, vector.shape[1]):
        total += matrix[:, :, k] * vector[:, k, None]
    return total


def solve_small(matrix: SquareMatrices, right: RightSides) -> RightSides:
    """Solve small positive definite systems by elimination, elementwise over rows.

    The rounding of LAPACK depends on where in memory a matrix stands; that of this function does not.

    Args:
        matrix: ``(row, parameter, parameter)``.
        right: right-hand sides, ``(row, parameter)`` or ``(row, parameter, column)``.

    Example:
        >>> solve_small(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), torch.tensor([[3.0, 3.0]]))
        tensor([[1., 1.]])
    """
    columns = right.reshape(*right.shape[:2], -1)
    if matrix.device.type != "cpu":  # there no bits are promised
        solution: Tensor = torch.linalg.solve_ex(matrix, columns).result
        return solution.reshape(right.shape)
    with np.errstate(all="ignore"):
        return torch.from_numpy(eliminate(matrix.numpy(), columns.numpy())).reshape(right.shape)


def eliminate(matrix: Array, right: Array) -> Array:
    """Return what `solve_small` returns, of arrays; `right` is ``(row, parameter, column)``."""
    size = right.shape[1]
    both = np.concatenate([matrix, right], axis=2)
    for i in range(size - 1):
        factor = both[:, i + 1 :, i] / both[:, i, i, None]
        both[:, i + 1 :, i:] -= factor[:, :, None] * both[:, i, None, i:]
    upper, solution = both[:, :, :size], both[:, :, size:]
    for i in reversed(range(size)):
        solution[:, i] /= upper[:, i, i, None]
        solution[:, :i] -= upper[:, :i, i, None] * solution[:, i, None]
    return solution


def gram(left: LeftVectors, right: RightVectors) -> Products:
    """Return ``left @ right^T``, ``(row, k, l)`` of ``(row, k, pixel)`` and ``(row, l, pixel)``.

    Equal rows give the same bits wherever they stand in the batch: matrix products round differently with the
    alignment of their rows, so rows are padded to whole cache lines.

    Example:
        >>> gram(torch.ones(1, 2, 5), torch.ones(1, 2, 5))
        tensor([[[5., 5.],
                 [5., 5.]]])
    """
    left, right = whole_lines(left), whole_lines(right)
    return left @ right.transpose(1, 2)


def whole_lines(values: Tensor) -> Tensor:
    """Return `values` with zeros to whole cache lines in the last dimension, as products of pixels need them.

    What many products share is padded once, instead of at each.

    Example:
        >>> whole_lines(torch.ones(2, 5)).shape
        torch.Size([2, 16])
    """
    padding = -values.shape[-1] % 16
    return torch.nn.functional.pad(values, (0, padding)) if padding else values


def gram_shared(left: LeftVectors, right: Tensor) -> Products:
    """Return ``left @ right^T``, ``(row, k, l)`` of ``(row, k, pixel)`` and ``(l, pixel)`` that all rows share.

    Equal rows give the same bits wherever they stand in the batch, as with `gram`.

    Example:
        >>> gram_shared(torch.ones(1, 2, 5), torch.ones(1, 5))
        tensor([[[5.],
                 [5.]]])
    """
    flat = whole_lines(left).flatten(0, 1)
    return (flat @ whole_lines(right).T).reshape(*left.shape[:2], len(right))
