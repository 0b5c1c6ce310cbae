"""All columns of a table for some spectra or stars, on the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.marks import MARKED, usable
from stargap.tables.columns import INT_NULL, Column
from stargap.tables.print import ASCII, UNUSABLE_MARK
from stargap.tables.read import read_table
from stargap.tables.validate import as_schema, schema_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_rows"]

_IDENTIFIERS = ("spectrum_id", "obsid", "gaia_source_id", "designation", "path", "ID")
_LONGEST_VALUE = 24
"""Characters of a value beside its description; longer ones stand above it."""
_LEAST_TEXT = 24


def print_rows(path: str | Path, ids: Sequence[str], *, console: Console | None = None) -> None:
    """Print all columns of a table for some spectra or stars, one per line, with units and flags in words.

    Lines are wrapped to the width of the terminal. Numbers whose flags say that they cannot be used (`stargap.marks`)
    are marked ✗ and dimmed.

    Args:
        path: a table of stargap, in any of its formats.
        ids: spectrum_id, obsid, gaia_source_id, designation or path; every row with one of them is printed.
        console: where to print; standard output if None.

    Raises:
        UsageError: the table cannot be read or is none of stargap's, or an identifier is not in it.

    Example:
        >>> from rich.console import Console
        >>> from stargap.tables.columns import STARS
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "stars.fits"
        >>> star = {column.name: [None] for column in STARS} | {"gaia_source_id": [4472832130942575872]}
        >>> star |= {"teff": [3195.0], "e_teff": [22.0], "cuts": [8192], "in_final_catalogue": [True]}
        >>> write_table(star, file, schema=STARS, provenance={})
        >>> print_rows(file, ["4472832130942575872"], console=Console(width=90))
        gaia_source_id     4472832130942575872          Gaia DR3 source identifier
        teff                            3195.0 K        Effective temperature
        e_teff                            22.0 K        1-sigma error of teff as repeats show it
        cuts                              8192          Bit mask of cuts, of any of the combined spectra
                                                          active: H-alpha in emission: labels are suspect
        in_final_catalogue                True          Whether no cut of the final catalogue removes it
        null: spectrum_id, designation, ra, dec, n_spectra, ...
    """
    from rich.console import Console
    from rich.text import Text

    console = Console() if console is None else console
    identifiers = read_table(path, [], optional=_IDENTIFIERS)
    requested = [str(one).strip() for one in ids]
    found = {one: [row for values in identifiers.values() for row in _rows_with(values, one)] for one in requested}
    rows = list(dict.fromkeys(row for one in requested for row in sorted(found[one])))
    read = read_table(path, rows=rows)
    schema = [column for column in schema_of(read, path) if column.name in read]
    lacking = next((one for one in requested if not found[one]), None)
    if lacking is not None:
        keys = ", ".join(column.name for column in schema if column.name in identifiers)
        message = f"{path}: no row has {lacking!r} as its {keys}"
        raise UsageError(message)
    table = {column.name: as_schema(column, read[column.name]) for column in schema}
    for place in range(len(rows)):
        if place:
            console.print()
        for line, style in _lines(schema, table, place, console.width):
            text = line.translate(ASCII) if console.options.ascii_only else line
            console.print(Text(text, style), soft_wrap=True)


def _lines(
    schema: Sequence[Column], table: Mapping[str, NDArray[Any]], place: int, width: int
) -> Iterator[tuple[str, str]]:
    """Yield the lines of one row with their styles, wrapped to the width of the terminal."""
    values = {column.name: _value(column, table[column.name][place]) for column in schema}
    known = [column for column in schema if values[column.name] != "–"]
    longest, units = (max((len(getattr(column, what)) for column in known), default=0) for what in ("name", "unit"))
    widest = min(max((len(values[column.name]) for column in known), default=0), _LONGEST_VALUE)
    start = longest + widest + units + 3
    unusable = _unusable(table, place)
    for column in known:
        value, spoilt = values[column.name], _quantity(column.name) in unusable
        about = f"{UNUSABLE_MARK} cannot be used. {column.description}" if spoilt else column.description
        style = "dim" if spoilt else ""
        aligned = value.ljust(widest) if column.dtype == "str" else value.rjust(widest)
        first = f"{column.name:<{longest}} {aligned} {column.unit:<{units}} "
        if len(value) > widest:
            yield from ((line, style) for line in _wrapped(f"{column.name:<{longest}} ", value, longest + 1, width))
            first = " " * start
        yield from ((line, style) for line in _wrapped(first, about, start, width))
        if column.name in FLAG_COLUMNS:
            bits = (bit_text(column.name, bit) for bit in worst_first(column.name, int(table[column.name][place])))
            for name, sentence in bits:
                yield from ((line, "") for line in _wrapped(" " * (start + 2), f"{name}: {sentence}", start + 4, width))
    nulls = [column.name for column in schema if values[column.name] == "–"]
    if nulls:
        yield from ((line, "") for line in _wrapped("", f"null: {', '.join(nulls)}", 6, width))


def _wrapped(first: str, text: str, start: int, width: int) -> list[str]:
    """Return text after `first`, its further lines indented by `start`, in lines of the width if they fit."""
    wide = width if width - start >= _LEAST_TEXT else start + _LEAST_TEXT
    return textwrap.wrap(
        text, wide, initial_indent=first, subsequent_indent=" " * start, break_long_words=False, break_on_hyphens=False
    )


def _unusable(table: Mapping[str, NDArray[Any]], place: int) -> set[str]:
    """Return the quantities whose flags say that they cannot be used."""
    if "flags" not in table or table["flags"][place] < 0:
        return set()
    bits = np.asarray(table["flags"][place : place + 1], dtype=np.int64)
    return {name for name in MARKED if not usable(name, bits)[0]}


def _quantity(column: str) -> str:
    """Return which quantity of `stargap.marks` a column is a value or an error of, or an empty text."""
    name = re.sub(r"^(e|limit|scatter)_|_(sys|fit|paper)$", "", re.sub(r"^(e|limit|scatter)_", "", column))
    return "activity" if name in ("spt", "halpha_ew", "activity_3sigma") else name if name in MARKED else ""


def _rows_with(values: NDArray[Any], requested: str) -> list[int]:
    """Return the rows of a column of identifiers whose value is spelled so; null is no identifier."""
    if values.dtype.kind == "O":
        return np.flatnonzero(values == requested).tolist() if requested else []
    whole = re.fullmatch(r"-?\d{1,19}", requested)
    number = int(requested) if whole else INT_NULL
    return [] if number == INT_NULL or str(number) != requested else np.flatnonzero(values == number).tolist()


def _value(column: Column, value: Any) -> str:
    if column.dtype != "bool" and column.is_null(np.array([value])).any():
        return "–"
    if column.dtype.startswith("float"):
        return f"{value:.{column.decimals}f}"
    return "".join(c if c.isprintable() else "?" for c in str(value))
