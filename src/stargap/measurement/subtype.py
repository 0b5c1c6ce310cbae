"""Molecular band indices and the spectral subtype (Reid et al. 1995; Lepine et al. 2007)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stargap.arrays import PerStar
from stargap.features import feature
from stargap.measurement.bands import band_mean, band_ratio
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["Indices", "is_giant", "measure_indices"]

LEAST_DEPTH = 0.05
"""Least depth of TiO5 in a dwarf of solar metallicity at which zeta means anything."""

SUBTYPE = (8.2, -10.775)
"""SpT = 8.2 - 10.775 TiO5, sigma 0.5 subtypes (Reid et al. 1995); -2 is K5, -1 K7, 0 M0, 7 M7."""

SOLAR_TIO5 = (-0.050, -0.118, 0.670, -0.164)
"""TiO5 of solar-metallicity dwarfs as a polynomial in CaH2 + CaH3 (Lepine et al. 2007)."""

GIANT_CAH = (0.757, 1.276)
"""CaH2 + CaH3 above which a star is a giant, as a line in TiO5. Dwarfs of LAMOST and of the templates of Kesseli et al.
(2017) lie below it, giants of the Indo-US library (Valdes et al. 2004) above it (docs/results/marks.md)."""
GIANT_TIO5 = 0.8
"""TiO5 from which on dwarfs and giants have the same CaH."""


class Indices(NamedTuple):
    """Indices and their errors, ``(star,)`` float64 each, NaN where pixels are missing."""

    tio5: PerStar
    e_tio5: PerStar
    cah2: PerStar
    e_cah2: PerStar
    cah3: PerStar
    e_cah3: PerStar
    zeta: PerStar
    e_zeta: PerStar
    spt: PerStar
    e_spt: PerStar


def measure_indices(native: NativeBatch, rv: PerStar, *, noise_factor: PerStar | float = 1.0) -> Indices:
    """Measure TiO5, CaH2, CaH3, zeta and the numeric subtype on flux, on native pixels.

    An index is the mean flux of its band (`stargap.features`) over that of 7042-7046 A, which all three share;
    where the latter is below 3 sigma it is null.
    zeta = (1 - TiO5) / (1 - TiO5 of a dwarf of solar metallicity with the same CaH2 + CaH3); it loses its meaning at
    early types, where both are near 0, and is null where the denominator is below 0.05. Errors of the subtype are
    photon noise; the relation itself scatters by 0.5.

    Args:
        native: spectra on the log-lambda grid.
        rv: velocities (km/s), ``(star,)``; NaN gives nulls.
        noise_factor: ratio of the noise to what the inverse variance says.

    Example:
        >>> flat = NativeBatch(torch.ones(1, 1891), torch.full((1, 1891), 1e4), torch.ones(1), torch.zeros(1))
        >>> indices = measure_indices(flat, torch.zeros(1))
        >>> round(indices.tio5.item(), 3), round(indices.spt.item(), 3)
        (1.0, -2.575)
    """
    reference = band_mean(native, rv, *feature("tio5").vacuum()[1][0])
    names = ("tio5", "cah2", "cah3")
    bands = {name: band_ratio(band_mean(native, rv, *feature(name).vacuum()[0]), reference) for name in names}
    (tio5, v_tio5), (cah2, v_cah2), (cah3, v_cah3) = (
        (bands[name].mean, bands[name].variance) for name in ("tio5", "cah2", "cah3")
    )

    cah = cah2 + cah3
    solar = sum((c * cah**k for k, c in enumerate(SOLAR_TIO5)), start=torch.zeros_like(cah))
    slope = sum((k * c * cah ** (k - 1) for k, c in enumerate(SOLAR_TIO5) if k), start=torch.zeros_like(cah))
    depth = torch.where(1 - solar > LEAST_DEPTH, 1 - solar, torch.nan)
    zeta = (1 - tio5) / depth
    by_tio5, by_cah = -1 / depth, zeta * slope / depth
    share = reference.variance / reference.mean.square()
    independent = [v - r.square() * share for v, r in ((v_tio5, tio5), (v_cah2, cah2), (v_cah3, cah3))]
    common = by_tio5 * tio5 + by_cah * cah
    v_zeta = by_tio5.square() * independent[0] + by_cah.square() * (independent[1] + independent[2])
    v_zeta = v_zeta + common.square() * share

    e_tio5, e_cah2, e_cah3, e_zeta = (
        variance.clamp_min(0).sqrt() * noise_factor for variance in (v_tio5, v_cah2, v_cah3, v_zeta)
    )
    subtype = SUBTYPE[0] + SUBTYPE[1] * tio5
    return Indices(tio5, e_tio5, cah2, e_cah2, cah3, e_cah3, zeta, e_zeta, subtype, abs(SUBTYPE[1]) * e_tio5)


def is_giant(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return where CaH2 + CaH3 is beyond that of any dwarf with the same TiO5, by more than two errors, ``(row,)``.

    Args:
        columns: ``tio5``, ``cah2``, ``cah3`` and their errors, ``(row,)`` each.

    Example:
        >>> columns = {name: np.array([0.0, 0.0]) for name in ("e_tio5", "e_cah2", "e_cah3")}
        >>> columns |= {"tio5": np.array([0.5, 0.5]), "cah2": np.array([0.55, 0.75]), "cah3": np.array([0.75, 0.85])}
        >>> is_giant(columns)
        array([False,  True])
    """
    given = {name: np.asarray(columns[name], dtype=float) for name in ("tio5", "cah2", "cah3")}
    errors = {name: np.asarray(columns[f"e_{name}"], dtype=float) for name in given}
    excess = given["cah2"] + given["cah3"] - GIANT_CAH[0] - GIANT_CAH[1] * given["tio5"]
    error = np.sqrt(errors["cah2"] ** 2 + errors["cah3"] ** 2 + (GIANT_CAH[1] * errors["tio5"]) ** 2)
    return np.asarray((given["tio5"] < GIANT_TIO5) & (excess > 2 * error))
