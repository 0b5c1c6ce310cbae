"""The label prior: its sequence is the isochrones', errors are those of noise, and light outweighs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.lbfgs import fit_lbfgs
from stargap.fit.prior import RANGE, LabelPrior, fit_sequence
from stargap.flags import Flag
from stargap.labels import LOGG, M_H, TEFF
from stargap.measurement.fits import parameters_for
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.theory.isochrones import shipped_isochrones

PLACES = torch.tensor([[3500.0, 4.7, -0.2, 0.0], [3010.0, 5.2, 0.1, 0.0], [4200.0, 4.4, -1.2, 0.3]]).double()


@pytest.fixture(scope="module")
def sequence():
    return fit_sequence(shipped_isochrones())


@pytest.fixture(scope="module")
def prior(sequence):
    return LabelPrior(sequence, logg_width=0.05, m_h=-0.05, m_h_width=0.5)


@pytest.fixture(scope="module")
def box(emulator):
    return parameters_for(MeasureSettings(), emulator)


def at(teff, m_h):
    return torch.stack([torch.as_tensor(teff), torch.zeros(len(teff)), torch.as_tensor(m_h), torch.zeros(len(teff))], 1)


# ---- the sequence


def test_the_sequence_is_that_of_the_isochrones(prior):
    teff, m_h = np.meshgrid(np.arange(2720.0, 4501.0, 20.0), np.arange(-1.5, 0.301, 0.05))
    known = shipped_isochrones().logg_at(teff.ravel(), m_h.ravel())
    apart = prior.logg(at(teff.ravel(), m_h.ravel()))[0].numpy() - known
    found = np.isfinite(known)
    assert found.mean() > 0.99
    assert np.abs(apart[found]).max() < 0.024
    assert np.abs(apart[found & (m_h.ravel() > -1.4)]).max() < 0.02
    assert apart[found].std() < 0.007


def test_cooler_and_poorer_dwarfs_are_denser(prior):
    teff = torch.arange(2800.0, 4401.0, 100.0).double()
    for m_h in (-1.0, 0.0, 0.3):
        assert (prior.logg(at(teff, torch.full_like(teff, m_h)))[0].diff() < 0).all()
    poor, rich = (prior.logg(at(teff, torch.full_like(teff, m_h)))[0] for m_h in (-1.0, 0.3))
    assert (poor > rich + 0.1).all()


def test_slopes_of_the_sequence_are_finite_differences(prior):
    value, slope = prior.logg(PLACES)
    assert value.shape == (3,)
    assert not slope[:, [1, 3]].any()
    for place, step in ((TEFF, 1.0), (M_H, 1e-3)):
        move = torch.zeros(4).double()
        move[place] = step
        numeric = (prior.logg(PLACES + move)[0] - prior.logg(PLACES - move)[0]) / (2 * step)
        torch.testing.assert_close(slope[:, place], numeric, rtol=1e-4, atol=1e-9)


def test_beyond_its_range_the_sequence_holds_its_value(prior):
    low, high = (3600.0 + 800.0 * end for end in RANGE[0])
    inside, beyond = (
        at(torch.tensor(teff).double(), torch.tensor(m_h).double())
        for teff, m_h in (([low, high, low, high], [-1.5, 0.3, 0.3, -1.5]), ([2600.0, 4900.0] * 2, [-2, 0.5, 0.5, -2]))
    )
    assert torch.equal(prior.logg(inside)[0], prior.logg(beyond)[0])
    assert not prior.logg(beyond)[1].any()


# ---- what it adds to a fit


def test_departures_and_their_derivatives_are_those_of_the_labels(prior):
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([100.0, 0.2, 0.2, 0.1]).double()
    directions = torch.randn(3, 3, 4, generator=generator).double() * scale
    apart, change = prior(PLACES, directions)
    torch.testing.assert_close(apart[:, 0], (PLACES[:, LOGG] - prior.logg(PLACES)[0]) / 0.05)
    torch.testing.assert_close(apart[:, 1], (PLACES[:, M_H] + 0.05) / 0.5)
    for k in range(3):
        ends = [prior(PLACES + sign * 1e-3 * directions[:, k], directions)[0] for sign in (1, -1)]
        torch.testing.assert_close(change[:, k], (ends[0] - ends[1]) / 2e-3, rtol=1e-4, atol=1e-6)


def test_fixed_labels_contribute_nothing(prior, box):
    for held, counted in (({"logg": 4.2}, [False, True]), ({"m_h": 0.4}, [True, False])):
        labels, directions = replace(box, fixed=held).expand(torch.tensor([[3500.0, 0.3]]).double())
        apart, change = prior(labels, directions)
        assert (apart[0] != 0).tolist() == counted
        assert change[0].any(dim=0).tolist() == counted
    labels, directions = replace(box, fixed={"logg": 4.2, "m_h": 0.4}).expand(torch.tensor([[3500.0]]).double())
    assert not any(part.any() for part in prior(labels, directions))


# ---- fits


@pytest.fixture(scope="module")
def fitted(simulate, spectra, emulator, box):
    """Fits of stars with these labels, each `count` times with its own noise."""

    def fit(labels, count, snr, given, function=fit_labels, seed=61, **options):
        stars = simulate(count, seed=seed, snr=snr, labels=np.tile(labels, (count, 1)), bad_pixels=False,
                         rv=np.zeros(count))  # fmt: skip
        prepared = prepare(to_log_lambda(spectra(stars)), torch.zeros(count).double())
        model = EmulatorModel(emulator, prepared)
        return function(prepared, model, emulator, box, prior=given, **{"error_floor": 0.002} | options)

    return fit


ODD = np.array([3500.0, 4.45, -0.1, 0.04])
"""A star a third of a dex above the main sequence."""


def test_noise_leaves_a_star_on_the_sequence_and_light_takes_it_off(fitted, prior):
    expected = float(prior.logg(torch.as_tensor(ODD)[None])[0])
    assert expected - ODD[LOGG] > 0.3
    faint, bright = (fitted(ODD, 12, snr, prior).labels[:, LOGG] for snr in (3.0, 300.0))
    free = fitted(ODD, 12, 3.0, None).labels[:, LOGG]
    assert abs(float(faint.median()) - expected) < 0.08
    assert faint.std() < 0.5 * free.std()
    assert abs(float(bright.median()) - ODD[LOGG]) < 0.05


@pytest.mark.slow
def test_errors_are_the_scatter_that_noise_makes(fitted, prior):
    """Of a star on the sequence: a prior takes scatter away, and the quoted errors with it."""
    star = np.array([3500.0, float(prior.logg(torch.as_tensor(ODD)[None])[0]), -0.1, 0.04])
    for given in (prior, None):
        fit = fitted(star, 160, 25.0, given, starts=1)
        scatter, quoted = fit.labels[:, :3].std(dim=0), fit.errors[:, :3].median(dim=0).values
        assert ((scatter / quoted - 1).abs() < 0.25).all(), (given, scatter / quoted)
    pulled, free = (fitted(star, 8, 25.0, given, starts=1).errors[:, LOGG].median() for given in (prior, None))
    assert pulled < 0.7 * free


def test_a_very_broad_prior_changes_nothing(fitted, sequence):
    broad = LabelPrior(sequence, 50.0, 0.0, 50.0)
    fits = [fitted(ODD, 6, 30.0, given, tolerance=1e-3) for given in (None, broad)]
    assert (((fits[0].labels - fits[1].labels) / fits[0].errors)[:, :3].abs() < 0.02).all()
    torch.testing.assert_close(fits[0].errors, fits[1].errors, rtol=0.01, atol=0)
    torch.testing.assert_close(fits[0].model, fits[1].model, rtol=0, atol=1e-4)
    assert fits[0].model.shape == fits[1].model.shape


def test_lbfgs_agrees_with_levenberg_marquardt(fitted, prior):
    start = fitted(ODD, 8, 20.0, prior, error_floor=0.03).labels  # where [a/M] bends there can be two minima
    ours, theirs = (fitted(ODD, 8, 20.0, prior, function, start=start) for function in (fit_labels, fit_lbfgs))
    assert (((ours.labels - theirs.labels) / ours.errors)[:, :3].abs() < 0.1).all()
    torch.testing.assert_close(theirs.errors[:, :3], ours.errors[:, :3], rtol=0.02, atol=0)
    assert not ((ours.flags | theirs.flags) & int(Flag.NOT_CONVERGED)).any()
