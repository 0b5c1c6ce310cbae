"""Pieces of a run that are made shard by shard: ingest, sample, velocities, preparation, measurements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.labels import LABELS
from stargap.measurement.models import settings_for
from stargap.measurement.star import BATCH, BatchVelocity, Fitted, batch_velocity, measure_native, unmeasured
from stargap.processor import single_thread
from stargap.run.folder import Columns, Made, Run, content_digest, read_columns, stamp, write_columns
from stargap.run.receipts import digest
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.store.ingest import ingest_shard, rescue_shard
from stargap.spectra.store.plan import plan_rows
from stargap.spectra.store.shards import Shard
from stargap.survey.gaia.join import read_gaia
from stargap.survey.sample import select
from stargap.tables.columns import DOMAINS, MEASURED
from stargap.tables.read import read_table
from stargap.tables.write import write_table

__all__ = [
    "CUT_COUNTS",
    "file_states",
    "gaia_digest",
    "make_ingest",
    "make_measured",
    "make_prepared",
    "make_sample",
    "make_velocity",
    "rescue_ingest",
]


def make_ingest(run: Run, unit: int | None) -> Made:
    """Bring a shard of the store up to date; one that was made elsewhere is taken as it is."""
    assert unit is not None
    if (run.store / "plan.parquet").exists():
        ingest_shard(run.store, unit, run.settings.ingest)
    shard = Shard.open(run.store, unit)
    failed = sum(reason != "" for reason in shard.failures())
    return Made([shard.folder / "shard.json"], len(shard), {"unreadable": failed})


def rescue_ingest(run: Run, unit: int) -> None:
    """Ingest a shard whose process died, without the files that killed it."""
    for _ in rescue_shard(run.store, unit, run.settings.ingest):
        pass


def file_states(run: Run, unit: int | None) -> dict[str, str]:
    """State of the files of a shard: one that changed makes its shard stale."""
    assert unit is not None
    if not (run.store / "plan.parquet").exists():
        return {}
    rows = [{**row, "path": os.fsdecode(row["path"])} for row in plan_rows(run.store, unit)]
    return {"files": digest({"rows": rows, "state": [stamp(Path(row["path"])) for row in rows]})}


CUT_COUNTS = ("before", "failed", "unknown", "left")
"""What the receipts of the sample count of each cut."""


def make_sample(run: Run, unit: int | None) -> Made:
    """Join Gaia to a shard's rows and apply the cuts (paper section 2.1)."""
    assert unit is not None
    shard, table = Shard.open(run.store, unit), run.settings.input.gaia
    wanted = ("spectrum_id", "ra", "dec", "lmjd", "snr_r", "snr_i", "object_class", "subclass", "fiber_mask")
    index = read_table(shard.folder / "index.parquet", [*wanted, "gaia_source_id"])
    sample = select(index, None if table is None else _gaia(table, *stamp(table)), run.settings.sample)
    path = run.part("sample", unit)
    write_columns(path, sample.columns)
    counts = {f"{cut.name}: {what}": getattr(cut, what) for cut in sample.counts for what in CUT_COUNTS}
    return Made([path], len(shard), {"in sample": int(sample.columns["in_sample"].sum()), **counts})


@lru_cache(maxsize=1)
def _gaia(path: Path, *stamps: int) -> Columns:
    return read_gaia(path)


def gaia_digest(run: Run, unit: int | None) -> dict[str, str]:
    """Checksum of Gaia's table."""
    path = run.settings.input.gaia
    return {} if path is None else {"gaia": content_digest(path)}


def _chosen(run: Run, unit: int) -> NDArray[np.int64]:
    """Rows of a shard that are measured: those in the sample that could be read."""
    shard = Shard.open(run.store, unit)
    kept = read_columns(run.part("sample", unit), ["in_sample"])["in_sample"]
    read = np.array([reason == "" for reason in shard.failures()], dtype=bool)
    return np.flatnonzero(kept & read)


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


VELOCITY = ("rv", "error", "chi2", "flags")


@single_thread()
def make_velocity(run: Run, unit: int | None) -> Made:
    """Measure velocities, and labels to start from, of the rows in the sample (paper section 2.3)."""
    assert unit is not None
    shard, rows = Shard.open(run.store, unit), _chosen(run, unit)
    settings, emulator = run.settings.measure, run.emulator()
    found = [batch_velocity(shard.read(some), settings, emulator) for some in _batches(rows)]
    whole = {name: np.concatenate([np.empty(0), *(getattr(part, name) for part in found)]) for name in VELOCITY}
    labels = np.concatenate([np.empty((0, len(LABELS))), *(part.labels for part in found)])
    columns: Columns = {"row": rows, **whole, "flags": whole["flags"].astype(np.int64)}
    path = run.part("velocity", unit)
    write_columns(path, columns | {f"start_{name}": labels[:, place] for place, name in enumerate(LABELS)})
    return Made([path], len(rows))


def _read_velocity(run: Run, unit: int) -> tuple[NDArray[np.int64], BatchVelocity]:
    columns = read_columns(run.part("velocity", unit))
    labels = np.stack([columns[f"start_{name}"] for name in LABELS], axis=1)
    found = {name: torch.from_numpy(columns[name].copy()) for name in VELOCITY}
    return columns["row"], BatchVelocity(**found, labels=torch.from_numpy(labels))


@single_thread()
def make_prepared(run: Run, unit: int | None) -> Made:
    """Prepare the rows in the sample at their velocities (paper section 2.4)."""
    assert unit is not None
    shard, (rows, velocity) = Shard.open(run.store, unit), _read_velocity(run, unit)
    spectra = PreparedSpectra.empty(len(rows))
    for first, some in zip(range(0, len(rows), BATCH), _batches(rows), strict=True):
        rv = velocity.rv[first : first + len(some)]
        star = prepare(shard.read(some), rv)
        star.good[torch.isnan(rv)] = False
        spectra.put(first, PreparedSpectra.from_prepared(star, rv.nan_to_num().numpy()))
    folder = run.folder / "prepared" / f"{unit:05d}"
    spectra.save(folder)
    return Made(sorted(folder.glob("*.npy")), len(rows))


@single_thread()
def make_measured(run: Run, unit: int | None) -> Made:
    """Measure a shard: a row a spectrum, null outside the sample (paper section 3.5)."""
    assert unit is not None
    shard, (rows, velocity) = Shard.open(run.store, unit), _read_velocity(run, unit)
    transfer = run.transfer()
    settings = settings_for(transfer, run.settings.measure)
    facts, failure = shard.facts(), shard.failures()
    columns = unmeasured(facts, failure, shard.spectrum_id)
    columns |= {column.name: np.full(len(shard), np.nan) for column in DOMAINS}
    for first, some in zip(range(0, len(rows), BATCH), _batches(rows), strict=True):
        part, fitted = measure_native(
            shard.read(some),
            [facts[row] for row in some],
            settings,
            run.emulator(),
            failure=[failure[row] for row in some],
            spectrum_id=shard.spectrum_id[some],
            transfer=transfer,
            velocity=velocity[first : first + len(some)],
        )
        part |= _of_domains(fitted, len(some))
        for name, values in part.items():
            columns[name][some] = values
    path = run.part("measure", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(columns, path, schema=(*MEASURED, *DOMAINS), provenance=run.provenance())
    measured = np.isfinite(columns["teff"])
    return Made([path], len(shard), {"measured": int(measured.sum())})


def _of_domains(fitted: Fitted, count: int) -> Columns:
    """The columns ``DOMAINS`` of a batch; none where there is no transfer."""
    if fitted.domains is None:
        return {}
    synthetic = fitted.domains.synthetic
    columns = {f"{name}_syn": synthetic.labels.numpy()[:count, LABELS.index(name)] for name in ("teff", "logg", "m_h")}
    return columns | {"chi2_syn": synthetic.chi2.numpy()[:count]}
