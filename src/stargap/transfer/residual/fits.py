"""Fits of training spectra, in batches, with labels and split numbers together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stargap.fit.compressed import Compressed, compressed_emulator
from stargap.fit.domains import joint_step
from stargap.fit.forward import EmulatorModel, ForwardModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.pixels import STARGAP
from stargap.rows import RowNumbersArray, SomeRowNumbers
from stargap.spectra.prepare import Prepared
from stargap.spectra.prepared import PreparedSpectra
from stargap.transfer.residual.model import INTERPOLATION, MAPPED, ResidualTransfer
from stargap.transfer.residual.sums import FloorSum

__all__ = ["BATCH", "Fits", "brightest", "fit_spectra"]

BATCH = 256
"""Spectra that are fitted together."""
PIXEL_INFORMATION = 0.4
"""Information that resampled pixels hold over what independent ones with their errors would; measured on simulated
stars, where errors of labels from pixels alone are too small by its root."""


@dataclass(frozen=True)
class Fits:
    """Fits of training stars: ``labels (star, 4)``, ``covariance (star, 3, 3)``, ``chi2 (star,)``."""

    labels: Tensor
    covariance: Tensor
    chi2: Tensor


def fit_spectra(
    spectra: PreparedSpectra,
    rows: RowNumbersArray,
    transfer: ResidualTransfer,
    parameters: Parameters,
    *,
    floor: float | Tensor = INTERPOLATION,
    corrected: bool = True,
    start: Tensor | None = None,
    floor_sum: FloorSum | None = None,
    advance: Callable[[int], None] | None = None,
) -> Fits:
    """Fit training spectra; labels are those before the label map.

    Args:
        spectra: observed.
        rows: which of them.
        transfer: fitted through its correction, or with its emulator alone.
        parameters: free labels and bounds.
        floor: error floor, a number or ``(pixel,)``.
        corrected: fit through the correction.
        start: labels ``(row, 4)`` to start from; by default the emulator's table.
        floor_sum: takes up what the fits leave.
        advance: called with the number of fits done since the last call.
    """
    plain = compressed_emulator(transfer.emulator, STARGAP)
    compressed = Compressed(transfer.emulator, transfer.correct) if corrected else plain
    labels, covariance, chi2 = [], [], []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        prepared = spectra.prepared(rows[part])
        model: ForwardModel = EmulatorModel(transfer.emulator, prepared)
        fit = partial(
            fit_labels,
            prepared,
            emulator=transfer.emulator,
            parameters=parameters,
            starts=1,
            errors=False,
            near=math.inf,
        )
        begin = None if start is None else start[part]
        if corrected:
            if begin is None:
                begin = fit(model, error_floor=transfer.floor, compressed=plain).labels
            model = transfer.model(prepared)
        found = fit(model, error_floor=floor, start=begin, compressed=compressed)
        best, spread, spectrum = _joint(prepared, model, transfer, parameters, found.labels, floor)
        if floor_sum is not None:
            floor_sum.add(prepared, spectrum)
        labels.append(best)
        covariance.append(spread)
        chi2.append(found.chi2)
        if advance is not None:
            advance(len(best))
    return Fits(torch.cat(labels), torch.cat(covariance), torch.cat(chi2))


def _joint(
    prepared: Prepared,
    model: ForwardModel,
    transfer: ResidualTransfer,
    parameters: Parameters,
    labels: Tensor,
    floor: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels after one step together with the split numbers, their covariance, and the spectra before it."""
    lower, upper = parameters.bounds()
    lost = torch.isnan(labels).any(dim=1)
    middle, _ = parameters.expand(((lower + upper) / 2)[None])
    begin = torch.where(lost[:, None], middle, labels)
    weight = torch.where(prepared.good, PIXEL_INFORMATION / (prepared.sigma.square() + floor**2), 0.0)
    joint = joint_step(prepared, transfer, model, parameters, begin, weight, torch.arange(len(labels)))
    best, spectrum = (torch.where(lost[:, None], torch.nan, value) for value in (joint.labels, joint.spectrum))
    return best, joint.inverse[:, :MAPPED, :MAPPED], spectrum


def brightest(spectra: PreparedSpectra, rows: RowNumbersArray, count: int) -> SomeRowNumbers:
    """Return the `count` rows with the smallest median error, in ascending order."""
    rows = np.sort(rows)
    noise = np.full(len(rows), np.inf)
    for first in range(0, len(rows), 4096):
        part = rows[first : first + 4096]
        known = np.where(spectra.good[part, ::8], spectra.sigma[part, ::8], np.inf)
        noise[first : first + 4096] = np.median(known, axis=1)
    return np.sort(rows[np.argsort(noise, kind="stable")[:count]])
