"""Make the pictures of docs/figures.md from the tables of a simulated survey: true labels, to which noise is added.

python docs/make_figures.py [--stars 20000] [--output docs/figures] takes half a minute. Nothing is measured: what the
pictures show is how each figure looks, and no result.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from stargap.catalogue.precision import fit_precision
from stargap.catalogue.repeat_scatter import repeat_scatter
from stargap.figures.comparison import (
    apogee_figure,
    binaries_figure,
    differences_figure,
    literature_figure,
    velocity_figure,
)
from stargap.figures.diagrams import active_figure, hr_figure, kiel_figure, methods_figure
from stargap.figures.photometry import photometry_figure
from stargap.figures.precision import precision_figure
from stargap.figures.processing import processing_figure
from stargap.figures.survey import sky_figure, snr_figure, subtype_figure
from stargap.mock.headers import SUBTYPES
from stargap.mock.population import PLAIN
from stargap.mock.survey import simulate_survey
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare

Columns = dict[str, NDArray[Any]]

TITLE = "simulated stars"
LABELS = ("teff", "logg", "m_h")
NOISE = {"rv": (67.0, 3.0), "teff": (430.0, 18.0), "logg": (0.55, 0.015), "m_h": (1.0, 0.04)}
"""a and b of the errors a / (S/N) + b that are added to the truth."""
SOURCES = {
    "source A": (0.05, (30.0, 0.02, 0.02)),
    "source B": (0.01, (-60.0, -0.05, 0.1)),
    "source C": (0.005, (10.0, 0.0, -0.05)),
    "source D": (0.003, (80.0, np.nan, 0.0)),
}
"""Part of the stars that each has, and its offsets."""
METHODS = {
    "method A": ((-70.0, 0.0, -0.2), 0.6),
    "method B": ((170.0, np.nan, -0.15), 0.5),
    "method C": ((-10.0, 0.05, -0.04), 1.0),
}
"""Offsets of each, and how much of the spread in [M/H] it sees."""


def simulated_catalogue(stars: int) -> Columns:
    """Return columns ``(spectrum,)`` of the M dwarfs of a simulated survey: names of the catalogue, and true_*."""
    parts: list[Columns] = []
    for chunk in simulate_survey(stars, seed=7, population=PLAIN):
        place = {int(name): row for row, name in enumerate(chunk.gaia["source_id"])}
        rows = [place[int(name)] for name in chunk.truth["source_id"]]
        kept = chunk.truth["kind"] == "dwarf"
        table = chunk.truth | {name: values[rows] for name, values in chunk.gaia.items()}
        table["subclass"] = np.array([spectrum.facts.subclass for spectrum in chunk.spectra], dtype=object)
        parts.append({name: values[kept] for name, values in table.items()})
    truth = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rng = np.random.default_rng(7)
    table = {name: truth[name] for name in ("ra", "dec", "snr_r", "snr_i", "subclass")}
    table["gaia_source_id"], table["g_mag"] = truth["source_id"], truth["phot_g_mean_mag"]
    table["bp_rp"] = truth["phot_bp_mean_mag"] - truth["phot_rp_mean_mag"]
    known = truth["parallax"] > 5 * truth["parallax_error"]
    parallax = np.where(known, truth["parallax"], np.nan)
    table["m_g"], table["distance"] = truth["phot_g_mean_mag"] + 5 * np.log10(parallax) - 10, 1000 / parallax
    table["activity"] = truth["active"].astype(int)
    table["spt"] = np.interp(truth["teff"], *SUBTYPES) - 0.2 + rng.normal(0, 0.4, len(known))
    for name, (a, b) in NOISE.items():
        table[f"true_{name}"], table[f"e_{name}"] = truth[name], a / truth["snr_r"] + b
        table[name] = truth[name] + table[f"e_{name}"] * rng.standard_normal(len(known))
    return table


def others(table: Columns, rows: NDArray[Any], offset: Any, errors: Any, *, seed: int, spread: float = 1.0) -> Columns:
    """Return labels of some stars as another would give them: the truth with its own offsets and errors."""
    rng = np.random.default_rng(seed)
    found = {
        name: table[f"true_{name}"][rows] + shift + error * rng.standard_normal(len(rows))
        for name, shift, error in zip(LABELS, offset, errors, strict=True)
    }
    found["m_h"] = -0.2 + spread * (found["m_h"] + 0.2)
    return found


def against_photometry(table: Columns) -> Figure:
    """Return the figure of spectra against photometry with noise of 20 K, 0.02 and 0.06 dex."""
    errors = dict(zip(LABELS, (20.0, 0.02, 0.06), strict=True))
    rows = np.arange(len(table["ra"]))
    theirs = others(table, rows, (0.0, 0.0, 0.0), tuple(errors.values()), seed=31)
    noise = {name: np.full(len(rows), error) for name, error in errors.items()}
    return photometry_figure(table, theirs, table["snr_r"], noise=noise, title=TITLE)


def one_spectrum() -> Figure:
    """Return figure 5 of a simulated M dwarf with a S/N near 40."""
    (chunk,) = simulate_survey(200, seed=7, junk=0.0, population=PLAIN)
    row = int(np.abs(chunk.truth["snr_r"] - 40.0).argmin())
    star = prepare(to_log_lambda([chunk.spectra[row]]), torch.tensor(chunk.truth["rv"][[row]]))
    parts = (values[0].numpy() for values in (star.flux, star.sigma, star.continuum, star.good))
    return processing_figure(star.grid.wavelength, *parts, title=TITLE.replace("stars", "star"))


def figures(table: Columns) -> dict[str, Figure]:
    """Return the figures by the name of their file."""
    rng = np.random.default_rng(8)
    every = np.arange(len(table["ra"]))
    bright = table["g_mag"] < 15.3
    gaia_rv = np.where(bright, table["true_rv"] + rng.normal(0, 3.0, len(every)), np.nan)
    taken = {name: every[rng.random(len(every)) < part] for name, (part, _) in SOURCES.items()}
    rows = np.concatenate(list(taken.values()))
    sets = [
        others(table, taken[name], shift, (50.0, 0.05, 0.07), seed=place)
        for place, (name, (_, shift)) in enumerate(SOURCES.items())
    ]
    literature = {name: np.concatenate([one[name] for one in sets]) for name in LABELS}
    source = np.repeat(list(taken), [len(part) for part in taken.values()])
    near = every[rng.random(len(every)) < 0.8]
    methods = {
        name: others(table, every, shift, (40.0, 0.06, 0.08), seed=20 + place, spread=spread)
        for place, (name, (shift, spread)) in enumerate(METHODS.items())
    }
    pairs = every[rng.random(len(every)) < 0.06]
    primary = table["true_m_h"][pairs] + rng.normal(0, 0.1, len(pairs))
    ours = {name: table[name] for name in (*LABELS, "bp_rp", "m_g")}
    photometry = {name: table[name] for name in ("bp_rp", "m_g")}
    without = {name: {key: values for key, values in one.items() if np.isfinite(values).any()}
               for name, one in methods.items()}  # fmt: skip
    return {
        "01-sky": sky_figure(table["ra"], table["dec"], title=TITLE),
        "02-snr": snr_figure(table["snr_r"], table["snr_i"], title=TITLE),
        "04-velocity": velocity_figure(table["rv"], gaia_rv, title=TITLE),
        "05-processing": one_spectrum(),
        "09-kiel": kiel_figure(table["teff"], table["logg"], table["m_h"], title=TITLE),
        "10-precision": precision_figure(repeat_scatter(table, fit_precision(table)), title=TITLE),
        "11-hr": hr_figure(*(table[name] for name in ("bp_rp", "m_g", "m_h", "g_mag", "distance")), title=TITLE),
        "12-active": active_figure(*(table[name] for name in ("bp_rp", "m_g", "m_h", "activity")), title=TITLE),
        "13-subtype": subtype_figure(table["spt"], table["subclass"], title=TITLE),
        "14-literature": literature_figure(
            {name: table[name][rows] for name in LABELS}, literature, source, table["snr_r"][rows], title=TITLE
        ),
        "15-apogee": apogee_figure(
            {name: table[name][near] for name in LABELS},
            others(table, near, (0.0, -0.13, -0.04), (40.0, 0.05, 0.07), seed=11),
            title=TITLE,
        ),
        "16-methods": methods_figure(
            {"ours": ours} | {name: one | photometry for name, one in without.items()}, title=TITLE
        ),
        "17-differences": differences_figure(ours, without, title=TITLE),
        "18b-photometry": against_photometry(table),
        "18-binaries": binaries_figure(table["m_h"][pairs], primary, table["snr_r"][pairs], title=TITLE),
    }


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG: 48 colours of its own, which a page of the docs does not show."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=75)
    content.seek(0)
    image = Image.open(content).convert("RGB")
    image.quantize(48, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Write every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "figures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(simulated_catalogue(options.stars)).items():
        save(figure, options.output / f"{name}.png")


if __name__ == "__main__":
    main()
