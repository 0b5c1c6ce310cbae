"""Numbers that judge a transfer, from plain arrays: mixing of domains, leaks of labels, cycles, logs of trainings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.labels import LABELS
from stargap.starnet.losses import LEAST_OBSERVED_SIGMA, SYNTHETIC_SIGMA, Batch, transfer
from stargap.starnet.network import CycleStarNet
from stargap.statistics import mean_residual
from stargap.validation.embedding import principal_components

FOLDS = 5
"""Folds of the cross-validation of `leakage`."""
Array = NDArray[np.float64]


def mixing(one: NDArray[Any], other: NDArray[Any], *, neighbours: int = 15, seed: int = 0) -> float:
    """Return how well two groups are mixed: 1 as well as draws of one distribution are, 0 not at all.

    For each row, the part of its nearest neighbours that is of the other group, over what well-mixed groups would
    have; the mean of either group weighs the same. Nearest is meant among principal components. Draws of one
    distribution scatter about 1; noiseless copies of the other group's rows can exceed it.

    Args:
        one: ``(row, ...)``, as in `stargap.validation.embedding.tsne`.
        other: the same.
        neighbours: how many.
        seed: of the decomposition.

    Raises:
        UsageError: as `tsne`, or not more rows than neighbours.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(1000, 3))
        >>> round(mixing(points[:500], points[500:]), 1), mixing(points[:500], 100 + points[500:])
        (1.0, 0.0)
    """
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    parts = principal_components({"one": one, "other": other}, seed)
    sizes = np.array([len(part) for part in parts])
    if not 0 < neighbours < sizes.sum() or not sizes.all():
        message = f"{neighbours} neighbours among {sizes[0]} and {sizes[1]} rows: take fewer, or more rows"
        raise UsageError(message)
    with threadpool_limits(1):
        _, near = NearestNeighbors(n_neighbors=neighbours).fit(np.concatenate(parts)).kneighbors()
    second = np.arange(sizes.sum()) >= sizes[0]
    foreign = (second[near] != second[:, None]).mean(axis=1)
    expected = sizes[::-1] / (sizes.sum() - 1)
    return float(np.mean([foreign[~second].mean() / expected[0], foreign[second].mean() / expected[1]]))


def block_mask(pixels: int, width: int = 50, *, every: int = 2, phase: int = 0) -> NDArray[np.bool_]:
    """Return which pixels are left out: one block of `width` in `every`, ``(pixels,)``; all phases cover all pixels.

    Single pixels left out would be given away by their neighbours, which resampling correlates.

    Example:
        >>> block_mask(8, 2, phase=1).astype(int)
        array([0, 0, 1, 1, 0, 0, 1, 1])
    """
    if width < 1 or not 0 <= phase < every:
        message = f"blocks of {width} pixels, phase {phase} of {every}: widths start at 1, phases end below {every}"
        raise UsageError(message)
    return np.asarray(np.arange(pixels) // width % every == phase)


def leakage(labels: NDArray[Any], split: NDArray[Any], *, seed: int = 0) -> dict[str, float]:
    """Return how well each label can be told from z_sp alone: R^2 of predictions for stars not trained on.

    0 or less: not at all. Two regressions are cross-validated in five folds, ridge on all squares and products and
    boosted trees; the larger R^2 counts. Labels and properties of an observation that go together in the survey (faint
    stars are cool) give some R^2 without any leak, so compare with true properties where they are known.

    Args:
        labels: ``(star, label)``, in the order of `stargap.labels.LABELS`.
        split: z_sp ``(star, ...)``; rows with a NaN in either are left out.
        seed: of the folds.

    Returns:
        by label; NaN for one that does not vary.

    Raises:
        UsageError: fewer than 50 stars.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels, noise = rng.normal(size=(200, 2)), rng.normal(size=(200, 1))
        >>> found = leakage(labels, np.concatenate([labels[:, :1] + 0.1 * noise, noise], axis=1))
        >>> found["teff"] > 0.9, found["logg"] < 0.1
        (True, True)
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    from threadpoolctl import threadpool_limits

    wanted, known = np.asarray(labels, dtype=float), np.asarray(split, dtype=float).reshape(len(split), -1)
    finite = np.isfinite(wanted).all(axis=1) & np.isfinite(known).all(axis=1)
    if finite.sum() < 10 * FOLDS:
        message = f"{finite.sum()} of {len(finite)} stars have finite labels and z_sp: {10 * FOLDS} or more are needed"
        raise UsageError(message)
    wanted, known = wanted[finite], known[finite]
    scaled = (StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler())
    regressions = (
        make_pipeline(*scaled, RidgeCV(np.logspace(-2, 6, 9))),
        HistGradientBoostingRegressor(max_iter=100, max_leaf_nodes=15, early_stopping=False, random_state=seed),
    )
    found = {}
    with threadpool_limits(1):
        for name, truth in zip(LABELS, wanted.T, strict=False):
            spread = np.square(truth - truth.mean()).sum()
            if spread <= 1e-12 * np.square(truth).sum():
                found[name] = np.nan
                continue
            folds = KFold(FOLDS, shuffle=True, random_state=seed)
            guesses = [cross_val_predict(regression, known, truth, cv=folds) for regression in regressions]
            found[name] = float(max(1 - np.square(truth - guess).sum() / spread for guess in guesses))
    return found


class Moved(NamedTuple):
    """How a label moved: ``median`` and ``scatter`` (1.4826 MAD) of swapped minus own, over ``n`` stars."""

    median: float
    scatter: float
    n: int


def swap_effect(labels_own: NDArray[Any], labels_swapped: NDArray[Any]) -> dict[str, Moved]:
    """Return how much each label moves when stars are fitted with one another's z_sp: not at all, if none leaks.

    Args:
        labels_own: ``(star, label)``, in the order of `stargap.labels.LABELS`.
        labels_swapped: the same stars with another star's z_sp; NaN where the fit failed.

    Example:
        >>> own = np.array([[3500.0, 4.8], [3600.0, 4.7], [3700.0, np.nan]])
        >>> swap_effect(own, own + [10.0, 0.0])["teff"]
        Moved(median=10.0, scatter=0.0, n=3)
    """
    delta = np.asarray(labels_swapped, dtype=float) - np.asarray(labels_own, dtype=float)
    moved = {}
    for name, column in zip(LABELS, delta.T, strict=False):
        finite = column[np.isfinite(column)]
        middle = float(np.median(finite)) if finite.size else np.nan
        scatter = 1.4826 * float(np.median(np.abs(finite - middle))) if finite.size else np.nan
        moved[name] = Moved(middle, scatter, finite.size)
    return moved


@torch.no_grad()
def cycle_table(network: CycleStarNet, batches: Iterable[Batch]) -> dict[str, float]:
    """Return mean |residual| / sigma of reconstructions and cycles, over the good pixels of all stars.

    Sigma is that of the losses: 0.01 for synthetic spectra, at least 0.005 for observed ones, whose noise alone gives
    0.80 where sigma is true to it (less, where the network copies noise).

    Args:
        network: the network.
        batches: pairs, such as ``PairedSource.validation()``.

    Returns:
        ``s->s, o->o, s->o->s, o->s->o``; NaN without a good pixel.
    """
    found: dict[str, list[Array]] = {name: [] for name in ("s->s", "o->o", "s->o->s", "o->s->o")}
    for batch in batches:
        made = transfer(network, batch)
        good = torch.ones_like(batch.observed_good) if batch.synthetic_good is None else batch.synthetic_good
        synthetic = (batch.synthetic, torch.full_like(batch.synthetic, SYNTHETIC_SIGMA), good)
        observed = (batch.observed, batch.observed_sigma.clamp_min(LEAST_OBSERVED_SIGMA), batch.observed_good)
        for name, spectra, (flux, *rest) in (
            ("s->s", made.synthetic, synthetic),
            ("o->o", made.observed, observed),
            ("s->o->s", made.synthetic_cycle, synthetic),
            ("o->s->o", made.observed_cycle, observed),
        ):
            found[name].append(mean_residual(*(array.cpu().numpy() for array in (flux, spectra, *rest))))
    values = {name: np.concatenate([*parts, np.empty(0)]) for name, parts in found.items()}
    finite = {name: value[np.isfinite(value)] for name, value in values.items()}
    return {name: float(value.mean()) if value.size else np.nan for name, value in finite.items()}
