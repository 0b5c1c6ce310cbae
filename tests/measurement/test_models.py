"""Models by name or path, and the one inside the package for real LAMOST spectra."""

from __future__ import annotations

import csv
import json
import math

import h5py
import numpy as np
import pytest

import stargap
from stargap.errors import ModelError
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.flags import Flag
from stargap.measurement.models import SHIPPED, load_model_named, load_transfer
from stargap.measurement.star import batch_velocity
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import find_spectra
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.transfer.anchored.model import AnchoredTransfer, lamost_transfer
from stargap.transfer.residual.model import ResidualTransfer, shipped_transfer

SAVED = {"training_data": "none", "settings": {}, "scores": {}, "simulated": True}


# ---- names and paths


@pytest.mark.parametrize(
    ("name", "model"),
    [("transfer-lamost", lamost_transfer), ("transfer-simulated", shipped_transfer), ("emulator", shipped_emulator)],
)
def test_models_inside_the_package_have_names(name, model):
    assert load_model_named(name) is model()
    assert set(SHIPPED) == {"transfer-lamost", "transfer-simulated", "emulator"}


def test_a_folder_of_the_same_name_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped_emulator().save(tmp_path / "emulator" / "emulator.safetensors")
    with pytest.raises(ModelError, match="inside the package and a folder here"):
        load_model_named("emulator")
    assert isinstance(load_model_named(tmp_path / "emulator"), Emulator)
    assert load_model_named("transfer-lamost") is lamost_transfer()


def test_either_kind_of_transfer_is_read_by_what_its_card_says(tmp_path):
    lamost_transfer().save(tmp_path / "a.safetensors", **SAVED)
    ResidualTransfer(shipped_emulator()).save(tmp_path / "r.safetensors", **SAVED)
    for read in (load_transfer, load_model_named):
        assert isinstance(read(tmp_path / "a.safetensors"), AnchoredTransfer)
        assert isinstance(read(str(tmp_path / "r.safetensors")), ResidualTransfer)
    shipped_emulator().save(tmp_path / "emulator.safetensors")
    assert isinstance(load_model_named(tmp_path), Emulator)
    with pytest.raises(ModelError, match="'payne'"):
        load_transfer(tmp_path / "emulator.safetensors")


@pytest.mark.parametrize("card", [None, "[]", "{", "null", '{"kind": ["anchored-transfer"]}', "[" * 100_000])
def test_a_card_that_says_nothing_is_refused(tmp_path, card):
    (tmp_path / "a.safetensors").write_bytes(b"")
    if card is not None:
        (tmp_path / "a.json").write_text(card)
    with pytest.raises(ModelError, match=r"a\.json|residual-transfer"):
        load_transfer(tmp_path / "a.safetensors")


def test_a_card_of_one_kind_with_the_tensors_of_the_other(tmp_path):
    lamost_transfer().save(tmp_path / "a.safetensors", **SAVED)
    ResidualTransfer(shipped_emulator()).save(tmp_path / "r.safetensors", **SAVED)
    (tmp_path / "a.json").write_bytes((tmp_path / "r.json").read_bytes())
    with pytest.raises(ModelError, match="does not match its card"):
        load_transfer(tmp_path / "a.safetensors")


# ---- the shipped model


def test_the_model_for_lamost_is_of_real_stars_and_says_how_good_it_is():
    transfer = lamost_transfer()
    card = transfer.card
    assert not card.simulated
    assert card.scores["left_out"] >= 20
    assert card.scores["anchors"] >= card.scores["left_out"]
    for name in ("teff", "logg", "m_h"):
        assert {f"{name}_median", f"{name}_std", f"{name}_slope"} <= set(card.scores)
    assert abs(card.scores["teff_median"]) < 20
    assert card.scores["teff_std"] < 70
    assert (transfer.own > 0).all()
    assert math.isfinite(transfer.chi2_limit)
    assert 2900 < float(transfer.low[0]) < float(transfer.high[0]) < 4300
    assert card.emulator.sha256 == shipped_emulator().card.sha256
    assert "/" not in card.training_data + json.dumps(card.settings), "no paths"


@pytest.mark.slow
def test_the_stars_it_was_made_of_are_measured_as_literature_has_them(shared_data):
    """Not a test of accuracy: the model was made of these very stars, and the literature's Teff is 60 K higher."""
    with (shared_data / "lamost" / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] == "cool" and row["star"] and not row["note"]]
    table = stargap.measure([shared_data / "lamost" / "cool" / row["file"] for row in rows])
    apart = table["teff"] - np.array([float(row["teff"]) for row in rows])
    assert np.isfinite(apart).all()
    kept = np.abs(apart - np.median(apart)) < 3 * 1.4826 * np.median(np.abs(apart - np.median(apart)))
    assert kept.mean() > 0.8
    assert -100 < np.median(apart) < 0
    assert apart[kept].std() < 70
    assert not (table["flags"] & int(Flag.UNLIKE_TRAINING)).any()
    assert (table["e_teff_sys"] > 30).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["M20_Gl411_kesseli2019", "M20_Gl393_kesseli2019"])
def test_chi_square_of_a_metal_poor_benchmark_has_one_minimum(shared_data, name):
    """Over [M/H] with Teff and log g free; with [a/M] of 0.4 at -1 Gl 411 has two, at 0.0 and -0.8."""
    with h5py.File(shared_data / "templates" / "kastredux_standards.h5") as file:
        wave, flux = (file[name][key][:].astype(float) for key in ("wavelength_A", "flux"))
    keep = np.isfinite(flux) & (wave > 5850) & (wave < 9150)
    wave, flux = wave[keep], flux[keep] / np.median(flux[keep])
    native, _, _ = native_batch([Spectrum(wave, flux, np.full_like(flux, 1e4), Facts(path=name, layout="template"))])
    transfer = lamost_transfer()
    rv = batch_velocity(native, MeasureSettings(), transfer.emulator).rv
    star = prepare(native, rv)
    card, trials = transfer.emulator.card, np.arange(-1.4, 0.45, 0.15)
    found = []
    for m_h in trials.tolist():
        box = Parameters(card.lower, card.upper, {"m_h": m_h}, alpha_slope=transfer.alpha_slope)
        fit = fit_labels(star, transfer.model(star), transfer.emulator, box, error_floor=transfer.floor,
                         prior=transfer.prior)  # fmt: skip
        found.append(float(fit.chi2[0]))
    steps = np.sign(np.diff(found))
    assert (np.diff(steps) >= 0).all(), list(zip(trials.round(2).tolist(), np.round(found, 3).tolist(), strict=True))
    assert -0.6 < trials[int(np.argmin(found))] < 0.2


@pytest.mark.slow
def test_real_spectra_of_other_stars_are_marked(shared_data):
    """No M dwarf is among them."""
    table = stargap.measure(find_spectra([shared_data / "lamost" / "formats"])[::2])
    readable = np.isfinite(table["teff"])
    assert readable.sum() > 50
    marked = (table["flags"] & int(Flag.UNLIKE_TRAINING | Flag.OUTSIDE_TRAINING)) > 0
    assert marked[readable].mean() >= 0.95
