"""The paper's optimiser of the observed domain: L-BFGS, one star at a time (paper section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import Labels, PerStar, Spectra
from stargap.fit.forward import ForwardModel
from stargap.fit.labels import LEAST_PIXELS, LabelFit, fit_labels, pixel_weights
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior
from stargap.flags import Flag
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["fit_lbfgs"]

HISTORY = 10
"""Number of past steps that approximate the Hessian."""
LEAST_GRADIENT = 0.01
"""A fit has converged where the slope of chi-square by each label, in units of its standard error, is below this."""
LEAST_GAIN = 1e-6
"""A fit has also converged where chi-square falls by less than this fraction, about the rounding of float32 spectra."""


def fit_lbfgs(
    prepared: Prepared,
    model: ForwardModel,
    emulator: Emulator,
    parameters: Parameters,
    *,
    start: Labels,
    error_floor: float | Tensor = 0.01,
    prior: LabelPrior | None = None,
    max_iterations: int = 40,
    slots: int = 32,
) -> LabelFit:
    """Fit the labels of every prepared star from `start` by L-BFGS-B (Byrd et al. 1995) in scipy.

    Chi-square and its gradient, from the model's derivatives, go to the optimiser star by star: over a batch it would
    be one coupled problem. Labels are measured in their standard errors at the start, other labels fixed. Errors and
    flags are those of `fit_labels` at the end point; a fit has converged if scipy says so, or if a Gauss-Newton step
    from there is below 0.01 standard errors. It takes several times the evaluations of Levenberg-Marquardt, and is
    provided for comparison with the paper.

    Args:
        prepared: the stars.
        model: forward model of the same stars.
        emulator: see `fit_labels`.
        parameters: free, fixed and tied labels, bounds.
        start: labels ``(star, 4)``; where they are NaN, the middle of the bounds.
        error_floor: see `fit_labels`.
        prior: see `fit_labels`.
        max_iterations: iterations of L-BFGS; each takes one or a few model evaluations.
        slots: see `levenberg_marquardt`.
    """
    lower, upper = parameters.bounds()
    objective = _ChiSquare(prepared, model, parameters, pixel_weights(prepared, error_floor), prior)
    theta = torch.where(torch.isfinite(start), start, torch.nan)[:, parameters.places]
    theta = torch.where(torch.isnan(theta), (lower + upper) / 2, theta).clamp(lower, upper)
    used, ended = torch.zeros(len(theta), dtype=torch.long), torch.zeros(len(theta), dtype=torch.bool)
    for row in torch.nonzero(prepared.good.sum(dim=1) >= LEAST_PIXELS)[:, 0].tolist():
        found = objective.minimise(theta[row], row, max_iterations)
        if found is not None:
            theta[row], used[row], ended[row] = found
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
    )
    fit.iterations.add_(used)
    fit.flags[ended] &= ~int(Flag.NOT_CONVERGED)
    return fit


@dataclass(frozen=True)
class _ChiSquare:
    """Chi-square of one star at a time, with the penalties of the model and the prior."""

    prepared: Prepared
    model: ForwardModel
    parameters: Parameters
    weight: Spectra
    prior: LabelPrior | None

    def __call__(self, point: PerStar, row: int) -> tuple[Tensor, PerStar, PerStar]:
        """Return chi-square at free labels `point`, its gradient, and the diagonal of J^T W J."""
        labels, directions = self.parameters.expand(point[None])
        spectrum, jacobian = (part[0].double() for part in self.model(labels, directions, torch.tensor([row])))
        data = torch.nn.functional.pad(self.prepared.flux[row], (0, self.model.penalties))
        weight = torch.nn.functional.pad(self.weight[row], (0, self.model.penalties), value=1.0).double()
        residual = data - spectrum
        chi2, slope = (weight * residual.square()).sum(), -2 * (jacobian @ (weight * residual))
        curvature = (weight * jacobian.square()).sum(dim=1)
        if self.prior is not None:
            departure, change = (part[0] for part in self.prior(labels, directions))
            chi2, slope = chi2 + departure.square().sum(), slope + 2 * (change @ departure)
            curvature = curvature + change.square().sum(dim=1)
        return chi2, slope, curvature

    def minimise(self, begin: PerStar, row: int, max_iterations: int) -> tuple[PerStar, int, bool] | None:
        """Return free labels at the minimum, evaluations, and whether it converged; None where nothing is finite."""
        from scipy.optimize import minimize

        chi2, _, curvature = self(begin, row)
        if not (torch.isfinite(chi2) and torch.isfinite(curvature).all() and (curvature > 0).all()):
            return None
        scale = curvature.rsqrt()

        def scaled(u: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value, slope, _ = self(torch.as_tensor(u) * scale, row)
            return float(value), (slope * scale).cpu().numpy()

        lower, upper = self.parameters.bounds()
        found = minimize(
            scaled,
            (begin / scale).cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip((lower / scale).tolist(), (upper / scale).tolist(), strict=True)),
            options={"maxcor": HISTORY, "maxiter": max_iterations, "gtol": LEAST_GRADIENT, "ftol": LEAST_GAIN},
        )
        return (torch.as_tensor(found.x) * scale).clamp(lower, upper), found.nfev + 1, bool(found.success)
