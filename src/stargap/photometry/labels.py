"""Photometric labels of many stars at once: Teff, log g, [M/H] with their covariance, and whether a star is single."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from stargap.flags import PhotFlag
from stargap.photometry import relations
from stargap.photometry.likelihood import LabelMixture, PhotometricLikelihood, Population
from stargap.photometry.observed import Photometry, observed
from stargap.photometry.surface import M_H_LIMITS, TEFF_LIMITS
from stargap.rows import LabelCovariances

__all__ = ["LABEL_NAMES", "TEFF_RANGE", "label_covariance", "photometric_labels"]

_Floats = NDArray[np.float64]

LABEL_NAMES = ("teff", "logg", "m_h")
TEFF_RANGE = (2780.0, 4100.0)
"""Teff (K) between which the relations rest on stars."""
_CHUNK = 20_000
_UNLIKELY = 1e-5
"""Chance below which magnitudes do not fit together."""
_NULLS = PhotFlag.NO_PHOTOMETRY | PhotFlag.NO_PARALLAX | PhotFlag.NO_SOLUTION


def photometric_labels(
    table: Mapping[str, ArrayLike], *, population: Population | None = None
) -> dict[str, NDArray[Any]]:
    """Return labels of M dwarfs from Gaia's magnitudes and parallax and, where there is one, 2MASS's Ks.

    On the scale of Mann et al. (2015), of which Teff is uncertain by 60 K as a whole; errors do not contain this. They
    contain errors of magnitudes, parallax and extinction, and the scatter of the relations (44 K, 0.08 dex, 0.025 dex
    in log g), part of which is the error of Mann's own labels, so that they are rather too large than too small.

    A star is a single one or an unresolved pair, each as likely as magnitudes, RUWE and a plain prior of [M/H] make it
    (`Population`). Labels are those of the likelier, of a pair its primary's; errors are of these labels whichever the
    star is, so that they are wide where photometry alone cannot tell. Labels of single stars are thereby not drawn
    towards those of pairs, which would compress [M/H].

    Trap: stars younger than some 100 Myr are still contracting, and active ones are inflated. Both are bright for their
    colour as pairs are, and look metal-rich, of low gravity or paired. Leave out known members of young groups.

    Args:
        table: columns ``(star,)`` as `observed.observed` takes them.
        population: what is assumed of the stars.

    Returns:
        Columns ``(star,)``, one row for each given, float64: ``teff_phot``, ``logg_phot``, ``m_h_phot`` (K, dex, dex),
        their errors ``e_...``, the correlations of these ``corr_teff_logg_phot``, ``corr_teff_m_h_phot``,
        ``corr_logg_m_h_phot``, the probability ``p_single``, the extinction that was taken off and its error,
        ``a_v_phot`` and ``e_a_v_phot`` (mag); and int64 ``phot_flags`` of `stargap.flags.PhotFlag`. All but the flags
        are NaN without BP, RP and a parallax of 5 sigma, or where the magnitudes are those of no M dwarf.

    Raises:
        UsageError: a needed column is missing, or columns are not of one length.

    Example:
        >>> luyten = {"g_mag": [8.5764], "bp_mag": [10.1117], "rp_mag": [7.3539], "ks_mag": [4.857], "ruwe": [1.24]}
        >>> labels = photometric_labels(luyten | {"parallax": [264.127], "e_parallax": [0.041]})
        >>> {name: float(labels[name][0].round(1)) for name in ("teff_phot", "m_h_phot", "p_single")}
        {'teff_phot': 3302.9, 'm_h_phot': 0.0, 'p_single': 0.9}
    """
    photometry = observed(table)
    size = len(photometry)
    parts = [_labels(photometry[slice(start, start + _CHUNK)], population) for start in range(0, max(size, 1), _CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def label_covariance(labels: Mapping[str, ArrayLike]) -> LabelCovariances:
    """Return the covariance ``(star, 3, 3)`` of Teff, log g and [M/H] (K, dex) that columns of labels give.

    Example:
        >>> columns = {f"e_{name}_phot": [value] for name, value in zip(LABEL_NAMES, (50.0, 0.03, 0.1))}
        >>> columns |= {"corr_teff_logg_phot": [-0.5], "corr_teff_m_h_phot": [0.2], "corr_logg_m_h_phot": [0.0]}
        >>> label_covariance(columns)[0].round(4)
        array([[ 2.5e+03, -7.5e-01,  1.0e+00],
               [-7.5e-01,  9.0e-04,  0.0e+00],
               [ 1.0e+00,  0.0e+00,  1.0e-02]])
    """
    errors = np.stack([np.asarray(labels[f"e_{name}_phot"], dtype=float) for name in LABEL_NAMES], axis=-1)
    correlation = np.broadcast_to(np.eye(3), (*errors.shape, 3)).copy()
    for one, two in ((0, 1), (0, 2), (1, 2)):
        values = np.asarray(labels[f"corr_{LABEL_NAMES[one]}_{LABEL_NAMES[two]}_phot"], dtype=float)
        correlation[..., one, two] = correlation[..., two, one] = values
    return np.asarray(errors[..., :, None] * correlation * errors[..., None, :])


def _labels(photometry: Photometry, population: Population | None) -> dict[str, NDArray[Any]]:
    mixture = PhotometricLikelihood(photometry, population=population).mixture()
    mean = _of_the_likelier(mixture)
    apart = mixture.means - mean[:, None]
    spread = mixture.covariances + apart[..., :, None] * apart[..., None, :]
    covariance = (mixture.weights[..., None, None] * spread).sum(axis=1)
    flags = photometry.flags | _flags(photometry, mixture, mean)
    null = (flags & int(_NULLS)) != 0
    mean[null], covariance[null] = np.nan, np.nan

    errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    columns: dict[str, NDArray[Any]] = {}
    for place, name in enumerate(LABEL_NAMES):
        columns |= {f"{name}_phot": mean[:, place], f"e_{name}_phot": errors[:, place]}
    for one, two in ((0, 1), (0, 2), (1, 2)):
        correlation = covariance[:, one, two] / (errors[:, one] * errors[:, two])
        columns[f"corr_{LABEL_NAMES[one]}_{LABEL_NAMES[two]}_phot"] = correlation
    columns["p_single"] = np.where(null, np.nan, mixture.weights[:, 0])
    columns |= {
        f"{mark}a_v_phot": np.where(null, np.nan, photometry.a_v[:, place]) for place, mark in enumerate(("", "e_"))
    }
    columns["phot_flags"] = flags
    return columns


def _of_the_likelier(mixture: LabelMixture) -> _Floats:
    """Return the labels of a single star ``(star, 3)`` where that is as likely as a pair, else the mean over pairs."""
    pairs = mixture.weights[:, 1:]
    total = pairs.sum(axis=1, keepdims=True)
    shares = np.divide(pairs, total, out=np.zeros_like(pairs), where=total > 0)
    of_pair = (shares[..., None] * mixture.means[:, 1:]).sum(axis=1)
    return np.where(mixture.weights[:, :1] >= 0.5, mixture.means[:, 0], of_pair)


def _flags(photometry: Photometry, mixture: LabelMixture, mean: _Floats) -> NDArray[np.int64]:
    """Return what the fit adds to the flags of the photometry."""
    stars = np.arange(len(mean))
    best = mixture.weights.argmax(axis=1)
    teff, m_h = mixture.means[stars, best, 0], mixture.means[stars, best, 2]
    at_limit = (teff <= TEFF_LIMITS[0]) | (teff >= TEFF_LIMITS[1]) | (m_h <= M_H_LIMITS[0]) | (m_h >= M_H_LIMITS[1])
    degrees = np.maximum(mixture.degrees, 1)
    chance = np.where(mixture.degrees > 0, chdtrc(degrees, mixture.chi2[stars, best]), 1.0)
    (coolest, hottest), (poorest, richest) = TEFF_RANGE, relations.M_H_RANGE
    outside = (mean[:, 0] < coolest) | (mean[:, 0] > hottest) | (mean[:, 2] < poorest) | (mean[:, 2] > richest)
    usable = photometry.usable
    flags = np.zeros(len(mean), dtype=np.int64)
    for flag, where in (
        (PhotFlag.BINARY_LIKELY, mixture.weights[:, 0] < 0.5),
        (PhotFlag.OUTSIDE_RELATIONS, outside),
        (PhotFlag.INCONSISTENT, chance < _UNLIKELY),
        (PhotFlag.NO_SOLUTION, at_limit | ~mixture.converged[stars, best]),
    ):
        flags[where & usable] |= int(flag)
    return flags
