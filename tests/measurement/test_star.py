"""A batch of spectra, good and bad, to rows of the schema (ROBUSTNESS cases 10-19, 22-25, 27, 30)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import stargap
from stargap.errors import SpectrumError
from stargap.features import FEATURES
from stargap.flags import Flag
from stargap.measurement.star import BATCH, measure_batch
from stargap.measurement.velocity import emulator_templates, measure_velocity
from stargap.mock.spectrographs import mock_wavelength
from stargap.pixels import SPEED_OF_LIGHT, WINDOWS, air_to_vacuum
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.readers.content import Content, check_spectrum
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.tables.columns import INT_NULL, MEASURED
from stargap.tables.conform import conform, validate

WAVE = mock_wavelength()
RV = 30.0
TRUTH = {"rv": RV, "teff": 3500.0, "logg": 4.8, "m_h": -0.1}
VALUES = ("rv", "teff", "logg", "m_h", "a_m", "chi2", "spt", "zeta", *(one.name for one in FEATURES))
HALPHA = air_to_vacuum(6562.801) * (1 + RV / SPEED_OF_LIGHT)
SPIKES = (6105.0, 6500.0, HALPHA, HALPHA - 4.0, 7000.0, 7133.0, 7500.0, 8400.0, 8800.0)


@pytest.fixture(scope="module")
def good(simulate):
    """Flux and ivar of one clean star of S/N 50."""
    labels = [[TRUTH["teff"], TRUTH["logg"], TRUTH["m_h"], 0.04]]
    star = simulate(1, seed=11, snr=50.0, labels=labels, rv=np.array([RV]), bad_pixels=False)
    return star.flux[0], star.ivar[0]


def between(low, high):
    return np.abs(WAVE - (low + high) / 2) < (high - low) / 2


def nearest(place):
    return np.abs(WAVE - place).argmin()


SOME = np.random.default_rng(1).random(WAVE.size) < 0.05
"""Pixels that are bad in one way or another."""


@pytest.fixture(scope="module")
def cases(good):
    """Name to flux and inverse variance, none of them cleaned."""
    flux, ivar = good
    one = np.where(np.arange(WAVE.size) == 2500, ivar, 0.0)
    made = {
        "good": (flux, ivar),
        "nan flux": (np.full_like(flux, np.nan), ivar),
        "infinite flux": (np.full_like(flux, np.inf), ivar),
        "nan ivar": (flux, np.full_like(ivar, np.nan)),
        "zero ivar": (flux, np.zeros_like(ivar)),
        "negative ivar": (flux, -ivar),
        "infinite ivar": (flux, np.full_like(ivar, np.inf)),
        "zero flux": (np.zeros_like(flux), ivar),
        "negative flux": (-flux, ivar),
        "one pixel": (flux, one),
        "constant flux": (np.full_like(flux, 1000.0), ivar),
        "negative in part": (np.where(between(7000, 7800), -flux, flux), ivar),
        "some zero ivar": (flux, np.where(SOME, 0.0, ivar)),
        "some nan flux": (np.where(SOME, np.nan, flux), ivar),
        "some infinite flux": (np.where(SOME, -np.inf, flux), ivar),
        "some nan ivar": (flux, np.where(SOME, np.nan, ivar)),
        "some negative ivar": (flux, np.where(SOME, -ivar, ivar)),
        "some infinite ivar": (flux, np.where(SOME, np.inf, ivar)),
        "gap over TiO5": (flux, np.where(between(7120, 7145), 0.0, ivar)),
        "gap over its reference": (flux, np.where(between(7040, 7052), 0.0, ivar)),
        "gap over H-alpha": (flux, np.where(between(6558, 6572), 0.0, ivar)),
        "times 2^100": (np.ldexp(flux, 100), np.ldexp(ivar, -200)),
        "times 1e-30": (flux * 1e-30, ivar * 1e60),
        "times 1e30": (flux * 1e30, ivar * 1e-60),
        "times 1e-160": (flux * 1e-160, np.full_like(ivar, np.inf)),
        "times 1e160": (flux * 1e160, np.zeros_like(ivar)),
        "denormal flux": (flux * 1e-315, ivar),
        "denormal ivar": (flux, np.full_like(ivar, 5e-324)),
    }
    for place in SPIKES:
        pixel = nearest(place)
        for sign, name in ((1, "up"), (-1, "down")):
            spiky = flux.copy()
            spiky[pixel] += sign * 1e6 / np.sqrt(ivar[pixel])
            made[f"spike {name} at {place:.0f}"] = (spiky, ivar)
        made[f"dead at {place:.0f}"] = (flux, np.where(np.arange(WAVE.size) == pixel, 0.0, ivar))
    for window in WINDOWS:
        shift = 1 + RV / SPEED_OF_LIGHT if window.frame == "rest" else 1.0
        hidden = between(window.low * shift + 3, window.high * shift - 3)
        made[f"without {window.low:.0f}"] = (flux, np.where(hidden, 0.0, ivar))
    return made


NOTHING = (
    "nan flux", "infinite flux", "nan ivar", "zero ivar", "negative ivar", "infinite ivar", "zero flux",
    "negative flux", "one pixel", "times 1e-160", "times 1e160", "denormal flux", "denormal ivar",
)  # fmt: skip
"""Cases of which nothing can be measured."""


@pytest.fixture(scope="module")
def by_arrays(cases):
    flux, ivar = (np.array(side) for side in zip(*cases.values(), strict=True))
    return stargap.measure(flux, wavelength=WAVE, ivar=ivar, model="emulator").arrays()


@pytest.fixture(scope="module")
def by_reader(cases, settings, emulator):
    """The same through what every reader ends with."""
    dead = np.zeros(WAVE.size)
    facts = Facts(layout="arrays")
    read = [check_spectrum(Content(WAVE, *arrays, dead, facts), "a.fits") for arrays in cases.values()]
    return measure_batch(read, settings, emulator)[0]


@pytest.fixture(scope="module")
def row_of(cases, by_arrays):
    """Name of a case to its row as a dictionary."""

    def pick(name):
        row = list(cases).index(name)
        return {column: values[row] for column, values in by_arrays.items()}

    return pick


def has(row, flag):
    return bool(row["flags"] & int(flag))


def close(row, other, tolerance, names=("rv", "teff", "logg", "m_h")):
    """Names of the values that differ by more than `tolerance` errors."""
    off = {name: abs(row[name] - other[name]) / other[f"e_{name}"] for name in names}
    return {name: value for name, value in off.items() if not value < tolerance}


def test_both_ways_in_give_the_same_bits(by_arrays, by_reader, differences):
    assert differences(by_arrays, by_reader) == []


def test_every_column_is_there_and_valid(by_arrays, by_reader, batch, cases):
    for columns, count in ((by_arrays, len(cases)), (by_reader, len(cases)), (batch[0], 128)):
        assert list(columns) == [column.name for column in MEASURED]
        assert {len(values) for values in columns.values()} == {count}
        assert validate(conform(columns)) == []


def test_the_good_star_is_right_and_has_no_flags(row_of):
    row = row_of("good")
    assert close(row, {**row, **TRUTH}, 4.0) == {}
    assert row["flags"] == int(Flag.SN_FROM_IVAR)
    assert row["flag_text"] == Flag.describe(row["flags"])


# --- nothing to measure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTHING)
def test_without_good_pixels_everything_is_null_and_says_why(name, row_of):
    row = row_of(name)
    for value in VALUES:
        assert np.isnan(row[value])
        assert value == "chi2" or np.isnan(row[f"e_{value}"])
    assert (row["activity"], row["activity_3sigma"]) == (INT_NULL, INT_NULL)
    for flag in (Flag.TOO_FEW_PIXELS, Flag.MANY_BAD_PIXELS, Flag.NO_SUBTYPE, Flag.NO_HALPHA):
        assert has(row, flag)
    assert not has(row, Flag.UNREADABLE)
    assert row["bad_fraction"] > 0.99
    assert row["failure"] == ""


@pytest.mark.parametrize("name", ["zero flux", "negative flux", "negative in part"])
def test_a_continuum_that_is_not_positive_is_flagged(name, row_of):
    assert has(row_of(name), Flag.BAD_CONTINUUM)
    assert not has(row_of("good"), Flag.BAD_CONTINUUM)


def test_a_star_negative_in_part_keeps_the_other_part(row_of):
    row = row_of("negative in part")
    assert has(row, Flag.MANY_BAD_PIXELS)
    assert np.isfinite([row["rv"], row["teff"]]).all()
    assert np.isnan(row["tio5"])
    assert close(row, row_of("good"), 3.0, ("halpha_ew",)) == {}


def test_constant_flux_has_no_velocity_signal(row_of):
    row = row_of("constant flux")
    assert has(row, Flag.RV_WEAK)
    assert has(row, Flag.TEFF_AT_BOUND | Flag.LOGG_AT_BOUND | Flag.M_H_AT_BOUND)
    assert row["tio5"] == pytest.approx(1.0, abs=1e-6)
    assert row["halpha_ew"] == pytest.approx(0.0, abs=1e-5)


# --- some pixels are bad ----------------------------------------------------------------------------------------

WAYS = ("some nan flux", "some infinite flux", "some nan ivar", "some negative ivar", "some infinite ivar")


@pytest.mark.parametrize("name", WAYS)
def test_a_bad_pixel_is_a_bad_pixel(name, cases, by_arrays, differences):
    names = list(cases)
    rows = (slice(i, i + 1) for i in (names.index(name), names.index("some zero ivar")))
    assert differences(by_arrays, by_arrays, *rows) == []


def test_some_bad_pixels_do_not_hurt(row_of):
    row = row_of("some zero ivar")
    # a pixel of 1 A needs two native ones, and one pixel in 20 is bad
    assert 0.05 < row["bad_fraction"] < 0.15
    assert close(row, row_of("good"), 1.5) == {}


@pytest.mark.parametrize("name", ["gap over TiO5", "gap over its reference"])
def test_a_gap_over_tio5_gives_null_and_not_zero(name, row_of):
    row, whole = row_of(name), row_of("good")
    assert np.isnan([row["tio5"], row["e_tio5"], row["spt"], row["e_spt"], row["zeta"]]).all()
    assert has(row, Flag.NO_SUBTYPE)
    assert not has(row, Flag.NO_HALPHA)
    assert close(row, whole, 1.5) == {}


def test_a_gap_over_halpha_gives_null_and_not_zero(row_of):
    row, whole = row_of("gap over H-alpha"), row_of("good")
    assert np.isnan([row["halpha_ew"], row["e_halpha_ew"]]).all()
    assert (row["activity"], row["activity_3sigma"]) == (INT_NULL, INT_NULL)
    assert has(row, Flag.NO_HALPHA)
    assert not has(row, Flag.NO_SUBTYPE)
    assert close(row, whole, 0.5, ("rv", "teff", "logg", "m_h", "tio5", "spt")) == {}


@pytest.mark.parametrize("sign", ["up", "down"])
@pytest.mark.parametrize("place", SPIKES)
def test_a_spike_counts_as_a_dead_pixel(place, sign, row_of):
    row, dead, whole = (row_of(name) for name in (f"spike {sign} at {place:.0f}", f"dead at {place:.0f}", "good"))
    assert close(row, dead, 0.05) == {}
    assert close(row, whole, 3.0, ("rv", "teff", "logg", "m_h", "tio5")) == {}
    assert np.isnan(row["halpha_ew"]) == (abs(place - air_to_vacuum(6562.801)) < 7)
    assert has(row, Flag.SPIKES_REMOVED)
    assert not has(row, Flag.ACTIVE)


def test_emission_is_no_spike(simulate, spectra, settings, emulator):
    """H-alpha of 25 A in a star of S/N 200, shifted through every phase of a pixel."""
    stars = simulate(24, seed=17, snr=200.0, rv=np.linspace(0, 69, 24), bad_pixels=False)
    apart = WAVE / (1 + stars.rv[:, None] / SPEED_OF_LIGHT) - air_to_vacuum(6562.801)
    level = np.median(stars.flux[:, between(6540, 6590)], axis=1, keepdims=True)
    width = 6564.6 / 1800 / 2.355
    line = 25.0 * np.exp(-0.5 * (apart / width) ** 2) / (width * np.sqrt(2 * np.pi))
    columns, _ = measure_batch(spectra(replace(stars, flux=stars.flux + level * line)), settings, emulator)
    plain, _ = measure_batch(spectra(stars), settings, emulator)
    assert not (columns["flags"] & int(Flag.SPIKES_REMOVED)).any()
    assert (columns["flags"] & int(Flag.ACTIVE)).all()
    grown = columns["halpha_ew"] - plain["halpha_ew"]
    np.testing.assert_allclose(grown, 25.0, rtol=0.1)  # the median level is not the one at the line


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"{window.low:.0f}")
def test_a_masked_window_changes_nothing(window, row_of):
    row = row_of(f"without {window.low:.0f}")
    # the flux unit is a median over all pixels, so the last bits may differ
    assert close(row, row_of("good"), 0.05) == {}
    assert row["bad_fraction"] == row_of("good")["bad_fraction"]


# --- numbers of any size ----------------------------------------------------------------------------------------


def test_a_power_of_two_changes_no_bit(cases, by_arrays, differences):
    names = list(cases)
    rows = (slice(i, i + 1) for i in (names.index("times 2^100"), names.index("good")))
    assert differences(by_arrays, by_arrays, *rows) == []


@pytest.mark.parametrize("name", ["times 1e-30", "times 1e30"])
def test_the_unit_of_flux_does_not_matter(name, row_of):
    row, whole = row_of(name), row_of("good")
    assert close(row, whole, 0.05, ("rv", "teff", "logg", "m_h", "tio5", "halpha_ew")) == {}
    assert row["flags"] == whole["flags"]


def test_at_the_lowest_snr_rows_are_valid_and_flagged(simulate, spectra, settings, emulator):
    stars = simulate(36, seed=18, snr=np.repeat([0.01, 0.1, 1.0], 12), bad_pixels=False)
    columns, _ = measure_batch(spectra(stars), settings, emulator)
    assert validate(conform(columns)) == []
    assert (columns["flags"] & int(Flag.LOW_SN)).all()
    doubtful = Flag.RV_WEAK | Flag.RV_AMBIGUOUS | Flag.RV_EDGE | Flag.TOO_FEW_PIXELS
    assert ((columns["flags"] & int(doubtful)) > 0).mean() > 0.9
    known = np.isfinite(columns["teff"])
    assert (columns["e_teff"][known] > 50).all()


def test_noise_alone_gives_valid_rows(settings, emulator):
    rng = np.random.default_rng(19)
    noise = [Spectrum(WAVE, rng.normal(0, 1, WAVE.size), np.ones(WAVE.size)) for _ in range(40)]
    columns, _ = measure_batch(noise, settings, emulator)
    assert validate(conform(columns)) == []
    assert (columns["flags"] & int(Flag.RV_WEAK)).all()


def test_at_the_highest_snr_labels_are_those_of_a_bright_star(simulate, spectra, settings, emulator):
    labels = [[TRUTH["teff"], TRUTH["logg"], TRUTH["m_h"], 0.04]] * 2
    stars = simulate(2, seed=20, snr=[200.0, 10_000.0], labels=labels, rv=np.full(2, RV), bad_pixels=False)
    columns, _ = measure_batch(spectra(stars), settings, emulator)
    bright, best = ({name: values[row] for name, values in columns.items()} for row in (0, 1))
    assert close(best, bright, 4.0) == {}
    assert close({**best, **TRUTH}, bright, 4.0) == {}
    assert best["flags"] == bright["flags"] == int(Flag.SN_FROM_IVAR)
    assert 0 < best["e_teff"] < 0.1 * bright["e_teff"]


# --- batches ----------------------------------------------------------------------------------------------------


def test_labels_and_velocities_of_a_batch_are_honest(whole, mixed):
    bright = np.isfinite(whole["teff"]) & (mixed.snr >= 10)
    assert bright.sum() > 60
    for place, name in enumerate(("teff", "logg", "m_h")):
        pulls = ((whole[name] - mixed.labels[:, place]) / whole[f"e_{name}"])[bright]
        assert abs(np.median(pulls)) < 0.45  # 70 stars: 0.15
        assert 0.6 < 1.4826 * np.median(np.abs(pulls - np.median(pulls))) < 1.5


def test_velocities_are_measured_again_at_the_stars_own_labels(simulate, spectra, settings, emulator):
    stars = simulate(48, seed=23, snr=300.0, bad_pixels=False)
    columns, _ = measure_batch(spectra(stars), settings, emulator)
    once = measure_velocity(to_log_lambda(spectra(stars)), emulator_templates(emulator)).rv.numpy()
    assert (columns["rv"] - stars.rv).std() < 0.7 * (once - stars.rv).std()


def test_starts_that_disagree_are_flagged(whole):
    """They belong to the coarse fit, whose flags the final one has to carry on."""
    doubtful = (whole["flags"] & int(Flag.STARTS_DISAGREE)) > 0
    assert doubtful.any()
    assert (whole["snr_i"][doubtful] < 30).all()


def test_bad_stars_leave_the_others_alone(numbered, whole, settings, emulator, differences, cases):
    rng = np.random.default_rng(22)
    trouble = {
        0: SpectrumError("a.fits", "the file is empty"),
        1: Spectrum(WAVE, np.zeros(WAVE.size), np.zeros(WAVE.size)),
        30: Spectrum(WAVE, rng.normal(0, 1, WAVE.size), np.ones(WAVE.size)),
        63: Spectrum(WAVE, np.ones(WAVE.size), np.full(WAVE.size, 1e4)),
        64: Spectrum(WAVE, -cases["good"][0], cases["good"][1]),
        65: Spectrum(WAVE, np.exp((WAVE - 7000) / 20), np.exp((7000 - WAVE) / 10)),
        100: Spectrum(np.array([3000.0, 3001.0]), np.ones(2), np.ones(2)),
        127: Spectrum(WAVE, cases["good"][0] * rng.choice([1, 1e6], WAVE.size), cases["good"][1]),
    }
    items = [trouble.get(row, star) for row, star in enumerate(numbered)]
    columns, _ = measure_batch(items, settings, emulator)
    others = np.array([row not in trouble for row in range(len(items))])
    assert differences(columns, whole, others, others) == []
    assert columns["spectrum_id"].tolist() == list(range(128))
    assert columns["failure"][[0, 100]].tolist() == ["the file is empty", "its wavelengths do not overlap 6000-8900 A"]
    unread = (columns["flags"] & int(Flag.UNREADABLE)) > 0
    assert np.flatnonzero(unread).tolist() == [0, 100]


def test_order_does_not_matter(numbered, whole, settings, emulator, differences):
    order = np.random.default_rng(1).permutation(len(numbered))
    columns, _ = measure_batch([numbered[row] for row in order], settings, emulator)
    assert differences(columns, whole, slice(None), order) == []


@pytest.mark.parametrize("rows", [[0], [127], [50, 3]], ids=len)
def test_the_size_of_a_batch_does_not_matter(rows, numbered, whole, settings, emulator, differences):
    columns, _ = measure_batch([numbered[row] for row in rows], settings, emulator)
    assert differences(columns, whole, slice(None), rows) == []


def test_failed_rows_shift_nothing(numbered, whole, settings, emulator, differences):
    """Errors between the stars, and every star's row is found by its facts."""
    items = []
    for row, star in enumerate(numbered[:30]):
        if row % 3 == 0:
            items.append(SpectrumError(f"bad-{row}.fits", "damaged content (OSError)"))
        items.append(star)
    columns, _ = measure_batch(items, settings, emulator, first_id=500)
    assert columns["spectrum_id"].tolist() == list(range(500, 500 + len(items)))
    read = columns["failure"] == ""
    assert columns["path"][read].tolist() == [f"{row}.fits" for row in range(30)]
    assert columns["obsid"][read].tolist() == list(range(1000, 1030))
    assert differences(columns, whole, read, slice(30)) == []
    for row in np.flatnonzero(~read):
        assert columns["path"][row].startswith("bad-")
        assert columns["flags"][row] == int(Flag.UNREADABLE)
        assert columns["flag_text"][row] == "the file could not be read"
        assert all(np.isnan(columns[name][row]) for name in VALUES)
        assert columns["obsid"][row] == INT_NULL
        assert np.isnan(columns["bad_fraction"][row])


def test_no_spectra_give_every_column_and_no_row(settings, emulator):
    columns, _ = measure_batch([], settings, emulator)
    assert list(columns) == [column.name for column in MEASURED]
    assert {values.shape for values in columns.values()} == {(0,)}
    assert validate(conform(columns)) == []


def test_a_batch_has_a_largest_size(settings, emulator):
    with pytest.raises(ValueError, match="257 spectra in a batch of 256"):
        measure_batch([SpectrumError("a", "b")] * (BATCH + 1), settings, emulator)


def test_sentences_are_those_of_the_flags(whole):
    assert whole["flag_text"].tolist() == [Flag.describe(int(bits)) for bits in whole["flags"]]


# --- facts and settings -----------------------------------------------------------------------------------------


def test_noise_of_lamost_is_larger_than_it_says(good, settings, emulator):
    layouts = ("arrays", "sdss", "lamost-dr1", "lamost-image", "lamost-table")
    made = [Spectrum(WAVE, *good, Facts(layout=layout)) for layout in layouts]
    columns, _ = measure_batch(made, settings, emulator)
    for name in VALUES:
        values = columns[name]
        assert (values == values[0]).all()
        if name == "chi2":
            continue
        errors = columns[f"e_{name}"]
        assert errors[1] == errors[0]
        expected = 1.5 * errors[0]
        np.testing.assert_allclose(
            errors[2:], np.hypot(expected, settings.lamost_rv_floor) if name == "rv" else expected
        )


def test_a_velocity_in_an_unknown_frame_is_not_used(good, settings, emulator):
    facts = (Facts(layout="sdss-mwm"), Facts(layout="sdss-mwm", frame="rest"))
    columns, _ = measure_batch([Spectrum(WAVE, *good, fact) for fact in facts], settings, emulator)
    assert columns["use_rv"].tolist() == [1, 0]
    assert columns["use_teff"].tolist() == [1, 1]
    assert [bool(flags & Flag.FRAME_UNKNOWN) for flags in columns["flags"].tolist()] == [False, True]


def test_snr_of_the_header_is_kept_and_judged(good, settings, emulator):
    levels = ((50.0, 60.0), (4.9, 60.0), (50.0, 4.9), (None, 60.0), (5.0, 5.0))
    facts = [Facts(layout="arrays", snr_r=r, snr_i=i, snr_source="header") for r, i in levels]
    columns, _ = measure_batch([Spectrum(WAVE, *good, fact) for fact in facts], settings, emulator)
    low = (columns["flags"] & int(Flag.LOW_SN)) > 0
    assert low.tolist() == [False, True, True, True, False]
    assert not (columns["flags"] & int(Flag.SN_FROM_IVAR)).any()
    np.testing.assert_array_equal(columns["snr_r"], [50.0, 4.9, 50.0, np.nan, 5.0])


def test_active_stars_are_flagged(batch, mixed):
    columns, _ = batch
    active = (columns["flags"] & int(Flag.ACTIVE)) > 0
    np.testing.assert_array_equal(active, columns["activity_3sigma"] == 1)
    measured = columns["activity_3sigma"] >= 0
    strong = measured & (mixed.halpha_ew > 4) & (mixed.snr >= 10)
    assert strong.sum() >= 5
    assert active[strong].all()
    assert not active[measured & (mixed.halpha_ew == 0) & (columns["halpha_ew"] < 0.75)].any()


@pytest.mark.parametrize(
    "options",
    [{"preset": "paper"}, {"fixed": {"logg": 4.8}}, {"free_alpha": True}, {"starts": 1}, {"max_iterations": 1}],
    ids=str,
)
def test_other_settings_give_valid_rows(options, numbered, emulator):
    columns, fitted = measure_batch(numbered[:8], MeasureSettings(**options), emulator)
    assert validate(conform(columns)) == []
    assert np.isfinite(columns["teff"]).sum() > 5
    assert fitted.prepared.grid.name == options.get("preset", "stargap")
    late = (columns["flags"] & int(Flag.NOT_CONVERGED)) > 0
    assert late.any() == (options == {"max_iterations": 1})
    if "fixed" in options:
        assert set(columns["logg"][np.isfinite(columns["teff"])]) == {4.8}
    if "free_alpha" in options:
        assert (columns["e_a_m"][np.isfinite(columns["teff"])] > 0).all()


def test_what_was_fitted_is_handed_over_row_by_row(batch):
    columns, fitted = batch
    assert len(fitted.native) == 128
    np.testing.assert_array_equal(columns["teff"], fitted.fit.labels[:, 0])
    residual = (fitted.prepared.flux - fitted.fit.model) / torch.hypot(fitted.prepared.sigma, torch.tensor(0.015))
    used = fitted.prepared.good & torch.isfinite(fitted.fit.model)
    chi2 = torch.where(used, residual.square(), 0.0).sum(dim=1) / (fitted.prepared.good.sum(dim=1) - 3)
    known = np.isfinite(columns["chi2"])
    np.testing.assert_allclose(chi2.numpy()[known], columns["chi2"][known], rtol=1e-4)
