"""From paths and arrays to a table: finding files, worker processes, failures, pictures, models."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import stargap
from stargap.errors import ModelError, UsageError
from stargap.figures.fit import fit_figure
from stargap.flags import Flag
from stargap.measurement.files import measure as measure_by_default
from stargap.measurement.inputs import read_zero_points
from stargap.measurement.measurements import Measurements
from stargap.mock.files import write_lamost
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import find_spectra
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.tables.columns import MEASURED
from stargap.tables.conform import conform, validate
from stargap.transfer.anchored.model import lamost_transfer

measure = partial(measure_by_default, model="emulator")
"""These stars are the emulator's own."""

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")


@pytest.fixture(scope="module")
def stars(simulate):
    return simulate(6, seed=41, snr=30.0, bad_pixels=False)


@pytest.fixture(scope="module")
def folder(stars, tmp_path_factory):
    """Six LAMOST files of three layouts, plates and names, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("survey")
    (folder / "plate").mkdir()
    for row in range(6):
        write_lamost(
            folder / ("plate" if row > 2 else "") / f"spec-{row}.fits{'.gz' if row % 2 else ''}",
            stars.wavelength,
            stars.flux[row],
            stars.ivar[row],
            layout=LAYOUTS[row % 3],
            obsid=900 + row,
            designation=f"J{row}",
            plan_id="A" if row < 4 else "B",
            spectrograph=1 + row % 2,
        )
    (folder / "broken.fits").write_bytes(b"<html>404</html>")
    (folder / "plate" / "empty.fits").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    order = ("spec-2.fits", "broken.fits", "spec-0.fits", "plate/spec-5.fits.gz", "missing.fits", "spec-1.fits.gz")
    return [folder / name for name in (*order, "plate/empty.fits", "plate/spec-4.fits", "plate/spec-3.fits.gz")]


@pytest.fixture(scope="module")
def table(paths):
    return measure(paths)


# --- rows -------------------------------------------------------------------------------------------------------


def test_one_row_a_path_in_order(table, paths):
    assert isinstance(table, Measurements)
    assert len(table) == len(paths)
    assert table["spectrum_id"].tolist() == list(range(len(paths)))
    assert table["path"].tolist() == [str(path) for path in paths]
    assert [column.name for column in MEASURED] == list(table.columns)
    assert validate(conform(table.columns)) == []


def test_readable_files_are_measured(table, stars):
    read = np.array([Path(name).name.startswith("spec-") for name in table["path"]])
    assert read.sum() == 6
    rows = [int(name.split("spec-")[1][0]) for name in table["path"][read]]
    for name, truth in (("rv", stars.rv), ("teff", stars.labels[:, 0]), ("logg", stars.labels[:, 1])):
        pulls = (table[name][read] - truth[rows]) / table[f"e_{name}"][read]
        assert np.abs(pulls).max() < 4
    assert [obsid % 10 for obsid in table["obsid"][read & ~table["obsid"].mask]] == [
        row
        for row in rows
        if row % 3  # DR1 files have no obsid
    ]
    assert set(table["layout"][read]) == set(LAYOUTS)


def test_unreadable_files_say_why(table):
    unread = (table["flags"] & int(Flag.UNREADABLE)) > 0
    assert [Path(name).name for name in table["path"][unread]] == ["broken.fits", "missing.fits", "empty.fits"]
    assert table["teff"].mask.tolist() == unread.tolist()
    assert np.isnan(table["teff"].filled()[unread]).all()
    assert (table["failure"] != "").tolist() == unread.tolist()
    assert table["failure"][4] == "the file does not exist"


def test_failures_are_counted_most_frequent_first(folder, table):
    assert sum(table.failures().values()) == 3
    counts = measure([folder / "none-1", folder / "none-2", folder / "broken.fits"]).failures()
    assert list(counts.values()) == [2, 1]
    assert next(iter(counts)) == "the file does not exist"
    nothing_wrong = measure([folder / "spec-0.fits"])
    assert nothing_wrong.failures() == {}


def test_files_and_arrays_of_the_same_star_agree(folder, stars, differences):
    flux, ivar = (side[4].astype(np.float32).astype(float) for side in (stars.flux, stars.ivar))
    by_file = measure(folder / "plate" / "spec-4.fits").columns
    facts = Facts(layout="lamost-image")
    wave = stars.wavelength.astype(np.float32).astype(float)
    by_spectrum = measure([Spectrum(wave, flux, ivar, facts)]).columns
    names = [column.name for column in MEASURED]
    measured = set(names[names.index("rv") : names.index("snr_source")]) | {"bad_fraction"}
    assert measured >= {"rv", "teff", "e_m_h", "chi2", "tio5", "halpha_ew", "activity"}
    assert not measured & set(differences(by_file, by_spectrum))


def test_one_path_is_enough(folder, table, differences):
    for given in (folder / "spec-2.fits", str(folder / "spec-2.fits")):
        alone = measure(given)
        assert differences(alone.columns, table.columns, slice(None), slice(0, 1)) == []


def test_no_spectra_give_an_empty_table():
    for empty in (measure([]), measure(np.zeros((0, 5)), wavelength=np.arange(6000.0, 6005.0), ivar=np.zeros((0, 5)))):
        assert len(empty) == 0
        assert list(empty.columns) == [column.name for column in MEASURED]


def test_progress_counts_every_row(paths):
    seen = []
    measure(paths, progress=seen.append)
    assert sum(seen) == len(paths)


def test_provenance_names_version_settings_and_model(table, emulator):
    assert table.provenance["creator"] == f"stargap {stargap.__version__}"
    assert MeasureSettings.model_validate_json(table.provenance["settings"]) == MeasureSettings()
    assert emulator.card.sha256 in table.provenance["model"]
    assert table.provenance["model_seed"] == str(emulator.card.seed)
    assert table.provenance["pixel_grid"] == STARGAP.digest


@pytest.mark.slow
def test_worker_processes_change_nothing(folder, simulate, spectra, differences):
    """Two chunks, files and spectra mixed, so that both processes have work."""
    stars = simulate(130, seed=42)
    items = [*spectra(stars), *sorted(folder.rglob("*.fits*")), folder / "missing.fits"]
    one, two = (measure(items, workers=workers) for workers in (1, 2))
    assert len(one) == len(items) > 128
    assert one["spectrum_id"].tolist() == two["spectrum_id"].tolist() == list(range(len(items)))
    assert differences(one.columns, two.columns) == []
    assert one.provenance == two.provenance


def test_a_table_can_be_written(table, tmp_path):
    for suffix in (".fits", ".parquet", ".csv"):
        table.write(tmp_path / f"labels{suffix}")
        assert (tmp_path / f"labels{suffix}").stat().st_size > 1000
    with pytest.raises(UsageError, match="docx"):
        table.write(tmp_path / "labels.docx")


# --- zero points ------------------------------------------------------------------------------------------------


def test_zero_points_are_subtracted_where_they_apply(paths, table, differences):
    moved = measure(paths, zero_points={("A", 1): 10.0, ("B", 2): -3.0, ("C", 1): 99.0})
    expected = table["rv"].copy()
    expected[(table["plan_id"] == "A") & (table["spectrograph"] == 1)] -= 10.0
    expected[(table["plan_id"] == "B") & (table["spectrograph"] == 2)] += 3.0
    np.testing.assert_array_equal(moved["rv"], expected)
    assert (expected != table["rv"])[np.isfinite(expected)].sum() == 3
    np.testing.assert_allclose(moved["rv"] + moved["rv_zero"], table["rv"] + table["rv_zero"])
    assert differences(moved.columns, table.columns) == ["rv", "rv_zero"]
    assert json.loads(moved.provenance["zero_points"]) == [["A", 1, 10.0], ["B", 2, -3.0], ["C", 1, 99.0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plan_id,rv\nA,1\n", "no column 'spectrograph'"),
        ("plan_id,spectrograph,rv\nA,one,1\n", "one"),
        ("plan_id,spectrograph,rv\nA,1\n", "zero.csv"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_list_of_zero_points_is_refused(text, reason, tmp_path):
    path = tmp_path / "zero.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=reason):
        read_zero_points(path)


# --- pictures and models ----------------------------------------------------------------------------------------


def test_plot_writes_a_picture_of_each_fit(folder, tmp_path):
    inputs = [folder / "broken.fits", folder / "plate" / "spec-3.fits.gz", folder / "spec-0.fits"]
    measure(inputs, plot=tmp_path / "a" / "pictures")
    pictures = sorted((tmp_path / "a" / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["000001-spec-3.png", "000002-spec-0.png"]
    assert all(picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for picture in pictures)
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_a_picture_that_cannot_be_drawn_costs_that_picture_alone(folder, table, tmp_path, monkeypatch, differences):
    drawn = fit_figure

    def failing(columns, row, spectrum):
        if columns["spectrum_id"][row] == 0:
            message = "latex could not be found"
            raise RuntimeError(message)
        return drawn(columns, row, spectrum)

    monkeypatch.setattr("stargap.figures.fit.fit_figure", failing)
    with pytest.warns(UserWarning, match=r"000000-spec-2.png: no picture \(RuntimeError: latex could not be found\)"):
        found = measure([folder / "spec-2.fits", folder / "spec-0.fits"], plot=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000001-spec-0.png"]
    assert differences(found.columns, table.columns, slice(0, 1), slice(0, 1)) == []


def test_a_folder_for_pictures_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(UsageError, match="taken: this folder for pictures cannot be made"):
        measure([tmp_path / "none.fits"], plot=tmp_path / "taken")


def test_a_model_folder_is_used(emulator, folder, table, tmp_path, differences):
    emulator.save(tmp_path / "emulator.safetensors")
    same = measure([folder / "spec-2.fits"], model=tmp_path)
    assert differences(same.columns, table.columns, slice(None), slice(0, 1)) == []
    assert same.provenance["model"] == table.provenance["model"]

    other = type(emulator)(emulator.card)
    other.load_state_dict(emulator.state_dict())
    other.offset[0] += 0.03  # of 5040 K / Teff: about 60 K
    other.save(tmp_path / "other" / "emulator.safetensors")
    changed = measure([folder / "spec-2.fits"], model=str(tmp_path / "other"))
    assert abs(changed["teff"][0] - same["teff"][0]) > same["e_teff"][0]
    assert changed.provenance["model"] != same.provenance["model"]


def test_a_model_that_cannot_be_used_is_refused_before_any_work(emulator, folder, tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        measure([folder / "spec-0.fits"], model=tmp_path)
    emulator.save(tmp_path / "emulator.safetensors")
    card = tmp_path / "emulator.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"labels": ["logg", "teff", "m_h", "a_m"]}))
    with pytest.raises(ModelError, match="labels"):
        measure([folder / "spec-0.fits"], model=tmp_path)


SYSTEMATIC = ("e_teff_sys", "e_logg_sys", "e_m_h_sys")


@pytest.fixture(scope="module")
def by_lamost(paths):
    """What the model that is used by default says of the same files."""
    return measure_by_default(paths)


def test_the_default_model_is_the_transfer_for_lamost(by_lamost, folder, differences):
    card = lamost_transfer().card
    assert by_lamost.provenance["model"] == f"anchored-transfer v{card.version} {card.sha256}"
    assert by_lamost.provenance["model_training_data"] == card.training_data
    named = measure_by_default([folder / "spec-2.fits"], model="transfer-lamost")
    assert differences(named.columns, by_lamost.columns, slice(None), slice(0, 1)) == []


def test_rows_of_the_default_model_are_kept_whatever_happens(by_lamost, table, paths):
    assert by_lamost["path"].tolist() == [str(path) for path in paths]
    assert by_lamost["failure"].tolist() == table["failure"].tolist()
    unread = by_lamost["failure"] != ""
    assert unread.sum() == 3
    assert by_lamost["teff"].mask.tolist() == unread.tolist()
    assert validate(conform(by_lamost.columns)) == []
    # velocities are the emulator's with any model
    np.testing.assert_array_equal(by_lamost["rv"], table["rv"])


def test_systematic_errors_are_the_transfer_s_and_null_without_one(by_lamost, table):
    read = by_lamost["failure"] == ""
    for name, own in zip(SYSTEMATIC, lamost_transfer().own.tolist(), strict=True):
        assert table[name].mask.all()
        assert (by_lamost[name][read] == own).all()
        assert by_lamost[name][~read].mask.all()
    assert (by_lamost["e_teff"][read] < by_lamost["e_teff_sys"][read]).any(), "they are apart"


def test_the_paper_s_preset_is_measured_with_the_emulator(folder, emulator):
    paper = MeasureSettings(preset="paper", starts=1)
    table = measure_by_default([folder / "spec-2.fits"], settings=paper)
    assert table.provenance["model"] == f"payne v1 {emulator.card.sha256}"
    assert np.isfinite(table["teff"]).all()
    with pytest.raises(UsageError, match="transfer-lamost: this transfer works on spectra prepared by the stargap"):
        measure_by_default([folder / "spec-2.fits"], settings=paper, model="transfer-lamost")


# --- wrong requests ---------------------------------------------------------------------------------------------

WAVE = np.arange(5900.0, 9000.0)
ONES = np.ones(WAVE.size)


@pytest.mark.parametrize(
    ("flux", "options", "reason"),
    [
        (ONES, {"wavelength": WAVE}, "ivar is needed with wavelength"),
        (ONES, {"wavelength": WAVE, "ivar": ONES[:-1]}, r"wavelength \(3100,\), flux \(1, 3100\), ivar \(1, 3099\)"),
        (ONES, {"wavelength": WAVE[:-1], "ivar": ONES}, "shapes do not agree"),
        (ONES[:, None], {"wavelength": WAVE, "ivar": ONES[:, None]}, "shapes do not agree"),
        (np.ones((2, 3100)), {"wavelength": np.ones((2, 3100)), "ivar": np.ones((2, 3100))}, "shapes do not agree"),
        (np.ones((2, 3100, 3)), {"wavelength": WAVE, "ivar": np.ones((2, 3100, 3))}, "shapes do not agree"),
        (5.0, {"wavelength": WAVE, "ivar": 5.0}, "shapes do not agree"),
        (ONES, {"wavelength": WAVE[::-1], "ivar": ONES}, "strictly increasing"),
        (ONES, {"wavelength": WAVE * np.nan, "ivar": ONES}, "finite"),
        (ONES, {"wavelength": WAVE - 5900, "ivar": ONES}, "positive"),
        (np.ones(3), {}, "wavelength"),
        (np.ones((2, 3)), {}, "wavelength"),
        (["a.fits"], {"ivar": ONES}, "wavelength"),
        ([None], {}, "NoneType"),
    ],
)
def test_wrong_arrays_are_refused_in_words(flux, options, reason):
    with pytest.raises(UsageError, match=reason):
        measure(flux, **options)


def test_wavelengths_elsewhere_give_a_row_that_says_so():
    for wave in (WAVE / 1e4, WAVE + 5000, WAVE[:1]):
        table = measure(np.ones(wave.size), wavelength=wave, ivar=np.ones(wave.size))
        assert table["failure"].tolist() == ["covers less than 450 A of 6000-8900 A"]
        assert table["flags"].tolist() == [int(Flag.UNREADABLE)]


def test_arrays_off_the_log_lambda_grid_are_measured(simulate):
    """Linear wavelengths of 1 A: resampled with their variance, so labels agree within their errors."""
    star = simulate(1, seed=43, snr=80.0, bad_pixels=False)
    wave = np.arange(5850.0, 9090.0)
    native = measure(star.flux, wavelength=star.wavelength, ivar=star.ivar)
    flux = np.interp(wave, star.wavelength, star.flux[0])
    ivar = np.interp(wave, star.wavelength, star.ivar[0])
    table = measure(flux, wavelength=wave, ivar=ivar)
    for name in ("teff", "logg", "m_h"):
        assert abs(table[name][0] - native[name][0]) < 3 * native[f"e_{name}"][0]
    assert abs(table["rv"][0] - native["rv"][0]) < 3 * native["e_rv"][0]


# --- finding files ----------------------------------------------------------------------------------------------


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found]


def test_folders_are_searched_for_fits_in_order(folder):
    inside = ["broken.fits", "plate/empty.fits", "plate/spec-3.fits.gz", "plate/spec-4.fits", "plate/spec-5.fits.gz"]
    inside += ["spec-0.fits", "spec-1.fits.gz", "spec-2.fits"]
    assert names(find_spectra([folder]), folder) == inside
    assert names(find_spectra([str(folder / "plate"), folder / "spec-0.fits"]), folder) == [*inside[1:5], "spec-0.fits"]


def test_other_files_and_folders_named_fits_are_left_out(tmp_path):
    for name in ("a.FITS", "b.fit", "c.txt", "d.fits.bak", "e.FIT.gz", "f.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "g.fits").mkdir()
    (tmp_path / "link.fits").symlink_to(tmp_path / "nowhere")
    assert names(find_spectra([tmp_path]), tmp_path) == ["a.FITS", "b.fit", "e.FIT.gz", "link.fits"]


def test_globs_are_expanded_and_sorted(folder, monkeypatch):
    assert names(find_spectra([folder / "spec-[02].fits"]), folder) == ["spec-0.fits", "spec-2.fits"]
    assert names(find_spectra([str(folder / "**" / "spec-?.fits")]), folder) == [
        "plate/spec-4.fits", "spec-0.fits", "spec-2.fits",
    ]  # fmt: skip
    monkeypatch.chdir(folder)
    assert [str(path) for path in find_spectra(["spec-*.fits", "plate/e*"])] == [
        "spec-0.fits", "spec-2.fits", "plate/empty.fits",
    ]  # fmt: skip


def test_a_file_whose_name_looks_like_a_glob_or_list_is_itself(tmp_path, monkeypatch):
    for name in ("a[1].fits", "@b.fits"):
        (tmp_path / name).write_bytes(b"")
    assert names(find_spectra([tmp_path / "a[1].fits"]), tmp_path) == ["a[1].fits"]
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_spectra(["@b.fits"])] == ["@b.fits"]


def test_lists_are_read_line_by_line(tmp_path):
    listing = tmp_path / "files.txt"
    listing.write_text("# night 1\n/data/b.fits\n\n  /data/a b.fits  \n#/data/c.fits\n/data/b.fits\n", encoding="utf-8")
    found = find_spectra([f"@{listing}", "last.fits"])
    assert [str(path) for path in found] == ["/data/b.fits", "/data/a b.fits", "/data/b.fits", "last.fits"]


def test_missing_files_are_kept_in_their_place(folder):
    given = [folder / "none.fits", folder / "spec-0.fits", folder / "neither.fits"]
    assert find_spectra(given) == given


def test_requests_without_a_file_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("# nothing\n")
    cases = {
        f"{tmp_path / 'empty'}": "no FITS file in this folder",
        f"{tmp_path / '*.fits'}": "no file matches",
        f"@{tmp_path / 'absent.txt'}": "the list cannot be read",
        f"@{tmp_path / 'blank.txt'}": "no spectra given",
    }
    for given, reason in cases.items():
        with pytest.raises(UsageError, match=reason):
            find_spectra([given])
    with pytest.raises(UsageError, match="no spectra given"):
        find_spectra([])


def test_a_request_names_what_it_is_about(tmp_path):
    with pytest.raises(UsageError, match=str(tmp_path / "none-*.fits").replace("*", r"\*")):
        find_spectra([tmp_path / "none-*.fits"])
