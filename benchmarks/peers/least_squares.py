"""Weighted least squares for many stars at once, and the best of a set of templates: what several peers share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

BATCH = 256
"""Stars fitted together."""
Model = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From parameters ``(row, parameter)`` and places of stars ``(row,)`` to spectra and derivatives."""


def levenberg(
    model: Model,
    flux: torch.Tensor,
    ivar: torch.Tensor,
    start: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    *,
    iterations: int = 40,
    tolerance: float = 1e-3,
) -> torch.Tensor:
    """Return the parameters that minimise chi-square within bounds, by Levenberg-Marquardt with a damping per star.

    Args:
        model: spectra ``(row, pixel)`` and derivatives ``(row, parameter, pixel)``.
        flux: ``(star, pixel)``, as is `ivar`.
        ivar: 0 where a pixel is not used.
        start: ``(star, parameter)`` float64, in units in which a change of 1 is large.
        low: bounds ``(parameter,)``, as is `high`.
        high: see `low`.
        iterations: at most.
        tolerance: largest step of a star whose fit has ended.
    """
    theta, rows = start.clamp(low, high), torch.arange(len(start))
    damping = torch.full((len(start),), 1e-3, dtype=torch.float64)
    found = theta.clone()
    spectrum, slopes = model(theta, rows)
    cost = _cost(flux, ivar, spectrum)
    for _ in range(iterations):
        weighted = slopes * ivar[:, None]
        hessian = (weighted @ slopes.transpose(1, 2)).double()
        gradient = (weighted @ (flux - spectrum)[:, :, None]).double()[:, :, 0]
        # A parameter at a bound that the gradient pushes against stays there.
        held = ((theta <= low) & (gradient < 0)) | ((theta >= high) & (gradient > 0))
        hessian = torch.where(held[:, :, None] | held[:, None], 0.0, hessian)
        ridge = damping[:, None] * hessian.diagonal(dim1=1, dim2=2) + held + 1e-12
        step = torch.linalg.solve(hessian + torch.diag_embed(ridge), torch.where(held, 0.0, gradient))
        moved = (theta + step).clamp(low, high)
        tried, tried_slopes = model(moved, rows)
        new = _cost(flux, ivar, tried)
        better = new < cost
        small = (moved - theta).abs().amax(dim=1) < tolerance
        theta, cost = torch.where(better[:, None], moved, theta), torch.where(better, new, cost)
        spectrum = torch.where(better[:, None], tried, spectrum)
        slopes = torch.where(better[:, None, None], tried_slopes, slopes)
        damping = torch.where(better, damping / 5, damping * 5)
        found[rows] = theta
        going = ~small & (damping < 1e8)
        if not going.any():
            break
        rows, theta, cost, damping = rows[going], theta[going], cost[going], damping[going]
        spectrum, slopes, flux, ivar = spectrum[going], slopes[going], flux[going], ivar[going]
    return found


def _cost(flux: torch.Tensor, ivar: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
    return (ivar * (flux - spectrum).square()).sum(dim=1, dtype=torch.float64)


def chi_squares(flux: np.ndarray, ivar: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return chi-square of each template, ``(star, template)``, less that of a spectrum of zeros."""
    return ivar @ (templates**2).T - 2 * (ivar * flux) @ templates.T


def nearest(flux: np.ndarray, ivar: np.ndarray, templates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the labels of the template with the least chi-square, ``(star, label)``."""
    return labels[chi_squares(flux, ivar, templates).argmin(axis=1)]


def scaling(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each label, with which labels are made dimensionless."""
    return labels.mean(axis=0), labels.std(axis=0)


def beyond(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of a data-driven model: the range of its training labels and a quarter of it on either side."""
    low, high = labels.min(axis=0), labels.max(axis=0)
    return low - 0.25 * (high - low), high + 0.25 * (high - low)
