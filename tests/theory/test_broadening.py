"""The laws of the line-spread function, against scipy, quadrature and the analytic Gaussian."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter1d

from stargap.errors import UsageError
from stargap.theory.broadening import broaden_constant_resolution

FWHM = np.sqrt(8 * np.log(2))
LOG = 6000 * np.exp(4e-5 * np.arange(4001))
SEVENTH = np.arange(4001) == 7
LINEAR = np.linspace(6000.0, 6400.0, 4001)
UNEVEN = np.sort(np.concatenate([np.linspace(6000, 6200, 1500), 6000 + 900 * np.random.default_rng(3).random(5000)]))


def gaussian(x, centre, sigma):
    return np.exp(-0.5 * ((x - centre) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def trapezoid(y, x):
    return np.sum(0.5 * (y[1:] + y[:-1]) * np.diff(x))


def noise(shape, seed=1, dtype=np.float64):
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(dtype)


@pytest.mark.parametrize("source", [np.inf, 10_000.0, 2500.0])
def test_even_grid_equals_scipy(source):
    flux = noise((3, LOG.size))
    sigma = np.sqrt(2000.0**-2 - source**-2.0) / FWHM / 4e-5
    reference = gaussian_filter1d(flux, sigma, truncate=6.5)
    inner = slice(200, -200)
    broad = broaden_constant_resolution(LOG, flux, 2000, source_resolution=source)
    np.testing.assert_allclose(broad[:, inner], reference[:, inner], rtol=1e-7)


@pytest.mark.parametrize("wave", [LOG, LINEAR, UNEVEN], ids=["log", "linear", "uneven"])
@pytest.mark.parametrize("line", [0.35, 1.0])
def test_widths_of_gaussians_add_in_quadrature(wave, line):
    centre, width = 6100.0, 6100.0 / 2500 / FWHM
    broad = broaden_constant_resolution(wave, 1 - gaussian(wave, centre, line), 2500)
    expected = 1 - gaussian(wave, centre, np.hypot(line, width))
    np.testing.assert_allclose(broad, expected, atol=3e-3 * expected.min())


def test_uneven_spectrum_equals_quadrature():
    flux = noise(UNEVEN.size, seed=5)
    sigma = 1 / 3000 / FWHM
    x = np.log(UNEVEN)
    at = np.array([6050.0, 6111.1, 6350.0, 6700.0])
    broad = broaden_constant_resolution(UNEVEN, flux, 3000, at=at)
    for wave, value in zip(at, broad, strict=True):
        near = np.abs(x - np.log(wave)) < 8 * sigma
        centre = np.log(wave)
        reference, _ = quad(
            lambda y, centre=centre: np.interp(y, x, flux) * gaussian(y, centre, sigma),
            x[near][0],
            x[near][-1],
            points=x[near][1:-1],
            limit=2 * near.sum() + 50,
        )
        assert value == pytest.approx(reference, rel=2e-4)


def test_result_at_other_wavelengths_follows_the_line():
    flux, at = gaussian(LOG, 6300, 0.5), np.linspace(6290, 6310, 333)
    own = broaden_constant_resolution(LOG, flux, 2000)
    moved = broaden_constant_resolution(LOG, flux, 2000, at=at)
    expected = gaussian(at, 6300, np.hypot(0.5, 6300 / 2000 / FWHM))
    np.testing.assert_allclose(moved, expected, atol=2e-3 * expected.max())
    np.testing.assert_allclose(broaden_constant_resolution(LOG, flux, 2000, at=LOG), own, atol=1e-12)


@pytest.mark.parametrize("wave", [LOG, LINEAR, UNEVEN], ids=["log", "linear", "uneven"])
@pytest.mark.parametrize("resolution", [20.0, 2000.0, 50_000.0])
def test_constant_stays_constant_to_the_ends(wave, resolution):
    np.testing.assert_allclose(broaden_constant_resolution(wave, np.full(wave.size, 3e6), resolution), 3e6, rtol=1e-9)


@pytest.mark.parametrize("wave", [LOG, LINEAR, UNEVEN], ids=["log", "linear", "uneven"])
def test_flux_is_conserved(wave):
    bump = noise(wave.size) * ((wave > 6100) & (wave < 6250))
    broad = broaden_constant_resolution(wave, bump, 1500)
    assert trapezoid(broad, np.log(wave)) == pytest.approx(trapezoid(bump, np.log(wave)), rel=1e-4)


@pytest.mark.parametrize("wave", [LOG, UNEVEN], ids=["log", "uneven"])
@settings(derandomize=True, max_examples=15, deadline=None)
@given(a=st.floats(-1e3, 1e3), b=st.floats(-1e3, 1e3))
def test_linear(wave, a, b):
    f, g = noise((2, wave.size), seed=7)
    both = broaden_constant_resolution(wave, a * f + b * g, 2000)
    parts = a * broaden_constant_resolution(wave, f, 2000) + b * broaden_constant_resolution(wave, g, 2000)
    np.testing.assert_allclose(both, parts, atol=1e-9 * (1 + abs(a) + abs(b)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wave", [LOG, UNEVEN], ids=["log", "uneven"])
def test_spectra_do_not_see_each_other(wave, dtype):
    flux = noise((7, wave.size), dtype=dtype)
    broad = broaden_constant_resolution(wave, flux, 2000)
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    assert broad.dtype == dtype
    assert broad.shape == flux.shape
    assert np.array_equal(broaden_constant_resolution(wave, flux[order], 2000), broad[order])
    assert np.array_equal(broaden_constant_resolution(wave, flux[2], 2000), broad[2])


@pytest.mark.parametrize("resolution", [9000.0, 9900.0, 9999.0])
def test_kernel_below_the_pixels_keeps_its_variance(resolution):
    line = np.zeros(LOG.size)
    line[2000] = 1.0
    broad = broaden_constant_resolution(LOG, line, resolution, source_resolution=10_000)
    pixels = np.arange(LOG.size) - 2000
    expected = (resolution**-2 - 10_000.0**-2) / FWHM**2 / 4e-5**2
    assert np.sum(broad) == pytest.approx(1.0)
    assert np.sum(broad * pixels**2) == pytest.approx(expected, rel=5e-3)


def test_twice_is_the_same_as_once():
    flux = noise(LOG.size)
    steps = broaden_constant_resolution(LOG, flux, 5000)
    twice = broaden_constant_resolution(LOG, steps, 2000, source_resolution=5000)
    once = broaden_constant_resolution(LOG, flux, 2000)
    np.testing.assert_allclose(twice[300:-300], once[300:-300], rtol=1e-6)


def test_kernel_longer_than_the_spectrum():
    broad = broaden_constant_resolution([6000.0, 6001, 6002], [1.0, 2.0, 3.0], 6.0)
    np.testing.assert_allclose(broad, 2.0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 10_000.0}, "10000 to 10000"),
        ({"resolution": 20_000.0}, "10000 to 20000"),
        ({"resolution": 0.0}, "above zero"),
        ({"resolution": np.nan}, "nan"),
        ({"source_resolution": np.nan}, "nan"),
        ({"wavelength": LOG[::-1]}, "4000 do not, first at pixel 1"),
        ({"wavelength": np.where(SEVENTH, LOG[6], LOG)}, "1 do not, first at pixel 7"),
        ({"wavelength": np.where(SEVENTH, np.nan, LOG)}, "not finite"),
        ({"wavelength": LOG - 6001}, "positive"),
        ({"wavelength": LOG[:-1]}, r"\(4001,\) and \(4000,\)"),
        ({"flux": np.ones((2, 3, LOG.size))}, r"\(2, 3, 4001\)"),
        ({"flux": np.where(SEVENTH, np.inf, 1.0)}, "1 of 4001 values"),
        ({"at": [5000.0, 6001.0]}, "inside"),
        ({"at": [np.nan]}, "inside"),
    ],
)
def test_bad_requests_say_why(change, message):
    given = {
        "wavelength": LOG,
        "flux": np.ones(LOG.size),
        "resolution": 2000.0,
        "source_resolution": 10_000.0,
    } | change
    with pytest.raises(UsageError, match=message):
        broaden_constant_resolution(
            given["wavelength"],
            given["flux"],
            given["resolution"],
            source_resolution=given["source_resolution"],
            at=given.get("at"),
        )


def test_absurdly_narrow_kernel_is_refused():
    with pytest.raises(UsageError, match="pixels"):
        broaden_constant_resolution(UNEVEN, np.ones(UNEVEN.size), 6e8)
