"""The two pixel grids (log-lambda of observed spectra, rest-frame 1 A of prepared ones) and the excluded windows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLUE",
    "BLUE_KEPT",
    "BLUE_WAVELENGTH",
    "LOG_LAMBDA",
    "MODEL_RESOLUTION",
    "PAPER",
    "STARGAP",
    "WINDOWS",
    "LogLambdaGrid",
    "PixelGrid",
    "Preset",
    "Window",
    "air_to_vacuum",
    "grid_for",
    "SPEED_OF_LIGHT",
]

SPEED_OF_LIGHT = 299792.458
"""Speed of light in vacuum (km/s)."""

Preset = Literal["stargap", "paper"]
Wavelength = TypeVar("Wavelength", float, NDArray[np.float64])


@dataclass(frozen=True)
class Window:
    """A wavelength range (A, vacuum) that a fit leaves out, and the frame in which its cause stands still."""

    low: float
    high: float
    frame: Literal["rest", "observed"]
    cause: str


WINDOWS = (
    Window(6270.0, 6330.0, "observed", "telluric O2 and sky [O I]"),
    Window(6546.0, 6586.0, "rest", "H-alpha"),
    Window(6700.0, 6725.0, "rest", "Li I and [S II]"),
    Window(6850.0, 6885.0, "observed", "telluric B band"),
    Window(7150.0, 7350.0, "observed", "telluric H2O"),
    Window(7587.0, 7687.0, "observed", "telluric A band"),
    Window(8100.0, 8240.0, "observed", "telluric H2O"),
)
"""Ranges excluded from fits (paper section 2.4)."""


@dataclass(frozen=True)
class LogLambdaGrid:
    """Native pixels: log10(lambda / A) = ``step * (first + i)``; LAMOST and SDSS spectra lie on it.

    Example:
        >>> LOG_LAMBDA.wavelength[[0, -1]].round(1)
        array([5874.9, 9078.2])
    """

    first: int = 37690
    count: int = 1891
    step: float = 1e-4

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Vacuum wavelengths of the pixel centres (A), shape ``(native,)``."""
        return np.asarray(np.power(10.0, self.step * (self.first + np.arange(self.count)), dtype=np.float64))

    @property
    def ratio(self) -> float:
        """Half-pixel factor: a pixel reaches from ``wavelength / ratio`` to ``wavelength * ratio``."""
        return float(10.0 ** (self.step / 2))

    @property
    def velocity_step(self) -> float:
        """Width of a pixel (km/s)."""
        return float(SPEED_OF_LIGHT * (10.0**self.step - 1.0))


LOG_LAMBDA = LogLambdaGrid()
BLUE = LogLambdaGrid(first=36842, count=LOG_LAMBDA.first - 36842)
"""Native pixels blueward of that grid, 4833 to 5874 A."""
BLUE_KEPT = np.r_[0:54, 677:708, 837:848]
"""The 96 of them that batches and stores keep: 4833-4892 A, H-beta with its continuum, 5649-5686 A, the continuum of
features 3 to 5 of Mann et al. (2013), and 5859-5874 A, which He I D3 needs beside the grid; all at any velocity to
600 km/s."""
BLUE_WAVELENGTH = BLUE.wavelength[BLUE_KEPT]
"""Vacuum wavelengths of their centres (A), shape ``(blue,)``."""
MODEL_RESOLUTION = 1800.0
"""Resolving power lambda / FWHM of models: that of LAMOST."""


@dataclass(frozen=True)
class PixelGrid:
    """The rest-frame grid of prepared spectra and how they are normalised on it (METHOD: paper section 2.4).

    The two instances are the presets. ``PAPER`` does what the paper did; ``STARGAP`` gives the pseudo-continuum
    support beyond both ends, keeps excluded windows out of the smoother, holds telluric windows in the observed
    frame, normalises the model with the star's own weights, and takes label errors from the native pixels.

    Example:
        >>> STARGAP.wavelength.size, PAPER.support.size, STARGAP.support[[0, -1]]
        (2901, 2901, array([5910., 8990.]))
    """

    name: Preset
    start: float = 6000.0
    stop: float = 8900.0
    step: float = 1.0
    margin: float = 90.0
    """How far the smoother sees beyond both ends (A)."""
    smoothing: float = 30.0
    """Standard deviation of the Gaussian pseudo-continuum (A)."""
    windows: tuple[Window, ...] = WINDOWS
    windows_follow_star: bool = False
    """Shift every window with the star (the paper), or only those of the rest frame."""
    windows_in_smoother: bool = False
    """Whether excluded pixels still count in the pseudo-continuum."""
    model_sees_weights: bool = True
    """Whether models are normalised with the star's own weights and resampling."""
    native_errors: bool = True
    """Errors from the covariance of native pixels; otherwise errors are interpolated like fluxes."""
    least_kernel_weight: float = 0.1
    """A pixel is dropped where good pixels hold less than this fraction of the smoothing kernel."""

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Rest-frame vacuum wavelengths (A), shape ``(pixel,)``."""
        return self._range(0.0)

    @property
    def support(self) -> NDArray[np.float64]:
        """The same grid with its margins, shape ``(support,)``: what the smoother and the emulator cover."""
        return self._range(self.margin)

    @property
    def inner(self) -> slice:
        """Where ``wavelength`` lies in ``support``."""
        extra = round(self.margin / self.step)
        return slice(extra, extra + self.wavelength.size)

    def _range(self, margin: float) -> NDArray[np.float64]:
        count = round((self.stop - self.start + 2 * margin) / self.step) + 1
        return np.asarray(self.start - margin + self.step * np.arange(count), dtype=np.float64)

    def window_mask(self, wavelength: NDArray[np.float64], frame: Literal["rest", "observed"]) -> NDArray[np.bool_]:
        """True inside the windows that stand still in `frame`; same shape as `wavelength` (A)."""
        mask = np.zeros(np.shape(wavelength), dtype=bool)
        for window in self.windows:
            if frame == ("rest" if self.windows_follow_star else window.frame):
                mask |= (wavelength >= window.low) & (wavelength <= window.high)
        return mask

    @property
    def digest(self) -> str:
        """Short hash of everything above, stored in every product."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


STARGAP = PixelGrid("stargap")
PAPER = PixelGrid(
    "paper",
    margin=0.0,
    windows_follow_star=True,
    windows_in_smoother=True,
    model_sees_weights=False,
    native_errors=False,
)


def grid_for(preset: Preset) -> PixelGrid:
    """Return the pixel grid of a preset.

    Example:
        >>> grid_for("paper").name
        'paper'
    """
    return {"stargap": STARGAP, "paper": PAPER}[preset]


def air_to_vacuum(air: Wavelength) -> Wavelength:
    """Return vacuum wavelengths (A) of those in air (A), numbers or arrays: the inverse of Birch & Downs (VALD3 form).

    Example:
        >>> round(air_to_vacuum(6562.801), 2)
        6564.61
    """
    s2 = (1e4 / air) ** 2
    n = 1 + 8.336624212083e-5 + 2.408926869968e-2 / (130.1065924522 - s2) + 1.599740894897e-4 / (38.92568793293 - s2)
    return air * n
