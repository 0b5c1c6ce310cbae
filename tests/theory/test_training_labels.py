"""The label prior: on the isochrone, co-distributed with real stars, and the same for the same seed."""

from __future__ import annotations

import runpy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF, alpha_relation
from stargap.theory.isochrones import shipped_isochrones
from stargap.theory.payne import shipped_emulator
from stargap.theory.training_labels import (
    PRESETS,
    LabelMixture,
    ReferenceDistribution,
    agreement,
    draw_training_labels,
    fit_label_mixture,
    shipped_reference,
)

ROOT = Path(__file__).parents[2]
PAPER_COUNT = 110_000


@pytest.fixture(scope="module", params=list(PRESETS))
def preset(request):
    return PRESETS[request.param]


@pytest.fixture(scope="module")
def drawn(preset):
    return draw_training_labels(PAPER_COUNT, preset=preset.name)


@pytest.fixture(scope="module")
def make():
    return runpy.run_path(str(ROOT / "docs/make_label_data.py"))


def two_by_two(counts=((1, 2), (3, 4))):
    edges = np.array([3000.0, 3500.0, 4000.0]), np.array([-0.5, 0.0, 0.5])
    return ReferenceDistribution(*edges, np.array(counts, dtype=float), {})


# ---- the draws


def test_the_presets_are_those_of_the_method():
    assert list(PRESETS) == ["paper", "stargap"]
    paper, wide = PRESETS["paper"], PRESETS["stargap"]
    assert (paper.teff, paper.logg, paper.m_h) == ((3000, 4000), (4, 6), (-1, 0.5))
    assert (wide.teff, wide.m_h) == ((2800, 4400), (-2, 0.5))
    emulator = shipped_emulator()
    for number, interval in ((TEFF, wide.teff), (LOGG, wide.logg), (M_H, wide.m_h)):
        assert emulator.lower[number] <= interval[0] < interval[1] <= emulator.upper[number]


def test_draws_follow_the_reference_within_counting_noise(preset, drawn):
    result = agreement(drawn, shipped_reference(preset.name))
    assert result.p_value > 0.01
    assert result.degrees_of_freedom > 100


def test_log_g_is_within_a_tenth_of_the_isochrone_for_95_percent_of_draws(drawn):
    off = np.abs(drawn[:, LOGG] - shipped_isochrones().logg_at(drawn[:, TEFF], drawn[:, M_H]))
    assert np.mean(off < 0.10) >= 0.95
    assert np.quantile(off, 0.95) < 0.04, "in fact much closer"


def test_draws_are_within_the_box_distinct_and_along_the_alpha_relation(preset, drawn):
    assert drawn.shape == (PAPER_COUNT, len(LABELS))
    assert drawn.dtype == np.float64
    assert preset.holds(drawn).all()
    assert len(np.unique(drawn, axis=0)) == PAPER_COUNT
    assert drawn[:, A_M].min() >= 0
    assert drawn[:, A_M].max() <= 0.4
    assert np.std(drawn[:, A_M] - alpha_relation(drawn[:, M_H])) < 0.02


def test_the_order_of_draws_says_nothing(drawn):
    half = PAPER_COUNT // 2
    for label in (TEFF, M_H):
        spread = drawn[:, label].std() / np.sqrt(half / 2)
        assert abs(drawn[:half, label].mean() - drawn[half:, label].mean()) < 4 * spread


def test_equal_seeds_give_equal_labels():
    first, again, other = (draw_training_labels(2000, preset="paper", seed=seed, draws=50_000) for seed in (3, 3, 4))
    assert (first == again).all()
    assert not np.isin(first[:, TEFF], other[:, TEFF]).any()


def test_alpha_may_be_held():
    free, held = (draw_training_labels(500, preset="paper", alpha=alpha, draws=50_000) for alpha in (None, 0.0))
    assert (held[:, A_M] == 0).all()
    assert (held[:, :A_M] == free[:, :A_M]).all()


def test_a_blended_reference_reaches_the_corners_of_the_box():
    reference = shipped_reference("stargap").blended(0.2)
    assert reference.stars == pytest.approx(shipped_reference("stargap").stars)
    labels = draw_training_labels(20_000, reference=reference)
    assert agreement(labels, reference).p_value > 0.01
    assert labels[:, M_H].min() < -1.95
    assert np.mean(labels[:, TEFF] > 4100) > 0.03
    off = np.abs(labels[:, LOGG] - shipped_isochrones().logg_at(labels[:, TEFF], labels[:, M_H]))
    assert np.mean(off < 0.10) >= 0.95


def test_a_reference_of_one_s_own():
    labels = draw_training_labels(5000, preset="paper", reference=two_by_two(), draws=50_000)
    assert agreement(labels, two_by_two()).p_value > 0.01
    assert agreement(labels, two_by_two([[4, 3], [2, 1]])).p_value < 1e-9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preset": "papers"}, "no preset 'papers'; there are paper and stargap"),
        ({"count": 0}, "both must be 1 or more"),
        ({"draws": 0}, "both must be 1 or more"),
        ({"count": 10**7, "draws": 1000}, "over 100 times 1000"),
        ({"preset": "paper", "reference": shipped_reference("stargap")}, "the preset paper have next to none"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        draw_training_labels(**{"count": 100, "draws": 10_000, **options})


def test_isochrones_that_do_not_reach_the_box_are_refused():
    short = replace(shipped_isochrones(), teff=shipped_isochrones().teff + 5000)
    with pytest.raises(UsageError, match="do not reach the preset paper"):
        fit_label_mixture(short, "paper")
    some = shipped_isochrones().teff < 3500
    cool = replace(shipped_isochrones(), **{n: getattr(shipped_isochrones(), n)[some] for n in ("teff", "logg", "m_h")})
    with pytest.raises(UsageError, match=r"stars near .* K and \[M/H\] .* use other isochrones"):
        draw_training_labels(100, preset="paper", isochrones=cool)


# ---- the mixture


def test_the_mixture_draws_from_its_own_density():
    means = np.array([[3500.0, 4.8, 0.0, 0.1], [3800.0, 4.6, -0.3, 0.2]])
    mixture = LabelMixture(np.array([0.3, 0.7]), means, np.array([np.diag([50.0, 0.1, 0.1, 0.05]) ** 2] * 2))
    draws = mixture.draw(20_000, np.random.default_rng(0))
    assert draws.mean(axis=0) == pytest.approx(mixture.weights @ means, abs=2.0)
    assert np.mean(draws[:, TEFF] < 3650) == pytest.approx(0.3, abs=0.015)
    teff = np.linspace(3000, 4300, 2000)
    density = np.exp(mixture.log_density(teff[:, None], (TEFF,)))
    step = teff[1] - teff[0]
    assert density.sum() * step == pytest.approx(1.0, abs=1e-6)
    below = density[teff < 3500].sum() * step
    assert np.mean(draws[:, TEFF] < 3500) == pytest.approx(below, abs=0.015)


def test_the_fitted_mixture_is_the_one_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    mixture = fit_label_mixture(shipped_isochrones(), "paper")
    assert mixture.weights.sum() == pytest.approx(1.0)
    theirs = GaussianMixture(len(mixture.weights))
    theirs.weights_, theirs.means_, theirs.covariances_ = mixture.weights, mixture.means, mixture.covariances
    theirs.precisions_cholesky_ = np.array(
        [np.linalg.inv(np.linalg.cholesky(covariance)).T for covariance in mixture.covariances]
    )
    draws = mixture.draw(1000, np.random.default_rng(1))
    assert mixture.log_density(draws) == pytest.approx(theirs.score_samples(draws), abs=1e-6)


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


@pytest.mark.parametrize("uniform", [-0.1, 1.1, np.nan])
def test_blending_takes_a_fraction(uniform):
    with pytest.raises(UsageError, match="not a fraction"):
        two_by_two().blended(uniform)


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
    with pytest.raises(UsageError, match="a test needs two"):
        agreement(labels[:5], two_by_two())
