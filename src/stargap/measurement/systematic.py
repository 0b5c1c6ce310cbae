"""Systematic errors of velocities and labels, and the zero point of velocities, as a model's calibration has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.labels import LABELS
from stargap.measurement.coverage import missing_systematic
from stargap.rows import FloatColumn
from stargap.transfer.calibration import CENTRE, Calibration

__all__ = ["calibrated"]


def calibrated(
    fits: Mapping[str, NDArray[Any]],
    noise: FloatColumn,
    by_blocks: FloatColumn,
    snr: Sequence[float],
    covered: FloatColumn,
    known: Calibration | None,
) -> dict[str, NDArray[Any]]:
    """Return the columns that a calibration changes: ``rv``, ``rv_zero``, ``e_rv_sys`` and ``e_teff_sys`` and so on.

    What blocks of wavelength disagree by beyond noise is the error of a template that is wrong, less the part that a
    zero point takes off. Without a calibration all of it counts, and systematic errors of labels stay as they are.

    Args:
        fits: ``rv``, labels and their random errors, ``(row,)`` each; without a calibration ``rv`` alone.
        noise: errors of velocities by noise alone (km/s), ``(row,)``.
        by_blocks: see `stargap.measurement.velocity.Velocities`.
        snr: the lower of r and i.
        covered: fraction of the range that each spectrum covers.
        known: of the model.

    Example:
        >>> noise, by_blocks, whole = np.array([3.0]), np.array([5.0]), np.array([1.0])
        >>> found = calibrated({"rv": np.array([12.0])}, noise, by_blocks, [20.0], whole, None)
        >>> {name: values.tolist() for name, values in found.items()}
        {'rv': [12.0], 'rv_zero': [0.0], 'e_rv_sys': [4.0]}
    """
    excess = np.sqrt(np.maximum(by_blocks**2 - noise**2, 0.0))
    rv = np.asarray(fits["rv"], dtype=float)
    if known is None:
        return {"rv": rv, "rv_zero": np.where(np.isfinite(rv), 0.0, np.nan), "e_rv_sys": excess}
    labels, signal = np.stack([fits["teff"], fits["m_h"]], axis=1).astype(float), np.array(snr, dtype=float)
    zero = np.where(np.isfinite(rv), known.zero_point(labels), np.nan)
    columns: dict[str, NDArray[Any]] = {"rv": rv - zero, "rv_zero": zero}
    random = np.stack([fits[f"e_{name}"] for name in LABELS], axis=1).astype(float)
    missing = missing_systematic(covered, random)
    for place, name in enumerate(LABELS):
        error = known.error(name, labels, signal)
        if error is not None:
            columns[f"e_{name}_sys"] = np.hypot(error, missing[:, place])
    beyond = known.error("rv", np.where(np.isfinite(labels), labels, CENTRE[:2]), signal)
    parts = (known.blocks * excess, known.e_velocity, 0.0 if beyond is None else beyond)
    columns["e_rv_sys"] = np.where(np.isfinite(rv), np.sqrt(sum(np.square(part) for part in parts)), np.nan)
    return columns
