"""Tables on the terminal: one line per spectrum, or all that is known of one, and what its flags mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.marks import MARKED, usable
from stargap.tables.columns import INT_NULL, MEASURED, Column
from stargap.tables.conform import conform
from stargap.tables.read import read_table
from stargap.tables.validate import as_schema, schema_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_rows", "print_table"]

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
_MARK_OF = {name: name for name in MARKED} | {"spt": "activity", "halpha_ew": "activity"}
_NARROW = 100
_FLAG_WIDTH = 9
_NAME_WIDTH = 12
_IDENTIFIERS = ("spectrum_id", "obsid", "gaia_source_id", "designation", "path", "ID")


def print_table(columns: Mapping[str, ArrayLike], *, console: Console | None = None, max_rows: int = 40) -> None:
    """Print a measured table for people: file, S/N, RV, Teff, log g, [M/H], subtype, Hα and flags.

    Errors are the random and the systematic one together. Long file names lose their middle and long lists of flags
    their end, so that 80 columns are enough; the flags that occur are counted and spelled out below the table, over
    all rows, the worst first. Nulls are shown as –, and so are numbers whose flags say that they cannot be used
    (`stargap.marks`).

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
    if "path" not in given and "designation" in columns:
        given["path"] = columns["designation"]
    shown = conform({name: values[:max_rows] for name, values in given.items()}, schema=_SCHEMA)
    masks = {name: columns[name] for name in FLAG_COLUMNS if name in columns}
    flags = conform(masks, schema=[Column(name, "int64") for name in masks])
    console = Console() if console is None else console
    ascii_only = console.options.ascii_only

    def plain(text: str) -> str:
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode() if ascii_only else text

    numbers = []
    dropped = np.zeros(len(shown["flags"]), dtype=bool)
    for title, unit, value, error, digits in _NUMBERS:
        values = shown[value]
        if value in _MARK_OF:
            wrong = ~usable(_MARK_OF[value], shown["flags"]) & np.isfinite(values)
            values, dropped = np.where(wrong, np.nan, values), dropped | wrong
        texts = [title, unit, *_numbers(values, _total(shown, columns, error, max_rows), digits)]
        cells = [plain(text) for text in texts]
        numbers.append([cell.rjust(_widest(cells)) for cell in cells])
    names = [plain(_name(path)) for path in shown["path"].tolist()]
    words = [
        ", ".join(bit_text("flags", bit)[0] for bit in worst_first("flags", mask)) for mask in shown["flags"].tolist()
    ]

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
    for line in _summary(flags, len(names), int(dropped.sum())):
        console.print(Text(plain(line)), soft_wrap=True)


def _widest(texts: list[str]) -> int:
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


def _without_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def _without_end(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _summary(flags: Mapping[str, NDArray[Any]], shown: int, dropped: int) -> list[str]:
    rows = len(flags["flags"])
    lines = [f"... {rows - shown} more rows"] if rows > shown else []
    lines.append("1 spectrum" if rows == 1 else f"{rows} spectra")
    if dropped:
        lines.append(f"  – stands for numbers that cannot be used, in {dropped} of these rows (use_* in the table)")
    for column, masks in flags.items():
        known = masks[masks != INT_NULL]
        prefix = "" if column == "flags" else f"{column} "
        for bit in worst_first(column, int(np.bitwise_or.reduce(known[known > 0], initial=0))):
            name, sentence = bit_text(column, bit)
            lines.append(f"  {np.count_nonzero(known >> bit & 1)} × {prefix}{name}: {sentence}")
    return lines


def print_rows(path: str | Path, ids: Sequence[str], *, console: Console | None = None) -> None:
    """Print all that a table says of some spectra or stars, one line per column, with units and flags in words.

    Args:
        path: a table of stargap, in any of its formats.
        ids: spectrum_id, obsid, gaia_source_id, designation or path; every row with one of them is printed.
        console: where to print; standard output if None.

    Raises:
        UsageError: the table cannot be read or is none of stargap's, or an identifier is not in it.

    Example:
        >>> from rich.console import Console
        >>> from stargap.tables.columns import STARS
        >>> from stargap.tables.write import write_table
        >>> file = getfixture("tmp_path") / "stars.fits"
        >>> star = {column.name: [None] for column in STARS} | {"gaia_source_id": [4472832130942575872]}
        >>> star |= {"teff": [3195.0], "e_teff": [22.0], "cuts": [8192], "in_final_catalogue": [True]}
        >>> write_table(star, file, schema=STARS, provenance={})
        >>> print_rows(file, ["4472832130942575872"], console=Console(width=90))
        gaia_source_id     4472832130942575872          Gaia DR3 source identifier
        teff                            3195.0 K        Effective temperature
        e_teff                            22.0 K        1-sigma error of teff as repeats show it
        cuts                              8192          Bit mask of cuts, of any of the combined spectra
                                                          active: H-alpha in emission: labels are suspect
        in_final_catalogue                True          Whether no cut of the final catalogue removes it
        null: spectrum_id, designation, ra, dec, n_spectra, ...
    """
    from rich.console import Console
    from rich.text import Text

    console = Console() if console is None else console
    identifiers = read_table(path, [], optional=_IDENTIFIERS)
    requested = [str(one).strip() for one in ids]
    found = {one: [row for values in identifiers.values() for row in _rows_with(values, one)] for one in requested}
    rows = list(dict.fromkeys(row for one in requested for row in sorted(found[one])))
    read = read_table(path, rows=rows)
    schema = [column for column in schema_of(read, path) if column.name in read]
    lacking = next((one for one in requested if not found[one]), None)
    if lacking is not None:
        keys = ", ".join(column.name for column in schema if column.name in identifiers)
        message = f"{path}: no row has {lacking!r} as its {keys}"
        raise UsageError(message)
    table = {column.name: as_schema(column, read[column.name]) for column in schema}
    longest = max(len(column.name) for column in schema)
    units = max(len(column.unit) for column in schema)
    for place in range(len(rows)):
        values = [_value(column, table[column.name][place]) for column in schema]
        width = max(map(len, values))
        lines = [""] if place else []
        for column, value in zip(schema, values, strict=True):
            if value == "–":
                continue
            aligned = value.ljust(width) if column.dtype == "str" else value.rjust(width)
            lines.append(f"{column.name:<{longest}} {aligned} {column.unit:<{units}} {column.description}")
            if column.name in FLAG_COLUMNS:
                start = " " * (longest + width + units + 5)
                bits = (bit_text(column.name, bit) for bit in worst_first(column.name, int(table[column.name][place])))
                lines += [f"{start}{name}: {sentence}" for name, sentence in bits]
        nulls = [column.name for column, value in zip(schema, values, strict=True) if value == "–"]
        lines += [f"null: {', '.join(nulls)}"] if nulls else []
        for line in lines:
            text = line.translate(_ASCII) if console.options.ascii_only else line
            console.print(Text(text), soft_wrap=True)


def _rows_with(values: NDArray[Any], requested: str) -> list[int]:
    """Return the rows of a column of identifiers whose value is spelled so; null is no identifier."""
    if values.dtype.kind == "O":
        return np.flatnonzero(values == requested).tolist() if requested else []
    whole = re.fullmatch(r"-?\d{1,19}", requested)
    number = int(requested) if whole else INT_NULL
    return [] if number == INT_NULL or str(number) != requested else np.flatnonzero(values == number).tolist()


def _value(column: Column, value: Any) -> str:
    if column.dtype != "bool" and column.is_null(np.array([value])).any():
        return "–"
    if column.dtype.startswith("float"):
        return f"{value:.{column.decimals}f}"
    return "".join(c if c.isprintable() else "?" for c in str(value))
