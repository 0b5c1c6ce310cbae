"""The surface of single stars turned round, and pairs on it."""

import numpy as np
import pytest

from stargap.photometry import relations
from stargap.photometry.surface import (
    M_H_LIMITS,
    MASS_RATIOS,
    TEFF_LIMITS,
    absolute_magnitudes,
    intrinsic_covariance,
    magnitude_table,
)


@pytest.fixture(scope="module")
def places():
    rng = np.random.default_rng(1)
    return rng.uniform(2800, 4000, 200), rng.uniform(-0.5, 0.5, 200)


def test_relations_give_the_labels_back(places):
    teff, m_h = places
    values, _ = magnitude_table()(teff, m_h, np.zeros(200, dtype=int))
    _, bp, rp, ks, logg, blended = values.T
    assert (blended == 0).all()
    good = (ks > 4.7) & (ks < 9.7) & (bp - rp < 4.2)
    found = relations.m_h_from_ks(bp - ks, ks)
    inside = good & np.isfinite(found)
    assert inside.sum() > 150
    np.testing.assert_allclose(found[inside], m_h[inside], atol=2e-3)
    np.testing.assert_allclose(relations.teff_from_colour(bp - rp, m_h)[inside], teff[inside], atol=1.5)
    gravity = relations.surface_gravity(relations.mass_from_ks(ks), relations.radius_from_ks(ks, m_h))
    np.testing.assert_allclose(logg[inside], gravity[inside], atol=1e-3)


def test_slopes_are_derivatives(places):
    teff, m_h = places
    table, component = magnitude_table(), np.arange(200) % 8
    _, slopes = table(teff, m_h, component)
    for place, step in ((0, 0.01), (1, 1e-5)):
        shift = np.array([step, 0.0])[place], np.array([0.0, step])[place]
        above = table(teff + shift[0], m_h + shift[1], component)[0]
        below = table(teff - shift[0], m_h - shift[1], component)[0]
        np.testing.assert_allclose(slopes[..., place], (above - below) / (2 * step), rtol=1e-3, atol=1e-5)


def test_splines_follow_the_surface():
    rng = np.random.default_rng(2)
    m_ks, m_h = rng.uniform(4.6, 9.7, 500), rng.uniform(-0.8, 0.7, 500)
    magnitudes, teff = absolute_magnitudes(m_ks, m_h)
    inside = (teff > TEFF_LIMITS[0]) & (teff < TEFF_LIMITS[1])
    values, _ = magnitude_table()(teff[inside], m_h[inside], np.zeros(inside.sum(), dtype=int))
    assert np.abs(values[:, :4] - magnitudes[inside]).max() < 0.004


@pytest.mark.parametrize("m_h", [M_H_LIMITS[0], -0.5, 0.0, 0.5, M_H_LIMITS[1]])
def test_fainter_is_cooler_everywhere(m_h):
    magnitudes, teff = absolute_magnitudes(np.arange(1.0, 14.0, 0.01), m_h)
    assert (np.diff(teff) < 0).all()
    assert (np.diff(magnitudes[:, 3]) > 0).all()
    assert teff[0] > TEFF_LIMITS[1]
    assert teff[-1] < TEFF_LIMITS[0]


def test_no_kinks():
    m_ks = np.arange(4.0, 11.0, 0.01)
    magnitudes, teff = absolute_magnitudes(m_ks, 0.0)
    assert np.abs(np.diff(teff, 2)).max() < 0.3
    assert np.abs(np.diff(magnitudes, 2, axis=0)).max() < 0.002


def test_pairs_are_brighter_and_redder():
    table, kinds = magnitude_table(), len(MASS_RATIOS) + 1
    values, _ = table(np.full(kinds, 3500.0), np.zeros(kinds), np.arange(kinds))
    brighter = values[0, :4] - values[1:, :4]
    assert (np.diff(brighter, axis=0) > 0).all()
    assert (brighter > 0).all()
    assert (brighter < 0.7527).all()
    assert (np.diff(brighter[:, [1, 0, 2, 3]], axis=1) > 0).all()  # a companion is red: most in Ks
    assert (values[:, 4] == values[0, 4]).all()  # log g is the primary's


def test_spectra_of_pairs_are_cooler_by_the_share_of_the_light():
    table = magnitude_table()
    for kind, ratio in enumerate(MASS_RATIOS, start=1):
        one, two = (table(np.array([3700.0]), np.array([0.0]), np.array([place]))[0][0] for place in (0, kind))
        share = 1 - 10 ** (-0.4 * (one[2] - two[2]))
        assert 0.05 * ratio < share < 0.5
        companion = 3700.0 + two[5] / share
        fainter = one[2] - 2.5 * np.log10(share / (1 - share))
        magnitudes, teff = absolute_magnitudes(np.arange(4.0, 11.0, 0.001), 0.0)
        assert np.interp(fainter, magnitudes[:, 2], teff) == pytest.approx(companion, abs=4.0)


def test_intrinsic_scatter_is_in_g_and_rp():
    covariance = intrinsic_covariance()
    assert (covariance[[1, 3]] == 0).all()
    assert (np.linalg.eigvalsh(covariance) > -1e-12).all()
    assert 0.01 < np.sqrt(covariance[2, 2]) < 0.03
