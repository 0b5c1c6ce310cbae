"""Make the shipped transfer for real LAMOST spectra from the labelled stars of a folder with lamost/index.csv."""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stargap.run.train import train
from stargap.run.train_settings import TrainSettings

MODELS = Path(__file__).resolve().parents[1] / "src" / "stargap" / "models"


def anchor_rows(lamost: Path) -> list[dict[str, str]]:
    """Return the labelled stars of `lamost/cool` with clean spectra, and saturated ones to train on alone."""
    with (lamost / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["folder"] == "cool" and row["star"]]
    chosen = []
    for row in rows:
        saturated = row["note"].startswith("saturated")
        if row["note"] and not saturated:
            continue
        labels = {"teff": row["teff"], "logg": row["logg"], "m_h": row["feh"]}
        place = str((lamost / "cool" / row["file"]).resolve())
        chosen.append({"path": place, "star": row["star"], **labels, "scored": "0" if saturated else "1"})
    return chosen


def write_anchors(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the CSV that ``stargap train`` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Train, cross-validate and put the model into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/index.csv")
    lamost = parser.parse_args().data / "lamost"
    if not (lamost / "index.csv").is_file():
        print(f"{lamost / 'index.csv'}: the file does not exist; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_anchors(folder / "lamost-benchmarks.csv", anchor_rows(lamost))
        settings = TrainSettings(
            architecture="anchored", anchors=folder / "lamost-benchmarks.csv", output=folder / "transfer"
        )
        told = train(settings)
        assert told.path is not None
        for suffix in (".safetensors", ".json"):
            shutil.copyfile(told.path.with_suffix(suffix), MODELS / f"transfer-lamost{suffix}")
    for key, value in told.scores.items():
        print(f"{key:<16} {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
