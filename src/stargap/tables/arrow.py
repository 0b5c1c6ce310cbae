"""Between arrow's arrays and numpy's: the schema's nulls on one side, arrow's on the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.tables.columns import INT_NULL, Column
from stargap.tables.source import plain

__all__ = ["arrow_table", "from_arrow", "product_column"]


def arrow_table(arrays: Mapping[str, NDArray[Any]], schema: Sequence[Column], *, all_nulls: bool) -> Any:
    """Return columns as an arrow table, nulls of numbers, or of text as well, as arrow's nulls."""
    import pyarrow as pa

    columns, fields = [], []
    for column in schema:
        values = arrays[column.name]
        null = column.is_null(values) if all_nulls or column.dtype != "str" else None
        kind = pa.type_for_alias("string" if column.dtype == "str" else column.dtype)
        columns.append(pa.chunked_array([pa.array(values, type=kind, mask=null)], type=kind))
        about = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
        fields.append(pa.field(column.name, kind, metadata={key: text for key, text in about.items() if text}))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def from_arrow(values: Any) -> NDArray[Any]:
    """Return an arrow array of a table of anybody as `stargap.tables.source.plain` does: integers become int64."""
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
    return plain(values.to_numpy(), null)


def product_column(values: Any) -> NDArray[Any]:
    """Return an arrow array of a table of stargap in its own type; equal texts share their memory."""
    import pyarrow as pa

    if pa.types.is_string(values.type):
        words = values.fill_null("").dictionary_encode()
        return np.asarray(words.dictionary.to_numpy(zero_copy_only=False)[words.indices.to_numpy()])
    if pa.types.is_integer(values.type):
        values = values.fill_null(INT_NULL)
    elif pa.types.is_floating(values.type):
        values = values.fill_null(math.nan)
    return np.asarray(values.to_numpy(zero_copy_only=False))
