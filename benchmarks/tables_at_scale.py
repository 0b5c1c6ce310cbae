"""Time and memory of everything of a survey run but the measurement itself, at growing numbers of spectra.

A run is made up without spectra: empty files and their plan, shards of an index alone, a table of Gaia's sources, and
measurements drawn at random, which mean nothing. The stages that work on tables are then done as ``stargap run`` does
them, each in a process of its own; the cleaning reads the same 7,000
simulated spectra again and again, in bins, and its pictures are empty. There are no labels of spectrum and photometry
together, which the catalogue would make anew with calibrated errors: magnitudes drawn at random would take it many
times longer than real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stargap import __version__
from stargap.catalogue.companions import CompanionTable
from stargap.catalogue.publish import write_catalogue
from stargap.files import claim_folder
from stargap.pipeline.engine import run_survey, stage_states
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import piece_key, stage_named
from stargap.pipeline.receipts import Receipt, sum_products, write_receipt
from stargap.pipeline.settings import SurveySettings
from stargap.processor import cpu_capability
from stargap.settings import example_toml, read_settings_as
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.store.shards import FORMAT, SHARD_ROWS, FileSum, ShardCard, file_sha256, index_schema, shard_folder
from stargap.survey.cleaning.bins import Features, bin_spectra
from stargap.survey.gaia.join import GAIA_SCHEMA
from stargap.tables.columns import DOMAINS, JOINT, MEASURED, PHOTOMETRIC, Column
from stargap.tables.parquet import parquet_writer, write_columns

SEED = 1
FILES_A_FOLDER = 1_000
MEASURED_OF_SHARD = 880
"""Spectra of a shard that are measured: about as many as the cuts of a sample leave."""
BLOCKS = 8
"""Different shards of binned spectra."""
PER_STAR = 1.25
"""Spectra a star."""
FIRST_SOURCE = 4_000_000_000_000_000_000


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
    found: dict[str, dict[str, dict[str, float]]] = {}
    for rows in options.rows:
        folder = options.work.absolute() / str(rows)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make_run(folder, rows)
            (folder / "made").touch()
        found[str(rows)] = {name: _step(name, folder) for name in options.steps}
    _print(found)
    if options.write is not None:
        options.write.write_text(f"{json.dumps(found, indent=1)}\n", encoding="utf-8")


def _step(name: str, folder: Path) -> dict[str, float]:
    """Do a step in a process of its own, on one thread, and return what it took."""
    if name not in FIRST and not (folder / "measured").exists():
        make_measurements(folder)
        (folder / "measured").touch()
    words = [sys.executable, __file__, "--one", name, str(folder)]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout.splitlines()[-1])


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


def make_run(folder: Path, rows: int) -> None:
    """Make up the inputs of a run and its store, which holds an index alone."""
    print(f"making up a run of {rows:,} spectra in {folder}", file=sys.stderr)
    folder.mkdir(parents=True)
    _make_files(folder / "spectra", rows)
    rng = np.random.default_rng([SEED, rows])
    sources = _make_gaia(folder / "gaia.parquet", int(rows / PER_STAR), rng)
    companions = _make_companions(folder, sources, rng)
    settings = SurveySettings(
        output=folder / "run",
        input={"spectra": [str(folder / "spectra")], "gaia": folder / "gaia.parquet"},  # type: ignore[arg-type]
        fit={"joint": False, "stacks": False},  # type: ignore[arg-type]
        catalogue={"companions": companions},  # type: ignore[arg-type]
    ).absolute()
    (folder / "survey.toml").write_text(example_toml(settings), encoding="utf-8")
    run = Run(settings.output, settings)
    claim_folder(run.folder, "run")
    run.plan()
    for unit in range(run.shards()):
        _receipt(run, "ingest", unit, _make_shard(run, unit, sources, rng))


def make_measurements(folder: Path) -> None:
    """Make up the products of the stages that need spectra, of a run whose sample is selected."""
    settings = _settings(folder)
    run, rng = Run(settings.output, settings), np.random.default_rng(SEED)
    run_survey(settings, only="emulator")
    _make_blocks(folder / "blocks")
    sums = {path.relative_to(folder / "blocks"): _sum(path) for path in (folder / "blocks").glob("*/*.npy")}
    for unit in range(run.shards()):
        _receipt(run, "photometry", unit, [_make_table(run, "photometry", unit, PHOTOMETRIC, rng)])
        _receipt(run, "velocity", unit, _make_velocity(run, unit, rng))
        products = _make_bins(run, unit)
        known = {path: sums[Path(f"{unit % BLOCKS:05d}", path.name)] for path in products if path.parent.is_symlink()}
        _receipt(run, "prepare", unit, products, known)
    run_survey(settings, only="transfer")
    for unit in range(run.shards()):
        _receipt(run, "measure", unit, [_make_table(run, "measure", unit, (*MEASURED, *DOMAINS), rng)])
        _receipt(run, "joint", unit, [_make_table(run, "joint", unit, JOINT, rng)])


def _sum(path: Path) -> FileSum:
    return FileSum(bytes=path.stat().st_size, sha256=file_sha256(path))


def _make_files(folder: Path, rows: int) -> None:
    for number in range(rows):
        part = folder / f"{number // FILES_A_FOLDER:05d}"
        if number % FILES_A_FOLDER == 0:
            part.mkdir(parents=True)
        (part / f"spec-{number:08d}.fits.gz").touch()


def _make_gaia(path: Path, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Write a table of sources all over the sky, most of them slow, and return where they are."""
    speed = 10.0 ** rng.normal(1.2, 0.5, count)
    angle = rng.uniform(0.0, 2 * np.pi, count)
    columns: dict[str, Any] = {
        "source_id": FIRST_SOURCE + 7919 * rng.permutation(count).astype(np.int64),
        "ra": rng.uniform(0.0, 360.0, count),
        "dec": np.degrees(np.arcsin(rng.uniform(-0.2, 1.0, count))),
        "ref_epoch": np.full(count, 2016.0),
        "parallax": 10.0 ** rng.normal(0.7, 0.3, count),
        "pmra": speed * np.cos(angle),
        "pmdec": speed * np.sin(angle),
        "ph_qual": np.array(["AAA", "AAB", "AAU"], dtype=object)[rng.integers(0, 3, count)],
    }
    means = {"phot_g_mean_mag": 15.0, "phot_bp_mean_mag": 16.3, "phot_rp_mean_mag": 13.9, "ks_m": 11.0, "ruwe": 1.1}
    for column in GAIA_SCHEMA:
        if column.name not in columns:
            error = column.name.endswith(("error", "msigcom"))
            values = rng.normal(means.get(column.name, 2.4), 0.4, count)
            columns[column.name] = np.full(count, 0.03) if error else values
    write_columns(path, columns)
    return {name: columns[name] for name in ("source_id", "ra", "dec")}


def _make_companions(
    folder: Path, sources: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, CompanionTable]:
    """Write tables of variables, by identifier, and of binaries, by position, with a tenth of the stars each."""
    some = [rng.permutation(len(sources["ra"]))[: len(sources["ra"]) // 10] for _ in range(2)]
    write_columns(folder / "variables.parquet", {"source_id": sources["source_id"][some[0]]})
    write_columns(folder / "binaries.parquet", {name: sources[name][some[1]] for name in ("ra", "dec")})
    return {
        "variables": CompanionTable(table=str(folder / "variables.parquet"), means="variable", keys=("source_id",)),
        "binaries": CompanionTable(table=str(folder / "binaries.parquet"), means="binary", radius_arcsec=2.5),
    }


def _make_shard(run: Run, unit: int, sources: dict[str, np.ndarray], rng: np.random.Generator) -> list[Path]:
    """Write a shard of an index without spectra: half of its rows know their source, the others their place."""
    count, first = run.rows(unit), unit * SHARD_ROWS
    star = rng.integers(0, len(sources["ra"]), count)
    known = rng.random(count) < 0.5
    text = ("snr_source", "subclass", "object_class", "layout", "failure")
    given: dict[str, Any] = {
        "spectrum_id": np.arange(first, first + count),
        "shard": np.full(count, unit),
        "row": np.arange(count),
        "path": [f"spec-{first + row:08d}.fits.gz" for row in range(count)],
        "ra": sources["ra"][star],
        "dec": sources["dec"][star] + rng.normal(0, 1e-4, count),
        "lmjd": rng.integers(56_000, 60_000, count),
        "gaia_source_id": pa.array(sources["source_id"][star], mask=~known),
        "fiber_mask": np.zeros(count, dtype=np.int64),
        **{f"snr_{band}": 10.0 ** rng.normal(1.3, 0.3, count) for band in "ri"},
        **{
            name: np.full(count, word)
            for name, word in zip(text, ("header", "dM2", "STAR", "made-up", ""), strict=True)
        },
    }
    columns = [given.get(field.name, pa.nulls(count, field.type)) for field in index_schema()]
    folder = shard_folder(run.store, unit)
    folder.mkdir()
    index = folder / "index.parquet"
    arrays = [pa.array(values, field.type) for values, field in zip(columns, index_schema(), strict=True)]
    table = pa.Table.from_arrays(arrays, schema=index_schema())
    with index.open("wb") as file, parquet_writer(file, index_schema()) as writer:
        writer.write_table(table)
    files = {index.name: _sum(index)}
    card = ShardCard(
        format=FORMAT, stargap=__version__, rows=count, shard_rows=SHARD_ROWS, dtype="float32", files=files
    )
    (folder / "shard.json").write_text(card.model_dump_json(), encoding="utf-8")
    return [index, folder / "shard.json"]


def _make_velocity(run: Run, unit: int, rng: np.random.Generator) -> list[Path]:
    path, count = run.part("velocity", unit), min(MEASURED_OF_SHARD, run.rows(unit))
    write_columns(path, {"spectrum_id": unit * SHARD_ROWS + np.arange(count), "rv": rng.normal(0, 30, count)})
    return [path]


def _make_blocks(folder: Path) -> None:
    """Write shards of simulated stars, binned."""
    import torch
    from helpers.stars import mock_stars

    from stargap.spectra.log_lambda import to_log_lambda
    from stargap.spectra.prepare import prepare
    from stargap.spectra.spectrum import Spectrum
    from stargap.theory.emulator import shipped_emulator

    emulator = shipped_emulator()
    for number in range(BLOCKS):
        stars = mock_stars(emulator, MEASURED_OF_SHARD, seed=number, survey_noise=True)
        spectra = [Spectrum(stars.wavelength, f, i) for f, i in zip(stars.flux, stars.ivar, strict=True)]
        star = prepare(to_log_lambda(spectra), torch.from_numpy(stars.rv))
        bin_spectra(PreparedSpectra.from_prepared(star, stars.rv)).save(folder / f"{number:05d}")


def _make_bins(run: Run, unit: int) -> list[Path]:
    """Link a shard to one of the blocks; the last, shorter one is cut from it."""
    folder, block = run.bins(unit), run.folder.parent / "blocks" / f"{unit % BLOCKS:05d}"
    folder.parent.mkdir(exist_ok=True)
    count = min(MEASURED_OF_SHARD, run.rows(unit))
    if count == MEASURED_OF_SHARD:
        folder.symlink_to(block)
    else:
        whole = Features.load(block)
        Features(*(getattr(whole, field.name)[:count] for field in fields(whole))).save(folder)
    return sorted(folder.glob("*.npy"))


def _make_table(run: Run, stage: str, unit: int, schema: Sequence[Column], rng: np.random.Generator) -> Path:
    """Write the table of a stage with numbers drawn at random from each column's range."""
    count, first = run.rows(unit), unit * SHARD_ROWS
    columns = {column.name: _drawn(column, count, rng) for column in schema}
    if stage == "joint":
        columns = {column.name: np.full(count, column.null).astype(column.dtype) for column in schema}
    columns |= {name: np.zeros(count, dtype=np.int32) for name in columns if name.endswith("flags")}
    columns["spectrum_id"] = np.arange(first, first + count)
    if stage == "measure":
        paths = [f"/data/spectra/spec-{first + row:08d}.fits.gz" for row in range(count)]
        columns |= {"obsid": 1_000_000 + columns["spectrum_id"], "path": np.array(paths, dtype=object)}
        columns |= {f"e_{name}": error * 10 ** rng.normal(0, 0.2, count) for name, error in ERRORS.items()}
        columns["failure"] = np.full(count, "", dtype=object)
    path = run.part(stage, unit)
    write_columns(path, columns)
    return path


ERRORS = {"rv": 5.0, "teff": 40.0, "logg": 0.05, "m_h": 0.1}
RANGES = {"rv": (-100.0, 100.0), "teff": (3000.0, 4200.0), "logg": (4.6, 5.1), "m_h": (-0.8, 0.4), "ra": (0.0, 360.0),
          "dec": (-10.0, 90.0), "chi2": (0.5, 2.0), "snr_r": (5.0, 80.0), "snr_i": (5.0, 80.0)}  # fmt: skip
WORDS = ("dM0", "dM1", "dM2", "dM3")


def _drawn(column: Column, count: int, rng: np.random.Generator) -> np.ndarray:
    if column.dtype == "str":
        return np.array(WORDS, dtype=object)[rng.integers(0, len(WORDS), count)]
    low, high = RANGES.get(column.name, column.valid_range or (0.0, 1.0))
    low, high = max(low, -1e3), min(high, 1e5 if column.dtype.startswith("int") else 1e3)
    if column.dtype.startswith("float"):
        return rng.uniform(low, max(low, high), count).astype(column.dtype)
    return rng.integers(int(low), int(max(low, high)) + 1, count).astype(column.dtype)


def _receipt(run: Run, name: str, unit: int, products: list[Path], known: Mapping[Path, FileSum] | None = None) -> None:
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
        products=sum_products(run.folder, products, known or {}),
    )
    write_receipt(run.receipt(name, unit), receipt)


if __name__ == "__main__":
    main()
