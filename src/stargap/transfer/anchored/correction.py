"""The correction, its floor and its directions from stars of known labels, by least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from stargap.fit.forward import EmulatorModel
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.labels import LOGG, M_H, TEFF
from stargap.pixels import STARGAP
from stargap.theory.emulator import Emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.transfer.anchored.anchors import MANY, AnchorStars
from stargap.transfer.anchored.model import LEAST_FLUX, AnchoredTransfer
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.residual.model import SPLIT_SCALE

__all__ = ["BLIND", "fit_anchors"]

PIXEL_INFORMATION = 0.3
"""Information of resampled pixels over that of independent ones with their errors: widths of priors shrink by its root,
so that they weigh against spectra as they should."""
FLOOR_SMOOTHING, ROUNDS = 3.0, 3
HELD = 1e-6
"""Size of what the anchors may not change."""
DEFAULT = AnchorSettings()
BLIND = 1.0
"""Floor of pixels that fewer than half of the anchors show: they have no say."""


def fit_anchors(
    stars: AnchorStars, emulator: Emulator, settings: AnchorSettings = DEFAULT, base: Tensor | None = None
) -> AnchoredTransfer:
    """Return the transfer of `train_anchored` before its cross-validation: no systematic error, no limit, no map.

    Stars count with the chance that they are single.
    """
    transfer, free = _untrained(stars, emulator, settings, base is not None)
    terms = transfer.terms
    labels, ratio, noise, seen = _ratios(stars, transfer)
    design = (transfer.scaled(labels)[:, None] ** transfer.exponents).prod(dim=2)
    expected = torch.tensor([settings.ridge * 0.5 ** sum(term) if term in free else HELD for term in terms]).double()
    middle = torch.zeros(len(terms), ratio.shape[1]).double() if base is None else base.double()
    ratio = torch.where(seen, ratio - design @ middle, 0.0)

    single = torch.as_tensor(stars.p_single)[:, None]
    variance = torch.full((ratio.shape[1],), settings.floor**2).double()
    count = seen.sum(dim=0)
    freedom = (count / (count - 0.8 * len(free)).clamp_min(3.0)).double()
    for _ in range(ROUNDS):
        weight = torch.where(seen, single / (noise + variance), 0.0)
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

    white = torch.where(seen, left * (single / (noise + variance)).sqrt(), 0.0)
    strength, shape = _largest(white, min(settings.directions, len(stars)))
    found = len(strength)
    learned = (strength / single.sum().sqrt())[:, None] * shape * variance.sqrt()
    variance = (variance - learned.square().sum(dim=0)).clamp_min((settings.floor / 2) ** 2)
    floor = (variance + settings.gap_weight**2 * size).sqrt()
    shown = count >= len(stars) / 2
    transfer.coefficients.copy_(torch.where(shown, coefficients, 0.0))
    transfer.directions[:found] = torch.where(shown, learned, 0.0).float()
    transfer.floor.copy_(torch.where(shown, floor, BLIND))
    return transfer.eval().requires_grad_(False)


def _untrained(
    stars: AnchorStars, emulator: Emulator, settings: AnchorSettings, with_base: bool
) -> tuple[AnchoredTransfer, tuple[tuple[int, int], ...]]:
    """Return a transfer that knows its prior and the range of its anchors, and the terms that anchors may change."""
    tight = PIXEL_INFORMATION**0.5
    width = settings.logg_width if settings.prior else 0.5
    prior = LabelPrior(fit_sequence(shipped_isochrones()), width * tight, settings.m_h, settings.m_h_width * tight)
    free = _terms(settings.teff_degree, settings.metallicity_degree)
    transfer = AnchoredTransfer(
        emulator,
        prior,
        terms=_terms(2, 2) if with_base else free,
        directions=settings.directions,
        alpha_slope=settings.alpha_slope,
        contrast=settings.contrast,
    )
    teff, m_h = stars.labels[:, TEFF], stars.labels[:, M_H]
    transfer.low.copy_(torch.tensor([teff.min(), m_h.min()]))
    transfer.high.copy_(torch.tensor([teff.max(), m_h.max()]))
    beyond = torch.tensor([settings.reach, 0.0], dtype=torch.float64)
    transfer.held.copy_(torch.stack([transfer.low - beyond, transfer.high + beyond]))
    transfer.scatter.copy_(torch.cat([torch.tensor(SPLIT_SCALE), torch.ones(settings.directions)]) * tight)
    return transfer, free


def _ratios(stars: AnchorStars, transfer: AnchoredTransfer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels ``(star, 4)``, observed over synthetic spectra less 1, their variance, and where they are known."""
    card = transfer.emulator.card
    box = Parameters(card.lower, card.upper, alpha_slope=transfer.alpha_slope)
    labels, _ = box.expand(torch.as_tensor(stars.labels))
    labels[:, LOGG] = transfer.prior.logg(labels)[0]
    still = torch.zeros(len(stars), 1, 4).double()
    made = EmulatorModel(transfer.emulator, stars.prepared)(labels, still, torch.arange(len(stars)))
    seen = stars.prepared.good & (made[0] > LEAST_FLUX)
    synthetic = torch.where(seen, transfer.contrasted(*made)[0], 1.0).double()
    ratio = torch.where(seen, stars.prepared.flux / synthetic - 1.0, 0.0)
    return labels, ratio, (stars.prepared.sigma / synthetic).square(), seen


def _terms(teff_degree: int, metallicity_degree: int) -> tuple[tuple[int, int], ...]:
    """Exponents of Teff and [M/H], with products only up to the larger degree."""
    most = max(teff_degree, metallicity_degree)
    return tuple((j, k) for j in range(teff_degree + 1) for k in range(metallicity_degree + 1) if j + k <= most)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest singular values, at most `count`, and their right vectors ``(count, pixel)``.

    Of many stars by random projections and power iterations (Halko et al. 2011, SIAM Review 53, 217).
    """
    if len(values) < MANY or not count:
        _, strength, shape = torch.linalg.svd(values, full_matrices=False)
        return strength[:count], shape[:count]
    from sklearn.utils.extmath import randomized_svd

    _, largest, vectors = randomized_svd(values.numpy(), count, n_iter=7, random_state=0)
    return torch.as_tensor(largest), torch.as_tensor(vectors)


def _smooth(values: Tensor, sigma: float) -> Tensor:
    """Return a Gaussian running mean over pixels."""
    from scipy.ndimage import gaussian_filter1d

    return torch.as_tensor(gaussian_filter1d(values.numpy(), sigma))
