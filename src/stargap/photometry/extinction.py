"""Extinction of M dwarfs in Gaia's and 2MASS's bands, and what is assumed of it where it is not known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["COEFFICIENTS", "LOCAL_BUBBLE", "R_V", "expected_extinction"]

COEFFICIENTS = np.array([0.719, 0.991, 0.603, 0.109])
"""Extinction in G, BP, RP and Ks over A_V, of a dwarf of 3500 K (``docs/make_extinction_coefficients.py``): Riello et
al. (2021, A&A 649, A3) by way of dustapprox for Gaia's bands, the mean of Gordon et al. (2023) and Fitzpatrick (1999)
by way of dust_extinction for Ks. To 4000 K they rise by 0.04, 0.02, 0.01 and 0; below 3500 K the atmospheres end."""
R_V = 3.1
"""A_V over E(B-V)."""
LOCAL_BUBBLE = 70.0
"""Distance (pc) within which there is no extinction to speak of."""
DENSITY = 0.5
"""Mean extinction of the disc near the Sun beyond that (mag of A_V per kpc); it varies by as much."""


def expected_extinction(distance: ArrayLike) -> NDArray[np.float64]:
    """Return what A_V of a star at some distance (pc) is assumed to be, and to be uncertain by, if nobody says.

    Nothing within 70 pc, then 0.5 mag/kpc: half of the mean in the plane of the disc, for surveys look out of it.

    Example:
        >>> expected_extinction([50.0, 270.0]).round(2)
        array([0. , 0.1])
    """
    return DENSITY / 1000 * np.maximum(np.asarray(distance, dtype=float) - LOCAL_BUBBLE, 0.0)
