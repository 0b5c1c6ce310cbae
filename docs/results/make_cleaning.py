"""Make docs/results/cleaning.md: what the cleaning does to a simulated survey with junk, and to real spectra.

The limits were set on seed 101 of the simulated survey; the page reports another seed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from string import Template

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.errors import SpectrumError
from stargap.figures.cleaning import cluster_figure
from stargap.flags import Clean
from stargap.measurement.velocity import emulator_templates, measure_velocity
from stargap.mock.junk import JUNK
from stargap.mock.population import PLAIN
from stargap.mock.survey import simulate_survey
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Spectrum
from stargap.survey.cleaning.bins import bin_spectra
from stargap.survey.cleaning.clean import Cleaning, clean
from stargap.survey.cleaning.page import write_cleaning_page
from stargap.survey.cleaning.rules import OF_SPECTRUM
from stargap.theory.emulator import shipped_emulator

HERE = Path(__file__).parent
LEAST_SNR = 5.0
JUNK_FRACTION = 0.062
"""Of the targets: 5 % of the spectra, since junk is observed once."""
GROUPS = ("metal_poor", "late", "active")
Truth = dict[str, NDArray[np.generic]]


def prepared(native: NativeBatch) -> PreparedSpectra:
    """Prepare a batch at the velocity that the velocity stage measures."""
    rv = measure_velocity(native, emulator_templates(shipped_emulator())).rv
    return PreparedSpectra.from_prepared(prepare(native, rv), rv.numpy())


def simulated(stars: int, seed: int) -> tuple[list[PreparedSpectra], Truth]:
    """Return the prepared spectra of a survey, S/N 5 and above in r and i as in the sample, and their truth."""
    shards, truths = [], []
    for chunk in simulate_survey(stars, seed=seed, junk=JUNK_FRACTION, population=PLAIN):
        bright = np.minimum(chunk.truth["snr_r"], chunk.truth["snr_i"]) >= LEAST_SNR
        native = to_log_lambda(chunk.spectra)[torch.as_tensor(bright)]
        shards.append(prepared(native))
        truths.append({name: values[bright] for name, values in chunk.truth.items()})
    return shards, {name: np.concatenate([truth[name] for truth in truths]) for name in truths[0]}


def real(folder: Path) -> tuple[list[PreparedSpectra], list[Spectrum]]:
    """Return the real spectra that can be read."""
    spectra = []
    for path in sorted(folder.iterdir()):
        try:
            spectrum = read_spectrum(path)
            to_log_lambda([spectrum])
        except SpectrumError as error:
            print(error)
        else:
            spectra.append(spectrum)
    return [prepared(to_log_lambda(spectra))], spectra


def reasons(cleaning: Cleaning, rows: NDArray[np.bool_]) -> str:
    """Say how many rejected rows were so by themselves and how many with their cluster."""
    gone = rows & cleaning.rejected
    alone = Counter("by itself" if flags & int(OF_SPECTRUM) else "with its cluster" for flags in cleaning.flags[gone])
    return ", ".join(f"{count} {how}" for how, count in alone.most_common())


def recall_table(cleaning: Cleaning, truth: Truth) -> str:
    """Return the lines of the table of junk and of good dwarfs."""
    rejected, dwarf = cleaning.rejected, truth["kind"] == "dwarf"
    lines = []
    for kind in JUNK:
        rows = np.asarray(truth["kind"] == kind)
        low = np.asarray(rows & (truth["snr_r"].astype(float) < 10))
        lines.append(
            f"| {kind.replace('_', ' ')} | {rows.sum()} | {100 * rejected[rows].mean():.1f} | "
            f"{100 * rejected[low].mean():.0f} ({low.sum()}) | >= 90 | {reasons(cleaning, rows)} |"
        )
    for name, rows, bar in [
        ("**good dwarfs**", dwarf, "<= 0.5"),
        *((f"of them {group.replace('_', '-')}", dwarf & truth[group].astype(bool), "<= 1") for group in GROUPS),
    ]:
        low = np.asarray(rows & (truth["snr_r"].astype(float) < 10))
        lines.append(
            f"| {name} | {rows.sum()} | {100 * rejected[rows].mean():.2f} | {100 * rejected[low].mean():.2f} "
            f"({low.sum()}) | {bar} | {reasons(cleaning, np.asarray(rows))} |"
        )
    return "\n".join(lines)


def real_table(cleaning: Cleaning, spectra: list[Spectrum], rows: NDArray[np.int64]) -> str:
    """Return one line per spectrum."""
    lines = []
    for row in rows:
        facts = spectra[row].facts
        snr = "-" if facts.snr_r is None else f"{facts.snr_r:.0f}"
        name = Path(facts.path).name
        lines.append(f"| {name} | {facts.subclass} | {snr} | {Clean.describe(int(cleaning.flags[row])) or 'kept'} |")
    return "\n".join(lines)


def picture(path: Path, cleaning: Cleaning, shards: list[PreparedSpectra]) -> None:
    """Draw members of the rejected clusters and of the outliers."""
    rows = [np.flatnonzero(cleaning.cluster == one.number)[0] for one in cleaning.clusters if one.verdict == "rejected"]
    alone = np.flatnonzero(cleaning.flags & int(OF_SPECTRUM))
    chosen = (rows[:3] + alone[np.linspace(0, alone.size - 1, 6).astype(int)].tolist())[:8]
    starts = np.cumsum([0] + [len(shard) for shard in shards])
    lines = []
    for row in chosen:
        place = int(np.searchsorted(starts, row, side="right")) - 1
        shard, at = shards[place], row - starts[place]
        lines.append(np.where(shard.good[at], shard.flux[at], np.nan))
    cluster_figure(np.array(lines), title="Simulated: some rejected spectra").savefig(path, dpi=90)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--stars", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=303)
    parser.add_argument("--pages", type=Path, help="folder for the two cleaning.html")
    given = parser.parse_args()
    torch.set_num_threads(1)

    shards, truth = simulated(given.stars, given.seed)
    start = time.perf_counter()
    cleaning = clean([bin_spectra(shard) for shard in shards])
    seconds = time.perf_counter() - start
    count = len(cleaning.flags)
    (HERE / "cleaning").mkdir(exist_ok=True)
    picture(HERE / "cleaning" / "rejected.png", cleaning, shards)

    tables, notes = {}, {}
    for folder in ("cool", "formats"):
        tables[folder], notes[folder] = real(given.data / "lamost" / folder)
    both, spectra = tables["cool"] + tables["formats"], notes["cool"] + notes["formats"]
    of_real = clean([bin_spectra(part) for part in both])
    cool = np.arange(len(spectra)) < len(notes["cool"])
    kept = ~of_real.rejected
    dwarf = truth["kind"] == "dwarf"
    if given.pages:
        write_cleaning_page(given.pages / "simulated.html", cleaning, PreparedSpectra.joined(shards).__getitem__)
        write_cleaning_page(given.pages / "real.html", of_real, PreparedSpectra.joined(both).__getitem__)

    text = Template((HERE / "cleaning.template.md").read_text(encoding="utf-8")).substitute(
        stars=f"{given.stars:,}",
        seed=given.seed,
        count=f"{count:,}",
        junk=f"{100 * np.mean(truth['kind'] != 'dwarf'):.1f}",
        recall=recall_table(cleaning, truth),
        least=f"{min(100 * cleaning.rejected[truth['kind'] == kind].mean() for kind in JUNK):.0f}",
        lost=f"{100 * cleaning.rejected[dwarf].mean():.2f}",
        lost_poor=f"{100 * cleaning.rejected[dwarf & truth['metal_poor'].astype(bool)].mean():.2f}",
        rounds=max(one.number for one in cleaning.clusters) // 1000,
        noise=f"{cleaning.settings.noise_factor:.2f}",
        seconds=f"{seconds:.1f}",
        million=f"{seconds / count * 1e6 / 60:.0f}",
        cool=int(cool.sum()),
        cool_kept=int(kept[cool].sum()),
        cool_rejected=real_table(of_real, spectra, np.flatnonzero(cool & ~kept)),
        formats=int((~cool).sum()),
        formats_kept=int(kept[~cool].sum()),
        real_rounds=max(one.number for one in of_real.clusters) // 1000,
    )
    (HERE / "cleaning.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
