"""Numbers of the paper that results are shown beside, by its sections; every one is of real stars."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ACTIVE_SPECTRA",
    "BINARIES",
    "BRIGHT_SCATTER",
    "CATALOGUE_SPECTRA",
    "CATALOGUE_STARS",
    "CLEAN_SPECTRA",
    "LEFT_AFTER_CUT",
    "M_DWARF_SPECTRA",
    "OFFSETS",
    "REPEATS",
    "RESIDUAL",
    "SUBCLASS_OFFSET",
    "VARIABLE_SPECTRA",
    "BinaryNumbers",
]

M_DWARF_SPECTRA = 818_686
"""Spectra that the pipeline calls M dwarfs (section 2.1)."""
CLEAN_SPECTRA = 538_107
"""Spectra that the cuts of the sample and the cleaning leave (section 2.1)."""
CATALOGUE_SPECTRA, CATALOGUE_STARS = 507_513, 426_008
"""Spectra and stars in the final catalogue (section 4)."""
LEFT_AFTER_CUT = {"class M dwarf": M_DWARF_SPECTRA, "cleaning": CLEAN_SPECTRA, "age": CATALOGUE_SPECTRA}
"""Spectra left after a cut, by the name of the cut; the paper does not count the others (sections 2.1 and 4)."""
ACTIVE_SPECTRA, VARIABLE_SPECTRA = 33_623, 24_276
"""Spectra of the final catalogue that are active, and that are of variable candidates (section 4)."""

OFFSETS = {"rv": (3.0, 9.0), "teff": (12.0, 70.0), "logg": (-0.04, 0.17), "m_h": (-0.06, 0.20)}
"""Bias and scatter of velocities against Gaia's (km/s, section 2.3), of labels against literature (section 5.1)."""
BRIGHT_SCATTER = {"teff": 47.0, "logg": 0.12, "m_h": 0.14}
"""Scatter of labels against literature above S/N 50 (section 5.1)."""
REPEATS = {"rv": (9.7, 3.7), "teff": (61.0, 22.0), "logg": (0.07, 0.02), "m_h": (0.14, 0.05)}
"""Scatter of repeated observations at S/N 10 and at S/N 100 (section 4.1)."""
SUBCLASS_OFFSET = (0.18, 0.74)
"""Bias and scatter of the pipeline's subclass against the subtype from TiO5, in subclasses (section 4)."""
RESIDUAL = 1.68
"""Median of ``mean |residual| / sigma`` against transferred spectra; before the transfer it is above 2."""


class BinaryNumbers(NamedTuple):
    """Bias and scatter of [M/H] against the primaries', 5th and 95th percentile of [M/H] (dex), number of pairs."""

    bias: float
    scatter: float
    low: float
    high: float
    pairs: int | None


BINARIES = {
    5.0: BinaryNumbers(0.04, 0.24, -1.2, 0.5, 868),
    20.0: BinaryNumbers(0.02, 0.21, -0.9, 0.5, None),
    50.0: BinaryNumbers(-0.04, 0.15, -0.7, 0.2, 100),
}
"""Wide binaries of FGK stars and M dwarfs above each S/N (section 5.4)."""
