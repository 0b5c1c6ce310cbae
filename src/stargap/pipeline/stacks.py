"""The stage that fits the stacked spectra of stars with several: one set of labels to all of a star's spectra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.stars import star_numbers
from stargap.errors import SpectrumError
from stargap.measurement.models import settings_for
from stargap.measurement.stack import co_added
from stargap.measurement.star import BATCH, measure_batch
from stargap.pipeline.folder import Columns, Made, Run
from stargap.pixels import LOG_LAMBDA, MODEL_RESOLUTION
from stargap.processor import single_thread
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.store.shards import Shard
from stargap.survey.cleaning.rules import is_rejected
from stargap.tables.columns import INT_NULL, STACKED
from stargap.tables.parquet import read_columns, write_columns

__all__ = ["make_stacks"]

_BLOCK = 8 * BATCH
"""Stars whose spectra are in memory together."""
_NEEDED = ("spectrum_id", "gaia_source_id", "in_sample", "clean_flags", "rv", "use_rv", "use_teff")


@single_thread()
def make_stacks(run: Run, unit: int | None) -> Made:
    """Stack the usable spectra of each star that has several, and fit them; nothing where nobody asks for it."""
    path = run.folder / "stack" / "stacks.parquet"
    parts = [{name: np.empty(0, dtype=kind) for name, kind in _TYPES.items()}]
    if run.settings.fit.stacks:
        table = read_columns(run.folder / "measured.parquet", list(_NEEDED))
        parts += [_fitted(run, table, rows) for rows in _blocks(table)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_columns(path, columns)
    return Made([path], len(columns["gaia_source_id"]))


_TYPES: dict[str, str] = {"gaia_source_id": "int64", **{column.name: column.dtype for column in STACKED}}


def _blocks(table: Columns) -> Iterator[list[NDArray[np.int64]]]:
    """Yield the rows of each star with several usable spectra, some stars at a time."""
    usable = table["in_sample"] & ~is_rejected(table["clean_flags"]) & (table["gaia_source_id"] != INT_NULL)
    usable &= (table["use_rv"] == 1) & (table["use_teff"] == 1)
    rows = np.flatnonzero(usable)
    star, _ = star_numbers(table["gaia_source_id"][rows])
    order = np.argsort(star, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(star[order])) + 1)
    several = [group for group in groups if len(group) > 1]
    for first in range(0, len(several), _BLOCK):
        yield several[first : first + _BLOCK]


def _fitted(run: Run, table: Columns, stars: list[NDArray[np.int64]]) -> Columns:
    """Return the columns of the stacks of some stars."""
    spectra = _read(run, table["spectrum_id"][np.concatenate(stars)])
    ends = np.cumsum([len(rows) for rows in stars])
    stacks = [
        _stack(spectra[end - len(rows) : end], table["rv"][rows].astype(float))
        for rows, end in zip(stars, ends.tolist(), strict=True)
    ]
    transfer = run.transfer()
    settings, emulator = settings_for(transfer, run.settings.measure), run.emulator()
    parts = [
        measure_batch(stacks[first : first + BATCH], settings, emulator, transfer=transfer)[0]
        for first in range(0, len(stacks), BATCH)
    ]
    found: Columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns = {f"{name}_stack": values for name, values in found.items()}
    columns["use_stack"] = np.min([found[f"use_{name}"] for name in ("teff", "logg", "m_h")], axis=0)
    columns["gaia_source_id"] = table["gaia_source_id"][[rows[0] for rows in stars]]
    columns["n_stack"] = np.array([len(rows) for rows in stars])
    return {name: columns[name].astype(kind) for name, kind in _TYPES.items()}


def _stack(spectra: list[Spectrum], rv: NDArray[np.float64]) -> Spectrum | SpectrumError:
    try:
        return co_added(spectra, rv)
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
