"""Make `calibration.md`: whether published errors are true, on simulated stars, and velocities of real ones.

    python docs/results/make_calibration.py [--data FOLDER] [--work FOLDER] [--learn]

``--learn`` puts the calibration that is learned here into the card of the shipped transfer for simulated stars. Samples
are simulated and measured in the work folder; what is there is not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from calibration_corner import corner_text
from calibration_stars import JUDGED, LEARNT, MODEL, OTHER, QUANTITIES, Recipe, Stars, learn, measured
from calibration_velocities import velocity_text
from pages import number, reflow, table

from stargap import __version__
from stargap.settings import MeasureSettings
from stargap.statistics import robust_scatter
from stargap.transfer.calibration import Calibration
from stargap.transfer.residual.model import shipped_transfer

MODELS = Path(__file__).resolve().parents[2] / "src" / "stargap" / "models"
TITLES = {"rv": "RV (km/s)", "teff": "Teff (K)", "logg": "log g", "m_h": "[M/H]"}
DIGITS = {"rv": 2, "teff": 1, "logg": 3, "m_h": 3}
SHARES = (68.27, 95.0)
WIDTHS = (1.0, 1.96)
SLACK, PULLS = 3.0, (0.9, 1.1)
"""The bars: coverage within so many points, pulls within these."""
LEAST = 30
HEAD = ("", "", "stars", "within 1 error", "within 1.96", "scatter of pulls", "median off", "error")


def main() -> int:
    """Measure what has not been measured, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    parser.add_argument("--work", type=Path, default=Path("/tmp/stargap-calibration"), help="folder of measurements")
    parser.add_argument("--learn", action="store_true", help="put the calibration into the shipped model's card")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.learn:
        transfer = shipped_transfer()
        transfer.calibration = learn(measured(LEARNT, given.work), _source(LEARNT))
        transfer.save_again(MODELS / f"{MODEL}.safetensors")
    known = shipped_transfer().calibration
    if known is None:
        print(f"{MODEL} has no calibration: run this once with --learn", file=sys.stderr)
        return 2
    page = _page(known, {one.name: measured(one, given.work) for one in (JUDGED, OTHER)}, given)
    Path(__file__).with_name("calibration.md").write_text(reflow(page), encoding="utf-8")
    return 0


def _source(recipe: Recipe) -> str:
    return (
        f"{recipe.stars} simulated stars (docs/results/make_calibration.py, seed {recipe.seed}, {recipe.mix} mix, "
        f"{recipe.pairs:.0%} unresolved pairs, {recipe.active:.0%} active) that had no part in the training"
    )


def rows(stars: Stars) -> list[tuple[str, ...]]:
    """Return a row for each quantity and class of stars."""
    found = []
    for name in QUANTITIES:
        pulls, delta = stars.pulls(name), stars.measured[name] - stars.truth[name]
        error = np.hypot(stars.measured[f"e_{name}"], np.nan_to_num(stars.measured[f"e_{name}_sys"]))
        for title, some in stars.classes().items():
            here = some & np.isfinite(pulls)
            if here.sum() < LEAST:
                continue
            inside = [100 * float(np.mean(np.abs(pulls[here]) < width)) for width in WIDTHS]
            spread = robust_scatter(pulls[here])
            cells = [f"{value:.1f} %" + ("" if abs(value - share) <= SLACK else " ✗")
                     for value, share in zip(inside, SHARES, strict=True)]  # fmt: skip
            cells += [f"{spread:.2f}" + ("" if PULLS[0] <= round(spread, 2) <= PULLS[1] else " ✗")]
            middle = number(float(np.median(delta[here])), DIGITS[name], sign=True)
            cells += [middle, number(float(np.median(error[here])), DIGITS[name])]
            found.append((TITLES[name], title, f"{here.sum():,}", *cells))
    return found


def _missed(stars: Stars) -> tuple[int, int]:
    cells = [cell for row in rows(stars) for cell in row[3:6]]
    return sum("✗" in cell for cell in cells), len(cells)


def _page(known: Calibration, samples: dict[str, Stars], given: argparse.Namespace) -> str:
    judged, other = samples[JUDGED.name], samples[OTHER.name]
    before, after = judged.calibrated(None), judged.calibrated(known)
    mixed = other.calibrated(known)
    counts = {name: _missed(one) for name, one in (("before", before), ("after", after), ("mixed", mixed))}
    return f"""# Are the errors true?

* **With the calibration most are, without it hardly any**: of {counts["after"][1]} cells of the table below
  {counts["after"][0]} are off (✗), without a calibration {counts["before"][0]}, and of {counts["mixed"][1]} for stars
  that are mixed otherwise than those it was learned from ({OTHER.mix} mix, {OTHER.pairs:.0%} pairs, {OTHER.active:.0%}
  active) {counts["mixed"][0]}.
* **Unresolved pairs** cannot be made right by errors of labels: spectra do not reveal most of them, and their Teff is
  that of the blend, {_pair_text(after)}. Errors right for them would be too large for all single stars.
* **Velocities of real M dwarfs** differ from Gaia's by about the error of their mean, and scatter beyond their noise by
  {MeasureSettings().lamost_rv_floor:g} km/s, which is the floor of errors of LAMOST's velocities.

Made by `make results-calibration`, stargap {__version__}. The first table is of simulated stars, as many in each bin of
S/N, measured with `{MODEL}` without the noise factor and velocity floor of real LAMOST spectra; the last section is of
real stars. Shares of stars whose truth is within one published error and within 1.96 of them, random and systematic
part together (68.3 % and 95 % of normal errors), and the robust scatter of (measured − true) / error. ✗ marks what is
off by more than {SLACK:.0f} points, or not within {PULLS[0]} to {PULLS[1]}. Only stars count whose quantity is marked
as usable. The truth of an unresolved pair is its brighter star. log g of simulated stars is {_logg_text(after)} below
nature's, because the prior of the training is that of PARSEC's isochrones and nature's is another: a bias that errors
cover, which is not taken off.

What is judged was not learned from: the calibration is of {known.source}. Seeds: {LEARNT.seed} for what was learned
from, {JUDGED.seed} and {OTHER.seed} for what is judged. What was chosen by looking at half of the former are
the terms of the functions and the share and width of the tails of errors (`stargap.transfer.calibration`).

## Simulated stars

{table(HEAD, rows(after))}

{corner_text(given.work)}
{velocity_text(given.data)}
"""


def _pair_text(stars: Stars) -> str:
    pair, delta = stars.truth["pair"], stars.measured["teff"] - stars.truth["teff"]
    return f"{number(float(np.nanmedian(delta[pair])), 0, sign=True)} K in the median"


def _logg_text(stars: Stars) -> str:
    delta = stars.measured["logg"] - stars.truth["logg"]
    return f"{number(-float(np.nanmedian(delta)), 3)} dex"


if __name__ == "__main__":
    sys.exit(main())
