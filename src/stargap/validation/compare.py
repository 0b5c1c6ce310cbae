"""Our catalogue against any other table: bias, scatter, outliers and trends of RV, Teff, log g and [M/H]."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.panels import TITLES
from stargap.statistics import Compared, Trend, compare, trend
from stargap.tables.read import read_table
from stargap.validation.matching import (
    NAMES,
    UNITS,
    CompareSettings,
    Matched,
    Quantity,
    match_stars,
    our_columns,
    their_columns,
    their_units,
)
from stargap.validation.sheets import Results, Sheet, is_simulated, number, statistics_cells

if TYPE_CHECKING:
    pass

__all__ = ["Agreement", "Comparison", "LabelTrend", "compare_tables", "read_matched", "run_compare"]

_DIGITS: dict[Quantity, int] = {"rv": 1, "teff": 0, "logg": 3, "m_h": 3}
_LABELS: dict[Quantity, tuple[str, float]] = {"teff": ("1000 K", 1000.0), "logg": ("dex", 1.0), "m_h": ("dex", 1.0)}


@dataclass(frozen=True)
class Agreement:
    """How one quantity agrees, for stars above a S/N (None: all); the paper's bias and scatter, NaN if it has none."""

    quantity: Quantity
    snr_above: float | None
    result: Compared
    paper_bias: float = np.nan
    paper_scatter: float = np.nan


@dataclass(frozen=True)
class LabelTrend:
    """How the difference of one quantity depends on a label, of the ``reference`` or, where it has none, of ``ours``.

    The slope is in the quantity's unit per 1000 K of Teff, or per dex of log g or [M/H].
    """

    quantity: Quantity
    label: Quantity
    of: str
    trend: Trend


@dataclass(frozen=True)
class Comparison(Results):
    """What a comparison found: ``agreements`` and ``trends`` of each quantity, ``notes`` on the join.

    ``simulated`` says that our stars are: then every table says so too.
    """

    name: str
    simulated: bool
    agreements: tuple[Agreement, ...]
    trends: tuple[LabelTrend, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the results are headed with."""
        return f"Comparison with {self.name}{', simulated stars' if self.simulated else ''}"

    def sheets(self) -> tuple[Sheet, ...]:
        """Return the results as tables of text."""
        header: tuple[str, ...] = ("quantity", "S/N", "stars", "median", "1.4826 MAD", "clipped std", "outliers")
        paper = any(np.isfinite([one.paper_bias, one.paper_scatter]).any() for one in self.agreements)
        if paper:
            header = (*header, "paper's bias", "paper's scatter")
        agreements = Sheet(
            f"Ours - reference{self.mark}", header, tuple(_cells(one, paper) for one in self.agreements), 2
        )
        header = ("ours - reference of", "with", "of", "stars", "slope", "per")
        return agreements, Sheet(f"Trends{self.mark}", header, tuple(map(_trend_cells, self.trends)), 3)

    def csv(self) -> str:
        """Return it as CSV, one number a line with its error; ``snr_above`` is empty for all stars."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quantity", "snr_above", "statistic", "value", "error", "unit", "stars", "simulated"))
        for row in _lines(self):
            writer.writerow([*("" if cell is None or cell != cell else cell for cell in row), self.simulated])
        return file.getvalue()


def compare_tables(matched: Matched, settings: CompareSettings, *, simulated: bool = False) -> Comparison:
    """Compare stars that `match_stars` found in both tables (paper section 5); delta = ours - reference.

    For each quantity, for all stars and above each S/N: the number of stars, median, 1.4826 MAD, standard deviation
    after a 3-sigma clip (METHOD.md 11), and the fraction that this leaves out. Trends with Teff, log g and [M/H] are
    those of all stars. Errors are standard deviations over bootstrap samples of stars.

    Args:
        matched: from `match_stars`.
        settings: the same.
        simulated: whether our stars are.

    Example:
        >>> ours = {"gaia_source_id": [7, 8, 9], "snr_r": [10.0, 30.0, 60.0], "m_h": [0.1, 0.0, -0.5]}
        >>> settings = CompareSettings(columns={"m_h": "MH"}, key="Source", snr_above=[20.0], resamples=0)
        >>> matched = match_stars(ours, {"Source": [7, 8, 9], "MH": [0.0, -0.2, -0.5]}, settings)
        >>> found = compare_tables(matched, settings, simulated=True)
        >>> print(found.sheets()[0].markdown())
        ## Ours - reference (simulated)
        <BLANKLINE>
        | quantity | S/N | stars | median | 1.4826 MAD | clipped std | outliers |
        |---|---|---:|---:|---:|---:|---:|
        | [M/H] (dex) | all | 3 | +0.100 | 0.148 | 0.100 | 0.0 % |
        | [M/H] (dex) | > 20 | 2 | +0.100 | 0.148 | 0.141 | 0.0 % |
    """
    agreements, trends = [], []
    for name, mine in matched.ours.items():
        reference = matched.reference[name]
        for above in (None, *settings.snr_above):
            rows = np.ones(len(mine), dtype=bool) if above is None else matched.snr > above
            result = compare(mine[rows], reference[rows], resamples=settings.resamples, seed=settings.seed)
            paper = [numbers.get(name, np.nan) for numbers in (settings.paper_bias, settings.paper_scatter)]
            agreements.append(Agreement(name, above, result, *(paper if above is None else ())))
        for label, (_, size) in _LABELS.items():
            theirs = matched.reference.get(label)
            of = "ours" if theirs is None else "reference"
            values = (matched.labels[label] if theirs is None else theirs) / size
            found = trend(values, mine - reference, resamples=settings.resamples, seed=settings.seed)
            trends.append(LabelTrend(name, label, of, found))
    notes = (*matched.notes, *_explained(settings))
    return Comparison(settings.name, simulated, tuple(agreements), tuple(trends), notes)


def read_matched(catalogue: str | Path, table: str | Path, settings: CompareSettings) -> Matched:
    """Return the stars that two table files have in common, as `match_stars` does.

    Raises:
        UsageError: a file cannot be read, or lacks a column that the settings name.
    """
    needed, optional = our_columns(settings)
    ours: Mapping[str, ArrayLike] = read_table(catalogue, needed, optional=optional)
    return match_stars(ours, read_table(table, their_columns(settings), units=their_units(settings)), settings)


def run_compare(
    catalogue: str | Path, table: str | Path, settings: CompareSettings, output: str | Path | None = None
) -> Comparison:
    """Compare a catalogue of ours with any table: FITS, CSV, Parquet or VOTable.

    Args:
        catalogue: a table of a catalogue, of a run, or of ``stargap measure``.
        table: the other one.
        settings: see `CompareSettings`; ready ones are in `stargap.validation.references`.
        output: a folder for ``comparison.md``, ``.csv`` and ``.json`` alone; None to write nothing.

    Raises:
        UsageError: a file cannot be read, or lacks a column that the settings name.
    """
    matched = read_matched(catalogue, table, settings)
    simulated = is_simulated(catalogue) if settings.simulated is None else settings.simulated
    found = compare_tables(matched, settings, simulated=simulated)
    if output is not None:
        found.write(output, "comparison", kind="comparison")
    return found


def _explained(settings: CompareSettings) -> list[str]:
    """Return what the numbers mean, and what is known of the table."""
    notes = [
        "median, 1.4826 MAD, clipped standard deviation (stars beyond 3 sigma of the mean are left out until none is; "
        "outliers are these) of ours - reference; a quantity that is null on either side is not counted",
        f"errors are standard deviations over {settings.resamples} bootstrap samples of stars",
        "trends are slopes of a clipped least-squares line: noise of a label on both axes tilts them, down with the "
        "reference's and up with ours",
    ]
    for name, least in settings.least_teff.items():
        notes.append(f"{NAMES[name]} is compared where the Teff of {settings.name} is at least {least:g} K")
    if settings.paper_bias or settings.paper_scatter:
        notes.append("the paper's numbers are those of its own catalogue of real stars")
    source = f"source of {settings.name}: {settings.citation}" if settings.citation else ""
    return [*notes, *(text for text in (settings.note, source) if text)]


def _cells(one: Agreement, paper: bool) -> tuple[str, ...]:
    digits, outliers = _DIGITS[one.quantity], one.result.values.outliers
    cells = (
        TITLES[one.quantity],
        "all" if one.snr_above is None else f"> {one.snr_above:g}",
        *statistics_cells(one.result, digits),
        "-" if np.isnan(outliers) else f"{100 * outliers:.1f} %",
    )
    if not paper:
        return cells
    digits = min(digits, 2)
    return (*cells, number(one.paper_bias, digits=digits, sign=True), number(one.paper_scatter, digits=digits))


def _trend_cells(one: LabelTrend) -> tuple[str, ...]:
    slope = number(one.trend.slope, one.trend.error, digits=max(1, _DIGITS[one.quantity]), sign=True)
    return TITLES[one.quantity], NAMES[one.label], one.of, f"{one.trend.n:,}", slope, _LABELS[one.label][0]


def _lines(comparison: Comparison) -> Iterator[tuple[str | float | None, ...]]:
    for one in comparison.agreements:
        unit = UNITS[one.quantity]
        for name in ("median", "scatter", "clipped", "outliers", "slope", "rank"):
            value, error = getattr(one.result.values, name), getattr(one.result.errors, name)
            dimension = unit if name in ("median", "scatter", "clipped") else ""
            yield one.quantity, one.snr_above, name, value, error, dimension, one.result.n
    for trended in comparison.trends:
        per = _LABELS[trended.label][0]
        found = trended.trend
        name = f"trend with {trended.label} of {trended.of}"
        yield trended.quantity, None, name, found.slope, found.error, f"{UNITS[trended.quantity]} per {per}", found.n
