"""Absolute magnitudes of single dwarfs and unresolved pairs at (Teff, [M/H]): the relations, turned round.

Single stars lie on a surface: at a given (M_Ks, [Fe/H]) the relation of [Fe/H] gives BP - Ks, that of single stars near
the Sun BP - RP and G - RP, and that of Teff the temperature. Beyond the stars that the relations rest on, the surface
goes on straight, so that noise does not push stars against its edge; what lies there is flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import spline_filter

from stargap.photometry import relations
from stargap.photometry.fitted import fitted, surface_covariance
from stargap.rows import BandCovariance, FloatColumn, IntColumn, Magnitudes, MagnitudeSlopes

__all__ = ["BANDS", "MASS_RATIOS", "MagnitudeTable", "absolute_magnitudes", "intrinsic_covariance", "magnitude_table"]

_Floats = NDArray[np.float64]

BANDS = ("g", "bp", "rp", "ks")
"""Order of magnitudes in every array."""
MASS_RATIOS = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
"""Secondary over primary mass of the pairs: the middles of seven equal bins of 0.3 to 1. Fainter companions change no
magnitude by more than 0.03."""
TEFF_LIMITS = (2500.0, 4500.0)
M_H_LIMITS = (-1.0, 0.9)
"""Where there are labels at all (K, dex)."""

_KS_BOX = (4.5, 9.8)
_M_H_BOX = (-0.6, 0.6)
_COLOUR_BOX = (1.4, 4.2)
_STEPS = (25.0, 0.05)
_MARGIN = 8  # cells: a spline forgets its end by a factor 3.7 a cell
_RP = BANDS.index("rp")
_FAINTEST = 0.08  # solar masses: below, no star, and no light


def absolute_magnitudes(m_ks: ArrayLike, m_h: ArrayLike) -> tuple[_Floats, _Floats]:
    """Return absolute magnitudes ``(..., band)`` of a single dwarf and its Teff ``(...)``.

    Args:
        m_ks: absolute Ks magnitude.
        m_h: [Fe/H] (dex), broadcast against it.

    Returns:
        G, BP, RP and Ks (mag), and Teff (K).

    Example:
        >>> magnitudes, teff = absolute_magnitudes(6.5, 0.0)
        >>> magnitudes.round(2), float(teff.round())
        (array([10.12, 11.54,  8.94,  6.5 ]), 3380.0)
    """
    magnitude, metallicity = np.broadcast_arrays(np.asarray(m_ks, dtype=float), np.asarray(m_h, dtype=float))
    corner = np.clip(magnitude, *_KS_BOX), np.clip(metallicity, *_M_H_BOX)
    steps = 1e-4, 1e-4
    colours = _colours(*corner)
    along_ks = (_colours(corner[0] + steps[0], corner[1]) - _colours(corner[0] - steps[0], corner[1])) / (2 * steps[0])
    along_m_h = (_colours(corner[0], corner[1] + steps[1]) - _colours(corner[0], corner[1] - steps[1])) / (2 * steps[1])
    colours = colours + along_ks * (magnitude - corner[0]) + along_m_h * (metallicity - corner[1])
    bp_ks, bp_rp, g_rp = colours
    bp = magnitude + bp_ks
    rp = bp - bp_rp
    return np.stack([rp + g_rp, bp, rp, magnitude], axis=-1), _teff(bp_rp, metallicity)


def _colours(m_ks: _Floats, m_h: _Floats) -> _Floats:
    """Return BP - Ks, BP - RP and G - RP inside the box."""
    relation = fitted("m_h_from_ks")
    slope = relation.coefficients[relation.terms.index((1, 0))]
    bp_ks = relation.zero[0] + (m_h - relation(relation.zero[0], m_ks)) / slope
    return np.stack([bp_ks, fitted("bp_rp")(bp_ks, m_ks), fitted("g_rp")(bp_ks, m_ks)])


def _teff(bp_rp: _Floats, m_h: _Floats) -> _Floats:
    """Return Teff, continued straight beyond where its polynomial is steep."""
    inside = np.clip(bp_rp, *_COLOUR_BOX)
    step = 1e-4
    slope = (relations.polynomial_teff(inside + step) - relations.polynomial_teff(inside - step)) / (2 * step)
    return relations.polynomial_teff(inside) + slope * (bp_rp - inside) + relations.TEFF_PER_DEX * m_h


def intrinsic_covariance() -> BandCovariance:
    """Return the covariance ``(band, band)`` of single stars about the surface (mag^2).

    Only G and RP have any: the surface runs through BP and Ks, whose scatter at given labels is that of the relations.
    """
    colours = surface_covariance()
    to_magnitudes = np.array([[-1.0, 1.0], [0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    return np.asarray(to_magnitudes @ colours @ to_magnitudes.T)


@dataclass(frozen=True, eq=False)
class MagnitudeTable:
    """Magnitudes, log g and blended Teff of a single star and of pairs, as cubic splines over (Teff, [M/H]).

    Args:
        coefficients: of the splines, ``(teff, m_h, component, value)``; values are the four bands, log g of the
            primary, and the mean Teff of both stars, weighted by light in RP, less the primary's (K): what a spectrum
            of both shows. Component 0 is a single star, then one for each of `MASS_RATIOS`.
        first: Teff (K) and [M/H] (dex) of the first node.

    Example:
        >>> table = magnitude_table()
        >>> values, slopes = table(np.array([3500.0]), np.array([0.0]), np.array([0]))
        >>> values.round(2), slopes.shape
        (array([[ 9.43, 10.7 ,  8.31,  5.99,  4.79,  0.  ]]), (1, 6, 2))
        >>> float(table(np.array([3500.0]), np.array([0.0]), np.array([5]))[0][0, 5].round())
        -48.0
    """

    coefficients: _Floats
    first: tuple[float, float]

    @property
    def components(self) -> int:
        """How many kinds of star the table has."""
        return int(self.coefficients.shape[2])

    def __call__(self, teff: FloatColumn, m_h: FloatColumn, component: IntColumn) -> tuple[Magnitudes, MagnitudeSlopes]:
        """Return values ``(row, 6)`` and their slopes ``(row, 6, 2)`` in Teff and [M/H].

        Args:
            teff: K, ``(row,)``; beyond `TEFF_LIMITS` values go on straight.
            m_h: dex, ``(row,)``; beyond `M_H_LIMITS` the same.
            component: which kind of star, ``(row,)``.
        """
        inside = np.stack([np.clip(teff, *TEFF_LIMITS), np.clip(m_h, *M_H_LIMITS)], axis=-1)
        x, y = ((inside - np.array(self.first)) / np.array(_STEPS)).T
        rows, columns = np.floor(x).astype(int), np.floor(y).astype(int)
        (along_x, slope_x), (along_y, slope_y) = _weights(x - rows), _weights(y - columns)
        along, across, kinds, _ = self.coefficients.shape
        around = (np.arange(4)[:, None] * across + np.arange(4)).ravel() * kinds
        corner = ((rows - 1) * across + columns - 1) * kinds + component
        near = self.coefficients.reshape(along * across * kinds, -1).take(corner[:, None] + around, axis=0)
        pairs = ((along_x, along_y), (slope_x / _STEPS[0], along_y), (along_x, slope_y / _STEPS[1]))
        weights = np.empty((len(rows), len(pairs), len(around)))
        for place, (one, other) in enumerate(pairs):
            np.multiply(one[:, :, None], other[:, None], out=weights[:, place].reshape(-1, 4, 4))
        found = weights @ near
        values, slopes = found[:, 0], np.swapaxes(found[:, 1:], 1, 2)
        beyond = np.stack([teff, m_h], axis=-1) - inside
        return values + (slopes @ beyond[:, :, None])[:, :, 0], slopes


def _weights(share: _Floats) -> tuple[_Floats, _Floats]:
    """Return the weights ``(row, 4)`` of a uniform cubic B-spline, and their derivatives."""
    t = share[:, None]
    weights = np.concatenate(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3],
        axis=1,
    )
    slopes = np.concatenate(
        [-3 * (1 - t) ** 2, 9 * t**2 - 12 * t, -9 * t**2 + 6 * t + 3, 3 * t**2],
        axis=1,
    )
    return weights / 6, slopes / 6


@cache
def magnitude_table() -> MagnitudeTable:
    """Return the table of the shipped relations; made once, in a tenth of a second."""
    axes = [
        np.arange(limits[0] - _MARGIN * step, limits[1] + (_MARGIN + 0.5) * step, step)
        for limits, step in zip((TEFF_LIMITS, M_H_LIMITS), _STEPS, strict=True)
    ]
    teff, m_h = axes
    faint_to_bright = np.arange(14.0, 1.0, -0.005)
    m_ks = np.empty((len(teff), len(m_h)))
    for column, metallicity in enumerate(m_h):
        m_ks[:, column] = np.interp(teff, absolute_magnitudes(faint_to_bright, metallicity)[1], faint_to_bright)
    single, _ = absolute_magnitudes(m_ks, m_h)
    gravity = _gravity(m_ks, m_h)
    kinds = [_of_kind(single, gravity, np.zeros_like(m_ks))]
    for ratio in MASS_RATIOS:
        mass = ratio * _mass(m_ks)
        fainter, cooler = absolute_magnitudes(_magnitude_of(mass), m_h)
        light = np.where(mass[..., None] < _FAINTEST, 0.0, 10 ** (-0.4 * (fainter - single)))
        share = light[..., _RP] / (1 + light[..., _RP])
        kinds.append(_of_kind(single - 2.5 * np.log10(1 + light), gravity, share * (cooler - teff[:, None])))
    values = np.stack(kinds, axis=2)
    flat = values.reshape(*values.shape[:2], -1)
    splines = [spline_filter(flat[..., place], order=3, mode="mirror") for place in range(flat.shape[-1])]
    return MagnitudeTable(np.stack(splines, axis=-1).reshape(values.shape), (float(teff[0]), float(m_h[0])))


def _of_kind(magnitudes: _Floats, gravity: _Floats, blended: _Floats) -> _Floats:
    """Return the values of one component of the table, ``(teff, m_h, value)``."""
    return np.concatenate([magnitudes, gravity[..., None], blended[..., None]], axis=-1)


def _mass(m_ks: _Floats) -> _Floats:
    """Return the mass, continued straight in log mass beyond the relation's range."""
    low, high = relations.MASS_RANGE[0] + 1e-3, 10.5
    inside = np.clip(m_ks, low, high)
    middle, brighter, fainter = (np.log10(relations.mass_from_ks(inside + shift)) for shift in (0.0, -1e-4, 1e-4))
    return np.asarray(10 ** (middle + (fainter - brighter) / 2e-4 * (m_ks - inside)))


def _magnitude_of(mass: _Floats) -> _Floats:
    """Return M_Ks of a mass (solar masses)."""
    faint_to_bright = np.arange(16.0, -2.0, -0.002)
    return np.asarray(np.interp(np.log10(mass), np.log10(_mass(faint_to_bright)), faint_to_bright))


def _gravity(m_ks: _Floats, m_h: _Floats) -> _Floats:
    """Return log g, continued straight in M_Ks beyond the range of the radius."""
    inside = np.clip(m_ks, relations.RADIUS_RANGE[0] + 1e-3, relations.RADIUS_RANGE[1] - 1e-3)

    def at(magnitude: _Floats) -> _Floats:
        radius = relations.radius_from_ks(magnitude, 0.0) * (1 + relations.RADIUS_PER_DEX * m_h)
        return relations.surface_gravity(relations.mass_from_ks(magnitude), radius)

    return at(inside) + (at(inside + 1e-4) - at(inside - 1e-4)) / 2e-4 * (m_ks - inside)
