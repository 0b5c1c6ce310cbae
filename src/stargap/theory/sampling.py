"""Reading a spectrum between its pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from stargap.arrays import Samples, UniformSamples

__all__ = ["cubic"]


def cubic(values: UniformSamples, place: Tensor) -> Samples:
    """Interpolate with the cubic through the four nearest pixels (Lagrange).

    Args:
        values: ``(row, pixel)`` on a uniform grid.
        place: positions in pixels, ``(row, target)`` or ``(target,)``; beyond the ends the end value is returned.

    Returns:
        ``(row, target)``.

    Example:
        >>> x = torch.arange(8.0)
        >>> cubic((x**3)[None], torch.tensor([2.5, 6.0]))
        tensor([[ 15.6250, 216.0000]])
    """
    last = values.shape[-1] - 1
    place = place.expand(values.shape[0], -1).clamp(0, last)
    left = place.floor().long().clamp(1, last - 2)
    t = (place - left).to(values.dtype)
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    return sum(
        (weight * values.gather(1, left + offset) for weight, offset in zip(weights, (-1, 0, 1, 2), strict=True)),
        start=torch.zeros_like(t),
    )
