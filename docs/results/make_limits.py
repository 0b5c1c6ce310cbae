"""Make `docs/what-a-spectrum-tells.md`: Cramer-Rao bounds of labels, and the errors of this package beside them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, reflow, table

import stargap
from stargap import paper
from stargap.measurement.limits import limits, velocity_correlations
from stargap.mock.survey import simulate_survey
from stargap.settings import MeasureSettings
from stargap.statistics import robust_scatter

DIGITS = {"rv": 1, "teff": 0, "logg": 3, "m_h": 3}
HEAD = ["RV (km/s)", "Teff (K)", "log g", "[M/H]"]
LOGG_WIDTH = 0.05
"""Width (dex) of the prior of log g about the main sequence."""
PHOTOMETRY = {"teff": 44.0, "logg": 0.025, "m_h": 0.08}
"""Errors of labels from Gaia and 2MASS (docs/results/photometry.md)."""
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 100.0), (100.0, 1000.0))
STARS, SEED = 900, 11


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1], help="where the page goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    (given.out / "what-a-spectrum-tells.md").write_text(reflow(page()), encoding="utf-8")
    return 0


def cells(bounds: dict[str, float]) -> list[str]:
    """Return bounds as text."""
    return [number(bounds[name], digits) for name, digits in DIGITS.items()]


def page() -> str:
    """Return the page."""
    temperatures = [[f"{teff} K", *cells(limits(teff, 0.0, 10.0))] for teff in (3000, 3200, 3400, 3600, 3800, 4000)]
    metallicities = [[f"{m_h:+.1f}", *cells(limits(3500.0, m_h, 10.0))] for m_h in (-1.0, -0.5, 0.0, 0.4)]
    correlations = []
    for teff in (3100, 3400, 3700, 4000):
        for m_h in (-0.5, 0.0, 0.3):
            rho = velocity_correlations(teff, m_h).values()
            correlations.append([f"{teff} K, [M/H] {m_h:+.1f}", *(number(value, 2, sign=True) for value in rho)])
    signals = []
    for snr in (5, 10, 20, 50, 100):
        signals.append([f"S/N {snr}: the spectrum alone", *cells(limits(3500.0, 0.0, snr))])
        prior = limits(3500.0, 0.0, snr, logg_width=LOGG_WIDTH)
        signals.append([f"with log g within {LOGG_WIDTH} dex of the main sequence", *cells(prior)])
        signals.append(["with photometry", *cells(limits(3500.0, 0.0, snr, known=PHOTOMETRY))])
    return f"""# What a spectrum tells

Made by `make results-limits`; every number here comes from `docs/results/make_limits.py`.

The Cramér-Rao bound is the smallest error that any unbiased measurement of velocity and labels together can have, given
the noise of the pixels and how the spectrum depends on each of them. Here the dependence is the emulator's, at
LAMOST's resolution and pixels, after the pseudo-continuum is divided out, and the noise is the same at all pixels. In
tables, `limit_rv`, `limit_teff`, `limit_logg` and `limit_m_h` are the bounds for each spectrum's own noise; `stargap
limits --teff 3500 --m-h 0 --snr 20` prints them for any M dwarf. A bound knows nothing of errors of the models.

## By S/N, Teff 3500 K, solar metallicity

{table(["", *HEAD], signals)}

The paper quotes a scatter of repeats of {paper.REPEATS["teff"][0]:.0f} K, {paper.REPEATS["logg"][0]} and
{paper.REPEATS["m_h"][0]} dex at S/N 10, and of {paper.REPEATS["rv"][0]} km/s. Photometry is counted as independent
errors of {PHOTOMETRY["teff"]:.0f} K, {PHOTOMETRY["logg"]} and {PHOTOMETRY["m_h"]} dex.

## By Teff, solar metallicity, S/N 10

{table(["Teff", *HEAD], temperatures)}

## By [M/H], Teff 3500 K, S/N 10

{table(["[M/H]", *HEAD], metallicities)}

## Velocity and labels

Errors of velocity are hardly correlated with those of labels, when all are measured together: tables have `rho_*` of
labels alone.

{table(["", "Teff", "log g", "[M/H]"], correlations)}

## Ours beside the bound

{ours()}
"""


def ours() -> str:
    """Return errors and scatter about the truth of simulated stars over their bounds, by S/N."""
    spectra, truth = [], []
    for chunk in simulate_survey(STARS, seed=SEED, junk=0.0, repeats=0.0):
        spectra += chunk.spectra
        truth.append({name: np.asarray(chunk.truth[name], dtype=float) for name in DIGITS})
    settings = MeasureSettings(lamost_noise_factor=1.0, lamost_rv_floor=0.0)
    found = stargap.measure(spectra, model="transfer-simulated", settings=settings).arrays()
    true = {name: np.concatenate([part[name] for part in truth]) for name in DIGITS}
    snr = np.minimum(found["snr_r"], found["snr_i"]).astype(float)
    rows = []
    for low, high in BINS:
        here = (snr >= low) & (snr < high) & (found["use_teff"] == 1) & (found["care_teff"] == 0)
        if here.sum() >= 20:
            rows.append([f"{low:.0f} to {high:.0f}", str(here.sum()), *_ratios(found, true, here)])
    head = ["S/N", "stars", *(f"{title}: {what}" for title in HEAD for what in ("error", "scatter"))]
    return f"""Of {STARS} simulated stars that are marked as usable without care, measured through `transfer-simulated`
without the noise factor and velocity floor of real LAMOST spectra: the median of `e_* / limit_*`, and
the robust scatter of (measured − true) / `limit_*`. The bound is that of the spectrum alone, for the
[a/M] of 0 that this model fixes. Errors are smaller than it where the prior of log g helps, and Teff
gains as well, since its errors are correlated with those of log g (`rho_teff_logg`). The scatter holds
the errors of the transfer and unresolved pairs beside the noise.

{table(head, rows)}"""


def _ratios(
    found: dict[str, NDArray[np.generic]], true: dict[str, NDArray[np.float64]], here: NDArray[np.bool_]
) -> Sequence[str]:
    texts = []
    for name in DIGITS:
        bound = np.asarray(found[f"limit_{name}"], dtype=float)[here]
        error = np.asarray(found[f"e_{name}"], dtype=float)[here]
        off = np.asarray(found[name], dtype=float)[here] - true[name][here]
        spread = robust_scatter(off / bound)
        texts += [number(float(np.nanmedian(error / bound)), 2), number(float(spread), 2)]
    return texts


if __name__ == "__main__":
    sys.exit(main())
