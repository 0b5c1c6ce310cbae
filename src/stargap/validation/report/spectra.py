"""Spectra of a run beside their models, fitted again as the run fitted them, for the pictures of its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import Labels, Spectra
from stargap.errors import UsageError
from stargap.fit.forward import EmulatorModel
from stargap.labels import LABELS
from stargap.measurement.models import AnyTransfer, load_transfer, settings_for
from stargap.measurement.star import BATCH, BatchVelocity, Columns, Fitted, measure_native
from stargap.pixels import grid_for
from stargap.processor import single_thread
from stargap.settings import MeasureSettings, read_settings_as
from stargap.spectra.log_lambda import concatenate
from stargap.spectra.prepare import Prepared
from stargap.spectra.spectrum import Facts
from stargap.spectra.store.shards import Shard
from stargap.statistics import mean_residual
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import provenance_of, read_columns
from stargap.theory.emulator import Emulator

__all__ = ["Example", "FittedSpectra", "fit_again"]

STEP = 2
"""Pixels of 1 A that are averaged into one."""
EXAMPLE_SNR = 30.0


@dataclass(frozen=True, eq=False)
class Example:
    """One star as it was fitted: its columns, the fit, and its row in both."""

    columns: Columns
    fitted: Fitted
    row: int


@dataclass(frozen=True, eq=False)
class FittedSpectra:
    """Normalised spectra and models, averaged over 2 A; one row per requested spectrum.

    ``wavelength (pixel,)`` in A, rest frame. ``observed, model, residual`` are float32 ``(row, pixel)``, NaN where no
    pixel is used; the residual is the mean of (observed - model) / sigma. ``synthetic`` is the model of the synthetic
    domain, ``before`` and ``after`` the ``mean |residual| / sigma`` of a row over its 1 A pixels against the synthetic
    and the published model; ``synthetic`` and ``before`` are None without a transfer. ``labels (row, 4)`` are those
    fitted.
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


@single_thread()
def fit_again(folder: str | Path, spectrum_id: NDArray[np.int64]) -> FittedSpectra:
    """Fit some spectra of a run again, from its store, velocities, models and settings: their models are not kept.

    Args:
        folder: of the run.
        spectrum_id: of spectra that it measured, ``(row,)``.

    Raises:
        UsageError: the store, the velocities or the models are gone, or a spectrum was not measured.
    """
    folder = Path(folder)
    emulator, transfer = _models(folder)
    settings = _settings(folder, transfer)
    wave = _average(grid_for(settings.preset).wavelength[None])[0]
    shape = len(spectrum_id), len(wave)
    observed, model, residual, synthetic = (np.full(shape, np.nan, dtype=np.float32) for _ in range(4))
    before, after = np.full(len(spectrum_id), np.nan), np.full(len(spectrum_id), np.nan)
    labels = np.full((len(spectrum_id), len(LABELS)), np.nan)
    example: tuple[float, Example] | None = None
    for rows, columns, fitted in _batches(folder, spectrum_id, settings, emulator, transfer):
        count = len(rows)
        star = fitted.prepared
        flux, sigma, good = (part[:count].numpy() for part in (star.flux, star.sigma, star.good))
        fit = fitted.fit.model[:count].numpy()
        good = good & np.isfinite(fit)
        observed[rows], model[rows] = _average(flux, good), _average(fit, good)
        residual[rows] = _average((flux - fit) / sigma, good)
        after[rows] = mean_residual(flux, fit, sigma, good)
        labels[rows] = np.stack([np.asarray(columns[name], dtype=float) for name in LABELS], axis=1)
        if fitted.domains is not None:
            first = _synthetic_spectra(star, fitted.domains.synthetic.labels, emulator)[:count].numpy()
            synthetic[rows], before[rows] = _average(first, good), mean_residual(flux, first, sigma, good)
        far = np.abs(np.log(np.maximum(np.asarray(columns["snr_r"], dtype=float), 0.1) / EXAMPLE_SNR))
        far = np.where(np.isfinite(far) & np.isfinite(labels[rows, 0]), far, np.inf)
        if example is None or far.min() < example[0]:
            example = float(far.min()), Example(columns, fitted, int(far.argmin()))
    return FittedSpectra(
        wave,
        observed,
        model,
        residual,
        after,
        labels,
        None if transfer is None else synthetic,
        None if transfer is None else before,
        None if example is None else example[1],
    )


def _synthetic_spectra(star: Prepared, labels: Labels, emulator: Emulator) -> Spectra:
    """Return the emulator's spectra at `labels`, normalised as the stars were; NaN where labels are."""
    nothing = torch.zeros(len(labels), 0, len(LABELS), dtype=torch.float64)
    return EmulatorModel(emulator, star)(labels, nothing, torch.arange(len(labels)))[0]


def _models(folder: Path) -> tuple[Emulator, AnyTransfer | None]:
    emulator = Emulator.load(folder / "emulator" / "emulator.safetensors")
    path = folder / "transfer" / "transfer.safetensors"
    return emulator, load_transfer(path) if path.exists() else None


def _settings(folder: Path, transfer: AnyTransfer | None) -> MeasureSettings:
    """Return the settings that the run measured with."""
    path = folder / "measured.parquet"
    recorded = json.loads(provenance_of(path).get("settings", "{}"))
    where = f"{path}: was made by another version of stargap"
    return settings_for(transfer, read_settings_as(MeasureSettings, recorded.get("measure", {}), where=where))


def _batches(
    folder: Path,
    spectrum_id: NDArray[np.int64],
    settings: MeasureSettings,
    emulator: Emulator,
    transfer: AnyTransfer | None,
) -> Iterator[tuple[NDArray[np.int64], Columns, Fitted]]:
    """Yield the spectra in the order of the store, in micro-batches that go across shards: places, columns, fit."""
    order = np.argsort(spectrum_id, kind="stable")
    if not len(order):
        return
    size = Shard.open(folder / "store", 0).card.shard_rows
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        ids = spectrum_id[rows]
        parts, facts = [], list[Facts]()
        velocities: list[BatchVelocity] = []
        for number in np.unique(ids // size):
            here = ids[ids // size == number] - number * size
            shard = Shard.open(folder / "store", int(number))
            known = shard.facts()
            parts.append(shard.read(here))
            facts += [known[row] for row in here]
            velocities.append(_velocity(folder, int(number), ids[ids // size == number]))
        names = ("rv", "error", "by_blocks", "chi2", "flags", "labels")
        velocity = BatchVelocity(*(torch.cat([getattr(part, name) for part in velocities]) for name in names))
        columns, fitted = measure_native(
            concatenate(parts),
            facts,
            settings,
            emulator,
            failure=[""] * len(rows),
            spectrum_id=ids,
            transfer=transfer,
            velocity=velocity,
        )
        yield rows, columns, fitted


def _velocity(folder: Path, number: int, ids: NDArray[np.int64]) -> BatchVelocity:
    """Return the velocities of some rows of a shard, and the labels that fits start from."""
    columns = read_columns(folder / "velocity" / f"{number:05d}.parquet")
    place = match_ids(ids, columns["spectrum_id"])
    if (place < 0).any():
        message = f"{folder}: shard {number} has no velocities of some of its spectra: they were not measured"
        raise UsageError(message)
    numbers = {name: torch.from_numpy(columns[name][place]) for name in ("rv", "error", "by_blocks", "chi2", "flags")}
    labels = np.stack([columns[f"start_{name}"][place] for name in LABELS], axis=1)
    return BatchVelocity(**numbers, labels=torch.from_numpy(labels))


def _average(values: NDArray[np.floating], good: NDArray[np.bool_] | None = None) -> NDArray[np.floating]:
    """Return means over `STEP` pixels, of those that are good ``(row, pixel)``; NaN where none is, a rest left out."""
    use = np.ones(values.shape, dtype=bool) if good is None else good
    shape = len(values), values.shape[1] // STEP, STEP
    whole = slice(shape[1] * STEP)
    count = use[:, whole].reshape(shape).sum(axis=2)
    total = np.where(use, values, 0.0)[:, whole].reshape(shape).sum(axis=2)
    return np.asarray(total / np.where(count > 0, count, np.nan))
