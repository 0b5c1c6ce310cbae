"""Whole stores for tests: an ingest of all shards as a run does it, and a view of what came of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stargap.spectra.store.ingest import Ingested, ingest_shard, rescue_shard
from stargap.spectra.store.plan import Inputs, extend_plan
from stargap.spectra.store.settings import IngestSettings
from stargap.spectra.store.shards import Shard
from stargap.spectra.store.store import finish, verify
from stargap.tables.columns import INT_NULL
from stargap.workers import each_result


def ingest(
    inputs: Inputs,
    folder: Path,
    settings: IngestSettings | None = None,
    *,
    workers: int = 1,
    part: tuple[int, int] | None = None,
) -> Ingested:
    """Plan, write every shard (of a part every n-th, from the i-th on), and finish the store unless it is a part."""
    settings = settings or IngestSettings()
    folder.mkdir(parents=True, exist_ok=True)
    rows = extend_plan(folder, inputs, settings.model_dump())
    numbers = range(-(-rows // settings.shard_rows))
    jobs = [(folder, number, settings) for number in (numbers if part is None else numbers[part[0] - 1 :: part[1]])]
    results = list(each_result(ingest_shard, jobs, workers, rescue=rescue_shard))
    if part is None:
        finish(folder, rows, settings=settings.model_dump(), dtype=settings.dtype, shard_rows=settings.shard_rows)
    failures = sum((Counter(result.failures) for result in results), Counter())
    rows, read = (sum(getattr(result, name) for result in results) for name in ("rows", "read"))
    return Ingested(rows, read, dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))))


@dataclass
class Store:
    """A finished store, every checksum of which is right; iterating gives its shards."""

    folder: Path
    manifest: dict

    @classmethod
    def open(cls, folder: Path) -> Store:
        assert verify(folder) == []
        return cls(folder, json.loads((folder / "manifest.json").read_bytes()))

    def __len__(self) -> int:
        return self.manifest["rows"]

    def __iter__(self):
        return map(self.shard, range(len(self.manifest["shards"])))

    def shard(self, number: int) -> Shard:
        return Shard.open(self.folder, number)

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Columns of the index, all if none is named, with the nulls of the schema (-9999, NaN, empty)."""
        null = {pa.string(): "", pa.int64(): INT_NULL, pa.float64(): np.nan}
        table = pq.ParquetFile(self.folder / "index.parquet").read(list(names) or None)
        return {name: table[name].fill_null(null[table[name].type]).to_numpy() for name in names or table.column_names}
