"""VOTables: written with all that the schema says, and read as services give them, but never cut short or from afar."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.arrow import arrow_table
from stargap.tables.columns import Column
from stargap.tables.fits import ascii_text
from stargap.tables.source import Field, Parts, Source, plain, unpacked

__all__ = ["votable_header", "votable_sources", "write_votable"]

_TYPES = {"int64": "long", "int32": "int", "float64": "double", "float32": "float", "bool": "boolean"}
_DTYPES = {kind: dtype for dtype, kind in _TYPES.items()} | {"char": "str", "unicodeChar": "str"}
_UNITS = {"Angstrom": "0.1nm"}
_NULLS = {"int64": "-9999", "int32": "-9999", "float64": "NaN", "float32": "NaN"}
_FRAMES: Mapping[str, tuple[str, ...]] = {
    "icrs": ("ra", "dec", "RA", "Dec"),
    "gaia_dr3": ("pmra", "pmdec", "parallax", "Plx"),
    "local_night": ("lmjd",),
}
"""Systems of coordinates and times: positions are of the survey's input catalogue, whose epoch is not known; the local
modified Julian day counts nights of the observatory."""
_ROWS_PER_BLOCK = 10_000
_BYTES_PER_BLOCK = 1 << 22
_LONGEST_TAG = 4096
_REMOTE = re.compile(rb"<(?:\w+:)?(?:STREAM|PARQUET)\b[^>]*?\bhref\s*=\s*[\"']([^\"']*)", re.IGNORECASE)
_ENTITY = re.compile(rb"<!ENTITY", re.IGNORECASE)


def write_votable(parts: Parts, schema: Sequence[Column], provenance: Mapping[str, str], file: BinaryIO) -> None:
    """Write a table whose parts are as `stargap.tables.conform.conform` returns them, block by block."""
    head, tail = votable_header(schema, provenance).split("</TABLE>")
    file.write(f"{head} <DATA>\n    <TABLEDATA>\n".encode())
    for part in parts(schema):
        table = arrow_table(part, schema, all_nulls=True)
        for start in range(0, table.num_rows, _ROWS_PER_BLOCK):
            rows = _cells(table.slice(start, _ROWS_PER_BLOCK), schema)
            file.write("".join(f"     <TR><TD>{row}</TD></TR>\n" for row in rows).encode())
    file.write(f"    </TABLEDATA>\n   </DATA>\n  </TABLE>{tail}".encode())


def _cells(block: Any, schema: Sequence[Column]) -> list[str]:
    """Return the cells of each row of an arrow table as XML, with tags between them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = []
    for column, values in zip(schema, block.columns, strict=True):
        text = pc.cast(values, pa.string()).fill_null(_NULLS.get(column.dtype, ""))
        replaced = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")) if column.dtype == "str" else (("inf", "Inf"),)
        for old, new in replaced:
            text = pc.replace_substring(text, old, new)
        cells.append(text)
    rows: list[str] = pc.binary_join_element_wise(*cells, "</TD><TD>").to_pylist()
    return rows


def votable_header(
    schema: Sequence[Column], provenance: Mapping[str, str], longest: Mapping[str, int] | None = None
) -> str:
    """Return a VOTable without data: fields with units, UCDs, nulls, limits and frames, and the provenance as INFO.

    Args:
        schema: of the table.
        provenance: names and texts.
        longest: characters of the longest text of a column, where that is known: astropy's reader of Parquet needs it.
    """
    from astropy.io.votable import tree

    document = tree.VOTableFile(version="1.4")
    resource = tree.Resource()
    frames = _add_frames(resource, {column.name for column in schema})
    table = tree.TableElement(document, name="stargap")
    for number, (name, value) in enumerate(provenance.items(), start=1):
        resource.infos.append(tree.Info(ID=f"provenance_{number}", name=name, value=ascii_text(value)))
    for column in schema:
        size = (longest or {}).get(column.name)
        text = {"datatype": "unicodeChar", "arraysize": "*" if size is None else str(size)}
        kind = text if column.dtype == "str" else {"datatype": _TYPES[column.dtype]}
        unit = _UNITS.get(column.unit, column.unit) or None
        identity = re.sub(r"\W+", "_", column.name).strip("_")
        field = tree.Field(document, ID=identity, name=column.name, unit=unit, ucd=column.ucd or None, **kind)
        field.description = column.description
        field.ref = frames.get(column.name)
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


def _add_frames(resource: Any, names: Collection[str]) -> dict[str, str]:
    """Add the coordinate and time systems of the columns that a table has, and return which column refers to which."""
    from astropy.io.votable import tree

    frames = {name: frame for frame, columns in _FRAMES.items() for name in columns if name in names}
    for frame in dict.fromkeys(frames.values()):
        if frame == "local_night":
            night = {"timeorigin": "MJD-origin", "timescale": "UNKNOWN", "refposition": "TOPOCENTER"}
            resource.time_systems.append(tree.TimeSys(ID=frame, **night, config={"version_1_4_or_later": True}))
        else:
            epoch = "J2016.0" if frame == "gaia_dr3" else None
            resource.coordinate_systems.append(tree.CooSys(ID=frame, system="ICRS", epoch=epoch))
    return frames


@contextmanager
def votable_sources(path: Path, content: bytes | None = None) -> Iterator[list[Source]]:
    """Give the tables of a VOTable; nothing is fetched from the addresses in it.

    Args:
        path: the file, plain or gzip.
        content: the file's text, where it is not UTF-8.

    Raises:
        UsageError: the service that wrote it reports an error or cut it short, or its data are kept elsewhere.
    """
    from astropy.io import votable

    _refuse_references(path, content)
    document = votable.parse(str(path) if content is None else io.BytesIO(content), verify="ignore")
    _refuse_service_errors(path, document)
    tables = [table for table in document.iter_tables() if not table.is_empty() or table.fields]
    yield [_source(number, table) for number, table in enumerate(tables, start=1)]


def _source(number: int, table: Any) -> Source:
    fields = {}
    for field in table.fields:
        dtype = _DTYPES.get(field.datatype, field.datatype)
        single = field.datatype in ("char", "unicodeChar") or field.arraysize in (None, "1")
        null = field.values.null if dtype.startswith("int") else Field().null
        unit = str(field.unit or "").replace(" ", "").replace("0.1nm", "Angstrom")
        fields[field.name] = Field(single, dtype, unit, field.ucd or "", null)
    keys = dict(zip(fields, table.array.dtype.names or (), strict=False))

    def read(names: Sequence[str]) -> Iterator[NDArray[Any]]:
        for name in names:
            column = table.array[keys[name]]
            yield plain(np.ma.getdata(column), np.ma.getmaskarray(column))

    return Source(f"table {number}", fields, len(table.array), read)


def _refuse_references(path: Path, content: bytes | None) -> None:
    """Refuse data at another address, which astropy would fetch, and XML entities, which can expand without bound."""
    for block in _blocks(path, content):
        if found := _REMOTE.search(block):
            address = found[1][:100].decode("ascii", "backslashreplace")
            message = f"{path}: its data are at another address ({address}), which is not read from here; "
            message += "download them and give a file that holds them"
            raise UsageError(message)
        if _ENTITY.search(block):
            message = f"{path}: defines XML entities, which no VOTable needs; give a plain one"
            raise UsageError(message)


def _blocks(path: Path, content: bytes | None) -> Iterator[bytes]:
    """Yield the file in blocks that overlap by the length of a tag."""
    with io.BytesIO(content) if content is not None else unpacked(path) as file:
        last = b""
        while block := file.read(_BYTES_PER_BLOCK):
            yield last + block
            last = block[-_LONGEST_TAG:]


def _refuse_service_errors(path: Path, document: Any) -> None:
    infos = [*document.infos, *(info for resource in document.resources for info in _infos(resource))]
    for info in infos:
        name, value = str(info.name or info.ID or "").upper(), str(info.value or "").upper()
        words = " ".join(str(info.content or "").split())
        if (name == "QUERY_STATUS" and value == "ERROR") or name == "ERROR":
            message = f"{path}: holds no table but a service's error: {words or info.value}"
            raise UsageError(message)
        if name == "QUERY_STATUS" and value == "OVERFLOW":
            reason = f"QUERY_STATUS = OVERFLOW{': ' if words else ''}{words}"
            message = f"{path}: was cut short by the service that made it ({reason}); "
            message += "ask again for all rows, or for fewer at a time"
            raise UsageError(message)


def _infos(resource: Any) -> list[Any]:
    inner = [info for one in resource.resources for info in _infos(one)]
    return [*resource.infos, *(info for table in resource.tables for info in table.infos), *inner]
