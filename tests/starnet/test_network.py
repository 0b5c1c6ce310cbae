"""The network: plain convolutions give the same, derivatives are derivatives, bad pixels are unseen."""

from __future__ import annotations

import copy
import re
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from stargap.errors import UsageError
from stargap.starnet.critics import Critics
from stargap.starnet.layers import Down, Up
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings

SMALL = {
    "outer_filters": (3, 4),
    "shared_filters": (4, 6, 8),
    "shared_latent": 5,
    "split_filters": (3, 3, 4),
    "split_latent": 2,
    "critic_filters": (2, 2, 2, 2, 3),
    "critic_latent_filters": (3, 4),
}
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
COUNTS = (700, 1023, 1279, 2900, 2901, 3081)


def small(pixels=1400, **changes):
    return NetworkSettings(pixels=pixels, **SMALL | changes)


def spectra(rows, pixels, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 1 + 0.1 * torch.randn(rows, pixels, generator=generator, dtype=torch.float64).to(dtype)


def trained(network, seed=5):
    """The network with buffers and biases that are not their initial ones."""
    pixels = network.settings.pixels
    flux = spectra(6, pixels, seed) * torch.linspace(0.7, 1.3, pixels)
    network.standardise(flux[:3], flux[3:], torch.rand(3, pixels, generator=torch.Generator().manual_seed(seed)) > 0.1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return network


@pytest.fixture(scope="module")
def network():
    return trained(CycleStarNet(small()))


@pytest.fixture(scope="module")
def published():
    return trained(CycleStarNet())


# ---- a plain implementation, in torch's own layout


def plain_encoder(layers, x, slope):
    for layer in layers:
        if isinstance(layer, Down):
            x = functional.conv1d(x, layer.weight.permute(2, 1, 0), layer.bias, stride=layer.stride)
            x = functional.leaky_relu(x, slope)
        else:
            x = functional.instance_norm(functional.conv1d(x, layer.weight[..., None], layer.bias))
    return x


def plain_decoder(layers, x, slope):
    for layer in layers:
        if isinstance(layer, Up):
            x = functional.conv_transpose1d(x, layer.weight.permute(0, 2, 1), layer.bias, stride=layer.stride)
            x = functional.leaky_relu(x, slope)
        else:
            x = functional.conv1d(x, layer.weight[..., None], layer.bias)
    return x


def plain(network, flux, encoder):
    s = network.settings
    extra = s.length - s.pixels
    x = functional.pad((flux - network.mean) / network.deviation, (extra // 2, extra - extra // 2))[:, None]
    features = plain_encoder(encoder, x, s.slope)
    return plain_encoder(network.shared_encoder, features, s.slope), plain_encoder(
        network.split_encoder, features, s.slope
    )


def plain_outputs(network, x):
    first = (network.settings.length - network.settings.pixels) // 2
    return x[:, 0, first : first + network.settings.pixels] * network.deviation + network.mean


def plain_synthetic_to_observed(network, flux, observed):
    slope = network.settings.slope
    shared = plain_decoder(network.shared_decoder, plain(network, flux, network.synthetic_encoder)[0], slope)
    split = plain_decoder(network.split_decoder, plain(network, observed, network.observed_encoder)[1], slope)
    x = plain_decoder(network.observed_decoder, torch.cat([shared.expand(len(split), -1, -1), split], dim=1), slope)
    return plain_outputs(network, x)


def plain_observed_to_synthetic(network, flux):
    slope = network.settings.slope
    shared = plain_decoder(network.shared_decoder, plain(network, flux, network.observed_encoder)[0], slope)
    return plain_outputs(network, plain_decoder(network.synthetic_decoder, shared, slope))


def close(one, other, tolerance=1e-5):
    scale = other.abs().max()
    assert (one - other).abs().max() <= tolerance * scale, float((one - other).abs().max() / scale)


# ---- the published configuration


def test_the_defaults_are_the_published_figures(published):
    s = published.settings
    assert (s.kernel, s.slope, s.bias) == (7, 0.1, 0.01)
    assert (s.outer_filters, s.outer_strides) == ((32, 64), (4, 4))
    assert (s.shared_filters, s.shared_strides, s.shared_latent) == ((128, 256, 512), (4, 2, 2), 25)
    assert (s.split_filters, s.split_latent) == ((32, 32, 32), 4)
    assert (s.critic_filters, s.critic_stride) == ((16, 32, 64, 128, 256), 4)
    assert s.critic_latent_filters == (32, 64, 128, 256, 512)

    def convolutions(*channels):
        return sum(7 * a * b + b for a, b in pairwise(channels))

    def points(*channels):
        return sum(a * b + b for a, b in pairwise(channels))

    wanted = {
        "synthetic_encoder": convolutions(1, 32, 64),
        "observed_encoder": convolutions(1, 32, 64),
        "shared_encoder": convolutions(64, 128, 256, 512) + points(512, 25),
        "split_encoder": convolutions(64, 32, 32, 32) + points(32, 4),
        "shared_decoder": convolutions(25, 512, 256, 128),
        "split_decoder": convolutions(4, 32, 32, 32),
        "synthetic_decoder": convolutions(128, 64, 32) + points(32, 1),
        "observed_decoder": convolutions(128 + 32, 64, 32) + points(32, 1),
    }
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in published.named_children()} == wanted
    critics = Critics()
    for critic, latent in ((critics.synthetic, 25), (critics.observed, 29)):
        own = convolutions(1, 16, 32, 64, 128, 256) + points(latent, 32, 64, 128, 256, 512)
        assert sum(p.numel() for p in critic.parameters()) == own + (2 * 256 + 8 * 512) + 1


def test_initial_weights_are_glorot_s_and_biases_0_01():
    network = CycleStarNet()
    for module in (network, Critics()):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0.01).all(), name
    weight = network.shared_encoder[1].weight.detach()
    limit = (6 / (7 * (128 + 256))) ** 0.5
    assert weight.shape == (7, 128, 256)
    assert 0.999 * limit < weight.abs().max() <= limit
    assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.01)


def test_a_seed_gives_one_network_whatever_the_global_state():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = CycleStarNet(small())
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    for one, other, same in (
        (first, CycleStarNet(small()), True),
        (first, CycleStarNet(small(), seed=1), False),
        (Critics(small()), Critics(small()), True),
    ):
        pairs = [pair for pair in zip(one.parameters(), other.parameters(), strict=True) if pair[0].ndim > 1]
        assert all(torch.equal(a, b) is same for a, b in pairs)


@pytest.mark.parametrize("pixels", COUNTS)
def test_any_number_of_pixels_comes_back(pixels):
    network, critics = trained(CycleStarNet(small(pixels))), Critics(small(pixels))
    s = network.settings
    assert s.length >= pixels
    assert (s.length - 1023) % 256 == 0
    assert (s.length - 1023) // 256 == s.positions >= 4
    assert s.length - 256 < max(pixels, 2047)
    synthetic, observed = spectra(4, pixels).chunk(2)
    z_sh, z_sp = network.encode_observed(observed)
    assert z_sh.shape == (2, s.positions, 5)
    assert z_sp.shape == (2, s.positions, 2)
    assert network.encode_synthetic(synthetic).shape == z_sh.shape
    for made in network.cycles(synthetic, observed)[:6]:
        assert made.shape == (2, pixels)
        assert torch.isfinite(made).all()
    assert critics.observed(network.inputs(observed), torch.cat([z_sh, z_sp], dim=2)).shape == (2,)
    assert (z_sh.mean(dim=1).abs() < 1e-5).all()


def test_published_lengths_are_not_padded():
    assert [small(256 * k + 1023).length - (256 * k + 1023) for k in (4, 7, 8, 9)] == [0, 0, 0, 0]
    assert small(2901).length == 3071


# ---- the network


def test_it_is_the_network_of_plain_convolutions(published):
    exact = copy.deepcopy(published).double()
    synthetic, observed = spectra(4, 2901, dtype=torch.float64).chunk(2)
    with torch.no_grad():
        z_sp = exact.encode_observed(observed)[1]
        close(
            exact.synthetic_to_observed(synthetic, z_sp), plain_synthetic_to_observed(exact, synthetic, observed), 1e-9
        )
        close(exact.observed_to_synthetic(observed), plain_observed_to_synthetic(exact, observed), 1e-9)
        single = published.synthetic_to_observed(synthetic.float(), z_sp.float())
    close(single, exact.synthetic_to_observed(synthetic, z_sp).float(), 1e-5)


def test_cycles_are_what_the_pieces_give(network):
    synthetic, observed = spectra(6, 1400).chunk(2)
    with torch.no_grad():
        made = network.cycles(synthetic, observed)
        z_s = network.encode_synthetic(synthetic)
        z_o, z_sp = network.encode_observed(observed)
        to_observed, to_synthetic = network.decode_observed(z_s, z_sp), network.decode_synthetic(z_o)
        wanted = (
            network.decode_synthetic(z_s),
            network.decode_observed(z_o, z_sp),
            to_observed,
            to_synthetic,
            network.decode_synthetic(network.encode_observed(to_observed)[0]),
            network.decode_observed(network.encode_synthetic(to_synthetic), z_sp),
            z_s,
            z_o,
            z_sp,
        )
    for name, one, other in zip(made._fields, made, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_reach_every_parameter(network):
    network = copy.deepcopy(network)
    made = network.cycles(*spectra(4, 1400).chunk(2))
    sum((one * spectra(2, 1400, seed)).sum() for seed, one in enumerate(made[:6])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # Instance normalisation takes away whatever a bias adds to a latent.
        if not re.fullmatch(r"(shared|split)_encoder\.3\.bias", name):
            assert (parameter.grad != 0).any(dim=0).all(), name


def test_its_gradients_are_those_of_plain_convolutions(network):
    exact = copy.deepcopy(network).double()
    synthetic, observed = spectra(4, 1400, dtype=torch.float64).chunk(2)
    probe = spectra(2, 1400, 3, torch.float64)
    results = []
    for made in (
        exact.synthetic_to_observed(synthetic, exact.encode_observed(observed)[1]),
        plain_synthetic_to_observed(exact, synthetic, observed),
    ):
        exact.zero_grad()
        (made * probe).sum().backward()
        results.append({n: p.grad.clone() for n, p in exact.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, grad in results[0].items():
        torch.testing.assert_close(grad, results[1][name], rtol=1e-7, atol=1e-9, msg=name)


@forward_mode
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_tangents_are_derivatives(network, rows):
    exact = copy.deepcopy(network).double()
    synthetic, observed = spectra(2 * rows, 1400, dtype=torch.float64).chunk(2)
    directions = torch.stack([spectra(rows, 1400, seed, torch.float64) - 1 for seed in (1, 2, 3)], dim=1)
    split = exact.split_features(observed)
    values, changes = exact.observed_and_tangents(synthetic, directions, split)
    assert changes.shape == (rows, 3, 1400)
    for k in range(3):
        wanted, slope = torch.func.jvp(
            lambda x: plain_synthetic_to_observed(exact, x, observed), (synthetic,), (directions[:, k],)
        )
        close(values, wanted.detach(), 1e-9)
        close(changes[:, k], slope.detach(), 1e-9)
    single = network.observed_and_tangents(synthetic.float(), directions.float(), split.float())
    close(single[0], values.float(), 1e-5)
    # Rounding may put a value on the other side of a LeakyReLU's kink.
    assert (single[1] - changes).norm() < 1e-3 * changes.norm()


@forward_mode
def test_tangents_of_the_published_network(published):
    exact = copy.deepcopy(published).double()
    synthetic, observed = spectra(4, 2901, dtype=torch.float64).chunk(2)
    directions = (spectra(2, 2901, 7, torch.float64) - 1)[:, None]
    values, changes = exact.observed_and_tangents(synthetic, directions, exact.split_features(observed))
    wanted, slope = torch.func.jvp(
        lambda x: plain_synthetic_to_observed(exact, x, observed), (synthetic,), (directions[:, 0],)
    )
    close(values, wanted.detach(), 1e-9)
    close(changes[:, 0], slope.detach(), 1e-9)


def test_half_precision_tangents_are_close_and_leave_values_alone(published):
    synthetic, observed = spectra(4, 2901).chunk(2)
    directions = functional.avg_pool1d(spectra(2, 2901, 7)[:, None] - 1, 31, 1, 15)
    split = published.split_features(observed)
    values, changes = published.observed_and_tangents(synthetic, directions, split)
    same, coarse = published.observed_and_tangents(synthetic, directions, split, tangent_dtype=torch.bfloat16)
    assert torch.equal(values, same)
    assert coarse.dtype == torch.float32
    assert (coarse - changes).norm() < 0.02 * changes.norm()


def test_half_precision_is_close(published):
    half = copy.deepcopy(published)
    half.precision = torch.bfloat16
    synthetic, observed = spectra(4, 2901).chunk(2)
    one, other = half.cycles(synthetic, observed), published.cycles(synthetic, observed)
    for name in ("synthetic", "observed", "to_observed", "to_synthetic"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.05 * (b - published.mean).norm()
    one.observed.sum().backward()
    assert half.observed_encoder[0].weight.grad.dtype == torch.float32


# ---- how it may depart from the published one


@pytest.fixture(scope="module")
def residual():
    return trained(CycleStarNet(small(residual=True)))


def test_a_residual_network_starts_at_the_identity():
    network = CycleStarNet(small(residual=True), seed=3)
    synthetic, observed = spectra(4, 1400).chunk(2)
    with torch.no_grad():
        made = network.cycles(synthetic, observed)
    torch.testing.assert_close(made.to_observed, synthetic)
    torch.testing.assert_close(made.observed_cycle, made.to_synthetic)
    assert (made.observed - observed).abs().max() > 0.01


def test_residual_cycles_are_what_the_pieces_give(residual):
    synthetic, observed = spectra(6, 1400).chunk(2)
    with torch.no_grad():
        made = residual.cycles(synthetic, observed)
        z_s, z_sp = residual.encode_synthetic(synthetic), residual.encode_observed(observed)[1]
        there = synthetic + residual.decode_observed(z_s, z_sp) - residual.decode_synthetic(z_s)
        back = residual.synthetic_to_observed(made.to_synthetic, z_sp)
        cycle = residual.decode_synthetic(residual.encode_observed(there)[0])
    for one, other in (
        (made.to_observed, there),
        (residual.synthetic_to_observed(synthetic, z_sp), there),
        (made.observed_cycle, back),
        (made.synthetic_cycle, cycle),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (made.to_observed - residual.decode_observed(z_s, z_sp)).abs().max() > 0.01


@forward_mode
def test_residual_tangents_are_derivatives(residual):
    exact = copy.deepcopy(residual).double()
    synthetic, observed = spectra(4, 1400, dtype=torch.float64).chunk(2)
    direction = spectra(2, 1400, 1, torch.float64) - 1
    values, changes = exact.observed_and_tangents(synthetic, direction[:, None], exact.split_features(observed))
    z_sp = exact.encode_observed(observed)[1]
    with torch.no_grad():
        close(values, exact.synthetic_to_observed(synthetic, z_sp), 1e-9)
        step = 1e-6 * direction
        up, down = (exact.synthetic_to_observed(synthetic + sign * step, z_sp) for sign in (1, -1))
    assert (changes[:, 0] - (up - down) / 2e-6).norm() < 1e-5 * changes.norm()


def test_noise_on_z_sp_is_of_the_training_alone():
    network = trained(CycleStarNet(small(split_noise=0.5)))
    synthetic, observed = spectra(4, 1400).chunk(2)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        quiet = network.encode_observed(observed)[1]
        noisy = network.train().cycles(synthetic, observed).z_split
        assert torch.equal(network.eval().cycles(synthetic, observed).z_split, quiet)
    assert 0.3 < float((noisy - quiet).std()) < 0.7


# ---- batches and bad pixels


def test_rows_do_not_see_each_other(network):
    synthetic, observed = spectra(10, 1400).chunk(2)
    spoilt = synthetic.clone(), observed.clone()
    for array in spoilt:
        array[2] = torch.nan
    keep = torch.tensor([0, 1, 3, 4])
    with torch.no_grad():
        for one, other in zip(network.cycles(synthetic, observed), network.cycles(*spoilt), strict=True):
            assert torch.equal(one[keep], other[keep])
            assert torch.isnan(other[2]).any()
        split = network.split_features(observed)
        tangents = synthetic[:, None] - 1
        good = network.observed_and_tangents(synthetic, tangents, split)
        bad = network.observed_and_tangents(spoilt[0], spoilt[0][:, None] - 1, split)
    for one, other in zip(good, bad, strict=True):
        assert torch.equal(one[keep], other[keep])


@pytest.mark.parametrize("rows", [0, 1, 17])
def test_batches_of_any_size(network, rows):
    synthetic, observed = spectra(34, 1400).chunk(2)
    good = spectra(17, 1400, 4) > 0.9
    with torch.no_grad():
        observed = network.fill(observed, good)
        whole = network.cycles(synthetic, observed)
        part = network.cycles(synthetic[:rows], network.fill(observed[:rows], good[:rows]))
        split = network.split_features(observed[:rows])
    for one, other in zip(part, whole, strict=True):
        torch.testing.assert_close(one, other[:rows], rtol=1e-5, atol=1e-5)
    values, changes = network.observed_and_tangents(synthetic[:rows], synthetic[:rows, None], split)
    assert values.shape == (rows, 1400)
    assert changes.shape == (rows, 1, 1400)
    torch.testing.assert_close(values, whole.to_observed[:rows], rtol=1e-5, atol=1e-5)


def test_the_same_input_gives_the_same_output(published):
    synthetic, observed = spectra(6, 2901).chunk(2)
    with torch.no_grad():
        first, second = (published.cycles(synthetic, observed) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1e30, 0.0])
def test_masked_pixels_are_not_seen(network, value):
    observed = spectra(3, 1400)
    good = torch.rand(3, 1400, generator=torch.Generator().manual_seed(2)) > 0.2
    good[0, 300:600] = False
    good[2] = False
    spoilt = torch.where(good, observed, value)
    with torch.no_grad():
        assert torch.equal(network.fill(observed, good), network.fill(spoilt, good))
        for one, other in zip(
            (*network.encode_observed(observed, good), network.observed_to_synthetic(observed, good)),
            (*network.encode_observed(spoilt, good), network.observed_to_synthetic(spoilt, good)),
            strict=True,
        ):
            assert torch.equal(one, other)
            assert torch.isfinite(one).all()
        assert torch.equal(network.split_features(observed, good), network.split_features(spoilt, good))


def test_filling_keeps_good_pixels_and_interpolates(network):
    typical = network.typical
    flux = typical + 0.3
    good = torch.ones(2, 1400, dtype=torch.bool)
    good[0, 700] = good[0, 1] = False
    good[1, 400:800] = False
    filled = network.fill(flux.expand(2, -1), good)
    assert torch.equal(filled[good], flux.expand(2, -1)[good])
    excess = filled - typical
    # 0.02 beside the kernel's weight of 1 draws an isolated pixel towards the typical spectrum.
    assert excess[0, [700, 1]] == pytest.approx(0.3, rel=0.07)
    assert (excess[1, 450:750].abs() < 1e-6).all()
    assert (excess[1, 400:430].diff() <= 1e-6).all()
    assert excess[1, [400, 799]] == pytest.approx(0.3, rel=0.07)
    nothing = network.fill(flux[None], torch.zeros(1, 1400, dtype=torch.bool))
    assert torch.equal(nothing[0], typical)


def test_one_mean_and_one_deviation_of_good_pixels():
    network = CycleStarNet(small())
    synthetic, observed = spectra(5, 1400), 3 * spectra(4, 1400, 1)
    good = torch.rand(4, 1400, generator=torch.Generator().manual_seed(0)) > 0.3
    good[:, 100:120] = False
    network.standardise(synthetic, torch.where(good, observed, torch.nan), good)
    pixels = torch.cat([synthetic.flatten(), observed[good]]).double()
    assert float(network.mean) == pytest.approx(float(pixels.mean()), rel=1e-6)
    assert float(network.deviation) == pytest.approx(float(pixels.std(correction=0)), rel=1e-6)
    assert network.mean.dtype == network.typical.dtype == torch.float32
    mean = torch.where(good, observed, 0).sum(dim=0) / good.sum(dim=0)
    mean[100:120] = synthetic.mean(dim=0)[100:120]
    torch.testing.assert_close(network.typical, torch.where(good.sum(dim=0) > 0, mean, synthetic.mean(dim=0)))
    inside = network.inputs(observed)[..., 0]
    extra = network.settings.length - 1400
    assert (inside[:, : extra // 2] == 0).all()
    torch.testing.assert_close(
        inside[:, extra // 2 :][:, :1400], (observed - network.mean) / network.deviation, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("value", [1.0, torch.nan])
def test_constant_or_broken_training_spectra_are_refused(value):
    flux = torch.full((2, 1400), value)
    with pytest.raises(UsageError, match="2 synthetic and 2 observed training spectra have a variance of"):
        CycleStarNet(small()).standardise(flux, flux, flux > 0)


def test_other_shapes_are_refused_in_words(network):
    with pytest.raises(UsageError, match=r"shape \(2, 1399\), the network takes \(row, 1400\)"):
        network.encode_synthetic(spectra(2, 1399))
    with pytest.raises(UsageError, match="2 synthetic and 3 observed spectra do not pair up"):
        network.cycles(spectra(2, 1400), spectra(3, 1400))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outer_filters": (3,)}, "outer: 1 layers of filters and 2 strides"),
        ({"split_filters": (3, 3)}, "split: 2 layers of filters and 3 strides"),
        ({"kernel": 3}, "a kernel of 3 skips pixels"),
        ({"critic_filters": (2,) * 6}, "6 critic layers are too many for 2047 pixels"),
        ({"slope": 0.0}, "slope"),
        ({"shared_latent": 0}, "shared_latent"),
        ({"color": 1}, "color"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValidationError, match=re.escape(words)):
        small(**changes)


# ---- critics


def test_critics_judge_rows_on_their_own_and_learn_everywhere(network):
    critics = Critics(network.settings)
    synthetic, observed = spectra(6, 1400).chunk(2)
    made = network.cycles(synthetic, observed)
    both = torch.cat([made.z_observed, made.z_split], dim=2).detach()
    logits = critics.observed(network.inputs(made.observed.detach()), both)
    single = critics.observed(network.inputs(made.observed.detach()[1:2]), both[1:2])
    torch.testing.assert_close(logits[1:2], single)
    (logits.sum() + critics.synthetic(network.inputs(synthetic), made.z_synthetic.detach()).sum()).backward()
    for name, parameter in critics.named_parameters():
        assert (parameter.grad != 0).any(), name
    assert set(critics.critic_parameters()) == set(critics.parameters())
    assert set(network.generator_parameters()) == set(network.parameters())
