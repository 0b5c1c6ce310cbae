"""The pieces of a run that label stars from Gaia's and 2MASS's photometry, alone and with the spectrum."""

from __future__ import annotations

import numpy as np

from stargap.flags import JointFlag, PhotFlag
from stargap.photometry.joint import joint_labels
from stargap.photometry.labels import photometric_labels
from stargap.pipeline.folder import Made, Run, joined_rows
from stargap.tables.columns import JOINT
from stargap.tables.parquet import read_columns, write_columns

__all__ = ["make_joint", "make_photometry"]


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


def make_joint(run: Run, unit: int | None) -> Made:
    """Label a shard's spectra by spectrum and photometry together; null where either lacks, or nobody asks for it."""
    assert unit is not None
    measured, sample = (read_columns(run.part(stage, unit)) for stage in ("measure", "sample"))
    ids, path = measured["spectrum_id"], run.part("joint", unit)
    columns = {column.name: np.full(len(ids), 0 if column.dtype == "int32" else column.null) for column in JOINT}
    if run.settings.fit.joint:
        rows = joined_rows(ids, sample["spectrum_id"], run.part("sample", unit))
        table = {name: values[rows] for name, values in sample.items()}
        columns = joint_labels(measured, table, population=run.settings.photometry)
    write_columns(path, {"spectrum_id": ids, **columns})
    labelled = np.isfinite(columns["teff_joint"])
    tense = labelled & (columns["joint_flags"] & int(JointFlag.TENSION) != 0)
    return Made([path], len(ids), {"labelled": int(labelled.sum()), "in tension": int(tense.sum())})
