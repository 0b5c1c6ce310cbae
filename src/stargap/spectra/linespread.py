"""Line-spread functions: resolving powers of instruments, and spectra brought to one that the models have too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stargap.arrays import PerStar, SupportSpectra
from stargap.errors import UsageError
from stargap.pixels import LOG_LAMBDA, MODEL_RESOLUTION, PixelGrid

__all__ = [
    "AT_ONCE",
    "INSTRUMENTS",
    "Power",
    "blur",
    "from_fwhm",
    "from_pixel_sigma",
    "from_resolution_matrix",
    "instrument_resolution",
    "match_resolution",
    "missing_blur",
    "missing_native_blur",
    "over",
    "to_resolution",
]

FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))
PIXEL = float(FWHM_PER_SIGMA * LOG_LAMBDA.step * np.log(10.0))
"""FWHM over wavelength of a Gaussian whose sigma is a pixel of the log-lambda grid."""
FINE = 0.6
"""Spectra whose pixels are narrower than this many of the log-lambda grid are averaged over its pixels."""
LEAST_GOOD = 0.5
"""Fraction of an averaged pixel that good pixels must cover."""
LOWEST = 300.0
"""Resolving power below which a number is not one."""


AT_ONCE = 0.6
"""The largest amount that `blur` takes in one step: linear resampling stays below it."""
STEP = 0.25
"""The largest amount of one of several steps."""
FINE_STEP = 0.1
"""The same for data, whose lines are narrower than those of models."""
Power = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A resolving power as a function of wavelength (A)."""


def _table(*points: tuple[float, float]) -> Power:
    wave, power = np.array(points).T
    return lambda wavelength: np.asarray(np.interp(wavelength, wave, power))


INSTRUMENTS: dict[str, Power] = {
    "lamost": _table((6000.0, MODEL_RESOLUTION), (9000.0, MODEL_RESOLUTION)),
    "lamost-mrs": _table((6000.0, 7500.0), (9000.0, 7500.0)),
    "sdss": _table((6000.0, 1850.0), (9000.0, 2200.0)),
    "boss": _table((6000.0, 1850.0), (9000.0, 2650.0)),
    "desi": _table((5760.0, 3200.0), (7600.0, 4200.0), (7600.1, 4100.0), (9800.0, 5100.0)),
    "miles": lambda wavelength: from_fwhm(wavelength, 2.5),
    "stelib": lambda wavelength: from_fwhm(wavelength, 3.0),
    "x-shooter": _table((5500.0, 7000.0), (10200.0, 7000.0)),
    "kast-red": _table((5800.0, 1500.0), (9300.0, 1900.0)),
}
"""Resolving powers lambda / FWHM over wavelength (A): LAMOST (Cui et al. 2012; R = 1800), its medium resolution
(Liu et al. 2020), the SDSS and BOSS red cameras (Smee et al. 2013), DESI (DESI Collaboration 2022), MILES
(Falcon-Barroso et al. 2011) and STELIB (Le Borgne et al. 2003), both of one FWHM in A."""


def instrument_resolution(
    wavelength: ArrayLike, instrument: str | float | Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """Return the resolving power at each wavelength.

    Args:
        wavelength: ``(pixel,)``, A.
        instrument: a name of `INSTRUMENTS`, a number (also as text), or pairs of wavelength (A) and resolving power.

    Raises:
        UsageError: another name, or numbers that are no resolving powers.

    Example:
        >>> instrument_resolution([6000.0, 8000.0], [(6000, 1000), (9000, 1300)])
        array([1000., 1200.])
    """
    wave = np.asarray(wavelength, dtype=float)
    if isinstance(instrument, str) and not instrument.strip().isdecimal():
        found = INSTRUMENTS.get(instrument.strip().lower())
        if found is None:
            message = f"no instrument {instrument!r}: known are {', '.join(INSTRUMENTS)}; or give a resolving power"
            raise UsageError(message)
        return np.asarray(found(wave))
    try:
        points = np.atleast_2d(np.asarray(instrument, dtype=float))
        power = np.full(wave.shape, points[0, 0]) if points.size == 1 else np.interp(wave, *points.T)
    except (TypeError, ValueError):
        power = np.array([np.nan])
    if not (np.isfinite(power).all() and (power >= LOWEST).all()):
        message = f"a resolving power is {LOWEST:.0f} or more, or pairs of wavelength and such numbers: {instrument!r}"
        raise UsageError(message)
    return np.asarray(power)


def over(wavelength: ArrayLike, power: ArrayLike) -> Power | None:
    """Return the function that goes through a resolving power at each pixel; None where none of them is a number.

    Example:
        >>> over([7000.0, 6000.0, 6500.0], [2000.0, 1000.0, np.nan])(np.array([6500.0]))
        array([1500.])
    """
    wave, values = np.asarray(wavelength, dtype=float).ravel(), np.asarray(power, dtype=float).ravel()
    known = np.isfinite(wave) & np.isfinite(values) & (values > 0)
    if not known.any():
        return None
    order = np.argsort(wave[known], kind="stable")
    return _table(*zip(wave[known][order].tolist(), values[known][order].tolist(), strict=True))


def from_fwhm(wavelength: NDArray[np.float64], fwhm: float) -> NDArray[np.float64]:
    """Return the resolving power of a constant FWHM (A).

    Example:
        >>> from_fwhm(np.array([7500.0]), 2.5)
        array([3000.])
    """
    return np.asarray(wavelength / fwhm)


def from_pixel_sigma(sigma: NDArray[np.float64], step: float = 1e-4) -> NDArray[np.float64]:
    """Return the resolving power where the Gaussian's sigma is given in pixels of `step` dex, as SDSS's wdisp is.

    Example:
        >>> from_pixel_sigma(np.array([1.0, 0.0])).round()
        array([1844.,   nan])
    """
    width = FWHM_PER_SIGMA * np.asarray(sigma, dtype=float) * step * np.log(10.0)
    return np.asarray(np.divide(1.0, width, out=np.full(width.shape, np.nan), where=np.isfinite(width) & (width > 0)))


def from_resolution_matrix(bands: NDArray[np.float64], wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the resolving power from DESI's resolution matrix: the spread of the diagonals of each pixel.

    Args:
        bands: ``(diagonal, pixel)``, in the order of falling offset, as the files have them.
        wavelength: ``(pixel,)``, A, evenly spaced.

    Returns:
        ``(pixel,)``, NaN where the matrix has no weight.

    Example:
        >>> kernel = np.exp(-0.5 * (np.arange(5, -6, -1) / 1.0) ** 2)
        >>> from_resolution_matrix(np.repeat(kernel[:, None], 3, axis=1), 7000 + 0.8 * np.arange(3)).round()
        array([3716., 3716., 3717.])
    """
    offset = np.arange(len(bands), dtype=float)[:, None] - (len(bands) - 1) / 2
    total = bands.sum(axis=0)
    weight = np.divide(bands, total, out=np.zeros(bands.shape), where=total > 0)
    mean = (weight * offset).sum(axis=0)
    variance = (weight * offset**2).sum(axis=0) - mean**2
    step = np.gradient(wavelength)
    fwhm = FWHM_PER_SIGMA * np.sqrt(variance.clip(min=0)) * step
    known = (fwhm > 0) & (total > 0)
    return np.where(known, wavelength / np.where(known, fwhm, 1.0), np.nan)


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
    power = (power**-2.0 + spread * PIXEL**2) ** -0.5
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
