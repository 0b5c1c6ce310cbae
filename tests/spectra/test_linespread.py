"""Line-spread functions: against convolutions by `stargap.theory.broadening`, and labels of blurred stars."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.collections import write_desi

import stargap
from stargap.errors import UsageError
from stargap.measurement.star import measure_batch
from stargap.pixels import LOG_LAMBDA, MODEL_RESOLUTION, STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.linespread import blur, match_resolution, missing_blur
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.resolution import (
    INSTRUMENTS,
    from_fwhm,
    from_pixel_sigma,
    from_resolution_matrix,
    instrument_resolution,
)
from stargap.spectra.spectrum import Spectrum
from stargap.theory.broadening import broaden_constant_resolution
from stargap.theory.emulator import shipped_emulator

FINE = np.exp(np.linspace(np.log(5850.0), np.log(9100.0), 40_000))
INNER = slice(60, -60)


def lines(seed=0):
    """A spectrum of many lines of R = 20,000 on a fine grid."""
    rng = np.random.default_rng(seed)
    raw = 1 - 0.6 * (rng.uniform(size=FINE.size) < 0.03)
    return broaden_constant_resolution(FINE, raw, 20_000)


def broadened(power, source=20_000):
    return broaden_constant_resolution(FINE, lines(), power, source_resolution=source)


def on_grid(flux):
    """Fine pixels averaged over those of the log-lambda grid."""
    edges = 10 ** (LOG_LAMBDA.step * (LOG_LAMBDA.first - 0.5 + np.arange(LOG_LAMBDA.count + 1)))
    total = np.concatenate([[0], np.cumsum(flux[:-1] * np.diff(FINE))])
    return np.diff(np.interp(edges, FINE, total)) / np.diff(edges)


@pytest.mark.parametrize("power", [2200.0, 3500.0, 7500.0])
def test_sharper_spectra_are_convolved_to_the_models(power):
    star = Spectrum(FINE, broadened(power), np.full(FINE.size, 1e4), resolution=np.full(FINE.size, power))
    native = to_log_lambda([star])
    assert native.resolution.tolist() == [MODEL_RESOLUTION]
    ours = native.flux[0].double().numpy() * float(native.scale)
    expected = broadened(MODEL_RESOLUTION)
    expected = np.interp(LOG_LAMBDA.wavelength, FINE, expected)
    unmatched = np.interp(LOG_LAMBDA.wavelength, FINE, broadened(power))
    assert np.std((ours - expected)[INNER]) < 0.1 * np.std((unmatched - expected)[INNER]) + 2e-4


def test_fine_pixels_keep_the_information_of_their_noise():
    rng = np.random.default_rng(1)
    flux = 1 + rng.normal(0, 0.1, FINE.size)
    star = Spectrum(FINE, flux, np.full(FINE.size, 100.0), resolution=np.full(FINE.size, 5000.0))
    native = to_log_lambda([star])
    inside = native.ivar[0, INNER].double() / float(native.scale) ** 2
    per_pixel = LOG_LAMBDA.step * np.log(10) / np.log(FINE[1] / FINE[0])
    np.testing.assert_allclose(inside.numpy(), 100.0 * per_pixel, rtol=0.1)
    mean = native.flux[0, INNER].double().mean() * float(native.scale)
    assert abs(mean - 1) < 5 * 0.1 / np.sqrt(FINE.size)


def test_bad_pixels_do_not_spread():
    flux, ivar = broadened(5000.0), np.full(FINE.size, 1e4)
    bad = (FINE > 7000) & (FINE < 7020)
    flux = np.where(bad, 1e3, flux)
    ivar[bad] = 0
    native = to_log_lambda([Spectrum(FINE, flux, ivar, resolution=np.full(FINE.size, 5000.0))])
    good = native.ivar[0] > 0
    assert float((native.flux[0][good] * float(native.scale)).max()) < 1.1
    away = np.abs(LOG_LAMBDA.wavelength - 7010) > 11
    assert good[torch.as_tensor(away)][INNER].all()
    assert not good[torch.as_tensor(np.abs(LOG_LAMBDA.wavelength - 7010) < 9)].any()


@pytest.mark.parametrize("power", [1700.0, 1400.0, 1000.0, 600.0])
def test_models_are_blurred_to_lower_resolutions(power):
    models = np.interp(STARGAP.support, FINE, broadened(MODEL_RESOLUTION))
    expected = np.interp(STARGAP.support, FINE, broadened(power))
    amount = missing_blur(torch.tensor([power]), STARGAP)
    ours = blur(torch.as_tensor(models)[None].float(), amount)[0].double().numpy()
    assert np.std((ours - expected)[INNER]) < 0.04 * np.std((models - expected)[INNER]) + 2e-4


def test_blur_of_a_row_does_not_depend_on_others_and_small_amounts_take_one_step():
    flux = torch.rand(3, 200, generator=torch.Generator().manual_seed(0))
    amount = torch.tensor([[0.3], [7.0], [0.0]]).expand(3, 200)
    together = blur(flux, amount)
    for row in range(3):
        assert torch.equal(together[row], blur(flux[row : row + 1], amount[row : row + 1])[0])
    slope = torch.diff(flux[0])
    once = flux[0] + 0.3 * (torch.nn.functional.pad(slope, (0, 1)) - torch.nn.functional.pad(slope, (1, 0)))
    torch.testing.assert_close(together[0], once, rtol=1e-6, atol=1e-7)
    assert torch.equal(together[2], flux[2])


@pytest.mark.parametrize("step", [0.7, 1.0, 1.5])
def test_interpolated_pixels_have_the_noise_of_means_over_many(step):
    rng = np.random.default_rng(3)
    wave = 10.0 ** np.arange(np.log10(5900), np.log10(9000), step * LOG_LAMBDA.step)
    pulls = []
    for _ in range(200):
        flux = 1 + rng.normal(0, 0.1, wave.size)
        native = to_log_lambda([Spectrum(wave, flux, np.full(wave.size, 100.0))])
        ivar = native.ivar[0].double().numpy()
        mean = np.average(native.flux[0].double().numpy() * float(native.scale), weights=ivar)
        pulls.append((mean - 1) * np.sqrt(ivar.sum()) / float(native.scale))
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)


def test_interpolation_is_told_as_a_lower_resolution():
    wave = LOG_LAMBDA.wavelength[10:-10] * LOG_LAMBDA.ratio  # half a pixel off
    star = Spectrum(wave, np.interp(wave, FINE, broadened(MODEL_RESOLUTION)), np.full(wave.size, 1e4))
    native = to_log_lambda([star])
    assert float(native.resolution[0]) == pytest.approx(1617, abs=2)
    expected = np.interp(LOG_LAMBDA.wavelength, FINE, broadened(float(native.resolution[0])))
    inside = slice(30, -30)
    found = native.flux[0].double().numpy() * float(native.scale[0])
    sharper = np.interp(LOG_LAMBDA.wavelength, FINE, broadened(MODEL_RESOLUTION))
    assert np.abs(found - expected)[inside].std() < 0.1 * np.abs(found - sharper)[inside].std()


def test_the_instrument_of_arrays_is_a_keyword():
    wave = LOG_LAMBDA.wavelength
    arrays = {"wavelength": wave, "ivar": np.ones_like(wave), "model": "emulator", "progress": False}
    told = stargap.measure(np.ones_like(wave), **arrays, instrument=[(6000, 1200), (9000, 1500)])
    assert float(told["resolution"][0]) == 1200
    with pytest.raises(UsageError, match="no instrument 'dessi': known are lamost"):
        stargap.measure(np.ones_like(wave), **arrays, instrument="dessi")
    with pytest.raises(UsageError, match="given twice"):
        stargap.measure(np.ones_like(wave), **arrays, instrument="desi", read=ReadSettings(instrument=1000))


def test_the_lowest_resolution_of_a_spectrum_counts():
    power = np.linspace(1200, 1600, LOG_LAMBDA.count)
    ivar = np.ones(LOG_LAMBDA.count)
    ivar[:100] = 0
    flux, target = match_resolution(np.ones(LOG_LAMBDA.count), ivar, power, 0.0)
    assert target == pytest.approx(power[100])
    np.testing.assert_allclose(flux, 1.0)


@pytest.fixture(scope="module")
def blurred():
    """Stars of the emulator at R = 1000 with S/N 100 a pixel, and their labels."""
    emulator = shipped_emulator()
    labels = torch.tensor([[3400.0, 4.8, 0.0, 0.0], [3700.0, 4.7, -0.5, 0.2]], dtype=torch.float64)
    flux = emulator.flux(labels).double().numpy()
    wave = np.asarray(STARGAP.support)
    rng = np.random.default_rng(3)
    sharp = np.exp(np.linspace(np.log(wave[0]), np.log(wave[-1]), 16_000))
    made = []
    for row in flux:
        fine = np.interp(sharp, wave, row)
        broad = broaden_constant_resolution(sharp, fine, 1000.0, source_resolution=1800.0)
        one = np.interp(wave, sharp, broad)
        noise = one / 100
        made.append((one + rng.normal(0, 1, one.size) * noise, noise**-2))
    return wave, made, labels.numpy()


def measured(blurred, power):
    wave, made, _ = blurred
    known = None if power is None else np.full(wave.size, power)
    stars = [Spectrum(wave, flux, ivar, resolution=known) for flux, ivar in made]
    return measure_batch(stars, MeasureSettings(), shipped_emulator())[0]


def test_labels_at_r_1000_are_right_if_the_resolution_is_known(blurred):
    right, wrong = measured(blurred, 1000.0), measured(blurred, None)
    truth = blurred[2]
    np.testing.assert_allclose(right["resolution"], 988.0, rtol=1e-3)  # averaged over the pixels of the grid
    for place, (name, floor) in enumerate({"teff": 5.0, "logg": 0.02, "m_h": 0.02}.items()):
        off = np.abs(right[name] - truth[:, place])
        assert (off < 4 * right[f"e_{name}"] + floor).all(), name
    assert (np.abs(right["teff"] - truth[:, 0]) < 0.5 * np.abs(wrong["teff"] - truth[:, 0])).all()
    assert (right["chi2"] < wrong["chi2"]).all()


def test_resolving_powers_of_all_kinds():
    wave = np.array([6000.0, 7500.0])
    assert instrument_resolution(wave, 1500).tolist() == [1500.0, 1500.0]
    assert instrument_resolution(wave, " 1500 ").tolist() == [1500.0, 1500.0]
    assert instrument_resolution(wave, [(6000, 1000), (9000, 4000)]).tolist() == [1000.0, 2500.0]
    assert instrument_resolution(wave, "MILES").tolist() == [2400.0, 3000.0]
    assert from_fwhm(wave, 3.0).tolist() == [2000.0, 2500.0]
    for name in INSTRUMENTS:
        assert (instrument_resolution(np.linspace(6000, 8900, 9), name) > 1400).all()
    for wrong in ("hubble", 10, -1, "", [(1, 2, 3)], float("nan")):
        with pytest.raises(UsageError, match=r"no instrument|a resolving power is"):
            instrument_resolution(wave, wrong)


def test_resolution_of_sdss_and_desi_files(tmp_path):
    """The second moment of a Gaussian that is cut at 5 pixels is that of the Gaussian."""
    np.testing.assert_allclose(from_pixel_sigma(np.array([1.1])), 1 / (2.3548 * 1.1e-4 * np.log(10)), rtol=1e-4)
    offset = np.arange(5, -6, -1)
    bands = np.exp(-0.5 * (offset[:, None] / np.array([0.8, 1.2])) ** 2)
    found = from_resolution_matrix(bands, np.array([6000.0, 6000.8]))
    np.testing.assert_allclose(found, [6000 / (2.3548 * 0.8 * 0.8), 6000.8 / (2.3548 * 1.2 * 0.8)], rtol=1e-3)
    path = write_desi(
        tmp_path / "coadd-main-dark-1.fits", [1], lambda arm, wave: (np.ones((1, wave.size)),) * 2, sigma=0.9
    )
    spectrum = read_spectrum(path)
    red = (spectrum.wavelength > 5800) & (spectrum.wavelength < 9800)
    expected = spectrum.wavelength / (2.3548 * 0.9 * 0.8)
    np.testing.assert_allclose(spectrum.resolution[red], expected[red], rtol=1e-2)
    chosen = read_spectrum(path, ReadSettings(instrument=2500))
    np.testing.assert_array_equal(chosen.resolution, 2500.0)
