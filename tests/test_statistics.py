"""Statistics of comparisons are scipy's, errors those of theory, and baselines leave their own star out."""

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stargap.errors import UsageError
from stargap.statistics import (
    clip,
    compare,
    mean_residual,
    ranks,
    robust_scatter,
    statistics,
    trend,
)

NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


def labels(count, seed=1, scatter=70.0):
    random = np.random.default_rng(seed)
    reference = random.uniform(3000, 4000, count)
    return 500 + 0.9 * reference + random.normal(0, scatter, count), reference


@given(NUMBERS)
def test_ranks_with_ties_are_scipys(values):
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values))


@given(NUMBERS)
def test_clip_keeps_what_scipy_keeps(values):
    array = np.array([*values, 1000.0])
    np.testing.assert_array_equal(np.sort(array[clip(array)]), np.sort(stats.sigmaclip(array, 3, 3).clipped))


def test_clip_converges_to_the_core():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 500), [20.0, 25.0, -400.0]])
    kept = clip(values)
    assert not kept[500:].any()
    assert kept[:500].mean() > 0.98


def test_statistics_against_scipy():
    ours, reference = labels(80)
    ours[3] = reference[3] + 3000
    result = compare(ours, reference, resamples=2).values
    delta = ours - reference
    assert result.median == np.median(delta)
    assert result.scatter == pytest.approx(stats.median_abs_deviation(delta) * 1.4826)
    assert result.clipped == pytest.approx(np.std(stats.sigmaclip(delta, 3, 3).clipped, ddof=1))
    assert result.slope == pytest.approx(stats.linregress(reference, ours).slope)
    assert result.rank == pytest.approx(stats.spearmanr(ours, reference).statistic)


def test_clipped_deviation_and_outliers_against_astropy():
    ours, reference = labels(400)
    ours[:12] += 2000
    result = statistics(ours, reference)
    kept = stats.sigmaclip(ours - reference, 3, 3).clipped
    _, _, deviation = sigma_clipped_stats(ours - reference, sigma=3, maxiters=None, cenfunc="mean", std_ddof=0)
    assert result.clipped == pytest.approx(deviation * (len(kept) / (len(kept) - 1)) ** 0.5)
    assert result.outliers == pytest.approx(1 - len(kept) / 400)
    assert result.outliers >= 12 / 400


def test_rank_with_ties_against_scipy():
    ours, reference = (np.round(values / 200) for values in labels(60))
    assert statistics(ours, reference).rank == pytest.approx(stats.spearmanr(ours, reference).statistic)


def test_bootstrap_errors_against_theory():
    count, scatter = 4000, 70.0
    ours, reference = labels(count, scatter=scatter)
    ours += 0.1 * reference
    errors = compare(ours, reference, resamples=400).errors
    assert errors.median == pytest.approx(1.2533 * scatter / count**0.5, rel=0.3)
    assert errors.clipped == pytest.approx(scatter / (2 * count) ** 0.5, rel=0.3)
    assert errors.slope == pytest.approx(stats.linregress(reference, ours).stderr, rel=0.2)


def test_errors_of_many_stars_are_those_of_all():
    ours, reference = labels(40_000, scatter=70.0)
    errors = compare(ours + 0.1 * reference, reference, resamples=100).errors
    assert errors.median == pytest.approx(1.2533 * 70.0 / 200, rel=0.3)
    assert errors.slope == pytest.approx(stats.linregress(reference, ours).stderr, rel=0.3)


def test_trend_of_clean_data_is_the_least_squares_line():
    random = np.random.default_rng(3)
    label, delta = random.uniform(3000, 4000, 500), random.uniform(-1, 1, 500)
    delta += 0.002 * label
    line = stats.linregress(label, delta)
    found = trend([*label, np.nan], [*delta, 5.0])
    assert (found.slope, found.n) == (pytest.approx(line.slope), 500)
    assert found.error == pytest.approx(line.stderr, rel=0.2)


def test_trend_shrugs_off_outliers():
    random = np.random.default_rng(4)
    label = random.uniform(-1, 0.5, 1000)
    delta = 0.3 * label + random.normal(0, 0.1, 1000)
    delta[label > 0.4] += 20.0 * (random.random((label > 0.4).sum()) < 0.3)
    found = trend(label, delta)
    assert abs(found.slope - 0.3) < 4 * found.error
    assert stats.linregress(label, delta).slope > 0.5


def test_error_of_a_trend_allows_for_scatter_that_grows():
    random = np.random.default_rng(5)
    slopes, errors = [], []
    for seed in range(150):
        label = random.uniform(0, 1, 100)
        found = trend(label, random.normal(0, 0.2 + label**2), resamples=40, seed=seed)
        slopes.append(found.slope)
        errors.append(found.error)
    assert np.median(errors) == pytest.approx(np.std(slopes), rel=0.15)


@pytest.mark.parametrize("label", [[], [1.0], [1.0, 2.0], [5.0] * 6, [np.nan] * 6])
def test_no_trend_without_three_different_labels(label):
    assert np.isnan(trend(label, np.arange(len(label)))[:2]).all()


def test_seed_decides_the_errors():
    ours, reference = labels(20)
    assert compare(ours, reference, seed=4) == compare(ours, reference, seed=4)
    assert compare(ours, reference, seed=4).errors != compare(ours, reference, seed=5).errors


def test_stars_without_numbers_are_counted_not_compared():
    ours, reference = labels(20)
    full = compare(ours, reference)
    more = compare([np.nan, *ours, 3500.0], [3500.0, *reference, np.inf])
    assert (more.n, more.dropped) == (20, 2)
    assert more.values == full.values
    assert more.errors == full.errors


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_stars_give_null_errors(count):
    ours, reference = labels(count)
    result = compare(ours, reference)
    assert result.n == count
    assert np.isnan(result.errors).all()
    assert np.isnan(result.values.median) == (count == 0)


def test_no_spread_gives_null_slope_and_rank():
    result = compare([1.0, 2.0, 3.0], [5.0, 5.0, 5.0])
    assert np.isnan([result.values.slope, result.values.rank, result.errors.slope]).all()


def test_robust_scatter_is_sigma_of_a_gaussian():
    assert robust_scatter(np.random.default_rng(0).normal(7, 2.5, 100_000)) == pytest.approx(2.5, rel=0.02)
    assert np.isnan(robust_scatter([]))


def test_shapes_must_agree():
    with pytest.raises(UsageError, match=r"\(2,\) and \(3,\)"):
        compare([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match=r"one number a star"):
        compare([[1.0]], [[1.0]])


def test_noise_alone_gives_the_mean_of_a_folded_normal():
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.01, 0.2, (50, 2901))
    model = np.ones_like(sigma)
    found = mean_residual(model + sigma * rng.standard_normal(sigma.shape), model, sigma, sigma > 0)
    assert found == pytest.approx(np.sqrt(2 / np.pi), abs=0.05)


def test_bad_pixels_do_not_count_and_no_good_pixel_is_null():
    flux = np.array([[1.0, np.nan, 5.0], [np.inf, 1.0, 1.0]])
    sigma = np.array([[0.5, 0.0, 1.0], [np.nan, 0.0, 0.0]])
    good = np.array([[True, False, True], [False, False, False]])
    assert mean_residual(flux, np.zeros((2, 3)), sigma, good) == pytest.approx([3.5, np.nan], nan_ok=True)
    halves = [mean_residual(np.ones((1, 4)), np.arange(4.0)[None], 1.0, np.arange(4) % 2 == k) for k in (0, 1)]
    assert halves == [[1.0], [1.0]]
