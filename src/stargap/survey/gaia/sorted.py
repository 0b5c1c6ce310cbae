"""Gaia's table sorted once by place and by identifier, so that a shard of spectra reads the sources near it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.files import replacing
from stargap.survey.gaia.join import known_sources, read_gaia
from stargap.tables.crossmatch import MOTION_EDGES, REF_EPOCH, julian_epoch
from stargap.tables.nulls import equal_columns, numbers, whole_ids

__all__ = ["sort_sources", "sources_near"]

_Floats = NDArray[np.float64]
_Rows = NDArray[np.int64]

HEIGHT = 0.05
"""Height of a zone of declination (deg)."""
GROUP, ZONE = 1e7, 1e3
"""A key is GROUP times the group of proper motion, ZONE times the zone and the right ascension (deg) together."""
NOWHERE = 1e9
"""Key of sources without a position."""
MARGIN = 1e-6
"""Added to every search (deg): keys are rounded by 1e-9."""
ROW = "row_in_table"
_ROWS = 100_000
_FILES = ("sources.npy", "keys.npy", "ids.npy", "places.npy", "card.json")


class _Card(NamedTuple):
    """Sources, the fastest of each group of proper motion (arcsec/yr), and the range of the epochs (Julian year)."""

    sources: int
    speeds: list[float]
    first_epoch: float
    last_epoch: float


def sort_sources(table: str | Path, folder: str | Path) -> list[Path]:
    """Write Gaia's table anew, sorted by proper motion, zone of declination and right ascension.

    Rows without source_id are left out, and of those that repeat one all but the first. The files are arrays that are
    mapped from the disk: the rows (``sources.npy``), their keys, and identifiers in order (``ids.npy``) with the rows
    that they are in. The table is held in memory once, 0.2 kB a source.

    Args:
        table: as `read_gaia` reads it.
        folder: to write the files into; made if it does not exist.

    Returns:
        the files.

    Raises:
        UsageError: the table cannot be read, or lacks a column that is needed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gaia = read_gaia(table)
    gaia["source_id"] = whole_ids(gaia["source_id"], "source_id")
    asked = ("source_id", "ra", "dec", "pmra", "pmdec", "ref_epoch")
    stars, _, _ = known_sources(
        {name: gaia[name] for name in asked if name in gaia} | {ROW: np.arange(len(gaia["ra"]))}
    )
    count = len(stars[ROW])
    speed = np.hypot(*(np.nan_to_num(numbers(stars, name, count)) for name in ("pmra", "pmdec"))) / 1000
    group = np.searchsorted(MOTION_EDGES, speed, side="right") - 1
    ra, dec = (numbers(stars, name, count) for name in ("ra", "dec"))
    epoch = np.nan_to_num(numbers(stars, "ref_epoch", count), nan=REF_EPOCH)
    there = np.isfinite(ra) & (np.abs(dec) <= 90)
    keys = np.where(there, group * GROUP + _zone(dec) * ZONE + ra % 360, NOWHERE)
    order = np.argsort(keys, kind="stable")
    by_id = np.argsort(stars["source_id"][order])
    card = _Card(
        count,
        [float(speed[group == number].max(initial=0.0)) for number in range(len(MOTION_EDGES) - 1)],
        float(epoch.min(initial=REF_EPOCH)),
        float(epoch.max(initial=REF_EPOCH)),
    )
    _write_rows(folder / "sources.npy", gaia, stars[ROW][order])
    arrays = {"keys.npy": keys[order], "ids.npy": stars["source_id"][order][by_id], "places.npy": by_id}
    for name, values in arrays.items():
        with replacing(folder / name) as file:
            np.save(file, values)
    with replacing(folder / "card.json") as file:
        file.write(json.dumps(card._asdict()).encode())
    return [folder / name for name in _FILES]


def _write_rows(path: Path, gaia: Mapping[str, NDArray[Any]], rows: _Rows) -> None:
    """Write rows of a table, in this order, as records that are together on the disk."""
    columns = {name: values.astype(str) if values.dtype.kind in "OSU" else values for name, values in gaia.items()}
    kinds = np.dtype([(name, values.dtype) for name, values in columns.items()] + [(ROW, np.int64)])
    with replacing(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(kinds), "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(rows), _ROWS):
            part = rows[first : first + _ROWS]
            block = np.empty(len(part), dtype=kinds)
            for name, values in columns.items():
                block[name] = values[part]
            block[ROW] = part
            file.write(block.tobytes())


def sources_near(
    folder: str | Path, index: Mapping[str, ArrayLike], *, radius_arcsec: float, earliest: float
) -> dict[str, NDArray[Any]]:
    """Return the sources that `join_gaia` can join to some spectra, and few others, in the order of the whole table.

    Args:
        folder: of the files of `sort_sources`.
        index: columns ``(row,)`` as `join_gaia` takes them.
        radius_arcsec: largest separation of a join by position.
        earliest: Julian year that the positions of the index can be of.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "gaia.csv").write_text("source_id,ra,dec\\n77,5.0,5.0\\n78,6.0,6.0001\\n79,9.0,6.0\\n")
        >>> _ = sort_sources(folder / "gaia.csv", folder / "gaia")
        >>> index = {"spectrum_id": [0, 1], "gaia_source_id": [77, -9999], "ra": [5.0, 6.0], "dec": [5.0, 6.0]}
        >>> sources_near(folder / "gaia", index, radius_arcsec=3.0, earliest=2000.0)["source_id"]
        array([77, 78])
    """
    folder = Path(folder)
    card = _Card(**json.loads((folder / "card.json").read_bytes()))
    how: Any = {"mmap_mode": "r" if card.sources else None, "allow_pickle": False}
    sources, keys, ids, places = (np.load(folder / name, **how) for name in _FILES[:-1])
    spectra = equal_columns(index, "spectrum_id")
    size = len(spectra["spectrum_id"])
    ra, dec, mjd = (numbers(spectra, name, size) for name in ("ra", "dec", "lmjd"))
    found = np.full(size, -1, dtype=np.int64)
    if "gaia_source_id" in spectra:
        found = _sorted_match(whole_ids(spectra["gaia_source_id"], "gaia_source_id"), ids)
    rest = (found < 0) & np.isfinite(ra) & (np.abs(dec) <= 90)
    times = np.concatenate([julian_epoch(mjd), [earliest, card.first_epoch, card.last_epoch]])
    years = np.nanmax(times) - np.nanmin(times)
    rows = [np.asarray(places[found[found >= 0]])]
    for group, speed in enumerate(card.speeds):
        reach = min(radius_arcsec + 1.01 * years * speed, 648_000.0) / 3600 + MARGIN
        rows.append(_rows_within(keys, group, ra[rest], dec[rest], reach))
    near = sources[np.unique(np.concatenate(rows))]
    near = near[np.argsort(near[ROW])]
    return {name: near[name].copy() for name in near.dtype.names if name != ROW}


def _sorted_match(requested: _Rows, ids: NDArray[np.int64]) -> _Rows:
    """Return the place of each identifier among sorted ones, each of which is there once, or -1."""
    if not len(ids):
        return np.full(len(requested), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ids, requested), len(ids) - 1)
    return np.where(ids[place] == requested, place, -1)


def _zone(dec: _Floats) -> _Floats:
    return np.floor((dec + 90) / HEIGHT)


def _rows_within(keys: _Floats, group: int, ra: _Floats, dec: _Floats, reach: float) -> _Rows:
    """Return rows of a group that may be within `reach` (deg) of any of some places, and more, in any order."""
    low, high = np.maximum(dec - reach, -90.0), np.minimum(dec + reach, 90.0)
    whole = (np.abs(dec) + reach >= 90) | (reach >= 90)
    with np.errstate(invalid="ignore"):
        cosines = np.cos(np.radians(dec - reach)) * np.cos(np.radians(dec + reach))
        width = np.degrees(np.arctan(np.sin(np.radians(reach)) / np.sqrt(np.maximum(cosines, 1e-12)))) + MARGIN
    width = np.where(whole, 360.0, width)
    zones = _zone(high) - _zone(low) + 1
    point = np.repeat(np.arange(len(dec)), zones.astype(np.int64))
    first = np.repeat(np.cumsum(zones) - zones, zones.astype(np.int64))
    base = group * GROUP + (_zone(low)[point] + np.arange(len(point)) - first) * ZONE
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        left, right = (np.clip(ra % 360 + turn + side * width, -1.0, 361.0)[point] for side in (-1, 1))
        some = left < right
        start = np.searchsorted(keys, (base + left)[some])
        stop = np.searchsorted(keys, (base + right)[some], side="right")
        parts.append(_ranges(start, stop))
    return np.unique(np.concatenate(parts))


def _ranges(start: _Rows, stop: _Rows) -> _Rows:
    """Return all numbers from each start up to its stop, the latter left out."""
    count = stop - start
    first = np.cumsum(count) - count
    return np.repeat(start - first, count) + np.arange(count.sum())
