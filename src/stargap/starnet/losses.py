"""What Cycle-StarNet is trained on: masked distances, adversarial losses, their sum (paper section 3.2, eq. 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from stargap.starnet.critics import Critics
from stargap.starnet.layers import cast_once
from stargap.starnet.network import Cycles, CycleStarNet
from stargap.starnet.training_settings import Adversarial

__all__ = [
    "PUBLISHED_WEIGHTS",
    "Batch",
    "CycleTask",
    "critic_loss",
    "distance",
    "energy_distance",
    "generator_loss",
]

PUBLISHED_WEIGHTS = (3.0, 9.0, 1.0)
"""l1, l2, l3 of eq. 7: of the synthetic distances, of the observed ones, of the adversarial losses."""

LEAST_OBSERVED_SIGMA = 0.005
SYNTHETIC_SIGMA = 0.01


@dataclass(frozen=True)
class Batch:
    """Unpaired spectra of both domains, as many of one as of the other; every array is ``(row, pixel)``.

    The losses raise ``observed_sigma`` to 0.005 and cut it nowhere (METHOD section 5); the sigma of synthetic spectra
    is 0.01. What flux and sigma hold where a pixel is not good does not matter, NaN included. Without
    ``synthetic_good`` every synthetic pixel is good. ``paired (row,)`` tells which synthetic spectra have the labels
    that are known of the observed star; None where no star's are.

    Example:
        >>> batch = Batch(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
        >>> len(batch), batch.to(torch.device("cpu")).observed.shape
        (2, torch.Size([2, 3]))
    """

    synthetic: Tensor
    observed: Tensor
    observed_sigma: Tensor
    observed_good: Tensor
    synthetic_good: Tensor | None = None
    paired: Tensor | None = None

    def __len__(self) -> int:
        return len(self.synthetic)

    def __getitem__(self, rows: slice) -> Batch:
        return self._with(lambda array: array[rows])

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        return self._with(lambda array: array.to(device))

    def joined(self, other: Batch) -> Batch:
        """Return the rows of both batches; neither has ``synthetic_good`` or ``paired``."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return Batch(**{name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names})

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(array) for name, array in arrays.items() if array is not None})


def distance(one: Tensor, other: Tensor, sigma: Tensor | float, good: Tensor | None = None) -> Tensor:
    """Return the mean over the rows of sum good ((one - other) / sigma)^2 / sum good (paper section 3.2).

    The paper says "mean squared error weighted by 1/sigma and masked": read here as residuals divided by sigma, which
    is chi-square a good pixel, so that noise alone gives 1 at any S/N and any number of masked pixels. A row without a
    good pixel counts as 0.

    Args:
        one: ``(row, pixel)``.
        other: ``(row, pixel)``.
        sigma: ``(row, pixel)`` or a number.
        good: ``(row, pixel)`` bool; every pixel by default. Values of other pixels, NaN included, do not matter, and
            they get no gradient.

    Example:
        >>> good = torch.tensor([[True, True, False], [False, False, False]])
        >>> distance(torch.full((2, 3), torch.nan).where(~good, 1.0), torch.zeros(2, 3), 0.5, good).item()
        2.0
    """
    if good is None:
        return ((one - other) / sigma).square().mean(dim=1).mean()
    if isinstance(sigma, Tensor):
        sigma = torch.where(good, sigma, 1.0)
    residual = (torch.where(good, one, 0.0) - torch.where(good, other, 0.0)) / sigma
    return (residual.square().sum(dim=1) / good.sum(dim=1).clamp_min(1)).mean()


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the distance of the distributions of two samples ``(row, dimension)``, from 0 to about 1.

    ``(2 E|x - y| - E|x - x'| - E|y - y'|) / 2 E|x - y|`` (Szekely & Rizzo 2013), without bias, so that equal
    distributions give 0 on average and may give less; 0 for samples of fewer than two rows.

    Example:
        >>> points = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
        >>> round(energy_distance(points[:250], points[250:]).item(), 2)
        -0.0
        >>> round(energy_distance(points[:250], points[250:] + 100).item(), 2)
        0.99
    """
    count, others = len(one), len(other)
    if min(count, others) < 2:
        return one.new_zeros(())
    between = 2 * torch.cdist(one, other).mean()
    within = torch.cdist(one, one).sum() / (count * (count - 1))
    within_other = torch.cdist(other, other).sum() / (others * (others - 1))
    return (between - within - within_other) / between.clamp_min(1e-12)


def transfer(network: CycleStarNet, batch: Batch, *, noisy: bool = False) -> Cycles:
    """Return reconstructions, transfers and cycles of a batch, with bad pixels in-painted.

    With `noisy`, synthetic spectra have noise of their observed partners' sigma where these are good.
    """
    synthetic = batch.synthetic
    if noisy:
        noise = torch.randn_like(synthetic) * batch.observed_sigma
        synthetic = synthetic + torch.where(batch.observed_good, noise, 0.0)
    if batch.synthetic_good is not None:
        synthetic = network.fill(synthetic, batch.synthetic_good)
    return network.cycles(synthetic, network.fill(batch.observed, batch.observed_good))


def distances(batch: Batch, cycles: Cycles) -> dict[str, Tensor]:
    """Return the four reconstruction and cycle distances of section 3.2, by name.

    Where labels are known there is a fifth, between X_s->o and the observed spectrum of these stars: it ties the label
    scale, which the others leave free.
    """
    sigma = batch.observed_sigma.clamp_min(LEAST_OBSERVED_SIGMA)
    synthetic = (SYNTHETIC_SIGMA, batch.synthetic_good)
    observed = (sigma, batch.observed_good)
    terms = {
        "rec_synthetic": distance(cycles.synthetic, batch.synthetic, *synthetic),
        "rec_observed": distance(cycles.observed, batch.observed, *observed),
        "cycle_synthetic": distance(cycles.synthetic_cycle, batch.synthetic, *synthetic),
        "cycle_observed": distance(cycles.observed_cycle, batch.observed, *observed),
    }
    if batch.paired is not None:
        known = batch.observed_good & batch.paired[:, None]
        share = batch.paired.float().mean().clamp_min(1 / len(batch))
        terms["paired_observed"] = distance(cycles.to_observed, batch.observed, sigma, known) / share
    return terms


def weighted(terms: dict[str, Tensor], weights: tuple[float, float, float]) -> Tensor:
    """Return the sum of eq. 7."""
    of = {"synthetic": weights[0], "observed": weights[1]}
    parts = [
        term * (weights[2] if name.startswith("adversarial") else of[name.split("_")[1]])
        for name, term in terms.items()
    ]
    return torch.stack(parts).sum()


def generator_loss(
    network: CycleStarNet,
    critics: Critics,
    batch: Batch,
    weights: tuple[float, float, float] = PUBLISHED_WEIGHTS,
    *,
    cycles: Cycles | None = None,
    adversarial: Adversarial = "cross-entropy",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the encoders and decoders, and its terms without gradients (eq. 7).

    The paper's adversarial terms are the critics' cross-entropy, which critics minimise and generators maximise. The
    generators' part is taken in its non-saturating form (Goodfellow et al. 2014): they minimise H(1, C(fake)), the
    fakes being X_o->s with the z_sh of the observed spectrum and X_s->o with the z_sh of the synthetic and the z_sp
    of the observed one. Reconstructions, the critics' real examples, are left to their distances. No gradient reaches
    the critics.

    Args:
        network: the network.
        critics: its critics.
        batch: spectra.
        weights: l1, l2, l3.
        cycles: what the network makes of the batch, if that is known already.
        adversarial: see `Adversarial`.

    Example:
        >>> network, critics = CycleStarNet(), Critics()
        >>> ones = torch.ones(2, 2901)
        >>> total, terms = generator_loss(network, critics, Batch(ones, ones, 0.1 * ones, ones > 0))
        >>> sorted(terms)[:3]
        ['adversarial_observed', 'adversarial_synthetic', 'cycle_observed']
    """
    made = cycles or transfer(network, batch)
    trained = [parameter for parameter in critics.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with cast_once(critics, network.precision):
            logits = {
                "adversarial_synthetic": critics.synthetic(network.inputs(made.to_synthetic), made.z_observed),
                "adversarial_observed": critics.observed(
                    network.inputs(made.to_observed), torch.cat([made.z_synthetic, made.z_split], dim=2)
                ),
            }
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    terms = distances(batch, made) | {name: _fooling(logit, adversarial) for name, logit in logits.items()}
    return weighted(terms, weights), {name: term.detach() for name, term in terms.items()}


def critic_loss(
    network: CycleStarNet,
    critics: Critics,
    batch: Batch,
    cycles: Cycles | None = None,
    *,
    adversarial: Adversarial = "cross-entropy",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the critics, and its terms without gradients (section 3.2).

    L_adv,s = H(1, C_s(X_s->s, z_sh)) + H(0, C_s(X_o->s, z_sh)) and the same in the observed domain, where C_o sees
    (z_sh, z_sp); H is the binary cross-entropy of logits. No gradient reaches the network.

    Args:
        network: the network.
        critics: its critics.
        batch: spectra.
        cycles: what the network makes of the batch, if that is known already.
        adversarial: see `Adversarial`.
    """
    if cycles is None:
        with torch.no_grad():
            cycles = transfer(network, batch)
    made = Cycles(*(part.detach() for part in cycles))
    rows = len(batch)
    with torch.no_grad():
        synthetic = network.inputs(torch.cat([made.synthetic, made.to_synthetic]))
        observed = network.inputs(torch.cat([made.observed, made.to_observed]))
        shared = torch.cat([made.z_synthetic, made.z_observed])
        swapped = torch.cat([made.z_observed, made.z_synthetic])
        both = torch.cat([swapped, torch.cat([made.z_split, made.z_split])], dim=2)
    terms = {}
    for name, logit in (
        ("critic_synthetic", critics.synthetic(synthetic, shared)),
        ("critic_observed", critics.observed(observed, both)),
    ):
        terms[name] = _telling(logit[:rows], logit[rows:], adversarial)
    return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}


def _fooling(logit: Tensor, kind: Adversarial) -> Tensor:
    """Return the generators' loss of the critics' logits of fakes."""
    if kind == "hinge":
        return -logit.mean()
    return (logit - 1).square().mean() if kind == "least-squares" else nn.functional.softplus(-logit).mean()


def _telling(real: Tensor, fake: Tensor, kind: Adversarial) -> Tensor:
    """Return a critic's loss of its logits of real examples and of fakes."""
    if kind == "hinge":
        return nn.functional.relu(1 - real).mean() + nn.functional.relu(1 + fake).mean()
    if kind == "least-squares":
        return (real - 1).square().mean() + fake.square().mean()
    return nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()


class CycleTask(nn.Module):
    """A network, its critics and their losses: what a training loop needs.

    `critic_loss` of the batch that `generator_loss` had last takes that call's transfers, made before the generators
    moved; for any other batch it computes them.

    Args:
        network: the network.
        critics: its critics; new ones by default.
        weights: l1, l2, l3 of eq. 7.
        adversarial: see `Adversarial`.
        noisy: give synthetic spectra the noise of the observed ones; distances are to the noiseless ones.

    Example:
        >>> task = CycleTask(CycleStarNet())
        >>> ones = torch.ones(2, 2901)
        >>> batch = Batch(ones, ones, 0.1 * ones, ones > 0)
        >>> task.generator_loss(batch)[0].backward()
        >>> task.critic_loss(batch)[0].backward()
        >>> sorted(task.validation_score(batch))[-1]
        'score'
    """

    def __init__(
        self,
        network: CycleStarNet,
        critics: Critics | None = None,
        *,
        weights: tuple[float, float, float] = PUBLISHED_WEIGHTS,
        adversarial: Adversarial = "cross-entropy",
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.critics = critics or Critics(network.settings)
        self.weights, self.adversarial, self.noisy = weights, adversarial, noisy
        self._last: tuple[Batch, Cycles] | None = None

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that `generator_loss` trains."""
        return self.network.generator_parameters()

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that `critic_loss` trains."""
        return self.critics.critic_parameters()

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return total and terms (see `stargap.starnet.losses.generator_loss`)."""
        return self.loss_of(batch, transfer(self.network, batch, noisy=self.noisy))

    def loss_of(self, batch: Batch, cycles: Cycles) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `generator_loss` of a batch whose transfers are known."""
        self._last = batch, Cycles(*(part.detach() for part in cycles))
        return generator_loss(
            self.network, self.critics, batch, self.weights, cycles=cycles, adversarial=self.adversarial
        )

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return total and terms (see `stargap.starnet.losses.critic_loss`)."""
        cycles = self.transfers(batch)
        self._last = None
        return critic_loss(self.network, self.critics, batch, cycles, adversarial=self.adversarial)

    @torch.no_grad()
    def transfers(self, batch: Batch) -> Cycles:
        """Return the transfers of a batch without gradients, those that `generator_loss` made if it had it last."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, transfer(self.network, batch, noisy=self.noisy)
        return self._last[1]

    @torch.no_grad()
    def validation_score(self, batch: Batch) -> dict[str, float]:
        """Return the distances, two gaps between the domains, and ``score``: lower is better, no label is used.

        ``gap_latent`` is the energy distance between the z_sh of synthetic and of observed spectra, ``gap_observed``
        that between X_s->o and X_o->o. score = (1 + gap_latent + gap_observed) (l1 (rec + cycle) + l2 (rec + cycle)).
        Adversarial losses are left out because they measure the critics' strength as much as the network's. Distances
        alone would choose a network that copies each domain and transfers nothing; the gaps see that and, unlike a
        trained classifier, are the same yardstick at every step. As a factor, a gap of 0.01 weighs as much as
        distances larger by 1 %. Both domains must follow the same labels (section 3.3.2), and the gaps' scatter falls
        with the number of rows: take a few hundred.
        """
        made = transfer(self.network, batch, noisy=self.noisy)
        terms = distances(batch, made)
        gaps = {
            "gap_latent": energy_distance(made.z_synthetic.flatten(1).float(), made.z_observed.flatten(1).float()),
            "gap_observed": energy_distance(made.to_observed, made.observed),
        }
        score = weighted(terms, self.weights) * (1 + sum(gaps.values()))
        return {name: float(value) for name, value in (terms | gaps | {"score": score}).items()}
