"""Many spectra, from paths or arrays to a table: chunks and worker processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stargap import __version__
from stargap.errors import SpectrumError, UsageError
from stargap.measurement.jobs import Job, measure_items
from stargap.measurement.pictures import draw_fits, picture_folder
from stargap.measurement.star import BATCH, Columns
from stargap.pixels import grid_for
from stargap.processor import cpu_capability
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import list_spectra, spectra_from_arrays
from stargap.spectra.spectrum import Spectrum
from stargap.tables.columns import MEASURED
from stargap.tables.write import write_table
from stargap.workers import each_alone, each_result

__all__ = ["Measurements", "measure"]


@dataclass(frozen=True)
class Measurements:
    """What `measure` returns: ``columns``, arrays ``(row,)`` by the names of the schema, and their provenance."""

    columns: Columns
    provenance: dict[str, str]

    def __len__(self) -> int:
        return len(self.columns["spectrum_id"])

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def write(self, path: str | Path) -> None:
        """Write the table: ``.fits``, ``.parquet``, ``.csv``, ``.vot`` or ``.ecsv`` by its suffix.

        Raises:
            UsageError: another suffix.
        """
        write_table(self.columns, path, provenance=self.provenance)

    def failures(self) -> dict[str, int]:
        """Return how many files could not be read, by reason, most frequent first."""
        reasons, counts = np.unique(self.columns["failure"].astype(str), return_counts=True)
        found = {str(r): int(c) for r, c in zip(reasons, counts, strict=True) if r}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def measure(
    spectra: str | Path | Spectrum | Sequence[str | Path | Spectrum] | ArrayLike,
    *,
    wavelength: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    settings: MeasureSettings | None = None,
    model: str | Path | None = None,
    workers: int = 1,
    plot: str | Path | None = None,
    zero_points: Mapping[tuple[str, int], float] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Measurements:
    """Measure RV, Teff, log g, [M/H], subtype and H-alpha of spectra, with errors and flags; one row each, in order.

    Args:
        spectra: paths, `Spectrum` objects, or, with `wavelength`, an array of fluxes ``(pixel,)`` or ``(star, pixel)``.
            Masked pixels have weight zero, and units of astropy are honoured.
        wavelength: A unless it has a unit, vacuum, heliocentric, ``(pixel,)``.
        ivar: inverse variances of the fluxes, the same shape, 0 at bad pixels; needed with `wavelength`.
        settings: see `MeasureSettings`.
        model: a folder with ``emulator.safetensors`` and its card, a trained transfer (``*.safetensors`` with its
            card), or the name of a model inside the package: ``transfer-lamost`` (the default, experimental: see its
            card in docs/model-lamost.md), ``emulator``, or ``transfer-simulated``, for simulated stars alone. The
            default of the paper's preset is ``emulator``: a transfer works on spectra of the preset that it was
            trained with.
        workers: processes; results are the same for any number.
        plot: folder for a picture of each fit (`stargap.measurement.pictures.draw_fits`); a picture that cannot be
            drawn is a warning.
        zero_points: velocity of each plate and spectrograph (km/s) by ``(plan_id, spectrograph)``, subtracted from
            ``rv``; see `stargap.measurement.inputs.read_zero_points`.
        progress: called with the number of rows done since the last call.

    Raises:
        UsageError: arrays whose shapes or units do not agree.
        ModelError: a model that cannot be used.

    Example:
        >>> import stargap
        >>> wave = 10.0 ** (1e-4 * np.arange(37600, 39590))
        >>> table = stargap.measure(np.ones_like(wave), wavelength=wave, ivar=np.zeros_like(wave))
        >>> len(table), table["teff"].tolist(), table["flag_text"][0]
        (1, [nan], 'too few good pixels for labels, ...')
    """
    items = _items(spectra, wavelength, ivar)
    job = Job.of(settings, model)
    folder = None if plot is None else picture_folder(plot)
    parts: list[Columns] = []
    jobs = [(job, first, items[first : first + BATCH]) for first in range(0, len(items), BATCH)]
    for part in each_result(_measure_chunk, jobs, max(1, min(workers, len(jobs))), rescue=_one_by_one):
        parts.append(part)
        if progress is not None:
            progress(len(part["spectrum_id"]))
    if not parts:
        parts = [_measure_chunk(job, 0, [])]
    columns = {column.name: np.concatenate([part[column.name] for part in parts]) for column in MEASURED}
    for (plan_id, spectrograph), offset in (zero_points or {}).items():
        columns["rv"][(columns["plan_id"] == plan_id) & (columns["spectrograph"] == spectrograph)] -= offset
    card = job.load().card
    provenance = {
        "creator": f"stargap {__version__}",
        "settings": job.settings.model_dump_json(),
        "model": f"{card.kind} v{card.version} {card.sha256}",
        "model_training_data": card.training_data,
        "model_seed": str(card.seed),
        "pixel_grid": grid_for(job.settings.preset).digest,
        "cpu_capability": cpu_capability(),
        "zero_points": json.dumps([[plan, number, rv] for (plan, number), rv in sorted((zero_points or {}).items())]),
    }
    if folder is not None:
        for fault in draw_fits(items, folder, settings=job.settings, model=job.model, table=columns, workers=workers):
            warnings.warn(fault, stacklevel=2)
    return Measurements(columns, provenance)


def _items(spectra: Any, wavelength: ArrayLike | None, ivar: ArrayLike | None) -> list[str | Path | Spectrum]:
    if wavelength is None:
        if ivar is not None:
            message = "arrays of fluxes need wavelength and ivar"
            raise UsageError(message)
        return list_spectra(spectra)
    if ivar is None:
        message = "ivar is needed with wavelength: the inverse variance of each flux, 0 at bad pixels"
        raise UsageError(message)
    return [*spectra_from_arrays(spectra, wavelength, ivar)]


def _measure_chunk(job: Job, first: int, items: Sequence[str | Path | Spectrum | SpectrumError]) -> Columns:
    return measure_items(job, first, items)[0]


def _one_by_one(job: Job, first: int, items: list[Any]) -> Iterator[Columns]:
    """Measure a chunk whose process died, item by item in new processes; an item that kills its process says so."""
    parts = each_alone(_measure_chunk, [(job, place, [item]) for place, item in enumerate(items, first)])
    for place, (item, part) in enumerate(zip(items, parts, strict=True), first):
        if part is not None:
            yield part
            continue
        path = item.facts.path if isinstance(item, Spectrum) else item
        yield _measure_chunk(job, place, [SpectrumError(path, "the process that measured it died")])
