"""What commands share: progress bars, the console, signals, the number of workers."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stargap.errors import UsageError
from stargap.processor import usual_workers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["bar", "bars", "console", "long_imports", "progress_bars", "sigterm_as_ctrl_c", "worker_count"]


def console() -> Console:
    """Return a console on stdout that lets a broken pipe end the program."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return PipeConsole()


def progress_bars(show: bool = True) -> Progress:
    """Return progress bars on stderr, shown on a terminal and in a notebook (with ipywidgets); a context manager.

    Args:
        show: False hides them there too.
    """
    from importlib.util import find_spec

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = Console(stderr=True)
    seen = find_spec("ipywidgets") is not None if stderr.is_jupyter else stderr.is_terminal
    return Progress(*columns, console=stderr, transient=True, disable=not (show and seen))


@contextmanager
def bars(show: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Show one progress bar for each name that ``report(name, done, total)`` is called with; gives ``report``.

    Args:
        show: see `progress_bars`.
    """
    with progress_bars(show) as progress:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        yield report


@contextmanager
def bar(name: str, total: int, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Show one progress bar; gives ``advance(count)``.

    Args:
        name: what the bar is called.
        total: of the counts.
        show: see `progress_bars`.
    """
    with bars(show) as report:
        report(name, 0, total)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(name, done, total)

        yield advance


@contextmanager
def long_imports() -> Iterator[None]:
    """Import torch and astropy without garbage collections, which look through all that they make, in vain.

    What is there at the end stays out of later collections. Nothing is done where torch has been imported already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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


def worker_count(given: int | None, device: str = "cpu") -> int:
    """Return the number of workers that was given, by default as many as `usual_workers` says for a device.

    Raises:
        UsageError: it is not positive.
    """
    if given is not None and given < 1:
        message = f"--workers is {given}; it must be 1 or more"
        raise UsageError(message)
    return given or usual_workers(device)
