"""Parquet tables read part by part, the next one ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.tables.parquet import parquet_writer, read_parts

ROWS = 1000


@pytest.fixture
def table(tmp_path):
    """A table of three row groups."""
    import pyarrow as pa

    path = tmp_path / "t.parquet"
    schema = pa.schema([("row", pa.int64())])
    with parquet_writer(path, schema) as writer:
        for first in range(0, 3 * ROWS, ROWS):
            writer.write_table(pa.table({"row": np.arange(first, first + ROWS)}, schema=schema))
    return path


def test_parts_are_the_table_in_order(table):
    parts = [part["row"] for part in read_parts(table, ["row"], rows=700)]
    assert max(map(len, parts)) <= 700
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(3 * ROWS))


def test_a_reader_that_is_left_early_leaves_no_thread(table):
    before = threading.active_count()
    parts = read_parts(table, ["row"], rows=100)
    assert next(parts)["row"][0] == 0
    assert threading.active_count() > before
    parts.close()
    assert threading.active_count() == before


def test_damage_in_a_later_part_is_said_when_it_is_reached(table):
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    parts = read_parts(table, ["row"], rows=ROWS)
    assert len(next(parts)["row"]) == ROWS
    with pytest.raises(UsageError, match=r"t.parquet: is damaged .*CRC"):
        list(parts)
