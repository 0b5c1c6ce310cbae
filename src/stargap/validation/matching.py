"""Stars that our catalogue and another table have in common, one row per star."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from stargap.catalogue.stars import star_numbers
from stargap.errors import UsageError
from stargap.settings import Settings
from stargap.tables.columns import CATALOGUE, INT_NULL
from stargap.tables.crossmatch import match_ids, match_sky
from stargap.tables.nulls import known_values, numbers, plain_column, whole_ids

__all__ = ["NAMES", "QUANTITIES", "UNITS", "CompareSettings", "Matched", "OurStars", "Quantity", "best_spectra",
           "checked_columns", "column_values", "match_stars", "our_columns", "their_columns",
           "their_units", "usable_rows", "without_false"]  # fmt: skip

Rows = Literal["final", "all"]
Quantity = Literal["rv", "teff", "logg", "m_h"]
QUANTITIES: tuple[Quantity, ...] = ("rv", "teff", "logg", "m_h")
NAMES: dict[Quantity, str] = {"rv": "RV", "teff": "Teff", "logg": "log g", "m_h": "[M/H]"}
UNITS: dict[Quantity, str] = {"rv": "km/s", "teff": "K", "logg": "dex", "m_h": "dex"}

_Columns = dict[str, NDArray[Any]]
_SCHEMA = {column.name: column for column in CATALOGUE}
_Floats = NDArray[np.float64]
_Rows = NDArray[np.int64]


class OurStars(Settings):
    """Which of our stars are compared, and how errors are found: what all comparisons have in common."""

    rows: Rows = "final"
    """Our rows: those in the final catalogue, or the sample where there is no catalogue yet; or all."""
    snr: Literal["snr_r", "snr_i"] = "snr_r"
    """Our S/N, by which spectra of one star are ranked and the cuts are made."""
    snr_above: tuple[float, ...] = (5.0, 20.0, 50.0)
    """Cuts in S/N, each with numbers of its own (sections 5.1 and 5.4)."""
    resamples: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Bootstrap samples that errors come from."""
    seed: int = 0
    """Of the bootstrap."""
    simulated: bool | None = None
    """Whether our stars are simulated; by what the files say of themselves if None."""


class CompareSettings(OurStars):
    """What a table to compare with is, how its columns are named, and how it is compared.

    Example:
        >>> CompareSettings(columns={"teff": "Teff"}, key="Source").our_key
        'gaia_source_id'
    """

    name: str = "reference"
    """What the table is called in the results."""
    citation: str = ""
    """Who published it."""
    where: str = ""
    """Where the file is to be had."""
    note: str = ""
    """What a reader of the comparison should know, such as offsets of its labels; nothing is corrected for them."""
    columns: Annotated[dict[Quantity, str], Field(min_length=1)]
    """Its columns of rv (km/s), teff (K), logg and m_h (dex)."""
    key: str = ""
    """Its column of identifiers; none if empty."""
    our_key: Literal["gaia_source_id", "obsid", "spectrum_id"] = "gaia_source_id"
    """Our column of the same identifiers."""
    radius_arcsec: Annotated[float, Field(gt=0, le=3600)] | None = None
    """Largest separation of a match by position, for stars that no identifier found (arcsec); None for none."""
    ra: str = "ra"
    """Its column of right ascension (deg)."""
    dec: str = "dec"
    """Its column of declination (deg)."""
    epoch: Annotated[float, Field(gt=1900, lt=2100)] = 2016.0
    """Epoch of its positions (Julian year); our stars are moved there by their proper motion."""
    position_epoch: Annotated[float, Field(gt=1900, lt=2100)] = 2000.0
    """Epoch of our positions (Julian year); those in LAMOST's headers are of its input catalogues, mostly of 2000."""
    prefer: str = ""
    """Its column whose highest value decides between rows of the same star, such as S/N; else its first row counts."""
    keep: dict[str, tuple[float, float]] = {}
    """Its columns and the values, ends included, that a row must have to be compared."""
    refuse_bits: dict[str, int] = {}
    """Its columns of flags and the bits that a row must not have."""
    least_teff: dict[Quantity, float] = {}
    """Its Teff (K) below which one of its quantities is not compared."""
    paper_bias: dict[Quantity, float] = {}
    """The paper's result for the same comparison: its bias."""
    paper_scatter: dict[Quantity, float] = {}
    """And its scatter."""

    @model_validator(mode="after")
    def _check(self) -> CompareSettings:
        if not self.key and self.radius_arcsec is None:
            message = "give key, its column of identifiers, or radius_arcsec"
            raise ValueError(message)
        if self.least_teff and "teff" not in self.columns:
            message = "least_teff needs its column of teff"
            raise ValueError(message)
        return self


@dataclass(frozen=True, eq=False)
class Matched:
    """What `match_stars` returns, one row per star, in the order of our table.

    ``rows`` and ``reference_rows``, int64, where it stands in our table and in theirs; ``separation`` in arcsec, NaN of
    those joined by identifier; ``snr``; ``ours`` and ``reference``, the quantities compared, NaN where null.
    ``labels``, our teff, logg and m_h. ``notes``, sentences on the join.
    """

    rows: _Rows
    reference_rows: _Rows
    separation: _Floats
    snr: _Floats
    ours: dict[Quantity, _Floats]
    reference: dict[Quantity, _Floats]
    labels: dict[Quantity, _Floats]
    notes: tuple[str, ...]


def our_columns(settings: CompareSettings) -> tuple[list[str], list[str]]:
    """Return the names that `match_stars` needs of our table, and those it can do without."""
    needed: list[str] = [*settings.columns, settings.snr, *([settings.our_key] if settings.key else [])]
    optional: list[str] = [*QUANTITIES, "gaia_source_id", "in_final_catalogue", "in_sample"]
    if settings.radius_arcsec is not None:
        needed += ["ra", "dec"]
        optional += ["pmra", "pmdec"]
    return needed, [name for name in optional if name not in needed]


def their_columns(settings: CompareSettings) -> list[str]:
    """Return the names that `match_stars` needs of the other table."""
    names = [*settings.columns.values(), settings.key, settings.prefer, *settings.keep, *settings.refuse_bits]
    names += [] if settings.radius_arcsec is None else [settings.ra, settings.dec]
    return [name for name in dict.fromkeys(names) if name]


def their_units(settings: CompareSettings) -> dict[str, str]:
    """Return the units of the columns of the other table that are numbers, for `read_table`."""
    units = dict.fromkeys([*settings.keep, *([settings.prefer] if settings.prefer else [])], "")
    units |= {column: _SCHEMA[name].unit for name, column in settings.columns.items()}
    return units | ({} if settings.radius_arcsec is None else {settings.ra: "deg", settings.dec: "deg"})


def match_stars(
    ours: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike], settings: CompareSettings
) -> Matched:
    """Join our rows with another table by identifier, else by position, and keep one spectrum of each star.

    Spectra with the same gaia_source_id are of one star. Of its spectra that have a row in the other table, the one
    with most of the quantities counts, and among these the one with the highest S/N; values of several spectra are
    not averaged, so that a cut in S/N means what it says. Of rows of the other table for the same star, the nearest
    counts where they are joined by position, then by the rank that `prefer` gives, then the first.

    Args:
        ours: columns ``(row,)`` as `our_columns` names them, nulls as in the schema.
        reference: columns ``(row,)`` of the other table as `their_columns` names them.
        settings: see `CompareSettings`.

    Raises:
        UsageError: a column is missing or holds text, or identifiers are floats.

    Example:
        >>> ours = {"gaia_source_id": [7, 7, 8], "snr_r": [10.0, 30.0, 20.0], "teff": [3400.0, 3450.0, 3600.0]}
        >>> table = {"Source": [8, 7], "Teff": [3610.0, 3500.0]}
        >>> settings = CompareSettings(columns={"teff": "Teff"}, key="Source")
        >>> matched = match_stars(ours, table, settings)
        >>> matched.rows, matched.ours["teff"] - matched.reference["teff"]
        (array([1, 2]), array([-50., -10.]))
        >>> matched.notes[0]
        '2 stars (3 of our 3 spectra) are in reference: 3 spectra by identifier, 0 by position (0 ambiguous)'
    """
    mine, size = checked_columns(ours, our_columns(settings)[0], "our table")
    theirs, _ = checked_columns(reference, their_columns(settings), settings.name)
    notes: list[str] = []
    usable = usable_rows(mine, settings.rows, notes)
    without_false(theirs, settings.columns, settings.name, notes)
    kept = _kept(theirs, settings, notes)
    rows, separation = np.full(size, -1, dtype=np.int64), np.full(size, np.nan)
    if settings.key:
        ids = whole_ids(theirs[settings.key], f"{settings.name}: {settings.key}")[kept]
        first = np.sort(np.unique(ids, return_index=True)[1])
        found = match_ids(whole_ids(mine[settings.our_key], settings.our_key), ids[first])
        rows = np.where((found >= 0) & usable, kept[first][found] if len(first) else -1, -1)
    star, _ = star_numbers(mine.get("gaia_source_id", np.full(size, INT_NULL)))
    by_id, ambiguous = int((rows >= 0).sum()), 0
    if settings.radius_arcsec is not None:
        rest = np.flatnonzero(usable & (rows < 0) & ~np.isin(star, star[rows >= 0]))
        still = int(np.isnan(column_values(mine, "pmra")[rest]).sum())
        if still and settings.epoch != settings.position_epoch:
            then = f"{settings.position_epoch:g}"
            notes.append(f"{still:,} spectra have no proper motion and are looked for where they were in {then}")
        ambiguous = _match_positions(mine, theirs, rest, kept[~np.isin(kept, rows)], star, settings, rows, separation)
    values = {name: column_values(mine, name) for name in QUANTITIES}
    snr, compared = column_values(mine, settings.snr), [values[name] for name in settings.columns]
    chosen = best_spectra(np.flatnonzero(rows >= 0), star, compared, snr)
    total, by_sky = int((rows >= 0).sum()), int((rows >= 0).sum()) - by_id
    summary = f"{len(chosen):,} stars ({total:,} of our {int(usable.sum()):,} spectra) are in {settings.name}: "
    summary += f"{by_id:,} spectra by identifier, {by_sky:,} by position ({ambiguous:,} ambiguous)"
    notes.insert(0, summary)
    if total > len(chosen):
        notes.insert(1, f"of stars with several spectra the one with the highest {settings.snr} counts")
    there = rows[chosen]
    known = {name: column_values(theirs, column)[there] for name, column in settings.columns.items()}
    for name, least in settings.least_teff.items():
        if name in known:
            known[name] = np.where(known["teff"] >= least, known[name], np.nan)
    return Matched(
        rows=chosen,
        reference_rows=there,
        separation=separation[chosen],
        snr=snr[chosen],
        ours={name: values[name][chosen] for name in settings.columns},
        reference=known,
        labels={name: values[name][chosen] for name in QUANTITIES if name != "rv"},
        notes=tuple(notes),
    )


def checked_columns(columns: Mapping[str, ArrayLike], needed: list[str], what: str) -> tuple[_Columns, int]:
    """Return columns as arrays, and their length.

    Raises:
        UsageError: one that is needed is missing, or they differ in shape.
    """
    arrays = {name: plain_column(values) for name, values in columns.items()}
    missing = [name for name in needed if name not in arrays]
    if missing:
        message = f"{what} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, arrays))}"
        raise UsageError(message)
    sizes = {name: array.shape for name, array in arrays.items()}
    if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
        message = f"columns of {what} differ in shape: {sizes}"
        raise UsageError(message)
    return arrays, len(next(iter(arrays.values())))


def column_values(columns: _Columns, name: str) -> _Floats:
    """Return a column as float64, NaN where null or missing."""
    return numbers(columns, name, len(next(iter(columns.values()))))


def without_false(columns: _Columns, quantities: Mapping[Quantity, str], table: str, notes: list[str]) -> None:
    """Make null what cannot be true in columns of another table, such as -999, and add notes on how many there were."""
    for name, column in quantities.items():
        values = column_values(columns, column)
        columns[column], sentence = known_values(values, _SCHEMA[name], column)
        notes += [f"{table}: {sentence}, and not compared"] if sentence else []


def usable_rows(mine: _Columns, which: Rows, notes: list[str]) -> NDArray[np.bool_]:
    """Return which of our rows are compared, ``(row,)``, and add a note if not all are."""
    size = len(next(iter(mine.values())))
    mark = next((name for name in ("in_final_catalogue", "in_sample") if name in mine), None)
    if which == "all" or mark is None:
        return np.ones(size, dtype=bool)
    inside = np.asarray(mine[mark] == 1)
    notes.append(f"{int(inside.sum()):,} of our {size:,} spectra have {mark} and are compared")
    return inside


def _kept(theirs: _Columns, settings: CompareSettings, notes: list[str]) -> _Rows:
    """Return which of their rows are compared, those preferred first."""
    size = len(next(iter(theirs.values())))
    good = np.ones(size, dtype=bool)
    for name, (low, high) in settings.keep.items():
        values = column_values(theirs, name)
        good &= (values >= low) & (values <= high)
    for name, bits in settings.refuse_bits.items():
        if theirs[name].dtype.kind not in "iu" and size:
            message = f"{settings.name}: column {name!r} of flags does not hold integers"
            raise UsageError(message)
        flags = theirs[name].astype(np.int64)
        good &= (flags == INT_NULL) | (flags & bits == 0)
    if not good.all():
        notes.append(f"{int((~good).sum()):,} of its {size:,} rows are left out by their flags and values")
    kept = np.flatnonzero(good)
    if settings.prefer:
        rank = np.nan_to_num(column_values(theirs, settings.prefer)[kept], nan=-np.inf)
        kept = kept[np.argsort(-rank, kind="stable")]
    return kept


def _match_positions(
    mine: _Columns,
    theirs: _Columns,
    rest: _Rows,
    kept: _Rows,
    star: _Rows,
    settings: CompareSettings,
    rows: _Rows,
    separation: _Floats,
) -> int:
    """Fill in rows and separations of our stars that a row of theirs is near to; return how many are ambiguous."""
    assert settings.radius_arcsec is not None
    place = {name: column_values(mine, name) for name in ("ra", "dec", "pmra", "pmdec")}
    known = rest[np.isfinite(place["ra"][rest]) & np.isfinite(place["dec"][rest])]
    names, first = np.unique(star[known], return_index=True)
    stars = {name: values[known[first]] for name, values in place.items()}
    stars["ref_epoch"] = np.full(len(first), settings.position_epoch)
    ra, dec = (column_values(theirs, name)[kept] for name in (settings.ra, settings.dec))
    match = match_sky(ra, dec, settings.epoch, stars, radius_arcsec=settings.radius_arcsec)
    near = np.flatnonzero(match.rows >= 0)
    order = near[np.lexsort((near, match.separation[near], match.rows[near]))]
    hit, lead, times = np.unique(match.rows[order], return_index=True, return_counts=True)
    unsure = np.bincount(match.rows[near], match.ambiguous[near], len(names))[hit] > 0
    best = order[lead]
    place_of = np.full(int(star.max(initial=-1)) + 1, -1)
    place_of[names[hit]] = np.arange(len(hit))
    spectra = rest[place_of[star[rest]] >= 0]
    which = best[place_of[star[spectra]]]
    rows[spectra], separation[spectra] = kept[which], match.separation[which]
    return int((unsure | (times > 1)).sum())


def best_spectra(rows: _Rows, star: _Rows, values: list[_Floats], snr: _Floats) -> _Rows:
    """Return of each star the row, of those given, with most values, then the highest S/N; in the order of the table.

    Args:
        rows: of the table.
        star: number of the star of every row of it.
        values: columns of it, NaN where null.
        snr: S/N of every row.
    """
    many = np.sum([np.isfinite(column[rows]) for column in values], axis=0)
    order = rows[np.lexsort((-np.nan_to_num(snr[rows], nan=-np.inf), -many))]
    return np.sort(order[np.unique(star[order], return_index=True)[1]])
