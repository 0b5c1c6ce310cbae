"""Gaia's table sorted: what a shard reads of it joins as the whole table does, wherever its spectra are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.survey.gaia.join import join_gaia, read_gaia
from stargap.survey.gaia.sorted import sort_sources, sources_near
from stargap.survey.sample import select
from stargap.tables.columns import INT_NULL
from stargap.tables.parquet import write_columns

NEAR = {"radius_arcsec": 3.0, "earliest": 2000.0}
PLACES = st.tuples(
    st.sampled_from([0.0, 1e-4, 359.9999, 180.0, 123.4]),
    st.sampled_from([-90.0, -89.9995, 0.0, 0.05, 45.0, 89.999, 90.0]),
)


def sky(rng, count):
    """Sources crowded at the poles, at RA 0 and at edges of zones, some very fast, some without place or motion."""
    ra, dec = (
        np.array([0.0, 0.0005, 359.9995, 200.0])[rng.integers(0, 4, count)],
        rng.choice([-90, -0.05, 0.1, 89.99], count),
    )
    speed = 10.0 ** rng.uniform(0, 4.3, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    table = {
        "source_id": rng.permutation(count).astype(np.int64) + 1,
        "ra": (ra + rng.normal(0, 1e-3, count)) % 360,
        "dec": np.clip(dec + rng.normal(0, 1e-3, count), -90, 90),
        "pmra": np.where(rng.random(count) < 0.1, np.nan, speed * np.cos(angle)),
        "pmdec": speed * np.sin(angle),
        "ref_epoch": rng.choice([2015.5, 2016.0, np.nan], count),
        "ruwe": rng.uniform(0.8, 2, count),
        "ph_qual": rng.choice(["AAA", "AAU", ""], count).astype(object),
    }
    table["source_id"][: count // 20] = table["source_id"][
        count // 20 : 2 * (count // 20)
    ]  # repeats: the first row counts
    table["source_id"][-2:] = INT_NULL
    table["ra"][5], table["dec"][6] = np.nan, 95.0
    return table


def spectra(rng, table, count):
    """Spectra of these sources at epochs of 2000 to 2020, one in three with an identifier, some of nothing."""
    row = rng.integers(0, len(table["ra"]), count)
    lmjd = rng.integers(51_600, 59_000, count)
    years = rng.uniform(-16, 4, count)
    motion = [np.nan_to_num(table[name][row]) * years / 3.6e6 for name in ("pmra", "pmdec")]
    dec = table["dec"][row] + motion[1]
    ra = table["ra"][row] + motion[0] / np.maximum(np.cos(np.radians(table["dec"][row])), 0.01)
    ids = np.where(rng.random(count) < 0.3, table["source_id"][row], rng.choice([INT_NULL, 999_999], count))
    place = {"ra": ra + rng.normal(0, 2e-4, count), "dec": dec + rng.normal(0, 2e-4, count)}
    return {"spectrum_id": np.arange(count), "gaia_source_id": ids, "lmjd": lmjd, **place}


@pytest.mark.parametrize("seed", range(2))
def test_what_a_shard_reads_joins_as_the_whole_table(tmp_path, seed):
    rng = np.random.default_rng(seed)
    table = sky(rng, 2000)
    write_columns(tmp_path / "gaia.parquet", table)
    files = sort_sources(tmp_path / "gaia.parquet", tmp_path / "sorted")
    assert sorted(files) == sorted((tmp_path / "sorted").iterdir())
    whole = read_gaia(tmp_path / "gaia.parquet")
    for count in (0, 1, 200):
        index = spectra(rng, table, count)
        near = sources_near(tmp_path / "sorted", index, **NEAR)
        expected, found = join_gaia(index, whole, **NEAR), join_gaia(index, near, **NEAR)
        for name, values in expected.columns.items():
            np.testing.assert_array_equal(found.columns[name], values, strict=True)
        np.testing.assert_array_equal(found.by_position, expected.by_position)
        np.testing.assert_array_equal(found.ambiguous, expected.ambiguous)
        assert found.false_values == expected.false_values
        cuts = [select(index, sources).columns["sample_flags"] for sources in (near, whole)]
        np.testing.assert_array_equal(*cuts)
    assert expected.by_position.any()
    assert expected.ambiguous.any()


def test_few_sources_are_read_for_few_spectra(tmp_path):
    rng = np.random.default_rng(5)
    count = 20_000
    table = {"source_id": np.arange(count), "ra": rng.uniform(0, 360, count)}
    table["dec"] = np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    write_columns(tmp_path / "gaia.parquet", table)
    sort_sources(tmp_path / "gaia.parquet", tmp_path / "sorted")
    some = rng.permutation(count)[:100]
    index = {"spectrum_id": some, "ra": table["ra"][some], "dec": table["dec"][some]}
    found = sources_near(tmp_path / "sorted", index, **NEAR)["source_id"]
    assert set(found) >= set(some)
    assert len(found) < 110


@settings(max_examples=20, deadline=None)
@given(PLACES, st.floats(0.0, 360.0), st.floats(0.0, 1.0))
def test_no_source_within_the_radius_is_missed(tmp_path_factory, place, angle, share):
    folder = tmp_path_factory.mktemp("sky")
    ra, dec = (np.radians(value) for value in place)
    far, turn = np.radians(share * 2.99 / 3600), np.radians(angle)
    there = np.arcsin(np.clip(np.sin(dec) * np.cos(far) + np.cos(dec) * np.sin(far) * np.cos(turn), -1, 1))
    east = np.arctan2(np.sin(turn) * np.sin(far) * np.cos(dec), np.cos(far) - np.sin(dec) * np.sin(there))
    star = {"source_id": [7], "ra": [np.degrees(ra + east) % 360], "dec": [np.degrees(there)]}
    write_columns(folder / "gaia.parquet", {name: np.array(values) for name, values in star.items()})
    sort_sources(folder / "gaia.parquet", folder / "sorted")
    index = {"spectrum_id": [0], "ra": [place[0]], "dec": [place[1]]}
    assert sources_near(folder / "sorted", index, **NEAR)["source_id"].tolist() == [7]


def test_an_empty_table(tmp_path):
    (tmp_path / "gaia.csv").write_text("source_id,ra,dec\n")
    sort_sources(tmp_path / "gaia.csv", tmp_path / "sorted")
    near = sources_near(tmp_path / "sorted", {"spectrum_id": [0], "ra": [1.0], "dec": [1.0]}, **NEAR)
    assert [len(values) for values in near.values()] == [0, 0, 0]
