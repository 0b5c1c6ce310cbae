"""Which simulated stars are unresolved binaries, variable, young, or in wide pairs, and what that changes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import A_M, LOGG, M_H, TEFF
from stargap.mock.nature import LOWER, SCATTER, UPPER, nature_logg
from stargap.theory.isochrones import Isochrones, shipped_isochrones

__all__ = ["PLAIN", "Kinds", "Population", "Unresolved", "draw_kinds", "draw_unresolved", "young_orbits"]

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]

ACTIVE_SHARE = 0.12
"""Fraction of active stars, as `nature_labels` draws them by default."""
YOUNG_ACTIVE, VARIABLE_ACTIVE = 0.65, 0.4
"""Fractions of the young and of the variable stars that are active."""
LARGEST: Final = {"variables": 0.15, "young": 0.15}
"""Fractions above which there would not be enough active stars."""
RUWE_RAISED = 0.3
"""Fraction of the unresolved binaries that disturb Gaia's astrometry."""
SUN_HEIGHT = 0.0208
"""Height of the Sun above the plane (kpc), as kinematic ages have it."""
SUN_MOTION = (8.0, 14.0, 8.0)
"""Motion of the Sun relative to young stars (km/s): to the Galactic centre, along the rotation and north."""
YOUNG_HEIGHT, YOUNG_SPREAD = 0.012, (10.0, 7.0, 1.5)
"""Scatter of young stars about the plane (kpc) and in velocity (km/s)."""
PLANE = ((30.0, 100.0), (150.0, 205.0))
"""Galactic longitudes (deg) at which the plane is in the survey."""
TO_GALACTIC: Final = np.array([
    [-0.0548755604162154, -0.8734370902348850, -0.4838350155487132],
    [+0.4941094278755837, -0.4448296299600112, +0.7469822444972189],
    [-0.8676661490190047, -0.1980763734312015, +0.4559837761750669],
])  # fmt: skip
"""Rotation from ICRS to Galactic (ESA 1997, Hipparcos vol. 1, eq. 1.5.11)."""


@dataclass(frozen=True)
class Population:
    """Fractions of the M dwarfs; the wide pairs are twenty times as frequent as in the paper.

    Args:
        binaries: unresolved pairs of M dwarfs.
        variables: variable stars; they are active four times in ten.
        young: stars of less than 1 Gyr; they are active two times in three.
        pairs: stars bound to an FGK star that Gaia sees apart.

    Example:
        >>> Population(binaries=0.0).young
        0.05
        >>> Population(young=0.5)
        Traceback (most recent call last):
        stargap.errors.UsageError: population of young 0.5: it must be within 0..0.15
    """

    binaries: float = 0.12
    variables: float = 0.05
    young: float = 0.05
    pairs: float = 0.04

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = LARGEST.get(name, 1.0)
            if not 0 <= value <= most:
                message = f"population of {name} {value:g}: it must be within 0..{most:g}"
                raise UsageError(message)


PLAIN: Final = Population(0.0, 0.0, 0.0, 0.0)
"""Single stars only."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """What `draw_kinds` returns, each ``(star,)``."""

    binary: _Bools
    variable: _Bools
    young: _Bools
    wide_pair: _Bools


@dataclass(frozen=True, eq=False)
class Unresolved:
    """Companions within the fibre, one row per binary.

    ``labels (binary, 4)``; ``light``, their flux over the primary's in RP; ``rv``, their velocity less the primary's
    (km/s), the same at each exposure; ``ruwe``, NaN where they leave Gaia's astrometry alone.
    """

    labels: _Floats
    light: _Floats
    rv: _Floats
    ruwe: _Floats


def draw_kinds(rng: np.random.Generator, population: Population, dwarf: _Bools, active: _Bools) -> Kinds:
    """Draw which stars are of which kind; four random numbers per star, whatever the fractions.

    Young and variable stars are chosen among stars whose activity is drawn already, more often among active ones.

    Args:
        rng: random numbers.
        population: the fractions.
        dwarf: ``(star,)``, False for sources that have no kind.
        active: ``(star,)``.

    Example:
        >>> yes = np.ones(100_000, dtype=bool)
        >>> kinds = draw_kinds(np.random.default_rng(1), Population(), yes, ~yes)
        >>> kinds.binary.mean().round(2), kinds.wide_pair.mean().round(2)
        (np.float64(0.12), np.float64(0.04))
    """
    draw = rng.random((4, len(dwarf)))

    def among(fraction: float, share: float) -> _Floats:
        return fraction * np.where(active, share / ACTIVE_SHARE, (1 - share) / (1 - ACTIVE_SHARE))

    return Kinds(
        binary=dwarf & (draw[0] < population.binaries),
        variable=dwarf & (draw[1] < among(population.variables, VARIABLE_ACTIVE)),
        young=dwarf & (draw[2] < among(population.young, YOUNG_ACTIVE)),
        wide_pair=dwarf & (draw[3] < population.pairs),
    )


def draw_unresolved(rng: np.random.Generator, primary: _Floats) -> Unresolved:
    """Draw companions of the same [M/H], as hot as the primary or cooler down to nature's 2800 K, twins most often.

    The light ratio is that of the shipped isochrones. Velocities differ by about 8 km/s, log-normal with a factor of
    3.3, at most 150 km/s. RUWE is 1.4 to 8 for three in ten.

    Args:
        rng: random numbers.
        primary: labels ``(binary, 4)``.

    Example:
        >>> one = draw_unresolved(np.random.default_rng(1), np.array([[3600.0, 4.8, 0.0, 0.0]]))
        >>> bool(one.labels[0, 0] < 3600.0), bool(0 < one.light[0] < 1)
        (True, True)
    """
    count = len(primary)
    teff, m_h = primary[:, TEFF], primary[:, M_H]
    labels = primary.copy()
    labels[:, TEFF] = teff - (teff - LOWER[TEFF]) * rng.random(count) ** 1.5
    logg = nature_logg(labels[:, TEFF], m_h) + rng.normal(0.0, SCATTER, count)
    labels[:, LOGG] = np.clip(logg, LOWER[LOGG], UPPER[LOGG])
    labels[:, A_M] = 0.0
    isochrones = shipped_isochrones()
    red: Isochrones = replace(isochrones, logg=isochrones.rp_mag)
    light = 10 ** (-0.4 * (red.logg_at(labels[:, TEFF], m_h) - red.logg_at(teff, m_h)))
    apart = rng.choice([-1.0, 1.0], count) * np.minimum(rng.lognormal(np.log(8.0), 1.2, count), 150.0)
    raised = np.where(rng.random(count) < RUWE_RAISED, rng.uniform(1.4, 8.0, count), np.nan)
    return Unresolved(labels, np.asarray(light), apart, raised)


def young_orbits(rng: np.random.Generator, distance: _Floats) -> dict[str, _Floats]:
    """Draw places and motions of young stars: a thin, cold sheet about the Galactic plane.

    It is colder than real young populations are: the calibration behind kinematic ages calls a star young only where
    its vertical action is below some 0.03 kpc km/s, and these stars are made to be seen by it.

    Args:
        rng: random numbers.
        distance: kpc, ``(star,)``.

    Returns:
        ra, dec (deg), the motions east and north (km/s) and rv (km/s), each ``(star,)``.

    Example:
        >>> found = young_orbits(np.random.default_rng(1), np.array([0.2]))
        >>> sorted(found), bool(-12 < found["dec"][0] < 65)
        (['dec', 'east', 'north', 'ra', 'rv'], True)
    """
    count = len(distance)
    unit = rng.standard_normal((count, 4))
    sine = (YOUNG_HEIGHT * unit[:, 0] - SUN_HEIGHT) / distance
    folded = np.abs((sine - 1.0) % 4.0 - 2.0) - 1.0  # nearer than that height: not all of them at one pole
    sine = np.where(np.abs(sine) <= 1.0, sine, folded)
    widths = [high - low for low, high in PLANE]
    place = rng.random(count) * sum(widths)
    longitude = np.radians(np.where(place < widths[0], PLANE[0][0] + place, PLANE[1][0] + place - widths[0]))
    cosine = np.sqrt(1 - sine**2)
    towards = np.stack([cosine * np.cos(longitude), cosine * np.sin(longitude), sine], axis=1) @ TO_GALACTIC
    motion = (np.array(YOUNG_SPREAD) * unit[:, 1:] - np.array(SUN_MOTION)) @ TO_GALACTIC
    ra, dec = np.arctan2(towards[:, 1], towards[:, 0]), np.arcsin(towards[:, 2])
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros(count)], axis=1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=1)
    along = {"east": east, "north": north, "rv": towards}
    there = {"ra": np.degrees(ra) % 360.0, "dec": np.degrees(dec)}
    return there | {name: (motion * axis).sum(axis=1) for name, axis in along.items()}
