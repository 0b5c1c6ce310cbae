"""What headers state of wavelengths: vacuum or air, heliocentric or not, whatever the type of the value and the HDU."""

from __future__ import annotations

import io

import pytest
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.readers.statements import check_statements

AIR = "wavelengths are in air"
NOT_HELIOCENTRIC = "wavelengths are not heliocentric"
NOT_CLEAR = "it is not clear whether"

CASES = [
    *(("VACUUM", value, AIR) for value in (False, 0, 0.0, "F", "false", " no ", "N", "0", "AIR")),
    *(("VACUUM", value, None) for value in (True, 1, 1.0, "T", "True", "yes", "VACUUM")),
    *(("VACUUM", value, NOT_CLEAR) for value in (2, -9999, "", "maybe", "-9999", None)),
    *(("HELIO", value, NOT_HELIOCENTRIC) for value in (False, 0, "F", "No", "GEOCENTRIC")),
    *(("HELIO", value, None) for value in (True, 1, "T", "heliocentric", "BARYCENT")),
    *(("HELIO", value, NOT_CLEAR) for value in ("?", -12.5, None)),
    *(("AIRORVAC", value, expected) for value, expected in (("air", AIR), ("vac", None), ("Vacuum", None))),
    *(("CTYPE1", value, AIR) for value in ("AWAV", "AWAV-LOG", "awav")),
    *(("CTYPE1", value, None) for value in ("WAVE", "LINEAR", "-9999", "", 7)),
    *((key, "AWAV", AIR) for key in ("CTYPE2A", "TCTYP3", "1CTYP3", "TCTY1A")),
    *(("SPECSYS", value, None) for value in ("HELIOCEN", "BARYCENT", "")),
    *(("SPECSYS", value, NOT_HELIOCENTRIC) for value in ("TOPOCENT", "LSRK", "SOURCE")),
    *(("AIR", value, expected) for value, expected in (("T", AIR), (True, AIR), (1.21, None), (False, None))),
    *((key, 0, None) for key in ("AIRMASS", "TEMP_AIR", "HELIO_RV", "DC-FLAG")),
]


@pytest.mark.parametrize(("key", "value", "expected"), CASES)
def test_a_statement_counts_in_any_type_and_any_header(key, value, expected):
    stated = fits.Header([(key, value)])
    for headers in ([stated], [fits.Header({"VACUUM": True, "HELIO": True}), stated]):
        if expected is None:
            check_statements(headers, "a.fits")
        else:
            with pytest.raises(SpectrumError, match=f"^a.fits: {expected}.* \\({key} = "):
                check_statements(headers, "a.fits")


def test_the_second_of_two_cards_counts_as_well():
    header = fits.Header([("VACUUM", True), ("VACUUM", False)])
    with pytest.raises(SpectrumError, match=AIR):
        check_statements([header], "a.fits")


def test_a_card_that_is_not_fits_is_not_vacuum():
    header = fits.Header.fromstring("VACUUM  = ?!".ljust(80))
    with pytest.raises(SpectrumError, match=NOT_CLEAR):
        check_statements([header], "a.fits")


@pytest.mark.parametrize("layout", ["lamost-dr1", "lamost-image", "lamost-table"])
@pytest.mark.parametrize(("key", "value"), [("VACUUM", "F"), ("HELIO", 0), ("CTYPE1", "AWAV")])
def test_files_are_refused_by_their_statements(layout, key, value, files, tmp_path):
    with fits.open(io.BytesIO(files[layout])) as hdul:
        hdul[-1].header[key] = value
        hdul.writeto(tmp_path / "a.fits", output_verify="ignore")
    with pytest.raises(SpectrumError, match=f"{key} = "):
        read_spectrum(tmp_path / "a.fits")
