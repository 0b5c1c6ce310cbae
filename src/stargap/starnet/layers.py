"""Layers of Cycle-StarNet: convolutions as matrix products, channels last (paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stargap.starnet.settings import NetworkSettings, positions_left

__all__ = [
    "Down",
    "Layer",
    "Point",
    "Up",
    "Weighted",
    "cast_once",
    "chain",
    "initialise",
    "instance_norm",
    "instance_norm_with_tangents",
    "interpolate",
    "layers_of",
]

INSTANCE_EPSILON = 1e-5
"""Added to the variance that instance normalisation divides by."""
REACH = 31
"""Distance in pixels at which the kernel of `interpolate` has fallen to zero."""
BLOCK = 64
"""Pixels that `interpolate` computes by one matrix product."""
FAINT = 0.02
"""Fraction of the kernel of `interpolate`, added to what good pixels hold, that lets it fade where there are none."""


def _gathered(x: Tensor, matrix: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Return the strided convolution by a matrix ``(position times channel, filter)``."""
    rows, slots, channels = x.shape
    wide, width = x.view(rows * slots // stride, stride * channels), stride * channels
    if x.dtype.itemsize < 4:
        # One product of windows is more exact in half precision than a sum of products of blocks.
        windows = x.new_empty(len(wide), len(matrix))
        for shift, part in enumerate(windows.split(width, dim=1)):
            part[: len(wide) - shift] = wide[shift:, : part.shape[1]]
            part[len(wide) - shift :] = 0
        wide, width = windows, len(matrix)
    first, *further = matrix.split(width)
    out = torch.mm(wide, first) if bias is None else torch.addmm(bias, wide, first)
    for shift, block in enumerate(further, 1):
        out[: len(wide) - shift].addmm_(wide[shift:, : len(block)], block)
    return out.view(rows, slots // stride, out.shape[1])


def _scattered(x: Tensor, matrix: Tensor, bias: Tensor | None, stride: int, filters: int) -> Tensor:
    """Return the transposed convolution by a matrix ``(channel, position times filter)``."""
    rows, slots, channels = x.shape
    flat = x.view(rows * slots, channels)
    first, *further = matrix.split(stride * filters, dim=1)
    wide = torch.mm(flat, first) if bias is None else torch.addmm(bias.repeat(stride), flat, first)
    for shift, block in enumerate(further, 1):
        wide[shift:, : block.shape[1]].addmm_(flat[: len(flat) - shift], block)
    return wide.view(rows, slots * stride, filters)


def _correlate(fine: Tensor, coarse: Tensor, stride: int, out: Tensor) -> None:
    """Write the gradient of a matrix ``(position times channel, filter)`` that either function here takes."""
    wide, flat = fine.view(-1, stride * fine.shape[2]), coarse.view(-1, coarse.shape[2])
    for shift, part in enumerate(out.split(wide.shape[1])):
        torch.mm(wide[shift:, : len(part)].T, flat[: len(flat) - shift], out=part)


def _leaky_slopes(grad: Tensor, result: Tensor, slope: float) -> Tensor:
    slopes: Tensor = torch.ops.aten.leaky_relu_backward(grad, result, slope, True)
    return slopes


def _column_sums(x: Tensor) -> Tensor:
    # A product with ones is faster than a sum, and adds up in float32 whatever the type.
    flat = x.view(-1, x.shape[2])
    return (flat.new_ones(1, len(flat)) @ flat)[0]


class _DownFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, slope: float) -> Tensor:
        result = nn.functional.leaky_relu_(_gathered(x, weight.flatten(0, 1), bias, stride), slope)
        ctx.save_for_backward(x, weight, result)
        ctx.sizes = stride, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, result = ctx.saved_tensors
        stride, slope = ctx.sizes
        grad, to_weight = _leaky_slopes(grads[0].contiguous(), result, slope), None
        if ctx.needs_input_grad[1]:
            to_weight = torch.empty_like(weight)
            _correlate(x, grad, stride, to_weight.flatten(0, 1))
        return (
            _scattered(grad, weight.flatten(0, 1).T, None, stride, x.shape[2]) if ctx.needs_input_grad[0] else None,
            to_weight,
            _column_sums(grad) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


class _UpFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, slope: float, positions: int) -> Tensor:
        result = nn.functional.leaky_relu_(_scattered(x, weight.flatten(1), bias, stride, len(bias)), slope)
        result[:, positions:] = 0
        ctx.save_for_backward(x, weight, result)
        ctx.sizes = stride, slope, positions
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, result = ctx.saved_tensors
        stride, slope, positions = ctx.sizes
        grad, to_weight = _leaky_slopes(grads[0].contiguous(), result, slope), None
        grad[:, positions:] = 0
        if ctx.needs_input_grad[1]:
            to_weight = torch.empty_like(weight)
            _correlate(grad, x, stride, to_weight.flatten(1).T)
        return (
            _gathered(grad, weight.flatten(1).T, None, stride) if ctx.needs_input_grad[0] else None,
            to_weight,
            _column_sums(grad.view(len(x), -1, stride * grad.shape[2])).view(stride, -1).sum(dim=0)
            if ctx.needs_input_grad[2]
            else None,
            None,
            None,
            None,
        )


class Weighted(nn.Module):
    """A layer with weight and bias, used in the type of its input; `cast_once` converts them beforehand."""

    weight: nn.Parameter
    bias: nn.Parameter
    cast: tuple[Tensor, Tensor] | None = None

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weight and bias in a type."""
        if self.cast is not None and self.cast[0].dtype == dtype:
            return self.cast
        return self.weight.to(dtype), self.bias.to(dtype)


@contextmanager
def cast_once(module: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Convert all weights once, however often a layer is used within; None converts nothing.

    Gradients of all uses are then added up in that type.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Weighted)] if dtype is not None else []
    for layer in layers:
        layer.cast = layer.weight.to(dtype), layer.bias.to(dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.cast = None


class Layer(Weighted):
    """A convolution over ``(row, slot, channel)`` with LeakyReLU: `Down` is strided, `Up` transposed.

    Slots are at least as many as positions, which come first, and divisible by the stride, so that every convolution
    is a few matrix products of all rows at once, without copies. What further slots hold after `Down` means nothing
    and is not used for any position; after `Up`, as before it, it is zero. Gradients of such slots must be zero.

    The weight is ``(kernel, channel, filter)``, of a transposed one ``(channel, kernel, filter)``.

    Args:
        channels: of the input.
        filters: of the output.
        kernel: positions.
        stride: positions.
        slope: of LeakyReLU.
        positions: of the input.
    """

    transposed = False

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, slope: float, positions: int) -> None:
        super().__init__()
        self.stride, self.slope = stride, slope
        self.positions = (
            (positions - 1) * stride + kernel if self.transposed else positions_left(positions, kernel, stride)
        )
        self.fan = kernel * (channels + filters)
        taps = (channels, kernel) if self.transposed else (kernel, channels)
        self.weight = nn.Parameter(torch.empty(*taps, filters))
        self.bias = nn.Parameter(torch.empty(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        raise NotImplementedError

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        raise NotImplementedError

    def with_tangents(self, value: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for `value` and its derivatives; `change` is ``(row, k, slot, channel)``."""
        value = self(value)
        rows, count = change.shape[:2]
        change = self.linear(change.flatten(0, 1))
        change = change.view(rows, count, *change.shape[1:])
        return value, _leaky_slopes(change, value[:, None].to(change.dtype), self.slope)


class Down(Layer):
    """Strided convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        apply: Callable[..., Tensor] = _DownFunction.apply
        return apply(x.contiguous(), *self.weights(x.dtype), self.stride, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        return _gathered(x.contiguous(), self.weights(x.dtype)[0].flatten(0, 1), None, self.stride)


class Up(Layer):
    """Transposed convolution."""

    transposed = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        apply: Callable[..., Tensor] = _UpFunction.apply
        return apply(x.contiguous(), *self.weights(x.dtype), self.stride, self.slope, self.positions)

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias; `x` may have fewer channels than the layer, its first ones."""
        weight = self.weights(x.dtype)[0][: x.shape[2]]
        out = _scattered(x.contiguous(), weight.flatten(1), None, self.stride, weight.shape[2])
        out[:, self.positions :] = 0
        return out


class Point(Weighted):
    """A 1x1 convolution over ``(row, position, channel)``, linear unless a slope is given."""

    def __init__(self, channels: int, filters: int, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.fan = channels + filters
        self.weight = nn.Parameter(torch.empty(filters, channels))
        self.bias = nn.Parameter(torch.empty(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        out = nn.functional.linear(x, *self.weights(x.dtype))
        return out if self.slope == 1.0 else nn.functional.leaky_relu(out, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        return nn.functional.linear(x, self.weights(x.dtype)[0])


def chain(
    kind: type[Layer], sizes: Sequence[int], strides: Sequence[int], settings: NetworkSettings, positions: int
) -> list[Layer]:
    """Return layers of one kind in a row; `sizes` are the channels before, between and after them."""
    layers = []
    for (channels, filters), stride in zip(pairwise(sizes), strides, strict=True):
        layers.append(kind(channels, filters, settings.kernel, stride, settings.slope, positions))
        positions = layers[-1].positions
    return layers


def layers_of(chain: nn.Module) -> list[Any]:
    """Return the layers of a chain, as what they are, not as plain modules."""
    return list(chain.children())


def _standard_scores(z: Tensor) -> tuple[Tensor, Tensor]:
    wide = z if z.dtype == torch.float64 else z.float()
    centred = wide - wide.mean(dim=1, keepdim=True)
    scale = (centred.square().mean(dim=1, keepdim=True) + INSTANCE_EPSILON).rsqrt()
    return centred * scale, scale


def instance_norm(z: Tensor) -> Tensor:
    """Return latents ``(row, position, channel)`` with mean 0 and variance 1 over the positions."""
    return _standard_scores(z)[0].to(z.dtype)


def instance_norm_with_tangents(z: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Return `instance_norm` and its derivatives; `change` is ``(row, k, position, channel)``."""
    value, scale = (part[:, None] for part in _standard_scores(z))
    along = change.to(value.dtype)
    along = along - along.mean(dim=2, keepdim=True) - value * (value * along).mean(dim=2, keepdim=True)
    return value[:, 0].to(z.dtype), (along * scale).to(change.dtype)


def initialise(module: nn.Module, seed: int, bias: float) -> None:
    """Give every layer Glorot's uniform weights, and biases of `bias`; the global random state is not used."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, Layer | Point) and not layer.weight.is_meta:
            limit = math.sqrt(6 / layer.fan)
            with torch.no_grad():
                layer.weight.uniform_(-limit, limit, generator=generator)
                layer.bias.fill_(bias)


def interpolate(values: Tensor, good: Tensor) -> Tensor:
    """Interpolate by normalised convolution with a triangular kernel of 30 pixels half width; linear in `values`.

    Args:
        values: ``(row, k, pixel)``; what they hold at bad pixels, NaN included, does not matter.
        good: ``(row, pixel)`` bool.

    Returns:
        ``(row, k, pixel)``: at an isolated bad pixel about the mean of its neighbours, 0 where no good pixel is near.

    Example:
        >>> good = torch.arange(200) > 100
        >>> interpolate(torch.full((1, 1, 200), 2.0), good[None])[0, 0, [60, 90, 150]]
        tensor([0.0000, 1.8323, 1.9608])
    """
    kept = torch.where(good[:, None], values, 0.0)
    stack = torch.cat([kept, good[:, None].to(kept.dtype)], dim=1)
    pixels, side = stack.shape[2], REACH - 1
    window = torch.arange(BLOCK + 2 * side, device=stack.device)[:, None]
    offset = window - torch.arange(side, BLOCK + side, device=stack.device)
    kernel = ((REACH - offset.abs()).clamp_min(0) / REACH**2).to(stack.dtype)
    padded = nn.functional.pad(stack, (side, side + -pixels % BLOCK))
    smooth = (padded.unfold(2, len(window), BLOCK) @ kernel).flatten(2)[:, :, :pixels]
    return smooth[:, :-1] / (smooth[:, -1:] + FAINT)
