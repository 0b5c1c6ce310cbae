"""Whether a spectrum's labels are Gaussian enough to be joined with photometry: the real chi-square, walked along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.fit.domains import JointStep, joint_step
from stargap.fit.labels import pixel_weights
from stargap.labels import A_M
from stargap.measurement.fits import parameters_for
from stargap.measurement.models import load_model_named
from stargap.measurement.star import BATCH, measure_batch
from stargap.photometry.joint import SYSTEMATIC, joint_mixture
from stargap.photometry.observed import Photometry, observed
from stargap.settings import MeasureSettings
from stargap.spectra.spectrum import Spectrum
from stargap.transfer.residual.model import ResidualTransfer

Array = NDArray[np.float64]
TO_MINIMUM, STEPS = 4, 4
"""Gauss-Newton steps to the minimum of the spectrum alone, and from there with the photometry."""


@dataclass(frozen=True)
class Walk:
    """Joint labels ``(star, 3)`` of the Gaussian at the spectrum's own minimum (``alone``), their ``errors``, and those
    after each step with chi-square expanded anew where the last step led to, ``walked (step, star, 3)``."""

    alone: Array
    errors: Array
    walked: Array

    @classmethod
    def together(cls, parts: Sequence[Walk]) -> Walk:
        """Put stars one after the other."""
        return cls(
            np.concatenate([part.alone for part in parts]),
            np.concatenate([part.errors for part in parts]),
            np.concatenate([part.walked for part in parts], axis=1),
        )


def walk(spectra: Sequence[Spectrum], gaia: Mapping[str, Any], settings: MeasureSettings, model: str) -> Walk:
    """Join spectra with photometry by Gauss-Newton steps along the chi-square of their pixels.

    Each step expands the chi-square of the spectrum, nuisance parameters included, at the joint labels found last, and
    joins that Gaussian with the photometry.
    """
    photometry = observed(gaia)
    parts = [
        _walk(spectra[first : first + BATCH], photometry[slice(first, first + BATCH)], settings, model)
        for first in range(0, len(spectra), BATCH)
    ]
    return Walk.together(parts)


def _walk(spectra: Sequence[Spectrum], photometry: Photometry, settings: MeasureSettings, model: str) -> Walk:
    transfer = load_model_named(model)
    assert isinstance(transfer, ResidualTransfer)
    _, fitted = measure_batch(spectra, settings, transfer.emulator, transfer=transfer)
    prepared = replace(fitted.prepared, flux=torch.where(fitted.prepared.good, fitted.prepared.flux, 0.0))
    parameters = replace(parameters_for(settings, transfer.emulator), alpha_slope=transfer.alpha_slope)
    forward, rows = transfer.model(prepared), torch.arange(len(spectra))
    weight = pixel_weights(prepared, torch.as_tensor(transfer.observed_floor))[rows]

    def expanded(labels: torch.Tensor) -> JointStep:
        return joint_step(prepared, transfer, forward, parameters, labels, weight, rows)

    def joined(step: JointStep) -> tuple[Array, Array]:
        free = len(parameters.places)
        _, directions = parameters.expand(step.labels[:, parameters.places])
        stellar = directions[:, :, :A_M]
        inner = stellar.transpose(1, 2) @ step.covariance[:, :free, :free] @ stellar
        mapped, covariance, uncertainty = transfer.publish(step.labels, inner)
        noise = covariance.diagonal(dim1=1, dim2=2).sqrt()
        rho = covariance / (noise[:, :, None] * noise[:, None]) * SYSTEMATIC
        rho = rho + torch.diag_embed(1 - rho.diagonal(dim1=1, dim2=2))
        own = uncertainty[:, :A_M]
        whole = covariance + rho * own[:, :, None] * own[:, None]
        mixture = joint_mixture(mapped[:, :A_M].numpy(), whole.numpy(), photometry)
        means = (mixture.weights[..., None] * mixture.means).sum(axis=1)
        apart = mixture.means - means[:, None]
        spread = np.diagonal(mixture.covariances, axis1=2, axis2=3) + apart**2
        return means, np.sqrt((mixture.weights[..., None] * spread).sum(axis=1))

    labels = fitted.fit.labels[rows]
    for _ in range(TO_MINIMUM):
        labels = expanded(labels).labels
    step = expanded(labels)
    alone, errors = joined(step)
    walked, means = [], alone
    for _ in range(STEPS):
        jacobian = transfer.label_map.jacobian(labels)[:, :A_M, :A_M]
        away = torch.as_tensor(means) - transfer.label_map(labels)[:, :A_M]
        there = labels.clone()
        there[:, :A_M] += torch.linalg.solve(jacobian, away[:, :, None])[:, :, 0]
        means, _ = joined(expanded(parameters.expand(there[:, parameters.places])[0]))
        walked.append(means)
    return Walk(alone, errors, np.array(walked))
