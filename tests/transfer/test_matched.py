"""Labels tied to anchors: what the map, its errors and its report become with few of them and with many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.stars import prepared_stars

from stargap.errors import UsageError
from stargap.fit.parameters import Parameters
from stargap.labels import A_M
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.spectra.prepared import PreparedSpectra
from stargap.theory.emulator import shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual import matched, scatter
from stargap.transfer.residual.fits import Fits
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.model import LabelMap, ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings

COUNT = 1600
NOISE, ERRORS = np.array([10.0, 0.04, 0.06]), np.array([40.0, 0.04, 0.08])
SETTINGS = ResidualSettings(sequence=False)
GAIN = 0.8
"""Change of fitted with true [M/H]."""


@pytest.fixture(scope="module")
def prior():
    return draw_training_labels(2000, alpha=0.0, seed=3, draws=50_000)


@pytest.fixture(scope="module")
def fits(prior):
    """Fits of stars whose [M/H] is squeezed and whose Teff is 30 K too high, and known labels with their errors."""
    rng = np.random.default_rng(4)
    true = prior[:COUNT, :3] + rng.normal(0, [0, 0.05, 0], (COUNT, 3))
    fitted = true * [1, 1, GAIN] + [30, 0, 0.02] + rng.normal(size=true.shape) * NOISE
    covariance = torch.diag(torch.as_tensor(NOISE) ** 2).expand(COUNT, 3, 3).clone()
    known = AnchorLabels(true + rng.normal(size=true.shape) * ERRORS, np.tile(ERRORS, (COUNT, 1)), np.ones(COUNT))
    anchors = LabelledFits(torch.as_tensor(fitted), covariance, known)
    sample = Fits(torch.as_tensor(np.column_stack([fitted, 0 * fitted[:, 0]])), covariance, torch.ones(COUNT))
    return matched.AnchorFits(anchors, torch.zeros(3).double(), np.arange(COUNT) % 4, sample), true


def of_slope(transfer, fits, true):
    published, _, _ = transfer.publish(fits.anchors.fitted, fits.anchors.covariance)
    return [np.polyfit(true[:, place], published[:, place].numpy(), 1)[0] for place in (0, 2)], published.numpy() - true


def test_labels_tied_to_many_anchors_have_neither_offset_nor_squeeze(fits, prior):
    some, true = fits
    transfer = ResidualTransfer(shipped_emulator(), alpha=0.0)
    told = matched.tie_labels(transfer, some, prior, SETTINGS)
    slopes, off = of_slope(transfer, some, true)
    np.testing.assert_allclose(slopes, 1.0, atol=0.03)
    assert abs(np.median(off, axis=0)[0]) < 4
    assert abs(np.median(off, axis=0)[2]) < 0.008
    assert (transfer.map_degree, len(transfer.label_map.exponents)) == (2, 10)
    assert told["anchors"] == COUNT
    assert told["mix_teff"] == 0.0
    assert 0.8 < told["reliability_m_h"] < 0.95


def test_left_out_anchors_tell_the_slope_without_dilution(fits, prior):
    some, _ = fits
    told, _ = matched.left_out(ResidualTransfer(shipped_emulator(), alpha=0.0), some, prior, SETTINGS)
    assert told["m_h_slope"] < 0.93
    assert told["m_h_slope_true"] == pytest.approx(1.0, abs=0.05)
    assert told["teff_slope_true"] == pytest.approx(1.0, abs=0.03)
    assert told["left_out"] == COUNT


def test_only_labels_with_small_errors_tell_systematic_errors(fits, prior):
    some, true = fits
    snr = np.full(COUNT, 50.0)
    transfer = ResidualTransfer(shipped_emulator(), alpha=0.0)
    vague = replace(some, snr=snr)
    assert matched.left_out(transfer, vague, prior, SETTINGS)[1] is None
    errors = np.array([1.0, *ERRORS[1:]])
    labels = np.column_stack(
        [true[:, 0] + np.random.default_rng(1).normal(0, 40, COUNT), some.anchors.known.labels[:, 1:]]
    )
    known = AnchorLabels(labels, np.tile(errors, (COUNT, 1)), np.ones(COUNT))
    sharp = replace(vague, anchors=LabelledFits(some.anchors.fitted, some.anchors.covariance, known))
    calibration = matched.left_out(transfer, sharp, prior, SETTINGS)[1]
    assert list(calibration.systematic) == ["teff"]
    found = calibration.error("teff", true[:, [0, 2]], snr)
    assert np.median(found) == pytest.approx(40, rel=0.15)


def test_scatter_of_the_models_is_a_systematic_error(fits, prior):
    some, _ = fits
    own = torch.tensor([20.0, 0.03, 0.05]).double()
    errors = []
    for scattered in (torch.zeros(3).double(), own):
        transfer = ResidualTransfer(shipped_emulator(), alpha=0.0)
        with_own = matched.AnchorFits(some.anchors, scattered, some.group, some.sample)
        matched.tie_labels(transfer, with_own, prior, SETTINGS)
        errors.append(transfer.label_map.uncertainty(some.anchors.fitted[:50]).median(dim=0).values)
    more = (errors[1].square() - errors[0].square()).sqrt()
    np.testing.assert_allclose(more[[0, 2]], own[[0, 2]] / torch.tensor([1, GAIN]), rtol=0.15)


def test_a_map_is_stretched_about_a_mean():
    label_map = LabelMap(2)
    label_map.weight.copy_(torch.as_tensor(np.random.default_rng(5).normal(0, 0.05, label_map.weight.shape)))
    labels = torch.tensor([[3400.0, 4.9, -0.2], [3700.0, 4.7, 0.1]]).double()
    before = (label_map(labels) - label_map.centre) / label_map.scale
    mean, factor = torch.tensor([0.2, -0.1, 0.3]).double(), torch.tensor([1.02, 1.1, 1.2]).double()
    label_map.stretch(factor, mean)
    after = (label_map(labels) - label_map.centre) / label_map.scale
    torch.testing.assert_close(after, mean + factor * (before - mean))


@pytest.fixture(scope="module")
def spectra():
    """Spectra of simulated stars."""
    labels, _ = nature_labels(64, seed=8, mix="matched")
    every = PreparedSpectra.empty(64)
    ((truth, prepared, _),) = prepared_stars(labels, np.zeros(64, dtype=bool), shipped_nature(), seed=9)
    every.put(0, PreparedSpectra.from_prepared(prepared, truth.rv_used))
    return every


def box():
    card = shipped_emulator().card
    lower, upper = list(card.lower), list(card.upper)
    lower[A_M] = upper[A_M] = 0.0
    return Parameters(tuple(lower), tuple(upper), {"a_m": 0.0})


def test_errors_of_models_that_differ_from_star_to_star_are_told_by_blocks(spectra, monkeypatch):
    monkeypatch.setattr(scatter, "BLOCKS", 4)
    transfer, rows = ResidualTransfer(shipped_emulator(), alpha=0.0), np.arange(64)
    transfer.floor.fill_(0.004)
    quiet = scatter.own_scatter(transfer, spectra, rows, box())
    rng = np.random.default_rng(1)
    tilt = rng.normal(0, 0.3, (64, 1)) * (np.arange(spectra.flux.shape[1]) > 2000)
    wrong = PreparedSpectra(
        (spectra.flux * (1 + tilt * (1 - spectra.flux))).astype(np.float32), *(
            getattr(spectra, name) for name in ("sigma", "good", "weight", "rv")
        )
    )  # fmt: skip
    loud = scatter.own_scatter(transfer, wrong, rows, box())
    assert (loud >= quiet).all()
    assert (loud > 1.5 * quiet).any()


def test_anchors_without_a_fit_are_refused(spectra, prior):
    blind = PreparedSpectra(spectra.flux, spectra.sigma, np.zeros_like(spectra.good), spectra.weight, spectra.rv)
    known = AnchorLabels(np.tile([3500.0, 4.8, 0.0], (2, 1)))
    transfer = ResidualTransfer(shipped_emulator(), alpha=0.0)
    with pytest.raises(UsageError, match="none of 2 anchor spectra can be fitted"):
        matched.fit_known(transfer, blind, np.array([0, 1]), known, box(), SETTINGS)
