"""Simulated LAMOST files: what is written is what is read, byte for byte the same, and like the real ones."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import UsageError
from stargap.mock.files import write_lamost
from stargap.spectra.readers.read import read_spectrum

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")
FACTS = {
    "obsid": 740103017, "designation": "J104209.05+361241.4", "ra": 160.537733, "dec": 36.211521,
    "subclass": "dM2", "object_class": "STAR", "release": "LAMOST DR9", "plan_id": "HD103621N361936B01",
    "lmjd": 58575, "spectrograph": 3, "fiber": 17, "date_obs": "2019-04-01T13:54:00", "exposure": 1800.0,
    "fiber_mask": 64, "pipeline_z": 0.00012, "helio_rv": -17.25,
}  # fmt: skip
SNR = {"u": None, "g": 12.5, "r": 60.47, "i": 80.0, "z": None}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    flux, ivar = (rng.uniform(low, 2 * low, 3909).astype("f4").astype(float) for low in (500, 0.01))
    ivar[100:110] = 0
    return wavelength, flux, ivar


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["spec.fits", "spec.fits.gz"])
def test_reading_gives_back_the_arrays_and_the_facts(layout, name, arrays, tmp_path):
    path = write_lamost(tmp_path / name, *arrays, layout=layout, snr=SNR, **FACTS)
    assert path == tmp_path / name
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (path.suffix == ".gz")
    spectrum = read_spectrum(path)
    np.testing.assert_allclose(spectrum.wavelength, arrays[0], rtol=1e-7)
    np.testing.assert_array_equal(spectrum.flux, arrays[1])
    np.testing.assert_array_equal(spectrum.ivar, arrays[2])
    absent = {"obsid", "release", "fiber_mask"} if layout == "lamost-dr1" else set()
    for fact, value in FACTS.items():
        assert getattr(spectrum.facts, fact) == (None if fact in absent else value)
    for band, value in SNR.items():
        assert getattr(spectrum.facts, f"snr_{band}") == value
    assert (spectrum.facts.layout, spectrum.facts.snr_source) == (layout, "header")


def test_dr1_wavelengths_are_exact(arrays, tmp_path):
    path = write_lamost(tmp_path / "a.fits", *arrays, layout="lamost-dr1")
    np.testing.assert_allclose(read_spectrum(path).wavelength, arrays[0], rtol=1e-14)
    assert fits.getval(path, "COEFF0") == 3.5682
    assert fits.getval(path, "COEFF1") == 0.0001


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_left_out_reads_as_none(layout, arrays, tmp_path):
    facts = read_spectrum(write_lamost(tmp_path / "a.fits", *arrays, layout=layout)).facts
    assert (facts.obsid, facts.designation, facts.ra, facts.dec, facts.pipeline_z) == (None,) * 5
    releases = {"lamost-dr1": None, "lamost-image": "LAMOST DR7", "lamost-table": "LAMOST DR10"}
    assert (facts.release, facts.date_obs) == (releases[layout], "2017-09-04T14:00:00")


def test_snr_is_computed_from_ivar_or_left_out(arrays, tmp_path):
    wavelength, flux, ivar = arrays
    measured = read_spectrum(write_lamost(tmp_path / "a.fits", *arrays)).facts
    without = read_spectrum(write_lamost(tmp_path / "b.fits", *arrays, snr={})).facts
    band = (wavelength >= 5500) & (wavelength < 6900)
    expected = np.median(flux[band] * np.sqrt(ivar[band]))
    assert (measured.snr_source, without.snr_source) == ("header", "ivar")
    assert measured.snr_r == round(expected, 2)
    assert without.snr_r == pytest.approx(expected, rel=1e-6)
    dead = read_spectrum(write_lamost(tmp_path / "c.fits", wavelength, np.nan, ivar)).facts
    assert (dead.snr_r, dead.snr_source) == (None, "header")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compression_is_chosen_by_name_or_by_hand_and_bytes_are_reproducible(layout, arrays, tmp_path):
    one, two = (write_lamost(tmp_path / name / "a.fits.gz", *arrays, layout=layout) for name in folders(tmp_path))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[:2] == b"\x1f\x8b"
    assert one.read_bytes()[4:8] == bytes(4)
    plain = write_lamost(tmp_path / "a.fits.gz", *arrays, layout=layout, compress=False).read_bytes()
    assert plain.startswith(b"SIMPLE")
    assert len(plain) % 2880 == 0
    packed = write_lamost(tmp_path / "a.fits", *arrays, layout=layout, compress=True).read_bytes()
    assert packed == one.read_bytes()


def folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        yield name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_astropy_reads_the_same_without_a_warning(layout, arrays, tmp_path):
    path = write_lamost(tmp_path / "a.fits.gz", *arrays, layout=layout, **FACTS)
    with fits.open(path) as hdul:
        hdul[-1].verify("exception")
        if layout == "lamost-table":
            flux, ivar = hdul[1].data["FLUX"][0], hdul[1].data["IVAR"][0]
        else:
            flux, ivar = hdul[0].data[:2]
        np.testing.assert_array_equal(flux, arrays[1])
        np.testing.assert_array_equal(ivar, arrays[2])
        assert hdul[0].header["AUTHOR"] == "stargap"


def test_dr1_third_row_and_table_normalization_are_about_one(arrays, tmp_path):
    image = fits.getdata(write_lamost(tmp_path / "a.fits", *arrays, layout="lamost-dr1"))
    table = fits.getdata(write_lamost(tmp_path / "b.fits", *arrays, layout="lamost-table"), 1)
    np.testing.assert_array_equal(image[2], table["NORMALIZATION"][0])
    assert np.median(image[2]) == pytest.approx(1, abs=0.1)
    assert np.isfinite(image).all()


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(owner, step, arrays, tmp_path, monkeypatch):
    path = write_lamost(tmp_path / "a.fits", *arrays, obsid=1)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_lamost(path, *arrays, obsid=2)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_is_replaced_whole(arrays, tmp_path):
    for obsid in (1, 2):
        path = write_lamost(tmp_path / "a.fits", *arrays, obsid=obsid)
        assert read_spectrum(path).facts.obsid == obsid
    assert list(tmp_path.iterdir()) == [path]


def test_requests_that_cannot_be_met(arrays, tmp_path):
    wavelength, flux, ivar = arrays
    with pytest.raises(UsageError, match="'lamost-dr99' is not one of lamost-dr1, lamost-image, lamost-table"):
        write_lamost(tmp_path / "a.fits", *arrays, layout="lamost-dr99")
    with pytest.raises(UsageError, match="do not fit 3909 wavelengths"):
        write_lamost(tmp_path / "a.fits", wavelength, flux[:-1], ivar)
    for bad in (np.linspace(3700, 9100, 3909), np.where(wavelength < 5000, np.nan, wavelength)):
        with pytest.raises(UsageError, match="linear in log10"):
            write_lamost(tmp_path / "a.fits", bad, flux, ivar, layout="lamost-dr1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layout", "real"),
    [
        ("lamost-dr1", "formats/spec-55862-B6212_sp06-003.fits"),
        ("lamost-image", "formats/101008.fits"),
        ("lamost-table", "formats/spec-55859-F5902_sp01-001__aec1394.fits.gz"),
    ],
)
def test_cards_are_those_of_a_real_file_with_values_of_the_same_type(layout, real, arrays, tmp_path, shared_data):
    buffer = io.BytesIO(write_lamost(tmp_path / "a.fits", *arrays, layout=layout, **FACTS).read_bytes())
    with fits.open(buffer) as ours, fits.open(shared_data / "lamost" / real, memmap=False) as theirs:
        assert [hdu.name.upper() for hdu in ours] == [hdu.name.upper() for hdu in theirs]
        for mine, given in zip(ours, theirs, strict=True):
            keys = [key for key in mine.header if key not in {"COMMENT", ""}]
            assert [key for key in keys if key not in given.header] == []
            kinds = {key: type(mine.header[key]) for key in keys}
            assert kinds == {key: type(given.header[key]) for key in keys}
        assert (ours[-1].data.shape, ours[-1].data.dtype.names) == (
            (5, 3909) if layout != "lamost-table" else (1,),
            theirs[-1].data.dtype.names,
        )
