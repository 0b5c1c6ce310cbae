"""The simulated survey that every method sees: labelled and unlabelled training stars, test stars of two kinds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from make_anchors import SETTINGS
from make_transfer import ANCHOR_ERRORS, LEVELS, TRAIN_SEED, Work

from stargap.mock.instrument import simulate
from stargap.mock.nature import SCATTER, nature_labels, nature_logg, shipped_nature
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.prepare import Prepared, prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.transfer.residual.model import ResidualTransfer, shipped_transfer

UNLABELLED, LABELLED = 40_000, 5_000
"""Training spectra, and how many of them, the first ones, have labels of the literature."""
TIED = 2_000
"""Labelled stars that stargap's label map is tied to, the first ones."""
TEST, TEST_SEED = 5_000, 202
OUTSIDE, OUTSIDE_SEED = 1_024, 404
"""Test stars outside the training mix: the first half metal-poor, the second late."""
POOR, LATE = ((2900.0, 4100.0), (-1.0, -0.5)), ((2800.0, 3100.0), (-0.4, 0.3))
"""Ranges of Teff (K) and [M/H] (dex) from which these are drawn, uniformly."""
NOISE_SEED = 606
MIX = "matched"
"""Labels of the survey are mixed as the literature's (`stargap.theory.label_prior`)."""


@dataclass(frozen=True)
class Spectra:
    """Rest-frame spectra, one row each: ``flux, ivar, continuum (star, pixel)`` float32, and the S/N in r.

    ``flux`` is normalised, ``ivar`` is 0 at pixels that no fit uses, and ``flux * continuum`` is the spectrum with its
    shape. ``store`` has the same spectra as stargap's own fits take them; the other methods do not need it.
    """

    flux: np.ndarray
    ivar: np.ndarray
    continuum: np.ndarray
    snr: np.ndarray
    store: PreparedSpectra | Prepared | None = None

    def __len__(self):
        return len(self.flux)

    def __getitem__(self, rows):
        chosen = torch.as_tensor(rows) if isinstance(self.store, Prepared) and not isinstance(rows, slice) else rows
        arrays = (getattr(self, field.name)[rows] for field in fields(self)[:-1])
        return Spectra(*arrays, None if self.store is None else self.store[chosen])

    def prepared(self, rows: slice) -> Prepared:
        """Return some rows for stargap's fits."""
        if isinstance(self.store, Prepared):
            return self.store[rows]
        return self.store.prepared(np.arange(len(self))[rows])

    @classmethod
    def of(cls, store: PreparedSpectra | Prepared, continuum: np.ndarray, snr: np.ndarray) -> Spectra:
        flux, sigma, good = (np.asarray(getattr(store, name)) for name in ("flux", "sigma", "good"))
        ivar = np.where(good, 1 / sigma.astype(np.float64) ** 2, 0.0).astype(np.float32)
        return cls(np.where(good, flux, 1.0).astype(np.float32), ivar, np.asarray(continuum), snr, store)


@dataclass(frozen=True)
class Sample:
    """Spectra with true ``labels (star, 3)``: Teff (K), log g, [M/H] (dex)."""

    spectra: Spectra
    labels: np.ndarray


class Survey(Work):
    """The survey and what is trained on it, in one folder; nature and the MILD models are those of the package."""

    def __init__(self, folder: Path, data: Path):
        super().__init__(folder, data, UNLABELLED, SETTINGS)
        self.samples: dict[str, Sample] = {}

    def emulator(self, name: str) -> Emulator:
        if name == LEVELS["hard"]:
            return shipped_transfer().emulator
        known = {"nature": shipped_nature, LEVELS["mild"]: shipped_emulator}
        return known[name]() if name in known else super().emulator(name)

    def residual(self, level: str, mix: str, variant: str = "default") -> ResidualTransfer:
        """Return the package's own transfer at HARD, which is the default trained on 110,000 spectra; train MILD's.

        The latter with half of the default's stars (`make_anchors.SETTINGS`), which takes half the time.
        """
        return shipped_transfer() if level == "hard" else super().residual(level, mix, variant)

    @cached_property
    def labelled(self) -> tuple[Spectra, np.ndarray, np.ndarray]:
        """Return training spectra with labels of the literature, which have its noise, and the true labels."""
        truth, _ = nature_labels(UNLABELLED, seed=TRAIN_SEED, mix=MIX)
        truth = truth[:LABELLED]
        store = self.training(MIX)[np.arange(LABELLED)]
        noise = np.random.default_rng(NOISE_SEED).normal(size=(LABELLED, 3))
        snr = 1 / np.nanmedian(np.where(store.good, store.sigma, np.nan), axis=1)
        return Spectra.of(store, np.ones_like(store.flux), snr), truth[:, :3] + ANCHOR_ERRORS * noise, truth

    def truth(self, kind: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Return true labels, which stars are active, and the seed of test stars ``matched`` or ``outside``."""
        if kind == MIX:
            return *nature_labels(TEST, seed=TEST_SEED, mix=MIX), TEST_SEED
        rng = np.random.default_rng([OUTSIDE_SEED, 1])
        labels = np.zeros((OUTSIDE, 4))
        for rows, ranges in ((slice(0, OUTSIDE // 2), POOR), (slice(OUTSIDE // 2, None), LATE)):
            for place, (low, high) in zip((0, 2), ranges, strict=True):
                labels[rows, place] = rng.uniform(low, high, OUTSIDE // 2)
        labels[:, 1] = nature_logg(labels[:, 0], labels[:, 2]) + rng.normal(0.0, SCATTER, OUTSIDE)
        return labels, rng.random(OUTSIDE) < 0.12, OUTSIDE_SEED

    def sample(self, kind: str) -> Sample:
        """Simulate test stars of one kind, or read them."""
        if kind not in self.samples:
            self.samples[kind] = self._sample(kind)
        return self.samples[kind]

    def _sample(self, kind: str) -> Sample:
        labels, active, seed = self.truth(kind)
        folder = self.folder / f"test-{kind}"
        if not (folder / "snr.npy").exists():
            spectra, done = PreparedSpectra.empty(len(labels)), 0
            continuum, snr = np.ones_like(spectra.flux), np.zeros(len(labels))
            for truth, native, _ in simulate(labels, active, self.emulator("nature"), seed=seed):
                star = prepare(native, torch.as_tensor(truth.rv_used))
                rows = slice(done, done + len(truth.rv))
                spectra.put(done, PreparedSpectra.from_prepared(star, truth.rv_used))
                continuum[rows], snr[rows], done = star.continuum.numpy(), truth.snr_r, rows.stop
            spectra.save(folder)
            np.save(folder / "continuum.npy", continuum)
            np.save(folder / "snr.npy", snr)
        continuum, snr = (np.load(folder / f"{name}.npy") for name in ("continuum", "snr"))
        return Sample(Spectra.of(PreparedSpectra.load(folder), continuum, snr), labels[:, :3])

    def native(self, kind: str, rows: np.ndarray) -> NativeBatch:
        """Return some test stars as they were observed, on native pixels."""
        labels, active, seed = self.truth(kind)
        parts, done = [], 0
        for truth, native, _ in simulate(labels, active, self.emulator("nature"), seed=seed):
            inside = rows[(rows >= done) & (rows < done + len(truth.rv))] - done
            parts.append(native[torch.as_tensor(inside)])
            done += len(truth.rv)
            if done > rows.max():
                break
        return joined(parts)


def joined(parts: list[NativeBatch]) -> NativeBatch:
    """Return batches one after the other."""
    return NativeBatch(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(NativeBatch)))
