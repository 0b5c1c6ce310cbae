"""Make `real-stars.md`: what the transfer for real LAMOST stars is worth, and how it was chosen."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_emulator_stars import SOURCES
from numpy.typing import NDArray
from pages import leave_one_out_constant, leave_one_out_line, number, reflow, table
from real_star_data import (
    FORMATS_NOTE,
    Template,
    degraded,
    dispersion_floor,
    gravities,
    other_sources,
    read_templates,
    simulated_junk,
)
from real_star_recipes import (
    BOX,
    COPIES,
    EMULATOR,
    NETWORK,
    SEED,
    Base,
    Bench,
    Pairwise,
    all_pairwise,
    as_base,
    emulator_alone,
    fine_tuned,
    nested,
    published_network,
    read_bench,
    residual_generator,
    score,
    through,
)

import stargap
from stargap import __version__
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.flags import Flag
from stargap.measurement.star import BATCH, measure_native
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.spectrum import Facts
from stargap.statistics import Compared, compare
from stargap.transfer.anchored.model import lamost_transfer
from stargap.transfer.anchored.train import cross_validate
from stargap.transfer.residual.model import shipped_transfer

Array = NDArray[np.float64]
LABELS = {"teff": ("Teff (K)", 0), "logg": ("log g (dex)", 2), "m_h": ("[M/H] (dex)", 2)}
SHIPPED = "factor"
BANDS = (
    ("Na I, Ca I, TiO", 6000, 6190),
    ("CaOH, TiO", 6190, 6270),
    ("CaH B-X, Ca I", 6330, 6546),
    ("TiO γ'", 6586, 6760),
    ("CaH A-X", 6760, 6850),
    ("CaH A-X, TiO", 6885, 7040),
    ("TiO5", 7040, 7150),
    ("TiO 7400", 7350, 7587),
    ("K I", 7687, 7720),
    ("TiO, VO", 7720, 8100),
    ("TiO ε, VO", 8240, 8490),
    ("Ca II triplet", 8490, 8690),
    ("TiO, FeH", 8690, 8901),
)
"""Bands of the fitted pixels (A, vacuum), named by what absorbs most."""
LEVELS, DRAWS = (50.0, 20.0, 10.0, 5.0), 20
BRIGHT = 120.0
ROOT = Path(__file__).resolve().parents[2]
CARDS = (ROOT / "docs" / "model-lamost.md", ROOT / "src" / "stargap" / "models" / "transfer-lamost.md")
PAPER = {10.0: (61.0, 0.07, 0.14)}
"""The paper's repeats at S/N 10 (K, dex, dex)."""


def main() -> int:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    parser.add_argument("--work", type=Path, default=Path("build/real-stars"), help="keeps what takes long")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the page goes")
    given = parser.parse_args()
    lamost = given.data / "lamost"
    if not (lamost / "index.csv").is_file():
        print(f"{lamost / 'index.csv'}: the file does not exist; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    (given.out / "real-stars").mkdir(exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    bench = read_bench(lamost)
    blind = without_anchors(bench, given.work)
    found = with_anchors(bench, given.work)
    chosen_labels, chosen = nested(found, bench.truth)
    paths = [lamost / "cool" / row["file"] for row in bench.index]
    measured = stargap.measure(paths).columns
    templates = read_templates(given.data / "templates")
    parts = [
        introduction(bench, found, chosen_labels, chosen, measured, templates, given.data),
        recipes(bench, blind, found, chosen_labels, chosen, measured),
        choices(found, bench),
        gap(bench, given.out / "real-stars"),
        against(bench, chosen_labels, measured, given.data, given.out / "real-stars"),
        residuals(bench, found[SHIPPED], lamost),
        order(templates),
        noise(bench, lamost),
        flagged(lamost, templates),
    ]
    text = reflow("\n\n".join(part.strip() for part in parts))
    (given.out / "real-stars.md").write_text(text, encoding="utf-8")
    card = reflow(model_card(bench, chosen_labels, measured, templates, given.data))
    for path in CARDS:
        path.write_text(card, encoding="utf-8")
    return 0


def tell(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)


def without_anchors(bench: Bench, work: Path) -> dict[str, Array]:
    """Return the labels of the scored stars by recipes that see no labels; bases of others are kept in `work`."""
    place = work / "blind.npz"
    if place.exists():
        return dict(np.load(place))
    star, rows = bench.stars.prepared, bench.scored
    tell("recipes without anchors")
    fine, alone = fine_tuned(bench), residual_generator(bench, work / "residual")
    network = published_network(bench, work / "network")
    found = {
        "emulator alone": emulator_alone(bench)[0],
        "emulator, isochrone prior": emulator_alone(bench, with_prior=True)[0],
        "emulator, chosen windows": emulator_alone(bench, windows=True)[0],
        "emulator, chosen windows, prior": emulator_alone(bench, windows=True, with_prior=True)[0],
        "transfer of simulated stars": through(shipped_transfer(), star)[0],
        "the same, fine-tuned on real spectra": through(fine, star)[0],
        "residual transfer of real spectra": through(alone, star)[0],
        f"Cycle-StarNet, {NETWORK:,} iterations": through(network, star)[0],
    }
    found = {name: labels[rows] for name, labels in found.items()}
    bases = {"simulated": shipped_transfer(), "fine-tuned": fine, "residual": alone}
    np.savez(work / "bases.npz", **{name: as_base(transfer).numpy() for name, transfer in bases.items()})
    np.savez(place, **found)
    return found


def with_anchors(bench: Bench, work: Path) -> dict[str, Pairwise]:
    """Return predictions of every recipe with anchors, one star and two stars left out; kept in `work`."""
    place = work / "pairwise.pt"
    if place.exists():
        kept = torch.load(place, weights_only=True)
        return {name: Pairwise(*(part.numpy() for part in parts[:-1]), parts[-1]) for name, parts in kept.items()}
    bases = {
        "transfer of simulated stars": "simulated",
        "the same, fine-tuned": "fine-tuned",
        "residual transfer of real spectra": "residual",
    }
    stored = np.load(work / "bases.npz")
    emulators = {"residual": EMULATOR}  # the others bring their own, which knows no CaH
    given = {
        title: Base(emulators.get(name, shipped_transfer().emulator), torch.from_numpy(stored[name]))
        for title, name in bases.items()
    }
    found = all_pairwise(bench, given, tell)
    torch.save(
        {
            name: [*(torch.as_tensor(part) for part in (one.one, one.two, one.errors, one.chi2)), one.model]
            for name, one in found.items()
        },
        place,
    )
    return found


# ---- text


def compared(predicted: Array, truth: Array) -> dict[str, Compared]:
    """Compare labels ``(star, 3)`` with the literature."""
    return {name: compare(predicted[:, k], truth[:, k], seed=0) for k, name in enumerate(LABELS)}


def cells(one: Compared, digits: int) -> list[str]:
    """Return median, clipped standard deviation, slope and rank as text with bootstrap errors."""
    values, errors = one.values, one.errors
    return [
        number(values.median, digits, error=errors.median, sign=True),
        number(values.clipped, digits, error=errors.clipped),
        number(values.slope, 2, error=errors.slope),
        number(values.rank, 2, error=errors.rank),
    ]


def baselines(bench: Bench, measured: dict[str, Any]) -> dict[str, Compared]:
    """Leave-one-out baselines that know no physics: a line in TiO5, a constant [M/H]."""
    tio5 = np.asarray(measured["tio5"], dtype=float)[bench.rows]
    lines = {name: leave_one_out_line(tio5, bench.truth[:, k]) for k, name in ((0, "teff"), (1, "logg"))}
    lines["m_h"] = leave_one_out_constant(bench.truth[:, 2])
    return {name: compare(values, bench.truth[:, k], seed=0) for k, (name, values) in enumerate(lines.items())}


def met(yes: bool) -> str:
    """Say whether a bar is met."""
    return "met" if yes else "**missed**"


def introduction(
    bench: Bench,
    found: dict[str, Pairwise],
    labels: Array,
    chosen: list[str],
    measured: dict[str, Any],
    templates: list[Template],
    data: Path,
) -> str:
    """Return the headline: each bar with what nested cross-validation says."""
    ours, base = compared(labels, bench.truth), baselines(bench, measured)
    teff, m_h = ours["teff"].values, ours["m_h"].values
    bar = 0.8 * base["teff"].values.clipped
    gravity, known = gravities(data, bench.index), np.array([])
    offsets = labels[:, 1] - gravity[bench.rows]
    known = offsets[np.isfinite(offsets)]
    right, pairs = template_pairs(templates)
    rows = [
        [
            "Teff: clipped standard deviation (K)",
            number(teff.clipped, 0, error=ours["teff"].errors.clipped),
            f"at most {bar:.0f}, 0.8 of the TiO5 line's {base['teff'].values.clipped:.0f}",
            met(teff.clipped <= bar),
        ],
        [
            "Teff: median (K)",
            number(teff.median, 0, error=ours["teff"].errors.median, sign=True),
            "within 25",
            met(abs(teff.median) <= 25),
        ],
        [
            "Teff: slope",
            number(teff.slope, 2, error=ours["teff"].errors.slope),
            "0.85 to 1.15",
            met(0.85 <= teff.slope <= 1.15),
        ],
        [
            "[M/H]: median (dex)",
            number(m_h.median, 3, error=ours["m_h"].errors.median, sign=True),
            "within 0.05",
            met(abs(m_h.median) <= 0.05),
        ],
        [
            "[M/H]: rank correlation",
            number(m_h.rank, 2, error=ours["m_h"].errors.rank),
            "at least 0.5",
            met(m_h.rank >= 0.5),
        ],
        [
            "log g − gravity from M_K (dex)",
            f"{number(float(np.median(known)), 2, sign=True)}, standard deviation "
            f"{number(float(np.std(known, ddof=1)), 2)}, {len(known)} stars",
            "said plainly: it is the isochrone's",
            "",
        ],
        [
            "[M/H] rises with the [Fe/H] bin of templates",
            f"{right} of {pairs} pairs",
            "at least 80 %",
            met(right >= 0.8 * pairs),
        ],
    ]
    most = max(set(chosen), key=chosen.count)
    card = lamost_transfer().card
    return f"""# Real stars

Made by `make results-real-stars`; every number here comes from `docs/results/make_real_stars.py`. What the
emulator alone
does, with velocities and repeats, is in [emulator-stars.md](emulator-stars.md). The model described here is
**experimental**: {len(bench.rows)} clean labelled stars are all there is to judge it by.

## In short

The shipped model, `transfer-lamost`, is the emulator times one factor at every pixel, found from
{card.scores["anchors"]:.0f} stars of known labels (anchors), with what else spectra differ by fitted beside the
labels; see
[the model card](../model-lamost.md). The numbers below are by **nested** cross-validation: each star is measured
through
the recipe that the other {len(bench.rows) - 1} stars choose among {len(found)} by leaving out one of themselves in
turn,
trained without it. {chosen.count(most)} of {len(chosen)} times they choose "{most}"; the shipped recipe is
"{SHIPPED}".
± are bootstrap standard deviations over stars.

{table(["what", "nested cross-validation", "bar", ""], rows)}

Against the same literature the emulator alone is +139 K and 138 K off in Teff, −0.67 and 0.66 dex in [M/H]
([emulator-stars.md](emulator-stars.md)). Two good sources of the literature differ by about 74 K and 0.09 dex.

What to keep in mind:

* [M/H] is the weak label. Its standard deviation about the literature, {number(m_h.clipped, 2)} dex, is
  {"below" if m_h.clipped < base["m_h"].values.clipped else "no better than"} that of a constant
  ({number(base["m_h"].values.clipped, 2)} dex), since the anchors hardly differ in [M/H] and their labels scatter
  by as
  much; its slope on the literature is {number(m_h.slope, 2)}. The order of stars is right where labels differ
  much: over
  the templates, and for subdwarfs.
* log g is the isochrone's. The spectrum moves it by a few hundredths; the quoted systematic error says so.
* Teff is on the scale of Passegger et al. (2018) and Schweitzer et al. (2019), which most anchors have: about 60 K
  above
  that of Mann et al. (2015).
* Below 3200 K and above 4130 K, and for [M/H] below −0.3, there are no anchors, and rows say so (`OUTSIDE_TRAINING`).

stargap {__version__}, emulator {EMULATOR.card.sha256[:16]}, model {card.sha256[:16]}, pixel grid {STARGAP.digest},
seed {SEED}."""


def model_card(bench: Bench, labels: Array, measured: dict[str, Any], templates: list[Template], data: Path) -> str:
    """Return the card of the shipped model."""
    ours, base = compared(labels, bench.truth), baselines(bench, measured)
    transfer = lamost_transfer()
    card, own = transfer.card, transfer.own.tolist()
    low, high = transfer.low.tolist(), transfer.high.tolist()
    offsets = labels[:, 1] - gravities(data, [bench.index[row] for row in bench.rows])
    offsets = offsets[np.isfinite(offsets)]
    right, pairs = template_pairs(templates)
    rows = [
        [title, *cells(ours[name], digits), number(base[name].values.clipped, digits), number(own[k], digits)]
        for k, (name, (title, digits)) in enumerate(LABELS.items())
    ]
    head = ["label", "median", "clipped", "slope", "rank", "baseline: clipped", "systematic error quoted"]
    sources = sorted(
        name for ref, name in SOURCES.items() if any(row["ref"].startswith(ref + "/") for row in bench.index)
    )
    return f"""# Model card: `transfer-lamost` (experimental)

Written by `make results-real-stars`; the model by `make transfer-lamost`, in seconds, from
{card.scores["anchors"]:.0f} spectra. It
is the default of `stargap measure` and `stargap run`. Call it experimental in print: it rests on
{len(bench.rows)} clean stars, and changes when more are in.

**What it is.** The Payne emulator of this package (MARCS and Turbospectrum spectra, R = 1800), times one factor at
every pixel, with {len(transfer.directions)} learned directions, line spread and velocity as each spectrum's own
numbers,
an error floor at every pixel, and a prior on log g. How it was chosen, and everything else that was tried:
[results/real-stars.md](results/real-stars.md).

**Trained on.** {len(bench.rows)} clean LAMOST LRS spectra (DR1 to DR10) of single M and late K dwarfs with
literature labels, and
{len(bench.stars) - len(bench.rows)} saturated ones. Labels: {", ".join(sources)}. No unlabelled spectrum and no
template is in it.

**Range.** Teff {low[0]:.0f} to {high[0]:.0f} K, [M/H] {number(low[1], 2)} to {number(high[1], 2, sign=True)}, S/N
above 5, LAMOST LRS. Beyond, rows carry
`OUTSIDE_TRAINING`; spectra unlike any of the anchors carry `UNLIKE_TRAINING`. SDSS spectra are measured with it
too, which
only the order of templates supports. It means nothing for giants, white dwarfs, galaxies and earlier types.

**Accuracy**, ours − literature of stars that the model had not seen, nested cross-validation
([how](results/real-stars.md)):

{table(head, rows)}

The baseline is a line in TiO5 (Teff, log g) or a constant ([M/H]), leave-one-out. log g − gravity from M_K (Mann
et al. 2015):
{number(float(np.median(offsets)), 2, sign=True)} ± {number(float(np.std(offsets, ddof=1)), 2)} dex. [M/H] rises
with the bin of [Fe/H] in {right} of {pairs} pairs of SDSS templates.

**Errors.** `e_teff`, `e_logg`, `e_m_h` are of noise alone (times 1.5 for LAMOST); `e_*_sys` is what leaving stars
out shows, and
holds the literature's own errors. Tables on the terminal print both together.

**Known to be wrong.** [M/H] of dwarfs near solar is little better than a constant (slope
{number(ours["m_h"].values.slope, 2)}), and is not calibrated
below {number(low[1], 2)}, where only order is supported. log g is the isochrone's. Teff is about 60 K above the
scale of Mann et al. (2015). The
fits of active stars are of the same model as those of quiet ones. Labels of a star that is flagged mean less.

**To cite.** LAMOST (Cui et al. 2012, Zhao et al. 2012) for the spectra; Passegger et al. 2018, Schweitzer et al.
2019, Maldonado et
al. 2020, Yee et al. 2017 and Mann et al. 2015 for the labels; Gustafsson et al. 2008 (MARCS), Plez 2012 and Gerber
et al. 2023
(Turbospectrum), and the sources in `emulator.json` for the synthetic spectra; Bressan et al. 2012 (PARSEC) for log
g; Ting et al.
2019 (The Payne) and O'Briain et al. 2021 (Cycle-StarNet) for the method.

Emulator {card.emulator.sha256[:16]}, model {card.sha256[:16]}, pixel grid {card.pixel_grid}, seed {card.seed},
stargap {card.stargap}."""


def recipes(
    bench: Bench,
    blind: dict[str, Array],
    found: dict[str, Pairwise],
    labels: Array,
    chosen: list[str],
    measured: dict[str, Any],
) -> str:
    """Return the table of everything that was tried."""
    truth = bench.truth
    rows = []

    def line(name: str, predicted: Array, what: str) -> list[str]:
        ours = compared(predicted, truth)
        t, m = ours["teff"], ours["m_h"]
        return [
            name,
            what,
            number(t.values.median, 0, sign=True),
            number(t.values.clipped, 0),
            number(t.values.slope, 2),
            number(ours["logg"].values.median, 2, sign=True),
            number(m.values.median, 2, sign=True),
            number(m.values.clipped, 2),
            number(m.values.rank, 2),
            number(score(predicted, truth), 2),
        ]

    for name, predicted in blind.items():
        rows.append(line(name, predicted, "blind"))
    for name, one in found.items():
        title = f"**{name}**" if name == SHIPPED else name
        rows.append(line(title, one.one, f"left out; chosen {chosen.count(name)}"))
    rows.append(line("**nested: what the others choose**", labels, "nested"))
    base = baselines(bench, measured)
    rows.append(
        [
            "TiO5 line; constant [M/H]",
            "left out",
            number(base["teff"].values.median, 0, sign=True),
            number(base["teff"].values.clipped, 0),
            number(base["teff"].values.slope, 2),
            number(base["logg"].values.median, 2, sign=True),
            number(base["m_h"].values.median, 2, sign=True),
            number(base["m_h"].values.clipped, 2),
            "–",
            "–",
        ]
    )
    head = [
        "recipe",
        "labels",
        "Teff: median",
        "clipped",
        "slope",
        "log g: median",
        "[M/H]: median",
        "clipped",
        "rank",
        "score",
    ]
    return f"""## What was tried

delta = ours − literature for the {len(bench.rows)} clean labelled stars: median and clipped standard deviation (K,
dex),
slope and Spearman's rank correlation. "Blind": no label was used. "Left out": each star through the recipe made
without
it. The score is what nested cross-validation chooses by, the lower the better: r.m.s. in Teff / 80 K + r.m.s. in
[M/H] / 0.13 dex + 1 − rank correlation in [M/H].

{table(head, rows)}

* *Chosen windows*: the 40 % of pixels where the emulator's fits of bright unlabelled stars are worst are left out.
* *Transfer of simulated stars*: `transfer-simulated`, as it ships, with its own emulator, which knows no CaH.
  *Fine-tuned*: its correction goes on with
  {COPIES} augmented copies of each of the {len(bench.unlabelled)} clean unlabelled spectra (noise, resolution,
  slopes of the flux,
  velocities, gaps), drawn to where it was. *Residual transfer*: `stargap train`'s default on the same spectra alone,
  matched to the label prior. *Cycle-StarNet*: the published network on the same spectra, a hundredth and less of the
  paper's iterations; its spectra show in the table what critics cannot know without labels.
* *Factor, linear, parabola*: what the anchors fit at every pixel, in Teff. Unless the name says otherwise there are a
  *prior* (log g within 0.05 dex of the 5 Gyr isochrone), the *gap* (the correction itself, smoothed over 20 Å, is
  added to
  each pixel's error floor: where the emulator is far off, neither its derivatives are trusted), and three *directions*
  (principal components of what anchors leave, fitted with the labels).
* *+ anchors*: another training's correction as a beginning, which the anchors change by a factor linear in Teff.
  The extra loss
  that asks the transferred spectrum at an anchor's labels to match its observed spectrum is least squares here. A
  network
  with such a loss was not trained anew for every star left out.
* The prior, the gap and the directions count for more than the form in Teff: with none of the three the [M/H] of stars
  left out has no order.
* Unlabelled spectra did not help here: what is systematic in a star's spectrum looks the same whether its labels are
  known or not, and the labels that they are given on the way are the wrong ones."""


def choices(found: dict[str, Pairwise], bench: Bench) -> str:
    """Return the record of what looked at labels."""
    return f"""## Choices that looked at labels

* The labels are each star's first reference in the index, uncorrected; "clean" are those without a noted defect.
  Saturated
  spectra ({len(bench.stars) - len(bench.rows)}) train, and are not scored. No star has two spectra here; if it had
  they would be left
  out together.
* The forms of the correction, the gap in the floor, its smoothing of 20 Å, the number of directions and the width
  of the log g
  prior were looked for by leaving out single stars, in about 120 variants of some 15 numbers, before the
  candidates in the
  table were written down; scores differ little around them. Then all stars chose one factor a pixel over the
  linear form
  that had been thought best, and candidates around it were added. Nested cross-validation covers the choice among the
  {len(found)} in the table, not that search.
* The velocity settings were chosen on the same stars ([emulator-stars.md](emulator-stars.md)).
* The templates were looked at once [M/H] in the correction had been tried: with it their order in [M/H] is lost (rank
  correlation with the literature is not). That decided against it. They train nothing.
* The limit of chi-square, 2.5, allows for errors of LAMOST spectra that are too small by 1.5; no label is in it."""


def gap(bench: Bench, folder: Path) -> str:
    """Return where the emulator is wrong at the literature's labels, and what each band does to labels."""
    star = bench.stars[bench.rows].prepared
    labels, _ = BOX.expand(torch.as_tensor(bench.truth))
    labels[:, 1] = lamost_transfer().prior.logg(labels)[0]
    synthetic, _ = EmulatorModel(EMULATOR, star)(
        labels, torch.zeros(len(labels), 1, 4).double(), torch.arange(len(labels))
    )
    ratio = torch.where(star.good & (synthetic > 0.05), star.flux / synthetic - 1, torch.nan).numpy()
    teff, m_h = bench.truth[:, 0], bench.truth[:, 2]
    groups = {
        "below 3450 K": teff < 3450,
        "3450 to 3700 K": (teff >= 3450) & (teff < 3700),
        "above 3700 K": teff >= 3700,
    }
    gap_figure(ratio, groups, m_h, teff).savefig(folder / "gap.png", dpi=90)
    plain = fit_labels(star, EmulatorModel(EMULATOR, star), EMULATOR, BOX, error_floor=MeasureSettings().floor).labels
    rows = []
    for title, low, high in BANDS:
        inside = (STARGAP.wavelength >= low) & (STARGAP.wavelength < high)
        sizes = [
            f"{100 * np.sqrt(np.nanmean(np.nanmedian(ratio[some][:, inside], axis=0) ** 2)):.1f}"
            for some in groups.values()
        ]
        masked = replace(star, good=star.good & ~torch.as_tensor(inside))
        fit = fit_labels(masked, EmulatorModel(EMULATOR, masked), EMULATOR, BOX, error_floor=MeasureSettings().floor)
        moved = (fit.labels - plain)[:, :3].numpy()
        whole = bench.stars.prepared
        without = replace(bench.stars, prepared=replace(whole, good=whole.good & ~torch.as_tensor(inside)))
        left = cross_validate(without, EMULATOR, scored=bench.scored).labels[bench.scored, :3]
        ours = compared(left, bench.truth)
        rows.append(
            [
                f"{title}, {low}–{high - 1}",
                *sizes,
                number(float(np.median(moved[:, 0])), 0, sign=True),
                number(float(np.median(moved[:, 1])), 2, sign=True),
                number(float(np.median(moved[:, 2])), 2, sign=True),
                number(ours["teff"].values.clipped, 0),
                number(ours["m_h"].values.rank, 2),
            ]
        )
    head = [
        "band (Å)",
        *(f"gap, {name} (%)" for name in groups),
        "masked: ΔTeff",
        "Δlog g",
        "Δ[M/H]",
        "anchored: Teff clipped",
        "[M/H] rank",
    ]
    with np.errstate(all="ignore"):
        slope = np.polyfit(m_h - m_h.mean(), np.nan_to_num(ratio), 1)[0]
    return f"""## The gap

Observed over emulator at the literature's Teff and [M/H] and the isochrone's log g: r.m.s. over a band of the
median of
stars. Then what leaving the band out does to the emulator's own labels (median change in K and dex), and to the
anchored
recipe left out star by star.

![Observed over emulator by Teff and by [M/H]](real-stars/gap.png)

{table(head, rows)}

The gap is made of Ca I and CaOH at 6100–6270 Å, CaH and TiO up to 7150 Å and K I, and it grows towards cool stars
by two to
four times; between 7350 and 8900 Å it is about 1 %. With [M/H] it changes by at most
{100 * np.nanpercentile(np.abs(slope), 99) * 0.3:.0f} %
for 0.3 dex at 99 % of the pixels, which the anchors' few metallicities cannot tell from their other differences.
A correction that follows Teff or [M/H] does not measure the stars left out any
better: it learns what the anchors' labels are wrong by. So the shipped one is a factor, directions take up what
changes, and the floor
carries the gap."""


def gap_figure(ratio: Array, groups: dict[str, NDArray[np.bool_]], m_h: Array, teff: Array) -> Any:
    """Draw the gap by Teff, and of metal-rich over metal-poor stars of like Teff."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    halves = ((6000, 7160), (7340, 8900))
    axes = figure.subplots(2, 2, sharey="row")
    rich = m_h > np.median(m_h)
    with np.errstate(all="ignore"):
        for column, (low, high) in enumerate(halves):
            inside = (STARGAP.wavelength >= low) & (STARGAP.wavelength <= high)
            for (name, some), color in zip(groups.items(), ("#d55e00", "#009e73", "#0072b2"), strict=True):
                median = 100 * np.nanmedian(ratio[some], axis=0)
                axes[0, column].plot(
                    STARGAP.wavelength[inside],
                    median[inside],
                    lw=0.8,
                    color=color,
                    label=f"{name} ({some.sum()} stars)",
                )
            for name, some, color in (("[M/H] above the median", rich, "#cc79a7"), ("below", ~rich, "#56b4e9")):
                warm = some & (teff >= 3450)
                median = 100 * np.nanmedian(ratio[warm], axis=0)
                axes[1, column].plot(
                    STARGAP.wavelength[inside],
                    median[inside],
                    lw=0.8,
                    color=color,
                    label=f"{name}, Teff above 3450 K ({warm.sum()})",
                )
            axes[1, column].set_xlabel("wavelength (Å, vacuum)")
            for axis in axes[:, column]:
                axis.axhline(0, color="0.6", lw=0.6)
                axis.set_xlim(low, high)
    axes[0, 0].set_ylabel("observed / emulator − 1 (%)")
    axes[1, 0].set_ylabel("observed / emulator − 1 (%)")
    for axis in axes[:, 1]:
        axis.legend(frameon=False, fontsize=8)
    return figure


def against(bench: Bench, labels: Array, measured: dict[str, Any], data: Path, folder: Path) -> str:
    """Return comparisons by source, with second sources, and gravities."""
    base = baselines(bench, measured)
    rows = []
    for k, (name, (title, digits)) in enumerate(LABELS.items()):
        ours = compare(labels[:, k], bench.truth[:, k], seed=0)
        rows.append(
            [title, "first references", str(ours.n), *cells(ours, digits), number(base[name].values.clipped, digits)]
        )
        for source, values in other_sources(data, [bench.index[row] for row in bench.rows])[name].items():
            if np.isfinite(values).sum() < 5:
                continue
            ours = compare(labels[:, k], values, seed=0)
            theirs = compare(bench.truth[:, k], values, resamples=0)
            rows.append([title, source, str(ours.n), *cells(ours, digits), number(theirs.values.clipped, digits)])
    gravity = gravities(data, [bench.index[row] for row in bench.rows])
    ours = compare(labels[:, 1], gravity, seed=0)
    theirs = compare(bench.truth[:, 1], gravity, resamples=0)
    rows.append(
        [
            "log g (dex)",
            "M_K: Mann 2015 mass and radius",
            str(ours.n),
            *cells(ours, 2),
            number(theirs.values.clipped, 2),
        ]
    )
    recovery_figure(bench, labels, gravity).savefig(folder / "scatter.png", dpi=90)
    head = ["label", "against", "n", "median", "clipped", "slope", "rank", "first reference: clipped"]
    offset = theirs.values.median
    return f"""## Against the literature, and a second opinion

Nested cross-validation; ± are bootstrap standard deviations. The last column is the same statistic of the first
references
themselves against that source (for first references: of the leave-one-out line or constant): what a perfect copy
of the
literature would have. Sources are those of the literature table within 15″; stars with two sources count in both rows.

{table(head, rows)}

Gravities from M_K are log g = 4.438 + log M − 2 log R with the relations of Mann et al. (2015), 2MASS Ks and Gaia
parallaxes of
Cifuentes et al. (2024). The first references' log g sits {number(offset, 2, sign=True)} dex from them, the
isochrone's (ours)
{number(ours.values.median, 2, sign=True)}: that is why ours differs from the literature, and the reason to keep it.

![Ours against the literature, nested cross-validation](real-stars/scatter.png)"""


def recovery_figure(bench: Bench, labels: Array, gravity: Array) -> Any:
    """Draw nested predictions against the literature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    active = np.array([row["teff"] != "" and float(row["teff"]) < 3450 for row in bench.index])[bench.rows]
    for axis, (k, (title, _)) in zip(figure.subplots(1, 3), enumerate(LABELS.values()), strict=True):
        x, y = bench.truth[:, k], labels[:, k]
        axis.plot(x[~active], y[~active], "o", color="#0072b2", ms=5, label="above 3450 K")
        axis.plot(x[active], y[active], "s", color="#d55e00", ms=5, label="below")
        if k == 1:
            axis.plot(gravity, y, "x", color="0.5", ms=5, label="against gravity from M_K")
        both = np.concatenate([x, y, gravity[np.isfinite(gravity)] if k == 1 else x])
        pad = 0.06 * np.ptp(both)
        ends = (both.min() - pad, both.max() + pad)
        axis.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        axis.set(xlim=ends, ylim=ends, xlabel=f"literature {title}", ylabel=f"ours, nested: {title}")
        axis.legend(frameon=False, fontsize=8)
    return figure


def residuals(bench: Bench, one: Pairwise, lamost: Path) -> str:
    """Return residuals before and after, at the level of noise of repeats."""
    floor, pairs = dispersion_floor(lamost)
    star = bench.stars[bench.rows].prepared
    before = emulator_alone(bench)[1][torch.as_tensor(bench.rows)]
    snr = np.array([float(bench.index[row]["snrr"]) for row in bench.rows])
    rows = []
    for title, some in (
        ("all", snr > 0),
        ("S/N below 100", snr < 100),
        ("100 to 200", (snr >= 100) & (snr < 200)),
        ("above 200", snr >= 200),
    ):
        texts = []
        for extra in (0.0, floor):
            error = (star.sigma.square() + extra**2).sqrt()
            sizes = []
            for model in (before, one.model):
                apart = torch.where(star.good, (star.flux - model).abs() / error, torch.nan)
                sizes.append(float(np.median(torch.nanmean(apart, dim=1).numpy()[some])))
            texts += [number(sizes[0], 2), number(sizes[1], 2), number(sizes[1] / sizes[0], 2)]
        rows.append([title, str(some.sum()), *texts])
    head = [
        "S/N in r",
        "stars",
        "emulator",
        "left out",
        "ratio",
        "emulator, with floor",
        "left out, with floor",
        "ratio",
    ]
    return f"""## Residuals

Mean |data − model| / σ of a star's fitted pixels, median over stars: the emulator's own best fits, and the shipped
recipe with
the star left out. Noise alone gives 0.80; as LAMOST's errors are about 1.2 times too small per pixel
([emulator-stars.md](emulator-stars.md)), 0.96. The last columns add a floor of {100 * floor:.2f} % to σ: what
{pairs} pairs of
exposures of one star with S/N above 100 (`lamost/repeats`, F to K stars) differ by beyond their noise, over pixels, in
normalised flux. No model of a star can do better than another exposure of it.

{table(head, rows)}

At S/N above 200, where the gap is what counts, residuals are {rows[-1][4]} of the emulator's, {rows[-1][7]} with
the floor."""


def template_pairs(templates: list[Template]) -> tuple[int, int]:
    """Return how many adjacent [Fe/H] bins of one type are in order of our [M/H], and of how many; +1.0 left out."""
    labels = fitted_templates(templates)
    right = pairs = 0
    for kind in {one.kind for one in templates if one.group == "sdss"}:
        bins = sorted(
            (one.value, labels[k, 2])
            for k, one in enumerate(templates)
            if one.group == "sdss" and one.kind == kind and one.value < 0.9
        )
        for (_, first), (_, second) in pairwise(bins):
            pairs, right = pairs + 1, right + (second > first)
    return right, pairs


_FITTED: dict[int, tuple[Array, NDArray[np.int64], Array]] = {}


def fitted_templates(templates: list[Template]) -> Array:
    """Measure templates with the shipped model, once."""
    if id(templates) not in _FITTED:
        columns = stargap.measure([one.spectrum for one in templates]).columns
        labels = np.stack([np.asarray(columns[name], dtype=float) for name in LABELS], axis=1)
        _FITTED[id(templates)] = labels, np.asarray(columns["flags"]), np.asarray(columns["chi2"])
    return _FITTED[id(templates)][0]


def order(templates: list[Template]) -> str:
    """Return order in [M/H] over the templates, of subdwarfs, and of Teff with type."""
    labels = fitted_templates(templates)
    right, pairs = template_pairs(templates)
    kinds = sorted(
        {one.kind for one in templates if one.group == "sdss" and np.isfinite(one.value)},
        key=lambda kind: ("KM".index(kind[0]), kind),
    )
    bins = (-2.0, -1.0, -0.5, 0.0, 0.5)
    rows = []
    for kind in kinds:
        here = {one.value: k for k, one in enumerate(templates) if one.group == "sdss" and one.kind == kind}
        rows.append(
            [
                kind,
                *(
                    f"{number(labels[here[b], 2], 2, sign=True)} ({number(labels[here[b], 0], 0)})" if b in here else ""
                    for b in bins
                ),
            ]
        )
    solar = [
        labels[k, 0]
        for kind in kinds
        for k, one in enumerate(templates)
        if one.group == "sdss" and one.kind == kind and one.value == 0.0
    ]
    falls = sum(later < earlier for earlier, later in pairwise(solar))
    classes = []
    for name in ("dwarf", "sd", "esd", "usd"):
        own = [labels[k] for k, one in enumerate(templates) if one.group == "standard" and one.kind == name]
        classes.append(
            [
                name,
                str(len(own)),
                number(float(np.median([x[2] for x in own])), 2, sign=True),
                f"{number(min(x[2] for x in own), 2, sign=True)} to {number(max(x[2] for x in own), 2, sign=True)}",
            ]
        )
    medians = [float(row[2].replace("−", "-")) for row in classes]
    known = []
    for k, one in enumerate(templates):
        if one.labels is not None:
            known.append(
                [
                    one.name,
                    f"{one.labels[0]:.0f}",
                    number(labels[k, 0], 0),
                    number(one.labels[1], 2, sign=True),
                    number(labels[k, 2], 2, sign=True),
                ]
            )
    return f"""## Order where there are no labels

Templates of other instruments through the shipped model; none of them trained it. They are normalised as LAMOST's,
which
takes most of the instrument out, but not its resolution.

SDSS mean spectra of Kesseli et al. (2017), our [M/H] (and Teff in K) by type and their bin of [Fe/H]: it rises in **{
        right
    } of
{pairs}** adjacent pairs of one type (bar: 80 %). Teff at solar [Fe/H] falls with type in {falls} of {
        len(solar) - 1
    } steps{" (K5 and hotter end at the emulator's 4500 K)" if falls < len(solar) - 1 else ""}.

{table(["type", *(number(b, 1, sign=True) for b in bins)], rows)}

Standards of Kesseli et al. (2019), Lépine et al. (2007) and Bochanski et al. (2007): median and range of our [M/H]
by class.
{
        "The medians fall from dwarfs to usd."
        if medians == sorted(medians, reverse=True)
        else "**The medians are not in order.**"
    }

{table(["class", "n", "median [M/H]", "range"], classes)}

Standards with labels of Mann et al. (2015), on whose scale Teff is about 60 K lower than the anchors':

{table(["star", "Teff, Mann", "ours", "[Fe/H], Mann", "ours"], known)}"""


def noise(bench: Bench, lamost: Path) -> str:
    """Return what noise does to labels of bright stars, and whether quoted errors say so."""
    native, facts, names = degraded(lamost, BRIGHT)
    transfer, settings = lamost_transfer(), MeasureSettings()

    def measured(spectra: Any) -> dict[str, Array]:
        parts = []
        for first in range(0, len(spectra), BATCH):
            some = spectra[slice(first, first + BATCH)]
            columns, _ = measure_native(
                some,
                [Facts(layout="degraded")] * len(some),
                settings,
                transfer.emulator,
                failure=[""] * len(some),
                spectrum_id=np.arange(len(some)),
                transfer=transfer,
            )
            parts.append(columns)
        wanted = [*LABELS, *(f"e_{name}" for name in LABELS)]
        return {name: np.concatenate([np.asarray(part[name], dtype=float) for part in parts]) for name in wanted}

    before = measured(native)
    rows = []
    rng = np.random.default_rng(SEED)
    for level in LEVELS:
        flux, ivar = [], []
        for star in range(len(native)):
            scale = level / facts[star]
            own = native.ivar[star].double().numpy()
            width = np.where(own > 0, np.sqrt((1 / scale**2 - 1) / np.maximum(own, 1e-30)), 0.0)
            for _ in range(DRAWS):
                flux.append(native.flux[star].double().numpy() + width * rng.normal(size=width.shape))
                ivar.append(own * scale**2)
        count = len(flux)
        arrays = (torch.as_tensor(np.array(side), dtype=torch.float32) for side in (flux, ivar))
        found = measured(type(native)(*arrays, torch.ones(count).double(), torch.zeros(count).long()))
        for name, (title, digits) in LABELS.items():
            values, errors = (found[key].reshape(-1, DRAWS) for key in (name, f"e_{name}"))
            middle, quoted = np.nanmedian(values, axis=1), np.nanmedian(errors, axis=1)
            scatter = 1.4826 * np.nanmedian(np.abs(values - middle[:, None]), axis=1)
            moved = np.abs(middle - before[name]) / quoted
            paper = f"{PAPER[level][list(LABELS).index(name)]:.{digits}f}" if level in PAPER else ""
            rows.append(
                [
                    f"{level:.0f}",
                    title,
                    number(float(np.median(scatter)), digits),
                    number(float(np.median(quoted)), digits),
                    number(float(np.median(scatter / quoted)), 2),
                    number(float(np.median(middle - before[name])), digits, sign=True),
                    f"{np.mean(moved < 1):.0%}",
                    paper,
                ]
            )
    right = sum(abs(float(row[4]) - 1) <= 0.2 for row in rows)
    head = [
        "S/N",
        "label",
        "scatter",
        "quoted",
        "scatter / quoted",
        "median shift",
        "within the quoted error",
        "paper, repeats",
    ]
    return f"""## With less light

The {len(names)} clean spectra with S/N above {BRIGHT:.0f} in r, white noise added on the native pixels down to S/N
50, 20, 10 and 5,
{DRAWS} times each, velocities measured anew. Scatter: 1.4826 MAD over the draws; quoted: `e_*`, the error of noise
alone, before
LAMOST's noise factor of 1.5; medians over stars. "Within": stars whose median over the draws moves by less than
the quoted
error. The paper's repeats hold everything that changes between exposures, ours noise alone. Scatter and quoted
error agree within
20 % in {right} of {len(rows)} rows.

{table(head, rows)}"""


def flagged(lamost: Path, templates: list[Template]) -> str:
    """Return what is flagged of spectra that are no ordinary M dwarfs."""
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        index = [row for row in csv.DictReader(file) if row["folder"] in ("cool", "formats")]
    columns = stargap.measure([lamost / row["folder"] / row["file"] for row in index]).columns
    folders, clean = np.array([row["folder"] for row in index]), np.array([not row["note"] for row in index])
    flags, finite = np.asarray(columns["flags"]), np.isfinite(np.asarray(columns["teff"], dtype=float))
    fitted_templates(templates)
    _, own, _ = _FITTED[id(templates)]
    groups: list[tuple[str, NDArray[np.int64]]] = [
        ("LAMOST, K7 to M4, clean", flags[(folders == "cool") & clean & finite]),
        ("LAMOST, other classes (`formats`)", flags[(folders == "formats") & finite]),
    ]
    for name, title in (("dwarf", "standards: dwarfs M0 to M6"), ("sd", "sd"), ("esd", "esd"), ("usd", "usd")):
        some = [
            k
            for k, one in enumerate(templates)
            if one.group == "standard" and one.kind == name and (name != "dwarf" or one.value <= 6)
        ]
        groups.append((title, own[some]))
    for title, spectra in simulated_junk().items():
        groups.append((f"{title} (simulated)", np.asarray(stargap.measure(spectra).columns["flags"])))
    rows = []
    for title, bits in groups:
        unlike, outside = (bits & int(Flag.UNLIKE_TRAINING)) > 0, (bits & int(Flag.OUTSIDE_TRAINING)) > 0
        rows.append(
            [title, str(len(bits)), f"{unlike.mean():.0%}", f"{outside.mean():.0%}", f"{(unlike | outside).mean():.0%}"]
        )
    return f"""## Flags

`UNLIKE_TRAINING`: reduced chi-square above {lamost_transfer().chi2_limit:.2g}. `OUTSIDE_TRAINING`: Teff or [M/H]
beyond the anchors'. Either says
that the labels are not measured but guessed.

{table(["spectra", "n", "unlike", "outside", "either"], rows)}

{FORMATS_NOTE}"""


if __name__ == "__main__":
    sys.exit(main())
