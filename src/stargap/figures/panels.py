"""Pieces that figures share: finite rows, limits, points or a density, the colour of [M/H], words on a panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.statistics import clip, robust_scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = [
    "BOX",
    "COUNTS",
    "COLOURS",
    "DATA",
    "DENSE",
    "DIGITS",
    "LEGEND",
    "METALS",
    "MODEL",
    "TITLES",
    "TRUTH",
    "Array",
    "Limits",
    "Span",
    "count_bar",
    "difference_text",
    "draw_stars",
    "finite_rows",
    "limits",
    "metal_bar",
    "metal_norm",
    "no_stars",
    "note",
    "point_size",
    "running_median",
    "set_limits",
    "tidy",
]

Array = NDArray[Any]
Limits = tuple[float, float]
Span = tuple[Limits, Limits]

DENSE = 10_000
"""Stars above which a panel is a map of their density, not of points."""
CELLS = 110
"""Cells of such a map along either axis."""
COUNTS, METALS = "cividis", "viridis"
DATA, MODEL, TRUTH = "#0072b2", "#d55e00", "0.15"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.5", "0.15")
"""The palette of Okabe and Ito, whose colours differ for colour-blind readers too."""
TITLES = {"rv": "RV (km/s)", "teff": "Teff (K)", "logg": "log g (dex)", "m_h": "[M/H] (dex)"}
DIGITS = {"rv": 1, "teff": 0, "logg": 2, "m_h": 2}
LEGEND: dict[str, Any] = {"fontsize": 8, "loc": "upper right", "framealpha": 0.8, "edgecolor": "none"}
BOX: dict[str, Any] = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}


def finite_rows(*columns: ArrayLike) -> tuple[Array, ...]:
    """Return columns ``(star,)`` as float64, of the stars that have a finite number in every one of them.

    Raises:
        UsageError: columns of different lengths, or not one-dimensional.

    Example:
        >>> finite_rows([1.0, 2.0, np.nan], [3, 4, 5])
        (array([1., 2.]), array([3., 4.]))
    """
    arrays = [np.ma.filled(np.ma.asarray(column).astype(float), np.nan) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        message = f"columns of shapes {[array.shape for array in arrays]}: give one number a star in each"
        raise UsageError(message)
    kept = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return tuple(array[kept] for array in arrays)


def limits(*values: Array) -> Limits:
    """Return the ends of an axis that shows all values, save those far outside the rest.

    Far is more than the width of the middle 90 % away from these: beyond 4.9 sigma of normal values.

    Args:
        values: finite numbers; several arrays share the axis.

    Example:
        >>> limits(np.array([0.0, 1.0]))
        (-0.04, 1.04)
        >>> limits(np.append(np.linspace(0, 1, 100), 1000.0))
        (-0.04, 1.04)
    """
    every = np.concatenate([np.empty(0), *values])
    if not every.size:
        return 0.0, 1.0
    low, high = np.percentile(every, [5, 95])
    near = every[(every >= 2 * low - high) & (every <= 2 * high - low)] if high > low else every
    low, high = float(near.min()), float(near.max())
    margin = 0.04 * (high - low) or 0.01 * abs(low) or 1.0
    return low - margin, high + margin


def set_limits(axis: Axes, x: Array, y: Array, span: Span) -> NDArray[np.bool_]:
    """Set the limits of a panel, low to high, and return which stars lie within; others are counted in a corner.

    Without any star the panel says so.
    """
    axis.set_xlim(*span[0])
    axis.set_ylim(*span[1])
    tidy(axis)
    if not x.size:
        no_stars(axis)
    inside = (x >= span[0][0]) & (x <= span[0][1]) & (y >= span[1][0]) & (y <= span[1][1])
    if not inside.all():
        text = f"{(~inside).sum():,} outside"
        axis.text(0.98, 0.02, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=7, bbox=BOX, zorder=4)
    return inside


def draw_stars(
    axis: Axes, x: Array, y: Array, *, span: Span, m_h: Array | None = None, norm: Normalize | None = None
) -> Any:
    """Draw stars in a panel: points up to `DENSE` of them, and above it a map.

    A map shows the number of stars in each cell, or their mean [M/H] where that is given.

    Args:
        axis: of the panel, whose limits are set as by `set_limits`.
        x: finite numbers ``(star,)``.
        y: the same.
        span: limits of x and y.
        m_h: [M/H] that gives the colour, ``(star,)``.
        norm: of its colours.

    Returns:
        the map of numbers for `count_bar`, or None.
    """
    inside = set_limits(axis, x, y, span)
    dense = len(x) > DENSE
    x, y = x[inside], y[inside]
    if not x.size:
        return None
    if not dense:
        size = point_size(len(x))
        if m_h is None:
            axis.scatter(x, y, s=size, color=DATA, alpha=0.5, linewidths=0, rasterized=True)
        else:
            axis.scatter(x, y, s=size, c=m_h[inside], cmap=METALS, norm=norm, linewidths=0, rasterized=True)
        return None
    edges = [np.linspace(*one, CELLS + 1) for one in span]
    count, *_ = np.histogram2d(x, y, bins=edges)
    shown = np.where(count > 0, count, np.nan)
    if m_h is None:
        return axis.pcolormesh(*edges, shown.T, cmap=COUNTS, rasterized=True)
    total, *_ = np.histogram2d(x, y, bins=edges, weights=m_h[inside])
    axis.pcolormesh(*edges, (total / shown).T, cmap=METALS, norm=norm, rasterized=True)
    return None


def point_size(count: int) -> float:
    """Return the area of points when there are so many."""
    return float(np.clip(12_000 / max(count, 1), 2.5, 16))


def count_bar(figure: Figure, axes: Sequence[Axes], maps: Sequence[Any], *, label: str = "stars in a cell") -> None:
    """Give the maps of numbers that `draw_stars` returned one logarithmic scale, and draw its bar beside the panels."""
    from matplotlib.colors import LogNorm

    drawn = [one for one in maps if one is not None]
    if drawn:
        norm = LogNorm(1.0, max(2.0, *(float(one.get_array().max()) for one in drawn)))
        for one in drawn:
            one.set_norm(norm)
        figure.colorbar(drawn[0], ax=list(axes), label=label, pad=0.01, aspect=30)


def metal_norm(*m_h: Array) -> Normalize:
    """Return the scale of colours that shows 96 % of finite [M/H], in whole tenths; -1 to 0.5 without any."""
    from matplotlib.colors import Normalize

    every = np.concatenate([np.empty(0), *m_h])
    if not every.size:
        return Normalize(-1.0, 0.5)
    low, high = np.percentile(every, [2, 98])
    return Normalize(np.floor(low * 10) / 10, max(np.ceil(high * 10) / 10, np.floor(low * 10) / 10 + 0.1))


def metal_bar(figure: Figure, axes: Sequence[Axes], norm: Normalize) -> None:
    """Draw the bar of [M/H] beside the panels."""
    from matplotlib.cm import ScalarMappable

    figure.colorbar(
        ScalarMappable(norm, METALS), ax=list(axes), label=TITLES["m_h"], pad=0.01, aspect=30, extend="both"
    )


def difference_text(delta: Array, digits: int) -> str:
    """Return the statistics of differences, ours - reference (METHOD.md 11), as text; one star has no scatter.

    Args:
        delta: finite numbers ``(star,)``.
        digits: after the point.

    Example:
        >>> print(difference_text(np.array([-1.0, 0.0, 1.0, 2.0]), 1))
        n 4
        median +0.5
        1.4826 MAD 1.5
        clipped σ 1.3
    """
    lines = [f"n {len(delta):,}"]
    if delta.size:
        lines.append(f"median {np.median(delta):+z.{digits}f}")
    kept = delta[clip(delta)]
    if len(kept) > 1:
        lines += [f"1.4826 MAD {robust_scatter(delta):.{digits}f}", f"clipped σ {kept.std(ddof=1):.{digits}f}"]
    return "\n".join(lines)


def note(axis: Axes, text: str, *, size: float = 8) -> None:
    """Write text into the upper left corner of a panel."""
    box = BOX | {"pad": 2.5}
    axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top", fontsize=size, bbox=box, zorder=4)


def no_stars(axis: Axes, text: str = "no stars") -> None:
    """Say in the middle of a panel that there is nothing to draw."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="0.4", zorder=4)


def running_median(x: Array, y: Array, *, bins: int = 12) -> tuple[Array, Array]:
    """Return medians of x and y in bins of equal numbers of x; bins of fewer than 5 are left out."""
    some = [part for part in np.array_split(np.argsort(x, kind="stable"), bins) if part.size > 4]
    return np.array([np.median(x[part]) for part in some]), np.array([np.median(y[part]) for part in some])


def tidy(axis: Axes) -> None:
    """Give a panel the ticks of all figures."""
    axis.tick_params(direction="in", top=True, right=True, labelsize=8)
