"""Published relations between photometry and labels of M dwarfs, and those that stargap fits to the same stars.

All are on the scale of Mann et al. (2015, ApJ 804, 64; erratum 2016, ApJ 819, 87), of single, unreddened dwarfs that
are not young. Colours and magnitudes are those of Gaia DR3 and 2MASS; the BP of Mann et al. is synthetic, and DR3's
is brighter by 0.19 +- 0.05 mag: relations of the one are not for the other. Outside their ranges all give NaN.

What was checked, none of it against the printed papers: Teff and the radius of subdwarfs have the coefficients of the
public code of the author of Rains et al. (2021), whose radius of Mann et al. has 1.930 for 1.9305 and the other sign of
the term in [Fe/H]; the mass has those of most of six public codes. Against the 129 stars of Mann et al.
with DR3 photometry and RUWE < 1.4: Teff -5 K in the median with a scatter of 44 K; radius +0.3 % and 3.9 %, of which
errors of parallax and Ks are a part (with the other sign of its term in [Fe/H], +1.7 % and
4.5 %); mass +0.1 % and 5.8 % against their masses of an older relation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.photometry.fitted import fitted

__all__ = [
    "M_H_RANGE",
    "mass_from_ks",
    "m_h_from_gaia",
    "m_h_from_ks",
    "radius_from_ks",
    "radius_of_subdwarf",
    "surface_gravity",
    "teff_from_colour",
    "teff_from_gaia",
]

_Floats = NDArray[np.float64]

M_H_RANGE = (-0.54, 0.53)
"""[Fe/H] of the stars of Mann et al. (2015) that the relations rest on."""
COLOUR_RANGE = (1.73, 4.4)
"""BP - RP: the bluest of them; and where the polynomial of Teff begins to level off (it turns at 4.5)."""
RADIUS_RANGE = (4.6, 9.8)
"""M_Ks of the relation of radius (mag)."""
MASS_RANGE = (4.0, 11.0)
"""M_Ks of the relation of mass (mag)."""

TEFF_SCATTER = 44.0
"""Scatter (K) of Teff about the relation with colour and [Fe/H]."""
RADIUS_SCATTER = 0.027
MASS_SCATTER = 0.02
SCALE_ERROR = 60.0
"""Uncertainty (K) of the Teff scale as a whole (Mann et al. 2015)."""

_TEFF = (2.18138891, -1.05547875, 0.36448032, -0.0657628, 0.00481279)
TEFF_PER_DEX = 3500 * 0.05078185
"""Change of Teff at the same colour with [Fe/H] (K/dex)."""
_RADIUS = (1.9305, -0.3466, 0.01647)
RADIUS_PER_DEX = 0.04458
"""Relative change of the radius at the same M_Ks with [Fe/H] (1/dex)."""
_SUBDWARF, _SUBDWARF_M_H = (1.875, -0.337, 0.0161), 0.079
_MASS = (-0.642, -0.208, -8.43e-4, 7.87e-3, 1.42e-4, -2.13e-4)
_LOG_G_SUN = 4.438


def teff_from_colour(bp_rp: ArrayLike, m_h: ArrayLike = 0.0) -> _Floats:
    """Return Teff from BP - RP and [Fe/H].

    Teff / 3500 K = 2.18138891 - 1.05547875 X + 0.36448032 X^2 - 0.0657628 X^3 + 0.00481279 X^4 + 0.05078185 [Fe/H].
    Range: 1.73 < BP - RP < 4.4, which is 2780 K to 4030 K at solar [Fe/H], and `M_H_RANGE`. Scatter 44 K, and 60 K of
    the scale as a whole. Source: the form of Mann et al. (2015, table 2; erratum 2016), refitted to the DR3 photometry
    of their stars by the author of Rains et al. (2021, MNRAS 504, 5788).

    Args:
        bp_rp: Gaia DR3 BP - RP without reddening (mag), any shape.
        m_h: [Fe/H] (dex), broadcast against it.

    Returns:
        Teff (K), of the broadcast shape; NaN outside the range.

    Example:
        >>> teff_from_colour([2.0, 3.0, 5.0], 0.1).round()
        array([3795., 3201.,   nan])
    """
    colour, metallicity = np.asarray(bp_rp, dtype=float), np.asarray(m_h, dtype=float)
    inside = _inside(colour, COLOUR_RANGE) & _inside(metallicity, M_H_RANGE)
    return np.where(inside, polynomial_teff(colour) + TEFF_PER_DEX * metallicity, np.nan)


def polynomial_teff(bp_rp: ArrayLike) -> _Floats:
    """Return what `teff_from_colour` gives at [Fe/H] = 0 (K), anywhere: beyond its range this is no measurement.

    Example:
        >>> float(polynomial_teff(1.5).round())
        4272.0
    """
    return 3500 * _power(_TEFF, np.asarray(bp_rp, dtype=float))


def m_h_from_ks(bp_ks: ArrayLike, m_ks: ArrayLike) -> _Floats:
    """Return [Fe/H] from BP - Ks and M_Ks.

    Linear in BP - Ks - 5 and of fourth degree in M_Ks - 7, which is near the form of Rains et al. (2021), fitted by
    stargap to 125 stars of Mann et al. (2015) with DR3 and 2MASS photometry and RUWE < 1.4. Range: 3.67 < BP - Ks <
    8.24, 4.62 < M_Ks < 9.75, and [Fe/H] in `M_H_RANGE`. Scatter 0.083 dex with every star predicted by the others
    (0.065 dex from the median deviation), which is Mann's own error. An unresolved companion makes a star look
    metal-rich, by up to 0.5 dex.

    Args:
        bp_ks: Gaia DR3 BP minus 2MASS Ks without reddening (mag), any shape.
        m_ks: absolute Ks magnitude, broadcast against it.

    Returns:
        [Fe/H] (dex); NaN outside the range.

    Example:
        >>> m_h_from_ks([5.0, 5.5, 9.0], [7.0, 7.0, 7.0]).round(2)
        array([-0.16,  0.12,   nan])
    """
    return _metallicity("m_h_from_ks", bp_ks, m_ks)


def m_h_from_gaia(bp_rp: ArrayLike, m_g: ArrayLike) -> _Floats:
    """Return [Fe/H] from Gaia alone: BP - RP and M_G.

    A polynomial fitted by stargap to 129 stars of Mann et al. (2015) with DR3 photometry and RUWE < 1.4. Range:
    1.74 < BP - RP < 4.73, 7.45 < M_G < 14.75, and [Fe/H] in `M_H_RANGE`. Scatter 0.108 dex with every star predicted
    by the others (0.076 dex from the median deviation).

    Args:
        bp_rp: Gaia DR3 BP - RP without reddening (mag), any shape.
        m_g: absolute G magnitude, broadcast against it.

    Returns:
        [Fe/H] (dex); NaN outside the range.

    Example:
        >>> m_h_from_gaia([2.2, 2.3, 5.0], [9.5, 9.5, 9.5]).round(2)
        array([-0.31, -0.15,   nan])
    """
    return _metallicity("m_h_from_gaia", bp_rp, m_g)


def teff_from_gaia(bp_rp: ArrayLike, m_g: ArrayLike) -> _Floats:
    """Return Teff from Gaia alone: BP - RP and M_G.

    A polynomial fitted as that of `m_h_from_gaia`, to the same stars and with the same range. Scatter 41 K with every
    star predicted by the others, and 60 K of the scale as a whole.

    Args:
        bp_rp: Gaia DR3 BP - RP without reddening (mag), any shape.
        m_g: absolute G magnitude, broadcast against it.

    Returns:
        Teff (K); NaN outside the range.

    Example:
        >>> teff_from_gaia([2.2, 3.0, 5.0], [9.5, 11.6, 9.5]).round()
        array([3566., 3174.,   nan])
    """
    metal = fitted("m_h_from_gaia")(bp_rp, m_g)
    return np.where(_inside(metal, M_H_RANGE), fitted("teff_from_gaia")(bp_rp, m_g, within=True), np.nan)


def radius_from_ks(m_ks: ArrayLike, m_h: ArrayLike = 0.0) -> _Floats:
    """Return the radius of a dwarf from M_Ks and [Fe/H].

    R = (1.9305 - 0.3466 M + 0.01647 M^2) (1 + 0.04458 [Fe/H]) solar radii, M = M_Ks (Mann et al. 2015, table 1 with
    the erratum 2016). Range: 4.6 < M_Ks < 9.8 and `M_H_RANGE`. Scatter 2.7 %.

    Args:
        m_ks: absolute 2MASS Ks magnitude without extinction, any shape.
        m_h: [Fe/H] (dex), broadcast against it.

    Returns:
        Radius (solar radii); NaN outside the range.

    Example:
        >>> radius_from_ks([5.0, 7.0, 10.0]).round(3)
        array([0.609, 0.311,   nan])
    """
    magnitude, metallicity = np.asarray(m_ks, dtype=float), np.asarray(m_h, dtype=float)
    inside = _inside(magnitude, RADIUS_RANGE) & _inside(metallicity, M_H_RANGE)
    return np.where(inside, _power(_RADIUS, magnitude) * (1 + RADIUS_PER_DEX * metallicity), np.nan)


def radius_of_subdwarf(m_ks: ArrayLike, m_h: ArrayLike) -> _Floats:
    """Return the radius of a metal-poor M dwarf from M_Ks and [Fe/H].

    R = (1.875 - 0.337 M + 0.0161 M^2) (1 + 0.079 [Fe/H]) solar radii, M = M_Ks (Kesseli et al. 2019, AJ 157, 63).
    Range: 4.6 < M_Ks < 9.8 and -2 < [Fe/H] < 0.5. Scatter 6 %. The labels of stargap do not go there: [Fe/H] from
    photometry ends at -0.54.

    Args:
        m_ks: absolute 2MASS Ks magnitude without extinction, any shape.
        m_h: [Fe/H] (dex), broadcast against it.

    Returns:
        Radius (solar radii); NaN outside the range.

    Example:
        >>> radius_of_subdwarf(7.0, [-2.0, -1.0, 0.0]).round(3)
        array([0.257, 0.281, 0.305])
    """
    magnitude, metallicity = np.asarray(m_ks, dtype=float), np.asarray(m_h, dtype=float)
    inside = _inside(magnitude, RADIUS_RANGE) & _inside(metallicity, (-2.0, 0.5))
    return np.where(inside, _power(_SUBDWARF, magnitude) * (1 + _SUBDWARF_M_H * metallicity), np.nan)


def mass_from_ks(m_ks: ArrayLike) -> _Floats:
    """Return the mass of a dwarf from M_Ks.

    log10 M = -0.642 - 0.208 m - 8.43e-4 m^2 + 7.87e-3 m^3 + 1.42e-4 m^4 - 2.13e-4 m^5 solar masses, m = M_Ks - 7.5
    (Mann et al. 2019, ApJ 871, 63, table 6). Range: 4 < M_Ks < 11. Scatter 2 %; no term in [Fe/H] was significant.

    Args:
        m_ks: absolute 2MASS Ks magnitude without extinction, any shape.

    Returns:
        Mass (solar masses); NaN outside the range.

    Example:
        >>> mass_from_ks([5.0, 7.5, 12.0]).round(3)
        array([0.597, 0.228,   nan])
    """
    magnitude = np.asarray(m_ks, dtype=float)
    return np.where(_inside(magnitude, MASS_RANGE), 10 ** _power(_MASS, magnitude - 7.5), np.nan)


def surface_gravity(mass: ArrayLike, radius: ArrayLike) -> _Floats:
    """Return log g of a star of some mass and radius (solar units): 4.438 + log10 M - 2 log10 R.

    Example:
        >>> surface_gravity([1.0, 0.228], [1.0, 0.259]).round(2)
        array([4.44, 4.97])
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_LOG_G_SUN + np.log10(mass) - 2 * np.log10(radius))


def _metallicity(name: str, x: ArrayLike, y: ArrayLike) -> _Floats:
    metallicity = fitted(name)(x, y, within=True)
    return np.where(_inside(metallicity, M_H_RANGE), metallicity, np.nan)


def _power(coefficients: tuple[float, ...], x: _Floats) -> _Floats:
    return np.asarray(np.polynomial.polynomial.polyval(x, coefficients))


def _inside(values: _Floats, ends: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((values >= ends[0]) & (values <= ends[1]))
