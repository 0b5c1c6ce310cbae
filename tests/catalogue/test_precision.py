"""Errors from repeats: calibrated against a truth that the model never sees, whatever the fit said of itself."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.catalogue.precision import ErrorModel, Precision, fit_precision, published_errors
from stargap.errors import UsageError
from stargap.flags import PrecisionFlag
from stargap.tables.columns import INT_NULL

BINS = ((5, 10), (10, 20), (20, 50), (50, 300))


def scatter(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def survey(stars=12_000, *, seed=0, noise=(250.0, 4.0), fit=1.0, bend=0.0, tails=0.04, systematic=0.0, most=6):
    """Teff of stars seen once to `most` times, with the error of a fit that is wrong by `fit` (S/N / 20)^`bend`.

    True errors are noise[0] / (S/N) + noise[1], and differ by 20 % from star to star; a fraction `tails` of the
    spectra is off by four times as much.
    """
    rng = np.random.default_rng(seed)
    star = np.repeat(np.arange(stars), rng.integers(1, most + 1, stars))
    size = len(star)
    snr = np.exp(np.log(15) + 0.8 * rng.standard_normal(stars))[star] * np.exp(0.35 * rng.standard_normal(size))
    snr = np.clip(snr, 5, 299)
    sigma = (noise[0] / snr + noise[1]) * np.exp(0.2 * rng.standard_normal(stars))[star]
    wild = np.where(rng.random(size) < tails, 4.0, 1.0)
    truth, own = rng.uniform(2900, 4000, stars)[star], (systematic * rng.standard_normal(stars))[star]
    return {
        "gaia_source_id": star + 10**18,
        "snr_r": snr,
        "teff": truth + 30 + own + sigma * wild * rng.standard_normal(size),
        "e_teff": sigma * fit * (snr / 20) ** bend,
        "truth": truth,
        "sigma": sigma,
    }


def fitted(table, **options):
    return fit_precision(table, names=["teff"], **options)


def pulls(table, error):
    """Robust scatter of (ours - truth) / error in four bins of S/N, the bias removed."""
    delta, snr = table["teff"] - table["truth"], table["snr_r"]
    inside = [(snr >= low) & (snr < high) for low, high in BINS]
    assert min(rows.sum() for rows in inside) > 500
    return np.array([scatter((delta[rows] - np.median(delta[rows])) / error[rows]) for rows in inside])


@pytest.mark.parametrize(("fit", "bend"), [(1.0, 0.0), (0.4, 0.0), (2.5, 0.0), (1.5, 0.5), (0.7, -0.4)])
def test_published_errors_are_calibrated_in_every_bin(fit, bend):
    table, other = (survey(seed=seed, fit=fit, bend=bend) for seed in (1, 2))
    model = fitted(table)
    ours = pulls(other, published_errors(model, other)["e_teff"])
    assert (np.abs(ours - 1) < 0.1).all(), ours
    before = pulls(other, other["e_teff"])
    assert (fit, bend) == (1.0, 0.0) or np.abs(before - 1).max() > 0.2


def test_a_fit_that_knows_no_floor_gets_one():
    table = survey(noise=(250.0, 0.0), seed=3)
    table["teff"] += np.random.default_rng(9).normal(0, 12, len(table["teff"]))
    model = fitted(table).errors["teff"]
    assert model.floor == pytest.approx(12, abs=3)
    assert (np.abs(pulls(table, model.calibrated_error(table["e_teff"], table["snr_r"])) - 1) < 0.1).all()


def test_the_papers_errors_count_the_noise_twice():
    table = survey(seed=4, fit=1.0, tails=0.0)
    errors = published_errors(fitted(table), table)
    np.testing.assert_allclose(pulls(table, errors["e_teff_paper"]), np.sqrt(0.5), atol=0.07)
    np.testing.assert_allclose(pulls(table, errors["e_teff"]), 1.0, atol=0.07)
    np.testing.assert_allclose(errors["e_teff_paper"], np.hypot(errors["e_teff_repeat"], table["e_teff"]))


def test_what_a_stars_spectra_share_does_not_show_in_repeats():
    table, other = (survey(seed=seed, systematic=25.0) for seed in (5, 6))
    error = published_errors(fitted(table), other)["e_teff"]
    assert (pulls(other, error)[1:] > 1.2).all()
    assert (np.abs(pulls(other, np.hypot(error, 25.0)) - 1) < 0.1).all()


@pytest.mark.parametrize("most", [2, 8])
def test_the_curve_does_not_depend_on_how_often_stars_were_seen(most):
    table = survey(20_000 if most == 2 else 5000, seed=7, tails=0.0, most=most)
    one = fitted(table).errors["teff"]
    assert one.a == pytest.approx(250, rel=0.06)
    assert one.b == pytest.approx(4, abs=1.2)
    assert 0 < one.e_a < 15
    assert 0 < one.e_b < 1
    for point in one.bins:
        assert abs(point.scatter - one.repeat_error(point.snr)) < 5 * point.e_scatter
        assert point.pull == pytest.approx(1, abs=0.2)


def test_a_bad_spectrum_beside_a_good_one_tells_nothing_of_the_good_one():
    """Pairs of S/N 100 and 8: the distance of the good spectrum from the mean is the noise of the bad one."""
    rng = np.random.default_rng(8)
    star = np.concatenate([np.repeat(np.arange(1500), 2), 5000 + np.repeat(np.arange(400), 2)])
    snr = np.concatenate([np.tile([100.0, 8.0], 1500), np.repeat(rng.uniform(60, 120, 400), 2)])
    snr = snr * rng.uniform(0.9, 1.1, len(snr))
    sigma = 400 / snr
    table = {"gaia_source_id": star, "snr_r": snr, "teff": rng.normal(3500, sigma), "e_teff": sigma}
    one = fitted(table).errors["teff"]
    assert one.repeat_error(100.0) == pytest.approx(4, rel=0.15)
    assert one.calibrated_error(4.0, 100.0) == pytest.approx(4, rel=0.15)


def test_errors_of_the_model_are_honest():
    """Over surveys, a, b and the scale differ from the truth about as much as their errors say."""
    off = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        star, snr = np.repeat(np.arange(1200), 3), np.exp(rng.uniform(np.log(5), np.log(150), 3600))
        sigma = 300 / snr + 5
        table = {"gaia_source_id": star, "snr_r": snr, "teff": rng.normal(3500, sigma), "e_teff": sigma / 2}
        one = fitted(table).errors["teff"]
        middle = one.calibrated_error(10.0, 20.0)  # the fit's error at S/N 20, with the floor
        off.append([(one.a - 300) / one.e_a, (one.b - 5) / one.e_b, (middle - 20) / 20 * 10])
    spread = np.sqrt(np.mean(np.square(off), axis=0))
    assert (spread[:2] > 0.5).all()
    assert (spread[:2] < 1.6).all()
    assert spread[2] < 0.5  # 5 %


def test_a_negative_b_is_held_at_zero_and_told():
    rng = np.random.default_rng(10)
    star, snr = np.repeat(np.arange(1500), 3), rng.uniform(5, 60, 4500)
    table = {"gaia_source_id": star, "snr_r": snr, "teff": rng.normal(3500, 2000 / snr**1.6), "e_teff": 300 / snr}
    steep = fitted(table).errors["teff"]
    assert (steep.held, steep.b) == ("b", 0.0)
    assert steep.a > 0
    assert steep.e_b > 0
    table["teff"] = rng.normal(3500, 2 * snr)
    rising = fitted(table).errors["teff"]
    assert (rising.held, rising.a) == ("a", 0.0)
    assert rising.b > 0


@pytest.mark.parametrize("repeats", [0, 1, 2, 40, 99])
def test_too_few_repeats_leave_errors_and_say_so(repeats):
    star = np.concatenate([np.arange(500), np.arange(repeats)])
    rng = np.random.default_rng(0)
    table = {"gaia_source_id": star, "snr_r": rng.uniform(5, 50, len(star)), "teff": rng.normal(3500, 9, len(star))}
    table["e_teff"] = np.full(len(star), 7.0)
    model = fitted(table)
    one = model.errors["teff"]
    assert (one.calibrated, one.stars, one.repeats, one.a, one.snr_range) == (False, repeats, repeats, None, None)
    errors = published_errors(model, table)
    assert (errors["e_teff"] == 7.0).all()
    assert np.isnan(errors["e_teff_repeat"]).all()
    assert np.isnan(errors["e_teff_paper"]).all()
    assert (errors["precision_flags"] == PrecisionFlag.NOT_CALIBRATED).all()


@pytest.mark.parametrize("same", ["teff", "snr_r"])
def test_repeats_that_do_not_differ_calibrate_nothing(same):
    table = survey(1000, seed=1) | {}
    table[same] = np.full(len(table[same]), 3500.0 if same == "teff" else 20.0)
    assert not fitted(table).errors["teff"].calibrated


def test_extrapolation_is_marked():
    model = fitted(survey(2000, seed=2))
    low, high = model.errors["teff"].snr_range
    snr = np.array([low, high, low * 0.99, high * 1.01, 0.0, -3.0, np.nan, np.inf, INT_NULL])
    errors = published_errors(model, {"snr_r": snr, "e_teff": np.full(9, 20.0)})
    outside, none = PrecisionFlag.OUTSIDE_SNR, PrecisionFlag.NO_SNR
    assert errors["precision_flags"].tolist() == [0, 0, outside, outside, none, none, none, none, none]
    for name in ("e_teff", "e_teff_repeat", "e_teff_paper"):
        assert np.isfinite(errors[name][:4]).all()
        assert np.isnan(errors[name][4:]).all()
    assert (errors["e_teff_fit"] == 20).all()


def test_a_missing_fit_error_stays_missing():
    model = fitted(survey(2000, seed=2))
    errors = published_errors(model, {"snr_r": [20.0, 20.0], "e_teff": [np.nan, 10.0]})
    assert np.isnan(errors["e_teff"][0])
    assert errors["e_teff"][1] > 0
    assert published_errors(model, {"snr_r": [20.0]})["e_teff"].shape == (1,)


def test_stars_without_identifier_and_spectra_not_used_are_no_repeats():
    table = survey(3000, seed=3)
    reference = fitted(table)
    size = len(table["teff"])
    junk = {name: np.concatenate([values, values[:500]]) for name, values in table.items()}
    junk["gaia_source_id"][size:] = INT_NULL
    junk["teff"][size:] += 500
    assert fitted(junk) == reference
    junk["gaia_source_id"][size:] = junk["gaia_source_id"][:500]
    assert fitted(junk, use=np.arange(size + 500) < size) == reference
    assert fitted(junk) != reference
    junk["teff"][size:] = np.nan
    assert fitted(junk) == reference


def test_groups_can_have_another_name_and_order_does_not_matter():
    table = survey(3000, seed=3)
    order = np.random.default_rng(1).permutation(len(table["teff"]))
    mixed = {name: values[order] for name, values in table.items()}
    mixed["group"] = mixed.pop("gaia_source_id")
    one, two = fitted(table).errors["teff"], fitted(mixed, star="group").errors["teff"]
    assert (one.scale, one.a, one.b) == pytest.approx((two.scale, two.a, two.b), rel=1e-6)


def test_json_keeps_every_number():
    model = fitted(survey(2000, seed=2))
    text = model.model_dump_json()
    assert Precision.model_validate_json(text) == model
    assert "NaN" not in text
    assert '"version"' in text


def test_bad_input_is_named():
    table = survey(50)
    for missing in ("snr_r", "e_teff", "gaia_source_id"):
        with pytest.raises(UsageError, match=missing):
            fitted({name: values for name, values in table.items() if name != missing})
    with pytest.raises(UsageError, match="floats"):
        fitted(table | {"gaia_source_id": table["gaia_source_id"].astype(float)})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.one_of(st.floats(-1e3, 1e4), st.just(float("nan"))),
            st.one_of(st.floats(0, 1e4), st.just(float("nan"))),
            st.one_of(st.floats(-10, 500), st.just(float("inf"))),
        ),
        min_size=0,
        max_size=400,
    )
)
def test_any_table_gives_a_model_and_finite_or_null_errors(rows):
    star, teff, error, snr = (np.array(list(column)) for column in (zip(*rows, strict=True) if rows else [[]] * 4))
    table = {"gaia_source_id": star.astype(np.int64), "teff": teff, "e_teff": error, "snr_r": snr}
    errors = published_errors(fitted(table), table)
    assert all(len(values) == len(rows) for values in errors.values())
    assert not any(np.isinf(values).any() for values in errors.values())


def test_millions_of_rows_take_seconds():
    size = 2_000_000
    one = ErrorModel(calibrated=True, stars=9, repeats=9, snr_range=(5, 80), scale=0.5, slope=-0.3, floor=3, a=99, b=1)
    table = {"snr_r": np.linspace(1, 100, size), "e_teff": np.full(size, 20.0)}
    start = time.perf_counter()
    errors = published_errors(Precision(errors={"teff": one}), table)
    assert time.perf_counter() - start < 5
    assert errors["e_teff"].shape == (size,)
