"""How far fitted labels are off for reasons that no exposure time mends, from what parts of a spectrum disagree by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stargap.fit.parameters import Parameters
from stargap.fit.polynomial import monomials
from stargap.rows import RowNumbersArray
from stargap.spectra.prepared import PreparedSpectra
from stargap.statistics import clip
from stargap.transfer.residual.fits import brightest, fit_spectra
from stargap.transfer.residual.model import MAPPED, ResidualTransfer, powers

__all__ = ["own_scatter"]

BLOCKS = 8
"""Parts of a spectrum that are left out in turn."""
STARS = 128
SHARED = 2 / 3
"""Share of the variance of such errors that all parts of a spectrum have in common, so that no part left out shows it:
a star's own log g, of which neither spectra nor photometry tell, moves Teff and [M/H] of the whole spectrum. On
simulated stars it is a half of the variance of most, and more of the tails (decision 019)."""
SMOOTH = 2
"""Degree in labels of what all stars share, which the label map takes up."""


def own_scatter(
    transfer: ResidualTransfer, spectra: PreparedSpectra, rows: RowNumbersArray, parameters: Parameters
) -> Tensor:
    """Return the scatter ``(3,)`` of fitted labels (K, dex, dex) beyond noise: each star has its own errors of models.

    The jackknife over blocks of wavelength (Shao & Wu 1989, Annals of Statistics 17, 1176) gives the whole error of
    labels, by what they change when a block is left out; a polynomial in labels of these changes is what the label map
    mends. Outliers are clipped; the noise of the same stars is taken off, and what blocks cannot show (`SHARED`) added.

    Args:
        transfer: whose correction is trained.
        spectra: observed.
        rows: of which the brightest are used.
        parameters: free labels and bounds.
    """
    few = spectra[brightest(spectra, rows, STARS)]
    every = np.arange(len(few))
    whole = fit_spectra(few, every, transfer, parameters)
    block = np.arange(few.flux.shape[1]) * BLOCKS // few.flux.shape[1]
    apart = []
    for number in range(BLOCKS):
        left = PreparedSpectra(few.flux, few.sigma, few.good & (block != number), few.weight, few.rv)
        apart.append(fit_spectra(left, every, transfer, parameters, start=whole.labels).labels - whole.labels)
    change = torch.stack(apart)[:, :, :MAPPED]
    sound = torch.isfinite(change).all(dim=2).all(dim=0) & torch.isfinite(whole.covariance).all(dim=(1, 2))
    design = monomials(transfer.label_map.scaled(whole.labels[sound]), powers(SMOOTH))
    shared = torch.linalg.lstsq(design.expand(BLOCKS, -1, -1), change[:, sound], driver="gelsd").solution
    left_over = (change[:, sound] - design @ shared).numpy()
    spread = [[part[clip(part)].std() for part in block.T] for block in left_over]
    variance = (BLOCKS - 1) / BLOCKS * torch.tensor(spread).square().sum(dim=0)
    noise = whole.covariance[sound].diagonal(dim1=1, dim2=2).median(dim=0).values
    return ((variance - noise).clamp_min(0.0) / (1 - SHARED)).sqrt()
