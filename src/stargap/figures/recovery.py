"""Recovered minus true against S/N, for simulated stars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["recovery_figure"]

PANELS = (("rv", "RV (km/s)"), ("teff", "Teff (K)"), ("logg", "log g (dex)"), ("m_h", "[M/H] (dex)"))


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS, strict=True):
        true = rv if name == "rv" else labels[:, LABELS.index(name)]
        delta = np.asarray(columns[name], dtype=float) - true
        error = np.asarray(columns[f"e_{name}"], dtype=float)
        axis.errorbar(snr, delta, error, fmt="o", ms=2.5, lw=0.6, color="#0072b2", ecolor="0.75")
        axis.axhline(0, color="#d55e00", lw=1)
        axis.set_xscale("log")
        shown = np.abs(delta[np.isfinite(delta)])
        limit = 1.2 * np.percentile(shown, 98) if shown.size else 1.0
        axis.set_ylim(-limit, limit)
        axis.set_ylabel(f"Δ {title}")
        axis.tick_params(direction="in", top=True, right=True)
    for axis in figure.axes[2:]:
        axis.set_xlabel("S/N per pixel")
    figure.suptitle("Simulated stars: recovered minus true", fontsize=10)
    return figure
