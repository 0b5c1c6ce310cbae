"""What a viewer is asked about a catalogue: pictures of its diagrams, stars near a place, one star in full."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.tables.columns import CATALOGUE, INT_NULL
from stargap.validation.report.assets import COLOURS, FIRST, PALETTE, first_star, row_cells
from stargap.validation.report.summary import SUMMARY_COLUMNS, star_summary
from stargap.validation.viewer.bins import View, binned, middle_range, nearest, whole_range
from stargap.validation.viewer.filters import SYNTAX, matching, read_filter
from stargap.validation.viewer.table import Catalogue

__all__ = ["COUNT", "DIAGRAMS", "Explorer"]

DIAGRAMS: Final = {"kiel": ("teff", "logg", True), "hr": ("bp_rp", "m_g", False)}
"""Columns across and down of each diagram, and whether the first decreases to the right."""
COUNT: Final = "count"
"""What bins can be coloured by beside columns: how many spectra they hold."""
MOST_POINTS = 4_000
"""Points in view up to which they are drawn one by one."""
CELL = 2
"""Pixels of a bin, across and down."""
_FINAL = "in_final_catalogue = true"
_OF_STAR = tuple(dict.fromkeys((*SUMMARY_COLUMNS, "obsid", "in_final_catalogue", "teff", "logg", "bp_rp", "m_g")))


@dataclass(frozen=True, eq=False)
class _Points:
    """The spectra of a diagram that a filter leaves: their rows in the catalogue, and where they are."""

    rows: NDArray[np.int64]
    x: NDArray[np.floating]
    y: NDArray[np.floating]


class Explorer:
    """Answers about one catalogue, in JSON's types; arrays are little-endian and in base64.

    Args:
        catalogue: of the run.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        numbers = [one for one in catalogue.schema.values() if one.dtype not in ("str", "bool")]
        self._numbers = {one.name: f"{one.name} ({one.unit})" if one.unit else one.name for one in numbers}
        self._kept = lru_cache(maxsize=8)(self._read_kept)
        self._points = lru_cache(maxsize=8)(self._read_points)
        self._colours = lru_cache(maxsize=16)(self._read_colours)

    # ---- what a filter leaves

    def _read_kept(self, text: str) -> NDArray[np.bool_]:
        catalogue = self.catalogue
        kept = matching(read_filter(text, catalogue.schema), catalogue.column, catalogue.rows)
        kept.flags.writeable = False
        return kept

    def _read_points(self, name: str, text: str) -> _Points:
        across, down, _ = DIAGRAMS[name]
        x, y = self.catalogue.column(across), self.catalogue.column(down)
        rows = np.flatnonzero(self._kept(text) & np.isfinite(x) & np.isfinite(y))
        return _Points(rows, x[rows], y[rows])

    def _read_colours(self, name: str, text: str) -> tuple[float, float]:
        return middle_range(self._values(name, self._kept(text)))

    def _values(self, name: str, rows: NDArray[Any]) -> NDArray[np.floating]:
        """Return some values of a column of numbers, NaN where they are null."""
        values = self.catalogue.column(name)[rows]
        null = self.catalogue.schema[name].is_null(values)
        return np.where(null, np.nan, values) if null.any() else values.astype(float)

    def points(self, name: str, text: str) -> _Points:
        """Return the spectra of a diagram that a filter leaves.

        Raises:
            UsageError: there is no such diagram, or the filter cannot be read.
        """
        if name not in DIAGRAMS:
            message = f"no diagram {name!r}; there are {', '.join(DIAGRAMS)}"
            raise UsageError(message)
        return self._points(name, text)

    # ---- answers

    def start(self) -> dict[str, Any]:
        """Return what a page begins with: the schema, colours, ranges, and the filter and star shown first."""
        catalogue = self.catalogue
        final = int(np.count_nonzero(catalogue.column("in_final_catalogue")))
        text = _FINAL if final else ""
        rows = self.points("kiel", text).rows
        first = first_star({name: catalogue.column(name) for name in FIRST}, rows)
        return {
            "count": catalogue.rows,
            "final": final,
            "simulated": catalogue.simulated,
            "filter": text,
            "syntax": SYNTAX,
            "colours": COLOURS | {COUNT: "number of spectra (log)"} | self._numbers | COLOURS,
            "palette": PALETTE,
            "schema": [[column.name, column.unit, column.description] for column in CATALOGUE],
            "whole": {name: self._whole(name, text) for name in DIAGRAMS},
            "first": None if first is None else int(rows[first]),
        }

    def _whole(self, name: str, text: str) -> dict[str, tuple[float, float]]:
        points = self.points(name, text)
        return {"x": whole_range(points.x), "y": whole_range(points.y)}

    def diagram(self, name: str, colour: str, view: View, text: str) -> dict[str, Any]:
        """Return what a diagram shows: points, where few are in view, else counts and means in bins.

        Raises:
            UsageError: no such diagram or colour, or the filter cannot be read.
        """
        if colour != COUNT and colour not in self._numbers:
            message = f"no column of numbers {colour!r} to colour by"
            raise UsageError(message)
        points = self.points(name, text)
        across, down = view.pixels(points.x, points.y)
        inside = (across >= 0) & (across <= view.width) & (down >= 0) & (down <= view.height)
        seen = int(np.count_nonzero(inside))
        counts = f"{int(np.count_nonzero(self._kept(text))):,} of {self.catalogue.rows:,} spectra"
        answer: dict[str, Any] = {"text": f"{counts} pass the filter", "seen": f"{seen:,} in view"}
        few = seen <= MOST_POINTS
        rows = points.rows[inside] if few else points.rows
        values = np.full(len(rows), np.nan) if colour == COUNT else self._values(colour, rows)
        if few:
            shown = {"x": points.x[inside], "y": points.y[inside], "values": values}
            answer |= {key: _packed(numbers.astype("<f4")) for key, numbers in shown.items()}
        else:
            number, means = binned(points.x, points.y, values, view, CELL)
            if colour == COUNT:
                means = np.log10(np.where(number > 0, number, 1)).astype(np.float32)
            high, wide = number.shape
            answer |= {"counts": _packed(number.astype("<u4")), "values": _packed(means.astype("<f4"))}
            answer |= {"width": wide, "height": high, "cell": CELL}
        low, top = (0.0, 1.0) if few and colour == COUNT else self._scale(colour, text, values if few else means)
        title = "log10 of the number of spectra" if colour == COUNT else COLOURS.get(colour, self._numbers.get(colour))
        return answer | {"scale": {"title": title, "low": low, "high": top}}

    def _scale(self, colour: str, text: str, means: NDArray[Any]) -> tuple[float, float]:
        """Return the ends of the colour scale: those of all that pass the filter, so that a zoom does not change it."""
        return (0.0, max(float(means.max()), 0.1)) if colour == COUNT else self._colours(colour, text)

    def pick(self, name: str, view: View, at: tuple[float, float], text: str) -> int | None:
        """Return the row of the star nearest to a place in a diagram."""
        points = self.points(name, text)
        found = nearest(points.x, points.y, view, at)
        return None if found is None else int(points.rows[found])

    def step(self, name: str, view: View, row: int, direction: str, text: str) -> int | None:
        """Return the row of the star nearest to a star on its left, right, upper or lower side."""
        if direction not in ("left", "right", "up", "down"):
            message = f"no direction {direction!r}"
            raise UsageError(message)
        points = self.points(name, text)
        here = (self.catalogue.column(column)[self.known(row)] for column in DIAGRAMS[name][:2])
        x, y = map(float, here)
        place = int(np.searchsorted(points.rows, row))
        itself = place if place < len(points.rows) and points.rows[place] == row else -1
        found = nearest(points.x, points.y, view, (x, y), direction, itself)
        return None if found is None else int(points.rows[found])

    def neighbour(self, row: int, way: int, text: str) -> int | None:
        """Return the next row (way 1) or the one before (way -1) that passes the filter and has labels."""
        rows = self.points("kiel", text).rows
        place = int(np.searchsorted(rows, row, side="right" if way > 0 else "left")) - (way < 0)
        return int(rows[place]) if 0 <= place < len(rows) else None

    def known(self, row: int) -> int:
        """Return the row, or refuse it with a UsageError where the catalogue has none."""
        if not 0 <= row < self.catalogue.rows:
            message = f"no row {row}: the catalogue has {self.catalogue.rows:,}"
            raise UsageError(message)
        return row

    def star(self, row: int) -> dict[str, Any]:
        """Return a spectrum's summary, its place in the diagrams, and the other spectra of its star."""
        columns = self.catalogue.row(self.known(row), _OF_STAR)
        summary = star_summary(columns, 0, simulated=self.catalogue.simulated)._asdict()
        ids = {name: int(columns[name][0]) for name in ("spectrum_id", "obsid", "gaia_source_id")}
        names = [f"{name} {'unknown' if value == INT_NULL else value}" for name, value in ids.items()]
        final = "" if columns["in_final_catalogue"][0] else ", not in the final catalogue"
        return {
            "key": row,
            "id": str(ids["spectrum_id"]),
            "summary": summary,
            "places": {name: [_number(columns[one][0]) for one in two] for name, (*two, _) in DIAGRAMS.items()},
            "repeats": [{"key": one, "label": self._label(one)} for one in self.catalogue.repeats(row)],
            "names": ", ".join(names) + final,
        }

    def cells(self, row: int) -> list[str]:
        """Return all columns of a row as text."""
        return row_cells(self.catalogue.row(self.known(row)))[0]

    def _label(self, row: int) -> str:
        night, snr = int(self.catalogue.column("lmjd")[row]), float(self.catalogue.column("snr_r")[row])
        when = "" if night == INT_NULL else f"MJD {night}, "
        return f"{when}S/N {snr:.0f}" if np.isfinite(snr) else f"{when}S/N unknown"


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
