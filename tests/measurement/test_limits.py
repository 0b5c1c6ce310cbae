"""Bounds of labels: they scale with noise, information adds, and least squares of the same model reaches them."""

import numpy as np
import pytest

import stargap
from stargap.errors import UsageError
from stargap.measurement.limits import LIMITED, limits, velocity_correlations
from stargap.pixels import LOG_LAMBDA, STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.emulator import shipped_emulator

TRUE = {"teff": 3500.0, "logg": 4.8, "m_h": -0.1, "a_m": 0.0}


def test_bounds_go_as_the_noise_and_knowledge_only_lowers_them():
    one, ten = limits(3400.0, 0.0, 10.0), limits(3400.0, 0.0, 100.0)
    prior = limits(3400.0, 0.0, 10.0, logg_width=0.05)
    known = limits(3400.0, 0.0, 10.0, known={"m_h": 0.08})
    for name in LIMITED:
        assert one[name] == pytest.approx(10 * ten[name], rel=1e-3)
        assert prior[name] <= one[name] * (1 + 1e-9)
        assert known[name] <= one[name] * (1 + 1e-9)
    assert known["m_h"] < 0.08
    assert prior["logg"] < one["logg"]


def test_an_impossible_star_is_refused_by_name():
    with pytest.raises(UsageError, match="teff = 9000 is outside the emulator's"):
        limits(9000.0, 0.0, 20.0)
    with pytest.raises(UsageError, match="snr is 0; it must be above 0"):
        limits(3500.0, 0.0, 0.0)


def test_errors_and_scatter_of_the_emulator_s_own_spectra_reach_the_bound():
    support, wave = STARGAP.support, LOG_LAMBDA.wavelength
    flux = shipped_emulator().flux(stargap_labels(1))[0].numpy().astype(float)
    clean = np.interp(wave, support, flux / np.median(flux))
    random = np.random.default_rng(4)
    spectra = [
        Spectrum(
            wave, clean + random.normal(0, 0.01, len(wave)), np.full(len(wave), 1e4),
            Facts(path=f"{k}", layout="template", snr_r=100.0, snr_i=100.0),
        )
        for k in range(60)
    ]  # fmt: skip
    settings = MeasureSettings(fixed={"a_m": 0.0}, error_floor=0.0)
    found = stargap.measure(spectra, model="emulator", settings=settings).arrays()
    for name in ("teff", "logg", "m_h"):
        bound = np.median(found[f"limit_{name}"])
        assert 0.8 < np.median(found[f"e_{name}"]) / bound < 1.2, name
        assert 0.7 < np.std(found[name]) / bound < 1.4, name
    for one, other in (("teff", "logg"), ("teff", "m_h"), ("logg", "m_h")):
        seen = np.corrcoef(found[one], found[other])[0, 1]
        assert abs(np.median(found[f"rho_{one}_{other}"]) - seen) < 0.35, (one, other)
    for name, rho in velocity_correlations(TRUE["teff"], TRUE["m_h"]).items():
        assert abs(rho) < 0.12, "not worth a column"
        assert abs(np.corrcoef(found["rv"], found[name])[0, 1] - rho) < 0.35, name


def stargap_labels(rows):
    import torch

    return torch.tensor([[TRUE[name] for name in ("teff", "logg", "m_h", "a_m")]] * rows).double()
