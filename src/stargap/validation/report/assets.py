"""What pages of reports and of the viewer share: templates, style, script, colours, rows of the catalogue in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.features import BANDS, HALPHA, LINES
from stargap.flags import FLAG_COLUMNS, bit_text, worst_first
from stargap.pixels import LOG_LAMBDA, WINDOWS, air_to_vacuum
from stargap.tables.columns import CATALOGUE, Column

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = [
    "AXES",
    "COLOURS",
    "FIRST",
    "PALETTE",
    "ExplorerAssets",
    "explorer_assets",
    "first_star",
    "page_templates",
    "row_cells",
]

AXES = ("teff", "logg", "bp_rp", "m_g")
"""Columns of the diagrams."""
COLOURS = {"m_h": "[M/H] (dex)", "snr_r": "S/N in r", "chi2": "reduced chi-square", "halpha_ew": "EW of H-alpha (A)"}
"""Columns that points can be coloured by, with their titles."""
FIRST = ("spectrum_id", "teff", "m_h", "snr_r", "use_teff", "flags", "in_final_catalogue")
"""Columns that `first_star` needs."""
PALETTE = (
    *("#440154", "#470d60", "#48186a", "#482374", "#472e7c", "#453882", "#424186", "#3e4a89"),
    *("#3a548c", "#365d8d", "#32658e", "#2e6d8e", "#2b758e", "#287d8e", "#25848e", "#228c8d"),
    *("#1f948c", "#1e9c89", "#20a386", "#25ab82", "#2eb37c", "#3aba76", "#48c16e", "#58c765"),
    *("#6ccd5a", "#7fd34e", "#93d741", "#a8db34", "#c0df25", "#d5e21a", "#eae51a", "#fde725"),
)
"""Colours of points, dark to light: matplotlib's viridis, which need not be loaded for it."""
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


def page_templates() -> Environment:
    """Return the templates of pages, which escape what they are given and refuse names that they were not given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("stargap.validation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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


def first_star(columns: Columns, rows: NDArray[np.int64]) -> int | None:
    """Return which of some rows of the catalogue an explorer begins with: a typical star with a good spectrum.

    Of the usable ones in the final catalogue, of those without any flag where there are some, and of these with a S/N
    in the highest quarter, it is the one nearest to their medians of Teff and [M/H], in units of their scatter. None
    where there are no rows, the first where none is usable.

    Example:
        >>> table = {"spectrum_id": np.arange(4), "teff": np.array([3000.0, 3400.0, 3500.0, 3600.0]),
        ...          "m_h": np.zeros(4), "snr_r": np.full(4, 30.0), "use_teff": np.ones(4), "flags": np.zeros(4),
        ...          "in_final_catalogue": np.array([True, True, True, False])}
        >>> first_star(table, np.array([3, 2, 1, 0]))
        2
    """
    given = {name: np.asarray(columns[name])[rows] for name in FIRST}
    usable = np.asarray(given["in_final_catalogue"], dtype=bool) & (given["use_teff"] == 1)
    usable &= np.isfinite(given["snr_r"]) & np.isfinite(given["m_h"])
    if not usable.any():
        return 0 if len(rows) else None
    sound = usable & (given["flags"] == 0)
    usable = sound if sound.any() else usable
    usable &= given["snr_r"] >= np.quantile(given["snr_r"][usable], 0.75)
    far = np.zeros(len(rows))
    for name in ("teff", "m_h"):
        some = given[name][usable]
        far += ((given[name] - np.median(some)) / max(float(np.std(some)), 1e-9)) ** 2
    return int(np.where(usable, far, np.inf).argmin())


def row_cells(columns: Columns) -> list[list[str]]:
    """Return rows of the catalogue as text, in the order of its columns: nulls empty, flags with their sentences."""
    cells = [_cells(column, columns[column.name]) for column in CATALOGUE]
    return [list(row) for row in zip(*cells, strict=True)]


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
