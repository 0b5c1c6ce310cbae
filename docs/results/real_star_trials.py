"""What the scatter of stars left out is made of, for `make_real_stars.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, table
from real_star_recipes import RECIPES, SHIPPED, Bench, with_literature

from stargap.labels import M_H, TEFF
from stargap.statistics import statistics
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.correction import fit_anchors
from stargap.transfer.anchored.label_map import fit_map, fit_slope
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import cross_validate, fit_anchored

Array = NDArray[np.float64]
VERSION_1 = AnchorSettings(
    floor=0.01, gap_weight=1.0, directions=3, logg_width=0.05, contrast=1.0, alpha_slope=0.4, label_map=False
)
DRAWS, SEED = 2000, 0


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


def published(bench: Bench, labels: Array) -> Array:
    """Return labels through maps that are each made of all other stars."""
    names, rows = np.array(bench.anchors.names), np.flatnonzero(bench.scored & np.isfinite(labels).all(axis=1))
    found = np.full_like(labels, np.nan)
    for row in rows.tolist():
        others = rows[names[rows] != names[row]]
        found[row] = shipped_map(bench, labels, others)(labels[row : row + 1])[0]
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
