"""Recovered minus true against S/N, for simulated stars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.figures.panels import DATA, MODEL, TITLES, no_stars, tidy
from stargap.figures.style import new_figure, plain_style
from stargap.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["recovery_figure"]


@plain_style()
def recovery_figure(
    columns: Mapping[str, Any], labels: NDArray[np.float64], rv: NDArray[np.float64], snr: NDArray[np.float64]
) -> Figure:
    """Draw recovered minus true of velocity and labels against S/N, with the quoted errors.

    Args:
        columns: measured columns, arrays ``(star,)``.
        labels: true labels ``(star, 4)``.
        rv: true velocities (km/s), ``(star,)``.
        snr: S/N per pixel, ``(star,)``.
    """
    figure = new_figure(10, 6, title="Simulated stars: recovered minus true")
    for axis, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, TITLES.items(), strict=True):
        true = rv if name == "rv" else labels[:, LABELS.index(name)]
        delta = np.asarray(columns[name], dtype=float) - true
        shown = np.isfinite(delta) & (snr > 0)
        axis.set_ylabel(f"Δ {title}")
        tidy(axis)
        if not shown.any():
            no_stars(axis)
            continue
        error = np.asarray(columns[f"e_{name}"], dtype=float)
        axis.errorbar(
            snr[shown], delta[shown], error[shown], fmt="o", ms=2.5, lw=0.6, color=DATA, ecolor="0.75", rasterized=True
        )
        axis.axhline(0, color=MODEL, lw=1)
        axis.set_xscale("log")
        limit = 1.2 * float(np.percentile(np.abs(delta[shown]), 98)) or 1.0
        axis.set_ylim(-limit, limit)
    for axis in figure.axes[2:]:
        axis.set_xlabel("S/N per pixel")
    return figure
