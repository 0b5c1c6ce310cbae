"""The training of a transfer as ``stargap train`` does it: emulator, spectra, one of four architectures, a model."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.checkpoints import load_best
from stargap.console import bars
from stargap.errors import UsageError
from stargap.files import claim_folder
from stargap.fit.parameters import Parameters
from stargap.labels import A_M, M_H, alpha_relation
from stargap.pipeline.anchor_tables import usable_anchors
from stargap.pipeline.anchors import read_anchor_labels, read_anchor_stars, scores_of, write_cross_validation
from stargap.pipeline.train_settings import TrainSettings
from stargap.pipeline.train_spectra import training_spectra
from stargap.rows import IntColumn
from stargap.settings import read_settings_as
from stargap.spectra.prepared import PreparedSpectra
from stargap.starnet.losses import CycleTask
from stargap.starnet.pairs import KnownStars, PairedSource, SyntheticSpectra
from stargap.starnet.recipe import new_task
from stargap.starnet.training import train as train_network
from stargap.starnet.training_settings import TrainingSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.anchored.train import train_anchored
from stargap.transfer.residual.matched import match_anchors
from stargap.transfer.residual.model import ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.train import train_residual

__all__ = ["Trained", "residual_transfer", "train", "train_starnet", "training_emulator"]

LEAST_SINGLE = 0.5
"""Least chance of being no unresolved pair that a star needs to train a network with its labels."""
STANDARDISED = 512
"""Number of pairs from which the network takes the mean and standard deviation of its inputs."""


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    ``path`` is the model, None where a signal stopped the training; ``seconds`` the wall time of all its parts;
    ``scores`` are numbers by name; ``spectra`` counts the training spectra, those of anchor stars included.
    """

    path: Path | None
    seconds: float
    scores: dict[str, float]
    spectra: int


def train(settings: TrainSettings | str | Path, *, progress: bool = False) -> Trained:
    """Train a transfer, or resume a training that was stopped, and write the model into the output folder.

    What ``stargap train`` does; `stargap.measure` takes the ``path`` of the result as its model.

    Args:
        settings: see `TrainSettings`, or a TOML file with them (``stargap train --example`` prints one).
        progress: show progress bars on stderr, where that is a terminal, or in a notebook.

    Raises:
        ModelError: the emulator cannot be used.
        UsageError: spectra or anchors cannot be read, or the output folder holds another training or
            files that are not stargap's.

    Example:
        >>> import stargap
        >>> stargap.train("nowhere.toml")
        Traceback (most recent call last):
        stargap.errors.UsageError: nowhere.toml: cannot be read (No such file or directory)
    """
    if not isinstance(settings, TrainSettings):
        settings = read_settings_as(TrainSettings, settings)
    emulator = training_emulator(settings)
    claim_folder(settings.output, "training")
    if settings.architecture == "anchored":
        return _train_anchored(settings, emulator, progress)
    spectra = training_spectra(settings, progress=progress)
    make = _train_default if settings.architecture == "default" else _train_network
    return make(settings, emulator, spectra, progress)


def training_emulator(settings: TrainSettings) -> Emulator:
    """Load the emulator that the settings name, by default the one inside the package.

    Raises:
        ModelError: it cannot be used.
        UsageError: [a/M] is fixed at a value outside the emulator's training range.
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


def residual_transfer(
    emulator: Emulator, settings: ResidualSettings, alpha: float | None
) -> tuple[ResidualTransfer, Parameters]:
    """Return a residual transfer that is not trained yet, and the parameters of its fits.

    Args:
        emulator: the synthetic domain.
        settings: degrees of the correction and of the label map.
        alpha: the value at which [a/M] is fixed (dex), or None.
    """
    transfer = ResidualTransfer(emulator, degree=settings.degree, map_degree=settings.map_degree, alpha=alpha)
    fixed = {} if alpha is None else {"a_m": alpha}
    return transfer, Parameters(emulator.card.lower, emulator.card.upper, fixed)


def _train_anchored(settings: TrainSettings, emulator: Emulator, progress: bool) -> Trained:
    """Train on the anchor stars, cross-validate, and write the transfer and the cross-validation."""
    began = time.monotonic()
    stars, scored = read_anchor_stars(settings.anchors, emulator, settings.targets)
    with bars(show=progress) as report:
        done, total = 0, int(scored.sum())

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report("leaving stars out", done, total)

        transfer, found = train_anchored(stars, emulator, settings.anchored, scored=scored, progress=advance)
    scores = scores_of(stars, found)
    path = settings.output / "transfer.safetensors"
    transfer.save(
        path,
        training_data=f"{len(set(stars.names))} anchor stars of {_names(settings)}",
        settings=settings.anchored.model_dump(mode="json"),
        scores=scores,
        simulated=False,
    )
    write_cross_validation(settings.output / "cross-validation.csv", stars, found)
    return Trained(path, time.monotonic() - began, scores, len(stars))


def _train_default(settings: TrainSettings, emulator: Emulator, spectra: PreparedSpectra, progress: bool) -> Trained:
    chosen, prior = settings.default, _prior_labels(settings)
    anchors = read_anchor_labels(settings.anchors, len(spectra), settings.targets) if settings.anchors else None
    transfer, parameters = residual_transfer(emulator, chosen, settings.alpha)
    folder = settings.output / "training-default"
    result = train_residual(transfer, spectra, prior, parameters, chosen, folder, progress=progress)
    if result.stopped == "signal":
        return Trained(None, result.seconds, {}, len(spectra))
    if anchors is not None:
        report = match_anchors(transfer, spectra, *anchors, prior, parameters, chosen)
        result.reports["anchors match"] = report
    scores = result.scores()
    path = _save_transfer(transfer, settings, spectra, scores, chosen.seed)
    return Trained(path, result.seconds, scores, len(spectra))


def train_starnet(
    emulator: Emulator,
    spectra: PreparedSpectra,
    labels: NDArray[np.float64],
    settings: TrainingSettings,
    folder: Path,
    *,
    about: dict[str, Any],
    alpha: float | None = None,
    anchors: tuple[IntColumn, AnchorLabels] | None = None,
    task: CycleTask | None = None,
    progress: bool = False,
) -> tuple[StarnetTransfer, dict[str, float]] | None:
    """Train the published network or ours, or resume its training in `folder` (paper section 3.2).

    Args:
        emulator: makes the synthetic spectra.
        spectra: observed.
        labels: of the synthetic spectra, drawn from the label prior, ``(draw, 4)``.
        settings: schedule of the published network, or all of ours (`StarnetSettings`).
        folder: of this training alone.
        about: other facts that must not change when the training resumes, in JSON types.
        alpha: [a/M] at which the labels of all stars are fixed (dex), or None.
        anchors: rows of the observed spectra of stars with known labels, and these: X_s->o of their labels is compared
            with their spectra.
        task: network, critics and losses to begin with, instead of those of the settings.
        progress: show a progress bar on stderr, where that is a terminal.

    Returns:
        the network of the best label-blind validation score and these scores; None if a signal stopped the training.
    """
    about = {**about, "emulator": emulator.card.sha256}
    task = task or new_task(settings)
    network = task.network
    made = (len(labels), json.dumps(about, sort_keys=True))
    known = None if anchors is None else _known_stars(emulator, spectra, *anchors, alpha)
    synthetic = SyntheticSpectra(emulator, labels, spectra.grid)
    source = PairedSource(spectra, synthetic, made=made, known=known, seed=settings.seed)
    first = source.batch(0, STANDARDISED)
    network.standardise(first.synthetic, first.observed, first.observed_good)
    about["bf16"] = settings.bf16
    plain = settings.model_copy(update={"bf16": False})
    result = train_network(task, source, plain, folder, about=about, progress=progress)
    if result.stopped == "signal":
        return None
    scores = load_best(task, folder)
    transfer = StarnetTransfer(network, emulator, grid=spectra.grid, alpha=alpha, iterations=result.steps)
    return transfer, scores


def _known_stars(
    emulator: Emulator, spectra: PreparedSpectra, rows: IntColumn, anchors: AnchorLabels, alpha: float | None
) -> KnownStars:
    """Return the anchors that are probably single, with labels that the emulator knows, for pairs of a network."""
    used = usable_anchors(anchors, emulator.lower[:3].numpy(), emulator.upper[:3].numpy())
    used &= anchors.p_single >= LEAST_SINGLE
    known = anchors.labels[used].clip(emulator.lower[:3].numpy(), emulator.upper[:3].numpy())
    if not len(known):
        message = f"of {len(anchors)} anchors none is a single star with usable labels: add others"
        raise UsageError(message)
    a_m = alpha_relation(known[:, M_H]) if alpha is None else np.full(len(known), alpha)
    labels = np.column_stack([known, a_m])
    digest = hashlib.sha256(np.ascontiguousarray(rows[used]).tobytes() + labels.tobytes()).hexdigest()
    return KnownStars(rows[used], SyntheticSpectra(emulator, labels, spectra.grid), digest)


def _train_network(settings: TrainSettings, emulator: Emulator, spectra: PreparedSpectra, progress: bool) -> Trained:
    began = time.monotonic()
    labels, folder = _prior_labels(settings), settings.output / f"training-{settings.architecture}"
    about = _card_settings(settings)
    del about[settings.architecture]
    chosen = settings.starnet if settings.architecture == "starnet" else settings.reference
    anchors = read_anchor_labels(settings.anchors, len(spectra), settings.targets) if settings.anchors else None
    made = train_starnet(
        emulator, spectra, labels, chosen, folder, about=about, alpha=settings.alpha, anchors=anchors, progress=progress
    )
    if made is None:
        return Trained(None, time.monotonic() - began, {}, len(spectra))
    transfer, scores = made
    path = _save_transfer(transfer, settings, spectra, scores, chosen.seed)
    return Trained(path, time.monotonic() - began, scores, len(spectra))


def _save_transfer(
    transfer: ResidualTransfer | StarnetTransfer,
    settings: TrainSettings,
    spectra: PreparedSpectra,
    scores: dict[str, float],
    seed: int,
) -> Path:
    """Write a transfer trained on unlabelled spectra, and return the path of its file."""
    path = settings.output / "transfer.safetensors"
    transfer.save(
        path,
        training_data=_origin(settings, spectra),
        settings=_card_settings(settings),
        scores=scores,
        simulated=settings.data.simulated is not None,
        seed=seed,
    )
    return path


def _prior_labels(settings: TrainSettings) -> NDArray[np.float64]:
    prior = settings.prior
    return draw_training_labels(prior.draws, preset=prior.preset, alpha=settings.alpha, seed=prior.seed)


def _origin(settings: TrainSettings, spectra: PreparedSpectra) -> str:
    """Return the description of the training data for the card."""
    data = settings.data
    if data.spectra is not None:
        spectra_text = f"{len(spectra)} spectra of {data.spectra.name}"
    else:
        spectra_text = f"{len(spectra)} simulated spectra ({data.mix} mix, seed {data.seed}, nature of other physics)"
    return f"{spectra_text}; labels of {_names(settings)}" if settings.anchors else spectra_text


def _names(settings: TrainSettings) -> str:
    return ", ".join(path.name for path in settings.anchors)


def _card_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that the model depends on, in JSON types, without the paths of files."""
    dumped = settings.model_dump(mode="json", include={"data", "prior", settings.architecture})
    del dumped["data"]["spectra"]
    return dumped
