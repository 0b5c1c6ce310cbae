"""The picture of one fit."""

import numpy as np
import pytest

from stargap.figures.fit import _title, fit_figure
from stargap.flags import Flag
from stargap.pixels import STARGAP
from stargap.spectra.modelled import Masked, ModelledSpectra
from stargap.tables.columns import MEASURED


def test_errors_in_the_title_are_random_and_systematic_together():
    row = {c.name: np.full(1, c.null, object if c.dtype == "str" else c.dtype) for c in MEASURED}
    row |= {"teff": np.array([3500.0]), "e_teff": np.array([30.0]), "e_teff_sys": np.array([40.0])}
    row |= {"m_h": np.array([-0.1]), "e_m_h": np.array([0.05]), "snr_r": np.array([20.0]), "snr_i": np.array([30.0])}
    row |= {"flags": np.array([0])}
    assert "Teff 3500 ± 50 K" in _title(row, 0)
    assert "[M/H] -0.10 ± 0.05" in _title(row, 0)


@pytest.fixture
def spectrum():
    wave = STARGAP.wavelength
    flat = np.ones((1, wave.size), dtype=np.float32)
    mask = np.zeros((1, wave.size), dtype=np.uint8)
    mask[0, np.abs(wave - 6564.6) < 20], mask[0, 2000:2100] = Masked.WINDOW, Masked.BAD
    parts = {"flux": 2 * flat, "error": 0.1 * flat, "continuum": 2 * flat, "model": 2.1 * flat, "mask": mask}
    return ModelledSpectra(np.array([0]), np.array(["a"]), wave, **parts)


def columns(**given):
    row = {c.name: np.full(1, c.null, object if c.dtype == "str" else c.dtype) for c in MEASURED}
    row |= {"path": np.array(["x/spec-55859-F5902_sp01-002.fits.gz"], dtype=object), "flags": np.array([0])}
    return row | {name: np.array([value]) for name, value in given.items()}


def test_all_flags_fit_into_the_picture(spectrum):
    figure = fit_figure(columns(flags=sum(Flag) & ~(1 << 31)), 0, spectrum)
    figure.canvas.draw()
    words = figure._suptitle.get_window_extent()
    assert words.x0 >= 0
    assert words.x1 <= figure.bbox.x1
    assert "spec-55859-F5902_sp01-002.fits.gz" in figure.get_suptitle()
    assert all(flag.sentence.split()[-1] in figure.get_suptitle() for flag in Flag)
    assert "cannot" in " ".join(text.get_text() for text in figure.axes[4].texts)


def test_the_model_is_drawn_where_the_fit_looked_and_halpha_where_it_did_not(spectrum):
    flux, fit, residual, halpha, _ = fit_figure(columns(), 0, spectrum).axes
    data, model = (line.get_ydata() for line in fit.lines)
    assert np.isnan(model).tolist() == np.isnan(data).tolist() == (spectrum.mask[0] != 0).tolist()
    np.testing.assert_allclose(model[np.isfinite(model)], 1.05, rtol=1e-6)
    np.testing.assert_allclose(np.nanmax(residual.lines[1].get_ydata()), -1.0, rtol=1e-4)
    assert np.isfinite(halpha.lines[0].get_ydata()).all()
    assert np.isnan(flux.lines[0].get_ydata()).sum() == 100, "bad pixels alone are gaps"
    assert {"Hα", "Ca II", "TiO5"} <= {text.get_text() for text in flux.texts}


def test_a_star_of_known_magnitude_is_shown_in_the_hr_diagram(spectrum):
    place = fit_figure(columns(teff=3400.0, logg=4.8, bp_rp=2.4, m_g=10.0), 0, spectrum).axes[4]
    assert place.get_ylabel() == "M$_G$ (mag)"
    assert place.yaxis_inverted()
    kiel = fit_figure(columns(teff=3400.0, logg=4.8), 0, spectrum).axes[4]
    assert kiel.get_ylabel() == "log g"
    assert kiel.xaxis_inverted()
