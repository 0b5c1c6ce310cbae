"""Spectra measured on a GPU: the processor's results, on a real one where there is one, and on a stand-in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.pretend_gpu import GPU, pretend_gpu
from helpers.stars import mock_stars

import stargap
from stargap.devices import made_on, to_device
from stargap.errors import SpectrumError, UsageError
from stargap.fit.linear import bounded_step, solve_small
from stargap.fit.optimise import ON_GPU
from stargap.measurement.models import load_model_named, placed
from stargap.measurement.star import BATCH, batch_size, measure_batch
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import empty_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import shipped_emulator

LABELS = ("rv", "teff", "logg", "m_h")
WAYS = {
    "default": ("transfer-lamost", {}),
    "exact": ("transfer-lamost", {"exact": True}),
    "lbfgs": ("transfer-lamost", {"optimiser": "lbfgs", "max_iterations": 5}),
    "nuisance": ("transfer-simulated", {}),
    "alpha": ("emulator", {"free_alpha": True}),
    "paper": ("emulator", {"preset": "paper"}),
}


def spectra(count):
    stars = mock_stars(shipped_emulator(), count, seed=1, survey_noise=True)
    return [Spectrum(stars.wavelength, flux, ivar) for flux, ivar in zip(stars.flux, stars.ivar, strict=True)]


def odd_spectra():
    """A file that could not be read, a spectrum half of which is bad, one of low resolution, and one of noise alone."""
    whole, half, dull, noise = spectra(4)
    half.ivar[: half.ivar.size * 2 // 3] = 0.0
    noise.flux[:] = np.random.default_rng(4).normal(size=noise.flux.size)
    low = replace(dull, resolution=np.full(dull.wavelength.size, 900.0))
    return [whole, SpectrumError("a.fits", "the file is empty"), half, low, noise]


def measured(items, model, settings):
    emulator, transfer = (model, None) if model is shipped_emulator() else (model.emulator, model)
    return measure_batch(items, settings, emulator, transfer=transfer)


def worst(one, other):
    """Return the largest difference of labels in errors, at the 99th percentile and at all."""
    pulls = np.concatenate([np.abs(one[name] - other[name]) / one[f"e_{name}"] for name in LABELS])
    pulls = pulls[np.isfinite(pulls)]
    assert pulls.size > len(one["teff"])
    return np.quantile(pulls, 0.99), pulls.max()


@pytest.mark.parametrize("way", WAYS)
def test_a_stand_in_measures_what_the_processor_does(way):
    name, options = WAYS[way]
    model = load_model_named(name)
    items = spectra(4)
    here, _ = measured(items, model, MeasureSettings(**options))
    with pretend_gpu():
        there, fitted = measured(items, model, MeasureSettings(device="cuda", **options))
    assert worst(here, there)[1] < 0.05
    assert here["flags"].tolist() == there["flags"].tolist()
    assert fitted.fit.labels.device.type == fitted.prepared.flux.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_measures_what_the_processor_does(way):
    name, options = WAYS[way]
    model = load_model_named(name)
    items = spectra(BATCH)
    here, _ = measured(items, model, MeasureSettings(**options))
    there, _ = measured(items, model, MeasureSettings(device="cuda", **options))
    assert worst(here, there)[0] < 0.05


def test_a_stand_in_measures_what_is_odd():
    model = load_model_named("transfer-lamost")
    here, _ = measured(odd_spectra(), model, MeasureSettings())
    with pretend_gpu():
        there, _ = measured(odd_spectra(), model, MeasureSettings(device="cuda"))
    assert worst(here, there)[1] < 0.05
    assert here["flags"].tolist() == there["flags"].tolist()
    assert np.isfinite(here["teff"]).tolist()[:4] == [True, False, True, True]


def test_tensors_of_two_devices_are_refused_where_there_is_no_gpu():
    """What the other tests rest on."""
    with pretend_gpu():
        far = torch.ones(3).to(GPU)
        with pytest.raises(RuntimeError, match="on the GPU and on the processor"):
            far + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            far.numpy()
        assert (far + 1).cpu().tolist() == [2.0, 2.0, 2.0]


def test_small_systems_agree():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    matrix = root @ root.transpose(1, 2) + torch.eye(4)
    right = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    low, high = -torch.ones(5, 4).double(), torch.ones(5, 4).double()
    expected = solve_small(matrix, right), bounded_step(matrix, right, low, high)
    with pretend_gpu(), made_on(GPU):
        found = solve_small(matrix.to(GPU), right.to(GPU)), bounded_step(*to_device((matrix, right, low, high), GPU))
        back = [part.cpu() for part in found]
    for one, other in zip(expected, back, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_there_already_is_not_copied():
    batch, here = empty_batch(2), torch.device("cpu")
    prepared = prepare(batch, torch.zeros(2))
    assert to_device((batch, prepared), here)[1] is prepared
    assert to_device(batch, here) is batch
    assert placed(shipped_emulator(), here) is shipped_emulator()
    with pretend_gpu():
        far = placed(shipped_emulator(), GPU)
        assert far is placed(shipped_emulator(), GPU)
        assert far.mean.device == GPU
        model = load_model_named("transfer-lamost")
        assert placed(model, GPU).emulator is placed(model.emulator, GPU)
    assert shipped_emulator().mean.device == here


def test_a_gpu_measures_more_at_once():
    assert batch_size(MeasureSettings()) == BATCH < ON_GPU == batch_size(MeasureSettings(device="cuda"))


def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch finds no GPU here; set device to cpu"):
        stargap.measure([tmp_path / "missing.fits"], settings=MeasureSettings(device="cuda"))
