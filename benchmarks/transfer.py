"""Speed of Cycle-StarNet beside a plain implementation of the same network in the same run.

The plain one uses nn.Conv1d and nn.ConvTranspose1d, computes each of the six spectra by its own chain of calls, and
takes derivatives by ``torch.func.jvp``, one call a direction. Both have the published sizes and random weights;
training is one generator step and one critic step with Adam. A figure is the median of runs in turns.

Fits in two domains (`fit_domains`) are of simulated stars, beside the emulator's fit alone. The reference network has
the published sizes and has learnt to copy emulator spectra for a minute, so that its fits are fits; how many
evaluations one takes depends on the network.

The default is trained as `stargap train` does it, on simulated spectra that are made beforehand.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad, softplus

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.stars import mock_labels, mock_stars

from stargap.fit.domains import fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.measurement.fits import parameters_for
from stargap.mock.instrument import simulate_prepared
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.pipeline.train import train
from stargap.pipeline.train_settings import TrainSettings
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.smoother import normalise
from stargap.spectra.spectrum import Spectrum
from stargap.starnet.losses import Batch, CycleTask, distance
from stargap.starnet.network import CycleStarNet
from stargap.starnet.settings import NetworkSettings
from stargap.starnet.transfer import StarnetTransfer
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.residual.model import ResidualTransfer

DIRECTIONS = 3
PAGE = Path(__file__).parents[1] / "docs" / "results" / "speed-transfer.md"
SAID = []


def say(line):
    print(line, flush=True)
    SAID.append(line)


HEAD = """# Speed of transfers

Made by `make results-speed` (`python benchmarks/transfer.py --write --threads 1 --repeats 3`): the network of published
sizes, ours beside a plain implementation with `nn.Conv1d` in the same run,
and fits in two domains of simulated stars. Medians of runs in turns on a machine
with other work; read the ratios, and the rest as +-30 %.
*plain* is not the published code, which takes 24 to 40 ms a training sample and fits 0.34 to 0.47 stars/s on such a
machine; goals are 0.6 of the first, 150 fits/s (default) and 30 (reference) on two cores, and a minute for the training
of the default.
"""


def down(channels, strides, s, latent=None):
    layers = []
    for a, b, stride in zip(channels, channels[1:], strides, strict=False):
        layers += [nn.Conv1d(a, b, s.kernel, stride), nn.LeakyReLU(s.slope)]
    return nn.Sequential(*layers, *([nn.Conv1d(channels[-1], latent, 1), nn.InstanceNorm1d(latent)] if latent else []))


def up(channels, strides, s, last=False):
    layers = []
    for a, b, stride in zip(channels, channels[1:], strides, strict=False):
        layers += [nn.ConvTranspose1d(a, b, s.kernel, stride), nn.LeakyReLU(s.slope)]
    return nn.Sequential(*layers, *([nn.Conv1d(channels[-1], 1, 1)] if last else []))


class PlainCritic(nn.Module):
    def __init__(self, s, latent):
        super().__init__()
        self.spectrum = down((1, *s.critic_filters), (s.critic_stride,) * 5, s)
        sizes = (latent, *s.critic_latent_filters)
        pairs = pairwise(sizes)
        self.latent = nn.Sequential(*(layer for a, b in pairs for layer in (nn.Conv1d(a, b, 1), nn.LeakyReLU(s.slope))))
        length = s.length
        for _ in s.critic_filters:
            length = (length - s.kernel) // s.critic_stride + 1
        self.last = nn.Linear(length * s.critic_filters[-1] + s.positions * s.critic_latent_filters[-1], 1)

    def forward(self, x, z):
        return self.last(torch.cat([self.spectrum(x).flatten(1), self.latent(z).flatten(1)], dim=1))


class Plain(nn.Module):
    """The published network, call by call, on spectra ``(row, 1, length)`` that are padded already."""

    def __init__(self, s):
        super().__init__()
        strides, back = s.shared_strides, s.shared_strides[::-1]
        self.enc_s, self.enc_o = (down((1, *s.outer_filters), s.outer_strides, s) for _ in range(2))
        self.enc_sh = down((s.outer_filters[-1], *s.shared_filters), strides, s, s.shared_latent)
        self.enc_sp = down((s.outer_filters[-1], *s.split_filters), strides, s, s.split_latent)
        self.dec_sh = up((s.shared_latent, *s.shared_filters[::-1]), back, s)
        self.dec_sp = up((s.split_latent, *s.split_filters[::-1]), back, s)
        self.dec_s = up((s.shared_filters[0], *s.outer_filters[::-1]), s.outer_strides, s, last=True)
        self.dec_o = up(
            (s.shared_filters[0] + s.split_filters[0], *s.outer_filters[::-1]), s.outer_strides, s, last=True
        )
        self.critic_s = PlainCritic(s, s.shared_latent)
        self.critic_o = PlainCritic(s, s.shared_latent + s.split_latent)

    def to_s(self, z):
        return self.dec_s(self.dec_sh(z))

    def to_o(self, z, z_sp):
        return self.dec_o(torch.cat([self.dec_sh(z), self.dec_sp(z_sp)], dim=1))

    def synthetic_to_observed(self, x, split):
        return self.dec_o(torch.cat([self.dec_sh(self.enc_sh(self.enc_s(x))), split], dim=1))

    def parts(self, critics):
        return [p for name, p in self.named_parameters() if name.startswith("critic") is critics]

    def generator_loss(self, x_s, x_o, sigma, good):
        z_s, h = self.enc_sh(self.enc_s(x_s)), self.enc_o(x_o)
        z_o, z_sp = self.enc_sh(h), self.enc_sp(h)
        ss, oo, so, os = self.to_s(z_s), self.to_o(z_o, z_sp), self.to_o(z_s, z_sp), self.to_s(z_o)
        sos, oso = self.to_s(self.enc_sh(self.enc_o(so))), self.to_o(self.enc_sh(self.enc_s(os)), z_sp)
        both = torch.cat([z_s, z_sp], dim=1)
        self.fakes = [part.detach() for part in (ss, z_s, os, z_o, oo, torch.cat([z_o, z_sp], dim=1), so, both)]
        loss = 3 * (distance(ss[:, 0], x_s[:, 0], 0.01) + distance(sos[:, 0], x_s[:, 0], 0.01))
        loss = loss + 9 * (distance(oo[:, 0], x_o[:, 0], sigma, good) + distance(oso[:, 0], x_o[:, 0], sigma, good))
        return loss + softplus(-self.critic_s(os, z_o)).mean() + softplus(-self.critic_o(so, both)).mean()

    def critic_loss(self):
        ss, z_s, os, z_o, oo, z_oo, so, z_so = self.fakes
        loss = softplus(-self.critic_s(ss, z_s)).mean() + softplus(self.critic_s(os, z_o)).mean()
        return loss + softplus(-self.critic_o(oo, z_oo)).mean() + softplus(self.critic_o(so, z_so)).mean()


def alternate(candidates, repeats):
    """Median seconds of each of `candidates`, run in turns after one run that is not counted."""
    spent = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, work in candidates.items():
            start = time.perf_counter()
            work()
            if turn:
                spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def training(rows, repeats):
    settings = NetworkSettings()
    generator = torch.Generator().manual_seed(rows)
    synthetic, observed = 1 + 0.1 * torch.randn(2, rows, settings.pixels, generator=generator)
    sigma = torch.full_like(observed, 0.05)
    good = torch.rand(rows, settings.pixels, generator=generator) > 0.2
    batch = Batch(synthetic, observed, sigma, good)

    def ours(precision):
        task = CycleTask(CycleStarNet(settings))
        task.network.standardise(synthetic, observed, good)
        task.network.precision = precision
        optimisers = [
            torch.optim.Adam(list(part), 1e-4, fused=True)
            for part in (task.generator_parameters(), task.critic_parameters())
        ]

        def iteration():
            for optimiser, loss in zip(optimisers, (task.generator_loss, task.critic_loss), strict=True):
                optimiser.zero_grad()
                loss(batch)[0].backward()
                optimiser.step()

        return iteration

    plain = Plain(settings)
    extra = settings.length - settings.pixels
    padded = [pad(x, (extra // 2, extra - extra // 2)) for x in (synthetic - 1, observed - 1)]
    x_s, x_o = (x[:, None] / 0.1 for x in padded)
    wide_sigma = pad(sigma, (extra // 2, extra - extra // 2), value=1.0) / 0.1
    wide_good = pad(good, (extra // 2, extra - extra // 2))
    adam = [torch.optim.Adam(plain.parts(critics), 1e-4) for critics in (False, True)]

    def plainly():
        plain.zero_grad()
        plain.generator_loss(x_s, x_o, wide_sigma, wide_good).backward()
        adam[0].step()
        plain.zero_grad()
        plain.critic_loss().backward()
        adam[1].step()

    return alternate({"plain": plainly, "float32": ours(None), "bfloat16": ours(torch.bfloat16)}, repeats)


def tangents(stars, repeats):
    network, plain = CycleStarNet(), Plain(NetworkSettings())
    network.requires_grad_(False)
    plain.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    flux = 1 + 0.1 * torch.randn(stars, network.settings.pixels, generator=generator)
    changes = torch.randn(stars, DIRECTIONS, network.settings.pixels, generator=generator)
    split = network.split_features(flux)
    cropped = split[:, : network.observed_encoder[-1].positions].transpose(1, 2)
    features = network.shared_features(flux, changes)
    x = network.inputs(flux).transpose(1, 2)
    directions = torch.stack([network.inputs(change).transpose(1, 2) for change in changes.unbind(dim=1)])

    def plainly():
        for direction in directions:
            torch.func.jvp(lambda y: plain.synthetic_to_observed(y, cropped), (x,), (direction,))

    def run(dtype=None):
        network.observed_and_tangents(flux, changes, split, tangent_dtype=dtype)

    def second_half():
        for piece in zip(*(y.split(8) for y in (*features, split)), strict=True):
            network.features_to_observed(*piece)

    times = {
        "plain": plainly,
        "float32": run,
        "float32, bfloat16 tangents": lambda: run(torch.bfloat16),
        "second half alone, float32": second_half,
    }
    return {name: spent / stars for name, spent in alternate(times, repeats).items()}


def copying_network(emulator, steps):
    """A network of the published sizes that has learnt to copy emulator spectra, noise-free in either domain."""
    labels = torch.as_tensor(mock_labels(2048, np.random.default_rng(0)))
    windows = STARGAP.window_mask(STARGAP.support, "rest") | STARGAP.window_mask(STARGAP.support, "observed")
    flux, _, held = normalise(emulator.flux(labels), torch.as_tensor(~windows).float().expand(len(labels), -1))
    network, sound = CycleStarNet(), held >= STARGAP.least_kernel_weight
    network.standardise(torch.where(sound, flux, 1.0), flux, sound)
    flux = network.fill(flux, sound)
    generator = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for _ in range(steps):
        clean = flux[torch.randint(len(flux), (16,), generator=generator)]
        z_sh, z_sp = network.encode_observed(clean + 0.03 * torch.randn(clean.shape, generator=generator))
        loss = (network.decode_observed(network.encode_synthetic(clean), z_sp) - clean).square().mean()
        loss = loss + (network.decode_synthetic(z_sh) - clean).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return network.requires_grad_(False)


def fits(stars, steps, repeats):
    emulator = shipped_emulator()
    mock = mock_stars(emulator, stars, seed=1)
    native = to_log_lambda([Spectrum(mock.wavelength, *star) for star in zip(mock.flux, mock.ivar, strict=True)])
    prepared = prepare(native, torch.as_tensor(mock.rv))
    box = parameters_for(MeasureSettings(), emulator)
    network = copying_network(emulator, steps)
    transfers = {"residual": ResidualTransfer(emulator)} | {
        f"reference, {str(dtype).split('.')[1]} derivatives": StarnetTransfer(network, emulator, tangent_dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    }
    works = {"emulator alone": lambda: fit_labels(prepared, EmulatorModel(emulator, prepared), emulator, box)}
    for name, transfer in transfers.items():
        slots = 32 if name == "residual" else 8
        works[name] = lambda transfer=transfer, slots=slots: fit_domains(prepared, transfer, box, slots=slots)
        taken = works[name]().observed.iterations.float().mean()
        say(f"{name:38s} {taken:5.1f} evaluations a fit in the observed domain")
    times = alternate(works, repeats)
    for name, spent in times.items():
        say(f"{name:38s} {stars / spent:7.1f} fits/s, {spent / times['emulator alone']:5.1f} of emulator alone")


def default_training(spectra):
    with tempfile.TemporaryDirectory() as folder:
        labels, active = nature_labels(spectra, seed=1, mix="matched")
        simulate_prepared(labels, active, shipped_nature(), seed=1).save(Path(folder, "spectra"))
        given = {"spectra": Path(folder, "spectra")}
        trained = train(TrainSettings(output=Path(folder, "transfer"), data=given, prior={"alpha": 0.0}))
    say(f"training of the default on {trained.spectra:,} spectra: {trained.seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stars", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400, help="of training before fits through the reference network")
    parser.add_argument("--spectra", type=int, default=110_000, help="that the default is trained on")
    parser.add_argument("--write", action="store_true", help="write docs/results/speed-transfer.md")
    parser.add_argument("--only", choices=["network", "fits", "default"], help="a part of the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as trainings do
    warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated")
    say(f"{arguments.threads} threads, {platform.machine()}, torch {torch.__version__}")
    if arguments.only in (None, "fits"):
        fits(arguments.stars, arguments.steps, arguments.repeats)
    if arguments.only in (None, "default"):
        default_training(arguments.spectra)
    if arguments.only in ("fits", "default"):
        return
    for rows in (8, 32):
        times = training(rows, arguments.repeats)
        report(f"training iteration, batch {rows}", {name: spent / rows for name, spent in times.items()}, "sample")
    report(f"spectrum and {DIRECTIONS} derivatives", tangents(32, arguments.repeats), "star")
    if arguments.write:
        PAGE.write_text(HEAD + "\n```\n" + "\n".join(SAID) + "\n```\n")


def report(title, times, unit):
    for name, spent in times.items():
        say(f"{title:32s} {name:28s} {1e3 * spent:7.2f} ms a {unit}, {spent / times['plain']:.2f} of plain")


if __name__ == "__main__":
    main()
