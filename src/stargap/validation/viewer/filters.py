"""Conditions on columns of a catalogue that a person types, such as ``teff 3000..3300; flags lacks active``.

They are read word by word and compared column by column; nothing is ever evaluated.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS
from stargap.tables.columns import Column

__all__ = ["SYNTAX", "Condition", "matching", "read_filter"]

Values = NDArray[Any]

SYNTAX: Final = (
    "teff 3000..3300; snr_r > 20; use_teff = 1; flags lacks active; cuts has too_hot; subclass = dM2; "
    "designation contains J04; m_h is known; in_final_catalogue = true"
)
"""Examples of conditions, one of each kind."""
_LONGEST = 2000
_MOST = 50
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CONDITION = re.compile(
    r"(?P<name>\w+)(?:"
    r"\s*[=\s]\s*(?P<low>[^\s=]+?)\s*\.\.\s*(?P<high>\S+)"
    r"|\s*(?P<sign><=|>=|!=|<|>|=)\s*(?P<value>.+)"
    r"|\s+(?P<word>has|lacks|contains|is)\s+(?P<given>.+))",
    re.DOTALL,
)
_SIGNS: Final[Mapping[str, Callable[[Values, Any], Any]]] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@dataclass(frozen=True)
class Condition:
    """One condition: the column, and which of its values, an array ``(row,)``, meet it; a null meets ``is null``."""

    column: Column
    meets: Callable[[Values], NDArray[np.bool_]]


def matching(conditions: Sequence[Condition], column: Callable[[str], Values], rows: int) -> NDArray[np.bool_]:
    """Return which rows meet every condition, ``(row,)``.

    Args:
        conditions: of `read_filter`.
        column: gives the values of a column by its name.
        rows: how many there are.
    """
    keep = np.ones(rows, dtype=bool)
    for one in conditions:
        keep &= one.meets(column(one.column.name))
    return keep


def read_filter(text: str, schema: Mapping[str, Column]) -> list[Condition]:
    """Return the conditions of a text, which are separated by semicolons or lines; none for an empty text.

    A number, or a range whose ends are included, is compared with a column of numbers; ``=`` and ``!=`` also with text
    and with ``true`` or ``false``; ``contains`` looks for a part of a text, in any case; ``has`` and ``lacks`` look for
    marks, by the names of their bits, in a column of flags; ``is known`` and ``is null`` for nulls, which meet no
    other condition.

    Args:
        text: what a person typed.
        schema: columns by name.

    Raises:
        UsageError: a condition cannot be read, names no column, or does not suit its column's type.

    Example:
        >>> from stargap.tables.columns import CATALOGUE
        >>> schema = {column.name: column for column in CATALOGUE}
        >>> warm, quiet = read_filter("teff 3500..4000; flags lacks active", schema)
        >>> warm.meets(np.array([3400.0, 3500.0, np.nan])), quiet.meets(np.array([0, 1 << 18, -9999]))
        (array([False,  True, False]), array([ True, False, False]))
        >>> read_filter("tef > 3000", schema)
        Traceback (most recent call last):
        stargap.errors.UsageError: no column 'tef'; did you mean 'teff'?
    """
    if len(text) > _LONGEST:
        message = f"a filter may have {_LONGEST} characters; this one has {len(text)}"
        raise UsageError(message)
    parts = [part.strip() for part in re.split(r"[;\n]", text) if part.strip()]
    if len(parts) > _MOST:
        message = f"a filter may have {_MOST} conditions; this one has {len(parts)}"
        raise UsageError(message)
    return [_condition(part, schema) for part in parts]


def _condition(text: str, schema: Mapping[str, Column]) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        message = f"{text!r} is no condition; such as: {SYNTAX}"
        raise UsageError(message)
    name = found["name"]
    column = schema.get(name)
    if column is None:
        near = difflib.get_close_matches(name.lower(), list(schema), n=1, cutoff=0.0)
        message = f"no column {name!r}; did you mean {near[0]!r}?" if near else f"no column {name!r}"
        raise UsageError(message)
    if found["sign"]:
        return _compared(column, found["sign"], found["value"].strip())
    if found["word"]:
        return _worded(column, found["word"], found["given"].strip())
    low, high = (_number(column, found[end]) for end in ("low", "high"))
    if low > high:
        message = f"{name} {found['low']}..{found['high']}: the first number is the higher one"
        raise UsageError(message)
    return Condition(column, lambda values: ~column.is_null(values) & (values >= low) & (values <= high))


def _number(column: Column, text: str) -> int | float:
    """Return the number of a text, exactly where column and text are whole."""
    if column.dtype in ("str", "bool"):
        kind = "text: use =, !=, contains or is known" if column.dtype == "str" else "true or false: use = true"
        message = f"{column.name} is {kind}"
        raise UsageError(message)
    if not _NUMBER.fullmatch(text):
        message = f"{column.name}: {text!r} is no number"
        raise UsageError(message)
    whole = column.dtype.startswith("int") and re.fullmatch(r"[+-]?\d{1,18}|[+-]?[1-8]\d{18}", text)
    return int(text) if whole else float(text)


def _compared(column: Column, sign: str, text: str) -> Condition:
    compare = _SIGNS[sign]
    if column.dtype == "bool":
        if sign not in ("=", "!=") or text.lower() not in ("true", "false"):
            message = f"{column.name} is true or false: write {column.name} = true, or = false"
            raise UsageError(message)
        return Condition(column, lambda values: np.asarray(compare(values, text.lower() == "true")))
    if column.dtype == "str" and sign in ("=", "!="):
        value = text.strip("\"'")
        return Condition(
            column, lambda values: np.asarray(~column.is_null(values) & compare(values, value), dtype=bool)
        )
    number = _number(column, text)
    return Condition(column, lambda values: np.asarray(~column.is_null(values) & compare(values, number)))


def _worded(column: Column, word: str, text: str) -> Condition:
    if word == "is":
        if text not in ("known", "null"):
            message = f"{column.name} is {text}: only 'is known' and 'is null' can be asked"
            raise UsageError(message)
        return Condition(column, lambda values: column.is_null(values) == (text == "null"))
    if word == "contains":
        if column.dtype != "str":
            message = f"{column.name} is no text: 'contains' is for text"
            raise UsageError(message)
        part = text.strip("\"'").lower()
        return Condition(
            column,
            lambda values: ~column.is_null(values) & np.array([part in str(one).lower() for one in values], dtype=bool),
        )
    return _marked(column, word == "has", [name for name in re.split(r"[,\s]+", text) if name])


def _marked(column: Column, has: bool, names: Sequence[str]) -> Condition:
    """Return whether any of these bits is set (or that none is)."""
    flags = FLAG_COLUMNS.get(column.name)
    if flags is None:
        message = f"{column.name} has no marks; columns with marks are {', '.join(FLAG_COLUMNS)}"
        raise UsageError(message)
    if not names:
        message = (
            f"{column.name} {'has' if has else 'lacks'}: name a mark, such as {str(next(iter(flags)).name).lower()}"
        )
        raise UsageError(message)
    known = {str(member.name).lower(): int(member) for member in flags}
    bits = 0
    for name in names:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.0)[0]
            message = f"{column.name} has no mark {name!r}; did you mean {near!r}?"
            raise UsageError(message)
        bits |= known[name.lower()]
    return Condition(column, lambda values: np.asarray((values >= 0) & ((values & bits != 0) == has)))
