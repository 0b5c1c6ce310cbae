"""How spectra are stored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stargap.settings import Settings
from stargap.spectra.reading import ReadSettings
from stargap.spectra.store.shards import SHARD_ROWS, Dtype

__all__ = ["IngestSettings"]


class IngestSettings(Settings):
    """How spectra are stored.

    Example:
        >>> IngestSettings(dtype="float16").shard_rows
        1024
    """

    dtype: Dtype = "float32"
    """Type of the pixels: float32, the very numbers that are measured from files, or float16, at half the size."""
    read: ReadSettings = ReadSettings()
    """How files are read that do not say everything themselves; files of surveys need none of it."""
    shard_rows: Annotated[int, Field(ge=1, le=1 << 20)] = SHARD_ROWS
    """Number of spectra in a shard, the unit of work and of resuming."""
