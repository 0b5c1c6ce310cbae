"""Batched Levenberg-Marquardt with bounds; every problem has its own damping, convergence and result code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import (
    Bounds,
    ParameterValues,
    ParameterVectors,
    PerStar,
    ProblemParameters,
    RowNumbers,
    Spectra,
    SquareMatrices,
    StarFlags,
)
from stargap.devices import to_device
from stargap.fit.linear import best_steps, gram, times

__all__ = ["ON_GPU", "LeastSquares", "Quadratic", "Status", "full_chunks", "levenberg_marquardt", "minimise"]

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(parameters (slot, k), rows (slot,)) -> (model (slot, pixel), derivatives (slot, k, pixel))``."""
FIRST_DAMPING = 1e-3
ROUNDING = 2e-6
"""Relative rounding error of a float32 chi-square: a step that raises it by less is accepted."""
ON_GPU = 1024
"""Problems that a GPU evaluates together."""
MOST_DAMPING = 1e7
"""Damping above which a fit whose steps keep failing has stalled."""


class Status(IntEnum):
    """How a fit ended."""

    CONVERGED = 0
    """The next step is a small fraction of the standard error."""
    STALLED = 1
    """No step lowers chi-square although the gradient is not zero."""
    TOO_MANY_ITERATIONS = 2
    """The fit was still moving after the largest number of iterations."""
    NOT_FINITE = 3
    """The model or the data are not finite at the start."""


@dataclass(frozen=True)
class Quadratic:
    """Chi-square at a point of each slot, half its downhill gradient, and J^T W J (Gauss-Newton's half Hessian)."""

    chi2: PerStar
    gradient: ParameterVectors
    hessian: SquareMatrices


@dataclass(frozen=True)
class LeastSquares:
    """Result of a batch, one row per problem: best parameters, chi-square there, J^T W J, `Status`, evaluations.

    ``step`` is the Gauss-Newton step from the best parameters within the bounds, taken or not.
    """

    parameters: ParameterValues
    chi2: PerStar
    hessian: SquareMatrices
    status: StarFlags
    iterations: StarFlags
    step: ParameterVectors

    def with_others(self, others: LeastSquares) -> LeastSquares:
        """Return these problems followed by `others`."""
        both = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return LeastSquares(*(torch.cat(pair) for pair in both))

    def part(self, rows: slice) -> LeastSquares:
        """Return some of these problems."""
        return LeastSquares(*(getattr(self, field.name)[rows].clone() for field in fields(self)))

    def put(self, rows: RowNumbers, other: LeastSquares) -> None:
        """Put what `other` fits of the problems `rows` lead to in the place of these; evaluations count together."""
        other.iterations.add_(self.iterations[rows])
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def rivals(self, other: LeastSquares, rows: RowNumbers, margin: PerStar, noise: PerStar) -> Tensor:
        """Return where minima of the problems `rows` and `other` ones differ, but not in depth, ``(row,)`` bool.

        Args:
            other: a second fit of each of `rows`.
            rows: which problems these are, ``(row,)``.
            margin: difference of chi-square that is none.
            noise: reduced chi-square, at least 1.
        """
        curvature = self.hessian[rows].diagonal(dim1=1, dim2=2).clamp_min(1e-300)
        distance = (self.parameters[rows] - other.parameters).square() * curvature / noise[:, None]
        return (distance > 9.0).any(dim=1) & ((self.chi2[rows] - other.chi2).abs() < margin)

    def swap_better(self, other: LeastSquares, rows: RowNumbers) -> None:
        """Swap the minima of the problems `rows` with those of `other` that are deeper; count evaluations of both."""
        self.iterations[rows] += other.iterations
        better = other.chi2 < self.chi2[rows]
        for name in ("parameters", "chi2", "hessian", "status", "step"):
            mine, others = getattr(self, name), getattr(other, name)
            deeper = others[better].clone()
            others[better] = mine[rows[better]]
            mine[rows[better]] = deeper


def full_chunks(rows: RowNumbers, size: int, on_gpu: int = ON_GPU) -> Iterator[RowNumbers]:
    """Yield positions in `rows` in chunks of exactly `size`; the last chunk repeats the last position.

    On a GPU they are of `on_gpu`, or all where there are fewer.

    Batches of one shape round alike, so that results depend neither on neighbours nor on the number of rows.

    Example:
        >>> [chunk.tolist() for chunk in full_chunks(torch.tensor([5, 6, 9]), 2)]
        [[0, 1], [2, 2]]
    """
    size = _together(rows, size, on_gpu)
    for first in range(0, len(rows), size):
        yield torch.arange(first, first + size).clamp_max(len(rows) - 1)


def levenberg_marquardt(
    evaluate: Evaluate,
    data: Spectra,
    weight: Spectra,
    start: ProblemParameters,
    *,
    lower: Bounds,
    upper: Bounds,
    rows: RowNumbers | None = None,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
    finish: bool = False,
) -> LeastSquares:
    """Minimise sum_j w_j (d_j - m_j(theta))^2 for many problems at once (Marquardt 1963; damping of Nielsen 1999).

    A fixed number of slots is evaluated at a time; a problem that has ended leaves its slot to the next one, so every
    evaluation has the same shape and a result depends neither on its neighbours nor on its place in the batch.

    Args:
        evaluate: ``(parameters (slot, k), rows (slot,)) -> (model (slot, pixel), derivatives (slot, k, pixel))``.
        data: ``(row, pixel)``, finite.
        weight: inverse variances, the same shape, finite, 0 for bad pixels.
        start: ``(problem, k)`` float64, within the bounds.
        lower: ``(k,)``.
        upper: ``(k,)``.
        rows: which row of `data` each problem fits, ``(problem,)``; problem i fits row i by default.
        slots: number of problems evaluated together.
        max_iterations: model evaluations per problem.
        tolerance: a problem has converged when the Gauss-Newton step from it is this fraction of the standard error
            (of the error scaled by the root of reduced chi-square where that is above 1), or five times that where
            chi-square no longer changes beyond its rounding.
        finish: take that step as well, unevaluated; chi-square is then what the quadratic form says.

    Example:
        >>> x = torch.linspace(0, 1, 50)
        >>> def decay(p, rows):
        ...     m = torch.exp(-p.float() @ x[None])
        ...     return m, (-x * m)[:, None]
        >>> fit = levenberg_marquardt(decay, torch.exp(-2 * x)[None], 1e4 * torch.ones(1, 50),
        ...     torch.ones(1, 1).double(), lower=torch.zeros(1), upper=torch.full((1,), 9.0))
        >>> round(fit.parameters.item(), 3), Status(fit.status.item()).name
        (2.0, 'CONVERGED')
    """
    count = len(start)
    rows = torch.arange(count) if rows is None else rows
    freedom = (weight > 0).sum(dim=1).double() - start.shape[1]

    def at(theta: Tensor, row: Tensor) -> Quadratic:
        model, jacobian = evaluate(theta, row)
        weights = weight.index_select(0, row)
        residual = data.index_select(0, row) - model
        weighted = weights * residual
        chi2 = (weighted * residual).sum(dim=1, dtype=torch.float64)
        products = gram(jacobian, torch.cat([weighted[:, None], jacobian * weights[:, None]], dim=1)).double()
        return Quadratic(chi2, products[:, :, 0], products[:, :, 1:])

    return minimise(
        at,
        freedom,
        start,
        lower=lower,
        upper=upper,
        rows=rows,
        slots=slots,
        max_iterations=max_iterations,
        tolerance=tolerance,
        finish=finish,
    )


def minimise(
    evaluate: Callable[[ParameterValues, RowNumbers], Quadratic],
    freedom: PerStar,
    start: ProblemParameters,
    *,
    lower: Bounds,
    upper: Bounds,
    rows: RowNumbers,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
    finish: bool = False,
) -> LeastSquares:
    """Minimise chi-squares that are given with their derivatives; `levenberg_marquardt` says how.

    Args:
        evaluate: ``(parameters (slot, k), rows (slot,)) -> Quadratic``.
        freedom: degrees of freedom of each row, ``(row,)``.
        start: as for `levenberg_marquardt`, and so are the others.
        lower: ``(k,)``.
        upper: ``(k,)``.
        rows: which row of `freedom` each problem fits, ``(problem,)``.
        slots: number of problems evaluated together.
        max_iterations: evaluations per problem.
        tolerance: see `levenberg_marquardt`.
        finish: see `levenberg_marquardt`.
    """
    count, size = start.shape
    begin = start.double().cpu().clone()
    result = LeastSquares(
        begin,
        begin.new_full((count,), torch.inf),
        begin.new_zeros(count, size, size),
        begin.new_full((count,), int(Status.TOO_MANY_ITERATIONS), dtype=torch.long),
        begin.new_zeros(count, dtype=torch.long),
        begin.new_zeros(count, size),
    )
    if count == 0:
        return to_device(result, start.device)
    state = _Slots(result, _together(start, slots), *(side.double().cpu().numpy() for side in (lower, upper)))
    of_row, free = rows.cpu().numpy(), freedom.cpu().numpy()
    with np.errstate(all="ignore"):
        while state.active.any():
            row = of_row[state.problem]
            point = (torch.from_numpy(values).to(start.device) for values in (state.trial, row))
            state.accept(*(values.cpu().numpy() for values in vars(evaluate(*point)).values()))
            noise = (state.chi2 / free[row].clip(min=1)).clip(min=1.0)
            ended, status = state.judge(tolerance, noise, max_iterations)
            if finish:
                state.advance(ended & (status == int(Status.CONVERGED)))
            state.record(ended, status)
            state.move()
            state.refill(ended)
    return to_device(result, start.device)


def _together(problems: Tensor, size: int, on_gpu: int = ON_GPU) -> int:
    """Return how many problems are evaluated together: `size`, or on a GPU as many as there are up to `on_gpu`."""
    return size if problems.device.type == "cpu" else max(1, min(len(problems), on_gpu))


class _Slots:
    """The problems that are evaluated together, one row per slot, and those that wait for a slot; arrays of numpy.

    ``point`` is the best point so far with its ``chi2``, ``gradient`` and ``hessian``; ``trial`` is evaluated next,
    and ``predicted`` is the decrease of chi-square that the quadratic model promises there. ``plain`` and ``damped``
    are the Gauss-Newton step from the best point within the bounds, and the damped one.
    """

    def __init__(self, result: LeastSquares, slots: int, lower: Floats, upper: Floats) -> None:
        self.result, self.lower, self.upper = result, lower, upper
        self.start = result.parameters.numpy().clip(lower, upper)
        count, size = self.start.shape
        self.problem = np.arange(slots).clip(max=count - 1)
        self.active = np.arange(slots) < count
        self.waiting = min(slots, count)
        self.point = self.start[self.problem]
        self.trial = self.point.copy()
        self.chi2 = np.full(slots, np.inf)
        self.hessian, self.gradient = np.zeros((slots, size, size)), np.zeros((slots, size))
        self.damping, self.growth = np.full(slots, FIRST_DAMPING), np.full(slots, 2.0)
        self.predicted: Floats = np.ones(slots)
        self.used = np.zeros(slots, dtype=np.int64)

    def accept(self, chi2: Floats, gradient: Floats, hessian: Floats) -> None:
        """Keep trial points that are not worse, adapt the damping, and work out the next steps."""
        self.used += 1
        finite = np.isfinite(chi2) & np.isfinite(hessian).all(axis=(1, 2)) & np.isfinite(gradient).all(axis=1)
        before = self.chi2
        better = finite & (chi2 <= before * (1 + ROUNDING))
        self.point = np.where(better[:, None], self.trial, self.point)
        self.chi2 = np.where(better, chi2, before)
        self.gradient = np.where(better[:, None], gradient, self.gradient)
        self.hessian = np.where(better[:, None, None], hessian, self.hessian)
        gain = np.where(np.isfinite(before), (before - chi2) / self.predicted.clip(min=1e-300), 0.5)
        shrink = (1 - (2 * gain.clip(0, 1) - 1) ** 3).clip(min=0.1)
        self.damping = np.where(better, self.damping * shrink, self.damping * self.growth).clip(1e-8, 1e9)
        self.growth = np.where(better, 2.0, self.growth * 2.0)
        self.better, self.lost = better, (self.used == 1) & ~finite
        self.flat = better & (np.abs(before - chi2) <= ROUNDING * chi2)
        self._find_steps()

    def _find_steps(self) -> None:
        diagonal = np.diagonal(self.hessian, axis1=1, axis2=2)
        ridge = 1e-12 * diagonal + 1e-300
        number = np.arange(diagonal.shape[1])
        matrix = np.concatenate([self.hessian, self.hessian])
        matrix[:, number, number] += np.concatenate([ridge, self.damping[:, None] * diagonal + ridge])
        distances = (np.concatenate([side - self.point] * 2) for side in (self.lower, self.upper))
        steps = best_steps(matrix, np.concatenate([self.gradient, self.gradient]), *distances)
        self.plain, self.damped = np.split(steps, 2)

    def judge(self, tolerance: float, noise: Floats, max_iterations: int) -> tuple[Flags, NDArray[np.int64]]:
        """Return which problems have ended, and how."""
        decrement = (self.plain * self.gradient).sum(axis=1)
        nearly = decrement <= 25 * tolerance**2 * noise
        converged = self.better & ((decrement <= tolerance**2 * noise) | (self.flat & nearly))
        stalled = ~self.better & (self.damping > MOST_DAMPING)
        status = np.full(len(noise), int(Status.TOO_MANY_ITERATIONS))
        status[stalled] = int(Status.STALLED)
        status[converged | (stalled & nearly)] = int(Status.CONVERGED)
        status[self.lost] = int(Status.NOT_FINITE)
        return self.active & (converged | stalled | self.lost | (self.used >= max_iterations)), status

    def _decrease(self, step: Floats) -> Floats:
        """Return by how much a step lowers chi-square, as the quadratic form says."""
        return np.asarray((step * (2 * self.gradient - times(self.hessian, step))).sum(axis=1))

    def advance(self, which: Flags) -> None:
        """Take a last step from the best points, without evaluating where it leads."""
        self.chi2 = np.where(which, self.chi2 - self._decrease(self.plain), self.chi2)
        self.point = np.where(which[:, None], (self.point + self.plain).clip(self.lower, self.upper), self.point)

    def record(self, ended: Flags, status: NDArray[np.int64]) -> None:
        """Write the problems that ended into the result."""
        done = torch.from_numpy(self.problem[ended])
        new = {"parameters": self.point, "chi2": self.chi2, "hessian": self.hessian, "status": status}
        for name, values in (new | {"iterations": self.used, "step": self.plain}).items():
            getattr(self.result, name)[done] = torch.from_numpy(values[ended])

    def move(self) -> None:
        """Set the trial points a damped step from the best ones."""
        self.predicted = self._decrease(self.damped)
        trial = self.point + self.damped
        self.trial = np.where(np.isfinite(trial), trial, self.point).clip(self.lower, self.upper)

    def refill(self, ended: Flags) -> None:
        """Give the slots of problems that ended to those that wait."""
        for slot in np.flatnonzero(ended).tolist():
            self.active[slot] = self.waiting < len(self.start)
            if self.active[slot]:
                self.problem[slot] = self.waiting
                self.trial[slot] = self.point[slot] = self.start[self.waiting]
                self.waiting += 1
                self.chi2[slot], self.damping[slot], self.growth[slot] = np.inf, FIRST_DAMPING, 2.0
                self.predicted[slot], self.used[slot] = 1.0, 0
