"""Many spectra, from paths or arrays to a table: chunks and worker processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stargap import __version__
from stargap.console import bar
from stargap.errors import SpectrumError, UsageError
from stargap.measurement.jobs import Job, measure_items
from stargap.measurement.measurements import Measurements
from stargap.measurement.modelled import modelled_spectra
from stargap.measurement.pictures import draw_fits, picture_folder
from stargap.measurement.star import Columns, batch_size, padded_size
from stargap.pixels import grid_for
from stargap.processor import cpu_capability
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import expand_spectra, list_spectra, spectra_from_arrays
from stargap.spectra.modelled import ModelledSpectra, write_spectra
from stargap.spectra.reading import ReadSettings
from stargap.spectra.resolution import instrument_resolution
from stargap.spectra.spectrum import Spectrum
from stargap.tables.columns import MEASURED
from stargap.workers import each_alone, each_result

__all__ = ["measure"]

Part = tuple[Columns, ModelledSpectra | None]


def measure(
    inputs: str | Path | Spectrum | Sequence[str | Path | Spectrum] | ArrayLike,
    /,
    *,
    wavelength: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    settings: MeasureSettings | None = None,
    model: str | Path | None = None,
    instrument: str | float | Sequence[tuple[float, float]] | None = None,
    workers: int = 1,
    plot: str | Path | None = None,
    spectra: bool | str | Path = False,
    read: ReadSettings | None = None,
    zero_points: Mapping[tuple[str, int], float] | None = None,
    progress: bool | Callable[[int], Any] = True,
) -> Measurements:
    """Measure RV, Teff, log g, [M/H], subtype and H-alpha of spectra, with errors and flags; one row each, in order.

    Args:
        inputs: files, folders, globs and ``@list.txt`` as on the command line, `Spectrum` or ``specutils.Spectrum``
            objects, or, with `wavelength`, an array of fluxes ``(pixel,)`` or ``(star, pixel)``. Masked pixels have
            weight zero, and units of astropy are honoured.
        wavelength: A unless it has a unit, vacuum (unless ``read.air``), heliocentric, ``(pixel,)``.
        ivar: inverse variances of the fluxes, the same shape, 0 at bad pixels; needed with `wavelength`.
        settings: see `MeasureSettings`.
        model: a folder with ``emulator.safetensors`` and its card, a trained transfer (``*.safetensors`` with its
            card), or the name of a model inside the package: ``transfer-lamost`` (the default, experimental: see its
            card in docs/model-lamost.md), ``emulator``, or ``transfer-simulated``, for simulated stars alone. The
            default of the paper's preset is ``emulator``: a transfer works on spectra of the preset that it was
            trained with.
        instrument: resolving power lambda / FWHM of spectra that do not tell it, arrays above all: the name of an
            instrument (``"desi"``, ``"boss"``, ``"sdss"``, ``"miles"`` and others of
            `stargap.spectra.linespread.INSTRUMENTS`), a number, or pairs of wavelength (A) and number. By default they
            are taken to be as sharp as LAMOST's, R = 1800. The same as ``read.instrument``.
        workers: processes; results are the same for any number.
        plot: folder for a picture of each fit (`stargap.measurement.pictures.draw_fits`); a picture that cannot be
            drawn is a warning.
        spectra: True keeps spectra, continua, models and masks in ``spectra`` of the result (70 kB a star); a
            path writes them to that file instead (`stargap.spectra.modelled.write_spectra`).
        read: what is known of files that do not say it themselves: names of columns, air or vacuum, frame, S/N.
        zero_points: velocity of each plate and spectrograph (km/s) by ``(plan_id, spectrograph)``, subtracted from
            ``rv``; see `stargap.measurement.inputs.read_zero_points`.
        progress: show a progress bar on a terminal or in a notebook; or a function that is called with the number of
            rows done since the last call.

    Returns:
        an astropy Table with units, masked where null; its ``meta`` holds versions, settings and digest of the model.

    Raises:
        UsageError: arrays whose shapes or units do not agree; a folder or glob without a FITS file; an instrument that
            is not known, or given twice; a GPU where there is none.
        ModelError: a model that cannot be used.

    Example:
        >>> import stargap
        >>> wave = 10.0 ** (1e-4 * np.arange(37600, 39590))
        >>> table = stargap.measure(np.ones_like(wave), wavelength=wave, ivar=np.zeros_like(wave))
        >>> len(table), table["teff"].unit, table["teff"].tolist(), str(table["flag_text"][0])
        (1, Unit("K"), [None], 'too few good pixels for labels, ...')
        >>> table = stargap.measure(np.ones_like(wave), wavelength=wave, ivar=np.ones_like(wave), instrument=1000)
        >>> float(table["resolution"][0])
        1000.0
    """
    read = _with_instrument(read, instrument)
    items = _items(inputs, wavelength, ivar, read)
    job = Job.of(settings, model, read)
    folder = None if plot is None else picture_folder(plot)
    provenance = _provenance(job, zero_points or {})
    with _advance(progress, len(items)) as advance:
        measured = _measured(job, items, workers, advance, spectra)
        columns, kept = _gathered(measured, spectra, provenance)
    for (plan_id, spectrograph), offset in (zero_points or {}).items():
        plate = (columns["plan_id"] == plan_id) & (columns["spectrograph"] == spectrograph)
        columns["rv"][plate] -= offset
        columns["rv_zero"][plate] += offset
    if folder is not None:
        for fault in draw_fits(
            items, folder, settings=job.settings, model=job.model, read=job.read, table=columns, workers=workers
        ):
            warnings.warn(fault, stacklevel=2)
    return Measurements.of(columns, provenance, kept)


def _with_instrument(
    read: ReadSettings | None, instrument: str | float | Sequence[tuple[float, float]] | None
) -> ReadSettings | None:
    if instrument is None:
        return read
    if read is not None and read.instrument is not None:
        message = "the instrument is given twice: as instrument and as read.instrument"
        raise UsageError(message)
    known = {} if read is None else read.model_dump()
    chosen = instrument if isinstance(instrument, str | float | int) else [(float(w), float(r)) for w, r in instrument]
    instrument_resolution(np.array([7000.0]), chosen)
    return ReadSettings(**(known | {"instrument": chosen}))


def _items(
    inputs: Any, wavelength: ArrayLike | None, ivar: ArrayLike | None, read: ReadSettings | None
) -> list[str | Path | Spectrum]:
    if wavelength is None:
        if ivar is not None:
            message = "arrays of fluxes need wavelength and ivar"
            raise UsageError(message)
        return expand_spectra(list_spectra(inputs))
    if ivar is None:
        message = "ivar is needed with wavelength: the inverse variance of each flux, 0 at bad pixels"
        raise UsageError(message)
    return [*spectra_from_arrays(inputs, wavelength, ivar, read)]


@contextmanager
def _advance(progress: bool | Callable[[int], Any], total: int) -> Iterator[Callable[[int], Any]]:
    if callable(progress):
        yield progress
        return
    with bar("measuring", total, show=progress) as advance:
        yield advance


def _measured(
    job: Job, items: list[str | Path | Spectrum], workers: int, advance: Callable[[int], Any], keep: bool | str | Path
) -> Iterator[Part]:
    """Yield what is measured, chunk by chunk, at least one."""
    size = min(batch_size(job.settings), padded_size(-(-len(items) // max(workers, 1))))
    starts = range(0, max(len(items), 1), size)
    jobs = [(job, first, items[first : first + size], keep is not False) for first in starts]
    for part in each_result(_measure_chunk, jobs, workers, rescue=_one_by_one):
        yield part
        advance(len(part[0]["spectrum_id"]))


def _gathered(
    measured: Iterator[Part], keep: bool | str | Path, provenance: Mapping[str, str]
) -> tuple[Columns, ModelledSpectra | None]:
    """Return all columns, and the spectra where they are not written to a file."""
    parts: list[Columns] = []

    def spectra() -> Iterator[ModelledSpectra]:
        for columns, modelled in measured:
            parts.append(columns)
            if modelled is not None:
                yield modelled

    kept = None
    if isinstance(keep, bool):
        some = list(spectra())
        kept = ModelledSpectra.together(some) if some else None
    else:
        write_spectra(spectra(), keep, provenance=provenance)
    return {column.name: np.concatenate([part[column.name] for part in parts]) for column in MEASURED}, kept


def _provenance(job: Job, zero_points: Mapping[tuple[str, int], float]) -> dict[str, str]:
    card = job.load().card
    return {
        "creator": f"stargap {__version__}",
        "settings": job.settings.model_dump_json(),
        "read": job.read.model_dump_json(),
        "model": f"{card.kind} v{card.version} {card.sha256}",
        "model_training_data": card.training_data,
        "model_seed": str(card.seed),
        "pixel_grid": grid_for(job.settings.preset).digest,
        "cpu_capability": cpu_capability(),
        "zero_points": json.dumps([[plan, number, rv] for (plan, number), rv in sorted(zero_points.items())]),
    }


def _measure_chunk(job: Job, first: int, items: Sequence[str | Path | Spectrum | SpectrumError], keep: bool) -> Part:
    columns, fitted = measure_items(job, first, items)
    return columns, modelled_spectra(columns, fitted) if keep else None


def _one_by_one(job: Job, first: int, items: list[Any], keep: bool) -> Iterator[Part]:
    """Measure a chunk whose process died, item by item in new processes; an item that kills its process says so."""
    parts = each_alone(_measure_chunk, [(job, place, [item], keep) for place, item in enumerate(items, first)])
    for place, (item, part) in enumerate(zip(items, parts, strict=True), first):
        if part is not None:
            yield part
            continue
        path = item.facts.path if isinstance(item, Spectrum) else item
        yield _measure_chunk(job, place, [SpectrumError(path, "the process that measured it died")], keep)
