"""What is read without astropy's objects is what astropy reads, of whole files and of damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import SpectrumError
from stargap.spectra.readers import fitsfile
from stargap.spectra.readers.cards import card, cards
from stargap.spectra.readers.fitsfile import column_names, open_fits, table_column
from stargap.spectra.readers.plain import PlainHDU, plain_hdu
from stargap.spectra.readers.read import read_spectrum

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")
STRUCTURE = ("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0")
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
NUMBERS = st.from_regex(r" *[+-]? ?[0-9]*\.?[0-9]*([DEde][+-]?[0-9]+)?", fullmatch=True)
STRINGS = st.from_regex(r" *'([ -~]|''|: )*' *", fullmatch=True)
VALUES = st.one_of(
    st.text(PRINTABLE, max_size=70),
    st.builds(lambda value, comment: value + comment, NUMBERS | STRINGS, st.sampled_from(["", " / said", "/"])),
)
ODD_CARDS = (
    *("CHECKSUM= '0000'", "CONTINUE  'abc'", "HIERARCH ESO ABC = 5", "naxis   = 2", "DP1     = 'AXIS.1: 2'"),
    *("VACUUM  = 'AWAV: 1'", "CTYPE1  = 'AWAV: 1'", "SNRR=5", "BZERO   = 32768", "BSCALE  = 2.0", "TZERO1  = 5"),
    *("TDIM1   = '(5,41)'", "TUNIT3  = ''", "EXTNAME = 5", "EXTNAME = ?!", "GROUPS  = T", "PCOUNT  = 5", "GCOUNT  = T"),
    *("PCOUNT  = 0.0", "TFIELDS = 3.0", "END     = 5", "COMMENT = 5", "Z       = (1,2)", "TTYPE1  = 'IVAR'"),
    *("TTYPE1  = 5", "TFORM1  = '205e'", "TFORM1  = '0E'", "BITPIX  = T", "SIMPLE  = F", "XTENSION= 'A3DTABLE'"),
    *("NAXIS   = 3", "NAXIS1  = -4", "NAXIS2  = 0", "NAXIS1  = 1.0", "OBSID   =", "DATE-OBS= 'x'y", "LMJD    = 9\x00"),
)


def by_astropy(path, monkeypatch):
    """What is read where no HDU counts as plain."""
    with monkeypatch.context() as patch:
        patch.setattr(fitsfile, "plain_hdu", lambda raw, start: None)
        return spectrum_or_reason(path)


def spectrum_or_reason(path):
    try:
        spectrum = read_spectrum(path)
    except SpectrumError as error:
        return error.reason
    return spectrum.facts, *(values.tobytes() for values in (spectrum.wavelength, spectrum.flux, spectrum.ivar))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_lamost_are_plain_and_read_as_astropy_reads_them(layout, files, tmp_path, monkeypatch):
    path = tmp_path / "a.fits"
    path.write_bytes(files[layout])
    with open_fits(path) as hdul:
        assert [type(hdu) for hdu in hdul] == [PlainHDU] * len(hdul)
        assert hdul[-1].end == len(files[layout])
    assert spectrum_or_reason(path) == by_astropy(path, monkeypatch)


def test_real_files_are_plain_and_read_as_astropy_reads_them(shared_data, monkeypatch):
    paths = sorted((shared_data / "lamost" / "formats").glob("*.fits*"))
    assert paths
    for path in paths:
        with open_fits(path) as hdul:
            assert all(isinstance(hdu, PlainHDU) for hdu in hdul), path
        assert spectrum_or_reason(path) == by_astropy(path, monkeypatch)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(text=VALUES)
def test_values_are_those_that_astropy_reads(text):
    lines = [*STRUCTURE, f"VALUE   = {text[:70]}", "AFTER   = 'after' / it", "END"]
    raw = "".join(line.ljust(80) for line in lines).ljust(2880).encode()
    theirs, ours = fits.Header.fromstring(raw), plain_hdu(raw, 0)
    if ours is None:
        assert ": " in text  # a record-valued keyword card, perhaps
        return
    assert card(ours.header, "AFTER") == "after"
    value, expected = card(ours.header, "VALUE"), card(theirs, "VALUE")
    assert (type(value), value) == (type(expected), expected)
    assert ("VALUE" in ours.header, "OTHER" in ours.header) == (True, False)
    assert list(cards(ours.header, "SIMPLE".__eq__)) == list(cards(theirs, "SIMPLE".__eq__)) == [("SIMPLE", True)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", ODD_CARDS)
def test_odd_cards_are_left_to_astropy(text, layout, files, tmp_path, monkeypatch):
    path = tmp_path / "a.fits"
    raw = files[layout]
    for place in {raw.find(text[:8].encode()), raw.index(b"DATE"), raw.rindex(b"COMMENT "), 80, 240} - {-1}:
        path.write_bytes(raw[:place] + text.encode().ljust(80) + raw[place + 80 :])
        assert spectrum_or_reason(path) == by_astropy(path, monkeypatch), place


def test_images_and_columns_are_views_of_the_file(tmp_path):
    columns = [
        fits.Column("flux", "2E", array=np.array([[1, 2], [3, 4], [5, 6]]), unit="count"),
        fits.Column("mask", "J", array=np.array([0, 1, 2**31 - 1])),
    ]
    image = np.arange(12, dtype="f8").reshape(3, 4)
    fits.HDUList([fits.PrimaryHDU(image), fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / "a.fits")
    with open_fits(tmp_path / "a.fits") as (primary, table):
        assert isinstance(table, PlainHDU)
        np.testing.assert_array_equal(primary.data, image)
        assert (primary.name, primary.size, column_names(primary)) == ("PRIMARY", 96, set())
        assert (table.name, table.size, column_names(table)) == ("", 36, {"FLUX", "MASK"})
        assert tuple(table_column(table, "FLUX")) == ("flux", "2E", "count")
        np.testing.assert_array_equal(table.data["FLUX"], columns[0].array)
        assert table.data["MASK"].tolist() == [0, 1, 2**31 - 1]
