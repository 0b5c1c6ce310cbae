"""What a survey holds: where its stars are, their S/N, and their subtypes (paper figures 1, 2 and 13)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import (
    BOX,
    COUNTS,
    DATA,
    DENSE,
    LEGEND,
    TRUTH,
    Array,
    difference_text,
    finite_rows,
    limits,
    no_stars,
    point_size,
    tidy,
)
from stargap.figures.style import new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["sky_figure", "snr_figure", "subclass_numbers", "subtype_figure"]

MOST_LATITUDES = 90
"""Cells of the sky's map between the poles; twice as many around it."""
STARS_IN_CELL = 10
SKY = 41_252.96
"""Square degrees."""
SUBCLASS = re.compile(r"[a-z]*([KM])(\d(?:\.\d+)?)")


@plain_style()
def sky_figure(ra: ArrayLike, dec: ArrayLike, *, title: str = "") -> Figure:
    """Draw stars in Galactic coordinates, in Mollweide's equal-area projection (paper figure 1).

    Args:
        ra: right ascension (deg), ``(star,)``; NaN is left out.
        dec: declination (deg).
        title: above the figure.
    """
    from astropy.coordinates import SkyCoord
    from matplotlib.colors import LogNorm

    figure = new_figure(8, 4.4, title=title)
    axis = figure.add_subplot(projection="mollweide")
    east, north = finite_rows(ra, dec)
    sky = SkyCoord(east, north, unit="deg").galactic
    # longitude increases to the left, with the Galactic centre in the middle
    x, y = -sky.l.wrap_at("180d").radian, sky.b.radian
    if not x.size:
        no_stars(axis)
    elif len(x) <= DENSE:
        axis.scatter(x, y, s=point_size(len(x)), color=DATA, alpha=0.5, linewidths=0, rasterized=True)
    else:
        cells = min(int(np.sqrt(len(x) / STARS_IN_CELL / 2)), MOST_LATITUDES)
        edges = np.linspace(-np.pi, np.pi, 2 * cells + 1), np.linspace(-1.0, 1.0, cells + 1)
        count, *_ = np.histogram2d(x, np.sin(y), bins=edges)
        density = np.where(count > 0, count, np.nan).T * (2 * cells**2 / SKY)
        drawn = axis.pcolormesh(
            edges[0],
            np.arcsin(edges[1]),
            density,
            cmap=COUNTS,
            norm=LogNorm(np.nanmin(density), max(np.nanmax(density), 2 * np.nanmin(density))),
            rasterized=True,
        )
        figure.colorbar(drawn, ax=axis, label="stars per square degree", shrink=0.8, pad=0.02, format="%g")
    axis.set_xticks(np.radians(np.arange(-150, 151, 30)))
    axis.set_xticklabels([f"{-place % 360}°" if place % 60 == 0 else "" for place in range(-150, 151, 30)])
    axis.tick_params(labelsize=8)
    for label in axis.get_xticklabels():
        label.set_bbox(BOX | {"alpha": 0.6, "pad": 0.5})
    axis.grid(color="0.6", lw=0.4)
    axis.set_xlabel("Galactic longitude l (deg)")
    axis.set_ylabel("Galactic latitude b (deg)")
    return figure


@plain_style()
def snr_figure(snr_r: ArrayLike, snr_i: ArrayLike, *, limit: float = 5.0, title: str = "") -> Figure:
    """Draw histograms of S/N in r and i, with the limit of the sample dashed (paper figure 2).

    Args:
        snr_r: S/N per pixel in r, ``(spectrum,)``; NaN and numbers of 0 or less have no place on the axis, and are
            counted in the panel.
        snr_i: the same in i.
        limit: S/N that the sample starts at (paper section 2.1).
        title: above the figure.
    """
    figure = new_figure(6, 5, title=title)
    panels = figure.subplots(2, 1, sharex=True)
    both = [finite_rows(values)[0] for values in (snr_r, snr_i)]
    shown = [values[values > 0] for values in both]
    low, high = (10.0**end for end in limits(*(np.log10(values) for values in shown)))
    for axis, band, values, given in zip(panels, "ri", shown, (snr_r, snr_i), strict=True):
        tidy(axis)
        axis.set_xscale("log")
        axis.set_ylabel("spectra")
        if values.size:
            edges = np.geomspace(min(low, limit / 1.5), max(high, 1.5 * limit), 61)
            axis.hist(np.clip(values, edges[0], edges[-1]), bins=edges.tolist(), color=DATA, alpha=0.75)
            axis.axvline(limit, color=TRUTH, lw=1, ls="--")
            text = f"{band}: median {np.median(values):.1f}\n{np.mean(values >= limit):.1%} at S/N {limit:g} or more"
            missing = len(np.asarray(given)) - len(values)
            text += f"\n{missing:,} without" if missing else ""
            axis.text(0.98, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=8)
        else:
            no_stars(axis)
    panels[1].set_xlabel("S/N per pixel")
    return figure


def subclass_numbers(subclass: Iterable[object]) -> Array:
    """Return subclasses such as dM2 or K7 on the scale of the subtype: K5 is -2, K7 is -1, M0 to M9 are 0 to 9.

    Returns:
        ``(spectrum,)`` float64; NaN for other classes.

    Example:
        >>> subclass_numbers(["dM2", "M0", "gM5", "K7", "K5", "Non", "G2"])
        array([ 2.,  0.,  5., -1., -2., nan, nan])
    """
    names = [str(name).strip() for name in subclass]
    known = {name: _number(name) for name in set(names)}
    return np.array([known[name] for name in names], dtype=float)


def _number(name: str) -> float:
    found = SUBCLASS.fullmatch(name)
    if not found:
        return np.nan
    number = float(found[2])
    return number if found[1] == "M" else (number - 9.0) / 2.0


@plain_style()
def subtype_figure(spt: ArrayLike, subclass: Iterable[object], *, title: str = "") -> Figure:
    """Draw histograms of the TiO5 subtype and of the pipeline's subclass (paper figure 13).

    Args:
        spt: numeric subtype, ``(spectrum,)``; NaN where there is none.
        subclass: the survey's own, such as dM2.
        title: above the figure.
    """
    figure = new_figure(6, 3.8, title=title)
    axis = figure.subplots()
    given, numbers = np.asarray(spt, dtype=float), subclass_numbers(subclass)
    finite = {"SpT from TiO5": finite_rows(given)[0], "pipeline's subclass": finite_rows(numbers)[0]}
    every = np.concatenate(list(finite.values()))
    if every.size:
        # a bin beyond K5 and one beyond M9 hold all others
        edges = np.arange(-3.5, 10.6, 1.0)
        places = edges[:-1] + 0.5
        counts = {name: np.histogram(np.clip(values, -3.0, 10.0), edges)[0] for name, values in finite.items()}
        axis.bar(places, counts["SpT from TiO5"], width=1.0, color=DATA, alpha=0.4, label="SpT from TiO5")
        axis.stairs(counts["pipeline's subclass"], edges, color=TRUTH, lw=1.6, ls="--", label="pipeline's subclass")
        axis.legend(**LEGEND)
        ours, other = finite_rows(numbers, given)
        _differ(axis, ours - other)
    else:
        no_stars(axis)
    names = ["<K5", "K5", "K7", *(f"M{number}" for number in range(10)), ">M9"]
    axis.set_xticks(range(-3, 11), names)
    axis.set_xlim(-3.6, 10.6)
    axis.set_xlabel("spectral subtype (subclasses)")
    axis.set_ylabel("spectra")
    tidy(axis)
    return figure


def _differ(axis: Axes, delta: Array) -> None:
    text = "subclass − SpT\n" + difference_text(delta, 2)
    axis.text(0.985, 0.74, text, transform=axis.transAxes, ha="right", va="top", fontsize=8)
