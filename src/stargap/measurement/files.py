"""Many spectra, from paths or arrays to a table: chunks, worker processes, pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stargap import __version__
from stargap.errors import ModelError, SpectrumError, UsageError
from stargap.files import replacing
from stargap.measurement.models import EMULATOR, LAMOST, AnyTransfer, load_model_named, settings_for
from stargap.measurement.star import BATCH, Columns, Fitted, measure_batch
from stargap.pixels import grid_for
from stargap.processor import cpu_capability, single_thread
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import list_spectra, spectra_from_arrays
from stargap.spectra.readers.content import Content, check_spectrum
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Spectrum
from stargap.tables.columns import MEASURED
from stargap.tables.write import write_table
from stargap.theory.emulator import Emulator
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
    spectra: Sequence[str | Path | Spectrum] | ArrayLike,
    *,
    wavelength: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    settings: MeasureSettings | None = None,
    model: str | Path | None = None,
    workers: int = 1,
    plot: str | Path | None = None,
    plot_rows: Collection[int] | None = None,
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
        plot: folder for a picture of each fit.
        plot_rows: draw only these values of ``spectrum_id``.
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
    settings = MeasureSettings() if settings is None else settings
    items = _items(spectra, wavelength, ivar)
    if model is None:
        model = LAMOST if settings.preset == "stargap" else EMULATOR
    used = load_model_named(model)
    if not isinstance(used, Emulator):
        if used.grid != grid_for(settings.preset):
            message = (
                f"{model}: this transfer works on spectra prepared by the {used.grid.name} preset, not "
                f"{settings.preset}"
            )
            raise UsageError(message)
        settings = settings_for(used, settings)
    folder = None if plot is None else Path(plot)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    rows = None if plot_rows is None else frozenset(plot_rows)
    job = _Job(settings, str(model), used.card.sha256, folder, rows)
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
    provenance = {
        "creator": f"stargap {__version__}",
        "settings": settings.model_dump_json(),
        "model": f"{used.card.kind} v{used.card.version} {used.card.sha256}",
        "model_training_data": used.card.training_data,
        "model_seed": str(used.card.seed),
        "pixel_grid": grid_for(settings.preset).digest,
        "cpu_capability": cpu_capability(),
        "zero_points": json.dumps([[plan, number, rv] for (plan, number), rv in sorted((zero_points or {}).items())]),
    }
    return Measurements(columns, provenance)


@dataclass(frozen=True)
class _Job:
    settings: MeasureSettings
    model: str
    digest: str
    plot: Path | None
    plot_rows: frozenset[int] | None


@lru_cache(maxsize=2)
def _model(name: str, digest: str) -> Emulator | AnyTransfer:
    model = load_model_named(name)
    if model.card.sha256 != digest:
        message = f"{name}: the model was replaced while it was in use"
        raise ModelError(message)
    return model


def _measure(job: _Job, items: Sequence[Spectrum | SpectrumError], first: int) -> tuple[Columns, Fitted]:
    model = _model(job.model, job.digest)
    emulator, transfer = (model, None) if isinstance(model, Emulator) else (model.emulator, model)
    return measure_batch(items, job.settings, emulator, transfer=transfer, first_id=first)


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


def _checked(given: Spectrum) -> Spectrum:
    content = Content(given.wavelength, given.flux, given.ivar, facts=given.facts)
    return check_spectrum(content, given.facts.path)


def _measure_chunk(job: _Job, first: int, items: Sequence[str | Path | Spectrum]) -> Columns:
    read: list[Spectrum | SpectrumError] = []
    for item in items:
        try:
            read.append(_checked(item) if isinstance(item, Spectrum) else read_spectrum(item))
        except SpectrumError as error:
            read.append(error)
    with single_thread():
        columns, fitted = _measure(job, read, first)
    if job.plot is not None:
        _draw(job.plot, job.plot_rows, columns, fitted)
    return columns


def _draw(folder: Path, wanted: frozenset[int] | None, columns: Columns, fitted: Fitted) -> None:
    from stargap.figures.fit import fit_figure
    from stargap.figures.style import png

    for row in np.flatnonzero(np.isfinite(columns["teff"])):
        number = int(columns["spectrum_id"][row])
        if wanted is not None and number not in wanted:
            continue
        name = Path(str(columns["path"][row])).name.split(".fit")[0] or "spectrum"
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:120]
        with replacing(folder / f"{number:06d}-{name}.png") as file:
            figure = fit_figure(
                columns, int(row), native=fitted.native, prepared=fitted.prepared, model=fitted.fit.model
            )
            file.write(png(figure, dpi=120))


def _one_by_one(job: _Job, first: int, items: list[Any]) -> Iterator[Columns]:
    """Measure a chunk whose process died, item by item in new processes; an item that kills its process says so."""
    parts = each_alone(_measure_chunk, [(job, place, [item]) for place, item in enumerate(items, first)])
    for place, (item, part) in enumerate(zip(items, parts, strict=True), first):
        if part is not None:
            yield part
            continue
        lost = SpectrumError(
            item.facts.path if isinstance(item, Spectrum) else item, "the process that measured it died"
        )
        with single_thread():
            yield _measure(job, [lost], place)[0]
