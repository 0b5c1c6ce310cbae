"""Nature of the simulated survey: its stars, its main sequence, and its spectra between the nodes of their grid."""

from __future__ import annotations

import csv
from dataclasses import replace

import nature_grid
import numpy as np
import pytest
import torch
from label_agreement import agreement
from nature_grid import interpolate_nature, leave_out_errors

from stargap.errors import UsageError
from stargap.labels import A_M, LOGG, M_H, TEFF
from stargap.mock import nature
from stargap.mock.nature import nature_labels, nature_logg
from stargap.pixels import STARGAP
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import shipped_emulator
from stargap.theory.grids import Grid, read_hdf5_grid
from stargap.theory.isochrones import shipped_isochrones
from stargap.theory.reference_labels import ReferenceDistribution, shipped_reference
from stargap.theory.train_emulator import broadened_log_flux

THIRD_OF_BARS = np.array([35.0, 0.08, 0.08]) / 3


# ---- labels


@pytest.fixture(scope="module")
def matched():
    return nature_labels(20_000, seed=1, mix="matched")


@pytest.fixture(scope="module")
def galactic():
    return nature_labels(20_000, seed=1)


@pytest.mark.parametrize("mix", ["matched", "galactic"])
def test_labels_are_within_the_range_of_the_grid(mix, request):
    labels, active = request.getfixturevalue(mix)
    assert labels.shape == (20_000, 4)
    assert active.shape == (20_000,)
    assert (labels[:, :A_M] >= nature.LOWER).all()
    assert (labels[:, :A_M] <= nature.UPPER).all()
    assert (labels[:, A_M] == 0).all()
    assert len(np.unique(labels[:, TEFF])) == 20_000


def test_the_matched_mix_follows_the_prior_within_nature_s_range(matched):
    whole = shipped_reference("stargap")
    teff, m_h = whole.teff_edges <= 4200, (whole.m_h_edges >= -1) & (whole.m_h_edges <= 0.5)
    counts = whole.counts[teff[1:] & teff[:-1]][:, m_h[1:] & m_h[:-1]]
    inner = ReferenceDistribution(whole.teff_edges[teff], whole.m_h_edges[m_h], counts, {})
    labels, _ = matched
    labels = labels[inner.bins(labels[:, TEFF], labels[:, M_H])[1]]
    assert len(labels) > 19_500
    result = agreement(labels, inner)
    assert result.degrees_of_freedom > 60
    assert result.p_value > 0.01


def test_the_galactic_mix_is_metal_poorer_cooler_and_wider(matched, galactic):
    delta = np.median(galactic[0], axis=0) - np.median(matched[0], axis=0)
    assert delta[TEFF] == pytest.approx(-60, abs=8)
    assert delta[M_H] == pytest.approx(-0.1, abs=0.01)
    wider = galactic[0][:, :A_M].std(axis=0) / matched[0][:, :A_M].std(axis=0)
    assert 1.1 < wider[TEFF] < 1.25
    assert 1.1 < wider[M_H] < 1.25


def test_log_g_scatters_about_the_relation_and_is_lower_for_active_stars(galactic):
    labels, active = galactic
    off = labels[:, LOGG] - nature_logg(labels[:, TEFF], labels[:, M_H])
    assert np.median(off[~active]) == pytest.approx(0.0, abs=0.005)
    assert off[~active].std() == pytest.approx(nature.SCATTER, abs=0.005)
    assert np.median(off[active]) == pytest.approx(-nature.INFLATION, abs=0.006)


def test_activity_moves_log_g_of_the_same_star_alone():
    quiet, none = nature_labels(500, seed=1, active_fraction=0.0)
    stirred, every = nature_labels(500, seed=1, active_fraction=10.0)
    assert not none.any()
    assert every.all()
    assert stirred[:, LOGG] == pytest.approx(np.maximum(quiet[:, LOGG] - nature.INFLATION, nature.LOWER[LOGG]))
    assert (np.delete(stirred, LOGG, axis=1) == np.delete(quiet, LOGG, axis=1)).all()


def test_cool_stars_are_active_more_often(galactic):
    labels, active = galactic
    assert active.mean() == pytest.approx(0.12, abs=0.007)
    cool, warm = labels[:, TEFF] < 3100, labels[:, TEFF] > 3900
    assert active[cool].mean() / active[warm].mean() == pytest.approx(3.5, abs=1.0)


def test_equal_seeds_give_equal_stars(galactic):
    again, active = nature_labels(20_000, seed=1)
    assert (again == galactic[0]).all()
    assert (active == galactic[1]).all()
    other, _ = nature_labels(1000, seed=2)
    assert not np.isin(other[:, TEFF], again[:, TEFF]).any()


# ---- the main sequence


def test_the_main_sequence_is_that_of_mann_et_al(shared_data):
    with (shared_data / "labels" / "mann2015.csv").open(encoding="utf-8") as file:
        rows = [[float(row[name] or "nan") for name in ("Teff", "[Fe/H]", "M", "R")] for row in csv.DictReader(file)]
    teff, fe_h, mass, radius = np.array(rows).T
    logg = 4.438 + np.log10(mass) - 2 * np.log10(radius)
    use = np.isfinite(logg) & (teff > 2800)
    assert use.sum() == 180
    t = (teff[use] - 3500) / 500
    design = np.column_stack([np.ones_like(t), t, t**2, fe_h[use]])
    fitted = np.linalg.lstsq(design, logg[use], rcond=None)[0]
    assert fitted == pytest.approx([4.8155, -0.1945, 0.0669, -0.1748], abs=2e-4)
    left = logg[use] - nature_logg(teff[use], fe_h[use])
    assert abs(np.median(left)) < 0.005
    assert left.std() == pytest.approx(nature.SCATTER, abs=0.01)


def test_the_main_sequence_is_not_the_one_of_the_prior():
    teff = np.arange(2900.0, 4201, 50)
    for m_h, least in ((-0.5, 0.05), (0.0, 0.03), (0.3, 0.05)):
        off = nature_logg(teff, np.full(teff.size, m_h)) - shipped_isochrones().logg_at(teff, np.full(teff.size, m_h))
        assert least < np.abs(off).max() < 0.2
        assert np.ptp(off) > 0.03, "and not by a constant alone"


def test_the_main_sequence_is_level_at_the_warm_end():
    assert nature_logg(np.array([4250.0]), np.zeros(1)) == nature_logg(np.array([4150.0]), np.zeros(1))


# ---- spectra between the nodes


@pytest.fixture(scope="module")
def grids(shared_data):
    folder = shared_data / "grid"
    return {name: read_hdf5_grid(folder / f"marcs_ts_{name}.h5") for name in ("alt", "base", "nocah")}


def thinned(grid, step=40):
    return replace(grid, wavelength=grid.wavelength[::step], flux=grid.flux[:, ::step])


def rows_of(grid, labels):
    """Rows of `grid` with these labels, ``(node,)``."""
    places = {tuple(row): number for number, row in enumerate(grid.labels.tolist())}
    return np.array([places[tuple(row)] for row in labels.tolist()])


def test_at_its_own_nodes_the_fine_grid_is_the_alternate_one(grids):
    alternate, base = thinned(grids["alt"]), thinned(grids["base"])
    fine = interpolate_nature(alternate, base)
    assert len(fine) == 3510
    assert fine.flux.dtype == np.float32
    assert (fine.labels.min(axis=0)[:A_M] == nature.LOWER).all()
    assert (fine.labels.max(axis=0)[:A_M] == nature.UPPER).all()
    assert fine.resolution == alternate.resolution
    assert "marcs_ts_alt" in fine.name
    own = fine.flux[rows_of(fine, alternate.labels)]
    np.testing.assert_allclose(own, alternate.flux, rtol=1e-5)
    usual = base.labels[(base.labels[:, A_M] == 0) & (base.labels[:, M_H] >= -1)]
    both = usual[[row in set(map(tuple, fine.labels.tolist())) for row in map(tuple, usual.tolist())]]
    gap = np.log(fine.flux[rows_of(fine, both)] / base.flux[rows_of(base, both)])
    assert gap.std() > 0.02, "nature is another physics"


def test_nature_made_of_the_base_grid_is_the_base_grid_everywhere(grids):
    alternate, base = thinned(grids["alt"]), thinned(grids["base"])
    alike = replace(alternate, flux=base.flux[rows_of(base, alternate.labels)])
    fine = interpolate_nature(alike, base)
    inside = (base.labels[:, A_M] == 0) & (base.labels[:, LOGG] >= 4.5) & (base.labels[:, M_H] >= -1)
    nodes = base.labels[inside & (base.labels[:, TEFF] <= 4250)]
    assert len(nodes) == 14 * 3 * 7
    np.testing.assert_allclose(fine.flux[rows_of(fine, nodes)], base.flux[rows_of(base, nodes)], rtol=1e-5)


def test_grids_that_do_not_fit_are_refused(grids):
    alternate, base = thinned(grids["alt"]), thinned(grids["base"])
    with pytest.raises(UsageError, match="have other wavelengths"):
        interpolate_nature(alternate, thinned(grids["base"], 41))
    with pytest.raises(UsageError, match=r"95 nodes with .* do not fill 8 x 3 x 4"):
        interpolate_nature(replace(alternate, flux=alternate.flux[1:], labels=alternate.labels[1:]), base)


def label_errors(grid, labels, difference):
    """Labels (K, dex, dex) by which fits of the emulator to interpolated spectra would be off, ``(node, 3)``.

    Least squares of the difference of normalised spectra (R = 1800, outside the windows) on the emulator's tangents.
    """
    wave = STARGAP.support
    weight = ~(STARGAP.window_mask(wave, "rest") | STARGAP.window_mask(wave, "observed"))

    def normal(log_flux):
        flux = (log_flux - log_flux.mean(dim=1, keepdim=True)).exp().float()
        whole = normalise(flux, torch.as_tensor(weight).float().expand(len(flux), -1))[0]
        return whole.double()[:, weight[STARGAP.inner]]

    emulator = shipped_emulator()
    places = torch.as_tensor(labels)
    tangents = []
    for step in torch.diag(torch.tensor([20.0, 0.05, 0.05, 0.0]).double())[:3]:
        tangents.append((normal(emulator(places + step)) - normal(emulator(places - step))) / (2 * step.sum()))
    flux = grid.flux[rows_of(grid, labels)].astype(float)
    true, made = (
        normal(
            broadened_log_flux(
                Grid(grid.wavelength, spectra, labels, "nodes", grid.resolution), emulator.card.resolution
            )
        )
        for spectra in (flux, flux * np.exp(difference))
    )
    return torch.linalg.lstsq(torch.stack(tangents, dim=2), (made - true)[..., None]).solution[..., 0].numpy()


def test_nodes_left_out_are_missed_by_less_than_a_third_of_the_bars_where_stars_are(grids):
    """Teff 3000 to 4000 K of the alternate grid, one at a time, from the others, which are then 400 K apart.

    At the grid's own 200 K the error is far less (next test).
    """
    labels, difference = leave_out_errors(grids["alt"], grids["base"])
    assert len(labels) == 6 * 12
    assert sorted(set(labels[:, TEFF])) == [3000, 3200, 3400, 3600, 3800, 4000]
    off = label_errors(grids["alt"], labels, difference)
    warm = (labels[:, TEFF] >= 3400) & (labels[:, TEFF] <= 3800)
    assert (np.abs(off[warm]) < THIRD_OF_BARS).all(), "all 36 nodes"
    solar = labels[:, M_H] >= 0
    assert (np.abs(off[solar]) < [13.5, 0.04, 0.027]).all(), "all 36 nodes, from 3000 to 4000 K"
    assert (np.sqrt(np.mean(off[solar] ** 2, axis=0)) < THIRD_OF_BARS / 1.5).all()
    poor = off[(labels[:, TEFF] <= 3200) & (labels[:, M_H] == -1)]
    assert np.abs(poor).max(axis=0) == pytest.approx([34.5, 0.12, 0.08], rel=0.1), "the worst, at 400 K spacing"


def test_between_nodes_200_k_apart_labels_are_missed_by_less_than_a_third_of_the_bars(grids):
    """The same interpolation of a grid whose truth between the nodes is known: the one without CaH.

    It is given at the alternate grid's 96 nodes; the 198 others between them (every 100 K from 2800 to 4000 K and
    4250 K, log g 4.5-5.5, every 0.25 dex in [M/H]) are predicted.
    """
    other, base, alternate = grids["nocah"], grids["base"], grids["alt"]
    given = rows_of(other, alternate.labels)
    coarse = replace(other, flux=other.flux[given], labels=other.labels[given])
    wanted = (other.labels[:, A_M] == 0) & np.all(
        (other.labels[:, :A_M] >= nature.LOWER) & (other.labels[:, :A_M] <= nature.UPPER), axis=1
    )
    wanted[given] = False
    labels = other.labels[wanted]
    assert len(labels) == 198
    difference = nature_grid._predict(coarse, base, labels[:, :A_M]) - np.log(other.flux[wanted])
    off = label_errors(other, labels, difference)
    over = labels[(np.abs(off) > THIRD_OF_BARS).any(axis=1)]
    assert over.tolist() == [[3200, 5, -0.75, 0]], "an odd model: 20 K off its neighbours in the base grid too"
    assert (np.sqrt(np.mean(off**2, axis=0)) < THIRD_OF_BARS / 3).all()
