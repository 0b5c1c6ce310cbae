"""The default transfer: the identity before training, exact derivatives, and files that are refused (41, 42)."""

from __future__ import annotations

import copy
import json
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from helpers.models import forge, refused_by, with_tensors
from helpers.stars import prepared_stars
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from scipy.interpolate import CubicSpline

from stargap.errors import ModelError
from stargap.fit.forward import EmulatorModel
from stargap.fit.polynomial import monomial_slopes, monomials
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.pixels import SPEED_OF_LIGHT, STARGAP
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.residual.model import (
    FWHM_TO_SIGMA,
    MAPPED,
    LabelMap,
    ResidualCard,
    ResidualTransfer,
    powers,
    split_columns,
)

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)
STARS = 12
SAVED = {"training_data": "none", "settings": {"rounds": 0}, "scores": {"score": 1.0}, "simulated": True}


@pytest.fixture(scope="module")
def stars():
    labels, active = nature_labels(STARS, seed=3, mix="matched")
    ((truth, prepared, _),) = prepared_stars(labels, active, shipped_nature(), seed=3)
    return truth, prepared


@pytest.fixture(scope="module")
def question(stars):
    """Labels, directions and rows: what a fit asks of a model."""
    labels = torch.as_tensor(stars[0].labels)
    directions = torch.eye(4).double()[:MAPPED].expand(STARS, MAPPED, 4).clone()
    return labels, directions, torch.arange(STARS)


def shaped(seed=0, **options):
    """A transfer whose every number is something, as after a training."""
    transfer = ResidualTransfer(shipped_emulator(), **options)
    generator = torch.Generator().manual_seed(seed)

    def noise(like, size):
        return size * torch.randn(like.shape, generator=generator).to(like)

    transfer.coefficients.copy_(noise(transfer.coefficients, 0.05))
    transfer.floor.copy_(0.003 + noise(transfer.floor, 0.01).abs())
    fill_map(transfer.label_map, noise)
    transfer.sequence.copy_(torch.tensor([4.8, -0.15, 0.04, -0.05, 0.07]).double())
    return transfer


def fill_map(label_map, noise):
    label_map.weight.copy_(noise(label_map.weight, 0.05))
    root = noise(label_map.covariance, 0.02)
    label_map.covariance.copy_(root @ root.transpose(1, 2))
    label_map.low.copy_(torch.tensor([-1.5, -1.0, -2.5]))
    label_map.high.copy_(torch.tensor([1.2, 1.1, 1.0]))


@pytest.fixture(scope="module")
def transfer():
    return shaped()


PLACES = torch.tensor(
    [[3500.0, 4.8, -0.2], [3100.0, 5.0, 0.2], [4050.0, 4.6, -0.7], [2850.0, 5.2, 0.0], [4300.0, 4.8, 0.45]]
).double()
"""The last two are beyond the training stars of `shaped`, in Teff, and in Teff and [M/H]."""


def full(places):
    return torch.cat([places, torch.zeros(len(places), 1).double()], dim=1)


# ---- the identity


@pytest.mark.parametrize("degree", [0, 2, 4])
def test_before_training_the_transfer_is_the_emulator_bit_for_bit(stars, question, degree):
    transfer = ResidualTransfer(shipped_emulator(), degree=degree)
    plain = EmulatorModel(shipped_emulator(), stars[1])(*question)
    for ours, theirs in zip(transfer.model(stars[1])(*question), plain, strict=True):
        assert torch.equal(ours, theirs)


def test_before_training_labels_mean_what_they_say():
    transfer = ResidualTransfer(shipped_emulator())
    covariance = torch.eye(MAPPED).double().expand(len(PLACES), MAPPED, MAPPED)
    labels, spread, own = transfer.publish(full(PLACES), covariance)
    assert torch.equal(labels, PLACES)
    assert torch.equal(spread, covariance)
    assert not own.any()
    assert not transfer.outside(full(PLACES)).any()


def test_the_synthetic_domain_takes_spectra_as_they_are(stars, transfer):
    assert transfer.to_synthetic(stars[1]) is stars[1]


# ---- derivatives


def test_monomials_and_their_slopes():
    for degree, count in ((0, 1), (1, 4), (2, 10), (3, 20)):
        exponents = powers(degree)
        assert len(exponents) == count
        assert exponents[0].tolist() == [0, 0, 0]
        x = torch.randn(5, MAPPED, generator=torch.Generator().manual_seed(1)).double()
        exact = torch.autograd.functional.jacobian(lambda x, e=exponents: monomials(x, e).sum(dim=0), x)
        torch.testing.assert_close(monomial_slopes(x, exponents), exact.permute(1, 0, 2))


def test_the_correction_does_not_depend_on_log_g(transfer):
    other = full(PLACES)
    other[:, 1] += 0.3
    assert torch.equal(transfer.correction(full(PLACES)), transfer.correction(other))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_tangents_of_the_correction_are_finite_differences(degree):
    transfer = shaped(degree=degree)
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(len(PLACES), 2, 4, generator=generator).double() * torch.tensor([100.0, 0.2, 0.2, 0.2])
    value, tangents = transfer.correction_and_tangents(full(PLACES), directions)
    assert torch.equal(value, transfer.correction(full(PLACES)))
    step = 0.02
    for k in range(2):
        ends = [transfer.correction(full(PLACES) + sign * step * directions[:, k]) for sign in (1, -1)]
        torch.testing.assert_close(tangents[:, k], (ends[0] - ends[1]) / (2 * step), atol=1e-4, rtol=2e-3)


def test_beyond_the_training_stars_the_correction_stands_still(transfer):
    along = torch.tensor([1.0, 0.0, 0.0, 0.0]).double().expand(len(PLACES), 1, 4)
    _, tangents = transfer.correction_and_tangents(full(PLACES), along)
    assert tangents[:3].abs().amax(dim=2).min() > 0
    assert not tangents[3:].any()
    farther = full(PLACES[3:4])
    farther[:, 0] -= 30.0
    assert torch.equal(transfer.correction(farther), transfer.correction(full(PLACES[3:4])))


def test_derivatives_of_the_model_are_finite_differences(stars, transfer, question):
    labels, directions, rows = question
    model = transfer.model(stars[1])
    _, tangents = model(labels, directions, rows)
    inside = ~transfer.outside(labels)
    assert inside.sum() > STARS / 2
    for k, step in enumerate((10.0, 0.02, 0.02)):
        up, down = (model(labels + sign * step * directions[:, k], directions, rows)[0] for sign in (1, -1))
        numeric = ((up - down) / (2 * step))[inside]
        scale = numeric.square().mean().sqrt()
        assert ((tangents[inside, k] - numeric).square().mean().sqrt() < 0.01 * scale).all()


# ---- the label map


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_jacobian_of_the_label_map_is_autograd_s(degree):
    label_map = shaped(map_degree=degree).label_map
    exact = torch.autograd.functional.jacobian(lambda y: label_map(y).sum(dim=0), PLACES).permute(1, 0, 2)
    torch.testing.assert_close(label_map.jacobian(PLACES), exact)


def test_the_error_of_the_map_is_that_of_its_weights(transfer):
    label_map = copy.deepcopy(transfer.label_map)
    stated = label_map.uncertainty(PLACES)
    generator = np.random.default_rng(3)
    mean, spread, draws = label_map.weight.numpy().copy(), label_map.covariance.numpy(), []
    weights = [generator.multivariate_normal(mean[:, k], spread[k], 4000) for k in range(MAPPED)]
    for drawn in zip(*weights, strict=True):
        label_map.weight.copy_(torch.as_tensor(np.stack(drawn, axis=1)))
        draws.append(label_map(PLACES))
    torch.testing.assert_close(torch.stack(draws).std(dim=0), stated, rtol=0.06, atol=0)


def test_outside_is_beyond_the_training_stars_in_any_label(transfer):
    assert transfer.outside(full(PLACES)).tolist() == [False, False, False, True, True]
    for place, value in ((0, 4090.0), (1, 5.1), (2, 0.31)):
        labels = full(PLACES[:1])
        labels[0, place] = value
        assert transfer.outside(labels).tolist() == [True]


def dense_posterior(transfer, mapped, spread):
    """Labels and covariance after one linear measurement: log g minus the main sequence is 0 within its width."""
    expected, slope = transfer.main_sequence(mapped)
    results = []
    for y, covariance, sequence, gradient in zip(mapped, spread, expected, slope, strict=True):
        h = torch.tensor([0.0, 1.0, 0.0]).double() - gradient
        precision = torch.linalg.inv(covariance) + torch.outer(h, h) / transfer.sequence[4] ** 2
        posterior = torch.linalg.inv(precision)
        results.append((y - posterior @ h * (y[1] - sequence) / transfer.sequence[4] ** 2, posterior))
    return torch.stack([r[0] for r in results]), torch.stack([r[1] for r in results])


def noises(size=1.0):
    generator = torch.Generator().manual_seed(4)
    root = torch.randn(len(PLACES), MAPPED, MAPPED, generator=generator).double()
    scale = size * torch.tensor([60.0, 0.2, 0.15]).double()
    return (root @ root.transpose(1, 2) / MAPPED + 0.1 * torch.eye(MAPPED)) * scale[:, None] * scale


def test_the_main_sequence_pulls_as_a_dense_posterior_says(transfer):
    labels, spread, own = transfer.publish(full(PLACES), noises())
    mapped, jacobian = transfer.label_map(PLACES), transfer.label_map.jacobian(PLACES)
    wanted, posterior = dense_posterior(transfer, mapped, jacobian @ noises() @ jacobian.transpose(1, 2))
    torch.testing.assert_close(labels, wanted, rtol=1e-9, atol=1e-9)
    of_prior = posterior - spread
    share = own.square() - transfer.label_map.uncertainty(PLACES).square()
    torch.testing.assert_close(of_prior.diagonal(dim1=1, dim2=2), share, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(of_prior.square(), share[:, :, None] * share[:, None, :], rtol=1e-6, atol=1e-9)
    expected = transfer.main_sequence(mapped)[0]
    assert ((labels[:, 1] - transfer.main_sequence(labels)[0]).abs() < (mapped[:, 1] - expected).abs()).all()


def test_the_slope_of_the_main_sequence_is_autograd_s(transfer):
    exact = torch.autograd.functional.jacobian(lambda y: transfer.main_sequence(y)[0].sum(), PLACES)
    torch.testing.assert_close(transfer.main_sequence(PLACES)[1], exact)


def test_random_errors_are_what_labels_of_repeats_scatter_by(transfer):
    generator = torch.Generator().manual_seed(5)
    place, covariance = PLACES[:1], 1e-4 * noises()[:1]
    root = torch.linalg.cholesky(covariance)[0]
    repeats = place + torch.randn(20_000, MAPPED, generator=generator).double() @ root.T
    labels, _, _ = transfer.publish(full(repeats), covariance.expand(len(repeats), -1, -1))
    _, spread, _ = transfer.publish(full(place), covariance)
    torch.testing.assert_close(labels.T.cov(), spread[0], rtol=0.1, atol=float(spread[0].abs().max()) * 1e-3)


def test_spectra_without_noise_are_not_pulled(transfer):
    labels, spread, _ = transfer.publish(full(PLACES), noises(1e-6))
    torch.testing.assert_close(labels, transfer.label_map(PLACES), rtol=0, atol=1e-6)
    assert spread.abs().max() < 1e-6


def test_without_a_width_there_is_no_pull(transfer):
    free = copy.deepcopy(transfer)
    free.sequence.zero_()
    labels, spread, _ = free.publish(full(PLACES), noises())
    jacobian = transfer.label_map.jacobian(PLACES)
    assert torch.equal(labels, transfer.label_map(PLACES))
    torch.testing.assert_close(spread, jacobian @ noises() @ jacobian.transpose(1, 2))


# ---- split numbers


@pytest.fixture(scope="module")
def fine():
    """Emulator spectra as functions, on pixels of 0.1 A, and on ours."""
    labels = torch.tensor([[3200.0, 5.0, 0.0, 0.0], [3800.0, 4.7, -0.3, 0.0]]).double()
    flux = shipped_emulator().flux(labels)
    normal = normalise(flux / flux.mean(dim=1, keepdim=True), torch.ones_like(flux))[0]
    return CubicSpline(STARGAP.wavelength, normal.double().numpy(), axis=1), normal


def broadened(spline, wavelength, variance):
    """The spectrum at `wavelength`, convolved with a Gaussian of this variance (A^2) there."""
    offsets = np.linspace(-4, 4, 41)
    weight = np.exp(-0.5 * offsets**2)
    stack = [spline(wavelength + offset * np.sqrt(variance)) for offset in offsets]
    return np.einsum("o,orp->rp", weight / weight.sum(), np.array(stack))


def agrees(column, change, tolerance):
    """One is the other, but for what 1 A pixels cannot see: slope of one on the other, and their correlation."""
    inner = slice(30, -30)
    x, y = column.double().numpy()[:, inner], change[:, inner]
    assert (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()) > 0.995
    assert (x * y).sum() / (y * y).sum() == pytest.approx(1.0, abs=tolerance)


def test_split_columns_are_the_changes_that_they_name(fine):
    spline, normal = fine
    columns, wave = split_columns(normal), STARGAP.wavelength
    unit, step = (wave / 1800.0 * FWHM_TO_SIGMA) ** 2, 0.05
    wider = broadened(spline, wave, unit * (np.exp(2 * step) - 1)) - spline(wave)
    agrees(columns[:, 0], wider / step, 0.12)
    tilt = step * (1 + (wave - 7500.0) / 1500.0)
    tilted = broadened(spline, wave, unit * (np.exp(2 * tilt) - 1).clip(1e-9)) - spline(wave)
    red = (tilt > 0.01)[None]
    agrees((columns[:, 0] + columns[:, 1]) * torch.as_tensor(red), tilted / step * red, 0.12)
    shifted = spline(wave / (1 + 5.0 / SPEED_OF_LIGHT)) - spline(wave)
    agrees(columns[:, 2], shifted / 5.0, 0.08)


def test_a_transfer_without_split_numbers_has_no_columns(fine, transfer):
    assert transfer.nuisance_columns(fine[1]).shape == (2, 3, STARGAP.wavelength.size)
    plain = ResidualTransfer(shipped_emulator(), split=False)
    assert plain.nuisance_columns(fine[1]).shape == (2, 0, STARGAP.wavelength.size)


# ---- on disk


@pytest.fixture(scope="module")
def written(tmp_path_factory, transfer):
    """Bytes and card of a saved transfer."""
    path = tmp_path_factory.mktemp("saved") / "transfer.safetensors"
    transfer.save(path, **SAVED)
    return path.read_bytes(), json.loads(path.with_suffix(".json").read_bytes())


@pytest.fixture
def put(written, tmp_path_factory):
    return partial(forge, tmp_path_factory.mktemp("changed") / "model.safetensors", written)


refused = partial(refused_by, ResidualTransfer.load)


@pytest.mark.parametrize(
    "options",
    [{}, {"degree": 3, "map_degree": 1}, {"degree": 0, "map_degree": 0}, {"split": False}, {"alpha": 0.2}],
    ids=str,
)
def test_a_transfer_survives_the_disk_bit_for_bit(tmp_path, stars, question, options):
    before = shaped(**options)
    before.save(tmp_path / "new" / "t.safetensors", **SAVED, seed=7)
    after = ResidualTransfer.load(tmp_path / "new" / "t.safetensors")
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    for one, other in zip(before.model(stars[1])(*question), after.model(stars[1])(*question), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(before.publish(full(PLACES), noises()), after.publish(full(PLACES), noises()), strict=True):
        assert torch.equal(one, other)
    assert after.alpha == options.get("alpha")
    assert after.card.seed == 7
    assert after.card.simulated
    assert after.card.settings == {"rounds": 0}
    assert not any(tensor.requires_grad for tensor in after.state_dict(keep_vars=True).values())


def test_the_same_transfer_gives_the_same_bytes(tmp_path, transfer, written):
    transfer.save(tmp_path / "t.safetensors", **SAVED)
    assert (tmp_path / "t.safetensors").read_bytes() == written[0]
    assert json.loads((tmp_path / "t.json").read_bytes()) == written[1]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("honest", [True, False])
def test_a_truncated_file(put, written, kept, honest):
    path = put(content=written[0][: int(kept * len(written[0]))], keep_digest=not honest)
    refused(path, "not a safetensors file" if honest else "does not match its card")


@pytest.mark.parametrize("place", [0, 9, 500, 100_000, -1])
def test_a_flipped_byte(put, written, place):
    damaged = bytearray(written[0])
    damaged[place] ^= 0x10
    refused(put(content=bytes(damaged), keep_digest=True), "damaged, cut short")


def test_a_missing_half(put):
    path = put()
    path.with_suffix(".json").unlink()
    refused(path, "model.json: cannot be read")


def test_a_pickle_is_refused_and_never_run(put, monkeypatch):
    def forbidden(*_args, **_kwargs):
        pytest.fail("a pickle was read")

    content = pickle.dumps({"coefficients": [1.0]})
    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, forbidden)
    refused(put(content=content), "not a safetensors file")
    assert ResidualTransfer.load(put()).degree == 2


def test_the_card_of_an_emulator_or_of_another_version(put, written):
    refused(put(written[1]["emulator"]), "'payne'", "expected 'residual-transfer'")
    refused(put({"version": 2}), "version 2")
    refused(put({"emulator": {**written[1]["emulator"], "pixel_grid": "6000-8900/2901"}}), "6000-8900/2901")
    refused(put({"emulator": {**written[1]["emulator"], "hidden": 64}}), "tensors do not match")
    refused(put({"emulator": {**written[1]["emulator"], "labels": ["logg", "teff", "m_h", "a_m"]}}), "labels")
    refused(put({"emulator": None}), "emulator")


def test_another_pixel_grid(put):
    refused(put({"pixel_grid": "6000-8900/2901"}), "pixel_grid", "6000-8900/2901", STARGAP.digest)


@pytest.mark.parametrize("name", ["coefficients", "floor", "label_map.weight", "emulator.basis", "sequence"])
def test_a_missing_tensor(put, written, name):
    changed = put(content=with_tensors(written, **{name: None}))
    refused(changed, "tensors do not match the architecture", name.removeprefix("emulator."))


@pytest.mark.parametrize("name", ["extra", "emulator.extra", "label_map.extra"])
def test_an_extra_tensor(put, written, name):
    refused(put(content=with_tensors(written, **{name: torch.zeros(3)})), "tensors do not match", "extra")


@pytest.mark.parametrize(
    "change", [{"degree": 1}, {"degree": 3}, {"map_degree": 2}, {"map_degree": 3}, {"split": False}], ids=str
)
def test_another_degree_than_that_of_the_tensors(put, change):
    refused(put(change), "tensors do not match")


@pytest.mark.parametrize("change", [{"degree": -1}, {"degree": 10**6}, {"map_degree": -1}, {"map_degree": 4}], ids=str)
def test_impossible_degrees(put, change):
    refused(put(change), "degrees in the card are impossible", *change.values())


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -0.1, 3.0])
def test_an_alpha_that_the_emulator_does_not_know(put, alpha):
    refused(put({"alpha": alpha}), "[a/M]")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coefficients", math.nan),
        ("emulator.mean", math.inf),
        ("label_map.covariance", math.nan),
        ("floor", 0.0),
        ("split_scale", -1.0),
        ("label_map.scale", 0.0),
        ("label_map.low", 9.0),
        ("sequence", -1.0),
    ],
)
def test_values_that_make_no_sense(put, written, name, value):
    tensor = torch.full_like(load(written[0])[name], value)
    refused(put(content=with_tensors(written, **{name: tensor})))


def test_a_tensor_of_another_type_or_shape(put, written):
    tensors = load(written[0])
    refused(put(content=with_tensors(written, coefficients=tensors["coefficients"].double())), "tensors do not match")
    refused(put(content=with_tensors(written, floor=tensors["floor"][:-1])), "tensors do not match")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
CARD = tuple(ResidualCard.model_fields)


@few
@given(
    changes=st.dictionaries(st.sampled_from(CARD), JSON, min_size=1, max_size=3),
    inner=st.dictionaries(st.sampled_from(["hidden", "basis", "lower", "upper", "labels", "resolution"]), JSON),
    gone=st.sets(st.sampled_from(CARD), max_size=1),
)
def test_fuzzed_cards_are_refused_or_of_a_whole_transfer(tmp_path_factory, written, changes, inner, gone):
    facts = copy.deepcopy(written[1]) | changes
    if isinstance(facts["emulator"], dict):
        facts["emulator"] = facts["emulator"] | inner
    facts = {name: value for name, value in facts.items() if name not in gone}
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(written[0])
    path.with_suffix(".json").write_text(json.dumps(facts))
    try:
        found = ResidualTransfer.load(path)
    except ModelError:
        return
    assert (found.degree, found.map_degree) == (2, 1)
    assert found.alpha is None or 0.0 <= found.alpha <= 0.4


@few
@given(data=st.binary(max_size=200))
def test_a_card_of_any_bytes(tmp_path_factory, written, data):
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(written[0])
    path.with_suffix(".json").write_bytes(data)
    refused(path, "bytes")


def test_a_label_map_of_its_own_is_the_identity():
    label_map = LabelMap(3)
    assert torch.equal(label_map(PLACES), PLACES)
    assert torch.equal(label_map.jacobian(PLACES), torch.eye(MAPPED).double().expand(len(PLACES), MAPPED, MAPPED))
    assert not label_map.uncertainty(PLACES).any()
