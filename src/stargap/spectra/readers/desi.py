"""DESI ``coadd-*`` and ``spectra-*`` files: many targets a file, three arms each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import fact_angle, fact_int, fact_number
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names
from stargap.spectra.readers.plain import HDU, HDUs
from stargap.spectra.resolution import INSTRUMENTS, Power, from_resolution_matrix, over
from stargap.spectra.spectrum import Facts

__all__ = ["count_desi", "is_desi", "parse_desi"]

_ARMS = ("B", "R", "Z")
_SAME = 0.01
"""Pixels of two arms whose wavelengths differ by less (A) are one pixel."""


def is_desi(hdul: HDUs, path: str | Path) -> bool:
    """Whether HDUs are named FIBERMAP and R_WAVELENGTH, R_FLUX or those of another arm.

    Example:
        >>> is_desi([], "coadd-main-dark-1.fits")
        False
    """
    names = {hdu.name for hdu in hdul}
    return "FIBERMAP" in names and any({f"{arm}_WAVELENGTH", f"{arm}_FLUX"} <= names for arm in _ARMS)


def count_desi(hdul: HDUs) -> int:
    """Return how many spectra the file holds: one a target in ``coadd``, one a target and exposure in ``spectra``."""
    return int(_fibermap(hdul).header["NAXIS2"])


def parse_desi(hdul: HDUs, path: str | Path, place: int) -> Content:
    """Read one spectrum: the arms B, R and Z joined, weighted by their inverse variances where they overlap.

    Wavelengths are vacuum and barycentric. A pixel of an arm is bad where its mask is not 0. Sky fibres are refused.
    ``target_id`` is TARGETID. The resolving power is that of the spectrum's own resolution matrix, or else DESI's.

    Source: desidatamodel, coadd-SURVEY-PROGRAM-PIXNUM and spectra-SURVEY-PROGRAM-PIXNUM.

    Raises:
        SpectrumError: HDUs of an arm are missing or do not fit its wavelengths, or the fibre was on the sky.
    """
    fibre = _fibermap(hdul)
    row = {name: fibre.data[name][place] for name in _FACTS if name in column_names(fibre)}
    if str(row.get("OBJTYPE", "")).strip().upper() == "SKY":
        raise SpectrumError(path, "a sky fibre (OBJTYPE = SKY)")
    names = {hdu.name for hdu in hdul}
    arms = [_arm(hdul, arm, place, path) for arm in _ARMS if f"{arm}_WAVELENGTH" in names]
    facts = _facts(row, path)
    if facts.lmjd is None:
        facts = replace(facts, lmjd=_night(hdul, facts.target_id))
    return Content(*join_arms(arms, path), facts=facts, resolution=_resolution(hdul, place))


_FACTS = (
    "TARGETID",
    "TARGET_RA",
    "TARGET_DEC",
    "OBJTYPE",
    "FIBER",
    "MJD",
    "MEAN_MJD",
    "EXPTIME",
    "COADD_EXPTIME",
    "TILEID",
)
Arm = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _fibermap(hdul: HDUs) -> HDU:
    return next(hdu for hdu in hdul if hdu.name == "FIBERMAP")


def _arm(hdul: HDUs, arm: str, place: int, path: str | Path) -> Arm:
    def image(what: str) -> NDArray[Any]:
        found = next((hdu for hdu in hdul if hdu.name == f"{arm}_{what}"), None)
        if found is None or found.data is None:
            raise SpectrumError(path, f"no HDU {arm}_{what}")
        return np.asarray(found.data if what == "WAVELENGTH" else found.data[place])

    wavelength, flux, ivar = image("WAVELENGTH"), image("FLUX"), image("IVAR")
    masked = image("MASK") if any(hdu.name == f"{arm}_MASK" for hdu in hdul) else np.zeros(flux.shape, dtype=int)
    if not wavelength.shape == flux.shape == ivar.shape == masked.shape:
        raise SpectrumError(path, f"HDUs of the {arm} arm differ in length")
    good = (masked == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    return wavelength.astype(float), np.where(good, flux, 0.0), np.where(good, ivar, 0.0)


def _resolution(hdul: HDUs, place: int) -> Power:
    """Return the resolving power over the wavelengths of the arms R and Z."""
    hdus = {hdu.name: hdu for hdu in hdul}
    waves, powers = [], []
    for arm in ("R", "Z"):
        matrix, wave = hdus.get(f"{arm}_RESOLUTION"), hdus.get(f"{arm}_WAVELENGTH")
        if matrix is not None and wave is not None and matrix.data is not None:
            waves.append(np.asarray(wave.data, dtype=float))
            powers.append(from_resolution_matrix(np.asarray(matrix.data[place], dtype=float), waves[-1]))
    found = over(np.concatenate(waves), np.concatenate(powers)) if waves else None
    return found or INSTRUMENTS["desi"]


def join_arms(arms: list[Arm], path: str | Path) -> Arm:
    """Return wavelengths, fluxes and inverse variances of spectra that share one grid where they overlap.

    Args:
        arms: wavelength, flux and ivar (0 at bad pixels) of each, ``(pixel,)``.
        path: named in the error.

    Raises:
        SpectrumError: pixels in an overlap are not at the same wavelengths.

    Example:
        >>> one = (np.array([1.0, 2.0]), np.array([4.0, 4.0]), np.array([1.0, 1.0]))
        >>> other = (np.array([2.0, 3.0]), np.array([8.0, 8.0]), np.array([3.0, 0.0]))
        >>> join_arms([one, other], "a.fits")
        (array([1., 2., 3.]), array([4., 7., 0.]), array([1., 4., 0.]))
    """
    wave, flux, ivar = (np.concatenate(parts) for parts in zip(*arms, strict=True))
    order = np.argsort(wave, kind="stable")
    wave, flux, ivar = wave[order], flux[order], ivar[order]
    group = np.concatenate([[0], np.cumsum(np.diff(wave) > _SAME)])
    first = np.flatnonzero(np.diff(group, prepend=-1))
    joined = wave[first]
    steps = np.diff(joined)
    if steps.size and steps.min() < 0.75 * np.median(steps):
        raise SpectrumError(path, "the arms do not share their wavelengths where they overlap")
    weight = np.bincount(group, ivar).astype(float)
    total = np.bincount(group, ivar * flux).astype(float)
    return joined, np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight


def _night(hdul: HDUs, target: int | None) -> int | None:
    """Return the mean night of a target's exposures (MJD), which co-adds of tiles have in a table of their own."""
    table = next((hdu for hdu in hdul if hdu.name == "EXP_FIBERMAP"), None)
    if table is None or target is None or not {"TARGETID", "MJD"} <= column_names(table):
        return None
    nights = np.asarray(table.data["MJD"], dtype=float)[np.asarray(table.data["TARGETID"]) == target]
    mean = fact_number(float(nights.mean())) if nights.size else None
    return None if mean is None else int(mean)


def _facts(row: dict[str, Any], path: str | Path) -> Facts:
    target = None if "TARGETID" not in row else int(row["TARGETID"])

    def number(*names: str) -> float | None:
        return next((fact_number(float(row[name])) for name in names if name in row), None)

    mjd = number("MJD", "MEAN_MJD")
    return Facts(
        path=str(path),
        layout="desi",
        target_id=target,
        designation=None if target is None else f"DESI {target}",
        ra=fact_angle(number("TARGET_RA"), 0, 360),
        dec=fact_angle(number("TARGET_DEC"), -90, 90),
        plan_id=None if "TILEID" not in row else str(int(row["TILEID"])),
        lmjd=None if mjd is None else int(mjd),
        fiber=None if "FIBER" not in row else fact_int(int(row["FIBER"])),
        exposure=number("COADD_EXPTIME", "EXPTIME"),
    )
