"""Where label fits start: a table of emulator spectra on a coarse grid of labels."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch

from stargap.arrays import ParameterValues, PerStar, Spectra
from stargap.fit.parameters import Parameters
from stargap.pixels import STARGAP, PixelGrid
from stargap.spectra.prepare import Prepared
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import Emulator

__all__ = ["Start", "find_starts"]

SPACING = {"teff": 100.0, "logg": 0.5, "m_h": 0.5, "a_m": 0.2}
"""Spacing of the table in each label (K, dex, dex, dex)."""
FAR = {"teff": 300.0, "logg": 0.9, "m_h": 0.9, "a_m": 0.5}
"""Distances from the best node (K, dex, dex, dex), of which a second start exceeds at least one."""


class Start(NamedTuple):
    """Free labels of one node of the table for each star ``(star, parameter)``, and its chi-square ``(star,)``."""

    theta: ParameterValues
    chi2: PerStar


def find_starts(prepared: Prepared, weight: Spectra, emulator: Emulator, parameters: Parameters) -> tuple[Start, Start]:
    """Return the best node of the table for each star, and the best of the nodes that are far from it.

    Args:
        prepared: the stars.
        weight: inverse variances of their pixels, ``(star, pixel)``, 0 where a pixel is not used.
        emulator: the synthetic spectra.
        parameters: free, fixed and tied labels, bounds.
    """
    nodes, spectra = _table(emulator, parameters, prepared.grid)
    constant = (weight * prepared.flux.square()).sum(dim=1, keepdim=True)
    cross = (weight * prepared.flux) @ spectra.T
    table = (constant - 2 * cross + weight @ spectra.square().T).double()
    chi2, best = table.min(dim=1)
    far = torch.zeros_like(table, dtype=torch.bool)
    for k, name in enumerate(parameters.free):
        far |= (nodes[:, k] - nodes[best, k][:, None]).abs() >= FAR[name]
    far_chi2, far_best = torch.where(far, table, torch.inf).min(dim=1)
    return Start(nodes[best], chi2), Start(nodes[far_best], far_chi2)


@lru_cache(maxsize=8)
def _table(emulator: Emulator, parameters: Parameters, grid: PixelGrid) -> tuple[ParameterValues, Spectra]:
    """Return the nodes ``(node, parameter)`` and their normalised spectra ``(node, pixel)``."""
    axes = []
    for low, high, name in zip(*(side.tolist() for side in parameters.bounds()), parameters.free, strict=True):
        count = max(round((high - low) / SPACING[name]), 1)
        axes.append(torch.linspace(low, high, count + 1, dtype=torch.float64).tolist())
    nodes = torch.tensor(list(product(*axes)), dtype=torch.float64)
    labels, _ = parameters.expand(nodes)
    extra = round((STARGAP.margin - grid.margin) / STARGAP.step)
    flux = emulator.flux(labels)[:, extra : STARGAP.support.size - extra]
    outside = ~(grid.window_mask(grid.support, "rest") | grid.window_mask(grid.support, "observed"))
    weight = torch.as_tensor(outside | grid.windows_in_smoother).float().expand_as(flux)
    return nodes, normalise(flux, weight, grid)[0]
