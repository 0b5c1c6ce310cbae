"""Tables as the CDS keeps them: fixed-width text, and a ReadMe that describes it byte by byte."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stargap.files import replacing
from stargap.flags import FLAG_COLUMNS
from stargap.tables.columns import Column
from stargap.tables.fits import ascii_text
from stargap.tables.parquet import read_parts

__all__ = ["FixedTable", "FixedWidth", "cds_readme", "write_fixed_width"]

_UNITS = {"Angstrom": "0.1nm", "": "---"}
_LINE = "-" * 80
_DOUBLE = "=" * 80
_ROWS = 20_000


class FixedWidth(NamedTuple):
    """A column of a fixed-width table: its first and last byte, from 1, its format, and whether it has nulls."""

    column: Column
    first: int
    last: int
    form: str
    nulls: bool


class FixedTable(NamedTuple):
    """A fixed-width table as written."""

    path: Path
    about: str
    rows: int
    fields: tuple[FixedWidth, ...]


def write_fixed_width(source: str | Path, path: str | Path, *, schema: Sequence[Column], about: str) -> FixedTable:
    """Write a Parquet table of this schema as fixed-width text, in the memory of a few parts.

    Floats have the decimals of their column and lose what is beyond; booleans are 0 or 1; nulls are blank; text is
    ASCII, escaped as in FITS. The package cdspyreadme does the same in half an hour for a million rows of the
    catalogue, with other units and descriptions.

    Args:
        source: Parquet table as `write_parts` makes it.
        path: file to write.
        schema: its columns.
        about: what the table is, for the ReadMe.

    Example:
        >>> from stargap.tables.write import write_table
        >>> folder = getfixture("tmp_path")
        >>> schema = (Column("obsid", "int64"), Column("rv", "float32", "km/s", decimals=1))
        >>> table = {"obsid": [7, 1234], "rv": [None, -3.25]}
        >>> write_table(table, folder / "t.parquet", schema=schema, provenance={})
        >>> fixed = write_fixed_width(folder / "t.parquet", folder / "t.dat", schema=schema, about="Two spectra")
        >>> print(fixed.path.read_text(), [field.form for field in fixed.fields])
           7
        1234 -3.2
         ['I4', 'F4.1']
    """
    names = [column.name for column in schema]
    widths, nulls, rows = dict.fromkeys(names, 1), dict.fromkeys(names, False), 0
    for part in read_parts(source, names, rows=_ROWS):
        rows += len(part[names[0]])
        for column in schema:
            values, null = _known(column, part[column.name])
            nulls[column.name] |= bool(null.any())
            ends = values if column.dtype == "str" else [values.min(), values.max()] if len(values) else []
            widths[column.name] = max([widths[column.name], *(len(cell) for cell in _cells(column, ends))])
    fields, first = [], 1
    for column in schema:
        last = first + widths[column.name] - 1
        fields.append(FixedWidth(column, first, last, _form(column, widths[column.name]), nulls[column.name]))
        first = last + 2
    with replacing(path) as file:
        for part in read_parts(source, names, rows=_ROWS):
            columns = [_padded(column, part[column.name], widths[column.name]) for column in schema]
            file.writelines(f"{line}\n".encode("ascii") for line in map(" ".join, zip(*columns, strict=True)))
    return FixedTable(Path(path), about, rows, tuple(fields))


def _form(column: Column, width: int) -> str:
    if column.dtype.startswith("float"):
        return f"F{width}.{column.decimals}"
    return f"A{width}" if column.dtype == "str" else f"I{width}"


def _known(column: Column, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    null = column.is_null(values)
    return values[~null], null


def _cells(column: Column, values: Any, width: int = 0) -> list[str]:
    if column.dtype == "str":
        return [ascii_text(value).ljust(width) for value in values]
    cell = f"%{width}.{column.decimals}f" if column.dtype.startswith("float") else f"%{width}d"
    return [cell % value for value in np.asarray(values).tolist()]


def _padded(column: Column, values: NDArray[Any], width: int) -> list[str]:
    null, blank = column.is_null(values), " " * width
    if null.all():
        return [blank] * len(values)
    cells = _cells(column, values, width)
    for row in np.flatnonzero(null).tolist():
        cells[row] = blank
    return cells


def cds_readme(
    tables: Sequence[FixedTable], *, title: str, authors: str, description: str, provenance: Mapping[str, str]
) -> str:
    """Return the ReadMe of tables in the CDS's standard, lines of at most 80 characters.

    Args:
        tables: what `write_fixed_width` returned.
        title: of the catalogue.
        authors: of the catalogue.
        description: a paragraph.
        provenance: what made it.

    Example:
        >>> field = FixedWidth(Column("rv", "float32", "km/s", "", "Velocity", (-9.0, 9.0)), 1, 6, "F6.2", True)
        >>> tables = [FixedTable(Path("t.dat"), "Stars", 3, (field,))]
        >>> text = cds_readme(tables, title="T", authors="", description="D", provenance={})
        >>> print(text[text.index("Byte-by-byte") :].splitlines()[4])
           1-  6  F6.2   km/s  rv  [-9/9]? Velocity
    """
    lines = [ascii_text(title), f"    {ascii_text(authors)}".rstrip(), _DOUBLE, "Description:"]
    lines += _wrapped(description, "    ")
    lines += ["", "File Summary:", _LINE, " FileName       Lrecl  Records  Explanations", _LINE]
    lines.append(f" {'ReadMe':<14} {80:>5} {'.':>8}  This file")
    for table in tables:
        length = table.fields[-1].last
        lines.append(f" {table.path.name:<14} {length:>5} {table.rows:>8}  {ascii_text(table.about)}")
    lines.append(_LINE)
    for table in tables:
        lines += _byte_by_byte(table)
    if provenance:
        lines += ["", "Acknowledgements:"]
        for name, value in provenance.items():
            lines += _wrapped(f"{name}: {value}", "    ")
    return "\n".join([*lines, _DOUBLE, "(End)", ""])


def _byte_by_byte(table: FixedTable) -> list[str]:
    lines = ["", f"Byte-by-byte Description of file: {table.path.name}", _LINE]
    lines += ["   Bytes Format Units   Label  Explanations", _LINE]
    size = max(len(field.column.name) for field in table.fields)
    wide = max(len(_UNITS.get(field.column.unit, field.column.unit)) for field in table.fields)
    notes = [field.column.name for field in table.fields if field.column.name in FLAG_COLUMNS]
    for column, first, last, form, nulls in table.fields:
        place = f"{first:>4}-{last:>3}" if last > first else f"{first:>8}"
        limits = f"[{_end(column, 0)}/{_end(column, 1)}]" if _end(column, 0) + _end(column, 1) else ""
        note = f" ({notes.index(column.name) + 1})" if column.name in notes else ""
        start = f"{place}  {form:<6} {_UNITS.get(column.unit, column.unit):<{wide}} {column.name:<{size}}  "
        explanation = f"{limits}{'?' if nulls else ''} {column.description}{note}".strip()
        wrapped = textwrap.wrap(explanation, 80 - len(start), break_long_words=False)
        lines.append(start + wrapped[0])
        lines += [" " * len(start) + more for more in wrapped[1:]]
    lines.append(_LINE)
    for number, name in enumerate(notes, start=1):
        lines.append(f"Note ({number}): {name} is the sum of 2^bit, with bits as follows:")
        for flag in FLAG_COLUMNS[name]:
            lines += _wrapped(f"{flag.bit_length() - 1:>2} = {flag.sentence}", "    ")
    return [*lines, *([_LINE] if notes else [])]


def _end(column: Column, place: int) -> str:
    end = (column.valid_range or (-np.inf, np.inf))[place]
    return f"{end:.10g}" if np.isfinite(end) else ""


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(ascii_text(" ".join(text.split())), 80, initial_indent=indent, subsequent_indent=indent) or [
        ""
    ]
