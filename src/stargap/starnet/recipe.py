"""What a training begins with: the published network, or ours after it."""

from __future__ import annotations

import torch

from stargap.processor import fast_bfloat16
from stargap.starnet.critics import Critics
from stargap.starnet.losses import CycleTask
from stargap.starnet.network import CycleStarNet
from stargap.starnet.training_settings import StarnetSettings, TrainingSettings

__all__ = ["new_task"]


def new_task(settings: TrainingSettings) -> CycleTask:
    """Return network, critics and losses of a training that begins: the published ones, or those of the settings.

    Example:
        >>> new_task(TrainingSettings()).network.settings.residual
        False
        >>> new_task(StarnetSettings()).noisy
        True
    """
    if isinstance(settings, StarnetSettings):
        network = CycleStarNet(settings.network, seed=settings.seed)
        critics = Critics(settings.network, spectral=settings.spectral)
        task = CycleTask(network, critics, adversarial=settings.adversarial, noisy=settings.noisy)
    else:
        network = CycleStarNet(seed=settings.seed)
        task = CycleTask(network)
    gains = fast_bfloat16() or (settings.device != "cpu" and torch.cuda.is_available())
    network.precision = torch.bfloat16 if settings.bf16 and gains else None  # its own layers do not take autocast
    return task
