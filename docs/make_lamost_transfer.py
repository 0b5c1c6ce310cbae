"""Make the shipped transfer for real spectra from labelled stars of LAMOST and of other instruments."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "results"))

from calibration_velocities import velocity_calibration
from real_star_anchors import prepared_anchors, read_stars, trainable

from stargap.pipeline.anchors import scores_of
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import train_anchored

MODELS = Path(__file__).resolve().parents[1] / "src" / "stargap" / "models"
SETTINGS = AnchorSettings()


def main() -> int:
    """Train, cross-validate and put the model into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder of the model")
    arguments = parser.parse_args()
    if not (arguments.data / "lamost" / "index.csv").is_file():
        print(f"{arguments.data / 'lamost' / 'index.csv'}: the file does not exist; name the data folder with --data",
              file=sys.stderr)  # fmt: skip
        return 2
    torch.set_num_threads(1)
    emulator = shipped_emulator()
    stars = trainable(read_stars(arguments.data))
    anchors, scored = prepared_anchors(stars, emulator)
    transfer, found = train_anchored(anchors, emulator, SETTINGS, scored=scored)
    transfer.calibration = velocity_calibration(arguments.data)
    groups = np.array([star.group for star in stars])
    with TemporaryDirectory() as name:
        path = Path(name) / "transfer-lamost.safetensors"
        transfer.save(
            path,
            training_data=f"{int((groups == 'lamost').sum())} spectra of LAMOST and {int((groups == 'other').sum())} "
            f"of other instruments, of {len(set(anchors.names))} stars",
            settings=SETTINGS.model_dump(mode="json"),
            scores=scores_of(anchors, found),
            simulated=False,
        )
        for suffix in (".safetensors", ".json"):
            shutil.copyfile(path.with_suffix(suffix), arguments.out / path.with_suffix(suffix).name)
    for key, value in transfer.load(arguments.out / "transfer-lamost.safetensors").card.scores.items():
        print(f"{key:<16} {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
