"""The exceptions of stargap: each says what is wrong, with which thing, and what to do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ModelError", "SpectrumError", "StargapError", "UsageError"]


class StargapError(Exception):
    """Base of every error that stargap raises on purpose."""


class UsageError(StargapError):
    """A request that cannot be carried out as given; the command line prints it in one line and exits with 2."""


class ModelError(StargapError):
    """A model file that is damaged, foreign, or does not fit this version or pixel grid."""


class SpectrumError(StargapError):
    """A spectrum file that cannot be used.

    Args:
        path: the file.
        reason: one sentence without the path; equal causes give equal sentences, so that failures can be counted.

    Example:
        >>> error = SpectrumError("spec-1.fits", "the file is empty")
        >>> str(error), error.reason
        ('spec-1.fits: the file is empty', 'the file is empty')
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
