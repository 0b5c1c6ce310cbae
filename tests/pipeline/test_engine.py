"""Runs: a row an input, resumed and divided in every way with the same bytes, refused where results would be mixed."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.processes import run_alone

from stargap.errors import UsageError
from stargap.flags import Flag, JointFlag, PhotFlag
from stargap.mock.write import write_survey_store
from stargap.photometry.tables import write_photometric_labels
from stargap.pipeline import freshness, stages
from stargap.pipeline.engine import run_survey, stage_states
from stargap.pipeline.folder import Run
from stargap.pipeline.photometry import make_joint
from stargap.pipeline.stages import STAGES
from stargap.settings import example_toml
from stargap.spectra.store.store import verify
from stargap.tables.columns import INT_NULL, PHOTOMETRIC
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import read_columns
from stargap.tables.read import read_table


def checksum(folder):
    return hashlib.sha256((folder / "measured.parquet").read_bytes()).hexdigest()


def copied(whole, folder):
    shutil.copytree(whole, folder)
    return folder


def touched(folder):
    """When each product was written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "survey.toml"]
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in paths}


def named(states):
    return {state.stage: state for state in states}


# ---- what a run makes


def test_every_input_has_its_row_in_order(whole, survey):
    table = pq.read_table(whole / "measured.parquet")
    truth = pq.read_table(survey / "truth.parquet")
    lines = (survey / "lamost.csv").read_text().count("\n") - 1
    assert len(table) == len(truth) == lines
    assert table["spectrum_id"].to_pylist() == list(range(lines))
    assert verify(whole / "store") == []
    known = dict(zip(truth["obsid"].to_pylist(), range(lines), strict=True))
    place = np.array([known[obsid] for obsid in table["obsid"].to_pylist()])
    teff = truth["teff"].to_numpy()[place]
    found = table["teff"].to_numpy()
    plain = (truth["kind"].to_numpy()[place] == "dwarf") & np.isfinite(found) & (table["snr_r"].to_numpy() > 15)
    assert plain.sum() > 5
    assert np.median(np.abs(found - teff)[plain]) < 80, "simulated stars, other physics"
    assert np.median(np.abs(table["rv"].to_numpy() - truth["rv"].to_numpy()[place])[plain]) < 5


def test_what_is_outside_the_sample_keeps_its_row_and_says_why(whole):
    table = pq.read_table(whole / "measured.parquet")
    inside = table["in_sample"].to_numpy(zero_copy_only=False)
    flags = table["flags"].to_numpy()
    assert 0 < (~inside).sum() < len(inside)
    assert ((flags & int(Flag.NOT_SELECTED) != 0) == ~inside).all()
    assert np.isnan(table["teff"].to_numpy()[~inside]).all()
    assert (table["sample_flags"].to_numpy()[~inside] != 0).all()
    assert np.isfinite(table["snr_r"].to_numpy()[~inside]).all()


def test_labels_of_photometry_are_those_of_gaias_table(whole, survey, tmp_path):
    write_photometric_labels(survey / "gaia.parquet", tmp_path / "labels.parquet")
    labels = read_table(tmp_path / "labels.parquet")
    table = read_table(whole / "measured.parquet")
    rows = match_ids(table["gaia_source_id"], labels["gaia_source_id"])
    assert (rows >= 0).any()
    for column in PHOTOMETRIC:
        np.testing.assert_allclose(table[column.name][rows >= 0], labels[column.name][rows[rows >= 0]], rtol=1e-5)
    assert np.isnan(table["teff_phot"][rows < 0]).all()
    assert (table["phot_flags"][rows < 0] & int(PhotFlag.NO_PARALLAX) > 0).all()


def test_joint_labels_stand_beside_those_of_spectra(whole):
    table = read_table(whole / "measured.parquet")
    known = np.isfinite(table["teff_joint"])
    assert known.sum() > 10
    assert (np.isfinite(table["teff"]) & np.isfinite(table["teff_phot"]))[known].all()
    assert (table["use_teff"][known] == 1).all()
    both = np.hypot(table["e_teff"], np.nan_to_num(table["e_teff_sys"]))
    assert (table["e_teff_joint"][known] < both[known]).mean() > 0.8
    lost = table["joint_flags"] & int(JointFlag.NO_SPECTRUM | JointFlag.NO_PHOTOMETRY | JointFlag.NO_SOLUTION) != 0
    np.testing.assert_array_equal(lost, ~known)
    assert set(table["use_joint"][~known]) == {0}
    measured = np.concatenate([read_columns(path, ["teff"])["teff"] for path in sorted((whole / "measure").iterdir())])
    np.testing.assert_array_equal(table["teff"], measured.astype(np.float32))
    stars = read_table(whole / "catalogue" / "stars.parquet")
    assert np.isfinite(stars["teff_joint"]).any()


def test_without_the_joint_fit_its_columns_are_null(whole, asked, tmp_path):
    settings = asked(whole, fit={"joint": False})
    shutil.copytree(whole, tmp_path / "run")
    made = make_joint(Run(tmp_path / "run", settings), 0)
    columns = read_columns(made.products[0])
    assert np.isnan(columns["teff_joint"]).all()
    assert set(columns["joint_flags"]) == {INT_NULL}
    assert set(columns["use_joint"]) == {0}


def test_products_carry_settings_version_model_and_seed(whole):
    metadata = pq.read_schema(whole / "measured.parquet").metadata
    for name in (b"creator", b"settings", b"model", b"model_seed", b"pixel_grid"):
        assert metadata[name]
    assert str(whole).encode() not in metadata[b"settings"], "checksums must not depend on the folder"


def test_a_bad_file_has_its_row_and_leaves_the_others_as_they_were(survey, asked, tmp_path):
    paths = sorted((survey / "spectra").rglob("*.fits.gz"))[:12]
    for number, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"{number:02d}.fits.gz")
    given = {"input": {"spectra": [str(tmp_path / "*.fits.gz")]}, "sample": {"keep_unknown": True}}
    run_survey(asked(tmp_path / "good", **given), until="table")
    (tmp_path / "04.fits.gz").write_bytes(b"not a spectrum")
    run_survey(asked(tmp_path / "bad", **given), until="table")
    before, after = (pq.read_table(tmp_path / name / "measured.parquet") for name in ("good", "bad"))
    assert after["failure"].to_pylist()[4]
    assert after["flags"].to_pylist()[4] == int(Flag.UNREADABLE)
    others = np.arange(12) != 4
    for name in ("path", "spectrum_id", "rv", "e_rv", "teff", "e_teff", "logg", "m_h", "halpha_ew", "flags"):
        one, two = (table[name].to_numpy()[others] for table in (before, after))
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_transfer_is_trained_on_the_survey_itself(asked, tmp_path):
    write_survey_store(tmp_path, 160, seed=6, repeats=0.0, junk=0.02, store=tmp_path / "run/store")
    quick = dict.fromkeys(("stars", "match_stars", "gauge_stars"), 100) | {"validation_stars": 50}
    quick |= {"gauge_rounds": 1, "rounds": 1}
    transfer = {"use": "train", "prior": {"draws": 5000, "alpha": 0.0}, "training": quick}
    settings = asked(tmp_path / "run", input={"gaia": tmp_path / "gaia.parquet"}, ingest={}, transfer=transfer)
    states = named(run_survey(settings))
    assert states["transfer"].state == states["table"].state == "done"
    assert states["transfer"].rows == states["clean"].rows - states["clean"].counts["rejected"]
    table = pq.read_table(tmp_path / "run/measured.parquet")
    assert b"residual" in table.schema.metadata[b"model"]
    assert not (tmp_path / "run/transfer/spectra").exists()
    before = touched(tmp_path / "run")
    run_survey(settings)
    assert touched(tmp_path / "run") == before


# ---- again


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="torch finds no GPU here; set device to cpu"):
        run_survey(asked(tmp_path / "run", measure={"device": "cuda"}))
    assert not (tmp_path / "run").exists()


def test_a_second_run_makes_nothing(whole, asked, tmp_path):
    folder = copied(whole, tmp_path / "run")
    before = touched(folder)
    states = run_survey(asked(folder))
    assert touched(folder) == before
    assert {state.state for state in states} == {"done"}


def test_a_damaged_or_missing_product_is_made_again(whole, asked, tmp_path):
    folder = copied(whole, tmp_path / "run")
    (folder / "measure/00001.parquet").write_bytes(b"PAR1")
    (folder / "velocity/00000.parquet").unlink()
    assert named(stage_states(Run(folder, asked(folder).absolute())))["measure"].state == "part"
    run_survey(asked(folder))
    assert checksum(folder) == checksum(whole)


def test_a_store_made_elsewhere_is_run_too(asked, tmp_path):
    write_survey_store(tmp_path, 6, seed=4, repeats=0.0, store=tmp_path / "run/store")
    settings = asked(tmp_path / "run", input={"gaia": tmp_path / "gaia.parquet"}, ingest={})
    states = run_survey(settings, until="table")
    assert named(states)["table"].rows == 6
    assert named(states)["ingest"].pieces == 1


def test_new_files_get_new_rows_and_old_rows_stay(survey, asked, tmp_path, whole):
    paths = sorted((survey / "spectra").rglob("*.fits.gz"))
    plain = {"sample": {"keep_unknown": True}}
    run_survey(asked(tmp_path / "run", input={"spectra": [str(path) for path in paths[:20]]}, **plain), until="table")
    first = pq.read_table(tmp_path / "run/measured.parquet")
    states = run_survey(asked(tmp_path / "run", input={"spectra": [str(path) for path in paths[:24]]}, **plain))
    second = pq.read_table(tmp_path / "run/measured.parquet")
    assert {state.state for state in states} == {"done"}
    assert len(first) == 20
    assert len(second) == 24
    for name in ("path", "spectrum_id", "rv", "teff", "e_teff", "flags"):
        old, new = first[name].to_pylist(), second[name].to_pylist()[:20]
        assert repr(old) == repr(new)


def test_until_from_and_only(whole, asked, tmp_path):
    folder = tmp_path / "run"
    states = named(run_survey(asked(folder), until="velocity"))
    assert (states["velocity"].state, states["prepare"].state) == ("done", "waiting")
    with pytest.raises(UsageError, match="measure needs what is not done yet: transfer"):
        run_survey(asked(folder), only="measure")
    states = named(run_survey(asked(folder), only="prepare"))
    assert (states["prepare"].state, states["clean"].state) == ("done", "waiting")
    before = touched(folder)
    run_survey(asked(folder), since="velocity", until="velocity")
    after = touched(folder)
    again = {path.parts[0] for path in before if before[path] != after.get(path)}
    assert again == {"velocity", "receipts"}
    for path in (folder / "velocity").iterdir():
        assert path.read_bytes() == (whole / "velocity" / path.name).read_bytes()


# ---- divided


def test_four_parts_and_a_gather_make_the_same_bytes(whole, asked, tmp_path):
    settings = asked(tmp_path / "run")
    for part in (3, 1, 4, 2):
        run_survey(settings, part=(part, 4))
    assert not (tmp_path / "run/measured.parquet").exists()
    states = run_survey(settings, gather=True)
    assert {state.state for state in states} == {"done"}
    assert checksum(tmp_path / "run") == checksum(whole)


def test_a_gather_says_which_parts_are_lacking(asked, tmp_path):
    settings = asked(tmp_path / "run")
    run_survey(settings, part=(1, 2), until="ingest")
    with pytest.raises(UsageError, match="2 shards of stage ingest are not done: run the other parts first"):
        run_survey(settings, gather=True)


@pytest.mark.slow
def test_dask_makes_the_same_bytes_although_a_worker_is_killed(whole, asked, tmp_path, processes):
    """Of the stages that cost most; the cluster's processes are forks of a server."""
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    folder = copied(whole, tmp_path / "run")
    for stage in ("velocity", "measure"):
        shutil.rmtree(folder / stage)
    killed = []

    def kill(stage, done, total):
        if stage == "velocity" and done and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    with (
        dask.config.set({"distributed.worker.multiprocessing-method": processes.get_start_method()}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        states = run_survey(asked(folder), client=client, progress=kill)
    assert killed
    assert {state.state for state in states} == {"done"}
    for stage in ("velocity", "measure"):
        for path in (whole / stage).iterdir():
            assert (folder / stage / path.name).read_bytes() == path.read_bytes()
    assert checksum(folder) == checksum(whole)


# ---- faults


def test_a_worker_that_dies_loses_nothing(whole, asked, tmp_path):
    killed = []

    def kill(stage, done, total):
        if stage == "measure" and not killed and multiprocessing.active_children():
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    states = run_survey(asked(tmp_path / "run"), workers=2, progress=kill)
    assert killed
    assert {state.state for state in states} == {"done"}
    assert checksum(tmp_path / "run") == checksum(whole)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_tried_again_and_told_of(whole, asked, tmp_path):
    folder = copied(whole, tmp_path / "run")
    (folder / "measure/00001.parquet").unlink()
    (folder / "measure/00002.parquet").unlink()
    states = named(run_survey(asked(folder), workers=2, timeout=1e-3))
    assert states["measure"].state == "failed"
    late = "it took longer than 0.001 s (--timeout), twice"
    assert states["measure"].failures == {1: late, 2: late}
    assert states["table"].state != "failed"
    assert {state.state for state in run_survey(asked(folder))} == {"done"}
    assert checksum(folder) == checksum(whole)


def broken(monkeypatch, name, error, times):
    """Let a stage fail so many times before it works."""
    calls = []
    changed = list(STAGES)
    place = [stage.name for stage in changed].index(name)
    make = changed[place].make

    def fails(run, unit):
        calls.append(unit)
        if len(calls) <= times:
            raise error
        return make(run, unit)

    changed[place] = replace(changed[place], make=fails)
    monkeypatch.setattr(stages, "STAGES", tuple(changed))
    return calls


def test_a_piece_that_fails_once_is_made_the_second_time(whole, asked, tmp_path, monkeypatch):
    folder = copied(whole, tmp_path / "run")
    (folder / "bins/00001/depth.npy").unlink()
    calls = broken(monkeypatch, "prepare", RuntimeError("odd"), 1)
    states = named(run_survey(asked(folder)))
    assert calls == [1]
    assert states["prepare"].state == "done", "the second try is in a process of its own, which is not broken"
    assert checksum(folder) == checksum(whole)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_ends_the_run_with_nothing_half_written(whole, asked, tmp_path, monkeypatch, code):
    folder = copied(whole, tmp_path / "run")
    for name in ("measure/00000.parquet", "measure/00001.parquet"):
        (folder / name).unlink()
    calls = broken(monkeypatch, "measure", OSError(code, os.strerror(code), str(folder)), 9)
    with pytest.raises(OSError, match=os.strerror(code)):
        run_survey(asked(folder))
    assert calls == [0]
    assert not (folder / "measure/00000.parquet").exists()
    monkeypatch.undo()
    run_survey(asked(folder))
    assert checksum(folder) == checksum(whole)


def test_other_settings_are_refused_with_what_differs(whole, asked, tmp_path):
    folder = copied(whole, tmp_path / "run")
    before = touched(folder)
    other = asked(folder, measure={"fixed": {"a_m": 0.0}, "starts": 2})
    with pytest.raises(UsageError, match=r"stage velocity was made with measure\.starts 1, now 2.*--from velocity"):
        run_survey(other)
    with pytest.raises(UsageError, match=r"measure\.starts 1, now 2"):
        run_survey(other, since="measure")
    assert touched(folder) == before
    assert named(run_survey(other, since="velocity", until="velocity"))["velocity"].state == "done"


def test_another_model_or_version_is_refused_too(whole, asked, tmp_path, monkeypatch):
    folder = copied(whole, tmp_path / "run")
    with pytest.raises(UsageError, match=r"stage emulator was made with emulator\.model"):
        run_survey(asked(folder, transfer={"use": "simulated", "prior": {"draws": 1000, "alpha": 0.0}}))
    monkeypatch.setattr(freshness, "__version__", "99.0")
    with pytest.raises(UsageError, match=r"stage ingest was made with stargap .*now '99\.0'"):
        run_survey(asked(folder))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"until": "mesure"}, "no stage 'mesure'; did you mean 'measure'"),
        ({"until": "sample", "since": "measure"}, "stage sample comes before stage measure"),
        ({"part": (0, 4)}, "i/N with i from 1 to N"),
        ({"part": (1, 4), "gather": True}, "not together with gather"),
        ({"part": (1, 4), "since": "measure"}, "in one part would undo the others"),
        ({"only": "measure"}, "no spectra: do stage ingest first"),
    ],
)
def test_requests_that_make_no_sense(asked, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        run_survey(asked(tmp_path / "run"), **options)


def test_a_run_without_spectra_says_so(asked, tmp_path):
    with pytest.raises(UsageError, match=r"input\.spectra is empty"):
        run_survey(asked(tmp_path / "run", input={}))


# ---- killed


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again_it_ends_the_same(whole, asked, tmp_path, processes):
    """Moments are told by how much is done, which the load of the machine does not move."""
    settings, receipts = asked(tmp_path / "run"), tmp_path / "run/receipts"
    pieces = len(list((whole / "receipts").rglob("*.json")))
    random = np.random.default_rng(5)
    for workers, done in zip((1, 1, 2, 1), np.sort(random.uniform(0, pieces - 6, 4)), strict=True):
        before = len(list(receipts.rglob("*.json")))
        process = processes.Process(target=run_alone, args=(settings, workers))
        process.start()
        while len(list(receipts.rglob("*.json"))) < max(done, before + 1):
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert {state.state for state in run_survey(settings)} == {"done"}
    assert checksum(tmp_path / "run") == checksum(whole)
    assert not list((tmp_path / "run").rglob("*/.stargap-*/*.json")), "no half shard under a final name"


@pytest.mark.slow
def test_two_runs_of_one_folder_at_once(whole, asked, tmp_path, processes):
    """Two ingests at once: tests/spectra/test_ingest.py."""
    folder = copied(whole, tmp_path / "run")
    for name in ("sample", "velocity", "bins", "measure", "catalogue"):
        shutil.rmtree(folder / name)
    both = [processes.Process(target=run_alone, args=(asked(folder),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=240)
    assert [process.exitcode for process in both] == [0, 0]
    for name in ("measured.parquet", "catalogue/stars.parquet", "catalogue/spectra.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_130(asked, tmp_path):
    (tmp_path / "survey.toml").write_text(example_toml(asked(tmp_path / "run")))
    process = subprocess.Popen(
        [sys.executable, "-m", "stargap.cli.main", "run", tmp_path / "survey.toml", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run/receipts/ingest/00000.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "stargap: interrupted; run the same command again to resume"
