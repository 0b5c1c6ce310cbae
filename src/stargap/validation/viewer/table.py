"""The catalogue of a run as a viewer reads it: columns when they are asked for, rows by their group in the file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.arrow import product_column
from stargap.tables.columns import CATALOGUE, INT_NULL, Column
from stargap.tables.parquet import open_parquet, read_columns
from stargap.validation.sheets import is_simulated

__all__ = ["IDENTIFIERS", "Catalogue"]

Values = NDArray[Any]

IDENTIFIERS = ("spectrum_id", "obsid", "gaia_source_id", "designation")
"""Columns by which a person looks for a star, in this order."""
_GROUPS = 40
"""Row groups of the file, of 15,000 rows and with all columns 12 MB each, that are kept as they were read last."""


class Catalogue:
    """The catalogue of spectra of a run, of which nothing is changed.

    Args:
        folder: of the run, wherever it was moved.

    Raises:
        UsageError: there is no catalogue, or it is damaged or lacks a column.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "catalogue" / "spectra.parquet"
        if not self.path.exists():
            raise UsageError(self._nothing())
        self._stamp = self._state()
        with open_parquet(self.path) as file:
            names = set(file.schema_arrow.names)
            self._footer = file.metadata
        self.schema: Mapping[str, Column] = {one.name: one for one in CATALOGUE if one.name in names}
        lacking = [one.name for one in CATALOGUE if one.name not in names]
        if lacking:
            message = f"{self.path}: has no column {lacking[0]!r}: it is of another version; make the catalogue again"
            raise UsageError(message)
        self.rows: int = self._footer.num_rows
        sizes = [self._footer.row_group(group).num_rows for group in range(self._footer.num_row_groups)]
        self._ends = np.cumsum(sizes)
        self.simulated = is_simulated(self.path)
        self._columns: dict[str, Values] = {}
        self._lock = Lock()
        self._group = lru_cache(maxsize=_GROUPS)(self._read_group)

    def _state(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size

    def _unchanged(self) -> None:
        """Refuse a file that a run has replaced: what was read of the old one has other rows."""
        if not self.path.exists() or self._state() != self._stamp:
            message = f"{self.path}: the catalogue was made anew; start stargap view again"
            raise UsageError(message)

    def _nothing(self) -> str:
        if self.folder.is_file():
            return f"{self.folder}: is a file; name the folder of a run, the output of its settings"
        if not self.folder.is_dir():
            return f"{self.folder}: there is no such folder; name that of a run, the output of its settings"
        if not (self.folder / "receipts").exists() and not (self.folder / "survey.toml").exists():
            return f"{self.folder}: is not the folder of a run: it has no catalogue/{self.path.name}"
        return f"{self.folder}: the run has no catalogue yet; finish it first: stargap run SURVEY.toml"

    def column(self, name: str) -> Values:
        """Return a column, ``(row,)``, which is then kept.

        Raises:
            UsageError: there is no such column, or the file is damaged.
        """
        if name not in self.schema:
            message = f"no column {name!r}"
            raise UsageError(message)
        with self._lock:
            if name not in self._columns:
                self._unchanged()
                self._columns[name] = read_columns(self.path, [name])[name]
            return self._columns[name]

    def row(self, number: int, names: tuple[str, ...] | None = None) -> dict[str, Values]:
        """Return some columns of one row, arrays ``(1,)``; all if no names are given."""
        group = int(np.searchsorted(self._ends, number, side="right"))
        names = tuple(self.schema) if names is None else names
        table = self._group(group, names)
        first = int(self._ends[group - 1]) if group else 0
        part = table.slice(number - first, 1)
        return {name: product_column(part[name].combine_chunks()) for name in names}

    def _read_group(self, group: int, names: tuple[str, ...]) -> Any:
        self._unchanged()
        with open_parquet(self.path, self._footer) as file:
            return file.read_row_group(group, columns=list(names))

    def find(self, text: str) -> int:
        """Return the first row whose identifier or designation is this text.

        Raises:
            UsageError: no row has it.
        """
        wanted = text.strip()
        for name in IDENTIFIERS:
            values = self.column(name)
            if values.dtype.kind == "O":
                found = np.flatnonzero(values == wanted) if wanted else np.empty(0)
            elif wanted.isascii() and wanted.isdigit() and len(wanted) < 20 and int(wanted) < 2**63:
                found = np.flatnonzero(values == int(wanted))
            else:
                continue
            if len(found):
                return int(found[0])
        message = f"{text}: no spectrum has this {', '.join(IDENTIFIERS[:-1])} or {IDENTIFIERS[-1]}"
        raise UsageError(message)

    def repeats(self, number: int) -> list[int]:
        """Return the rows of all spectra of the same star, the row itself among them."""
        source = self.column("gaia_source_id")
        if source[number] == INT_NULL:
            return [number]
        return np.flatnonzero(source == source[number]).tolist()
