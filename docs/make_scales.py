"""Write docs/scales.md and src/stargap/validation/data/scales.json: our labels on the scales of others."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

sys.path.append(str(Path(__file__).parent / "results"))
from pages import number, read_index, reflow, table

import stargap
from stargap.statistics import robust_scatter
from stargap.validation.scales import to_scale

Array = NDArray[np.float64]
Table = dict[str, list[dict[str, str]]]
Scales = dict[str, dict[str, Any]]
Pairs = list[tuple[dict[str, str], dict[str, str]]]
SAME = 8.0
"""Distance (arcsec) within which stars are the same; catalogues give positions of different epochs."""
SOURCES = {
    "carmenes": ("Schweitzer2019", "Schweitzer et al. 2019, A&A 625, A68"),
    "passegger2018": ("Passegger2018", "Passegger et al. 2018, A&A 615, A6"),
    "passegger2020": ("Passegger2020_DL", "Passegger et al. 2020, A&A 642, A22 (deep learning)"),
    "marfil2021": ("Marfil2021", "Marfil et al. 2021, A&A 656, A162 (SteParSyn)"),
    "apogee": ("APOGEE_ASPCAP(via Birky2020)", "ASPCAP, as tabulated by Birky et al. 2020"),
    "birky2020": ("Birky2020", "The Cannon on APOGEE's spectra, Birky et al. 2020, ApJ 892, 31"),
}  # fmt: skip
"""Our names of scales, names in the table of literature labels, and references."""
MANN = "Mann et al. 2015, ApJ 804, 64, with the erratum of 2016: ours by construction"
LEAST = 5
"""Least number of LAMOST's stars that a comparison is shown of."""
DATA = Path(__file__).parents[1] / "src/stargap/validation/data/scales.json"
ASSUMED = {"APOGEE_ASPCAP(via Birky2020)": (67.0, 0.10), "Birky2020": (77.0, 0.09)}
"""Errors (K, dex) of labels whose table has none."""
ZERO = {"teff": 16.0, "m_h": 0.024}
"""How well our zero points on the scale of Mann et al. (2015) are known (K, dex): docs/results/real-stars.md."""
PIVOT = {"teff": 3500.0, "m_h": 0.0}
UNIT = {"teff": 1000.0, "m_h": 1.0}
DRAWS, SEED = 300, 3


def read_labels(path: Path) -> Table:
    """Return the rows of the table of literature labels by source."""
    found: Table = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["source"], []).append(row)
    return found


def value(text: str) -> float:
    """Return a number, NaN if there is none."""
    return float(text) if text else np.nan


def in_common(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> Pairs:
    """Return the rows of two tables that are of the same star, by position."""
    ra, dec = (np.array([value(row[name]) for row in theirs]) for name in ("ra", "dec"))
    pairs = []
    for row in ours:
        here, there = value(row["ra"]), value(row["dec"])
        apart = 3600 * np.hypot((ra - here) * np.cos(np.radians(there)), dec - there)
        if np.nanmin(apart, initial=np.inf) < SAME:
            pairs.append((row, theirs[int(np.nanargmin(apart))]))
    return pairs


def fit_line(x: Array, e_x: Array, y: Array, e_y: Array) -> tuple[float, float, float]:
    """Return intercept, slope and intrinsic scatter of y on x with errors in both, by maximum likelihood.

    True x are normal about a mean, and y scatters about the line (Kelly 2007, ApJ 665, 1489, with one component).
    """

    def loss(theta: Array) -> float:
        middle, width, start, slope, scatter = theta[0], np.exp(theta[1]), theta[2], theta[3], np.exp(theta[4])
        xx, xy = width**2 + e_x**2, slope * width**2
        yy = slope**2 * width**2 + e_y**2 + scatter**2
        determinant = xx * yy - xy**2
        u, v = x - middle, y - start - slope * middle
        return float(np.sum((yy * u**2 - 2 * xy * u * v + xx * v**2) / determinant + np.log(determinant)))

    slope, start = np.polyfit(x, y, 1)
    first = [x.mean(), np.log(x.std()), start, slope, np.log(0.5 * np.std(y - start - slope * x))]
    found = minimize(loss, first, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-6}).x
    return float(found[2]), float(found[3]), float(np.exp(found[4]))


def convert(label: str, pairs: Pairs, source: str) -> dict[str, object]:
    """Return the line of one label of a scale on that of Mann et al., with the covariance of its two numbers."""
    column = {"teff": "Teff", "m_h": "MH"}[label]
    assumed = ASSUMED.get(source, (np.nan, np.nan))[label == "m_h"]
    data = []
    for one, other in pairs:
        given = [value(row[name]) for row in (one, other) for name in (column, f"e_{column}")]
        given[3] = given[3] if np.isfinite(given[3]) else assumed
        if np.isfinite(given).all():
            data.append(given)
    x, e_x, y, e_y = np.array(data).T
    off = y - x
    keep = np.abs(off - np.median(off)) < 4 * robust_scatter(off)
    x, e_x, y, e_y = (
        (v[keep] - p) / UNIT[label] for v, p in ((x, PIVOT[label]), (e_x, 0.0), (y, PIVOT[label]), (e_y, 0.0))
    )
    start, slope, scatter = fit_line(x, e_x, y, e_y)
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(DRAWS):
        rows = rng.integers(len(x), size=len(x))
        draws.append(fit_line(x[rows], e_x[rows], y[rows], e_y[rows])[:2])
    covariance = np.cov(np.array(draws).T)
    unit = UNIT[label]
    return {
        "offset": round(start * unit, 4), "slope": round(slope, 4), "scatter": round(scatter * unit, 4),
        "e_offset": round(float(np.sqrt(covariance[0, 0])) * unit, 4),
        "e_slope": round(float(np.sqrt(covariance[1, 1])), 4),
        "rho": round(float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])), 3),
        "low": round(float(x.min() * unit + PIVOT[label]), 3), "high": round(float(x.max() * unit + PIVOT[label]), 3),
        "stars": len(x), "e_zero": 0.0,
    }  # fmt: skip


def by_name(labels: Table, source: str) -> list[dict[str, str]]:
    """Return the rows of a source, with exact positions where another table has the same name."""
    exact = {row["name"]: row for name in ("Schweitzer2019", "Marfil2021") for row in labels[name]}
    return [
        row | {name: exact[row["name"]][name] for name in ("ra", "dec")} if row["name"] in exact else row
        for row in labels[source]
    ]


def relations(labels: Table) -> Scales:
    """Return every scale with its reference and the lines of both labels."""
    mann = labels["Mann2015"]
    found: Scales = {"mann": {"about": MANN}}
    for label, column in (("teff", "Teff"), ("m_h", "MH")):
        given = [value(row[column]) for row in mann]
        found["mann"][label] = {
            "offset": 0.0, "slope": 1.0, "scatter": 0.0, "e_offset": 0.0, "e_slope": 0.0, "rho": 0.0,
            "low": min(given), "high": max(given), "stars": len(given), "e_zero": ZERO[label],
        }  # fmt: skip
    for name, (source, about) in SOURCES.items():
        pairs = in_common(mann, by_name(labels, source))
        found[name] = {"about": about, **{label: convert(label, pairs, source) for label in ("teff", "m_h")}}
    return found


def direct(labels: Table, lamost: Path) -> dict[str, dict[str, Array]]:
    """Return ours on each scale less the labels of that scale, of LAMOST's good M dwarfs, by scale and label."""
    given = [row for row in read_index(lamost, "cool") if row["ra"] and not row["note"]]
    measured = stargap.measure([lamost / "cool" / row["file"] for row in given], progress=False)
    ours = {name: np.ma.filled(np.ma.asarray(measured[name]).astype(float), np.nan) for name in PIVOT}
    usable = np.asarray(measured["use_teff"]) == 1
    place = {id(row): k for k, row in enumerate(given)}
    found = {}
    for name in ("mann", *SOURCES):
        source = SOURCES[name][0] if name in SOURCES else "Mann2015"
        pairs = [pair for pair in in_common(given, by_name(labels, source)) if usable[place[id(pair[0])]]]
        here = np.array([place[id(row)] for row, _ in pairs], dtype=int)
        if len(here) < LEAST:
            continue
        converted = to_scale(ours["teff"][here], ours["m_h"][here], name)._asdict()
        found[name] = {
            label: converted[label] - np.array([value(other[column]) for _, other in pairs])
            for label, column in (("teff", "Teff"), ("m_h", "MH"))
        }
    return found


def beside(checked: dict[str, dict[str, Array]]) -> list[list[str]]:
    """Return the lines of the table of direct comparisons."""
    rows = []
    for name, both in checked.items():
        cells = []
        for label, digits in (("teff", 0), ("m_h", 2)):
            off = both[label][np.isfinite(both[label])]
            scatter = float(robust_scatter(off))
            median = number(float(np.median(off)), digits, error=1.25 * scatter / np.sqrt(len(off)), sign=True)
            cells += [median, number(scatter, digits)]
        rows.append([f"`{name}`", str(len(both["teff"])), *cells])
    return rows


def page(found: Scales, checked: dict[str, dict[str, Array]], zero: dict[str, float]) -> str:
    """Return the page."""
    lines, sources = [], []
    for name, scale in found.items():
        sources.append(f"* `{name}`: {scale['about']}.")
        for label, title, digits in (("teff", "Teff (K)", 0), ("m_h", "[M/H] (dex)", 3)):
            one = scale[label]
            lines.append([
                f"`{name}`", title, str(one["stars"]), f"{one['low']:g} to {one['high']:g}",
                number(one["offset"], digits, error=one["e_offset"], sign=True),
                number(one["slope"], 3, error=one["e_slope"]), number(one["scatter"], digits),
            ])  # fmt: skip
    head = ["scale", "label", "stars", "range", "offset", "slope", "scatter"]
    check = ["scale", "stars", "Teff: median (K)", "scatter", "[M/H]: median (dex)", "scatter"]
    sentences = {
        "ZERO_TEFF": f"{ZERO['teff']:.0f}", "ZERO_M_H": f"{ZERO['m_h']}", "PIVOT": f"{PIVOT['teff']:.0f}",
        "DRAWS": str(DRAWS), "ASPCAP": "{:.0f} K and {} dex".format(*ASSUMED["APOGEE_ASPCAP(via Birky2020)"]),
        "LEAST": str(LEAST), "LEFT": f"{zero['teff']:.0f} K and {zero['m_h']:.2f} dex", "SOURCES": "\n".join(sources),
    }  # fmt: skip
    text = _TEXT
    for name, sentence in sentences.items():
        text = text.replace(name, sentence)
    text = reflow(text)
    for name, content in {"TABLE_OF_LINES": table(head, lines), "TABLE_BESIDE": table(check, beside(checked))}.items():
        text = text.replace(name, content)
    return text


_TEXT = """# Our labels on the scales of others

Made by `python docs/make_scales.py`; every number here comes from it. `stargap.to_scale(teff, m_h, "apogee")` converts.

Our Teff and [M/H] are on the scale of Mann et al. (2015): that is what the shipped model is tied to
([real-stars.md](results/real-stars.md)), with zero points that are known to ZERO_TEFF K and ZERO_M_H dex. Here the
labels of others are fitted to those of Mann et al., of stars in both tables: theirs = pivot + offset + slope (ours −
pivot), with pivots of PIVOT K and 0 dex, by maximum likelihood with errors in both and an intrinsic scatter; ± are
standard deviations of DRAWS bootstrap samples, and stars more than four robust sigma off are left out.

TABLE_OF_LINES

SOURCES

A slope of [M/H] below 1 means that a catalogue compresses metallicities. Errors of APOGEE's labels, which its table
lacks, were taken as ASPCAP. For Gaia GSP-Phot no table was at hand, and so there is no conversion.

## Ours, converted, beside theirs

LAMOST's good M dwarfs, where at least LEAST have labels on a scale: ours, converted, less theirs. They do not bear out
the offsets of Teff: ours as measured are closer to those of CARMENES than ours converted. Some of these stars are
anchors of the shipped model, with photometric labels. What is left, LEFT in the root mean square over scales, is part
of the errors that `to_scale` returns with those of the line; labels outside the range of the stars in common are null.

TABLE_BESIDE
"""


def save(found: Scales) -> None:
    """Write the data that `stargap.to_scale` reads."""
    DATA.write_text(json.dumps({"pivot": PIVOT, "scales": found}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Write the data, then the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with labels/ and lamost/")
    given = parser.parse_args()
    path = given.data / "labels" / "literature_labels.csv.gz"
    if not path.is_file():
        print(f"{path}: there is no such file; name the data folder with --data", file=sys.stderr)
        return 2
    labels = read_labels(path)
    found = relations(labels)
    save(found)
    checked = direct(labels, given.data / "lamost")
    zero = {}
    for label in PIVOT:
        medians = [np.nanmedian(both[label]) for name, both in checked.items() if name != "mann"]
        zero[label] = round(float(np.sqrt(np.mean(np.square(medians)))), 3)
        for name in SOURCES:
            found[name][label]["e_zero"] = zero[label]
    save(found)
    (Path(__file__).parent / "scales.md").write_text(page(found, checked, zero), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
