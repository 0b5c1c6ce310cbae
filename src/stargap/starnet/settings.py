"""Sizes of Cycle-StarNet and of its critics (paper section 3.1; METHOD section 5)."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from stargap.pixels import STARGAP
from stargap.settings import Settings

__all__ = ["NetworkSettings", "positions_left"]

LEAST_POSITIONS = 4
"""Least number of positions of the latents: instance normalisation needs several values."""

Count = Annotated[int, Field(ge=1, le=4096)]
Stride = Annotated[int, Field(ge=1, le=16)]
Filters = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
Strides = Annotated[tuple[Stride, ...], Field(min_length=1, max_length=8)]


class NetworkSettings(Settings):
    """Sizes of the network and its critics; the defaults are the published configuration (METHOD section 5).

    Example:
        >>> settings = NetworkSettings()
        >>> settings.length, settings.positions
        (3071, 8)
        >>> NetworkSettings(pixels=1279).length
        2047
    """

    pixels: Annotated[int, Field(ge=1, le=100_000)] = STARGAP.wavelength.size
    """Pixels of a spectrum; any number, see `length`."""
    kernel: Annotated[int, Field(ge=1, le=31)] = 7
    """Width of every convolution but the 1x1 ones."""
    slope: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Slope of LeakyReLU for negative values."""
    bias: float = 0.01
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
    split_noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of noise added to z_sp in training, whose own is 1: less of a star then fits into it."""
    residual: bool = False
    """X_s->o is the synthetic spectrum plus what the observed decoder gives more than the synthetic one; both start
    alike, so that training begins at the identity."""
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

    @property
    def slots(self) -> int:
        """Slots of the latents: so many that every layer's are divisible by its stride (`starnet.layers.Layer`)."""
        return -(-self.length // math.prod(self.outer_strides + self.shared_strides))

    @property
    def critic_positions(self) -> int:
        """Positions that the critics' branch of the spectrum ends with."""
        length = self.length
        for _ in self.critic_filters:
            length = positions_left(length, self.kernel, self.critic_stride)
        return length

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
        if self.critic_positions < 1:
            message = f"{len(self.critic_filters)} critic layers are too many for {self.length} pixels"
            raise ValueError(message)
        return self


def positions_left(length: int, kernel: int, stride: int) -> int:
    """Return how many positions a strided convolution makes of `length` ones.

    Example:
        >>> positions_left(3071, 7, 4)
        767
    """
    return (length - kernel) // stride + 1
