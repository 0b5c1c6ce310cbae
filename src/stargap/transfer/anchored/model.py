"""The transfer for real stars: the emulator times what a few stars of known labels say that it lacks."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stargap.errors import ModelError
from stargap.fit.forward import EmulatorModel
from stargap.fit.linear import gram, gram_shared, solve_small
from stargap.fit.polynomial import clamp_to_range, monomial_slopes, monomials
from stargap.fit.prior import DEGREES, LabelPrior
from stargap.labels import A_M, M_H, TEFF
from stargap.pixels import STARGAP
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.transfer.anchored.label_map import NUMBERS, AnchorMap
from stargap.transfer.base import TrainedTransfer, TransferCard, all_positive
from stargap.transfer.residual.model import SPLIT_SCALE, combined_split, split_columns

__all__ = ["AnchoredCard", "AnchoredModel", "AnchoredTransfer", "lamost_transfer"]

CENTRE, SCALE = (3600.0, 0.0), (300.0, 0.3)
"""Of Teff (K) and [M/H] (dex) in the correction."""
MOST_TERMS, MOST_DIRECTIONS = 20, 50
EVERY = slice(None)
SPLIT_COUNT = len(SPLIT_SCALE)
"""How many of a star's own numbers come before its amplitudes along the directions."""
LEAST_FLUX = 0.05
"""Synthetic normalised flux below which its changes say nothing."""


class AnchoredCard(TransferCard):
    """Card of an anchored transfer; its scores are cross-validated by star."""

    terms: tuple[tuple[int, int], ...]
    """Exponents of scaled Teff and [M/H] in the correction."""
    directions: int
    logg_width: float
    m_h: float
    m_h_width: float
    """The label prior, in dex; widths as the fit uses them (`stargap.transfer.anchored.train`)."""
    alpha_slope: float
    """[a/M] at [M/H] = -1 and below, 0 at 0 and above: the relation that fits of this transfer follow."""
    contrast: float
    """Power of the emulator's normalised flux in the model: below 1 bands are shallower, and change less."""
    label_map: dict[str, float]
    """The numbers of `stargap.transfer.anchored.label_map.AnchorMap`, as the model holds them."""


class AnchoredTransfer(TrainedTransfer[AnchoredCard]):
    """Two domains with the emulator as the synthetic one, tied by stars of known labels (anchors).

    A normalised observed spectrum is a power (``contrast``) of the emulator's times (1 + c), c a polynomial in Teff
    (and [M/H]) at every pixel (`stargap.transfer.anchored.train`). z_sp, what a spectrum has of its own, are the
    numbers of `residual.SPLIT` and amplitudes along ``directions``: the ways in which the anchors' spectra differ from
    the model beyond noise. They are fitted with the labels, each within its own scatter over the anchors. ``floor`` is
    what is left after all this, plus ``gap_weight`` times ``|c|``: where the emulator is far off its
    derivatives are not trusted either. ``map_numbers`` bring fitted labels to the anchors' scale
    (`label_map.AnchorMap`); published labels and errors are mapped.

    Args:
        emulator: the synthetic domain.
        terms: exponents of scaled Teff and [M/H].
        directions: how many.
        prior: of the labels.
        alpha: [a/M] at which all fits are held, or None where it follows [M/H].
        alpha_slope: how it follows.
        contrast: power of the emulator's normalised flux.

    Example:
        >>> from stargap.theory.isochrones import shipped_isochrones
        >>> from stargap.theory.emulator import shipped_emulator
        >>> from stargap.fit.prior import fit_sequence
        >>> prior = LabelPrior(fit_sequence(shipped_isochrones()), 0.05, 0.0, 0.5)
        >>> transfer = AnchoredTransfer(shipped_emulator(), prior)
        >>> labels = torch.tensor([[3500.0, 4.8, 0.0, 0.0]]).double()
        >>> float(transfer.correction(labels, torch.zeros(1, 1, 4).double())[0].abs().max())
        0.0
    """

    kind, version, card_type = "anchored-transfer", 2, AnchoredCard
    coefficients: Tensor
    floor: Tensor
    directions: Tensor
    scatter: Tensor
    low: Tensor
    high: Tensor
    held: Tensor
    own: Tensor
    limit: Tensor
    map_numbers: Tensor
    exponents: Tensor
    nuisance_scale: Tensor
    sequence: Tensor

    def __init__(
        self,
        emulator: Emulator,
        prior: LabelPrior,
        *,
        terms: tuple[tuple[int, int], ...] = ((0, 0), (1, 0)),
        directions: int = 0,
        alpha: float | None = None,
        alpha_slope: float = 0.4,
        contrast: float = 1.0,
    ) -> None:
        super().__init__()
        pixels = STARGAP.wavelength.size
        self.emulator, self.terms, self.alpha = emulator, terms, alpha
        self.alpha_slope, self.contrast = alpha_slope, contrast
        self.register_buffer("exponents", torch.tensor(terms), persistent=False)
        self.widths = (prior.logg_width, prior.m_h, prior.m_h_width)
        self.register_buffer("sequence", prior.sequence)
        self.register_buffer("coefficients", torch.zeros(len(terms), pixels))
        self.register_buffer("floor", torch.full((pixels,), 0.015))
        self.register_buffer("directions", torch.zeros(directions, pixels))
        self.register_buffer("scatter", torch.cat([torch.tensor(SPLIT_SCALE), torch.ones(directions)]))
        self.register_buffer("low", emulator.lower[[TEFF, M_H]])
        self.register_buffer("high", emulator.upper[[TEFF, M_H]])
        self.register_buffer("held", torch.stack([self.low, self.high]))
        self.register_buffer("own", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("limit", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("map_numbers", torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
        self.register_buffer("nuisance_scale", torch.zeros(0), persistent=False)

    @property
    def prior(self) -> LabelPrior:
        """Prior of the labels in both domains."""
        return LabelPrior(self.sequence, *self.widths)

    @property
    def observed_floor(self) -> Tensor:
        """Error floor of the observed domain, ``(pixel,)``: that of the synthetic one."""
        return self.floor

    @property
    def chi2_limit(self) -> float:
        """Reduced chi-square above which a spectrum is unlike the anchors."""
        return float(self.limit)

    def scaled(self, labels: Tensor) -> Tensor:
        """Return Teff and [M/H] of labels ``(row, 4)`` as the correction has them, ``(row, 2)``: held, then scaled."""
        return (labels[:, [TEFF, M_H]].clamp(*self.held) - torch.tensor(CENTRE)) / torch.tensor(SCALE)

    def correction(self, labels: Tensor, directions: Tensor, pixels: Tensor | slice = EVERY) -> tuple[Tensor, Tensor]:
        """Return c ``(row, pixel)`` at labels ``(row, 4)`` and its derivatives along `directions` ``(row, k, 4)``.

        Beyond ``held`` (least and largest Teff and [M/H]) c keeps its value.
        """
        coefficients = self.coefficients[:, pixels]
        along = directions[:, :, [TEFF, M_H]]
        _, inside = clamp_to_range(labels[:, [TEFF, M_H]], *self.held)
        x = self.scaled(labels)
        slope = monomial_slopes(x, self.exponents) * (inside / torch.tensor(SCALE))[:, None]
        change = torch.einsum("rtl,rkl->rkt", slope, along)
        return monomials(x, self.exponents).float() @ coefficients, change.float() @ coefficients

    def correct(
        self, flux: Tensor, tangents: Tensor, labels: Tensor, directions: Tensor, pixels: Tensor | slice = EVERY
    ) -> tuple[Tensor, Tensor]:
        """Return the emulator's normalised spectra ``(row, pixel)`` and derivatives corrected, at some pixels."""
        flux, tangents = self.contrasted(flux, tangents)
        c, slope = self.correction(labels, directions, pixels)
        factor, changed = 1 + c, tangents * (1 + c)[:, None]
        return flux * factor, changed if self.constant else changed.addcmul_(flux[:, None], slope)

    @property
    def pairs(self) -> Tensor:
        """Products of all pairs of directions, ``(direction^2, pixel)``."""
        return (self.directions[:, None] * self.directions).flatten(0, 1)

    @property
    def constant(self) -> bool:
        """Whether the correction is the same at all labels."""
        return not self.exponents.any()

    def model(self, prepared: Prepared) -> AnchoredModel:
        """Return the forward model of the observed domain for these stars."""
        return AnchoredModel(self, prepared)

    def contrasted(self, flux: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the emulator's normalised spectra ``(row, pixel)`` and derivatives of another contrast."""
        if self.contrast == 1.0:
            return flux, tangents
        positive = flux.clamp_min(LEAST_FLUX)
        power = positive**self.contrast
        slope = torch.where(flux > LEAST_FLUX, self.contrast * power / positive, 0.0)
        return power, tangents * slope[:, None]

    @property
    def label_map(self) -> AnchorMap:
        """From fitted labels to published ones."""
        return AnchorMap(self.map_numbers)

    def publish(self, labels: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return labels ``(row, 3)`` and covariance on the anchors' scale, and the error of cross-validation."""
        published, slope = self.label_map(labels, self.prior)
        return published, slope @ covariance @ slope.transpose(1, 2), self.own.expand(len(labels), 3)

    def outside(self, labels: Tensor) -> Tensor:
        """Return which fitted labels are, once published, beyond the anchors', ``(row,)`` bool."""
        given = self.label_map(labels, self.prior)[0][:, [TEFF, M_H]]
        return ((given < self.low) | (given > self.high)).any(dim=1)

    def architecture(self) -> dict[str, Any]:
        """Return terms, number of directions, label prior, [a/M], contrast and label map, for the card."""
        logg_width, m_h, m_h_width = self.widths
        prior = {"logg_width": logg_width, "m_h": m_h, "m_h_width": m_h_width}
        numbers = dict(zip(NUMBERS, self.map_numbers.tolist(), strict=True))
        own = {"alpha_slope": self.alpha_slope, "contrast": self.contrast, "label_map": numbers}
        return {"terms": self.terms, "directions": len(self.directions), **prior, **own}

    @classmethod
    def from_card(cls, path: str | Path, card: AnchoredCard, emulator: Emulator) -> AnchoredTransfer:
        """Return an untrained transfer with the terms and directions in the card.

        Raises:
            ModelError: they, or the label prior, are impossible.
        """
        exponents = [number for term in card.terms for number in term]
        sound = 0 < len(card.terms) <= MOST_TERMS and 0 <= card.directions <= MOST_DIRECTIONS
        if not (sound and all(0 <= number <= 4 for number in exponents)):
            message = f"{path}: terms or directions in the card are impossible ({card.terms}, {card.directions})"
            raise ModelError(message)
        if not (0 < card.logg_width < 9 and 0 < card.m_h_width < 9 and -9 < card.m_h < 9):
            message = f"{path}: the label prior in the card is impossible"
            raise ModelError(message)
        low, high = card.emulator.lower[A_M], card.emulator.upper[A_M]
        if not (0 < card.contrast <= 2 and max(low, -1.0) <= card.alpha_slope <= high):
            message = f"{path}: contrast or alpha_slope in the card is impossible ({card.contrast}, {card.alpha_slope})"
            raise ModelError(message)
        nothing = torch.zeros(DEGREES[0] + 1, DEGREES[1] + 1, dtype=torch.float64)
        prior = LabelPrior(nothing, card.logg_width, card.m_h, card.m_h_width)
        return cls(
            emulator,
            prior,
            terms=card.terms,
            directions=card.directions,
            alpha=card.alpha,
            alpha_slope=card.alpha_slope,
            contrast=card.contrast,
        )

    def find_fault(self) -> str | None:
        """Return what is impossible about the values, if anything is."""
        if not (all_positive(self.floor, self.scatter, self.limit) and (self.own >= 0).all()):
            return "floors, scatters, errors or a limit that are not positive"
        if (self.low > self.high).any() or (self.held[0] > self.held[1]).any():
            return "a reversed range of the anchors' labels"
        if not (self.map_numbers[2] > 0 and self.label_map.rises()):
            return "a label map in which [M/H] does not rise"
        return None


class AnchoredModel:
    """Corrected emulator spectra with what is each spectrum's own, found by least squares at every call.

    A `ForwardModel`: m + X z and its derivatives, X the derivatives by the star's own numbers and z those that fit it
    best within their scatter s (variable projection, Golub & Pereyra 1973, with Kaufman's derivatives: (1 - P)(m' + X'
    z), P the projection on X). z / s follow the pixels as departures from 0, so that chi-square is the posterior's and
    its gradient exact.
    """

    def __init__(self, transfer: AnchoredTransfer, prepared: Prepared) -> None:
        self.transfer, self.prepared = transfer, prepared
        self.synthetic = EmulatorModel(transfer.emulator, prepared)
        self.weight = torch.where(prepared.good, 1.0 / (prepared.sigma.square() + transfer.floor.square()), 0.0)
        self.penalties = len(transfer.scatter)

    def __call__(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra and derivatives, each followed by those of z / s (see `ForwardModel`)."""
        plain, change = self.corrected(labels, directions, rows)
        own = self.own_terms(plain, rows)
        z = own.solve(own.products((self.prepared.flux[rows] - plain)[:, None]))[:, :, 0].float()
        spectrum = plain + own.combine(z[:, None])[:, 0]
        known = torch.where(torch.isfinite(z), z, 0.0)  # a spectrum of NaN has a chi-square of NaN
        along = change * (1 + known[:, SPLIT_COUNT:] @ self.transfer.directions)[:, None]
        along += combined_split(change, known[:, :SPLIT_COUNT])
        parts = own.solve(own.products(along)).float().transpose(1, 2)
        along -= own.combine(parts)
        scatter = self.transfer.scatter
        return torch.cat([spectrum, z / scatter], dim=1), torch.cat([along, -parts / scatter], dim=2)

    def corrected(self, labels: Tensor, directions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectra ``(slot, pixel)`` and derivatives ``(slot, k, pixel)`` without what is the star's own."""
        return self.transfer.correct(*self.synthetic(labels, directions, rows), labels, directions)

    def own(self, spectra: Tensor, rows: Tensor) -> Tensor:
        """Return the star's own numbers over their scatter, ``(slot, number)`` float64, at corrected `spectra`."""
        own = self.own_terms(spectra, rows)
        residual = (self.prepared.flux[rows] - spectra)[:, None]
        return own.solve(own.products(residual))[:, :, 0] / self.transfer.scatter

    def own_terms(self, spectra: Tensor, rows: Tensor) -> OwnTerms:
        """Return what stars have for themselves at corrected `spectra` ``(slot, pixel)``."""
        return OwnTerms(self.transfer, spectra, self.weight[rows])


class OwnTerms:
    """What is each spectrum's own: X = (split columns, spectrum times each direction), and X^T W X + s^-2.

    The second half of X is never written out: products with it are products with the directions, which all stars share.

    Args:
        transfer: directions and scatters s.
        spectra: at which X is, ``(slot, pixel)``.
        weight: W, ``(slot, pixel)``.
    """

    def __init__(self, transfer: AnchoredTransfer, spectra: Tensor, weight: Tensor) -> None:
        self.shapes = transfer.directions
        self.spectra = spectra
        self.split = split_columns(spectra)
        self.weighted_split, self.weighted = self.split * weight[:, None], spectra * weight
        number = len(self.shapes)
        square = gram_shared((self.weighted * spectra)[:, None], transfer.pairs).reshape(len(spectra), number, number)
        cross = gram_shared(self.weighted_split * spectra[:, None], self.shapes)
        top = torch.cat([gram(self.weighted_split, self.split), cross], dim=2)
        bottom = torch.cat([cross.transpose(1, 2), square], dim=2)
        self.matrix = torch.cat([top, bottom], dim=1).double() + torch.diag(transfer.scatter.double() ** -2)

    def products(self, spectra: Tensor) -> Tensor:
        """Return X^T W a, ``(slot, number, k)`` float64, of spectra a ``(slot, k, pixel)``."""
        split = gram(self.weighted_split, spectra)
        along = gram_shared(self.weighted[:, None] * spectra, self.shapes)
        return torch.cat([split, along.transpose(1, 2)], dim=1).double()

    def shared_products(self, spectra: Tensor) -> Tensor:
        """Return X^T W a, ``(slot, number, k)`` float64, of spectra a ``(k, pixel)`` that all slots share."""
        split = gram_shared(self.weighted_split, spectra)
        pairs = (self.shapes[:, None] * spectra).flatten(0, 1)
        along = gram_shared(self.weighted[:, None], pairs).reshape(len(split), len(self.shapes), len(spectra))
        return torch.cat([split, along], dim=1).double()

    def solve(self, right: Tensor) -> Tensor:
        """Return (X^T W X + s^-2)^-1 times `right` ``(slot, number, k)``."""
        return solve_small(self.matrix, right)

    def combine(self, numbers: Tensor) -> Tensor:
        """Return X times `numbers` ``(slot, k, number)``: ``(slot, k, pixel)``."""
        slots, count, _ = numbers.shape
        shape = (numbers[:, :, SPLIT_COUNT:].flatten(0, 1) @ self.shapes).reshape(slots, count, self.shapes.shape[1])
        shape *= self.spectra[:, None]
        for number in range(SPLIT_COUNT):  # not one product: its bits depend on where a row stands
            shape += numbers[:, :, number, None] * self.split[:, None, number]
        return shape


@cache
def lamost_transfer() -> AnchoredTransfer:
    """Return the transfer inside the package for real LAMOST spectra (experimental; see its model card)."""
    with as_file(files("stargap") / "models") as folder:
        return AnchoredTransfer.load(folder / "transfer-lamost.safetensors")
