"""The compressed start beside exact models: processor time per spectrum and stage, and whether results are the same.

Everything is measured on one thread, in this process alone, both ways in turns, on simulated stars (seed 1, the
emulator's own) and on the real spectra in --data. Processor seconds do not count other work on the machine, but caches
are shared with it: read the ratios.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.stars import mock_stars

from stargap.errors import SpectrumError
from stargap.fit import domains
from stargap.fit.compressed import compressed_emulator, compressed_transfer
from stargap.fit.domains import fit_domains
from stargap.fit.labels import fit_labels
from stargap.flags import Flag
from stargap.measurement.fits import parameters_for
from stargap.measurement.models import LAMOST, load_model_named
from stargap.measurement.star import BATCH, batch_velocity, measure_native
from stargap.measurement.velocity import emulator_templates, measure_velocity
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Spectrum

PAGE = Path(__file__).parents[1] / "docs" / "results" / "speed-fits.md"
HEAD = """# Fits that begin in a few numbers, beside exact ones

{findings}

Made by `make results-speed` (`python benchmarks/fits.py --write --stars {stars}`): the default measurement and the same
with `exact = true`, on one thread, in turns in one process. Milliseconds are processor time on a machine with other
work, whose caches and memory are shared: read the ratios. Simulated stars (seed 1, survey noise) are the emulator's
own, which `transfer-lamost` does not fit well: many have several minima, far from any anchor. Real spectra are those of
the shared data: `cool` are M dwarfs, `formats` stars of any class in every layout, `repeats` are F to K stars, which no
model here fits.

"Whole path" compares columns of the table, velocities included. "Same velocities" compares fits of the observed domain
with the exact path at a tolerance of 1e-3 (50 times tighter than its own) as the reference. Errors are the published
ones. `STARTS_DISAGREE` says that two starts ended in minima about as deep; which of several minima a start reaches
differs between the ways.

```
"""
WAYS = {"exact": MeasureSettings(exact=True), "compressed": MeasureSettings()}
LABELS = ("teff", "logg", "m_h")


class Clock:
    """Processor seconds by name."""

    def __init__(self):
        self.spent = {}

    def time(self, name, work):
        begin = time.process_time()
        result = work()
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - begin
        return result


def read_all(paths, clock):
    items = []
    for path in paths:
        try:
            items.append(clock.time("read", lambda path=path: read_spectrum(path)))
        except SpectrumError as error:
            items.append(error)
    return items


def simulated(emulator, count):
    stars = mock_stars(emulator, count, seed=1, survey_noise=True)
    return [Spectrum(stars.wavelength, f, i) for f, i in zip(stars.flux, stars.ivar, strict=True)]


def measured(items, transfer, clock):
    """Columns of each way, batch by batch in turns, and the batches with the exact velocities."""
    emulator = transfer.emulator
    parts, kept = {way: [] for way in WAYS}, []
    for first in range(0, len(items), BATCH):
        native, facts, failure = clock.time("log-lambda", lambda: native_batch(items[first : first + BATCH]))  # noqa: B023
        options = {"failure": failure, "spectrum_id": np.arange(first, first + len(facts)), "transfer": transfer}
        for way, settings in WAYS.items():
            velocity = clock.time(f"{way} velocity", lambda: batch_velocity(native, settings, emulator))  # noqa: B023
            columns, fitted = clock.time(
                f"{way} labels",
                lambda: measure_native(native, facts, settings, emulator, velocity=velocity, **options),  # noqa: B023
            )
            parts[way].append(columns)
            if way == "exact":
                kept.append((fitted.prepared, velocity))
        clock.time("(search and first velocity)", lambda: measure_velocity(native, emulator_templates(emulator)))  # noqa: B023
        clock.time("(prepare, once)", lambda: prepare(native, velocity.rv))  # noqa: B023
    names = parts["exact"][0].keys()
    return {way: {name: np.concatenate([p[name] for p in some]) for name in names} for way, some in parts.items()}, kept


def minima(kept, transfer):
    """Fits of the observed domain at the same velocities: distances in errors, and differences of the objective.

    The reference is the exact path with a tolerance of 1e-3; labels are those before the label map.
    """
    plain = type(transfer).load(Path(sys.modules["stargap"].__file__).parent / "models" / "transfer-lamost.safetensors")
    plain.map_numbers.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    parameters = parameters_for(MeasureSettings(), plain.emulator)
    tied = domains.replace(parameters, alpha_slope=plain.alpha_slope)
    distance, change = [], []
    usual = domains.TOLERANCE
    for prepared, velocity in kept:
        start = torch.nn.functional.pad(velocity.labels, (0, 0, 0, BATCH - len(velocity)), value=torch.nan)
        domains.TOLERANCE = 1e-3
        reference = fit_domains(prepared, plain, parameters, start=start).observed
        domains.TOLERANCE = usual
        quick = fit_domains(prepared, plain, parameters, start=start, exact=False).observed
        known = torch.isfinite(reference.labels).all(dim=1)
        clean = domains.replace(prepared, flux=torch.where(prepared.good, prepared.flux, 0.0))

        def objective(labels, clean=clean):
            fit = fit_labels(clean, plain.model(clean), plain.emulator, tied, error_floor=plain.floor,
                             prior=plain.prior, start=labels, max_iterations=1, errors=False)  # fmt: skip
            return fit.chi2 * (clean.good.sum(dim=1) - 3)

        distance.append(((quick.labels - reference.labels)[:, :3].abs() / reference.errors[:, :3])[known])
        change.append((objective(quick.labels) - objective(reference.labels))[known])
    return torch.cat(distance).numpy(), torch.cat(change).numpy()


def report(name, items, transfer, clock, say):
    columns, kept = measured(items, transfer, clock)
    count = len(items)
    say(f"\n{name}: {count} spectra, processor milliseconds a spectrum")
    total = {}
    for stage, spent in clock.spent.items():
        say(f"  {stage:32s} {1e3 * spent / count:8.2f}")
        for way in WAYS:
            if stage.startswith(way):
                total[way] = total.get(way, 0.0) + spent
    say(f"  {'exact over compressed':32s} {total['exact'] / total['compressed']:8.2f}")
    common = sum(clock.spent.get(stage, 0.0) for stage in ("read", "log-lambda"))
    for way, spent in total.items():
        rates = (2 * count / (spent + part) for part in (common, 0.0))
        say("  {}: {:.0f}/s from files, {:.0f}/s from a store, two cores".format(way, *rates))
    one, other = columns["exact"], columns["compressed"]
    both = np.isfinite(one["teff"]) & np.isfinite(other["teff"])
    alone = [Clock(), Clock()]
    for first in range(0, len(items), BATCH):
        native, facts, failure = native_batch(items[first : first + BATCH])
        options = {"failure": failure, "spectrum_id": np.arange(len(facts))}
        for clock_of, settings in zip(alone, WAYS.values(), strict=True):
            clock_of.time("", lambda: measure_native(native, facts, settings, transfer.emulator, **options))  # noqa: B023
    spent = [1e3 * clock_of.spent[""] / count for clock_of in alone]
    say("  emulator alone, velocity and labels: exact {:.2f}, compressed {:.2f}: {:.0f}/s on two cores".format(
        *spent, 2e3 / spent[1]))  # fmt: skip
    odd = np.isfinite(one["teff"]) != np.isfinite(other["teff"])
    say(f"  rows with labels: {both.sum()}, in one way only: {odd.sum()}")
    for label in ("rv", *LABELS):
        pull = np.abs(other[label] - one[label])[both] / one[f"e_{label}"][both]
        pull = pull[np.isfinite(pull)]
        say(f"  whole path, |difference| of {label:5s} in errors: median {np.median(pull):.4f}, p99 "
            f"{np.quantile(pull, 0.99):.3f}, largest {pull.max():.2f}")  # fmt: skip
    differ = one["flags"] ^ other["flags"]
    flags = {flag.name: int((differ & flag != 0).sum()) for flag in Flag if (differ & flag).any()}
    say(f"  rows whose flags differ: {(differ != 0).sum()} {flags}")
    distance, change = minima(kept, transfer)
    for k, label in enumerate(LABELS):
        say(f"  same velocities, |difference| of {label:5s} in errors: median {np.median(distance[:, k]):.4f}, p99 "
            f"{np.quantile(distance[:, k], 0.99):.3f}, largest {distance[:, k].max():.2f}")  # fmt: skip
    middle, high = np.quantile(change, [0.5, 0.99])
    say(f"  objective less that of the exact minimum: median {middle:.4f}, p99 {high:.3f}, largest {change.max():.2f}")
    say(f"    above 0.1: {(change > 0.1).sum()}, below -0.1: {(change < -0.1).sum()} of {len(change)}")
    faster = total["exact"] / total["compressed"]
    return faster, np.quantile(distance, (0.5, 0.99)), int((change > 0.1).sum()), len(change)


def findings(found):
    """The three findings of the page, of what `report` returned of each sample."""
    faster, distance, higher, count = zip(*found, strict=True)
    middle, far = np.transpose(distance)
    return "\n".join((
        f"* **Speed**: velocity and labels together take {1 / max(faster):.2f} to {1 / min(faster):.2f} of the exact",
        "  path's time.",
        f"* **Agreement**: at the same velocities labels differ from the exact minimum by {middle.min():.4f} to",
        f"  {middle.max():.4f} errors in the median and by {far.min():.2f} to {far.max():.2f} at the 99th percentile",
        "  (0.01 and 0.2 were wanted).",
        f"* **The minimum**: in {sum(higher)} of {sum(count)} fits the objective is higher than the exact one's by",
        "  more than 0.1.",
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--stars", type=int, default=1024, help="simulated stars")
    parser.add_argument("--folders", nargs="*", default=["cool", "formats", "repeats"], help="real spectra")
    parser.add_argument("--write", action="store_true", help="also write docs/results/speed-fits.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transfer = load_model_named(LAMOST)
    said, found = [], []

    def say(line):
        print(line, flush=True)
        said.append(line)

    begin = time.process_time()
    compressed_emulator(transfer.emulator, STARGAP), compressed_transfer(transfer)
    say(f"tables of the compressed start: {time.process_time() - begin:.2f} s")
    emulator_templates(transfer.emulator)
    warm = Clock()
    measured(simulated(transfer.emulator, 8), transfer, warm)
    for folder in arguments.folders:
        paths = sorted((arguments.data / "lamost" / folder).glob("*.fits*"))
        if paths:
            clock = Clock()
            found.append(report(f"real spectra, {folder}", read_all(paths, clock), transfer, clock, say))
    if arguments.stars:
        found.append(report("simulated stars", simulated(transfer.emulator, arguments.stars), transfer, Clock(), say))
    if arguments.write:
        head = HEAD.format(findings=findings(found), stars=arguments.stars)
        PAGE.write_text(head + "\n".join(said) + "\n```\n", encoding="utf-8")


if __name__ == "__main__":
    main()
