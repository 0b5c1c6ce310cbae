"""Spectra of a run beside their models, fitted again as the run fitted them, for its report and for the viewer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import Labels, Spectra
from stargap.errors import UsageError
from stargap.fit.forward import EmulatorModel
from stargap.labels import LABELS
from stargap.measurement.fits import Fitted
from stargap.measurement.modelled import modelled_spectra
from stargap.measurement.models import AnyTransfer, load_transfer, settings_for
from stargap.measurement.star import BATCH, BatchVelocity, Columns, measure_native
from stargap.pixels import grid_for
from stargap.processor import single_thread
from stargap.settings import MeasureSettings, read_settings_as
from stargap.spectra.log_lambda import concatenate
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.spectrum import Facts
from stargap.spectra.store.shards import Shard
from stargap.starnet.transfer import StarnetTransfer
from stargap.statistics import mean_residual
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import provenance_of, read_columns
from stargap.theory.emulator import Emulator
from stargap.validation.report.fitted import Example, FittedSpectra, RawSpectra
from stargap.validation.report.settings import NODE

__all__ = ["RunModels", "fit_again", "observe"]

STEP = 2
"""Pixels of 1 A that are averaged into one."""
EXAMPLE_SNR = 30.0


@dataclass(frozen=True)
class RunModels:
    """The folder of a run, with the models and settings that it measured with."""

    folder: Path
    emulator: Emulator
    transfer: AnyTransfer | None
    settings: MeasureSettings

    @classmethod
    def load(cls, folder: str | Path) -> RunModels:
        """Load them from the folder of a run.

        Raises:
            UsageError: they are not there, or of another version.
        """
        folder = Path(folder)
        path = folder / "emulator" / "emulator.safetensors"
        if not path.exists():
            message = f"{path}: the emulator that the run measured with is gone"
            raise UsageError(message)
        emulator = Emulator.load(path)
        path = folder / "transfer" / "transfer.safetensors"
        transfer = load_transfer(path) if path.exists() else None
        return cls(folder, emulator, transfer, settings_for(transfer, _measured_with(folder)))


@single_thread()
def fit_again(run: str | Path | RunModels, spectrum_id: NDArray[np.int64], *, step: int = STEP) -> FittedSpectra:
    """Fit some spectra of a run again, from its store, velocities, models and settings: their models are not kept.

    Args:
        run: its folder, or what `RunModels.load` gave of it.
        spectrum_id: of spectra that it measured, ``(row,)``.
        step: pixels of 1 A that are averaged into one.

    Raises:
        UsageError: the store, the velocities or the models are gone, or a spectrum was not measured.
    """
    models = run if isinstance(run, RunModels) else RunModels.load(run)
    grid = grid_for(models.settings.preset)
    average = partial(_average, step=step)
    wave = average(grid.wavelength[None])[0]
    shape = len(spectrum_id), len(wave)
    observed, model, residual, synthetic = (np.full(shape, np.nan, dtype=np.float32) for _ in range(4))
    before, after = np.full(len(spectrum_id), np.nan), np.full(len(spectrum_id), np.nan)
    labels = np.full((len(spectrum_id), len(LABELS)), np.nan)
    latents = None
    if isinstance(models.transfer, StarnetTransfer):
        sizes = models.transfer.network.settings
        latents = np.full((len(spectrum_id), 2, sizes.positions * sizes.shared_latent), np.nan, dtype=np.float32)
    example: tuple[float, Example] | None = None
    raw = RawSpectra.empty(len(spectrum_id), len(grid.wavelength))
    for rows, velocity, columns, fitted in _batches(models, spectrum_id):
        count = len(rows)
        star = fitted.prepared
        flux, sigma, good = (part[:count].numpy() for part in (star.flux, star.sigma, star.good))
        fit = fitted.fit.model[:count].numpy()
        good = good & np.isfinite(fit)
        _put(raw, rows, star, velocity)
        observed[rows], model[rows] = average(flux, good), average(fit, good)
        residual[rows] = average((flux - fit) / sigma, good)
        after[rows] = mean_residual(flux, fit, sigma, good)
        labels[rows] = np.stack([np.asarray(columns[name], dtype=float) for name in LABELS], axis=1)
        if fitted.domains is not None:
            made = _synthetic_spectra(star, fitted.domains.synthetic.labels, models.emulator)
            if isinstance(models.transfer, StarnetTransfer) and latents is not None:
                latents[rows] = _latents(models.transfer, star, made)[:count]
            first = made[:count].numpy()
            synthetic[rows], before[rows] = average(first, good), mean_residual(flux, first, sigma, good)
        far = np.abs(np.log(np.maximum(np.asarray(columns["snr_r"], dtype=float), 0.1) / EXAMPLE_SNR))
        far = np.where(np.isfinite(far) & np.isfinite(labels[rows, 0]), far, np.inf)
        if example is None or far.min() < example[0]:
            example = float(far.min()), _example(columns, fitted, int(far.argmin()))
    return FittedSpectra(
        wave,
        observed,
        model,
        residual,
        after,
        labels,
        None if models.transfer is None else synthetic,
        None if models.transfer is None else before,
        None if example is None else example[1],
        raw,
        latents,
    )


@single_thread()
def observe(folder: str | Path, spectrum_id: int) -> FittedSpectra:
    """Return one spectrum of a run without a model, at 1 A: what is there without a fit, also of unmeasured spectra.

    Without a velocity it is not shifted, and has no pseudo-continuum and no normalised spectrum.

    Raises:
        UsageError: the store is gone, damaged, or has no such spectrum.
    """
    folder = Path(folder)
    grid = grid_for(_measured_with(folder).preset)
    number, row = divmod(spectrum_id, Shard.open(folder / "store", 0).card.shard_rows)
    shard = Shard.open(folder / "store", number)
    if not 0 <= row < len(shard):
        message = f"{shard.folder}: holds no spectrum {spectrum_id}"
        raise UsageError(message)
    columns = _velocity_columns(folder, number)
    place = np.flatnonzero(columns["spectrum_id"] == spectrum_id)
    rv = torch.from_numpy(columns["rv"][place].astype(float)) if len(place) else torch.full((1,), torch.nan)
    star = prepare(shard.read(np.array([row])), rv.double(), grid)
    raw = RawSpectra.empty(1, len(grid.wavelength))
    _put(raw, slice(None), star, rv.numpy())
    known = star.good.numpy() & np.isfinite(rv.numpy())[:, None]
    raw.continuum[np.isnan(raw.velocity)] = np.nan
    observed = np.where(known, star.flux.numpy(), np.nan).astype(np.float32)
    nothing = np.full_like(observed, np.nan)
    unknown = np.full((1, len(LABELS)), np.nan)
    return FittedSpectra(grid.wavelength, observed, nothing, nothing, unknown[:, 0], unknown, None, None, None, raw)


def _put(raw: RawSpectra, rows: Any, star: Prepared, velocity: NDArray[np.float64]) -> None:
    """Fill in some rows from spectra that were prepared at these velocities."""
    count, native = len(velocity), star.native
    scale = native.scale[:count, None]
    flux = torch.where(native.ivar[:count] > 0, native.flux[:count] * scale, torch.nan)
    held = star.inverse_kernel[:count] < 1.0 / star.grid.least_kernel_weight
    continuum = torch.where(held & (star.continuum[:count] > 0), star.continuum[:count] * scale, torch.nan)
    raw.flux[rows], raw.continuum[rows] = flux.numpy(), continuum[:, ::NODE].numpy()
    raw.velocity[rows] = velocity


def _example(columns: Columns, fitted: Fitted, row: int) -> Example:
    """Return one star of a batch."""
    star = fitted.prepared
    parts = {"flux": star.flux, "sigma": star.sigma, "continuum": star.continuum, "good": star.good}
    normal = {"wavelength": star.grid.wavelength} | {name: part[row].numpy() for name, part in parts.items()}
    normal["model"] = fitted.fit.model[row].numpy()
    here = slice(row, row + 1)
    return Example(
        {name: values[here] for name, values in columns.items()}, normal, modelled_spectra(columns, fitted)[here]
    )


@torch.no_grad()
def _latents(transfer: StarnetTransfer, star: Prepared, synthetic: Spectra) -> NDArray[np.float32]:
    """Return z_sh of observed and of synthetic spectra, ``(row, 2, number)``."""
    network = transfer.network
    both = network.encode_observed(star.flux, star.good)[0], network.encode_synthetic(synthetic)
    return torch.stack([z.flatten(1) for z in both], dim=1).numpy()


def _synthetic_spectra(star: Prepared, labels: Labels, emulator: Emulator) -> Spectra:
    """Return the emulator's spectra at `labels`, normalised as the stars were; NaN where labels are."""
    nothing = torch.zeros(len(labels), 0, len(LABELS), dtype=torch.float64)
    return EmulatorModel(emulator, star)(labels, nothing, torch.arange(len(labels)))[0]


def _measured_with(folder: Path) -> MeasureSettings:
    """Return the settings that the run measured with."""
    path = folder / "measured.parquet"
    recorded = json.loads(provenance_of(path).get("settings", "{}"))
    where = f"{path}: was made by another version of stargap"
    settings = read_settings_as(MeasureSettings, recorded.get("measure", {}), where=where)
    return settings.model_copy(update={"device": "cpu"})  # a run may be looked at where there is no GPU


def _batches(
    models: RunModels, spectrum_id: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], Columns, Fitted]]:
    """Yield the spectra in the order of the store, in micro-batches across shards: places, velocities, columns, fit."""
    store = models.folder / "store"
    order = np.argsort(spectrum_id, kind="stable")
    if not len(order):
        return
    size = Shard.open(store, 0).card.shard_rows
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        ids = spectrum_id[rows]
        parts, facts = [], list[Facts]()
        velocities: list[BatchVelocity] = []
        for number in np.unique(ids // size):
            here = ids[ids // size == number] - number * size
            shard = Shard.open(store, int(number))
            known = shard.facts()
            parts.append(shard.read(here))
            facts += [known[row] for row in here]
            velocities.append(_velocity(models.folder, int(number), ids[ids // size == number]))
        names = ("rv", "error", "by_blocks", "chi2", "flags", "labels")
        velocity = BatchVelocity(*(torch.cat([getattr(part, name) for part in velocities]) for name in names))
        columns, fitted = measure_native(
            concatenate(parts),
            facts,
            models.settings,
            models.emulator,
            failure=[""] * len(rows),
            spectrum_id=ids,
            transfer=models.transfer,
            velocity=velocity,
        )
        yield rows, velocity.rv.numpy(), columns, fitted


def _velocity_columns(folder: Path, number: int) -> dict[str, NDArray[Any]]:
    return read_columns(folder / "velocity" / f"{number:05d}.parquet")


def _velocity(folder: Path, number: int, ids: NDArray[np.int64]) -> BatchVelocity:
    """Return the velocities of some rows of a shard, and the labels that fits start from."""
    columns = _velocity_columns(folder, number)
    place = match_ids(ids, columns["spectrum_id"])
    if (place < 0).any():
        message = f"{folder}: shard {number} has no velocities of some of its spectra: they were not measured"
        raise UsageError(message)
    numbers = {name: torch.from_numpy(columns[name][place]) for name in ("rv", "error", "by_blocks", "chi2", "flags")}
    labels = np.stack([columns[f"start_{name}"][place] for name in LABELS], axis=1)
    return BatchVelocity(**numbers, labels=torch.from_numpy(labels))


def _average(values: NDArray[np.floating], good: NDArray[np.bool_] | None = None, *, step: int) -> NDArray[np.floating]:
    """Return means over `step` pixels, of those that are good ``(row, pixel)``; NaN where none is, a rest left out."""
    use = np.ones(values.shape, dtype=bool) if good is None else good
    shape = len(values), values.shape[1] // step, step
    whole = slice(shape[1] * step)
    count = use[:, whole].reshape(shape).sum(axis=2)
    total = np.where(use, values, 0.0)[:, whole].reshape(shape).sum(axis=2)
    return np.asarray(total / np.where(count > 0, count, np.nan))
