"""t-SNE of several groups: apart where they are, the same again, refused where it has no meaning."""

from __future__ import annotations

import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.validation.embedding import tsne


def cloud(count, *, seed, size=20, middle=0.0):
    return middle + np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_tsne_keeps_groups_apart_that_are_apart_and_is_the_same_again():
    groups = {"synthetic": cloud(80, seed=1), "observed": cloud(60, seed=2, middle=5.0)}
    placed = tsne(groups, seed=3)
    assert {name: rows.shape for name, rows in placed.items()} == {"synthetic": (80, 2), "observed": (60, 2)}
    apart = np.linalg.norm(placed["synthetic"].mean(axis=0) - placed["observed"].mean(axis=0))
    assert apart > 2 * max(rows.std() for rows in placed.values())
    again = tsne(groups, seed=3)
    assert all((placed[name] == again[name]).all() for name in groups)


def test_tsne_takes_latents_and_few_rows():
    latents = cloud(12, seed=1, size=24).reshape(12, 8, 3)
    placed = tsne({"z_sh": latents[:6], "other": latents[6:]})
    assert all(np.isfinite(rows).all() for rows in placed.values())


def test_what_cannot_be_embedded_is_refused():
    good = cloud(10, seed=1)
    odd = good.copy()
    odd[3, 2] = np.nan
    with pytest.raises(UsageError, match="group observed: 1 of 10 rows hold values that are not finite, first 3"):
        tsne({"synthetic": good, "observed": odd})
    with pytest.raises(UsageError, match=r"differ in size: \{'a': 20, 'b': 7\}"):
        tsne({"a": good, "b": good[:, :7]})
    with pytest.raises(UsageError, match="3 rows are too few"):
        tsne({"a": good[:2], "b": good[:1]})
