"""LAMOST low-resolution spectra: the image of DR1, the image of DR2-DR8 and the table of DR9 and later."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.spectra.readers.content import check_spectrum, fact_angle, fact_int, fact_number, fact_text, snr_by_band
from stargap.spectra.readers.fitsfile import card, column_names
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = ["is_medium_resolution", "parse_lamost"]

_ROWS = 5
_MEDIUM = re.compile(r"COADD_[BR]|[BR]-\d")


def is_medium_resolution(hdul: fits.HDUList, path: str | Path) -> bool:
    """Whether this is a medium-resolution (MRS) file: named ``med-*`` or with HDUs COADD_B/_R, B-n, R-n.

    Example:
        >>> is_medium_resolution([], "med-58625-HD145243N141241V01_sp01-001.fits.gz")
        True
    """
    return Path(path).name.startswith("med-") or any(_MEDIUM.match(hdu.name) for hdu in hdul)


def parse_lamost(hdul: fits.HDUList, path: str | Path) -> Spectrum:
    """Read an LRS file of any release; its layout is told by structure, never by name or DATA_V.

    * ``lamost-dr1``: image, rows flux, ivar, subcontinuum, andmask, ormask; wavelength is
      ``10**(COEFF0 + COEFF1 * i)``.
    * ``lamost-image``: image, rows flux, ivar, wavelength, andmask, ormask. The third row tells it from DR1:
      it holds wavelengths (2000-20000 A), a DR1 subcontinuum is about 1.
    * ``lamost-table``: HDU 1 is a one-row table with FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK.

    Masks: a pixel is killed (``ivar`` 0) where ivar is not positive and finite, flux is not finite, or any
    bit of ANDMASK is set (bad in every exposure; a table without ANDMASK has none). ORMASK (bad in at least
    one exposure) does not kill: the ivar of the co-add already reflects what was left out.

    S/N comes from the cards SNRU .. SNRZ, or SN_U .. SN_Z of DR1 (which stop at 99); an arm that is missing
    (-9999) is None. Without any of these cards it is computed from ivar (``snr_source`` is then ``ivar``).
    Sentinels (-9999, -999, blank, NULL, NaN) are None, and so are coordinates off the sphere and a negative
    OBSID.

    Args:
        hdul: HDUs as ``fitsfile.open_fits`` gives them.
        path: of the file, for facts and errors.

    Raises:
        SpectrumError: rows or columns are missing, wavelengths are in air or not heliocentric, or the content
            does not pass ``content.check_spectrum``.
    """
    primary = hdul[0].header
    if card(primary, "VACUUM") is False:
        raise SpectrumError(path, "wavelengths are in air (VACUUM = F)")
    if card(primary, "HELIO") is False:
        raise SpectrumError(path, "wavelengths are not heliocentric (HELIO = F)")
    if primary["NAXIS"]:
        layout, (wavelength, flux, ivar, andmask) = _from_image(hdul[0], path)
    else:
        layout, (wavelength, flux, ivar, andmask) = "lamost-table", _from_table(hdul, path)
    facts = _facts(primary, path, layout)
    spectrum = check_spectrum(path, wavelength, flux, ivar, andmask != 0, facts)
    if facts.snr_source == "header":
        return spectrum
    snr: dict[str, Any] = snr_by_band(spectrum.wavelength, spectrum.flux, spectrum.ivar)
    return replace(spectrum, facts=replace(facts, snr_source="ivar", **snr))


def _from_image(hdu: fits.PrimaryHDU, path: str | Path) -> tuple[str, tuple[NDArray[Any], ...]]:
    header = hdu.header
    if header["NAXIS"] != 2 or header["NAXIS2"] != _ROWS:
        raise SpectrumError(path, "the image does not have the 5 rows of a LAMOST spectrum")
    if str(card(header, "TELESCOP")).startswith("SDSS"):
        raise SpectrumError(path, "an SDSS spSpec image: stargap reads spec-PLATE-MJD-FIBER files")
    if hdu.data is None:
        raise SpectrumError(path, "the spectrum has no pixels")
    flux, ivar, third, andmask, _ = hdu.data
    if np.mean((third > 2000) & (third < 20000)) > 0.9:
        return "lamost-image", (third, flux, ivar, andmask)
    start, step = (fact_number(card(header, key)) for key in ("COEFF0", "COEFF1"))
    if "WAVELENGTH" in str(card(header, "EXTEN0")).upper() or start is None or step is None:
        raise SpectrumError(path, "no wavelength row, nor COEFF0 and COEFF1 in its place")
    return "lamost-dr1", (10.0 ** (start + step * np.arange(flux.size)), flux, ivar, andmask)


def _from_table(hdul: fits.HDUList, path: str | Path) -> tuple[NDArray[Any], ...]:
    table = next(hdu for hdu in hdul if isinstance(hdu, fits.BinTableHDU))
    columns = column_names(table)
    for name, title in (("FLUX", "FLUX"), ("IVAR", "IVAR"), ("WAVELENGTH", "WAVELENGTH or LOGLAM")):
        if name not in columns:
            raise SpectrumError(path, f"no {title} column")
    wavelength, flux, ivar = (table.data[name] for name in ("WAVELENGTH", "FLUX", "IVAR"))
    if flux.ndim > 1 and len(flux) > 1:
        raise SpectrumError(path, "the table holds more than one spectrum")
    andmask = table.data["ANDMASK"] if "ANDMASK" in columns else np.zeros(flux.shape)
    return wavelength, flux, ivar, andmask


def _facts(header: fits.Header, path: str | Path, layout: str) -> Facts:
    value = partial(card, header)
    prefix = next((p for p in ("SNR", "SN_") if any(p + band in header for band in "UGRIZ")), None)
    cards = {f"snr_{band.lower()}": f"{prefix}{band}" for band in "UGRIZ"} if prefix else {}
    snr: dict[str, Any] = {name: fact_number(value(key)) for name, key in cards.items()}
    designation = fact_text(value("DESIG"))
    return Facts(
        path=str(path),
        layout=layout,
        release=fact_text(value("DATA_V")),
        obsid=fact_int(value("OBSID"), least=0),
        designation=designation and designation.removeprefix("LAMOST ").strip(),
        ra=fact_angle(value("RA"), 0, 360),
        dec=fact_angle(value("DEC"), -90, 90),
        snr_source="header" if prefix else None,
        subclass=fact_text(value("SUBCLASS")),
        object_class=fact_text(value("CLASS")),
        plan_id=fact_text(value("PLANID")),
        lmjd=fact_int(value("LMJD")),
        spectrograph=fact_int(value("SPID")),
        fiber=fact_int(value("FIBERID")),
        date_obs=fact_text(value("DATE-OBS")),
        exposure=fact_number(value("EXPTIME")),
        fiber_mask=fact_int(value("FIBERMAS" if "FIBERMAS" in header else "FIB_MASK"), least=0),
        pipeline_z=fact_number(value("Z")),
        helio_rv=fact_number(value("HELIO_RV")),
        **snr,
    )
