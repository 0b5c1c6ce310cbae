"""How much of the range a spectrum covers, and what labels lose where that is a part."""

from __future__ import annotations

import numpy as np
import torch

from stargap.pixels import LOG_LAMBDA
from stargap.rows import FloatColumn, LabelArray
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.readers.content import RANGE
from stargap.spectra.spectrum import Facts

__all__ = ["PARTIAL", "PARTIAL_FLOOR", "PARTIAL_NOISE", "covered_fraction", "least_snr", "missing_systematic"]

PARTIAL = 0.95
"""Fraction of 6000-8900 A below which a spectrum covers a part of it."""
PARTIAL_NOISE = 1.3
PARTIAL_FLOOR = np.array([11.0, 0.008, 0.022, 0.0])
"""What is added in quadrature to systematic errors, times the root of the fraction of 6000-8900 A that is not covered:
random errors of labels times the first, and Teff (K), log g, [M/H] and [a/M] (dex) of the second. Labels of LAMOST
spectra that are cut to less move so (docs/results/instruments.md)."""


def covered_fraction(native: NativeBatch) -> FloatColumn:
    """Return the fraction of 6000-8900 A between the first and the last good pixel of each spectrum.

    Example:
        >>> ivar = torch.as_tensor(LOG_LAMBDA.wavelength < 7450.0).float()[None]
        >>> covered_fraction(NativeBatch(ivar, ivar, torch.ones(1), torch.zeros(1))).round(3)
        array([0.5])
    """
    wave = torch.as_tensor(LOG_LAMBDA.wavelength).clamp(*RANGE)
    good = native.ivar > 0
    first = torch.where(good, wave, RANGE[1]).amin(dim=1)
    last = torch.where(good, wave, RANGE[0]).amax(dim=1)
    return np.asarray(((last - first) / (RANGE[1] - RANGE[0])).clamp_min(0).cpu().numpy())


def missing_systematic(covered: FloatColumn, errors: LabelArray) -> LabelArray:
    """Return the systematic errors of labels that a part of the range adds, ``(star, 4)``; 0 from `PARTIAL` on.

    Args:
        covered: fraction of 6000-8900 A, ``(star,)``.
        errors: random errors of labels, ``(star, 4)``.

    Example:
        >>> missing_systematic(np.array([1.0, 0.5]), np.full((2, 4), 40.0))[:, 0].round(1)
        array([ 0. , 37.6])
    """
    missing = np.where(covered < PARTIAL, 1.0 - covered, 0.0)[:, None]
    return np.asarray(np.sqrt(missing) * np.hypot(PARTIAL_NOISE * errors, PARTIAL_FLOOR))


def least_snr(facts: Facts) -> float:
    """Return the S/N in r or i, whichever is lower; the other of a spectrum that does not reach into one of them.

    Example:
        >>> least_snr(Facts(snr_r=20.0, snr_source="ivar")), least_snr(Facts(snr_r=20.0, snr_source="header"))
        (20.0, 0.0)
    """
    known = [snr for snr in (facts.snr_r, facts.snr_i) if snr is not None]
    return min(known, default=0.0) if len(known) == 2 or facts.snr_source == "ivar" else 0.0
