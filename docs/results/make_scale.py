"""Make docs/results/scale.md: simulated surveys of growing size through `stargap run`, with times, memory and disk.

Each run is done once and written down in the work folder; what is there is not run again. The largest one is killed
twice on its way, with every process, and goes on when it is called again. Its simulated survey is kept, since it takes
long; another call goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import psutil
import torch
from pages import table

from stargap import __version__
from stargap.pipeline.engine import stage_states
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import stage_named
from stargap.pipeline.settings import SurveySettings
from stargap.settings import read_settings_as

SEED = 1
FILES = 1_600
STARS = (810, 8_100, 81_000, 877_000)
"""Stars of the surveys in stores; with repeats 1.24 spectra each."""
SPREAD = 8_100
"""Stars of the survey that is done by different numbers of workers."""
WORKERS = (1, 2, 4)
KILLS = (900.0, 1_200.0)
"""Seconds after which the largest run is killed, and after which it is killed again."""
FAR = 10_000_000
MACHINES = 8
POLL = 2.0
TABLES = Path(__file__).with_name("scale-tables.json")
"""What benchmarks/tables_at_scale.py found."""


class Watched:
    """A command of stargap with all its processes: wall and processor time (s), memory of the largest (bytes).

    Args:
        words: of the command.
        kill: seconds after which all its processes are killed.
    """

    def __init__(self, *words: str, kill: float | None = None) -> None:
        began = time.monotonic()
        stargap = Path(sys.executable).with_name("stargap")
        process = subprocess.Popen([stargap, *words], stdout=subprocess.DEVNULL, start_new_session=True)
        spent: dict[tuple[int, float], float] = {}
        self.memory, self.killed = 0.0, False
        while process.poll() is None:
            self._look(process.pid, spent)
            self.killed = kill is not None and time.monotonic() - began > kill
            if self.killed:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(POLL)
        self.wall, self.processor = time.monotonic() - began, sum(spent.values())
        if process.returncode and not self.killed:
            message = f"stargap {' '.join(words)} ended with {process.returncode}"
            raise SystemExit(message)

    def _look(self, pid: int, spent: dict[tuple[int, float], float]) -> None:
        try:
            main = psutil.Process(pid)
            family = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                times, memory = one.cpu_times(), one.memory_info().rss
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            spent[one.pid, one.create_time()] = times.user + times.system
            self.memory = max(self.memory, memory)


def disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def simulated(folder: Path, stars: int, *, store: bool = True) -> Path:
    """Simulate a survey, or go on with one; return its settings."""
    options = ["--store"] if store else []
    Watched("mock", "--stars", str(stars), "--seed", str(SEED), "-o", str(folder), *options)
    return folder / "survey.toml"


def measured(settings: Path, *options: str, kills: Sequence[float] = ()) -> dict[str, Any]:
    """Run a survey, killed on the way after so many seconds, and return what it took."""
    attempts = [Watched("run", str(settings), *options, kill=kill) for kill in (*kills, None)]
    chosen = read_settings_as(SurveySettings, settings).absolute()
    run = Run(chosen.output, chosen)
    states = stage_states(run)
    return {
        "rows": next(state.rows for state in states if state.stage == "ingest"),
        "selected": next(state.rows for state in states if state.stage == "velocity"),
        "walls": [attempt.wall for attempt in attempts],
        "killed": sum(attempt.killed for attempt in attempts),
        "wall": sum(attempt.wall for attempt in attempts),
        "processor": sum(attempt.processor for attempt in attempts),
        "memory": max(attempt.memory for attempt in attempts),
        "stages": {state.stage: state.seconds for state in states},
        "disk": {part.name: disk(part) for part in sorted(run.folder.iterdir()) if part.is_dir()},
    }


class Study:
    """All runs, in one folder."""

    def __init__(self, work: Path, workers: int, stars: Sequence[int]) -> None:
        self.work, self.workers, self.stars = work, workers, stars

    def _kept(self, name: str, survey: Path, *options: str, kills: Sequence[float] = ()) -> dict[str, Any]:
        path = self.work / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measured(survey, *options, kills=kills), indent=1))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def files(self) -> dict[str, Any]:
        """The run from files."""
        folder = self.work / f"files-{FILES}"
        return self._kept(folder.name, simulated(folder, FILES, store=False), "--workers", str(self.workers))

    def store(self, stars: int) -> dict[str, Any]:
        """The run of a store."""
        folder, options = self.work / f"store-{stars}", ("--workers", str(self.workers))
        if (self.work / f"{folder.name}.json").exists():
            return self._kept(folder.name, folder)
        kills = KILLS if stars == max(STARS) else ()
        return self._kept(folder.name, simulated(folder, stars), *options, kills=kills)

    def spread(self, workers: int) -> dict[str, Any]:
        """The run of a store by workers of a local Dask cluster."""
        name = f"dask-{workers}"
        survey = simulated(self.work / name, SPREAD)
        return self._kept(name, survey, "--dask", "local", "--workers", str(workers))


def sharded(run: dict[str, Any]) -> float:
    """Seconds of the stages that are done shard by shard, over all processes."""
    return sum(seconds for name, seconds in run["stages"].items() if stage_named(name).sharded)


def tables_at_scale(found: dict[str, Any]) -> str:
    """Return what the stages of tables took, as a table."""
    sizes = list(found["rows"])
    head = ["stage", *(f"s, {int(rows):,}" for rows in sizes), *(f"GB, {int(rows):,}" for rows in sizes)]
    return table(
        head,
        [
            [
                name,
                *(f"{found['rows'][rows][name]['wall']:.0f}" for rows in sizes),
                *(f"{found['rows'][rows][name]['memory'] / 1e9:.2f}" for rows in sizes),
            ]
            for name in found["rows"][sizes[0]]
        ],
    )


def page(study: Study) -> str:
    """Return the document."""
    tables = json.loads(TABLES.read_text())
    files, runs = study.files(), [study.store(stars) for stars in study.stars]
    spread = {workers: study.spread(workers) for workers in WORKERS}
    every = [("from files", files), *(("from the store", run) for run in runs)]
    last = runs[-1]
    speed = [
        [
            name,
            f"{run['rows']:,}",
            f"{run['selected']:,}",
            f"{run['wall']:,.0f} s",
            f"{run['processor']:,.0f} s",
            f"{run['rows'] / run['wall']:.0f}",
            f"{run['memory'] / 1e9:.2f} GB",
        ]
        for name, run in every
    ]
    head = ["", "spectra", "measured", "wall", "processors", "spectra/s", "largest process"]
    stages = [
        [name, "shards" if stage_named(name).sharded else "one piece",
         f"{1e3 * files['stages'][name] / files['rows']:.2f}", f"{1e3 * seconds / last['rows']:.2f}", f"{seconds:,.0f}"]
        for name, seconds in last["stages"].items()
    ]  # fmt: skip
    size = [
        [part, *(f"{run['disk'].get(part, 0) / run['rows'] / 1e3:.2f}" for run in (files, last))]
        for part in sorted({part for run in (files, last) for part in run["disk"]})
    ]
    several = [
        [str(workers), f"{run['wall']:.0f} s", f"{sharded(run):.0f} s", f"{run['processor']:.0f} s",
         f"{spread[1]['wall'] / run['wall']:.2f}"]
        for workers, run in spread.items()
    ]  # fmt: skip
    efficiency = sharded(spread[1]) / sharded(spread[2])
    pieces = sum(last["stages"].values()) - sharded(last)
    ratio = FAR / last["rows"]
    bytes_a_row = sum(last["disk"].values()) / last["rows"]
    machine = ratio * last["wall"] / 3600
    eight = ratio * (sharded(last) / (MACHINES * study.workers) + pieces) / 3600
    text = Template((Path(__file__).parent / "scale.template.md").read_text())
    return text.substitute(
        version=__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        seed=SEED,
        workers=study.workers,
        most=f"{last['rows']:,}",
        rate=f"{last['rows'] / last['wall']:.0f}",
        minutes=f"{last['wall'] / 60:.0f}",
        memory=f"{max(run['memory'] for _, run in every) / 1e9:.1f} GB",
        bytes=f"{bytes_a_row / 1e3:.0f}",
        speed=table(head, speed),
        attempts=" + ".join(f"{wall / 60:.0f}" for wall in last["walls"]),
        work=f"{100 * sum(last['stages'].values()) / (study.workers * last['wall']):.0f}",
        stages=table(["stage", "done as", "ms, files", f"ms, {last['rows']:,}", "s in all"], stages),
        disk=table(["folder", "from files", f"{last['rows']:,}"], size),
        several=table(["workers", "wall", "shards, over all workers", "processors", "faster"], several),
        spread_rows=f"{spread[1]['rows']:,}",
        efficiency=f"{100 * efficiency:.0f}",
        far=f"{FAR:,}",
        machines=MACHINES,
        far_disk=f"{bytes_a_row * FAR / 1e9:,.0f} GB",
        one_machine=f"{machine:.0f} h",
        eight_machines=f"{eight:.1f} h",
        share=f"{100 * ratio * pieces / 3600 / eight:.0f}",
        tables=tables_at_scale(tables),
        tables_version=tables["version"],
        tables_machine=tables["machine"],
    )


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stars", type=int, nargs="+", default=list(STARS))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    text = page(Study(options.work.absolute(), options.workers, options.stars))
    (Path(__file__).parent / "scale.md").write_text(text)


if __name__ == "__main__":
    main()
