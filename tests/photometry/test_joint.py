"""Labels of spectrum and photometry together against sums over a grid, on simulated stars, and where there are none."""

import numpy as np
import pytest
from photometry_simulation import simulate
from scipy.stats import multivariate_normal, norm

from stargap.flags import JointFlag
from stargap.photometry.joint import joint_labels, joint_mixture, spectral_covariance
from stargap.photometry.labels import LABEL_NAMES
from stargap.photometry.likelihood import PhotometricLikelihood, Population, binary_odds
from stargap.photometry.observed import observed
from stargap.photometry.surface import MASS_RATIOS, intrinsic_covariance, magnitude_table

ERRORS = np.array([70.0, 0.08, 0.15])
RHO = np.array([[1.0, 0.3, 0.5], [0.3, 1.0, 0.6], [0.5, 0.6, 1.0]])
SYSTEMATIC = np.array([30.0, 0.03, 0.04])


def spectra(truth, component, *, seed=1):
    """Columns of spectra with noise of `ERRORS` correlated by `RHO`, and systematic errors by half as much.

    Those of pairs show the mean Teff of both stars.
    """
    rng = np.random.default_rng(seed)
    labels = truth.copy()
    labels[:, 0] += magnitude_table()(truth[:, 0], truth[:, 2], component)[0][:, 5]
    for errors, rho in ((ERRORS, RHO), (SYSTEMATIC, 0.5 * (RHO + np.eye(3)))):
        labels += rng.multivariate_normal(np.zeros(3), rho * np.outer(errors, errors), len(truth))
    columns = {}
    for place, name in enumerate(LABEL_NAMES):
        columns |= {name: labels[:, place], f"e_{name}": np.full(len(truth), ERRORS[place])}
        columns |= {f"e_{name}_sys": np.full(len(truth), SYSTEMATIC[place])}
        columns |= {f"use_{name}": np.ones(len(truth), int), f"care_{name}": np.zeros(len(truth), int)}
    pairs = (("teff", "logg", 0, 1), ("teff", "m_h", 0, 2), ("logg", "m_h", 1, 2))
    return columns | {f"rho_{one}_{two}": np.full(len(truth), RHO[i, j]) for one, two, i, j in pairs}


@pytest.fixture(scope="module")
def stars():
    table, truth, component = simulate(3000, seed=11)
    return table, truth, component, spectra(truth, component), joint_labels(spectra(truth, component), table)


def by_sums(table, columns, row, population):
    """Mean, error, p(single) by sums over what a star looks like; its labels given this are a product of Gaussians."""
    photometry, grid = observed(table)[[row]], magnitude_table()
    centre = np.array([columns[name][row] for name in LABEL_NAMES])
    covariance = spectral_covariance({name: values[[row]] for name, values in columns.items()})[0]
    scatter, width = population.scatter(), np.sqrt(np.diag(covariance + population.scatter()))
    axes = [centre[k] + np.linspace(-5, 5, 251) * width[k] for k in (0, 2)]
    seeming = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    known = np.isfinite(photometry.magnitudes[0])
    noise = (photometry.covariance[0] + intrinsic_covariance())[np.ix_(known, known)]
    odds = population.binary_fraction / (1 - population.binary_fraction) * binary_odds(photometry.ruwe)[0]
    shares = [1 / (1 + odds), *[odds / (1 + odds) / len(MASS_RATIOS)] * len(MASS_RATIOS)]
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.linalg.inv(scatter))
    weights, means, squares = [], [], []
    for kind, share in enumerate(shares):
        values, _ = grid(seeming[:, 0], seeming[:, 1], np.full(len(seeming), kind))
        like = np.stack([seeming[:, 0], values[:, 4], seeming[:, 1]], axis=1)
        blended = values[:, 5:] * [1.0, 0.0, 0.0]
        density = multivariate_normal(photometry.magnitudes[0, known], noise).pdf(values[:, :4][:, known])
        density *= multivariate_normal(centre, covariance + scatter).pdf(like + blended)
        true = ((centre - blended) @ np.linalg.inv(covariance) + like @ np.linalg.inv(scatter)) @ posterior
        means.append(density @ true / density.sum())
        squares.append(density @ (true**2 + np.diag(posterior)) / density.sum())
        usual = population.m_h_width**2 + squares[-1][2] - means[-1][2] ** 2
        weights.append(share * density.sum() * norm(population.m_h_mean, usual**0.5).pdf(means[-1][2]))
    weights = np.array(weights) / np.sum(weights)
    mean = weights @ means
    return mean, np.sqrt(weights @ squares - mean**2), weights[0]


@pytest.mark.parametrize("row", range(6))
def test_sums_over_a_grid(stars, row):
    table, _, _, columns, found = stars
    table = {name: values.copy() for name, values in table.items()}
    if row == 5:
        table["ks_mag"][row] = np.nan
        found = joint_labels(columns, table)
    mean, error, single = by_sums(table, columns, row, Population())
    off = [found[f"{name}_joint"][row] for name in LABEL_NAMES] - mean
    assert (np.abs(off) < [2.5, 0.002, 0.006]).all(), off
    np.testing.assert_allclose([found[f"e_{name}_joint"][row] for name in LABEL_NAMES], error, rtol=0.06)
    assert found["p_single_joint"][row] == pytest.approx(single, abs=0.03)


def test_simulated_stars_scatter_less_and_as_much_as_their_errors_say(stars):
    _, truth, component, columns, found = stars
    known = np.isfinite(found["teff_joint"])
    assert known.mean() > 0.95
    for place, (name, most) in enumerate(zip(LABEL_NAMES, (0.6, 0.4, 0.6), strict=True)):
        off, alone = ((values - truth[:, place])[known] for values in (found[f"{name}_joint"], columns[name]))
        assert np.sqrt(np.mean(off**2)) < most * np.sqrt(np.mean(alone**2))
        assert abs(off.mean()) < 0.1 * alone.std()
        assert 0.93 < np.sqrt(np.mean((off / found[f"e_{name}_joint"][known]) ** 2)) < 1.07
        pairs = component[known] > 0
        assert np.sqrt(np.mean(off[pairs] ** 2)) < np.sqrt(np.mean(alone[pairs] ** 2))
    assert (found["joint_flags"] & int(JointFlag.TENSION) != 0).mean() < 0.002
    assert np.nanmean(found["chi2_joint"]) == pytest.approx(1.0, abs=0.1)


def test_teff_of_pairs_is_the_brighter_star_s(stars):
    _, truth, component, columns, found = stars
    pairs = (component > 2) & (found["p_single_joint"] < 0.3)
    assert pairs.sum() > 100
    alone, both = (np.median((values - truth[:, 0])[pairs]) for values in (columns["teff"], found["teff_joint"]))
    assert alone < -30
    assert abs(both) < 12


def test_share_of_single_stars_is_the_probability(stars):
    _, _, component, _, found = stars
    single = component == 0
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 0.9), (0.9, 1.0)):
        rows = (found["p_single_joint"] >= low) & (found["p_single_joint"] <= high)
        assert rows.sum() > 60
        error = 3 * np.sqrt(0.25 / rows.sum())
        assert single[rows].mean() == pytest.approx(found["p_single_joint"][rows].mean(), abs=0.03 + error)


def test_a_vague_spectrum_leaves_photometry_and_vague_photometry_the_spectrum(stars):
    table, truth, _, _, _ = stars
    some = {name: values[:50] for name, values in table.items()}
    wide = np.tile(np.diag([3000.0, 3.0, 30.0]) ** 2, (50, 1, 1))
    alone = PhotometricLikelihood(observed(some)).mixture()
    vague = joint_mixture(alone.means[:, 0], wide, observed(some))
    assert (np.abs(vague.means[:, 0] - alone.means[:, 0]) < [1.0, 0.002, 0.003]).all()
    spread, expected = (np.sqrt(np.diagonal(one.covariances[:, 0], axis1=1, axis2=2)) for one in (vague, alone))
    np.testing.assert_allclose(spread, expected, rtol=0.02)

    sharp = np.tile(np.diag([5.0, 0.003, 0.01]) ** 2, (50, 1, 1))
    faint = some | {"parallax": np.full(50, 1.0), "e_parallax": np.full(50, 0.19)}
    kept = joint_mixture(truth[:50], sharp, observed(faint))
    shown = kept.means.copy()
    flat = shown.reshape(-1, 3)
    flat[:, 0] += magnitude_table()(flat[:, 0], flat[:, 2], np.tile(np.arange(shown.shape[1]), 50))[0][:, 5]
    off = np.abs(shown - truth[:50, None])
    assert (off[:, 0] < 3 * np.array([5.0, 0.003, 0.01])).all()
    # the blend is that of what a star looks like, 46 K about what it is
    assert (off[kept.weights > 0.02] < np.array([25.0, 0.009, 0.03])).all()


def test_rows_do_not_depend_on_their_neighbours(stars):
    table, _, _, columns, found = stars
    rows = np.array([7, 3, 2999])
    again = joint_labels({n: v[rows] for n, v in columns.items()}, {n: v[rows] for n, v in table.items()})
    for name, values in again.items():
        np.testing.assert_array_equal(values, found[name][rows])


def test_what_is_missing_leaves_nulls_and_says_so(stars):
    table, _, _, columns, whole = stars
    table = {name: values[:6].copy() for name, values in table.items()}
    columns = {name: values[:6].copy() for name, values in columns.items()}
    columns["use_m_h"][0] = 0
    columns["e_logg"][1] = np.nan
    table["parallax"][2] = np.nan
    table["bp_mag"][3] = np.nan
    columns["teff"][4] += 1500.0
    found = joint_labels(columns, table)
    flags = found["joint_flags"]
    assert flags[:4].tolist() == [int(JointFlag.NO_SPECTRUM)] * 2 + [int(JointFlag.NO_PHOTOMETRY)] * 2
    for name in (*(f"{mark}{one}_joint" for one in LABEL_NAMES for mark in ("", "e_")), "p_single_joint", "chi2_joint"):
        assert np.isnan(found[name][:4]).all()
        assert found[name][5] == whole[name][5]
    assert flags[4] & int(JointFlag.TENSION | JointFlag.NO_SOLUTION)
    assert found["use_joint"].tolist() == [0] * 5 + [1]


def test_beyond_the_relations_is_said():
    table, truth, _ = simulate(1, seed=3, population=Population(binary_fraction=0.0))
    poor = truth + np.array([[0.0, 0.0, -0.9 - truth[0, 2]]])
    magnitudes = magnitude_table()(poor[:, 0], poor[:, 2], np.array([0]))[0]
    table |= {f"{band}_mag": magnitudes[:, k] for k, band in enumerate(("g", "bp", "rp", "ks"))}
    table |= {"parallax": np.array([99.97]), "a_v": np.zeros(1)}
    found = joint_labels(spectra(poor, np.array([0])), table)
    assert found["joint_flags"][0] & int(JointFlag.OUTSIDE_RELATIONS)
    assert (found["use_joint"][0], found["care_joint"][0]) == (1, 1)
