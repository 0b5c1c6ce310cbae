"""Radial velocities: batched cross-correlation over +-1000 km/s, then a fit on native pixels (paper section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stargap.fit.optimise import Status, gram, levenberg_marquardt
from stargap.flags import Flag
from stargap.labels import alpha_relation
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.smoother import Smoother
from stargap.theory.emulator import Emulator
from stargap.theory.sampling import cubic

__all__ = [
    "Templates",
    "Velocities",
    "emulator_templates",
    "measure_velocity",
    "refine_velocity",
    "templates_at",
]

RANGE = 1000.0
LAG = 0.5
"""Step of the search in native pixels (35 km/s)."""
COVERED = (5930.0, 8970.0)
"""Wavelengths used (A)."""
SMOOTHING = 15.0
"""Width of the running mean that is divided out (A): narrower than for labels, to leave lines rather than bands."""
ERROR_FLOOR = (0.02, 0.10, 6600.0)
"""What models cannot reproduce, a fraction of the flux: redward and blueward of a wavelength (A). TiO band heads of the
models bluer than 6600 A are off by several km/s; at low S/N those pixels still help."""
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
        """Return templates seen at `velocity` on the log-lambda grid and their derivative by velocity.

        Args:
            which: template numbers ``(row,)``.
            velocity: km/s, ``(row,)``.

        Returns:
            flux ``(row, native)`` and d flux / d velocity (per km/s).
        """
        native = LOG_LAMBDA.step * (LOG_LAMBDA.first + torch.arange(LOG_LAMBDA.count, dtype=torch.float64))
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


def templates_at(emulator: Emulator, labels: Tensor) -> Templates:
    """Return an emulator's spectra at `labels` ``(template, 4)`` as templates."""
    flux = emulator.flux(labels)
    flux = flux / flux.mean(dim=1, keepdim=True)
    support, step = STARGAP.support, LOG_LAMBDA.step / FINE
    first = float(np.log10(support[0]))
    fine = 10.0 ** (first + step * np.arange(int((np.log10(support[-1]) - first) / step)))
    return Templates(cubic(flux, torch.as_tensor((fine - support[0]) / STARGAP.step)), first, step)


@cache
def emulator_templates(emulator: Emulator) -> Templates:
    """Return the search templates: every 200 K, [M/H] -1, -0.5, 0 and 0.4, log g 4.8, [a/M] of the prior."""
    teff = np.arange(emulator.card.lower[0], emulator.card.upper[0] + 1, 200.0)
    nodes = np.array([(t, 4.8, m, float(alpha_relation(m))) for t in teff for m in (-1.0, -0.5, 0.0, 0.4)])
    inside = np.unique(nodes.clip(emulator.card.lower, emulator.card.upper), axis=0)
    return templates_at(emulator, torch.as_tensor(inside))


@cache
def _native_smoother() -> Smoother:
    return Smoother(LOG_LAMBDA.wavelength, SMOOTHING)


@lru_cache(maxsize=8)
def _search_table(templates: Templates) -> tuple[Tensor, Tensor, Tensor]:
    lags = int(np.ceil(RANGE / (LOG_LAMBDA.velocity_step * LAG)))
    velocity = SPEED_OF_LIGHT * (10.0 ** (LOG_LAMBDA.step * LAG * torch.arange(-lags, lags + 1).double()) - 1)
    count = len(templates.flux)
    smooth, wave = _native_smoother(), LOG_LAMBDA.wavelength
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
    slots: int = 32,
    least_pixels: int = 100,
) -> Velocities:
    """Measure velocities within +-1000 km/s; the header's redshift is never used.

    Normalised spectra are cross-correlated with every template at every half pixel (the template's amplitude is free);
    the highest peak, and a second one at least 200 km/s away if it is half as high, start a fit of velocity and
    amplitude on native pixels, in which the template is normalised with the star's own weights. Errors are the
    propagated noise, times the root of reduced chi-square where that is above 1; NaN where the template's amplitude
    comes out as 0.

    Args:
        native: spectra on the log-lambda grid.
        templates: what to compare with.
        only: restrict each star to one template, ``(star,)``.
        slots: see `levenberg_marquardt`.
        least_pixels: rows with fewer good pixels get no velocity.
    """
    stars = len(native)
    weight = _weights(native)
    normal, ivar = _normalised(native, weight)
    alive = (ivar > 0).sum(dim=1) >= least_pixels
    velocity, first, second, two, choice = _search(normal, ivar, templates, only)

    rows = torch.arange(2 * stars) % max(stars, 1)
    lag = torch.cat([first, second])
    wanted = torch.nonzero(torch.cat([alive, alive & two]))[:, 0]
    fit = _fit(native, weight, templates, rows, choice[rows, lag], velocity[lag], wanted, slots)

    pair = fit.chi2.view(2, stars)
    winner = pair.argmin(dim=0)
    at = torch.arange(stars)
    problem, rival = at + winner * stars, at + (1 - winner) * stars
    noise = fit.reduced[problem].clamp_min(1.0)
    flags = torch.where(alive, fit.flags[problem], int(Flag.TOO_FEW_PIXELS))
    close = pair[1 - winner, at] - pair[winner, at] < 25.0 * noise
    apart = (fit.rv[rival] - fit.rv[problem]).abs() > 100.0
    flags[alive & close & apart] |= int(Flag.RV_AMBIGUOUS)
    return Velocities(fit.rv[problem], fit.error[problem], choice[at, lag[problem]], fit.reduced[problem], flags)


def refine_velocity(
    native: NativeBatch, velocities: Velocities, templates: Templates, *, slots: int = 32
) -> Velocities:
    """Measure again from known velocities, each star against the template of its own row.

    A template at the star's own labels halves what the mismatch of a coarse set costs. Rows whose fit does not end
    within 200 km/s of its start keep what they had.

    Args:
        native: spectra on the log-lambda grid.
        velocities: from `measure_velocity`.
        templates: one a star, ``(star, fine)``; rows that are not finite are left alone.
        slots: see `levenberg_marquardt`.
    """
    stars = torch.arange(len(native))
    usable = torch.isfinite(velocities.rv) & torch.isfinite(templates.flux).all(dim=1)
    sound = Templates(torch.where(usable[:, None], templates.flux, 1.0), templates.first, templates.step)
    begin = torch.where(usable, velocities.rv, 0.0)
    fit = _fit(native, _weights(native), sound, stars, stars, begin, torch.nonzero(usable)[:, 0], slots)
    better = usable & ((fit.rv - velocities.rv).abs() < 200.0)
    return Velocities(
        torch.where(better, fit.rv, velocities.rv),
        torch.where(better, fit.error, velocities.error),
        velocities.template,
        torch.where(better, fit.reduced, velocities.chi2),
        torch.where(better, fit.flags | (velocities.flags & int(Flag.RV_AMBIGUOUS)), velocities.flags),
    )


class _Fit(NamedTuple):
    rv: Tensor
    error: Tensor
    chi2: Tensor
    reduced: Tensor
    flags: Tensor


def _weights(native: NativeBatch) -> Tensor:
    wave = LOG_LAMBDA.wavelength
    usable = (wave > COVERED[0]) & (wave < COVERED[1]) & ~STARGAP.window_mask(wave, "observed")
    return ((native.ivar > 0) & torch.as_tensor(usable)).float()


def _fit(
    native: NativeBatch,
    weight: Tensor,
    templates: Templates,
    rows: Tensor,
    which: Tensor,
    begin: Tensor,
    wanted: Tensor,
    slots: int,
) -> _Fit:
    """Fit velocity and amplitude of problems; problem p compares row ``rows[p]`` with template ``which[p]``."""
    smooth = _native_smoother()
    in_rest = LOG_LAMBDA.wavelength / (1 + begin[:, None].numpy() / SPEED_OF_LIGHT)
    mask = weight[rows] * torch.as_tensor(~STARGAP.window_mask(in_rest, "rest")).float()
    held = smooth(mask).clamp_min(STARGAP.least_kernel_weight)
    normal, ivar = _normalised(native[rows], mask)

    def evaluate(theta: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
        flux, slope = templates.at(which[problem], theta[:, 0])
        use, kernel = mask[problem], held[problem]
        level = (smooth(flux * use) / kernel).clamp_min(1e-30)
        shape = flux / level - 1
        moved = (slope - (shape + 1) * (smooth(slope * use) / kernel)) / level
        amplitude = theta[:, 1:].float()
        return 1 + amplitude * shape, torch.stack([amplitude * moved, shape], dim=1)

    start = torch.stack([begin.clamp(-RANGE, RANGE), torch.ones_like(begin)], dim=1)
    result = levenberg_marquardt(
        evaluate,
        normal,
        ivar,
        start[wanted],
        lower=torch.tensor([-RANGE, 0.0]),
        upper=torch.tensor([RANGE, 3.0]),
        rows=wanted,
        slots=slots,
    )

    spread = torch.zeros(len(wanted), dtype=torch.float64)
    for first in range(0, len(wanted), slots):
        chunk = torch.arange(first, first + slots).clamp_max(len(wanted) - 1)
        p = wanted[chunk]
        _, jacobian = evaluate(result.parameters[chunk], p)
        weighted = jacobian * ivar[p][:, None]
        inverse = torch.linalg.pinv(gram(weighted, jacobian).double(), hermitian=True)
        star = native[rows[p]]
        level = (smooth(star.flux * mask[p]) / held[p]).clamp_min(1e-30)
        noise = torch.where(ivar[p] > 0, star.ivar.clamp_min(1e-10).rsqrt() / level, 0.0)
        scaled = (weighted * noise[:, None]).double()
        spread[chunk] = (inverse @ gram(scaled, scaled) @ inverse)[:, 0, 0].clamp_min(0).sqrt()

    good = (ivar[wanted] > 0).sum(dim=1)
    reduced = result.chi2 / (good - 2).clamp_min(1)
    noise = reduced.clamp_min(1.0)
    signal = (ivar[wanted] * (normal[wanted] - 1).square()).sum(dim=1).double() - result.chi2
    rv, amplitude = result.parameters[:, 0], result.parameters[:, 1]
    weak = (signal < 25.0 * noise) | (amplitude <= 0) | (result.status == int(Status.NOT_FINITE))
    edge = rv.abs() > RANGE - 2 * LOG_LAMBDA.velocity_step * LAG
    moving = (result.status != int(Status.CONVERGED)) & ~weak
    flags = torch.where(weak, int(Flag.RV_WEAK), 0) | torch.where(edge, int(Flag.RV_EDGE), 0)
    flags |= torch.where(moving, int(Flag.NOT_CONVERGED), 0)

    def spread_out(values: Tensor, empty: float) -> Tensor:
        whole = torch.full((len(rows),), empty, dtype=values.dtype)
        whole[wanted] = values
        return whole

    nan = torch.nan
    return _Fit(
        spread_out(rv, nan),
        spread_out(torch.where(amplitude > 0, spread * noise.sqrt(), nan), nan),
        spread_out(result.chi2, torch.inf),
        spread_out(reduced, nan),
        spread_out(flags, 0),
    )


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


def _normalised(native: NativeBatch, weight: Tensor) -> tuple[Tensor, Tensor]:
    smooth = _native_smoother()
    held = smooth(weight)
    level = smooth(native.flux * weight) / held.clamp_min(STARGAP.least_kernel_weight)
    usable = (weight > 0) & (held >= STARGAP.least_kernel_weight) & (level > 0)
    level = torch.where(usable, level, 1.0)
    normal = torch.where(usable, native.flux / level, 1.0)
    floor = torch.where(torch.as_tensor(LOG_LAMBDA.wavelength) > ERROR_FLOOR[2], ERROR_FLOOR[0], ERROR_FLOOR[1]).float()
    variance = 1.0 / (native.ivar.clamp_min(1e-10) * level.square()) + floor.square()
    return normal, torch.where(usable, 1.0 / variance, 0.0)
