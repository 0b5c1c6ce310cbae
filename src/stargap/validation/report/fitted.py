"""Spectra of a run beside their models, as a report shows them: plain arrays, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.pixels import LOG_LAMBDA
from stargap.spectra.modelled import ModelledSpectra
from stargap.validation.report.settings import NODE

__all__ = ["Example", "FittedSpectra", "RawSpectra"]


@dataclass(frozen=True, eq=False)
class Example:
    """One star as it was fitted.

    ``columns (1,)`` are those of its row; ``normal (pixel,)`` its wavelengths (A, rest frame), normalised flux, sigma,
    pseudo-continuum, model and which pixels are good; ``spectrum``, one row, is the same in the units of its file.
    """

    columns: dict[str, NDArray[Any]]
    normal: dict[str, NDArray[Any]]
    spectrum: ModelledSpectra


@dataclass(frozen=True, eq=False)
class RawSpectra:
    """Spectra as their files have them, one per row.

    ``flux`` is float32 ``(row, native)`` on `LOG_LAMBDA`, in the unit of the file, NaN where a pixel has no weight;
    ``continuum`` float32 ``(row, node)``, the pseudo-continuum at every `NODE`-th pixel of the rest-frame grid, NaN
    where there is none; ``velocity (row,)`` what shifts them to the rest frame (km/s), NaN where that is not known.
    """

    flux: NDArray[np.float32]
    continuum: NDArray[np.float32]
    velocity: NDArray[np.float64]

    @classmethod
    def empty(cls, count: int, pixels: int) -> RawSpectra:
        """Return rows of nothing, for a rest-frame grid of so many pixels."""
        flux = np.full((count, LOG_LAMBDA.count), np.nan, dtype=np.float32)
        continuum = np.full((count, -(-pixels // NODE)), np.nan, dtype=np.float32)
        return cls(flux, continuum, np.full(count, np.nan))


@dataclass(frozen=True, eq=False)
class FittedSpectra:
    """Normalised spectra and models, averaged over some A; one row per requested spectrum.

    ``wavelength (pixel,)`` in A, rest frame. ``observed, model, residual`` are float32 ``(row, pixel)``, NaN where no
    pixel is used; the residual is the mean of (observed - model) / sigma. ``synthetic`` is the model of the synthetic
    domain, ``before`` and ``after`` the ``mean |residual| / sigma`` of a row over its 1 A pixels against the synthetic
    and the published model; ``synthetic`` and ``before`` are None without a transfer. ``labels (row, 4)`` are those
    fitted. ``latents (row, 2, number)`` are z_sh of the observed and of the synthetic spectrum, where the transfer is a
    network, else None. ``raw`` are the same spectra as their files have them.
    """

    wavelength: NDArray[np.float64]
    observed: NDArray[np.float32]
    model: NDArray[np.float32]
    residual: NDArray[np.float32]
    after: NDArray[np.float64]
    labels: NDArray[np.float64]
    synthetic: NDArray[np.float32] | None
    before: NDArray[np.float64] | None
    example: Example | None
    raw: RawSpectra | None = None
    latents: NDArray[np.float32] | None = None
