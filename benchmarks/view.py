"""Times of ``stargap view`` in headless Chromium, on a made-up run of 500,000 spectra: first picture, clicks, filters.

A survey of simulated stars is run as ``stargap run`` does it; its first shard is then repeated under new identifiers,
with labels scattered by their errors, until there are as many spectra as asked for: shards of the store are links to
the first one. The pictures are of simulated stars, and what they show means nothing.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "validation"))

from chromium import Page

from stargap import __version__
from stargap.mock.write import write_survey
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.spectra.store.shards import SHARD_ROWS, shard_folder
from stargap.tables.columns import CATALOGUE, INT_NULL
from stargap.tables.parquet import provenance_of, read_columns, write_columns, write_parts
from stargap.validation.viewer.bins import View
from stargap.validation.viewer.explore import Explorer
from stargap.validation.viewer.table import Catalogue

SEED = 1
STARS = 900
"""Targets of the survey that is repeated; with repeats they fill one shard."""
SCATTERED = ("teff", "logg", "m_h", "rv")
"""Columns that are scattered by their errors."""
ALONG = {"teff": 100.0, "logg": -0.05, "bp_rp": -0.13, "m_g": -0.5}
"""What else stars are scattered by, along the main sequence."""
ACROSS = {"bp_rp": 0.02, "m_g": 0.1}
"""And across it."""
STATE = "document.getElementById('explorer').dataset"


def main() -> None:
    """Make the run, start the viewer, look at it, and print what took how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/view"))
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--picture", type=Path, help="PNG of the page")
    parser.add_argument("--write", type=Path, help="JSON file that keeps the figures")
    options = parser.parse_args()
    small, large = options.work.absolute() / "survey", options.work.absolute() / str(options.rows)
    if not (small / "run" / "catalogue" / "spectra.parquet").exists():
        make_small(small)
    if not (large / "made").exists():
        shutil.rmtree(large, ignore_errors=True)
        make_large(small / "run", large, options.rows)
        (large / "made").touch()
    found = answers(large) | look(large, options.clicks, options.picture)
    print(f"stargap {__version__}, {options.rows:,} simulated spectra; load of the machine {os.getloadavg()[0]:.1f}")
    for name, value in found.items():
        print(f"{name:<58} {value:8.3f}")
    if options.write is not None:
        options.write.write_text(f"{json.dumps(found, indent=1)}\n", encoding="utf-8")


def make_small(folder: Path) -> None:
    """Simulate a survey and run it."""
    print(f"running a survey of {STARS} simulated stars in {folder}", file=sys.stderr)
    survey = write_survey(folder / "simulated", STARS, seed=SEED, repeats=0.2, junk=0.05)
    settings = {
        "output": folder / "run",
        "input": {
            "spectra": [str(survey / "spectra")],
            "catalogue": survey / "lamost.csv",
            "gaia": survey / "gaia.parquet",
        },
        "transfer": {"use": "simulated", "prior": {"draws": 1000, "alpha": 0.0}},
        "publish": {"formats": []},
        "report": {"skip": True},
    }
    if {state.state for state in run_survey(SurveySettings.model_validate(settings))} != {"done"}:
        raise SystemExit("the survey is not done")


def make_large(small: Path, folder: Path, rows: int) -> None:
    """Repeat the first shard of a run."""
    print(f"repeating its first shard to {rows:,} spectra in {folder}", file=sys.stderr)
    for name in ("emulator", "transfer"):
        shutil.copytree(small / name, folder / name)
    (folder / "receipts").mkdir()
    shutil.copyfile(small / "measured.parquet", folder / "measured.parquet")
    base = read_columns(small / "catalogue" / "spectra.parquet")
    first = {name: values[:SHARD_ROWS] for name, values in base.items()}
    about = provenance_of(small / "catalogue" / "spectra.parquet") | {"simulated": "true"}
    (folder / "catalogue").mkdir()
    write_parts(_repeated(first, rows), folder / "catalogue" / "spectra.parquet", schema=CATALOGUE, provenance=about)
    velocity = read_columns(small / "velocity" / "00000.parquet")
    (folder / "store").mkdir()
    for number in range(-(-rows // SHARD_ROWS)):
        shard_folder(folder / "store", number).symlink_to(shard_folder(small / "store", 0))
        moved = {"spectrum_id": velocity["spectrum_id"] + number * SHARD_ROWS}
        write_columns(folder / "velocity" / f"{number:05d}.parquet", velocity | moved)


def _repeated(first: dict[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    rng, size = np.random.default_rng(SEED), 24 * SHARD_ROWS
    for start in range(0, rows, size):
        number = np.arange(start, min(start + size, rows))
        part = {name: values[number % SHARD_ROWS] for name, values in first.items()}
        for name in SCATTERED:
            part[name] = part[name] + part[f"e_{name}"] * rng.standard_normal(len(number))
        moved = rng.standard_normal(len(number))
        for name, width in ALONG.items():
            part[name] = part[name] + width * moved
        for name, width in ACROSS.items():
            part[name] = part[name] + width * rng.standard_normal(len(number))
        source = part["gaia_source_id"] + 10_000_000 * (number // SHARD_ROWS)
        part["gaia_source_id"] = np.where(part["gaia_source_id"] == INT_NULL, INT_NULL, source)
        yield part | {"spectrum_id": number, "obsid": 1_000_000 + number}


def answers(folder: Path) -> dict[str, float]:
    """Return the processor seconds of single answers, without server and browser, once their columns are read."""
    explorer = Explorer(Catalogue(folder))
    start = explorer.start()
    whole, text = start["whole"]["kiel"], start["filter"]
    view = View(tuple(whole["x"]), tuple(whole["y"]), 500, 350, x_down=True)
    asked: dict[str, Callable[[], object]] = {
        "bins of a diagram": lambda: explorer.diagram("kiel", "m_h", view, text),
        "the nearest star": lambda: explorer.pick("kiel", view, (3500.0, 4.8), text),
        "a star whose row group was not read before": lambda: explorer.star(explorer.catalogue.rows - 1),
        "the star beside it": lambda: explorer.star(explorer.catalogue.rows - 2),
        "all columns of its row": lambda: explorer.cells(explorer.catalogue.rows - 2),
    }
    found = {}
    for name, answer in asked.items():
        began = time.process_time()
        answer()
        found[f"processor s of {name}"] = time.process_time() - began
    return found


def look(folder: Path, clicks: int, picture: Path | None) -> dict[str, float]:
    """Start the viewer in a process of its own, open it, click, and return seconds."""
    command = [sys.executable, "-m", "stargap", "view", str(folder), "--no-open"]
    with tempfile.TemporaryDirectory() as profile:
        browser = Page(Path(profile))
        browser.size(1600, 1000)
        began = time.monotonic()
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        try:
            address = next(line.split()[1] for line in server.stdout or () if line.startswith("open "))
            found = {"s from the command to its address": time.monotonic() - began}
            found |= _first_picture(browser, address, began)
            found["processor s of the server until then"] = before = _processor(server.pid)
            found |= _clicks(browser, clicks)
            found["processor s of the server per click"] = (_processor(server.pid) - before) / clicks
            found |= _others(browser)
            assert browser.problems == [], browser.problems
            if picture is not None:
                _photograph(browser, address, picture)
        finally:
            server.terminate()
            server.wait()
            browser.close()
    return found


def _first_picture(browser: Page, address: str, began: float) -> dict[str, float]:
    opened = time.monotonic()
    browser.open(address)
    browser.until(f"{STATE}.loaded")
    found = {"s from opening the address to both diagrams": time.monotonic() - opened}
    found["s from the command to both diagrams"] = time.monotonic() - began
    browser.until(f"{STATE}.ready")
    found["s from opening the address to the first star"] = time.monotonic() - opened
    browser.until(f"{STATE}.fitted")
    found["s from opening the address to its model"] = time.monotonic() - opened
    return found


def _processor(process: int) -> float:
    """Return the processor seconds that a process has used, which other programs on the machine do not change."""
    used = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _clicks(browser: Page, clicks: int) -> dict[str, float]:
    """Click at places in the Kiel diagram: the time until summary and spectrum are there, and until the model is."""
    box = browser.run(
        "(() => { const box = document.querySelector('#kiel .u-over').getBoundingClientRect(); "
        "return [box.left, box.top, box.width, box.height]; })()"
    )
    rng, shown, fitted = np.random.default_rng(SEED), [], []
    for _ in range(clicks):
        across = rng.uniform(0.1, 0.9)
        browser.run(f"delete {STATE}.ready, delete {STATE}.fitted")
        began = time.monotonic()
        browser.click(box[0] + across * box[2], box[1] + (0.1 + 0.75 * across) * box[3])
        browser.until(f"{STATE}.ready")
        shown.append(time.monotonic() - began)
        browser.until(f"{STATE}.fitted")
        fitted.append(time.monotonic() - began)
    return {
        "s from a click to summary and spectrum, median": float(np.median(shown)),
        "s from a click to summary and spectrum, longest": float(np.max(shown)),
        "s from a click to the model, median": float(np.median(fitted)),
        "s from a click to the model, longest": float(np.max(fitted)),
    }


def _others(browser: Page) -> dict[str, float]:
    """Zoom, and filter by columns that were not read before."""
    found = {}
    steps = {
        "s of a zoom": "stargapExplorer.diagrams.kiel.keys('+')",
        "s of a filter by three columns": "(document.getElementById('filter').value = 'teff 3000..3600; snr_i > 20; "
        "flags lacks active', document.querySelector('#filter-form button').click())",
    }
    for name, action in steps.items():
        before = browser.run(f"{STATE}.kiel")
        began = time.monotonic()
        browser.run(f"{action}, null")
        browser.until(f"{STATE}.kiel !== '{before}'")
        found[name] = time.monotonic() - began
    return found


def _photograph(browser: Page, address: str, path: Path) -> None:
    """Open the page anew, and keep what is seen of it without scrolling."""
    browser.open("about:blank")
    browser.open(address)
    browser.until(f"{STATE}.fitted")
    taken = browser.send("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(taken["data"]))


if __name__ == "__main__":
    main()
