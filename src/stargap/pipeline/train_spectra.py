"""The observed spectra that ``stargap train`` trains on: the user's own, or simulated stars."""

from __future__ import annotations

import json

import numpy as np

from stargap.console import bars
from stargap.errors import UsageError
from stargap.files import clean_folder, replacing
from stargap.mock.instrument import simulate_prepared
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.pipeline.train_settings import TrainSettings
from stargap.spectra.prepared import PreparedSpectra

__all__ = ["training_spectra"]


def training_spectra(settings: TrainSettings, *, progress: bool = False) -> PreparedSpectra:
    """Return the observed spectra of a training, mapped from disk; simulated ones are made at the first call.

    Args:
        settings: whose ``data`` is read.
        progress: show a progress bar on stderr, where that is a terminal.

    Raises:
        UsageError: files are missing or damaged, or the output folder holds other simulated stars.
    """
    data = settings.data
    if data.spectra is not None:
        return PreparedSpectra.load(data.spectra)
    assert data.simulated is not None
    nature, folder = shipped_nature(), settings.output / "spectra"
    origin = {"simulated": str(data.simulated), "mix": data.mix, "seed": str(data.seed), "nature": nature.card.sha256}
    mark = folder / "simulated.json"
    if mark.exists():
        try:
            found = json.loads(mark.read_bytes())
        except ValueError:
            found = {}
        if found != origin:
            message = f"{folder} holds other simulated stars ({found}): choose another output, or delete it"
            raise UsageError(message)
        return PreparedSpectra.load(folder)
    clean_folder(folder, "simulation")
    labels, active = nature_labels(data.simulated, seed=data.seed, mix=data.mix)
    with bars(show=progress) as report:
        spectra = simulate_prepared(
            labels, active, nature, seed=data.seed, progress=lambda *done: report("simulating", *done)
        )
    spectra.save(folder)
    with replacing(folder / "truth.npy") as file:
        np.save(file, labels)
    with replacing(mark) as file:
        file.write((json.dumps(origin, indent=2) + "\n").encode())
    return PreparedSpectra.load(folder)
