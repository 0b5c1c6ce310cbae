"""Spectrographs that a simulated survey can be observed with: pixels, line spread, flux calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stargap.mock.nature import sharp_nature, shipped_nature
from stargap.spectra.resolution import INSTRUMENTS
from stargap.theory.emulator import Emulator

__all__ = [
    "DESI_ARMS",
    "FIBRES",
    "SPECTROGRAPHS",
    "SPECTROGRAPHS_BY_NAME",
    "Instrument",
    "Spectrograph",
    "desi_arm",
    "lamost_power",
    "mock_wavelength",
]

Instrument = Literal["lamost", "desi", "sdss-v"]
SPECTROGRAPHS, FIBRES = 16, 250
DESI_ARMS: Final = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}
"""First and last wavelength (A) of the arms of DESI's files, whose pixels are 0.8 A wide and lie on one grid."""
Power = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Spectrograph:
    """What a simulated observation depends on.

    ``wavelength (native,)`` are the pixels of its files (A, vacuum, heliocentric); ``power`` gives the resolving power
    ``(star, pixel)`` of spectrograph and fibre numbers ``(star,)`` at wavelengths; ``nature`` the stars, sharper than
    that. ``calibration`` is the relative scatter of the flux calibration, common to a spectrograph and of each fibre.
    """

    wavelength: NDArray[np.float64]
    power: Power
    nature: Callable[[], Emulator]
    calibration: tuple[float, float]

    @property
    def resolution(self) -> float:
        """Mean resolving power at 7500 A, to ten.

        Example:
            >>> [round(one.resolution) for one in SPECTROGRAPHS_BY_NAME.values()]
            [1780, 4150, 2250]
        """
        number = np.repeat(np.arange(1, SPECTROGRAPHS + 1), FIBRES)
        fibre = np.tile(np.arange(1, FIBRES + 1), SPECTROGRAPHS)
        return float(np.round(self.power(number, fibre, np.array([7500.0])).mean(), -1))


def mock_wavelength(count: int = 3909) -> NDArray[np.float64]:
    """Return LAMOST's native wavelengths (A): 10**(3.5682 + 1e-4 i).

    Example:
        >>> mock_wavelength()[[0, -1]].round(1)
        array([3700. , 9099.1])
    """
    return np.asarray(np.power(10.0, 3.5682 + 1e-4 * np.arange(count), dtype=np.float64))


def desi_arm(arm: str) -> NDArray[np.float64]:
    """Return the wavelengths (A) of an arm of DESI's files.

    Example:
        >>> desi_arm("R")[[0, 1, -1]], desi_arm("Z").size
        (array([5760. , 5760.8, 7620. ]), 2881)
    """
    low, high = DESI_ARMS[arm]
    return np.asarray(np.round(low + 0.8 * np.arange(round((high - low) / 0.8) + 1), 1))


def lamost_power(
    spectrograph: NDArray[np.int64], fibre: NDArray[np.int64], wavelength: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Resolving power of a fibre: about 1800, better in the middle of the slit, with each spectrograph's own slope."""
    own = np.random.default_rng(20).normal(0.0, 1.0, (SPECTROGRAPHS, 2))[spectrograph - 1]
    across = (fibre - 125.5) / 124.5
    x = (wavelength - 7500.0) / 1500.0
    shape = np.broadcast_shapes(own[:, 0].shape + (1,) * wavelength.ndim, wavelength.shape)
    level, tilt, bend = (
        value.reshape(-1, *(1,) * wavelength.ndim)
        for value in (1800.0 + 70.0 * own[:, 0], 60.0 * own[:, 1], 120.0 * (0.33 - across**2))
    )
    return np.broadcast_to(level + bend + (120.0 + tilt) * x, shape).clip(1500.0, 2150.0)


def _about(name: str, scatter: float) -> Power:
    """Return the resolving power of an instrument, each fibre's sharper or less sharp by a factor of its own."""

    def power(
        spectrograph: NDArray[np.int64], fibre: NDArray[np.int64], wavelength: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        factors = 1.0 + scatter * np.random.default_rng(23).uniform(-1.0, 1.0, (SPECTROGRAPHS, FIBRES))
        own = factors[spectrograph - 1, fibre - 1].reshape(-1, *(1,) * wavelength.ndim)
        return np.asarray(own * INSTRUMENTS[name](wavelength))

    return power


SPECTROGRAPHS_BY_NAME: Final[dict[Instrument, Spectrograph]] = {
    "lamost": Spectrograph(mock_wavelength(), lamost_power, shipped_nature, (0.06, 0.03)),
    "desi": Spectrograph(
        np.unique(np.concatenate([desi_arm(arm) for arm in DESI_ARMS])),
        _about("desi", 0.04),
        sharp_nature,
        (0.02, 0.02),
    ),
    "sdss-v": Spectrograph(
        np.asarray(np.power(10.0, 3.5523 + 1e-4 * np.arange(4648), dtype=np.float64)),
        _about("boss", 0.08),
        sharp_nature,
        (0.03, 0.03),
    ),
}
"""LAMOST's low-resolution spectrographs, DESI's (resolving power in `stargap.spectra.linespread.INSTRUMENTS`, within
4 % of it in each fibre; flux calibration after DESI Collaboration 2022, AJ 164, 207) and the BOSS spectrographs of
SDSS-V (within 8 %; Smee et al. 2013), whose files do not say the resolving power of a fibre."""
