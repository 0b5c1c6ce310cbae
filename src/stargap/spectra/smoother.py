"""The Gaussian pseudo-continuum: a banded smoother, and spectra divided by what it makes of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import Spectra, SupportSpectra
from stargap.devices import per_device
from stargap.pixels import STARGAP, PixelGrid

__all__ = ["Smoother", "normalise", "smoother_for"]

NEGLIGIBLE = 1e-20
"""Kernel, relative to its peak, below which it is taken to be 0: float32 cannot tell it from 0 in a sum, and numbers
that are too small for its normal range (1e-38) make products twenty times slower."""


class Smoother:
    """Gaussian running sum over pixels, as two narrow banded matrix products through coarse nodes.

    A Gaussian of standard deviation s is two Gaussians of s / sqrt(2), and between the two it is so smooth that nodes
    every s / 2 carry it to 1e-7 of its peak. Both factors are positive, so float32 keeps its relative accuracy and a
    bad value reaches no further than the kernel does. The band is cut into blocks of pixels, each with the nodes it
    can reach.

    Args:
        wavelength: pixels (A), shape ``(pixel,)``, increasing.
        sigma: standard deviation of the kernel (A).

    Example:
        >>> smooth = Smoother(np.arange(6000.0, 6300.0), 30.0)
        >>> smooth(torch.ones(1, 300))[0, [0, 150]]
        tensor([0.5066, 1.0000])
    """

    def __init__(self, wavelength: NDArray[np.float64], sigma: float) -> None:
        narrow, step, reach = sigma / np.sqrt(2.0), sigma / 2.0, 5.5 * sigma / np.sqrt(2.0)
        self.pixels = wavelength.size
        self.blocks = max(round((wavelength[-1] - wavelength[0]) / (8.0 * sigma)), 1)
        self.block = -(-self.pixels // self.blocks)
        nodes = np.arange(wavelength[0] - reach, wavelength[-1] + reach + step, step)
        edges = [wavelength[i * self.block : (i + 1) * self.block] for i in range(self.blocks)]
        first = [int(np.searchsorted(nodes, edge[0] - reach)) for edge in edges]
        last = [int(np.searchsorted(nodes, edge[-1] + reach)) for edge in edges]
        width = max(stop - start for start, stop in zip(first, last, strict=True))
        self.first = [min(start, nodes.size - width) for start in first]
        self.width, self.nodes = width, nodes.size
        band = np.zeros((self.blocks, self.block, width))
        for i, edge in enumerate(edges):
            near = nodes[self.first[i] : self.first[i] + width]
            band[i, : edge.size] = np.exp(-0.5 * ((edge[:, None] - near) / narrow) ** 2)
        band[band < NEGLIGIBLE] = 0.0
        self.gather = torch.as_tensor(band, dtype=torch.float32)
        self.spread = self.gather.transpose(1, 2).contiguous()
        peak = self(torch.ones(1, self.pixels)).max()
        self.gather, self.spread = self.gather / peak.sqrt(), self.spread / peak.sqrt()

    def __call__(self, values: Spectra) -> Spectra:
        """Return kernel-weighted sums ``(row, pixel)`` of `values` ``(row, pixel)``; for ones, at most 1."""
        given = values.shape[0]
        rows = max(given, 8)  # products of fewer rows round differently
        values = torch.nn.functional.pad(values, (0, self.blocks * self.block - self.pixels, 0, rows - given))
        parts = torch.bmm(values.view(rows, self.blocks, self.block).transpose(0, 1), self.gather)
        nodes = values.new_zeros(rows, self.nodes)
        for part, start in zip(parts, self.first, strict=True):
            nodes[:, start : start + self.width] += part
        near = torch.stack([nodes[:, start : start + self.width] for start in self.first])
        sums = torch.bmm(near, self.spread).transpose(0, 1)
        return sums.reshape(rows, self.blocks * self.block)[:given, : self.pixels]


@per_device
def smoother_for(grid: PixelGrid) -> Smoother:
    """Return the smoother on `grid.support`, built once."""
    return Smoother(grid.support, grid.smoothing)


def normalise(
    flux: SupportSpectra, weight: SupportSpectra, grid: PixelGrid = STARGAP
) -> tuple[Spectra, Spectra, Spectra]:
    """Divide spectra by their weighted Gaussian pseudo-continuum (paper section 2.4; METHOD section 2).

    With fluxes f_i, weights g_i and wavelengths l_i, the pseudo-continuum at l is

        F(l) = sum_i f_i g_i w_i(l) / sum_i g_i w_i(l),    w_i(l) = exp(-(l - l_i)^2 / (2 s^2)).

    Args:
        flux: ``(row, support)``.
        weight: the same shape, 0 for pixels that must not count.
        grid: pixel grid and width of the kernel.

    Returns:
        normalised flux, pseudo-continuum and the fraction of the kernel that lies on good pixels, ``(row, pixel)``;
        the first two are 0 where that fraction is below ``grid.least_kernel_weight``.

    Example:
        >>> flux = torch.linspace(1.0, 2.0, 3081).expand(2, -1)
        >>> normal, continuum, coverage = normalise(flux, torch.ones_like(flux))
        >>> normal.shape, bool((normal - 1).abs().max() < 1e-3)
        (torch.Size([2, 2901]), True)
    """
    smooth = smoother_for(grid)
    coverage = smooth(weight)[:, grid.inner]
    enough = coverage >= grid.least_kernel_weight
    continuum = torch.where(enough, smooth(weight * flux)[:, grid.inner] / coverage.clamp_min(1e-30), 0.0)
    usable = enough & (continuum != 0)
    normal = torch.where(usable, flux[:, grid.inner] / torch.where(usable, continuum, 1.0), 0.0)
    return normal, continuum, coverage
