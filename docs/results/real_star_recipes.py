"""Candidate recipes of the shipped transfer, cross-validated by star, and the choice among them: nested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_star_anchors import Star, prepared_anchors, read_stars, trainable

from stargap.labels import M_H, TEFF
from stargap.statistics import ranks
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.grids import read_hdf5_grid
from stargap.theory.train_emulator import Training, fit_emulator
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.label_map import fit_map
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import CrossValidated, cross_validate

Array = NDArray[np.float64]
SHIPPED = "shipped"
RECIPES: dict[str, AnchorSettings] = {
    SHIPPED: AnchorSettings(),
    "contrast 1": AnchorSettings(contrast=1.0),
    "flatter grid, contrast 1": AnchorSettings(contrast=1.0),
    "literature labels": AnchorSettings(),
}
"""Each differs from the shipped one by what its name says."""
NOT_CHOSEN = ("literature labels",)
"""Shown, and not a candidate: its anchors are another question, not another answer."""
TEFF_UNIT, M_H_UNIT = 40.0, 0.09
"""Differences (K, dex) that count as one in `score`."""


@dataclass(frozen=True)
class Bench:
    """Labelled stars, and what they are prepared as."""

    stars: list[Star]
    anchors: AnchorStars
    scored: NDArray[np.bool_]

    def rows(self, group: str) -> NDArray[np.int64]:
        """Return the scored spectra of ``lamost`` or ``other`` instruments."""
        return np.flatnonzero(self.scored & np.array([star.group == group for star in self.stars]))


def read_bench(data: Path) -> Bench:
    """Read and prepare all labelled spectra."""
    stars = trainable(read_stars(data))
    return Bench(stars, *prepared_anchors(stars, shipped_emulator()))


def with_literature(bench: Bench) -> AnchorStars:
    """Return the anchors with labels of the index where LAMOST's stars have them: what version 1 was made of."""
    labels = bench.anchors.labels.copy()
    for row, star in enumerate(bench.stars):
        if star.group == "lamost" and np.isfinite(star.literature).all():
            labels[row] = star.literature
    return replace(bench.anchors, labels=labels)


def flatter_emulator(data: Path, work: Path) -> Emulator:
    """Return the emulator of the grid with flatter atmospheres, trained once (about a minute)."""
    path = work / "flat" / "emulator.safetensors"
    if not path.exists():
        emulator, _ = fit_emulator(read_hdf5_grid(data / "grid" / "marcs_ts_flat.h5"), Training())
        path.parent.mkdir(parents=True, exist_ok=True)
        emulator.save(path)
    return Emulator.load(path)


def all_recipes(bench: Bench, data: Path, work: Path, tell: Callable[[str], object]) -> dict[str, CrossValidated]:
    """Cross-validate every recipe; keeps results in `work`."""
    import pickle

    found = {}
    for name, settings in RECIPES.items():
        kept = work / f"{list(RECIPES).index(name)}.pickle"
        if not kept.exists():
            tell(name)
            emulator = flatter_emulator(data, work) if name.startswith("flatter") else shipped_emulator()
            anchors = with_literature(bench) if name == "literature labels" else bench.anchors
            kept.write_bytes(pickle.dumps(cross_validate(anchors, emulator, settings, scored=bench.scored)))
        found[name] = pickle.loads(kept.read_bytes())
    return found


def score(ours: Array, known: Array) -> float:
    """Return what a recipe is chosen by, the lower the better: r.m.s. in Teff and [M/H], and order in [M/H]."""
    rms = np.sqrt(np.mean((ours - known) ** 2, axis=0))
    order = np.corrcoef(ranks(ours[:, M_H]), ranks(known[:, M_H]))[0, 1]
    return float(rms[TEFF] / TEFF_UNIT + rms[M_H] / M_H_UNIT + 1 - order)


def seen_without(bench: Bench, one: CrossValidated, group: int) -> tuple[Array, Array]:
    """Return labels of the stars outside a group, through transfers and a map that knew none of it, and known ones."""
    import torch

    fitted, anchors = one.apart[group], bench.anchors
    rows = np.flatnonzero(np.isfinite(fitted).all(axis=1))
    reach = one.label_map.numbers[2].item() if one.label_map is not None else 1.0
    found = fit_map(fitted[rows, :3], anchors.labels[rows], anchors.errors[rows], anchors.p_single[rows], reach=reach)
    m_h = torch.as_tensor(fitted[rows, M_H])
    moved = found.m_h(m_h)[0].numpy()
    labels = fitted[rows, :3].copy()
    labels[:, M_H] = moved
    labels[:, TEFF] += float(found.numbers[3]) + float(found.numbers[4]) * (moved - fitted[rows, M_H])
    return labels, anchors.labels[rows]


def nested(bench: Bench, found: dict[str, CrossValidated]) -> tuple[Array, list[str]]:
    """Return labels ``(spectrum, 3)`` of each star through the recipe that the other groups choose, and which it is."""
    candidates = {name: one for name, one in found.items() if name not in NOT_CHOSEN}
    first = next(iter(candidates.values()))
    labels, chosen = np.full((len(bench.stars), 3), np.nan), [""] * len(bench.stars)
    for group in np.unique(first.fold[bench.scored]).tolist():
        scores = {name: score(*seen_without(bench, one, group)) for name, one in candidates.items()}
        best = min(scores, key=scores.__getitem__)
        for row in np.flatnonzero(bench.scored & (first.fold == group)).tolist():
            labels[row], chosen[row] = candidates[best].labels[row, :3], best
    return labels, chosen
