"""How well an emulator reproduces its validation spectra over the parameter space (paper figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stargap.figures.panels import TITLES, no_stars, tidy
from stargap.figures.style import new_figure, plain_style
from stargap.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["emulator_figure"]

NAMES = TITLES | {"a_m": "[a/M] (dex)"}


@plain_style()
def emulator_figure(labels: NDArray[np.float64], errors: NDArray[np.float64]) -> Figure:
    """Draw eq. 1 errors of validation spectra against each label; colour is Teff.

    Args:
        labels: ``(spectrum, 4)``.
        errors: eq. 1, ``(spectrum,)``, a fraction.
    """
    figure = new_figure(10, 3.2)
    axes = figure.subplots(1, len(LABELS), sharey=True)
    width = 0.12 * np.random.default_rng(0).uniform(-1, 1, len(labels))
    for axis, (place, name) in zip(axes, enumerate(LABELS), strict=True):
        values = np.unique(labels[:, place])
        step = np.diff(values).min() if values.size > 1 else 1.0
        points = axis.scatter(
            labels[:, place] + width * step, 100 * errors, c=labels[:, 0], s=9, cmap="viridis", linewidths=0
        )
        axis.axhline(1.0, color="#d55e00", lw=0.8, ls="--")
        axis.set_yscale("log")
        axis.set_xlabel(NAMES[name])
        tidy(axis)
        if not len(errors):
            no_stars(axis)
    axes[0].set_ylabel("eq. 1 error (%)")
    figure.colorbar(points, ax=axes, label=TITLES["teff"], pad=0.01)
    middle = f": median {100 * np.median(errors):.3f} %" if len(errors) else ""
    figure.suptitle(f"{len(errors)} validation spectra{middle}", fontsize=10)
    return figure
