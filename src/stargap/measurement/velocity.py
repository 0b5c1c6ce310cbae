"""Radial velocities: batched cross-correlation over +-1000 km/s, then a fit on native pixels (paper section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stargap.arrays import PerStar, StarRows
from stargap.devices import per_device
from stargap.fit.linear import gram
from stargap.fit.optimise import Status, full_chunks, levenberg_marquardt
from stargap.flags import Flag
from stargap.measurement.templates import Templates, emulator_templates, templates_at
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.linespread import blur, missing_native_blur
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.smoother import Smoother

__all__ = [
    "Templates",
    "Velocities",
    "emulator_templates",
    "measure_velocity",
    "normalised_pair",
    "refine_velocity",
    "templates_at",
]

RANGE = 1000.0
"""Velocities are searched from -1000 to 1000 km/s."""
LAG = 0.5
"""Step of the search in native pixels (35 km/s)."""
COVERED = (5930.0, 8970.0)
"""First and last wavelength in use (A)."""
SMOOTHING = 15.0
"""Width of the running mean that is divided out (A): narrower than for labels, to leave lines rather than bands."""
ERROR_FLOOR = (0.02, 0.10, 6600.0)
"""Error floor as a fraction of the flux, redward and blueward of a wavelength (A). TiO band heads of the models bluer
than 6600 A are off by several km/s; at low S/N those pixels still help."""
OXYGEN = (6850.0, 6960.0)
"""The whole of the telluric B band in the observed frame (A), of which the window of label fits leaves out the deepest
part: what is left of it moved velocities of real M dwarfs by 1.5 km/s (docs/results/calibration.md)."""
LEAST_PIXELS = 100
"""Good pixels below which a spectrum gets no velocity."""
SEPARATION = 200.0
"""Least distance (km/s) of a second peak from the highest one, and of a refined velocity from one that is lost."""
SECOND_PEAK = 0.5
"""A second peak is fitted as well where it is higher than this fraction of the highest one."""
AMBIGUOUS = 100.0
"""Distance (km/s) from which on two fits of about equal chi-square make a velocity ambiguous."""
SEARCHED = 0.3
"""Tolerance of fits in a search, the last step of which is taken (see `levenberg_marquardt`)."""
DETECTION = 25.0
"""Least decrease of chi-square by the template, and least difference between two fits (over reduced chi-square)."""
BLOCKS = (32, 64)
"""Native pixels of the blocks whose disagreement tells the error of a velocity: about 55 and 110 A."""


@dataclass(frozen=True)
class Velocities:
    """Velocities of a batch (km/s, ``(star,)`` float64, NaN where there is none), template numbers and flag bits.

    ``error`` is that of noise; ``by_blocks`` that of all that blocks of wavelength disagree by, noise included.
    """

    rv: Tensor
    error: Tensor
    by_blocks: Tensor
    template: Tensor
    chi2: Tensor
    flags: Tensor

    def where_not(self, rows: Tensor, other: Velocities) -> Velocities:
        """Return these velocities, and `other` ones where `rows` ``(star,)`` is true."""
        pairs = ((getattr(other, f.name), getattr(self, f.name)) for f in fields(self))
        return Velocities(*(torch.where(rows, *pair) for pair in pairs))


@per_device
def _native_smoother() -> Smoother:
    return Smoother(LOG_LAMBDA.wavelength, SMOOTHING)


@lru_cache(maxsize=8)
def _search_table(templates: Templates) -> tuple[Tensor, Tensor, Tensor]:
    lags = int(np.ceil(RANGE / (LOG_LAMBDA.velocity_step * LAG)))
    velocity = SPEED_OF_LIGHT * (10.0 ** (LOG_LAMBDA.step * LAG * torch.arange(-lags, lags + 1).double()) - 1)
    smooth, wave = _native_smoother(), LOG_LAMBDA.wavelength
    rest = wave / (1 + velocity.cpu().numpy()[:, None] / SPEED_OF_LIGHT)
    use = torch.as_tensor((wave > COVERED[0]) & (wave < COVERED[1]) & ~STARGAP.window_mask(rest, "rest")).float()
    kernel = smooth(use).clamp_min(STARGAP.least_kernel_weight)
    table = torch.empty(len(velocity), len(templates.flux), LOG_LAMBDA.count)
    for row, v, used, weight in zip(table, velocity, use, kernel, strict=True):
        flux = templates.all_at(v)
        torch.mul(flux / (smooth(flux * used) / weight).clamp_min(1e-30) - 1, used, out=row)
    table = table.flatten(0, 1)
    return velocity, table, table.square()


def measure_velocity(
    native: NativeBatch,
    templates: Templates,
    *,
    only: StarRows | None = None,
    slots: int = 32,
    search: bool = False,
) -> Velocities:
    """Measure velocities within +-1000 km/s; the header's redshift is never used.

    Normalised spectra are cross-correlated with every template at every half pixel (the template's amplitude is free);
    the highest peak, and a second one at least 200 km/s away if it is half as high, start a fit of velocity and
    amplitude on native pixels, in which the template is normalised with the star's own weights. Errors are the
    propagated noise, times the root of reduced chi-square where that is above 1; NaN where the template's amplitude
    comes out as 0. Beside them stand errors by blocks of wavelength (the covariance of White 1980, Econometrica 48,
    817, with residuals that are summed over blocks): what a template cannot reproduce moves each block its own way.

    Args:
        native: spectra on the log-lambda grid.
        templates: spectra at rest.
        only: number of the one template that each star is compared with, ``(star,)``; all by default.
        slots: see `levenberg_marquardt`.
        search: leave it at the search where a spectrum has one peak: its velocity is that of the parabola through the
            three highest points, good to a few km/s for `refine_velocity` to begin from, its error and chi-square NaN.
    """
    stars = len(native)
    weight = _weights(native)
    normal, ivar = _normalised(native, weight)
    enough = (ivar > 0).sum(dim=1) >= LEAST_PIXELS
    peaks = _search(normal, ivar, templates, only)

    rows = torch.arange(2 * stars) % max(stars, 1)
    lag = torch.cat([peaks.first, peaks.second])
    searched = enough & ~peaks.has_second & torch.isfinite(peaks.parabola) & search
    fitted = torch.nonzero(torch.cat([enough & ~searched, enough & peaks.has_second]))[:, 0]
    some, where = rows[fitted], lag[fitted]
    problem = _TemplateFit(native, weight, templates, some, peaks.template[some, where], peaks.velocity[where])
    fit = problem.solve(slots, tolerance=SEARCHED if search else 0.01, finish=search).among(fitted, 2 * stars)

    chi2 = fit.chi2.view(2, stars)
    winner = chi2.argmin(dim=0)
    at = torch.arange(stars)
    best, other = at + winner * stars, at + (1 - winner) * stars
    flags = torch.where(enough, fit.flags[best], int(Flag.TOO_FEW_PIXELS))
    close = chi2[1 - winner, at] - chi2[winner, at] < DETECTION * fit.reduced[best].clamp_min(1.0)
    distant = (fit.rv[other] - fit.rv[best]).abs() > AMBIGUOUS
    flags[enough & close & distant] |= int(Flag.RV_AMBIGUOUS)
    rv, template = torch.where(searched, peaks.parabola, fit.rv[best]), peaks.template[at, lag[best]]
    return Velocities(rv, fit.error[best], fit.by_blocks[best], template, fit.reduced[best], flags)


def refine_velocity(
    native: NativeBatch, velocities: Velocities, templates: Templates, *, slots: int = 32, tolerance: float = 0.01
) -> Velocities:
    """Measure again from known velocities, each star against the template of its own row.

    A template at the star's own labels halves what the mismatch of a coarse set costs. Rows whose fit does not end
    within 200 km/s of its start keep their former velocity.

    Args:
        native: spectra on the log-lambda grid.
        velocities: from `measure_velocity`.
        templates: one per star, ``(star, fine)``; rows that are not finite are not refined.
        slots: see `levenberg_marquardt`.
        tolerance: see `levenberg_marquardt`; the step that is left is taken.
    """
    stars = torch.arange(len(native))
    usable = torch.isfinite(velocities.rv) & torch.isfinite(templates.flux).all(dim=1)
    finite = Templates(torch.where(usable[:, None], templates.flux, 1.0), templates.first, templates.step)
    begin = torch.where(usable, velocities.rv, 0.0)
    some = torch.nonzero(usable)[:, 0]
    problem = _TemplateFit(native, _weights(native), finite, some, some, begin[some])
    fit = problem.solve(slots, tolerance=tolerance, finish=tolerance > 0.01).among(some, len(stars))
    better = usable & ((fit.rv - velocities.rv).abs() < SEPARATION)
    return Velocities(
        torch.where(better, fit.rv, velocities.rv),
        torch.where(better, fit.error, velocities.error),
        torch.where(better, fit.by_blocks, velocities.by_blocks),
        velocities.template,
        torch.where(better, fit.reduced, velocities.chi2),
        torch.where(better, fit.flags | (velocities.flags & int(Flag.RV_AMBIGUOUS)), velocities.flags),
    )


def normalised_pair(native: NativeBatch, rv: PerStar, templates: Templates) -> tuple[Tensor, Tensor, Tensor]:
    """Return spectra and templates at their velocities, each over its running mean and less 1, and inverse variances.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``, all finite.
        templates: one per star, at rest, all finite.

    Returns:
        ``(star, native)`` each; template and inverse variance are 0 at pixels that are not used.
    """
    stars = torch.arange(len(native))
    problem = _TemplateFit(native, _weights(native), templates, stars, stars, rv)
    model, _ = problem.evaluate(torch.stack([rv.double(), torch.ones(len(native)).double()], dim=1), stars)
    return problem.normal - 1, (model - 1) * problem.mask, problem.ivar


class _Fit(NamedTuple):
    """Results of problems ``(problem,)``; NaN (chi2: infinite, flags: 0) for those that were not fitted."""

    rv: Tensor
    error: Tensor
    by_blocks: Tensor
    chi2: Tensor
    reduced: Tensor
    flags: Tensor

    def among(self, fitted: Tensor, count: int) -> _Fit:
        """Return the results of `count` problems, of which these are the `fitted` ones."""
        rv, error, by_blocks, reduced = torch.full((4, count), torch.nan, dtype=torch.float64)
        chi2, flags = torch.full_like(rv, torch.inf), torch.zeros(count, dtype=torch.long)
        whole = _Fit(rv, error, by_blocks, chi2, reduced, flags)
        for values, mine in zip(whole, self, strict=True):
            values[fitted] = mine
        return whole


class _TemplateFit:
    """Fits of velocity and amplitude; problem p compares row ``rows[p]`` with template ``which[p]``.

    Args:
        native: spectra on the log-lambda grid.
        weight: 1 at the pixels in use, ``(star, native)``.
        templates: spectra at rest.
        rows: star of each problem, ``(problem,)``.
        which: template of each problem.
        begin: velocity at which each fit starts (km/s).
    """

    def __init__(
        self, native: NativeBatch, weight: Tensor, templates: Templates, rows: Tensor, which: Tensor, begin: Tensor
    ) -> None:
        self.native, self.templates, self.rows, self.which, self.begin = native, templates, rows, which, begin
        self.smooth = _native_smoother()
        in_rest = LOG_LAMBDA.wavelength / (1 + begin[:, None].cpu().numpy() / SPEED_OF_LIGHT)
        self.mask = weight[rows] * torch.as_tensor(~STARGAP.window_mask(in_rest, "rest")).float()
        self.kernel = self.smooth(self.mask).clamp_min(STARGAP.least_kernel_weight)
        self.normal, self.ivar = _normalised(native[rows], self.mask)
        self.amount = missing_native_blur(native.resolution[rows])
        self.blurred = bool((self.amount > 0).any())

    def evaluate(self, theta: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 + amplitude (normalised template - 1), and its derivatives by velocity and amplitude."""
        flux, slope = self.templates.at(self.which[problem], theta[:, 0])
        if self.blurred:
            flux, slope = (blur(values, self.amount[problem]) for values in (flux, slope))
        use, kernel = self.mask[problem], self.kernel[problem]
        level = (self.smooth(flux * use) / kernel).clamp_min(1e-30)
        shape = flux / level - 1
        moved = (slope - (shape + 1) * (self.smooth(slope * use) / kernel)) / level
        amplitude = theta[:, 1:].float()
        return 1 + amplitude * shape, torch.stack([amplitude * moved, shape], dim=1)

    def solve(self, slots: int, *, tolerance: float, finish: bool) -> _Fit:
        """Fit all problems, and say how each ended."""
        start = torch.stack([self.begin.clamp(-RANGE, RANGE), torch.ones_like(self.begin)], dim=1)
        result = levenberg_marquardt(
            self.evaluate,
            self.normal,
            self.ivar,
            start,
            lower=torch.tensor([-RANGE, 0.0]),
            upper=torch.tensor([RANGE, 3.0]),
            slots=slots,
            tolerance=tolerance,
            finish=finish,
        )
        spread, by_blocks = self._velocity_errors(result.parameters, slots)
        reduced = result.chi2 / ((self.ivar > 0).sum(dim=1) - 2).clamp_min(1)
        noise = reduced.clamp_min(1.0)
        flat = (self.ivar * (self.normal - 1).square()).sum(dim=1).double()
        rv, amplitude = result.parameters[:, 0], result.parameters[:, 1]
        not_finite = result.status == int(Status.NOT_FINITE)
        weak = (flat - result.chi2 < DETECTION * noise) | (amplitude <= 0) | not_finite
        edge = rv.abs() > RANGE - 2 * LOG_LAMBDA.velocity_step * LAG
        moving = (result.status != int(Status.CONVERGED)) & ~weak
        flags = torch.where(weak, int(Flag.RV_WEAK), 0) | torch.where(edge, int(Flag.RV_EDGE), 0)
        flags |= torch.where(moving, int(Flag.NOT_CONVERGED), 0)
        error, by_blocks = (torch.where(amplitude > 0, e, torch.nan) for e in (spread * noise.sqrt(), by_blocks))
        return _Fit(rv, error, by_blocks, result.chi2, reduced, flags)

    def _velocity_errors(self, theta: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Return errors of velocities (km/s): the noise of native pixels propagated, and by blocks of wavelength.

        The floor sets weights alone.
        """
        spread, by_blocks = torch.zeros(2, len(theta), dtype=torch.float64)
        for p in full_chunks(torch.arange(len(theta)), slots):
            model, jacobian = self.evaluate(theta[p], p)
            weighted = jacobian * self.ivar[p][:, None]
            inverse = torch.linalg.pinv(gram(weighted, jacobian).double(), hermitian=True)
            star = self.native[self.rows[p]]
            level = (self.smooth(star.flux * self.mask[p]) / self.kernel[p]).clamp_min(1e-30)
            noise = torch.where(self.ivar[p] > 0, star.ivar.clamp_min(1e-10).rsqrt() / level, 0.0)
            scaled = (weighted * noise[:, None]).double()
            spread[p] = (inverse @ gram(scaled, scaled) @ inverse)[:, 0, 0].clamp_min(0).sqrt()
            middle = _block_products((weighted * (self.normal[p] - model)[:, None]).double())
            by_blocks[p] = (inverse @ middle @ inverse)[:, 0, 0].clamp_min(0).sqrt()
        return spread, by_blocks


def _block_products(scores: Tensor) -> Tensor:
    """Return the products of pixels' scores ``(row, k, native)`` summed over blocks, ``(row, k, k)``.

    It is the mean over blocks of both sizes, each at two places.
    """
    total = scores.new_zeros(len(scores), scores.shape[1], scores.shape[1])
    for size in BLOCKS:
        for start in (0, size // 2):
            after = -(scores.shape[2] + start) % max(BLOCKS)
            sums = torch.nn.functional.pad(scores, (start, after)).unflatten(2, (-1, size)).sum(dim=3)
            total += (sums[:, :, None] * sums[:, None]).sum(dim=3)
    return total / (2 * len(BLOCKS))


class _Peaks(NamedTuple):
    """Velocities of the search ``(lag,)``, each star's two highest peaks ``(star,)``, whether the second one counts,
    the best template of each star at each lag ``(star, lag)``, and the velocity of the parabola through the highest
    peak and the lags beside it ``(star,)``, NaN at the ends."""

    velocity: Tensor
    first: Tensor
    second: Tensor
    has_second: Tensor
    template: Tensor
    parabola: Tensor


def _search(normal: Tensor, ivar: Tensor, templates: Templates, only: Tensor | None) -> _Peaks:
    """Return the peaks of the cross-correlation: of the decrease of chi-square by a template of free amplitude."""
    velocity, table, squares = _search_table(templates)
    shape = (len(velocity), len(templates.flux), -1)
    cross = (table @ (ivar * (normal - 1)).T).reshape(shape)
    power = (squares @ ivar.T).reshape(shape).clamp_min(1e-12)
    gain = cross.clamp_min(0).square() / power
    if only is not None:
        gain = gain.gather(1, only.expand(len(velocity), 1, -1))
    curve, template = (values.T.contiguous() for values in gain.max(dim=1))
    if only is not None:
        template = only[:, None].expand(-1, len(velocity))

    padded = torch.nn.functional.pad(curve, (1, 1), value=-1.0)
    peak = (curve >= padded[:, :-2]) & (curve > padded[:, 2:])
    height = torch.where(peak, curve, -1.0)
    first = height.argmax(dim=1)
    at = torch.arange(len(normal))
    distant = (velocity - velocity[first][:, None]).abs() >= SEPARATION
    rest = torch.where(distant, height, -1.0)
    second = rest.argmax(dim=1)
    has_second = rest[at, second] > SECOND_PEAK * curve[at, first]
    return _Peaks(velocity, first, second, has_second, template, _parabola(curve.double(), first))


def _parabola(curve: Tensor, peak: Tensor) -> Tensor:
    """Return the velocities (km/s) at which parabolas through the lags about `peak` are highest, NaN at the ends."""
    at, last = torch.arange(len(curve)), curve.shape[1] - 1
    before, top, after = (curve[at, (peak + k).clamp(0, last)] for k in (-1, 0, 1))
    offset = (0.5 * (before - after) / (before - 2 * top + after)).clamp(-0.5, 0.5)
    step = LOG_LAMBDA.step * LAG * (peak - last / 2 + offset)
    velocity = SPEED_OF_LIGHT * (10.0**step - 1)
    return torch.where((peak > 0) & (peak < last), velocity, torch.nan)


def _weights(native: NativeBatch) -> Tensor:
    """Return 1 at the good pixels within `COVERED` and outside the windows of the observed frame."""
    wave = LOG_LAMBDA.wavelength
    usable = (wave > COVERED[0]) & (wave < COVERED[1]) & ~STARGAP.window_mask(wave, "observed")
    usable &= (wave < OXYGEN[0]) | (wave > OXYGEN[1])
    return ((native.ivar > 0) & torch.as_tensor(usable)).float()


def _normalised(native: NativeBatch, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return spectra over their running mean, and inverse variances with the error floor, 0 where not usable."""
    smooth = _native_smoother()
    kernel = smooth(weight)
    level = smooth(native.flux * weight) / kernel.clamp_min(STARGAP.least_kernel_weight)
    usable = (weight > 0) & (kernel >= STARGAP.least_kernel_weight) & (level > 0)
    level = torch.where(usable, level, 1.0)
    normal = torch.where(usable, native.flux / level, 1.0)
    red = torch.as_tensor(LOG_LAMBDA.wavelength) > ERROR_FLOOR[2]
    floor = torch.where(red, ERROR_FLOOR[0], ERROR_FLOOR[1]).float()
    variance = 1.0 / (native.ivar.clamp_min(1e-10) * level.square()) + floor.square()
    return normal, torch.where(usable, 1.0 / variance, 0.0)
