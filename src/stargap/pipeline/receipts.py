"""Receipts: what each finished piece of a run was made from and what it consists of, the ground of resuming."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stargap.files import replacing
from stargap.processor import cores
from stargap.spectra.store.shards import FileSum, file_sha256

__all__ = ["CUT_COUNTS", "Receipt", "digest", "read_receipt", "sum_products", "write_receipt"]

CUT_COUNTS = ("before", "failed", "unknown", "left")
"""The counts of each cut in the receipts of the sample."""


class Receipt(BaseModel):
    """One piece of a stage, written after all its products.

    ``key`` is a digest of everything that the products follow from; ``settings`` are those of the stage, ``processor``
    is the instruction set that torch made it with, if any, ``counts`` are numbers to report, ``products`` are all its
    files by their path in the run's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    stargap: str
    processor: str
    settings: dict[str, Any]
    rows: int
    seconds: float
    counts: dict[str, float]
    products: dict[str, FileSum]

    def holds(self, folder: Path) -> bool:
        """Whether every product is there with the size that it had."""
        return all(_size(folder / name) == product.bytes for name, product in self.products.items())

    def damaged(self, folder: Path) -> list[Path]:
        """Return the products that are missing or whose bytes are no longer those that were written."""
        return [folder / name for name, product in self.products.items() if not _is_intact(folder / name, product)]

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


def sum_products(folder: Path, products: Iterable[Path], known: Mapping[Path, FileSum]) -> dict[str, FileSum]:
    """Return size and checksum of files by their path in a folder; those that are `known` are not read again."""

    def total(path: Path) -> FileSum:
        return known.get(path) or FileSum(bytes=path.stat().st_size, sha256=file_sha256(path))

    paths = list(products)
    with ThreadPoolExecutor(cores()) as threads:  # checksums leave other threads the interpreter
        sums = list(threads.map(total, paths))
    return {str(path.relative_to(folder)): one for path, one in zip(paths, sums, strict=True)}


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Write a receipt, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(receipt.model_dump_json(indent=1).encode())


def _is_intact(path: Path, product: FileSum) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == product.bytes and product.sha256 == _sum_of(
        path, found.st_mtime_ns, found.st_ino, found.st_size
    )


@lru_cache(maxsize=1024)
def _sum_of(path: Path, *stamps: int) -> str:
    """Return the checksum of a file; what many pieces are made from is read once, unless it changes."""
    return file_sha256(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
