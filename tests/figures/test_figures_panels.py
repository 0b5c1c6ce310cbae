"""Pieces of figures: rows, limits, points or maps, words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.figures.panels import (
    CELLS,
    DENSE,
    count_bar,
    difference_text,
    draw_stars,
    finite_rows,
    limits,
    metal_norm,
    running_median,
)
from stargap.figures.style import new_figure
from stargap.statistics import statistics

SPAN = (0.0, 1.0), (0.0, 1.0)
numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def panel():
    return new_figure(3, 3).subplots()


def test_rows_are_those_finite_in_every_column():
    masked = np.ma.array([1, 2, 3, 4], mask=[False, True, False, False])
    x, y = finite_rows(masked, np.array([1.0, 2.0, np.inf, 5.0]))
    assert x.tolist() == [1, 4]
    assert y.tolist() == [1, 5]
    with pytest.raises(UsageError, match="one number a star"):
        finite_rows([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="one number a star"):
        finite_rows(np.ones((2, 2)))


@given(numbers)
def test_limits_hold_the_middle_and_a_margin(values):
    array = np.array(values)
    low, high = limits(array)
    assert low < high
    assert low < np.median(array) < high
    shown = array[(array > low) & (array < high)]
    assert len(shown) >= 0.9 * len(array) - 2


@given(numbers, st.floats(0.1, 10), st.floats(-100, 100))
def test_limits_move_with_the_values(values, scale, shift):
    array = np.array(values)
    if np.ptp(array) > 1e-3:
        moved = limits(scale * array + shift)
        np.testing.assert_allclose(moved, scale * np.array(limits(array)) + shift, rtol=1e-6, atol=1e-6 * scale * 1e6)


def test_limits_hold_all_of_a_normal_distribution_but_no_mistake():
    values = np.random.default_rng(0).normal(3500, 200, 100_000)
    low, high = limits(values)
    assert low < values.min()
    assert high > values.max()
    assert limits(np.append(values, [1e30, -1e30])) == pytest.approx((low, high), abs=1.0)
    assert limits(np.empty(0)) == (0.0, 1.0)
    assert limits(np.array([3.0])) == pytest.approx((2.97, 3.03))
    low, high = limits(np.zeros(5))
    assert low < 0 < high


@pytest.mark.parametrize("count", [1, 7, DENSE])
def test_few_stars_are_points(count):
    axis = panel()
    x = np.linspace(0, 1, count)
    assert draw_stars(axis, x, x, span=SPAN) is None
    (points,) = axis.collections
    np.testing.assert_array_equal(points.get_offsets(), np.column_stack([x, x]))
    assert not axis.texts


def test_many_stars_are_a_map_whose_cells_hold_them_all():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, (2, 2 * DENSE))
    y **= 2
    axis = panel()
    drawn = draw_stars(axis, x, y, span=SPAN)
    count = drawn.get_array()
    assert count.size == CELLS**2
    assert count.sum() == 2 * DENSE
    # rows of the map are y, its columns x
    cells = count.filled(0).reshape(CELLS, CELLS)
    assert cells[: CELLS // 2, CELLS // 2 :].sum() == ((x > 0.5) & (y < 0.5)).sum()
    assert cells[CELLS // 2 :, : CELLS // 2].sum() == ((x < 0.5) & (y > 0.5)).sum()
    x[:3] = 2.0
    axis = panel()
    assert draw_stars(axis, x, y, span=SPAN).get_array().sum() == 2 * DENSE - 3
    assert axis.texts[0].get_text() == "3 outside"


def test_a_map_of_metals_is_their_mean():
    x, y = np.random.default_rng(1).uniform(0, 1, (2, 4 * DENSE))
    axis = panel()
    assert draw_stars(axis, x, y, span=SPAN, m_h=np.where(x < 0.5, -1.0, 0.25), norm=metal_norm()) is None
    (mesh,) = axis.collections
    cells = mesh.get_array().reshape(CELLS, CELLS)
    assert cells[:, : CELLS // 2].mean() == pytest.approx(-1.0)
    assert cells[:, CELLS // 2 :].mean() == pytest.approx(0.25)


def test_no_stars_say_so_and_stars_outside_are_counted():
    axis = panel()
    assert draw_stars(axis, np.empty(0), np.empty(0), span=SPAN) is None
    assert [text.get_text() for text in axis.texts] == ["no stars"]
    axis = panel()
    draw_stars(axis, np.array([0.5, 3.0]), np.array([0.5, 0.5]), span=SPAN)
    assert [text.get_text() for text in axis.texts] == ["1 outside"]
    assert len(axis.collections[0].get_offsets()) == 1


def test_maps_of_a_figure_share_one_scale():
    figure = new_figure(6, 3)
    x, y = np.random.default_rng(1).normal(0.5, 0.1, (2, 2 * DENSE))
    axes = figure.subplots(1, 3).tolist()
    maps = [draw_stars(axis, x**power, y, span=SPAN) for axis, power in zip(axes[:2], (1, 3), strict=True)]
    count_bar(figure, axes, [*maps, None])
    assert len(figure.axes) == 4
    assert maps[0].norm is maps[1].norm
    assert maps[0].norm.vmax == max(one.get_array().max() for one in maps)
    count_bar(new_figure(3, 3), [], [None])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_words_are_the_statistics(values):
    delta = np.array(values)
    expected = statistics(delta, np.zeros(len(delta)))
    words = difference_text(delta, 3).split("\n")
    assert words[0] == f"n {len(delta)}"
    for line, value in zip(words[1:], expected[:3], strict=True):
        assert float(line.split()[-1]) == pytest.approx(value, abs=6e-4)


def test_words_of_few():
    assert difference_text(np.empty(0), 2) == "n 0"
    assert difference_text(np.array([-0.001]), 2) == "n 1\nmedian +0.00", "no scatter of one, no minus before zero"


def test_metal_norm_is_never_empty():
    for values in ([], [0.0], [-0.3, -0.3], [-2.0, 0.5]):
        norm = metal_norm(np.array(values, dtype=float))
        assert norm.vmin < norm.vmax


def test_running_median():
    x = np.arange(120.0)[::-1]
    middle, values = running_median(x, 2 * x)
    assert len(middle) == 12
    np.testing.assert_array_equal(values, 2 * middle)
    assert (np.diff(middle) > 0).all()
    assert len(running_median(np.arange(3.0), np.arange(3.0))[0]) == 0
