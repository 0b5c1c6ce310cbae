"""How errors of labels are correlated, and how small they can be, as columns of the schema."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import Labels, PerStar
from stargap.fit.domains import DomainFit
from stargap.fit.labels import LabelFit
from stargap.fit.parameters import Parameters
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF
from stargap.measurement.limits import LIMITED, star_limits
from stargap.rows import FloatColumn
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["correlation_columns", "limit_columns"]


def correlation_columns(
    fit: LabelFit, domains: DomainFit | None, parameters: Parameters, count: int
) -> dict[str, NDArray[np.generic]]:
    """Return the correlations ``rho_*`` of the random errors of Teff, log g and [M/H]; NaN of fixed labels.

    Those with RV are not among them: they are within 0.07 of 0 from 3100 to 4000 K (docs/what-a-spectrum-tells.md).

    Args:
        fit: the fit whose labels are published.
        domains: the same of a transfer, which has a covariance of its own.
        parameters: free, fixed and tied labels.
        count: number of rows to return; the fit can have more.
    """
    if domains is not None:
        covariance = domains.covariance
    else:
        _, directions = parameters.expand(fit.labels[:, parameters.places].nan_to_num())
        stellar = directions[:, :, :A_M]
        covariance = stellar.transpose(1, 2) @ fit.covariance @ stellar
    errors = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    errors = torch.where((errors > 0) & torch.isfinite(fit.labels[:, :A_M]), errors, torch.nan)
    rho = (covariance / (errors[:, :, None] * errors[:, None])).clamp(-1.0, 1.0).cpu().numpy()[:count]
    pairs = ((TEFF, LOGG), (TEFF, M_H), (LOGG, M_H))
    return {f"rho_{LABELS[one]}_{LABELS[other]}": rho[:, one, other] for one, other in pairs}


def limit_columns(
    native: NativeBatch,
    prepared: Prepared,
    rv: PerStar,
    labels: Labels,
    emulator: Emulator,
    parameters: Parameters,
    factor: FloatColumn,
) -> dict[str, NDArray[np.generic]]:
    """Return the Cramer-Rao bounds ``limit_*`` (`star_limits`), with the same noise as the errors.

    Args:
        native: spectra on the log-lambda grid.
        prepared: the same, normalised in the rest frame.
        rv: velocities (km/s), ``(star,)``.
        labels: of each star, ``(star, 4)``.
        emulator: the synthetic spectra.
        parameters: free, fixed and tied labels.
        factor: ratio of the noise to what the inverse variance says, ``(row,)``; there can be fewer rows than stars.
    """
    bounds = star_limits(native, prepared, rv, labels, emulator, parameters).cpu().numpy()[: len(factor)]
    return {f"limit_{name}": bounds[:, k] * factor for k, name in enumerate(LIMITED)}
