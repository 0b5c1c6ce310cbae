"""Spectra and labels beside the benchmark stars, for `make_real_stars.py`: templates, gravities, repeats, junk."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.mock.survey import simulate_survey
from stargap.spectra.log_lambda import NativeBatch, native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Facts, Spectrum

Array = NDArray[np.float64]
TEMPLATE_SNR = 100.0
NEAR, SAME = 15.0, 3.0
"""Separations (arcsec) within which a source of labels, or another exposure, is of the same star."""
MANN = {"Gl393": "Gl 393", "Gl411": "Gl 411", "Gl402": "Gl 402"}
"""Standards, and their names in Mann et al. (2015)."""
JUNK = {"galaxy": "galaxies", "white_dwarf": "white dwarfs", "k_giant": "K giants"}
FORMATS_NOTE = """The LAMOST spectra of other classes are F to K and a few A stars, with nine of class "Non": no M
dwarf, giant,
galaxy or white dwarf of LAMOST is at hand, so those are simulated (`stargap mock`'s junk, S/N as in the survey).
Few pixels tell a
noisy spectrum of anything from a star: at low S/N only what is far off is flagged."""


@dataclass(frozen=True)
class Template:
    """A spectrum of another instrument: ``group`` sdss with ``kind`` type and ``value`` [Fe/H], or standard with
      ``kind`` dwarf, sd, esd or usd and ``value`` subtype; ``labels`` Teff and [Fe/H] of Mann et al. (2015), if
    known."""

    name: str
    group: str
    kind: str
    value: float
    spectrum: Spectrum
    labels: tuple[float, float] | None = None


def read_templates(folder: Path) -> list[Template]:
    """Read the SDSS means and the standards; fine pixels are averaged over 1.5 A."""
    with (folder.parent / "labels" / "mann2015.csv").open(newline="", encoding="utf-8") as file:
        known = {row["CNS3"].strip(): (float(row["Teff"]), float(row["[Fe/H]"])) for row in csv.DictReader(file)}
    found = []
    with h5py.File(folder / "kesseli2017_sdss_means.h5") as file:
        for name in file:
            spectrum = _spectrum(name, file[name]["wavelength_vacuum_A"][:], file[name]["flux"][:])
            parts = name.split("_")
            value = float(parts[1]) if len(parts) > 1 else np.nan
            found.append(Template(name, "sdss", parts[0], value, spectrum))
    with h5py.File(folder / "kastredux_standards.h5") as file:
        for name in file:
            spectrum = _spectrum(name, file[name]["wavelength_A"][:], file[name]["flux"][:])
            matched = re.match(r"(usd|esd|sd|)([KM])(\d)(\d)_([^_]+)", name)
            assert matched is not None
            prefix, letter, whole, tenth, star = matched.groups()
            value = (int(whole) + int(tenth) / 10) - (8.0 if letter == "K" else 0.0)
            labels = known.get(MANN[star]) if star in MANN else None
            found.append(Template(name, "standard", prefix or "dwarf", value, spectrum, labels))
    return found


def _spectrum(name: str, wave: Array, flux: Array) -> Spectrum:
    keep = np.isfinite(flux) & (wave > 5850) & (wave < 9150)
    wave, flux = wave[keep].astype(float), flux[keep].astype(float)
    step = float(np.median(np.diff(wave)))
    if step < 0.5:
        width = round(1.5 / step)
        flux = np.convolve(flux, np.ones(width) / width, "same")
    ivar = np.full_like(flux, (TEMPLATE_SNR / np.median(flux)) ** 2)
    return Spectrum(wave, flux, ivar, Facts(path=name, layout="template", snr_r=TEMPLATE_SNR, snr_i=TEMPLATE_SNR))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _nearest(rows: list[dict[str, str]], star: dict[str, str], ra: Array, dec: Array) -> list[int]:
    """Rows within `NEAR` of a star, the nearest first."""
    a, d = float(star["ra"]), float(star["dec"])
    away = 3600 * np.hypot((ra - a) * np.cos(np.radians(d)), dec - d)
    return [int(k) for k in np.argsort(away) if away[k] < NEAR]


def gravities(data: Path, index: Sequence[dict[str, str]]) -> Array:
    """Return log g from M_K for each star, NaN where there is no parallax.

    Mass and radius from M_Ks by the relations of Mann et al. (2015, with the erratum of 2016).
    """
    rows = _table(data / "labels" / "carmenes_ix.csv.gz")
    ra, dec, parallax, ks = (
        np.array([_number(row[name]) for row in rows]) for name in ("ra", "dec", "parallax", "Ks_mag")
    )
    found = []
    for star in index:
        near = _nearest(rows, star, ra, dec)
        m_k = ks[near[0]] + 5 * np.log10(parallax[near[0]] / 100) if near else np.nan
        mass = 0.5858 + 0.3872 * m_k - 0.1217 * m_k**2 + 0.0106 * m_k**3 - 2.7262e-4 * m_k**4
        radius = 1.9515 - 0.3520 * m_k + 0.01680 * m_k**2
        found.append(4.438 + np.log10(mass) - 2 * np.log10(radius))
    return np.array(found)


def other_sources(data: Path, index: Sequence[dict[str, str]]) -> dict[str, dict[str, Array]]:
    """Return labels of each source of the literature table that has any of these stars, by label and source."""
    rows = _table(data / "labels" / "literature_labels.csv.gz")
    ra, dec = (np.array([_number(row[name]) for row in rows]) for name in ("ra", "dec"))
    columns = {"teff": "Teff", "logg": "logg", "m_h": "MH"}
    found: dict[str, dict[str, Array]] = {name: {} for name in columns}
    for place, star in enumerate(index):
        for k in reversed(_nearest(rows, star, ra, dec)):
            for name, column in columns.items():
                values = found[name].setdefault(rows[k]["source"], np.full(len(index), np.nan))
                value = _number(rows[k][column])
                values[place] = value if np.isfinite(value) else values[place]
    wanted = ("Mann2015", "Gaidos2014", "Passegger2019_VN", "Marfil2021", "MasBuitrago2024")
    return {name: {source: by[source] for source in wanted if source in by} for name, by in found.items()}


def dispersion_floor(lamost: Path) -> tuple[float, int]:
    """Return what exposures of one star differ by beyond noise (normalised flux), and the number of pairs."""
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] == "repeats" and _number(row["snrr"]) > 100]
    ra, dec = (np.array([float(row[name]) for row in rows]) for name in ("ra", "dec"))
    excess = []
    for i, j in combinations(range(len(rows)), 2):
        if 3600 * np.hypot((ra[i] - ra[j]) * np.cos(np.radians(dec[i])), dec[i] - dec[j]) > SAME:
            continue
        try:
            pair = [read_spectrum(lamost / "repeats" / rows[k]["file"]) for k in (i, j)]
        except SpectrumError:
            continue
        star = prepare(native_batch(pair)[0], torch.zeros(2))
        good = star.good.all(dim=0)
        apart = (star.flux[0] - star.flux[1])[good].double().numpy()
        noise = star.sigma.square().sum(dim=0)[good].double().numpy()
        excess.append((np.median(apart**2) / 0.4549 - np.median(noise)) / 2)
    return float(np.sqrt(max(np.median(excess), 0.0))), len(excess)


def degraded(lamost: Path, least: float) -> tuple[NativeBatch, Array, list[str]]:
    """Return the clean spectra of `lamost/cool` with S/N in r above `least`, their S/N, and their files."""
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] == "cool" and not row["note"]]
    rows = [row for row in rows if _number(row["snrr"]) > least]
    native, facts, _ = native_batch([read_spectrum(lamost / "cool" / row["file"]) for row in rows])
    return native, np.array([fact.snr_r for fact in facts], dtype=float), [row["file"] for row in rows]


def simulated_junk(stars: int = 400, seed: int = 5) -> dict[str, list[Spectrum]]:
    """Return simulated spectra of galaxies, white dwarfs and K giants."""
    found: dict[str, list[Spectrum]] = {title: [] for title in JUNK.values()}
    for chunk in simulate_survey(stars, seed=seed, junk=1.0):
        for kind, spectrum in zip(chunk.truth["kind"], chunk.spectra, strict=True):
            if kind in JUNK:
                found[JUNK[kind]].append(spectrum)
    return found
