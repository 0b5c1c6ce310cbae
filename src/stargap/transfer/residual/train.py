"""Training of the default transfer: fits and corrections in turn, then the label map."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap import __version__
from stargap.checkpoints import metrics_log, stop_signals
from stargap.console import progress_bars
from stargap.errors import UsageError
from stargap.fit.parameters import Parameters
from stargap.modelfile import Card, load_model, save_model, settle_models
from stargap.rows import LabelDraws
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.transfer.residual.fits import BATCH, Fits, brightest, fit_spectra
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.matching import fit_density, fit_label_map, main_sequence
from stargap.transfer.residual.model import MAPPED, ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.sums import CorrectionSum, FloorSum

__all__ = ["ResidualTraining", "match_labels", "train_residual"]

MOST_FAILED = 0.5
"""A stage in which a larger fraction of the fits fails ends the training."""
RANGE = (0.002, 0.998)
"""Quantiles of the training stars' labels beyond which correction and map hold their values."""


@dataclass(frozen=True)
class ResidualTraining:
    """How a training ended: ``stopped`` by itself or a signal, wall time (s) of all its parts, and what it reported."""

    stopped: Literal["finished", "signal"]
    seconds: float
    reports: dict[str, dict[str, float]]

    def scores(self) -> dict[str, float]:
        """Return every finite number that the stages reported, by ``stage: name``."""
        every = {f"{stage}: {name}": value for stage, report in self.reports.items() for name, value in report.items()}
        return {name: value for name, value in every.items() if np.isfinite(value)}


class _Card(Card):
    stage: int
    fingerprint: str
    seconds: float
    reports: dict[str, dict[str, float]]


class _Interrupted(Exception):
    """A signal asks the training to stop."""


def train_residual(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    prior: LabelDraws,
    parameters: Parameters,
    settings: ResidualSettings,
    folder: str | Path,
    *,
    progress: bool = True,
) -> ResidualTraining:
    """Train a residual transfer on observed spectra and on draws of the label prior, unpaired.

    1. Bright stars are fitted with the emulator alone. What it leaves beyond the noise becomes the error floor of
       each pixel, and the fits are repeated: pixels with wrong opacities lose their weight in the labels.
    2. The ratio of observed to synthetic spectra is regressed on Teff and [M/H], pixel by pixel, and the fits are
       repeated through this correction. Validation spectra choose the round with the lowest median reduced
       chi-square: it does not depend on labels, and cannot be lowered by overfitting, since the correction of a pixel
       has six coefficients for thousands of stars.
    3. A random sample is fitted, and the label map (`fit_label_map`) and the main sequence in log g are found.

    Each stage ends with a checkpoint in `folder` and a line in its ``metrics.jsonl``; a later call with the same
    arguments resumes there with the same result. SIGTERM and SIGINT end the training at once: at most one stage is
    repeated.

    Args:
        transfer: trained in place.
        spectra: observed; split 8:2:1 as in `split_rows`.
        prior: labels drawn from the prior, ``(draw, 4)``.
        parameters: free labels and bounds of the fits; teff, logg and m_h must be free.
        settings: sizes, degrees, seed.
        folder: of this training alone.
        progress: show a progress bar on stderr, where that is a terminal.

    Raises:
        UsageError: too few spectra, the folder of another training, or most fits of a stage failed.
    """
    if parameters.free[:MAPPED] != ("teff", "logg", "m_h"):
        message = f"teff, logg and m_h must be free to train a transfer; free are {', '.join(parameters.free)}"
        raise UsageError(message)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stages = _Stages(transfer, spectra, prior, parameters, settings)
    fingerprint = _fingerprint(transfer, spectra, prior, parameters, settings)
    done, spent, reports = _resume(folder, transfer, stages.state, fingerprint)
    began = time.monotonic()
    plan = stages.plan()
    with stop_signals() as caught, metrics_log(folder / "metrics.jsonl", done) as log, progress_bars(progress) as bar:
        task = bar.add_task("fits", total=stages.fits)

        def advance(count: int) -> None:
            bar.advance(task, count)
            if caught:
                raise _Interrupted

        stages.advance = advance
        try:
            for stage, (word, work) in enumerate(plan):
                bar.update(task, description=word)
                if stage < done:
                    continue
                stages.name = f"{stage} {word}"
                report = work()
                reports[stages.name] = report
                seconds = spent + time.monotonic() - began
                log(step=stage + 1, stage=stages.name, seconds=seconds, **report)
                _save(folder, transfer, stages.state, fingerprint, stage + 1, seconds, reports)
        except _Interrupted:
            return ResidualTraining("signal", spent + time.monotonic() - began, reports)
        except _MostFailed as error:
            message = f"{error}; the last good state is kept in {folder}"
            raise UsageError(message) from None
    return ResidualTraining("finished", spent + time.monotonic() - began if done < len(plan) else spent, reports)


class _MostFailed(Exception):
    """Most fits of a stage failed."""


class _Stages:
    """The stages of a training, which change the transfer and ``state``, the tensors that checkpoints hold as well.

    Its arguments are those of `train_residual`. ``advance`` is called with the number of fits done since the last
    call, ``fits`` is their number in all stages, ``name`` the stage that runs.
    """

    def __init__(
        self,
        transfer: ResidualTransfer,
        spectra: PreparedSpectra,
        prior: LabelDraws,
        parameters: Parameters,
        settings: ResidualSettings,
    ) -> None:
        self.transfer, self.spectra, self.prior = transfer, spectra, prior
        self.parameters, self.settings = parameters, settings
        self.advance: Callable[[int], None] = lambda count: None
        self.name = ""
        rows = split_rows(len(spectra), settings.seed)
        rng = np.random.default_rng([settings.seed, 4])
        self.bright = brightest(spectra, rows["training"], settings.stars)
        self.few = np.sort(rng.permutation(self.bright)[: settings.gauge_stars])
        self.sample = np.sort(rng.permutation(rows["training"])[: settings.match_stars])
        self.validation = np.sort(rows["validation"][: settings.validation_stars])
        self.fits = settings.gauge_rounds * len(self.few) + (1 + settings.rounds) * len(self.bright)
        self.fits += settings.rounds * len(self.validation) + len(self.sample)
        count = len(self.bright)
        self.state = {"labels": torch.zeros(count, 4).double(), "chi2": torch.zeros(count).double()}
        self.state |= {"best": transfer.coefficients.clone(), "score": torch.tensor(np.inf).double()}

    def plan(self) -> list[tuple[str, Callable[[], dict[str, float]]]]:
        """Return the stages in order, each with its name."""
        weigh = [("gauge", self.weigh_pixels)] * self.settings.gauge_rounds
        correct = [("correct", self.correct)] * self.settings.rounds
        return [*weigh, ("begin", self.fit_emulator), *correct, ("match", self.match)]

    def weigh_pixels(self) -> dict[str, float]:
        """Set the error floor of each pixel to what fits of the emulator leave beyond the noise."""
        left = FloorSum(self.transfer.floor.numel())
        fits = self._fit(self.few, floor=self.transfer.floor, corrected=False, floor_sum=left)
        self.transfer.floor.copy_(left.value(self.settings.floor))
        return {"median_floor": float(self.transfer.floor.median()), "median_chi2": float(fits.chi2.nanmedian())}

    def fit_emulator(self) -> dict[str, float]:
        """Fit the bright stars with the emulator, and set the range of labels in which the correction varies."""
        label_map = self.transfer.label_map
        fits = self._fit(self.bright, floor=self.transfer.floor, corrected=False)
        place = (fits.labels[:, :MAPPED] - label_map.centre) / label_map.scale
        place = place[torch.isfinite(place).all(dim=1)]
        for side, quantile in zip((label_map.low, label_map.high), RANGE, strict=True):
            side.copy_(place.quantile(quantile, dim=0))
        return self._keep(fits)

    def correct(self) -> dict[str, float]:
        """Regress the correction on labels, fit through it, and keep it if validation spectra fit best so far."""
        sums = CorrectionSum(self.transfer)
        for first in range(0, len(self.bright), BATCH):
            part = slice(first, first + BATCH)
            sums.add(self.state["labels"][part], self.spectra.prepared(self.bright[part]))
        self.transfer.coefficients.copy_(sums.solve(self.settings.ridge))
        fits = self._fit(self.bright, start=self.state["labels"])
        score = float(self._fit(self.validation).chi2.nanmedian())
        if score < self.state["score"]:
            self.state["best"], self.state["score"] = self.transfer.coefficients.clone(), torch.tensor(score).double()
        return {**self._keep(fits), "score": score}

    def match(self) -> dict[str, float]:
        """Take the best correction, and find the label map and the main sequence from a random sample."""
        self.transfer.coefficients.copy_(self.state["best"])
        fits = self._fit(self.sample)
        return match_labels(self.transfer, fits.labels, fits.covariance, self.prior, self.settings)

    def _keep(self, fits: Fits) -> dict[str, float]:
        self.state["labels"], self.state["chi2"] = fits.labels, fits.chi2
        return {"median_chi2": float(fits.chi2.nanmedian())}

    def _fit(self, rows: NDArray[np.int64], **options: Any) -> Fits:
        fits = fit_spectra(self.spectra, rows, self.transfer, self.parameters, advance=self.advance, **options)
        failed = float(fits.chi2.isnan().double().mean())
        if failed > MOST_FAILED:
            message = (
                f"{failed:.0%} of {len(rows)} fits in stage {self.name} failed: are these normalised spectra on the "
                "model's pixels?"
            )
            raise _MostFailed(message)
        return fits


def match_labels(
    transfer: ResidualTransfer,
    labels: Tensor,
    covariance: Tensor,
    prior: LabelDraws,
    settings: ResidualSettings,
    *,
    known: LabelledFits | None = None,
) -> dict[str, float]:
    """Set the label map and the main sequence of a transfer from fitted labels ``(star, 4)`` with covariances.

    Returns:
        what `fit_label_map` returns, and the intrinsic scatter of the main sequence (dex).
    """
    usable = torch.isfinite(labels).all(dim=1) & torch.isfinite(covariance).all(dim=(1, 2))
    labels, covariance = labels[usable, :MAPPED], covariance[usable, :MAPPED, :MAPPED]
    report: dict[str, float] = {}
    if settings.match or known is not None:
        density = fit_density(prior, transfer.label_map, seed=settings.seed)
        report = fit_label_map(
            transfer.label_map,
            labels,
            covariance,
            density,
            known=known,
            free_mix=settings.free_mix,
            effective=settings.effective if settings.match else 0.0,
        )
    if settings.sequence:
        transfer.sequence.copy_(main_sequence(transfer.label_map, labels, covariance))
        report["sequence_width"] = float(transfer.sequence[-1])
    return report


def _fingerprint(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    prior: LabelDraws,
    parameters: Parameters,
    settings: ResidualSettings,
) -> str:
    digest = hashlib.sha256(f"{__version__} {len(spectra)} {parameters} {settings.model_dump_json()}".encode())
    for tensor in transfer.emulator.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    few = slice(None, None, max(len(spectra) // 64, 1))
    arrays = [prior, spectra.rv, *(array[few] for array in (spectra.flux, spectra.sigma, spectra.good, spectra.weight))]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _save(
    folder: Path,
    transfer: ResidualTransfer,
    state: dict[str, Tensor],
    fingerprint: str,
    stage: int,
    seconds: float,
    reports: dict[str, dict[str, float]],
) -> None:
    card = _Card(
        kind="residual-training",
        version=1,
        stargap=__version__,
        stage=stage,
        fingerprint=fingerprint,
        seconds=seconds,
        reports=reports,
    )
    tensors = {f"transfer.{name}": tensor for name, tensor in transfer.state_dict().items()}
    path = folder / f"stage-{stage:02d}.safetensors"
    save_model(path, card, tensors | {f"state.{name}": tensor for name, tensor in state.items()})
    for old in folder.glob("stage-*"):
        if old.stem != path.stem:
            old.unlink()


def _resume(
    folder: Path, transfer: ResidualTransfer, state: dict[str, Tensor], fingerprint: str
) -> tuple[int, float, dict[str, dict[str, float]]]:
    for part in folder.glob(".stargap-*.part"):
        part.unlink()
    settle_models(folder)
    pairs = [path for path in sorted(folder.glob("stage-*.safetensors")) if path.with_suffix(".json").exists()]
    if not pairs:
        return 0, 0.0, {}
    card, tensors = load_model(pairs[-1], _Card, "residual-training", 1)
    if card.fingerprint != fingerprint:
        message = f"{folder} holds a training with other settings, data, emulator or version: choose another folder"
        raise UsageError(message)
    transfer.load_state_dict({name[9:]: value for name, value in tensors.items() if name.startswith("transfer.")})
    state.update({name[6:]: value for name, value in tensors.items() if name.startswith("state.")})
    return card.stage, card.seconds, card.reports
