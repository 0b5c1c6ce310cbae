"""Training of The Payne on a grid of synthetic spectra (Ting et al. 2019; paper section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap import __version__
from stargap.arrays import Coefficients, LogFluxes
from stargap.errors import UsageError
from stargap.labels import LABELS
from stargap.pixels import STARGAP
from stargap.rows import FloatColumn, RowNumbersArray
from stargap.spectra.smoother import normalise, smoother_for
from stargap.theory.broadening import broaden_constant_resolution
from stargap.theory.emulator import KIND, VERSION, Emulator, EmulatorCard, support_digest, support_range
from stargap.theory.grids import Grid
from stargap.theory.sampling import cubic

__all__ = ["Training", "broadened_log_flux", "emulator_error", "fit_emulator"]

CONTINUUM_SHARE = 0.1
"""Weight of ln pseudo-continuum beside ln normalised flux in the principal components."""
REPORT_EVERY = 200
"""Steps between validations."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of `fit_emulator`; the defaults made the shipped emulator."""

    resolution: float = 1800.0
    """R = lambda / FWHM of the predicted spectra."""
    hidden: int = 128
    """Neurons in each of the two hidden layers."""
    basis: int = 60
    """Number of principal components."""
    steps: int = 16_000
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 4_000
    """Stop after this many steps without a better validation loss."""
    validation: float = 0.2
    """Fraction of the spectra that validate."""
    seed: int = 0


def broadened_log_flux(grid: Grid, resolution: float) -> LogFluxes:
    """Return ln flux of a grid broadened to `resolution` on ``STARGAP.support``, ``(spectrum, support)`` float64.

    Raises:
        UsageError: the grid does not cover the support, or is not uniform in log wavelength.
    """
    support = STARGAP.support
    if grid.wavelength[0] > support[0] or grid.wavelength[-1] < support[-1]:
        msg = (
            f"the grid {grid.name} covers {grid.wavelength[0]:.0f}-{grid.wavelength[-1]:.0f} A; "
            f"{support[0]:.0f}-{support[-1]:.0f} A are needed"
        )
        raise UsageError(msg)
    step = np.log(grid.wavelength[-1] / grid.wavelength[0]) / (grid.wavelength.size - 1)
    uniform = grid.wavelength[0] * np.exp(step * np.arange(grid.wavelength.size))
    if not np.allclose(uniform, grid.wavelength, rtol=1e-7, atol=0):
        msg = f"the grid {grid.name} is not uniform in log wavelength: read it with stargap.theory.grids.read_grid"
        raise UsageError(msg)
    flux = broaden_constant_resolution(
        grid.wavelength, grid.flux, resolution, source_resolution=grid.resolution or np.inf
    )
    place = torch.as_tensor(np.log(support / grid.wavelength[0]) / step)
    return cubic(torch.as_tensor(flux, dtype=torch.float64), place).log()


def fit_emulator(
    grid: Grid,
    settings: Training = Training(),
    *,
    progress: Callable[[int, int, float], Any] | None = None,
) -> tuple[Emulator, RowNumbersArray]:
    """Train The Payne on a synthetic grid, 8:2 at random (paper section 2.2).

    The linear basis is the principal components of (ln normalised flux, 0.1 ln pseudo-continuum), so that the mean
    squared error of coefficients is the error that a fit sees. Full-batch AdamW with a one-cycle schedule; the state
    with the best validation loss is kept.

    Args:
        grid: synthetic spectra and labels.
        settings: sizes, schedule, seed.
        progress: called as ``progress(step, steps, validation_loss)`` every 200 steps.

    Returns:
        the emulator (its card holds the validation errors) and the row numbers of the validation spectra.

    Raises:
        UsageError: fewer training spectra than basis vectors, no validation spectrum, or a grid that is too narrow.
    """
    train, validation = _split(grid, settings)
    log_flux = broadened_log_flux(grid, settings.resolution)
    components = _principal_components(log_flux, train, settings.basis)
    emulator = _untrained(grid, settings, (len(train), len(validation)))
    _optimise(emulator, torch.as_tensor(grid.labels).float(), components, train, validation, settings, progress)
    _join_basis(emulator, components)
    errors = emulator_error(emulator, grid, rows=validation)
    scores = {
        "median": float(np.median(errors)),
        "percentile_99": float(np.quantile(errors, 0.99)),
        "largest": float(errors.max()),
        "fraction_within_1_percent": float((errors <= 0.01).mean()),
    }
    emulator.card = emulator.card.model_copy(update={"validation": scores})
    return emulator, validation


def emulator_error(
    emulator: Emulator, grid: Grid, *, rows: Sequence[int] | NDArray[np.int64] | None = None
) -> FloatColumn:
    """Return the error of each spectrum as eq. 1 of the paper defines it,

    .. math:: \\frac{1}{N} \\sum_j |F_{model, j} - F_{recon, j}| / F_{model, j}.

    Both sides are normalised by the shared operator with all pixels good.

    Args:
        emulator: the emulator.
        grid: synthetic spectra.
        rows: row numbers of the spectra to compare, all by default.

    Returns:
        ``(spectrum,)``.
    """
    chosen = np.arange(len(grid.labels)) if rows is None else np.asarray(rows)
    picked = replace(grid, flux=grid.flux[chosen], labels=grid.labels[chosen])
    truth = broadened_log_flux(picked, emulator.card.resolution).exp().float()
    guess = emulator.flux(torch.as_tensor(picked.labels))
    sides = [normalise(flux, torch.ones_like(flux))[0].double() for flux in (truth, guess)]
    return ((sides[0] - sides[1]).abs() / sides[0]).mean(dim=1).numpy()


def _split(grid: Grid, settings: Training) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers of the training and of the validation spectra."""
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(grid.labels), generator=generator).numpy()
    held_out = round(settings.validation * len(order))
    validation, train = order[:held_out], order[held_out:]
    if held_out == 0 or len(train) < settings.basis:
        message = (
            f"{len(order)} spectra in {grid.name} give {len(train)} for training and {held_out} for validation; "
            f"a basis of {settings.basis} needs as many for training and one for validation"
        )
        raise UsageError(message)
    return train, validation


@dataclass(frozen=True)
class _Components:
    """Principal components of (ln normalised flux, 0.1 ln pseudo-continuum), float64.

    ``mean (2 support,)``, ``vectors (component, 2 support)``, ``coefficients (spectrum, component)`` of all spectra,
    and their root mean square over the training spectra, ``spread (component,)``.
    """

    mean: Tensor
    vectors: Tensor
    coefficients: Coefficients
    spread: Tensor

    @property
    def gain(self) -> Tensor:
        """What the outputs of the network are multiplied by, so that all are of order 1, ``(component,)``."""
        return (self.spread / self.spread[0]).sqrt()


def _principal_components(log_flux: LogFluxes, train: RowNumbersArray, count: int) -> _Components:
    smooth = smoother_for(STARGAP)
    mean_log_flux = log_flux.mean(dim=1, keepdim=True)
    flux = (log_flux - mean_log_flux).exp().float()
    log_continuum = (smooth(flux) / smooth(torch.ones_like(flux[:1]))).double().log() + mean_log_flux
    joint = torch.cat([log_flux - log_continuum, CONTINUUM_SHARE * log_continuum], dim=1)
    mean = joint[train].mean(dim=0)
    vectors = torch.linalg.svd(joint[train] - mean, full_matrices=False).Vh[:count]
    coefficients = (joint - mean) @ vectors.T
    return _Components(mean, vectors, coefficients, coefficients[train].square().mean(dim=0).sqrt())


def _untrained(grid: Grid, settings: Training, spectra: tuple[int, int]) -> Emulator:
    """Return an emulator with random weights whose inputs are scaled to the range of the grid."""
    labels = torch.as_tensor(grid.labels)
    card = EmulatorCard(
        kind=KIND,
        version=VERSION,
        stargap=__version__,
        pixel_grid=support_digest(),
        wavelength=support_range(),
        resolution=settings.resolution,
        labels=LABELS,
        lower=tuple(labels.amin(dim=0).tolist()),
        upper=tuple(labels.amax(dim=0).tolist()),
        hidden=settings.hidden,
        basis=settings.basis,
        training_data=grid.name,
        citation=grid.citation,
        seed=settings.seed,
        spectra=spectra,
        validation={},
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        emulator = Emulator(card)
    inputs = torch.cat([5040.0 / labels[:, :1], labels[:, 1:]], dim=1)
    low, high = inputs.amin(dim=0), inputs.amax(dim=0)
    emulator.offset.copy_((low + high) / 2)
    emulator.scale.copy_(torch.where(high > low, 2 / (high - low), 0.0))
    return emulator


def _optimise(
    emulator: Emulator,
    labels: Tensor,
    components: _Components,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    settings: Training,
    progress: Callable[[int, int, float], Any] | None,
) -> None:
    """Train the network on the coefficients, and leave it in the state of the best validation loss."""
    gain, goal = components.gain.float(), (components.coefficients / components.spread[0]).float()
    optimiser = torch.optim.AdamW(emulator.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )

    def loss_of(rows: RowNumbersArray) -> Tensor:
        residual = emulator.coefficients(labels[rows]) * gain - goal[rows]
        return residual.square().sum(dim=1).mean()

    best, best_step, best_state = np.inf, 0, emulator.state_dict()
    for step in range(settings.steps):
        loss = loss_of(train)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if step % REPORT_EVERY == REPORT_EVERY - 1 or step == settings.steps - 1:
            with torch.no_grad():
                score = float(loss_of(validation))
            if score < best:
                best, best_step = score, step
                best_state = {name: tensor.clone() for name, tensor in emulator.state_dict().items()}
            if progress is not None:
                progress(step + 1, settings.steps, score)
            if step - best_step >= settings.patience:
                break
    emulator.load_state_dict(best_state)
    emulator.eval().requires_grad_(False)


def _join_basis(emulator: Emulator, components: _Components) -> None:
    """Make the network's outputs coefficients of ln flux: the sum of both parts of the components."""
    size = (components.gain * components.spread[0]).float()
    emulator.last.weight.mul_(size[:, None])
    emulator.last.bias.mul_(size)
    half = components.vectors.shape[1] // 2
    mean = components.mean[:half] + components.mean[half:] * (1 / CONTINUUM_SHARE)
    emulator.level.copy_(mean.mean())
    emulator.mean.copy_(mean - mean.mean())
    emulator.basis.copy_(components.vectors[:, :half] + components.vectors[:, half:] * (1 / CONTINUUM_SHARE))
