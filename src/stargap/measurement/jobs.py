"""Settings and model of a measurement as worker processes need them, and how a few spectra are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stargap.devices import device_named
from stargap.errors import ModelError, SpectrumError, UsageError
from stargap.measurement.fits import Fitted
from stargap.measurement.models import EMULATOR, LAMOST, AnyTransfer, load_model_named, settings_for
from stargap.measurement.star import Columns, measure_batch
from stargap.pixels import grid_for
from stargap.processor import single_thread
from stargap.settings import MeasureSettings
from stargap.spectra.readers.content import Content, check_spectrum
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.resolution import over
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import Emulator

__all__ = ["Job", "measure_items"]


@dataclass(frozen=True)
class Job:
    """Settings in force, and the name of a model with the digest that it had when the measurement began."""

    settings: MeasureSettings
    model: str
    digest: str
    read: ReadSettings

    @classmethod
    @single_thread()
    def of(cls, settings: MeasureSettings | None, model: str | Path | None, read: ReadSettings | None = None) -> Job:
        """Resolve the defaults of `stargap.measure`.

        Raises:
            UsageError: a transfer that was trained on spectra of another preset; a GPU where there is none.
            ModelError: a model that cannot be used.
        """
        settings = MeasureSettings() if settings is None else settings
        device_named(settings.device)
        if model is None:
            model = LAMOST if settings.preset == "stargap" else EMULATOR
        used = load_model_named(model)
        if not isinstance(used, Emulator):
            if used.grid != grid_for(settings.preset):
                message = (
                    f"{model}: this transfer works on spectra prepared by the {used.grid.name} preset, not "
                    f"{settings.preset}"
                )
                raise UsageError(message)
            settings = settings_for(used, settings)
        return cls(settings, str(model), used.card.sha256, read or ReadSettings())

    def load(self) -> Emulator | AnyTransfer:
        """Return the model.

        Raises:
            ModelError: it was replaced since.
        """
        return _load(self.model, self.digest)


@lru_cache(maxsize=2)
def _load(name: str, digest: str) -> Emulator | AnyTransfer:
    model = load_model_named(name)
    if model.card.sha256 != digest:
        message = f"{name}: the model was replaced while it was in use"
        raise ModelError(message)
    return model


@single_thread()
def measure_items(
    job: Job, first: int, items: Sequence[str | Path | Spectrum | SpectrumError]
) -> tuple[Columns, Fitted]:
    """Read and measure at most `batch_size` spectra, one row each.

    Args:
        job: settings and model.
        first: ``spectrum_id`` of the first row.
        items: paths, spectra, or the reasons why there is none.
    """
    read: list[Spectrum | SpectrumError] = []
    for item in items:
        try:
            read.append(
                _checked(item) if isinstance(item, (Spectrum, SpectrumError)) else read_spectrum(item, job.read)
            )
        except SpectrumError as error:
            read.append(error)
    model = job.load()
    emulator, transfer = (model, None) if isinstance(model, Emulator) else (model.emulator, model)
    return measure_batch(read, job.settings, emulator, transfer=transfer, first_id=first)


def _checked(given: Spectrum | SpectrumError) -> Spectrum:
    if isinstance(given, SpectrumError):
        raise given
    power = None if given.resolution is None else over(given.wavelength, given.resolution)
    return check_spectrum(
        Content(given.wavelength, given.flux, given.ivar, facts=given.facts, resolution=power), given.facts.path
    )
