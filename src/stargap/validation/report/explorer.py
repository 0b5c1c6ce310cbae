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

from stargap.features import BANDS, HALPHA, LINES
from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.pixels import LOG_LAMBDA, STARGAP, WINDOWS, air_to_vacuum
from stargap.spectra.store.shards import SHARD_ROWS
from stargap.tables.columns import CATALOGUE, Column
from stargap.tables.parquet import read_columns
from stargap.validation.report.settings import MOST_POINTS
from stargap.validation.report.spectra import NODE, FittedSpectra
from stargap.validation.report.summary import star_summary

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["AXES", "COLOURS", "MOST_SHARDS", "ExplorerAssets", "choose_rows", "explorer_assets", "first_star",
           "palette", "row_cells", "spectrum_content", "write_points", "write_rows", "write_spectra"]  # fmt: skip

ROWS_A_FILE = 250
SPECTRA_A_FILE = 50
MOST_SHARDS = 100
"""Shards of the store from which spectra are shown, of 32 MB each."""
NO_PIXEL = -32768
LARGEST = 32767
IDS = ("spectrum_id", "obsid", "gaia_source_id")
AXES = ("teff", "logg", "bp_rp", "m_g")
"""Columns of the diagrams."""
COLOURS = {"m_h": "[M/H] (dex)", "snr_r": "S/N in r", "chi2": "reduced chi-square", "halpha_ew": "EW of H-alpha (A)"}
"""Columns that points can be coloured by, with their titles."""
_FIRST = ("spectrum_id", "teff", "m_h", "snr_r", "use_teff", "in_final_catalogue")
_LINES = LINES | {"Na D": (5889.95, 5895.92)}
_BANDS = (
    *(("CaH2", *BANDS["CaH2"], 1), ("CaH3", *BANDS["CaH3"], 0)),
    *(("TiO", 7053.0, 7135.0, 1), ("TiO", 7589.0, 7640.0, 1), ("TiO", 8432.0, 8470.0, 1)),
)
"""Bands (A, air; of TiO, heads of its gamma and epsilon systems), and which line their names are on."""


Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ExplorerAssets:
    """What a page with an explorer contains beside its section: ours, without a word of the data."""

    style: Markup
    script: Markup


def explorer_assets(source: str = "report-source.js") -> ExplorerAssets:
    """Return the style sheet and the script of an explorer, uPlot among them.

    Args:
        source: the script that gives it data.
    """
    from markupsafe import Markup

    folder = files("stargap.validation.report").joinpath("templates")

    def read(*names: str) -> str:
        return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)

    marks = f"window.stargapMarks = {json.dumps(_line_marks())};"
    script = read("uplot/uPlot.iife.min.js"), marks, read("diagrams.js", "spectrum.js", "explorer.js", source)
    return ExplorerAssets(Markup(read("uplot/uPlot.min.css", "explorer.css")), Markup("\n".join(script)))


def _line_marks() -> dict[str, Any]:
    """Return what spectra are marked with, in vacuum (A): lines, bands, windows that fits leave out, and the range."""
    lines = [(name, [air_to_vacuum(one) for one in places]) for name, places in _LINES.items()]
    bands = [(name, air_to_vacuum(low), air_to_vacuum(high), level) for name, low, high, level in _BANDS]
    wave = LOG_LAMBDA.wavelength
    return {
        "lines": [(*line, 0) for line in lines],
        "bands": bands,
        "windows": [(one.low, one.high, one.frame) for one in WINDOWS],
        "halpha": HALPHA,
        "range": [float(wave[0]), float(wave[-1])],
    }


def palette() -> list[str]:
    """Return the colours of points, dark to light, as ``#rrggbb``."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, 32)]


def first_star(columns: Columns, rows: NDArray[np.int64]) -> int | None:
    """Return which of some rows of the catalogue an explorer begins with: a typical star with a good spectrum.

    Of the usable ones in the final catalogue with a S/N in the highest quarter, it is the one nearest to their medians
    of Teff and [M/H], in units of their scatter. None where there are no rows, the first where none is usable.

    Example:
        >>> table = {"spectrum_id": np.arange(4), "teff": np.array([3000.0, 3400.0, 3500.0, 3600.0]),
        ...          "m_h": np.zeros(4), "snr_r": np.full(4, 30.0), "use_teff": np.ones(4),
        ...          "in_final_catalogue": np.array([True, True, True, False])}
        >>> first_star(table, np.array([3, 2, 1, 0]))
        2
    """
    given = {name: np.asarray(columns[name])[rows] for name in _FIRST}
    usable = np.asarray(given["in_final_catalogue"], dtype=bool) & (given["use_teff"] == 1)
    usable &= np.isfinite(given["snr_r"]) & np.isfinite(given["m_h"])
    if not usable.any():
        return 0 if len(rows) else None
    usable &= given["snr_r"] >= np.quantile(given["snr_r"][usable], 0.75)
    far = np.zeros(len(rows))
    for name in ("teff", "m_h"):
        some = given[name][usable]
        far += ((given[name] - np.median(some)) / max(float(np.std(some)), 1e-9)) ** 2
    return int(np.where(usable, far, np.inf).argmin())


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
    given = _columns_of(table, rows, (*IDS, "designation", *AXES, *COLOURS, "use_teff", "in_final_catalogue"))
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
        "palette": palette(),
        "schema": [[column.name, column.unit, column.description] for column in CATALOGUE],
    }
    _write(folder / "explorer" / "points.js", "points", 0, content)


def write_rows(folder: Path, table: Path, rows: NDArray[np.int64], *, simulated: bool) -> None:
    """Write ``rows/NNN.js``: of each row its columns as text, nulls empty, flags with their sentences, and a summary.

    Args:
        folder: of the report.
        table: the catalogue of spectra.
        rows: of `choose_rows`.
        simulated: whether the stars are: they have no links.
    """
    given = _columns_of(table, rows, [column.name for column in CATALOGUE])
    for number, part in _parts(len(rows), ROWS_A_FILE):
        columns = {name: values[part] for name, values in given.items()}
        summaries = [
            star_summary(columns, row, simulated=simulated)._asdict() for row in range(len(columns["spectrum_id"]))
        ]
        content = list(zip(row_cells(columns), summaries, strict=True))
        _write(folder / "rows" / f"{number:03d}.js", "rows", number, content)


def row_cells(columns: Columns) -> list[list[str]]:
    """Return rows of the catalogue as text, in the order of its columns: nulls empty, flags with their sentences."""
    cells = [_cells(column, columns[column.name]) for column in CATALOGUE]
    return [list(row) for row in zip(*cells, strict=True)]


def _columns_of(table: Path, rows: NDArray[np.int64], names: Sequence[str]) -> Columns:
    """Return columns of some rows of a table, of which one column at a time is in memory."""
    return {name: read_columns(table, [name])[name][rows] for name in names}


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
