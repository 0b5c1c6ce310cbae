"""Systematic errors as functions of labels and S/N: learned back from planted ones, kept in cards, coverage right."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from stargap.errors import ModelError
from stargap.transfer.calibration import Calibration, Off, learn_calibration, prepared_snr
from stargap.transfer.residual.model import ResidualTransfer, shipped_transfer

EMPTY = {"source": "planted", "stars": 100, "teff": (3000.0, 4000.0), "m_h": (-1.0, 0.5), "snr": (5.0, 300.0)}


def planted(count: int, seed: int) -> tuple[dict[str, Off], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stars whose Teff has an error of 10 K at 3000 K and of 40 K at 4000 K, and velocities that are off with Teff."""
    rng = np.random.default_rng(seed)
    teff, m_h = rng.uniform(3000, 4000, count), rng.uniform(-0.8, 0.4, count)
    snr = np.exp(rng.uniform(np.log(5), np.log(300), count))
    error = 10 * 4 ** ((teff - 3000) / 1000)
    noise = 300 / snr
    zero = 2.0 - 1.5 * (teff - 3600) / 400
    off = {
        "teff": Off(rng.normal(size=count) * np.hypot(error, noise), noise),
        "rv": Off(zero + rng.normal(size=count) * np.hypot(1.0, 50 / snr), 50 / snr, np.zeros(count)),
    }
    return off, np.stack([teff, m_h], axis=1), snr, error, zero


def test_planted_errors_and_zero_points_are_found():
    off, labels, snr, error, zero = planted(3000, 1)
    found = learn_calibration(off, labels, snr, source="planted")
    assert found is not None
    assert found.stars == 3000
    middle = (labels[:, 0] > 3100) & (labels[:, 0] < 3900) & (snr > 20) & (np.abs(labels[:, 1]) < 0.3)
    ratio = found.error("teff", labels, snr)[middle] / error[middle]
    assert 0.85 < np.median(ratio) < 1.15
    assert np.quantile(np.abs(np.log(ratio)), 0.9) < 0.3
    assert np.abs(found.zero_point(labels) - zero)[middle].max() < 0.4
    assert found.e_velocity < 0.1


def test_errors_cover_the_truth_of_other_stars():
    off, labels, snr, *_ = planted(3000, 2)
    found = learn_calibration(off, labels, snr, source="planted")
    others, there, signal, *_ = planted(20_000, 3)
    pulls = others["teff"].delta / np.hypot(others["teff"].noise, found.error("teff", there, signal))
    for low, high in ((5, 20), (20, 100), (100, 300)):
        here = np.abs(pulls[(signal >= low) & (signal < high)])
        assert abs(np.mean(here < 1) - 0.6827) < 0.03
        assert abs(np.mean(here < 1.96) - 0.95) < 0.02


def test_few_stars_have_few_terms_and_very_few_none():
    off, labels, snr, *_ = planted(120, 4)
    assert len(learn_calibration(off, labels, snr, source="planted").systematic["teff"]) == 3
    few = {name: Off(one.delta[:99], one.noise[:99], None) for name, one in off.items()}
    assert learn_calibration(few, labels[:99], snr[:99], source="planted") is None


def test_stars_that_are_not_known_do_not_count():
    off, labels, snr, *_ = planted(2000, 5)
    delta = off["teff"].delta.copy()
    delta[::2] = np.nan
    some = learn_calibration({"teff": Off(delta, off["teff"].noise)}, labels, snr, source="planted")
    half = slice(1, None, 2)
    same = {"teff": Off(delta[half], off["teff"].noise[half])}
    other = learn_calibration(same, labels[half], snr[half], source="planted")
    at = np.array([[3500.0, 0.0]])
    assert some.error("teff", at, np.array([30.0])) == pytest.approx(other.error("teff", at, np.array([30.0])), rel=0.1)


def test_beyond_the_range_the_ends_hold():
    known = Calibration(**EMPTY, systematic={"teff": (3.0, 1.0)}, velocity=(1.0, 1.0))
    at, snr = np.array([[4000.0, 0.0], [9000.0, 7.0], [np.nan, 0.0]]), np.array([30.0, 30.0, 30.0])
    error = known.error("teff", at, snr)
    assert error[0] == error[1]
    assert np.isnan(error[2])
    assert known.zero_point(at).tolist() == [2.0, 2.0, 1.0]
    assert known.error("logg", at, snr) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"systematic": {"teff": ()}},
        {"systematic": {"ph": (1.0,)}},
        {"blocks": -1.0},
        {"velocity": (np.nan,)},
    ],
)
def test_impossible_calibrations_are_refused(change):
    with pytest.raises(ValidationError):
        Calibration(**EMPTY | change)


def test_a_model_keeps_its_calibration_and_one_without_is_read(tmp_path):
    transfer = ResidualTransfer(shipped_transfer().emulator, alpha=0.0)
    transfer.calibration = Calibration(**EMPTY, systematic={"teff": (3.0, 0.1)})
    about = {"training_data": "none", "settings": {}, "scores": {}, "simulated": True}
    transfer.save(tmp_path / "new.safetensors", **about)
    assert ResidualTransfer.load(tmp_path / "new.safetensors").calibration == transfer.calibration
    card = json.loads((tmp_path / "new.json").read_text())
    del card["calibration"]
    (tmp_path / "new.json").write_text(json.dumps(card))
    assert ResidualTransfer.load(tmp_path / "new.safetensors").calibration is None
    (tmp_path / "new.json").write_text(json.dumps(card | {"calibration": {"version": 3}}))
    with pytest.raises(ModelError, match="bad fields in the card, first calibration"):
        ResidualTransfer.load(tmp_path / "new.safetensors")


def test_the_shipped_model_for_simulated_stars_has_one():
    known = shipped_transfer().calibration
    assert known is not None
    assert set(known.systematic) == {"rv", "teff", "logg", "m_h"}
    poor, usual = known.error("m_h", np.array([[3500.0, -0.7], [3500.0, 0.0]]), np.array([50.0, 50.0]))
    assert poor > 1.5 * usual


def test_snr_of_prepared_spectra_is_the_lower_one():
    sigma = np.full((2, 2901), 0.02)
    sigma[:, 900:] = 0.01
    good = np.ones((2, 2901), dtype=bool)
    good[1] = False
    assert prepared_snr(sigma, good) == pytest.approx([41.0, 0.0])
