"""A GPU beside the processor: simulated spectra measured a second, and by how much results differ in their errors.

Velocities, labels and lines of spectra that are in memory; the processor has one thread. The first batch of each is
not counted: tables are made and kernels loaded in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.stars import mock_stars

from stargap.devices import device_named
from stargap.fit.optimise import ON_GPU
from stargap.measurement.models import load_model_named, settings_for
from stargap.measurement.star import batch_size, measure_native
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import native_batch
from stargap.spectra.spectrum import Spectrum
from stargap.theory.emulator import Emulator, shipped_emulator

LABELS = ("rv", "teff", "logg", "m_h")


def measured(batch, model, settings):
    """Columns of all spectra, batch by batch, and spectra a second after the first batch."""
    native, facts, failure = batch
    emulator, transfer = (model, None) if isinstance(model, Emulator) else (model.emulator, model)
    settings, size = settings_for(transfer, settings), batch_size(settings)
    parts, begun = [], 0.0
    for first in range(0, len(facts), size):
        if first == size:
            begun = time.perf_counter()
        part = slice(first, first + size)
        number = np.arange(len(facts))[part]
        columns, _ = measure_native(
            native[part], facts[part], settings, emulator, failure=failure[part], spectrum_id=number, transfer=transfer
        )
        parts.append({name: columns[name] for name in (*LABELS, *(f"e_{name}" for name in LABELS), "flags")})
    rate = (len(facts) - size) / (time.perf_counter() - begun)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stars", type=int, default=8192, help="simulated stars, more than 1,024")
    parser.add_argument("--model", default="transfer-lamost", help="as for stargap measure")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what is compared with the processor")
    args = parser.parse_args()
    if args.stars <= ON_GPU:
        parser.error(f"--stars is {args.stars}; more than {ON_GPU} are needed, which is the first batch")
    device_named(args.device)
    torch.set_num_threads(1)
    stars = mock_stars(shipped_emulator(), args.stars, seed=1, survey_noise=True)
    batch = native_batch([Spectrum(stars.wavelength, f, i) for f, i in zip(stars.flux, stars.ivar, strict=True)])
    model = load_model_named(args.model)
    here, slow = measured(batch, model, MeasureSettings())
    there, fast = measured(batch, model, MeasureSettings(device=args.device))
    print(f"{args.stars} simulated stars, {args.model}")
    print(f"  processor {slow:.0f}/s, {args.device} {fast:.0f}/s, {fast / slow:.1f} times as many")
    for name in LABELS:
        pull = np.abs(there[name] - here[name]) / here[f"e_{name}"]
        pull = pull[np.isfinite(pull)]
        middle, high = np.quantile(pull, [0.5, 0.99])
        print(f"  {name:5s} differs by {middle:.4f} errors (median), {high:.3f} (p99), {pull.max():.2f} (largest)")
    print(f"  rows whose flags differ: {(here['flags'] != there['flags']).sum()}")


if __name__ == "__main__":
    main()
