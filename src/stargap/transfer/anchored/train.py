"""Training of an anchored transfer from stars of known labels, and what it is worth, cross-validated by star."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from stargap.errors import UsageError
from stargap.fit.domains import DomainFit, fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.labels import LOGG, M_H, TEFF
from stargap.pixels import STARGAP
from stargap.settings import Settings
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.transfer.anchored.model import AnchoredTransfer
from stargap.transfer.residual.model import SPLIT_SCALE

__all__ = [
    "AnchorSettings",
    "AnchorStars",
    "CrossValidated",
    "cross_validate",
    "fit_anchored",
    "fit_anchors",
    "train_anchored",
]

LEAST_STARS = 6

PIXEL_INFORMATION = 0.3
"""Information of resampled pixels over that of independent ones with their errors: widths of priors shrink by its root,
so that they weigh against spectra as they should."""
LEAST_FLUX = 0.05
"""Synthetic normalised flux below which a ratio to it says nothing."""
FLOOR_SMOOTHING, ROUNDS = 3.0, 3
HELD = 1e-6
"""Size of what the anchors may not change."""
BLIND = 1.0
"""Floor of pixels that fewer than half of the anchors show: they have no say."""
LIMIT, LEAST_LIMIT = 3.0, 2.5
"""Reduced chi-square of a spectrum unlike the anchors, over the largest of nine in ten anchors left out in turn; and
its least value, since errors of LAMOST spectra are too small by up to a factor of 1.5."""


class AnchorSettings(Settings):
    """How an anchored transfer is made."""

    teff_degree: Annotated[int, Field(ge=0, le=3)] = 0
    """Of the correction in Teff; 0 is one factor a pixel, and the directions take up what changes."""
    metallicity_degree: Annotated[int, Field(ge=0, le=2)] = 0
    """Of the correction in [M/H]; 0 keeps the synthetic spectra's own change with metallicity."""
    ridge: Annotated[float, Field(gt=0)] = 0.2
    """Expected size of the correction (relative flux); of each power of Teff (per 300 K) or [M/H] (per 0.3 dex) a half,
    a quarter and so on."""
    floor: Annotated[float, Field(gt=0)] = 0.01
    """Where the search for the scatter of anchors about the correction begins; half of it is the least floor."""
    gap_weight: Annotated[float, Field(ge=0)] = 1.0
    """Share of the correction itself that is added to the floor: badly modelled bands lose their say."""
    gap_smoothing: Annotated[float, Field(ge=0)] = 20.0
    """Width over which that share is averaged (A, standard deviation of a Gaussian)."""
    directions: Annotated[int, Field(ge=0, le=20)] = 3
    """Ways in which spectra may differ that are fitted with the labels and not published."""
    prior: bool = True
    """Hold log g near the 5 Gyr isochrone at the star's own Teff and [M/H]; otherwise it is free within 0.5 dex."""
    logg_width: Annotated[float, Field(gt=0, lt=9)] = 0.05
    """Width of that prior (dex); isochrones of 1 to 10 Gyr differ by 0.033."""
    m_h: Annotated[float, Field(gt=-9, lt=9)] = -0.05
    """Mean of the prior on [M/H] (dex)."""
    m_h_width: Annotated[float, Field(gt=0, lt=9)] = 0.5
    """Its width (dex)."""
    reach: Annotated[float, Field(ge=0)] = 200.0
    """How far beyond the anchors' Teff the correction goes on (K)."""


DEFAULT = AnchorSettings()


@dataclass(frozen=True)
class AnchorStars:
    """Stars of known labels: prepared spectra, ``labels (spectrum, 3)`` teff, logg, m_h (K, dex), and names of stars.

    log g is compared with, not trained on. Spectra of one star are held out together.
    """

    prepared: Prepared
    labels: NDArray[np.float64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.int64]) -> AnchorStars:
        return AnchorStars(self.prepared[torch.as_tensor(rows)], self.labels[rows], [self.names[row] for row in rows])


@dataclass(frozen=True)
class CrossValidated:
    """Each anchor through a transfer made without its star: ``labels, errors (spectrum, 4)``, reduced
    ``chi2 (spectrum,)`` and the best ``model (spectrum, pixel)``; NaN for spectra that were not asked for."""

    labels: NDArray[np.float64]
    errors: NDArray[np.float64]
    chi2: NDArray[np.float64]
    model: Tensor


def train_anchored(
    stars: AnchorStars,
    emulator: Emulator,
    settings: AnchorSettings = DEFAULT,
    *,
    base: Tensor | None = None,
    scored: NDArray[np.bool_] | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[AnchoredTransfer, CrossValidated]:
    """Make a transfer from anchors, with its systematic error and its limit of chi-square cross-validated by star.

    1. At each pixel the ratio of an anchor's spectrum to the emulator's at its own labels (log g of the isochrone) is
       a factor, or a polynomial in labels, by ridge regression with the weights of noise and of the scatter left.
    2. That scatter, with a share of the correction, is the floor; its principal components are the directions.
    3. Each star is left out in turn: what its labels are then off by is the systematic error (literature errors are
       in it), and its chi-square tells what is usual.

    Args:
        stars: at least six stars.
        emulator: the synthetic domain.
        settings: see `AnchorSettings`.
        base: coefficients of another training that the correction begins with instead of 0, ``(6, pixel)``: of the
            terms (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0) in Teff and [M/H]. The degrees in `settings` say which
            of them the anchors may change.
        scored: which spectra count in step 3, ``(spectrum,)``; all by default.
        progress: called with the number of spectra left out and fitted since the last call.

    Returns:
        the transfer, and what it was judged by.

    Raises:
        UsageError: fewer than six stars, labels that are not finite or outside the emulator's range, more directions
            than spectra without one star, or no spectrum that is scored and can be fitted.
    """
    _check(stars, emulator, settings, scored)
    transfer = fit_anchors(stars, emulator, settings, base)
    found = cross_validate(stars, emulator, settings, base=base, scored=scored, progress=progress)
    counted = np.isfinite(found.labels).all(axis=1)
    if not counted.any():
        message = f"none of {len(stars)} anchor spectra can be fitted"
        raise UsageError(message)
    apart = found.labels[counted, :3] - stars.labels[counted]
    for place in (TEFF, LOGG, M_H):
        noise = np.median(found.errors[counted, place])
        transfer.own[place] = np.sqrt(max(float(np.var(apart[:, place]) - noise**2), 0.0))
    transfer.limit.fill_(max(LIMIT * float(np.quantile(found.chi2[counted], 0.9)), LEAST_LIMIT))
    return transfer, found


def cross_validate(
    stars: AnchorStars,
    emulator: Emulator,
    settings: AnchorSettings = DEFAULT,
    *,
    base: Tensor | None = None,
    scored: NDArray[np.bool_] | None = None,
    progress: Callable[[int], object] | None = None,
) -> CrossValidated:
    """Fit every star through a transfer that was made of the others.

    Args:
        stars: spectra of one star, told by its name, are left out together.
        emulator: the synthetic domain.
        settings: see `AnchorSettings`.
        base: see `train_anchored`.
        scored: spectra that are fitted, ``(spectrum,)``; the others only train. All by default.
        progress: called with the number of spectra fitted since the last call.

    Raises:
        UsageError: see `train_anchored`.
    """
    _check(stars, emulator, settings, scored)
    names = np.array(stars.names)
    chosen = np.ones(len(stars), dtype=bool) if scored is None else scored
    labels, errors, chi2 = (np.full((len(stars), *shape), np.nan) for shape in ((4,), (4,), ()))
    model = torch.full_like(stars.prepared.flux, torch.nan)
    for name in np.unique(names[chosen]):
        rows = np.flatnonzero((names == name) & chosen)
        transfer = fit_anchors(stars[np.flatnonzero(names != name)], emulator, settings, base)
        fit = fit_anchored(stars.prepared[torch.as_tensor(rows)], transfer).observed
        labels[rows], errors[rows], chi2[rows] = fit.labels, fit.errors, fit.chi2
        model[rows] = fit.model
        if progress is not None:
            progress(len(rows))
    return CrossValidated(labels, errors, chi2, model)


def fit_anchored(prepared: Prepared, transfer: AnchoredTransfer) -> DomainFit:
    """Fit a few prepared stars with all labels free but [a/M]."""
    card = transfer.emulator.card
    box = Parameters(card.lower, card.upper)
    return fit_domains(prepared, transfer, box, starts=1, slots=min(len(prepared.flux), 32))


def fit_anchors(
    stars: AnchorStars, emulator: Emulator, settings: AnchorSettings = DEFAULT, base: Tensor | None = None
) -> AnchoredTransfer:
    """Return the transfer of `train_anchored` before its cross-validation: no systematic error, no limit."""
    tight = PIXEL_INFORMATION**0.5
    width = settings.logg_width if settings.prior else 0.5
    prior = LabelPrior(fit_sequence(shipped_isochrones()), width * tight, settings.m_h, settings.m_h_width * tight)
    free = _terms(settings.teff_degree, settings.metallicity_degree)
    terms = free if base is None else _terms(2, 2)
    transfer = AnchoredTransfer(emulator, prior, terms=terms, directions=settings.directions)
    teff, m_h = stars.labels[:, TEFF], stars.labels[:, M_H]
    transfer.low.copy_(torch.tensor([teff.min(), m_h.min()]))
    transfer.high.copy_(torch.tensor([teff.max(), m_h.max()]))
    beyond = torch.tensor([settings.reach, 0.0], dtype=torch.float64)
    transfer.held.copy_(torch.stack([transfer.low - beyond, transfer.high + beyond]))

    labels, _ = Parameters(emulator.card.lower, emulator.card.upper).expand(torch.as_tensor(stars.labels))
    labels[:, LOGG] = prior.logg(labels)[0]
    still = torch.zeros(len(stars), 1, 4).double()
    synthetic, _ = EmulatorModel(emulator, stars.prepared)(labels, still, torch.arange(len(stars)))
    seen = stars.prepared.good & (synthetic > LEAST_FLUX)
    synthetic = torch.where(seen, synthetic, 1.0).double()
    ratio = torch.where(seen, stars.prepared.flux / synthetic - 1.0, 0.0)
    noise = (stars.prepared.sigma / synthetic).square()
    design = (transfer.scaled(labels)[:, None] ** transfer.exponents).prod(dim=2)
    expected = torch.tensor([settings.ridge * 0.5 ** sum(term) if term in free else HELD for term in terms]).double()
    middle = torch.zeros(len(terms), synthetic.shape[1]).double() if base is None else base.double()
    ratio = torch.where(seen, ratio - design @ middle, 0.0)

    variance = torch.full((synthetic.shape[1],), settings.floor**2).double()
    count = seen.sum(dim=0)
    freedom = (count / (count - 0.8 * len(free)).clamp_min(3.0)).double()
    for _ in range(ROUNDS):
        weight = torch.where(seen, 1.0 / (noise + variance), 0.0)
        matrix = torch.einsum("st,su,sp->ptu", design, design, weight) + torch.diag(expected**-2)
        vector = torch.einsum("st,sp->pt", design, weight * ratio)
        solution = torch.linalg.solve(matrix, vector).T
        left = torch.where(seen, ratio - design @ solution, 0.0)
        excess = (weight * (left.square() - noise)).sum(dim=0) / weight.sum(dim=0).clamp_min(1e-9)
        variance = (excess * freedom).clamp_min((settings.floor / 2) ** 2)
    variance = _smooth(variance, FLOOR_SMOOTHING)
    coefficients = solution + middle
    size = (design @ coefficients).square().mean(dim=0)
    size = _smooth(size, settings.gap_smoothing / STARGAP.step) if settings.gap_smoothing else size

    white = torch.where(seen, left / (noise + variance).sqrt(), 0.0)
    _, strength, shape = torch.linalg.svd(white, full_matrices=False)
    learned = shape[: settings.directions] * variance.sqrt()
    scatter = strength[: settings.directions] / len(stars) ** 0.5
    variance = (variance - (scatter[:, None] * learned).square().sum(dim=0)).clamp_min((settings.floor / 2) ** 2)
    floor = (variance + settings.gap_weight**2 * size).sqrt()
    shown = count >= len(stars) / 2
    transfer.coefficients.copy_(torch.where(shown, coefficients, 0.0))
    transfer.directions.copy_(torch.where(shown, learned * scatter[:, None], 0.0))
    transfer.scatter.copy_(torch.cat([torch.tensor(SPLIT_SCALE), torch.ones(settings.directions)]) * tight)
    transfer.floor.copy_(torch.where(shown, floor, BLIND))
    return transfer.eval().requires_grad_(False)


def _terms(teff_degree: int, metallicity_degree: int) -> tuple[tuple[int, int], ...]:
    """Exponents of Teff and [M/H], with products only up to the larger degree."""
    most = max(teff_degree, metallicity_degree)
    return tuple((j, k) for j in range(teff_degree + 1) for k in range(metallicity_degree + 1) if j + k <= most)


def _check(stars: AnchorStars, emulator: Emulator, settings: AnchorSettings, scored: NDArray[np.bool_] | None) -> None:
    names, counts = np.unique(stars.names, return_counts=True)
    if len(names) < LEAST_STARS:
        message = f"{len(names)} anchor stars; at least {LEAST_STARS} are needed"
        raise UsageError(message)
    if scored is not None and not scored.any():
        message = f"none of {len(stars)} anchor spectra is scored: a transfer that is not tested is not made"
        raise UsageError(message)
    most = len(stars) - int(counts.max())
    if settings.directions > most:
        message = f"directions is {settings.directions}; these anchors, less one star, allow {most}"
        raise UsageError(message)
    low, high = emulator.lower[:3].numpy(), emulator.upper[:3].numpy()
    sound = np.isfinite(stars.labels).all(axis=1) & ((stars.labels >= low) & (stars.labels <= high)).all(axis=1)
    if not sound.all():
        first = int(np.argmin(sound))
        message = f"anchor {stars.names[first]}: labels {stars.labels[first]} are not within {low} to {high}"
        raise UsageError(message)


def _smooth(values: Tensor, sigma: float) -> Tensor:
    """Return a Gaussian running mean over pixels."""
    from scipy.ndimage import gaussian_filter1d

    return torch.as_tensor(gaussian_filter1d(values.numpy(), sigma))
