"""The label map: exact derivatives, the identity far below solar, and the slope right whatever labels' errors are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.labels import LOGG, M_H, TEFF
from stargap.theory.emulator import shipped_emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.transfer.anchored.anchors import AnchorStars, zero_points
from stargap.transfer.anchored.label_map import AnchorMap, fit_map, fit_slope, single_weights
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import cross_validate, train_anchored

SOME = AnchorMap(torch.tensor([-0.05, 0.4, 1.0, 8.0, -150.0]).double())


@pytest.fixture(scope="module")
def prior():
    return LabelPrior(fit_sequence(shipped_isochrones()), 0.02, -0.05, 0.5)


def places():
    teff, m_h = torch.meshgrid(torch.tensor([3100.0, 3500.0, 4000.0]), torch.linspace(-2.0, 0.5, 11), indexing="ij")
    return torch.stack([teff.flatten(), torch.full((33,), 4.8), m_h.flatten(), torch.zeros(33)], dim=1).double()


def test_derivatives_of_the_map_are_finite_differences(prior):
    _, slope = SOME(places(), prior)
    for place, step in ((TEFF, 1.0), (LOGG, 1e-3), (M_H, 1e-4)):
        change = torch.zeros(4).double()
        change[place] = step
        numeric = (SOME(places() + change, prior)[0] - SOME(places() - change, prior)[0]) / (2 * step)
        inner = (places()[:, M_H] > -1.49) & (places()[:, M_H] < 0.2) if place != LOGG else slice(None)
        torch.testing.assert_close(slope[inner][:, :, place], numeric[inner], rtol=2e-3, atol=2e-4)


def test_labels_far_below_solar_stay_and_those_near_it_are_stretched_in_order(prior):
    moved, slope = SOME.m_h(torch.linspace(-2.5, 0.6, 200).double())
    assert (slope > 0).all()
    assert (torch.diff(moved) > 0).all()
    assert SOME.rises()
    assert float(SOME.m_h(torch.tensor(-0.3).double())[1]) == pytest.approx(1.4, abs=0.07)
    assert abs(float(SOME.m_h(torch.tensor(-1.9).double())[0]) + 1.9) < 0.12
    assert SOME.gain == pytest.approx(1 / 1.4)
    assert not AnchorMap(torch.tensor([0.0, -1.2, 1.0, 0.0, 0.0]).double()).rises()


def test_log_g_follows_the_main_sequence_to_the_published_place(prior):
    published, _ = SOME(places(), prior)
    before, after = prior.logg(places())[0], prior.logg(torch.nn.functional.pad(published, (0, 1)))[0]
    torch.testing.assert_close(published[:, LOGG] - 4.8, after - before, rtol=0, atol=1e-6)


def simulated(seed, count=300, gain=0.6, error=0.1, scatter=0.03, pairs=0.0):
    """Known labels with errors, and fitted ones with a gain in [M/H]."""
    rng = np.random.default_rng(seed)
    true = np.stack([rng.normal(3500, 200, count), np.full(count, 4.8), rng.normal(0.0, 0.2, count)], axis=1)
    fitted = true.copy()
    fitted[:, M_H] = 0.02 + gain * true[:, M_H] + rng.normal(0, scatter, count)
    fitted[:, TEFF] += 10 + 100 * (true[:, M_H] - fitted[:, M_H]) + rng.normal(0, 10, count)
    known = true + rng.normal(0, 1, true.shape) * [40.0, 0.04, error]
    pair = rng.random(count) < pairs
    known[pair, M_H] += rng.uniform(0.1, 0.5, int(pair.sum()))
    return true, fitted, known, np.tile([40.0, 0.04, error], (count, 1)), np.full(count, 1 - max(pairs, 0.02))


@pytest.mark.parametrize("error", [0.03, 0.08, 0.15])
def test_the_slope_does_not_depend_on_the_errors_of_labels(prior, error):
    slopes, offsets = [], []
    for seed in range(5):
        true, *given = simulated(seed, error=error)
        found = fit_map(*given, reach=9.0)
        labels, _ = found(torch.as_tensor(np.pad(given[0], ((0, 0), (0, 1)))), prior)
        slopes.append(np.polyfit(true[:, M_H], labels[:, M_H].numpy(), 1)[0])
        offsets.append((labels.numpy() - true)[:, [TEFF, M_H]].mean(axis=0))
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.05)
    assert (np.abs(np.mean(offsets, axis=0)) < [4, 0.01]).all()


def test_unresolved_pairs_do_not_carry_the_map_along(prior):
    off = {}
    for pairs in (0.0, 0.12):
        true, *given = simulated(3, count=2000, pairs=pairs)
        found = fit_map(*given, reach=9.0)
        off[pairs] = float((found.m_h(torch.as_tensor(given[0][:, M_H]))[0].numpy() - true[:, M_H]).mean())
    assert abs(off[0.0]) < 0.01
    assert abs(off[0.12]) < 0.02
    sure = single_weights(np.array([0.0, 0.1, 0.2, 0.45]), np.full(4, 0.08), np.full(4, 0.9))
    assert (np.diff(sure) < 0).all()


def test_slopes_with_errors_in_both():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 0.2, 4000)
    known, ours = true + rng.normal(0, 0.1, 4000), 0.8 * true + rng.normal(0, 0.05, 4000)
    assert np.polyfit(known, ours, 1)[0] < 0.7
    assert fit_slope(known, ours, np.full(4000, 0.1), 0.05) == pytest.approx(0.8, abs=0.03)
    assert np.isnan(fit_slope(known[:2], ours[:2], np.full(2, 0.1), 0.05))
    assert np.isnan(fit_slope(np.zeros(9), ours[:9], np.full(9, 0.1), 0.05))


# ---- in a training

STRETCHED = AnchorSettings(contrast=1.0, alpha_slope=0.0, directions=2, folds=4)


@pytest.fixture(scope="module")
def squeezed(anchors):
    """Anchors whose known [M/H] vary 1.5 times as much as their spectra say."""
    labels = anchors.labels.copy()
    labels[:, M_H] = np.clip(1.5 * labels[:, M_H], -0.9, 0.49)
    return replace(anchors, labels=labels)


@pytest.fixture(scope="module")
def trained(squeezed):
    return train_anchored(squeezed, shipped_emulator(), STRETCHED)


def test_published_labels_of_stars_left_out_have_the_slope_of_the_known_ones(squeezed, trained):
    transfer, found = trained
    known, error = squeezed.labels[:, M_H], squeezed.errors[:, M_H]
    before, after = (fit_slope(known, one[:, M_H], error, 0.05) for one in (found.fitted, found.labels))
    assert before < 0.9
    assert after == pytest.approx(1.0, abs=0.15)
    assert 0.4 < transfer.label_map.gain < 0.95
    assert torch.equal(transfer.map_numbers, found.label_map.numbers)
    ratio = np.median(found.errors[:, M_H]) / transfer.label_map.gain**-1
    assert ratio > 0


def test_a_star_has_no_say_in_the_map_that_publishes_it(squeezed, trained):
    _, found = trained
    group = found.fold == found.fold[0]
    labels = squeezed.labels.copy()
    labels[group, M_H] = -0.8
    other = cross_validate(replace(squeezed, labels=labels), shipped_emulator(), STRETCHED)
    assert np.array_equal(other.labels[group], found.labels[group])
    assert not np.array_equal(other.labels[~group], found.labels[~group])
    assert np.isnan(found.apart[found.fold[0], group]).all()
    assert np.isfinite(found.apart[found.fold[0], ~group]).all()


def test_zero_points_of_sources_are_found_and_taken_off(anchors):
    labels, sources = anchors.labels.copy(), ["phot"] * len(anchors)
    for row in range(0, len(anchors), 3):
        labels[row, TEFF] += 80.0
        sources[row] = "other"
    given = AnchorStars(anchors.prepared, labels, anchors.names, sources=sources)
    points = zero_points(given, anchors.labels)
    assert list(points) == ["other"]
    assert 50 < points["other"][TEFF] < 80
    assert abs(points["other"][M_H]) < 1e-9
    back = given.shifted(points).labels
    assert np.abs(back - anchors.labels)[:, TEFF].max() < 30
    settings = STRETCHED.model_copy(update={"label_map": False})
    transfer, found = train_anchored(given, shipped_emulator(), settings)
    assert abs(np.median((found.labels[:, :3] - anchors.labels)[:, TEFF])) < 25
    assert transfer.map_numbers.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
