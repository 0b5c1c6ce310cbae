"""The same simulated stars as LAMOST, DESI and SDSS-V see them: `stargap mock` and `stargap run`, beside the truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pages import number, table

from stargap.statistics import robust_scatter
from stargap.tables.parquet import read_columns
from stargap.tables.read import read_table
from stargap.validation.report.data import RunData, read_run
from stargap.validation.report.truth import errors_of, plain_stars

__all__ = ["survey_rows", "surveys"]

INSTRUMENTS = {"lamost": "LAMOST", "desi": "DESI", "sdss-v": "SDSS-V, BOSS"}
STARS, SEED = 2000, 17
LABELS = {"rv": ("RV (km/s)", 1), "teff": ("Teff (K)", 0), "logg": ("log g", 3), "m_h": ("[M/H]", 3)}
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, np.inf))


def survey_rows(folder: Path) -> list[list[str]]:
    """Simulate and run the surveys, each once, and return measured minus true by quantity and S/N, one column each."""
    runs = {name: simulated_run(folder / name, name) for name in INSTRUMENTS}
    common = same_spectra(runs)
    rows = []
    for name, (title, digits) in LABELS.items():
        for low, high in BINS:
            end = f"{low:.0f}-{high:.0f}" if np.isfinite(high) else f"above {low:.0f}"
            rows.append([title, end, *(compared(data, common, name, low, high, digits) for data in runs.values())])
    return rows


def surveys(folder: Path, rows: list[list[str]]) -> str:
    """Return the section of the page on surveys that were run, with these rows."""
    runs = {name: simulated_run(folder / name, name) for name in INSTRUMENTS}
    common, counts = same_spectra(runs), []
    for name, title in INSTRUMENTS.items():
        data, size = runs[name], sum(f.stat().st_size for f in (folder / name / "spectra").rglob("*.fits*"))
        files = sum(1 for _ in (folder / name / "spectra").rglob("*.fits*"))
        counts.append([title, f"{len(data.final):,}", f"{files:,}", f"{size / 1e6:,.0f}", f"{data.final.sum():,}",
                       f"{common.size:,}"])  # fmt: skip
    head = ["survey", "spectra", "files", "MB", "in the final catalogue", "of these in all three"]
    parts = [HEAD, table(head, counts), COMPARED, table(["quantity", "S/N", *INSTRUMENTS.values()], rows)]
    return "\n\n".join([*parts, *stacks(runs), variability(runs)])


def simulated_run(folder: Path, instrument: str) -> RunData:
    """Return a run of a simulated survey, made where it is not there yet, by the commands of a user."""
    if not (folder / "run" / "report" / "index.html").exists():
        command = [sys.executable, "-m", "stargap"]
        mock = ["mock", "--stars", str(STARS), "--seed", str(SEED), "--repeats", "0.2", "--instrument", instrument]
        subprocess.run([*command, *mock, "-o", str(folder)], check=True)
        subprocess.run([*command, "run", str(folder / "survey.toml"), "--workers", "1"], check=True)
    return read_run(folder / "run", truth=folder / "truth.parquet")


def keys(data: RunData) -> NDArray[np.int64]:
    """Return a number of each spectrum that is the same in every survey."""
    assert data.truth is not None
    return np.where(plain_stars(data), data.truth["star"] * 10 + data.truth["exposure"], -1)


def same_spectra(runs: dict[str, RunData]) -> NDArray[np.int64]:
    """Return the numbers of spectra of inactive M dwarfs that are in every final catalogue."""
    found = [set(keys(data).tolist()) for data in runs.values()]
    return np.array(sorted(set.intersection(*found) - {-1}))


def compared(data: RunData, common: NDArray[np.int64], name: str, low: float, high: float, digits: int) -> str:
    """Return measured minus true of the common spectra of a range of S/N: median ± scatter, and scatter of pulls."""
    assert data.truth is not None
    snr = data.truth["snr_r"]
    some = np.isin(keys(data), common) & (snr >= low) & (snr < high)
    difference = (np.asarray(data.spectra[name], dtype=float) - data.truth[name])[some]
    pull = difference / errors_of(data.spectra, name)[some]
    known = np.isfinite(pull)
    middle, scatter = float(np.median(difference[known])), robust_scatter(difference[known])
    return f"{number(middle, digits, error=scatter, sign=True)}, {number(robust_scatter(pull[known]), 2)}"


def stacks(runs: dict[str, RunData]) -> list[str]:
    """Return labels of stacks and weighted means minus true ones, of stars with several spectra."""
    rows = []
    for name, title in INSTRUMENTS.items():
        stars = read_columns(runs[name].folder / "catalogue" / "stars.parquet")
        truth = read_table(runs[name].folder.parent / "truth.parquet")
        ids, first = np.unique(truth["source_id"], return_index=True)
        place = first[np.searchsorted(ids, stars["gaia_source_id"]).clip(0, len(ids) - 1)]
        true = {key: values[place] for key, values in truth.items()}
        use = (true["source_id"] == stars["gaia_source_id"]) & (true["kind"] == "dwarf") & ~true["active"].astype(bool)
        use &= stars["in_final_catalogue"] & (stars["n_stack"] > 1) & (stars["n_stack"] == stars["n_epochs"])
        snr = np.fmin(stars["snr_r"], stars["snr_i"]) / np.sqrt(np.maximum(stars["n_epochs"], 1))
        for low, high in ((5.0, 20.0), (20.0, np.inf)):
            some = use & (snr >= low) & (snr < high) & (stars["use_stack"] == 1)
            cells = [title, "5-20" if low == 5 else "above 20", f"{some.sum()}"]
            for label in ("teff", "m_h"):
                digits = LABELS[label][1]
                for values in (stars[label], stars[f"{label}_stack"]):
                    off = (values - true[label])[some]
                    cells.append(number(float(np.median(off)), digits, error=robust_scatter(off), sign=True))
            rows.append(cells)
    head = ["survey", "S/N", "stars", "Teff (K), mean", "stack", "[M/H], mean", "stack"]
    return [STACKS, table(head, rows)]


def variability(runs: dict[str, RunData]) -> str:
    """Return how many stars of constant velocity are called variable."""
    found = []
    for name, title in INSTRUMENTS.items():
        stars: dict[str, Any] = read_columns(runs[name].folder / "catalogue" / "stars.parquet", ["rv_variable"])
        known = stars["rv_variable"] >= 0
        found.append(f"{(stars['rv_variable'] == 1).sum()} of {known.sum()} ({title})")
    return CONSTANT.format(", ".join(found))


HEAD = f"""## The same simulated stars as LAMOST, DESI and SDSS-V see them

`stargap mock --stars {STARS} --seed {SEED} --repeats 0.2 --instrument lamost` (`desi`, `sdss-v`), then `stargap
run`, all simulated: the same stars of other physics than the models, junk and repeats, at the same S/N per pixel
(DESI's pixels are half as wide, so that its S/N per A is 1.4 times as high). DESI's files hold the resolution matrix of
each spectrum, SDSS-V's `mwmVisit` files the visits of a star in its rest frame, by a velocity that is 3 km/s off and
more. Labels are those of `transfer-simulated`, which was trained on simulated LAMOST spectra."""
COMPARED = """Measured minus true of inactive M dwarfs that are in the final catalogues of all three, simulated:
median ± 1.4826 times the median absolute deviation, and the same of pulls (differences over published errors,
systematic ones included). log g is low because nature's main sequence is another than the models'; systematic errors
hold that."""
STACKS = """Stars with several spectra: the weighted mean of their labels (`teff`) and the fit to their stack
(`teff_stack`), minus the truth, by the mean S/N of one spectrum. Both are as good as each other; the scatter is that of
models that differ from nature, which no repeat averages out."""
CONSTANT = """No simulated star changes its velocity. `rv_variable` (a probability below 1e-4) is set for {} of the
stars with several usable velocities, where chance alone would give none: one of their velocities is an outlier."""
