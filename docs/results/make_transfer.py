"""Make docs/results/transfer.md: transfers trained and tested on a simulated survey whose truth is known.

Every product lies in a work folder; what is there is not made again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stargap.measure.labels import Parameters
from stargap.mock.instrument import Truth, prepared_stars, training_spectra
from stargap.mock.nature import interpolate_nature, nature_labels
from stargap.theory.grids import read_hdf5_grid
from stargap.theory.payne import Emulator, Training, fit_emulator
from stargap.theory.training_labels import draw_training_labels
from stargap.transfer.checkpoints import load_best
from stargap.transfer.losses import CycleTask
from stargap.transfer.network import CycleStarNet
from stargap.transfer.pairs import PairedSource
from stargap.transfer.reference import ReferenceTransfer
from stargap.transfer.residual import ResidualTransfer
from stargap.transfer.rounds import ResidualSettings, train_residual
from stargap.transfer.spectra import TrainingSpectra
from stargap.transfer.training import TrainingSettings, train

LEVELS = {"mild": "marcs_ts_base", "hard": "marcs_ts_nocah"}
MIXES = ("matched", "galactic")
TRAIN_SEED, TEST_SEED, NETWORK_SEED = 101, 202, 0
TEST_STARS = 5_120
PRIOR_DRAWS = 110_000
BINS = ((50.0, 1e9), (20.0, 50.0), (5.0, 20.0))
NAMES = ("teff", "logg", "m_h")


def parameters(emulator: Emulator) -> Parameters:
    """All labels free but [a/M], which nature and model share."""
    lower, upper = list(emulator.card.lower), list(emulator.card.upper)
    lower[3] = upper[3] = 0.0
    return Parameters(tuple(lower), tuple(upper), {"a_m": 0.0})


@dataclass
class Work:
    """What has been made so far, in one folder."""

    folder: Path
    data: Path
    spectra: int
    settings: ResidualSettings

    def emulator(self, name: str) -> Emulator:
        """Train, or read, an emulator: nature at R = 2600 or 1800, or of one of the grids."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            grid = self.data / "grid"
            if name in ("nature", "oracle"):
                pair = (read_hdf5_grid(grid / f"marcs_ts_{which}.h5") for which in ("alt", "base"))
                resolution = 2600.0 if name == "nature" else 1800.0
                recipe = Training(resolution=resolution, hidden=160, steps=3000, patience=3000)
                emulator, _ = fit_emulator(interpolate_nature(*pair), recipe)
            else:
                emulator, _ = fit_emulator(read_hdf5_grid(grid / f"{name}.h5"))
            emulator.save(path)
        return Emulator.load(path)

    def training(self, mix: str) -> TrainingSpectra:
        """Simulate, or map, the training survey of one mix."""
        folder = self.folder / f"spectra-{mix}"
        if not (folder / "done").exists():
            began = time.monotonic()
            labels, active = nature_labels(self.spectra, seed=TRAIN_SEED, mix=mix)
            spectra, _ = training_spectra(labels, active, self.emulator("nature"), seed=TRAIN_SEED)
            spectra.save(folder)
            (folder / "done").write_text(json.dumps({"seconds": time.monotonic() - began}))
        return TrainingSpectra.load(folder)

    def test(self, mix: str) -> list[tuple[Truth, Any, torch.Tensor]]:
        """Simulate test stars, prepared in full, with their noiseless spectra."""
        labels, active = nature_labels(TEST_STARS, seed=TEST_SEED, mix=mix)
        return list(prepared_stars(labels, active, self.emulator("nature"), seed=TEST_SEED))

    def residual(self, level: str, mix: str, variant: str = "default") -> ResidualTransfer:
        """Train, or read, a residual transfer; `variant` is one of `ABLATIONS`."""
        name = f"residual-{level}-{mix}-{variant}"
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            change, options = ABLATIONS[variant]
            settings = self.settings.model_copy(update=change)
            emulator = self.emulator(LEVELS[level])
            transfer = ResidualTransfer(
                emulator,
                degree=settings.degree,
                map_degree=settings.map_degree,
                split=options.get("split", True),
                alpha=0.0,
            )
            prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
            told = train_residual(
                transfer, self.training(mix), prior, parameters(emulator), settings, self.folder / name, progress=False
            )
            if told.stopped == "signal":
                raise SystemExit(130)
            (self.folder / f"{name}.json.log").write_text(json.dumps({"seconds": told.seconds, **told.reports}))
            transfer.save(
                path,
                training_data=f"{self.spectra} simulated spectra ({mix} mix, nature of other physics)",
                settings=settings.model_dump(),
                scores={"seconds": told.seconds},
                simulated=True,
            )
        return ResidualTransfer.load(path)

    def reference(self, level: str, mix: str, iterations: int) -> tuple[ReferenceTransfer, dict[str, float]]:
        """Train, or prolong, the published network; the best state up to `iterations` is returned."""
        folder = self.folder / f"reference-{level}-{mix}-{iterations}"
        emulator = self.emulator(LEVELS[level])
        network = CycleStarNet(seed=NETWORK_SEED)
        network.precision = torch.bfloat16
        source = PairedSource(
            self.training(mix), _Synthetic(emulator), made=(PRIOR_DRAWS, f"{level} prior {TRAIN_SEED}"), validation=1024
        )
        first = source.batch(0, 512)
        network.standardise(first.synthetic, first.observed, first.observed_good)
        task = CycleTask(network)
        settings = TrainingSettings(iterations=iterations, validate_every=500, checkpoint_every=500, log_every=50)
        if not (folder / "done").exists():
            began = time.monotonic()
            result = train(task, source, settings, folder, progress=False)
            if result.stopped == "signal":
                raise SystemExit(130)
            (folder / "done").write_text(json.dumps({"seconds": time.monotonic() - began}))
        scores = load_best(task, folder)
        return ReferenceTransfer(network, emulator), scores


class _Synthetic:
    """Spectra of prior draws, normalised with the weights of their partners."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.labels = torch.as_tensor(draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED))

    def __call__(self, rows: np.ndarray, weight: torch.Tensor) -> torch.Tensor:
        from stargap.spectra.prepare import normalise

        with torch.no_grad():
            flux = self.emulator.flux(self.labels[rows])
            return normalise(flux / flux.mean(dim=1, keepdim=True), weight)[0]


ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "flat error floor": ({"gauge_rounds": 0}, {}),
    "no correction": ({"rounds": 0}, {}),
    "no split numbers": ({}, {"split": False}),
    "no label map": ({"match": False}, {}),
    "no main sequence": ({"sequence": False}, {}),
    "linear correction": ({"degree": 1}, {}),
    "cubic correction": ({"degree": 3}, {}),
    "linear label map": ({"map_degree": 1}, {}),
    "rival: parabola alone": ({"gauge_rounds": 0, "match": False, "sequence": False}, {"split": False}),
}


def main() -> None:
    """Make what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    parser.add_argument("--spectra", type=int, default=110_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Work(options.work, options.data, options.spectra, ResidualSettings())
    for task in options.only.split(","):
        kind, *rest = task.split(":")
        began = time.monotonic()
        if kind == "spectra":
            work.training(rest[0])
        elif kind == "residual":
            work.residual(*rest)
        elif kind == "reference":
            work.reference(rest[0], rest[1], int(rest[2]))
        elif kind == "emulators":
            for name in ("nature", "oracle", *LEVELS.values()):
                work.emulator(name)
        print(task, f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
