"""Extinction from a map of dust: a small one in the format of the real one, read by the real reader."""

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import UsageError
from stargap.survey.gaia.dust import A_V_OVER_E, map_extinction, write_extinction
from stargap.tables.read import read_table

DENSITY = 1e-4
"""Of the map, in its unit per pc, the same everywhere."""


@pytest.fixture(scope="module")
def dust(tmp_path_factory):
    """A map with the same density everywhere from 69 to 1250 pc."""
    pytest.importorskip("dustmaps")
    nside, edges = 2, np.geomspace(69.0, 1250.0, 257)
    mean = fits.ImageHDU(np.full((len(edges) - 1, 12 * nside**2), DENSITY), name="MEAN")
    mean.header["NSIDE"], mean.header["ORDERING"] = nside, "nest"
    inner = fits.ImageHDU(np.full(12 * nside**2, 0.001), name="MEAN OF INTEGRATED INNER")
    inner.header["CTYPE"], inner.header["ORDERING"] = "Inner density integrated within 69pc", "nest"
    tables = [
        fits.BinTableHDU.from_columns([fits.Column(name, "D", array=values)])
        for name, values in (
            ("radial pixel centers", np.sqrt(edges[1:] * edges[:-1])),
            ("radial pixel boundaries", edges),
        )
    ]
    path = tmp_path_factory.mktemp("dust") / "mean.fits"
    fits.HDUList([fits.PrimaryHDU(), mean, *tables, inner]).writeto(path)
    return path


def test_dust_adds_up_along_the_way_and_there_is_none_nearby(dust):
    distance = np.array([20.0, 70.0, 100.0, 300.0, 1000.0, 2000.0, np.nan])
    a_v, error = map_extinction(np.arange(7) * 50.0, np.arange(7) * 10.0 - 30.0, distance, file=dust)
    assert a_v[:2].tolist() == error[:2].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(a_v[2:5], A_V_OVER_E * (0.001 + DENSITY * (distance[2:5] - 69.0)), rtol=0.03)
    assert np.isnan(a_v[5:]).all()
    assert np.isnan(error[5:]).all()
    assert (error[2:5] >= 0.03).all()


def test_the_table_keeps_its_columns_and_has_the_extinction(dust, tmp_path):
    (tmp_path / "gaia.csv").write_text(
        "source_id,ra,dec,parallax,parallax_error,phot_g_mean_mag,ph_qual,mine\n"
        "6917528997577384320,10,20,100.0,0.05,12.5,AAA,1\n5,10,20,3.97,0.05,15.5,AAB,2\n6,10,20,,,15.5,,3\n"
    )
    told = write_extinction(tmp_path / "gaia.csv", tmp_path / "gaia.parquet", file=dust)
    assert (told.sources, told.known) == (3, 2)
    table = read_table(tmp_path / "gaia.parquet")
    assert table["source_id"].tolist() == [6917528997577384320, 5, 6]
    assert table["ph_qual"].tolist() == ["AAA", "AAB", ""]
    assert table["a_v"][0] == 0
    assert table["a_v"][1] == pytest.approx(A_V_OVER_E * (0.001 + DENSITY * 181.0), rel=0.03)
    assert np.isnan(table["a_v"][2])


def test_what_lacks_is_said(tmp_path):
    pytest.importorskip("dustmaps")
    (tmp_path / "gaia.csv").write_text("source_id,ra,dec\n5,10,20\n")
    with pytest.raises(UsageError, match="no parallax and no parallax_error"):
        write_extinction(tmp_path / "gaia.csv", tmp_path / "o.parquet")
    with pytest.raises(UsageError, match="no map of dust"):
        map_extinction([1.0], [2.0], [100.0], file=tmp_path / "none.fits")
