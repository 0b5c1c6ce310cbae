"""Trials of docs/results/reliability.md: each runs in a process of its own, with bounds on time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from stargap.errors import StargapError

__all__ = ["HELD", "Tally", "mutated", "run_trials"]

HELD = ""
"""What a trial returns if the software held: it did what it should, or refused in words."""
MEMORY = 3 * 2**30
"""Bytes that a trial may add to the memory of its process."""
SECONDS = 30.0
"""Time of the processor that one trial may take; four times as much may pass on the clock."""
TOKENS = (
    b"nan", b"-inf", b"1e999", b"-9999", b"9" * 400, b"\x00" * 64, b"\xff" * 64, b"<script>", b"]]>", b"&a;", b'"',
    b",", b"\n", b"\r\n", b"\t", b"{", b"}", b"T", b"END", b"NAXIS1  =           4000000000",
    b"TFORM1  = '9999999999D'",
)  # fmt: skip
"""What is written over or into a file."""

Trial = Callable[[Any], str]


@dataclass
class Tally:
    """What came of the trials of one kind: how many, and what happened in each that was lost."""

    kind: str
    expected: str
    tries: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def held(self) -> int:
        """Trials in which the software held."""
        return self.tries - len(self.lost)

    def add(self, outcome: str) -> None:
        """Count one trial."""
        self.tries += 1
        if outcome != HELD:
            self.lost.append(outcome)


class TooLongError(BaseException):
    """A trial that takes longer than it may; no ``except Exception`` stops it."""


def run_trials(tally: Tally, trial: Trial, cases: Sequence[Any], *, seconds: float = SECONDS) -> Tally:
    """Run a trial on each case in forked processes and count what came of them.

    A trial is lost if it says so, raises anything but an error of stargap's, takes too long or too much memory, opens a
    connection, or kills its process.
    """
    context = multiprocessing.get_context("fork")
    place = 0
    while place < len(cases):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, trial, cases[place:], seconds))
        process.start()
        theirs.close()
        while place < len(cases):
            try:
                if not ours.poll(5 * seconds + 10):
                    tally.add(f"case {place}: hangs")
                    break
                tally.add(ours.recv())
            except EOFError:
                process.join()
                tally.add(f"case {place}: the process died (exit code {process.exitcode})")
                break
            finally:
                place += 1
        process.kill()
        process.join()
        ours.close()
    return tally


def _work(pipe: Connection, trial: Trial, cases: Sequence[Any], seconds: float) -> None:
    """Run trials one after the other, and send what came of each."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    socket.socket.connect = _no_network  # type: ignore[method-assign,assignment]
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _too_long)
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):  # noqa: PTH123
        for case in cases:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, 4 * seconds)
            try:
                outcome = trial(case)
            except StargapError as error:
                outcome = HELD if _one_line(error) else f"{_name(case)}: no words: {error!r}"
            except TooLongError:
                outcome = f"{_name(case)}: takes more than {seconds:g} s"
            except BaseException as error:  # whatever it is, it is no refusal in words
                outcome = f"{_name(case)}: {type(error).__name__}: {str(error)[:200]}"
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)
            pipe.send(outcome)


def _one_line(error: StargapError) -> bool:
    """Return whether an error says something, and not at such a length that a terminal is lost in it."""
    return 0 < len(str(error).strip()) < 4000


def _name(case: Any) -> str:
    return str(case[0] if isinstance(case, tuple) else case)


def _too_long(signum: int, frame: object) -> None:
    raise TooLongError


def _no_network(self: socket.socket, address: object) -> None:
    message = f"a connection to {address} was opened"
    raise RuntimeError(message)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with one to three damages: bits, bytes, parts lost, doubled, moved or overwritten, words put in."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        size = len(data)
        if not size:
            break
        at, length = int(random.integers(size)), int(random.integers(1, max(2, size // 8)))
        kind = random.integers(8)
        if kind == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            for place in random.integers(0, size, 10):
                data[place] = int(random.integers(256))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + length] = bytes([int(random.choice([0, 32, 255]))]) * len(data[at : at + length])
        else:
            token = TOKENS[int(random.integers(len(TOKENS)))]
            data[at : at + (len(token) if kind == 6 else 0)] = token
    return bytes(data)
