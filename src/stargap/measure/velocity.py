"""Radial velocities: batched cross-correlation over +-1000 km/s, then a fit on native pixels (paper section 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from stargap.flags import Flag
from stargap.labels import alpha_relation
from stargap.measure.optimise import Status, levenberg_marquardt
from stargap.pixels import LATTICE, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.prepare import NativeBatch, Smoother
from stargap.theory.payne import Emulator
from stargap.theory.sampling import cubic

__all__ = ["Templates", "Velocities", "emulator_templates", "measure_velocity"]

RANGE = 1000.0
LAG = 0.5
"""Step of the search in native pixels (35 km/s)."""
COVERED = (6600.0, 8970.0)
"""Wavelengths used (A): TiO band heads of the models bluer than this are off by several km/s."""
SMOOTHING = 10.0
"""Width of the running mean that is divided out (A): narrower than for labels, to leave lines rather than bands."""
ERROR_FLOOR = 0.02
FINE = 4
"""Template pixels per native pixel."""


@dataclass(frozen=True, eq=False)
class Templates:
    """Spectra at rest to measure velocities against.

    Args:
        flux: ``(template, fine)`` float32, any positive scale, on ``log10(lambda) = first + step * i`` (A, vacuum).
        first: log10 of the first wavelength.
        step: spacing in dex.
    """

    flux: Tensor
    first: float
    step: float

    def at(self, which: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Return templates seen at `velocity` on the native lattice and their derivative by velocity.

        Args:
            which: template numbers ``(row,)``.
            velocity: km/s, ``(row,)``.

        Returns:
            flux ``(row, native)`` and d flux / d velocity (per km/s).
        """
        native = LATTICE.step * (LATTICE.first + torch.arange(LATTICE.count, dtype=torch.float64))
        shift = torch.log10(1 + velocity.double() / SPEED_OF_LIGHT)
        place = (native - shift[:, None] - self.first) / self.step
        slope = -1.0 / (np.log(10.0) * self.step) / (SPEED_OF_LIGHT + velocity.double())
        return cubic(self.flux[which], place), cubic(self.derivative[which], place) * slope[:, None].float()

    @cached_property
    def derivative(self) -> Tensor:
        """Derivative by fine pixel, ``(template, fine)``."""
        return torch.gradient(self.flux, dim=1)[0]


@dataclass(frozen=True)
class Velocities:
    """Velocities of a batch (km/s, ``(star,)`` float64, NaN where there is none), template numbers and flag bits."""

    rv: Tensor
    error: Tensor
    template: Tensor
    chi2: Tensor
    flags: Tensor


@cache
def emulator_templates(emulator: Emulator) -> Templates:
    """Return templates of an emulator: every 200 K, [M/H] -1, -0.5, 0 and 0.4, log g 4.8, [a/M] of the prior."""
    teff = np.arange(emulator.card.lower[0], emulator.card.upper[0] + 1, 200.0)
    nodes = np.array([(t, 4.8, m, float(alpha_relation(m))) for t in teff for m in (-1.0, -0.5, 0.0, 0.4)])
    flux = emulator.flux(torch.as_tensor(nodes))
    flux = flux / flux.mean(dim=1, keepdim=True)
    support, step = STARGAP.support, LATTICE.step / FINE
    first = float(np.log10(support[0]))
    fine = 10.0 ** (first + step * np.arange(int((np.log10(support[-1]) - first) / step)))
    return Templates(cubic(flux, torch.as_tensor((fine - support[0]) / STARGAP.step)), first, step)


@cache
def _native_smoother() -> Smoother:
    return Smoother(LATTICE.wavelength, SMOOTHING)


@cache
def _search_table(templates: Templates) -> tuple[Tensor, Tensor, Tensor]:
    lags = int(np.ceil(RANGE / (LATTICE.velocity_step * LAG)))
    velocity = SPEED_OF_LIGHT * (10.0 ** (LATTICE.step * LAG * torch.arange(-lags, lags + 1).double()) - 1)
    count = len(templates.flux)
    smooth, wave = _native_smoother(), LATTICE.wavelength
    rows = []
    for v in velocity:
        flux, _ = templates.at(torch.arange(count), v.expand(count))
        rest = wave / (1 + float(v) / SPEED_OF_LIGHT)
        use = torch.as_tensor((wave > COVERED[0]) & (wave < COVERED[1]) & ~STARGAP.window_mask(rest, "rest")).float()
        kernel = smooth(use[None]).clamp_min(STARGAP.least_kernel_weight)
        rows.append((flux / (smooth(flux * use) / kernel).clamp_min(1e-30) - 1) * use)
    table = torch.stack(rows)
    return velocity, table.flatten(0, 1).T.contiguous(), table.square().flatten(0, 1).T.contiguous()


def measure_velocity(
    native: NativeBatch,
    templates: Templates,
    *,
    only: Tensor | None = None,
    zero_point: Callable[[int], float] | None = None,
    slots: int = 64,
    least_pixels: int = 100,
) -> Velocities:
    """Measure velocities within +-1000 km/s; the header's redshift is never used.

    Normalised spectra are cross-correlated with every template at every half pixel (the template's amplitude is free);
    the highest peak, and a second one at least 200 km/s away if it is half as high, start a fit of velocity and
    amplitude on native pixels, in which the template is normalised with the star's own weights. Errors are the
    propagated noise, times the root of reduced chi-square where that is above 1.

    Args:
        native: spectra on the lattice.
        templates: what to compare with.
        only: restrict each star to one template, ``(star,)``.
        zero_point: hook for a correction by plate or spectrograph: row number to km/s, subtracted from the velocity.
        slots: see `levenberg_marquardt`.
        least_pixels: rows with fewer good pixels get no velocity.
    """
    stars = len(native)
    wave = LATTICE.wavelength
    usable = (wave > COVERED[0]) & (wave < COVERED[1]) & ~STARGAP.window_mask(wave, "observed")
    weight = ((native.ivar > 0) & torch.as_tensor(usable)).float()
    smooth = _native_smoother()
    normal, ivar = _normalised(native, weight, smooth)
    pixels = (ivar > 0).sum(dim=1)
    flags = torch.zeros(stars, dtype=torch.long)
    flags[pixels < least_pixels] |= int(Flag.TOO_FEW_PIXELS)

    velocity, first, second, two, choice = _search(normal, ivar, templates, only)
    alive = pixels >= least_pixels
    rows = torch.arange(2 * stars) % max(stars, 1)
    lag = torch.cat([first, second])
    which, begin = choice[rows, lag], velocity[lag]

    in_rest = wave / (1 + begin[:, None].numpy() / SPEED_OF_LIGHT)
    outside = torch.as_tensor(~STARGAP.window_mask(in_rest, "rest")).float()
    problem_weight = weight[rows] * outside
    held = smooth(problem_weight).clamp_min(STARGAP.least_kernel_weight)
    problem_normal, problem_ivar = _normalised(native[rows], problem_weight, smooth)
    wanted = torch.nonzero(torch.cat([alive, alive & two]))[:, 0]

    def evaluate(theta: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
        flux, slope = templates.at(which[problem], theta[:, 0])
        mask, kernel = problem_weight[problem], held[problem]
        level = (smooth(flux * mask) / kernel).clamp_min(1e-30)
        shape = flux / level - 1
        moved = (slope - (shape + 1) * (smooth(slope * mask) / kernel)) / level
        amplitude = theta[:, 1:].float()
        return 1 + amplitude * shape, torch.stack([amplitude * moved, shape], dim=1)

    start = torch.stack([begin.clamp(-RANGE, RANGE), torch.ones_like(begin)], dim=1)
    fit = levenberg_marquardt(
        evaluate, problem_normal, problem_ivar, start[wanted],
        lower=torch.tensor([-RANGE, 0.0]), upper=torch.tensor([RANGE, 3.0]), rows=wanted, slots=slots,
    )
    done = torch.full((2 * stars,), -1)
    done[wanted] = torch.arange(len(wanted))
    measured = torch.nonzero(alive)[:, 0]
    attempt = done.view(2, stars)[:, measured]
    attempt_chi2 = torch.where(attempt >= 0, fit.chi2[attempt], torch.inf)
    winner = attempt_chi2.argmin(dim=0)
    at = torch.arange(len(measured))
    fitted = attempt[winner, at]
    problem = measured + winner * stars
    rival, rival_rv = attempt_chi2[1 - winner, at], fit.parameters[attempt[1 - winner, at], 0]

    best, best_chi2 = fit.parameters[fitted], fit.chi2[fitted]
    good = (problem_ivar[problem] > 0).sum(dim=1)
    reduced = best_chi2 / (good - 2).clamp_min(1)
    rv, error, chi2 = (torch.full((stars,), torch.nan, dtype=torch.float64) for _ in range(3))
    template = torch.zeros(stars, dtype=torch.long)
    rv[measured], chi2[measured], template[measured] = best[:, 0], reduced, which[problem]
    error[measured] = _errors(evaluate, best, problem, problem_ivar, native, rows, problem_weight, smooth, slots) * (
        reduced.clamp_min(1.0).sqrt()
    )
    drop = (problem_ivar[problem] * (problem_normal[problem] - 1).square()).sum(dim=1).double() - best_chi2

    def mark(flag: Flag, where: Tensor) -> None:
        flags[measured[where]] |= int(flag)

    noise = reduced.clamp_min(1.0)
    edge = best[:, 0].abs() > RANGE - 2 * LATTICE.velocity_step * LAG
    mark(Flag.RV_EDGE, edge)
    mark(Flag.RV_WEAK, (drop < 25.0 * noise) | (best[:, 1] <= 0) | (fit.status[fitted] == int(Status.NOT_FINITE)))
    mark(Flag.RV_AMBIGUOUS, (rival - best_chi2 < 25.0 * noise) & ((rival_rv - best[:, 0]).abs() > 100.0))
    if zero_point is not None:
        rv -= torch.tensor([zero_point(row) for row in range(stars)], dtype=torch.float64)
    return Velocities(rv, error, template, chi2, flags)


def _search(
    normal: Tensor, ivar: Tensor, templates: Templates, only: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the lags (km/s), each star's two highest peaks, whether the second counts, and templates by lag."""
    velocity, table, squares = _search_table(templates)
    cross = ((ivar * (normal - 1)) @ table).unflatten(1, (len(velocity), len(templates.flux)))
    power = (ivar @ squares).unflatten(1, (len(velocity), len(templates.flux))).clamp_min(1e-12)
    gain = cross.clamp_min(0).square() / power
    if only is not None:
        gain = gain.gather(2, only[:, None, None].expand(-1, len(velocity), 1))
    curve, choice = gain.max(dim=2)
    if only is not None:
        choice = only[:, None].expand(-1, len(velocity))

    padded = torch.nn.functional.pad(curve, (1, 1), value=-1.0)
    peak = (curve >= padded[:, :-2]) & (curve > padded[:, 2:])
    peak_height = torch.where(peak, curve, -1.0)
    first = peak_height.argmax(dim=1)
    at = torch.arange(len(normal))
    away = (velocity - velocity[first][:, None]).abs() >= 200.0
    rest = torch.where(away, peak_height, -1.0)
    second = rest.argmax(dim=1)
    two = rest[at, second] > 0.5 * curve[at, first]
    return velocity, first, second, two, choice


def _normalised(native: NativeBatch, weight: Tensor, smooth: Smoother) -> tuple[Tensor, Tensor]:
    held = smooth(weight)
    level = smooth(native.flux * weight) / held.clamp_min(STARGAP.least_kernel_weight)
    usable = (weight > 0) & (held >= STARGAP.least_kernel_weight) & (level > 0)
    level = torch.where(usable, level, 1.0)
    normal = torch.where(usable, native.flux / level, 1.0)
    variance = 1.0 / (native.ivar.clamp_min(1e-10) * level.square()) + ERROR_FLOOR**2
    return normal, torch.where(usable, 1.0 / variance, 0.0)


def _errors(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], best: Tensor, problem: Tensor, weight: Tensor,
    native: NativeBatch, rows: Tensor, mask: Tensor, smooth: Smoother, slots: int,
) -> Tensor:
    spread = torch.zeros(len(problem), dtype=torch.float64)
    for first in range(0, len(problem), slots):
        chunk = torch.arange(first, first + slots).clamp_max(len(problem) - 1)
        p = problem[chunk]
        _, jacobian = evaluate(best[chunk], p)
        weighted = jacobian * weight[p][:, None]
        inverse = torch.linalg.pinv((weighted @ jacobian.transpose(1, 2)).double(), hermitian=True)
        star = native[rows[p]]
        held = smooth(mask[p]).clamp_min(STARGAP.least_kernel_weight)
        level = (smooth(star.flux * mask[p]) / held).clamp_min(1e-30)
        noise = torch.where(weight[p] > 0, star.ivar.clamp_min(1e-10).rsqrt() / level, 0.0)
        scaled = (weighted * noise[:, None]).double()
        spread[chunk] = (inverse @ (scaled @ scaled.transpose(1, 2)) @ inverse)[:, 0, 0].clamp_min(0).sqrt()
    return spread
