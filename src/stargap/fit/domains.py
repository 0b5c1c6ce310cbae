"""Labels in two domains: the synthetic one first, then the observed one through a trained transfer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from stargap.fit.labels import EmulatorModel, ForwardModel, LabelFit, Parameters, fit_labels, linear_covariance
from stargap.fit.lbfgs import fit_lbfgs
from stargap.fit.optimise import bounded_step, gram
from stargap.fit.prior import LabelPrior
from stargap.flags import Flag
from stargap.labels import A_M, LABELS, M_H
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["DomainFit", "Transfer", "fit_domains", "joint_step"]

TOLERANCE = 0.05
"""Of the observed domain's fit (see `levenberg_marquardt`): the step that follows takes the rest."""
DISAGREE = (300.0, 0.6, 0.5)
"""Differences between the domains (K, dex, dex) that are flagged, where they are also five errors."""


class Transfer(Protocol):
    """A trained transfer, as far as fits need it (see `stargap.transfer`)."""

    emulator: Emulator

    @property
    def floor(self) -> Tensor:
        """Error floor of the synthetic domain, ``()`` or ``(pixel,)``."""
        ...

    @property
    def observed_floor(self) -> float | Tensor:
        """Error floor of the observed domain, a number or ``(pixel,)``."""
        ...

    @property
    def prior(self) -> LabelPrior | None:
        """Prior of the labels in both domains, if there is one."""
        ...

    @property
    def chi2_limit(self) -> float:
        """Reduced chi-square above which a spectrum is unlike those of the training, infinite if that is not known."""
        ...

    @property
    def split_scale(self) -> Tensor:
        """Standard deviations of the split numbers over stars, ``(split,)``; empty where there are none to fit."""
        ...

    def to_synthetic(self, prepared: Prepared) -> Prepared:
        """Return the spectra as the synthetic domain would have them: what the emulator is fitted to first.

        A transfer that corrects synthetic spectra only returns `prepared` itself.
        """
        ...

    def model(self, prepared: Prepared) -> ForwardModel:
        """Return the forward model of the observed domain for these stars."""
        ...

    def split_columns(self, spectra: Tensor) -> Tensor:
        """Return the change of spectra per unit of each split number, ``(row, split, pixel)``; `split` may be 0."""
        ...

    def publish(self, labels: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a star's labels ``(row, 3)`` from fitted ones, their covariance, and the systematic error."""
        ...

    def outside(self, labels: Tensor) -> Tensor:
        """Return which fitted labels are beyond the training stars', ``(row,)`` bool."""
        ...


@dataclass(frozen=True)
class DomainFit:
    """Both fits of a batch.

    ``synthetic`` and ``observed`` are `LabelFit`; labels of the observed domain are the published ones, and their
    ``model`` holds the spectra with the stars' split numbers. ``split, split_errors`` are ``(star, split)``,
    ``systematic`` ``(star, 4)`` is the error that more light would not take away, and not in ``observed.errors``.
    """

    synthetic: LabelFit
    observed: LabelFit
    split: Tensor
    split_errors: Tensor
    systematic: Tensor


def fit_domains(
    prepared: Prepared,
    transfer: Transfer,
    parameters: Parameters,
    *,
    start: Tensor | None = None,
    starts: int = 2,
    max_iterations: int = 40,
    slots: int = 32,
    optimiser: Literal["lm", "lbfgs"] = "lm",
) -> DomainFit:
    """Fit every prepared star with the emulator, then in the observed domain from there (paper section 3.5).

    y1 = argmin sum (Payne(y) - to_synthetic(F_obs))^2 / s^2, then y = argmin sum (F_obs - model(y))^2 / s^2 from y1.
    The observed domain's fit ends with one Gauss-Newton step of labels and split numbers together, within the bounds
    of the labels and with the prior of the split numbers: the model is linear in them. Errors include the spread that
    split numbers leave in the labels; the transfer's own uncertainty is kept apart.

    Args:
        prepared: the stars; fluxes of pixels that are not good do not matter, NaN included.
        transfer: what was trained.
        parameters: free, fixed and tied labels, bounds.
        start: labels ``(star, 4)`` to start the synthetic domain's fit from, instead of `starts` ones of its table.
        starts: of the synthetic domain's fit.
        max_iterations: see `fit_labels`.
        slots: the same; 8 wastes least on a network, and labels do not depend on it.
        optimiser: of the observed domain: Levenberg-Marquardt, or the paper's L-BFGS star by star (`fit_lbfgs`).
    """
    prepared = replace(prepared, flux=torch.where(prepared.good, prepared.flux, 0.0))
    plain = transfer.to_synthetic(prepared)
    synthetic = fit_labels(
        plain,
        EmulatorModel(transfer.emulator, plain),
        transfer.emulator,
        parameters,
        error_floor=transfer.floor,
        prior=transfer.prior,
        starts=starts,
        start=start,
        max_iterations=max_iterations,
        slots=slots,
    )
    model = transfer.model(prepared)
    fit = fit_lbfgs if optimiser == "lbfgs" else partial(fit_labels, tolerance=TOLERANCE)
    observed = fit(
        prepared,
        model,
        transfer.emulator,
        parameters,
        error_floor=transfer.observed_floor,
        prior=transfer.prior,
        start=synthetic.labels,
        max_iterations=max_iterations,
        slots=slots,
    )
    return _with_split(prepared, transfer, model, parameters, synthetic, observed, slots)


@dataclass(frozen=True)
class JointStep:
    """One Gauss-Newton step of labels and split numbers together, which the model is linear in.

    ``step (row, free + split)``, ``labels (row, 4)`` after it, ``spectrum (row, pixel)`` before it, ``columns`` its
    derivatives ``(row, free + split, pixel)``, 0 where pixels are not good; ``inverse`` and ``covariance
    (row, free + split, free + split)`` as in `linear_covariance`.
    """

    step: Tensor
    labels: Tensor
    spectrum: Tensor
    columns: Tensor
    inverse: Tensor
    covariance: Tensor


def joint_step(
    prepared: Prepared,
    transfer: Transfer,
    model: ForwardModel,
    parameters: Parameters,
    labels: Tensor,
    weight: Tensor,
    rows: Tensor,
) -> JointStep:
    """Take a step from finite `labels` ``(row, 4)``, within their bounds and with the prior of the split numbers.

    Args:
        prepared: the stars.
        transfer: whose split numbers are fitted.
        model: of the domain in question.
        parameters: free, fixed and tied labels, bounds.
        labels: of the rows in question.
        weight: of their pixels, ``(row, pixel)``, 0 where not good.
        rows: which stars they are.
    """
    lower, upper = parameters.bounds()
    places = [LABELS.index(name) for name in parameters.free]
    split_count = len(transfer.split_scale)
    theta = labels[:, places]
    full, directions = parameters.expand(theta)
    spectrum, jacobian = model(full, directions, rows)
    columns = torch.cat([jacobian, transfer.split_columns(spectrum)], dim=1)
    columns = torch.where(prepared.good[rows][:, None], columns, 0.0)
    precision = torch.cat([torch.zeros(len(places)), transfer.split_scale.float() ** -2])
    apart, change = _prior_terms(transfer.prior, full, directions, split_count)
    steady = change @ change.transpose(1, 2)
    inverse, covariance = linear_covariance(prepared, columns, weight, rows, precision, steady=steady)
    weighted = columns * weight[:, None]
    hessian = gram(weighted, columns).double() + torch.diag(precision.double()) + steady
    gradient = (weighted * (prepared.flux[rows] - spectrum)[:, None]).sum(dim=2, dtype=torch.float64)
    gradient = gradient - (change * apart[:, None]).sum(dim=2)
    ends = ((lower, -torch.inf), (upper, torch.inf))
    low, high = (torch.nn.functional.pad(side - theta, (0, split_count), value=end) for side, end in ends)
    step = bounded_step(hessian, gradient, low, high)
    moved, _ = parameters.expand((theta + step[:, : len(places)]).clamp(lower, upper))
    return JointStep(step, moved, spectrum, columns, inverse, covariance)


def _prior_terms(
    prior: LabelPrior | None, labels: Tensor, directions: Tensor, split_count: int
) -> tuple[Tensor, Tensor]:
    """Departures from the prior ``(row, term)`` and their derivatives by labels and split numbers."""
    if prior is None:
        return labels.new_zeros(len(labels), 0), labels.new_zeros(len(labels), directions.shape[1] + split_count, 0)
    apart, change = prior(labels, directions)
    return apart, torch.nn.functional.pad(change, (0, 0, 0, split_count))


def _with_split(
    prepared: Prepared,
    transfer: Transfer,
    model: ForwardModel,
    parameters: Parameters,
    synthetic: LabelFit,
    observed: LabelFit,
    slots: int,
) -> DomainFit:
    stars, nan = len(prepared.flux), torch.nan
    places = [LABELS.index(name) for name in parameters.free]
    split_count = len(transfer.split_scale)
    labels, errors = torch.full((stars, len(LABELS)), nan).double(), torch.full((stars, len(LABELS)), nan).double()
    systematic = torch.full_like(labels, nan)
    covariance = torch.full_like(observed.covariance, nan)
    split, split_errors = (torch.full((stars, split_count), nan).double() for _ in range(2))
    spectra, chi2, flags = observed.model.clone(), observed.chi2.clone(), observed.flags.clone()
    floor = torch.as_tensor(transfer.observed_floor)
    weight = torch.where(prepared.good, 1.0 / (prepared.sigma.square() + floor.square()), 0.0)
    fitted = torch.nonzero(torch.isfinite(observed.labels).all(dim=1))[:, 0]
    for first in range(0, len(fitted), slots):
        chunk = torch.arange(first, first + slots).clamp_max(len(fitted) - 1)
        rows = fitted[chunk]
        joint = joint_step(prepared, transfer, model, parameters, observed.labels[rows], weight[rows], rows)
        full, cov, step = joint.labels, joint.covariance, joint.step
        _, directions = parameters.expand(full[:, places])
        spectra[rows] = joint.spectrum + (step.float()[:, :, None] * joint.columns).sum(dim=1)
        split[rows] = step[:, len(places) :]
        split_errors[rows] = cov.diagonal(dim1=1, dim2=2)[:, len(places) :].clamp_min(0).sqrt()
        along = directions[:, :, :3]
        inner = cov[:, : len(places), : len(places)]
        mapped, spread, own = transfer.publish(full, along.transpose(1, 2) @ inner @ along)
        labels[rows], systematic[rows] = full, 0.0
        free = [place for place in places if place != A_M]
        labels[rows[:, None], torch.tensor(free)] = mapped[:, free]
        systematic[rows[:, None], torch.tensor(free)] = own[:, free]
        variance = spread.diagonal(dim1=1, dim2=2)[:, free].clamp_min(0)
        errors[rows[:, None], torch.tensor(free)] = variance.sqrt()
        if A_M in places or (parameters.tied and M_H in places):
            alpha = directions[:, :, A_M]
            errors[rows, A_M] = (alpha[:, :, None] * inner * alpha[:, None]).sum(dim=(1, 2)).clamp_min(0).sqrt()
        covariance[rows] = inner
        flags[rows[transfer.outside(full)]] |= int(Flag.OUTSIDE_TRAINING)
    good = prepared.good.sum(dim=1) - len(places)
    squares = torch.where(prepared.good, weight * (prepared.flux - spectra).square(), 0.0).sum(dim=1)
    chi2 = torch.where(torch.isfinite(chi2), (squares / good).double(), chi2)
    flags[chi2 > transfer.chi2_limit] |= int(Flag.UNLIKE_TRAINING)
    apart = (labels - synthetic.labels)[:, :3].abs()
    allowed = torch.maximum(5 * errors[:, :3].nan_to_num(torch.inf), torch.tensor(DISAGREE).double())
    flags[(apart > allowed).any(dim=1)] |= int(Flag.DOMAINS_DISAGREE)
    flags |= synthetic.flags & int(Flag.STARTS_DISAGREE)
    result = replace(
        observed, labels=labels, errors=errors, covariance=covariance, chi2=chi2, flags=flags, model=spectra
    )
    return DomainFit(synthetic, result, split, split_errors, systematic)
