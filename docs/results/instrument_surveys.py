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

__all__ = ["surveys"]

INSTRUMENTS = {"lamost": "LAMOST", "desi": "DESI", "sdss-v": "SDSS-V, BOSS"}
STARS, SEED = 2000, 17
LABELS = {"rv": ("RV (km/s)", 1), "teff": ("Teff (K)", 0), "logg": ("log g", 3), "m_h": ("[M/H]", 3)}
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, np.inf))


def surveys(folder: Path) -> str:
    """Simulate and run the surveys, each once, and return the section of the page."""
    runs = {name: simulated_run(folder / name, name) for name in INSTRUMENTS}
    common = same_spectra(runs)
    counts, rows = [], []
    for name, title in INSTRUMENTS.items():
        data, size = runs[name], sum(f.stat().st_size for f in (folder / name / "spectra").rglob("*.fits*"))
        files = sum(1 for _ in (folder / name / "spectra").rglob("*.fits*"))
        sample = data.spectra["cuts"] & 1 == 0
        counts.append([title, f"{len(sample):,}", f"{files:,}", f"{size / 1e6:,.0f}", f"{sample.sum():,}",
                       f"{data.final.sum():,}", f"{common.size:,}"])  # fmt: skip
    for name, (title, digits) in LABELS.items():
        for low, high in BINS:
            for instrument, title_of in INSTRUMENTS.items():
                rows.append(compared(runs[instrument], common, name, low, high, title, digits, title_of))
    head = ["survey", "spectra", "files", "MB", "in the sample", "in the final catalogue", "of these in all three"]
    columns = ["quantity", "S/N", "survey", "spectra", "median", "scatter", "pulls", "within 1 σ"]
    parts = [HEAD, table(head, counts), COMPARED, table(columns, rows)]
    return "\n\n".join([*parts, *stacks(runs), *variability(runs)])


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


def compared(
    data: RunData, common: NDArray[np.int64], name: str, low: float, high: float, title: str, digits: int, survey: str
) -> list[str]:
    """Return a row: measured minus true of the common spectra of a range of S/N."""
    assert data.truth is not None
    snr = data.truth["snr_r"]
    some = np.isin(keys(data), common) & (snr >= low) & (snr < high)
    difference = (np.asarray(data.spectra[name], dtype=float) - data.truth[name])[some]
    pull = difference / errors_of(data.spectra, name)[some]
    known = np.isfinite(pull)
    end = f"{low:.0f}-{high:.0f}" if np.isfinite(high) else f"above {low:.0f}"
    return [title, end, survey, f"{known.sum()}", number(float(np.median(difference[known])), digits, sign=True),
            number(robust_scatter(difference[known]), digits), number(robust_scatter(pull[known]), 2),
            f"{100 * np.mean(np.abs(pull[known]) < 1):.0f} %"]  # fmt: skip


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
            for label in ("teff", "logg", "m_h"):
                digits = LABELS[label][1]
                for values in (stars[label], stars[f"{label}_stack"]):
                    off = (values - true[label])[some]
                    cells.append(number(float(np.median(off)), digits, error=robust_scatter(off), sign=True))
                cells.append(number(robust_scatter((stars[f"{label}_stack"] - stars[label])[some]), digits))
            rows.append(cells)
    head = ["survey", "S/N", "stars", "Teff, mean", "stack", "between", "log g, mean", "stack", "between",
            "[M/H], mean", "stack", "between"]  # fmt: skip
    return [STACKS, table(head, rows)]


def variability(runs: dict[str, RunData]) -> list[str]:
    """Return how many stars of constant velocity are called variable."""
    rows = []
    for name, title in INSTRUMENTS.items():
        stars: dict[str, Any] = read_columns(runs[name].folder / "catalogue" / "stars.parquet",
                                             ["rv_variable", "n_spectra"])  # fmt: skip
        known = stars["rv_variable"] >= 0
        rows.append([title, f"{known.sum()}", f"{(stars['rv_variable'] == 1).sum()}"])
    return [CONSTANT, table(["survey", "stars with several usable velocities", "called variable"], rows)]


HEAD = f"""## The same simulated stars as LAMOST, DESI and SDSS-V see them

`stargap mock --stars {STARS} --seed {SEED} --repeats 0.2 --instrument lamost` (`desi`, `sdss-v`), then `stargap
run`, all simulated: the same stars of other physics than the models, junk and repeats, at the same S/N per pixel
(DESI's pixels are half as wide, so that its S/N per A is 1.4 times as high). DESI's files hold the targets of a
night, three arms of 0.8 A a pixel and the resolution matrix of each spectrum (R = 3200-5100, each fibre within 4 %
of it); SDSS-V's `mwmVisit` files the visits of a star, in its rest frame by a velocity that is 3 km/s off and more,
at R = 1850-2650, each fibre within 8 % of what the reader takes it to be. Labels are those of `transfer-simulated`,
which was trained on simulated LAMOST spectra."""
COMPARED = """Measured minus true of inactive M dwarfs that are in the final catalogues of all three, simulated:
median, 1.4826 times the median absolute deviation, the same of pulls (differences over published errors, systematic
ones included), and the fraction within one error. Published errors are those that repeats show, and
systematic ones, which were learned on simulated LAMOST spectra. log g is low because nature's main sequence is
another than the models'; systematic errors hold that. Errors of velocities are the least true, those of BOSS at high
S/N first."""
STACKS = """Stars with several spectra: the weighted mean of their labels (`teff`) and the fit to their stack
(`teff_stack`), minus the truth, median and scatter, by the mean S/N of one spectrum; "between" is the scatter of
the one minus the other. Means and stacks are as good as each other; the scatter is that of models that differ from
nature, which no repeat averages out."""
CONSTANT = """No simulated star changes its velocity. `rv_variable` (a probability below 1e-4) calls so many variable,
where chance alone would give none: stars of which one velocity is an outlier; their spectra were not looked at
one by one."""
