"""Vertical actions of stars in the Milky Way, for many stars at once."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError

__all__ = ["vertical_action"]

_Floats = NDArray[np.float64]

SUN_DISTANCE, SUN_HEIGHT, SUN_VELOCITY = 8.275, 0.0208, (8.0, 254.0, 8.0)
"""The Sun in the Galaxy as in Zoomies: kpc, kpc, and km/s towards the centre, along the rotation and north."""
GALACTIC_CENTRE = (266.4051, -28.936175)
DISC, BULGE, NUCLEUS, HALO = (4.7717e10, 2.6, 0.3), (5e9, 1.0), (1.8142e9, 0.0688867), (5.5427e11, 15.626)
"""MilkyWayPotential2022 of gala: masses (Msun) and scales (kpc) of a disc of three Miyamoto-Nagai potentials with an
exponential length and a sech^2 height (Smith et al. 2015), two Hernquist spheres, and a Navarro-Frenk-White halo."""
GRAVITY = 4.300917270036279e-06
"""kpc (km/s)^2 / Msun."""
KPC, KMS = 8.0, 220.0
"""galpy's units of length and velocity."""
ORDER = 5
"""Points of galpy's integrals; Jz differs from that of 20 points by less than 2e-5."""
NEAREST_PLANE = 1e-6
"""Least height above the plane (kpc): the focal length is 0 / 0 there."""
LEAST_FOCUS = 1e-3
"""Least focal length (8 kpc), where the best one would be imaginary, far from the plane."""
UNBOUND = 9999.0
"""What galpy gives as an action of a star that leaves the Galaxy, and more."""


def vertical_action(
    ra: ArrayLike, dec: ArrayLike, parallax: ArrayLike, pmra: ArrayLike, pmdec: ArrayLike, rv: ArrayLike
) -> _Floats:
    """Return vertical actions Jz (kpc km/s) in the Staeckel approximation (Binney 2012, as in galpy, Bovy 2015).

    Potential, solar motion and focal lengths (Sanders 2012) are those of Zoomies, of which it is the fast equal.

    Args:
        ra: deg, ICRS, ``(star,)``.
        dec: deg.
        parallax: mas, positive; its inverse is the distance.
        pmra: mas/yr, with cos dec.
        pmdec: mas/yr.
        rv: km/s, heliocentric.

    Returns:
        ``(star,)``; NaN where an argument is, or where the star is not bound to the Galaxy.

    Raises:
        UsageError: galpy is not installed.

    Example:
        >>> vertical_action([269.45], [4.74], [546.98], [-801.55], [10362.39], [-110.5]).round(2)
        array([4.91])
    """
    from astropy import units as u
    from astropy.coordinates import ICRS, CartesianDifferential, Galactocentric, SkyCoord

    given = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(one, float)) for one in (ra, dec, parallax, pmra, pmdec, rv))
    )
    result = np.full(given[0].shape, np.nan)
    known = np.isfinite(given).all(axis=0) & (given[2] > 0)
    if not known.any():
        return result
    alpha, delta, plx, east, north, away = (one[known] for one in given)
    stars = SkyCoord(
        ra=alpha * u.deg,
        dec=delta * u.deg,
        distance=u.kpc / plx,
        pm_ra_cosdec=east * u.mas / u.yr,
        pm_dec=north * u.mas / u.yr,
        radial_velocity=away * u.km / u.s,
    )
    frame = Galactocentric(
        galcen_coord=ICRS(GALACTIC_CENTRE[0] * u.deg, GALACTIC_CENTRE[1] * u.deg),
        galcen_distance=SUN_DISTANCE * u.kpc,
        galcen_v_sun=CartesianDifferential(SUN_VELOCITY * u.km / u.s),
        z_sun=SUN_HEIGHT * u.kpc,
        roll=0 * u.deg,
    )
    there = stars.transform_to(frame).cartesian
    x, y, z = there.xyz.to_value(u.kpc) / KPC
    vx, vy, vz = there.differentials["s"].d_xyz.to_value(u.km / u.s) / KMS
    z = np.where(np.abs(z) < NEAREST_PLANE / KPC, NEAREST_PLANE / KPC, z)
    radius = np.hypot(x, y)
    outward, along = (x * vx + y * vy) / radius, (x * vy - y * vx) / radius
    galaxy = _galaxy()
    focus = galaxy.focal_length(radius, z)
    jr, _, jz = galaxy.actions(radius, outward, along, z, vz, delta=focus, c=True, use_physical=False)
    result[known] = np.where((jr < UNBOUND) & (jz < UNBOUND), jz * KPC * KMS, np.nan)
    return result


class _Galaxy:
    """The potential and what galpy computes in it, in galpy's units."""

    def __init__(self) -> None:
        from galpy import actionAngle, potential

        def mass(solar: float) -> float:
            return GRAVITY * solar / (KPC * KMS**2)

        length, height = DISC[1] / KPC, DISC[2] / KPC
        density = mass(DISC[0]) / (4 * np.pi * length**2 * height)
        disc = potential.MN3ExponentialDiskPotential(density, hr=length, hz=height, sech=True, posdens=True)
        bulge, nucleus = (potential.HernquistPotential(2 * mass(m), a=a / KPC) for m, a in (BULGE, NUCLEUS))
        self.potential = disc + bulge + nucleus + potential.NFWPotential(mass(HALO[0]), a=HALO[1] / KPC)
        self.module = potential
        self.actions = actionAngle.actionAngleStaeckel(pot=self.potential, delta=0.5, c=True, order=ORDER)

    def focal_length(self, radius: _Floats, z: _Floats) -> _Floats:
        """Return the focal length of the spheroidal coordinates that fit best at each place (Sanders 2012, eq. 9)."""

        def derivative(name: str) -> _Floats:
            return np.asarray(getattr(self.module, f"evaluate{name}")(self.potential, radius, z, use_physical=False))

        by_z, by_r = -derivative("zforces"), -derivative("Rforces")
        bend = derivative("R2derivs") - derivative("z2derivs")
        square = z**2 - radius**2 + (3 * z * by_r - 3 * radius * by_z + radius * z * bend) / derivative("Rzderivs")
        return np.sqrt(np.maximum(square, LEAST_FOCUS**2))


@cache
def _galaxy() -> _Galaxy:
    """Import galpy with a temporary configuration: otherwise it asks PyPI for news and writes into the user's home."""
    with (
        TemporaryDirectory() as home,
        warnings.catch_warnings(),
        patch.dict(os.environ, HOME=home, USERPROFILE=home),
    ):
        Path(home, ".galpyrc").write_text("[version-check]\ndo-check = False\n", encoding="utf-8")
        warnings.filterwarnings("ignore", message="libgalpy")  # extensions for tori, absent from wheels
        try:
            return _Galaxy()
        except ImportError as error:
            message = f"ages need galpy ({error}); install it with: pip install 'stargap[ages]'"
            raise UsageError(message) from None
