"""SDSS, BOSS, eBOSS and SDSS-V optical spectra: ``spec-PLATE-MJD-FIBER.fits`` and its lite form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.content import check_spectrum, fact_angle, fact_int, fact_number, fact_text, snr_by_band
from stargap.spectra.readers.fitsfile import Value, card, column_names
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = ["KILLING_BITS", "parse_sdss"]

KILLING_BITS = {18: "FULLREJECT", 22: "NOSKY", 23: "BRIGHTSKY"}
"""Bits of and_mask (SPPIXMASK) that kill a pixel."""

_PIPELINE_COLUMNS = (
    *("CLASS", "SUBCLASS", "Z", "RUN2D", "SPECTROGRAPHID"),
    *("PLATE", "FIELD", "MJD", "FIBERID", "PLUG_RA", "PLUG_DEC"),
)


def parse_sdss(hdul: fits.HDUList, path: str | Path) -> Spectrum:
    """Read a ``spec`` file: the table with ``loglam`` (HDU 1, COADD), facts from HDU 0 and the table SPALL.

    Wavelengths are ``10**loglam``: vacuum, heliocentric. Column names may be upper or lower case.

    Masks: a pixel is killed (``ivar`` 0) where ivar is not positive and finite, flux is not finite, or
    and_mask has one of ``KILLING_BITS``. The pipeline itself gives unusable pixels ivar 0 (FULLREJECT and
    NOSKY among them); BRIGHTSKY marks sky so much brighter than the star that its subtraction may be off by
    more than the errors say. NODATA, which SDSS asks to ignore since DR9, and the other bits do not kill, nor
    does or_mask. A table without and_mask has no bits set.

    S/N is the pipeline's SN_MEDIAN (u, g, r, i, z) in the table with CLASS and Z, or computed from ivar.
    ``lmjd`` is SDSS's MJD, ``plan_id`` the plate (or field), ``designation`` ``spec-PLATE-MJD-FIBER``.

    Args:
        hdul: HDUs as ``fitsfile.open_fits`` gives them.
        path: of the file, for facts and errors.

    Raises:
        SpectrumError: columns are missing, or the content does not pass ``content.check_spectrum``.
    """
    table = next(hdu for hdu in hdul if "LOGLAM" in column_names(hdu))
    columns = column_names(table)
    for name in ("FLUX", "IVAR"):
        if name not in columns:
            raise SpectrumError(path, f"no {name} column")
    flux, ivar, loglam = (table.data[name] for name in ("FLUX", "IVAR", "LOGLAM"))
    bits = table.data["AND_MASK"] if "AND_MASK" in columns else np.zeros(flux.shape)
    wavelength = 10.0 ** loglam.astype(np.float64)
    killed = (bits.astype(np.int64) & sum(1 << bit for bit in KILLING_BITS)) != 0
    facts = _facts(hdul, path)
    spectrum = check_spectrum(path, wavelength, flux, ivar, killed, facts)
    if facts.snr_source == "header":
        return spectrum
    snr: dict[str, Any] = snr_by_band(spectrum.wavelength, spectrum.flux, spectrum.ivar)
    return replace(spectrum, facts=replace(facts, snr_source="ivar", **snr))


def _facts(hdul: fits.HDUList, path: str | Path) -> Facts:
    row, snr = _pipeline_row(hdul)

    def first(*keys: str) -> Value:
        values = (value for key in keys for value in (card(hdul[0].header, key), row.get(key)))
        return next((value for value in values if fact_text(value) is not None), None)

    plate = first("PLATE", "PLATEID", "FIELD", "FIELDID")
    number, mjd, fiber = fact_int(plate), fact_int(first("MJD")), fact_int(first("FIBERID"))
    known = None not in (number, mjd, fiber)
    return Facts(
        path=str(path),
        layout="sdss",
        release=fact_text(first("RUN2D")),
        designation=f"spec-{number:04d}-{mjd}-{fiber:04d}" if known else None,
        ra=fact_angle(first("PLUG_RA", "RA"), 0, 360),
        dec=fact_angle(first("PLUG_DEC", "DEC"), -90, 90),
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


def _pipeline_row(hdul: fits.HDUList) -> tuple[dict[str, Value], dict[str, Any]]:
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
