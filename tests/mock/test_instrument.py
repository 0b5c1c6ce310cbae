"""The survey telescope: noise, line spread, defects and activity are what the truth says, and follow from the seed."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.stars import prepared_stars

from stargap.errors import UsageError
from stargap.labels import TEFF
from stargap.measurement.halpha import measure_halpha
from stargap.mock import instrument
from stargap.mock.instrument import Truth, observe, simulate, simulate_prepared
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.mock.spectrographs import lamost_power
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP, WINDOWS
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.readers.content import snr_by_band
from stargap.theory.emulator import shipped_emulator

SEED, COUNT = 4, 400
WAVE = LOG_LAMBDA.wavelength
SIGMA_PER_FWHM = 0.42466090014400953


@pytest.fixture(scope="module")
def nature():
    return shipped_nature()


@pytest.fixture(scope="module")
def stars():
    return nature_labels(COUNT, seed=3)


@pytest.fixture(scope="module")
def observed(nature, stars):
    """Truth, flux, ivar and noiseless flux of 400 stars as the instrument leaves them."""
    truth = instrument._draw_truth(*stars, SEED)
    return truth, *observe(nature, truth, WAVE, seed=9)


@pytest.fixture(scope="module")
def simulated(nature, stars):
    parts = list(simulate(*stars, nature, seed=SEED))
    natives = [part[1] for part in parts]
    together = NativeBatch(*(torch.cat([getattr(n, f.name) for n in natives]) for f in fields(NativeBatch)))
    return joined([part[0] for part in parts]), together, np.concatenate([part[2] for part in parts])


def joined(parts):
    return Truth(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Truth)))


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


# ---- the truth


@pytest.fixture(scope="module")
def many():
    labels, active = nature_labels(20_000, seed=3)
    return instrument._draw_truth(labels, active, SEED)


def test_sixty_percent_of_the_stars_are_below_s_n_20(many):
    assert np.mean(many.snr_r < 20) == pytest.approx(0.61, abs=0.02)
    assert many.snr_r.min() >= 5
    assert many.snr_r.max() < 300
    assert many.snr_i.min() >= 5
    ratio = many.snr_i / many.snr_r
    cool = many.labels[:, TEFF] < 3300
    assert np.median(ratio[cool]) > 1.2 * np.median(ratio[~cool])


def test_velocities_are_those_of_a_survey_and_used_with_their_error(many):
    assert np.abs(many.rv).max() <= 250
    assert np.median(many.rv) == pytest.approx(-5.5, abs=1.5)
    assert 1.4826 * np.median(np.abs(many.rv - np.median(many.rv))) == pytest.approx(37, abs=2)
    pull = (many.rv_used - many.rv) / np.hypot(3.0, 60.0 / many.snr_i)
    assert pull.std() == pytest.approx(1.0, abs=0.02)
    assert pull.mean() == pytest.approx(0.0, abs=0.03)


def test_resolution_is_that_of_the_fibre(many):
    assert set(many.spectrograph) == set(range(1, 17))
    assert set(many.fibre) == set(range(1, 251))
    assert np.median(many.resolution) == pytest.approx(1780, abs=40)
    assert many.resolution.min() >= 1500
    assert many.resolution.max() <= 2150
    own = (many.spectrograph == many.spectrograph[0]) & (many.fibre == many.fibre[0])
    assert len(set(many.resolution[own])) == 1
    one, middle, last = lamost_power(np.full(3, 2), np.array([1, 125, 250]), np.array(7500.0))
    assert middle - one == pytest.approx(120, abs=5)
    assert one == pytest.approx(last)
    blue, red = lamost_power(np.array([2]), np.array([100]), np.array([6000.0, 8900.0]))[0]
    assert 1500 <= blue != red <= 2150


# ---- noise


def test_the_measured_s_n_is_the_true_one(simulated):
    truth, native, _ = simulated
    pairs = zip(native.flux.double().numpy(), native.ivar.double().numpy(), strict=True)
    found = [snr_by_band(WAVE, flux, ivar) for flux, ivar in pairs]
    for name in ("snr_r", "snr_i"):
        ratio = np.array([star[name] for star in found]) / getattr(truth, name)
        assert np.median(ratio) == pytest.approx(1.0, abs=0.05)
        assert np.mean(np.abs(ratio - 1) < 0.15) > 0.99


def test_noise_is_as_the_inverse_variance_says_but_for_sky_lines_and_cosmic_hits(observed):
    _, flux, ivar, clean = observed
    pull = np.where(ivar > 0, (flux - clean) * np.sqrt(ivar), np.nan)
    sky = instrument._sky(WAVE)
    plain = pull[:, sky < 0.02]
    plain = plain[np.isfinite(plain)]
    hits = np.abs(plain) > 6
    assert plain[~hits].std() == pytest.approx(1.0, abs=0.03)
    assert plain[~hits].mean() == pytest.approx(0.0, abs=0.01)
    assert hits.sum() < 0.33 * COUNT * 1.3
    for low, high in ((0.3, 0.6), (0.9, 1.1)):
        under = pull[:, (sky >= low) & (sky < high)]
        under = under[np.isfinite(under) & (np.abs(under) < 8)]
        strength = np.mean(sky[(sky >= low) & (sky < high)] ** 2)
        assert under.std() == pytest.approx(np.sqrt(1 + 0.64 * strength), rel=0.06)


def test_noise_is_white(observed):
    _, flux, ivar, clean = observed
    pull = ((flux - clean) * np.sqrt(ivar))[:, WAVE < 7200].clip(-5, 5)
    assert np.mean(pull[:, 1:] * pull[:, :-1]) == pytest.approx(0.0, abs=0.02)


def test_one_star_in_three_has_a_cosmic_hit(observed):
    truth, flux, ivar, clean = observed
    bright = truth.snr_i > 60
    pull = (flux - clean) * np.sqrt(ivar)
    hit = (pull > 6).any(axis=1)
    assert hit[bright].mean() == pytest.approx(0.32, abs=0.13)
    assert ((pull > 6).sum(axis=1) <= 2).all()
    assert (pull > -6).all()


def test_dead_and_saturated_pixels_have_no_weight(observed, simulated):
    truth, flux, ivar, _ = observed
    dead = ivar == 0
    assert (ivar[~dead] > 0).all()
    assert ((flux[dead] >= 0) & (flux[dead] <= 3)).all()
    few = dead.sum(axis=1) < 40
    assert dead[few].mean() == pytest.approx(0.002, abs=0.0003)
    bright = truth.snr_r > 80
    assert (~few)[~bright].mean() < 0.03
    _, native, _ = simulated
    assert (native.flux[native.ivar == 0] == 0).all()
    assert bool((native.ivar >= 0).all())


def test_bright_stars_saturate_more_often(nature, stars):
    labels, active = stars
    bright = replace(instrument._draw_truth(labels, active, SEED), snr_r=np.full(COUNT, 150.0))
    blocks = [(ivar == 0).sum(axis=1) >= 40 for ivar in (observe(nature, bright, WAVE, seed=s)[1] for s in (1, 2))]
    assert np.mean(blocks) == pytest.approx(0.1, abs=0.035)


# ---- line spread


def test_a_narrow_line_is_as_wide_as_the_resolution_says():
    support, middles = STARGAP.support, np.array([6030.0, 6450.0, 7050.0, 7520.0, 8000.0, 8500.0, 8880.0])
    own = SIGMA_PER_FWHM * middles / 2600.0
    lines = 1 + np.exp(-0.5 * ((support[:, None] - middles) / own) ** 2).sum(axis=1)
    nature = SimpleNamespace(
        flux=lambda labels: torch.as_tensor(lines, dtype=torch.float32).expand(len(labels), -1).clone(),
        card=SimpleNamespace(resolution=2600.0),
    )
    labels = np.tile([3500.0, 4.8, 0.0, 0.0], (40, 1))
    truth = instrument._draw_truth(labels, np.zeros(40, dtype=bool), SEED)
    truth = replace(truth, rv=np.linspace(-150.0, 150.0, 40))
    clean = observe(nature, truth, WAVE, seed=1)[2]
    resolution = lamost_power(truth.spectrograph, truth.fibre, support)
    assert resolution.min() >= 1500
    assert resolution.max() <= 2150
    for row in range(40):
        rest = WAVE / (1 + truth.rv[row] / SPEED_OF_LIGHT)
        for middle in middles:
            near = np.abs(rest - middle) < 18
            x, y = rest[near] - middle, clean[row, near].astype(float)
            side = np.abs(x) > 11
            y = y / np.polyval(np.polyfit(x[side], y[side], 1), x) - 1
            found = np.sqrt((y * x**2).sum() / y.sum() - ((y * x).sum() / y.sum()) ** 2)
            wanted = SIGMA_PER_FWHM * middle / np.interp(middle, support, resolution[row])
            assert found == pytest.approx(wanted, rel=0.03), (row, middle)


def test_a_nature_less_resolved_than_the_fibres_is_refused(stars):
    truth = instrument._draw_truth(*stars, SEED)
    with pytest.raises(UsageError, match="nature has R = 1800, and fibres up to 2"):
        observe(shipped_emulator(), truth, WAVE, seed=1)


def test_calibration_and_tellurics_are_off_by_a_few_percent(nature, stars):
    truth = instrument._draw_truth(*stars, SEED)
    rng = np.random.default_rng(1)
    calibration = instrument._calibration(rng, truth.spectrograph, WAVE, (0.06, 0.03))
    assert np.log(calibration).std() == pytest.approx(0.07, abs=0.02)
    assert np.abs(np.diff(np.log(calibration))).max() < 2e-3, "smooth"
    tellurics = instrument._tellurics(rng, COUNT, WAVE)
    off = np.abs(tellurics - 1).max(axis=0) > 0
    near = np.zeros(WAVE.size, dtype=bool)
    for window in WINDOWS:
        if window.frame == "observed":
            near |= np.abs(WAVE - (window.low + window.high) / 2) < (window.high - window.low) / 2 + 5
    assert (off == near).all()
    assert 0.02 < tellurics[:, off].std() < 0.045


# ---- activity


def test_h_alpha_is_in_emission_in_active_stars_alone(nature, stars):
    labels, _ = stars
    active = np.arange(COUNT) % 2 == 0
    truth = replace(instrument._draw_truth(labels, active, SEED), rv=np.zeros(COUNT))
    noise_free = observe(nature, truth, WAVE, seed=5)[2]
    quiet = observe(nature, replace(truth, active=np.zeros(COUNT, dtype=bool)), WAVE, seed=5)[2]
    ones = torch.full((COUNT, WAVE.size), 1e8)
    width, still = (
        measure_halpha(
            NativeBatch(torch.as_tensor(flux), ones, torch.ones(COUNT), torch.zeros(COUNT)), torch.zeros(COUNT)
        ).width.numpy()
        for flux in (noise_free, quiet)
    )
    assert (width[active] - still[active] > 0.6).all()
    assert np.median(width[active] - still[active]) == pytest.approx(2.5, rel=0.25)
    assert (still < 0.75).all()
    np.testing.assert_allclose(width[~active], still[~active], atol=0.15)  # calibrations differ: the noise is another


# ---- seeds and chunks


def test_equal_seeds_give_equal_spectra(nature, stars, simulated):
    truth, native, clean = simulated
    parts = list(simulate(*stars, nature, seed=SEED))
    assert same(joined([part[0] for part in parts]), truth)
    assert torch.equal(torch.cat([part[1].flux for part in parts]), native.flux)
    assert torch.equal(torch.cat([part[1].ivar for part in parts]), native.ivar)
    assert (np.concatenate([part[2] for part in parts]) == clean).all()
    other = next(simulate(*stars, nature, seed=SEED + 1))
    assert not (other[0].rv == parts[0][0].rv).any()
    assert not torch.equal(other[1].flux, parts[0][1].flux)


def test_chunks_have_noise_of_their_own(nature, stars, monkeypatch):
    labels, active = (array[:20] for array in stars)
    monkeypatch.setattr(instrument, "CHUNK", 10)
    noise = []
    for _, native, clean in simulate(labels, active, nature, seed=SEED):
        scaled = clean[:, 400:700] / native.scale.numpy()[:, None]
        noise.append(
            ((native.flux.numpy()[:, 400:700] - scaled) * np.sqrt(native.ivar.numpy()[:, 400:700])).clip(-5, 5)
        )
    assert len(noise) == 2
    both = np.corrcoef(*noise)
    assert np.abs(both - np.eye(20)).max() < 0.3


def test_chunks_do_not_change_the_truth_of_a_star(nature, stars, simulated, monkeypatch):
    labels, active = stars
    monkeypatch.setattr(instrument, "CHUNK", 150)
    parts = list(simulate(labels, active, nature, seed=SEED))
    assert [len(part[0].rv) for part in parts] == [150, 150, 100]
    assert same(joined([part[0] for part in parts]), simulated[0])
    assert (simulated[0].labels == labels).all()
    assert (simulated[0].active == active).all()


def test_simulated_stars_are_prepared_at_the_velocity_they_are_used_at(nature, stars):
    labels, active = (array[:300] for array in stars)
    spectra = simulate_prepared(labels, active, nature, seed=SEED)
    assert len(spectra) == 300
    first = 0
    for part, star, noiseless in prepared_stars(labels, active, nature, seed=SEED):
        kept = PreparedSpectra.from_prepared(star, part.rv_used)
        assert same(kept, spectra[first : first + len(kept)])
        distance = torch.where(star.good, (star.flux - noiseless).abs() / star.sigma, 0.0).sum(dim=1)
        typical = (distance / star.good.sum(dim=1)).numpy()
        assert np.median(typical) == pytest.approx(0.75, abs=0.1), "noise alone, of resampled pixels"
        first += len(kept)
    assert first == 300
