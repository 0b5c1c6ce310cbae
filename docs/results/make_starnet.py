"""Make docs/results/starnet.md: the published network trained for long on a simulated survey, and what holds it back.

Every product lies in a work folder, that of docs/results/make_transfer.py; what is there is not made again, and a
training that was stopped goes on where it was. `--only reference:150000` prolongs one training; that of the published
network begins where the one that is kept with the results ended, and `--keep` keeps it.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cached_property, partial
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from make_transfer import LEVELS, PRIOR_DRAWS, TRAIN_SEED, Work, joined, parameters, part_of
from numpy.typing import NDArray
from pages import number, reflow, table
from starnet_kept import go_on, keep, newest
from starnet_trials import LabelMap, MarginalsTask, PenaltyTask, noise_told
from transfer_diagnostics import cycle_table, leakage, mixing
from transfer_figures import curve_figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.stars import prepared_stars

from stargap import __version__
from stargap.checkpoints import load_best, read_metrics
from stargap.figures.transfer import losses_figure, residual_figure, tsne_figure
from stargap.fit.domains import fit_domains
from stargap.mock.instrument import Truth
from stargap.mock.nature import nature_labels
from stargap.pipeline.train import train_starnet
from stargap.spectra.prepare import Prepared
from stargap.spectra.smoother import normalise
from stargap.starnet.losses import CycleTask
from stargap.starnet.pairs import SyntheticSpectra
from stargap.starnet.recipe import new_task
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.training_settings import StarnetSettings, TrainingSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.statistics import mean_residual, robust_scatter
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchor_labels import ERRORS, AnchorLabels
from stargap.transfer.residual.settings import ResidualSettings
from stargap.validation.embedding import tsne

LEVEL, MIX = "hard", "matched"
CURVE_SEED, LAST_SEED, STARS, SNR = 404, 505, 2_560, 50.0
"""Two surveys, of the stars that networks are judged on while they train and of those that judge what was chosen;
labels are fitted above this S/N."""
PICTURED, PICTURED_SNR = 600, 15.0
"""Spectra of either domain in the picture of t-SNE, and their least S/N."""
STOPS = (2_000, 4_000, 8_000, 14_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000,
         100_000, 150_000, 200_000, 300_000, 400_000, 500_000)  # fmt: skip
"""Iterations after which the network is judged."""
PUBLISHED = StarnetSettings(
    **TrainingSettings(bf16=True, validate_every=500, checkpoint_every=500, log_every=50, seed=0).model_dump(),
    network=NetworkSettings(),
    spectral=False,
    noisy=False,
)
LONG = "reference"
JUDGED = Path(__file__).parent / "starnet" / "judged.json"
KEPT = JUDGED.with_name("reference.safetensors")
"""The training that is kept with the results."""
LATE = 16_000
"""Iterations at the end whose validations the page names."""
BATCH = 32
ABLATION_STEPS = 500
ABLATION_SPECTRA = BATCH * ABLATION_STEPS
BASE = PUBLISHED.model_copy(
    update={"batch": BATCH, "learning_rate": 4e-4, "warm_up": 50, "cosine": True, "iterations": ABLATION_STEPS}
)
"""The published network with a batch of 32 and a warmed-up cosine."""
SMALL_SPLIT = {"split_latent": 1, "split_noise": 1.0}


def changed(network: dict[str, Any], **training: Any) -> StarnetSettings:
    """Return the baseline with some things changed."""
    return BASE.model_copy(update={"network": NetworkSettings(**network), **training})


ABLATIONS: dict[str, StarnetSettings] = {
    "base": BASE,
    "residual": changed({"residual": True}),
    "residual+small": changed({"residual": True, **SMALL_SPLIT}),
    "residual+noisy": changed({"residual": True}, noisy=True),
    "all": changed({"residual": True, **SMALL_SPLIT}, noisy=True),
    "second seed": changed({"residual": True}, noisy=True, seed=1),
    "hinge": changed({"residual": True}, noisy=True, adversarial="hinge"),
    "least-squares": changed({"residual": True}, noisy=True, adversarial="least-squares"),
    "spectral": changed({"residual": True}, noisy=True, spectral=True),
    "anchors": changed({"residual": True}, noisy=True),
    "batch 128": changed({"residual": True}, noisy=True, batch=4 * BATCH, iterations=ABLATION_STEPS // 4,
                         learning_rate=8e-4, warm_up=12),
    "ema": changed({"residual": True}, noisy=True, ema=0.99),
    "penalty": changed({"residual": True}, noisy=True),
    "noise told": changed({"residual": True}, noisy=True),
    "marginals": changed({"residual": True}, noisy=True),
}  # fmt: skip
"""Trainings of equally many spectra."""
TRIALS = ("penalty", "noise told", "marginals")
"""Those of them that are of `starnet_trials`."""
MAPPED = 8_192
"""Synthetic spectra that a linear map to labels is fitted to."""
KNOWN_SEED, KNOWN_STARS = 606, 5_000
"""These stars, whose labels have the errors of two good sources, as photometric ones have (`ERRORS`)."""
BEST = "starnet"
ANCHORED = ("anchors", BEST)
"""Trainings with stars of known labels."""
RECIPES: dict[str, StarnetSettings] = {
    "reference": PUBLISHED.model_copy(update={"iterations": 100_000, "validate_every": 2_000}),
    **ABLATIONS,
    BEST: changed({"residual": True, **SMALL_SPLIT}, noisy=True, spectral=True, iterations=3_000),
}
"""Trainings by name."""
FLOAT32 = PUBLISHED.model_copy(update={"bf16": False, "iterations": 100})
"""The published network in float32, to compare losses with."""


class Study:
    """Stars to judge networks on, and trainings, in one folder."""

    def __init__(self, work: Work, seed: int = CURVE_SEED) -> None:
        self.work, self.seed = work, seed
        self.emulator = work.emulator(LEVELS[LEVEL])

    @cached_property
    def stars(self) -> list[tuple[Truth, Prepared, torch.Tensor]]:
        """Stars with their noiseless spectra, in chunks."""
        labels, active = nature_labels(STARS, seed=self.seed, mix=MIX)
        return list(prepared_stars(labels, active, self.work.emulator("nature"), seed=self.seed))

    @cached_property
    def prior(self) -> NDArray[np.float64]:
        """Labels of the synthetic spectra."""
        return draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)

    @cached_property
    def known(self) -> tuple[NDArray[np.int64], AnchorLabels]:
        """Training stars of known labels."""
        labels, _ = nature_labels(self.work.spectra, seed=TRAIN_SEED, mix=MIX)
        rng = np.random.default_rng(KNOWN_SEED)
        rows = rng.permutation(len(labels))[:KNOWN_STARS]
        return rows, AnchorLabels(labels[rows, :3] + rng.normal(0.0, ERRORS, (len(rows), 3)))

    def train(self, name: str, iterations: int) -> tuple[StarnetTransfer, dict[str, float]]:
        """Train a network, or go on with its training; the one of the best label-blind score is returned."""
        settings = (RECIPES | {"float32": FLOAT32})[name].model_copy(update={"iterations": iterations})
        about = {"level": LEVEL, "mix": MIX, "prior": TRAIN_SEED} | ({"trial": name} if name in TRIALS else {})
        folder = self.work.folder / f"starnet-{name}"
        known = self.known if name in ANCHORED else None
        spectra, task = self.work.training(MIX), self.task(name, settings)
        made = train_starnet(
            self.emulator, spectra, self.prior, settings, folder, about=about, alpha=0.0, anchors=known, task=task
        )
        if made is None:
            raise SystemExit(130)
        return made

    def task(self, name: str, settings: StarnetSettings) -> CycleTask:
        """Return what a training begins with."""
        if name == "marginals":
            return MarginalsTask.new(settings, self.label_map)
        return {"penalty": PenaltyTask.new, "noise told": noise_told}.get(name, new_task)(settings)

    @cached_property
    def label_map(self) -> LabelMap:
        """The linear map of synthetic spectra to labels."""
        labels = self.prior[:MAPPED]
        weight = self.work.training(MIX).tensors(np.arange(MAPPED))[3]
        spectra = SyntheticSpectra(self.emulator, labels)(np.arange(MAPPED), weight)
        return LabelMap.fit(spectra, torch.as_tensor(labels[:, :3]))

    def load(self, name: str) -> StarnetTransfer:
        """Read the network of the best label-blind score of a training."""
        task = self.task(name, RECIPES[name])
        load_best(task, self.work.folder / f"starnet-{name}")
        return StarnetTransfer(task.network, self.emulator, alpha=0.0)

    def load_last(self, name: str) -> StarnetTransfer:
        """Read the network of the last step of a training."""
        _, tensors = newest(self.work.folder / f"starnet-{name}")
        task = self.task(name, RECIPES[name])
        task.load_state_dict(
            {key.removeprefix("task/"): one for key, one in tensors.items() if key.startswith("task/")}
        )
        return StarnetTransfer(task.network, self.emulator, alpha=0.0)

    def judged(self, name: str, iterations: int) -> list[dict[str, Any]]:
        """Train up to `iterations`, and judge the network at every stop on the way; return all judgements."""
        path = self.work.folder / f"starnet-{name}.json"
        if name == LONG and not path.exists() and KEPT.exists():
            path.write_text(json.dumps(json.loads(JUDGED.read_text())[name]))
            go_on(self.work.folder / f"starnet-{name}", KEPT, partial(self.train, name))
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        stops = [] if RECIPES[name].cosine else [stop for stop in STOPS if stop < iterations]
        done = {row["iterations"] for row in found}
        for stop in [*stops, iterations]:
            if stop <= max(done, default=0):
                continue
            transfer, scores = self.train(name, stop)
            found.append({"iterations": stop, **scores, **self.judge(transfer)[0]})
            path.write_text(json.dumps(found, indent=1))
            print(name, json.dumps(found[-1]), flush=True)
        return found

    def judge(self, transfer: StarnetTransfer) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """Return bias and scatter of labels, residuals, cycle errors and leakage; and the residuals by star."""
        off, z = [], []
        residual: dict[str, list[NDArray[Any]]] = {"before": [], "after": [], "truth": []}
        for truth, chunk, clean in self.stars:
            bright = torch.as_tensor(truth.snr_r > SNR)
            star = chunk[bright]
            fit = fit_domains(star, transfer, parameters(self.emulator), starts=1, slots=8)
            off.append(fit.observed.labels[:, :3].numpy() - part_of(truth, bright.numpy()).labels[:, :3])
            first = normalise(self.emulator.flux(fit.synthetic.labels.nan_to_num(3500.0)), star.weight)[0]
            for name, model in (("before", first), ("after", fit.observed.model), ("truth", clean[bright])):
                residual[name].append(mean_residual(*(x.numpy() for x in (star.flux, model, star.sigma, star.good))))
            with torch.no_grad():
                z.append(transfer.network.encode_observed(chunk.flux, chunk.good)[1].flatten(1).numpy())
        apart, residuals = np.concatenate(off), {name: np.concatenate(parts) for name, parts in residual.items()}
        values = {"lost": float((~np.isfinite(apart).all(axis=1)).sum()), "stars": float(len(apart))}
        for place, label in enumerate(("teff", "logg", "m_h")):
            finite = apart[np.isfinite(apart[:, place]), place]
            values |= {f"{label}_bias": float(np.median(finite)), f"{label}_scatter": float(robust_scatter(finite))}
        values["residual"] = float(np.nanmean(residuals["after"]))
        values["residual_ratio"] = values["residual"] / float(np.nanmean(residuals["truth"]))
        leaks = leakage(joined(self.stars).labels[:, :3], np.concatenate(z))
        values |= {f"leak_{label}": value for label, value in leaks.items()}
        batches = list(self.work.source(LEVEL, MIX).validation())[:1]
        values |= {f"abs {key}": value for key, value in cycle_table(transfer.network, batches).items()}
        return values, residuals


def last_judged(study: Study, name: str) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
    """Judge a trained network on stars that chose nothing, or read what was found."""
    path = study.work.folder / f"last-{name}-{RECIPES[name].iterations}.json"
    if not path.exists():
        values, residuals = study.judge(study.load(name))
        path.write_text(json.dumps([values, {key: list(map(float, array)) for key, array in residuals.items()}]))
    values, residuals = json.loads(path.read_text())
    return values, {key: np.array(array) for key, array in residuals.items()}


def pictures(study: Study, folder: Path, curve: list[dict[str, Any]], residuals: dict[str, NDArray[Any]]) -> str:
    """Draw figures 6 to 8 of the published network and the curve; return how well z_sh mixes the domains."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(figure: Any, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110)

    keep(losses_figure(read_metrics(study.work.folder / "starnet-reference" / "metrics.jsonl")), "losses")
    keep(curve_figure(curve), "curve")
    keep(residual_figure(residuals["before"], residuals["after"], residuals["truth"]), "residuals")
    network = study.load("reference").network
    stars = [chunk for _, chunk, _ in study.stars]
    picked = np.flatnonzero(joined(study.stars).snr_r > PICTURED_SNR)[:PICTURED]
    flux, good, sigma, weight = (
        torch.cat([getattr(chunk, name) for chunk in stars])[picked] for name in ("flux", "good", "sigma", "weight")
    )
    drawn = torch.as_tensor(draw_training_labels(PICTURED, alpha=0.0, seed=LAST_SEED))
    spectra = normalise(study.emulator.flux(drawn), weight)[0]
    with torch.no_grad():
        z_observed, z_split = network.encode_observed(flux, good)
        z_synthetic = network.encode_synthetic(spectra)
        moved = network.synthetic_to_observed(spectra, z_split)
    noise = torch.randn(flux.shape, generator=torch.Generator().manual_seed(LAST_SEED)) * sigma
    seen, plain, after = (np.where(good, some, 1.0) for some in (flux, spectra + noise, moved + noise))
    latent = {"observed": z_observed.flatten(1).numpy(), "synthetic": z_synthetic.flatten(1).numpy()}
    panels = {"observed": seen, "synthetic": plain}, {"observed": seen, "transferred": after}, latent
    keep(tsne_figure(*(tsne(panel) for panel in panels)), "tsne")
    return ", ".join(f"{mixing(*panel.values()):.2f}" for panel in panels)


def precision(study: Study) -> str:
    """Return losses of the generators in bfloat16 and in float32, at the same steps on the same spectra."""
    paths = [study.work.folder / f"starnet-{name}" / "metrics.jsonl" for name in ("reference", "float32")]
    if not paths[1].exists():
        study.train("float32", FLOAT32.iterations)
    half, whole = (read_metrics(path) for path in paths)
    texts = []
    for step in (FLOAT32.iterations // 2, FLOAT32.iterations):
        losses = [one["generator.loss"][(one["step"] == step) & np.isfinite(one["generator.loss"])][0]
                  for one in (half, whole)]  # fmt: skip
        texts.append(f"{losses[0]:.1f} and {losses[1]:.1f} at step {step}")
    return "; ".join(texts)


def row(name: str, found: dict[str, Any], samples: int) -> list[str]:
    """Return one row of a table of judgements."""
    labels = [
        f"{number(found[f'{label}_bias'], digits, sign=True)} / {number(found[f'{label}_scatter'], digits)}"
        for label, digits in (("teff", 0), ("logg", 3), ("m_h", 3))
    ]
    leak = ", ".join(number(found[f"leak_{label}"], 2) for label in ("teff", "logg", "m_h"))
    cycle = f"{found['abs s->o->s']:.2f}, {found['abs o->s->o']:.2f}"
    blind = f"{found['score']:.1f} ({found['gap_latent']:.3f}, {found['gap_observed']:.3f})"
    return [name, f"{samples:,}", blind, *labels, f"{found['residual_ratio']:.2f}", cycle, leak]


HEAD = ["", "spectra", "label-blind score (gaps)", "Teff (K)", "log g", "[M/H]", "residual / true", "cycles", "R2"]


def page(study: Study, folder: Path) -> str:
    """Return the document."""
    found = {name: study.judged(name, RECIPES[name].iterations) for name in RECIPES}
    last = Study(study.work, LAST_SEED)
    final = {name: last_judged(last, name) for name in ("reference", BEST)}
    mixed = pictures(study, folder, found["reference"], final["reference"][1])
    JUDGED.write_text(json.dumps(found, indent=1) + "\n")
    now, _ = study.judge(study.load_last(LONG))
    sizes = {name: RECIPES[name].batch for name in RECIPES}
    rows = {name: row(name, parts[-1], sizes[name] * parts[-1]["iterations"]) for name, parts in found.items()}
    equal = next(one for one in found["reference"] if one["iterations"] * sizes["reference"] == ABLATION_SPECTRA)
    lasts = [
        row(name, found[name][-1] | one, sizes[name] * found[name][-1]["iterations"])
        for name, (one, _) in final.items()
    ]
    curve = {
        f"first_{name}": number(found[LONG][0][f"{label}_scatter"], digits)
        for name, label, digits in (("scatter", "teff", 0), ("m_h", "m_h", 2))
    }
    metrics = read_metrics(study.work.folder / "starnet-reference" / "metrics.jsonl")
    seconds = metrics["seconds"][-1]
    validated = np.isfinite(metrics["validation.score"])
    steps, scores = (metrics[name][validated] for name in ("step", "validation.score"))
    lowest, late = int(scores.argmin()), scores[steps > steps[-1] - LATE]
    text = Template((Path(__file__).parent / "starnet.template.md").read_text())
    return text.substitute(
        curve,
        version=__version__,
        first=f"{found[LONG][0]['iterations']:,}",
        best_bias=number(final[BEST][0]["teff_bias"], 0, sign=True),
        best_teff=f"{number(found[BEST][-1]['teff_bias'], 0, sign=True)} / "
        f"{number(found[BEST][-1]['teff_scatter'], 0)}",
        longer=f"{RECIPES[BEST].iterations / ABLATION_STEPS:.0f}",
        known_stars=f"{KNOWN_STARS:,}",
        iterations=f"{found['reference'][-1]['iterations']:,}",
        last_labels=", ".join(
            f"{words} {number(now[f'{label}_bias'], digits, sign=True)} / {number(now[f'{label}_scatter'], digits)}"
            for label, words, digits in (("teff", "Teff", 0), ("logg", "log g", 3), ("m_h", "[M/H]", 3))
        ),
        lowest=number(scores[lowest], 1),
        lowest_step=f"{steps[lowest]:,.0f}",
        since=f"{steps[-1] - steps[lowest]:,.0f}",
        late_low=number(late.min(), 0),
        late_high=number(late.max(), 0),
        last_residual=number(now["residual_ratio"], 2),
        last_leak=number(now["leak_teff"], 2),
        minutes=f"{seconds / 60:.0f} minutes",
        step=f"{1000 * seconds / found['reference'][-1]['iterations']:.0f}",
        share=f"{100 * found['reference'][-1]['iterations'] / 500_000:.1f} %",
        spectra=f"{ABLATION_SPECTRA:,}",
        precision=precision(study),
        curve_stars=int(found["reference"][-1]["stars"]),
        bright=int(final[BEST][0]["stars"]),
        curve=table(
            ["iterations", *HEAD[1:]],
            [row(f"{one['iterations']:,}", one, 8 * one["iterations"]) for one in found["reference"]],
        ),
        ablations=table(HEAD, [row("reference", equal, ABLATION_SPECTRA), *(rows[name] for name in ABLATIONS)]),
        last=table(HEAD, lasts),
        mixed=mixed,
        best=json.dumps(RECIPES[BEST].model_dump(mode="json", exclude_defaults=True, exclude={"network"})),
        network=json.dumps(RECIPES[BEST].network.model_dump(mode="json", exclude_defaults=True)),
    )


def main() -> None:
    """Make what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    parser.add_argument("--only", default="", help="trainings such as reference:150000, separated by commas")
    parser.add_argument("--keep", action="store_true", help="keep the training of the published network")
    options = parser.parse_args()
    study = Study(Work(options.work, options.data, 110_000, ResidualSettings()))
    for task in filter(None, options.only.split(",")):
        name, iterations = task.split(":")
        study.judged(name, int(iterations))
    if options.keep:
        step = keep(study.work.folder / f"starnet-{LONG}", KEPT)
        print(f"kept after {step:,} iterations: {KEPT}")
    elif not options.only:
        folder = Path(__file__).parent
        (folder / "starnet.md").write_text(reflow(page(study, folder / "starnet")))


if __name__ == "__main__":
    main()
