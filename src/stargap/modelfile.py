"""Models on disk: a safetensors file and a JSON card beside it; every mismatch is refused, no pickle is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stargap.errors import ModelError
from stargap.files import replacing

__all__ = ["Card", "check_tensors", "load_model", "save_model"]

LARGEST_CARD = 1_000_000


class Card(BaseModel):
    """What a model file says of itself; each kind of model adds its own fields.

    ``kind`` and ``version`` name the architecture, ``sha256`` is the digest of the safetensors file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
    version: int
    stargap: str
    sha256: str = ""


AnyCard = TypeVar("AnyCard", bound=Card)


def save_model(path: str | Path, card: Card, tensors: Mapping[str, Tensor]) -> None:
    """Write ``path`` (``*.safetensors``) and its card (``*.json``).

    Args:
        path: where the tensors go.
        card: its ``sha256`` is filled in here.
        tensors: name to tensor.
    """
    path = Path(path)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    complete = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as tensor_file, replacing(path.with_suffix(".json")) as card_file:
        tensor_file.write(content)
        card_file.write((complete.model_dump_json(indent=2) + "\n").encode())


def load_model(
    path: str | Path, card_type: type[AnyCard], kind: str, version: int
) -> tuple[AnyCard, dict[str, Tensor]]:
    """Read a model written by `save_model`, checking card and digest before any tensor is trusted.

    Args:
        path: the ``*.safetensors`` file; its card is beside it.
        card_type: the card that this kind of model has.
        kind: the kind wanted.
        version: the architecture version wanted.

    Raises:
        ModelError: a missing, truncated, altered or foreign file, a damaged card, another kind or version.
    """
    path = Path(path)
    card_path = path.with_suffix(".json")
    try:
        if card_path.stat().st_size > LARGEST_CARD:
            msg = f"{card_path}: the card is larger than {LARGEST_CARD} bytes"
            raise ModelError(msg)
        raw: Any = json.loads(card_path.read_bytes())
        content = path.read_bytes()
    except OSError as error:
        msg = (
            f"{error.filename}: cannot be read ({error.strerror}); a model is two files, "
            f"{path.name} and {card_path.name}"
        )
        raise ModelError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{card_path}: the card is not JSON ({error})"
        raise ModelError(msg) from None
    found = (raw.get("kind"), raw.get("version")) if isinstance(raw, dict) else (None, None)
    if found != (kind, version):
        msg = f"{path}: this is {found[0]!r} version {found[1]!r}, wanted {kind!r} version {version}"
        raise ModelError(msg)
    try:
        card = card_type.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        msg = f"{card_path}: {error.error_count()} bad fields in the card, first {place}: {first['msg']}"
        raise ModelError(msg) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        msg = (
            f"{path}: the file does not match its card (sha256 {digest[:12]}..., card {card.sha256[:12]}...): "
            "it is damaged, cut short, or of another model"
        )
        raise ModelError(msg)
    try:
        return card, load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        msg = f"{path}: not a safetensors file ({error})"
        raise ModelError(msg) from None


def check_tensors(path: str | Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of an architecture, or whose values are not finite.

    Args:
        path: the file that they are from, for the message.
        expected: tensors of the architecture, such as a ``state_dict``; their values do not matter.
        tensors: what the file holds.

    Raises:
        ModelError: another name, shape or type, or a value that is not finite.

    Example:
        >>> check_tensors("a.safetensors", {"x": torch.zeros(2)}, {"x": torch.zeros(3)})
        Traceback (most recent call last):
        ...
        stargap.errors.ModelError: a.safetensors: tensors do not match the architecture: 1 differ, first x ...
    """
    found, needed = ({name: _shape(tensor) for name, tensor in group.items()} for group in (tensors, expected))
    odd = sorted(name for name in {**needed, **found} if needed.get(name) != found.get(name))
    if odd:
        message = (
            f"{path}: tensors do not match the architecture: {len(odd)} differ, first {odd[0]} "
            f"({found.get(odd[0], 'absent')} in the file, {needed.get(odd[0], 'absent')} by the card)"
        )
        raise ModelError(message)
    infinite = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if infinite:
        message = f"{path}: the model holds values that are not finite, in {', '.join(infinite[:4])}"
        raise ModelError(message)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
