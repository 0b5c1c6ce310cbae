"""The targets of a simulated survey before they are observed: kinds, light and motion, and what Gaia has of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.mock.instrument import CHUNK
from stargap.mock.junk import JUNK, SOURCES
from stargap.mock.photometry import Relations, absolute_magnitudes, inflated, observe_light, with_companions
from stargap.mock.population import Population, draw_kinds, draw_unresolved, young_orbits
from stargap.pixels import SPEED_OF_LIGHT

__all__ = ["GAIA", "MOST_EXPOSURES", "draw_catalogued", "draw_targets"]

Columns = dict[str, Any]

MOST_EXPOSURES = 8
"""Exposures that a target can have."""
ZERO_POINT = -0.03
"""What Gaia's parallaxes are off by (mas)."""
FAINTEST_RVS = 14.5
"""G down to which Gaia gives a radial velocity (mag)."""
PHOTOMETRY: Final = {
    "galaxy": (-21.0, 0.5, 1.2, 0.2, 2.8),
    "white_dwarf": (11.8, 0.7, 0.0, 0.2, 0.0),
    "k_giant": (0.7, 0.8, 1.25, 0.15, 2.4),
    "early_k": (6.2, 0.3, 0.95, 0.06, 1.8),
}
"""M_G, its scatter, BP-RP, its scatter and G-Ks (mag) of other sources than M dwarfs."""
VELOCITIES: Final = {"white_dwarf": (20.0, 50.0), "k_giant": (-20.0, 60.0), "early_k": (-5.0, 35.0), "lamp": (0.0, 0.0)}
"""Mean and scatter (km/s)."""
GAIA = (
    *("source_id", "ra", "dec", "pmra", "pmdec", "parallax", "parallax_error", "ruwe", "phot_g_mean_mag"),
    *("phot_bp_mean_mag", "phot_rp_mean_mag", "pmra_error", "pmdec_error", "radial_velocity", "radial_velocity_error"),
    *("ks_m", "ks_msigcom", "ph_qual"),
)
"""The columns of Gaia's table, with 2MASS's Ks as the archive's join has it."""


def draw_targets(
    rng: np.random.Generator,
    kinds_rng: np.random.Generator,
    light_rng: np.random.Generator,
    labels: NDArray[np.float64],
    active: NDArray[np.bool_],
    junk: float,
    repeats: float,
    population: Population,
    relations: Relations,
) -> Columns:
    """Draw the sources of a chunk and their light, arrays ``(CHUNK,)``.

    `kinds_rng` serves binaries and the like, `light_rng` what dust and measurement make of their light.
    """
    kind = np.where(rng.random(CHUNK) < junk, rng.choice(JUNK, CHUNK), "dwarf")
    several = (rng.random(CHUNK) < repeats) & (kind == "dwarf")
    exposures = np.where(several, np.minimum(1 + rng.geometric(0.4, CHUNK), MOST_EXPOSURES), 1)
    snr = _first_snr(rng)
    rv = np.where(rng.random(CHUNK) < 0.9, rng.normal(-5.0, 35.0, CHUNK), rng.normal(-20.0, 90.0, CHUNK))
    rv = np.clip(rv, -250.0, 250.0)
    scatter = rng.standard_normal((2, CHUNK)).T
    g_mag = 15.5 - 2.5 / 0.8 * np.log10(snr / 13.0) + rng.normal(0.0, 0.3, CHUNK)
    kinds = draw_kinds(kinds_rng, population, kind == "dwarf", active)
    companion = draw_unresolved(kinds_rng, labels)
    unit = rng.standard_normal((CHUNK, 8))
    absolute = absolute_magnitudes(labels, np.hstack([scatter, light_rng.standard_normal((CHUNK, 2))]), relations)
    pairs = with_companions(absolute, labels, companion.labels, relations)
    absolute = np.where(kinds.binary[:, None], pairs, absolute)
    absolute = absolute + np.where(kinds.young, inflated(light_rng, CHUNK), 0.0)[:, None]
    absolute = _of_other_sources(absolute, kind, unit)
    light = observe_light(light_rng, absolute, g_mag)
    orbit = young_orbits(kinds_rng, light.distance / 1000.0)
    rv = np.where(kinds.young, orbit["rv"], rv)
    target = {
        "kind": kind,
        "labels": labels,
        "active": active & ~np.isin(kind, tuple(SOURCES)),
        "dwarf_rv": rv,
        "rv": rv.copy(),
        "snr": snr,
        "exposures": exposures,
        "g_mag": g_mag,
        "distance": light.distance,
        "a_v": light.a_v,
        "companion_labels": companion.labels,
        "companion_light": np.where(kinds.binary, companion.light, np.nan),
        "companion_rv": companion.rv,
        "companion_ruwe": np.where(kinds.binary, companion.ruwe, np.nan),
        "orbit": orbit,
        "unit": unit,
        **vars(kinds),
        **light.columns,
    }
    _move_as_other_sources(rng, target)
    return target


def _first_snr(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw S/N in r at the first exposure: log-normal about 13, from 5 to 300."""
    draws = rng.normal(np.log(13.0), 0.95, (CHUNK, 20))
    inside = (draws >= np.log(5.0)) & (draws < np.log(300.0))
    first = draws[np.arange(CHUNK), inside.argmax(axis=1)]
    return np.asarray(np.exp(np.clip(first, np.log(5.0), np.log(300.0))))


def _of_other_sources(
    absolute: NDArray[np.float64], kind: NDArray[np.str_], unit: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return absolute magnitudes with those of sources that are no M dwarfs."""
    for name, (mean, scatter, red, spread, red_ks) in PHOTOMETRY.items():
        g, colour = mean + scatter * unit[:, 1], red + spread * unit[:, 2]
        theirs = np.stack([g, g + 0.6 * colour, g - 0.4 * colour, g - red_ks], axis=1)
        absolute = np.where((kind == name)[:, None], theirs, absolute)
    return absolute


def _move_as_other_sources(rng: np.random.Generator, target: Columns) -> None:
    """Give sources that are no M dwarfs their own velocity, in place."""
    kind, unit = target["kind"], target["unit"]
    for name, (mean, scatter) in VELOCITIES.items():
        target["rv"][kind == name] = (mean + scatter * unit[:, 0])[kind == name]
    redshift = rng.uniform(0.02, 0.3, CHUNK)
    target["rv"][kind == "galaxy"] = SPEED_OF_LIGHT * redshift[kind == "galaxy"]


def draw_catalogued(rng: np.random.Generator, number: int, target: Columns) -> Columns:
    """Return what Gaia and LAMOST know of the sources of a chunk, arrays ``(CHUNK,)``."""
    g_mag, unit, orbit = (target[name] for name in ("g_mag", "unit", "orbit"))
    parallax = 1000.0 / target["distance"]
    ruwe = np.exp(rng.normal(0.02, 0.06, CHUNK))
    ruwe = np.where(rng.random(CHUNK) < 0.06, rng.uniform(1.4, 10.0, CHUNK), ruwe)
    ruwe = np.where(np.isfinite(target["companion_ruwe"]), target["companion_ruwe"], ruwe)
    error = (0.02 + 0.03 * 10 ** (0.2 * (g_mag - 15.0))) * np.maximum(ruwe, 1.0)
    young = target["young"]
    speed = np.where(young[:, None], np.stack([orbit["east"], orbit["north"]], axis=1), 40.0 * unit[:, 3:5])
    motion = speed * parallax[:, None] / 4.74047
    with_rv = (g_mag < FAINTEST_RVS) & (np.abs(target["rv"]) < 500.0)
    rv_error = 0.3 + 3.0 * 10 ** (0.4 * (g_mag - 14.0))
    known = rng.random((4, CHUNK))
    star = number * CHUNK + np.arange(CHUNK)
    source_id = 1_000_000_000_000_000_000 + 34_359_738_368 * star + rng.integers(2**34, size=CHUNK)
    ra = rng.uniform(0.0, 360.0, CHUNK)
    dec = np.degrees(np.arcsin(rng.uniform(np.sin(np.radians(-10.0)), np.sin(np.radians(60.0)), CHUNK)))
    return {
        "star": star,
        "source_id": source_id,
        "gaia_in_lamost": known[0] > 0.1,
        "z_known": known[1] > 0.05,
        "ra": np.where(young, orbit["ra"], ra),
        "dec": np.where(young, orbit["dec"], dec),
        "pmra": motion[:, 0],
        "pmdec": motion[:, 1],
        "parallax": np.where(known[2] > 0.01, parallax + ZERO_POINT + error * unit[:, 5], np.nan),
        "parallax_error": np.where(known[2] > 0.01, error, np.nan),
        "ruwe": np.where(known[3] > 0.02, ruwe, np.nan),
        "pmra_error": 0.9 * error,
        "pmdec_error": 0.8 * error,
        "radial_velocity": np.where(with_rv, target["rv"] + rv_error * unit[:, 6], np.nan),
        "radial_velocity_error": np.where(with_rv, rv_error, np.nan),
    }
