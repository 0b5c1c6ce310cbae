"""A simulated survey: M dwarfs, binaries and junk among them, with repeats, the stars in Gaia, and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import LABELS, M_H, TEFF
from stargap.mock.instrument import CHUNK, Blend, Truth, observe
from stargap.mock.junk import JUNK, SOURCES, make_junk
from stargap.mock.nature import Mix, nature_labels, shipped_nature
from stargap.mock.population import Population, draw_kinds, draw_unresolved, young_orbits
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.readers.content import snr_by_band
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.isochrones import shipped_isochrones

__all__ = ["LATE", "METAL_POOR", "SurveyChunk", "simulate_survey", "survey_size"]

Columns = dict[str, NDArray[Any]]

METAL_POOR = -0.5
"""[M/H] below which a star of the truth is marked metal-poor (dex)."""
LATE = 3100.0
"""Teff below which it is marked late (K): M5 and later."""
BLOCK = 16 * CHUNK
"""Stars whose labels are drawn together."""
MOST_EXPOSURES = 8
FAINTEST_RVS = 14.5
"""G down to which Gaia gives a radial velocity (mag)."""
FIBRES = (16, 250)
SUBTYPES = ([2800.0, 3050.0, 3200.0, 3400.0, 3550.0, 3680.0, 3850.0], [6, 5, 4, 3, 2, 1, 0])
MARKS: Final = ("binary", "variable", "young", "wide_pair", "companion_light")
"""What the truth says of stars that are not single, quiet and old."""
PHOTOMETRY: Final = {
    "galaxy": (-21.0, 0.5, 1.2, 0.2),
    "white_dwarf": (11.8, 0.7, 0.0, 0.2),
    "k_giant": (0.7, 0.8, 1.25, 0.15),
    "early_k": (6.2, 0.3, 0.95, 0.06),
}
"""M_G, its scatter, BP-RP and its scatter (mag) of other sources than M dwarfs."""
VELOCITIES: Final = {"white_dwarf": (20.0, 50.0), "k_giant": (-20.0, 60.0), "early_k": (-5.0, 35.0), "lamp": (0.0, 0.0)}
"""Mean and scatter (km/s)."""


@dataclass(frozen=True, eq=False)
class SurveyChunk:
    """Part of a simulated survey: the spectra of at most ``CHUNK`` stars.

    ``truth`` has arrays ``(spectrum,)``: spectrum_id, star, exposure, obsid, path, kind (``dwarf`` or one of
    ``junk.JUNK``), teff, logg, m_h, a_m (NaN where the source is no M dwarf), rv (km/s), snr_r, snr_i, active,
    metal_poor, late, binary, variable, young, wide_pair, companion_light (the companion's flux over the star's in RP,
    NaN of single stars), source_id, uid and gaia_in_lamost, whether LAMOST's catalogue knows the source_id. Labels and
    velocity of a binary are those of its brighter star. ``gaia`` has Gaia's columns ``(star,)``. ``spectra`` are in the
    order of ``truth``.
    """

    truth: Columns
    gaia: Columns
    spectra: list[Spectrum]


def survey_size(stars: int) -> int:
    """Return the number of chunks that `stars` stars come in.

    Example:
        >>> survey_size(257)
        2
    """
    return -(-stars // CHUNK)


def simulate_survey(
    stars: int,
    *,
    seed: int,
    mix: Mix = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
    population: Population | None = None,
    wavelength: NDArray[np.float64] | None = None,
) -> Iterator[SurveyChunk]:
    """Yield a simulated survey, chunk by chunk, in memory that does not grow with the number of stars.

    A star has the same truth, and its spectra the same noise, however many stars are asked for. A target is junk
    with probability `junk`, each kind equally often, and is then observed once. Repeats share labels, velocity and
    position and differ in night, fibre, S/N (by a factor of about 1.4, and then perhaps below 5) and H-alpha. M_G
    and BP-RP follow the shipped isochrones with a scatter of 0.25 and 0.03 mag, the distance follows from the S/N.
    RUWE is null for 2 % and above 1.4 for 6 %, the parallax is null for 1 %; stars brighter than G = 14.5 have a
    Gaia velocity with an error of 0.3 km/s and more; LAMOST's catalogue lacks the source_id of 10 % and the
    redshift of 5 %, and 1 % of the fibres are masked. Binaries, variable and young stars and members of wide pairs are
    as `stargap.mock.population` draws them, from random numbers of their own: all other stars are the same with and
    without them.

    Args:
        stars: number of targets.
        seed: of everything random.
        mix: see `nature_labels`.
        junk: fraction of the targets.
        repeats: fraction of the other targets that is observed 2 to 8 times.
        population: fractions of binaries and the like; `PLAIN` for none.
        wavelength: native pixels (A), by default those of ``LOG_LAMBDA``; the noise depends on their number.

    Raises:
        UsageError: fewer than 0 stars, or a fraction outside 0..1.

    Example:
        >>> (chunk,) = simulate_survey(3, seed=1, repeats=0.0)
        >>> len(chunk.spectra), chunk.truth["spectrum_id"].tolist(), len(chunk.gaia["source_id"])
        (3, [0, 1, 2], 3)
    """
    if stars < 0 or not (0 <= junk <= 1 and 0 <= repeats <= 1):
        message = f"{stars} stars, junk {junk:g}, repeats {repeats:g}: stars must be 0 or more, fractions within 0..1"
        raise UsageError(message)
    people = Population() if population is None else population
    return _chunks(stars, seed, mix, junk, repeats, people, LOG_LAMBDA.wavelength if wavelength is None else wavelength)


def _chunks(
    stars: int, seed: int, mix: Mix, junk: float, repeats: float, population: Population, wave: NDArray[np.float64]
) -> Iterator[SurveyChunk]:
    first_id = 0
    for number in range(survey_size(stars)):
        if number * CHUNK % BLOCK == 0:
            block = number * CHUNK // BLOCK
            own = int(np.random.default_rng([seed, 6, block]).integers(4_000_000))
            labels, active = nature_labels(BLOCK, seed=own, mix=mix)
        rows = slice(number * CHUNK % BLOCK, number * CHUNK % BLOCK + CHUNK)
        rng = np.random.default_rng([seed, 4, number])
        wanted = min(CHUNK, stars - number * CHUNK)
        own_rng = np.random.default_rng([seed, 7, number])
        target = _targets(rng, own_rng, number, labels[rows], active[rows], junk, repeats, population)
        chunk = _observe(rng, number, target, wave, wanted, seed, first_id)
        first_id += len(chunk.spectra)
        yield chunk


def _targets(
    rng: np.random.Generator,
    own_rng: np.random.Generator,
    number: int,
    labels: NDArray[np.float64],
    active: NDArray[np.bool_],
    junk: float,
    repeats: float,
    population: Population,
) -> Columns:
    """Everything about the stars of a chunk that does not depend on an observation, arrays ``(CHUNK,)``."""
    kind = np.where(rng.random(CHUNK) < junk, rng.choice(JUNK, CHUNK), "dwarf")
    several = (rng.random(CHUNK) < repeats) & (kind == "dwarf")
    exposures = np.where(several, np.minimum(1 + rng.geometric(0.4, CHUNK), MOST_EXPOSURES), 1)
    draws = rng.normal(np.log(13.0), 0.95, (CHUNK, 20))
    inside = (draws >= np.log(5.0)) & (draws < np.log(300.0))
    snr = np.exp(np.clip(draws[np.arange(CHUNK), inside.argmax(axis=1)], np.log(5.0), np.log(300.0)))
    rv = np.where(rng.random(CHUNK) < 0.9, rng.normal(-5.0, 35.0, CHUNK), rng.normal(-20.0, 90.0, CHUNK))
    rv = np.clip(rv, -250.0, 250.0)

    isochrones = shipped_isochrones()

    def magnitude(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return replace(isochrones, logg=values).logg_at(labels[:, TEFF], labels[:, M_H])

    absolute = magnitude(isochrones.g_mag) + rng.normal(0.0, 0.25, CHUNK)
    colour = magnitude(isochrones.bp_mag) - magnitude(isochrones.rp_mag) + rng.normal(0.0, 0.03, CHUNK)
    g_mag = 15.5 - 2.5 / 0.8 * np.log10(snr / 13.0) + rng.normal(0.0, 0.3, CHUNK)
    kinds = draw_kinds(own_rng, population, kind == "dwarf", active)
    companion = draw_unresolved(own_rng, labels)
    absolute, colour = (
        np.where(kinds.binary, values + more, values)
        for values, more in ((absolute, companion.g), (colour, companion.colour))
    )
    orbit = young_orbits(own_rng, 10 ** ((g_mag - absolute + 5.0) / 5.0) / 1000.0)
    unit = rng.standard_normal((CHUNK, 8))
    rv = np.where(kinds.young, orbit["rv"], rv)
    source_rv = rv.copy()
    for name, (mean, scatter) in VELOCITIES.items():
        source_rv[kind == name] = (mean + scatter * unit[:, 0])[kind == name]
    redshift = rng.uniform(0.02, 0.3, CHUNK)
    source_rv[kind == "galaxy"] = SPEED_OF_LIGHT * redshift[kind == "galaxy"]
    for name, (mean, scatter, red, spread) in PHOTOMETRY.items():
        absolute[kind == name] = (mean + scatter * unit[:, 1])[kind == name]
        colour[kind == name] = (red + spread * unit[:, 2])[kind == name]

    parallax = 10 ** ((absolute - g_mag + 10.0) / 5.0)
    ruwe = np.exp(rng.normal(0.02, 0.06, CHUNK))
    ruwe = np.where(rng.random(CHUNK) < 0.06, rng.uniform(1.4, 10.0, CHUNK), ruwe)
    ruwe = np.where(kinds.binary & np.isfinite(companion.ruwe), companion.ruwe, ruwe)
    error = (0.02 + 0.03 * 10 ** (0.2 * (g_mag - 15.0))) * np.maximum(ruwe, 1.0)
    speed = np.where(kinds.young[:, None], np.stack([orbit["east"], orbit["north"]], axis=1), 40.0 * unit[:, 3:5])
    motion = speed * parallax[:, None] / 4.74047
    with_rv = (g_mag < FAINTEST_RVS) & (np.abs(source_rv) < 500.0)
    rv_error = 0.3 + 3.0 * 10 ** (0.4 * (g_mag - 14.0))
    known = rng.random((4, CHUNK))
    star = number * CHUNK + np.arange(CHUNK)
    drawn = {
        "star": star,
        "kind": kind,
        "labels": labels,
        "active": active & ~np.isin(kind, tuple(SOURCES)),
        "dwarf_rv": rv,
        "rv": source_rv,
        "snr": snr,
        "exposures": exposures,
        "source_id": 1_000_000_000_000_000_000 + 34_359_738_368 * star + rng.integers(2**34, size=CHUNK),
        "gaia_in_lamost": known[0] > 0.1,
        "z_known": known[1] > 0.05,
        "ra": rng.uniform(0.0, 360.0, CHUNK),
        "dec": np.degrees(np.arcsin(rng.uniform(np.sin(np.radians(-10.0)), np.sin(np.radians(60.0)), CHUNK))),
        "pmra": motion[:, 0],
        "pmdec": motion[:, 1],
        "parallax": np.where(known[2] > 0.01, parallax + error * unit[:, 5], np.nan),
        "parallax_error": np.where(known[2] > 0.01, error, np.nan),
        "ruwe": np.where(known[3] > 0.02, ruwe, np.nan),
        "phot_g_mean_mag": g_mag,
        "phot_bp_mean_mag": g_mag + 0.6 * colour,
        "phot_rp_mean_mag": g_mag - 0.4 * colour,
        "pmra_error": 0.9 * error,
        "pmdec_error": 0.8 * error,
        "radial_velocity": np.where(with_rv, source_rv + rv_error * unit[:, 6], np.nan),
        "radial_velocity_error": np.where(with_rv, rv_error, np.nan),
        "companion_labels": companion.labels,
        "companion_light": np.where(kinds.binary, companion.light, np.nan),
        "companion_rv": companion.rv,
        **vars(kinds),
    }
    for name in ("ra", "dec"):
        drawn[name] = np.where(kinds.young, orbit[name], drawn[name])
    return drawn


GAIA = (
    "source_id",
    "ra",
    "dec",
    "pmra",
    "pmdec",
    "parallax",
    "parallax_error",
    "ruwe",
    "phot_g_mean_mag",
    "phot_bp_mean_mag",
    "phot_rp_mean_mag",
    "pmra_error",
    "pmdec_error",
    "radial_velocity",
    "radial_velocity_error",
)


def _observe(
    rng: np.random.Generator,
    number: int,
    target: Columns,
    wave: NDArray[np.float64],
    wanted: int,
    seed: int,
    first_id: int,
) -> SurveyChunk:
    """Observe the first `wanted` stars; all are simulated, so that none depends on how many are wanted."""
    row = np.repeat(np.arange(CHUNK), target["exposures"])
    exposure = np.concatenate([np.arange(n) for n in target["exposures"]])
    count = len(row)
    spectrograph, fibre = np.empty((2, count), dtype=np.int64)
    for night in range(MOST_EXPOSURES):
        slots = rng.permutation(FIBRES[0] * FIBRES[1])[:CHUNK]  # no fibre twice on a plate
        here = exposure == night
        spectrograph[here], fibre[here] = 1 + slots[row[here]] // FIBRES[1], 1 + slots[row[here]] % FIBRES[1]
    teff = target["labels"][row, TEFF]
    factor = np.exp(np.where(exposure > 0, rng.normal(0.0, 0.35, count), 0.0))
    snr_r = np.clip(target["snr"][row] * factor, 1.0, 300.0)
    redder = rng.normal(0.45, 0.12, count) + 0.25 * (3600.0 - teff) / 600.0
    truth = Truth(
        labels=target["labels"][row],
        active=target["active"][row],
        rv=target["dwarf_rv"][row],
        rv_used=target["dwarf_rv"][row],
        snr_r=snr_r,
        snr_i=np.maximum(snr_r * np.exp(redder), np.where(exposure > 0, 1.0, 5.0)),
        spectrograph=spectrograph,
        fibre=fibre,
        resolution=np.full(count, 1800.0),
    )
    both = np.flatnonzero(target["binary"][row])
    blend = Blend(both, *(target[f"companion_{what}"][row[both]] for what in ("labels", "light", "rv")))
    flux, ivar, clean = observe(shipped_nature(), truth, wave, seed=seed * 100_000 + number, blend=blend)
    unit = rng.standard_normal((count, 3))
    masked = rng.random(count) < 0.01

    kind = target["kind"][row]
    source = np.isin(kind, tuple(SOURCES))
    spectra, paths, obsids = [], [], []
    for i in np.flatnonzero(row < wanted).tolist():
        star = int(target["star"][row[i]])
        one, weight = flux[i].astype(np.float64), ivar[i].astype(np.float64)
        if kind[i] != "dwarf":
            velocity = float(target["rv"][row[i]])
            seeds = [seed, 5, star]
            given = flux[i], ivar[i], clean[i]
            one, weight = make_junk(str(kind[i]), wave, *given, rv=velocity, resolution=1800.0, seed=seeds)
        level = 10.0 ** (0.4 * (20.0 - target["phot_g_mean_mag"][row[i]]))
        one, weight = level * one, weight / level**2
        facts = _facts(number, int(exposure[i]), int(spectrograph[i]), int(fibre[i]))
        subtype = round(float(np.interp(teff[i], *SUBTYPES)))
        years = (facts.lmjd or 0) - 57388.5
        ra, dec = _moved(target, int(row[i]), years / 365.25, unit[i, :2] * 0.1)
        redshift = target["rv"][row[i]] / SPEED_OF_LIGHT + 2e-5 * unit[i, 2]
        bands = snr_by_band(wave, one, weight)
        facts = replace(
            facts,
            designation=_designation(ra, dec),
            ra=ra,
            dec=dec,
            subclass=f"dM{subtype}",
            fiber_mask=int(masked[i]),
            pipeline_z=round(float(redshift), 8) if target["z_known"][row[i]] else None,
            **{name: None if value is None else round(value, 2) for name, value in bands.items()},  # type: ignore[arg-type]
        )
        spectra.append(Spectrum(wave, one, weight, facts))
        paths.append(facts.path)
        obsids.append(facts.obsid)

    keep = row < wanted
    row, exposure, source = row[keep], exposure[keep], source[keep]
    labels = np.where(source[:, None], np.nan, target["labels"][row])
    columns: Columns = {
        "spectrum_id": first_id + np.arange(len(row)),
        "star": target["star"][row],
        "exposure": exposure,
        "obsid": np.array(obsids, dtype=np.int64),
        "path": np.array(paths, dtype=object),
        "kind": target["kind"][row].astype(object),
        **{name: labels[:, place] for place, name in enumerate(LABELS)},
        "rv": target["rv"][row],
        "snr_r": truth.snr_r[keep],
        "snr_i": truth.snr_i[keep],
        "active": target["active"][row],
        "metal_poor": labels[:, M_H] < METAL_POOR,
        "late": labels[:, TEFF] < LATE,
        **{name: target[name][row] for name in MARKS},
        "source_id": target["source_id"][row],
        "uid": np.array([f"S{star:012d}" for star in target["star"][row]], dtype=object),
        "gaia_in_lamost": target["gaia_in_lamost"][row],
    }
    return SurveyChunk(columns, {name: target[name][:wanted] for name in GAIA}, spectra)


def _facts(number: int, exposure: int, spectrograph: int, fibre: int) -> Facts:
    """When, where and under what name a fibre was observed; each chunk has a plate of its own each night."""
    plate = 1 + number * MOST_EXPOSURES + exposure
    lmjd = 56000 + (37 * number + 211 * exposure) % 3600
    day = date(1858, 11, 17) + timedelta(days=lmjd)
    plan = f"SIM{number:05d}V{exposure + 1}"
    layout, release = (("lamost-image", "LAMOST DR7"), ("lamost-table", "LAMOST DR10"))[plate % 2]
    return Facts(
        path=f"{day:%Y%m%d}/{plan}/spec-{lmjd}-{plan}_sp{spectrograph:02d}-{fibre:03d}.fits.gz",
        layout=layout,
        release=release,
        obsid=plate * 100_000 + spectrograph * 1000 + fibre,
        snr_source="header",
        object_class="STAR",
        plan_id=plan,
        lmjd=lmjd,
        spectrograph=spectrograph,
        fiber=fibre,
        date_obs=f"{day}T14:00:00",
        exposure=5400.0,
        helio_rv=0.0,
    )


def _moved(target: Columns, row: int, years: float, offset: NDArray[np.float64]) -> tuple[float, float]:
    """Position (deg) `years` after 2016.0, with an error of `offset` (arcsec)."""
    along, up = (
        target[name][row] * years / 1000.0 + shift for name, shift in zip(("pmra", "pmdec"), offset, strict=True)
    )
    dec = float(target["dec"][row])
    ra = (float(target["ra"][row]) + along / 3600.0 / np.cos(np.radians(dec))) % 360.0
    return round(float(ra), 7), round(float(dec + up / 3600.0), 7)


def _designation(ra: float, dec: float) -> str:
    hours, degrees = ra / 15.0, abs(dec)

    def parts(value: float, digits: int) -> str:
        whole = int(value * 3600 * 10**digits)
        seconds, fraction = divmod(whole, 10**digits)
        return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{fraction:0{digits}d}"

    return f"J{parts(hours, 2)}{'-' if dec < 0 else '+'}{parts(degrees, 1)}"
