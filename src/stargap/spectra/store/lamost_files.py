"""LAMOST's file naming: from the rows of a catalogue to the files of a folder tree, and to those still missing."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.spectra.inputs import files_below
from stargap.spectra.readers.cards import fact_int, fact_number, fact_text
from stargap.spectra.store.plan import Inputs

__all__ = ["catalogue_inputs", "lamost_name", "write_missing"]

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
    of several the first in alphabetical order. One that is not there keeps its row, under the path where LAMOST has it.

    Args:
        catalogue: columns by LAMOST's names, in any case: lmjd, planid, spid, fiberid, and where it has them obsid,
            obsdate, gaia_source_id, uid, class, subclass, fibermask, z; arrays ``(row,)``, nulls -9999, NaN or empty.
        root: folder of the files.

    Raises:
        UsageError: a column is missing, `root` is no folder, or a folder in it cannot be searched.

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
    expected = _expected(columns)
    there = _files_below(root)
    keys = [Path(path).name.removesuffix(".gz") for path in expected]
    path = [there.get(key, root / below) for key, below in zip(keys, expected, strict=True)]
    nothing = [None] * len(keys)
    kept = {
        name: [parse(value) for value in _listed(columns[given])] if given in columns else nothing
        for name, (given, parse) in _KEPT.items()
    }
    return Inputs([os.fsencode(p) for p in path], keys, [key in there for key in keys], kept)


def write_missing(catalogue: Mapping[str, ArrayLike], root: str | Path, path: str | Path) -> int:
    """Write the list of files still to be downloaded as a CSV, obsid and path below `root`; return how many.

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
        for below, obsid in zip(expected, _listed(columns["obsid"]), strict=True)
        if Path(below).name.removesuffix(".gz") not in there
    }
    writer.writerows([obsid, below] for below, obsid in lines.items())
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    return len(lines)


def _expected(columns: Mapping[str, ArrayLike], *needed: str) -> list[str]:
    """Return the path of each row below the root of LAMOST's own tree."""
    lacking = [name for name in (*_NAMING, *needed) if name not in columns]
    if lacking:
        message = f"the catalogue has no column {', '.join(lacking)}: {', '.join(_NAMING)} name a file"
        raise UsageError(message)
    naming = [_listed(columns[name]) for name in _NAMING]
    dates: list[Any] = _listed(columns["obsdate"]) if "obsdate" in columns else [None] * len(naming[0])
    paths = []
    for lmjd, plan_id, spid, fiber, observed in zip(*naming, dates, strict=True):
        plan = str(plan_id).strip()
        name = lamost_name(int(lmjd), plan, int(spid), int(fiber))
        paths.append(f"{_night(int(lmjd), observed)}/{plan}/{name}")
    return paths


def _night(lmjd: int, observed: Any) -> str:
    """Return the night's folder: the day on which it began, which is the one before its LMJD."""
    text = fact_text(observed) if isinstance(observed, str) else None
    day = text[:10] if text else f"{_MJD_ZERO + timedelta(days=min(max(lmjd, 1), 99_999) - 1)}"
    return day.replace("-", "").replace("/", "")


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
