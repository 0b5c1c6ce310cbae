"""Pictures of fits: drawn after the results are known, so that a fault of a picture costs that picture alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.measurement.jobs import Job, measure_items
from stargap.measurement.modelled import modelled_spectra
from stargap.settings import MeasureSettings
from stargap.spectra.address import split_address
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Spectrum
from stargap.workers import each_alone, each_result

__all__ = ["draw_fits", "picture_folder"]

DPI = 120
CHUNK = 64
"""Pictures that one process draws before it takes others."""


def picture_folder(path: str | Path) -> Path:
    """Make a folder for pictures, with its parents, where there is none.

    Raises:
        UsageError: it cannot be made, or is not a folder.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{folder}: this folder for pictures cannot be made ({error.strerror})"
        raise UsageError(message) from None
    return folder


def draw_fits(
    spectra: Sequence[str | Path | Spectrum],
    folder: str | Path,
    *,
    table: Mapping[str, NDArray[Any]],
    settings: MeasureSettings | None = None,
    model: str | Path | None = None,
    read: ReadSettings | None = None,
    workers: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> list[str]:
    """Draw the fit of every measured spectrum, ``NNNNNN-name.png`` with its ``spectrum_id``.

    Each spectrum is read and fitted again, with the same result: tables are not kept waiting for pictures.

    Args:
        spectra: what was measured, in the order of the table.
        folder: of the pictures; it is made if need be.
        table: the columns ``spectrum_id`` and ``teff`` of the result, ``(row,)``; rows without labels get no picture,
            nor do rows that are left out of it.
        settings: as for `stargap.measure`.
        model: as for `stargap.measure`.
        read: as for `stargap.measure`.
        workers: processes.
        progress: called with the number of pictures done since the last call.

    Returns:
        one sentence for each picture that could not be drawn.

    Raises:
        UsageError: the folder cannot be made.
        ModelError: a model that cannot be used.
    """
    target, job = picture_folder(folder), Job.of(settings, model, read)
    rows = np.asarray(table["spectrum_id"])[np.isfinite(np.asarray(table["teff"], dtype=float))].tolist()
    chunks = [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
    jobs = [(job, target, chunk, [spectra[row] for row in chunk]) for chunk in chunks]
    faults: list[str] = []
    for chunk, found in zip(
        chunks, each_result(_draw_chunk, jobs, max(1, min(workers, len(jobs))), rescue=_draw_one_by_one), strict=True
    ):
        faults += found
        if progress is not None:
            progress(len(chunk))
    return faults


def _draw_chunk(job: Job, folder: Path, numbers: Sequence[int], items: Sequence[str | Path | Spectrum]) -> list[str]:
    """Draw a chunk, and return why pictures are missing."""
    from stargap.figures.fit import fit_figure
    from stargap.figures.style import png

    columns, fitted = measure_items(job, 0, items)
    spectra = modelled_spectra(columns, fitted)
    columns["spectrum_id"] = np.array(numbers, dtype=np.int64)
    faults = []
    for row, number in enumerate(numbers):
        source, place = split_address(str(columns["path"][row]))
        name = (Path(source).name.split(".fit")[0] or "spectrum") + ("" if place is None else f"-{place}")
        path = folder / f"{number:06d}-{re.sub(r'[^A-Za-z0-9._+-]', '_', name)[:120]}.png"
        try:
            picture = png(fit_figure(columns, row, spectra[row : row + 1]), dpi=DPI)
            with replacing(path) as file:
                file.write(picture)
        except Exception as error:  # whatever a drawing library raises: results do not depend on it
            faults.append(f"{path}: no picture ({type(error).__name__}: {error})")
    return faults


def _draw_one_by_one(job: Job, folder: Path, numbers: Sequence[int], items: Sequence[Any]) -> Iterator[list[str]]:
    """Draw a chunk whose process died, each picture in a process of its own."""
    parts = each_alone(
        _draw_chunk, [(job, folder, [number], [item]) for number, item in zip(numbers, items, strict=True)]
    )
    faults: list[str] = []
    for number, found in zip(numbers, parts, strict=True):
        faults += (
            [f"{folder}: no picture of spectrum {number} (the process that drew it died)"] if found is None else found
        )
    yield faults
