"""Pieces of a run that need every shard: the cleaning and the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stargap.catalogue.cleaning import clean
from stargap.catalogue.cleaning_page import overrule, write_cleaning_page
from stargap.catalogue.schema import INT_NULL, SURVEY
from stargap.catalogue.tables import read_table
from stargap.catalogue.write import write_parts
from stargap.run.folder import Columns, Made, Run, content_digest, read_columns, write_columns
from stargap.transfer.spectra import TrainingSpectra

__all__ = ["make_clean", "make_table", "overrule_digest"]


@dataclass(frozen=True)
class _Prepared:
    """Prepared spectra of one shard, mapped from the disk only while they are read."""

    folder: Path

    @property
    def flux(self) -> NDArray[np.float32]:
        return TrainingSpectra.load(self.folder).flux

    @property
    def sigma(self) -> NDArray[np.float32]:
        return TrainingSpectra.load(self.folder).sigma

    @property
    def good(self) -> NDArray[np.bool_]:
        return TrainingSpectra.load(self.folder).good


def make_clean(run: Run, unit: int | None) -> Made:
    """Clean the whole sample, and tell of it in ``cleaning.html``."""
    shards = [_Prepared(run.folder / "prepared" / f"{number:05d}") for number in range(run.shards())]
    cleaning = clean(shards, run.settings.cleaning)
    if run.settings.input.overrule is not None:
        cleaning = overrule(cleaning, run.settings.input.overrule)
    products, first = [write_cleaning_page(run.folder / "cleaning.html", cleaning, shards)], 0
    for number in range(run.shards()):
        rows = read_columns(run.part("velocity", number), ["row"])["row"]
        part = slice(first, first + len(rows))
        columns = {"row": rows, "cluster": cleaning.cluster[part], "clean_flags": cleaning.flags[part]}
        products.append(run.part("clean", number))
        write_columns(products[-1], columns | {"rejected": cleaning.rejected[part]})
        first += len(rows)
    return Made(products, first, {"rejected": int(cleaning.rejected.sum())})


def overrule_digest(run: Run, unit: int | None) -> dict[str, str]:
    """Checksum of a person's verdicts."""
    path = run.settings.input.overrule
    return {} if path is None else {"overrule": content_digest(path)}


def make_table(run: Run, unit: int | None) -> Made:
    """Join everything, a row a spectrum, in the order of ``spectrum_id``."""

    def parts() -> Iterator[Columns]:
        for number in range(run.shards()):
            measured = read_table(run.part("measure", number))
            sample = read_columns(run.part("sample", number))
            clean = read_columns(run.part("clean", number))
            count = len(measured["spectrum_id"])
            rejected = {"cluster": np.full(count, INT_NULL), "clean_flags": np.zeros(count, dtype=np.int64)}
            for name, values in rejected.items():
                values[clean["row"]] = clean[name]
            assert (sample["spectrum_id"] == measured["spectrum_id"]).all()
            yield {column.name: {**sample, **rejected, **measured}[column.name] for column in SURVEY}

    path = run.folder / "measured.parquet"
    write_parts(parts(), path, schema=SURVEY, provenance=run.provenance())
    return Made([path], run.rows(None))
