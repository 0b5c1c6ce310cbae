"""Polynomials in two photometric quantities, fitted to published labels and kept in a file with their origin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.rows import BandCovariance

__all__ = ["Fitted", "fitted", "surface_covariance"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """Sum of c_ij (x - x0)^i (y - y0)^j.

    Args:
        inputs: names of x and y.
        zero: x0 and y0.
        terms: pairs (i, j).
        coefficients: c_ij, in their order.
        ranges: lowest and highest x, and y, of the stars that it was fitted to.
        scatter: standard deviation of these stars about it, each predicted by the others.
        robust_scatter: the same from the median of absolute deviations.
        stars: how many they are.

    Example:
        >>> relation = fitted("m_h_from_ks")
        >>> relation.inputs, relation.stars, relation.scatter
        (('bp_ks', 'm_ks'), 125, 0.0834)
        >>> float(relation(5.0, 7.0).round(3))
        -0.158
    """

    inputs: tuple[str, str]
    zero: tuple[float, float]
    terms: tuple[tuple[int, int], ...]
    coefficients: tuple[float, ...]
    ranges: tuple[tuple[float, float], tuple[float, float]]
    scatter: float
    robust_scatter: float
    stars: int

    def __call__(self, x: ArrayLike, y: ArrayLike, *, within: bool = False) -> _Floats:
        """Return the polynomial at x and y, of any shapes that broadcast; NaN outside the ranges if `within`."""
        first, second = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        u, v = first - self.zero[0], second - self.zero[1]
        result = np.zeros(u.shape)
        for (i, j), coefficient in zip(self.terms, self.coefficients, strict=True):
            result = result + coefficient * u**i * v**j
        return np.where(self.inside(first, second), result, np.nan) if within else result

    def inside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Return whether x and y are both within the ranges."""
        first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        (low, high), (bottom, top) = self.ranges
        return (first >= low) & (first <= high) & (second >= bottom) & (second <= top)


@cache
def fitted(name: str) -> Fitted:
    """Return a fitted polynomial.

    Args:
        name: m_h_from_ks, m_h_from_gaia, teff_from_gaia; bp_rp or g_rp of the surface of single stars.

    Raises:
        KeyError: there is no such polynomial.
    """
    content = _content()
    raw = content["surface"][name] if name in ("bp_rp", "g_rp") else content[name]
    x, y = raw["inputs"]
    return Fitted(
        (x, y),
        tuple(raw["zero"]),
        tuple((i, j) for i, j in raw["terms"]),
        tuple(raw["coefficients"]),
        (tuple(raw["range"][x]), tuple(raw["range"][y])),
        raw["scatter"],
        raw["robust_scatter"],
        raw["stars"],
    )


def surface_covariance() -> BandCovariance:
    """Return the covariance ``(2, 2)`` of BP - RP and G - RP (mag^2) of single stars about their surface."""
    return np.array(_content()["surface"]["covariance"])


@cache
def _content() -> dict[str, Any]:
    text = (files("stargap") / "photometry" / "data" / "relations.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
