"""Writes simulated spectra as files of several: DESI's ``coadd``, one a night, SDSS-V's ``mwmVisit``, one a star."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from stargap.files import replacing
from stargap.mock.spectrographs import DESI_ARMS, SPECTROGRAPHS_BY_NAME, desi_arm
from stargap.mock.survey import SurveyChunk
from stargap.pixels import SPEED_OF_LIGHT
from stargap.spectra.address import split_address
from stargap.spectra.resolution import FWHM_PER_SIGMA
from stargap.spectra.spectrum import Spectrum

__all__ = ["write_collections", "write_desi", "write_mwm_visits"]

Floats = NDArray[np.float64]

DESI_UNITS: Final = {
    "WAVELENGTH": "Angstrom",
    "FLUX": "10**-17 erg/(s cm2 Angstrom)",
    "IVAR": "10**+34 (s2 cm4 Angstrom2) / erg2",
}
DIAGONALS = np.arange(5, -6, -1)
"""Offsets (pixels) of the diagonals of DESI's resolution matrix, in their order in the files."""
BOSS_LOGLAM = (3.5523, 1e-4, SPECTROGRAPHS_BY_NAME["sdss-v"].wavelength.size)
"""First log10 of wavelength, step and number of astra's pixels."""
VELOCITY_ERROR = (3.0, 60.0)
"""Errors of the pipeline's velocities (km/s): what is left at high S/N, and the part that falls with S/N, at 1."""
NOT_SHIFTED = ("galaxy", "lamp")
"""Kinds of junk of which the pipeline finds no velocity."""


def write_collections(folder: Path, chunk: SurveyChunk, *, seed: int) -> None:
    """Write the spectra of a chunk below ``spectra/`` in the survey's folder; files that exist are kept.

    Args:
        folder: of the survey.
        chunk: of `stargap.mock.survey.simulate_survey`, of DESI or SDSS-V.
        seed: of that survey.
    """
    files: dict[str, list[int]] = {}
    for row, spectrum in enumerate(chunk.spectra):
        files.setdefault(split_address(spectrum.facts.path)[0], []).append(row)
    for name, rows in files.items():
        path = folder / "spectra" / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        spectra = [chunk.spectra[row] for row in rows]
        rng = np.random.default_rng([seed, 11, int(chunk.truth["spectrum_id"][rows[0]])])
        if spectra[0].facts.layout == "desi":
            write_desi(path, spectra, rng=rng)
        else:
            rv, snr, kind = (chunk.truth[name][rows] for name in ("rv", "snr_r", "kind"))
            error = np.hypot(VELOCITY_ERROR[0], VELOCITY_ERROR[1] / snr)
            velocity = rv + error * rng.standard_normal(len(rows))
            velocity[np.isin(kind, NOT_SHIFTED)] = np.nan
            write_mwm_visits(path, spectra, velocity, error)


def write_desi(path: Path, spectra: Sequence[Spectrum], *, rng: np.random.Generator) -> Path:
    """Write the targets of one night and petal as DESI's ``coadd-PETAL-TILE-thruNIGHT.fits``.

    Where two arms overlap, each has half of the information and its own noise; together they are the spectrum.

    Args:
        path: of the file.
        spectra: on DESI's pixels, ``ivar`` 0 at bad ones, with their resolving power.
        rng: noise of the arms where they overlap.
    """
    facts = [spectrum.facts for spectrum in spectra]
    fibres = {
        "TARGETID": ("K", [fact.target_id for fact in facts]),
        "COADD_FIBERSTATUS": ("J", [0] * len(facts)),
        "TARGET_RA": ("D", [fact.ra for fact in facts]),
        "TARGET_DEC": ("D", [fact.dec for fact in facts]),
        "OBJTYPE": ("3A", ["TGT"] * len(facts)),
        "FIBER": ("J", [fact.fiber for fact in facts]),
        "TILEID": ("J", [int(fact.plan_id or 0) for fact in facts]),
        "COADD_NUMEXP": ("I", [1] * len(facts)),
        "COADD_EXPTIME": ("E", [fact.exposure for fact in facts]),
        "MEAN_MJD": ("D", [(fact.lmjd or 0) + 0.3 for fact in facts]),
    }
    header = fits.Header([("AUTHOR", "stargap", "Simulated: not an observation"), ("SPGRP", "cumulative")])
    hdus = [fits.PrimaryHDU(header=header), _table(fibres, "FIBERMAP")]
    wave = spectra[0].wavelength
    flux, ivar = (np.stack([getattr(spectrum, what) for spectrum in spectra]) for what in ("flux", "ivar"))
    power = np.stack([np.asarray(spectrum.resolution) for spectrum in spectra])
    arms = np.concatenate([desi_arm(arm) for arm in DESI_ARMS])
    shared = np.isin(wave, np.unique(arms)[np.unique(arms, return_counts=True)[1] > 1])
    unlike = np.where(shared & (ivar > 0), rng.standard_normal(flux.shape), 0.0)
    unlike *= np.divide(1.0, np.sqrt(ivar), out=np.zeros(ivar.shape), where=ivar > 0)
    for sign, arm in zip((1.0, -1.0, 1.0), DESI_ARMS, strict=True):
        first = int(np.searchsorted(wave, desi_arm(arm)[0] - 0.01))
        part = slice(first, first + desi_arm(arm).size)
        halved = np.where(shared[part], 0.5, 1.0)
        images = {
            "WAVELENGTH": desi_arm(arm),
            "FLUX": (flux[:, part] + sign * unlike[:, part]).astype("f4"),
            "IVAR": (ivar[:, part] * halved).astype("f4"),
            "MASK": (ivar[:, part] == 0).astype("u4"),
            "RESOLUTION": _resolution_matrix(wave[part], power[:, part]).astype("f4"),
        }
        for name, data in images.items():
            cards = fits.Header([("BUNIT", DESI_UNITS[name])] if name in DESI_UNITS else [])
            hdus.append(fits.ImageHDU(data, header=cards, name=f"{arm}_{name}"))
    hdus.append(_table({"TARGETID": fibres["TARGETID"]}, "SCORES"))
    return _written(path, hdus)


def write_mwm_visits(path: Path, spectra: Sequence[Spectrum], velocity: Floats, error: Floats) -> Path:
    """Write the visits of one star as SDSS-V's ``mwmVisit`` file: on astra's pixels, in the star's rest frame.

    Spectra are moved by Fourier's shift theorem, so that noise stays independent from pixel to pixel, as it does by the
    band-limited interpolation that astra uses.

    Args:
        path: of the file.
        spectra: on astra's pixels, heliocentric, ``ivar`` 0 at bad ones.
        velocity: what the pipeline found (km/s), ``(visit,)``; NaN for one that is not shifted nor in the stack.
        error: of it.
    """
    first = spectra[0].facts
    header = fits.Header([
        ("AUTHOR", "stargap", "Simulated: not an observation"),
        ("V_ASTRA", "0.6.0", "Astra version"),
        ("SDSS_ID", first.target_id, "SDSS-5 unique identifier"),
        ("RA", first.ra, "Right ascension [deg]"),
        ("DEC", first.dec, "Declination [deg]"),
    ])  # fmt: skip
    known = np.isfinite(velocity)
    moved = [_at_rest(spectrum, v) for spectrum, v in zip(spectra, np.where(known, velocity, 0.0), strict=True)]
    pixels = f"{BOSS_LOGLAM[2]}"
    facts = [spectrum.facts for spectrum in spectra]
    visits = {
        "sdss_id": ("K", [fact.target_id for fact in facts]),
        "telescope": ("6A", ["apo25m"] * len(facts)),
        "run2d": ("6A", [fact.release for fact in facts]),
        "mjd": ("J", [fact.lmjd for fact in facts]),
        "fieldid": ("J", [int(fact.plan_id or 0) for fact in facts]),
        "exptime": ("E", [fact.exposure for fact in facts]),
        "xcsao_v_rad": ("E", velocity),
        "xcsao_e_v_rad": ("E", np.where(known, error, np.nan)),
        "in_stack": ("L", known),
        "snr": ("E", [fact.snr_r or 0.0 for fact in facts]),
        "flux": (f"{pixels}E", np.stack([flux for flux, _ in moved])),
        "ivar": (f"{pixels}E", np.stack([ivar for _, ivar in moved])),
        "pixel_flags": (f"{pixels}K", np.stack([(ivar == 0).astype("i8") for _, ivar in moved])),
    }
    hdus = [fits.PrimaryHDU(header=header)]
    for name in ("BOSS/APO", "BOSS/LCO", "APOGEE/APO", "APOGEE/LCO"):
        columns: dict[str, tuple[str, Any]] = visits if name == "BOSS/APO" else {"sdss_id": ("K", [])}
        table = _table(columns, name)
        table.header["INSTRMNT"] = name.split("/")[0]
        table.header.update(dict(zip(("CRVAL", "CDELT", "NPIXELS"), BOSS_LOGLAM, strict=True)))
        hdus.append(table)
    return _written(path, hdus)


def _at_rest(spectrum: Spectrum, velocity: float) -> tuple[Floats, Floats]:
    """Return flux and ivar ``(pixel,)`` on astra's pixels, whose wavelengths are heliocentric ones times 1 - v / c."""
    pixels = np.arange(spectrum.wavelength.size, dtype=float)
    shift = np.log10(1.0 - velocity / SPEED_OF_LIGHT) / BOSS_LOGLAM[1]
    good = spectrum.ivar > 0
    filled = np.interp(pixels, pixels[good], spectrum.flux[good])
    line = np.interp(pixels, pixels[[0, -1]], filled[[0, -1]])  # so that the ends meet
    phase = np.exp(-2j * np.pi * np.fft.rfftfreq(pixels.size) * shift)
    flux = np.fft.irfft(np.fft.rfft(filled - line) * phase, pixels.size) + np.interp(pixels - shift, pixels, line)
    place = pixels - shift
    inside = (place >= 0) & (place <= pixels[-1])
    ivar = np.interp(place, pixels[good], spectrum.ivar[good])
    ivar[~inside | ~good[np.clip(np.rint(place).astype(int), 0, pixels.size - 1)]] = 0.0
    return flux, ivar


def _resolution_matrix(wavelength: Floats, power: Floats) -> Floats:
    """Return the diagonals of the resolution matrices of spectra, ``(spectrum, diagonal, pixel)``."""
    sigma = wavelength / power / FWHM_PER_SIGMA / 0.8
    bands = np.exp(-0.5 * (DIAGONALS[None, :, None] / sigma[:, None]) ** 2)
    return np.asarray(bands / bands.sum(axis=1, keepdims=True))


def _table(columns: dict[str, tuple[str, Any]], name: str) -> fits.BinTableHDU:
    made = [fits.Column(key, kind, array=np.asarray(values)) for key, (kind, values) in columns.items()]
    return fits.BinTableHDU.from_columns(made, name=name)


def _written(path: Path, hdus: list[Any]) -> Path:
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content, checksum=True)
    with replacing(path) as file:
        file.write(content.getvalue())
    return path
