"""Training of the default transfer: fits and corrections in turn, then the label map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from stargap.measure.labels import EmulatorModel, ForwardModel, Parameters, fit_labels, linear_covariance
from stargap.transfer.matching import Anchors, fit_density, fit_label_map
from stargap.transfer.residual import FREE, ResidualTransfer, features
from stargap.transfer.spectra import TrainingSpectra

__all__ = ["ResidualSettings", "Fits", "fit_rows", "train_residual"]

BATCH = 256
PIXEL_INFORMATION = 0.4
"""Information that resampled pixels hold over what independent ones of their errors would."""
FLOOR_SMOOTHING = 9
"""Pixels over which the learned floor is averaged."""


class ResidualSettings(BaseModel):
    """How a residual transfer is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stars: Annotated[int, Field(ge=100)] = 20_000
    """Training spectra that are fitted: the brightest."""
    match_stars: Annotated[int, Field(ge=100)] = 8_000
    """Training spectra that the label map is fitted to: a random sample, since any cut in S/N selects labels."""
    gauge_stars: Annotated[int, Field(ge=100)] = 4_096
    """Of them, how many find the pixels that the emulator cannot reproduce."""
    gauge_rounds: Annotated[int, Field(ge=0, le=20)] = 3
    """Fits that each end with a new error floor, pixel by pixel."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 2
    """Corrections, each followed by fits through it."""
    degree: Annotated[int, Field(ge=0, le=4)] = 2
    """Of the correction in the labels."""
    map_degree: Annotated[int, Field(ge=0, le=3)] = 2
    """Of the label map."""
    ridge: Annotated[float, Field(gt=0)] = 0.05
    """Expected size of a coefficient of the correction (relative flux)."""
    floor: Annotated[float, Field(gt=0)] = 0.003
    """Least error floor (normalised flux)."""
    match: bool = True
    """Fit the label map."""
    free_mix: bool = False
    """Let the survey's labels be mixed otherwise than the prior (see `fit_label_map`)."""
    sequence: bool = True
    """Use the main sequence as a prior on log g."""
    seed: int = 0


@dataclass(frozen=True)
class Fits:
    """Fits of training stars: ``labels (star, 4)``, ``covariance (star, 3, 3)``, ``chi2``, ``split (star, 3)``."""

    labels: Tensor
    covariance: Tensor
    chi2: Tensor
    split: Tensor


def fit_rows(
    spectra: TrainingSpectra,
    rows: NDArray[np.int64],
    transfer: ResidualTransfer,
    parameters: Parameters,
    *,
    floor: float | Tensor,
    corrected: bool,
    split: bool = False,
    start: Tensor | None = None,
    each: Callable[[Tensor, Any, Tensor, Tensor], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Fits:
    """Fit training stars, with the emulator alone or through the correction."""
    labels, covariance, chi2, numbers = [], [], [], []
    for first in range(0, len(rows), BATCH):
        prepared = spectra.prepared(rows[first : first + BATCH])
        model: ForwardModel = transfer.model(prepared) if corrected else EmulatorModel(transfer.emulator, prepared)
        fit = fit_labels(
            prepared,
            model,
            transfer.emulator,
            parameters,
            error_floor=floor,
            starts=1,
            start=None if start is None else start[first : first + BATCH],
        )
        best, cov = fit.labels, fit.covariance / PIXEL_INFORMATION
        z = torch.zeros(len(best), len(transfer.split_scale), dtype=torch.float64)
        if split:
            best, cov, z = _split_step(prepared, model, transfer, parameters, best, floor)
        labels.append(best)
        covariance.append(cov)
        chi2.append(fit.chi2)
        numbers.append(z)
        if each is not None:
            each(best, prepared, fit.model, fit.chi2)
        if progress is not None:
            progress(len(best))
    return Fits(torch.cat(labels), torch.cat(covariance), torch.cat(chi2), torch.cat(numbers))


def _split_step(
    prepared: Any, model: ForwardModel, transfer: ResidualTransfer, parameters: Parameters, labels: Tensor, floor: Any
) -> tuple[Tensor, Tensor, Tensor]:
    places = [0, 1, 2]
    lower, upper = parameters.bounds()
    size = len(lower)
    theta = torch.nan_to_num(labels[:, places[:size]]).clamp(lower, upper)
    full, directions = parameters.expand(theta)
    rows = torch.arange(len(labels))
    spectrum, jacobian = model(full, directions, rows)
    weight = torch.where(prepared.good, PIXEL_INFORMATION / (prepared.sigma.square() + floor**2), 0.0)
    columns = torch.cat([jacobian, transfer.split_columns(spectrum)], dim=1)
    precision = torch.cat([torch.zeros(size), transfer.split_scale.float() ** -2])
    inverse, _ = linear_covariance(prepared, columns, weight, rows, precision)
    residual = (weight * (prepared.flux - spectrum))[:, None]
    step = (inverse @ (columns * residual).sum(dim=2, dtype=torch.float64)[:, :, None])[:, :, 0]
    full, _ = parameters.expand((theta + step[:, :size]).clamp(lower, upper))
    full[torch.isnan(labels).any(dim=1)] = torch.nan
    return full, inverse[:, :size, :size], step[:, size:]


class _Floor:
    """Mean square of what the model leaves beyond the noise, pixel by pixel."""

    def __init__(self, pixels: int) -> None:
        self.squares, self.count = torch.zeros(pixels, dtype=torch.float64), torch.zeros(pixels, dtype=torch.float64)

    def __call__(self, labels: Tensor, prepared: Any, model: Tensor, chi2: Tensor) -> None:
        seen = prepared.good & (prepared.sigma < 0.05) & torch.isfinite(chi2)[:, None]
        excess = (prepared.flux - torch.nan_to_num(model)).square() - prepared.sigma.square()
        self.squares += torch.where(seen, excess, 0.0).double().sum(dim=0)
        self.count += seen.sum(dim=0)

    def value(self, least: float) -> Tensor:
        mean = (self.squares / self.count.clamp_min(1)).clamp_min(0)
        kernel = torch.full((1, 1, FLOOR_SMOOTHING), 1.0 / FLOOR_SMOOTHING, dtype=torch.float64)
        smooth = torch.nn.functional.conv1d(mean[None, None], kernel, padding=FLOOR_SMOOTHING // 2)[0, 0]
        return (smooth + least**2).sqrt().float()


class _Correction:
    """Normal equations of the correction's coefficients, pixel by pixel."""

    def __init__(self, transfer: ResidualTransfer) -> None:
        self.transfer = transfer
        count, pixels = transfer.coefficients.shape
        self.matrix = torch.zeros(pixels, count, count, dtype=torch.float64)
        self.vector = torch.zeros(pixels, count, dtype=torch.float64)

    def __call__(self, labels: Tensor, prepared: Any, model: Tensor, chi2: Tensor) -> None:
        transfer = self.transfer
        usable = torch.isfinite(labels).all(dim=1) & torch.isfinite(chi2) & ~transfer.outside(labels)
        labels = torch.nan_to_num(labels)
        synthetic, _ = EmulatorModel(transfer.emulator, prepared)(
            labels.clamp(transfer.emulator.lower, transfer.emulator.upper),
            torch.zeros(len(labels), 1, 4).double(),
            torch.arange(len(labels)),
        )
        x = features(transfer.label_map.scaled(labels), transfer.exponents)
        sound = prepared.good & usable[:, None] & (synthetic > 0.05)
        synthetic = synthetic.clamp_min(0.05)
        relative = prepared.flux / synthetic - 1
        weight = torch.where(sound, 1 / ((prepared.sigma / synthetic) ** 2 + 0.005**2), 0.0).double()
        weighted = torch.where(sound, weight * relative, 0.0).double()
        outer = (x[:, :, None] * x[:, None, :]).flatten(1)
        self.matrix += (weight.T @ outer).unflatten(1, (x.shape[1], x.shape[1]))
        self.vector += weighted.T @ x

    def solve(self, ridge: float) -> Tensor:
        prior = torch.eye(self.matrix.shape[1], dtype=torch.float64) / ridge**2
        return torch.linalg.solve(self.matrix + prior, self.vector).T.float()


def brightest(spectra: TrainingSpectra, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the `count` rows with the smallest median error, in ascending order."""
    noise = np.full(len(rows), np.inf)
    for first in range(0, len(rows), 4096):
        part = slice(first, first + 4096)
        sigma, good = spectra.sigma[rows[part], ::8], spectra.good[rows[part], ::8]
        some = good.sum(axis=1) > 60
        with np.errstate(all="ignore"):
            noise[part] = np.where(
                some, np.nanmedian(np.where(some[:, None], np.where(good, sigma, np.nan), 1.0), axis=1), np.inf
            )
    return np.sort(rows[np.argsort(noise, kind="stable")[:count]])


def train_residual(
    transfer: ResidualTransfer,
    spectra: TrainingSpectra,
    rows: NDArray[np.int64],
    prior: NDArray[np.float64],
    parameters: Parameters,
    settings: ResidualSettings,
    *,
    anchors: Anchors | None = None,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> Fits:
    def tell(what: str, **values: Any) -> None:
        if report is not None:
            report(what, values)

    chosen = brightest(spectra, rows, settings.stars)
    rng = np.random.default_rng(settings.seed)
    few = np.sort(rng.permutation(chosen)[: settings.gauge_stars])
    floor: float | Tensor = 0.015
    for number in range(settings.gauge_rounds):
        left = _Floor(transfer.floor.numel())
        fits = fit_rows(spectra, few, transfer, parameters, floor=floor, corrected=False, each=left)
        floor = left.value(settings.floor)
        transfer.floor.copy_(floor)
        tell("gauge", round=number, floor=float(floor.median()), chi2=float(fits.chi2.nanmedian()))

    fits = fit_rows(spectra, chosen, transfer, parameters, floor=floor, corrected=False, split=True)
    place = (fits.labels[:, :FREE] - transfer.label_map.centre) / transfer.label_map.scale
    place = place[torch.isfinite(place).all(dim=1)]
    transfer.label_map.low.copy_(place.quantile(0.002, dim=0))
    transfer.label_map.high.copy_(place.quantile(0.998, dim=0))
    for number in range(settings.rounds):
        sums = _Correction(transfer)
        for first in range(0, len(chosen), BATCH):
            part = slice(first, first + BATCH)
            prepared = spectra.prepared(chosen[part])
            sums(fits.labels[part], prepared, prepared.flux, fits.chi2[part])
        transfer.coefficients.copy_(sums.solve(settings.ridge))
        last = number == settings.rounds - 1
        fits = fit_rows(
            spectra,
            chosen,
            transfer,
            parameters,
            floor=0.004 if last else floor,
            corrected=True,
            split=True,
            start=fits.labels,
        )
        tell("correction", round=number, chi2=float(fits.chi2.nanmedian()))

    sample = np.sort(rng.permutation(rows)[: settings.match_stars])
    fits = fit_rows(spectra, sample, transfer, parameters, floor=0.004, corrected=True, split=True)
    match_labels(transfer, fits, prior, settings, anchors=anchors, report=report)
    return fits


def match_labels(
    transfer: ResidualTransfer,
    fits: Fits,
    prior: NDArray[np.float64],
    settings: ResidualSettings,
    *,
    anchors: Anchors | None = None,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> None:
    def tell(what: str, **values: Any) -> None:
        if report is not None:
            report(what, values)

    usable = torch.isfinite(fits.labels).all(dim=1) & torch.isfinite(fits.covariance).all(dim=(1, 2))
    if settings.match:
        density = fit_density(prior, transfer.label_map, seed=settings.seed)
        told = fit_label_map(
            transfer.label_map,
            fits.labels[usable, :FREE],
            fits.covariance[usable],
            density,
            anchors=anchors,
            free_mix=settings.free_mix,
        )
        tell("label map", **told)
    if settings.sequence:
        transfer.sequence.copy_(main_sequence(transfer, fits, usable))
        tell("main sequence", width=float(transfer.sequence[4]))


def main_sequence(transfer: ResidualTransfer, fits: Fits, usable: Tensor) -> Tensor:
    """Fit log g of mapped labels: a parabola in Teff, a line in [M/H], and the width beyond the noise."""
    labels = fits.labels[usable]
    mapped = transfer.label_map(labels)
    jacobian = transfer.label_map.jacobian(labels)
    noise = jacobian @ fits.covariance[usable] @ jacobian.transpose(1, 2)
    x = (mapped - transfer.label_map.centre) / transfer.label_map.scale
    design = torch.stack([torch.ones_like(x[:, 0]), x[:, 0], x[:, 0] ** 2, x[:, 2]], dim=1)
    width = torch.tensor(0.1, dtype=torch.float64)
    keep = torch.ones(len(x), dtype=torch.bool)
    for _ in range(10):
        weight = keep / (width**2 + noise[:, 1, 1])
        solution = torch.linalg.lstsq(
            design * weight.sqrt()[:, None], mapped[:, 1:2] * weight.sqrt()[:, None]
        ).solution[:, 0]
        left = mapped[:, 1] - design @ solution
        slope = (
            torch.stack([solution[1] + 2 * solution[2] * x[:, 0], solution[3].expand(len(x))], dim=1)
            / transfer.label_map.scale[[0, 2]]
        )
        across = torch.stack([slope[:, 0], -torch.ones_like(slope[:, 0]), slope[:, 1]], dim=1)
        variance = torch.einsum("rj,rjk,rk->r", across, noise, across)
        scaled = left.abs() / (width**2 + variance).sqrt()
        keep = scaled < 3.5
        bright = keep & (variance < variance.quantile(0.3))
        width = (left[bright].square() - variance[bright]).mean().clamp_min(0.02**2).sqrt()
    return torch.cat([solution, width[None]])
