"""Stars of known labels, and how a transfer is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.rows import LabelArray
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.transfer.anchor_labels import ERRORS, P_SINGLE, ZERO_POINT, fill
from stargap.transfer.anchored.settings import AnchorSettings

__all__ = ["AnchorStars", "check_anchors", "zero_points"]

LEAST_STARS = 6
MANY, FEW_FOLDS = 500, 3
"""Anchor spectra from which directions are found by random projections, and folds that are then enough."""


@dataclass(frozen=True)
class AnchorStars:
    """Stars of known labels: prepared spectra, ``labels (spectrum, 3)`` teff, logg, m_h (K, dex), and names of stars.

    log g is compared with, not trained on. Spectra of one star are held out together. ``errors (spectrum, 3)`` are
    those of the labels (`ERRORS` by default), ``p_single (spectrum,)`` the chance that the star is no unresolved pair,
    ``sources`` say where labels are from: all but the most frequent one get a zero point (`zero_points`).
    """

    prepared: Prepared
    labels: NDArray[np.float64]
    names: Sequence[str]
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    p_single: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.labels)
        fill(self, errors=np.tile(ERRORS, (count, 1)), p_single=np.full(count, P_SINGLE), sources=[""] * count)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.int64]) -> AnchorStars:
        return AnchorStars(
            self.prepared[torch.as_tensor(rows)],
            self.labels[rows],
            [self.names[row] for row in rows],
            self.errors[rows],
            self.p_single[rows],
            [self.sources[row] for row in rows],
        )

    def shifted(self, points: dict[str, NDArray[np.float64]]) -> AnchorStars:
        """Return the stars with zero points of their sources (`zero_points`) taken from their labels."""
        nothing = np.zeros(3)
        return replace(self, labels=self.labels - [points.get(source, nothing) for source in self.sources])


def zero_points(stars: AnchorStars, published: LabelArray) -> dict[str, NDArray[np.float64]]:
    """Return by how much the labels of each source are too large (K, dex, dex), beside the most frequent source.

    Args:
        stars: the anchors.
        published: their labels when they are left out, ``(spectrum, 3)``, NaN where there are none. What these are off
            by is the same for all sources; the differences, weighed by errors and drawn to 0 by `ZERO_POINT`, are not.

    Example:
        >>> known = np.array([[3500.0, 4.8, 0.0]] * 9 + [[3560.0, 4.8, 0.0]] * 8)
        >>> stars = AnchorStars(None, known, list("abcdefghijklmnopq"), sources=["phot"] * 9 + ["lit"] * 8)
        >>> {name: points.round(1).tolist() for name, points in zero_points(stars, 0 * known + [3500, 4.8, 0]).items()}
        {'lit': [38.5, 0.0, 0.0]}
    """
    names, counts = np.unique(stars.sources, return_counts=True)
    seen = np.isfinite(published).all(axis=1)
    source = np.array(stars.sources)

    def mean(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = seen & (source == name)
        weight = stars.p_single[rows, None] / stars.errors[rows] ** 2
        total = weight.sum(axis=0)
        return (weight * (stars.labels - published)[rows]).sum(axis=0) / np.maximum(total, 1e-12), total

    first = str(names[counts.argmax()])
    points = {}
    for name in names.tolist():
        if name != first:
            (own, weight), (usual, other) = mean(name), mean(first)
            variance = 1 / np.maximum(weight, 1e-12) + 1 / np.maximum(other, 1e-12)
            points[name] = (own - usual) / (1 + variance / np.array(ZERO_POINT) ** 2)
    return points


def check_anchors(
    stars: AnchorStars, emulator: Emulator, settings: AnchorSettings, scored: NDArray[np.bool_] | None
) -> None:
    """Refuse anchors of which no transfer can be made or tested.

    Raises:
        UsageError: see `stargap.transfer.anchored.train.train_anchored`.
    """
    names, counts = np.unique(stars.names, return_counts=True)
    if len(names) < LEAST_STARS:
        message = f"{len(names)} anchor stars; at least {LEAST_STARS} are needed"
        raise UsageError(message)
    if scored is not None and not scored.any():
        message = f"none of {len(stars)} anchor spectra is scored: a transfer that is not tested is not made"
        raise UsageError(message)
    most = len(stars) - int(counts.max())
    if settings.directions > most:
        message = f"directions is {settings.directions}; these anchors, less one star, allow {most}"
        raise UsageError(message)
    low, high = emulator.lower[:3].numpy(), emulator.upper[:3].numpy()
    sound = np.isfinite(stars.labels).all(axis=1) & ((stars.labels >= low) & (stars.labels <= high)).all(axis=1)
    if not sound.all():
        first = int(np.argmin(sound))
        message = f"anchor {stars.names[first]}: labels {stars.labels[first]} are not within {low} to {high}"
        raise UsageError(message)
