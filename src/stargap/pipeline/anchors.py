"""Stars with known labels: read from CSV files, and the scores of a training that leaves them out in turn."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import SpectrumError, UsageError
from stargap.files import read_text, replacing
from stargap.measurement.star import BATCH, batch_velocity
from stargap.rows import IntColumn
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.theory.emulator import Emulator
from stargap.transfer.anchored.anchors import ERRORS as USUAL
from stargap.transfer.anchored.anchors import P_SINGLE, AnchorStars
from stargap.transfer.anchored.label_map import fit_slope
from stargap.transfer.anchored.train import CrossValidated

__all__ = ["read_anchor_labels", "read_anchor_stars", "scores_of", "write_cross_validation"]

LABELS = ("teff", "logg", "m_h")
ERRORS = ("e_teff", "e_logg", "e_m_h")
OURS = 0.5
"""Scatter of measured labels over the errors of known ones, for slopes with errors in both."""


def read_anchor_stars(path: str | Path, emulator: Emulator) -> tuple[AnchorStars, NDArray[np.bool_]]:
    """Read the spectra that a CSV names, measure their velocities, and prepare them in the rest frame.

    Args:
        path: CSV with the columns path, teff, logg, m_h (K, dex), one spectrum per line, paths relative to the folder
            of the CSV; optionally ``star``, a name (spectra of one star are left out together in the
            cross-validation), ``scored``, 0 for spectra that only train, such as saturated ones, errors ``e_teff,
            e_logg, e_m_h``, ``source``, where labels are from (all sources but the most frequent get a zero point),
            and ``p_single``, the chance that the star is no unresolved pair; empty fields take the usual value.
        emulator: templates of the velocities.

    Returns:
        the stars, and which of their spectra are scored, ``(star,)``.

    Raises:
        UsageError: the file cannot be read, a column or a label is missing, or a spectrum cannot be used.
    """
    path = Path(path)
    lines = _read_lines(path, ("path", *LABELS))
    labels = _numbers(path, lines, LABELS)
    files = [path.parent / line["path"].strip() for line in lines]
    scored = []
    for number, line in enumerate(lines, start=2):
        word = (line.get("scored") or "1").strip()
        if word not in ("0", "1", ""):
            message = f"{path}: line {number}: scored is {word!r}; it must be 1, or 0 for a spectrum that only trains"
            raise UsageError(message)
        scored.append(word != "0")
    try:
        native, _, _ = native_batch([read_spectrum(file) for file in files])
    except SpectrumError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from None
    batches = [native[slice(first, first + BATCH)] for first in range(0, len(lines), BATCH)]
    rv = torch.cat([batch_velocity(batch, MeasureSettings(), emulator).rv for batch in batches])
    if torch.isnan(rv).any():
        message = f"{files[int(torch.isnan(rv).int().argmax())]}: no velocity can be measured: leave this anchor out"
        raise UsageError(message)
    names = [(line.get("star") or "").strip() or file.name for line, file in zip(lines, files, strict=True)]
    errors = np.stack([_optional(path, lines, name, usual) for name, usual in zip(ERRORS, USUAL, strict=True)], axis=1)
    p_single = _optional(path, lines, "p_single", P_SINGLE)
    if not ((errors > 0).all() and (p_single > 0).all() and (p_single <= 1).all()):
        sound = (errors > 0).all(axis=1) & (p_single > 0) & (p_single <= 1)
        message = f"{path}: line {int(np.argmin(sound)) + 2}: errors must be positive, p_single above 0 and at most 1"
        raise UsageError(message)
    sources = [(line.get("source") or "").strip() for line in lines]
    return AnchorStars(prepare(native, rv), labels, names, errors, p_single, sources), np.array(scored, dtype=bool)


def _optional(path: Path, lines: Sequence[dict[str, str]], name: str, usual: float) -> NDArray[np.float64]:
    """Return a column of numbers, ``(row,)``, with a usual value where it is empty or not there."""
    given = [{name: (line.get(name) or "").strip() or str(usual)} for line in lines]
    return _numbers(path, given, (name,))[:, 0]


def read_anchor_labels(path: Path, count: int) -> tuple[IntColumn, NDArray[np.float64], NDArray[np.float64]]:
    """Read stars with known labels that are given by their row among the training spectra.

    Args:
        path: CSV with the columns row, teff, logg, m_h, e_teff, e_logg, e_m_h (K, dex).
        count: number of training spectra.

    Returns:
        rows ``(row,)``, labels and their errors, both ``(row, 3)``.

    Raises:
        UsageError: the file cannot be read, a column is missing, or a row, label or error makes no sense.
    """
    lines = _read_lines(path, ("row", *LABELS, *ERRORS))
    values = _numbers(path, lines, ("row", *LABELS, *ERRORS))
    rows, errors = values[:, 0], values[:, 1 + len(LABELS) :]
    valid = (rows % 1 == 0) & (rows >= 0) & (rows < count) & (errors > 0).all(axis=1)
    if not valid.all():
        message = f"{path}: line {int(np.argmin(valid)) + 2}: row must be 0 to {count - 1}, and errors positive"
        raise UsageError(message)
    return rows.astype(np.int64), values[:, 1 : 1 + len(LABELS)], errors


def _read_lines(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the lines of a CSV file by the names in its first line."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True, restval="")
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        lines = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        message = f"{path}: cannot be read as CSV ({getattr(error, 'strerror', None) or error})"
        raise UsageError(message) from None
    missing = [name for name in needed if name not in names]
    if missing:
        message = f"{path}: no column {', '.join(map(repr, missing))}; needed are {', '.join(needed)}"
        raise UsageError(message)
    if not lines:
        message = f"{path}: no line below the names of its columns"
        raise UsageError(message)
    return lines


def _numbers(path: Path, lines: Sequence[dict[str, str]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return columns of finite numbers, ``(row, column)``."""
    values = np.full((len(lines), len(names)), np.nan)
    for row, line in enumerate(lines):
        for place, name in enumerate(names):
            with contextlib.suppress(ValueError):
                values[row, place] = float(line[name])
            if not np.isfinite(values[row, place]):
                message = f"{path}: line {row + 2}: {name} is {line[name]!r}, which is not a finite number"
                raise UsageError(message)
    return values


def scores_of(stars: AnchorStars, found: CrossValidated) -> dict[str, float]:
    """Return median, standard deviation and slopes of measured against known labels of the stars left out.

    ``_slope`` is that of ours on known ones, shrunk by their errors; ``_slope_both`` is with errors in both (ours
    scatter by half as much as theirs); ``m_h_gain`` is the change of [M/H] by spectra alone, before the label map.
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
