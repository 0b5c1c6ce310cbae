"""The paper's numbers beside those of a demonstration: in the paper's own ways, and against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.catalogue.precision import Precision
from stargap.flags import Companion, FinalCut
from stargap.mock.tables import compared_tables
from stargap.statistics import Statistics, robust_scatter, statistics
from stargap.survey.cleaning.rules import is_rejected
from stargap.tables.crossmatch import match_ids
from stargap.tables.write import read_columns
from stargap.validation.binaries import run_binaries
from stargap.validation.compare import Agreement, run_compare
from stargap.validation.matching import Quantity
from stargap.validation.report.headlines import PAPER_OFFSETS, PAPER_REPEATS

__all__ = ["BINS", "QUANTITIES", "UNITS", "Headline", "headlines", "joined", "plain_rows"]

Columns = dict[str, NDArray[Any]]

QUANTITIES: tuple[Quantity, ...] = ("rv", "teff", "logg", "m_h")
UNITS = {"rv": "RV (km/s)", "teff": "Teff (K)", "logg": "log g (dex)", "m_h": "[M/H] (dex)"}
DIGITS = {"rv": 1, "teff": 0, "logg": 2, "m_h": 2}
PAPER_BRIGHT = {"teff": 47.0, "logg": 0.12, "m_h": 0.14}
"""Its scatter against literature above S/N 50."""
PAPER_BINARIES = ((0.04, 0.24), (0.02, 0.21), (-0.04, 0.15))
"""Bias and scatter of [M/H] in wide binaries above S/N 5, 20 and 50 (section 5.4)."""
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 1e9))
"""Bins of S/N in r."""


@dataclass(frozen=True)
class Headline:
    """One number of the paper, what this run finds in the same way, and how this run compares with the truth.

    Offsets from others are median ± standard deviation after a 3-sigma clip, as the paper's; those from the truth are
    median ± 1.4826 MAD, and pulls are over the published error and the systematic one together.
    """

    quantity: str
    paper: str
    run: str
    truth: str


def headlines(folder: str | Path) -> list[Headline]:
    """Return the paper's numbers beside those of a demo, by repeats and against the truth.

    Args:
        folder: that of a finished demo.
    """
    columns, truth = joined(Path(folder))
    precision = Precision.model_validate_json((Path(folder) / "run/catalogue/precision.json").read_bytes())
    rejected, junk = is_rejected(columns["clean_flags"]), truth["kind"] != "dwarf"
    inside = columns["in_sample"]
    final = int(columns["in_final_catalogue"].sum())
    rows = [
        Headline("spectra", "818,686", f"{len(inside):,}", ""),
        Headline("in the sample", "", f"{int(inside.sum()):,}", f"{int((inside & junk).sum())} of them junk"),
        Headline(
            "rejected by cleaning",
            "by eye",
            f"{int((rejected & inside).sum()):,}",
            f"{_share(rejected[inside & junk])} of junk, {_share(rejected[inside & ~junk])} of stars",
        ),
        Headline("in the catalogue", "507,513", f"{final:,}", ""),
    ]
    rows += _marks(columns, truth)
    plain = plain_rows(columns, truth)
    catalogue = Path(folder) / "run/catalogue/spectra.parquet"
    others = [run_compare(catalogue, *one).agreements for one in compared_tables(folder)[:2]]
    literature, apogee = ({(one.quantity, one.snr_above): one for one in found} for found in others)
    for name in QUANTITIES:
        digits, model = DIGITS[name], precision.errors[name]
        median, scatter = PAPER_OFFSETS[name]
        told = f"{median:+.{digits}f} ± {scatter:.{digits}f}"
        if name == "rv":
            kept = columns["in_final_catalogue"]
            ours = _told(columns["rv"][kept], columns["gaia_rv"][kept], digits)
        else:
            ours = _agreement(literature[name, None], digits)
        rows.append(Headline(UNITS[name], told, ours, _offset(columns, truth, name, plain)))
        if name in PAPER_BRIGHT:
            bright = literature[name, 50.0]
            told = f"± {PAPER_BRIGHT[name]:.{digits}f}"
            rows.append(Headline("  literature, S/N>50", told, _agreement(bright, digits), _stars(bright)))
            other = apogee[name, None]
            told = f"{other.paper_bias:+.{digits}f} ± {other.paper_scatter:.{digits}f}"
            rows.append(Headline("  APOGEE", told, _agreement(other, digits), _stars(other)))
        for low, high in BINS:
            some = plain & (truth["snr_r"] >= low) & (truth["snr_r"] < high)
            title = f"  S/N {low:.0f}-{high:.0f}" if high < 1e9 else f"  S/N above {low:.0f}"
            rows.append(Headline(title, "", "", _offset(columns, truth, name, some)))
        for snr, paper in zip((10.0, 100.0), PAPER_REPEATS[name], strict=True):
            found = float(model.repeat_error(snr))
            told = f"{found:.{digits}f}" if np.isfinite(found) else "too few"
            rows.append(Headline(f"  repeats at S/N {snr:.0f}", f"{paper:.{digits}f}", told, ""))
    return [*rows, *_binaries(Path(folder), catalogue)]


def _marks(columns: Columns, truth: Columns) -> Iterator[Headline]:
    """Yield how many spectra of the catalogue are marked; ``found``, the share of the measured spectra of true ones
    that is, and ``pure``, the share of true ones among the marked.
    """
    measured = np.isfinite(columns["teff"]) & (truth["kind"] == "dwarf")
    final = columns["in_final_catalogue"]
    aged = columns["cuts"] & int(FinalCut.AGE_UNKNOWN) == 0
    young = columns["cuts"] & int(FinalCut.YOUNG) != 0
    variable, binary = (columns["vb_flag"] & int(bit) != 0 for bit in (Companion.VARIABLE, Companion.BINARY))
    flags = [
        ("active", "33,623", columns["activity"] == 1, columns["activity"] >= 0, final),
        ("variable candidates", "24,276", variable, columns["vb_flag"] >= 0, final),
        ("binary candidates", "", binary, columns["vb_flag"] >= 0, final),
        ("removed as young", "", young, aged, np.ones_like(final)),
    ]
    for (title, paper, marked, judged, counted), name in zip(
        flags, ("active", "variable", "binary", "young"), strict=True
    ):
        true, some = truth[name].astype(bool), measured & judged
        told = f"{_share(marked[some & true])} found, {_share(true[some & marked])} pure"
        yield Headline(title, paper, f"{int((marked & counted).sum()):,}", told if some.any() else "none judged")


def _binaries(folder: Path, catalogue: Path) -> Iterator[Headline]:
    """Yield how [M/H] agrees with that of the FGK stars in wide pairs."""
    found = run_binaries(catalogue, folder / "wide_binaries.csv", folder / "fgk_primaries.csv")
    for one, (bias, scatter) in zip(found.agreements, PAPER_BINARIES, strict=True):
        title = "[M/H] − primary's" if one is found.agreements[0] else f"  S/N above {one.snr_above:.0f}"
        ours = _statistics(one.result.values, one.result.n, 2)
        yield Headline(title, f"{bias:+.2f} ± {scatter:.2f}", ours, f"{one.result.n:,} pairs")


def _agreement(one: Agreement, digits: int) -> str:
    return _statistics(one.result.values, one.result.n, digits)


def _stars(one: Agreement) -> str:
    return f"{one.result.n:,} stars in common"


def _told(ours: ArrayLike, reference: ArrayLike, digits: int) -> str:
    first, second = np.asarray(ours, dtype=float), np.asarray(reference, dtype=float)
    both = np.isfinite(first) & np.isfinite(second)
    return _statistics(statistics(first[both], second[both]), int(both.sum()), digits)


def _statistics(values: Statistics, count: int, digits: int) -> str:
    if count < 3:
        return "too few"
    return f"{values.median:+.{digits}f} ± {values.clipped:.{digits}f}"


def joined(folder: Path) -> tuple[Columns, Columns]:
    """Return the columns of a demo's catalogue of spectra, and the truth of the same rows."""
    columns = read_columns(folder / "run/catalogue/spectra.parquet")
    columns["in_sample"] = read_columns(folder / "run/measured.parquet", ["in_sample"])["in_sample"]
    truth = read_columns(folder / "truth.parquet")
    rows = match_ids(columns["obsid"], truth["obsid"])
    return columns, {name: values[rows] for name, values in truth.items()}


def plain_rows(columns: Columns, truth: Columns) -> NDArray[np.bool_]:
    """Return which spectra are of inactive M dwarfs in the sample with labels: active ones have none to trust."""
    dwarf = (truth["kind"] == "dwarf") & ~truth["active"].astype(bool)
    return np.asarray(
        dwarf & np.isfinite(columns["teff"]) & columns["in_sample"] & ~is_rejected(columns["clean_flags"])
    )


def _offset(columns: Columns, truth: Columns, name: str, rows: NDArray[np.bool_]) -> str:
    off = (columns[name] - truth[name])[rows].astype(float)
    if off.size < 2:
        return "too few"
    error = np.hypot(columns[f"e_{name}"], np.nan_to_num(columns.get(f"e_{name}_sys", 0.0)))
    pull = off / error[rows]
    digits = DIGITS[name]
    return f"{np.median(off):+.{digits}f} ± {robust_scatter(off):.{digits}f}, pulls {robust_scatter(pull):.2f}"


def _share(rows: NDArray[np.bool_]) -> str:
    return f"{np.mean(rows):.1%}" if rows.size else "none"
