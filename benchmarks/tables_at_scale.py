"""Time and memory of everything of a survey run but the measurement itself, at growing numbers of spectra.

A run is made up of a small one: a survey of 2,000 simulated stars is measured as ``make demo`` does it, and its rows
are repeated, each time as other stars elsewhere on the sky, with empty files and shards of an index alone. The stages
that work on tables are then done as ``stargap run`` does them, each in a process of its own. There are no pixels: the
cleaning has no pictures, stars have no stacks, and the report fits no spectra again. What was made up stays in --work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from stargap import __version__
from stargap.catalogue.publish import write_catalogue
from stargap.files import claim_folder
from stargap.pipeline.engine import run_survey, stage_states
from stargap.pipeline.folder import Columns, Run
from stargap.pipeline.freshness import piece_key, stage_named
from stargap.pipeline.receipts import Receipt, sum_products, write_receipt
from stargap.pipeline.settings import SurveySettings
from stargap.processor import cpu_capability
from stargap.settings import example_toml, read_settings_as
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.store.shards import FORMAT, SHARD_ROWS, FileSum, ShardCard, file_sha256, index_schema, shard_folder
from stargap.survey.cleaning.bins import Features, joined_features
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import parquet_writer, read_columns, write_columns
from stargap.validation.report.settings import BinaryTables

SEED, STARS = 1, 2_000
"""Of the survey whose rows are repeated."""
FILES_A_FOLDER = 1_000
ANOTHER = 10_000_019
"""What is added to the identifiers of a star with every repetition."""
IDENTIFIERS = ("gaia_source_id", "source_id", "GAIAEDR3_SOURCE_ID", "obsid", "catalogue_obsid")
TABLES = ("gaia.parquet", "truth.parquet", "literature.csv", "apogee.csv", "laspm.csv", "variables.csv",
          "binaries_gaia.csv", "binaries_sky.csv")  # fmt: skip
"""Tables of the survey that are repeated."""
COPIED = ("photometry", "velocity", "measure", "joint")
"""Stages whose tables are repeated."""


def main() -> None:
    """Make up a run of each size, do its stages, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tables-at-scale"))
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=[name for name in STEPS if name != "hats"])
    parser.add_argument("--write", type=Path, help="JSON file that keeps the figures")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, folder = options.one
        print(json.dumps(_timed(partial(STEPS[name], Path(folder)))))
        return
    from stargap.pipeline.demo import run_demo  # brings torch, which would count in the memory of every step

    found: dict[str, dict[str, dict[str, float]]] = {}
    run_demo(options.work.absolute() / "survey", stars=STARS, seed=SEED, workers=2)
    for rows in options.rows:
        folder = options.work.absolute() / str(rows)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make_run(folder, rows)
            (folder / "made").touch()
        found[str(rows)] = {name: _step(name, folder, rows) for name in options.steps}
    _print(found)
    if options.write is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        about = {"version": __version__, "machine": machine, "rows": found}
        options.write.write_text(f"{json.dumps(about, indent=1)}\n", encoding="utf-8")


def _step(name: str, folder: Path, rows: int) -> dict[str, float]:
    """Do a step in a process of its own, on one thread, and return what it took.

    Memory is that of the largest of its processes, processor time that of its own.
    """
    if name not in FIRST and not (folder / "measured").exists():
        make_measurements(folder, rows)
        (folder / "measured").touch()
    words = [sys.executable, __file__, "--one", name, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as one:
        largest, watched = 0, psutil.Process(one.pid)
        while one.poll() is None:
            with suppress(psutil.Error):
                largest = max(largest, *(part.memory_info().rss for part in watched.children(recursive=True)), 0)
            time.sleep(0.2)
        assert one.stdout is not None
        took = json.loads(one.stdout.read().splitlines()[-1])
    return took | {"memory": max(took["memory"], largest)}


def _timed(work: Callable[[], object]) -> dict[str, float]:
    """Return processor and wall seconds of some work, and the most memory that this process had (bytes)."""
    wall, used = time.monotonic(), time.process_time()
    work()
    took = {"wall": time.monotonic() - wall, "processor": time.process_time() - used}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return took | {"memory": 1024.0 * int(status["VmHWM"].split()[0])}  # getrusage would count this process's parent


def _print(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print processor seconds, memory, and both over those of the size before."""
    table = Table(title=f"stargap {__version__}: processor time and largest memory; ratios to ten times fewer rows")
    table.add_column("step")
    for rows in found:
        table.add_column(f"{int(rows):,}", justify="right")
        table.add_column("GB", justify="right")
    for name in next(iter(found.values())):
        cells, before = [], None
        for one in (steps[name] for steps in found.values()):
            ratios = ("", "")
            if before is not None:
                ratios = tuple(f" ({one[key] / before[key]:.1f}x)" for key in ("processor", "memory"))
            cells += [f"{one['processor']:.1f} s{ratios[0]}", f"{one['memory'] / 1e9:.2f}{ratios[1]}"]
            before = one
        table.add_row(name, *cells)
    Console(width=180).print(table)


def _settings(folder: Path) -> SurveySettings:
    return read_settings_as(SurveySettings, folder / "survey.toml").absolute()


def _plan(folder: Path) -> None:
    settings = _settings(folder)
    Run(settings.output, settings).plan()


def _stage(name: str, folder: Path) -> None:
    if name == "clean":
        from stargap.pipeline import spectra

        spectra.prepared_spectra = lambda run, unit, chosen: PreparedSpectra.empty(len(chosen))  # there are no pixels
    settings = _settings(folder)
    shutil.rmtree(Run(settings.output, settings).receipts(name), ignore_errors=True)
    states = run_survey(settings, only=name)
    if any(state.stage == name and state.state != "done" for state in states):
        raise SystemExit(f"{name} is not done")


def _status(folder: Path) -> None:
    settings = _settings(folder)
    stage_states(Run(settings.output, settings))


def _written(form: Any, folder: Path) -> None:
    write_catalogue(folder / "run" / "catalogue", formats=[form])


STEPS: dict[str, Callable[[Path], None]] = {
    "plan": _plan,
    **{name: partial(_stage, name) for name in ("gaia", "sample", "clean", "table", "stack", "catalogue", "report")},
    "status": _status,
    **{form: partial(_written, form) for form in ("fits", "vot", "csv", "cds", "hats")},
}
"""What is timed, in the order in which it is done."""
FIRST = ("plan", "gaia", "sample")
"""Steps that need no measurement."""


@dataclass(frozen=True)
class Small:
    """The small run, repeated until there are enough rows."""

    run: Run
    repetitions: int

    @classmethod
    def of(cls, work: Path, rows: int) -> Small:
        """Open the run in a work folder, to be repeated until there are so many rows."""
        settings = read_settings_as(SurveySettings, work / "survey" / "survey.toml")
        run = Run(settings.output, settings)
        return cls(run, -(-rows // run.rows(None)))

    def stage(self, name: str) -> Columns:
        """Return the table of a stage."""
        parts = [read_columns(self.run.part(name, unit)) for unit in range(self.run.shards())]
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    def elsewhere(self, table: Mapping[str, NDArray[Any]], repetition: NDArray[np.int64] | int) -> Columns:
        """Return a table of other stars: with other identifiers, and as far away along the sky as there is room."""
        changed = dict(table)
        for name in set(IDENTIFIERS) & set(table):
            changed[name] = np.where(table[name] == INT_NULL, INT_NULL, table[name] + ANOTHER * repetition)
        if "ra" in table:
            changed["ra"] = self._along(table["ra"], repetition)
        return changed

    def elsewhere_arrow(self, table: pa.Table, repetition: NDArray[np.int64] | int) -> pa.Table:
        """Return the same of an Arrow table, whose nulls stay."""
        added = pa.array(ANOTHER * repetition) if isinstance(repetition, np.ndarray) else ANOTHER * repetition
        changed = {name: pc.add(table[name], added) for name in set(IDENTIFIERS) & set(table.column_names)}
        if "ra" in table.column_names:
            changed["ra"] = pa.array(self._along(table["ra"].to_numpy(), repetition))
        return _with_columns(table, changed)

    def _along(self, ra: NDArray[np.float64], repetition: NDArray[np.int64] | int) -> NDArray[np.float64]:
        return (ra + 360.0 / self.repetitions * repetition) % 360.0

    def places(self, table: Columns, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the spectra of the large run that a table has rows of, and the row of each."""
        place = match_ids(ids % self.run.rows(None), table["spectrum_id"])
        return ids[place >= 0], place[place >= 0]

    def repeated(self, table: Columns, ids: NDArray[np.int64]) -> Columns:
        """Return the rows of a table for spectra of the large run."""
        ids, place = self.places(table, ids)
        rows = self.elsewhere({name: values[place] for name, values in table.items()}, ids // self.run.rows(None))
        if "path" in table:
            rows["path"] = np.array([f"spec-{number:08d}.fits.gz" for number in ids], dtype=object)
        return rows | {"spectrum_id": ids}


def make_run(folder: Path, rows: int) -> None:
    """Make up the inputs of a run and its store, which holds an index alone."""
    from stargap.mock.tables import companion_tables, reported_tables

    print(f"making up a run of {rows:,} spectra in {folder}", file=sys.stderr)
    folder.mkdir(parents=True)
    _make_files(folder / "spectra", rows)
    small = Small.of(folder.parent, rows)
    for name in TABLES:
        _repeat_table(folder.parent / "survey" / name, folder / name, small)
    changed = {
        "output": folder / "run",
        "input": {"spectra": [str(folder / "spectra")], "gaia": folder / "gaia.parquet", "simulated": True},
        "fit": {"stacks": False},
        "catalogue": {"companions": companion_tables(folder), "position_epoch": 2016.0},
        "report": reported_tables(folder).model_copy(update={"binaries": BinaryTables()}),
    }
    settings = SurveySettings.model_validate(small.run.settings.model_dump() | changed).absolute()
    (folder / "survey.toml").write_text(example_toml(settings), encoding="utf-8")
    run = Run(settings.output, settings)
    claim_folder(run.folder, "run")
    run.plan()
    index = pa.concat_tables(
        [pq.read_table(shard_folder(small.run.store, unit) / "index.parquet") for unit in range(small.run.shards())]
    )
    for unit in range(run.shards()):
        _receipt(run, "ingest", unit, _make_shard(run, unit, small, index))


def make_measurements(folder: Path, rows: int) -> None:
    """Make up the products of the stages that need spectra, of a run whose sample is selected."""
    settings = _settings(folder)
    run, small = Run(settings.output, settings), Small.of(folder.parent, rows)
    tables = {name: small.stage(name) for name in COPIED}
    bins = joined_features([Features.load(small.run.bins(unit)) for unit in range(small.run.shards())])
    run_survey(settings, only="emulator")

    def repeat(stage: str, unit: int) -> None:
        write_columns(run.part(stage, unit), small.repeated(tables[stage], _ids(run, unit)))
        _receipt(run, stage, unit, [run.part(stage, unit)])

    for unit in range(run.shards()):
        repeat("photometry", unit)
        repeat("velocity", unit)
        _, place = small.places(tables["velocity"], _ids(run, unit))
        Features(*(getattr(bins, field.name)[place] for field in fields(bins))).save(run.bins(unit))
        _receipt(run, "prepare", unit, sorted(run.bins(unit).glob("*.npy")))
    run_survey(settings, only="transfer")
    for unit in range(run.shards()):
        repeat("measure", unit)
        repeat("joint", unit)


def _ids(run: Run, unit: int) -> NDArray[np.int64]:
    return unit * SHARD_ROWS + np.arange(run.rows(unit))


def _make_files(folder: Path, rows: int) -> None:
    for number in range(rows):
        part = folder / f"{number // FILES_A_FOLDER:05d}"
        if number % FILES_A_FOLDER == 0:
            part.mkdir(parents=True)
        (part / f"spec-{number:08d}.fits.gz").touch()


def _repeat_table(source: Path, target: Path, small: Small) -> None:
    """Write a table of the small survey once for each repetition."""
    text = source.suffix == ".csv"
    table = csv.read_csv(source) if text else pq.read_table(source)
    parts = [small.elsewhere_arrow(table, repetition) for repetition in range(small.repetitions)]
    (csv.write_csv if text else pq.write_table)(pa.concat_tables(parts), target)


def _with_columns(table: pa.Table, changed: Mapping[str, Any]) -> pa.Table:
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _make_shard(run: Run, unit: int, small: Small, index: pa.Table) -> list[Path]:
    """Write a shard of an index without spectra."""
    ids = _ids(run, unit)
    repetition, row = np.divmod(ids, small.run.rows(None))
    place = {
        "spectrum_id": ids,
        "shard": np.full(len(ids), unit),
        "row": np.arange(len(ids)),
        "path": [f"spec-{number:08d}.fits.gz" for number in ids],
    }
    places = {name: pa.array(values) for name, values in place.items()}
    table = _with_columns(small.elsewhere_arrow(index.take(row), repetition), places)
    path = shard_folder(run.store, unit) / "index.parquet"
    path.parent.mkdir()
    with path.open("wb") as file, parquet_writer(file, index_schema()) as writer:
        writer.write_table(table.cast(index_schema()))
    files = {path.name: FileSum(bytes=path.stat().st_size, sha256=file_sha256(path))}
    card = ShardCard(
        format=FORMAT, stargap=__version__, rows=len(ids), shard_rows=SHARD_ROWS, dtype="float32", files=files
    )
    (path.parent / "shard.json").write_text(card.model_dump_json(), encoding="utf-8")
    return [path, path.parent / "shard.json"]


def _receipt(run: Run, name: str, unit: int, products: list[Path]) -> None:
    """Write the receipt of a made-up piece, as one that was made has it."""
    stage = stage_named(name)
    receipt = Receipt(
        key=piece_key(run, stage, unit) or "",
        stargap=__version__,
        processor=cpu_capability(),
        settings=stage.settings(run.settings),
        rows=run.rows(unit),
        seconds=0.0,
        counts={},
        products=sum_products(run.folder, products, {}),
    )
    write_receipt(run.receipt(name, unit), receipt)


if __name__ == "__main__":
    main()
