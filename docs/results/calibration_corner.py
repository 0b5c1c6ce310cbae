"""Spectra of the shipped emulator, measured with itself, near the corner of the relation of [a/M] to [M/H].

    python docs/results/calibration_corner.py ROUNDING FILE

writes truth and measurements with corners that are rounded over so many dex, in a process of its own: what is made once
per process depends on it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, table

from stargap.fit import parameters

ROUNDINGS = (parameters.ROUNDING, 0.15)
STARS, SEED = 700, 3
SNR = (15.0, 80.0)
BINS = ((-0.45, -0.25), (-0.25, -0.12), (-0.12, -0.04), (-0.04, 0.04), (0.04, 0.12), (0.12, 0.25), (0.25, 0.4))
NAMES = ("teff", "logg", "m_h")


def main() -> None:
    """Simulate, measure and write."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from helpers.stars import mock_stars

    from stargap import measure
    from stargap.labels import alpha_relation
    from stargap.settings import MeasureSettings
    from stargap.theory.emulator import shipped_emulator

    torch.set_num_threads(1)
    parameters.ROUNDING = float(sys.argv[1])
    rng = np.random.default_rng(SEED)
    labels = np.empty((STARS, 4))
    labels[:, 0], labels[:, 2] = rng.uniform(3150, 3950, STARS), rng.uniform(BINS[0][0], BINS[-1][1], STARS)
    sequence = np.interp(labels[:, 0], [3000.0, 3400.0, 4000.0], [5.03, 4.82, 4.66])
    labels[:, 1] = sequence - 0.2 * labels[:, 2] + rng.normal(0, 0.05, STARS)
    labels[:, 3] = alpha_relation(labels[:, 2], rounding=parameters.ROUNDING)
    snr = np.exp(rng.uniform(*np.log(SNR), STARS))
    stars = mock_stars(shipped_emulator(), STARS, seed=4, labels=labels, snr=snr, active_fraction=0, bad_pixels=False)
    settings = MeasureSettings(lamost_noise_factor=1.0, lamost_rv_floor=0.0)
    found = measure(
        stars.flux, wavelength=stars.wavelength, ivar=stars.ivar, model="emulator", settings=settings, progress=False
    ).arrays()
    columns = {name: np.asarray(found[name], dtype=float) for label in NAMES for name in (label, f"e_{label}")}
    np.savez(sys.argv[2], labels=labels, snr=snr, **columns)


def corner_text(work: Path) -> str:
    """Return the section, measuring what has not been measured."""
    rows = []
    for rounding in ROUNDINGS:
        path = work / f"corner-{rounding}.npz"
        if not path.exists():
            subprocess.run([sys.executable, __file__, str(rounding), str(path)], check=True)
        with np.load(path) as file:
            stars = {name: file[name] for name in file.files}
        for which in ("true", "measured"):
            rows += [(f"{rounding:g} dex, by {which} [M/H]", *cells) for cells in _rows(stars, which)]
    return f"""## The emulator on its own spectra, and the corner of [a/M]

{STARS} spectra of the shipped emulator of S/N {SNR[0]:.0f} to {SNR[1]:.0f}, measured with it (`--model emulator`):
errors are of noise alone. [a/M] follows [M/H] below 0 and is 0 above; the corner is rounded over {ROUNDINGS[0]:g} dex
in all fits, and over {ROUNDINGS[1]:g} dex for comparison. Shares within one error and scatter of pulls, in
bins in which shares are known to 4 to 6 points: errors are right there as elsewhere.

{table(("corner rounded over", "[M/H]", "stars", "Teff", "log g", "[M/H]"), rows)}
"""


def _rows(stars: dict[str, NDArray[Any]], which: str) -> list[tuple[str, ...]]:
    known = np.isfinite(stars["m_h"])
    place = stars["labels"][:, 2] if which == "true" else stars["m_h"]
    found = []
    for low, high in BINS:
        here = known & (place >= low) & (place < high)
        cells = []
        for column, name in enumerate(NAMES):
            pulls = ((stars[name] - stars["labels"][:, column]) / stars[f"e_{name}"])[here]
            spread = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
            cells.append(f"{100 * np.mean(np.abs(pulls) < 1):.0f} %, {spread:.2f}")
        ends = f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}"
        found.append((ends, f"{here.sum()}", *cells))
    return found


if __name__ == "__main__":
    main()
