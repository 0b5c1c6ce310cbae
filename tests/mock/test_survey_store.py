"""A simulated survey straight into a store: the same spectra as one by one, in shards, with Gaia and the truth."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.store import Store

from stargap.errors import UsageError
from stargap.mock.survey import simulate_survey
from stargap.mock.write import write_survey, write_survey_store
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.store.store import verify


def test_the_store_holds_the_spectra_of_the_survey_in_their_order(tmp_path):
    write_survey_store(tmp_path, 300, seed=2, shard_rows=128)
    chunks = list(simulate_survey(300, seed=2))
    spectra = [spectrum for chunk in chunks for spectrum in chunk.spectra]
    store = Store.open(tmp_path / "store")
    assert verify(tmp_path / "store") == []
    assert len(store) == len(spectra) > 300
    rows = np.random.default_rng(0).permutation(len(spectra))[:40]
    native, facts, _ = native_batch([spectra[row] for row in rows])
    for place, row in enumerate(rows):
        shard = store.shard(row // 128)
        assert torch.equal(shard.read(np.array([row % 128])).flux[0], native.flux[place])
        assert shard.facts()[row % 128] == facts[place]
    truth, gaia = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("truth", "gaia"))
    assert truth["obsid"].to_pylist() == store.columns("obsid")["obsid"].tolist()
    assert len(gaia) == 300
    known = store.columns("gaia_source_id")["gaia_source_id"]
    told = truth["gaia_in_lamost"].to_numpy(zero_copy_only=False)
    assert (known[told] == truth["source_id"].to_numpy()[told]).all()
    assert (known[~told] == -9999).all()


def test_folders_and_numbers_that_make_no_sense(tmp_path):
    write_survey_store(tmp_path, 1, seed=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_survey_store(tmp_path, 1, seed=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(UsageError, match="holds the survey"):
        write_survey_store(tmp_path, 1, seed=1, dtype="float16")
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "gaia.parquet").write_text("a table of mine")
    for write in (write_survey, write_survey_store):
        with pytest.raises(UsageError, match=r"holds files that are not stargap's, such as 'gaia\.parquet'"):
            write(foreign, 1, seed=1)
    assert [path.name for path in foreign.iterdir()] == ["gaia.parquet"]
    with pytest.raises(UsageError, match="0 stars"):
        write_survey_store(tmp_path / "other", 0, seed=1)
