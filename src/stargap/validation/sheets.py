"""Tables of results as Markdown and on the terminal, and whether the stars behind them are simulated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stargap.files import replacing

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Sheet", "is_simulated", "number", "print_sheets", "write_results"]


@dataclass(frozen=True)
class Sheet:
    """A table of text: its title, the names of its columns, and its rows; the first columns are left-aligned.

    Example:
        >>> print(Sheet("Differences", ("quantity", "stars"), (("Teff", "7"),)).markdown())
        ## Differences
        <BLANKLINE>
        | quantity | stars |
        |---|---:|
        | Teff | 7 |
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def markdown(self) -> str:
        """Return it as Markdown."""
        rule = "|---" * self.left + "|---:" * (len(self.header) - self.left) + "|"
        lines = [f"| {' | '.join(cells)} |" for cells in (self.header, *self.rows)]
        return "\n".join([f"## {self.title}", "", lines[0], rule, *lines[1:]])


def print_sheets(title: str, sheets: tuple[Sheet, ...], notes: tuple[str, ...], console: Console | None = None) -> None:
    """Print tables below a title, and notes below them.

    Headings are broken where the terminal is narrow; numbers never are: such a table is wider than the terminal.
    """
    from rich.console import Console
    from rich.segment import Segments
    from rich.table import Table
    from rich.text import Text

    console = Console() if console is None else console
    console.print(Text(title, style="bold"), soft_wrap=True)
    for sheet in sheets:
        console.print()
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.title, table.title_justify, table.title_style = sheet.title, "left", ""
        columns = list(zip(sheet.header, *sheet.rows, strict=True))
        whole = [max(map(len, column)) for column in columns]
        broken = [max(map(len, (*cells, *name.split()))) for name, *cells in columns]
        widths = whole if sum(whole) + 2 * len(whole) <= console.width else broken
        for place, (name, width) in enumerate(zip(sheet.header, widths, strict=True)):
            table.add_column(name, justify="left" if place < sheet.left else "right", width=width)
        for cells in sheet.rows:
            table.add_row(*map(Text, cells))
        wide = console.options.update(width=max(console.width, sum(widths) + 2 * len(widths)))
        console.print(Segments(console.render(table, wide)), soft_wrap=True, end="")
    console.print()
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def number(value: float, error: float = np.nan, *, digits: int, sign: bool = False) -> str:
    """Return a number with its error as text; a dash if it is NaN.

    Example:
        >>> number(-0.041, 0.0123, digits=2, sign=True), number(70.0, digits=0), number(np.nan, digits=1)
        ('-0.04 ± 0.01', '70', '-')
    """
    if not np.isfinite(value):
        return "-"
    text = f"{value:{'+' if sign else ''}z.{digits}f}"
    return f"{text} ± {error:.{digits}f}" if np.isfinite(error) else text


def write_results(folder: Path, name: str, page: str, numbers: str) -> None:
    """Write ``NAME.md`` and ``NAME.csv`` into a folder, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", page), (".csv", numbers)):
        with replacing(folder / f"{name}{suffix}") as file:
            file.write(text.encode())


def is_simulated(path: str | Path) -> bool:
    """Say whether a table tells of itself that its stars are simulated.

    It does so where its metadata have ``simulated``, name a model trained on simulated spectra, or are those of a
    simulated survey, or where its plans are such a survey's (plan_id SIM...). Metadata are read from Parquet and from
    the PROV cards of FITS; of other formats nothing is known.
    """
    path = Path(path)
    told = _metadata(path)
    if told.get("simulated", "").lower() in ("true", "1"):
        return True
    if "simulated spectra" in told.get("model_training_data", "") or _mix(told.get("stargap", "")):
        return True
    return _first_plan(path).startswith("SIM")


def _metadata(path: Path) -> dict[str, str]:
    from stargap.tables.write import provenance_of

    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        return provenance_of(path)
    if head.startswith((b"SIMPLE", b"\x1f\x8b")):
        return _cards(path)
    return {}


def _cards(path: Path) -> dict[str, str]:
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            texts = [str(value) for hdu in hdus for name, value in hdu.header.items() if name.startswith("PROV")]
    except (OSError, ValueError):
        return {}
    return dict(text.split(" = ", 1) for text in texts if " = " in text)


def _mix(text: str) -> bool:
    """Say whether this is the note of a simulated survey."""
    try:
        note: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(note, dict) and "mix" in note


def _first_plan(path: Path) -> str:
    from stargap.tables.read import read_table

    plans = read_table(path, [], optional=["plan_id"]).get("plan_id")
    return "" if plans is None or not len(plans) else str(plans[0])
