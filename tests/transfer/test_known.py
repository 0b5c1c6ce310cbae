"""Known labels in the label map: errors in both, unresolved pairs, sources with zero points, scatter beyond errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stargap.transfer.anchor_labels import PAIR_SHIFT, PAIR_WIDTH, AnchorLabels
from stargap.transfer.residual.known import WILD, WILDEST, AnchorTerm, LabelledFits
from stargap.transfer.residual.matching import LabelDensity, fit_label_map
from stargap.transfer.residual.model import LabelMap

COUNT = 1200
CENTRE = np.array([3600.0, 4.8, 0.0])
STRETCH = np.array([1.06, 0.9, 1.3])
SHIFT = np.array([30.0, -0.05, 0.04])
"""How known labels follow from fitted ones."""
OWN, THEIRS = np.array([50.0, 0.08, 0.12]), np.array([40.0, 0.03, 0.08])
"""Errors of fitted and of known labels."""
CLOSE = np.array([10.0, 0.02, 0.02])
"""Errors of a mean that do not matter."""


@pytest.fixture(scope="module")
def stars():
    """Fitted labels with errors, and known ones with theirs."""
    rng = np.random.default_rng(1)
    true = rng.normal([3500.0, 4.85, -0.1], [180.0, 0.12, 0.2], (COUNT, 3))
    known = CENTRE + (true - CENTRE) * STRETCH + SHIFT
    return true + rng.normal(size=true.shape) * OWN, known + rng.normal(size=known.shape) * THEIRS


def fits(fitted, known, **options):
    covariance = torch.diag(torch.as_tensor(OWN) ** 2).expand(len(fitted), 3, 3)
    labels = AnchorLabels(known, np.tile(THEIRS, (len(known), 1)), **options)
    return LabelledFits(torch.as_tensor(fitted), covariance, labels)


def mapped(known):
    """The stretch and shift of the map that anchors alone give, and what is reported."""
    label_map = LabelMap(1)
    one = torch.ones(1, dtype=torch.float64)
    nothing = LabelDensity(one, torch.zeros(1, 3).double(), torch.eye(3).double()[None])
    told = fit_label_map(label_map, known.fitted[:4], known.covariance[:4], nothing, known=known, effective=0.0)
    middle = label_map.centre[None]
    return label_map.jacobian(middle)[0].diagonal().numpy(), (label_map(middle) - middle)[0].numpy(), told


def test_errors_of_fitted_labels_do_not_flatten_the_map(stars):
    fitted, known = stars
    stretch, shift, _ = mapped(fits(*stars))
    plain = [np.polyfit(fitted[:, place], known[:, place], 1)[0] for place in range(3)]
    assert plain[2] < 0.8 * STRETCH[2]
    np.testing.assert_allclose(stretch, STRETCH, rtol=0.06)
    assert (abs(shift - SHIFT) < CLOSE).all(), shift


def test_unresolved_pairs_are_a_part_of_the_mixture(stars):
    fitted, known = stars[0], stars[1].copy()
    rng = np.random.default_rng(2)
    pairs = rng.random(COUNT) < 0.15
    known[pairs, 2] += rng.uniform(0.0, 0.5, pairs.sum())
    _, told, _ = mapped(fits(fitted, known, p_single=np.full(COUNT, 0.85)))
    _, believed, _ = mapped(fits(fitted, known, p_single=np.full(COUNT, 1.0)))
    assert abs(told[2] - SHIFT[2]) < 0.015
    assert believed[2] - SHIFT[2] > 0.02


def test_a_few_wild_labels_do_not_move_the_map(stars):
    fitted, known = stars[0], stars[1].copy()
    known[:25] += [900.0, 0.6, 1.2]
    stretch, shift, _ = mapped(fits(fitted, known))
    np.testing.assert_allclose(stretch, STRETCH, rtol=0.08)
    assert (abs(shift - SHIFT) < CLOSE).all(), shift


def test_the_most_frequent_source_sets_the_scale_and_others_have_zero_points(stars):
    fitted, known = stars[0], stars[1].copy()
    known[::4] += [35.0, 0.04, -0.05]
    sources = ["lit" if row % 4 == 0 else "phot" for row in range(COUNT)]
    _, shift, told = mapped(fits(fitted, known, sources=sources))
    assert (abs(shift - SHIFT) < CLOSE).all(), shift
    found = [told[f"zero_point lit {name}"] for name in ("teff", "logg", "m_h")]
    assert (abs(np.array(found) - [35.0, 0.04, -0.05]) < CLOSE).all(), found


def test_scatter_beyond_the_stated_errors_is_found_for_each_source(stars):
    fitted, known = stars[0], stars[1].copy()
    more = np.random.default_rng(3).normal(0.0, [60.0, 0.05, 0.1], known.shape)
    known[::2] += more[::2]
    labelled = fits(fitted, known, sources=["a", "b"] * (COUNT // 2))
    term = AnchorTerm(LabelMap(1), labelled)
    right = torch.tensor(np.vstack([SHIFT, [0, 0, 0], [0, 0, 0], [0, 0, 0]])) / LabelMap(1).scale
    for place, row in ((2, 1), (1, 2), (0, 3)):  # the order of the monomials of degree one
        right[row, place] = STRETCH[place] - 1
    for _ in range(4):
        term.update(right, torch.zeros(3).double())
    found = (term.excess.sqrt() * LabelMap(1).scale).numpy()
    noisy, quiet = (0, 1) if labelled.known.names[0] == "a" else (1, 0)
    np.testing.assert_allclose(found[noisy], [60.0, 0.05, 0.1], rtol=0.3)
    assert (found[quiet] < [25.0, 0.03, 0.04]).all()


def test_the_likelihood_is_that_of_a_mixture_of_two_normal_distributions(stars):
    from scipy.stats import multivariate_normal

    few = fits(stars[0][:5], stars[1][:5], p_single=np.full(5, 0.7))
    term = AnchorTerm(LabelMap(1), few)
    weight = torch.zeros(4, 3).double()
    scale = LabelMap(1).scale.numpy()
    total = 0.0
    for fitted, known in zip(stars[0][:5], stars[1][:5], strict=True):
        apart, spread = (known - fitted) / scale, np.diag((OWN / scale) ** 2 + (THEIRS / scale) ** 2)
        wide = spread + np.diag((np.array(PAIR_WIDTH) / scale) ** 2)
        chance = 0.7 * multivariate_normal(np.zeros(3), spread).pdf(apart)
        chance += 0.3 * multivariate_normal(np.array(PAIR_SHIFT) / scale, wide).pdf(apart)
        chance += WILD * np.prod(scale / WILDEST) / (2 * np.pi) ** 1.5
        total -= np.log(chance)
    constant = 5 * 1.5 * np.log(2 * np.pi)
    assert term.used.all()
    assert float(term.cost(weight, torch.zeros(0).double())) + constant == pytest.approx(total, rel=1e-9)
