"""The paper's optimiser of the observed domain: L-BFGS, one star at a time (paper section 3.5)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.fit.labels import ForwardModel, LabelFit, Parameters, fit_labels
from stargap.fit.prior import LabelPrior
from stargap.flags import Flag
from stargap.labels import LABELS
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["fit_lbfgs"]

HISTORY = 10
LEAST_GRADIENT = 0.01
"""Where a fit ends: slope of chi-square by a label in units of its standard error (others held)."""
LEAST_GAIN = 1e-6
"""Where it ends too: relative gain of chi-square, about what float32 spectra resolve."""


def fit_lbfgs(
    prepared: Prepared,
    model: ForwardModel,
    emulator: Emulator,
    parameters: Parameters,
    *,
    start: Tensor,
    error_floor: float | Tensor = 0.01,
    prior: LabelPrior | None = None,
    max_iterations: int = 40,
    slots: int = 32,
    least_pixels: int = 200,
) -> LabelFit:
    """Fit the labels of every prepared star from `start` by L-BFGS-B (Byrd et al. 1995) in scipy.

    Chi-square and its gradient, from the model's derivatives, go to the optimiser star by star: over a batch it would
    be one coupled problem. Labels are measured in their standard errors at the start, other labels held. Errors and
    flags are those of `fit_labels` at the end point; a fit has converged if scipy says so, or if a Gauss-Newton step
    from there is below 0.01 standard errors. It takes several times the evaluations of Levenberg-Marquardt, and is
    kept for comparison with the paper.

    Args:
        prepared: the stars.
        model: forward model of the same stars.
        emulator: see `fit_labels`.
        parameters: free, fixed and tied labels, bounds.
        start: labels ``(star, 4)``; where they are NaN, from the middle of the bounds.
        error_floor: see `fit_labels`.
        prior: the same.
        max_iterations: of L-BFGS; each takes one or a few model evaluations.
        slots: see `fit_labels`.
        least_pixels: the same.
    """
    from scipy.optimize import minimize

    lower, upper = parameters.bounds()
    places = [LABELS.index(name) for name in parameters.free]
    weight = torch.where(prepared.good, 1.0 / (prepared.sigma.square() + error_floor**2), 0.0)
    theta = torch.where(torch.isfinite(start), start, torch.nan)[:, places]
    theta = torch.where(torch.isnan(theta), (lower + upper) / 2, theta).clamp(lower, upper)
    used, ended = torch.zeros(len(theta), dtype=torch.long), torch.zeros(len(theta), dtype=torch.bool)

    def chi2_and_slope(point: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
        labels, directions = parameters.expand(point[None])
        spectrum, jacobian = (part[0].double() for part in model(labels, directions, torch.tensor([row])))
        residual, w = prepared.flux[row] - spectrum, weight[row].double()
        chi2, slope = (w * residual.square()).sum(), -2 * (jacobian @ (w * residual))
        curvature = (w * jacobian.square()).sum(dim=1)
        if prior is not None:
            apart, change = (part[0] for part in prior(labels, directions))
            chi2, slope = chi2 + apart.square().sum(), slope + 2 * (change @ apart)
            curvature = curvature + change.square().sum(dim=1)
        return chi2, slope, curvature

    for row in torch.nonzero(prepared.good.sum(dim=1) >= least_pixels)[:, 0].tolist():
        begin = theta[row].clone()
        chi2, _, curvature = chi2_and_slope(begin, row)
        if not (torch.isfinite(chi2) and torch.isfinite(curvature).all() and (curvature > 0).all()):
            continue
        scale = curvature.rsqrt()

        def scaled(u: NDArray[np.float64], row: int = row, scale: Tensor = scale) -> tuple[float, NDArray[np.float64]]:
            value, slope, _ = chi2_and_slope(torch.as_tensor(u) * scale, row)
            return float(value), (slope * scale).numpy()

        found = minimize(
            scaled,
            (begin / scale).numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip((lower / scale).tolist(), (upper / scale).tolist(), strict=True)),
            options={"maxcor": HISTORY, "maxiter": max_iterations, "gtol": LEAST_GRADIENT, "ftol": LEAST_GAIN},
        )
        theta[row] = (torch.as_tensor(found.x) * scale).clamp(lower, upper)
        used[row], ended[row] = found.nfev + 1, found.success
    labels, _ = parameters.expand(theta)
    fit = fit_labels(
        prepared,
        model,
        emulator,
        parameters,
        error_floor=error_floor,
        prior=prior,
        start=labels,
        slots=slots,
        max_iterations=1,
        least_pixels=least_pixels,
    )
    fit.iterations.add_(used)
    fit.flags[ended] &= ~int(Flag.NOT_CONVERGED)
    return fit
