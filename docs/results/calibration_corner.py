"""Spectra of the shipped emulator, measured with itself, near the corner of the relation of [a/M] to [M/H]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stargap import measure
from stargap.fit.parameters import ROUNDING
from stargap.labels import alpha_relation
from stargap.settings import MeasureSettings
from stargap.theory.emulator import shipped_emulator

STARS, SEED = 700, 3
SNR = (15.0, 80.0)
BINS = ((-0.45, -0.25), (-0.25, -0.12), (-0.12, -0.04), (-0.04, 0.04), (0.04, 0.12), (0.12, 0.25), (0.25, 0.4))
NAMES = ("teff", "logg", "m_h")


def corner_text(work: Path) -> str:
    """Return the section, measuring what has not been measured."""
    path = work / f"corner-{ROUNDING}.npz"
    if not path.exists():
        np.savez(path, **_measured())
    with np.load(path) as file:
        shares, spreads = _within({name: file[name] for name in file.files})
    return f"""## The emulator on its own spectra, and the corner of [a/M]

{STARS} spectra of the shipped emulator of S/N {SNR[0]:.0f} to {SNR[1]:.0f}, measured with it (`--model emulator`), so
that errors are of noise alone. [a/M] follows [M/H] below 0 and is 0 above, with a corner rounded over {ROUNDING:g} dex.
In {len(BINS)} bins of [M/H] across it {shares.min():.0f} to {shares.max():.0f} % of the labels are within one error
(known to 4 to 6 points), and the scatter of pulls is {spreads.min():.2f} to {spreads.max():.2f}: errors are right there
as elsewhere.
"""


def _measured() -> dict[str, NDArray[np.float64]]:
    """Simulate and measure: true labels ``(star, 4)``, and labels with their errors ``(star,)``."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from helpers.stars import mock_stars

    rng = np.random.default_rng(SEED)
    labels = np.empty((STARS, 4))
    labels[:, 0], labels[:, 2] = rng.uniform(3150, 3950, STARS), rng.uniform(BINS[0][0], BINS[-1][1], STARS)
    sequence = np.interp(labels[:, 0], [3000.0, 3400.0, 4000.0], [5.03, 4.82, 4.66])
    labels[:, 1] = sequence - 0.2 * labels[:, 2] + rng.normal(0, 0.05, STARS)
    labels[:, 3] = alpha_relation(labels[:, 2], rounding=ROUNDING)
    snr = np.exp(rng.uniform(*np.log(SNR), STARS))
    stars = mock_stars(shipped_emulator(), STARS, seed=4, labels=labels, snr=snr, active_fraction=0, bad_pixels=False)
    settings = MeasureSettings(lamost_noise_factor=1.0, lamost_rv_floor=0.0)
    found = measure(
        stars.flux, wavelength=stars.wavelength, ivar=stars.ivar, model="emulator", settings=settings, progress=False
    ).arrays()
    columns = {name: np.asarray(found[name], dtype=float) for label in NAMES for name in (label, f"e_{label}")}
    return {"labels": labels, "snr": snr, **columns}


def _within(stars: dict[str, NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return percentages within one error and scatters of pulls, by bin and label."""
    shares, spreads = [], []
    for low, high in BINS:
        place = stars["labels"][:, 2]
        here = np.isfinite(stars["m_h"]) & (place >= low) & (place < high)
        for column, name in enumerate(NAMES):
            pulls = ((stars[name] - stars["labels"][:, column]) / stars[f"e_{name}"])[here]
            shares.append(100 * np.mean(np.abs(pulls) < 1))
            spreads.append(1.4826 * np.median(np.abs(pulls - np.median(pulls))))
    return np.array(shares), np.array(spreads)
