"""Ways to close the gap on real stars, each cross-validated by star: used by `make_real_stars.py`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from make_lamost_transfer import anchor_rows, write_anchors

from stargap.errors import SpectrumError
from stargap.fit.domains import Transfer, fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.fit.prior import LabelPrior, fit_sequence
from stargap.measurement.star import BATCH, batch_velocity
from stargap.pixels import LOG_LAMBDA
from stargap.run.anchors import read_anchor_stars
from stargap.run.train import train
from stargap.run.train_settings import DataSettings, PriorSettings, TrainSettings
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, native_batch
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.readers.read import read_spectrum
from stargap.starnet.training import TrainingSettings
from stargap.starnet.transfer import StarnetTransfer, fast_bfloat16
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.isochrones import shipped_isochrones
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchored.train import AnchorSettings, AnchorStars, fit_anchors
from stargap.transfer.residual.model import ResidualTransfer, shipped_transfer
from stargap.transfer.residual.sums import CorrectionSum
from stargap.transfer.residual.train import ResidualSettings, train_residual

Array = NDArray[np.float64]
COPIES, SEED = 40, 7
"""Augmented copies of each unlabelled spectrum, and the seed of everything random here."""
NETWORK = 3000
"""Iterations of Cycle-StarNet: about 15 minutes of one core; the paper has 500,000."""
EMULATOR = shipped_emulator()


def box_of(emulator: Emulator) -> Parameters:
    """Return the labels and bounds of an emulator's fits."""
    return Parameters(emulator.card.lower, emulator.card.upper)


BOX = box_of(EMULATOR)
SETTINGS = MeasureSettings()
WORST = 0.4
"""Fraction of the pixels, those where unlabelled stars are worst fitted, that "chosen windows" leave out."""


@dataclass(frozen=True)
class Bench:
    """Labelled stars (saturated ones, at the end, only train), which are scored, their index; unlabelled spectra."""

    stars: AnchorStars
    scored: NDArray[np.bool_]
    index: list[dict[str, str]]
    unlabelled: NativeBatch
    unlabelled_rv: torch.Tensor
    unlabelled_snr: Array

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows that are scored."""
        return np.flatnonzero(self.scored)

    @property
    def truth(self) -> Array:
        """Literature labels of the scored stars, ``(star, 3)``."""
        return self.stars.labels[self.scored]


def read_bench(lamost: Path) -> Bench:
    """Read labelled and unlabelled clean spectra of `lamost/cool`."""
    chosen = sorted(anchor_rows(lamost), key=lambda row: row["scored"] == "0")
    with TemporaryDirectory() as name:
        write_anchors(Path(name) / "anchors.csv", chosen)
        stars, scored = read_anchor_stars(Path(name) / "anchors.csv", EMULATOR)
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        every = {row["file"]: row for row in csv.DictReader(file) if row["folder"] == "cool"}
    index = [every[Path(row["path"]).name] for row in chosen]
    spectra = []
    for row in every.values():
        if not row["star"] and not row["note"]:
            try:
                spectra.append(read_spectrum(lamost / "cool" / row["file"]))
            except SpectrumError as error:
                print(f"left out: {error}", file=sys.stderr)
    native, facts, _ = native_batch(spectra)
    rv = torch.cat(
        [batch_velocity(native[slice(k, k + BATCH)], SETTINGS, EMULATOR).rv for k in range(0, len(native), BATCH)]
    )
    keep = torch.isfinite(rv)
    snr = np.array([fact.snr_r or np.nan for fact in facts])[keep.numpy()]
    return Bench(stars, scored, index, native[keep], rv[keep], snr)


# ---- recipes that do not see labels


Labels = Array
"""Predicted labels of every labelled star, ``(star, 3)``."""


def emulator_alone(bench: Bench, *, with_prior: bool = False, windows: bool = False) -> tuple[Labels, torch.Tensor]:
    """Fit with the emulator, perhaps with the isochrones' prior, perhaps without the worst pixels."""
    prior = LabelPrior(fit_sequence(shipped_isochrones()), 0.05, -0.05, 0.5) if with_prior else None
    star = bench.stars.prepared
    if windows:
        star = replace(star, good=star.good & ~worst_pixels(bench))
    model = EmulatorModel(EMULATOR, star)
    fit = fit_labels(star, model, EMULATOR, BOX, error_floor=SETTINGS.floor, prior=prior)
    return fit.labels[:, :3].numpy(), fit.model


def worst_pixels(bench: Bench) -> torch.Tensor:
    """Pixels at which the emulator's best fits of unlabelled bright stars are worst, ``(pixel,)``; no label is used."""
    bright = torch.as_tensor(bench.unlabelled_snr > np.median(bench.unlabelled_snr))
    star = prepare(bench.unlabelled[bright], bench.unlabelled_rv[bright])
    fit = fit_labels(star, EmulatorModel(EMULATOR, star), EMULATOR, BOX, error_floor=SETTINGS.floor)
    left = torch.where(star.good, (star.flux - fit.model).abs(), torch.nan)
    typical = torch.nan_to_num(torch.nanmedian(left, dim=0).values, nan=torch.inf)
    seen = torch.isfinite(typical)
    return typical > typical[seen].quantile(1 - WORST)


def through(transfer: Transfer, prepared: Prepared) -> tuple[Labels, torch.Tensor]:
    """Fit stars in both domains."""
    alpha = getattr(transfer, "alpha", None)
    box = replace(box_of(transfer.emulator), fixed={} if alpha is None else {"a_m": alpha})
    fit = fit_domains(prepared, transfer, box).observed
    return fit.labels[:, :3].numpy(), fit.model


def augmented(bench: Bench) -> PreparedSpectra:
    """Return copies of the unlabelled spectra with more noise, other resolution, slopes, velocities and gaps."""
    rng = np.random.default_rng(SEED)
    wave = LOG_LAMBDA.wavelength
    spectra = PreparedSpectra.empty(COPIES * len(bench.unlabelled))
    for copy in range(COPIES):
        flux, ivar = (side.double().numpy().copy() for side in (bench.unlabelled.flux, bench.unlabelled.ivar))
        count = len(flux)
        width = rng.uniform(0.0, 0.25, (count, 1))
        padded = np.pad(flux, ((0, 0), (1, 1)), mode="edge")
        flux += width * (padded[:, 2:] + padded[:, :-2] - 2 * flux)
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        flux *= 1 + 0.05 * rng.normal(size=(count, 1)) * np.sin(2 * np.pi * (wave - 6000) / 1500 + phase)
        extra = np.where(rng.random((count, 1)) < 0.5, 0.0, 1 / rng.uniform(8, 60, (count, 1)))
        noise = extra * np.median(np.abs(flux), axis=1, keepdims=True)
        flux += noise * rng.normal(size=flux.shape)
        ivar = np.where(ivar > 0, 1 / (1 / np.maximum(ivar, 1e-30) + noise**2), 0.0)
        middle = rng.uniform(6000, 8900, (count, 1))
        ivar[np.abs(wave - middle) < rng.uniform(0, 40, (count, 1))] = 0.0
        made = (torch.as_tensor(side, dtype=torch.float32) for side in (flux, ivar))
        native = NativeBatch(*made, torch.ones(count).double(), torch.zeros(count).long())
        rv = bench.unlabelled_rv + torch.as_tensor(rng.normal(0, 5, count))
        spectra.put(copy * count, PreparedSpectra.from_prepared(prepare(native, rv), rv.numpy()))
    return spectra


def residual_generator(bench: Bench, folder: Path) -> ResidualTransfer:
    """Train our default transfer on the augmented unlabelled spectra alone."""
    spectra = augmented(bench)
    transfer = ResidualTransfer(EMULATOR)
    small = ResidualSettings(
        stars=1200, match_stars=800, gauge_stars=600, validation_stars=200, free_mix=True, seed=SEED
    )
    train_residual(transfer, spectra, draw_training_labels(20_000, seed=SEED), BOX, small, folder, progress=False)
    return transfer


def fine_tuned(bench: Bench) -> ResidualTransfer:
    """Go on with the transfer of simulated stars on the augmented unlabelled spectra, drawn to where it was."""
    spectra = augmented(bench)
    before, transfer = shipped_transfer(), deepcopy(shipped_transfer())
    transfer.alpha = None
    box = box_of(transfer.emulator)
    rows = np.arange(0, len(spectra), 2)
    for _ in range(2):
        sums = CorrectionSum(transfer)
        for first in range(0, len(rows), 256):
            star = spectra.prepared(rows[first : first + 256])
            fit = fit_labels(star, transfer.model(star), transfer.emulator, box, error_floor=transfer.floor, starts=1)
            sums.add(fit.labels, star)
        drawn_to = torch.eye(sums.matrix.shape[1]).double() / 0.05**2
        solution = torch.linalg.solve(
            sums.matrix + drawn_to, sums.vector + before.coefficients.double().T @ drawn_to
        ).T.float()
        transfer.coefficients.copy_(torch.where(sums.seen >= 0.1 * sums.stars, solution, before.coefficients))
    return transfer


def published_network(bench: Bench, folder: Path) -> StarnetTransfer:
    """Train Cycle-StarNet on the augmented unlabelled spectra and the label prior; goes on where it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    spectra = folder / "spectra"
    if not (spectra / "rv.npy").exists():
        augmented(bench).save(spectra)
    settings = TrainSettings(
        architecture="reference",
        output=folder,
        data=DataSettings(spectra=spectra),
        prior=PriorSettings(draws=20_000, seed=SEED),
        reference=TrainingSettings(iterations=NETWORK, validate_every=1000, checkpoint_every=500, bf16=fast_bfloat16()),
    )
    told = train(settings)
    if told.path is None:
        raise KeyboardInterrupt
    return StarnetTransfer.load(told.path)


def as_base(transfer: ResidualTransfer) -> torch.Tensor:
    """Return the coefficients of a residual transfer as `train_anchored` takes them."""
    wanted = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    have = [(int(e[0]), int(e[2])) for e in transfer.exponents]
    scale = transfer.label_map.scale
    rows = [
        transfer.coefficients[have.index(term)] * (300.0 / scale[0]) ** term[0] * (0.3 / scale[2]) ** term[1]
        for term in wanted
    ]
    return torch.stack(rows).float()


# ---- recipes with anchors


@dataclass(frozen=True)
class Base:
    """Another training's beginning: its emulator, and its correction's coefficients as `fit_anchors` takes them."""

    emulator: Emulator
    coefficients: torch.Tensor


@dataclass(frozen=True)
class Pairwise:
    """Predictions with stars left out: ``one[i]`` of star i without i, ``two[i, j]`` of j without i and j."""

    one: Array
    two: Array
    errors: Array
    chi2: Array
    model: torch.Tensor


def pairwise(bench: Bench, settings: AnchorSettings, base: Base | None = None) -> Pairwise:
    """Leave out every star, and every two."""
    emulator, begun = (EMULATOR, None) if base is None else (base.emulator, base.coefficients)
    box = box_of(emulator)
    stars, rows = bench.stars, bench.rows
    count = len(rows)
    one, errors, chi2 = np.full((count, 3), np.nan), np.full((count, 3), np.nan), np.full(count, np.nan)
    two = np.full((count, count, 3), np.nan)
    model = torch.full_like(stars.prepared.flux[:count], torch.nan)
    everything = np.arange(len(stars))

    def predicted(out: list[int]) -> tuple[Array, Array, Array, torch.Tensor]:
        transfer = fit_anchors(stars[np.setdiff1d(everything, rows[out])], emulator, settings, begun)
        fit = fit_domains(stars.prepared[torch.as_tensor(rows[out])], transfer, box, starts=1, slots=len(out)).observed
        return fit.labels[:, :3].numpy(), fit.errors[:, :3].numpy(), fit.chi2.numpy(), fit.model

    for i in range(count):
        labels, error, chi, best = predicted([i])
        one[i], errors[i], chi2[i], model[i] = labels[0], error[0], chi[0], best[0]
    for i, j in combinations(range(count), 2):
        transfer = fit_anchors(stars[np.setdiff1d(everything, rows[[i, j]])], emulator, settings, begun)
        star = stars.prepared[torch.as_tensor(rows[[i, j]])]
        begin = torch.as_tensor(
            np.pad(one[[i, j]], ((0, 0), (0, 1)))
        )  # only a start: the minimum is of the two's model
        two[j, i], two[i, j] = (
            fit_labels(
                star,
                transfer.model(star),
                emulator,
                box,
                error_floor=transfer.floor,
                prior=transfer.prior,
                start=begin,
                slots=2,
            )
            .labels[:, :3]
            .numpy()
        )
    return Pairwise(one, two, errors, chi2, model)


LINEAR = AnchorSettings(teff_degree=1)
ANCHORED: dict[str, AnchorSettings] = {
    "factor": AnchorSettings(),
    "factor, no gap in the floor": AnchorSettings(gap_weight=0.0),
    "factor, no directions": AnchorSettings(directions=0),
    "factor, 5 directions": AnchorSettings(directions=5),
    "factor, no prior": AnchorSettings(prior=False),
    "linear in Teff": LINEAR,
    "linear, no gap, no directions, no prior": LINEAR.model_copy(
        update={"directions": 0, "gap_weight": 0.0, "prior": False}
    ),
    "linear, no gap, no directions": LINEAR.model_copy(update={"directions": 0, "gap_weight": 0.0}),
    "linear, no directions": LINEAR.model_copy(update={"directions": 0}),
    "linear, no gap": LINEAR.model_copy(update={"gap_weight": 0.0}),
    "linear, 1 direction": LINEAR.model_copy(update={"directions": 1}),
    "linear, 5 directions": LINEAR.model_copy(update={"directions": 5}),
    "linear, no prior": LINEAR.model_copy(update={"prior": False}),
    "parabola in Teff": AnchorSettings(teff_degree=2),
    "linear in Teff and [M/H]": LINEAR.model_copy(update={"metallicity_degree": 1}),
}
"""Candidates; unless it says otherwise with the isochrones' prior, the gap in the floor and three directions."""


def score(predicted: Array, truth: Array) -> float:
    """What a recipe is chosen by, the lower the better: r.m.s. in Teff and [M/H], and order in [M/H]."""
    from scipy.stats import spearmanr

    off = predicted - truth
    rms = np.sqrt(np.mean(off**2, axis=0))
    return float(rms[0] / 80.0 + rms[2] / 0.13 + 1 - spearmanr(predicted[:, 2], truth[:, 2])[0])


def nested(found: dict[str, Pairwise], truth: Array) -> tuple[Array, list[str]]:
    """Return each star's labels through the recipe that the others choose, and which that is."""
    count = len(truth)
    labels, chosen = np.empty((count, 3)), []
    for i in range(count):
        others = np.arange(count) != i
        scores = {name: score(one.two[i, others], truth[others]) for name, one in found.items()}
        best = min(scores, key=scores.__getitem__)
        labels[i] = found[best].one[i]
        chosen.append(best)
    return labels, chosen


def all_pairwise(bench: Bench, bases: dict[str, Base], tell: Callable[[str], object]) -> dict[str, Pairwise]:
    """Return predictions of every candidate with anchors."""
    found = {}
    jobs: list[tuple[str, AnchorSettings, Base | None]] = [(n, s, None) for n, s in ANCHORED.items()]
    jobs += [(f"{name} + anchors", LINEAR, base) for name, base in bases.items()]
    for name, settings, base in jobs:
        tell(name)
        found[name] = pairwise(bench, settings, base)
    star = bench.stars.prepared
    masked = replace(bench.stars, prepared=replace(star, good=star.good & ~worst_pixels(bench)))
    tell("chosen windows")
    found["emulator, chosen windows + anchors"] = pairwise(replace(bench, stars=masked), AnchorSettings())
    return found
