"""The engine: which pieces of which stages are to be made, and who makes them."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from stargap import __version__
from stargap.errors import StargapError, UsageError
from stargap.files import replacing
from stargap.run.folder import Run
from stargap.run.receipts import Receipt, digest, read_receipt, write_receipt
from stargap.run.report import check_report_files
from stargap.run.settings import SurveySettings
from stargap.run.stages import STAGES, Stage
from stargap.settings import example_toml, read_settings_as
from stargap.workers import Workers, each_alone

__all__ = ["Outcome", "Progress", "StageState", "default_workers", "run_survey", "stage_states"]

Progress = Callable[[str, int, int], Any]
State = Literal["done", "part", "waiting", "failed"]
Job = tuple[Path, str, int | None, float]
Spread = Callable[[Sequence[Job]], Iterator["Outcome"]]

FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the disk that no other shard will escape."""
WORKER_MEMORY = 1.5e9
"""Bytes that a worker is given: twice what one was measured to need (docs/results/scale.md)."""
TIMEOUT = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What came of one piece: its stage, its shard (None for a stage in one piece), rows, and why it failed if so."""

    stage: str
    unit: int | None
    rows: int
    failure: str = ""


@dataclass(frozen=True)
class StageState:
    """How far a stage is: pieces made of how many, rows in them, seconds they took, counts worth telling, and why
    pieces failed, by shard (None for a stage in one piece).
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


def default_workers() -> int:
    """Return as many workers as there are cores, or as memory allows if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(told["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return cores
    return max(1, min(cores, int(free / WORKER_MEMORY)))


def run_survey(
    settings: SurveySettings,
    *,
    until: str | None = None,
    since: str | None = None,
    only: str | None = None,
    part: tuple[int, int] | None = None,
    gather: bool = False,
    workers: int = 1,
    client: Any = None,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
) -> list[StageState]:
    """Do every stage of a survey run that is not done, and return how far each is.

    What is fresh is skipped: a piece is fresh if the content of its inputs, its settings and the version are those
    that it was made with, and its products are there. A run that was stopped or killed, however, goes on when it is
    called again, with the same products.

    Args:
        settings: of the run; its ``output`` is the run's folder.
        until: name of the last stage to do.
        since: name of the first stage to do: it and those after it are made again.
        only: name of the one stage to do; those before it must be done.
        part: ``(i, n)``, i from 1 to n: only every n-th shard, from the i-th on, and no stage that needs all shards;
            calls for the other parts can run at the same time on other machines that share the folder.
        gather: only the stages that need all shards.
        workers: processes on this machine; results are the same for any number.
        client: a ``dask.distributed.Client`` whose workers do the shards instead.
        timeout: seconds after which the process of a shard is taken to hang and is ended.
        progress: called as ``progress(stage, rows done, rows in all)``.

    Raises:
        UsageError: unknown stages, or settings, model or version are not those that products were made with.
        OSError: the disk is full or cannot be written.
    """
    names = [stage.name for stage in STAGES]
    for name in (until, since, only):
        if name is not None and name not in names:
            message = f"no stage {name!r}; the stages are {', '.join(names)}"
            raise UsageError(message)
    if part is not None and (gather or not 1 <= part[0] <= part[1]):
        message = f"shard {part[0]}/{part[1]}: i/N with i from 1 to N, and not together with gather"
        raise UsageError(message)
    if part is not None and since is not None:
        message = f"from {since} in one part would undo the others: first remake it without parts, until {since}"
        raise UsageError(message)
    settings = settings.absolute()
    run = Run(settings.output, settings)
    first = names.index(only or since or names[0])
    last = names.index(only or until or names[-1])
    chosen = STAGES[first : last + 1]
    if not chosen:
        message = f"stage {until} comes before stage {since}"
        raise UsageError(message)
    _refuse_other_settings(run, again=STAGES[first:] if since is not None else ())
    if STAGES[-1] in chosen:
        check_report_files(settings.report)
    run.folder.mkdir(parents=True, exist_ok=True)
    with replacing(run.folder / "survey.toml") as file:
        file.write(example_toml(settings).encode())
    if since is not None:
        for stage in STAGES[first:]:
            shutil.rmtree(run.receipts(stage.name), ignore_errors=True)
    if STAGES[0] in chosen and not gather:
        run.plan()
    if not run.shards():
        message = f"{run.folder}: no spectra: do stage {names[0]} first"
        raise UsageError(message)
    with Workers(max(1, min(workers, run.shards()))) as processes:
        spread = partial(_by_processes, processes) if client is None else partial(_by_dask, client)
        failed = _work(run, chosen, spread, part, gather, timeout, progress)
    return stage_states(run, failed)


def _work(
    run: Run,
    chosen: Sequence[Stage],
    spread: Spread,
    part: tuple[int, int] | None,
    gather: bool,
    timeout: float,
    progress: Progress | None,
) -> dict[str, dict[int | None, str]]:
    """Do the chosen stages, in order, as far as they can be done; return why pieces failed, by stage and shard."""
    failed: dict[str, dict[int | None, str]] = {}
    done, blocked = set[str](), set[str]()
    for stage in chosen:
        before = stage.after(run.settings)
        if not blocked.isdisjoint(before) or (part is not None and _needs_all(stage, run.settings)):
            blocked.add(stage.name)
            continue
        lacking = [name for name in before if part is None and name not in done and _todo(run, _stage(name))]
        if lacking:
            message = f"stage {stage.name} needs what is not done yet: {', '.join(lacking)}"
            raise UsageError(message)
        todo = _todo(run, stage)
        if stage.sharded and part is not None:
            todo = [unit for unit in todo if unit is not None and unit % part[1] == part[0] - 1]
        if stage.sharded and gather and todo:
            message = f"{len(todo)} shards of stage {stage.name} are not done: run the other parts first"
            raise UsageError(message)
        outcomes = _make(run, stage, todo, spread if stage.sharded else _here, timeout, progress)
        failures = {outcome.unit: outcome.failure for outcome in outcomes if outcome.failure}
        if failures:
            failed[stage.name] = failures
            blocked.add(stage.name)
        elif part is None:
            done.add(stage.name)
            if stage is STAGES[0]:
                run.finish()
    return failed


def stage_states(run: Run, failed: Mapping[str, dict[int | None, str]] | None = None) -> list[StageState]:
    """Return how far every stage of a run is, from its receipts alone."""
    states = []
    for stage in STAGES:
        units = _units(run, stage)
        receipts = [r for r in (read_receipt(run.receipt(stage.name, unit)) for unit in units) if r is not None]
        stale = len(_todo(run, stage)) if receipts else len(units)
        made = len(units) - stale
        state: State = "done" if units and made == len(units) else "part" if made else "waiting"
        failures = (failed or {}).get(stage.name, {})
        if failures:
            state = "failed"
        counts: dict[str, float] = {}
        for receipt in receipts:
            for name, count in receipt.counts.items():
                counts[name] = counts.get(name, 0) + count
        rows, seconds = sum(r.rows for r in receipts), sum(r.seconds for r in receipts)
        states.append(StageState(stage.name, stage.about, state, made, len(units), rows, seconds, counts, failures))
    return states


def _make(
    run: Run,
    stage: Stage,
    todo: Sequence[int | None],
    spread: Spread,
    timeout: float,
    progress: Progress | None,
) -> Iterator[Outcome]:
    """Make the pieces of a stage, each a second time if the first fails, and yield what comes of them."""
    total, done = sum(run.rows(unit) for unit in todo), 0
    again: list[Job] = []

    def tell(outcome: Outcome) -> Outcome:
        nonlocal done
        done += run.rows(outcome.unit)
        if progress is not None:
            progress(stage.name, done, total)
        return outcome

    if progress is not None and todo:
        progress(stage.name, 0, total)
    for outcome in spread([(run.folder, stage.name, unit, timeout) for unit in todo]):
        if outcome.failure:
            again.append((run.folder, stage.name, outcome.unit, timeout))
        else:
            yield tell(outcome)
    for job, second in zip(again, each_alone(perform, again), strict=True):
        yield tell(second or Outcome(stage.name, job[2], 0, "its process died, twice"))


def _here(jobs: Sequence[Job]) -> Iterator[Outcome]:
    for job in jobs:
        yield perform(*job)


def _by_processes(processes: Workers, jobs: Sequence[Job]) -> Iterator[Outcome]:
    yield from processes.each(perform, jobs, rescue=_died)


def _died(folder: Path, name: str, unit: int | None, timeout: float) -> Iterable[Outcome]:
    rescue = _stage(name).rescue
    if rescue is not None and unit is not None:
        rescue(_opened(folder), unit)
    yield Outcome(name, unit, 0, "its process died")


def _by_dask(client: Any, jobs: Sequence[Job]) -> Iterator[Outcome]:
    from distributed import as_completed

    futures = {client.submit(perform, *job, retries=1, pure=False): job for job in jobs}
    for future in as_completed(list(futures)):
        _, stage, unit, _ = futures[future]
        error = future.exception()
        if isinstance(error, StargapError | OSError):
            raise error
        yield future.result() if error is None else Outcome(stage, unit, 0, f"{type(error).__name__}: {error}")


def perform(folder: Path, name: str, unit: int | None, timeout: float = TIMEOUT) -> Outcome:
    """Make one piece of a stage in this process, and its receipt; the whole unit of work of any engine.

    Raises:
        StargapError: settings, inputs or models that no second try will mend.
        OSError: the disk is full or cannot be written.
    """
    import multiprocessing

    run, stage = _opened(folder), _stage(name)
    began = time.monotonic()
    with _watchdog(timeout if multiprocessing.parent_process() is not None else None):
        try:
            made = stage.make(run, unit)
        except StargapError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FATAL:
                raise
            return Outcome(name, unit, 0, f"{type(error).__name__}: {error}")
    write_receipt(
        run.receipt(name, unit),
        run.folder,
        made.products,
        key=_key(run, stage, unit),
        stargap=__version__,
        settings=stage.settings(run.settings),
        rows=made.rows,
        seconds=round(time.monotonic() - began, 3),
        counts=made.counts,
    )
    return Outcome(name, unit, made.rows)


@contextmanager
def _watchdog(timeout: float | None) -> Iterator[None]:
    """End this process when its work takes longer than `timeout` seconds."""
    if timeout is None:
        yield
        return
    timer = threading.Timer(timeout, os._exit, (70,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@lru_cache(maxsize=2)
def _read_run(folder: Path, stamp: tuple[int, int]) -> Run:
    settings = read_settings_as(SurveySettings, folder / "survey.toml")
    return Run(folder, settings.model_copy(update={"output": folder}))


def _opened(folder: Path) -> Run:
    told = (folder / "survey.toml").stat()
    return _read_run(folder, (told.st_mtime_ns, told.st_size))


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def _units(run: Run, stage: Stage) -> Sequence[int | None]:
    return range(run.shards()) if stage.sharded else [None]


def _key(run: Run, stage: Stage, unit: int | None) -> str:
    """Digest of all that a piece follows from."""
    inputs = {}
    for name in stage.after(run.settings):
        before = _stage(name)
        wanted = [unit] if before.sharded and unit is not None else _units(run, before)
        inputs[name] = [None if r is None else r.content for r in (_receipt(run, name, u) for u in wanted)]
    own, outside = stage.settings(run.settings), stage.outside(run, unit)
    return digest({"stage": stage.name, "stargap": __version__, "settings": own, "inputs": inputs, "outside": outside})


def _receipt(run: Run, name: str, unit: int | None) -> Receipt | None:
    return read_receipt(run.receipt(name, unit))


def _todo(run: Run, stage: Stage) -> list[int | None]:
    """Pieces that are not fresh."""
    todo: list[int | None] = []
    for unit in _units(run, stage):
        receipt = _receipt(run, stage.name, unit)
        if receipt is None or not receipt.holds(run.folder) or receipt.key != _key(run, stage, unit):
            todo.append(unit)
    return todo


def _needs_all(stage: Stage, settings: SurveySettings) -> bool:
    sharded = {other.name for other in STAGES if other.sharded}
    return not stage.sharded and any(name in sharded for name in stage.after(settings))


def _refuse_other_settings(run: Run, again: Sequence[Stage]) -> None:
    """Refuse to mix products of other settings or versions with new ones; those of stages in `again` are not kept."""
    for stage in STAGES:
        if stage in again or stage.apart:
            return
        for unit in _units(run, stage):
            receipt = _receipt(run, stage.name, unit)
            if receipt is None:
                continue
            now = {"stargap": __version__, **stage.settings(run.settings)}
            then = {"stargap": receipt.stargap, **receipt.settings}
            changes = list(_differences(then, now))
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
