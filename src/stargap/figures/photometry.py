"""Labels of spectra against labels of photometry, which every survey has: median, scatter and slope by S/N."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import (
    COLOURS,
    DIGITS,
    MODEL,
    TITLES,
    TRUTH,
    Array,
    count_bar,
    draw_stars,
    limits,
    note,
    running_median,
)
from stargap.figures.style import new_figure, plain_style
from stargap.statistics import clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Agreement", "agreement", "photometry_figure"]

LABELS = ("teff", "logg", "m_h")
LEAST_SNR = (5.0, 20.0, 50.0)
SNR_TICKS = (5, 10, 20, 50, 100, 200)
FEWEST = 10
"""Stars that a slope takes."""
Columns = Mapping[str, ArrayLike]


class Agreement(NamedTuple):
    """Spectra above some S/N against photometry: ``stars``, and median, clipped scatter and slope of one label."""

    least_snr: float
    stars: int
    median: float
    scatter: float
    slope: float


def agreement(
    spectrum: ArrayLike, photometry: ArrayLike, snr: ArrayLike, *, noise: ArrayLike = 0.0
) -> Iterator[Agreement]:
    """Give the agreement of a label above S/N 5, 20 and 50, of stars within three sigma of the others.

    The slope is cov(x, y) / (var(x) - noise^2), of the regression of spectra on photometry without what noise of the
    photometry takes from it. The scatter of stars about photometric relations is no such noise: these give the mean
    label of stars of the same photometry, about which the truth scatters. A slope needs 10 stars, or is NaN.

    Args:
        spectrum: label of each star's spectrum, ``(star,)``; NaN is left out.
        photometry: the same from photometry.
        snr: S/N per pixel.
        noise: error of the photometric label by magnitudes, parallax and extinction, ``(star,)`` or one; its median
            counts.

    Example:
        >>> photometry = np.linspace(3000, 4000, 50)
        >>> rows = list(agreement(photometry * 0.5 + 1800, photometry, np.full(50, 30.0)))
        >>> [(row.least_snr, row.stars, row.median, round(row.slope, 2)) for row in rows]
        [(5.0, 50, 50.0, 0.5), (20.0, 50, 50.0, 0.5), (50.0, 0, nan, nan)]
    """
    y, x, signal, e_x = np.broadcast_arrays(
        *(np.asarray(values, dtype=float) for values in (spectrum, photometry, snr, noise))
    )
    for least in LEAST_SNR:
        rows = np.isfinite(y - x) & (signal > least)
        delta = (y - x)[rows]
        if not delta.size:
            yield Agreement(least, 0, np.nan, np.nan, np.nan)
            continue
        kept = clip(delta)
        scatter = float(delta[kept].std(ddof=1)) if kept.sum() > 1 else np.nan
        lost = float(np.median(e_x[rows] ** 2))
        slope = _slope(x[rows][kept], y[rows][kept], lost) if kept.sum() >= FEWEST else np.nan
        yield Agreement(least, len(delta), float(np.median(delta)), scatter, slope)


@plain_style()
def photometry_figure(
    spectrum: Columns,
    photometry: Columns,
    snr: ArrayLike,
    *,
    noise: Columns | None = None,
    errors: Mapping[str, Columns] | None = None,
    title: str = "",
) -> Figure:
    """Draw Teff, log g and [M/H] of spectra against those of photometry, with their agreement above S/N 5, 20 and 50.

    Dots and line: running medians. With `errors` a second row of panels has their running medians against S/N.

    Args:
        spectrum: teff (K), logg and m_h (dex) of spectra, ``(star,)`` each.
        photometry: the same of photometry.
        snr: S/N per pixel in r, ``(star,)``.
        noise: errors of photometric labels without the scatter of the relations, under the same names; see `agreement`.
        errors: errors of labels under the same names, by what they are of, such as "both together".
        title: above the figure.
    """
    heights = (3.9,) if errors is None else (3.9, 2.6)
    figure = new_figure(10.5, sum(heights), title=title)
    grid = figure.subplots(len(heights), 3, squeeze=False, height_ratios=heights)
    panels = grid[0]
    signal, maps = np.asarray(snr, dtype=float), []
    for axis, label in zip(panels, LABELS, strict=True):
        mine, other = (np.asarray(table[label], dtype=float) for table in (spectrum, photometry))
        both = np.isfinite(mine) & np.isfinite(other)
        x, y = other[both], mine[both]
        ends = limits(x, y)
        maps.append(draw_stars(axis, x, y, span=(ends, ends)))
        axis.axline((ends[0], ends[0]), slope=1, color=TRUTH, linewidth=0.9)
        if x.size:
            axis.plot(*running_median(x, y), "o-", color=MODEL, markersize=3, linewidth=1)
        digits = DIGITS[label] + (label != "teff")
        rows = agreement(mine, other, signal, noise=0.0 if noise is None else noise[label])
        note(axis, "\n".join(_line(row, digits) for row in rows), size=6.5)
        axis.set_xlabel(f"photometric {TITLES[label]}")
        axis.set_ylabel(f"spectroscopic {TITLES[label]}")
        axis.set_box_aspect(1)
    for axis, label in zip(grid[-1] if errors else (), LABELS, strict=False):
        _draw_errors(axis, label, signal, errors or {})
    count_bar(figure, panels.tolist(), maps)
    return figure


def _draw_errors(axis: Axes, label: str, snr: Array, errors: Mapping[str, Columns]) -> None:
    """Draw running medians of errors of one label against S/N."""
    for place, (name, columns) in enumerate(errors.items()):
        values = np.asarray(columns[label], dtype=float)
        known = np.isfinite(values) & (snr > 0)
        axis.plot(*running_median(snr[known], values[known]), "o-", color=COLOURS[place], markersize=3, label=name)
    axis.set_xscale("log")
    axis.set_xticks(SNR_TICKS, labels=[f"{value}" for value in SNR_TICKS])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("S/N in r")
    axis.set_ylabel(f"error of {TITLES[label]}")
    axis.legend(fontsize=6.5)


def _line(row: Agreement, digits: int) -> str:
    if not row.stars:
        return f"S/N > {row.least_snr:g}: no stars"
    slope = f", slope {row.slope:.2f}" if np.isfinite(row.slope) else ""
    numbers = f"median {row.median:+z.{digits}f}, σ {row.scatter:.{digits}f}{slope}"
    return f"S/N > {row.least_snr:g}, n {row.stars:,}:\n  {numbers}"


def _slope(x: Array, y: Array, lost: float) -> float:
    """Return the slope of y on x, whose noise has the variance `lost`; NaN if that is most of what x varies by."""
    (xx, xy), _ = np.cov(x, y)
    return float(xy / (xx - lost)) if xx > 2 * lost else np.nan
