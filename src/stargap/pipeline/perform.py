"""One piece of a stage, made in this process within its time limit: the unit of work of every engine."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stargap import __version__
from stargap.errors import StargapError, UsageError
from stargap.pipeline.folder import Run
from stargap.pipeline.freshness import damaged_inputs, piece_key, stage_named
from stargap.pipeline.receipts import Receipt, sum_products, write_receipt
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.stages import TRAINING
from stargap.processor import cpu_capability
from stargap.settings import read_settings_as

__all__ = ["Job", "Outcome", "opened", "perform"]

FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the disk that every other piece would meet too."""
GRACE = 10.0
"""Seconds after its time limit when a process that could not be interrupted is ended."""


@dataclass(frozen=True)
class Job:
    """What a process needs to make one piece.

    ``settings`` is the digest of the run's settings: a job is not done with others. ``unit`` is the number of the
    shard, or None for a stage in one piece; ``timeout`` is in seconds.
    """

    folder: Path
    stage: str
    unit: int | None
    timeout: float
    settings: str


@dataclass(frozen=True)
class Outcome:
    """What became of one piece: its stage and shard, its rows, why it failed, and whether its inputs were damaged."""

    stage: str
    unit: int | None
    rows: int
    failure: str = ""
    damaged: bool = False


class _TimeIsUp(BaseException):
    """The time limit of a piece has passed; no handler of errors may take it for one."""


def perform(job: Job) -> Outcome:
    """Make one piece of a stage in this process, and its receipt.

    The key of the piece is computed before and after: where an input changed in between, the piece has failed. Bytes
    of its inputs are compared with the checksums in their receipts first.

    Raises:
        StargapError: settings, inputs or models that no second try will mend.
        OSError: the disk is full or cannot be written.
    """
    run, stage = opened(job), stage_named(job.stage)
    limit = job.timeout * (TRAINING if stage.trains(run.settings) else 1.0)
    began = time.monotonic()
    try:
        with _time_limit(limit):
            damaged = damaged_inputs(run, stage, job.unit)
            if damaged:
                failure = f"{damaged[0]}: damaged, its checksum differs from the recorded one"
                return Outcome(job.stage, job.unit, 0, failure, damaged=True)
            key = piece_key(run, stage, job.unit)
            if key is None:
                return Outcome(job.stage, job.unit, 0, "what it is made from is gone: it is made again", damaged=True)
            made = stage.make(run, job.unit)
            if piece_key(run, stage, job.unit) != key:
                return Outcome(job.stage, job.unit, 0, "its inputs changed while it was made")
            products = sum_products(run.folder, made.products, made.sums)
    except _TimeIsUp:
        return Outcome(job.stage, job.unit, 0, f"it took longer than {limit:g} s (--timeout)")
    except StargapError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        return Outcome(job.stage, job.unit, 0, f"{type(error).__name__}: {error}")
    receipt = Receipt(
        key=key,
        stargap=__version__,
        processor=cpu_capability(),
        settings=stage.settings(run.settings),
        rows=made.rows,
        seconds=round(time.monotonic() - began, 3),
        counts=dict(made.counts),
        products=products,
    )
    write_receipt(run.receipt(job.stage, job.unit), receipt)
    return Outcome(job.stage, job.unit, made.rows)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what the main thread does after some seconds.

    A process that was started for the work is ended if that does not help, as when it waits for a disk; so is one whose
    work is not in its main thread.
    """
    child = multiprocessing.parent_process() is not None
    here = threading.current_thread() is threading.main_thread()
    timer = threading.Timer(seconds + (GRACE if here else 0.0), os._exit, (70,))
    timer.daemon = True
    if child:
        timer.start()

    def interrupt(number: int, frame: Any) -> None:
        raise _TimeIsUp

    previous = signal.signal(signal.SIGALRM, interrupt) if here else None
    try:
        if here:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        timer.cancel()
        if here:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, previous)


@lru_cache(maxsize=2)
def _read_run(folder: Path, stamp: tuple[int, int]) -> Run:
    settings = read_settings_as(SurveySettings, folder / "survey.toml")
    return Run(folder, settings.model_copy(update={"output": folder}))


def opened(job: Job) -> Run:
    """Return the run of a job.

    Raises:
        UsageError: its settings are no longer those of the job.
    """
    found = (job.folder / "survey.toml").stat()
    run = _read_run(job.folder, (found.st_mtime_ns, found.st_size))
    if run.digest != job.settings:
        message = (
            f"{job.folder / 'survey.toml'}: was changed while the run went on; nothing is made with other settings"
        )
        raise UsageError(message)
    return run
