"""Resolving powers: of instruments by name, and from what files say of their lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.pixels import MODEL_RESOLUTION

__all__ = [
    "FWHM_PER_SIGMA",
    "INSTRUMENTS",
    "Power",
    "from_fwhm",
    "from_pixel_sigma",
    "from_resolution_matrix",
    "instrument_resolution",
    "over",
]

FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))
LOWEST = 300.0
"""Resolving power below which a number is not one."""
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
