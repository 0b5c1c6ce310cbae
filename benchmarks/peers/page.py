"""The page: tables of what every method is off by, and what it costs."""

from __future__ import annotations

import numpy as np
from pages import number, table

from peers.methods import BINS, ITERATIONS, Result
from peers.survey import MIX, OUTSIDE
from stargap.statistics import statistics

TITLES = {
    "cannon": "The Cannon",
    "slam": "SLAM-like",
    "templates": "LASPM-like, labelled spectra",
    "payne": "The Payne alone",
    "grid": "LASPM-like, synthetic grid",
    "ulyss": "ULySS-like",
    "amortised": "amortised network",
    "rvspecfit": "rvspecfit",
    "starnet": f"Cycle-StarNet, {ITERATIONS:,} iterations",
    "default": "**stargap, no labels**",
    "photometry": "**stargap, photometric anchors**",
    "literature": "**stargap, the literature's labels**",
    "shipped": "**stargap, shipped recipe**",
}
ORDER = ("cannon", "slam", "templates", "payne", "grid", "ulyss", "amortised", "rvspecfit", "starnet", "default",
         "photometry", "literature")  # fmt: skip
DATA = ("cannon", "slam", "templates")
HEAD = ["Teff: bias (K)", "scatter", "slope", "log g: bias", "scatter", "slope", "[M/H]: bias", "scatter", "slope"]
DIGITS = (0, 3, 3)
WITHOUT = 10
"""Stars below which no slope is given."""
Results = dict[tuple[str, str], Result]


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


def matched(results: Results, truth: np.ndarray, snr: np.ndarray, level: str, low: float, high: float) -> str:
    """Return the table of one level and one range of S/N, test stars mixed as the training stars."""
    rows = []
    for name in ORDER:
        one = results.get((name, level_of(name, level)))
        if one is not None:
            places = one.rows[MIX]
            inside = (snr[places] >= low) & (snr[places] < high)
            rows.append([TITLES[name], str(inside.sum()), *cells(one.labels[MIX][inside], truth[places[inside]])])
    return table(["", "stars", *HEAD], rows)


def outside(results: Results, truth: np.ndarray, level: str, *, poor: bool) -> str:
    """Return the table of stars outside the training mix, the metal-poor or the late ones."""
    rows = []
    for name in ORDER:
        one = results.get((name, level_of(name, level)))
        if one is not None:
            places = one.rows["outside"]
            half = (places < OUTSIDE // 2) == poor
            rows.append([TITLES[name], str(half.sum()), *cells(one.labels["outside"][half], truth[places[half]])])
    return table(["", "stars", *HEAD], rows)


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
    for level in ("mild", "hard"):
        sections.append(f"## {level.upper()}")
        for low, high in BINS:
            words = f"S/N above {low:.0f}" if high > 1e3 else f"S/N {low:.0f} to {high:.0f}"
            sections += [f"### {level.upper()}, {words}", matched(results, truth[MIX], snr, level, low, high)]
        for poor, words in ((True, "metal-poor stars"), (False, "late stars")):
            sections += [f"### {level.upper()}, {words}", outside(results, truth["outside"], level, poor=poor)]
    return "\n\n".join(sections)
