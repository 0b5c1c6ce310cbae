"""Cycle-StarNet: autoencoders of two domains around a shared latent space (O'Briain et al. 2021; paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stargap.errors import UsageError
from stargap.starnet.layers import (
    Down,
    Point,
    Up,
    cast_once,
    chain,
    initialise,
    instance_norm,
    instance_norm_with_tangents,
    interpolate,
    layers_of,
)
from stargap.starnet.settings import NetworkSettings

__all__ = ["CycleStarNet", "Cycles"]

STARS_AT_ONCE = 8
"""Rows of one forward-mode pass: their arrays stay in the processor's cache."""


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
    """Two autoencoders, of synthetic and of observed spectra, around shared middle layers (paper section 3.1).

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
        self.precision: torch.dtype | None = None
        self.register_buffer("mean", torch.ones(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("typical", torch.ones(s.pixels))

        outer, shared, split = s.outer_filters, s.shared_filters, s.split_filters
        down, up = s.shared_strides, s.shared_strides[::-1]

        def encoder(filters: tuple[int, ...], latent: int) -> nn.Sequential:
            return nn.Sequential(*chain(Down, (outer[-1], *filters), down, s, middle), Point(filters[-1], latent))

        def decoder(channels: int) -> nn.Sequential:
            layers = chain(Up, (channels, *outer[::-1]), s.outer_strides[::-1], s, middle)
            return nn.Sequential(*layers, Point(outer[0], 1))

        self.synthetic_encoder = nn.Sequential(*chain(Down, (1, *outer), s.outer_strides, s, s.length))
        self.observed_encoder = nn.Sequential(*chain(Down, (1, *outer), s.outer_strides, s, s.length))
        middle = layers_of(self.observed_encoder)[-1].positions
        self.shared_encoder = encoder(shared, s.shared_latent)
        self.split_encoder = encoder(split, s.split_latent)
        self.shared_decoder = nn.Sequential(*chain(Up, (s.shared_latent, *shared[::-1]), up, s, s.positions))
        self.split_decoder = nn.Sequential(*chain(Up, (s.split_latent, *split[::-1]), up, s, s.positions))
        self.synthetic_decoder = decoder(shared[0])
        self.observed_decoder = decoder(shared[0] + split[0])
        initialise(self, seed, s.bias)
        if s.residual:
            self._start_at_identity()

    @torch.no_grad()
    def _start_at_identity(self) -> None:
        pairs = zip(layers_of(self.observed_decoder), layers_of(self.synthetic_decoder), strict=True)
        for ours, plain in pairs:
            ours.weight[: len(plain.weight)] = plain.weight
            ours.weight[len(plain.weight) :] = 0.0

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

        The difference from the typical training spectrum is interpolated (`interpolate`); it fades to zero where no
        good pixel is near.

        Args:
            flux: ``(row, pixel)``.
            good: ``(row, pixel)`` bool.
        """
        excess = interpolate((flux - self.typical)[:, None], good)[:, 0]
        return torch.where(good, flux, self.typical + excess)

    def inputs(self, flux: Tensor) -> Tensor:
        """Return standardised, padded spectra ``(row, slot, 1)``, as encoders and critics take them."""
        if flux.ndim != 2 or flux.shape[1] != self.settings.pixels:
            message = f"spectra have shape {tuple(flux.shape)}, the network takes (row, {self.settings.pixels})"
            raise UsageError(message)
        return self._padded((flux - self.mean) / self.deviation)[..., None]

    def _padded(self, x: Tensor) -> Tensor:
        s = self.settings
        left, slots = (s.length - s.pixels) // 2, s.slots * math.prod(s.outer_strides + s.shared_strides)
        return nn.functional.pad(x, (left, slots - left - s.pixels)).to(self.precision or self.mean.dtype)

    def _cropped(self, x: Tensor) -> Tensor:
        first = (self.settings.length - self.settings.pixels) // 2
        return x[..., first : first + self.settings.pixels, 0].to(self.mean.dtype) * self.deviation

    def _outputs(self, x: Tensor) -> Tensor:
        return self._cropped(x) + self.mean

    # ---- the pieces

    def _shared(self, features: Tensor) -> Tensor:
        return instance_norm(self.shared_encoder(features)[:, : self.settings.positions])

    def _split(self, features: Tensor) -> Tensor:
        return instance_norm(self.split_encoder(features)[:, : self.settings.positions])

    def _slots(self, z: Tensor) -> Tensor:
        s = self.settings
        return nn.functional.pad(z, (0, 0, 0, s.slots - s.positions))

    def encode_synthetic(self, flux: Tensor) -> Tensor:
        """Return z_sh of synthetic spectra."""
        return self._shared(self.synthetic_encoder(self.inputs(flux)))

    def encode_observed(self, flux: Tensor, good: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z_sh and z_sp of observed spectra; pixels that are not `good` are in-painted first."""
        features = self.observed_encoder(self.inputs(flux if good is None else self.fill(flux, good)))
        return self._shared(features), self._split(features)

    def decode_synthetic(self, z_sh: Tensor) -> Tensor:
        """Return synthetic spectra of shared latents."""
        return self._outputs(self.synthetic_decoder(self.decode_shared(z_sh)))

    def decode_observed(self, z_sh: Tensor, z_sp: Tensor) -> Tensor:
        """Return observed spectra of shared and split latents."""
        return self.features_decoded(self.decode_shared(z_sh), self.decode_split(z_sp))

    def decode_shared(self, z_sh: Tensor) -> Tensor:
        """Return what the shared decoder gives, ``(row, slot, filter)`` (see `starnet.layers.Layer`)."""
        features: Tensor = self.shared_decoder(self._slots(z_sh))
        return features

    def decode_split(self, z_sp: Tensor) -> Tensor:
        """Return what the split decoder gives, ``(row, slot, filter)``."""
        features: Tensor = self.split_decoder(self._slots(z_sp))
        return features

    def features_decoded(self, shared: Tensor, split: Tensor) -> Tensor:
        """Return observed spectra of what the shared and the split decoder give."""
        return self._outputs(self.observed_decoder(torch.cat([shared, split], dim=2)))

    def synthetic_to_observed(self, flux: Tensor, z_sp: Tensor) -> Tensor:
        """Return X_s->o: synthetic spectra as they would be observed, with the z_sp of observed ones."""
        z_sh = self.encode_synthetic(flux)
        made = self.decode_observed(z_sh, z_sp)
        return made + (flux - self.decode_synthetic(z_sh)) if self.settings.residual else made

    def observed_to_synthetic(self, flux: Tensor, good: Tensor | None = None) -> Tensor:
        """Return X_o->s: observed spectra in the synthetic domain, from z_sh alone."""
        return self.decode_synthetic(self.encode_observed(flux, good)[0])

    def split_features(self, flux: Tensor, good: Tensor | None = None) -> Tensor:
        """Return what `observed_and_tangents` needs of observed spectra, ``(row, slot, filter)``: once a fit."""
        return self.decode_split(self.encode_observed(flux, good)[1])

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
        with cast_once(self, self.precision):
            return self._cycles(synthetic, observed)

    def _cycles(self, synthetic: Tensor, observed: Tensor) -> Cycles:
        rows = len(synthetic)
        features = self.observed_encoder(self.inputs(observed))
        z_shared = self._shared(torch.cat([self.synthetic_encoder(self.inputs(synthetic)), features]))
        z_split = self._split(features)
        if self.training and self.settings.split_noise:
            z_split = z_split + self.settings.split_noise * torch.randn_like(z_split)
        split = self.decode_split(z_split)
        shared = self.decode_shared(z_shared)
        plain = self._outputs(self.synthetic_decoder(shared))
        real = self.features_decoded(shared, torch.cat([split, split]))
        to_observed, to_synthetic, residual = real[:rows], plain[rows:], self.settings.residual
        if residual:
            to_observed = to_observed + (synthetic - plain[:rows])

        there = torch.cat(
            [self.observed_encoder(self.inputs(to_observed)), self.synthetic_encoder(self.inputs(to_synthetic))]
        )
        back = self.decode_shared(self._shared(there))
        plain_back = self._outputs(self.synthetic_decoder(back if residual else back[:rows]))
        observed_cycle = self.features_decoded(back[rows:], split)
        if residual:
            observed_cycle = observed_cycle + (to_synthetic - plain_back[rows:])
        return Cycles(
            synthetic=plain[:rows],
            observed=real[rows:],
            to_observed=to_observed,
            to_synthetic=to_synthetic,
            synthetic_cycle=plain_back[:rows],
            observed_cycle=observed_cycle,
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
                (relative error below 1 %); values are unchanged.

        Returns:
            spectra ``(row, pixel)`` and derivatives ``(row, k, pixel)``.
        """
        pieces = []
        for value, change, part in zip(*(torch.split(x, STARS_AT_ONCE) for x in (flux, tangents, split)), strict=True):
            shared = self.shared_features(value, change, tangent_dtype=tangent_dtype)
            made = self.features_to_observed(*shared, part)
            if self.settings.residual:
                plain = self.features_to_synthetic(*shared)
                made = made[0] + (value - plain[0]), made[1] + (change - plain[1])
            pieces.append(made)
        return torch.cat([value for value, _ in pieces]), torch.cat([change for _, change in pieces])

    @torch.no_grad()
    def shared_features(
        self, flux: Tensor, tangents: Tensor, *, tangent_dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the first half of `observed_and_tangents`, which knows nothing of the observed spectrum.

        Three quarters of the work, and for spectra of an emulator a function of the labels alone.

        Returns:
            the shared decoder's output ``(row, slot, filter)`` and its derivatives ``(row, k, slot, filter)``.
        """
        value = self.inputs(flux)
        change = self._padded(tangents / self.deviation)[..., None].to(tangent_dtype or value.dtype)
        *encoder, point = layers_of(self.shared_encoder)
        for layer in (*layers_of(self.synthetic_encoder), *encoder):
            value, change = layer.with_tangents(value, change)
        positions = self.settings.positions
        value, change = point(value)[:, :positions], point.linear(change)[:, :, :positions]
        value, change = (self._slots(part) for part in instance_norm_with_tangents(value, change))
        for layer in layers_of(self.shared_decoder):
            value, change = layer.with_tangents(value, change)
        return value, change

    @torch.no_grad()
    def features_to_observed(self, features: Tensor, changes: Tensor, split: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second half of `observed_and_tangents`: spectra and derivatives of what `shared_features` gave."""
        return self._decoded(self.observed_decoder, torch.cat([features, split.to(features.dtype)], dim=2), changes)

    @torch.no_grad()
    def features_to_synthetic(self, features: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spectra X_s->s and their derivatives of what `shared_features` gave."""
        return self._decoded(self.synthetic_decoder, features, changes)

    def _decoded(self, decoder: nn.Sequential, value: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        *layers, point = layers_of(decoder)
        for layer in layers:
            value, change = layer.with_tangents(value, change)
        return self._outputs(point(value)), self._cropped(point.linear(change))

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Encoders and decoders: what the generator step moves."""
        return self.parameters()
