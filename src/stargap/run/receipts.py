"""Receipts: what each finished piece of a run was made from, and what it made; the ground of resuming."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stargap.files import replacing
from stargap.spectra.store.shards import file_sha256

__all__ = ["Product", "Receipt", "digest", "read_receipt", "write_receipt"]


class Product(BaseModel):
    """A file that was made: its size and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Receipt(BaseModel):
    """One piece of a stage, written after all its products.

    ``key`` stands for everything that the products follow from; ``settings`` are those of them that a person chose,
    ``counts`` what there is to tell, ``products`` the files by their path in the run's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    stargap: str
    settings: dict[str, Any]
    rows: int
    seconds: float
    counts: dict[str, float]
    products: dict[str, Product]

    def holds(self, folder: Path) -> bool:
        """Whether every product is there with the size that it had."""
        return all(_size(folder / name) == product.bytes for name, product in self.products.items())

    @property
    def content(self) -> str:
        """Digest of the products, whenever and however they were made."""
        return digest({name: product.sha256 for name, product in self.products.items()})


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON content, keys in order.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_receipt(path: Path) -> Receipt | None:
    """Return a receipt, or None where there is none that can be read: its piece is then made again."""
    try:
        return Receipt(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, ValidationError):
        return None


def write_receipt(
    path: Path,
    folder: Path,
    products: Iterable[Path],
    *,
    key: str,
    stargap: str,
    settings: Mapping[str, Any],
    rows: int,
    seconds: float,
    counts: Mapping[str, float],
) -> Receipt:
    """Write down what was made, with checksums, under `path`."""
    found = {
        str(product.relative_to(folder)): Product(bytes=product.stat().st_size, sha256=file_sha256(product))
        for product in products
    }
    receipt = Receipt(
        key=key,
        stargap=stargap,
        settings=dict(settings),
        rows=rows,
        seconds=seconds,
        counts=dict(counts),
        products=found,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(receipt.model_dump_json(indent=1).encode())
    return receipt


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
