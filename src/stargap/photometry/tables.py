"""Photometric labels of the sources in a table on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stargap import __version__
from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.photometry.labels import photometric_labels
from stargap.photometry.likelihood import Population
from stargap.photometry.observed import INPUTS
from stargap.tables.columns import PHOTOMETRY
from stargap.tables.nulls import whole_ids
from stargap.tables.read import read_table
from stargap.tables.write import check_output, write_table

__all__ = ["PhotometryWritten", "read_photometry", "write_photometric_labels"]

_IDS = ("source_id", "gaia_source_id")


class PhotometryWritten(NamedTuple):
    """What `write_photometric_labels` did: ``sources``, how many ``labelled``, and of these probably ``paired``."""

    sources: int
    labelled: int
    paired: int


def read_photometry(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the identifiers ``gaia_source_id`` and all columns of a table that photometric labels are made of.

    Raises:
        UsageError: the table cannot be read, or has neither source_id nor gaia_source_id.
    """
    requested = [name for ours, others in INPUTS.items() for name in (ours, *others)]
    table = read_table(path, [], optional=[*_IDS, *requested])
    name = next((name for name in _IDS if name in table), None)
    if name is None:
        message = f"{path}: has neither source_id nor gaia_source_id, by which labels are joined to spectra"
        raise UsageError(message)
    return {"gaia_source_id": whole_ids(table.pop(name), name)} | {n: v for n, v in table.items() if n not in _IDS}


def write_photometric_labels(
    source: str | Path, output: str | Path, *, population: Population | None = None
) -> PhotometryWritten:
    r"""Write Teff, log g and [M/H] of every source in a table of Gaia's, as `labels.photometric_labels` gives them.

    Args:
        source: a table in any format, with source_id or gaia_source_id, and the columns that `observed.observed` takes,
            such as ``stargap gaia`` writes.
        output: the table to write, one row per source, in the same order.
        population: what is assumed of the stars.

    Raises:
        UsageError: a table cannot be read or written, or lacks columns.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> lines = ["source_id,phot_bp_mean_mag,phot_rp_mean_mag,ks_m,parallax,parallax_error"]
        >>> lines += ["3139847906307949696,10.1117,7.3539,4.857,264.127,0.041", "1,12.0,10.0,,-1.0,0.2"]
        >>> _ = (folder / "gaia.csv").write_text("\n".join(lines))
        >>> write_photometric_labels(folder / "gaia.csv", folder / "labels.parquet")
        PhotometryWritten(sources=2, labelled=1, paired=0)
        >>> read_table(folder / "labels.parquet", ["teff_phot"])["teff_phot"].round(-1)
        array([3300.,   nan], dtype=float32)
    """
    check_output(output)
    population = population or Population()
    table = read_photometry(source)
    ids = table.pop("gaia_source_id")
    try:
        labels = photometric_labels(table, population=population)
    except UsageError as error:
        message = f"{source}: {error}"
        raise UsageError(message) from None
    provenance = {
        "creator": f"stargap {__version__}",
        "label_scale": "Mann et al. 2015, ApJ 804, 64",
        "settings": population.model_dump_json(),
    }
    write_table({"gaia_source_id": ids} | labels, output, schema=PHOTOMETRY, provenance=provenance)
    paired = (labels["phot_flags"] & int(PhotFlag.BINARY_LIKELY)) != 0
    labelled = np.isfinite(labels["teff_phot"])
    return PhotometryWritten(len(ids), int(labelled.sum()), int((labelled & paired).sum()))
