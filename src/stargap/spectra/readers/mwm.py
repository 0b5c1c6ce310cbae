"""SDSS-V ``mwmStar`` and ``mwmVisit`` files: BOSS spectra of both observatories, brought back from the rest frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stargap.errors import SpectrumError
from stargap.pixels import SPEED_OF_LIGHT
from stargap.spectra.readers.cards import Value, card, fact_angle, fact_int, fact_number, fact_text
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names
from stargap.spectra.readers.plain import HDU, HDUs
from stargap.spectra.readers.sdss import KILLING_BITS
from stargap.spectra.readers.table import bits, column
from stargap.spectra.resolution import INSTRUMENTS
from stargap.spectra.spectrum import Facts

__all__ = ["count_mwm", "is_mwm", "parse_mwm"]


def is_mwm(hdul: HDUs, path: str | Path) -> bool:
    """Whether this is a ``mwmStar`` or ``mwmVisit`` file: by its name, its HDUs or its columns.

    Example:
        >>> is_mwm([], "mwmStar-0.6.0-54000001.fits")
        True
    """
    by_columns = any("PIXEL_FLAGS" in names and names & {"FLUX", "IVAR"} for names in map(column_names, hdul))
    by_hdu = any(hdu.name.startswith(("BOSS/", "APOGEE/")) for hdu in hdul)
    return Path(path).name.lower().startswith(("mwmstar", "mwmvisit")) or by_columns or by_hdu


def count_mwm(hdul: HDUs) -> int:
    """Return how many BOSS spectra the file holds: in each HDU the rows, Apache Point before Las Campanas."""
    return sum(hdu.header["NAXIS2"] for hdu in _boss(hdul))


def parse_mwm(hdul: HDUs, path: str | Path, place: int) -> Content:
    """Read one BOSS spectrum of a ``mwmStar`` (co-adds) or ``mwmVisit`` (visits) file of SDSS-V.

    Both hold vacuum wavelengths in the star's rest frame: astra multiplied the heliocentric ones by ``1 - v / c`` with
    the velocity v of XCSAO, ``v_rad`` of a co-add and ``xcsao_v_rad`` of a visit with ``in_stack``; visits that are not
    in the stack were not shifted. The shift is undone here, so that a measured velocity is the heliocentric one. Where
    v is null the spectrum stays as it is and ``frame`` is ``rest``. A pixel is bad where pixel_flags has one of
    ``KILLING_BITS``. The resolving power is that of the BOSS spectrograph.

    Source: astra's code of these products, and www.sdss.org/dr19/mwm/astra/output-files.

    Raises:
        SpectrumError: the file holds no BOSS spectrum, or a column is missing.
    """
    hdu, row = _at(hdul, path, place)
    names = column_names(hdu)
    for name in ("FLUX", "IVAR"):
        if name not in names:
            raise SpectrumError(path, f"no {name} column")
    flux, ivar = (column(hdu, name, path)[row] for name in ("FLUX", "IVAR"))
    velocity = _shift(hdu, row)
    wavelength = _wavelength(hdu, row, path) / (1 - (velocity or 0.0) / SPEED_OF_LIGHT)
    bad = None
    if "PIXEL_FLAGS" in names:
        bad = (bits(hdu, "PIXEL_FLAGS", path)[row] & sum(1 << bit for bit in KILLING_BITS)) != 0
    return Content(wavelength, flux, ivar, bad, _facts(hdul, hdu, row, path, velocity), INSTRUMENTS["boss"])


def _boss(hdul: HDUs) -> list[HDU]:
    tables = [hdu for hdu in hdul if column_names(hdu) & {"FLUX", "IVAR"}]
    return [
        hdu for hdu in tables if not (hdu.name.startswith("APOGEE") or "APOGEE" in str(card(hdu.header, "INSTRMNT")))
    ]


def _at(hdul: HDUs, path: str | Path, place: int) -> tuple[HDU, int]:
    row = place
    for hdu in _boss(hdul):
        if row < hdu.header["NAXIS2"]:
            return hdu, row
        row -= hdu.header["NAXIS2"]
    raise SpectrumError(path, "an mwm file of SDSS-V without a BOSS spectrum (APOGEE's are of the near infrared)")


def _wavelength(hdu: HDU, row: int, path: str | Path) -> Any:
    if "WAVELENGTH" in column_names(hdu):
        return column(hdu, "WAVELENGTH", path)[row]
    first, step, count = (fact_number(card(hdu.header, key)) for key in ("CRVAL", "CDELT", "NPIXELS"))
    if first is None or step is None or count is None:
        raise SpectrumError(path, "no WAVELENGTH column, nor CRVAL, CDELT and NPIXELS in its place")
    return 10.0 ** (first + step * np.arange(int(count)))


def _cell(hdu: HDU, row: int, name: str) -> Value:
    if name not in column_names(hdu):
        return None
    value = np.asarray(hdu.data[name][row]).flat[0].item()
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _shift(hdu: HDU, row: int) -> float | None:
    """Return the velocity that was taken out (km/s), None where it is not known."""
    names = column_names(hdu)
    if "IN_STACK" in names and not _cell(hdu, row, "IN_STACK"):
        return 0.0
    value = fact_number(_cell(hdu, row, "XCSAO_V_RAD" if "XCSAO_V_RAD" in names else "V_RAD"))
    return value if value is not None and abs(value) < 2000 else None


def _facts(hdul: HDUs, hdu: HDU, row: int, path: str | Path, velocity: float | None) -> Facts:
    header = hdul[0].header
    target = fact_int(card(header, "SDSS_ID"), least=1) or fact_int(_cell(hdu, row, "SDSS_ID"), least=1)
    mjd = _cell(hdu, row, "MJD") if "MJD" in column_names(hdu) else _cell(hdu, row, "MIN_MJD")
    return Facts(
        path=str(path),
        layout="sdss-mwm",
        release=fact_text(_cell(hdu, row, "RUN2D")),
        target_id=target,
        designation=None if target is None else f"SDSS_ID {target}",
        ra=fact_angle(card(header, "RA"), 0, 360),
        dec=fact_angle(card(header, "DEC"), -90, 90),
        plan_id=fact_text(_cell(hdu, row, "FIELDID")),
        lmjd=fact_int(mjd),
        exposure=fact_number(_cell(hdu, row, "EXPTIME")),
        frame="rest" if velocity is None else None,
    )
