"""Wide binaries of an FGK star and an M dwarf: our [M/H] against that of the primary (paper section 5.4)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from stargap.catalogue.stars import star_numbers
from stargap.paper import BINARIES, BinaryNumbers
from stargap.statistics import Compared, compare
from stargap.survey.sample import CutCount
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids
from stargap.tables.nulls import whole_ids
from stargap.tables.read import read_table
from stargap.validation.matching import (
    OurStars,
    best_spectra,
    checked_columns,
    column_values,
    usable_rows,
    without_false,
)
from stargap.validation.sheets import Results, Sheet, cuts_sheet, is_simulated, number, statistics_cells

__all__ = ["Binaries", "BinaryAgreement", "BinarySettings", "compare_binaries", "run_binaries"]

_Floats = NDArray[np.float64]
_Arrays = dict[str, NDArray[Any]]

_UNKNOWN = BinaryNumbers(np.nan, np.nan, np.nan, np.nan, None)


class BinarySettings(OurStars):
    """The tables of pairs and of primaries, and the cuts; defaults are El-Badry et al. 2021 and LAMOST's FGK stars.

    Example:
        >>> BinarySettings().largest_chance, BinarySettings().least_separation, BinarySettings().largest_delta_rv
        (0.01, 3.0, 10.0)
    """

    first: str = "source_id1"
    """Gaia DR3 identifiers of one component, a column of the table of pairs (all_columns_catalog.fits of
    https://zenodo.org/record/4435257; its EDR3 identifiers are those of DR3)."""
    second: str = "source_id2"
    """Those of the other component."""
    chance: str = "R_chance_align"
    """Its column of the probability of a chance alignment; none if empty, and no such cut then."""
    largest_chance: Annotated[float, Field(gt=0)] = 0.01
    """The probability must be below (section 5.4)."""
    separation: str = "pairdistance"
    """Its column of the separation; none if empty, and no such cut then."""
    separation_unit: Annotated[float, Field(gt=0)] = 3600.0
    """Arcsec in the unit of that column: 3600 for degrees."""
    least_separation: Annotated[float, Field(ge=0)] = 3.0
    """The separation must be above (arcsec; section 5.4), or one fibre sees light of both."""
    largest_delta_rv: Annotated[float, Field(gt=0)] = 10.0
    """The velocities of the components must differ by less (km/s; section 5.4)."""
    key: str = "gaia_source_id"
    """Gaia DR3 identifiers in the table of primaries (LAMOST's LRS catalogue of A, F, G and K stars, LRS_stellar)."""
    m_h: str = "feh"
    """Its column of [M/H] or [Fe/H] (dex); LAMOST's own is [Fe/H]."""
    rv: str = "rv"
    """Its column of velocities (km/s); none if empty, and no cut in velocity then."""
    prefer: str = "snrg"
    """Its column whose highest value decides between rows of one primary; none if empty."""


class BinaryAgreement(NamedTuple):
    """Pairs above a S/N: how [M/H] agrees, and the 5th and 95th percentiles of our [M/H] and of the differences."""

    snr_above: float
    result: Compared
    m_h: tuple[float, float]
    delta: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Binaries(Results):
    """What `compare_binaries` returns.

    ``cuts``, how many pairs each leaves; ``agreements``, one a cut in S/N. Of the pairs that all cuts leave, each
    ``(pair,)``: ``gaia_source_id`` and ``m_h`` ours, ``primary_id`` and ``primary_m_h``, ``snr`` ours and ``delta_rv``
    (km/s), ours - primary.
    """

    simulated: bool
    cuts: tuple[CutCount, ...]
    agreements: tuple[BinaryAgreement, ...]
    notes: tuple[str, ...]
    gaia_source_id: NDArray[np.int64]
    primary_id: NDArray[np.int64]
    m_h: _Floats
    primary_m_h: _Floats
    snr: _Floats
    delta_rv: _Floats

    @property
    def columns(self) -> _Arrays:
        """The pairs that all cuts leave, ``(pair,)``: both identifiers, S/N, both [M/H], difference of velocities."""
        names = ("gaia_source_id", "primary_id", "snr", "m_h", "primary_m_h", "delta_rv")
        return {name: getattr(self, name) for name in names}

    @property
    def title(self) -> str:
        """What the results are headed with."""
        return f"Wide binaries of FGK stars and M dwarfs{', simulated' if self.simulated else ''}"

    def sheets(self) -> tuple[Sheet, ...]:
        """Return the results as tables of text."""
        cuts = cuts_sheet(f"Cuts{self.mark}", self.cuts)
        header = ("S/N", "pairs", "median", "1.4826 MAD", "clipped std", "paper's bias", "paper's scatter")
        title = f"[M/H] of the M dwarf - [M/H] of the primary, dex{self.mark}"
        differences = Sheet(title, header, tuple(map(_cells, self.agreements)))
        spans = ("S/N", "of the difference", "of our [M/H]", "paper's [M/H]", "pairs", "paper's pairs")
        return cuts, differences, Sheet(f"5 to 95 %, dex{self.mark}", spans, tuple(map(_range_cells, self.agreements)))

    def csv(self) -> str:
        """Return the pairs as CSV: both identifiers, our S/N, both [M/H], and the difference of the velocities."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*self.columns, "simulated"))
        for cells in zip(*(values.tolist() for values in self.columns.values()), strict=True):
            writer.writerow([*("" if cell != cell else cell for cell in cells), self.simulated])
        return file.getvalue()


def compare_binaries(
    ours: Mapping[str, ArrayLike],
    pairs: Mapping[str, ArrayLike],
    primaries: Mapping[str, ArrayLike],
    settings: BinarySettings | None = None,
    *,
    simulated: bool = False,
) -> Binaries:
    """Compare our [M/H] of M dwarfs with that of the FGK stars they are bound to (paper section 5.4).

    A pair counts if one component is ours and the other among the primaries, whichever the pair lists first; a star
    that is ours is no primary. Then come the cuts: the probability of a chance alignment, the separation, and the
    difference of the velocities. What is unknown does not pass. A star in several pairs counts in the first.

    Args:
        ours: columns ``(row,)``: gaia_source_id, S/N, m_h, rv, and in_final_catalogue where there is one.
        pairs: columns ``(pair,)`` as the settings name them.
        primaries: columns ``(row,)`` as the settings name them.
        settings: see `BinarySettings`.
        simulated: whether our stars are.

    Raises:
        UsageError: a column is missing or holds text, or identifiers are floats.

    Example:
        >>> ours = {"gaia_source_id": [1, 2], "snr_r": [30.0, 30.0], "m_h": [0.1, -0.2], "rv": [5.0, 50.0]}
        >>> pairs = {"source_id1": [11, 12], "source_id2": [1, 2], "R_chance_align": [1e-5, 1e-5]}
        >>> pairs |= {"pairdistance": [0.01, 0.01]}
        >>> primaries = {"gaia_source_id": [11, 12], "feh": [0.0, 0.0], "rv": [4.0, 4.0], "snrg": [99.0, 99.0]}
        >>> found = compare_binaries(ours, pairs, primaries)
        >>> [(cut.name, cut.left) for cut in found.cuts]
        [('FGK + M pairs', 2), ('R_chance_align < 0.01', 2), ('separation > 3 arcsec', 2), ('|dRV| < 10 km/s', 1)]
        >>> found.gaia_source_id, found.m_h - found.primary_m_h
        (array([1]), array([0.1]))
    """
    settings = BinarySettings() if settings is None else settings
    names = _needed(settings)
    table, _ = checked_columns(pairs, names["pairs"], "the table of pairs")
    bright, _ = checked_columns(primaries, names["primaries"], "the table of primaries")
    both = [whole_ids(table[name], name) for name in (settings.first, settings.second)]
    mine, _ = checked_columns(ours, names["ours"], "our table")
    notes: list[str] = []
    without_false(bright, {"m_h": settings.m_h, "rv": settings.rv}, "the table of primaries", notes)
    ids = whole_ids(mine["gaia_source_id"], "gaia_source_id")
    usable = usable_rows(mine, settings.rows, notes) & np.isin(ids, np.concatenate(both)) & (ids != INT_NULL)
    m_h, snr = column_values(mine, "m_h"), column_values(mine, settings.snr)
    chosen = best_spectra(np.flatnonzero(usable), star_numbers(ids)[0], [m_h, column_values(mine, "rv")], snr)
    our_ids = ids[chosen]
    first = _first_rows(bright, settings)
    bright_ids = whole_ids(bright[settings.key], settings.key)[first]

    found = []
    for m_dwarf, other in (both, both[::-1]):
        star, row = match_ids(m_dwarf, our_ids), match_ids(other, bright_ids)
        pair = np.flatnonzero((star >= 0) & (row >= 0) & (match_ids(other, our_ids) < 0))
        found.append(np.stack([pair, star[pair], row[pair]]))
    pair, star, row = np.concatenate(found, axis=1)
    rows, row = chosen[star], first[row]
    speed = column_values(mine, "rv")[rows] - column_values(bright, settings.rv)[row]
    cuts, kept = _cut(table, pair, speed, settings)
    kept = kept[np.unique(star[kept], return_index=True)[1]]
    rows, row, speed = rows[kept], row[kept], speed[kept]
    values = m_h[rows], column_values(bright, settings.m_h)[row], snr[rows]
    agreements = tuple(_agreement(*values, above, settings) for above in settings.snr_above)
    notes += [
        "ours - primary; clipped std: stars beyond 3 sigma of the mean are left out until none is; errors are standard "
        f"deviations over {settings.resamples} bootstrap samples of pairs",
        f"[M/H] of the primary is its column {settings.m_h!r}; LAMOST's own is [Fe/H]",
        f"of stars with several spectra the one with the highest {settings.snr} counts; a pair of unknown velocity or "
        "[M/H] does not",
        "the paper's numbers are those of its own catalogue of real stars",
    ]
    return Binaries(
        simulated, cuts, agreements, tuple(notes), ids[rows], whole_ids(bright[settings.key])[row], *values, speed
    )


def run_binaries(
    catalogue: str | Path,
    pairs: str | Path,
    primaries: str | Path,
    settings: BinarySettings | None = None,
    output: str | Path | None = None,
) -> Binaries:
    """Compare the [M/H] of a catalogue with that of FGK primaries; three table files of any format.

    Args:
        catalogue: ours.
        pairs: of wide binaries, such as El-Badry et al. 2021.
        primaries: with metallicities and velocities, such as LAMOST's catalogue of A, F, G and K stars.
        settings: see `BinarySettings`.
        output: a folder for ``binaries.md``, ``.csv`` and ``.json`` alone; None to write nothing.

    Raises:
        UsageError: a file cannot be read, or lacks a column that the settings name.
    """
    settings = BinarySettings() if settings is None else settings
    names = _needed(settings)
    ours = read_table(catalogue, names["ours"], optional=["in_final_catalogue", "in_sample"])
    simulated = is_simulated(catalogue) if settings.simulated is None else settings.simulated
    numbers = dict.fromkeys(filter(None, (settings.chance, settings.separation, settings.m_h, settings.prefer)), "")
    numbers[settings.rv] = "km/s"
    wide = read_table(pairs, names["pairs"], units=numbers)
    bright = read_table(primaries, names["primaries"], units=numbers)
    found = compare_binaries(ours, wide, bright, settings, simulated=simulated)
    if output is not None:
        found.write(output, "binaries", kind="comparison of wide binaries")
    return found


def _needed(settings: BinarySettings) -> dict[str, list[str]]:
    columns = {
        "ours": ["gaia_source_id", "m_h", "rv", settings.snr],
        "pairs": [settings.first, settings.second, settings.chance, settings.separation],
        "primaries": [settings.key, settings.m_h, settings.rv, settings.prefer],
    }
    return {what: [name for name in dict.fromkeys(names) if name] for what, names in columns.items()}


def _first_rows(bright: _Arrays, settings: BinarySettings) -> NDArray[np.int64]:
    """Return one row of each primary that has a metallicity."""
    known = np.flatnonzero(np.isfinite(column_values(bright, settings.m_h)))
    rank = np.nan_to_num(column_values(bright, settings.prefer)[known], nan=-np.inf)
    known = known[np.argsort(-rank, kind="stable")]
    ids = whole_ids(bright[settings.key], settings.key)[known]
    return known[np.unique(ids, return_index=True)[1]]


def _cut(
    table: _Arrays, pair: NDArray[np.int64], speed: _Floats, settings: BinarySettings
) -> tuple[tuple[CutCount, ...], NDArray[np.int64]]:
    """Return the counts of the cuts, and which pairs they leave."""
    chance = column_values(table, settings.chance)[pair]
    separation = column_values(table, settings.separation)[pair] * settings.separation_unit
    steps = [
        (f"R_chance_align < {settings.largest_chance:g}", chance, chance < settings.largest_chance, settings.chance),
        (
            f"separation > {settings.least_separation:g} arcsec",
            separation,
            separation > settings.least_separation,
            settings.separation,
        ),
        (f"|dRV| < {settings.largest_delta_rv:g} km/s", speed, np.abs(speed) < settings.largest_delta_rv, settings.rv),
    ]
    counts = [CutCount("FGK + M pairs", len(pair), 0, 0, len(pair), None)]
    kept = np.arange(len(pair))
    for name, values, passed, column in steps:
        if column:
            unknown, left = int(np.isnan(values[kept]).sum()), kept[passed[kept]]
            paper = BINARIES[5.0].pairs if column == settings.rv and len(counts) == len(steps) else None
            counts.append(CutCount(name, len(kept), len(kept) - len(left) - unknown, unknown, len(left), paper))
            kept = left
    return tuple(counts), kept


def _agreement(m_h: _Floats, primary: _Floats, snr: _Floats, above: float, settings: BinarySettings) -> BinaryAgreement:
    rows = (snr > above) & np.isfinite(m_h)
    result = compare(m_h[rows], primary[rows], resamples=settings.resamples, seed=settings.seed)
    return BinaryAgreement(above, result, _ends(m_h[rows]), _ends(m_h[rows] - primary[rows]))


def _ends(values: _Floats) -> tuple[float, float]:
    """Return the 5th and the 95th percentile, NaN of nothing."""
    low, high = np.percentile(values, [5, 95]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def _cells(one: BinaryAgreement) -> tuple[str, ...]:
    theirs = BINARIES.get(one.snr_above, _UNKNOWN)
    printed = number(theirs.bias, digits=2, sign=True), number(theirs.scatter, digits=2)
    return (f"> {one.snr_above:g}", *statistics_cells(one.result, 3), *printed)


def _range_cells(one: BinaryAgreement) -> tuple[str, ...]:
    *_, low, high, pairs = BINARIES.get(one.snr_above, _UNKNOWN)
    spans = _span(one.delta), _span(one.m_h), _span((low, high))
    return (f"> {one.snr_above:g}", *spans, f"{one.result.n:,}", _count(pairs))


def _span(ends: tuple[float, float]) -> str:
    return "-" if np.isnan(ends).any() else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _count(number_of: int | None) -> str:
    return "-" if number_of is None else f"{number_of:,}"
