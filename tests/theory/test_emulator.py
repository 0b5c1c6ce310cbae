"""The emulator: what ships is what its card says, derivatives are derivatives, and training is reproducible."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stargap
from stargap.errors import UsageError
from stargap.labels import LABELS
from stargap.pixels import STARGAP
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import Emulator, EmulatorCard, shipped_emulator
from stargap.theory.grids import Grid, read_hdf5_grid
from stargap.theory.train_emulator import Training, broadened_log_flux, emulator_error, fit_emulator

few = settings(max_examples=25, derandomize=True, deadline=None, database=None)
UNIT = 2.0**-24
"""Rounding of one float32 operation."""
LOG_FLUX = 16 * 2 * UNIT
"""Relative error of the flux from rounding ln flux, which is between 8 and 16, once and its sum once more."""
LOWER, UPPER = np.array(shipped_emulator().card.lower), np.array(shipped_emulator().card.upper)


@st.composite
def labels_in_the_box(draw, rows=3):
    fractions = draw(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=rows, max_size=rows))
    return torch.as_tensor(LOWER + np.array(fractions) * (UPPER - LOWER))


@pytest.fixture(scope="module")
def emulator():
    return shipped_emulator()


@pytest.fixture(scope="module")
def precise(emulator):
    """The shipped emulator in float64."""
    return copy.deepcopy(emulator).double()


@pytest.fixture(scope="module")
def base(shared_data):
    return read_hdf5_grid(shared_data / "grid" / "marcs_ts_base.h5")


# ---- what ships


def test_the_shipped_emulator_is_complete_and_small(emulator):
    card = emulator.card
    for name, value in card.model_dump().items():
        assert value not in ("", (), {}, None), name
    folder = files("stargap") / "models"
    content = (folder / "emulator.safetensors").read_bytes()
    assert card.sha256 == hashlib.sha256(content).hexdigest()
    assert len(content) < 2e6
    assert (card.kind, card.version, card.labels) == ("payne", 1, LABELS)
    assert card.wavelength == (5910.0, 8990.0, 3081)
    assert card.resolution == 1800.0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", card.stargap)
    assert set(card.validation) == {"median", "percentile_99", "largest", "fraction_within_1_percent"}
    assert not emulator.training
    assert not any(parameter.requires_grad for parameter in emulator.parameters())
    assert shipped_emulator() is emulator


def test_the_box_covers_the_stars_of_the_method(emulator):
    assert emulator.lower.tolist() == list(emulator.card.lower)
    assert emulator.upper.tolist() == list(emulator.card.upper)
    assert (LOWER <= [2800, 4.0, -2.0, 0.0]).all()
    assert (UPPER >= [4400, 5.5, 0.5, 0.4]).all()


def test_the_card_names_its_training_data(emulator, base):
    card = emulator.card
    assert card.training_data == base.name == "marcs_ts_base"
    assert sum(card.spectra) == len(base)
    assert card.spectra[1] == round(0.2 * len(base))
    assert card.lower == tuple(base.labels.min(axis=0))
    assert card.upper == tuple(base.labels.max(axis=0))


def test_every_card_cites_what_was_checked():
    checked = (Path(__file__).parents[2] / "docs/grid-citations.txt").read_text().strip()
    assert "MARCS" in checked
    cards = sorted(Path(stargap.__file__).parent.glob("models/*.json"))
    assert len(cards) >= 5
    for path in cards:
        card = json.loads(path.read_text())
        assert card.get("emulator", card)["citation"] == checked
        assert "memory" not in path.read_text()


def validation_rows(card, size):
    """The split of `fit_emulator`, from the seed in the card."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(card.seed)).numpy()
    return order[: card.spectra[1]]


def test_the_card_is_true_and_within_the_bars(emulator, base):
    errors = emulator_error(emulator, base, rows=validation_rows(emulator.card, len(base)))
    wanted = emulator.card.validation
    # A mean of absolute differences moves by no more than the rounding of the two fluxes.
    assert np.median(errors) == pytest.approx(wanted["median"], abs=2 * LOG_FLUX)
    assert np.quantile(errors, 0.99) == pytest.approx(wanted["percentile_99"], abs=2 * LOG_FLUX)
    assert errors.max() == pytest.approx(wanted["largest"], abs=2 * LOG_FLUX)
    assert (errors <= 0.01).mean() == wanted["fraction_within_1_percent"]
    assert np.median(errors) <= 0.003
    assert (errors <= 0.01).mean() >= 0.99


def test_eq_1_is_what_the_paper_says(emulator, base):
    rows = [5, 300, 600]
    truth = broadened_log_flux(replace(base, flux=base.flux[rows], labels=base.labels[rows]), 1800.0).exp().double()
    guess = emulator.flux(torch.as_tensor(base.labels[rows])).double()
    x, s = STARGAP.support, 30.0
    kernel = torch.as_tensor(np.exp(-0.5 * ((x - STARGAP.wavelength[:, None]) / s) ** 2))
    sides = [f[:, STARGAP.inner] / (f @ kernel.T / kernel.sum(dim=1)) for f in (truth, guess)]
    wanted = ((sides[0] - sides[1]).abs() / sides[0]).mean(dim=1)
    np.testing.assert_allclose(emulator_error(emulator, base, rows=rows), wanted, atol=2 * LOG_FLUX)
    assert emulator_error(emulator, base, rows=rows[:1]) == pytest.approx(wanted[:1].numpy(), abs=2 * LOG_FLUX)


# ---- what it computes


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
@few
@given(labels=labels_in_the_box())
def test_flux_and_tangents_are_the_flux_and_its_jacobian(labels):
    emulator = copy.deepcopy(shipped_emulator()).double()
    rng = np.random.default_rng(0)
    directions = torch.as_tensor(rng.normal(size=(3, 2, 4)) * [100.0, 0.3, 0.3, 0.2])
    flux, tangents = emulator.flux_and_tangents(labels, directions)
    unit = emulator.level.exp()
    torch.testing.assert_close(flux * unit, emulator.flux(labels), rtol=1e-12, atol=0)
    for row in range(3):
        jacobian = torch.func.jacfwd(lambda y: emulator.flux(y[None])[0])(labels[row])
        wanted = (jacobian @ directions[row].T).T / unit
        scale = wanted.abs().amax(dim=1, keepdim=True)
        assert ((tangents[row] - wanted).abs() <= 1e-11 * scale).all()


@few
@given(labels=labels_in_the_box())
def test_tangents_are_the_limit_of_differences(labels):
    emulator = copy.deepcopy(shipped_emulator()).double()
    steps = torch.tensor([50.0, 0.1, 0.1, 0.05], dtype=torch.float64)
    directions = torch.diag(steps).expand(3, -1, -1)
    _, tangents = emulator.flux_and_tangents(labels, directions)

    def difference(h):
        moved = [emulator.flux((labels[:, None] + sign * h * directions).flatten(0, 1)) for sign in (1, -1)]
        return ((moved[0] - moved[1]) / (2 * h * emulator.level.exp())).unflatten(0, (3, 4))

    # Richardson: the error of h^2 cancels, that of h^4 is a sixteenth of it at each halving.
    fine, coarse = difference(0.01), difference(0.02)
    left = (coarse - fine).abs().amax()
    assert float(((4 * fine - coarse) / 3 - tangents).abs().amax()) <= 0.01 * float(left) + 1e-10
    assert float(left) < 1e-3 * float(tangents.abs().amax())


def test_float32_tangents_are_those_of_float64(emulator, precise):
    rng = np.random.default_rng(1)
    labels = torch.as_tensor(rng.uniform(LOWER, UPPER, (32, 4)))
    directions = torch.eye(4, dtype=torch.float64).expand(32, -1, -1)
    flux, tangents = emulator.flux_and_tangents(labels, directions)
    true_flux, true_tangents = precise.flux_and_tangents(labels, directions)
    assert flux.dtype == tangents.dtype == torch.float32
    # Two layers of 128 and a basis of 60 products: sums of sizes well above one another's rounding.
    scale = true_tangents.abs().amax(dim=2, keepdim=True)
    assert float(((tangents - true_tangents).abs() / scale).max()) < 4 * (128 + 128 + 60) ** 0.5 * 16 * UNIT
    assert float((flux / true_flux - 1).abs().max()) < 4 * (128 + 128 + 60) ** 0.5 * 16 * UNIT


@few
@given(labels=labels_in_the_box(rows=6))
def test_the_flux_is_positive_everywhere_in_the_box(labels):
    flux = shipped_emulator().flux(labels)
    assert torch.isfinite(flux).all()
    assert (flux > 0).all()
    # The integral over 5910-8990 A is part of sigma Teff^4: with blocking, 4 to 60 % of it for these stars.
    share = flux.double().sum(dim=1) / (5.670374e-5 * labels[:, 0] ** 4)
    assert (share > 0.04).all()
    assert (share < 0.6).all()


@few
@given(ends=labels_in_the_box(rows=2))
def test_the_flux_is_smooth_along_every_line_through_the_box(ends):
    emulator = copy.deepcopy(shipped_emulator()).double()
    steps = torch.linspace(0, 1, 161, dtype=torch.float64)[:, None]
    log_flux = emulator(ends[0] + steps * (ends[1] - ends[0]))
    # A smooth function's second difference falls fourfold with half the step, a kink's by half.
    fine = log_flux.diff(n=2, dim=0).abs().amax()
    coarse = log_flux[::2].diff(n=2, dim=0).abs().amax()
    assert float(fine) <= 0.3 * float(coarse) + 1e-12
    assert float(fine) < 0.005


def test_one_row_and_a_batch_agree(emulator):
    rng = np.random.default_rng(2)
    labels = torch.as_tensor(rng.uniform(LOWER, UPPER, (40, 4)))
    directions = torch.as_tensor(rng.normal(size=(40, 3, 4)))
    whole, tangents = emulator.flux_and_tangents(labels, directions)
    bound = 4 * (128 + 128 + 60) ** 0.5 * 16 * UNIT
    for row in range(0, 40, 7):
        one, slope = emulator.flux_and_tangents(labels[row : row + 1], directions[row : row + 1])
        assert float((one[0] / whole[row] - 1).abs().max()) < bound
        scale = tangents[row].abs().amax(dim=1, keepdim=True)
        assert float(((slope[0] - tangents[row]).abs() / scale).max()) < bound
        alone = emulator(labels[row : row + 1])[0]
        assert float((alone - emulator(labels)[row]).abs().max()) < LOG_FLUX + bound
    assert emulator(labels[:0]).shape == (0, 3081)


def test_labels_act_as_physics_says(emulator):
    hot, cool = emulator.flux(torch.tensor([[4000.0, 4.8, 0.0, 0.0], [3000.0, 4.8, 0.0, 0.0]])).double()
    assert (hot > cool).all()
    normal, _, _ = normalise(torch.stack([hot, cool]).float(), torch.ones(2, 3081))

    def tio5(row):
        wave = STARGAP.wavelength
        over, under = (wave >= 7128) & (wave <= 7137), (wave >= 7044) & (wave <= 7048)
        return float(normal[row, over].mean() / normal[row, under].mean())

    assert tio5(1) < tio5(0) - 0.2


# ---- hand-made emulators


def handmade(shape, slopes, card_changes=()):
    """An emulator whose ln flux is exactly ``shape + sum_k slopes[k] (label_k / size_k)``.

    silu(x) - silu(-x) = x makes each layer of the network linear.
    """
    inputs = torch.tensor([5040 / 3500.0, 5.0, 0.5, 0.2])
    card = shipped_emulator().card.model_copy(
        update={"hidden": 8, "basis": 4, "validation": {"median": 0.0}, **dict(card_changes)}
    )
    emulator = Emulator(card)
    pair = torch.cat([torch.eye(4), -torch.eye(4)])
    with torch.no_grad():
        emulator.scale.copy_(1 / inputs)
        emulator.mean.copy_(torch.as_tensor(shape))
        emulator.basis.copy_(torch.as_tensor(slopes))
        emulator.first.weight.copy_(pair)
        emulator.second.weight.copy_(pair @ pair.T)
        emulator.last.weight.copy_(pair.T)
        for layer in (emulator.first, emulator.second, emulator.last):
            layer.bias.zero_()
    return emulator.eval().requires_grad_(False)


def power_laws(labels, step=4e-5):
    """Spectra that broadening leaves as they are but for a factor: F = lambda^p with p a sum over the labels."""
    wavelength = 5880.0 * np.exp(step * np.arange(int(np.log(9040 / 5880) / step) + 1))
    labels = np.asarray(labels, dtype=float)
    power = 1.0 * (5040 / labels[:, 0]) / (5040 / 3500) - 0.5 * labels[:, 1] / 5 + 0.3 * labels[:, 2] / 0.5
    flux = (wavelength / 7500) ** power[:, None]
    return Grid(wavelength, flux, labels, "power laws", None, "no one")


ROWS = np.array([[3000, 4.5, 0, 0], [3500, 5.0, -1, 0.4], [4000, 4.0, 0.5, 0], [2800, 5.5, -2, 0.4]], dtype=float)


def test_a_perfect_emulator_has_no_error():
    x = np.log(STARGAP.support / 7500)
    perfect = handmade(0 * x, np.outer([1.0, -0.5, 0.3, 0.0], x))
    errors = emulator_error(perfect, power_laws(ROWS))
    # ln flux is below 1 here; a power law's ends, in a kernel that has none of 60 A beyond, do not broaden alike.
    assert errors.shape == (4,)
    assert errors.max() < 60 * UNIT


def test_eq_1_divides_by_the_model_and_not_by_the_emulator():
    x = np.log(STARGAP.support / 7500)
    ripple = 0.5 * (-1.0) ** np.arange(x.size)
    wrong = handmade(ripple, np.outer([1.0, -0.5, 0.3, 0.0], x))
    errors = emulator_error(wrong, power_laws(ROWS))
    # The pseudo-continuum rises by cosh(0.5): |1 - exp(+-0.5) / cosh(0.5)| = tanh(0.5) in every pixel.
    np.testing.assert_allclose(errors, np.tanh(0.5), rtol=1e-5)


def test_the_error_is_of_normalised_fluxes_and_of_the_rows_asked_for():
    x = np.log(STARGAP.support / 7500)
    offset = handmade(0 * x + 1.3, np.outer([1.0, -0.5, 0.3, 0.0], x))
    assert emulator_error(offset, power_laws(ROWS)).max() < 60 * UNIT
    bad_alpha = handmade(0 * x, np.outer([1.0, -0.5, 0.3, 0.0], x) + np.outer([0, 0, 0, 1.0], np.sin(x * 2000)))
    errors = emulator_error(bad_alpha, power_laws(ROWS))
    assert (errors[[1, 3]] > 0.1).all()
    assert (errors[[0, 2]] < 60 * UNIT).all()
    np.testing.assert_array_equal(emulator_error(bad_alpha, power_laws(ROWS), rows=[3, 0, 1, 2]), errors[[3, 0, 1, 2]])


# ---- targets


def test_targets_are_the_log_of_the_broadened_flux():
    grid = power_laws(ROWS)
    ours = broadened_log_flux(grid, 1800.0)
    assert ours.shape == (4, 3081)
    assert ours.dtype == torch.float64
    power = np.array([np.polyfit(np.log(grid.wavelength / 7500), np.log(f), 1)[0] for f in grid.flux])
    sigma = 1 / 1800 / np.sqrt(8 * np.log(2))
    wanted = power[:, None] * np.log(STARGAP.support / 7500) + 0.5 * (power[:, None] * sigma) ** 2
    np.testing.assert_allclose(ours, wanted, atol=1e-9)


def test_targets_reach_the_resolution_from_the_grid_s_own():
    wavelength = power_laws(ROWS).wavelength
    place, sigma = np.log(wavelength / 7000), 1 / np.sqrt(8 * np.log(2))

    def line(resolution, x):
        return np.exp(-0.5 * (x * resolution / sigma) ** 2) * resolution

    depth = 1e-4
    fine = Grid(wavelength, (1 - depth * line(10_000.0, place))[None], ROWS[:1], "line", 10_000.0)
    wanted = np.log(1 - depth * line(1800.0, np.log(STARGAP.support / 7000)))
    off = np.abs(broadened_log_flux(fine, 1800.0)[0].numpy() - wanted)
    # The line is 5.9 pixels of sigma; reading it between pixels costs 3/128 of its fourth derivative, 3 / 5.9^4.
    height, width = depth * 1800, sigma / 1800 / 4e-5
    assert off.max() < 3 / 128 * 3 * height / width**4 / (1 - height)
    assert np.abs(wanted).max() > 0.17


@pytest.mark.parametrize(("low", "high"), [(5950.0, 9040.0), (5880.0, 8950.0), (3000.0, 5000.0)])
def test_targets_refuse_a_grid_that_does_not_cover(low, high):
    wavelength = np.geomspace(low, high, 3000)
    short = Grid(wavelength, np.ones((1, 3000)), ROWS[:1], "short")
    with pytest.raises(UsageError, match=f"short covers {low:.0f}-{high:.0f} A; 5910-8990 A are needed"):
        broadened_log_flux(short, 1800.0)


def test_targets_refuse_a_grid_that_is_not_even_in_log_wavelength():
    wavelength = np.linspace(5880.0, 9040.0, 9000)
    with pytest.raises(UsageError, match="not uniform in log wavelength"):
        broadened_log_flux(Grid(wavelength, np.ones((1, 9000)), ROWS[:1], "linear"), 1800.0)


def test_targets_refuse_to_sharpen():
    with pytest.raises(UsageError, match="resolution 1000 to 1800"):
        broadened_log_flux(replace(power_laws(ROWS), resolution=1000.0), 1800.0)


# ---- training


def analytic_grid(count=60, seed=3):
    """Bands whose depths depend on the labels, at random labels."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform([2800, 4.0, -1.0, 0.0], [4200, 5.5, 0.5, 0.4], (count, 4)).round(3)
    wavelength = 5880.0 * np.exp(1e-4 * np.arange(int(np.log(9040 / 5880) / 1e-4) + 1))
    heat, gravity, metals, alpha = ((labels - [3500, 5, 0, 0.2]) / [700, 0.5, 0.75, 0.2]).T[..., None]

    def band(centre, width):
        return np.exp(-0.5 * ((wavelength - centre) / width) ** 2)

    depth = 0.5 * (0.5 + 0.3 * metals - 0.3 * heat) * band(7100, 60) + 0.2 * (1 + 0.4 * gravity) * band(8190, 10)
    depth = depth + 0.2 * (1 + 0.5 * alpha + 0.2 * metals * heat) * band(6400, 25)
    return Grid(wavelength, 1e6 * np.exp(heat * wavelength / 7500 - depth), labels, "analytic", None, "no one")


TINY = Training(hidden=16, basis=6, steps=1000, patience=1000, seed=5)


@pytest.fixture(scope="module")
def tiny():
    reports = []
    before = torch.random.get_rng_state()
    emulator, rows = fit_emulator(analytic_grid(), TINY, progress=lambda *report: reports.append(report))
    untouched = torch.equal(before, torch.random.get_rng_state())
    return emulator, rows, reports, untouched


def test_training_reports_and_improves(tiny):
    emulator, rows, reports, untouched = tiny
    assert [report[:2] for report in reports] == [(step, 1000) for step in (200, 400, 600, 800, 1000)]
    losses = [report[2] for report in reports]
    assert losses[-1] < 0.3 * losses[0]
    assert untouched
    barely, same_rows = fit_emulator(analytic_grid(), replace(TINY, steps=5))
    assert np.array_equal(rows, same_rows)
    ours, theirs = (emulator_error(one, analytic_grid(), rows=rows) for one in (emulator, barely))
    assert np.median(ours) < 0.25 * np.median(theirs)
    assert not emulator.training
    assert not any(parameter.requires_grad for parameter in emulator.parameters())


def test_the_card_of_a_training_run_says_what_was_done(tiny):
    emulator, rows, _, _ = tiny
    grid, card = analytic_grid(), emulator.card
    assert sorted(set(rows.tolist())) == sorted(rows.tolist())
    assert len(rows) == 12
    assert card.spectra == (48, 12)
    assert np.array_equal(rows, validation_rows(card, 60))
    assert (card.training_data, card.citation, card.seed) == ("analytic", "no one", 5)
    assert (card.hidden, card.basis, card.resolution) == (16, 6, 1800.0)
    assert card.lower == tuple(grid.labels.min(axis=0))
    assert card.upper == tuple(grid.labels.max(axis=0))
    assert card.stargap == stargap.__version__
    errors = emulator_error(emulator, grid, rows=rows)
    assert card.validation == {
        "median": pytest.approx(np.median(errors)),
        "percentile_99": pytest.approx(np.quantile(errors, 0.99)),
        "largest": pytest.approx(errors.max()),
        "fraction_within_1_percent": (errors <= 0.01).mean(),
    }


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_seed_gives_one_emulator_whatever_the_state_of_the_generator():
    quick = replace(TINY, steps=60)
    first, rows = fit_emulator(analytic_grid(), quick)
    torch.manual_seed(99)
    second, same_rows = fit_emulator(analytic_grid(), quick)
    assert same_weights(first, second)
    assert np.array_equal(rows, same_rows)
    assert first.card == second.card
    other, other_rows = fit_emulator(analytic_grid(), replace(quick, seed=6))
    assert not same_weights(first, other)
    assert not np.array_equal(rows, other_rows)


def run(**changes):
    reports = []
    emulator, _ = fit_emulator(
        analytic_grid(), replace(TINY, **changes), progress=lambda *report: reports.append(report)
    )
    return emulator, [report[0] for report in reports], [report[2] for report in reports]


def test_training_stops_when_nothing_improves():
    _, steps, losses = run(learning_rate=0.0, steps=4000, patience=400)
    assert losses[0] == losses[1] == losses[2]
    assert steps == [200, 400, 600]


def test_the_best_state_is_kept_when_training_goes_astray():
    # The rate rises to 1 over the first 400 steps, which is far too much: the loss explodes after its best.
    astray = {"learning_rate": 1.0, "steps": 4000}
    short, short_steps, _ = run(**astray, patience=200)
    long, long_steps, losses = run(**astray, patience=800)
    best = long_steps[int(np.argmin(losses))]
    assert short_steps[-1] == best + 200
    assert long_steps[-1] == best + 800
    assert losses[-1] > 10 * min(losses)
    assert same_weights(short, long)


def test_training_refuses_a_grid_that_does_not_cover():
    grid = analytic_grid()
    kept = grid.wavelength > 5950
    with pytest.raises(UsageError, match="analytic covers 5950-9040 A"):
        fit_emulator(replace(grid, wavelength=grid.wavelength[kept], flux=grid.flux[:, kept]), TINY)


def test_too_few_spectra_are_refused_in_words():
    grid = analytic_grid(20)
    with pytest.raises(UsageError, match="16"):
        fit_emulator(grid, replace(TINY, basis=60, steps=5))
    two = replace(grid, flux=grid.flux[:2], labels=grid.labels[:2])
    with pytest.raises(UsageError, match="spectra"):
        fit_emulator(two, replace(TINY, basis=1, steps=5))


def test_save_and_load_are_the_identity(tiny, tmp_path):
    emulator = tiny[0]
    emulator.save(tmp_path / "deep" / "tiny.safetensors")
    loaded = Emulator.load(tmp_path / "deep" / "tiny.safetensors")
    assert same_weights(emulator, loaded)
    assert list(emulator.state_dict()) == list(loaded.state_dict())
    assert isinstance(loaded.card, EmulatorCard)
    assert emulator.card.model_dump(exclude={"sha256"}) == loaded.card.model_dump(exclude={"sha256"})
    assert len(loaded.card.sha256) == 64
    labels = torch.as_tensor(analytic_grid().labels)
    assert torch.equal(emulator(labels), loaded(labels))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.save(tmp_path / "again.safetensors")
    first, again = ((tmp_path / name).read_bytes() for name in ("deep/tiny.safetensors", "again.safetensors"))
    assert first == again
    assert (tmp_path / "deep" / "tiny.json").read_bytes() == (tmp_path / "again.json").read_bytes()


@pytest.mark.slow
def test_a_fifth_of_the_recipe_s_steps_is_within_the_bars_of_the_method(emulator, base):
    again, rows = fit_emulator(replace(base, citation=emulator.card.citation), Training(steps=3000))
    assert np.array_equal(rows, validation_rows(emulator.card, len(base)))
    card, shipped = again.card, emulator.card
    ignore = {"validation", "sha256", "stargap"}
    assert card.model_dump(exclude=ignore) == shipped.model_dump(exclude=ignore)
    errors = emulator_error(again, base, rows=rows)
    assert np.median(errors) <= 0.003
    assert (errors <= 0.01).mean() >= 0.99
    assert shipped.validation["median"] < np.median(errors), "more steps made the shipped one"
