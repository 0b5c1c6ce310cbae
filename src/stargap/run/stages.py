"""The stages of a survey run: what each follows from, and how one piece of it is made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stargap import __version__
from stargap.atomic import replacing
from stargap.catalogue.cleaning import clean
from stargap.catalogue.cleaning_page import overrule, write_cleaning_page
from stargap.catalogue.gaia import read_gaia
from stargap.catalogue.sample import select
from stargap.catalogue.schema import INT_NULL, MEASURED, SURVEY
from stargap.catalogue.tables import read_table
from stargap.catalogue.write import write_parts, write_table
from stargap.errors import ModelError, UsageError
from stargap.labels import LABELS
from stargap.measure.labels import Parameters
from stargap.measure.star import BATCH, BatchVelocity, batch_velocity, measure_native, unmeasured
from stargap.pixels import STARGAP
from stargap.run.receipts import digest, file_digest
from stargap.run.settings import SurveySettings
from stargap.spectra.ingest import file_inputs, ingest_shard, rescue_shard
from stargap.spectra.inputs import find_spectra
from stargap.spectra.lamost_files import catalogue_inputs
from stargap.spectra.plan import extend_plan, plan_rows
from stargap.spectra.prepare import prepare
from stargap.spectra.shards import Shard
from stargap.spectra.store import finish
from stargap.theory.payne import Emulator, Training, fit_emulator, shipped_emulator
from stargap.theory.training_labels import draw_training_labels
from stargap.transfer.residual import ResidualTransfer, shipped_transfer
from stargap.transfer.rounds import train_residual
from stargap.transfer.spectra import TrainingSpectra

__all__ = ["CUT_COUNTS", "STAGES", "Made", "Run", "Stage"]

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Made:
    """What one piece came to: its products, all under the run's folder, rows, and counts worth telling."""

    products: Sequence[Path]
    rows: int
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run's folder and settings; what is where in it."""

    folder: Path
    settings: SurveySettings

    @property
    def store(self) -> Path:
        """Folder of the store of native pixels."""
        return self.folder / "store"

    def receipts(self, stage: str) -> Path:
        """Folder of a stage's receipts."""
        return self.folder / "receipts" / stage

    def receipt(self, stage: str, unit: int | None) -> Path:
        """Where the receipt of one piece is, or will be."""
        return self.receipts(stage) / ("all.json" if unit is None else f"{unit:05d}.json")

    def part(self, stage: str, unit: int) -> Path:
        """The table of a stage for one shard."""
        return self.folder / stage / f"{unit:05d}.parquet"

    def plan(self) -> None:
        """Give every input its row in the store, new ones after those that are known."""
        given = self.settings.input
        if given.catalogue is not None:
            if len(given.spectra) != 1:
                message = "input.catalogue needs the one folder of its files in input.spectra"
                raise UsageError(message)
            inputs = catalogue_inputs(read_table(given.catalogue), given.spectra[0])
        elif given.spectra:
            inputs = file_inputs(find_spectra(given.spectra))
        elif (self.store / "plan.parquet").exists() or (self.store / "manifest.json").exists():
            return
        else:
            message = "input.spectra is empty: name files, folders, globs or @lists"
            raise UsageError(message)
        self.store.mkdir(parents=True, exist_ok=True)
        extend_plan(self.store, inputs, self.settings.ingest.model_dump())

    def finish(self) -> None:
        """Finish the store, all of whose shards are there."""
        ingest = self.settings.ingest
        if (self.store / "plan.parquet").exists() and not (self.store / "manifest.json").exists():
            about = ingest.model_dump()
            finish(self.store, self.rows(None), settings=about, dtype=ingest.dtype, shard_rows=ingest.shard_rows)

    def shards(self) -> int:
        """Number of shards, 0 before there is a plan."""
        return _shards(self.store, *_stamp(self.store / "plan.parquet"), *_stamp(self.store / "manifest.json"))

    def rows(self, unit: int | None) -> int:
        """Number of spectra of a shard, or of all."""
        total, size = _rows(self.store, *_stamp(self.store / "plan.parquet"), *_stamp(self.store / "manifest.json"))
        return total if unit is None else min(size, total - unit * size)

    def emulator(self) -> Emulator:
        """The emulator of this run."""
        return _emulator(self.folder / "emulator" / "emulator.safetensors", *self._made("emulator"))

    def transfer(self) -> ResidualTransfer | None:
        """The transfer of this run, None if labels are the emulator's."""
        if self.settings.transfer.use == "none":
            return None
        return _transfer(self.folder / "transfer" / "transfer.safetensors", *self._made("transfer"))

    def _made(self, stage: str) -> tuple[int, int]:
        return _stamp(self.receipt(stage, None))

    def provenance(self) -> dict[str, str]:
        """What every table of the run carries."""
        settings = self.settings.model_dump(mode="json", exclude={"output", "input"})
        emulator, transfer = self.emulator().card, self.transfer()
        used = emulator if transfer is None else transfer.card
        return {
            "creator": f"stargap {__version__}",
            "settings": json.dumps(settings, sort_keys=True),
            "model": f"{used.kind} v{used.version} {used.sha256}",
            "model_training_data": used.training_data,
            "model_seed": str(used.seed),
            "pixel_grid": STARGAP.digest,
        }


def _stamp(path: Path) -> tuple[int, int]:
    try:
        told = path.stat()
    except OSError:
        return 0, 0
    return told.st_mtime_ns, told.st_size


@lru_cache(maxsize=8)
def _rows(store: Path, *stamps: int) -> tuple[int, int]:
    import pyarrow.parquet as pq

    if (store / "plan.parquet").exists():
        plan = pq.ParquetFile(store / "plan.parquet")
        return plan.metadata.num_rows, json.loads(plan.schema_arrow.metadata[b"settings"])["shard_rows"]
    if (store / "manifest.json").exists():
        manifest = json.loads((store / "manifest.json").read_bytes())
        return manifest["rows"], manifest["shard_rows"]
    return 0, 1


def _shards(store: Path, *stamps: int) -> int:
    total, size = _rows(store, *stamps)
    return -(-total // size)


@lru_cache(maxsize=2)
def _emulator(path: Path, *stamps: int) -> Emulator:
    return Emulator.load(path)


@lru_cache(maxsize=2)
def _transfer(path: Path, *stamps: int) -> ResidualTransfer:
    return ResidualTransfer.load(path)


@dataclass(frozen=True)
class Stage:
    """A stage: its name, what it does, whether a shard is its piece (or else all is), and how a piece is made.

    ``after`` names the stages whose products it reads, ``settings`` the part of the settings that it follows from, in
    JSON types, ``outside`` digests of files from outside the run, and ``make`` makes a piece, in any process.
    """

    name: str
    about: str
    sharded: bool
    after: Callable[[SurveySettings], tuple[str, ...]]
    settings: Callable[[SurveySettings], dict[str, Any]]
    make: Callable[[Run, int | None], Made]
    outside: Callable[[Run, int | None], dict[str, str]] = lambda run, unit: {}
    rescue: Callable[[Run, int], None] | None = None


# ---- ingest


def _ingest(run: Run, unit: int | None) -> Made:
    assert unit is not None
    if (run.store / "plan.parquet").exists():
        ingest_shard(run.store, unit, run.settings.ingest)
    shard = Shard.open(run.store, unit)
    failed = sum(reason != "" for reason in shard.failures())
    return Made([shard.folder / "shard.json"], len(shard), {"unreadable": failed})


def _rescue_ingest(run: Run, unit: int) -> None:
    for _ in rescue_shard(run.store, unit, run.settings.ingest):
        pass


def _files_of(run: Run, unit: int | None) -> dict[str, str]:
    """State of the files of a shard: one that changed makes its shard stale."""
    assert unit is not None
    if not (run.store / "plan.parquet").exists():
        return {}
    rows = [{**row, "path": os.fsdecode(row["path"])} for row in plan_rows(run.store, unit)]
    return {"files": digest({"rows": rows, "state": [_stamp(Path(row["path"])) for row in rows]})}


# ---- sample


CUT_COUNTS = ("before", "failed", "unknown", "left")
"""What the receipts of the sample count of each cut."""


def _sample(run: Run, unit: int | None) -> Made:
    assert unit is not None
    shard, table = Shard.open(run.store, unit), run.settings.input.gaia
    wanted = ("spectrum_id", "ra", "dec", "lmjd", "snr_r", "snr_i", "object_class", "subclass", "fiber_mask")
    index = read_table(shard.folder / "index.parquet", [*wanted, "gaia_source_id"])
    sample = select(index, None if table is None else _gaia(table, *_stamp(table)), run.settings.sample)
    path = run.part("sample", unit)
    _write_columns(path, sample.columns)
    counts = {f"{cut.name}: {what}": getattr(cut, what) for cut in sample.counts for what in CUT_COUNTS}
    return Made([path], len(shard), {"in sample": int(sample.columns["in_sample"].sum()), **counts})


@lru_cache(maxsize=1)
def _gaia(path: Path, *stamps: int) -> Columns:
    return read_gaia(path)


def _gaia_digest(run: Run, unit: int | None) -> dict[str, str]:
    path = run.settings.input.gaia
    return {} if path is None else {"gaia": _digest_of(path)}


# ---- models


def _make_emulator(run: Run, unit: int | None) -> Made:
    from stargap.theory.grids import read_grid, read_hdf5_grid

    chosen, grid = run.settings.emulator, run.settings.emulator.grid
    path = run.folder / "emulator" / "emulator.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    if grid is None:
        emulator = _trained_emulator(run.settings)
    else:
        spectra = read_hdf5_grid(grid) if grid.is_file() else read_grid(grid, resolution=4 * chosen.resolution)
        emulator, _ = fit_emulator(spectra, Training(resolution=chosen.resolution, seed=chosen.seed))
    emulator.save(path)
    return Made([path, path.with_suffix(".json")], 0)


def _trained_emulator(settings: SurveySettings) -> Emulator:
    """The emulator that is asked for, else that of the transfer that is asked for, else the one in the package."""
    if settings.emulator.model is not None:
        return Emulator.load(settings.emulator.model / "emulator.safetensors")
    transfer = _trained_transfer(settings)
    return shipped_emulator() if transfer is None else transfer.emulator


def _trained_transfer(settings: SurveySettings) -> ResidualTransfer | None:
    chosen = settings.transfer
    if chosen.model is not None:
        return ResidualTransfer.load(chosen.model)
    return shipped_transfer() if chosen.use == "simulated" else None


def _emulator_settings(settings: SurveySettings) -> dict[str, Any]:
    chosen = settings.emulator
    if chosen.grid is None:
        return {"emulator": {"model": _trained_emulator(settings).card.sha256}}
    about: dict[str, Any] = chosen.model_dump(mode="json", include={"resolution", "seed"})
    return {"emulator": {**about, "grid": _digest_of(chosen.grid)}}


def _make_transfer(run: Run, unit: int | None) -> Made:
    chosen = run.settings.transfer
    folder = run.folder / "transfer"
    path = folder / "transfer.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.use == "none":
        return Made([], 0)
    if chosen.use != "train":
        transfer = _trained_transfer(run.settings)
        assert transfer is not None
        if transfer.emulator.card.sha256 != run.emulator().card.sha256:
            message = (
                "the transfer was trained with another emulator than that of the run: leave emulator.model and "
                "emulator.grid empty, and the transfer brings its own"
            )
            raise ModelError(message)
        card = transfer.card
        transfer.save(
            path,
            training_data=card.training_data,
            settings=card.settings,
            scores=card.scores,
            simulated=card.simulated,
            seed=card.seed,
        )
        return Made([path, path.with_suffix(".json")], 0)
    return _train(run, path)


def _train(run: Run, path: Path) -> Made:
    chosen, emulator = run.settings.transfer, run.emulator()
    spectra = _training_spectra(run, path.parent / "spectra")
    alpha = chosen.prior.alpha
    training = chosen.training
    transfer = ResidualTransfer(emulator, degree=training.degree, map_degree=training.map_degree, alpha=alpha)
    parameters = Parameters(emulator.card.lower, emulator.card.upper, {} if alpha is None else {"a_m": alpha})
    prior = np.load(run.folder / "labels" / "labels.npy", allow_pickle=False)
    told = train_residual(transfer, spectra, prior, parameters, training, path.parent / "training", progress=False)
    if told.stopped == "signal":
        raise KeyboardInterrupt
    scores = {f"{stage}: {name}": value for stage, report in told.reports.items() for name, value in report.items()}
    transfer.save(
        path,
        training_data=f"{len(spectra)} spectra of the survey",
        settings=training.model_dump(),
        scores={name: value for name, value in scores.items() if np.isfinite(value)},
        simulated=False,
        seed=training.seed,
    )
    shutil.rmtree(path.parent / "spectra")
    return Made([path, path.with_suffix(".json")], len(spectra))


def _training_spectra(run: Run, folder: Path) -> TrainingSpectra:
    """Draw clean spectra of the sample at random and copy them into arrays on disk, in the order of the store."""
    counts = []
    for unit in range(run.shards()):
        clean = _read_columns(run.part("clean", unit), ["rejected"])
        counts.append(np.flatnonzero(~clean["rejected"]))
    total = sum(map(len, counts))
    wanted = min(run.settings.transfer.spectra, total)
    picked = np.sort(np.random.default_rng([run.settings.transfer.seed, 6]).permutation(total)[:wanted])
    shutil.rmtree(folder, ignore_errors=True)
    arrays = TrainingSpectra.create(folder, wanted)
    first = done = 0
    for unit, rows in enumerate(counts):
        here = rows[picked[(picked >= first) & (picked < first + len(rows))] - first]
        if len(here):
            arrays.put(done, TrainingSpectra.load(run.folder / "prepared" / f"{unit:05d}")[here])
        first, done = first + len(rows), done + len(here)
    return TrainingSpectra.load(folder)


def _transfer_settings(settings: SurveySettings) -> dict[str, Any]:
    chosen = settings.transfer
    if chosen.use == "train":
        return {"transfer": chosen.model_dump(mode="json", exclude={"model"})}
    transfer = _trained_transfer(settings)
    return {"transfer": {"model": None if transfer is None else transfer.card.sha256}}


def _after_transfer(settings: SurveySettings) -> tuple[str, ...]:
    return ("emulator", "labels", "prepare", "clean") if settings.transfer.use == "train" else ("emulator",)


# ---- velocity and preparation


def _chosen(run: Run, unit: int) -> NDArray[np.int64]:
    """Rows of a shard that are measured: those in the sample that could be read."""
    shard = Shard.open(run.store, unit)
    kept = _read_columns(run.part("sample", unit), ["in_sample"])["in_sample"]
    read = np.array([reason == "" for reason in shard.failures()], dtype=bool)
    return np.flatnonzero(kept & read)


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


VELOCITY = ("rv", "error", "chi2", "flags")


def _velocity(run: Run, unit: int | None) -> Made:
    assert unit is not None
    torch.set_num_threads(1)
    shard, rows = Shard.open(run.store, unit), _chosen(run, unit)
    settings, emulator = run.settings.measure, run.emulator()
    found = [batch_velocity(shard.read(some), settings, emulator) for some in _batches(rows)]
    whole = {name: np.concatenate([np.empty(0), *(getattr(part, name) for part in found)]) for name in VELOCITY}
    labels = np.concatenate([np.empty((0, len(LABELS))), *(part.labels for part in found)])
    columns: Columns = {"row": rows, **whole, "flags": whole["flags"].astype(np.int64)}
    path = run.part("velocity", unit)
    _write_columns(path, columns | {f"start_{name}": labels[:, place] for place, name in enumerate(LABELS)})
    return Made([path], len(rows))


def _read_velocity(run: Run, unit: int) -> tuple[NDArray[np.int64], BatchVelocity]:
    columns = _read_columns(run.part("velocity", unit))
    labels = np.stack([columns[f"start_{name}"] for name in LABELS], axis=1)
    found = {name: torch.from_numpy(columns[name].copy()) for name in VELOCITY}
    return columns["row"], BatchVelocity(**found, labels=torch.from_numpy(labels))


def _prepare(run: Run, unit: int | None) -> Made:
    assert unit is not None
    torch.set_num_threads(1)
    shard, (rows, velocity) = Shard.open(run.store, unit), _read_velocity(run, unit)
    spectra = TrainingSpectra.empty(len(rows))
    for first, some in zip(range(0, len(rows), BATCH), _batches(rows), strict=True):
        rv = velocity.rv[first : first + len(some)]
        star = prepare(shard.read(some), rv)
        star.good[torch.isnan(rv)] = False
        spectra.put(first, TrainingSpectra.from_prepared(star, rv.nan_to_num().numpy()))
    folder = run.folder / "prepared" / f"{unit:05d}"
    spectra.save(folder)
    return Made(sorted(folder.glob("*.npy")), len(rows))


# ---- cleaning


@dataclass(frozen=True)
class _Prepared:
    """Prepared spectra of one shard, mapped from the disk only while they are read."""

    folder: Path

    @property
    def flux(self) -> NDArray[np.float32]:
        return TrainingSpectra.load(self.folder).flux

    @property
    def sigma(self) -> NDArray[np.float32]:
        return TrainingSpectra.load(self.folder).sigma

    @property
    def good(self) -> NDArray[np.bool_]:
        return TrainingSpectra.load(self.folder).good


def _clean(run: Run, unit: int | None) -> Made:
    shards = [_Prepared(run.folder / "prepared" / f"{number:05d}") for number in range(run.shards())]
    cleaning = clean(shards, run.settings.cleaning)
    if run.settings.input.overrule is not None:
        cleaning = overrule(cleaning, run.settings.input.overrule)
    products, first = [write_cleaning_page(run.folder / "cleaning.html", cleaning, shards)], 0
    for number in range(run.shards()):
        rows = _read_columns(run.part("velocity", number), ["row"])["row"]
        part = slice(first, first + len(rows))
        columns = {"row": rows, "cluster": cleaning.cluster[part], "clean_flags": cleaning.flags[part]}
        products.append(run.part("clean", number))
        _write_columns(products[-1], columns | {"rejected": cleaning.rejected[part]})
        first += len(rows)
    return Made(products, first, {"rejected": int(cleaning.rejected.sum())})


def _overrule_digest(run: Run, unit: int | None) -> dict[str, str]:
    path = run.settings.input.overrule
    return {} if path is None else {"overrule": _digest_of(path)}


# ---- labels


def _labels(run: Run, unit: int | None) -> Made:
    prior = run.settings.transfer.prior
    labels = draw_training_labels(prior.draws, preset=prior.preset, alpha=prior.alpha, seed=prior.seed)
    path = run.folder / "labels" / "labels.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.save(file, labels)
    return Made([path], len(labels))


# ---- measuring


def _measure(run: Run, unit: int | None) -> Made:
    assert unit is not None
    torch.set_num_threads(1)
    shard, (rows, velocity) = Shard.open(run.store, unit), _read_velocity(run, unit)
    settings, transfer = run.settings.measure, run.transfer()
    if transfer is not None and transfer.alpha is not None and "a_m" not in settings.fixed and not settings.free_alpha:
        settings = settings.model_copy(update={"fixed": {**settings.fixed, "a_m": transfer.alpha}})
    facts, failure = shard.facts(), shard.failures()
    columns = unmeasured(facts, failure, shard.spectrum_id)
    for first, some in zip(range(0, len(rows), BATCH), _batches(rows), strict=True):
        part, _ = measure_native(
            shard.read(some),
            [facts[row] for row in some],
            settings,
            run.emulator(),
            failure=[failure[row] for row in some],
            spectrum_id=shard.spectrum_id[some],
            transfer=transfer,
            velocity=velocity[first : first + len(some)],
        )
        for name, values in part.items():
            columns[name][some] = values
    path = run.part("measure", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(columns, path, schema=MEASURED, provenance=run.provenance())
    fitted = np.isfinite(columns["teff"])
    return Made([path], len(shard), {"measured": int(fitted.sum())})


def _table(run: Run, unit: int | None) -> Made:
    """Join everything, a row a spectrum, in the order of ``spectrum_id``."""

    def parts() -> Iterator[Columns]:
        for number in range(run.shards()):
            measured = read_table(run.part("measure", number))
            sample = _read_columns(run.part("sample", number))
            clean = _read_columns(run.part("clean", number))
            count = len(measured["spectrum_id"])
            rejected = {"cluster": np.full(count, INT_NULL), "clean_flags": np.zeros(count, dtype=np.int64)}
            for name, values in rejected.items():
                values[clean["row"]] = clean[name]
            assert (sample["spectrum_id"] == measured["spectrum_id"]).all()
            yield {column.name: {**sample, **rejected, **measured}[column.name] for column in SURVEY}

    path = run.folder / "measured.parquet"
    write_parts(parts(), path, schema=SURVEY, provenance=run.provenance())
    return Made([path], run.rows(None))


# ---- tables between stages


def _write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pq.write_table(pa.table(dict(columns)), file, compression="zstd")


def _read_columns(path: Path, names: list[str] | None = None) -> Columns:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(names)
    return {name: table[name].to_numpy() for name in table.column_names}


def _digest_of(path: Path) -> str:
    if path.is_dir():
        return digest({str(part.relative_to(path)): _stamp(part) for part in sorted(path.rglob("*"))})
    try:
        return _file_digest(path, *_stamp(path))
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None


@lru_cache(maxsize=64)
def _file_digest(path: Path, *stamps: int) -> str:
    return file_digest(path)


def _only(*names: str) -> Callable[[SurveySettings], dict[str, Any]]:
    """Return a function that picks some of a run's settings."""
    return lambda settings: settings.model_dump(mode="json", include=set(names))


def _prior(settings: SurveySettings) -> dict[str, Any]:
    return {"transfer": settings.transfer.model_dump(mode="json", include={"prior"})}


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "read files into the store of native pixels",
        True,
        lambda settings: (),
        _only("ingest"),
        _ingest,
        _files_of,
        _rescue_ingest,
    ),
    Stage(
        "sample",
        "join Gaia and apply the cuts",
        True,
        lambda settings: ("ingest",),
        _only("sample"),
        _sample,
        _gaia_digest,
    ),
    Stage(
        "emulator",
        "train The Payne, or take a trained one",
        False,
        lambda settings: (),
        _emulator_settings,
        _make_emulator,
    ),
    Stage(
        "velocity",
        "measure radial velocities of the sample",
        True,
        lambda settings: ("ingest", "sample", "emulator"),
        _only("measure"),
        _velocity,
    ),
    Stage(
        "prepare",
        "shift to the rest frame, resample and normalise",
        True,
        lambda settings: ("ingest", "velocity"),
        lambda settings: {},
        _prepare,
    ),
    Stage(
        "clean",
        "find spectra that are not of M dwarfs",
        False,
        lambda settings: ("prepare",),
        _only("cleaning"),
        _clean,
        _overrule_digest,
    ),
    Stage(
        "labels",
        "draw labels of synthetic spectra along isochrones",
        False,
        lambda settings: (),
        _prior,
        _labels,
    ),
    Stage(
        "transfer",
        "train Cycle-StarNet's transfer, or take a trained one",
        False,
        _after_transfer,
        _transfer_settings,
        _make_transfer,
    ),
    Stage(
        "measure",
        "fit labels, subtypes and activity",
        True,
        lambda settings: ("ingest", "sample", "emulator", "velocity", "transfer"),
        _only("measure"),
        _measure,
    ),
    Stage(
        "table",
        "join everything into one table",
        False,
        lambda settings: ("sample", "clean", "measure"),
        lambda settings: {},
        _table,
    ),
)
"""All stages, in the order in which they are done."""
