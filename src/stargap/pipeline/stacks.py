"""The stage that fits the stacked spectra of stars with several: one set of labels to all of a star's spectra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.measurement.models import settings_for
from stargap.measurement.stack import co_added
from stargap.measurement.star import batch_size, measure_batch
from stargap.pipeline.folder import Columns, Made, Run
from stargap.pixels import LOG_LAMBDA, MODEL_RESOLUTION
from stargap.processor import single_thread
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.store.shards import Shard
from stargap.tables.arrow import product_column
from stargap.tables.columns import INT_NULL, STACKED
from stargap.tables.parquet import read_row_group, write_columns

__all__ = ["make_stacks"]


@single_thread()
def make_stacks(run: Run, unit: int | None) -> Made:
    """Stack and fit the spectra of stars that have several, of which the first is in this shard; none if not asked."""
    assert unit is not None
    group = read_row_group(run.groups, unit)
    table = {name: product_column(group[name]) for name in group.column_names}
    first = np.flatnonzero(np.diff(table["gaia_source_id"], prepend=INT_NULL))
    wanted = run.settings.fit.stacks and len(first)
    stars = np.split(np.arange(len(table["spectrum_id"])), first[1:]) if wanted else []
    parts = [{name: np.empty(0, dtype=kind) for name, kind in _TYPES.items()}]
    size = batch_size(run.settings.measure)
    parts += [_fitted(run, table, stars[begin : begin + size]) for begin in range(0, len(stars), size)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    path = run.part("stack", unit)
    write_columns(path, columns)
    return Made([path], len(columns["gaia_source_id"]))


_TYPES: dict[str, str] = {"gaia_source_id": "int64", **{column.name: column.dtype for column in STACKED}}


def _fitted(run: Run, table: Columns, stars: list[NDArray[np.int64]]) -> Columns:
    """Return the columns of the stacks of some stars, at most `batch_size`."""
    spectra = _read(run, table["spectrum_id"][np.concatenate(stars)])
    ends = np.cumsum([len(rows) for rows in stars])
    stacks = [
        _stack(spectra[end - len(rows) : end], table["rv"][rows].astype(float))
        for rows, end in zip(stars, ends.tolist(), strict=True)
    ]
    transfer = run.transfer()
    settings, emulator = settings_for(transfer, run.settings.measure), run.emulator()
    found, _ = measure_batch(stacks, settings, emulator, transfer=transfer)
    columns = {f"{name}_stack": values for name, values in found.items()}
    columns["use_stack"] = np.min([found[f"use_{name}"] for name in ("teff", "logg", "m_h")], axis=0)
    columns["gaia_source_id"] = table["gaia_source_id"][[rows[0] for rows in stars]]
    columns["n_stack"] = np.array([len(rows) for rows in stars])
    return {name: columns[name].astype(kind) for name, kind in _TYPES.items()}


def _stack(spectra: list[Spectrum], rv: NDArray[np.float64]) -> Spectrum | SpectrumError:
    try:
        return co_added(spectra, rv)[0]
    except SpectrumError as error:
        return error


def _read(run: Run, ids: NDArray[np.int64]) -> list[Spectrum]:
    """Return spectra of the store by their ``spectrum_id``, in its order, shard by shard."""
    found: dict[int, Spectrum] = {}
    size = Shard.open(run.store, 0).card.shard_rows
    for number in np.unique(ids // size).tolist():
        shard, here = Shard.open(run.store, number), ids[ids // size == number]
        facts, native = shard.facts(), shard.read(here % size)
        found |= {int(one): _spectrum(native, row, facts[int(one % size)]) for row, one in enumerate(here)}
    return [found[one] for one in ids.tolist()]


def _spectrum(native: NativeBatch, row: int, facts: Facts) -> Spectrum:
    resolution = float(native.resolution[row])
    power = None if resolution == MODEL_RESOLUTION else np.full(LOG_LAMBDA.count, resolution)
    flux, ivar = native.flux[row].double().numpy(), native.ivar[row].double().numpy()
    return Spectrum(LOG_LAMBDA.wavelength, flux, ivar, replace(facts, path=""), power)
