"""Text tables: CSV and ECSV written, and read as people and services make them, VizieR's TSV among them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.arrow import arrow_table, from_arrow
from stargap.tables.columns import Column
from stargap.tables.nulls import NULL_WORDS
from stargap.tables.source import Field, Parts, Source, unpacked

__all__ = ["text_sources", "write_csv", "write_ecsv"]

_DELIMITERS = ",|\t;"
_ROWS_PER_BLOCK = 10_000
_LONGEST_LINE = 1 << 20
"""Bytes of a line of the header."""
_MOST_COLUMNS = 10_000
_BOM = b"\xef\xbb\xbf"
_SPELLINGS = sorted({form(word) for word in NULL_WORDS for form in (str.lower, str.upper, str.capitalize)} | {"NaN"})


def write_csv(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write parts as `stargap.tables.conform.conform` returns them, nulls as empty cells; no provenance."""
    _write_names(schema, file)
    for part in parts(schema):
        _write_rows(arrow_table(part, schema, all_nulls=True), file)


def write_ecsv(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write the same with astropy's header of types, units, UCDs, descriptions and provenance."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from astropy import table

    empty = table.Table(meta=dict(provenance))
    for column in schema:
        values = np.empty(0, dtype="U1" if column.dtype == "str" else column.dtype)
        about = {"unit": column.unit or None, "description": column.description, "meta": {"ucd": column.ucd}}
        empty[column.name] = table.Column(values, **about)
    header = io.StringIO()
    empty.write(header, format="ascii.ecsv", delimiter=",")
    comments = [line for line in header.getvalue().splitlines() if line.startswith("#")]
    file.write(("\n".join(comments) + "\n").encode())
    _write_names(schema, file)
    for part in parts(schema):
        rows = arrow_table(part, schema, all_nulls=True)
        for place, column in enumerate(schema):
            if column.dtype == "bool":
                words = pc.utf8_capitalize(pc.cast(rows[column.name], pa.string()))
                rows = rows.set_column(place, column.name, words)
        _write_rows(rows, file)


def _write_names(schema: Sequence[Column], file: BinaryIO) -> None:
    file.write((",".join(column.name for column in schema) + "\n").encode())


def _write_rows(table: Any, file: BinaryIO) -> None:
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False, batch_size=_ROWS_PER_BLOCK)
    pyarrow.csv.write_csv(table, file, options)


@contextmanager
def text_sources(path: Path, content: bytes | None = None) -> Iterator[list[Source]]:
    """Give the table of a text file with a header line.

    Blank lines and lines that start with ``#`` are skipped before the header and where they are no row; spaces around
    names and cells, quotes, a byte-order mark, and VizieR's lines of units and dashes below the header are no part of
    names and cells.

    Args:
        path: the file, plain or gzip.
        content: its text in UTF-8, where the file has another encoding.

    Raises:
        UsageError: a name stands twice in the header, or, when it is read, a row has another number of cells.
    """

    def opened() -> BinaryIO:
        return unpacked(path) if content is None else io.BytesIO(content)

    with opened() as file:
        header = _read_header(path, file)
    repeated = [name for name, count in Counter(header.names).items() if count > 1]
    if repeated:
        count = header.names.count(repeated[0])
        message = f"{path}: column {repeated[0]!r} stands there {count} times; rename one"
        raise UsageError(message)

    def read(names: Sequence[str]) -> Iterator[NDArray[Any]]:
        if names:
            with opened() as file:
                table = _read_words(path, file, header, names)
            for name in names:
                yield _typed(table[name])

    fields = {name: header.fields.get(name, Field()) for name in header.names}
    yield [Source("the table", fields, None, read, header.lines + 1)]


@dataclass(frozen=True)
class _Header:
    """Names of the columns, what is said of them, the delimiter, and the lines up to the first row."""

    names: list[str]
    fields: dict[str, Field]
    delimiter: str
    lines: int


def _read_header(path: Path, file: BinaryIO) -> _Header:
    comments, line, lines = [], "", 0
    for raw in iter(lambda: file.readline(_LONGEST_LINE), b""):
        lines += 1
        if len(raw) == _LONGEST_LINE:
            message = f"{path}: line {lines} is longer than {_LONGEST_LINE:,} bytes: no text table"
            raise UsageError(message)
        line = raw.removeprefix(_BOM if lines == 1 else b"").decode("utf-8", "backslashreplace").rstrip("\r\n")
        if line.strip() and not line.startswith("#"):
            break
        comments.append(line)
    ecsv = any("%ECSV" in comment for comment in comments)
    spaced = ecsv and not any(comment.startswith("# delimiter: ','") for comment in comments)
    delimiter = " " if spaced else max(_DELIMITERS, key=line.count)
    names = _cells(line, delimiter)
    if len(names) > _MOST_COLUMNS:
        message = f"{path}: {len(names):,} columns in line {lines}; at most {_MOST_COLUMNS:,} are read"
        raise UsageError(message)
    if ecsv:
        return _Header(names, _ecsv_fields(comments), delimiter, lines)
    units, further = _units_and_dashes(file, delimiter, len(names))
    fields = {name: Field(unit=unit) for name, unit in zip(names, units, strict=False)}
    return _Header(names, fields, delimiter, lines + further)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _units_and_dashes(file: BinaryIO, delimiter: str, columns: int) -> tuple[list[str], int]:
    """Return VizieR's units below the header and how many lines they and the line of dashes take."""
    below = [file.readline(_LONGEST_LINE).decode("utf-8", "backslashreplace").rstrip("\r\n") for _ in range(2)]
    for place, line in enumerate(below):
        cells = [cell.strip() for cell in line.split(delimiter)]
        only_dashes = all(cell and not cell.strip("-") for cell in cells)
        if only_dashes and len(cells) == columns and len("".join(cells)) > len(cells):
            return (_cells(below[0], delimiter) if place else []), place + 1
    return [], 0


def _ecsv_fields(comments: Sequence[str]) -> dict[str, Field]:
    from astropy.table.meta import get_header_from_yaml

    lines = [line[2:] for line in comments if line.startswith("# ") and not line.startswith("# %")]
    try:
        columns = get_header_from_yaml(lines)["datatype"]
    except Exception:  # a header that is no YAML, or says nothing of columns, leaves a table that can be read
        return {}
    fields = {}
    for column in columns:
        dtype = "str" if column["datatype"] == "string" else column["datatype"]
        ucd = dict(column.get("meta", {})).get("ucd", "")
        fields[column["name"]] = Field(True, dtype, str(column.get("unit", "")), ucd)
    return fields


def _read_words(path: Path, file: BinaryIO, header: _Header, names: Sequence[str]) -> Any:
    """Return columns as they stand in the file, bytes that are null where a cell is a null word."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    chosen = list(dict.fromkeys(names))
    how = {
        "read_options": arrow_csv.ReadOptions(skip_rows=header.lines, column_names=header.names),
        "parse_options": arrow_csv.ParseOptions(delimiter=header.delimiter),
        "convert_options": arrow_csv.ConvertOptions(
            include_columns=chosen,
            column_types=dict.fromkeys(chosen, pa.binary()),  # else the first block would decide the types
            null_values=_SPELLINGS,
            strings_can_be_null=True,
        ),
    }
    try:
        return arrow_csv.read_csv(file, **how)
    except pa.ArrowInvalid:
        file.seek(0)
        lines = file.readlines()
        _refuse_odd_rows(path, lines, header)
        rows = [line for line in lines[header.lines :] if not line.startswith(b"#")]
        return arrow_csv.read_csv(io.BytesIO(b"".join([*lines[: header.lines], *rows])), **how)


def _refuse_odd_rows(path: Path, lines: Sequence[bytes], header: _Header) -> None:
    """Refuse a row with another number of cells than the header, by its line; comments between rows are none."""
    rows = csv.reader((line.decode("latin-1") for line in lines[header.lines :]), delimiter=header.delimiter)
    for cells in rows:
        if cells and len(cells) != len(header.names) and not cells[0].startswith("#"):
            line = header.lines + rows.line_num
            text = header.delimiter.join(cells)[:80]
            message = f"{path}: cannot be read as text: line {line} has {len(cells)} cells and the header "
            message += f"{len(header.names)}: {text!r}"
            raise UsageError(message)


def _typed(words: Any) -> NDArray[Any]:
    """Return a column as int64 if every cell is a whole number, else float64, else boolean, else text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if words.null_count == len(words):
        return np.full(len(words), np.nan)
    try:
        words = words.cast(pa.large_string())
    except pa.ArrowInvalid:
        return from_arrow(words)  # bytes that are no UTF-8
    if (array := _numeric(words)) is None:
        words = pc.utf8_trim_whitespace(words)
        null = pc.is_in(pc.utf8_lower(words), value_set=pa.array(sorted(NULL_WORDS), pa.large_string()))
        words = pc.if_else(null, None, words)
        array = np.full(len(words), np.nan) if words.null_count == len(words) else _numeric(words)
    return from_arrow(words) if array is None else array


def _numeric(words: Any) -> NDArray[Any] | None:
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return from_arrow(words.cast(kind))
        except pa.ArrowInvalid:
            continue
    return None
