"""Systematic errors of velocities: what templates cannot reproduce, the telluric band, and a model's calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.stars import mock_stars

from stargap.labels import LABELS, M_H, TEFF
from stargap.measurement.coverage import missing_systematic
from stargap.measurement.systematic import calibrated
from stargap.measurement.templates import templates_at
from stargap.measurement.velocity import measure_velocity
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.calibration import Calibration

COUNT = 64


@pytest.fixture(scope="module")
def stars() -> tuple[NativeBatch, torch.Tensor, np.ndarray]:
    found = mock_stars(
        shipped_emulator(), COUNT, seed=5, snr=np.full(COUNT, 60.0), active_fraction=0.0, bad_pixels=False
    )
    spectra = [Spectrum(found.wavelength, f, i) for f, i in zip(found.flux, found.ivar, strict=True)]
    return to_log_lambda(spectra), torch.as_tensor(found.labels), found.rv


def test_blocks_agree_where_templates_are_right(stars):
    native, labels, rv = stars
    found = measure_velocity(native, templates_at(shipped_emulator(), labels), only=torch.arange(COUNT))
    ratio = (found.by_blocks / found.error).numpy()
    assert 0.8 < np.median(ratio) < 1.15
    pulls = (found.rv.numpy() - rv) / found.error.numpy()
    assert 0.7 < 1.4826 * np.median(np.abs(pulls)) < 1.3


def test_blocks_disagree_where_templates_are_wrong(stars):
    native, labels, rv = stars
    wrong = labels.clone()
    wrong[:, 0] += 250.0
    wrong[:, 2] = (wrong[:, 2] - 0.6).clamp_min(-1.5)
    found = measure_velocity(native, templates_at(shipped_emulator(), wrong), only=torch.arange(COUNT))
    off = np.abs(found.rv.numpy() - rv)
    assert np.median(found.by_blocks / found.error) > 1.5
    assert np.mean(off < 2 * found.by_blocks.numpy()) > 0.85 > np.mean(off < 2 * found.error.numpy())


def test_what_is_left_of_the_oxygen_band_does_not_move_velocities(stars):
    native, labels, _ = stars
    templates = templates_at(shipped_emulator(), labels)
    wave = LOG_LAMBDA.wavelength
    band = torch.as_tensor(1 - 0.2 * np.exp(-(((wave - 6920) / 12) ** 2))).float()
    inside = torch.as_tensor((wave > 6850) & (wave < 6960))
    spoilt = replace(native, flux=torch.where(inside, native.flux * band, native.flux))
    usual, other = (measure_velocity(one, templates, only=torch.arange(COUNT)).rv for one in (native, spoilt))
    assert torch.equal(usual, other)


def test_a_calibration_moves_velocities_and_replaces_systematic_errors():
    known = Calibration(
        source="planted", stars=100, teff=(3000.0, 4000.0), m_h=(-1.0, 0.5), snr=(5.0, 300.0),
        systematic={"teff": (3.0,), "rv": (0.0,)}, velocity=(2.0,), e_velocity=0.3, blocks=0.5,
    )  # fmt: skip
    random = np.array([20.0, np.nan])
    fits = {f"{prefix}{name}": random for name in LABELS for prefix in ("", "e_")}
    fits |= {"rv": np.array([10.0, np.nan]), "teff": np.array([3500.0, np.nan]), "m_h": np.array([0.0, np.nan])}
    model = np.full((2, len(LABELS)), 7.0)
    error, blocks, snr = np.array([3.0, np.nan]), np.array([5.0, np.nan]), [20.0, 20.0]
    covered = np.array([0.5, 1.0])
    found = calibrated(fits, error, blocks, snr, covered, model, known)
    missing = missing_systematic(covered, np.stack([random] * len(LABELS), axis=1))[0]
    assert missing[TEFF] > 5
    assert found["rv"][0] == 8.0
    assert found["rv_zero"][0] == 2.0
    assert found["e_rv_sys"][0] == pytest.approx(np.sqrt((0.5 * 4) ** 2 + 0.3**2 + 1.0))
    assert found["e_teff_sys"][0] == pytest.approx(np.hypot(np.exp(3.0), missing[TEFF]))
    assert all(np.isnan(values[1]) for values in found.values())
    assert found["e_m_h_sys"][0] == pytest.approx(np.hypot(7.0, missing[M_H]))
    bare = calibrated(fits, error, blocks, snr, np.array([1.0, 1.0]), model, None)
    assert bare.keys() == found.keys()
    assert (bare["rv"][0], bare["e_teff_sys"][0]) == (10.0, 7.0)
    alone = calibrated(fits, error, blocks, snr, covered, None, None)
    assert all(np.isnan(alone[f"e_{name}_sys"]).all() for name in LABELS)
