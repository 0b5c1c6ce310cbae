"""Fits in a few numbers: spectra in principal components, chi-square as a form in them, labels close to the minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from stargap.arrays import (
    Jacobians,
    Labels,
    LabelsAndDirections,
    ParameterValues,
    PerStar,
    RowNumbers,
    Spectra,
    StarRows,
)
from stargap.fit.linear import gram, gram_shared, solve_small, whole_lines
from stargap.fit.optimise import LeastSquares, Quadratic, full_chunks, minimise
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior
from stargap.fit.start_table import across_knee, far_nodes, start_nodes
from stargap.pixels import LOG_LAMBDA, STARGAP, PixelGrid
from stargap.spectra.linespread import blur
from stargap.spectra.smoother import smoother_for
from stargap.theory.emulator import Emulator

__all__ = ["Compressed", "Found", "Own", "OwnModel", "PixelTransfer", "compressed_emulator", "compressed_transfer"]

COMPONENTS = 40
"""Principal components: they hold the emulator's normalised spectra to 5e-4 (rms) over its whole range."""
WIDTH = 48
"""Numbers that coefficients take up, zeros included: whole cache lines (see `gram`)."""
SPECTRA = 512
"""Spectra from which the components are made."""
SAMPLES = 128
"""Pixels at which the emulator is read for the coefficients of the components."""
RIDGE = 1e-8
"""Of the linear maps between samples and coefficients, relative to the variance of samples."""
TOLERANCE = 0.1
"""Of the fits (see `levenberg_marquardt`); the step that is left is taken."""
MOST_EVALUATIONS = 20
"""After so many from each start a fit ends, or the exact model goes on: a few stragglers would hold up all others."""
SLOTS = 64
"""Fits that are made together."""


class Correct(Protocol):
    """What a transfer makes of the emulator's normalised spectra, pixel by pixel and for all stars alike."""

    def __call__(
        self,
        flux: Spectra,
        tangents: Jacobians,
        labels: Labels,
        directions: LabelsAndDirections,
        pixels: Tensor | slice,
    ) -> tuple[Spectra, Jacobians]:
        """Return corrected spectra ``(row, pixel)`` and derivatives ``(row, k, pixel)`` at some pixels of the grid."""
        ...


class Own(Protocol):
    """Linear terms X z of the model that each star has for itself, z with Gaussian priors, at some spectrum."""

    matrix: Tensor
    """X^T W X plus the inverse variances of z, ``(star, number, number)`` float64."""

    def products(self, spectra: Tensor) -> Tensor:
        """Return X^T W a, ``(star, number, k)`` float64, of spectra a ``(star, k, pixel)``."""
        ...

    def shared_products(self, spectra: Tensor) -> Tensor:
        """Return X^T W a, ``(star, number, k)`` float64, of spectra a ``(k, pixel)`` that all stars share."""
        ...


@runtime_checkable
class PixelTransfer(Protocol):
    """A transfer that corrects the emulator's spectra pixel by pixel."""

    emulator: Emulator

    @property
    def correct(self) -> Correct:
        """What it makes of them."""
        ...

    def __hash__(self) -> int: ...


@runtime_checkable
class OwnModel(Protocol):
    """A forward model with terms that each star has for itself."""

    def own_terms(self, spectra: Spectra, rows: StarRows) -> Own:
        """Return these terms of the stars `rows` at `spectra` ``(row, pixel)``."""
        ...


@dataclass(frozen=True)
class Reduced:
    """Chi-square of each star as ``constant - 2 cross b + b gram b``, b the coefficients of its model; float64."""

    gram: Tensor
    cross: Tensor
    constant: PerStar


class Found(NamedTuple):
    """Minima of a compressed fit: one of every star, and the second ones of the stars ``again``."""

    first: LeastSquares
    again: StarRows
    second: LeastSquares


class Compressed:
    """Models in the rest frame as ``mean + b(labels) components``, normalised without a star's own bad pixels.

    The emulator is read at `SAMPLES` pixels only; linear maps lead from there to the pseudo-continuum at these pixels,
    and from the flux there, normalised (and corrected), to the coefficients b. Resampling is that of a middling phase,
    excluded windows stand where they do at rest. All this moves labels by about a tenth of their errors, which exact
    models then mend (`stargap.fit.labels.fit_labels`).

    Args:
        emulator: the synthetic spectra.
        correct: what makes observed spectra of them, if anything does.
        grid: of the pixels.

    Example:
        >>> from stargap.theory.emulator import shipped_emulator
        >>> compressed = Compressed(shipped_emulator())
        >>> labels = torch.tensor([[3500.0, 4.8, 0.0, 0.0]]).double()
        >>> compressed.spectra(labels).shape
        torch.Size([1, 2901])
    """

    def __init__(self, emulator: Emulator, correct: Correct | None = None, grid: PixelGrid = STARGAP) -> None:
        self.emulator, self.correct, self.grid = emulator, correct, grid
        seen = _coverage(grid) >= grid.least_kernel_weight
        places = torch.nonzero(seen)[:, 0]
        self.pixels = places[torch.linspace(0, len(places) - 1, SAMPLES).round().long()]
        extra = round((STARGAP.support[0] - grid.wavelength[0]) / -grid.step)
        places = self.pixels + extra
        self.reader = emulator.at(places)
        labels, flux, continuum, normal = _spread_spectra(emulator, grid)
        still = torch.zeros(len(labels), 0, labels.shape[1], dtype=torch.float64)
        normal = torch.where(seen, normal, 1.0)
        if correct is not None:
            normal, _ = correct(normal, normal[:, None][:, :0], labels, still, slice(None))
        samples = flux[:, places]
        self.to_continuum = _linear_map(samples.double(), continuum[:, self.pixels].double()).float()

        self.mean = normal.mean(dim=0)
        centred = torch.where(seen, normal - self.mean, 0.0).double()
        _, vectors = torch.linalg.eigh(centred @ centred.T)
        components = vectors[:, -COMPONENTS:].T @ centred
        self.components = (components / components.norm(dim=1, keepdim=True)).float()
        read = samples / (samples @ self.to_continuum)
        if correct is not None:
            read, _ = correct(read, read[:, None][:, :0], labels, still, self.pixels)
        self.offset = read.mean(dim=0)
        target = pad(centred @ self.components.double().T, (0, WIDTH - COMPONENTS))
        self.to_coefficients = _linear_map((read - self.offset).double(), target).float()

        first, second = torch.triu_indices(COMPONENTS, COMPONENTS)
        lines = whole_lines(self.components)
        self.pairs = torch.cat([lines[k] * lines[k:] for k in range(COMPONENTS)])
        self.place = torch.full((WIDTH, WIDTH), len(first))
        self.place[first, second] = self.place[second, first] = torch.arange(len(first))
        self.twice = torch.where(first == second, 1.0, 2.0).double()
        self.first, self.second = first, second
        self._nodes: dict[Parameters, tuple[ParameterValues, Tensor]] = {}

    def coefficients(self, labels: Labels, directions: LabelsAndDirections) -> tuple[Tensor, Tensor]:
        """Return b ``(row, component)`` float64 and its derivatives along `directions` ``(row, k, component)``."""
        flux, tangents = self.reader.flux_and_tangents(labels, directions)
        stack = torch.cat([flux[:, None], tangents], dim=1)
        continuum = (stack.flatten(0, 1) @ self.to_continuum).reshape(stack.shape)
        level = continuum[:, :1]
        normal = stack[:, :1] / level
        change = (stack[:, 1:] - normal * continuum[:, 1:]) / level
        normal = normal[:, 0]
        if self.correct is not None:
            normal, change = self.correct(normal, change, labels, directions, self.pixels)
        whole = torch.cat([(normal - self.offset)[:, None], change], dim=1)
        found = (whole.flatten(0, 1) @ self.to_coefficients).reshape(*whole.shape[:2], -1).double()
        return found[:, 0], found[:, 1:]

    def spectra(self, labels: Labels) -> Spectra:
        """Return normalised spectra ``(row, pixel)`` at `labels` ``(row, 4)``."""
        still = torch.zeros(len(labels), 0, labels.shape[1], dtype=torch.float64)
        coefficients, _ = self.coefficients(labels, still)
        return torch.addmm(self.mean, coefficients[:, :COMPONENTS].float(), self.components)

    def reduce(
        self,
        flux: Spectra,
        weight: Spectra,
        rows: RowNumbers,
        own: Callable[[StarRows], Own] | None = None,
    ) -> Reduced:
        """Write the chi-square of some stars as a form in the coefficients, at the best numbers of their `own`.

        Args:
            flux: normalised, ``(star, pixel)``.
            weight: inverse variances, ``(star, pixel)``, 0 where a pixel is not used.
            rows: which stars, ``(row,)``.
            own: returns terms of the model that each of some stars has for itself.
        """
        whole = Reduced(
            torch.zeros(len(rows), WIDTH, WIDTH, dtype=torch.float64),
            torch.zeros(len(rows), WIDTH, dtype=torch.float64),
            torch.zeros(len(rows), dtype=torch.float64),
        )
        for chunk in full_chunks(rows, SLOTS):
            part = rows[chunk]
            used = torch.where(weight[part] > 0, flux[part], self.mean)
            reduced = self._reduced(used, weight[part], None if own is None else own(part))
            for field in fields(Reduced):
                getattr(whole, field.name)[chunk] = getattr(reduced, field.name)
        return whole

    def _reduced(self, flux: Spectra, weight: Spectra, own: Own | None) -> Reduced:
        residual = flux - self.mean
        weighted = weight * residual
        constant = (weighted * residual).sum(dim=1, dtype=torch.float64)
        packed = gram_shared(weight[:, None], self.pairs)[:, 0].double()
        cross = pad(gram_shared(weighted[:, None], self.components)[:, 0].double(), (0, WIDTH - COMPONENTS))
        form = pad(packed, (0, 1))[:, self.place]
        if own is not None:
            shared = pad(own.shared_products(self.components), (0, WIDTH - COMPONENTS))
            sides = torch.cat([shared, own.products(residual[:, None])], dim=2)
            solved = solve_small(own.matrix, sides)
            taken = gram(sides.transpose(1, 2), solved.transpose(1, 2))
            form, cross = form - taken[:, :-1, :-1], cross - taken[:, :-1, -1]
            constant = constant - taken[:, -1, -1]
        return Reduced(form, cross, constant)

    def nodes(self, parameters: Parameters) -> tuple[ParameterValues, Tensor]:
        """Return the nodes of the table of starts ``(node, parameter)``, and their b ``(node, component)``."""
        if parameters not in self._nodes:
            theta = start_nodes(parameters)
            labels, directions = parameters.expand(theta)
            self._nodes[parameters] = theta, self.coefficients(labels, directions[:, :0])[0]
        return self._nodes[parameters]

    def fit(
        self,
        reduced: Reduced,
        freedom: PerStar,
        parameters: Parameters,
        prior: LabelPrior | None,
        *,
        start: ParameterValues | None = None,
        starts: int = 2,
        max_iterations: int = 40,
    ) -> Found:
        """Fit every star of `reduced` as `fit_labels` does with exact models.

        Args:
            reduced: from `reduce`.
            freedom: degrees of freedom, ``(star,)``.
            parameters: free, fixed and tied labels, bounds.
            prior: of the labels.
            start: free labels ``(star, parameter)`` to start from, instead of `starts` nodes of the table of starts.
            starts: 1 or 2; with 2, those near [M/H] = -0.75, where the relation of [a/M] to [M/H] bends and makes two
                minima, start on both sides of it as well, and have the deeper one.
            max_iterations: evaluations from each start.
        """

        def at(theta: Tensor, rows: Tensor) -> Quadratic:
            return self._at(theta, rows, reduced, parameters, prior)

        def solve(rows: StarRows, begin: ParameterValues) -> LeastSquares:
            lower, upper = parameters.bounds()
            return minimise(
                at,
                freedom,
                begin,
                lower=lower,
                upper=upper,
                rows=rows,
                slots=SLOTS,
                max_iterations=min(max_iterations, MOST_EVALUATIONS),
                tolerance=TOLERANCE,
                finish=True,
            )

        everyone = torch.arange(len(freedom))
        nobody = everyone[:0]
        nothing = torch.zeros(0, len(parameters.free), dtype=torch.float64)
        if start is not None:
            return Found(solve(everyone, start), nobody, solve(nobody, nothing))
        theta, coefficients = self.nodes(parameters)
        table = self._table(reduced, coefficients)
        chi2, best = table.min(dim=1)
        result = solve(everyone, theta[best])
        if starts == 1:
            return Found(result, nobody, solve(nobody, nothing))

        def start_again(where: Tensor) -> tuple[StarRows, ParameterValues]:
            other_chi2, other = torch.where(where, table, torch.inf).min(dim=1)
            noise = (result.chi2 / freedom.clamp_min(1)).clamp_min(1.0)
            again = torch.nonzero(other_chi2 - result.chi2 < 2 * (chi2 - result.chi2) + 9 * noise)[:, 0]
            return again, theta[other[again]]

        across, begin = start_again(across_knee(theta, best, parameters))
        again, other = start_again(far_nodes(theta, best, parameters))
        found = solve(torch.cat([across, again]), torch.cat([begin, other]))
        result.swap_better(found.part(slice(0, len(across))), across)
        return Found(result, again, found.part(slice(len(across), None)))

    def _table(self, reduced: Reduced, coefficients: Tensor) -> Tensor:
        """Return chi-square of all stars at all nodes, ``(star, node)``."""
        pairs = (coefficients[:, self.first] * coefficients[:, self.second] * self.twice).T.contiguous()
        table = torch.zeros(len(reduced.constant), len(coefficients), dtype=torch.float64)
        for chunk in full_chunks(torch.arange(len(table)), SLOTS):
            packed = reduced.gram[chunk][:, self.first, self.second]
            table[chunk] = reduced.constant[chunk, None] + packed @ pairs - 2 * reduced.cross[chunk] @ coefficients.T
        return table

    def _at(
        self, theta: Tensor, rows: Tensor, reduced: Reduced, parameters: Parameters, prior: LabelPrior | None
    ) -> Quadratic:
        labels, directions = parameters.expand(theta)
        b, change = self.coefficients(labels, directions)
        applied = gram(torch.cat([b[:, None], change], dim=1), reduced.gram.index_select(0, rows))
        cross = reduced.cross[rows]
        chi2 = reduced.constant[rows] + (b * (applied[:, 0] - 2 * cross)).sum(dim=1)
        gradient = (change * (cross - applied[:, 0])[:, None]).sum(dim=2)
        hessian = gram(change, applied[:, 1:])
        if prior is not None:
            departure, slope = prior(labels, directions)
            chi2 = chi2 + departure.square().sum(dim=1)
            gradient = gradient - (slope * departure[:, None]).sum(dim=2)
            hessian = hessian + (slope[:, :, None] * slope[:, None]).sum(dim=3)
        return Quadratic(chi2, gradient, hessian)


@lru_cache(maxsize=1)
def _spread_spectra(emulator: Emulator, grid: PixelGrid) -> tuple[Labels, Tensor, Spectra, Spectra]:
    """Return labels that fill the emulator's range evenly ``(SPECTRA, 4)``, and its spectra there.

    The labels are a Sobol sequence, the same ones always. Spectra are the flux ``(SPECTRA, support)``, about 1, its
    pseudo-continuum and the normalised flux ``(SPECTRA, pixel)``.
    """
    unit = torch.quasirandom.SobolEngine(len(emulator.card.labels)).draw(SPECTRA).double()  # on the processor always
    labels = emulator.lower + (emulator.upper - emulator.lower) * unit.to(emulator.mean.device)
    still = torch.zeros(len(labels), 0, labels.shape[1], dtype=torch.float64)
    flux, _ = emulator.flux_and_tangents(labels, still)
    flux /= flux.mean(dim=1, keepdim=True)
    inner, continuum = _prepared_flux(flux, grid)
    return labels, flux, continuum, inner / continuum


def _use(grid: PixelGrid) -> Tensor:
    """Return the weights of pixels in the pseudo-continuum of a star at rest without bad pixels, ``(1, support)``."""
    outside = ~(grid.window_mask(grid.support, "rest") | grid.window_mask(grid.support, "observed"))
    return torch.as_tensor(outside | grid.windows_in_smoother | (not grid.model_sees_weights)).float()[None]


def _coverage(grid: PixelGrid) -> Tensor:
    """Return the weight that used pixels hold in the smoothing kernel, ``(pixel,)``."""
    return smoother_for(grid)(_use(grid))[0, grid.inner]


def _prepared_flux(flux: Tensor, grid: PixelGrid) -> tuple[Tensor, Tensor]:
    """Return flux and pseudo-continuum at rest ``(row, pixel)``, resampled at a middling phase, windows excluded."""
    extra = round((STARGAP.margin - grid.margin) / STARGAP.step)
    gap = torch.as_tensor(grid.support * np.expm1(LOG_LAMBDA.step * np.log(10.0)) / grid.step).float()
    amount = gap.square() / 12 if grid.model_sees_weights else torch.zeros_like(gap)  # the mean of t (1 - t) is 1 / 6
    seen = blur(flux[:, extra : STARGAP.support.size - extra], amount)
    smooth = smoother_for(grid)(seen * _use(grid))[:, grid.inner]
    return seen[:, grid.inner], smooth / _coverage(grid).clamp_min(grid.least_kernel_weight)


def _linear_map(given: Tensor, target: Tensor) -> Tensor:
    """Return A with ``given @ A`` closest to `target`, a little ridge included; float64."""
    square = given.T @ given
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(square + ridge, given.T @ target)
    return solution


@lru_cache(maxsize=8)
def compressed_emulator(emulator: Emulator, grid: PixelGrid) -> Compressed:
    """Return an emulator's spectra in a few numbers, made once for each emulator, which must not change."""
    return Compressed(emulator, None, grid)


@lru_cache(maxsize=8)
def compressed_transfer(transfer: PixelTransfer) -> Compressed:
    """Return a transfer's spectra in a few numbers, made once for each transfer, which must not change."""
    return Compressed(transfer.emulator, transfer.correct)
