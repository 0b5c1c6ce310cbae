"""Models on disk with changes: forged cards and contents, and how they are refused."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load, save

from stargap.errors import ModelError

__all__ = ["forge", "refused_by", "with_tensors"]


def forge(path: Path, written, card=None, content=None, *, keep_digest=False) -> Path:
    """Write a model, its bytes and card as ``written``, with changes, and return its path.

    The digest is made to fit unless it is to be kept.
    """
    whole = written[0] if content is None else content
    facts = copy.deepcopy(written[1]) | (card or {})
    if not keep_digest and "sha256" not in (card or {}):
        facts["sha256"] = hashlib.sha256(whole).hexdigest()
    path.write_bytes(whole)
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def refused_by(read, path: Path, *parts) -> None:
    """Test that a model is refused, in words that hold every one of `parts`."""
    with pytest.raises(ModelError) as caught:
        read(path)
    for part in parts:
        assert str(part) in str(caught.value), (part, str(caught.value))


def with_tensors(written, **changes) -> bytes:
    """Return the content of a model with other tensors, without those that are None."""
    tensors = load(written[0]) | changes
    return save({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None})
