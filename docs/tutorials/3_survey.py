"""
A survey, from files to figures
===============================

A simulated survey of 300 targets, through every stage: sample, velocities, cleaning, labels, catalogue and report. The
same commands serve ten million spectra.
"""

# %%
# ``stargap mock`` writes spectra as LAMOST files, LAMOST's catalogue, a table of Gaia, tables of others on the same
# stars, and the settings to run it with. For a survey of your own, ``stargap settings --write survey.toml --minimal``
# writes the few settings that it needs.

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import stargap

folder = Path(tempfile.gettempdir()) / "stargap-tutorial"
shutil.rmtree(folder, ignore_errors=True)


def command(*words):
    """Run a command of stargap and print what it prints."""
    done = subprocess.run([sys.executable, "-m", "stargap", *words], capture_output=True, text=True, check=True)
    print(done.stdout.replace(str(folder), "stargap-tutorial"))


command("mock", "--stars", "300", "--seed", "5", "-o", str(folder))

# %%
# Everything is done by one call, here and on the command line (``stargap run survey.toml``). It can be stopped at any
# moment, and goes on where it was.

states = stargap.run(folder / "survey.toml", progress=False)
for state in states:
    print(f"{state.stage:12} {state.state:6} {state.rows:5} rows")

# %%
# What is left after each cut of the final catalogue:

print((folder / "run" / "catalogue" / "cuts.md").read_text())

# %%
# The products are tables. A Kiel diagram of the stars that are in the final catalogue:

import numpy as np
from astropy.table import Table

from stargap.figures.diagrams import kiel_figure

stars = Table.read(folder / "run" / "catalogue" / "stars.fits")
final = stars[np.asarray(stars["in_final_catalogue"]) == 1]
figure = kiel_figure(final["teff"], final["logg"], final["m_h"], title="simulated stars")

# %%
# Of a simulated survey the truth is known, and the report compares with it. `report/index.html` in the run's folder
# holds the paper's figures, the numbers beside the paper's, and an explorer in which a click on a star shows its
# spectrum.

print(sorted(path.name for path in (folder / "run" / "report").iterdir()))

# %%
# Comparisons with tables of others take one line each; here a simulated paper, joined by Gaia's identifiers.

spectra = str(folder / "run" / "catalogue" / "spectra.parquet")
command("compare", spectra, str(folder / "apogee.csv"), "--reference", "apogee-dr17")
