"""Joins of one table with another: by identifier, or by position on the sky with proper motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import whole_ids

__all__ = ["MOTION_EDGES", "REF_EPOCH", "SkyMatch", "julian_epoch", "match_ids", "match_sky", "separations"]

_Floats = NDArray[np.float64]
_Rows = NDArray[np.int64]

REF_EPOCH = 2016.0
"""Epoch of the positions of Gaia DR3 (Julian year)."""
MOTION_EDGES = (0.0, 0.05, 0.3, 2.0, np.inf)
"""Proper motions (arcsec/yr) between groups of stars: few are fast, and only these need a wide search."""

_ARCSEC = np.pi / 648_000
_BLOCK = 200_000


@dataclass(frozen=True, eq=False)
class SkyMatch:
    """What `match_sky` returns, each ``(row,)``.

    ``rows``, the nearest row of the table or -1; ``separation`` in arcsec, NaN without a match; ``ambiguous``,
    whether more than one row of the table is within the radius.
    """

    rows: _Rows
    separation: _Floats
    ambiguous: NDArray[np.bool_]


def match_ids(ids: ArrayLike, table_ids: ArrayLike) -> _Rows:
    """Return for each identifier ``(row,)`` the row of the table that has it, or -1; null ids match nothing.

    Args:
        ids: of our rows, as `whole_ids` takes them; they may repeat.
        table_ids: of the table's rows, each once.

    Raises:
        UsageError: ids repeat in the table, or are no identifiers.

    Example:
        >>> match_ids([7, -9999, 5, 7, 6], [5, 7, -9999])
        array([ 1, -1,  0,  1, -1])
        >>> match_ids([7], [5, 7, 7])
        Traceback (most recent call last):
        stargap.errors.UsageError: 1 of 3 ids of the table repeat, such as 7; keep one row of each
    """
    requested, there = whole_ids(ids), whole_ids(table_ids, "ids of the table")
    order = np.argsort(there, kind="stable")
    ordered = there[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != INT_NULL)
    if same.any():
        message = f"{same.sum()} of {len(there)} ids of the table repeat, such as {ordered[1:][same][0]}; "
        message += "keep one row of each"
        raise UsageError(message)
    if not len(there):
        return np.full(len(requested), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ordered, requested), len(there) - 1)
    found = (ordered[place] == requested) & (requested != INT_NULL)
    return np.where(found, order[place], -1)


def julian_epoch(mjd: ArrayLike) -> _Floats:
    """Return Julian years of modified Julian days ``(row,)``; NaN for null (-9999 or NaN).

    Example:
        >>> julian_epoch([51544.5, -9999])
        array([2000., nan])
    """
    days = np.asarray(mjd, dtype=float)
    return np.where(days == INT_NULL, np.nan, 2000.0 + (days - 51544.5) / 365.25)


def match_sky(
    ra: ArrayLike,
    dec: ArrayLike,
    epoch: ArrayLike,
    table: Mapping[str, ArrayLike],
    *,
    radius_arcsec: float,
    earliest: float | None = None,
) -> SkyMatch:
    """Match positions with the nearest row of a table whose stars move.

    A star is a point u + t v on the unit sphere, normalised, with its proper motion v and t years since the
    table's epoch: the rigorous motion without radial velocity. Stars are searched in groups of proper motion,
    each within the radius and the farthest that its fastest star moves, then compared at the right epoch, so
    that no star is missed however fast it moves, and many slow stars stay quick. Parallactic motion (below
    0.8 arcsec) is left to the radius. Rows without proper motion stay where they are; rows or positions with
    null coordinates match nothing.

    Args:
        ra: right ascension (deg), ``(row,)``; any turn.
        dec: declination (deg).
        epoch: of our positions (Julian year), ``(row,)`` or one; that of the table where it is NaN.
        table: columns ``ra``, ``dec`` (deg) and, optionally, ``pmra`` (with cos dec), ``pmdec`` (mas/yr) and
            ``ref_epoch`` (Julian year; 2016.0 without it).
        radius_arcsec: largest separation.
        earliest: if given, our positions are of an unknown epoch from this one to `epoch`, and each star is
            compared where it comes closest between these. Positions in LAMOST headers are those of its input
            catalogues, not of the night: of 29 nearby M dwarfs with 0.05 to 0.65 arcsec/yr observed in 2012 to
            2018 all lie within 2 arcsec of their place in 2000, and 24 beyond 3 arcsec of it at the night.

    Raises:
        UsageError: the radius is not positive or above 1 degree.

    Example:
        >>> barnard = {"ra": [269.448502], "dec": [4.739420], "pmra": [-801.551], "pmdec": [10362.394]}
        >>> match = match_sky([269.4521], [4.6935], 2000.0, barnard, radius_arcsec=3.0)
        >>> match.rows, match.separation.round(1)
        (array([0]), array([0.5]))
    """
    if not 0 < radius_arcsec <= 3600:
        message = f"the radius is {radius_arcsec:g} arcsec; give one above 0 and up to 3600"
        raise UsageError(message)
    points, stars = _points(ra, dec, epoch), _Stars(table)
    rows = np.full(len(points.units), -1, dtype=np.int64)
    separation, ambiguous = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool)
    for ours, theirs in _candidates(points, stars, radius_arcsec, earliest):
        angle = _separate(points, stars, ours, theirs, earliest)
        near = angle <= radius_arcsec
        ours, theirs, angle = ours[near], theirs[near], angle[near]
        order = np.lexsort((theirs, angle, ours))
        ours, theirs, angle = ours[order], theirs[order], angle[order]
        first = np.ones(len(ours), dtype=bool)
        first[1:] = ours[1:] != ours[:-1]
        rows[ours[first]], separation[ours[first]] = theirs[first], angle[first]
        ambiguous[ours[~first]] = True
    return SkyMatch(rows, separation, ambiguous)


def separations(
    ra: ArrayLike,
    dec: ArrayLike,
    epoch: ArrayLike,
    table: Mapping[str, ArrayLike],
    rows: _Rows,
    *,
    earliest: float | None = None,
) -> _Floats:
    """Return how far positions are from given rows of a table (arcsec), as `match_sky` does; NaN where -1 or null."""
    points, stars = _points(ra, dec, epoch), _Stars(table)
    result = np.full(len(rows), np.nan)
    ours = np.flatnonzero(rows >= 0)
    result[ours] = _separate(points, stars, ours, rows[ours], earliest)
    return result


@dataclass(frozen=True, eq=False)
class _Points:
    units: _Floats
    epoch: _Floats


def _points(ra: ArrayLike, dec: ArrayLike, epoch: ArrayLike) -> _Points:
    units = _units(np.asarray(ra, dtype=float), np.asarray(dec, dtype=float))
    return _Points(units, np.broadcast_to(np.asarray(epoch, dtype=float), len(units)))


class _Stars:
    """Unit vectors, motions (rad/yr) and reference epochs of a table."""

    def __init__(self, table: Mapping[str, ArrayLike]) -> None:
        ra, dec = (np.asarray(table[name], dtype=float) for name in ("ra", "dec"))
        zero = np.zeros(len(ra))
        motion = [np.nan_to_num(np.asarray(table.get(name, zero), dtype=float)) for name in ("pmra", "pmdec")]
        east, north = (values[:, None] * _ARCSEC / 1000 for values in motion)
        alpha, delta = np.radians(ra), np.radians(dec)
        with np.errstate(invalid="ignore"):
            to_east = np.stack([-np.sin(alpha), np.cos(alpha), zero], axis=1)
            down = np.sin(delta)
            to_north = np.stack([-down * np.cos(alpha), -down * np.sin(alpha), np.cos(delta)], axis=1)
            self.motion = to_east * east + to_north * north
        self.units = _units(ra, dec)
        self.epoch = np.asarray(table.get("ref_epoch", np.full(len(ra), REF_EPOCH)), dtype=float)
        self.epoch = np.where(np.isfinite(self.epoch), self.epoch, REF_EPOCH)


def _units(ra: _Floats, dec: _Floats) -> _Floats:
    with np.errstate(invalid="ignore"):
        alpha, delta = np.radians(ra), np.radians(np.where(np.abs(dec) <= 90, dec, np.nan))
        return np.stack([np.cos(alpha) * np.cos(delta), np.sin(alpha) * np.cos(delta), np.sin(delta)], axis=1)


def _candidates(points: _Points, stars: _Stars, radius: float, earliest: float | None) -> Iterator[tuple[_Rows, _Rows]]:
    """Give pairs of rows, ours and theirs, block by block of ours: all within the radius at any epoch, and more."""
    from scipy.spatial import cKDTree

    known = np.flatnonzero(np.isfinite(stars.units).all(axis=1))
    if not len(known):
        return
    times = points.epoch[np.isfinite(points.epoch)]
    times = np.concatenate([times, [] if earliest is None else [earliest], [stars.epoch[known[0]]]])
    years = max(times.max() - stars.epoch[known].min(), stars.epoch[known].max() - times.min())
    speed = np.linalg.norm(stars.motion, axis=1)[known] / _ARCSEC
    groups = []
    for low, high in pairwise(MOTION_EDGES):
        inside = (speed >= low) & (speed < high)
        members = known[inside]
        if len(members):
            reach = min(radius + 1.01 * years * speed[inside].max(), 648_000)
            groups.append((members, cKDTree(stars.units[members]), 2 * np.sin(reach * _ARCSEC / 2) * (1 + 1e-9)))
    ours = np.flatnonzero(np.isfinite(points.units).all(axis=1))
    for start in range(0, len(ours), _BLOCK):
        block = ours[start : start + _BLOCK]
        tree = cKDTree(points.units[block])
        found = [
            (block[pairs["i"]], members[pairs["j"]])
            for members, group, chord in groups
            for pairs in [tree.sparse_distance_matrix(group, chord, output_type="ndarray")]
        ]
        yield np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def _separate(points: _Points, stars: _Stars, ours: _Rows, theirs: _Rows, earliest: float | None) -> _Floats:
    """Return the angle (arcsec) of pairs of rows at our epochs, or at the closest since `earliest`."""
    place, unit, motion = points.units[ours], stars.units[theirs], stars.motion[theirs]
    since = points.epoch[ours] - stars.epoch[theirs]
    since = np.where(np.isfinite(since), since, 0.0)
    if earliest is not None:
        start = earliest - stars.epoch[theirs]
        square = (motion**2).sum(axis=1)
        closest = ((place - unit) * motion).sum(axis=1) / np.where(square > 0, square, 1.0)
        since = np.clip(closest, np.minimum(start, since), np.maximum(start, since))
    moved = unit + motion * since[:, None]
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    chord = np.linalg.norm(moved - place, axis=1)
    return np.asarray(2 * np.arcsin(np.minimum(chord / 2, 1.0)) / _ARCSEC)
