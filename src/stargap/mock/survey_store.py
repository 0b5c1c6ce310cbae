"""A simulated survey straight into a store: as many spectra as one likes, without a file for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.mock.nature import Mix
from stargap.mock.survey import SurveyChunk, simulate_survey
from stargap.mock.tables import TableFiles
from stargap.spectra.log_lambda import NativeBatch, concatenate, native_batch
from stargap.spectra.spectrum import Facts
from stargap.spectra.store.shards import SHARD_ROWS, Dtype, write_shard
from stargap.spectra.store.store import finish

__all__ = ["write_survey_store"]

Part = tuple[NativeBatch, list[Facts], list[str], list[int | None]]


def write_survey_store(
    folder: str | Path,
    stars: int,
    *,
    seed: int,
    mix: Mix = "galactic",
    junk: float = 0.05,
    repeats: float = 0.1,
    store: str | Path | None = None,
    dtype: Dtype = "float32",
    shard_rows: int = SHARD_ROWS,
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """Write the spectra of `simulate_survey` into ``store/``, with ``gaia.parquet`` and ``truth.parquet`` beside it.

    The tables of others are those of `stargap.mock.tables`. The store's manifest comes last: a folder that has one is
    complete.

    Args:
        folder: where; it is made.
        stars: number of targets; `seed`, `mix`, `junk` and `repeats` as in `simulate_survey`.
        seed: of everything random.
        mix: of labels.
        junk: fraction of the targets.
        repeats: fraction observed several times.
        store: the store's folder, if it is not to be ``store/``.
        dtype: of the pixels in the store.
        shard_rows: spectra in a shard.
        progress: called as ``progress(done, stars)``.

    Returns:
        `folder`.

    Raises:
        UsageError: no stars, or a folder that holds a store already.

    Example:
        >>> from stargap.spectra.store.store import Store
        >>> folder = write_survey_store(getfixture("tmp_path"), 2, seed=1, repeats=0.0)
        >>> len(Store.open(folder / "store")), sorted(path.name for path in folder.iterdir() if path.suffix != ".csv")
        (2, ['gaia.parquet', 'store', 'tables.json', 'truth.parquet'])
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    store = folder / "store" if store is None else Path(store)
    if stars < 1:
        message = f"{stars} stars: a survey has 1 or more"
        raise UsageError(message)
    if (store / "manifest.json").exists():
        message = f"{store} holds a store already: name a new folder"
        raise UsageError(message)
    store.mkdir(parents=True, exist_ok=True)
    rows = number = done = 0
    waiting: list[Part] = []
    chunks = simulate_survey(stars, seed=seed, mix=mix, junk=junk, repeats=repeats)
    with (
        ExitStack() as stack,
        replacing(folder / "gaia.parquet") as gaia_file,
        replacing(folder / "truth.parquet") as truth_file,
    ):
        others = TableFiles(folder, stack, seed=seed)
        tables: dict[str, pq.ParquetWriter] = {}
        for chunk in chunks:
            for name, file, columns in (("gaia", gaia_file, chunk.gaia), ("truth", truth_file, chunk.truth)):
                table = pa.table(columns)
                if name not in tables:
                    tables[name] = pq.ParquetWriter(file, table.schema)
                tables[name].write_table(table)
            others.add(chunk)
            waiting.append(_part(chunk))
            rows, done = rows + len(chunk.spectra), done + len(chunk.gaia["source_id"])
            while sum(len(part[0]) for part in waiting) >= shard_rows:
                waiting = _write(store, number, waiting, dtype, shard_rows)
                number += 1
            if progress is not None:
                progress(done, stars)
        if waiting and sum(len(part[0]) for part in waiting):
            _write(store, number, waiting, dtype, shard_rows)
        for writer in tables.values():
            writer.close()
    finish(store, rows, settings={"simulated": stars, "seed": seed, "mix": mix}, dtype=dtype, shard_rows=shard_rows)
    return folder


def _part(chunk: SurveyChunk) -> Part:
    known = np.where(chunk.truth["gaia_in_lamost"], chunk.truth["source_id"], -1).tolist()
    native, facts, failure = native_batch(chunk.spectra)
    return native, facts, failure, [None if source < 0 else source for source in known]


def _write(store: Path, number: int, parts: list[Part], dtype: Dtype, shard_rows: int) -> list[Part]:
    """Write the first rows of `parts` as a shard and return the rest."""
    native = concatenate([part[0] for part in parts])
    facts = [fact for part in parts for fact in part[1]]
    failure = [reason for part in parts for reason in part[2]]
    source = [one for part in parts for one in part[3]]
    here = slice(0, shard_rows)
    columns: dict[str, list[Any]] = {"failure": failure[here], "gaia_source_id": source[here]}
    write_shard(store, number, native[here], columns, facts[here], dtype=dtype, shard_rows=shard_rows)
    rest = slice(shard_rows, None)
    return [(native[rest], facts[rest], failure[rest], source[rest])]
