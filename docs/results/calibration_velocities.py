"""Velocities of real M dwarfs against Gaia's: zero point, scatter, and what moves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, read_index, table
from real_star_anchors import Photometry
from real_star_anchors import number as parsed

from stargap.labels import M_H, TEFF
from stargap.measurement import velocity
from stargap.measurement.star import batch_velocity
from stargap.measurement.templates import Templates, templates_at
from stargap.mock.nature import LOWER, UPPER, shipped_nature
from stargap.pixels import LOG_LAMBDA
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch, native_batch
from stargap.spectra.readers.read import read_spectrum
from stargap.statistics import robust_scatter
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.calibration import Calibration

Array = NDArray[np.float64]
WRONG = 15.0
"""Differences (km/s) beyond which a spectrum is taken to be of another star."""
SHARE = 0.5
"""Part of what blocks of wavelength disagree by that is error, as simulated stars show it."""
RANGES = ((5930, 6600), (6600, 7060), (7060, 7700), (7700, 8400), (8400, 8970))
SETTINGS = MeasureSettings()


@dataclass(frozen=True)
class Pairs:
    """Spectra of LAMOST and velocities of Gaia (km/s) with errors; labels that templates are made at, ``(star, 4)``."""

    native: NativeBatch
    gaia: Array
    e_gaia: Array
    labels: torch.Tensor
    noise: Array
    by_blocks: Array
    rv: Array
    dropped: int

    def measured(self, templates: Templates | None = None, use: NDArray[np.bool_] | None = None) -> Array:
        """Return ours - Gaia's of a fit that begins at Gaia's velocity, against templates or with some pixels alone."""
        native = self.native
        if use is not None:
            native = replace(native, ivar=native.ivar * torch.as_tensor(use).float())
        begin = torch.as_tensor(self.gaia)
        nothing = torch.full_like(begin, torch.nan)
        flags = torch.zeros(len(begin), dtype=torch.long)
        start = velocity.Velocities(begin, nothing, nothing, flags, nothing, flags)
        own = templates_at(shipped_emulator(), self.labels) if templates is None else templates
        return velocity.refine_velocity(native, start, own).rv.numpy() - self.gaia


def read_pairs(data: Path) -> Pairs:
    """Read the M dwarfs of ``lamost/cool`` whose velocities are in Gaia DR3, by position and proper motion."""
    catalogue = Photometry(data)
    spectra, known = [], []
    for row in read_index(data / "lamost", "cool"):
        place = catalogue.find(row["ra"], row["dec"])
        if place is None or catalogue.rows[place]["rv_ref"] not in ("DR2", "DR3"):
            continue
        star = catalogue.rows[place]
        known.append([parsed(star[name]) for name in ("rv", "rv_error")])
        spectra.append(read_spectrum(data / "lamost" / "cool" / row["file"]))
    native, _, _ = native_batch(spectra)
    found = batch_velocity(native, SETTINGS, shipped_emulator())
    gaia, e_gaia = np.array(known).T
    kept = np.abs(found.rv.numpy() - gaia) < WRONG
    rows = torch.as_tensor(np.flatnonzero(kept))
    parts = (part.numpy()[kept] for part in (found.error, found.by_blocks, found.rv))
    return Pairs(native[rows], gaia[kept], e_gaia[kept], found.labels[rows], *parts, dropped=int((~kept).sum()))


def velocity_text(data: Path) -> str:
    """Return the section on velocities of real stars."""
    pairs = read_pairs(data)
    usual = pairs.measured()
    lines = []
    for title, found in _variants(pairs):
        lines.append((title, *_cells(found), *_change(found - usual)))
    factor = SETTINGS.lamost_noise_factor
    noise = pairs.noise * factor
    excess = np.sqrt(np.maximum(pairs.by_blocks**2 - noise**2, 0.0))
    off = pairs.rv - pairs.gaia
    floors = []
    for share in (0.0, 0.5, 1.0):
        errors = np.sqrt(noise**2 + (share * excess) ** 2 + pairs.e_gaia**2)
        zero, floor = most_likely(off, errors)
        both = number(zero[0], 2, error=zero[1]), number(floor[0], 2, error=floor[1])
        floors.append((f"{share:g} of the disagreement", *both, *_left_out(off, errors)))
    return f"""## Velocities of real M dwarfs against Gaia's

{len(off)} spectra of `lamost/cool` whose stars have velocities in Gaia DR3 or DR2; {pairs.dropped} more differ by over
{WRONG:.0f} km/s and are of other stars or contaminated. Each row changes one thing of the velocity fit, which begins at
Gaia's velocity; *change* is the mean of differences from the first row, star by star, with its error.

{table(["", "median", "mean", "robust scatter", "standard deviation", "change"], lines)}

* **The zero point was ours**: the window that label fits leave out, 6850 to 6885 Å, is the paper's and ends within
  the telluric B band (6867 to 6944 Å at rest on Earth), of which the rest was fitted as if it were the star's.
  Velocities leave all of it out now, and the mean difference is about its error. These stars showed it; which
  wavelengths are left out follows from the atmosphere, not from them.
* Bands of TiO of the models are off by several km/s to either side (rows by wavelength, and with other templates): what
  is left of a zero point depends on which bands weigh most, and is not corrected by a constant that is not
  significant. Its error is in `e_rv_sys`.
* Air wavelengths taken for vacuum would move velocities by 83 km/s, a barycentric correction left out by up to 30,
  gravitational redshift and convection of M dwarfs by less than 1: none is the cause.

The floor is what differences scatter by beyond noise (the inverse variance's times {factor:g}), Gaia's errors, and a
share of what blocks of wavelength disagree by, as the most likely number. *Left out*: each star by zero point and floor
of all others, in units of its error.

{table(["", "zero point (km/s)", "floor (km/s)", "scatter of pulls, left out", "within 1 error"], floors)}

Exposures of F, G and K stars scatter by 5 km/s beyond noise ([emulator-stars.md](emulator-stars.md)); of M dwarfs,
which have their own templates, `lamost_rv_floor` is {SETTINGS.lamost_rv_floor:g} km/s, from the row with half of
the disagreement, about the share that simulated stars show.
"""


def velocity_calibration(data: Path) -> Calibration:
    """Return what real stars tell of velocities: no zero point that is significant, its error, and `SHARE`."""
    pairs = read_pairs(data)
    noise = pairs.noise * SETTINGS.lamost_noise_factor
    excess = np.sqrt(np.maximum(pairs.by_blocks**2 - noise**2, 0.0))
    errors = np.sqrt(noise**2 + (SHARE * excess) ** 2 + pairs.e_gaia**2)
    (_, error), _ = most_likely(pairs.rv - pairs.gaia, errors)
    teff, m_h = (pairs.labels[:, place].numpy() for place in (TEFF, M_H))
    return Calibration(
        source=f"{len(errors)} M dwarfs of LAMOST with velocities in Gaia DR3 or DR2 (docs/results/calibration.md)",
        stars=len(errors),
        teff=(float(teff.min()), float(teff.max())),
        m_h=(float(m_h.min()), float(m_h.max())),
        snr=(5.0, 300.0),
        e_velocity=round(error, 2),
        blocks=SHARE,
    )


def most_likely(delta: Array, error: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return zero point and floor of normal differences, each with its error by the second derivatives."""
    from scipy.optimize import minimize

    def cost(values: Array) -> float:
        variance = error**2 + values[1] ** 2
        return float(((delta - values[0]) ** 2 / variance + np.log(variance)).sum() / 2)

    found = minimize(cost, np.array([np.median(delta), robust_scatter(delta)]), method="BFGS")
    spread = np.sqrt(np.diag(found.hess_inv))
    return (float(found.x[0]), float(spread[0])), (abs(float(found.x[1])), float(spread[1]))


def _left_out(delta: Array, error: Array) -> tuple[str, str]:
    pulls = []
    for k in range(len(delta)):
        others = np.arange(len(delta)) != k
        (zero, e_zero), (floor, _) = most_likely(delta[others], error[others])
        pulls.append((delta[k] - zero) / np.sqrt(error[k] ** 2 + floor**2 + e_zero**2))
    return f"{robust_scatter(pulls):.2f}", f"{100 * np.mean(np.abs(pulls) < 1):.0f} %"


def _cells(off: Array) -> tuple[str, ...]:
    off = off[np.isfinite(off) & (np.abs(off) < 2 * WRONG)]
    error = float(off.std(ddof=1) / np.sqrt(len(off)))
    cells = number(float(np.median(off)), 1, sign=True), number(float(off.mean()), 1, error=error, sign=True)
    return (*cells, number(robust_scatter(off), 1), number(float(off.std(ddof=1)), 1))


def _change(change: Array) -> tuple[str]:
    change = change[np.isfinite(change) & (np.abs(change) < 2 * WRONG)]
    if not change.any():
        return ("–",)
    return (number(float(change.mean()), 1, error=float(change.std(ddof=1) / np.sqrt(len(change))), sign=True),)


@contextmanager
def _setting(name: str, value: Any) -> Iterator[None]:
    """Change a constant of the velocity fit."""
    before = getattr(velocity, name)
    setattr(velocity, name, value)
    velocity._native_smoother.cache_clear()
    try:
        yield
    finally:
        setattr(velocity, name, before)
        velocity._native_smoother.cache_clear()


def _variants(pairs: Pairs) -> Iterator[tuple[str, Array]]:
    """Yield what is changed, and ours - Gaia's."""
    yield "as it is", pairs.measured()
    for title, name, value in (
        ("with 6885 to 6960 Å, as before", "OXYGEN", (6850.0, 6885.0)),
        ("blue weighted like red", "ERROR_FLOOR", (0.02, 0.02, 6600.0)),
    ):
        with _setting(name, value):
            yield title, pairs.measured()
    low, high = (torch.tensor([*side, 0.0], dtype=torch.float64) for side in (LOWER, UPPER))
    inside = torch.maximum(torch.minimum(pairs.labels, high), low)
    yield "templates of other physics (the mock's nature)", pairs.measured(templates_at(shipped_nature(), inside))
    wave = LOG_LAMBDA.wavelength
    for low_end, high_end in RANGES:
        yield f"{low_end} to {high_end} Å alone", pairs.measured(use=(wave > low_end) & (wave < high_end))
