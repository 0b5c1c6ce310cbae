"""Laws of the schema: names, units and UCDs that every reader knows, and no value changed without a word."""

import re
import warnings

import numpy as np
import pytest
from astropy import units
from astropy.io.votable.ucd import check_ucd, parse_ucd

from stargap.errors import UsageError
from stargap.tables.columns import CATALOGUE, INT_NULL, MEASURED, PAPER, STARS, SURVEY, Column, columns_table
from stargap.tables.conform import conform, validate

GAIA = 6917528997577384321
NAMES = [column.name for column in MEASURED]


def filled(rows):
    """A table that obeys the schema."""
    table = {}
    for column in MEASURED:
        if column.dtype == "str":
            table[column.name] = np.full(rows, "M2", dtype=object)
        else:
            low = column.valid_range[0] if column.valid_range else 0
            table[column.name] = np.full(rows, low, dtype=column.dtype)
    return table | {"spectrum_id": np.arange(rows)}


def test_names_are_unique_and_plain():
    assert len(set(NAMES)) == len(NAMES)
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) for name in NAMES)
    assert NAMES[:4] == ["spectrum_id", "path", "obsid", "designation"]
    assert NAMES[-3:] == ["flags", "flag_text", "failure"]


def test_every_error_follows_its_value_in_the_same_unit():
    errors = [name for name in NAMES if name.startswith("e_")]
    assert {"e_rv", "e_teff", "e_teff_sys"} < set(errors)
    for name in errors:
        place = NAMES.index(name)
        assert NAMES[place - 1] == (name.removesuffix("_sys") if name.endswith("_sys") else name[2:])
        assert MEASURED[place].unit == MEASURED[place - 1].unit


SCHEMAS = {"survey": SURVEY, "catalogue": CATALOGUE, "stars": STARS, "paper": PAPER}
EVERY = {f"{name}-{column.name}": column for name, schema in SCHEMAS.items() for column in schema}


@pytest.mark.parametrize("column", EVERY.values(), ids=EVERY)
def test_every_column_is_described_in_known_words(column):
    assert check_ucd(column.ucd, check_controlled_vocabulary=True)
    assert parse_ucd(column.ucd, check_controlled_vocabulary=True)
    assert column.description.isascii()
    assert 8 < len(column.description) <= 65  # VOTable files of astropy break longer ones
    for standard in ("fits", "vounit"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Angstrom.*deprecated in the VOUnit", units.UnitsWarning)
            assert str(units.Unit(column.unit, format=standard)) == str(units.Unit(column.unit))


def test_nulls_lie_outside_every_range():
    for column in (*SURVEY, *CATALOGUE, *STARS):
        if column.dtype != "bool":
            null = np.array([column.null], dtype=object if column.dtype == "str" else column.dtype)
            assert column.is_null(null).all()
        if column.dtype.startswith("int") and column.valid_range:
            assert not column.valid_range[0] <= INT_NULL <= column.valid_range[1]


@pytest.mark.parametrize("name", ["", "m/h", "[M/H]", "e rv", "1st", "é", "_x"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        Column(name, "int32")


def test_tables_share_what_they_share():
    """A column of the same name is the same quantity everywhere: dtype, unit and UCD."""
    seen = {}
    for name, column in EVERY.items():
        if not name.startswith("paper-"):
            kind = seen.setdefault(column.name, (column.dtype, column.unit, column.ucd))
            assert kind == (column.dtype, column.unit, column.ucd), name
    for schema in SCHEMAS.values():
        assert len({column.name for column in schema}) == len(schema)


def test_the_papers_table_has_its_24_names_in_order():
    names = "ID obsid RA Dec SNRr SNRi Subclass SpT Gmag BPmag RPmag Plx e_Plx RUWE RV e_RV Teff e_Teff Logg e_Logg"
    assert [column.name for column in PAPER] == [*names.split(), "[M/H]", "e_[M/H]", "Activity", "VBFlag"]
    units_there = {column.name: column.unit for column in PAPER if column.unit}
    assert units_there == {
        **dict.fromkeys(("RA", "Dec"), "deg"),
        **dict.fromkeys(("Gmag", "BPmag", "RPmag"), "mag"),
        **dict.fromkeys(("Plx", "e_Plx"), "mas"),
        **dict.fromkeys(("RV", "e_RV"), "km/s"),
        **dict.fromkeys(("Teff", "e_Teff"), "K"),
    }


def test_only_the_papers_name_may_hold_other_characters():
    assert Column("[M/H]", "float32", paper_name="[M/H]").name == "[M/H]"
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        Column("[M/H]", "float32", paper_name="[Fe/H]")


def test_bad_dtypes_are_refused():
    with pytest.raises(ValueError, match="unknown dtype 'int16'"):
        Column("x", "int16")


def test_table_of_the_schema_has_a_line_a_column():
    lines = columns_table().splitlines()
    assert len(lines) == len(MEASURED) + 2
    assert {line.count(" | ") for line in lines if not line.startswith("|---")} == {7}
    teff = lines[NAMES.index("teff") + 2]
    assert "| `teff` | float32 | K | `phys.temperature.effective` | Effective temperature | NaN |" in teff


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_good_table_is_valid_and_unchanged(rows):
    table = filled(rows)
    assert validate(table) == []
    result = conform(table)
    assert list(result) == NAMES
    for name, values in table.items():
        assert result[name].dtype == values.dtype
        np.testing.assert_array_equal(result[name], values)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_nulls_everywhere(rows):
    result = conform({name: [None] * rows for name in NAMES})
    for column in MEASURED:
        assert len(result[column.name]) == rows
        assert column.is_null(result[column.name]).all()
    problems = validate(result)
    assert problems == ([f"spectrum_id: {rows} of {rows} values are null"] if rows else [])


def test_validate_lists_every_violation():
    table = filled(4)
    table["spectrum_id"] = np.array([1, 1, 1, 2])
    table["teff"] = np.array([3000, 1, 8000, np.nan], dtype=np.float32)
    table["e_rv"] = np.array([np.inf, 1, 1, 1], dtype=np.float32)
    table["obsid"] = np.arange(4.0)
    table["activity"] = np.array([0, 1, 2, INT_NULL], dtype=np.int32)
    table["extra"] = table["layout"]
    table["release"] = np.array([b"a", None, "b", 1], dtype=object)
    del table["layout"]
    table["ra"] = table["ra"][:2]
    assert validate(table) == [
        "columns missing: 'layout'",
        "columns unknown: 'extra'",
        "columns differ in length: spectrum_id has 4 rows, ra has 2 rows",
        "spectrum_id: 2 of 4 values repeat, such as 1",
        "obsid: dtype float64, expected int64",
        "e_rv: 1 of 4 values are infinite, first in row 0: inf",
        "teff: 2 of 4 values outside 2000 to 7000, first in row 1: 1.0",
        "activity: 1 of 4 values outside 0 to 1, first in row 2: 2",
        "release: dtype object, expected str",
    ]


def test_validate_reads_big_endian_and_masked_columns():
    schema = (Column("spectrum_id", "int64"), Column("fiber", "int32", valid_range=(1, 250)))
    fiber = np.ma.masked_equal(np.array([7, -1], dtype=">i4"), -1)
    assert validate({"spectrum_id": np.array([GAIA, GAIA + 1], dtype=">i8"), "fiber": fiber}, schema=schema) == []


@pytest.mark.parametrize(
    "values",
    [
        [GAIA, None],
        np.array([GAIA, INT_NULL]),
        np.array([GAIA, INT_NULL], dtype=">i8"),
        np.ma.masked_array([GAIA, 0], [False, True]),
        np.array([GAIA, None], dtype=object),
        [np.int64(GAIA), None],
    ],
)
def test_integers_are_exact(values):
    result = conform({"obsid": values}, schema=(Column("obsid", "int64"),))["obsid"]
    assert result.dtype == np.int64
    assert result.tolist() == [GAIA, INT_NULL]


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("int64", [1.0, 2.0], "float 1.0; give int64, with -9999 or None"),
        ("int64", [GAIA, float("nan")], "float"),
        ("int64", np.array([1, 2.5], dtype=object), "float 2.5"),
        ("int64", ["1"], "str '1'"),
        ("int64", np.array([2**63], dtype=np.uint64), "9223372036854775808 does not fit"),
        ("int32", [1, -(2**31) - 1], "-2147483649 does not fit"),
        ("int32", [[1, 2]], r"array of shape \(1, 2\)"),
        ("int32", 3, r"array of shape \(\)"),
        ("float32", ["a"], "holds <U1"),
        ("float64", [1.0, None, "x"], "could not convert"),
        ("bool", [True, None], "no null; make it int32"),
        ("bool", [1], "int 1"),
        ("str", ["a", 1.5], "float"),
        ("str", np.array([1, 2]), "holds int64"),
    ],
)
def test_values_that_do_not_fit_are_refused(dtype, values, words):
    with pytest.raises(UsageError, match=f"^column 'x': .*{words}"):
        conform({"x": values}, schema=(Column("x", dtype),))


def test_columns_that_do_not_match_are_refused():
    schema = (Column("a", "int32"), Column("b", "int32"))
    with pytest.raises(UsageError, match="columns missing: 'b'; columns unknown: 'c', 'd'"):
        conform({"a": [1], "c": [1], "d": [2]}, schema=schema)
    with pytest.raises(UsageError, match="differ in length: a has 1 rows, b has 2 rows"):
        conform({"a": [1], "b": [1, 2]}, schema=schema)


def test_floats_and_booleans():
    schema = (Column("x", "float32"), Column("active", "int32"), Column("good", "bool"))
    masked = np.ma.masked_array([1.5, 2.5, 1e300], [False, True, False])
    active, good = np.array([True, False, True]), [False, True, True]
    result = conform({"x": masked, "active": active, "good": good}, schema=schema)
    np.testing.assert_array_equal(result["x"], np.array([1.5, np.nan, np.inf], dtype=np.float32))
    assert result["active"].tolist() == [1, 0, 1]
    assert result["good"].dtype == bool
    assert masked.data[1] == 2.5


def test_text_that_no_format_carries_is_escaped():
    schema = (Column("path", "str"),)
    odd = ["a\nb", "\x00", "bad-\udce9.fits", "é\\n", "名前 ", None]
    expected = [r"a\nb", r"\x00", r"bad-\udce9.fits", "é\\n", "名前 ", ""]
    assert conform({"path": odd}, schema=schema)["path"].tolist() == expected
    assert conform({"path": np.array([b"a", "é".encode(), b"\xe9"])}, schema=schema)["path"].tolist() == [
        "a",
        "é",
        r"\xe9",
    ]
