"""What `stargap train` is asked for, in one TOML file, and the training it asks for."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from stargap.checkpoints import load_best
from stargap.errors import UsageError
from stargap.files import replacing
from stargap.fit.labels import Parameters
from stargap.labels import A_M
from stargap.mock.instrument import simulate
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.run.anchors import read_anchor_stars, scores_of, write_cross_validation
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.starnet.losses import CycleTask
from stargap.starnet.network import CycleStarNet
from stargap.starnet.pairs import PairedSource, SyntheticSpectra
from stargap.starnet.training import TrainingSettings, train
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchored.train import AnchorSettings, train_anchored
from stargap.transfer.residual.matching import Anchors
from stargap.transfer.residual.model import FREE, ResidualTransfer
from stargap.transfer.residual.train import ResidualSettings, fit_training, match_labels, train_residual

__all__ = [
    "DataSettings",
    "PriorSettings",
    "TrainSettings",
    "Trained",
    "find_emulator",
    "find_spectra",
    "read_anchors",
    "run_anchoring",
    "run_training",
]

STANDARDISED = 512
"""Pairs that the network's mean and deviation are taken of."""


class DataSettings(BaseModel):
    """The observed spectra: yours, or simulated stars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spectra: Path | None = None
    """Folder with flux.npy, sigma.npy, good.npy, weight.npy and rv.npy (PreparedSpectra.save); instead of simulated."""
    simulated: Annotated[int, Field(ge=100, le=1_000_000)] | None = None
    """Number of stars to simulate, with other physics than the emulator's; instead of spectra."""
    mix: Literal["matched", "galactic"] = "matched"
    """Labels of simulated stars: distributed as the prior, or 0.1 dex poorer in metals, 60 K cooler and 1.2 as wide."""
    seed: Annotated[int, Field(ge=0, lt=4_000_000)] = 1
    """Seed of the simulation."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if (self.spectra is None) == (self.simulated is None):
            message = "give spectra, a folder, or simulated, a number of stars: one of the two"
            raise ValueError(message)
        return self


class PriorSettings(BaseModel):
    """Labels of the synthetic spectra: along isochrones, distributed as those of real stars (paper section 3.3.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["stargap", "paper"] = "stargap"
    """Box of labels: 2800-4400 K and [M/H] from -2, or the paper's 3000-4000 K and [M/H] from -1."""
    draws: Annotated[int, Field(ge=1000, le=1_000_000)] = 110_000
    """Number of draws."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draws."""
    alpha: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = None
    """Hold [a/M] of all stars here (dex); else it follows [M/H], or is 0 for simulated stars, which are made so."""


class TrainSettings(BaseModel):
    """How a transfer is trained; a run goes on in its output folder where it was stopped.

    Example:
        >>> TrainSettings().data.simulated, TrainSettings().default.rounds
        (20000, 2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["default", "anchored", "reference"] = "default"
    """What is trained: our transfer from unlabelled spectra, one from stars of known labels alone (seconds; needs
    anchors, and no spectra), or the published network (paper section 3.1)."""
    emulator: Path | None = None
    """The synthetic domain: emulator.safetensors or its folder; else the emulator inside the package."""
    output: Path = Path("stargap-transfer")
    """Folder of this run alone: model, checkpoints, metrics, simulated spectra."""
    data: DataSettings = DataSettings(simulated=20_000)
    """Observed spectra: spectra or simulated."""
    prior: PriorSettings = PriorSettings()
    """Labels of synthetic spectra (paper section 3.3.2)."""
    anchors: Path | None = None
    """Stars with known labels. For "anchored": CSV with path,teff,logg,m_h (K, dex), and perhaps star, a name, and
    scored, 0 for spectra that only train; paths start at the CSV. For "default": CSV with
    row,teff,e_teff,logg,e_logg,m_h,e_m_h, by the row in the spectra, that the label map is fitted to as well."""
    default: ResidualSettings = ResidualSettings()
    """Of the architecture "default"."""
    anchored: AnchorSettings = AnchorSettings()
    """Of the architecture "anchored"."""
    reference: TrainingSettings = TrainingSettings()
    """Of the architecture "reference" (paper section 3.2)."""

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.architecture == "anchored" and self.anchors is None:
            message = 'architecture = "anchored" needs anchors, a CSV with path,teff,logg,m_h'
            raise ValueError(message)
        return self

    @property
    def alpha(self) -> float | None:
        """The value at which [a/M] is held, or None."""
        return 0.0 if self.prior.alpha is None and self.data.simulated is not None else self.prior.alpha


@dataclass(frozen=True)
class Trained:
    """How a training ended: the model's path (None if a signal stopped it), wall time of its parts (s), scores."""

    path: Path | None
    seconds: float
    scores: dict[str, float]


def find_emulator(settings: TrainSettings) -> Emulator:
    """Read the emulator that is asked for.

    Raises:
        ModelError: it cannot be used.
        UsageError: [a/M] is to be held at a value that the emulator does not know.
    """
    path = settings.emulator
    if path is not None and path.suffix != ".safetensors":
        path = path / "emulator.safetensors"
    emulator = shipped_emulator() if path is None else Emulator.load(path)
    alpha, low, high = settings.alpha, emulator.card.lower[A_M], emulator.card.upper[A_M]
    if alpha is not None and not low <= alpha <= high:
        message = f"prior.alpha is {alpha:g}; the emulator knows [a/M] from {low:g} to {high:g}"
        raise UsageError(message)
    return emulator


def find_spectra(
    settings: TrainSettings, *, progress: Callable[[str, int, int], None] | None = None
) -> PreparedSpectra:
    """Map the observed spectra, after simulating them if that is asked for and they are not there yet.

    Args:
        settings: whose ``data`` says which.
        progress: called with what is done, how much is done, and the total.

    Raises:
        UsageError: files are missing or damaged, or the output folder holds other simulated stars.
    """
    data = settings.data
    if data.spectra is not None:
        return PreparedSpectra.load(data.spectra)
    assert data.simulated is not None
    nature, folder = shipped_nature(), settings.output / "spectra"
    wanted = {"simulated": str(data.simulated), "mix": data.mix, "seed": str(data.seed), "nature": nature.card.sha256}
    done = folder / "simulated.json"
    if done.exists():
        try:
            found = json.loads(done.read_bytes())
        except ValueError:
            found = {}
        if found != wanted:
            message = f"{folder} holds other simulated stars ({found}): choose another output, or delete it"
            raise UsageError(message)
        return PreparedSpectra.load(folder)
    shutil.rmtree(folder, ignore_errors=True)
    labels, active = nature_labels(data.simulated, seed=data.seed, mix=data.mix)
    spectra, first = PreparedSpectra.empty(len(labels)), 0
    for truth, native, _ in simulate(labels, active, nature, seed=data.seed):
        star = prepare(native, torch.as_tensor(truth.rv_used))
        spectra.put(first, PreparedSpectra.from_prepared(star, truth.rv_used))
        first += len(truth.rv)
        if progress is not None:
            progress("simulating", first, len(labels))
    spectra.save(folder)
    with replacing(folder / "truth.npy") as file:
        np.save(file, labels)
    with replacing(done) as file:
        file.write((json.dumps(wanted, indent=2) + "\n").encode())
    return PreparedSpectra.load(folder)


def run_training(
    settings: TrainSettings, emulator: Emulator, spectra: PreparedSpectra, *, progress: bool = True
) -> Trained:
    """Train what is asked for, or go on with it, and write the model into the output folder.

    Args:
        settings: what and how.
        emulator: from `find_emulator`.
        spectra: from `find_spectra`.
        progress: show bars on stderr.

    Raises:
        UsageError: see `train_residual` and `training.train`.
    """
    prior, data = settings.prior, settings.data
    if settings.anchors is not None:
        read_anchors(settings.anchors, len(spectra))
    labels = draw_training_labels(prior.draws, preset=prior.preset, alpha=settings.alpha, seed=prior.seed)
    if data.spectra is not None:
        origin = f"{len(spectra)} spectra of {data.spectra.name}"
    else:
        origin = f"{len(spectra)} simulated spectra ({data.mix} mix, seed {data.seed}, nature of other physics)"
    made = _train_default if settings.architecture == "default" else _train_reference
    return made(settings, emulator, spectra, labels, origin, progress)


def run_anchoring(
    settings: TrainSettings, emulator: Emulator, *, progress: Callable[[str, int, int], None] | None = None
) -> Trained:
    """Make a transfer from the anchor stars, cross-validate it, and write both into the output folder.

    Args:
        settings: whose ``anchors`` and ``anchored`` say how.
        emulator: from `find_emulator`.
        progress: called with what is done, how much is done, and the total.

    Raises:
        UsageError: see `read_anchor_stars` and `train_anchored`.
    """
    assert settings.anchors is not None
    began, done = time.monotonic(), 0
    stars, scored = read_anchor_stars(settings.anchors, emulator)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("leaving stars out", done, int(scored.sum()))

    transfer, found = train_anchored(stars, emulator, settings.anchored, scored=scored, progress=tell)
    scores = scores_of(stars, found)
    path = settings.output / "transfer.safetensors"
    transfer.save(
        path,
        training_data=f"{len(set(stars.names))} anchor stars of {settings.anchors.name}",
        settings=settings.anchored.model_dump(mode="json"),
        scores=scores,
        simulated=False,
    )
    write_cross_validation(settings.output / "cross-validation.csv", stars, found)
    return Trained(path, time.monotonic() - began, scores)


def _train_default(
    settings: TrainSettings,
    emulator: Emulator,
    spectra: PreparedSpectra,
    labels: NDArray[np.float64],
    origin: str,
    progress: bool,
) -> Trained:
    chosen, alpha = settings.default, settings.alpha
    transfer = ResidualTransfer(emulator, degree=chosen.degree, map_degree=chosen.map_degree, alpha=alpha)
    parameters = Parameters(emulator.card.lower, emulator.card.upper, {} if alpha is None else {"a_m": alpha})
    folder = settings.output / f"training-{settings.architecture}"
    told = train_residual(transfer, spectra, labels, parameters, chosen, folder, progress=progress)
    if told.stopped == "signal":
        return Trained(None, told.seconds, {})
    if settings.anchors is not None:
        told.reports["anchors match"] = _match_again(settings, transfer, spectra, labels, parameters)
    scores = {f"{stage}: {name}": value for stage, report in told.reports.items() for name, value in report.items()}
    scores = {name: value for name, value in scores.items() if np.isfinite(value)}
    transfer.save(
        settings.output / "transfer.safetensors",
        training_data=origin,
        settings=_dumped(settings, "default"),
        scores=scores,
        simulated=settings.data.simulated is not None,
        seed=chosen.seed,
    )
    return Trained(settings.output / "transfer.safetensors", told.seconds, scores)


def _match_again(
    settings: TrainSettings,
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    prior: NDArray[np.float64],
    parameters: Parameters,
) -> dict[str, float]:
    """Fit the label map once more, with anchors."""
    assert settings.anchors is not None
    chosen = settings.default
    rows, labels, errors = read_anchors(settings.anchors, len(spectra))
    fitted, covariance = fit_training(spectra, rows, transfer, parameters)
    sound = torch.isfinite(fitted).all(dim=1) & torch.isfinite(covariance).all(dim=(1, 2))
    known = (torch.as_tensor(labels)[sound], torch.as_tensor(errors)[sound])
    anchors = Anchors(fitted[sound, :FREE], covariance[sound], *known)
    sample = np.sort(split_rows(len(spectra), chosen.seed)["training"][: chosen.match_stars])
    told = match_labels(transfer, *fit_training(spectra, sample, transfer, parameters), prior, chosen, anchors=anchors)
    return {**told, "anchors": float(sound.sum())}


def read_anchors(path: Path, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return rows ``(star,)``, labels and errors ``(star, 3)`` of stars with known labels.

    Args:
        path: CSV file.
        count: number of spectra that rows are of.

    Raises:
        UsageError: the file cannot be read, lacks columns, or has a row, label or error that makes no sense.
    """
    names = ("row", "teff", "logg", "m_h", "e_teff", "e_logg", "e_m_h")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
        values = np.array([[float(line[name]) for name in names] for line in lines]).reshape(-1, len(names))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        message = f"{path}: not a CSV of {','.join(names)} ({error})"
        raise UsageError(message) from None
    rows, errors = values[:, 0], values[:, 1 + FREE :]
    sound = np.isfinite(values).all(axis=1) & (errors > 0).all(axis=1)
    sound &= (rows % 1 == 0) & (rows >= 0) & (rows < count)
    if not len(values) or not sound.all():
        first = int(np.argmin(sound)) + 2 if len(values) else 2
        message = f"{path}: line {first}: row must be 0 to {count - 1}, labels finite and their errors positive"
        raise UsageError(message)
    return rows.astype(np.int64), values[:, 1 : 1 + FREE], errors


def _train_reference(
    settings: TrainSettings,
    emulator: Emulator,
    spectra: PreparedSpectra,
    labels: NDArray[np.float64],
    origin: str,
    progress: bool,
) -> Trained:
    began = time.monotonic()
    chosen, folder = settings.reference, settings.output / f"training-{settings.architecture}"
    about = {**_dumped(settings, "reference"), "emulator": emulator.card.sha256}
    del about["reference"]
    network = CycleStarNet(seed=chosen.seed)
    network.precision = torch.bfloat16 if chosen.bf16 else None  # its own layers do not take autocast
    made = (len(labels), json.dumps(about, sort_keys=True))
    source = PairedSource(spectra, SyntheticSpectra(emulator, labels), made=made, seed=chosen.seed)
    first = source.batch(0, STANDARDISED)
    network.standardise(first.synthetic, first.observed, first.observed_good)
    task = CycleTask(network)
    about["bf16"] = chosen.bf16
    plain = chosen.model_copy(update={"bf16": False})
    result = train(task, source, plain, folder, about=about, progress=progress)
    seconds = time.monotonic() - began
    if result.stopped == "signal":
        return Trained(None, seconds, {})
    scores = load_best(task, folder)
    path = settings.output / "network.safetensors"
    network.save(path, training_data=origin, seed=chosen.seed, iterations=result.steps, scores=scores)
    return Trained(path, seconds, scores)


def _dumped(settings: TrainSettings, architecture: str) -> dict[str, Any]:
    """Return what makes the model, in JSON types, without the places of files."""
    dumped = settings.model_dump(mode="json", include={"data", "prior", architecture})
    del dumped["data"]["spectra"]
    return dumped
