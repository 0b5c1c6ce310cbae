"""Trainings that are tried on the page of the published network."""

from dataclasses import replace

import pytest
import torch
from starnet_trials import LabelMap, MarginalsTask, PenaltyTask, _steepness, noise_told
from torch import nn

from stargap.starnet.losses import Batch
from stargap.starnet.training_settings import StarnetSettings


class Linear(nn.Module):
    def forward(self, spectrum, latent):
        return 2.0 * spectrum.flatten(1).sum(dim=1) + 3.0 * latent.flatten(1).sum(dim=1)


def some_batch(rows=4):
    generator = torch.Generator().manual_seed(1)
    flux = 1.0 + 0.1 * torch.randn(2, rows, 2901, generator=generator)
    return Batch(flux[0], flux[1], torch.full_like(flux[0], 0.1), torch.ones_like(flux[0], dtype=torch.bool))


def test_differences_under_noise_give_the_squared_gradient():
    torch.manual_seed(2)
    steep = _steepness(Linear(), torch.randn(20_000, 5, 1), torch.randn(20_000, 2, 1))
    assert steep.item() == pytest.approx(5 * 2.0**2 + 2 * 3.0**2, rel=0.05)


def test_a_penalty_reaches_the_critics_alone():
    task, batch = PenaltyTask.new(StarnetSettings()), some_batch()
    task.generator_loss(batch)
    total, terms = task.critic_loss(batch)
    total.backward()
    assert terms["penalty"] > 0
    assert all(parameter.grad is None for parameter in task.generator_parameters())
    assert all(parameter.grad is not None for parameter in task.critic_parameters())


def test_a_linear_map_tells_labels_of_noisy_spectra():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randn(400, 2, generator=generator)
    spectra = 1.0 + 0.05 * labels @ torch.randn(2, 300, generator=generator)
    found = LabelMap.fit(spectra, labels)(spectra + 0.02 * torch.randn(spectra.shape, generator=generator))
    scores = (labels - labels.mean(dim=0)) / labels.std(dim=0)
    assert (found - scores).square().mean() < 0.01


def test_marginals_are_compared_whatever_the_order_of_the_spectra():
    pixel = LabelMap(torch.eye(2901)[:, :1], torch.zeros(1))
    task, batch = MarginalsTask.new(StarnetSettings(), pixel), some_batch()
    _, terms = task.generator_loss(batch)
    turned = task.generator_loss(replace(batch, synthetic=batch.synthetic.flip(0)))[1]
    shifted = task.generator_loss(replace(batch, synthetic=batch.synthetic + 50.0))[1]
    assert turned["marginals"].item() == pytest.approx(terms["marginals"].item(), rel=1e-5)
    assert shifted["marginals"] > max(0.9, terms["marginals"])


def test_an_encoder_is_told_the_noise_of_each_spectrum():
    network, batch = noise_told(StarnetSettings()).network, some_batch()
    quiet = 1.0 + 0.1 * (batch.observed - 1.0)
    seen = []
    network.observed_encoder.layers[0].register_forward_hook(lambda _, given, __: seen.append(given[0][:, 0, 1]))
    for flux in (batch.observed, quiet):
        network.encode_observed(flux)
    assert torch.all(seen[0] - seen[1] > 0.8)
    assert torch.all(seen[0] - seen[1] < 1.05)
