"""Trained transfers by path or by name: those inside the package, and whichever kind a file holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from stargap.errors import ModelError
from stargap.modelfile import kind_of
from stargap.settings import MeasureSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.transfer.anchored.model import AnchoredTransfer, lamost_transfer
from stargap.transfer.residual.model import ResidualTransfer, shipped_transfer

__all__ = [
    "EMULATOR",
    "LAMOST",
    "SIMULATED",
    "AnyTransfer",
    "load_model_named",
    "load_transfer",
    "placed",
    "settings_for",
]

Placed = TypeVar("Placed")
AnyTransfer = ResidualTransfer | AnchoredTransfer | StarnetTransfer
LAMOST, SIMULATED, EMULATOR = "transfer-lamost", "transfer-simulated", "emulator"
SHIPPED: dict[str, Callable[[], Emulator | AnyTransfer]] = {
    LAMOST: lamost_transfer,
    SIMULATED: shipped_transfer,
    EMULATOR: shipped_emulator,
}


def load_transfer(path: str | Path) -> AnyTransfer:
    """Read a trained transfer of any kind.

    Raises:
        ModelError: damaged or foreign files.
    """
    kinds: dict[str, type[AnyTransfer]] = {kind.kind: kind for kind in get_args(AnyTransfer)}
    return kinds.get(kind_of(path) or "", ResidualTransfer).load(path)


def load_model_named(name: str | Path) -> Emulator | AnyTransfer:
    """Return a model inside the package by its name, or read one: a transfer's file or an emulator's folder.

    Args:
        name: ``transfer-lamost``, ``transfer-simulated`` or ``emulator``, a ``*.safetensors`` file of a transfer, or a
            folder with ``emulator.safetensors``.

    Raises:
        ModelError: a model that cannot be used, or a name that a folder has as well.

    Example:
        >>> load_model_named("emulator").card.kind
        'payne'
        >>> load_model_named("transfer-lamos")
        Traceback (most recent call last):
        ...
        stargap.errors.ModelError: transfer-lamos/emulator.json: cannot be read (No such file or directory); ...
    """
    path = Path(name)
    shipped = SHIPPED.get(str(name))
    if shipped is not None:
        if path.is_dir():
            message = f"{name} is a model inside the package and a folder here: give the folder's whole path"
            raise ModelError(message)
        return shipped()
    return load_transfer(path) if path.suffix == ".safetensors" else Emulator.load(path / "emulator.safetensors")


def placed(model: Placed, device: torch.device) -> Placed:
    """Return a model on a device: itself on the processor, elsewhere a copy, made once.

    Example:
        >>> placed(shipped_emulator(), torch.device("cpu")) is shipped_emulator()
        True
    """
    return model if device.type == "cpu" else _copied(model, device)


@lru_cache(maxsize=4)
def _copied(model: Any, device: torch.device) -> Any:
    inner = getattr(model, "emulator", None)
    known = {} if inner is None else {id(inner): placed(inner, device)}  # one copy of an emulator serves all
    return copy.deepcopy(model, known).to(device)


def settings_for(transfer: AnyTransfer | None, settings: MeasureSettings) -> MeasureSettings:
    """Return `settings` with [a/M] fixed at the value that all training stars of `transfer` had, if they had one.

    [a/M] that the settings fix or leave free stays as they say, and so does everything without a transfer.

    Example:
        >>> settings_for(shipped_transfer(), MeasureSettings()).fixed
        {'a_m': 0.0}
        >>> settings_for(None, MeasureSettings()).fixed
        {}
    """
    alpha = None if transfer is None else transfer.alpha
    if alpha is None or settings.free_alpha or "a_m" in settings.fixed:
        return settings
    return settings.model_copy(update={"fixed": {**settings.fixed, "a_m": alpha}})
