"""Unpaired batches of observed and synthetic spectra, each of which follows from the number of its step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.errors import UsageError
from stargap.pixels import STARGAP, PixelGrid
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.spectra.smoother import normalise
from stargap.starnet.layers import interpolate
from stargap.starnet.losses import Batch
from stargap.theory.emulator import Emulator

__all__ = ["KnownStars", "PairedSource", "SyntheticSpectra"]

KNOWN = 0.25
"""Fraction of the pairs of a step that are of stars with known labels, where there are any."""
AT_ONCE = 128
"""Pairs of several steps that are made together: products of few rows are slow."""


@lru_cache(maxsize=8)
def _order(count: int, seed: int, domain: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, domain]).permutation(count)


class SyntheticSpectra:
    """The emulator's spectra of labels ``(row, 4)``, normalised with the weights of their observed partners.

    Where these hold too little of the smoothing kernel there is no pseudo-continuum: spectra are interpolated there,
    as the network's encoders do with masked pixels.

    Args:
        emulator: the synthetic domain.
        labels: one row per spectrum, such as draws of the label prior.
        grid: pixel grid of the observed spectra.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> made = SyntheticSpectra(shipped_emulator(), np.array([[3500.0, 4.8, 0.0, 0.0]]))
        >>> made(np.array([0]), torch.ones(1, STARGAP.support.size)).shape
        torch.Size([1, 2901])
    """

    def __init__(self, emulator: Emulator, labels: NDArray[np.float64], grid: PixelGrid = STARGAP) -> None:
        self.emulator, self.labels, self.grid = emulator, torch.as_tensor(labels), grid
        margin = round((STARGAP.margin - grid.margin) / grid.step)
        self.support = slice(margin, STARGAP.support.size - margin)

    @torch.no_grad()
    def __call__(self, rows: NDArray[np.int64], weight: Tensor) -> Tensor:
        """Return ``(row, pixel)`` of given rows, normalised with the weights ``(row, support)`` of their partners."""
        flux = self.emulator.flux(self.labels[rows])[:, self.support]
        normal, _, kernel_weight = normalise(flux / flux.mean(dim=1, keepdim=True), weight, self.grid)
        sound = kernel_weight >= self.grid.least_kernel_weight
        filled = interpolate((normal - 1.0)[:, None], sound)[:, 0] + 1.0
        return torch.where(sound, normal, filled)


class KnownStars(NamedTuple):
    """Stars whose labels are known, among the observed spectra.

    ``rows (star,)`` are theirs; ``synthetic`` makes spectra of these labels, as for `PairedSource`; ``digest`` is of
    what it makes.
    """

    rows: NDArray[np.int64]
    synthetic: Callable[[NDArray[np.int64], Tensor], Tensor]
    digest: str


class PairedSource:
    """Observed and synthetic spectra, unpaired: each domain is split 8:2:1 and permuted anew every epoch.

    The rows of a step follow from the seed, the domain and the epoch alone; domains may differ in size. A quarter of
    the pairs of a step are of `known` stars of the training, where there are any.

    Args:
        observed: spectra, in memory or mapped from disk.
        synthetic: ``(row, pixel)`` float32, in memory or mapped; or a pure function that makes them of row numbers
            and of the pseudo-continuum weights ``(row, support)`` of their observed partners (`SyntheticSpectra`).
        made: for a function, the number of its rows and a digest of what it makes.
        known: observed stars whose labels are known.
        seed: of splits and permutations.
        validation: largest number of pairs of a validation.
        validation_batch: pairs of each of its batches.

    Raises:
        UsageError: a domain has fewer than six spectra, or no star with known labels is in the training.
    """

    def __init__(
        self,
        observed: PreparedSpectra,
        synthetic: NDArray[np.float32] | Callable[[NDArray[np.int64], Tensor], Tensor],
        *,
        made: tuple[int, str] = (0, ""),
        known: KnownStars | None = None,
        seed: int = 0,
        validation: int = 2048,
        validation_batch: int = 256,
    ) -> None:
        self.observed, self.synthetic, self.made, self.seed = observed, synthetic, made, seed
        self.observed_rows = split_rows(len(observed), seed)
        self.synthetic_rows = split_rows(made[0] if callable(synthetic) else len(synthetic), seed)
        sizes = (len(self.observed_rows["validation"]), len(self.synthetic_rows["validation"]))
        self.validation_count, self.validation_batch = min(validation, *sizes), validation_batch
        self.known = known
        self.known_places = np.empty(0, dtype=np.int64)
        if known is not None:
            self.known_places = np.flatnonzero(np.isin(known.rows, self.observed_rows["training"]))
            if not len(self.known_places):
                message = f"none of the {len(known.rows)} stars with known labels is in the training"
                raise UsageError(message)
        self._made: tuple[tuple[int, int], list[Batch]] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every spectrum, the seed and the size of a validation; reads all of the data once."""
        about = (self.made, self.seed, self.validation_count, self.validation_batch)
        digest = hashlib.sha256(repr(about if self.known is None else (*about, self.known.digest)).encode())
        arrays = [getattr(self.observed, field.name) for field in fields(self.observed)]
        for array in arrays if callable(self.synthetic) else [*arrays, self.synthetic]:
            digest.update(f"{array.dtype} {array.shape}".encode())
            for first in range(0, len(array), 1024):
                digest.update(np.ascontiguousarray(array[first : first + 1024]).data)
        return digest.hexdigest()

    def batch(self, step: int, size: int) -> Batch:
        """Return the pairs of a training step; those of `AT_ONCE` spectra or more are made together and kept."""
        steps = max(1, AT_ONCE // size)
        block, place = divmod(step, steps)
        if self._made is None or self._made[0] != (block, size):
            few = min(max(1, round(KNOWN * size)), size - 1) if len(self.known_places) else 0
            self._made = (block, size), self._batches(block, steps, size - few, few)
        return self._made[1][place]

    def _batches(self, block: int, steps: int, free: int, few: int) -> list[Batch]:
        """Return the batches of some steps, each of `free` unpaired spectra and `few` of stars with known labels."""
        observed = self._walk(self.observed_rows["training"], 1, block, steps * free)
        synthetic = self._walk(self.synthetic_rows["training"], 2, block, steps * free)
        pairs = self._pairs(observed, synthetic, self.synthetic)
        batches = [pairs[step * free : (step + 1) * free] for step in range(steps)]
        if self.known is None or not few:
            return batches
        places = self._walk(self.known_places, 3, block, steps * few)
        pairs = self._pairs(self.known.rows[places], places, self.known.synthetic)
        paired = torch.arange(free + few) >= free
        return [
            replace(batch.joined(pairs[step * few : (step + 1) * few]), paired=paired)
            for step, batch in enumerate(batches)
        ]

    def validation(self) -> Iterator[Batch]:
        """Yield the validation pairs, always the same."""
        for first in range(0, self.validation_count, self.validation_batch):
            part = slice(first, min(first + self.validation_batch, self.validation_count))
            rows = (self.observed_rows["validation"][part], self.synthetic_rows["validation"][part])
            yield self._pairs(*rows, self.synthetic)

    def _walk(self, rows: NDArray[np.int64], domain: int, step: int, size: int) -> NDArray[np.int64]:
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(rows))
        chosen = [_order(len(rows), self.seed, domain, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
        walked: NDArray[np.int64] = rows[np.concatenate(chosen)]
        return walked

    def _pairs(
        self,
        observed: NDArray[np.int64],
        synthetic: NDArray[np.int64],
        source: NDArray[np.float32] | Callable[[NDArray[np.int64], Tensor], Tensor],
    ) -> Batch:
        flux, sigma, good, weight = self.observed.tensors(observed)
        made = source(synthetic, weight) if callable(source) else torch.from_numpy(np.array(source[synthetic]))
        return Batch(synthetic=made, observed=flux, observed_sigma=sigma, observed_good=good)
