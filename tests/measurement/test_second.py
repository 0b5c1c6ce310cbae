"""A second star in the spectrum: plain least squares, binaries made of two emulator spectra, single stars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stargap.flags import Flag
from stargap.measurement.halpha import beyond_saturation
from stargap.measurement.second import is_double, second_star
from stargap.measurement.star import measure_batch
from stargap.measurement.velocity import normalised_pair, templates_at
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, air_to_vacuum
from stargap.spectra.log_lambda import to_log_lambda

COUNT = 32
LABELS = np.array([[3300.0 + 25.0 * k, 4.85 - 0.005 * k, -0.1, 0.04] for k in range(COUNT)])
APART = np.where(np.arange(COUNT) % 2, 1.0, -1.0) * np.linspace(180.0, 420.0, COUNT)
"""Velocities of the second stars less those of the first (km/s)."""


@pytest.fixture(scope="module")
def singles(simulate):
    return simulate(COUNT, seed=5, snr=60.0, labels=LABELS, rv=np.linspace(-60.0, 60.0, COUNT), bad_pixels=False)


@pytest.fixture(scope="module")
def binaries(simulate, singles):
    """The same stars with the light of others 150 K cooler, 0.7 times as bright at 7500 A."""
    cooler = LABELS - [150.0, -0.04, 0.0, 0.0]
    rv = singles.rv + APART
    seconds = simulate(COUNT, seed=6, snr=60.0, labels=cooler, rv=rv, bad_pixels=False)
    near = np.abs(singles.wavelength - 7500.0) < 100.0
    level, other = (np.median(star.flux[:, near], axis=1, keepdims=True) for star in (singles, seconds))
    factor = 0.7 * level / other
    ivar = 1 / (1 / singles.ivar + factor**2 / seconds.ivar)
    return replace(singles, flux=singles.flux + factor * seconds.flux, ivar=ivar)


@pytest.fixture(scope="module")
def measured(spectra, singles, binaries, settings, emulator):
    return measure_batch([*spectra(singles), *spectra(binaries)], settings, emulator)[0]


def test_binaries_are_marked_and_single_stars_are_not(measured):
    double = (measured["flags"] & int(Flag.DOUBLE_LINED)) > 0
    assert double[:COUNT].sum() == 0
    assert double[COUNT:].sum() >= COUNT - 3
    assert not measured["use_teff"][COUNT:][double[COUNT:]].any()


def test_the_second_velocity_is_that_of_the_second_star(measured):
    double = (measured["flags"][COUNT:] & int(Flag.DOUBLE_LINED)) > 0
    off = (measured["second_dv"][COUNT:] - APART)[double]
    assert np.median(np.abs(off)) < 30.0  # the first star's velocity is pulled towards the second by as much
    assert (np.abs(off) < 69.0).mean() > 0.9
    assert 0.3 < np.median(measured["second_ratio"][COUNT:][double]) < 1.0


def test_strengths_are_those_of_least_squares(spectra, binaries, emulator):
    """Both strengths fitted together by numpy, with the template moved by whole pixels."""
    native, rv = to_log_lambda(spectra(binaries)), torch.as_tensor(binaries.rv)
    templates = templates_at(emulator, torch.as_tensor(LABELS))
    found = second_star(native, rv, templates)
    data, template, weight = (values.double().numpy() for values in normalised_pair(native, rv, templates))
    pixels = np.arange(-15, 16)
    apart = SPEED_OF_LIGHT * (10.0 ** (LOG_LAMBDA.step * pixels) - 1)
    for row in range(0, COUNT, 8):
        root = np.sqrt(weight[row])
        fits = {}
        for pixel, velocity in zip(pixels.tolist(), apart, strict=True):
            if abs(velocity) < 150 or abs(pixel) == 15:
                continue
            moved = np.zeros_like(template[row])
            inside = slice(max(pixel, 0), min(moved.size, moved.size + pixel))
            moved[inside] = template[row][max(-pixel, 0) : moved.size - max(pixel, 0)]
            design = np.stack([template[row], moved], axis=1) * root[:, None]
            strengths = np.linalg.lstsq(design, data[row] * root, rcond=None)[0]
            fits[velocity] = (strengths[1] / np.sqrt(np.linalg.inv(design.T @ design)[1, 1]), strengths[1])
        best = max(fits, key=lambda velocity: fits[velocity][0])
        first = (weight[row] * data[row] * template[row]).sum() / (weight[row] * template[row] ** 2).sum()
        assert abs(found.dv[row].item() - best) < 40.0  # half a pixel
        assert found.ratio[row].item() == pytest.approx(fits[best][1] / first, rel=2e-3)
        left = data[row] - first * template[row]
        misfit = np.sqrt(max((weight[row] * left**2).sum() / ((weight[row] > 0).sum() - 2), 1.0))
        assert found.snr[row].item() == pytest.approx(fits[best][0] / misfit, rel=2e-3)


def test_an_unknown_velocity_or_template_gives_nulls(spectra, singles, emulator):
    native = to_log_lambda(spectra(singles)[:2])
    templates = templates_at(emulator, torch.tensor([[torch.nan] * 4, [3500.0, 4.8, 0.0, 0.0]]).double())
    found = second_star(native, torch.tensor([0.0, torch.nan]).double(), templates)
    assert all(torch.isnan(values).all() for values in found)
    assert not is_double(found.ratio.numpy(), found.snr.numpy()).any()


def test_emission_beyond_chromospheres_is_marked(spectra, singles, settings, emulator):
    """Lines of 5 A and 20 A on the same early M dwarfs."""
    rest = singles.wavelength / (1 + singles.rv[:, None] / SPEED_OF_LIGHT)
    line = np.exp(-0.5 * ((rest - air_to_vacuum(6562.801)) / 1.6) ** 2) / (1.6 * np.sqrt(2 * np.pi))
    level = np.median(singles.flux[:, np.abs(singles.wavelength - 6564.6) < 30.0], axis=1, keepdims=True)
    made = [replace(singles, flux=singles.flux + width * level * line) for width in (5.0, 20.0)]
    columns, _ = measure_batch([star for one in made for star in spectra(one)[::2]], settings, emulator)
    marked = (columns["flags"] & int(Flag.EMISSION)) > 0
    assert not marked[:16].any()
    assert marked[16:].all()
    assert columns["use_rv"][16:].all()
    assert not columns["use_teff"][16:].any()


def test_emission_must_exceed_the_limit_by_three_errors():
    width, spt = np.array([8.5, 8.5, 12.0, 19.0, np.nan]), np.array([0.0, 0.0, 3.0, 5.0, 1.0])
    error = np.array([0.1, 0.5, 0.1, 0.1, 0.1])
    # 10^-3.3 over chi of Douglas et al. (2014): 7.5, 11.2 and 20.2 A
    assert beyond_saturation(width, error, spt).tolist() == [True, False, True, False, False]
