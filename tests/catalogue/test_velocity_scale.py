"""Velocities against Gaia's: a planted zero point and floor are found, whatever pairs and repeats do."""

from __future__ import annotations

import numpy as np
import pytest

from stargap.catalogue.velocity import fit_velocity_scale, on_scale


def survey(
    count: int, seed: int, *, zero: float = 2.4, floor: float = 3.0, pairs: float = 0.05
) -> dict[str, np.ndarray]:
    """Stars of one spectrum each, some of them in close pairs."""
    rng = np.random.default_rng(seed)
    e_rv, e_gaia = rng.uniform(0.5, 4.0, count), rng.uniform(0.2, 3.0, count)
    gaia = rng.normal(0, 40, count)
    rv = gaia + zero + rng.normal(size=count) * np.sqrt(e_rv**2 + e_gaia**2 + floor**2)
    rv += np.where(rng.random(count) < pairs, rng.normal(0, 30, count), 0.0)
    ones = np.ones(count)
    return {
        "gaia_source_id": np.arange(count), "rv": rv, "rv_zero": 0.5 * ones, "e_rv": e_rv, "e_rv_sys": 0.1 * ones,
        "gaia_rv": gaia, "e_gaia_rv": e_gaia, "ruwe": ones, "use_rv": ones,
    }  # fmt: skip


def test_a_planted_zero_point_and_floor_are_found():
    found = fit_velocity_scale(survey(600, 1))
    assert found.measured
    assert found.stars == 600
    assert abs(found.zero_point - 2.4) < 3 * found.e_zero_point < 0.7
    assert abs(found.floor - 3.0) < 0.5
    assert 0.85 < found.left_out_pull < 1.1
    assert abs(found.left_out_median) < 0.5


def test_velocities_move_and_can_be_moved_back():
    table = survey(600, 2)
    moved = on_scale(fit_velocity_scale(table), table)
    assert np.allclose(moved["rv"] + moved["rv_zero"], table["rv"] + table["rv_zero"])
    assert abs(np.median(moved["rv"] - table["gaia_rv"])) < 0.4
    error = np.sqrt(table["e_rv"] ** 2 + moved["e_rv_sys"] ** 2 + table["e_gaia_rv"] ** 2)
    inside = np.abs(moved["rv"] - table["gaia_rv"]) < error
    assert abs(inside.mean() - 0.6827) < 0.06


def test_errors_that_are_too_large_are_not_made_larger():
    table = survey(2000, 3, floor=0.0, pairs=0.0)
    table["e_rv_sys"] = np.full(2000, 2.0)
    found = fit_velocity_scale(table)
    assert found.share < 0.8
    assert found.floor < 0.7


@pytest.mark.parametrize(
    "change",
    [{"ruwe": 2.0}, {"use_rv": 0.0}, {"gaia_rv": np.nan}, {"e_gaia_rv": 9.0}, {"gaia_source_id": 7}],
)
def test_too_few_good_stars_change_nothing(change):
    table = survey(200, 4)
    for name, value in change.items():
        table[name][40:] = value
    found = fit_velocity_scale(table)
    assert not found.measured
    assert found.stars <= 41
    moved = on_scale(found, table)
    assert all(np.array_equal(moved[name], table[name]) for name in ("rv", "rv_zero", "e_rv_sys"))


def test_a_star_counts_once_by_its_best_spectrum():
    table = {name: np.repeat(values, 2) for name, values in survey(100, 5).items()}
    table["e_rv"][1::2] = 9.0
    table["rv"][1::2] += 500.0
    found = fit_velocity_scale(table)
    assert found.stars == 100
    assert abs(found.zero_point - 2.4) < 1.5


def test_spectra_outside_the_sample_do_not_count():
    table = survey(200, 6)
    assert fit_velocity_scale(table, use=np.arange(200) < 60).stars == 60
