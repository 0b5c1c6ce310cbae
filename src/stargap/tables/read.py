"""Tables of other surveys read into plain arrays: FITS, Parquet, VOTable, CSV and ECSV, told by their content."""

from __future__ import annotations

import difflib
import gzip
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.tables.columns import INT_NULL

__all__ = ["read_table"]

_Table = dict[str, NDArray[Any]]
_Choose = Callable[[Mapping[str, bool]], dict[str, str]]
_Rows = NDArray[np.int64] | slice

_HEAD_BYTES = 4096
_GZIP_MAGIC = b"\x1f\x8b"
_DELIMITERS = ",|\t;"
_NULL_WORDS = ["", "null", "NULL", "nan", "NaN", "NAN", "N/A", "NA", "--"]


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    *,
    optional: Iterable[str] = (),
    rows: ArrayLike | None = None,
) -> dict[str, NDArray[Any]]:
    r"""Return columns ``{name: (row,)}`` of a table file, nulls as in :mod:`stargap.tables.conform`.

    The format is told by the content, plain or gzip, whatever the file's name: a FITS binary table (the first
    of the file), Parquet, VOTable (its first table), and text with a header line, separated by commas, ``|``
    (as LAMOST publishes), tabs or semicolons; lines that start with ``#`` before the header line are skipped,
    so ECSV is read too. Only the chosen columns of FITS, Parquet and text are decoded, and of FITS and Parquet one
    at a time, so that a few rows of a long table take the memory of one column.

    ==========  =======================================================================================
    integers    int64, nulls -9999; never through a float, so 19-digit identifiers are exact
    floats      as stored (float64 from text), nulls NaN
    text        str objects without spaces at the end, nulls ``""``; bytes that are no UTF-8 are escaped
    booleans    bool; int64 with -9999 where some are null
    other       dates and times as text; columns of arrays are left out
    ==========  =======================================================================================

    A text file says no types: a column is int64 if every cell is a whole number or null, else float64 if every
    cell is a number, else boolean if every cell is true or false, else text; a column of nulls only is float64.
    Null are its empty cells, null, NaN, N/A, NA and ``--``, and what FITS (TNULL), VOTable and Parquet mask.
    DATASUM of FITS is checked where there is one.

    Args:
        path: the table.
        columns: names to read, in any case; all if None. They name the result as they are spelled here.
        optional: further names, read where the table has them.
        rows: numbers of the rows to keep, from 0, in this order; all if None.

    Raises:
        UsageError: the file is missing, damaged or no table, lacks a column or a row, or an integer exceeds int64.

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
    path = Path(path)
    optional = list(optional)

    def choose(available: Mapping[str, bool]) -> dict[str, str]:
        return _choose(path, available, columns, optional)

    kept: _Rows = slice(None) if rows is None else np.asarray(rows, dtype=np.int64)
    read, kind, packed = _reader(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path, packed, choose, kept)
    except UsageError:
        raise
    except Exception as error:  # damage is met with almost any class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"{path}: cannot be read as {kind} ({reason})"
        raise UsageError(message) from error


def _reader(path: Path) -> tuple[Callable[[Path, bool, _Choose, _Rows], _Table], str, bool]:
    """Return what reads the file, the name of its format, and whether it is compressed by gzip."""
    packed = False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        packed = head.startswith(_GZIP_MAGIC)
        if packed:
            with gzip.open(path) as unpacked:
                head = unpacked.read(_HEAD_BYTES)
    except FileNotFoundError:
        message = f"{path}: the file does not exist"
        raise UsageError(message) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{path}: cannot be read ({reason})"
        raise UsageError(message) from None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"simple  ="):
        return _read_fits, "FITS", packed
    if head.startswith(b"PAR1"):
        return _read_parquet, "Parquet", packed
    if b"<votable" in start:
        return _read_votable, "VOTable", packed
    if not start or b"\0" in head or start.startswith((b"<", b"{")):
        what = "is empty" if not start else "is no table"
        message = f"{path}: {what}; give FITS, Parquet, VOTable, ECSV or text with a header line"
        raise UsageError(message)
    return _read_text, "text", packed


def _choose(
    path: Path, available: Mapping[str, bool], columns: Sequence[str] | None, optional: Sequence[str]
) -> dict[str, str]:
    """Return ``{name asked for: name in the file}``; `available` says of each name whether it has one value a row."""
    if columns is None:
        return {name: name for name, single in available.items() if single}
    folded: dict[str, str] = {}
    for name in available:
        folded.setdefault(name.lower(), name)
    found = {name: name if name in available else folded.get(name.lower(), "") for name in [*columns, *optional]}
    missing = [name for name in columns if not found[name]]
    if missing:
        near = {name: difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.0) for name in missing}
        parts = [f"no column {name!r}" + "".join(f"; did you mean {folded[n]!r}?" for n in near[name]) for name in near]
        message = f"{path}: " + " ".join(parts)
        raise UsageError(message)
    for name in columns:
        if not available[found[name]]:
            message = f"{path}: column {found[name]!r} holds arrays, not one value a row"
            raise UsageError(message)
    return {name: there for name, there in found.items() if there and available[there]}


def _plain(values: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values in this machine's byte order with the schema's nulls."""
    kind = values.dtype.kind
    if kind == "b" and not null.any():
        return np.array(values, dtype=bool)
    if kind in "iub":
        if kind == "u" and values.size and values[~null].max(initial=0) > np.iinfo(np.int64).max:
            message = f"{values[~null].max()} exceeds int64"
            raise ValueError(message)
        whole = values.astype(np.int64)
        whole[null] = INT_NULL
        return whole
    if kind == "f":
        size = max(values.dtype.itemsize, 4)
        floats = values.astype(f"f{min(size, 8)}")
        floats[null] = np.nan
        return floats
    text = np.empty(values.shape, dtype=object)
    if kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    text[:] = [_text(cell) for cell in values.tolist()]
    text[null] = ""
    return text


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "backslashreplace")
    return "" if cell is None else str(cell).rstrip(" \0")


def _read_fits(path: Path, packed: bool, choose: _Choose, rows: _Rows) -> _Table:
    from astropy.io import fits

    with fits.open(path, memmap=True, uint=True) as hdus:  # a map, so that columns left out are not read
        hdu = next((unit for unit in hdus if isinstance(unit, fits.BinTableHDU)), None)
        if hdu is None:
            message = f"{path}: no binary table in this FITS file"
            raise UsageError(message)
        if not packed and hdu.fileinfo()["datLoc"] + hdu.size > path.stat().st_size:
            message = "cut short: less data than its header promises"
            raise ValueError(message)
        if "DATASUM" in hdu.header and not hdu.verify_datasum():
            message = "its checksum does not fit: the file is damaged"
            raise ValueError(message)
        stored = np.asarray(hdu.data).dtype
        single = {c.name: not stored[c.name].shape and not c.dim and stored[c.name].kind != "c" for c in hdu.columns}
        return {name: _fits_column(hdu, there)[rows] for name, there in choose(single).items()}


def _fits_column(hdu: Any, name: str) -> NDArray[Any]:
    column = hdu.columns[name]
    raw = np.asarray(hdu.data)[name]
    if raw.dtype.kind == "S":
        return _plain(raw, np.zeros(len(raw), dtype=bool))
    values = np.asarray(hdu.data[name])
    if values.dtype.kind == "b":
        return _plain(values, raw == 0)
    stated = column.null is not None and raw.dtype.kind in "iu"
    return _plain(values, raw == column.null if stated else np.zeros(len(raw), dtype=bool))


def _read_votable(path: Path, packed: bool, choose: _Choose, rows: _Rows) -> _Table:
    from astropy.io import votable

    table = votable.parse(str(path), verify="ignore").get_first_table()
    places = {field.name: place for place, field in enumerate(table.fields)}
    chars = ("char", "unicodeChar")
    single = {f.name: f.datatype in chars or f.arraysize in (None, "1") for f in table.fields}
    result = {}
    for name, there in choose(single).items():
        column = table.array[table.array.dtype.names[places[there]]]
        result[name] = _plain(np.ma.getdata(column), np.ma.getmaskarray(column))[rows]
    return result


def _read_parquet(path: Path, packed: bool, choose: _Choose, rows: _Rows) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        single = {field.name: not pa.types.is_nested(field.type) for field in file.schema_arrow}
        return {name: _from_arrow(file.read(columns=[there])[there])[rows] for name, there in choose(single).items()}


def _read_text(path: Path, packed: bool, choose: _Choose, rows: _Rows) -> _Table:
    import pyarrow as pa
    from pyarrow import csv

    with gzip.open(path) if packed else path.open("rb") as file:
        skipped, ecsv, spaced = 0, False, True
        for line in file:
            if not line.removeprefix(b"\xef\xbb\xbf").startswith(b"#"):
                break
            skipped, ecsv = skipped + 1, ecsv or b"%ECSV" in line
            spaced = spaced and not line.startswith(b"# delimiter: ','")
    header = line.decode("utf-8", "backslashreplace").removeprefix("\ufeff")
    delimiter = " " if ecsv and spaced else max(_DELIMITERS, key=header.count)
    parse = csv.ParseOptions(delimiter=delimiter)
    options = {"read_options": csv.ReadOptions(skip_rows=skipped), "parse_options": parse}

    def stream() -> Any:
        return pa.input_stream(str(path), compression="gzip" if packed else None)

    with stream() as source, csv.open_csv(source, **options) as peek:
        names = peek.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        message = f"{path}: column {repeated[0]!r} stands there {names.count(repeated[0])} times; rename one"
        raise UsageError(message)
    wanted = choose(dict.fromkeys(names, True))
    chosen = list(dict.fromkeys(wanted.values()))
    convert = csv.ConvertOptions(
        include_columns=chosen,
        column_types=dict.fromkeys(chosen, pa.binary()),  # else the first block would decide the types
        null_values=_NULL_WORDS,
        strings_can_be_null=True,
    )
    if not chosen:
        return {}
    with stream() as source:
        table = csv.read_csv(source, convert_options=convert, **options)
    return {name: _from_words(table[there])[rows] for name, there in wanted.items()}


def _from_words(words: Any) -> NDArray[Any]:
    import pyarrow as pa

    if words.null_count == len(words):
        return np.full(len(words), np.nan)
    try:
        words = words.cast(pa.large_string())
    except pa.ArrowInvalid:
        return _from_arrow(words)
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return _from_arrow(words.cast(kind))
        except pa.ArrowInvalid:
            continue
    return _from_arrow(words)


def _from_arrow(values: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        values = values.cast(pa.float64())
    elif pa.types.is_temporal(kind):
        values = values.cast(pa.string())
    null = values.is_null().to_numpy()
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        values = values.fill_null(False if pa.types.is_boolean(values.type) else 0)
    return _plain(values.to_numpy(), null)
