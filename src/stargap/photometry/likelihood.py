"""The likelihood of photometry given labels: magnitudes against the surface of single stars and of unresolved pairs."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stargap.photometry import relations
from stargap.photometry.observed import Photometry
from stargap.photometry.search import inverse_2x2, least_squares
from stargap.photometry.surface import (
    M_H_LIMITS,
    MASS_RATIOS,
    TEFF_LIMITS,
    MagnitudeTable,
    intrinsic_covariance,
    magnitude_table,
)
from stargap.rows import AnyFloats, ComponentTerms, FloatColumn
from stargap.settings import Settings

__all__ = ["LabelMixture", "PhotometricLikelihood", "Population", "binary_odds", "log_shares", "log_usual"]

_Floats = NDArray[np.float64]

_TOLERANCE = np.array([0.05, 1e-4])
_LOG_2PI = float(np.log(2 * np.pi))


class Population(Settings):
    """What is assumed of stars before they are looked at, and how well the relations hold.

    Example:
        >>> np.sqrt(np.diag(Population().scatter())).round(3).tolist()
        [46.24, 0.025, 0.08]
    """

    binary_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Stars with an unresolved companion of 0.3 to 1 of their mass; all ratios are as likely."""
    m_h_mean: float = -0.05
    """Mean [M/H] of the stars (dex). It weighs single stars against pairs and moves no label."""
    m_h_width: Annotated[float, Field(gt=0)] = 0.25
    """Standard deviation of their [M/H] (dex)."""
    teff_scatter: Annotated[float, Field(gt=0)] = 44.0
    """Scatter of single stars about the relation of Teff at their [M/H] (K; Mann et al. 2015)."""
    m_h_scatter: Annotated[float, Field(gt=0)] = 0.08
    """Scatter of single stars about the relation of [M/H] (dex): Mann's own error, so rather too much."""
    logg_scatter: Annotated[float, Field(gt=0)] = 0.025
    """Scatter of single stars about log g from mass (2 %) and radius (2.7 %) at M_Ks (dex)."""

    def scatter(self) -> _Floats:
        """Return the covariance ``(3, 3)`` of Teff, log g and [M/H] of stars about the relations (K, dex).

        Teff is taken from colour at the star's own [M/H], so that an error of [M/H] is one of Teff too.
        """
        mixing = np.array([[1.0, 0.0, relations.TEFF_PER_DEX], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        variances = np.diag([self.teff_scatter**2, self.logg_scatter**2, self.m_h_scatter**2])
        return np.asarray(mixing @ variances @ mixing.T)


class LabelMixture(NamedTuple):
    """What `PhotometricLikelihood.mixture` returns: a sum of Gaussians over Teff, log g, [M/H] of each star.

    ``weights`` ``(star, component)`` add up to one; ``means`` ``(star, component, 3)`` in K, dex, dex; ``covariances``
    ``(star, component, 3, 3)``; ``chi2`` ``(star, component)`` of the magnitudes at the mean; ``degrees`` ``(star,)``,
    magnitudes less two; ``converged`` ``(star, component)``. Component 0 is a single star.
    """

    weights: _Floats
    means: _Floats
    covariances: _Floats
    chi2: _Floats
    degrees: NDArray[np.int64]
    converged: NDArray[np.bool_]


def binary_odds(ruwe: FloatColumn) -> FloatColumn:
    """Return by how much a RUWE makes a pair more likely than a single star; 1 where it is unknown.

    Of 220 close pairs in Cifuentes et al. (2025) a quarter have RUWE below 1.4 and 70 % above 1.8, of 1,083 single
    stars 83 % and 1.5 %. The ratio is 0.4 below 1.4, 1 at 1.7, 10 at 2.0 and at most 30, for pairs that far away
    are not seen to wobble are many, and RUWE of single stars is high in crowded fields.

    Example:
        >>> binary_odds(np.array([1.0, 1.7, 2.0, 5.0, np.nan])).round(1)
        array([ 0.4,  1.3,  9.6, 30.4,  1. ])
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        odds = 0.4 + 30 / (1 + np.exp(-np.log(ruwe / 2.1) / 0.06))
    return np.where(np.isfinite(ruwe) & (ruwe > 0), odds, 1.0)


def log_shares(ruwe: FloatColumn, population: Population) -> ComponentTerms:
    """Return ln of the share of each kind of star before its magnitudes are looked at, ``(star, component)``.

    Example:
        >>> np.exp(log_shares(np.array([np.nan]), Population())).round(3)
        array([[0.8  , 0.029, 0.029, 0.029, 0.029, 0.029, 0.029, 0.029]])
    """
    fraction = population.binary_fraction
    odds = fraction / (1 - fraction) * binary_odds(ruwe) if fraction < 1 else np.inf
    pair = odds / (1 + odds) if fraction < 1 else np.ones(len(ruwe))
    with np.errstate(divide="ignore"):
        single, each = np.log(1 - pair), np.log(pair / len(MASS_RATIOS))
    return np.column_stack([single, *[each] * len(MASS_RATIOS)])


def log_usual(m_h: AnyFloats, variance: AnyFloats, population: Population) -> AnyFloats:
    """Return ln of how usual [M/H] (dex) with this error squared is among stars, of any shape, but for a constant.

    Example:
        >>> log_usual(np.array([-0.05, 0.5]), np.array([0.01, 0.01]), Population()).round(2)
        array([ 1.31, -0.77])
    """
    total = population.m_h_width**2 + variance
    return np.asarray(-0.5 * (m_h - population.m_h_mean) ** 2 / total - 0.5 * np.log(total))


class PhotometricLikelihood:
    """Likelihood of the magnitudes of stars given their Teff and [M/H].

    Magnitudes are Gaussian about those of a single star or of a pair (component) at the labels, with the covariance of
    `observed.Photometry`, that of single stars about their surface, and that of labels about the relations carried to
    magnitudes. Parallax and extinction are marginal: their errors are in what bands share.

    The covariance of a component is that at its best labels, so that each term is a plain sum of squares of
    `residuals`, with `jacobian` for Gauss-Newton. What is unknown of a star counts for nothing; a star that is not
    usable has a likelihood of one everywhere.

    Args:
        photometry: of stars.
        population: what is assumed of them.
        table: magnitudes at labels; the shipped one if None.

    Example:
        >>> from stargap.photometry.observed import observed
        >>> star = {"bp_mag": [10.7], "rp_mag": [8.31], "ks_mag": [5.99], "parallax": [100.0], "e_parallax": [0.02]}
        >>> likelihood = PhotometricLikelihood(observed(star))
        >>> mixture = likelihood.mixture()
        >>> mixture.means[0, 0].round(2)
        array([3500.36,    4.79,   -0.  ])
        >>> float(mixture.weights[0, 0].round(2))
        0.88
        >>> likelihood.log_terms(mixture.means[:, 0, [0, 2]]).shape
        (1, 8)
    """

    def __init__(
        self, photometry: Photometry, *, population: Population | None = None, table: MagnitudeTable | None = None
    ) -> None:
        self.photometry = photometry
        self.population = population or Population()
        self.table = table or magnitude_table()
        self.known = np.isfinite(photometry.magnitudes)
        self._prior = log_shares(photometry.ruwe, self.population)
        self._labels, self._precise, self._converged = self._fit()
        scattered = self._covariance(with_labels=True)
        self._whitener = np.linalg.inv(np.linalg.cholesky(scattered))
        self._log_norm = np.log(np.diagonal(self._whitener, axis1=-2, axis2=-1)).sum(axis=-1)

    @property
    def components(self) -> int:
        """Kinds of star: single, and one for each mass ratio of a pair."""
        return self.table.components

    def residuals(self, labels: Any) -> Any:
        """Return whitened residuals ``(star, component, band)``: observed less model, in units of their errors.

        Args:
            labels: Teff (K) and [M/H] (dex), ``(star, 2)``; an array, or a tensor, which gives a tensor.
        """
        return _like(labels, self._whitened(_plain(labels))[0])

    def jacobian(self, labels: Any) -> Any:
        """Return the derivatives of `residuals` with Teff and [M/H], ``(star, component, band, 2)``."""
        return _like(labels, self._whitened(_plain(labels))[1])

    def log_terms(self, labels: Any) -> Any:
        """Return ln(prior of the component times its likelihood), ``(star, component)``."""
        residuals = self._whitened(_plain(labels))[0]
        return _like(labels, self._log_terms(residuals))

    def log_likelihood(self, labels: Any) -> Any:
        """Return ln of the likelihood ``(star,)``, the sum over components."""
        terms = self._log_terms(self._whitened(_plain(labels))[0])
        return _like(labels, np.logaddexp.reduce(terms, axis=1))

    def gauss_newton(self, labels: Any) -> tuple[Any, Any, Any]:
        """Return minus the log-likelihood ``(star,)``, its gradient ``(star, 2)`` and its curvature ``(star, 2, 2)``.

        The gradient is exact. The curvature is that of Gauss and Newton, each component weighted by its share of the
        likelihood: never negative, and so larger than the true one between two components.
        """
        residuals, slopes = self._whitened(_plain(labels))
        terms = self._log_terms(residuals)
        total = np.logaddexp.reduce(terms, axis=1)
        shares = np.exp(terms - total[:, None])
        turned = np.swapaxes(slopes, -1, -2)
        gradient = (shares[..., None] * (turned @ residuals[..., None])[..., 0]).sum(axis=1)
        curvature = (shares[..., None, None] * (turned @ slopes)).sum(axis=1)
        return _like(labels, -total), _like(labels, gradient), _like(labels, curvature)

    def mixture(self) -> LabelMixture:
        """Return the posterior of the labels given the photometry: a Gaussian for each component, and its weight.

        A component's Gaussian knows no prior of labels; its share does (`Population`).
        """
        stars, kinds = self._prior.shape
        values, slopes = self._at(self._labels)
        residuals = self._difference(values)
        chi2 = (((self._precise_whitener @ residuals[..., None])[..., 0]) ** 2).sum(axis=-1)
        to_labels = np.zeros((stars, kinds, 3, 2))
        to_labels[..., 0, 0] = to_labels[..., 2, 1] = 1.0
        to_labels[..., 1, :] = slopes[..., 4, :]
        covariances = to_labels @ self._precise @ np.swapaxes(to_labels, -1, -2) + self.population.scatter()
        means = np.stack([self._labels[..., 0], values[..., 4], self._labels[..., 1]], axis=-1)

        evidence = self._prior - 0.5 * chi2 + log_usual(means[..., 2], covariances[..., 2, 2], self.population)
        evidence += 0.5 * np.log(np.maximum(np.linalg.det(self._precise), 1e-30))
        weights = np.exp(evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True))
        return LabelMixture(weights, means, covariances, chi2, self.known.sum(axis=1) - 2, self._converged)

    def _at(self, labels: _Floats) -> tuple[_Floats, _Floats]:
        """Return values and slopes of the table at labels ``(star, component, 2)``."""
        stars, kinds = labels.shape[:2]
        which = np.tile(np.arange(kinds), stars)
        values, slopes = self.table(labels[..., 0].ravel(), labels[..., 1].ravel(), which)
        return values.reshape(stars, kinds, 6), slopes.reshape(stars, kinds, 6, 2)

    def _difference(self, values: _Floats) -> _Floats:
        return np.where(self.known[:, None], self.photometry.magnitudes[:, None] - values[..., :4], 0.0)

    def _covariance(self, *, with_labels: bool) -> _Floats:
        """Return the covariance of magnitudes ``(star, component or 1, band, band)``."""
        extra = intrinsic_covariance()[None, None]
        if with_labels:
            slopes = self._at(self._labels)[1][..., :4, :]
            scatter = self.population.scatter()[np.ix_([0, 2], [0, 2])]
            extra = extra + slopes @ scatter @ np.swapaxes(slopes, -1, -2)
        both = self.known[:, None, :, None] & self.known[:, None, None, :]
        return self.photometry.covariance[:, None] + np.where(both, extra, 0.0)

    def _fit(self) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
        """Return the best labels of each component, their covariance, and whether every search came to an end."""
        stars, kinds = self._prior.shape
        whitener = np.linalg.inv(np.linalg.cholesky(self._covariance(with_labels=False)))[:, 0]

        def model(labels: _Floats, rows: NDArray[np.intp]) -> tuple[_Floats, _Floats]:
            star, kind = np.divmod(rows, kinds)
            values, slopes = self.table(labels[:, 0], labels[:, 1], kind)
            known = self.known[star]
            apart = np.where(known, self.photometry.magnitudes[star] - values[:, :4], 0.0)
            steep = np.where(known[..., None], slopes[:, :4], 0.0)
            return (whitener[star] @ apart[..., None])[..., 0], -whitener[star] @ steep

        colour = np.nan_to_num(self.photometry.magnitudes[:, 1] - self.photometry.magnitudes[:, 2], nan=2.5)
        start = np.zeros((stars, kinds, 2))
        start[..., 0] = relations.polynomial_teff(np.clip(colour, 1.4, 4.2))[:, None]
        limits = np.array([TEFF_LIMITS, M_H_LIMITS]).T
        found = least_squares(model, start.reshape(-1, 2), limits, tolerance=_TOLERANCE)
        self._precise_whitener = whitener[:, None]
        return (
            found.labels.reshape(start.shape),
            inverse_2x2(found.curvature).reshape(stars, kinds, 2, 2),
            found.converged.reshape(stars, kinds),
        )

    def _whitened(self, labels: _Floats) -> tuple[_Floats, _Floats]:
        stars, kinds = self._prior.shape
        values, slopes = self._at(np.broadcast_to(labels[:, None], (stars, kinds, 2)))
        slopes = np.where(self.known[:, None, :, None], slopes[..., :4, :], 0.0)
        residuals = (self._whitener @ self._difference(values)[..., None])[..., 0]
        return residuals, -self._whitener @ slopes

    def _log_terms(self, residuals: _Floats) -> _Floats:
        bands = self.known.sum(axis=1)[:, None]
        return np.asarray(self._prior + self._log_norm - 0.5 * (residuals**2).sum(axis=-1) - 0.5 * bands * _LOG_2PI)


def _plain(labels: Any) -> _Floats:
    values = labels.detach().cpu().numpy() if hasattr(labels, "detach") else labels
    return np.asarray(values, dtype=float)


def _like(given: Any, values: _Floats) -> Any:
    """Return values as what was given: an array, or a tensor on the same device."""
    if not hasattr(given, "new_tensor"):
        return values
    return given.new_tensor(values, dtype=given.new_zeros(0).double().dtype)
