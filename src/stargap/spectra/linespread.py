"""Line-spread functions: spectra brought to a resolving power that the models have too."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import PerStar, SupportSpectra
from stargap.pixels import LOG_LAMBDA, MODEL_RESOLUTION, PixelGrid
from stargap.spectra.resolution import FWHM_PER_SIGMA

__all__ = [
    "AT_ONCE",
    "blur",
    "broadened",
    "match_resolution",
    "missing_blur",
    "missing_native_blur",
    "to_resolution",
]

Power = TypeVar("Power", float, NDArray[np.float64])
PIXEL = float(FWHM_PER_SIGMA * LOG_LAMBDA.step * np.log(10.0))
"""FWHM over wavelength of a Gaussian whose sigma is a pixel of the log-lambda grid."""
FINE = 0.6
"""Spectra whose pixels are narrower than this many of the log-lambda grid are averaged over its pixels."""
LEAST_GOOD = 0.5
"""Fraction of an averaged pixel that good pixels must cover."""


AT_ONCE = 0.6
"""The largest amount that `blur` takes in one step: linear resampling stays below it."""
STEP = 0.25
"""The largest amount of one of several steps."""
FINE_STEP = 0.1
"""The same for data, whose lines are narrower than those of models."""


def blur(flux: Tensor, amount: Tensor) -> Tensor:
    """Convolve spectra with narrow kernels: what linear resampling does to a star, or a line-spread function.

    Linear interpolation at phase t between pixels D apart is a kernel of variance t (1 - t) D^2. Three taps
    ``(a, 1 - 2a, a)`` with ``a = t (1 - t) D^2 / 2`` have the same variance. A row with larger amounts takes several
    such steps, which add up to a Gaussian of variance 2a; every row takes its own number of them.

    Args:
        flux: ``(..., support)`` on a 1 A grid.
        amount: a, in squared pixels, broadcastable to `flux`.

    Example:
        >>> blur(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor(0.25))
        tensor([0.0000, 0.2500, 0.5000, 0.2500, 0.0000])
    """
    if amount.ndim == 0:
        amount = amount[None]
    most = amount.amax(dim=-1, keepdim=True)
    steps = torch.where(most <= AT_ONCE, 1.0, (most / STEP).ceil())
    return _repeated(flux, amount / steps, steps)


def _repeated(flux: Tensor, each: Tensor, steps: Tensor) -> Tensor:
    """Apply three taps with the amount `each` to every row as often as `steps` says, ``(..., 1)``."""
    for step in range(int(steps.max()) if steps.numel() else 1):
        slope = torch.diff(flux)
        curvature = torch.empty_like(flux)
        curvature[..., 1:-1] = slope[..., 1:] - slope[..., :-1]
        curvature[..., 0], curvature[..., -1] = slope[..., 0], -slope[..., -1]
        flux = torch.addcmul(flux, torch.where(step < steps, each, 0.0), curvature)
    return flux


def missing_blur(resolution: PerStar, grid: PixelGrid) -> SupportSpectra:
    """Return the amounts of `blur` that bring models to the resolving power of each star, ``(star, support)``.

    Args:
        resolution: of each star; from that of the models on, nothing is missing.
        grid: pixel grid of the models.

    Example:
        >>> from stargap.pixels import STARGAP
        >>> missing_blur(torch.tensor([1800.0, 1000.0]), STARGAP)[:, 1590].tolist()
        [0.0, 3.5...]
    """
    sigma2 = (resolution.double() ** -2.0 - MODEL_RESOLUTION**-2.0).clamp_min(0.0)[:, None]
    pixels = torch.as_tensor(grid.support) / grid.step / FWHM_PER_SIGMA
    amount: Tensor = sigma2 * pixels.square() / 2
    return amount.float()


def missing_native_blur(resolution: PerStar) -> Tensor:
    """Return the same for models on the log-lambda grid, where one amount serves all pixels: ``(star, 1)``.

    Example:
        >>> missing_native_blur(torch.tensor([1800.0, 1000.0])).tolist()
        [[0.0], [1.17...]]
    """
    sigma2 = (resolution.double() ** -2.0 - MODEL_RESOLUTION**-2.0).clamp_min(0.0)[:, None]
    amount: Tensor = sigma2 / PIXEL**2 / 2
    return amount.float()


def broadened(power: Power, spread: float) -> Power:
    """Return the resolving power after a further broadening of variance `spread` (squared native pixels).

    Example:
        >>> round(broadened(1800.0, 0.0)), round(broadened(1800.0, 0.25))
        (1800, 1618)
    """
    left: Power = (power**-2.0 + spread * PIXEL**2) ** -0.5
    return left


def match_resolution(
    flux: NDArray[np.float64], ivar: NDArray[np.float64], power: NDArray[np.float64], spread: float
) -> tuple[NDArray[np.float64], float]:
    """Return a spectrum on the log-lambda grid at one resolving power, and that power.

    It is the models', or the lowest of the spectrum over its good pixels where that is lower, once the grid has
    broadened it; pixels that are sharper are convolved with the Gaussian that is missing. Bad pixels have no weight,
    and fluxes stay where they have none. Noise is correlated by it; inverse variances are unchanged, so that a fit has
    the information that there was.

    Args:
        flux: ``(native,)`` on ``LOG_LAMBDA``.
        ivar: 0 at bad pixels.
        power: resolving power at each pixel, before it was put on the grid.
        spread: variance (squared pixels of the grid) by which that broadened it: 1/12 where pixels were averaged over
            those of the grid, t (1 - t) D^2 of linear interpolation at phase t between pixels D apart.

    Example:
        >>> line = np.zeros(LOG_LAMBDA.count)
        >>> line[900] = 1.0
        >>> broad, power = match_resolution(line, np.ones(LOG_LAMBDA.count), np.full(LOG_LAMBDA.count, 1e4), 0.0)
        >>> power, round(float((broad > broad.max() / 2).sum() * LOG_LAMBDA.step * np.log(10)), 4)
        (1800.0, 0.0007)
    """
    good = ivar > 0
    if not good.any():
        return flux, MODEL_RESOLUTION
    power = broadened(power, spread)
    target = min(MODEL_RESOLUTION, float(power[good].min()))
    return to_resolution(flux, ivar, power, target), target


def to_resolution(
    flux: NDArray[np.float64],
    ivar: NDArray[np.float64],
    power: NDArray[np.float64],
    target: float,
) -> NDArray[np.float64]:
    """Return fluxes on the log-lambda grid convolved from a resolving power at each pixel to a lower one.

    Args:
        flux: ``(native,)``.
        ivar: 0 at bad pixels, which have no weight.
        power: at each pixel.
        target: of the result; pixels that are not above it are unchanged.

    Example:
        >>> flat = np.ones(LOG_LAMBDA.count)
        >>> bool(np.allclose(to_resolution(flat, flat, 2000 * flat, 1000.0), 1.0))
        True
    """
    good = ivar > 0
    amount = torch.as_tensor(((target**-2.0 - power**-2.0) / PIXEL**2).clip(min=0.0) / 2)
    weight = torch.as_tensor(good, dtype=torch.float64)
    steps = (amount.max() / FINE_STEP).ceil().clamp_min(1.0)
    both = _repeated(torch.stack([torch.as_tensor(flux) * weight, weight]), amount / steps, steps[None, None])
    broad = torch.where(both[1] > 1e-6, both[0] / both[1].clamp_min(1e-6), torch.as_tensor(flux))
    return np.asarray(broad.numpy())
