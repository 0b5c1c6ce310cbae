"""Ks of poor quality and extinction in the join with Gaia."""

import numpy as np

from stargap.survey.gaia.join import EXTINCTION_COLUMNS, join_gaia

INDEX = {"spectrum_id": [0, 1, 2, 3], "gaia_source_id": [3, 1, 9, 2]}
GAIA = {"source_id": [1, 2, 3], "ra": [5.0, 6.0, 7.0], "dec": [1.0, 1.0, 1.0]}
KS = {"ks_m": [8.0, 9.0, 10.0], "ks_msigcom": [0.02, 0.02, 0.03]}


def joined(**more):
    return join_gaia(INDEX, GAIA | more, radius_arcsec=3.0, earliest=2000.0).columns


def test_ks_comes_with_its_error_unless_2mass_doubts_it():
    nothing = np.nan
    np.testing.assert_array_equal(joined(**KS)["ks_mag"], [10.0, 8.0, nothing, 9.0])
    columns = joined(**KS, ph_qual=["AAA", "AAD", "ABC"])
    np.testing.assert_array_equal(columns["ks_mag"], [10.0, 8.0, nothing, nothing])
    np.testing.assert_array_equal(columns["e_ks_mag"], [0.03, 0.02, nothing, nothing])
    np.testing.assert_array_equal(joined(**KS, ph_qual=["", "", "AAX"])["ks_mag"], [nothing, 8.0, nothing, 9.0])


def test_extinction_is_joined_where_there_is_one():
    assert not set(EXTINCTION_COLUMNS) & set(joined())
    columns = joined(a_v=[0.1, 0.2, 0.3])
    np.testing.assert_array_equal(columns["a_v"], [0.3, 0.1, np.nan, 0.2])
    assert "ebv" not in columns
