"""Files of the report's explorer: points of the diagrams, rows in words, and spectra, as scripts that a page loads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.pixels import LOG_LAMBDA, STARGAP
from stargap.spectra.store.shards import SHARD_ROWS
from stargap.tables.columns import CATALOGUE
from stargap.tables.parquet import read_columns
from stargap.validation.report.assets import AXES, COLOURS, FIRST, PALETTE, first_star, row_cells
from stargap.validation.report.settings import MOST_POINTS, NODE
from stargap.validation.report.summary import star_summary

if TYPE_CHECKING:
    from stargap.validation.report.fitted import FittedSpectra

__all__ = ["MOST_SHARDS", "choose_rows", "spectrum_content", "write_spectra", "write_stars"]

ROWS_A_FILE = 250
SPECTRA_A_FILE = 50
MOST_SHARDS = 100
"""Shards of the store from which spectra are shown, of 32 MB each."""
NO_PIXEL = -32768
LARGEST = 32767
IDS = ("spectrum_id", "obsid", "gaia_source_id")
Columns = Mapping[str, NDArray[Any]]


def choose_rows(spectra: Columns, *, points: int = MOST_POINTS, seed: int = 0) -> NDArray[np.int64]:
    """Return rows of the catalogue that have labels, in random order.

    Where there are more than `points`, those of the final catalogue come first, and of these first the ones in
    `MOST_SHARDS` shards drawn at random. Spectra are shown of the first rows: their shards are read whole.

    Args:
        spectra: columns ``(row,)``: spectrum_id, teff, logg and in_final_catalogue.
        points: the largest number of rows.
        seed: of the order.

    Example:
        >>> table = {"spectrum_id": np.arange(3), "teff": np.array([3500.0, np.nan, 3600.0]),
        ...          "logg": np.array([4.8, np.nan, 4.9]),
        ...          "in_final_catalogue": np.array([True, False, False])}
        >>> sorted(choose_rows(table).tolist()), choose_rows(table, points=1).tolist()
        ([0, 2], [0])
    """
    rows = np.flatnonzero(np.isfinite(spectra["teff"]) & np.isfinite(spectra["logg"]))
    rng = np.random.default_rng([seed, 11])
    rows = rng.permutation(rows)
    if len(rows) <= points:
        return rows
    final, shard = (
        np.asarray(spectra["in_final_catalogue"], dtype=bool)[rows],
        spectra["spectrum_id"][rows] // SHARD_ROWS,
    )
    drawn = np.isin(shard, rng.permutation(np.unique(shard))[:MOST_SHARDS])
    return rows[np.lexsort((~drawn, ~final))[:points]]


def write_stars(folder: Path, table: Path, rows: NDArray[np.int64], shown: int, simulated: bool) -> None:
    """Write the files of all that an explorer has but spectra.

    Args:
        folder: of the report.
        table: the catalogue of spectra.
        rows: of `choose_rows`, the first `shown` of which have a spectrum.
        shown: how many.
        simulated: whether the stars are: they have no links.
    """
    _write_points(folder, table, rows, shown)
    _write_rows(folder, table, rows, simulated)


def _write_points(folder: Path, table: Path, rows: NDArray[np.int64], shown: int) -> None:
    """Write ``points.js``: identifiers as text, numbers as float32 in base64, and what there is in the other files."""
    names = list(dict.fromkeys((*IDS, "designation", *AXES, *COLOURS, *FIRST)))
    given = read_columns(table, names, rows=rows)
    columns = {name: _base64(given[name].astype("<f4")) for name in (*AXES, *COLOURS)}
    first = np.arange(min(shown or len(rows), len(rows)))
    content = {
        "count": len(rows),
        "shown": shown,
        "first": first_star(given, first),
        "rowsAFile": ROWS_A_FILE,
        "spectraAFile": SPECTRA_A_FILE,
        "ids": {name: given[name].astype(str).tolist() for name in (*IDS, "designation")},
        "columns": columns,
        "final": _base64(given["in_final_catalogue"].astype("u1")),
        "colours": COLOURS,
        "palette": PALETTE,
        "schema": [[column.name, column.unit, column.description] for column in CATALOGUE],
    }
    _write(folder / "explorer" / "points.js", "points", 0, content)


def _write_rows(folder: Path, table: Path, rows: NDArray[np.int64], simulated: bool) -> None:
    """Write ``rows/NNN.js``: of each row its columns as text, nulls empty, flags with their sentences, a summary."""
    given = read_columns(table, [column.name for column in CATALOGUE], rows=rows)
    for number, part in _parts(len(rows), ROWS_A_FILE):
        columns = {name: values[part] for name, values in given.items()}
        summaries = [
            star_summary(columns, row, simulated=simulated)._asdict() for row in range(len(columns["spectrum_id"]))
        ]
        content = list(zip(row_cells(columns), summaries, strict=True))
        _write(folder / "rows" / f"{number:03d}.js", "rows", number, content)


def write_spectra(folder: Path, fitted: FittedSpectra) -> None:
    """Write ``spectra/NNN.js``: see `spectrum_content`."""
    for number, part in _parts(len(fitted.observed), SPECTRA_A_FILE):
        _write(folder / "spectra" / f"{number:03d}.js", "spectra", number, spectrum_content(fitted, part))


def spectrum_content(fitted: FittedSpectra, part: slice) -> dict[str, Any]:
    """Return some spectra for a page: observed, model, residual, flux and pseudo-continuum, as int16 with scales."""
    assert fitted.raw is not None
    start, step = float(fitted.wavelength[0]), float(fitted.wavelength[1] - fitted.wavelength[0])
    velocity = fitted.raw.velocity[part]
    return {
        "start": start,
        "step": step,
        "fit": _packed(np.stack([fitted.observed[part], fitted.model[part], fitted.residual[part]], axis=1)),
        "native": {"first": LOG_LAMBDA.first, "step": LOG_LAMBDA.step},
        "flux": _packed(fitted.raw.flux[part]),
        "continuum": _packed(fitted.raw.continuum[part]) | {"start": STARGAP.start, "step": NODE * STARGAP.step},
        "rv": [None if np.isnan(one) else float(one) for one in velocity],
    }


def _packed(values: NDArray[np.float32]) -> dict[str, Any]:
    """Return numbers ``(..., pixel)`` as int16 in base64, a scale for each line."""
    whole, scale = _as_int16(values)
    return {"pixels": values.shape[-1], "scale": scale.ravel().tolist(), "data": _base64(whole)}


def _as_int16(values: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Return numbers ``(..., pixel)`` as int16, `NO_PIXEL` where there is none, and what one unit of each line is."""
    finite = np.isfinite(values)
    largest = np.max(np.abs(values, where=finite, out=np.zeros(values.shape)), axis=-1)
    scale = np.where(largest > 0, largest, 1.0) / LARGEST
    whole = np.round(np.where(finite, values, 0.0) / scale[..., None])
    return np.where(finite, whole, NO_PIXEL).astype("<i2"), scale


def _parts(count: int, size: int) -> Iterator[tuple[int, slice]]:
    for number in range(-(-count // size)):
        yield number, slice(number * size, (number + 1) * size)


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _write(path: Path, kind: str, number: int, content: Any) -> None:
    """Write content as a call of the page's function: a page that is opened as a file can load scripts alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"stargapLoaded({json.dumps(kind)},{number},{text});\n", encoding="utf-8")
