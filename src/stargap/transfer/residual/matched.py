"""The label map of a residual transfer tied to stars of known labels, and judged by those that it was not tied to."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.errors import UsageError
from stargap.fit.parameters import Parameters
from stargap.labels import LABELS, M_H, TEFF
from stargap.rows import LabelDraws, RowNumbersArray
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.statistics import statistics, undiluted_slope
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.calibration import Calibration, Off, learn_calibration, prepared_snr
from stargap.transfer.residual.fits import Fits, fit_spectra
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.model import MAPPED, ResidualTransfer
from stargap.transfer.residual.scatter import own_scatter
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.train import match_labels

__all__ = ["AnchorFits", "fit_known", "left_out", "match_anchors", "tie_labels"]

FOLDS = 4
"""Groups of anchors that are left out in turn."""
ENOUGH = 100
"""Anchors from which the label prior is no longer needed."""
MANY, BEND = 300, 2
"""Anchors from which the label map has this degree at least."""


TELLING = 0.5
"""Errors of known labels over what labels left out are off by, up to which these tell systematic errors. Those of
photometry have 0.9: a likelihood of both finds next to nothing (0.3 K, 0.009 dex of 14 and 0.03 on simulated stars)."""


@dataclass(frozen=True)
class AnchorFits:
    """What a label map is tied with: ``anchors``, in whose covariances is ``own (3,)``, the scatter of fitted labels
    that is not noise (`own_scatter`); ``group (anchor,)``, which are left out together; ``sample`` of the training;
    ``snr (anchor,)`` of their spectra, without which nothing is learned of systematic errors."""

    anchors: LabelledFits
    own: Tensor
    group: NDArray[np.int64]
    sample: Fits
    snr: NDArray[np.float64] | None = None


def match_anchors(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    rows: RowNumbersArray,
    known: AnchorLabels,
    prior: LabelDraws,
    parameters: Parameters,
    settings: ResidualSettings,
) -> dict[str, float]:
    """Fit the label map of a trained transfer again, now to stars of known labels as well.

    Args:
        transfer: whose correction is trained; its label map, main sequence and calibration are set in place.
        spectra: observed.
        rows: the spectrum of each anchor, ``(anchor,)``; spectra of one row are left out together.
        known: labels of the anchors.
        prior: labels drawn from the prior, ``(draw, 4)``.
        parameters: free labels and bounds of the fits.
        settings: of the training; see `tie_labels`.

    Returns:
        what `tie_labels` returns, and of anchors left out in turn the median, clipped scatter and slopes of published
        less known labels (K, dex), by name: ``..._slope`` of ours on known ones, which errors of these flatten, and
        ``..._slope_true`` without that (`undiluted_slope`).

    Raises:
        UsageError: none of the anchors can be fitted.
    """
    fits = fit_known(transfer, spectra, rows, known, parameters, settings)
    scores, transfer.calibration = left_out(transfer, fits, prior, settings)
    return {**tie_labels(transfer, fits, prior, settings), **scores}


def fit_known(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    rows: RowNumbersArray,
    known: AnchorLabels,
    parameters: Parameters,
    settings: ResidualSettings,
) -> AnchorFits:
    """Fit anchors and a random sample of the training spectra; arguments as in `match_anchors`."""
    unique, place = np.unique(rows, return_inverse=True)
    fits = fit_spectra(spectra, unique, transfer, parameters)
    sound = (torch.isfinite(fits.labels).all(dim=1) & torch.isfinite(fits.covariance).all(dim=(1, 2))).numpy()[place]
    if not sound.any():
        message = f"none of {len(rows)} anchor spectra can be fitted"
        raise UsageError(message)
    place = place[sound]
    training = split_rows(len(spectra), settings.seed)["training"]
    own = own_scatter(transfer, spectra, training, parameters)
    covariance = fits.covariance[place] + torch.diag(own.square())
    anchors = LabelledFits(fits.labels[place, :MAPPED], covariance, known[sound])
    sample = fit_spectra(spectra, np.sort(training[: settings.match_stars]), transfer, parameters)
    snr = prepared_snr(spectra.sigma[unique], spectra.good[unique])
    return AnchorFits(anchors, own, place % FOLDS, sample, snr[place])


def tie_labels(
    transfer: ResidualTransfer,
    fits: AnchorFits,
    prior: LabelDraws,
    settings: ResidualSettings,
    *,
    rows: Tensor | None = None,
) -> dict[str, float]:
    """Fit label map and main sequence, with the systematic errors of the map, the models and the labels' scale.

    Args:
        transfer: whose label map is set in place.
        fits: of `fit_known`.
        prior: labels drawn from the prior, ``(draw, 4)``.
        settings: of the training. With `ENOUGH` anchors labels are tied to these alone (``match = false``), with `MANY`
            by a map that may bend.
        rows: which anchors take part, ``(anchor,)`` bool; all by default.

    Returns:
        what `match_labels` returns, ``own_scatter_...`` and ``anchors``, their number.
    """
    anchors = fits.anchors if rows is None else fits.anchors[rows]
    if len(fits.anchors) >= ENOUGH:
        settings = settings.model_copy(update={"match": False})
    if len(fits.anchors) >= MANY:
        transfer.bend_map(max(settings.map_degree, BEND))
    report = match_labels(transfer, fits.sample.labels, fits.sample.covariance, prior, settings, known=anchors)
    label_map, first = transfer.label_map, anchors.known.names[0]
    through = (label_map.jacobian(label_map.centre[None])[0] * fits.own).square().sum(dim=1)
    beyond = torch.tensor([report[f"scatter {first} {name}"] for name in LABELS[:MAPPED]], dtype=torch.float64)
    label_map.covariance[:, 0, 0] += (through + beyond.square()) / label_map.scale.square()
    own = {f"own_scatter_{name}": float(value) for name, value in zip(LABELS[:MAPPED], fits.own, strict=True)}
    return {**report, **own, "anchors": float(len(anchors))}


def left_out(
    transfer: ResidualTransfer, fits: AnchorFits, prior: LabelDraws, settings: ResidualSettings
) -> tuple[dict[str, float], Calibration | None]:
    """Publish each group of anchors by a map that was made of the others, and compare; see `match_anchors`.

    What labels are off by beyond the noise of spectra and the errors of known labels is the calibration, where the
    latter are small enough (`TELLING`); other labels keep the error of the map and of models (`tie_labels`).
    """
    anchors, group = fits.anchors, fits.group
    ours, errors, noise = np.full((3, len(anchors), MAPPED), np.nan)
    by_noise = anchors.covariance - torch.diag(fits.own.square())
    for one in np.unique(group):
        out = torch.as_tensor(group == one)
        if out.all():
            return {}, None
        other = copy.deepcopy(transfer)
        tie_labels(other, fits, prior, settings, rows=~out)
        published, spread, _ = other.publish(anchors.fitted[out], anchors.covariance[out])
        ours[out.numpy()] = published.numpy()
        errors[out.numpy()] = spread.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().numpy()
        _, spread, _ = other.publish(anchors.fitted[out], by_noise[out])
        noise[out.numpy()] = spread.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().numpy()
    known = anchors.known
    noise = np.hypot(noise, known.errors)
    delta = ours - known.labels
    scatter = 1.4826 * np.nanmedian(np.abs(delta - np.nanmedian(delta, axis=0)), axis=0)
    telling = np.median(known.errors, axis=0) < TELLING * scatter
    off = {name: Off(delta[:, k], noise[:, k]) for k, name in enumerate(LABELS[:MAPPED]) if telling[k]}
    scores = _scores(known, ours, errors)
    if fits.snr is None or not off:
        return scores, None
    return scores, learn_calibration(off, ours[:, [TEFF, M_H]], fits.snr, source="anchors left out in turn")


def _scores(known: AnchorLabels, ours: NDArray[np.float64], errors: NDArray[np.float64]) -> dict[str, float]:
    """Return what published labels are off by from those of the most frequent source, where they are in its range."""
    low, high = known.ranges()[0]
    first = (known.source == 0) & ((ours >= low) & (ours <= high)).all(axis=1)
    scores: dict[str, float] = {"left_out": float(first.sum())}
    for place, name in enumerate(LABELS[:MAPPED]):
        mine, theirs, error = ours[first, place], known.labels[first, place], errors[first, place]
        compared = statistics(mine, theirs)
        scores |= {f"{name}_median": compared.median, f"{name}_std": compared.clipped, f"{name}_slope": compared.slope}
        scores[f"{name}_slope_true"] = undiluted_slope(mine, theirs, error, weight=known.p_single[first])
    return scores
