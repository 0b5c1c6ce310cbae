"""Scatter of repeats in bins of S/N, as figure 10 of the paper shows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.catalogue.precision import QUANTITIES, ErrorModel, Precision
from stargap.catalogue.repeats import MAD_ERROR, Repeats
from stargap.figures.precision import RepeatScatter
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import whole_ids

__all__ = ["repeat_scatter"]

Array = NDArray[np.float64]
LEAST_IN_BIN = 10
WIDTH = 10.0
"""Of a bin in S/N (paper figure 10)."""


def repeat_scatter(columns: Mapping[str, ArrayLike], model: Precision) -> dict[str, RepeatScatter]:
    """Return the scatter of repeats in bins of 10 in S/N, and the curve of `model`, by quantity.

    The scatter is 1.4826 times the median distance of spectra from their star's mean, each distance corrected for the
    mean being of the same spectra; without a curve all spectra of a star weigh the same. Bins of fewer than 10 spectra
    are left out. The S/N of a bin is the median of its spectra.

    Args:
        columns: ``(spectrum,)``: gaia_source_id (int64, -9999 without one), snr_r, and quantities of the model.
        model: of `stargap.catalogue.precision.fit_precision`.

    Raises:
        UsageError: identifiers are floats.
    """
    found = {}
    for name in QUANTITIES:
        curve = model.errors.get(name)
        points = _scatter(columns, name, curve)
        if curve is None:
            found[name] = RepeatScatter(*points)
        else:
            found[name] = RepeatScatter(*points, curve.a, curve.b, curve.stars, curve.repeats)
    return found


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
