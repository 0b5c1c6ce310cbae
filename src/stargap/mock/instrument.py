"""A survey telescope: what fibres, sky and detectors make of simulated stars, on native pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.errors import UsageError
from stargap.features import HALPHA
from stargap.labels import TEFF
from stargap.mock.spectrographs import FIBRES, SPECTROGRAPHS, SPECTROGRAPHS_BY_NAME, Spectrograph, lamost_power
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP, WINDOWS
from stargap.spectra.linespread import blur
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import Emulator
from stargap.theory.sampling import cubic

__all__ = ["Blend", "Truth", "observe", "planck", "simulate", "simulate_prepared"]

CHUNK = 256
"""Stars simulated together; part of the definition, since each chunk has its own random numbers."""
SIGMA_PER_FWHM = 1.0 / np.sqrt(8.0 * np.log(2.0))


@dataclass(frozen=True)
class Truth:
    """What is true of simulated stars, one row each.

    ``labels (star, 4)``, ``active (star,)``, ``rv`` (km/s), ``rv_used`` the velocity that a spectrum is prepared at,
    ``snr_r, snr_i`` median S/N per native pixel, ``spectrograph`` 1-16, ``fibre`` 1-250, ``resolution`` at 7500 A.
    """

    labels: NDArray[np.float64]
    active: NDArray[np.bool_]
    rv: NDArray[np.float64]
    rv_used: NDArray[np.float64]
    snr_r: NDArray[np.float64]
    snr_i: NDArray[np.float64]
    spectrograph: NDArray[np.int64]
    fibre: NDArray[np.int64]
    resolution: NDArray[np.float64]


FIELDS = tuple(Truth.__dataclass_fields__)


@dataclass(frozen=True)
class Blend:
    """Light of companions within the fibre, one row each.

    ``row (blend,)`` among the stars, ``labels (blend, 4)``, ``light`` over that of the star at 7500 A, ``rv`` less that
    of the star (km/s).
    """

    row: NDArray[np.int64]
    labels: NDArray[np.float64]
    light: NDArray[np.float64]
    rv: NDArray[np.float64]


def planck(wavelength: NDArray[np.float64], teff: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shape of a black body's flux at wavelengths (A) and temperatures (K), arrays that broadcast.

    Example:
        >>> ratio = planck(np.array([7000.0]), np.array([3500.0])) / planck(np.array([7000.0]), np.array([3000.0]))
        >>> ratio.round(2)
        array([2.67])
    """
    return 1.0 / (wavelength**5 * np.expm1(1.4387769e8 / (wavelength * teff)))


def _draw_truth(labels: NDArray[np.float64], active: NDArray[np.bool_], seed: int) -> Truth:
    rng = np.random.default_rng([seed, 2])
    count = len(labels)
    snr_r = np.empty(0)
    while snr_r.size < count:
        draws = np.exp(rng.normal(np.log(13.0), 0.95, 2 * count))
        snr_r = np.concatenate([snr_r, draws[(draws >= 5.0) & (draws < 300.0)]])
    snr_r = snr_r[:count]
    rv = np.where(rng.random(count) < 0.9, rng.normal(-5.0, 35.0, count), rng.normal(-20.0, 90.0, count))
    rv = np.clip(rv, -250.0, 250.0)
    redder = rng.normal(0.45, 0.12, count) + 0.25 * (3600.0 - labels[:, TEFF]) / 600.0
    snr_i = np.maximum(snr_r * np.exp(redder), 5.0)
    spectrograph, fibre = rng.integers(1, SPECTROGRAPHS + 1, count), rng.integers(1, FIBRES + 1, count)
    return Truth(
        labels=labels,
        active=active,
        rv=rv,
        rv_used=rv + rng.normal(0.0, 1.0, count) * np.hypot(3.0, 60.0 / snr_i),
        snr_r=snr_r,
        snr_i=snr_i,
        spectrograph=spectrograph,
        fibre=fibre,
        resolution=lamost_power(spectrograph, fibre, np.array(7500.0)),
    )


def observe(
    nature: Emulator,
    truth: Truth,
    wavelength: NDArray[np.float64],
    *,
    seed: int,
    blend: Blend | None = None,
    spectrograph: Spectrograph = SPECTROGRAPHS_BY_NAME["lamost"],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Observe some stars: line spread, Doppler shift, flux calibration, tellurics, sky, noise and defects.

    LAMOST's line spread varies with fibre and wavelength between R = 1500 and 2150; its flux calibration is off by 6 %
    (smooth, each spectrograph its own) and 3 % (each fibre); telluric bands are corrected to within 4 % of their
    depth, and reach 5 A beyond the excluded windows; sky lines leave residuals that the inverse variance does not know
    at full size; one cosmic hit is left in three spectra; 0.2 % of the pixels are dead; a block of pixels is saturated
    in one spectrum of ten above S/N 80 in r and in one of a hundred below.

    Args:
        nature: emulator of nature, of a resolution above that of the spectrograph.
        truth: the stars.
        wavelength: native wavelengths (A), ``(native,)``.
        seed: of noise and defects.
        blend: companions whose light is added, under the same S/N and noise.
        spectrograph: its line spread and flux calibration.

    Returns:
        flux, inverse variance (0 at dead and saturated pixels) and the flux without noise, sky residuals, cosmic hits
        and defects, ``(star, native)`` each, in units of the star's flux at 7500 A.

    Raises:
        UsageError: nature's resolution is not above that of these fibres.
    """
    rng = np.random.default_rng([seed, 3])
    flux = _at_7500(nature, truth.labels)
    if blend is not None and blend.row.size:
        flux[blend.row] = _blended(nature, flux[blend.row], blend)
    flux = _broadened(flux, truth, nature.card.resolution, spectrograph)
    rows = np.flatnonzero(truth.active)
    if rows.size:
        flux[rows] = _with_halpha(rng, flux[rows], truth.resolution[rows])
    observed = _shifted(flux, truth, wavelength)
    observed = observed * _calibration(rng, truth.spectrograph, wavelength, spectrograph.calibration)
    observed = observed * _tellurics(rng, len(truth.rv), wavelength)
    noisy, ivar = _with_noise(rng, observed, truth, wavelength)
    _add_defects(rng, noisy, ivar, truth)
    return noisy.astype(np.float32), ivar.astype(np.float32), observed.astype(np.float32)


def _at_7500(nature: Emulator, labels: NDArray[np.float64]) -> Tensor:
    """Return spectra at rest ``(star, support)``, 1 at 7500 A."""
    flux = nature.flux(torch.as_tensor(labels))
    return flux / flux[:, [round(7500.0 - STARGAP.support[0])]]


def _broadened(flux: Tensor, truth: Truth, resolution: float, spectrograph: Spectrograph) -> Tensor:
    """Bring spectra from nature's resolution to that of their fibres, in six steps of diffusion."""
    support, steps = STARGAP.support, 6
    fibres = spectrograph.power(truth.spectrograph, truth.fibre, support)
    variance = (SIGMA_PER_FWHM * support) ** 2 * (fibres**-2 - resolution**-2)
    if (variance <= 0).any():
        message = f"nature has R = {resolution:g}, and fibres up to {fibres.max():.0f}: it must have more"
        raise UsageError(message)
    amount = torch.as_tensor(variance / (2 * steps), dtype=torch.float32)
    for _ in range(steps):
        flux = blur(flux, amount)
    return flux


def _with_halpha(rng: np.random.Generator, flux: Tensor, resolution: NDArray[np.float64]) -> Tensor:
    """Add H-alpha in emission: equivalent widths of 0.8 to 12 A, log-normal about 2.5 A."""
    support = STARGAP.support
    width = np.clip(rng.lognormal(np.log(2.5), 0.6, len(flux)), 0.8, 12.0)
    sigma = SIGMA_PER_FWHM * HALPHA / resolution
    line = np.exp(-0.5 * ((support - HALPHA) / sigma[:, None]) ** 2) / (sigma * np.sqrt(2 * np.pi))[:, None]
    near = np.abs(support - HALPHA) < 30.0
    level = flux[:, near].median(dim=1, keepdim=True).values
    return flux + level * torch.as_tensor(width[:, None] * line, dtype=torch.float32)


def _shifted(flux: Tensor, truth: Truth, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample spectra at the stars' velocities on native pixels, continued as black bodies beyond the emulator."""
    support = STARGAP.support
    rest = wavelength / (1 + truth.rv[:, None] / SPEED_OF_LIGHT)
    inside = rest.clip(support[0], support[-1])
    observed = cubic(flux, torch.as_tensor((inside - support[0]) / STARGAP.step)).numpy()
    if (rest != inside).any():
        teff = truth.labels[:, TEFF, None]
        observed = observed * planck(rest, teff) / planck(inside, teff)
    return np.asarray(observed)


def _with_noise(
    rng: np.random.Generator, observed: NDArray[np.float64], truth: Truth, wavelength: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add noise of the S/N that the truth has in r and i, and residuals of sky lines; return flux and ivar."""
    sky = _sky(wavelength)
    shape = np.sqrt((0.5 * observed.clip(0.02) + 0.5) * (1.0 + 3.0 * sky) * (4800.0 / wavelength).clip(1.0, 3.0))
    in_r = (wavelength > 5900.0) & (wavelength < 6900.0)
    in_i = (wavelength > 7000.0) & (wavelength < 8200.0)
    ratio_r = np.median(observed[:, in_r] / shape[:, in_r], axis=1) / truth.snr_r
    ratio_i = np.median(observed[:, in_i] / shape[:, in_i], axis=1) / truth.snr_i
    ramp = ((wavelength - 6900.0) / 100.0).clip(0.0, 1.0)
    sigma = shape * np.exp((1 - ramp) * np.log(ratio_r)[:, None] + ramp * np.log(ratio_i)[:, None])
    noisy = observed + sigma * rng.standard_normal(observed.shape, dtype=np.float32)
    noisy += sigma * sky * 0.8 * rng.standard_normal((len(observed), 1)) * np.sign(np.sin(wavelength / 3.0))
    return noisy, 1.0 / sigma**2


def _add_defects(rng: np.random.Generator, noisy: NDArray[np.float64], ivar: NDArray[np.float64], truth: Truth) -> None:
    """Plant cosmic hits that the inverse variance does not know, dead pixels and saturated blocks, in place."""
    count, pixels = noisy.shape
    hits = np.flatnonzero(rng.random(count) < 0.33)
    noisy[hits, rng.integers(0, pixels, hits.size)] += rng.uniform(0.1, 3.0, hits.size)
    ivar[rng.random(ivar.shape, dtype=np.float32) < 0.002] = 0.0
    for row in np.flatnonzero(rng.random(count) < np.where(truth.snr_r > 80.0, 0.1, 0.01)):
        start = rng.integers(pixels - 300)
        ivar[row, start : start + rng.integers(50, 300)] = 0.0
    noisy[ivar == 0.0] = rng.uniform(0.0, 3.0, int((ivar == 0.0).sum()))


def _blended(nature: Emulator, star: Tensor, blend: Blend) -> Tensor:
    """Return spectra of stars and companions together, at the stars' rest, 1 at about 7500 A."""
    support, other = STARGAP.support, _at_7500(nature, blend.labels)
    rest = (support / (1 + blend.rv[:, None] / SPEED_OF_LIGHT)).clip(support[0], support[-1])
    moved = cubic(other, torch.as_tensor((rest - support[0]) / STARGAP.step))
    light = torch.as_tensor(blend.light[:, None], dtype=star.dtype)
    return (star + light * moved) / (1 + light)


def _calibration(
    rng: np.random.Generator,
    spectrograph: NDArray[np.int64],
    wavelength: NDArray[np.float64],
    scatter: tuple[float, float],
) -> NDArray[np.float64]:
    x = np.pi * (wavelength - 5800.0) / 3300.0
    waves = np.cos(np.arange(1, 6)[:, None] * x) / np.sqrt(np.arange(1, 6))[:, None]
    common = np.random.default_rng(21).normal(0.0, scatter[0], (SPECTROGRAPHS, 5))[spectrograph - 1]
    return np.exp((common + rng.normal(0.0, scatter[1], common.shape)) @ waves)


def _tellurics(rng: np.random.Generator, count: int, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    depth = np.zeros_like(wavelength)
    for window in WINDOWS:
        if window.frame == "observed":
            middle, half = (window.low + window.high) / 2, (window.high - window.low) / 2 + 5.0
            place = np.abs(wavelength - middle) / half
            depth += np.where(place < 1.0, np.cos(np.pi / 2 * np.minimum(place, 1.0)) ** 0.5, 0.0)
    strength = rng.normal(0.0, 0.04, (count, 1))
    ripple = 1.0 + 0.5 * np.sin(wavelength / 2.0 + rng.uniform(0.0, 6.0, (count, 1)))
    return 1.0 - strength * depth * ripple


def _sky(wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strength of the sky lines, 0 to 1: two at 6300 and 6364 A, bands of OH beyond 7200 A."""
    rng = np.random.default_rng(22)
    lines = np.concatenate([[6302.0, 6365.5], rng.uniform(7250.0, 9080.0, 90)])
    height = np.concatenate([[1.0, 0.4], rng.uniform(0.05, 1.0, 90)])
    near = np.exp(-0.5 * ((wavelength[:, None] - lines) / 1.9) ** 2)
    return np.asarray((near * height).sum(axis=1).clip(max=1.0))


def _part(truth: Truth, rows: slice) -> Truth:
    return Truth(**{name: getattr(truth, name)[rows] for name in FIELDS})


def simulate(
    labels: NDArray[np.float64], active: NDArray[np.bool_], nature: Emulator, *, seed: int
) -> Iterator[tuple[Truth, NativeBatch, NDArray[np.float32]]]:
    """Yield chunks of simulated stars on the log-lambda grid, with their truth and noiseless spectra.

    Args:
        labels: ``(star, 4)`` within nature's range.
        active: ``(star,)``: stars with H-alpha in emission.
        nature: emulator of nature.
        seed: of everything random but the labels.
    """
    truth = _draw_truth(labels, active, seed)
    for chunk, first in enumerate(range(0, len(labels), CHUNK)):
        part = _part(truth, slice(first, first + CHUNK))
        flux, ivar, clean = observe(nature, part, LOG_LAMBDA.wavelength, seed=seed * 100_000 + chunk)
        spectra = [Spectrum(LOG_LAMBDA.wavelength, f, i) for f, i in zip(flux, ivar, strict=True)]
        yield part, to_log_lambda(spectra), clean


def simulate_prepared(
    labels: NDArray[np.float64],
    active: NDArray[np.bool_],
    nature: Emulator,
    *,
    seed: int,
    progress: Callable[[int, int], Any] | None = None,
) -> PreparedSpectra:
    """Simulate stars as `simulate` does and prepare them at ``rv_used``.

    Args:
        labels: ``(star, 4)`` within nature's range.
        active: ``(star,)``: stars with H-alpha in emission.
        nature: emulator of nature.
        seed: of everything random but the labels.
        progress: called as ``progress(done, stars)``.
    """
    spectra, done = PreparedSpectra.empty(len(labels)), 0
    for truth, native, _ in simulate(labels, active, nature, seed=seed):
        star = prepare(native, torch.as_tensor(truth.rv_used))
        spectra.put(done, PreparedSpectra.from_prepared(star, truth.rv_used))
        done += len(truth.rv)
        if progress is not None:
            progress(done, len(labels))
    return spectra
