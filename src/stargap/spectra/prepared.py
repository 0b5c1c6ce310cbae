"""Prepared spectra as plain arrays: what a transfer is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.pixels import PAPER, STARGAP, PixelGrid

if TYPE_CHECKING:
    from torch import Tensor

    from stargap.spectra.prepare import Prepared

__all__ = ["PreparedSpectra", "split_rows"]


@dataclass(frozen=True)
class PreparedSpectra:
    """Normalised rest-frame spectra of one domain, one row each, in memory or mapped from disk.

    ``flux, sigma`` are float32 and ``good`` bool, ``(star, pixel)`` on ``grid.wavelength``; ``weight`` is bool,
    ``(star, support)``: which pixels the star's pseudo-continuum was made of; ``rv`` is the velocity that the star was
    prepared at (km/s), float64 ``(star,)``. Pixels that are not good hold any finite flux and must not be used.
    """

    flux: NDArray[np.float32]
    sigma: NDArray[np.float32]
    good: NDArray[np.bool_]
    weight: NDArray[np.bool_]
    rv: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> PreparedSpectra:
        return PreparedSpectra(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def grid(self) -> PixelGrid:
        """Pixel grid of the spectra: ``STARGAP``, or ``PAPER``, whose pseudo-continuum has no support beyond it."""
        return next(grid for grid in (STARGAP, PAPER) if grid.support.size == self.weight.shape[1])

    def tensors(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return copies of some rows as tensors: flux, sigma, good, weight (float32)."""
        import torch

        arrays = (self.flux, self.sigma, self.good, self.weight)
        flux, sigma, good, weight = (torch.from_numpy(np.array(array[rows])) for array in arrays)
        return flux, sigma, good, weight.float()

    def prepared(self, rows: NDArray[np.int64]) -> Prepared:
        """Return some rows as prepared spectra that models can be fitted to, with errors of independent pixels."""
        import torch

        from stargap.spectra.prepare import restore

        return restore(*self.tensors(rows), torch.from_numpy(np.array(self.rv[rows])), self.grid)

    @classmethod
    def from_prepared(cls, prepared: Prepared, rv: NDArray[np.float64]) -> PreparedSpectra:
        """Keep what training needs of a batch prepared at `rv` (km/s)."""
        weight = (prepared.weight > 0.5).numpy()
        return cls(prepared.flux.numpy(), prepared.sigma.numpy(), prepared.good.numpy(), weight, rv)

    @classmethod
    def empty(cls, count: int, grid: PixelGrid = STARGAP) -> PreparedSpectra:
        """Return zeroed arrays of `count` rows, to be filled batch by batch."""
        shape, support = (count, grid.wavelength.size), (count, grid.support.size)
        return cls(
            np.zeros(shape, dtype=np.float32),
            np.ones(shape, dtype=np.float32),
            np.zeros(shape, dtype=bool),
            np.zeros(support, dtype=bool),
            np.zeros(count),
        )

    @classmethod
    def create(cls, folder: str | Path, count: int, grid: PixelGrid = STARGAP) -> PreparedSpectra:
        """Return arrays of `count` rows that are files in `folder`, to be filled batch by batch; `load` reads them."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        expected = cls.empty(0, grid)
        arrays = []
        for field in fields(cls):
            like = getattr(expected, field.name)
            path = Path(folder) / f"{field.name}.npy"
            shape = (count, *like.shape[1:])
            arrays.append(np.lib.format.open_memmap(path, mode="w+", dtype=like.dtype, shape=shape))
        return cls(*arrays)

    @classmethod
    def joined(cls, parts: Sequence[PreparedSpectra]) -> PreparedSpectra:
        """Return all spectra of some parts in memory, in order."""
        every = parts or [cls.empty(0)]
        return cls(*(np.concatenate([getattr(part, f.name) for part in every]) for f in fields(cls)))

    def put(self, first: int, part: PreparedSpectra) -> None:
        """Copy `part` to the rows from `first` on."""
        for field in fields(self):
            getattr(self, field.name)[first : first + len(part)] = getattr(part, field.name)

    def save(self, folder: str | Path) -> None:
        """Write one ``.npy`` file an array into `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            with replacing(Path(folder) / f"{field.name}.npy") as file:
                np.save(file, getattr(self, field.name))

    @classmethod
    def load(cls, folder: str | Path) -> PreparedSpectra:
        """Map the arrays written by `save` from disk.

        Raises:
            UsageError: a file is missing or damaged, or shapes do not fit together.
        """
        arrays = []
        for field in fields(cls):
            path = Path(folder) / f"{field.name}.npy"
            try:
                arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError) as error:
                message = f"{path}: not an array of training spectra ({error})"
                raise UsageError(message) from None
        expected = {"flux": "float32", "sigma": "float32", "good": "bool", "weight": "bool", "rv": "float64"}
        for (name, dtype), array in zip(expected.items(), arrays, strict=True):
            if array.dtype != dtype or array.ndim == 0:
                message = f"{Path(folder) / name}.npy holds {array.dtype} {array.shape}, where {dtype} is needed"
                raise UsageError(message)
        shapes = [array.shape for array in arrays]
        count, pixels = len(arrays[0]), STARGAP.wavelength.size
        supports = [STARGAP.support.size, PAPER.support.size]
        if shapes not in [[(count, pixels)] * 3 + [(count, support), (count,)] for support in supports]:
            message = (
                f"{folder}: arrays have shapes {shapes}, where {pixels} and {supports[0]} pixels are needed "
                f"({supports[1]} with the paper's preset)"
            )
            raise UsageError(message)
        return cls(*arrays)


def split_rows(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return rows for training, validation and test, 8:2:1 at random (paper section 3.2).

    Raises:
        UsageError: there are fewer than six rows.

    Example:
        >>> {name: len(rows) for name, rows in split_rows(110_000, seed=0).items()}
        {'training': 80000, 'validation': 20000, 'test': 10000}
    """
    if count < 6:
        message = f"{count} spectra cannot be split 8:2:1; at least 6 are needed"
        raise UsageError(message)
    order = np.random.default_rng([seed, 1]).permutation(count)
    training, validation, test = np.split(order, [8 * count // 11, 10 * count // 11])
    return {"training": training, "validation": validation, "test": test}
