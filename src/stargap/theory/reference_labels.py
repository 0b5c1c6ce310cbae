"""Numbers of real stars in bins of (Teff, [M/H]) (paper section 3.3.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.labels import A_M

__all__ = [
    "LABEL_BOXES",
    "LabelBox",
    "ReferenceDistribution",
    "find_label_box",
    "shipped_reference",
]


@dataclass(frozen=True, kw_only=True)
class LabelBox:
    """Least and largest Teff (K), log g and [M/H] (dex); [a/M] follows `stargap.labels.alpha_relation`."""

    name: str
    teff: tuple[float, float]
    logg: tuple[float, float]
    m_h: tuple[float, float]

    def contains(self, labels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which rows of ``(row, label)`` are within the box, ``(row,)``."""
        low, high = np.array([self.teff, self.logg, self.m_h]).T
        inside = (labels[:, :A_M] >= low) & (labels[:, :A_M] <= high)
        return np.asarray(inside.all(axis=1))


LABEL_BOXES: Final = {
    "paper": LabelBox(name="paper", teff=(3000.0, 4000.0), logg=(4.0, 6.0), m_h=(-1.0, 0.5)),
    "stargap": LabelBox(name="stargap", teff=(2800.0, 4400.0), logg=(4.0, 5.5), m_h=(-2.0, 0.5)),
}
"""The box of the paper, and a wider one: K7 stars are in the sample, and the final cut is at 4300 K.

The wider one ends at log g 5.5, where the shipped emulator ends; the main sequence reaches that at no other corner
than 2800 K and [M/H] -2.
"""


def find_label_box(name: str) -> LabelBox:
    """Return the box of labels of a preset.

    Raises:
        UsageError: there is no preset of that name.
    """
    if name not in LABEL_BOXES:
        message = f"no preset {name!r}; there are {' and '.join(LABEL_BOXES)}"
        raise UsageError(message)
    return LABEL_BOXES[name]


@dataclass(frozen=True, eq=False)
class ReferenceDistribution:
    """Numbers of real stars in bins of (Teff, [M/H]).

    Args:
        teff_edges: K, ``(teff + 1,)``, increasing.
        m_h_edges: dex, ``(m_h + 1,)``, increasing.
        counts: stars, ``(teff, m_h)``.
        sources: stars that each source adds.

    Raises:
        UsageError: shapes that do not fit, edges that do not increase, counts that are negative or all zero.
    """

    teff_edges: NDArray[np.float64]
    m_h_edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    sources: dict[str, int]

    def __post_init__(self) -> None:
        edges = (self.teff_edges, self.m_h_edges)
        shape = tuple(len(edge) - 1 for edge in edges)
        if self.counts.shape != shape or not all(len(edge) > 1 and (np.diff(edge) > 0).all() for edge in edges):
            message = f"counts of shape {self.counts.shape} need increasing edges of one more, they have {shape}"
            raise UsageError(message)
        if not (np.isfinite(self.counts).all() and (self.counts >= 0).all() and self.counts.any()):
            message = "counts of a reference distribution must be 0 or more, and not all 0"
            raise UsageError(message)

    @property
    def stars(self) -> float:
        """Number of stars."""
        return float(self.counts.sum())

    @property
    def area(self) -> NDArray[np.float64]:
        """Areas of the bins (K dex), ``(teff, m_h)``."""
        return np.outer(np.diff(self.teff_edges), np.diff(self.m_h_edges))

    def bins(self, teff: ArrayLike, m_h: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the flat bin number of each star (0 where outside) and which stars are inside."""
        inside, numbers = np.ones(np.shape(teff), dtype=bool), []
        for value, edges in ((np.asarray(teff), self.teff_edges), (np.asarray(m_h), self.m_h_edges)):
            inside &= (value >= edges[0]) & (value <= edges[-1])
            numbers.append(np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2))
        return np.where(inside, numbers[0] * self.counts.shape[1] + numbers[1], 0), inside

    def density(self, teff: ArrayLike, m_h: ArrayLike) -> NDArray[np.float64]:
        """Return the probability density at (Teff, [M/H]) in 1/(K dex), ``(row,)``; 0 outside.

        In each bin a plane of the bin's own mass, whose slopes are the mean ones towards both neighbours, at most
        twice the smaller, and none at an extremum (van Leer 1977), both less where the plane would turn negative:
        counts are kept, and edges show less.
        """
        height = self.counts / self.stars / self.area
        slopes = np.stack([_limited(np.diff(height, axis=0)), _limited(np.diff(height, axis=1).T).T])
        slopes *= np.minimum(1.0, 2 * height / np.maximum(np.abs(slopes).sum(axis=0), 1e-300))
        number, inside = self.bins(teff, m_h)
        rows = np.unravel_index(number, height.shape)
        result = height[rows]
        for slope, row, value, edges in zip(slopes, rows, (teff, m_h), (self.teff_edges, self.m_h_edges), strict=True):
            place = (np.asarray(value) - edges[row]) / (edges[row + 1] - edges[row])
            result = result + slope[rows] * (place - 0.5)
        return np.where(inside, result.clip(0.0), 0.0)


def _limited(step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return limited slopes of ``(bin, any)`` from the steps between bins, ``(bin - 1, any)``."""
    still = np.zeros((1, step.shape[1]))
    before, after = np.concatenate([still, step]), np.concatenate([step, still])
    size = np.minimum(2 * np.minimum(np.abs(before), np.abs(after)), np.abs(before + after) / 2)
    return np.where(before * after > 0, np.sign(after) * size, 0.0)


@cache
def shipped_reference(preset: str = "stargap") -> ReferenceDistribution:
    """Return the distribution of stars of the literature in the box of a preset, in bins of 100 K and 0.1 dex.

    Each star is counted once, with the labels of the first source that lists it, of Mann et al. (2015), Gaidos & Mann
    (2014), Birky et al. (2020), Newton et al. (2015), Schweitzer et al. (2019), Passegger et al. (2018), Gaidos et
    al. (2014), Marfil et al. (2021), the compilation of Cifuentes et al. (2025), Rajpurohit et al. (2018), Casagrande
    et al. (2008) and APOGEE's ASPCAP, which adds none to Birky's. Sources are matched within 30" (epochs differ) and
    by name, and moved to the scale of Mann et al. (2015) by their median difference from it. [Fe/H] is taken for
    [M/H]. Made by docs/make_label_data.py.

    Three in four stars are Birky's, whose labels end at 4058 K and [Fe/H] -0.43. In the wider box 42 of 8022 stars are
    above 4100 K and none is below -1.1: that is what was published, not what exists.

    Raises:
        UsageError: no such preset.

    Example:
        >>> shipped_reference("paper").counts.shape
        (10, 15)
    """
    name = find_label_box(preset).name
    table = json.loads((files("stargap") / "theory" / "data" / "reference.json").read_text(encoding="utf-8"))[name]
    teff, m_h, counts = (np.array(table[key], dtype=float) for key in ("teff_edges", "m_h_edges", "counts"))
    return ReferenceDistribution(teff, m_h, counts, table["sources"])
