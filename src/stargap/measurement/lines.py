"""Bands, lines, the subtype and activity of a batch of spectra, as the columns of the schema."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import PerStar
from stargap.features import FEATURES, Feature
from stargap.measurement.bands import Band, band_mean, band_ratio, line_width, mean_of
from stargap.measurement.halpha import MOST_MISSING, halpha_luminosity, measure_halpha
from stargap.measurement.subtype import Indices, measure_indices
from stargap.rows import FloatColumn
from stargap.spectra.log_lambda import NativeBatch
from stargap.tables.columns import INT_NULL

__all__ = ["line_columns", "measure_feature"]

_ELSEWHERE = (*Indices._fields, "halpha_ew")
"""What `measure_indices` and `measure_halpha` measure."""


def measure_feature(one: Feature, native: NativeBatch, rv: PerStar) -> Band:
    """Measure one of `stargap.features.FEATURES` on native pixels, with its variance, ``(star,)`` each; NaN for nulls.

    A fifth of a band may be missing, and of a line less than a pixel; a reference below 3 sigma gives nulls.

    Args:
        one: what to measure.
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``; NaN gives nulls.

    Example:
        >>> from stargap.features import feature
        >>> flat = NativeBatch(torch.ones(1, 1891), torch.full((1, 1891), 1e4), torch.ones(1), torch.zeros(1))
        >>> measure_feature(feature("cah1"), flat, torch.zeros(1)).mean
        tensor([1.], dtype=torch.float64)
    """
    band, reference = one.vacuum()
    if one.kind == "ratio":
        return band_ratio(band_mean(native, rv, *band), mean_of([band_mean(native, rv, *side) for side in reference]))
    width = line_width(native, rv, band, reference, most_missing=MOST_MISSING)
    return Band(-width.mean, width.variance) if one.emission else width


def line_columns(native: NativeBatch, rv: PerStar, factor: FloatColumn) -> dict[str, NDArray[np.generic]]:
    """Return band indices, lines, the subtype, H-alpha and activity of the first rows, ``(row,)`` each.

    Args:
        native: spectra on the log-lambda grid, which can be more than there are rows.
        rv: velocities (km/s), ``(star,)``; NaN gives nulls.
        factor: ratio of the noise to what the inverse variance says, ``(row,)``.

    Example:
        >>> flat = NativeBatch(torch.ones(2, 1891), torch.full((2, 1891), 1e4), torch.ones(2), torch.zeros(2))
        >>> columns = line_columns(flat, torch.zeros(2), np.ones(1))
        >>> columns["caoh"].round(3), columns["activity"]
        (array([1.]), array([0]))
    """
    count = len(factor)
    padded = torch.as_tensor(np.pad(factor, (0, len(native) - count), constant_values=1.0))
    measured = measure_indices(native, rv, noise_factor=padded)._asdict()
    for one in FEATURES:
        if one.name not in _ELSEWHERE:
            found = measure_feature(one, native, rv)
            measured |= {one.name: found.mean, f"e_{one.name}": found.variance.sqrt() * padded}
    halpha = measure_halpha(native, rv, noise_factor=padded)
    measured |= {"halpha_ew": halpha.width, "e_halpha_ew": halpha.error, "p_active": halpha.probability}
    columns: dict[str, NDArray[np.generic]] = {name: values.cpu().numpy()[:count] for name, values in measured.items()}
    for name, flags in (("activity", halpha.active), ("activity_3sigma", halpha.active_3sigma)):
        known = flags.cpu().numpy()[:count]
        columns[name] = np.where(known < 0, INT_NULL, known)
    luminosity = halpha_luminosity(*(np.asarray(columns[name]) for name in ("halpha_ew", "e_halpha_ew", "spt")))
    columns["lhalpha_lbol"], columns["e_lhalpha_lbol"] = luminosity
    return columns
