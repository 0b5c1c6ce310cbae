"""PARSEC isochrones of cool dwarfs: tables of the CMD web interface, and log g at (Teff, [M/H])."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.files import read_text

__all__ = ["Isochrones", "read_parsec", "shipped_isochrones"]

LARGEST_MASS = 0.85
"""Largest initial mass (solar) in use: such dwarfs have not left the main sequence."""
REACH = 200.0
"""Tracks are extrapolated by this much beyond their ends (K)."""
AGE_TOLERANCE = 0.1
"""Largest difference between the age of an isochrone and the one requested (dex)."""
NEEDED = ("MH", "logAge", "Mini", "logTe", "logg")
OPTIONAL = ("label", "Gmag", "G_BPmag", "G_RPmag")
"""The columns of a CMD table that are read, and those of them that may be missing."""


@dataclass(frozen=True, eq=False)
class Isochrones:
    """Main-sequence points of one age, in tracks of equal [M/H].

    Args:
        age: Gyr.
        teff: K, ``(point,)`` as all others; increasing within a track.
        logg: dex (cm/s2).
        m_h: [M/H] of the track, increasing.
        g_mag: absolute magnitude in Gaia's G; NaN where the table has none.
        bp_mag: the same in BP.
        rp_mag: the same in RP.

    Example:
        >>> isochrones = shipped_isochrones()
        >>> isochrones.logg_at([3000, 3400, 4000], 0.0).round(2)
        array([5.03, 4.82, 4.66])
    """

    age: float
    teff: NDArray[np.float64]
    logg: NDArray[np.float64]
    m_h: NDArray[np.float64]
    g_mag: NDArray[np.float64]
    bp_mag: NDArray[np.float64]
    rp_mag: NDArray[np.float64]

    def logg_at(self, teff: ArrayLike, m_h: ArrayLike) -> NDArray[np.float64]:
        """Return log g of a main-sequence star, linear in Teff along each track and in [M/H] between two tracks.

        Beyond the ends of a track the mean slope of its last 200 K goes on for 200 K; farther out, the answer is NaN.
        Beyond the first and the last track in [M/H], log g is that of this track. The shipped tracks end at -1.5 and
        +0.3: at +0.5 that value is too high by 0.05 dex at 3000 K, 0.03 at 3400 K and less above (PARSEC tracks
        without photometry go there); towards -2 nothing is at hand to measure it, and the trend of the last tracks
        says that it is too low by about 0.1 dex at 3400 K.

        Args:
            teff: K, any shape.
            m_h: [M/H], broadcast against `teff`.

        Returns:
            log g in dex, of the broadcast shape.
        """
        temperature, metallicity = np.broadcast_arrays(np.asarray(teff, float), np.asarray(m_h, float))
        tracks = np.unique(self.m_h)
        upper = np.clip(np.searchsorted(tracks, metallicity), 1, max(len(tracks) - 1, 1))
        last = np.minimum(upper, len(tracks) - 1)
        step = np.diff(tracks, append=tracks[-1] + 1.0)[upper - 1]
        share = np.clip((metallicity - tracks[upper - 1]) / step, 0.0, 1.0)
        result = np.zeros(temperature.shape)
        for number, track in enumerate(tracks):
            weight = np.where(upper - 1 == number, 1 - share, 0.0) + np.where(last == number, share, 0.0)
            rows = weight > 0
            along = _along(self.teff[self.m_h == track], self.logg[self.m_h == track], temperature[rows])
            result[rows] += weight[rows] * along
        return np.where(np.isfinite(metallicity), result, np.nan)


def _along(teff: NDArray[np.float64], logg: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log g of one track, continued by `REACH` at both ends."""
    ends = np.array([teff[0], teff[-1]])
    inner = np.interp([ends[0] + REACH, ends[1] - REACH], teff, logg)
    beyond = [2 * logg[0] - inner[0], 2 * logg[-1] - inner[1]]
    longer = np.concatenate([[ends[0] - REACH], teff, [ends[1] + REACH]])
    values = np.interp(at, longer, np.concatenate([beyond[:1], logg, beyond[1:]]), left=np.nan, right=np.nan)
    return np.asarray(values)


def read_parsec(path: str | Path, *, age: float = 5.0) -> Isochrones:
    """Read a table of PARSEC isochrones as the CMD web interface gives it (http://stev.oapd.inaf.it/cmd).

    Of each metallicity the age nearest to `age` is taken, and of that the main sequence (label 1) below an initial
    mass of 0.85 solar masses. A metallicity without an age within 0.1 dex, or without two such stars, is left out.

    Args:
        path: whitespace-separated columns; the last comment line before the numbers names them. MH, logAge, Mini,
            logTe and logg are needed; label, Gmag, G_BPmag and G_RPmag are used where present.
        age: Gyr.

    Raises:
        UsageError: the file is missing or not such a table, or has no such age.
    """
    if not (np.isfinite(age) and age > 0):
        message = f"age {age} is not a number of Gyr above 0"
        raise UsageError(message)
    try:
        text = read_text(path)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None
    if "\0" in text:
        message = f"{path}: cannot be read (not a text file)"
        raise UsageError(message)
    columns = _columns(text.splitlines(), path)
    log_age = np.log10(age * 1e9)
    dwarf = (columns["Mini"] < LARGEST_MASS) & (columns.get("label", np.ones_like(columns["Mini"])) == 1)
    chosen = []
    for metallicity in np.unique(columns["MH"]):
        track = columns["MH"] == metallicity
        ages = columns["logAge"][track]
        nearest = ages[np.abs(ages - log_age).argmin()]
        rows = np.flatnonzero(track & dwarf & (columns["logAge"] == nearest))
        rows = rows[np.argsort(columns["Mini"][rows])]
        hotter = np.diff(np.maximum.accumulate(columns["logTe"][rows]), prepend=-np.inf) > 0
        if abs(nearest - log_age) <= AGE_TOLERANCE and hotter.sum() >= 2:
            chosen.append(rows[hotter])
    if not chosen:
        present = ", ".join(f"{10 ** (value - 9):.3g}" for value in np.unique(columns["logAge"]))
        message = f"{path}: no main-sequence stars with an age within 0.1 dex of {age:g} Gyr; the ages are {present}"
        raise UsageError(message)
    rows = np.concatenate(chosen)
    ages = np.unique(columns["logAge"][rows])
    nothing = np.full_like(columns["MH"], np.nan)
    magnitudes = [columns.get(name, nothing)[rows] for name in ("Gmag", "G_BPmag", "G_RPmag")]
    return Isochrones(
        round(float(10 ** (ages[np.abs(ages - log_age).argmin()] - 9)), 3),
        10 ** columns["logTe"][rows],
        columns["logg"][rows],
        columns["MH"][rows],
        *magnitudes,
    )


def _columns(lines: list[str], path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a CMD table by name."""
    numbers = [line for line in lines if line.strip() and not line.startswith("#")]
    headers = [line.lstrip("# ").split() for line in lines if line.startswith("#") and "logg" in line.split()]
    if not headers or not numbers:
        message = (
            f"{path}: not a table of the CMD web interface: no comment line names its columns (# Zini MH logAge ...) "
            "or no numbers follow; save the page that 'Click here to download' leads to"
        )
        raise UsageError(message)
    names = headers[0]
    missing = [name for name in NEEDED if name not in names]
    if missing:
        message = f"{path}: no column {', '.join(missing)}; ask the CMD web interface (3.x) for isochrone tables"
        raise UsageError(message)
    used = [place for place, name in enumerate(names) if name in (*NEEDED, *OPTIONAL)]
    try:
        table = np.loadtxt(numbers, ndmin=2, usecols=used)
    except ValueError as error:
        message = f"{path}: not a table of numbers ({error})"
        raise UsageError(message) from None
    if (count := len(numbers[0].split())) != len(names) or not np.isfinite(table).all():
        message = f"{path}: {len(names)} column names, {count} columns of numbers, or some that are not finite"
        raise UsageError(message)
    return {names[place]: table[:, column] for column, place in enumerate(used)}


@cache
def shipped_isochrones() -> Isochrones:
    """Return the table inside the package: 5 Gyr, [M/H] -1.5 to +0.3 (PARSEC 1.2S; Bressan et al. 2012).

    The track at +0.3 is of 5.2 Gyr; log g of these stars moves by at most 0.033 dex between 1 and 10 Gyr.
    """
    with as_file(files("stargap") / "theory" / "data" / "parsec_5gyr.dat") as path:
        return read_parsec(path)
