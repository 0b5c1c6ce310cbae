"""Make docs/results/validation.md: every headline number of the paper beside those of a simulated survey.

The survey is simulated and run through every stage in a work folder; what is there is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch
from pages import table

from stargap import __version__
from stargap.figures.survey import subclass_numbers
from stargap.flags import FinalCut
from stargap.mock.tables import APOGEE, LASPM, LITERATURE, PRIMARY_ERRORS, companion_tables, compared_tables
from stargap.mock.write import write_survey_store
from stargap.paper import (
    ACTIVE_SPECTRA,
    BINARIES,
    BRIGHT_SCATTER,
    CATALOGUE_SPECTRA,
    CATALOGUE_STARS,
    CLEAN_SPECTRA,
    M_DWARF_SPECTRA,
    OFFSETS,
    REPEATS,
)
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.statistics import Compared, compare
from stargap.survey.cleaning.rules import is_rejected
from stargap.validation.binaries import run_binaries
from stargap.validation.report.data import RunData, read_run
from stargap.validation.report.fitted import FittedSpectra
from stargap.validation.report.spectra import fit_again
from stargap.validation.report.truth import DIGITS, QUANTITIES, errors_of, plain_stars, truth_sheets
from stargap.validation.sheets import Sheet, number

SEED = 2024
HERE = Path(__file__).parent
REFITTED = 2000
"""Spectra of the final catalogue that are fitted again for their residuals."""
PAPER_LITERATURE = {name: (*OFFSETS[name], scatter) for name, scatter in BRIGHT_SCATTER.items()}
"""Bias, scatter, and scatter above S/N 50 (section 5.1)."""
PAPER_COUNTS = (
    M_DWARF_SPECTRA,
    CLEAN_SPECTRA,
    CATALOGUE_SPECTRA,
    CATALOGUE_STARS,
    ACTIVE_SPECTRA,
)
NORMAL = 68.27
"""Per cent of normal errors within one standard deviation."""


@dataclass(frozen=True)
class Line:
    """A bias and scatter of the paper, ours with errors, and what of ours the other side brings by construction."""

    quantity: str
    bias: float
    scatter: float
    found: Compared
    digits: int
    put_in: str

    @property
    def verdict(self) -> str:
        """Return how our scatter stands to the paper's, by two of its errors."""
        ours, error = self.found.values.clipped, self.found.errors.clipped
        if not np.isfinite(self.scatter + ours + error):
            return ""
        return "larger" if ours - 2 * error > self.scatter else "smaller" if ours + 2 * error < self.scatter else "same"

    @property
    def biased(self) -> bool:
        """Say whether our bias is larger than the paper's, by two of its errors."""
        return abs(self.found.values.median) - 2 * self.found.errors.median > abs(self.bias)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        digits, values, errors = self.digits, self.found.values, self.found.errors
        paper = f"{number(self.bias, digits=digits, sign=True)}, {number(self.scatter, digits=digits)}"
        return (
            self.quantity,
            paper,
            number(values.median, errors.median, digits=digits + 1, sign=True),
            number(values.clipped, errors.clipped, digits=digits + 1),
            f"{self.found.n:,}",
            self.put_in,
            self.verdict,
        )


def settings_of(work: Path) -> SurveySettings:
    """Return how the survey is run: the models inside the package, [a/M] = 0 as nature has it, ages."""
    return SurveySettings.model_validate(
        {
            "output": work / "run",
            "input": {"gaia": work / "gaia.parquet", "simulated": True},
            "transfer": {"use": "simulated", "prior": {"alpha": 0.0}},
            "measure": {"fixed": {"a_m": 0.0}},
            "catalogue": {"companions": companion_tables(work), "position_epoch": 2016.0},
            "publish": {"ages": True, "formats": []},
        }
    )


def finished(work: Path, stars: int, workers: int) -> float:
    """Simulate and run what is not there yet; return the time of all pieces (s)."""
    if not (work / "run/store/manifest.json").exists():
        write_survey_store(work, stars, seed=SEED, store=work / "run/store")
    states = run_survey(settings_of(work).absolute(), workers=workers)
    for state in states:
        if state.state != "done":
            message = f"{state.stage}: {state.state}; {state.failures}"
            raise RuntimeError(message)
    return sum(state.seconds for state in states)


def lines(data: RunData, work: Path) -> Iterator[Line]:
    """Yield the numbers that have a bias and a scatter, in the paper's order."""
    spectra, final = data.spectra, data.final
    stars = {name: data.stars[name][data.stars["in_final_catalogue"]] for name in ("rv", "gaia_rv", "e_gaia_rv")}
    error = float(np.nanmedian(stars["e_gaia_rv"]))
    velocity = compare(stars["rv"], stars["gaia_rv"])
    yield Line("RV − Gaia's (km/s; 2.3)", 3.0, 9.0, velocity, 0, f"0 ± {error:.1f}")
    classes = compare(subclass_numbers(spectra["subclass"][final]), spectra["spt"][final])
    yield Line("pipeline's subclass − SpT (4)", 0.18, 0.74, classes, 2, "")
    literature, apogee, laspm = (
        {(one.quantity, one.snr_above): one for one in t.comparison.agreements} for t in data.tables
    )
    for name, title in QUANTITIES.items():
        if name in PAPER_LITERATURE:
            bias, scatter, bright = PAPER_LITERATURE[name]
            offsets, scatters = np.array([told[name] for told in LITERATURE.values()]).T
            mixed = np.sqrt(np.mean(scatters**2) + np.var(offsets))
            put_in = f"{-np.mean(offsets):+z.{DIGITS[name]}f} ± {mixed:.{DIGITS[name]}f}"
            for above, printed in ((None, (bias, scatter)), (50.0, (np.nan, bright))):
                where = "5.1" if above is None else "5.1, S/N > 50"
                found = literature[name, above].result
                yield Line(
                    title.replace(" (", " − literature (")[:-1] + f"; {where})", *printed, found, DIGITS[name], put_in
                )
    for other, told, label, section in ((apogee, APOGEE, "APOGEE", "5.2"), (laspm, LASPM, "LASPM", "5.3")):
        for name in PAPER_LITERATURE:
            one, (offset, own) = other[name, None], told[name]
            put_in = f"{-offset:+z.{DIGITS[name]}f} ± {own:.{DIGITS[name]}f}"
            title = QUANTITIES[name].replace(" (", f" − {label} (")[:-1] + f"; {section})"
            yield Line(title, one.paper_bias, one.paper_scatter, one.result, DIGITS[name], put_in)
    pairs = run_binaries(work / "run/catalogue/spectra.parquet", work / "wide_binaries.csv", work / "fgk_primaries.csv")
    for one in pairs.agreements:
        title = f"[M/H] − FGK primary's (dex; 5.4, S/N > {one.snr_above:.0f})"
        yield Line(title, *BINARIES[one.snr_above][:2], one.result, 2, f"0 ± {PRIMARY_ERRORS[0]:g}")


def truth_lines(data: RunData) -> Iterator[Line]:
    """Yield measured - true of inactive M dwarfs of the final catalogue beside the paper's against literature."""
    assert data.truth is not None
    plain = plain_stars(data)
    for name, title in QUANTITIES.items():
        bias, scatter, bright = PAPER_LITERATURE.get(name, (3.0, 9.0, np.nan))
        for above, printed in ((0.0, (bias, scatter)), (50.0, (np.nan, bright))):
            some = plain & (data.spectra["snr_r"] > above)
            found = compare(np.asarray(data.spectra[name], dtype=float)[some], data.truth[name][some])
            yield Line(title + (f", S/N > {above:.0f}" if above else ""), *printed, found, DIGITS[name], "")


def repeats(data: RunData) -> Iterator[tuple[str, ...]]:
    """Yield the scatter of repeats at S/N 10 and 100."""
    for name, title in QUANTITIES.items():
        for snr, published in zip((10.0, 100.0), REPEATS[name], strict=True):
            model = data.precision.errors.get(name)
            ours = np.nan if model is None else float(model.repeat_error(snr))
            verdict = "" if not np.isfinite(ours) else "larger" if ours > published else "smaller"
            digits = DIGITS[name]
            paper_text = number(published, digits=digits)
            yield f"{title}, S/N {snr:.0f}", paper_text, number(ours, digits=digits + 1), verdict


def counts(data: RunData) -> Iterator[tuple[str, ...]]:
    """Yield the counts, and each as a share of the one before."""
    spectra, final = data.spectra, data.final
    inside = spectra["cuts"] & int(FinalCut.NOT_IN_SAMPLE) == 0
    left = inside & ~is_rejected(spectra["clean_flags"])
    stars = int(data.stars["in_final_catalogue"].sum())
    ours = (len(final), int(left.sum()), int(final.sum()), stars, int((spectra["activity"][final] == 1).sum()))
    titles = (
        "spectra of class M dwarf",
        "left by the sample's cuts and the cleaning",
        "in the final catalogue",
        "stars in the final catalogue",
        "active spectra in the final catalogue",
    )
    before = (None, 0, 1, 2, 2)
    for title, paper, found, of in zip(titles, PAPER_COUNTS, ours, before, strict=True):
        shares = ("", "") if of is None else (f"{paper / PAPER_COUNTS[of]:.1%}", f"{found / ours[of]:.1%}")
        yield title, f"{paper:,}", shares[0], f"{found:,}", shares[1]


def in_short(
    data: RunData, of_paper: list[Line], of_truth: list[Line], again: list[tuple[str, ...]], sheets: dict[str, Sheet]
) -> Iterator[str]:
    """Yield what the tables come to."""
    judged = [one for one in (*of_paper, *of_truth) if one.verdict]
    larger = [one for one in judged if one.verdict == "larger"]
    same = [one for one in judged if one.verdict == "same"]
    smaller = len(judged) - len(larger) - len(same)
    yield (
        f"Of the {len(judged)} scatters below that the paper has a number for, ours is smaller in {smaller}, the same "
        f"within two errors in {len(same)} and larger in {len(larger)}. Simulated stars are easier than real ones: "
        "their noise is what their inverse variance says, and the models inside the package were trained for such "
        "stars. So smaller is what must come out, and says nothing of real stars."
    )
    by_table = {one.quantity: f" (by construction {one.put_in})" if one.put_in else "" for one in judged}
    worse = [
        f"{one.quantity}: scatter {one.found.values.clipped:.{one.digits + 1}f}, the paper {one.scatter:g}"
        + by_table[one.quantity]
        for one in larger
    ]
    worse += [
        f"{one.quantity}: bias {one.found.values.median:+.{one.digits + 1}f}, the paper {one.bias:+g}"
        + by_table.get(one.quantity, "")
        for one in (*of_paper, *of_truth)
        if np.isfinite(one.bias) and one.biased
    ]
    worse += [
        f"scatter of repeats, {name}: {ours}, the paper {paper}" for name, paper, ours, v in again if v == "larger"
    ]
    yield "**Where ours is worse** than the paper's number: " + ("; ".join(worse) if worse else "nowhere") + "."
    plain = plain_stars(data)
    told = []
    assert data.truth is not None
    for name, title in QUANTITIES.items():
        pull = (np.asarray(data.spectra[name], dtype=float) - data.truth[name])[plain] / errors_of(data.spectra, name)[
            plain
        ]
        share = 100 * np.mean(np.abs(pull[np.isfinite(pull)]) < 1)
        word = "too large" if share > NORMAL + 3 else "too small" if share < NORMAL - 3 else "right"
        told.append(f"{title.split(' (')[0]} {share:.0f} % ({word})")
    shares = ", ".join(told)
    yield f"Errors: the truth is within one published error, systematic part included, of {shares}; 68 % is right."
    flags = {row[0]: row for row in sheets["flags"].rows if row[1] == "all"}
    found = [f"{name.replace(': ', ' by ')} {row[4]}, of those marked {row[6]} true" for name, row in flags.items()]
    yield f"Flags, of the true ones marked: {'; '.join(found)}."
    junk = next(row for row in sheets["junk"].rows if row[0] == "all")
    unseen = [row[0] for row in sheets["junk"].rows if row[6] == "0.0 %"]
    lost = next(row for row in sheets["kept"].rows if row[0] == "all")
    yield (
        f"Junk: of {junk[1]} spectra {junk[7]} are removed, {junk[5]} are left in the catalogue. The cleaning finds "
        f"{junk[6]} of those in the sample, but nothing of {', '.join(unseen) or 'no kind'}; the cuts remove most of "
        f"the rest. Cleaning and cuts lose {lost[2]} and {lost[3]} of the M dwarfs in the sample."
    )


def residuals(fitted: FittedSpectra) -> Iterator[tuple[str, ...]]:
    """Yield the medians of mean abs(residual) / sigma."""
    before = np.nan if fitted.before is None else float(np.nanmedian(fitted.before))
    yield "before the transfer (the emulator alone)", "over 2.0", number(before, digits=2)
    yield "after the transfer", "1.68", number(float(np.nanmedian(fitted.after)), digits=2)


def of_all(sheet: Sheet) -> Sheet:
    """Return a table by S/N with the rows of all S/N alone, without the column that says so."""
    rows = ((row[0], *row[2:]) for row in sheet.rows if row[1] == "all")
    return Sheet(sheet.title, (sheet.header[0], *sheet.header[2:]), tuple(rows))


def page(work: Path, stars: int, workers: int, seconds: float) -> str:
    """Return the document."""
    data = read_run(work / "run", truth=work / "truth.parquet", comparisons=compared_tables(work))
    rows = np.random.default_rng(0).permutation(np.flatnonzero(data.final))[:REFITTED]
    fitted = fit_again(data.folder, data.spectra["spectrum_id"][np.sort(rows)])
    names = ("offsets", "groups", "calibration", "junk", "kept", "flags")
    sheets = dict(zip(names, truth_sheets(data), strict=True))
    of_paper, of_truth, again = list(lines(data, work)), list(truth_lines(data)), list(repeats(data))
    emulator = data.cards["emulator"]["validation"]
    header = ("", "paper: bias, scatter", "bias", "scatter", "n", "put in", "scatter against the paper's")
    return Template((HERE / "validation.template.md").read_text(encoding="utf-8")).substitute(
        version=__version__,
        seed=SEED,
        stars=f"{stars:,}",
        spectra=f"{len(data.final):,}",
        minutes=f"{seconds / 60:.0f}",
        processes="1 process" if workers == 1 else f"{workers} processes",
        short="\n".join(f"* {text}" for text in in_short(data, of_paper, of_truth, again, sheets)),
        lines=table(header, [one.cells() for one in of_paper]),
        truth=table(header, [one.cells() for one in of_truth]),
        repeats=table(("", "paper", "this run (simulated)", "against the paper's"), again),
        residuals=table(
            ("mean of abs(residual) / σ, median", "paper", "this run (simulated)"), list(residuals(fitted))
        ),
        refitted=f"{len(fitted.observed):,}",
        counts=table(("", "paper", "share", "this run (simulated)", "share"), list(counts(data))),
        emulator_median=f"{100 * emulator['median']:.2f}",
        emulator_largest=f"{100 * emulator['largest']:.2f}",
        junk=sheets["junk"].markdown().split("\n", 2)[2],
        flags=of_all(sheets["flags"]).markdown().split("\n", 2)[2],
    )


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/validation"))
    parser.add_argument("--stars", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "validation.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    seconds = finished(given.work, given.stars, given.workers)
    given.output.write_text(page(given.work, given.stars, given.workers, seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
