"""A stand-in for a GPU: tensors that say they are on ``cuda:99``, and are refused beside those that are not.

What it computes, the processor computes; what it tests is that tensors are where they are used, and come back before
numpy sees them. torch has no public way to do so: the mode takes the place of its own fake tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 99)
"""One that no machine has: what is kept for it serves no other."""
_MOVES = ("aten::_to_copy", "aten::copy_")
_INDEXING = ("aten::index", "aten::index_put_")
"""These take indices from the processor as well."""


class Far(torch.Tensor):
    """A tensor on the stand-in; ``inner`` holds its values."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Far:
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device="meta", **about)
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return GPU

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})


def _as_tensors(index: Any) -> Any:
    """Return an index with lists as tensors: torch would make them where the values of `Far` are not."""
    if isinstance(index, tuple):
        return tuple(_as_tensors(part) for part in index)
    return torch.tensor(index, device="cpu") if isinstance(index, list) else index


class _Mode(TorchDispatchMode):
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # torch does not look for CUDA beneath its own fake tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: tuple, kwargs: dict) -> Any:
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    indices = args[1] if name in _INDEXING and isinstance(args[0], Far) else ()
    near = [t for t in tensors if not isinstance(t, Far) and t.ndim and not any(t is index for index in indices)]
    if far and near and name not in _MOVES:
        message = f"{name}: tensors on the GPU and on the processor"
        raise RuntimeError(message)
    wanted = kwargs.get("device")
    here = kwargs if wanted is None else {**kwargs, "device": torch.device("cpu")}
    inner = [tree_map(lambda leaf: leaf.inner if isinstance(leaf, Far) else leaf, part) for part in (args, here)]
    if name == "aten::_conj":  # below this call nobody would look at the bit that it sets
        func = torch.ops.aten.conj_physical.default
    found = func(*inner[0], **inner[1])
    same = next((tensor for tensor in far if found is tensor.inner), None)
    if same is not None:
        return same
    if name == "aten::copy_":
        return args[0]
    there = bool(far) if wanted is None else torch.device(wanted).type == "cuda"
    return tree_map(lambda leaf: Far(leaf) if isinstance(leaf, torch.Tensor) else leaf, found) if there else found


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Let torch find a GPU within the ``with`` block."""
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    found = {"is_available": lambda: True, "current_device": lambda: GPU.index}
    try:
        with _Mode(), patch.multiple(torch.cuda, **found):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
