"""Tables of results as Markdown and on the terminal, and whether the stars behind them are simulated."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stargap.errors import UsageError
from stargap.files import replacing_folder
from stargap.statistics import Compared
from stargap.survey.sample import CutCount

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Results", "Sheet", "cuts_sheet", "is_simulated", "number", "print_sheets", "read_results",
           "statistics_cells"]  # fmt: skip


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


class Results(ABC):
    """Tables of text under a title, with notes: printed, and written as Markdown, CSV and JSON."""

    simulated: bool
    notes: tuple[str, ...]

    @property
    @abstractmethod
    def title(self) -> str:
        """What the results are headed with."""

    @abstractmethod
    def sheets(self) -> tuple[Sheet, ...]:
        """Return the results as tables of text."""

    @abstractmethod
    def csv(self) -> str:
        """Return the numbers behind the tables as CSV."""

    @property
    def mark(self) -> str:
        """What follows the title of a table of simulated stars."""
        return " (simulated)" if self.simulated else ""

    def markdown(self) -> str:
        """Return all of it as a page of Markdown."""
        tables = "\n\n".join(sheet.markdown() for sheet in self.sheets())
        return "\n".join([f"# {self.title}", "", tables, "", *(f"* {note}" for note in self.notes), ""])

    def print(self, console: Console | None = None) -> None:
        """Print all of it."""
        print_sheets(self.title, self.sheets(), self.notes, console)

    def write(self, folder: str | Path, name: str, *, kind: str) -> None:
        """Write ``NAME.md``, ``NAME.csv`` and ``NAME.json``, which `read_results` reads, into a folder of their own.

        Args:
            folder: where they go; older results of the same kind are replaced.
            name: of the files.
            kind: what the folder's mark says that it holds.

        Raises:
            UsageError: the folder holds other files.
        """
        content = {"title": self.title, "sheets": [asdict(sheet) for sheet in self.sheets()], "notes": self.notes}
        texts = {".md": self.markdown(), ".csv": self.csv(), ".json": json.dumps(content, indent=1)}
        with replacing_folder(folder, kind) as part:
            for suffix, text in texts.items():
                (part / f"{name}{suffix}").write_text(text, encoding="utf-8")


def read_results(path: str | Path) -> tuple[str, tuple[Sheet, ...], tuple[str, ...]]:
    """Return title, tables and notes of results that were written as JSON.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        sheets = tuple(
            Sheet(str(one["title"]), _texts(one["header"]), tuple(map(_texts, one["rows"])), int(one["left"]))
            for one in content["sheets"]
        )
        return str(content["title"]), sheets, _texts(content["notes"])
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None
    except (ValueError, TypeError, KeyError) as error:
        message = f"{path}: does not hold results of stargap compare or stargap binaries ({error!r})"
        raise UsageError(message) from None


def _texts(cells: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, cells))


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


def statistics_cells(result: Compared, digits: int) -> tuple[str, str, str, str]:
    """Return number of stars, median, 1.4826 MAD and clipped standard deviation with their errors as text.

    Example:
        >>> from stargap.statistics import compare
        >>> statistics_cells(compare([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], resamples=0), 1)
        ('3', '+1.0', '1.5', '1.0')
    """
    values, errors = result.values, result.errors
    return (
        f"{result.n:,}",
        number(values.median, errors.median, digits=digits, sign=True),
        number(values.scatter if result.n > 1 else np.nan, errors.scatter, digits=digits),
        number(values.clipped, errors.clipped, digits=digits),
    )


def cuts_sheet(title: str, counts: Iterable[CutCount]) -> Sheet:
    """Return the counts of cuts, in their order, as a table beside those of the paper.

    Example:
        >>> cuts_sheet("Cuts", [CutCount("RUWE", 10, 2, 1, 7, None)]).rows
        (('RUWE', '10', '2', '1', '7', ''),)
    """
    rows = tuple(
        (cut.name, *(f"{n:,}" for n in cut[1:5]), "" if cut.paper is None else f"{cut.paper:,}") for cut in counts
    )
    return Sheet(title, ("cut", "before", "failed", "unknown", "left", "paper"), rows)


def is_simulated(path: str | Path) -> bool:
    """Return whether the stars of a table are simulated, according to its metadata.

    They are where its metadata have ``simulated``, name a model trained on simulated spectra, or are those of a
    simulated survey, or where its plans are such a survey's (plan_id SIM...). Metadata are read from Parquet and from
    the PROV cards of FITS; other formats have none.
    """
    path = Path(path)
    metadata = _metadata(path)
    if metadata.get("simulated", "").lower() in ("true", "1"):
        return True
    if "simulated spectra" in metadata.get("model_training_data", "") or _mix(metadata.get("stargap", "")):
        return True
    return _first_plan(path).startswith("SIM")


def _metadata(path: Path) -> dict[str, str]:
    from stargap.tables.parquet import provenance_of

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
