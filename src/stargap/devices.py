"""Where tensors are and what computes with them: the processor, or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, wraps
from typing import Any, Literal, TypeVar

import torch

from stargap.errors import UsageError

__all__ = ["device_named", "made_on", "per_device", "to_device"]

Made = TypeVar("Made")
Held = TypeVar("Held")


def device_named(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU where torch finds one.

    Raises:
        UsageError: ``cuda`` where torch finds no GPU.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    if name == "cpu":
        return torch.device("cpu")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        message = "device is cuda, and torch finds no GPU here; set device to cpu, or install torch's build for CUDA"
        raise UsageError(message)
    return torch.device("cuda", torch.cuda.current_device()) if found else torch.device("cpu")


def made_on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which new tensors are made on a device unless they say otherwise.

    Example:
        >>> with made_on(torch.device("cpu")):
        ...     torch.zeros(1).device
        device(type='cpu')
    """
    return nullcontext() if device.type == "cpu" else device


def to_device(value: Held, device: torch.device) -> Held:
    """Return a tensor, or a dataclass or tuple of what holds tensors, with all of them on a device.

    What is there already is returned as it is.

    Example:
        >>> here = torch.ones(2)
        >>> to_device(here, torch.device("cpu")) is here
        True
    """
    moved: Any = value
    if isinstance(value, torch.Tensor):
        moved = value.to(device)
    elif isinstance(value, tuple):
        each = tuple(to_device(part, device) for part in value)
        moved = value if all(new is part for new, part in zip(each, value, strict=True)) else each
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        new = {name: to_device(part, device) for name, part in parts.items()}
        if any(new[name] is not part for name, part in parts.items()):
            moved = replace(value, **new)
    return moved  # type: ignore[no-any-return]


def per_device(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keep what a function makes of hashable arguments, once for each device that new tensors are made on.

    Example:
        >>> table = per_device(lambda size: torch.zeros(size))
        >>> table(3) is table(3)
        True
    """

    @lru_cache(maxsize=256)
    def made(device: torch.device, *args: Hashable) -> Made:
        return make(*args)

    @wraps(make)
    def kept(*args: Hashable) -> Made:
        return made(torch.get_default_device(), *args)

    return kept
