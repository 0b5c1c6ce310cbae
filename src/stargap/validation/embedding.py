"""Spectra or latents of several groups as points in a plane (paper figure 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError

__all__ = ["principal_components", "tsne"]

COMPONENTS = 50
"""Largest number of principal components that t-SNE sees."""
PERPLEXITY = 30.0
"""Perplexity of t-SNE, smaller where there are fewer than 91 rows."""
Array = NDArray[np.float64]


def tsne(groups: Mapping[str, NDArray[Any]], *, seed: int = 0) -> dict[str, Array]:
    """Embed all groups together in two dimensions, by t-SNE of their principal components (paper section 3.2).

    Distances between far points and sizes of clouds in such a picture mean nothing.

    Args:
        groups: by name ``(row, ...)``, spectra or latents; all but the first dimension are flattened. Bad pixels must
            be filled, in all groups alike.
        seed: equal seeds give equal pictures.

    Returns:
        by name ``(row, 2)``.

    Raises:
        UsageError: values that are not finite, rows of different sizes, or fewer than four rows altogether.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(40, 5))
        >>> placed = tsne({"here": points[:20], "there": 100 + points[20:]})
        >>> placed["there"].shape
        (20, 2)
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    parts = principal_components(groups, seed)
    count = sum(map(len, parts))
    if count < 4:
        message = f"{count} rows are too few for a picture: 4 or more are needed"
        raise UsageError(message)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    with threadpool_limits(1):
        placed = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return dict(zip(groups, np.split(np.asarray(placed, dtype=float), ends), strict=True))


def principal_components(groups: Mapping[str, NDArray[Any]], seed: int) -> list[Array]:
    """Return the principal components of all groups together, at most 50, ``(row, component)`` of each group.

    Raises:
        UsageError: values that are not finite, or rows of different sizes.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    flat = {name: np.asarray(rows, dtype=np.float32) for name, rows in groups.items()}
    flat = {name: rows.reshape(len(rows), int(np.prod(rows.shape[1:]))) for name, rows in flat.items()}
    widths = {name: rows.shape[1] for name, rows in flat.items()}
    if len(set(widths.values())) != 1:
        message = f"rows of the groups differ in size: {widths}"
        raise UsageError(message)
    for name, rows in flat.items():
        odd = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if odd.size:
            message = f"group {name}: {odd.size} of {len(rows)} rows hold values that are not finite, first {odd[0]}"
            raise UsageError(message)
    every = np.concatenate(list(flat.values()))
    with threadpool_limits(1):
        placed = PCA(min(COMPONENTS, *every.shape), random_state=seed).fit_transform(every)
    return np.split(np.asarray(placed, dtype=float), np.cumsum([len(rows) for rows in flat.values()])[:-1])
