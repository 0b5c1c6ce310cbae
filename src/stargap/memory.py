"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["release_memory"]


def release_memory() -> None:
    """Give free memory back between two steps on large tables: what libraries keep of one, the next may not fit beside.

    The C library (glibc) and Arrow keep what was freed. Elsewhere nothing happens.

    Example:
        >>> release_memory()
    """
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None:
        pyarrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
