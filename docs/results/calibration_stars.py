"""Simulated stars of known truth, as many in each bin of S/N, and what `stargap.measure` makes of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap import measure
from stargap.labels import LOGG, M_H, TEFF
from stargap.measurement.models import load_model_named
from stargap.measurement.systematic import calibrated
from stargap.mock.instrument import CHUNK, Blend, Truth, observe
from stargap.mock.nature import Mix, nature_labels, shipped_nature
from stargap.mock.population import draw_unresolved
from stargap.mock.survey import LATE, METAL_POOR
from stargap.pixels import LOG_LAMBDA
from stargap.settings import MeasureSettings
from stargap.transfer.base import TrainedTransfer
from stargap.transfer.calibration import Calibration, Off, learn_calibration

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 100.0), (100.0, 300.0))
QUANTITIES = ("rv", "teff", "logg", "m_h")
KEPT = (*QUANTITIES, *(f"{mark}_{name}" for mark in ("e", "use") for name in QUANTITIES), "e_rv_sys", "e_teff_sys",
        "e_logg_sys", "e_m_h_sys", "snr_r", "snr_i", "rv_zero")  # fmt: skip
SETTINGS = MeasureSettings(lamost_noise_factor=1.0, lamost_rv_floor=0.0)
"""The noise of simulated stars is what their inverse variance says."""
MODEL = "transfer-simulated"


@dataclass(frozen=True)
class Recipe:
    """A simulated sample: number of stars, seed, mix of labels, shares of unresolved pairs and of active stars."""

    name: str
    stars: int
    seed: int
    mix: Mix
    pairs: float
    active: float


LEARNT = Recipe("learnt", 8192, 501, "galactic", 0.12, 0.12)
"""What the calibration is learned from."""
JUDGED = Recipe("judged", 5120, 901, "galactic", 0.12, 0.12)
"""What it is judged by."""
OTHER = Recipe("other", 5120, 777, "matched", 0.2, 0.2)
"""The same, of another mix of labels, with more pairs and active stars."""


@dataclass(frozen=True)
class Stars:
    """Truth and measurements, ``(star,)`` each; the measurements are those of a model without a calibration."""

    truth: Columns
    measured: Columns

    def __getitem__(self, rows: NDArray[np.bool_]) -> Stars:
        return Stars(*({name: values[rows] for name, values in part.items()} for part in (self.truth, self.measured)))

    def labels(self) -> Array:
        """Return published Teff and [M/H], ``(star, 2)``."""
        return np.stack([self.measured["teff"], self.measured["m_h"]], axis=1).astype(float)

    def snr(self) -> Array:
        """Return the lower S/N of r and i."""
        return np.fmin(self.measured["snr_r"], self.measured["snr_i"]).astype(float)

    def calibrated(self, known: Calibration | None) -> Stars:
        """Return the stars as a model with this calibration measures them."""
        noise = self.measured["e_rv"].astype(float)
        by_blocks = np.hypot(noise, self.measured["e_rv_sys"])
        fits = {**self.measured, "e_a_m": np.full(len(noise), np.nan)}
        changed = calibrated(fits, noise, by_blocks, self.snr().tolist(), np.ones(len(noise)), known)
        return Stars(self.truth, self.measured | changed)

    def pulls(self, name: str) -> Array:
        """Return (measured - true) / error, the systematic part included; NaN where a quantity cannot be used."""
        error = np.hypot(self.measured[f"e_{name}"], np.nan_to_num(self.measured[f"e_{name}_sys"].astype(float)))
        usable = (self.measured[f"use_{name}"] == 1) & (error > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(usable, (self.measured[name] - self.truth[name]) / error, np.nan)

    def classes(self) -> dict[str, NDArray[np.bool_]]:
        """Return which stars are of each class."""
        truth = self.truth
        snr = {f"S/N {low:.0f} to {high:.0f}": (truth["snr_r"] >= low) & (truth["snr_r"] < high) for low, high in BINS}
        snr |= {"metal-poor": truth["m_h"] < METAL_POOR, "late": truth["teff"] < LATE, "active": truth["active"]}
        return snr | {
            "unresolved pairs": truth["pair"],
            "no pairs, S/N above 50": ~truth["pair"] & (truth["snr_r"] > 50),
        }


def measured(recipe: Recipe, work: Path, model: str = MODEL) -> Stars:
    """Simulate and measure a sample by a model without its calibration, or read what was measured before."""
    path = work / f"{recipe.name}-{Path(model).stem}.npz"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            bare = _without_calibration(model, Path(folder))
            parts = [(truth, _measure(flux, ivar, bare)) for truth, flux, ivar in _simulated(recipe)]
        both = [{name: np.concatenate([part[k][name] for part in parts]) for name in parts[0][k]} for k in (0, 1)]
        np.savez(path, **{f"true {name}": values for name, values in both[0].items()}, **both[1])
    with np.load(path) as file:
        truth = {name.removeprefix("true "): file[name] for name in file.files if name.startswith("true ")}
        return Stars(truth, {name: file[name] for name in file.files if not name.startswith("true ")})


def learn(stars: Stars, source: str) -> Calibration:
    """Learn a calibration from simulated stars."""
    off = {}
    for name in QUANTITIES:
        usable = stars.measured[f"use_{name}"] == 1
        delta = np.where(usable, stars.measured[name] - stars.truth[name], np.nan)
        excess = stars.measured["e_rv_sys"].astype(float) if name == "rv" else None
        off[name] = Off(delta, stars.measured[f"e_{name}"].astype(float), excess)
    found = learn_calibration(off, stars.labels(), stars.snr(), source=source)
    assert found is not None
    return found


def _without_calibration(model: str, folder: Path) -> str:
    """Return a copy of a model whose card has no calibration."""
    transfer = load_model_named(model)
    if not isinstance(transfer, TrainedTransfer) or transfer.calibration is None:
        return model
    known, transfer.calibration = transfer.calibration, None
    transfer.save_again(folder / "bare.safetensors")
    transfer.calibration = known
    return str(folder / "bare.safetensors")


def _measure(flux: NDArray[np.float32], ivar: NDArray[np.float32], model: str) -> Columns:
    found = measure(
        flux.astype(float),
        wavelength=LOG_LAMBDA.wavelength,
        ivar=ivar.astype(float),
        model=model,
        settings=SETTINGS,
        progress=False,
    ).arrays()
    return {name: np.asarray(found[name], dtype=float) for name in KEPT}


def _simulated(recipe: Recipe) -> Any:
    """Yield truth, flux and inverse variance, chunk by chunk; S/N is log-uniform within each bin."""
    count = recipe.stars
    labels, active = nature_labels(count, seed=recipe.seed, mix=recipe.mix, active_fraction=recipe.active)
    rng = np.random.default_rng([recipe.seed, 77])
    low, high = np.array(BINS)[np.arange(count) % len(BINS)].T
    snr_r = np.exp(rng.uniform(np.log(low), np.log(high)))
    rv = np.where(rng.random(count) < 0.9, rng.normal(-5, 35, count), rng.normal(-20, 90, count)).clip(-250, 250)
    redder = rng.normal(0.45, 0.12, count) + 0.25 * (3600 - labels[:, TEFF]) / 600
    snr_i = np.maximum(snr_r * np.exp(redder), 5.0)
    spectrograph, fibre = rng.integers(1, 17, count), rng.integers(1, 251, count)
    truth = Truth(labels, active, rv, rv, snr_r, snr_i, spectrograph, fibre, np.full(count, 1800.0))
    pair = rng.random(count) < recipe.pairs
    companions, place = draw_unresolved(rng, labels[pair]), np.flatnonzero(pair)
    for number, first in enumerate(range(0, count, CHUNK)):
        rows = np.arange(first, min(first + CHUNK, count))
        part = Truth(**{name: getattr(truth, name)[rows] for name in Truth.__dataclass_fields__})
        here = (place >= first) & (place < first + CHUNK)
        blend = Blend(place[here] - first, companions.labels[here], companions.light[here], companions.rv[here])
        seed = recipe.seed * 1000 + number
        flux, ivar, _ = observe(shipped_nature(), part, LOG_LAMBDA.wavelength, seed=seed, blend=blend)
        columns = {"rv": part.rv, "active": part.active, "snr_r": part.snr_r, "pair": pair[rows]}
        columns |= {name: part.labels[:, k] for name, k in (("teff", TEFF), ("logg", LOGG), ("m_h", M_H))}
        yield columns, flux, ivar
