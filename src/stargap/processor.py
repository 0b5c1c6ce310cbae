"""What the last bits of results, and the speed, depend on besides inputs: threads, instructions of the processor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cores", "cpu_capability", "fast_bfloat16", "single_thread", "usual_workers"]

GPU_WORKERS = 4
"""Processes that share a GPU unless more are asked for: each keeps some hundred MB there."""


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


def cores() -> int:
    """Return how many processor cores this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_workers(device: str = "cpu") -> int:
    """Return how many processes do the work where nobody says: one per core, at most four where they share a GPU.

    Example:
        >>> usual_workers() == cores(), usual_workers("cuda") <= 4
        (True, True)
    """
    return cores() if device == "cpu" else min(cores(), GPU_WORKERS)


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


def fast_bfloat16() -> bool:
    """Return whether the processor multiplies matrices in bfloat16 faster than in float32, as far as torch knows.

    That is the work of AMX. The older instruction for bfloat16 (AVX-512) takes two products at once: on AMD processors
    matrices are multiplied at twice the rate of float32's, on Intel's at half.

    Example:
        >>> fast_bfloat16() in (True, False)
        True
    """
    import torch

    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16") or (known.get("avx512_bf16") and "Intel" not in str(known.get("cpu_name"))))
