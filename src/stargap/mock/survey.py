"""A simulated survey: M dwarfs, binaries and junk among them, with repeats, the stars in Gaia, and the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import LABELS, M_H, TEFF
from stargap.mock.headers import described, observed_as
from stargap.mock.instrument import CHUNK, Blend, Truth, observe
from stargap.mock.junk import SOURCES, make_junk
from stargap.mock.nature import Mix, nature_labels
from stargap.mock.photometry import Relations
from stargap.mock.population import Population
from stargap.mock.spectrographs import FIBRES, SPECTROGRAPHS, SPECTROGRAPHS_BY_NAME, Instrument
from stargap.mock.targets import GAIA, MOST_EXPOSURES, draw_catalogued, draw_targets
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.address import join_address
from stargap.spectra.readers.content import snr_by_band
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.tables.column import INT_NULL

__all__ = ["LATE", "METAL_POOR", "SurveyChunk", "simulate_survey", "survey_size"]

Columns = dict[str, NDArray[Any]]

METAL_POOR = -0.5
"""[M/H] below which a star of the truth is marked metal-poor (dex)."""
LATE = 3100.0
"""Teff below which it is marked late (K): M5 and later."""
BLOCK = 16 * CHUNK
"""Stars whose labels are drawn together."""
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
    instrument: Instrument = "lamost",
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
        wavelength: native pixels (A) of LAMOST, by default those of ``LOG_LAMBDA``; the noise depends on their number.
        instrument: that observes the stars, the same for every instrument, with the same S/N per pixel. LAMOST's
            catalogue and pipeline know nothing of the spectra of others, which have no obsid.

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
    if wavelength is None:
        wavelength = LOG_LAMBDA.wavelength if instrument == "lamost" else SPECTROGRAPHS_BY_NAME[instrument].wavelength
    return _chunks(stars, seed, mix, junk, repeats, people, _Camera(instrument, wavelength))


@dataclass(frozen=True, eq=False)
class _Camera:
    """An instrument and its pixels (A)."""

    instrument: Instrument
    wavelength: NDArray[np.float64]

    @property
    def resolution(self) -> float:
        """Resolving power of what is broadened by one number: 1800 for LAMOST."""
        return 1800.0 if self.instrument == "lamost" else SPECTROGRAPHS_BY_NAME[self.instrument].resolution


def _chunks(
    stars: int,
    seed: int,
    mix: Mix,
    junk: float,
    repeats: float,
    people: tuple[Population, Relations],
    camera: _Camera,
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
        chunk = _observe(rng, number, target, camera, min(CHUNK, stars - number * CHUNK), seed, first_id)
        first_id += len(chunk.spectra)
        yield chunk


def _observe(
    rng: np.random.Generator,
    number: int,
    target: Columns,
    camera: _Camera,
    stars: int,
    seed: int,
    first_id: int,
) -> SurveyChunk:
    """Observe the first `stars` targets; all are simulated, so that no target depends on how many are observed."""
    row = np.repeat(np.arange(CHUNK), target["exposures"])
    exposure = np.concatenate([np.arange(n) for n in target["exposures"]])
    spectrograph, wave = SPECTROGRAPHS_BY_NAME[camera.instrument], camera.wavelength
    truth = _exposed(rng, target, row, exposure, camera.resolution)
    both = np.flatnonzero(target["binary"][row])
    blend = Blend(both, *(target[f"companion_{what}"][row[both]] for what in ("labels", "light", "rv")))
    arrays = observe(
        spectrograph.nature(), truth, wave, seed=seed * 100_000 + number, blend=blend, spectrograph=spectrograph
    )
    unit = rng.standard_normal((len(row), 3))
    masked = rng.random(len(row)) < 0.01
    kept = np.flatnonzero(row < stars)
    if camera.instrument == "desi":  # files hold a night each, not a star
        kept = kept[np.argsort(exposure[kept], kind="stable")]
    power = spectrograph.power(truth.spectrograph, truth.fibre, wave)
    spectra = []
    for i in kept.tolist():
        flux, ivar = _spectrum(
            target, int(row[i]), wave, *(array[i] for array in arrays), resolution=camera.resolution, seed=seed
        )
        where = int(target["star"][row[i]]), int(exposure[i]), int(truth.spectrograph[i]), int(truth.fibre[i])
        facts = described(
            observed_as(camera.instrument, number, *where), target, int(row[i]), unit[i], masked=bool(masked[i])
        )
        bands = snr_by_band(wave, flux, ivar)
        snr: dict[str, Any] = {name: None if value is None else round(value, 2) for name, value in bands.items()}
        known = None if camera.instrument == "lamost" else power[i]
        spectra.append(Spectrum(wave, flux, ivar, replace(facts, **snr), known))
    spectra = _addressed(spectra)
    columns = _truth_columns(target, row[kept], exposure[kept], [spectrum.facts for spectrum in spectra])
    columns |= {
        "spectrum_id": first_id + np.arange(len(kept)),
        "snr_r": truth.snr_r[kept],
        "snr_i": truth.snr_i[kept],
    }
    gaia = {name: target[name][:stars] for name in GAIA}
    return SurveyChunk({name: columns[name] for name in TRUTH}, gaia, spectra)


def _addressed(spectra: list[Spectrum]) -> list[Spectrum]:
    """Return spectra with the place in their file as a part of the path, where a file holds several."""
    several = Counter(spectrum.facts.path for spectrum in spectra)
    seen: Counter[str] = Counter()
    found = []
    for spectrum in spectra:
        path = spectrum.facts.path
        address = path if several[path] < 2 else join_address(path, seen[path])
        found.append(replace(spectrum, facts=replace(spectrum.facts, path=address)))
        seen[path] += 1
    return found


def _exposed(
    rng: np.random.Generator,
    target: Columns,
    row: NDArray[np.int64],
    exposure: NDArray[np.int64],
    resolution: float,
) -> Truth:
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
        resolution=np.full(count, resolution),
    )


def _spectrum(
    target: Columns,
    row: int,
    wave: NDArray[np.float64],
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    clean: NDArray[np.float32],
    *,
    resolution: float,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return flux and ivar of one exposure at the brightness of its target, turned into junk where that is its kind."""
    one, weight = flux.astype(np.float64), ivar.astype(np.float64)
    kind = str(target["kind"][row])
    if kind != "dwarf":
        seeds, velocity = [seed, 5, int(target["star"][row])], float(target["rv"][row])
        one, weight = make_junk(kind, wave, flux, ivar, clean, rv=velocity, resolution=resolution, seed=seeds)
    level = 10.0 ** (0.4 * (20.0 - target["g_mag"][row]))
    return level * one, weight / level**2


def _truth_columns(target: Columns, row: NDArray[np.int64], exposure: NDArray[np.int64], facts: list[Facts]) -> Columns:
    """Return the truth of the kept spectra, labels NaN where the source is no M dwarf."""
    source = np.isin(target["kind"][row], tuple(SOURCES))
    labels = np.where(source[:, None], np.nan, target["labels"][row])
    return {
        "star": target["star"][row],
        "exposure": exposure,
        "obsid": np.array([INT_NULL if fact.obsid is None else fact.obsid for fact in facts], dtype=np.int64),
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
