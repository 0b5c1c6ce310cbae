"""Simulated anchors: stars of other physics than the emulator's, with the labels that they were made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.stars import prepared_stars

from stargap.mock.nature import nature_labels, shipped_nature
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import train_anchored

ANCHORS, OTHERS = 30, 50
SIMULATED = AnchorSettings(contrast=1.0, directions=3, floor=0.01, gap_weight=1.0, logg_width=0.05)
"""As simulated stars are made: of bands as deep as the emulator's."""
CLEAN = 8.0
"""Errors by which no pixel of a spectrum may be off: anchors are chosen, and none has a cosmic hit."""


@pytest.fixture(scope="session")
def observed():
    """Labels and clean prepared spectra of simulated stars with S/N above 15, the anchors first."""
    labels, active = nature_labels(256, seed=3, mix="matched", active_fraction=0.0)
    ((truth, prepared, noiseless),) = prepared_stars(labels, active, shipped_nature(), seed=3)
    away = torch.where(prepared.good, (prepared.flux - noiseless) / prepared.sigma, 0.0).abs().amax(dim=1)
    rows = np.flatnonzero((truth.snr_r > 15) & (away.numpy() < CLEAN))[: ANCHORS + OTHERS]
    assert len(rows) == ANCHORS + OTHERS
    return truth.labels[rows], prepared[torch.as_tensor(rows)]


@pytest.fixture(scope="session")
def anchors(observed):
    labels, prepared = observed
    return AnchorStars(prepared[:ANCHORS], labels[:ANCHORS, :3], [f"S{row}" for row in range(ANCHORS)])


@pytest.fixture(scope="session")
def anchoring(anchors):
    """A transfer made of them, and what it was judged by."""
    return train_anchored(anchors, shipped_emulator(), SIMULATED)


@pytest.fixture(scope="session")
def anchored(anchoring):
    return anchoring[0]
