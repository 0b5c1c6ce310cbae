"""Make docs/results/starnet.md: the published network trained for long on a simulated survey, and what holds it back.

Every product lies in a work folder, that of docs/results/make_transfer.py; what is there is not made again, and a
training that was stopped goes on where it was. `--only reference:100000` prolongs one training.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_transfer import LEVELS, PRIOR_DRAWS, TRAIN_SEED, Work, joined, parameters, part_of
from numpy.typing import NDArray
from transfer_diagnostics import cycle_table, leakage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.stars import prepared_stars

from stargap.fit.domains import fit_domains
from stargap.mock.instrument import Truth
from stargap.mock.nature import nature_labels
from stargap.pipeline.train import train_starnet
from stargap.spectra.prepare import Prepared
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.training_settings import StarnetSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.statistics import mean_residual, robust_scatter
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.residual.train import ResidualSettings

LEVEL, MIX = "hard", "matched"
CURVE_SEED, CURVE_STARS, CURVE_SNR = 404, 2_560, 50.0
"""Stars that networks are judged on while they train, from a survey of their own; labels are fitted above this S/N."""
STOPS = (500, 1_000, 2_000, 3_500, 5_000, 7_500, 10_000, 12_500, 15_000, 17_500, 20_000, 25_000, 30_000, 35_000,
         40_000, 50_000, 60_000, 75_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000)  # fmt: skip
"""Iterations after which the network is judged."""
PUBLISHED = StarnetSettings(
    network=NetworkSettings(), bf16=True, validate_every=500, checkpoint_every=500, log_every=50, seed=0
)
BATCH = 32
ABLATION_STEPS = 500
"""Steps of an ablation: 16,000 spectra of each domain."""
BASE = PUBLISHED.model_copy(
    update={"batch": BATCH, "learning_rate": 4e-4, "warm_up": 50, "cosine": True, "iterations": ABLATION_STEPS}
)
"""What one thing is changed of at a time: a batch of 32 with a warmed-up cosine."""


def changed(network: dict[str, Any] | None = None, **training: Any) -> StarnetSettings:
    """Return the baseline with some things changed."""
    return BASE.model_copy(update={"network": NetworkSettings(**(network or {})), **training})


RECIPES: dict[str, StarnetSettings] = {
    "reference": PUBLISHED,
    "base": BASE,
    "residual": changed({"residual": True}),
    "noisy": changed(noisy=True),
    "small-split": changed({"split_latent": 1, "split_noise": 1.0}),
    "hinge": changed(adversarial="hinge"),
    "least-squares": changed(adversarial="least-squares"),
    "ema": changed(ema=0.99),
    "all": changed({"residual": True, "split_latent": 1, "split_noise": 1.0}, noisy=True),
}
"""Trainings by name."""


class Study:
    """Stars to judge networks on, and trainings, in one folder."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.emulator = work.emulator(LEVELS[LEVEL])

    @cached_property
    def stars(self) -> list[tuple[Truth, Prepared, torch.Tensor]]:
        """Stars of the curve with their noiseless spectra, in chunks."""
        labels, active = nature_labels(CURVE_STARS, seed=CURVE_SEED, mix=MIX)
        return list(prepared_stars(labels, active, self.work.emulator("nature"), seed=CURVE_SEED))

    @cached_property
    def prior(self) -> NDArray[np.float64]:
        """Labels of the synthetic spectra."""
        return draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)

    def train(self, name: str, iterations: int) -> tuple[StarnetTransfer, dict[str, float]]:
        """Train a network, or go on with its training; the one of the best label-blind score is returned."""
        settings = RECIPES[name].model_copy(update={"iterations": iterations})
        about = {"level": LEVEL, "mix": MIX, "prior": TRAIN_SEED}
        folder = self.work.folder / f"starnet-{name}"
        made = train_starnet(
            self.emulator, self.work.training(MIX), self.prior, settings, folder, about=about, alpha=0.0
        )
        if made is None:
            raise SystemExit(130)
        return made

    def judged(self, name: str, iterations: int) -> list[dict[str, Any]]:
        """Train up to `iterations`, and judge the network at every stop on the way; return all judgements."""
        path = self.work.folder / f"starnet-{name}.json"
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        stops = [] if RECIPES[name].cosine else [stop for stop in STOPS if stop < iterations]
        for stop in [*stops, iterations]:
            if stop in {row["iterations"] for row in found}:
                continue
            transfer, scores = self.train(name, stop)
            found.append({"iterations": stop, **scores, **self.judge(transfer)})
            path.write_text(json.dumps(found, indent=1))
            print(name, json.dumps(found[-1]), flush=True)
        return found

    def judge(self, transfer: StarnetTransfer) -> dict[str, float]:
        """Return bias and scatter of labels, residuals, cycle errors and leakage of a network."""
        off, ours, true, z = [], [], [], []
        for truth, chunk, clean in self.stars:
            bright = torch.as_tensor(truth.snr_r > CURVE_SNR)
            star = chunk[bright]
            fit = fit_domains(star, transfer, parameters(self.emulator), starts=1, slots=8).observed
            off.append(fit.labels[:, :3].numpy() - part_of(truth, bright.numpy()).labels[:, :3])
            for model, into in ((fit.model, ours), (clean[bright], true)):
                into.append(mean_residual(*(x.numpy() for x in (star.flux, model, star.sigma, star.good))))
            with torch.no_grad():
                z.append(transfer.network.encode_observed(chunk.flux, chunk.good)[1].flatten(1).numpy())
        apart = np.concatenate(off)
        values = {"lost": float((~np.isfinite(apart).all(axis=1)).sum()), "stars": float(len(apart))}
        for place, label in enumerate(("teff", "logg", "m_h")):
            finite = apart[np.isfinite(apart[:, place]), place]
            values |= {f"{label}_bias": float(np.median(finite)), f"{label}_scatter": float(robust_scatter(finite))}
        values["residual"] = float(np.nanmean(np.concatenate(ours)))
        values["residual_ratio"] = values["residual"] / float(np.nanmean(np.concatenate(true)))
        truth = joined(self.stars)
        leaks = leakage(truth.labels[:, :3], np.concatenate(z))
        values |= {f"leak_{label}": value for label, value in leaks.items()}
        batches = list(self.work.source(LEVEL, MIX).validation())[:1]
        return values | {f"abs {key}": value for key, value in cycle_table(transfer.network, batches).items()}


def main() -> None:
    """Make what is asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    parser.add_argument("--only", default="", help="trainings such as reference:100000, separated by commas")
    options = parser.parse_args()
    study = Study(Work(options.work, options.data, 110_000, ResidualSettings()))
    for task in filter(None, options.only.split(",")):
        name, iterations = task.split(":")
        study.judged(name, int(iterations))


if __name__ == "__main__":
    main()
