"""Kinematic ages: those of Zoomies' own loop, posteriors that keep their promise, and no age without its data."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stargap.catalogue import actions
from stargap.catalogue import ages as module
from stargap.catalogue.actions import vertical_action
from stargap.catalogue.ages import age_summary, is_young, kinematic_ages, zoomies_calibrations
from stargap.errors import UsageError
from stargap.flags import AgeFlag
from stargap.tables.columns import INT_NULL

ASTROMETRY = ("ra", "dec", "parallax", "pmra", "pmdec", "rv")
NULL = ~AgeFlag.ERROR_UNKNOWN


@pytest.fixture(scope="module")
def zoomies_table():
    """200 simulated stars, with ln Jz and ages computed by zoomies 1.0.0, gala 1.11.0 and galpy 1.12.1."""
    with (Path(__file__).parent / "zoomies_ages.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.fixture
def stars(zoomies_table):
    size = len(zoomies_table["ra"])
    errors = {"e_parallax": 0.05, "e_pmra": 0.05, "e_pmdec": 0.05, "e_rv": 6.0}
    columns = {name: zoomies_table[name].copy() for name in ASTROMETRY}
    return {"spectrum_id": np.arange(size)} | columns | {name: np.full(size, value) for name, value in errors.items()}


def test_actions_are_those_of_zoomies(zoomies_table):
    jz = vertical_action(*(zoomies_table[name] for name in ASTROMETRY))
    assert np.ptp(zoomies_table["ln_jz"]) > 5
    np.testing.assert_allclose(np.log(jz), zoomies_table["ln_jz"], atol=1e-4)


@pytest.mark.parametrize("name", ["rgb", "msto"])
def test_ages_are_those_of_zoomies(zoomies_table, name):
    ages = age_summary(zoomies_calibrations()[name], zoomies_table["ln_jz"])
    np.testing.assert_allclose(ages.mean, zoomies_table[f"age_{name}_mean"], atol=0.01)
    np.testing.assert_allclose(ages.median, zoomies_table[f"age_{name}_median"], atol=0.01)


@pytest.mark.parametrize("name", ["rgb", "msto"])
def test_spline_is_monotonic_with_the_published_slopes(name):
    calibration = zoomies_calibrations()[name]
    knots, step = np.array(calibration.knots), 1e-6
    slopes = (calibration.ln_jz(knots) - calibration.ln_jz(knots - step)) / step
    np.testing.assert_allclose(slopes[1:], calibration.values[1:], atol=1e-5)
    assert calibration.ln_jz(knots[0]) == calibration.values[0]
    assert (np.diff(calibration.ln_jz(np.linspace(-1, 15, 500))) > 0).all()


def test_the_sun_moves_north():
    rv = np.linspace(-60, 60, 241)
    jz = vertical_action(192.859, 27.128, 1000.0, 0.0, 0.0, rv)  # a parsec from us towards the galactic pole
    assert rv[jz.argmin()] == pytest.approx(-8.0, abs=0.5)
    speed = np.abs(rv + 8)
    slow = (speed > 4) & (speed < 16)
    slope = np.polyfit(np.log(speed[slow]), np.log(jz[slow]), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.1)  # nearly harmonic close to the plane


def toy(size, sigma, rng):
    """Stars of uniform ages in a harmonic potential, whose vertical velocity is seen with an error (km/s)."""
    calibration, frequency = zoomies_calibrations()["rgb"], 70.0
    age = rng.uniform(0, 14, size)
    jz = np.exp(rng.normal(calibration.ln_jz(age), np.sqrt(calibration.variance)))
    phase = rng.uniform(0, 2 * np.pi, size)
    velocity, height = np.sqrt(2 * frequency * jz) * np.cos(phase), np.sqrt(2 * jz / frequency) * np.sin(phase)
    seen = (velocity + sigma * rng.standard_normal(size))[:, None] + sigma * 2 * np.array([1, -1, 0, 0, 0, 0, 0, 0])
    return age, np.log((seen**2 / frequency + frequency * height[:, None] ** 2) / 2)


@pytest.mark.parametrize("sigma", [0.0, 12.0])
def test_percentiles_hold_their_share_of_the_truth(sigma):
    age, ln_jz = toy(20_000, sigma, np.random.default_rng(5))
    ages = age_summary(zoomies_calibrations()["rgb"], ln_jz)
    for limit, share in ((ages.p16, 0.16), (ages.median, 0.5), (ages.p84, 0.84)):
        assert (age < limit).mean() == pytest.approx(share, abs=0.012)
    assert (age - ages.mean).mean() == pytest.approx(0.0, abs=0.1)


def test_one_value_repeated_is_one_value():
    calibration, ln_jz = zoomies_calibrations()["msto"], np.array([-30.0, -3.0, 1.0, 12.0])
    once, often = age_summary(calibration, ln_jz), age_summary(calibration, np.tile(ln_jz[:, None], 7))
    np.testing.assert_allclose(once, often, rtol=1e-9)
    assert (np.array(once)[2] < np.array(once)[1]).all()
    assert (np.array(once)[1] < np.array(once)[3]).all()
    assert (np.diff(once.mean) > 0).all()
    assert (np.array(once) >= 0).all()
    assert (np.array(once) <= 14).all()


def test_errors_widen_ages_and_none_leave_them(stars):
    exact = kinematic_ages(stars | {name: np.zeros(200) for name in ("e_rv", "e_pmra", "e_pmdec")})
    wide = kinematic_ages(stars | {"e_rv": np.full(200, 12.0)})
    usual = kinematic_ages(stars)
    steps = [one.columns["e_ln_jz"] for one in (exact, usual, wide)]
    assert np.median(steps[0]) < 0.3 * np.median(steps[1]) < 0.5 * np.median(steps[2])
    np.testing.assert_array_equal(exact.columns["ln_jz"], wide.columns["ln_jz"])


def test_stars_do_not_touch_each_other(stars, monkeypatch):
    few = {name: values[:40] for name, values in stars.items()}
    whole, order = kinematic_ages(few), np.random.default_rng(0).permutation(40)
    monkeypatch.setattr(module, "BLOCK", 17)
    mixed = kinematic_ages({name: values[order] for name, values in few.items()})
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(mixed.columns[name], values[order])


@pytest.mark.parametrize(
    ("column", "value", "flag"),
    [
        ("rv", np.nan, AgeFlag.NO_RV),
        ("rv", INT_NULL, AgeFlag.NO_RV),
        ("parallax", np.nan, AgeFlag.NO_PARALLAX),
        ("parallax", -1.0, AgeFlag.LOW_PARALLAX_SNR),
        ("e_parallax", 9.0, AgeFlag.LOW_PARALLAX_SNR),
        ("e_parallax", np.nan, AgeFlag.LOW_PARALLAX_SNR),
        ("e_parallax", 0.0, AgeFlag.LOW_PARALLAX_SNR),
        ("pmra", np.nan, AgeFlag.NO_PROPER_MOTION),
        ("pmdec", np.inf, AgeFlag.NO_PROPER_MOTION),
        ("ra", np.nan, AgeFlag.NO_POSITION),
        ("dec", 91.0, AgeFlag.NO_POSITION),
        ("rv", 3000.0, AgeFlag.NO_ACTION),
    ],
)
def test_no_age_without_its_data(stars, column, value, flag):
    before = kinematic_ages(stars)
    stars[column][3] = value
    ages = kinematic_ages(stars)
    assert ages.columns["age_flags"][3] == flag
    for name, values in ages.columns.items():
        assert name == "age_flags" or np.isnan(values[3]), name
        np.testing.assert_array_equal(np.delete(values, 3), np.delete(before.columns[name], 3))
    assert ages.aged == before.aged - 1


@pytest.mark.parametrize("column", ["e_rv", "e_pmra", "e_pmdec"])
def test_an_unknown_error_is_told_and_counts_as_none(stars, column):
    known = kinematic_ages(stars | {column: np.zeros(200)})
    missing = {name: values for name, values in stars.items() if name != column}
    for unknown in (kinematic_ages(missing), kinematic_ages(missing | {column: np.full(200, -1.0)})):
        assert (unknown.columns["age_flags"] == AgeFlag.ERROR_UNKNOWN).all()
        np.testing.assert_array_equal(unknown.columns["age_rgb_mean"], known.columns["age_rgb_mean"])


def test_no_rows_and_no_columns():
    empty = kinematic_ages({"spectrum_id": []})
    assert (empty.aged, empty.young) == (0, {"rgb": 0, "msto": 0})
    assert all(values.shape == (0,) for values in empty.columns.values())
    bare = kinematic_ages({"spectrum_id": [1, 2]})
    wanted = AgeFlag.NO_RV | AgeFlag.NO_PARALLAX | AgeFlag.NO_PROPER_MOTION | AgeFlag.NO_POSITION
    assert (bare.columns["age_flags"] == wanted | AgeFlag.ERROR_UNKNOWN).all()
    with pytest.raises(UsageError, match="spectrum_id"):
        kinematic_ages({"rv": [1.0]})


def test_counts_of_the_papers_cut(stars):
    ages = kinematic_ages(stars)
    for name in ("rgb", "msto"):
        mean, median = (ages.columns[f"age_{name}_{what}"] for what in ("mean", "median"))
        assert ages.young[name] == ((mean < 1) | (median < 1)).sum() == is_young(ages.columns, name).sum()
    assert ages.aged == 200


def test_only_the_coldest_orbits_are_young():
    for name, limit in (("rgb", -3.6), ("msto", -2.84)):
        ln_jz = np.linspace(-8, 8, 1601)
        ages = age_summary(zoomies_calibrations()[name], ln_jz)
        young = is_young({f"age_{name}_{what}": getattr(ages, what) for what in ("mean", "median")}, name)
        assert (np.diff(young.astype(int)) <= 0).all()
        assert ln_jz[young].max() == pytest.approx(limit, abs=0.05)


def test_young_groups_near_the_sun_are_on_colder_orbits(shared_data):
    with gzip.open(shared_data / "labels" / "carmenes_ix.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {f"e_{name}": f"{name}_error" for name in ("parallax", "pmra", "pmdec", "rv")} | {n: n for n in ASTROMETRY}
    columns = {ours: [float(row[theirs] or "nan") for row in rows] for ours, theirs in names.items()}
    ages = kinematic_ages({"spectrum_id": np.arange(len(rows)), **columns})
    group = np.array([row["Group"] for row in rows])
    ln_jz = ages.columns["ln_jz"]
    young = np.isin(group, ("Hya", "beta Pic", "UMa", "AB Dor", "Col", "Car")) & np.isfinite(ln_jz)
    field = (group == "") & np.isfinite(ln_jz)
    assert young.sum() > 150
    assert np.median(ln_jz[young]) < np.median(ln_jz[field]) - 0.5
    assert np.median(ages.columns["age_rgb_mean"][young]) < np.median(ages.columns["age_rgb_mean"][field])
    assert 0 < ages.young["rgb"] < ages.young["msto"] < 0.2 * ages.aged
    assert ages.aged + ((ages.columns["age_flags"] & NULL) != 0).sum() == len(rows)


def test_without_galpy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "galpy", None)
    actions._galaxy.cache_clear()
    with pytest.raises(UsageError, match=r"stargap\[ages\]"):
        vertical_action(10.0, 10.0, 10.0, 1.0, 1.0, 1.0)
    monkeypatch.undo()
    assert np.isfinite(vertical_action(10.0, 10.0, 10.0, 1.0, 1.0, 1.0)).all()


def test_galpy_neither_asks_the_network_nor_writes_home(tmp_path):
    code = (
        "import http.client, pathlib, sys\n"
        "def refuse(*_, **__): raise SystemExit('network')\n"
        "http.client.HTTPSConnection = refuse\n"
        "from stargap.catalogue.actions import vertical_action\n"
        "vertical_action(10.0, 10.0, 10.0, 1.0, 1.0, 1.0)\n"
        "sys.exit(str([path.name for path in pathlib.Path.home().glob('.galpyrc')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr.strip() == "[]"
