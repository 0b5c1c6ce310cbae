"""Where label fits start: a table of emulator spectra on a coarse grid of labels."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch

from stargap.arrays import NodeMask, Nodes, ParameterValues, PerStar, Spectra, StarRows
from stargap.fit.parameters import Parameters
from stargap.labels import LABELS, M_H
from stargap.pixels import STARGAP, PixelGrid
from stargap.spectra.prepare import Prepared
from stargap.spectra.smoother import normalise
from stargap.theory.emulator import Emulator

__all__ = ["Start", "across_knee", "far_nodes", "find_starts", "start_nodes"]

SPACING = {"teff": 100.0, "logg": 0.5, "m_h": 0.5, "a_m": 0.2}
"""Spacing of the table in each label (K, dex, dex, dex)."""
FAR = {"teff": 300.0, "logg": 0.9, "m_h": 0.9, "a_m": 0.5}
"""Distances from the best node (K, dex, dex, dex), of which a second start exceeds at least one."""


KNEE = -0.75
"""[M/H] (dex) between the nodes on both sides of the bend of [a/M]."""


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
    far_chi2, far_best = torch.where(far_nodes(nodes, best, parameters), table, torch.inf).min(dim=1)
    return Start(nodes[best], chi2), Start(nodes[far_best], far_chi2)


def far_nodes(nodes: Nodes, best: StarRows, parameters: Parameters) -> NodeMask:
    """Return which nodes ``(node, parameter)`` are far from each star's `best` one, ``(star, node)`` bool."""
    far = torch.zeros(len(best), len(nodes), dtype=torch.bool)
    for k, name in enumerate(parameters.free):
        far |= (nodes[:, k] - nodes[best, k][:, None]).abs() >= FAR[name]
    return far


def across_knee(nodes: Nodes, best: StarRows, parameters: Parameters) -> NodeMask:
    """Return which nodes ``(node, parameter)`` are across `KNEE` from each star's `best` one and not far from it.

    The result is ``(star, node)`` bool.
    """
    if not (parameters.tied and LABELS[M_H] in parameters.free):
        return torch.zeros(len(best), len(nodes), dtype=torch.bool)
    m_h = nodes[:, parameters.free.index(LABELS[M_H])]
    near = (m_h - m_h[best][:, None]).abs() < FAR[LABELS[M_H]]
    return near & ((m_h < KNEE) != (m_h[best] < KNEE)[:, None])


def start_nodes(parameters: Parameters) -> Nodes:
    """Return the free labels of the nodes of the table, ``(node, parameter)``."""
    axes = []
    for low, high, name in zip(*(side.tolist() for side in parameters.bounds()), parameters.free, strict=True):
        count = max(round((high - low) / SPACING[name]), 1)
        axes.append(torch.linspace(low, high, count + 1, dtype=torch.float64).tolist())
    return torch.tensor(list(product(*axes)), dtype=torch.float64)


@lru_cache(maxsize=8)
def _table(emulator: Emulator, parameters: Parameters, grid: PixelGrid) -> tuple[Nodes, Spectra]:
    """Return the nodes ``(node, parameter)`` and their normalised spectra ``(node, pixel)``."""
    nodes = start_nodes(parameters)
    labels, _ = parameters.expand(nodes)
    extra = round((STARGAP.margin - grid.margin) / STARGAP.step)
    flux = emulator.flux(labels)[:, extra : STARGAP.support.size - extra]
    outside = ~(grid.window_mask(grid.support, "rest") | grid.window_mask(grid.support, "observed"))
    weight = torch.as_tensor(outside | grid.windows_in_smoother).float().expand_as(flux)
    return nodes, normalise(flux, weight, grid)[0]
