"""Whether blue light would help: labels of literature predicted with and without it, each star left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pages import number, read_index, table

from stargap.errors import SpectrumError
from stargap.spectra.readers.read import read_spectrum

__all__ = ["blue_light"]

Floats = NDArray[np.float64]
BIN, SMOOTH = 10.0, 60.0
"""Width of a bin, and of the Gaussian pseudo-continuum (A)."""
RANGES = {"6000-8900 A": (6000, 8900), "3900-6000 A": (3900, 6000), "3900-8900 A": (3900, 8900)}
TELLURIC = ((6860, 6960), (7160, 7340), (7580, 7700), (8100, 8350), (6545, 6585), (4850, 4875), (5570, 5590))
"""Left out: telluric bands, emission of active stars, sky."""
STRENGTHS = 10.0 ** np.arange(-3.0, 3.1, 0.5)
"""Penalties of the regression over the mean variance, one of which is chosen without the star that is left out."""


def blue_light(folder: Path) -> str:
    """Return the section: scatter of predictions minus literature by range."""
    names, labels, spectra, snr = labelled(folder)
    rows = []
    for title, ends in RANGES.items():
        features = binned(spectra, *ends)
        cells = [title, str(len(names))]
        for place, digits in ((0, 0), (1, 2)):
            off = left_out(features, labels[:, place], names) - labels[:, place]
            cells.append(number(float(np.sqrt(np.mean(off**2))), digits))
            cells.append(number(float(1.4826 * np.median(np.abs(off - np.median(off)))), digits))
        rows.append(cells)
    head = ["range", "stars", "Teff, rms (K)", "1.4826 MAD", "[M/H], rms", "1.4826 MAD"]
    return "\n\n".join([HEAD.format(np.median(snr[:, 0]), np.median(snr[:, 1])), table(head, rows), TAIL])


def labelled(folder: Path) -> tuple[list[str], Floats, list[tuple[Floats, Floats, Floats]], Floats]:
    """Read LAMOST's spectra of stars with labels of literature: names, Teff and [M/H], arrays, S/N in g and i."""
    names, labels, spectra, snr = [], [], [], []
    for row in read_index(folder, "cool"):
        if not row["teff"] or not row["feh"] or row["note"]:
            continue
        try:
            one = read_spectrum(folder / "cool" / row["file"])
        except SpectrumError:
            continue
        if (one.facts.snr_g or 0.0) < 5.0 or (
            one.ivar[(one.wavelength > 3900) & (one.wavelength < 8900)] > 0
        ).mean() < 0.8:
            continue
        names.append(row["file"])
        labels.append((float(row["teff"]), float(row["feh"])))
        spectra.append((one.wavelength, one.flux, one.ivar))
        snr.append((one.facts.snr_g, one.facts.snr_i))
    return names, np.array(labels), spectra, np.array(snr, dtype=float)


def binned(spectra: list[tuple[Floats, Floats, Floats]], low: float, high: float) -> Floats:
    """Return normalised fluxes in bins over their scatter between stars, ``(star, bin)``, less their mean."""
    centre = np.arange(low + BIN / 2, high, BIN)
    centre = centre[~np.any([(centre > a) & (centre < b) for a, b in TELLURIC], axis=0)]
    rows = []
    for wave, flux, ivar in spectra:
        good = ivar > 0
        near = [good & (np.abs(wave - c) < BIN / 2) for c in centre]
        bins = np.array([np.median(flux[some]) if some.any() else np.nan for some in near])
        bins = np.interp(centre, centre[np.isfinite(bins)], bins[np.isfinite(bins)])
        kernel = np.exp(-0.5 * ((centre[:, None] - centre) / SMOOTH) ** 2)
        rows.append(bins / (kernel @ bins / kernel.sum(axis=1)))
    found = np.array(rows)
    return (found - found.mean(axis=0)) / found.std(axis=0)


def left_out(features: Floats, label: Floats, names: list[str]) -> Floats:
    """Return what a ridge regression on all other stars predicts of each, its penalty chosen by them alone."""
    found = np.empty(len(label))
    for star in range(len(names)):
        rest = np.arange(len(names)) != star
        x, y = features[rest], label[rest]
        gram = x @ x.T
        best, weights = np.inf, np.zeros(len(y))
        for strength in STRENGTHS * np.trace(gram) / len(y):
            inverse = np.linalg.inv(gram + strength * np.eye(len(y)))
            dual = inverse @ (y - y.mean())
            error = float(np.mean((dual / np.diag(inverse)) ** 2))
            if error < best:
                best, weights = error, dual
        found[star] = y.mean() + features[star] @ x.T @ weights
    return found


HEAD = """## Would 3900-9200 A help?

The grids of synthetic spectra that models are made from cover 5900-9000 A, so that no emulator of a wider range can
be trained (`../shared/data/grid`). Whether one would be worth computing: labels of literature of LAMOST's stars
predicted from their spectra alone, by a ridge regression on normalised fluxes in bins of 10 A, each star left out
in turn and the penalty chosen by the others (median S/N {:.0f} in g, {:.0f} in i):"""
TAIL = """This is what a linear relation finds in so few stars, no bound on what a model of all wavelengths could do."""
