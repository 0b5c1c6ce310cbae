"""Labels on other scales: the published lines by hand, nulls, errors; the fit of lines with errors in both."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.validation.scales import scales, to_scale

ROOT = Path(__file__).parents[2]
TABLE = json.loads((ROOT / "src/stargap/validation/data/scales.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(TABLE["scales"]))
def test_labels_follow_the_lines_of_the_table(name):
    teff, m_h = np.array([[3300.0, 3500.0], [3700.0, 4000.0]]), np.array([[-0.3, 0.0], [0.1, 0.2]])
    found = to_scale(teff, m_h, name)
    line = TABLE["scales"][name]["teff"]
    np.testing.assert_allclose(found.teff, 3500 + line["offset"] + line["slope"] * (teff - 3500))
    line = TABLE["scales"][name]["m_h"]
    np.testing.assert_allclose(found.m_h, line["offset"] + line["slope"] * m_h)
    np.testing.assert_allclose(found.e_m_h[0, 1], np.hypot(line["e_offset"], line["e_zero"]))
    assert not found.outside.any()
    assert found.teff.shape == (2, 2)


def test_extrapolations_are_null_and_flagged():
    line = TABLE["scales"]["apogee"]["teff"]
    found = to_scale([line["low"] - 1, line["low"], np.nan], [0.0, 5.0, 0.0], "apogee")
    assert found.outside.tolist() == [True, True, False]
    assert np.isnan(found.teff).tolist() == np.isnan(found.e_teff).tolist() == [True, False, True]
    assert np.isnan(found.m_h).tolist() == [False, True, False]


def test_a_scale_that_is_not_known_and_shapes_that_differ_are_refused():
    with pytest.raises(UsageError, match=r"no scale 'gspphot'; known are mann, carmenes"):
        to_scale(3500.0, 0.0, "gspphot")
    with pytest.raises(UsageError, match=r"teff has the shape \(2,\), m_h \(\)"):
        to_scale([3500.0, 3600.0], 0.0, "mann")
    assert all(scales().values())


def test_the_fit_recovers_a_line_with_errors_in_both(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "results")
    fit_line = runpy.run_path(str(ROOT / "docs/make_scales.py"))["fit_line"]
    rng = np.random.default_rng(4)
    true = rng.normal(-0.05, 0.2, 1500)
    x, y = true + rng.normal(0, 0.15, 1500), 0.1 + 0.6 * true + rng.normal(0, 0.08, 1500) + rng.normal(0, 0.05, 1500)
    start, slope, scatter = fit_line(x, np.full(1500, 0.15), y, np.full(1500, 0.08))
    # a plain regression would give a slope of 0.38
    assert slope == pytest.approx(0.6, abs=0.05)
    assert start == pytest.approx(0.1, abs=0.01)
    assert scatter == pytest.approx(0.05, abs=0.02)
