"""Ours against others: Gaia's velocities, literature, APOGEE, other methods, wide binaries (paper figures 4, 14-18)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import (
    COLOURS,
    DENSE,
    DIGITS,
    MODEL,
    TITLES,
    TRUTH,
    Array,
    Limits,
    count_bar,
    difference_text,
    draw_stars,
    finite_rows,
    limits,
    no_stars,
    note,
    running_median,
    set_limits,
    tidy,
)
from stargap.figures.style import new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["apogee_figure", "binaries_figure", "differences_figure", "literature_figure", "velocity_figure"]

LABELS = ("teff", "logg", "m_h")
MARKERS = "os^Dv<>P"
HIGH_SNR = 50.0
LEAST_SNR = (5.0, 20.0, 50.0)
APOGEE_WARM = 3500.0
"""Teff (K) in APOGEE above which its [M/H] is compared (paper section 5.2)."""
Columns = Mapping[str, ArrayLike]


@plain_style()
def velocity_figure(rv: ArrayLike, reference: ArrayLike, *, title: str = "") -> Figure:
    """Draw velocities against those of Gaia (paper figure 4), and below it their differences.

    Args:
        rv: ours, km/s, ``(star,)``; stars without either velocity are left out.
        reference: the same stars' velocities in Gaia, km/s.
        title: above the figure.
    """
    figure = new_figure(5.6, 6.6, title=title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    ours, other = finite_rows(rv, reference)
    ends = _common(other, ours)
    drawn = [_one_to_one(top, other, ours, "rv", ends=ends), _delta(bottom, other, ours, "rv", ends=ends)]
    top.set_box_aspect(None)  # so that both panels are equally wide
    top.set_ylabel("our RV (km/s)")
    bottom.set_xlabel("Gaia RVS RV (km/s)")
    count_bar(figure, [top, bottom], drawn)
    return figure


@plain_style()
def literature_figure(
    ours: Columns, reference: Columns, source: Iterable[object], snr: ArrayLike, *, title: str = ""
) -> Figure:
    """Draw Teff, log g and [M/H] against literature, and how many stars each source has (paper figure 14).

    Args:
        ours: teff (K), logg and m_h (dex), ``(star,)`` each; NaN is left out.
        reference: the same of the same stars, from the literature.
        source: where a star's reference comes from.
        snr: S/N per pixel in r; stars above 50 have filled symbols, and numbers of their own.
        title: above the figure.
    """
    names = np.array([str(one) for one in source], dtype=object)
    signal = np.asarray(snr, dtype=float)
    figure = new_figure(8.4, 7.6, title=title)
    panels = figure.subplots(2, 2)
    # the largest source first, so that it lies below the others
    sources = sorted(set(names.tolist()), key=lambda name: (-int((names == name).sum()), name))
    maps = []
    for axis, label in zip(panels.flat, LABELS, strict=False):
        mine, other = (np.asarray(table[label], dtype=float) for table in (ours, reference))
        both = np.isfinite(mine) & np.isfinite(other)
        high = both & (signal > HIGH_SNR)
        if both.sum() > DENSE:
            maps.append(_one_to_one(axis, other[both], mine[both], label))
        else:
            ends = _common(other[both], mine[both])
            set_limits(axis, other[both], mine[both], (ends, ends))
            _line_of_equals(axis, other[both], mine[both], label)
            for number, name in enumerate(sources):
                marker, colour = MARKERS[number % 8], COLOURS[number % 8]
                for rows, face in ((both & ~high, "none"), (high, colour)):
                    here = rows & (names == name)
                    style = {"marker": marker, "edgecolors": colour, "linewidths": 0.6, "facecolors": face}
                    axis.scatter(other[here], mine[here], s=16, rasterized=True, **style)
        text = f"S/N > {HIGH_SNR:g}\n" + difference_text(mine[high] - other[high], DIGITS[label])
        axis.text(0.97, 0.03, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=7, zorder=4)
        axis.set_xlabel(f"literature {TITLES[label]}")
        axis.set_ylabel(f"our {TITLES[label]}")
    _sources(panels[1, 1], names, sources, signal)
    count_bar(figure, panels.ravel().tolist(), maps)
    return figure


@plain_style()
def apogee_figure(ours: Columns, apogee: Columns, *, title: str = "") -> Figure:
    """Draw Teff, log g and [M/H] against APOGEE's, and below them the differences (paper figure 15).

    [M/H] is compared where APOGEE's Teff is above 3500 K.

    Args:
        ours: teff (K), logg and m_h (dex), ``(star,)`` each; NaN is left out.
        apogee: the same of the same stars.
        title: above the figure.
    """
    figure = new_figure(10, 5.6, title=title)
    panels = figure.subplots(2, len(LABELS), sharex="col", height_ratios=[2, 1])
    warm = np.asarray(apogee["teff"], dtype=float) > APOGEE_WARM
    maps = []
    for (top, bottom), label in zip(panels.T, LABELS, strict=True):
        kept = warm if label == "m_h" else np.ones(len(warm), dtype=bool)
        mine, other = finite_rows(*(np.asarray(table[label])[kept] for table in (ours, apogee)))
        ends = _common(other, mine)
        maps += [_one_to_one(top, other, mine, label, ends=ends), _delta(bottom, other, mine, label, ends=ends)]
        top.set_ylabel(f"our {TITLES[label]}")
        bottom.set_xlabel(f"APOGEE {TITLES[label]}")
    panels[0, 2].set_title(f"APOGEE Teff > {APOGEE_WARM:g} K", fontsize=8)
    count_bar(figure, panels.ravel().tolist(), maps)
    return figure


@plain_style()
def differences_figure(ours: Columns, methods: Mapping[str, Columns], *, title: str = "") -> Figure:
    """Draw ours minus other methods' Teff, log g and [M/H] against theirs (paper figure 17).

    Args:
        ours: teff (K), logg and m_h (dex), ``(star,)`` each; NaN is left out.
        methods: by the name of the method the same columns of the same stars; one can lack a column.
        title: above the figure.
    """
    count = max(len(methods), 1)
    figure = new_figure(1.6 + 2.6 * count, 6.8, title=title)
    panels = figure.subplots(len(LABELS), count, sharex="row", sharey="row", squeeze=False)
    maps = []
    for across, label in zip(panels, LABELS, strict=True):
        pairs = [
            finite_rows(ours[label], columns[label]) if label in columns else (np.empty(0), np.empty(0))
            for columns in methods.values()
        ]
        ends, (low, high) = limits(*(other for _, other in pairs)), _around_zero(*(m - other for m, other in pairs))
        heights = low, 1.6 * high  # space for the text
        for axis, name, (mine, other) in zip(across, methods, pairs, strict=False):
            maps.append(_delta(axis, other, mine, label, ends=ends, heights=heights))
            if mine.size:
                note(axis, difference_text(mine - other, DIGITS[label]), size=7)
            axis.set_xlabel(f"{name} {TITLES[label]}", parse_math=False)
            axis.set_ylabel("")
        across[0].set_ylabel(f"Δ {TITLES[label]}, ours − other")
    if not methods:
        for axis in panels.flat:
            no_stars(axis)
    count_bar(figure, panels.ravel().tolist(), maps)
    return figure


@plain_style()
def binaries_figure(m_h: ArrayLike, primary: ArrayLike, snr: ArrayLike, *, title: str = "") -> Figure:
    """Draw [M/H] of M dwarfs against [Fe/H] of their FGK primaries, above S/N 5, 20 and 50 (paper figure 18).

    Args:
        m_h: ours of the M dwarf (dex), ``(pair,)``; pairs without either are left out.
        primary: [Fe/H] of the primary (dex).
        snr: of the M dwarf's spectrum, per pixel in r.
        title: above the figure.
    """
    figure = new_figure(0.8 + 3.1 * len(LEAST_SNR), 4.4, title=title)
    mine, other, signal = finite_rows(m_h, primary, snr)
    ends = _common(other, mine)
    maps = []
    for axis, lowest in zip(figure.subplots(1, len(LEAST_SNR), sharey=True, squeeze=False)[0], LEAST_SNR, strict=True):
        rows = signal > lowest
        maps.append(_one_to_one(axis, other[rows], mine[rows], "m_h", ends=ends))
        if rows.any():
            low, high = np.percentile(mine[rows], [5, 95])
            text = f"5 to 95 %: {low:+.1f} to {high:+.1f}"
            axis.text(0.97, 0.03, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=7)
        axis.set_title(f"S/N > {lowest:g}", fontsize=9)
        axis.set_xlabel("[Fe/H] of the FGK primary (dex)")
    figure.axes[0].set_ylabel("our [M/H] of the M dwarf (dex)")
    count_bar(figure, figure.axes, maps)
    return figure


def _one_to_one(axis: Axes, x: Array, y: Array, label: str, *, ends: Limits | None = None) -> Any:
    """Draw y against x on equal axes."""
    ends = _common(x, y) if ends is None else ends
    drawn = draw_stars(axis, x, y, span=(ends, ends))
    _line_of_equals(axis, x, y, label)
    return drawn


def _line_of_equals(axis: Axes, x: Array, y: Array, label: str) -> None:
    """Draw the line where x and y are equal, and say how they differ."""
    axis.set_box_aspect(1)
    if x.size:
        axis.plot(axis.get_xlim(), axis.get_xlim(), color=MODEL, lw=1.2, ls="--", zorder=3)
        note(axis, difference_text(y - x, DIGITS[label]), size=7)


def _delta(axis: Axes, x: Array, y: Array, label: str, *, ends: Limits, heights: Limits | None = None) -> Any:
    """Draw y - x against x, with running medians."""
    delta = y - x
    drawn = draw_stars(axis, x, delta, span=(ends, _around_zero(delta) if heights is None else heights))
    if x.size:
        axis.axhline(0.0, color=MODEL, lw=1.2, ls="--", zorder=3)
        axis.plot(*running_median(x, delta), color="white", lw=2.6, zorder=3)
        axis.plot(*running_median(x, delta), color=TRUTH, lw=1.2, marker="o", ms=2.5, zorder=3)
    axis.set_ylabel(f"Δ {TITLES[label]}")
    return drawn


def _common(x: Array, y: Array) -> Limits:
    (a, b), (c, d) = limits(x), limits(y)
    return min(a, c), max(b, d)


def _around_zero(*delta: Array) -> Limits:
    low, high = limits(*delta)
    return -max(-low, high), max(-low, high)


def _sources(axis: Axes, names: Array, sources: Sequence[str], snr: Array) -> None:
    """Draw how many stars a source has, in all and of high S/N; it is the legend of the other panels too."""
    tidy(axis)
    axis.set_xlabel("stars in common")
    if not sources:
        no_stars(axis)
        return
    numbers = [int((names == name).sum()) for name in sources]
    places = np.arange(len(sources))
    colours = [COLOURS[number % 8] for number in range(len(sources))]
    axis.barh(places, numbers, color="none", edgecolor=colours, height=0.6)
    axis.barh(places, [int(((names == name) & (snr > HIGH_SNR)).sum()) for name in sources], color=colours, height=0.6)
    most = max(numbers)
    for place, number, colour in zip(places, numbers, colours, strict=True):
        axis.scatter(-0.05 * most, float(place), marker=MARKERS[place % 8], color=colour, s=24, clip_on=False)
        axis.text(number + 0.02 * most, float(place), f"{number:,}", va="center", fontsize=7)
    axis.set_yticks(places, sources, fontsize=8)
    axis.set_xlim(-0.1 * most, 1.2 * most)
    axis.set_ylim(len(sources) - 0.4, -0.6)
    axis.set_title(f"filled: S/N > {HIGH_SNR:g}", fontsize=8)
