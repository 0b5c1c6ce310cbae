"""Batched Levenberg-Marquardt with bounds; every problem has its own damping, convergence and result code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from stargap.arrays import (
    Bounds,
    LeftVectors,
    ParameterValues,
    ParameterVectors,
    PerStar,
    Products,
    RightVectors,
    RowNumbers,
    Spectra,
    SquareMatrices,
    StarFlags,
)

__all__ = [
    "LeastSquares",
    "Status",
    "bounded_step",
    "full_chunks",
    "gram",
    "levenberg_marquardt",
    "solve_small",
]

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(parameters (slot, k), rows (slot,)) -> (model (slot, pixel), derivatives (slot, k, pixel))``."""
FIRST_DAMPING = 1e-3
ROUNDING = 2e-6
"""Relative rounding error of a float32 chi-square: a step that raises it by less is accepted."""
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
class LeastSquares:
    """Result of a batch, one row per problem: best parameters, chi-square there, J^T W J, `Status`, evaluations."""

    parameters: ParameterValues
    chi2: PerStar
    hessian: SquareMatrices
    status: StarFlags
    iterations: StarFlags


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
    size = gradient.shape[1]
    step = torch.zeros_like(gradient)
    active = ((low >= 0) & (gradient < 0)) | ((high <= 0) & (gradient > 0))
    eye = torch.eye(size, dtype=hessian.dtype)
    unfinished = torch.ones(len(gradient), 1, dtype=torch.bool)
    for _ in range(4 * size):
        free = (~active).to(hessian.dtype)
        slope = gradient - _times(hessian, step)
        matrix = hessian * free[:, :, None] * free[:, None, :] + eye * (1 - free)[:, :, None]
        move = solve_small(matrix, slope * free)
        reach = torch.where(move > 0, high - step, low - step) / move
        share, first = torch.where(active | (move == 0), torch.inf, reach).min(dim=1, keepdim=True)
        blocked = share < 1.0
        moved = torch.where(active, step, step + share.clamp(0.0, 1.0) * move)
        at_first = torch.nn.functional.one_hot(first[:, 0], size).bool() & blocked
        moved = torch.where(at_first, torch.where(move > 0, high, low), moved)
        step = torch.where(unfinished, moved, step)
        slope = gradient - _times(hessian, step)
        inward = ((step <= low) & (slope > 0)) | ((step >= high) & (slope < 0))
        released = active & inward & ~blocked & (low < high)
        active = torch.where(unfinished, (active | at_first) & ~released, active)
        unfinished = unfinished & (blocked | released.any(dim=1, keepdim=True))
        if not unfinished.any():
            break
    return step.clamp(low, high)


def _times(matrix: SquareMatrices, vector: ParameterVectors) -> ParameterVectors:
    return (matrix * vector[:, None, :]).sum(dim=2)


def solve_small(matrix: SquareMatrices, right: ParameterVectors) -> ParameterVectors:
    """Solve small positive definite systems by elimination, elementwise over rows.

    The rounding of LAPACK depends on where in memory a matrix stands; that of this function does not.

    Args:
        matrix: ``(row, parameter, parameter)``.
        right: right-hand sides, ``(row, parameter)``.

    Example:
        >>> solve_small(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), torch.tensor([[3.0, 3.0]]))
        tensor([[1., 1.]])
    """
    matrix, solution = matrix.clone(), right.clone()
    size = right.shape[1]
    for i in range(size):
        for j in range(i + 1, size):
            factor = matrix[:, j, i] / matrix[:, i, i]
            matrix[:, j] = matrix[:, j] - factor[:, None] * matrix[:, i]
            solution[:, j] = solution[:, j] - factor * solution[:, i]
    for i in reversed(range(size)):
        for j in range(i + 1, size):
            solution[:, i] = solution[:, i] - matrix[:, i, j] * solution[:, j]
        solution[:, i] = solution[:, i] / matrix[:, i, i]
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
    padding = -left.shape[-1] % 16
    left, right = (torch.nn.functional.pad(side, (0, padding)) for side in (left, right))
    return left @ right.transpose(1, 2)


def full_chunks(rows: RowNumbers, size: int) -> Iterator[RowNumbers]:
    """Yield positions in `rows` in chunks of exactly `size`; the last chunk repeats the last position.

    Batches of one shape round alike, so that results depend neither on neighbours nor on the number of rows.

    Example:
        >>> [chunk.tolist() for chunk in full_chunks(torch.tensor([5, 6, 9]), 2)]
        [[0, 1], [2, 2]]
    """
    for first in range(0, len(rows), size):
        yield torch.arange(first, first + size).clamp_max(len(rows) - 1)


def levenberg_marquardt(
    evaluate: Evaluate,
    data: Spectra,
    weight: Spectra,
    start: ParameterVectors,
    *,
    lower: Bounds,
    upper: Bounds,
    rows: RowNumbers | None = None,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
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
    count, size = start.shape
    result = LeastSquares(
        start.double().clone(),
        torch.full((count,), torch.inf, dtype=torch.float64),
        torch.zeros(count, size, size, dtype=torch.float64),
        torch.full((count,), int(Status.TOO_MANY_ITERATIONS)),
        torch.zeros(count, dtype=torch.long),
    )
    if count == 0:
        return result
    rows = torch.arange(count) if rows is None else rows
    pixels = (weight > 0).sum(dim=1).double()
    state = _Slots(result, slots, lower.double(), upper.double())
    while state.active.any():
        row = rows[state.problem]
        trial = _evaluate(evaluate, data[row], weight[row], state.trial, row)
        before, better = state.accept(trial)
        low, high = state.lower - state.point, state.upper - state.point
        diagonal = state.hessian.diagonal(dim1=1, dim2=2)
        ridge = 1e-12 * diagonal + 1e-300
        plain = bounded_step(state.hessian + torch.diag_embed(ridge), state.gradient, low, high)
        decrement = (plain * state.gradient).sum(dim=1)

        noise = (state.chi2 / (pixels[row] - size).clamp_min(1)).clamp_min(1.0)
        nearly = decrement <= 25 * tolerance**2 * noise
        flat = better & ((before - trial.chi2).abs() <= ROUNDING * trial.chi2)
        converged = better & ((decrement <= tolerance**2 * noise) | (flat & nearly))
        stalled = ~better & (state.damping > MOST_DAMPING)
        not_finite = (state.used == 1) & ~trial.finite
        status = torch.full_like(state.problem, int(Status.TOO_MANY_ITERATIONS))
        status[stalled] = int(Status.STALLED)
        status[converged | (stalled & nearly)] = int(Status.CONVERGED)
        status[not_finite] = int(Status.NOT_FINITE)
        ended = state.active & (converged | stalled | not_finite | (state.used >= max_iterations))

        state.record(ended, status)
        damped = state.hessian + torch.diag_embed(state.damping[:, None] * diagonal + ridge)
        state.move(bounded_step(damped, state.gradient, low, high))
        state.refill(ended)
    return result


@dataclass(frozen=True)
class _Trial:
    """Chi-square and its derivatives at the trial points of all slots: -gradient / 2 and J^T W J."""

    chi2: PerStar
    gradient: ParameterVectors
    hessian: SquareMatrices
    finite: Tensor


def _evaluate(evaluate: Evaluate, data: Spectra, weight: Spectra, theta: ParameterValues, row: RowNumbers) -> _Trial:
    model, jacobian = evaluate(theta, row)
    residual = data - model
    weighted = weight * residual
    chi2 = (weighted * residual).sum(dim=1, dtype=torch.float64)
    gradient = gram(jacobian, weighted[:, None])[:, :, 0].double()
    hessian = gram(jacobian * weight[:, None], jacobian).double()
    finite = torch.isfinite(chi2) & torch.isfinite(hessian).all(dim=(1, 2)) & torch.isfinite(gradient).all(dim=1)
    return _Trial(chi2, gradient, hessian, finite)


class _Slots:
    """The problems that are evaluated together, one row per slot, and those that wait for a slot.

    ``point`` is the best point so far with its ``chi2``, ``gradient`` and ``hessian``; ``trial`` is evaluated next,
    and ``predicted`` is the decrease of chi-square that the quadratic model promises there.
    """

    def __init__(self, result: LeastSquares, slots: int, lower: Bounds, upper: Bounds) -> None:
        self.result, self.lower, self.upper = result, lower, upper
        count, size = result.parameters.shape
        self.problem = torch.arange(slots).clamp_max(count - 1)
        self.active = torch.arange(slots) < count
        self.waiting = min(slots, count)
        self.point = result.parameters[self.problem].clamp(lower, upper)
        self.trial = self.point.clone()
        self.chi2 = torch.full((slots,), torch.inf, dtype=torch.float64)
        self.hessian = torch.zeros(slots, size, size, dtype=torch.float64)
        self.gradient = torch.zeros(slots, size, dtype=torch.float64)
        self.damping = torch.full((slots,), FIRST_DAMPING, dtype=torch.float64)
        self.growth = torch.full_like(self.damping, 2.0)
        self.predicted = torch.ones_like(self.damping)
        self.used = torch.zeros(slots, dtype=torch.long)

    def accept(self, trial: _Trial) -> tuple[Tensor, Tensor]:
        """Keep trial points that are not worse, adapt the damping; return the former chi-square and what was kept."""
        self.used += 1
        before = self.chi2
        better = trial.finite & (trial.chi2 <= before * (1 + ROUNDING))
        self.point = torch.where(better[:, None], self.trial, self.point)
        self.chi2 = torch.where(better, trial.chi2, before)
        self.gradient = torch.where(better[:, None], trial.gradient, self.gradient)
        self.hessian = torch.where(better[:, None, None], trial.hessian, self.hessian)
        gain = torch.where(torch.isfinite(before), (before - trial.chi2) / self.predicted.clamp_min(1e-300), 0.5)
        shrink = (1 - (2 * gain.clamp(0, 1) - 1) ** 3).clamp_min(0.1)
        self.damping = torch.where(better, self.damping * shrink, self.damping * self.growth).clamp(1e-8, 1e9)
        self.growth = torch.where(better, 2.0, self.growth * 2.0)
        return before, better

    def record(self, ended: Tensor, status: Tensor) -> None:
        """Write the problems that ended into the result."""
        done = self.problem[ended]
        self.result.parameters[done] = self.point[ended]
        self.result.chi2[done] = self.chi2[ended]
        self.result.hessian[done] = self.hessian[ended]
        self.result.status[done] = status[ended]
        self.result.iterations[done] = self.used[ended]

    def move(self, step: ParameterVectors) -> None:
        """Set the trial points a step from the best ones."""
        self.predicted = (step * (2 * self.gradient - _times(self.hessian, step))).sum(dim=1)
        trial = self.point + step
        self.trial = torch.where(torch.isfinite(trial), trial, self.point).clamp(self.lower, self.upper)

    def refill(self, ended: Tensor) -> None:
        """Give the slots of problems that ended to those that wait."""
        for slot in torch.nonzero(ended)[:, 0].tolist():
            self.active[slot] = self.waiting < len(self.result.chi2)
            if self.active[slot]:
                self.problem[slot] = self.waiting
                self.waiting += 1
                start = self.result.parameters[self.problem[slot]].clamp(self.lower, self.upper)
                self.trial[slot] = self.point[slot] = start
                self.chi2[slot], self.damping[slot], self.growth[slot] = torch.inf, FIRST_DAMPING, 2.0
                self.predicted[slot], self.used[slot] = 1.0, 0
