"""Our catalogue against any other table."""

from __future__ import annotations

from stargap.validation.statistics import clip, robust_scatter, statistics

__all__ = ["clip", "robust_scatter", "statistics"]
