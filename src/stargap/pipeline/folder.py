"""The folder of a survey run: what is where in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stargap import __version__
from stargap.errors import UsageError
from stargap.pipeline.receipts import digest
from stargap.pipeline.settings import SurveySettings
from stargap.pixels import STARGAP
from stargap.rows import IntColumn
from stargap.spectra.address import split_address
from stargap.spectra.inputs import find_spectra
from stargap.spectra.store.lamost_files import catalogue_inputs
from stargap.spectra.store.plan import Inputs, extend_plan, file_inputs, read_plan
from stargap.spectra.store.shards import FileSum, file_sha256
from stargap.spectra.store.store import finish
from stargap.tables.crossmatch import match_ids
from stargap.tables.read import read_table

if TYPE_CHECKING:
    from stargap.measurement.models import AnyTransfer
    from stargap.theory.emulator import Emulator

__all__ = ["Columns", "Made", "Run", "content_digest", "joined_rows", "stamp"]


Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Made:
    """What one piece consists of.

    ``products`` are all its files, under the run's folder; ``sums`` are checksums of those that need not be read again;
    ``counts`` are numbers to report.
    """

    products: Sequence[Path]
    rows: int
    counts: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[Path, FileSum] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """The folder of a run with its settings, and what is where in it."""

    folder: Path
    settings: SurveySettings

    @cached_property
    def digest(self) -> str:
        """Digest of the settings."""
        return digest(self.settings.model_dump(mode="json"))

    @property
    def store(self) -> Path:
        """Folder of the store of native pixels."""
        return self.folder / "store"

    def receipts(self, stage: str) -> Path:
        """Folder of a stage's receipts."""
        return self.folder / "receipts" / stage

    def receipt(self, stage: str, unit: int | None) -> Path:
        """Where the receipt of one piece is, or will be."""
        return self.receipts(stage) / ("all.json" if unit is None else f"{unit:05d}.json")

    def part(self, stage: str, unit: int) -> Path:
        """The table of a stage for one shard."""
        return self.folder / stage / f"{unit:05d}.parquet"

    @property
    def groups(self) -> Path:
        """The table of the spectra that are stacked, a row group per shard."""
        return self.folder / "groups.parquet"

    def bins(self, unit: int) -> Path:
        """The folder of the binned spectra of one shard."""
        return self.folder / "bins" / f"{unit:05d}"

    def plan(self) -> None:
        """Give every input its row in the store, new ones after those that are known."""
        given = self.settings.input
        if given.catalogue is not None:
            if len(given.spectra) != 1:
                message = "input.catalogue needs the one folder of its files in input.spectra"
                raise UsageError(message)
            inputs = catalogue_inputs(read_table(given.catalogue), given.spectra[0])
        elif given.spectra:
            inputs = file_inputs(find_spectra(given.spectra))
        elif (self.store / "plan.parquet").exists() or (self.store / "manifest.json").exists():
            return
        else:
            message = "input.spectra is empty: name files, folders, globs or @lists"
            raise UsageError(message)
        self.store.mkdir(parents=True, exist_ok=True)
        extend_plan(self.store, inputs, self.settings.ingest.model_dump())
        self._refuse_fewer(inputs)

    def _refuse_fewer(self, inputs: Inputs) -> None:
        """Refuse inputs without some spectra of the run whose files are still there: their rows would stay."""
        plan = read_plan(self.store, self.settings.ingest.model_dump())
        given = {key or path for key, path in zip(inputs.key, inputs.path, strict=True)} | set(inputs.path)
        rows = zip(plan["key"].to_pylist(), plan["path"].to_pylist(), strict=True)
        missing = (os.fsdecode(path) for key, path in rows if not {key, path} & given)
        gone = next((path for path in missing if os.path.lexists(split_address(path)[0])), None)
        if gone is not None:
            message = (
                f"{self.folder}: holds spectra that the inputs no longer name, such as {gone}: a run keeps its "
                "spectra; name them all, or another output"
            )
            raise UsageError(message)

    def finish(self) -> None:
        """Finish the store, all of whose shards are there."""
        ingest = self.settings.ingest
        if (self.store / "plan.parquet").exists() and not (self.store / "manifest.json").exists():
            about = ingest.model_dump()
            finish(self.store, self.rows(None), settings=about, dtype=ingest.dtype, shard_rows=ingest.shard_rows)

    def shards(self) -> int:
        """Return the number of shards, 0 before there is a plan."""
        return _shards(self.store, *stamp(self.store / "plan.parquet"), *stamp(self.store / "manifest.json"))

    def rows(self, unit: int | None) -> int:
        """Number of spectra of a shard, or of all."""
        total, size = _rows(self.store, *stamp(self.store / "plan.parquet"), *stamp(self.store / "manifest.json"))
        return total if unit is None else min(size, total - unit * size)

    def emulator(self) -> Emulator:
        """The emulator of this run."""
        return _emulator(self.folder / "emulator" / "emulator.safetensors", *self._made("emulator"))

    def transfer(self) -> AnyTransfer | None:
        """The transfer of this run, None if labels are the emulator's."""
        if self.settings.transfer.use == "none":
            return None
        return _transfer(self.folder / "transfer" / "transfer.safetensors", *self._made("transfer"))

    def _made(self, stage: str) -> tuple[int, int]:
        return stamp(self.receipt(stage, None))

    def provenance(self) -> dict[str, str]:
        """Provenance of the survey's table: the settings it follows from, without paths, and models."""
        sections = {"ingest", "sample", "photometry", "emulator", "cleaning", "transfer", "measure", "fit"}
        paths = {"emulator": {"model", "grid"}, "transfer": {"model"}}
        settings = self.settings.model_dump(mode="json", include=sections, exclude=paths)
        emulator, transfer = self.emulator().card, self.transfer()
        used = emulator if transfer is None else transfer.card
        simulated = self.settings.input.simulated or (transfer is not None and transfer.card.simulated)
        return {
            **({"simulated": "true"} if simulated else {}),
            "creator": f"stargap {__version__}",
            "settings": json.dumps(settings, sort_keys=True),
            "model": f"{used.kind} v{used.version} {used.sha256}",
            "model_training_data": used.training_data,
            "model_seed": str(used.seed),
            "pixel_grid": STARGAP.digest,
        }


def stamp(path: str | Path) -> tuple[int, int]:
    """Return date and size of a file, zeros where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path takes as long to make as the file to find, a million times
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=8)
def _rows(store: Path, *stamps: int) -> tuple[int, int]:
    import pyarrow.parquet as pq

    if (store / "plan.parquet").exists():
        plan = pq.ParquetFile(store / "plan.parquet")
        return plan.metadata.num_rows, json.loads(plan.schema_arrow.metadata[b"settings"])["shard_rows"]
    if (store / "manifest.json").exists():
        manifest = json.loads((store / "manifest.json").read_bytes())
        return manifest["rows"], manifest["shard_rows"]
    return 0, 1


def _shards(store: Path, *stamps: int) -> int:
    total, size = _rows(store, *stamps)
    return -(-total // size)


@lru_cache(maxsize=2)
def _emulator(path: Path, *stamps: int) -> Emulator:
    from stargap.theory.emulator import Emulator

    return Emulator.load(path)


@lru_cache(maxsize=2)
def _transfer(path: Path, *stamps: int) -> AnyTransfer:
    from stargap.measurement.models import load_transfer

    return load_transfer(path)


def joined_rows(ids: IntColumn, table_ids: IntColumn, table: Path) -> IntColumn:
    """Return the row of each ``spectrum_id`` in a table of the run, ``(row,)``.

    Raises:
        UsageError: one is not in the table.
    """
    rows = match_ids(ids, table_ids)
    if (rows < 0).any():
        message = f"{table}: has no row of spectrum_id {ids[rows < 0][0]}: make its stage again with stargap run --from"
        raise UsageError(message)
    return rows


def content_digest(path: Path) -> str:
    """Return the checksum of a file that is not the run's, or of the dates and sizes of the files in a folder.

    Raises:
        UsageError: it cannot be read.
    """
    if path.is_dir():
        return digest({str(part.relative_to(path)): stamp(part) for part in sorted(path.rglob("*"))})
    try:
        return _file_digest(path, *stamp(path))
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None


@lru_cache(maxsize=64)
def _file_digest(path: Path, *stamps: int) -> str:
    return file_sha256(path)
