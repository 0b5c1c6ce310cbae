"""What ``open_fits`` makes of headers and sizes that the survey files do not have, or have against the standard."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card
from stargap.spectra.readers.fitsfile import column_names, open_fits
from stargap.spectra.readers.read import read_spectrum


def insert_card(raw: bytes, text: bytes, into: bytes = b"COMMENT ") -> bytes:
    at = raw.index(into)
    return raw[:at] + text.ljust(80) + raw[at + 80 :]


def reason_of(raw, path):
    path.write_bytes(raw)
    with pytest.raises(SpectrumError) as caught:
        read_spectrum(path)
    return caught.value.reason


def test_values_of_odd_cards(tmp_path):
    cards = {
        "TEXT    = 'O''Neill / not a comment' / comment": "O'Neill / not a comment",
        "BLANK1  = '        '": "",
        "EMPTY1  = ''": "",
        "EMPTY2  =": None,
        "NUMBER1 =               1.5D+3 / old exponent": 1500.0,
        "NUMBER2 =              -4.E-02": -0.04,
        "NUMBER3 =                  007": 7,
        "LOGICAL =                    F / no": False,
        "COMPLEX = (1, 2)": None,
        "FREE    = 12 / free format": 12,
        "NOT_END = 'END     ' / END     ": "END",
        "NOVALUE = ?!": None,
        "OPEN    = 'M2": None,
        "COMMENT END     ": None,
        "NUL     = 'M\x002' / \t": "M?2",
    }
    structure = ["SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0"]
    raw = "".join(text.ljust(80) for text in [*structure, *cards, "END"]).ljust(2880)
    (tmp_path / "a.fits").write_text(raw)
    with open_fits(tmp_path / "a.fits") as hdul:
        found = {text: card(hdul[0].header, text[:8].rstrip()) for text in cards if "COMMENT" not in text}
    assert found == {text: value for text, value in cards.items() if "COMMENT" not in text}


def test_sizes_left_over_from_an_image_are_ignored_where_there_is_none(files, star, tmp_path):
    raw = insert_card(insert_card(files["lamost-table"], b"NAXIS1  = 3909"), b"NAXIS2  = 5")
    (tmp_path / "a.fits").write_bytes(raw)
    np.testing.assert_array_equal(read_spectrum(tmp_path / "a.fits").flux, star.flux)


@pytest.mark.parametrize(
    ("text", "into"),
    [
        (b"NAXIS   = 4000000000", b"NAXIS   "),
        (b"naxis   = 4000000000", b"COMMENT "),
        (b"NAXIS   = 4000000000", b"EXTNAME "),
        (b"TFIELDS = 4000000000", b"TFIELDS "),
    ],
)
def test_counts_beyond_the_standard_are_refused_at_once(text, into, files, tmp_path):
    started = time.perf_counter()
    assert reason_of(insert_card(files["lamost-table"], text, into), tmp_path / "a.fits") == "a header is damaged"
    assert time.perf_counter() - started < 1


def test_unsaid_checksums_are_not_checked(files, star, tmp_path):
    raw = insert_card(insert_card(files["lamost-image"], b"CHECKSUM= ''"), b"DATASUM = '  '")
    (tmp_path / "a.fits").write_bytes(raw)
    np.testing.assert_array_equal(read_spectrum(tmp_path / "a.fits").flux, star.flux)
    assert "checksum" in reason_of(insert_card(raw, b"DATASUM = '7'", b"DATASUM"), tmp_path / "b.fits")


def test_scaled_and_unsigned_columns(tmp_path):
    columns = [
        fits.Column("UNSIGNED", "J", bzero=2**31, array=np.array([0, 1, 2**32 - 1], np.uint32)),
        fits.Column("scaled", "2I", array=np.array([[4, 5], [6, 7], [8, 9]])),
        fits.Column("BITS", "11X", array=np.zeros((3, 11), bool)),
        fits.Column("LAST", "D", array=np.array([1.5, np.nan, -2])),
    ]
    written = fits.BinTableHDU.from_columns(columns)
    written.header["TSCAL2"], written.header["TZERO2"] = 0.5, 3
    written.writeto(tmp_path / "a.fits")
    with open_fits(tmp_path / "a.fits") as hdul:
        primary, table = hdul
        assert column_names(primary) == set()
        assert column_names(table) == {"UNSIGNED", "SCALED", "BITS", "LAST"}
        assert table.data["UNSIGNED"].tolist() == [0, 1, 2**32 - 1]
        np.testing.assert_array_equal(table.data["SCALED"], [[5, 5.5], [6, 6.5], [7, 7.5]])
        np.testing.assert_array_equal(table.data["LAST"], [1.5, np.nan, -2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float64"])
def test_images_of_any_type(dtype, tmp_path):
    fits.PrimaryHDU(np.arange(12).reshape(3, 4).astype(dtype)).writeto(tmp_path / "a.fits")
    with open_fits(tmp_path / "a.fits") as hdul:
        np.testing.assert_array_equal(hdul[0].data, np.arange(12).reshape(3, 4))


def test_warnings_come_back_after_the_file(files, tmp_path):
    (tmp_path / "a.fits").write_bytes(files["lamost-image"])
    with open_fits(tmp_path / "a.fits"):
        pass
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)
