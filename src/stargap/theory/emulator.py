"""The Payne: a neural emulator from labels to the broadened spectrum (Ting et al. 2019; paper section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stargap import __version__
from stargap.errors import ModelError, UsageError
from stargap.labels import LABELS, TEFF
from stargap.modelfile import Card, check_tensors, load_model, save_model
from stargap.pixels import STARGAP
from stargap.spectra.smoother import normalise, smoother_for
from stargap.theory.broadening import broaden_constant_resolution
from stargap.theory.grids import Grid
from stargap.theory.sampling import cubic

__all__ = [
    "Emulator",
    "EmulatorCard",
    "Training",
    "emulator_error",
    "fit_emulator",
    "shipped_emulator",
    "targets",
]

KIND, VERSION = "payne", 1


class EmulatorCard(Card):
    """Card of an emulator: what it predicts, from which labels, and how well."""

    pixel_grid: str
    """First and last wavelength (A) and number of the pixels on which fluxes are predicted."""
    wavelength: tuple[float, float, int]
    resolution: float
    labels: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    hidden: int
    basis: int
    training_data: str
    citation: str
    seed: int
    spectra: tuple[int, int]
    """Numbers of training and validation spectra."""
    validation: dict[str, float]
    """Eq. 1 errors over the validation split: median, 99th percentile, largest, fraction at most 1 %."""


class Emulator(nn.Module):
    """Labels to ln surface flux, broadened to ``card.resolution``, on ``STARGAP.support``.

    A perceptron with two hidden layers gives the coefficients of a fixed linear basis: log f = level + mean +
    basis c(y). Labels are teff (K), logg, m_h, a_m (dex); inside, 5040/teff and the rest are scaled to -1..1.

    Example:
        >>> emulator = shipped_emulator()
        >>> emulator(torch.tensor([[3500.0, 4.8, 0.0, 0.0]])).shape
        torch.Size([1, 3081])
    """

    offset: Tensor
    scale: Tensor
    level: Tensor
    mean: Tensor
    basis: Tensor

    def __init__(self, card: EmulatorCard) -> None:
        super().__init__()
        self.card = card
        size, count = len(card.labels), card.wavelength[2]
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("basis", torch.zeros(card.basis, count))
        self.first = nn.Linear(size, card.hidden)
        self.second = nn.Linear(card.hidden, card.hidden)
        self.last = nn.Linear(card.hidden, card.basis)

    @property
    def lower(self) -> Tensor:
        """Smallest label values of the training set, ``(label,)`` float64."""
        return torch.tensor(self.card.lower, dtype=torch.float64)

    @property
    def upper(self) -> Tensor:
        """Largest label values of the training set, ``(label,)`` float64."""
        return torch.tensor(self.card.upper, dtype=torch.float64)

    def scaled(self, labels: Tensor) -> Tensor:
        """Return network inputs ``(row, label)``, about -1..1 within the training range."""
        inputs = torch.cat([5040.0 / labels[:, :1], labels[:, 1:]], dim=1).to(self.mean.dtype)
        return (inputs - self.offset) * self.scale

    def coefficients(self, labels: Tensor) -> Tensor:
        """Return the basis coefficients ``(row, basis)``."""
        hidden = nn.functional.silu(self.first(self.scaled(labels)))
        return self.last(nn.functional.silu(self.second(hidden)))

    def forward(self, labels: Tensor) -> Tensor:
        """Return ln flux ``(row, support)`` for labels ``(row, label)``."""
        return torch.addmm(self.mean, self.coefficients(labels), self.basis) + self.level

    def flux(self, labels: Tensor) -> Tensor:
        """Return the surface flux F_lambda (erg/s/cm2/A), ``(row, support)``."""
        return self(labels).exp()

    def flux_and_tangents(self, labels: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flux and its derivatives along `directions`, in one forward-mode pass.

        Args:
            labels: ``(row, label)``.
            directions: ``(row, direction, label)``: each a change of labels per unit of a parameter.

        Returns:
            flux ``(row, support)`` in units of ``exp(level)``, so that float32 keeps its precision, and its
            derivatives ``(row, direction, support)``.
        """
        inputs = self.scaled(labels)
        factor = torch.cat([-5040.0 / labels[:, :1].square(), torch.ones_like(labels[:, 1:])], dim=1)
        tangent = (directions * factor[:, None]).to(inputs.dtype) * self.scale
        hidden = inputs
        for layer in (self.first, self.second):
            before = layer(hidden)
            gate = torch.sigmoid(before)
            slope = gate * (1 + before * (1 - gate))
            hidden = before * gate
            tangent = (tangent @ layer.weight.T) * slope[:, None]
        flux = torch.addmm(self.mean, self.last(hidden), self.basis).exp()
        return flux, (tangent @ self.last.weight.T @ self.basis) * flux[:, None]

    def save(self, path: str | Path) -> None:
        """Write the safetensors file and its card."""
        save_model(path, self.card, self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> Emulator:
        """Read an emulator written by `save`.

        Raises:
            ModelError: damaged or foreign files, another pixel grid or label order, missing or extra tensors.
        """
        return cls.assemble(path, *load_model(path, EmulatorCard, KIND, VERSION))

    @classmethod
    def assemble(cls, path: str | Path, card: EmulatorCard, tensors: dict[str, Tensor]) -> Emulator:
        """Build an emulator of the card and tensors read from `path`, checking all that could be wrong with them.

        Raises:
            ModelError: as `load`.
        """
        wanted = {"pixel_grid": _support_digest(), "labels": LABELS}
        for name, value in wanted.items():
            if getattr(card, name) != value:
                msg = f"{path}: {name} of the model is {getattr(card, name)!r}, this version needs {value!r}"
                raise ModelError(msg)
        sizes = (len(card.lower), len(card.upper), len(card.labels))
        if not (len(set(sizes)) == 1 and 0 < card.hidden <= 4096 and 0 < card.basis <= 4096):
            msg = f"{path}: sizes in the card are impossible (bounds {sizes}, hidden {card.hidden}, basis {card.basis})"
            raise ModelError(msg)
        if card.wavelength != _support_range():
            msg = f"{path}: the model covers {card.wavelength}, this version needs {_support_range()}"
            raise ModelError(msg)
        bounds = np.array([card.lower, card.upper])
        if not (np.isfinite(bounds).all() and (bounds[0] <= bounds[1]).all() and 0 < bounds[0, TEFF] < bounds[1, TEFF]):
            message = f"{path}: bounds in the card are impossible (lower {card.lower}, upper {card.upper})"
            raise ModelError(message)
        if not (np.isfinite(card.resolution) and card.resolution > 0):
            message = f"{path}: resolution in the card is impossible ({card.resolution})"
            raise ModelError(message)
        emulator = cls(card)
        check_tensors(path, emulator.state_dict(), tensors)
        emulator.load_state_dict(tensors)
        return emulator.eval().requires_grad_(False)


def _support_range() -> tuple[float, float, int]:
    support = STARGAP.support
    return float(support[0]), float(support[-1]), support.size


def _support_digest() -> str:
    start, stop, count = _support_range()
    return f"{start:g}-{stop:g}/{count}"


@cache
def shipped_emulator() -> Emulator:
    """Return the emulator inside the package: MARCS and Turbospectrum, R = 1800 (its card says the rest)."""
    with as_file(files("stargap") / "models") as folder:
        return Emulator.load(folder / "emulator.safetensors")


def targets(grid: Grid, resolution: float) -> Tensor:
    """Return ln flux of a grid broadened to `resolution` on ``STARGAP.support``, ``(spectrum, support)`` float64.

    Raises:
        UsageError: the grid does not cover the support.
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


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of `fit_emulator`; the defaults made the shipped emulator."""

    resolution: float = 1800.0
    hidden: int = 128
    basis: int = 60
    steps: int = 16_000
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 4_000
    """Stop after this many steps without a better validation loss."""
    validation: float = 0.2
    seed: int = 0


def fit_emulator(
    grid: Grid,
    settings: Training = Training(),
    *,
    progress: Callable[[int, int, float], Any] | None = None,
) -> tuple[Emulator, NDArray[np.int64]]:
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

    log_flux = targets(grid, settings.resolution)
    smooth = smoother_for(STARGAP)
    flux = (log_flux - log_flux.mean(dim=1, keepdim=True)).exp().float()
    log_continuum = (smooth(flux) / smooth(torch.ones_like(flux[:1]))).double().log() + log_flux.mean(
        dim=1, keepdim=True
    )
    joint = torch.cat([log_flux - log_continuum, 0.1 * log_continuum], dim=1)
    mean = joint[train].mean(dim=0)
    vectors = torch.linalg.svd(joint[train] - mean, full_matrices=False).Vh[: settings.basis]
    wanted = (joint - mean) @ vectors.T
    half = log_flux.shape[1]

    labels = torch.as_tensor(grid.labels)
    inputs = torch.cat([5040.0 / labels[:, :1], labels[:, 1:]], dim=1)
    low, high = inputs.amin(dim=0), inputs.amax(dim=0)
    spread = wanted[train].square().mean(dim=0).sqrt()
    card = EmulatorCard(
        kind=KIND,
        version=VERSION,
        stargap=__version__,
        pixel_grid=_support_digest(),
        wavelength=_support_range(),
        resolution=settings.resolution,
        labels=LABELS,
        lower=tuple(labels.amin(dim=0).tolist()),
        upper=tuple(labels.amax(dim=0).tolist()),
        hidden=settings.hidden,
        basis=settings.basis,
        training_data=grid.name,
        citation=grid.citation,
        seed=settings.seed,
        spectra=(len(train), len(validation)),
        validation={},
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        emulator = Emulator(card)
    emulator.offset.copy_((low + high) / 2)
    emulator.scale.copy_(torch.where(high > low, 2 / (high - low), 0.0))
    gain = (spread / spread[0]).sqrt()
    goal = (wanted / spread[0]).float()
    optimiser = torch.optim.AdamW(emulator.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    labels32 = labels.float()
    best, best_step, best_state = np.inf, 0, emulator.state_dict()
    for step in range(settings.steps):
        residual = emulator.coefficients(labels32[train]) * gain.float() - goal[train]
        optimiser.zero_grad(set_to_none=True)
        residual.square().sum(dim=1).mean().backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199 or step == settings.steps - 1:
            with torch.no_grad():
                off = emulator.coefficients(labels32[validation]) * gain.float() - goal[validation]
            loss = float(off.square().sum(dim=1).mean())
            if loss < best:
                best, best_step = loss, step
                best_state = {name: tensor.clone() for name, tensor in emulator.state_dict().items()}
            if progress is not None:
                progress(step + 1, settings.steps, loss)
            if step - best_step >= settings.patience:
                break
    emulator.load_state_dict(best_state)
    emulator.eval().requires_grad_(False)
    size = (gain * spread[0]).float()
    emulator.last.weight.mul_(size[:, None])
    emulator.last.bias.mul_(size)
    mean_log_flux = mean[:half] + 10.0 * mean[half:]
    emulator.level.copy_(mean_log_flux.mean())
    emulator.mean.copy_(mean_log_flux - mean_log_flux.mean())
    emulator.basis.copy_(vectors[:, :half] + 10.0 * vectors[:, half:])
    errors = emulator_error(emulator, grid, rows=validation)
    emulator.card = card.model_copy(
        update={
            "validation": {
                "median": float(np.median(errors)),
                "percentile_99": float(np.quantile(errors, 0.99)),
                "largest": float(errors.max()),
                "fraction_within_1_percent": float((errors <= 0.01).mean()),
            }
        }
    )
    return emulator, validation


def emulator_error(
    emulator: Emulator, grid: Grid, *, rows: Sequence[int] | NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return eq. 1 of the paper for each spectrum: the mean over pixels of ``|F_model - F_recon| / F_model``.

    Both sides are normalised by the shared operator with all pixels good.

    Args:
        emulator: the emulator.
        grid: synthetic spectra.
        rows: which of them; all by default.

    Returns:
        ``(spectrum,)``.
    """
    chosen = np.arange(len(grid.labels)) if rows is None else np.asarray(rows)
    picked = Grid(**{**grid.__dict__, "flux": grid.flux[chosen], "labels": grid.labels[chosen]})
    truth = targets(picked, emulator.card.resolution).exp().float()
    guess = emulator.flux(torch.as_tensor(picked.labels))
    sides = [normalise(flux, torch.ones_like(flux))[0].double() for flux in (truth, guess)]
    return ((sides[0] - sides[1]).abs() / sides[0]).mean(dim=1).numpy()
