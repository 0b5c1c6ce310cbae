"""SDSS, BOSS, eBOSS and SDSS-V optical spectra: ``spec-PLATE-MJD-FIBER.fits`` and its lite form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import Value, card, fact_angle, fact_int, fact_number, fact_text
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names
from stargap.spectra.readers.plain import HDUs
from stargap.spectra.readers.table import bits, column
from stargap.spectra.resolution import INSTRUMENTS, from_pixel_sigma, over
from stargap.spectra.spectrum import Facts

__all__ = ["KILLING_BITS", "is_sdss", "parse_sdss", "sdss_designation"]

KILLING_BITS = {18: "FULLREJECT", 22: "NOSKY", 23: "BRIGHTSKY"}
"""Bits of and_mask (SPPIXMASK) with which a pixel is bad."""

_PIPELINE_COLUMNS = (
    *("CLASS", "SUBCLASS", "Z", "RUN2D", "SPECTROGRAPHID", "PLATE", "FIELD", "MJD", "FIBERID", "CATALOGID", "SDSS_ID"),
    *("PLUG_RA", "PLUG_DEC", "RACAT", "DECCAT", "FIBER_RA", "FIBER_DEC"),
)
_POSITIONS = (("PLUG_RA", "PLUG_DEC"), ("RACAT", "DECCAT"), ("FIBER_RA", "FIBER_DEC"))
"""Where the position of the object is, best first; RA and DEC of HDU 0 are those of the telescope."""


def is_sdss(hdul: HDUs) -> bool:
    """Whether a table has LOGLAM with FLUX or IVAR."""
    return any("LOGLAM" in names and names & {"FLUX", "IVAR", "WAVELENGTH"} for names in map(column_names, hdul))


def parse_sdss(hdul: HDUs, path: str | Path) -> Content:
    """Read a ``spec`` file: the first table with ``loglam`` (HDU 1, COADD), facts from HDU 0 and the table SPALL.

    Wavelengths are ``10**loglam``: vacuum, heliocentric. Column names may be upper or lower case.

    A pixel is bad where and_mask has one of ``KILLING_BITS``. The pipeline itself gives unusable pixels an ivar of 0
    (FULLREJECT and NOSKY among them); BRIGHTSKY marks sky so much brighter than the star that its subtraction may be
    off by more than the errors say. NODATA, which SDSS asks to ignore since DR9, the other bits and or_mask are not
    used.

    The resolving power is that of wdisp, the sigma of the line-spread function in pixels of 1e-4 dex, or else that of
    the BOSS spectrograph.

    S/N is the pipeline's SN_MEDIAN (u, g, r, i, z) in the table with CLASS and Z. ``lmjd`` is SDSS's MJD, ``plan_id``
    the plate or field, ``designation`` the name of the file: ``spec-PLATE-MJD-FIBER``, in SDSS-V
    ``spec-FIELD-MJD-CATALOGID``. The position is that of the fibre or of the catalogue, never the telescope's.

    Raises:
        SpectrumError: columns are missing.
    """
    tables = [hdu for hdu in hdul if "LOGLAM" in column_names(hdu)]
    hdu = next((table for table in tables if table.header["NAXIS2"]), tables[0])
    for name in ("FLUX", "IVAR"):
        if name not in column_names(hdu):
            raise SpectrumError(path, f"no {name} column")
    wavelength = column(hdu, "LOGLAM", path, logarithm=True)
    flux, ivar = (column(hdu, name, path) for name in ("FLUX", "IVAR"))
    bad = (bits(hdu, "AND_MASK", path) & sum(1 << bit for bit in KILLING_BITS)) != 0
    power = None
    if "WDISP" in column_names(hdu):
        sigma = np.asarray(column(hdu, "WDISP", path), dtype=float)
        power = over(10.0 ** np.asarray(hdu.data["LOGLAM"], dtype=float), from_pixel_sigma(sigma))
    return Content(wavelength, flux, ivar, bad, _facts(hdul, path), power or INSTRUMENTS["boss"])


def _facts(hdul: HDUs, path: str | Path) -> Facts:
    row, snr = _pipeline_row(hdul)

    def first(*keys: str) -> Value:
        values = (value for key in keys for value in (card(hdul[0].header, key), row.get(key)))
        return next((value for value in values if fact_text(value) is not None), None)

    plate, mjd = first("PLATE", "PLATEID", "FIELD", "FIELDID"), fact_int(first("MJD"))
    fiber = fact_int(first("FIBERID"))
    ra, dec = _position(first)
    catalogue = fact_int(first("CATALOGID"), least=1)
    return Facts(
        path=str(path),
        layout="sdss",
        release=fact_text(first("RUN2D")),
        target_id=fact_int(first("SDSS_ID"), least=1) or catalogue,
        designation=sdss_designation(fact_int(plate), mjd, fiber, catalogue),
        ra=ra,
        dec=dec,
        snr_source="header" if snr else None,
        subclass=fact_text(row.get("SUBCLASS")),
        object_class=fact_text(row.get("CLASS")),
        plan_id=fact_text(plate),
        lmjd=mjd,
        spectrograph=fact_int(first("SPECTROGRAPHID")),
        fiber=fiber,
        date_obs=fact_text(first("DATE-OBS")),
        exposure=fact_number(first("EXPTIME")),
        pipeline_z=fact_number(row.get("Z")),
        helio_rv=fact_number(first("HELIO_RV")),
        **snr,
    )


def _position(first: Callable[..., Value]) -> tuple[float | None, float | None]:
    """Return right ascension and declination from the first pair that has both, None where no pair has."""
    for keys in _POSITIONS:
        ra, dec = fact_angle(first(keys[0]), 0, 360), fact_angle(first(keys[1]), -90, 90)
        if ra is not None and dec is not None:
            return ra, dec
    return None, None


def sdss_designation(plate: int | None, mjd: int | None, fiber: int | None, catalogue: int | None) -> str | None:
    """Return the name of a ``spec`` file without its suffix, None where a part of it is not known.

    Example:
        >>> sdss_designation(4055, 55359, 44, None), sdss_designation(15010, 59146, None, 4375787839)
        ('spec-4055-55359-0044', 'spec-015010-59146-4375787839')
    """
    if plate is None or mjd is None:
        return None
    if catalogue is not None:
        return f"spec-{plate:06d}-{mjd}-{catalogue}"
    return None if fiber is None else f"spec-{plate:04d}-{mjd}-{fiber:04d}"


def _pipeline_row(hdul: HDUs) -> tuple[dict[str, Value], dict[str, Any]]:
    """Return the pipeline's table (SPALL), which has one row, as values by column, and the S/N in it."""
    table = next((hdu for hdu in hdul if {"CLASS", "Z"} <= column_names(hdu)), None)
    if table is None or len(table.data) != 1:
        return {}, {}
    columns = column_names(table)
    row: dict[str, Value] = {}
    for name in _PIPELINE_COLUMNS:
        if name in columns:
            item = np.asarray(table.data[name]).flat[0].item()
            row[name] = item.decode("ascii", "replace") if isinstance(item, bytes) else item
    medians = table.data["SN_MEDIAN"].ravel().tolist() if "SN_MEDIAN" in columns else []
    if len(medians) != len("ugriz"):
        return row, {}
    return row, {f"snr_{band}": fact_number(value) for band, value in zip("ugriz", medians, strict=True)}
