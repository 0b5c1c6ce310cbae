"""Tables on the terminal: one line per spectrum, what can be used of it, and what its flags mean."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.features import subtype_name
from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.marks import CARE, MARKED, usable
from stargap.tables.columns import INT_NULL, MEASURED, Column
from stargap.tables.conform import conform

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ASCII", "UNUSABLE_MARK", "print_table"]

_NUMBERS = (
    ("S/N r", "", "snr_r", None, 0),
    ("RV", "km/s", "rv", "e_rv", 1),
    ("Teff", "K", "teff", "e_teff", 0),
    ("log g", "", "logg", "e_logg", 2),
    ("[M/H]", "", "m_h", "e_m_h", 2),
    ("SpT", "", "spt", None, 1),
    ("EW Hα", "Å", "halpha_ew", None, 1),
)
_SHOWN = {"path", "flags"} | {name for *_, value, error, _ in _NUMBERS for name in (value, error) if name}
_SCHEMA = tuple(column for column in MEASURED if column.name in _SHOWN)
UNUSABLE_MARK: Final = "✗"
_CARE_MARK: Final = "!"
ASCII: Final = str.maketrans({"±": "+-", "–": "-", "α": "a", "…": "~", "Å": "A", "×": "x", UNUSABLE_MARK: "x"})
"""What stands for characters that a terminal of plain ASCII does not have."""
_MARK_OF = {name: name for name in MARKED} | {"spt": "activity", "halpha_ew": "activity"}
_NARROW = 100
_NAME_WIDTH = 11
_INDENT = 4
_HEAD, _FLAGS = "file", "flags"


@dataclass(frozen=True)
class _Rows:
    """The rows to print as text: names, marks, columns of numbers with title and unit first, and words of the flags."""

    names: list[str]
    marks: list[str]
    numbers: list[list[str]]
    words: list[list[str]]


def print_table(columns: Mapping[str, ArrayLike], *, console: Console | None = None, max_rows: int = 40) -> None:
    """Print a measured table for people: mark, file, S/N, RV, Teff, log g, [M/H], subtype, Hα and flags.

    A row whose labels cannot be used is marked ✗ and dimmed, one to be used with care is marked ! (`stargap.marks`).
    Errors are the random and the systematic one together. Flags stand with the worst first, beside the numbers where
    they all fit, or the worst and the number of others, else below; the flags that occur are counted
    and spelled out below the table, over all rows. Long file names lose what they share, or their middle, and stay
    different. Nulls are shown as –, and so are numbers whose flags say that they cannot be used.

    Args:
        columns: arrays ``(row,)`` as in :data:`stargap.tables.columns.MEASURED` or ``CATALOGUE``; only those
            shown are needed. A spectrum without a path is shown by its designation.
        console: where to print; standard output if None.
        max_rows: how many rows to show before ``... n more rows``.

    Raises:
        UsageError: a column is missing or does not fit its dtype, or ``max_rows`` is negative.

    Example:
        >>> from rich.console import Console
        >>> table = {column.name: [None] for column in MEASURED}
        >>> table |= {"path": ["a/spec-1.fits.gz"], "flags": [16], "teff": [3412.3], "e_teff": [35.2]}
        >>> print_table(table, console=Console(width=80))
          file   S/N r   RV    Teff log g [M/H] SpT EW Hα flags
                       km/s       K                     Å
        ! spec-1     –    – 3412±35     –     –   –     – low_sn
        1 spectrum
          ! marks what should be used with care, in 1 of these rows
          1 × low_sn: S/N below 5 in r or i
    """
    from rich.console import Console
    from rich.text import Text

    if max_rows < 0:
        message = f"max_rows is {max_rows}; it must be 0 or more"
        raise UsageError(message)
    given: dict[str, Any] = {name: values for name, values in columns.items() if name in _SHOWN}
    if "path" not in given and "designation" in columns:
        given["path"] = columns["designation"]
    shown = conform({name: values[:max_rows] for name, values in given.items()}, schema=_SCHEMA)
    masks = {name: columns[name] for name in FLAG_COLUMNS if name in columns}
    flags = conform(masks, schema=[Column(name, "int64") for name in masks])
    console = Console() if console is None else console
    rows = _rows(shown, columns, max_rows, ascii_only=console.options.ascii_only)
    for line, style in _lines(rows, console.width):
        console.print(Text(line, style), soft_wrap=True)
    for line in _summary(flags, rows):
        console.print(Text(_plain(line, console.options.ascii_only)), soft_wrap=True)


def _plain(text: str, ascii_only: bool) -> str:
    return text.translate(ASCII).encode("ascii", "backslashreplace").decode() if ascii_only else text


def _rows(
    shown: Mapping[str, NDArray[Any]], columns: Mapping[str, ArrayLike], max_rows: int, *, ascii_only: bool
) -> _Rows:
    """Return the rows as text that the terminal can print."""
    numbers = []
    for title, unit, value, error, digits in _NUMBERS:
        values = shown[value]
        if value in _MARK_OF:
            values = np.where(usable(_MARK_OF[value], shown["flags"]), values, np.nan)
        if value == "spt":
            texts = [title, unit, *(subtype_name(one) or "–" for one in values.tolist())]
        else:
            texts = [title, unit, *_numbers(values, _total(shown, columns, error, max_rows), digits)]
        cells = [_plain(text, ascii_only) for text in texts]
        numbers.append([cell.rjust(_widest(cells)) for cell in cells])
    bits = shown["flags"]
    unusable = (bits >= 0) & ~usable("teff", bits)
    care = (bits >= 0) & ~unusable & (bits & int(CARE["teff"]) != 0)
    marks = np.where(unusable, _plain(UNUSABLE_MARK, ascii_only), np.where(care, _CARE_MARK, " "))
    words = [[bit_text("flags", bit)[0] for bit in worst_first("flags", mask)] for mask in bits.tolist()]
    return _Rows([_plain(_name(path), ascii_only) for path in shown["path"].tolist()], marks.tolist(), numbers, words)


def _lines(rows: _Rows, width: int) -> list[tuple[str, str]]:
    """Return the lines of the table with their styles, no wider than the terminal if the numbers fit."""
    from rich.cells import cell_len, set_cell_size

    if not rows.names:
        return []
    gap = " " * (1 if width <= _NARROW else 2)
    numbers = [gap.join(cells) for cells in zip(*rows.numbers, strict=True)]
    left = width - len("m ") - len(numbers[0]) - 2 * len(gap)
    longest_name = max(cell_len(name) for name in [*rows.names, _HEAD])
    beside = [", ".join(words) for words in rows.words]
    if _widest([_FLAGS, *beside]) > left - longest_name:
        beside = [f"{words[0]} +{len(words) - 1}" if len(words) > 1 else "".join(words) for words in rows.words]
    space = left - _widest([_FLAGS, *beside])
    below = space < min(_NAME_WIDTH, longest_name)
    names = _short_names(rows.names, max(min(_NAME_WIDTH, longest_name), left + len(gap) if below else space))
    wide = max(cell_len(name) for name in [*names, _HEAD])
    lines = [
        (f"  {_HEAD:<{wide}}{gap}{numbers[0]}{'' if below else gap + _FLAGS}", "bold"),
        (f"  {' ' * wide}{gap}{numbers[1]}", "bold"),
    ]
    for place, name in enumerate(names):
        style = "dim" if rows.marks[place] not in (" ", _CARE_MARK) else ""
        line = f"{rows.marks[place]} {set_cell_size(name, wide)}{gap}{numbers[2 + place]}"
        lines.append((line if below else f"{line}{gap}{beside[place]}".rstrip(), style))
        if below:
            lines += [(line, style) for line in _under(rows.words[place], width)]
    return lines


def _under(words: Sequence[str], width: int) -> list[str]:
    """Return the flags of a row as lines below it."""
    text = ", ".join(words)
    indent = " " * _INDENT
    return textwrap.wrap(text, max(width, 30), initial_indent=indent, subsequent_indent=indent) if text else []


def _widest(texts: Sequence[str]) -> int:
    return max(map(len, texts))


def _total(
    shown: Mapping[str, NDArray[Any]], columns: Mapping[str, ArrayLike], error: str | None, rows: int
) -> NDArray[Any] | None:
    """Random and systematic error together."""
    if error is None:
        return None
    if f"{error}_sys" not in columns:
        return shown[error]
    given = np.asarray(columns[f"{error}_sys"], dtype=object)[:rows]
    return np.asarray(np.hypot(shown[error], np.nan_to_num(np.array(given, dtype=float))))


def _numbers(values: NDArray[Any], errors: NDArray[Any] | None, digits: int) -> list[str]:
    pairs = zip(values, errors if errors is not None else np.full(len(values), np.nan), strict=True)
    known = [
        ("–" if np.isnan(v) else f"{v:.{digits}f}", "" if np.isnan(v + e) else f"±{e:.{digits}f}") for v, e in pairs
    ]
    width = max((len(error) for _, error in known), default=0)
    return [value + error.ljust(width) for value, error in known]


def _name(path: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in PurePath(path).name)
    return re.sub(r"(?<=.)(\.fits?|\.gz)+$", "", name) or "–"


def _short_names(names: Sequence[str], width: int) -> list[str]:
    """Return names of at most this width, different where the whole names are.

    They lose their middle, where that tells them apart; else what all of them begin with, or any part of this length.

    Example:
        >>> _short_names(["spec-55862-B6202_sp01-006", "spec-55862-B6202_sp07-004"], 12)
        ['spec…p01-006', 'spec…p07-004']
    """
    if max(map(len, names), default=0) <= width:
        return list(names)
    unlike = len(set(names))
    best: list[str] = []
    for end in sorted(range(width), key=lambda end: abs(end - (width - 1) * 2 // 3)):
        short = [_without_middle(name, width, end) for name in names]
        if len(set(short)) == unlike:
            return short
        if len(set(short)) > len(set(best)):
            best = short
    first, last = min(names), max(names)
    shared = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    if shared > 1:
        rest = _short_names([f"…{name[shared - 1 :]}" for name in names], width)
        if len(set(rest)) > len(set(best)):
            return rest
    return best


def _without_middle(text: str, width: int, end: int) -> str:
    if len(text) <= width:
        return text
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _summary(flags: Mapping[str, NDArray[Any]], rows: _Rows) -> list[str]:
    total, shown = len(flags["flags"]), len(rows.names)
    lines = [f"... {total - shown} more rows"] if total > shown else []
    lines.append("1 spectrum" if total == 1 else f"{total} spectra")
    care = rows.marks.count(_CARE_MARK)
    unusable = shown - care - rows.marks.count(" ")
    if unusable:
        lines.append(
            f"  {UNUSABLE_MARK} marks labels that cannot be used, in {unusable} of these rows; they are not shown (–)"
        )
    if care:
        lines.append(f"  {_CARE_MARK} marks what should be used with care, in {care} of these rows")
    for column, masks in flags.items():
        known = masks[masks != INT_NULL]
        prefix = "" if column == "flags" else f"{column} "
        for bit in worst_first(column, int(np.bitwise_or.reduce(known[known > 0], initial=0))):
            name, sentence = bit_text(column, bit)
            lines.append(f"  {np.count_nonzero(known >> bit & 1)} × {prefix}{name}: {sentence}")
    return lines
