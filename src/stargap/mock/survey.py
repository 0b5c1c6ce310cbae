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
from stargap.mock.instrument import CHUNK, FIBRES, SPECTROGRAPHS, Blend, Truth, observe
from stargap.mock.junk import SOURCES, make_junk
from stargap.mock.nature import Mix, nature_labels, shipped_nature
from stargap.mock.photometry import Relations
from stargap.mock.population import Population
from stargap.mock.targets import GAIA, MOST_EXPOSURES, draw_catalogued, draw_targets
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.readers.content import snr_by_band
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = ["LATE", "METAL_POOR", "SurveyChunk", "simulate_survey", "survey_size"]

Columns = dict[str, NDArray[Any]]

METAL_POOR = -0.5
"""[M/H] below which a star of the truth is marked metal-poor (dex)."""
LATE = 3100.0
"""Teff below which it is marked late (K): M5 and later."""
BLOCK = 16 * CHUNK
"""Stars whose labels are drawn together."""
SUBTYPES = ([2800.0, 3050.0, 3200.0, 3400.0, 3550.0, 3680.0, 3850.0], [6, 5, 4, 3, 2, 1, 0])
MARKS: Final = ("binary", "variable", "young", "wide_pair", "companion_light")
"""Columns of the truth for stars that are not single, quiet and old."""
TRUTH: Final = (
    *("spectrum_id", "star", "exposure", "obsid", "path", "kind", *LABELS, "rv", "snr_r", "snr_i", "active"),
    *("metal_poor", "late", *MARKS, "distance", "a_v", "source_id", "uid", "gaia_in_lamost"),
)
"""Columns of the truth, in their order."""


@dataclass(frozen=True, eq=False)
class SurveyChunk:
    """Part of a simulated survey: the spectra of at most ``CHUNK`` stars.

    ``truth`` has arrays ``(spectrum,)``: spectrum_id, star, exposure, obsid, path, kind (``dwarf`` or one of
    ``junk.JUNK``), teff, logg, m_h, a_m (NaN where the source is no M dwarf), rv (km/s), snr_r, snr_i, active,
    metal_poor, late, binary, variable, young, wide_pair, companion_light (the companion's flux over the star's in RP,
    NaN of single stars), distance (pc), a_v (extinction, mag), source_id, uid and gaia_in_lamost, whether LAMOST's
    catalogue knows the source_id. Labels and velocity of a binary are those of its brighter star. ``gaia`` has columns
    of Gaia and 2MASS ``(star,)``. ``spectra`` are in the order of ``truth``.
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
    relations: Relations | None = None,
    wavelength: NDArray[np.float64] | None = None,
) -> Iterator[SurveyChunk]:
    """Yield a simulated survey, chunk by chunk, in memory that does not grow with the number of stars.

    A star has the same truth, and its spectra the same noise, however many stars are simulated. A target is junk
    with probability `junk`, each kind equally often, and is then observed once. Repeats share labels, velocity and
    position and differ in night, fibre, S/N (by a factor of about 1.4, and then perhaps below 5) and H-alpha.
    Magnitudes are those of `stargap.mock.photometry`: relations with an offset, slopes and a scatter of their own, the
    light of companions, young stars that are too bright, dust; 2MASS lacks 3 %. The distance follows from the S/N.
    RUWE is null for 2 % and above 1.4 for 6 % and some binaries, the parallax is null for 1 %; stars brighter than
    G = 14.5 have a Gaia velocity with an error of 0.3 km/s and more; LAMOST's catalogue lacks the source_id of 10 % and
    the redshift of 5 %, and 1 % of the fibres are masked. Binaries, variable and young stars and members of wide pairs
    are as `stargap.mock.population` draws them, from random numbers of their own: all other stars are the same with and
    without them.

    Args:
        stars: number of targets.
        seed: of everything random.
        mix: see `nature_labels`.
        junk: fraction of the targets.
        repeats: fraction of the other targets that is observed 2 to 8 times.
        population: fractions of binaries and the like; `PLAIN` for none.
        relations: of labels and light, which differ from those of `stargap.photometry`.
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
    people = population or Population(), relations or Relations()
    return _chunks(stars, seed, mix, junk, repeats, people, LOG_LAMBDA.wavelength if wavelength is None else wavelength)


def _chunks(
    stars: int,
    seed: int,
    mix: Mix,
    junk: float,
    repeats: float,
    people: tuple[Population, Relations],
    wave: NDArray[np.float64],
) -> Iterator[SurveyChunk]:
    first_id = 0
    for number in range(survey_size(stars)):
        if number * CHUNK % BLOCK == 0:
            block = number * CHUNK // BLOCK
            block_seed = int(np.random.default_rng([seed, 6, block]).integers(4_000_000))
            labels, active = nature_labels(BLOCK, seed=block_seed, mix=mix)
        rows = slice(number * CHUNK % BLOCK, number * CHUNK % BLOCK + CHUNK)
        rng, kinds_rng, light_rng = (np.random.default_rng([seed, stream, number]) for stream in (4, 7, 10))
        target = draw_targets(rng, kinds_rng, light_rng, labels[rows], active[rows], junk, repeats, *people)
        target |= draw_catalogued(rng, number, target)
        chunk = _observe(rng, number, target, wave, min(CHUNK, stars - number * CHUNK), seed, first_id)
        first_id += len(chunk.spectra)
        yield chunk


def _observe(
    rng: np.random.Generator,
    number: int,
    target: Columns,
    wave: NDArray[np.float64],
    stars: int,
    seed: int,
    first_id: int,
) -> SurveyChunk:
    """Observe the first `stars` targets; all are simulated, so that no target depends on how many are observed."""
    row = np.repeat(np.arange(CHUNK), target["exposures"])
    exposure = np.concatenate([np.arange(n) for n in target["exposures"]])
    truth = _exposed(rng, target, row, exposure)
    both = np.flatnonzero(target["binary"][row])
    blend = Blend(both, *(target[f"companion_{what}"][row[both]] for what in ("labels", "light", "rv")))
    arrays = observe(shipped_nature(), truth, wave, seed=seed * 100_000 + number, blend=blend)
    unit = rng.standard_normal((len(row), 3))
    masked = rng.random(len(row)) < 0.01
    kept = np.flatnonzero(row < stars)
    spectra = []
    for i in kept.tolist():
        flux, ivar = _spectrum(target, int(row[i]), wave, *(array[i] for array in arrays), seed=seed)
        facts = _facts(number, int(exposure[i]), int(truth.spectrograph[i]), int(truth.fibre[i]))
        facts = _described(facts, target, int(row[i]), unit[i], masked=bool(masked[i]))
        bands = snr_by_band(wave, flux, ivar)
        snr: dict[str, Any] = {name: None if value is None else round(value, 2) for name, value in bands.items()}
        spectra.append(Spectrum(wave, flux, ivar, replace(facts, **snr)))
    columns = _truth_columns(target, row[kept], exposure[kept], [spectrum.facts for spectrum in spectra])
    columns |= {
        "spectrum_id": first_id + np.arange(len(kept)),
        "snr_r": truth.snr_r[kept],
        "snr_i": truth.snr_i[kept],
    }
    gaia = {name: target[name][:stars] for name in GAIA}
    return SurveyChunk({name: columns[name] for name in TRUTH}, gaia, spectra)


def _exposed(rng: np.random.Generator, target: Columns, row: NDArray[np.int64], exposure: NDArray[np.int64]) -> Truth:
    """Return the truth of each exposure, with its fibre and S/N."""
    count = len(row)
    spectrograph, fibre = np.empty((2, count), dtype=np.int64)
    for night in range(MOST_EXPOSURES):
        slots = rng.permutation(SPECTROGRAPHS * FIBRES)[:CHUNK]  # no fibre twice on a plate
        here = exposure == night
        spectrograph[here], fibre[here] = 1 + slots[row[here]] // FIBRES, 1 + slots[row[here]] % FIBRES
    factor = np.exp(np.where(exposure > 0, rng.normal(0.0, 0.35, count), 0.0))
    snr_r = np.clip(target["snr"][row] * factor, 1.0, 300.0)
    redder = rng.normal(0.45, 0.12, count) + 0.25 * (3600.0 - target["labels"][row, TEFF]) / 600.0
    return Truth(
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


def _spectrum(
    target: Columns,
    row: int,
    wave: NDArray[np.float64],
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    clean: NDArray[np.float32],
    *,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return flux and ivar of one exposure at the brightness of its target, turned into junk where that is its kind."""
    one, weight = flux.astype(np.float64), ivar.astype(np.float64)
    kind = str(target["kind"][row])
    if kind != "dwarf":
        seeds, velocity = [seed, 5, int(target["star"][row])], float(target["rv"][row])
        one, weight = make_junk(kind, wave, flux, ivar, clean, rv=velocity, resolution=1800.0, seed=seeds)
    level = 10.0 ** (0.4 * (20.0 - target["g_mag"][row]))
    return level * one, weight / level**2


def _described(facts: Facts, target: Columns, row: int, unit: NDArray[np.float64], *, masked: bool) -> Facts:
    """Add the results of LAMOST's pipeline for a target: position, subclass and redshift, with their errors."""
    years = ((facts.lmjd or 0) - 57388.5) / 365.25
    ra, dec = _moved(target, row, years, unit[:2] * 0.1)
    redshift = target["rv"][row] / SPEED_OF_LIGHT + 2e-5 * unit[2]
    return replace(
        facts,
        designation=_designation(ra, dec),
        ra=ra,
        dec=dec,
        subclass=f"dM{round(float(np.interp(target['labels'][row, TEFF], *SUBTYPES)))}",
        fiber_mask=int(masked),
        pipeline_z=round(float(redshift), 8) if target["z_known"][row] else None,
    )


def _truth_columns(target: Columns, row: NDArray[np.int64], exposure: NDArray[np.int64], facts: list[Facts]) -> Columns:
    """Return the truth of the kept spectra, labels NaN where the source is no M dwarf."""
    source = np.isin(target["kind"][row], tuple(SOURCES))
    labels = np.where(source[:, None], np.nan, target["labels"][row])
    return {
        "star": target["star"][row],
        "exposure": exposure,
        "obsid": np.array([fact.obsid for fact in facts], dtype=np.int64),
        "path": np.array([fact.path for fact in facts], dtype=object),
        "kind": target["kind"][row].astype(object),
        **{name: labels[:, place] for place, name in enumerate(LABELS)},
        "rv": target["rv"][row],
        "active": target["active"][row],
        "metal_poor": labels[:, M_H] < METAL_POOR,
        "late": labels[:, TEFF] < LATE,
        **{name: target[name][row] for name in (*MARKS, "distance", "a_v")},
        "source_id": target["source_id"][row],
        "uid": np.array([f"S{star:012d}" for star in target["star"][row]], dtype=object),
        "gaia_in_lamost": target["gaia_in_lamost"][row],
    }


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
