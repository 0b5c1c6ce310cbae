"""Extinction of a Gaia table's sources, from a three-dimensional map of dust."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap import __version__
from stargap.errors import UsageError
from stargap.photometry.extinction import LOCAL_BUBBLE
from stargap.photometry.observed import ZERO_POINT, distance_modulus
from stargap.survey.gaia.join import GAIA_SCHEMA, read_gaia
from stargap.tables.column import Column
from stargap.tables.nulls import numbers
from stargap.tables.write import check_output, write_table

__all__ = ["ExtinctionWritten", "map_extinction", "write_extinction"]

_Floats = NDArray[np.float64]

A_V_OVER_E = 2.8
"""A_V over the unit of the map, the E of Zhang, Green & Rix (2023, MNRAS 524, 1855). dustmaps names the unit and refers
for extinctions to their curve (doi:10.5281/zenodo.6674521), which is 2.8 at 5400 A as codes that use the map have it;
SDSS-V's astra takes E(B-V) = 0.829 E, by which A_V (R_V = 3.1) is 2.57 E, 8 % less: within `RELATIVE_ERROR`."""
RELATIVE_ERROR, LEAST_ERROR = 0.1, 0.03
"""Error of A_V as a fraction of it, and at least (mag): the mean of the map, integrated, comes without one."""
_EXTINCTION = (
    Column("a_v", "float64", "mag", "phys.absorption;em.opt.V", "Extinction A_V up to the source"),
    Column("e_a_v", "float64", "mag", "stat.error;phys.absorption;em.opt.V", "1-sigma error of a_v"),
)


class ExtinctionWritten(NamedTuple):
    """What `write_extinction` did: ``sources``, how many have a ``known`` A_V, and their ``median`` (mag)."""

    sources: int
    known: int
    median: float


def map_extinction(
    ra: ArrayLike, dec: ArrayLike, distance: ArrayLike, *, file: str | Path | None = None
) -> tuple[_Floats, _Floats]:
    """Return A_V and its error up to stars, by the map of Edenhofer et al. (2024, A&A 685, A82): 69 to 1250 pc.

    None within 70 pc; NaN beyond the map.

    Args:
        ra: deg, ``(star,)``.
        dec: deg.
        distance: pc; NaN where it is unknown.
        file: of the map's mean; where the package dustmaps keeps it if None.

    Raises:
        UsageError: dustmaps is not installed, or the map not there or none.
    """
    if find_spec("dustmaps") is None:
        message = "maps of dust need the package dustmaps: pip install 'stargap[dust]'"
        raise UsageError(message)
    from astropy import units
    from astropy.coordinates import SkyCoord

    with warnings.catch_warnings():  # where the maps are is not configured: then they are in their own folder
        warnings.simplefilter("ignore")
        from dustmaps.edenhofer2023 import Edenhofer2023Query

    parsecs = np.asarray(distance, dtype=float)
    beyond = parsecs > LOCAL_BUBBLE
    a_v = np.where(parsecs <= LOCAL_BUBBLE, 0.0, np.nan)
    try:
        query = Edenhofer2023Query(map_fname=None if file is None else os.fspath(file), integrated=True)
    except OSError:
        message = (
            f"{file or 'the folder of dustmaps'}: no map of dust; fetch it (3 GB) with: python -c 'import dustmaps."
        )
        message += "edenhofer2023 as map; map.fetch()'"
        raise UsageError(message) from None
    if beyond.any():
        places = SkyCoord(
            np.asarray(ra, dtype=float)[beyond] * units.deg,
            np.asarray(dec, dtype=float)[beyond] * units.deg,
            distance=parsecs[beyond] * units.pc,
        )
        a_v[beyond] = A_V_OVER_E * query(places)
    return a_v, np.where(a_v > 0, np.hypot(LEAST_ERROR, RELATIVE_ERROR * a_v), np.where(np.isnan(a_v), np.nan, 0.0))


def write_extinction(source: str | Path, output: str | Path, *, file: str | Path | None = None) -> ExtinctionWritten:
    """Write a Gaia table again with the columns a_v and e_a_v of `map_extinction`, which labels of photometry then use.

    Args:
        source: table with source_id, ra, dec, parallax and parallax_error; other columns that stargap uses are kept.
        output: table to write.
        file: see `map_extinction`.

    Raises:
        UsageError: a table cannot be read or written or lacks columns, or there is no map.
    """
    check_output(output)
    table: dict[str, Any] = read_gaia(source)
    lacking = [name for name in ("parallax", "parallax_error") if name not in table]
    if lacking:
        message = f"{source}: has no {' and no '.join(lacking)}, by which distances are known"
        raise UsageError(message)
    rows = len(table["source_id"])
    parallax, error = (numbers(table, name, rows) for name in ("parallax", "parallax_error"))
    modulus, _, _ = distance_modulus(parallax - ZERO_POINT, error)
    a_v, e_a_v = map_extinction(table["ra"], table["dec"], 10 ** (1 + modulus / 5), file=file)
    table |= {"a_v": a_v, "e_a_v": e_a_v}
    schema = [column for column in (*GAIA_SCHEMA, *_EXTINCTION) if column.name in table]
    provenance = {"creator": f"stargap {__version__}", "extinction": "Edenhofer et al. 2024, A&A 685, A82"}
    write_table({column.name: table[column.name] for column in schema}, output, schema=schema, provenance=provenance)
    known = np.isfinite(a_v)
    return ExtinctionWritten(len(a_v), int(known.sum()), float(np.median(a_v[known])) if known.any() else np.nan)
