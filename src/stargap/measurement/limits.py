"""What the noise of a spectrum lets anybody know: Cramer-Rao bounds of velocity and labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stargap.arrays import InformationMatrices, Jacobians, Labels, LabelsAndDirections, PerStar, Spectra, SquareMatrices
from stargap.errors import UsageError
from stargap.fit.forward import EmulatorModel
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.labels import LABELS, LOGG
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.theory.sampling import cubic

__all__ = ["LIMITED", "information", "limits", "star_limits", "velocity_correlations"]

LIMITED = ("rv", "teff", "logg", "m_h")
"""The quantities that have a bound, in its order: km/s, K, dex, dex."""
R_BAND = (6000.0, 6700.0)
"""Wavelengths (A) whose median flux the S/N of `limits` refers to."""


def information(
    native: NativeBatch, prepared: Prepared, rv: PerStar, spectrum: Spectra, jacobian: Jacobians
) -> InformationMatrices:
    r"""Return the Fisher information of velocity and labels, ``(star, 1 + parameter, 1 + parameter)`` float64.

    .. math:: I_{jk} = \sum_i \frac{C_i^2}{\sigma_i^2} \frac{\partial f_i}{\partial y_j}
              \frac{\partial f_i}{\partial y_k}

    over native pixels i, whose noise is independent, with f the normalised model and C the pseudo-continuum, both
    interpolated linearly in the rest frame; pixels beside one that no fit uses do not count.

    Args:
        native: spectra on the log-lambda grid.
        prepared: the same, normalised in the rest frame.
        rv: velocities (km/s), ``(star,)``; NaN counts as 0.
        spectrum: normalised models, ``(star, pixel)``.
        jacobian: their derivatives by the labels, ``(star, parameter, pixel)``.
    """
    wave = torch.as_tensor(prepared.grid.wavelength)
    slope = torch.gradient(spectrum, dim=1)[0] / float(wave[1] - wave[0])
    columns = torch.cat([(-slope * (wave / SPEED_OF_LIGHT).float())[:, None], jacobian], dim=1)
    rest = torch.as_tensor(LOG_LAMBDA.wavelength) / (1 + rv.nan_to_num(0.0)[:, None] / SPEED_OF_LIGHT)
    place = (rest - wave[0]) / (wave[1] - wave[0])
    inside = (place >= 0) & (place < len(wave) - 1)
    left = place.floor().long().clamp(0, len(wave) - 2)
    part = (place - left).float()

    def at_native(values: Tensor) -> Tensor:
        index = left if values.ndim == 2 else left[:, None].expand(-1, values.shape[1], -1)
        share = part if values.ndim == 2 else part[:, None]
        return values.gather(-1, index) * (1 - share) + values.gather(-1, index + 1) * share

    used = inside & prepared.good.gather(1, left) & prepared.good.gather(1, left + 1)
    weight = torch.where(used, native.ivar * at_native(prepared.continuum).square(), 0.0).double()
    moved = torch.where(used[:, None], at_native(columns), 0.0).double()
    return (moved * weight[:, None]) @ moved.transpose(1, 2)


def _bounds(matrix: SquareMatrices) -> Tensor:
    """Return the roots of the diagonal of the inverse, ``(star, parameter)``, NaN where it has none."""
    scale = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    scaled = matrix * scale[:, :, None] * scale[:, None]
    inverse, failed = torch.linalg.inv_ex(scaled)
    bounds = inverse.diagonal(dim1=1, dim2=2).sqrt() * scale
    empty = matrix.diagonal(dim1=1, dim2=2) <= 0
    return torch.where((failed > 0)[:, None] | empty.any(dim=1, keepdim=True), torch.nan, bounds)


def star_limits(
    native: NativeBatch, prepared: Prepared, rv: PerStar, labels: Labels, emulator: Emulator, parameters: Parameters
) -> Labels:
    """Return the Cramer-Rao bounds of `LIMITED` for each star's own noise, ``(star, 4)``.

    No unbiased measurement of these pixels, of velocity and the free labels together and without any prior, can have a
    smaller error. The derivatives are those of the emulator. Bounds of labels that are fixed are NaN, and so are those
    of stars without labels.

    Args:
        native: spectra on the log-lambda grid.
        prepared: the same, normalised in the rest frame.
        rv: velocities (km/s), ``(star,)``.
        labels: of each star, ``(star, 4)``.
        emulator: the synthetic spectra.
        parameters: free, fixed and tied labels, bounds.
    """
    lower, upper = parameters.bounds()
    known = torch.isfinite(labels).all(dim=1) & torch.isfinite(rv)
    middle = (emulator.lower + emulator.upper) / 2
    theta = torch.where(known[:, None], labels, middle)[:, parameters.places].clamp(lower, upper)
    full, directions = parameters.expand(theta)
    spectrum, jacobian = EmulatorModel(emulator, prepared)(full, directions, torch.arange(len(labels)))
    found = torch.where(known[:, None], _bounds(information(native, prepared, rv, spectrum, jacobian)), torch.nan)
    bounds = torch.full((len(labels), len(LIMITED)), torch.nan, dtype=torch.float64)
    for k, name in enumerate(("rv", *parameters.free)):
        if name in LIMITED:
            bounds[:, LIMITED.index(name)] = found[:, k]
    return bounds


def limits(
    teff: float,
    m_h: float,
    snr: float,
    *,
    logg: float | None = None,
    logg_width: float | None = None,
    known: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the Cramer-Rao bounds of `LIMITED` of an M dwarf that LAMOST observes at some S/N.

    The spectrum is the emulator's on LAMOST's pixels, at rest, with noise that is the same at all pixels.

    Args:
        teff: Teff (K).
        m_h: [M/H] (dex).
        snr: S/N per pixel in r, of the median flux from 6000 to 6700 A.
        logg: log g (dex); by default that of the main sequence.
        logg_width: standard deviation (dex) of a prior of log g about the main sequence; no prior by default.
        known: independent errors of what is known from elsewhere, such as ``{"teff": 44.0}`` from photometry.

    Raises:
        UsageError: labels outside the emulator's range, or an S/N or width that is not positive.

    Example:
        >>> bounds = limits(3500.0, 0.0, 20.0, logg_width=0.05)
        >>> sorted(bounds), bounds["teff"] < limits(3500.0, 0.0, 20.0)["teff"]
        (['logg', 'm_h', 'rv', 'teff'], True)
    """
    for name, number in (("snr", snr), ("logg_width", 1.0 if logg_width is None else logg_width)):
        if not 0 < number < np.inf:
            message = f"{name} is {number:g}; it must be above 0"
            raise UsageError(message)
    prior = LabelPrior(fit_sequence(shipped_isochrones()), logg_width or 1.0, 0.0, np.inf)
    matrix, labels, directions = _of_a_star(teff, m_h, snr, logg, prior)
    if logg_width is not None:
        change = torch.nn.functional.pad(prior(labels, directions)[1], (0, 0, 1, 0))
        matrix = matrix + change @ change.transpose(1, 2)
    for name, error in (known or {}).items():
        matrix[:, LIMITED.index(name), LIMITED.index(name)] += error**-2
    return dict(zip(LIMITED, _bounds(matrix)[0].tolist(), strict=True))


def velocity_correlations(teff: float, m_h: float) -> dict[str, float]:
    """Return the correlations of the errors of velocity with those of Teff, log g and [M/H], measured together.

    They do not depend on the S/N, where noise is the same at all pixels.

    Args:
        teff: Teff (K).
        m_h: [M/H] (dex).

    Raises:
        UsageError: labels outside the emulator's range.

    Example:
        >>> all(abs(rho) < 0.05 for rho in velocity_correlations(3500.0, 0.0).values())
        True
    """
    prior = LabelPrior(fit_sequence(shipped_isochrones()), 1.0, 0.0, np.inf)
    covariance = torch.linalg.inv(_of_a_star(teff, m_h, 20.0, None, prior)[0][0])
    errors = covariance.diagonal().sqrt()
    return dict(zip(LIMITED[1:], (covariance[0] / (errors[0] * errors))[1:].tolist(), strict=True))


def _of_a_star(
    teff: float, m_h: float, snr: float, logg: float | None, prior: LabelPrior
) -> tuple[Tensor, Labels, LabelsAndDirections]:
    """Return the information of one star that LAMOST observes, its labels and their directions; log g of the prior."""
    emulator = shipped_emulator()
    parameters = Parameters(emulator.card.lower, emulator.card.upper)
    given = torch.tensor([[teff, logg or 4.8, m_h]]).double()
    if logg is None:
        given[:, LOGG] = prior.logg(torch.nn.functional.pad(given, (0, 1)))[0]
    for name, value, low, high in zip(LABELS, given[0].tolist(), *parameters.bounds(), strict=False):
        if not low <= value <= high:
            message = f"{name} = {value:g} is outside the emulator's {low:g} to {high:g}"
            raise UsageError(message)
    labels, directions = parameters.expand(given)
    wave, support = LOG_LAMBDA.wavelength, STARGAP.support
    place = torch.as_tensor((wave - support[0]) / (support[1] - support[0]))
    flux = cubic(emulator.flux(labels), place.clamp(0, len(support) - 1))[0].numpy().astype(float)
    covered = (wave > support[0]) & (wave < support[-1])
    level = np.median(flux[(wave > R_BAND[0]) & (wave < R_BAND[1])])
    ivar = np.where(covered, (snr / level) ** 2, 0.0)
    native, rv = to_log_lambda([Spectrum(wave, flux, ivar)]), torch.zeros(1, dtype=torch.float64)
    prepared = prepare(native, rv)
    spectrum, jacobian = EmulatorModel(emulator, prepared)(labels, directions, torch.zeros(1, dtype=torch.long))
    return information(native, prepared, rv, spectrum, jacobian), labels, directions
