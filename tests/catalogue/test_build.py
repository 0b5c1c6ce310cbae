"""Laws of the catalogue: a row for each spectrum, everything joined by identifier, nothing left out, resumable."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units

from stargap.catalogue import build
from stargap.catalogue.build import CatalogueSettings, build_catalogue
from stargap.catalogue.companions import CompanionTable
from stargap.catalogue.cuts import CutSettings
from stargap.errors import UsageError
from stargap.flags import FinalCut, Flag
from stargap.photometry.joint import joint_labels
from stargap.photometry.labels import LABEL_NAMES
from stargap.photometry.surface import magnitude_table
from stargap.tables.columns import CATALOGUE, INT_NULL, STARS, SURVEY, Column
from stargap.tables.conform import validate
from stargap.tables.parquet import provenance_of, read_columns
from stargap.tables.write import write_table

GAIA = 6917528997577384320


def survey(rows, *, null=False):
    """A survey run's table: stars with two spectra each, every seventh row unreadable."""
    random = np.random.default_rng(2)
    table = {c.name: np.full(rows, c.null if c.dtype != "bool" else False, object if c.dtype == "str" else c.dtype)
             for c in SURVEY}  # fmt: skip
    table["spectrum_id"] = 10 + 3 * np.arange(rows)
    for name in ("flags", "sample_flags", "clean_flags"):
        table[name][:] = 0
    if null:
        return table
    table["gaia_source_id"] = GAIA + np.arange(rows) // 2
    table["in_sample"][:] = True
    centres = {"rv": 10, "teff": 3500, "logg": 4.9, "m_h": -0.2, "chi2": 1, "snr_r": 30, "snr_i": 40, "halpha_ew": 0}
    for name, centre in centres.items():
        table[name] = (centre * (1 + 0.01 * random.normal(size=rows))).astype(table[name].dtype)
        if f"e_{name}" in table:
            table[f"e_{name}"] = np.full(rows, 0.01 * abs(centre) + 0.1, "f4")
    table["ra"], table["dec"] = random.uniform(0, 360, rows), random.uniform(-90, 90, rows)
    table["parallax"], table["m_g"] = np.full(rows, 20.0), np.full(rows, 10.0, "f4")
    table["m_g"][::5] = np.nan
    for name in ("rv", "teff", "logg", "m_h", "chi2"):
        table[name][::7] = np.nan
    table["flags"][::7] = Flag.UNREADABLE
    return table


def made(folder, table, settings=None, **options):
    write_table(table, folder / "measured.parquet", schema=SURVEY, provenance={"creator": "stargap 0", "model": "m 1"})
    built = build_catalogue(folder / "measured.parquet", folder / "catalogue", settings, **options)
    return built, read_columns(built.spectra), read_columns(built.stars)


@pytest.mark.parametrize("rows", [0, 1, 50])
@pytest.mark.parametrize("null", [False, True])
def test_every_spectrum_has_its_row_and_both_tables_obey_the_schema(tmp_path, rows, null):
    table = survey(rows, null=null)
    built, spectra, stars = made(tmp_path, table)
    assert validate(spectra, schema=CATALOGUE) == []
    assert validate(stars, schema=STARS) == []
    np.testing.assert_array_equal(spectra["spectrum_id"], table["spectrum_id"])
    for column in CATALOGUE:
        if column.name in table:
            np.testing.assert_array_equal(spectra[column.name], table[column.name], column.name)
    assert built.star_count == len(stars["spectrum_id"]) == (rows if null else -(-rows // 2))
    assert stars["n_spectra"].sum() == rows
    assert built.cuts.counts[-1].left == np.count_nonzero(spectra["in_final_catalogue"])
    if rows > 1 and not null:
        assert spectra["in_final_catalogue"].mean() > 0.8
        assert (spectra["cuts"][::7] & FinalCut.NO_LABELS != 0).all()
        np.testing.assert_array_equal(spectra["distance"], np.where(np.isnan(table["m_g"]), np.nan, 50))


def test_parts_have_no_effect(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_PART", 1000)
    _, spectra, stars = made(tmp_path, survey(50))
    monkeypatch.setattr(build, "_PART", 7)
    built, other, other_stars = made(tmp_path, survey(50))
    assert pq.ParquetFile(built.spectra).num_row_groups == 8
    for one, two in ((spectra, other), (stars, other_stars)):
        for name, values in one.items():
            np.testing.assert_array_equal(two[name], values, name)


def test_errors_and_ages_are_joined_by_identifier_and_not_by_place(tmp_path):
    table = survey(50)
    ids = table["spectrum_id"][[40, 2, 9]]
    added = {"spectrum_id": ids, "e_rv": [4.0, 2.0, 9.0], "e_rv_paper": [4.5, 2.5, 9.5], "e_rv_sys": [1.0, 1.0, 1.0]}
    added |= {"age_mean": [5.0, 0.5, np.nan], "age_median": [5.0, 3.0, np.nan]}
    _, spectra, _ = made(tmp_path, table, added=added)
    rows = np.searchsorted(spectra["spectrum_id"], ids)
    np.testing.assert_array_equal(spectra["e_rv"][rows], np.float32([4, 2, 9]))
    np.testing.assert_array_equal(spectra["e_rv_paper"][rows], np.float32([4.5, 2.5, 9.5]))
    np.testing.assert_array_equal(spectra["e_rv_fit"], table["e_rv"])
    assert np.isnan(np.delete(spectra["e_rv"], rows)).all()
    assert np.isnan(np.delete(spectra["e_rv_paper"], rows)).all()
    np.testing.assert_array_equal(spectra["e_teff"], table["e_teff"])
    assert np.flatnonzero(spectra["cuts"] & FinalCut.YOUNG).tolist() == [2]
    assert not spectra["in_final_catalogue"][2]


def test_joint_labels_have_the_calibrated_errors(tmp_path):
    table, rows = survey(20), 20
    magnitudes = magnitude_table()(np.array([3500.0]), np.array([0.0]), np.array([0]))[0][0]
    table |= {f"{band}_mag": np.full(rows, magnitudes[k]) for k, band in enumerate(("g", "bp", "rp", "ks"))}
    table |= {"e_ks_mag": np.full(rows, 0.02), "parallax": np.full(rows, 99.97), "e_parallax": np.full(rows, 0.02)}
    table |= {"ruwe": np.ones(rows), "a_v_phot": np.zeros(rows), "e_a_v_phot": np.zeros(rows)}
    table |= {f"{mark}_{name}": np.full(rows, int(mark == "use")) for mark in ("use", "care") for name in LABEL_NAMES}
    table |= joint_labels(table, table)
    _, plain, _ = made(tmp_path, table)
    np.testing.assert_array_equal(plain["teff_joint"], table["teff_joint"].astype("f4"))
    added = {"spectrum_id": table["spectrum_id"]} | {f"e_{name}": 3 * table[f"e_{name}"] for name in LABEL_NAMES}
    _, spectra, stars = made(tmp_path, table, added=added)
    again = joint_labels(table | added, table)
    known = np.isfinite(table["teff_joint"])
    assert known.sum() == 17
    for name in ("teff_joint", "e_teff_joint", "m_h_joint", "p_single_joint", "joint_flags"):
        np.testing.assert_allclose(spectra[name][known], again[name][known], rtol=1e-3, atol=1e-3)
    assert (spectra["e_teff_joint"][known] > plain["e_teff_joint"][known]).all()
    assert np.isnan(spectra["teff_joint"][~known]).all()
    alone = stars["n_epochs"] == 1
    np.testing.assert_array_equal(stars["e_teff_joint"][alone], spectra["e_teff_joint"][np.isin(
        spectra["spectrum_id"], stars["spectrum_id"][alone])])  # fmt: skip


def test_companions_are_declared_in_the_settings(tmp_path):
    write_table({"id": [GAIA + 1, 5]}, tmp_path / "v.csv", schema=[Column("id", "int64")], provenance={})
    declared = CompanionTable(table=str(tmp_path / "v.csv"), means="variable", keys=("id",))
    built, spectra, stars = made(tmp_path, survey(50), CatalogueSettings(companions={"gaia": declared}))
    assert np.flatnonzero(spectra["vb_flag"]).tolist() == [2, 3]
    assert np.flatnonzero(stars["vb_flag"]).tolist() == [1]
    assert "gaia: 2 of 50 spectra, 2 by identifier, 0 by position (0 ambiguous)" in built.cuts.notes
    _, spectra, _ = made(tmp_path, survey(50))
    assert (spectra["vb_flag"] == INT_NULL).all()


def test_products_say_what_they_were_made_with(tmp_path):
    settings = CatalogueSettings(combine="best", cuts=CutSettings(errors="paper"))
    built, spectra, _ = made(tmp_path, survey(4), settings)
    for path in (built.spectra, built.stars):
        told = provenance_of(path)
        assert told["creator"] == "stargap 0"
        assert told["catalogue_creator"].startswith("stargap ")
        assert CatalogueSettings(**json.loads(told["catalogue_settings"])) == settings
    assert set(spectra["version"]) == {"stargap 0; m 1"}


def test_two_builds_are_equal_byte_for_byte(tmp_path):
    built, _, _ = made(tmp_path, survey(50))
    before = built.spectra.read_bytes(), built.stars.read_bytes()
    built, _, _ = made(tmp_path, survey(50))
    assert (built.spectra.read_bytes(), built.stars.read_bytes()) == before
    names = sorted(path.name for path in built.spectra.parent.iterdir())
    assert names == [
        "cuts.json",
        "cuts.md",
        "spectra.parquet",
        "stars.parquet",
    ]


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"measured.parquet: the file does not exist"):
        build_catalogue(tmp_path / "measured.parquet", tmp_path)
    write_table({"spectrum_id": [1]}, tmp_path / "m.parquet", schema=[Column("spectrum_id", "int64")], provenance={})
    with pytest.raises(UsageError, match=r"no table of a survey run: columns missing: 'path', 'obsid'.* [.][.][.]$"):
        build_catalogue(tmp_path / "m.parquet", tmp_path)
    with pytest.raises(UsageError, match="added columns 'cuts', 'age' are none of the catalogue's that can be given"):
        made(tmp_path, survey(2), added={"spectrum_id": [1], "cuts": [1], "age": [1]})
    with pytest.raises(UsageError, match="repeat"):
        made(tmp_path, survey(2), added={"spectrum_id": [1, 1], "e_rv": [1.0, 1.0]})


def test_masks_units_and_rows_of_others_are_not_taken_for_values(tmp_path):
    """A masked age is null, and a spectrum that `added` does not name has none: not the age of another star."""
    measured = tmp_path / "measured.parquet"
    survey = {column.name: [None] * 4 for column in SURVEY} | {"in_sample": [True] * 4, "gaia_source_id": [1, 2, 3, 4]}
    survey |= {"spectrum_id": [0, 1, 2, 3], "flags": [0] * 4, "clean_flags": [0] * 4, "teff": [3500.0] * 4}
    survey |= {name: [1.0] * 4 for name in ("rv", "logg", "m_h")} | {"logg": [4.8] * 4}
    write_table(survey, measured, schema=SURVEY, provenance={})
    added = {
        "spectrum_id": np.ma.masked_array([2, 0, 1, 9], [False, False, False, True]),
        "age_mean": np.ma.masked_array([0.5, 7.0, 0.2, 0.1], [False, False, True, False]),
        "age_median": np.ma.masked_array([5, 7, 2, 1], [False, False, True, False]),
        "e_teff": [40.0, 50.0, 60.0, 1.0] * units.K,
        "e_rv": [4000.0, 5000.0, 6000.0, 1.0] * units.m / units.s,
    }
    built = build_catalogue(measured, tmp_path / "catalogue", added=added)
    table = read_columns(built.spectra)
    np.testing.assert_array_equal(table["age_mean"], np.array([7, np.nan, 0.5, np.nan], np.float32))
    np.testing.assert_array_equal(table["age_median"], np.array([7, np.nan, 5, np.nan], np.float32))
    np.testing.assert_array_equal(table["e_rv"], np.array([5, 6, 4, np.nan], np.float32))
    assert (table["cuts"] & FinalCut.YOUNG != 0).tolist() == [False, False, True, False]
    assert (table["cuts"] & FinalCut.AGE_UNKNOWN != 0).tolist() == [False, True, False, True]
