"""What `stargap.measure` returns: an astropy table, with the spectra and models where they are asked for."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table, vstack

import stargap
from stargap.errors import UsageError
from stargap.mock.files import write_lamost
from stargap.pixels import STARGAP
from stargap.spectra.modelled import Masked, ModelledSpectra, write_spectra
from stargap.tables.columns import MEASURED
from stargap.tables.read import read_table
from stargap.tables.validate import validate_file


@pytest.fixture(scope="module")
def folder(simulate, tmp_path_factory):
    stars = simulate(3, seed=51, snr=40.0, bad_pixels=False)
    folder = tmp_path_factory.mktemp("spectra")
    for row in range(3):
        write_lamost(folder / f"spec-{row}.fits", stars.wavelength, stars.flux[row], stars.ivar[row], obsid=row + 1)
    (folder / "zz-broken.fits").write_bytes(b"<html>404</html>")
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return stargap.measure(folder, model="emulator", spectra=True, progress=False)


def test_it_is_a_table_of_astropy_with_units_descriptions_and_masks(table):
    assert isinstance(table, Table)
    assert table.colnames == [column.name for column in MEASURED]
    for column in MEASURED:
        if column.dtype != "str":
            values = table[column.name]
            assert (values.unit or units.one) == units.Unit(column.unit)
            assert values.description == column.description
            null = column.is_null(np.asarray(values))
            np.testing.assert_array_equal(np.ma.getmaskarray(values), null)
            assert np.ma.isMaskedArray(values) == null.any()
    assert table["teff"].mask.tolist() == [False, False, False, True]
    assert np.isnan(table.filled()["teff"][3])
    assert table.filled()["lmjd"][3] == -9999


def test_plain_arithmetic_is_as_it_was_and_quantities_are_one_call_away(table):
    assert (table["teff"] - 3500.0)[0] == np.asarray(table["teff"])[0] - 3500.0
    assert float(table["teff"][0]) == np.asarray(table["teff"])[0]
    whole = stargap.Measurements.of({"teff": np.asarray(table["teff"])[:3]}, {})["teff"]
    assert np.median(whole) == np.median(np.asarray(whole)), "without a warning"
    assert (whole - 3.0 * units.kK)[0].to_value(units.K) == pytest.approx(whole[0] - 3000)
    quantities = QTable(table)
    assert quantities["teff"].to(units.kK).unmasked[0].value == pytest.approx(float(table["teff"][0]) / 1000)
    assert bool(quantities["rv"].mask[3])


def test_a_data_frame_has_its_nulls_and_exact_identifiers(table):
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = table.to_pandas()
    assert list(frame.columns) == table.colnames
    assert frame["obsid"].dtype == "Int64"
    assert frame["obsid"].isna().tolist() == [False, False, False, True]
    assert frame["teff"].isna().tolist() == [False, False, False, True]
    assert frame["teff"][:3].tolist() == np.asarray(table["teff"])[:3].tolist()
    wide = stargap.Measurements.of({"gaia_source_id": np.array([2**60 + 1, -9999])}, {}).to_pandas()
    assert wide["gaia_source_id"][0] == 2**60 + 1


def test_meta_says_what_made_it(table):
    assert table.meta["creator"] == f"stargap {stargap.__version__}"
    assert "payne v1" in table.meta["model"]
    assert "spectra" not in table.provenance


def test_rows_copies_and_pickles_keep_what_they_are(table):
    chosen = table[table["use_teff"] == 1]
    assert isinstance(chosen, stargap.Measurements)
    assert len(chosen) == 3
    for other in (chosen, Table(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert other.meta["model"] == table.meta["model"]
    assert len(vstack([table[:1], table[2:]], metadata_conflicts="silent")) == 3


def test_what_was_added_is_written_and_what_was_removed_is_not(table, tmp_path):
    mine = table[:2]
    mine["mine"] = np.array([1.5, np.nan]) * units.km / units.s
    mine.remove_columns(["fiber", "spectrograph"])
    for suffix in (".fits", ".parquet", ".vot", ".csv", ".ecsv"):
        mine.write(tmp_path / f"t{suffix}")
        back = read_table(tmp_path / f"t{suffix}")
        assert back["mine"][0] == 1.5
        assert "fiber" not in back
    assert fits.getheader(tmp_path / "t.fits", 1)["TTYPE*"][-1] == "mine"
    table.write(tmp_path / "whole.fits")
    assert validate_file(tmp_path / "whole.fits") == []
    table.write(tmp_path / "t.html", format="ascii.html")
    assert "<table>" in (tmp_path / "t.html").read_text()
    mine["not a name!"] = 1
    with pytest.raises(UsageError, match="not a name"):
        mine.write(tmp_path / "t.fits")


@pytest.mark.parametrize("given", ["folder", "glob", "list", "path"])
def test_inputs_are_as_on_the_command_line(folder, table, given, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(str(folder / f"spec-{row}.fits") for row in range(2)))
    inputs = {
        "folder": str(folder),
        "glob": str(folder / "spec-[01].fits"),
        "list": f"@{tmp_path / 'list.txt'}",
        "path": folder / "spec-0.fits",
    }
    found = stargap.measure(inputs[given], model="emulator", progress=False)
    assert found["obsid"].tolist() == table["obsid"].tolist()[: len(found)]
    assert len(found) == {"folder": 4, "glob": 2, "list": 2, "path": 1}[given]


def test_a_folder_or_glob_without_spectra_is_refused(tmp_path):
    for given in (tmp_path, str(tmp_path / "*.fits")):
        with pytest.raises(UsageError, match=r"no FITS file|no file matches"):
            stargap.measure(given)


# --- spectra and models -----------------------------------------------------------------------------------------


def test_spectra_and_models_are_those_of_the_fit(table, folder):
    spectra = table.spectra
    assert spectra.spectrum_id.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(spectra.wavelength, STARGAP.wavelength)
    used = spectra.mask == 0
    assert used[:3].mean() > 0.7
    assert not used[3].any()
    chi = (spectra.residual / spectra.error)[:3][used[:3]]
    assert 0.5 < np.median(np.abs(chi)) / 0.6745 < 1.2, "linear resampling makes pixels a little smoother than noise"
    assert np.isnan(spectra.residual[~used]).all()
    # the flux is the file's own, in its unit, shifted to rest
    one = stargap.read_spectrum(folder / "spec-0.fits")
    doppler = 1 + float(table["rv"][0]) / 299792.458
    np.testing.assert_allclose(
        spectra.flux[0][used[0]], np.interp(spectra.wavelength * doppler, one.wavelength, one.flux)[used[0]], rtol=1e-4
    )
    halpha = np.abs(spectra.wavelength - 6564.6) < 10
    assert (spectra.mask[0][halpha] == Masked.WINDOW).all()
    assert np.isfinite(spectra.flux[0][halpha]).all()


def test_values_do_not_depend_on_spectra_and_workers(table, folder, differences, tmp_path):
    plain = stargap.measure(folder, model="emulator", progress=False)
    assert differences(plain.columns, table.columns) == []
    with pytest.raises(UsageError, match="spectra=True"):
        _ = plain.spectra
    written = stargap.measure(folder, model="emulator", spectra=tmp_path / "s.parquet", progress=False)
    assert differences(written.columns, table.columns) == []
    assert pq.read_table(tmp_path / "s.parquet")["flux"].to_pylist()[1] == table.spectra.flux[1].tolist()


def test_files_hold_what_the_table_holds(table, tmp_path):
    table.spectra.write(tmp_path / "s.fits")
    table.spectra.write(tmp_path / "s.parquet")
    with fits.open(tmp_path / "s.fits", checksum=True) as hdul:
        assert [hdu.header["SPECID"] for hdu in hdul[1:]] == [0, 1, 2, 3]
        star, header = hdul[2].data, hdul[2].header
        for name in ("flux", "error", "continuum", "model", "mask", "residual"):
            np.testing.assert_array_equal(star[name], getattr(table.spectra, name)[1])
    assert header["TUNIT1"] == "Angstrom"
    assert header["TUTYP2"] == "spec:Data.FluxAxis.Value"
    row = pq.read_table(tmp_path / "s.parquet").to_pylist()[2]
    assert row["spectrum_id"] == 2
    np.testing.assert_array_equal(np.array(row["model"], dtype=np.float32), table.spectra.model[2])
    for name in ("s.txt", "nowhere/s.fits"):
        with pytest.raises(UsageError, match="cannot write"):
            table.spectra.write(tmp_path / name)


def test_specutils_reads_the_spectra(table, tmp_path):
    specutils = pytest.importorskip("specutils", reason="specutils is not installed")
    table.spectra.write(tmp_path / "s.fits")
    read = specutils.Spectrum.read(
        tmp_path / "s.fits", hdu=1, format="tabular-fits",
        column_mapping={
            "wavelength": ("spectral_axis", units.AA),
            "flux": ("flux", units.dimensionless_unscaled),
            "error": ("uncertainty", units.dimensionless_unscaled),
        },
    )  # fmt: skip
    np.testing.assert_array_equal(read.flux.value, table.spectra.flux[0])
    assert read.spectral_axis.unit == units.AA


def test_one_spectrum_by_its_number(table):
    one = table.spectra.of(2)
    assert len(one) == 1
    np.testing.assert_array_equal(one.flux[0], table.spectra.flux[2])
    with pytest.raises(UsageError, match="no spectrum 9"):
        table.spectra.of(9)
    again = ModelledSpectra.together([table.spectra[:1], table.spectra[1:]])
    np.testing.assert_array_equal(again.mask, table.spectra.mask)


def test_an_interrupted_file_is_not_there(table, tmp_path):
    def parts():
        yield table.spectra
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_spectra(parts(), tmp_path / "s.fits")
    assert list(tmp_path.iterdir()) == []


# --- pictures ---------------------------------------------------------------------------------------------------


def test_plot_draws_any_row(table):
    chosen = table[np.array([2, 3])]
    figure = stargap.plot(chosen, 0)
    assert "spec-2.fits" in figure.get_suptitle()
    normalised = figure.axes[1].lines
    np.testing.assert_array_equal(
        np.isnan(normalised[1].get_ydata()), chosen.spectra.mask[2] != 0, "the model only where the fit looked"
    )
    assert figure._repr_png_()[:4] == b"\x89PNG", "a notebook shows it"
    assert "could not be read" in stargap.plot(chosen, -1).get_suptitle()
    for row in (2, -3):
        with pytest.raises(UsageError, match=f"there is no row {row}: the table has 2"):
            stargap.plot(chosen, row)
