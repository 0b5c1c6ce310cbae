"""SDSS and BOSS ``spPlate`` files: all spectra of a plate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card, fact_angle, fact_int, fact_number, fact_text
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.fitsfile import column_names
from stargap.spectra.readers.plain import HDU, HDUs
from stargap.spectra.readers.sdss import KILLING_BITS, sdss_designation
from stargap.spectra.resolution import INSTRUMENTS, from_pixel_sigma, over
from stargap.spectra.spectrum import Facts

__all__ = ["count_spplate", "is_spplate", "parse_spplate"]

_PLUGMAP = {"FIBERID", "RA", "DEC"}


def is_spplate(hdul: HDUs, path: str | Path) -> bool:
    """Whether HDU 0 is an image with a row for each fibre of a PLUGMAP table, and COEFF0 and COEFF1."""
    shape, table = _shape(hdul[0]), _plugmap(hdul)
    named = all(key in hdul[0].header for key in ("COEFF0", "COEFF1"))
    return len(shape) == 2 and table is not None and table.header["NAXIS2"] == shape[0] and named


def count_spplate(hdul: HDUs) -> int:
    """Return how many fibres the plate has."""
    return _shape(hdul[0])[0]


def parse_spplate(hdul: HDUs, path: str | Path, place: int) -> Content:
    """Read one fibre of a ``spPlate`` file: HDU 0 flux, 1 ivar, 2 and-mask, then the table of fibres.

    Wavelengths are ``10**(COEFF0 + COEFF1 i)``, vacuum, heliocentric. A pixel is bad where the and-mask has one of
    ``KILLING_BITS``. HDU 4 holds the sigma of the line-spread function in pixels. A fibre on the sky is refused.

    Source: sdss/datamodel, spPlate (DR8-DR17).

    Raises:
        SpectrumError: HDUs are missing or of other shapes, or the fibre is on the sky.
    """
    if len(hdul) < 3 or not _shape(hdul[0]) == _shape(hdul[1]) == _shape(hdul[2]):
        raise SpectrumError(path, "a spPlate file without flux, ivar and and-mask of one shape in HDU 0, 1 and 2")
    table = _plugmap(hdul)
    assert table is not None
    row = {name: table.data[name][place] for name in column_names(table) & {*_PLUGMAP, "OBJTYPE", "CATALOGID"}}
    header = hdul[0].header
    if str(row.get("OBJTYPE", "")).strip().upper() in ("SKY", "NA"):
        raise SpectrumError(path, f"fibre {row['FIBERID']} is on the sky")
    start, step = (fact_number(card(header, key)) for key in ("COEFF0", "COEFF1"))
    if start is None or step is None:
        raise SpectrumError(path, "COEFF0 or COEFF1 is no number")
    wavelength = 10.0 ** (start + step * np.arange(hdul[0].header["NAXIS1"]))
    bad = (hdul[2].data[place].astype(np.int64) & sum(1 << bit for bit in KILLING_BITS)) != 0
    plate, mjd = card(header, "PLATEID"), fact_int(card(header, "MJD"))
    facts = Facts(
        path=str(path),
        layout="sdss-plate",
        release=fact_text(card(header, "RUN2D")),
        designation=sdss_designation(fact_int(plate), mjd, fact_int(int(row["FIBERID"])), None),
        ra=fact_angle(float(row["RA"]), 0, 360),
        dec=fact_angle(float(row["DEC"]), -90, 90),
        plan_id=fact_text(plate),
        lmjd=mjd,
        fiber=int(row["FIBERID"]),
        date_obs=fact_text(card(header, "DATE-OBS")),
        exposure=fact_number(card(header, "EXPTIME")),
        helio_rv=fact_number(card(header, "HELIO_RV")),
    )
    wide = len(hdul) > 4 and _shape(hdul[4]) == _shape(hdul[0])
    power = over(wavelength, from_pixel_sigma(hdul[4].data[place], step)) if wide else None
    return Content(wavelength, hdul[0].data[place], hdul[1].data[place], bad, facts, power or INSTRUMENTS["boss"])


def _shape(hdu: HDU) -> tuple[int, ...]:
    axes = hdu.header["NAXIS"]
    return tuple(hdu.header[f"NAXIS{axis}"] for axis in range(axes, 0, -1))


def _plugmap(hdul: HDUs) -> HDU | None:
    return next((hdu for hdu in hdul if column_names(hdu) >= _PLUGMAP), None)
