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
from stargap.flags import Flag
from stargap.labels import LOGG
from stargap.measurement.fits import Fitted
from stargap.measurement.star import Columns, measure_batch
from stargap.measurement.velocity import COVERED, SMOOTHING, Templates, measure_velocity
from stargap.pixels import LOG_LAMBDA
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, to_log_lambda
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
SNR_BINS: tuple[tuple[float, float], ...] = ((0, 25), (25, 50), (50, 100), (100, 200), (200, np.inf))
PAIR_BINS: tuple[tuple[float, float], ...] = ((0, 50), (50, 75), (75, 100), (100, np.inf))
CLEAN_RANGES = (
    (6000, 6270), (6340, 6540), (6600, 6690), (6730, 6840), (6900, 7140), (7360, 7580), (7700, 8090), (8250, 8480),
    (8700, 8890),
)  # fmt: skip
"""Observed wavelengths (A) outside every excluded window, H-alpha and the calcium triplet."""


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
    scatter_figure(cool).savefig(pictures / "scatter.png", dpi=90)
    parts = [
        introduction(cool),
        literature(cool, lamost),
        residuals(cool),
        Repeats.read(lamost).report(),
    ]
    (arguments.out / "emulator-stars.md").write_text(reflow("\n\n".join(parts)), encoding="utf-8")
    return 0


def measure_cool(lamost: Path, settings: MeasureSettings = SETTINGS) -> Cool:
    """Measure every file of `lamost/cool` as one batch."""
    index = read_index(lamost, "cool")
    items: list[Spectrum | SpectrumError] = []
    for row in index:
        try:
            items.append(read_spectrum(lamost / "cool" / row["file"]))
        except SpectrumError as error:
            items.append(error)
    columns, fitted = measure_batch(items, settings, shipped_emulator())
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
    lines.append(
        f"* **RV**: median {number(rv.values.median, 1, sign=True)} km/s, scatter {number(rv.values.scatter, 1)} km/s; "
        f"the bar of {BAR:.0f} km/s is {'met' if rv.values.scatter <= BAR else 'not met'}."
    )
    return f"""# The emulator alone on real stars

What the synthetic spectra say of the {int(both.sum())} clean labelled stars by themselves, without a transfer (delta =
ours − literature, scatter = 1.4826 MAD):

{chr(10).join(lines)}

log g is at the edge of the model ({card.lower[LOGG]:.1f} or {card.upper[LOGG]:.1f}) in {int((edge & both).sum())} of
these stars, and in {int((edge & clean).sum())} of all {int(clean.sum())} clean spectra: there it is not a measurement.
{piled} of those {int(clean.sum())} have [M/H] within {CORNER:g} of −1, which is an artefact (below).

Made by `make results-emulator-stars` with stargap {__version__}, {card.kind} v{card.version} ({card.training_data}, R =
{card.resolution:.0f}) and default settings: {len(cool.index)} LAMOST spectra of `lamost/cool`, K7 to M4.
{int(labelled.sum())} have literature labels; "clean" are the {int(both.sum())} of them for which the index notes no
defect (saturation, a wrong object, no signal). {doubtful} labelled stars count as defective because their TiO5
contradicts the literature label, which flatters the TiO5 line on the clean ones. The velocity settings (running mean of
{SMOOTHING:.0f} Å, {COVERED[0]:.0f}–{COVERED[1]:.0f} Å) were chosen among about 40 combinations on the clean labelled
stars, so their RV scatter is somewhat optimistic. No literature label was used to choose anything in the label fit."""


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


def literature(cool: Cool, lamost: Path) -> str:
    """Return how labels and velocities compare with the literature's."""
    rows = []
    for name, column in LABEL_COLUMNS.items():
        for which, members in (("clean", cool.labelled & cool.clean), ("all", cool.labelled)):
            ours, baseline = compare_set(cool, name, cool.known(column), members)
            simple = comparison_cells(baseline, DIGITS[name], short=True)[2]
            rows.append([f"{NAMES[name]} ({UNITS[name]})", which, *comparison_cells(ours, DIGITS[name]), simple])
    for which, members in (("clean", cool.labelled & cool.clean), ("all", cool.labelled)):
        result = compare(cool.ours("rv")[members], cool.known("rv_lines_kms")[members], resamples=RESAMPLES, seed=SEED)
        rows.append(["RV (km/s)", which, *comparison_cells(result, 1), "–"])
    head = ["", "stars", "n", "median", "scatter", "clipped", "slope", "rank", "baseline's scatter"]
    return f"""## Against the literature

"Clipped" is the standard deviation after values more than 3 standard deviations from the mean are dropped, repeatedly
(10 stars or fewer lose none). Slope: ours on the reference, ordinary least squares. Rank: Spearman. ± are bootstrap
standard deviations over stars. The baseline predicts each star from the reference labels of the others: for Teff and
log g a line in our TiO5, for [M/H] their mean. Velocities are compared with those of lines fitted by hand, given to 1
km/s, whose own errors are not known.

{table(head, rows)}

{alpha_tie(cool, lamost)}

![ours against the literature](emulator-stars/scatter.png)"""


def alpha_tie(cool: Cool, lamost: Path) -> str:
    """Measure again with [a/M] free and held at 0, and tell what the tie to [M/H] does."""
    both, clean = cool.labelled & cool.clean, cool.clean
    rows = []
    for name, one in (
        ("tied to [M/H]", cool),
        ("free", measure_cool(lamost, SETTINGS.model_copy(update={"free_alpha": True}))),
        ("held at 0", measure_cool(lamost, SETTINGS.model_copy(update={"fixed": {"a_m": 0.0}}))),
    ):
        cells = []
        for label, column in LABEL_COLUMNS.items():
            result = compare(one.ours(label)[both], cool.known(column)[both], resamples=0).values
            digits = DIGITS[label]
            cells.append(f"{number(result.median, digits, sign=True)} ({number(result.scatter, digits)})")
        corner = int((np.abs(one.ours("m_h")[clean] + 1) < CORNER).sum())
        edge = int(one.flagged(Flag.LOGG_AT_BOUND)[clean].sum())
        rows.append([name, *cells, str(corner), str(edge), number(float(np.nanmedian(one.ours("chi2")[clean])), 3)])
    head = ["[a/M]", "ΔTeff (K)", "Δlog g (dex)", "Δ[M/H] (dex)"]
    head += [f"[M/H] within {CORNER:g} of −1", "log g at the edge", "reduced χ²"]
    return f"""The fit ties [a/M] to [M/H]; the relation ends at [M/H] = −1, and fits gather in that corner. With other
choices: median (scatter) of ours − literature on the clean labelled stars, then counts and the median reduced χ² of
the {int(clean.sum())} clean spectra.

{table(head, rows)}"""


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

* The co-add holds each epoch's own noise, which draws the epochs together, and is a noisy template. Simulated pairs
  with the quoted noise alone, measured in the same way, give pulls (photon errors only) with a clipped deviation of
  {number(clipped(fake_pull), 2)} and a scatter of {number(robust_scatter(fake_pull), 2)}; where both cancel it is 1.
* Against the co-add of the best-exposed *other* star of the same letter class, which holds none of their noise, the
  real pairs differ by {number(robust_scatter(other), 1)} km/s, and their pulls have a clipped deviation of
  {number(clipped(other_pull), 2)} and a scatter of {number(robust_scatter(other_pull), 2)}. Here templates that do not
  match add their part.
* These are not M dwarfs, and their binaries and pulsations count as errors. The floor of M dwarfs is
  {SETTINGS.lamost_rv_floor:g} km/s, by their scatter about Gaia's velocities ([calibration.md](calibration.md)).

The factor is that of differences of two epochs over the quoted error, as medians over {len(CLEAN_RANGES)} ranges of
wavelength: a robust rms of {number(middle[0], 2)} and a correlation of neighbouring pixels of {number(middle[1], 2)},
together {number(middle[2], 2)} (in the worst range {number(largest, 2)}).

{self.split_half(apart, photon, total)}"""

    def split_half(self, apart: Array, photon: Array, total: Array) -> str:
        """Choose factor and floor on half of the stars and test them on the other half; return the sentence."""
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

        usual = range_of(fixed, 0, 2)
        return f"""Chosen on one half of the stars and tested on the other, {SPLITS} times (median, 16th to 84th
percentile): a factor of {range_of(chosen, 0, 2)}, a floor of {range_of(chosen, 1, 1)} km/s and a scatter of pulls of
{range_of(tested, 0, 2)} on the other half; with the settings it is {usual}."""


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
