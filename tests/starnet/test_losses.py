"""The losses: what they are by hand, that bad pixels and rows do not count, and whom their gradients reach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.starnet.critics import Critics
from stargap.starnet.losses import (
    PUBLISHED_WEIGHTS,
    Batch,
    CycleTask,
    critic_loss,
    distance,
    energy_distance,
    generator_loss,
    transfer,
)
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)
PIXELS = 1500
SMALL = NetworkSettings(
    pixels=PIXELS,
    outer_filters=(3, 4),
    shared_filters=(4, 6, 8),
    shared_latent=5,
    split_filters=(3, 3, 4),
    split_latent=2,
    critic_filters=(2, 2, 2, 2, 3),
    critic_latent_filters=(3, 4),
)


def make_batch(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(rows, PIXELS, generator=generator)

    return Batch(
        synthetic=1 + 0.1 * noise(),
        observed=1 + 0.1 * noise(),
        observed_sigma=0.003 + 0.02 * noise().abs(),
        observed_good=noise() > -1,
    )


@pytest.fixture
def task():
    task = CycleTask(CycleStarNet(SMALL), Critics(SMALL, seed=1))
    batch = make_batch(8, seed=9)
    task.network.standardise(batch.synthetic, batch.observed, batch.observed_good)
    return task


@pytest.fixture
def batch():
    return make_batch(4)


def bce(truth, logits):
    chance = 1 / (1 + torch.exp(-logits.double()))
    return float(-(truth * chance.log() + (1 - truth) * (1 - chance).log()).mean())


# ---- distances


def test_distance_is_chi_square_a_good_pixel_averaged_over_rows():
    one = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    other = torch.tensor([[1.0, 1.0, 5.0], [0.0, 9.0, 9.0]])
    sigma = torch.tensor([[1.0, 0.5, 2.0], [0.25, 1.0, 1.0]])
    good = torch.tensor([[True, True, True], [True, False, False]])
    first, second = (0 + 4 + 1) / 3, 16 / 1
    assert distance(one, other, sigma, good).item() == pytest.approx((first + second) / 2)
    assert distance(one, other, 0.5).item() == pytest.approx((4 * 5 / 3 + 4 * (1 + 64 + 64) / 3) / 2)


@few
@given(
    rows=st.integers(1, 4),
    share=st.floats(0, 1),
    value=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, 0.0]),
    seed=st.integers(0, 99),
)
def test_what_masked_pixels_hold_does_not_matter(rows, share, value, seed):
    generator = torch.Generator().manual_seed(seed)
    one, other, sigma = 0.5 + torch.rand(3, rows, 20, generator=generator)
    good = torch.rand(rows, 20, generator=generator) < share
    one.requires_grad_()
    wanted = distance(one, other, sigma, good)
    (gradient,) = torch.autograd.grad(wanted, one)
    assert (gradient[~good] == 0).all()
    spoilt = [torch.where(good, array, value) for array in (other, sigma)]
    ours = distance(one, *spoilt, good)
    assert torch.equal(ours, wanted)
    assert torch.equal(torch.autograd.grad(ours, one)[0], gradient)
    assert torch.equal(distance(torch.where(good, one, value), other, sigma, good), wanted)


def test_a_row_without_good_pixels_counts_as_0():
    one, other = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(1))
    good = torch.ones(3, 20, dtype=torch.bool)
    good[1] = False
    ours = distance(one, other, torch.ones(3, 20), good)
    assert ours.item() == pytest.approx(float((one - other)[[0, 2]].square().mean(dim=1).sum()) / 3, rel=1e-6)
    assert distance(one, other, torch.ones(3, 20), ~(one > -1)).item() == 0


def test_noise_alone_gives_1_whatever_the_mask():
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(64, 2901, generator=generator) + 0.01
    noise = sigma * torch.randn(64, 2901, generator=generator)
    good = torch.rand(64, 2901, generator=generator) > torch.rand(64, 1, generator=generator)
    assert distance(noise, torch.zeros_like(noise), sigma, good).item() == pytest.approx(1, abs=0.05)


# ---- the energy distance


def test_energy_distance_by_hand():
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    apart = 2 * (1 + 5 + 1 + 3) / 4
    assert energy_distance(one, other).item() == pytest.approx((apart - 2 - 4) / apart)
    assert energy_distance(one[:1], other).item() == 0
    assert energy_distance(one[:0], other).item() == 0


def test_energy_distance_orders_shifts_and_is_0_on_average_for_equals():
    generator = torch.Generator().manual_seed(0)

    def points(shift):
        return torch.randn(40, 6, generator=generator) + shift

    means = [
        sum(energy_distance(points(0.0), points(shift)).item() for _ in range(40)) / 40 for shift in (0, 0.3, 1, 5)
    ]
    assert abs(means[0]) < 0.005
    assert 0 < means[0] + 0.005 < means[1] < means[2] < means[3] < 1


# ---- the sums of eq. 7


def test_the_generator_loss_is_the_sum_of_its_terms(task, batch):
    total, terms = generator_loss(task.network, task.critics, batch)
    assert list(terms) == [
        "rec_synthetic",
        "rec_observed",
        "cycle_synthetic",
        "cycle_observed",
        "adversarial_synthetic",
        "adversarial_observed",
    ]
    assert PUBLISHED_WEIGHTS == (3, 9, 1)
    weights = torch.tensor([3.0, 9, 3, 9, 1, 1])
    assert total.item() == pytest.approx(float((weights * torch.stack(list(terms.values()))).sum()), rel=1e-6)
    assert not any(term.requires_grad for term in terms.values())
    other, _ = generator_loss(task.network, task.critics, batch, (0.0, 0.0, 2.0))
    assert other.item() == pytest.approx(2 * float(terms["adversarial_synthetic"] + terms["adversarial_observed"]))

    made = transfer(task.network, batch)
    sigma = batch.observed_sigma.clamp_min(0.005)
    assert (batch.observed_sigma < 0.005).any()
    by_hand = {
        "rec_synthetic": distance(made.synthetic, batch.synthetic, 0.01),
        "cycle_synthetic": distance(made.synthetic_cycle, batch.synthetic, 0.01),
        "rec_observed": distance(made.observed, batch.observed, sigma, batch.observed_good),
        "cycle_observed": distance(made.observed_cycle, batch.observed, sigma, batch.observed_good),
    }
    for name, value in by_hand.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_large_errors_are_not_cut(task, batch):
    wide = replace(batch, observed_sigma=torch.full_like(batch.observed, 5.0))
    terms = generator_loss(task.network, task.critics, wide)[1]
    made = transfer(task.network, batch)
    wanted = distance(made.observed, batch.observed, wide.observed_sigma, batch.observed_good)
    assert terms["rec_observed"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert wanted > 0


def test_adversarial_losses_are_cross_entropies(task, batch):
    network, critics = task.network, task.critics
    with torch.no_grad():
        made = transfer(network, batch)
        split = made.z_split
        logits = {
            "real_synthetic": critics.synthetic(network.inputs(made.synthetic), made.z_synthetic),
            "fake_synthetic": critics.synthetic(network.inputs(made.to_synthetic), made.z_observed),
            "real_observed": critics.observed(
                network.inputs(made.observed), torch.cat([made.z_observed, split], dim=2)
            ),
            "fake_observed": critics.observed(
                network.inputs(made.to_observed), torch.cat([made.z_synthetic, split], dim=2)
            ),
        }
    generator = generator_loss(network, critics, batch)[1]
    total, critic = critic_loss(network, critics, batch)
    for domain in ("synthetic", "observed"):
        fake, real = logits[f"fake_{domain}"], logits[f"real_{domain}"]
        assert generator[f"adversarial_{domain}"].item() == pytest.approx(bce(1, fake), rel=1e-5)
        assert critic[f"critic_{domain}"].item() == pytest.approx(bce(1, real) + bce(0, fake), rel=1e-5)
    assert total.item() == pytest.approx(float(sum(critic.values())), rel=1e-6)


def test_gradients_reach_the_right_half_and_all_of_it(task, batch):
    task.generator_loss(batch)[0].backward()
    for name, parameter in task.critics.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad, name
    for name, parameter in task.network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("encoder.3.bias"):
            assert (parameter.grad != 0).any(), name
    before = {name: parameter.grad.clone() for name, parameter in task.network.named_parameters()}
    task.critic_loss(batch)[0].backward()
    for name, parameter in task.network.named_parameters():
        assert torch.equal(parameter.grad, before[name]), name
    for name, parameter in task.critics.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_adversarial_losses_alone_move_the_shared_latents(task, batch):
    generator_loss(task.network, task.critics, batch, (0.0, 0.0, 1.0))[0].backward()
    assert (task.network.shared_encoder[0].weight.grad != 0).any()


def test_frozen_critics_stay_frozen(task, batch):
    task.critics.requires_grad_(False)
    task.generator_loss(batch)
    assert not any(parameter.requires_grad for parameter in task.critics.parameters())


def everything(task, batch):
    values = {}
    for name in ("generator_loss", "critic_loss"):
        task.zero_grad()
        total, terms = getattr(task, name)(batch)
        total.backward()
        grads = [parameter.grad.clone() for parameter in task.parameters() if parameter.grad is not None]
        values[name] = [total.detach(), *terms.values(), *grads]
    scores = task.validation_score(batch)
    return values["generator_loss"] + values["critic_loss"] + [torch.tensor(list(scores.values()))]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_masked_pixels_change_no_loss_and_no_gradient(task, batch, value):
    good = batch.observed_good.clone()
    good[1, 200:600] = False
    good[3] = False
    synthetic_good = torch.ones_like(good)
    synthetic_good[0, :300] = synthetic_good[2] = False
    batch = replace(batch, observed_good=good, synthetic_good=synthetic_good)
    spoilt = replace(
        batch,
        observed=torch.where(good, batch.observed, value),
        observed_sigma=torch.where(good, batch.observed_sigma, value),
        synthetic=torch.where(synthetic_good, batch.synthetic, value),
    )
    for one, other in zip(everything(task, batch), everything(task, spoilt), strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


def test_every_synthetic_pixel_is_good_unless_told(task, batch):
    told = replace(batch, synthetic_good=torch.ones_like(batch.observed_good))
    for one, other in zip(everything(task, batch), everything(task, told), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_losses_are_means_over_rows(task, batch):
    parts = [Batch(*(array[i : i + 1] for array in list(vars(batch).values())[:4])) for i in range(4)]
    whole = generator_loss(task.network, task.critics, batch)[1]
    rows = [generator_loss(task.network, task.critics, part)[1] for part in parts]
    for name, value in whole.items():
        assert value.item() == pytest.approx(sum(row[name].item() for row in rows) / 4, rel=1e-4), name


# ---- the task


def test_the_critics_take_the_fakes_of_the_generator_s_step(task, batch):
    fresh = task.critic_loss(batch)[0].item()
    assert fresh == critic_loss(task.network, task.critics, batch)[0].item()
    task.generator_loss(batch)
    with torch.no_grad():
        for parameter in task.network.parameters():
            parameter.add_(0.01)
    assert task.critic_loss(batch)[0].item() == fresh
    assert task.critic_loss(batch)[0].item() != fresh
    task.generator_loss(batch)
    other = make_batch(4, seed=3)
    assert task.critic_loss(other)[0].item() == critic_loss(task.network, task.critics, other)[0].item()


def test_steps_are_reproducible_and_training_lowers_the_loss():
    def run(steps):
        task, batch = CycleTask(CycleStarNet(SMALL), Critics(SMALL)), make_batch(4)
        task.network.standardise(batch.synthetic, batch.observed, batch.observed_good)
        both = [
            torch.optim.Adam(list(parameters), 1e-2)
            for parameters in (task.generator_parameters(), task.critic_parameters())
        ]
        totals = []
        for _ in range(steps):
            for optimiser, loss in zip(both, (task.generator_loss, task.critic_loss), strict=True):
                optimiser.zero_grad()
                total, _ = loss(batch)
                total.backward()
                optimiser.step()
                totals.append(total.item())
        return task, totals

    task, totals = run(12)
    again, same = run(12)
    assert totals == same
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert totals[22] < 0.99 * totals[0]
    other = CycleTask(CycleStarNet(SMALL, seed=4))
    other.load_state_dict(task.state_dict())
    assert other.generator_loss(make_batch(2))[0].item() == task.generator_loss(make_batch(2))[0].item()


def test_parameters_of_the_two_steps_are_all_of_them_once(task):
    generator, critic = set(task.generator_parameters()), set(task.critic_parameters())
    assert generator.isdisjoint(critic)
    assert generator | critic == set(task.parameters())


def test_the_score_is_the_distances_times_the_gaps(task):
    batch = make_batch(6)
    scores = task.validation_score(batch)
    assert all(isinstance(value, float) for value in scores.values())
    distances = (
        3 * (scores["rec_synthetic"] + scores["cycle_synthetic"])
        + 9 * (scores["rec_observed"] + scores["cycle_observed"])
    )  # fmt: skip
    assert scores["score"] == pytest.approx(distances * (1 + scores["gap_latent"] + scores["gap_observed"]), rel=1e-5)
    assert set(scores) == {
        "rec_synthetic",
        "rec_observed",
        "cycle_synthetic",
        "cycle_observed",
        "gap_latent",
        "gap_observed",
        "score",
    }
    single = task.validation_score(make_batch(1))
    assert (single["gap_latent"], single["gap_observed"]) == (0, 0)


def test_domains_that_lie_apart_score_worse(task):
    network, batch = task.network, make_batch(32)
    network.synthetic_encoder.load_state_dict(network.observed_encoder.state_dict())
    together = task.validation_score(batch)
    assert abs(together["gap_latent"]) < 0.02
    ramp = torch.linspace(-0.5, 0.5, PIXELS)
    apart = task.validation_score(replace(batch, synthetic=batch.synthetic + ramp, observed=batch.observed - ramp))
    assert apart["gap_latent"] > together["gap_latent"] + 0.1
    assert apart["gap_observed"] > together["gap_observed"] + 0.1


# ---- what else may be trained on


@pytest.mark.parametrize(
    ("kind", "fooling", "telling"),
    [
        ("hinge", lambda f: -f.mean(), lambda r, f: (1 - r).clamp_min(0).mean() + (1 + f).clamp_min(0).mean()),
        ("least-squares", lambda f: ((f - 1) ** 2).mean(), lambda r, f: ((r - 1) ** 2).mean() + (f**2).mean()),
        ("cross-entropy", lambda f: -torch.sigmoid(f).log().mean(),
         lambda r, f: -torch.sigmoid(r).log().mean() - torch.sigmoid(-f).log().mean()),
    ],
)  # fmt: skip
def test_adversarial_losses_by_hand(task, batch, kind, fooling, telling):
    network, critics = task.network, task.critics
    with torch.no_grad():
        made = transfer(network, batch)
        real = critics.synthetic(network.inputs(made.synthetic), made.z_synthetic)
        fake = critics.synthetic(network.inputs(made.to_synthetic), made.z_observed)
    terms = generator_loss(network, critics, batch, adversarial=kind)[1]
    assert terms["adversarial_synthetic"].item() == pytest.approx(float(fooling(fake)), rel=1e-4)
    terms = critic_loss(network, critics, batch, adversarial=kind)[1]
    assert terms["critic_synthetic"].item() == pytest.approx(float(telling(real, fake)), rel=1e-4)


def test_noise_of_the_observed_spectra_goes_into_synthetic_inputs_alone(task, batch):
    spoilt = replace(batch, observed_sigma=torch.where(batch.observed_good, batch.observed_sigma, torch.nan))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy = transfer(task.network, spoilt, noisy=True)
        torch.manual_seed(0)
        noise = torch.randn_like(batch.synthetic) * batch.observed_sigma
    given = replace(batch, synthetic=batch.synthetic + torch.where(batch.observed_good, noise, 0.0))
    plain = transfer(task.network, given)
    for one, other in zip(noisy, plain, strict=True):
        assert torch.equal(one, other)
    task.noisy = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, terms = task.generator_loss(spoilt)
    assert terms["rec_synthetic"].item() == pytest.approx(
        distance(plain.synthetic, batch.synthetic, 0.01).item(), rel=1e-5
    )


def test_stars_with_known_labels_add_the_distance_of_their_transfers(task):
    batch = make_batch(4)
    paired = torch.tensor([False, True, False, True])
    _, plain = task.generator_loss(batch)
    total, terms = task.generator_loss(replace(batch, paired=paired))
    assert set(terms) - set(plain) == {"paired_observed"}
    made = transfer(task.network, batch)
    some = [made.to_observed, batch.observed, batch.observed_sigma.clamp_min(0.005), batch.observed_good]
    expected = distance(*(part[paired] for part in some))
    torch.testing.assert_close(terms["paired_observed"], expected.detach())
    torch.testing.assert_close(total.detach(), task.generator_loss(batch)[0].detach() + 9 * expected.detach())
    nobody, _ = task.generator_loss(replace(batch, paired=torch.zeros(4, dtype=torch.bool)))
    torch.testing.assert_close(nobody, task.generator_loss(batch)[0])


def test_spectral_critics_have_weights_of_norm_one():
    critics, batch = Critics(SMALL, seed=1, spectral=True), make_batch(8)
    network = CycleStarNet(SMALL)
    task = CycleTask(network, critics)
    for _ in range(60):  # a step of the power iteration each
        task.critic_loss(batch)[0].backward()
    for layer in (*critics.observed.spectrum, critics.observed.last, *critics.synthetic.latent):
        weight = layer.weight.detach()
        matrix = weight if weight.ndim == 2 else weight.flatten(0, 1)
        assert torch.linalg.matrix_norm(matrix, 2) == pytest.approx(1.0, abs=0.02)
    assert all(parameter.grad is not None for parameter in critics.critic_parameters())
    network.precision = torch.bfloat16
    assert torch.isfinite(task.generator_loss(batch)[0])
    assert not any(parameter.grad.isnan().any() for parameter in critics.critic_parameters())
