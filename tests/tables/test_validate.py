"""Laws of validation: what stargap writes is valid in every format, and any single fault is told."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from stargap.catalogue.publish import paper_table
from stargap.errors import UsageError
from stargap.flags import FinalCut
from stargap.tables.columns import CATALOGUE, INT_NULL, PAPER, STARS, Column
from stargap.tables.validate import SCHEMAS, schema_of, validate_file
from stargap.tables.write import write_table

SUFFIXES = [".fits", ".fits.gz", ".parquet", ".csv", ".vot", ".ecsv"]
GAIA = 6917528997577384320


def good(schema, rows=5):
    """A table that obeys the schema, with a null in every column that can have one."""
    table = {}
    for column in schema:
        low = column.valid_range[0] if column.valid_range else 0
        if column.dtype == "str":
            table[column.name] = np.array(["M2 <é>"] * rows, dtype=object)
        elif column.dtype == "bool":
            table[column.name] = np.zeros(rows, bool)
        else:
            table[column.name] = np.full(rows, max(low, 0) + 0.1 * (column.dtype == "float32"), dtype=column.dtype)
        if column.dtype != "bool" and schema is not PAPER:
            table[column.name][1:2] = column.null
    table |= {"spectrum_id": GAIA + np.arange(rows)} if "spectrum_id" in table else {}
    return table | ({"cuts": np.ones(rows, np.int64)} if "cuts" in table else {})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("schema", "rows"), [(CATALOGUE, 0), (STARS, 1), *((schema, 5) for schema in SCHEMAS.values())]
)
def test_what_is_written_is_valid(tmp_path, suffix, schema, rows):
    path = tmp_path / f"t{suffix}"
    write_table(good(schema, rows), path, schema=schema, provenance={"creator": "stargap"})
    assert validate_file(path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_fault_is_told(tmp_path, suffix):
    table = good(CATALOGUE)
    table["spectrum_id"][3] = table["spectrum_id"][2]
    table["teff"][0], table["ra"][2] = 9000, 360.5
    table["cuts"][:2] = [int(FinalCut.ACTIVE), 1 << 20 | 1]
    table["clean_flags"][4] = 1 << 30
    write_table(table, tmp_path / f"t{suffix}", schema=CATALOGUE, provenance={})
    assert validate_file(tmp_path / f"t{suffix}") == [
        "spectrum_id: 1 of 5 values repeat, such as 6917528997577384322",
        "ra: 1 of 5 values outside 0 to 360, first in row 2: 360.5",
        "teff: 1 of 5 values outside 2000 to 7000, first in row 0: 9000.0",
        "cuts: 1 of 5 values have bits of no meaning, first in row 1",
        "in_final_catalogue: 1 of 5 values do not follow from cuts",
    ]


@pytest.mark.parametrize("suffix", [".fits", ".parquet", ".vot", ".ecsv"])
def test_types_units_and_ucds_that_differ_are_told(tmp_path, suffix):
    changed = {
        "teff": Column("teff", "float64", "K", "phys.temperature.effective"),
        "rv": Column("rv", "float32", "m/s", "spect.dopplerVeloc.opt"),
        "m_g": Column("m_g", "float32", "mag", "phot.mag"),
        "activity": Column("activity", "int64", "", "meta.code.class;spect.line.eqWidth"),
    }
    schema = [changed.get(column.name, column) for column in CATALOGUE]
    table = good(CATALOGUE) | {"teff": np.full(5, 3000.0)}
    write_table(table, tmp_path / f"t{suffix}", schema=schema, provenance={})
    assert validate_file(tmp_path / f"t{suffix}") == [
        "m_g: UCD 'phot.mag', expected 'phot.mag;phys.magAbs'",
        "rv: unit 'm/s', expected 'km/s'",
        "teff: dtype float64, expected float32",
        "activity: dtype int64, expected int32",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_missing_unknown_and_out_of_order_are_told(tmp_path, suffix):
    table = good(STARS) | {"extra": np.arange(5)}
    del table["teff"]
    schema = [column for column in STARS if column.name != "teff"]
    schema[3], schema[4] = schema[4], schema[3]
    write_table(table, tmp_path / f"t{suffix}", schema=[*schema, Column("extra", "int64")], provenance={})
    assert validate_file(tmp_path / f"t{suffix}") == [
        "columns missing: 'teff'",
        "columns unknown: 'extra'",
        "columns out of order: 'dec' stands where 'ra' should",
    ]


def test_other_nulls_and_damage_are_told(tmp_path):
    path = tmp_path / "t.fits"
    write_table(good(CATALOGUE), path, schema=CATALOGUE, provenance={})
    with fits.open(path, mode="update") as hdus:
        place = [column.name for column in CATALOGUE].index("obsid") + 1
        hdus[1].header[f"TNULL{place}"] = -1
    assert "obsid: null -1, expected -9999" in validate_file(path)
    write_table(good(CATALOGUE), path, schema=CATALOGUE, provenance={})
    data = bytearray(path.read_bytes())
    data[-2800] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="its checksum does not fit: the file is damaged"):
        validate_file(path)


def test_parquet_of_others_without_our_metadata(tmp_path):
    write_table(good(STARS), tmp_path / "t.parquet", schema=STARS, provenance={})
    table = pq.read_table(tmp_path / "t.parquet")
    for place, field in enumerate(table.schema):
        table = table.set_column(place, field.remove_metadata(), table[field.name])
    pq.write_table(table, tmp_path / "t.parquet")
    problems = validate_file(tmp_path / "t.parquet")
    assert "teff: unit '', expected 'K'" in problems
    assert all(": unit " in problem or ": UCD " in problem for problem in problems)


def test_table_1_with_its_nulls_is_valid(tmp_path):
    table = paper_table(good(CATALOGUE) | {"in_final_catalogue": np.ones(5, bool)})
    assert (table["Teff"] == INT_NULL).any()
    write_table(table, tmp_path / "t.fits", schema=PAPER, provenance={})
    assert validate_file(tmp_path / "t.fits") == []


def test_each_schema_is_told_apart_and_others_are_refused(tmp_path):
    for schema in SCHEMAS.values():
        assert schema_of([column.name for column in schema][1:]) is schema
    (tmp_path / "t.csv").write_text("teff,logg\n1,2\n")
    with pytest.raises(UsageError, match="none of stargap's tables: it has columns 'logg', 'teff'"):
        validate_file(tmp_path / "t.csv")
    with pytest.raises(UsageError, match="does not exist"):
        validate_file(tmp_path / "no.csv")
