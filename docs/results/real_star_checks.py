"""The shipped model on spectra that have no labels, for `make_real_stars.py`: templates, giants, junk, little light."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pages import number, read_index, table
from real_star_anchors import Star
from real_star_data import Template, degraded, simulated_junk

import stargap
from stargap.flags import Flag
from stargap.measurement.star import BATCH, Columns, measure_native
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.spectrum import Facts
from stargap.transfer.anchored.model import lamost_transfer

Array = NDArray[np.float64]
LABELS = {"teff": ("Teff (K)", 0), "logg": ("log g (dex)", 2), "m_h": ("[M/H] (dex)", 2)}
LEVELS, DRAWS, BRIGHT, SEED = (50.0, 20.0, 10.0, 5.0), 10, 120.0, 7
CLASSES = ("dwarf", "sd", "esd", "usd")
MEANT = {"sd": -0.9, "esd": -1.3, "usd": -1.8}
"""[M/H] that the classes of metal-poor dwarfs mean, about (dex)."""
NEAR, RICHEST = 0.2, 0.9
"""How near (dex); bins of [Fe/H] above that are beyond the synthetic spectra and are not compared."""
UNUSABLE = int(Flag.UNLIKE_TRAINING | Flag.OUTSIDE_TRAINING)


@dataclass(frozen=True)
class Order:
    """Templates as measured: pairs of one type in which [M/H] rises, all pairs, and [M/H] of the standards by class."""

    rising: int
    pairs: int
    classes: dict[str, Array]

    @property
    def as_meant(self) -> bool:
        """Whether the medians of metal-poor classes are within `NEAR` of what they mean, and fall."""
        middle = {name: float(np.median(values)) for name, values in self.classes.items()}
        falls = all(middle[one] > middle[other] for one, other in pairwise(CLASSES))
        return falls and all(abs(middle[name] - value) <= NEAR for name, value in MEANT.items())


def measured(spectra: list[object]) -> Columns:
    """Return the columns of the shipped model."""
    return stargap.measure(spectra).arrays()  # type: ignore[arg-type]


def order(templates: list[Template]) -> Order:
    """Measure the templates."""
    columns = measured([one.spectrum for one in templates])
    m_h = np.asarray(columns["m_h"], dtype=float)
    bins = sorted({one.value for one in templates if one.group == "sdss" and np.isfinite(one.value)})
    rising, pairs = 0, 0
    for kind in sorted({one.kind for one in templates if one.group == "sdss"}):
        place = {one.value: k for k, one in enumerate(templates) if one.group == "sdss" and one.kind == kind}
        have = [value for value in bins if value in place]
        for low, high in pairwise([value for value in have if value < RICHEST]):
            pairs += 1
            rising += int(m_h[place[high]] > m_h[place[low]])
    classes = {
        name: np.array([m_h[k] for k, one in enumerate(templates) if one.group == "standard" and one.kind == name])
        for name in CLASSES
    }
    return Order(rising, pairs, classes)


def order_text(found: Order) -> str:
    """Return the section on templates."""
    lines = [
        [name, str(len(v)), number(float(np.median(v)), 2, sign=True), number(MEANT.get(name, np.nan), 1),
         f"{number(float(v.min()), 2, sign=True)} to {number(float(v.max()), 2, sign=True)}"]
        for name, v in found.classes.items()
    ]  # fmt: skip
    return f"""## Order where there are no labels

Templates through the shipped model; three of the standards (Gl 393, Gl 402, Gl 411) trained it. SDSS mean spectra of
Kesseli et al. (2017): our [M/H] rises with their bin of [Fe/H] in **{found.rising} of {found.pairs}** adjacent pairs of
one type. Standards of Kesseli et al. (2019), Lépine et al. (2007) and Bochanski et al. (2007): our [M/H] by class.

{table(["class", "n", "median [M/H]", "meant", "range"], lines)}"""


def giants_text(giants: list[Star]) -> tuple[str, int]:
    """Return the section on giants, and how many of them pass as usable dwarfs."""
    columns = measured([star.spectrum for star in giants])
    flags = np.asarray(columns["flags"], dtype=np.int64)
    measured_at_all = np.isfinite(np.asarray(columns["teff"], dtype=float))
    usable = measured_at_all & ((flags & UNUSABLE) == 0)
    passing = [star.name for star, passes in zip(giants, usable, strict=True) if passes]
    rows = []
    for title, spectra in simulated_junk().items():
        bits = np.asarray(measured(list(spectra))["flags"], dtype=np.int64)
        rows.append([f"{title} (simulated)", str(len(bits)), f"{((bits & UNUSABLE) > 0).mean():.0%}"])
    rows.insert(0, ["K to M giants (real, other instruments)", str(len(giants)),
                    f"{1 - usable.mean():.0%}"])  # fmt: skip
    named = f" Passing: {', '.join(passing)}." if passing else ""
    return (
        f"""## What is no M dwarf

Flagged `UNLIKE_TRAINING` (reduced chi-square above {lamost_transfer().chi2_limit:.2g}) or `OUTSIDE_TRAINING`
(published Teff or [M/H] beyond the anchors'), or, of giants, without labels.{named}

{table(["spectra", "n", "flagged"], rows)}""",
        len(passing),
    )


def noise_text(lamost: Path) -> str:
    """Return what noise does to labels of bright stars, and whether quoted errors say so."""
    native, snr, names = degraded(lamost, BRIGHT)
    rng, ratios = np.random.default_rng(SEED), list[float]()
    for level in LEVELS:
        found = _through(_noisier(native, snr, level, rng))
        for name in LABELS:
            values, errors = (found[key].reshape(-1, DRAWS) for key in (name, f"e_{name}"))
            middle, quoted = np.nanmedian(values, axis=1), np.nanmedian(errors, axis=1)
            scatter = 1.4826 * np.nanmedian(np.abs(values - middle[:, None]), axis=1)
            ratios.append(round(float(np.median(scatter / quoted)), 2))
    right = sum(abs(ratio - 1) <= 0.2 for ratio in ratios)
    return f"""## With less light

The {len(names)} clean spectra with S/N above {BRIGHT:.0f} in r, white noise added on the native pixels, {DRAWS} times
each (seed {SEED}), velocities measured anew. Scatter: 1.4826 MAD over the draws; quoted: `e_*`, the error of noise
alone, divided by the gain as labels are; medians over stars. They agree within 20 % in {right} of {len(ratios)} cases
(three labels at S/N {", ".join(f"{level:.0f}" for level in LEVELS)}); their ratio is {min(ratios):.2f} to
{max(ratios):.2f}."""


def _noisier(native: NativeBatch, snr: Array, level: float, rng: np.random.Generator) -> NativeBatch:
    flux, ivar = [], []
    for star in range(len(native)):
        scale, own = level / snr[star], native.ivar[star].double().numpy()
        width = np.where(own > 0, np.sqrt((1 / scale**2 - 1) / np.maximum(own, 1e-30)), 0.0)
        for _ in range(DRAWS):
            flux.append(native.flux[star].double().numpy() + width * rng.normal(size=width.shape))
            ivar.append(own * scale**2)
    arrays = (torch.as_tensor(np.array(side), dtype=torch.float32) for side in (flux, ivar))
    count = len(flux)
    return type(native)(*arrays, torch.ones(count).double(), torch.zeros(count).long())


def _through(spectra: NativeBatch) -> dict[str, Array]:
    transfer, parts = lamost_transfer(), []
    for first in range(0, len(spectra), BATCH):
        some = spectra[slice(first, first + BATCH)]
        columns, _ = measure_native(
            some,
            [Facts(layout="degraded")] * len(some),
            MeasureSettings(),
            transfer.emulator,
            failure=[""] * len(some),
            spectrum_id=np.arange(len(some)),
            transfer=transfer,
        )
        parts.append(columns)
    wanted = [*LABELS, *(f"e_{name}" for name in LABELS)]
    return {name: np.concatenate([np.asarray(part[name], dtype=float) for part in parts]) for name in wanted}


def clean_cool(lamost: Path) -> list[Path]:
    """Return the clean spectra of `lamost/cool`."""
    return [lamost / "cool" / row["file"] for row in read_index(lamost, "cool") if not row["note"]]
