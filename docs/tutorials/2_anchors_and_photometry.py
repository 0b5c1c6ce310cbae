"""
Your own anchors, and photometry
================================

Synthetic spectra of M dwarfs are wrong by more than the noise. Some dozens of stars of known labels tie a model to the
spectra of your instrument; photometry checks it on all the others. All stars here are simulated, with physics that the
emulator does not know.
"""

# %%
# A survey of 200 simulated stars. For 60 bright ones we pretend to know labels, with the errors of good literature.

import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

import stargap
from stargap.mock.write import write_survey
from stargap.photometry.tables import write_photometric_labels
from stargap.tables.read import read_table

folder = write_survey(Path(tempfile.mkdtemp()) / "survey", 200, seed=3, junk=0.0, repeats=0.0)
columns = ["path", "source_id", "teff", "logg", "m_h", "snr_r", "binary"]
truth = Table(read_table(folder / "truth.parquet", columns))
truth["path"] = [str(folder / "spectra" / path) for path in truth["path"]]
within = np.flatnonzero((truth["teff"] > 2900) & (truth["teff"] < 4300) & (truth["m_h"] > -0.8))
known = within[np.argsort(-truth["snr_r"][within])[:120:2]]
rest = np.setdiff1d(np.arange(len(truth)), known)

rng = np.random.default_rng(1)
anchors = truth["path", "teff", "logg", "m_h"][known]
anchors["teff"] += rng.normal(0, 40, len(known))
anchors["m_h"] += rng.normal(0, 0.08, len(known))
anchors["star"] = [f"star {row}" for row in known]
anchors.write(folder / "anchors.csv")
for row in anchors[:3]:
    print(f"{row['star']}: {row['teff']:.0f} K, {row['logg']:.2f}, {row['m_h']:+.2f}")

# %%
# The emulator alone first: how far off is it on stars that are no anchors?


def differences(table):
    """Print median and robust scatter of measured - true labels of usable stars."""
    for name, digits in (("teff", 0), ("m_h", 3)):
        good = (table[f"use_{name}"] == 1) & (truth["binary"][rest] == 0)
        delta = np.asarray(table[name] - truth[name][rest])[good]
        median = np.nanmedian(delta)
        scatter = 1.4826 * np.nanmedian(np.abs(delta - median))
        print(f"{name:5} {median:+.{digits}f} +- {scatter:.{digits}f}, {good.sum()} stars")


settings = stargap.MeasureSettings(fixed={"a_m": 0.0})
differences(stargap.measure(truth["path"][rest], model="emulator", settings=settings, progress=False))

# %%
# Training takes seconds. Anchors left out in turn say what a star that the model has not seen is off by; the card
# beside the model keeps it.

(folder / "train.toml").write_text(
    f"""
architecture = "anchored"
anchors = "{folder}/anchors.csv"
output = "{folder}/anchored"
prior.alpha = 0.0
"""
)
trained = stargap.train(folder / "train.toml")
print(trained.path)

# %%
# And now with it, on the same stars.

measured = stargap.measure(truth["path"][rest], model=trained.path, settings=settings, progress=False)
differences(measured)

# %%
# Gaia and 2MASS give Teff and [M/H] too, without a spectrum: a check that every survey has. This survey's table has
# the columns of ``stargap gaia``. `p_single` is the chance that a star is no unresolved pair, which would look too
# metal-rich.

write_photometric_labels(folder / "gaia.parquet", folder / "photometry.parquet")
names = ["gaia_source_id", "teff_phot", "e_teff_phot", "m_h_phot", "e_m_h_phot", "p_single"]
photometry = Table(read_table(folder / "photometry.parquet", names))
for row in photometry[:3]:
    print(f"{row['teff_phot']:.0f} +- {row['e_teff_phot']:.0f} K, {row['m_h_phot']:+.2f} dex, {row['p_single']:.2f}")

# %%
# Spectroscopic against photometric labels of the stars that are no anchors. Errors of photometric labels are about 45
# K and 0.08 dex, and pairs stand out in [M/H].

import matplotlib.pyplot as plt

place = {source: row for row, source in enumerate(photometry["gaia_source_id"])}
beside = photometry[[place[source] for source in truth["source_id"][rest]]]
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for axis, name, label in zip(axes, ("teff", "m_h"), ("Teff (K)", "[M/H] (dex)"), strict=True):
    use = np.asarray(measured[f"use_{name}"]) == 1
    dots = axis.scatter(beside[f"{name}_phot"][use], measured[name][use], c=beside["p_single"][use], s=12)
    axis.axline((np.nanmedian(truth[name]),) * 2, slope=1, color="0.6", zorder=0)
    axis.set(xlabel=f"photometric {label}", ylabel=f"spectroscopic {label}")
figure.colorbar(dots, label="p_single")

# %%
# ``anchors`` in the settings may also be that table of photometric labels, thousands of stars, alone or beside your
# own: see ``stargap train --example``. ``stargap measure --gaia gaia.parquet`` joins spectrum and photometry star by
# star.
