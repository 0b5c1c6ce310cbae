"""Joins find the stars they should, one spectrum a star, and planted offsets come back with honest errors."""

import csv
import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import mad_std, sigma_clipped_stats
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from stargap.errors import UsageError
from stargap.settings import example_toml, read_settings_as
from stargap.tables.columns import CATALOGUE, PAPER, Column
from stargap.tables.write import write_table
from stargap.validation.compare import compare_tables, read_matched, run_compare
from stargap.validation.matching import CompareSettings, match_stars
from stargap.validation.references import REFERENCES, reference_settings
from stargap.validation.sheets import is_simulated, number, read_results

NAMES = ("rv", "teff", "logg", "m_h")
ALL = {name: name for name in NAMES}
BY_ID = CompareSettings(columns=ALL, key="source_id", resamples=50)
WITHOUT_ERRORS = BY_ID.model_copy(update={"resamples": 0})
BY_SKY = CompareSettings(columns={"teff": "teff"}, radius_arcsec=3.0, resamples=0)
OFFSETS = {"rv": (2.0, 5.0), "teff": (-40.0, 60.0), "logg": (0.1, 0.05), "m_h": (-0.05, 0.12)}
UNITS = {"rv": "km/s", "teff": "K", "logg": "", "m_h": ""}


def stars(count, seed=0):
    """Our catalogue, and a table that differs from it by planted offsets and scatter."""
    random = np.random.default_rng(seed)
    truth = {
        "rv": random.normal(0, 30, count),
        "teff": random.uniform(3000, 4000, count),
        "logg": random.uniform(4.6, 5.2, count),
        "m_h": random.uniform(-1, 0.4, count),
    }
    ours = {name: truth[name] + random.normal(*OFFSETS[name], count) for name in NAMES}
    ours |= {"gaia_source_id": 4_472_832_130_942_575_872 + np.arange(count), "snr_r": random.uniform(3, 100, count)}
    return ours, {**truth, "source_id": ours["gaia_source_id"]}


def test_planted_offsets_come_back_within_their_errors():
    ours, table = stars(3000)
    shuffled = np.random.default_rng(1).permutation(3000)
    found = compare_tables(match_stars(ours, {k: v[shuffled] for k, v in table.items()}, BY_ID), BY_ID)
    assert [(one.quantity, one.snr_above) for one in found.agreements[:4]] == [
        ("rv", None), ("rv", 5.0), ("rv", 20.0), ("rv", 50.0)
    ]  # fmt: skip
    for one in found.agreements:
        offset, scatter = OFFSETS[one.quantity]
        values, errors = one.result.values, one.result.errors
        assert abs(values.median - offset) < 4 * errors.median
        assert abs(values.scatter - scatter) < 4 * errors.scatter
        assert values.clipped == pytest.approx(scatter, rel=0.1)
    least = {None: 0, 5.0: 5, 20.0: 20, 50.0: 50}
    for one in found.agreements:
        assert one.result.n == int((ours["snr_r"] > least[one.snr_above]).sum())


def test_numbers_are_those_of_astropy():
    ours, table = stars(500)
    ours["teff"][:20] += 3000
    result = compare_tables(match_stars(ours, table, BY_ID), BY_ID).agreements[4].result
    delta = ours["teff"] - table["teff"]
    _, _, deviation = sigma_clipped_stats(delta, sigma=3, maxiters=None, cenfunc="mean")
    assert result.values.median == np.median(delta)
    assert result.values.scatter == pytest.approx(mad_std(delta), rel=1e-4)
    assert result.values.clipped == pytest.approx(deviation, rel=2e-3)
    assert 0.04 <= result.values.outliers < 0.05


def test_a_planted_trend_is_seen_and_no_other():
    ours, table = stars(4000)
    ours["m_h"] += 0.3 * (table["teff"] - 3500) / 1000
    found = {(t.quantity, t.label): t for t in compare_tables(match_stars(ours, table, BY_ID), BY_ID).trends}
    assert len(found) == 12
    for (quantity, label), one in found.items():
        planted = 0.3 if (quantity, label) == ("m_h", "teff") else 0.0
        assert abs(one.trend.slope - planted) < 4.5 * one.trend.error
        assert one.of == "reference"


def test_trends_use_our_labels_where_the_reference_has_none():
    ours, table = stars(50)
    chosen = CompareSettings(columns={"rv": "rv"}, key="source_id", resamples=0)
    found = compare_tables(match_stars(ours, table, chosen), chosen)
    assert [(one.label, one.of) for one in found.trends] == [("teff", "ours"), ("logg", "ours"), ("m_h", "ours")]
    assert found.trends[0].trend.n > 40


def test_one_spectrum_a_star_the_one_with_most_labels_then_the_best():
    ours = {"gaia_source_id": [5, 5, 5, 6, 6, -9999, -9999], "snr_r": [90.0, 30.0, 20.0, 8.0, np.nan, 9.0, 8.0]}
    ours |= {"teff": [np.nan, 3500.0, 3600.0, 3300.0, 3400.0, 3000.0, 3100.0]}
    table = {"source_id": [6, 5], "teff": [3333.0, 3555.0]}
    matched = match_stars(ours, table, CompareSettings(columns={"teff": "teff"}, key="source_id"))
    assert matched.rows.tolist() == [1, 3]
    assert matched.reference_rows.tolist() == [1, 0]
    assert "2 stars (5 of our 7 spectra)" in matched.notes[0]
    assert "highest snr_r" in matched.notes[1]


def test_joined_by_obsid_still_one_spectrum_a_star():
    ours = {"obsid": [1, 2, 3], "gaia_source_id": [5, 5, 6], "snr_r": [9.0, 20.0, 9.0], "teff": [1.0, 2.0, 3.0]}
    table = {"obsid": [1, 2, 3], "teff": [3010.0, 3020.0, 3030.0]}
    chosen = CompareSettings(columns={"teff": "teff"}, key="obsid", our_key="obsid")
    matched = match_stars(ours, table, chosen)
    assert matched.reference["teff"].tolist() == [3020.0, 3030.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 8), max_size=30), st.lists(st.integers(1, 8), max_size=30), st.randoms())
def test_joins_by_identifier_against_a_plain_loop(mine, theirs, random):
    snr = [random.choice([5.0, 10.0, 20.0, 40.0]) + place / 100 for place in range(len(mine))]
    ours = {"gaia_source_id": np.array(mine, dtype=np.int64), "snr_r": snr, "teff": np.arange(len(mine)) + 3000.0}
    table = {"source_id": np.array(theirs, dtype=np.int64), "teff": np.arange(len(theirs)) + 4000.0}
    matched = match_stars(ours, table, CompareSettings(columns={"teff": "teff"}, key="source_id"))
    expected = []
    for star in set(mine) & set(theirs):
        spectra = [place for place, name in enumerate(mine) if name == star]
        expected.append((max(spectra, key=lambda place: snr[place]), theirs.index(star)))
    assert list(zip(matched.rows.tolist(), matched.reference_rows.tolist(), strict=True)) == sorted(expected)


def sky(count=200, seed=2):
    random = np.random.default_rng(seed)
    ours = {"gaia_source_id": np.arange(count) + 1, "ra": random.uniform(0, 360, count), "snr_r": np.full(count, 30.0)}
    ours |= {"dec": np.degrees(np.arcsin(random.uniform(-1, 1, count))), "teff": random.uniform(3000, 4000, count)}
    ours |= {"pmra": random.normal(0, 500, count), "pmdec": random.normal(0, 500, count)}
    return ours


def moved(ours, years):
    """Positions after some years, to first order."""
    dec = ours["dec"] + years * ours["pmdec"] / 3.6e6
    return (ours["ra"] + years * ours["pmra"] / 3.6e6 / np.cos(np.radians(ours["dec"]))) % 360, dec


def test_positions_are_compared_at_the_epoch_of_the_table():
    ours = sky()
    ra, dec = moved(ours, 16.0)
    table = {"ra": ra[::-1], "dec": dec[::-1], "teff": ours["teff"][::-1]}
    matched = match_stars(ours, table, BY_SKY)
    assert len(matched.rows) == 200
    np.testing.assert_array_equal(matched.ours["teff"], matched.reference["teff"])
    assert matched.separation.max() < 0.5
    at_rest = match_stars({k: v for k, v in ours.items() if not k.startswith("pm")}, table, BY_SKY)
    assert len(at_rest.rows) < 50
    assert "200 spectra have no proper motion" in at_rest.notes[-1]


def test_spectra_of_one_star_do_not_share_out_its_reference():
    ours = {k: np.repeat(v, 2) for k, v in sky(20).items()}
    ours["snr_r"] = np.tile([10.0, 20.0], 20)
    ra, dec = moved({k: v[::2] for k, v in ours.items()}, 16.0)
    matched = match_stars(ours, {"ra": ra, "dec": dec, "teff": ours["teff"][::2]}, BY_SKY)
    np.testing.assert_array_equal(matched.rows, np.arange(1, 40, 2))
    assert "(40 of our 40 spectra)" in matched.notes[0]
    assert "(0 ambiguous)" in matched.notes[0]


def test_nearest_of_two_rows_counts_and_is_called_ambiguous():
    ours = {"gaia_source_id": [7], "ra": [0.0001], "dec": [10.0], "snr_r": [30.0], "teff": [3500.0]}
    table = {"ra": [359.9995, 0.0002], "dec": [10.0, 10.0], "teff": [3001.0, 3002.0]}
    matched = match_stars(ours, table, BY_SKY)
    assert matched.reference["teff"].tolist() == [3002.0]
    assert "1 ambiguous" in matched.notes[0]


def test_position_helps_only_where_no_identifier_does():
    ours = {"gaia_source_id": [7, 8], "ra": [10.0, 20.0], "dec": [0.0, 0.0], "snr_r": [9.0, 9.0], "teff": [1.0, 2.0]}
    table = {
        "id": [7, -9999, -9999],
        "ra": [200.0, 10.0, 20.0],
        "dec": [0.0, 0.0, 0.0],
        "teff": [3005.0, 3006.0, 3007.0],
    }
    chosen = CompareSettings(columns={"teff": "teff"}, key="id", radius_arcsec=2.0)
    matched = match_stars(ours, table, chosen)
    assert matched.reference["teff"].tolist() == [3005.0, 3007.0]
    assert np.isnan(matched.separation[0])
    assert "1 spectra by identifier, 1 by position" in matched.notes[0]


def test_what_an_identifier_has_joined_is_left_alone_by_position():
    ours = {"gaia_source_id": [7, 8], "ra": [10.0, 10.0], "dec": [0.0, 0.0], "snr_r": [9.0, 9.0], "teff": [1.0, 2.0]}
    table = {"id": [7], "ra": [10.0], "dec": [0.0], "teff": [3005.0]}
    matched = match_stars(ours, table, CompareSettings(columns={"teff": "teff"}, key="id", radius_arcsec=2.0))
    assert matched.rows.tolist() == [0]
    ours |= {"gaia_source_id": [7, 7], "obsid": [1, 2], "snr_r": [9.0, 90.0]}
    table = {"id": [1, 99], "ra": [200.0, 10.0], "dec": [0.0, 0.0], "teff": [3005.0, 3006.0]}
    chosen = CompareSettings(columns={"teff": "teff"}, key="id", our_key="obsid", radius_arcsec=2.0)
    assert match_stars(ours, table, chosen).reference["teff"].tolist() == [3005.0]


def test_rows_are_chosen_by_flags_values_and_preference():
    ours, table = stars(6)
    table = {k: np.concatenate([v, v]) for k, v in table.items()} | {"snr": np.array([1.0] * 6 + [2.0] * 5 + [np.nan])}
    table["teff"][6:] += 1000
    table["flag"] = np.zeros(12, dtype=np.int64)
    table["flag"][6] = 1 << 23
    table["chance"] = np.where(np.arange(12) % 6 == 1, 0.5, 0.0)
    chosen = BY_ID.model_copy(update={"prefer": "snr", "refuse_bits": {"flag": 1 << 23}, "keep": {"chance": (0, 0.01)}})
    matched = match_stars(ours, table, chosen)
    assert matched.reference_rows.tolist() == [0, 8, 9, 10, 5]
    assert "3 of its 12 rows are left out" in matched.notes[-1]


def test_cool_stars_of_the_reference_are_left_out_of_one_quantity():
    ours, table = stars(200)
    chosen = BY_ID.model_copy(update={"least_teff": {"m_h": 3500.0}})
    by = {(one.quantity, one.snr_above): one.result.n for one in
          compare_tables(match_stars(ours, table, chosen), chosen).agreements}  # fmt: skip
    assert by[("m_h", None)] == int((table["teff"] >= 3500).sum())
    assert by[("teff", None)] == 200


def test_only_the_final_catalogue_counts_unless_all_is_asked():
    ours, table = stars(10)
    ours["in_final_catalogue"] = np.arange(10) < 4
    assert len(match_stars(ours, table, BY_ID).rows) == 4
    assert len(match_stars(ours, table, BY_ID.model_copy(update={"rows": "all"})).rows) == 10


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_stars(count, tmp_path):
    ours, table = stars(count)
    found = compare_tables(match_stars(ours, table, BY_ID), BY_ID)
    assert all(one.result.n <= count for one in found.agreements)
    assert np.isnan(found.agreements[0].result.values.median) == (count == 0)
    assert "nan" not in found.markdown().lower()
    assert "nan" not in found.csv()


def test_no_star_in_common():
    ours, table = stars(5)
    table["source_id"] = table["source_id"] + 1000
    for chosen in (BY_ID, BY_ID.model_copy(update={"key": "", "radius_arcsec": 1.0})):
        more = {"ra": np.full(5, 10.0), "dec": np.full(5, 10.0)}
        found = compare_tables(
            match_stars(ours | more, table | {"ra": more["ra"], "dec": -more["dec"]}, chosen), chosen
        )
        assert {one.result.n for one in found.agreements} == {0}
        assert "0 stars" in found.notes[0]


def test_all_null_columns_compare_nothing():
    ours, table = stars(5)
    table["teff"] = np.full(5, np.nan)
    ours["m_h"] = np.full(5, np.nan)
    table["logg"] = np.full(5, "", dtype=object)
    counts = {
        one.quantity: one.result.n for one in compare_tables(match_stars(ours, table, BY_ID), BY_ID).agreements[::4]
    }
    assert counts == {"rv": 5, "teff": 0, "logg": 0, "m_h": 0}


def test_sentinels_are_null():
    ours, table = stars(5)
    table["teff"][2] = -9999.0
    assert compare_tables(match_stars(ours, table, BY_ID), BY_ID).agreements[4].result.n == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teff": np.array(["M1"] * 3, dtype=object)}, "'teff', row 1: 'M1' is not a number"),
        ({"source_id": np.array([1.0, 2.0, 3.0])}, "source_id: holds floats"),
        ({"teff": np.zeros(4)}, "differ in shape"),
    ],
)
def test_what_cannot_be_compared_is_said(change, words):
    ours, table = stars(3)
    with pytest.raises(UsageError, match=words):
        match_stars(ours, table | change, BY_ID)


def test_a_missing_column_is_named():
    ours, table = stars(3)
    del table["logg"]
    with pytest.raises(UsageError, match="reference has no column 'logg'"):
        match_stars(ours, table, BY_ID)


def write_catalogue(path, ours, provenance=None):
    names = ("gaia_source_id", "snr_r", *NAMES)
    schema = tuple(column for column in CATALOGUE if column.name in names)
    write_table({name: ours[name] for name in names}, path, schema=schema, provenance=provenance or {"creator": "x"})


@pytest.mark.parametrize("suffix", [".fits", ".csv", ".parquet", ".vot"])
def test_any_format_gives_the_same_page(tmp_path, suffix):
    ours, table = stars(40)
    write_catalogue(tmp_path / "ours.parquet", ours)
    schema = (Column("source_id", "int64"), *(Column(name, "float64", UNITS[name]) for name in NAMES))
    write_table(table, tmp_path / f"table{suffix}", schema=schema, provenance={})
    found = run_compare(tmp_path / "ours.parquet", tmp_path / f"table{suffix}", WITHOUT_ERRORS, tmp_path / "out")
    assert {one.result.n for one in found.agreements[::4]} == {40}
    assert found.agreements[0].result.values.median == pytest.approx(np.median(ours["rv"] - table["rv"]), abs=1e-4)
    assert (tmp_path / "out" / "comparison.md").read_text() == found.markdown()
    assert read_results(tmp_path / "out" / "comparison.json") == (found.title, found.sheets(), found.notes)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".stargap", "comparison.csv", "comparison.json", "comparison.md"}
    with pytest.raises(UsageError, match="holds files that are not stargap's"):
        run_compare(tmp_path / "ours.parquet", tmp_path / f"table{suffix}", WITHOUT_ERRORS, tmp_path)


def test_csv_has_every_number(tmp_path):
    ours, table = stars(40)
    found = compare_tables(match_stars(ours, table, BY_ID), BY_ID)
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert len(rows) == 4 * 4 * 6 + 12
    row = next(
        one for one in rows if (one["quantity"], one["snr_above"], one["statistic"]) == ("teff", "20.0", "median")
    )
    assert float(row["value"]) == found.agreements[6].result.values.median
    assert (row["unit"], row["simulated"]) == ("K", "False")


def test_the_seed_decides_the_page():
    ours, table = stars(60)
    pages = [
        compare_tables(match_stars(ours, table, BY_ID), BY_ID.model_copy(update={"seed": seed})).markdown()
        for seed in (0, 0, 1)
    ]
    assert pages[0] == pages[1] != pages[2]


def test_it_prints(capsys):
    ours, table = stars(30)
    found = compare_tables(match_stars(ours, table, BY_ID), BY_ID, simulated=True)
    console = Console(width=120, record=True, file=io.StringIO())
    found.print(console)
    text = console.export_text()
    assert "Comparison with reference, simulated stars" in text
    assert "[M/H] (dex)" in text


@pytest.mark.parametrize(
    "provenance",
    [
        {"simulated": "true"},
        {"model_training_data": "110000 simulated spectra (matched mix)"},
        {"stargap": '{"stars": 300, "mix": "galactic"}'},
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".fits.gz"])
def test_simulated_stars_are_called_so_everywhere(tmp_path, provenance, suffix):
    ours, table = stars(30)
    write_catalogue(tmp_path / f"ours{suffix}", ours, provenance)
    write_catalogue(tmp_path / f"real{suffix}", ours, {"model_training_data": "marcs_ts_base", "settings": '{"a": 1}'})
    schema = (Column("source_id", "int64"), *(Column(name, "float64") for name in NAMES))
    write_table(table, tmp_path / "table.fits", schema=schema, provenance={})
    page = run_compare(tmp_path / f"ours{suffix}", tmp_path / "table.fits", WITHOUT_ERRORS).markdown()
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert len(headings) == 3
    assert all("simulated" in line for line in headings)
    real = run_compare(tmp_path / f"real{suffix}", tmp_path / "table.fits", WITHOUT_ERRORS).markdown()
    assert "simulated" not in real
    told = WITHOUT_ERRORS.model_copy(update={"simulated": False})
    assert "simulated" not in run_compare(tmp_path / f"ours{suffix}", tmp_path / "table.fits", told).markdown()


def test_plans_of_a_simulated_survey_are_known(tmp_path):
    schema = (Column("plan_id", "str"),)
    for plan, expected in (("SIM00000V1", True), ("HD0123", False)):
        write_table({"plan_id": [plan]}, tmp_path / "t.parquet", schema=schema, provenance={})
        assert is_simulated(tmp_path / "t.parquet") == expected


def test_numbers_as_text():
    assert number(-0.0001, 0.002, digits=2, sign=True) == "+0.00 ± 0.00"
    assert number(np.nan, 1.0, digits=0) == "-"


@pytest.mark.parametrize("name", REFERENCES)
def test_ready_settings_say_what_they_are_and_survive_toml(name, tmp_path):
    chosen = reference_settings(name)
    assert chosen.name
    assert chosen.citation
    assert chosen.where
    if not any("[" in column for column in chosen.columns.values()):
        (tmp_path / "one.toml").write_text(example_toml(chosen))
        assert read_settings_as(CompareSettings, tmp_path / "one.toml") == chosen


def test_the_papers_table_against_the_catalogue_it_came_from(tmp_path):
    values = {column.name: [None] * 3 for column in PAPER}
    values |= {"obsid": [1, 2, 3], "RV": [1.0, 2.0, 3.0], "Teff": [3500.0, 3600.0, 3700.0]}
    values |= {"Logg": [4.8, 4.9, 5.0], "[M/H]": [0.0, -0.1, -0.2]}
    write_table(values, tmp_path / "paper.fits", schema=PAPER, provenance={})
    names = ("obsid", "gaia_source_id", "snr_r", *NAMES)
    ours = {"obsid": [3, 2, 4], "gaia_source_id": [1, 2, 3], "snr_r": [30.0] * 3, "rv": [3.0, 2.0, 9.0]}
    ours |= {"teff": [3701.0, 3601.0, 1.0], "logg": [5.0, 4.9, 1.0], "m_h": [-0.2, -0.1, 1.0]}
    write_table(ours, tmp_path / "c.parquet", schema=[c for c in CATALOGUE if c.name in names], provenance={})
    found = run_compare(tmp_path / "c.parquet", tmp_path / "paper.fits", reference_settings("paper"))
    medians = {one.quantity: one.result.values.median for one in found.agreements[::4]}
    assert medians == pytest.approx({"rv": 0.0, "teff": 1.0, "logg": 0.0, "m_h": 0.0}, abs=1e-6)


def test_apogee_file_with_arrays_and_bad_stars(tmp_path):
    ids = np.array([11, 12, 11, 13], dtype=np.int64)
    table = Table(
        {"GAIAEDR3_SOURCE_ID": ids, "VHELIO_AVG": [1.0, 2.0, 3.0, 4.0], "TEFF": [3400.0, 3600.0, 3900.0, np.nan]}
    )
    table["LOGG"], table["M_H"], table["SNR"] = 4.7, [-0.1, -0.2, -0.3, np.nan], [50.0, 60.0, 90.0, 80.0]
    table["ASPCAPFLAG"], table["FPARAM"] = np.array([0, 0, 1 << 23, 0]), np.zeros((4, 8))
    fits.BinTableHDU(table).writeto(tmp_path / "allStar.fits")
    ours = {"gaia_source_id": [11, 12, 13], "snr_r": [30.0] * 3, "rv": [0.0] * 3, "teff": [3500.0] * 3}
    write_catalogue(tmp_path / "c.parquet", ours | {"logg": [4.8] * 3, "m_h": [0.0] * 3})
    matched = read_matched(tmp_path / "c.parquet", tmp_path / "allStar.fits", reference_settings("apogee-dr17"))
    np.testing.assert_array_equal(matched.reference["rv"], [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(matched.reference["m_h"], [np.nan, -0.2, np.nan])


@pytest.mark.parametrize(
    ("name", "file", "stars_in_common"), [("birky2020", "birky2020_safe.csv.gz", 30), ("mann2015", "mann2015.csv", 130)]
)
def test_published_tables_have_the_columns_that_are_named(shared_data, tmp_path, name, file, stars_in_common):
    folder = shared_data / "labels"
    carmenes = Table.read(folder / "carmenes_ix.csv.gz", format="ascii.csv")
    known = np.flatnonzero(~np.ma.getmaskarray(carmenes["pmra"]) & ~np.ma.getmaskarray(carmenes["GaiaDR3_id"]))
    rows = carmenes[known]
    names = ("gaia_source_id", "ra", "dec", "pmra", "pmdec", "snr_r", *NAMES)
    ours = {"gaia_source_id": np.asarray(rows["GaiaDR3_id"]), "snr_r": np.full(len(rows), 30.0)}
    ours |= {key: np.asarray(rows[key], dtype=float) for key in ("ra", "dec", "pmra", "pmdec")}
    labels = {"rv": "rv", "teff": "Teff_K", "logg": "logg", "m_h": "Fe_H"}
    ours |= {key: np.ma.filled(rows[column].astype(float), np.nan) for key, column in labels.items()}
    first = np.unique(ours["gaia_source_id"], return_index=True)[1]
    ours = {key: values[first] for key, values in ours.items()}
    schema = [c for c in CATALOGUE if c.name in names]
    write_table(ours, tmp_path / "c.parquet", schema=schema, provenance={})
    ours_in = {"position_epoch": 2016.0, "resamples": 0}
    itself = reference_settings("carmenes").model_copy(update=ours_in)
    found = run_compare(tmp_path / "c.parquet", folder / "carmenes_ix.csv.gz", itself)
    assert found.agreements[4].result.n > 1500
    assert abs(found.agreements[4].result.values.median) < 0.01
    chosen = reference_settings(name).model_copy(update=ours_in)
    agreement = run_compare(tmp_path / "c.parquet", folder / file, chosen).agreements
    teff = next(one.result for one in agreement if one.quantity == "teff")
    assert teff.n >= stars_in_common
    assert 0 < teff.values.median < 120
    assert teff.values.scatter < 150


def test_sentinels_of_another_table_are_not_compared_and_counted():
    ours = {"gaia_source_id": [7, 8, 9], "snr_r": [9.0] * 3, "teff": [3400.0] * 3, "logg": [4.8] * 3}
    table = {"id": [7, 8, 9], "Teff": [3410.0, -999.0, 99.99], "logg": np.ma.masked_array([4.9, 4.9, 50.0], [1, 0, 0])}
    matched = match_stars(ours, table, CompareSettings(columns={"teff": "Teff", "logg": "logg"}, key="id"))
    np.testing.assert_array_equal(matched.reference["teff"], [3410, np.nan, np.nan])
    np.testing.assert_array_equal(matched.reference["logg"], [np.nan, 4.9, np.nan])
    assert "reference: Teff: 2 of 3 values are outside 2000 to 7000 or stand for null" in " ".join(matched.notes)
