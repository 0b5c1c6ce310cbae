"""Light of a simulated survey's sources in Gaia's and 2MASS's bands: relations of nature's own, pairs, youth, dust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.labels import M_H, TEFF
from stargap.photometry.surface import magnitude_table

__all__ = ["Relations", "Starlight", "absolute_magnitudes", "observe_light", "with_companions"]

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]

PIVOT: Final = (3500.0, 0.0)
"""Teff (K) and [M/H] (dex) at which the offsets of the relations hold."""
COLOUR_SCATTER: Final = (0.017, 0.005)
"""Scatter of BP - RP and G - RP of stars of the same Teff and [M/H] in the relations (mag)."""
INFLATED: Final = (1.05, 1.25)
"""Radii of young stars over those of old ones."""
COEFFICIENTS: Final = np.array([0.789, 1.002, 0.589, 0.078])
"""Extinction in G, BP, RP and Ks over A_V (Wang & Chen 2019, ApJ 877, 116, of red giants); `stargap.photometry` has
others, of M dwarfs."""
DENSITY, PATCHINESS = 0.7, 0.5
"""Mean A_V per kpc beyond the Local Bubble (mag), and its scatter between lines of sight (ln)."""
BUBBLE, DUST_LAYER = 70.0, 1000.0
"""Distances (pc) between which there is dust."""
NO_KS: Final = 0.03
"""Fraction of the sources that 2MASS lacks."""
LETTERS: Final = ((0.1086, "A"), (0.1551, "B"), (0.2171, "C"))
"""Largest errors of 2MASS's photometric qualities (mag)."""


@dataclass(frozen=True)
class Relations:
    """How labels that photometry seems to show differ from the true ones.

    A single star has the magnitudes that the published relations (`stargap.photometry.surface`) give at labels that are
    off: offset at `PIVOT`, slope about it, and scatter between stars. So whoever uses those relations is wrong by just
    this, in the mean of many single, old stars without dust.

    Args:
        teff_offset: K.
        m_h_offset: dex.
        teff_slope: of the seeming Teff on the true one.
        m_h_slope: of the seeming [M/H] on the true one.
        teff_scatter: K.
        m_h_scatter: dex.

    Example:
        >>> labels = np.array([[3500.0, 4.8, 0.0, 0.0], [3300.0, 4.9, -0.4, 0.0]])
        >>> Relations().seeming(labels, np.zeros((2, 2))).round(2).tolist()
        [[3520.0, 0.03], [3310.0, -0.35]]
    """

    teff_offset: float = 20.0
    m_h_offset: float = 0.03
    teff_slope: float = 1.05
    m_h_slope: float = 0.95
    teff_scatter: float = 40.0
    m_h_scatter: float = 0.08

    def seeming(self, labels: _Floats, unit: _Floats) -> _Floats:
        """Return seeming Teff (K) and [M/H] (dex), ``(star, 2)``.

        Args:
            labels: true ones ``(star, 4)``.
            unit: standard normal numbers ``(star, 2)``, the star's own place in the scatter.
        """
        slopes = np.array([self.teff_slope, self.m_h_slope])
        offsets = np.array([self.teff_offset, self.m_h_offset])
        scatter = np.array([self.teff_scatter, self.m_h_scatter])
        return np.asarray(PIVOT + offsets + slopes * (labels[:, [TEFF, M_H]] - PIVOT) + scatter * unit)


@dataclass(frozen=True, eq=False)
class Starlight:
    """What `observe_light` returns of sources, each ``(source,)``: truth, and what Gaia and 2MASS measure.

    ``distance`` (pc) and ``a_v`` (mag) are true; ``columns`` are phot_g_mean_mag, phot_bp_mean_mag, phot_rp_mean_mag,
    ks_m, ks_msigcom (mag; NaN where 2MASS has no such source) and ph_qual.
    """

    distance: _Floats
    a_v: _Floats
    columns: dict[str, NDArray[Any]]


def absolute_magnitudes(labels: _Floats, unit: _Floats, relations: Relations) -> _Floats:
    """Return absolute G, BP, RP and Ks ``(star, 4)`` of single, old dwarfs.

    Args:
        labels: true ones ``(star, 4)``.
        unit: standard normal numbers ``(star, 4)``: places in the scatter of Teff, [M/H], BP - RP and G - RP.
        relations: of labels and light.

    Example:
        >>> labels = np.array([[3500.0, 4.8, 0.0, 0.0]])
        >>> absolute_magnitudes(labels, np.zeros((1, 4)), Relations()).round(2)
        array([[ 9.31, 10.56,  8.19,  5.88]])
    """
    magnitudes = _surface(relations.seeming(labels, unit[:, :2]))
    bp_rp, g_rp = (np.array(COLOUR_SCATTER) * unit[:, 2:]).T
    shift = np.stack([g_rp - bp_rp, np.zeros(len(unit)), -bp_rp, np.zeros(len(unit))], axis=1)
    return np.asarray(magnitudes + shift)


def _surface(seeming: _Floats) -> _Floats:
    values, _ = magnitude_table()(seeming[:, 0], seeming[:, 1], np.zeros(len(seeming), dtype=np.int64))
    return np.asarray(values[:, :4])


def with_companions(magnitudes: _Floats, labels: _Floats, companions: _Floats, relations: Relations) -> _Floats:
    """Return the magnitudes ``(star, 4)`` of pairs that are seen as one source.

    Args:
        magnitudes: of the brighter stars.
        labels: of the brighter stars ``(star, 4)``.
        companions: labels of the fainter ones ``(star, 4)``.
        relations: of labels and light.

    Example:
        >>> twin = np.array([[3500.0, 4.8, 0.0, 0.0]])
        >>> with_companions(np.zeros((1, 4)), twin, twin, Relations()).round(2)
        array([[-0.75, -0.75, -0.75, -0.75]])
    """
    nothing = np.zeros((len(labels), 2))
    fainter = _surface(relations.seeming(companions, nothing)) - _surface(relations.seeming(labels, nothing))
    return np.asarray(magnitudes - 2.5 * np.log10(1 + 10 ** (-0.4 * fainter)))


def inflated(rng: np.random.Generator, count: int) -> _Floats:
    """Return by how much young stars are brighter in every band (mag, negative), ``(star,)``."""
    return np.asarray(-5 * np.log10(rng.uniform(*INFLATED, count)))


def observe_light(rng: np.random.Generator, absolute: _Floats, g_mag: _Floats) -> Starlight:
    """Put sources at the distance at which they have their G, behind the dust up to there, and measure them.

    Args:
        rng: random numbers.
        absolute: G, BP, RP and Ks ``(source, 4)`` without dust.
        g_mag: apparent G with dust ``(source,)``.

    Example:
        >>> light = observe_light(np.random.default_rng(1), np.array([[10.0, 11.4, 8.8, 6.5]]), np.array([15.0]))
        >>> bool(90 < light.distance[0] < 100), bool(0 < light.a_v[0] < 0.1), light.columns["ph_qual"]
        (True, True, array(['AAA'], dtype=object))
    """
    count = len(g_mag)
    density = DENSITY / 1000 * np.exp(PATCHINESS * rng.standard_normal(count) - PATCHINESS**2 / 2)
    low, high = np.zeros(count), np.full(count, 12.0)
    for _ in range(50):  # log10 of the distance, by bisection: apparent G grows with it
        middle = (low + high) / 2
        too_far = absolute[:, 0] + 5 * middle - 5 + COEFFICIENTS[0] * _a_v(density, 10**middle) > g_mag
        low, high = np.where(too_far, low, middle), np.where(too_far, middle, high)
    distance = 10 ** ((low + high) / 2)
    a_v = _a_v(density, distance)
    apparent = absolute + g_mag[:, None] - absolute[:, :1] + a_v[:, None] * (COEFFICIENTS - COEFFICIENTS[0])
    e_ks = np.hypot(0.02, 0.02 * 10 ** (0.4 * (apparent[:, 3] - 13.0)))
    errors = np.stack(
        [np.full(count, 0.002), *(np.hypot(0.003, 10 ** (0.35 * (apparent[:, band] - 23.2))) for band in (1, 2)), e_ks],
        axis=1,
    )
    g, bp, rp, ks = (apparent + errors * rng.standard_normal((count, 4))).T
    known = rng.random(count) >= NO_KS
    letter = np.select([e_ks < most for most, _ in LETTERS], [name for _, name in LETTERS], "U")
    columns: dict[str, NDArray[Any]] = {
        "phot_g_mean_mag": g,
        "phot_bp_mean_mag": bp,
        "phot_rp_mean_mag": rp,
        "ks_m": np.where(known, ks, np.nan),
        "ks_msigcom": np.where(known, e_ks, np.nan),
        "ph_qual": np.where(known, np.char.add("AA", letter), "").astype(object),
    }
    return Starlight(distance, a_v, columns)


def _a_v(density: _Floats, distance: _Floats) -> _Floats:
    return density * (np.clip(distance, BUBBLE, DUST_LAYER) - BUBBLE)
