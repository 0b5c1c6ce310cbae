"""One star in a line: what it is called, its labels with errors and marks, and where others say more of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import numpy as np
from numpy.typing import NDArray

from stargap.features import subtype_name
from stargap.flags import bit_text, worst_first
from stargap.tables.columns import INT_NULL

__all__ = ["SUMMARY_COLUMNS", "StarSummary", "star_summary"]

_LABELS = (("Teff", "teff", "K", 0), ("log g", "logg", "dex", 2), ("[M/H]", "m_h", "dex", 2), ("RV", "rv", "km/s", 1))
SUMMARY_COLUMNS = (
    *("spectrum_id", "designation", "gaia_source_id", "ra", "dec", "snr_r", "spt", "flags"),
    *(f"{mark}{name}{end}" for _, name, _, _ in _LABELS for mark, end in (("", ""), ("e_", ""), ("e_", "_sys"))),
    *(f"{mark}_{name}" for _, name, _, _ in _LABELS for mark in ("use", "care")),
)
"""The columns that `star_summary` needs."""
_ARCHIVE = "https://gea.esac.esa.int/tap-server/tap/sync?REQUEST=doQuery&LANG=ADQL&FORMAT=csv&QUERY="
_SIMBAD = "https://simbad.cds.unistra.fr/simbad/"


class StarSummary(NamedTuple):
    """What `star_summary` returns, in JSON's types.

    ``quantities`` are name, value with its error (random and systematic together) and unit, whether it can be used
    (``ok``, ``care`` or ``bad``), and why not; ``links`` are names and addresses.
    """

    name: str
    quantities: list[tuple[str, str, str, str]]
    flags: str
    links: list[tuple[str, str]]


def star_summary(columns: Mapping[str, NDArray[Any]], row: int, *, simulated: bool) -> StarSummary:
    """Return the summary of one row of the catalogue.

    Args:
        columns: `SUMMARY_COLUMNS`, ``(row,)`` each.
        row: which row.
        simulated: nobody knows more of simulated stars: there are no links.

    Example:
        >>> star = {name: np.array([np.nan]) for name in SUMMARY_COLUMNS} | {"spectrum_id": np.array([7])}
        >>> star |= {"designation": np.array(["J0001+01"]), "gaia_source_id": np.array([4472832130942575872])}
        >>> star |= {"teff": np.array([3195.2]), "e_teff": np.array([30.0]), "e_teff_sys": np.array([40.0])}
        >>> star |= {"use_teff": np.array([1]), "care_teff": np.array([1]), "flags": np.array([16])}
        >>> summary = star_summary(star, 0, simulated=False)
        >>> summary.name, summary.quantities[0]
        ('J0001+01', ('Teff', '3195 ± 50 K', 'care', 'use with care: see the flags'))
        >>> summary.flags, [name for name, _ in summary.links]
        ('S/N below 5 in r or i', ['SIMBAD', 'Gaia archive'])
    """
    quantities = [_label(columns, row, *about) for about in _LABELS if np.isfinite(columns[about[1]][row])]
    subtype, snr = subtype_name(float(columns["spt"][row])), float(columns["snr_r"][row])
    quantities += [("", subtype, "ok", "spectral subtype")] if subtype else []
    quantities += [("S/N", f"{snr:.0f} in r", "ok", "")] if np.isfinite(snr) else []
    flags = int(columns["flags"][row])
    sentences = "; ".join(bit_text("flags", bit)[1] for bit in worst_first("flags", flags))
    name = str(columns["designation"][row]) or f"spectrum {columns['spectrum_id'][row]}"
    return StarSummary(name, quantities, sentences, [] if simulated else _links(columns, row))


def _label(
    columns: Mapping[str, NDArray[Any]], row: int, title: str, name: str, unit: str, digits: int
) -> tuple[str, str, str, str]:
    errors = [float(columns[one][row]) for one in (f"e_{name}", f"e_{name}_sys")]
    known = [error for error in errors if np.isfinite(error)]
    error = f" ± {np.hypot.reduce(known):.{digits}f}" if known else ""
    if columns[f"use_{name}"][row] != 1:
        state, why = "bad", "cannot be used: see the flags"
    elif columns[f"care_{name}"][row] == 1:
        state, why = "care", "use with care: see the flags"
    else:
        state, why = "ok", "random and systematic error together"
    return title, f"{columns[name][row]:.{digits}f}{error} {unit}", state, why


def _links(columns: Mapping[str, NDArray[Any]], row: int) -> list[tuple[str, str]]:
    """Return where SIMBAD and the Gaia archive have the star: by identifier, else by place."""
    source, ra, dec = int(columns["gaia_source_id"][row]), float(columns["ra"][row]), float(columns["dec"][row])
    if source != INT_NULL:
        query = f"SELECT * FROM gaiadr3.gaia_source WHERE source_id = {source}"
        return [
            ("SIMBAD", f"{_SIMBAD}sim-id?Ident=Gaia+DR3+{source}"),
            ("Gaia archive", f"{_ARCHIVE}{quote_plus(query)}"),
        ]
    if np.isfinite(ra) and np.isfinite(dec):
        place = quote_plus(f"{ra:.6f} {dec:+.6f}")
        return [("SIMBAD", f"{_SIMBAD}sim-coo?Coord={place}&Radius=5&Radius.unit=arcsec")]
    return []
