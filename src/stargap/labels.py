"""The label space: names, units, order, and how [a/M] follows [M/H]."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["A_M", "LABELS", "LOGG", "M_H", "TEFF", "UNITS", "alpha_relation"]

LABELS: Final = ("teff", "logg", "m_h", "a_m")
UNITS: Final = {"teff": "K", "logg": "dex(cm s-2)", "m_h": "dex", "a_m": "dex"}
TEFF, LOGG, M_H, A_M = range(4)


def alpha_relation(m_h: ArrayLike, *, rounding: float = 0.0, slope: float = 0.4) -> NDArray[np.float64]:
    """Return [a/M] of the label prior at [M/H] (both dex, any shape).

    0 for [M/H] >= 0, 0.2 at -0.5, 0.4 at -1 and below, linear between (paper section 3.3.2).

    Args:
        m_h: [M/H].
        rounding: width (dex) over which the two corners are rounded, so that a fit along the relation has a
            continuous slope; the relation then moves by at most 0.28 times this (0.014 dex at 0.05).
        slope: [a/M] at [M/H] = -1 and below, instead of 0.4.

    Example:
        >>> alpha_relation([0.3, -0.5, -1.0, -2.0])
        array([0. , 0.2, 0.4, 0.4])
        >>> alpha_relation([0.3, -0.5, -1.0, -2.0], rounding=0.05).round(3)
        array([0.   , 0.2  , 0.386, 0.4  ])
    """
    m = np.asarray(m_h, dtype=float)
    if rounding == 0.0:
        return np.asarray(np.clip(-m, 0.0, 1.0) * slope)
    softened = np.logaddexp(0.0, -m / rounding) - np.logaddexp(0.0, -(m + 1.0) / rounding)
    return np.asarray(slope * rounding * softened)
