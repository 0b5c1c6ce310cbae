"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["release_memory"]


def release_memory() -> None:
    """Return freed memory to the system between two steps on large tables.

    Otherwise what libraries keep of one step comes on top of what the next one needs. Arrow's memory is returned
    everywhere, that of the C library where it is glibc.

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
