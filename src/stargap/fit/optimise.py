"""Batched Levenberg-Marquardt with bounds; every problem has its own damping, convergence and result code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

__all__ = ["STATUS_TEXT", "LeastSquares", "Status", "bounded_step", "gram", "levenberg_marquardt", "solve_small"]


ROUNDING = 2e-6
"""Relative noise of a float32 chi-square: a step is not refused for less."""


class Status(IntEnum):
    """How a fit ended."""

    CONVERGED = 0
    STALLED = 1
    TOO_MANY_ITERATIONS = 2
    NOT_FINITE = 3


STATUS_TEXT = {
    Status.CONVERGED: "the next step is a small fraction of the standard error",
    Status.STALLED: "no step lowers chi-square although the gradient is not zero",
    Status.TOO_MANY_ITERATIONS: "still moving after the largest number of iterations",
    Status.NOT_FINITE: "the model or the data are not finite at the start",
}


@dataclass(frozen=True)
class LeastSquares:
    """Result of a batch: one row a problem.

    ``parameters (problem, k)``, ``hessian (problem, k, k)`` = J^T W J, and ``chi2 (problem,)`` are float64; ``status``
    holds `Status` values and ``iterations`` the model evaluations.
    """

    parameters: Tensor
    chi2: Tensor
    hessian: Tensor
    status: Tensor
    iterations: Tensor


def bounded_step(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Minimise d^T H d / 2 - g^T d within ``low <= d <= high`` (active sets, Nocedal & Wright 2006, section 16.5).

    Args:
        hessian: ``(row, k, k)``, positive definite.
        gradient: ``(row, k)``.
        low: ``(row, k)``, not positive.
        high: ``(row, k)``, not negative.

    Example:
        >>> step = bounded_step(torch.eye(2)[None], torch.tensor([[3.0, 1.0]]), -torch.ones(1, 2), 2 * torch.ones(1, 2))
        >>> step
        tensor([[2., 1.]])
    """
    size = gradient.shape[1]
    step = torch.zeros_like(gradient)
    held = ((low >= 0) & (gradient < 0)) | ((high <= 0) & (gradient > 0))
    eye = torch.eye(size, dtype=hessian.dtype)
    unsettled = torch.ones(len(gradient), 1, dtype=torch.bool)
    for _ in range(4 * size):
        free = (~held).to(hessian.dtype)
        slope = gradient - _times(hessian, step)
        matrix = hessian * free[:, :, None] * free[:, None, :] + eye * (1 - free)[:, :, None]
        move = solve_small(matrix, slope * free)
        room = torch.where(move > 0, high - step, low - step) / move
        part, first = torch.where(held | (move == 0), torch.inf, room).min(dim=1, keepdim=True)
        blocked = part < 1.0
        moved = torch.where(held, step, step + part.clamp(0.0, 1.0) * move)
        at_first = torch.nn.functional.one_hot(first[:, 0], size).bool() & blocked
        moved = torch.where(at_first, torch.where(move > 0, high, low), moved)
        step = torch.where(unsettled, moved, step)
        slope = gradient - _times(hessian, step)
        inward = ((step <= low) & (slope > 0)) | ((step >= high) & (slope < 0))
        released = held & inward & ~blocked & (low < high)
        held = torch.where(unsettled, (held | at_first) & ~released, held)
        unsettled = unsettled & (blocked | released.any(dim=1, keepdim=True))
        if not unsettled.any():
            break
    return step.clamp(low, high)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector[:, None, :]).sum(dim=2)


def solve_small(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve small positive definite systems by elimination, elementwise over rows.

    LAPACK's bits depend on where in memory a matrix stands; these do not.
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


def gram(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right^T`` for ``(row, k, pixel)``, the same bits for equal rows wherever they stand.

    Matrix products round differently with the alignment of their rows, so rows are padded to whole cache lines.

    Example:
        >>> gram(torch.ones(1, 2, 5), torch.ones(1, 2, 5))
        tensor([[[5., 5.],
                 [5., 5.]]])
    """
    padding = -left.shape[-1] % 16
    left, right = (torch.nn.functional.pad(side, (0, padding)) for side in (left, right))
    return left @ right.transpose(1, 2)


def levenberg_marquardt(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    data: Tensor,
    weight: Tensor,
    start: Tensor,
    *,
    lower: Tensor,
    upper: Tensor,
    rows: Tensor | None = None,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
) -> LeastSquares:
    """Minimise sum_j w_j (d_j - m_j(theta))^2 for many problems at once (Marquardt 1963).

    A fixed number of slots is evaluated at a time; a problem that has ended leaves its slot to the next one, so every
    evaluation has the same shape and a result depends neither on its neighbours nor on its place in the batch.

    Args:
        evaluate: ``(parameters (slot, k), rows (slot,)) -> (model (slot, pixel), jacobian (slot, k, pixel))``.
        data: ``(row, pixel)``, finite.
        weight: inverse variances, the same shape, finite, 0 for bad pixels.
        start: ``(problem, k)`` float64, within the bounds.
        lower: ``(k,)``.
        upper: ``(k,)``.
        rows: which row of `data` each problem fits, ``(problem,)``; problem i fits row i by default.
        slots: problems evaluated together.
        max_iterations: model evaluations a problem may take.
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
    rows = torch.arange(count) if rows is None else rows
    lower, upper = lower.double(), upper.double()
    result = LeastSquares(
        start.double().clone(),
        torch.full((count,), torch.inf, dtype=torch.float64),
        torch.zeros(count, size, size, dtype=torch.float64),
        torch.full((count,), int(Status.TOO_MANY_ITERATIONS)),
        torch.zeros(count, dtype=torch.long),
    )
    if count == 0:
        return result
    pixels = (weight > 0).sum(dim=1).double()

    problem = torch.arange(slots).clamp_max(count - 1)
    active = torch.arange(slots) < count
    waiting = min(slots, count)
    point = result.parameters[problem].clamp(lower, upper)
    trial = point.clone()
    chi2 = torch.full((slots,), torch.inf, dtype=torch.float64)
    hessian = torch.zeros(slots, size, size, dtype=torch.float64)
    gradient = torch.zeros(slots, size, dtype=torch.float64)
    damping = torch.full((slots,), 1e-3, dtype=torch.float64)
    growth = torch.full_like(damping, 2.0)
    promised = torch.ones_like(damping)
    used = torch.zeros(slots, dtype=torch.long)

    while active.any():
        row = rows[problem]
        model, jacobian = evaluate(trial, row)
        w = weight[row]
        residual = data[row] - model
        weighted = w * residual
        new_chi2 = (weighted * residual).sum(dim=1, dtype=torch.float64)
        new_gradient = gram(jacobian, weighted[:, None])[:, :, 0].double()
        new_hessian = gram(jacobian * w[:, None], jacobian).double()
        finite = (
            torch.isfinite(new_chi2)
            & torch.isfinite(new_hessian).all(dim=(1, 2))
            & torch.isfinite(new_gradient).all(dim=1)
        )
        used += 1

        before = chi2
        better = finite & (new_chi2 <= chi2 * (1 + ROUNDING))
        point = torch.where(better[:, None], trial, point)
        chi2 = torch.where(better, new_chi2, chi2)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        hessian = torch.where(better[:, None, None], new_hessian, hessian)
        agreement = torch.where(torch.isfinite(before), (before - new_chi2) / promised.clamp_min(1e-300), 0.5)
        shrink = (1 - (2 * agreement.clamp(0, 1) - 1) ** 3).clamp_min(0.1)
        damping = torch.where(better, damping * shrink, damping * growth).clamp(1e-8, 1e9)
        growth = torch.where(better, 2.0, growth * 2.0)

        diagonal = hessian.diagonal(dim1=1, dim2=2)
        ridge = 1e-12 * diagonal + 1e-300
        low, high = lower - point, upper - point
        plain = bounded_step(hessian + torch.diag_embed(ridge), gradient, low, high)
        decrement = (plain * gradient).sum(dim=1)
        noise = (chi2 / (pixels[row] - size).clamp_min(1)).clamp_min(1.0)
        nearly = decrement <= 25 * tolerance**2 * noise
        flat = better & ((before - new_chi2).abs() <= ROUNDING * new_chi2)
        converged = better & ((decrement <= tolerance**2 * noise) | (flat & nearly))
        stalled = ~better & (damping > 1e7)
        hopeless = (used == 1) & ~finite
        ended = active & (converged | stalled | hopeless | (used >= max_iterations))

        if ended.any():
            code = torch.full_like(problem, int(Status.TOO_MANY_ITERATIONS))
            code[stalled] = int(Status.STALLED)
            code[converged | (stalled & nearly)] = int(Status.CONVERGED)
            code[hopeless] = int(Status.NOT_FINITE)
            done = problem[ended]
            result.parameters[done] = point[ended]
            result.chi2[done] = chi2[ended]
            result.hessian[done] = hessian[ended]
            result.status[done] = code[ended]
            result.iterations[done] = used[ended]

        damped = hessian + torch.diag_embed(damping[:, None] * diagonal + ridge)
        step = bounded_step(damped, gradient, low, high)
        promised = (step * (2 * gradient - _times(hessian, step))).sum(dim=1)
        trial = point + step
        trial = torch.where(torch.isfinite(trial), trial, point).clamp(lower, upper)

        for slot in torch.nonzero(ended)[:, 0].tolist():
            active[slot] = waiting < count
            if active[slot]:
                problem[slot] = waiting
                waiting += 1
                trial[slot] = point[slot] = result.parameters[problem[slot]].clamp(lower, upper)
                chi2[slot], damping[slot], growth[slot], promised[slot], used[slot] = (
                    torch.inf,
                    1e-3,
                    2.0,
                    1.0,
                    0,
                )
    return result
