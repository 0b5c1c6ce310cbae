"""Spectra of one star co-added: velocities, noise and labels of the mean."""

from __future__ import annotations

import numpy as np
import pytest

import stargap
from stargap.errors import UsageError
from stargap.pixels import BLUE_WAVELENGTH, LOG_LAMBDA
from stargap.spectra.spectrum import Facts, Spectrum

EPOCHS = 6
LABELS = [[3400.0, 4.85, -0.2, 0.08]]


@pytest.fixture(scope="module")
def visits(simulate, spectra):
    """Six spectra of S/N 40 of one star, at velocities up to 150 km/s apart."""
    rv = np.linspace(-60.0, 90.0, EPOCHS)
    stars = simulate(EPOCHS, seed=9, snr=40.0, labels=LABELS * EPOCHS, rv=rv, bad_pixels=False)
    return spectra(stars), rv


def test_labels_of_the_mean_have_the_noise_of_all(visits):
    one = stargap.measure(visits[0], model="emulator", progress=False).arrays()
    mean = stargap.stack(visits[0], model="emulator")
    assert isinstance(mean, Spectrum)
    table = stargap.measure(mean, model="emulator", progress=False).arrays()
    for place, name in enumerate(("teff", "logg", "m_h")):
        assert abs(table[name][0] - LABELS[0][place]) < 4 * table[f"e_{name}"][0]
        assert table[f"e_{name}"][0] == pytest.approx(np.median(one[f"e_{name}"]) / np.sqrt(EPOCHS), rel=0.3)
    assert abs(table["rv"][0] - np.average(visits[1])) < 4 * table["e_rv"][0] + 1.0
    assert table["use_teff"][0] == 1
    assert table["chi2"][0] < 1.5


def test_given_velocities_are_taken_and_spectra_without_one_left_out(visits):
    spectra, rv = visits
    known = rv.copy()
    known[2:] = np.nan
    two = stargap.stack(spectra, rv=known)
    same = stargap.stack(spectra[:2], rv=rv[:2])
    np.testing.assert_array_equal(two.flux, same.flux)
    np.testing.assert_array_equal(two.wavelength, same.wavelength)
    for wrong, reason in ((rv[:3], "6 spectra and 3 velocities"), (rv * np.nan, "no spectrum has a usable velocity")):
        with pytest.raises(UsageError, match=reason):
            stargap.stack(spectra, rv=wrong)


def test_pixels_on_the_grid_are_averaged_as_they_are():
    wave = LOG_LAMBDA.wavelength
    flux = 1.0 + 0.1 * np.random.default_rng(3).normal(size=(2, wave.size))
    mean = stargap.stack([Spectrum(wave, one, 100 + 0 * wave) for one in flux], rv=[-10.0, 10.0])
    np.testing.assert_allclose(mean.wavelength, wave, rtol=1e-12)
    scaled = flux / np.median(flux, axis=1)[:, None]
    weight = np.median(flux, axis=1)[:, None] ** 2
    np.testing.assert_allclose(mean.flux, (scaled * weight).sum(axis=0) / weight.sum(), rtol=1e-5)
    smear = 2.3548 * 10.0 / 299792.458  # FWHM over wavelength of velocities 10 km/s about their mean
    np.testing.assert_allclose(mean.resolution, (1800.0**-2 + smear**2) ** -0.5, rtol=1e-4)


def test_spectra_at_other_velocities_are_shifted_by_whole_pixels():
    wave = LOG_LAMBDA.wavelength

    def star(pixels):
        return Spectrum(wave, np.where(np.arange(wave.size) == 700 + pixels, 0.5, 1.0), 400 + 0 * wave)

    step = LOG_LAMBDA.step * np.log(10.0)
    mean = stargap.stack([star(0), star(0), star(3)], rv=299792.458 * np.expm1(np.array([0, 0, 3]) * step))
    np.testing.assert_allclose(mean.flux[[700, 701, 702]], [1.0, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(mean.resolution, 1800.0)
    several = 299792.458 * np.expm1(np.array([0, 0, 0, 0, 0, 3]) * step)  # their mean is at half a pixel
    mean = stargap.stack([*[star(0)] * 5, star(3)], rv=several)
    line = np.average(mean.wavelength[690:710], weights=1.0 - mean.flux[690:710])
    assert np.log(line / wave[700]) / step == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(mean.resolution, 1800.0)


@pytest.mark.parametrize(
    ("velocities", "spread"),
    [([0.0, 1.0], 0.0), ([0.0, 1.2], 0.01), ([0.0, 0.4, 2.9], 0.14 / 3), ([0.0, 0.5], 0.0625), ([7.3], 0.0)],
)
def test_shifts_leave_the_least_broadening(velocities, spread):
    wave, step = LOG_LAMBDA.wavelength, LOG_LAMBDA.step * np.log(10.0)
    spectra = [Spectrum(wave, 1 + 0 * wave, 400 + 0 * wave) for _ in velocities]
    mean = stargap.stack(spectra, rv=299792.458 * np.expm1(np.array(velocities) * step))
    smear = 2.3548 * np.sqrt(spread) * step
    np.testing.assert_allclose(mean.resolution, (1800.0**-2 + smear**2) ** -0.5, rtol=2e-4)


def test_pixels_blueward_of_the_grid_are_shifted_too():
    wave = np.concatenate([BLUE_WAVELENGTH, LOG_LAMBDA.wavelength])
    step = LOG_LAMBDA.step * np.log(10.0)

    def star(pixels):
        return Spectrum(wave, np.where(np.arange(wave.size) == 20 + pixels, 0.5, 1.0), 400 + 0 * wave)

    mean = stargap.stack([star(0), star(0), star(3)], rv=299792.458 * np.expm1(np.array([0, 0, 3]) * step))
    np.testing.assert_allclose(mean.flux[19:24], [1.0, 1.0, 0.5, 1.0, 1.0], rtol=1e-6)
    edges = np.flatnonzero(np.diff(BLUE_WAVELENGTH) > 10.0)  # pixels beyond a stretch are not those of the next one
    np.testing.assert_allclose(mean.ivar[edges], 800.0, rtol=1e-6)


def test_spectra_weigh_by_their_pixels_on_the_grid():
    wave = LOG_LAMBDA.wavelength
    far = np.geomspace(4000.0, 5500.0, 3000)
    seen = Spectrum(wave, 1 + 0 * wave, 400 + 0 * wave)
    blue = Spectrum(np.concatenate([far, wave]), np.ones(3000 + wave.size), np.r_[1e4 + 0 * far, 0 * wave])
    mean = stargap.stack([seen, blue], rv=[0.0, 30.0])
    np.testing.assert_allclose(mean.resolution, 1800.0, rtol=1e-6)
    np.testing.assert_allclose(mean.wavelength[-1], wave[-1], rtol=1e-9)


def test_the_lowest_resolution_counts_and_facts_are_the_best_ones():
    wave = LOG_LAMBDA.wavelength
    line = np.where(np.abs(wave - 7000) < 1.0, 0.5, 1.0)
    good = Spectrum(wave, line, 400 + 0 * wave, Facts(path="a.fits", layout="sdss", ra=10.0, target_id=5))
    low = Spectrum(wave, line, 100 + 0 * wave, Facts(path="b.fits", layout="mrs"), np.full(wave.size, 1000.0))
    mean = stargap.stack([good, low], rv=[0.0, 0.0])
    np.testing.assert_allclose(mean.resolution, 1000.0)
    assert (mean.facts.path, mean.facts.layout, mean.facts.ra, mean.facts.target_id) == ("", "sdss", 10.0, 5)
    alone = stargap.stack([good], rv=[0.0])
    assert mean.flux.min() > alone.flux.min()
    np.testing.assert_allclose(np.median(mean.ivar), 500.0)
