"""The label prior: on the isochrone, co-distributed with real stars, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from label_agreement import agreement

from stargap.errors import UsageError
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF, alpha_relation
from stargap.theory.emulator import shipped_emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.theory.label_prior import LabelMixture, draw_training_labels, fit_label_mixture
from stargap.theory.reference_labels import LABEL_BOXES, ReferenceDistribution, shipped_reference

COUNT = 30_000


@pytest.fixture(scope="module", params=list(LABEL_BOXES))
def preset(request):
    return LABEL_BOXES[request.param]


@pytest.fixture(scope="module")
def drawn(preset):
    return draw_training_labels(COUNT, preset=preset.name, draws=300_000)


def two_by_two(counts=((1, 2), (3, 4))):
    edges = np.array([3000.0, 3500.0, 4000.0]), np.array([-0.5, 0.0, 0.5])
    return ReferenceDistribution(*edges, np.array(counts, dtype=float), {})


# ---- the draws


def test_the_presets_are_those_of_the_method():
    assert list(LABEL_BOXES) == ["paper", "stargap"]
    paper, wide = LABEL_BOXES["paper"], LABEL_BOXES["stargap"]
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
    assert drawn.shape == (COUNT, len(LABELS))
    assert drawn.dtype == np.float64
    assert preset.contains(drawn).all()
    assert len(np.unique(drawn, axis=0)) == COUNT
    assert drawn[:, A_M].min() >= 0
    assert drawn[:, A_M].max() <= 0.4
    assert np.std(drawn[:, A_M] - alpha_relation(drawn[:, M_H])) < 0.02


def test_the_order_of_draws_says_nothing(drawn):
    half = COUNT // 2
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


def test_a_uniform_reference_reaches_the_corners_of_the_box():
    shipped = shipped_reference("stargap")
    reference = replace(shipped, counts=shipped.area)
    labels = draw_training_labels(5000, reference=reference, draws=100_000)
    assert agreement(labels, reference).p_value > 0.01
    assert labels[:, M_H].min() < -1.95
    assert np.mean(labels[:, TEFF] > 4100) > 0.1
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
