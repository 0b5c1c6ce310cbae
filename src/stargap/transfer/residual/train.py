"""Training of the default transfer: fits and corrections in turn, then the label map."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from stargap import __version__
from stargap.checkpoints import metrics_log, stop_signals
from stargap.console import progress_bars
from stargap.errors import UsageError
from stargap.fit.domains import joint_step
from stargap.fit.labels import EmulatorModel, ForwardModel, Parameters, fit_labels
from stargap.modelfile import Card, load_model, model_exists, save_model
from stargap.settings import Settings
from stargap.spectra.prepare import Prepared
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.transfer.residual.matching import Anchors, fit_density, fit_label_map, main_sequence
from stargap.transfer.residual.model import FREE, INTERPOLATION, ResidualTransfer
from stargap.transfer.residual.sums import CorrectionSum, FloorSum

__all__ = ["ResidualSettings", "ResidualTraining", "fit_training", "match_labels", "train_residual"]

BATCH = 256
PIXEL_INFORMATION = 0.4
"""Information that resampled pixels hold over what independent ones with their errors would; measured on simulated
stars, where errors of labels from pixels alone are too small by its root."""
RANGE = (0.002, 0.998)
"""Quantiles of the training stars' labels beyond which correction and map hold their values."""


class ResidualSettings(Settings):
    """How a residual transfer is trained."""

    stars: Annotated[int, Field(ge=100)] = 12_000
    """Training spectra that the correction is fitted to: the brightest."""
    match_stars: Annotated[int, Field(ge=100)] = 6_000
    """Training spectra that the label map is fitted to: drawn at random, since a cut in S/N selects labels."""
    gauge_stars: Annotated[int, Field(ge=100)] = 3_000
    """Bright spectra that find the pixels which the emulator cannot reproduce."""
    validation_stars: Annotated[int, Field(ge=50)] = 1_000
    """Validation spectra that choose between rounds."""
    gauge_rounds: Annotated[int, Field(ge=0, le=20)] = 3
    """Fits that each end with a new error floor, pixel by pixel; 0 keeps a floor of 0.015 everywhere."""
    rounds: Annotated[int, Field(ge=0, le=20)] = 2
    """Corrections, each followed by fits through it."""
    degree: Annotated[int, Field(ge=0, le=4)] = 2
    """Of the correction in Teff and [M/H]."""
    map_degree: Annotated[int, Field(ge=0, le=3)] = 1
    """Of the label map."""
    ridge: Annotated[float, Field(gt=0)] = 0.05
    """Expected size of a coefficient of the correction (relative flux)."""
    floor: Annotated[float, Field(gt=0)] = 0.003
    """Least error floor (normalised flux)."""
    match: bool = True
    """Fit the label map; otherwise labels are those at which the emulator fits."""
    effective: Annotated[float, Field(gt=0)] = 150.0
    """Stars that the match of labels to the prior is worth: how well the prior is known."""
    free_mix: bool = False
    """Let the survey's labels be mixed otherwise than the prior; sensible with anchor stars (see `fit_label_map`)."""
    sequence: bool = True
    """Use the main sequence of the bright stars as a prior on log g."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the split of spectra, of samples and of the fit to the prior."""


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


class _Stopped(Exception):
    """A signal came."""


@dataclass(frozen=True)
class _Fits:
    """Fits of training stars: ``labels (star, 4)``, ``covariance (star, 3, 3)``, ``chi2 (star,)``."""

    labels: Tensor
    covariance: Tensor
    chi2: Tensor


def train_residual(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    prior: NDArray[np.float64],
    parameters: Parameters,
    settings: ResidualSettings,
    folder: str | Path,
    *,
    anchors: Anchors | None = None,
    progress: bool = True,
) -> ResidualTraining:
    """Train a residual transfer on observed spectra and on draws of the label prior, unpaired.

    1. Bright stars are fitted with the emulator alone. What it leaves beyond the noise becomes the error floor of
       each pixel, and the fits are repeated: pixels with wrong opacities lose their say in the labels.
    2. The ratio of observed to synthetic spectra is regressed on Teff and [M/H], pixel by pixel; fits go on through
       the correction. Validation spectra choose the round: the lowest median reduced chi-square, which is blind to
       labels and cannot be lowered by memory, since a pixel's correction has six numbers for thousands of stars.
    3. A random sample is fitted and the label map found (`fit_label_map`), then the main sequence in log g.

    Each stage ends with a checkpoint in `folder` and a line in its ``metrics.jsonl``; a later call with the same
    arguments goes on from there with the same result. SIGTERM and SIGINT end the run after the stage's last
    checkpoint: at most a stage is done again.

    Args:
        transfer: trained in place.
        spectra: observed; split 8:2:1 as in `split_rows`.
        prior: labels drawn from the prior, ``(draw, 4)``.
        parameters: free labels and bounds of the fits; teff, logg and m_h must be free.
        settings: sizes, degrees, seed.
        folder: of this run alone.
        anchors: stars with known labels.
        progress: show a bar on stderr.

    Raises:
        UsageError: too few spectra, a folder of another run, or most fits of a stage failed.
    """
    if parameters.free[:FREE] != ("teff", "logg", "m_h"):
        message = f"teff, logg and m_h must be free to train a transfer; free are {', '.join(parameters.free)}"
        raise UsageError(message)
    rows = split_rows(len(spectra), settings.seed)
    rng = np.random.default_rng([settings.seed, 4])
    chosen = _brightest(spectra, rows["training"], settings.stars)
    few = np.sort(rng.permutation(chosen)[: settings.gauge_stars])
    sample = np.sort(rng.permutation(rows["training"])[: settings.match_stars])
    checked = np.sort(rows["validation"][: settings.validation_stars])
    total = settings.gauge_rounds * len(few) + (1 + settings.rounds) * len(chosen)
    total += settings.rounds * len(checked) + len(sample)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(transfer, spectra, prior, parameters, settings, anchors)
    state = {"labels": torch.zeros(len(chosen), 4).double(), "chi2": torch.zeros(len(chosen)).double()}
    state |= {"best": transfer.coefficients.clone(), "score": torch.tensor(np.inf).double()}
    done, spent, reports = _resume(folder, transfer, state, fingerprint)
    began = time.monotonic()
    bar = progress_bars(progress)
    with stop_signals() as caught, metrics_log(folder / "metrics.jsonl", done) as log, bar:
        task = bar.add_task("fits", total=total)

        def fitted(rows: NDArray[np.int64], **how: Any) -> _Fits:
            def each(count: int) -> None:
                bar.advance(task, count)
                if caught:
                    raise _Stopped

            fits = _fit(spectra, rows, transfer, parameters, each=each, **how)
            lost = float(fits.chi2.isnan().double().mean())
            if lost > 0.5:
                message = (
                    f"{lost:.0%} of {len(rows)} fits in stage {stage} failed: are these normalised spectra on the "
                    f"model's pixels? The last good state is kept in {folder}"
                )
                raise UsageError(message)
            return fits

        def gauge(number: int) -> dict[str, float]:
            left = FloorSum(transfer.floor.numel())
            fits = fitted(few, floor=transfer.floor, corrected=False, use=left)
            transfer.floor.copy_(left.value(settings.floor))
            return {"median_floor": float(transfer.floor.median()), "median_chi2": float(fits.chi2.nanmedian())}

        def begin(number: int) -> dict[str, float]:
            fits = fitted(chosen, floor=transfer.floor, corrected=False)
            place = (fits.labels[:, :FREE] - transfer.label_map.centre) / transfer.label_map.scale
            place = place[torch.isfinite(place).all(dim=1)]
            for side, quantile in zip((transfer.label_map.low, transfer.label_map.high), RANGE, strict=True):
                side.copy_(place.quantile(quantile, dim=0))
            state["labels"], state["chi2"] = fits.labels, fits.chi2
            return {"median_chi2": float(fits.chi2.nanmedian())}

        def correct(number: int) -> dict[str, float]:
            sums = CorrectionSum(transfer)
            for first in range(0, len(chosen), BATCH):
                part = slice(first, first + BATCH)
                sums.add(state["labels"][part], spectra.prepared(chosen[part]))
            transfer.coefficients.copy_(sums.solve(settings.ridge))
            fits = fitted(chosen, floor=INTERPOLATION, corrected=True, start=state["labels"])
            state["labels"], state["chi2"] = fits.labels, fits.chi2
            score = float(fitted(checked, floor=INTERPOLATION, corrected=True).chi2.nanmedian())
            if score < state["score"]:
                state["best"], state["score"] = transfer.coefficients.clone(), torch.tensor(score).double()
            return {"median_chi2": float(fits.chi2.nanmedian()), "score": score}

        def match(number: int) -> dict[str, float]:
            transfer.coefficients.copy_(state["best"])
            fits = fitted(sample, floor=INTERPOLATION, corrected=True)
            return match_labels(transfer, fits.labels, fits.covariance, prior, settings, anchors=anchors)

        plan = [*[gauge] * settings.gauge_rounds, begin, *[correct] * settings.rounds, match]
        try:
            for stage, work in enumerate(plan):
                bar.update(task, description=work.__name__)
                if stage < done:
                    continue
                report = work(stage)
                name = f"{stage} {work.__name__}"
                reports[name] = report
                seconds = spent + time.monotonic() - began
                log(step=stage + 1, stage=name, seconds=seconds, **report)
                _save(folder, transfer, state, fingerprint, stage + 1, seconds, reports)
        except _Stopped:
            return ResidualTraining("signal", spent + time.monotonic() - began, reports)
    return ResidualTraining("finished", spent + time.monotonic() - began if done < len(plan) else spent, reports)


def fit_training(
    spectra: PreparedSpectra, rows: NDArray[np.int64], transfer: ResidualTransfer, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """Fit training spectra through a correction: labels ``(star, 4)`` before the label map, and covariances."""
    fits = _fit(spectra, rows, transfer, parameters, floor=INTERPOLATION, corrected=True, each=lambda count: None)
    return fits.labels, fits.covariance


def match_labels(
    transfer: ResidualTransfer,
    labels: Tensor,
    covariance: Tensor,
    prior: NDArray[np.float64],
    settings: ResidualSettings,
    *,
    anchors: Anchors | None = None,
) -> dict[str, float]:
    """Set the label map and the main sequence of a transfer from fitted labels ``(star, 4)`` with covariances.

    Returns:
        what `fit_label_map` says, and the width of the main sequence (dex).
    """
    usable = torch.isfinite(labels).all(dim=1) & torch.isfinite(covariance).all(dim=(1, 2))
    labels, covariance = labels[usable, :FREE], covariance[usable, :FREE, :FREE]
    told: dict[str, float] = {}
    if settings.match:
        density = fit_density(prior, transfer.label_map, seed=settings.seed)
        told = fit_label_map(
            transfer.label_map,
            labels,
            covariance,
            density,
            anchors=anchors,
            free_mix=settings.free_mix,
            effective=settings.effective,
        )
    if settings.sequence:
        transfer.sequence.copy_(main_sequence(transfer.label_map, labels, covariance))
        told["sequence_width"] = float(transfer.sequence[-1])
    return told


def _fit(
    spectra: PreparedSpectra,
    rows: NDArray[np.int64],
    transfer: ResidualTransfer,
    parameters: Parameters,
    *,
    floor: float | Tensor,
    corrected: bool,
    start: Tensor | None = None,
    use: FloorSum | None = None,
    each: Callable[[int], None],
) -> _Fits:
    labels, covariance, chi2 = [], [], []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        prepared = spectra.prepared(rows[part])
        model: ForwardModel = transfer.model(prepared) if corrected else EmulatorModel(transfer.emulator, prepared)
        begin = None if start is None else start[part]
        fit = fit_labels(prepared, model, transfer.emulator, parameters, error_floor=floor, starts=1, start=begin)
        if use is not None:
            use.add(prepared, fit.model)
        best, spread = _joint(prepared, model, transfer, parameters, fit.labels, floor)
        labels.append(best)
        covariance.append(spread)
        chi2.append(fit.chi2)
        each(len(best))
    return _Fits(torch.cat(labels), torch.cat(covariance), torch.cat(chi2))


def _joint(
    prepared: Prepared,
    model: ForwardModel,
    transfer: ResidualTransfer,
    parameters: Parameters,
    labels: Tensor,
    floor: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Labels after one step together with the split numbers, and their covariance."""
    lower, upper = parameters.bounds()
    lost = torch.isnan(labels).any(dim=1)
    middle, _ = parameters.expand(((lower + upper) / 2)[None])
    begin = torch.where(lost[:, None], middle, labels)
    weight = torch.where(prepared.good, PIXEL_INFORMATION / (prepared.sigma.square() + floor**2), 0.0)
    joint = joint_step(prepared, transfer, model, parameters, begin, weight, torch.arange(len(labels)))
    return torch.where(lost[:, None], torch.nan, joint.labels), joint.inverse[:, :FREE, :FREE]


def _brightest(spectra: PreparedSpectra, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows with the smallest median error, in ascending order."""
    rows = np.sort(rows)
    noise = np.full(len(rows), np.inf)
    for first in range(0, len(rows), 4096):
        part = rows[first : first + 4096]
        known = np.where(spectra.good[part, ::8], spectra.sigma[part, ::8], np.inf)
        noise[first : first + 4096] = np.median(known, axis=1)
    return np.sort(rows[np.argsort(noise, kind="stable")[:count]])


def _fingerprint(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    prior: NDArray[np.float64],
    parameters: Parameters,
    settings: ResidualSettings,
    anchors: Anchors | None,
) -> str:
    digest = hashlib.sha256(f"{__version__} {len(spectra)} {parameters} {settings.model_dump_json()}".encode())
    for tensor in transfer.emulator.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    few = slice(None, None, max(len(spectra) // 64, 1))
    arrays = [prior, spectra.rv, *(array[few] for array in (spectra.flux, spectra.sigma, spectra.good, spectra.weight))]
    if anchors is not None:
        arrays += [value.numpy() for value in vars(anchors).values()]
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
    pairs = [path for path in sorted(folder.glob("stage-*.safetensors")) if model_exists(path)]
    if not pairs:
        return 0, 0.0, {}
    card, tensors = load_model(pairs[-1], _Card, "residual-training", 1)
    if card.fingerprint != fingerprint:
        message = f"{folder} holds a training with other settings, data, emulator or version: choose another folder"
        raise UsageError(message)
    transfer.load_state_dict({name[9:]: value for name, value in tensors.items() if name.startswith("transfer.")})
    state.update({name[6:]: value for name, value in tensors.items() if name.startswith("state.")})
    return card.stage, card.seconds, card.reports
