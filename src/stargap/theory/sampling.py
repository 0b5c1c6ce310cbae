"""Reading a spectrum between its pixels."""

from __future__ import annotations

from torch import Tensor

from stargap.arrays import Samples, UniformSamples

__all__ = ["cubic", "cubic_slopes", "cubic_weights"]


def cubic(values: UniformSamples, place: Tensor) -> Samples:
    """Interpolate with the cubic through the four nearest pixels (Lagrange).

    Args:
        values: ``(row, pixel)`` on a uniform grid.
        place: positions in pixels, ``(row, target)`` or ``(target,)``; beyond the ends the end value is returned.

    Returns:
        ``(row, target)``.

    Example:
        >>> import torch
        >>> x = torch.arange(8.0)
        >>> cubic((x**3)[None], torch.tensor([2.5, 6.0]))
        tensor([[ 15.6250, 216.0000]])
    """
    last = values.shape[-1] - 1
    place = place.clamp(0, last)
    left = place.floor().long().clamp(1, last - 2)
    whole = place.ndim == 1
    parts = [values.index_select(1, left + k) if whole else values.gather(1, left + k) for k in (-1, 0, 1, 2)]
    weights = cubic_weights((place - left).to(values.dtype))
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the weights of the pixels at -1, 0, 1 and 2 in the cubic through them at `t`, from 0 to 1.

    Example:
        >>> import torch
        >>> [weight.item() for weight in cubic_weights(torch.tensor(0.5))]
        [-0.0625, 0.5625, 0.5625, -0.0625]
    """
    return (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )


def cubic_slopes(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the derivatives of `cubic_weights`.

    Example:
        >>> import torch
        >>> [round(slope.item(), 4) for slope in cubic_slopes(torch.tensor(0.0))]
        [-0.3333, -0.5, 1.0, -0.1667]
    """
    square = 3 * t * t
    return (-(square - 6 * t + 2) / 6, (square - 4 * t - 1) / 2, -(square - 2 * t - 2) / 2, (square - 1) / 6)
