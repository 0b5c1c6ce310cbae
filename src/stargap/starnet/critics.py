"""Critics of Cycle-StarNet's two domains, as published or with weights of bounded norm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stargap.starnet.layers import Down, Point, Weighted, chain, initialise
from stargap.starnet.settings import NetworkSettings

__all__ = ["Critics"]


class _Critic(nn.Module):
    def __init__(self, settings: NetworkSettings, latent: int) -> None:
        super().__init__()
        s, filters = settings, settings.critic_filters
        self.step, self.positions = s.critic_stride ** len(filters), s.critic_positions
        self.spectrum = nn.Sequential(*chain(Down, (1, *filters), (s.critic_stride,) * len(filters), s, s.length))
        self.latent = nn.Sequential(*(Point(a, b, s.slope) for a, b in pairwise((latent, *s.critic_latent_filters))))
        seen = s.critic_positions * filters[-1] + s.positions * s.critic_latent_filters[-1]
        self.last = Point(seen, 1)

    def forward(self, spectrum: Tensor, latent: Tensor) -> Tensor:
        padded = nn.functional.pad(spectrum, (0, 0, 0, -spectrum.shape[1] % self.step))
        features = self.spectrum(padded)[:, : self.positions]
        seen = torch.cat([features.flatten(1), self.latent(latent).flatten(1)], dim=1)
        logit: Tensor = self.last(seen)[:, 0]
        return logit.to(self.last.weight.dtype)


class Critics(nn.Module):
    """The critics of both domains: logits ``(row,)`` that a pair of spectrum and latent is a reconstruction.

    The published critics end in a sigmoid, which is in the loss here.

    Args:
        settings: of the network that is judged.
        seed: of the initial weights.
        spectral: divide weights by their largest singular values (Miyato et al. 2018), so that logits change no faster
            than what is judged.

    Example:
        >>> from stargap.starnet.network import CycleStarNet
        >>> network, critics = CycleStarNet(), Critics()
        >>> spectrum = torch.rand(2, 2901)
        >>> critics.synthetic(network.inputs(spectrum), network.encode_synthetic(spectrum)).shape
        torch.Size([2])
    """

    def __init__(self, settings: NetworkSettings | None = None, *, seed: int = 0, spectral: bool = False) -> None:
        super().__init__()
        settings = settings or NetworkSettings()
        self.synthetic = _Critic(settings, settings.shared_latent)
        self.observed = _Critic(settings, settings.shared_latent + settings.split_latent)
        initialise(self, seed, settings.bias)
        for layer in [layer for layer in self.modules() if spectral and isinstance(layer, Weighted)]:
            spectral_norm(layer, dim=0 if isinstance(layer, Point) else layer.weight.ndim - 1)

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """What the critic step moves."""
        return self.parameters()
