"""What stargap does with the same spectra: the emulator alone, Cycle-StarNet, the default, and its anchors."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_anchors import SAMPLE, photometry
from make_transfer import ANCHOR_ERRORS, LEVELS, PRIOR_DRAWS, TRAIN_SEED, parameters

from peers.survey import MIX, TIED, Spectra, Survey
from stargap.fit.compressed import compressed_emulator
from stargap.fit.domains import fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.photometry.labels import photometric_labels
from stargap.pipeline.anchor_tables import photometric_anchors
from stargap.settings import MeasureSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.theory.emulator import Emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual.fits import Fits
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.matched import AnchorFits, fit_known, tie_labels
from stargap.transfer.residual.model import ResidualTransfer

BATCH = 256


def payne(emulator: Emulator) -> Callable[[Spectra], np.ndarray]:
    """Return the fit of the emulator alone, as `stargap measure --model emulator` does it."""

    def fit(spectra: Spectra) -> np.ndarray:
        found = []
        for first in range(0, len(spectra), BATCH):
            star = spectra.prepared(slice(first, first + BATCH))
            model, floor = EmulatorModel(emulator, star), MeasureSettings().floor
            result = fit_labels(star, model, emulator, parameters(emulator), error_floor=floor, errors=False,
                                compressed=compressed_emulator(emulator, star.grid))  # fmt: skip
            found.append(result.labels.numpy()[:, :3])
        return np.concatenate(found)

    return fit


def through(transfer: StarnetTransfer) -> Callable[[Spectra], np.ndarray]:
    """Return the fit of both domains through the published network."""

    def fit(spectra: Spectra) -> np.ndarray:
        found = []
        for first in range(0, len(spectra), BATCH):
            star = spectra.prepared(slice(first, first + BATCH))
            result = fit_domains(star, transfer, parameters(transfer.emulator), starts=1, slots=8)
            found.append(result.observed.labels.numpy()[:, :3])
        return np.concatenate(found)

    return fit


@dataclass(frozen=True)
class Raw:
    """Fits before the label map: ``labels (star, 4)``, ``covariance (star, 3, 3)``, processor seconds a star."""

    labels: torch.Tensor
    covariance: torch.Tensor
    seconds: float

    def through(self, transfer: ResidualTransfer) -> np.ndarray:
        """Return what a transfer publishes of them, ``(star, 3)``."""
        return transfer.publish(self.labels, self.covariance)[0].numpy()[:, :3]


def before_map(survey: Survey, level: str, kind: str, spectra: Spectra) -> Raw:
    """Fit spectra through the default transfer without its label map and main sequence, or read these fits.

    Transfers that are tied to labels differ from the default by these alone.
    """
    path = survey.folder / f"raw-{level}-{kind}.pt"
    if not path.exists():
        plain = copy.deepcopy(trained(survey, level)[0])
        for part in (plain.label_map.weight, plain.label_map.covariance, plain.sequence):
            part.zero_()
        labels, covariance, began = [], [], time.process_time()
        for first in range(0, len(spectra), BATCH):
            star = spectra.prepared(slice(first, first + BATCH))
            result = fit_domains(star, plain, parameters(plain.emulator), exact=False)
            labels.append(result.observed.labels)
            covariance.append(result.covariance)
        seconds = (time.process_time() - began) / len(spectra)
        torch.save((torch.cat(labels), torch.cat(covariance), seconds), path)
    return Raw(*torch.load(path, weights_only=True))


def timed(path: Path, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and the processor seconds that it took when it was first done, kept in a file."""
    began = time.process_time()
    made = work()
    if not path.exists():
        path.write_text(str(time.process_time() - began))
    return made, float(path.read_text())


def trained(survey: Survey, level: str) -> tuple[ResidualTransfer, float]:
    """Return the default transfer and the seconds that its training took."""
    transfer, seconds = timed(survey.folder / f"residual-{level}.seconds", lambda: survey.residual(level, MIX))
    return transfer, transfer.card.scores.get("seconds", seconds) if level == "hard" else seconds


def anchored(survey: Survey, level: str, kind: str) -> tuple[ResidualTransfer, float]:
    """Return the default transfer tied to the labelled stars, and the seconds that this took beyond its training.

    It is tied to their ``photometry``, as `stargap mock` makes it, with pairs and the scatter of relations, or to the
    labels of the ``literature``.
    """
    transfer = copy.deepcopy(trained(survey, level)[0])
    prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
    fits, rows, seconds = _known(survey, level, transfer)
    began = time.process_time()
    if kind == "photometry":
        spectra, _, truth = survey.labelled
        places, known = photometric_anchors(photometric_labels(photometry(truth[:TIED], spectra.snr[:TIED])[0]))
        _, mine, theirs = np.intersect1d(rows, places, return_indices=True)
        chosen = torch.as_tensor(mine)
        tied = LabelledFits(fits.anchors.fitted[chosen], fits.anchors.covariance[chosen], known[theirs])
        fits = AnchorFits(tied, fits.own, fits.group[mine], fits.sample)
    tie_labels(transfer, fits, prior, survey.settings)
    return transfer, seconds + time.process_time() - began


def _known(survey: Survey, level: str, transfer: ResidualTransfer) -> tuple[AnchorFits, np.ndarray, float]:
    """Fit the labelled stars, or read their fits; also which of them could be fitted, and the seconds that it took."""
    path = survey.folder / f"known-{level}.pt"
    labels = survey.labelled[1][:TIED]
    known = AnchorLabels(labels, np.tile(ANCHOR_ERRORS, (TIED, 1)), sources=["literature"] * TIED)
    if not path.exists():
        began, box = time.process_time(), parameters(transfer.emulator)
        settings = survey.settings.model_copy(update={"match_stars": SAMPLE})
        fits = fit_known(transfer, survey.training(MIX), np.arange(TIED), known, box, settings)
        rows = np.flatnonzero(np.isin(labels[:, 0], fits.anchors.known.labels[:, 0]))
        torch.save({"anchors": (fits.anchors.fitted, fits.anchors.covariance), "own": fits.own,
                    "sample": vars(fits.sample), "rows": torch.as_tensor(rows),
                    "seconds": time.process_time() - began}, path)  # fmt: skip
    read = torch.load(path, weights_only=True)
    rows = read["rows"].numpy()
    fits = AnchorFits(LabelledFits(*read["anchors"], known[rows]), read["own"], rows % 4, Fits(**read["sample"]))
    return fits, rows, read["seconds"]


def starnet(survey: Survey, level: str, iterations: int) -> tuple[Callable[[Spectra], np.ndarray], float]:
    """Return the fit through the published network after some iterations, and the seconds that these took."""
    path = survey.folder / f"reference-{level}-{iterations}.seconds"
    made, seconds = timed(path, lambda: survey.reference(level, MIX, iterations))
    return through(made[0]), seconds


def emulator_of(survey: Survey, level: str) -> Emulator:
    """Return the synthetic spectra of a level."""
    return survey.emulator(LEVELS[level])
