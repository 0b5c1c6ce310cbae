"""One observed spectrum as a reader returns it, with the facts of its header."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Facts", "Spectrum"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file says about its spectrum; None where it does not say or holds a sentinel such as -9999."""

    path: str = ""
    layout: str = ""
    """Structure of the file, as its reader names it, such as ``lamost-image``, ``sdss`` or ``table``; ``arrays`` of
    arrays. Spectra of layouts that begin with ``lamost`` are measured with LAMOST's noise factor and velocity floor."""
    release: str | None = None
    obsid: int | None = None
    target_id: int | None = None
    """Identifier of the star in its survey: sdss_id or catalogid of SDSS-V, TARGETID of DESI."""
    designation: str | None = None
    ra: float | None = None
    dec: float | None = None
    """Position (deg, FK5/ICRS)."""
    snr_u: float | None = None
    snr_g: float | None = None
    snr_r: float | None = None
    snr_i: float | None = None
    snr_z: float | None = None
    """Median S/N per pixel in each band."""
    snr_source: str | None = None
    """``header`` or ``ivar``: where the S/N comes from."""
    subclass: str | None = None
    object_class: str | None = None
    plan_id: str | None = None
    lmjd: int | None = None
    spectrograph: int | None = None
    fiber: int | None = None
    date_obs: str | None = None
    exposure: float | None = None
    """Exposure time (s)."""
    fiber_mask: int | None = None
    pipeline_z: float | None = None
    """The pipeline's redshift: kept for the record, never used as a velocity."""
    helio_rv: float | None = None
    """Heliocentric correction already applied by the pipeline (km/s)."""
    frame: str | None = None
    """None where wavelengths are heliocentric; ``rest`` where the star's unknown velocity was taken out."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Vacuum, heliocentric wavelengths (A, strictly increasing), flux and inverse variance; all ``(pixel,)`` float64.

    ``ivar`` is 0 at every pixel that must not be used: masks, non-finite values and negative variances are
    already folded in, and flux is finite everywhere.
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    facts: Facts = field(default_factory=Facts)
    resolution: NDArray[np.float64] | None = None
    """Resolving power lambda / FWHM at each pixel, ``(pixel,)``; None where it is the models' (LAMOST's 1800)."""

    def to_specutils(self) -> Any:
        """Return it as a ``specutils.Spectrum`` (`stargap.spectra.exchange.to_specutils`).

        Raises:
            UsageError: specutils is not installed.
        """
        from stargap.spectra.exchange import to_specutils

        return to_specutils(self)
