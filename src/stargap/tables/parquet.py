"""Parquet: tables with all that the schema says, part by part; every page carries a checksum, which is verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.rows import AnyColumn
from stargap.tables.arrow import arrow_table, from_arrow, product_column
from stargap.tables.columns import MEASURED, SURVEY, Column
from stargap.tables.conform import conform
from stargap.tables.source import Field, Parts, Source
from stargap.tables.votable import votable_header
from stargap.workers import each_ahead

__all__ = ["open_parquet", "parquet_sources", "parquet_writer", "provenance_of", "read_columns", "read_parts",
           "read_row_group", "write_columns", "write_parquet", "write_parts"]  # fmt: skip

_DTYPES = {"double": "float64", "float": "float32", "string": "str", "large_string": "str"}
_ROWS_OF_ANY_FILE, _ROWS_PER_BYTE = 10_000_000, 1000
"""Bounds on rows: a file of a few bytes can claim any number of equal ones."""
_CHECKED = {column.name: column.valid_range for column in SURVEY if column.name in ("rv", "teff", "logg", "m_h", "a_m")}
"""Valid ranges of what we measure ourselves: a value of a product outside of them is damage."""


def parquet_writer(file: BinaryIO | Path, schema: Any) -> Any:
    """Return a pyarrow writer as all Parquet files of stargap are written: zstd, and a checksum in every page."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)


@contextmanager
def open_parquet(path: str | Path, metadata: Any = None) -> Iterator[Any]:
    """Open a Parquet file (pyarrow's ParquetFile) whose pages are compared with their checksums when they are read.

    Args:
        path: the file.
        metadata: its footer (``ParquetFile.metadata``), where that has been read before.

    Raises:
        UsageError: the file does not exist or is damaged, also where that is only found while it is read.

    Example:
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_columns(file, {"row": np.arange(1000)})
        >>> content = bytearray(file.read_bytes())
        >>> content[500] ^= 1
        >>> _ = file.write_bytes(content)
        >>> read_columns(file)
        Traceback (most recent call last):
        stargap.errors.UsageError: ...t.parquet: is damaged (...CRC checksum verification failed...
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would keep what has been read until the file is closed
        with pq.ParquetFile(path, metadata=metadata, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError:
        message = f"{path}: the file does not exist"
        raise UsageError(message) from None
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # such as a full disk; arrow's own errors have no number
            raise
        message = f"{path}: is damaged ({' '.join(str(error).split())[:200]}); make it again"
        raise UsageError(message) from error


def write_parquet(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write parts as `stargap.tables.conform.conform` returns them, with units, UCDs, descriptions and provenance."""
    _write_described(parts(schema), schema, provenance, file)


def write_parts(
    parts: Iterable[Mapping[str, ArrayLike]],
    path: str | Path,
    *,
    schema: Sequence[Column] = MEASURED,
    provenance: Mapping[str, str],
) -> None:
    """Write a Parquet table part by part, each a row group, in the memory of a few parts.

    Otherwise it is as `stargap.tables.write.write_table` writes it.

    Raises:
        UsageError: a part does not fit the schema.
    """
    with replacing(path) as file:
        _write_described((conform(part, schema=schema) for part in parts), schema, provenance, file)


def _write_described(
    parts: Iterable[Mapping[str, NDArray[Any]]], schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO
) -> None:
    """Write parts of a table, and at the end the VOTable header, which says how long texts are.

    Each part is written while the next one is made.
    """
    nothing = {column.name: np.empty(0, object if column.dtype == "str" else column.dtype) for column in schema}
    kinds = arrow_table(nothing, schema, all_nulls=False).replace_schema_metadata(dict(provenance)).schema
    longest = {column.name: 1 for column in schema if column.dtype == "str"}
    with parquet_writer(file, kinds) as writer, ThreadPoolExecutor(1) as thread:
        writing: Future[None] | None = None
        for arrays in parts:
            table = arrow_table(arrays, schema, all_nulls=False).cast(kinds)
            longest |= {name: max([size, *map(len, arrays[name])]) for name, size in longest.items()}
            if writing is not None:
                writing.result()
            writing = thread.submit(writer.write_table, table)
        if writing is not None:
            writing.result()
        header = votable_header(schema, provenance, longest)
        writer.add_key_value_metadata({"IVOA.VOTable-Parquet.version": "1.0", "IVOA.VOTable-Parquet.content": header})


def write_columns(path: str | Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a Parquet table without a schema of ours; the folder is made if it does not exist."""
    import pyarrow as pa

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    with replacing(path) as file, parquet_writer(file, table.schema) as writer:
        writer.write_table(table)


def read_parts(path: str | Path, columns: Sequence[str], *, rows: int = 100_000) -> Iterator[dict[str, AnyColumn]]:
    """Yield columns of a Parquet table of stargap, some rows at a time; the next ones are read while these are used.

    Nulls are those of the schema; equal texts share their memory.

    Raises:
        UsageError: the file is damaged.

    Example:
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_table({"obsid": [1, None, 3]}, file, schema=[Column("obsid", "int64")], provenance={})
        >>> [part["obsid"].tolist() for part in read_parts(file, ["obsid"], rows=2)]
        [[1, -9999], [3]]
    """
    with open_parquet(path) as file:
        batches = file.iter_batches(rows, columns=list(columns))
        yield from each_ahead(
            {name: _checked(path, name, product_column(batch[name])) for name in columns} for batch in batches
        )


def read_row_group(path: str | Path, number: int) -> Any:
    """Return one row group of a Parquet file as an arrow table; where row groups are is read once.

    Raises:
        UsageError: the file does not exist or is damaged.

    Example:
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_columns(file, {"row": np.arange(3)})
        >>> read_row_group(file, 0)["row"].to_pylist()
        [0, 1, 2]
    """
    path = Path(path)
    found = path.stat() if path.exists() else None
    footer = None if found is None else _footer(path, found.st_mtime_ns, found.st_ino, found.st_size)
    with open_parquet(path, footer) as file:
        return file.read_row_group(number)


@lru_cache(maxsize=2)
def _footer(path: Path, *stamps: int) -> Any:
    with open_parquet(path) as file:
        return file.metadata


def read_columns(
    path: str | Path, columns: Sequence[str] | None = None, *, rows: NDArray[np.int64] | None = None
) -> dict[str, AnyColumn]:
    """Return columns of a Parquet table of stargap as `read_parts` gives them, all if `columns` is None.

    Of a few `rows` no more than one whole column at a time is in memory, and none as Python's objects.

    Raises:
        UsageError: the file does not exist, is damaged, or lacks a column.
    """
    import pyarrow as pa

    with open_parquet(path) as file:
        names = list(file.schema_arrow.names) if columns is None else list(columns)
        lacking = [name for name in names if name not in file.schema_arrow.names]
        if lacking:
            message = f"{path}: has no column {', '.join(map(repr, lacking))}"
            raise UsageError(message)
        given = (file.read(columns=[name])[name].combine_chunks() for name in names)
        wanted = given if rows is None else (values.take(rows) for values in given)
        table = {name: product_column(values) for name, values in zip(names, wanted, strict=True)}
    pa.default_memory_pool().release_unused()
    if len({len(values) for values in table.values()}) > 1:
        message = f"{path}: is damaged (columns differ in length); make it again"
        raise UsageError(message)
    return {name: _checked(path, name, values) for name, values in table.items()}


def provenance_of(path: str | Path) -> dict[str, str]:
    """Return the provenance that a Parquet table carries.

    Example:
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_table({"obsid": [1]}, file, schema=[Column("obsid", "int64")], provenance={"creator": "stargap"})
        >>> provenance_of(file)
        {'creator': 'stargap'}
    """
    with open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    found = {key.decode(): value.decode() for key, value in metadata.items()}
    return {key: value for key, value in found.items() if not key.startswith(("IVOA.", "ARROW:", "pandas"))}


@contextmanager
def parquet_sources(path: Path) -> Iterator[list[Source]]:
    """Give the table of a Parquet file of anybody; one column at a time is decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = file.metadata.num_rows
        if rows > max(_ROWS_OF_ANY_FILE, _ROWS_PER_BYTE * path.stat().st_size):
            message = f"{path}: claims {rows:,} rows in {path.stat().st_size:,} bytes, which no real table does"
            raise UsageError(message)
        fields = {}
        for field in file.schema_arrow:
            about = field.metadata or {}
            unit, ucd = (about.get(key, b"").decode() for key in (b"unit", b"ucd"))
            dtype = _DTYPES.get(str(field.type), str(field.type))
            fields[field.name] = Field(not pa.types.is_nested(field.type), dtype, unit, ucd)

        def read(names: Sequence[str]) -> Iterator[NDArray[Any]]:
            for name in names:
                yield from_arrow(file.read(columns=[name])[name])

        yield [Source("the table", fields, rows, read)]


def _checked(path: str | Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a product, or refuse those that no measurement can have given."""
    if (limits := _CHECKED.get(name)) is not None and values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            outside = (values < limits[0]) | (values > limits[1])
        if outside.any():
            row = int(outside.argmax())
            message = f"{path}: is damaged ({name} is {values[row]} in row {row}, outside {limits[0]:g} to "
            message += f"{limits[1]:g}); make it again"
            raise UsageError(message)
    return values
