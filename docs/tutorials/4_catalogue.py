"""
Reading a catalogue
===================

For those who use a catalogue that others made with stargap: which rows and numbers to trust, and how to find out why.
The catalogue is that of the simulated survey of the previous page.
"""

# %%
# Nothing of stargap is needed to read it: FITS, VOTable and Parquet open in TOPCAT, astropy and pandas, with units
# and descriptions. `stars` has one row per star, `spectra` one row per spectrum.

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

folder = Path(tempfile.gettempdir()) / "stargap-tutorial"
stars = Table.read(folder / "run" / "catalogue" / "stars.fits")
print(len(stars), "stars,", len(stars.colnames), "columns, of which the first star has")
print({name: f"{stars[name][0]} {stars[name].unit or ''}" for name in ("teff", "e_teff", "e_teff_sys", "use_teff")})

# %%
# Take `in_final_catalogue` for statistics of stars, and `use_*` for a single quantity of a single star. Errors of
# noise and of the model are two columns; add them in quadrature unless you average many stars.

final = stars[np.asarray(stars["in_final_catalogue"]) == 1]
error = np.asarray(np.hypot(final["e_m_h"], final["e_m_h_sys"]))
print(len(final), "in the final catalogue; median error of [M/H]:", f"{np.median(error):.2f} dex")

# %%
# Why is a star not in it? ``stargap show`` prints all that is known of it, flags in words.

left_out = stars[np.asarray(stars["in_final_catalogue"]) == 0][0]
words = ["show", str(folder / "run" / "catalogue" / "stars.fits"), "--id", str(left_out["gaia_source_id"])]
shown = subprocess.run([sys.executable, "-m", "stargap", *words], capture_output=True, text=True, check=True)
lines = shown.stdout.splitlines()
print("\n".join(lines[next(row for row, line in enumerate(lines) if line.startswith("flags")) :]))

# %%
# To look at its spectrum, and at those of any other star, ``stargap view`` (of ``stargap[view]``) opens the whole run
# in a browser, with filters such as ``flags has active; snr_r > 20`` and a list of the stars that you mark.

# %%
# Metal-poor stars of the catalogue, for example: with a cut on the error, since noise scatters many stars of
# near-solar [M/H] into the tail and few back.

poor = (final["m_h"] < -0.4) & (error < 0.15) & (np.asarray(final["use_m_h"]) == 1)
print(np.count_nonzero(poor), "metal-poor stars")
figure, axis = plt.subplots(layout="constrained")
axis.errorbar(final["teff"], final["m_h"], error, fmt=".", color="0.7", elinewidth=0.5)
axis.plot(final["teff"][poor], final["m_h"][poor], "o", mfc="none")
axis.set(xlabel="Teff (K)", ylabel="[M/H] (dex)")
axis.invert_xaxis()

# %%
# Before you publish, cite what the catalogue stands on: its model's card names the sources, and the table's metadata
# the versions, settings and the digest of the model.

for key, value in stars.meta.items():
    if key.startswith("PROV"):
        print(value[:100])
