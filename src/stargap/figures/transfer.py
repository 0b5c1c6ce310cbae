"""A transfer: losses of its training, the two domains, residuals against its spectra (paper figures 6 to 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.figures.panels import (
    COLOURS,
    DATA,
    LEGEND,
    MODEL,
    TRUTH,
    no_stars,
    tidy,
)
from stargap.figures.style import new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["losses_figure", "residual_figure", "tsne_figure"]

PARTS = {"generator": "generators", "critic": "critics", "validation": "validation"}

Array = NDArray[Any]


@plain_style()
def tsne_figure(
    before: Mapping[str, Array], after: Mapping[str, Array], shared: Mapping[str, Array] | None = None
) -> Figure:
    """Draw t-SNE embeddings of the two domains (paper figure 7).

    Args:
        before: by name ``(row, 2)`` of `stargap.validation.embedding.tsne`: synthetic and observed spectra.
        after: the same for transferred and observed ones.
        shared: the same in the latent z_sh.
    """
    panels = {"before the transfer": before, "after": after} | ({} if shared is None else {"in z_sh": shared})
    figure = new_figure(0.4 + 3.4 * len(panels), 3.6)
    names = list(dict.fromkeys(name for groups in panels.values() for name in groups))
    for axis, (title, groups) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        # points of all groups in one random order, so that none covers another
        points = np.concatenate([np.empty((0, 2)), *groups.values()])
        colours = np.repeat(
            [COLOURS[names.index(name) % 8] for name in groups], [len(rows) for rows in groups.values()]
        )
        order = np.random.default_rng(0).permutation(len(points))
        size = float(np.clip(4000 / max(len(points), 1), 1, 12))
        if not len(points):
            no_stars(axis)
        else:
            axis.scatter(*points[order].T, c=colours[order].tolist(), s=size, alpha=0.6, linewidths=0)
        for name in groups:
            axis.scatter([], [], color=COLOURS[names.index(name) % 8], s=12, label=name)
        if groups:
            axis.legend(**LEGEND)
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
    return figure


@plain_style()
def residual_figure(before: Array, after: Array, truth: Array | None = None) -> Figure:
    """Draw histograms of ``mean |residual| / sigma`` (paper figure 8), with their medians.

    Args:
        before: against the best-fitting synthetic spectrum, ``(star,)``; NaN is left out.
        after: against the best-fitting transferred one.
        truth: of simulated stars, against their noiseless spectrum.
    """
    series = {"synthetic": (before, DATA), "transferred": (after, MODEL)}
    if truth is not None:
        series["simulated stars' noise alone"] = (truth, TRUTH)
    finite = {name: values[np.isfinite(values)] for name, (values, _) in series.items()}
    every = np.concatenate(list(finite.values()))
    figure = new_figure(5.4, 3.6)
    axis = figure.subplots()
    bins = np.linspace(0, max(1.5, float(np.percentile(every, 99)) if every.size else 0.0), 60)
    for name, (_, colour) in series.items():
        values = finite[name]
        if values.size:
            middle = float(np.median(values))
            axis.hist(values, bins=bins.tolist(), histtype="step", color=colour, label=f"{name}: {middle:.2f}")
            axis.axvline(middle, color=colour, lw=0.8, ls=":")
    if every.size:
        axis.legend(**LEGEND, title="median", title_fontsize=8)
    else:
        no_stars(axis)
    axis.set_xlabel("mean |residual| / σ")
    axis.set_ylabel("stars")
    tidy(axis)
    return figure


@plain_style()
def losses_figure(metrics: Mapping[str, Array]) -> Figure:
    """Draw losses and validation scores against the step (paper figure 6); the best network's step is dotted.

    Args:
        metrics: columns of `stargap.checkpoints.read_metrics`.
    """
    figure = new_figure(10, 3.4)
    step = metrics.get("step", np.empty(0))
    best = step[np.asarray(metrics.get("best", np.zeros(step.shape))) == 1]
    for axis, (part, title) in zip(figure.subplots(1, 3), PARTS.items(), strict=True):
        names = [name for name in metrics if name.startswith(f"{part}.") and not name.endswith(".gradient")]
        for number, name in enumerate(names):
            shown = np.isfinite(metrics[name]) & (metrics[name] > 0)
            total = name.endswith((".loss", ".score"))
            axis.plot(
                step[shown],
                metrics[name][shown],
                color=TRUTH if total else COLOURS[number % 7],
                lw=1.4 if total else 0.8,
                label=name.removeprefix(f"{part}."),
            )
        if names:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            axis.set_ylim(low, high * (high / low) ** (0.09 * len(names)))  # room for the legend
            axis.legend(**LEGEND | {"fontsize": 7})
        if best.size:
            axis.axvline(best[-1], color="0.6", lw=0.8, ls=":")
        axis.set_xlabel("step")
        axis.set_title(title, fontsize=9)
        tidy(axis)
    return figure
