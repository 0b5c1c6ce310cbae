"""Batches on the native lattice: a row for every input, whether it could be read or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch

from stargap.errors import SpectrumError
from stargap.pixels import LATTICE
from stargap.spectra.prepare import NativeBatch, to_lattice
from stargap.spectra.readers.content import facts_with_snr
from stargap.spectra.spectrum import Facts, Spectrum

__all__ = ["concatenate", "empty_batch", "native_batch"]


def native_batch(items: Sequence[Spectrum | SpectrumError]) -> tuple[NativeBatch, list[Facts], list[str]]:
    """Put spectra on the native lattice, one row an item whatever happens.

    Args:
        items: spectra, or the errors of files that could not be read.

    Returns:
        the spectra (ivar 0 in rows that cannot be used), the facts of each with its S/N, and why a row cannot be
        used, empty if it can.

    Example:
        >>> native, facts, failure = native_batch([SpectrumError("a.fits", "the file is empty")])
        >>> int((native.ivar > 0).sum()), facts[0].path, failure
        (0, 'a.fits', ['the file is empty'])
    """
    parts, facts, failure = [empty_batch(0)], [], []
    for item in items:
        reason = ""
        try:
            if isinstance(item, SpectrumError):
                raise item
            part = to_lattice([item])
        except SpectrumError as error:
            reason, part = error.reason, empty_batch(1)
        parts.append(part)
        facts.append(Facts(path=item.path) if isinstance(item, SpectrumError) else facts_with_snr(item))
        failure.append(reason)
    return concatenate(parts), facts, failure


def empty_batch(count: int) -> NativeBatch:
    """Return `count` rows without a good pixel.

    Example:
        >>> empty_batch(2).ivar.shape
        torch.Size([2, 1891])
    """
    nothing, scale = torch.zeros(count, LATTICE.count), torch.ones(count, dtype=torch.float64)
    return NativeBatch(nothing, nothing.clone(), scale, torch.zeros(count, dtype=torch.int64))


def concatenate(parts: Sequence[NativeBatch]) -> NativeBatch:
    """Return the rows of all parts, at least one, in one batch.

    Example:
        >>> len(concatenate([empty_batch(2), empty_batch(3)]))
        5
    """
    return NativeBatch(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(NativeBatch)))
