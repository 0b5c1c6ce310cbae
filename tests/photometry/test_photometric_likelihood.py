"""The likelihood against brute-force integration, and its derivatives against differences."""

import numpy as np
import pytest
import torch
from photometry_simulation import simulate
from scipy.stats import multivariate_normal

from stargap.photometry.extinction import COEFFICIENTS
from stargap.photometry.likelihood import PhotometricLikelihood, Population, binary_odds
from stargap.photometry.observed import LENGTH, ZERO_POINT, observed
from stargap.photometry.surface import intrinsic_covariance, magnitude_table


@pytest.fixture(scope="module")
def likelihood():
    table, _, _ = simulate(40, seed=4)
    table["ks_mag"][::3] = np.nan
    table["bp_mag"][7] = np.nan
    table["parallax"][8] = -1.0
    return PhotometricLikelihood(observed(table))


@pytest.fixture(scope="module")
def labels(likelihood):
    mixture = likelihood.mixture()
    near = mixture.means[:, 0, [0, 2]] + np.random.default_rng(0).normal(size=(40, 2)) * [60, 0.1]
    return np.clip(near, [2600, -0.9], [4400, 0.8])


def brute_force(table, row, teff, m_h, component, population):
    """ln of the integral over distance, extinction and where the star is on the surface, by sums over grids."""
    errors = np.array([0.003, 0.005, 0.005, np.hypot(table["e_ks_mag"][row], 0.01)])
    errors = np.hypot([0.0, 0.0, 0.0, 0.0], errors)
    band = np.diag(errors**2) + intrinsic_covariance()
    scatter = population.scatter()[np.ix_([0, 2], [0, 2])]
    parallax, sigma = table["parallax"][row] - ZERO_POINT, table["e_parallax"][row]
    true = parallax + sigma * np.linspace(-5, 5, 61)
    log_p = -0.5 * ((true - parallax) / sigma) ** 2 - 4 * np.log(true) - 1000 / true / LENGTH
    p_true = np.exp(log_p - log_p.max())
    a_v = table["a_v"][row] + table["e_a_v"][row] * np.linspace(-5, 5, 31)
    p_a_v = np.exp(-0.5 * np.linspace(-5, 5, 31) ** 2)
    x, y = np.meshgrid(np.linspace(-5, 5, 41), np.linspace(-5, 5, 41))
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    p_places = np.exp(-0.5 * (places**2).sum(axis=1))
    places = np.array([teff, m_h]) - places @ np.linalg.cholesky(scatter).T
    model = magnitude_table()(places[:, 0], places[:, 1], np.full(len(places), component))[0][:, :4]
    shift = (5 * np.log10(100 / true))[:, None, None] + a_v[None, :, None] * COEFFICIENTS
    weight = p_true[:, None] * p_a_v
    magnitudes = np.array([table[f"{name}_mag"][row] for name in ("g", "bp", "rp", "ks")])
    normal = multivariate_normal(np.zeros(4), band)
    total = sum(
        p * normal.pdf(magnitudes - place - shift).ravel() @ weight.ravel()
        for p, place in zip(p_places, model, strict=True)
    )
    return np.log(total / weight.sum() / p_places.sum())


@pytest.mark.parametrize("row", range(4))
def test_brute_force(row):
    table, _, component = simulate(4, seed=12, population=Population(binary_fraction=0.5), distance=(80, 250))
    table["e_parallax"][:] = 0.3
    population = Population()
    likelihood = PhotometricLikelihood(observed(table), population=population)
    kind = component[row]
    best = likelihood.mixture().means[row, kind, [0, 2]]
    terms, expected = [], []
    for shift in ([0, 0], [50, 0.0], [0, 0.12], [-60, -0.1]):
        at = best + shift
        everywhere = np.tile(at, (4, 1))
        terms.append(likelihood.log_terms(everywhere)[row, kind] - likelihood._prior[row, kind])
        expected.append(brute_force(table, row, *at, kind, population))
    assert terms == pytest.approx(expected, abs=0.25)


def test_gradient(likelihood, labels):
    _, gradient, curvature = likelihood.gauss_newton(labels)
    for place, step in ((0, 0.01), (1, 1e-5)):
        shift = np.zeros(2)
        shift[place] = step
        difference = likelihood.log_likelihood(labels - shift) - likelihood.log_likelihood(labels + shift)
        np.testing.assert_allclose(gradient[:, place], difference / (2 * step), rtol=2e-3, atol=1e-3)
    assert (np.linalg.eigvalsh(curvature) > -1e-9).all()


def test_jacobian(likelihood, labels):
    slopes = likelihood.jacobian(labels)
    for place, step in ((0, 0.01), (1, 1e-5)):
        shift = np.zeros(2)
        shift[place] = step
        difference = likelihood.residuals(labels + shift) - likelihood.residuals(labels - shift)
        np.testing.assert_allclose(slopes[..., place], difference / (2 * step), rtol=2e-3, atol=1e-4)


def test_terms_are_sums_of_squares(likelihood, labels):
    terms, residuals = likelihood.log_terms(labels), likelihood.residuals(labels)
    rest = terms + 0.5 * (residuals**2).sum(axis=-1)
    elsewhere = labels + np.array([100.0, 0.1])
    other = likelihood.log_terms(elsewhere) + 0.5 * (likelihood.residuals(elsewhere) ** 2).sum(axis=-1)
    np.testing.assert_allclose(rest, other)
    np.testing.assert_allclose(np.logaddexp.reduce(terms, axis=1), likelihood.log_likelihood(labels))


def test_unusable_stars_count_for_nothing(likelihood, labels):
    total, gradient, curvature = likelihood.gauss_newton(labels)
    for row in (7, 8):
        assert total[row] == pytest.approx(0.0, abs=1e-12)
        assert (gradient[row] == 0).all()
        assert (curvature[row] == 0).all()


def test_tensors_in_tensors_out(likelihood, labels):
    given = torch.tensor(labels, requires_grad=True)
    for function in (likelihood.residuals, likelihood.jacobian, likelihood.log_terms, likelihood.log_likelihood):
        result = function(given)
        assert isinstance(result, torch.Tensor)
        assert result.dtype == torch.float64
        np.testing.assert_array_equal(result.numpy(), function(labels))


def test_mixture_is_the_likelihood_near_its_peak():
    table, _, _ = simulate(30, seed=5)
    likelihood = PhotometricLikelihood(observed(table))
    mixture = likelihood.mixture()
    at = mixture.means[:, 0, [0, 2]]
    inverse = np.linalg.inv(mixture.covariances[:, 0][:, [[0], [2]], [0, 2]])
    peak = likelihood.log_terms(at)[:, 0]
    for shift in ([40.0, 0.0], [0.0, 0.08], [-30.0, 0.05]):
        quadratic = -0.5 * np.einsum("i,sij,j->s", shift, inverse, shift)
        # without the residuals of the magnitudes that no labels can mend
        assert np.median(np.abs(likelihood.log_terms(at + shift)[:, 0] - peak - quadratic)) < 0.05


def test_no_pairs_without_pairs():
    table, _, _ = simulate(20)
    mixture = PhotometricLikelihood(observed(table), population=Population(binary_fraction=0.0)).mixture()
    np.testing.assert_allclose(mixture.weights[:, 0], 1.0)
    all_pairs = PhotometricLikelihood(observed(table), population=Population(binary_fraction=1.0)).mixture()
    np.testing.assert_allclose(all_pairs.weights[:, 0], 0.0)


def test_ruwe_informs():
    odds = binary_odds(np.array([0.0, 0.9, 1.4, 1.6, 2.0, 9.0, np.nan]))
    assert (np.diff(odds[1:-1]) >= 0).all()
    assert odds[0] == odds[-1] == 1
    table, _, _ = simulate(200, seed=6)
    low, high = (
        PhotometricLikelihood(observed(table | {"ruwe": np.full(200, ruwe)})).mixture().weights[:, 0]
        for ruwe in (1.0, 3.0)
    )
    assert (low >= high).all()
