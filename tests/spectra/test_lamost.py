"""LAMOST files of every layout (ROBUSTNESS cases 3, 4 and 9), and every real one we have."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import asdict

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.mock.files import write_lamost
from stargap.spectra.readers.read import read_spectrum

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")
NO_CARD = b"NO_CARD "


def read_bytes(raw, path):
    path.write_bytes(raw)
    return read_spectrum(path)


def reason_of(raw, path):
    with pytest.raises(SpectrumError) as caught:
        read_bytes(raw, path)
    return caught.value.reason


def with_card(raw, key, text):
    """The file with the card `key` replaced; `text` starts after the ``= ``."""
    at = raw.index(key.ljust(8) + b"=")
    return raw[:at] + (key.ljust(8) + b"= " + text).ljust(80) + raw[at + 80 :]


def without_card(raw, key):
    at = raw.index(key.ljust(8) + b"=")
    return raw[:at] + NO_CARD + raw[at + 8 :]


def table_file(path, columns, rows=1, **primary):
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, f"{len(values)}E", array=[values] * rows) for name, values in columns.items()],
        name="COADD",
    )
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(primary)), table]).writeto(path)
    return path


@pytest.fixture
def columns(star):
    zero = np.zeros_like(star.flux)
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
    return dict(zip(names, (star.flux, star.ivar, star.wavelength, zero, zero), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_told_by_structure_whatever_data_v_says(layout, files, tmp_path):
    raw = files[layout]
    if layout != "lamost-dr1":
        raw = with_card(raw, b"DATA_V", b"'LAMOST DR1'")
    assert read_bytes(raw, tmp_path / "spec.fits").facts.layout == layout


@pytest.mark.parametrize("bits", [1, 64, 1 << 20])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_andmask_bit_kills_and_ormask_does_not(layout, bits, star, tmp_path):
    mask = np.zeros(star.flux.size)
    mask[10:13] = bits
    path = write_lamost(
        tmp_path / "a.fits", star.wavelength, star.flux, star.ivar, layout=layout, andmask=mask, ormask=bits
    )
    spectrum = read_spectrum(path)
    np.testing.assert_array_equal(spectrum.ivar, np.where(mask > 0, 0, star.ivar))
    np.testing.assert_array_equal(spectrum.flux, star.flux)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_pixels_get_weight_zero_and_finite_flux(layout, star, tmp_path):
    flux, ivar = star.flux.copy(), star.ivar.copy()
    flux[5:8] = np.nan, np.inf, -np.inf
    ivar[20:24] = np.nan, np.inf, -1, -9999
    spectrum = read_spectrum(write_lamost(tmp_path / "a.fits", star.wavelength, flux, ivar, layout=layout))
    bad = [3, 5, 6, 7, 20, 21, 22, 23, 40]
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == bad
    assert spectrum.flux[5:8].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(spectrum.flux[8:], star.flux[8:])
    np.testing.assert_array_equal(np.delete(spectrum.ivar, bad), np.delete(star.ivar, bad))


def test_a_star_without_a_good_pixel_is_not_refused(star, tmp_path, check_invariants):
    for flux, ivar in ((np.nan, 1), (1, np.nan), (1, 0), (0, -1)):
        spectrum = read_spectrum(write_lamost(tmp_path / "a.fits", star.wavelength, flux, ivar))
        check_invariants(spectrum)
        assert not spectrum.ivar.any()
        assert spectrum.facts.snr_r is None


def test_signalling_nans_raise_no_warning(files, star, tmp_path):
    raw = bytearray(files["lamost-image"])
    row = star.flux.size * 4
    for offset in (0, row, 3 * row):
        raw[2880 * 2 + offset : 2880 * 2 + offset + 4] = b"\x7f\x80\x00\x01"
    assert np.isnan(np.frombuffer(bytes(raw[5760:5764]), ">f4")[0])
    assert read_bytes(bytes(raw), tmp_path / "a.fits").ivar[0] == 0


def test_case_3_missing_columns_are_named(columns, tmp_path):
    for name, reason in (
        ("IVAR", "no IVAR column"),
        ("WAVELENGTH", "no WAVELENGTH or LOGLAM column"),
        ("FLUX", "no FLUX column"),
    ):
        path = table_file(tmp_path / f"{name}.fits", {key: columns[key] for key in columns if key != name})
        with pytest.raises(SpectrumError) as caught:
            read_spectrum(path)
        assert caught.value.reason == reason


def test_case_3_a_table_without_masks_uses_ivar_alone(columns, star, tmp_path):
    plain = {key: columns[key] for key in ("FLUX", "IVAR", "WAVELENGTH")}
    spectrum = read_spectrum(table_file(tmp_path / "a.fits", plain, TELESCOP="LAMOST", RA=12.5))
    np.testing.assert_array_equal(spectrum.ivar, star.ivar)
    assert (spectrum.facts.layout, spectrum.facts.ra) == ("lamost-table", 12.5)


def test_a_table_of_another_origin_is_not_taken_for_lamost_s(columns, star, tmp_path):
    plain = {key: columns[key] for key in ("FLUX", "IVAR", "WAVELENGTH")}
    spectrum = read_spectrum(table_file(tmp_path / "a.fits", plain, RA=12.5, Z=0.1))
    np.testing.assert_array_equal(spectrum.ivar, star.ivar)
    assert (spectrum.facts.layout, spectrum.facts.ra, spectrum.facts.pipeline_z) == ("table", None, None)


def test_of_several_tables_the_one_that_holds_the_spectrum_is_read(columns, star, tmp_path):
    made = [fits.Column(name, "205E", array=values[None]) for name, values in columns.items()]
    full, empty = (fits.BinTableHDU.from_columns(made), fits.BinTableHDU.from_columns(made))
    empty.data = empty.data[:0]
    fits.HDUList([fits.PrimaryHDU(), empty, full]).writeto(tmp_path / "a.fits")
    np.testing.assert_array_equal(read_spectrum(tmp_path / "a.fits").flux, star.flux)
    fits.HDUList([fits.PrimaryHDU(), full, full.copy()]).writeto(tmp_path / "b.fits")
    assert "2 tables hold spectra" in reason_of((tmp_path / "b.fits").read_bytes(), tmp_path / "c.fits")


@pytest.mark.parametrize("form", ["PE(9)", "9A", "9C"])
def test_columns_that_are_not_numbers_of_pixels_are_refused(form, columns, tmp_path):
    array = (
        np.array([np.ones(9, "f4")], dtype=object) if form[0] == "P" else np.zeros(1, "S9" if "A" in form else "9c8")
    )
    made = [fits.Column(name, "205E", array=values[None]) for name, values in columns.items() if name != "FLUX"]
    made.append(fits.Column("FLUX", form, array=array))
    fits.BinTableHDU.from_columns(made).writeto(tmp_path / "a.fits")
    with pytest.raises(SpectrumError, match="FLUX does not hold one number per pixel"):
        read_spectrum(tmp_path / "a.fits")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_case_3_images_of_another_number_of_rows(rows, star, tmp_path):
    fits.PrimaryHDU(np.tile(star.flux.astype("f4"), (rows, 1))).writeto(tmp_path / "a.fits")
    with pytest.raises(SpectrumError, match="does not have the 5 rows"):
        read_spectrum(tmp_path / "a.fits")


def test_case_3_wavelength_row_or_its_cards_missing(files, star, tmp_path):
    reason = "no wavelength row, nor COEFF0 and COEFF1 in its place"
    for key in (b"COEFF0", b"COEFF1"):
        assert reason_of(without_card(files["lamost-dr1"], key), tmp_path / "a.fits") == reason
    raw = bytearray(files["lamost-image"])
    size = star.flux.size * 4
    start = 2880 * 2 + 2 * size
    np.testing.assert_array_equal(np.frombuffer(raw[start : start + size], ">f4"), star.wavelength)
    raw[start : start + size] = bytes(size)
    assert reason_of(bytes(raw), tmp_path / "a.fits") == reason


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_3_missing_header_cards_are_none(layout, files, star, tmp_path):
    raw = files[layout]
    for key in b"OBSID DESIG RA DEC DATA_V SUBCLASS CLASS PLANID LMJD SPID FIBERID DATE-OBS EXPTIME Z".split():
        if key.ljust(8) + b"=" in raw:
            raw = without_card(raw, key)
    facts = read_bytes(raw, tmp_path / "a.fits").facts
    kept = {"path", "layout", "snr_source", "helio_rv", "fiber_mask", *(f"snr_{band}" for band in "ugriz")}
    given = {name for name, value in asdict(facts).items() if value is not None}
    assert given <= kept
    assert facts.snr_source == "header"


def test_case_3_without_snr_cards_it_comes_from_ivar(star, tmp_path):
    flux, ivar = np.full(star.flux.size, 10.0), np.full(star.flux.size, 4.0)
    ivar[star.wavelength > 8200] = 0
    facts = read_spectrum(write_lamost(tmp_path / "a.fits", star.wavelength, flux, ivar, snr={})).facts
    assert facts.snr_source == "ivar"
    assert (facts.snr_u, facts.snr_r, facts.snr_i, facts.snr_z) == (None, 20.0, 20.0, None)


@pytest.mark.parametrize(
    "text",
    [b"-9999", b"-9999.0", b"'-9999'", b"'NULL'", b"' '", b"''", b"", b"NaN", b"-999.0", b"1E999", b"?!"],
)
def test_sentinels_are_none(text, files, tmp_path):
    raw = files["lamost-image"]
    for key in b"OBSID DESIG RA DEC SUBCLASS LMJD SNRR SNRI FIBERMAS EXPTIME HELIO_RV Z".split():
        raw = with_card(raw, key, text)
    facts = read_bytes(raw, tmp_path / "a.fits").facts
    gone = (
        "obsid",
        "designation",
        "ra",
        "dec",
        "subclass",
        "lmjd",
        "snr_r",
        "snr_i",
        "fiber_mask",
        "exposure",
    )
    for name in (*gone, "helio_rv", "pipeline_z"):
        assert getattr(facts, name) is None
    assert facts.snr_source == "header"


def test_values_of_another_type_are_converted_or_none(files, tmp_path):
    raw = files["lamost-image"]
    cards = {
        b"OBSID": b"'101001'",
        b"FIBERID": b"126.0",
        b"PLANID": b"4055",
        b"RA": b"361.5",
        b"LMJD": b"55859.5",
    }
    for key, text in {**cards, b"FIBERMAS": b"-1", b"DEC": b"T"}.items():
        raw = with_card(raw, key, text)
    facts = read_bytes(raw, tmp_path / "a.fits").facts
    assert (facts.obsid, facts.fiber, facts.plan_id) == (101001, 126, "4055")
    assert (facts.ra, facts.dec, facts.lmjd, facts.fiber_mask) == (None, None, None, None)
    assert read_bytes(with_card(raw, b"OBSID", b"9" * 30), tmp_path / "b.fits").facts.obsid is None


@pytest.mark.parametrize(
    ("text", "subclass"),
    [
        (b"'        '", None),
        (b"", None),
        (b"'M\xe92     '", "M?2"),
        ("'dM2é'".encode(), "dM2??"),
        (b"'M\x002'", "M?2"),
        (b"'Non     '", "Non"),
        (b"'sdM1''s'", "sdM1's"),
        (b"'M2", None),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_9_subclass_blank_or_not_ascii(layout, text, subclass, files, star, tmp_path):
    spectrum = read_bytes(with_card(files[layout], b"SUBCLASS", text), tmp_path / "a.fits")
    assert spectrum.facts.subclass == subclass
    np.testing.assert_array_equal(spectrum.flux, star.flux)


@pytest.mark.parametrize("layout", ["lamost-image", "lamost-table"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_case_4_reversed_and_unsorted_wavelengths_are_sorted(layout, shuffle, star, tmp_path, check_invariants):
    order = np.arange(star.flux.size)[::-1]
    if shuffle:
        order = np.random.default_rng(0).permutation(order)
    arrays = (star.wavelength[order], star.flux[order], star.ivar[order])
    spectrum = read_spectrum(write_lamost(tmp_path / "a.fits", *arrays, layout=layout))
    check_invariants(spectrum)
    np.testing.assert_array_equal(spectrum.wavelength, star.wavelength)
    np.testing.assert_array_equal(spectrum.flux, star.flux)
    np.testing.assert_array_equal(spectrum.ivar, star.ivar)


def test_case_4_masks_are_sorted_with_their_pixels(star, tmp_path):
    mask = np.arange(star.flux.size) == 7
    arrays = (array[::-1] for array in (star.wavelength, star.flux, star.ivar))
    spectrum = read_spectrum(write_lamost(tmp_path / "a.fits", *arrays, andmask=mask[::-1]))
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [3, 7, 40]


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (10, 6000.0, None),
        (slice(10, 12), 6000.0, "wavelengths repeat"),
        (slice(None), 6000.0, "wavelengths repeat"),
        (10, np.nan, "wavelengths are not finite and positive"),
        (10, np.inf, "wavelengths are not finite and positive"),
        (10, -5.0, "wavelengths are not finite and positive"),
        (10, 0.0, "wavelengths are not finite and positive"),
    ],
)
def test_case_4_repeated_and_impossible_wavelengths_are_refused(at, value, reason, star, tmp_path):
    wavelength = star.wavelength.copy()
    wavelength[at] = value
    path = write_lamost(tmp_path / "a.fits", wavelength, star.flux, star.ivar)
    if reason is None:
        assert read_spectrum(path).wavelength.size == wavelength.size
    else:
        assert reason_of(path.read_bytes(), path) == reason


@pytest.mark.parametrize(
    ("low", "high", "good"),
    [(6000, 8900, True), (8350, 9100, True), (5700, 6500, True), (8550, 9100, False), (5700, 6400, False)],
)
def test_case_4_range_and_other_lengths(low, high, good, star, tmp_path):
    part = (star.wavelength >= low) & (star.wavelength <= high)
    path = write_lamost(tmp_path / "a.fits", star.wavelength[part], star.flux[part], star.ivar[part])
    if good:
        assert read_spectrum(path).flux.size == part.sum()
    else:
        assert reason_of(path.read_bytes(), path) == "covers less than 450 A of 6000-8900 A"


def test_case_4_unequal_lengths_no_pixels_and_two_spectra(columns, files, star, tmp_path):
    for name in ("IVAR", "WAVELENGTH", "ANDMASK"):
        path = table_file(tmp_path / f"{name}.fits", {**columns, name: columns[name][:-1]})
        with pytest.raises(SpectrumError, match="differ in length"):
            read_spectrum(path)
    empty = files["lamost-table"].replace(b"'205E    '", b"'0E      '")
    at = empty.index(b"BINTABLE")
    empty = empty[:at] + with_card(empty[at:], b"NAXIS1", b"0")
    assert reason_of(empty, tmp_path / "empty.fits") == "the spectrum has no pixels"
    with pytest.raises(SpectrumError, match="more than one spectrum"):
        read_spectrum(table_file(tmp_path / "two.fits", columns, rows=2))
    turned = [fits.Column(name.lower(), "E", array=values) for name, values in columns.items()]
    fits.BinTableHDU.from_columns(turned).writeto(tmp_path / "turned.fits")
    np.testing.assert_array_equal(read_spectrum(tmp_path / "turned.fits").flux, star.flux)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_air_and_geocentric_wavelengths_are_refused(layout, files, tmp_path):
    for key, reason in ((b"VACUUM", "in air"), (b"HELIO", "not heliocentric")):
        assert reason in reason_of(with_card(files[layout], key, b"F"), tmp_path / "a.fits")


def test_sdss_spspec_images_are_not_taken_for_dr1(files, tmp_path):
    raw = with_card(files["lamost-dr1"], b"TELESCOP", b"'SDSS 2.5-M'")
    assert "spSpec" in reason_of(raw, tmp_path / "a.fits")


def index_of(folder):
    with (folder / "lamost" / "index.csv").open() as stream:
        return list(csv.DictReader(stream))


def number(text):
    return float(text) if text and float(text) != -9999 else None


def astropy_arrays(path):
    with fits.open(path, memmap=False) as hdul:
        header, data = hdul[0].header, hdul[0].data
        if data is None:
            row = hdul[1].data[0]
            return [np.array(row[name], float) for name in ("WAVELENGTH", "FLUX", "IVAR")], header
        wavelength = data[2].astype(float)
        if "EXTNAME" not in header:
            wavelength = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(wavelength.size))
        return [wavelength, data[0].astype(float), data[1].astype(float)], header


@pytest.mark.parametrize("folder", ["cool", "formats", "repeats"])
def test_every_real_file_is_read_as_indexed(folder, shared_data, check_invariants):
    rows = [row for row in index_of(shared_data) if row["folder"] == folder]
    assert len(rows) == {"cool": 91, "formats": 161, "repeats": 220}[folder]
    layouts = {
        "IMG5": "lamost-image",
        "COADD": "lamost-table",
        "IMG5-subcontinuum(no wave row)": "lamost-dr1",
    }
    for row in rows:
        spectrum = read_spectrum(shared_data / "lamost" / folder / row["file"])
        check_invariants(spectrum)
        facts, wavelength = spectrum.facts, spectrum.wavelength
        fitted = (wavelength >= 6000) & (wavelength <= 8900)
        assert facts.layout == layouts[row["fmt"]]
        assert facts.release == (row["data_v"] or None)
        assert facts.obsid == (int(row["obsid"]) if row["obsid"] and int(row["obsid"]) > 0 else None)
        assert facts.subclass == row["subclass"]
        assert facts.ra == pytest.approx(float(row["ra"]), abs=1e-6)
        assert facts.dec == pytest.approx(float(row["dec"]), abs=1e-6)
        assert wavelength.size == int(row["n"])
        assert wavelength[0] == pytest.approx(float(row["wmin"]), abs=0.06)
        assert wavelength[-1] == pytest.approx(float(row["wmax"]), abs=0.06)
        assert np.mean(spectrum.ivar[fitted] == 0) == pytest.approx(float(row["badfrac_6000_8900"]), abs=6e-4)
        assert facts.snr_source == "header"
        assert facts.designation.startswith("J")
        if row["snrr"]:
            assert (facts.snr_r, facts.snr_i) == (number(row["snrr"]), number(row["snri"]))
        else:
            assert facts.snr_r <= 99


@pytest.mark.parametrize("folder", ["cool", "formats"])
def test_every_real_array_is_what_astropy_reads(folder, shared_data):
    for row in index_of(shared_data):
        if row["folder"] == folder:
            path = shared_data / "lamost" / folder / row["file"]
            spectrum = read_spectrum(path)
            (wavelength, flux, ivar), _ = astropy_arrays(path)
            np.testing.assert_allclose(spectrum.wavelength, wavelength, rtol=1e-15)
            np.testing.assert_array_equal(spectrum.flux, flux)
            np.testing.assert_array_equal(spectrum.ivar, ivar)


def test_obsid_101001_is_the_same_in_dr7_and_dr9(shared_data, same_arrays):
    found = {}
    for row in index_of(shared_data):
        if row["obsid"] == "101001":
            spectrum = read_spectrum(shared_data / "lamost" / row["folder"] / row["file"])
            found[spectrum.facts.layout] = spectrum
    image, table = found["lamost-image"], found["lamost-table"]
    assert (image.facts.release, table.facts.release) == ("LAMOST DR7", "LAMOST DR9")
    assert same_arrays(image, table)


def test_snr_from_ivar_meets_the_snr_cards(shared_data, tmp_path):
    ratios = {band: [] for band in "ugriz"}
    for row in index_of(shared_data):
        if row["folder"] == "formats" and row["data_v"] in {"LAMOST DR7", "LAMOST DR10"}:
            path = shared_data / "lamost" / "formats" / row["file"]
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            for band in b"UGRIZ":
                raw = without_card(raw, b"SNR" + bytes([band]))
            given, computed = read_spectrum(path).facts, read_bytes(raw, tmp_path / "a.fits").facts
            assert (given.snr_source, computed.snr_source) == ("header", "ivar")
            for band in "ugriz":
                expected = getattr(given, f"snr_{band}")
                if expected is not None and expected > 5:
                    ratios[band].append(getattr(computed, f"snr_{band}") / expected)
    for values in ratios.values():
        assert len(values) > 50
        assert np.median(values) == pytest.approx(1, abs=0.01)
        assert np.mean(np.abs(np.array(values) - 1) < 0.05) > 0.95


def test_bytes_of_the_mock_are_where_the_tests_above_expect_them(files):
    with fits.open(io.BytesIO(files["lamost-image"])) as hdul:
        assert hdul[0].fileinfo()["datLoc"] == 2 * 2880
