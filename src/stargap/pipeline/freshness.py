"""Which pieces of a run are fresh: made from what is there now, with these settings, and whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from stargap import __version__
from stargap.errors import UsageError
from stargap.pipeline import stages
from stargap.pipeline.folder import Run
from stargap.pipeline.receipts import Receipt, digest, read_receipt
from stargap.pipeline.stages import Stage

__all__ = [
    "StageState",
    "damaged_inputs",
    "needs_all_shards",
    "pending",
    "piece_key",
    "refuse_other_settings",
    "remove_damaged",
    "stage_named",
    "stage_states",
]

State = Literal["done", "part", "waiting", "failed"]


@dataclass(frozen=True)
class StageState:
    """How far a stage is.

    ``made`` of ``pieces`` are fresh; ``rows``, ``seconds`` and ``counts`` are summed over the receipts; ``failures``
    say why pieces failed, by shard (None for a stage in one piece); ``processors`` are the instruction sets that made
    the pieces.
    """

    stage: str
    about: str
    state: State
    made: int
    pieces: int
    rows: int
    seconds: float
    counts: dict[str, float]
    failures: dict[int | None, str]
    processors: tuple[str, ...] = ()


def stage_states(run: Run, failed: Mapping[str, dict[int | None, str]] | None = None) -> list[StageState]:
    """Return how far every stage of a run is, from its receipts alone."""
    states = []
    for stage in stages.STAGES:
        failures = (failed or {}).get(stage.name, {})
        made = rows = 0
        seconds, counts, processors = 0.0, dict[str, float](), set[str]()
        units = units_of(run, stage)
        for unit in units:
            receipt = receipt_of(run, stage.name, unit)
            if receipt is None:
                continue
            made += _is_fresh(run, stage, unit, receipt)
            rows += receipt.rows
            seconds += receipt.seconds
            processors.add(receipt.processor)
            for name, count in receipt.counts.items():
                counts[name] = counts.get(name, 0) + count
        state: State = "done" if units and made == len(units) else "part" if made else "waiting"
        states.append(
            StageState(
                stage=stage.name,
                about=stage.about,
                state="failed" if failures else state,
                made=made,
                pieces=len(units),
                rows=rows,
                seconds=seconds,
                counts=counts,
                failures=failures,
                processors=tuple(sorted(processors - {""})),
            )
        )
    return states


def stage_named(name: str) -> Stage:
    """Return a stage by its name."""
    return next(stage for stage in stages.STAGES if stage.name == name)


def units_of(run: Run, stage: Stage) -> Sequence[int | None]:
    """Return the pieces of a stage: numbers of shards, or None for all in one."""
    return range(run.shards()) if stage.sharded else [None]


def receipt_of(run: Run, name: str, unit: int | None) -> Receipt | None:
    """Return the receipt of a piece, or None."""
    return read_receipt(run.receipt(name, unit))


def _content_of(receipt: Path) -> str | None:
    """Return the digest of the products of a piece by its receipt, or None where there is none that can be read."""
    try:
        found = receipt.stat()
    except OSError:
        return None
    return _read_content(receipt, found.st_mtime_ns, found.st_ino, found.st_size)


@lru_cache(maxsize=100_000)
def _read_content(receipt: Path, *stamps: int) -> str | None:
    """Return the same; what several stages are made from is read once, unless it changes."""
    found = read_receipt(receipt)
    return None if found is None else found.content


def _inputs(run: Run, stage: Stage, unit: int | None) -> Iterator[tuple[Stage, int | None]]:
    """Yield the pieces that a piece is made from."""
    for name in stage.after(run.settings):
        before = stage_named(name)
        for number in [unit] if before.sharded and unit is not None else units_of(run, before):
            yield before, number


def piece_key(run: Run, stage: Stage, unit: int | None) -> str | None:
    """Return a digest of everything that a piece follows from, or None where an input is not made yet."""
    inputs: dict[str, list[str]] = {}
    for before, number in _inputs(run, stage, unit):
        made = _content_of(run.receipt(before.name, number))
        if made is None:
            return None
        inputs.setdefault(before.name, []).append(made)
    settings, outside = stage.settings(run.settings), stage.outside(run, unit)
    content: dict[str, Any] = {"stage": stage.name, "stargap": __version__, "settings": settings, "inputs": inputs}
    content["outside"] = outside
    if stage.schema:
        content["columns"] = [(column.name, column.dtype, column.unit) for column in stage.schema]
    return digest(content)


def pending(run: Run, stage: Stage) -> list[int | None]:
    """Return the pieces of a stage that are not fresh."""
    return [
        unit
        for unit in units_of(run, stage)
        if (receipt := receipt_of(run, stage.name, unit)) is None or not _is_fresh(run, stage, unit, receipt)
    ]


def _is_fresh(run: Run, stage: Stage, unit: int | None, receipt: Receipt) -> bool:
    return receipt.holds(run.folder) and receipt.key == piece_key(run, stage, unit)


def damaged_inputs(run: Run, stage: Stage, unit: int | None) -> list[Path]:
    """Return the files that a piece is made from and that are not as they were written.

    The receipts of the pieces that they belong to are removed, so that these are made again. The store is left out: it
    compares its checksums itself when it is read.
    """
    pieces = _inputs(run, stage, unit)
    return _remove_damaged(run, ((before, number) for before, number in pieces if before is not stages.STAGES[0]))


def remove_damaged(run: Run) -> list[Path]:
    """Compute every checksum of a run again and return the damaged files, as `damaged_inputs` does.

    Raises:
        UsageError: one is in the store, whose spectra may not exist anywhere else.
    """
    return _remove_damaged(run, ((stage, unit) for stage in stages.STAGES for unit in units_of(run, stage)))


def _remove_damaged(run: Run, pieces: Iterable[tuple[Stage, int | None]]) -> list[Path]:
    found = []
    for stage, unit in pieces:
        receipt = receipt_of(run, stage.name, unit)
        damaged = [] if receipt is None else receipt.damaged(run.folder)
        if damaged and stage is stages.STAGES[0] and all(path.exists() for path in damaged):
            message = (
                f"{damaged[0]}: damaged, its checksum differs from the recorded one: delete the folder "
                f"{damaged[0].parent} and run again, which reads its files again"
            )
            raise UsageError(message)
        if damaged:
            run.receipt(stage.name, unit).unlink(missing_ok=True)
        found += damaged
    return found


def needs_all_shards(run: Run, stage: Stage) -> bool:
    """Whether a stage is made in one piece from the pieces of every shard."""
    return not stage.sharded and any(stage_named(name).sharded for name in stage.after(run.settings))


def refuse_other_settings(run: Run, again: Sequence[Stage]) -> None:
    """Refuse to mix products of other settings or versions with new ones.

    Args:
        run: with the settings of now.
        again: stages whose products are not kept.

    Raises:
        UsageError: a stage was made with other settings, each of which is named.
    """
    for stage in stages.STAGES:
        if stage in again or stage.remade:
            return
        now = {"stargap": __version__, **stage.settings(run.settings)}
        for unit in units_of(run, stage):
            receipt = receipt_of(run, stage.name, unit)
            if receipt is None:
                continue
            changes = list(_differences({"stargap": receipt.stargap, **receipt.settings}, now))
            if changes:
                message = (
                    f"{run.folder}: stage {stage.name} was made with {'; '.join(changes)}. To make it and all after it "
                    f"again give --from {stage.name}, or name another output"
                )
                raise UsageError(message)


def _differences(then: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield what differs between two settings in JSON types, as ``name old, now new``."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted({*then, *now}):
            yield from _differences(then.get(name), now.get(name), f"{place}.{name}" if place else name)
    elif then != now:
        yield f"{place} {then!r}, now {now!r}"
