"""The engine: does the stages of a run in order, each piece where it is cheapest, and resumes what was begun."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from stargap.errors import StargapError, UsageError
from stargap.files import claim_folder, replacing
from stargap.pipeline import stages
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import (
    StageState,
    needs_all_shards,
    pending,
    refuse_other_settings,
    remove_damaged,
    stage_named,
    stage_states,
)
from stargap.pipeline.owner import owned
from stargap.pipeline.perform import Job, Outcome, opened, perform
from stargap.pipeline.report import check_report_files
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.stages import Stage
from stargap.processor import usual_workers
from stargap.settings import example_toml, nearest
from stargap.workers import Workers, each_alone

__all__ = ["Outcome", "Progress", "StageState", "default_workers", "run_survey", "stage_states"]

Progress = Callable[[str, int, int], Any]
Failures = dict[str, dict[int | None, str]]
Spread = Callable[[Sequence[Job]], Iterator[Outcome]]

WORKER_MEMORY = 1.5e9
"""Bytes allowed for one worker: twice what one was measured to need (docs/results/scale.md)."""
TIMEOUT = 3600.0
"""Seconds that one piece may take by default."""
REPAIRS = 2
"""How often a run goes back to make again what was found damaged."""


def default_workers(device: str = "cpu") -> int:
    """Return as many workers as there are cores, or as memory, or a GPU, allows if that is fewer."""
    count = usual_workers(device)
    try:
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(memory["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return count
    return max(1, min(count, int(free / WORKER_MEMORY)))


def run_survey(
    settings: SurveySettings,
    *,
    until: str | None = None,
    since: str | None = None,
    only: str | None = None,
    part: tuple[int, int] | None = None,
    gather: bool = False,
    verify: bool = False,
    workers: int = 1,
    client: Any = None,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
) -> list[StageState]:
    """Do every stage of a survey run that is not done, and return how far each is.

    Fresh pieces are skipped: a piece is fresh if the content of its inputs, its settings and the version are those that
    it was made with, and all its products are there. A run that was stopped or killed resumes when it is called again,
    with the same products. Products are compared with their checksums when a later stage reads them; damaged ones are
    made again.

    Args:
        settings: of the run; its ``output`` is the run's folder.
        until: name of the last stage to do.
        since: name of the first stage to do: it and those after it are made again.
        only: name of the one stage to do; those before it must be done.
        part: ``(i, n)``, i from 1 to n: only every n-th shard, from the i-th on, and no stage that needs all shards;
            calls for the other parts can run at the same time on other machines that share the folder.
        gather: only the stages that need all shards.
        verify: first compare every product with its checksum, also those that no later stage reads.
        workers: processes on this machine; results are the same for any number.
        client: a ``dask.distributed.Client`` whose workers do the shards instead.
        timeout: seconds after which a piece is interrupted; it is tried once more, in a process of its own.
        progress: called as ``progress(stage, rows done, rows in all)``.

    Raises:
        UsageError: unknown stages; settings, model or version are not those that products were made with; a GPU where
            there is none; the folder holds files that are not a run's, or another process works in it with other
            settings.
        OSError: the disk is full or cannot be written.
    """
    chosen = _chosen_stages(until, since, only, part, gather)
    settings = settings.absolute()
    run = Run(settings.output, settings)
    again = stages.STAGES[stages.STAGES.index(chosen[0]) :] if since is not None else ()
    refuse_other_settings(run, again)
    if stages.STAGES[-1] in chosen:
        check_report_files(settings.report)
    if settings.measure.device != "cpu" and client is None:  # workers of Dask may have what this machine lacks
        from stargap.devices import device_named

        device_named(settings.measure.device)
    text = example_toml(settings).encode()
    claim_folder(run.folder, "run", known=("store",) if run.shards() else ())
    with owned(run.folder, run.digest):
        with replacing(run.folder / "survey.toml") as file:
            file.write(text)
        for stage in again:
            shutil.rmtree(run.receipts(stage.name), ignore_errors=True)
        if stages.STAGES[0] in chosen and not gather:
            run.plan()
        if not run.shards():
            message = f"{run.folder}: no spectra: do stage {stages.STAGES[0].name} first"
            raise UsageError(message)
        if verify:
            remove_damaged(run)
        with Workers(max(1, min(workers, run.shards()))) as processes:
            spread = partial(_by_processes, processes) if client is None else partial(_by_dask, client)
            failed = _Work(run, chosen, spread, part, gather, timeout, progress).do()
        return stage_states(run, failed)


def _chosen_stages(
    until: str | None, since: str | None, only: str | None, part: tuple[int, int] | None, gather: bool
) -> tuple[Stage, ...]:
    """Return the stages that a request asks for, at least one.

    Raises:
        UsageError: the request makes no sense.
    """
    names = [stage.name for stage in stages.STAGES]
    for name in (until, since, only):
        if name is not None and name not in names:
            message = f"no stage {name!r}{nearest(name, names)}"
            raise UsageError(message)
    if part is not None and (gather or not 1 <= part[0] <= part[1]):
        message = f"shard {part[0]}/{part[1]}: i/N with i from 1 to N, and not together with gather"
        raise UsageError(message)
    if part is not None and since is not None:
        message = f"from {since} in one part would undo the others: first remake it without parts, until {since}"
        raise UsageError(message)
    first, last = names.index(only or since or names[0]), names.index(only or until or names[-1])
    if first > last:
        message = f"stage {until} comes before stage {since}"
        raise UsageError(message)
    return stages.STAGES[first : last + 1]


@dataclass(frozen=True)
class _Work:
    """The stages of one call of `run_survey`, and how their pieces are made."""

    run: Run
    chosen: Sequence[Stage]
    spread: Spread
    part: tuple[int, int] | None
    gather: bool
    timeout: float
    progress: Progress | None

    def do(self) -> Failures:
        """Do the stages as far as they can be done; return why pieces failed, by stage and shard.

        Where a stage finds inputs damaged, their receipts are gone by then: the stages are done once more.
        """
        for last in (*[False] * REPAIRS, True):
            damaged, failed = self._do_stages()
            if last or not damaged:
                break
        for stage in self.chosen:
            if not failed and self.part is None and not self._skipped(stage):
                changed = self._pending(stage)
                if changed:
                    failed[stage.name] = dict.fromkeys(changed, "its inputs changed while the run went on")
        return failed

    def _do_stages(self) -> tuple[bool, Failures]:
        failed: Failures = {}
        done, blocked, damaged = set[str](), set[str](), False
        for stage in self.chosen:
            before = stage.after(self.run.settings)
            if not blocked.isdisjoint(before) or self._skipped(stage):
                blocked.add(stage.name)
                continue
            self._check_inputs(stage, done)
            units = self._pending(stage)
            if stage.sharded and not stage.gathered and self.gather and units:
                message = f"{len(units)} shards of stage {stage.name} are not done: run the other parts first"
                raise UsageError(message)
            outcomes = [one for one in self._make(stage, units) if one.failure]
            if outcomes:
                failed[stage.name] = {one.unit: one.failure for one in outcomes}
                damaged |= any(one.damaged for one in outcomes)
                blocked.add(stage.name)
            elif self.part is None:
                done.add(stage.name)
                if stage is stages.STAGES[0]:
                    self.run.finish()
        return damaged, failed

    def _skipped(self, stage: Stage) -> bool:
        return self.part is not None and (stage.gathered or needs_all_shards(self.run, stage))

    def _check_inputs(self, stage: Stage, done: set[str]) -> None:
        """Refuse a stage that needs what is not done; in one part of a run, pieces of other parts may be lacking."""
        if self.part is None:
            names = [name for name in stage.after(self.run.settings) if name not in done]
            lacking = [name for name in names if pending(self.run, stage_named(name))]
            if lacking:
                first = next(one.name for one in stages.STAGES if pending(self.run, one))
                message = (
                    f"stage {stage.name} needs what is not done yet: {', '.join(lacking)}; "
                    f"stargap run --from {first} makes it and all after it"
                )
                raise UsageError(message)

    def _pending(self, stage: Stage) -> list[int | None]:
        units = pending(self.run, stage)
        if stage.sharded and self.part is not None:
            first, count = self.part
            units = [unit for unit in units if unit is not None and unit % count == first - 1]
        return units

    def _make(self, stage: Stage, units: Sequence[int | None]) -> Iterator[Outcome]:
        """Make pieces of a stage, each a second time if the first fails, and yield what becomes of them."""
        total, done = sum(self.run.rows(unit) for unit in units), 0

        def report(outcome: Outcome) -> Outcome:
            nonlocal done
            done += self.run.rows(outcome.unit)
            if self.progress is not None:
                self.progress(stage.name, done, total)
            return outcome

        if self.progress is not None and units:
            self.progress(stage.name, 0, total)
        jobs = [Job(self.run.folder, stage.name, unit, self.timeout, self.run.digest) for unit in units]
        again: list[Job] = []
        for outcome in (self.spread if stage.sharded else _here)(jobs):
            if outcome.failure and not outcome.damaged:
                again.append(next(job for job in jobs if job.unit == outcome.unit))
            else:
                yield report(outcome)
        for job, second in zip(again, each_alone(perform, [(job,) for job in again]), strict=True):
            outcome = second or Outcome(stage.name, job.unit, 0, "its process died")
            yield report(replace(outcome, failure=f"{outcome.failure}, twice") if outcome.failure else outcome)


def _here(jobs: Sequence[Job]) -> Iterator[Outcome]:
    for job in jobs:
        yield perform(job)


def _by_processes(processes: Workers, jobs: Sequence[Job]) -> Iterator[Outcome]:
    yield from processes.each(perform, [(job,) for job in jobs], rescue=_died)


def _died(job: Job) -> Iterable[Outcome]:
    rescue = stage_named(job.stage).rescue
    if rescue is not None and job.unit is not None:
        rescue(opened(job), job.unit)
    yield Outcome(job.stage, job.unit, 0, "its process died")


def _by_dask(client: Any, jobs: Sequence[Job]) -> Iterator[Outcome]:
    from distributed import as_completed

    futures = {client.submit(perform, job, retries=1, pure=False): job for job in jobs}
    for future in as_completed(list(futures)):
        job, error = futures[future], future.exception()
        if isinstance(error, StargapError | OSError):
            raise error
        failure = f"{type(error).__name__}: {error}"
        yield future.result() if error is None else Outcome(job.stage, job.unit, 0, failure)
