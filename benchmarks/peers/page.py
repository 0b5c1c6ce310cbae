"""The page: tables of what every method is off by, and what it costs."""

from __future__ import annotations

from itertools import product

import numpy as np
from make_transfer import LEVELS
from pages import number, table

from peers import ulyss
from peers.methods import BINS, ITERATIONS, SLOW, Result
from peers.survey import MIX, OUTSIDE
from stargap.statistics import statistics

TITLES = {
    "cannon": "The Cannon",
    "slam": "SLAM-like",
    "templates": "LASPM-like, labelled spectra",
    "payne": "The Payne alone",
    "grid": "LASPM-like, synthetic grid",
    "ulyss": f"ULySS-like, degree {ulyss.DEGREE}",
    "ulyss_high": f"ULySS-like, degree {ulyss.HIGH}",
    "amortised": "amortised network",
    "rvspecfit": "rvspecfit",
    "starnet": f"Cycle-StarNet, {ITERATIONS:,} iterations",
    "default": "**stargap, no labels**",
    "photometry": "**stargap, photometric anchors**",
    "literature": "**stargap, the literature's labels**",
    "shipped": "**stargap, shipped recipe**",
}
ORDER = ("cannon", "slam", "templates", "payne", "grid", "ulyss", "ulyss_high", "amortised", "rvspecfit", "starnet",
         "default", "photometry", "literature")  # fmt: skip
DATA = ("cannon", "slam", "templates")
HEAD = ["Teff: bias (K)", "scatter", "slope", "log g: bias", "scatter", "slope", "[M/H]: bias", "scatter", "slope"]
DIGITS = (0, 3, 3)
WITHOUT = 10
"""Stars below which no slope is given."""
GROUPS = {"bright": "S/N above 50", "medium": "S/N 20 to 50", "faint": "S/N 5 to 20", "poor": "metal-poor stars",
          "late": "late stars"}  # fmt: skip
"""Groups of test stars: the ranges of S/N of `BINS`, and the two halves outside the training mix."""
WHAT = ("bias", "scatter", "slope")
Results = dict[tuple[str, str], Result]
Row = tuple[str, int, list[str]]


def level_of(name: str, level: str) -> str:
    """Return the level under which a method's results are kept."""
    return "data" if name in DATA else level


def cells(ours: np.ndarray, truth: np.ndarray) -> list[str]:
    """Return bias, scatter and slope of each label ``(star, 3)``, and how many stars have none."""
    sound = np.isfinite(ours).all(axis=1)
    found = []
    for place, digits in enumerate(DIGITS):
        one = statistics(ours[sound, place], truth[sound, place])
        slope = number(one.slope, 2) if sound.sum() >= WITHOUT else "–"
        found += [number(one.median, digits, sign=True), number(one.scatter, digits), slope]
    return found


def compared(results: Results, truth: dict[str, np.ndarray], snr: np.ndarray, level: str, group: str) -> list[Row]:
    """Return each method's stars and `cells` in a group of test stars: a key of `GROUPS`."""
    found = []
    for name in ORDER:
        one = results.get((name, level_of(name, level)))
        if one is None:
            continue
        kind = "outside" if group in ("poor", "late") else MIX
        places = one.rows[kind]
        if kind == MIX:
            low, high = BINS[list(GROUPS).index(group)]
            inside = (snr[places] >= low) & (snr[places] < high)
        else:
            inside = (places < OUTSIDE // 2) == (group == "poor")
        found.append((name, int(inside.sum()), cells(one.labels[kind][inside], truth[kind][places[inside]])))
    return found


def facts(results: Results, truth: dict[str, np.ndarray], snr: np.ndarray) -> dict[str, str]:
    """Return every number of the tables by name, such as ``cannon_hard_bright_teff_scatter``, for the page's text."""
    return {
        f"{name}_{level}_{group}_{label}_{what}": value
        for level in LEVELS
        for group in GROUPS
        for name, _, values in compared(results, truth, snr, level, group)
        for (label, what), value in zip(product(("teff", "logg", "mh"), WHAT), values, strict=True)
    }


def given(results: Results) -> str:
    """Return how many test stars the methods had that were not given all."""
    ran = {name for name, _ in results}
    parts = (f"{TITLES[name].strip('*')} {most}, {out}" for name, (most, out) in SLOW.items() if name in ran)
    return "; ".join(parts)


def missing(results: Results) -> str:
    """Return which methods were not run on simulated stars."""
    ran = {name for name, _ in results}
    return ", ".join(TITLES[name].strip("*") for name in ORDER if name not in ran) or "none"


def costs(results: Results) -> str:
    """Return the table of speeds: processor time of one thread."""
    rows = []
    for name in ORDER:
        found = [one for (method, _), one in results.items() if method == name]
        if found:
            fitted = min(one.fitted for one in found)
            trained = max(one.trained for one in found)
            rate = 1 / max(fitted, 1e-9)
            rows.append([TITLES[name], f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
                         "–" if trained < 0.5 else f"{trained:,.0f}"])  # fmt: skip
    return table(["", "fits a second", "training (s)"], rows)


def lost(results: Results) -> str:
    """Return how many test stars have no labels, by method."""
    parts = []
    for (name, level), one in results.items():
        count = sum(int((~np.isfinite(labels).all(axis=1)).sum()) for labels in one.labels.values())
        if count:
            parts.append(f"{TITLES[name].strip('*')} ({level}) {count}")
    return ", ".join(parts) or "none"


def simulated(results: Results, truth: dict[str, np.ndarray], snr: np.ndarray) -> str:
    """Return all tables of simulated stars."""
    sections = []
    for level in LEVELS:
        sections.append(f"## {level.upper()}")
        for group, words in GROUPS.items():
            rows = [[TITLES[name], str(count), *values] for name, count, values in
                    compared(results, truth, snr, level, group)]  # fmt: skip
            sections += [f"### {level.upper()}, {words}", table(["", "stars", *HEAD], rows)]
    return "\n\n".join(sections)
