"""What fitted labels mean: the smooth map that makes their distribution the label prior's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stargap.transfer.residual.model import FREE, LabelMap, features, slopes

__all__ = ["Anchors", "LabelDensity", "fit_density", "fit_label_map", "main_sequence"]

COMPONENTS = 12
SAMPLE = 20_000
"""Draws of the prior that the density is fitted to."""
SEQUENCE = 0.08
"""Added to the prior's spread in log g (dex): isochrones of other authors and ages differ by so much."""
GAUGE = (30.0, 0.10, 0.06)
"""How far plain fits are expected to be off at the middle of the label space (K, dex, dex); higher orders less."""
MIX = (60.0, 0.10)
"""How far the mean (Teff, [M/H]) of a survey may be from the prior's, where a map is fitted with a free mix."""
STRETCH = 0.2
"""How much wider or narrower the survey's distribution may be, in ln, in the same case."""


@dataclass(frozen=True)
class LabelDensity:
    """Gaussian mixture over scaled (teff, logg, m_h): ``weights (k,)``, ``means (k, 3)``, ``covariances (k, 3, 3)``."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log(self, place: Tensor, noise: Tensor) -> Tensor:
        """Return ln density ``(row,)`` at ``(row, 3)``, convolved with each row's own noise ``(row, 3, 3)``."""
        total = self.covariances[None] + noise[:, None]
        root = torch.linalg.cholesky(total)
        apart = (place[:, None] - self.means)[..., None]
        white = torch.linalg.solve_triangular(root, apart, upper=False)[..., 0]
        volume = root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return torch.logsumexp(self.weights.log() - 0.5 * white.square().sum(dim=-1) - volume, dim=1)


@dataclass(frozen=True)
class Anchors:
    """Stars whose labels are known: fitted labels ``(star, 3)`` with covariance, and known ones with errors."""

    fitted: Tensor
    covariance: Tensor
    labels: Tensor
    errors: Tensor


def fit_density(labels: NDArray[np.float64], label_map: LabelMap, *, seed: int = 0) -> LabelDensity:
    """Describe draws of the label prior ``(draw, 4)`` by a Gaussian mixture in scaled labels."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    chosen = labels[rng.permutation(len(labels))[:SAMPLE], :FREE].copy()
    chosen[:, 1] += rng.normal(0.0, SEQUENCE, len(chosen))
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
    anchors: Anchors | None = None,
    free_mix: bool = False,
    effective: float = 150.0,
) -> dict[str, float]:
    """Find the map under which the fitted labels are distributed like the prior, changing them as little as needed.

    An emulator with wrong opacities fits best at wrong labels u, but smoothly so. Unpaired spectra say nothing of how
    wrong, except that the labels of all stars together must be distributed as the prior says. The map y = h(u)
    maximises the likelihood of a change of variables, sum_i ln p(h(u_i)) + ln |det dh/du|, with p the prior convolved
    with each star's noise, under a Gaussian penalty that keeps h near the identity (`GAUGE`). What the match cannot
    tell (say a rotation of a round distribution) stays as it was, and is part of ``label_map.covariance``. If the
    survey's stars are not mixed as the prior says, the map is wrong by the difference, unless anchors tell otherwise.

    Args:
        label_map: set in place: ``weight`` and ``covariance``.
        fitted: labels of bright stars ``(star, 3)`` float64.
        covariance: of their noise ``(star, 3, 3)``.
        density: the prior in scaled labels.
        anchors: stars with known labels.
        free_mix: let the survey differ from the prior by a shift and a stretch in Teff and [M/H] (`MIX`, `STRETCH`),
            so that mismatch is shared between map and mix.
        effective: stars that the match is worth: the prior is not known better than so many stars would tell.

    Returns:
        mean ln likelihood before and after, and the shift of the mix (K, dex).
    """
    scale = label_map.scale
    u = (fitted - label_map.centre) / scale
    exponents = label_map.exponents
    held = u.clamp(label_map.low, label_map.high)
    x, dx = features(held, exponents), slopes(held, exponents)
    noise = covariance / (scale[:, None] * scale)
    order = exponents.sum(dim=1).clamp_min(1).double()
    gauge = torch.tensor(GAUGE, dtype=torch.float64) / scale / order[:, None].sqrt()
    places = torch.tensor([0, 2])
    mix_scale = torch.tensor(MIX, dtype=torch.float64) / scale[places]
    eye = torch.eye(FREE, dtype=torch.float64)
    middle = (density.weights[:, None] * density.means).sum(dim=0)
    if anchors is not None:
        au = (anchors.fitted - label_map.centre) / scale
        ax = features(au.clamp(label_map.low, label_map.high), exponents)
        goal = (anchors.labels - label_map.centre) / scale
        spread = anchors.covariance.diagonal(dim1=1, dim2=2) / scale**2 + (anchors.errors / scale) ** 2

    def likelihood(weight: Tensor, mix: Tensor) -> Tensor:
        jacobian = eye + torch.einsum("rfk,fj->rjk", dx, weight)
        mapped = u + x @ weight
        squeeze = torch.ones(FREE, dtype=torch.float64).index_put((places,), torch.exp(-mix[2:] * STRETCH))
        shift = torch.zeros(FREE, dtype=torch.float64).index_put((places,), mix[:2] * mix_scale)
        mapped = middle + (mapped - middle - shift) * squeeze
        whole = jacobian * squeeze[:, None]
        moved = whole @ noise @ whole.transpose(1, 2)
        # a star far outside the prior is an outlier of one more, broad, component
        inner = torch.logaddexp(density.log(mapped, moved), torch.tensor(-12.0, dtype=torch.float64))
        return (inner + torch.linalg.slogdet(whole).logabsdet).mean()

    def loss(every: Tensor) -> Tensor:
        weight, mix = every[: x.shape[1] * FREE].view(-1, FREE), every[x.shape[1] * FREE :]
        total = -effective * likelihood(weight, mix if free_mix else mix.detach() * 0)
        total = total + 0.5 * (weight / gauge).square().sum() + 0.5 * mix.square().sum()
        if anchors is not None:
            total = total + 0.5 * ((au + ax @ weight - goal).square() / spread).sum()
        return total

    every = torch.zeros(x.shape[1] * FREE + 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([every], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(every)
        value.backward()
        return value

    optimiser.step(closure)
    best = every.detach()
    count = x.shape[1]
    weight, mix = best[: count * FREE].view(-1, FREE), best[count * FREE :]
    hessian = torch.autograd.functional.hessian(loss, best)
    inverse = torch.linalg.pinv(torch.as_tensor(hessian), hermitian=True)[: count * FREE, : count * FREE]
    blocks = inverse.view(count, FREE, count, FREE)
    label_map.weight.copy_(weight)
    label_map.covariance.copy_(torch.stack([blocks[:, k, :, k] for k in range(FREE)]))
    nothing = torch.zeros(4, dtype=torch.float64)
    shift = mix[:2] * mix_scale * scale[places]
    return {
        "log_likelihood_before": float(likelihood(torch.zeros_like(weight), nothing)),
        "log_likelihood": float(likelihood(weight, mix)),
        "mix_teff": float(shift[0]),
        "mix_m_h": float(shift[1]),
    }


def main_sequence(label_map: LabelMap, labels: Tensor, covariance: Tensor) -> Tensor:
    """Fit log g of mapped labels: a parabola in Teff, a line in [M/H], and the width that noise does not explain.

    Args:
        label_map: from these labels to the star's.
        labels: as the emulator fits them, ``(star, 3)``.
        covariance: of their noise ``(star, 3, 3)``.

    Returns:
        constant, slope and curvature in scaled Teff, slope in scaled [M/H], width (dex): ``(5,)``.
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
