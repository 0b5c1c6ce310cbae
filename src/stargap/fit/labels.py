"""Labels of many stars at once: coarse table, then Levenberg-Marquardt through a forward model (paper section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stargap.fit.optimise import LeastSquares, Status, gram, levenberg_marquardt
from stargap.fit.prior import LabelPrior
from stargap.flags import Flag
from stargap.labels import A_M, LABELS, M_H, alpha_relation
from stargap.pixels import LOG_LAMBDA, STARGAP, PixelGrid
from stargap.spectra.prepare import Prepared, blur
from stargap.spectra.smoother import normalise, smoother_for
from stargap.theory.emulator import Emulator

__all__ = ["EmulatorModel", "ForwardModel", "LabelFit", "Parameters", "fit_labels"]

PRIOR_TERMS = 2
START_STEP = {"teff": 100.0, "logg": 0.5, "m_h": 0.5, "a_m": 0.2}
FAR_START = {"teff": 300.0, "logg": 0.9, "m_h": 0.9, "a_m": 0.5}
ROUNDING = 0.05
AT_BOUND = dict(
    zip(LABELS, (Flag.TEFF_AT_BOUND, Flag.LOGG_AT_BOUND, Flag.M_H_AT_BOUND, Flag.A_M_AT_BOUND), strict=True)
)


@dataclass(frozen=True)
class Parameters:
    """Which labels are free, fixed or tied, and their bounds.

    Args:
        lower: bounds of every label, in the order of ``LABELS``.
        upper: the same.
        fixed: label to value; a_m not named here follows [M/H] by the label prior's relation unless `free_alpha`.
        free_alpha: fit [a/M] as well.

    Example:
        >>> box = Parameters((2800.0, 4.0, -2.0, 0.0), (4500.0, 5.5, 0.5, 0.4), fixed={"logg": 4.8})
        >>> box.free
        ('teff', 'm_h')
        >>> labels, directions = box.expand(torch.tensor([[3500.0, -0.5]]).double())
        >>> labels.numpy().round(3).tolist(), directions[0, 1].numpy().round(3).tolist()
        ([[3500.0, 4.8, -0.5, 0.2]], [0.0, 0.0, 1.0, -0.4])
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    fixed: Mapping[str, float] | None = None
    free_alpha: bool = False

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the fitted labels, in the order of ``LABELS``."""
        held = set(self.fixed or {}) | (set() if self.free_alpha else {"a_m"})
        return tuple(name for name in LABELS if name not in held)

    @property
    def tied(self) -> bool:
        """Whether [a/M] follows [M/H]."""
        return not self.free_alpha and "a_m" not in (self.fixed or {})

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the free labels, ``(k,)`` float64 each."""
        places = [LABELS.index(name) for name in self.free]
        return tuple(torch.tensor([side[i] for i in places], dtype=torch.float64) for side in (self.lower, self.upper))  # type: ignore[return-value]

    def expand(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels ``(row, 4)`` and their derivatives by the free ones ``(row, k, 4)``."""
        labels = theta.new_zeros(theta.shape[0], len(LABELS))
        directions = theta.new_zeros(theta.shape[0], theta.shape[1], len(LABELS))
        for name, value in (self.fixed or {}).items():
            labels[:, LABELS.index(name)] = value
        for k, name in enumerate(self.free):
            labels[:, LABELS.index(name)] = theta[:, k]
            directions[:, k, LABELS.index(name)] = 1.0
        if self.tied:
            low, high = self.lower[A_M], self.upper[A_M]
            m_h = labels[:, M_H]
            relation = torch.as_tensor(alpha_relation(m_h, rounding=ROUNDING)).to(theta)
            slope = 0.4 * (torch.sigmoid(-(m_h + 1) / ROUNDING) - torch.sigmoid(-m_h / ROUNDING))
            labels[:, A_M] = relation.clamp(low, high)
            inside = (relation >= low) & (relation <= high)
            directions[:, :, A_M] += directions[:, :, M_H] * torch.where(inside, slope, 0.0)[:, None]
        return labels, directions


class ForwardModel(Protocol):
    """Anything that predicts normalised spectra of given rows: the emulator alone, or through a transfer network."""

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra ``(slot, pixel)`` and derivatives ``(slot, k, pixel)``.

        Args:
            labels: ``(slot, 4)`` float64.
            directions: ``(slot, k, 4)`` float64, labels per unit of each parameter.
            rows: ``(slot,)``: which prepared spectrum each is compared with.
        """
        ...


class EmulatorModel:
    """The emulator's spectra, resampled and normalised as each star was."""

    def __init__(self, emulator: Emulator, prepared: Prepared) -> None:
        self.emulator = emulator
        self.prepared = prepared
        self.smoother = smoother_for(prepared.grid)
        extra = round((STARGAP.margin - prepared.grid.margin) / STARGAP.step)
        self.cut = slice(extra, STARGAP.support.size - extra)

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised spectra and derivatives (see `ForwardModel`)."""
        star = self.prepared
        flux, tangents = self.emulator.flux_and_tangents(labels, directions)
        stack = torch.cat([flux[:, None], tangents], dim=1)[:, :, self.cut]
        stack = blur(stack, star.blur[rows][:, None])
        inner = stack[:, :, star.grid.inner]
        weighted = (stack * star.weight[rows][:, None]).flatten(0, 1)
        smooth = (
            self.smoother(weighted)[:, star.grid.inner].unflatten(0, stack.shape[:2])
            * star.inverse_kernel[rows][:, None]
        )
        continuum = smooth[:, :1].clamp_min(1e-30)
        normal = inner[:, :1] / continuum
        return normal[:, 0], (inner[:, 1:] - normal * smooth[:, 1:]) / continuum


@dataclass(frozen=True)
class LabelFit:
    """Labels of a batch; rows that could not be fitted hold NaN.

    ``labels, errors`` are ``(star, 4)`` float64 in the order of ``LABELS`` (errors of fixed labels are NaN),
    ``covariance (star, k, k)`` of the free ones, ``chi2 (star,)`` is reduced, ``flags (star,)`` int64,
    ``model (star, pixel)`` the best normalised spectrum, ``iterations (star,)`` summed over the starts.
    """

    labels: Tensor
    errors: Tensor
    covariance: Tensor
    chi2: Tensor
    flags: Tensor
    model: Tensor
    iterations: Tensor


def fit_labels(
    prepared: Prepared,
    model: ForwardModel,
    emulator: Emulator,
    parameters: Parameters,
    *,
    error_floor: float | Tensor = 0.01,
    prior: LabelPrior | None = None,
    starts: int = 2,
    start: Tensor | None = None,
    slots: int = 32,
    max_iterations: int = 40,
    tolerance: float = 0.01,
    least_pixels: int = 200,
) -> LabelFit:
    """Fit the labels of every prepared star.

    A table of emulator spectra gives the starts: its best node and, where it could lead as deep (its chi-square
    exceeds the first minimum by less than twice what the best node does), the best node at least 300 K, 0.9 dex in
    log g or 0.9 dex in [M/H] away. Errors are the propagated noise of the native pixels through
    resampling, normalisation and fit; the floor sets weights, not errors (`paper`: the inverse Hessian).

    Args:
        prepared: the stars.
        model: forward model of the same stars.
        emulator: the synthetic spectra behind the table of starts.
        parameters: free, fixed and tied labels, bounds.
        error_floor: added in quadrature to the normalised errors, for what the model cannot reproduce; a number, or
            one a pixel.
        prior: of the labels; errors stay those of the noise alone.
        starts: 1 or 2.
        start: labels ``(star, 4)`` to start from instead of the table; then there is no second start.
        slots: see `levenberg_marquardt`.
        max_iterations: the same.
        tolerance: the same.
        least_pixels: rows with fewer good pixels are flagged and not fitted.
    """
    stars = prepared.flux.shape[0]
    lower, upper = parameters.bounds()
    size = len(parameters.free)
    weight = torch.where(prepared.good, 1.0 / (prepared.sigma.square() + error_floor**2), 0.0)
    pixels = prepared.good.sum(dim=1)
    fitted = torch.nonzero(pixels >= least_pixels)[:, 0]

    def evaluate(theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra with derivatives, then what the prior adds."""
        labels, directions = parameters.expand(theta)
        spectrum, jacobian = model(labels, directions, rows)
        if prior is None:
            return spectrum, jacobian
        apart, change = prior(labels, directions)
        return torch.cat([spectrum, apart.float()], dim=1), torch.cat([jacobian, change.float()], dim=2)

    extra = 0 if prior is None else PRIOR_TERMS
    data = torch.nn.functional.pad(prepared.flux, (0, extra))
    weights = torch.nn.functional.pad(weight, (0, extra), value=1.0)

    def fit(rows: Tensor, begin: Tensor) -> LeastSquares:
        return levenberg_marquardt(
            evaluate,
            data,
            weights,
            begin,
            lower=lower,
            upper=upper,
            rows=rows,
            slots=slots,
            max_iterations=max_iterations,
            tolerance=tolerance,
        )

    disagree = torch.zeros(0, dtype=torch.long)
    if start is None:
        near, far = _starts(prepared, weight, emulator, parameters)
        result = fit(fitted, near.theta[fitted])
        if starts == 2:
            noise = (result.chi2 / (pixels[fitted] - size)).clamp_min(1.0)
            above, far_above = near.chi2[fitted] - result.chi2, far.chi2[fitted] - result.chi2
            again = torch.nonzero(far_above < 2 * above + 9 * noise)[:, 0]
            disagree = _merge(result, fit(fitted[again], far.theta[fitted[again]]), again, noise)
    else:
        places = [LABELS.index(name) for name in parameters.free]
        result = fit(fitted, torch.nan_to_num(start[fitted][:, places]).clamp(lower, upper))

    flags = torch.zeros(stars, dtype=torch.long)
    flags[pixels < least_pixels] |= int(Flag.TOO_FEW_PIXELS)
    flags[fitted[result.status != int(Status.CONVERGED)]] |= int(Flag.NOT_CONVERGED)
    flags[fitted[disagree]] |= int(Flag.STARTS_DISAGREE)

    nan = torch.nan
    labels = torch.full((stars, len(LABELS)), nan, dtype=torch.float64)
    errors = torch.full_like(labels, nan)
    covariance = torch.full((stars, size, size), nan, dtype=torch.float64)
    reduced = torch.full((stars,), nan, dtype=torch.float64)
    best_model = torch.full_like(prepared.flux, nan)
    iterations = torch.zeros(stars, dtype=torch.long)
    iterations[fitted] = result.iterations

    theta = result.parameters
    full, _ = parameters.expand(theta)
    finite = torch.isfinite(result.chi2)
    labels[fitted] = torch.where(finite[:, None], full, nan)
    reduced[fitted] = torch.where(finite, result.chi2 / (pixels[fitted] - size), nan)
    for first in range(0, len(fitted), slots):
        chunk = torch.arange(first, first + slots).clamp_max(len(fitted) - 1)
        rows = fitted[chunk]
        spectrum, jacobian = evaluate(theta[chunk], rows)
        count = spectrum.shape[1] - extra
        jacobian, change = jacobian[:, :, :count], jacobian[:, :, count:]
        steady = gram(change, change).double() if extra else None
        _, cov = linear_covariance(prepared, jacobian, weight[rows], rows, steady=steady)
        spread = cov.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        _, directions = parameters.expand(theta[chunk])
        covariance[rows] = cov
        best_model[rows] = spectrum[:, :count]
        for k, name in enumerate(parameters.free):
            errors[rows, LABELS.index(name)] = spread[:, k]
        if parameters.tied and "m_h" in parameters.free:
            m_h = parameters.free.index("m_h")
            errors[rows, A_M] = directions[:, m_h, A_M].abs() * spread[:, m_h]
    errors[torch.isnan(labels)] = nan

    margin = 1e-3 * (upper - lower)
    for k, name in enumerate(parameters.free):
        edge = (theta[:, k] <= lower[k] + margin[k]) | (theta[:, k] >= upper[k] - margin[k])
        flags[fitted[edge]] |= int(AT_BOUND[name])
    if parameters.tied:
        relation = torch.as_tensor(alpha_relation(full[:, M_H].numpy(), rounding=ROUNDING))
        flags[fitted[(relation - full[:, A_M]).abs() > 0.01]] |= int(Flag.A_M_AT_BOUND)
    flags[reduced > 8] |= int(Flag.POOR_FIT)
    flags[reduced > 50] |= int(Flag.BAD_FIT)
    return LabelFit(labels, errors, covariance, reduced, flags, best_model, iterations)


def _merge(first: LeastSquares, second: LeastSquares, rows: Tensor, noise: Tensor) -> Tensor:
    """Put the better of two fits into `first`; return the rows where two different minima fit about equally well."""
    curvature = first.hessian[rows].diagonal(dim1=1, dim2=2).clamp_min(1e-300)
    apart = (first.parameters[rows] - second.parameters).square() * curvature / noise[rows, None] > 9.0
    close = (first.chi2[rows] - second.chi2).abs() < 9.0 * noise[rows]
    disagree = rows[apart.any(dim=1) & close]
    first.iterations[rows] += second.iterations
    better = second.chi2 < first.chi2[rows]
    for name in ("parameters", "chi2", "hessian", "status"):
        getattr(first, name)[rows[better]] = getattr(second, name)[better]
    return disagree


class _Start(NamedTuple):
    theta: Tensor
    chi2: Tensor


def _starts(prepared: Prepared, weight: Tensor, emulator: Emulator, parameters: Parameters) -> tuple[_Start, _Start]:
    """Return the best node of the table for each star, and the best one far from it."""
    nodes, spectra = _start_table(emulator, parameters, prepared.grid)
    constant = (weight * prepared.flux.square()).sum(dim=1, keepdim=True)
    cross = (weight * prepared.flux) @ spectra.T
    table = (constant - 2 * cross + weight @ spectra.square().T).double()
    chi2, best = table.min(dim=1)
    far = torch.zeros_like(table, dtype=torch.bool)
    for k, name in enumerate(parameters.free):
        far |= (nodes[:, k] - nodes[best, k][:, None]).abs() >= FAR_START[name]
    far_chi2, far_best = torch.where(far, table, torch.inf).min(dim=1)
    return _Start(nodes[best], chi2), _Start(nodes[far_best], far_chi2)


def _start_table(emulator: Emulator, parameters: Parameters, grid: PixelGrid) -> tuple[Tensor, Tensor]:
    fixed = tuple((parameters.fixed or {}).items())
    return _cached_table(emulator, parameters.lower, parameters.upper, fixed, parameters.free_alpha, grid)


@lru_cache(maxsize=8)
def _cached_table(
    emulator: Emulator,
    lower: tuple[float, ...],
    upper: tuple[float, ...],
    fixed: tuple[tuple[str, float], ...],
    free_alpha: bool,
    grid: PixelGrid,
) -> tuple[Tensor, Tensor]:
    parameters = Parameters(lower, upper, dict(fixed), free_alpha)
    low, high = parameters.bounds()
    axes = []
    for k, name in enumerate(parameters.free):
        count = max(round(float(high[k] - low[k]) / START_STEP[name]), 1)
        axes.append(torch.linspace(float(low[k]), float(high[k]), count + 1, dtype=torch.float64).tolist())
    nodes = torch.tensor(list(product(*axes)), dtype=torch.float64)
    labels, _ = parameters.expand(nodes)
    extra = round((STARGAP.margin - grid.margin) / STARGAP.step)
    flux = emulator.flux(labels)[:, extra : STARGAP.support.size - extra]
    outside = ~(grid.window_mask(grid.support, "rest") | grid.window_mask(grid.support, "observed"))
    weight = torch.as_tensor(outside | grid.windows_in_smoother).float().expand_as(flux)
    return nodes, normalise(flux, weight, grid)[0]


def linear_covariance(
    prepared: Prepared,
    jacobian: Tensor,
    weight: Tensor,
    rows: Tensor,
    precision: Tensor | None = None,
    *,
    steady: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the inverse Hessian and the covariance of a weighted linear fit, ``(row, k, k)`` float64 each.

    The covariance propagates the noise of native pixels through resampling, normalisation and fit; for a grid without
    `native_errors` it is the inverse Hessian.

    Args:
        prepared: the stars.
        jacobian: derivatives of the normalised spectrum, ``(row, k, pixel)``.
        weight: of the pixels in the fit, ``(row, pixel)``.
        rows: which stars, ``(row,)``.
        precision: inverse prior variances of the parameters, ``(k,)``, which scatter so much; none by default.
        steady: further terms of the Hessian ``(row, k, k)``, from a prior that adds no scatter of its own.
    """
    weighted = jacobian * weight[:, None]
    prior = torch.zeros(jacobian.shape[1], dtype=torch.float64) if precision is None else precision.double()
    hessian = gram(weighted, jacobian).double() + torch.diag(prior)
    inverse = torch.linalg.pinv(hessian if steady is None else hessian + steady, hermitian=True)
    if not prepared.grid.native_errors:
        return inverse, inverse
    grid, smoother = prepared.grid, smoother_for(prepared.grid)
    continuum = prepared.continuum[rows]
    over = torch.where(prepared.good[rows], 1.0 / torch.where(continuum > 0, continuum, 1.0), 0.0)
    direct = weighted * over[:, None]
    through = direct * (prepared.flux[rows] * prepared.inverse_kernel[rows])[:, None]
    margin = grid.inner.start
    wide = torch.nn.functional.pad(through.flatten(0, 1), (margin, margin))
    back = -smoother(wide).unflatten(0, through.shape[:2]) * prepared.weight[rows][:, None]
    back[:, :, grid.inner] += direct
    index = prepared.index[rows][:, None].expand_as(back)
    t = prepared.fraction[rows][:, None]
    native = torch.zeros(*back.shape[:2], LOG_LAMBDA.count)
    native.scatter_add_(2, index, back * (1 - t))
    native.scatter_add_(2, index + 1, back * t)
    ivar = prepared.native.ivar[rows]
    noise = torch.where(ivar > 0, 1.0 / ivar.clamp_min(1e-10), 0.0).sqrt()
    native = (native * noise[:, None]).double()
    return inverse, inverse @ (gram(native, native) + torch.diag(prior)) @ inverse
