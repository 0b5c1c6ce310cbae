"""Our Teff and [M/H], on the scale of Mann et al. (2015), on the scales of other catalogues (docs/scales.md)."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError

__all__ = ["Converted", "scales", "to_scale"]


class Converted(NamedTuple):
    """Labels on another scale, arrays of the shape that was given: Teff (K), [M/H] (dex), the errors of the conversion,
    which are common to all stars, and whether the conversion would be an extrapolation, where labels are NaN."""

    teff: NDArray[np.float64]
    m_h: NDArray[np.float64]
    e_teff: NDArray[np.float64]
    e_m_h: NDArray[np.float64]
    outside: NDArray[np.bool_]


@cache
def _table() -> dict[str, Any]:
    text = files("stargap.validation.data").joinpath("scales.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def scales() -> dict[str, str]:
    """Return the names of the scales and their references.

    Example:
        >>> sorted(scales())
        ['apogee', 'birky2020', 'carmenes', 'mann', 'marfil2021', 'passegger2018', 'passegger2020']
    """
    return {name: str(scale["about"]) for name, scale in _table()["scales"].items()}


def to_scale(teff: ArrayLike, m_h: ArrayLike, scale: str) -> Converted:
    """Return our Teff and [M/H] on the scale of another catalogue.

    Each label is converted by a line that was fitted, with errors in both, to stars that the catalogue and Mann et al.
    (2015) have in common. Labels outside the range of those stars become NaN, each by itself, and ``outside`` is true.
    The errors returned are of the line and of zero points (what a direct comparison leaves): add those of the star.

    Args:
        teff: Teff (K), of any shape.
        m_h: [M/H] (dex), of the same shape.
        scale: one of `scales`.

    Raises:
        UsageError: the scale is not known, or the shapes differ.

    Example:
        >>> found = to_scale([3500.0, 4500.0], [-0.3, 0.0], "mann")
        >>> found.teff, found.m_h, found.outside
        (array([3500.,   nan]), array([-0.3,  0. ]), array([False,  True]))
    """
    table = _table()
    if scale not in table["scales"]:
        message = f"there is no scale {scale!r}; known are {', '.join(table['scales'])}"
        raise UsageError(message)
    given = {"teff": np.asarray(teff, dtype=float), "m_h": np.asarray(m_h, dtype=float)}
    if given["teff"].shape != given["m_h"].shape:
        message = f"teff has the shape {given['teff'].shape}, m_h {given['m_h'].shape}; they must be alike"
        raise UsageError(message)
    values, errors, outside = [], [], np.zeros(given["teff"].shape, dtype=bool)
    for name, label in given.items():
        line, pivot = table["scales"][scale][name], table["pivot"][name]
        beyond = (label < line["low"]) | (label > line["high"])
        apart = np.where(beyond, np.nan, label - pivot)
        variance = line["e_offset"] ** 2 + (apart * line["e_slope"]) ** 2
        variance = variance + 2 * line["rho"] * line["e_offset"] * line["e_slope"] * apart
        values.append(pivot + line["offset"] + line["slope"] * apart)
        errors.append(np.sqrt(variance + line["e_zero"] ** 2))
        outside |= beyond
    return Converted(values[0], values[1], errors[0], errors[1], outside)
