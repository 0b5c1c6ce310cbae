"""Tables on disk as FITS, Parquet, CSV, VOTable or ECSV, complete or not there at all."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.tables.columns import INT_NULL, MEASURED, Column
from stargap.tables.conform import conform
from stargap.tables.fits import ascii_text, write_fits

__all__ = [
    "check_output",
    "provenance_of",
    "read_columns",
    "read_parts",
    "write_parts",
    "write_table",
]

_Arrays = Mapping[str, NDArray[Any]]
_Provenance = Mapping[str, str]

_VOTABLE_TYPES = {"int64": "long", "int32": "int", "float64": "double", "float32": "float", "bool": "boolean"}
_VOTABLE_UNITS = {"Angstrom": "0.1nm"}
_ROWS_PER_BLOCK = 10_000


def check_output(path: str | Path) -> str:
    """Return the suffix that names the format of `path`, or refuse it before any work is done.

    Raises:
        UsageError: the suffix is unknown, the folder does not exist, or `path` is a folder.

    Example:
        >>> check_output("labels.parquet")
        '.parquet'
    """
    path = Path(path)
    suffix = next((suffix for suffix in _WRITERS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        message = f"cannot write {path.name!r}: its name must end in {', '.join(_WRITERS)}"
        raise UsageError(message)
    if not path.parent.is_dir():
        message = f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        raise UsageError(message)
    if not os.access(path.parent, os.W_OK):
        message = f"cannot write {path}: no permission to write in {path.parent}"
        raise UsageError(message)
    if path.is_dir():
        message = f"cannot write {path}: it is a folder; name a file"
        raise UsageError(message)
    return suffix


def write_table(
    columns: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    schema: Sequence[Column] = MEASURED,
    provenance: _Provenance,
) -> None:
    r"""Write a table in the format that the file's suffix names, replacing a file of that name.

    The bytes go to a hidden file in the same folder, which takes the final name once it is complete and on
    the disk; on any error nothing is left behind. Equal tables give equal bytes. Values outside the valid
    range are written as they are: ask :func:`stargap.tables.conform.validate`.

    ============================  ==========================================================================
    ``.fits``, ``.fits.gz``       binary table; TUNIT, TUCD, TCOMM, TNULL, TLMIN and TLMAX of each column,
                                  CHECKSUM and DATASUM; provenance as cards ``PROV1 = 'name = value'``
    ``.parquet``                  unit, ucd and description in the metadata of each field, provenance in that
                                  of the schema, beside an IVOA VOParquet header; integer nulls are nulls
    ``.csv``                      a header line and rows only; nulls are empty; no provenance
    ``.vot``, ``.xml``            VOTable 1.4, TABLEDATA; provenance as INFO
    ``.ecsv``                     astropy's CSV with units, descriptions, and provenance in ``meta``
    ============================  ==========================================================================

    FITS text is ASCII: any other character, a backslash, and a space or ``&`` at the end are written as
    Python escapes, which ``text.encode().decode("unicode_escape")`` undoes. VOTable spells the Angstrom
    ``0.1nm``, as its standard asks.

    Args:
        columns: one array ``(row,)`` a column, as :func:`stargap.tables.conform.conform` takes them.
        path: file to write, in a folder that exists.
        provenance: names and values kept with the table, such as version, settings and model hash.

    Raises:
        UsageError: the suffix is unknown, the folder does not exist, or the columns do not fit the schema.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> schema = (Column("obsid", "int64", "", "meta.id"), Column("rv", "float32", "km/s"))
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> table = {"obsid": [101, None], "rv": [-12.5, None]}
        >>> write_table(table, folder / "labels.csv", schema=schema, provenance={"version": "0.1.0"})
        >>> print((folder / "labels.csv").read_text())
        obsid,rv
        101,-12.5
        ,
        >>> write_table(table, folder / "labels.xls", schema=schema, provenance={})
        Traceback (most recent call last):
        stargap.errors.UsageError: cannot write 'labels.xls': its name must end in .fits, .fits.gz, ...
        >>> temporary.cleanup()
    """
    suffix = check_output(path)
    arrays = conform(columns, schema=schema)
    with replacing(path) as file:
        _WRITERS[suffix](arrays, schema, provenance, file)


def write_parts(
    parts: Iterable[Mapping[str, ArrayLike]],
    path: str | Path,
    *,
    schema: Sequence[Column] = MEASURED,
    provenance: _Provenance,
) -> None:
    """Write a Parquet table part by part, each a row group, in the memory of one part; otherwise as `write_table`.

    Raises:
        UsageError: see `conform`.
    """
    import pyarrow.parquet as pq

    with replacing(path) as file:
        writer = None
        for part in parts:
            table = _described(conform(part, schema=schema), schema, provenance)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is None:
            nothing = {column.name: np.empty(0, object if column.dtype == "str" else column.dtype) for column in schema}
            pq.write_table(_described(nothing, schema, provenance), file, compression="zstd")
        else:
            writer.close()


def read_parts(path: str | Path, columns: Sequence[str], *, rows: int = 100_000) -> Iterator[dict[str, NDArray[Any]]]:
    """Give columns of a Parquet table that `write_parts` or `write_table` made, some rows at a time.

    Nulls are those of the schema; equal texts share their memory.

    Example:
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_table({"obsid": [1, None, 3]}, file, schema=[Column("obsid", "int64")], provenance={})
        >>> [part["obsid"].tolist() for part in read_parts(file, ["obsid"], rows=2)]
        [[1, -9999], [3]]
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows, columns=list(columns)):
            yield {name: _plain(batch[name]) for name in columns}


def read_columns(path: str | Path, columns: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return columns of a Parquet table as `read_parts` gives them, all if `columns` is None."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = list(file.schema_arrow.names) if columns is None else list(columns)
        return {name: _plain(file.read(columns=[name])[name].combine_chunks()) for name in names}


def provenance_of(path: str | Path) -> dict[str, str]:
    """Return the provenance that a Parquet table carries.

    Example:
        >>> file = getfixture("tmp_path") / "t.parquet"
        >>> write_table({"obsid": [1]}, file, schema=[Column("obsid", "int64")], provenance={"creator": "stargap"})
        >>> provenance_of(file)
        {'creator': 'stargap'}
    """
    import pyarrow.parquet as pq

    told = {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}
    return {key: value for key, value in told.items() if not key.startswith(("IVOA.", "ARROW:", "pandas"))}


def _plain(values: Any) -> NDArray[Any]:
    """Return an arrow array as numpy's, nulls as the schema has them."""
    import pyarrow as pa

    if pa.types.is_string(values.type):
        words = values.fill_null("").dictionary_encode()
        return words.dictionary.to_numpy(zero_copy_only=False)[words.indices.to_numpy()]
    if pa.types.is_integer(values.type):
        values = values.fill_null(INT_NULL)
    elif pa.types.is_floating(values.type):
        values = values.fill_null(math.nan)
    return values.to_numpy(zero_copy_only=False)


def _write_fits_gz(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance, file: BinaryIO) -> None:
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        write_fits(arrays, schema, provenance, packed)  # type: ignore[arg-type]


def _arrow(arrays: _Arrays, schema: Sequence[Column], *, all_nulls: bool) -> Any:
    import pyarrow as pa

    columns, fields = [], []
    for column in schema:
        values = arrays[column.name]
        null = column.is_null(values) if all_nulls or column.dtype.startswith("int") else None
        kind = pa.type_for_alias("string" if column.dtype == "str" else column.dtype)
        columns.append(pa.chunked_array([pa.array(values, type=kind, mask=null)], type=kind))
        about = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
        fields.append(pa.field(column.name, kind, metadata={key: text for key, text in about.items() if text}))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _write_parquet(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance, file: BinaryIO) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_described(arrays, schema, provenance), file, compression="zstd")


def _described(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance) -> Any:
    """Return an arrow table with all that a Parquet file says of itself."""
    header = {
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": _votable_header(schema, provenance),
    }
    return _arrow(arrays, schema, all_nulls=False).replace_schema_metadata({**header, **provenance})


def _write_csv(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance, file: BinaryIO) -> None:
    _write_rows(_arrow(arrays, schema, all_nulls=True), file)


def _write_rows(table: Any, file: BinaryIO) -> None:
    import pyarrow.csv

    file.write((",".join(table.column_names) + "\n").encode())
    options = pyarrow.csv.WriteOptions(include_header=False, batch_size=_ROWS_PER_BLOCK)
    pyarrow.csv.write_csv(table, file, options)


def _write_ecsv(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance, file: BinaryIO) -> None:
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
    rows = _arrow(arrays, schema, all_nulls=True)
    for place, column in enumerate(schema):
        if column.dtype == "bool":
            words = pc.utf8_capitalize(pc.cast(rows[column.name], pa.string()))
            rows = rows.set_column(place, column.name, words)
    _write_rows(rows, file)


def _write_votable(arrays: _Arrays, schema: Sequence[Column], provenance: _Provenance, file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    head, tail = _votable_header(schema, provenance).split("</TABLE>")
    table = _arrow(arrays, schema, all_nulls=True)
    file.write(f"{head} <DATA>\n    <TABLEDATA>\n".encode())
    for start in range(0, table.num_rows, _ROWS_PER_BLOCK):
        cells = []
        for column, values in zip(schema, table.slice(start, _ROWS_PER_BLOCK).columns, strict=True):
            text = pc.cast(values, pa.string()).fill_null(_VOTABLE_NULLS.get(column.dtype, ""))
            replaced = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")) if column.dtype == "str" else (("inf", "Inf"),)
            for old, new in replaced:
                text = pc.replace_substring(text, old, new)
            cells.append(text)
        rows = pc.binary_join_element_wise(*cells, "</TD><TD>").to_pylist()
        file.write("".join(f"     <TR><TD>{row}</TD></TR>\n" for row in rows).encode())
    file.write(f"    </TABLEDATA>\n   </DATA>\n  </TABLE>{tail}".encode())


_VOTABLE_NULLS = {"int64": "-9999", "int32": "-9999", "float64": "NaN", "float32": "NaN"}


def _votable_header(schema: Sequence[Column], provenance: _Provenance) -> str:
    from astropy.io.votable import tree

    document = tree.VOTableFile(version="1.4")
    resource = tree.Resource()
    table = tree.TableElement(document, name="stargap")
    for number, (name, value) in enumerate(provenance.items(), start=1):
        resource.infos.append(tree.Info(ID=f"provenance_{number}", name=name, value=ascii_text(value)))
    for column in schema:
        text = {"datatype": "unicodeChar", "arraysize": "*"}
        kind = text if column.dtype == "str" else {"datatype": _VOTABLE_TYPES[column.dtype]}
        unit = _VOTABLE_UNITS.get(column.unit, column.unit) or None
        identity = re.sub(r"\W+", "_", column.name).strip("_")
        field = tree.Field(document, ID=identity, name=column.name, unit=unit, ucd=column.ucd or None, **kind)
        field.description = column.description
        if column.dtype.startswith("int"):
            field.values.null = column.null
        low, high = column.valid_range or (-math.inf, math.inf)
        field.values.min = low if math.isfinite(low) else None
        field.values.max = high if math.isfinite(high) else None
        table.fields.append(field)
    resource.tables.append(table)
    document.resources.append(resource)
    file = io.BytesIO()
    document.to_xml(file)
    return file.getvalue().decode()


_WRITERS: dict[str, Callable[[_Arrays, Sequence[Column], _Provenance, BinaryIO], None]] = {
    ".fits": write_fits,
    ".fits.gz": _write_fits_gz,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".vot": _write_votable,
    ".xml": _write_votable,
    ".ecsv": _write_ecsv,
}
