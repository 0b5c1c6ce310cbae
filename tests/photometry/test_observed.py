"""Columns become photometry: nulls, other names, distance and extinction."""

import numpy as np
import pytest
from scipy.integrate import quad

from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.photometry.extinction import COEFFICIENTS
from stargap.photometry.observed import LENGTH, distance_modulus, observed

STAR = {"g_mag": [12.0], "bp_mag": [13.2], "rp_mag": [10.9], "ks_mag": [8.5], "parallax": [20.0], "e_parallax": [0.05]}


def star(**changes):
    return STAR | {name: [value] for name, value in changes.items()}


@pytest.mark.parametrize("case", [(50.0, 0.1), (5.0, 0.5), (1.0, 0.2), (3.0, 0.58)])
def test_distance_modulus_by_integration(case):
    parallax, error = case

    def density(distance):
        return distance**2 * np.exp(-distance / LENGTH - 0.5 * ((1000 / distance - parallax) / error) ** 2)

    ends = 1000 / (parallax + 5 * error), 1000 / max(parallax - 5 * error, parallax / 100)
    best = density(1000 / parallax)

    def moment(power):
        return quad(lambda d: (5 * np.log10(d / 10)) ** power * density(d) / best, *ends, limit=500)[0]

    total, first, second = moment(0), moment(1), moment(2)
    mean, spread, snr = distance_modulus([parallax], [error])
    assert mean[0] == pytest.approx(first / total, abs=2e-3)
    assert spread[0] == pytest.approx(np.sqrt(second / total - (first / total) ** 2), rel=0.02)
    assert snr[0] == pytest.approx(parallax / error)


def test_modulus_needs_a_parallax():
    mean, spread, _ = distance_modulus([-1.0, 0.0, np.nan, 1.0, 1.0, 1.0], [0.1, 0.1, 0.1, 0.0, np.nan, 0.3])
    assert np.isnan(mean).all()
    assert np.isnan(spread).all()


def test_a_distance_does_not_depend_on_the_other_stars():
    parallax = np.random.default_rng(2).uniform(-1.0, 60.0, 2_500)
    error = np.full(2_500, 0.3)
    some = [0, 999, 1_000, 2_499]
    for whole, part in zip(
        distance_modulus(parallax, error), distance_modulus(parallax[some], error[some]), strict=True
    ):
        np.testing.assert_array_equal(whole[some], part)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"parallax": -3.0}, PhotFlag.NO_PARALLAX),
        ({"parallax": np.nan}, PhotFlag.NO_PARALLAX),
        ({"e_parallax": -9999.0}, PhotFlag.NO_PARALLAX),
        ({"bp_mag": np.nan}, PhotFlag.NO_PHOTOMETRY),
        ({"rp_mag": np.inf}, PhotFlag.NO_PHOTOMETRY),
        ({"ks_mag": np.nan}, PhotFlag.NO_KS),
        ({"ks_quality": "AAD"}, PhotFlag.NO_KS),
        ({"ruwe": 3.0}, PhotFlag.HIGH_RUWE),
        ({"e_parallax": 2.0}, PhotFlag.LOW_PARALLAX_SN),
        ({"parallax": 5.0}, PhotFlag.EXTINCTION_UNKNOWN),
    ],
)
def test_flags(changes, flag):
    assert observed(star(**changes)).flags[0] & flag
    assert observed(STAR).flags[0] == 0


def test_theirs_and_ours_are_the_same():
    theirs = {
        "phot_g_mean_mag": [12.0],
        "phot_bp_mean_mag": [13.2],
        "phot_rp_mean_mag": [10.9],
        "ks_m": [8.5],
        "parallax": [20.0],
        "parallax_error": [0.05],
        "ph_qual": ["AAA"],
    }
    np.testing.assert_array_equal(observed(theirs).magnitudes, observed(STAR).magnitudes)


def test_masked_is_null():
    masked = STAR | {"ks_mag": np.ma.masked_array([8.5], mask=[True]), "ruwe": np.ma.masked_array([9.0], mask=[True])}
    photometry = observed(masked)
    assert np.isnan(photometry.magnitudes[0, 3])
    assert np.isnan(photometry.ruwe[0])
    none = observed(STAR | {"ks_mag": [None]})
    assert np.isnan(none.magnitudes[0, 3])


def test_extinction():
    far = {"parallax": 5.0}
    plain, dusty = observed(star(**far, a_v=0.0)), observed(star(**far, a_v=1.0))
    np.testing.assert_allclose(plain.magnitudes - dusty.magnitudes, COEFFICIENTS[None])
    reddened = observed(star(**far, ebv=1 / 3.1, e_ebv=0.1))
    np.testing.assert_allclose(reddened.magnitudes, dusty.magnitudes)
    extra = reddened.covariance - observed(star(**far, a_v=1.0, e_a_v=0.0)).covariance
    np.testing.assert_allclose(extra[0], 0.31**2 * np.outer(COEFFICIENTS, COEFFICIENTS))
    np.testing.assert_array_equal(observed(star(a_v=1.0)).magnitudes, observed(STAR).magnitudes)  # within 70 pc
    unknown = observed(star(**far))
    assert unknown.flags[0] & PhotFlag.EXTINCTION_UNKNOWN
    assert unknown.magnitudes[0, 1] < plain.magnitudes[0, 1]


def test_parallax_error_is_shared_by_bands():
    covariance = observed(star(parallax=10.0, e_parallax=0.5, a_v=0.0, e_a_v=0.0)).covariance[0]
    off = covariance[~np.eye(4, dtype=bool)]
    assert np.ptp(off) < 1e-12
    assert np.sqrt(off[0]) == pytest.approx(5 / np.log(10) * 0.05, rel=0.05)


def test_missing_columns_are_named():
    with pytest.raises(UsageError, match="bp_mag or phot_bp_mean_mag"):
        observed({name: values for name, values in STAR.items() if name != "bp_mag"})
    with pytest.raises(UsageError, match="'ruwe' has shape"):
        observed(STAR | {"ruwe": [1.0, 1.0]})
    with pytest.raises(UsageError, match="quality of Ks"):
        observed(STAR | {"ks_quality": ["A", "A"]})


def test_no_stars():
    nothing = observed({name: np.empty(0) for name in STAR})
    assert len(nothing) == 0
    assert nothing.magnitudes.shape == (0, 4)
