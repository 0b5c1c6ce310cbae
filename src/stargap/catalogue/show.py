"""A measured table on the terminal: one line a spectrum, then what its flags mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.catalogue.schema import INT_NULL, MEASURED, conform
from stargap.errors import UsageError
from stargap.flags import FLAG_TEXT, Flag, flag_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_table"]

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
_ASCII = str.maketrans({"±": "+-", "–": "-", "α": "a", "…": "~", "Å": "A", "×": "x"})
_NARROW = 100
_FLAG_WIDTH = 9
_NAME_WIDTH = 12


def print_table(columns: Mapping[str, ArrayLike], *, console: Console | None = None, max_rows: int = 40) -> None:
    """Print a measured table for people: file, S/N, RV, Teff, log g, [M/H], subtype, Hα and flags.

    Long file names lose their middle and long lists of flags their end, so that 80 columns are enough; the
    flags that occur are counted and spelled out below the table, over all rows. Nulls are shown as –.

    Args:
        columns: arrays ``(row,)`` as in :data:`stargap.catalogue.schema.MEASURED`; only those shown are
            needed.
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
        spec-1     –    – 3412±35     –     –   –     – low_sn
        1 spectrum
          1 × low_sn: S/N below 5 in r or i
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if max_rows < 0:
        message = f"max_rows is {max_rows}; it must be 0 or more"
        raise UsageError(message)
    given: dict[str, Any] = {name: values for name, values in columns.items() if name in _SHOWN}
    shown = conform({name: values[:max_rows] for name, values in given.items()}, schema=_SCHEMA)
    flags = conform({"flags": given["flags"]}, schema=[c for c in _SCHEMA if c.name == "flags"])["flags"]
    console = Console() if console is None else console
    ascii_only = console.options.ascii_only

    def plain(text: str) -> str:
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode() if ascii_only else text

    numbers = []
    for title, unit, value, error, digits in _NUMBERS:
        texts = [title, unit, *_numbers(shown[value], shown.get(error or ""), digits)]
        cells = [plain(text) for text in texts]
        numbers.append([cell.rjust(_widest(cells)) for cell in cells])
    names = [plain(_name(path)) for path in shown["path"].tolist()]
    words = [", ".join(_bit_name(bit) for bit in _bits(mask)) for mask in shown["flags"].tolist()]

    gap = 1 if console.width < _NARROW else 2
    taken = sum(len(column[0]) + gap for column in numbers) + gap
    left = console.width - taken
    name_width = min(_widest([*names, "file"]), max(_NAME_WIDTH, left - _FLAG_WIDTH))
    word_width = min(_widest([*words, "flags"]), max(_FLAG_WIDTH, left - name_width))
    needed = taken + name_width + word_width

    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    table.width = needed if needed > console.width else None
    table.add_column("file\n", no_wrap=True)
    for column in numbers:
        table.add_column(Text("\n".join(column[:2])), no_wrap=True)
    table.add_column("flags\n", no_wrap=True)
    for name, word, *row in zip(names, words, *(column[2:] for column in numbers), strict=True):
        name, word = plain(_without_middle(name, name_width)), plain(_without_end(word, word_width))
        table.add_row(*map(Text, [name, *row, word]))
    if names:
        console.print(table, crop=False)
    for line in _summary(flags, len(names)):
        console.print(Text(plain(line)), soft_wrap=True)


def _widest(texts: list[str]) -> int:
    return max(map(len, texts))


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


def _without_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def _without_end(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _bits(mask: int) -> list[int]:
    return [] if mask == INT_NULL else [bit for bit in range(32) if mask >> bit & 1]


def _bit_name(bit: int) -> str:
    flag = Flag(1 << bit)
    return str(flag.name).lower() if flag in FLAG_TEXT else f"bit_{bit}"


def _summary(flags: NDArray[Any], shown: int) -> list[str]:
    lines = [f"... {len(flags) - shown} more rows"] if len(flags) > shown else []
    lines.append("1 spectrum" if len(flags) == 1 else f"{len(flags)} spectra")
    known = flags[flags != INT_NULL]
    counts = [(bit, int(np.count_nonzero(known >> bit & 1))) for bit in range(32)]
    return lines + [f"  {n} × {_bit_name(bit)}: {flag_text(1 << bit)}" for bit, n in counts if n]
