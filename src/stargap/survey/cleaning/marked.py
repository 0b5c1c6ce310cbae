"""Spectra that a person keeps or rejects one by one, as a table that `stargap view` writes or anybody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import Clean
from stargap.survey.cleaning.clean import Cleaning
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import match_ids
from stargap.tables.read import read_table

__all__ = ["MARKS", "MarkedSpectra", "overrule_spectra", "read_marked", "refuse_other_run"]

MARKS: Final = ("keep", "reject", "look")
"""What a person can mark a spectrum with; ``look`` is for the person alone and changes nothing."""

MarkedSpectra = dict[str, NDArray[np.int64]]


def read_marked(path: str | Path) -> MarkedSpectra:
    """Return the spectra that a table keeps or rejects: ``spectrum_id``, ``obsid`` and ``flags``, ``(row,)`` each.

    The table has the columns ``spectrum_id`` and ``mark``, one of `MARKS`, and perhaps ``obsid``; others do not matter.
    ``flags`` are bits of `Clean`.

    Raises:
        UsageError: it cannot be read, lacks a column, has another mark, or names a spectrum twice.

    Example:
        >>> file = getfixture("tmp_path") / "marked.csv"
        >>> _ = file.write_text("spectrum_id,mark,note\\n7,reject,a lamp\\n8,look,\\n")
        >>> marked = read_marked(file)
        >>> marked["spectrum_id"], Clean.describe(marked["flags"][0])
        (array([7]), 'rejected by a person')
    """
    table = read_table(path, ["spectrum_id", "mark"], optional=["obsid"])
    ids, marks = table["spectrum_id"], table["mark"].astype(str)
    if ids.dtype.kind != "i" and len(ids):
        message = f"{path}: spectrum_id holds other things than whole numbers"
        raise UsageError(message)
    odd = np.flatnonzero(~np.isin(marks, MARKS))
    if len(odd):
        message = f"{path}: row {odd[0] + 1}: mark is {marks[odd[0]]!r}; it must be one of {', '.join(MARKS)}"
        raise UsageError(message)
    known, count = np.unique(ids, return_counts=True)
    if (count > 1).any():
        message = f"{path}: spectrum {known[count > 1][0]} has several rows: keep one"
        raise UsageError(message)
    obsid = table.get("obsid", np.full(len(ids), INT_NULL))
    flags = np.where(marks == "keep", int(Clean.KEPT), int(Clean.REJECTED))
    used = marks != "look"
    columns = {"spectrum_id": ids, "obsid": obsid if obsid.dtype.kind == "i" else np.full(len(ids), INT_NULL)}
    return {name: values[used].astype(np.int64) for name, values in (columns | {"flags": flags}).items()}


def refuse_other_run(
    marked: MarkedSpectra, spectrum_id: NDArray[np.int64], obsid: NDArray[np.int64], path: str | Path
) -> None:
    """Refuse marks of another run, whose spectra of these numbers are other ones.

    Args:
        marked: of `read_marked`.
        spectrum_id: of spectra of this run, ``(row,)``; others are not looked at.
        obsid: theirs, ``(row,)``.
        path: of the table, for errors.

    Raises:
        UsageError: a spectrum has another obsid in this run.

    Example:
        >>> marked = {"spectrum_id": np.array([7, 8]), "obsid": np.array([107, 108])}
        >>> refuse_other_run(marked, np.array([7, 8]), np.array([107, -9999]), "marked.csv")
        >>> refuse_other_run(marked, np.array([7, 8]), np.array([107, 208]), "a.csv")
        Traceback (most recent call last):
        stargap.errors.UsageError: a.csv: spectrum 8 has obsid 108, and 208 in this run: the table is of another run
    """
    place = match_ids(marked["spectrum_id"], spectrum_id)
    spectrum, theirs = (marked[name][place >= 0] for name in ("spectrum_id", "obsid"))
    ours = obsid[place[place >= 0]]
    odd = np.flatnonzero((theirs != ours) & (theirs != INT_NULL) & (ours != INT_NULL))
    if len(odd):
        first = odd[0]
        message = f"{path}: spectrum {spectrum[first]} has obsid {theirs[first]}, and {ours[first]} in this run: "
        message += "the table is of another run"
        raise UsageError(message)


def overrule_spectra(
    cleaning: Cleaning, marked: MarkedSpectra, spectrum_id: NDArray[np.int64], path: str | Path
) -> Cleaning:
    """Apply a person's marks to a cleaning; they are above all rules, and above verdicts on clusters.

    Args:
        cleaning: of spectra.
        marked: of `read_marked`; spectra that were not cleaned are left alone.
        spectrum_id: of the spectra that were cleaned, in their order.
        path: of the table, for errors.

    Raises:
        UsageError: no spectrum of the table was cleaned: it is of another run.
    """
    place = match_ids(marked["spectrum_id"], spectrum_id)
    found = place >= 0
    if len(place) and not found.any():
        message = f"{path}: none of its {len(place)} spectra was cleaned in this run: it is of another one"
        raise UsageError(message)
    flags = cleaning.flags.copy()
    flags[place[found]] |= marked["flags"][found]
    return replace(cleaning, flags=flags)
