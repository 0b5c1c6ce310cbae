"""Every method, how it is trained on the simulated survey, and its labels of the test stars, kept one file each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_transfer import LEVELS

from peers import amortised, cannon, laspm, ours, rvspec, slam, ulyss
from peers.survey import MIX, OUTSIDE, Spectra, Survey

BINS = ((50.0, 1e9), (20.0, 50.0), (5.0, 20.0))
"""Ranges of S/N in r."""
BRIGHT = 20.0
"""S/N in r above which stars outside the training mix are compared."""
GOOD_TRAINING = 60.0
"""Median S/N over all pixels above which spectra train SLAM and are templates: neither of these knows that one
spectrum is noisier than another."""
ITERATIONS = 400
"""Of the published Cycle-StarNet; its own schedule has 500,000."""
SLOW = {name: (400, 200) for name in ("payne", "default", "photometry", "literature")} | {
    "slam": (200, 100), "ulyss": (200, 100), "ulyss_high": (100, 50), "rvspecfit": (20, 10),
    "starnet": (60, 30)}  # fmt: skip
"""Test stars of methods that are slower: in each range of S/N, and in each half of those outside."""
TIED = ("default", "photometry", "literature")
"""Transfers that differ by what their labels are tied to, with the same fits."""
Fit = Callable[[Any], np.ndarray]
"""From spectra, their native pixels (rvspecfit) or fits before the label map (`TIED`) to labels ``(star, 3)``."""


@dataclass(frozen=True)
class Result:
    """Labels ``(star, 3)`` of the test stars in `rows`; NaN where there are none.

    ``trained`` and ``fitted`` are processor seconds, of the training and a star; ``matched, outside (row,)`` say which
    test stars the labels are of.
    """

    labels: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    trained: float
    fitted: float


def chosen_rows(snr: np.ndarray, kind: str, slow: tuple[int, int] | None) -> np.ndarray:
    """Return the test stars that a method is given: all, or the first ones of each range."""
    places = np.arange(len(snr))
    if kind == MIX:
        parts = [places[(snr >= low) & (snr < high)] for low, high in BINS]
    else:
        half = places < OUTSIDE // 2
        parts = [places[side & (snr >= BRIGHT)] for side in (half, ~half)]
    if slow is not None:
        parts = [part[: slow[kind != MIX]] for part in parts]
    return np.sort(np.concatenate(parts))


@dataclass
class Methods:
    """The methods on one survey."""

    survey: Survey
    tell: Callable[[str], object]

    def names(self) -> list[tuple[str, str]]:
        """Return every method and level; the level of data-driven methods, which see no model, is ``data``."""
        found = [(name, "data") for name in ("cannon", "slam", "templates")]
        modelled = [
            "payne",
            "grid",
            "ulyss",
            "ulyss_high",
            "amortised",
            "default",
            "photometry",
            "literature",
            "starnet",
        ]
        if find_spec("rvspecfit") is not None:
            modelled.append("rvspecfit")
        return found + [(name, level) for name in modelled for level in LEVELS]

    def result(self, name: str, level: str) -> Result:
        """Run a method, or read what it found."""
        path = self.survey.folder / f"result-{name}-{level}.npz"
        if not path.exists():
            self.tell(f"{name} {level}")
            began = time.process_time()
            fit, trained = self.make(name, level)
            trained = time.process_time() - began if trained is None else trained
            labels, rows, spent = {}, {}, {}
            for kind in (MIX, "outside"):
                spectra = self.survey.sample(kind).spectra
                rows[kind] = chosen_rows(spectra.snr, kind, SLOW.get(name))
                seen = self.survey.native(kind, rows[kind]) if name == "rvspecfit" else spectra[rows[kind]]
                if name in TIED:
                    raw = ours.before_map(self.survey, level, kind, seen)
                    labels[kind], spent[kind] = fit(raw), raw.seconds
                    continue
                began = time.process_time()
                labels[kind] = fit(seen)
                spent[kind] = (time.process_time() - began) / len(rows[kind])
            arrays = {f"labels_{kind}": labels[kind] for kind in labels} | {f"rows_{kind}": rows[kind] for kind in rows}
            np.savez(path, **arrays, trained=trained, fitted=spent[MIX])
        with np.load(path) as file:
            read = dict(file)
        kinds = (MIX, "outside")
        return Result({kind: read[f"labels_{kind}"] for kind in kinds}, {kind: read[f"rows_{kind}"] for kind in kinds},
                      float(read["trained"]), float(read["fitted"]))  # fmt: skip

    def make(self, name: str, level: str) -> tuple[Fit, float | None]:
        """Train a method; returns its fit, and seconds of training where another file has them."""
        if level == "data":
            spectra, labels, _ = self.survey.labelled
            bright = np.flatnonzero(spectra.snr > GOOD_TRAINING)
            return data_driven(name, spectra, labels, bright), None
        emulator = ours.emulator_of(self.survey, level)
        if name == "payne":
            return ours.payne(emulator), 0.0
        if name == "grid":
            templates, nodes = laspm.synthetic(emulator)
            return lambda spectra: laspm.fit(spectra, templates, nodes), None
        if name in ("ulyss", "ulyss_high"):
            degree = ulyss.DEGREE if name == "ulyss" else ulyss.HIGH
            return lambda spectra: ulyss.fit(spectra, emulator, degree=degree).labels, 0.0
        if name == "amortised":
            return self.network(level)
        if name == "starnet":
            return ours.starnet(self.survey, level, ITERATIONS)
        if name == "rvspecfit":
            templates = self.templates(level)
            return lambda native: rvspec.fit(native, templates)[0], None
        transfer, seconds = ours.trained(self.survey, level)
        tied, more = (transfer, 0.0) if name == "default" else ours.anchored(self.survey, level, name)
        return lambda raw: raw.through(tied), seconds + more

    def network(self, level: str) -> tuple[Fit, float]:
        """Return the amortised network of a level, and the seconds of its training."""
        path = self.survey.folder / f"amortised-{level}.pt"

        def train() -> None:
            if not path.exists():
                network = amortised.train(ours.emulator_of(self.survey, level), self.survey.labelled[0])
                torch.save(network.state_dict(), path)

        _, seconds = ours.timed(path.with_suffix(".seconds"), train)
        network = amortised.Network(torch.zeros(3), torch.ones(3))
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval().fit, seconds

    def templates(self, level: str) -> Path:
        """Return the folder of rvspecfit's templates."""
        grid = self.survey.data / "grid" / f"{LEVELS[level]}.h5"
        return rvspec.library(grid, self.survey.folder / f"rvspecfit-{level}")


def data_driven(name: str, spectra: Spectra, labels: np.ndarray, bright: np.ndarray) -> Fit:
    """Train a method that learns from labelled spectra alone; `bright` are those without much noise."""
    if name == "cannon":
        return cannon.train(spectra, labels).fit
    if name == "slam":
        return slam.train(spectra[bright], labels[bright]).fit
    templates, known = np.where(spectra.ivar > 0, spectra.flux, 1.0)[bright], labels[bright]
    return lambda stars: laspm.fit(stars, templates, known)
