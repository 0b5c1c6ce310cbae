"""Layers are convolutions with their gradients and derivatives, however many rows are computed at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stargap.starnet.layers import Down, Up, cast_once, instance_norm, instance_norm_with_tangents


def slotted(x, layer, kernel):
    """Positions with as many slots after them as the layer needs, which hold zeros."""
    length, stride = x.shape[1], layer.stride
    slots = length - (-kernel // stride) - 1 if isinstance(layer, Up) else -(-length // stride) * stride
    return functional.pad(x, (0, 0, 0, slots - length))


few = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@few
@given(
    kind=st.sampled_from(["down", "up"]),
    rows=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    extra=st.integers(0, 12),
    batch_first=st.booleans(),
)
def test_layers_are_convolutions_with_their_gradients(kind, rows, sizes, kernel, stride, extra, batch_first):
    stride = min(stride, kernel)
    length = kernel + extra if kind == "down" else 1 + extra
    generator = torch.Generator().manual_seed(kernel * 100 + extra)
    layer = {"down": Down, "up": Up}[kind](*sizes, kernel, stride, 0.1, length).double()
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    x = torch.randn(rows, length, sizes[0], generator=generator, dtype=torch.float64)
    x = x.requires_grad_() if batch_first else x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    if kind == "down":
        result = functional.conv1d(x.transpose(1, 2), layer.weight.permute(2, 1, 0), layer.bias, stride=stride)
    else:
        result = functional.conv_transpose1d(
            x.transpose(1, 2), layer.weight.permute(0, 2, 1), layer.bias, stride=stride
        )
    wanted = functional.leaky_relu(result, 0.1).transpose(1, 2)
    whole = layer(slotted(x, layer, kernel))
    assert kind == "down" or (whole[:, layer.positions :] == 0).all()
    ours = whole[:, : layer.positions]
    assert ours.shape == wanted.shape
    torch.testing.assert_close(ours, wanted)
    probe = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    inputs = (x, layer.weight, layer.bias)
    for one, other in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((wanted * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [Down, Up])
def test_gradients_that_nobody_needs_are_not_computed(kind):
    layer = kind(2, 3, 7, 4, 0.1, 15)
    with torch.no_grad():
        layer.weight.fill_(0.1)
        layer.bias.fill_(0.0)
    x = torch.ones(1, 16, 2)
    x[:, 15] = 0
    layer(x).sum().backward()
    wanted = layer.weight.grad.clone()
    x.requires_grad_()
    layer.zero_grad()
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad, wanted)
    frozen = x.grad.clone()
    x.grad = None
    layer.zero_grad()
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert torch.equal(x.grad, frozen)


def test_weights_converted_once_are_used_and_get_the_same_gradients():
    layer = Up(3, 2, 7, 4, 0.1, 9)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
        layer.bias.fill_(0.3)
    x = slotted(torch.randn(5, 9, 3, generator=torch.Generator().manual_seed(1)), layer, 7).bfloat16()
    wanted = torch.autograd.grad(layer(x).square().sum(), (layer.weight, layer.bias))
    with cast_once(layer, torch.bfloat16):
        assert layer.weights(torch.bfloat16)[0] is layer.weights(torch.bfloat16)[0]
        assert layer.weights(torch.float32)[0] is layer.weight
        ours = layer(x)
    for one, other in zip(torch.autograd.grad(ours.square().sum(), (layer.weight, layer.bias)), wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert layer.weights(torch.bfloat16)[0] is not layer.weights(torch.bfloat16)[0]


@pytest.mark.parametrize("kind", [Down, Up])
def test_derivatives_of_a_layer_are_those_of_its_output(kind):
    layer = kind(2, 3, 7, 4, 0.1, 15).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
        value = slotted(torch.randn(2, 15, 2, generator=generator, dtype=torch.float64), layer, 7)
        change = torch.randn(2, 3, 15, 2, generator=generator, dtype=torch.float64)
        change = functional.pad(change, (0, 0, 0, value.shape[1] - 15))
        out, along = layer.with_tangents(value, change)
        assert torch.equal(out, layer(value))
        for k in range(3):
            step = 1e-7 * change[:, k]
            torch.testing.assert_close(
                along[:, k, : layer.positions],
                ((layer(value + step) - layer(value - step)) / 2e-7)[:, : layer.positions],
                rtol=1e-6,
                atol=1e-6,
            )


def test_derivatives_of_the_normalisation_are_those_of_its_output():
    generator = torch.Generator().manual_seed(5)
    value = torch.randn(2, 8, 4, generator=generator, dtype=torch.float64)
    change = torch.randn(2, 3, 8, 4, generator=generator, dtype=torch.float64)
    out, along = instance_norm_with_tangents(value, change)
    assert torch.equal(out, instance_norm(value))
    torch.testing.assert_close(out, functional.instance_norm(value.transpose(1, 2)).transpose(1, 2))
    for k in range(3):
        step = 1e-6 * change[:, k]
        torch.testing.assert_close(
            along[:, k], (instance_norm(value + step) - instance_norm(value - step)) / 2e-6, rtol=1e-6, atol=1e-6
        )
