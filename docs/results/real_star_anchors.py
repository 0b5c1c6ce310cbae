"""Anchors of the shipped model: real spectra of LAMOST and of other instruments, with labels from photometry."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from real_star_data import read_templates
from scipy.ndimage import gaussian_filter1d

from stargap.measurement.star import BATCH, batch_velocity
from stargap.photometry import relations
from stargap.photometry.likelihood import binary_odds
from stargap.pixels import air_to_vacuum
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.emulator import Emulator
from stargap.transfer.anchored.anchors import AnchorStars

Array = NDArray[np.float64]
NEAR = 10.0
"""Distance (arcsec) within which a star of the photometric table is the one observed, proper motion included."""
EPOCHS = (2000.0, 2015.5)
MANN = "Mann 2015"
SCALE = {"Passegger2018": 60.0, "Marfil2021": 83.0}
"""By how much Teff of a source is above that of Mann et al. (2015)'s scale, where stars are in both (K)."""
PHOTOMETRY_ERRORS, MANN_ERRORS, OTHER_ERRORS = (45.0, 0.04, 0.08), (60.0, 0.06, 0.08), (80.0, 0.10, 0.15)
"""Errors of labels (K, dex, dex): the scatter of the relations, of which Mann et al.'s own errors are a part."""
WORST_KS = 0.06
"""Error of Ks (mag) above which photometry gives no label: 2MASS is saturated."""
LEAST_SNR, MOST_RUWE = 15.0, 1.6
"""Of LAMOST stars that the model is judged by."""
DISAGREE = 0.5
"""Difference of [M/H] between photometry and literature (dex) beyond which a star has no [M/H]."""
RESOLUTION = 1800.0
PAIRS, SPECTROSCOPIC = 0.12, 0.97
"""Share of unresolved pairs bright enough to matter, before RUWE; chance that a star is single by the literature."""


@dataclass(frozen=True)
class Star:
    """A spectrum, ``group`` lamost, other, giant or template; labels (K, dex) and errors, NaN where there are none.

    ``literature`` are the labels of the index, ``logg`` that of M_K, ``scored`` whether the model is judged by it.
    """

    name: str
    star: str
    group: str
    spectrum: Spectrum
    labels: Array
    errors: Array
    source: str
    literature: Array
    p_single: float
    ruwe: float
    snr: float
    scored: bool
    kind: str


class Photometry:
    """Gaia DR3 and 2MASS photometry of nearby M dwarfs (Cifuentes et al. 2025), by position."""

    def __init__(self, data: Path) -> None:
        with gzip.open(data / "labels" / "carmenes_ix.csv.gz", "rt", newline="", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        names = ("ra", "dec", "pmra", "pmdec", "parallax", "parallax_error", "ruwe")
        names += ("BP_mag", "G_mag", "RP_mag", "Ks_mag", "eKs_mag")
        self.column = {name: np.array([number(row[name]) for row in self.rows]) for name in names}

    def find(self, ra: str, dec: str) -> int | None:
        """Return the row of the star at a position (deg), of 2000 or of Gaia's epoch."""
        if not (ra and dec):
            return None
        column, nearest = self.column, (np.inf, -1)
        for epoch in EPOCHS:
            years = (epoch - 2016.0) / 3.6e6
            cosine = np.cos(np.radians(column["dec"]))
            there = column["ra"] + np.nan_to_num(column["pmra"]) * years / cosine
            up = column["dec"] + np.nan_to_num(column["pmdec"]) * years
            away = 3600 * np.hypot((there - float(ra)) * cosine, up - float(dec))
            nearest = min(nearest, (float(np.nanmin(away)), int(np.nanargmin(away))))
        return nearest[1] if nearest[0] < NEAR else None

    def labels(self, row: int) -> Array:
        """Return Teff, log g and [M/H] on the scale of Mann et al. (2015) by `stargap.photometry`; NaN if it cannot."""
        c = {name: values[row : row + 1] for name, values in self.column.items()}
        if not (c["eKs_mag"] < WORST_KS).all() or not np.isfinite(c["ruwe"]).all():
            return np.full(3, np.nan)
        absolute = 5 * np.log10(c["parallax"] / 100)
        m_h = relations.m_h_from_ks(c["BP_mag"] - c["Ks_mag"], c["Ks_mag"] + absolute)
        teff = relations.polynomial_teff(c["BP_mag"] - c["RP_mag"]) + relations.TEFF_PER_DEX * m_h
        radius = relations.radius_from_ks(c["Ks_mag"] + absolute, m_h)
        mass = relations.mass_from_ks(c["Ks_mag"] + absolute)
        found = np.array([teff[0], relations.surface_gravity(mass, radius)[0], m_h[0]])
        return found if np.isfinite(found[[0, 2]]).all() else np.full(3, np.nan)

    def p_single(self, row: int) -> float:
        """Return the chance that a star is single by its RUWE alone: its [M/H] has the magnitudes already."""
        odds = float(binary_odds(self.column["ruwe"][row : row + 1])[0])
        return 1 / (1 + odds * PAIRS / (1 - PAIRS))


def number(text: str) -> float:
    """Return a number, NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        return np.nan


def combined(photometric: Array, literature: Array, reference: str) -> tuple[Array, Array, str]:
    """Return labels, their errors and source: the weighted mean of photometry and Mann et al., else whichever is there.

    Other literature counts only for stars without both, on the scale of Mann et al.; a star whose [M/H] differ by more
    than `DISAGREE` has none.
    """
    mann = reference == "Mann2015"
    pairs = [(photometric, PHOTOMETRY_ERRORS)] if np.isfinite(photometric[2]) else []
    if pairs and abs(photometric[2] - literature[2]) > DISAGREE and not mann:
        return np.full(3, np.nan), np.full(3, np.nan), ""
    if mann:
        pairs.append((literature, MANN_ERRORS))
    if not pairs and reference in SCALE:
        pairs.append((literature - np.array([SCALE[reference], 0, 0]), OTHER_ERRORS))
    if not pairs:
        return np.full(3, np.nan), np.full(3, np.nan), ""
    values, errors = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    weight = np.where(np.isfinite(values), errors**-2.0, 0.0)
    total = np.maximum(weight.sum(axis=0), 1e-12)
    labels = np.where(weight.sum(axis=0) > 0, (weight * np.nan_to_num(values)).sum(axis=0) / total, np.nan)
    source = "photometry" if np.isfinite(photometric[2]) else (MANN if mann else reference)
    return labels, np.where(np.isfinite(labels), total**-0.5, np.nan), source


def read_stars(data: Path) -> list[Star]:
    """Read LAMOST's spectra of cool stars, those of other instruments, and the templates that have labels."""
    photometry = Photometry(data)
    return [*_lamost(data, photometry), *_others(data, photometry), *_standards(data)]


def _made(photometry: Photometry, row: int | None, literature: Array, reference: str) -> dict[str, object]:
    phot = np.full(3, np.nan) if row is None else photometry.labels(row)
    labels, errors, source = combined(phot, literature, reference)
    return {
        "labels": labels,
        "errors": errors,
        "source": source,
        "literature": literature,
        "p_single": SPECTROSCOPIC if row is None or source != "photometry" else photometry.p_single(row),
        "ruwe": np.nan if row is None else float(photometry.column["ruwe"][row]),
    }


def _lamost(data: Path, photometry: Photometry) -> list[Star]:
    found = []
    with (data / "lamost" / "index.csv").open(newline="", encoding="utf-8") as file:
        index = [row for row in csv.DictReader(file) if row["folder"] == "cool" and row["star"]]
    for row in index:
        saturated = row["note"].startswith("saturated")
        if row["note"] and not saturated:
            continue
        place = photometry.find(row["ra"], row["dec"])
        made = _made(photometry, place, np.array([number(row[name]) for name in ("teff", "logg", "feh")]), "")
        snr, ruwe = number(row["snrr"]), made["ruwe"]
        scored = not saturated and snr > LEAST_SNR and bool(ruwe < MOST_RUWE)
        spectrum = read_spectrum(data / "lamost" / "cool" / row["file"])
        star = row["star"] if place is None else photometry.rows[place]["Name"]
        found.append(Star(row["file"], star, "lamost", spectrum, snr=snr, scored=scored, kind=row["subclass"], **made))
    return found


def _others(data: Path, photometry: Photometry) -> list[Star]:
    found = []
    with (data / "benchmarks" / "index.csv").open(newline="", encoding="utf-8") as file:
        index = list(csv.DictReader(file))
    for row in index:
        place = photometry.find(row["ra"], row["dec"])
        literature = np.array([number(row[name]) for name in ("teff", "logg", "mh")])
        made = _made(photometry, place, literature, row["mh_ref"])
        giant = any(mark in row["spt"] for mark in ("III", "II", "Ia", "IV")) or "GIANT" in row["remarks"]
        star = row["star"].split("=")[-1].strip() if place is None else photometry.rows[place]["Name"]
        scored = bool(np.isfinite(made["labels"][[0, 2]]).all()) and not giant  # type: ignore[index]
        group = "giant" if giant else "other"
        spectrum = benchmark_spectrum(data / "benchmarks", row)
        found.append(Star(row["id"], star, group, spectrum, snr=100.0, scored=scored, kind=row["spt"], **made))
    return found


def _standards(data: Path) -> list[Star]:
    found = []
    for template in read_templates(data / "templates"):
        if template.labels is None:
            continue
        literature = np.array([template.labels[0], np.nan, template.labels[1]])
        labels, errors, source = combined(np.full(3, np.nan), literature, "Mann2015")
        name = template.name
        found.append(Star(name, name, "other", template.spectrum, labels, errors, source, literature, SPECTROSCOPIC,
                          np.nan,
                          100.0, True, template.kind))  # fmt: skip
    return found


def benchmark_spectrum(folder: Path, row: dict[str, str]) -> Spectrum:
    """Read a spectrum of another instrument, in vacuum, at the survey's resolution where it is known to be higher."""
    with gzip.open(folder / row["file"], "rt", encoding="utf-8") as file:
        table = np.genfromtxt(file, delimiter=",", names=True)
    wave, flux, error = (np.atleast_1d(table[name]).astype(float) for name in ("wave_A", "flux", "err"))
    if "air" in row["wave"]:
        wave = np.array([air_to_vacuum(value) for value in wave])
    keep = np.isfinite(flux) & (wave > 5700) & (wave < 9250)
    wave, flux, error = wave[keep], flux[keep], error[keep]
    scale = float(np.median(flux))
    flux, error = flux / scale, np.where(np.isfinite(error) & (error > 0), error / scale, 0.01)
    if "FWHM" in row["R"]:
        width = float(row["R"].split("FWHM")[1].split()[0])
        more = np.sqrt(max((7000.0 / RESOLUTION) ** 2 - width**2, 0.0)) / 2.355
        flux = gaussian_filter1d(flux, more / float(np.median(np.diff(wave))))
    facts = Facts(path=row["id"], layout="benchmark", snr_r=100.0, snr_i=100.0)
    return Spectrum(wave, flux, 1 / np.maximum(error, 0.003) ** 2, facts)


def prepared_anchors(stars: Sequence[Star], emulator: Emulator) -> tuple[AnchorStars, NDArray[np.bool_]]:
    """Prepare spectra at their velocities; returns anchors, and which are scored. Labels may be NaN."""
    native, _, _ = native_batch([star.spectrum for star in stars])
    batches = [native[slice(first, first + BATCH)] for first in range(0, len(stars), BATCH)]
    rv = torch.cat([batch_velocity(batch, MeasureSettings(), emulator).rv for batch in batches])
    labels, errors = (np.stack([getattr(star, name) for star in stars]) for name in ("labels", "errors"))
    return AnchorStars(
        prepare(native, torch.nan_to_num(rv)),
        labels,
        [star.star for star in stars],
        errors,
        np.array([star.p_single for star in stars]),
        [star.source for star in stars],
    ), np.array([star.scored for star in stars])


def trainable(stars: Sequence[Star]) -> list[Star]:
    """Return those that anchors can be: Teff and [M/H] known, no giant; unknown log g is put to that of a dwarf."""
    chosen = []
    for star in stars:
        if star.group != "giant" and np.isfinite(star.labels[[0, 2]]).all():
            labels, errors = (np.where(np.isfinite(v), v, u) for v, u in ((star.labels, 4.8), (star.errors, 0.2)))
            chosen.append(Star(**{**star.__dict__, "labels": labels, "errors": errors}))
    return chosen
