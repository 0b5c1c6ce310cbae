"""How the published network is trained (paper section 3.2), and how ours after it is built and trained."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from stargap.settings import Settings
from stargap.starnet.settings import NetworkSettings

__all__ = ["Adversarial", "StarnetSettings", "TrainingSettings"]

Adversarial = Literal["cross-entropy", "hinge", "least-squares"]
"""The published adversarial loss, that of Lim & Ye (2017), or that of Mao et al. (2017)."""


class TrainingSettings(Settings):
    """How a transfer is trained; the defaults are those of O'Briain et al. (2021) and of the paper, section 3.2.

    A run resumes only with the settings it began with, apart from iterations, device, checkpoint_every and log_every.

    Example:
        >>> settings = TrainingSettings()
        >>> [round(settings.rate(step), 9) for step in (0, 49_999, 50_000, 499_999)]
        [0.0001, 0.0001, 7e-05, 2.401e-05]
    """

    iterations: PositiveInt = 500_000
    """Steps; each is one of the generators and one of the critics."""
    batch: PositiveInt = 8
    """Spectra of each domain in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Adam's, at the start."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    """Adam's decay of the mean and of the mean square of gradients."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor of the learning rate at each milestone."""
    milestones: tuple[PositiveInt, ...] = (50_000, 100_000, 150_000, 200_000)
    """Steps after which the learning rate drops, ascending."""
    warm_up: NonNegativeInt = 0
    """Steps over which the learning rate rises from zero, in proportion."""
    cosine: bool = False
    """Let the learning rate fall to zero at the last step as half a cosine, instead of at milestones; such a training
    can't be prolonged."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of the generators, and of that of the critics."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of the running mean of weights that is validated and kept; None validates the weights themselves."""
    bf16: bool = False
    """Compute losses in bfloat16, on a GPU and on processors that gain by it; weights stay float32."""
    validate_every: PositiveInt = 2_000
    """Steps between validations; there is one more after the last step."""
    checkpoint_every: PositiveInt = 2_000
    """Steps between checkpoints; there is one more at the end and on SIGTERM or SIGINT."""
    log_every: PositiveInt = 100
    """Steps between lines of metrics."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the noise in losses; the data and the first weights have other seeds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        if list(self.milestones) != sorted(set(self.milestones)):
            message = f"milestones {self.milestones} do not ascend"
            raise ValueError(message)
        return self

    def rate(self, step: int) -> float:
        """Return the learning rate once `step` steps are done."""
        risen = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        if self.cosine:
            return self.learning_rate * risen * 0.5 * (1 + math.cos(math.pi * step / self.iterations))
        return self.learning_rate * risen * self.decay ** bisect_right(self.milestones, step)


class StarnetSettings(TrainingSettings):
    """How the network of ``architecture = "starnet"`` is built and trained (docs/results/starnet.md says why).

    Example:
        >>> StarnetSettings().network.residual, StarnetSettings().batch
        (True, 32)
    """

    network: NetworkSettings = NetworkSettings(residual=True, split_latent=1, split_noise=1.0)
    """Its sizes, and how it departs from the published one."""
    adversarial: Adversarial = "cross-entropy"
    """Loss of critics and generators: cross-entropy as published, hinge or least-squares."""
    spectral: bool = True
    """Divide the critics' weights by their largest singular values (Miyato et al. 2018)."""
    noisy: bool = True
    """Give synthetic spectra the noise of the observed ones they are paired with; distances are to the noiseless
    ones."""
    iterations: PositiveInt = 10_000
    """Steps; each is one of the generators and one of the critics."""
    batch: PositiveInt = 32
    """Spectra of each domain in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    """Adam's, at its highest."""
    warm_up: NonNegativeInt = 50
    """Steps over which the learning rate rises from zero, in proportion."""
    cosine: bool = True
    """Let the learning rate fall to zero at the last step as half a cosine, instead of at milestones; such a training
    can't be prolonged."""
    validate_every: PositiveInt = 500
    """Steps between validations; there is one more after the last step."""
