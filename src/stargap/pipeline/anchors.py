"""Stars with known labels: read with their spectra, and the scores of a training that leaves them out in turn."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import SpectrumError, UsageError
from stargap.files import replacing
from stargap.measurement.star import BATCH, batch_velocity
from stargap.pipeline.anchor_tables import read_anchor_tables
from stargap.rows import IntColumn
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.statistics import undiluted_slope
from stargap.tables.nulls import parsed
from stargap.theory.emulator import Emulator
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.label_map import fit_slope
from stargap.transfer.anchored.train import CrossValidated

__all__ = ["read_anchor_labels", "read_anchor_stars", "scores_of", "write_cross_validation"]

LABELS = ("teff", "logg", "m_h")
OURS = 0.5
"""Scatter of measured labels over the errors of known ones, for slopes with errors in both."""


def read_anchor_stars(
    paths: Sequence[Path], emulator: Emulator, targets: Path | None = None
) -> tuple[AnchorStars, NDArray[np.bool_]]:
    """Read the spectra that tables name, measure their velocities, and prepare them in the rest frame.

    Args:
        paths: tables of known labels (`read_anchor_tables`), whose column path, or that of
            ``targets``, names the spectra. Spectra of one star are left out together in the cross-validation.
        emulator: templates of the velocities.
        targets: which spectrum is of which star.

    Returns:
        the stars, and which of their spectra are scored, ``(anchor,)``.

    Raises:
        UsageError: a table cannot be read, a column or a label is missing, or a spectrum cannot be used.
    """
    table = read_anchor_tables(paths, "path", targets).within(emulator.lower[:3].numpy(), emulator.upper[:3].numpy())
    files, place = np.unique(table.spectra, return_inverse=True)
    try:
        native, _, _ = native_batch([read_spectrum(file) for file in files.tolist()])
    except SpectrumError as error:
        message = f"{', '.join(map(str, paths))}: {error}"
        raise UsageError(message) from None
    batches = [native[slice(first, first + BATCH)] for first in range(0, len(files), BATCH)]
    rv = torch.cat([batch_velocity(batch, MeasureSettings(), emulator).rv for batch in batches])
    if torch.isnan(rv).any():
        message = f"{files[int(torch.isnan(rv).int().argmax())]}: no velocity can be measured: leave this anchor out"
        raise UsageError(message)
    known = table.labels
    prepared = prepare(native, rv)[torch.as_tensor(place)]
    return AnchorStars(prepared, known.labels, table.stars, known.errors, known.p_single, known.sources), table.scored


def read_anchor_labels(
    paths: Sequence[Path], count: int, targets: Path | None = None
) -> tuple[IntColumn, AnchorLabels]:
    """Read stars with known labels that are given by their row among the training spectra.

    Args:
        paths: tables of known labels (`read_anchor_tables`), whose column row, or that of
            ``targets``, counts the training spectra from 0.
        count: number of training spectra.
        targets: which row is of which star.

    Returns:
        rows ``(anchor,)``, and labels.

    Raises:
        UsageError: a table cannot be read, a column is missing, or a row, label or error makes no sense.
    """
    table = read_anchor_tables(paths, "row", targets)
    rows = parsed(np.array(table.spectra), ", ".join(map(str, paths)) + ": column 'row'").astype(float)
    valid = (rows % 1 == 0) & (rows >= 0) & (rows < count)
    if not valid.all():
        bad = int(np.argmin(valid))
        message = f"{table.lines[bad]}: row is {table.spectra[bad]}; it must be 0 to {count - 1}"
        raise UsageError(message)
    return rows.astype(np.int64), table.labels


def scores_of(stars: AnchorStars, found: CrossValidated) -> dict[str, float]:
    """Return median, standard deviation and slopes of measured against known labels of the stars left out.

    ``_slope`` is that of ours on known ones, shrunk by their errors; ``_slope_both`` is with errors in both (ours
    scatter by half as much as theirs), ``_slope_true`` without what errors of known ones do (`undiluted_slope`, ours
    have no error but noise); ``m_h_gain`` is the change of [M/H] by spectra alone, before the label map.
    """
    counted = np.isfinite(found.labels).all(axis=1)
    scores = {"anchors": float(len(set(stars.names))), "left_out": float(counted.sum())}
    for place, name in enumerate(LABELS):
        ours, known = found.labels[counted, place], stars.labels[counted, place]
        scores[f"{name}_median"] = float(np.median(ours - known))
        scores[f"{name}_std"] = float(np.std(ours - known))
        scores[f"{name}_slope"] = float(np.polyfit(known, ours, 1)[0]) if np.ptp(known) > 0 else float("nan")
        error = stars.errors[counted, place]
        scores[f"{name}_slope_both"] = fit_slope(known, ours, error, OURS * float(np.mean(error)))
        noise, single = found.errors[counted, place], stars.p_single[counted]
        scores[f"{name}_slope_true"] = undiluted_slope(ours, known, noise, weight=single)
    if found.label_map is not None:
        scores["m_h_gain"] = found.label_map.gain
    return {key: value for key, value in scores.items() if np.isfinite(value)}


def write_cross_validation(path: Path, stars: AnchorStars, found: CrossValidated) -> None:
    """Write literature and cross-validated labels as CSV, one line per spectrum that was left out."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["star", *LABELS, *(f"{name}_left_out" for name in LABELS), *(f"e_{name}" for name in LABELS), "chi2"]
    )
    for row in np.flatnonzero(np.isfinite(found.labels).all(axis=1)).tolist():
        numbers = (*stars.labels[row], *found.labels[row, :3], *found.errors[row, :3], found.chi2[row])
        writer.writerow([stars.names[row], *(f"{number:.5g}" for number in numbers)])
    with replacing(path) as out:
        out.write(file.getvalue().encode())
