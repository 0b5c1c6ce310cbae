"""The reference: its density keeps the counts, each star is in it once, and the test of agreement is fair."""

from __future__ import annotations

import runpy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from label_agreement import agreement

from stargap.errors import UsageError
from stargap.theory.reference_labels import LABEL_BOXES, ReferenceDistribution, shipped_reference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=list(LABEL_BOXES))
def preset(request):
    return LABEL_BOXES[request.param]


@pytest.fixture(scope="module")
def make():
    return runpy.run_path(str(ROOT / "docs/make_label_data.py"))


def two_by_two(counts=((1, 2), (3, 4))):
    edges = np.array([3000.0, 3500.0, 4000.0]), np.array([-0.5, 0.0, 0.5])
    return ReferenceDistribution(*edges, np.array(counts, dtype=float), {})


# ---- the reference


def test_the_density_keeps_the_counts_of_bins_and_is_nowhere_negative():
    reference = shipped_reference("paper")
    inner = (np.arange(20) + 0.5) / 20
    teff, m_h = (
        (e[:-1, None] + np.diff(e)[:, None] * inner).ravel() for e in (reference.teff_edges, reference.m_h_edges)
    )
    points = np.meshgrid(teff, m_h, indexing="ij")
    density = reference.density(*(axis.ravel() for axis in points)).reshape(points[0].shape)
    assert density.min() >= -1e-18
    rows, columns = reference.counts.shape
    mean = density.reshape(rows, 20, columns, 20).mean(axis=(1, 3))
    np.testing.assert_allclose(mean * reference.area * reference.stars, reference.counts, atol=1e-9)
    assert reference.density([2999.0, 3500.0], [0.0, 0.51]).tolist() == [0, 0]


def test_edges_of_bins_show_less_than_they_would_flat():
    reference = shipped_reference("paper")
    middles = (reference.m_h_edges[7:-2] + reference.m_h_edges[8:-1]) / 2
    edges, m_h = np.meshgrid(reference.teff_edges[1:-1], middles, indexing="ij")
    step, flat = (
        np.abs(
            reference.density((edges + width).ravel(), m_h.ravel())
            - reference.density((edges - width).ravel(), m_h.ravel())
        )
        for width in (1e-6, 50.0)
    )
    assert step.mean() < 0.6 * flat.mean()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": np.ones((2, 3))}, "shape"),
        ({"teff_edges": np.array([3000.0, 4000.0, 3500.0])}, "increasing"),
        ({"counts": np.array([[1.0, -1.0], [0.0, 0.0]])}, "0 or more"),
        ({"counts": np.zeros((2, 2))}, "not all 0"),
        ({"counts": np.full((2, 2), np.nan)}, "0 or more"),
    ],
)
def test_a_reference_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        replace(two_by_two(), **changes)


def test_the_shipped_reference_counts_each_star_once(preset):
    reference = shipped_reference(preset.name)
    assert reference.stars == sum(reference.sources.values())
    assert (reference.teff_edges[0], reference.teff_edges[-1]) == preset.teff
    assert (reference.m_h_edges[0], reference.m_h_edges[-1]) == preset.m_h
    assert reference.sources["Birky2020"] <= 5875
    assert not any("ASPCAP" in source for source in reference.sources), "the same stars as Birky's"


def test_the_shipped_reference_is_what_the_script_makes(shared_data, make):
    shipped = (files("stargap") / "theory/data/reference.json").read_text(encoding="utf-8")
    assert shipped == make["reference_tables"](shared_data), "run: python docs/make_label_data.py FOLDER"


def test_offsets_between_sources_are_those_of_the_stars_they_share(shared_data, make):
    rows = make["read_rows"](shared_data / "labels/literature_labels.csv.gz")
    for source, (teff, m_h) in make["SOURCES"].items():
        stars, found_teff, found_m_h = make["offset"](rows, source)
        assert stars >= 15, source
        assert found_teff == pytest.approx(teff, abs=1.0), source
        assert found_m_h == pytest.approx(m_h, abs=0.01), source


def test_a_star_of_two_sources_is_counted_once_and_on_one_scale(make):
    def row(source, name, ra, dec, teff, m_h, logg=""):
        keys = ("source", "name", "ra", "dec", "Teff", "MH", "logg")
        return dict(zip(keys, map(str, (source, name, ra, dec, teff, m_h, logg)), strict=True))

    added = {source: [] for source in make["SOURCES"]} | make["stars"](
        [
            row("Mann2015", "A", 10, 0, 3500, 0.0),
            row("Birky2020", "far", 100, 0, 3400, 0.1),
            row("Birky2020", "moved", 10.004, 0, 3468, 0.02),
            row("Newton2015", "A", 50, 0, 3498, 0.0),
            row("Newton2015", "new", 60, 0, 3498, 0.0),
            row("Newton2015", "again", 60.0003, 0, 3498, 0.0),
            row("Newton2015", "giant", 70, 0, 3498, 0.0, 2.5),
            row("Newton2015", "nowhere", "", "", 3498, 0.0),
            row("APOGEE_ASPCAP(via Birky2020)", "far", 100, 0, 3500, 0.0),
        ]
    )
    counts = {source: len(labels) for source, labels in added.items() if len(labels)}
    assert counts == {"Mann2015": 1, "Birky2020": 1, "Newton2015": 1}
    assert added["Birky2020"][0] == pytest.approx([3432, 0.08])
    assert added["Newton2015"][0] == pytest.approx([3500, 0.01])


# ---- the test of agreement


def test_agreement_is_pearson_s_chi_square():
    centres = np.array([[3250, 0, -0.25, 0], [3250, 0, 0.25, 0], [3750, 0, -0.25, 0], [3750, 0, 0.25, 0]], float)
    labels = np.repeat(centres, [12, 18, 33, 37], axis=0)
    result = agreement(labels, two_by_two())
    assert result.statistic == pytest.approx(4 / 10 + 4 / 20 + 9 / 30 + 9 / 40)
    assert result.degrees_of_freedom == 3
    from scipy.stats import chisquare

    assert result.p_value == pytest.approx(chisquare([12, 18, 33, 37], [10, 20, 30, 40]).pvalue)


def test_bins_are_joined_until_five_are_expected_and_strays_count():
    centres = np.array([[3250, 0, -0.25, 0], [3250, 0, 0.25, 0], [3750, 0, -0.25, 0], [3750, 0, 0.25, 0]], float)
    labels = np.repeat(centres, [2, 4, 6, 8], axis=0)
    result = agreement(labels, two_by_two())
    assert (result.statistic, result.degrees_of_freedom) == (0.0, 2)
    outside = np.repeat([[4500.0, 0, 0, 0], [np.nan, 0, 0, 0]], 20, axis=0)
    assert agreement(np.concatenate([labels, outside]), two_by_two()).p_value < 1e-6
