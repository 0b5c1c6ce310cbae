"""Spectra and models of a batch that was measured, for `stargap.measure(..., spectra=True)` and for pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stargap.measurement.fits import Fitted
from stargap.measurement.star import Columns
from stargap.spectra.modelled import Masked, ModelledSpectra

__all__ = ["modelled_spectra"]


def modelled_spectra(columns: Columns, fitted: Fitted) -> ModelledSpectra:
    """Return the spectra of a batch beside their models, in the units of their files, one per row of its columns.

    The flux is resampled as for the fit (`stargap.spectra.prepare`), its error is that of the native pixels.

    Args:
        columns: what `stargap.measurement.star.measure_batch` returned, ``(row,)``.
        fitted: the same, padded.
    """
    count = len(columns["spectrum_id"])
    star, native = fitted.prepared[:count], fitted.native[:count]
    inner = star.grid.inner
    index, t = star.index[:, inner], star.fraction[:, inner]
    kept = (native.ivar > 0).gather(1, index) & (native.ivar > 0).gather(1, index + 1)
    flux = torch.lerp(native.flux.gather(1, index), native.flux.gather(1, index + 1), t)
    variance = 1.0 / native.ivar.clamp_min(1e-10)
    variance = (1 - t) ** 2 * variance.gather(1, index) + t**2 * variance.gather(1, index + 1)
    scale = native.scale[:, None]
    held = star.inverse_kernel < 1.0 / star.grid.least_kernel_weight
    positive = (star.continuum > 0) & held
    continuum = torch.where(positive, star.continuum, torch.nan)
    window = kept & positive & ~star.good
    mask = (~kept).to(torch.uint8) * int(Masked.BAD) + window.to(torch.uint8) * int(Masked.WINDOW)
    mask += (~positive).to(torch.uint8) * int(Masked.NO_CONTINUUM)
    known = zip(columns["designation"], columns["path"], strict=True)
    return ModelledSpectra(
        spectrum_id=np.asarray(columns["spectrum_id"], dtype=np.int64),
        name=np.array([str(name) or Path(str(path)).name for name, path in known], dtype=str),
        wavelength=star.grid.wavelength,
        flux=(flux * scale).float().numpy(),
        error=torch.where(kept, variance.sqrt() * scale, torch.nan).float().numpy(),
        continuum=(continuum * scale).float().numpy(),
        model=(fitted.fit.model[:count] * continuum * scale).float().numpy(),
        mask=mask.numpy(),
    )
