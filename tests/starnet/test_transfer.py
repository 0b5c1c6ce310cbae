"""The reference network as fits see it: spectra through the emulator, their derivatives, gaps, batches, files."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import fields, replace

import pytest
import torch
from helpers.models import forge, refused_by, with_tensors
from helpers.pretend_gpu import GPU, pretend_gpu
from helpers.stars import mock_stars

from stargap.devices import made_on, to_device
from stargap.fit.forward import EmulatorModel
from stargap.measurement.models import load_model_named, load_transfer, placed
from stargap.pixels import PAPER, STARGAP
from stargap.processor import fast_bfloat16
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Spectrum
from stargap.starnet import transfer as reference
from stargap.starnet.network import CycleStarNet
from stargap.starnet.recipe import new_task
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.training_settings import TrainingSettings
from stargap.starnet.transfer import StarnetModel, StarnetTransfer
from stargap.theory.emulator import shipped_emulator

STARS = 11
ROWS = torch.arange(STARS)


@pytest.fixture(scope="module")
def stars():
    return mock_stars(shipped_emulator(), STARS, seed=5)


@pytest.fixture(scope="module")
def prepared(stars):
    ivar = stars.ivar.copy()
    ivar[2, 2900:3200] = 0.0
    ivar[3] = 0.0
    native = to_log_lambda([Spectrum(stars.wavelength, *star) for star in zip(stars.flux, ivar, strict=True)])
    return prepare(native, torch.as_tensor(stars.rv))


@pytest.fixture(scope="module")
def network(prepared):
    network = CycleStarNet()
    network.standardise(torch.where(prepared.good, prepared.flux, 1.0), prepared.flux, prepared.good)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def transfer(network):
    return StarnetTransfer(network, shipped_emulator(), tangent_dtype=torch.float32)


@pytest.fixture(scope="module")
def labels(stars):
    return torch.as_tensor(stars.labels)


@pytest.fixture(scope="module")
def directions():
    return torch.eye(4).double()[:3].expand(STARS, 3, 4).contiguous()


def some(prepared, rows):
    values = {f.name: getattr(prepared, f.name) for f in fields(prepared)}
    return replace(prepared, **{name: value[rows] for name, value in values.items() if name != "grid"})


def test_a_spectrum_is_the_network_s_of_the_emulator_s(transfer, network, prepared, labels, directions):
    spectra, changes = transfer.model(prepared)(labels, directions, ROWS)
    flux, tangents = EmulatorModel(transfer.emulator, prepared)(labels, directions, ROWS)
    sound = prepared.inverse_kernel < 1 / prepared.grid.least_kernel_weight
    flux = network.fill(flux, sound)
    z_sp = network.encode_observed(prepared.flux, prepared.good)[1]
    torch.testing.assert_close(spectra, network.synthetic_to_observed(flux, z_sp), rtol=1e-5, atol=1e-5)
    assert changes.shape == (STARS, 3, 2901)
    assert tangents.shape == changes.shape


def test_derivatives_follow_the_labels(transfer, prepared, labels, directions):
    model = transfer.model(prepared)
    _, changes = model(labels, directions, ROWS)
    for k, step in enumerate((1.0, 0.002, 0.002)):
        ahead, behind = (model(labels + sign * step * directions[:, k], directions, ROWS)[0] for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        # a LeakyReLU bends between the two in places
        assert (slope - changes[:, k]).norm() < 0.1 * changes[:, k].norm()


def test_every_star_has_its_own_spectrum_in_gaps_and_windows(transfer, prepared, labels, directions):
    raw, _ = EmulatorModel(transfer.emulator, prepared)(labels, directions, ROWS)
    assert raw.abs().amax(dim=1).min() > 10, "without in-painting the network would see this"
    spectra, changes = transfer.model(prepared)(labels, directions, ROWS)
    assert torch.isfinite(spectra).all()
    assert torch.isfinite(changes).all()
    assert spectra.abs().max() < 5


def test_rows_may_come_in_any_order_and_number(transfer, prepared, labels, directions):
    whole = torch.cat([part.flatten(1) for part in transfer.model(prepared)(labels, directions, ROWS)], dim=1)
    for rows in (torch.tensor([5]), torch.tensor([10, 0, 4, 4, 7, 4]), ROWS.flip(0)):
        model = transfer.model(prepared)
        for _ in range(2):
            again = model(labels[rows], directions[rows], rows)
            assert torch.equal(torch.cat([part.flatten(1) for part in again], dim=1), whole[rows])
        alone = transfer.model(some(prepared, rows))(labels[rows], directions[rows], torch.arange(len(rows)))
        assert torch.equal(torch.cat([part.flatten(1) for part in alone], dim=1), whole[rows])


def test_what_was_asked_before_is_not_computed_again(transfer, prepared, labels, directions, monkeypatch):
    asked = []
    compute = StarnetModel._compute
    monkeypatch.setattr(
        StarnetModel, "_compute", lambda self, *given: asked.append(given[2].tolist()) or compute(self, *given)
    )
    model = transfer.model(prepared)
    rows = torch.tensor([1, 1, 1, 6])
    first = model(labels[rows], directions[rows], rows)
    assert asked == [[1] + [6] * (reference.ROWS - 1)]
    again = model(labels[rows], directions[rows], rows)
    assert len(asked) == 1
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    moved = labels[rows] + torch.tensor([0.0, 0.1, 0.0, 0.0])
    one_star = model(moved, directions[rows], torch.tensor([1, 1, 1, 1]))[0]
    assert asked[1] == [1] * reference.ROWS
    assert not torch.equal(one_star[0], first[0][0])
    other = model(labels[rows], directions[rows] * 2, rows)
    torch.testing.assert_close(other[1], 2 * first[1], rtol=1e-4, atol=1e-6)
    alone = model(labels[rows], directions[rows][:, :1], rows)[1]  # fewer columns are another product: bits may differ
    torch.testing.assert_close(alone, first[1][:, :1], rtol=1e-4, atol=1e-6)


def test_one_star_with_two_sets_of_labels_in_one_call(transfer, prepared, labels, directions):
    model = transfer.model(prepared)
    rows = torch.tensor([1, 1])
    both = model(labels[[1, 6]], directions[:2], rows)[0]
    for place, given in enumerate((1, 6)):
        fresh = transfer.model(prepared)(labels[[given]], directions[:1], rows[:1])[0]
        assert torch.equal(both[place], fresh[0])
        assert torch.equal(model(labels[[given]], directions[:1], rows[:1])[0], fresh)


def test_spectra_in_the_synthetic_domain(transfer, network, prepared):
    plain = transfer.to_synthetic(prepared)
    torch.testing.assert_close(plain.flux, network.observed_to_synthetic(prepared.flux, prepared.good))
    for field in fields(prepared):
        if field.name != "flux":
            assert getattr(plain, field.name) is getattr(prepared, field.name)
    flux = torch.where(prepared.good, prepared.flux, torch.nan)
    assert torch.equal(transfer.to_synthetic(replace(prepared, flux=flux)).flux, plain.flux)
    few = some(prepared, torch.tensor([9, 2]))
    assert torch.equal(transfer.to_synthetic(few).flux, plain.flux[[9, 2]])
    assert transfer.to_synthetic(some(prepared, torch.zeros(0).long())).flux.shape == (0, 2901)


def test_no_split_numbers_and_labels_as_they_are(transfer, labels):
    assert transfer.floor.shape == ()
    assert float(transfer.floor) == pytest.approx(0.01)
    assert transfer.nuisance_scale.shape == (0,)
    assert transfer.nuisance_columns(torch.ones(3, 2901)).shape == (3, 0, 2901)
    covariance = torch.eye(3).double().expand(STARS, 3, 3)
    published, spread, own = transfer.publish(labels, covariance)
    assert torch.equal(published, labels[:, :3])
    assert torch.equal(spread, covariance)
    assert (own == 0).all()
    assert transfer.outside(labels).tolist() == [False] * STARS


# ---- noise that reaches the labels through z_sp


def test_pulled_back_vectors_are_those_of_the_model_s_dependence_on_the_data(network, prepared, labels):
    network = copy.deepcopy(network).double()
    prepared = replace(prepared, flux=prepared.flux.double())
    generator = torch.Generator().manual_seed(6)
    vectors = torch.randn(STARS, 2, 2901, generator=generator).double()
    change = torch.where(prepared.good, torch.randn(prepared.flux.shape, generator=generator).double(), 0.0)
    model = StarnetTransfer(network, shipped_emulator()).model(prepared)
    found = model.pull_back(labels, ROWS, vectors)
    assert (found[~prepared.good[:, None].expand_as(found)] == 0).all()
    synthetic = model._synthetic(labels, torch.zeros(STARS, 1, 4).double(), ROWS)[:, 0]
    shared = network.decode_shared(network.encode_synthetic(synthetic))
    step = 1e-7  # so small that hardly any LeakyReLU bends on the way
    ahead, behind = (
        network.features_decoded(shared, network.split_features(prepared.flux + sign * step * change, prepared.good))
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    assert slope.abs().max() > 0.01, "the model depends on the data"
    one, other = (found * change[:, None]).sum(dim=2), (vectors * slope[:, None]).sum(dim=2)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_pulled_back_vectors_depend_on_their_own_row_alone(transfer, prepared, labels):
    vectors = torch.randn(STARS, 2, 2901, generator=torch.Generator().manual_seed(6))
    model = transfer.model(prepared)
    whole = model.pull_back(labels, ROWS, vectors)
    rows = torch.tensor([10, 0, 4, 4, 7])
    assert torch.equal(model.pull_back(labels[rows], rows, vectors[rows]), whole[rows])


def test_values_have_the_precision_of_the_weights(network, prepared, labels, directions):
    network.precision = torch.bfloat16
    try:
        coarse = StarnetTransfer(network, shipped_emulator(), tangent_dtype=torch.float32)
        assert network.precision == torch.bfloat16
    finally:
        network.precision = None
    exact = StarnetTransfer(network, shipped_emulator(), tangent_dtype=torch.float32)
    for one, other in zip(*(t.model(prepared)(labels, directions, ROWS) for t in (coarse, exact)), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_is_for_processors_that_gain_by_it(network, monkeypatch):
    def told(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        task = new_task(TrainingSettings(bf16=True, device="cpu"))
        transfer = StarnetTransfer(network, shipped_emulator())
        return fast_bfloat16(), transfer.tangent_dtype, task.network.precision

    assert told(avx512_bf16=True, amx_bf16=True) == (True, torch.bfloat16, torch.bfloat16)
    assert told(avx512_bf16=True, cpu_name="Intel(R) Xeon(R) Gold 6242") == (False, None, None)
    assert told(avx512_bf16=True, cpu_name="AMD EPYC 9654") == (True, torch.bfloat16, torch.bfloat16)
    assert told(avx2=True) == (False, None, None)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_bfloat16() is False


def test_derivatives_in_bfloat16_leave_values_alone(network, transfer, prepared, labels, directions):
    half = StarnetTransfer(network, shipped_emulator(), tangent_dtype=torch.bfloat16)
    (value, change), (same, coarse) = (t.model(prepared)(labels, directions, ROWS) for t in (transfer, half))
    assert torch.equal(value, same)
    assert (coarse - change).norm() < 0.02 * change.norm()


# ---- on disk

FACTS = {
    "training_data": "test spectra",
    "settings": {"iterations": 10},
    "scores": {"score": 1.5},
    "simulated": True,
    "seed": 3,
}
SMALL = NetworkSettings(
    outer_filters=(3, 4), shared_filters=(4, 6, 8), shared_latent=5, split_filters=(3, 3, 4), split_latent=2
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    network = CycleStarNet(SMALL, seed=2)
    flux = 1 + 0.1 * torch.randn(6, SMALL.pixels, generator=torch.Generator().manual_seed(5))
    network.standardise(flux[:3], flux[3:], torch.ones_like(flux[3:], dtype=torch.bool))
    transfer = StarnetTransfer(network, shipped_emulator(), alpha=0.0, iterations=10)
    path = tmp_path_factory.mktemp("model") / "transfer.safetensors"
    transfer.save(path, **FACTS)
    return transfer.eval().requires_grad_(False), path


@pytest.mark.parametrize("read", [StarnetTransfer.load, load_transfer, load_model_named])
def test_save_and_load_are_the_identity(saved, prepared, labels, directions, tmp_path, read):
    transfer, path = saved
    loaded = read(path)
    assert list(loaded.state_dict()) == list(transfer.state_dict())
    for name, tensor in transfer.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    for one, other in zip(
        loaded.model(prepared)(labels, directions, ROWS),
        transfer.model(prepared)(labels, directions, ROWS),
        strict=True,
    ):
        assert torch.equal(one, other)
    card = loaded.card
    assert (card.pixel_grid, card.network, card.iterations, card.alpha) == (STARGAP.digest, SMALL, 10, 0.0)
    assert card.model_dump(include=set(FACTS)) == FACTS
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.save_again(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert (tmp_path / "again.json").read_bytes() == path.with_suffix(".json").read_bytes()


def test_the_grid_that_it_was_trained_on_is_known_again(saved, tmp_path):
    transfer = StarnetTransfer(saved[0].network, shipped_emulator(), grid=PAPER)
    transfer.save(tmp_path / "paper.safetensors", **FACTS)
    assert load_transfer(tmp_path / "paper.safetensors").grid == PAPER
    assert load_transfer(saved[1]).grid == STARGAP


def refused(saved, folder, *words, card=None, tensors=None, content=None):
    """Test that the saved model with changes is refused."""
    path = saved[1]
    written = path.read_bytes() if content is None else content, json.loads(path.with_suffix(".json").read_text())
    changed = None if tensors is None else with_tensors(written, **tensors)
    refused_by(StarnetTransfer.load, forge(folder / "model.safetensors", written, card, changed), "model", *words)


def sizes(**changes):
    return {"network": json.loads(SMALL.model_dump_json()) | changes}


def test_damaged_or_foreign_files_are_refused(saved, tmp_path):
    content = saved[1].read_bytes()
    refused(saved, tmp_path, "cut short", content=content[:-10], card={"sha256": hashlib.sha256(content).hexdigest()})
    refused(saved, tmp_path, "not a safetensors file", content=content[:-10])
    refused(saved, tmp_path, "'payne' version 1", "'starnet-transfer' version 1", card={"kind": "payne"})
    refused(saved, tmp_path, "0123", STARGAP.digest, PAPER.digest, card={"pixel_grid": "0123"})
    refused(saved, tmp_path, "[a/M]", card={"alpha": 3.0})
    refused(saved, tmp_path, "bad fields", "extra", card={"extra": 1})


def test_other_architectures_are_refused(saved, tmp_path):
    refused(saved, tmp_path, "2900 pixels", "2901 pixels", card=sizes(pixels=2900))
    refused(saved, tmp_path, "shared_latent", card=sizes(shared_latent="five"))
    refused(saved, tmp_path, "network.shared_decoder.0.weight is torch.float32 (5, 7, 8) in the file and "
            "torch.float32 (6, 7, 8) by the card", card=sizes(shared_latent=6))  # fmt: skip
    refused(saved, tmp_path, "do not match", card=sizes(kernel=9))
    refused(saved, tmp_path, "at most 50,000,000 numbers", card=sizes(shared_filters=[4096] * 3))
    refused(saved, tmp_path, "skips pixels", card=sizes(outer_strides=[16, 16]))
    name = "network.shared_encoder.3.weight"
    weight = saved[0].state_dict()[name]
    refused(saved, tmp_path, name, "absent in the file", tensors={name: None})
    refused(saved, tmp_path, "spare", "absent by the card", tensors={"spare": weight})
    refused(saved, tmp_path, name, "torch.bfloat16", tensors={name: weight.bfloat16()})
    refused(saved, tmp_path, name, "not finite", tensors={name: torch.full_like(weight, torch.nan)})
    refused(saved, tmp_path, "not positive", tensors={"network.deviation": torch.zeros(())})


def test_the_network_computes_on_a_gpu_what_it_does_on_the_processor(transfer, prepared):
    rows = ROWS[:3]
    labels = torch.tensor([[3500.0, 4.8, 0.0, 0.0]]).double().expand(3, 4).contiguous()
    directions = torch.eye(4).double()[None, :3].expand(3, 3, 4).contiguous()
    here = transfer.to_synthetic(prepared).flux, *transfer.model(prepared)(labels, directions, rows)
    with pretend_gpu(), made_on(GPU):
        far, star = placed(transfer, GPU), to_device(prepared, GPU)
        found = far.to_synthetic(star).flux, *far.model(star)(*to_device((labels, directions, rows), GPU))
        back = to_device(found, torch.device("cpu"))
    for one, other in zip(here, back, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
