"""Any spectrum of a run for its viewer: as observed at once, with its model once it has been fitted again."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stargap.validation.report.spectra import RunModels

__all__ = ["RunSpectra"]

_KEPT = 64
"""Fits that are kept: 25 kB each."""


class RunSpectra:
    """Spectra of a run from its store, which is only read.

    What fits need (torch, the models of the run) is loaded when it is first asked for.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._models: RunModels | None = None
        self._fits: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._lock = Lock()

    def _loaded(self) -> RunModels:
        from stargap.validation.report.spectra import RunModels

        if self._models is None:
            self._models = RunModels.load(self.folder)
        return self._models

    def observed(self, spectrum_id: int) -> dict[str, Any]:
        """Return a spectrum without a model (see `spectrum_content`).

        Raises:
            UsageError: the store is gone, damaged, or has no such spectrum.
        """
        from stargap.validation.report.explorer import spectrum_content
        from stargap.validation.report.spectra import observe

        return spectrum_content(observe(self.folder, spectrum_id), slice(None))

    def fitted(self, spectrum_id: int) -> dict[str, Any]:
        """Return a spectrum with its model, fitted as the run fitted it.

        Raises:
            UsageError: store, velocities or models are gone, or the spectrum was not measured.
        """
        from stargap.validation.report.explorer import spectrum_content
        from stargap.validation.report.spectra import fit_again

        with self._lock:  # a fit uses every thread that it may, and sets how many
            if spectrum_id not in self._fits:
                found = fit_again(self._loaded(), np.array([spectrum_id]), step=1)
                self._fits[spectrum_id] = spectrum_content(found, slice(None))
            self._fits.move_to_end(spectrum_id)
            while len(self._fits) > _KEPT:
                self._fits.popitem(last=False)
            return self._fits[spectrum_id]
