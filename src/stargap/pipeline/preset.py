"""The paper's choices in every stage of a survey run: the settings that ``preset = "paper"`` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["PAPER_PRESET", "filled"]

PAPER_PRESET: dict[str, Any] = {
    "sample": {"subclasses": ["dM"], "fiber_mask": 0, "least_parallax_snr": 0.0, "keep_unknown": False},
    "emulator": {"resolution": 2000.0},
    "transfer": {"use": "train", "architecture": "reference", "spectra": 110_000, "prior": {"preset": "paper"}},
    "measure": {"preset": "paper", "optimiser": "lbfgs", "lamost_noise_factor": 1.0, "lamost_rv_floor": 0.0},
    "fit": {"joint": False, "stacks": False},
    "catalogue": {"errors": "paper", "cuts": {"errors": "paper", "keep_unmodelled": True}},
    "publish": {"ages": True, "paper_table": True},
}
"""Settings of `SurveySettings` in which the paper differs from the defaults.

Section 2.1: M dwarfs are those of class dM, spectra unknown to a cut are left out, and the survey's fibre masks and the
precision of parallaxes do not count. Section 2.2: synthetic spectra have a resolution of 2000. Section 2.4: the paper's
preparation. Sections 3.1 to 3.3: the network is trained on 110,000 spectra of the survey, split 8:2:1, and on labels
from 3000 to 4000 K with [M/H] from -1. Section 3.5: both domains are fitted, the second by L-BFGS, with [a/M] tied to
[M/H]; errors are those of the fit. Section 4.1: published errors are those of equations 8 and 9. Section 4: outliers in
error are judged against one population of all spectra, stars younger than 1 Gyr are left out, and flags of a fit
remove nothing. Labels are those of spectra alone. Table 1 is written.
"""


def filled(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of a preset wherever nothing is given, table by table.

    Example:
        >>> filled({"cuts": {"teff": 4000.0}, "name": "a"}, {"cuts": {"teff": 4300.0, "errors": "paper"}})
        {'cuts': {'teff': 4000.0, 'errors': 'paper'}, 'name': 'a'}
    """
    result = dict(preset)
    for name, value in given.items():
        table = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        inner = preset.get(name)
        result[name] = filled(table, inner) if isinstance(table, Mapping) and isinstance(inner, Mapping) else value
    return result
