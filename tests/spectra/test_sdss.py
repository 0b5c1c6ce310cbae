"""SDSS ``spec`` files, made with astropy in the forms that the releases use."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.readers.sdss import KILLING_BITS

HEADER = {
    "PLATE": 4055, "MJD": 55359, "FIBERID": 44, "PLUG_RA": 233.3, "PLUG_DEC": 0.7,
    "EXPTIME": 3600.0, "RUN2D": "v5_13_2", "DATE-OBS": "2010-06-12", "HELIO_RV": -17.5,
}  # fmt: skip


@pytest.fixture
def columns(star):
    loglam = np.log10(star.wavelength).astype("f4")
    masks = np.zeros(star.flux.size, "i4")
    return {"flux": star.flux, "loglam": loglam, "ivar": star.ivar, "and_mask": masks, "or_mask": masks + 1}


def spall(**changes):
    values = {
        "SURVEY": ("6A", ["boss"]),
        "PLATE": ("J", [4055]),
        "CLASS": ("6A", ["STAR"]),
        "SUBCLASS": ("21A", ["M3"]),
        "Z": ("E", [np.float32(1e-4)]),
        "SN_MEDIAN": ("5E", [[0.5, 2.5, 10.5, 20.5, 15.5]]),
        "SPECTROGRAPHID": ("I", [1]),
        "TILES": ("1PE()", [np.zeros(3, "f4")]),
    } | changes
    made = [fits.Column(name, form, array=array) for name, (form, array) in values.items() if form]
    return fits.BinTableHDU.from_columns(made, name="SPALL")


def write(path, columns, *others, header=HEADER, upper=False):
    made = [
        fits.Column(name.upper() if upper else name, "J" if "mask" in name else "E", array=values)
        for name, values in columns.items()
    ]
    table = fits.BinTableHDU.from_columns(made, name="COADD")
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(header)), table, *others]).writeto(path)
    return path


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_and_facts(columns, star, upper, packed, tmp_path, check_invariants):
    path = write(tmp_path / "spec-4055-55359-0044.fits", columns, spall(), upper=upper)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    spectrum = read_spectrum(path)
    check_invariants(spectrum)
    np.testing.assert_allclose(spectrum.wavelength, star.wavelength, rtol=1e-6)
    np.testing.assert_array_equal(spectrum.wavelength, 10 ** columns["loglam"].astype(float))
    np.testing.assert_array_equal(spectrum.flux, star.flux)
    np.testing.assert_array_equal(spectrum.ivar, star.ivar)
    facts = spectrum.facts
    assert (facts.layout, facts.release, facts.designation) == ("sdss", "v5_13_2", "spec-4055-55359-0044")
    assert (facts.plan_id, facts.lmjd, facts.fiber, facts.obsid) == ("4055", 55359, 44, None)
    assert (facts.ra, facts.dec, facts.exposure, facts.helio_rv) == (233.3, 0.7, 3600.0, -17.5)
    assert (facts.object_class, facts.subclass, facts.spectrograph) == ("STAR", "M3", 1)
    assert facts.pipeline_z == pytest.approx(1e-4)
    assert (facts.snr_u, facts.snr_g, facts.snr_r, facts.snr_i, facts.snr_z) == (0.5, 2.5, 10.5, 20.5, 15.5)
    assert (facts.snr_source, facts.date_obs, facts.path) == ("header", "2010-06-12", str(path))


def test_facts_missing_from_the_header_come_from_spall(columns, tmp_path):
    changes = {
        "MJD": ("J", [59630]),
        "FIBERID": ("J", [7]),
        "PLUG_RA": ("D", [12.5]),
        "PLUG_DEC": ("D", [-3.5]),
    }
    path = write(tmp_path / "a.fits", columns, spall(RUN2D=("7A", ["v6_1_3"]), **changes), header={})
    facts = read_spectrum(path).facts
    assert (facts.designation, facts.ra, facts.dec) == ("spec-4055-59630-0007", 12.5, -3.5)
    assert (facts.release, facts.exposure, facts.date_obs) == ("v6_1_3", None, None)


def test_without_spall_snr_comes_from_ivar_and_the_telescope_is_not_taken_for_the_star(columns, tmp_path):
    columns |= {"flux": np.full(205, 6.0), "ivar": np.full(205, 4.0)}
    facts = read_spectrum(write(tmp_path / "a.fits", columns, header={"RA": 1.5, "DEC": 2.5, "PLATEID": 266})).facts
    assert (facts.snr_source, facts.snr_r, facts.snr_g) == ("ivar", 12.0, None)
    assert (facts.ra, facts.dec, facts.plan_id, facts.designation) == (None, None, "266", None)
    assert (facts.subclass, facts.object_class, facts.pipeline_z) == (None, None, None)


POSITION = {name: ("D", [value]) for name, value in {"PLUG_RA": 10.0, "PLUG_DEC": -1.0}.items()}
CATALOGUE = {name: ("D", [value]) for name, value in {"RACAT": 20.0, "DECCAT": -2.0}.items()}
FIBRE = {name: ("D", [value]) for name, value in {"FIBER_RA": 30.0, "FIBER_DEC": -3.0}.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (POSITION | CATALOGUE | FIBRE, (10.0, -1.0)),
        (CATALOGUE | FIBRE, (20.0, -2.0)),
        (FIBRE, (30.0, -3.0)),
        ({"RACAT": ("D", [20.0])} | FIBRE, (30.0, -3.0)),
        ({"RACAT": ("D", [-999.0]), "DECCAT": ("D", [-999.0])}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_the_position_is_that_of_the_fibre_or_the_catalogue(changes, expected, columns, tmp_path):
    header = {"RA": 128.9, "DEC": -0.96, "RADEG": 128.9, "FIELDID": 15010, "MJD": 59146}
    ids = {"CATALOGID": ("K", [4375787839]), "PLATE": (None, None)}
    facts = read_spectrum(write(tmp_path / "a.fits", columns, spall(**changes, **ids), header=header)).facts
    assert (facts.ra, facts.dec) == expected
    assert (facts.designation, facts.fiber) == ("spec-015010-59146-4375787839", None)


@pytest.mark.parametrize("first_has_rows", [True, False])
def test_the_table_that_has_rows_is_read(first_has_rows, columns, star, tmp_path):
    path = write(tmp_path / "a.fits", columns, spall())
    with fits.open(path) as hdul:
        empty = fits.BinTableHDU.from_columns(hdul[1].columns, nrows=0, name="EMPTY")
        empty.data = hdul[1].data[:0]
        order = [hdul[1], empty] if first_has_rows else [empty, hdul[1]]
        fits.HDUList([hdul[0], *order, hdul[2]]).writeto(tmp_path / "b.fits")
    np.testing.assert_array_equal(read_spectrum(tmp_path / "b.fits").flux, star.flux)


@pytest.mark.parametrize("changes", [{"SN_MEDIAN": (None, None)}, {"SN_MEDIAN": ("E", [3.0])}])
def test_snr_comes_from_ivar_where_spall_has_no_five_bands(changes, columns, tmp_path):
    facts = read_spectrum(write(tmp_path / "a.fits", columns, spall(**changes))).facts
    assert facts.snr_source == "ivar"
    assert facts.subclass == "M3"


@pytest.mark.parametrize("bit", range(31))
def test_only_the_named_bits_of_and_mask_kill(bit, columns, star, tmp_path):
    columns["and_mask"] = np.where(np.arange(205) == 9, 1 << bit, 0)
    columns["or_mask"] = np.full(205, 1 << bit)
    spectrum = read_spectrum(write(tmp_path / "a.fits", columns))
    expected = star.ivar.copy()
    if bit in {18, 22, 23}:
        expected[9] = 0
    np.testing.assert_array_equal(spectrum.ivar, expected)
    assert set(KILLING_BITS) == {18, 22, 23}


def test_bad_numbers_get_weight_zero(columns, star, tmp_path, check_invariants):
    columns["flux"] = np.where(np.arange(205) == 2, np.nan, star.flux)
    columns["ivar"] = np.where(np.arange(205) == 5, np.inf, star.ivar)
    spectrum = read_spectrum(write(tmp_path / "a.fits", columns))
    check_invariants(spectrum)
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [2, 3, 5, 40]


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("ivar", "no IVAR column"), ("flux", "no FLUX column"), ("loglam", "no WAVELENGTH or LOGLAM column")],
)
def test_case_3_missing_columns_are_named(missing, reason, columns, tmp_path):
    del columns[missing]
    with pytest.raises(SpectrumError) as caught:
        read_spectrum(write(tmp_path / "a.fits", columns, spall()))
    assert caught.value.reason == reason


def test_without_and_mask_only_ivar_counts(columns, star, tmp_path):
    del columns["and_mask"]
    np.testing.assert_array_equal(read_spectrum(write(tmp_path / "a.fits", columns)).ivar, star.ivar)


def test_case_4_impossible_loglam_and_other_ranges(columns, tmp_path):
    for number, (loglam, reason) in enumerate(
        [
            (np.full(205, 400.0), "wavelengths are not finite and positive"),
            (np.full(205, np.nan), "wavelengths are not finite and positive"),
            (np.full(205, 3.8), "wavelengths repeat"),
            (columns["loglam"] - 0.2, "covers less than 450 A of 6000-8900 A"),
        ]
    ):
        with pytest.raises(SpectrumError) as caught:
            read_spectrum(write(tmp_path / f"{number}.fits", columns | {"loglam": loglam}))
        assert caught.value.reason == reason


def test_single_exposures_of_a_full_file_are_not_taken_for_medium_resolution(columns, star, tmp_path):
    exposure = fits.BinTableHDU.from_columns(
        [fits.Column(name, "E", array=np.ones(9)) for name in ("flux", "loglam", "ivar")],
        name="B1-00117366-00117357-00117358",
    )
    spectrum = read_spectrum(write(tmp_path / "a.fits", columns, spall(), exposure))
    np.testing.assert_array_equal(spectrum.flux, star.flux)


@pytest.mark.parametrize("cut", [3000, 9000])
def test_case_1_cut_files(cut, columns, tmp_path):
    path = write(tmp_path / "a.fits", columns, spall())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SpectrumError, match="cut short"):
        read_spectrum(path)
