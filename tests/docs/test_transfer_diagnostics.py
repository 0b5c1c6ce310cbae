"""Numbers that judge a transfer: known answers for clouds, residuals, leaks, cycles and logs made to have them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from stargap.checkpoints import metrics_log, read_metrics
from stargap.errors import UsageError
from stargap.starnet.losses import Batch, distances, transfer
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "docs/results"))
from transfer_diagnostics import block_mask, cycle_table, leakage, mixing, swap_effect


def cloud(count, *, seed, size=20, middle=0.0):
    return middle + np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


# ---- mixing


def test_threads_are_given_back():
    def threads():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    mixing(cloud(20, seed=3), cloud(20, seed=4))  # loads its libraries
    before = threads()
    mixing(cloud(20, seed=1), cloud(20, seed=2))
    assert threads() == before


@pytest.mark.parametrize("sizes", [(600, 600), (900, 200)])
def test_mixing_is_one_for_draws_of_one_distribution_whatever_their_numbers(sizes):
    assert mixing(cloud(sizes[0], seed=1), cloud(sizes[1], seed=2)) == pytest.approx(1.0, abs=0.06)


def test_mixing_falls_with_the_gap():
    one = cloud(400, seed=1, size=5)
    values = [mixing(one, cloud(400, seed=2, size=5, middle=gap)) for gap in (0.0, 0.5, 1.0, 2.0, 20.0)]
    assert (np.diff(values) < 0).all()
    assert values[-1] == 0.0
    assert mixing(one, cloud(400, seed=2, size=5, middle=0.5)) == values[1]


def test_more_neighbours_than_rows_are_refused():
    good = cloud(10, seed=1)
    with pytest.raises(UsageError, match="15 neighbours among 10 and 3 rows"):
        mixing(good, good[:3])


# ---- pixels left out


def test_blocks_cover_every_pixel_once():
    phases = [block_mask(2901, 50, every=3, phase=phase) for phase in range(3)]
    assert (np.sum(phases, axis=0) == 1).all()
    edges = np.flatnonzero(np.diff(block_mask(2901).astype(int)))
    assert (np.diff(edges) == 50).all()
    for bad in ({"width": 0}, {"phase": 2}, {"phase": -1}):
        with pytest.raises(UsageError, match="widths start at 1"):
            block_mask(100, **bad)


# ---- leaks


def test_leaks_are_found_and_their_absence_too():
    rng = np.random.default_rng(1)
    labels = np.column_stack(
        [rng.uniform(2900, 4200, 600), rng.normal(4.8, 0.1, 600), rng.normal(-0.1, 0.2, 600), np.zeros(600)]
    )
    noise = rng.normal(size=(600, 2, 2))
    blind = leakage(labels, noise)
    assert all(blind[name] < 0.05 for name in ("teff", "logg", "m_h"))
    assert np.isnan(blind["a_m"])
    split = noise.copy()
    split[:, 0, 0] = ((labels[:, 0] - 3500) / 400) ** 2 * np.sign(labels[:, 0] - 3500)
    split[:, 1, 1] = np.cos(6 * (labels[:, 2] + 0.1)) + 0.1 * noise[:, 1, 1]
    found = leakage(labels, split)
    assert found["teff"] > 0.95, "monotonous"
    assert found["logg"] < 0.05
    assert found["m_h"] == leakage(labels[:, [2]], split)["teff"], "the same again"
    both = np.column_stack([labels[:, 2] ** 2, noise[:, 0, 0]])
    assert leakage(both, labels[:, [2]])["teff"] > 0.9, "a parabola"


def test_stars_without_labels_are_left_out_of_the_leak_and_too_few_are_refused():
    rng = np.random.default_rng(1)
    labels = rng.normal(size=(80, 1))
    split = labels + 0.1 * rng.normal(size=(80, 1))
    labels[:10], split[10:20] = np.nan, np.inf
    assert leakage(labels, split)["teff"] > 0.9
    with pytest.raises(UsageError, match="40 of 60 stars"):
        leakage(labels[:60], split[:60])


def test_swaps_are_told_by_label():
    own = np.random.default_rng(0).normal(size=(101, 4))
    swapped = own + np.array([10.0, 0.0, -0.1, 0.0])
    swapped[:, 1] += np.linspace(-1, 1, 101)
    swapped[0, 3] = np.nan
    moved = swap_effect(own, swapped)
    assert list(moved) == ["teff", "logg", "m_h", "a_m"]
    assert moved["teff"] == pytest.approx((10.0, 0.0, 101), abs=1e-9)
    assert moved["logg"] == pytest.approx((0.0, 1.4826 * 0.5, 101), abs=1e-9)
    assert moved["a_m"].n == 100
    assert np.isnan(swap_effect(own[:, :1], own[:, :1] * np.nan)["teff"].median)


# ---- the network and its log


@pytest.fixture(scope="module")
def network():
    settings = NetworkSettings(
        pixels=1279,
        outer_filters=(3, 4),
        shared_filters=(4, 6, 8),
        shared_latent=5,
        split_filters=(3, 3, 4),
        split_latent=2,
        critic_filters=(2, 2, 2, 2),
        critic_latent_filters=(3, 4),
    )
    return CycleStarNet(settings)


def pairs(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    synthetic, observed = 1 + 0.1 * torch.randn(2, rows, 1279, generator=generator)
    sigma = torch.rand(rows, 1279, generator=generator) * 0.05
    return Batch(synthetic, observed, sigma, torch.rand(rows, 1279, generator=generator) > 0.1)


def test_the_cycle_table_is_made_of_the_distances_of_the_losses(network):
    batch = pairs(1)
    table = cycle_table(network, [batch])
    assert list(table) == ["s->s", "o->o", "s->o->s", "o->s->o"]
    with torch.no_grad():
        squares = distances(batch, transfer(network, batch))
    for name, other in zip(table, ("rec_synthetic", "rec_observed", "cycle_synthetic", "cycle_observed"), strict=True):
        assert 0 < table[name] < float(squares[other]) ** 0.5, "a mean is below a root of mean squares"


def test_the_cycle_table_weighs_stars_alike_however_they_are_batched(network):
    batch = pairs(6)
    parts = [
        Batch(*(getattr(batch, n)[s] for n in ("synthetic", "observed", "observed_sigma", "observed_good")))
        for s in (slice(0, 1), slice(1, 6))
    ]
    assert cycle_table(network, parts) == pytest.approx(cycle_table(network, [batch]), rel=1e-5)


def test_the_cycle_table_sees_good_pixels_only(network):
    batch = pairs(3)
    flux = torch.where(batch.observed_good, batch.observed, torch.nan)
    sigma = torch.where(batch.observed_good, batch.observed_sigma, torch.nan)
    assert cycle_table(network, [Batch(batch.synthetic, flux, sigma, batch.observed_good)]) == cycle_table(
        network, [batch]
    )
    none = Batch(batch.synthetic, flux, sigma, torch.zeros_like(batch.observed_good), batch.observed_good)
    table = cycle_table(network, [none])
    assert np.isnan(table["o->o"])
    assert np.isfinite(table["s->s"])
    assert all(np.isnan(value) for value in cycle_table(network, []).values())


def test_metrics_are_read_as_training_writes_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics_log(path, 0) as write:
        write(**{"step": 100, "generator.loss": 2.5, "critic.loss": float("nan"), "pieces": 1, "seconds": 0.5})
        write(**{"step": 100, "validation.score": 3.0, "best": True, "seconds": 0.6})
        write(**{"step": 200, "generator.loss": 1.5, "critic.loss": 1.0, "pieces": 1, "seconds": 0.9})
    found = read_metrics(path)
    nan = np.nan
    wanted = {
        "step": [100, 100, 200],
        "generator.loss": [2.5, nan, 1.5],
        "critic.loss": [nan, nan, 1.0],
        "pieces": [1, nan, 1],
        "seconds": [0.5, 0.6, 0.9],
        "validation.score": [nan, 3.0, nan],
        "best": [nan, 1.0, nan],
    }
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    with path.open("a") as file:
        file.write('{"step": 300, "generator.lo')
    assert found["step"].size == read_metrics(path)["step"].size, "a line that is being written"


def test_other_files_are_no_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(UsageError, match="no metrics can be read"):
        read_metrics(path)
    for line in ("step 1\n", "[1]\n", '{"step": "one"}\n', '{"step": [1]}\n', "\xff\n"):
        path.write_bytes(json.dumps({"step": 1}).encode() + b"\n" + line.encode("latin-1"))
        with pytest.raises(UsageError, match=r"metrics.jsonl, line 2: not a line of metrics"):
            read_metrics(path)
    path.write_text("")
    assert read_metrics(path) == {}
