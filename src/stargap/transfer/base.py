"""What the files of trained transfers have in common: the emulator inside, and checks before a tensor is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stargap.errors import ModelError
from stargap.labels import A_M
from stargap.modelfile import Card
from stargap.pixels import STARGAP
from stargap.theory.emulator import Emulator, EmulatorCard

__all__ = ["TransferCard", "emulator_inside", "fill"]

INNER = "emulator."


class TransferCard(Card):
    """What the cards of all transfers hold."""

    emulator: EmulatorCard
    pixel_grid: str
    training_data: str
    settings: dict[str, Any]
    scores: dict[str, float]
    simulated: bool
    """Trained on simulated stars: never used on real ones unless asked for."""
    alpha: float | None
    """[a/M] of all training stars, where it was held."""
    seed: int


def emulator_inside(path: str | Path, card: TransferCard, tensors: dict[str, Tensor]) -> Emulator:
    """Return the emulator that a transfer brings.

    Raises:
        ModelError: another pixel grid, a damaged emulator, or [a/M] held where the emulator knows nothing.
    """
    if card.pixel_grid != STARGAP.digest:
        message = f"{path}: pixel_grid of the model is {card.pixel_grid!r}, this version has {STARGAP.digest!r}"
        raise ModelError(message)
    inner = {name.removeprefix(INNER): value for name, value in tensors.items() if name.startswith(INNER)}
    emulator = Emulator.assemble(path, card.emulator, inner)
    low, high = card.emulator.lower[A_M], card.emulator.upper[A_M]
    if card.alpha is not None and not low <= card.alpha <= high:
        message = f"{path}: [a/M] in the card is {card.alpha}, the emulator knows {low:g} to {high:g}"
        raise ModelError(message)
    return emulator


def fill(path: str | Path, module: nn.Module, tensors: dict[str, Tensor], *, infinite: tuple[str, ...] = ()) -> None:
    """Load tensors that are those of `module` in name, shape and type, all finite but those named `infinite`.

    Raises:
        ModelError: they are not.
    """
    expected, present = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
        for state in (module.state_dict(), tensors)
    )
    if expected != present:
        odd = sorted(str(item) for item in {*expected.items()} ^ {*present.items()})
        message = f"{path}: tensors do not match the architecture: {odd[:4]}"
        raise ModelError(message)
    if not all(torch.isfinite(tensor).all() for name, tensor in tensors.items() if name not in infinite):
        message = f"{path}: the model holds values that are not finite"
        raise ModelError(message)
    module.load_state_dict(tensors)
