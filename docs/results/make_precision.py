"""Make `precision.md`: errors calibrated on repeats of a simulated survey, against the truth of other stars."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stargap import __version__, measure
from stargap.catalogue.precision import QUANTITIES, Precision, fit_precision, published_errors
from stargap.mock.instrument import CHUNK
from stargap.mock.population import PLAIN
from stargap.mock.survey import simulate_survey
from stargap.statistics import robust_scatter

Columns = dict[str, NDArray[np.float64]]

SEED = 12
BINS = ((5, 10), (10, 20), (20, 50), (50, 300))
UNITS = {"rv": "km/s", "teff": "K", "logg": "dex", "m_h": "dex"}
PAPER = {"rv": (9.7, 3.7), "teff": (61, 22), "logg": (0.07, 0.02), "m_h": (0.14, 0.05)}
"""The paper's precision at S/N 10 and 100."""

INTRO = """\
# Errors from repeats, on a simulated survey

* **Random errors are right**: the scatter of a star's spectra about their mean is {random} times the error.
* **Repeats cannot see what a star's spectra share**: against the truth, differences are up to {most} times the random
  error alone, and {both} times both errors together once the systematic one is added.
* **The paper's errors** (eq. 8) are too large where noise rules and too small where it does not: differences from the
  truth are {paper} times them.

Made by `make results-precision`, stargap {version}, seed {seed}: {stars:,} simulated M dwarfs without junk, {rows:,}
spectra, measured with `transfer-simulated`. All numbers are of simulated stars, but the paper's. The models
(`stargap.catalogue.precision`) saw repeats of every second star and no truth; the second table is of the other stars.
Errors of the fits are too large here (scales below 1): by default they hold what real LAMOST co-adds have beyond their
quoted noise (`lamost_noise_factor`, `lamost_rv_floor`), which simulated spectra have not.

*random*: robust scatter of the distances from a star's mean, corrected for it, over the error. *truth*: that of
measured - true, the bias of the bin removed, over the calibrated error alone; *with systematic*: over sqrt(e^2 +
systematic^2), bias and systematic of each bin from the stars that the models saw; *eq. 8*: over the paper's error,
sqrt(repeat^2 + fit^2). All are 1 where errors are right.
"""


class Systematic(NamedTuple):
    """What `systematic_error` returns: ``bias``, the median of ours - truth, and ``scatter`` beyond random errors."""

    bias: float
    scatter: float


def systematic_error(delta: NDArray[np.float64], errors: NDArray[np.float64]) -> Systematic:
    """Return what repeats cannot see: the bias of ours - truth and its robust scatter beyond the random errors.

    The scatter is the one that makes (delta - bias) / sqrt(errors^2 + scatter^2) have a robust scatter of 1; 0 where
    the random errors are enough. It is a number for a catalogue's description, and part of no ``e_`` column.

    Args:
        delta: ours - truth ``(star,)``, the truth being that of a simulation or of better data; NaN where unknown.
        errors: random errors of delta, ours and those of the truth in quadrature.

    Raises:
        ValueError: fewer than 10 finite pairs.

    """
    from scipy.optimize import brentq

    difference, error = np.broadcast_arrays(np.asarray(delta, dtype=float), np.asarray(errors, dtype=float))
    known = np.isfinite(difference) & (error >= 0) & np.isfinite(error)
    if known.sum() < 10:
        message = f"{known.sum()} stars have a difference and an error; give at least 10"
        raise ValueError(message)
    difference, error = difference[known], error[known]
    bias = float(np.median(difference))
    centred = np.abs(difference - bias)

    def excess(scatter: float) -> float:
        total = np.maximum(np.hypot(error, scatter), 1e-300)
        return 1.4826 * float(np.median(centred / total)) - 1.0

    if excess(0.0) <= 0:
        return Systematic(bias, 0.0)
    return Systematic(bias, float(brentq(excess, 0.0, 2.0 * 1.4826 * float(np.median(centred)))))


def main() -> None:
    """Simulate, measure, fit, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=36 * CHUNK)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("precision.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = _measured(options.stars)
    seen = table["star"] % 2 == 0
    model = fit_precision(table, star="star", use=seen)
    pulls = list(_pulls(model, table, seen))
    random, alone, both, paper = ([float(row[place]) for row in pulls] for place in (5, 6, 7, 8))
    intro = INTRO.format(
        random=f"{min(random):.2f} to {max(random):.2f}",
        most=f"{max(alone):.1f}",
        both=f"{min(both):.2f} to {max(both):.2f}",
        paper=f"{min(paper):.1f} to {max(paper):.1f}",
        version=__version__,
        seed=SEED,
        stars=options.stars,
        rows=len(seen),
    )
    head = ["", "S/N", "spectra", "bias", "systematic", "random", "truth", "with systematic", "eq. 8"]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---", "---", *["---:"] * 7], *pulls)]
    page = [intro, *_curves(model), "", *lines]
    options.output.write_text("\n".join(page) + "\n", encoding="utf-8")


def _measured(stars: int) -> Columns:
    parts: list[Columns] = []
    for chunk in simulate_survey(stars, seed=SEED, junk=0.0, repeats=0.6, population=PLAIN):
        found = measure(chunk.spectra, model="transfer-simulated").arrays()
        ours = {name: found[name].astype(float) for each in QUANTITIES for name in (each, f"e_{each}")}
        truth = {f"true_{name}": chunk.truth[name] for name in QUANTITIES}
        parts.append({"star": chunk.truth["star"], "snr_r": found["snr_r"].astype(float), **ours, **truth})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _curves(model: Precision) -> Iterator[str]:
    yield "| | repeats | a | b | at S/N 10, paper | at S/N 100, paper | scale at S/N 20 |"
    yield "|---|" + "---:|" * 6
    for name, one in model.errors.items():
        ten, hundred = (float(one.repeat_error(snr)) for snr in (10.0, 100.0))
        cells = [
            f"{name} ({UNITS[name]})",
            f"{one.repeats:,}",
            f"{one.a:.3g} ± {one.e_a:.1g}",
            f"{one.b:.2g} ± {one.e_b:.1g}",
            f"{ten:.2g}, {PAPER[name][0]:g}",
            f"{hundred:.2g}, {PAPER[name][1]:g}",
            f"{one.scale:.2f} ± {one.e_scale:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _pulls(model: Precision, table: Columns, seen: NDArray[np.bool_]) -> Iterator[list[str]]:
    """Yield the cells of each quantity and bin of S/N."""
    errors = published_errors(model, table)
    _, star = np.unique(table["star"], return_inverse=True)
    for name in model.errors:
        delta, error, paper = table[name] - table[f"true_{name}"], errors[f"e_{name}"], errors[f"e_{name}_paper"]
        finite = np.isfinite(delta + error + paper)
        weight = np.where(finite, error**-2, 0.0)
        total = np.maximum(np.bincount(star, weight), np.finfo(float).tiny)
        mean = np.bincount(star, weight * np.where(finite, delta, 0.0)) / total
        left = 1 - weight / total[star]
        for low, high in BINS:
            inside = finite & (table["snr_r"] >= low) & (table["snr_r"] < high)
            shared = systematic_error(delta[inside & seen], error[inside & seen])
            rows = inside & ~seen
            several = rows & (left > 0.05)
            apart = 1.4826 * np.abs(delta - mean[star])[several] / np.sqrt(left[several])
            beyond = delta[rows] - shared.bias
            cells = [
                f"{name} ({UNITS[name]})",
                f"{low} to {high}",
                f"{rows.sum():,}",
                f"{shared.bias:.2g}",
                f"{shared.scatter:.2g}",
                f"{np.median(apart / error[several]):.2f}",
                f"{robust_scatter(beyond / error[rows]):.2f}",
                f"{robust_scatter(beyond / np.hypot(error[rows], shared.scatter)):.2f}",
                f"{robust_scatter(beyond / paper[rows]):.2f}",
            ]
            yield cells


if __name__ == "__main__":
    main()
