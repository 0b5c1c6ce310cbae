"""The demonstration: simulated LAMOST files, measured, and set beside their truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.atomic import replacing
from stargap.labels import LABELS
from stargap.measure.files import Measurements, measure
from stargap.mock.files import Layout, write_lamost
from stargap.mock.spectra import MockStars, mock_stars
from stargap.theory.payne import shipped_emulator
from stargap.validation.compare import robust_scatter
from stargap.validation.figures.recovery import recovery_figure

__all__ = ["BINS", "Demo", "Recovery", "recovery", "run_demo", "write_mock_survey"]

BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 201.0))
"""Bins of S/N per pixel at 7500 A."""
PICTURES = 12


@dataclass(frozen=True)
class Recovery:
    """Recovered minus true of one quantity in one bin of S/N: number, median, 1.4826 MAD, and that of the pulls."""

    name: str
    low: float
    high: float
    count: int
    median: float
    scatter: float
    pull: float


@dataclass(frozen=True)
class Demo:
    """What `run_demo` made: the folder, the measured table, the truth, and the comparison."""

    folder: Path
    table: Measurements
    truth: MockStars
    recovery: list[Recovery]


def write_mock_survey(folder: str | Path, stars: MockStars) -> list[Path]:
    """Write simulated stars as LAMOST files, in the three layouts in turn, every other one compressed.

    Returns:
        the paths, in the order of the stars.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layouts: tuple[Layout, ...] = ("lamost-image", "lamost-table", "lamost-dr1")
    paths = []
    for row, (flux, ivar) in enumerate(zip(stars.flux, stars.ivar, strict=True)):
        layout = layouts[row % 3]
        packed = row % 2 == 0
        path = folder / f"spec-58000-SIM_sp{1 + row // 250:02d}-{1 + row % 250:03d}.fits{'.gz' if packed else ''}"
        write_lamost(
            path,
            stars.wavelength,
            flux,
            ivar,
            layout=layout,
            andmask=(ivar == 0).astype(int),
            obsid=None if layout == "lamost-dr1" else 900_000_000 + row,
            ra=float((row * 137.508) % 360),
            dec=float(-10 + 60 * ((row * 0.618) % 1)),
            spectrograph=1 + row // 250 % 16,
            fiber=1 + row % 250,
            compress=packed,
        )
        paths.append(path)
    return paths


def recovery(table: Measurements, truth: MockStars) -> list[Recovery]:
    """Compare measured values with the truth in bins of S/N.

    Rows with null values are left out, and so are active stars, except for ``halpha_ew``, which uses only them.
    """
    wanted: dict[str, NDArray[np.float64]] = {"rv": truth.rv}
    wanted |= {name: truth.labels[:, LABELS.index(name)] for name in ("teff", "logg", "m_h")}
    wanted["halpha_ew"] = truth.halpha_ew
    rows = []
    for name, values in wanted.items():
        delta = np.asarray(table[name], dtype=float) - values
        pull = delta / np.asarray(table[f"e_{name}"], dtype=float)
        for low, high in BINS:
            use = (truth.snr >= low) & (truth.snr < high) & np.isfinite(pull) & (truth.active == (name == "halpha_ew"))
            some = use.any()
            rows.append(
                Recovery(
                    name,
                    low,
                    high,
                    int(use.sum()),
                    float(np.median(delta[use])) if some else np.nan,
                    robust_scatter(delta[use]) if some else np.nan,
                    robust_scatter(pull[use]) if some else np.nan,
                )
            )
    return rows


def run_demo(
    folder: str | Path,
    *,
    stars: int = 300,
    seed: int = 1,
    workers: int = 1,
    progress: Callable[[str, int, int], Any] | None = None,
) -> Demo:
    """Simulate a small survey as LAMOST files, measure the files, and compare with the truth.

    The stars come from the emulator that also fits them, so this shows that the machinery works and that its errors
    are right, and says nothing of accuracy on real stars.

    Args:
        folder: where ``spectra/``, ``pictures/``, ``labels.fits`` and ``recovery.png`` go.
        stars: how many.
        seed: of the simulation.
        workers: processes that measure.
        progress: called as ``progress(what, done, total)``.
    """
    folder = Path(folder)

    def tell(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    tell("simulating", 0, stars)
    truth = mock_stars(shipped_emulator(), stars, seed=seed, survey_noise=True)
    paths = write_mock_survey(folder / "spectra", truth)
    tell("simulating", stars, stars)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell("measuring", done, stars)

    chosen = {int(i) for i in np.linspace(0, stars - 1, min(PICTURES, stars))}
    table = measure(paths, workers=workers, plot=folder / "pictures", plot_rows=chosen, progress=count)
    table.write(folder / "labels.fits")
    with replacing(folder / "recovery.png") as file:
        recovery_figure(table.columns, truth.labels, truth.rv, truth.snr).savefig(file, format="png", dpi=120)
    return Demo(folder, table, truth, recovery(table, truth))
