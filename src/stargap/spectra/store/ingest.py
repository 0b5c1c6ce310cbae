"""From files to a store, shard by shard: killed and run again, an ingest goes on where it was.

Rows are planned first (`stargap.spectra.store.plan`), in order, and numbered from 0 (``spectrum_id``); inputs that the
plan knows keep their rows and new ones follow. Shards are then written one by one, each complete or not at all, with
the same bytes for any number of processes and kills; `stargap.spectra.store.store.finish` makes a store of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from stargap.errors import SpectrumError, UsageError
from stargap.spectra.address import split_address
from stargap.spectra.log_lambda import NativeBatch, concatenate, empty_batch, native_batch
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.store.plan import plan_rows
from stargap.spectra.store.settings import IngestSettings
from stargap.spectra.store.shards import (
    CATALOGUE,
    PLACE,
    Shard,
    file_sha256,
    recover_shard,
    write_shard,
)
from stargap.workers import each_alone

__all__ = ["Ingested", "ingest_shard", "rescue_shard"]


@dataclass(frozen=True)
class Ingested:
    """What was done for a shard: its rows, how many of them were read now, and how many failed, by reason."""

    rows: int
    read: int
    failures: dict[str, int]


def ingest_shard(folder: Path, number: int, settings: IngestSettings, deadly: frozenset[int] = frozenset()) -> Ingested:
    """Bring one shard up to date, one row per file whatever happens.

    A row is read again where the size or date of its file, and then its checksum, differ from what was read, or where
    its file could not be opened. A file that has gone keeps its row and its data: a store outlives the files that it
    was made from. A damaged shard is written anew.

    Args:
        folder: of the store, planned by `extend_plan`; where its catalogue has an obsid, the file's must agree.
        number: of the shard.
        settings: the same for all shards of a store.
        deadly: rows whose files are not touched, because they kill the process that reads them.

    Raises:
        OSError: the store cannot be written; what was complete stays.

    Example:
        >>> from stargap.spectra.store.plan import extend_plan, file_inputs
        >>> folder, settings = getfixture("tmp_path"), IngestSettings()
        >>> extend_plan(folder, file_inputs(["/data/missing.fits"]), settings.model_dump())
        1
        >>> ingest_shard(folder, 0, settings)
        Ingested(rows=1, read=1, failures={'the file does not exist': 1})
    """
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError, UsageError):  # another process replaced the shard meanwhile
            done = _update(folder, number, settings, deadly, _existing(folder, number))
            if done is not None:
                return done
    done = _update(folder, number, settings, deadly, None)
    assert done is not None
    return done


def _update(
    folder: Path, number: int, settings: IngestSettings, deadly: frozenset[int], shard: Shard | None
) -> Ingested | None:
    """Read what is new or has changed since `shard`, and write it with the rest of that; None if that is damaged."""
    known: list[dict[str, Any]] = [] if shard is None else shard.table().drop_columns(list(PLACE)).to_pylist()
    records: list[dict[str, Any]] = []
    sources: list[int] = []
    parts: list[NativeBatch] = []
    for place, entry in enumerate(plan_rows(folder, number)):
        before = known[place] if place < len(known) else None
        record, native = _row(entry, before, place in deadly, settings.read)
        records.append(record)
        sources.append(place if native is None else len(known) + len(parts))
        parts += [] if native is None else [native]
    done = Ingested(len(records), len(parts), dict(Counter(r["failure"] for r in records if r["failure"])))
    if records == known:
        return done
    if shard is not None and not shard.intact():
        return None
    old = empty_batch(0) if shard is None else shard.read()
    native = concatenate([old, *parts])[torch.tensor(sources, dtype=torch.int64)]
    facts = [Facts(**{f.name: record.pop(f.name) for f in fields(Facts)}) for record in records]
    columns = {name: [record[name] for record in records] for name in records[0]}
    write_shard(folder, number, native, columns, facts, dtype=settings.dtype, shard_rows=settings.shard_rows)
    return done


def _existing(folder: Path, number: int) -> Shard | None:
    recover_shard(folder, number)
    try:
        return Shard.open(folder, number)
    except UsageError:
        return None


def _row(
    entry: dict[str, Any], known: dict[str, Any] | None, deadly: bool, read: ReadSettings
) -> tuple[dict[str, Any], NativeBatch | None]:
    """Return a row of the index and its pixels, None if those of the `known` row still hold."""
    path = os.fsdecode(entry["path"])
    given = {"path": path.encode("utf-8", "backslashreplace").decode()} | {name: entry[name] for name in CATALOGUE}
    state = _state(path)
    if known is not None and _unchanged(known, given, state, path):
        return known | given | (state or {}), None
    sha256 = None if deadly or state is None else _sha256(path)  # first: what changes after it is read again next time
    native, (facts,), (failure,) = native_batch([_read(path, entry["catalogue_obsid"], read, deadly)])
    record = {f.name: getattr(facts, f.name) for f in fields(Facts)} | given
    record |= {name: None if state is None else state[name] for name in ("bytes", "mtime_ns")}
    if record["obsid"] is None:
        record["obsid"] = entry["catalogue_obsid"]
    return record | {"sha256": sha256, "failure": failure}, native


def _unchanged(known: dict[str, Any], given: dict[str, Any], state: dict[str, int] | None, path: str) -> bool:
    if known["sha256"] is None or known["catalogue_obsid"] != given["catalogue_obsid"]:
        return False
    there = known["path"] == given["path"]
    if there and (state is None or state.items() <= known.items()):
        return True
    return state is not None and _sha256(path) == known["sha256"]


def _state(path: str) -> dict[str, int] | None:
    try:
        status = Path(split_address(path)[0]).stat()
    except (OSError, ValueError):
        return None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns} if stat.S_ISREG(status.st_mode) else None


def _sha256(path: str) -> str | None:
    file, place = split_address(path)
    try:
        if place is None:
            return file_sha256(file)
        status = Path(file).stat()
        return _sha256_of_many(file, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@lru_cache(maxsize=1)
def _sha256_of_many(file: str, *stamp: int) -> str:
    return file_sha256(file)


def _read(path: str, obsid: int | None, read: ReadSettings, deadly: bool = False) -> Spectrum | SpectrumError:
    try:
        if deadly:
            raise SpectrumError(path, "the process that read it died")
        spectrum = read_spectrum(path, read)
        if obsid is not None and spectrum.facts.obsid not in (None, obsid):
            raise SpectrumError(path, "the obsid in the file is not the one in the catalogue")
    except SpectrumError as error:
        return error
    return spectrum


def _probe(path: bytes, read: ReadSettings) -> bool:
    native_batch([_read(os.fsdecode(path), None, read)])
    return True


def rescue_shard(folder: Path, number: int, settings: IngestSettings) -> Iterator[Ingested]:
    """Do a shard whose process died again: file by file alone, to find those that kill, then without them."""
    jobs = [(entry["path"], settings.read) for entry in plan_rows(folder, number)]
    deadly = frozenset(place for place, alive in enumerate(each_alone(_probe, jobs)) if not alive)
    for result in each_alone(ingest_shard, [(folder, number, settings, deadly)]):
        if result is None:
            message = f"{folder}: the process of shard {number} died twice, by no one file: is there too little memory?"
            raise UsageError(message)
        yield result
