"""The stages that work shard by shard: ingest, sample, velocities, bins, measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import PerStar
from stargap.labels import LABELS
from stargap.measurement.fits import Fitted
from stargap.measurement.models import settings_for
from stargap.measurement.star import (
    BATCH,
    BatchVelocity,
    batch_size,
    batch_velocity,
    measure_native,
    unmeasured,
)
from stargap.pipeline.folder import Columns, Made, Run, joined_rows
from stargap.pipeline.receipts import CUT_COUNTS
from stargap.pixels import grid_for
from stargap.processor import single_thread
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.store.ingest import ingest_shard, rescue_shard
from stargap.spectra.store.shards import Shard
from stargap.survey.cleaning.bins import bin_spectra, joined_features
from stargap.survey.gaia.sorted import sort_sources, sources_near
from stargap.survey.sample import select
from stargap.tables.columns import DOMAINS, MEASURED
from stargap.tables.parquet import read_columns, write_columns
from stargap.tables.read import read_table
from stargap.tables.write import write_table

__all__ = [
    "CUT_COUNTS",
    "make_bins",
    "make_gaia",
    "make_ingest",
    "make_measured",
    "make_sample",
    "make_velocity",
    "prepared_spectra",
    "rescue_ingest",
]


def make_ingest(run: Run, unit: int | None) -> Made:
    """Bring a shard of the store up to date; one that was made elsewhere is taken as it is."""
    assert unit is not None
    if (run.store / "plan.parquet").exists():
        ingest_shard(run.store, unit, run.settings.ingest)
    shard = Shard.open(run.store, unit)
    failed = sum(reason != "" for reason in shard.failures())
    files = {shard.folder / name: file for name, file in shard.card.files.items()}
    return Made([*files, shard.folder / "shard.json"], len(shard), {"unreadable": failed}, files)


def rescue_ingest(run: Run, unit: int) -> None:
    """Ingest a shard whose process died, without the files that killed it."""
    for _ in rescue_shard(run.store, unit, run.settings.ingest):
        pass


VELOCITY = ("rv", "error", "by_blocks", "chi2", "flags")
"""Columns of the velocity table that are fields of `BatchVelocity`."""


def make_gaia(run: Run, unit: int | None) -> Made:
    """Sort Gaia's table by place and identifier, if there is one, so that no shard has to read it whole."""
    table = run.settings.input.gaia
    return Made([] if table is None else sort_sources(table, run.folder / "gaia"), 0)


def make_sample(run: Run, unit: int | None) -> Made:
    """Join Gaia to a shard's rows and apply the cuts (paper section 2.1)."""
    assert unit is not None
    shard, settings = Shard.open(run.store, unit), run.settings.sample
    columns = ("spectrum_id", "ra", "dec", "lmjd", "snr_r", "snr_i", "object_class", "subclass", "fiber_mask")
    index = read_table(shard.file("index.parquet"), [*columns, "gaia_source_id"])
    sources = None
    if run.settings.input.gaia is not None:
        near = {"radius_arcsec": settings.radius_arcsec, "earliest": settings.earliest_epoch}
        sources = sources_near(run.folder / "gaia", index, **near)
    sample = select(index, sources, settings)
    path = run.part("sample", unit)
    write_columns(path, sample.columns)
    counts = {f"{cut.name}: {what}": getattr(cut, what) for cut in sample.counts for what in CUT_COUNTS}
    if sample.false_values:
        counts["impossible Gaia values"] = sample.false_values
    return Made([path], len(shard), {"in sample": int(sample.columns["in_sample"].sum()), **counts})


def _selected(run: Run, unit: int, shard: Shard) -> NDArray[np.int64]:
    """Return the rows of a shard that are measured: those of the sample that could be read."""
    sample = read_columns(run.part("sample", unit), ["spectrum_id", "in_sample"])
    in_sample = sample["in_sample"][joined_rows(shard.spectrum_id, sample["spectrum_id"], run.part("sample", unit))]
    read = np.array([reason == "" for reason in shard.failures()], dtype=bool)
    return np.flatnonzero(in_sample & read)


def _batches(count: int, size: int = BATCH) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


@single_thread()
def make_velocity(run: Run, unit: int | None) -> Made:
    """Measure radial velocities, and the labels that fits start from, of the sample (paper section 2.3)."""
    assert unit is not None
    shard = Shard.open(run.store, unit)
    rows = _selected(run, unit, shard)
    settings, emulator = run.settings.measure, run.emulator()
    batches = _batches(len(rows), batch_size(settings))
    found = [batch_velocity(shard.read(rows[part]), settings, emulator) for part in batches]
    columns: Columns = {"spectrum_id": shard.spectrum_id[rows]}
    columns |= {name: np.concatenate([np.empty(0), *(getattr(one, name) for one in found)]) for name in VELOCITY}
    columns["flags"] = columns["flags"].astype(np.int64)
    labels = np.concatenate([np.empty((0, len(LABELS))), *(one.labels for one in found)])
    columns |= {f"start_{name}": labels[:, place] for place, name in enumerate(LABELS)}
    path = run.part("velocity", unit)
    write_columns(path, columns)
    return Made([path], len(rows))


def _read_velocity(run: Run, unit: int, shard: Shard) -> tuple[NDArray[np.int64], BatchVelocity]:
    """Return the rows of a shard that have velocities, and these."""
    columns = read_columns(run.part("velocity", unit))
    labels = np.stack([columns[f"start_{name}"] for name in LABELS], axis=1)
    found = {name: torch.from_numpy(columns[name].copy()) for name in VELOCITY}
    rows = joined_rows(columns["spectrum_id"], shard.spectrum_id, shard.folder)
    return rows, BatchVelocity(**found, labels=torch.from_numpy(labels))


def _prepared(run: Run, shard: Shard, rows: NDArray[np.int64], rv: PerStar) -> PreparedSpectra:
    """Return rows of a shard prepared at their velocities; without one no pixel is good."""
    star = prepare(shard.read(rows), rv, grid_for(run.settings.measure.preset))
    star.good[torch.isnan(rv)] = False
    return PreparedSpectra.from_prepared(star, rv.nan_to_num().numpy())


@single_thread()
def prepared_spectra(run: Run, unit: int, chosen: NDArray[np.int64]) -> PreparedSpectra:
    """Return spectra of one shard prepared at their velocities (paper section 2.4).

    Args:
        run: of the survey.
        unit: number of the shard.
        chosen: rows of the shard's table of velocities, in whose order spectra are returned.
    """
    shard = Shard.open(run.store, unit)
    rows, velocity = _read_velocity(run, unit, shard)
    spectra = PreparedSpectra.empty(len(chosen), grid_for(run.settings.measure.preset))
    for part in _batches(len(chosen)):
        spectra.put(part.start, _prepared(run, shard, rows[chosen[part]], velocity.rv[chosen[part]]))
    return spectra


@single_thread()
def make_bins(run: Run, unit: int | None) -> Made:
    """Prepare the sample at its velocities and average it in bins, for the cleaning."""
    assert unit is not None
    shard = Shard.open(run.store, unit)
    rows, velocity = _read_velocity(run, unit, shard)
    parts = [bin_spectra(_prepared(run, shard, rows[part], velocity.rv[part])) for part in _batches(len(rows))]
    folder = run.bins(unit)
    joined_features(parts).save(folder)
    return Made(sorted(folder.glob("*.npy")), len(rows))


@single_thread()
def make_measured(run: Run, unit: int | None) -> Made:
    """Measure a shard, one row per spectrum, null outside the sample (paper section 3.5)."""
    assert unit is not None
    shard = Shard.open(run.store, unit)
    rows, velocity = _read_velocity(run, unit, shard)
    transfer = run.transfer()
    settings = settings_for(transfer, run.settings.measure)
    facts, failure = shard.facts(), shard.failures()
    columns = unmeasured(facts, failure, shard.spectrum_id)
    columns |= {column.name: np.full(len(shard), np.nan) for column in DOMAINS}
    for part in _batches(len(rows), batch_size(settings)):
        here = rows[part]
        measured, fitted = measure_native(
            shard.read(here),
            [facts[row] for row in here],
            settings,
            run.emulator(),
            failure=[failure[row] for row in here],
            spectrum_id=shard.spectrum_id[here],
            transfer=transfer,
            velocity=velocity[part],
        )
        for name, values in (measured | _of_domains(fitted, len(here))).items():
            columns[name][here] = values
    path = run.part("measure", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(columns, path, schema=(*MEASURED, *DOMAINS), provenance={})
    return Made([path], len(shard), {"measured": int(np.isfinite(columns["teff"]).sum())})


def _of_domains(fitted: Fitted, count: int) -> Columns:
    """Return the columns ``DOMAINS`` of a batch, none without a transfer."""
    if fitted.domains is None:
        return {}
    synthetic = fitted.domains.synthetic
    columns = {f"{name}_syn": synthetic.labels.numpy()[:count, LABELS.index(name)] for name in ("teff", "logg", "m_h")}
    return columns | {"chi2_syn": synthetic.chi2.numpy()[:count]}
