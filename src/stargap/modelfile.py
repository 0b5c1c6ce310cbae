"""Models on disk: a safetensors file and a JSON card beside it; every mismatch is refused, no pickle is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from stargap.errors import ModelError
from stargap.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Card", "check_tensors", "kind_of", "load_model", "read_card", "save_model", "settle_models"]

LARGEST_CARD = 1_000_000


class Card(BaseModel):
    """Metadata of a model file; each kind of model adds its own fields.

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

    A process that is killed meanwhile leaves a model that can be loaded, the old one or the new one: the new card is
    first written beside the old one (``*.json.new``), and takes its name when the new tensors have theirs.

    Args:
        path: where the tensors go.
        card: its ``sha256`` is filled in here.
        tensors: name to tensor.
    """
    from safetensors.torch import save

    path = Path(path)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    complete = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _new_card(path)
    with replacing(new) as file:
        file.write((complete.model_dump_json(indent=2) + "\n").encode())
    try:
        with replacing(path) as file:
            file.write(content)
    except BaseException:
        if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == complete.sha256):
            new.unlink(missing_ok=True)
        raise
    new.replace(path.with_suffix(".json"))


def load_model(
    path: str | Path, card_type: type[AnyCard], kind: str, version: int
) -> tuple[AnyCard, dict[str, Tensor]]:
    """Read a model written by `save_model`, checking card and digest before any tensor is trusted.

    Args:
        path: the ``*.safetensors`` file; its card is beside it.
        card_type: the card of this kind of model.
        kind: the expected kind.
        version: the expected version of the architecture.

    Raises:
        ModelError: a missing, truncated, altered or foreign file, a damaged card, another kind or version.
    """
    from safetensors.torch import load

    path = Path(path)
    content, digest, raw = _read_files(path)
    found = (raw.get("kind"), raw.get("version")) if isinstance(raw, dict) else (None, None)
    if found != (kind, version):
        msg = f"{path}: this is {found[0]!r} version {found[1]!r}, expected {kind!r} version {version}"
        raise ModelError(msg)
    try:
        card = card_type.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        msg = (
            f"{path.with_suffix('.json')}: {error.error_count()} bad fields in the card, first {place}: {first['msg']}"
        )
        raise ModelError(msg) from None
    if digest != card.sha256:
        raise ModelError(_mismatch(path, digest, card.sha256))
    try:
        return card, load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        msg = f"{path}: not a safetensors file ({error})"
        raise ModelError(msg) from None


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the card of a model in JSON types, without its tensors: which model it is, and what is said of it.

    Args:
        path: the ``*.safetensors`` file; its card is beside it.

    Raises:
        ModelError: a missing file, a card that is not JSON, or one of other tensors.
    """
    path = Path(path)
    _, digest, card = _read_files(path)
    if not isinstance(card, dict) or card.get("sha256") != digest:
        raise ModelError(_mismatch(path, digest, card.get("sha256") if isinstance(card, dict) else None))
    return card


def _mismatch(path: Path, digest: str, said: object) -> str:
    return (
        f"{path}: the file does not match its card (sha256 {digest[:12]}..., card {str(said)[:12]}...): "
        "it is damaged, cut short, or of another model"
    )


def kind_of(path: str | Path) -> str | None:
    """Return the kind that the card of a model says, None where there is no card or it does not say.

    Example:
        >>> kind_of(getfixture("tmp_path") / "absent.safetensors") is None
        True
    """
    try:
        raw = _read_files(Path(path))[2]
    except ModelError:
        return None
    kind = raw.get("kind") if isinstance(raw, dict) else None
    return kind if isinstance(kind, str) else None


def settle_models(folder: str | Path) -> None:
    """Give every card of a writer that was killed its name, or delete it where the tensors are still the old ones.

    For the one process that writes to the folder; readers find these cards where they are.
    """
    for new in sorted(Path(folder).glob("*.json.new")):
        path = new.with_suffix("").with_suffix(".safetensors")
        with suppress(OSError, ModelError):
            card = _read_card(new)
            if isinstance(card, dict) and card.get("sha256") == hashlib.sha256(path.read_bytes()).hexdigest():
                new.replace(path.with_suffix(".json"))
                continue
        new.unlink(missing_ok=True)


def _new_card(path: Path) -> Path:
    return path.with_suffix(".json.new")


def _read_files(path: Path) -> tuple[bytes, str, Any]:
    """Return the tensors' bytes, their digest and the card: the new one where its writer was killed too early."""
    card_path, new = path.with_suffix(".json"), _new_card(path)
    try:
        card = _read_card(new if new.exists() and not card_path.exists() else card_path)
        content = path.read_bytes()
    except OSError as error:
        msg = (
            f"{error.filename}: cannot be read ({error.strerror}); a model is two files, "
            f"{path.name} and {card_path.name}"
        )
        raise ModelError(msg) from None
    digest = hashlib.sha256(content).hexdigest()
    for other in (new, card_path):  # the second again: a writer may just have renamed the first to it
        if not isinstance(card, dict) or card.get("sha256") == digest:
            break
        with suppress(OSError, ModelError):
            newer = _read_card(other)
            card = newer if isinstance(newer, dict) and newer.get("sha256") == digest else card
    return content, digest, card


def _read_card(path: Path) -> Any:
    if path.stat().st_size > LARGEST_CARD:
        msg = f"{path}: the card is larger than {LARGEST_CARD} bytes"
        raise ModelError(msg)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        msg = f"{path}: the card is not JSON ({error})"
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
        >>> import torch
        >>> check_tensors("a.safetensors", {"x": torch.zeros(2)}, {"x": torch.zeros(3)})
        Traceback (most recent call last):
        ...
        stargap.errors.ModelError: a.safetensors: tensors do not match the architecture: 1 differ (x), x is ...
    """
    import torch

    found, needed = ({name: _shape(tensor) for name, tensor in group.items()} for group in (tensors, expected))
    odd = sorted(name for name in {**needed, **found} if needed.get(name) != found.get(name))
    if odd:
        message = (
            f"{path}: tensors do not match the architecture: {len(odd)} differ ({', '.join(odd[:4])}), {odd[0]} is "
            f"{found.get(odd[0], 'absent')} in the file and {needed.get(odd[0], 'absent')} by the card"
        )
        raise ModelError(message)
    infinite = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if infinite:
        message = f"{path}: the model holds values that are not finite, in {', '.join(infinite[:4])}"
        raise ModelError(message)


def _shape(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
