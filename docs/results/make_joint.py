"""Labels of spectrum and photometry together: python docs/results/make_joint.py [--data FOLDER].

Writes the section "Spectrum and photometry together" of `photometry.md`: simulated stars with photometry of the mock's
own relations, the product of Gaussian and likelihood against a walk along the real chi-square, and real LAMOST stars,
each measured by a model that has not seen it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joint_real import real_text
from joint_walk import Walk, walk
from numpy.typing import NDArray
from pages import number, reflow, table

from stargap.flags import JointFlag
from stargap.measurement.files import measure
from stargap.mock.survey import SurveyChunk, simulate_survey
from stargap.photometry.joint import SYSTEMATIC, joint_labels, spectral_covariance
from stargap.photometry.labels import photometric_labels
from stargap.settings import MeasureSettings
from stargap.statistics import clip, robust_scatter

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
STARS, SEED, WALKED = 4096, 2027, 256
SETTINGS = MeasureSettings(fixed={"a_m": 0.0}, lamost_noise_factor=1.0)
"""The noise of simulated stars is what their inverse variance says."""
MODEL = "transfer-simulated"
NAMES, UNITS, DIGITS = ("teff", "m_h"), {"teff": "Teff (K)", "m_h": "[M/H] (dex)"}, {"teff": 0, "m_h": 3}
BEGIN, END = "<!-- made by docs/results/make_joint.py -->", "<!-- end -->"
NULLS = JointFlag.NO_SPECTRUM | JointFlag.NO_PHOTOMETRY | JointFlag.NO_SOLUTION


@dataclass(frozen=True)
class Stars:
    """Simulated stars, one row each: truth, and columns of spectra, of photometry and of both."""

    truth: Columns
    both: Columns

    def off(self, name: str, what: str = "") -> Array:
        """Return a label less the true one."""
        return np.asarray(self.both[name + what] - self.truth[name])

    def error(self, name: str, what: str = "") -> Array:
        """Return its error, the systematic one included."""
        if what:
            return np.asarray(self.both[f"e_{name}{what}"], dtype=float)
        return np.hypot(self.both[f"e_{name}"], np.nan_to_num(self.both[f"e_{name}_sys"]))


def simulated(stars: int, seed: int) -> tuple[Stars, Walk]:
    """Measure simulated single exposures, and walk along the chi-square of the first of low S/N."""
    parts: list[tuple[Columns, Columns]] = []
    walks: list[Walk] = []
    for chunk in simulate_survey(stars, seed=seed, junk=0.0, repeats=0.0):
        spectrum = measure(chunk.spectra, settings=SETTINGS, model=MODEL, progress=False).arrays()
        gaia = of_spectra(chunk)
        both = spectrum | photometric_labels(gaia) | joint_labels(spectrum, gaia)
        parts.append((chunk.truth, both))
        done = sum(len(one.alone) for one in walks)
        if done < WALKED:
            rows = np.flatnonzero((chunk.truth["snr_r"] < 20) & np.isfinite(both["teff_joint"]))[: WALKED - done]
            some = {name: values[rows] for name, values in gaia.items()}
            walks.append(walk([chunk.spectra[row] for row in rows], some, SETTINGS, MODEL))
    truth, both = (together([part[place] for part in parts]) for place in (0, 1))
    return Stars(truth, both), Walk.together(walks)


def of_spectra(chunk: SurveyChunk) -> Columns:
    """Return the columns of Gaia's table of each spectrum's star, without what photometry does not use."""
    rows = np.searchsorted(chunk.gaia["source_id"], chunk.truth["source_id"])
    return {name: values[rows] for name, values in chunk.gaia.items() if name not in ("ra", "dec", "source_id")}


def together(parts: list[Columns]) -> Columns:
    """Put columns one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def spread(values: Array) -> float:
    """Return the standard deviation, 3-sigma clipped."""
    return float(values[clip(values)].std())


def scatter_rows(stars: Stars, use: NDArray[np.bool_]) -> Iterator[list[str]]:
    """Give the scatter about the truth by S/N, of spectrum, photometry and both."""
    snr = stars.truth["snr_r"]
    for low, high in ((5, 10), (10, 20), (5, 20), (20, 300)):
        rows = use & (snr >= low) & (snr < high)
        for name in NAMES:
            alone, both = stars.off(name)[rows], stars.off(name, "_joint")[rows]
            light = stars.off(name, "_phot")[rows]
            light = light[np.isfinite(light)]
            pulls = [stars.off(name, what)[rows] / stars.error(name, what)[rows] for what in ("", "_joint")]
            digits = DIGITS[name]
            yield [
                f"{low} to {high}: {UNITS[name]}",
                f"{rows.sum()}",
                *(
                    f"{number(values.std(), digits)} ({number(spread(values), digits)})"
                    for values in (alone, light, both)
                ),
                f"{both.std() / alone.std():.2f} ({spread(both) / spread(alone):.2f})",
                number(float(np.median(both)), digits, sign=True),
                *(f"{values.std():.2f} ({robust_scatter(values):.2f})" for values in pulls),
            ]


def kind_rows(stars: Stars, use: NDArray[np.bool_]) -> Iterator[list[str]]:
    """Give medians and root mean squares by kind of star."""
    pair, young = (stars.truth[name].astype(bool) for name in ("binary", "young"))
    low = use & (stars.truth["snr_r"] < 20)
    unlikely = stars.both["p_single_joint"] < 0.5
    for title, rows in (("single, old", low & ~pair & ~young), ("pairs", low & pair), ("young", low & young & ~pair)):
        for name in NAMES:
            values = [stars.off(name, what)[rows] for what in ("", "_joint")]
            yield [
                f"{title}: {UNITS[name]}",
                f"{rows.sum()}",
                *(number(float(np.median(one)), DIGITS[name], sign=True) for one in values),
                *(number(float(np.sqrt(np.mean(one**2))), DIGITS[name]) for one in values),
                f"{np.mean(unlikely[rows]):.2f}",
            ]


def bars(stars: Stars, use: NDArray[np.bool_]) -> list[list[str]]:
    """Return what was to be reached, at S/N 5 to 20, and whether it is."""
    rows = use & (stars.truth["snr_r"] < 20)
    pairs = rows & stars.truth["binary"].astype(bool)
    lines = []

    def add(what: str, value: float, other: float, low: float, high: float, bar: str) -> None:
        met = "met" if low <= value <= high else "**not met**"
        met += "" if low <= other <= high or met != "met" else "; in brackets not"
        lines.append([what, f"{value:.2f} ({other:.2f})", bar, met])

    for name in NAMES:
        alone, both = stars.off(name), stars.off(name, "_joint")
        ratios = both[rows].std() / alone[rows].std(), spread(both[rows]) / spread(alone[rows])
        add(f"{UNITS[name]}: scatter over that of the spectrum alone (3-sigma clipped)", *ratios, 0, 0.7, "at most 0.7")
        pull = (both / stars.error(name, "_joint"))[rows]
        add(f"{UNITS[name]}: pulls (robust)", pull.std(), robust_scatter(pull), 0.9, 1.1, "0.9 to 1.1")
        rms = [float(np.sqrt(np.mean(values[pairs] ** 2))) for values in (both, alone)]
        clipped = [spread(values[pairs]) for values in (both, alone)]
        add(f"{UNITS[name]}: r.m.s. of pairs over that of the spectrum alone (clipped scatter)",
            rms[0] / rms[1], clipped[0] / clipped[1], 0, 1.0, "at most 1")  # fmt: skip
    return lines


def walk_text(found: Walk) -> str:
    """Return what walking along the real chi-square changes."""
    moved = np.abs(found.walked[-1] - found.alone) / found.errors
    last = np.abs(found.walked[-1] - found.walked[-2]) / found.errors
    middle, most = np.median(moved, axis=0), np.percentile(moved, 95, axis=0)
    numbers = [", ".join(f"{values[k]:.2f}" for k in (0, 2)) for values in (middle, most, np.median(last, axis=0))]
    return f"""The spectrum's labels are taken to be Gaussian. Of {len(found.alone)} stars of S/N 5 to 20 the chi-square
of the pixels, nuisance numbers included, was expanded anew at the joint labels, four times over: Teff and [M/H] move by
{numbers[0]} of their joint errors in the median, {numbers[1]} for one star in twenty (and still by {numbers[2]} in the
last step). So the product is enough, and no spectrum is fitted a second time."""


def correlation_text(stars: Stars, use: NDArray[np.bool_]) -> str:
    """Return how errors of Teff and [M/H] are correlated where they are mostly systematic, and what is assumed."""
    rows = use & (stars.truth["snr_r"] > 20) & ~stars.truth["binary"].astype(bool)
    pulls = np.stack([stars.off(name) / stars.error(name) for name in NAMES], axis=1)
    rows &= (np.abs(pulls) < 3).all(axis=1)
    found = np.corrcoef(stars.off("teff")[rows], stars.off("m_h")[rows])[0, 1]
    told = []
    for share in (0.0, SYSTEMATIC, 1.0):
        some = {name: values[rows] for name, values in stars.both.items()}
        mean = spectral_covariance(some, systematic=share).mean(axis=0)
        told.append(f"{mean[0, 2] / np.sqrt(mean[0, 0] * mean[2, 2]):.2f}")
    return f"""Of single stars above S/N 20, whose errors are mostly systematic, Teff and [M/H] of the spectrum are off
together with a correlation of {found:.2f} (within three errors). Systematic errors are taken to be {SYSTEMATIC:g} times
as correlated as noise, which makes it {told[1]}; independent ones would make it {told[0]}, ones correlated as noise
{told[2]}."""


def section(stars: Stars, walked: Walk, real: str) -> str:
    """Return the section."""
    flags = stars.both["joint_flags"]
    use = flags & int(NULLS) == 0
    tense = float(np.mean(flags[use] & int(JointFlag.TENSION) != 0))
    logg = robust_scatter((stars.off("logg", "_joint") / stars.error("logg", "_joint"))[use])
    head = ["S/N in r", "stars", "spectrum", "photometry", "both", "both over spectrum", "median, both",
            "pulls: spectrum", "pulls: both"]  # fmt: skip
    kinds = ["S/N 5 to 20", "stars", "median: spectrum", "both", "r.m.s.: spectrum", "both", "p(single) < 0.5"]
    return f"""## Spectrum and photometry together

`make results-joint`. Labels of the spectrum, with noise and systematic error, times the likelihood of the magnitudes
(`stargap.photometry.joint`), beside labels of the spectrum alone.

### Simulated stars

{len(flags):,} single exposures of the simulated survey (seed {SEED}, no repeats, no junk), measured with
`{MODEL}`, which was trained on other stars of it; {use.sum():,} have usable labels of both. Their photometry is of
relations that are off: by 20 K and 0.03 dex at 3500 K and solar [M/H], with slopes of 1.05 and 0.95 and a scatter of
40 K and 0.08 dex; 12 % are unresolved pairs, 5 % young and too bright, and extinction is unknown. All of them are in
the tables. The fit takes noise to be what inverse variances say (`lamost_noise_factor` 1), as it is here. Standard
deviations of ours − true, 3-sigma clipped ones in brackets; pulls are differences over errors, robust ones in brackets.
Bars are judged by all stars, without clipping.

{table(["S/N 5 to 20", "found", "bar", ""], bars(stars, use))}

{table(head, scatter_rows(stars, use))}

{table(kinds, kind_rows(stars, use))}

The gain is largest where labels of the spectrum alone have tails, at low S/N: clipped, the ratios are nearer to one,
and the better the spectrum the less photometry, with 45 K and 0.08 dex of its own, has to give. It also brings a part
of the offset of its relations, and of young stars' too much light: these are taken for pairs, whose brighter star is
hotter than the blend, so that their Teff is too high. log g is no bar: nature's scatters by twice what the
relations' does, so that joint log g has pulls of {logg:.1f}. Spectrum and photometry disagree (`TENSION`, chance below
1e-4) for {100 * tense:.1f} % of the stars.

{correlation_text(stars, use)}

{walk_text(walked)}

{real}"""


def main() -> None:
    """Write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/ and labels/")
    parser.add_argument("--stars", type=int, default=STARS, help="simulated stars")
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("photometry.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    stars, walked = simulated(given.stars, SEED)
    text = f"{BEGIN}\n\n{reflow(section(stars, walked, real_text(given.data))).strip()}\n\n{END}\n"
    page = given.page.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    given.page.write_text(before.rstrip() + "\n\n" + text + rest.partition(END)[2].lstrip("\n"), encoding="utf-8")


if __name__ == "__main__":
    main()
