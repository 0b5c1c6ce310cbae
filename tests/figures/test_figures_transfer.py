"""Figures of a transfer: what they show, also of nothing and of numbers that are not finite."""

from __future__ import annotations

import io

import numpy as np
import pytest

from stargap.figures.transfer import losses_figure, residual_figure, tsne_figure

NAN = np.nan


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(figure):
    """The figure, after it could be written."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=40)
        assert file.getvalue().startswith(b"\x89PNG")
    return figure


def texts(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_tsne_panels(rng):
    before = {"synthetic": rng.normal(size=(30, 2)), "observed": rng.normal(size=(20, 2))}
    after = {"transferred": rng.normal(size=(30, 2)), "observed": rng.normal(size=(20, 2))}
    figure = drawn(tsne_figure(before, after))
    assert [axis.get_title() for axis in figure.axes] == ["before the transfer", "after"]
    assert len(figure.axes[0].collections[0].get_offsets()) == 50
    colours = [[tuple(c.get_facecolors()[0][:3]) for c in axis.collections[1:]] for axis in figure.axes]
    assert colours[0][1] == colours[1][1], "observed stars keep their colour"
    assert len({*colours[0], *colours[1]}) == 3
    assert len(drawn(tsne_figure(before, after, shared=before)).axes) == 3


def test_residuals_tell_their_medians(rng):
    before, after = 2 + rng.random(99), 1 + rng.random(99)
    before[3] = NAN
    (axis,) = drawn(residual_figure(before, after, 0.8 * np.ones(99))).axes
    said = texts(axis)
    assert said[0] == f"synthetic: {np.nanmedian(before):.2f}"
    assert said[1] == f"transferred: {np.median(after):.2f}"
    assert said[2].endswith("0.80")
    drawn(residual_figure(np.full(3, NAN), np.empty(0)))


def test_losses_of_both_sides_and_scores_are_drawn_against_the_step():
    metrics = {
        "step": np.array([100.0, 100.0, 200.0, 200.0]),
        "generator.loss": np.array([2.5, NAN, 1.5, NAN]),
        "generator.gradient": np.array([9.0, NAN, 9.0, NAN]),
        "critic.loss": np.array([1.0, NAN, 1.1, NAN]),
        "validation.score": np.array([NAN, 3.0, NAN, 4.0]),
        "best": np.array([NAN, 1.0, NAN, 0.0]),
    }
    generators, critics, validation = drawn(losses_figure(metrics)).axes
    for axis, values in ((generators, [2.5, 1.5]), (critics, [1.0, 1.1]), (validation, [3.0, 4.0])):
        line, best = axis.lines
        assert line.get_ydata().tolist() == values
        assert line.get_xdata().tolist() == [100.0, 200.0]
        assert set(best.get_xdata()) == {100.0}
    assert len(drawn(losses_figure({"step": np.empty(0)})).axes) == 3
