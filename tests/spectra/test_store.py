"""Shards, index and manifest: what is written is read, and what is damaged is refused (ROBUSTNESS cases 32-33)."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.store import Store

from stargap.errors import SpectrumError, UsageError
from stargap.files import part_folder
from stargap.pixels import BLUE_KEPT, BLUE_WAVELENGTH, LOG_LAMBDA
from stargap.spectra.log_lambda import NativeBatch, native_batch
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.store.shards import (
    Shard,
    index_schema,
    recover_shard,
    shard_folder,
    write_shard,
)
from stargap.spectra.store.store import finish, verify
from stargap.tables.columns import INT_NULL

ROWS = 4
FULL = Facts(
    path="/data/ü.fits", layout="lamost-image", release="DR10", obsid=2**62 + 1, designation="J1", ra=0.1, dec=-0.2,
    snr_u=1.5, snr_g=None, snr_r=1 / 3, snr_i=7.0, snr_z=8.0, snr_source="header", subclass="dM2", object_class="STAR",
    plan_id="HD1", lmjd=55859, spectrograph=3, fiber=250, date_obs="2011-10-24", exposure=1800.0, fiber_mask=0,
    pipeline_z=1e-5, helio_rv=-3.25,
)  # fmt: skip


def made(count, seed=0):
    """Rows of every kind: stars with bad pixels, and every third one unreadable."""
    rng = np.random.default_rng(seed)
    items = []
    for row in range(count):
        ivar = np.where(rng.random(LOG_LAMBDA.count) < 0.1, 0.0, rng.uniform(1e-4, 1.0, LOG_LAMBDA.count))
        facts = replace(FULL, path=f"/data/{seed}-{row}.fits", fiber=row, snr_source=None if row % 2 else "header")
        star = Spectrum(LOG_LAMBDA.wavelength, rng.uniform(50, 150, LOG_LAMBDA.count), ivar, facts)
        items.append(SpectrumError(f"/data/{row}.fits", "the file is empty") if row % 3 == 2 else star)
    return native_batch(items)


def build(folder, count=10, **options):
    """A store of shards of 4 rows, and what went into it."""
    folder.mkdir(exist_ok=True)
    native, facts, failure = made(count)
    for number, first in enumerate(range(0, count, ROWS)):
        rows = slice(first, first + ROWS)
        gaia = [None if i % 2 else 2**62 + 3 for i in range(count)]
        columns = {"failure": failure[rows], "gaia_source_id": gaia[rows]}
        write_shard(folder, number, native[rows], columns, facts[rows], shard_rows=ROWS, **options)
    finish(folder, count, shard_rows=ROWS, settings={"a": 1}, **options)
    return native, facts, failure


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "store")
    return tmp_path / "store"


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("flux", "ivar", "scale", "spikes"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SIGMA = {"float32": "ivar.npy", "float16": "sigma.npy"}


def sign(shard, name):
    """Put the checksum of a changed file into the shard's card."""
    card = json.loads((shard / "shard.json").read_text())
    content = (shard / name).read_bytes()
    card["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (shard / "shard.json").write_text(json.dumps(card))


def flip(path, place=-100):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# --- what is written is read ------------------------------------------------------------------------------------


def test_float32_keeps_every_bit_facts_and_failures(tmp_path):
    native, facts, failure = build(tmp_path)
    store = Store.open(tmp_path)
    assert len(store) == 10
    assert [len(shard) for shard in store] == [4, 4, 2]
    first = 0
    for shard in store:
        rows = slice(first, first + len(shard))
        assert same(shard.read(), native[rows])
        assert shard.facts() == facts[rows]
        assert shard.failures() == failure[rows]
        assert shard.spectrum_id.tolist() == list(range(10))[rows]
        first += len(shard)
    assert {tensor.dtype for tensor in (store.shard(0).read().flux, store.shard(0).read().ivar)} == {torch.float32}


def test_only_the_rows_asked_for_are_given_and_they_are_copies(folder):
    shard = Store.open(folder).shard(1)
    whole = shard.read()
    assert same(shard.read(slice(1, 3)), whole[1:3])
    chosen = np.array([3, 0])
    assert same(shard.read(chosen), whole[torch.as_tensor(chosen)])
    whole.flux.zero_()
    assert not same(shard.read(), whole)
    assert verify(folder) == []


def test_the_index_has_a_row_a_spectrum_in_order_and_typed_nulls(folder):
    store = Store.open(folder)
    every = store.columns()
    assert list(every) == index_schema().names
    assert every["spectrum_id"].tolist() == list(range(10))
    assert every["shard"].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert every["row"].tolist() == [0, 1, 2, 3] * 2 + [0, 1]
    assert every["gaia_source_id"].tolist() == [2**62 + 3, INT_NULL] * 5
    assert every["obsid"].dtype == np.int64
    assert every["obsid"].max() == 2**62 + 1
    assert np.isnan(every["snr_g"][0])
    assert every["uid"].tolist() == [""] * 10


def test_equal_content_gives_equal_bytes(folder, tmp_path):
    build(tmp_path / "again")
    for path in sorted(folder.rglob("*")):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()


def test_an_empty_store_is_a_store(tmp_path):
    finish(tmp_path, 0)
    store = Store.open(tmp_path)
    assert (len(store), list(store), store.columns("obsid")["obsid"].size) == (0, [], 0)


def test_reading_leaves_no_file_open(folder):
    store = Store.open(folder)
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [(store.shard(number % 3).read(), store.shard(number % 3).facts()) for number in range(60)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert len(kept) == 60


def test_a_path_that_is_not_text_is_escaped(tmp_path):
    native, facts, _ = made(1)
    write_shard(tmp_path, 0, native, {}, [replace(facts[0], path=os.fsdecode(b"/data/\xff.fits"))])
    assert Shard.open(tmp_path, 0).facts()[0].path == "/data/\\udcff.fits"


# --- float16 ----------------------------------------------------------------------------------------------------


def stored(tmp_path_factory, flux, ivar):
    folder = tmp_path_factory.mktemp("half")
    shape = (len(flux), LOG_LAMBDA.count)
    native = NativeBatch(
        torch.tensor(flux)[:, None].expand(shape).contiguous(),
        torch.tensor(ivar)[:, None].expand(shape).contiguous(),
        torch.ones(len(flux), dtype=torch.float64),
        torch.zeros(len(flux), dtype=torch.int64),
    )
    write_shard(folder, 0, native, {}, [Facts()] * len(flux), dtype="float16")
    return native, Shard.open(folder, 0), folder


def test_float16_rounds_flux_and_sigma_by_half_a_unit_in_the_last_place(tmp_path):
    rng = np.random.default_rng(3)
    flux = (10 ** rng.uniform(-4, 4.8, LOG_LAMBDA.count) * rng.choice([-1, 1], LOG_LAMBDA.count)).astype(np.float32)
    sigma = 10 ** rng.uniform(-4, 4.8, LOG_LAMBDA.count)
    native = NativeBatch(
        torch.from_numpy(flux)[None],
        torch.from_numpy(sigma**-2.0).float()[None],
        torch.ones(1).double(),
        torch.zeros(1),
    )
    write_shard(tmp_path, 0, native, {}, [Facts()], dtype="float16")
    back = Shard.open(tmp_path, 0).read()
    assert (np.abs(back.flux[0].numpy() - flux) <= 2.0**-11 * np.abs(flux)).all()
    np.testing.assert_allclose(back.ivar[0].numpy() ** -0.5, sigma, rtol=1.001 * 2.0**-11)
    write_shard(tmp_path, 0, back, {}, [Facts()], dtype="float16")
    assert same(Shard.open(tmp_path, 0).read(), back)


def test_what_float16_cannot_hold_gets_weight_zero_and_nothing_else_does(tmp_path_factory):
    flux = np.array([1e6, -1e6, 1.0, 1.0, 1.0, 0.0], dtype=np.float32)
    ivar = np.array([1.0, 1.0, 1e-10, 0.0, 1e13, 1.0], dtype=np.float32)
    _, shard, _ = stored(tmp_path_factory, flux, ivar)
    back = shard.read()
    assert (back.ivar[:, 0] > 0).tolist() == [False, False, False, False, True, True]
    assert torch.isfinite(back.flux).all()
    assert torch.isfinite(back.ivar).all()


def test_float16_takes_half_the_room(tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        build(tmp_path / dtype, dtype=dtype)
        sizes[dtype] = (tmp_path / dtype / "shard-00000" / "flux.npy").stat().st_size
        assert Store.open(tmp_path / dtype).manifest["dtype"] == dtype
    assert 1.9 < sizes["float32"] / sizes["float16"] <= 2


# --- pixels blueward of the grid --------------------------------------------------------------------------------


@pytest.fixture
def blue(tmp_path):
    """A shard of three spectra that reach to H-beta and one that does not, as `write_shard` leaves it."""
    rng, wave = np.random.default_rng(7), np.concatenate([BLUE_WAVELENGTH, LOG_LAMBDA.wavelength])
    spectra = [Spectrum(wave, rng.uniform(50, 150, wave.size), rng.uniform(0.01, 1.0, wave.size)) for _ in range(3)]
    red = Spectrum(wave[96:], spectra[0].flux[96:], spectra[0].ivar[96:])
    return native_batch([*spectra, red])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blue_pixels_are_kept_with_a_twentieth_more_room(dtype, blue, tmp_path):
    native, facts, _ = blue
    plain = native_batch([SpectrumError("a.fits", "gone")])[0]
    without = replace(native, blue_flux=plain.blue_flux.expand(4, -1), blue_ivar=plain.blue_ivar.expand(4, -1))
    write_shard(tmp_path, 0, native, {}, facts, dtype=dtype)
    write_shard(tmp_path, 1, without, {}, facts, dtype=dtype)
    whole, old = Shard.open(tmp_path, 0), Shard.open(tmp_path, 1)
    assert set(whole.card.files) - set(old.card.files) == {"blue_flux.npy", f"blue_{SIGMA[dtype]}"}
    tolerance = 0.0 if dtype == "float32" else 2.0**-9
    for name in ("blue_flux", "blue_ivar"):
        np.testing.assert_allclose(getattr(whole.read(), name), getattr(native, name), rtol=tolerance)
        assert torch.equal(getattr(whole.read(np.array([3, 1])), name)[1], getattr(whole.read(), name)[1])
    assert (whole.read().blue_ivar > 0).sum(dim=1).tolist() == [96, 96, 96, 0]
    assert same(old.read(), whole.read())
    assert not old.read().blue_ivar.any()
    assert BLUE_KEPT.size / LOG_LAMBDA.count == pytest.approx(0.051, abs=5e-4)


def test_a_blue_array_of_another_shape_is_refused(blue, tmp_path):
    native, facts, _ = blue
    write_shard(tmp_path, 0, native, {}, facts)
    np.save(tmp_path / "shard-00000" / "blue_flux.npy", np.zeros((4, 5)))
    sign(tmp_path / "shard-00000", "blue_flux.npy")
    with pytest.raises(UsageError, match=r"blue_flux\.npy: holds \(4, 5\), where \(4, 96\) is needed"):
        Shard.open(tmp_path, 0).read()


# --- what is damaged is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: (f / "manifest.json").unlink(), "not finished: run the ingest again"),
        (lambda f: (f / "manifest.json").write_text("{"), "damaged, or not of a stargap store"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "damaged, or not of a stargap store"),
        (lambda f: (f / "manifest.json").write_text('{"format": 3}'), "damaged, or not of a stargap store"),
        (lambda f: edit(f / "manifest.json", kind="zarr"), "damaged, or not of a stargap store"),
        (lambda f: edit(f / "manifest.json", format=99), "format 99, where this version of stargap reads 3"),
        (lambda f: edit(f / "manifest.json", lattice={"first": 1, "count": 2, "step": 3}), "pixels are"),
        (lambda f: flip(f / "index.parquet"), "index.parquet: its checksum does not fit"),
        (lambda f: (f / "index.parquet").unlink(), "index.parquet: No such file"),
        (lambda f: os.truncate(f / "shard-00001" / "flux.npy", 5000), "shard-00001/flux.npy: 5000 bytes where"),
        (lambda f: (f / "shard-00002" / "ivar.npy").unlink(), "shard-00002/ivar.npy: No such file"),
        (lambda f: (f / "shard-00002").rename(f / "away"), "shard-00002/.*: No such file"),
    ],
    ids=range(12),
)
def test_a_damaged_store_is_refused_by_name(folder, harm, reason):
    harm(folder)
    try:
        problems = verify(folder)
    except UsageError as error:
        problems = [str(error)]
    assert problems
    assert all(re.search(reason, problem) for problem in problems)


def test_what_is_no_store_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="not a stargap store"):
            verify(place)


def test_verify_names_every_damaged_file_and_no_other(folder):
    assert verify(folder) == []
    flip(folder / "shard-00000" / "ivar.npy")
    flip(folder / "shard-00002" / "index.parquet")
    os.truncate(folder / "shard-00001" / "scale.npy", 10)
    names = [sentence.split(": ")[0].removeprefix(f"{folder}/") for sentence in verify(folder)]
    assert names == ["shard-00000/ivar.npy", "shard-00001/scale.npy", "shard-00002/index.parquet"]


def test_an_array_that_was_exchanged_is_refused(folder):
    path = folder / "shard-00000" / "flux.npy"
    size = path.stat().st_size
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array([{"pickle": 1}], dtype=object), allow_pickle=True)
        file.truncate(size)
    with pytest.raises(UsageError, match=r"flux\.npy: its checksum does not fit"):
        Shard.open(folder, 0).read()
    sign(folder / "shard-00000", "flux.npy")
    with pytest.raises(UsageError, match=r"flux\.npy: cannot be read \(.*Python objects"):
        Shard.open(folder, 0).read()
    np.save(path, np.zeros((4, 5)))
    sign(folder / "shard-00000", "flux.npy")
    with pytest.raises(UsageError, match=r"flux\.npy: holds \(4, 5\), where \(4, 1891\) is needed"):
        Shard.open(folder, 0).read()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_flipped_bit_of_any_file_is_noticed_where_it_is_read(dtype, tmp_path):
    build(tmp_path, dtype=dtype)
    rng, names = np.random.default_rng(1), sorted(Shard.open(tmp_path, 0).card.files)
    assert names == sorted(["flux.npy", "index.parquet", "resolution.npy", "scale.npy", "spikes.npy", SIGMA[dtype]])
    for name in names:
        path = tmp_path / "shard-00000" / name
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 5).tolist():
            flip(path, place)
            shard = Shard.open(tmp_path, 0)
            with pytest.raises(UsageError, match=f"{name}: its checksum does not fit, it is damaged: delete"):
                shard.facts() if name == "index.parquet" else shard.read(slice(0, 1))
            path.write_bytes(whole)
            assert len(shard.read()) == len(shard.facts()) == 4


def test_a_file_that_has_gone_is_named(folder):
    shard = Shard.open(folder, 0)
    (folder / "shard-00000" / "flux.npy").unlink()
    for read in (shard.read, lambda: Shard.open(folder, 0)):
        with pytest.raises(UsageError, match=r"flux\.npy: No such file or directory: delete the folder"):
            read()


def test_finish_refuses_a_missing_shard(folder):
    shutil.rmtree(folder / "shard-00001")
    with pytest.raises(UsageError, match=r"shard-00001/shard\.json: cannot be read"):
        finish(folder, 10, shard_rows=ROWS)


@pytest.mark.parametrize(("rows", "need"), [(9, 1), (11, 3)])
def test_finish_refuses_shards_that_do_not_make_up_the_rows(folder, rows, need):
    with pytest.raises(UsageError, match=f"shard-00002: 2 rows of 4 in float32, where {need} rows of 4"):
        finish(folder, rows, shard_rows=ROWS)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_rows_and_columns_that_do_not_fit_are_refused(tmp_path):
    native, facts, failure = made(5)
    with pytest.raises(ValueError, match="5 rows of at most 4"):
        write_shard(tmp_path, 0, native, {}, facts, shard_rows=4)
    with pytest.raises(ValueError, match="columns of other lengths"):
        write_shard(tmp_path, 0, native, {"failure": failure[1:]}, facts)
    with pytest.raises(ValueError, match="no column of the index: teff"):
        write_shard(tmp_path, 0, native, {"teff": [1.0] * 5}, facts)
    assert list(tmp_path.iterdir()) == []


# --- complete or not at all -------------------------------------------------------------------------------------


def test_a_changed_shard_unfinishes_the_store_and_an_equal_one_does_not(folder):
    native, facts, failure = made(10)
    gaia = [2**62 + 3, None, 2**62 + 3, None]
    write_shard(folder, 0, native[:4], {"failure": failure[:4], "gaia_source_id": gaia}, facts[:4], shard_rows=ROWS)
    assert len(Store.open(folder)) == 10
    write_shard(folder, 0, native[:4], {"failure": failure[:4]}, facts[:4], shard_rows=ROWS)
    with pytest.raises(UsageError, match="not finished"):
        verify(folder)
    finish(folder, 10, shard_rows=ROWS)
    assert Store.open(folder).columns("gaia_source_id")["gaia_source_id"].tolist()[:5] == [INT_NULL] * 4 + [2**62 + 3]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_equal_shard_mends_a_damaged_one(folder):
    path = folder / "shard-00002" / "flux.npy"
    flip(path)
    native, facts, failure = made(10)
    columns = {"failure": failure[8:], "gaia_source_id": [2**62 + 3, None]}
    write_shard(folder, 2, native[8:], columns, facts[8:], shard_rows=ROWS)
    finish(folder, 10, shard_rows=ROWS)
    assert verify(folder) == []


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    native, facts, _ = made(4, seed=9)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*store") as caught:
        write_shard(folder, 0, native, {}, facts, shard_rows=ROWS)
    assert caught.value.filename == str(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_write_that_the_system_cuts_short_leaves_what_was_there(folder):
    native, facts, _ = made(4, seed=9)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_shard(folder, 0, native, {}, facts, shard_rows=ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_kill_while_a_shard_is_replaced_loses_nothing(folder, monkeypatch):
    """The moment when the old shard is aside and the new one not yet in its place."""
    native, facts, _ = made(4, seed=9)
    old, rename = Store.open(folder).shard(0).read(), Path.rename

    def killed(self, target):
        result = rename(self, target)
        if target.name == ".shard-00000.old":
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(folder, 0, native, {}, facts, shard_rows=ROWS)
    monkeypatch.undo()
    assert not shard_folder(folder, 0).exists()
    recover_shard(folder, 0)
    assert same(Shard.open(folder, 0).read(), old)
    recover_shard(folder, 0)
    assert same(Shard.open(folder, 0).read(), old)
    finish(folder, 10, shard_rows=ROWS)
    assert verify(folder) == []


def test_what_a_killed_process_left_is_swept_and_what_is_being_written_is_not(folder):
    (folder / ".stargap-1.part").mkdir()
    (folder / ".stargap-1.part" / "flux.npy").write_bytes(b"half")
    (folder / ".stargap-2.part").write_bytes(b"half")
    (folder / ".shard-00001.old").mkdir()
    with part_folder(folder) as writing:
        finish(folder, 10, shard_rows=ROWS)
        assert [path for path in folder.iterdir() if path.name.startswith(".")] == [writing]
