"""Gaia's columns joined to spectra: by source identifier, else by position with proper motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.tables.columns import CATALOGUE, INT_NULL, Column
from stargap.tables.crossmatch import julian_epoch, match_ids, match_sky, separations
from stargap.tables.nulls import equal_columns, known_values, numbers, whole_ids
from stargap.tables.read import read_table

__all__ = ["EXTINCTION_COLUMNS", "GAIA_COLUMNS", "GAIA_SCHEMA", "QUALITY", "GaiaJoin", "join_gaia", "known_sources",
           "read_gaia"]  # fmt: skip

_Arrays = dict[str, NDArray[Any]]

GAIA_COLUMNS = {
    "parallax": "parallax",
    "e_parallax": "parallax_error",
    "ruwe": "ruwe",
    "g_mag": "phot_g_mean_mag",
    "bp_mag": "phot_bp_mean_mag",
    "rp_mag": "phot_rp_mean_mag",
    "bp_rp": "bp_rp",
    "ks_mag": "ks_m",
    "e_ks_mag": "ks_msigcom",
    "pmra": "pmra",
    "e_pmra": "pmra_error",
    "pmdec": "pmdec",
    "e_pmdec": "pmdec_error",
    "gaia_rv": "radial_velocity",
    "e_gaia_rv": "radial_velocity_error",
}
"""Columns joined to each spectrum, and their names in Gaia's and 2MASS's tables (mas, mag, mas/yr, km/s)."""
EXTINCTION_COLUMNS = ("a_v", "e_a_v", "ebv", "e_ebv")
"""Extinction of each source (mag), which whoever has it can add to Gaia's table; joined where it is there."""
QUALITY = "ph_qual"
"""Quality of 2MASS's J, H and Ks; of a quality other than A, B or C, Ks is unknown."""

_BY_NAME = {column.name: column for column in CATALOGUE}
GAIA_SCHEMA: tuple[Column, ...] = (
    Column("source_id", "int64", "", "meta.id;meta.main", "Gaia DR3 source identifier"),
    Column("ra", "float64", "deg", "pos.eq.ra;meta.main", "Right ascension at ref_epoch"),
    Column("dec", "float64", "deg", "pos.eq.dec;meta.main", "Declination at ref_epoch", (-90, 90)),
    Column("ref_epoch", "float64", "yr", "meta.ref;time.epoch", "Epoch of the position"),
    *(replace(_BY_NAME[name], name=theirs, dtype="float64", paper_name="") for name, theirs in GAIA_COLUMNS.items()),
    Column(QUALITY, "str", "", "meta.code.qual;phot", "2MASS quality of J, H and Ks"),
)
"""The columns of Gaia's and 2MASS's tables in use, by their names there, with the catalogue's units and ranges."""
_NUMBERS = (*GAIA_SCHEMA[1:-1], *(Column(name, "float64", "mag") for name in EXTINCTION_COLUMNS))

_DISPENSABLE = ("bp_rp", "ks_m", "ks_msigcom", "pmra_error", "pmdec_error", "radial_velocity", "radial_velocity_error")
"""What the sample does without."""


@dataclass(frozen=True, eq=False)
class GaiaJoin:
    """What `join_gaia` returns; one row per spectrum.

    ``columns``: gaia_source_id (int64, -9999 without a source), gaia_separation (arcsec) and those of `GAIA_COLUMNS`,
    float64, NaN where unknown, with `EXTINCTION_COLUMNS` where the table has them. ``by_position``, whether it was
    joined so; ``ambiguous``, whether several sources were within the radius then. ``false_values``: how many values of
    the joined sources cannot be true, such as -999, and count as unknown. ``notes``: sentences on the join.
    """

    columns: _Arrays
    by_position: NDArray[np.bool_]
    ambiguous: NDArray[np.bool_]
    notes: tuple[str, ...]
    false_values: int = 0


def read_gaia(path: str | Path) -> _Arrays:
    """Return the columns of a Gaia DR3 table that `join_gaia` uses, in the units of `GAIA_SCHEMA`.

    Raises:
        UsageError: the table cannot be read, has no source_id, ra or dec, or holds words where numbers belong.
    """
    needed = ["source_id", "ra", "dec"]
    units = {column.name: column.unit for column in _NUMBERS}
    return read_table(path, needed, optional=[*(name for name in units if name not in needed), QUALITY], units=units)


def join_gaia(
    index: Mapping[str, ArrayLike],
    gaia: Mapping[str, ArrayLike] | None,
    *,
    radius_arcsec: float,
    earliest: float,
) -> GaiaJoin:
    """Join spectra with Gaia by gaia_source_id where the table has it, else by position.

    By position the nearest source within the radius is taken, each moved to where it came closest between `earliest`
    and the observation (`crossmatch.match_sky`). Where a source repeats in the table, its first row counts. BP - RP is
    the difference of the magnitudes where the table does not give it.

    Args:
        index: columns ``(row,)``: spectrum_id, and where there are any gaia_source_id, ra and dec (deg), lmjd (d).
        gaia: columns ``(source,)``: source_id, ra, dec (deg), and where there are any the values of `GAIA_COLUMNS` and
            ref_epoch (Julian year); None if there is no table.
        radius_arcsec: largest separation of a join by position.
        earliest: Julian year that the positions of the index can be of.

    Raises:
        UsageError: spectrum_id, source_id, ra or dec is missing, lengths differ, or ids are floats.

    Example:
        >>> index = {"spectrum_id": [0, 1], "gaia_source_id": [77, -9999], "ra": [5.0, 6.0], "dec": [5.0, 6.0]}
        >>> gaia = {"source_id": [77, 78], "ra": [5.0, 6.0], "dec": [5.0, 6.0001], "ruwe": [1.0, 1.1]}
        >>> join = join_gaia(index, gaia, radius_arcsec=3.0, earliest=2000.0)
        >>> join.columns["gaia_source_id"], join.columns["ruwe"], join.by_position
        (array([77, 78]), array([1. , 1.1]), array([False, True]))
        >>> join.notes[0]
        '2 of 2 spectra have a Gaia source: 1 by identifier, 1 by position, 0 of these ambiguous'
    """
    spectra = equal_columns(index, "spectrum_id")
    size = len(spectra["spectrum_id"])
    columns: _Arrays = {"gaia_source_id": np.full(size, INT_NULL, dtype=np.int64)}
    columns |= {name: np.full(size, np.nan) for name in ("gaia_separation", *GAIA_COLUMNS)}
    by_position, ambiguous = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    if gaia is None:
        note = "no Gaia table: RUWE, absolute magnitude and colour of every spectrum are unknown"
        return GaiaJoin(columns, by_position, ambiguous, (note,))
    stars, false, notes = known_sources(gaia)

    place = numbers(spectra, "ra", size), numbers(spectra, "dec", size), julian_epoch(numbers(spectra, "lmjd", size))
    rows = np.full(size, -1, dtype=np.int64)
    if "gaia_source_id" in spectra:
        rows = match_ids(whole_ids(spectra["gaia_source_id"], "gaia_source_id"), stars["source_id"])
    columns["gaia_separation"] = separations(*place, stars, rows, earliest=earliest)
    rest = np.flatnonzero(rows < 0)
    ra, dec, epoch = (values[rest] for values in place)
    match = match_sky(ra, dec, epoch, stars, radius_arcsec=radius_arcsec, earliest=earliest)
    rows[rest], columns["gaia_separation"][rest] = match.rows, match.separation
    by_position[rest], ambiguous[rest] = match.rows >= 0, match.ambiguous

    found = rows >= 0
    columns["gaia_source_id"][found] = stars["source_id"][rows[found]]
    given = GAIA_COLUMNS | {name: name for name in EXTINCTION_COLUMNS if name in stars}
    for name, theirs in given.items():
        columns.setdefault(name, np.full(size, np.nan))
        if theirs in stars:
            columns[name][found] = stars[theirs][rows[found]]
    if QUALITY in stars:
        poor = np.zeros(size, dtype=bool)
        poor[found] = _poor_ks(stars[QUALITY])[rows[found]]
        columns["ks_mag"][poor] = columns["e_ks_mag"][poor] = np.nan
    colour = columns["bp_rp"]
    columns["bp_rp"] = np.where(np.isnan(colour), columns["bp_mag"] - columns["rp_mag"], colour)
    have, near, unsure = (int(np.count_nonzero(part)) for part in (found, by_position, ambiguous))
    note = f"{have:,} of {size:,} spectra have a Gaia source: {have - near:,} by identifier, {near:,} by position, "
    notes = [note + f"{unsure:,} of these ambiguous", *notes]
    return GaiaJoin(columns, by_position, ambiguous, tuple(notes), int(false[rows[found]].sum()))


def _poor_ks(quality: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where 2MASS gives Ks a quality other than A, B or C."""
    last = np.array([str(value).strip()[-1:] for value in quality], dtype=str)
    return np.asarray((last != "") & ~np.isin(last, ["A", "B", "C"]))


def known_sources(gaia: Mapping[str, ArrayLike]) -> tuple[_Arrays, NDArray[np.int64], list[str]]:
    """Return one row of each source, how many of its values cannot be true, and sentences on them and on what lacks."""
    stars, notes = equal_columns(gaia, "source_id", units={column.name: column.unit for column in _NUMBERS}), []
    for name in ("ra", "dec"):
        if name not in stars:
            message = f"the Gaia table has no column {name!r}; give source_id, ra and dec"
            raise UsageError(message)
    stars["source_id"] = whole_ids(stars["source_id"], "source_id")
    ids, first = np.unique(stars["source_id"], return_index=True)
    first = np.sort(first[ids != INT_NULL])
    left_out = len(stars["source_id"]) - len(first)
    if left_out:
        stars = {name: values[first] for name, values in stars.items()}
        notes.append(f"{left_out:,} rows of the Gaia table repeat a source or have no source_id, and were left out")
    false = np.zeros(len(stars["source_id"]), dtype=np.int64)
    for column in _NUMBERS:
        if column.name in stars and column.name != "ra":
            given = numbers(stars, column.name, len(false))
            stars[column.name], sentence = known_values(given, column)
            false += np.isfinite(given) & np.isnan(stars[column.name])
            notes += [f"the Gaia table: {sentence}"] if sentence else []
    lacking = [name for name in GAIA_COLUMNS.values() if name not in stars and name not in _DISPENSABLE]
    if lacking:
        notes.append(f"the Gaia table lacks {', '.join(lacking)}: unknown for every spectrum")
    return stars, false, notes
