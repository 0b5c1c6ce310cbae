"""Print the limits of the cleaning from the mean spectra of Kesseli et al. (2017): FILE is kesseli2017_sdss_means.h5.

python docs/make_cleaning_limits.py FILE prints the bands of every mean dwarf and the quiet ranges of
src/stargap/survey/cleaning/rules.py; a test holds these against the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.spectra.prepared import PreparedSpectra
from stargap.spectra.spectrum import Spectrum
from stargap.survey.cleaning.bins import BIN, BIN_CENTRES, QUIET_BINS, bin_spectra
from stargap.survey.cleaning.clean import CAH1, REFERENCE, TIO5

MOST = 0.05
"""How far a quiet bin of a mean spectrum may be from the pseudo-continuum."""


def mean_depths(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return flux - 1 in the bins of the cleaning ``(bin,)`` of every mean spectrum, prepared like a star at rest."""
    spectra, names = [], []
    with h5py.File(path) as file:
        for name, group in file.items():
            wave, flux = group["wavelength_vacuum_A"][:].astype(float), group["flux"][:].astype(float)
            near = (wave > 5800.0) & (wave < 9200.0)
            wave, flux = wave[near], flux[near]
            good = np.isfinite(flux) & (flux != 0)
            ivar = np.where(good, (300.0 / np.median(flux[good])) ** 2, 0.0)
            spectra.append(Spectrum(wave, np.where(good, flux, 0.0), ivar))
            names.append(name)
    rest = torch.zeros(len(spectra))
    star = PreparedSpectra.from_prepared(prepare(to_log_lambda(spectra), rest), rest.double().numpy())
    return dict(zip(names, bin_spectra(star).depth.astype(float), strict=True))


def quiet_ranges(depths: NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """Return the ranges (A) of the bins within `MOST` of 1 in all spectra, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for centre, quiet in zip(BIN_CENTRES, np.nanmax(np.abs(depths), axis=0) < MOST, strict=True):
        low, high = round(centre - BIN / 2), round(centre + BIN / 2)
        if quiet and ranges and ranges[-1][1] == low:
            ranges[-1] = (ranges[-1][0], high)
        elif quiet:
            ranges.append((low, high))
    return tuple(ranges)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="kesseli2017_sdss_means.h5")
    depths = mean_depths(parser.parse_args().file)
    print(f"{'mean spectrum':16s}   TiO5   CaH1  bands  quiet")
    for name, depth in depths.items():
        tio5, cah1 = 1 - (1 + depth[TIO5]) / (1 + depth[REFERENCE]), -depth[CAH1]
        quiet = np.sqrt(np.nanmean(depth[QUIET_BINS] ** 2))
        print(f"{name:16s} {tio5:6.3f} {cah1:6.3f} {tio5 + cah1:6.3f} {quiet:6.3f}")
    print(quiet_ranges(np.array(list(depths.values()))))


if __name__ == "__main__":
    main()
