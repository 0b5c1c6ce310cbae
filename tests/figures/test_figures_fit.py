"""The picture of one fit."""

import numpy as np

from stargap.figures.fit import _title
from stargap.tables.columns import MEASURED


def test_errors_in_the_title_are_random_and_systematic_together():
    row = {c.name: np.full(1, c.null, object if c.dtype == "str" else c.dtype) for c in MEASURED}
    row |= {"teff": np.array([3500.0]), "e_teff": np.array([30.0]), "e_teff_sys": np.array([40.0])}
    row |= {"m_h": np.array([-0.1]), "e_m_h": np.array([0.05]), "snr_r": np.array([20.0]), "snr_i": np.array([30.0])}
    row |= {"flags": np.array([0])}
    assert "Teff 3500 ± 50 K" in _title(row, 0)
    assert "[M/H] -0.10 ± 0.05" in _title(row, 0)
