"""The peers of `benchmarks/peers`, each against a property that does not come from its own code."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from numpy.polynomial import legendre
from peers import amortised, cannon, laspm, rvspec, slam, ulyss
from peers.least_squares import levenberg
from peers.survey import Spectra
from scipy.optimize import least_squares
from sklearn.svm import SVR

from stargap.pixels import STARGAP
from stargap.theory.emulator import shipped_emulator

MIDDLE, WIDTH = np.array([3500.0, 4.8, -0.1]), np.array([250.0, 0.15, 0.3])


def drawn(count, seed):
    return MIDDLE + WIDTH * np.random.default_rng(seed).uniform(-1.5, 1.5, (count, 3))


def bare(flux, sigma=1e-3, continuum=None, good=None):
    """Spectra of one noise, without what only stargap's own fits need."""
    flux = np.asarray(flux, dtype=np.float32)
    ivar = np.where(True if good is None else good, np.full(flux.shape, sigma**-2.0), 0.0).astype(np.float32)
    shape = np.ones_like(flux) if continuum is None else continuum.astype(np.float32)
    return Spectra(flux, ivar, shape, np.full(len(flux), 100.0))


def quadratic(labels, weights):
    x = (labels - MIDDLE) / WIDTH
    products = [x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)]
    return 1 + np.column_stack([x, *products]) @ weights


def test_the_cannon_recovers_a_quadratic_model_and_the_scatter_of_its_pixels():
    rng = np.random.default_rng(1)
    weights = 0.05 * rng.normal(size=(9, 60))
    known, new = drawn(300, 2), drawn(20, 3)
    planted = np.where(np.arange(60) < 30, 0.0, 0.05)
    flux = quadratic(known, weights) + planted * rng.normal(size=(300, 60))
    good = rng.random(flux.shape) > 0.1
    model = cannon.train(bare(np.where(good, flux, 9.0), sigma=1e-4, good=good), known)
    assert np.median(model.scatter[30:]) == pytest.approx(0.05, rel=0.2)
    assert model.scatter[:30].max() <= 1e-3
    assert np.abs((model.fit(bare(quadratic(new, weights))) - new) / WIDTH).max() < 0.01


def test_slam_is_what_scikit_learn_predicts_and_its_derivatives_are_true(monkeypatch):
    monkeypatch.setattr(slam, "EVERY", 15)
    rng = np.random.default_rng(4)
    known, weights = drawn(80, 5), 0.05 * rng.normal(size=(9, 30))
    flux = quadratic(known, weights) + 1e-3 * rng.normal(size=(80, 30))
    model = slam.train(bare(flux), known)
    theta = torch.as_tensor(rng.uniform(-1, 1, (5, 3)))
    values, slopes = model(theta, torch.arange(5))
    kernel = next(one for one in model.kernels if 7 in one.pixels)
    scaled = (flux[:, 7] - flux[:, 7].mean()) / flux[:, 7].std()
    x = (known - known.mean(axis=0)) / known.std(axis=0)
    predicted = [
        SVR(C=cost, gamma=kernel.gamma, epsilon=slam.EPSILON).fit(x, scaled).predict(theta) for cost in slam.COSTS
    ]
    offs = [np.abs(flux[:, 7].mean() + flux[:, 7].std() * one - values[:, 7].numpy()).max() for one in predicted]
    assert min(offs) < 1e-4
    step = torch.tensor([0.0, 1e-2, 0.0])
    change = model(theta + step, torch.arange(5))[0] - model(theta - step, torch.arange(5))[0]
    torch.testing.assert_close(slopes[:, 1], change / 2e-2, atol=2e-4, rtol=1e-2)


def test_laspm_finds_the_combination_that_a_star_is_made_of():
    rng = np.random.default_rng(6)
    templates, labels = 1 + 0.2 * rng.normal(size=(40, 200)).astype(np.float32), drawn(40, 7)
    made = np.array([[0.6, 0.4, 0.0], [0.2, 0.3, 0.5]])
    flux = made @ templates[[3, 8, 11]]
    found = laspm.fit(bare(flux), templates, labels)
    np.testing.assert_allclose(found, made @ labels[[3, 8, 11]], rtol=1e-3)


@pytest.fixture(scope="module")
def stars():
    """Noiseless emulator spectra on the inner pixels with their shape, at rest and at +10 km/s."""
    emulator, labels = shipped_emulator(), drawn(4, 8)
    flux = emulator.flux(torch.as_tensor(np.column_stack([labels, np.zeros(4)]))).numpy()
    moved = np.array([np.interp(STARGAP.support / (1 + 10.0 / 299_792.458), STARGAP.support, one) for one in flux])
    normal = laspm.spectra_of(emulator, labels)
    return labels, normal, flux[:, STARGAP.inner] / normal, moved[:, STARGAP.inner] / normal


def test_ulyss_does_not_see_a_polynomial_and_finds_the_velocity(stars):
    labels, normal, shape, moved = stars
    x = np.linspace(-1, 1, STARGAP.wavelength.size)
    bent = 1 + 0.3 * legendre.legval(x, [0, 0.5, 0.4, -0.3, 0, 0.2])
    plain = ulyss.fit(bare(normal, continuum=shape), shipped_emulator(), degree=6)
    other = ulyss.fit(bare(normal, continuum=shape * bent), shipped_emulator(), degree=6)
    for found, expected in ((other.labels, plain.labels), (plain.labels, labels)):
        assert (np.abs(found - expected) < [5.0, 0.03, 0.03]).all(), found - expected
    assert np.abs(plain.velocity).max() < 0.2
    shifted = ulyss.fit(bare(normal, continuum=moved), shipped_emulator(), degree=6)
    np.testing.assert_allclose(shifted.velocity, 10.0, atol=1.0)


def test_the_amortised_network_has_a_normal_likelihood_and_ignores_bad_pixels(stars):
    _, normal, _, _ = stars
    torch.manual_seed(0)
    network = amortised.Network(torch.zeros(3), torch.ones(3)).eval()
    flux = torch.as_tensor(normal).float()
    good = torch.arange(flux.shape[1]) % 7 > 0
    ivar = torch.where(good, 1e4, 0.0).expand(flux.shape)
    with torch.no_grad():
        mean, factor = network(flux, ivar)
        same, _ = network(torch.where(good, flux, 7.0), ivar)
    assert torch.equal(mean, same)
    labels = torch.randn(4, 3)
    normal_law = torch.distributions.MultivariateNormal(mean, precision_matrix=factor @ factor.transpose(1, 2))
    found = amortised.negative_log_likelihood(mean, factor, labels)
    torch.testing.assert_close(found, -normal_law.log_prob(labels), rtol=1e-4, atol=1e-4)


def test_least_squares_agree_with_scipy_at_a_bound_as_well():
    x = torch.linspace(0, 1, 50)

    def model(theta, rows):
        decay = torch.exp(-theta[:, 1:].float() * x)
        amplitude = theta[:, :1].float()
        return amplitude * decay, torch.stack([decay, -amplitude * x * decay], dim=1)

    flux = (2 * torch.exp(-3 * x) + 0.01 * torch.randn(50, generator=torch.Generator().manual_seed(1)))[None]
    for high in (5.0, 2.5):
        low, top = torch.zeros(2).double(), torch.tensor([5.0, high]).double()
        start = torch.ones(1, 2).double()
        found = levenberg(model, flux.repeat(2, 1), torch.ones(2, 50), start.repeat(2, 1), low, top).numpy()
        other = least_squares(
            lambda p: p[0] * np.exp(-p[1] * x.numpy()) - flux[0].numpy(), [1.0, 1.0], bounds=([0, 0], [5, high])
        )
        np.testing.assert_allclose(found, np.tile(other.x, (2, 1)), atol=2e-3)


def test_templates_of_rvspecfit_are_the_complete_part_of_the_grid(tmp_path):
    nodes = np.array([[3000.0, 4.5, -1.0, 0.0], [3100.0, 5.0, 0.5, 0.4], [3000.0, 4.5, -1.5, 0.0]])
    wave, flux = np.linspace(6000.0, 6100.0, 50), np.random.default_rng(9).uniform(1, 2, (3, 50)).astype(np.float32)
    with h5py.File(tmp_path / "grid.h5", "w") as file:
        file["wavelength"], file["flux"], file["labels"] = wave, flux, nodes
        file["labels"].attrs["names"] = ["teff", "logg", "mh", "am"]
    folder = tmp_path / "templates" / "all"
    folder.mkdir(parents=True)
    rvspec.write_grid(tmp_path / "grid.h5", folder)
    found = sorted(folder.iterdir())
    assert len(found) == 2
    header = fits.getheader(found[1])
    assert [header[name] for name in ("PHXTEFF", "PHXLOGG", "PHXM_H", "PHXALPHA")] == nodes[1].tolist()
    np.testing.assert_array_equal(fits.getdata(found[1]), flux[1])
    np.testing.assert_array_equal(fits.getdata(folder.parent / "wave.fits"), wave)
