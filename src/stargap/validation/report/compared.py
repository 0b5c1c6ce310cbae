"""A run's stars in tables of others, for the report: tables of how they agree, and the paper's figures 14 to 17."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.validation.compare import Comparison, compare_tables, read_matched
from stargap.validation.matching import CompareSettings, Matched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Compared", "compare_all", "compared_figure", "kind_of"]

LABELS, PLACE = ("teff", "logg", "m_h"), ("bp_rp", "m_g")
METHODS = ("the paper's catalogue", "LASPM", "SLAM", "ULySS")
"""Names of tables that are of other methods on the same spectra (section 5.3)."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Compared:
    """A table of others: its name, the stars in common, and how they agree."""

    name: str
    matched: Matched
    comparison: Comparison


def compare_all(
    catalogue: Path, tables: Sequence[tuple[str | Path, CompareSettings]], *, simulated: bool
) -> tuple[Compared, ...]:
    """Compare the catalogue of spectra with each table.

    Raises:
        UsageError: a table cannot be read, or lacks a column that its settings name.
    """
    found = []
    for table, settings in tables:
        matched = read_matched(catalogue, table, settings)
        found.append(Compared(settings.name, matched, compare_tables(matched, settings, simulated=simulated)))
    return tuple(found)


def kind_of(name: str) -> str:
    """Return which figure a table is for: literature (14), apogee (15) or methods (16 and 17).

    Example:
        >>> [kind_of(name) for name in ("Mann 2015", "APOGEE DR17", "SLAM", "simulated LASPM")]
        ['literature', 'apogee', 'methods', 'methods']
    """
    if name.removeprefix("simulated ") in METHODS:
        return "methods"
    return "apogee" if "APOGEE" in name else "literature"


def compared_figure(number: int, tables: Sequence[Compared], spectra: Columns, *, title: str) -> tuple[Figure, Columns]:
    """Draw one of the figures 14 to 17, and return it with the data behind it.

    Args:
        number: of the figure.
        tables: one or more, all of its kind.
        spectra: columns of the catalogue ``(row,)``.
        title: above the figure.
    """
    from stargap.figures.comparison import apogee_figure, differences_figure, literature_figure
    from stargap.figures.diagrams import methods_figure

    ours, theirs, rows = _side_by_side(tables)
    names, numbers = np.array([one.name for one in tables], dtype=object), [len(one.matched.rows) for one in tables]
    columns: Columns = {"source": np.repeat(names, numbers), "gaia_source_id": spectra["gaia_source_id"][rows]}
    columns |= {name: spectra[name][rows] for name in ("obsid", "snr_r", "bp_rp", "m_g")}
    columns |= ours | {f"their_{name}": values for name, values in theirs.items()}
    if number == 14:
        return literature_figure(ours, theirs, columns["source"], columns["snr_r"], title=title), columns
    if number == 15:
        return apogee_figure(ours, theirs, title=title), columns
    if number == 17:
        rows = np.unique(rows)
        others = {one.name: _over(one, rows) for one in tables}
        return differences_figure({name: spectra[name][rows] for name in LABELS}, others, title=title), columns
    final = np.asarray(spectra["in_final_catalogue"], dtype=bool)
    panels = {"ours": {name: spectra[name][final] for name in (*LABELS, *PLACE)}}
    panels |= {one.name: _labels(one) | {name: spectra[name][one.matched.rows] for name in PLACE} for one in tables}
    return methods_figure(panels, title=title), columns


def _side_by_side(tables: Sequence[Compared]) -> tuple[Columns, Columns, NDArray[np.int64]]:
    """Return our labels and theirs of all tables, one after the other, NaN where one has none, and our rows."""
    ours, theirs = (
        {name: np.concatenate([_label(one, side, name) for one in tables]) for name in LABELS}
        for side in ("labels", "reference")
    )
    return ours, theirs, np.concatenate([one.matched.rows for one in tables])


def _label(one: Compared, side: str, name: str) -> NDArray[np.float64]:
    values = getattr(one.matched, side).get(name)
    return np.full(len(one.matched.rows), np.nan) if values is None else np.asarray(values, dtype=float)


def _labels(one: Compared) -> Columns:
    """Return their labels; those that they lack are missing."""
    return {name: _label(one, "reference", name) for name in LABELS if name in one.matched.reference}


def _over(one: Compared, rows: NDArray[np.int64]) -> Columns:
    """Return their labels of some rows of the catalogue, theirs among them, in its order; NaN where they have none."""
    found: Columns = {}
    place = np.searchsorted(rows, one.matched.rows)
    for name, values in _labels(one).items():
        found[name] = np.full(len(rows), np.nan)
        found[name][place] = values
    return found
