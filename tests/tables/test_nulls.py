"""What is null, what an identifier is, which values can be true: the same for arrays of every kind."""

import numpy as np
import pytest
from astropy import units
from astropy.table import MaskedColumn

from stargap.errors import UsageError
from stargap.tables.columns import CATALOGUE, INT_NULL, Column
from stargap.tables.nulls import (
    NULL_WORDS,
    converted,
    equal_columns,
    is_null_word,
    known_values,
    numbers,
    whole_ids,
    whole_numbers,
)

SCHEMA = {column.name: column for column in CATALOGUE}


@pytest.mark.parametrize("word", sorted(NULL_WORDS))
def test_null_words_are_null_in_any_case_and_with_spaces(word):
    for spelled in (word, word.upper(), word.capitalize(), f"  {word} "):
        assert is_null_word(spelled)
        assert np.isnan(numbers({"x": np.array([spelled, "1.5"], dtype=object)}, "x", 2)).tolist() == [True, False]
        assert whole_ids([spelled, "7"]).tolist() == [INT_NULL, 7]


def test_numbers_are_parsed_and_other_words_are_named():
    given = {"x": np.array(["1", " -2.5 ", b"3e2", None, "inf", "-9999"], dtype=object)}
    np.testing.assert_array_equal(numbers(given, "x", 6), [1, -2.5, 300, np.nan, np.nan, np.nan])
    with pytest.raises(UsageError, match=r"column 'x', row 2: '<3\.1' is not a number"):
        numbers({"x": np.array(["1", "<3.1"])}, "x", 2)


def test_masks_are_nulls_of_every_type():
    mask = [False, True]
    columns = {
        "spectrum_id": np.ma.masked_array([1, 2], mask),
        "teff": MaskedColumn([3000.0, 1e20], mask=mask),
        "activity": np.ma.masked_array([1, 0], mask),
        "in_sample": np.ma.masked_array([True, True], mask),
        "release": np.ma.masked_array(["dr10", "N/A"], mask),
    }
    plain = equal_columns(columns, "spectrum_id")
    assert not any(isinstance(values, np.ma.MaskedArray) for values in plain.values())
    assert plain["spectrum_id"].tolist() == [1, INT_NULL]
    np.testing.assert_array_equal(plain["teff"], [3000, np.nan])
    assert (plain["activity"][1], plain["in_sample"][1], plain["release"][1]) == (INT_NULL, INT_NULL, "")


def test_units_are_converted_or_refused():
    table = {"spectrum_id": [1], "rv": [5000.0] * units.m / units.s, "obsid": [7]}
    assert equal_columns(table, "spectrum_id")["rv"].tolist() == [5.0]
    with pytest.raises(UsageError, match="teff: its unit is km, which cannot be converted to K"):
        equal_columns({"spectrum_id": [1], "teff": [3.0] * units.km}, "spectrum_id")
    values = np.array([3.5])
    assert converted(values, "furlongs of ale", "K", "teff") is values
    with pytest.raises(UsageError, match="cannot be converted"):
        converted(values, "dex(K)", "K", "teff")
    assert converted(np.array([1, INT_NULL]), "h", "s", "t").tolist()[0] == 3600
    assert np.isnan(converted(np.array([1, INT_NULL]), "h", "s", "t")[1])


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(UsageError, match=r"column 'rv' has shape \(2,\)"):
        equal_columns({"spectrum_id": [1], "rv": [1.0, 2.0]}, "spectrum_id")
    with pytest.raises(UsageError, match="no column 'spectrum_id'"):
        equal_columns({"rv": [1.0]}, "spectrum_id")


@pytest.mark.parametrize("value", [-999.0, 999.0, -9999.0, 99.99, -99.99, 9999.99, 1e30, 7001.0, 1999.0])
def test_what_cannot_be_a_temperature_is_unknown_and_counted(value):
    kept, sentence = known_values(np.array([3400.0, value, np.nan, value]), SCHEMA["teff"])
    np.testing.assert_array_equal(kept, [3400, np.nan, np.nan, np.nan])
    assert sentence.startswith("teff: 2 of 4 values are outside 2000 to 7000 or stand for null, such as")


def test_sentinels_inside_the_range_are_unknown_too_but_not_as_angles():
    for name in ("rv", "parallax", "pmra"):
        kept, sentence = known_values(np.array([12.5, -999.0, np.float32(99.99)]), SCHEMA[name])
        assert np.isnan(kept).tolist() == [False, True, True]
        assert sentence.startswith(f"{name}: 2 of 3 values")
    kept, _ = known_values(np.array([99.99, 12.0]), Column("ra", "float64", "deg", valid_range=(0, 360)))
    assert kept.tolist() == [99.99, 12.0]
    assert known_values(np.array([5.0, np.nan]), SCHEMA["rv"])[1] == ""


def test_identifiers_are_exact_or_refused():
    big = 6917528997577384321
    assert whole_ids([str(big), "None"]).tolist() == [big, INT_NULL]
    assert whole_numbers([1.0, np.nan, 2.0**53], "n").tolist() == [1, INT_NULL, 2**53]
    assert whole_numbers(np.ma.masked_array([5.0, 6.0], [True, False]), "n").tolist() == [INT_NULL, 6]
    assert whole_numbers(["5", ""], "n").tolist() == [5, INT_NULL]
    for wrong in ([1.5], [2.0**53 + 2]):
        with pytest.raises(UsageError, match=r"n: .* in row 1 is not a whole number"):
            whole_numbers(wrong, "n")
    with pytest.raises(UsageError, match="n: holds text that is no identifier, such as 'Gaia DR3 5' in row 2"):
        whole_ids(["5", "Gaia DR3 5"], "n")
