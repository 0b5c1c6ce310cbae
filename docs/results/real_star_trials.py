"""What the scatter of stars left out is made of, and what else was tried, for `make_real_stars.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, table
from real_star_recipes import RECIPES, SHIPPED, Bench, flatter_emulator, with_literature
from scipy.optimize import minimize

from stargap.labels import M_H, TEFF
from stargap.photometry.relations import TEFF_PER_DEX
from stargap.statistics import statistics
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.transfer.anchor_labels import PAIR_SHIFT, PAIR_WIDTH
from stargap.transfer.anchored.anchors import AnchorSettings, AnchorStars, zero_points
from stargap.transfer.anchored.correction import fit_anchors
from stargap.transfer.anchored.label_map import fit_map, fit_slope
from stargap.transfer.anchored.train import CrossValidated, cross_validate, fit_anchored

Array = NDArray[np.float64]
Map = Callable[[Bench, Array, NDArray[np.int64]], Callable[[Array], Array]]
VERSION_1 = AnchorSettings(
    floor=0.01, gap_weight=1.0, directions=3, logg_width=0.05, contrast=1.0, alpha_slope=0.4, label_map=False
)
DRAWS, SEED = 2000, 0
SIZES = (0.2, 0.5, 60.0, 300.0, 60.0)
"""Expected offset (dex) and stretch of [M/H], offset of Teff (K), its change (K) per dex of that of [M/H] and 400 K."""
WILD = float(np.log(0.001) - np.log(1000.0 * 0.7))


def fitted(anchors: AnchorStars, scored: NDArray[np.bool_], emulator: Emulator, settings: AnchorSettings) -> Array:
    """Return labels ``(spectrum, 3)`` before any label map, each star's through a transfer without its group."""
    plain = settings.model_copy(update={"label_map": False})
    return cross_validate(anchors, emulator, plain, scored=scored).fitted[:, :3]


def seen(anchors: AnchorStars, scored: NDArray[np.bool_], emulator: Emulator, settings: AnchorSettings) -> Array:
    """Return labels of the scored spectra through a transfer that knows all of them, before any label map."""
    rows = torch.as_tensor(np.flatnonzero(scored))
    labels = np.full((len(anchors), 3), np.nan)
    found = fit_anchored(anchors.prepared[rows], fit_anchors(anchors, emulator, settings))
    labels[rows.numpy()] = found.observed.labels.numpy()[:, :3]
    return labels


def shipped_map(bench: Bench, labels: Array, rows: NDArray[np.int64]) -> Callable[[Array], Array]:
    """Return the label map as it is shipped, of some rows."""
    anchors = bench.anchors
    found = fit_map(labels[rows], anchors.labels[rows], anchors.errors[rows], anchors.p_single[rows], reach=1.0)

    def apply(some: Array) -> Array:
        moved = found.m_h(torch.as_tensor(some[:, M_H]))[0].numpy()
        published = some.copy()
        published[:, TEFF] += float(found.numbers[3]) + float(found.numbers[4]) * (moved - some[:, M_H])
        published[:, M_H] = moved
        return published

    return apply


def joint_map(bench: Bench, labels: Array, rows: NDArray[np.int64]) -> Callable[[Array], Array]:
    """Return a map in Teff and [M/H] together, with a slope in Teff and the correlated errors of photometric labels.

    The mixture of single stars, pairs and wild labels is one of both labels, in the metric of these errors.
    """
    known, errors = bench.anchors.labels[rows][:, [TEFF, M_H]], bench.anchors.errors[rows][:, [TEFF, M_H]]
    single, both = bench.anchors.p_single[rows], TEFF_PER_DEX * errors[:, 1] ** 2
    shift, wide = np.array([PAIR_SHIFT[TEFF], PAIR_SHIFT[M_H]]), np.square([PAIR_WIDTH[TEFF], PAIR_WIDTH[M_H]])

    def apply(some: Array, numbers: Array) -> Array:
        weight = 1 / (1 + np.clip(-some[:, M_H], 0.0, None) ** 3)
        change = (numbers[0] + numbers[1] * some[:, M_H]) * weight
        published = some.copy()
        published[:, TEFF] += numbers[2] + numbers[3] * change + numbers[4] * (some[:, TEFF] - 3600.0) / 400.0
        published[:, M_H] += change
        return published

    def log_normal(off: Array, variance: Array) -> Array:
        root = variance[:, 0] * variance[:, 1] - both**2
        square = variance[:, 1] * off[:, 0] ** 2 - 2 * both * off[:, 0] * off[:, 1] + variance[:, 0] * off[:, 1] ** 2
        return np.asarray(-0.5 * square / root - 0.5 * np.log(root))

    def cost(numbers: Array) -> float:
        off = known - apply(labels[rows], numbers)[:, [TEFF, M_H]]
        variance = errors**2 + np.exp(2 * numbers[5:])
        one, two = log_normal(off, variance), log_normal(off - shift, variance + wide)
        every = np.logaddexp(np.logaddexp(np.log(single) + one, np.log(1 - single) + two), WILD)
        prior = np.square(numbers[:5] / SIZES).sum() + np.square((numbers[5:] - [3.0, -3.2]) / 0.7).sum()
        return float(-every.sum() + 0.5 * prior)

    best = minimize(cost, [0.0, 0.2, 0.0, 0.0, 0.0, 3.0, -3.2], method="BFGS").x
    return lambda some: apply(some, best)


def published(bench: Bench, labels: Array, make: Map = shipped_map, known: Array | None = None) -> Array:
    """Return labels through maps that are each made of all other stars."""
    bench = bench if known is None else replace(bench, anchors=replace(bench.anchors, labels=known))
    names, rows = np.array(bench.anchors.names), np.flatnonzero(bench.scored & np.isfinite(labels).all(axis=1))
    found = np.full_like(labels, np.nan)
    for row in rows.tolist():
        others = rows[names[rows] != names[row]]
        found[row] = make(bench, labels, others)(labels[row : row + 1])[0]
    return found


def cells(bench: Bench, labels: Array, group: str) -> list[str]:
    """Return median and clipped scatter of Teff, clipped scatter, slope and rank of [M/H], against known labels."""
    rows = bench.rows(group)
    rows = rows[np.isfinite(labels[rows]).all(axis=1)]
    ours, known, errors = labels[rows], bench.anchors.labels[rows], bench.anchors.errors[rows, M_H]
    teff, m_h = (statistics(ours[:, k], known[:, k]) for k in (TEFF, M_H))
    slope = fit_slope(known[:, M_H], ours[:, M_H], errors, 0.5 * float(errors.mean()))
    return [number(teff.median, 0, sign=True), number(teff.clipped, 0), number(m_h.clipped, 3), number(slope, 2),
            number(m_h.rank, 2)]  # fmt: skip


HEAD = ["Teff: median", "clipped", "[M/H]: clipped", "slope", "rank"]


def scatter_text(bench: Bench, labels: Array) -> str:
    """Return the section on whose scatter it is; ``labels`` are those of the nested cross-validation."""
    emulator, settings = shipped_emulator(), RECIPES[SHIPPED]
    lamost = np.array([star.group == "lamost" for star in bench.stars])
    old, scored = with_literature(bench), bench.scored & lamost
    mine = np.flatnonzero(lamost)

    def placed(some: Array) -> Array:
        whole = np.full((len(lamost), 3), np.nan)
        whole[mine] = some
        return whole

    inside = seen(bench.anchors, bench.scored, emulator, settings)
    rows = [
        ["version 1 (its anchors and literature labels), left out",
         *cells(bench, placed(fitted(old[mine], scored[mine], emulator, VERSION_1)), "lamost")],
        ["... stars that it was made of",
         *cells(bench, placed(seen(old[mine], scored[mine], emulator, VERSION_1)), "lamost")],
        ["version 1's settings, today's anchors, left out",
         *cells(bench, fitted(bench.anchors, bench.scored, emulator, VERSION_1), "lamost")],
        ["today, nested", *cells(bench, labels, "lamost")],
        ["... stars that it was made of", *cells(bench, published(bench, inside), "lamost")],
    ]  # fmt: skip
    return f"""## Whose scatter it is

LAMOST stars against photometric labels, all in one way. No version has left stars out in turn with a scatter of some 20
K: that is what the model does to **stars that it was made of**, as the last line shows.

{table(["", *HEAD], rows)}

What is left is mostly the labels' own. Ours (left out), photometry's and the literature's are three measures of the
same stars; were their errors independent, the variances of the three differences give each one's scatter. They are not
quite, since ours are tied to photometry of other stars; the literature's are of spectra, as ours.

{three_corners(bench, labels)}

{farthest(bench, labels)} A scatter of 25 K about photometric
labels is less than these most likely scatter by themselves; the recipes of this page differ from each other by far less
than each from photometry."""


def farthest(bench: Bench, labels: Array) -> str:
    """Return a sentence on the star whose [M/H] is farthest from photometry's."""
    rows = bench.rows("lamost")
    off = labels[rows, M_H] - bench.anchors.labels[rows, M_H]
    place = int(np.nanargmax(np.abs(off)))
    star = bench.stars[rows[place]]
    other = star.literature[M_H] - bench.anchors.labels[rows[place], M_H]
    without = statistics(np.delete(labels[rows, M_H], place), np.delete(bench.anchors.labels[rows, M_H], place))
    every = statistics(labels[rows, M_H], bench.anchors.labels[rows, M_H])
    clipped = "are" if np.isclose(every.clipped, without.clipped) else "are not"
    return f"""The star farthest off in [M/H] is {star.star}: ours is {number(off[place], 2, sign=True)} dex beside
photometry, the literature's {number(other, 2, sign=True)}; without it the others scatter by
{number(without.clipped, 3)} dex, with a rank correlation of {number(without.rank, 2)}. Clipped scatters above {clipped}
without it; it is near the limit of three sigma."""


def three_corners(bench: Bench, labels: Array) -> str:
    """Return the table of each measure's own scatter, with bootstrap errors."""
    rows = bench.rows("lamost")
    rows = rows[np.isfinite(labels[rows]).all(axis=1)]
    literature = np.stack([bench.stars[row].literature for row in rows])
    rng, lines = np.random.default_rng(SEED), []
    for place, name, digits in ((TEFF, "Teff (K)", 0), (M_H, "[M/H] (dex)", 3)):
        parts = labels[rows, place], bench.anchors.labels[rows, place], literature[:, place]

        def own(some: NDArray[np.int64], parts: tuple[Array, ...] = parts) -> Array:
            ours, light, other = (part[some] for part in parts)
            a, b, c = (np.var(off, ddof=1) for off in (ours - light, ours - other, other - light))
            return np.sqrt(np.maximum(np.array([a + b - c, a + c - b, b + c - a]) / 2, 0.0))

        drawn = np.array([own(rng.integers(0, len(rows), len(rows))) for _ in range(DRAWS)])
        found, (low, high) = own(np.arange(len(rows))), np.percentile(drawn, [16, 84], axis=0)
        lines.append([name, *(f"{number(v, digits)} ({number(p, digits)} to {number(q, digits)})"
                              for v, p, q in zip(found, low, high, strict=True))])  # fmt: skip
    return table(["own scatter (68 % of bootstrap draws)", "ours, left out", "photometry", "literature"], lines)


def trials_text(bench: Bench, found: dict[str, CrossValidated], data: Path, work: Path) -> str:
    """Return the section on what was tried besides; none of it was chosen."""
    settings, anchors, emulator = RECIPES[SHIPPED], bench.anchors, shipped_emulator()
    first, flat = found[SHIPPED].fitted[:, :3], flatter_emulator(data, work)
    usual = published(bench, first)
    trials = {
        "as shipped": usual,
        "both grids, mean of labels": published(bench, (first + found["flatter grid, contrast 1"].fitted[:, :3]) / 2),
        "label map of Teff and [M/H] together": published(bench, first, joint_map),
    }
    for name, some in (("source", anchors), ("instrument", replace(anchors, sources=[s.group for s in bench.stars]))):
        moved = some.shifted(zero_points(some, usual))
        moved = replace(moved, labels=moved.labels.clip(emulator.lower[:3].numpy(), emulator.upper[:3].numpy()))
        labels = fitted(moved, bench.scored, emulator, settings)
        trials[f"zero point for each {name}"] = published(bench, labels, known=moved.labels)
    for name, other, change in (
        ("5 directions", emulator, {"directions": 5}),
        ("12 directions", emulator, {"directions": 12}),
        ("factor linear in Teff", emulator, {"teff_degree": 1}),
        ("flatter grid, contrast 0.7", flat, {}),
        ("flatter grid, contrast 0.85", flat, {"contrast": 0.85}),
    ):
        labels = fitted(anchors, bench.scored, other, settings.model_copy(update=change))
        trials[name] = published(bench, labels)
    rows = [[name, *cells(bench, labels, "lamost"), *cells(bench, labels, "other")] for name, labels in trials.items()]
    return f"""## What else was tried

Left out in groups, and through maps of all other stars, so a little kinder than nested; none is a candidate, for none
is better by more than the choice among a dozen would be worth. "Label map of Teff and [M/H] together": a slope in Teff,
errors of photometric labels correlated as the relation of Teff makes them, a mixture of single stars, pairs and wild
labels in that metric. "Zero point": of labels of each source beside photometry's, of labels of other instruments beside
LAMOST's.

{table(["LAMOST, then other instruments", *HEAD, *HEAD], rows)}"""
