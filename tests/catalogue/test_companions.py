"""Laws of the look-up in other catalogues: identifiers exact, positions right everywhere and at any epoch."""

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.time import Time
from pydantic import ValidationError

from stargap.catalogue.companions import CompanionTable, _moved, find_companions
from stargap.errors import UsageError
from stargap.flags import Companion
from stargap.tables.columns import INT_NULL, Column
from stargap.tables.write import write_table

GAIA = 6917528997577384320
ARCSEC = 1 / 3600


def place(ra, dec, pmra=0.0, pmdec=0.0):
    values = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, float)) for value in (ra, dec, pmra, pmdec)))
    return dict(zip(("ra", "dec", "pmra", "pmdec"), values, strict=True))


def table(folder, name="t.fits", **columns):
    kinds = {"i": "int64", "f": "float64", "O": "str"}
    arrays = {key: np.asarray(v, object if isinstance(v[0], str) else None) for key, v in columns.items()}
    schema = [Column(key, kinds[values.dtype.kind]) for key, values in arrays.items()]
    write_table(arrays, folder / name, schema=schema, provenance={})
    return str(folder / name)


def look(columns, **tables):
    size = max(len(values) for values in columns.values())
    return find_companions({"spectrum_id": np.arange(size), **columns}, tables)


def test_neighbouring_19_digit_identifiers_are_told_apart(tmp_path):
    file = table(tmp_path, source_id=[GAIA, GAIA + 2, INT_NULL])
    sb2 = CompanionTable(table=file, means="binary", keys=("source_id",))
    ids = np.array([GAIA, GAIA + 1, GAIA + 2, INT_NULL])
    assert look({"gaia_source_id": ids}, sb2=sb2).flags.tolist() == [2, 0, 2, 0]


def test_a_star_can_be_variable_and_binary_and_both_stars_of_a_pair_are_found(tmp_path):
    pairs = table(tmp_path, one=[1, 3, 3], two=[2, 4, 5])
    variable = table(tmp_path, "v.parquet", source_id=[2, 9])
    found = look(
        {"gaia_source_id": [1, 2, 3, 4, 5, 6, 9]},
        pairs=CompanionTable(table=pairs, means="binary", keys=("one", "two")),
        variables=CompanionTable(table=variable, means="variable", keys=("SOURCE_ID",)),
    )
    assert found.flags.tolist() == [2, 3, 2, 2, 2, 0, 1]
    assert [note.split(",")[0] for note in found.notes] == ["pairs: 5 of 7 spectra", "variables: 2 of 7 spectra"]


def test_nothing_looked_up_is_null_and_not_zero():
    assert look({"gaia_source_id": [1]}).flags.tolist() == [INT_NULL]


@pytest.mark.parametrize("ra", [0.0, 359.99999, 180.0])
@pytest.mark.parametrize("dec", [-90.0, -89.9999, 0.0, 60.0, 89.9999, 90.0])
def test_positions_across_the_turn_and_at_the_poles(tmp_path, ra, dec):
    star = SkyCoord(ra * units.deg, dec * units.deg)
    near, far = (star.directional_offset_by(73 * units.deg, apart * units.arcsec) for apart in (2.4, 2.6))
    file = table(tmp_path, RAJ2000=[near.ra.deg], DEJ2000=[near.dec.deg])
    declared = CompanionTable(table=file, means="binary", radius_arcsec=2.5, ra="RAJ2000", dec="DEJ2000")
    assert look(place(ra, dec), t=declared).flags.tolist() == [2]
    file = table(tmp_path, ra=[far.ra.deg], dec=[far.dec.deg])
    declared = CompanionTable(table=file, means="binary", radius_arcsec=2.5)
    assert look(place(ra, dec), t=declared).flags.tolist() == [0]


def test_fast_stars_are_moved_to_the_epoch_of_the_table(tmp_path):
    star = place([269.4521, 10.0], [4.6935, 10.0], [-801.6, np.nan], [10362.4, np.nan])
    file = table(tmp_path, ra=[269.448502, 10.0], dec=[4.739420, 10.0])
    at = {epoch: CompanionTable(table=file, means="variable", radius_arcsec=1.0, epoch=epoch) for epoch in (2016, 2010)}
    assert look(star, t=at[2016]).flags.tolist() == [1, 1]
    assert look(star, t=at[2010]).flags.tolist() == [0, 1]


@pytest.mark.parametrize("years", [-50.0, 16.0])
def test_motion_is_that_of_astropy(years):
    random = np.random.default_rng(4)
    ra, dec = random.uniform(0, 360, 300), np.degrees(np.arcsin(random.uniform(-1, 1, 300)))
    pmra, pmdec = random.normal(0, 3000, (2, 300))
    moved = SkyCoord(*_moved(place(ra, dec, pmra, pmdec), years), unit="deg")
    motion = {"pm_ra_cosdec": pmra * units.mas / units.yr, "pm_dec": pmdec * units.mas / units.yr}
    start = SkyCoord(
        ra * units.deg,
        dec * units.deg,
        distance=np.full(300, 10.0) * units.pc,
        obstime=Time(2000.0, format="jyear", scale="tdb"),
        **motion,
    )
    expected = start.apply_space_motion(Time(2000.0 + years, format="jyear", scale="tdb"))
    assert moved.separation(SkyCoord(expected.ra, expected.dec)).max() < 20 * units.mas


def test_two_rows_within_the_radius_are_flagged_and_identifiers_come_first(tmp_path):
    file = table(tmp_path, source_id=[7, 8, INT_NULL], ra=[10.0, 10.0, 50.0], dec=[0.0, 2 * ARCSEC, 0.0])
    declared = CompanionTable(table=file, means="binary", keys=("source_id",), radius_arcsec=2.5)
    found = look({"gaia_source_id": [7, 1, 1, 1], **place([10, 10, 50, np.nan], [0, 0, 0, 0])}, t=declared)
    ambiguous = Companion.BINARY | Companion.AMBIGUOUS
    assert found.flags.tolist() == [2, ambiguous, 2, 0]
    assert found.notes == ("t: 3 of 4 spectra, 1 by identifier, 2 by position (1 ambiguous)",)


def test_no_rows_on_either_side(tmp_path):
    empty = CompanionTable(table=_empty(tmp_path),
                           means="binary", keys=("source_id",), radius_arcsec=1)  # fmt: skip
    assert look({"gaia_source_id": [7], **place(1, 1)}, t=empty).flags.tolist() == [0]
    assert look({"gaia_source_id": np.empty(0, np.int64)}, t=empty).flags.tolist() == []


def _empty(folder):
    schema = [Column("source_id", "int64"), Column("ra", "float64"), Column("dec", "float64")]
    write_table({column.name: [] for column in schema}, folder / "e.parquet", schema=schema, provenance={})
    return str(folder / "e.parquet")


def test_what_cannot_be_looked_up_says_what_to_do(tmp_path):
    with pytest.raises(ValidationError, match="give keys, its columns of Gaia identifiers, or radius_arcsec"):
        CompanionTable(table="t.fits", means="binary")
    vizier = CompanionTable(table="I/358/vclassre", means="variable", keys=("Source",))
    with pytest.raises(UsageError, match=r"download .*asu-binfits\?-source=I/358/vclassre&.* and give the file"):
        look({"gaia_source_id": [1]}, variables=vizier)
    with pytest.raises(UsageError, match="does not exist"):
        look({"gaia_source_id": [1]}, t=CompanionTable(table="no/such.fits", means="binary", keys=("a",)))
    file = table(tmp_path, ra=["10 00 00"], dec=["+10 00 00"], source_id=[1.5])
    for problem, columns in (
        ("no column 'id'", {"keys": ("id",)}),
        ("t.fits: row 1: source_id: holds floats", {"keys": ("source_id",)}),
        ("column 'ra', row 1: ", {"radius_arcsec": 1}),
    ):
        with pytest.raises(UsageError, match=problem):
            look({"gaia_source_id": [1], **place(1, 1)}, t=CompanionTable(table=file, means="binary", **columns))
