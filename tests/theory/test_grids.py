"""Readers of model grids: every trap of each format, and one grid out of many files."""

import bz2
import gzip
import lzma
import re
import time

import h5py
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.theory.formats import labels_from_name
from stargap.theory.grids import (
    Grid,
    read_bt_settl_ascii,
    read_bt_settl_fits,
    read_grid,
    read_hdf5_grid,
    read_phoenix_aces,
)

ASCII = "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7"
FITS = "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.fits.gz"
ACES = "lte03000-5.00-0.5.Alpha=+0.20.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"
WAVE = "WAVE_PHOENIX-ACES-AGSS-COND-2011.fits"
LABELS = [3000.0, 5.0, -0.5, 0.2]


def fortran(value, digits=8, letter="D"):
    return f"{value:.{digits}e}".replace("e", letter)


def write_ascii(path, wavelength, flux, pack=bytes):
    log = np.log10(flux) + 8
    lines = [f"{w:13.4f}{fortran(v):>17}{fortran(v):>17}  0.0 1 Fe\n" for w, v in zip(wavelength, log, strict=True)]
    path.write_bytes(pack("".join(lines).encode()))
    return path


def write_bt_fits(path, wavelength, flux, header=(), units=("um", "W / (m2 um)"), names=("Wavelength", "Flux")):
    columns = [
        fits.Column(names[0], "D", unit=units[0], array=wavelength / 1e4),
        fits.Column(names[1], "D", unit=units[1], array=flux * 10),
    ]
    fits.BinTableHDU.from_columns(columns, fits.Header(header)).writeto(path)
    return path


def write_aces(path, wavelength, flux, header=(), wave_folder=None):
    fits.PrimaryHDU((flux * 1e8).astype(np.float32), fits.Header([*header, ("BUNIT", "erg/s/cm^2/cm")])).writeto(path)
    if wave_folder is not None:
        fits.PrimaryHDU(wavelength).writeto(wave_folder / WAVE, overwrite=True)
    return path


def write_hdf5(path, labels, wavelength, flux, names=("teff", "logg", "mh", "am"), resolution=10_000.0, **attrs):
    with h5py.File(path, "w") as file:
        file["wavelength"], file["flux"], file["labels"] = wavelength, flux, labels
        file["labels"].attrs["names"] = names
        file.attrs.update({"R": resolution, "citations": "Us", "physics": "made up", **attrs})
    return path


def black_body(wavelength, teff):
    """pi B_lambda (erg/s/cm2/A), from the constants in cgs."""
    h, c, k, cm = 6.62607015e-27, 2.99792458e10, 1.380649e-16, wavelength * 1e-8
    return np.pi * 2 * h * c**2 / cm**5 / np.expm1(h * c / (cm * k * teff)) * 1e-8


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7.xz", LABELS),
        ("lte030-5.0-0.0.BT-Settl.spec.7", [3000, 5.0, 0, 0]),
        ("lte030.5-4.5+0.5a-0.2.BT-Settl.spec.7.bz2", [3050, 4.5, 0.5, -0.2]),
        ("lte100+0.5-4.0a0.4.bt-settl.7.gz", [10_000, -0.5, -4.0, 0.4]),
        ("lte1300-3.00-0.0a+0.0.BT-Settl-giant.spec.fits", [1300, 3, 0, 0]),
        ("lte012.5-5.5-0.0a+0.0.BT-Settl.CIFIST2011_2015.spec.7", [1250, 5.5, 0, 0]),
        (ACES, LABELS),
        ("lte02300-0.00+1.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits", [2300, 0, 1, 0]),
    ],
)
def test_labels_of_names(name, labels):
    found = labels_from_name(name)
    np.testing.assert_allclose(found, labels, atol=1e-12)
    assert not np.signbit(found[found == 0]).any()


@pytest.mark.parametrize("name", ["spectrum.7", "lte30-5.0-0.0.BT-Settl.spec.7", "lte030-5.0.BT-Settl.7", WAVE])
def test_names_without_labels(name):
    with pytest.raises(UsageError, match=re.escape(name)):
        labels_from_name(name)


def test_ascii_with_every_trap(tmp_path):
    path = tmp_path / ASCII
    path.write_text(
        "# made by hand\n"
        "  6002.0000  1.30000D+01  1.2D+01  0.1 Fe 1\r\n"
        "\n"
        "6000.1234-12.3456\n"
        "1.00000D+04-1.2345D+01-3.0D+00\n"
        " 6001.5 13.5 -1D0 TiO D\n"
        "   \t\n"
        "  6002.0000  9.99999D+00\n"
        "! another comment 1.0 2.0\n"
        "  .5d3  1.25E+1\n"
        "+6003.\t-2"
    )
    labels, wavelength, flux = read_bt_settl_ascii(path)
    assert labels.tolist() == LABELS
    assert wavelength.tolist() == [500.0, 6000.1234, 6001.5, 6002.0, 6003.0, 10_000.0]
    np.testing.assert_allclose(np.log10(flux) + 8, [12.5, -12.3456, 13.5, 13.0, -2.0, -12.345], rtol=1e-12)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_compression_goes_by_content(tmp_path, pack, suffix):
    wave = np.array([6001.0, 6000.0, 6002.0])
    path = write_ascii(tmp_path / (ASCII + suffix), wave, np.array([1e5, 2e5, 3e-20]), pack)
    _, wavelength, flux = read_bt_settl_ascii(path)
    assert wavelength.tolist() == [6000.0, 6001.0, 6002.0]
    np.testing.assert_allclose(flux, [2e5, 1e5, 3e-20], rtol=1e-6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 10**10), st.floats(-300, 24), st.booleans(), st.sampled_from("DdEe"), st.booleans()),
        min_size=2,
        max_size=20,
        unique_by=lambda row: row[0],
    )
)
def test_any_fortran_number_comes_back(tmp_path_factory, rows):
    lines, expected = [], {}
    for ticks, log, fixed, letter, touching in rows:
        wave = ticks / 1e4
        first = f"{wave:.4f}" if fixed else fortran(wave, 12, letter)
        second = f"{log:.6f}" if fixed else fortran(log, 9, letter)
        gap = "" if touching and second.startswith("-") else "  "
        lines.append(f"{first}{gap}{second}{gap and '  7.0D+00 Fe'}")
        expected[float(first.lower().replace("d", "e"))] = float(second.lower().replace("d", "e"))
    path = tmp_path_factory.mktemp("any") / ASCII
    path.write_text("\n".join(lines))
    _, wavelength, flux = read_bt_settl_ascii(path)
    assert wavelength.tolist() == sorted(expected)
    np.testing.assert_allclose(flux, [10.0 ** (expected[w] - 8) for w in sorted(expected)], rtol=1e-12)


def test_many_lines_are_quick(tmp_path):
    wave = np.random.default_rng(0).permutation(np.arange(100_000) * 0.05 + 5000)
    path = write_ascii(tmp_path / ASCII, wave, black_body(wave, 3000))
    path.write_bytes(b"# one comment\n" + path.read_bytes())
    start = time.process_time()
    _, wavelength, flux = read_bt_settl_ascii(path)
    assert time.process_time() - start < 3
    np.testing.assert_allclose(flux, black_body(wavelength, 3000), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no spectrum"),
        (b"6000.0 13.0\n", "no spectrum"),
        (b"6000.0 13.0\n6001.0 13.0\n60021234\n", "line 3 .*'60021234'"),
        (b"# x\n6000.0 13.0\n\n6001.0 ********\n", "line 4"),
        (b"6000.123413.4567 1.0\n6001.0 13.0\n", "line 1"),
        (b"6000.0 13.0.1\n6001.0 13.0\n", "line 1"),
        (b"<!DOCTYPE html>\n", "line 1 .*DOCTYPE"),
        (b"6000.0 1.2e6\n6001.0 1.3e6\n", "column 2 reaches 1.3e.06"),
        (b"0.0 13.0\n6001.0 13.0\n", "positive"),
        (gzip.compress(b"6000.0 13.0\n" * 99, mtime=0)[:-12], "cannot be read"),
        (bz2.compress(b"6000.0 13.0\n" * 99)[:-12], "cannot be read"),
        (lzma.compress(b"6000.0 13.0\n" * 99)[:-12], "cannot be read"),
        (b"\x1f\x8b not gzip", "cannot be read"),
    ],
)
def test_bad_ascii_says_which_and_why(tmp_path, content, message):
    path = tmp_path / ASCII
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_bt_settl_ascii(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_all_formats_give_a_black_body_of_the_same_power(tmp_path):
    wave = np.geomspace(1500.0, 3e6, 4000)
    flux = black_body(wave, 3000.0)
    readings = [
        read_bt_settl_ascii(write_ascii(tmp_path / ASCII, wave, flux)),
        read_bt_settl_fits(write_bt_fits(tmp_path / FITS, wave, flux)),
        read_phoenix_aces(write_aces(tmp_path / ACES, wave, flux, wave_folder=tmp_path)),
    ]
    for labels, wavelength, found in readings:
        np.testing.assert_allclose(labels, LABELS)
        np.testing.assert_allclose(wavelength, wave, atol=1e-4)
        power = np.sum(0.5 * (found[1:] + found[:-1]) * np.diff(wavelength))
        assert power == pytest.approx(5.670374419e-5 * 3000.0**4, rel=1e-3)


def test_fits_obeys_stated_units_and_order(tmp_path):
    header = [("PHXTEFF", 3000), ("PHXLOGG", 5.0), ("PHXM_H", -0.5), ("PHXALPHA", 0.2)]
    columns = [
        fits.Column("FLUX", "E", unit="erg / (s cm2 Angstrom)", array=[3.0, 1.0, 9.0, 2.0]),
        fits.Column("wavelength", "D", unit="nm", array=[602.0, 600.0, 602.0, 601.0]),
    ]
    path = tmp_path / "model.fits"
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(header)), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    labels, wavelength, flux = read_bt_settl_fits(path)
    assert labels.tolist() == LABELS
    np.testing.assert_allclose(wavelength, [6000, 6010, 6020])
    assert flux.tolist() == [1.0, 2.0, 3.0]


def test_header_is_believed_where_the_name_is_silent(tmp_path):
    wave = np.array([6000.0, 6001.0])
    header = [("PHXALPHA", 0.4), ("PHXTEFF", 3000)]
    path = write_bt_fits(tmp_path / "lte030-5.0-1.0.BT-Settl.spec.fits", wave, wave, header)
    assert read_bt_settl_fits(path)[0].tolist() == [3000.0, 5.0, -1.0, 0.4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": [("PHXTEFF", 3100)]}, "PHXTEFF = 3100 in the header contradicts 3000"),
        ({"header": [("PHXALPHA", 0.0)]}, "PHXALPHA"),
        ({"header": [("PHXLOGG", "five")]}, "PHXLOGG = 'five'"),
        ({"units": ("um", "mag")}, "unit 'mag'"),
        ({"units": ("parsnip", "W / (m2 um)")}, "unit 'parsnip'"),
        ({"names": ("Wave", "Flux")}, "no column wavelength"),
        ({"wavelength": np.array([6000.0, np.nan])}, "finite"),
    ],
)
def test_bad_bt_fits_says_which_and_why(tmp_path, change, message):
    wave = np.array([6000.0, 6001.0])
    path = write_bt_fits(tmp_path / FITS, **{"wavelength": wave, "flux": wave, **change})
    with pytest.raises(UsageError, match=message) as caught:
        read_bt_settl_fits(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_fits(tmp_path):
    wave = np.linspace(6000, 7000, 5000)
    data = write_bt_fits(tmp_path / "whole.fits", wave, wave).read_bytes()
    for name, content in {
        "short": data[: len(data) // 2],
        "text": b"hello",
        "empty": b"",
        "head": data[:2880],
    }.items():
        (path := tmp_path / f"lte030-5.0-0.0.BT-Settl.{name}.fits").write_bytes(content)
        with pytest.raises(UsageError, match="not a readable FITS"):
            read_bt_settl_fits(path)
    with pytest.raises(UsageError, match="No such file"):
        read_bt_settl_fits(tmp_path / "lte040-5.0-0.0.BT-Settl.spec.fits")


@pytest.mark.parametrize("up", [0, 1, 2])
def test_aces_wavelengths_beside_or_above(tmp_path, up):
    (folder := tmp_path / "HiResFITS" / "Z-0.5").mkdir(parents=True)
    wave = np.array([6000.0, 6000.5, 6001.0])
    place = [folder, *folder.parents][up]
    path = write_aces(folder / ACES, wave, np.array([1e5, 2e5, 3e5]), wave_folder=place)
    labels, wavelength, flux = read_phoenix_aces(path)
    assert labels.tolist() == LABELS
    assert wavelength.tolist() == wave.tolist()
    np.testing.assert_allclose(flux, [1e5, 2e5, 3e5], rtol=1e-6)


def test_aces_without_wavelengths_says_where_it_looked(tmp_path):
    (folder := tmp_path / "a" / "b").mkdir(parents=True)
    path = write_aces(folder / ACES, np.arange(3.0), np.ones(3))
    with pytest.raises(UsageError, match=WAVE) as caught:
        read_phoenix_aces(path)
    assert all(str(place) in str(caught.value).split("looked in")[1] for place in (folder, tmp_path / "a", tmp_path))
    (tmp_path / "elsewhere").mkdir()
    fits.PrimaryHDU(np.arange(3.0) + 6000).writeto(waves := tmp_path / "elsewhere" / "w.fits")
    assert read_phoenix_aces(path, wavelength_path=waves)[1].tolist() == [6000.0, 6001.0, 6002.0]


def test_aces_without_an_image(tmp_path):
    fits.PrimaryHDU().writeto(tmp_path / ACES)
    with pytest.raises(UsageError, match="HDU 0 is empty"):
        read_phoenix_aces(tmp_path / ACES)


def test_fits_without_units_is_taken_as_documented(tmp_path):
    path = write_bt_fits(tmp_path / FITS, np.array([6000.0, 6001.0]), np.array([1e5, 2e5]), units=(None, None))
    _, wavelength, flux = read_bt_settl_fits(path)
    np.testing.assert_allclose(wavelength, [6000, 6001])
    np.testing.assert_allclose(flux, [1e5, 2e5])


def test_aces_of_another_length_or_unit(tmp_path):
    path = write_aces(tmp_path / ACES, np.arange(6000.0, 6004.0), np.ones(3), wave_folder=tmp_path)
    with pytest.raises(UsageError, match=r"\(3,\) fluxes do not fit the \(4,\)"):
        read_phoenix_aces(path)
    fits.setval(path, "BUNIT", value="erg/s/cm^2")
    with pytest.raises(UsageError, match=r"unit 'erg/s/cm.2'"):
        read_phoenix_aces(path)


@pytest.mark.parametrize("name", ["base", "nocah", "alt"])
def test_real_grids(shared_data, name):
    grid = read_hdf5_grid(shared_data / "grid" / f"marcs_ts_{name}.h5")
    assert grid.flux.shape == ({"base": 699, "nocah": 748, "alt": 96}[name], 10_557)
    assert grid.flux.dtype == np.float32
    assert grid.resolution == 10_000
    assert grid.name == f"marcs_ts_{name}"
    assert "Gustafsson" in grid.citation
    assert grid.attributes["vmic_kms"] == (2 if name == "alt" else 1)
    assert [grid.labels[:, 0].min(), grid.labels[:, 0].max()] == [2800, 4250 if name == "alt" else 4500]
    assert set(grid.labels[:, 3]) <= {0.0, 0.4}
    assert len(np.unique(grid.labels, axis=0)) == len(grid)
    band = (grid.wavelength > 8800) & (grid.wavelength < 8900)
    assert np.corrcoef(grid.flux[:, band].mean(axis=1), grid.labels[:, 0])[0, 1] > 0.97


def test_hdf5_labels_go_by_name(tmp_path):
    wave, flux = np.array([6000.0, 6001.0]), np.ones((2, 2), np.float32)
    rows = [[0.4, -1, 5.0, 3000], [0.0, 0, 4.5, 3100]]
    grid = read_hdf5_grid(write_hdf5(tmp_path / "g.h5", rows, wave, flux, ["am", "mh", "logg", "teff"]))
    assert grid.labels.tolist() == [[3000, 5.0, -1, 0.4], [3100, 4.5, 0, 0]]
    assert grid.attributes["physics"] == "made up"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["teff", "logg", "mh", "vmic"]}, "vmic"),
        ({"names": ["teff", "logg", "mh", "mh"]}, "names"),
        ({"vacuum": False}, "vacuum"),
        ({"wavelength": [6001.0, 6000.0]}, "increase"),
        ({"wavelength": [6000.0, 6001.0, 6002.0]}, "shapes"),
        ({"wavelength": 6000.0}, "shapes"),
        ({"flux": [[1.0, np.nan], [1.0, 1.0]]}, "finite"),
        ({"labels": [[3000.0, 5, 0, 0], [3000.0, 5, 0, 0]]}, r"more than one spectrum.*g.h5\[0\].*g.h5\[1\]"),
    ],
)
def test_foreign_hdf5_says_why(tmp_path, change, message):
    good = {
        "labels": [[3000.0, 5, 0, 0], [3100.0, 5, 0, 0]],
        "wavelength": [6000.0, 6001.0],
        "flux": np.ones((2, 2)),
    }
    path = write_hdf5(tmp_path / "g.h5", **(good | change))
    with pytest.raises(UsageError, match=message):
        read_hdf5_grid(path)


def test_hdf5_in_another_flux_unit(tmp_path):
    path = write_hdf5(tmp_path / "g.h5", [[3000.0, 5, 0, 0]], [6000.0, 6001.0], np.ones((1, 2)))
    with h5py.File(path, "a") as file:
        file["flux"].attrs["unit"] = np.bytes_("W m-2 um-1")
    with pytest.raises(UsageError, match="the flux is in W m-2 um-1, not erg"):
        read_hdf5_grid(path)


def test_damaged_hdf5(tmp_path):
    wave = np.linspace(6000, 7000, 3000)
    whole = write_hdf5(tmp_path / "whole.h5", [[3000.0, 5, 0, 0]], wave, np.ones((1, 3000))).read_bytes()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["something"] = 1.0
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("hello")
    for name in ("other", "short", "text", "missing"):
        with pytest.raises(UsageError, match=f"{name}.h5: is not a readable HDF5 grid"):
            read_hdf5_grid(tmp_path / f"{name}.h5")


@pytest.fixture
def folder(tmp_path):
    """Four formats of sloped spectra with a line, in folders, next to files that are no models."""
    wave = 5850 + np.cumsum(np.random.default_rng(2).uniform(0.05, 0.15, 33_000))
    flux = model(wave)
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "Z-0.0").mkdir(parents=True)
    shuffled = np.random.default_rng(3).permutation(wave.size)
    write_ascii(tmp_path / "a" / "lte028-5.0-0.0.BT-Settl.spec.7.xz", wave[shuffled], flux[shuffled], gzip.compress)
    write_bt_fits(tmp_path / "a" / "lte029.0-5.0-0.0a+0.0.BT-Settl.spec.fits.gz", wave, 2 * flux)
    name = "lte03000-5.00-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"
    write_aces(tmp_path / "b" / "Z-0.0" / name, wave, 3 * flux, wave_folder=tmp_path / "b")
    (tmp_path / "README.md").write_text("nothing")
    (tmp_path / "a" / ".lte030-5.0-0.0.BT-Settl.spec.7").write_text("hidden")
    return tmp_path


def model(wave, sigma=0.0):
    width = np.hypot(1.0, sigma)
    line = np.exp(-0.5 * ((wave - 7000) / width) ** 2) / width
    return 1e5 * (1 + (wave - 7000) / 4000 - 0.7 * line)


def test_folder_becomes_one_grid(folder):
    grid = read_grid(folder, resolution=2000, strict=True)
    assert grid.labels.tolist() == [[2800, 5, 0, 0], [2900, 5, 0, 0], [3000, 5, 0, 0]]
    assert grid.name == "BT-Settl + PHOENIX-ACES"
    assert "Husser" in grid.citation
    assert grid.flux.dtype == np.float32
    assert grid.wavelength[[0, -1]] == pytest.approx([5900, 9000])
    step = np.diff(np.log(grid.wavelength))
    assert np.ptp(step) < 1e-9
    assert 1 / 2000 / step[0] >= 2.5
    expected = model(grid.wavelength, 7000 / 2000 / np.sqrt(8 * np.log(2)))
    for i, factor in enumerate((1, 2, 3)):
        np.testing.assert_allclose(grid.flux[i], factor * expected, rtol=1e-3)


def test_single_files_become_a_grid(folder):
    path = next(folder.rglob("*.spec.fits.gz"))
    grid = read_grid(path, resolution=3000, wavelength_range=(6000, 8000))
    assert len(grid) == 1
    assert grid.labels[0, 0] == 2900


def test_hdf5_is_brought_down_from_its_own_resolution(tmp_path):
    wave = 5900 * np.exp(4e-5 * np.arange(10_557))
    sigma = 7000 / 10_000 / np.sqrt(8 * np.log(2))
    flux = np.stack([model(wave, sigma), 2 * model(wave, sigma)])
    path = write_hdf5(tmp_path / "g.h5", [[3000.0, 5, 0, 0], [3100.0, 5, 0, 0]], wave, flux)
    grid = read_grid(path, resolution=2000)
    assert wave[-1] < 9000
    assert 8995 < grid.wavelength[-1] <= wave[-1]
    assert grid.resolution == 2000
    assert grid.attributes == {"citations": "Us", "physics": "made up"}
    inner = slice(8, -8)
    expected = model(grid.wavelength, 5 * sigma)
    np.testing.assert_allclose(grid.flux[:, inner], np.stack([expected, 2 * expected])[:, inner], rtol=5e-4)
    for resolution in (10_000, 20_000):
        with pytest.raises(UsageError, match=f"g.h5: .*R = 10000 and cannot be brought to {resolution}"):
            read_grid(path, resolution=resolution)


def test_real_grid_at_lamost_resolution(shared_data):
    grid = read_grid(shared_data / "grid" / "marcs_ts_alt.h5", resolution=2000)
    native = read_hdf5_grid(shared_data / "grid" / "marcs_ts_alt.h5")
    assert grid.flux.shape[0] == 96
    assert np.array_equal(grid.labels, native.labels)
    for low, high in ((6100, 6200), (7600, 7900), (8700, 8850)):
        means = [g.flux[:, (g.wavelength > low) & (g.wavelength < high)].mean(axis=1) for g in (grid, native)]
        np.testing.assert_allclose(*means, rtol=0.01)


def test_unusable_files_are_counted_and_named(folder):
    (folder / "a" / "lte031-5.0-0.0.BT-Settl.spec.7").write_text("oops\n")
    write_ascii(folder / "a" / "lte032-5.0-0.0.BT-Settl.spec.7", np.arange(6000.0, 7000), np.ones(1000))
    write_ascii(folder / "a" / "lte033-5.0-0.0.BT-Settl.spec.7", np.arange(5000.0, 9500, 4), np.ones(1125))
    wave = np.arange(5000.0, 9500, 0.5)
    write_bt_fits(folder / "a" / "lte034-5.0-0.0.BT-Settl.spec.fits", wave, np.where(wave == 7000, np.nan, 1))
    with pytest.warns(UserWarning, match="4 of 7 model files") as caught:
        grid = read_grid(folder, resolution=2000)
    assert len(grid) == 3
    text = str(caught[0].message)
    assert "lte031-5.0-0.0.BT-Settl.spec.7: line 1" in text
    assert "covers 6000.0-6999.0 A, not 5900-9000 A" in text
    assert "too coarse for R = 2000" in text
    assert text.endswith("; ...")
    with pytest.raises(UsageError, match="4 of 7 model files"):
        read_grid(folder, resolution=2000, strict=True)
    with pytest.raises(UsageError, match=r"lte034.*1 of \d+ values"):
        read_grid(folder / "a" / "lte034-5.0-0.0.BT-Settl.spec.fits", resolution=2000)


def test_all_unusable_is_an_error(tmp_path):
    for teff in range(28, 41):
        (tmp_path / f"lte0{teff}-5.0-0.0.BT-Settl.spec.7").write_text("oops\n")
    with pytest.raises(UsageError, match=r"13 of 13 model files.*lte028.*lte029.*lte030.*; \.\.\.$"):
        read_grid(tmp_path, resolution=2000)


def test_repeated_labels_are_refused_with_their_names(folder):
    source = next(folder.rglob("*.spec.7.xz"))
    (folder / "copy").mkdir()
    (folder / "copy" / "lte028.0-5.0-0.0a+0.0.BT-Settl.spec.7").write_bytes(source.read_bytes())
    with pytest.raises(UsageError, match=r"1 sets of labels .*lte028-5.0-0.0.*lte028.0-5.0-0.0a"):
        read_grid(folder, resolution=2000)


def test_nothing_to_read(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_grid(tmp_path / "absent", resolution=2000)
    with pytest.raises(UsageError, match=r"no model file.*BT-Settl\.spec\.7"):
        read_grid(tmp_path, resolution=2000)


@pytest.mark.parametrize(("resolution", "ends"), [(0, (1, 2)), (np.nan, (1, 2)), (100, (2, 1)), (100, (0, 1))])
def test_senseless_requests(tmp_path, resolution, ends):
    with pytest.raises(UsageError, match="a grid cannot have"):
        read_grid(tmp_path, resolution=resolution, wavelength_range=ends)


def test_grid_refuses_shapes_that_do_not_fit():
    with pytest.raises(UsageError, match=r"grid odd .*\(2, 3\)"):
        Grid(np.arange(4.0), np.ones((2, 3)), np.ones((2, 4)), "odd")
