"""Make docs/results/reliability.md: what happens to runs, files and pages when things go wrong.

Every trial is counted as held or lost; seeds are fixed, moments of kills are not. All of it takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch
from pages import table
from reliability_files import bombs, damaged_files, odd_names
from reliability_pages import hostile_pages
from reliability_runs import Survey, flipped_bits, full_disks, kill_chains, lost_workers
from reliability_trials import Tally

from stargap import __version__

SEED = 14
HERE = Path(__file__).parent
MANY = 1000
"""Stands for all that there are of things that are listed."""


@dataclass(frozen=True)
class Tries:
    """How often each kind of thing is tried; damaged files are that many of each format."""

    kill_chains: int = 12
    full_disks: int = 8
    lost_workers: int = 8
    flipped_bits: int = 252
    damaged_files: int = 300
    bombs: int = MANY
    odd_names: int = MANY
    hostile_pages: int = MANY

    @classmethod
    def scaled(cls, scale: float) -> Tries:
        """Return a part of them, at least one of each."""
        return cls(**{name: max(1, round(scale * count)) for name, count in vars(cls()).items()})


ON_FILES = (damaged_files, bombs, odd_names)
ON_RUNS = (hostile_pages, flipped_bits, kill_chains, full_disks, lost_workers)


def campaigns(work: Path, tries: Tries) -> Iterator[tuple[list[Tally], float]]:
    """Yield what came of each kind of trial, and its time (s); what is in the work folder is not tried again."""
    survey = None
    for number, trial in enumerate((*ON_FILES, *ON_RUNS)):
        path = work / f"{trial.__name__}.json"
        if not path.exists():
            began = time.monotonic()
            if trial in ON_RUNS and survey is None:
                shutil.rmtree(work / "survey", ignore_errors=True)
                survey = Survey.make(work)
            on = () if trial in ON_FILES else (survey,)
            found = trial(*on, work, getattr(tries, trial.__name__), np.random.default_rng([SEED, number]))
            content = {"tallies": [asdict(one) for one in found], "seconds": time.monotonic() - began}
            path.write_text(json.dumps(content, indent=1))
        content = json.loads(path.read_text())
        yield [Tally(**one) for one in content["tallies"]], content["seconds"]


def page(tallies: list[Tally], seconds: float) -> str:
    """Return the document."""
    rows = [(one.kind, one.expected, *map("{:,}".format, _counts(one)), one.note) for one in tallies]
    rows.append(("all", "", *(f"{sum(counts):,}" for counts in zip(*map(_counts, tallies), strict=True)), ""))
    lost = [f"* {one.kind}: `{' '.join(why.split())[:300]}`" for one in tallies for why in one.lost[:5]]
    return Template((HERE / "reliability.template.md").read_text(encoding="utf-8")).substitute(
        version=__version__,
        machine=f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores",
        seed=SEED,
        minutes=f"{seconds / 60:.0f}",
        tries=rows[-1][2],
        held=rows[-1][3],
        gone=rows[-1][4],
        table=table(("what", "what must hold", "tries", "held", "lost", ""), rows),
        lost="\n".join(lost) if lost else "Nothing was lost.",
    )


def _counts(one: Tally) -> tuple[int, int, int]:
    return one.tries, one.held, len(one.lost)


def main() -> int:
    """Try everything, print what comes of it, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the tries; a page is written of all alone")
    parser.add_argument("--work", type=Path, default=Path("build/reliability"), help="keeps what was tried")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    tallies, seconds = [], 0.0
    for some, spent in campaigns(options.work.absolute(), Tries.scaled(options.scale)):
        tallies += some
        seconds += spent
        for one in some:
            lost = "".join(f"\n  lost: {why}" for why in one.lost)
            print(f"{one.kind}: {one.held} of {one.tries} held {one.note}{lost}", file=sys.stderr, flush=True)
    if options.scale == 1:
        (HERE / "reliability.md").write_text(page(tallies, seconds), encoding="utf-8")
    return 1 if any(one.lost for one in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
