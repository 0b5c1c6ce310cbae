"""Tables of others read into plain arrays: FITS, Parquet, VOTable, CSV, TSV and ECSV, known by their content."""

from __future__ import annotations

import difflib
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from stargap.errors import UsageError
from stargap.rows import AnyColumn
from stargap.tables.fits import fits_sources
from stargap.tables.nulls import converted, parsed
from stargap.tables.parquet import parquet_sources
from stargap.tables.source import Source, unpacked
from stargap.tables.text import text_sources
from stargap.tables.votable import votable_sources

__all__ = ["open_table", "read_table"]

_HEAD_BYTES = 4096
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NEAREST_NAMES = 2000
"""Columns among which a near name is looked for."""

_IDENTIFIER = re.compile(r"(gaia_?)?(dr3_?)?source_?id\d?", re.IGNORECASE)
"""Names of columns of Gaia's identifiers."""


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    optional: Iterable[str] = (),
    rows: ArrayLike | None = None,
    units: Mapping[str, str] | None = None,
) -> dict[str, AnyColumn]:
    r"""Return columns ``{name: (row,)}`` of a table file, nulls as in :mod:`stargap.tables.conform`.

    The format is known by the content, plain or gzip, whatever the file's name: FITS binary tables, Parquet, VOTable,
    and text with a header line, separated by commas, ``|`` (as LAMOST publishes), tabs (as VizieR does) or semicolons,
    ECSV included; text is UTF-8, or UTF-16 with a byte-order mark. Of several tables in one file the one that has the
    columns and rows is meant. Only the chosen columns of FITS, Parquet and text are decoded, and of FITS and Parquet
    one at a time, so that a few rows of a long table take the memory of one column.

    ==========  =======================================================================================
    integers    int64, nulls -9999; never through a float, so 19-digit identifiers are exact
    floats      as stored (float64 from text), nulls NaN
    text        str objects without spaces at the end, nulls ``""``; bytes that are no UTF-8 are escaped
    booleans    bool; int64 with -9999 where some are null
    other       dates and times as text; columns of arrays are left out
    ==========  =======================================================================================

    A text file does not state types: a column is int64 if every cell is a whole number or null, else float64 if every
    cell is a number, else boolean if every cell is true or false, else text; a column of nulls only is float64.
    Null are `stargap.tables.nulls.NULL_WORDS`, and what FITS (TNULL), VOTable and Parquet mask; numbers such as -999
    stay (`stargap.tables.nulls.known_values`). DATASUM of FITS and checksums of Parquet are checked where they exist.

    Args:
        path: the table.
        columns: names to read, in any case; all if None. The result is named as spelled here.
        optional: further names, read where the table has them.
        rows: numbers of the rows to keep, from 0, in this order; all if None.
        units: columns that must be numbers, by their names here, and the unit of each, or ``""``: where the file states
            another unit they are converted, and a word that is neither a number nor null is refused.

    Raises:
        UsageError: the file is missing, damaged, cut short by the service that made it or no table, lacks a column or
            a row, has several tables with these columns, an integer exceeds int64, identifiers of Gaia are floats, or a
            unit cannot be converted.

    Example:
        >>> file = getfixture("tmp_path") / "dr10.csv"
        >>> _ = file.write_text("obsid|Gaia_Source_ID|snrr\n101|2767387380324493184|7.5\n102||\n")
        >>> table = read_table(file, ["gaia_source_id", "snrr"])
        >>> table["gaia_source_id"], table["snrr"]
        (array([2767387380324493184, -9999]), array([7.5, nan]))
        >>> read_table(file, ["source_id"])
        Traceback (most recent call last):
        stargap.errors.UsageError: ...dr10.csv: no column 'source_id'; did you mean 'Gaia_Source_ID'?
    """
    path, optional = Path(path), list(optional)
    kept = slice(None) if rows is None else np.asarray(rows, dtype=np.int64)
    with open_table(path, columns, optional) as source:
        names = _choose(path, source, columns, optional)
        table = {}
        for (name, there), values in zip(names.items(), source.read(list(names.values())), strict=True):
            whole, size = values, len(values)
            if units is not None and name in units:
                whole = _in_unit(values, units[name], f"{path}: column {there!r}", source, source.fields[there].unit)
            elif _IDENTIFIER.fullmatch(there):
                _refuse_floats(whole, f"{there}: holds floats", path, source)
            table[name] = whole[kept]
            if size != (source.rows or size) or len(table[name]) != len(next(iter(table.values()))):
                message = f"columns differ in length: {there!r} has {size:,} rows"
                raise ValueError(message)
    return table


def _in_unit(values: AnyColumn, unit: str, what: str, source: Source, stated: str | None) -> AnyColumn:
    """Return a column of numbers in a unit; words for null become NaN, other words are refused by their line."""
    first, line = (1, "row") if source.first_line is None else (source.first_line, "line")
    values = parsed(values, what, first=first, line=line)
    return converted(values, stated, unit, what) if stated and unit else values


def _refuse_floats(values: AnyColumn, what: str, path: Path, source: Source) -> None:
    """Refuse identifiers that went through a float, by file and line: their last digits are lost."""
    if values.dtype.kind == "f" and not np.isnan(values).all():
        row = int((~np.isnan(values)).argmax())
        place = f"row {row + 1}" if source.first_line is None else f"line {source.first_line + row}"
        message = (
            f"{path}: {place}: {what}, which keep 15 digits of an identifier, such as {values[row]!s}; write whole "
        )
        message += "numbers (pandas: astype('int64'), or 'Int64' where some are unknown)"
        raise UsageError(message)


@contextmanager
def open_table(path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()) -> Iterator[Source]:
    """Give the table of a file that has these columns, as `read_table` chooses it.

    Raises:
        UsageError: see `read_table`; whatever fails while the table is read becomes one, too.
    """
    open_sources, kind = _format(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_sources() as sources:
                yield _choose_source(path, sources, columns, optional)
    except UsageError:
        raise
    except Exception as error:  # damage is met with almost any class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"{path}: cannot be read as {kind} ({reason})"
        raise UsageError(message) from error


def _format(path: Path) -> tuple[Callable[[], AbstractContextManager[list[Source]]], str]:
    """Return what opens the file, and the name of its format."""
    head, content = _head(path), None
    if head.startswith(_UTF16):
        with unpacked(path) as file:
            content = file.read().decode("utf-16", "backslashreplace").encode()
        head = content[:_HEAD_BYTES]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"simple  ="):
        return lambda: fits_sources(path), "FITS"
    if head.startswith(b"PAR1"):
        return lambda: parquet_sources(path), "Parquet"
    if re.search(rb"<(\w+:)?votable[\s>]", start):
        return lambda: votable_sources(path, content), "VOTable"
    if not start or b"\0" in head or start.startswith((b"<", b"{")):
        what = "is empty" if not start else "is no table"
        if re.match(rb"<(!doctype )?html", start):
            what += " but a web page, such as a server's error"
        message = f"{path}: {what}; give FITS, Parquet, VOTable, ECSV or text with a header line"
        raise UsageError(message)
    return lambda: text_sources(path, content), "text"


def _head(path: Path) -> bytes:
    try:
        with unpacked(path) as file:
            return file.read(_HEAD_BYTES)
    except FileNotFoundError:
        message = f"{path}: the file does not exist"
        raise UsageError(message) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{path}: cannot be read ({reason})"
        raise UsageError(message) from None


def _choose_source(
    path: Path, sources: Sequence[Source], columns: Sequence[str] | None, optional: Sequence[str]
) -> Source:
    """Return the table to read: of those with the most requested columns, the one that has rows."""
    if not sources:
        message = f"{path}: holds no table"
        raise UsageError(message)
    if len(sources) == 1:
        return sources[0]
    requested = {name.lower() for name in (*(columns or ()), *optional)}
    shared = [len(requested & {name.lower() for name in source.fields}) for source in sources]
    best = [source for source, count in zip(sources, shared, strict=True) if count == max(shared)]
    filled = [source for source in best if source.rows]
    if len(filled) > 1 and requested and max(shared):
        titles = " and ".join(f"{source.title} ({source.rows:,} rows)" for source in filled[:3])
        message = f"{path}: {titles} have these columns; write the one to be read to a separate file"
        raise UsageError(message)
    return (filled or best)[0]


def _choose(path: Path, source: Source, columns: Sequence[str] | None, optional: Sequence[str]) -> dict[str, str]:
    """Return ``{requested name: name in the file}``."""
    if columns is None:
        return {name: name for name, field in source.fields.items() if field.single}
    folded: dict[str, str] = {}
    for name in source.fields:
        folded.setdefault(name.lower(), name)
    found = {name: name if name in source.fields else folded.get(name.lower(), "") for name in [*columns, *optional]}
    missing = [name for name in columns if not found[name]]
    if missing:
        names = list(folded)[:_NEAREST_NAMES]
        near = {name: difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0) for name in missing}
        parts = [f"no column {name!r}" + "".join(f"; did you mean {folded[n]!r}?" for n in near[name]) for name in near]
        message = f"{path}: " + " ".join(parts)
        raise UsageError(message)
    for name in columns:
        if not source.fields[found[name]].single:
            message = f"{path}: column {found[name]!r} holds arrays, not one value per row"
            raise UsageError(message)
    return {name: there for name, there in found.items() if there and source.fields[there].single}
