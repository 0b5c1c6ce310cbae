"""Joins by id and by sky: astropy's space motion agrees, and no star is missed however fast or wherever it is."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import julian_epoch, match_ids, match_sky, separations
from stargap.tables.nulls import whole_ids

GAIA = 6917528997577384321
quick = settings(max_examples=30, deadline=None)
ids = st.integers(1, 2**63 - 1) | st.just(INT_NULL)


def stars(ra, dec, pmra=0.0, pmdec=0.0, **others):
    ra, dec, pmra, pmdec = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (ra, dec, pmra, pmdec)))
    return {"ra": ra, "dec": dec, "pmra": pmra, "pmdec": pmdec, **others}


def moved(table, epoch, reference=2016.0):
    """Astropy's positions of a table at an epoch."""
    distance = np.full(len(table["ra"]), 10.0) * u.pc
    rates = {"pm_ra_cosdec": table["pmra"] * u.mas / u.yr, "pm_dec": table["pmdec"] * u.mas / u.yr}
    start = Time(reference, format="jyear", scale="tdb")
    here = SkyCoord(table["ra"] * u.deg, table["dec"] * u.deg, distance=distance, obstime=start, **rates)
    there = here.apply_space_motion(new_obstime=Time(epoch, format="jyear", scale="tdb"))
    return SkyCoord(there.ra, there.dec)


@quick
@given(st.lists(ids, max_size=20, unique=True), st.lists(ids, max_size=20), st.randoms())
def test_ids_join_as_a_dictionary_does(there, wanted, random):
    wanted = [*wanted, *there]
    random.shuffle(wanted)
    rows = {value: row for row, value in enumerate(there) if value != INT_NULL}
    assert match_ids(wanted, there).tolist() == [rows.get(value, -1) for value in wanted]


def test_ids():
    assert match_ids([GAIA, GAIA + 1], [GAIA + 1, GAIA + 2]).tolist() == [-1, 0]
    assert match_ids([], [GAIA]).tolist() == []
    assert match_ids([GAIA], []).tolist() == [-1]
    assert match_ids([INT_NULL], [INT_NULL, INT_NULL]).tolist() == [-1]
    with pytest.raises(UsageError, match=f"2 of 4 ids of the table repeat, such as {GAIA}"):
        match_ids([1], [GAIA, GAIA, 3, GAIA])


def test_ids_never_come_from_floats():
    assert whole_ids(np.array([np.nan, np.nan])).tolist() == [INT_NULL, INT_NULL]
    assert whole_ids(np.array([str(GAIA), ""], dtype=object)).tolist() == [GAIA, INT_NULL]
    assert whole_ids([]).dtype == np.int64
    with pytest.raises(UsageError, match="source_id: holds floats"):
        whole_ids([1.0, np.nan], "source_id")
    for word in ("J0012", str(2**64), "1.5"):
        with pytest.raises(UsageError, match=f"no identifier, such as '{word}'"):
            whole_ids(["7", "", word])


def test_julian_epoch_is_astropys():
    days = np.array([55859, 58575])
    np.testing.assert_allclose(julian_epoch(days), Time(days, format="mjd").jyear, rtol=1e-12)
    assert np.isnan(julian_epoch([INT_NULL, np.nan])).all()


@quick
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 359.9999, 123.4]),
            st.sampled_from([90.0, -90.0, 89.9999, -89.9995, 0.0, 45.0]),
            st.floats(-0.003, 0.003),
            st.floats(-0.003, 0.003),
            st.floats(-10_400, 10_400),
            st.floats(-10_400, 10_400),
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(1990, 2025),
    st.integers(0, 2**31),
)
def test_matches_are_those_of_astropy(rows, epoch, seed):
    ra, dec, east, north, pmra, pmdec = (np.array(column) for column in zip(*rows, strict=True))
    table = stars((ra + east) % 360, np.clip(dec + north, -90, 90), pmra, pmdec)
    random = np.random.default_rng(seed)
    places = moved(table, epoch)
    ours = places.directional_offset_by(
        random.uniform(0, 360, len(ra)) * u.deg, random.uniform(0, 6, len(ra)) * u.arcsec
    )
    apart = ours[:, None].separation(places[None, :]).arcsec
    if (abs(apart - 3.0) < 1e-4).any() or (np.diff(np.sort(apart, axis=1)[:, :2], axis=1) < 1e-4).any():
        return
    match = match_sky(ours.ra.deg, ours.dec.deg, epoch, table, radius_arcsec=3.0)
    near = apart <= 3.0
    np.testing.assert_array_equal(match.rows, np.where(near.any(axis=1), apart.argmin(axis=1), -1))
    np.testing.assert_array_equal(match.ambiguous, near.sum(axis=1) > 1)
    np.testing.assert_allclose(match.separation, np.where(near.any(axis=1), apart.min(axis=1), np.nan), atol=1e-4)


def test_each_position_has_its_epoch_and_each_star_its_own():
    table = stars([10.0, 20.0], [5.0, 60.0], [3000.0, -5000.0], [-4000.0, 8000.0], ref_epoch=[2016.0, 2015.5])
    epochs = np.array([2000.0, 2012.0, 2021.0])
    for star in range(2):
        one = {name: values[star : star + 1] for name, values in table.items()}
        places = [moved(one, epoch, one["ref_epoch"][0]) for epoch in epochs]
        ra, dec = (np.array([getattr(place, name).deg[0] for place in places]) for name in ("ra", "dec"))
        match = match_sky(ra, dec, epochs, table, radius_arcsec=1.0)
        assert match.rows.tolist() == [star] * 3
        assert match.separation.max() < 1e-4
        assert (match_sky(ra, dec, epochs[::-1], table, radius_arcsec=1.0).rows == [-1, star, -1]).sum() >= 2
    still = match_sky([10.0], [5.0], np.nan, table, radius_arcsec=1.0)
    assert still.rows.tolist() == [0]


@quick
@given(st.floats(-8000, 8000), st.floats(-8000, 8000), st.floats(1985, 2030), st.floats(0, 2), st.integers(0, 360))
def test_closest_approach_between_two_epochs(pmra, pmdec, when, offset, angle):
    table = stars([359.9999], [80.0], [pmra], [pmdec])
    ours = moved(table, when).directional_offset_by(angle * u.deg, offset * u.arcsec)
    track = moved({name: np.repeat(values, 2001) for name, values in table.items()}, np.linspace(2000, 2014, 2001))
    least = ours.separation(track).arcsec.min()
    rows = np.array([0])
    found = separations(ours.ra.deg, ours.dec.deg, 2014.0, table, rows, earliest=2000.0)
    assert found == pytest.approx(least, abs=0.045)  # half a step of the fastest
    assert found <= least + 1e-4
    turned = separations(ours.ra.deg, ours.dec.deg, 2000.0, table, rows, earliest=2014.0)
    assert turned == pytest.approx(found, abs=1e-9)
    match = match_sky(ours.ra.deg, ours.dec.deg, 2014.0, table, radius_arcsec=3.0, earliest=2000.0)
    assert (match.rows[0] == 0) == (found[0] <= 3.0)


def test_nulls_match_nothing():
    table = stars([10.0, np.nan, 30.0, 40.0], [0.0, 0.0, np.nan, 95.0], [np.nan, 0, 0, 0], [np.nan, 0, 0, 0])
    ra = np.array([10.0, np.nan, 30.0, 10.0, 40.0, np.inf])
    dec = np.array([0.0, 0.0, 0.0, np.nan, 95.0, 0.0])
    match = match_sky(ra, dec, 2014.0, table, radius_arcsec=3.0)
    assert match.rows.tolist() == [0, -1, -1, -1, -1, -1]
    assert np.isnan(match.separation[1:]).all()
    assert np.isnan(separations(ra, dec, 2014.0, table, np.arange(6) % 4)[1:3]).all()


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (0, 3), (3, 0), (1, 1)])
def test_empty_tables(ours, theirs):
    table = {name: values[:theirs] for name, values in stars([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).items()}
    match = match_sky(np.arange(1.0, 1.0 + ours), np.zeros(ours), np.nan, table, radius_arcsec=3.0, earliest=2000.0)
    assert match.rows.tolist() == [0] * min(ours, theirs) + [-1] * (ours - min(ours, theirs))
    assert match.rows.dtype == np.int64


def test_two_stars_in_the_radius():
    table = stars([10.0, 10.0, 10.0], [0.0, 2 / 3600, 9 / 3600])
    match = match_sky(
        [10.0, 370.0, -350.0, 10.0], [0.4 / 3600, 1.4 / 3600, 9 / 3600, 1.0], 2016.0, table, radius_arcsec=3
    )
    assert match.rows.tolist() == [0, 1, 2, -1]
    assert match.ambiguous.tolist() == [True, True, False, False]
    np.testing.assert_allclose(match.separation, [0.4, 0.6, 0, np.nan], atol=1e-6)


def test_a_neighbour_of_a_fast_star_is_left_alone():
    table = stars([10.0, 10.0], [0.0, 50 / 3600], [0.0, 0.0], [10_000.0, 0.0])
    match = match_sky([10.0], [50 / 3600], 2016.0, table, radius_arcsec=3.0, earliest=2000.0)
    assert (match.rows.tolist(), match.ambiguous.tolist()) == ([1], [False])


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, 3601.0])
def test_radius(radius):
    with pytest.raises(UsageError, match="the radius is"):
        match_sky([1.0], [1.0], 2016.0, stars([1.0], [1.0]), radius_arcsec=radius)


def test_blocks_do_not_matter(monkeypatch):
    random = np.random.default_rng(5)
    table = stars(random.uniform(0, 0.2, 400), random.uniform(-0.1, 0.1, 400), random.normal(0, 2000, 400), 0.0)
    ra, dec, epoch = random.uniform(0, 0.2, 900), random.uniform(-0.1, 0.1, 900), random.uniform(2011, 2022, 900)
    whole = match_sky(ra, dec, epoch, table, radius_arcsec=20.0, earliest=2000.0)
    monkeypatch.setattr("stargap.tables.crossmatch._BLOCK", 70)
    parts = match_sky(ra, dec, epoch, table, radius_arcsec=20.0, earliest=2000.0)
    assert 100 < (whole.rows >= 0).sum() < 900
    for name in ("rows", "separation", "ambiguous"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
