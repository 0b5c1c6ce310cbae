"""A cluster of spectra as the cleaning saw it: mean, scatter and some members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.figures.style import new_figure, plain_style
from stargap.pixels import STARGAP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cluster_figure"]

MEMBER, MEAN = "0.15", "#d55e00"


@plain_style()
def cluster_figure(
    members: NDArray[Any], *, mean: NDArray[Any] | None = None, scatter: NDArray[Any] | None = None, title: str = ""
) -> Figure:
    """Draw prepared spectra below each other, under the mean of their cluster and its scatter.

    Args:
        members: normalised flux ``(member, pixel)`` on ``STARGAP.wavelength``, NaN at bad pixels.
        mean: of the cluster, ``(pixel,)``.
        scatter: standard deviation of its members, ``(pixel,)``.
        title: above the panel.

    Returns:
        a matplotlib Figure.
    """
    wave = STARGAP.wavelength
    rows = len(members) + (mean is not None)
    figure = new_figure(9, 1.2 + 0.8 * max(rows, 1))
    axis = figure.subplots()
    usual = np.concatenate([np.empty(0)] + [line[np.isfinite(line)] for line in members])
    step = float(np.clip(np.subtract(*np.percentile(usual, [98, 2])), 0.3, 3.0)) if usual.size else 1.0
    place = 0.0
    if mean is not None:
        axis.plot(wave, mean, color=MEAN, lw=0.9)
        if scatter is not None:
            axis.fill_between(wave, mean - scatter, mean + scatter, color=MEAN, alpha=0.25, lw=0)
        place -= step
    for line in members:
        axis.plot(wave, line.clip(1 - 1.5 * step, 1 + 1.5 * step) + place, color=MEMBER, lw=0.5)
        place -= step
    axis.set_xlim(wave[0], wave[-1])
    axis.set_ylim(1 + place + 0.2 * step, 1 + 1.3 * step)
    axis.set_xlabel("rest-frame wavelength (Å, vacuum)")
    axis.set_ylabel("normalised flux + offset")
    axis.tick_params(direction="in", top=True, right=True)
    axis.set_title(title, fontsize=9, parse_math=False)
    return figure
