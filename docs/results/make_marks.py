"""Make `marks.md`: whether the marks `use_*` let through what is no M dwarf, and what they cost of those that are."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pages import read_index, reflow, table
from real_star_data import read_templates

import stargap
from stargap.flags import Flag
from stargap.marks import MARKED
from stargap.measurement.models import load_model_named
from stargap.measurement.second import LEAST_RATIO, LEAST_SNR
from stargap.measurement.star import BATCH, batch_velocity
from stargap.mock.survey import simulate_survey
from stargap.pixels import LOG_LAMBDA, air_to_vacuum
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.emulator import shipped_emulator

SNR = 100.0
"""S/N of spectra of libraries that have no errors."""
WINDOW = (5850.0, 9150.0)
"""Wavelengths (A) of the libraries' spectra that are kept."""
GIANTS = ("III", "II", "Iab")
"""Luminosity classes of the benchmark giants."""
SIMULATED = {
    "galaxy": "galaxies (simulated)",
    "white_dwarf": "white dwarfs (simulated)",
    "k_giant": "K giants (simulated)",
    "early_k": "K0 to K3 dwarfs (simulated)",
    "lamp": "lamps (simulated)",
}
SUMS = {"cool": "sums of two LAMOST M dwarfs (`cool`)", "standard": "sums of two standards or SDSS means"}
"""Made of real spectra: what thresholds were chosen on, and others."""
SINGLE = "M dwarfs, single (simulated)"
APART, LIGHT = (150.0, 450.0), (0.3, 0.6, 1.0)
"""Velocities of the two stars of a sum (km/s), and light of the second over that of the first."""
LEAST_PARENT = 15.0
"""Least S/N of spectra that are summed."""
OTHER = "LAMOST A to K stars (`formats`)"
CLEAN = "LAMOST K7 to M4, clean (`cool`)"
ALTERED = "the same, files whose continuum somebody has subtracted"
TEMPLATES = "standards, dwarfs M0 to M5"
MEANS = "SDSS means, M0 to M5, [Fe/H] -0.5 to +0.5"


@dataclass
class Group:
    """Spectra of one kind; ``dwarf``, whether they should be usable, None where that is not asked."""

    title: str
    dwarf: bool | None
    spectra: list[Path | Spectrum]


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the page goes")
    given = parser.parse_args()
    if not (given.data / "lamost" / "index.csv").is_file():
        print(f"{given.data / 'lamost'}: there is no index.csv; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    groups = [*lamost(given.data / "lamost"), *libraries(given.data), *simulated()]
    clean = [stargap.read_spectrum(path) for path in groups[0].spectra if isinstance(path, Path)]
    standards = [one for group in groups if group.title in (TEMPLATES, MEANS) for one in group.spectra]
    groups += [single_dwarfs()]
    groups += [sums(SUMS["cool"], clean, seed=1), sums(SUMS["standard"], standards, seed=2)]
    measured = stargap.measure([one for group in groups for one in group.spectra]).arrays()
    (given.out / "marks.md").write_text(reflow(page(groups, measured)), encoding="utf-8")
    return 0


def lamost(folder: Path) -> list[Group]:
    """Return the real spectra of LAMOST: cool dwarfs without a noted defect, and stars of other classes."""
    clean, altered, other = [], [], []
    for row in read_index(folder, "cool"):
        if not row["note"]:
            (altered if "subcontinuum" in row["fmt"] else clean).append(folder / "cool" / row["file"])
    for row in read_index(folder, "formats"):
        if row["subclass"][:1] in "ABFGK":
            other.append(folder / "formats" / row["file"])
    return [Group(CLEAN, True, clean), Group(ALTERED, True, altered), Group(OTHER, False, other)]


def libraries(data: Path) -> list[Group]:
    """Return giants of the Indo-US library, standards and subdwarfs, and the means of SDSS."""
    dwarfs, subdwarfs, means, giants = [], [], [], []
    for one in read_templates(data / "templates"):
        early = 0 <= one.value <= 5
        if one.group == "standard":
            if one.kind != "dwarf":
                subdwarfs.append(one.spectrum)
            elif early:
                dwarfs.append(one.spectrum)
        elif one.kind in ("M0", "M1", "M2", "M3", "M4", "M5") and abs(one.value) <= 0.5:
            means.append(one.spectrum)
    with (data / "benchmarks" / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if any(row["spt"].rstrip(":evar").endswith(giant) for giant in GIANTS) and row["file"].startswith("Indo"):
                giants.append(_benchmark(data / "benchmarks" / row["file"], row["wave"].strip() == "air"))
    return [
        Group(TEMPLATES, True, dwarfs),
        Group(MEANS, True, means),
        Group("giants K5 to M7 (Indo-US)", False, giants),
        Group("subdwarfs sd, esd, usd (standards)", False, subdwarfs),
    ]


def _benchmark(path: Path, air: bool) -> Spectrum:
    wave, flux, _ = np.genfromtxt(path, delimiter=",", skip_header=1).T
    wave = np.asarray(air_to_vacuum(wave) if air else wave)
    keep = np.isfinite(flux) & (wave > WINDOW[0]) & (wave < WINDOW[1])
    wave, flux = wave[keep], flux[keep]
    ivar = np.full_like(flux, (SNR / np.median(flux)) ** 2)
    return Spectrum(wave, flux, ivar, Facts(path=path.name, layout="template", snr_r=SNR, snr_i=SNR))


def simulated(stars: int = 700, seed: int = 5) -> list[Group]:
    """Return simulated spectra of other sources, with the S/N of the survey."""
    found: dict[str, list[Path | Spectrum]] = {kind: [] for kind in SIMULATED}
    for chunk in simulate_survey(stars, seed=seed, junk=1.0):
        for kind, spectrum in zip(chunk.truth["kind"], chunk.spectra, strict=True):
            if kind in found:
                found[kind].append(spectrum)
    return [Group(title, False, found[kind]) for kind, title in SIMULATED.items()]


def single_dwarfs(stars: int = 500, seed: int = 6) -> Group:
    """Return simulated M dwarfs of the survey without a companion within the fibre."""
    found: list[Path | Spectrum] = []
    for chunk in simulate_survey(stars, seed=seed, junk=0.0, repeats=0.0):
        found += [one for one, double in zip(chunk.spectra, chunk.truth["binary"], strict=True) if not double]
    return Group(SINGLE, None, found)


def sums(title: str, spectra: Sequence[Path | Spectrum], *, seed: int, count: int = 120) -> Group:
    """Return sums of two spectra each, the second moved by whole native pixels; the signal-to-noise is that of both."""
    rng = np.random.default_rng(seed)
    given = [
        one for one in spectra if isinstance(one, Spectrum) and min(one.facts.snr_r or 0, one.facts.snr_i or 0) > 15
    ]
    native = to_log_lambda(given)
    rv = batch_velocities(native)
    flux, ivar = native.flux.double().numpy(), native.ivar.double().numpy()
    made: list[Path | Spectrum] = []
    for k in range(count):
        one, other = rng.choice(np.flatnonzero(np.isfinite(rv)), 2)
        apart = rng.choice([-1.0, 1.0]) * rng.uniform(*APART)
        pixels = round((rv[one] + apart - rv[other]) / LOG_LAMBDA.velocity_step)
        light = LIGHT[k % len(LIGHT)]
        weight = np.roll(ivar[other], pixels)
        good = (ivar[one] > 0) & (weight > 0)
        variance = 1 / np.where(good, ivar[one], 1.0) + light**2 / np.where(good, weight, 1.0)
        total = flux[one] + light * np.roll(flux[other], pixels)
        made.append(Spectrum(LOG_LAMBDA.wavelength, total, np.where(good, 1 / variance, 0.0), given[one].facts))
    return Group(title, None, made)


def batch_velocities(native: NativeBatch) -> NDArray[np.float64]:
    """Return the velocities of spectra (km/s), ``(star,)``."""
    settings, emulator = MeasureSettings(), shipped_emulator()
    parts = [batch_velocity(native[k : k + BATCH], settings, emulator).rv for k in range(0, len(native), BATCH)]
    return torch.cat(parts).numpy()


def page(groups: list[Group], measured: dict[str, NDArray[np.generic]]) -> str:
    """Return the page."""
    rows, first, totals = [], 0, {True: np.zeros(2, dtype=int), False: np.zeros(2, dtype=int)}
    altered = np.zeros(2, dtype=int)
    marks = {name: np.asarray(measured[name]) == 1 for one in MARKED for name in (f"use_{one}", f"care_{one}")}
    flags, known = np.asarray(measured["flags"]), np.isfinite(np.asarray(measured["teff"], dtype=float))
    reasons: dict[str, int] = {}
    seconds = []
    for group in groups:
        here = slice(first, first + len(group.spectra))
        first = here.stop
        labelled = int(known[here].sum())
        use = [int(marks[name][here].sum()) for name in ("use_rv", "use_teff", "care_teff", "use_activity")]
        bits = flags[here]
        double, emission = (int(np.count_nonzero(bits & int(one))) for one in (Flag.DOUBLE_LINED, Flag.EMISSION))
        seconds.append([group.title, str(len(bits)), str(double), f"{double / len(bits):.1%}", str(emission)])
        if group.dwarf is None:
            continue
        rows.append([group.title, "dwarfs" if group.dwarf else "not", str(labelled), *map(str, use)])
        total = altered if group.title == ALTERED else totals[group.dwarf]
        total += labelled, use[1]
        if group.dwarf:
            for bits in flags[here][~marks["use_teff"][here]].tolist():
                name = next((flag.name for flag in Flag if bits & int(flag)), "none")
                reasons[str(name)] = reasons.get(str(name), 0) + 1
    good, bad = totals[True], totals[False]
    lost = f"{good[0] - good[1]} of {good[0]} ({(good[0] - good[1]) / good[0]:.1%})"
    false = f"{bad[1]} of {bad[0]} ({bad[1] / bad[0]:.1%})"
    every = good + altered
    all_lost = f"{every[0] - every[1]} of {every[0]} ({(every[0] - every[1]) / every[0]:.1%})"
    why = ", ".join(f"`{name}` {count}" for name, count in sorted(reasons.items(), key=lambda item: -item[1]))
    card = load_model_named("transfer-lamost").card
    head = ["spectra", "are", "with labels", "`use_rv`", "`use_teff`", "of them `care_teff`", "`use_activity`"]
    return f"""# Marks

* **{lost} clean M dwarfs are lost**: labels are usable of {good[1]} of {good[0]} (goal: at most 5 % lost).
* **{false} of what is no M dwarf** that the model describes **are marked as usable** (goal: at most 2 %).
* **A second star** is found only far away in velocity and not much fainter (second table).

Made by `make results-marks` with `transfer-lamost`, {card.sha256[:16]}. Each spectrum has two marks for each of RV,
Teff, log g, [M/H] and H-alpha: `use_*`, whether the number can be used, and `care_*`, whether it can, but with care.
They follow from the flags alone, in one function (`stargap.marks.with_marks`).

{table(head, rows)}

## Second stars and emission

`DOUBLE_LINED` marks a second star at least 150 km/s away, whose lines are at least {LEAST_RATIO:g} times as strong
and {LEAST_SNR:g} times their error (`stargap.measurement.second`). `EMISSION` marks H-alpha stronger than
chromospheres make it, L(Hα) / L(bol) > 10^-3.3 by three errors. Sums are made of two real spectra, {APART[0]:g} to
{APART[1]:g} km/s apart, with {LIGHT[0]:g}, {LIGHT[1]:g} or {LIGHT[2]:g} times the light of the first in the second;
the limits were chosen on those of LAMOST's clean M dwarfs and not on any of the others.

{table(["spectra", "number", "`DOUBLE_LINED`", "share", "`EMISSION`"], seconds)}

## What is lost, and what to keep in mind

The worst flag of the dwarfs that are lost, those of altered files included: {why or "none"}.

To keep in mind: no giant, galaxy or white dwarf of LAMOST is at hand. The giants are of the Indo-US library at
high S/N, and the other sources are sketches by `stargap mock` with the S/N of the survey. Subdwarfs count as not
usable,
since the labels of the training end above their metallicities. Files whose continuum somebody has subtracted are no
LAMOST spectra any more: they are shown, and are not part of the two figures above (with them {all_lost} are lost).
Thresholds that were set on these
spectra (the line of CaH2 + CaH3 against TiO5 for giants) are not tested on others of their kind.
"""


if __name__ == "__main__":
    sys.exit(main())
