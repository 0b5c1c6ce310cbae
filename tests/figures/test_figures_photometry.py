"""Spectrum against photometry: numbers of the panels, and figures of any number of stars."""

import io

import numpy as np
import pytest

from stargap.figures.photometry import LABELS, agreement, photometry_figure


def stars(count, *, slope=1.0, noise=(0.09, 0.08), scatter=0.05, seed=0):
    rng = np.random.default_rng(seed)
    related = rng.normal(0, 0.25, count)
    true = related + rng.normal(0, scatter, count)
    photometry = related + rng.normal(0, noise[1], count)
    return slope * true + 0.05 + rng.normal(0, noise[0], count), photometry, rng.uniform(3, 100, count)


@pytest.mark.parametrize("slope", [0.6, 1.0, 1.2])
def test_noise_and_scatter_do_not_flatten_the_slope(slope):
    spectrum, photometry, snr = stars(20_000, slope=slope)
    for row in agreement(spectrum, photometry, snr, noise=0.08):
        assert row.stars == (snr > row.least_snr).sum()
        assert row.slope == pytest.approx(slope, abs=0.05)
        assert row.median == pytest.approx(0.05, abs=0.02)
    if slope == 1:
        assert row.scatter == pytest.approx(np.sqrt(0.09**2 + 0.08**2 + 0.05**2), rel=0.06)


def test_outliers_do_not_count():
    spectrum, photometry, snr = stars(2000)
    spectrum[::50] += 3.0
    row = next(agreement(spectrum, photometry, snr))
    assert row.scatter < 0.15
    assert row.median == pytest.approx(0.05, abs=0.02)


def test_few_stars_have_no_slope():
    rows = list(agreement([1.0, 2.0, np.nan], [1.1, np.nan, 2.0], [60.0, 60.0, 60.0]))
    assert [row.stars for row in rows] == [1, 1, 1]
    assert all(np.isnan([row.slope, row.scatter]).all() for row in rows)


@pytest.mark.parametrize("count", [0, 1, 300, 12_000])
def test_it_is_drawn(count):
    spectrum, photometry, snr = stars(max(count, 1))
    scale = {"teff": (3500, 800), "logg": (4.9, 0.3), "m_h": (0, 1)}
    ours = {name: middle + width * spectrum[:count] for name, (middle, width) in scale.items()}
    theirs = {name: middle + width * photometry[:count] for name, (middle, width) in scale.items()}
    figure = photometry_figure(ours, theirs, snr[:count], title="simulated stars")
    assert [axis.get_xlabel()[:11] for axis in figure.axes[:3]] == ["photometric"] * 3
    told = "\n".join(text.get_text() for axis in figure.axes[:3] for text in axis.texts)
    assert ("slope" in told) == (count > 10)
    assert ("no stars" in told) or count
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    if count:
        errors = {name: np.full(count, 1e-3) for name in LABELS}
        both = photometry_figure(ours, theirs, snr[:count], noise=errors, errors={"spectrum alone": errors})
        assert [axis.get_xlabel() for axis in both.axes[3:6]] == ["S/N in r"] * 3
        assert both.axes[3].get_legend().get_texts()[0].get_text() == "spectrum alone"
        both.savefig(io.BytesIO(), format="png", dpi=40)
