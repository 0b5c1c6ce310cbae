"""Scatter of repeated observations against S/N (paper figure 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stargap.figures.panels import MODEL, TITLES, TRUTH, Array, no_stars, note, tidy
from stargap.figures.style import new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RepeatScatter", "precision_figure"]


class RepeatScatter(NamedTuple):
    """Scatter of repeats of one quantity in bins of S/N, and the curve a / (S/N) + b through it.

    ``snr, scatter, error`` are ``(bin,)``: median S/N, scatter of one spectrum and its standard error, in the unit of
    the quantity; ``a`` and ``b`` are None where too few repeats allow no curve.
    """

    snr: Array
    scatter: Array
    error: Array
    a: float | None = None
    b: float | None = None
    stars: int = 0
    repeats: int = 0


@plain_style()
def precision_figure(measured: Mapping[str, RepeatScatter], *, title: str = "") -> Figure:
    """Draw the scatter of repeats in bins of S/N, and the curve a / (S/N) + b (paper figure 10).

    Args:
        measured: by quantity (rv, teff, logg, m_h); see `stargap.catalogue.repeat_scatter`.
        title: above the figure.
    """
    figure = new_figure(9, 6, title=title)
    for axis, (name, label) in zip(figure.subplots(2, 2).flat, TITLES.items(), strict=True):
        tidy(axis)
        axis.set_xlabel("S/N per pixel in r")
        axis.set_ylabel(f"scatter of {label}")
        points = measured.get(name)
        if points is None or not points.snr.size:
            no_stars(axis)
            continue
        snr, scatter, error = points.snr, points.scatter, points.error
        axis.errorbar(snr, scatter, error, fmt="o", ms=4, lw=0.9, color=TRUTH, zorder=3)
        axis.set_xlim(0.0, 1.04 * snr.max())
        axis.set_ylim(0.0, max(1.08 * float((scatter + error).max()), 1e-9))
        if points.a is None or points.b is None:
            note(axis, "no curve: too few repeats")
            continue
        x = np.linspace(min(5.0, float(snr.min())), 1.04 * snr.max(), 300)
        axis.plot(x, points.a / x + points.b, color=MODEL, ls="--", lw=1.5)
        axis.text(
            0.97,
            0.95,
            f"{points.a:.3g} / (S/N) + {points.b:.2g}\n{points.repeats:,} repeats of {points.stars:,} stars",
            transform=axis.transAxes,
            ha="right",
            va="top",
            fontsize=9,
        )
    return figure
