"""Errors of a weighted fit whose pixels are correlated: the noise of native pixels, propagated."""

from __future__ import annotations

import torch

from stargap.arrays import Jacobians, NativeJacobians, ParameterVariances, Spectra, SquareMatrices, StarRows
from stargap.fit.linear import gram
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.prepare import Prepared
from stargap.spectra.smoother import smoother_for

__all__ = ["linear_covariance"]


def linear_covariance(
    prepared: Prepared,
    jacobian: Jacobians,
    weight: Spectra,
    rows: StarRows,
    precision: ParameterVariances | None = None,
    *,
    constant: SquareMatrices | None = None,
    response: Jacobians | None = None,
) -> tuple[SquareMatrices, SquareMatrices]:
    r"""Return the inverse Hessian and the covariance of a weighted linear fit, ``(row, parameter, parameter)`` each.

    With J the derivatives, W the weights, P a Gaussian prior that scatters, and K further terms of the Hessian,

    .. math:: H = J^T W J + P + K, \qquad C = H^{-1} (J^T W V W J + P) H^{-1},

    where V is the covariance of normalised pixels that follows from independent native pixels through resampling and
    normalisation. For a model that depends on the observed spectrum F, J^T W becomes J^T W (1 - dm/dF): noise moves the
    model as well. For a grid without ``native_errors`` the covariance is the inverse Hessian.

    Args:
        prepared: the stars.
        jacobian: derivatives of the normalised spectrum, ``(row, parameter, pixel)``.
        weight: inverse variances of the pixels in the fit, ``(row, pixel)``.
        rows: which star each row is of, ``(row,)``.
        precision: inverse variances of a prior whose values scatter so much over stars, ``(parameter,)``.
        constant: further terms of the Hessian, ``(row, parameter, parameter)``, of a prior that adds no scatter.
        response: J^T W (1 - dm/dF), ``(row, parameter, pixel)``, of a model that depends on the observed spectrum.
    """
    weighted = jacobian * weight[:, None]
    prior = torch.zeros(jacobian.shape[1], dtype=torch.float64) if precision is None else precision.double()
    hessian = gram(weighted, jacobian).double() + torch.diag(prior)
    inverse = torch.linalg.pinv(hessian if constant is None else hessian + constant, hermitian=True)
    if not prepared.grid.native_errors:
        return inverse, inverse
    native = _by_native_pixels(prepared, weighted if response is None else response, rows)
    ivar = prepared.native.ivar[rows]
    noise = torch.where(ivar > 0, 1.0 / ivar.clamp_min(1e-10), 0.0).sqrt()
    native = (native * noise[:, None]).double()
    return inverse, inverse @ (gram(native, native) + torch.diag(prior)) @ inverse


def _by_native_pixels(prepared: Prepared, weighted: Jacobians, rows: StarRows) -> NativeJacobians:
    """Return sums over normalised pixels, ``(row, parameter, pixel)``, as sums over native ones: the adjoint.

    A native pixel enters the normalised flux directly and through the pseudo-continuum.
    """
    grid, smoother = prepared.grid, smoother_for(prepared.grid)
    continuum = prepared.continuum[rows]
    over = torch.where(prepared.good[rows], 1.0 / torch.where(continuum > 0, continuum, 1.0), 0.0)
    direct = weighted * over[:, None]
    through = direct * (prepared.flux[rows] * prepared.inverse_kernel[rows])[:, None]
    margin = grid.inner.start
    wide = torch.nn.functional.pad(through.flatten(0, 1), (margin, margin))
    back = -smoother(wide).reshape(*through.shape[:2], -1) * prepared.weight[rows][:, None]
    back[:, :, grid.inner] += direct
    index = prepared.index[rows][:, None].expand_as(back)
    t = prepared.fraction[rows][:, None]
    native = torch.zeros(*back.shape[:2], LOG_LAMBDA.count)
    native.scatter_add_(2, index, back * (1 - t))
    native.scatter_add_(2, index + 1, back * t)
    return native
