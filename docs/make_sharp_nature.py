"""Make the emulator of nature that simulates spectrographs sharper than LAMOST, from the grids in the data folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "results"))
from nature_grid import interpolate_nature

import stargap
from stargap.theory.grids import read_hdf5_grid
from stargap.theory.train_emulator import Training, fit_emulator

RECIPE = Training(resolution=5200.0, hidden=160, steps=3000, patience=3000)
"""That of `nature.safetensors` (docs/results/make_transfer.py) but for the resolving power, above that of DESI."""


def main() -> None:
    """Write `nature-sharp.safetensors` into the package, and print how well it validates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    given = parser.parse_args()
    alternate, base = (read_hdf5_grid(given.data / "grid" / f"marcs_ts_{which}.h5") for which in ("alt", "base"))
    emulator, _ = fit_emulator(interpolate_nature(alternate, base), RECIPE)
    emulator.save(Path(stargap.__file__).parent / "models" / "nature-sharp.safetensors")
    print(emulator.card.validation)


if __name__ == "__main__":
    main()
