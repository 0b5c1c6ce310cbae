"""Peers of stargap on the same spectra; `make results-peers` writes docs/results/peers.md."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "docs/results") if str(ROOT / folder) not in sys.path]
