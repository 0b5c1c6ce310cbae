"""Band indices, subtype and H-alpha against independent integration, with errors from Monte Carlo (case 17)."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from helpers.native import morton, native
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.features import HALPHA
from stargap.measurement.bands import band_mean
from stargap.measurement.files import measure
from stargap.measurement.halpha import ACTIVE_WIDTH, measure_halpha
from stargap.measurement.subtype import measure_indices
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, air_to_vacuum
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda

WAVE = LOG_LAMBDA.wavelength
AIR = {
    "tio5": (7126.0, 7135.0),
    "cah2": (6814.0, 6846.0),
    "cah3": (6960.0, 6990.0),
    "reference": (7042.0, 7046.0),
}
"""Reid, Hawley & Gizis (1995)."""


def integral_mean(flux, low, high, rv=0.0):
    """Mean over ``low..high`` (A, rest frame) of flux that is constant within each pixel, on a grid of 0.0005 A."""
    doppler = 1 + rv / SPEED_OF_LIGHT
    fine = np.arange(low * doppler + 2.5e-4, high * doppler, 5e-4)
    half = 10 ** (LOG_LAMBDA.step / 2)
    pixel = np.searchsorted(WAVE * half, fine)
    return flux[pixel].mean()


@pytest.fixture(scope="module")
def stars(simulate, spectra):
    """Forty stars as `NativeBatch`, with velocities, and nearly without noise."""
    made = simulate(40, seed=31, snr=1e4, bad_pixels=False)
    return to_log_lambda(spectra(made)), torch.as_tensor(made.rv)


def no_velocity(batch):
    return torch.zeros(len(batch), dtype=torch.float64)


# --- wavelengths ------------------------------------------------------------------------------------------------


@given(st.floats(3700, 9100))
@settings(deadline=None)
def test_air_to_vacuum_is_mortons(air):
    # the two formulae fit the same measurements of air to a few parts in 1e9
    assert air_to_vacuum(air) == pytest.approx(float(morton(air)), rel=1e-8)


@pytest.mark.parametrize(
    ("air", "vacuum"), [(5889.95095, 5891.583264), (5895.92424, 5897.558147), (7698.9646, 7701.0835)]
)
def test_air_to_vacuum_of_lines_known_in_both(air, vacuum):
    """Na I D2 and D1 and K I in the NIST Atomic Spectra Database."""
    assert air_to_vacuum(air) == pytest.approx(vacuum, abs=2e-4)


# --- values -----------------------------------------------------------------------------------------------------


def test_indices_equal_integrals_on_a_fine_grid(stars):
    batch, rv = stars
    found = measure_indices(batch, rv)
    for row in range(len(batch)):
        flux, velocity = batch.flux[row].double().numpy(), float(rv[row])
        mean = {n: integral_mean(flux, *morton(np.array(band)), velocity) for n, band in AIR.items()}
        expected = {name: mean[name] / mean["reference"] for name in ("tio5", "cah2", "cah3")}
        for name, value in expected.items():
            # the fine grid misplaces each edge by up to 0.00025 A of at least 4 A
            assert getattr(found, name)[row].item() == pytest.approx(value, rel=3e-4)
        tio5, cah = found.tio5[row].item(), (found.cah2 + found.cah3)[row].item()
        solar = np.polyval([-0.164, 0.670, -0.118, -0.050], cah)  # Lepine, Rich & Shara (2007), eq. 10
        zeta = (1 - tio5) / (1 - solar) if 1 - solar > 0.05 else np.nan
        assert found.zeta[row].item() == pytest.approx(zeta, rel=1e-9, nan_ok=True)
        assert found.spt[row].item() == pytest.approx(8.2 - 10.775 * tio5, rel=1e-9)


def test_stars_span_the_subtypes(stars):
    """So that the comparison above means something."""
    spt = measure_indices(*stars).spt
    assert spt.min() < 0
    assert spt.max() > 4


def test_zeta_is_null_where_it_means_nothing():
    flat = native(np.ones(WAVE.size))
    found = measure_indices(flat, no_velocity(flat))
    assert torch.isfinite(found.tio5).all()
    assert torch.isnan(found.zeta).all()
    assert torch.isnan(found.e_zeta).all()


@given(st.integers(-14, 14))
@settings(deadline=None, max_examples=25)
def test_a_shift_by_whole_pixels_changes_nothing(stars, pixels):
    batch, _ = stars
    velocity = SPEED_OF_LIGHT * (10 ** (LOG_LAMBDA.step * pixels) - 1)
    moved = NativeBatch(torch.roll(batch.flux, pixels, 1), batch.ivar, batch.scale, batch.spikes)
    at_rest = no_velocity(batch)
    for measure_it in (measure_indices, measure_halpha):
        here, there = measure_it(batch, at_rest), measure_it(moved, at_rest + velocity)
        for name in ("tio5", "cah2", "cah3", "spt") if measure_it is measure_indices else ("width",):
            torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=1e-9, atol=1e-9)


@given(st.floats(-200, 200))
@settings(deadline=None, max_examples=25)
def test_a_shift_moves_an_index_by_less_than_its_sampling(simulate, spectra, velocity):
    """The same star at another velocity: 1.6 A pixels sample lines of R = 1800 finely enough."""
    labels = np.array([[3400.0, 4.9, 0.0, 0.0]] * 2)
    stars = simulate(2, seed=1, snr=1e5, labels=labels, rv=np.array([0.0, velocity]), bad_pixels=False)
    batch = to_log_lambda(spectra(stars))
    rv = torch.as_tensor(stars.rv)
    tio5 = measure_indices(batch, rv).tio5
    assert abs(tio5[1] - tio5[0]).item() < 0.01
    width = measure_halpha(batch, rv).width
    assert abs(width[1] - width[0]).item() < 0.1


@given(st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=20)
def test_the_scale_of_the_flux_does_not_matter(stars, scale):
    batch, rv = stars
    scaled = NativeBatch(batch.flux * scale, batch.ivar / scale**2, batch.scale, batch.spikes)
    pairs = zip(measure_indices(batch, rv), measure_indices(scaled, rv), strict=True)
    for left, right in (*pairs, *zip(measure_halpha(batch, rv)[:2], measure_halpha(scaled, rv)[:2], strict=True)):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5, equal_nan=True)


# --- H-alpha ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rv", [-300.0, -40.0, 0.0, 25.0, 300.0])
@pytest.mark.parametrize("width", [-3.0, -0.5, 0.0, 0.75, 4.0, 30.0])
@pytest.mark.parametrize("slope", [0.0, 0.004])
def test_a_planted_line_is_recovered(width, rv, slope):
    doppler = 1 + rv / SPEED_OF_LIGHT
    apart = WAVE / doppler - morton(6562.801)
    sigma = 1.5
    line = width * np.exp(-0.5 * (apart / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    batch = native(1 + slope * apart.clip(-100, 100) + line)
    found = measure_halpha(batch, torch.tensor([rv]))
    # 3e-6 of a Gaussian of 1.5 A lies beyond 7 A; 2.4e-10 of it is in the side windows; float32 carries 6e-8 of
    # fluxes of 1 over 14 A; the slope's pixels at the windows' edges are not symmetric: half a pixel of 1.5 A
    assert found.width.item() == pytest.approx(width, abs=1e-3 + 0.5 * slope, rel=1e-3)


@pytest.mark.parametrize(("width", "snr", "active", "certain"), [
    (0.0, 1000, 0, 0),
    (0.70, 1000, 0, 0),
    (0.85, 1000, 1, 1),
    (0.85, 20, 1, 0),
    (5.0, 20, 1, 1),
    (-5.0, 20, 0, 0),
])  # fmt: skip
def test_activity_has_two_rules(width, snr, active, certain):
    line = width * np.exp(-0.5 * ((WAVE - HALPHA) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    batch = native(1 + line, snr**2)
    found = measure_halpha(batch, no_velocity(batch))
    assert (int(found.active), int(found.active_3sigma)) == (active, certain)
    assert (found.width > ACTIVE_WIDTH).item() == bool(active)


def test_error_of_the_line_is_that_of_its_pixels():
    """At S/N 5 it is 1.2 A: 0.9 A from the line, the rest from the continuum."""
    batch = native(np.ones(WAVE.size), 25.0)
    error = measure_halpha(batch, no_velocity(batch)).error.item()
    pixel = HALPHA * (10**LOG_LAMBDA.step - 1)
    line, side = 14 / pixel, 10 / pixel
    # the 9.3 and 6.6 pixels begin and end with a fraction, which lowers the variance by up to 1/4 pixel at each end
    exact = 14 / 5 * np.sqrt(1 / line + 1 / (2 * side))
    assert exact * np.sqrt(1 - 0.5 / side) < error < exact


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repeats(simulate, spectra):
    """One star 3,000 times with noise of S/N 30 on its pixels, and the star itself."""
    labels = np.array([[3400.0, 4.9, -0.2, 0.08]])
    star = simulate(1, seed=33, snr=1e5, labels=labels, rv=np.array([30.0]), bad_pixels=False)
    clean = to_log_lambda(spectra(star))
    flux = clean.flux[0].double().numpy()
    sigma = np.sqrt(flux.clip(0.05)) / 30
    sigma[::7] *= 3
    noise = np.random.default_rng(34).standard_normal((3000, flux.size))
    return native(flux + sigma * noise, sigma**-2), native(flux, sigma**-2)


RATIOS = ("tio5", "cah2", "cah3", "zeta", "spt")


@pytest.mark.parametrize("name", RATIOS)
def test_errors_of_indices_equal_the_scatter_of_repeats(name, repeats):
    many, one = (measure_indices(batch, no_velocity(batch) + 30.0) for batch in repeats)
    scatter = getattr(many, name).std().item()
    # 3,000 repeats: known to 1.3 %; at S/N 30 a ratio is linear to (1 / 40)^2
    assert getattr(one, f"e_{name}").item() == pytest.approx(scatter, rel=0.05)
    assert getattr(many, name).mean().item() == pytest.approx(getattr(one, name).item(), abs=0.1 * scatter)


def test_error_of_the_line_equals_the_scatter_of_repeats(repeats):
    many, one = (measure_halpha(batch, no_velocity(batch) + 30.0) for batch in repeats)
    scatter = many.width.std().item()
    assert one.error.item() == pytest.approx(scatter, rel=0.05)
    assert many.width.mean().item() == pytest.approx(one.width.item(), abs=0.1 * scatter)


def test_more_noise_than_stated_scales_errors_only(repeats):
    _, one = repeats
    rv = no_velocity(one) + 30.0
    plain, loud = measure_indices(one, rv), measure_indices(one, rv, noise_factor=torch.tensor([1.5]))
    for name in RATIOS:
        assert getattr(loud, name).item() == getattr(plain, name).item()
        assert getattr(loud, f"e_{name}").item() == pytest.approx(1.5 * getattr(plain, f"e_{name}").item())
    quiet, noisy = measure_halpha(one, rv), measure_halpha(one, rv, noise_factor=torch.tensor([1.5]))
    assert noisy.width.item() == quiet.width.item()
    assert noisy.error.item() == pytest.approx(1.5 * quiet.error.item())


# --- missing pixels ---------------------------------------------------------------------------------------------


def dead(*places):
    """A flat star without the pixels nearest to some wavelengths."""
    ivar = np.full(WAVE.size, 1e4)
    flux = np.ones(WAVE.size)
    for place in places:
        nearest = np.abs(WAVE - place).argmin()
        ivar[nearest], flux[nearest] = 0.0, 0.0
    return native(flux, ivar)


def test_one_dead_pixel_in_a_wide_band_counts_for_nothing():
    batch = dead(air_to_vacuum(6830.0), air_to_vacuum(6980.0), HALPHA - 15.0)
    found, line = measure_indices(batch, no_velocity(batch)), measure_halpha(batch, no_velocity(batch))
    np.testing.assert_allclose([found.tio5.item(), found.cah2.item(), found.cah3.item()], 1.0, atol=1e-6)
    assert line.width.item() == pytest.approx(0.0, abs=1e-5)


def test_one_dead_pixel_in_the_line_gives_null():
    """A dead core would bias the width of an emission line by a quarter."""
    batch = dead(HALPHA + 3.0)
    assert torch.isnan(measure_halpha(batch, no_velocity(batch)).width).all()


@pytest.mark.parametrize("places", [(7128.0, 7130.0, 7132.0), (7044.0,)], ids=["band", "reference"])
def test_a_gap_over_tio5_gives_null_and_not_zero(places):
    batch = dead(*(air_to_vacuum(place) for place in places))
    found = measure_indices(batch, no_velocity(batch))
    nulls = (found.tio5, found.e_tio5, found.spt, found.e_spt, found.zeta, found.e_zeta)
    assert all(torch.isnan(value).all() for value in nulls)
    assert torch.isnan(found.cah2).item() == (len(places) == 1)


@pytest.mark.parametrize("side", [-15.0, 0.0, 15.0])
def test_a_gap_over_the_line_or_its_continuum_gives_null(side):
    batch = dead(*(HALPHA + side + 1.5 * step for step in range(-2, 3)))
    found = measure_halpha(batch, no_velocity(batch))
    assert torch.isnan(found.width).all()
    assert torch.isnan(found.error).all()
    assert (found.active.tolist(), found.active_3sigma.tolist()) == ([-1], [-1])


def test_an_unknown_velocity_gives_nulls():
    batch = native(np.ones(WAVE.size))
    unknown = torch.tensor([torch.nan])
    assert all(torch.isnan(value).all() for value in measure_indices(batch, unknown))
    line = measure_halpha(batch, unknown)
    assert torch.isnan(line.width).all()
    assert line.active.tolist() == [-1]


@pytest.mark.parametrize("flux", [0.0, -1.0])
def test_a_continuum_that_is_not_positive_gives_nulls(flux):
    batch = native(np.full(WAVE.size, flux))
    found = measure_indices(batch, no_velocity(batch))
    assert torch.isnan(found.tio5).all()
    assert torch.isnan(found.spt).all()
    assert torch.isnan(measure_halpha(batch, no_velocity(batch)).width).all()


def test_a_continuum_lost_in_the_noise_gives_nulls():
    """A ratio to a number that could be zero has no error and no meaning."""
    rng = np.random.default_rng(35)
    batch = native(rng.normal(0, 1, (2000, WAVE.size)), 1.0)
    found, line = measure_indices(batch, no_velocity(batch)), measure_halpha(batch, no_velocity(batch))
    values = {"tio5": (found.tio5, 5), "cah2": (found.cah2, 5), "spt": (found.spt, 20), "width": (line.width, 100)}
    for name, (value, limit) in values.items():
        known = value[torch.isfinite(value)]
        assert len(known) < 20, name  # 3 sigma by chance: 0.13 %
        assert (known.abs() < limit).all(), name


def test_band_means_of_no_stars():
    batch = native(np.ones((1, WAVE.size)))[:0]
    assert band_mean(batch, torch.zeros(0), 7000.0, 7010.0).mean.shape == (0,)
    assert measure_indices(batch, torch.zeros(0)).tio5.shape == (0,)
    assert measure_halpha(batch, torch.zeros(0)).width.shape == (0,)


# --- real stars -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tio5_of_real_stars(shared_data):
    """Against TiO5 measured by hand-written code at hand-measured velocities."""
    folder = shared_data / "lamost"
    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] == "cool" and row["TiO5"]]
    table = measure([folder / "cool" / row["file"] for row in rows])
    tio5, error = (np.ma.filled(table[name], np.nan) for name in ("tio5", "e_tio5"))
    off = tio5 - np.array([float(row["TiO5"]) for row in rows])
    known = np.isfinite(off)
    assert known.sum() > 80
    assert np.median(np.abs(off[known])) < 0.005
    assert abs(np.median(off[known])) < 0.003
    assert (np.abs(off[known]) < 3 * error[known] + 0.005).mean() > 0.9
