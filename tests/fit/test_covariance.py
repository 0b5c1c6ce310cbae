"""Errors of fits whose model depends on the observed spectrum: noise moves the model as well."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.stars import mock_stars

from stargap.fit.domains import joint_step
from stargap.fit.forward import DataDependentModel, EmulatorModel
from stargap.fit.parameters import Parameters
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.residual.model import ResidualTransfer

DRAWS = 400
SHARE = -0.8


class Follower(EmulatorModel):
    """The emulator's spectra plus a share of a running mean of what the observed spectrum differs from another by."""

    def __init__(self, emulator, prepared, reference):
        super().__init__(emulator, prepared)
        self.reference = reference

    def follow(self, excess):
        return SHARE * torch.nn.functional.avg_pool1d(excess, 9, stride=1, padding=4)

    def __call__(self, labels, directions, rows):
        spectra, change = super().__call__(labels, directions, rows)
        star = self.prepared
        excess = torch.where(star.good[rows], star.flux[rows] - self.reference, 0.0)
        return spectra + self.follow(excess[:, None])[:, 0], change

    def pull_back(self, labels, rows, vectors):
        return torch.where(self.prepared.good[rows][:, None], self.follow(vectors), 0.0)


def test_the_scatter_of_labels_is_the_error_where_the_model_follows_the_noise():
    emulator = shipped_emulator()
    star = mock_stars(emulator, 1, seed=5)
    native = to_log_lambda([Spectrum(star.wavelength, star.flux[0], star.ivar[0])])[
        torch.zeros(DRAWS, dtype=torch.long)
    ]
    noise = torch.randn(native.flux.shape, generator=torch.Generator().manual_seed(3))
    noisy = native.flux + torch.where(native.ivar > 0, native.ivar.clamp_min(1e-10).rsqrt(), 0.0) * noise
    prepared = prepare(replace(native, flux=noisy), torch.full((DRAWS,), float(star.rv[0])).double())
    labels = torch.as_tensor(star.labels).expand(DRAWS, 4).clone()
    labels[:, 3] = 0.0
    parameters = Parameters(emulator.card.lower, emulator.card.upper, {"a_m": 0.0})
    transfer = ResidualTransfer(emulator, split=False)
    weight = torch.where(prepared.good, 1.0 / (prepared.sigma.square() + 0.01**2), 0.0)

    def error_and_scatter(model):
        joint = joint_step(prepared, transfer, model, parameters, labels, weight, torch.arange(DRAWS))
        return joint.covariance.diagonal(dim1=1, dim2=2).mean(dim=0).sqrt(), joint.step.std(dim=0)

    reference = prepare(native[:1], torch.as_tensor(star.rv)).flux
    follower = Follower(emulator, prepared, reference)
    assert isinstance(follower, DataDependentModel)
    error, scatter = error_and_scatter(follower)
    torch.testing.assert_close(error, scatter, rtol=0.12, atol=0.0)
    fixed, _ = error_and_scatter(EmulatorModel(emulator, prepared))
    assert not isinstance(EmulatorModel(emulator, prepared), DataDependentModel)
    assert ((error / fixed - 1).abs() > 0.2).any(), "the noise in the model counts"
