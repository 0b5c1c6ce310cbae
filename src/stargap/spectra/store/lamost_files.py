"""LAMOST's file naming: from the rows of a catalogue to the files of a folder tree, and to those still missing."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.spectra.inputs import files_below
from stargap.spectra.readers.cards import fact_int, fact_number, fact_text
from stargap.spectra.store.plan import Inputs
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import is_null_word, whole_ids, whole_numbers

__all__ = ["Missing", "catalogue_inputs", "lamost_name", "write_missing"]

_MJD_ZERO = date(1858, 11, 17)
_NAMING = ("lmjd", "planid", "spid", "fiberid")
_KEPT: dict[str, tuple[str, Callable[..., Any]]] = {
    "gaia_source_id": ("gaia_source_id", fact_int),
    "uid": ("uid", fact_text),
    "catalogue_obsid": ("obsid", fact_int),
    "catalogue_class": ("class", fact_text),
    "catalogue_subclass": ("subclass", fact_text),
    "catalogue_fibermask": ("fibermask", fact_int),
    "catalogue_z": ("z", fact_number),
}


_UNNAMED = "without-lmjd-planid-spid-or-fiberid"
"""Folder, which does not exist, of the rows whose file has no name."""


class Missing(NamedTuple):
    """Files that are still to be downloaded, and rows that name no file, with the first of them, from 1."""

    files: int
    unnamed: int
    first_unnamed: int | None


def lamost_name(lmjd: int, plan_id: str, spectrograph: int, fiber: int) -> str:
    """Return the name that LAMOST gives to a low-resolution file.

    Example:
        >>> lamost_name(55859, "F5902", 1, 7)
        'spec-55859-F5902_sp01-007.fits.gz'
    """
    return f"spec-{lmjd:05d}-{plan_id}_sp{spectrograph:02d}-{fiber:03d}.fits.gz"


def catalogue_inputs(catalogue: Mapping[str, ArrayLike], root: str | Path) -> Inputs:
    """Return the files of a LAMOST catalogue, for `extend_plan`, one per row in its order.

    A file is found by its name anywhere below `root`, packed or not, in LAMOST's folders (``YYYYMMDD/PLANID``) or flat;
    of several the first in alphabetical order. One that is not there keeps its row, under the path where LAMOST has it;
    a row whose lmjd, planid, spid or fiberid is null names no file and keeps its row under a path that says so.

    Args:
        catalogue: columns by LAMOST's names, in any case: lmjd, planid, spid, fiberid, and where it has them obsid,
            obsdate, gaia_source_id, uid, class, subclass, fibermask, z; arrays ``(row,)``, nulls -9999, NaN or empty.
        root: folder of the files.

    Raises:
        UsageError: a column is missing, Gaia's identifiers are floats, `root` is no folder, or a folder in it cannot be
            searched.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> (folder / "20111024").mkdir()
        >>> _ = (folder / "20111024" / "spec-55859-F5902_sp01-007.fits").write_bytes(b"")
        >>> row = {"lmjd": [55859], "planid": ["F5902"], "spid": [1], "fiberid": [7], "obsid": [101007]}
        >>> inputs = catalogue_inputs(row, folder)
        >>> inputs.found, inputs.key, inputs.catalogue["catalogue_obsid"]
        ([True], ['spec-55859-F5902_sp01-007.fits'], [101007])
    """
    root = Path(root).absolute()
    if not root.is_dir():
        message = f"{root}: no such folder of LAMOST files"
        raise UsageError(message)
    columns = {name.lower(): values for name, values in catalogue.items()}
    expected = [path or f"{_UNNAMED}/row-{row:08d}" for row, path in enumerate(_expected(columns), start=1)]
    there = _files_below(root)
    keys = [Path(path).name.removesuffix(".gz") for path in expected]
    path = [there.get(key, root / below) for key, below in zip(keys, expected, strict=True)]
    nothing = [None] * len(keys)
    kept = {
        name: [parse(value) for value in _listed(_exact(given, columns[given]))] if given in columns else nothing
        for name, (given, parse) in _KEPT.items()
    }
    return Inputs([os.fsencode(p) for p in path], keys, [key in there for key in keys], kept)


def write_missing(catalogue: Mapping[str, ArrayLike], root: str | Path, path: str | Path) -> Missing:
    """Write the list of files still to be downloaded as a CSV, obsid and path below `root`.

    Rows whose lmjd, planid, spid or fiberid is null name no file; they are left out and counted.

    Args:
        catalogue: as for `catalogue_inputs`, obsid included.
        root: folder of the files; it need not exist yet.
        path: of the CSV.

    Raises:
        UsageError: a column is missing, or a folder cannot be searched.
        OSError: the list cannot be written.
    """
    columns = {name.lower(): values for name, values in catalogue.items()}
    expected, there = _expected(columns, "obsid"), _files_below(Path(root).absolute())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["obsid", "path"])
    lines = {
        below: obsid
        for below, obsid in zip(expected, _listed(_exact("obsid", columns["obsid"])), strict=True)
        if below is not None and Path(below).name.removesuffix(".gz") not in there
    }
    unnamed = [row for row, below in enumerate(expected, start=1) if below is None]
    writer.writerows([obsid, below] for below, obsid in lines.items())
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return Missing(len(lines), len(unnamed), unnamed[0] if unnamed else None)


def _expected(columns: Mapping[str, ArrayLike], *needed: str) -> list[str | None]:
    """Return the path of each row below the root of LAMOST's own tree, None where a value that names it is null."""
    lacking = [name for name in (*_NAMING, *needed) if name not in columns]
    if lacking:
        message = f"the catalogue has no column {', '.join(lacking)}: {', '.join(_NAMING)} name a file"
        raise UsageError(message)
    lmjds, spids, fibers = (whole_numbers(columns[name], name).tolist() for name in ("lmjd", "spid", "fiberid"))
    naming = [lmjds, _listed(columns["planid"]), spids, fibers]
    dates: list[Any] = _listed(columns["obsdate"]) if "obsdate" in columns else [None] * len(naming[0])
    paths: list[str | None] = []
    for lmjd, plan_id, spid, fiber, observed in zip(*naming, dates, strict=True):
        plan = str(plan_id).strip()
        if INT_NULL in (lmjd, spid, fiber) or is_null_word(plan):
            paths.append(None)
        else:
            paths.append(f"{_night(lmjd, observed)}/{plan}/{lamost_name(lmjd, plan, spid, fiber)}")
    return paths


def _night(lmjd: int, observed: Any) -> str:
    """Return the night's folder: the day on which it began, which is the one before its LMJD."""
    text = fact_text(observed) if isinstance(observed, str) else None
    day = text[:10] if text else f"{_MJD_ZERO + timedelta(days=min(max(lmjd, 1), 99_999) - 1)}"
    return day.replace("-", "").replace("/", "")


def _exact(name: str, values: ArrayLike) -> ArrayLike:
    """Return identifiers as whole numbers, other columns unchanged."""
    if name == "gaia_source_id":
        return whole_ids(values, name)
    return whole_numbers(values, name) if name == "obsid" else values


def _listed(values: ArrayLike) -> list[Any]:
    array = np.asarray(values)
    items: list[Any] = (np.char.decode(array, "ascii", "replace") if array.dtype.kind == "S" else array).tolist()
    return items


def _files_below(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files_below(root) if os.path.lexists(root) else ():
        if path.name.startswith("spec-") and path.name.endswith((".fits", ".fits.gz")):
            found.setdefault(path.name.removesuffix(".gz"), path)
    return found
