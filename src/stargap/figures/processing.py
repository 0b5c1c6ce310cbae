"""How one observed spectrum becomes what is fitted (paper figure 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import LEGEND, MODEL, TRUTH, no_stars, tidy
from stargap.figures.style import new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["processing_figure"]


@plain_style()
def processing_figure(
    wavelength: ArrayLike,
    flux: ArrayLike,
    sigma: ArrayLike,
    continuum: ArrayLike,
    good: ArrayLike,
    *,
    title: str = "",
) -> Figure:
    """Draw a spectrum with its pseudo-continuum, its error, and both after division (paper figure 5).

    Pixels that a fit does not use are shaded: excluded windows and bad pixels. Errors are drawn where they are used.

    Args:
        wavelength: rest frame (A), ``(pixel,)`` as all others.
        flux: normalised, of `stargap.spectra.prepare.Prepared`.
        sigma: its error.
        continuum: pseudo-continuum; flux times it is the observed flux.
        good: pixels that a fit uses.
        title: above the figure.
    """
    wave, normal, error, smooth = (np.asarray(values, dtype=float) for values in (wavelength, flux, sigma, continuum))
    used = np.asarray(good, dtype=bool)
    smooth = np.where(smooth > 0, smooth, np.nan)
    rows = {
        "flux\n(scaled)": normal * smooth,
        "flux error\n(scaled)": np.where(used, error * smooth, np.nan),
        "normalised\nflux": np.where(np.isfinite(smooth), normal, np.nan),
        "normalised\nerror": np.where(used, error, np.nan),
    }
    figure = new_figure(8, 6.4, title=title)
    panels = figure.subplots(4, 1, sharex=True, height_ratios=[1.6, 0.8, 1.6, 0.8])
    for number, (axis, (name, values)) in enumerate(zip(panels, rows.items(), strict=True)):
        axis.plot(wave, values, color=TRUTH, lw=0.7, label="observed")
        axis.fill_between(wave, 0, 1, where=~used, transform=axis.get_xaxis_transform(), color="0.85", lw=0, step="mid")
        finite = values[np.isfinite(values)]
        if number == 0:
            axis.plot(wave, smooth, color=MODEL, lw=1.4, label="pseudo-continuum")
            axis.legend(**LEGEND | {"loc": "upper left"}, ncols=2)
        if finite.size:
            low, high = np.percentile(finite, [0.2, 99.8])
            height = max(high - low, 1e-12)
            axis.set_ylim(0.0 if number % 2 else low - 0.1 * height, high + 0.3 * height)
        else:
            no_stars(axis, "no pixels")
        axis.set_ylabel(name, fontsize=9)
        tidy(axis)
    if wave.size:
        panels[-1].set_xlim(wave[0], wave[-1])
    panels[-1].set_xlabel("rest-frame wavelength (Å, vacuum)")
    return figure
