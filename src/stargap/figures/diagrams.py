"""Kiel and Hertzsprung-Russell diagrams coloured by [M/H] (paper figures 9, 11, 12 and 16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import (
    BOX,
    DATA,
    METALS,
    TITLES,
    TRUTH,
    Array,
    Span,
    draw_stars,
    finite_rows,
    limits,
    metal_bar,
    metal_norm,
    no_stars,
    note,
    tidy,
)
from stargap.figures.style import new_figure, plain_style
from stargap.theory.isochrones import Isochrones, shipped_isochrones

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["active_figure", "hr_figure", "kiel_figure", "methods_figure"]

TRACKS = (-1.5, -1.0, -0.5, 0.0, 0.3)
PERCENTILES = (15, 50, 85)
LEAST_IN_BIN = 20
COLOUR, MAGNITUDE = "BP − RP (mag)", "$M_G$ (mag)"


@plain_style()
def kiel_figure(teff: ArrayLike, logg: ArrayLike, m_h: ArrayLike, *, title: str = "") -> Figure:
    """Draw log g against Teff coloured by [M/H], with PARSEC isochrones in the same colours (paper figure 9).

    Args:
        teff: K, ``(star,)``; stars without one of the three are left out.
        logg: dex.
        m_h: dex.
        title: above the figure.
    """
    figure = new_figure(6.4, 4.6, title=title)
    axis = figure.subplots()
    x, y, metal = finite_rows(teff, logg, m_h)
    norm = metal_norm(metal)
    _kiel(axis, x, y, metal, norm, (limits(x), limits(y)) if x.size else ((2800.0, 4300.0), (4.3, 5.5)))
    _tracks(axis, shipped_isochrones(), norm)
    metal_bar(figure, [axis], norm)
    return figure


@plain_style()
def hr_figure(
    bp_rp: ArrayLike, m_g: ArrayLike, m_h: ArrayLike, g_mag: ArrayLike, distance: ArrayLike, *, title: str = ""
) -> Figure:
    """Draw stars on Gaia's HR diagram coloured by [M/H], and histograms of G and distance (paper figure 11).

    Args:
        bp_rp: colour BP - RP (mag), ``(star,)``. NaN is left out, of the diagram and of each histogram for itself.
        m_g: absolute magnitude in G.
        m_h: dex.
        g_mag: apparent magnitude in G.
        distance: pc.
        title: above the figure.
    """
    figure = new_figure(9.4, 5, title=title)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.7, 1])
    axis = figure.add_subplot(grid[:, 0])
    x, y, metal = finite_rows(bp_rp, m_g, m_h)
    norm = metal_norm(metal)
    _hr(axis, x, y, metal, norm, _span(x, y))
    metal_bar(figure, [axis], norm)
    for row, (values, label) in enumerate(((g_mag, "G (mag)"), (distance, "distance (pc)"))):
        _histogram(figure.add_subplot(grid[row, 1]), finite_rows(values)[0], label)
    return figure


@plain_style()
def active_figure(bp_rp: ArrayLike, m_g: ArrayLike, m_h: ArrayLike, activity: ArrayLike, *, title: str = "") -> Figure:
    """Draw active stars on Gaia's HR diagram, with the 15, 50 and 85 percentiles of all stars (paper figure 12).

    The percentiles are those of M_G in bins of BP - RP that hold 20 stars or more.

    Args:
        bp_rp: colour BP - RP of all stars (mag), ``(star,)``.
        m_g: absolute magnitude in G.
        m_h: dex.
        activity: 1 where a star is active.
        title: above the figure.
    """
    figure = new_figure(6.4, 5, title=title)
    axis = figure.subplots()
    active = np.asarray(activity) == 1
    x, y, metal = finite_rows(
        bp_rp, m_g, np.where(active, np.ma.filled(np.ma.asarray(m_h, dtype=float), np.nan), np.nan)
    )
    every_x, every_y = finite_rows(bp_rp, m_g)
    norm = metal_norm(metal)
    _hr(axis, x, y, metal, norm, _span(every_x, every_y))
    places, lines = _percentiles(every_x, every_y)
    for percent, line, style in zip(PERCENTILES, lines.T, ("--", "-.", "--"), strict=True):
        axis.plot(places, line, color=TRUTH, lw=1.2, ls=style, zorder=3)
        if len(places) > 1:
            axis.text(places[0], line[0], f"{percent} % ", fontsize=7, va="center", ha="right", zorder=4)
    if len(places) < 2:
        note(axis, f"no percentiles: too few bins of {LEAST_IN_BIN} stars")
    metal_bar(figure, [axis], norm)
    return figure


@plain_style()
def methods_figure(methods: Mapping[str, Mapping[str, ArrayLike]], *, title: str = "") -> Figure:
    """Draw the HR diagram (above) and the Kiel diagram (below) of several methods, coloured by their [M/H].

    Paper figure 16. All panels of a row have the same limits, and all the same colours.

    Args:
        methods: by the name of the method its columns ``(star,)``: bp_rp, m_g, teff, logg and m_h. One that a method
            has not leaves its panel empty.
        title: above the figure.
    """
    count = max(len(methods), 1)
    figure = new_figure(1.2 + 2.7 * count, 6, title=title)
    panels = figure.subplots(2, count, sharex="row", sharey="row", squeeze=False)
    rows: tuple[tuple[str, str, Any], ...] = (("bp_rp", "m_g", _hr), ("teff", "logg", _kiel))
    drawn = [[_columns(columns, x, y) for columns in methods.values()] for x, y, _ in rows]
    norm = metal_norm(*(metal for row in drawn for *_, metal in row))
    for across, stars, (_, y_name, draw) in zip(panels, drawn, rows, strict=True):
        span = limits(*(x for x, *_ in stars)), limits(*(y for _, y, _ in stars))
        for axis, (name, columns), (x, y, metal) in zip(across, methods.items(), stars, strict=False):
            draw(axis, x, y, metal, norm, span)
            axis.set_title(name if draw is _hr else "", fontsize=9, parse_math=False)
            if axis is not across[0]:
                axis.set_ylabel("")
            if y_name not in columns:
                axis.texts[-1].set_text(f"no {TITLES.get(y_name, MAGNITUDE).split(' (')[0]}")
    if not methods:
        for axis in panels.flat:
            no_stars(axis)
    metal_bar(figure, panels.ravel().tolist(), norm)
    return figure


def _columns(columns: Mapping[str, ArrayLike], *names: str) -> tuple[Array, ...]:
    """Finite rows of the columns and of [M/H]; none if one is missing."""
    every = (*names, "m_h")
    if any(name not in columns for name in every):
        return tuple(np.empty(0) for _ in every)
    return finite_rows(*(columns[name] for name in every))


def _kiel(axis: Axes, x: Array, y: Array, m_h: Array, norm: Normalize, span: Span) -> None:
    draw_stars(axis, x, y, span=span, m_h=m_h, norm=norm)
    axis.set_xlim(*span[0][::-1])
    axis.set_ylim(*span[1][::-1])
    axis.set_xlabel(TITLES["teff"])
    axis.set_ylabel(TITLES["logg"])


def _hr(axis: Axes, x: Array, y: Array, m_h: Array, norm: Normalize, span: Span) -> None:
    draw_stars(axis, x, y, span=span, m_h=m_h, norm=norm)
    axis.set_ylim(*span[1][::-1])
    axis.set_xlabel(COLOUR)
    axis.set_ylabel(MAGNITUDE)


def _span(bp_rp: Array, m_g: Array) -> Span:
    return (limits(bp_rp), limits(m_g)) if bp_rp.size else ((1.0, 5.0), (4.0, 15.0))


def _tracks(axis: Axes, isochrones: Isochrones, norm: Normalize) -> None:
    """Draw the tracks nearest to `TRACKS`, outlined so that they stand out of stars of their own colour."""
    from matplotlib import colormaps
    from matplotlib.patheffects import Normal, Stroke

    given = np.unique(isochrones.m_h)
    for track in np.unique([given[np.abs(given - m_h).argmin()] for m_h in TRACKS]):
        rows = isochrones.m_h == track
        axis.plot(
            isochrones.teff[rows],
            isochrones.logg[rows],
            color=colormaps[METALS](norm(track)),
            lw=1.6,
            path_effects=[Stroke(linewidth=3.4, foreground="white"), Stroke(linewidth=2.6, foreground="0.1"), Normal()],
            zorder=3,
        )
        # its [M/H] beside the coolest point that the panel shows with space for it
        (right, left), (top, bottom) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
        shown = isochrones.teff[rows] - right > 0.01 * (left - right)
        shown &= bottom - isochrones.logg[rows] > 0.05 * (bottom - top)
        if shown.any():
            place = isochrones.teff[rows][shown][0], isochrones.logg[rows][shown][0]
            style: dict[str, Any] = {"fontsize": 7, "va": "top", "ha": "right", "bbox": BOX | {"pad": 0.5}, "zorder": 4}
            axis.annotate(f"{track:+z.1f}", place, (-3, -2), textcoords="offset points", annotation_clip=True, **style)
    note(axis, f"lines: PARSEC, {isochrones.age:g} Gyr, with their [M/H]")


def _histogram(axis: Axes, values: Array, label: str) -> None:
    axis.set_xlabel(label)
    axis.set_ylabel("stars")
    tidy(axis)
    if not values.size:
        no_stars(axis)
        return
    low, high = limits(values)
    outside = int(((values < low) | (values > high)).sum())
    axis.hist(values, bins=np.linspace(low, high, 51).tolist(), color=DATA, alpha=0.75)
    axis.set_xlim(low, high)
    if outside:
        axis.text(0.98, 0.97, f"{outside:,} outside", transform=axis.transAxes, ha="right", va="top", fontsize=7)


def _percentiles(x: Array, y: Array, bins: int = 40) -> tuple[Array, Array]:
    """Middles of bins of x ``(bin,)`` and percentiles of y in them ``(bin, 3)``, of the bins that hold enough stars."""
    edges = np.linspace(*limits(x), bins + 1)
    order = np.argsort(x, kind="stable")
    parts = np.split(order, np.searchsorted(x[order], edges))[1:-1]
    kept = [(middle, part) for middle, part in zip((edges[1:] + edges[:-1]) / 2, parts, strict=True)
            if len(part) >= LEAST_IN_BIN]  # fmt: skip
    lines = [np.percentile(y[part], PERCENTILES) for _, part in kept]
    return np.array([middle for middle, _ in kept]), np.array(lines).reshape(len(kept), len(PERCENTILES))
