"""Figures of a transfer: what they show, also of nothing and of numbers that are not finite."""

from __future__ import annotations

import io

import numpy as np
import pytest

from stargap.figures.transfer import (
    correction_figure,
    losses_figure,
    recovery_by_level_figure,
    residual_figure,
    split_figure,
    tsne_figure,
)
from stargap.pixels import STARGAP, WINDOWS

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


def labels(rng, count):
    return np.column_stack(
        [rng.uniform(3000, 4200, count), rng.normal(4.8, 0.1, count), rng.normal(0, 0.2, count), np.zeros(count)]
    )


def texts(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_figures_leave_the_global_state_alone(rng):
    from matplotlib import pyplot

    drawn(residual_figure(rng.random(50), rng.random(50)))
    assert pyplot.get_fignums() == []


def test_losses():
    metrics = {
        "step": np.array([100.0, 100.0, 200.0, 200.0]),
        "generator.loss": np.array([3.0, NAN, 2.0, NAN]),
        "generator.rec_observed": np.array([1.0, NAN, 0.5, NAN]),
        "generator.gradient": np.array([1.0, NAN, 0.5, NAN]),
        "critic.loss": np.array([1.4, NAN, 1.2, NAN]),
        "validation.score": np.array([NAN, 5.0, NAN, 6.0]),
        "validation.gap_latent": np.array([NAN, 0.1, NAN, -0.01]),
        "best": np.array([NAN, 1.0, NAN, 0.0]),
    }
    figure = drawn(losses_figure(metrics))
    generators, critics, validation = figure.axes
    assert texts(generators) == ["loss", "rec_observed"]
    assert texts(critics) == ["loss"]
    assert texts(validation) == ["score", "gap_latent"]
    np.testing.assert_array_equal(generators.lines[0].get_xydata(), [[100, 3], [200, 2]])
    assert validation.lines[1].get_xydata().tolist() == [[100, 0.1]], "a logarithm has no place for the other"
    assert validation.lines[-1].get_xdata() == [100, 100], "the best"
    drawn(losses_figure({}))


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


def test_recovery_has_a_row_a_label_and_a_column_a_method(rng):
    truth = labels(rng, 200)
    found = truth + np.array([50.0, 0.02, -0.03, 0.0])
    found[5] = NAN
    figure = drawn(recovery_by_level_figure({"plain fit": (found, truth), "transfer": (truth, truth)}))
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[:2]] == ["plain fit", "transfer"]
    said = [axis.texts[0].get_text() for axis in figure.axes]
    assert said == ["+50 ± 0", "+0 ± 0", "+0.020 ± 0.000", "+0.000 ± 0.000", "-0.030 ± 0.000", "+0.000 ± 0.000"]
    assert "Simulated" in figure.get_suptitle()
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    drawn(recovery_by_level_figure({"nothing": (np.full((2, 4), NAN), truth[:2]), "none": (truth[:0], truth[:0])}))
    drawn(recovery_by_level_figure({}))


def test_corrections_are_shown_with_the_windows(rng):
    wave = STARGAP.wavelength
    learned = 0.05 * np.sin(wave / 100)[None] * np.ones((3, 1))
    figure = drawn(correction_figure(wave, learned, 1.1 * learned, labels(rng, 3)))
    assert len(figure.axes) == 3
    for axis in figure.axes:
        assert len(axis.patches) == len(WINDOWS)
        assert axis.lines[1].get_ydata() == pytest.approx(100 * learned[0])
        assert "Teff" in axis.get_title(loc="left")


def test_split_numbers_against_the_truth(rng):
    truth = rng.normal(0, [0.06, 0.06, 5.0], (200, 3))
    z = truth + rng.normal(0, 0.01, truth.shape)
    z[7, 0] = NAN
    figure = drawn(split_figure(z, truth))
    assert len(figure.axes) == 3
    assert len(figure.axes[0].lines[0].get_xdata()) == 199
    assert "velocity" in figure.axes[2].get_title()
    (axis,) = drawn(split_figure(z[:, :1], truth[:, :1])).axes
    assert "scatter 0.0" in axis.get_title()
    drawn(split_figure(np.full((4, 1), NAN), truth[:4, :1]))
