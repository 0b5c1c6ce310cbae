"""What is null in a table, what an identifier is, and which values can be true: one set of rules for every reader.

Tables of others mark a missing number in many ways: a mask, NaN, an empty cell, a word such as ``None`` or ``-``, or a
number that cannot be true, such as -999 or 99.99. Here they all become the nulls of the schema: NaN in floats, -9999 in
integers, ``""`` in text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.rows import AnyColumn, FloatColumn, IntColumn
from stargap.tables.columns import CATALOGUE, INT_NULL, Column

__all__ = ["NULL_WORDS", "converted", "equal_columns", "is_null_word", "known_values", "numbers", "parsed",
           "plain_column", "whole_ids", "whole_numbers"]  # fmt: skip

NULL_WORDS: Final = frozenset(
    ("", "null", "none", "nan", "n/a", "na", "<na>", "nat", "-", "--", "---", "...", "\\n", "masked", "indef", "nil")
)
"""Words that mean null in a cell of any type, in lower case and without spaces around them."""

_SENTINELS = np.array([9999.0, 9999.9, 9999.99, 999.0, 999.9, 999.99, 999.999, 99.99, 99.999])
"""Numbers that stand for null in tables of others, of either sign."""
_LARGEST_EXACT: Final = 2**53
"""Whole numbers up to this are exact in a float."""


def is_null_word(word: str) -> bool:
    r"""Return whether a word means null.

    Example:
        >>> [word for word in ("None", " ", "<NA>", "-", r"\N", "M1", "-1") if not is_null_word(word)]
        ['M1', '-1']
    """
    return word.strip().lower() in NULL_WORDS


def plain_column(values: ArrayLike) -> NDArray[Any]:
    """Return a column as a plain array, masked entries as the schema's nulls; booleans with nulls become int64.

    Example:
        >>> plain_column(np.ma.masked_array([1.5, 7.0], [False, True]))
        array([1.5, nan])
    """
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = np.asarray(np.ma.getdata(values))
    if mask is None or not mask.any():
        return array
    if array.dtype.kind == "f":
        return np.where(mask, np.nan, array)
    if array.dtype.kind in "iub":
        return np.where(mask, INT_NULL, array.astype(np.int64))
    return np.where(mask, "", array.astype(object))


def equal_columns(
    columns: Mapping[str, ArrayLike], first: str, *, units: Mapping[str, str] | None = None
) -> dict[str, AnyColumn]:
    """Return columns as plain arrays of one length, that of the column `first`.

    Masked entries become nulls, and a column that carries a unit (an astropy Quantity or Column) is converted to that
    in `units`, by its name; by default the units of `stargap.tables.columns.CATALOGUE`.

    Raises:
        UsageError: `first` is missing, a column has another length, or a unit cannot be converted.

    Example:
        >>> from astropy import units
        >>> equal_columns({"spectrum_id": [1], "parallax": [0.01] * units.arcsec}, "spectrum_id")
        {'spectrum_id': array([1]), 'parallax': array([10.])}
    """
    if first not in columns:
        message = f"no column {first!r}: it joins the tables"
        raise UsageError(message)
    arrays, units = {}, _UNITS if units is None else units
    for name, values in columns.items():
        stated = getattr(values, "unit", None)
        arrays[name] = plain_column(values)
        if stated is not None and name in units:
            arrays[name] = converted(arrays[name], str(stated), units[name], name)
    for name, array in arrays.items():
        if array.shape != (len(arrays[first]),):
            message = f"column {name!r} has shape {array.shape}, and {first!r} {arrays[first].shape}"
            raise UsageError(message)
    return arrays


_UNITS: Final = {column.name: column.unit for column in CATALOGUE if column.unit}


def converted(values: NDArray[Any], stated: str, target: str, what: str) -> NDArray[Any]:
    """Return a column in the target unit, from the unit that a file or an array states.

    Where no unit is stated, or one that astropy does not know, the values are taken unchanged.

    Raises:
        UsageError: the units are of different things, such as mas and K.

    Example:
        >>> converted(np.array([2.0]), "arcsec", "mas", "parallax")
        array([2000.])
    """
    from astropy import units

    if values.dtype.kind not in "fiu" or not target or stated.strip() in ("", target):
        return values
    try:
        unit = units.Unit(stated.strip())
    except ValueError:
        return values
    if unit == units.Unit(target) or unit == units.dimensionless_unscaled:
        return values
    try:
        if not isinstance(unit, units.UnitBase):  # such as dex(K): not a factor
            raise units.UnitConversionError
        factor = unit.to(units.Unit(target))
    except units.UnitConversionError:
        message = f"{what}: its unit is {stated}, which cannot be converted to {target}"
        raise UsageError(message) from None
    return np.asarray(numbers({what: values}, what, len(values)) * factor)


def numbers(columns: Mapping[str, NDArray[Any]], name: str, rows: int) -> FloatColumn:
    """Return a column as float64 ``(row,)``, NaN where it is null (-9999 and null words too), infinite or missing.

    Raises:
        UsageError: it holds text that is neither a number nor null.

    Example:
        >>> numbers({"snr_r": np.array([7.5, -9999.0])}, "snr_r", 2), numbers({}, "snr_i", 1)
        (array([7.5, nan]), array([nan]))
        >>> numbers({"ruwe": np.array(["1.1", "None", "high"])}, "ruwe", 3)
        Traceback (most recent call last):
        stargap.errors.UsageError: column 'ruwe', row 3: 'high' is not a number; give a number, or leave the cell empty
    """
    if name not in columns:
        return np.full(rows, np.nan)
    values = parsed(plain_column(columns[name]), f"column {name!r}").astype(float)
    return np.where((values == INT_NULL) | ~np.isfinite(values), np.nan, values)


def parsed(values: NDArray[Any], what: str, *, first: int = 1, line: str = "row") -> NDArray[Any]:
    """Return numbers unchanged, and text as float64, NaN where it is a null word.

    Args:
        values: ``(row,)``.
        what: how an error names the column.
        first: how it counts the first row.
        line: what it counts: rows, or lines of a text file.

    Raises:
        UsageError: a word is neither a number nor null.
    """
    if values.dtype.kind not in "OSU":
        return values
    result = np.full(values.shape, np.nan)
    for row, value in enumerate(values.tolist()):
        word = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        if is_null_word(word):
            continue
        try:
            result[row] = float(word)
        except ValueError:
            message = f"{what}, {line} {row + first}: {word!r} is not a number; "
            message += "give a number, or leave the cell empty"
            raise UsageError(message) from None
    return result


def known_values(values: FloatColumn, column: Column, what: str = "") -> tuple[FloatColumn, str]:
    """Return values of a table of others with NaN where they cannot be true, and a sentence on how many there were.

    Values outside the column's valid range are not true, nor are -999, 99.99 and their like, which stand for null. In a
    column of degrees the latter must be outside the range as well.

    Args:
        values: float64 ``(row,)``, NaN where null.
        column: what they are of; its valid range and unit count.
        what: how the sentence names the column, if not by its name here.

    Returns:
        the values, and the sentence, empty if all can be true.

    Example:
        >>> teff = next(column for column in CATALOGUE if column.name == "teff")
        >>> known_values(np.array([3400.0, -999.0, np.nan]), teff)
        (array([3400.,   nan,   nan]), 'teff: 1 of 3 values is outside 2000 to 7000 or stands for null, such as -999')
    """
    low, high = column.valid_range or (-np.inf, np.inf)
    with np.errstate(invalid="ignore"):
        false = (values < low) | (values > high)
        if column.unit != "deg":
            size = np.abs(values)
            for sentinel in _SENTINELS:
                false |= np.abs(size - sentinel) < 1e-7 * sentinel
    count = int(np.count_nonzero(false))
    if not count:
        return values, ""
    reason = "" if column.valid_range is None else f"outside {low:g} to {high:g} or "
    verbs = ("is", "stands") if count == 1 else ("are", "stand")
    reason = f"{verbs[0]} {reason}{verbs[1]} for null" if reason else f"{verbs[1]} for null"
    sentence = f"{what or column.name}: {count:,} of {len(values):,} values {reason}, such as {values[false][0]:g}"
    return np.where(false, np.nan, values), sentence


def whole_ids(values: ArrayLike, name: str = "ids") -> IntColumn:
    """Return identifiers as int64, -9999 where null; from integers, text of digits, or floats that are all NaN.

    Raises:
        UsageError: other floats, which have lost the last digits of long identifiers, or other text.

    Example:
        >>> whole_ids(["4472832130942575872", ""])
        array([4472832130942575872, -9999])
        >>> whole_ids([4.472832130942576e18], "source_id")
        Traceback (most recent call last):
        stargap.errors.UsageError: source_id: holds floats, which keep 15 digits of an identifier; read it as integers
    """
    array = plain_column(values)
    if array.dtype.kind in "iu" or array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        if np.isnan(array).all():
            return np.full(array.shape, INT_NULL, dtype=np.int64)
        message = f"{name}: holds floats, which keep 15 digits of an identifier; read it as integers"
        raise UsageError(message)
    words = [str(INT_NULL) if is_null_word(word) else word.strip() for word in array.astype(str).tolist()]
    try:
        return np.array(words).astype(np.int64)
    except (ValueError, OverflowError):
        row = next(row for row, word in enumerate(words) if not _is_int64(word))
        message = f"{name}: holds text that is no identifier, such as {words[row]!r} in row {row + 1}"
        raise UsageError(message) from None


def whole_numbers(values: ArrayLike, name: str) -> IntColumn:
    """Return whole numbers as int64, -9999 where null; from integers, digits, or floats that are exact, up to 2^53.

    Raises:
        UsageError: a float with a fraction or above 2^53, or text that is no whole number.

    Example:
        >>> whole_numbers([59146.0, np.nan], "lmjd")
        array([59146, -9999])
        >>> whole_numbers([59146.5], "lmjd")
        Traceback (most recent call last):
        stargap.errors.UsageError: lmjd: 59146.5 in row 1 is not a whole number, or too large to be exact in a float
    """
    array = plain_column(values)
    if array.dtype.kind != "f":
        return whole_ids(array, name)
    null = ~np.isfinite(array)
    wrong = ~null & ((array != np.round(array)) | (np.abs(array) > _LARGEST_EXACT))
    if wrong.any():
        row = int(wrong.argmax())
        message = f"{name}: {array[row]} in row {row + 1} is not a whole number, or too large to be exact in a float"
        raise UsageError(message)
    return np.where(null, INT_NULL, np.where(null, 0, array).astype(np.int64))


def _is_int64(word: str) -> bool:
    try:
        return bool(np.array([word]).astype(np.int64).size)
    except (ValueError, OverflowError):
        return False
