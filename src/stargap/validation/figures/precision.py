"""Scatter of repeated observations against S/N (paper figure 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from stargap.catalogue.crossmatch import whole_ids
from stargap.catalogue.precision import ErrorModel, Precision
from stargap.catalogue.repeats import MAD_ERROR, Repeats
from stargap.catalogue.schema import INT_NULL
from stargap.validation.figures.panels import MODEL, TITLES, TRUTH, Array, new_figure, no_stars, note, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["precision_figure"]

LEAST_IN_BIN = 10
WIDTH = 10.0
"""Of a bin in S/N (paper figure 10)."""


def precision_figure(columns: Mapping[str, ArrayLike], model: Precision, *, title: str = "") -> Figure:
    """Draw the scatter of repeats in bins of 10 in S/N, and the curve a / (S/N) + b of `model` (paper figure 10).

    The scatter is 1.4826 times the median distance of spectra from their star's mean, each distance corrected for the
    mean being of the same spectra; without a curve all spectra of a star weigh the same. Bins of fewer than 10 spectra
    are left out. The dots lie at the median S/N of their spectra.

    Args:
        columns: ``(spectrum,)``: gaia_source_id (int64, -9999 without one), snr_r, and quantities of the model.
        model: of `stargap.catalogue.precision.fit_precision`.
        title: above the figure.

    Raises:
        UsageError: identifiers are floats.
    """
    figure = new_figure(9, 6, title=title)
    for axis, (name, label) in zip(figure.subplots(2, 2).flat, TITLES.items(), strict=True):
        tidy(axis)
        axis.set_xlabel("S/N per pixel in r")
        axis.set_ylabel(f"scatter of {label}")
        curve = model.errors.get(name)
        snr, scatter, error = _scatter(columns, name, curve)
        if not snr.size:
            no_stars(axis)
            continue
        axis.errorbar(snr, scatter, error, fmt="o", ms=4, lw=0.9, color=TRUTH, zorder=3)
        axis.set_xlim(0.0, 1.04 * snr.max())
        axis.set_ylim(0.0, max(1.08 * float((scatter + error).max()), 1e-9))
        if curve is None or curve.a is None or curve.b is None:
            note(axis, "no curve: too few repeats")
            continue
        x = np.linspace(min(5.0, float(snr.min())), 1.04 * snr.max(), 300)
        axis.plot(x, curve.repeat_error(x), color=MODEL, ls="--", lw=1.5)
        axis.text(
            0.97,
            0.95,
            f"{curve.a:.3g} / (S/N) + {curve.b:.2g}\n{curve.repeats:,} repeats of {curve.stars:,} stars",
            transform=axis.transAxes,
            ha="right",
            va="top",
            fontsize=9,
        )
    return figure


def _scatter(columns: Mapping[str, ArrayLike], name: str, curve: ErrorModel | None) -> tuple[Array, Array, Array]:
    """Median S/N, scatter of one spectrum and its error, in bins of S/N."""
    nothing = np.empty(0), np.empty(0), np.empty(0)
    if name not in columns:
        return nothing
    ids = whole_ids(columns["gaia_source_id"], "gaia_source_id")
    snr, value = (np.asarray(columns[column], dtype=float) for column in ("snr_r", name))
    rows = np.flatnonzero((ids != INT_NULL) & np.isfinite(value) & (snr > 0) & np.isfinite(snr))
    _, star, count = np.unique(ids[rows], return_inverse=True, return_counts=True)
    several = count[star] > 1
    rows = rows[several]
    if not rows.size:
        return nothing
    _, star = np.unique(star[several], return_inverse=True)
    data = Repeats(value[rows], np.ones(len(rows)), snr[rows], star)
    expected = np.ones(len(rows)) if curve is None else curve.repeat_error(data.snr)
    expected = np.where(np.isfinite(expected) & (expected > 0), expected, 1.0)
    pull, left = data.pulls(expected)
    place = np.floor(data.snr / WIDTH)
    found = []
    for number in np.unique(place):
        here = np.flatnonzero((place == number) & np.isfinite(pull))
        if len(here) >= LEAST_IN_BIN:
            spread = 1.4826 * float(np.median(np.abs(pull[here]) * expected[here]))
            found.append((np.median(data.snr[here]), spread, spread * MAD_ERROR / np.sqrt(left[here].sum())))
    table = np.array(found).reshape(len(found), 3)
    return table[:, 0], table[:, 1], table[:, 2]
