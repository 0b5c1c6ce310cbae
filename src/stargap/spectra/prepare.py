"""From native pixels to prepared spectra, by one batched operator that serves stars and models alike."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stargap.arrays import NativePixels, PerStar, PixelMask, Spectra, StarMask, SupportSpectra
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP, PixelGrid
from stargap.spectra.linespread import missing_blur
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.smoother import normalise, smoother_for

__all__ = ["Prepared", "prepare", "restore", "smear"]

LEAST_CONTINUUM = 1e-6
"""The least pseudo-continuum that a flux is divided by, as a fraction of the star's typical flux."""


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
    flux: Spectra
    sigma: Spectra
    continuum: Spectra
    good: PixelMask
    weight: SupportSpectra
    inverse_kernel: Spectra
    blur: SupportSpectra
    index: NativePixels
    fraction: SupportSpectra
    bad_fraction: PerStar
    bad_continuum: StarMask

    def __getitem__(self, rows: slice | Tensor) -> Prepared:
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "grid"})


def prepare(native: NativeBatch, rv: PerStar, grid: PixelGrid = STARGAP) -> Prepared:
    """Shift to the rest frame, resample linearly to 1 A, normalise, and mask (paper section 2.4; METHOD section 2).

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``; rows with NaN are prepared at 0.
        grid: ``STARGAP`` or ``PAPER``.

    Example:
        >>> from stargap.spectra.log_lambda import to_log_lambda
        >>> from stargap.spectra.spectrum import Spectrum
        >>> wave = LOG_LAMBDA.wavelength
        >>> native = to_log_lambda([Spectrum(wave, 1 + 0 * wave, 1e4 + 0 * wave)])
        >>> star = prepare(native, torch.zeros(1))
        >>> round(float(star.flux[star.good].mean()), 6), round(float(star.sigma.median()), 4)
        (1.0, 0.0084)
    """
    index, t, gap, covered = _resampling(rv, grid)

    kept = native.ivar > 0
    flux = _between(native.flux, index, t)
    good = kept.gather(1, index) & kept.gather(1, index + 1) & covered
    unmasked = _unmasked(index, grid)
    fit = good & unmasked
    weight = (good if grid.windows_in_smoother else fit).float()

    variance = torch.where(kept, 1.0 / native.ivar.clamp_min(1e-10), 0.0)
    if grid.native_errors:
        sigma = ((1 - t) ** 2 * variance.gather(1, index) + t**2 * variance.gather(1, index + 1)).sqrt()
    else:
        sigma = _between(variance.sqrt(), index, t)

    inner = grid.inner
    normal, continuum, coverage = normalise(flux, weight, grid)
    positive = continuum > LEAST_CONTINUUM
    possible = fit[:, inner] & (coverage >= grid.least_kernel_weight)
    usable = possible & positive
    see = grid.model_sees_weights
    kernel = coverage if see else smoother_for(grid)(torch.ones_like(weight))[:, inner]
    return Prepared(
        grid=grid,
        native=native,
        flux=torch.where(positive, normal, 0.0),
        sigma=torch.where(usable, sigma[:, inner] / torch.where(positive, continuum, 1.0), 1.0),
        continuum=continuum,
        good=usable,
        weight=weight if see else torch.ones_like(weight),
        inverse_kernel=1.0 / kernel.clamp_min(grid.least_kernel_weight),
        blur=smear(t, gap, grid) + missing_blur(native.resolution, grid) if see else torch.zeros_like(t),
        index=index,
        fraction=t,
        bad_fraction=1.0 - usable.sum(dim=1) / unmasked[:, inner].sum(dim=1),
        bad_continuum=(possible & ~positive).any(dim=1),
    )


def restore(
    flux: Spectra, sigma: Spectra, good: PixelMask, weight: SupportSpectra, rv: PerStar, grid: PixelGrid = STARGAP
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
    coverage = smoother_for(grid)(weight)[:, grid.inner]
    nothing = torch.zeros(len(flux), 0)
    return Prepared(
        grid=replace(grid, native_errors=False),
        native=NativeBatch(nothing, nothing, torch.ones(len(flux)), torch.zeros(len(flux))),
        flux=flux,
        sigma=sigma,
        continuum=torch.ones_like(flux),
        good=good,
        weight=weight,
        inverse_kernel=1.0 / coverage.clamp_min(grid.least_kernel_weight),
        blur=smear(t, gap, grid) if grid.model_sees_weights else torch.zeros_like(t),
        index=index,
        fraction=t,
        bad_fraction=1.0 - good.float().mean(dim=1),
        bad_continuum=torch.zeros(len(flux), dtype=torch.bool),
    )


def _resampling(rv: PerStar, grid: PixelGrid) -> tuple[NativePixels, SupportSpectra, SupportSpectra, Tensor]:
    """Left native pixel, phase, distance to the next pixel (A) and coverage of every pixel of the support."""
    native = torch.as_tensor(LOG_LAMBDA.wavelength)
    doppler = 1.0 + torch.nan_to_num(rv.double(), nan=0.0)[:, None] / SPEED_OF_LIGHT
    observed = torch.as_tensor(grid.support) * doppler
    place = torch.log10(observed) / LOG_LAMBDA.step - LOG_LAMBDA.first
    index = place.floor().long().clamp(0, LOG_LAMBDA.count - 2)
    gap = native[index + 1] - native[index]
    fraction = ((observed - native[index]) / gap).clamp(0.0, 1.0).float()
    return index, fraction, gap.float(), (place >= 0) & (place <= LOG_LAMBDA.count - 1)


def smear(fraction: Tensor, gap: Tensor, grid: PixelGrid) -> Tensor:
    """Return the amount of `blur` that linear resampling at phase `fraction` between pixels `gap` (A) apart is."""
    return fraction * (1 - fraction) * (gap / grid.step) ** 2 / 2


def _unmasked(index: Tensor, grid: PixelGrid) -> Tensor:
    """Pixels of the support outside the masked windows, those of the observed frame included."""
    outside = ~torch.as_tensor(grid.window_mask(LOG_LAMBDA.wavelength, "observed"))
    return outside[index] & outside[index + 1] & ~torch.as_tensor(grid.window_mask(grid.support, "rest"))


def _between(values: Tensor, index: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(values.gather(1, index), values.gather(1, index + 1), t)
