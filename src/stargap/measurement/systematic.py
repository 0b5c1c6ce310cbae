"""Systematic errors of velocities and labels, and the zero point of velocities, as a model's calibration has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.labels import LABELS, M_H, TEFF
from stargap.measurement.coverage import missing_systematic
from stargap.rows import FloatColumn, LabelArray
from stargap.transfer.calibration import CENTRE, Calibration

__all__ = ["calibrated"]


def calibrated(
    fits: Mapping[str, NDArray[Any]],
    noise: FloatColumn,
    by_blocks: FloatColumn,
    snr: Sequence[float],
    covered: FloatColumn,
    systematic: LabelArray | None,
    known: Calibration | None,
) -> dict[str, NDArray[Any]]:
    """Return the columns that a calibration changes: ``rv``, ``rv_zero``, ``e_rv_sys`` and ``e_teff_sys`` and so on.

    What blocks of wavelength disagree by beyond noise is the error of a template that is wrong, less the part that a
    zero point takes off. Without a calibration all of it counts, and systematic errors of labels are the model's.

    Args:
        fits: ``rv``, labels and their random errors, ``(row,)`` each.
        noise: errors of velocities by noise alone (km/s), ``(row,)``.
        by_blocks: see `stargap.measurement.velocity.Velocities`.
        snr: the lower of r and i.
        covered: fraction of the range that each spectrum covers.
        systematic: errors of labels that the model gives without a calibration, ``(row, 4)``; None without a model,
            whose systematic errors nobody knows (NaN).
        known: of the model.

    Example:
        >>> noise, by_blocks, whole = np.array([3.0]), np.array([5.0]), np.array([1.0])
        >>> fits = {"rv": np.array([12.0])} | dict.fromkeys(LABELS, whole) | {f"e_{name}": whole for name in LABELS}
        >>> found = calibrated(fits, noise, by_blocks, [20.0], whole, np.full((1, 4), 7.0), None)
        >>> [found[name].tolist() for name in ("rv", "rv_zero", "e_rv_sys", "e_teff_sys")]
        [[12.0], [0.0], [4.0], [7.0]]
    """
    excess = np.sqrt(np.maximum(by_blocks**2 - noise**2, 0.0))
    rv = np.asarray(fits["rv"], dtype=float)
    values = np.stack([fits[name] for name in LABELS], axis=1).astype(float)
    missing = missing_systematic(covered, np.stack([fits[f"e_{name}"] for name in LABELS], axis=1).astype(float))
    given = np.full_like(values, np.nan) if systematic is None else np.where(np.isnan(values), np.nan, systematic)
    labels, signal = values[:, [TEFF, M_H]], np.array(snr, dtype=float)
    errors = [None if known is None else known.error(name, labels, signal) for name in LABELS]
    columns: dict[str, NDArray[Any]] = {
        f"e_{name}_sys": np.hypot(given[:, place] if error is None else error, missing[:, place])
        for place, (name, error) in enumerate(zip(LABELS, errors, strict=True))
    }
    if known is None:
        return {"rv": rv, "rv_zero": np.where(np.isfinite(rv), 0.0, np.nan), "e_rv_sys": excess, **columns}
    zero = np.where(np.isfinite(rv), known.zero_point(labels), np.nan)
    beyond = known.error("rv", np.where(np.isfinite(labels), labels, CENTRE[:2]), signal)
    parts = (known.blocks * excess, known.e_velocity, 0.0 if beyond is None else beyond)
    total = np.where(np.isfinite(rv), np.sqrt(sum(np.square(part) for part in parts)), np.nan)
    return {"rv": rv - zero, "rv_zero": zero, "e_rv_sys": total, **columns}
