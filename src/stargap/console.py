"""What commands share: progress bars, the console, signals, the number of workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stargap.errors import UsageError

__all__ = ["bar", "bars", "console", "sigterm_as_ctrl_c", "workers_asked"]


def console() -> Any:
    """Return a console that lets a broken pipe end the program."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return PipeConsole()


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show bars on stderr, where that is a terminal; gives ``tell(what, done, total)``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield tell


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show one bar; gives ``advance(count)``."""
    with bars() as tell:
        tell(what, 0, total)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tell(what, done, total)

        yield advance


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def workers_asked(asked: int | None) -> int:
    """Return the number of workers asked for, or that of the cores.

    Raises:
        UsageError: it is not positive.
    """
    if asked is not None and asked < 1:
        message = f"--workers is {asked}; it must be 1 or more"
        raise UsageError(message)
    return asked or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
