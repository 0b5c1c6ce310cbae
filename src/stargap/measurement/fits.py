"""Label fits of a batch of spectra: with the emulator alone, or with a transfer in both domains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stargap.arrays import Labels
from stargap.errors import UsageError
from stargap.fit.compressed import compressed_emulator
from stargap.fit.domains import DomainFit, Transfer, fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import LabelFit, fit_labels
from stargap.fit.parameters import Parameters
from stargap.labels import LABELS
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator

__all__ = ["Fitted", "fit_batch", "fit_emulator_alone", "parameters_for"]

NEAR = 0.2
"""Tolerance of the last fit with the emulator alone, the step of which is taken."""


@dataclass(frozen=True)
class Fitted:
    """Spectra and fits, row by row with the columns, as `stargap.figures.fit` draws them; ``domains`` of a transfer."""

    native: NativeBatch
    prepared: Prepared
    fit: LabelFit
    domains: DomainFit | None = None


def parameters_for(settings: MeasureSettings, emulator: Emulator) -> Parameters:
    """Return the fit's free, fixed and tied labels, with bounds inside the emulator's training range.

    Raises:
        UsageError: a label fixed, or bounded, outside what the emulator was trained on.
    """
    lower, upper = list(emulator.card.lower), list(emulator.card.upper)
    for name, value in settings.fixed.items():
        place = LABELS.index(name)
        if not lower[place] <= value <= upper[place]:
            message = f"fixed {name} = {value:g} is outside the model's {lower[place]:g} to {upper[place]:g}"
            raise UsageError(message)
    for name, (low, high) in settings.bounds.items():
        place = LABELS.index(name)
        if high <= lower[place] or low >= upper[place]:
            message = f"bounds of {name}, {low:g} to {high:g}, miss the model's {lower[place]:g} to {upper[place]:g}"
            raise UsageError(message)
        lower[place], upper[place] = max(lower[place], low), min(upper[place], high)
    fixed = {name: low for name, low, high in zip(LABELS, lower, upper, strict=True) if low == high}
    fixed |= {str(name): value for name, value in settings.fixed.items()}
    return Parameters(tuple(lower), tuple(upper), fixed, settings.free_alpha)


def fit_batch(
    native: NativeBatch,
    prepared: Prepared,
    start: Labels,
    settings: MeasureSettings,
    emulator: Emulator,
    transfer: Transfer | None,
) -> Fitted:
    """Fit with the emulator alone, or with a transfer in both domains."""
    if transfer is None:
        return Fitted(native, prepared, fit_emulator_alone(prepared, settings, emulator, start))
    domains = fit_domains(
        prepared,
        transfer,
        parameters_for(settings, emulator),
        start=start,
        max_iterations=settings.max_iterations,
        optimiser=settings.optimiser,
        exact=settings.exact,
    )
    return Fitted(native, prepared, domains.observed, domains)


def fit_emulator_alone(
    star: Prepared,
    settings: MeasureSettings,
    emulator: Emulator,
    start: Labels | None = None,
    *,
    last: bool = True,
) -> LabelFit:
    """Fit with the emulator alone; `last`: with errors, and as closely as can be."""
    return fit_labels(
        star,
        EmulatorModel(emulator, star),
        emulator,
        parameters_for(settings, emulator),
        start=start,
        starts=settings.starts,
        error_floor=settings.floor,
        max_iterations=settings.max_iterations,
        errors=last,
        compressed=None if settings.exact else compressed_emulator(emulator, star.grid),
        near=NEAR if last else math.inf,
    )
