"""Make docs/results/scale.md: simulated surveys of growing size through `stargap run`, with times, memory and disk.

Each size is run once and written down in the work folder; what is there is not run again.
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
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from pages import table

from stargap import __version__
from stargap.pipeline.engine import stage_states
from stargap.pipeline.folder import Run
from stargap.pipeline.settings import SurveySettings
from stargap.settings import example_toml, read_settings_as

SEED = 1
FILES = 2_000
SIZES = (1_000, 10_000, 100_000)
FAR = (1_000_000, 10_000_000)
PER_STAR = 1.14
"""Spectra a star, repeats included."""


def disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def command(*words: str) -> tuple[float, float]:
    """Run stargap; return its wall time (s) and the largest memory of any of its processes (bytes)."""
    code = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    began = time.monotonic()
    stargap = Path(sys.executable).with_name("stargap")
    told = subprocess.run([sys.executable, "-c", code, stargap, *words], stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - began, 1024.0 * float(told.stdout.split()[-1])


def measured(work: Path, name: str, stars: int, workers: int, *, store: bool) -> dict[str, Any]:
    """Simulate a survey, run it, and return what it took."""
    path = work / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--store"] if store else []
    made, _ = command("mock", "--stars", str(stars), "--seed", str(SEED), "-o", str(folder), *options)
    settings = read_settings_as(SurveySettings, folder / "survey.toml")
    settings = settings.model_copy(
        update={"transfer": settings.transfer.model_copy(update={"use": "simulated"}), "output": folder / "run"}
    )
    (folder / "survey.toml").write_text(example_toml(settings))
    wall, memory = command("run", str(folder / "survey.toml"), "--workers", str(workers))
    states = stage_states(Run(settings.output.absolute(), settings.absolute()))
    rows = next(state.rows for state in states if state.stage == "ingest")
    result = {
        "rows": rows,
        "simulated": made,
        "wall": wall,
        "memory": memory,
        "stages": {state.stage: state.seconds for state in states},
        "selected": next(state.rows for state in states if state.stage == "velocity"),
        "disk": {part.name: disk(part) for part in sorted((folder / "run").iterdir()) if part.is_dir()},
    }
    path.write_text(json.dumps(result, indent=1))
    shutil.rmtree(folder)
    return result


def page(files: dict[str, Any], runs: list[dict[str, Any]], workers: int) -> str:
    """Return the document."""
    every = [("from files", files), *((f"from the store, {run['rows']:,}", run) for run in runs)]
    speed = [
        [
            name,
            f"{run['rows']:,}",
            f"{run['selected']:,}",
            f"{run['wall']:,.0f} s",
            f"{run['rows'] / run['wall']:.0f}",
            f"{run['selected'] / run['wall']:.0f}",
            f"{run['memory'] / 1e9:.2f} GB",
        ]
        for name, run in every
    ]
    head = ["", "spectra", "measured", "wall", "spectra/s", "measured/s", "largest process"]
    ends, names = (every[0], every[-1]), list(files["stages"])
    stages = [[stage, *(f"{1e3 * run['stages'][stage] / run['rows']:.2f}" for _, run in ends)] for stage in names]
    size = [
        [part, *(f"{run['disk'].get(part, 0) / run['rows'] / 1e3:.2f}" for _, run in ends)]
        for part in sorted({part for _, run in ends for part in run["disk"]})
    ]
    counts, walls = (np.array([run[key] for run in runs], dtype=float) for key in ("rows", "wall"))
    slope, start = np.polyfit(counts, walls, 1, w=1 / walls)
    bytes_a_row = sum(runs[-1]["disk"].values()) / runs[-1]["rows"]
    far = [
        [f"{count:,}", f"{(start + slope * count) / 3600:.1f} h", f"{bytes_a_row * count / 1e9:,.0f} GB"]
        for count in FAR
    ]
    text = Template((Path(__file__).parent / "scale.template.md").read_text())
    return text.substitute(
        version=__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        seed=SEED,
        workers=workers,
        speed=table(head, speed),
        rate=f"{runs[-1]['rows'] / runs[-1]['wall']:.0f}",
        hours=far[0][1],
        memory=f"{max(run['memory'] for _, run in every) / 1e9:.1f} GB",
        most=f"{runs[-1]['rows']:,}",
        bytes=f"{bytes_a_row / 1e3:.0f}",
        stages=table(["stage", *(name for name, _ in ends)], stages),
        disk=table(["folder", *(name for name, _ in ends)], size),
        far=table(["spectra", f"time with {workers} processes", "disk"], far),
        slope=f"{1e3 * slope:.1f}",
        start=f"{start:.0f}",
    )


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--files", type=int, default=FILES)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    files = measured(
        options.work, f"files-{options.files}", round(options.files / PER_STAR), options.workers, store=False
    )
    runs = [
        measured(options.work, f"store-{size}", round(size / PER_STAR), options.workers, store=True)
        for size in options.sizes
    ]
    (Path(__file__).parent / "scale.md").write_text(page(files, runs, options.workers))


if __name__ == "__main__":
    main()
