"""The label map of a residual transfer tied to stars of known labels, and judged by those that it was not tied to."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.fit.parameters import Parameters
from stargap.labels import LABELS
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.statistics import statistics, undiluted_slope
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual.fits import Fits, fit_spectra
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.model import MAPPED, ResidualTransfer
from stargap.transfer.residual.train import ResidualSettings, match_labels

__all__ = ["match_anchors"]

FOLDS = 4
"""Groups of anchors that are left out in turn."""


def match_anchors(
    transfer: ResidualTransfer,
    spectra: PreparedSpectra,
    rows: NDArray[np.int64],
    known: AnchorLabels,
    prior: NDArray[np.float64],
    parameters: Parameters,
    settings: ResidualSettings,
) -> dict[str, float]:
    """Fit the label map of a trained transfer again, now to stars of known labels as well.

    Args:
        transfer: whose correction is trained; its label map and main sequence are set in place.
        spectra: observed.
        rows: the spectrum of each anchor, ``(anchor,)``; spectra of one row are left out together.
        known: labels of the anchors.
        prior: labels drawn from the prior, ``(draw, 4)``.
        parameters: free labels and bounds of the fits.
        settings: of the training.

    Returns:
        what `match_labels` returns, ``anchors``, their number, and of anchors left out in turn the median, scatter and
        slopes of published less known labels (K, dex), by name: ``..._slope`` of ours on known ones, which errors of
        these flatten, ``..._slope_true`` without that (`undiluted_slope`).

    Raises:
        UsageError: none of the anchors can be fitted.
    """
    unique, place = np.unique(rows, return_inverse=True)
    fits = fit_spectra(spectra, unique, transfer, parameters)
    sound = (torch.isfinite(fits.labels).all(dim=1) & torch.isfinite(fits.covariance).all(dim=(1, 2))).numpy()[place]
    if not sound.any():
        message = f"none of {len(rows)} anchor spectra can be fitted"
        raise UsageError(message)
    place = place[sound]
    anchors = LabelledFits(fits.labels[place, :MAPPED], fits.covariance[place], known[sound])
    chosen = np.sort(split_rows(len(spectra), settings.seed)["training"][: settings.match_stars])
    sample = fit_spectra(spectra, chosen, transfer, parameters)
    scores = _left_out(transfer, anchors, place % FOLDS, sample, prior, settings)
    report = match_labels(transfer, sample.labels, sample.covariance, prior, settings, known=anchors)
    return {**report, "anchors": float(len(anchors)), **scores}


def _left_out(
    transfer: ResidualTransfer,
    anchors: LabelledFits,
    group: NDArray[np.int64],
    sample: Fits,
    prior: NDArray[np.float64],
    settings: ResidualSettings,
) -> dict[str, float]:
    """Publish each group of anchors by a map that was made of the others, and compare."""
    ours, errors = np.full((len(anchors), MAPPED), np.nan), np.full((len(anchors), MAPPED), np.nan)
    for one in np.unique(group):
        out = torch.as_tensor(group == one)
        if out.all():
            return {}
        other = copy.deepcopy(transfer)
        match_labels(other, sample.labels, sample.covariance, prior, settings, known=anchors[~out])
        published, spread, _ = other.publish(anchors.fitted[out], anchors.covariance[out])
        ours[out.numpy()] = published.numpy()
        errors[out.numpy()] = spread.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().numpy()
    return _scores(anchors.known, ours, errors)


def _scores(known: AnchorLabels, ours: NDArray[np.float64], errors: NDArray[np.float64]) -> dict[str, float]:
    """Return what published labels are off by from those of the most frequent source."""
    first = known.source == 0
    scores: dict[str, float] = {"left_out": float(first.sum())}
    for place, name in enumerate(LABELS[:MAPPED]):
        mine, theirs, error = ours[first, place], known.labels[first, place], errors[first, place]
        told = statistics(mine, theirs)
        scores |= {f"{name}_median": told.median, f"{name}_std": told.clipped, f"{name}_slope": told.slope}
        scores[f"{name}_slope_true"] = undiluted_slope(mine, theirs, error, weight=known.p_single[first])
    return scores
