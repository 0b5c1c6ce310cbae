"""Measured spectra joined with a table of Gaia and 2MASS: labels of photometry, and of both together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.flags import JointFlag
from stargap.photometry.joint import joint_labels
from stargap.photometry.labels import photometric_labels
from stargap.photometry.likelihood import Population
from stargap.survey.gaia.join import join_gaia
from stargap.survey.sample import SampleSettings
from stargap.tables.columns import JOINED

__all__ = ["with_photometry"]


def with_photometry(
    measured: Mapping[str, NDArray[Any]], gaia: Mapping[str, ArrayLike], *, population: Population | None = None
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Return the columns of measured spectra with those of photometry, and of spectrum and photometry together.

    Spectra are joined with sources by position as in a survey run: within 3 arcsec, proper motion since 2000
    considered. The columns of the spectra are unchanged.

    Args:
        measured: columns ``(row,)`` of `MEASURED`.
        gaia: columns ``(source,)`` as `stargap.survey.gaia.join.read_gaia` gives them.
        population: what is assumed of the stars.

    Returns:
        the columns of `JOINED`, and sentences on what was joined.

    Raises:
        UsageError: columns of the table are missing.

    Example:
        >>> nulls = {column.name: np.array([column.null]) for column in JOINED}
        >>> spectrum = {"spectrum_id": 0, "ra": 112.5, "dec": 5.2, "teff": 3400.0, "logg": 4.9, "m_h": 0.1}
        >>> spectrum |= {"e_teff": 60.0, "e_logg": 0.1, "e_m_h": 0.2, "use_teff": 1, "use_logg": 1, "use_m_h": 1}
        >>> source = {"source_id": [3139847906307949696], "ra": [112.5], "dec": [5.2], "phot_bp_mean_mag": [10.1117]}
        >>> source |= {"phot_rp_mean_mag": [7.3539], "ks_m": [4.857], "parallax": [264.127], "parallax_error": [0.041]}
        >>> columns, notes = with_photometry(nulls | {name: np.array([v]) for name, v in spectrum.items()}, source)
        >>> [float(columns[name][0].round(-1)) for name in ("teff", "teff_phot", "teff_joint")]
        [3400.0, 3300.0, 3340.0]
        >>> notes[-1]
        '1 of 1 spectra have labels of spectrum and photometry together; in 0 of these they disagree'
    """
    sample = SampleSettings()
    index = {name: measured[name] for name in ("spectrum_id", "ra", "dec", "lmjd")}
    join = join_gaia(index, gaia, radius_arcsec=sample.radius_arcsec, earliest=sample.earliest_epoch)
    columns = {**measured, **join.columns}
    columns |= photometric_labels(join.columns, population=population)
    columns |= joint_labels(measured, join.columns, population=population)
    known = np.isfinite(columns["teff_joint"])
    tense = np.count_nonzero(known & (columns["joint_flags"] & int(JointFlag.TENSION) != 0))
    note = f"{np.count_nonzero(known):,} of {len(known):,} spectra have labels of spectrum and photometry together; "
    note += f"in {tense:,} of these they disagree"
    return {column.name: columns[column.name] for column in JOINED}, (*join.notes, note)
