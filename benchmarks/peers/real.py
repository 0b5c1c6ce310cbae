"""The labelled real stars: every method without the star it is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from make_real_stars import GROUPS, judge
from pages import number, table
from real_star_recipes import Bench, read_bench

from peers import laspm, ours, rvspec, ulyss
from peers.methods import Methods, data_driven
from peers.survey import Spectra
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.anchors import AnchorSettings
from stargap.transfer.anchored.train import cross_validate

GOOD = 30.0
"""S/N in r above which spectra train SLAM and are templates."""


def spectra_of(bench: Bench) -> Spectra:
    """Return the labelled spectra as the peers take them."""
    prepared = bench.anchors.prepared
    snr = np.array([star.snr for star in bench.stars])
    return Spectra.of(prepared, prepared.continuum.numpy(), snr)


def without_own(name: str, bench: Bench, spectra: Spectra, fold: np.ndarray) -> np.ndarray:
    """Return labels ``(spectrum, 3)`` of a data-driven method trained on the other groups of stars."""
    labels = np.full((len(spectra), 3), np.nan)
    for group in np.unique(fold[bench.scored]):
        out, rest = np.flatnonzero(bench.scored & (fold == group)), np.flatnonzero(fold != group)
        bright = np.flatnonzero(spectra.snr[rest] > GOOD)
        fit = data_driven(name, spectra[rest], bench.anchors.labels[rest], bright)
        labels[out] = fit(spectra[out])
    return labels


def modelled(name: str, methods: Methods, spectra: Spectra) -> np.ndarray:
    """Return labels ``(spectrum, 3)`` of a method that knows synthetic spectra alone, those of the package."""
    emulator = shipped_emulator()
    if name == "payne":
        return ours.payne(emulator)(spectra)
    if name == "grid":
        return laspm.fit(spectra, *laspm.synthetic(emulator))
    if name in ("ulyss", "ulyss_high"):
        degree = ulyss.DEGREE if name == "ulyss" else ulyss.HIGH
        return ulyss.fit(spectra, emulator, degree=degree).labels
    if name == "amortised":
        return methods.network("mild")[0](spectra)
    return rvspec.fit(spectra.store.native, methods.templates("mild"))[0]


def real_labels(methods: Methods, data: Path) -> tuple[Bench, dict[str, np.ndarray]]:
    """Return the stars, and labels of each method, run or read."""
    bench = read_bench(data)
    spectra, folder = spectra_of(bench), methods.survey.folder
    found: dict[str, np.ndarray] = {}

    def keep(name: str, make) -> None:
        path = folder / f"real-{name}.npy"
        if not path.exists():
            methods.tell(f"real stars: {name}")
            np.save(path, make())
        found[name] = np.load(path)

    def shipped() -> np.ndarray:
        one = cross_validate(bench.anchors, shipped_emulator(), AnchorSettings(), scored=bench.scored)
        return np.column_stack([one.labels[:, :3], one.fold])

    keep("shipped", shipped)
    fold = found["shipped"][:, 3].astype(int)
    found["shipped"] = found["shipped"][:, :3]
    known = {name for name, _ in methods.names()}
    for name in ("cannon", "slam", "templates"):
        keep(name, lambda name=name: without_own(name, bench, spectra, fold))
    for name in ("payne", "grid", "ulyss", "ulyss_high", "amortised", "rvspecfit"):
        if name in known:
            keep(name, lambda name=name: modelled(name, methods, spectra))
    return bench, found


def real_cells(bench: Bench, labels: np.ndarray, group: str) -> dict[str, str]:
    """Return the numbers of one method and one group of stars, by name."""
    one = judge(bench, labels, group)
    teff, logg, m_h = (each.values for each in one.compared)
    return {
        "count": str(one.count),
        "teff_bias": number(teff.median, 0, sign=True),
        "teff_scatter": number(teff.scatter, 0),
        "teff_slope": number(teff.slope, 2),
        "logg_bias": number(logg.median, 2, sign=True),
        "logg_scatter": number(logg.scatter, 2),
        "mh_bias": number(m_h.median, 2, sign=True),
        "mh_scatter": number(m_h.scatter, 2),
        "mh_slope": number(one.slope, 2, error=one.e_slope),
    }


def real_table(bench: Bench, found: dict[str, np.ndarray], titles: dict[str, str], group: str) -> str:
    """Return the table of one group of stars."""
    head = ["", "stars", "Teff: bias (K)", "scatter", "slope", "log g: bias", "scatter", "[M/H]: bias", "scatter",
            "slope"]  # fmt: skip
    rows = [[titles[name], *real_cells(bench, labels, group).values()] for name, labels in found.items()]
    return table(head, rows)


def real_facts(bench: Bench, found: dict[str, np.ndarray]) -> dict[str, str]:
    """Return every number of the tables by name, such as ``real_cannon_lamost_teff_scatter``, for the page's text."""
    return {
        f"real_{name}_{group}_{what}": value
        for name, labels in found.items()
        for group in GROUPS
        for what, value in real_cells(bench, labels, group).items()
    }


def counts(bench: Bench) -> dict[str, int]:
    """Return how many spectra train, and how many of each group judge."""
    return {"trained": len(bench.stars), **{group: len(bench.rows(group)) for group in GROUPS}}
