"""Two-domain fits: what the identity gives, rows that do not see each other, flags, and the paper's optimiser."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers.fits import arrays, differing
from helpers.stars import mock_labels
from safetensors.torch import load_file, save_file

from stargap.fit.domains import fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import LabelFit, fit_labels
from stargap.fit.lbfgs import fit_lbfgs
from stargap.fit.parameters import Parameters
from stargap.flags import Flag
from stargap.labels import LABELS, TEFF
from stargap.measurement.fits import parameters_for
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.smoother import normalise
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.transfer.residual.model import ResidualModel, ResidualTransfer

SMALL = NetworkSettings(outer_filters=(16, 16), shared_filters=(16, 32, 48), split_filters=(16, 16, 16))
BOTH = ("residual", "reference")
COUNT = 20
STEPS = 300


def take(prepared, rows):
    """Some rows of prepared spectra, in the order given."""
    rows = torch.as_tensor(rows, dtype=torch.long)
    native = prepared.native[rows]
    arrays = {f.name: getattr(prepared, f.name)[rows] for f in fields(Prepared) if f.name not in ("grid", "native")}
    return Prepared(grid=prepared.grid, native=native, **arrays)


def in_errors(one, other):
    """Differences of the three fitted labels over the errors of `other`."""
    return ((one.labels - other.labels) / other.errors)[:, :3].abs()


@pytest.fixture(scope="module")
def box(emulator):
    return parameters_for(MeasureSettings(), emulator)


@pytest.fixture(scope="module")
def made_ready(spectra):
    def make(stars, shift=0.0):
        return prepare(to_log_lambda(spectra(stars)), torch.as_tensor(stars.rv + shift))

    return make


@pytest.fixture(scope="module")
def stars(simulate):
    return simulate(COUNT, seed=31, snr=np.geomspace(10, 100, COUNT))


@pytest.fixture(scope="module")
def prepared(stars, made_ready):
    return made_ready(stars)


def training_spectra(emulator, count=1024):
    labels = torch.as_tensor(mock_labels(count, np.random.default_rng(0)))
    windows = STARGAP.window_mask(STARGAP.support, "rest") | STARGAP.window_mask(STARGAP.support, "observed")
    flux, _, held = normalise(emulator.flux(labels), torch.as_tensor(~windows).float().expand(count, -1))
    return flux, held >= STARGAP.least_kernel_weight


def copying_network(emulator):
    """A small network after a few seconds of learning to copy emulator spectra."""
    flux, sound = training_spectra(emulator)
    network = CycleStarNet(SMALL)
    network.standardise(torch.where(sound, flux, 1.0), flux, sound)
    flux = network.fill(flux, sound)
    generator = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=STEPS)
    for _ in range(STEPS):
        clean = flux[torch.randint(len(flux), (16,), generator=generator)]
        noisy = clean + 0.03 * torch.randn(clean.shape, generator=generator)
        z_sh, z_sp = network.encode_observed(noisy)
        loss = (network.decode_observed(network.encode_synthetic(clean), z_sp) - clean).square().mean()
        loss = loss + (network.decode_synthetic(z_sh) - clean).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    assert loss < 2 * 0.03**2
    return network


@pytest.fixture(scope="module")
def network(emulator, made_once):
    def make(folder):
        folder.mkdir()
        save_file(copying_network(emulator).state_dict(), folder / "network.safetensors")

    network = CycleStarNet(SMALL)
    network.load_state_dict(load_file(made_once("network", make) / "network.safetensors"))
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def transfers(emulator, network):
    return {"residual": ResidualTransfer(emulator), "reference": StarnetTransfer(network, emulator)}


@pytest.fixture(scope="module")
def fit(transfers, box):
    """A few iterations are enough to compare bits."""

    def run(kind, prepared, **options):
        return fit_domains(prepared, transfers[kind], box, **{"max_iterations": 8} | options)

    return run


@pytest.fixture(scope="module")
def whole(fit, prepared):
    return {kind: fit(kind, prepared) for kind in BOTH}


# ---- what is fitted


def test_the_identity_gives_the_emulator_s_fit(emulator, prepared, box):
    transfer = ResidualTransfer(emulator)
    transfer.split_scale.fill_(1e-4)
    both = fit_domains(prepared, transfer, box)
    model = EmulatorModel(emulator, prepared)
    first = fit_labels(prepared, model, emulator, box, error_floor=transfer.floor, errors=False)
    for field in fields(LabelFit):
        torch.testing.assert_close(
            getattr(both.synthetic, field.name), getattr(first, field.name), rtol=0, atol=0, equal_nan=True
        )
    second = fit_labels(prepared, model, emulator, box, error_floor=transfer.observed_floor, start=first.labels)
    # converged is 0.01 standard errors, or 0.05 where chi-square is flat
    assert (in_errors(both.observed, second) < 0.1).all()
    torch.testing.assert_close(both.observed.errors[:, :3], second.errors[:, :3], rtol=0.02, atol=0)
    torch.testing.assert_close(both.observed.errors[:, 3], second.errors[:, 3], rtol=0.2, atol=1e-4)
    assert (both.nuisance.abs() < 1e-4).all()
    assert (both.systematic[:, :3] == 0).all()
    assert not (both.observed.flags & int(Flag.DOMAINS_DISAGREE)).any()


def test_split_numbers_take_up_a_velocity_that_is_left(stars, made_ready, transfers, box):
    still, moved = (fit_domains(made_ready(stars, shift), transfers["residual"], box) for shift in (0.0, 4.0))
    shift = (moved.nuisance - still.nuisance)[:, 2]
    assert shift[-8:].mean() == pytest.approx(4.0 * torch.sign(shift[-8:].mean()).item(), rel=0.25)
    assert (still.nuisance[:, 2].abs() < 4 * still.nuisance_errors[:, 2]).all()
    assert (in_errors(moved.observed, still.observed)[-8:] < 2.0).all()


def test_the_synthetic_fit_is_of_the_spectra_in_the_synthetic_domain(emulator, prepared, box):
    class Mirrored(ResidualTransfer):
        def to_synthetic(self, prepared):
            return replace(prepared, flux=2.0 - prepared.flux)

    transfer = Mirrored(emulator)
    both = fit_domains(prepared, transfer, box, max_iterations=4)
    plain = transfer.to_synthetic(replace(prepared, flux=torch.where(prepared.good, prepared.flux, 0.0)))
    alone = fit_labels(
        plain, EmulatorModel(emulator, plain), emulator, box, error_floor=transfer.floor, max_iterations=4
    )
    assert torch.equal(both.synthetic.labels, alone.labels)


def test_a_transfer_without_split_numbers(whole):
    both = whole["reference"]
    assert both.nuisance.shape == both.nuisance_errors.shape == (COUNT, 0)
    assert (both.systematic[:, :3] == 0).all()


def test_free_alpha_and_fixed_labels(emulator, transfers, prepared, box):
    few = take(prepared, [12, 15])
    free = fit_domains(few, transfers["residual"], replace(box, free_alpha=True))
    assert torch.isfinite(free.observed.errors).all()
    fixed = fit_domains(few, transfers["residual"], replace(box, fixed={"logg": 4.8}))
    assert (fixed.observed.labels[:, 1] == 4.8).all()
    assert torch.isnan(fixed.observed.errors[:, 1]).all()
    assert torch.isfinite(fixed.observed.errors[:, [0, 2]]).all()


# ---- batches: cases 24 to 27 and 30


def nothing(flux, ivar):
    flux[:], ivar[:] = np.nan, np.nan


def masked(flux, ivar):
    ivar[:] = 0.0


def spike(flux, ivar):
    flux[2500] *= 1e6


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("harm", [nothing, masked, spike])
def test_one_bad_star_leaves_the_others_alone(kind, harm, stars, made_ready, fit, whole):
    flux, ivar = stars.flux.copy(), stars.ivar.copy()
    harm(flux[7], ivar[7])
    both = fit(kind, made_ready(replace(stars, flux=flux, ivar=ivar)))
    others = [row for row in range(COUNT) if row != 7]
    assert differing(both, whole[kind], others, others) == []
    if harm is not spike:
        assert both.observed.flags[7] == int(Flag.TOO_FEW_PIXELS)
        for array in (both.observed.labels, both.observed.errors, both.observed.chi2, both.systematic, both.nuisance):
            assert torch.isnan(array[7]).all()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_a_spoilt_prepared_row_leaves_the_others_alone(kind, value, prepared, fit, whole):
    flux = prepared.flux.clone()
    flux[3] = value
    both = fit(kind, replace(prepared, flux=flux))
    others = [row for row in range(COUNT) if row != 3]
    assert differing(both, whole[kind], others, others) == []
    if not value < torch.inf:
        assert torch.isnan(both.observed.labels[3]).all()
        assert both.observed.flags[3] & int(Flag.NOT_CONVERGED)


@pytest.mark.parametrize("kind", BOTH)
def test_order_and_size_of_a_batch_do_not_matter(kind, prepared, fit, whole):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert differing(fit(kind, take(prepared, order)), whole[kind], other_rows=order) == []
    for rows in ([4], list(range(5, 18))):
        assert differing(fit(kind, take(prepared, rows)), whole[kind], other_rows=rows) == []
    twice = torch.arange(2 * COUNT) % COUNT
    assert differing(fit(kind, take(prepared, twice)), whole[kind], other_rows=twice) == []


@pytest.mark.parametrize("kind", BOTH)
def test_a_batch_of_nothing(kind, prepared, fit, whole):
    empty = fit(kind, take(prepared, []))
    for name, array in arrays(empty).items():
        assert array.shape == (0, *arrays(whole[kind])[name].shape[1:]), name


@pytest.mark.parametrize("kind", BOTH)
def test_what_masked_pixels_hold_does_not_matter(kind, prepared, fit, whole):
    for value in (torch.nan, -1e30):
        flux = torch.where(prepared.good, prepared.flux, value)
        assert differing(fit(kind, replace(prepared, flux=flux)), whole[kind]) == []


@pytest.mark.parametrize("kind", BOTH)
def test_a_wide_gap_is_fitted_around(kind, stars, made_ready, fit):
    ivar = stars.ivar.copy()
    ivar[:, 2900:3300] = 0.0
    both = fit(kind, made_ready(replace(stars, ivar=ivar)))
    assert torch.isfinite(both.observed.labels).all()
    assert torch.isfinite(both.observed.chi2).all()


# ---- flags: cases 28 and 29


@pytest.mark.parametrize("kind", BOTH)
def test_fits_that_do_not_converge_are_flagged(kind, prepared, fit):
    flags = fit(kind, prepared, max_iterations=1).observed.flags & int(Flag.NOT_CONVERGED)
    assert (flags > 0).sum() > COUNT / 2


def test_fits_at_a_bound_are_flagged_and_optimal_there(emulator, transfers, prepared, box, stars):
    transfer = transfers["residual"]
    limit = 3600.0
    cut = Parameters((limit, *box.lower[1:]), box.upper)
    both = fit_domains(prepared, transfer, cut)
    flagged = (both.observed.flags & int(Flag.TEFF_AT_BOUND)) > 0
    cooler = torch.as_tensor(stars.labels[:, TEFF] < limit - 100)
    assert cooler.any()
    assert flagged[cooler].all()
    assert (both.observed.labels[flagged, TEFF] <= limit + 1).all()
    assert not flagged[torch.as_tensor(stars.labels[:, TEFF] > limit + 100)].any()
    held = fit_domains(prepared, transfer, replace(box, fixed={"teff": limit}))
    apart = ((both.observed.labels - held.observed.labels) / held.observed.errors)[:, 1:3].abs()
    assert apart[flagged & (both.observed.labels[:, TEFF] == limit)].max() < 0.2


class ShiftedModel(ResidualModel):
    def __call__(self, labels, directions, rows):
        return super().__call__(labels + torch.tensor([self.transfer.shift, 0, 0, 0]), directions, rows)


class Shifted(ResidualTransfer):
    """Observed spectra are those of stars 600 K hotter."""

    shift = 600.0

    def model(self, prepared):
        return ShiftedModel(self, prepared)


def test_domains_that_disagree_are_flagged(emulator, prepared, box, stars):
    inside = torch.as_tensor(stars.labels[:, TEFF] > box.lower[TEFF] + 650)
    assert inside.sum() > 5
    both = fit_domains(take(prepared, torch.nonzero(inside)[:, 0]), Shifted(emulator), box)
    apart = both.synthetic.labels[:, TEFF] - both.observed.labels[:, TEFF]
    sure = both.observed.errors[:, TEFF] < 60
    assert apart[sure].median() == pytest.approx(600, abs=60)
    assert (((both.observed.flags & int(Flag.DOMAINS_DISAGREE)) > 0) == (apart > 300))[sure].all()
    assert (apart[sure] > 300).any()


def test_labels_beyond_the_training_stars_are_flagged(emulator, prepared, box):
    transfer = ResidualTransfer(emulator)
    transfer.label_map.high[0] = 0.0
    both = fit_domains(prepared, transfer, box)
    flagged = (both.observed.flags & int(Flag.OUTSIDE_TRAINING)) > 0
    assert torch.equal(flagged, both.observed.labels[:, TEFF] > float(transfer.label_map.centre[0]))
    assert flagged.any()
    assert not flagged.all()


# ---- the paper's optimiser


def test_lbfgs_agrees_with_levenberg_marquardt(emulator, prepared, box):
    rows = take(prepared, range(0, COUNT, 2))
    model = EmulatorModel(emulator, rows)
    start = fit_labels(rows, model, emulator, box, error_floor=0.03).labels
    ours, theirs = (f(rows, model, emulator, box, start=start, error_floor=0.004) for f in (fit_labels, fit_lbfgs))
    assert (in_errors(theirs, ours) < 0.1).all()
    torch.testing.assert_close(theirs.errors, ours.errors, rtol=0.02, atol=0, equal_nan=True)
    assert not ((ours.flags | theirs.flags) & int(Flag.NOT_CONVERGED)).any()
    assert (theirs.iterations > ours.iterations).any()


def test_lbfgs_through_both_transfers(transfers, network, emulator, simulate, made_ready, box):
    prepared = made_ready(simulate(6, seed=33, snr=30.0))
    trained = StarnetTransfer(network, emulator, tangent_dtype=torch.float32)
    for transfer, most in ((transfers["residual"], 0.1), (trained, 0.3)):
        ours, theirs = (fit_domains(prepared, transfer, box, optimiser=name) for name in ("lm", "lbfgs"))
        apart = in_errors(theirs.observed, ours.observed).amax(dim=1)
        assert apart.median() < most / 2
        change = theirs.observed.chi2 - ours.observed.chi2
        assert change.max() < 1e-3, "never worse; lower where the other one ends in another minimum"
        assert change[apart < most].abs().max() < 1e-3


def test_lbfgs_flags_what_it_cannot_fit(emulator, prepared, box):
    rows = take(prepared, [1, 2, 3])
    rows.good[1] = False
    flux = rows.flux.clone()
    flux[2] = torch.nan
    rows = replace(rows, flux=flux)
    model = EmulatorModel(emulator, rows)
    start = torch.full((3, len(LABELS)), torch.nan).double()
    fit = fit_lbfgs(rows, model, emulator, box, start=start)
    assert torch.isfinite(fit.labels[0]).all()
    assert not fit.flags[0] & int(Flag.NOT_CONVERGED)
    assert fit.flags[1] == int(Flag.TOO_FEW_PIXELS)
    assert fit.flags[2] & int(Flag.NOT_CONVERGED)
    assert torch.isnan(fit.labels[1:]).all()
    assert fit.iterations[1] == 0
    once = fit_lbfgs(take(prepared, [1]), EmulatorModel(emulator, take(prepared, [1])), emulator, box,
                     start=start[:1], max_iterations=1)  # fmt: skip
    assert once.flags[0] & int(Flag.NOT_CONVERGED)


# ---- what the reference network adds


def test_fits_through_a_trained_network_find_the_labels(network, emulator, simulate, made_ready, box):
    stars = simulate(24, seed=34, snr=100.0)
    both = fit_domains(made_ready(stars), StarnetTransfer(network, emulator), box)
    away = (both.observed.labels - torch.as_tensor(stars.labels))[:, :3].abs()
    # the network copies emulator spectra to about 2 %
    assert (away.median(dim=0).values < torch.tensor([80.0, 0.3, 0.3])).all()


def test_fits_are_the_same_with_half_precision_derivatives(network, emulator, simulate, made_ready, box):
    prepared = made_ready(simulate(8, seed=35, snr=30.0))
    exact, half = (
        fit_domains(prepared, StarnetTransfer(network, emulator, tangent_dtype=dtype), box).observed
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert in_errors(half, exact).median() < 0.05
    assert (half.chi2 - exact.chi2).abs().max() < 1e-3
