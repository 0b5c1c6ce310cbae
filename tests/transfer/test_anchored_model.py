"""The transfer from anchors: the emulator before training, exact derivatives, a star's own numbers, files (41, 42)."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers.fits import differing
from helpers.models import forge, refused_by, with_tensors
from helpers.stars import mock_stars
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from stargap.errors import ModelError
from stargap.fit.domains import fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.flags import Flag
from stargap.labels import M_H, TEFF, alpha_relation
from stargap.mock.instrument import simulate
from stargap.mock.junk import SOURCES, make_junk
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.pixels import LOG_LAMBDA, STARGAP
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import shipped_emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.transfer.anchored.model import AnchoredCard, AnchoredTransfer
from stargap.transfer.anchored.train import fit_anchored
from stargap.transfer.residual.model import SPLIT, split_columns

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)
STARS = 10
SAVED = {"training_data": "none", "settings": {"floor": 0.01}, "scores": {"teff_std": 50.0}, "simulated": True}
TERMS = ((0, 0), (1, 0), (0, 1), (2, 0))


def box():
    card = shipped_emulator().card
    return Parameters(card.lower, card.upper)


@pytest.fixture(scope="module")
def prior():
    return LabelPrior(fit_sequence(shipped_isochrones()), 0.03, -0.05, 0.3)


@pytest.fixture(scope="module")
def stars(observed):
    return observed[0][-STARS:], observed[1][-STARS:]


@pytest.fixture(scope="module")
def question(stars):
    """Labels, directions and rows: what a fit asks of a model."""
    directions = torch.eye(4).double()[:3].expand(STARS, 3, 4).clone()
    return torch.as_tensor(stars[0]), directions, torch.arange(STARS)


def smooth_noise(shape, generator, width=8):
    values = torch.randn(*shape[:-1], shape[-1] + width - 1, generator=generator)
    return values.unfold(-1, width, 1).mean(dim=-1) * width**0.5


@pytest.fixture(scope="module")
def shaped(prior):
    """A transfer whose every number is something, as after a training."""

    def make(seed=0, **options):
        transfer = AnchoredTransfer(shipped_emulator(), prior, **{"terms": TERMS, "directions": 2} | options)
        generator = torch.Generator().manual_seed(seed)
        transfer.coefficients.copy_(0.03 * smooth_noise(transfer.coefficients.shape, generator))
        transfer.directions.copy_(0.02 * smooth_noise(transfer.directions.shape, generator))
        transfer.floor.copy_(0.004 + 0.01 * torch.rand(transfer.floor.shape, generator=generator))
        transfer.low.copy_(torch.tensor([3100.0, -0.5]))
        transfer.high.copy_(torch.tensor([4000.0, 0.3]))
        transfer.held.copy_(torch.tensor([[2900.0, -0.5], [4200.0, 0.3]]))
        transfer.own.copy_(torch.tensor([50.0, 0.07, 0.12]))
        transfer.limit.fill_(3.0)
        return transfer

    return make


@pytest.fixture(scope="module")
def transfer(shaped):
    return shaped()


PLACES = torch.tensor(
    [[3500.0, 4.8, -0.2], [3050.0, 5.0, 0.2], [4100.0, 4.6, -0.4], [2850.0, 5.2, 0.0], [3600.0, 4.8, 0.45]]
).double()
"""The last two are where the correction of `shaped` is held, in Teff, and in [M/H]."""


def full(places):
    return torch.cat([places, torch.zeros(len(places), 1).double()], dim=1)


# ---- before training


@pytest.fixture(scope="module")
def plain(prior):
    """No correction, no directions, and no room for a star's own numbers."""
    transfer = AnchoredTransfer(shipped_emulator(), prior)
    transfer.scatter.fill_(1e-5)
    return transfer


def test_before_training_the_corrected_spectra_are_the_emulator_s_bit_for_bit(stars, question, prior):
    transfer = AnchoredTransfer(shipped_emulator(), prior, terms=TERMS, directions=3)
    theirs = EmulatorModel(shipped_emulator(), stars[1])(*question)
    for ours, other in zip(transfer.model(stars[1]).corrected(*question), theirs, strict=True):
        assert torch.equal(ours, other)
    assert not transfer.outside(question[0]).any()
    assert transfer.chi2_limit == math.inf
    assert transfer.to_synthetic(stars[1]) is stars[1]


def test_before_training_fits_are_the_emulator_s_with_the_same_prior(stars, plain, prior):
    both = fit_domains(stars[1], plain, box(), starts=1)
    alone = fit_labels(stars[1], EmulatorModel(shipped_emulator(), stars[1]), shipped_emulator(), box(),
                       error_floor=plain.floor, prior=prior, starts=1)  # fmt: skip
    for name in ("labels", "flags", "iterations"):
        one, other = getattr(both.synthetic, name), getattr(alone, name)
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(both.synthetic.chi2, alone.chi2, rtol=1e-6, atol=0, equal_nan=True)
    assert (((both.observed.labels - alone.labels) / alone.errors)[:, :3].abs() < 0.1).all()
    torch.testing.assert_close(both.observed.errors[:, :3], alone.errors[:, :3], rtol=0.02, atol=0)
    assert both.nuisance.shape == (STARS, 0)
    assert (both.systematic[:, :3] == 0).all()


# ---- the correction


@pytest.mark.parametrize("terms", [((0, 0),), ((0, 0), (1, 0)), TERMS, ((0, 0), (3, 0), (1, 1), (0, 2))], ids=str)
def test_derivatives_of_the_correction_are_finite_differences(shaped, terms):
    transfer = shaped(terms=terms)
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(5, 2, 4, generator=generator).double() * torch.tensor([100.0, 0.2, 0.1, 0.2])
    _, tangents = transfer.correction(full(PLACES), directions)
    step = 0.02
    for k in range(2):
        ends = [transfer.correction(full(PLACES) + s * step * directions[:, k], directions)[0] for s in (1, -1)]
        torch.testing.assert_close(tangents[:, k], (ends[0] - ends[1]) / (2 * step), atol=2e-4, rtol=5e-3)


def test_the_correction_is_a_function_of_teff_and_metallicity_alone(transfer):
    still = torch.zeros(5, 1, 4).double()
    other = full(PLACES)
    other[:, [1, 3]] += 0.3
    assert torch.equal(transfer.correction(other, still)[0], transfer.correction(full(PLACES), still)[0])


@pytest.mark.parametrize(("row", "place", "farther"), [(3, TEFF, -40.0), (4, M_H, 0.04)])
def test_beyond_its_reach_the_correction_is_held(transfer, row, place, farther):
    along = torch.zeros(5, 1, 4).double()
    along[:, :, place] = 1.0
    value, tangents = transfer.correction(full(PLACES), along)
    assert tangents[:3].abs().amax(dim=2).min() > 0
    assert not tangents[row].any()
    beyond = full(PLACES)
    beyond[row, place] += farther
    assert torch.equal(transfer.correction(beyond, along)[0][row], value[row])


def test_outside_is_beyond_the_anchors_in_teff_or_metallicity(transfer):
    assert transfer.outside(full(PLACES)).tolist() == [False, True, True, True, True]
    for place, value in ((TEFF, 3099.0), (TEFF, 4001.0), (M_H, -0.51), (M_H, 0.31)):
        labels = full(PLACES[:1])
        assert not transfer.outside(labels).any()
        labels[0, place] = value
        assert transfer.outside(labels).all()
    odd = full(PLACES[:1])
    odd[0, 1] = 5.5
    assert not transfer.outside(odd).any(), "log g is not trained on"


def test_published_labels_are_mapped_with_the_error_of_cross_validation(shaped):
    transfer = shaped()
    root = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    covariance = root @ root.transpose(1, 2)
    transfer.map_numbers.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    labels, spread, own = transfer.publish(full(PLACES), covariance)
    assert torch.equal(labels, PLACES)
    torch.testing.assert_close(spread, covariance)
    torch.testing.assert_close(own, torch.tensor([[50.0, 0.07, 0.12]]).expand(5, 3).double())
    transfer.map_numbers.copy_(torch.tensor([-0.05, 0.5, 1.0, 10.0, -100.0]))
    labels, spread, _ = transfer.publish(full(PLACES), covariance)
    moved, slope = transfer.label_map(full(PLACES), transfer.prior)
    assert torch.equal(labels, moved)
    torch.testing.assert_close(spread, slope @ covariance @ slope.transpose(1, 2))
    torch.testing.assert_close(spread[1, M_H, M_H], 2.25 * covariance[1, M_H, M_H])
    rich = full(PLACES[:1])
    rich[0, M_H] = 0.25
    assert transfer.outside(rich).all(), "what is published counts: 0.325"


# ---- a star's own numbers


def chi_square(prepared, model, labels, directions, rows):
    """What fits minimise, and its slope by the free labels as the model's derivatives have it."""
    spectrum, tangents = (part.double() for part in model(labels, directions, rows))
    data = torch.nn.functional.pad(prepared.flux, (0, model.penalties)).double()
    weight = torch.nn.functional.pad(model.weight, (0, model.penalties), value=1.0).double()
    left = data - spectrum
    return (weight * left.square()).sum(dim=1), -2 * (tangents @ (weight * left)[..., None])[..., 0]


@pytest.mark.parametrize("contrast", [1.0, 0.7])
def test_the_slope_of_chi_square_is_a_finite_difference(stars, shaped, question, contrast):
    """With the change of a star's own part with its labels, and the squares of its own numbers over their scatter."""
    labels, directions, rows = question
    transfer = shaped(contrast=contrast)
    model = transfer.model(stars[1])
    inside = ((labels[:, [TEFF, M_H]] - transfer.held[0]) * (transfer.held[1] - labels[:, [TEFF, M_H]]) > 0).all(dim=1)
    assert inside.sum() > STARS / 2
    _, slope = chi_square(stars[1], model, labels, directions, rows)
    for k, step in enumerate((5.0, 0.01, 0.01)):
        ends = [
            chi_square(stars[1], model, labels + sign * step * directions[:, k], directions, rows)[0]
            for sign in (1, -1)
        ]
        numeric = (ends[0] - ends[1]) / (2 * step)
        size = numeric[inside].square().mean().sqrt()
        assert ((slope[:, k] - numeric)[inside].abs() < 0.01 * size).all()


def test_the_model_bends_the_emulator_s_bands_by_its_contrast(stars, shaped, question):
    labels, directions, rows = question
    plain, shallow = (shaped(contrast=power, terms=((0, 0),)) for power in (1.0, 0.5))
    for transfer in (plain, shallow):
        transfer.coefficients.zero_()
    deep, change = plain.model(stars[1]).corrected(labels, directions, rows)
    half, less = shallow.model(stars[1]).corrected(labels, directions, rows)
    seen = deep > 0.06
    torch.testing.assert_close(half[seen], deep[seen].sqrt())
    torch.testing.assert_close(less[:, 0][seen], (0.5 * change[:, 0] / deep.sqrt())[seen])


def test_own_numbers_fit_best_within_their_scatter(stars, transfer, question):
    """m + X z minimises chi-square and the squares of the numbers over their scatter."""
    labels, directions, rows = question
    model = transfer.model(stars[1])
    base, _ = model.corrected(labels, directions, rows)
    z = model.own(base, rows) * transfer.scatter
    columns = torch.cat([split_columns(base), base[:, None] * transfer.directions], dim=1)
    spectrum, _ = model(labels, directions, rows)
    pixels = base.shape[1]
    expected = base + (z.float()[..., None] * columns).sum(dim=1)
    torch.testing.assert_close(spectrum[:, :pixels], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(spectrum[:, pixels:].double(), z / transfer.scatter, rtol=0, atol=1e-4)

    def cost(z):
        left = stars[1].flux - base - (z.float()[..., None] * columns).sum(dim=1)
        return (model.weight * left.square()).sum(dim=1, dtype=torch.float64) + (z / transfer.scatter).square().sum(1)

    best = cost(z)
    for number in range(len(transfer.scatter)):
        for sign in (1, -1):
            moved = z.clone()
            moved[:, number] += sign * 0.3 * transfer.scatter[number]
            assert (cost(moved) > best).all()


@pytest.mark.parametrize("number", range(len(SPLIT) + 2))
def test_what_is_planted_is_taken_up_and_labels_stay(stars, transfer, question, number):
    """Line spread, its slope, velocity and the learned directions, planted in spectra without noise."""
    labels, directions, rows = question
    clean, _ = transfer.model(stars[1]).corrected(labels, directions, rows)
    columns = torch.cat([split_columns(clean), clean[:, None] * transfer.directions], dim=1)
    planted = clean + transfer.scatter[number] * columns[:, number]
    before, after = (replace(stars[1], flux=flux, sigma=torch.full_like(flux, 0.01)) for flux in (clean, planted))
    own = transfer.model(after).own(clean, rows)
    expected = torch.zeros(own.shape[1]).double()
    expected[number] = 1.0
    assert ((own - expected).abs() < 0.35).all()
    assert transfer.model(before).own(clean, rows).abs().max() < 1e-3
    start = torch.as_tensor(stars[0])
    moved, still = (
        fit_labels(star, transfer.model(star), transfer.emulator, box(), error_floor=transfer.floor, start=start)
        for star in (after[:4], before[:4])
    )
    assert ((moved.labels - still.labels)[:, TEFF].abs() < 15).all()


class Nature:
    """Stars as a transfer has them: the emulator's spectra times its correction."""

    def __init__(self, transfer):
        self.transfer = transfer

    def flux(self, labels):
        c, _ = self.transfer.correction(labels.double(), torch.zeros(len(labels), 1, 4).double())
        return self.transfer.emulator.flux(labels) * torch.nn.functional.pad(1 + c, (90, 90), value=1.0)


@pytest.mark.slow
def test_errors_are_the_scatter_that_noise_makes(anchored):
    """Of a star like the anchors, so bright that a fit is linear within its errors, and where [a/M] does not bend.

    Near [M/H] = 0, where the relation of [a/M] has its corner, the scatter is up to twice as large. The transfer has
    the emulator's own contrast and labels here, so that stars can be made of it before normalisation.
    """
    anchored = copy.deepcopy(anchored)
    anchored.contrast, anchored.alpha_slope = 1.0, 0.4
    anchored.map_numbers.copy_(AnchoredTransfer(anchored.emulator, anchored.prior).map_numbers)
    count, star = 100, np.array([[3500.0, 0.0, -0.35, alpha_relation(-0.35, rounding=0.05)]])
    star[0, 1] = float(anchored.prior.logg(torch.as_tensor(star))[0])
    made = mock_stars(Nature(anchored), count, seed=61, snr=np.full(count, 60.0), labels=star.repeat(count, axis=0),
                      rv=np.zeros(count), active_fraction=0.0, bad_pixels=False)  # fmt: skip
    spectra = [Spectrum(made.wavelength, flux, ivar) for flux, ivar in zip(made.flux, made.ivar, strict=True)]
    fit = fit_anchored(prepare(to_log_lambda(spectra), torch.zeros(count).double()), anchored).observed
    scatter, quoted = fit.labels[:, :3].std(dim=0), fit.errors[:, :3].median(dim=0).values
    assert ((scatter / quoted - 1).abs() < 0.25).all(), scatter / quoted
    assert ((fit.labels[:, :3].mean(dim=0) - torch.as_tensor(star[0, :3])).abs() < 1.5 * scatter).all()


# ---- batches (cases 24 to 27)


def fit_few(prepared, transfer):
    return fit_domains(prepared, transfer, box(), starts=1, max_iterations=6)


@pytest.fixture(scope="module")
def whole(stars, transfer):
    return fit_few(stars[1], transfer)


def test_order_and_size_of_a_batch_do_not_matter(stars, transfer, whole):
    order = torch.randperm(STARS, generator=torch.Generator().manual_seed(1))
    for rows in (order, torch.tensor([4]), torch.tensor([1, 2, 3, 7, 1, 2] * 6), torch.zeros(0).long()):
        assert differing(fit_few(stars[1][rows], transfer), whole, other_rows=rows) == []


def test_slots_of_the_model_do_not_see_each_other(stars, transfer, question):
    labels, directions, rows = question
    model = transfer.model(stars[1])
    together = model(labels, directions, rows)
    for order in (rows.flip(0), torch.tensor([7, 2] * 5)):
        for one, other in zip(model(labels[order], directions[order], order), together, strict=True):
            assert torch.equal(one, other[order])


@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_one_bad_star_leaves_the_others_alone(stars, transfer, whole, value):
    flux = stars[1].flux.clone()
    flux[3] = value
    bad = fit_few(replace(stars[1], flux=flux), transfer)
    others = [row for row in range(STARS) if row != 3]
    assert differing(bad, whole, others, others) == []
    if math.isnan(value):
        assert torch.isnan(bad.observed.labels[3]).all()
        assert bad.observed.flags[3] & int(Flag.NOT_CONVERGED)
    else:
        assert bad.observed.flags[3] & int(Flag.UNLIKE_TRAINING)


def test_what_masked_pixels_hold_does_not_matter(stars, transfer, whole):
    for value in (torch.nan, -1e30):
        flux = torch.where(stars[1].good, stars[1].flux, value)
        assert differing(fit_few(replace(stars[1], flux=flux), transfer), whole) == []


def test_fixed_labels_have_no_systematic_error_of_ours(stars, transfer):
    held = replace(box(), fixed={"logg": 4.8})
    fit = fit_domains(stars[1][:2], transfer, held, starts=1)
    assert fit.systematic[:, 1].tolist() == [0.0, 0.0]
    assert fit.systematic[:, TEFF].tolist() == [50.0, 50.0]
    assert (fit.observed.labels[:, 1] == 4.8).all()


# ---- spectra unlike the training


@pytest.fixture(scope="module")
def disguised():
    """What other sources look like in the place of five dwarfs of S/N above 15, prepared at rest."""
    labels, active = nature_labels(24, seed=9, mix="matched", active_fraction=0.0)
    ((truth, native, clean),) = simulate(labels, active, shipped_nature(), seed=9)
    wave, scale = LOG_LAMBDA.wavelength, native.scale[:, None].numpy()
    flux, ivar = native.flux.numpy() * scale, native.ivar.numpy() / scale**2

    def junk(kind):
        made = [
            make_junk(kind, wave, flux[row], ivar[row], clean[row], rv=0.0, resolution=1800.0, seed=row)
            for row in np.flatnonzero(truth.snr_r > 15)[:5].tolist()
        ]
        return prepare(to_log_lambda([Spectrum(wave, *one) for one in made]), torch.zeros(len(made)).double())

    return junk


def test_dwarfs_like_the_anchors_are_not_flagged(stars, anchored):
    fit = fit_anchored(stars[1], anchored).observed
    assert not (fit.flags & int(Flag.UNLIKE_TRAINING)).any()
    assert (fit.chi2 < 0.7 * anchored.chi2_limit).all()


@pytest.mark.parametrize("kind", SOURCES)
def test_other_sources_are_unlike_or_outside(disguised, anchored, kind):
    fit = fit_anchored(disguised(kind), anchored).observed
    assert (fit.flags & int(Flag.UNLIKE_TRAINING | Flag.OUTSIDE_TRAINING)).all()
    unlike = (fit.flags & int(Flag.UNLIKE_TRAINING)) > 0
    assert torch.equal(unlike, fit.chi2 > anchored.chi2_limit)
    assert unlike.all() or kind != "lamp"


def test_the_limit_of_chi_square_is_what_flags(stars, shaped, whole):
    transfer = shaped()
    transfer.limit.copy_(whole.observed.chi2.median() * 1.0001)
    flags = fit_few(stars[1], transfer).observed.flags
    assert (flags & int(Flag.UNLIKE_TRAINING) > 0).sum() == STARS // 2


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


refused = partial(refused_by, AnchoredTransfer.load)


@pytest.mark.parametrize(
    "options",
    [{}, {"terms": ((0, 0),), "directions": 0}, {"alpha": 0.2}, {"alpha_slope": 0.15, "contrast": 0.7}],
    ids=str,
)
def test_a_transfer_survives_the_disk_bit_for_bit(tmp_path, stars, question, shaped, options):
    before = shaped(**options)
    before.save(tmp_path / "new" / "t.safetensors", **SAVED, seed=7)
    after = AnchoredTransfer.load(tmp_path / "new" / "t.safetensors")
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    for one, other in zip(before.model(stars[1])(*question), after.model(stars[1])(*question), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(before.prior(*question[:2]), after.prior(*question[:2]), strict=True):
        assert torch.equal(one, other)
    assert (after.alpha, after.terms) == (before.alpha, before.terms)
    assert (after.alpha_slope, after.contrast) == (before.alpha_slope, before.contrast)
    assert list(after.card.label_map.values()) == after.map_numbers.tolist()
    assert (after.card.seed, after.card.simulated, after.card.scores) == (7, True, {"teff_std": 50.0})
    assert isinstance(after.card, AnchoredCard)
    assert not any(tensor.requires_grad for tensor in after.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_neither_written_nor_read(tmp_path, put, written, shaped, value):
    transfer = shaped()
    transfer.limit.fill_(value)
    with pytest.raises(ModelError, match="not finite, in limit"):
        transfer.save(tmp_path / "t.safetensors", **SAVED)
    assert not list(tmp_path.iterdir())
    refused(put(content=with_tensors(written, limit=torch.tensor(value).double())), "not finite, in limit")


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
    assert AnchoredTransfer.load(put()).terms == TERMS


def test_a_foreign_card_or_another_version(put, written):
    refused(put(written[1]["emulator"]), "'payne'", "expected 'anchored-transfer'")
    refused(put({"kind": "residual-transfer"}), "'residual-transfer'", "expected 'anchored-transfer'")
    refused(put({"version": 1}), "version 1", "expected 'anchored-transfer' version 2")
    refused(put({"emulator": {**written[1]["emulator"], "pixel_grid": "6000-8900/2901"}}), "6000-8900/2901")
    refused(put({"emulator": {**written[1]["emulator"], "hidden": 64}}), "tensors do not match")
    refused(put({"emulator": {**written[1]["emulator"], "labels": ["logg", "teff", "m_h", "a_m"]}}), "labels")
    refused(put({"emulator": None}), "emulator")


def test_another_pixel_grid(put):
    refused(put({"pixel_grid": "6000-8900/2901"}), "pixel_grid", "6000-8900/2901", STARGAP.digest)


@pytest.mark.parametrize("name", ["coefficients", "floor", "held", "sequence", "limit", "emulator.basis"])
def test_a_missing_tensor(put, written, name):
    changed = put(content=with_tensors(written, **{name: None}))
    refused(changed, "tensors do not match the architecture", name.removeprefix("emulator."))


@pytest.mark.parametrize("name", ["extra", "emulator.extra"])
def test_an_extra_tensor(put, written, name):
    refused(put(content=with_tensors(written, **{name: torch.zeros(3)})), "tensors do not match", "extra")


def test_a_tensor_of_another_type_or_shape(put, written):
    tensors = load(written[0])
    refused(put(content=with_tensors(written, coefficients=tensors["coefficients"].double())), "tensors do not match")
    refused(put(content=with_tensors(written, floor=tensors["floor"][:-1])), "tensors do not match")
    refused(put(content=with_tensors(written, sequence=tensors["sequence"].T)), "tensors do not match")


@pytest.mark.parametrize("change", [{"terms": [[0, 0], [1, 0]]}, {"directions": 1}, {"directions": 5}], ids=str)
def test_other_terms_or_directions_than_those_of_the_tensors(put, change):
    refused(put(change), "tensors do not match")


@pytest.mark.parametrize(
    "change",
    [
        {"terms": []},
        {"terms": [[0, 0]] * 21},
        {"terms": [[0, -1], [0, 0], [1, 0], [2, 0]]},
        {"terms": [[0, 9], [0, 0], [1, 0], [2, 0]]},
        {"directions": -1},
        {"directions": 10**6},
    ],
    ids=str,
)
def test_impossible_terms_or_directions(put, change):
    refused(put(change), "terms or directions in the card are impossible")


@pytest.mark.parametrize(
    "change",
    [
        {"logg_width": 0.0},
        {"logg_width": -1.0},
        {"logg_width": math.nan},
        {"logg_width": math.inf},
        {"m_h_width": 0.0},
        {"m_h_width": math.inf},
        {"m_h": math.nan},
        {"m_h": 9.0},
    ],
    ids=str,
)
def test_an_impossible_prior(put, change):
    refused(put(change), "the label prior in the card is impossible")


@pytest.mark.parametrize(
    "change",
    [{"contrast": 0.0}, {"contrast": math.nan}, {"contrast": 3.0}, {"alpha_slope": 0.6}, {"alpha_slope": -0.1}],
)
def test_an_impossible_contrast_or_relation_of_alpha(put, change):
    refused(put(change), "contrast or alpha_slope in the card is impossible")


def test_a_label_map_that_falls_or_another_than_in_the_card(put, written):
    numbers = load(written[0])["map_numbers"]
    for place, value in ((1, -1.5), (2, 0.0), (2, -1.0)):
        changed = numbers.clone()
        changed[place] = value
        refused(put(content=with_tensors(written, map_numbers=changed)), "a label map in which [M/H] does not rise")


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -0.1, 3.0])
def test_an_alpha_that_the_emulator_does_not_know(put, alpha):
    refused(put({"alpha": alpha}), "[a/M]")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("coefficients", math.nan, "not finite"),
        ("sequence", math.inf, "not finite"),
        ("emulator.mean", math.inf, "not finite"),
        ("held", math.nan, "not finite"),
        ("floor", 0.0, "not positive"),
        ("scatter", -1.0, "not positive"),
        ("own", -1.0, "not positive"),
        ("limit", 0.0, "not positive"),
        ("limit", math.nan, "not finite"),
        ("low", 5000.0, "reversed"),
        ("high", -5.0, "reversed"),
    ],
)
def test_values_that_make_no_sense(put, written, name, value, reason):
    tensor = torch.full_like(load(written[0])[name], value)
    refused(put(content=with_tensors(written, **{name: tensor})), reason if "emulator" not in name else "")


def test_a_correction_that_is_held_backwards(put, written):
    held = load(written[0])["held"].flip(0)
    refused(put(content=with_tensors(written, held=held)), "reversed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@few
@given(data=st.data(), value=JSON)
def test_a_card_with_anything_in_it_loads_or_is_refused(written, tmp_path_factory, data, value):
    key = data.draw(st.sampled_from(sorted(set(written[1]) - {"sha256"})))
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(written[0])
    path.with_suffix(".json").write_text(json.dumps(written[1] | {key: value}))
    try:
        loaded = AnchoredTransfer.load(path)
    except ModelError:
        pass
    else:
        assert loaded.coefficients.shape == (len(TERMS), STARGAP.wavelength.size)
