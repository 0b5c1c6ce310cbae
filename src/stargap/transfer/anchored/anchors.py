"""Stars of known labels, and how a transfer is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from stargap.errors import UsageError
from stargap.settings import Settings
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.transfer.anchor_labels import ERRORS, P_SINGLE, ZERO_POINT, fill

__all__ = ["AnchorSettings", "AnchorStars", "check_anchors", "zero_points"]

LEAST_STARS = 6
MANY, FEW_FOLDS = 500, 3
"""Anchor spectra from which directions are found by random projections, and folds that are then enough."""


class AnchorSettings(Settings):
    """How an anchored transfer is made."""

    teff_degree: Annotated[int, Field(ge=0, le=3)] = 0
    """Of the correction in Teff; 0 is one factor a pixel, and the directions take up what changes."""
    metallicity_degree: Annotated[int, Field(ge=0, le=2)] = 0
    """Of the correction in [M/H]; 0 keeps the synthetic spectra's own change with metallicity."""
    ridge: Annotated[float, Field(gt=0)] = 0.2
    """Expected size of the correction (relative flux); of each power of Teff (per 300 K) or [M/H] (per 0.3 dex) a half,
    a quarter and so on."""
    floor: Annotated[float, Field(gt=0)] = 0.02
    """Where the search for the scatter of anchors about the correction begins; half of it is the least floor."""
    gap_weight: Annotated[float, Field(ge=0)] = 0.0
    """Share of the correction itself that is added to the floor: badly modelled bands lose their say, the blue with
    its order in [M/H] first."""
    gap_smoothing: Annotated[float, Field(ge=0)] = 20.0
    """Width over which that share is averaged (A, standard deviation of a Gaussian)."""
    directions: Annotated[int, Field(ge=0, le=20)] = 8
    """Ways in which spectra may differ that are fitted with the labels and not published."""
    prior: bool = True
    """Hold log g near the 5 Gyr isochrone at the star's own Teff and [M/H]; otherwise it is free within 0.5 dex."""
    logg_width: Annotated[float, Field(gt=0, lt=9)] = 0.02
    """Width of that prior (dex); gravities from M_K scatter by this about the sequence."""
    m_h: Annotated[float, Field(gt=-9, lt=9)] = -0.05
    """Mean of the prior on [M/H] (dex)."""
    m_h_width: Annotated[float, Field(gt=0, lt=9)] = 0.5
    """Its width (dex)."""
    reach: Annotated[float, Field(ge=0)] = 200.0
    """How far beyond the anchors' Teff the correction goes on (K)."""
    contrast: Annotated[float, Field(gt=0, le=2)] = 0.7
    """Power of the emulator's normalised flux: real bands are shallower than synthetic ones, and change less."""
    alpha_slope: Annotated[float, Field(ge=-1, le=1)] = 0.15
    """[a/M] of all fits at [M/H] = -1, 0 at solar. The paper's 0.4 gives chi-square of metal-poor stars two minima."""
    label_map: bool = True
    """Bring fitted labels to the anchors' scale with what anchors left out in turn say: the stretch of [M/H], Teff."""
    map_reach: Annotated[float, Field(gt=0)] = 1.0
    """[M/H] below solar (dex) where that stretch has gone down to a half; further down labels are the spectrum's."""
    folds: Annotated[int, Field(ge=3, le=1000)] = 8
    """Groups of stars that are left out in turn, three with 500 anchors or more. The stars of one are judged by a map
    made without them too: this many trainings squared, and halved."""


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


def zero_points(stars: AnchorStars, published: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
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
