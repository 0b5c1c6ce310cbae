"""Labels of stars from elsewhere than their spectra, as every kind of transfer takes them."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stargap.rows import IntColumn, LabelRanges

__all__ = ["ERRORS", "PAIR_SHIFT", "PAIR_WIDTH", "P_SINGLE", "ZERO_POINT", "AnchorLabels", "fill"]

ERRORS = (60.0, 0.06, 0.1)
"""Errors of labels that come without (K, dex, dex): two good sources differ by so much."""
P_SINGLE = 0.95
"""Chance that a star is no unresolved pair where it is not given."""
PAIR_SHIFT, PAIR_WIDTH = (0.0, 0.0, 0.25), (60.0, 0.1, 0.2)
"""What photometric labels of an unresolved pair that is taken for a single star are off by, and by how much that
scatters (K, dex, dex): it looks too rich in metals by up to 0.5 dex."""
ZERO_POINT = (40.0, 0.05, 0.05)
"""Expected size of the zero points of sources of labels (K, dex, dex)."""


def fill(anchors: object, **values: Sized) -> None:
    """Give fields of a frozen dataclass of anchors that were left empty these values, one per anchor."""
    for name, value in values.items():
        if not len(getattr(anchors, name)):
            object.__setattr__(anchors, name, value)


@dataclass(frozen=True)
class AnchorLabels:
    """Labels of stars that a spectrum each is known of.

    ``labels (anchor, 3)`` Teff (K), log g, [M/H] (dex); ``errors (anchor, 3)`` of these (`ERRORS` by default);
    ``p_single (anchor,)`` the chance that the star is no unresolved pair; ``sources`` say where labels are from: all
    but the most frequent one have a zero point. ``inside (anchor,)`` is False for labels beyond the range in which
    their source holds: what uses them chooses stars by another measure than the label, such as a spectrum, since a cut
    in noisy labels bends a regression.

    Example:
        >>> some = AnchorLabels(np.array([[3500.0, 4.8, 0.0]] * 3), sources=["Mann", "photometry", "photometry"])
        >>> some.names, some.source.tolist(), some.errors[0].tolist()
        (('photometry', 'Mann'), [1, 0, 0], [60.0, 0.06, 0.1])
    """

    labels: NDArray[np.float64]
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    p_single: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sources: Sequence[str] = ()
    inside: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        count = len(self.labels)
        fill(self, errors=np.tile(ERRORS, (count, 1)), p_single=np.full(count, P_SINGLE), sources=[""] * count)
        fill(self, inside=np.ones(count, dtype=bool))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> AnchorLabels:
        sources = np.array(self.sources, dtype=object)[rows].tolist()
        return AnchorLabels(self.labels[rows], self.errors[rows], self.p_single[rows], sources, self.inside[rows])

    @classmethod
    def joined(cls, parts: Sequence[AnchorLabels]) -> AnchorLabels:
        """Return all anchors of some sets, one after the other."""
        return cls(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.errors for part in parts]),
            np.concatenate([part.p_single for part in parts]),
            [source for part in parts for source in part.sources],
            np.concatenate([part.inside for part in parts]),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, the most frequent one first; all zero points are beside its."""
        every, counts = np.unique(list(self.sources), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return tuple(every[order].tolist())

    def ranges(self) -> LabelRanges:
        """Return the range of the labels that are inside, ``(source, 2, 3)``; infinite where a source has none."""
        found = np.tile([[-np.inf], [np.inf]], (len(self.names), 1, 3))
        for place in range(len(self.names)):
            own = self.source == place
            sound = self.labels[own & self.inside]
            if 0 < len(sound) < own.sum():
                found[place] = sound.min(axis=0), sound.max(axis=0)
        return found

    @property
    def source(self) -> IntColumn:
        """Place of each anchor's source in ``names``, ``(anchor,)``."""
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places[source] for source in self.sources], dtype=np.int64)
