"""Training from anchors: better than the emulator alone, judged by stars that had no part in it, refused in words."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stargap.errors import UsageError
from stargap.fit.forward import EmulatorModel
from stargap.fit.parameters import Parameters
from stargap.flags import Flag
from stargap.labels import LOGG, M_H, TEFF
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.correction import BLIND, _largest
from stargap.transfer.anchored.model import AnchoredTransfer
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import LEAST_LIMIT, _folds, cross_validate, fit_anchored, train_anchored

SMALL = 8
"""Anchors of the tests that are not about how good a transfer is."""
ROWS = torch.arange(SMALL)
OLD = AnchorSettings(contrast=1.0, directions=3, floor=0.01, gap_weight=1.0, logg_width=0.05, alpha_slope=0.4,
                     label_map=False)  # fmt: skip
"""For simulated stars, of which bands are as deep as the emulator's."""
PLAIN = OLD.model_copy(update={"directions": 1})


@pytest.fixture(scope="module")
def few(anchors):
    return anchors[np.arange(SMALL)]


def only(rows, count=SMALL):
    """Which spectra are scored."""
    return np.isin(np.arange(count), rows)


def relabelled(stars, row, place, change):
    labels = stars.labels.copy()
    labels[row, place] += change
    return replace(stars, labels=labels)


# ---- what it is worth


def by_emulator(stars, emulator, prior):
    """What labels are off by without a transfer, with the same prior."""
    fit = fit_anchored(stars.prepared, AnchoredTransfer(emulator, prior)).observed
    return fit.labels[:, :3].numpy() - stars.labels


def test_stars_left_out_scatter_less_than_by_the_emulator_alone(anchors, anchoring):
    ours = anchoring[1].labels[:, :3] - anchors.labels
    theirs = by_emulator(anchors, shipped_emulator(), anchoring[0].prior)
    assert ours[:, TEFF].std() < 0.9 * theirs[:, TEFF].std()
    assert ours[:, M_H].std() < 0.5 * theirs[:, M_H].std()
    assert (np.abs(np.median(ours, axis=0)) < [15, 0.06, 0.06]).all()


def test_an_emulator_whose_teff_is_off_is_put_right(anchors, anchoring):
    emulator = copy.deepcopy(shipped_emulator())
    emulator.offset[0] += 0.03
    scored = only(range(0, len(anchors), 2), len(anchors))
    found = cross_validate(anchors, emulator, OLD, scored=scored)
    assert abs(np.median(by_emulator(anchors, emulator, anchoring[0].prior)[:, TEFF])) > 50
    assert abs(np.median((found.labels[:, :3] - anchors.labels)[scored, TEFF])) < 20


def test_other_stars_are_as_far_off_as_cross_validation_says(anchors, anchoring, observed):
    transfer, _ = anchoring
    labels, prepared = (part[len(anchors) :] for part in observed)
    fit = fit_anchored(prepared, transfer)
    assert torch.equal(fit.systematic[0, :3], transfer.own)
    inside = (fit.observed.flags & int(Flag.OUTSIDE_TRAINING)) == 0
    assert inside.sum() > 20
    apart = (fit.observed.labels - torch.as_tensor(labels))[inside, :3]
    total = torch.hypot(fit.observed.errors, fit.systematic)[inside, :3]
    pulls = (apart / total).square().mean(dim=0).sqrt()
    assert ((pulls > 0.6) & (pulls < 1.5)).all()


def test_the_systematic_error_and_the_limit_are_those_of_stars_left_out(anchors, anchoring):
    transfer, found = anchoring
    apart = found.labels[:, :3] - anchors.labels
    wanted = np.sqrt((apart.var(axis=0) - np.median(found.errors[:, :3], axis=0) ** 2).clip(0))
    np.testing.assert_allclose(transfer.own, wanted)
    assert transfer.chi2_limit == pytest.approx(max(3 * np.quantile(found.chi2, 0.9), LEAST_LIMIT))
    assert torch.isfinite(found.model).all()
    low, high = anchors.labels[:, [TEFF, M_H]].min(axis=0), anchors.labels[:, [TEFF, M_H]].max(axis=0)
    np.testing.assert_allclose(transfer.low, low)
    np.testing.assert_allclose(transfer.high, high)
    reach = np.array([200.0, 0.0])
    np.testing.assert_allclose(transfer.held, [low - reach, high + reach])
    unmapped = copy.deepcopy(transfer)
    unmapped.map_numbers.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert not unmapped.outside(torch.as_tensor(anchors.labels)).any()


def test_a_planted_fault_of_the_emulator_is_in_the_correction(anchors):
    """Spectra 10 % too bright in a narrow band."""
    band = slice(1500, 1506)
    flux = anchors.prepared.flux.clone()
    flux[:, band] *= 1.1
    planted = replace(anchors, prepared=replace(anchors.prepared, flux=flux))
    scored = only([0], len(anchors))
    with_it, without = (
        train_anchored(stars, shipped_emulator(), PLAIN, scored=scored)[0] for stars in (planted, anchors)
    )
    labels = torch.as_tensor(np.pad(anchors.labels, ((0, 0), (0, 1))))
    found = [1 + t.correction(labels, torch.zeros(len(anchors), 1, 4).double())[0][:, band] for t in (with_it, without)]
    assert float((found[0] / found[1]).mean()) == pytest.approx(1.1, abs=0.01)


def test_a_way_in_which_anchors_differ_is_a_direction_and_not_in_the_floor(few):
    """The emulator's own spectra with noise, and one shape of 5 % with another amplitude in each star."""
    transfer, _ = train_anchored(few, shipped_emulator(), PLAIN, scored=only([0]))
    card = shipped_emulator().card
    labels, _ = Parameters(card.lower, card.upper).expand(torch.as_tensor(few.labels))
    labels[:, LOGG] = transfer.prior.logg(labels)[0]
    clean, _ = EmulatorModel(shipped_emulator(), few.prepared)(labels, torch.zeros(SMALL, 1, 4).double(), ROWS)
    generator = torch.Generator().manual_seed(5)
    shape = torch.zeros(clean.shape[1])
    shape[1000:1100] = torch.sin(torch.arange(100) / 5.0)
    amplitude = torch.tensor([1.0, -1.2, 0.4, -0.3, 1.5, -1.6, 0.9, -0.7])
    flux = clean * (1 + 0.05 * amplitude[:, None] * shape) + 0.003 * torch.randn(clean.shape, generator=generator)
    prepared = replace(few.prepared, flux=flux, sigma=torch.full_like(flux, 0.003))
    one, none = (
        train_anchored(replace(few, prepared=prepared), shipped_emulator(), settings, scored=only([0]))[0]
        for settings in (PLAIN, PLAIN.model_copy(update={"directions": 0}))
    )
    seen = (shape.abs() > 0.3) & few.prepared.good.all(dim=0)
    assert seen.sum() > 50
    assert torch.nn.functional.cosine_similarity(one.directions[0, seen], shape[seen], dim=0).abs() > 0.9
    assert none.floor[seen].median() > 2 * one.floor[seen].median()
    assert none.floor[200:900].median() == pytest.approx(float(one.floor[200:900].median()), rel=0.05)


# ---- left out, and left out together


def test_a_star_has_no_say_in_its_own_test(few):
    """Another label of a star moves the others, and nothing of itself."""
    scored = only([2, 5])
    before = cross_validate(few, shipped_emulator(), PLAIN, scored=scored)
    after = cross_validate(relabelled(few, 2, TEFF, 150.0), shipped_emulator(), PLAIN, scored=scored)
    for name in ("labels", "errors", "chi2", "model"):
        one, other = (np.asarray(getattr(found, name)) for found in (before, after))
        assert np.array_equal(one[2], other[2])
        assert not np.array_equal(one[5], other[5])


def test_spectra_of_one_star_are_left_out_together(few):
    """The same spectrum twice, once with a label that is 300 K off: it must not teach its twin."""
    rows = np.array([*range(SMALL), 2])
    twins = few[rows]
    right, wrong = twins, relabelled(twins, SMALL, TEFF, 300.0)
    scored = only([2], SMALL + 1)
    together = [cross_validate(stars, shipped_emulator(), PLAIN, scored=scored).labels[2] for stars in (right, wrong)]
    assert np.array_equal(*together)
    apart = [
        cross_validate(replace(stars, names=[*few.names, "twin"]), shipped_emulator(), PLAIN, scored=scored).labels[2]
        for stars in (right, wrong)
    ]
    assert abs(apart[1][TEFF] - apart[0][TEFF]) > 1


def test_only_scored_spectra_are_tested_and_all_train(few):
    told = []
    transfer, found = train_anchored(few, shipped_emulator(), PLAIN, scored=only([1, 3, 4]), progress=told.append)
    assert told == [1, 1, 1]
    tested = np.isfinite(found.labels).all(axis=1)
    assert tested.tolist() == only([1, 3, 4]).tolist()
    for array in (found.errors[:, :3], found.chi2, found.model):
        assert (np.isfinite(np.asarray(array)).reshape(SMALL, -1).all(axis=1) == tested).all()
    all_scored, _ = train_anchored(few, shipped_emulator(), PLAIN)
    for name in ("coefficients", "floor", "directions"):
        assert torch.equal(getattr(transfer, name), getattr(all_scored, name))
    fewer, _ = train_anchored(few[np.array([0, 1, 2, 3, 4, 6, 7])], shipped_emulator(), PLAIN, scored=only([1], 7))
    assert not torch.equal(fewer.coefficients, transfer.coefficients), "the star that is not scored trains"


def test_results_are_the_same_again_and_in_any_order(few):
    scored = only([1, 6])
    one, other = (train_anchored(few, shipped_emulator(), PLAIN, scored=scored) for _ in range(2))
    for name, tensor in one[0].state_dict().items():
        assert torch.equal(tensor, other[0].state_dict()[name]), name
    assert np.array_equal(one[1].labels, other[1].labels, equal_nan=True)
    order = np.array([3, 6, 0, 1, 7, 2, 5, 4])
    turned = cross_validate(few[order], shipped_emulator(), PLAIN, scored=scored[order])
    np.testing.assert_allclose(turned.labels, one[1].labels[order], rtol=2e-5, atol=2e-4)


# ---- choices


def test_base_coefficients_are_where_the_correction_is_drawn_to(few):
    settings = PLAIN.model_copy(update={"ridge": 1e-4, "teff_degree": 1})
    shape = (6, few.prepared.flux.shape[1])
    base = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(4))
    own = [0, 3]  # of the six terms these are in the degrees of the settings
    base[[1, 2, 4, 5]] = 0.0
    drawn, free = (
        train_anchored(few, shipped_emulator(), settings, base=given, scored=only([0]))[0] for given in (base, None)
    )
    shown = drawn.floor != BLIND
    torch.testing.assert_close(drawn.coefficients[:, shown], base[:, shown], rtol=0, atol=1e-3)
    assert free.coefficients.abs().max() < 1e-3
    assert not drawn.coefficients[:, ~shown].any()
    # and where the stars decide, it is not counted twice
    loose = PLAIN.model_copy(update={"ridge": 10.0, "teff_degree": 1})
    drawn, free = (
        train_anchored(few, shipped_emulator(), loose, base=given, scored=only([0]))[0] for given in (base, None)
    )
    well = shown & few.prepared.good.all(dim=0)
    torch.testing.assert_close(drawn.coefficients[own][:, well], free.coefficients[:, well], rtol=0, atol=2e-3)
    base[1] = 0.01
    held = train_anchored(few, shipped_emulator(), loose, base=base, scored=only([0]))[0]
    torch.testing.assert_close(held.coefficients[1, well], base[1, well], rtol=0, atol=1e-6)


def test_badly_modelled_bands_lose_their_say_by_the_share_that_is_asked_for(few):
    """floor^2 = scatter^2 + share^2 <c^2>, the correction averaged over the anchors and some pixels."""
    floors = [
        train_anchored(few, shipped_emulator(), PLAIN.model_copy(update={"gap_weight": share}), scored=only([0]))[0]
        for share in (0.0, 1.0, 2.0)
    ]
    none, one, two = (transfer.floor.square() for transfer in floors)
    seen = floors[0].floor != BLIND
    torch.testing.assert_close((two - none)[seen], 4 * (one - none)[seen], rtol=1e-3, atol=1e-7)
    labels = torch.as_tensor(np.pad(few.labels, ((0, 0), (0, 1))))
    c, _ = floors[0].correction(labels, torch.zeros(SMALL, 1, 4).double())
    torch.testing.assert_close((one - none)[seen].mean(), c.square().mean(dim=0)[seen].mean(), rtol=0.1, atol=0)


def test_pixels_that_fewer_than_half_of_the_anchors_show_have_no_say(few):
    good = few.prepared.good.clone()
    good[: SMALL // 2 + 1, 1000:1005] = False
    good[: SMALL // 2, 1100:1105] = False
    good[:, 1200:1205] = False
    masked = replace(few, prepared=replace(few.prepared, good=good))
    transfer, _ = train_anchored(masked, shipped_emulator(), PLAIN, scored=only([0]))
    for blind in (slice(1000, 1005), slice(1200, 1205)):
        assert (transfer.floor[blind] == BLIND).all()
        assert not transfer.coefficients[:, blind].any()
        assert not transfer.directions[:, blind].any()
    assert (transfer.floor[1100:1105] < 0.3).all()
    assert all(torch.isfinite(tensor).all() for tensor in transfer.state_dict().values())


def test_what_masked_pixels_hold_does_not_matter(few):
    filled = torch.where(few.prepared.good, few.prepared.flux, torch.nan)
    one, other = (
        train_anchored(stars, shipped_emulator(), PLAIN, scored=only([0]))[0]
        for stars in (few, replace(few, prepared=replace(few.prepared, flux=filled)))
    )
    assert torch.equal(one.coefficients, other.coefficients)
    assert torch.equal(one.floor, other.floor)


@pytest.mark.parametrize(
    ("change", "terms"),
    [
        ({}, ((0, 0),)),
        ({"teff_degree": 1, "metallicity_degree": 1}, ((0, 0), (0, 1), (1, 0))),
        ({"teff_degree": 2}, ((0, 0), (1, 0), (2, 0))),
        ({"metallicity_degree": 1}, ((0, 0), (0, 1))),
        ({"gap_smoothing": 0.0, "directions": 0}, ((0, 0),)),
    ],
    ids=str,
)
def test_degrees_and_widths_are_those_that_are_asked_for(few, change, terms):
    transfer, _ = train_anchored(few, shipped_emulator(), PLAIN.model_copy(update=change), scored=only([0]))
    assert transfer.terms == terms
    assert len(transfer.directions) == change.get("directions", 1)
    assert transfer.coefficients.abs().max() > 0.01
    tight = 0.3**0.5
    assert transfer.widths == pytest.approx((0.05 * tight, -0.05, 0.5 * tight))


def test_without_its_prior_log_g_is_free(few):
    free, held = (
        cross_validate(few, shipped_emulator(), PLAIN.model_copy(update={"prior": on}), scored=only([0, 3]))
        for on in (False, True)
    )
    assert (free.errors[[0, 3], LOGG] > 1.5 * held.errors[[0, 3], LOGG]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"teff_degree": 4},
        {"ridge": 0.0},
        {"ridge": np.inf},
        {"floor": np.nan},
        {"directions": 21},
        {"directions": -1},
        {"m_h": np.nan},
        {"logg_width": np.inf},
        {"m_h_width": 0.0},
        {"reach": -1.0},
        {"ridges": 1.0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(ValidationError):
        AnchorSettings(**change)


# ---- refused


def refused(stars, *parts, settings=PLAIN, **options):
    for made in (train_anchored, cross_validate):
        with pytest.raises(UsageError) as caught:
            made(stars, shipped_emulator(), settings, **options)
        for part in parts:
            assert part in str(caught.value), (part, str(caught.value))


def test_six_stars_are_enough_and_five_are_not(few):
    six = few[np.arange(6)]
    assert np.isfinite(train_anchored(six, shipped_emulator(), PLAIN)[1].labels).all()
    refused(few[np.arange(5)], "5 anchor stars; at least 6 are needed")
    refused(AnchorStars(few.prepared, few.labels, ["A", "A", *few.names[:4], "A", "A"]), "5 anchor stars")


@pytest.mark.parametrize(
    ("place", "value"),
    [(TEFF, np.nan), (LOGG, np.inf), (M_H, np.nan), (TEFF, 2700.0), (TEFF, 4600.0), (LOGG, 3.9), (M_H, 0.6)],
)
def test_labels_that_the_emulator_does_not_know(few, place, value):
    refused(relabelled(few, 3, place, value - few.labels[3, place]), "anchor S3: labels", "are not within")


def test_nothing_scored_and_too_many_directions(few):
    refused(few, "none of 8 anchor spectra is scored", scored=only([]))
    refused(
        few,
        "directions is 8; these anchors, less one star, allow 7",
        settings=PLAIN.model_copy(update={"directions": 8}),
    )
    most, _ = train_anchored(few, shipped_emulator(), PLAIN.model_copy(update={"directions": 7}), scored=only([0]))
    assert len(most.directions) == 7


def test_anchors_that_cannot_be_fitted(few):
    good = few.prepared.good.clone()
    good[2, 100:] = False
    with pytest.raises(UsageError, match="none of 8 anchor spectra can be fitted"):
        train_anchored(replace(few, prepared=replace(few.prepared, good=good)), shipped_emulator(), PLAIN,
                       scored=only([2]))  # fmt: skip


# ---- many anchors


def test_directions_of_many_stars_are_those_of_the_whole_decomposition():
    rng = np.random.default_rng(12)
    shapes = np.linalg.qr(rng.normal(size=(400, 5)))[0]
    values = torch.as_tensor(rng.normal(size=(600, 5)) * [9.0, 7.0, 5.0, 3.0, 2.0] @ shapes.T)
    values += 0.01 * torch.as_tensor(rng.normal(size=(600, 400)))
    strength, shape = _largest(values, 4)
    _, every, vectors = torch.linalg.svd(values, full_matrices=False)
    torch.testing.assert_close(strength, every[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close((shape @ vectors[:4].T).abs(), torch.eye(4).double(), rtol=0, atol=1e-6)
    again = _largest(values, 4)
    assert torch.equal(again[0], strength)
    assert torch.equal(again[1], shape)
    assert len(_largest(values, 0)[0]) == 0


@pytest.mark.parametrize(("count", "groups"), [(499, 8), (600, 3)])
def test_many_anchors_are_left_out_in_three_groups(count, groups):
    stars = AnchorStars(None, np.tile([3500.0, 4.8, 0.0], (count, 1)), [str(number) for number in range(count)])
    assert len(np.unique(_folds(stars, 8))) == groups
