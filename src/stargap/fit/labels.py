"""Labels of many stars at once: coarse table, then Levenberg-Marquardt through a forward model (paper section 3.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stargap.arrays import (
    Jacobians,
    Labels,
    ParameterValues,
    PerStar,
    RowNumbers,
    SomeRows,
    Spectra,
    SquareMatrices,
    StarFlags,
    StarRows,
)
from stargap.fit.compressed import Compressed, Own, OwnModel
from stargap.fit.covariance import linear_covariance
from stargap.fit.forward import ForwardModel
from stargap.fit.linear import gram
from stargap.fit.optimise import LeastSquares, Status, full_chunks, levenberg_marquardt
from stargap.fit.parameters import Parameters, relation_of
from stargap.fit.prior import TERMS, LabelPrior
from stargap.fit.start_table import find_starts
from stargap.flags import Flag
from stargap.labels import A_M, LABELS, M_H
from stargap.spectra.linespread import AT_ONCE
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["LEAST_PIXELS", "LabelFit", "fit_labels", "pixel_weights"]

LEAST_PIXELS = 200
"""Good pixels below which a spectrum is flagged and not fitted."""
AT_BOUND = dict(
    zip(LABELS, (Flag.TEFF_AT_BOUND, Flag.LOGG_AT_BOUND, Flag.M_H_AT_BOUND, Flag.A_M_AT_BOUND), strict=True)
)
MOST_BAD = 0.5
"""Fraction of bad pixels above which a star is fitted by the exact model from the start on, and so is one of another
line-spread function: compressed models are those of a whole spectrum at the resolution of the emulator."""
FEW = 8
"""Slots for these stars, which are few."""
UNSURE = 0.1
"""Difference of the chi-squares of two compressed minima, relative to them, from which on the deeper one is known."""
CLOSE = 1.0
"""Tolerance at most with which the exact model goes on from there."""
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
    errors: bool = True,
    compressed: Compressed | None = None,
    near: float = 0.3,
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
        errors: work out errors, covariances and models, which take a model evaluation more; otherwise they are NaN.
        compressed: the same model in a few numbers (`stargap.fit.compressed`), in which stars that have half of their
            pixels, at the emulator's resolution, are fitted first; without it, `model` does everything.
        near: tolerance with which `model` goes on from there, its last step taken; infinite: it does so only where two
            minima are about as deep.
    """
    weight = pixel_weights(prepared, error_floor)
    problem = _Problem(prepared, model, parameters, weight, prior, slots, max_iterations)
    few = problem if compressed is None else replace(problem, slots=min(slots, FEW))
    fitted = prepared.good.sum(dim=1) >= LEAST_PIXELS
    alike = (prepared.bad_fraction <= MOST_BAD) & (prepared.blur.amax(dim=1) <= AT_ONCE)
    quick = fitted & alike & (compressed is not None)
    rows = torch.nonzero(fitted & ~quick)[:, 0]
    begin = None if start is None else torch.nan_to_num(start[:, parameters.places]).clamp(*parameters.bounds())
    if begin is not None:
        result, ambiguous = few.solve(rows, begin[rows], tolerance), rows[:0]
    else:
        result, ambiguous = few.solve_from_table(rows, emulator, starts, tolerance)
    if compressed is not None:
        others = torch.nonzero(quick)[:, 0]
        found, unsure = problem.solve_compressed(others, compressed, begin, starts, near)
        ambiguous = torch.cat([ambiguous, unsure])
        rows, result = torch.cat([rows, others]), result.with_others(found)
    fit = _summarise(problem, rows, result, ambiguous)
    if errors:
        _fill_errors(fit, problem, rows, result.parameters)
    return fit


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
    max_iterations: int

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

    def solve(self, rows: StarRows, begin: ParameterValues, tolerance: float, *, finish: bool = False) -> LeastSquares:
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
            max_iterations=self.max_iterations,
            tolerance=tolerance,
            finish=finish,
        )

    def solve_from_table(
        self, rows: StarRows, emulator: Emulator, starts: int, tolerance: float
    ) -> tuple[LeastSquares, SomeRows]:
        """Fit the stars `rows` from the table of starts; return also those with two minima about as deep."""
        if not len(rows):
            return self.solve(rows, torch.zeros(0, len(self.parameters.free)).double(), tolerance), rows
        near, far = find_starts(self.prepared, self.weight, emulator, self.parameters)
        result = self.solve(rows, near.theta[rows], tolerance)
        if starts == 1:
            return result, rows[:0]
        noise = self.reduced(result.chi2, rows).clamp_min(1.0)
        above, far_above = near.chi2[rows] - result.chi2, far.chi2[rows] - result.chi2
        again = torch.nonzero(far_above < 2 * above + 9 * noise)[:, 0]
        second = self.solve(rows[again], far.theta[rows[again]], tolerance)
        ambiguous = result.rivals(second, again, 9.0 * noise[again], noise[again])
        result.swap_better(second, again)
        return result, rows[again[ambiguous]]

    def solve_compressed(
        self,
        rows: RowNumbers,
        compressed: Compressed,
        begin: ParameterValues | None,
        starts: int,
        near: float,
    ) -> tuple[LeastSquares, SomeRows]:
        """Fit the stars `rows` in a few numbers, then from there; return also those with two minima about as deep.

        Where a second minimum might be as deep, the exact model decides.
        """
        own = None
        if isinstance(self.model, OwnModel) and begin is not None:
            spectra, terms = compressed.spectra(self.parameters.expand(begin)[0]), self.model.own_terms

            def own(part: StarRows) -> Own:
                return terms(spectra[part], part)

        reduced = compressed.reduce(self.prepared.flux, self.weight, rows, own)
        freedom = self.prepared.good.sum(dim=1)[rows].double() - len(self.parameters.free)
        best, again, other = compressed.fit(
            reduced,
            freedom,
            self.parameters,
            self.prior,
            start=None if begin is None else begin[rows],
            starts=starts,
            max_iterations=self.max_iterations,
        )
        noise = self.reduced(best.chi2[again], rows[again]).clamp_min(1.0)
        close = best.rivals(other, again, UNSURE * best.chi2[again] + 9.0 * noise, noise)
        best.swap_better(other, again)
        rivals = again[close]
        which = torch.arange(len(rows)) if math.isfinite(near) else rivals
        near = min(near, CLOSE)
        best.put(which, self.solve(rows[which], best.parameters[which], near, finish=True))
        second = self.solve(rows[rivals], other.parameters[close], near, finish=True)
        noise = self.reduced(best.chi2[rivals], rows[rivals]).clamp_min(1.0)
        ambiguous = best.rivals(second, rivals, 9.0 * noise, noise)
        best.swap_better(second, rivals)
        return best, rows[rivals[ambiguous]]

    def reduced(self, chi2: PerStar, rows: StarRows) -> PerStar:
        """Return chi-square of the stars `rows` over their good pixels less the free labels."""
        return chi2 / (self.prepared.good.sum(dim=1)[rows] - len(self.parameters.free))


def _summarise(problem: _Problem, fitted: StarRows, result: LeastSquares, ambiguous: SomeRows) -> LabelFit:
    """Return labels and flags of all stars from the fits of the stars `fitted`; errors and models are NaN."""
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
    fit.flags[problem.prepared.good.sum(dim=1) < LEAST_PIXELS] |= int(Flag.TOO_FEW_PIXELS)
    fit.flags[fitted[result.status != int(Status.CONVERGED)]] |= int(Flag.NOT_CONVERGED)
    fit.flags[ambiguous] |= int(Flag.STARTS_DISAGREE)
    _flag_bounds(fit, problem.parameters, fitted, result.parameters, full)
    fit.flags[chi2 > POOR] |= int(Flag.POOR_FIT)
    fit.flags[chi2 > BAD] |= int(Flag.BAD_FIT)
    return fit


def _fill_errors(fit: LabelFit, problem: _Problem, fitted: StarRows, theta: ParameterValues) -> None:
    """Write errors, covariances, chi-squares and models of the stars `fitted`, from the model at their labels."""
    parameters, pixels = problem.parameters, problem.prepared.flux.shape[1]
    for chunk in full_chunks(fitted, problem.slots):
        rows = fitted[chunk]
        spectrum, jacobian = problem.evaluate(theta[chunk], rows)
        data = torch.nn.functional.pad(problem.prepared.flux[rows], (0, problem.extra))
        weight = torch.nn.functional.pad(problem.weight[rows], (0, problem.extra), value=1.0)
        squares = torch.where(weight > 0, weight * (data - spectrum).square(), 0.0)
        fit.chi2[rows] = problem.reduced(squares.sum(dim=1, dtype=torch.float64), rows)
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
    unknown = torch.isnan(fit.labels)
    fit.errors[unknown] = torch.nan
    fit.chi2[unknown.any(dim=1)] = torch.nan


def _flag_bounds(
    fit: LabelFit, parameters: Parameters, fitted: StarRows, theta: ParameterValues, labels: Labels
) -> None:
    """Flag free labels within a thousandth of their range of a bound, and [a/M] that a bound cuts."""
    lower, upper = parameters.bounds()
    margin = 1e-3 * (upper - lower)
    at_bound = (theta <= lower + margin) | (theta >= upper - margin)
    for k, name in enumerate(parameters.free):
        fit.flags[fitted[at_bound[:, k]]] |= int(AT_BOUND[name])
    if parameters.tied:
        cut = (relation_of(labels, parameters.alpha_slope) - labels[:, A_M]).abs() > 0.01
        fit.flags[fitted[cut]] |= int(Flag.A_M_AT_BOUND)
