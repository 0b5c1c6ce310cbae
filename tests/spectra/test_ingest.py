"""From files to a store, whatever happens on the way (ROBUSTNESS cases 24-25, 30-36)."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import helpers.store
import numpy as np
import pytest
import torch
from helpers.store import Store, ingest

from stargap.errors import SpectrumError, UsageError
from stargap.mock.files import write_lamost
from stargap.spectra.inputs import find_spectra
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.store import ingest as room
from stargap.spectra.store import shards
from stargap.spectra.store.ingest import Ingested
from stargap.spectra.store.lamost_files import catalogue_inputs, lamost_name, write_missing
from stargap.spectra.store.plan import file_inputs
from stargap.spectra.store.settings import IngestSettings
from stargap.spectra.store.shards import shard_folder
from stargap.spectra.store.store import verify
from stargap.tables.columns import INT_NULL

WAVE = 10.0 ** (3.765 + 1e-4 * np.arange(2000))
SMALL = IngestSettings(shard_rows=4)


def write(path, seed, **options):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    ivar = np.where(rng.random(WAVE.size) < 0.05, 0, 1.0)
    return write_lamost(path, WAVE, rng.uniform(50, 100, WAVE.size), ivar, **({"obsid": 100 + seed} | options))


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """Eleven files of every layout, of which two cannot be read."""
    folder = tmp_path_factory.mktemp("survey")
    layouts = ("lamost-dr1", "lamost-image", "lamost-table")
    for row in range(9):
        write(folder / f"{row}.fits{'.gz' if row % 2 else ''}", row, layout=layouts[row % 3])
    (folder / "9.fits").write_bytes(b"<html>")
    (folder / "91.fits").write_bytes(b"")
    return folder


@pytest.fixture
def survey(original, tmp_path):
    """A copy of them, to be changed."""
    shutil.copytree(original, tmp_path / "survey")
    return tmp_path / "survey"


def run(survey, store, **options):
    return ingest(file_inputs(find_spectra([survey])), store, SMALL, **options)


def content(store):
    """Every file of a store by its bytes, which must not depend on how it came to be."""
    return {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def pixels(store):
    parts = [shard.read() for shard in Store.open(store)]
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in ("flux", "ivar", "scale", "spikes")}


def differing(one, other):
    """Rows whose pixels differ."""
    unlike = [(one[name] != other[name]).reshape(len(one[name]), -1).any(dim=1) for name in one]
    return torch.stack(unlike).any(dim=0).nonzero()[:, 0].tolist()


# --- rows -------------------------------------------------------------------------------------------------------


def test_one_row_a_file_in_order_with_its_facts_and_reason(survey, tmp_path):
    done = run(survey, tmp_path / "store")
    assert (done.rows, done.read, sum(done.failures.values())) == (11, 11, 2)
    store = Store.open(tmp_path / "store")
    index = store.columns()
    paths = find_spectra([survey])
    assert index["path"].tolist() == [str(path) for path in paths]
    assert index["spectrum_id"].tolist() == list(range(11))
    assert index["bytes"].tolist() == [path.stat().st_size for path in paths]
    assert index["mtime_ns"].tolist() == [path.stat().st_mtime_ns for path in paths]
    assert index["sha256"].tolist() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    items = []
    for path in paths:
        try:
            items.append(read_spectrum(path))
        except SpectrumError as error:
            items.append(error)
    native, facts, failure = native_batch(items)
    assert [fact for shard in store for fact in shard.facts()] == facts
    assert index["failure"].tolist() == failure
    assert Counter(reason for reason in failure if reason) == done.failures
    read = pixels(tmp_path / "store")
    assert differing(read, {name: getattr(native, name) for name in read}) == []
    assert (native.ivar[[9, 10]] == 0).all()
    assert store.manifest["settings"] == IngestSettings(shard_rows=4).model_dump(mode="json")


def test_a_file_named_twice_has_one_row(survey, tmp_path):
    paths = [survey / "0.fits", survey / "2.fits", survey / "0.fits"]
    assert ingest(file_inputs(paths), tmp_path / "store", SMALL).rows == 2


def test_names_that_are_not_text_have_their_row(survey, tmp_path):
    odd = Path(os.fsdecode(bytes(survey) + b"/\xff.fits"))
    (survey / "0.fits").rename(odd)
    done = ingest(file_inputs([odd]), tmp_path / "store", SMALL)
    assert done == Ingested(1, 1, {})
    assert Store.open(tmp_path / "store").columns("path")["path"].tolist() == [f"{survey}/\\udcff.fits"]
    assert ingest(file_inputs([odd]), tmp_path / "store", SMALL) == Ingested(1, 0, {})


def test_what_is_no_file_has_its_row(tmp_path):
    (tmp_path / "folder.fits").mkdir()
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "link.fits").symlink_to(tmp_path / "nowhere")
    paths = [tmp_path / name for name in ("folder.fits", "pipe.fits", "link.fits", "none.fits", "a\0b.fits")]
    done = ingest(file_inputs(paths), tmp_path / "store", SMALL)
    assert list(done.failures) == [
        "a link to a file that does not exist", "is a directory", "not a possible file name", "not a regular file",
        "the file does not exist",
    ]  # fmt: skip


def test_nothing_to_ingest_is_an_empty_store(tmp_path):
    assert ingest(file_inputs([]), tmp_path / "store") == Ingested(0, 0, {})
    assert len(Store.open(tmp_path / "store")) == 0


# --- the same for any number of processes, parts and runs -------------------------------------------------------


@pytest.mark.slow
def test_processes_and_parts_change_nothing(survey, tmp_path):
    run(survey, tmp_path / "one")
    run(survey, tmp_path / "two", workers=2)
    for part in ((2, 3), (3, 3), (1, 3)):
        run(survey, tmp_path / "parts", part=part)
        with pytest.raises(UsageError, match="not finished"):
            Store.open(tmp_path / "parts")
    assert run(survey, tmp_path / "parts").read == 0
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "parts")


def test_running_again_reads_and_writes_nothing(survey, tmp_path, monkeypatch):
    run(survey, tmp_path / "store")
    before = content(tmp_path / "store")
    monkeypatch.setattr(room, "write_shard", None)
    monkeypatch.setattr(room, "read_spectrum", None)
    assert run(survey, tmp_path / "store").read == 0
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize("when", range(3))
def test_a_run_that_stops_between_shards_goes_on(when, survey, tmp_path, monkeypatch):
    run(survey, tmp_path / "whole")
    calls = []

    def stopping(*arguments, **options):
        if len(calls) == when:
            raise KeyboardInterrupt
        calls.append(None)
        return original_write(*arguments, **options)

    original_write = room.write_shard
    monkeypatch.setattr(room, "write_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(survey, tmp_path / "store")
    with pytest.raises(UsageError, match="not finished"):
        Store.open(tmp_path / "store")
    monkeypatch.undo()
    assert run(survey, tmp_path / "store").read == 11 - 4 * when
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_settings_cannot_change_on_the_way(survey, tmp_path):
    run(survey, tmp_path / "store")
    with pytest.raises(UsageError, match="begun with dtype 'float32', now 'float16', shard_rows 4, now 1024"):
        ingest(file_inputs([survey / "0.fits"]), tmp_path / "store", IngestSettings(dtype="float16"))
    assert len(Store.open(tmp_path / "store")) == 11


def test_a_folder_of_other_things_is_left_alone(survey):
    before = content(survey)
    with pytest.raises(UsageError, match=r"holds 0\.fits and no plan of an ingest"):
        run(survey, survey)
    assert content(survey) == before


@pytest.mark.parametrize("harm", [b"", b"PAR1 no PAR1"])
def test_a_damaged_plan_is_refused(harm, survey, tmp_path):
    run(survey, tmp_path / "store")
    (tmp_path / "store" / "plan.parquet").write_bytes(harm)
    with pytest.raises(UsageError, match="not a plan of an ingest"):
        run(survey, tmp_path / "store")


# --- files that come, change and go -----------------------------------------------------------------------------


def test_new_files_follow_the_old_ones(survey, tmp_path):
    run(survey, tmp_path / "store")
    before = pixels(tmp_path / "store")
    write(survey / "00.fits", 50)
    write(survey / "5x.fits", 51)
    assert run(survey, tmp_path / "store").read == 2
    store = Store.open(tmp_path / "store")
    assert [Path(path).name for path in store.columns("path")["path"]][10:] == ["91.fits", "00.fits", "5x.fits"]
    after = pixels(tmp_path / "store")
    assert differing(before, {name: values[:11] for name, values in after.items()}) == []
    assert (after["ivar"][11:] > 0).any(dim=1).all()
    assert verify(tmp_path / "store") == []


def test_a_changed_file_is_read_again_into_its_row(survey, tmp_path):
    run(survey, tmp_path / "store")
    before = pixels(tmp_path / "store")
    write(survey / "5.fits.gz", 77)
    write(survey / "9.fits", 78)
    assert run(survey, tmp_path / "store") == Ingested(11, 2, {"the file is empty": 1})
    assert differing(before, pixels(tmp_path / "store")) == [5, 9]
    index = Store.open(tmp_path / "store").columns("obsid", "failure")
    assert index["obsid"][[5, 9]].tolist() == [177, 178]
    run(survey, tmp_path / "fresh")
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


def test_a_file_of_the_same_size_and_another_date_counts_by_its_checksum(survey, tmp_path):
    run(survey, tmp_path / "store")
    before = pixels(tmp_path / "store")
    os.utime(survey / "2.fits", ns=(1, 1))
    assert run(survey, tmp_path / "store").read == 0
    assert Store.open(tmp_path / "store").columns("mtime_ns")["mtime_ns"][2] == 1
    raw = bytearray((survey / "4.fits").read_bytes())
    raw[-4000] ^= 64
    (survey / "4.fits").write_bytes(raw)
    assert run(survey, tmp_path / "store").read == 1
    assert set(differing(before, pixels(tmp_path / "store"))) <= {4}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_that_has_gone_keeps_its_row_and_its_data(dtype, survey, tmp_path):
    settings = IngestSettings(shard_rows=4, dtype=dtype)
    ingest(file_inputs(find_spectra([survey])), tmp_path / "store", settings)
    before, bytes_before = pixels(tmp_path / "store"), content(tmp_path / "store")
    (survey / "1.fits.gz").unlink()
    assert ingest(file_inputs(find_spectra([survey])), tmp_path / "store", settings).read == 0
    assert content(tmp_path / "store") == bytes_before
    write(survey / "2.fits", 60)  # its shard is written again
    ingest(file_inputs(find_spectra([survey])), tmp_path / "store", settings)
    assert differing(before, pixels(tmp_path / "store")) == [2]
    assert Store.open(tmp_path / "store").columns("failure")["failure"][1] == ""


def test_a_file_that_comes_late_fills_its_row(survey, tmp_path):
    (survey / "3.fits.gz").rename(tmp_path / "late")
    paths = [survey / f"{row}.fits{'.gz' if row % 2 else ''}" for row in range(5)]
    assert ingest(file_inputs(paths), tmp_path / "store", SMALL).failures == {"the file does not exist": 1}
    (tmp_path / "late").rename(paths[3])
    assert ingest(file_inputs(paths), tmp_path / "store", SMALL) == Ingested(5, 1, {})
    ingest(file_inputs(paths), tmp_path / "fresh", SMALL)
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_tried_again(survey, tmp_path):
    (survey / "0.fits").chmod(0)
    assert run(survey, tmp_path / "store").failures["permission denied"] == 1
    (survey / "0.fits").chmod(0o644)
    assert run(survey, tmp_path / "store").read == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: shutil.rmtree(folder),
        lambda folder: os.truncate(folder / "flux.npy", 500),
        lambda folder: (folder / "shard.json").write_text("{"),
        lambda folder: (folder / "ivar.npy").write_bytes((folder / "ivar.npy").read_bytes()[:-1] + b"\x7f"),
    ],
    ids=range(4),
)
def test_a_damaged_shard_is_written_anew(harm, survey, tmp_path):
    run(survey, tmp_path / "store")
    harm(shard_folder(tmp_path / "store", 1))
    write(survey / "4.fits", 40)  # a checksum is looked at when a shard changes
    run(survey, tmp_path / "store")
    assert verify(tmp_path / "store") == []
    run(survey, tmp_path / "fresh")
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


# --- a full disk ------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_in_words_and_the_run_goes_on_later(survey, tmp_path, monkeypatch):
    run(survey, tmp_path / "whole")
    left, fsync = [12], os.fsync

    def full(number):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(survey, tmp_path / "store")
    names = {path.name for path in (tmp_path / "store").iterdir()}
    assert names == {"plan.parquet", "shard-00000"}
    monkeypatch.undo()
    run(survey, tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


# --- processes that are killed ----------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
from pathlib import Path
from helpers import store as whole
from stargap.spectra.store import ingest as room
from stargap.spectra.store.plan import file_inputs
read = room.read_spectrum

def reading(path, how):
    if "deadly" in str(path):
        os.kill(os.getpid(), 9)
    time.sleep({pause})
    return read(path, how)

room.read_spectrum = reading
if __name__ == "__main__":
    from stargap.spectra.inputs import find_spectra
    print("begin", flush=True)
    inputs = file_inputs(find_spectra([sys.argv[1]]))
    whole.ingest(inputs, Path(sys.argv[2]), room.IngestSettings(shard_rows=4), workers=2)
"""
"""In a script, whose changes reach the processes that it starts."""


@pytest.fixture
def begin(survey, tmp_path):
    """Start an ingest of the survey by two processes of a third."""
    begun = []

    def start(store, *, pause=0.0):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(pause=pause))
        command = [sys.executable, str(script), str(survey), str(store)]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        begun.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def die(*anything, **more):
    os.kill(os.getpid(), signal.SIGKILL)


def slowly(ready, survey, store, pause, deadly=None):
    """Ingest with a pause before each file, and die where a function would be called."""
    torch.set_num_threads(1)
    read = room.read_spectrum

    def reading(path, how):
        time.sleep(pause)
        return read(path, how)

    room.read_spectrum = reading
    if deadly is not None:
        setattr(sys.modules[deadly[0]], deadly[1], die)
    ready.set()
    run(survey, store)


@pytest.fixture
def fork(processes, survey):
    """Start an ingest of the survey in another process, which has begun."""

    def start(store, *more):
        ready = processes.Event()
        process = processes.Process(target=slowly, args=(ready, survey, store, *more))
        process.start()
        assert ready.wait(60)
        return process

    return start


def group(number):
    """Processes of a session that still live."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(text[3]) == number and text[0] != "Z":
            alive.append(int(status.parent.name))
    return alive


def cleared(store):
    """The content of a store without what killed processes left behind."""
    return {path: text for path, text in content(store).items() if not path.parts[0].startswith(".stargap-")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "made"),
    [
        (shards, "_exchange", {"plan.parquet"}),
        (helpers.store, "finish", {"plan.parquet", "shard-00000", "shard-00001", "shard-00002"}),
        (helpers.store, "extend_plan", set()),
    ],
)
def test_a_kill_between_write_and_rename_changes_nothing(module, name, made, fork, survey, tmp_path):
    store = tmp_path / "store"
    process = fork(store, 0.0, (module.__name__, name))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {path.name for path in store.iterdir() if not path.name.startswith(".")} == made
    run(survey, tmp_path / "whole")
    run(survey, store)
    assert cleared(store) == content(tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(fork, survey, tmp_path):
    run(survey, tmp_path / "whole")
    store = tmp_path / "store"
    for moment in np.random.default_rng(5).uniform(0.0, 1.2, 4):
        process = fork(store, 0.1)
        time.sleep(moment)
        process.kill()
        process.join()
        for shard in store.glob("shard-*"):
            assert content(shard) == content(tmp_path / "whole" / shard.name)
    run(survey, store)
    assert cleared(store) == content(tmp_path / "whole")


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(begin, tmp_path):
    process = begin(tmp_path / "store", pause=0.5)
    process.stdout.readline()
    deadline = time.monotonic() + 20
    while len(group(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(group(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    while group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group(process.pid) == []


@pytest.mark.slow
def test_two_processes_on_the_same_shards_do_no_harm(fork, survey, tmp_path):
    """First both write every shard; then every file changes, and both replace what the other may be reading."""
    for when in range(2):
        for row in range(9):
            write(survey / f"{row}.fits{'.gz' if row % 2 else ''}", row + 10 * when)
        run(survey, tmp_path / f"whole{when}")
        both = [fork(tmp_path / "store", 0.02) for _ in range(2)]
        for process in both:
            process.join()
        assert [process.exitcode for process in both] == [0, 0]
        assert content(tmp_path / "store") == content(tmp_path / f"whole{when}")


def test_a_shard_that_is_replaced_while_it_is_read_is_read_again(survey, tmp_path, monkeypatch):
    run(survey, tmp_path / "store")
    before = pixels(tmp_path / "store")
    (survey / "0.fits").unlink()
    write(survey / "1.fits.gz", 20)
    rows, taken = room.plan_rows, []

    def replaced(folder, number):
        if not taken:
            taken.append(number)
            run(survey, folder)
        return rows(folder, number)

    monkeypatch.setattr(room, "plan_rows", replaced)
    run(survey, tmp_path / "store")
    assert verify(tmp_path / "store") == []
    assert differing(before, pixels(tmp_path / "store")) == [1]


@pytest.mark.slow
def test_a_file_that_kills_its_process_has_a_row_that_says_so(begin, survey, tmp_path):
    write(survey / "6-deadly.fits", 33)
    process = begin(tmp_path / "store")
    assert process.wait() == 0
    index = Store.open(tmp_path / "store").columns("path", "failure", "sha256")
    (row,) = np.flatnonzero(index["failure"] == "the process that read it died")
    assert index["path"][row].endswith("6-deadly.fits")
    assert (index["failure"] == "").sum() == 9
    before = pixels(tmp_path / "store")
    assert run(survey, tmp_path / "store").read == 1  # here it kills nothing
    assert differing(before, pixels(tmp_path / "store")) == [row]


# --- LAMOST's catalogue -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """Four rows of a catalogue, of which the files of three are there: packed, plain, and flat."""
    root = tmp_path / "tree"
    catalogue = {
        "OBSID": np.array([101, 102, 103, 104]),
        "uid": np.array(["a", "", "c", "d"]),
        "lmjd": np.array([55859] * 4),
        "planid": np.array(["F5902", "F5902", "B1", "B1"]),
        "spid": np.array([1, 1, 2, 16]),
        "fiberid": np.array([7, 8, 250, 1]),
        "obsdate": np.array(["2011-10-24"] * 4),
        "gaia_source_id": np.array([2**61 + 1, -9999, 3, 4]),
        "class": np.array(["STAR"] * 4),
        "subclass": np.array(["dM2", "dM3", "", "gM0"]),
        "fibermask": np.array([0, 128, -9999, 0]),
        "z": np.array([1e-4, np.nan, -9999.0, 0.0]),
        "snrr": np.ones(4),
    }
    write(root / "20111024" / "F5902" / "spec-55859-F5902_sp01-007.fits.gz", 1, obsid=101)
    write(root / "20111024" / "F5902" / "spec-55859-F5902_sp01-008.fits", 2, obsid=102)
    write(root / "spec-55859-B1_sp02-250.fits.gz", 3, layout="lamost-dr1")
    return root, catalogue


def test_a_catalogue_finds_its_files_and_is_kept(tree, tmp_path):
    root, catalogue = tree
    done = ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL)
    assert done == Ingested(4, 4, {"the file does not exist": 1})
    index = Store.open(tmp_path / "store").columns()
    assert [Path(path).relative_to(root).as_posix() for path in index["path"]] == [
        "20111024/F5902/spec-55859-F5902_sp01-007.fits.gz",
        "20111024/F5902/spec-55859-F5902_sp01-008.fits",
        "spec-55859-B1_sp02-250.fits.gz",
        "20111024/B1/spec-55859-B1_sp16-001.fits.gz",
    ]
    assert index["obsid"].tolist() == [101, 102, 103, 104]  # DR1 files do not say
    assert index["catalogue_obsid"].tolist() == [101, 102, 103, 104]
    assert index["gaia_source_id"].tolist() == [2**61 + 1, INT_NULL, 3, 4]
    assert index["uid"].tolist() == ["a", "", "c", "d"]
    assert index["catalogue_subclass"].tolist() == ["dM2", "dM3", "", "gM0"]
    assert index["catalogue_fibermask"].tolist() == [0, 128, INT_NULL, 0]
    np.testing.assert_array_equal(index["catalogue_z"], [1e-4, np.nan, np.nan, 0.0])


def test_another_obsid_in_the_file_is_a_row_with_a_reason(tree, tmp_path):
    root, catalogue = tree
    wrong = catalogue | {"OBSID": np.array([101, 999, 103, 104])}
    ingest(catalogue_inputs(wrong, root), tmp_path / "store", SMALL)
    store = Store.open(tmp_path / "store")
    reason = "the obsid in the file is not the one in the catalogue"
    assert [text == reason for text in store.columns("failure")["failure"]] == [False, True, False, False]
    assert (store.shard(0).read().ivar[1] == 0).all()
    assert ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL).read == 2  # and the missing file
    assert Store.open(tmp_path / "store").columns("failure")["failure"].tolist()[:3] == [""] * 3


def test_files_that_move_or_come_late_keep_their_rows(tree, tmp_path):
    root, catalogue = tree
    ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL)
    before = pixels(tmp_path / "store")
    shutil.move(root / "spec-55859-B1_sp02-250.fits.gz", root / "20111024" / "spec-55859-B1_sp02-250.fits.gz")
    (root / "20111024" / "F5902" / "spec-55859-F5902_sp01-008.fits").unlink()
    write(root / "spec-55859-B1_sp16-001.fits", 4, obsid=104)
    assert ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL) == Ingested(4, 1, {})
    assert differing(before, pixels(tmp_path / "store")) == [3]
    paths = Store.open(tmp_path / "store").columns("path")["path"]
    assert [Path(path).parent.name for path in paths] == ["F5902", "F5902", "20111024", "tree"]


def test_a_newer_catalogue_updates_what_it_says_and_reads_nothing(tree, tmp_path):
    root, catalogue = tree
    catalogue = {name: values[:3] for name, values in catalogue.items()}
    ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL)
    before = pixels(tmp_path / "store")
    newer = catalogue | {"subclass": np.array(["dM2", "dM4", "dM0"])}
    order = [2, 0, 1]
    newer = {name: values[order] for name, values in newer.items()}
    assert ingest(catalogue_inputs(newer, root), tmp_path / "store", SMALL).read == 0
    store = Store.open(tmp_path / "store")
    assert store.columns("catalogue_subclass")["catalogue_subclass"].tolist() == ["dM2", "dM4", "dM0"]
    assert differing(before, pixels(tmp_path / "store")) == []


def test_a_catalogue_adopts_rows_that_were_ingested_as_files(tree, tmp_path):
    root, catalogue = tree
    run(root, tmp_path / "store")
    before = pixels(tmp_path / "store")
    done = ingest(catalogue_inputs(catalogue, root), tmp_path / "store", SMALL)
    assert done.rows == 4
    store = Store.open(tmp_path / "store")
    assert store.columns("gaia_source_id")["gaia_source_id"].tolist() == [2**61 + 1, INT_NULL, 3, 4]
    after = pixels(tmp_path / "store")
    assert differing(before, {name: values[:3] for name, values in after.items()}) == []
    assert run(root, tmp_path / "store").rows == 4


def test_rows_that_name_no_file_are_counted_and_keep_their_row(tree, tmp_path):
    root, catalogue = tree
    floats = catalogue | {"lmjd": np.array([np.nan, 55859.0, 55859.0, 55859.0])}
    found = write_missing(floats, root, tmp_path / "missing.csv")
    assert (found.unnamed, found.first_unnamed) == (1, 1)
    assert "1858" not in (tmp_path / "missing.csv").read_text(encoding="utf-8")
    inputs = catalogue_inputs(catalogue | {"planid": ["F5902", "null", "B1", "B1"]}, root)
    assert len(inputs.path) == 4
    assert [b"without-lmjd" in path for path in inputs.path] == [False, True, False, False]
    assert not inputs.found[1]


def test_gaia_identifiers_that_went_through_a_float_are_refused(tree):
    root, catalogue = tree
    with pytest.raises(UsageError, match="gaia_source_id: holds floats"):
        catalogue_inputs(catalogue | {"gaia_source_id": np.full(4, 3.072047318239120e18)}, root)
    kept = catalogue_inputs(catalogue | {"OBSID": np.array([101.0, np.nan, 103.0, 104.0])}, root).catalogue
    assert kept["catalogue_obsid"] == [101, None, 103, 104]


def test_missing_files_are_listed_for_download(tree, tmp_path):
    root, catalogue = tree
    assert write_missing(catalogue, root, tmp_path / "missing.csv").files == 1
    with (tmp_path / "missing.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"obsid": "104", "path": "20111024/B1/spec-55859-B1_sp16-001.fits.gz"}]
    write(root / "20111024" / "B1" / "spec-55859-B1_sp16-001.fits.gz", 4)
    assert write_missing(catalogue, root, tmp_path / "missing.csv").files == 0
    assert (tmp_path / "missing.csv").read_text() == "obsid,path\n"
    assert write_missing(catalogue, tmp_path / "nowhere", tmp_path / "missing.csv").files == 4


def test_a_folder_that_cannot_be_searched_is_not_taken_for_an_empty_one(tree, tmp_path, monkeypatch):
    root, catalogue = tree
    scandir, closed = os.scandir, root / "20111024"

    def refuse(path="."):
        if not isinstance(path, int) and Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for search in (
        lambda: catalogue_inputs(catalogue, root),
        lambda: write_missing(catalogue, root, tmp_path / "missing.csv"),
        lambda: find_spectra([root]),
    ):
        with pytest.raises(UsageError, match=f"{closed}: cannot be searched .Permission denied"):
            search()
    assert not (tmp_path / "missing.csv").exists()


def test_without_a_date_the_night_is_the_day_before_its_lmjd(tree, tmp_path):
    """As in every real file: DATE-OBS of 2011-10-24 goes with LMJD 55859, which is 2011-10-25."""
    _, catalogue = tree
    del catalogue["obsdate"]
    write_missing(catalogue, tmp_path / "nowhere", tmp_path / "missing.csv")
    assert (tmp_path / "missing.csv").read_text().count(",20111024/") == 4


def test_a_catalogue_without_its_columns_or_folder_is_refused(tree, tmp_path):
    root, catalogue = tree
    with pytest.raises(UsageError, match="no such folder"):
        catalogue_inputs(catalogue, root / "none")
    del catalogue["spid"], catalogue["OBSID"]
    with pytest.raises(UsageError, match="no column spid: lmjd, planid, spid, fiberid name a file"):
        catalogue_inputs(catalogue, root)
    with pytest.raises(UsageError, match="no column spid, obsid"):
        write_missing(catalogue, root, tmp_path / "missing.csv")


def test_real_files_are_found_by_their_cards(shared_data):
    names = {path.name for path in (shared_data / "lamost" / "formats").glob("spec-5*_sp*.fits*")}
    assert names
    for name in sorted(names):
        facts = read_spectrum(shared_data / "lamost" / "formats" / name).facts
        if None not in (facts.lmjd, facts.plan_id, facts.spectrograph, facts.fiber):
            made = lamost_name(facts.lmjd, facts.plan_id, facts.spectrograph, facts.fiber)
            assert name.startswith(made.removesuffix(".fits.gz"))
