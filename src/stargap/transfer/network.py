"""Cycle-StarNet: autoencoders of two domains around a shared latent space (O'Briain et al. 2021; paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stargap import __version__
from stargap.errors import ModelError, UsageError
from stargap.modelfile import Card, load_model, save_model
from stargap.pixels import STARGAP

__all__ = ["Critics", "Cycles", "CycleStarNet", "NetworkCard", "NetworkSettings"]

KIND, VERSION = "cycle-starnet", 1
LEAST_POSITIONS = 4
INSTANCE_EPSILON = 1e-5
REACH = 15
FAINT = 0.02
STARS_AT_ONCE = 8
ELEMENTS_AT_ONCE = 2_000_000

Count = Annotated[int, Field(ge=1, le=4096)]
Stride = Annotated[int, Field(ge=1, le=16)]
Filters = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
Strides = Annotated[tuple[Stride, ...], Field(min_length=1, max_length=8)]


class NetworkSettings(BaseModel):
    """Sizes of the network and its critics; the defaults are the published configuration (METHOD section 5).

    Example:
        >>> settings = NetworkSettings()
        >>> settings.length, settings.positions
        (3071, 8)
        >>> NetworkSettings(pixels=1279).length
        2047
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: Annotated[int, Field(ge=1, le=100_000)] = STARGAP.wavelength.size
    """Pixels of a spectrum; any number, see `length`."""
    kernel: Annotated[int, Field(ge=1, le=31)] = 7
    """Width of every convolution but the 1x1 ones."""
    slope: Annotated[FiniteFloat, Field(gt=0, le=1)] = 0.1
    """Slope of LeakyReLU for negative values."""
    bias: FiniteFloat = 0.01
    """Initial bias of every layer; initial weights are Glorot's (uniform)."""
    outer_filters: Filters = (32, 64)
    """Filters of the encoder of each domain; its decoder has the same ones in reverse."""
    outer_strides: Strides = (4, 4)
    """Strides of the same."""
    shared_filters: Filters = (128, 256, 512)
    """Filters of the encoder that both domains share; its decoder has the same ones in reverse."""
    shared_strides: Strides = (4, 2, 2)
    """Strides of the shared and of the split encoder."""
    shared_latent: Count = 25
    """Channels of the latent z_sh, which both domains share."""
    split_filters: Filters = (32, 32, 32)
    """Filters of the encoder of what only observed spectra have; its decoder has the same ones in reverse."""
    split_latent: Count = 4
    """Channels of the latent z_sp of the observed domain."""
    critic_filters: Filters = (16, 32, 64, 128, 256)
    """Filters of the critics' branch that sees the spectrum."""
    critic_stride: Stride = 4
    """Stride of the same."""
    critic_latent_filters: Filters = (32, 64, 128, 256, 512)
    """Filters (1x1) of the critics' branch that sees the latents."""

    @property
    def positions(self) -> int:
        """Positions along the wavelength of the latents."""
        last = self._length(1)
        step = math.prod(self.outer_strides + self.shared_strides)
        return max(LEAST_POSITIONS, 1 + -(-(self.pixels - last) // step))

    @property
    def length(self) -> int:
        """Pixels after padding: the least number, at least `pixels`, that strided convolutions use up to the last one.

        The published configuration closes for 256 k + 1023 pixels with k positions in the latents; fewer than 4
        positions would leave instance normalisation nothing to normalise.
        """
        return self._length(self.positions)

    def _length(self, positions: int) -> int:
        length = positions
        for stride in reversed(self.outer_strides + self.shared_strides):
            length = (length - 1) * stride + self.kernel
        return length

    @model_validator(mode="after")
    def _check(self) -> NetworkSettings:
        for name, filters, steps in (
            ("outer", self.outer_filters, self.outer_strides),
            ("shared", self.shared_filters, self.shared_strides),
            ("split", self.split_filters, self.shared_strides),
        ):
            if len(filters) != len(steps):
                message = f"{name}: {len(filters)} layers of filters and {len(steps)} strides"
                raise ValueError(message)
        strides = (*self.outer_strides, *self.shared_strides, self.critic_stride)
        if self.kernel < max(strides):
            message = f"a kernel of {self.kernel} skips pixels at strides {strides}"
            raise ValueError(message)
        length = self.length
        for _ in self.critic_filters:
            length = _count(length, self.kernel, self.critic_stride)
        if length < 1:
            message = f"{len(self.critic_filters)} critic layers are too many for {self.length} pixels"
            raise ValueError(message)
        return self


class NetworkCard(Card):
    """Card of a transfer network: its architecture, its pixels, and what it was trained on."""

    pixel_grid: str
    """``STARGAP.digest``: pixels, windows and normalisation of the spectra."""
    wavelength: tuple[float, float, int]
    """First and last wavelength (A) and number of pixels."""
    settings: NetworkSettings
    training_data: str
    seed: int
    iterations: int
    scores: dict[str, float]
    """Label-blind validation scores of the state that was kept."""


# ---- convolutions as matrix products, channels last


def _count(length: int, kernel: int, stride: int) -> int:
    return (length - kernel) // stride + 1


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    rows, length, channels = x.shape
    if x.stride()[1:] != (channels, 1):
        x = x.contiguous()
    count = _count(length, kernel, stride)
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
        some = x[start : start + step]
        padded = x.new_zeros(len(some), slots, channels)
        padded[:, :count] = some
        flat, part = padded.view(-1, channels), out[start * slots : (start + len(some)) * slots]
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
    return torch.ops.aten.leaky_relu_backward(grad, result, slope, True)


class _DownFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, slope: float) -> Tensor:
        kernel, _, filters = weight.shape
        windows = _windows(x, kernel, stride)
        result = torch.addmm(bias, windows, weight.view(-1, filters))
        nn.functional.leaky_relu_(result, slope)
        ctx.save_for_backward(windows, weight, result)
        ctx.sizes = x.shape[1], stride, slope
        return result.view(x.shape[0], _count(x.shape[1], kernel, stride), filters)

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
            some = slice(start, start + step)
            grad = _leaky_slopes(grads[0][some], result[some], slope)
            windows = _windows(grad, kernel, stride)
            if grad_x is not None:
                torch.mm(windows, wide.T, out=grad_x[start * count : start * count + len(windows)])
            if to_weight:
                grad_weight.addmm_(x[some].reshape(-1, channels).T, windows)
                grad_bias += grad.sum(dim=(0, 1))
        return (
            None if grad_x is None else grad_x.view(x.shape),
            grad_weight.view(weight.shape) if to_weight else None,
            grad_bias if to_weight else None,
            None,
            None,
        )


class _Layer(nn.Module):
    """A convolution over ``(row, position, channel)`` with LeakyReLU."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, slope: float) -> None:
        super().__init__()
        self.stride, self.slope = stride, slope
        self.fan = kernel * (channels + filters)
        self.weight = nn.Parameter(torch.empty(self.shape(channels, filters, kernel)))
        self.bias = nn.Parameter(torch.empty(filters))

    @staticmethod
    def shape(channels: int, filters: int, kernel: int) -> tuple[int, int, int]:
        raise NotImplementedError

    def linear(self, x: Tensor) -> Tensor:
        """Return the convolution without bias; `x` may have fewer channels than the layer, its first ones."""
        raise NotImplementedError

    def with_tangents(self, value: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for `value` and its derivatives; `change` is ``(row, k, position, channel)``."""
        value = self(value)
        change = self.linear(change.flatten(0, 1)).unflatten(0, change.shape[:2])
        return value, _leaky_slopes(change, value[:, None].to(change.dtype), self.slope)


class _Down(_Layer):
    """Strided convolution."""

    @staticmethod
    def shape(channels: int, filters: int, kernel: int) -> tuple[int, int, int]:
        return kernel, channels, filters

    def forward(self, x: Tensor) -> Tensor:
        return _DownFunction.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        kernel, _, filters = weight.shape
        out = _windows(x, kernel, self.stride) @ weight.flatten(0, 1)
        return out.view(x.shape[0], _count(x.shape[1], kernel, self.stride), filters)


class _Up(_Layer):
    """Transposed convolution."""

    @staticmethod
    def shape(channels: int, filters: int, kernel: int) -> tuple[int, int, int]:
        return channels, kernel, filters

    def forward(self, x: Tensor) -> Tensor:
        return _UpFunction.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        weight = self.weight[: x.shape[2]].to(x.dtype)
        _, kernel, filters = weight.shape
        return _spread(x, weight.flatten(1), None, filters, self.stride, (x.shape[1] - 1) * self.stride + kernel)


class _Point(nn.Module):
    """A 1x1 convolution over ``(row, position, channel)``, linear unless a slope is given."""

    def __init__(self, channels: int, filters: int, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.fan = channels + filters
        self.weight = nn.Parameter(torch.empty(filters, channels))
        self.bias = nn.Parameter(torch.empty(filters))

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return out if self.slope == 1.0 else nn.functional.leaky_relu(out, self.slope)

    def linear(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


def _chain(
    kind: type[_Layer], sizes: Sequence[int], strides: Sequence[int], settings: NetworkSettings
) -> nn.Sequential:
    pairs = zip(pairwise(sizes), strides, strict=True)
    return nn.Sequential(*(kind(a, b, settings.kernel, stride, settings.slope) for (a, b), stride in pairs))


def _layers(chain: nn.Module) -> list[Any]:
    return list(chain.children())


def _standard_scores(z: Tensor) -> tuple[Tensor, Tensor]:
    wide = z if z.dtype == torch.float64 else z.float()
    centred = wide - wide.mean(dim=1, keepdim=True)
    scale = (centred.square().mean(dim=1, keepdim=True) + INSTANCE_EPSILON).rsqrt()
    return centred * scale, scale


def _instance_norm(z: Tensor) -> Tensor:
    return _standard_scores(z)[0].to(z.dtype)


def _instance_norm_with_tangents(z: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    value, scale = (part[:, None] for part in _standard_scores(z))
    along = change.to(value.dtype)
    along = along - along.mean(dim=2, keepdim=True) - value * (value * along).mean(dim=2, keepdim=True)
    return value[:, 0].to(z.dtype), (along * scale).to(change.dtype)


def _initialise(module: nn.Module, seed: int, bias: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, _Layer | _Point) and not layer.weight.is_meta:
            limit = math.sqrt(6 / layer.fan)
            with torch.no_grad():
                layer.weight.uniform_(-limit, limit, generator=generator)
                layer.bias.fill_(bias)


# ---- the network


class Cycles(NamedTuple):
    """Everything that the losses compare: spectra ``(row, pixel)`` in flux units, latents ``(row, position, channel)``.

    ``synthetic`` is X_s->s, ``observed`` X_o->o, ``to_observed`` X_s->o, ``to_synthetic`` X_o->s, ``synthetic_cycle``
    X_s->o->s, ``observed_cycle`` X_o->s->o (paper section 3.1).
    """

    synthetic: Tensor
    observed: Tensor
    to_observed: Tensor
    to_synthetic: Tensor
    synthetic_cycle: Tensor
    observed_cycle: Tensor
    z_synthetic: Tensor
    z_observed: Tensor
    z_split: Tensor


class CycleStarNet(nn.Module):
    """Two autoencoders, of synthetic and of observed spectra, that share the middle of the way (paper section 3.1).

    Spectra are ``(row, pixel)`` in normalised flux; latents ``(row, position, channel)``: z_sh is shared by both
    domains, z_sp belongs to observed spectra. Inside, spectra are standardised by one mean and one standard deviation
    and padded with the mean, as much on the left as on the right, to ``settings.length``; outputs are cropped back.
    Convolutions are matrix products on channels-last arrays; transposed ones one product a polyphase block.

    Set `precision` to compute in another dtype than that of the weights, such as ``torch.bfloat16``.

    Args:
        settings: sizes.
        seed: of the initial weights; the global random state is not used.

    Example:
        >>> network = CycleStarNet()
        >>> synthetic, observed = torch.rand(2, 2, 2901)
        >>> z_sh, z_sp = network.encode_observed(observed)
        >>> z_sh.shape, z_sp.shape
        (torch.Size([2, 8, 25]), torch.Size([2, 8, 4]))
        >>> network.synthetic_to_observed(synthetic, z_sp).shape
        torch.Size([2, 2901])
    """

    mean: Tensor
    deviation: Tensor
    typical: Tensor

    def __init__(self, settings: NetworkSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = s = settings or NetworkSettings()
        self.card: NetworkCard | None = None
        self.precision: torch.dtype | None = None
        self.register_buffer("mean", torch.ones(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("typical", torch.ones(s.pixels))

        outer, shared, split = s.outer_filters, s.shared_filters, s.split_filters
        down, up = s.shared_strides, s.shared_strides[::-1]

        def encoder(filters: tuple[int, ...], latent: int) -> nn.Sequential:
            return nn.Sequential(*_chain(_Down, (outer[-1], *filters), down, s), _Point(filters[-1], latent))

        def decoder(channels: int) -> nn.Sequential:
            return nn.Sequential(*_chain(_Up, (channels, *outer[::-1]), s.outer_strides[::-1], s), _Point(outer[0], 1))

        self.synthetic_encoder = _chain(_Down, (1, *outer), s.outer_strides, s)
        self.observed_encoder = _chain(_Down, (1, *outer), s.outer_strides, s)
        self.shared_encoder = encoder(shared, s.shared_latent)
        self.split_encoder = encoder(split, s.split_latent)
        self.shared_decoder = _chain(_Up, (s.shared_latent, *shared[::-1]), up, s)
        self.split_decoder = _chain(_Up, (s.split_latent, *split[::-1]), up, s)
        self.synthetic_decoder = decoder(shared[0])
        self.observed_decoder = decoder(shared[0] + split[0])
        _initialise(self, seed, s.bias)

    # ---- spectra in and out

    def standardise(self, synthetic: Tensor, observed: Tensor, good: Tensor) -> None:
        """Set mean and standard deviation of all training pixels, and the typical observed spectrum of `fill`.

        Args:
            synthetic: ``(row, pixel)``, every pixel good.
            observed: ``(row, pixel)``.
            good: ``(row, pixel)`` bool: which observed pixels count. Where none does, the typical spectrum is the
                mean synthetic one.

        Raises:
            UsageError: nothing to take a deviation of.
        """
        seen = torch.where(good, observed, 0.0).double()
        plain = synthetic.double()
        count = plain.numel() + good.sum()
        mean = (plain.sum() + seen.sum()) / count
        square = ((plain - mean).square().sum() + torch.where(good, seen - mean, 0.0).square().sum()) / count
        if not (torch.isfinite(square) and square > 0):
            message = (
                f"the {len(plain)} synthetic and {len(seen)} observed training spectra have a variance of {square}"
            )
            raise UsageError(message)
        number = good.sum(dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(square.sqrt())
        self.typical.copy_(torch.where(number > 0, seen.sum(dim=0) / number.clamp_min(1), plain.mean(dim=0)))

    def fill(self, flux: Tensor, good: Tensor) -> Tensor:
        """Return `flux` with bad pixels in-painted; what they hold, NaN included, does not matter.

        The difference from the typical training spectrum is interpolated by normalised convolution with a triangular
        kernel of 30 pixels half width; it fades to zero where no good pixel is near.

        Args:
            flux: ``(row, pixel)``.
            good: ``(row, pixel)`` bool.
        """
        excess = torch.where(good, flux - self.typical, 0.0)
        smooth = torch.stack([excess, good.to(excess.dtype)], dim=1)
        for _ in range(2):
            smooth = nn.functional.avg_pool1d(smooth, 2 * REACH + 1, stride=1, padding=REACH)
        return torch.where(good, flux, self.typical + smooth[:, 0] / (smooth[:, 1] + FAINT))

    def inputs(self, flux: Tensor) -> Tensor:
        """Return standardised, padded spectra ``(row, length, 1)``, as encoders and critics take them."""
        if flux.ndim != 2 or flux.shape[1] != self.settings.pixels:
            message = f"spectra have shape {tuple(flux.shape)}, the network takes (row, {self.settings.pixels})"
            raise UsageError(message)
        return self._padded((flux - self.mean) / self.deviation)[..., None]

    def _padded(self, x: Tensor) -> Tensor:
        extra = self.settings.length - self.settings.pixels
        return nn.functional.pad(x, (extra // 2, extra - extra // 2)).to(self.precision or self.mean.dtype)

    def _cropped(self, x: Tensor) -> Tensor:
        first = (self.settings.length - self.settings.pixels) // 2
        return x[..., first : first + self.settings.pixels, 0].to(self.mean.dtype) * self.deviation

    def _outputs(self, x: Tensor) -> Tensor:
        return self._cropped(x) + self.mean

    # ---- the pieces

    def _shared(self, features: Tensor) -> Tensor:
        return _instance_norm(self.shared_encoder(features))

    def _split(self, features: Tensor) -> Tensor:
        return _instance_norm(self.split_encoder(features))

    def encode_synthetic(self, flux: Tensor) -> Tensor:
        """Return z_sh of synthetic spectra."""
        return self._shared(self.synthetic_encoder(self.inputs(flux)))

    def encode_observed(self, flux: Tensor, good: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z_sh and z_sp of observed spectra; pixels that are not `good` are in-painted first."""
        features = self.observed_encoder(self.inputs(flux if good is None else self.fill(flux, good)))
        return self._shared(features), self._split(features)

    def decode_synthetic(self, z_sh: Tensor) -> Tensor:
        """Return synthetic spectra of shared latents."""
        return self._outputs(self.synthetic_decoder(self.shared_decoder(z_sh)))

    def decode_observed(self, z_sh: Tensor, z_sp: Tensor) -> Tensor:
        """Return observed spectra of shared and split latents."""
        return self._observed(self.shared_decoder(z_sh), self.split_decoder(z_sp))

    def _observed(self, shared: Tensor, split: Tensor) -> Tensor:
        return self._outputs(self.observed_decoder(torch.cat([shared, split], dim=2)))

    def synthetic_to_observed(self, flux: Tensor, z_sp: Tensor) -> Tensor:
        """Return X_s->o: synthetic spectra as they would be observed, with the z_sp of observed ones."""
        return self.decode_observed(self.encode_synthetic(flux), z_sp)

    def observed_to_synthetic(self, flux: Tensor, good: Tensor | None = None) -> Tensor:
        """Return X_o->s: observed spectra in the synthetic domain, from z_sh alone."""
        return self.decode_synthetic(self.encode_observed(flux, good)[0])

    def split_features(self, flux: Tensor, good: Tensor | None = None) -> Tensor:
        """Return what `observed_and_tangents` needs of observed spectra, ``(row, position, filter)``: once a fit."""
        return self.split_decoder(self.encode_observed(flux, good)[1])

    def cycles(self, synthetic: Tensor, observed: Tensor) -> Cycles:
        """Return reconstructions, transfers and cycles; pieces common to both domains are computed once.

        Args:
            synthetic: ``(row, pixel)``.
            observed: ``(row, pixel)``, in-painted; row i lends its z_sp to synthetic row i.

        Raises:
            UsageError: other numbers of synthetic than of observed spectra.
        """
        if synthetic.shape != observed.shape:
            message = f"{len(synthetic)} synthetic and {len(observed)} observed spectra do not pair up"
            raise UsageError(message)
        rows = len(synthetic)
        features = self.observed_encoder(self.inputs(observed))
        z_shared = self._shared(torch.cat([self.synthetic_encoder(self.inputs(synthetic)), features]))
        z_split = self._split(features)
        split = self.split_decoder(z_split)
        shared = self.shared_decoder(z_shared)
        plain = self._outputs(self.synthetic_decoder(shared))
        real = self._observed(shared, torch.cat([split, split]))

        there = torch.cat(
            [self.observed_encoder(self.inputs(real[:rows])), self.synthetic_encoder(self.inputs(plain[rows:]))]
        )
        back = self.shared_decoder(self._shared(there))
        return Cycles(
            synthetic=plain[:rows],
            observed=real[rows:],
            to_observed=real[:rows],
            to_synthetic=plain[rows:],
            synthetic_cycle=self._outputs(self.synthetic_decoder(back[:rows])),
            observed_cycle=self._observed(back[rows:], split),
            z_synthetic=z_shared[:rows],
            z_observed=z_shared[rows:],
            z_split=z_split,
        )

    @torch.no_grad()
    def observed_and_tangents(
        self, flux: Tensor, tangents: Tensor, split: Tensor, *, tangent_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return X_s->o and its derivatives along directions, in one forward-mode pass.

        Tangents are rows of the linear layers, without bias; LeakyReLU multiplies them by the slopes of the values,
        instance normalisation has its derivative.

        Args:
            flux: synthetic spectra ``(row, pixel)``.
            tangents: ``(row, k, pixel)``: their derivatives by k parameters.
            split: `split_features` of the observed spectrum that each row is compared with.
            tangent_dtype: compute derivatives in this type, such as ``torch.bfloat16`` where the processor has it
                (relative error below 1 %); values stay as they are.

        Returns:
            spectra ``(row, pixel)`` and derivatives ``(row, k, pixel)``.
        """
        pieces = [
            self.features_to_observed(*self.shared_features(value, change, tangent_dtype=tangent_dtype), part)
            for value, change, part in zip(*(x.split(STARS_AT_ONCE) for x in (flux, tangents, split)), strict=True)
        ]
        return torch.cat([value for value, _ in pieces]), torch.cat([change for _, change in pieces])

    @torch.no_grad()
    def shared_features(
        self, flux: Tensor, tangents: Tensor, *, tangent_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the first half of `observed_and_tangents`, which knows nothing of the observed spectrum.

        Three quarters of the work, and for spectra of an emulator a function of the labels alone.

        Returns:
            the shared decoder's output ``(row, position, filter)`` and its derivatives ``(row, k, position, filter)``.
        """
        value = self.inputs(flux)
        change = self._padded(tangents / self.deviation)[..., None].to(tangent_dtype or value.dtype)
        *encoder, point = _layers(self.shared_encoder)
        for layer in (*_layers(self.synthetic_encoder), *encoder):
            value, change = layer.with_tangents(value, change)
        value, change = _instance_norm_with_tangents(point(value), point.linear(change))
        for layer in _layers(self.shared_decoder):
            value, change = layer.with_tangents(value, change)
        return value, change

    @torch.no_grad()
    def features_to_observed(self, features: Tensor, changes: Tensor, split: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second half of `observed_and_tangents`: spectra and derivatives of what `shared_features` gave."""
        *decoder, point = _layers(self.observed_decoder)
        value, change = torch.cat([features, split.to(features.dtype)], dim=2), changes
        for layer in decoder:
            value, change = layer.with_tangents(value, change)
        return self._outputs(point(value)), self._cropped(point.linear(change))

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Encoders and decoders: what the generator step moves."""
        return self.parameters()

    # ---- on disk

    def save(
        self,
        path: str | Path,
        *,
        training_data: str,
        seed: int,
        iterations: int,
        scores: Mapping[str, float],
    ) -> None:
        """Write the safetensors file and its card.

        Raises:
            UsageError: the network's pixels are not those of ``STARGAP``.
        """
        if self.settings.pixels != STARGAP.wavelength.size:
            message = (
                f"a network of {self.settings.pixels} pixels cannot be saved: {STARGAP.wavelength.size} are needed"
            )
            raise UsageError(message)
        card = NetworkCard(
            kind=KIND,
            version=VERSION,
            stargap=__version__,
            pixel_grid=STARGAP.digest,
            wavelength=_wavelength_range(),
            settings=self.settings,
            training_data=training_data,
            seed=seed,
            iterations=iterations,
            scores=dict(scores),
        )
        save_model(path, card, self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> CycleStarNet:
        """Read a network written by `save`.

        Raises:
            ModelError: damaged or foreign files, another pixel grid, tensors that are not those of the card's
                architecture, values that are not finite.
        """
        card, tensors = load_model(path, NetworkCard, KIND, VERSION)
        found = (card.pixel_grid, card.wavelength, card.settings.pixels)
        wanted = (STARGAP.digest, _wavelength_range(), STARGAP.wavelength.size)
        if found != wanted:
            message = f"{path}: the model's pixel grid is {found}, this version needs {wanted}"
            raise ModelError(message)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in cls(card.settings).state_dict().items()}
        present = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if expected != present:
            odd = sorted(expected.keys() ^ present.keys()) or sorted(n for n in expected if expected[n] != present[n])
            first = odd[0]
            message = (
                f"{path}: tensors do not match the architecture in the card: {len(odd)} differ, first {first} "
                f"({present.get(first, 'absent')} in the file, {expected.get(first, 'absent')} by the card)"
            )
            raise ModelError(message)
        others = sorted(f"{name} {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != torch.float32)
        if others:
            message = f"{path}: tensors must be torch.float32, found {others[:4]}"
            raise ModelError(message)
        bad = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
        if bad or tensors["deviation"] <= 0:
            message = (
                f"{path}: the model holds values that are not finite ({bad[:4]}) or a deviation that is not positive"
            )
            raise ModelError(message)
        network = cls(card.settings)
        network.load_state_dict(tensors)
        network.card = card
        return network.eval().requires_grad_(False)


def _wavelength_range() -> tuple[float, float, int]:
    wavelength = STARGAP.wavelength
    return float(wavelength[0]), float(wavelength[-1]), wavelength.size


class _Critic(nn.Module):
    def __init__(self, settings: NetworkSettings, latent: int) -> None:
        super().__init__()
        s, filters, length = settings, settings.critic_filters, settings.length
        self.spectrum = _chain(_Down, (1, *filters), (s.critic_stride,) * len(filters), s)
        self.latent = nn.Sequential(*(_Point(a, b, s.slope) for a, b in pairwise((latent, *s.critic_latent_filters))))
        for _ in filters:
            length = _count(length, s.kernel, s.critic_stride)
        self.last = _Point(length * filters[-1] + s.positions * s.critic_latent_filters[-1], 1)

    def forward(self, spectrum: Tensor, latent: Tensor) -> Tensor:
        seen = torch.cat([self.spectrum(spectrum).flatten(1), self.latent(latent).flatten(1)], dim=1)
        return self.last(seen)[:, 0].to(self.last.weight.dtype)


class Critics(nn.Module):
    """The critics of both domains: logits ``(row,)`` that a pair of spectrum and latent is a reconstruction.

    The published critics end in a sigmoid, which is in the loss here.

    Args:
        settings: of the network that is judged.
        seed: of the initial weights.

    Example:
        >>> network, critics = CycleStarNet(), Critics()
        >>> spectrum = torch.rand(2, 2901)
        >>> critics.synthetic(network.inputs(spectrum), network.encode_synthetic(spectrum)).shape
        torch.Size([2])
    """

    def __init__(self, settings: NetworkSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        settings = settings or NetworkSettings()
        self.synthetic = _Critic(settings, settings.shared_latent)
        self.observed = _Critic(settings, settings.shared_latent + settings.split_latent)
        _initialise(self, seed, settings.bias)

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """What the critic step moves."""
        return self.parameters()
