"""Whether labels follow a reference distribution: Pearson's chi-square of counts in bins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from stargap.labels import M_H, TEFF


class Agreement(NamedTuple):
    """The statistic, its degrees of freedom, and the probability of a larger one."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


def agreement(labels, reference) -> Agreement:
    """Compare labels ``(row, label)`` with the counts of a `ReferenceDistribution` taken as free of noise.

    Bins are joined in order of their expectation until each has 5 or more; labels outside are put into the first.
    """
    number, inside = reference.bins(labels[:, TEFF], labels[:, M_H])
    found = np.bincount(number[inside], minlength=reference.counts.size)
    expected = reference.counts.ravel() * (len(labels) / reference.stars)
    order = np.argsort(expected, kind="stable")
    starts, running = [0], 0.0
    for position, value in enumerate(expected[order], 1):
        running += value
        if running >= 5:
            starts.append(position)
            running = 0.0
    starts = starts[:-1]
    assert len(starts) > 1, "too few labels for a test"
    wanted, counted = (np.add.reduceat(values[order], starts) for values in (expected, found))
    counted[0] += (~inside).sum()
    statistic = float(((counted - wanted) ** 2 / wanted).sum())
    return Agreement(statistic, len(starts) - 1, float(chi2.sf(statistic, len(starts) - 1)))
