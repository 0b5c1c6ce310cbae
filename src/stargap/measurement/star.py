"""Everything measured of a batch of spectra, as the columns of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import Labels, PerStar, StarFlags
from stargap.devices import device_named, made_on, to_device
from stargap.errors import SpectrumError
from stargap.fit.domains import Transfer
from stargap.fit.optimise import ON_GPU
from stargap.flags import Flag
from stargap.labels import LABELS, TEFF
from stargap.marks import with_marks
from stargap.measurement.covariances import correlation_columns, limit_columns
from stargap.measurement.coverage import PARTIAL, covered_fraction, least_snr
from stargap.measurement.facts import fact_columns
from stargap.measurement.fits import Fitted, fit_batch, fit_emulator_alone, parameters_for
from stargap.measurement.halpha import beyond_saturation
from stargap.measurement.lines import line_columns
from stargap.measurement.models import placed
from stargap.measurement.second import is_double, second_columns
from stargap.measurement.subtype import is_giant
from stargap.measurement.systematic import calibrated
from stargap.measurement.velocity import emulator_templates, measure_velocity, refine_velocity, templates_at
from stargap.pixels import grid_for
from stargap.rows import BoolColumn, FloatColumn
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, concatenate, empty_batch, native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.tables.columns import MEASURED
from stargap.theory.emulator import Emulator
from stargap.transfer.base import TrainedTransfer

__all__ = [
    "BATCH",
    "BatchVelocity",
    "Columns",
    "batch_size",
    "batch_velocity",
    "measure_batch",
    "measure_native",
    "padded_size",
]

BATCH = 256
"""Spectra in a micro-batch on the processor; on a GPU they are `ON_GPU`."""
BLOCK = 32
"""Micro-batches are padded to a multiple of it, so that results do not depend on how many spectra there are."""

Columns = dict[str, NDArray[np.generic]]

REFINED = 0.1
"""Tolerance of the last velocity fit, the step of which is taken."""
EMISSION = ("halpha_ew", "e_halpha_ew", "spt")
"""The columns that tell emission beyond that of chromospheres."""
MANY_BAD = 0.2
"""Fraction of bad pixels above which a spectrum is flagged."""


@dataclass(frozen=True)
class BatchVelocity:
    """Velocities of a batch and the labels that its label fit starts from, one row per star.

    ``rv, error, by_blocks`` (km/s, see `Velocities`) and ``chi2`` (reduced) are float64 ``(star,)``, NaN where there is
    none; ``flags`` int64 ``(star,)``; ``labels`` float64 ``(star, 4)``, from which the label fit starts.
    """

    rv: PerStar
    error: PerStar
    by_blocks: PerStar
    chi2: PerStar
    flags: StarFlags
    labels: Labels

    def __len__(self) -> int:
        return len(self.rv)

    def __getitem__(self, rows: slice) -> BatchVelocity:
        return BatchVelocity(*(getattr(self, f.name)[rows] for f in fields(self)))


def measure_batch(
    items: Sequence[Spectrum | SpectrumError],
    settings: MeasureSettings,
    emulator: Emulator,
    *,
    transfer: Transfer | None = None,
    first_id: int = 0,
) -> tuple[Columns, Fitted]:
    """Measure at most `batch_size` spectra: velocity, labels, subtype and H-alpha with errors and flags.

    Args:
        items: spectra, or the errors of files that could not be read; each gives one row, in order.
        settings: see `MeasureSettings`.
        emulator: the synthetic spectra.
        transfer: publish labels of the observed domain through this one, whose emulator must be the one above.
        first_id: ``spectrum_id`` of the first row.

    Returns:
        the columns of ``MEASURED``, arrays ``(row,)``, and what was fitted (padded to `padded_size` rows).

    Raises:
        ValueError: more than `batch_size` items.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> unread = SpectrumError("a.fits", "the file is empty")
        >>> columns, _ = measure_batch([unread], MeasureSettings(), shipped_emulator())
        >>> columns["failure"].tolist(), columns["teff"].tolist(), columns["flag_text"].tolist()
        (['the file is empty'], [nan], ['the file could not be read'])
    """
    native, facts, failure = native_batch(items)
    return measure_native(
        native,
        facts,
        settings,
        emulator,
        failure=failure,
        transfer=transfer,
        spectrum_id=first_id + np.arange(len(items)),
    )


def batch_velocity(native: NativeBatch, settings: MeasureSettings, emulator: Emulator) -> BatchVelocity:
    """Measure the velocities of at most `batch_size` spectra, each at last against the emulator at its own labels.

    Args:
        native: spectra on the log-lambda grid.
        settings: see `MeasureSettings`.
        emulator: the synthetic spectra.

    Raises:
        ValueError: more than `batch_size` spectra.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> native, _, _ = native_batch([SpectrumError("a.fits", "the file is empty")])
        >>> batch_velocity(native, MeasureSettings(), shipped_emulator()).rv
        tensor([nan], dtype=torch.float64)
    """
    device, padded = device_named(settings.device), _padded(native, settings)
    with made_on(device):
        found = _velocity(to_device(padded, device), settings, placed(emulator, device))
    return to_device(found, torch.device("cpu"))[: len(native)]


def _velocity(native: NativeBatch, settings: MeasureSettings, emulator: Emulator) -> BatchVelocity:
    templates = emulator_templates(emulator)
    first = measure_velocity(native, templates, search=not settings.exact)
    coarse = fit_emulator_alone(prepare(native, first.rv, grid_for(settings.preset)), settings, emulator, last=False)
    own = templates_at(emulator, coarse.labels)
    velocity = refine_velocity(native, first, own, tolerance=0.01 if settings.exact else REFINED)
    lost = torch.isfinite(first.rv) & torch.isnan(velocity.chi2)  # searched, and the fit did not hold
    if lost.any():
        velocity = velocity.where_not(lost, measure_velocity(native, templates))
    flags = velocity.flags | (coarse.flags & int(Flag.STARTS_DISAGREE))
    return BatchVelocity(velocity.rv, velocity.error, velocity.by_blocks, velocity.chi2, flags, coarse.labels)


def measure_native(
    native: NativeBatch,
    facts: Sequence[Facts],
    settings: MeasureSettings,
    emulator: Emulator,
    *,
    failure: Sequence[str],
    spectrum_id: NDArray[np.int64],
    transfer: Transfer | None = None,
    velocity: BatchVelocity | None = None,
) -> tuple[Columns, Fitted]:
    """Measure at most `batch_size` spectra that are on the log-lambda grid already, as `measure_batch` does.

    Args:
        native: spectra on the log-lambda grid.
        facts: of each, S/N included.
        settings: see `MeasureSettings`.
        emulator: the synthetic spectra.
        failure: why a row cannot be used, empty if it can.
        spectrum_id: of each row.
        transfer: as for `measure_batch`.
        velocity: from `batch_velocity` with the same settings and emulator; measured here if it is not given.

    Returns:
        as `measure_batch`.

    Raises:
        ValueError: more than `batch_size` spectra.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> native, facts, failure = native_batch([SpectrumError("a.fits", "the file is empty")])
        >>> options = {"failure": failure, "spectrum_id": np.array([7])}
        >>> columns, _ = measure_native(native, facts, MeasureSettings(), shipped_emulator(), **options)
        >>> columns["spectrum_id"].tolist(), columns["rv"].tolist()
        ([7], [nan])
    """
    if velocity is None:
        velocity = batch_velocity(native, settings, emulator)
    lamost = np.array([fact.layout.startswith("lamost") for fact in facts], dtype=bool)
    factor = np.where(lamost, settings.lamost_noise_factor, 1.0)
    device, padded = device_named(settings.device), _padded(native, settings)
    with made_on(device):
        fitted, covered, others = _fitted(
            *to_device((padded, velocity), device),
            settings,
            placed(emulator, device),
            None if transfer is None else placed(transfer, device),
            factor,
        )
    count, fitted = len(native), to_device(fitted, torch.device("cpu"))
    seen = np.sqrt(velocity.chi2.numpy()).clip(min=1.0)  # chi-square has shown a part of the factor
    noise = velocity.error.numpy() * np.maximum(factor / seen, 1.0)
    fits = {
        "rv": velocity.rv.numpy().copy(),
        "e_rv": np.hypot(noise, np.where(lamost, settings.lamost_rv_floor, 0.0)),
        **_label_columns(fitted, factor, np.isnan(velocity.rv.numpy())),
    }
    known = transfer.calibration if isinstance(transfer, TrainedTransfer) else None
    systematic = None if fitted.domains is None else fitted.domains.systematic.numpy()[:count]
    columns: Columns = {
        "spectrum_id": spectrum_id,
        "failure": np.array(failure, dtype=object),
        **fact_columns(facts),
        **fits,
        **calibrated(fits, noise, velocity.by_blocks.numpy(), list(map(least_snr, facts)), covered, systematic, known),
        **others,
    }
    read = columns["failure"] == ""
    columns["resolution"] = np.where(read, native.resolution.numpy(), np.nan)
    columns["bad_fraction"] = np.where(read, fitted.prepared.bad_fraction.numpy()[:count], np.nan)
    flags = velocity.flags.numpy() | fitted.fit.flags.numpy()[:count]
    for flag, where in _marks(columns, fitted, facts, settings.least_snr, covered).items():
        flags[where] |= flag
    columns["flags"] = np.where(read, flags, int(Flag.UNREADABLE))
    columns["flag_text"] = np.array([Flag.describe(bits) for bits in columns["flags"].tolist()], dtype=object)
    columns = with_marks(columns)
    return {column.name: columns[column.name] for column in MEASURED}, fitted


def _fitted(
    native: NativeBatch,
    velocity: BatchVelocity,
    settings: MeasureSettings,
    emulator: Emulator,
    transfer: Transfer | None,
    factor: FloatColumn,
) -> tuple[Fitted, FloatColumn, Columns]:
    """Return what is fitted of a padded batch, covered fractions ``(row,)``, and the columns that pixels give."""
    count = len(velocity)
    nothing = len(native) - count
    rv = torch.nn.functional.pad(velocity.rv, (0, nothing), value=torch.nan)
    start = torch.nn.functional.pad(velocity.labels, (0, 0, 0, nothing), value=torch.nan)
    prepared = prepare(native, rv, grid_for(settings.preset))
    parameters = parameters_for(settings, emulator)
    fitted = fit_batch(native, prepared, start, settings, emulator, transfer)
    columns = {
        **line_columns(native, rv, factor),
        **second_columns(native, rv, start, emulator, factor),
        **correlation_columns(fitted.fit, fitted.domains, parameters, count),
        **limit_columns(native, prepared, rv, fitted.fit.labels, emulator, parameters, factor),
    }
    return fitted, covered_fraction(native)[:count], columns


def _label_columns(fitted: Fitted, factor: FloatColumn, no_velocity: BoolColumn) -> Columns:
    """Return labels, their random errors and reduced chi-square; NaN without a velocity."""
    count = len(factor)
    labels, errors = fitted.fit.labels.numpy()[:count].copy(), fitted.fit.errors.numpy()[:count] * factor[:, None]
    labels[no_velocity] = np.nan
    missing = np.isnan(labels)
    errors[missing] = np.nan
    columns: Columns = {"chi2": np.where(missing[:, TEFF], np.nan, fitted.fit.chi2.numpy()[:count])}
    for place, name in enumerate(LABELS):
        columns[name], columns[f"e_{name}"] = labels[:, place], errors[:, place]
    return columns


def _marks(
    columns: Columns, fitted: Fitted, facts: Sequence[Facts], least: float, covered: FloatColumn
) -> dict[Flag, NDArray[np.bool_]]:
    """Return the flags that follow from other columns and from the preparation, and the rows that have them."""
    count = len(facts)
    snr = np.array([least_snr(fact) for fact in facts], dtype=float)
    return {
        Flag.MANY_BAD_PIXELS: fitted.prepared.bad_fraction.numpy()[:count] > MANY_BAD,
        Flag.BAD_CONTINUUM: fitted.prepared.bad_continuum.numpy()[:count],
        Flag.LOW_SN: snr < least,
        Flag.SN_FROM_IVAR: columns["snr_source"] == "ivar",
        Flag.PARTIAL_COVERAGE: covered < PARTIAL,
        Flag.FRAME_UNKNOWN: np.array([fact.frame is not None for fact in facts], dtype=bool),
        Flag.NO_SUBTYPE: np.isnan(columns["spt"].astype(float)),
        Flag.NO_HALPHA: np.isnan(columns["halpha_ew"].astype(float)),
        Flag.ACTIVE: columns["activity_3sigma"] == 1,
        Flag.GIANT: is_giant(columns),
        Flag.DOUBLE_LINED: is_double(columns["second_ratio"].astype(float), columns["second_snr"].astype(float)),
        Flag.EMISSION: beyond_saturation(*(columns[name].astype(float) for name in EMISSION)),
        Flag.SPIKES_REMOVED: fitted.native.spikes.numpy()[:count] > 0,
    }


def unmeasured(facts: Sequence[Facts], failure: Sequence[str], spectrum_id: NDArray[np.int64]) -> Columns:
    """Return the columns of ``MEASURED`` of spectra that are not measured: what their files say, and nulls.

    Args:
        facts: of each spectrum.
        failure: why it cannot be used; where it could, it is flagged as not selected.
        spectrum_id: of each row.

    Example:
        >>> columns = unmeasured([Facts(path="a.fits", obsid=7)], [""], np.array([0]))
        >>> columns["obsid"].tolist(), columns["teff"].tolist(), columns["flag_text"].tolist()
        ([7], [nan], ['outside the sample and not measured: sample_flags say why'])
    """
    count = len(facts)
    columns: Columns = fact_columns(facts)
    for column in MEASURED:
        if column.name not in columns:
            columns[column.name] = np.full(count, column.null, dtype=object if column.dtype == "str" else column.dtype)
    flags = [int(Flag.UNREADABLE if reason else Flag.NOT_SELECTED) for reason in failure]
    columns["spectrum_id"], columns["flags"] = spectrum_id, np.array(flags, dtype=np.int64)
    columns["flag_text"] = np.array([Flag.describe(bits) for bits in flags], dtype=object)
    columns["failure"] = np.array(failure, dtype=object)
    return with_marks(columns)


def batch_size(settings: MeasureSettings) -> int:
    """Return the largest number of spectra that are measured together.

    Example:
        >>> batch_size(MeasureSettings())
        256
    """
    return BATCH if settings.device == "cpu" else ON_GPU


def padded_size(count: int) -> int:
    """Return the rows that `count` spectra are padded to: whole blocks, in which products round alike.

    Example:
        >>> padded_size(1), padded_size(32), padded_size(33), padded_size(0)
        (32, 32, 64, 32)
    """
    return max(-(-count // BLOCK), 1) * BLOCK


def _padded(native: NativeBatch, settings: MeasureSettings) -> NativeBatch:
    count, most = len(native), batch_size(settings)
    if count > most:
        message = f"{count} spectra in a batch of {most}"
        raise ValueError(message)
    return concatenate([native, empty_batch(padded_size(count) - count)])
