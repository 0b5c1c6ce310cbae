"""Make `emulator-stars.md`: stargap against real LAMOST stars with literature labels, and against repeats."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pages import leave_one_out_constant, leave_one_out_line, number, read_index, reflow, table

from stargap import __version__
from stargap.errors import SpectrumError
from stargap.figures.fit import fit_figure
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import LabelFit, fit_labels
from stargap.flags import Flag
from stargap.labels import LABELS, LOGG, M_H
from stargap.measurement.modelled import modelled_spectra
from stargap.measurement.star import Columns, Fitted, measure_batch, parameters_for
from stargap.measurement.velocity import COVERED, SMOOTHING, Templates, measure_velocity
from stargap.pixels import LOG_LAMBDA, PAPER, STARGAP, PixelGrid, grid_for
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.smoother import Smoother
from stargap.spectra.spectrum import Spectrum
from stargap.statistics import Compared, clip, compare, robust_scatter
from stargap.theory.emulator import shipped_emulator

Array = NDArray[np.float64]

SEED, RESAMPLES, SPLITS = 0, 1000, 200
CORNER = 0.05
"""How near [M/H] = -1 counts as at the corner of the [a/M] relation (dex)."""
SETTINGS = MeasureSettings()
REPEATS_FLOOR = 5.0
"""Velocity scatter of repeats of F, G and K stars that noise does not explain (km/s), chosen on these repeats."""
BAR = 10.0
"""Largest robust scatter of velocities that is accepted (km/s)."""
LABEL_COLUMNS = {"teff": "teff", "logg": "logg", "m_h": "feh"}
NAMES = {"teff": "Teff", "logg": "log g", "m_h": "[M/H]", "rv": "RV"}
UNITS = {"teff": "K", "logg": "dex", "m_h": "dex", "rv": "km/s"}
DIGITS = {"teff": 0, "logg": 2, "m_h": 2, "rv": 1}
SOURCES = {
    "J/A+A/625/A68": "Schweitzer 2019",
    "J/A+A/615/A6": "Passegger 2018",
    "arXiv:2010.14867": "Maldonado 2020",
    "J/ApJ/836/77": "Yee 2017",
}
SECOND = {"MasB24": "Mas-Buitrago 2024", "Mald20": "Maldonado 2020", "Mann": "Mann 2015"}
SNR_BINS: tuple[tuple[float, float], ...] = ((0, 25), (25, 50), (50, 100), (100, 200), (200, np.inf))
PAIR_BINS: tuple[tuple[float, float], ...] = ((0, 50), (50, 75), (75, 100), (100, np.inf))
CLEAN_RANGES = (
    (6000, 6270), (6340, 6540), (6600, 6690), (6730, 6840), (6900, 7140), (7360, 7580), (7700, 8090), (8250, 8480),
    (8700, 8890),
)  # fmt: skip
"""Observed wavelengths (A) outside every excluded window, H-alpha and the calcium triplet."""
TRAPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("(a) `native_errors=False`: errors interpolated like fluxes", {"native_errors": False}),
    ("(b) `windows_follow_star=True`: all windows shifted with the star", {"windows_follow_star": True}),
    ("(c) `windows_in_smoother=True`: windows count in the pseudo-continuum", {"windows_in_smoother": True}),
    ("(d) `margin=0`: one-sided ends", {"margin": 0.0}),
    ("(e) `model_sees_weights=False`: model normalised without the star's weights", {"model_sees_weights": False}),
    ("(c) and (e) together", {"windows_in_smoother": True, "model_sees_weights": False}),
)


@dataclass(frozen=True)
class Cool:
    """The spectra of `lamost/cool`, one row each, as measured."""

    index: list[dict[str, str]]
    columns: Columns
    fitted: Fitted

    def known(self, name: str) -> Array:
        """Return a column of the index as numbers, NaN where empty."""
        return np.array([float(row[name] or "nan") for row in self.index])

    def ours(self, name: str) -> Array:
        """Return a measured column as float64."""
        return np.asarray(self.columns[name], dtype=float)

    def flagged(self, flag: Flag) -> NDArray[np.bool_]:
        """Return which rows carry any of these flags."""
        return (np.asarray(self.columns["flags"], dtype=np.int64) & int(flag)) > 0

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Stars with literature labels."""
        return np.array([bool(row["star"]) for row in self.index])

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Rows whose index entry notes no defect."""
        return np.array([not row["note"] for row in self.index])


def main() -> int:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the page goes")
    arguments = parser.parse_args()
    lamost = arguments.data / "lamost"
    if not (lamost / "index.csv").is_file():
        print(f"{lamost / 'index.csv'}: the file does not exist; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    pictures = arguments.out / "emulator-stars"
    pictures.mkdir(parents=True, exist_ok=True)
    cool = measure_cool(lamost)
    parts = [
        introduction(cool),
        literature(cool),
        velocities(cool),
        residuals(cool),
        flags(cool),
        draw(cool, pictures),
        traps(cool),
        Repeats.read(lamost).report(),
    ]
    (arguments.out / "emulator-stars.md").write_text(reflow("\n\n".join(parts)), encoding="utf-8")
    return 0


def measure_cool(lamost: Path) -> Cool:
    """Measure every file of `lamost/cool` as one batch."""
    index = read_index(lamost, "cool")
    items: list[Spectrum | SpectrumError] = []
    for row in index:
        try:
            items.append(read_spectrum(lamost / "cool" / row["file"]))
        except SpectrumError as error:
            items.append(error)
    columns, fitted = measure_batch(items, SETTINGS, shipped_emulator())
    return Cool(index, columns, fitted)


def worse_or_better(ours: float, theirs: float) -> str:
    """Return how one scatter compares with another."""
    return "worse" if ours > theirs else "better" if ours < theirs else "the same"


def bins(values: Array, edges: Sequence[tuple[float, float]]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return names and members of bins."""
    return [
        (f"below {high:.0f}" if low == 0 else f"above {low:.0f}" if np.isinf(high) else f"{low:.0f} to {high:.0f}",
         (values >= low) & (values < high))
        for low, high in edges
    ]  # fmt: skip


def introduction(cool: Cool) -> str:
    """Return what was measured, with what, and what was tuned on it."""
    card = shipped_emulator().card
    labelled, clean, both = cool.labelled, cool.clean, cool.labelled & cool.clean
    edge = cool.flagged(Flag.LOGG_AT_BOUND)
    together = {name: compare_set(cool, name, cool.known(column), both) for name, column in LABEL_COLUMNS.items()}
    lines = []
    for name, (result, baseline) in together.items():
        how = "A constant" if name == "m_h" else "A line in TiO5"
        scatter, simple, unit = result.values.scatter, baseline.values.scatter, UNITS[name]
        error = float(np.nanmedian(cool.ours(f"e_{name}")[both]))
        lines.append(
            f"* **{NAMES[name]}**: median {number(result.values.median, DIGITS[name], sign=True)} {unit}, "
            f"scatter {number(scatter, DIGITS[name])} {unit}, slope {number(result.values.slope, 2)}, "
            f"rank correlation {number(result.values.rank, 2)}. {how}, which knows no physics, "
            f"leaves a scatter of {number(simple, DIGITS[name])} {unit}: ours is {worse_or_better(scatter, simple)}. "
            f"The median quoted error, photon noise without the gap, is {number(error, DIGITS[name])} {unit}."
        )
    rv = compare(cool.ours("rv")[both], cool.known("rv_lines_kms")[both], resamples=0)
    doubtful = sum(row["note"].startswith("TiO5 disagrees") for row in cool.index)
    piled = int((cool.clean & (np.abs(cool.ours("m_h") + 1) < CORNER)).sum())
    span = zip(LABELS, card.lower, card.upper, (0, 1, 1, 1), strict=True)
    facts = [
        ["stargap", __version__],
        ["model", f"{card.kind} v{card.version}, {card.training_data}, R = {card.resolution:.0f}"],
        ["model sha256", card.sha256[:16]],
        ["model range", "; ".join(f"{n} {number(low, k)} to {number(high, k)}" for n, low, high, k in span)],
        ["pixel grid", grid_for(SETTINGS.preset).digest],
        ["error floor", f"{SETTINGS.floor:g} of the pseudo-continuum"],
        ["noise factor, RV floor", f"{SETTINGS.lamost_noise_factor:g}, {SETTINGS.lamost_rv_floor:g} km/s"],
        ["seed, bootstrap samples", f"{SEED}, {RESAMPLES}"],
    ]
    lines.append(
        f"* **RV**: median {number(rv.values.median, 1, sign=True)} km/s, scatter {number(rv.values.scatter, 1)} km/s; "
        f"the bar of {BAR:.0f} km/s is {'met' if rv.values.scatter <= BAR else 'not met'}."
    )
    return f"""# Real stars

Made by `make results-emulator-stars`; every number here comes from `docs/results/make_emulator_stars.py`.

All labels on this page come from fits of real spectra with the synthetic spectra alone, without a transfer network.
They show the synthetic gap.

## In short

The {int(both.sum())} clean labelled stars, delta = ours − literature, scatter = 1.4826 MAD:

{chr(10).join(lines)}

log g is at the edge of the model ({card.lower[LOGG]:.1f} or {card.upper[LOGG]:.1f}) in {int((edge & both).sum())} of
these stars, and in {int((edge & clean).sum())} of all {int(clean.sum())} clean spectra: there it is not a measurement.
{piled} of those {int(clean.sum())} have [M/H] within {CORNER:g} of −1, which is an artefact (see [M/H] below).

## What was measured

{len(cool.index)} LAMOST spectra of `lamost/cool`, K7 to M4, with `stargap.measure` and default settings.
{int(labelled.sum())} have literature labels; "clean" are the {int(both.sum())} of them for which the index notes no
defect (saturation, a wrong object, no signal). "All" includes the others. {doubtful} labelled stars count as
defective because their TiO5 contradicts the literature label, which flatters the TiO5 line on the clean ones.

{table(["what", "value"], facts)}

What was tuned on these stars: the velocity settings (running mean of {SMOOTHING:.0f} Å,
{COVERED[0]:.0f}–{COVERED[1]:.0f} Å) were chosen among about 40 combinations on the clean labelled stars, so their RV
scatter is somewhat optimistic. The error floor of the label fit was chosen by reduced chi-square, blind to labels. No
literature label was used to choose anything in the label fit."""


def compare_set(cool: Cool, name: str, reference: Array, members: NDArray[np.bool_]) -> tuple[Compared, Compared]:
    """Compare our label, and the baseline's, with a reference for some stars."""
    members = members & np.isfinite(reference) & np.isfinite(cool.ours(name))
    known = reference[members]
    predicted = leave_one_out_constant(known)
    if name != "m_h":
        predicted = leave_one_out_line(cool.ours("tio5")[members], known)
    return (
        compare(cool.ours(name)[members], known, resamples=RESAMPLES, seed=SEED),
        compare(predicted, known, resamples=RESAMPLES, seed=SEED),
    )


def comparison_cells(result: Compared, digits: int, *, short: bool = False) -> list[str]:
    """Return n and the five statistics (or three) as text; scatter needs 3 stars, slope and rank 6."""
    places = {"median": digits, "scatter": digits, "clipped": digits} | ({} if short else {"slope": 2, "rank": 2})
    cells = [str(result.n)]
    for name, places_after in places.items():
        enough = result.n >= {"median": 1, "scatter": 3, "clipped": 3}.get(name, 6)
        value = getattr(result.values, name) if enough else np.nan
        cells.append(number(value, places_after, error=getattr(result.errors, name), sign=name == "median"))
    return cells


def literature(cool: Cool) -> str:
    """Return a table of comparisons for each label."""
    parts = [
        """## Labels against the literature

delta = ours − reference. "Scatter" is 1.4826 times the median distance from the median; "clipped" is the standard
deviation after values more than 3 standard deviations from the mean are dropped, repeatedly (10 stars or fewer lose
none). Slope: ours on the reference, ordinary least squares. Rank: Spearman. ± are bootstrap standard deviations
over stars; scatter is given from 3 stars, slope and rank from 6. The first block takes each star's first reference,
the "second opinions" are further labels of the same stars.

The baselines are leave-one-out predictions trained on the same reference labels: for Teff and log g a line in our TiO5
(stars without TiO5 drop out), for [M/H] the mean of the other stars. Their median is 0 or nearly so by construction,
ours is not: compare scatters. For the same reason they know the star sample, and the labels' own systematics."""
    ]
    refs = {r: np.array([row["ref"].startswith(r + "/") for row in cool.index]) for r in SOURCES}
    strays = cool.labelled & ~np.any(list(refs.values()), axis=0)
    if strays.any():
        message = f"references without a name: {sorted({cool.index[i]['ref'] for i in np.flatnonzero(strays)})}"
        raise ValueError(message)
    for name, column in LABEL_COLUMNS.items():
        digits, known = DIGITS[name], cool.known(column)
        sets: list[tuple[str, Array, NDArray[np.bool_]]] = [("**together**", known, cool.labelled)]
        sets += [(f"{SOURCES[ref]} ({ref})", known, cool.labelled & member) for ref, member in refs.items()]
        for suffix, author in SECOND.items():
            if f"{column}_{suffix}" in cool.index[0]:
                other = cool.known(f"{column}_{suffix}")
                sets.append((f"second opinion: {author} (`{suffix}`)", other, np.isfinite(other)))
        rows = []
        for title, reference, members in sets:
            for which, subset in (("clean", members & cool.clean), ("all", members)):
                if which == "all" and (subset == (members & cool.clean)).all():
                    continue
                ours, baseline = compare_set(cool, name, reference, subset)
                if ours.n:
                    line = comparison_cells(baseline, digits, short=True) if baseline.n else ["0", "–", "–", "–"]
                    rows.append([title, which, *comparison_cells(ours, digits), line[2], line[3]])
        base = "constant" if name == "m_h" else "TiO5 line"
        head = ["reference", "stars", "n", "median", "scatter", "clipped", "slope", "rank"]
        head += [f"{base}: scatter", f"{base}: clipped"]
        parts.append(f"### {NAMES[name]} ({UNITS[name]})\n\n{table(head, rows)}")
        if name == "teff":
            members = cool.labelled & cool.clean
            recalibrated = compare(
                leave_one_out_line(cool.ours(name)[members], known[members]),
                known[members],
                resamples=RESAMPLES,
                seed=SEED,
            )
            scatter, deviation = comparison_cells(recalibrated, digits)[2:4]
            parts.append(
                f"A leave-one-out line in our own Teff, in place of TiO5, predicts the clean labels with a scatter of "
                f"{scatter} K ({deviation} K clipped): what remains once offset and slope are taken out."
            )
        if name == "m_h":
            parts.append(alpha_tie(cool))
            same = known[refs["arXiv:2010.14867"] & cool.clean]
            often = max(int((same == value).sum()) for value in same)
            parts.append(
                f"{often} of the {len(same)} clean [M/H] of Maldonado 2020 are the same number: they test nothing here."
            )
    parts.append("![ours against the literature](emulator-stars/scatter.png)")
    return "\n\n".join(parts)


def alpha_tie(cool: Cool) -> str:
    """Fit again with [a/M] free and held at 0, velocities kept, and tell what the tie to [M/H] does."""
    both, clean = cool.labelled & cool.clean, cool.clean
    rows = []
    for name, options in (
        ("tied to [M/H]", {}), ("free", {"free_alpha": True}), ("held at 0", {"fixed": {"a_m": 0.0}})
    ):  # fmt: skip
        fit = Refit(cool, np.arange(len(cool.index)), SETTINGS.model_copy(update=options)).fit(STARGAP)
        labels = fit.labels.numpy()
        cells = []
        for place, (label, column) in enumerate(LABEL_COLUMNS.items()):
            known = cool.known(column)[both]
            result = compare(labels[both, place], known, resamples=0).values
            digits = DIGITS[label]
            cells.append(f"{number(result.median, digits, sign=True)} ({number(result.scatter, digits)})")
        corner = int((np.abs(labels[clean, M_H] + 1) < CORNER).sum())
        edge = int((fit.flags.numpy()[clean] & int(Flag.LOGG_AT_BOUND) > 0).sum())
        chi2 = number(float(np.nanmedian(fit.chi2.numpy()[clean])), 3)
        rows.append([name, *cells, str(corner), str(edge), chi2])
    head = ["[a/M]", "ΔTeff (K)", "Δlog g (dex)", "Δ[M/H] (dex)"]
    head += [f"[M/H] within {CORNER:g} of −1", "log g at the edge", "reduced χ²"]
    return f"""The fit ties [a/M] to [M/H]; the relation ends at [M/H] = −1, and fits gather in that corner. The same
velocities fitted with other choices: median (scatter) of ours − literature on the clean labelled stars, then counts and
the median reduced χ² of the {int(clean.sum())} clean spectra.

{table(head, rows)}"""


@dataclass(frozen=True)
class Refit:
    """Fits some rows again at the velocities that they have."""

    cool: Cool
    rows: NDArray[np.int64]
    settings: MeasureSettings = SETTINGS

    def fit(self, grid: PixelGrid, floor: float = SETTINGS.floor) -> LabelFit:
        """Prepare on `grid` and fit the labels."""
        emulator = shipped_emulator()
        native = self.cool.fitted.native[torch.as_tensor(self.rows)]
        prepared = prepare(native, torch.as_tensor(self.cool.ours("rv")[self.rows]), grid)
        return fit_labels(
            prepared,
            EmulatorModel(emulator, prepared),
            emulator,
            parameters_for(self.settings, emulator),
            error_floor=floor,
            starts=SETTINGS.starts,
            max_iterations=SETTINGS.max_iterations,
        )


def velocities(cool: Cool) -> str:
    """Return the comparison of velocities with lines fitted by hand."""
    rows = []
    for which, members in (("clean", cool.labelled & cool.clean), ("all", cool.labelled)):
        result = compare(cool.ours("rv")[members], cool.known("rv_lines_kms")[members], resamples=RESAMPLES, seed=SEED)
        rows.append([which, *comparison_cells(result, 1)])
        if which == "clean":
            scatter, error = result.values.scatter, result.errors.scatter
    return f"""## Velocities (km/s)

Against the index's velocities from lines fitted by hand, given to 1 km/s, whose own errors are not known.

{table(["stars", "n", "median", "scatter", "clipped", "slope", "rank"], rows)}

The bar is a scatter of at most {BAR:.0f} km/s on the clean labelled stars: {number(scatter, 1, error=error)} km/s,
{"met" if scatter <= BAR else "not met"}."""


def residuals(cool: Cool) -> str:
    """Return residuals over errors by S/N."""
    star, model = cool.fitted.prepared, cool.fitted.fit.model
    count = len(cool.index)
    apart = torch.where(star.good, (star.flux - model).abs(), torch.nan)[:count]
    over = torch.nanmean(apart / star.sigma[:count], dim=1).numpy()
    size = 100 * torch.nanmedian(apart, dim=1).values.numpy()
    fitted = cool.clean & np.isfinite(cool.ours("chi2")) & np.isfinite(over)
    sets = [("all clean", fitted), ("clean labelled", fitted & cool.labelled)]
    sets += [(f"S/N {name}", fitted & member) for name, member in bins(cool.ours("snr_r"), SNR_BINS)]
    rows = [
        [name, str(m.sum()), number(float(np.median(over[m])), 2), number(float(np.median(size[m])), 2),
         number(float(np.median(cool.ours("chi2")[m])), 2)]
        for name, m in sets if m.any()
    ]  # fmt: skip
    head = ["stars", "n", "mean abs. residual / σ", "median abs. residual (%)", "reduced χ²"]
    return f"""## Residuals

For each star the mean |data − model| / σ over its fitted pixels, with σ as the file says (no floor, no noise factor);
then the median over stars. Noise alone, as quoted, would give 0.80. S/N is per pixel in r. Reduced chi-square has the
error floor in it.

{table(head, rows)}

Towards high S/N what remains is the model's, not the noise: that is the gap in numbers."""


def flags(cool: Cool) -> str:
    """Return how many rows carry each flag."""
    bits = np.asarray(cool.columns["flags"])
    both = cool.labelled & cool.clean
    rows = [
        [flag.sentence, str(int(has.sum())), str(int((has & cool.clean).sum())), str(int((has & both).sum()))]
        for flag in Flag
        if (has := cool.flagged(flag)).any()
    ]
    none = bits == 0
    rows.append(["no flag", str(none.sum()), str((none & cool.clean).sum()), str((none & both).sum())])
    rows.append(["rows", str(len(bits)), str(cool.clean.sum()), str(both.sum())])
    return "## Flags\n\n" + table(["flag", "all", "clean", "clean labelled"], rows)


def draw(cool: Cool, folder: Path) -> str:
    """Draw the scatter figure and the three worst clean stars; return the section about the latter."""
    scatter_figure(cool).savefig(folder / "scatter.png", dpi=90)
    away = np.where(cool.labelled & cool.clean, cool.ours("teff") - cool.known("teff"), 0.0)
    parts = ["## The three worst clean stars\n\nLargest |Teff − literature|."]
    for place, row in enumerate(np.argsort(-np.abs(away), kind="stable")[:3], start=1):
        entry = cool.index[row]
        one = modelled_spectra(cool.columns, cool.fitted)[int(row) : int(row) + 1]
        figure = fit_figure(cool.columns, int(row), one)
        figure.savefig(folder / f"worst-{place}.png", dpi=80)
        source = next(name for ref, name in SOURCES.items() if entry["ref"].startswith(ref + "/"))
        text = "; ".join(
            f"{NAMES[n]} {number(cool.ours(n)[row], DIGITS[n])} (literature {number(cool.known(c)[row], DIGITS[n])})"
            for n, c in LABEL_COLUMNS.items()
        )
        flagged = cool.columns["flag_text"][row]
        parts.append(
            f"**{entry['star']}**: {text}; {source}."
            + (f" Flags: {flagged}." if flagged else " No flag.")
            + f"\n\n![fit of {entry['star']}](emulator-stars/worst-{place}.png)"
        )
    return "\n\n".join(parts)


def scatter_figure(cool: Cool) -> Any:
    """Draw ours against the literature for Teff, log g, [M/H] and RV."""
    from matplotlib.figure import Figure

    styles = {"J/A+A/625/A68": ("#0072b2", "o"), "J/A+A/615/A6": ("#d55e00", "s"),
              "arXiv:2010.14867": ("#009e73", "^"), "J/ApJ/836/77": ("#000000", "D")}  # fmt: skip
    figure = Figure(figsize=(8.6, 8.2), layout="constrained")
    panels = {"teff": "teff", "logg": "logg", "m_h": "feh", "rv": "rv_lines_kms"}
    for axis, (name, column) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        x, y = cool.known(column), cool.ours(name)
        for ref, (color, marker) in styles.items():
            member = np.array([row["ref"].startswith(ref + "/") for row in cool.index])
            for clean in (True, False):
                m = member & (cool.clean == clean)
                axis.errorbar(
                    x[m], y[m], yerr=cool.ours(f"e_{name}")[m], fmt=marker, color=color, ms=5, lw=0.8,
                    mfc=color if clean else "none", label=SOURCES[ref] if clean else None,
                )  # fmt: skip
        shown = cool.labelled & np.isfinite(x) & np.isfinite(y)
        both = np.concatenate([x[shown], y[shown]])
        pad = 0.06 * np.ptp(both)
        ends = (both.min() - pad, both.max() + pad)
        axis.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        axis.set(xlim=ends, ylim=ends)
        unit = f" ({UNITS[name]})"
        axis.set_xlabel(("lines fitted by hand: " if name == "rv" else "literature ") + NAMES[name] + unit)
        axis.set_ylabel(f"our {NAMES[name]}{unit}")
        axis.tick_params(direction="in", top=True, right=True)
        if name == "teff":
            handles, _ = axis.get_legend_handles_labels()
            handles += axis.plot([], [], "o", color="0.4", mfc="none", label="open: noted defect")
            axis.legend(handles=handles, frameon=False, fontsize=8, loc="lower right")
    return figure


def traps(cool: Cool) -> str:
    """Fit again with one choice of the preparation set back to the paper's, and tell what changes."""
    rows = np.flatnonzero(cool.clean & ~cool.flagged(Flag.LOW_SN | Flag.RV_WEAK) & np.isfinite(cool.ours("teff")))
    fit = Refit(cool, rows).fit

    def ratios(new: LabelFit, old: LabelFit) -> list[float]:
        ratio = torch.where(old.errors > 0, new.errors / old.errors, torch.nan)
        return torch.nanmedian(ratio, dim=0).values.tolist()

    ours = fit(STARGAP)
    tested = [(name, fit(replace(STARGAP, **changes))) for name, changes in TRAPS]
    tested.append(("all five (`PAPER` grid)", fit(PAPER)))
    paper = MeasureSettings(preset="paper")
    tested.append((f"`paper` preset: the same with error floor {paper.floor:g}", fit(PAPER, paper.floor)))
    cells = []
    for name, other in tested:
        moved = (other.labels - ours.labels).numpy()
        changes = [
            f"{number(float(np.nanmedian(moved[:, k])), digits, sign=True)} "
            f"({number(robust_scatter(moved[np.isfinite(moved[:, k]), k]), digits)})"
            for k, digits in enumerate((1, 3, 3))
        ]
        larger = [number(value, 2) for value in ratios(other, ours)[:3]]
        change = number(float(torch.nanmedian(other.chi2 - ours.chi2)), 2, sign=True)
        cells.append([name, *changes, " / ".join(larger), change])
    bare = ratios(fit(replace(STARGAP, native_errors=False), 0.0), fit(STARGAP, 0.0))
    head = ["set back to the paper's", "ΔTeff (K)", "Δlog g (dex)", "Δ[M/H] (dex)"]
    head += ["error ratio: Teff / log g / [M/H]", "Δχ²"]
    at_edge = int(((ours.flags & int(Flag.LOGG_AT_BOUND)) > 0).sum())
    return f"""## What each of the five traps does

The {len(rows)} clean stars (with or without literature labels; S/N of 5 and more) fitted again with one choice of the
preparation set back to the paper's; velocities stay. Δ = changed − default, as median (1.4826 MAD). The last columns
are the median ratio of errors (changed / default) and the median change of reduced χ². These are changes, not
improvements: no truth is involved. log g is at the edge of the model in {at_edge} of these stars, where it cannot move
further.

{table(head, cells)}

(a) also replaces propagated noise by the inverse Hessian, into which the error floor goes. With no floor on either
side, interpolated errors give label errors {" / ".join(number(v, 2) for v in bare[:3])} times the propagated ones
(Teff / log g / [M/H]). (c) and (e) belong together: windows kept out of the star's pseudo-continuum but not out of the
model's are a mismatch that neither preset has."""


@dataclass(frozen=True)
class Repeats:
    """Epochs of F-K stars: native spectra, the star of each, S/N in r, and pairs of successive epochs."""

    native: NativeBatch
    star: NDArray[np.int64]
    letter: list[str]
    snr: Array
    pairs: NDArray[np.int64]

    @classmethod
    def read(cls, lamost: Path) -> Repeats:
        """Read `lamost/repeats` and group by position within 3 arcsec; stars with one epoch are left out."""
        index = [row for row in read_index(lamost, "repeats") if row["subclass"][:1] in "FGK"]
        spectra = [read_spectrum(lamost / "repeats" / row["file"]) for row in index]
        order = np.argsort([s.facts.lmjd or 0 for s in spectra], kind="stable")
        place = np.radians([(spectra[i].facts.ra, spectra[i].facts.dec) for i in order])
        across = (place[:, None, 0] - place[:, 0]) * np.cos(place[:, 1])
        near = np.hypot(across, place[:, None, 1] - place[:, 1]) < np.radians(3 / 3600)
        first = near.argmax(axis=1)
        several = [np.flatnonzero(first == k) for k in np.unique(first) if (first == k).sum() > 1]
        rows = np.concatenate(several)
        star = np.concatenate([np.full(len(members), k) for k, members in enumerate(several)])
        chosen = [spectra[order[i]] for i in rows]
        same = np.flatnonzero(star[1:] == star[:-1])
        return cls(
            to_log_lambda(chosen),
            star,
            [index[order[members[0]]]["subclass"][0] for members in several],
            np.array([s.facts.snr_r for s in chosen], dtype=float),
            np.stack([same, same + 1], axis=1),
        )

    def templates(self, native: NativeBatch) -> Templates:
        """Return each star's co-add on the log-lambda grid, weighted by inverse variance."""
        stars = int(self.star.max()) + 1
        member = torch.nn.functional.one_hot(torch.as_tensor(self.star), stars).double().T
        weight = native.ivar.double()
        total = member @ weight
        flux = ((member @ (weight * native.flux.double())) / total.clamp_min(1e-30)).numpy()
        pixels = np.arange(LOG_LAMBDA.count)
        for row, held in zip(flux, total.numpy() > 0, strict=True):
            row[~held] = np.interp(pixels[~held], pixels[held], row[held])
        return Templates(
            torch.as_tensor(flux, dtype=torch.float32), first=LOG_LAMBDA.step * LOG_LAMBDA.first, step=LOG_LAMBDA.step
        )

    def best_other(self) -> NDArray[np.int64]:
        """Return for each star the best-exposed other star of its letter class."""
        total = np.bincount(self.star, self.snr)
        letter = np.array(self.letter)
        stars = np.arange(len(total))
        return np.array([max(stars[(letter == letter[k]) & (stars != k)], key=lambda j: total[j]) for k in stars])

    def differences(self, native: NativeBatch, templates: Templates, which: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return velocity differences of the pairs and photon errors of the epochs ``(pair, 2)``, km/s."""
        result = measure_velocity(native, templates, only=torch.as_tensor(which))
        rv, error = result.rv.numpy(), result.error.numpy()
        return rv[self.pairs[:, 1]] - rv[self.pairs[:, 0]], error[self.pairs]

    def simulated(self, templates: Templates, draws: int = 3) -> tuple[Array, Array]:
        """Return differences and photon errors of simulated pairs without velocity changes, quoted noise only."""
        wide = Smoother(LOG_LAMBDA.wavelength, 100.0)
        good = (self.native.ivar > 0).float()
        level = wide(self.native.flux * good) / wide(good).clamp_min(0.1)
        shape = templates.flux / (wide(templates.flux) / wide(torch.ones_like(templates.flux)))
        truth = shape[torch.as_tensor(self.best_other()[self.star])] * level
        sigma = torch.where(self.native.ivar > 0, self.native.ivar.clamp_min(1e-10).rsqrt(), 0.0)
        generator = torch.Generator().manual_seed(SEED)
        apart: list[Array] = []
        errors: list[Array] = []
        for _ in range(draws):
            noisy = (truth + sigma * torch.randn(sigma.shape, generator=generator)) * good
            native = replace(self.native, flux=noisy)
            difference, error = self.differences(native, self.templates(native), self.star)
            apart.append(difference)
            errors.append(error)
        return np.concatenate(apart), np.concatenate(errors)

    def noise(self) -> tuple[Array, Array]:
        """Return robust rms over quoted error and lag-1 autocorrelation of pair differences, ``(pair, range)``."""
        wide = Smoother(LOG_LAMBDA.wavelength, 100.0)
        good = self.native.ivar > 0
        level = wide(self.native.flux * good) / wide(good.float()).clamp_min(0.1)
        sigma = torch.where(good, self.native.ivar.clamp_min(1e-10).rsqrt(), torch.nan) / level
        normal = self.native.flux / level
        one, two = torch.as_tensor(self.pairs.T)
        z = ((normal[one] - normal[two]) / torch.hypot(sigma[one], sigma[two])).numpy().astype(float)
        rms, lag = (np.full((len(z), len(CLEAN_RANGES)), np.nan) for _ in range(2))
        for k, (low, high) in enumerate(CLEAN_RANGES):
            part = z[:, (LOG_LAMBDA.wavelength > low) & (LOG_LAMBDA.wavelength < high)]
            for i, values in enumerate(part):
                if np.isfinite(values).sum() < 50:
                    continue
                away = values - np.nanmedian(values)
                rms[i, k] = 1.4826 * np.nanmedian(np.abs(away))
                away[np.abs(away) > 4 * rms[i, k]] = np.nan
                lag[i, k] = np.nanmean(away[1:] * away[:-1]) / np.nanmean(away**2)
        return rms, lag

    def report(self) -> str:
        """Return the section on repeats."""
        factor, floor = SETTINGS.lamost_noise_factor, REPEATS_FLOOR
        templates = self.templates(self.native)
        apart, photon = self.differences(self.native, templates, self.star)
        error = quoted(photon, factor, floor)
        lower = self.snr[self.pairs].min(axis=1)
        sets = [("all", np.ones(len(apart), dtype=bool))]
        sets += [(f"S/N {name}", member) for name, member in bins(lower, PAIR_BINS)]
        rows = []
        for name, m in sets:
            pull = compare((apart / error)[m], np.zeros(m.sum()), resamples=RESAMPLES, seed=SEED)
            rows.append([
                name, str(m.sum()), number(robust_scatter(apart[m]), 1), number(float(np.median(error[m])), 1),
                number(float((apart / error)[m].std(ddof=1)), 2),
                number(pull.values.clipped, 2, error=pull.errors.clipped),
                number(pull.values.scatter, 2, error=pull.errors.scatter),
            ])  # fmt: skip
        fake, fake_photon = self.simulated(templates)
        fake_pull = fake / quoted(fake_photon, 1.0, 0.0)
        other, other_photon = self.differences(self.native, templates, self.best_other()[self.star])
        other_pull = other / quoted(other_photon, factor, floor)
        rms, lag = self.noise()
        total = rms * np.sqrt(1 + 2 * lag.clip(min=0))
        ranges = [
            [f"{low}–{high}", number(float(np.nanmedian(rms[:, k])), 2), number(float(np.nanmedian(lag[:, k])), 2),
             number(float(np.nanmedian(total[:, k])), 2)]
            for k, (low, high) in enumerate(CLEAN_RANGES)
        ]  # fmt: skip
        head = ["pairs", "n", "scatter of differences", "median error"]
        head += ["pulls: std", "pulls: clipped", "pulls: scatter"]
        middle = [float(np.median(np.nanmedian(values, axis=0))) for values in (rms, lag, total)]
        largest = float(np.nanmedian(total, axis=0).max())
        return f"""## Repeats: are the velocity errors right?

`lamost/repeats` holds {len(self.star)} spectra of {int(self.star.max()) + 1} F, G and K stars with 2 to
{int(np.bincount(self.star).max())} epochs (position within 3 arcsec). The emulator has no such stars, so each star's
own co-add (inverse-variance weighted flux) is its template. {len(apart)} pairs of successive epochs; the error of a
difference is the root of the summed squares of hypot({factor:g} × photon error, {floor:g} km/s) of both epochs;
pull = difference / error. S/N in r is the lower of the pair. Differences and errors in km/s; pulls have no unit and a
scatter of 1 where errors are right, more where they are too small. ± are bootstrap standard deviations over pairs.

{table(head, rows)}

**The factor {factor:g} and the floor of {floor:g} km/s were chosen on these same repeats**, so this table is not an
independent test. Three things to know about it:

* The co-add holds each epoch's own noise, which draws the epochs together. Simulated pairs with the quoted noise alone,
  measured in the same way, give pulls (photon errors only) with a clipped deviation of
  {number(clipped(fake_pull), 2)} and a scatter of {number(robust_scatter(fake_pull), 2)} instead of 1. The part of the
  table's pulls that is noise is too low by as much.
* Against the co-add of the best-exposed *other* star of the same letter class, which holds none of their noise, the
  real pairs differ by {number(robust_scatter(other), 1)} km/s, and their pulls have a clipped deviation of
  {number(clipped(other_pull), 2)} and a scatter of {number(robust_scatter(other_pull), 2)}. Here templates that do not
  match add their part.
* These are not M dwarfs, and their binaries and pulsations count as errors. The floor of M dwarfs is
  {SETTINGS.lamost_rv_floor:g} km/s, by their scatter about Gaia's velocities ([calibration.md](calibration.md)).

### Where the factor comes from

Differences of two epochs, each divided by its running mean (Gaussian of 100 Å), in units of the quoted error: 1.4826
MAD over pixels, and the correlation of neighbouring pixels, as medians over pairs. A sum over many pixels then has
rms × √(1 + 2 lag-1) times the quoted error.

{table(["range (Å)", "robust rms", "lag-1 correlation", "factor"], ranges)}

Medians over the ranges: {" / ".join(number(value, 2) for value in middle)}; the largest factor is {number(largest, 2)}.
The setting is {factor:g}. Velocity differences of the epochs leave traces of lines, which count here too.

{self.split_half(apart, photon, total)}"""

    def split_half(self, apart: Array, photon: Array, total: Array) -> str:
        """Choose factor and floor on half of the stars and test them on the other half; return the paragraph."""
        random = np.random.default_rng(SEED)
        owner = self.star[self.pairs[:, 0]]
        stars = int(self.star.max()) + 1
        chosen, tested, fixed = [], [], []
        for _ in range(SPLITS):
            here = np.isin(owner, random.permutation(stars)[: stars // 2])
            factor = float(np.median(np.nanmedian(total[here], axis=0)))
            floor = matching_floor(apart[here], photon[here], factor)
            pull = (apart / quoted(photon, factor, floor))[~here]
            usual = (apart / quoted(photon, SETTINGS.lamost_noise_factor, REPEATS_FLOOR))[~here]
            chosen.append((factor, floor))
            tested.append((robust_scatter(pull), clipped(pull)))
            fixed.append((robust_scatter(usual), clipped(usual)))

        def range_of(values: list[tuple[float, float]], k: int, digits: int) -> str:
            low, middle, high = np.percentile(np.array(values)[:, k], [16, 50, 84])
            return f"{number(middle, digits)} ({number(low, digits)} to {number(high, digits)})"

        factor = float(np.median(np.nanmedian(total, axis=0)))
        rows = [
            ["chosen on one half", range_of(chosen, 0, 2), range_of(chosen, 1, 1)],
            ["the settings", number(SETTINGS.lamost_noise_factor, 2), number(REPEATS_FLOOR, 1)],
        ]
        for row, values in zip(rows, (tested, fixed), strict=True):
            row += [range_of(values, 0, 2), range_of(values, 1, 2)]
        return f"""### Split-half check

{SPLITS} times the stars are split at random. On one half the factor is taken from flux differences as above (median
over ranges) and the floor is the one that makes the scatter (1.4826 MAD) of pulls 1; both are then tested on the other
half. Median and 16th to 84th percentile over the splits.

{table(["errors", "factor", "floor (km/s)", "pulls of the other half: scatter", "clipped"], rows)}

On all stars the same rule gives {number(factor, 2)} and {number(matching_floor(apart, photon, factor), 1)} km/s."""


def quoted(photon: Array, factor: float, floor: float) -> Array:
    """Return the error of a difference from photon errors ``(pair, 2)``, all km/s."""
    return np.sqrt((np.hypot(factor * photon, floor) ** 2).sum(axis=1))


def matching_floor(apart: Array, photon: Array, factor: float) -> float:
    """Return the floor (km/s, to 0.1) with which the scatter of pulls is nearest to 1."""
    floors = np.arange(0.0, 20.05, 0.1)
    away = [abs(robust_scatter(apart / quoted(photon, factor, floor)) - 1) for floor in floors]
    return float(floors[int(np.argmin(away))])


def clipped(values: Array) -> float:
    """Return the standard deviation after a 3-sigma clip."""
    return float(values[clip(values)].std(ddof=1))


if __name__ == "__main__":
    raise SystemExit(main())
