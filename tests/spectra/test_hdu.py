"""The decoder of FITS cards, images and tables, held against astropy."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits

from stargap.spectra.fitsfile import open_fits, split_hdus


def test_cards_and_columns_agree_with_astropy(files, summed):
    for raw in (*files.values(), summed):
        with fits.open(io.BytesIO(raw)) as hdul:
            ours = split_hdus(raw)
            assert [hdu.name for hdu in ours] == [hdu.header.get("EXTNAME", "").upper() for hdu in hdul]
            for mine, theirs in zip(ours, hdul, strict=True):
                assert differing_cards(mine, theirs.header) == []
                if mine.is_table:
                    for name in theirs.columns.names:
                        np.testing.assert_array_equal(mine.column(name), theirs.data[name])
                elif theirs.data is not None:
                    np.testing.assert_array_equal(mine.image(), theirs.data)


def differing_cards(mine, header) -> list[str]:
    keys = [key for key in header if key not in {"COMMENT", "HISTORY", ""}]
    assert keys
    return [
        key
        for key in keys
        if mine.value(key) != header[key] and not isinstance(header[key], fits.card.Undefined)
    ]


def test_values_agree_with_astropy_on_odd_cards():
    cards = [
        "TEXT    = 'O''Neill / not a comment' / comment",
        "BLANK1  = '        '",
        "EMPTY1  = ''",
        "NUMBER1 =               1.5D+3 / old exponent",
        "NUMBER2 =              -4.E-02",
        "NUMBER3 =                  007",
        "LOGICAL =                    F / no",
        "FREE    = 12 / free format",
        "FREE    = 13 / astropy takes the first of two, too",
        "NOT_END = 'END     ' / END     ",
        "COMMENT END     ",
    ]
    cards = ["SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0", *cards, "END"]
    raw = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    (hdu,) = split_hdus(raw)
    assert differing_cards(hdu, fits.Header.fromstring(raw)) == []
    assert hdu.value("TEXT") == "O'Neill / not a comment"
    assert hdu.value("NOT_END") == "END"


def test_scaled_and_unsigned_columns_agree_with_astropy():
    columns = [
        fits.Column("UNSIGNED", "J", bzero=2**31, array=np.array([0, 1, 2**32 - 1], np.uint32)),
        fits.Column("scaled", "2I", array=np.array([[4, 5], [6, 7], [8, 9]])),
        fits.Column("BITS", "11X", array=np.zeros((3, 11), bool)),
        fits.Column("NAME", "5A", array=["a", "bcd", ""]),
        fits.Column("LAST", "D", array=np.array([1.5, np.nan, -2])),
    ]
    buffer = io.BytesIO()
    written = fits.BinTableHDU.from_columns(columns)
    written.header["TSCAL2"], written.header["TZERO2"] = 0.5, 3
    fits.HDUList([fits.PrimaryHDU(), written]).writeto(buffer)
    _, table = split_hdus(buffer.getvalue())
    with fits.open(io.BytesIO(buffer.getvalue())) as hdul:
        data = hdul[1].data
        np.testing.assert_array_equal(table.column("UNSIGNED").ravel(), data["UNSIGNED"])
        np.testing.assert_array_equal(table.column("SCALED"), data["scaled"])
        np.testing.assert_array_equal(table.column("SCALED"), [[5, 5.5], [6, 6.5], [7, 7.5]])
        np.testing.assert_array_equal(table.column("LAST").ravel(), data["LAST"])
    assert table.column("NAME").ravel().tolist() == [b"a", b"bcd", b""]
    with pytest.raises(KeyError):
        table.column("BITS")
    with pytest.raises(KeyError):
        table.column("NONE")


@pytest.mark.slow
def test_real_headers_agree_with_astropy(shared_data):
    paths = sorted(path for path in (shared_data / "lamost").glob("*/*") if ".fits" in path.name)
    assert len(paths) > 400
    differing = {}
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdul:
                for mine, theirs in zip(open_fits(path), hdul, strict=True):
                    if wrong := differing_cards(mine, theirs.header):
                        differing[path.name] = wrong
    assert differing == {}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float64"])
def test_images_of_any_type_agree_with_astropy(dtype):
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.arange(12).reshape(3, 4).astype(dtype)).writeto(buffer)
    (hdu,) = split_hdus(buffer.getvalue())
    np.testing.assert_array_equal(hdu.image(), np.arange(12).reshape(3, 4))
