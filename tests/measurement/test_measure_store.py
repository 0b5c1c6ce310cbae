"""Spectra from a store are measured as their files are, and velocity and labels can be measured apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.store import Store, ingest

from stargap.errors import SpectrumError
from stargap.flags import Flag
from stargap.measurement.files import measure
from stargap.measurement.star import BATCH, BatchVelocity, batch_velocity, measure_batch, measure_native
from stargap.mock.files import write_lamost
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.store.plan import file_inputs
from stargap.spectra.store.settings import IngestSettings
from stargap.transfer.residual.model import shipped_transfer

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")


@pytest.fixture(scope="module")
def paths(simulate, tmp_path_factory):
    """Twenty files of every layout, the worst and the best, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    stars = simulate(20, seed=71, snr=np.resize([2.0, 8.0, 30.0, 100.0], 20), active_fraction=0.3)
    paths = []
    for row in range(20):
        name = folder / f"{row:02d}.fits{'.gz' if row % 2 else ''}"
        arrays = (stars.wavelength, stars.flux[row], stars.ivar[row])
        paths.append(write_lamost(name, *arrays, layout=LAYOUTS[row % 3], obsid=row, ra=1.0 * row, dec=-1.0 * row))
    (folder / "bad.fits").write_bytes(b"<html>")
    return [*paths[:7], folder / "bad.fits", *paths[7:], folder / "missing.fits"]


@pytest.fixture(scope="module")
def store(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "store"
    ingest(file_inputs(paths), folder, IngestSettings(shard_rows=16))
    return Store.open(folder)


def from_shard(shard, settings, emulator, **options):
    columns, _ = measure_native(
        shard.read(),
        shard.facts(),
        settings,
        emulator,
        failure=shard.failures(),
        spectrum_id=shard.spectrum_id,
        **options,
    )
    return columns


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_store_is_measured_as_its_files_are_bit_for_bit(paths, store, settings, emulator, differences):
    files = measure(paths, model="emulator").arrays()
    stored = joined([from_shard(shard, settings, emulator) for shard in store])
    assert differences(files, stored) == []
    assert stored["spectrum_id"].tolist() == files["spectrum_id"].tolist() == list(range(22))
    assert np.isfinite(stored["teff"]).sum() > 15


def test_velocity_and_labels_apart_give_what_they_give_together(store, emulator, differences):
    """The velocity stage's numbers go through float64 columns, as they would through a table."""
    shard = store.shard(0)
    for settings in (MeasureSettings(), MeasureSettings(preset="paper")):
        velocity = batch_velocity(shard.read(), settings, emulator)
        assert len(velocity) == len(shard)
        names = ("rv", "error", "by_blocks", "chi2", "flags", "labels")
        kept = {name: getattr(velocity, name).numpy().copy() for name in names}
        again = BatchVelocity(**{name: torch.from_numpy(values) for name, values in kept.items()})
        apart = from_shard(shard, settings, emulator, velocity=again)
        assert differences(apart, from_shard(shard, settings, emulator)) == []
        for name, values in kept.items():
            np.testing.assert_array_equal(getattr(velocity, name), values)


def test_labels_of_the_observed_domain_need_no_more_than_the_velocity(store, settings, differences):
    transfer, shard = shipped_transfer(), store.shard(0)
    velocity = batch_velocity(shard.read(), settings, transfer.emulator)
    apart = from_shard(shard, settings, transfer.emulator, transfer=transfer, velocity=velocity)
    assert differences(apart, from_shard(shard, settings, transfer.emulator, transfer=transfer)) == []
    synthetic = from_shard(shard, settings, transfer.emulator, velocity=velocity)
    assert {"teff", "rv_zero"} <= set(differences(apart, synthetic))
    assert "e_rv" not in differences(apart, synthetic)
    np.testing.assert_allclose(apart["rv"] + apart["rv_zero"], synthetic["rv"])


def test_rows_do_not_depend_on_how_the_store_is_cut(numbered, whole, settings, emulator, differences):
    """Case 25: 128 rows by 1, 40 and 87."""
    native, facts, failure = native_batch(numbered)
    parts = []
    for rows in (slice(0, 1), slice(1, 41), slice(41, 128)):
        ids = np.arange(128)[rows]
        options = {"failure": failure[rows], "spectrum_id": ids}
        parts.append(measure_native(native[rows], facts[rows], settings, emulator, **options)[0])
    assert differences(joined(parts), whole) == []


def test_rows_do_not_depend_on_the_size_of_their_batch(numbered, settings, emulator, differences):
    """The largest batch by 1, 40 and the others."""
    items = [*numbered, *reversed(numbered)]
    native, facts, failure = native_batch(items)
    assert len(items) == BATCH

    def measured(rows):
        options = {"failure": failure[rows], "spectrum_id": np.arange(BATCH)[rows]}
        return measure_native(native[rows], facts[rows], settings, emulator, **options)[0]

    parts = [measured(rows) for rows in (slice(0, 1), slice(1, 41), slice(41, BATCH))]
    assert differences(joined(parts), measured(slice(None))) == []


def test_a_velocity_that_is_null_leaves_labels_null(numbered, settings, emulator):
    native, facts, failure = native_batch([*numbered[:3], SpectrumError("a.fits", "the file is empty")])
    velocity = batch_velocity(native, settings, emulator)
    assert torch.isfinite(velocity.rv).tolist() == [True, True, True, False]
    velocity.rv[1] = torch.nan
    options = {"failure": failure, "spectrum_id": np.arange(4), "velocity": velocity}
    columns, _ = measure_native(native, facts, settings, emulator, **options)
    assert np.isfinite(columns["teff"]).tolist() == [True, False, True, False]
    assert columns["flags"][3] == int(Flag.UNREADABLE)


def test_an_empty_batch_has_every_column(settings, emulator, whole):
    native, facts, failure = native_batch([])
    nothing = np.zeros(0, dtype=np.int64)
    columns, _ = measure_native(native, facts, settings, emulator, failure=failure, spectrum_id=nothing)
    assert list(columns) == list(whole)
    assert {values.size for values in columns.values()} == {0}


@pytest.mark.parametrize("function", [batch_velocity, measure_batch])
def test_a_batch_has_a_largest_size(function, settings, emulator):
    items = [SpectrumError("a", "b")] * (BATCH + 1)
    given = items if function is measure_batch else native_batch(items)[0]
    with pytest.raises(ValueError, match="257 spectra in a batch of 256"):
        function(given, settings, emulator)
