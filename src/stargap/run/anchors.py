"""Anchor stars from a CSV of files and labels, and the training that `stargap train` makes of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import SpectrumError, UsageError
from stargap.files import replacing
from stargap.measurement.star import BATCH, batch_velocity
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.theory.emulator import Emulator
from stargap.transfer.anchored.train import AnchorStars, CrossValidated

__all__ = ["read_anchor_stars", "scores_of", "write_cross_validation"]

NEEDED = ("path", "teff", "logg", "m_h")
LABELS = NEEDED[1:]
SCORED = {"": True, "1": True, "0": False}


def read_anchor_stars(path: str | Path, emulator: Emulator) -> tuple[AnchorStars, NDArray[np.bool_]]:
    """Read, shift to the rest frame and prepare the spectra that a CSV names.

    Args:
        path: CSV with ``path,teff,logg,m_h`` (K, dex), one spectrum a line, paths from the folder of the CSV;
            optionally ``star``, a name (spectra of one star are held out together), and ``scored``, 0 for spectra that
            only train, such as saturated ones.
        emulator: for the velocities.

    Returns:
        the stars, and which spectra are scored.

    Raises:
        UsageError: the file cannot be read, lacks columns or labels, or a spectrum cannot be used (each says which).
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
        labels = np.array([[float(line[name]) for name in LABELS] for line in lines]).reshape(-1, len(LABELS))
        files = [path.parent / line["path"] for line in lines]
        scored = np.array([SCORED[(line.get("scored") or "").strip()] for line in lines], dtype=bool)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        message = f"{path}: not a CSV of {','.join(NEEDED)} ({error})"
        raise UsageError(message) from None
    if not np.isfinite(labels).all() or not len(lines):
        message = f"{path}: line {2 + int(np.argmin(np.isfinite(labels).all(axis=1))) if len(lines) else 2}: no labels"
        raise UsageError(message)
    try:
        spectra = [read_spectrum(file) for file in files]
        native, _, _ = native_batch(spectra)
    except SpectrumError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from None
    rv = torch.cat(
        [
            batch_velocity(native[slice(first, first + BATCH)], MeasureSettings(), emulator).rv
            for first in range(0, len(lines), BATCH)
        ]
    )
    if torch.isnan(rv).any():
        message = f"{files[int(torch.isnan(rv).int().argmax())]}: no velocity can be measured: leave this anchor out"
        raise UsageError(message)
    names = [(line.get("star") or "").strip() or file.name for line, file in zip(lines, files, strict=True)]
    return AnchorStars(prepare(native, rv), labels, names), scored


def scores_of(stars: AnchorStars, found: CrossValidated) -> dict[str, float]:
    """Return what stars left out in turn are off by, ours - literature: median, standard deviation and slope."""
    counted = np.isfinite(found.labels).all(axis=1)
    scores = {"anchors": float(len(set(stars.names))), "left_out": float(counted.sum())}
    for place, name in enumerate(LABELS):
        ours, known = found.labels[counted, place], stars.labels[counted, place]
        scores[f"{name}_median"] = float(np.median(ours - known))
        scores[f"{name}_std"] = float(np.std(ours - known))
        scores[f"{name}_slope"] = float(np.polyfit(known, ours, 1)[0]) if np.ptp(known) > 0 else float("nan")
    return {key: value for key, value in scores.items() if np.isfinite(value)}


def write_cross_validation(path: Path, stars: AnchorStars, found: CrossValidated) -> None:
    """Write literature and cross-validated labels as CSV, one line a spectrum that was left out."""
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
