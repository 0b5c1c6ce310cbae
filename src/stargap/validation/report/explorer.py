"""Files of the report's explorer: points of the diagrams, rows in words, and spectra, as scripts that a page loads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.spectra.store.shards import SHARD_ROWS
from stargap.tables.columns import CATALOGUE, Column
from stargap.tables.parquet import read_columns
from stargap.validation.report.settings import MOST_POINTS
from stargap.validation.report.spectra import FittedSpectra

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = [
    "MOST_SHARDS",
    "ExplorerAssets",
    "choose_rows",
    "explorer_assets",
    "write_points",
    "write_rows",
    "write_spectra",
]

ROWS_A_FILE = 250
SPECTRA_A_FILE = 50
MOST_SHARDS = 100
"""Shards of the store from which spectra are shown, of 32 MB each."""
NO_PIXEL = -32768
LARGEST = 32767
IDS = ("spectrum_id", "obsid", "gaia_source_id")
AXES = ("teff", "logg", "bp_rp", "m_g")
COLOURS = {"m_h": "[M/H] (dex)", "snr_r": "S/N in r", "chi2": "reduced chi-square", "halpha_ew": "EW of H-alpha (A)"}

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ExplorerAssets:
    """What a page with an explorer contains beside its section: ours, without a word of the data."""

    style: Markup
    script: Markup


def explorer_assets() -> ExplorerAssets:
    """Return the style sheet and the script of the explorer's section."""
    from markupsafe import Markup

    folder = files("stargap.validation.report").joinpath("templates")
    return ExplorerAssets(
        *(Markup(folder.joinpath(name).read_text(encoding="utf-8")) for name in ("explorer.css", "explorer.js"))
    )


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


def write_points(folder: Path, table: Path, rows: NDArray[np.int64], shown: int) -> None:
    """Write ``points.js``: identifiers as text, numbers as float32 in base64, and what there is in the other files.

    Args:
        folder: of the report.
        table: the catalogue of spectra.
        rows: of `choose_rows`, the first `shown` of which have a spectrum.
        shown: how many.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    given = _columns_of(table, rows, (*IDS, *AXES, *COLOURS, "in_final_catalogue"))
    columns = {name: _base64(given[name].astype("<f4")) for name in (*AXES, *COLOURS)}
    content = {
        "count": len(rows),
        "shown": shown,
        "rowsAFile": ROWS_A_FILE,
        "spectraAFile": SPECTRA_A_FILE,
        "ids": {name: " ".join(map(str, given[name].tolist())) for name in IDS},
        "columns": columns,
        "final": _base64(given["in_final_catalogue"].astype("u1")),
        "colours": COLOURS,
        "palette": [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, 32)],
        "schema": [[column.name, column.unit, column.description] for column in CATALOGUE],
    }
    _write(folder / "explorer" / "points.js", "points", 0, content)


def write_rows(folder: Path, table: Path, rows: NDArray[np.int64]) -> None:
    """Write ``rows/NNN.js``: every column of the catalogue as text, nulls empty, flags with their sentences."""
    given = _columns_of(table, rows, [column.name for column in CATALOGUE])
    for number, part in _parts(len(rows), ROWS_A_FILE):
        cells = [_cells(column, given[column.name][part]) for column in CATALOGUE]
        content = [list(row) for row in zip(*cells, strict=True)]
        _write(folder / "rows" / f"{number:03d}.js", "rows", number, content)


def _columns_of(table: Path, rows: NDArray[np.int64], names: Sequence[str]) -> Columns:
    """Return columns of some rows of a table, of which one column at a time is in memory."""
    return {name: read_columns(table, [name])[name][rows] for name in names}


def write_spectra(folder: Path, fitted: FittedSpectra) -> None:
    """Write ``spectra/NNN.js``: observed, model and residual of each spectrum as int16 with a scale each, in base64."""
    start, step = float(fitted.wavelength[0]), float(fitted.wavelength[1] - fitted.wavelength[0])
    for number, part in _parts(len(fitted.observed), SPECTRA_A_FILE):
        values = np.stack([fitted.observed[part], fitted.model[part], fitted.residual[part]], axis=1)
        whole, scale = _as_int16(values)
        content = {
            "start": start,
            "step": step,
            "pixels": values.shape[2],
            "scale": scale.ravel().tolist(),
            "data": _base64(whole),
        }
        _write(folder / "spectra" / f"{number:03d}.js", "spectra", number, content)


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


def _cells(column: Column, values: NDArray[Any]) -> list[str]:
    if column.dtype == "bool":
        return [str(bool(value)) for value in values.tolist()]
    null = column.is_null(values).tolist()
    if column.dtype.startswith("float"):
        texts = [f"{value:.{column.decimals}f}" for value in values.tolist()]
    elif column.name in FLAG_COLUMNS:
        texts = [_flag_cell(column.name, value) for value in values.tolist()]
    else:
        texts = [str(value) for value in values.tolist()]
    return ["" if nothing else text for nothing, text in zip(null, texts, strict=True)]


@cache
def _flag_cell(name: str, mask: int) -> str:
    sentences = "; ".join(bit_text(name, bit)[1] for bit in worst_first(name, mask))
    return f"{mask}: {sentences}" if sentences else str(mask)


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _write(path: Path, kind: str, number: int, content: Any) -> None:
    """Write content as a call of the page's function: a page that is opened as a file can load scripts alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"stargapLoaded({json.dumps(kind)},{number},{text});\n", encoding="utf-8")
