"""Make docs/results/transfer.md: transfers trained and tested on a simulated survey whose truth is known.

Every product lies in a work folder; what is there is not made again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from nature_grid import interpolate_nature, leave_out_errors
from numpy.typing import NDArray
from pages import table
from transfer_diagnostics import block_mask, cycle_table, leakage, mixing, swap_effect
from transfer_figures import correction_figure, recovery_by_level_figure, split_figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.stars import prepared_stars

from stargap import __version__
from stargap.checkpoints import load_best, read_metrics
from stargap.figures.transfer import losses_figure, residual_figure, tsne_figure
from stargap.fit.domains import Transfer, fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.mock.instrument import CHUNK, Truth, simulate_prepared
from stargap.mock.nature import nature_labels
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.prepare import Prepared
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.spectra.smoother import normalise
from stargap.starnet.losses import CycleTask
from stargap.starnet.network import CycleStarNet
from stargap.starnet.pairs import PairedSource, SyntheticSpectra
from stargap.starnet.training import train
from stargap.starnet.training_settings import TrainingSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.statistics import mean_residual, robust_scatter
from stargap.theory.emulator import Emulator
from stargap.theory.grids import read_hdf5_grid
from stargap.theory.label_prior import draw_training_labels
from stargap.theory.train_emulator import Training, fit_emulator
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual.fits import fit_spectra
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.model import LabelMap, ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.train import match_labels, train_residual
from stargap.validation.embedding import tsne

LEVELS = {"mild": "marcs_ts_base", "hard": "marcs_ts_nocah"}
MIXES = ("matched", "galactic")
TRAIN_SEED, TEST_SEED, NETWORK_SEED = 101, 202, 0
TEST_STARS = 5_120
PRIOR_DRAWS = 110_000
BINS = ((50.0, 1e9), (20.0, 50.0), (5.0, 20.0))
ANCHOR_SEED, ANCHORS, ANCHOR_ERRORS = 303, 20, (60.0, 0.07, 0.08)
"""Anchor stars and their errors: the noise between two good literature sources."""
PICTURED = 1_000
REFERENCE = {
    ("hard", "matched"): (400, 10_000),
    ("hard", "galactic"): (400,),
    ("mild", "matched"): (400,),
    ("mild", "galactic"): (400,),
}
"""Iterations of the published network at each level and mix: 400 take about as long as the default's training, 10,000
show it as many spectra as the default sees."""
REFERENCE_STARS = 512
"""Test stars that it is scored on."""
ABLATION_STARS = 2_048
"""Test stars that ablations and anchors are scored on."""
Array = NDArray[np.float64]
Stars = tuple[Truth, Prepared, torch.Tensor]


def parameters(emulator: Emulator) -> Parameters:
    """All labels free but [a/M], which nature and model share."""
    lower, upper = list(emulator.card.lower), list(emulator.card.upper)
    lower[3] = upper[3] = 0.0
    return Parameters(tuple(lower), tuple(upper), {"a_m": 0.0})


@dataclass
class Work:
    """What has been made so far, in one folder."""

    folder: Path
    data: Path
    spectra: int
    settings: ResidualSettings

    def emulator(self, name: str) -> Emulator:
        """Train, or read, an emulator: nature at R = 2600 or 1800, or of one of the grids."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            grid = self.data / "grid"
            if name in ("nature", "oracle"):
                pair = (read_hdf5_grid(grid / f"marcs_ts_{which}.h5") for which in ("alt", "base"))
                resolution = 2600.0 if name == "nature" else 1800.0
                recipe = Training(resolution=resolution, hidden=160, steps=3000, patience=3000)
                emulator, _ = fit_emulator(interpolate_nature(*pair), recipe)
            else:
                emulator, _ = fit_emulator(read_hdf5_grid(grid / f"{name}.h5"))
            emulator.save(path)
        return Emulator.load(path)

    def training(self, mix: str) -> PreparedSpectra:
        """Simulate, or map, the training survey of one mix."""
        folder = self.folder / f"spectra-{mix}"
        if not (folder / "done").exists():
            began = time.monotonic()
            labels, active = nature_labels(self.spectra, seed=TRAIN_SEED, mix=mix)
            spectra = simulate_prepared(labels, active, self.emulator("nature"), seed=TRAIN_SEED)
            spectra.save(folder)
            (folder / "done").write_text(json.dumps({"seconds": time.monotonic() - began}))
        return PreparedSpectra.load(folder)

    def test(self, mix: str) -> list[Stars]:
        """Simulate test stars, prepared in full, with their noiseless spectra."""
        labels, active = nature_labels(TEST_STARS, seed=TEST_SEED, mix=mix)
        return list(prepared_stars(labels, active, self.emulator("nature"), seed=TEST_SEED))

    def residual(self, level: str, mix: str, variant: str = "default") -> ResidualTransfer:
        """Train, or read, a residual transfer; `variant` is one of `ABLATIONS`."""
        name = f"residual-{level}-{mix}-{variant}"
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            change, options = ABLATIONS[variant]
            settings = self.settings.model_copy(update=change)
            if variant in REMATCHED:
                return self.rematched(level, mix, settings)
            emulator = self.emulator(LEVELS[level])
            transfer = ResidualTransfer(
                emulator,
                degree=settings.degree,
                map_degree=settings.map_degree,
                split=options.get("split", True),
                alpha=0.0,
            )
            prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
            told = train_residual(
                transfer, self.training(mix), prior, parameters(emulator), settings, self.folder / name, progress=False
            )
            if told.stopped == "signal":
                raise SystemExit(130)
            (self.folder / f"{name}.json.log").write_text(json.dumps({"seconds": told.seconds, **told.reports}))
            transfer.save(
                path,
                training_data=f"{self.spectra} simulated spectra ({mix} mix, nature of other physics)",
                settings=settings.model_dump(),
                scores={"seconds": told.seconds},
                simulated=True,
            )
        return ResidualTransfer.load(path)

    def rematched(self, level: str, mix: str, settings: ResidualSettings) -> ResidualTransfer:
        """Return the default transfer with its last stage, the label map, done again."""
        transfer = self.residual(level, mix)
        degree = LabelMap(settings.map_degree)
        for side in ("low", "high"):
            getattr(degree, side).copy_(getattr(transfer.label_map, side))
        transfer.label_map = degree
        transfer.sequence.zero_()
        labels, covariance = self.sample(transfer, level, mix)
        prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
        match_labels(transfer, labels, covariance, prior, settings)
        return transfer

    def sample(self, transfer: ResidualTransfer, level: str, mix: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return fits of a random sample of training spectra before the label map, ``(star, 4)`` and covariances."""
        path = self.folder / f"sample-{level}-{mix}.npz"
        if not path.exists():
            spectra = self.training(mix)
            training = split_rows(len(spectra), 0)["training"]
            rows = np.sort(np.random.default_rng(ANCHOR_SEED).permutation(training)[: self.settings.match_stars])
            fits = fit_spectra(spectra, rows, transfer, parameters(transfer.emulator))
            np.savez(path, labels=fits.labels.numpy(), covariance=fits.covariance.numpy())
        with np.load(path) as file:
            return torch.as_tensor(file["labels"]), torch.as_tensor(file["covariance"])

    def source(self, level: str, mix: str) -> PairedSource:
        """Return unpaired training spectra of both domains."""
        labels = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
        synthetic = SyntheticSpectra(self.emulator(LEVELS[level]), labels)
        made = (PRIOR_DRAWS, f"{level} prior {TRAIN_SEED}")
        return PairedSource(self.training(mix), synthetic, made=made, validation=1024)

    def reference(self, level: str, mix: str, iterations: int) -> tuple[StarnetTransfer, dict[str, float]]:
        """Train, or prolong, the published network; the best state up to `iterations` is returned."""
        folder = self.folder / f"reference-{level}-{mix}-{iterations}"
        emulator = self.emulator(LEVELS[level])
        network = CycleStarNet(seed=NETWORK_SEED)
        network.precision = torch.bfloat16
        source = self.source(level, mix)
        first = source.batch(0, 512)
        network.standardise(first.synthetic, first.observed, first.observed_good)
        task = CycleTask(network)
        settings = TrainingSettings(iterations=iterations, validate_every=400, checkpoint_every=400, log_every=50)
        if not (folder / "done").exists():
            began = time.monotonic()
            result = train(task, source, settings, folder, progress=False)
            if result.stopped == "signal":
                raise SystemExit(130)
            (folder / "done").write_text(json.dumps({"seconds": time.monotonic() - began}))
        scores = load_best(task, folder)
        return StarnetTransfer(network, emulator), scores


ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "flat error floor": ({"gauge_rounds": 0}, {}),
    "linear correction": ({"degree": 1}, {}),
    "no split numbers": ({}, {"split": False}),
    "rival: a parabola alone": ({"gauge_rounds": 0, "match": False, "sequence": False}, {"split": False}),
    "no label map": ({"match": False}, {}),
    "no main sequence": ({"sequence": False}, {}),
    "parabola label map": ({"map_degree": 2}, {}),
}
"""What each variant changes of the settings, and of the transfer."""
REMATCHED = ("no label map", "no main sequence", "parabola label map")
"""Variants that share the default's correction."""


@dataclass(frozen=True)
class Scored:
    """One method on the test stars: published labels and errors, residuals on held-out pixels, fits a second."""

    labels: Array
    errors: Array
    residual: Array
    noiseless: Array
    rate: float
    split: Array


Fit = Callable[[Prepared], tuple[Array, Array, torch.Tensor, Array]]


def plain(emulator: Emulator, floor: float) -> Fit:
    """Fit an emulator alone, as `stargap measure` does without a transfer."""

    def fit(star: Prepared) -> tuple[Array, Array, torch.Tensor, Array]:
        result = fit_labels(
            star, EmulatorModel(emulator, star), emulator, parameters(emulator), error_floor=floor, starts=1
        )
        return result.labels.numpy(), result.errors.numpy(), result.model, np.zeros((len(star.flux), 0))

    return fit


def through(transfer: Transfer) -> Fit:
    """Fit both domains."""

    def fit(star: Prepared) -> tuple[Array, Array, torch.Tensor, Array]:
        slots = 8 if isinstance(transfer, StarnetTransfer) else 32
        result = fit_domains(star, transfer, parameters(transfer.emulator), starts=1, slots=slots)
        observed = result.observed
        total = torch.hypot(observed.errors, result.systematic)
        return observed.labels.numpy(), total.numpy(), observed.model, result.nuisance.numpy()

    return fit


def score(stars: list[Stars], fit: Fit) -> Scored:
    """Fit test stars twice: with all pixels for the labels, without blocks of 50 A for the residuals in these."""
    held = torch.as_tensor(block_mask(stars[0][1].flux.shape[1]))
    labels, errors, split, residual, noiseless = [], [], [], [], []
    spent = 0.0
    for _, star, clean in stars:
        began = time.perf_counter()
        found, error, _, numbers = fit(star)
        spent += time.perf_counter() - began
        labels.append(found)
        errors.append(error)
        split.append(numbers)
        _, _, model, _ = fit(replace(star, good=star.good & ~held))
        out = star.good & held
        for spectrum, into in ((model, residual), (clean, noiseless)):
            into.append(mean_residual(star.flux.numpy(), spectrum.numpy(), star.sigma.numpy(), out.numpy()))
    parts = (np.concatenate(some) for some in (labels, errors, residual, noiseless))
    return Scored(*parts, rate=sum(map(len, labels)) / spent, split=np.concatenate(split))


def scored(work: Work, name: str, mix: str, make: Callable[[], Fit]) -> Scored:
    """Score a method, or read its scores."""
    path = work.folder / f"scores-{name}-{mix}.npz"
    if not path.exists():
        stars = work.test(mix)
        parts = {"reference": REFERENCE_STARS, "ablation": ABLATION_STARS, "anchors": ABLATION_STARS}
        few = next((size for word, size in parts.items() if word in name), None)
        found = score(stars if few is None else stars[: few // CHUNK], make())
        np.savez(path, **vars(found))
    with np.load(path) as file:
        values = {key: file[key] for key in file.files}
    return Scored(**{**values, "rate": float(values["rate"])})


def cells(found: Scored, truth: Truth, low: float, high: float) -> list[str]:
    """Median and scatter of labels minus truth in a bin of S/N in r."""
    rows = (truth.snr_r >= low) & (truth.snr_r < high) & (np.arange(len(truth.rv)) < len(found.labels))
    truth = part_of(truth, rows)
    rows = rows[: len(found.labels)]
    out = []
    for place, digits in enumerate((0, 3, 3)):
        off = found.labels[rows, place] - truth.labels[:, place]
        off = off[np.isfinite(off)]
        out.append(f"{np.median(off):+.{digits}f} / {robust_scatter(off):.{digits if digits else 1}f}")
    return out


def pulls(found: Scored, truth: Truth) -> str:
    """Standard deviation of (value - truth) / error over all S/N, without the few beyond 5."""
    out = []
    for place in range(3):
        pull = (found.labels[:, place] - truth.labels[: len(found.labels), place]) / found.errors[:, place]
        pull = pull[np.isfinite(pull)]
        out.append(f"{pull[np.abs(pull - np.median(pull)) < 5].std():.2f}")
    return ", ".join(out)


def lost(found: Scored) -> int:
    """Stars without labels."""
    return int((~np.isfinite(found.labels[:, :3]).all(axis=1)).sum())


def results_table(rows: dict[str, Scored], truth: Truth) -> str:
    """One row a method."""
    head = ["", "residual", "Teff (K), S/N > 50", "log g", "[M/H]", "Teff (K), S/N 5-20", "log g", "[M/H]", "pulls"]
    body = []
    for name, found in rows.items():
        ratio = np.nanmean(found.residual) / np.nanmean(found.noiseless)
        bins = [*cells(found, truth, *BINS[0]), *cells(found, truth, *BINS[2])]
        body.append([name, f"{np.nanmean(found.residual):.3f} ({ratio:.3f})", *bins, pulls(found, truth)])
    return table(head, body)


def closed(rows: dict[str, Scored], truth: Truth) -> str:
    """How much of the distance from before to oracle is closed, in bias and scatter, S/N > 50."""
    bright = truth.snr_r >= BINS[0][0]

    def both(found: Scored, place: int) -> tuple[float, float]:
        off = (found.labels - truth.labels)[bright, place]
        off = off[np.isfinite(off)]
        return abs(float(np.median(off))), float(robust_scatter(off))

    parts = []
    for place, name in enumerate(("Teff", "log g", "[M/H]")):
        before, after, best = (both(rows[key], place) for key in ("before", "default", "oracle"))
        shares = []
        for b, a, o in zip(before, after, best, strict=True):
            share = f"{(b - a) / (b - o):.0%}" if b > o and a < b else "none"
            shares.append(f"{share} ({b:.3g} to {a:.3g}, oracle {o:.2g})")
        parts.append(f"{name}: |bias| {shares[0]}, scatter {shares[1]}")
    return "; ".join(parts)


def anchored(work: Work, level: str, mix: str, count: int) -> tuple[Transfer, str]:
    """Match labels again with some anchor stars: simulated stars of S/N above 30 with literature-like errors."""
    transfer = work.residual(level, mix)
    identity = ResidualTransfer.load(work.folder / f"residual-{level}-{mix}-default.safetensors")
    identity.label_map.weight.zero_()
    identity.label_map.covariance.zero_()
    identity.sequence.zero_()
    labels, active = nature_labels(4 * 256, seed=ANCHOR_SEED, mix=mix)
    fitted, spread, known = [], [], []
    for truth, star, _ in prepared_stars(labels, active, work.emulator("nature"), seed=ANCHOR_SEED):
        result = fit_domains(star, identity, parameters(identity.emulator), starts=1).observed
        sound = np.isfinite(result.labels.numpy()).all(axis=1) & (truth.snr_r > 30)
        fitted.append(result.labels[sound, :3])
        spread.append(result.covariance[sound])
        known.append(truth.labels[sound, :3])
    errors = np.tile(ANCHOR_ERRORS, (count, 1))
    noise = np.random.default_rng(ANCHOR_SEED).normal(size=(count, 3))
    labels = AnchorLabels(np.concatenate(known)[:count] + errors * noise, errors)
    anchors = LabelledFits(torch.cat(fitted)[:count], torch.cat(spread)[:count], labels)
    found, covariance = work.sample(identity, level, mix)
    prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
    settings = work.settings.model_copy(update={"free_mix": True})
    told = match_labels(transfer, found, covariance, prior, settings, known=anchors)
    return transfer, f"{told['mix_teff']:+.0f} K, {told['mix_m_h']:+.2f} dex"


def methods(work: Work, level: str, mix: str) -> dict[str, Scored]:
    """Score every method of the main table."""
    emulator = work.emulator(LEVELS[level])
    oracle = work.emulator("oracle")
    name = f"{level}-{mix}"

    def reference(iterations: int) -> Callable[[], Fit]:
        return lambda: through(work.reference(level, mix, iterations)[0])

    rows = {"before": scored(work, f"{name}-before", mix, lambda: plain(emulator, MeasureSettings().floor))}
    for iterations in REFERENCE[level, mix]:
        title = f"reference, {iterations} iterations"
        rows[title] = scored(work, f"{name}-reference-{iterations}", mix, reference(iterations))
    rows["default"] = scored(work, f"{name}-default", mix, lambda: through(work.residual(level, mix)))
    rows["oracle"] = scored(work, "oracle", mix, lambda: plain(oracle, 0.004))
    rows["oracle with split numbers"] = scored(
        work, "oracle-split", mix, lambda: through(ResidualTransfer(oracle, alpha=0.0))
    )
    return rows


def seconds(path: Path) -> float:
    """Wall time written down in a file."""
    return float(json.loads(path.read_text())["seconds"])


def figures(work: Work, folder: Path) -> dict[str, str]:
    """Draw the pictures of the page; return numbers that belong to them."""
    folder.mkdir(parents=True, exist_ok=True)
    transfer = work.residual("hard", "matched")
    nature, synthetic = work.emulator("oracle"), work.emulator(LEVELS["hard"])
    stars = work.test("matched")
    truth = joined(stars)
    found = methods(work, "hard", "matched")

    def keep(figure: Any, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110)

    places = np.array([[3100.0, 5.0, 0.0, 0.0], [3500.0, 4.85, -0.2, 0.0], [3900.0, 4.7, 0.0, 0.0]])
    labels = torch.as_tensor(places)
    real, model = (normalise(e.flux(labels), torch.ones(3, STARGAP.support.size))[0] for e in (nature, synthetic))
    keep(
        correction_figure(STARGAP.wavelength, transfer.correction(labels).numpy(), (real / model - 1).numpy(), places),
        "correction",
    )
    keep(residual_figure(found["before"].residual, found["default"].residual, found["default"].noiseless), "residuals")
    panels = {name: (found[name].labels[:, :3], truth.labels[:, :3]) for name in ("before", "default", "oracle")}
    keep(recovery_by_level_figure(panels), "recovery")
    bright = truth.snr_r > 20
    known = np.stack([np.log(1800.0 / truth.resolution), np.full(len(truth.rv), np.nan), truth.rv - truth.rv_used], 1)
    keep(split_figure(found["default"].nuisance[bright], known[bright]), "split")
    run = work.folder / f"reference-hard-matched-{REFERENCE['hard', 'matched'][-1]}"
    keep(losses_figure(read_metrics(run / "metrics.jsonl")), "losses")

    picked = np.flatnonzero(truth.snr_r > 15)[:PICTURED]
    flux = torch.cat([star.flux for _, star, _ in stars])[picked]
    good = torch.cat([star.good for _, star, _ in stars])[picked]
    sigma = torch.cat([star.sigma for _, star, _ in stars])[picked]
    weight = torch.cat([star.weight for _, star, _ in stars])[picked]
    drawn = torch.as_tensor(draw_training_labels(PICTURED, alpha=0.0, seed=TEST_SEED))
    spectra = normalise(synthetic.flux(drawn), weight)[0]
    fitted = transfer_labels(transfer, drawn)
    moved = normalise(synthetic.flux(fitted), weight)[0] * (1 + transfer.correction(fitted))
    noise = torch.randn(flux.shape, generator=torch.Generator().manual_seed(TEST_SEED)) * sigma
    seen = [np.where(good, some, 1.0) for some in (flux, spectra + noise, moved + noise)]
    before, after = ({"observed": seen[0], name: seen[k]} for k, name in ((1, "synthetic"), (2, "transferred")))
    network = work.reference("hard", "matched", REFERENCE["hard", "matched"][-1])[0].network
    with torch.no_grad():
        halves = flux.split(100), good.split(100)
        observed = torch.cat([network.encode_observed(*pair)[0] for pair in zip(*halves, strict=True)])
        modelled = torch.cat([network.encode_synthetic(part) for part in spectra.split(100)])
    latent = {"observed": observed.flatten(1).numpy(), "synthetic": modelled.flatten(1).numpy()}
    keep(tsne_figure(tsne(before), tsne(after), tsne(latent)), "tsne")
    return {
        "before": f"{mixing(seen[0], seen[1]):.2f}",
        "after": f"{mixing(seen[0], seen[2]):.2f}",
        "latent": f"{mixing(*latent.values()):.2f}",
    }


def transfer_labels(transfer: ResidualTransfer, labels: torch.Tensor) -> torch.Tensor:
    """Return the labels at which the emulator makes stars of these ``(star, 4)`` labels: the map's inverse."""
    given = labels.clone()
    for _ in range(30):
        given[:, :3] += labels[:, :3] - transfer.label_map(given)
        given = torch.minimum(torch.maximum(given, transfer.emulator.lower), transfer.emulator.upper)
    return given


def part_of(truth: Truth, rows: NDArray[np.bool_]) -> Truth:
    """Truth of some rows."""
    return Truth(**{name: getattr(truth, name)[rows] for name in Truth.__dataclass_fields__})


def joined(stars: list[Stars]) -> Truth:
    """Truth of all chunks."""
    return Truth(**{k: np.concatenate([getattr(t, k) for t, _, _ in stars]) for k in Truth.__dataclass_fields__})


def ablated(work: Work, name: str) -> Fit:
    """Return the fit of a variant."""
    return through(work.residual("hard", "matched", name))


def leaks(work: Work) -> str:
    """Return the leakage table: labels regressed on split numbers, and labels refitted with another star's."""
    stars = work.test("matched")[: REFERENCE_STARS // CHUNK]
    truth = joined(stars)
    rows = []
    transfer = work.residual("hard", "matched")
    published = transfer_copy(work, "hard", "matched", split=False)
    iterations = REFERENCE["hard", "matched"][-1]
    reference = work.reference("hard", "matched", iterations)[0]
    order = np.random.default_rng(TEST_SEED).permutation(CHUNK)
    numbers, own, swapped = [], [], []
    numbers_r, own_r, swapped_r = [], [], []
    for _, star, _ in stars:
        result = fit_domains(star, transfer, parameters(transfer.emulator), starts=1)
        columns = transfer.nuisance_columns(result.observed.model)
        for split, into in ((result.nuisance, own), (result.nuisance[order], swapped)):
            flux = star.flux - (columns * split.float().nan_to_num()[:, :, None]).sum(dim=1)
            refit = fit_domains(replace(star, flux=flux), published, parameters(transfer.emulator), starts=1)
            into.append(refit.observed.labels[:, :3].numpy())
        numbers.append(result.nuisance.numpy())
        model = reference.model(star)
        numbers_r.append(reference.network.encode_observed(star.flux, star.good)[1].flatten(1).detach().numpy())
        start = fit_labels(star, model, reference.emulator, parameters(reference.emulator), starts=1).labels
        own_r.append(start[:, :3].numpy())
        model = reference.model(star)
        model.split = model.split[order]
        moved = fit_labels(star, model, reference.emulator, parameters(reference.emulator), start=start)
        swapped_r.append(moved.labels[:, :3].numpy())
    both = (("default", numbers, own, swapped), (f"reference, {iterations} iterations", numbers_r, own_r, swapped_r))
    for name, z, a, b in both:
        sound = np.isfinite(np.concatenate(z)).all(axis=1)
        told = leakage(truth.labels[sound, :3], np.concatenate(z)[sound])
        shift = swap_effect(np.concatenate(a), np.concatenate(b))
        moves = [f"{move.median:+.3g} / {move.scatter:.3g}" for move in shift.values()]
        rows.append([name, *[f"{value:.2f}" for value in told.values()], *moves])
    head = ["", "R2 Teff", "R2 log g", "R2 [M/H]", "swap Teff (K)", "swap log g", "swap [M/H]"]
    return table(head, rows)


def cycles(work: Work) -> str:
    """Return the cycle-consistency table of the published network, and the default's: labels to spectra to labels."""
    rows = []
    for iterations in REFERENCE["hard", "matched"]:
        network = work.reference("hard", "matched", iterations)[0].network
        told = cycle_table(network, work.source("hard", "matched").validation())
        rows.append([f"reference, {iterations} iterations", *[f"{value:.3f}" for value in told.values()]])
    return table(["mean abs residual / sigma", *told], rows)


def closure(work: Work) -> str:
    """Return the scatter of labels of the default's own spectra, synthetic to observed to labels, and its pulls."""
    transfer = work.residual("hard", "matched")
    stars = work.test("matched")[: REFERENCE_STARS // CHUNK]
    drawn = torch.as_tensor(draw_training_labels(REFERENCE_STARS, alpha=0.0, seed=TEST_SEED))
    generator = torch.Generator().manual_seed(TEST_SEED)
    off, pull = [], []
    for (_, star, _), labels in zip(stars, drawn.split(CHUNK), strict=True):
        inner = transfer_labels(transfer, labels)
        model = transfer.model(star)
        parts = [
            model(inner[part], torch.zeros(len(part), 1, 4).double(), part)[0] for part in torch.arange(CHUNK).split(32)
        ]
        noise = torch.randn(star.flux.shape, generator=generator) * star.sigma
        result = fit_domains(replace(star, flux=torch.cat(parts) + noise), transfer, parameters(transfer.emulator))
        difference = (result.observed.labels - labels)[:, :3].numpy()
        off.append(difference)
        total = torch.hypot(result.observed.errors, result.systematic)[:, :3]
        pull.append(difference / total.numpy())
    apart, scaled = np.concatenate(off), np.concatenate(pull)
    sound = np.isfinite(apart).all(axis=1)
    texts = []
    for k, name in enumerate(("Teff", "log g", "[M/H]")):
        middle, spread = np.median(apart[sound, k]), robust_scatter(apart[sound, k])
        texts.append(f"{name} {middle:+.3g} / {spread:.3g} (pulls {robust_scatter(scaled[sound, k]):.2f})")
    return ", ".join(texts)


def transfer_copy(work: Work, level: str, mix: str, *, split: bool) -> ResidualTransfer:
    """Return a trained transfer without its split numbers."""
    transfer = ResidualTransfer.load(work.folder / f"residual-{level}-{mix}-default.safetensors")
    if not split:
        transfer.split_scale = torch.zeros(0)
    return transfer


def nodes(work: Work) -> str:
    """Return how well nature is interpolated: errors of labels at nodes left out."""
    alternate, base = (read_hdf5_grid(work.data / "grid" / f"marcs_ts_{name}.h5") for name in ("alt", "base"))
    labels, off = leave_out_errors(alternate, base)
    return (
        f"{np.abs(off).mean():.2%} in flux on average over {len(labels)} nodes, largest {np.abs(off).mean(1).max():.2%}"
    )


def page(work: Work, folder: Path) -> str:
    """Return the document."""
    told = figures(work, folder)
    sections = []
    for level, mix in product(LEVELS, MIXES):
        truth = joined(work.test(mix))
        rows = methods(work, level, mix)
        title = f"## {level.upper()}, labels {'mixed as the prior' if mix == 'matched' else 'mixed otherwise'}"
        body = [title, results_table(rows, truth)]
        body.append(f"Closed of the distance from *before* to *oracle* at S/N > 50: {closed(rows, truth)}.")
        body.append("Stars without labels: " + ", ".join(f"{name} {lost(found)}" for name, found in rows.items()) + ".")
        sections.append("\n\n".join(body))
    truth = joined(work.test("matched"))
    ablations = {name: scored(work, f"ablation-{name}", "matched", partial(ablated, work, name)) for name in ABLATIONS}
    mixed = joined(work.test("galactic"))
    rows = {"default": methods(work, "hard", "galactic")["default"]}
    shifts = []
    for count in (10, ANCHORS, 50):
        transfer, shift = anchored(work, "hard", "galactic", count)
        rows[f"{count} anchors"] = scored(work, f"anchors-{count}", "galactic", partial(through, transfer))
        shifts.append(f"{shift} with {count}")
    times = {
        f"{level}, {mix}": seconds(work.folder / f"residual-{level}-{mix}-default.json.log")
        for level, mix in product(LEVELS, MIXES)
    }
    networks = {
        f"{level}, {mix}, {count} iterations": float(
            read_metrics(work.folder / f"reference-{level}-{mix}-{count}" / "metrics.jsonl")["seconds"][-1]
        )
        for (level, mix), counts in REFERENCE.items()
        for count in counts
    }
    survey = {mix: seconds(work.folder / f"spectra-{mix}" / "done") for mix in MIXES}
    bright = int((truth.snr_r > 50).sum())
    text = Template((Path(__file__).parent / "transfer.template.md").read_text())
    return text.substitute(
        version=__version__,
        stars=TEST_STARS,
        reference_stars=REFERENCE_STARS,
        ablation_stars=ABLATION_STARS,
        bright=bright,
        faint=f"{np.mean(truth.snr_r < 20):.0%}",
        spectra=f"{work.spectra:,}",
        train_seed=TRAIN_SEED,
        test_seed=TEST_SEED,
        network_seed=NETWORK_SEED,
        survey=", ".join(f"{value:.0f} s ({name})" for name, value in survey.items()),
        sections="\n\n".join(sections),
        ablations=results_table(ablations, truth),
        anchors=results_table(rows, mixed),
        shifts="; ".join(shifts),
        leaks=leaks(work),
        cycles=cycles(work),
        closure=closure(work),
        mixing_latent=told["latent"],
        times=", ".join(f"{value:.0f} s ({name})" for name, value in times.items()),
        networks=", ".join(f"{value:.0f} s ({name})" for name, value in networks.items()),
        mixing_before=told["before"],
        mixing_after=told["after"],
        pictured=PICTURED,
        nodes=nodes(work),
        settings=json.dumps(work.settings.model_dump()),
    )


def main() -> None:
    """Make what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    parser.add_argument("--spectra", type=int, default=110_000)
    parser.add_argument("--only", default="", help="tasks such as residual:hard:matched, separated by commas")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Work(options.work, options.data, options.spectra, ResidualSettings())
    for task in filter(None, options.only.split(",")):
        kind, *rest = task.split(":", 3)
        began = time.monotonic()
        if kind == "spectra":
            work.training(rest[0])
        elif kind == "residual":
            work.residual(*rest)
        elif kind == "reference":
            work.reference(rest[0], rest[1], int(rest[2]))
        elif kind == "scores":
            methods(work, *rest)
        elif kind == "ablation":
            name = ":".join(rest)
            scored(work, f"ablation-{name}", "matched", partial(ablated, work, name))
        elif kind == "emulators":
            for name in ("nature", "oracle", *LEVELS.values()):
                work.emulator(name)
        print(task, f"{time.monotonic() - began:.0f} s", flush=True)
    if not options.only:
        folder = Path(__file__).parent
        (folder / "transfer.md").write_text(page(work, folder / "transfer"))


if __name__ == "__main__":
    main()
