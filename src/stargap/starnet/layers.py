"""Layers of Cycle-StarNet: convolutions as matrix products, channels last (paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    "chain",
    "initialise",
    "instance_norm",
    "instance_norm_with_tangents",
    "interpolate",
    "layers_of",
]

INSTANCE_EPSILON = 1e-5
"""Added to the variance that instance normalisation divides by."""
ELEMENTS_AT_ONCE = 2_000_000
"""Size of the arrays of a transposed convolution that are made at once: what stays in the processor's cache."""
REACH = 31
"""Distance in pixels at which the kernel of `interpolate` has fallen to zero."""
BLOCK = 64
"""Pixels that `interpolate` computes by one matrix product."""
FAINT = 0.02
"""Fraction of the kernel of `interpolate`, added to what good pixels hold, that lets it fade where there are none."""


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    rows, length, channels = x.shape
    if x.stride()[1:] != (channels, 1):
        x = x.contiguous()
    count = positions_left(length, kernel, stride)
    view = x.as_strided((rows, count, kernel * channels), (x.stride(0), stride * channels, 1))
    return view.reshape(rows * count, kernel * channels)


def _spread(
    x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, stride: int, length: int, slope: float = 1.0
) -> Tensor:
    rows, count, channels = x.shape
    block = stride * filters
    overlap = -(-weight.shape[1] // block) - 1
    slots = max(count + overlap, -(-length // stride))
    out = x.new_empty(rows * slots, block)
    tiled = None if bias is None else bias.repeat(stride)
    first = weight[:, :block]
    step = _rows_at_once(slots * (block + channels))
    for start in range(0, rows, step):
        batch = x[start : start + step]
        padded = x.new_zeros(len(batch), slots, channels)
        padded[:, :count] = batch
        flat, part = padded.view(-1, channels), out[start * slots : (start + len(batch)) * slots]
        if tiled is None:
            torch.mm(flat, first, out=part)
        else:
            torch.addmm(tiled, flat, first, out=part)
        for shift in range(1, overlap + 1):
            taps = weight[:, shift * block : (shift + 1) * block]
            part[shift:, : taps.shape[1]].addmm_(flat[:-shift], taps)
        if slope != 1.0:
            nn.functional.leaky_relu_(part, slope)
    return out.view(rows, slots * stride, filters)[:, :length]


def _rows_at_once(size: int) -> int:
    # Full-length arrays of a few rows stay in the cache between their passes.
    return max(1, ELEMENTS_AT_ONCE // size)


def _leaky_slopes(grad: Tensor, result: Tensor, slope: float) -> Tensor:
    slopes: Tensor = torch.ops.aten.leaky_relu_backward(grad, result, slope, True)
    return slopes


class _DownFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, slope: float) -> Tensor:
        kernel, _, filters = weight.shape
        windows = _windows(x, kernel, stride)
        result = torch.addmm(bias, windows, weight.view(-1, filters))
        nn.functional.leaky_relu_(result, slope)
        ctx.save_for_backward(windows, weight, result)
        ctx.sizes = x.shape[1], stride, slope
        return result.view(x.shape[0], positions_left(x.shape[1], kernel, stride), filters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight, result = ctx.saved_tensors
        length, stride, slope = ctx.sizes
        filters = weight.shape[2]
        grad = _leaky_slopes(grads[0].reshape(-1, filters), result, slope)
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        flat, channels = weight.view(-1, filters), weight.shape[1]
        return (
            _spread(grad.view(grads[0].shape), flat.T, None, channels, stride, length) if to_x else None,
            (windows.T @ grad).view(weight.shape) if to_weight else None,
            grad.sum(dim=0) if to_bias else None,
            None,
            None,
        )


class _UpFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, slope: float) -> Tensor:
        _, kernel, filters = weight.shape
        length = (x.shape[1] - 1) * stride + kernel
        result = _spread(x, weight.flatten(1), bias, filters, stride, length, slope)
        ctx.save_for_backward(x, weight, result)
        ctx.sizes = stride, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, result = ctx.saved_tensors
        stride, slope = ctx.sizes
        channels, kernel, _ = weight.shape
        wide = weight.view(channels, -1)
        rows, count, _ = x.shape
        to_x, to_weight, _ = ctx.needs_input_grad[:3]
        grad_x = x.new_empty(rows * count, channels) if to_x else None
        grad_weight, grad_bias = torch.zeros_like(wide), weight.new_zeros(weight.shape[2])
        step = _rows_at_once(count * wide.shape[1])
        for start in range(0, rows, step):
            batch = slice(start, start + step)
            grad = _leaky_slopes(grads[0][batch], result[batch], slope)
            windows = _windows(grad, kernel, stride)
            if grad_x is not None:
                torch.mm(windows, wide.T, out=grad_x[start * count : start * count + len(windows)])
            if to_weight:
                grad_weight.addmm_(x[batch].reshape(-1, channels).T, windows)
                grad_bias += grad.sum(dim=(0, 1))
        return (
            None if grad_x is None else grad_x.view(x.shape),
            grad_weight.view(weight.shape) if to_weight else None,
            grad_bias if to_weight else None,
            None,
            None,
        )


class Layer(nn.Module):
    """A convolution over ``(row, position, channel)`` with LeakyReLU: `Down` is strided, `Up` transposed.

    The weight is ``(kernel, channel, filter)``, of a transposed one ``(channel, kernel, filter)``.
    """

    function: type[torch.autograd.Function]
    transposed = False

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, slope: float) -> None:
        super().__init__()
        self.stride, self.slope = stride, slope
        self.fan = kernel * (channels + filters)
        taps = (channels, kernel) if self.transposed else (kernel, channels)
        self.weight = nn.Parameter(torch.empty(*taps, filters))
        self.bias = nn.Parameter(torch.empty(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        apply: Callable[..., Tensor] = self.function.apply
        return apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        raise NotImplementedError

    def with_tangents(self, value: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for `value` and its derivatives; `change` is ``(row, k, position, channel)``."""
        value = self(value)
        rows, count = change.shape[:2]
        change = self.linear(change.flatten(0, 1))
        change = change.view(rows, count, *change.shape[1:])
        return value, _leaky_slopes(change, value[:, None].to(change.dtype), self.slope)


class Down(Layer):
    """Strided convolution."""

    function = _DownFunction

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        weight = self.weight.to(x.dtype)
        kernel, _, filters = weight.shape
        out = _windows(x, kernel, self.stride) @ weight.flatten(0, 1)
        return out.view(x.shape[0], positions_left(x.shape[1], kernel, self.stride), filters)


class Up(Layer):
    """Transposed convolution."""

    function = _UpFunction
    transposed = True

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias; `x` may have fewer channels than the layer, its first ones."""
        weight = self.weight[: x.shape[2]].to(x.dtype)
        _, kernel, filters = weight.shape
        return _spread(x, weight.flatten(1), None, filters, self.stride, (x.shape[1] - 1) * self.stride + kernel)


class Point(nn.Module):
    """A 1x1 convolution over ``(row, position, channel)``, linear unless a slope is given."""

    def __init__(self, channels: int, filters: int, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.fan = channels + filters
        self.weight = nn.Parameter(torch.empty(filters, channels))
        self.bias = nn.Parameter(torch.empty(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        out = nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return out if self.slope == 1.0 else nn.functional.leaky_relu(out, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias."""
        return nn.functional.linear(x, self.weight.to(x.dtype))


def chain(kind: type[Layer], sizes: Sequence[int], strides: Sequence[int], settings: NetworkSettings) -> nn.Sequential:
    """Return layers of one kind in a row; `sizes` are the channels before, between and after them."""
    pairs = zip(pairwise(sizes), strides, strict=True)
    return nn.Sequential(*(kind(a, b, settings.kernel, stride, settings.slope) for (a, b), stride in pairs))


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
