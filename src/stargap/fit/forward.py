"""Forward models: from labels to the spectrum that a star would have, prepared as the star was."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from stargap.arrays import Jacobians, Labels, LabelsAndDirections, Spectra, StarRows
from stargap.pixels import STARGAP
from stargap.spectra.linespread import blur
from stargap.spectra.prepare import Prepared
from stargap.spectra.smoother import smoother_for
from stargap.theory.emulator import Emulator

__all__ = ["DataDependentModel", "EmulatorModel", "ForwardModel"]


@runtime_checkable
class ForwardModel(Protocol):
    """Anything that predicts normalised spectra of prepared stars: the emulator alone, or a transfer.

    After the pixels, a model may return `penalties` more numbers: departures from 0 in standard deviations, which
    enter chi-square with weight 1.
    """

    @property
    def penalties(self) -> int:
        """How many numbers follow the pixels of a spectrum."""
        ...

    def __call__(self, labels: Labels, directions: LabelsAndDirections, rows: StarRows) -> tuple[Spectra, Jacobians]:
        """Return spectra ``(row, pixel + penalties)`` and derivatives ``(row, parameter, pixel + penalties)``.

        Args:
            labels: ``(row, 4)`` float64.
            directions: labels per unit of each parameter, ``(row, parameter, 4)`` float64.
            rows: which prepared spectrum each is compared with, ``(row,)``.
        """
        ...


@runtime_checkable
class DataDependentModel(ForwardModel, Protocol):
    """A forward model that depends on the observed spectrum itself, and so on its noise (see `linear_covariance`)."""

    def pull_back(self, labels: Labels, rows: StarRows, vectors: Jacobians) -> Jacobians:
        """Return v^T (d model / d observed flux) for each vector v, ``(row, parameter, pixel)``, 0 where not good.

        Args:
            labels: ``(row, 4)`` float64.
            rows: which prepared spectrum each row is compared with, ``(row,)``.
            vectors: ``(row, parameter, pixel)``.
        """
        ...


class EmulatorModel:
    """The emulator's spectra, resampled and normalised as each star was.

    Args:
        emulator: the synthetic spectra.
        prepared: the stars.
    """

    penalties = 0

    def __init__(self, emulator: Emulator, prepared: Prepared) -> None:
        self.emulator = emulator
        self.prepared = prepared
        self.smoother = smoother_for(prepared.grid)
        extra = round((STARGAP.margin - prepared.grid.margin) / STARGAP.step)
        self.cut = slice(extra, STARGAP.support.size - extra)

    def __call__(self, labels: Labels, directions: LabelsAndDirections, rows: StarRows) -> tuple[Spectra, Jacobians]:
        """Return normalised spectra and derivatives (see `ForwardModel`)."""
        star = self.prepared
        flux, tangents = self.emulator.flux_and_tangents(labels, directions)
        stack = torch.cat([flux[:, None], tangents], dim=1)[:, :, self.cut]
        blurs, weight, inverse = (of.index_select(0, rows) for of in (star.blur, star.weight, star.inverse_kernel))
        stack = blur(stack, blurs[:, None])
        inner = stack[:, :, star.grid.inner]
        sums = self.smoother((stack * weight[:, None]).flatten(0, 1))[:, star.grid.inner]
        smooth = sums.reshape(*stack.shape[:2], -1).mul_(inverse[:, None])
        continuum = smooth[:, :1].clamp_min(1e-30)
        normal = inner[:, :1] / continuum
        return normal[:, 0], torch.addcmul(inner[:, 1:], normal, smooth[:, 1:], value=-1).div_(continuum)
