"""Labels of many stars at once: coarse table, then Levenberg-Marquardt through a forward model (paper section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stargap.arrays import (
    Jacobians,
    Labels,
    ParameterValues,
    PerStar,
    Spectra,
    SquareMatrices,
    StarFlags,
    StarRows,
)
from stargap.fit.covariance import linear_covariance
from stargap.fit.forward import ForwardModel
from stargap.fit.optimise import LeastSquares, Status, full_chunks, gram, levenberg_marquardt
from stargap.fit.parameters import Parameters, relation_of
from stargap.fit.prior import TERMS, LabelPrior
from stargap.fit.start_table import find_starts
from stargap.flags import Flag
from stargap.labels import A_M, LABELS, M_H
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["LEAST_PIXELS", "LabelFit", "fit_labels", "pixel_weights"]

LEAST_PIXELS = 200
"""Good pixels below which a spectrum is flagged and not fitted."""
AT_BOUND = dict(
    zip(LABELS, (Flag.TEFF_AT_BOUND, Flag.LOGG_AT_BOUND, Flag.M_H_AT_BOUND, Flag.A_M_AT_BOUND), strict=True)
)
POOR, BAD = 8.0, 50.0
"""Reduced chi-square above which a fit is flagged as poor, and as bad."""


@dataclass(frozen=True)
class LabelFit:
    """Labels of a batch; rows that could not be fitted hold NaN.

    ``labels, errors`` are ``(star, 4)`` float64 in the order of ``LABELS`` (errors of fixed labels are NaN),
    ``covariance (star, parameter, parameter)`` of the free ones, ``chi2 (star,)`` is reduced, ``flags (star,)`` int64,
    ``model (star, pixel)`` the best normalised spectrum, ``iterations (star,)`` summed over the starts.
    """

    labels: Labels
    errors: Labels
    covariance: SquareMatrices
    chi2: PerStar
    flags: StarFlags
    model: Spectra
    iterations: StarFlags


def fit_labels(
    prepared: Prepared,
    model: ForwardModel,
    emulator: Emulator,
    parameters: Parameters,
    *,
    error_floor: float | Tensor = 0.01,
    prior: LabelPrior | None = None,
    starts: int = 2,
    start: Labels | None = None,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
) -> LabelFit:
    """Fit the labels of every prepared star.

    A table of emulator spectra gives the starts: its best node and, where it could lead as deep (its chi-square
    exceeds the first minimum by less than twice what the best node does), the best node at least 300 K, 0.9 dex in
    log g or 0.9 dex in [M/H] away. Errors are the propagated noise of the native pixels through
    resampling, normalisation and fit; the floor sets weights, not errors (`paper`: the inverse Hessian).

    Args:
        prepared: the stars.
        model: forward model of the same stars.
        emulator: the synthetic spectra behind the table of starts.
        parameters: free, fixed and tied labels, bounds.
        error_floor: added in quadrature to the normalised errors, for what the model cannot reproduce; a number, or
            ``(pixel,)``.
        prior: of the labels; errors stay those of the noise alone.
        starts: 1 or 2.
        start: labels ``(star, 4)`` to start from instead of the table; then there is no second start.
        slots: see `levenberg_marquardt`.
        max_iterations: see `levenberg_marquardt`; for each start.
        tolerance: see `levenberg_marquardt`.
    """
    weight = pixel_weights(prepared, error_floor)
    problem = _Problem(prepared, model, parameters, weight, prior, slots)
    fitted = torch.nonzero(prepared.good.sum(dim=1) >= LEAST_PIXELS)[:, 0]
    ambiguous = torch.zeros(0, dtype=torch.long)
    if start is not None:
        begin = torch.nan_to_num(start[fitted][:, parameters.places]).clamp(*parameters.bounds())
        result = problem.solve(fitted, begin, max_iterations, tolerance)
    else:
        near, far = find_starts(prepared, weight, emulator, parameters)
        result = problem.solve(fitted, near.theta[fitted], max_iterations, tolerance)
        if starts == 2:
            noise = problem.reduced(result.chi2, fitted).clamp_min(1.0)
            above, far_above = near.chi2[fitted] - result.chi2, far.chi2[fitted] - result.chi2
            again = torch.nonzero(far_above < 2 * above + 9 * noise)[:, 0]
            second = problem.solve(fitted[again], far.theta[fitted[again]], max_iterations, tolerance)
            ambiguous = _merge(result, second, again, noise)
    return _summarise(problem, fitted, result, fitted[ambiguous])


def pixel_weights(prepared: Prepared, error_floor: float | Tensor) -> Spectra:
    """Return inverse variances of normalised pixels with a floor in quadrature, ``(star, pixel)``, 0 where not good."""
    return torch.where(prepared.good, 1.0 / (prepared.sigma.square() + error_floor**2), 0.0)


@dataclass(frozen=True)
class _Problem:
    """The stars, the penalties of their model and the prior as one weighted least-squares problem.

    What is not a pixel follows the pixels, as departures in standard deviations: data 0 with weight 1.
    """

    prepared: Prepared
    model: ForwardModel
    parameters: Parameters
    weight: Spectra
    prior: LabelPrior | None
    slots: int

    @property
    def extra(self) -> int:
        """How many terms follow the pixels."""
        return self.model.penalties + (0 if self.prior is None else TERMS)

    def evaluate(self, theta: ParameterValues, rows: StarRows) -> tuple[Spectra, Jacobians]:
        """Return spectra with their derivatives, followed by penalties and departures from the prior."""
        labels, directions = self.parameters.expand(theta)
        spectrum, jacobian = self.model(labels, directions, rows)
        if self.prior is None:
            return spectrum, jacobian
        departure, change = self.prior(labels, directions)
        return torch.cat([spectrum, departure.float()], dim=1), torch.cat([jacobian, change.float()], dim=2)

    def solve(self, rows: StarRows, begin: ParameterValues, max_iterations: int, tolerance: float) -> LeastSquares:
        """Fit the stars `rows`, each from its row of `begin`."""
        lower, upper = self.parameters.bounds()
        return levenberg_marquardt(
            self.evaluate,
            torch.nn.functional.pad(self.prepared.flux, (0, self.extra)),
            torch.nn.functional.pad(self.weight, (0, self.extra), value=1.0),
            begin,
            lower=lower,
            upper=upper,
            rows=rows,
            slots=self.slots,
            max_iterations=max_iterations,
            tolerance=tolerance,
        )

    def reduced(self, chi2: PerStar, rows: StarRows) -> PerStar:
        """Return chi-square of the stars `rows` over their good pixels less the free labels."""
        return chi2 / (self.prepared.good.sum(dim=1)[rows] - len(self.parameters.free))


def _merge(first: LeastSquares, second: LeastSquares, rows: Tensor, noise: PerStar) -> Tensor:
    """Put the better of two fits into `first`; return the rows where two different minima fit about equally well."""
    curvature = first.hessian[rows].diagonal(dim1=1, dim2=2).clamp_min(1e-300)
    distance = (first.parameters[rows] - second.parameters).square() * curvature / noise[rows, None]
    close = (first.chi2[rows] - second.chi2).abs() < 9.0 * noise[rows]
    ambiguous = rows[(distance > 9.0).any(dim=1) & close]
    first.iterations[rows] += second.iterations
    better = second.chi2 < first.chi2[rows]
    for name in ("parameters", "chi2", "hessian", "status"):
        getattr(first, name)[rows[better]] = getattr(second, name)[better]
    return ambiguous


def _summarise(problem: _Problem, fitted: StarRows, result: LeastSquares, ambiguous: StarRows) -> LabelFit:
    """Return labels, errors, models and flags of all stars from the fits of the stars `fitted`."""
    stars, size, nan = len(problem.prepared.flux), len(problem.parameters.free), torch.nan
    labels = torch.full((stars, len(LABELS)), nan, dtype=torch.float64)
    chi2 = torch.full((stars,), nan, dtype=torch.float64)
    iterations = torch.zeros(stars, dtype=torch.long)
    full, _ = problem.parameters.expand(result.parameters)
    finite = torch.isfinite(result.chi2)
    labels[fitted] = torch.where(finite[:, None], full, nan)
    chi2[fitted] = torch.where(finite, problem.reduced(result.chi2, fitted), nan)
    iterations[fitted] = result.iterations
    fit = LabelFit(
        labels,
        torch.full_like(labels, nan),
        torch.full((stars, size, size), nan, dtype=torch.float64),
        chi2,
        torch.zeros(stars, dtype=torch.long),
        torch.full_like(problem.prepared.flux, nan),
        iterations,
    )
    _fill_errors(fit, problem, fitted, result.parameters)
    fit.flags[problem.prepared.good.sum(dim=1) < LEAST_PIXELS] |= int(Flag.TOO_FEW_PIXELS)
    fit.flags[fitted[result.status != int(Status.CONVERGED)]] |= int(Flag.NOT_CONVERGED)
    fit.flags[ambiguous] |= int(Flag.STARTS_DISAGREE)
    _flag_bounds(fit.flags, problem.parameters, fitted, result.parameters, full)
    fit.flags[chi2 > POOR] |= int(Flag.POOR_FIT)
    fit.flags[chi2 > BAD] |= int(Flag.BAD_FIT)
    return fit


def _fill_errors(fit: LabelFit, problem: _Problem, fitted: StarRows, theta: ParameterValues) -> None:
    """Write errors, covariances and best models of the stars `fitted`, from the model's derivatives there."""
    parameters, pixels = problem.parameters, problem.prepared.flux.shape[1]
    for chunk in full_chunks(fitted, problem.slots):
        rows = fitted[chunk]
        spectrum, jacobian = problem.evaluate(theta[chunk], rows)
        jacobian, change = jacobian[:, :, :pixels], jacobian[:, :, pixels:]
        constant = gram(change, change).double() if problem.extra else None
        _, covariance = linear_covariance(problem.prepared, jacobian, problem.weight[rows], rows, constant=constant)
        errors = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        _, directions = parameters.expand(theta[chunk])
        fit.covariance[rows] = covariance
        fit.model[rows] = spectrum[:, :pixels]
        for k, place in enumerate(parameters.places):
            fit.errors[rows, place] = errors[:, k]
        if parameters.tied and M_H in parameters.places:
            m_h = parameters.places.index(M_H)
            fit.errors[rows, A_M] = directions[:, m_h, A_M].abs() * errors[:, m_h]
    fit.errors[torch.isnan(fit.labels)] = torch.nan


def _flag_bounds(
    flags: StarFlags, parameters: Parameters, fitted: StarRows, theta: ParameterValues, labels: Labels
) -> None:
    """Flag free labels within a thousandth of their range of a bound, and [a/M] that a bound cuts."""
    lower, upper = parameters.bounds()
    margin = 1e-3 * (upper - lower)
    at_bound = (theta <= lower + margin) | (theta >= upper - margin)
    for k, name in enumerate(parameters.free):
        flags[fitted[at_bound[:, k]]] |= int(AT_BOUND[name])
    if parameters.tied:
        flags[fitted[(relation_of(labels, parameters.alpha_slope) - labels[:, A_M]).abs() > 0.01]] |= int(
            Flag.A_M_AT_BOUND
        )
