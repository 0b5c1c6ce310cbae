"""What the last bits of results depend on besides their inputs: threads and the instructions of the processor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cpu_capability", "single_thread"]


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch on one thread inside a ``with`` block, or inside a function that this decorates.

    Sums over threads round differently with their number; processes, not threads, spread the work. The number of
    threads that the caller had is restored afterwards.

    Example:
        >>> import torch
        >>> before = torch.get_num_threads()
        >>> with single_thread():
        ...     torch.get_num_threads()
        1
        >>> torch.get_num_threads() == before
        True
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cpu_capability() -> str:
    """Return the instruction set that torch computes with on this machine, as ``AVX2`` or ``AVX512``.

    Where nothing has imported torch, it is empty: nothing was computed with it. Results are the same bit for bit on
    machines where this is the same, and differ by rounding, which a fit can amplify to a few K, where it is not.

    Example:
        >>> import torch
        >>> cpu_capability() == cpu_capability().upper() != ""
        True
    """
    torch = sys.modules.get("torch")
    return "" if torch is None else str(torch.backends.cpu.get_cpu_capability())
