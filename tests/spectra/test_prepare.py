"""Preparation against METHOD section 2: the formulas, each trap in both presets, spikes and broken pixels."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.stars import mock_stars
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from stargap.errors import SpectrumError
from stargap.mock.spectrographs import mock_wavelength
from stargap.pixels import LOG_LAMBDA, PAPER, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.linespread import blur
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.content import Content, check_spectrum
from stargap.spectra.smoother import Smoother, normalise, smoother_for
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.theory.emulator import shipped_emulator

WAVE = LOG_LAMBDA.wavelength
GAP = np.diff(WAVE)
GRIDS = pytest.mark.parametrize("grid", [STARGAP, PAPER], ids=lambda grid: grid.name)
few = settings(max_examples=25, derandomize=True, deadline=None, database=None)
many = settings(max_examples=60, derandomize=True, deadline=None, database=None)

UNIT = 2.0**-24
"""Rounding of one float32 operation."""
ROUNDING = 4 * np.sqrt(272) * UNIT
"""Relative error of a sum of 272 positive products (a block and its nodes), which grows like a random walk; 4 sigma."""
KERNEL = 30 * np.sqrt(2 * np.pi)
"""Area of the kernel: how many pixels of 1 A it holds."""


def gaussian(wavelength, sigma, at=None):
    at = wavelength if at is None else at
    return np.exp(-0.5 * ((np.asarray(at)[:, None] - wavelength) / sigma) ** 2)


@cache
def kernel_matrix(grid):
    """The kernel of each pixel over the support, and its largest sum."""
    kernel = gaussian(grid.support, grid.smoothing, grid.wavelength)
    return kernel, gaussian(grid.support, grid.smoothing, grid.support[grid.support.size // 2][None]).sum()


def lost_in_nodes(distance):
    """Largest error of the smoother's kernel at a distance (sigma), in units of its peak.

    Between two pixels the nodes carry a Gaussian of sigma / 2 about their middle. Nodes every sigma / 2 have aliases
    of 2 exp(-2 pi^2), once for the kernel and once for its scale; nodes beyond 5.5 sigma / sqrt(2) of an outermost
    pixel are missing on either side.
    """
    middle = 5.5 / np.sqrt(2) - np.abs(distance)[..., None] / 2 + 0.5 * np.arange(20)
    missing = np.exp(-2 * np.clip(middle, 0, None) ** 2).sum(axis=-1) / np.sqrt(2 * np.pi)
    return np.exp(-0.5 * distance**2) * (4 * np.exp(-2 * np.pi**2) + np.minimum(2 * missing, 1))


LOST = lost_in_nodes(np.arange(-300.0, 301.0) / 30.0).sum()
"""The same for a sum over pixels of 1 A with sigma = 30 A and weights up to 1."""


def between(wavelength, low, high):
    return (wavelength >= low) & (wavelength <= high)


def f32(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float32)


def observed(flux, ivar=None, wavelength=WAVE):
    flux = np.asarray(flux, dtype=float)
    ivar = np.full_like(flux, 1e4) if ivar is None else np.asarray(ivar, dtype=float)
    return Spectrum(wavelength, flux, ivar)


def on_log_lambda(flux, ivar=None):
    """A batch as `to_log_lambda` makes it, without its scaling and its hunt for spikes."""
    flux = np.atleast_2d(flux)
    ivar = np.full(flux.shape, 1e4) if ivar is None else np.broadcast_to(ivar, flux.shape)
    rows = flux.shape[0]
    empty = torch.zeros(rows, dtype=torch.long)
    return NativeBatch(f32(flux), f32(ivar.copy()), torch.ones(rows, dtype=torch.float64), empty)


def at(*velocities):
    return torch.tensor(velocities, dtype=torch.float64)


def doppler(rv):
    return 1 + rv / SPEED_OF_LIGHT


def bands(wavelength):
    """A star of smooth bands, and the largest values of its second, third and fourth derivatives by wavelength."""
    flux = 1.0 + 0.3 * np.sin(wavelength / 40.0)
    centres = np.arange(5950.0, 9000.0, 85.0)
    for centre in centres:
        flux = flux - 0.4 * np.exp(-0.5 * ((wavelength - centre) / 8.0) ** 2)
    return flux


BANDS_2 = 0.3 / 40**2 + 0.4 * 1.0 / 8**2
BANDS_3 = 0.3 / 40**3 + 0.4 * 1.39 / 8**3
BANDS_4 = 0.3 / 40**4 + 0.4 * 3.0 / 8**4


def smearing_bound(second, third, fourth, distance, stretch=0.0):
    """How far three taps can be from linear interpolation between pixels `distance` apart (A).

    Both have the same mean and variance; the third moment of the latter is t (1 - t) (1 - 2 t) D^3 <= 0.0963 D^3, the
    fourth at most D^4 / 12, and that of three taps 2 a <= D^2 / 4. `stretch` is a relative error of D.
    """
    variance = 2 * stretch * distance**2 / 8
    return second * variance + third * 0.0963 * distance**3 / 6 + fourth * (distance**4 / 12 + distance**2 / 4) / 24


def check_prepared(star, grid):
    rows = len(star.native)
    for name in ("flux", "sigma", "continuum", "inverse_kernel"):
        array = getattr(star, name)
        assert array.shape == (rows, grid.wavelength.size), name
        assert torch.isfinite(array).all(), name
    for name in ("weight", "blur", "fraction"):
        array = getattr(star, name)
        assert array.shape == (rows, grid.support.size), name
        assert torch.isfinite(array).all(), name
    assert star.good.dtype == torch.bool
    assert (star.sigma > 0).all()
    assert (star.continuum[star.good] > 0).all()
    assert ((star.weight == 0) | (star.weight == 1)).all()
    assert ((star.fraction >= 0) & (star.fraction <= 1)).all()
    assert ((star.index >= 0) & (star.index < LOG_LAMBDA.count - 1)).all()
    assert ((star.bad_fraction >= 0) & (star.bad_fraction <= 1)).all()
    assert torch.isfinite(star.native.flux).all()
    assert torch.isfinite(star.native.ivar).all()
    assert (star.native.ivar >= 0).all()


@pytest.fixture(scope="module")
def m_dwarfs():
    """Six simulated stars without activity or defects, at S/N 30."""
    return mock_stars(shipped_emulator(), 6, seed=4, snr=np.full(6, 30.0), active_fraction=0.0, bad_pixels=False)


@pytest.fixture(scope="module")
def prepared_dwarfs(m_dwarfs):
    spectra = [Spectrum(m_dwarfs.wavelength, *arrays) for arrays in zip(m_dwarfs.flux, m_dwarfs.ivar, strict=True)]
    return spectra, prepare(to_log_lambda(spectra), torch.as_tensor(m_dwarfs.rv))


# ---- the smoother and the normalisation


@pytest.mark.parametrize(
    ("wavelength", "sigma"),
    [
        (STARGAP.support, 30.0),
        (PAPER.support, 30.0),
        (WAVE, 30.0),
        (WAVE, 12.0),
        (np.arange(6000.0, 6100.0), 30.0),
        (np.arange(6000.0, 7001.0), 7.0),
    ],
    ids=("stargap", "paper", "native", "native-12", "one-block", "padded"),
)
def test_the_kernel_is_the_gaussian(wavelength, sigma):
    smooth = Smoother(wavelength, sigma)
    sources = np.linspace(0, wavelength.size - 1, 97).astype(int)
    kernel = smooth(torch.eye(wavelength.size)[sources]).double().numpy()
    peak = np.median(kernel.max(axis=1))
    wanted = gaussian(wavelength, sigma, wavelength[sources])
    distance = (wavelength - wavelength[sources, None]) / sigma
    assert (np.abs(kernel / peak - wanted) <= ROUNDING * wanted + lost_in_nodes(distance)).all()
    assert lost_in_nodes(np.linspace(0, 9, 1000)).max() < 3e-7
    assert float(smooth(torch.ones(1, wavelength.size)).max()) == pytest.approx(1.0, abs=ROUNDING)


@GRIDS
def test_no_number_of_the_smoother_is_subnormal(grid):
    smooth = smoother_for(grid)
    for band in (smooth.gather, smooth.spread):
        assert ((band == 0) | (band >= torch.finfo(torch.float32).tiny)).all()
    assert (smooth(torch.full((1, grid.support.size), 1e-17))[0, grid.inner] > 1e-18).all()


@GRIDS
def test_normalise_is_the_double_sum(grid):
    rng = np.random.default_rng(1)
    flux = f32(rng.uniform(0.1, 3.0, (5, grid.support.size)))
    weight = f32(rng.random(flux.shape) < [[1.0], [0.9], [0.5], [0.25], [0.7]])
    weight[4] *= f32(rng.random(grid.support.size))
    normal, continuum, held = normalise(flux, weight, grid)
    kernel, whole = kernel_matrix(grid)
    f, g = flux.double().numpy(), weight.double().numpy()
    below = g @ kernel.T
    wanted = (g * f) @ kernel.T / below
    assert (below / whole > grid.least_kernel_weight).all()
    tolerance = 2 * ROUNDING + (g.max() * f.max() / wanted + 1) * LOST / below
    assert (np.abs(continuum.numpy() / wanted - 1) <= tolerance).all()
    assert (np.abs(normal.numpy() / (f[:, grid.inner] / wanted) - 1) <= tolerance + UNIT).all()
    assert (np.abs(held.numpy() - below / whole) <= ROUNDING).all()


def test_the_double_sum_on_native_pixels():
    rng = np.random.default_rng(2)
    values = f32(rng.uniform(0, 2, (4, WAVE.size)))
    weight = f32(rng.random(values.shape) < 0.6)
    smooth = Smoother(WAVE, 30.0)
    ours = (smooth(values * weight) / smooth(weight)).double().numpy()
    kernel, g = gaussian(WAVE, 30.0), weight.double().numpy()
    below = g @ kernel.T
    wanted = (g * values.double().numpy()) @ kernel.T / below
    assert (np.abs(ours / wanted - 1) <= 2 * ROUNDING + (2 / wanted + 1) * LOST / below).all()


@GRIDS
@few
@given(level=st.floats(1e-3, 1e3), seed=st.integers(0, 99), share=st.floats(0.4, 1.0))
def test_a_constant_becomes_one_whatever_the_weights(grid, level, seed, share):
    weight = f32(np.random.default_rng(seed).random((1, grid.support.size)) < share)
    normal, continuum, held = normalise(torch.full_like(weight, level), weight, grid)
    enough = held >= grid.least_kernel_weight
    assert (torch.abs(normal - 1)[enough] <= 2 * ROUNDING).all()
    assert (torch.abs(continuum / level - 1)[enough] <= 2 * ROUNDING).all()
    assert (normal[~enough] == 0).all()
    assert (continuum[~enough] == 0).all()


def ends(grid):
    """Share of the kernel that lies on the support, and how far its mean is shifted (A), at each pixel.

    The support reaches half a pixel beyond its last ones. The midpoint rule misses 1/24 A^2 of the first moment at
    an end, of a kernel that holds at least half its area: 0.0011 A.
    """
    s = grid.smoothing
    low = (grid.support[0] - 0.5 - grid.wavelength) / s
    high = (grid.support[-1] + 0.5 - grid.wavelength) / s
    inside = norm.cdf(high) - norm.cdf(low)
    return inside, s * (norm.pdf(low) - norm.pdf(high)) / inside, 1 / 24 / (KERNEL / 2)


@GRIDS
def test_the_continuum_of_a_straight_line_is_the_line_but_for_the_ends(grid):
    slope = 1e-3
    line = slope * (grid.support - 5000.0)
    _, continuum, held = normalise(f32(line)[None], torch.ones(1, line.size), grid)
    inside, shift, error = ends(grid)
    wanted = slope * (grid.wavelength + shift - 5000.0)
    assert (np.abs(continuum[0].numpy() - wanted) <= slope * error + 2 * ROUNDING * wanted).all()
    # The midpoint rule for the area: 1/24 A of the slope at the end, exp(-1/2) / 30 at most.
    assert (np.abs(held[0].numpy() - inside) <= 1 / 24 * np.exp(-0.5) / 30 / KERNEL * 2 + ROUNDING).all()


@GRIDS
@many
@given(data=st.data())
def test_the_value_of_a_bad_pixel_changes_nothing(grid, data):
    size = grid.support.size
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    flux = f32(rng.uniform(0.2, 2.0, (2, size)))
    weight = f32(rng.random((2, size)) < data.draw(st.floats(0.2, 0.98)))
    bad = torch.nonzero(weight[1] == 0)[:, 0]
    pixel = int(bad[data.draw(st.integers(0, len(bad) - 1))])
    changed = flux.clone()
    changed[1, pixel] = data.draw(st.floats(-1e30, 1e30))
    before, after = normalise(flux, weight, grid), normalise(changed, weight, grid)
    others = torch.arange(size)[grid.inner] != pixel
    assert torch.equal(before[0][:, others], after[0][:, others])
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


@GRIDS
@few
@given(power=st.integers(-30, 30), seed=st.integers(0, 99))
def test_normalise_does_not_know_the_flux_unit(grid, power, seed):
    rng = np.random.default_rng(seed)
    flux = f32(rng.uniform(-0.5, 2.0, (4, grid.support.size)))
    weight = f32(rng.random(flux.shape) < 0.8)
    normal, continuum, held = normalise(flux, weight, grid)
    scaled = normalise(flux * 2.0**power, weight, grid)
    assert torch.equal(normal, scaled[0])
    assert torch.equal(continuum * 2.0**power, scaled[1])
    assert torch.equal(held, scaled[2])


@GRIDS
def test_the_influence_of_one_value_is_the_kernel_and_no_more(grid):
    flux = f32(np.random.default_rng(5).uniform(0.5, 1.5, (1, grid.support.size)))
    weight = torch.ones_like(flux)
    spiked, pixel, height = flux.clone(), 1400, 1e5
    spiked[0, pixel] += height
    _, before, held = normalise(flux, weight, grid)
    _, after, _ = normalise(spiked, weight, grid)
    distance = np.abs(grid.wavelength - grid.support[pixel])
    change = np.abs((after - before)[0].double().numpy())
    kernel = height * np.exp(-0.5 * (distance / grid.smoothing) ** 2) / (held[0].numpy() * KERNEL)
    tolerance = ROUNDING * (after[0].numpy() + before[0].numpy())
    assert (change <= kernel * (1 + 1e-3) + tolerance).all()
    assert (change[distance < 30] >= 0.99 * kernel[distance < 30]).all()
    # 1e5 exp(-8^2 / 2) is less than half a unit in the last place of the sum: 1e-9 of it.
    assert torch.equal(before[0, distance > 8 * grid.smoothing], after[0, distance > 8 * grid.smoothing])


@GRIDS
def test_pixels_without_enough_kernel_are_dropped_and_not_extrapolated(grid):
    weight = np.ones((1, grid.support.size))
    gap = (grid.support > 7000) & (grid.support < 7400)
    weight[0, gap] = 0
    flux = np.where(gap, 50.0, 1.0)[None]
    normal, continuum, held = normalise(f32(flux), f32(weight), grid)
    reach = np.minimum(np.abs(grid.wavelength - 7000), np.abs(grid.wavelength - 7400))
    inside = gap[grid.inner]
    share = norm.cdf(-reach / grid.smoothing)
    clear = np.abs(share - grid.least_kernel_weight) > 0.01
    dropped = inside & (share < grid.least_kernel_weight)
    assert dropped.sum() > 300
    assert (held[0].numpy() < grid.least_kernel_weight)[clear].tolist() == dropped[clear].tolist()
    assert (normal[0].numpy()[dropped & clear] == 0).all()
    assert (continuum[0].numpy()[dropped & clear] == 0).all()
    kept = ~dropped & clear
    assert np.abs(continuum[0].numpy()[kept] - 1).max() < 2 * ROUNDING


@GRIDS
def test_neighbours_and_place_in_the_batch_do_not_matter(grid):
    rng = np.random.default_rng(6)
    flux = f32(rng.uniform(0.2, 2.0, (24, grid.support.size)))
    weight = f32(rng.random(flux.shape) < 0.8)
    whole = normalise(flux, weight, grid)
    order = torch.as_tensor(rng.permutation(24))
    for one, other in zip(whole, normalise(flux[order], weight[order], grid), strict=True):
        assert torch.equal(one[order], other)
    flux[3], flux[9], weight[12] = torch.nan, torch.inf, 0.0
    rest = [row for row in range(24) if row not in (3, 9, 12)]
    for one, other in zip(whole, normalise(flux, weight, grid), strict=True):
        assert torch.equal(one[rest], other[rest])


@GRIDS
def test_one_row_at_a_time_is_the_batch(grid):
    rng = np.random.default_rng(7)
    flux = f32(rng.uniform(0.2, 2.0, (9, grid.support.size)))
    weight = f32(rng.random(flux.shape) < 0.8)
    whole = normalise(flux, weight, grid)
    for size in (1, 2, 3, 4):
        parts = [normalise(flux[i : i + size], weight[i : i + size], grid) for i in range(0, len(flux), size)]
        for name, one, pieces in zip(("flux", "continuum", "kernel"), whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(pieces)), f"{name} in batches of {size}"


# ---- onto the log-lambda grid


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("first", "count"), [(0, 3909), (7, 3820), (2100, 1500)])
def test_lamost_pixels_are_kept_exactly(dtype, first, count):
    wave = mock_wavelength()[first : first + count].astype(dtype).astype(float)
    rng = np.random.default_rng(8)
    flux = rng.uniform(50, 150, count)
    ivar = np.where(rng.random(count) < 0.1, 0.0, rng.uniform(0.5, 2.0, count))
    batch = to_log_lambda([Spectrum(wave, flux, ivar)])
    place = 35682 + first + np.arange(count) - LOG_LAMBDA.first
    here = (place >= 0) & (place < LOG_LAMBDA.count)
    scale = float(batch.scale)
    assert scale == np.median(flux[here & (ivar > 0)])
    wanted = np.zeros((2, LOG_LAMBDA.count))
    wanted[:, place[here]] = np.where(ivar > 0, [flux / scale, ivar * scale**2], 0)[:, here]
    assert torch.equal(batch.flux[0], f32(wanted[0]))
    assert torch.equal(batch.ivar[0], f32(wanted[1]))


def test_a_file_that_leaves_out_pixels_keeps_the_others_in_place():
    keep = np.random.default_rng(9).random(WAVE.size) < 0.7
    flux = 1 + 0.1 * np.sin(WAVE)
    batch = to_log_lambda([observed(flux[keep], wavelength=WAVE[keep])])
    assert torch.equal(batch.ivar[0] > 0, torch.as_tensor(keep))
    assert torch.equal(batch.flux[0], f32(np.where(keep, flux / float(batch.scale), 0)))


@few
@given(step=st.floats(1.2, 6.0), start=st.floats(5900.0, 6100.0), seed=st.integers(0, 99))
def test_other_wavelengths_are_interpolated_with_the_noise_that_they_share(step, start, seed):
    rng = np.random.default_rng(seed)
    wave = start + step * np.arange(int(2950 / step)) + step * rng.uniform(-0.2, 0.2, int(2950 / step))
    flux, sigma = rng.uniform(0.8, 1.2, wave.size), rng.uniform(0.05, 0.2, wave.size)
    bad = rng.random(wave.size) < 0.1
    flux[bad] = 1e6
    batch = to_log_lambda([observed(flux, np.where(bad, 0, sigma**-2), wave)])
    scale = float(batch.scale)
    right = np.searchsorted(wave, WAVE, side="right")
    inside = between(WAVE, wave[0], wave[-1])
    right = right.clip(1, wave.size - 1)
    good = inside & ~bad[right] & ~bad[right - 1]
    assert (batch.ivar[0].numpy() > 0)[good].mean() > 0.99
    assert not (batch.ivar[0].numpy() > 0)[~good].any()
    good = batch.ivar[0].numpy() > 0
    expected = np.interp(WAVE[good], wave, flux)
    assert float(batch.spikes[0]) > 0 or float(batch.scale) == pytest.approx(np.median(expected), rel=1e-12)
    found = batch.flux[0].double().numpy()[good] * scale
    sharing = np.zeros((WAVE.size, wave.size))
    t = (WAVE - wave[right - 1]) / (wave[right] - wave[right - 1])
    every = np.flatnonzero(inside & ~bad[right] & ~bad[right - 1])
    sharing[every, right[every] - 1], sharing[every, right[every]] = 1 - t[every], t[every]
    np.testing.assert_allclose(found, sharing[good] @ np.where(bad, 0, flux), rtol=2 * UNIT)
    variance = sharing @ (sigma**2 * sharing.sum(axis=0))
    np.testing.assert_allclose(scale**2 / batch.ivar[0].double().numpy()[good], variance[good], rtol=2 * UNIT)


def test_sums_of_interpolated_pixels_have_the_variance_that_is_carried():
    rng, rows = np.random.default_rng(10), 400
    wave = np.arange(5890.0, 9000.0, 1.7)
    sigma = np.where(np.arange(wave.size) % 2, 0.03, 0.01)
    noise = 1 + sigma * rng.standard_normal((rows, wave.size))
    batch = to_log_lambda([observed(row, sigma**-2, wave) for row in noise])
    good = (batch.ivar > 0).all(dim=0).numpy()
    flux = (batch.flux.double() * batch.scale[:, None]).numpy()[:, good]
    variance = (batch.scale[:, None] ** 2 / batch.ivar.clamp_min(1e-10)).numpy()[0, good]
    assert good.sum() > 1700
    assert flux.sum(axis=1).var(ddof=1) / variance.sum() == pytest.approx(1.0, abs=4 * np.sqrt(2 / rows))


@pytest.mark.parametrize("unit", [1e-17, 1e30, 2.0**-60])
@pytest.mark.parametrize("wavelength", [WAVE, np.arange(5900.0, 9010.0, 1.3)], ids=("native", "other"))
def test_the_unit_of_the_flux_does_not_matter(unit, wavelength):
    rng = np.random.default_rng(11)
    flux = bands(wavelength) + 0.02 * rng.standard_normal(wavelength.size)
    ivar = np.where(rng.random(wavelength.size) < 0.05, 0, 2500.0)
    flux[700] = 400.0
    plain = to_log_lambda([observed(flux, ivar, wavelength)])
    other = to_log_lambda([observed(flux * unit, ivar / unit**2, wavelength)])
    assert float(other.scale) == pytest.approx(float(plain.scale) * unit, rel=1e-14)
    np.testing.assert_allclose(other.flux, plain.flux, rtol=2 * UNIT)
    np.testing.assert_allclose(other.ivar, plain.ivar, rtol=2 * UNIT)
    assert int(plain.spikes) > 0
    assert torch.equal(plain.spikes, other.spikes)
    one, two = prepare(plain, at(20.0)), prepare(other, at(20.0))
    assert torch.equal(one.good, two.good)
    np.testing.assert_allclose(two.flux[one.good], one.flux[one.good], rtol=3 * ROUNDING)
    np.testing.assert_allclose(two.sigma, one.sigma, rtol=3 * ROUNDING)


@pytest.mark.parametrize(
    "wavelength", [np.arange(3700.0, 5990.0), np.arange(8901.0, 9100.0), np.array([7000.0]), np.array([])]
)
def test_wavelengths_elsewhere_are_refused(wavelength):
    spectrum = Spectrum(wavelength, 0 * wavelength, 0 * wavelength, Facts(path="blue.fits"))
    with pytest.raises(SpectrumError, match="do not overlap 6000-8900 A") as caught:
        to_log_lambda([observed(0 * WAVE), spectrum])
    assert caught.value.path == "blue.fits"


def test_rows_can_be_picked_from_a_batch():
    flux = np.linspace(1, 2, 3)[:, None] + 0.1 * np.sin(WAVE)
    batch = to_log_lambda([observed(row) for row in flux])
    assert len(batch) == 3
    part = batch[1:]
    assert len(part) == 2
    assert torch.equal(part.scale, batch.scale[1:])
    assert torch.equal(batch[torch.tensor([2, 0])].flux, batch.flux[[2, 0]])


# ---- shift, resampling and its noise


@GRIDS
@pytest.mark.parametrize("rv", [-450.0, 0.0, 123.4])
def test_a_line_lands_at_its_rest_wavelength(grid, rv):
    rest = np.array([6120.0, 7050.0, 8662.14])
    flux = np.ones(WAVE.size)
    for line in rest:
        flux -= 0.5 * np.exp(-0.5 * ((WAVE - line * doppler(rv)) / 3.0) ** 2)
    star = prepare(on_log_lambda(flux), at(rv), grid)
    depth = 1 - (star.flux * star.continuum)[0].double().numpy()
    for line in rest:
        near = np.abs(grid.wavelength - line) < 15
        centre = (depth * grid.wavelength)[near].sum() / depth[near].sum()
        # Linear interpolation moves a centre only through its third moment, at most 0.0963 D^3 f''' / 6.
        assert centre == pytest.approx(line, abs=0.01)


def test_a_null_velocity_is_prepared_at_rest():
    null, rest = (prepare(on_log_lambda(bands(WAVE)), at(rv)) for rv in (np.nan, 0.0))
    for name in ("flux", "sigma", "good", "weight", "blur"):
        assert torch.equal(getattr(null, name), getattr(rest, name)), name


@GRIDS
@few
@given(rv=st.floats(-600, 600), seed=st.integers(0, 999), share=st.floats(0.0, 0.5))
def test_good_pixels_are_those_of_the_definition(grid, rv, seed, share):
    rng = np.random.default_rng(seed)
    bad = rng.random(WAVE.size) < share
    for start in rng.integers(0, WAVE.size, 2):
        bad[start : start + 150] = True
    star = prepare(on_log_lambda(bands(WAVE), np.where(bad, 0.0, 400.0)), at(rv), grid)
    check_prepared(star, grid)
    rest, seen = grid.support, grid.support * doppler(rv)
    left = np.searchsorted(WAVE, seen, side="right") - 1
    assert star.index[0].tolist() == left.tolist()
    exists = ~bad[left] & ~bad[left + 1]
    excluded = np.zeros(rest.size, dtype=bool)
    for window in grid.windows:
        if grid is PAPER or window.frame == "rest":
            excluded |= between(rest, window.low, window.high)
        else:
            native = between(WAVE, window.low, window.high)
            excluded |= native[left] | native[left + 1]
    counts = exists if grid is PAPER else exists & ~excluded
    kernel, whole = kernel_matrix(grid)
    held = kernel @ counts / whole
    clear = np.abs(held - grid.least_kernel_weight) > 1e-5
    wanted = (exists & ~excluded)[grid.inner] & (held >= grid.least_kernel_weight)
    assert np.array_equal(star.good[0].numpy()[clear], wanted[clear])
    assert np.array_equal(star.weight[0].numpy(), counts if grid is STARGAP else np.ones(rest.size))
    assert not bool(star.bad_continuum)


@GRIDS
@pytest.mark.parametrize("rv", [-9000.0, 7500.0])
def test_pixels_beyond_the_log_lambda_grid_are_not_good(grid, rv):
    star = prepare(on_log_lambda(bands(WAVE)), at(rv), grid)
    check_prepared(star, grid)
    seen = grid.wavelength * doppler(rv)
    off = (seen < WAVE[0]) | (seen > WAVE[-1])
    assert off.sum() > 20
    assert not star.good[0].numpy()[off].any()
    seen = grid.support * doppler(rv)
    off = (seen < WAVE[0]) | (seen > WAVE[-1])
    if grid is STARGAP:
        assert not star.weight[0].numpy()[off].any()


def test_native_noise_comes_out_with_the_sigma_that_is_given():
    rng, rows = np.random.default_rng(12), 1200
    sigma = np.geomspace(0.01, 0.05, WAVE.size) * np.where(np.arange(WAVE.size) % 3, 1.0, 2.0)
    flux = bands(WAVE) + sigma * rng.standard_normal((rows, WAVE.size))
    star = prepare(on_log_lambda(flux, sigma**-2), at(*[37.0] * rows))
    good = star.good.all(dim=0)
    resampled = (star.flux * star.continuum)[:, good].double()
    predicted = (star.sigma * star.continuum)[:, good].double()
    assert float((predicted.std(dim=0) / predicted.mean(dim=0)).max()) < ROUNDING
    ratio = (resampled.var(dim=0) / predicted[0].square()).numpy()
    spread = np.sqrt(2 / (rows - 1))
    assert len(ratio) > 2200
    assert np.abs(ratio - 1).max() < 5 * spread
    assert abs(ratio.mean() - 1) < 5 * spread / np.sqrt(len(ratio) / 3)


# ---- trap (a): resampled pixels are correlated


@GRIDS
def test_trap_a_variance_is_carried_or_interpolated_like_a_flux(grid):
    rng, rows = np.random.default_rng(13), 800
    flux = 1 + 0.02 * rng.standard_normal((rows, WAVE.size))
    star = prepare(on_log_lambda(flux, np.full(WAVE.size, 2500.0)), at(*[-12.0] * rows), grid)
    good = star.good.all(dim=0)
    real = (star.flux * star.continuum)[:, good].double().var(dim=0).numpy()
    stated = ((star.sigma * star.continuum)[0, good].double() ** 2).numpy()
    t = star.fraction[0, grid.inner][good].double().numpy()
    lost = (1 - t) ** 2 + t**2
    mean = lost.mean() if grid is PAPER else 1.0
    assert lost.mean() == pytest.approx(2 / 3, abs=0.01)
    assert (real / stated).mean() == pytest.approx(mean, abs=5 * np.sqrt(2 / rows / (len(t) / 3)))


def test_trap_a_native_pixels_tell_the_error_of_a_band_and_resampled_ones_do_not():
    rng, rows, sigma = np.random.default_rng(14), 1500, 0.02
    flux = 1 + sigma * rng.standard_normal((rows, WAVE.size))
    errors = {}
    for grid in (STARGAP, PAPER):
        star = prepare(on_log_lambda(flux, np.full(WAVE.size, sigma**-2)), at(*[5.0] * rows), grid)
        band = torch.as_tensor((grid.wavelength > 7690) & (grid.wavelength < 8090)) & star.good.all(dim=0)
        raw = (star.flux * star.continuum)[:, band].double()
        real = raw.mean(dim=1).std()
        naive = (star.sigma * star.continuum)[0, band].double().square().sum().sqrt() / band.sum()
        index = star.index[0, grid.inner][band]
        t = star.fraction[0, grid.inner][band].double()
        native = torch.zeros(LOG_LAMBDA.count, dtype=torch.float64)
        native.scatter_add_(0, index, 1 - t).scatter_add_(0, index + 1, t)
        assert torch.allclose(
            raw,
            (star.native.flux.double()[:, index] * (1 - t) + star.native.flux.double()[:, index + 1] * t),
            rtol=1e-6,
        )
        carried = sigma * native.square().sum().sqrt() / band.sum()
        errors[grid.name] = float(real), float(naive), float(carried)
    spread = 5 / np.sqrt(2 * (rows - 1))
    for real, _, carried in errors.values():
        assert carried == pytest.approx(real, rel=spread)
    # Pixels of D = 1.83 A at 7890 A, resampled to 1 A: independent errors are sqrt(D) too small (and sqrt(3 D / 2)
    # where their variance was carried); the sum over D or so pixels varies by one pixel in D, 3 % in the error.
    distance = 7890 * (10**LOG_LAMBDA.step - 1)
    assert errors["paper"][0] / errors["paper"][1] == pytest.approx(distance**0.5, rel=spread + 0.03)
    assert errors["stargap"][0] / errors["stargap"][1] == pytest.approx((1.5 * distance) ** 0.5, rel=spread + 0.03)


def test_trap_a_the_paper_s_errors_of_the_whole_range_are_low_by_1_3():
    star = prepare(on_log_lambda(np.ones(WAVE.size)), at(0.0), PAPER)
    native = torch.zeros(LOG_LAMBDA.count)
    index, t = star.index[0], star.fraction[0]
    native.scatter_add_(0, index, 1 - t).scatter_add_(0, index + 1, t)
    assert int((native > 0).sum()) == pytest.approx(1712, abs=2)
    assert float((native.square().sum() / 2901).sqrt()) == pytest.approx(1.3, abs=0.04)


def test_trap_a_the_paper_interpolates_errors_like_fluxes():
    rng = np.random.default_rng(20)
    sigma = rng.uniform(0.01, 0.1, WAVE.size)
    star = prepare(on_log_lambda(bands(WAVE), sigma**-2), at(80.0), PAPER)
    seen = PAPER.wavelength * doppler(80.0)
    stated = (star.sigma * star.continuum)[star.good].double().numpy()
    np.testing.assert_allclose(stated, np.interp(seen, WAVE, sigma)[star.good[0].numpy()], rtol=16 * UNIT)


# ---- trap (b): windows have a frame


@pytest.mark.parametrize("rv", [-400.0, 0.0, 250.0])
def test_trap_b_windows_stand_still_in_their_own_frame(rv):
    star = prepare(on_log_lambda(bands(WAVE)), at(rv), STARGAP)
    good = star.good[0].numpy()
    rest, seen = STARGAP.wavelength, STARGAP.wavelength * doppler(rv)
    explained = np.zeros(rest.size, dtype=bool)
    for window in STARGAP.windows:
        if window.frame == "rest":
            sure = near = between(rest, window.low, window.high)
        else:
            sure = between(seen, window.low, window.high)
            near = (seen > window.low - GAP.max()) & (seen < window.high + GAP.max())
        assert sure.any()
        assert not good[sure].any(), window
        explained |= near
    assert good[~explained].all()
    frames = {window.cause.split()[0]: window.frame for window in STARGAP.windows}
    assert frames == {"telluric": "observed", "H-alpha": "rest", "Li": "rest"}


@pytest.mark.parametrize("rv", [-400.0, 0.0, 250.0])
def test_trap_b_the_paper_moves_every_window_with_the_star(rv):
    star = prepare(on_log_lambda(bands(WAVE)), at(rv), PAPER)
    rest = PAPER.wavelength
    inside = np.zeros(rest.size, dtype=bool)
    for window in PAPER.windows:
        inside |= between(rest, window.low, window.high)
    assert np.array_equal(star.good[0].numpy(), ~inside)


# ---- trap (c): excluded windows leak into the pseudo-continuum


def with_junk(window, rv, factor=20.0):
    """The star, and the star with the pixels of one window multiplied by a factor."""
    seen = between(WAVE, window.low, window.high)
    if window.frame == "rest":
        # A native pixel at the very edge of a rest-frame window has a share in the resampled pixel beyond it.
        rest = WAVE / doppler(rv)
        seen = (rest >= window.low + GAP.max()) & (rest <= window.high - GAP.max())
    clean = bands(WAVE)
    return np.stack([clean, np.where(seen, factor * clean, clean)])


@pytest.mark.parametrize("window", STARGAP.windows, ids=lambda window: f"{window.low:.0f}")
@pytest.mark.parametrize("rv", [-150.0, 60.0])
def test_trap_c_junk_in_a_window_stays_there(window, rv):
    clean, junk = (prepare(on_log_lambda(flux), at(rv), STARGAP) for flux in with_junk(window, rv))
    assert not torch.equal(clean.native.flux, junk.native.flux)
    assert torch.equal(clean.good, junk.good)
    for name in ("flux", "sigma"):
        assert torch.equal(getattr(clean, name)[clean.good], getattr(junk, name)[clean.good]), name
    assert torch.equal(clean.continuum, junk.continuum)


@pytest.mark.parametrize("window", PAPER.windows, ids=lambda window: f"{window.low:.0f}")
def test_trap_c_junk_in_a_window_leaks_in_the_paper(window):
    star = prepare(on_log_lambda(with_junk(window, 0.0)), at(0.0, 0.0), PAPER)
    assert torch.equal(star.good[0], star.good[1])
    beside = (PAPER.wavelength > window.high + GAP.max()) & (PAPER.wavelength < window.high + 25)
    ratio = (star.flux[1] / star.flux[0]).numpy()
    # 20 A or more of the window are 5 to 45 A away and hold 0.1 or more of the kernel: 20 times brighter, they raise
    # the continuum by 19 * 0.1 of it or more, where bands of 0.4 leave at least half of that.
    assert beside.sum() > 20
    assert ratio[beside].max() < 1 / (1 + 0.5 * 19 * 0.1)
    far = (PAPER.wavelength > window.high + 245) | (PAPER.wavelength < window.low - 245)
    assert np.abs(ratio[far] - 1).max() <= 4 * ROUNDING


# ---- trap (d): the ends


def test_trap_d_the_continuum_has_support_beyond_the_ends():
    slope = 1e-3
    line = on_log_lambda(slope * (WAVE - 5000.0))
    for grid, most, least in ((STARGAP, 0.15, 0.1), (PAPER, 24.0, 23.0)):
        star = prepare(line, at(0.0), grid)
        _, shift, error = ends(grid)
        for end in (0, -1):
            assert least < abs(shift[end]) < most
            true = slope * (grid.wavelength[end] - 5000.0)
            found = true + slope * shift[end]
            tolerance = slope * error / true + 3 * ROUNDING
            assert bool(star.good[0, end])
            assert float(star.continuum[0, end]) == pytest.approx(found, rel=tolerance)
            assert float(star.flux[0, end]) == pytest.approx(true / found, rel=tolerance)


# ---- trap (e): bad pixels take a part of the kernel


def planted_gaps(rv):
    """Bad pixels as saturation and cosmics leave them: blocks at band heads, and one in twelve elsewhere."""
    rest = WAVE / doppler(rv)
    bad = np.random.default_rng(15).random(WAVE.size) < 0.08
    for low, high in ((6080, 6130), (7010, 7045), (7450, 7500), (8420, 8470)):
        bad |= (rest > low) & (rest < high)
    return bad


@pytest.mark.parametrize("rv", [-90.0, 140.0])
def test_trap_e_the_model_with_the_star_s_weights_is_the_star(rv):
    bad = planted_gaps(rv)
    flux = bands(WAVE / doppler(rv))
    star = prepare(on_log_lambda(np.where(bad, 9.0, flux), np.where(bad, 0.0, 1e4)), at(rv), STARGAP)
    model = blur(f32(bands(STARGAP.support))[None], star.blur)
    ours, continuum, held = normalise(model, star.weight, STARGAP)
    good = star.good
    smear = smearing_bound(BANDS_2, BANDS_3, BANDS_4, GAP.max(), abs(rv) / SPEED_OF_LIGHT)
    floor = float(star.continuum[good].min())
    tolerance = smear / floor * (1 + float(star.flux[good].max())) + 4 * ROUNDING
    assert tolerance < 2e-3
    assert int(good.sum()) > 1500
    assert float((ours - star.flux)[good].abs().max()) < tolerance
    through = smoother_for(STARGAP)(star.weight * model)[:, STARGAP.inner] * star.inverse_kernel
    assert torch.allclose(through[good], continuum[good], rtol=2 * UNIT, atol=0)
    assert torch.allclose(star.inverse_kernel[good], 1 / held[good], rtol=2 * UNIT, atol=0)


def test_trap_e_the_paper_compares_with_a_fully_normalised_model():
    bad = planted_gaps(0.0)
    flux = bands(WAVE)
    native = on_log_lambda(
        np.stack([flux, np.where(bad, 9.0, flux)]), np.stack([0 * WAVE + 1e4, np.where(bad, 0, 1e4)])
    )
    star = prepare(native, at(0.0, 0.0), PAPER)
    assert bool((star.weight == 1).all())
    assert bool((star.blur == 0).all())
    model, _, _ = normalise(f32(bands(PAPER.support))[None], star.weight[:1], PAPER)
    smear = BANDS_2 * GAP.max() ** 2 / 8
    whole = kernel_matrix(PAPER)[0].sum(axis=1) / kernel_matrix(PAPER)[1]
    np.testing.assert_allclose(star.inverse_kernel, [1 / whole] * 2, rtol=2 * ROUNDING)
    off = ((model - star.flux) * star.good).abs().numpy()
    floor = float(star.continuum[star.good].min())
    tolerance = smear / floor * (1 + float(star.flux[star.good].max())) + 4 * ROUNDING
    assert off[0].max() < tolerance
    assert off[1].max() > 3 * tolerance


# ---- the blur


@few
@given(amount=st.floats(0.0, 0.5), place=st.integers(3, 36))
def test_blur_adds_its_variance_and_keeps_the_flux(amount, place):
    line = torch.zeros(40, dtype=torch.float64)
    line[place] = 1.0
    smeared = blur(line, torch.tensor(amount, dtype=torch.float64))
    x = torch.arange(40) - place
    assert float(smeared.sum()) == pytest.approx(1.0, abs=1e-14)
    assert float((smeared * x).sum()) == pytest.approx(0.0, abs=1e-14)
    assert float((smeared * x**2).sum()) == pytest.approx(2 * amount, abs=1e-14)


def test_blur_leaves_straight_lines_alone_and_keeps_the_flux_at_the_ends():
    line = torch.linspace(1.0, 3.0, 50, dtype=torch.float64)
    assert torch.allclose(blur(line, torch.tensor(0.3))[1:-1], line[1:-1], rtol=1e-14)
    ramp = torch.rand(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(blur(ramp, torch.tensor(0.2)).sum(dim=1), ramp.sum(dim=1), rtol=1e-14)


@pytest.mark.parametrize("distance", [1.38, 1.7, 2.05])
@pytest.mark.parametrize("sigma", [2.5, 4.0])
def test_blur_is_the_smearing_of_linear_interpolation(distance, sigma):
    pixels = np.arange(-60.0, 61.0)

    def line(x):
        return np.exp(-0.5 * (x / sigma) ** 2)

    bound = smearing_bound(1 / sigma**2, 1.39 / sigma**3, 3 / sigma**4, distance)
    largest = []
    for start in np.linspace(0, distance, 9)[:-1]:
        nodes = start - 100 + distance * np.arange(200)
        resampled = np.interp(pixels, nodes, line(nodes))
        t = np.mod((pixels - nodes[0]) / distance, 1.0)
        smeared = blur(torch.as_tensor(line(pixels)), torch.as_tensor(t * (1 - t) * distance**2 / 2)).numpy()
        assert np.abs(resampled - smeared).max() < bound
        largest.append(np.abs(resampled - line(pixels)).max())
    # At half a pixel the middle of the line loses D^2 / (8 sigma^2) of its height, less its fourth order.
    unseen = distance**2 / 8 / sigma**2 - 3 / sigma**4 * distance**4 / 16 / 24
    assert max(largest) > 0.95 * unseen
    assert unseen > 1.5 * bound


@GRIDS
def test_the_blur_of_a_star_follows_the_phase_of_its_pixels(grid):
    star = prepare(on_log_lambda(bands(WAVE)), at(75.0), grid)
    if grid is PAPER:
        assert not star.blur.any()
        return
    seen = grid.support * doppler(75.0)
    left = np.searchsorted(WAVE, seen, side="right") - 1
    t = (seen - WAVE[left]) / GAP[left]
    np.testing.assert_allclose(star.fraction[0].numpy(), t, atol=UNIT)
    np.testing.assert_allclose(star.blur[0].numpy(), t * (1 - t) * GAP[left] ** 2 / 2, atol=8 * UNIT)


# ---- spikes


def killed(batch):
    return int(batch.spikes.sum())


def expect_spikes(flux, ivar, pixels):
    """`pixels` are found, counted and given weight zero, and the rest is as if they had been bad in the file."""
    found = to_log_lambda([observed(flux, ivar)])
    mask = np.asarray(ivar, dtype=float).copy()
    mask[pixels] = 0.0
    known = to_log_lambda([observed(flux, mask)])
    assert killed(known) == 0
    assert found.spikes.tolist() == [len(pixels)]
    assert torch.equal(found.ivar > 0, known.ivar > 0)
    one, two = prepare(found, at(33.0)), prepare(known, at(33.0))
    assert torch.equal(one.good, two.good)
    np.testing.assert_allclose(one.flux, two.flux, rtol=4 * ROUNDING, atol=1e-30)
    np.testing.assert_allclose(one.sigma, two.sigma, rtol=4 * ROUNDING)


NEAR_HALPHA = st.integers(int(np.searchsorted(WAVE, 6530.0)), int(np.searchsorted(WAVE, 6605.0)))


@many
@given(
    pixel=st.integers(3, WAVE.size - 4) | NEAR_HALPHA,
    sigmas=st.sampled_from((1e2, 1e3, 1e6, 1e9)),
    sign=st.sampled_from((-1, 1)),
    snr=st.sampled_from((5.0, 20.0, 300.0)),
)
def test_case_18_a_spike_is_found_wherever_it_is(pixel, sigmas, sign, snr):
    rng = np.random.default_rng(16)
    flux = bands(WAVE) + rng.standard_normal(WAVE.size) / snr
    height = max(sigmas / snr, 8.0)
    flux[pixel] += sign * height
    expect_spikes(flux, np.full(WAVE.size, snr**2), [pixel])


def test_several_spikes_and_wide_ones_are_counted_row_by_row():
    flux = np.stack([bands(WAVE)] * 3)
    hits = [[], [100, 700, 701, 1500], [300, 301, 302, 303]]
    for row, pixels in enumerate(hits):
        flux[row, pixels] = 1e4
    batch = to_log_lambda([observed(row) for row in flux])
    assert batch.spikes.tolist() == [0, 4, 4]
    for row, pixels in enumerate(hits):
        assert torch.nonzero(batch.ivar[row] == 0)[:, 0].tolist() == pixels


@pytest.mark.parametrize("pixel", [0, 1, WAVE.size - 1])
def test_a_spike_at_the_end_of_the_log_lambda_grid(pixel):
    flux = bands(WAVE)
    flux[pixel] = 1e6
    expect_spikes(flux, np.full(WAVE.size, 1e4), [pixel])


def test_a_spike_among_bad_pixels_is_judged_by_the_good_ones():
    flux, ivar = bands(WAVE), np.full(WAVE.size, 1e4)
    flux[795:806], ivar[795:806] = 1e5, 0.0
    ivar[[799, 800, 803]] = 1e4
    flux[[799, 803]] = 1.0
    expect_spikes(flux, ivar, [800])


@pytest.mark.parametrize(
    ("level", "sigma", "found"),
    [(3.9, 1e-3, 0), (4.1, 1e-3, 1), (8.0, 0.36, 0), (8.0, 0.34, 1), (-2.9, 1e-3, 0), (-3.1, 1e-3, 1), (1.02, 1e-4, 0)],
)
def test_a_spike_is_3_times_the_level_and_20_sigma_away(level, sigma, found):
    flux = np.ones(WAVE.size)
    flux[900] = level
    batch = to_log_lambda([observed(flux, np.full(WAVE.size, sigma**-2))])
    assert killed(batch) == found
    assert int((batch.ivar == 0).sum()) == found


def test_a_pixel_like_its_good_neighbours_is_no_spike_whatever_the_bad_ones_hold():
    flux, ivar = bands(WAVE), np.full(WAVE.size, 1e4)
    flux[795:806], ivar[795:806] = 0.0, 0.0
    flux[[798, 799, 800, 801]], ivar[[798, 799, 800, 801]] = [10.0, 11.0, 20.0, 12.0], 1e4
    assert killed(to_log_lambda([observed(flux, ivar)])) == 0


@many
@given(
    width=st.sampled_from((1.2, 1.6, 4.0)),
    height=st.floats(3.0, 2000.0),
    rv=st.floats(-600.0, 600.0),
    snr=st.sampled_from((10.0, 100.0, 1000.0)),
)
def test_h_alpha_emission_is_never_a_spike(width, height, rv, snr):
    # R = 1800 has a sigma of 1.55 A; 1.2 A is R = 2300, sharper than any fibre of either survey.
    rng = np.random.default_rng(17)
    line = 6564.61 * doppler(rv)
    flux = bands(WAVE) + height * np.exp(-0.5 * ((WAVE - line) / width) ** 2)
    flux += rng.standard_normal(WAVE.size) / snr
    batch = to_log_lambda([observed(flux, np.full(WAVE.size, snr**2))])
    assert killed(batch) == 0
    assert (batch.ivar > 0).all()


@pytest.mark.parametrize("gone", [(-1,), (0,), (1,), (2,), (-1, 1), (0, 2)])
@pytest.mark.parametrize("height", [4.0, 10.0, 100.0])
def test_h_alpha_emission_beside_bad_pixels_is_no_spike_either(height, gone):
    first = int(np.searchsorted(WAVE, 6564.61))
    for phase in np.linspace(0, 1, 9):
        line = WAVE[first] + phase * GAP[first]
        flux = bands(WAVE) + height * np.exp(-0.5 * ((WAVE - line) / 1.55) ** 2)
        ivar = np.full(WAVE.size, 1e4)
        ivar[first + np.array(gone)] = 0.0
        assert killed(to_log_lambda([observed(flux, ivar)])) == 0, phase


@pytest.mark.parametrize("snr", [0.1, 1.0, 30.0, 1e4])
def test_case_19_no_star_has_spikes_at_any_noise(snr):
    stars = mock_stars(shipped_emulator(), 16, seed=18, snr=np.full(16, snr), active_fraction=1.0, bad_pixels=False)
    spectra = [Spectrum(stars.wavelength, *arrays) for arrays in zip(stars.flux, stars.ivar, strict=True)]
    batch = to_log_lambda(spectra)
    assert killed(batch) == 0
    star = prepare(batch, torch.as_tensor(stars.rv))
    check_prepared(star, STARGAP)
    if snr > 10:
        assert (star.bad_fraction < 0.05).all()
        assert not star.bad_continuum.any()


# ---- broken pixels: cases 10 to 16, 22, 23, 26


def gentle():
    return 1 + 0.1 * np.sin(WAVE / 50)


def broken(name):
    flux, ivar = gentle(), np.full(WAVE.size, 100.0)
    some = np.arange(WAVE.size) % 11 == 0
    values = {
        "10 flux all NaN": (flux * np.nan, ivar),
        "11 ivar all NaN": (flux, ivar * np.nan),
        "12 ivar all 0": (flux, ivar * 0),
        "13 ivar all negative": (flux, -ivar),
        "13 ivar all infinite": (flux, ivar * np.inf),
        "23 ivar all denormal": (flux, ivar * 0 + 5e-324),
        "23 ivar all 1e308": (flux, ivar * 0 + 1e308),
        "10 some flux NaN": (np.where(some, np.nan, flux), ivar),
        "10 some flux infinite": (np.where(some, np.inf, flux), ivar),
        "11 some ivar NaN": (flux, np.where(some, np.nan, ivar)),
        "13 some ivar negative": (flux, np.where(some, -1.0, ivar)),
        "13 some ivar infinite": (flux, np.where(some, np.inf, ivar)),
        "23 some flux 1e300": (np.where(some, 1e300, flux), ivar),
        "23 some ivar 1e300": (flux, np.where(some, 1e300, ivar)),
        "23 some ivar denormal": (flux, np.where(some, 5e-324, ivar)),
    }
    return values[name], np.ones(WAVE.size, dtype=bool) if " all " in name else some


ALL_BAD = (
    "10 flux all NaN", "11 ivar all NaN", "12 ivar all 0", "13 ivar all negative", "13 ivar all infinite",
    "23 ivar all denormal", "23 ivar all 1e308",
)  # fmt: skip
SOME_BAD = (
    "10 some flux NaN", "10 some flux infinite", "11 some ivar NaN", "13 some ivar negative",
    "13 some ivar infinite", "23 some flux 1e300", "23 some ivar 1e300", "23 some ivar denormal",
)  # fmt: skip


@pytest.mark.parametrize("checked", [True, False], ids=("as read", "as given"))
@pytest.mark.parametrize("name", [*ALL_BAD, *SOME_BAD])
def test_cases_10_to_13_and_23_bad_pixels_have_weight_zero(name, checked):
    (flux, ivar), bad = broken(name)
    spectrum = observed(flux, ivar)
    if checked:
        spectrum = check_spectrum(Content(WAVE, flux, ivar), "a.fits")
    batch = to_log_lambda([observed(gentle()), spectrum])
    assert torch.equal(batch.ivar[1] == 0, torch.as_tensor(bad))
    assert not batch.flux[1, torch.as_tensor(bad)].any()
    for grid in (STARGAP, PAPER):
        star = prepare(batch, at(20.0, 20.0), grid)
        check_prepared(star, grid)
        alone = prepare(to_log_lambda([observed(gentle())] * 2), at(20.0, 20.0), grid)
        assert torch.equal(star.flux[0], alone.flux[0])
        touched = torch.as_tensor(bad)[star.index[1]] | torch.as_tensor(bad)[star.index[1] + 1]
        assert torch.equal(star.good[1], alone.good[0] & ~touched[grid.inner])
        if bad.all():
            assert float(star.bad_fraction[1]) == 1.0
            assert not star.flux[1].any()


@GRIDS
def test_case_14_zero_and_constant_flux(grid):
    star = prepare(to_log_lambda([observed(0 * WAVE), observed(0 * WAVE + 7e5, 0 * WAVE + 1e-8)]), at(0.0, 0.0), grid)
    check_prepared(star, grid)
    assert not star.good[0].any()
    assert not star.flux[0].any()
    assert star.bad_continuum.tolist() == [True, False]
    assert float((star.flux[1] - 1).abs()[star.good[1]].max()) < 2 * ROUNDING
    assert float(star.bad_fraction[1]) < 0.01


@GRIDS
def test_case_15_a_continuum_that_is_not_positive(grid):
    sunken = np.where(np.abs(WAVE - 7500) < 70, -1.0, 1.0)
    noise = np.random.default_rng(19).standard_normal(WAVE.size)
    star = prepare(to_log_lambda([observed(-gentle()), observed(sunken), observed(noise)]), at(0, 0, 0), grid)
    check_prepared(star, grid)
    assert star.bad_continuum.tolist() == [True, True, True]
    assert not star.good[0].any()
    # The kernel of 30 A is within 70 A of 7500 A: the continuum there is below zero, at 7700 A it is not.
    middle, beside = (np.abs(grid.wavelength - x) < 10 for x in (7500, 7750))
    assert not star.good[1].numpy()[middle].any()
    assert star.good[1].numpy()[beside].all()


@GRIDS
@pytest.mark.parametrize("level", [1.0, 1e-3, 1e-30])
def test_a_continuum_of_next_to_nothing_gives_no_good_pixels_without_an_error(grid, level):
    flux = 0 * WAVE
    flux[800] = level
    star = prepare(to_log_lambda([observed(flux, np.full(WAVE.size, 1e-9 / level))]), at(0.0), grid)
    check_prepared(star, grid)


@GRIDS
@pytest.mark.parametrize("pixels", [[900], [900, 901], [900, 902]])
def test_case_16_one_good_pixel(grid, pixels):
    ivar = 0 * WAVE
    ivar[pixels] = 100.0
    star = prepare(to_log_lambda([observed(gentle(), ivar)]), at(0.0), grid)
    check_prepared(star, grid)
    assert int((star.native.ivar > 0).sum()) == len(pixels)
    # Two native neighbours hold two resampled pixels: far below a tenth of the kernel.
    assert not star.good.any()
    assert float(star.bad_fraction) == 1.0
    assert not bool(star.bad_continuum)


@GRIDS
@pytest.mark.parametrize("rv", [-250.0, 0.0, 250.0])
@pytest.mark.parametrize(("low", "high"), [(7042.0, 7136.0), (6557.0, 6572.0), (8000.0, 8700.0)])
def test_cases_17_and_22_a_range_that_is_fully_bad_after_the_shift(grid, rv, low, high):
    rest = WAVE / doppler(rv)
    gone = (rest > low) & (rest < high)
    clean = bands(rest)
    ivar = np.full((2, WAVE.size), 1e4)
    ivar[1, gone] = 0
    star = prepare(
        to_log_lambda([observed(clean, ivar[0]), observed(np.where(gone, 1e9, clean), ivar[1])]), at(rv, rv), grid
    )
    check_prepared(star, grid)
    assert killed(star.native) == 0
    inside = (grid.wavelength >= low) & (grid.wavelength <= high)
    assert not star.good[1].numpy()[inside].any()
    far = (grid.wavelength < low - 245) | (grid.wavelength > high + 245)
    assert torch.equal(star.good[0, far], star.good[1, far])
    np.testing.assert_allclose(star.flux[1, far], star.flux[0, far], rtol=4 * ROUNDING)
    assert float(star.bad_fraction[1]) >= float(star.bad_fraction[0])


@GRIDS
@pytest.mark.parametrize("unit", [1e-310, 1e-150, 1e-40, 1e40, 1e150, 1e160, 1e300])
def test_case_23_any_size_of_flux(grid, unit):
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        ivar = np.float64(1e4) / np.float64(unit) ** 2
    ivar = float(np.clip(ivar, 5e-324, 1.7e308))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = to_log_lambda([observed(unit * gentle(), np.full(WAVE.size, ivar)), observed(gentle())])
        star = prepare(batch, at(0.0, 0.0), grid)
    check_prepared(star, grid)
    if 1e-150 <= unit <= 1e150:
        assert (batch.ivar[0] > 0).all()
        np.testing.assert_allclose(star.flux[0], star.flux[1], rtol=4 * ROUNDING)
        np.testing.assert_allclose(star.sigma[0], star.sigma[1], rtol=4 * ROUNDING)
        assert torch.equal(star.good[0], star.good[1])


def test_case_23_a_spike_that_overflows_in_the_star_s_own_unit():
    flux = 1e-30 * gentle()
    flux[800] = 1e300
    batch = to_log_lambda([observed(flux, np.full(WAVE.size, 1e64))])
    assert torch.nonzero(batch.ivar[0] == 0)[:, 0].tolist() == [800]
    check_prepared(prepare(batch, at(0.0)), STARGAP)


SMALL = (0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e-200, 1e-30)
LARGE = (1e12, 1e13, 1e30, -1e30, 1e200, 1.7e308, -1.7e308)
WILD = st.sampled_from((*SMALL, 1.0, -1.0, *LARGE, np.nan, np.inf, -np.inf))


@GRIDS
@many
@given(
    edits=st.lists(
        st.tuples(st.integers(0, WAVE.size - 1), st.integers(1, 400), WILD, WILD | st.just(100.0)), max_size=5
    ),
    rv=st.sampled_from((0.0, 300.0, -1e4, 1e9, -299792.458, np.nan, np.inf, -np.inf)),
)
def test_whatever_the_pixels_hold_the_other_star_and_every_promise_stand(grid, edits, rv):
    flux, ivar = gentle(), np.full(WAVE.size, 100.0)
    for start, length, level, weight in edits:
        flux[start : start + length], ivar[start : start + length] = level, weight
    native = to_log_lambda([observed(gentle()), observed(flux, ivar)])
    star = prepare(native, at(20.0, rv), grid)
    check_prepared(star, grid)
    kept = torch.as_tensor((ivar > 0) & np.isfinite(ivar) & np.isfinite(flux))
    assert not (native.ivar[1].bool() & ~kept).any()
    calm = prepare(to_log_lambda([observed(gentle())] * 2), at(20.0, 20.0), grid)
    for name in ("flux", "sigma", "good", "continuum", "weight"):
        assert torch.equal(getattr(star, name)[0], getattr(calm, name)[0]), name


@GRIDS
def test_case_26_a_batch_of_none(grid):
    batch = to_log_lambda([])
    assert len(batch) == 0
    check_prepared(prepare(batch, torch.zeros(0), grid), grid)


@GRIDS
def test_case_26_a_batch_of_one(m_dwarfs, grid):
    spectra = [Spectrum(m_dwarfs.wavelength, *arrays) for arrays in zip(m_dwarfs.flux, m_dwarfs.ivar, strict=True)]
    rv = torch.as_tensor(m_dwarfs.rv)
    whole = prepare(to_log_lambda(spectra), rv, grid)
    for row, spectrum in enumerate(spectra):
        one = prepare(to_log_lambda([spectrum]), rv[row : row + 1], grid)
        assert torch.equal(one.good[0], whole.good[row])
        assert torch.equal(one.native.flux[0], whole.native.flux[row])
        np.testing.assert_allclose(one.flux[0], whole.flux[row], rtol=4 * ROUNDING)
        np.testing.assert_allclose(one.sigma[0], whole.sigma[row], rtol=4 * ROUNDING)


def test_simulated_stars_normalise_to_about_one(prepared_dwarfs):
    spectra, star = prepared_dwarfs
    check_prepared(star, STARGAP)
    assert len(spectra) == star.flux.shape[0]
    for flux, sigma, good in zip(star.flux, star.sigma, star.good, strict=True):
        mean = float(flux[good].mean())
        assert abs(mean - 1) < 0.05
        assert float(sigma[good].median()) < 0.2
    for low, high in pairwise((6000, 7000, 8000, 8900)):
        here = (STARGAP.wavelength >= low) & (STARGAP.wavelength < high)
        assert star.good[:, here].any(dim=1).all()
