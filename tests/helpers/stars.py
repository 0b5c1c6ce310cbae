"""Simulated stars: emulator spectra with noise on native pixels, and stars of nature as prepared spectra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.features import HALPHA
from stargap.labels import A_M, LOGG, M_H, TEFF, alpha_relation
from stargap.measurement.halpha import measure_halpha
from stargap.mock.instrument import Truth, planck, simulate
from stargap.mock.spectrographs import mock_wavelength
from stargap.pixels import SPEED_OF_LIGHT, STARGAP
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import Emulator
from stargap.theory.sampling import cubic

__all__ = ["MockStars", "mock_labels", "mock_stars", "prepared_stars"]


@dataclass(frozen=True)
class MockStars:
    """Simulated spectra and their truth; one row per star.

    ``wavelength (pixel,)`` A, ``flux, ivar (star, pixel)``, ``labels (star, 4)``, ``rv`` km/s, ``snr`` the S/N per
    pixel at 7500 A, ``active`` whether H-alpha emission was added, ``halpha_ew`` the equivalent width (A, emission
    positive) of the spectrum without noise, by the definition of `measure_halpha`.
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    labels: NDArray[np.float64]
    rv: NDArray[np.float64]
    snr: NDArray[np.float64]
    active: NDArray[np.bool_]
    halpha_ew: NDArray[np.float64]


def mock_labels(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw labels of nearby M dwarfs, ``(star, 4)``: uniform Teff, log g on a main sequence, [M/H] about -0.1.

    Example:
        >>> mock_labels(3, np.random.default_rng(1)).shape
        (3, 4)
    """
    labels = np.empty((count, 4))
    labels[:, TEFF] = rng.uniform(3000.0, 4200.0, count)
    labels[:, M_H] = np.clip(rng.normal(-0.1, 0.25, count), -1.4, 0.45)
    main_sequence = np.interp(labels[:, TEFF], [3000.0, 3400.0, 4000.0, 4300.0], [5.03, 4.82, 4.66, 4.62])
    labels[:, LOGG] = main_sequence - 0.2 * labels[:, M_H] + rng.normal(0.0, 0.05, count)
    labels[:, A_M] = alpha_relation(labels[:, M_H], rounding=0.05)
    return labels


def mock_stars(
    emulator: Emulator,
    count: int,
    *,
    seed: int,
    labels: NDArray[np.float64] | None = None,
    rv: NDArray[np.float64] | None = None,
    snr: NDArray[np.float64] | None = None,
    active_fraction: float = 0.15,
    bad_pixels: bool = True,
    survey_noise: bool = False,
) -> MockStars:
    """Simulate stars: the emulator's spectrum, Doppler shifted, sampled on native pixels, with noise added there.

    What nature and model do not share here is noise, velocity, activity and defects only; accuracy on these stars
    says nothing about real ones. Noise rises to the blue and under the sky lines beyond 7200 A. Outside the emulator
    the flux continues as a black body. One star in fifty has a saturated block, one in a hundred lacks its red arm.

    Args:
        emulator: source of the spectra.
        count: number of stars.
        seed: of everything random.
        labels: ``(star, 4)``; drawn by `mock_labels` by default.
        rv: km/s; normal with 40 km/s by default.
        snr: S/N per pixel at 7500 A; log-normal about 20 by default, 5 to 200.
        active_fraction: stars with H-alpha in emission.
        bad_pixels: plant isolated bad pixels, saturated blocks and missing arms.
        survey_noise: about as in LAMOST co-adds (docs/results/emulator-stars.md): noise 1.3 times what the inverse
            variance says, neighbours correlated by 0.2, and a wavelength calibration that scatters by 5 km/s;
            otherwise noise is white and true to the inverse variance and wavelengths are perfect.
    """
    rng = np.random.default_rng(seed)
    labels = mock_labels(count, rng) if labels is None else np.asarray(labels, dtype=float)
    rv = rng.normal(0.0, 40.0, count) if rv is None else np.asarray(rv, dtype=float)
    snr = np.clip(rng.lognormal(np.log(20.0), 0.9, count), 5.0, 200.0) if snr is None else np.asarray(snr, dtype=float)
    wave = mock_wavelength()
    shift = rv + rng.normal(0.0, 5.0, count) if survey_noise else rv
    support = STARGAP.support
    flux = np.empty((count, wave.size))
    for first in range(0, count, 256):
        rows = slice(first, first + 256)
        rest = wave / (1 + shift[rows, None] / SPEED_OF_LIGHT)
        inside = np.clip(rest, support[0], support[-1])
        model = emulator.flux(torch.as_tensor(labels[rows])).double()
        spectrum = cubic(model, torch.as_tensor((inside - support[0]) / STARGAP.step)).numpy()
        teff = labels[rows, TEFF, None]
        flux[rows] = spectrum * planck(rest, teff) / planck(inside, teff)
    active = rng.random(count) < active_fraction
    emission = np.where(active, rng.uniform(1.0, 6.0, count), 0.0)
    line = np.exp(-0.5 * ((wave / (1 + shift[:, None] / SPEED_OF_LIGHT) - HALPHA) / 1.6) ** 2) / (
        1.6 * np.sqrt(2 * np.pi)
    )
    near = np.abs(wave - HALPHA) < 30.0
    flux += emission[:, None] * line * np.median(flux[:, near], axis=1, keepdims=True)
    halpha = _halpha(wave, flux, shift)

    level = np.median(flux[:, np.abs(wave - 7500.0) < 100.0], axis=1, keepdims=True)
    scale = rng.lognormal(np.log(2000.0), 1.0, (count, 1))
    flux *= scale / level
    sky = 1.0 + 0.6 * (wave > 7200.0) * np.abs(np.sin(wave / 7.0)) ** 6
    sigma = scale / snr[:, None] * np.sqrt(np.clip(flux / scale, 0.05, None)) * sky * np.clip(4500.0 / wave, 1.0, 2.0)
    noise = rng.standard_normal(flux.shape)
    if survey_noise:
        noise = 1.3 * (0.9895 * noise + 0.102 * (np.roll(noise, 1, axis=1) + np.roll(noise, -1, axis=1)))
    flux = flux + sigma * noise
    ivar = 1.0 / sigma**2
    if bad_pixels:
        ivar[rng.random(ivar.shape) < 0.002] = 0.0
        for row in np.flatnonzero(rng.random(count) < 0.02):
            start = rng.integers(wave.size - 400)
            ivar[row, start : start + rng.integers(50, 300)] = 0.0
        for row in np.flatnonzero(rng.random(count) < 0.01):
            ivar[row, wave > 5900.0] = 0.0
    flux[ivar == 0.0] *= rng.uniform(0.0, 3.0, int((ivar == 0.0).sum()))
    return MockStars(wave, flux, ivar, labels, rv, snr, active, halpha)


def _halpha(wave: NDArray[np.float64], flux: NDArray[np.float64], rv: NDArray[np.float64]) -> NDArray[np.float64]:
    near = np.abs(wave - HALPHA) < 100.0
    level = np.median(flux[:, near], axis=1)
    native = to_log_lambda(
        [Spectrum(wave, f, np.full(wave.size, (1e3 / s) ** 2)) for f, s in zip(flux, level, strict=True)]
    )
    return measure_halpha(native, torch.as_tensor(rv)).width.numpy()


def prepared_stars(
    labels: NDArray[np.float64], active: NDArray[np.bool_], nature: Emulator, *, seed: int
) -> Iterator[tuple[Truth, Prepared, Tensor]]:
    """Yield chunks prepared at ``rv_used``, with the noiseless spectra prepared in the same way, ``(star, pixel)``."""
    for truth, native, clean in simulate(labels, active, nature, seed=seed):
        rv = torch.as_tensor(truth.rv_used)
        star = prepare(native, rv)
        scaled = torch.as_tensor(clean) / native.scale[:, None].float()
        noiseless = prepare(NativeBatch(scaled, native.ivar, native.scale, native.spikes), rv)
        yield truth, star, noiseless.flux
