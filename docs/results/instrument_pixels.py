"""Labels of the emulator's own spectra on other pixels than those of the log-lambda grid: biases, and errors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, table

import stargap
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT, STARGAP
from stargap.settings import MeasureSettings
from stargap.theory.emulator import shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.theory.sampling import cubic

__all__ = ["interpolation"]

Floats = NDArray[np.float64]
STARS, SEED, SNR = 192, 5, 25.0
LABELS = {"rv": 1, "teff": 0, "logg": 3, "m_h": 3}
RANGE = (5930.0, 8960.0)


def interpolation() -> str:
    """Return the section."""
    settings, rng = MeasureSettings(fixed={"a_m": 0.0}), np.random.default_rng(SEED)
    drawn = draw_training_labels(6000, alpha=0.0, seed=3)
    inside = (drawn[:, 0] > 3000) & (drawn[:, 0] < 4000) & (np.abs(drawn[:, 2] + 0.2) < 0.55)
    labels = drawn[inside][:STARS]
    labels[:, 3] = 0.0
    rv = rng.uniform(-60.0, 60.0, len(labels))
    truth = {"rv": rv, "teff": labels[:, 0], "logg": labels[:, 1], "m_h": labels[:, 2]}
    rows = []
    for name, wave in pixels().items():
        clean = seen(labels, rv, wave)
        sigma = clean.mean(axis=1, keepdims=True) / (SNR * np.sqrt(np.gradient(wave) / 1.6))
        both = [
            stargap.measure(
                clean + sigma * rng.standard_normal(clean.shape),
                wavelength=wave,
                ivar=np.broadcast_to(sigma**-2, clean.shape),
                model="emulator",
                settings=settings,
                progress=False,
            ).arrays()
            for _ in range(2)
        ]
        cells = [name, f"{np.median(both[0]['resolution']):.0f}"]
        for label, digits in LABELS.items():
            off = np.concatenate([one[label] - truth[label] for one in both])
            pulls = (both[0][label] - both[1][label]) / np.hypot(both[0][f"e_{label}"], both[1][f"e_{label}"])
            cells += [number(float(np.median(off)), digits, sign=True), number(float(np.nanstd(pulls)), 2)]
        rows.append(cells)
    head = ["pixels", "R in the fit"]
    head += [text for name in ("RV (km/s)", "Teff (K)", "log g", "[M/H]") for text in (name, "pulls")]
    return f"{HEAD}\n\n{table(head, rows)}"


def pixels() -> dict[str, Floats]:
    """Return wavelengths (A) by name."""
    grid = LOG_LAMBDA.wavelength
    grid = grid[(grid > RANGE[0]) & (grid < RANGE[1])]
    return {"LAMOST's": grid, "half a pixel beside them": grid * LOG_LAMBDA.ratio, "1.0 A": np.arange(*RANGE, 1.0),
            "1.5 A": np.arange(*RANGE, 1.5), "2.5 A": np.arange(*RANGE, 2.5)}  # fmt: skip


def seen(labels: Floats, rv: Floats, wave: Floats) -> Floats:
    """Return the emulator's spectra at velocities (km/s) on other pixels, ``(star, pixel)``."""
    flux = shipped_emulator().flux(torch.as_tensor(labels))
    rest = wave / (1 + rv[:, None] / SPEED_OF_LIGHT)
    return np.asarray(cubic(flux / flux.mean(dim=1, keepdim=True), torch.as_tensor(rest - STARGAP.support[0])).numpy())


HEAD = f"""## Pixels that do not lie on LAMOST's

Pixels of LAMOST and SDSS are copied; narrower ones are averaged, others interpolated. {STARS} spectra of the
emulator itself (R = 1800, {SNR:.0f} of S/N per 1.6 A, simulated) on other pixels, measured with `--model emulator`:
the median of measured minus true, and the standard deviation of differences between two realisations of the noise
over their errors, which is 1 where errors are right."""
