"""Velocities of simulated stars, of things that are no M dwarfs, and at the search's edge (ROBUSTNESS case 21)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stargap.flags import Flag
from stargap.labels import alpha_relation
from stargap.measurement.star import measure_batch
from stargap.measurement.velocity import (
    Templates,
    Velocities,
    emulator_templates,
    measure_velocity,
    refine_velocity,
    templates_at,
)
from stargap.mock.spectrographs import mock_wavelength
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.spectrum import Facts, Spectrum

WAVE = mock_wavelength()
SHIFTS = (5.0, 12.0, 30.0, 75.0, 150.0, 300.0, 500.0, 700.0, 850.0, 950.0)
NODES = [(t, 4.8, m, float(alpha_relation(m))) for t in (3200.0, 3600.0, 4000.0) for m in (-0.5, 0.0)]
"""Labels of search templates, so that noise alone is left."""


@pytest.fixture(scope="module")
def templates(emulator):
    return emulator_templates(emulator)


@pytest.fixture(scope="module")
def on_nodes(simulate):
    """Stars whose labels are those of search templates."""

    def make(count, *, seed=7, **options):
        labels = np.array([NODES[i % len(NODES)] for i in range(count)])
        return simulate(count, seed=seed, labels=labels, bad_pixels=False, **options)

    return make


@pytest.fixture(scope="module")
def velocities(spectra, templates):
    def measure(stars, **options):
        return measure_velocity(to_log_lambda(spectra(stars)), templates, **options)

    return measure


def has(flags, flag):
    return (flags & int(flag)) > 0


def spread(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


# --- stars ------------------------------------------------------------------------------------------------------


def test_known_shifts_are_recovered_within_their_errors(on_nodes, velocities):
    shifts = np.repeat([sign * shift for shift in SHIFTS for sign in (-1.0, 1.0)], 6)
    stars = on_nodes(len(shifts), snr=50.0, rv=shifts)
    found = velocities(stars)
    pulls = ((found.rv - torch.as_tensor(shifts)) / found.error).numpy()
    assert np.abs(pulls).max() < 4.0  # 1 in 130 for 120 pulls
    assert pulls.std() == pytest.approx(1.0, abs=0.2)  # known to 0.065
    by_shift = pulls.reshape(len(SHIFTS), 2, 6).mean(axis=(1, 2))
    assert np.abs(by_shift).max() < 1.0  # 12 pulls each: 0.29
    inside = np.abs(shifts) < 900
    assert not found.flags[torch.as_tensor(inside)].any()


@pytest.mark.parametrize("snr", [5.0, 10.0, 30.0, 100.0, 1000.0])
def test_errors_are_honest(snr, on_nodes, velocities):
    stars = on_nodes(240, snr=snr)
    found = velocities(stars)
    pulls = ((found.rv - torch.as_tensor(stars.rv)) / found.error).numpy()
    assert abs(np.median(pulls)) < 0.25  # 240 stars: 0.081
    assert 0.8 < spread(pulls) < 1.25  # and 0.075
    assert 0.8 < pulls.std() < 1.25


def test_a_far_off_velocity_at_low_snr_says_so(on_nodes, velocities):
    stars = on_nodes(240, snr=2.5)
    found = velocities(stars)
    pulls = ((found.rv - torch.as_tensor(stars.rv)) / found.error).abs()
    lost = pulls > 5
    assert 0 < lost.sum() < 40
    assert has(found.flags, Flag.RV_WEAK | Flag.RV_AMBIGUOUS | Flag.RV_EDGE)[lost].all()


def test_a_template_of_the_stars_own_labels_removes_the_mismatch(simulate, spectra, templates, emulator):
    stars = simulate(192, seed=12, snr=300.0, bad_pixels=False)
    native = to_log_lambda(spectra(stars))
    truth = torch.as_tensor(stars.rv)
    coarse = measure_velocity(native, templates)
    fine = refine_velocity(native, coarse, templates_at(emulator, torch.as_tensor(stars.labels)))
    pulls = ((fine.rv - truth) / fine.error).numpy()
    assert spread(pulls) == pytest.approx(1.0, abs=0.25)
    assert (fine.rv - truth).std() < 0.6 * (coarse.rv - truth).std()


def test_refining_keeps_rows_without_a_template_or_a_start(simulate, spectra, templates, emulator):
    stars = simulate(4, seed=13, snr=50.0, bad_pixels=False)
    native = to_log_lambda(spectra(stars))
    coarse = measure_velocity(native, templates)
    labels = torch.as_tensor(stars.labels).clone()
    labels[1] = torch.nan
    rv = coarse.rv.clone()
    rv[2] = torch.nan
    before = replace(coarse, rv=rv)
    after = refine_velocity(native, before, templates_at(emulator, labels))
    assert after.rv[1] == coarse.rv[1]
    assert after.error[1] == coarse.error[1]
    assert after.flags[1] == coarse.flags[1]
    assert torch.isnan(after.rv[2])
    assert torch.isfinite(after.rv[[0, 3]]).all()


def test_refining_stays_within_200_km_s(simulate, spectra, templates, emulator):
    """From 150 km/s away the star is found again, from 230 km/s it would be and must not: that is another peak."""
    stars = simulate(8, seed=13, snr=30.0, rv=np.zeros(8), bad_pixels=False)
    native = to_log_lambda(spectra(stars))
    coarse = measure_velocity(native, templates)
    own = templates_at(emulator, torch.as_tensor(stars.labels))
    near, far = (replace(coarse, rv=coarse.rv + off) for off in (150.0, 230.0))
    assert ((refine_velocity(native, near, own).rv - coarse.rv).abs() < 3 * coarse.error).all()
    assert torch.equal(refine_velocity(native, far, own).rv, far.rv)


# --- templates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("velocity", [-1100.0, 0.0, 37.25, 1100.0])
def test_all_templates_at_one_velocity_are_each_at_it(templates, velocity):
    each, _ = templates.at(torch.arange(len(templates.flux)), torch.full((len(templates.flux),), velocity))
    torch.testing.assert_close(templates.all_at(torch.tensor(velocity)), each, rtol=0, atol=0)


def lines(seed):
    """A spectrum of 60 absorption lines on the fine grid of templates."""
    rng = np.random.default_rng(seed)
    log_wave = np.log10(5900.0) + LOG_LAMBDA.step / 4 * np.arange(7200)
    flux = np.ones_like(log_wave)
    for place, depth in zip(rng.uniform(3.775, 3.95, 60), rng.uniform(0.1, 0.5, 60), strict=True):
        flux -= depth * np.exp(-0.5 * ((log_wave - place) / 1.5e-4) ** 2)
    return log_wave, flux


@pytest.fixture(scope="module")
def user_templates():
    sets = [lines(seed) for seed in (1, 2, 3)]
    flux = torch.as_tensor(np.array([flux for _, flux in sets]), dtype=torch.float32)
    return Templates(flux, float(sets[0][0][0]), LOG_LAMBDA.step / 4)


@pytest.fixture(scope="module")
def line_stars():
    """Six stars of the second set of lines at known velocities."""
    log_wave, flux = lines(2)
    rng = np.random.default_rng(4)
    rv = np.array([-400.0, -33.3, 0.0, 12.0, 250.0, 800.0])
    made = [np.interp(np.log10(WAVE / (1 + v / SPEED_OF_LIGHT)), log_wave, flux) for v in rv]
    noisy = [100 * (values + rng.normal(0, 0.02, WAVE.size)) for values in made]
    return rv, to_log_lambda([Spectrum(WAVE, values, np.full(WAVE.size, 0.25)) for values in noisy])


def test_users_own_templates(user_templates, line_stars):
    rv, native = line_stars
    found = measure_velocity(native, user_templates)
    assert found.template.tolist() == [1] * 6
    assert found.flags.tolist() == [0] * 6
    assert ((found.rv - torch.as_tensor(rv)).abs() < 4 * found.error).all()
    assert (found.error < 3).all()


def test_only_restricts_each_star_to_its_template(user_templates, line_stars):
    _, native = line_stars
    free = measure_velocity(native, user_templates)
    only = torch.tensor([1, 0, 1, 2, 1, 1])
    held = measure_velocity(native, user_templates, only=only)
    assert torch.equal(held.template, only)
    right = only == 1
    torch.testing.assert_close(held.rv[right], free.rv[right])
    assert (held.chi2 > free.chi2)[~right].all()


def test_the_scale_of_a_template_does_not_matter(user_templates, line_stars):
    _, native = line_stars
    one = measure_velocity(native, user_templates)
    scale = torch.tensor([[1e-6], [1e6], [3.0]])
    other = measure_velocity(native, replace(user_templates, flux=user_templates.flux * scale))
    assert ((one.rv - other.rv).abs() < 0.01 * one.error).all()


def test_templates_move_as_their_derivative_says(templates):
    which = torch.tensor([0, 9, 21])
    velocity = torch.tensor([-500.0, 3.0, 800.0], dtype=torch.float64)
    _, slope = templates.at(which, velocity)
    change = (templates.at(which, velocity + 2)[0] - templates.at(which, velocity - 2)[0]) / 4
    rest = torch.as_tensor(LOG_LAMBDA.wavelength) / (1 + velocity[:, None] / SPEED_OF_LIGHT)
    covered = (rest > 5915) & (rest < 8985)
    # a difference over h = 1/4 pixel is off by h^2 / 6 of the third derivative: 2.4 % for lines of 1 pixel
    off = ((slope - change).abs() * covered).amax(dim=1)
    assert (off < 0.03 * change.abs().amax(dim=1)).all()


def test_a_template_is_shifted_by_the_doppler_formula(user_templates):
    log_wave, flux = lines(1)
    seen, _ = user_templates.at(torch.tensor([0]), torch.tensor([300.0]))
    inside = slice(60, -60)
    rest = LOG_LAMBDA.wavelength / (1 + 300.0 / SPEED_OF_LIGHT)
    expected = np.interp(np.log10(rest), log_wave, flux)
    np.testing.assert_allclose(seen[0][inside], expected[inside], atol=0.01)


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-999.0, 999.0, -1030.0, 1030.0, 1100.0])
def test_the_edge_of_the_search_is_flagged(shift, on_nodes, velocities):
    found = velocities(on_nodes(6, snr=50.0, rv=np.full(6, shift)))
    assert has(found.flags, Flag.RV_EDGE).all()
    assert (found.rv.abs() <= 1000.0).all()


def test_noise_has_no_velocity(templates):
    rng = np.random.default_rng(5)
    empty = rng.normal(0, 1, (64, WAVE.size))
    featureless = 30 + rng.normal(0, 1, (64, WAVE.size))
    native = to_log_lambda([Spectrum(WAVE, flux, np.ones(WAVE.size)) for flux in (*empty, *featureless)])
    found = measure_velocity(native, templates)
    assert has(found.flags, Flag.RV_WEAK).all()


def test_an_unknown_velocity_has_no_error_of_zero(templates):
    rng = np.random.default_rng(6)
    flux = 100 + rng.normal(0, 1, (96, WAVE.size))
    found = measure_velocity(to_log_lambda([Spectrum(WAVE, row, np.ones(WAVE.size)) for row in flux]), templates)
    assert not (found.error <= 0).any()


def test_two_equal_stars_at_two_velocities_are_ambiguous(on_nodes, spectra, templates):
    near, far = (on_nodes(60, seed=14, snr=8.0, rv=np.full(60, v)) for v in (-250.0, 250.0))
    blend = replace(near, flux=near.flux + far.flux, ivar=1 / (1 / near.ivar + 1 / far.ivar))
    single, double = (measure_velocity(to_log_lambda(spectra(stars)), templates) for stars in (near, blend))
    assert not has(single.flags, Flag.RV_AMBIGUOUS).any()
    assert has(double.flags, Flag.RV_AMBIGUOUS).float().mean() > 0.5


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_rows_without_good_pixels_have_no_velocity(fill, templates):
    native = NativeBatch(
        torch.full((3, LOG_LAMBDA.count), fill),
        torch.zeros(3, LOG_LAMBDA.count),
        torch.ones(3).double(),
        torch.zeros(3),
    )
    found = measure_velocity(native, templates)
    assert torch.isnan(found.rv).all()
    assert torch.isnan(found.error).all()
    assert torch.isnan(found.chi2).all()
    assert found.flags.tolist() == [int(Flag.TOO_FEW_PIXELS)] * 3


def test_flux_of_zero_has_no_velocity(templates):
    native = to_log_lambda([Spectrum(WAVE, np.zeros(WAVE.size), np.ones(WAVE.size))])
    found = measure_velocity(native, templates)
    assert torch.isnan(found.rv).all()
    assert found.flags.tolist() == [int(Flag.TOO_FEW_PIXELS)]


def test_no_rows_give_no_velocities(templates):
    native = to_log_lambda([Spectrum(WAVE, WAVE, WAVE)])[:0]
    found = measure_velocity(native, templates)
    assert isinstance(found, Velocities)
    assert found.rv.shape == found.error.shape == found.flags.shape == (0,)


def test_neighbours_and_order_do_not_matter(mixed, spectra, templates):
    native = to_log_lambda(spectra(mixed))
    whole = measure_velocity(native, templates)
    order = torch.as_tensor(np.random.default_rng(1).permutation(len(native)))
    shuffled = measure_velocity(native[order], templates)
    for name in ("rv", "error", "chi2", "flags", "template"):
        left, right = getattr(whole, name)[order], getattr(shuffled, name)
        assert torch.equal(left.nan_to_num(-1e9), right.nan_to_num(-1e9)), name


def test_the_pipelines_redshift_is_never_used(simulate, emulator, settings, differences):
    stars = simulate(1, seed=15, snr=30.0)
    made = [
        Spectrum(stars.wavelength, stars.flux[0], stars.ivar[0], Facts(layout="lamost-image", pipeline_z=z))
        for z in (None, 0.0, 0.002, -0.03, np.nan)
    ]
    columns, _ = measure_batch(made, settings, emulator)
    for row in range(1, len(made)):
        assert differences(columns, columns, slice(0, 1), slice(row, row + 1)) == []


# --- not M dwarfs -----------------------------------------------------------------------------------------------

EMISSION = {6564.6: 8, 6585.3: 3, 6549.9: 1, 6718.3: 1.5, 6732.7: 1.2, 5008.2: 6, 4960.3: 2, 4862.7: 3, 3728.5: 5}


def galaxy(redshift):
    flux = 1 + 0.1 * np.sin(WAVE / 700)
    for line, height in EMISSION.items():
        flux += height * np.exp(-0.5 * ((WAVE / (1 + redshift) - line) / 3.0) ** 2)
    return flux


def white_dwarf():
    flux = 1 / (WAVE**5 * np.expm1(1.4387769e8 / (WAVE * 15000.0)))
    for line, width in ((6564.6, 30.0), (4862.7, 40.0), (4341.7, 40.0)):
        flux *= 1 - 0.45 / (1 + ((WAVE - line) / width) ** 2)
    return flux / np.median(flux)


OTHERS = {f"galaxy at {z}": galaxy(z) for z in (0.0, 0.05, 0.15, 0.3)} | {"white dwarf": white_dwarf()}


@pytest.mark.parametrize("noise", ["of the sky", "of the object"])
@pytest.mark.parametrize("snr", [30.0, 100.0])
def test_what_is_no_m_dwarf_is_flagged(snr, noise, emulator, settings):
    rng = np.random.default_rng(16)
    made, names = [], []
    for name, flux in OTHERS.items():
        sigma = (np.abs(flux) if noise == "of the object" else np.ones_like(flux)) / snr
        for _ in range(3):
            noisy = flux + sigma * rng.standard_normal(WAVE.size)
            made.append(Spectrum(WAVE, noisy, sigma**-2, Facts(layout="arrays")))
            names.append(name)
    columns, _ = measure_batch(made, settings, emulator)
    caught = (columns["flags"] & int(Flag.RV_WEAK | Flag.RV_AMBIGUOUS | Flag.POOR_FIT | Flag.BAD_FIT)) > 0
    assert [name for name, ok in zip(names, caught, strict=True) if not ok] == []
