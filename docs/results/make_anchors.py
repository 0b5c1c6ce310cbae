"""Make docs/results/anchors.md: labels tied to simulated photometry of thousands of stars, whose truth is known.

Every product lies in a work folder; what is there is not made again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from make_transfer import LEVELS, PRIOR_DRAWS, TRAIN_SEED, Work, parameters
from numpy.typing import NDArray
from pages import table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from helpers.stars import prepared_stars

from stargap import __version__
from stargap.fit.domains import fit_domains
from stargap.mock.nature import nature_labels
from stargap.mock.photometry import Relations, absolute_magnitudes, inflated, observe_light, with_companions
from stargap.mock.population import Population, draw_kinds, draw_unresolved
from stargap.photometry.labels import photometric_labels
from stargap.pipeline.anchor_tables import photometric_anchors, usable_anchors
from stargap.pipeline.anchors import scores_of
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.statistics import robust_scatter
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.model import AnchoredTransfer
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import cross_validate, train_anchored
from stargap.transfer.residual.fits import Fits, brightest, fit_spectra
from stargap.transfer.residual.known import LabelledFits
from stargap.transfer.residual.matched import AnchorFits, fit_known, tie_labels
from stargap.transfer.residual.model import ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings

SPECTRA, ANCHORS, FEWER = 40_000, 3_000, 1_500
"""Spectra of the training, and anchors in the first survey and in the others."""
SETTINGS = ResidualSettings(stars=6_000, match_stars=4_000, gauge_stars=2_000, validation_stars=500)
ANCHORED = 520
"""Anchors of the anchored transfers but for the one of all anchors of the first survey."""
BENCHMARKS, BENCHMARK_SEED = 30, 808
"""Spectroscopic benchmarks beside them, other bright training spectra of the first survey."""
BENCHMARK_OFF, BENCHMARK_ERRORS = (60.0, 0.03, -0.08), (50.0, 0.06, 0.07)
"""What labels of benchmarks are too large by, and their errors (K, dex, dex)."""
SAMPLE = 1_500
"""Training spectra that the main sequence is found from when labels are tied."""
PHOTOMETRY_SEED, TEST_SEED, TEST_STARS = 606, 505, 2_048
SURVEYS = (("hard", "galactic"), ("hard", "matched"), ("mild", "galactic"))
RELATIONS = Relations()
BRIGHT, FAINT = (50.0, 1e9), (5.0, 20.0)
BOX = ((2780.0, 4100.0), (-0.54, 0.53))
"""Seeming Teff (K) and [M/H] (dex) within which slopes are measured: the range of the relations."""
Array = NDArray[np.float64]


def photometry(labels: Array, snr: Array) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Return what Gaia and 2MASS measure of simulated stars whose spectra have this S/N, and which are pairs."""
    rng, count = np.random.default_rng(PHOTOMETRY_SEED), len(labels)
    kinds = draw_kinds(rng, Population(), np.ones(count, dtype=bool), np.zeros(count, dtype=bool))
    companions = draw_unresolved(rng, labels)
    light = absolute_magnitudes(labels, rng.standard_normal((count, 4)), RELATIONS)
    light = np.where(kinds.binary[:, None], with_companions(light, labels, companions.labels, RELATIONS), light)
    light = light + np.where(kinds.young, inflated(rng, count), 0.0)[:, None]
    g_mag = 15.5 - 2.5 / 0.8 * np.log10(snr / 13.0) + rng.normal(0.0, 0.3, count)
    seen = observe_light(rng, light, g_mag)
    ruwe = np.exp(rng.normal(0.02, 0.06, count))
    ruwe = np.where(kinds.binary & np.isfinite(companions.ruwe), companions.ruwe, ruwe)
    error = (0.02 + 0.03 * 10 ** (0.2 * (g_mag - 15.0))) * np.maximum(ruwe, 1.0)
    parallax = 1000.0 / seen.distance - 0.03 + error * rng.standard_normal(count)
    return seen.columns | {"parallax": parallax, "parallax_error": error, "ruwe": ruwe}, kinds.binary


@dataclass(frozen=True)
class Survey:
    """One simulated survey: the trained transfer, what labels are tied with, and test stars before the label map."""

    transfer: ResidualTransfer
    fits: AnchorFits
    test: dict[str, Array]
    paired: float


def survey(work: Work, level: str, mix: str) -> Survey:
    """Train and fit, or read."""
    transfer = work.residual(level, mix)
    fitted, tested = (work.folder / f"{name}-{level}-{mix}.npz" for name in ("anchors", "tested"))
    box = parameters(transfer.emulator)
    if not fitted.exists():
        rows, known, _, pairs = drawn(work, level, mix)
        settings = SETTINGS.model_copy(update={"match_stars": SAMPLE})
        fits = fit_known(transfer, work.training(mix), rows, known, box, settings)
        known = fits.anchors.known
        np.savez(
            fitted, fitted=fits.anchors.fitted, covariance=fits.anchors.covariance, labels=known.labels,
            errors=known.errors, p_single=known.p_single, inside=known.inside, own=fits.own, group=fits.group,
            sample=fits.sample.labels, spread=fits.sample.covariance, chi2=fits.sample.chi2,
            paired=pairs,
        )  # fmt: skip
    if not tested.exists():
        identity = ResidualTransfer.load(work.folder / f"residual-{level}-{mix}-default.safetensors")
        for part in (identity.label_map.weight, identity.label_map.covariance, identity.sequence):
            part.zero_()
        labels, active = nature_labels(TEST_STARS, seed=TEST_SEED, mix=mix)
        parts: dict[str, list[Array]] = {"labels": [], "covariance": [], "truth": [], "snr": []}
        for truth, star, _ in prepared_stars(labels, active, work.emulator("nature"), seed=TEST_SEED):
            found = fit_domains(star, identity, box, starts=1)
            parts["labels"].append(found.observed.labels.numpy())
            parts["covariance"].append(found.covariance.numpy())
            parts["truth"].append(truth.labels)
            parts["snr"].append(truth.snr_r)
        np.savez(tested, **{name: np.concatenate(some) for name, some in parts.items()})
    with np.load(fitted) as file:
        read = {name: file[name] for name in file.files}
    known = AnchorLabels(
        read["labels"], read["errors"], read["p_single"], ["photometry"] * len(read["labels"]), read["inside"]
    )
    anchors = LabelledFits(torch.as_tensor(read["fitted"]), torch.as_tensor(read["covariance"]), known)
    sample = Fits(*(torch.as_tensor(read[name]) for name in ("sample", "spread", "chi2")))
    with np.load(tested) as file:
        test = {name: file[name] for name in file.files}
    fits = AnchorFits(anchors, torch.as_tensor(read["own"]), read["group"], sample)
    return Survey(transfer, fits, test, float(read["paired"]))


def with_benchmarks(work: Work, made: Survey) -> tuple[AnchorFits, list[str]]:
    """Return the anchors of the first survey with spectroscopic benchmarks, and their true zero point by label.

    A zero point is beside the photometric labels, which are off themselves.
    """
    level, mix = SURVEYS[0]
    spectra, rows = work.training(mix), drawn(work, level, mix)[0]
    truth, _ = nature_labels(len(spectra), seed=TRAIN_SEED, mix=mix)
    bright = brightest(spectra, split_rows(len(spectra), SETTINGS.seed)["training"], 2 * ANCHORS)
    rng = np.random.default_rng(BENCHMARK_SEED)
    chosen = np.sort(rng.permutation(np.setdiff1d(bright, rows))[:BENCHMARKS])
    fitted = fit_spectra(spectra, chosen, made.transfer, parameters(made.transfer.emulator))
    seeming = truth[chosen, :3].copy()
    seeming[:, [0, 2]] = RELATIONS.seeming(truth[chosen], np.zeros((BENCHMARKS, 2)))
    labels = truth[chosen, :3] + BENCHMARK_OFF + rng.normal(0.0, BENCHMARK_ERRORS, (BENCHMARKS, 3))
    errors = np.tile(BENCHMARK_ERRORS, (BENCHMARKS, 1))
    known = AnchorLabels(labels, errors, np.full(BENCHMARKS, 0.999), ["spectroscopy"] * BENCHMARKS)
    first, own = made.fits.anchors, made.fits.own
    anchors = LabelledFits(
        torch.cat([fitted.labels[:, :3], first.fitted]),
        torch.cat([fitted.covariance + torch.diag(own.square()), first.covariance]),
        AnchorLabels.joined([known, first.known]),
    )
    group = np.concatenate([np.arange(BENCHMARKS) % 4, made.fits.group])
    expected = np.array(BENCHMARK_OFF) + (truth[chosen, :3] - seeming).mean(axis=0)
    return AnchorFits(anchors, own, group, made.fits.sample), [f"{expected[k]:+.{d}f}" for k, d in ((0, 0), (2, 3))]


def benchmark_lines(work: Work, made: Survey, prior: Array) -> tuple[list[list[str]], str]:
    """Return lines of the table with benchmarks, and what is found of their zero point."""
    fits, expected = with_benchmarks(work, made)
    lines, found = [], []
    for count in (100, len(fits.anchors) - BENCHMARKS):
        told = tie_labels(made.transfer, part(fits, count + BENCHMARKS), prior, SETTINGS)
        lines.append(row(f"{count:,} anchors and {BENCHMARKS} benchmarks", made.transfer, made.test))
        point = [f"{told[f'zero_point spectroscopy {name}']:+.{d}f}" for name, d in (("teff", 0), ("m_h", 3))]
        found.append(f"{point[0]} K and {point[1]} dex with {count:,} anchors")
    spread = [error / BENCHMARKS**0.5 for error in BENCHMARK_ERRORS]
    text = f"""Labels of benchmarks are {BENCHMARK_OFF[0]:+.0f} K and {BENCHMARK_OFF[2]:+.2f} dex off the truth, beside
the photometric ones {expected[0]} K and {expected[1]} dex; {BENCHMARKS} of them know that within {spread[0]:.0f} K and
{spread[2]:.3f} dex. Zero points found: {"; ".join(found)}."""
    return lines, text


def own_gravity(transfer: ResidualTransfer, test: dict[str, Array]) -> str:
    """Return what a star's own log g, beside that of stars of its Teff and [M/H], does to published labels."""
    published = transfer.publish(torch.as_tensor(test["labels"]), torch.as_tensor(test["covariance"]))[0].numpy()
    truth = test["truth"][:, :3].copy()
    x = (truth[:, 0] - 3600.0) / 400.0
    design = np.stack([np.ones_like(x), x, x**2, truth[:, 2]], axis=1)
    own = truth[:, 1] - design @ np.linalg.lstsq(design, truth[:, 1], rcond=None)[0]
    truth[:, [0, 2]] = RELATIONS.seeming(test["truth"], np.zeros((len(truth), 2)))
    off = published - truth
    rows = np.isfinite(off).all(axis=1) & (test["snr"] > 30) & (np.abs(off[:, 2]) < 0.2)
    told = []
    for place, name, digits in ((0, "Teff (K)", 0), (2, "[M/H] (dex)", 3)):
        slope, constant = np.polyfit(own[rows], off[rows, place], 1)
        left = off[rows, place] - slope * own[rows] - constant
        scatters = [f"{robust_scatter(values):.{digits}f}" for values in (off[rows, place], left)]
        told.append(
            f"{name} {slope:+.{max(digits - 1, 0)}f} times it, scatter {scatters[0]}, {scatters[1]} without that"
        )
    return f"""A star's own log g (less that of stars of its Teff and [M/H]) scatters by {robust_scatter(own):.3f} dex.
Of {rows.sum()} test stars above S/N 30, with all anchors, published labels are off by: {"; ".join(told)}."""


def thousands(work: Work, test: dict[str, Array]) -> list[str]:
    """Return a line of the table: test stars through the anchored transfer of all anchors of the first survey."""
    path, emulator = work.folder / "anchored-thousands.safetensors", work.emulator(LEVELS["hard"])
    if not path.exists():
        rows, known, _, _ = drawn(work, *SURVEYS[0])
        chosen = np.flatnonzero(usable_anchors(known, emulator.lower[:3].numpy(), emulator.upper[:3].numpy()))
        stars = anchor_stars(work, rows[chosen], known[chosen])
        settings = AnchorSettings(alpha_slope=0.0, contrast=1.0)
        transfer, found = train_anchored(stars, emulator, settings)
        transfer.save(path, training_data=f"{len(stars)} simulated stars", settings=settings.model_dump(),
                      scores=scores_of(stars, found), simulated=True)  # fmt: skip
    transfer = AnchoredTransfer.load(path)
    labels, active = nature_labels(TEST_STARS, seed=TEST_SEED, mix=SURVEYS[0][1])
    parts: list[tuple[Array, Array]] = []
    for _, star, _ in prepared_stars(labels, active, work.emulator("nature"), seed=TEST_SEED):
        found = fit_domains(star, transfer, parameters(emulator), starts=1)
        errors = torch.hypot(found.observed.errors, found.systematic)
        parts.append((found.observed.labels.numpy()[:, :3], errors.numpy()[:, :3]))
    ours, errors = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return line(f"anchored, {int(transfer.card.scores['anchors']):,} anchors", ours, errors, test)


def anchor_stars(work: Work, rows: NDArray[np.int64], labels: AnchorLabels) -> AnchorStars:
    """Return anchors of the first survey with their spectra, ``rows`` of the training."""
    prepared = work.training(SURVEYS[0][1]).prepared(rows)
    names = [str(number) for number in range(len(labels))]
    return AnchorStars(prepared, labels.labels, names, labels.errors, labels.p_single, labels.sources)


def drawn(work: Work, level: str, mix: str) -> tuple[NDArray[np.int64], AnchorLabels, Array, float]:
    """Return training rows of the anchors of a survey, their photometric labels, the truth, and the share of pairs."""
    spectra = work.training(mix)
    truth, _ = nature_labels(len(spectra), seed=TRAIN_SEED, mix=mix)
    rows = brightest(spectra, split_rows(len(spectra), SETTINGS.seed)["training"], 2 * ANCHORS)
    count = ANCHORS if (level, mix) == SURVEYS[0] else FEWER
    rows = np.sort(np.random.default_rng(PHOTOMETRY_SEED).permutation(rows)[:count])
    columns, pairs = photometry(truth[rows], signal(spectra, rows))
    places, known = photometric_anchors(photometric_labels(columns))
    return rows[places], known, truth[rows[places]], float(pairs[places].mean())


def anchored(work: Work) -> str:
    """Return the table of anchored transfers: labels of anchors left out in turn, less those of the relations."""
    emulator = work.emulator(LEVELS["hard"])
    rows, known, truth, _ = drawn(work, *SURVEYS[0])
    chosen = np.flatnonzero(usable_anchors(known, emulator.lower[:3].numpy(), emulator.upper[:3].numpy()))
    chosen = np.sort(np.random.default_rng(PHOTOMETRY_SEED).permutation(chosen)[:ANCHORED])
    stars = anchor_stars(work, rows[chosen], known[chosen])
    seeming, lines = RELATIONS.seeming(truth[chosen], np.zeros((len(chosen), 2))), []
    for contrast, directions in ((0.7, 8), (1.0, 0), (1.0, 3), (1.0, 8)):
        settings = AnchorSettings(alpha_slope=0.0, contrast=contrast, directions=directions)
        found = cross_validate(stars, emulator, settings)
        cells = [f"contrast {contrast:g}, {directions} directions"]
        for ours in (found.labels[:, [0, 2]], found.fitted[:, [0, 2]]):
            sound = np.isfinite(ours).all(axis=1)
            for place, digits in ((0, 1), (1, 3)):
                off = (ours - seeming)[sound, place]
                slope = np.polyfit(seeming[sound, place], ours[sound, place], 1)[0]
                cells.append(f"{np.median(off):+.{digits}f} / {robust_scatter(off):.{digits}f}, {slope:.3f}")
        lines.append([*cells, f"{scores_of(stars, found)['m_h_slope_true']:.3f}"])
    return table(["", "Teff (K)", "[M/H]", "Teff before the map", "[M/H] before the map", "in the card"], lines)


def signal(spectra: PreparedSpectra, rows: NDArray[np.int64]) -> Array:
    """Return the S/N of spectra, ``(row,)``."""
    return np.array([1 / np.median(spectra.sigma[row][spectra.good[row]]) for row in rows])


def part(fits: AnchorFits, count: int) -> AnchorFits:
    """Return the first `count` anchors."""
    rows = torch.arange(len(fits.anchors)) < count
    return AnchorFits(fits.anchors[rows], fits.own, fits.group[:count], fits.sample)


def row(name: str, transfer: ResidualTransfer, test: dict[str, Array]) -> list[str]:
    """Return a line of the table: labels of test stars through a transfer."""
    labels, covariance, systematic = transfer.publish(
        torch.as_tensor(test["labels"]), torch.as_tensor(test["covariance"])
    )
    errors = torch.hypot(covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt(), systematic)
    return line(name, labels.numpy(), errors.numpy(), test)


def line(name: str, ours: Array, errors: Array, test: dict[str, Array]) -> list[str]:
    """Return a line of the table: labels of test stars ``(star, 3)`` and their errors, the systematic ones included."""
    truth = test["truth"][:, [0, 2]]
    seeming = RELATIONS.seeming(test["truth"], np.zeros((len(truth), 2)))
    ours, errors = ours[:, [0, 2]], errors[:, [0, 2]]
    sound = np.isfinite(ours).all(axis=1)
    inside = sound & ((seeming > np.array(BOX)[:, 0]) & (seeming < np.array(BOX)[:, 1])).all(axis=1)
    cells = [name]
    for low, high in (BRIGHT, FAINT):
        here = sound & (test["snr"] >= low) & (test["snr"] < high)
        for place, digits in ((0, 1), (1, 3)):
            beside, off = (ours - seeming)[here, place], (ours - truth)[here, place]
            cells.append(
                f"{np.median(beside):+.{digits}f} ({np.median(off):+.{digits}f}) / {robust_scatter(beside):.{digits}f}"
            )
    bright = inside & (test["snr"] >= BRIGHT[0])
    slopes = [np.polyfit(seeming[bright, place], ours[bright, place], 1)[0] for place in (0, 1)]
    pulls = [(ours - seeming)[sound, place] / errors[sound, place] for place in (0, 1)]
    spread = [pull[np.abs(pull - np.median(pull)) < 5].std() for pull in pulls]
    return [*cells, ", ".join(f"{slope:.3f}" for slope in slopes), ", ".join(f"{value:.2f}" for value in spread)]


HEAD = ["", "Teff (K), S/N > 50", "[M/H]", "Teff (K), S/N 5-20", "[M/H]", "slopes", "pulls"]


def results(work: Work, made: Survey, level: str, mix: str) -> str:
    """Return the table of a survey with what is found of benchmarks."""
    prior = draw_training_labels(PRIOR_DRAWS, alpha=0.0, seed=TRAIN_SEED)
    lines = [row("no anchors", made.transfer, made.test)]
    counts = (100, 300, 1000, len(made.fits.anchors)) if (level, mix) == SURVEYS[0] else (len(made.fits.anchors),)
    for count in counts:
        fits = part(made.fits, count)
        tie_labels(made.transfer, fits, prior, SETTINGS)
        lines.append(row(f"{count:,} anchors", made.transfer, made.test))
    gravity = own_gravity(made.transfer, made.test)
    if (level, mix) == SURVEYS[0]:
        plain = made.fits.anchors.covariance - torch.diag(made.fits.own.square())
        anchors = LabelledFits(made.fits.anchors.fitted, plain, made.fits.anchors.known)
        nothing = AnchorFits(anchors, torch.zeros(3).double(), made.fits.group, made.fits.sample)
        tie_labels(made.transfer, nothing, prior, SETTINGS)
        lines.append(row("no systematic scatter of its own", made.transfer, made.test))
        known = made.fits.anchors.known
        sure = AnchorLabels(known.labels, known.errors, np.ones(len(known)), known.sources, known.inside)
        anchors = LabelledFits(made.fits.anchors.fitted, made.fits.anchors.covariance, sure)
        tie_labels(
            made.transfer, AnchorFits(anchors, made.fits.own, made.fits.group, made.fits.sample), prior, SETTINGS
        )
        lines.append(row("no pairs in the mixture", made.transfer, made.test))
        rows = torch.as_tensor(known.inside)
        only = AnchorFits(made.fits.anchors[rows], made.fits.own, made.fits.group[known.inside], made.fits.sample)
        tie_labels(made.transfer, only, prior, SETTINGS)
        lines.append(row("anchors chosen by their labels", made.transfer, made.test))
        more, text = benchmark_lines(work, made, prior)
        return table(HEAD, [*lines, *more, thousands(work, made.test)]) + f"\n\n{text}\n\n{gravity}"
    return table(HEAD, lines)


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/anchors"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Work(options.work, options.data, SPECTRA, SETTINGS)
    sections = []
    for level, mix in SURVEYS:
        made = survey(work, level, mix)
        body = results(work, made, level, mix)
        mixed = "as the prior" if mix == "matched" else "otherwise"
        title = f"## {level.upper()} (`{LEVELS[level]}`), labels mixed {mixed}"
        sections.append(f"{title}\n\n{body}\n\n{made.paired:.1%} of the anchors are pairs.")
        print(sections[-1], flush=True)
    folder = Path(__file__).parent
    text = Template((folder / "anchors.template.md").read_text())
    page = text.substitute(
        version=__version__, spectra=f"{SPECTRA:,}", anchors=f"{ANCHORS:,}", fewer=f"{FEWER:,}", train_seed=TRAIN_SEED,
        photometry_seed=PHOTOMETRY_SEED, test_seed=TEST_SEED, stars=f"{TEST_STARS:,}", sections="\n\n".join(sections),
        anchored=anchored(work), few=ANCHORED,
        settings=SETTINGS.model_dump_json(exclude_defaults=True),
    )  # fmt: skip
    (folder / "anchors.md").write_text(page)


if __name__ == "__main__":
    main()
