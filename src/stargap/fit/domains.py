"""Labels in two domains: the synthetic one first, then the observed one through a trained transfer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from stargap.arrays import (
    Bounds,
    Jacobians,
    Labels,
    NuisanceValues,
    ParameterVectors,
    Spectra,
    SquareMatrices,
    StarRows,
    StellarLabels,
)
from stargap.fit.compressed import PixelTransfer, compressed_emulator, compressed_transfer
from stargap.fit.covariance import linear_covariance
from stargap.fit.forward import DataDependentModel, EmulatorModel, ForwardModel
from stargap.fit.labels import LabelFit, fit_labels, pixel_weights
from stargap.fit.lbfgs import fit_lbfgs
from stargap.fit.linear import bounded_step, gram
from stargap.fit.optimise import full_chunks
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior
from stargap.flags import Flag
from stargap.labels import A_M, M_H
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["DomainFit", "Transfer", "fit_domains", "joint_step"]

TOLERANCE = 0.05
"""Tolerance of the fit in the observed domain (see `levenberg_marquardt`), which one Gauss-Newton step then refines."""
NEAR = 0.1
"""The same after a compressed fit, where the step is taken as well before the last one."""
DISAGREE = (300.0, 0.6, 0.5)
"""Differences between the domains (K, dex, dex) that are flagged where they also exceed five errors."""

FAR = 2.0
"""Errors, random and systematic together, beyond which labels outside the training range are far outside."""


@runtime_checkable
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
    def alpha_slope(self) -> float:
        """[a/M] that tied fits reach at [M/H] = -1 (see `Parameters`)."""
        ...

    @property
    def nuisance_scale(self) -> Bounds:
        """Standard deviations of the nuisance parameters over stars, ``(nuisance,)``; empty without such parameters."""
        ...

    def to_synthetic(self, prepared: Prepared) -> Prepared:
        """Return the spectra as the synthetic domain would have them: what the emulator is fitted to first.

        A transfer that corrects synthetic spectra only returns `prepared` itself.
        """
        ...

    def model(self, prepared: Prepared) -> ForwardModel:
        """Return the forward model of the observed domain for these stars."""
        ...

    def nuisance_columns(self, spectra: Spectra) -> Jacobians:
        """Return the change of spectra per unit of each nuisance parameter, ``(row, nuisance, pixel)``."""
        ...

    def publish(
        self, labels: Labels, covariance: SquareMatrices
    ) -> tuple[StellarLabels, SquareMatrices, StellarLabels]:
        """Return a star's labels ``(row, 3)`` from fitted ones, their covariance, and the systematic error."""
        ...

    def outside(self, labels: Labels) -> Tensor:
        """Return which fitted labels are outside the range of the training stars, ``(row,)`` bool."""
        ...


@dataclass(frozen=True)
class DomainFit:
    """Both fits of a batch.

    ``synthetic`` and ``observed`` are `LabelFit`; labels of the observed domain are the published ones, and their
    ``model`` holds the spectra with the stars' nuisance parameters; errors, covariances and models of the synthetic
    domain, which nothing follows from, are NaN. ``nuisance, nuisance_errors`` are
    ``(star, nuisance)``; ``systematic (star, 4)`` is the error that a higher S/N would not reduce, and is not part of
    ``observed.errors``, nor of ``covariance (star, 3, 3)``, that of the published Teff, log g and [M/H].
    """

    synthetic: LabelFit
    observed: LabelFit
    nuisance: NuisanceValues
    nuisance_errors: NuisanceValues
    systematic: Labels
    covariance: SquareMatrices


def fit_domains(
    prepared: Prepared,
    transfer: Transfer,
    parameters: Parameters,
    *,
    start: Labels | None = None,
    starts: int = 2,
    max_iterations: int = 40,
    slots: int = 32,
    optimiser: Literal["lm", "lbfgs"] = "lm",
    exact: bool = True,
) -> DomainFit:
    """Fit every prepared star with the emulator, then in the observed domain from there (paper section 3.5).

    y1 = argmin sum (Payne(y) - to_synthetic(F_obs))^2 / s^2, then y = argmin sum (F_obs - model(y))^2 / s^2 from y1.
    The observed domain's fit ends with one Gauss-Newton step of labels and nuisance parameters together, within the
    bounds of the labels and with the prior of the nuisance parameters: the model is linear in them. Errors include the
    scatter of labels that nuisance parameters cause; the uncertainty of the transfer itself is ``systematic``.

    Args:
        prepared: the stars; fluxes of pixels that are not good do not matter, NaN included.
        transfer: what was trained.
        parameters: free, fixed and tied labels, bounds.
        start: labels ``(star, 4)`` to start the synthetic domain's fit from, instead of `starts` ones of its table.
        starts: number of starts in the synthetic domain, 1 or 2.
        max_iterations: see `fit_labels`.
        slots: see `levenberg_marquardt`; labels do not depend on it.
        optimiser: optimiser in the observed domain: Levenberg-Marquardt, or the paper's L-BFGS (`fit_lbfgs`).
        exact: fit with the whole model from the start on; otherwise in a few numbers first, where the transfer corrects
            spectra pixel by pixel (`stargap.fit.compressed`), and in the synthetic domain in these alone. Neither it
            nor its emulator may change afterwards.
    """
    prepared = replace(prepared, flux=torch.where(prepared.good, prepared.flux, 0.0))
    parameters = replace(parameters, alpha_slope=transfer.alpha_slope)
    plain = transfer.to_synthetic(prepared)
    quick = transfer if isinstance(transfer, PixelTransfer) and not exact else None
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
        errors=False,
        compressed=None if quick is None else compressed_emulator(quick.emulator, prepared.grid),
        near=math.inf,
    )
    model = transfer.model(prepared)
    compressed = None if quick is None else compressed_transfer(quick)
    in_turn = partial(fit_labels, tolerance=TOLERANCE, errors=False, compressed=compressed, near=NEAR)
    fit = fit_lbfgs if optimiser == "lbfgs" else in_turn
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
    return _refine(prepared, transfer, model, parameters, synthetic, observed, slots)


@dataclass(frozen=True)
class JointStep:
    """One Gauss-Newton step of labels and nuisance parameters together; the model is linear in the latter.

    ``step (row, free + nuisance)``, ``labels (row, 4)`` after it, ``spectrum (row, pixel)`` before it, ``columns`` its
    derivatives ``(row, free + nuisance, pixel)``, 0 where pixels are not good; ``inverse`` and ``covariance
    (row, free + nuisance, free + nuisance)`` as in `linear_covariance`.
    """

    step: ParameterVectors
    labels: Labels
    spectrum: Spectra
    columns: Jacobians
    inverse: SquareMatrices
    covariance: SquareMatrices


def joint_step(
    prepared: Prepared,
    transfer: Transfer,
    model: ForwardModel,
    parameters: Parameters,
    labels: Labels,
    weight: Spectra,
    rows: StarRows,
) -> JointStep:
    """Take a step from finite `labels`, within their bounds and with the prior of the nuisance parameters.

    Args:
        prepared: the stars.
        transfer: defines the nuisance parameters.
        model: forward model of the domain in which the step is taken.
        parameters: free, fixed and tied labels, bounds.
        labels: where the step starts, ``(row, 4)``.
        weight: inverse variances of the pixels, ``(row, pixel)``, 0 where not good.
        rows: which star each row is of, ``(row,)``.
    """
    lower, upper = parameters.bounds()
    free, nuisance, pixels = len(parameters.places), len(transfer.nuisance_scale), prepared.flux.shape[1]
    theta = labels[:, parameters.places]
    full, directions = parameters.expand(theta)
    output, slopes = model(full, directions, rows)
    spectrum, jacobian = output[:, :pixels], slopes[:, :, :pixels]
    columns = torch.cat([jacobian, transfer.nuisance_columns(spectrum)], dim=1)
    columns = torch.where(prepared.good[rows][:, None], columns, 0.0)
    precision = torch.cat([torch.zeros(free), transfer.nuisance_scale.float() ** -2])

    departure, change = output[:, pixels:].double(), slopes[:, :, pixels:].double()
    if transfer.prior is not None:
        terms, term_slopes = transfer.prior(full, directions)
        departure, change = torch.cat([terms, departure], dim=1), torch.cat([term_slopes, change], dim=2)
    change = torch.nn.functional.pad(change, (0, 0, 0, nuisance))
    constant = change @ change.transpose(1, 2)
    weighted = columns * weight[:, None]
    response = None
    if prepared.grid.native_errors and isinstance(model, DataDependentModel):
        response = weighted - model.pull_back(full, rows, weighted)
    inverse, covariance = linear_covariance(
        prepared, columns, weight, rows, precision, constant=constant, response=response
    )

    hessian = gram(weighted, columns).double() + torch.diag(precision.double()) + constant
    gradient = (weighted * (prepared.flux[rows] - spectrum)[:, None]).sum(dim=2, dtype=torch.float64)
    gradient = gradient - (change * departure[:, None]).sum(dim=2)
    ends = ((lower, -torch.inf), (upper, torch.inf))
    low, high = (torch.nn.functional.pad(side - theta, (0, nuisance), value=end) for side, end in ends)
    step = bounded_step(hessian, gradient, low, high)
    moved, _ = parameters.expand((theta + step[:, :free]).clamp(lower, upper))
    return JointStep(step, moved, spectrum, columns, inverse, covariance)


def _refine(
    prepared: Prepared,
    transfer: Transfer,
    model: ForwardModel,
    parameters: Parameters,
    synthetic: LabelFit,
    observed: LabelFit,
    slots: int,
) -> DomainFit:
    """Take a joint step from the fits of the observed domain, and publish what it leads to."""
    stars, free = len(prepared.flux), len(parameters.places)
    missing = torch.full_like(observed.labels, torch.nan)
    fit = replace(
        observed,
        labels=missing,
        errors=missing.clone(),
        covariance=torch.full_like(observed.covariance, torch.nan),
        flags=observed.flags.clone(),
        model=observed.model.clone(),
    )
    systematic = missing.clone()
    published = torch.full((stars, A_M, A_M), torch.nan, dtype=torch.float64)
    nuisance = torch.full((stars, len(transfer.nuisance_scale)), torch.nan, dtype=torch.float64)
    nuisance_errors = nuisance.clone()
    weight = pixel_weights(prepared, torch.as_tensor(transfer.observed_floor))
    fitted = torch.nonzero(torch.isfinite(observed.labels).all(dim=1))[:, 0]
    for chunk in full_chunks(fitted, slots):
        rows = fitted[chunk]
        joint = joint_step(prepared, transfer, model, parameters, observed.labels[rows], weight[rows], rows)
        fit.model[rows] = joint.spectrum + (joint.step.float()[:, :, None] * joint.columns).sum(dim=1)
        fit.covariance[rows] = joint.covariance[:, :free, :free]
        fit.flags[rows[transfer.outside(joint.labels)]] |= int(Flag.OUTSIDE_TRAINING)
        nuisance[rows] = joint.step[:, free:]
        nuisance_errors[rows] = joint.covariance.diagonal(dim1=1, dim2=2)[:, free:].clamp_min(0).sqrt()
        fit.labels[rows], fit.errors[rows], systematic[rows], published[rows] = _published(transfer, parameters, joint)
        errors = torch.hypot(fit.errors[rows], systematic[rows]).nan_to_num(0.0)
        fit.flags[rows[_far_outside(transfer, joint.labels, errors)]] |= int(Flag.FAR_OUTSIDE)
    squares = torch.where(prepared.good, weight * (prepared.flux - fit.model).square(), 0.0).sum(dim=1)
    chi2 = (squares / (prepared.good.sum(dim=1) - free)).double()
    fit = replace(fit, chi2=torch.where(torch.isfinite(observed.chi2), chi2, observed.chi2))
    _flag_domains(fit, synthetic, transfer.chi2_limit)
    return DomainFit(synthetic, fit, nuisance, nuisance_errors, systematic, published)


def _far_outside(transfer: Transfer, labels: Labels, errors: Labels) -> Tensor:
    """Return which labels stay outside the range of the training stars when moved by `FAR` errors, ``(row,)``."""
    far = transfer.outside(labels)
    rows = torch.nonzero(far)[:, 0]
    if len(rows):
        steps = torch.cartesian_prod(*[torch.tensor([0.0, -FAR, FAR], dtype=labels.dtype)] * A_M)
        moved = labels[rows] + torch.nn.functional.pad(steps, (0, 1))[:, None] * errors[rows]
        far[rows] = transfer.outside(moved.flatten(0, 1)).reshape(len(steps), len(rows)).all(dim=0)
    return far


def _published(
    transfer: Transfer, parameters: Parameters, joint: JointStep
) -> tuple[Labels, Labels, Labels, SquareMatrices]:
    """Return labels, errors and systematic errors, ``(row, 4)`` each, and the covariance of the first three.

    Errors of fixed labels are NaN.
    """
    full, inner = joint.labels, joint.covariance[:, : len(parameters.places), : len(parameters.places)]
    _, directions = parameters.expand(full[:, parameters.places])
    stellar = directions[:, :, :A_M]
    mapped, covariance, uncertainty = transfer.publish(full, stellar.transpose(1, 2) @ inner @ stellar)
    labels, errors, systematic = full.clone(), torch.full_like(full, torch.nan), torch.zeros_like(full)
    for place in parameters.places:
        if place != A_M:
            labels[:, place], systematic[:, place] = mapped[:, place], uncertainty[:, place]
            errors[:, place] = covariance[:, place, place].clamp_min(0).sqrt()
    if A_M in parameters.places or (parameters.tied and M_H in parameters.places):
        alpha = directions[:, :, A_M]
        variance = (alpha[:, :, None] * inner * alpha[:, None]).sum(dim=(1, 2))
        errors[:, A_M] = variance.clamp_min(0).sqrt()
    return labels, errors, systematic, covariance


def _flag_domains(fit: LabelFit, synthetic: LabelFit, chi2_limit: float) -> None:
    """Flag spectra unlike those of the training, domains that disagree, and starts that disagreed."""
    fit.flags[fit.chi2 > chi2_limit] |= int(Flag.UNLIKE_TRAINING)
    difference = (fit.labels - synthetic.labels)[:, :A_M].abs()
    allowed = torch.maximum(5 * fit.errors[:, :A_M].nan_to_num(torch.inf), torch.tensor(DISAGREE).double())
    fit.flags[(difference > allowed).any(dim=1)] |= int(Flag.DOMAINS_DISAGREE)
    fit.flags.bitwise_or_(synthetic.flags & int(Flag.STARTS_DISAGREE))
