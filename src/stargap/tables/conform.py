"""Tables and their schema: columns are made to fit it, or every violation is listed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.tables.columns import (
    CATALOGUE,
    DOMAINS,
    INT_NULL,
    MEASURED,
    PAPER,
    STARS,
    SURVEY,
    Column,
    columns_table,
)

__all__ = ["CATALOGUE", "DOMAINS", "INT_NULL", "MEASURED", "PAPER", "STARS", "SURVEY", "Column", "columns_table",
           "conform", "validate"]  # fmt: skip

_INF = float("inf")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def conform(columns: Mapping[str, ArrayLike], *, schema: Sequence[Column] = MEASURED) -> dict[str, NDArray[Any]]:
    """Return the columns in the schema's order and dtypes, nulls as the schema's null values.

    Integers come from integers or booleans only, so that no identifier passes through a float. None and
    masked entries become the null. A float too large for float32 becomes infinite. In text, control
    characters and undecodable bytes of file names become backslash escapes: no table format carries them.

    Args:
        columns: one array ``(row,)`` per column; bool, int, float or text, None allowed in lists.

    Raises:
        UsageError: columns are missing, unknown, of unequal lengths, or do not fit their dtype without loss.

    Example:
        >>> schema = (Column("obsid", "int64"), Column("rv", "float32", "km/s"), Column("release", "str"))
        >>> columns = {"release": ["dr10", None], "rv": [1.5, None], "obsid": [None, 2**62]}
        >>> table = conform(columns, schema=schema)
        >>> table["obsid"], table["rv"].tolist(), table["release"].tolist()
        (array([ -9999, 4611686018427387904]), [1.5, nan], ['dr10', ''])
    """
    problems = _name_problems(columns, schema)
    if problems:
        message = "; ".join(problems)
        raise UsageError(message)
    table = {column.name: _conform_one(column, columns[column.name]) for column in schema}
    problems = _length_problems(table)
    if problems:
        raise UsageError(problems[0])
    return table


def validate(table: Mapping[str, ArrayLike], *, schema: Sequence[Column] = MEASURED) -> list[str]:
    """Return one sentence for each way in which a table ``{name: (row,)}`` breaks the schema; empty if none.

    It checks names, lengths, exact dtypes, valid ranges, infinities, and that ``spectrum_id`` is set and
    unique. For an astropy table give ``table.columns``.

    Example:
        >>> schema = (Column("spectrum_id", "int64"), Column("teff", "float32", valid_range=(2000, 7000)))
        >>> teff = np.array([3100, 9999, np.nan], dtype=np.float32)
        >>> validate({"spectrum_id": np.array([1, 2, 2]), "teff": teff}, schema=schema)
        ['spectrum_id: 1 of 3 values repeat, such as 2', 'teff: 1 of 3 values outside 2000 to 7000, ...']
        >>> validate({"spectrum_id": np.arange(3)}, schema=schema)
        ["columns missing: 'teff'"]
    """
    problems = _name_problems(table, schema)
    arrays: dict[str, NDArray[Any]] = {
        column.name: np.ma.asanyarray(table[column.name]) for column in schema if column.name in table
    }
    problems += _length_problems(arrays)
    for column in schema:
        values = arrays.get(column.name)
        if values is None:
            continue
        if not _has_dtype(column, values):
            problems.append(f"{column.name}: dtype {values.dtype}, expected {column.dtype}")
            continue
        if column.name == "spectrum_id":
            problems += _identity_problems(column, values)
        if column.dtype not in ("bool", "str"):
            problems += _range_problems(column, values)
    return problems


def _name_problems(columns: Mapping[str, ArrayLike], schema: Sequence[Column]) -> list[str]:
    names = [column.name for column in schema]
    missing = ", ".join(repr(name) for name in names if name not in columns)
    extra = ", ".join(repr(name) for name in columns if name not in names)
    return [f"columns {what}: {which}" for what, which in (("missing", missing), ("unknown", extra)) if which]


def _length_problems(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    lengths: dict[int, str] = {}
    for name, values in arrays.items():
        lengths.setdefault(values.size, name)
    if len(lengths) < 2:
        return []
    return ["columns differ in length: " + ", ".join(f"{name} has {n} rows" for n, name in lengths.items())]


def _has_dtype(column: Column, values: NDArray[Any]) -> bool:
    if column.dtype != "str":
        return values.dtype.newbyteorder("=") == np.dtype(column.dtype)
    if values.dtype.kind == "O":
        return all(isinstance(value, str) for value in np.ma.getdata(values)[~np.ma.getmaskarray(values)])
    return values.dtype.kind in "US"


def _identity_problems(column: Column, values: NDArray[Any]) -> list[str]:
    null = column.is_null(values)
    problems = [f"spectrum_id: {null.sum()} of {len(values)} values are null"] if null.any() else []
    ids, counts = np.unique(np.ma.getdata(values)[~null], return_counts=True)
    if (counts > 1).any():
        repeats = int((counts - 1).sum())
        problems.append(f"spectrum_id: {repeats} of {len(values)} values repeat, such as {ids[counts > 1][0]}")
    return problems


def _range_problems(column: Column, values: NDArray[Any]) -> list[str]:
    low, high = column.valid_range or (-_INF, _INF)
    plain = np.ma.getdata(values)
    outside = ~column.is_null(values) & ((plain < low) | (plain > high) | np.isinf(plain))
    if not outside.any():
        return []
    row = int(outside.argmax())
    what = "are infinite" if np.isinf(plain[outside]).all() else f"outside {low:g} to {high:g}"
    return [f"{column.name}: {outside.sum()} of {len(plain)} values {what}, first in row {row}: {plain[row]}"]


def _conform_one(column: Column, values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        array = values
    else:
        array = np.asarray(values, dtype=object if column.dtype == "str" else None)
    if array.ndim != 1:
        message = f"column {column.name!r}: one value per row expected, got an array of shape {array.shape}"
        raise UsageError(message)
    if array.size == 0:
        return np.empty(0, dtype=object if column.dtype == "str" else column.dtype)
    null = np.ma.getmaskarray(array)
    array = np.ma.getdata(array)
    if array.dtype.kind == "O":
        null = null | np.equal(array, None)  # type: ignore[call-overload]
    if column.dtype == "str":
        return _text(column, array, null)
    if column.dtype.startswith("float"):
        return _floats(column, array, null)
    return _whole(column, array, null)


def _floats(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    if array.dtype.kind not in "fiuO":
        raise _misfit(column, f"holds {array.dtype}")
    try:
        with np.errstate(over="ignore"):
            result = array.astype(column.dtype, copy=bool(null.any()))
    except (TypeError, ValueError) as error:
        raise _misfit(column, str(error)) from error
    if null.any():
        result[null] = np.nan
    return result


def _whole(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    target = np.dtype(column.dtype)
    if column.null is None and null.any():
        raise _misfit(column, f"{null.sum()} null values, and a bool column has no null; make it int32")
    kept = array[~null] if null.any() else array
    kinds = "b" if target.kind == "b" else "iub"
    types = (bool, np.bool_) if target.kind == "b" else (int, np.integer, np.bool_)
    if array.dtype.kind == "O":
        wrong = [value for value in kept if not isinstance(value, types)]
    else:
        wrong = [] if array.dtype.kind in kinds else kept[:1].tolist()
    if wrong:
        raise _misfit(column, f"holds {type(wrong[0]).__name__} {wrong[0]!r}")
    if target.kind == "i" and kept.size:
        limits = np.iinfo(target)
        for value in (int(kept.min()), int(kept.max())):
            if not limits.min <= value <= limits.max:
                raise _misfit(column, f"{value} does not fit")
    result = np.full(array.shape, column.null if target.kind == "i" else False, dtype=target)
    result[~null] = kept.astype(target)
    return result


def _text(column: Column, array: NDArray[Any], null: NDArray[np.bool_]) -> NDArray[Any]:
    if array.dtype.kind not in "SUO":
        raise _misfit(column, f"holds {array.dtype}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if null.any():
        array = np.where(null, "", array.astype(object))
    cells = array.tolist()
    try:
        text = "".join(set(cells))
    except TypeError:
        odd = next(cell for cell in cells if not isinstance(cell, str))
        raise _misfit(column, f"holds {type(odd).__name__} {odd!r}") from None
    if not (text.isascii() and text.isprintable()) and _UNPRINTABLE.search(text):
        clean = [_UNPRINTABLE.sub(lambda match: _escaped(match.group()), cell) for cell in cells]
        array = np.array(clean, dtype=object)
    return array


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _misfit(column: Column, reason: str) -> UsageError:
    null = "" if column.null is None else f", with {column.null!r} or None where there is no value"
    return UsageError(f"column {column.name!r}: {reason}; give {column.dtype}{null}")
