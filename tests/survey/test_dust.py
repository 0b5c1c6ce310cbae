"""Extinction from a map of dust: small ones in the format of the real one, read by the real reader."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from stargap.errors import UsageError
from stargap.survey.gaia.dust import A_V_OVER_E, map_extinction, write_extinction
from stargap.tables.read import read_table

DENSITY = 1e-4
"""Of the map, in its unit per pc, the same everywhere."""


NSIDE, EDGES = 4, np.geomspace(69.0, 1250.0, 257)
TAURUS = SkyCoord("04h30m +26d", unit=("hourangle", "deg"))


def written(path, density, inner):
    """Write a map as dustmaps reads mean_and_std_healpix.fits: HDUs, keywords and their order are those of the file."""
    sky = {"NSIDE": NSIDE, "ORDERING": "nest"}
    images = [
        fits.ImageHDU(density, fits.Header(sky), name="MEAN"),
        fits.ImageHDU(0.1 * density, fits.Header(sky), name="STD."),
    ]
    within = "nner density integrated within 69pc"
    images += [
        fits.ImageHDU(inner, fits.Header(sky | {"CTYPE": "I" + within}), name="MEAN OF INTEGRATED INNER"),
        fits.ImageHDU(0.1 * inner, fits.Header(sky | {"CTYPE": "Std. of i" + within}), name="STD. OF INTEGRATED INNER"),
    ]
    tables = [
        fits.BinTableHDU.from_columns([fits.Column(name, "D", array=values)])
        for name, values in (
            ("radial pixel centers", np.sqrt(EDGES[1:] * EDGES[:-1])),
            ("radial pixel boundaries", EDGES),
        )
    ]
    fits.HDUList([fits.PrimaryHDU(), *images, *tables]).writeto(path)
    return path


@pytest.fixture(scope="module")
def dust(tmp_path_factory):
    """A map with the same density everywhere from 69 to 1250 pc."""
    pytest.importorskip("dustmaps")
    everywhere = np.full((len(EDGES) - 1, 12 * NSIDE**2), DENSITY)
    return written(tmp_path_factory.mktemp("dust") / "mean.fits", everywhere, np.full(12 * NSIDE**2, 0.001))


def test_a_cloud_dims_what_is_behind_it_and_nothing_else(tmp_path):
    pytest.importorskip("dustmaps")
    healpy = pytest.importorskip("healpy")
    way = healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2), nest=True)
    lon, lat = TAURUS.galactic.l.rad, TAURUS.galactic.b.rad
    cloudy = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]) @ way > np.cos(0.35)
    middle = np.sqrt(EDGES[1:] * EDGES[:-1])
    density = np.where(cloudy & ((middle > 130) & (middle < 150))[:, None], 0.02, 1e-7)
    path = written(tmp_path / "cloud.fits", density, np.full(12 * NSIDE**2, 1e-7))
    ra, dec = np.array([*[TAURUS.ra.deg] * 3, TAURUS.ra.deg + 180]), np.array([*[TAURUS.dec.deg] * 3, -TAURUS.dec.deg])
    a_v, _ = map_extinction(ra, dec, np.array([100.0, 200.0, 1000.0, 200.0]), file=path)
    np.testing.assert_allclose(a_v, [0.0, A_V_OVER_E * 0.4, A_V_OVER_E * 0.4, 0.0], rtol=0.05, atol=1e-3)


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
