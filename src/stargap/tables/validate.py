"""Table files of stargap compared with their schema: names, types, units, UCDs, nulls, ranges, identifiers and bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS, NOTES, USER_BITS
from stargap.tables.columns import CATALOGUE, INT_NULL, JOINED, MEASURED, PAPER, PHOTOMETRY, STARS, SURVEY, Column
from stargap.tables.conform import validate
from stargap.tables.read import open_table, read_table
from stargap.tables.source import Field

__all__ = ["SCHEMAS", "as_schema", "schema_of", "validate_file"]

SCHEMAS: Mapping[str, Sequence[Column]] = {
    "stargap measure": MEASURED,
    "stargap measure --gaia": JOINED,
    "stargap run": SURVEY,
    "stargap photometry": PHOTOMETRY,
    "the catalogue of spectra": CATALOGUE,
    "the catalogue of stars": STARS,
    "the paper's Table 1": PAPER,
}
"""The schemas of stargap's tables, by what they are of."""


def schema_of(names: Iterable[str], path: str | Path = "table") -> Sequence[Column]:
    """Return the schema that a table with these columns follows: the one with the fewest missing or unknown.

    Raises:
        UsageError: it is none of stargap's.

    Example:
        >>> schema_of([column.name for column in STARS]) is STARS
        True
        >>> schema_of(["a", "b"], "t.csv")
        Traceback (most recent call last):
        stargap.errors.UsageError: t.csv: none of stargap's tables: it has columns 'a', 'b'
    """
    given = set(names)
    best = min(SCHEMAS.values(), key=lambda schema: len(given ^ {column.name for column in schema}))
    shared = len(given & {column.name for column in best})
    if 2 * shared < len(best):
        message = f"{path}: none of stargap's tables: it has columns {', '.join(map(repr, sorted(given)[:5]))}"
        raise UsageError(message)
    return best


def validate_file(path: str | Path) -> list[str]:
    """Return one sentence for each way in which a table breaks its schema; none if it is as it should be.

    Checked are the names and order of the columns; types, units, UCDs and the null of integers where the format says
    them (FITS, Parquet, VOTable; ECSV but for nulls; CSV says none); valid ranges, infinities, that spectrum_id is set
    and unique; bits of no known meaning below 24; that in_final_catalogue follows from cuts; and the checksum of FITS.

    Raises:
        UsageError: the file cannot be read, or is none of stargap's tables.

    Example:
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "labels.fits"
        >>> table = {column.name: [None] for column in MEASURED} | {"spectrum_id": [1], "teff": [12000.0]}
        >>> write_table(table, file, provenance={})
        >>> validate_file(file)
        ['teff: 1 of 1 values outside 2000 to 7000, first in row 0: 12000.0']
    """
    path = Path(path)
    table = read_table(path)
    schema = schema_of(table, path)
    with open_table(path) as source:
        problems = _stated_otherwise(schema, source.fields)
    wrong = {problem.split(":")[0] for problem in problems if ": dtype " in problem}
    kept = {column.name: as_schema(column, table[column.name]) for column in schema if column.name in table}
    unknown = {name: values for name, values in table.items() if name not in kept}
    found = validate(kept | unknown, schema=schema)
    problems += [problem for problem in found if problem.split(":")[0] not in wrong]
    return problems + _order(schema, list(table)) + _bits(kept, schema)


def _stated_otherwise(schema: Sequence[Column], fields: Mapping[str, Field]) -> list[str]:
    problems = []
    for column in schema:
        field = fields.get(column.name, Field())
        if field.dtype is not None and field.dtype != column.dtype:
            problems.append(f"{column.name}: dtype {field.dtype}, expected {column.dtype}")
        unit = column.unit if field.unit is None else field.unit.replace(" ", "")
        if unit != column.unit:
            problems.append(f"{column.name}: unit {unit!r}, expected {column.unit!r}")
        if field.ucd is not None and field.ucd != column.ucd:
            problems.append(f"{column.name}: UCD {field.ucd!r}, expected {column.ucd!r}")
        if column.dtype.startswith("int") and field.null != INT_NULL:
            problems.append(f"{column.name}: null {field.null}, expected {INT_NULL}")
    return problems


def _order(schema: Sequence[Column], names: Sequence[str]) -> list[str]:
    expected = [column.name for column in schema if column.name in names]
    given = [name for name in names if name in expected]
    place = next((at for at, (one, other) in enumerate(zip(expected, given, strict=True)) if one != other), None)
    return [] if place is None else [f"columns out of order: {given[place]!r} stands where {expected[place]!r} should"]


def _bits(table: Mapping[str, NDArray[Any]], schema: Sequence[Column]) -> list[str]:
    problems = []
    for name in (column.name for column in schema if column.name in FLAG_COLUMNS and column.name in table):
        masks = table[name]
        if masks.dtype.kind != "i":
            continue
        known = sum(int(flag) for flag in FLAG_COLUMNS[name]) | ~((1 << USER_BITS) - 1)
        odd = (masks != INT_NULL) & (masks & ~known != 0)
        if odd.any():
            row = int(odd.argmax())
            problems.append(f"{name}: {odd.sum()} of {len(odd)} values have bits of no meaning, first in row {row}")
    if schema is CATALOGUE and {"cuts", "in_final_catalogue"} <= set(table) and table["cuts"].dtype.kind == "i":
        odd = (table["cuts"] & ~int(NOTES) == 0) != table["in_final_catalogue"]
        if odd.any():
            problems.append(f"in_final_catalogue: {odd.sum()} of {len(odd)} values do not follow from cuts")
    return problems


def as_schema(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Return values in the type of the schema where nothing is lost: `read_table` widens, and text has no types."""
    kind = values.dtype.kind
    if kind == "f" and column.dtype.startswith("float"):
        with np.errstate(over="ignore"):
            return values.astype(column.dtype)
    if kind == "i" and column.dtype == "int32":
        limits = np.iinfo(np.int32)
        fits = not len(values) or (values.min() >= limits.min and values.max() <= limits.max)
        return values.astype(np.int32) if fits else values
    if kind == "i" and column.dtype.startswith("float"):
        return np.where(values == INT_NULL, np.nan, values).astype(column.dtype)
    if kind == "f" and np.isnan(values).all():
        null = False if column.dtype == "bool" and not len(values) else column.null
        dtype = object if column.dtype == "str" else column.dtype
        return values if null is None else np.full(len(values), null, dtype=dtype)
    return values
