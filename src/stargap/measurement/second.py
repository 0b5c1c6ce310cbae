"""A second star in the spectrum: the second peak of the cross-correlation, of what the first star leaves."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.arrays import Labels, PerStar
from stargap.measurement.velocity import Templates, normalised_pair, templates_at
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.rows import BoolColumn, FloatColumn
from stargap.spectra.log_lambda import NativeBatch
from stargap.theory.emulator import Emulator

__all__ = ["NEAREST", "Second", "is_double", "second_columns", "second_star"]

NEAREST: Final = 150.0
"""Difference of velocities (km/s) from which on two stars are resolved: about a resolution element of R = 1800."""
FARTHEST: Final = 1000.0
"""Largest difference of velocities (km/s) that is searched."""
LEAST_SNR, LEAST_RATIO = 6.0, 0.15
"""Significance and relative strength of a second star that is believed, chosen on LAMOST's clean M dwarfs and on sums
of two of them (docs/results/marks.md)."""


class Second(NamedTuple):
    """The most significant second star, ``(star,)`` float64 each; NaN without a velocity.

    ``dv`` is its velocity less that of the first (km/s), which was pulled towards it by 10 to 30 km/s, ``ratio`` the
    strength of its lines over that of the first, and ``snr`` this strength in units of its error, where errors include
    how badly the first star is fitted.
    """

    dv: PerStar
    ratio: PerStar
    snr: PerStar


def second_star(
    native: NativeBatch, rv: PerStar, templates: Templates, *, noise_factor: PerStar | float = 1.0
) -> Second:
    r"""Search for a second star with the template of the first, 150 to 1000 km/s away, in whole native pixels.

    With spectrum d and template t over their running means, less 1, and weights w, the strength of both stars is fitted
    at every velocity difference x together:

    .. math:: a_2(x) = \frac{\sum_i w_i r_i t_i(x)}{\sum_i w_i t_i(x)^2 - (\sum_i w_i t_i t_i(x))^2 / \sum_i w_i t_i^2}

    where r is what the first star leaves. The sums at all x are correlations, by fast Fourier transform. The peak is
    where a_2 over its error is highest, refined by a parabola.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities of the first star (km/s), ``(star,)``.
        templates: of the first star, one per star, at rest; rows that are not finite give NaN.
        noise_factor: ratio of the noise to what the inverse variance says, where chi-square does not show more.

    Example:
        >>> from stargap.spectra.log_lambda import empty_batch
        >>> from stargap.theory.emulator import shipped_emulator
        >>> nothing = templates_at(shipped_emulator(), torch.tensor([[3500.0, 4.8, 0.0, 0.0]]).double())
        >>> second_star(empty_batch(1), torch.tensor([torch.nan]), nothing).snr
        tensor([nan], dtype=torch.float64)
    """
    known = torch.isfinite(rv) & torch.isfinite(templates.flux).all(dim=1)
    finite = Templates(torch.where(known[:, None], templates.flux, 1.0), templates.first, templates.step)
    data, template, weight = normalised_pair(native, torch.where(known, rv, 0.0), finite)
    strength = (weight * template.square()).sum(dim=1).clamp_min(1e-12)
    first = (weight * data * template).sum(dim=1) / strength
    left = data - first[:, None] * template
    reach = math.ceil(FARTHEST / LOG_LAMBDA.velocity_step)
    cross = _correlation(weight * left, template, reach)
    overlap = _correlation(weight * template, template, reach)
    power = _correlation(weight, template.square(), reach) - overlap.square() / strength[:, None]
    power = power.clamp_min(1e-12)
    used = (weight > 0).sum(dim=1)
    misfit = ((weight * left.square()).sum(dim=1).double() / (used - 2).clamp_min(1)).sqrt()
    misfit = torch.maximum(misfit, torch.as_tensor(noise_factor, dtype=torch.float64))

    height = (cross / power.sqrt()).double()
    pixel = torch.arange(-reach, reach + 1, dtype=torch.float64)
    velocity = _velocity(pixel)
    peak = torch.where(velocity.abs() >= NEAREST, height, -torch.inf)[:, 1:-1].argmax(dim=1) + 1
    star = torch.arange(len(native))
    before, here, after = (height[star, peak + step] for step in (-1, 0, 1))
    curvature = (2 * here - before - after).clamp_min(1e-12)
    offset = ((after - before) / (2 * curvature)).clamp(-0.5, 0.5)
    ratio = (cross / power).double()[star, peak] / first
    seen = known & (first > 0) & (here > 0)
    found = (_velocity(pixel[peak] + offset), ratio, here / misfit)
    return Second(*(torch.where(seen, values.double(), torch.nan) for values in found))


def _velocity(pixel: Tensor) -> Tensor:
    return SPEED_OF_LIGHT * torch.expm1(LOG_LAMBDA.step * math.log(10.0) * pixel)


def _correlation(one: Tensor, other: Tensor, reach: int) -> Tensor:
    """Return sum_i one(i + k) other(i) for k from -reach to reach, ``(star, 2 reach + 1)``."""
    size = 1 << (one.shape[1] + reach - 1).bit_length()
    product = torch.fft.rfft(one, n=size) * torch.fft.rfft(other, n=size).conj()
    sums: Tensor = torch.fft.irfft(product, n=size)
    return sums[:, torch.arange(-reach, reach + 1) % size]


def second_columns(
    native: NativeBatch, rv: PerStar, labels: Labels, emulator: Emulator, factor: FloatColumn
) -> dict[str, NDArray[np.generic]]:
    """Return what `second_star` finds with the emulator's templates, as columns ``second_*``, ``(row,)`` each.

    Args:
        native: spectra on the log-lambda grid, which can be more than there are rows.
        rv: velocities (km/s), ``(star,)``.
        labels: those that the velocities were measured with, ``(star, 4)``.
        emulator: the synthetic spectra.
        factor: ratio of the noise to what the inverse variance says, ``(row,)``.
    """
    usable = torch.isfinite(labels).all(dim=1)
    templates = templates_at(emulator, torch.where(usable[:, None], labels, (emulator.lower + emulator.upper) / 2))
    noise = torch.as_tensor(np.pad(factor, (0, len(native) - len(factor)), constant_values=1.0))
    second = second_star(native, torch.where(usable, rv, torch.nan), templates, noise_factor=noise)
    return {f"second_{name}": values.cpu().numpy()[: len(factor)] for name, values in second._asdict().items()}


def is_double(ratio: FloatColumn, snr: FloatColumn) -> BoolColumn:
    """Return where a second star is believed, ``(row,)``.

    Example:
        >>> is_double(np.array([0.5, 0.1, np.nan]), np.array([9.0, 9.0, np.nan]))
        array([ True, False, False])
    """
    return np.asarray((snr > LEAST_SNR) & (ratio > LEAST_RATIO))
