"""Half a million points as a picture: means in bins, or the points themselves once few are in view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["View", "binned", "middle_range", "nearest", "whole_range"]

Floats = NDArray[np.floating]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class View:
    """What a diagram shows: ranges of its axes (lower end first) and the pixels across and down that they take.

    ``x_down`` says that x decreases to the right; y always increases downwards, as gravities and magnitudes do.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int
    x_down: bool = False

    def pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return where points are, in pixels from the upper left corner.

        Example:
            >>> View((0.0, 10.0), (4.0, 5.0), 100, 50, x_down=True).pixels(np.array([10.0]), np.array([4.5]))
            (array([0.]), array([25.]))
        """
        across = (x.astype(float) - self.x[0]) / (self.x[1] - self.x[0])
        down = (y.astype(float) - self.y[0]) / (self.y[1] - self.y[0])
        return (1 - across if self.x_down else across) * self.width, down * self.height


def binned(
    x: Floats, y: Floats, values: Floats, view: View, cell: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return counts and mean values of points in bins of `cell` pixels, ``(down, across)``; NaN where nothing is known.

    Args:
        x: of the points, ``(point,)``, all known.
        y: likewise.
        values: what is averaged, ``(point,)``; NaN where it is not known.
        view: what is shown.
        cell: pixels of a bin, across and down.

    Example:
        >>> view = View((0.0, 4.0), (0.0, 2.0), 4, 2)
        >>> points = np.array([0.5, 0.6, 3.5]), np.array([0.5, 0.5, 1.5])
        >>> counts, means = binned(*points, np.array([1.0, 3.0, np.nan]), view, 2)
        >>> counts.tolist(), means.tolist()
        ([[2, 1]], [[2.0, nan]])
    """
    across, down = view.pixels(x, y)
    shape = -(-view.height // cell), -(-view.width // cell)
    column, row = np.floor(across / cell).astype(np.int64), np.floor(down / cell).astype(np.int64)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    place = (row * shape[1] + column)[inside]
    size = shape[0] * shape[1]
    some = values[inside]
    known = np.isfinite(some)
    counts, number = np.bincount(place, minlength=size), np.bincount(place[known], minlength=size)
    total = np.bincount(place[known], weights=some[known].astype(float), minlength=size)
    means = np.divide(total, number, out=np.full(size, np.nan), where=number > 0)
    return counts.astype(np.uint32).reshape(shape), means.astype(np.float32).reshape(shape)


def nearest(
    x: Floats, y: Floats, view: View, at: tuple[float, float], direction: str = "", without: int = -1
) -> int | None:
    """Return which point is nearest to a place as the eye sees it, or None.

    Args:
        x: of the points, ``(point,)``; NaN is nowhere.
        y: likewise.
        view: what is shown.
        at: x and y of the place.
        direction: ``left``, ``right``, ``up`` or ``down``: only points within 45 degrees of it count.
        without: a point that does not count.
    """
    across, down = view.pixels(x, y)
    here, there = view.pixels(*(np.array([one]) for one in at))
    across, down = across - here, down - there
    far = across**2 + down**2
    far = np.where(np.isfinite(far), far, np.inf)
    if direction:
        right, below = _DIRECTIONS[direction]
        along = across * right + down * below
        far = np.where((along > 0) & (2 * along**2 >= far), far, np.inf)
    if without >= 0:
        far[without] = np.inf
    if not len(far):
        return None
    best = int(far.argmin())
    return best if np.isfinite(far[best]) else None


def whole_range(values: Floats) -> tuple[float, float]:
    """Return a range that holds all values but the most extreme in ten thousand at each end, with a margin.

    Example:
        >>> whole_range(np.array([3000.0, 4000.0, np.nan]))
        (2970.0, 4030.0)
        >>> whole_range(np.array([np.nan]))
        (0.0, 1.0)
    """
    known = values[np.isfinite(values)].astype(float)
    if not len(known):
        return 0.0, 1.0
    low, high = (float(end) for end in np.quantile(known, [0.0001, 0.9999], method="nearest"))
    margin = 0.03 * (high - low) or 0.5
    return low - margin, high + margin


def middle_range(values: Floats) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of what is known, the ends of a colour scale; 0 and 1 where nothing is.

    Example:
        >>> middle_range(np.arange(101.0))
        (2.0, 98.0)
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = np.partition(known, ends := [round(part * (len(known) - 1)) for part in (0.02, 0.98)])[ends]
    return float(low), float(high)
