"""
Ten spectra
===========

From files to a table with errors and flags, and to a picture of a fit. The stars are simulated as LAMOST would see
them.
"""

# %%
# Files first. :func:`stargap.mock.write.write_survey` simulates a survey in LAMOST's layout; with spectra of your
# own, start at the next step. `truth.parquet` has the labels that were put in.

import tempfile
from pathlib import Path

import numpy as np

import stargap
from stargap.mock.write import write_survey
from stargap.tables.read import read_table

folder = write_survey(Path(tempfile.mkdtemp()) / "survey", 10, seed=8, junk=0.1, repeats=0.0)
truth = read_table(folder / "truth.parquet", ["path", "kind", "teff", "m_h"])
files = [folder / "spectra" / path for path in truth["path"]]
print(len(files), "files, the first:", files[0].name)

# %%
# One call measures them: files, folders, globs or arrays. Simulated stars are measured with the model for simulated
# stars; leave `model` out for real ones.

table = stargap.measure(files, model="transfer-simulated", spectra=True, progress=False)
short = table["rv", "e_rv", "teff", "e_teff", "m_h", "e_m_h", "use_teff"]
short.round({"rv": 1, "e_rv": 1, "teff": 0, "e_teff": 0, "m_h": 2, "e_m_h": 2})
print(short)

# %%
# The result is an astropy table: columns with units, masked where there is no value. Errors `e_teff` are those of
# noise, `e_teff_sys` those of the model. `use_teff` is 1 where Teff can be used, and `flag_text` says why not, or
# what to mind, the worst first. Beside it stands what each star is: one spectrum is of a galaxy, one of a lamp, one
# has bad sky.

for row, kind, teff in zip(table, truth["kind"], truth["teff"], strict=True):
    error = np.hypot(row["e_teff"], row["e_teff_sys"])
    worst = row["flag_text"].split(";")[0]
    print(f"{kind:8} {teff:5.0f} K: {row['teff']:5.0f} +- {error:3.0f} K, use {row['use_teff']}  {worst}")

# %%
# Look at fits before you believe numbers. The upper panel is the spectrum with its pseudo-continuum, the middle one
# the normalised spectrum with the model, the lower one the residuals.

figure = stargap.plot(table, int(np.argmax(table["snr_r"])))

# %%
# `table.spectra` has what the picture shows as arrays. Tables are written in any format of astropy's, and by
# ``stargap measure -o`` with descriptions of all columns.

spectra = table.spectra
print(spectra.wavelength.shape, spectra.flux.shape, spectra.model.shape)
table.write(folder / "labels.ecsv")

# %%
# On the command line all this is ``stargap measure spectra/ -o labels.fits --plot pictures``.
