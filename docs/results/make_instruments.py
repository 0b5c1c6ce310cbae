"""Make `instruments.md`: stars of other instruments, one star through several, and LAMOST's cut and broadened."""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from instrument_pixels import interpolation
from instrument_range import blue_light
from instrument_surveys import survey_rows, surveys
from make_photometry import photometry
from numpy.typing import NDArray
from pages import number, read_index, reflow, table
from real_star_anchors import prepared_anchors, read_stars, trainable

import stargap
from stargap.errors import SpectrumError
from stargap.measurement.coverage import PARTIAL_FLOOR, PARTIAL_NOISE
from stargap.photometry.labels import photometric_labels
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Spectrum
from stargap.theory.broadening import broaden_constant_resolution
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import train_anchored

LABELS = ("teff", "logg", "m_h")
DIGITS = {"teff": 0, "logg": 3, "m_h": 2}
UNITS = {"teff": "K", "logg": "dex", "m_h": "dex"}
SNR = 100.0
"""S/N of spectra of libraries that have no errors."""
SHARP: dict[str, Any] = {
    "MILES": "miles", "STELIB": "stelib", "NGSL": [(5500.0, 550.0), (9000.0, 900.0)], "YZCMi": 1000.0, "Reid": 1000.0,
    "MaStar": 1800.0, "BOSS": "boss", "HiRes": [(6000.0, 1667.0), (6900.0, 1917.0)], "Kast": "kast-red",
    "SDSStempl": "sdss", "IndoUS": "boss", "KesselK": "sdss",
}  # fmt: skip
"""Resolving powers by the beginnings of names: those of `index.csv`, whose HARPS and UVES spectra have FWHM 3.6 A."""
COVERAGES = {
    "MILES, to 7410 A": (5900, 7410), "to 6910 A": (5900, 6910), "to 7800 A": (5900, 7800), "to 8550 A": (5900, 8550),
    "MRS red arm, 6300-6800 A": (6300, 6800), "6600-7200 A": (6600, 7200), "from 7400 A": (7400, 9000),
}  # fmt: skip
NEAR = 5.0
"""Separation (arcsec) within which a star of CARMENES IX, moved to the year 2000, is the one of a spectrum."""
Columns = dict[str, NDArray[Any]]


@dataclass
class Star:
    """A spectrum of the benchmarks with its row of the index."""

    group: str
    row: dict[str, str]
    spectrum: Spectrum


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with benchmarks/index.csv")
    parser.add_argument("--work", type=Path, default=Path("build/instruments"), help="where simulated surveys go")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the page goes")
    given = parser.parse_args()
    if not (given.data / "benchmarks" / "index.csv").is_file():
        print(f"{given.data / 'benchmarks'}: there is no index.csv; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    stars = benchmarks(given.data / "benchmarks")
    with TemporaryDirectory() as folder:
        model, anchors = lamost_alone(given.data, stars, Path(folder))
        measured = measure([star.spectrum for star in stars], model)
        blind = measure([replace(star.spectrum, resolution=None) for star in stars], model)
    light = labels_of_light(stars, given.data / "labels")
    against = agreement(stars, measured, blind, light)
    checked, seen = coverage(given.data / "lamost"), survey_rows(given.work)
    text = [FINDINGS.format(*findings(against, checked, seen)), HEAD.format(anchors), by_instrument(stars, measured)]
    text += [AGAINST, table(["against", "Teff (K)", "log g", "[M/H]"], against)]
    text += [COVERAGE, table(COVERED, checked), interpolation(), surveys(given.work, seen)]
    text += [blue_light(given.data / "lamost"), TAIL]
    (given.out / "instruments.md").write_text(reflow("\n\n".join(text)), encoding="utf-8")
    return 0


def measure(spectra: Sequence[Spectrum], model: Path | None = None) -> Columns:
    """Return the columns of a measurement with a model, the shipped one by default."""
    return dict(stargap.measure(list(spectra), model=model, progress=False).arrays())


def lamost_alone(data: Path, stars: Sequence[Star], folder: Path) -> tuple[Path, int]:
    """Train the shipped recipe on LAMOST's anchors alone, without stars of the benchmarks; return its path."""
    emulator = shipped_emulator()
    names = {star.row["star"].split("=")[-1].replace(" ", "").upper() for star in stars}
    chosen = [star for star in trainable(read_stars(data)) if star.group == "lamost"]
    chosen = [star for star in chosen if star.star.replace(" ", "").upper() not in names]
    anchors, scored = prepared_anchors(chosen, emulator)
    settings = AnchorSettings()
    transfer, _ = train_anchored(anchors, emulator, settings, scored=scored)
    path = folder / "lamost-alone.safetensors"
    transfer.save(
        path, training_data="LAMOST alone", settings=settings.model_dump(mode="json"), scores={}, simulated=False
    )
    return path, len(chosen)


def benchmarks(folder: Path) -> list[Star]:
    """Read all spectra of the benchmarks, as `stargap measure` would with what the index says about them."""
    found = []
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["file"]
            group = next(key for key in SHARP if name.startswith(key))
            frame = "heliocentric" if "helio" in row["frame"] else "rest"
            read = ReadSettings(air=row["wave"].strip() == "air", frame=frame, snr=SNR, instrument=SHARP[group])
            found.append(Star(group, row, read_spectrum(folder / name, read)))
    return found


def value(row: dict[str, str], name: str) -> float:
    """Return a literature label of a row of the index, NaN where there is none."""
    text = row[{"teff": "teff", "logg": "logg", "m_h": "mh"}[name]]
    return float(text) if text else np.nan


def is_giant(row: dict[str, str]) -> bool:
    """Whether the index calls a star a giant."""
    return "GIANT" in row["remarks"] or "giant" in row["remarks"]


def labels_of_light(stars: Sequence[Star], folder: Path) -> Columns:
    """Return labels from Gaia and 2MASS of the stars that are in CARMENES IX, NaN for the others."""
    with gzip.open(folder / "carmenes_ix.csv.gz", "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = {key: np.array([float(row[key] or "nan") for row in rows]) for key in ("ra", "dec", "pmra", "pmdec")}
    dec = numbers["dec"] - 16 * np.nan_to_num(numbers["pmdec"]) / 3.6e6  # from 2016 to 2000
    ra = numbers["ra"] - 16 * np.nan_to_num(numbers["pmra"]) / 3.6e6 / np.cos(np.radians(dec))
    at = np.full(len(stars), -1)
    for number_, star in enumerate(stars):
        if star.row["ra"]:
            here = float(star.row["ra"]), float(star.row["dec"])
            apart = np.hypot((ra - here[0]) * np.cos(np.radians(here[1])), dec - here[1]) * 3600
            best = int(np.nanargmin(apart))
            at[number_] = best if apart[best] < NEAR else -1
    labels = photometric_labels(photometry([rows[k] for k in at[at >= 0]]))
    columns: Columns = {}
    for name in LABELS:
        columns[name] = np.full(len(stars), np.nan)
        columns[name][at >= 0] = labels[f"{name}_phot"]
    return columns


def spread(values: NDArray[Any]) -> tuple[float, float]:
    """Return median and 1.4826 times the median absolute deviation."""
    if not len(values):
        return np.nan, np.nan
    middle = float(np.median(values))
    return middle, float(1.4826 * np.median(np.abs(values - middle)))


def by_instrument(stars: Sequence[Star], measured: Columns) -> str:
    """Return the table of libraries."""
    rows = []
    giant = np.array([is_giant(star.row) for star in stars])
    use = measured["use_teff"] == 1
    for group in SHARP:
        mine = np.array([star.group == group for star in stars])
        one = next(star for star in stars if star.group == group)
        reach = f"{one.spectrum.wavelength[0]:.0f}-{one.spectrum.wavelength[-1]:.0f}"
        power = measured["resolution"][mine].min()
        dwarfs, giants = (f"{(mine & kind & use).sum()} of {(mine & kind).sum()}" for kind in (~giant, giant))
        rows.append([group, dwarfs, giants, reach, f"{power:.0f}"])
    return table(["library", "usable dwarfs", "usable giants", "A", "R in the fit"], rows)


def agreement(stars: Sequence[Star], measured: Columns, blind: Columns, light: Columns) -> list[list[str]]:
    """Return rows of ours minus published labels and minus those of photometry, with the resolution given and not."""
    rows = []
    giant = np.array([is_giant(star.row) for star in stars])
    published = {name: np.array([value(star.row, name) for star in stars]) for name in LABELS}
    for title, truth in (("published", published), ("photometry", light)):
        for what, columns in (("", measured), (", R taken as 1800", blind)):
            cells = [title + what]
            use = (columns["use_teff"] == 1) & (measured["use_teff"] == 1) & ~giant
            for name in LABELS:
                difference = (columns[name] - truth[name])[use & np.isfinite(truth[name])]
                middle, width = spread(difference)
                cells.append(f"{number(middle, DIGITS[name], error=width, sign=True)} ({len(difference)})")
            rows.append(cells)
    return rows


def lamost(folder: Path, labelled: bool) -> list[Spectrum]:
    """Read clean cool stars of LAMOST with labels of literature, or those without."""
    found = []
    for row in read_index(folder, "cool"):
        if bool(row["teff"]) == labelled and not row["note"]:
            try:
                found.append(read_spectrum(folder / "cool" / row["file"]))
            except SpectrumError:
                continue
    return found


def cut(spectrum: Spectrum, low: float, high: float) -> Spectrum:
    """Return a spectrum without weight outside a range (A)."""
    inside = (spectrum.wavelength >= low) & (spectrum.wavelength <= high)
    return replace(spectrum, ivar=np.where(inside, spectrum.ivar, 0.0))


def broad(spectrum: Spectrum, power: float, given: bool) -> Spectrum:
    """Return a spectrum of R = 1800 at a lower resolving power, with bad pixels filled by straight lines before."""
    good = spectrum.ivar > 0
    filled = np.interp(spectrum.wavelength, spectrum.wavelength[good], spectrum.flux[good])
    flux = broaden_constant_resolution(spectrum.wavelength, filled, power, source_resolution=1800.0)
    known = np.full(flux.size, power) if given else None
    return replace(spectrum, flux=flux, resolution=known)


def coverage(folder: Path) -> list[list[str]]:
    """Return rows of what labels of every other LAMOST star without labels move by when spectra are changed."""
    spectra = lamost(folder, labelled=False)[1::2]
    whole = measure(spectra)
    kept = whole["use_teff"] == 1
    rows = [moved(name, whole, measure([cut(one, *ends) for one in spectra]), kept) for name, ends in COVERAGES.items()]
    for power in (1400.0, 1000.0):
        for given in (True, False):
            name = f"R = {power:.0f}" + ("" if given else ", taken as 1800")
            rows.append(moved(name, whole, measure([broad(one, power, given) for one in spectra]), kept))
    return rows


def findings(against: list[list[str]], checked: list[list[str]], seen: list[list[str]]) -> tuple[str, ...]:
    """Return the numbers of the findings, as the tables have them."""
    published, light = against[0], against[2]
    within = sorted(int(row[-1].removesuffix(" %")) for row in checked[: len(COVERAGES)])
    pulls = {row[0]: [float(cell.split(", ")[1]) for cell in row[2:]] for row in seen if row[1] == "above 50"}
    worst = f"{max(pulls['RV (km/s)']):.1f}"
    return published[1], published[3], light[1], light[3], str(within[0]), str(within[-1]), worst


def moved(name: str, whole: Columns, part: Columns, kept: NDArray[np.bool_]) -> list[str]:
    """Return a row: how far labels and velocities moved, and the fraction that moved by less than the added error."""
    known = kept & np.isfinite(part["teff"])
    cells, inside = [name, str(kept.sum()), str((kept & (part["use_teff"] == 1)).sum())], []
    for label in LABELS:
        difference = (part[label] - whole[label])[known]
        variance = part[f"e_{label}"] ** 2 - whole[f"e_{label}"] ** 2
        variance = variance + part[f"e_{label}_sys"] ** 2 - whole[f"e_{label}_sys"] ** 2
        inside.append(np.abs(difference) < np.sqrt(variance[known].clip(min=0)))
        cells.append(number(spread(difference)[0], DIGITS[label], error=spread(difference)[1], sign=True))
    middle, width = spread((part["rv"] - whole["rv"])[known])
    return [*cells, number(middle, 1, error=width, sign=True), f"{100 * np.mean(inside):.0f} %"]


TEFF, LOGG, M_H, _ = PARTIAL_FLOOR.tolist()
FINDINGS = """# Other instruments, parts of the range, other resolutions

* **Library spectra of other instruments**, measured with a model made of LAMOST alone: Teff is off by {} K and [M/H] by
  {} from published labels, by {} K and {} from photometric ones (median ± scatter, stars). Stars that the model does
  not know, among them all giants, are marked as unusable.
* **Spectra of a part of the range** can be used: labels move by less than the error that is added for it in {} to {} %
  of the cases (68 % if errors were normal). A resolving power that is wrong and not given costs tens of K.
* **DESI and SDSS-V**, simulated: the same stars have the same labels as with LAMOST, with errors that are about right;
  errors of velocities of BOSS above S/N 50 are {} times too small."""
HEAD = f"""Made by `make results-instruments`. Spectra of other instruments are those of `../shared/data/benchmarks`, of
which 15 are among the anchors of the shipped model. So that nothing is judged by what it was made of, labels of
libraries are of a model made by the same recipe from LAMOST spectra alone ({{}} anchors), none of a star of the
benchmarks. They are read as text with `--air` or `--vacuum`, `--frame` and `--instrument` as their index says; where a
library gives no errors, a S/N of {SNR:.0f} is assumed. "Usable" is `use_teff`. Differences are ours minus theirs:
median ± 1.4826 times the median absolute deviation (number of stars).

## By instrument"""
AGAINST = """Against published labels (of Mann et al. 2015 where there are any, else of the sources of the index),
and against labels from Gaia and 2MASS (`stargap photometry`) of stars in CARMENES IX; giants are left out. Most
dwarfs of MILES are K1 to K5 stars, hotter than the training range of this model: the marks call them unusable, as
they should."""
COVERAGE = f"""## LAMOST spectra cut to a part, and broadened

With the shipped model: LAMOST spectra (`../shared/data/lamost/cool`, without noted defects), cut to a range or
convolved to a lower resolving power, against the whole spectra: how far labels and velocities moved (median ±
1.4826 times the median absolute deviation), and the fraction of all labels that moved by less than the added error.
Systematic errors of spectra that cover less than 95 % of 6000-8900 A get, in quadrature, {PARTIAL_NOISE:g} times
the random error and {TEFF:.0f} K, {LOGG:.3f} dex in log g and {M_H:.3f} dex in [M/H], all times the root of the
fraction that is missing. These numbers were set on the stars with labels and on every other star without; shown is
the other half of the stars without labels, a check that is not blind: it stood beside each of some eight forms that
were tried."""
COVERED = ["spectra", "stars", "usable", *(f"{name} ({UNITS[name]})" for name in LABELS), "RV (km/s)", "within"]
TAIL = """## What to keep in mind

Library spectra are of bright stars at high S/N, often flux-calibrated and with telluric bands removed; survey
spectra of SDSS-V and DESI themselves were not at hand. Systematic errors were learned on LAMOST. Velocities of
library spectra are relative to their rest frames, and are not compared."""


if __name__ == "__main__":
    sys.exit(main())
