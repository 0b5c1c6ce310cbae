"""Training of an anchored transfer from stars of known labels, and what it is worth, cross-validated by star."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.errors import UsageError
from stargap.fit.domains import DomainFit, fit_domains
from stargap.fit.parameters import Parameters
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF
from stargap.processor import single_thread
from stargap.rows import BoolColumn
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.transfer.anchored.anchors import FEW_FOLDS, MANY, AnchorStars, check_anchors, zero_points
from stargap.transfer.anchored.correction import fit_anchors
from stargap.transfer.anchored.label_map import AnchorMap, fit_map
from stargap.transfer.anchored.model import AnchoredTransfer
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.calibration import Calibration, Off, learn_calibration, prepared_snr

__all__ = ["CrossValidated", "cross_validate", "fit_anchored", "train_anchored"]

LIMIT, LEAST_LIMIT = 3.0, 2.5
"""Reduced chi-square of a spectrum unlike the anchors, over the largest of nine in ten anchors left out in turn; and
its least value, since errors of LAMOST spectra are too small by up to a factor of 1.5."""
DEFAULT = AnchorSettings()


@dataclass(frozen=True)
class CrossValidated:
    """Each anchor through a transfer made without its star: published ``labels, errors (spectrum, 4)``, reduced
    ``chi2 (spectrum,)`` and the best ``model (spectrum, pixel)``; NaN for spectra that were not selected.
    ``fitted (spectrum, 4)`` are labels before the label map, which is ``label_map`` for a star that is none of these:
    labels are published by maps that their own stars had no part in. ``fold (spectrum,)`` is the group of each;
    ``apart (fold, spectrum, 4)`` are fitted labels through transfers that lack that group as well as the spectrum's
    own, NaN without a label map: a choice that is made by them for a group has seen none of it."""

    labels: NDArray[np.float64]
    errors: NDArray[np.float64]
    chi2: NDArray[np.float64]
    model: Tensor
    fitted: NDArray[np.float64]
    fold: NDArray[np.int64]
    apart: NDArray[np.float64]
    label_map: AnchorMap | None = None


@single_thread()
def train_anchored(
    stars: AnchorStars,
    emulator: Emulator,
    settings: AnchorSettings = DEFAULT,
    *,
    base: Tensor | None = None,
    scored: BoolColumn | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[AnchoredTransfer, CrossValidated]:
    """Make a transfer from anchors, with label map, systematic error and limit of chi-square cross-validated by star.

    1. At each pixel the ratio of an anchor's spectrum to the emulator's at its own labels (log g of the isochrone) is
       a factor, or a polynomial in labels, by ridge regression with the weights of noise and of the scatter left.
    2. That scatter, with a share of the correction, is the floor; its principal components are the directions.
    3. Stars are left out in turn. Their fitted labels against the known ones give the label map, the zero points of
       sources of labels (then all is done once more with these taken off), and what labels are off by: the systematic
       error (literature errors are in it), a function of labels and S/N with a hundred stars or more
       (`stargap.transfer.calibration`). Their chi-square tells what is usual.

    Args:
        stars: at least six stars.
        emulator: the synthetic domain.
        settings: see `AnchorSettings`.
        base: coefficients of another training that the correction begins with instead of 0, ``(6, pixel)``: of the
            terms (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0) in Teff and [M/H]. The degrees in `settings` say which
            of them the anchors may change.
        scored: which spectra count in step 3, ``(spectrum,)``; all by default.
        progress: called with the number of spectra left out and fitted since the last call.

    Returns:
        the transfer, and what it was judged by.

    Raises:
        UsageError: fewer than six stars, labels that are not finite or outside the emulator's range, more directions
            than spectra without one star, or no spectrum that is scored and can be fitted.
    """
    check_anchors(stars, emulator, settings, scored)
    known = stars
    if len(set(stars.sources)) > 1:
        first = cross_validate(stars, emulator, settings, base=base, scored=scored)
        known = stars.shifted(zero_points(stars, first.labels[:, :3]))
    transfer = fit_anchors(known, emulator, settings, base)
    found = cross_validate(known, emulator, settings, base=base, scored=scored, progress=progress)
    counted = np.isfinite(found.labels).all(axis=1)
    if not counted.any():
        message = f"none of {len(stars)} anchor spectra can be fitted"
        raise UsageError(message)
    if found.label_map is not None:
        transfer.map_numbers.copy_(found.label_map.numbers)
    apart = found.labels[counted, :3] - known.labels[counted]
    for place in (TEFF, LOGG, M_H):
        noise = np.median(found.errors[counted, place])
        transfer.own[place] = np.sqrt(max(float(np.var(apart[:, place]) - noise**2), 0.0))
    transfer.calibration = _calibration(known, found)
    transfer.limit.fill_(max(LIMIT * float(np.quantile(found.chi2[counted], 0.9)), LEAST_LIMIT))
    return transfer, found


def _calibration(known: AnchorStars, found: CrossValidated) -> Calibration | None:
    """Learn systematic errors by labels and S/N from anchors left out; errors of known labels are in them."""
    off = {
        name: Off(found.labels[:, place] - known.labels[:, place], found.errors[:, place])
        for place, name in enumerate(LABELS[:A_M])
    }
    snr = prepared_snr(known.prepared.sigma.numpy(), known.prepared.good.numpy())
    return learn_calibration(off, found.labels[:, [TEFF, M_H]], snr, source="anchors left out in turn")


def cross_validate(
    stars: AnchorStars,
    emulator: Emulator,
    settings: AnchorSettings = DEFAULT,
    *,
    base: Tensor | None = None,
    scored: BoolColumn | None = None,
    progress: Callable[[int], object] | None = None,
) -> CrossValidated:
    """Fit every star through a transfer, and publish it through a label map, that were made of others.

    Stars are left out in groups (`AnchorSettings.folds`; single stars if they are no more than that). The map of a
    group is fitted to stars of the others through transfers that were made without either.

    Args:
        stars: names of stars; spectra of one star are left out together.
        emulator: the synthetic domain.
        settings: see `AnchorSettings`.
        base: see `train_anchored`.
        scored: spectra that are fitted, ``(spectrum,)``; the others only train. All by default.
        progress: called with the number of spectra fitted since the last call.

    Raises:
        UsageError: see `train_anchored`.
    """
    check_anchors(stars, emulator, settings, scored)
    chosen = np.ones(len(stars), dtype=bool) if scored is None else scored
    fold = _folds(stars, settings.folds)
    groups = [int(k) for k in np.unique(fold[chosen])]
    fits: dict[tuple[int, int], _Left] = {}
    for group in groups:
        rows = np.flatnonzero(chosen & (fold == group))
        fits[group, group] = _Left.through(
            stars, rows, fit_anchors(stars[np.flatnonzero(fold != group)], emulator, settings, base)
        )
        if progress is not None:
            progress(len(rows))
    if settings.label_map:
        for one, two in combinations(groups, 2):
            transfer = fit_anchors(stars[np.flatnonzero((fold != one) & (fold != two))], emulator, settings, base)
            for mine, other in ((one, two), (two, one)):
                fits[mine, other] = _Left.through(stars, np.flatnonzero(chosen & (fold == mine)), transfer)
    return _published(stars, fold, groups, fits, settings)


@dataclass(frozen=True)
class _Left:
    """Spectra ``rows`` through a transfer that did not know their stars."""

    rows: NDArray[np.int64]
    fit: DomainFit
    transfer: AnchoredTransfer

    @classmethod
    def through(cls, stars: AnchorStars, rows: NDArray[np.int64], transfer: AnchoredTransfer) -> _Left:
        return cls(rows, fit_anchored(stars.prepared[torch.as_tensor(rows)], transfer), transfer)


def _folds(stars: AnchorStars, most: int) -> NDArray[np.int64]:
    """Return the group of each spectrum, ``(spectrum,)``: by the order of the stars' names."""
    names, place = np.unique(stars.names, return_inverse=True)
    return np.asarray(place % min(most if len(stars) < MANY else FEW_FOLDS, len(names)), dtype=np.int64)


def _map(stars: AnchorStars, parts: list[_Left], settings: AnchorSettings) -> AnchorMap | None:
    """Fit the label map to what stars left out say."""
    if not (settings.label_map and parts):
        return None
    rows = np.concatenate([part.rows for part in parts])
    fitted = torch.cat([part.fit.observed.labels[:, :3] for part in parts]).numpy()
    sound = np.isfinite(fitted).all(axis=1)
    rows, fitted = rows[sound], fitted[sound]
    if not len(rows):
        return None
    return fit_map(fitted, stars.labels[rows], stars.errors[rows], stars.p_single[rows], reach=settings.map_reach)


def _published(
    stars: AnchorStars,
    fold: NDArray[np.int64],
    groups: list[int],
    fits: dict[tuple[int, int], _Left],
    settings: AnchorSettings,
) -> CrossValidated:
    """Put the groups together, each through the map of the others."""
    labels, errors, fitted = (np.full((len(stars), 4), np.nan) for _ in range(3))
    chi2, model = np.full(len(stars), np.nan), torch.full_like(stars.prepared.flux, torch.nan)
    for group in groups:
        part = fits[group, group]
        rows, fit, prior = part.rows, part.fit.observed, part.transfer.prior
        fitted[rows], chi2[rows], model[rows] = fit.labels, fit.chi2, fit.model
        labels[rows], errors[rows] = fit.labels, fit.errors
        others = [apart for (mine, left), apart in fits.items() if left == group and mine != group]
        own = _map(stars, others, settings)
        if own is not None:
            moved, slope = own(fit.labels, prior)
            labels[rows, :3] = moved
            spread = slope @ fit.covariance @ slope.transpose(1, 2)
            errors[rows, :3] = spread.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    everyone = _map(stars, [fits[group, group] for group in groups], settings)
    apart = np.full((int(fold.max()) + 1, len(stars), 4), np.nan)
    for (own_group, group), part in fits.items():
        if own_group != group:
            apart[group, part.rows] = part.fit.observed.labels
    return CrossValidated(labels, errors, chi2, model, fitted, fold, apart, everyone)


def fit_anchored(prepared: Prepared, transfer: AnchoredTransfer) -> DomainFit:
    """Fit a few prepared stars with all labels free but [a/M]."""
    card = transfer.emulator.card
    box = Parameters(card.lower, card.upper)
    return fit_domains(prepared, transfer, box, starts=1, slots=min(len(prepared.flux), 32))
