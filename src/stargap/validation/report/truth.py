"""A survey run against the truth of its simulated stars: offsets by S/N, what flags find, whether errors are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.flags import Companion, FinalCut
from stargap.statistics import robust_scatter, statistics
from stargap.survey.cleaning.rules import is_rejected
from stargap.tables.columns import INT_NULL
from stargap.validation.matching import Quantity
from stargap.validation.report.data import GROUPS, Columns, RunData
from stargap.validation.sheets import Sheet, number

__all__ = ["DIGITS", "QUANTITIES", "errors_of", "known_dwarfs", "percentage", "plain_stars", "truth_sheets"]

QUANTITIES: dict[Quantity, str] = {"rv": "RV (km/s)", "teff": "Teff (K)", "logg": "log g (dex)", "m_h": "[M/H] (dex)"}
DIGITS = {"rv": 1, "teff": 0, "logg": 2, "m_h": 2}
BINS = ((0.0, np.inf), (5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 100.0), (100.0, np.inf))
"""Bins of S/N per pixel in r; the first holds all spectra."""
WITHIN = (1, 2, 3)

Bools = NDArray[np.bool_]


def plain_stars(data: RunData) -> Bools:
    """Return which spectra are of inactive M dwarfs in the final catalogue, ``(row,)``: others' labels are suspect."""
    assert data.truth is not None
    return np.asarray(known_dwarfs(data.truth) & ~data.truth["active"] & data.final)


def errors_of(spectra: Columns, name: str) -> NDArray[np.float64]:
    """Return the published error of a quantity with its systematic one, ``(row,)``."""
    error = np.asarray(spectra[f"e_{name}"], dtype=float)
    systematic = np.asarray(spectra.get(f"e_{name}_sys", np.zeros(len(error))), dtype=float)
    return np.asarray(np.hypot(error, np.nan_to_num(systematic)))


def truth_sheets(data: RunData) -> tuple[Sheet, ...]:
    """Return the tables of a run against the truth that its data hold; every number is of simulated stars."""
    return (_offsets(data), _groups(data), _calibration(data), _junk(data), _stars_kept(data), _flags(data))


def known_dwarfs(truth: Columns) -> Bools:
    """Return which spectra the truth says are of M dwarfs, ``(row,)``."""
    return np.asarray(truth["known"] & (truth["kind"] == "dwarf"))


def _offsets(data: RunData) -> Sheet:
    """Bias and scatter by S/N."""
    truth, plain = data.truth, plain_stars(data)
    assert truth is not None
    rows = []
    for name, title in QUANTITIES.items():
        for low, high in BINS:
            some = plain & (data.spectra["snr_r"] >= low) & (data.spectra["snr_r"] < high)
            rows.append((title, _bin_title(low, high), *_numbers(data, name, some)))
    header = ("quantity", "S/N in r", "spectra", "median", "1.4826 MAD", "clipped std", "scatter of pulls")
    return Sheet("Measured − true by S/N, inactive M dwarfs of the final catalogue (simulated)", header, tuple(rows), 2)


def _groups(data: RunData) -> Sheet:
    """Bias and scatter of kinds of stars whose labels are harder."""
    truth = data.truth
    assert truth is not None
    dwarfs = known_dwarfs(truth) & data.final
    rows = []
    for group in (name for name in GROUPS if name in truth):
        some = dwarfs & truth[group]
        rows += [(group.replace("_", " "), title, *_numbers(data, name, some)) for name, title in QUANTITIES.items()]
    header = ("stars", "quantity", "spectra", "median", "1.4826 MAD", "clipped std", "scatter of pulls")
    return Sheet("Measured − true of kinds of M dwarfs in the final catalogue (simulated)", header, tuple(rows), 2)


def _numbers(data: RunData, name: str, some: Bools) -> tuple[str, ...]:
    assert data.truth is not None
    ours, true = (np.asarray(table[name], dtype=float)[some] for table in (data.spectra, data.truth))
    finite = np.isfinite(ours) & np.isfinite(true)
    found = statistics(ours[finite], true[finite])
    pull = (ours - true)[finite] / errors_of(data.spectra, name)[some][finite]
    digits = DIGITS[name]
    return (
        f"{finite.sum():,}",
        number(found.median, digits=digits, sign=True),
        number(found.scatter, digits=digits),
        number(found.clipped, digits=digits),
        number(robust_scatter(pull[np.isfinite(pull)]), digits=2),
    )


def _calibration(data: RunData) -> Sheet:
    """Fraction of the truth within 1, 2, 3 published errors, of measured values less the bias of all and with it."""
    truth, plain = data.truth, plain_stars(data)
    assert truth is not None
    rows = []
    for name, title in QUANTITIES.items():
        delta = (np.asarray(data.spectra[name], dtype=float) - truth[name])[plain]
        error = errors_of(data.spectra, name)[plain]
        known = np.isfinite(delta) & (error > 0)
        delta, error = delta[known], error[known]
        for text, shift in (("as published", 0.0), ("less their median", np.median(delta) if len(delta) else 0.0)):
            pull = np.abs(delta - shift) / error
            rows.append((title, text, f"{known.sum():,}", *(percentage(pull < width) for width in WITHIN)))
    rows.append(("normal errors", "", "", "68.3 %", "95.4 %", "99.7 %"))
    header = ("quantity", "differences", "spectra", *(f"within {width} σ" for width in WITHIN))
    return Sheet("Calibration of errors: truth within published errors (simulated)", header, tuple(rows), 2)


def _junk(data: RunData) -> Sheet:
    """Where spectra that are of no M dwarf, or spoilt, end."""
    truth = data.truth
    assert truth is not None
    inside = data.spectra["cuts"] & int(FinalCut.NOT_IN_SAMPLE) == 0
    rejected = is_rejected(data.spectra["clean_flags"])
    rows = []
    kinds = np.where(truth["known"], truth["kind"].astype(str), "dwarf")
    junk = kinds != "dwarf"
    for title, some in [*((kind, kinds == kind) for kind in np.unique(kinds[junk])), ("all", junk)]:
        left = some & inside
        cleaned = left & rejected
        counts = (some, some & ~inside, cleaned, left & ~rejected & ~data.final, some & data.final)
        shares = percentage(rejected[left]), percentage(~data.final[some])
        rows.append((title.replace("_", " "), *(f"{part.sum():,}" for part in counts), *shares))
    header = ("kind", "spectra", "outside the sample", "rejected by cleaning", "removed by cuts",
              "left in the catalogue", "cleaning finds", "removed in all")  # fmt: skip
    return Sheet("Junk: where it goes (simulated)", header, tuple(rows))


def _stars_kept(data: RunData) -> Sheet:
    """What cleaning and cuts lose of M dwarfs."""
    truth = data.truth
    assert truth is not None
    dwarfs = known_dwarfs(truth)
    inside = dwarfs & (data.spectra["cuts"] & int(FinalCut.NOT_IN_SAMPLE) == 0)
    rejected = is_rejected(data.spectra["clean_flags"])
    rows = []
    for group in ("all", *(name for name in GROUPS if name in truth)):
        some = inside & (truth[group] if group != "all" else True)
        kept = some & ~rejected
        counts = (
            f"{some.sum():,}",
            percentage(rejected[some]),
            percentage(~data.final[kept]),
            percentage(data.final[some]),
        )
        rows.append((group.replace("_", " "), *counts))
    header = ("M dwarfs", "in the sample", "lost to cleaning", "then lost to cuts", "in the catalogue")
    return Sheet("M dwarfs lost (simulated)", header, tuple(rows))


def _flags(data: RunData) -> Sheet:
    """Completeness and purity of flags, of M dwarfs that were measured."""
    truth, spectra = data.truth, data.spectra
    assert truth is not None
    measured = known_dwarfs(truth) & np.isfinite(np.asarray(spectra["teff"], dtype=float))
    matched = spectra["vb_flag"] != INT_NULL
    flags: list[tuple[str, str, Bools, Bools]] = [
        ("active", "activity", spectra["activity"] == 1, spectra["activity"] != INT_NULL),
        ("active", "activity_3sigma", spectra["activity_3sigma"] == 1, spectra["activity_3sigma"] != INT_NULL),
        ("variable", "vb_flag", spectra["vb_flag"] & int(Companion.VARIABLE) != 0, matched),
        ("binary", "vb_flag", spectra["vb_flag"] & int(Companion.BINARY) != 0, matched),
        ("young", "cuts", spectra["cuts"] & int(FinalCut.YOUNG) != 0,
         spectra["cuts"] & int(FinalCut.AGE_UNKNOWN) == 0),
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, column, marked, judged in flags:
        if name not in truth:
            continue
        true = truth[name]
        for low, high in BINS:
            some = measured & judged & (spectra["snr_r"] >= low) & (spectra["snr_r"] < high)
            cells: Any = (some & true).sum(), (some & ~true).sum()
            shares = percentage(marked[some & true]), percentage(marked[some & ~true]), percentage(true[some & marked])
            rows.append((f"{name}: {column}", _bin_title(low, high), *(f"{cell:,}" for cell in cells), *shares))
    header = ("flag", "S/N in r", "true stars", "other stars", "of true ones marked", "of others marked",
              "of marked ones true")  # fmt: skip
    return Sheet("Completeness of flags, measured M dwarfs (simulated)", header, tuple(rows), 2)


def _bin_title(low: float, high: float) -> str:
    if low == 0:
        return "all"
    return f"{low:g}-{high:g}" if np.isfinite(high) else f"above {low:g}"


def percentage(rows: NDArray[np.bool_]) -> str:
    """Return the percentage of True as text; a dash where there is no row."""
    return f"{100 * np.mean(rows):.1f} %" if rows.size else "-"
