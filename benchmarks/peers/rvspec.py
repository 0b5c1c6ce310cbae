"""rvspecfit (Koposov et al. 2011; Koposov 2019, ascl:1907.013), as published, with templates of our synthetic grid."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from astropy.io import fits

from stargap.pixels import LOG_LAMBDA, WINDOWS
from stargap.spectra.log_lambda import NativeBatch
from stargap.theory.grids import read_hdf5_grid

SETUP, RANGE, EDGES = "lamost", (6000.0, 8950.0), (6020.0, 8900.0)
"""Range of the templates, and of the pixels that are fitted (A)."""
RESOLUTION, SOURCE = 1800.0, 10_000.0
STEP, NAMES = 1.0, "teff,logg,feh,alpha"
OPTIONS = {"npoly": 10}
"""Multiplicative polynomial of this many terms, the value of its documentation."""
CONFIG = {"min_vel": -400, "max_vel": 400, "vel_step0": 5, "min_vel_step": 0.2, "min_vsini": 0.1, "max_vsini": 500,
          "second_minimizer": 1}  # fmt: skip
LOW = (2800.0, 4.5, -1.0)
"""The part of the grid without gaps begins here (K, dex, dex)."""
HALF_WINDOW = 8.0
"""Rest-frame windows are left out so much wider (A), since they are here at observed wavelengths."""


def library(grid: Path, folder: Path) -> Path:
    """Convert a grid of synthetic spectra into rvspecfit's templates by its own commands; returns their folder."""
    from rvspecfit import make_ccf, make_interpol, make_nd, read_grid

    made = folder / "templates"
    if not (folder / "done").exists():
        source = folder / "grid" / "all"
        source.mkdir(parents=True, exist_ok=True)
        write_grid(grid, source)
        waves = str(source.parent / "wave.fits")
        base, prefix = str(source.parent / "files.db"), str(made) + "/"
        ranges = ["--setup", SETUP, "--lambda0", str(RANGE[0]), "--lambda1", str(RANGE[1]), "--step", str(STEP)]
        power = ["--resol", str(RESOLUTION), "--resolution0", str(SOURCE), "--parameter_names", NAMES]
        there = ["--templdb", base, "--templprefix", f"{source.parent}/", "--wavefile", waves, "--oprefix", prefix]
        with contextlib.redirect_stdout(io.StringIO()):
            read_grid.main(["--prefix", f"{source.parent}/", "--templdb", base])
            make_interpol.main([*ranges, *power, *there, "--nthreads", "1"])
            make_nd.main(["--prefix", prefix, "--setup", SETUP])
            make_ccf.main([*ranges, "--every", "10", "--prefix", prefix, "--oprefix", prefix, "--nthreads", "1"])
        (folder / "done").touch()
    return made


def write_grid(grid: Path, folder: Path) -> None:
    """Write the spectra as one FITS file each, with labels in the header as PHOENIX's files have them."""
    read = read_hdf5_grid(grid)
    fits.writeto(folder.parent / "wave.fits", np.asarray(read.wavelength, dtype=float), overwrite=True)
    for number, (labels, flux) in enumerate(zip(read.labels, read.flux, strict=True)):
        if (np.asarray(labels[:3]) < LOW).any() or labels[3] not in (0.0, 0.4):
            continue
        header = fits.Header()
        for name, value in zip(("PHXTEFF", "PHXLOGG", "PHXM_H", "PHXALPHA"), labels, strict=True):
            header[name] = float(value)
        fits.writeto(folder / f"{number:04d}.fits", np.asarray(flux, dtype=float), header, overwrite=True)


def fit(native: NativeBatch, templates: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fit spectra from the best template of its cross-correlation; returns labels ``(star, 3)``, velocities (km/s)."""
    from rvspecfit import fitter_ccf, spec_fit, utils, vel_fit

    settings, options = templates / "config.yaml", CONFIG | {"template_lib": f"{templates}/"}
    settings.write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
    config = utils.read_config(str(settings))
    wave = LOG_LAMBDA.wavelength
    inside = (wave > EDGES[0]) & (wave < EDGES[1])
    for window in WINDOWS:
        more = HALF_WINDOW if window.frame == "rest" else 0.0
        inside &= ~((wave > window.low - more) & (wave < window.high + more))
    count = len(native.flux)
    labels, velocity = np.full((count, 3), np.nan), np.full(count, np.nan)
    for row in range(count):
        flux, ivar = (np.asarray(part[row], dtype=float) for part in (native.flux, native.ivar))
        bad = ~inside | (ivar <= 0)
        error = np.where(bad, 1.0, np.where(ivar > 0, ivar, 1.0) ** -0.5)
        keep = (wave > EDGES[0]) & (wave < EDGES[1])
        data = [spec_fit.SpecData(SETUP, wave[keep], np.where(bad, 1.0, flux)[keep], error[keep], badmask=bad[keep])]
        first = fitter_ccf.fit(data, config)
        start = {**first["best_par"], "alpha": 0.0}
        found = vel_fit.process(data, start, fixParam=["alpha"], config=config, options=OPTIONS)
        labels[row] = [found["param"][name] for name in ("teff", "logg", "feh")]
        velocity[row] = found["vel"]
    return labels, velocity
