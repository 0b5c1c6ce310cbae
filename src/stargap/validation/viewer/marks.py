"""Stars that a person marks while looking through a survey, with notes, in one CSV that other commands read."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import read_text, replacing
from stargap.survey.cleaning.marked import MARKS
from stargap.tables.columns import CATALOGUE

__all__ = ["COLUMNS", "MarkedStars"]

_KNOWN = (
    *("spectrum_id", "obsid", "designation", "gaia_source_id", "ra", "dec", "pmra", "pmdec", "snr_r", "snr_i"),
    *(
        f"{mark}{name}{end}"
        for name in ("rv", "teff", "logg", "m_h")
        for mark, end in (("", ""), ("e_", ""), ("e_", "_sys"))
    ),
    "in_final_catalogue",
)
COLUMNS = (*_KNOWN, "mark", "note")
"""Columns of the CSV: those of the catalogue that a comparison needs, then what the person says."""
_SCHEMA = {column.name: column for column in CATALOGUE}
_LONGEST = 500
_NO_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""Spaces, and what readers of tables stumble over: control characters and halves of characters."""
_ID = re.compile(r"0|[1-9][0-9]{0,17}")
Row = dict[str, str]


class MarkedStars:
    """A CSV of marked spectra, one row per spectrum, in the order of marking; it is written anew after every change.

    ``stargap run`` takes it as ``input.marked``, and ``stargap compare`` in place of a catalogue.

    Args:
        path: of the CSV, which is made with the first mark; one that is there is gone on with.

    Raises:
        UsageError: the file is there and is not such a CSV, or cannot be written, or its folder is not there.

    Example:
        >>> file = getfixture("tmp_path") / "marked.csv"
        >>> star = {name: np.array([7]) for name in COLUMNS[:-2]}
        >>> MarkedStars(file).put("reject", "a lamp", lambda: star)
        [{'spectrum_id': '7', 'mark': 'reject', 'note': 'a lamp'}]
        >>> file.read_text().splitlines()[1].endswith(",True,reject,a lamp")
        True
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = Lock()
        if not self.path.absolute().parent.is_dir():
            message = f"{self.path}: there is no folder {self.path.absolute().parent}"
            raise UsageError(message)
        if self.path.exists() and not self.path.is_file():
            message = f"{self.path}: is no file; name a CSV"
            raise UsageError(message)
        self._target = self.path.resolve()  # a link stays one
        for one in (self._target, self._target.parent):
            if one.exists() and not os.access(one, os.W_OK):
                message = f"{self.path}: marks cannot be kept there: {one} is read-only"
                raise UsageError(message)
        self._read()

    def _read(self) -> dict[str, Row]:
        """Return the rows by their spectrum_id, as the file has them now: another program may have changed it."""
        if not self.path.exists():
            return {}
        try:
            reader = csv.DictReader(io.StringIO(read_text(self.path)), strict=True)
            names, rows = reader.fieldnames, list(reader)
        except (csv.Error, OSError) as error:
            message = f"{self.path}: cannot be read ({getattr(error, 'strerror', None) or error})"
            raise UsageError(message) from None
        given = set(names or ())
        if not {"spectrum_id", "mark", "note"} <= given or given - set(COLUMNS):
            message = f"{self.path}: is not a list of marked stars: it lacks spectrum_id, mark or note"
            if given >= {"spectrum_id", "mark", "note"}:
                message = f"{self.path}: has columns that would be lost, such as {min(given - set(COLUMNS))!r}"
            message += "; name another file"
            raise UsageError(message)
        reason = "has a column twice" if len(given) < len(names or ()) else _odd(rows)
        if reason:
            message = f"{self.path}: {reason}"
            raise UsageError(message)
        return {row["spectrum_id"]: {name: row.get(name) or "" for name in COLUMNS} for row in rows}

    def listed(self) -> list[Row]:
        """Return spectrum_id, designation, mark and note of each, in the order of marking."""
        with self._lock:
            return _short(self._read())

    def put(self, mark: str, note: str, star: Callable[[], Mapping[str, NDArray[Any]]]) -> list[Row]:
        """Mark a spectrum, or change its mark, or with an empty mark take it from the list; return the list.

        Args:
            mark: one of `MARKS`, or empty.
            note: what the person says, in a line.
            star: gives its columns of the catalogue, arrays ``(1,)``.

        Raises:
            UsageError: another mark, a note that is too long, or the file cannot be read.
        """
        note = _line(note)
        if mark not in (*MARKS, ""):
            message = f"mark is {mark!r}; it must be one of {', '.join(MARKS)}"
            raise UsageError(message)
        if len(note) > _LONGEST:
            message = f"a note may have {_LONGEST} characters; this one has {len(note)}"
            raise UsageError(message)
        columns = star()
        name = str(int(columns["spectrum_id"][0]))
        with self._lock, _alone(self._target.parent):
            rows = self._read()
            if mark:
                known = {column: _cell(column, columns[column]) for column in _KNOWN}
                rows[name] = known | {"mark": mark, "note": note}
            else:
                rows.pop(name, None)
            self._write(rows)
            return _short(rows)

    def _write(self, rows: Mapping[str, Row]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
        with replacing(self._target) as file:
            if self._target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(self._target.stat().st_mode))
            file.write(text.getvalue().encode())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other viewer changes a list in this folder: what it has added would be lost."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _odd(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Return what is wrong with the rows of a list; nothing where all are sound."""
    seen = set[str]()
    for row in rows:
        name = row["spectrum_id"] or ""
        if not _ID.fullmatch(name):
            return f"spectrum {name!r}: spectrum_id must be a whole number, without zeros before it"
        if row["mark"] not in MARKS:
            return f"spectrum {name!r} has the mark {row['mark']!r}; known marks are {', '.join(MARKS)}"
        if None in row:
            return f"the row of spectrum {name} has more cells than there are columns: they would be lost"
        if name in seen:
            return f"spectrum {name} has several rows: keep one"
        seen.add(name)
    return ""


def _line(text: str) -> str:
    """Return a text in one line, of characters that every reader of tables takes."""
    return _NO_TEXT.sub(" ", text).strip()


def _short(rows: Mapping[str, Row]) -> list[Row]:
    return [{name: row[name] for name in ("spectrum_id", "mark", "note")} for row in rows.values()]


def _cell(name: str, values: NDArray[Any]) -> str:
    """Return a value of the catalogue as text, empty where it is null."""
    column = _SCHEMA[name]
    if column.dtype == "bool":
        return str(bool(values[0]))
    if column.is_null(values)[0]:
        return ""
    return _line(str(values[0])) if column.dtype == "str" else str(np.asarray(values)[0])
