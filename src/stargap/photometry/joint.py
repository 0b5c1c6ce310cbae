"""Labels from a spectrum and from photometry together: the spectrum's posterior times the likelihood of magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from stargap.flags import JointFlag
from stargap.marks import with_joint_marks
from stargap.photometry import relations
from stargap.photometry.labels import LABEL_NAMES, TEFF_RANGE
from stargap.photometry.likelihood import Population, log_shares, log_usual
from stargap.photometry.observed import Photometry, observed
from stargap.photometry.search import inverse_2x2, least_squares
from stargap.photometry.surface import M_H_LIMITS, TEFF_LIMITS, MagnitudeTable, intrinsic_covariance, magnitude_table
from stargap.rows import LabelCovariances

__all__ = ["JointMixture", "joint_labels", "joint_mixture", "spectral_covariance"]

_Floats = NDArray[np.float64]

UNLIKELY = 1e-4
"""Chance below which spectrum and photometry disagree."""
SYSTEMATIC = 0.5
"""Correlation of systematic errors over that of noise (docs/results/photometry.md measures it on simulated stars)."""
_TOLERANCE = np.array([0.5, 1e-3])
_CHUNK = 2_000


class JointMixture(NamedTuple):
    """What `joint_mixture` returns: a Gaussian over Teff, log g, [M/H] for each kind of star.

    ``weights`` ``(star, component)`` add up to one; ``means`` ``(star, component, 3)`` in K, dex, dex; ``covariances``
    ``(star, component, 3, 3)``; ``chi2`` ``(star, component)`` of spectrum and photometry at the mean; ``degrees``
    ``(star,)``, known magnitudes and one for log g; ``converged`` ``(star, component)``. Component 0 is a single star.
    """

    weights: _Floats
    means: _Floats
    covariances: _Floats
    chi2: _Floats
    degrees: NDArray[np.int64]
    converged: NDArray[np.bool_]


def spectral_covariance(columns: Mapping[str, ArrayLike], *, systematic: float = SYSTEMATIC) -> LabelCovariances:
    """Return the covariance ``(star, 3, 3)`` of Teff, log g and [M/H] (K, dex) of spectra, with the systematic part.

    Random errors ``e_*`` are correlated by ``rho_*``, the systematic ones ``e_*_sys``, where there are any, by a
    part of that, `systematic`: what a model cannot reproduce moves labels as noise does, but not that way alone.

    Example:
        >>> columns = {"e_teff": [30.0], "e_logg": [0.02], "e_m_h": [0.1], "e_teff_sys": [40.0], "e_m_h_sys": [0.1]}
        >>> spectral_covariance(columns | {"rho_teff_m_h": [0.5]})[0].round(4)
        array([[2.5e+03, 0.0e+00, 2.5e+00],
               [0.0e+00, 4.0e-04, 0.0e+00],
               [2.5e+00, 0.0e+00, 2.0e-02]])
    """
    nothing = np.zeros(np.shape(columns["e_teff"]))
    rho = np.zeros((len(nothing), 3, 3))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        given = np.asarray(columns.get(f"rho_{LABEL_NAMES[one]}_{LABEL_NAMES[two]}", nothing), dtype=float)
        rho[:, one, two] = rho[:, two, one] = np.nan_to_num(given)
    total = np.zeros((len(nothing), 3, 3))
    for kind, share in (("", 1.0), ("_sys", systematic)):
        parts = [np.asarray(columns.get(f"e_{name}{kind}", nothing), dtype=float) for name in LABEL_NAMES]
        errors = np.stack(parts, axis=-1) if not kind else np.nan_to_num(np.stack(parts, axis=-1))
        total += errors[:, :, None] * (np.eye(3) + share * rho) * errors[:, None, :]
    return total


def joint_labels(
    spectra: Mapping[str, ArrayLike],
    table: Mapping[str, ArrayLike],
    *,
    population: Population | None = None,
    threads: int = 1,
) -> dict[str, NDArray[Any]]:
    """Return labels of spectra and photometry together, beside which those of each alone stay what they are.

    Each is the mean over single stars and unresolved pairs of `joint_mixture`, weighted by what spectrum, magnitudes
    and RUWE make of each kind; the error contains noise, the spectrum's systematic error, the scatter of the relations
    and the difference between the kinds. Labels are those of a pair's brighter star.

    Args:
        spectra: columns ``(row,)`` of `stargap.tables.columns.MEASURED`: the labels, their errors, correlations and
            marks.
        table: columns ``(row,)`` of the same rows as `observed` takes them; NaN where there is no source.
        population: what is assumed of the stars.
        threads: that share the stars, when there are many.

    Returns:
        The columns of `stargap.tables.columns.JOINT`, float64 and int64. Labels are NaN, with a flag, where the
        spectrum has no usable labels or fixed ones, or there is no usable photometry.

    Raises:
        UsageError: a needed column of the table is missing, or columns are not of one length.

    Example:
        >>> star = {"bp_mag": [10.7], "rp_mag": [8.31], "ks_mag": [5.99], "parallax": [100.0], "e_parallax": [0.02]}
        >>> spectrum = {"teff": [3600.0], "logg": [4.8], "m_h": [0.2]}
        >>> errors = {"e_teff": [60.0], "e_logg": [0.05], "e_m_h": [0.1]}
        >>> marks = {f"{mark}_{name}": [int(mark == "use")] for mark in ("use", "care") for name in LABEL_NAMES}
        >>> found = joint_labels(spectrum | errors | marks, star)
        >>> {name: float(found[name][0].round(2)) for name in ("teff_joint", "e_teff_joint", "p_single_joint")}
        {'teff_joint': 3545.16, 'e_teff_joint': 36.41, 'p_single_joint': 0.99}
    """
    photometry = observed(table)
    values = np.stack([np.asarray(spectra[name], dtype=float) for name in LABEL_NAMES], axis=-1)
    covariance = spectral_covariance(spectra)
    used = np.all([np.asarray(spectra[f"use_{name}"]) == 1 for name in LABEL_NAMES], axis=0)
    good = used & np.isfinite(values).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    rows = np.flatnonzero(good & photometry.usable)
    size = len(values)
    columns: dict[str, NDArray[Any]] = {
        f"{mark}{name}_joint": np.full(size, np.nan) for name in LABEL_NAMES for mark in ("", "e_")
    }
    columns |= {"p_single_joint": np.full(size, np.nan), "chi2_joint": np.full(size, np.nan)}
    flags = np.where(good, 0, int(JointFlag.NO_SPECTRUM))
    flags |= np.where(photometry.usable, 0, int(JointFlag.NO_PHOTOMETRY))

    def fill(first: int) -> None:
        some = rows[first : first + _CHUNK]
        mixture = joint_mixture(values[some], covariance[some], photometry[some], population=population)
        found, flags[some] = _columns(mixture)
        for name, column in found.items():
            columns[name][some] = column

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, len(rows), _CHUNK)))
    marks = {f"care_{name}": np.asarray(spectra[f"care_{name}"]) for name in LABEL_NAMES}
    marked = with_joint_marks(columns | marks | {"joint_flags": flags})
    return {name: column for name, column in marked.items() if name not in marks}


def _columns(mixture: JointMixture) -> tuple[dict[str, _Floats], NDArray[np.int64]]:
    """Return the columns that a mixture makes, and its flags."""
    weights = mixture.weights[..., None]
    means = (weights * mixture.means).sum(axis=1)
    apart = mixture.means - means[:, None]
    spread = mixture.covariances + apart[..., :, None] * apart[..., None, :]
    errors = np.sqrt(np.diagonal((weights[..., None] * spread).sum(axis=1), axis1=1, axis2=2))
    stars, best = np.arange(len(means)), mixture.weights.argmax(axis=1)
    chi2 = mixture.chi2[stars, best]
    two, limits = mixture.means[stars, best][:, [0, 2]], np.array([TEFF_LIMITS, M_H_LIMITS])
    lost = ~mixture.converged[stars, best] | (two <= limits[:, 0]).any(axis=1) | (two >= limits[:, 1]).any(axis=1)
    reach = np.array([TEFF_RANGE, relations.M_H_RANGE])
    outside = (means[:, [0, 2]] < reach[:, 0]).any(axis=1) | (means[:, [0, 2]] > reach[:, 1]).any(axis=1)
    flags = np.zeros(len(means), dtype=np.int64)
    for flag, where in (
        (JointFlag.TENSION, chdtrc(mixture.degrees, chi2) < UNLIKELY),
        (JointFlag.BINARY_LIKELY, mixture.weights[:, 0] < 0.5),
        (JointFlag.OUTSIDE_RELATIONS, outside),
    ):
        flags[where & ~lost] |= int(flag)
    flags[lost] = int(JointFlag.NO_SOLUTION)
    columns = {f"{name}_joint": means[:, place] for place, name in enumerate(LABEL_NAMES)}
    columns |= {f"e_{name}_joint": errors[:, place] for place, name in enumerate(LABEL_NAMES)}
    columns |= {"p_single_joint": mixture.weights[:, 0], "chi2_joint": chi2 / mixture.degrees}
    return {name: np.where(lost, np.nan, column) for name, column in columns.items()}, flags


def joint_mixture(
    labels: _Floats,
    covariance: _Floats,
    photometry: Photometry,
    *,
    population: Population | None = None,
    table: MagnitudeTable | None = None,
) -> JointMixture:
    """Combine labels of spectra with photometry, once for each kind of star.

    By the relations a star of some labels looks like one of other labels: these scatter about the true ones
    (`Population.scatter`), and their log g is that of mass and radius. What is minimised over the Teff and [M/H] that a
    star looks like is the chi-square of its magnitudes about the surface of single stars or of pairs, in the space of
    magnitudes, plus that of the spectrum's labels about those that it looks like, with the covariance of both. The true
    labels follow from these, linear and Gaussian. A kind weighs what its share before the data, the integral over
    labels (Laplace) of both likelihoods, and how usual its [M/H] is, make it; no label moves towards usual ones. A
    pair's spectrum shows the mean Teff of both stars, weighted by their light (`MagnitudeTable`).

    Args:
        labels: Teff (K), log g, [M/H] (dex) of the spectra ``(star, 3)``, finite.
        covariance: of these, ``(star, 3, 3)``.
        photometry: of the same stars; what is unknown counts for nothing.
        population: what is assumed of the stars.
        table: magnitudes at labels; the shipped one if None.

    Example:
        >>> from stargap.photometry.observed import observed
        >>> star = {"bp_mag": [10.7], "rp_mag": [8.31], "ks_mag": [5.99], "parallax": [100.0], "e_parallax": [0.02]}
        >>> spectrum = np.array([[3600.0, 4.8, 0.2]]), np.diag([60.0, 0.05, 0.1])[None] ** 2
        >>> mixture = joint_mixture(*spectrum, observed(star))
        >>> mixture.means[0, 0].round(2).tolist(), np.sqrt(np.diag(mixture.covariances[0, 0])).round(2).tolist()
        ([3544.93, 4.79, 0.09], [36.34, 0.02, 0.06])
    """
    population, table = population or Population(), table or magnitude_table()
    stars, kinds = len(labels), table.components
    known = np.isfinite(photometry.magnitudes)
    star, kind = np.divmod(np.arange(stars * kinds), kinds)
    scatter = population.scatter()
    together = np.linalg.inv(covariance + scatter)
    spectral = np.swapaxes(np.linalg.cholesky(together), 1, 2)
    both = known[:, :, None] & known[:, None, :]
    noise = photometry.covariance + np.where(both, intrinsic_covariance(), 0.0)
    photometric = np.where(known[:, None], np.linalg.inv(np.linalg.cholesky(noise)), 0.0)
    magnitudes = np.where(known, photometry.magnitudes, 0.0)

    def model(seeming: _Floats, rows: NDArray[np.intp]) -> tuple[_Floats, _Floats]:
        here = star[rows]
        values, slopes = table(seeming[:, 0], seeming[:, 1], kind[rows])
        expected, change = _shown(seeming, values, slopes)
        by_labels, by_bands = spectral[here], photometric[here]
        residuals = _times(by_labels, expected - labels[here]), _times(by_bands, values[:, :4] - magnitudes[here])
        return np.concatenate(residuals, axis=1), np.concatenate([by_labels @ change, by_bands @ slopes[:, :4]], axis=1)

    limits = np.array([TEFF_LIMITS, M_H_LIMITS]).T
    start = labels[star][:, [0, 2]]
    found = least_squares(model, start, limits, tolerance=_TOLERANCE)
    chi2 = found.cost
    values, slopes = table(found.labels[:, 0], found.labels[:, 1], kind)
    expected, change = _like_these(found.labels, values, slopes)
    shown, as_shown = _shown(found.labels, values, slopes)
    gain = (scatter @ together)[star]
    left = change - gain @ as_shown
    means = expected + _times(gain, labels[star] - shown)
    covariances = scatter - gain @ scatter + left @ inverse_2x2(found.curvature) @ np.swapaxes(left, 1, 2)
    log_terms = (-0.5 * chi2 - 0.5 * np.log(np.linalg.det(found.curvature))).reshape(stars, kinds)
    means, covariances = means.reshape(stars, kinds, 3), covariances.reshape(stars, kinds, 3, 3)
    log_terms += log_shares(photometry.ruwe, population) + log_usual(means[..., 2], covariances[..., 2, 2], population)
    return JointMixture(
        np.exp(log_terms - np.logaddexp.reduce(log_terms, axis=1, keepdims=True)),
        means,
        covariances,
        chi2.reshape(stars, kinds),
        known.sum(axis=1) + 1,
        found.converged.reshape(stars, kinds),
    )


def _like_these(seeming: _Floats, values: _Floats, slopes: _Floats) -> tuple[_Floats, _Floats]:
    """Return Teff, log g and [M/H] ``(row, 3)`` of what stars look like, and their slopes ``(row, 3, 2)``."""
    change = np.zeros((len(seeming), 3, 2))
    change[:, 0, 0] = change[:, 2, 1] = 1.0
    change[:, 1] = slopes[:, 4]
    return np.stack([seeming[:, 0], values[:, 4], seeming[:, 1]], axis=1), change


def _shown(seeming: _Floats, values: _Floats, slopes: _Floats) -> tuple[_Floats, _Floats]:
    """Return what spectra of stars that look like these show, as `_like_these`: of a pair the mean Teff of both."""
    labels, change = _like_these(seeming, values, slopes)
    labels[:, 0] += values[:, 5]
    change[:, 0] += slopes[:, 5]
    return labels, change


def _times(matrices: _Floats, vectors: _Floats) -> _Floats:
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])
