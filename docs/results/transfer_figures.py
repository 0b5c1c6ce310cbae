"""Figures of docs/results/transfer.md that no command of stargap draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stargap.figures.panels import BOX, DATA, LEGEND, MODEL, TITLES, TRUTH, running_median, tidy
from stargap.figures.style import new_figure, plain_style
from stargap.labels import LABELS, LOGG, M_H, TEFF
from stargap.pixels import WINDOWS
from stargap.statistics import robust_scatter

SPLIT_TITLES = ("ln line width / emulator's", "its change over 1500 Å", "velocity left (km/s)")
Array = NDArray[Any]


@plain_style()
def recovery_by_level_figure(rows: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Draw labels minus truth against truth of simulated stars; a row of panels a label, a column a method or level.

    Args:
        rows: by title, found labels and true labels, ``(star, 4)`` each; NaN is left out.
    """
    figure = new_figure(0.8 + 2.7 * max(len(rows), 1), 6.6)
    places = (TEFF, LOGG, M_H)
    panels = figure.subplots(len(places), max(len(rows), 1), sharex="row", sharey="row", squeeze=False)
    for across, place in zip(panels, places, strict=True):
        deltas = [found[:, place] - truth[:, place] for found, truth in rows.values()]
        shown = np.abs(np.concatenate([np.empty(0), *(delta[np.isfinite(delta)] for delta in deltas)]))
        limit = 1.2 * float(np.percentile(shown, 98)) if shown.size else 1.0
        for axis, title, delta, (_, truth) in zip(across, rows, deltas, rows.values(), strict=False):
            finite = np.isfinite(delta)
            x, y = truth[finite, place], delta[finite]
            axis.plot(x, y, ".", ms=2, color=DATA, alpha=0.4, rasterized=True)
            axis.axhline(0, color="0.6", lw=0.8)
            axis.plot(*running_median(x, y), color=MODEL, lw=1.4)
            middle, spread = (float(np.median(y)) if y.size else np.nan, robust_scatter(y))
            digits = 0 if place == TEFF else 3
            text = f"{middle:+.{digits}f} ± {spread:.{digits}f}"
            axis.text(0.04, 0.95, text, transform=axis.transAxes, va="top", fontsize=8, bbox=BOX)
            if place == TEFF:
                axis.set_title(title, fontsize=9)
            axis.set_xlabel(f"true {TITLES[LABELS[place]]}")
            tidy(axis)
        across[0].set_ylim(-(limit or 1.0), limit or 1.0)
        across[0].set_ylabel(f"Δ {TITLES[LABELS[place]]}")
    figure.suptitle("Simulated stars: found minus true; median ± 1.4826 MAD", fontsize=10)
    return figure


@plain_style()
def correction_figure(wavelength: Array, correction: Array, truth: Array, labels: Array) -> Figure:
    """Draw the learned correction against the true gap at a few labels; excluded windows are shaded.

    Args:
        wavelength: ``(pixel,)``, A.
        correction: c of the transfer, ``(row, pixel)``.
        truth: nature over the emulator, less 1, of normalised spectra of the simulated survey; the same shape.
        labels: ``(row, 4)``.
    """
    figure = new_figure(10, 0.8 + 1.6 * len(labels))
    panels = figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, learned, true, label in zip(panels, correction, truth, labels, strict=True):
        axis.plot(wavelength, 100 * true, color=TRUTH, lw=0.7, label="true")
        axis.plot(wavelength, 100 * learned, color=MODEL, lw=0.8, label="learned")
        for window in WINDOWS:
            axis.axvspan(window.low, window.high, color=DATA, alpha=0.12, lw=0)
        title = f"Teff {label[TEFF]:.0f} K   log g {label[LOGG]:.2f}   [M/H] {label[M_H]:+.2f}"
        axis.set_title(title, fontsize=8, loc="left", pad=3)
        axis.axhline(0, color="0.6", lw=0.6)
        axis.set_xlim(wavelength[0], wavelength[-1])
        tidy(axis)
    panels[0].legend(**LEGEND, ncols=2)
    panels[-1].set_xlabel("rest-frame wavelength (Å, vacuum)")
    figure.supylabel("correction (%)", fontsize=9)
    return figure


@plain_style()
def split_figure(z: Array, truth: Array) -> Figure:
    """Draw z_sp of a residual transfer against the truth of simulated stars, for as many of its numbers as are given.

    Args:
        z: ``(star, k)``, in the order of `stargap.transfer.residual.model.SPLIT`; NaN is left out.
        truth: the same; of the first, ln(1800 / resolution).
    """
    count = truth.shape[1]
    figure = new_figure(0.4 + 3.3 * count, 3.4)
    for number, axis in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        finite = np.isfinite(z[:, number]) & np.isfinite(truth[:, number])
        x, y = truth[finite, number], z[finite, number]
        axis.plot(x, y, ".", ms=2, color=DATA, alpha=0.5, rasterized=True)
        if x.size:
            ends = np.array([x.min(), x.max()])
            axis.plot(ends, ends, color=MODEL, lw=1)
            axis.plot(*running_median(x, y), color=TRUTH, lw=1.2)
        axis.set_title(f"{SPLIT_TITLES[number]}: scatter {robust_scatter(y - x):.3g}", fontsize=8)
        axis.set_xlabel("true")
        tidy(axis)
    figure.axes[0].set_ylabel("found")
    return figure


@plain_style()
def curve_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw labels' bias and scatter, the residual and the cycle errors of a network against its iterations.

    Args:
        rows: judgements of docs/results/make_starnet.py, one per stop.
    """
    figure = new_figure(10, 5.4)
    steps = [row["iterations"] for row in rows]
    panels = figure.subplots(2, 3, sharex=True).ravel()
    for axis, (label, title) in zip(panels, (("teff", "Teff (K)"), ("logg", "log g"), ("m_h", "[M/H]")), strict=False):
        axis.plot(steps, [abs(row[f"{label}_bias"]) for row in rows], "o-", color=DATA, ms=3, label="|bias|")
        axis.plot(steps, [row[f"{label}_scatter"] for row in rows], "o-", color=MODEL, ms=3, label="scatter")
        axis.set_title(title, fontsize=9)
        axis.set_ylim(0)
    panels[0].legend(**LEGEND)
    series = (
        ("residual / true spectrum's", ("residual_ratio",), 1.0),
        ("mean |residual| / σ of cycles", ("abs s->o->s", "abs o->s->o"), 0.0),
        ("label-blind score", ("score",), None),
    )
    for axis, (title, names, least) in zip(panels[3:], series, strict=True):
        for colour, name in zip((MODEL, DATA), names, strict=False):
            axis.plot(steps, [row[name] for row in rows], "o-", color=colour, ms=3, label=name.removeprefix("abs "))
        if len(names) > 1:
            axis.legend(**LEGEND | {"loc": "center right"})
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=least)
        axis.set_xlabel("iterations")
    for axis in panels:
        tidy(axis)
    return figure
