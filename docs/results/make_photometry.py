"""Photometric labels of real stars against published ones: python docs/results/make_photometry.py FOLDER.

FOLDER holds the published tables mann2015.csv and carmenes_ix.csv.gz (Cifuentes et al. 2025: Gaia DR3, 2MASS,
literature labels and companions). Prints Markdown tables: with and without Ks against Mann et al. (2015), whose stars
the relations were fitted to, against the literature in CARMENES IX, and against F, G and K primaries of M dwarfs, which
were not; and how many of the known close pairs are taken for pairs.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.flags import PhotFlag
from stargap.photometry.labels import photometric_labels

_Floats = NDArray[np.float64]

_SPECIFICATION = importlib.util.spec_from_file_location(
    "make_photometric_relations", Path(__file__).parents[1] / "make_photometric_relations.py"
)
assert _SPECIFICATION is not None
assert _SPECIFICATION.loader is not None
tables = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(tables)

_COLUMNS = {
    "g_mag": "G_mag",
    "bp_mag": "BP_mag",
    "rp_mag": "RP_mag",
    "e_g_mag": "eG_mag",
    "e_bp_mag": "eBP_mag",
    "e_rp_mag": "eRP_mag",
    "ks_mag": "Ks_mag",
    "e_ks_mag": "eKs_mag",
    "parallax": "parallax",
    "e_parallax": "parallax_error",
    "ruwe": "ruwe",
}
_PRIMARY = ("F", "G", "K0", "K1", "K2", "K3", "K4", "K5")


def photometry(rows: list[dict[str, str]], *, ks: bool = True) -> dict[str, Any]:
    """Return the columns that labels are made of; A_V is 0, for the stars are within 100 pc."""
    columns: dict[str, Any] = {ours: tables.numbers(rows, theirs) for ours, theirs in _COLUMNS.items()}
    columns["ks_quality"] = [row["Qf_2M"][2:3] for row in rows]
    columns["a_v"], columns["e_a_v"] = np.zeros(len(rows)), np.zeros(len(rows))
    if not ks:
        columns["ks_mag"] = np.full(len(rows), np.nan)
    return columns


def summary(title: str, difference: _Floats, error: _Floats, digits: int) -> str:
    """Return one row of a table: number, median, clipped standard deviation, robust one, and that of pulls."""
    good = np.isfinite(difference)
    values, pulls = difference[good], (difference / error)[good]
    middle, robust = np.median(values), 1.4826 * np.median(np.abs(values - np.median(values)))
    clipped = values[np.abs(values - middle) < 4 * robust].std()
    shown = [f"{value:.{digits}f}" for value in (middle, clipped, robust)]
    spread = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    return f"| {title} | {good.sum()} | {' | '.join(shown)} | {spread:.2f} |"


def against_mann(folder: Path, gaia: list[dict[str, str]]) -> list[str]:
    """Compare with the stars of Mann et al. (2015)."""
    mann = tables.read(folder / "mann2015.csv")
    rows = tables.nearest(mann, gaia)
    mann = [star for star, row in zip(mann, rows, strict=True) if row >= 0]
    ours = [gaia[row] for row in rows if row >= 0]
    use = tables.numbers(ours, "ruwe") < 1.4
    lines = []
    for ks, name in ((True, "Mann, with Ks"), (False, "Mann, Gaia alone")):
        labels = photometric_labels(photometry(ours, ks=ks))
        lines += _rows(name, labels, tables.numbers(mann, "Teff"), tables.numbers(mann, "[Fe/H]"), use)
        mass, radius = tables.numbers(mann, "M"), tables.numbers(mann, "R")
        logg = 4.438 + np.log10(mass) - 2 * np.log10(radius)
        difference = np.where(use, labels["logg_phot"] - logg, np.nan)
        lines.append(summary(f"{name}: log g", difference, labels["e_logg_phot"], 3))
    return lines


def _rows(name: str, labels: dict[str, Any], teff: _Floats, m_h: _Floats, use: NDArray[np.bool_]) -> list[str]:
    return [
        summary(f"{name}: Teff", np.where(use, labels["teff_phot"] - teff, np.nan), labels["e_teff_phot"], 0),
        summary(f"{name}: [Fe/H]", np.where(use, labels["m_h_phot"] - m_h, np.nan), labels["e_m_h_phot"], 3),
    ]


def against_primaries(gaia: list[dict[str, str]]) -> list[str]:
    """Compare the [Fe/H] of M dwarfs with that of their F, G or early K dwarf primary."""
    hot: dict[str, float] = {}
    for row, m_h in zip(gaia, tables.numbers(gaia, "Fe_H"), strict=True):
        if row["SpT"].startswith(_PRIMARY) and row["SpT"].endswith(" V") and np.isfinite(m_h):
            hot.setdefault(row["ID_system"], m_h)
    cool = [row for row in gaia if row["ID_system"] in hot and row["SpT"].startswith("M")]
    cool = [row for row in cool if len(row["Component"].strip("-()")) < 2 and not row["SB"] and not row["Group"]]
    labels = photometric_labels(photometry(cool))
    truth = np.array([hot[row["ID_system"]] for row in cool])
    good = np.isfinite(labels["p_single"]) & ~(tables.numbers(cool, "rho01") < 10)
    good &= (labels["phot_flags"] & int(PhotFlag.NO_KS | PhotFlag.INCONSISTENT)) == 0
    lines = []
    for name, some in (("all", good), ("p(single) > 0.8", good & (labels["p_single"] > 0.8))):
        difference = np.where(some, labels["m_h_phot"] - truth, np.nan)
        lines.append(summary(f"F, G, K primaries, {name}: [Fe/H]", difference, labels["e_m_h_phot"], 3))
        good = np.isfinite(difference)
        slope = np.polyfit(truth[good], labels["m_h_phot"][good], 1)[0]
        rank = np.corrcoef(np.argsort(np.argsort(truth[good])), np.argsort(np.argsort(labels["m_h_phot"][good])))[0, 1]
        lines.append(f"| ... slope {slope:.2f}, rank correlation {rank:.2f} | | | | | |")
    return lines


def pairs(gaia: list[dict[str, str]]) -> list[str]:
    """Return how known pairs and single stars are told apart."""
    labels = photometric_labels(photometry(gaia))
    close = np.array([len(row["Component"].strip("-()")) > 1 for row in gaia]) & (tables.numbers(gaia, "rho01") < 1.5)
    single = np.array([row["Type"] == "Single" and not row["Group"] for row in gaia])
    good = np.isfinite(labels["p_single"])
    lines = []
    for name, some in (("known pairs closer than 1.5 arcsec", close & good), ("single stars", single & good)):
        likely = labels["p_single"][some] < 0.5
        mean, metal = labels["p_single"][some].mean(), np.median(labels["m_h_phot"][some])
        lines.append(f"| {name} | {some.sum()} | {likely.mean():.2f} | {mean:.2f} | {metal:.2f} |")
    return lines


def main(folder: Path) -> None:
    """Print every table."""
    gaia = tables.read(folder / "carmenes_ix.csv.gz")
    print("| against | stars | median | clipped scatter | robust scatter | robust pull |\n|---|---|---|---|---|---|")
    print("\n".join(against_mann(folder, gaia)))
    dwarfs = [row for row in gaia if row["SpT"].startswith("M") and row["Type"] == "Single" and not row["Group"]]
    labels = photometric_labels(photometry(dwarfs))
    use = tables.numbers(dwarfs, "ruwe") < 1.4
    teff, m_h = tables.numbers(dwarfs, "Teff_K"), tables.numbers(dwarfs, "Fe_H")
    for reference in ("Marf21", "Schw19", "Pass19", "Mann15", "Gai14b", "This work"):
        for kind, column in (("Teff", "Teff_ref"), ("[Fe/H]", "Fe_H_ref")):
            some = use & np.array([row[column] == reference for row in dwarfs])
            if np.isfinite(np.where(some, labels["teff_phot"] + (teff if kind == "Teff" else m_h), np.nan)).sum() < 15:
                continue
            rows = _rows(f"CARMENES IX, {reference}", labels, teff, m_h, some)
            print(rows[0] if kind == "Teff" else rows[1])
    print("\n".join(against_primaries(gaia)))
    print("\n| stars | number | p(single) < 0.5 | mean p(single) | median [Fe/H] |\n|---|---|---|---|---|")
    print("\n".join(pairs(gaia)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the tables")
    main(parser.parse_args().folder)
