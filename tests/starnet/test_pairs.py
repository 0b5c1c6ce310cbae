"""Pairs: disjoint splits, every spectrum once an epoch, and batches that follow from the step alone."""

from itertools import chain

import numpy as np
import pytest
import torch

from stargap.errors import UsageError
from stargap.pixels import STARGAP
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.starnet.pairs import KnownStars, PairedSource, SyntheticSpectra
from stargap.theory.emulator import shipped_emulator


def spectra(count, seed=0):
    random = np.random.default_rng(seed)
    made = PreparedSpectra.empty(count)
    made.flux[:] = random.normal(size=made.flux.shape)
    made.good[:] = random.random(made.good.shape) > 0.1
    made.weight[:] = random.random(made.weight.shape) > 0.5
    return made


def rows_of(tensor, table):
    return [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in tensor.numpy()]


def test_splits_are_disjoint_and_whole():
    for count in (6, 11, 110, 1234):
        parts = split_rows(count, seed=1)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(count))
        assert len(parts["training"]) == 8 * count // 11
        assert min(len(rows) for rows in parts.values()) >= 1
    with pytest.raises(UsageError, match="5 spectra cannot be split 8:2:1"):
        split_rows(5, seed=1)


def test_every_epoch_meets_every_training_spectrum_once():
    observed, synthetic = spectra(22), spectra(33, seed=1).flux
    source = PairedSource(observed, synthetic, seed=4)
    met = {"observed": [], "synthetic": []}
    for step in range(12):
        batch = source.batch(step, 8)
        met["observed"] += rows_of(batch.observed, observed.flux)
        met["synthetic"] += rows_of(batch.synthetic, synthetic)
    for name, wanted, size in (("observed", source.observed_rows, 16), ("synthetic", source.synthetic_rows, 24)):
        epochs = [met[name][first : first + size] for first in range(0, 96 - size + 1, size)]
        assert all(sorted(epoch) == sorted(wanted["training"]) for epoch in epochs)
        assert epochs[0] != epochs[1]
    again = PairedSource(observed, synthetic, seed=4).batch(7, 8)
    assert rows_of(again.observed, observed.flux) == met["observed"][56:64]


def test_batches_carry_rows_of_one_star_together():
    observed, synthetic = spectra(22), spectra(22, seed=1).flux
    source = PairedSource(observed, synthetic)
    batch = source.batch(3, 5)
    rows = rows_of(batch.observed, observed.flux)
    assert torch.equal(batch.observed_good, torch.from_numpy(observed.good[rows]))
    assert torch.equal(batch.observed_sigma, torch.from_numpy(observed.sigma[rows]))
    assert rows != rows_of(batch.synthetic, synthetic)


def test_validation_pairs_are_the_same_every_time_and_not_of_the_training():
    observed = spectra(110)
    source = PairedSource(observed, spectra(66, seed=1).flux, validation=11, validation_batch=4)
    batches = [rows_of(batch.observed, observed.flux) for batch in source.validation()]
    assert [len(rows) for rows in batches] == [4, 4, 3]
    assert set(chain(*batches)) <= set(source.observed_rows["validation"])
    assert batches == [rows_of(batch.observed, observed.flux) for batch in source.validation()]
    assert sum(len(batch.observed) for batch in PairedSource(observed, spectra(66).flux).validation()) == 12


def test_synthetic_spectra_may_be_made_for_their_partners():
    observed = spectra(22)

    def make(rows, weight):
        return torch.from_numpy(rows).float()[:, None] + weight[:, : observed.flux.shape[1]]

    source = PairedSource(observed, make, made=(33, "made"))
    batch = source.batch(0, 4)
    rows = rows_of(batch.observed, observed.flux)
    weight = torch.from_numpy(observed.weight[rows]).float()[:, : observed.flux.shape[1]]
    offset = batch.synthetic - weight
    assert set(offset[:, 0].int().tolist()) <= set(source.synthetic_rows["training"])
    assert source.fingerprint != PairedSource(observed, make, made=(33, "other")).fingerprint


def test_a_quarter_of_a_batch_is_of_stars_with_known_labels():
    observed, synthetic = spectra(66), spectra(66, seed=1).flux
    everyone = np.arange(66)

    def make(rows, weight):
        return torch.from_numpy(rows).float()[:, None].expand(-1, observed.flux.shape[1])

    plain = PairedSource(observed, synthetic)
    source = PairedSource(observed, synthetic, known=KnownStars(everyone[::-1].copy(), make, "known"))
    batches = [source.batch(step, 8) for step in range(9)]
    seen = []
    for batch in batches:
        assert batch.paired.tolist() == 6 * [False] + 2 * [True]
        rows_of(batch.synthetic[:6], synthetic)
        known = batch.synthetic[6:, 0].int().tolist()
        assert rows_of(batch.observed[6:], observed.flux) == [65 - place for place in known]
        seen += known
    assert {65 - place for place in seen} <= set(source.observed_rows["training"])
    assert len(set(seen)) == len(seen)
    assert plain.batch(0, 8).paired is None
    assert all(batch.paired is None for batch in source.validation())
    assert source.fingerprint != plain.fingerprint
    assert source.batch(0, 2).paired.tolist() == [False, True]
    assert source.batch(0, 1).paired is None
    other = KnownStars(source.observed_rows["validation"], make, "known")
    with pytest.raises(UsageError, match="none of the 12 stars with known labels"):
        PairedSource(observed, synthetic, known=other)
    for step in (7, 2):
        for one, other in zip(vars(source.batch(step, 8)).values(), vars(batches[step]).values(), strict=True):
            assert one is other is None or torch.equal(one, other)


def test_the_fingerprint_is_of_the_content(tmp_path):
    observed, synthetic = spectra(22), spectra(22, seed=1).flux
    observed.save(tmp_path)
    fingerprint = PairedSource(observed, synthetic).fingerprint
    assert PairedSource(PreparedSpectra.load(tmp_path), synthetic).fingerprint == fingerprint
    assert PairedSource(observed, synthetic, seed=1).fingerprint != fingerprint
    observed.flux[3, 5] += 1
    assert PairedSource(observed, synthetic).fingerprint != fingerprint


def test_synthetic_spectra_have_no_holes_where_their_partners_have():
    emulator = shipped_emulator()
    made = SyntheticSpectra(emulator, np.array([[3500.0, 4.8, 0.0, 0.0], [3900.0, 4.7, -0.2, 0.0]]))
    weight = torch.ones(2, STARGAP.support.size)
    whole = made(np.array([0, 1]), weight)
    weight[1, 1000:1500] = 0.0
    holed = made(np.array([0, 1]), weight)
    assert torch.equal(holed[0], whole[0])
    assert (holed[1] > 0.1).all()
    assert (holed[1, 1100:1200] - 1).abs().max() < 0.5
    far = torch.ones(2901, dtype=torch.bool)
    far[700:1700] = False
    torch.testing.assert_close(holed[1, far], whole[1, far], rtol=0, atol=1e-5)
