"""Line-spread function: a Gaussian of constant resolving power."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError

__all__ = ["broaden_constant_resolution"]

FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))
REACH = 6.0
"""The kernel ends at this many sigma; 2e-9 of its weight lies beyond."""
STEPS_PER_SIGMA = 8
"""An uneven spectrum is rebinned to a uniform grid with this many pixels per sigma."""
NODES = 6
"""The Lagrange interpolation between uniform pixels takes this many of them."""
MOST_PIXELS = 2**25
"""The uniform grid has at most this many pixels."""
EVEN = 0.01
"""A spectrum is taken as uniform where no pixel is further than this from its place on a uniform grid (pixels)."""


def broaden_constant_resolution(
    wavelength: ArrayLike,
    flux: ArrayLike,
    resolution: float,
    *,
    source_resolution: float = np.inf,
    at: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return `flux` as a spectrograph of constant resolving power would record it.

    The kernel is a Gaussian in ln(lambda) with FWHM^2 = 1 / R^2 - 1 / R_source^2. On a log-uniform grid the
    samples are convolved directly. Another spectrum is taken as straight lines between its pixels,
    averaged over log-uniform pixels of sigma / 8 (this conserves flux, and their width is taken off the
    kernel), convolved and interpolated. The kernel has no weight beyond the ends of the spectrum and is
    renormalised there: a constant stays constant, and pixels within 1.3 FWHM of an end lean on one side.

    Args:
        wavelength: ``(pixel,)``, increasing (A).
        flux: ``(pixel,)`` or ``(spectrum, pixel)``, finite, any unit per Angstrom.
        resolution: R = lambda / FWHM of the result.
        source_resolution: R of the input; infinite where it is not known to matter.
        at: wavelengths of the result (A), inside the input's range; those of the input when not given.

    Returns:
        ``(pixel,)`` or ``(spectrum, pixel)`` with the pixels of `at`, in the input's precision.

    Raises:
        UsageError: R is not below the source's, wavelengths do not increase or do not fit the flux, the flux
            is not finite, or `at` leaves the input's range.

    Example:
        >>> wavelength = 6000 * np.exp(4e-5 * np.arange(1001))
        >>> line = np.zeros(1001)
        >>> line[500] = 1.0
        >>> broad = broaden_constant_resolution(wavelength, line, 2000)
        >>> fwhm = np.sum(broad > broad.max() / 2) * 4e-5
        >>> print(f"{broad.sum():.4f} {1 / fwhm:.0f}")
        1.0000 1923
    """
    wave, spectra = _checked(wavelength, flux)
    if wave[0] <= 0:
        msg = f"wavelengths must be positive for a constant resolution, the first is {wave[0]:g}"
        raise UsageError(msg)
    if not (0 < resolution < np.inf) or not resolution < source_resolution:
        msg = (
            f"cannot bring a spectrum of resolution {source_resolution:g} to {resolution:g}: "
            "give a resolution above zero and below the source's"
        )
        raise UsageError(msg)
    sigma = np.sqrt(resolution**-2.0 - source_resolution**-2.0) / FWHM_PER_SIGMA
    target = None if at is None else np.log(np.asarray(at, dtype=np.float64))
    return _broaden(np.log(wave), spectra, sigma, target)


def _checked(wavelength: ArrayLike, flux: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    wave, spectra = np.asarray(wavelength, dtype=np.float64), np.asarray(flux)
    if wave.ndim != 1 or wave.size < 2 or spectra.ndim not in (1, 2) or spectra.shape[-1] != wave.size:
        msg = (
            "flux must be (pixel,) or (spectrum, pixel) and wavelength (pixel,) with two pixels or more, "
            f"not {spectra.shape} and {wave.shape}"
        )
        raise UsageError(msg)
    if not np.isfinite(wave).all() or (bad := np.flatnonzero(np.diff(wave) <= 0)).size:
        where = (
            "one is not finite" if not np.isfinite(wave).all() else f"{bad.size} do not, first at pixel {bad[0] + 1}"
        )
        msg = f"wavelengths must increase: {where}"
        raise UsageError(msg)
    if spectra.dtype not in (np.float32, np.float64):
        spectra = spectra.astype(np.float64)
    if not (finite := np.isfinite(spectra)).all():
        msg = f"flux must be finite: {np.sum(~finite)} of {finite.size} values are not"
        raise UsageError(msg)
    return wave, spectra


def _broaden(
    x: NDArray[np.float64], spectra: NDArray[Any], sigma: float, target: NDArray[np.float64] | None
) -> NDArray[Any]:
    """Convolve over the coordinate `x`; row by row, so that a result does not depend on its neighbours."""
    if target is not None and not (target.size and target.min() >= x[0] and target.max() <= x[-1]):
        msg = "the wavelengths of the result must lie inside those of the spectrum"
        raise UsageError(msg)
    step = (x[-1] - x[0]) / (x.size - 1)
    even = bool(np.abs(x - np.linspace(x[0], x[-1], x.size)).max() < EVEN * step)
    if even:
        start, variance = x[0], (sigma / step) ** 2
        count = x.size
    else:
        count = max(NODES, int(np.ceil((x[-1] - x[0]) * STEPS_PER_SIGMA / sigma)))
        if count > MOST_PIXELS:
            msg = f"so narrow a kernel would take {count} pixels: cut the wavelength range, or broaden more"
            raise UsageError(msg)
        step = (x[-1] - x[0]) / count
        edges = np.linspace(x[0], x[-1], count + 1)
        start, variance = x[0] + step / 2, (sigma / step) ** 2 - 1 / 12
        target = x if target is None else target
    kernel = _kernel(variance)
    weight = _convolve(np.ones(count), kernel)
    rows = np.atleast_2d(spectra)
    result = np.empty((len(rows), x.size if target is None else target.size), dtype=spectra.dtype)
    for row, out in zip(rows, result, strict=True):
        values = row.astype(np.float64) if even else np.diff(_integral(edges, x, row.astype(np.float64))) / step
        smooth = _convolve(values, kernel) / weight
        out[:] = smooth if target is None else _interpolate(smooth, (target - start) / step)
    return result.reshape(*spectra.shape[:-1], result.shape[-1])


def _kernel(variance: float) -> NDArray[np.float64]:
    """Gaussian weights at whole pixels (variance in pixels^2); three of that variance if it is unresolved."""
    if variance < 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2])
    reach = int(np.ceil(REACH * np.sqrt(variance)))
    weights: NDArray[np.float64] = np.exp(-0.5 * np.arange(-reach, reach + 1) ** 2 / variance)
    return np.asarray(weights / weights.sum())


def _convolve(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = len(kernel) // 2
    return np.convolve(values, kernel)[reach : reach + len(values)]


def _integral(edges: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from ``x[0]`` to each edge of the straight lines through ``(x, y)``."""
    width = np.diff(x)
    total = np.concatenate(([0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * width)))
    left = np.clip(np.searchsorted(x, edges, side="right") - 1, 0, x.size - 2)
    d = edges - x[left]
    return total[left] + d * (y[left] + 0.5 * d * (y[left + 1] - y[left]) / width[left])


def _interpolate(values: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lagrange polynomial through the pixels around each `position` (in pixels)."""
    nodes = min(NODES, len(values))
    first = np.clip(np.floor(position).astype(np.intp) - (nodes - 1) // 2, 0, len(values) - nodes)
    t = position - first
    result = np.zeros_like(position)
    for j in range(nodes):
        weight = np.ones_like(position)
        for k in range(nodes):
            if k != j:
                weight *= (t - k) / (j - k)
        result += weight * values[first + j]
    return result
