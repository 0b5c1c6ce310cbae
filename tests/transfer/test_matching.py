"""The label map: what a known distortion, a wrong mix and anchors do to it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.matching import MAP_WIDTHS, LabelDensity, fit_density, fit_label_map
from stargap.transfer.residual.model import MAPPED, LabelMap

COUNT = 1200
NOISE = (0.05, 0.2, 0.1)
"""Of fitted labels, in scaled ones."""
SMALL = torch.tensor([10.0, 0.03, 0.02]).double()
"""Errors of a map that does not matter (K, dex, dex)."""


@pytest.fixture(scope="module")
def density():
    """A mixture of three components, in scaled labels: a bent main sequence of unlike stars."""
    roots = np.array(
        [
            [[0.5, 0.0, 0.0], [-0.25, 0.3, 0.0], [0.1, 0.1, 0.6]],
            [[0.4, 0.0, 0.0], [-0.35, 0.25, 0.0], [0.2, -0.2, 0.5]],
            [[0.3, 0.0, 0.0], [0.0, 0.4, 0.0], [-0.3, 0.0, 0.4]],
        ]
    )
    means = np.array([[-0.6, 0.6, 0.2], [0.6, -0.3, -0.4], [1.3, -0.5, 0.8]])
    weights = np.array([0.5, 0.35, 0.15])
    return LabelDensity(*(torch.as_tensor(part) for part in (weights, means, roots @ roots.transpose(0, 2, 1))))


@pytest.fixture(scope="module")
def true(density):
    """Scaled labels of stars, drawn from the mixture."""
    rng = np.random.default_rng(1)
    component = rng.choice(3, size=COUNT, p=density.weights.numpy())
    root = np.linalg.cholesky(density.covariances.numpy())[component]
    return density.means.numpy()[component] + (root @ rng.normal(size=(COUNT, MAPPED, 1)))[:, :, 0]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(2).normal(size=(COUNT, MAPPED)) * NOISE


def stars(place, degree=1):
    """An untrained map over the range of these scaled labels, the labels, and their covariances."""
    label_map, place = LabelMap(degree), torch.as_tensor(place)
    label_map.low.copy_(place.quantile(0.002, dim=0))
    label_map.high.copy_(place.quantile(0.998, dim=0))
    covariance = torch.diag((torch.tensor(NOISE).double() * label_map.scale) ** 2)
    return label_map, place * label_map.scale + label_map.centre, covariance.expand(len(place), MAPPED, MAPPED).clone()


@pytest.fixture(scope="module")
def plain(density, true, noise):
    """The map of stars that are as the prior says, the labels, and what the fit reports."""
    label_map, labels, covariance = stars(true + noise)
    return label_map, labels, fit_label_map(label_map, labels, covariance, density)


@pytest.fixture(scope="module")
def shifted(density, true, noise):
    """The map of stars that are mixed differently from the prior, the labels, and their covariances."""
    label_map, labels, covariance = stars(true + SHIFT + noise)
    fit_label_map(label_map, labels, covariance, density)
    return label_map, labels, covariance


# ---- the density


def test_the_density_is_scipy_s_mixture_of_normals(density, true):
    noises = np.random.default_rng(3).normal(size=(20, MAPPED, MAPPED)) * 0.2
    noises = noises @ noises.transpose(0, 2, 1)
    told = density.log(torch.as_tensor(true[:20]), torch.as_tensor(noises))
    parts = list(zip(*(part.numpy() for part in (density.weights, density.means, density.covariances)), strict=True))
    for place, own, value in zip(true[:20], noises, told, strict=True):
        wanted = sum(weight * multivariate_normal(mean, spread + own).pdf(place) for weight, mean, spread in parts)
        constant = 1.5 * np.log(2 * np.pi)
        assert float(value) - constant == pytest.approx(np.log(wanted), rel=1e-9)


def test_the_fitted_density_is_that_of_the_draws(true):
    label_map = LabelMap(1)
    labels = np.column_stack([true * label_map.scale.numpy() + label_map.centre.numpy(), np.zeros(COUNT)])
    before = labels.copy()
    found = fit_density(labels, label_map, seed=3)
    again = fit_density(labels, label_map, seed=3)
    assert np.array_equal(labels, before)
    assert torch.equal(found.means, again.means)
    assert float(found.weights.sum()) == pytest.approx(1.0)
    mean = (found.weights[:, None] * found.means).sum(dim=0)
    apart = found.means - mean
    spread = torch.einsum("k,kij->ij", found.weights, found.covariances + apart[:, :, None] * apart[:, None])
    np.testing.assert_allclose(mean, true.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.sqrt(np.diag(spread))[[0, 2]], true.std(axis=0)[[0, 2]], rtol=0.02)
    assert spread[1, 1] > true[:, 1].var()


# ---- the map


def test_where_nothing_is_wrong_the_map_stays_the_identity(density, true, noise, plain):
    parabola, labels, covariance = stars(true + noise, degree=2)
    for label_map, report in ((plain[0], plain[2]), (parabola, fit_label_map(parabola, labels, covariance, density))):
        moved = label_map(labels) - labels
        assert (moved.mean(dim=0).abs() < SMALL).all()
        assert (moved.square().mean(dim=0).sqrt() < 2 * SMALL).all()
        assert report["log_likelihood"] - report["log_likelihood_before"] < 0.02
        assert (report["mix_teff"], report["mix_m_h"]) == (0.0, 0.0)


@pytest.mark.parametrize("degree", [1, 2])
def test_a_known_distortion_is_found_within_the_stated_error(density, true, noise, degree):
    stretch, shift = np.diag([1.05, 0.95, 1.1]) + 0.03, np.array([0.1, -0.3, 0.15])
    label_map, labels, covariance = stars(np.linalg.solve(stretch, (true - shift).T).T + noise, degree)
    u = (labels - label_map.centre) / label_map.scale
    wanted = (u @ torch.as_tensor(stretch).T + torch.as_tensor(shift)) * label_map.scale + label_map.centre
    before = (wanted - labels).square().mean(dim=0).sqrt()
    told = fit_label_map(label_map, labels, covariance, density)
    left = label_map(labels) - wanted
    assert (left.square().mean(dim=0).sqrt() < 0.6 * before).all()
    assert ((left / label_map.uncertainty(labels)).square().mean(dim=0).sqrt() < 1.0).all()
    assert told["log_likelihood"] > told["log_likelihood_before"] + 0.1


def test_the_stated_error_is_what_the_match_leaves_undetermined(plain):
    label_map = plain[0]
    error = label_map.uncertainty(label_map.centre[None])[0]
    assert (error > 0.05 * torch.tensor(MAP_WIDTHS)).all()
    assert (error < torch.tensor(MAP_WIDTHS)).all()
    for block in label_map.covariance:
        torch.testing.assert_close(block, block.T)
        assert torch.linalg.eigvalsh(block).min() > -1e-12


def test_the_order_of_stars_does_not_matter(density, true, noise, plain):
    label_map, labels, covariance = stars((true + noise)[np.random.default_rng(4).permutation(COUNT)])
    fit_label_map(label_map, labels, covariance, density)
    torch.testing.assert_close(label_map.weight, plain[0].weight, rtol=0, atol=2e-4)


def test_a_few_outliers_do_not_move_the_map(density, true, noise):
    place = true + noise
    place[:12] = np.random.default_rng(5).uniform(-6, 6, (12, MAPPED))
    clean, labels, covariance = stars(true[12:] + noise[12:])
    fit_label_map(clean, labels, covariance, density)
    dirty, every, covariance = stars(place)
    dirty.low.copy_(clean.low)
    dirty.high.copy_(clean.high)
    fit_label_map(dirty, every, covariance, density)
    assert ((dirty(labels) - clean(labels)).mean(dim=0).abs() < SMALL).all()


# ---- another mix than the prior's, and anchors


SHIFT = np.array([-0.35, 0.0, -0.4])
"""How the survey differs from the prior: cooler by 140 K and poorer by 0.12 dex."""


def anchored(true, count=40):
    """Stars with known labels, fitted at the right ones."""
    _, fitted, covariance = stars((true + SHIFT)[:count])
    return LabelledFits(fitted, covariance, AnchorLabels(fitted.numpy(), np.tile([30.0, 0.05, 0.05], (count, 1))))


def test_another_mix_than_the_prior_s_is_taken_for_a_distortion(shifted):
    label_map, labels, _ = shifted
    assert (label_map(labels) - labels)[:, 0].mean() > 40.0


@pytest.mark.parametrize("free_mix", [False, True])
def test_anchors_pull_the_map_to_where_they_are(density, true, shifted, free_mix):
    without, labels, covariance = shifted
    alone = (without(labels) - labels).mean(dim=0).abs()
    label_map = copy.deepcopy(without)
    report = fit_label_map(label_map, labels, covariance, density, known=anchored(true), free_mix=free_mix)
    pulled = (label_map(labels) - labels).mean(dim=0).abs()
    assert (pulled[[0, 2]] < 0.5 * alone[[0, 2]]).all()
    if free_mix:
        assert report["mix_teff"] < -30.0
        assert report["mix_m_h"] < -0.05
    else:
        assert (report["mix_teff"], report["mix_m_h"]) == (0.0, 0.0)


def test_anchors_make_the_map_surer(density, true, noise, plain):
    label_map, labels, covariance = stars(true + noise)
    fit_label_map(label_map, labels, covariance, density, known=anchored(true - SHIFT))
    assert (label_map.uncertainty(labels).mean(dim=0) < plain[0].uncertainty(labels).mean(dim=0)).all()
