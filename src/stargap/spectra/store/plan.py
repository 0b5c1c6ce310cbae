"""The plan of an ingest: which file becomes which row, written down before any file is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.spectra.store.shards import CATALOGUE, index_schema
from stargap.tables.parquet import read_row_group

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Inputs", "extend_plan", "file_inputs", "plan_part", "plan_rows", "read_plan"]

_NAME = "plan.parquet"


@dataclass(frozen=True, eq=False)
class Inputs:
    """Files to ingest, in order; one row each, however often a file is named.

    Args:
        path: of each file, as bytes, absolute.
        key: name by which a row is known although its path may change; None for files that are known by their path.
        found: whether the file was there; a path that was not found never replaces one that is known.
        catalogue: columns of ``shards.CATALOGUE``, one value a file, None for null.
    """

    path: Sequence[bytes]
    key: Sequence[str | None]
    found: Sequence[bool]
    catalogue: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.path)


def file_inputs(paths: Sequence[str | Path]) -> Inputs:
    """Return files, such as `find_spectra` finds, for `extend_plan`.

    Example:
        >>> file_inputs(["/data/b.fits", "/data/a.fits"]).path
        [b'/data/b.fits', b'/data/a.fits']
    """
    return Inputs([os.fsencode(Path(path).absolute()) for path in paths], [None] * len(paths), [True] * len(paths))


def extend_plan(folder: str | Path, inputs: Inputs, settings: Mapping[str, Any]) -> int:
    """Give every new input a row after those that are planned, and return how many rows there are.

    A row keeps its place for ever. An input that is known, by its key or else by its path, updates its columns of
    the catalogue; one with a key also its path, if the file was found.

    Args:
        folder: of the store.
        inputs: what to ingest.
        settings: of the ingest; ``shard_rows`` among them.

    Raises:
        UsageError: the folder holds other things, or a plan of other settings.
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder = Path(folder)
    old, new = read_plan(folder, settings), _as_table(inputs)
    first = _first_of_each(new)
    new, found = new.take(first), np.asarray(inputs.found, dtype=bool)[first]
    place = pc.coalesce(pc.index_in(_identity(new), _identity(old)), pc.index_in(new["path"], old["path"]))
    place = place.fill_null(-1).to_numpy()
    both = pa.concat_tables([old, new])
    named = new["key"].is_valid().to_numpy() & (place >= 0)
    added = len(old) + np.flatnonzero(place < 0)

    def merged(name: str) -> pa.ChunkedArray:
        source, update = np.arange(len(old)), named & found if name == "path" else named
        source[place[update]] = len(old) + np.flatnonzero(update)
        return both[name].take(pa.array(np.concatenate([source, added])))

    table = pa.table({name: merged(name) for name in both.column_names}, schema=_schema(settings))
    if not (folder / _NAME).exists() or not table.equals(old):
        with replacing(folder / _NAME) as file:
            pq.write_table(table, file, row_group_size=settings["shard_rows"], write_page_checksum=True)
    return len(table)


def read_plan(folder: str | Path, settings: Mapping[str, Any]) -> pa.Table:
    """Return the whole plan of a store, empty if there is none yet.

    Raises:
        UsageError: the folder holds other things, or a plan that is damaged or of other settings.
    """
    import pyarrow.parquet as pq

    path = Path(folder) / _NAME
    if not path.exists():
        others = [other.name for other in sorted(path.parent.iterdir()) if not other.name.startswith(".")]
        if others and not path.exists():
            message = f"{folder}: holds {others[0]} and no plan of an ingest: name a new folder"
            raise UsageError(message)
        return _schema(settings).empty_table()
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        made = json.loads(table.schema.metadata[b"settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: not a plan of an ingest ({error})"
        raise UsageError(message) from None
    names = sorted({*made, *settings})
    changed = [f"{k} {made.get(k)!r}, now {settings.get(k)!r}" for k in names if made.get(k) != settings.get(k)]
    if changed:
        message = f"{folder}: the store was begun with {', '.join(changed)}: keep that, or name a new folder"
        raise UsageError(message)
    return table


def plan_rows(folder: str | Path, shard: int) -> list[dict[str, Any]]:
    """Return the rows of one shard: path (bytes), key, and the columns of the catalogue."""
    rows: list[dict[str, Any]] = plan_part(folder, shard).to_pylist()
    return rows


def plan_part(folder: str | Path, shard: int) -> pa.Table:
    """Return `plan_rows` as a table."""
    return read_row_group(Path(folder) / _NAME, shard)


def _schema(settings: Mapping[str, Any]) -> pa.Schema:
    import pyarrow as pa

    columns = [("path", pa.binary()), ("key", pa.string())]
    columns += [(name, index_schema().field(name).type) for name in CATALOGUE]
    return pa.schema(columns, metadata={"settings": json.dumps(dict(settings), sort_keys=True)})


def _as_table(inputs: Inputs) -> pa.Table:
    import pyarrow as pa

    nothing = [None] * len(inputs)
    columns = {"path": inputs.path, "key": inputs.key}
    columns |= {name: inputs.catalogue.get(name, nothing) for name in CATALOGUE}
    return pa.table(columns, schema=_schema({}))


def _identity(table: pa.Table) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.coalesce(table["key"].cast(pa.binary()), table["path"]).combine_chunks()


def _first_of_each(table: pa.Table) -> NDArray[np.int64]:
    codes = _identity(table).dictionary_encode().indices.to_numpy()
    return np.sort(np.unique(codes, return_index=True)[1])
