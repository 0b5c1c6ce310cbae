"""The cubic through four pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import lagrange

from stargap.theory.sampling import cubic

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def double(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float64)


@few
@given(
    factors=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    places=st.lists(st.floats(0, 19), min_size=1, max_size=40),
)
def test_cubics_are_exact(factors, places):
    def polynomial(x):
        return np.polyval(factors, (x - 10) / 10)

    values = polynomial(np.arange(20.0))
    found = cubic(double(values)[None], double(places))[0].numpy()
    # Four weights that sum to 1.25 in size, each with a few roundings.
    assert np.abs(found - polynomial(np.array(places))).max() <= 32 * 2.0**-53 * (np.abs(values).max() + 1)


@few
@given(seed=st.integers(0, 99), place=st.floats(0, 11))
def test_it_is_the_lagrange_polynomial_of_the_four_nearest(seed, place):
    values = np.random.default_rng(seed).normal(size=12)
    first = int(np.clip(np.floor(place) - 1, 0, 8))
    wanted = lagrange(np.arange(4), values[first : first + 4])(place - first)
    assert float(cubic(double(values)[None], double([place]))) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_themselves_are_kept_exactly(dtype):
    values = torch.rand(3, 30, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert torch.equal(cubic(values, torch.arange(30.0, dtype=torch.float64)), values)


def test_beyond_the_ends_the_end_value_is_returned():
    values = double([[1.0, 5.0, 2.0, 7.0, 3.0], [0.0, 1.0, 0.0, 1.0, 9.0]])
    found = cubic(values, double([-1e9, -1.0, -1e-9, 4.0 + 1e-9, 5.0, 1e9, -np.inf, np.inf]))
    assert torch.equal(found[:, [0, 1, 2, 6]], values[:, :1].expand(-1, 4))
    assert torch.equal(found[:, [3, 4, 5, 7]], values[:, -1:].expand(-1, 4))


def test_the_last_intervals_use_the_last_four_pixels():
    values = np.random.default_rng(2).normal(size=9)
    places = np.array([0.25, 0.75, 1.0, 7.0, 7.25, 7.75])
    found = cubic(double(values)[None], double(places))[0].numpy()
    left = lagrange(np.arange(4), values[:4])(places[:3])
    right = lagrange(np.arange(4), values[5:])(places[3:] - 5)
    np.testing.assert_allclose(found, np.concatenate([left, right]), atol=1e-12)


def test_four_pixels_are_enough():
    values = double([[0.0, 1.0, 8.0, 27.0]])
    places = double(np.linspace(0, 3, 13))
    np.testing.assert_allclose(cubic(values, places)[0], places**3, atol=1e-13)


def test_it_is_continuous_across_pixels():
    values = double(np.random.default_rng(3).normal(size=(1, 20)))
    pixels = torch.arange(1.0, 19.0, dtype=torch.float64)
    below, above = (cubic(values, pixels + step) for step in (-1e-9, 1e-9))
    # The slope of a cubic through values of size 3 is below 4 of them.
    assert float((below - above).abs().max()) < 2e-9 * 4 * float(values.abs().max())


def test_rows_are_read_each_at_their_own_places_or_all_at_the_same():
    rng = np.random.default_rng(4)
    values, places = double(rng.normal(size=(3, 15))), double(rng.uniform(0, 14, (3, 40)))
    whole = cubic(values, places)
    assert whole.shape == (3, 40)
    for row in range(3):
        assert torch.equal(cubic(values[row : row + 1], places[row])[0], whole[row])
        assert torch.equal(cubic(values, places[row])[row], whole[row])
    assert cubic(values[:0], places[0]).shape == (0, 40)
    assert cubic(values, places[0, :0]).shape == (3, 0)


def test_the_error_falls_with_the_fourth_power_of_the_step():
    def worst(step):
        x = np.arange(0, 12, step)
        places = np.random.default_rng(5).uniform(2 / step, 10 / step, 500)
        return np.abs(cubic(double(np.sin(x))[None], double(places))[0].numpy() - np.sin(places * step)).max()

    coarse, fine = worst(0.2), worst(0.1)
    # 3/128 h^4 in the middle of four pixels.
    assert fine <= 3 / 128 * 0.1**4 * 1.001
    assert 13 < coarse / fine < 18


def test_float32_values_keep_their_precision_at_float64_places():
    values = torch.linspace(1.0, 2.0, 3000)[None]
    places = torch.arange(2998, dtype=torch.float64) + 0.123456789
    found = cubic(values, places)
    assert found.dtype == torch.float32
    wanted = 1 + places / 2999
    assert float((found[0] - wanted).abs().max()) < 8 * 2.0**-24 * 2


def test_gradients_reach_the_values():
    values = double(np.random.default_rng(6).normal(size=(2, 8))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: cubic(v, double([0.3, 2.7, 6.9])), values)
