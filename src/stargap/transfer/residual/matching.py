"""The label map: the smooth map under which the labels of all stars are distributed as the label prior says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stargap.fit.polynomial import monomial_slopes, monomials
from stargap.labels import LABELS, M_H, TEFF
from stargap.rows import LabelDraws
from stargap.transfer.anchor_labels import ZERO_POINT
from stargap.transfer.residual.known import AnchorTerm, LabelledFits
from stargap.transfer.residual.model import MAPPED, LabelMap

__all__ = ["LabelDensity", "fit_density", "fit_label_map", "main_sequence"]

COMPONENTS = 12
"""Components of the Gaussian mixture that describes the label prior."""
SAMPLE = 20_000
"""Draws of the prior that the mixture is fitted to."""
SEQUENCE_SCATTER = 0.08
"""Scatter added to log g of the prior (dex): isochrones of different authors and ages differ by this much."""
MAP_WIDTHS = (30.0, 0.10, 0.06)
"""Prior widths of the map's change of Teff (K), log g and [M/H] (dex) at the middle of the label space; higher orders
are narrower."""
MIX_WIDTHS = (60.0, 0.10)
"""Prior widths of the difference in mean Teff (K) and [M/H] (dex) between survey and prior, with `free_mix`."""
STRETCH_WIDTH = 0.2
"""Prior width of the logarithm of the ratio between the widths of the two distributions, with `free_mix`."""
OUTLIERS = -12.0
"""Logarithm of the density of one more component, everywhere the same, which stars far from the prior belong to."""
ANCHOR_ROUNDS = 3
"""Times that the map is fitted with anchors, each with what their labels scatter by beyond their errors."""
LEAST_SHARE = 0.5
"""Least reliability (`AnchorTerm.reliability`) that is made up for."""
MIXED = (TEFF, M_H)
"""The labels in which the survey may be mixed differently from the prior."""


@dataclass(frozen=True)
class LabelDensity:
    """Gaussian mixture over scaled (teff, logg, m_h): ``weights (k,)``, ``means (k, 3)``, ``covariances (k, 3, 3)``."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log(self, place: Tensor, noise: Tensor) -> Tensor:
        """Return ln density ``(row,)`` at ``(row, 3)``, convolved with the noise of each row ``(row, 3, 3)``."""
        total = self.covariances[None] + noise[:, None]
        root = torch.linalg.cholesky(total)
        offset = (place[:, None] - self.means)[..., None]
        white = torch.linalg.solve_triangular(root, offset, upper=False)[..., 0]
        volume = root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return torch.logsumexp(self.weights.log() - 0.5 * white.square().sum(dim=-1) - volume, dim=1)


def fit_density(labels: LabelDraws, label_map: LabelMap, *, seed: int = 0) -> LabelDensity:
    """Describe draws of the label prior ``(draw, 4)`` by a Gaussian mixture in scaled labels."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    chosen = labels[rng.permutation(len(labels))[:SAMPLE], :MAPPED].copy()
    chosen[:, 1] += rng.normal(0.0, SEQUENCE_SCATTER, len(chosen))
    scaled = (chosen - label_map.centre.numpy()) / label_map.scale.numpy()
    with threadpool_limits(1):
        mixture = GaussianMixture(COMPONENTS, random_state=seed, reg_covar=1e-4).fit(scaled)
    parts = (mixture.weights_, mixture.means_, mixture.covariances_)
    return LabelDensity(*(torch.as_tensor(part, dtype=torch.float64) for part in parts))


def fit_label_map(
    label_map: LabelMap,
    fitted: Tensor,
    covariance: Tensor,
    density: LabelDensity,
    *,
    known: LabelledFits | None = None,
    free_mix: bool = False,
    effective: float = 150.0,
) -> dict[str, float]:
    """Find the map under which the fitted labels are distributed like the prior, changing them as little as needed.

    An emulator with wrong opacities fits best at wrong labels u, which are a smooth function of the right ones.
    Unpaired spectra do not say how wrong they are, except that the labels of all stars together must be distributed as
    the prior says. The map y = h(u) maximises the likelihood of a change of variables,

        ``sum_i ln p_i(h(u_i)) + ln |det dh/du|_i``,

    where p_i is the prior convolved with the noise of star i, under a Gaussian prior on h that keeps it near the
    identity (`MAP_WIDTHS`). What the match does not determine, such as a rotation of a round distribution, stays as it
    was and enters ``label_map.covariance``. Where the survey's stars are mixed differently from the prior, the map is
    wrong by the difference, unless stars with known labels constrain it.

    Args:
        label_map: its ``weight`` and ``covariance`` are set in place.
        fitted: labels of bright stars ``(star, 3)`` float64.
        covariance: their noise, ``(star, 3, 3)``.
        density: the prior in scaled labels.
        known: stars with known labels.
        free_mix: let the survey differ from the prior by a shift and a stretch in Teff and [M/H] (`MIX_WIDTHS`,
            `STRETCH_WIDTH`), so that a mismatch is shared between the map and the mix.
        effective: weight of the match in stars: the prior is known no better than this many stars determine it. With 0
            the map is that of the anchors alone, and regression dilution is taken out of it (`AnchorTerm.reliability`).

    Returns:
        mean ln likelihood before and after, the shift of the mix (K, dex), and of known labels how many were used, the
        zero points of their sources and their scatter beyond errors, and the reliability that was made up for, by name.
    """
    match = _Match(label_map, fitted, covariance, density, known, free_mix, effective)
    best = torch.zeros(match.size, dtype=torch.float64)
    for _ in range(1 if match.anchors is None else ANCHOR_ROUNDS):
        best = _minimise(match.loss, best)
        match.update(best)
    weight, mix, points = match.parts(best)
    second_derivatives: Callable[..., Any] = torch.autograd.functional.hessian
    hessian: Tensor = second_derivatives(match.loss, best)
    count = len(weight)
    inverse = torch.linalg.pinv(hessian, hermitian=True)[: weight.numel(), : weight.numel()]
    blocks = inverse.view(count, MAPPED, count, MAPPED)
    label_map.weight.copy_(weight)
    label_map.covariance.copy_(torch.stack([blocks[:, k, :, k] for k in range(MAPPED)]))
    stretched = {}
    if match.anchors is not None and not effective:
        share, mean = match.anchors.reliability(weight)
        label_map.stretch(1 / share.clamp_min(LEAST_SHARE), mean)
        stretched = {f"reliability_{name}": float(value) for name, value in zip(LABELS[:MAPPED], share, strict=True)}
    shift = mix[:2] * match.mix_scale * label_map.scale[match.mixed]
    return {
        "log_likelihood_before": float(match.likelihood(torch.zeros_like(weight), torch.zeros_like(mix))),
        "log_likelihood": float(match.likelihood(weight, mix)),
        "mix_teff": float(shift[0]),
        "mix_m_h": float(shift[1]),
        **stretched,
        **_of_sources(label_map, match.anchors, known, points),
    }


def _of_sources(
    label_map: LabelMap, anchors: AnchorTerm | None, known: LabelledFits | None, points: Tensor
) -> dict[str, float]:
    """Return by how much labels of each source but the first are too large, and scatter beyond errors (K, dex)."""
    if anchors is None or known is None:
        return {}
    zero = torch.cat([torch.zeros(1, MAPPED).double(), points.view(-1, MAPPED) * torch.tensor(ZERO_POINT).double()])
    scatter = anchors.excess.sqrt() * label_map.scale
    found = {"used": float(anchors.used.sum())}
    for place, source in enumerate(known.known.names):
        for column, label in enumerate(LABELS[:MAPPED]):
            if place:
                found[f"zero_point {source} {label}"] = float(zero[place, column])
            found[f"scatter {source} {label}"] = float(scatter[place, column])
    return found


class _Match:
    """The loss of `fit_label_map`: of the map's weights, then of shift and stretch of the mix in units of their priors.

    Its arguments are those of `fit_label_map`.
    """

    def __init__(
        self,
        label_map: LabelMap,
        fitted: Tensor,
        covariance: Tensor,
        density: LabelDensity,
        known: LabelledFits | None,
        free_mix: bool,
        effective: float,
    ) -> None:
        scale, exponents = label_map.scale, label_map.exponents
        self.density, self.free_mix, self.effective = density, free_mix, effective
        self.place = (fitted - label_map.centre) / scale
        inside = self.place.clamp(label_map.low, label_map.high)
        self.terms, self.slopes = monomials(inside, exponents), monomial_slopes(inside, exponents)
        self.noise = covariance / (scale[:, None] * scale)
        order = exponents.sum(dim=1).clamp_min(1).double()
        self.widths = torch.tensor(MAP_WIDTHS, dtype=torch.float64) / scale / order[:, None].sqrt()
        self.mixed = torch.tensor(MIXED)
        self.mix_scale = torch.tensor(MIX_WIDTHS, dtype=torch.float64) / scale[self.mixed]
        self.middle = (density.weights[:, None] * density.means).sum(dim=0)
        self.anchors = None if known is None else AnchorTerm(label_map, known)
        self.count = len(exponents) * MAPPED
        self.size = self.count + 2 * len(MIXED) + (0 if self.anchors is None else self.anchors.points)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map's weights ``(term, 3)``, shift and stretch ``(4,)``, zero points of sources of anchors."""
        weight, mix, points = parameters.tensor_split([self.count, self.count + 2 * len(MIXED)])
        return weight.view(-1, MAPPED), mix, points

    def update(self, parameters: Tensor) -> None:
        """Tell the anchors' term where the map is."""
        if self.anchors is not None:
            weight, _, points = self.parts(parameters)
            self.anchors.update(weight, points)

    def likelihood(self, weight: Tensor, mix: Tensor) -> Tensor:
        """Return the mean ln likelihood of a star."""
        jacobian = torch.eye(MAPPED, dtype=torch.float64) + torch.einsum("rfk,fj->rjk", self.slopes, weight)
        mapped = self.place + self.terms @ weight
        ones, zeros = torch.ones(MAPPED, dtype=torch.float64), torch.zeros(MAPPED, dtype=torch.float64)
        squeeze = ones.index_put((self.mixed,), torch.exp(-mix[2:] * STRETCH_WIDTH))
        shift = zeros.index_put((self.mixed,), mix[:2] * self.mix_scale)
        mapped = self.middle + (mapped - self.middle - shift) * squeeze
        jacobian = jacobian * squeeze[:, None]
        noise = jacobian @ self.noise @ jacobian.transpose(1, 2)
        density = torch.logaddexp(self.density.log(mapped, noise), torch.tensor(OUTLIERS, dtype=torch.float64))
        volume: Tensor = torch.linalg.slogdet(jacobian).logabsdet
        return (density + volume).mean()

    def loss(self, parameters: Tensor) -> Tensor:
        """Return minus the ln posterior."""
        weight, mix, points = self.parts(parameters)
        total = torch.zeros((), dtype=torch.float64)
        if self.effective:
            total = -self.effective * self.likelihood(weight, mix if self.free_mix else mix.detach() * 0)
        total = total + 0.5 * (weight / self.widths).square().sum() + 0.5 * mix.square().sum()
        return total if self.anchors is None else total + self.anchors.cost(weight, points)


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return the minimum of a loss from `start` on, by L-BFGS."""
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(parameters)
        torch.autograd.backward(value)
        return value

    step: Callable[..., Any] = optimiser.step
    step(closure)
    return parameters.detach()


def main_sequence(label_map: LabelMap, labels: Tensor, covariance: Tensor) -> Tensor:
    """Fit log g of mapped labels by a parabola in Teff and a line in [M/H], with clipping, and its intrinsic scatter.

    Args:
        label_map: maps these labels to those of the stars.
        labels: where the emulator fits best, ``(star, 3)``.
        covariance: their noise, ``(star, 3, 3)``.

    Returns:
        constant, slope and curvature in scaled Teff, slope in scaled [M/H], intrinsic scatter (dex): ``(5,)``.
    """
    mapped = label_map(labels)
    jacobian = label_map.jacobian(labels)
    noise = jacobian @ covariance @ jacobian.transpose(1, 2)
    x = (mapped - label_map.centre) / label_map.scale
    design = torch.stack([torch.ones_like(x[:, 0]), x[:, 0], x[:, 0] ** 2, x[:, 2]], dim=1)
    width = torch.tensor(0.1, dtype=torch.float64)
    keep = torch.ones(len(x), dtype=torch.bool)
    solution = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(10):
        root = (keep / (width**2 + noise[:, 1, 1])).sqrt()[:, None]
        solution = torch.linalg.lstsq(design * root, mapped[:, 1:2] * root, driver="gels").solution[:, 0]
        along = torch.stack([solution[1] + 2 * solution[2] * x[:, 0], solution[3].expand(len(x))], dim=1)
        along = along / label_map.scale[[0, 2]]
        across = torch.stack([along[:, 0], -torch.ones_like(along[:, 0]), along[:, 1]], dim=1)
        variance = torch.einsum("rj,rjk,rk->r", across, noise, across)
        left = mapped[:, 1] - design @ solution
        keep = left.abs() < 3.5 * (width**2 + variance).sqrt()
        bright = keep & (variance < variance.quantile(0.3))
        width = (left[bright].square() - variance[bright]).mean().clamp_min(0.02**2).sqrt()
    return torch.cat([solution, width[None]])
