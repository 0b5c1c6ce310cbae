"""From native pixels to prepared spectra, by one batched operator that serves stars and models alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.errors import SpectrumError
from stargap.pixels import LATTICE, SPEED_OF_LIGHT, STARGAP, PixelGrid
from stargap.spectra.spectrum import Spectrum

__all__ = [
    "NativeBatch",
    "Prepared",
    "Smoother",
    "blur",
    "normalise",
    "prepare",
    "restore",
    "smear",
    "smoother_for",
    "to_lattice",
]

SPIKE_SIGMA = 20.0
SPIKE_FACTOR = 3.0
NEAR_HALPHA = (6535.0, 6600.0)
LEAST_CONTINUUM = 1e-6
"""Of a star's typical flux: below this a pseudo-continuum divides nothing."""


@dataclass(frozen=True)
class NativeBatch:
    """Observed spectra on the native lattice, each divided by its own scale.

    ``flux`` and ``ivar`` are float32 ``(star, native)``; ``ivar`` is 0 where a pixel must not be used. ``scale`` is
    float64 ``(star,)``: the flux unit of each row. ``spikes`` counts the pixels that were killed as spikes.
    """

    flux: Tensor
    ivar: Tensor
    scale: Tensor
    spikes: Tensor

    def __len__(self) -> int:
        return self.flux.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> NativeBatch:
        return NativeBatch(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Prepared:
    """Normalised rest-frame spectra and all that is needed to treat a model in the same way.

    Shapes: ``flux, sigma, continuum, good`` are ``(star, pixel)`` on `grid.wavelength`; ``weight, blur, index,
    fraction`` are ``(star, support)`` on `grid.support`; ``inverse_kernel`` is ``(star, pixel)``, one over the weight
    that good pixels hold in the smoothing kernel.
    ``good`` marks the pixels that a fit uses; ``sigma`` is positive and finite everywhere.
    """

    grid: PixelGrid
    native: NativeBatch
    flux: Tensor
    sigma: Tensor
    continuum: Tensor
    good: Tensor
    weight: Tensor
    inverse_kernel: Tensor
    blur: Tensor
    index: Tensor
    fraction: Tensor
    bad_fraction: Tensor
    bad_continuum: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Prepared:
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "grid"})


class Smoother:
    """Gaussian running sum over pixels, as two narrow banded matrix products through coarse nodes.

    A Gaussian of standard deviation s is two Gaussians of s / sqrt(2), and between the two it is so smooth that nodes
    every s / 2 carry it to 1e-7 of its peak. Both factors are positive, so float32 keeps its relative accuracy and a
    bad value reaches no further than the kernel does. The band is cut into blocks of pixels, each with the nodes it
    can reach.

    Args:
        wavelength: pixels (A), shape ``(pixel,)``, increasing.
        sigma: standard deviation of the kernel (A).

    Example:
        >>> smooth = Smoother(np.arange(6000.0, 6300.0), 30.0)
        >>> smooth(torch.ones(1, 300))[0, [0, 150]]
        tensor([0.5066, 1.0000])
    """

    def __init__(self, wavelength: NDArray[np.float64], sigma: float) -> None:
        narrow, step, reach = sigma / np.sqrt(2.0), sigma / 2.0, 5.5 * sigma / np.sqrt(2.0)
        self.pixels = wavelength.size
        self.blocks = max(round((wavelength[-1] - wavelength[0]) / (8.0 * sigma)), 1)
        self.block = -(-self.pixels // self.blocks)
        nodes = np.arange(wavelength[0] - reach, wavelength[-1] + reach + step, step)
        edges = [wavelength[i * self.block : (i + 1) * self.block] for i in range(self.blocks)]
        first = [int(np.searchsorted(nodes, edge[0] - reach)) for edge in edges]
        last = [int(np.searchsorted(nodes, edge[-1] + reach)) for edge in edges]
        width = max(stop - start for start, stop in zip(first, last, strict=True))
        self.first = [min(start, nodes.size - width) for start in first]
        self.width, self.nodes = width, nodes.size
        band = np.zeros((self.blocks, self.block, width))
        for i, edge in enumerate(edges):
            near = nodes[self.first[i] : self.first[i] + width]
            band[i, : edge.size] = np.exp(-0.5 * ((edge[:, None] - near) / narrow) ** 2)
        self.gather = torch.as_tensor(band, dtype=torch.float32)
        self.spread = self.gather.transpose(1, 2).contiguous()
        peak = self(torch.ones(1, self.pixels)).max()
        self.gather, self.spread = self.gather / peak.sqrt(), self.spread / peak.sqrt()

    def __call__(self, values: Tensor) -> Tensor:
        """Return kernel-weighted sums ``(row, pixel)`` of `values` ``(row, pixel)``; for ones, at most 1."""
        given = values.shape[0]
        rows = max(given, 8)  # products of fewer rows round differently
        values = torch.nn.functional.pad(values, (0, self.blocks * self.block - self.pixels, 0, rows - given))
        parts = torch.bmm(values.view(rows, self.blocks, self.block).transpose(0, 1), self.gather)
        nodes = values.new_zeros(rows, self.nodes)
        for part, start in zip(parts, self.first, strict=True):
            nodes[:, start : start + self.width] += part
        near = torch.stack([nodes[:, start : start + self.width] for start in self.first])
        sums = torch.bmm(near, self.spread).transpose(0, 1)
        return sums.reshape(rows, self.blocks * self.block)[:given, : self.pixels]


@cache
def smoother_for(grid: PixelGrid) -> Smoother:
    """Return the smoother on `grid.support`, built once."""
    return Smoother(grid.support, grid.smoothing)


def normalise(flux: Tensor, weight: Tensor, grid: PixelGrid = STARGAP) -> tuple[Tensor, Tensor, Tensor]:
    """Divide spectra by their weighted Gaussian pseudo-continuum (paper section 2.4; METHOD section 2).

    F(l) = sum_i f_i g_i w_i(l) / sum_i g_i w_i(l), w_i(l) = exp(-(l - l_i)^2 / (2 s^2)), g the weights.

    Args:
        flux: ``(row, support)``.
        weight: the same shape, 0 for pixels that must not count.
        grid: pixel grid and width of the kernel.

    Returns:
        normalised flux, pseudo-continuum and the fraction of the kernel that good pixels hold, ``(row, pixel)`` each;
        the first two are 0 where that fraction is below ``grid.least_kernel_weight``.

    Example:
        >>> flux = torch.linspace(1.0, 2.0, 3081).expand(2, -1)
        >>> normal, continuum, held = normalise(flux, torch.ones_like(flux))
        >>> normal.shape, bool((normal - 1).abs().max() < 1e-3)
        (torch.Size([2, 2901]), True)
    """
    smooth = smoother_for(grid)
    held = smooth(weight)[:, grid.inner]
    enough = held >= grid.least_kernel_weight
    continuum = torch.where(enough, smooth(weight * flux)[:, grid.inner] / held.clamp_min(1e-30), 0.0)
    usable = enough & (continuum != 0)
    normal = torch.where(usable, flux[:, grid.inner] / torch.where(usable, continuum, 1.0), 0.0)
    return normal, continuum, held


def blur(flux: Tensor, amount: Tensor) -> Tensor:
    """Smear model spectra as linear resampling smeared the star's.

    Linear interpolation at phase t between pixels D apart is a kernel of variance t (1 - t) D^2. Three taps
    ``(a, 1 - 2a, a)`` with ``a = t (1 - t) D^2 / 2`` have the same variance.

    Args:
        flux: ``(..., support)`` on a 1 A grid.
        amount: a, in squared pixels, broadcastable to `flux`.

    Example:
        >>> blur(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor(0.25))
        tensor([0.0000, 0.2500, 0.5000, 0.2500, 0.0000])
    """
    step = torch.diff(flux)
    curvature = torch.nn.functional.pad(step, (0, 1)) - torch.nn.functional.pad(step, (1, 0))
    return flux + amount * curvature


def to_lattice(spectra: Sequence[Spectrum]) -> NativeBatch:
    """Put spectra on the native lattice, one row each, scaled to a median of about 1.

    LAMOST and SDSS pixels lie on the lattice (within 0.02 pixel, 1.4 km/s) and are copied; any other wavelengths are
    resampled linearly with the variance carried. Spikes are given weight zero: pixels more than 20 sigma AND more than
    3 times the local level away from the median of their 11 neighbours, and near H-alpha more than 3 times as far above
    it as the pixels beside them (no line is narrower than the spectrograph makes it); their number is kept. Weight zero
    goes also to pixels whose S/N at the typical flux is below 1e-5 or above 1e7, which float32 cannot hold.

    Raises:
        SpectrumError: wavelengths that do not overlap 6000-8900 A.

    Example:
        >>> wave = LATTICE.wavelength[100:-100]
        >>> batch = to_lattice([Spectrum(wave, 5e4 * np.ones_like(wave), 1e-4 * np.ones_like(wave))])
        >>> batch.flux.shape, int((batch.ivar > 0).sum()), float(batch.scale)
        (torch.Size([1, 1891]), 1691, 50000.0)
    """
    flux = np.zeros((len(spectra), LATTICE.count))
    ivar = np.zeros_like(flux)
    for row, spectrum in enumerate(spectra):
        flux[row], ivar[row] = _resample(spectrum)
    good = (ivar > 0) & np.isfinite(ivar) & np.isfinite(flux)
    scale = np.ones(len(spectra))
    for row in np.flatnonzero(good.any(axis=1)).tolist():
        scale[row] = np.median(np.abs(flux[row, good[row]]))
    scale[~(np.isfinite(scale) & (scale > 0))] = 1.0
    flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
    with np.errstate(over="ignore", under="ignore"):
        flux = flux / scale[:, None]
        ivar = (np.sqrt(ivar) * scale[:, None]) ** 2
    good &= (np.abs(flux) < 1e12) & (ivar < 1e14) & (ivar > 1e-10)
    flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
    spikes = _spikes(flux, ivar, good)
    good &= ~spikes
    return NativeBatch(
        torch.as_tensor(np.where(good, flux, 0.0), dtype=torch.float32),
        torch.as_tensor(np.where(good, ivar, 0.0), dtype=torch.float32),
        torch.as_tensor(scale),
        torch.as_tensor(spikes.sum(axis=1)),
    )


def _resample(spectrum: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flux, ivar = np.zeros(LATTICE.count), np.zeros(LATTICE.count)
    wave = spectrum.wavelength
    if wave.size < 2 or wave[-1] < 6000.0 or wave[0] > 8900.0:
        raise SpectrumError(spectrum.facts.path, "its wavelengths do not overlap 6000-8900 A")
    place = np.log10(wave) / LATTICE.step - LATTICE.first
    nearest = np.rint(place).astype(int)
    inside = (nearest >= 0) & (nearest < LATTICE.count)
    if np.abs(place - nearest)[inside].max(initial=0.0) < 0.02 and (np.diff(nearest) > 0).all():
        flux[nearest[inside]], ivar[nearest[inside]] = spectrum.flux[inside], spectrum.ivar[inside]
        return flux, ivar
    target = LATTICE.wavelength
    left = np.clip(np.searchsorted(wave, target, side="right") - 1, 0, wave.size - 2)
    t = (target - wave[left]) / (wave[left + 1] - wave[left])
    covered = (t >= 0) & (t <= 1) & (spectrum.ivar[left] > 0) & (spectrum.ivar[left + 1] > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = (1 - t) ** 2 / spectrum.ivar[left] + t**2 / spectrum.ivar[left + 1]
        flux = np.where(covered, (1 - t) * spectrum.flux[left] + t * spectrum.flux[left + 1], 0.0)
        ivar = np.where(covered, 1.0 / variance, 0.0)
    return flux, np.where(np.isfinite(ivar), ivar, 0.0)


def _spikes(flux: NDArray[np.float64], ivar: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    spikes = np.zeros_like(good)
    wave = LATTICE.wavelength
    halpha = (wave > NEAR_HALPHA[0]) & (wave < NEAR_HALPHA[1])
    level = np.abs(flux)
    suspect = good & (level > SPIKE_FACTOR) & (level * np.sqrt(ivar) > SPIKE_SIGMA)
    for row, pixel in np.argwhere(suspect):
        near = np.arange(max(pixel - 5, 0), min(pixel + 6, wave.size))
        near = near[good[row, near]]
        around = np.median(flux[row, near])
        away = np.abs(flux[row, near] - around)
        own = away[near == pixel][0]
        spikes[row, pixel] = own > SPIKE_FACTOR * abs(around) and own * np.sqrt(ivar[row, pixel]) > SPIKE_SIGMA
        if halpha[pixel] and flux[row, pixel] > around:
            beside = away[np.abs(near - pixel) == 1]
            spikes[row, pixel] &= beside.size == 2 and own > SPIKE_FACTOR * beside.max()
    return spikes


def prepare(native: NativeBatch, rv: Tensor, grid: PixelGrid = STARGAP) -> Prepared:
    """Shift to the rest frame, resample linearly to 1 A, normalise, and mask (paper section 2.4; METHOD section 2).

    Args:
        native: spectra on the lattice.
        rv: velocities (km/s), ``(star,)``; rows with NaN are prepared at 0.
        grid: ``STARGAP`` or ``PAPER``.

    Example:
        >>> wave = LATTICE.wavelength
        >>> native = to_lattice([Spectrum(wave, 1 + 0 * wave, 1e4 + 0 * wave)])
        >>> star = prepare(native, torch.zeros(1))
        >>> round(float(star.flux[star.good].mean()), 6), round(float(star.sigma.median()), 4)
        (1.0, 0.0084)
    """
    index, t, gap, covered = _resampling(rv, grid)

    kept = native.ivar > 0
    outside = ~torch.as_tensor(grid.window_mask(LATTICE.wavelength, "observed"))
    flux = _between(native.flux, index, t)
    good = kept.gather(1, index) & kept.gather(1, index + 1) & covered
    wanted = outside[index] & outside[index + 1] & ~torch.as_tensor(grid.window_mask(grid.support, "rest"))
    fit = good & wanted
    weight = (good if grid.windows_in_smoother else fit).float()

    variance = torch.where(kept, 1.0 / native.ivar.clamp_min(1e-10), 0.0)
    if grid.native_errors:
        sigma = ((1 - t) ** 2 * variance.gather(1, index) + t**2 * variance.gather(1, index + 1)).sqrt()
    else:
        sigma = _between(variance.sqrt(), index, t)

    inner = grid.inner
    normal, continuum, held = normalise(flux, weight, grid)
    positive = continuum > LEAST_CONTINUUM
    possible = fit[:, inner] & (held >= grid.least_kernel_weight)
    usable = possible & positive
    see = grid.model_sees_weights
    kernel = held if see else smoother_for(grid)(torch.ones_like(weight))[:, inner]
    return Prepared(
        grid=grid,
        native=native,
        flux=torch.where(positive, normal, 0.0),
        sigma=torch.where(usable, sigma[:, inner] / torch.where(positive, continuum, 1.0), 1.0),
        continuum=continuum,
        good=usable,
        weight=weight if see else torch.ones_like(weight),
        inverse_kernel=1.0 / kernel.clamp_min(grid.least_kernel_weight),
        blur=smear(t, gap, grid) if see else torch.zeros_like(t),
        index=index,
        fraction=t,
        bad_fraction=1.0 - usable.sum(dim=1) / wanted[:, inner].sum(dim=1),
        bad_continuum=(possible & ~positive).any(dim=1),
    )


def restore(
    flux: Tensor, sigma: Tensor, good: Tensor, weight: Tensor, rv: Tensor, grid: PixelGrid = STARGAP
) -> Prepared:
    """Return prepared spectra from their arrays, so that models can be compared with them again.

    Without the native pixels, label errors are those of independent pixels: ``grid.native_errors`` is False in the
    result.

    Args:
        flux: ``(star, pixel)``, as is `sigma`; `good` is the same in bool.
        sigma: errors of normalised flux.
        good: pixels that a fit uses.
        weight: ``(star, support)``.
        rv: the velocities they were prepared at (km/s), ``(star,)``.
        grid: pixel grid they are on.
    """
    index, t, gap, _ = _resampling(rv, grid)
    held = smoother_for(grid)(weight)[:, grid.inner]
    nothing = torch.zeros(len(flux), 0)
    return Prepared(
        grid=replace(grid, native_errors=False),
        native=NativeBatch(nothing, nothing, torch.ones(len(flux)), torch.zeros(len(flux))),
        flux=flux,
        sigma=sigma,
        continuum=torch.ones_like(flux),
        good=good,
        weight=weight,
        inverse_kernel=1.0 / held.clamp_min(grid.least_kernel_weight),
        blur=smear(t, gap, grid),
        index=index,
        fraction=t,
        bad_fraction=1.0 - good.float().mean(dim=1),
        bad_continuum=torch.zeros(len(flux), dtype=torch.bool),
    )


def _resampling(rv: Tensor, grid: PixelGrid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left native pixel, phase, distance to the next pixel (A) and coverage of every pixel of the support."""
    lattice = torch.as_tensor(LATTICE.wavelength)
    doppler = 1.0 + torch.nan_to_num(rv.double(), nan=0.0)[:, None] / SPEED_OF_LIGHT
    observed = torch.as_tensor(grid.support) * doppler
    place = torch.log10(observed) / LATTICE.step - LATTICE.first
    index = place.floor().long().clamp(0, LATTICE.count - 2)
    gap = lattice[index + 1] - lattice[index]
    fraction = ((observed - lattice[index]) / gap).clamp(0.0, 1.0).float()
    return index, fraction, gap.float(), (place >= 0) & (place <= LATTICE.count - 1)


def smear(fraction: Tensor, gap: Tensor, grid: PixelGrid) -> Tensor:
    """Return the amount of `blur` that linear resampling at phase `fraction` between pixels `gap` (A) apart is."""
    return fraction * (1 - fraction) * (gap / grid.step) ** 2 / 2


def _between(values: Tensor, index: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(values.gather(1, index), values.gather(1, index + 1), t)
