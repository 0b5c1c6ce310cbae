"""The piece of a run that labels stars from Gaia's and 2MASS's photometry."""

from __future__ import annotations

import numpy as np

from stargap.flags import PhotFlag
from stargap.photometry.labels import photometric_labels
from stargap.pipeline.folder import Made, Run
from stargap.tables.parquet import read_columns, write_columns

__all__ = ["make_photometry"]


def make_photometry(run: Run, unit: int | None) -> Made:
    """Label the stars of a shard's spectra by the photometry that the sample stage joined; null where there is none."""
    assert unit is not None
    sample = read_columns(run.part("sample", unit))
    labels = photometric_labels(sample, population=run.settings.photometry)
    path = run.part("photometry", unit)
    write_columns(path, {"spectrum_id": sample["spectrum_id"], **labels})
    labelled = np.isfinite(labels["teff_phot"])
    paired = labelled & ((labels["phot_flags"] & int(PhotFlag.BINARY_LIKELY)) != 0)
    return Made([path], len(labelled), {"labelled": int(labelled.sum()), "probably pairs": int(paired.sum())})
