"""Batches of observed spectra on the log-lambda grid: one row per input, whether it could be read or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import BluePixels, NativeSpectra, PerStar
from stargap.errors import SpectrumError
from stargap.pixels import BLUE, BLUE_KEPT, BLUE_WAVELENGTH, LOG_LAMBDA, MODEL_RESOLUTION, LogLambdaGrid
from stargap.spectra.linespread import FINE, LEAST_GOOD, match_resolution
from stargap.spectra.readers.content import RANGE, facts_with_snr
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = ["NativeBatch", "concatenate", "empty_batch", "native_batch", "to_log_lambda"]

SPIKE_SIGMA = 20.0
"""A spike is at least this many standard deviations away from its neighbours."""
SPIKE_FACTOR = 3.0
"""A spike is at least this many times the local level away from its neighbours."""
NEAR_LINES = ((4840.0, 4890.0), (5865.0, 5890.0), (6535.0, 6600.0))
"""Wavelengths (A) where a narrow excess may be the emission line H-beta, He I D3 or H-alpha and must stand out from the
pixels beside it."""
_BLUE, _NATIVE = slice(BLUE_KEPT.size), slice(BLUE_KEPT.size, None)
_WAVELENGTH = np.concatenate([BLUE_WAVELENGTH, LOG_LAMBDA.wavelength])
"""Those of all pixels that are kept of a spectrum (A), the blue ones and then the grid."""
_STRETCHES = np.concatenate([[0], np.flatnonzero(np.diff(_WAVELENGTH) > 10.0) + 1, [_WAVELENGTH.size]])
"""Where stretches of adjacent pixels begin, and the end."""
_NEAR_LINE = np.any([np.clip(_WAVELENGTH, *edges) == _WAVELENGTH for edges in NEAR_LINES], axis=0)
_NEAR_LINE[BLUE_KEPT.size] = False  # the grid sees nothing blueward of its first pixel
_NEAR_BLUE = (0.99 * float(BLUE.wavelength[0]), 1.01 * float(BLUE.wavelength[-1]))
"""Wavelengths (A) whose pixels those of `BLUE` are made of."""


@dataclass(frozen=True)
class NativeBatch:
    """Observed spectra on the log-lambda grid, each divided by its own scale.

    ``flux`` and ``ivar`` are float32 ``(star, native)``; ``ivar`` is 0 where a pixel must not be used. ``scale`` is
    float64 ``(star,)``: the flux unit of each row. ``spikes`` counts the pixels that were killed as spikes.
    ``resolution`` is the resolving power of each row, float64 ``(star,)``: the models' where it is left out.
    ``blue_flux`` and ``blue_ivar`` are the same, in the same unit, of the pixels `BLUE_KEPT`, for lines blueward of the
    grid; float32 ``(star, blue)``, ivar 0 everywhere where they are left out.
    """

    flux: NativeSpectra
    ivar: NativeSpectra
    scale: PerStar
    spikes: Tensor
    resolution: PerStar = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    blue_flux: BluePixels = field(default_factory=lambda: torch.empty(0, 0))
    blue_ivar: BluePixels = field(default_factory=lambda: torch.empty(0, 0))

    def __post_init__(self) -> None:
        for name in ("blue_flux", "blue_ivar"):
            if not getattr(self, name).numel():
                object.__setattr__(self, name, torch.zeros(len(self.flux), BLUE_KEPT.size))
        if len(self.resolution) != len(self.flux):
            whole = torch.full((len(self.flux),), MODEL_RESOLUTION, dtype=torch.float64)
            object.__setattr__(self, "resolution", whole)

    def __len__(self) -> int:
        return self.flux.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> NativeBatch:
        return NativeBatch(*(getattr(self, f.name)[rows] for f in fields(self)))


def native_batch(items: Sequence[Spectrum | SpectrumError]) -> tuple[NativeBatch, list[Facts], list[str]]:
    """Put spectra on the log-lambda grid, one row per item whatever happens.

    Args:
        items: spectra, or the errors of files that could not be read.

    Returns:
        the spectra (ivar 0 in rows that cannot be used), the facts of each with its S/N, and why a row cannot be
        used, empty if it can.

    Example:
        >>> native, facts, failure = native_batch([SpectrumError("a.fits", "the file is empty")])
        >>> int((native.ivar > 0).sum()), facts[0].path, failure
        (0, 'a.fits', ['the file is empty'])
    """
    parts, facts, failure = [empty_batch(0)], [], []
    for item in items:
        reason = ""
        try:
            if isinstance(item, SpectrumError):
                raise item
            part = to_log_lambda([item])
        except SpectrumError as error:
            reason, part = error.reason, empty_batch(1)
        parts.append(part)
        facts.append(Facts(path=item.path) if isinstance(item, SpectrumError) else facts_with_snr(item))
        failure.append(reason)
    return concatenate(parts), facts, failure


def empty_batch(count: int) -> NativeBatch:
    """Return `count` rows without a good pixel.

    Example:
        >>> empty_batch(2).ivar.shape
        torch.Size([2, 1891])
    """
    nothing, scale = torch.zeros(count, LOG_LAMBDA.count), torch.ones(count, dtype=torch.float64)
    return NativeBatch(nothing, nothing.clone(), scale, torch.zeros(count, dtype=torch.int64))


def concatenate(parts: Sequence[NativeBatch]) -> NativeBatch:
    """Return the rows of all parts, at least one, in one batch.

    Example:
        >>> len(concatenate([empty_batch(2), empty_batch(3)]))
        5
    """
    return NativeBatch(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(NativeBatch)))


def to_log_lambda(spectra: Sequence[Spectrum]) -> NativeBatch:
    """Put spectra on the log-lambda grid, one row each, scaled to a median of about 1.

    LAMOST and SDSS pixels lie on it (within 0.02 pixel, 1.4 km/s) and are copied; pixels narrower than 0.6 of its own
    are averaged, others interpolated linearly, with the variance carried, and ``resolution`` lower by the broadening.
    Spikes are given weight zero: pixels more than 20 sigma AND more than 3 times the local level away from the median
    of their 11 neighbours, and near H-alpha, H-beta and He I D3 more than 3 times as far above it as the pixels beside
    them (no line is narrower than the spectrograph makes it); their number on the grid is kept. Pixels blueward of the
    grid are treated alike, at their own resolving power; nothing on the grid depends on them. Weight zero goes also to
    pixels whose S/N at the typical flux is below 1e-5 or above 1e7, which float32 cannot hold.

    Raises:
        SpectrumError: wavelengths that do not overlap 6000-8900 A.

    Example:
        >>> wave = LOG_LAMBDA.wavelength[100:-100]
        >>> batch = to_log_lambda([Spectrum(wave, 5e4 * np.ones_like(wave), 1e-4 * np.ones_like(wave))])
        >>> batch.flux.shape, int((batch.ivar > 0).sum()), float(batch.scale)
        (torch.Size([1, 1891]), 1691, 50000.0)
    """
    flux = np.zeros((len(spectra), _WAVELENGTH.size))
    ivar = np.zeros_like(flux)
    resolution = np.full(len(spectra), MODEL_RESOLUTION)
    for row, spectrum in enumerate(spectra):
        flux[row], ivar[row], resolution[row] = _on_grids(spectrum)
    good = (ivar > 0) & np.isfinite(ivar) & np.isfinite(flux)
    scale = np.ones(len(spectra))
    for row in np.flatnonzero(good[:, _NATIVE].any(axis=1)).tolist():
        scale[row] = np.median(np.abs(flux[row, _NATIVE][good[row, _NATIVE]]))
    scale[~(np.isfinite(scale) & (scale > 0))] = 1.0
    flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
    with np.errstate(over="ignore", under="ignore"):
        flux = flux / scale[:, None]
        ivar = (np.sqrt(ivar) * scale[:, None]) ** 2
    good &= (np.abs(flux) < 1e12) & (ivar < 1e14) & (ivar > 1e-10)
    flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
    spikes = _spikes(flux, ivar, good)
    good &= ~spikes
    flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
    return NativeBatch(
        torch.as_tensor(flux[:, _NATIVE], dtype=torch.float32),
        torch.as_tensor(ivar[:, _NATIVE], dtype=torch.float32),
        torch.as_tensor(scale),
        torch.as_tensor(spikes[:, _NATIVE].sum(axis=1)),
        torch.as_tensor(resolution),
        torch.as_tensor(flux[:, _BLUE], dtype=torch.float32),
        torch.as_tensor(ivar[:, _BLUE], dtype=torch.float32),
    )


def _on_grids(spectrum: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return flux and ivar of a spectrum at `_WAVELENGTH`, and its resolving power on the grid."""
    wave = spectrum.wavelength
    if wave.size < 2 or wave[-1] < RANGE[0] or wave[0] > RANGE[1]:
        raise SpectrumError(spectrum.facts.path, "its wavelengths do not overlap 6000-8900 A")
    sampled = _average if np.median(np.diff(np.log10(wave))) < FINE * LOG_LAMBDA.step else _resample
    blue = np.zeros((2, BLUE_KEPT.size))
    low, high = np.searchsorted(wave, _NEAR_BLUE)
    if high - low > 1:
        part = Spectrum(wave[low:high], spectrum.flux[low:high], spectrum.ivar[low:high])
        blue = np.stack(sampled(part, BLUE)[:2])[:, BLUE_KEPT]
    flux, ivar, spread = sampled(spectrum, LOG_LAMBDA)
    resolution = MODEL_RESOLUTION
    if spectrum.resolution is not None or spread:
        flux, resolution = match_resolution(flux, ivar, _power(spectrum), spread)
    return np.concatenate([blue[0], flux]), np.concatenate([blue[1], ivar]), resolution


def _power(spectrum: Spectrum) -> NDArray[np.float64]:
    """Return the resolving power of a spectrum on the grid."""
    if spectrum.resolution is not None:
        known = np.isfinite(spectrum.resolution) & (spectrum.resolution > 0)
        if known.any():
            return np.interp(LOG_LAMBDA.wavelength, spectrum.wavelength[known], spectrum.resolution[known])
    return np.full(LOG_LAMBDA.count, MODEL_RESOLUTION)


def _average(spectrum: Spectrum, grid: LogLambdaGrid) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return means of narrower pixels over those of the grid, weighted by how much of each lies inside.

    The last value is the variance by which that broadens lines, in squared pixels of the grid.
    """
    place = np.log10(spectrum.wavelength) / grid.step - grid.first
    middle = (place[1:] + place[:-1]) / 2
    edges = np.concatenate([[2 * place[0] - middle[0]], middle, [2 * place[-1] - middle[-1]]])
    ends = np.arange(grid.count + 1) - 0.5
    good = spectrum.ivar > 0
    width = np.where(good, np.diff(edges), 0.0)
    inverse = np.divide(1.0, spectrum.ivar, out=np.zeros(good.shape), where=good)

    def within(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.concatenate([[0.0], np.cumsum(values)])
        return np.diff(np.interp(ends, edges, total))

    covered, sums = within(width), within(width * spectrum.flux)
    variance = within(width**2 * inverse)
    enough = covered >= LEAST_GOOD
    flux = np.divide(sums, covered, out=np.zeros(covered.shape), where=enough)
    ivar = np.divide(covered**2, variance, out=np.zeros(covered.shape), where=enough & (variance > 0))
    return flux, ivar, 1 / 12


def _resample(spectrum: Spectrum, grid: LogLambdaGrid) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return flux and ivar by linear interpolation, and the variance by which that broadens lines, as `_average` does.

    Interpolated pixels share noise. The variance of one is here the sum of its row of their covariance, which is what
    a mean over many pixels has, so that errors hold that take pixels for independent.
    """
    flux, ivar = np.zeros(grid.count), np.zeros(grid.count)
    wave = spectrum.wavelength
    place = np.log10(wave) / grid.step - grid.first
    nearest = np.rint(place).astype(int)
    inside = (nearest >= 0) & (nearest < grid.count)
    if np.abs(place - nearest)[inside].max(initial=0.0) < 0.02 and (np.diff(nearest) > 0).all():
        flux[nearest[inside]], ivar[nearest[inside]] = spectrum.flux[inside], spectrum.ivar[inside]
        return flux, ivar, 0.0
    target = grid.wavelength
    left = np.clip(np.searchsorted(wave, target, side="right") - 1, 0, wave.size - 2)
    t = (target - wave[left]) / (wave[left + 1] - wave[left])
    covered = (t >= 0) & (t <= 1) & (spectrum.ivar[left] > 0) & (spectrum.ivar[left + 1] > 0)
    used = np.bincount(left, np.where(covered, 1 - t, 0.0), wave.size)
    used += np.bincount(left + 1, np.where(covered, t, 0.0), wave.size)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = (1 - t) * used[left] / spectrum.ivar[left] + t * used[left + 1] / spectrum.ivar[left + 1]
        flux = np.where(covered, (1 - t) * spectrum.flux[left] + t * spectrum.flux[left + 1], 0.0)
        ivar = np.where(covered, 1.0 / variance, 0.0)
    apart = np.log10(wave[left + 1] / wave[left]) / grid.step
    spread = float(np.mean((t * (1 - t) * apart**2)[covered])) if covered.any() else 0.0
    return flux, np.where(np.isfinite(ivar), ivar, 0.0), spread


def _spikes(flux: NDArray[np.float64], ivar: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    spikes = np.zeros_like(good)
    level = np.abs(flux)
    typical = np.where(np.arange(_WAVELENGTH.size) < BLUE_KEPT.size, level[:, _BLUE].mean(axis=1, keepdims=True), 1.0)
    suspect = good & (level > SPIKE_FACTOR * typical) & (level * np.sqrt(ivar) > SPIKE_SIGMA)
    for row, pixel in np.argwhere(suspect):
        first, last = _STRETCHES[np.searchsorted(_STRETCHES, pixel, side="right") - 1 :][:2]
        first = first if pixel < BLUE_KEPT.size else BLUE_KEPT.size
        near = np.arange(max(pixel - 5, first), min(pixel + 6, last))
        near = near[good[row, near]]
        around = np.median(flux[row, near])
        away = np.abs(flux[row, near] - around)
        own = away[near == pixel][0]
        spikes[row, pixel] = own > SPIKE_FACTOR * abs(around) and own * np.sqrt(ivar[row, pixel]) > SPIKE_SIGMA
        if _NEAR_LINE[pixel] and flux[row, pixel] > around:
            beside = away[np.abs(near - pixel) == 1]
            spikes[row, pixel] &= beside.size == 2 and own > SPIKE_FACTOR * beside.max()
    return spikes
