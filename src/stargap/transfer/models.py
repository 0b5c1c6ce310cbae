"""Trained transfers by path or by name: those inside the package, and whichever kind a file holds."""

from __future__ import annotations

import json
from pathlib import Path

from stargap.theory.payne import Emulator, shipped_emulator
from stargap.transfer import anchored
from stargap.transfer.anchored import AnchoredTransfer, lamost_transfer
from stargap.transfer.residual import ResidualTransfer, shipped_transfer

__all__ = ["EMULATOR", "LAMOST", "SIMULATED", "AnyTransfer", "load_model_named", "load_transfer"]

AnyTransfer = ResidualTransfer | AnchoredTransfer
LAMOST, SIMULATED, EMULATOR = "transfer-lamost", "transfer-simulated", "emulator"


def load_transfer(path: str | Path) -> AnyTransfer:
    """Read a trained transfer of either kind.

    Raises:
        ModelError: damaged or foreign files.
    """
    path = Path(path)
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError):
        card = {}  # the reader below says what is wrong
    kind = card.get("kind") if isinstance(card, dict) else None
    return AnchoredTransfer.load(path) if kind == anchored.KIND else ResidualTransfer.load(path)


def load_model_named(name: str | Path) -> Emulator | AnyTransfer:
    """Return a model inside the package by its name, or read one: a transfer's file or an emulator's folder.

    Args:
        name: ``transfer-lamost``, ``transfer-simulated`` or ``emulator``, a ``*.safetensors`` file of a transfer, or a
            folder with ``emulator.safetensors``.

    Raises:
        ModelError: a model that cannot be used.

    Example:
        >>> load_model_named("emulator").card.kind
        'payne'
        >>> load_model_named("transfer-lamos")
        Traceback (most recent call last):
        ...
        stargap.errors.ModelError: transfer-lamos/emulator.json: cannot be read (No such file or directory); ...
    """
    if str(name) == LAMOST:
        return lamost_transfer()
    if str(name) == SIMULATED:
        return shipped_transfer()
    if str(name) == EMULATOR:
        return shipped_emulator()
    path = Path(name)
    return load_transfer(path) if path.suffix == ".safetensors" else Emulator.load(path / "emulator.safetensors")
