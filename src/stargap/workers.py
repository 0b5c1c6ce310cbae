"""Work spread over processes, and a thread ahead: results in order, deaths survived, Ctrl-C the parent's alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, TypeVar, cast

from stargap.errors import UsageError

__all__ = ["Workers", "alongside", "each_ahead", "each_alone", "each_result"]

Result = TypeVar("Result")
Job = tuple[Any, ...]

START = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start: on Linux a server imports what they need once, and they are forks of it."""


class Workers:
    """Processes that serve many calls: they start with the first jobs and end with the ``with`` block.

    Args:
        count: processes; with 1 this process does the work itself.

    Example:
        >>> with Workers(1) as workers:
        ...     list(workers.each(divmod, [(7, 2), (9, 4)], rescue=lambda *job: []))
        [(3, 1), (2, 1)]
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._open = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def each(
        self, function: Callable[..., Result], jobs: Iterable[Job], *, rescue: Callable[..., Iterable[Result]]
    ) -> Iterator[Result]:
        """Yield ``function(*job)`` for every job, in order.

        Args:
            function: importable by name, as are the classes of what it takes and returns.
            jobs: arguments of `function`.
            rescue: called as ``rescue(*job)`` for the first unfinished job when a process died; what it yields takes
                the place of that job's result, and the other jobs go on.
        """
        todo = deque(jobs)
        if self.count == 1:
            while todo:
                yield function(*todo.popleft())
        while todo:
            running: deque[Future[Result]] = deque()
            try:
                while todo:
                    while len(running) < min(2 * self.count, len(todo)):
                        self._pool = self._pool or self._open.enter_context(_pool(self.count, function))
                        running.append(_submit(self._pool, function, *todo[len(running)]))
                    result = running[0].result()
                    running.popleft()
                    todo.popleft()
                    yield result
            except BrokenProcessPool:
                self._pool = None
                self._open.close()
                yield from rescue(*todo.popleft())


def each_result(
    function: Callable[..., Result],
    jobs: Iterable[Job],
    workers: int,
    *,
    rescue: Callable[..., Iterable[Result]],
) -> Iterator[Result]:
    """Yield ``function(*job)`` for every job, in order, from this process (one worker) or from `workers` others.

    The others end with the last job; see `Workers.each`.
    """
    todo = list(jobs)
    with Workers(max(1, min(workers, len(todo)))) as some:
        yield from some.each(function, todo, rescue=rescue)


def each_ahead(items: Iterable[Result]) -> Iterator[Result]:
    """Yield items, each of which a thread makes while the one before is used.

    Example:
        >>> list(each_ahead(n * n for n in range(4)))
        [0, 1, 4, 9]
    """
    end = object()
    making = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, making, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, making, end)
            yield cast("Result", item)


def each_alone(function: Callable[..., Result], jobs: Iterable[Job]) -> Iterator[Result | None]:
    """Yield ``function(*job)`` from a process that runs nothing else, None where that process died.

    Raises:
        UsageError: processes cannot start at all.
    """
    todo = deque(jobs)
    while todo:
        started = False
        try:
            with _pool(1, function) as pool:
                _submit(pool, os.getpid).result()
                started = True
                while todo:
                    result = _submit(pool, function, *todo[0]).result()
                    todo.popleft()
                    yield result
        except BrokenProcessPool:
            if not started:
                message = 'processes cannot start: in a script, call stargap under if __name__ == "__main__":'
                raise UsageError(message) from None
            todo.popleft()
            yield None


@contextmanager
def alongside(function: Callable[..., Result], *arguments: Any) -> Iterator[Callable[[], Result]]:
    """Do ``function(*arguments)`` in another process during a ``with`` block, which waits for it in the end.

    Where no process can start, or it dies, this one does it when the result is asked for, at the latest after the
    block.

    Args:
        function: importable by name.
        arguments: what can be pickled, as the result can.

    Yields:
        what waits for the result and returns it.

    Example:
        >>> with alongside(divmod, 7, 2) as result:
        ...     pass
        >>> result()
        (3, 1)
    """

    @cache
    def here() -> Result:
        return function(*arguments)

    if multiprocessing.current_process().daemon:
        yield here
        here()
        return
    with _pool(1, function) as pool:
        done = _submit(pool, function, *arguments)

        def result() -> Result:
            try:
                return done.result()
            except BrokenProcessPool:
                return here()

        yield result
        result()


@contextmanager
def _pool(workers: int, function: Callable[..., Any]) -> Iterator[ProcessPoolExecutor]:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context(START)
    context.set_forkserver_preload(["torch", function.__module__])
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts: see _submit
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _follow_parent() -> None:
    """End this process when its parent ends, however that ends, and leave Ctrl-C to the parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _submit(pool: ProcessPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Submit with SIGINT blocked: processes that start here inherit that, so Ctrl-C is the parent's alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
