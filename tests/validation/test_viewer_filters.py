"""Filters of the viewer: what they keep, and what they refuse; its bins against numpy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.flags import Clean, Flag
from stargap.tables.columns import CATALOGUE
from stargap.validation.viewer.bins import View, binned, nearest
from stargap.validation.viewer.filters import SYNTAX, matching, read_filter

SCHEMA = {column.name: column for column in CATALOGUE}
TABLE = {
    "teff": np.array([3000.0, 3200.0, np.nan, 3600.0], dtype=np.float32),
    "obsid": np.array([2**60 + 1, -9999, 2**60 + 3, 5]),
    "subclass": np.array(["dM2", "", "dM3 <b>", "dM2"], dtype=object),
    "in_final_catalogue": np.array([True, False, True, True]),
    "flags": np.array([0, Flag.ACTIVE, Flag.ACTIVE | Flag.LOW_SN, Flag.NOT_CONVERGED]),
    "clean_flags": np.array([0, Clean.ROUGH, -9999, 0]),
}


def kept(text):
    return np.flatnonzero(matching(read_filter(text, SCHEMA), TABLE.__getitem__, 4)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", [0, 1, 2, 3]),
        (" ; \n ;", [0, 1, 2, 3]),
        ("teff 3000..3200", [0, 1]),
        ("teff = 3000 .. 3200", [0, 1]),
        ("teff -1e9..3100.5", [0]),
        ("teff>3000", [1, 3]),
        ("teff >= 3000; teff != 3600", [0, 1]),
        ("teff is null", [2]),
        ("teff is known;in_final_catalogue=true", [0, 3]),
        ("in_final_catalogue != TRUE", [1]),
        (f"obsid = {2**60 + 1}", [0]),
        (f"obsid {2**60 + 2}..{2**60 + 4}", [2]),
        ("obsid < 1000", [3]),
        ("obsid is known", [0, 2, 3]),
        ("subclass = dM2", [0, 3]),
        ('subclass = "dM2"', [0, 3]),
        ("subclass != dM2", [2]),
        ("subclass contains <B>", [2]),
        ('subclass contains ""', [0, 2, 3]),
        ("subclass is null", [1]),
        ("flags has active", [1, 2]),
        ("flags lacks active, not_converged", [0]),
        ("flags has LOW_SN not_converged", [2, 3]),
        ("clean_flags lacks rough", [0, 3]),
    ],
)
def test_conditions_keep(text, rows):
    assert kept(text) == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tef > 3000", "no column 'tef'; did you mean 'teff'?"),
        ("__class__ = 1", "no column '__class__'"),
        ("teff", "is no condition"),
        ("teff > 3000 and snr_r > 20", "'3000 and snr_r > 20' is no number"),
        ("teff > __import__('os')", "is no number"),
        ("teff > nan", "'nan' is no number"),
        ("teff 3200..3000", "the first number is the higher one"),
        ("teff contains 3", "teff is no text"),
        ("subclass > 3", "subclass is text"),
        ("subclass 1..2", "subclass is text"),
        ("in_final_catalogue = 1", "write in_final_catalogue = true"),
        ("in_final_catalogue > true", "write in_final_catalogue = true"),
        ("teff has active", "teff has no marks; columns with marks are flags"),
        ("flags has actve", "flags has no mark 'actve'; did you mean 'active'?"),
        ("flags lacks ,", "flags lacks: name a mark, such as unreadable"),
        ("teff is hot", "only 'is known' and 'is null'"),
        ("teff > 1;" * 60, "may have 50 conditions"),
        ("x" * 3000, "may have 2000 characters"),
    ],
)
def test_what_cannot_be_read_is_refused(text, reason):
    with pytest.raises(UsageError) as told:
        read_filter(text, SCHEMA)
    assert reason in str(told.value)


def test_examples_are_conditions():
    assert len(read_filter(SYNTAX, SCHEMA)) == len(SYNTAX.split(";"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"(teff|flags|subclass)\s*(<|=|has|is|contains)?.{0,12}", fullmatch=True))
def test_any_text_is_read_or_refused(text):
    try:
        conditions = read_filter(text, SCHEMA)
    except UsageError:
        return
    for one in conditions:
        values = TABLE.get(one.column.name)
        if values is not None:
            assert one.meets(values).shape == (4,)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_bins_are_those_of_numpy(seed, x_down):
    rng = np.random.default_rng(seed)
    x, y, values = rng.uniform(-0.2, 1.2, (3, 400))
    values[rng.random(400) < 0.3] = np.nan
    view = View((0.0, 1.0), (0.0, 1.0), 40, 60, x_down)
    counts, means = binned(x, y, values, view, 4)
    assert counts.shape == means.shape == (15, 10)
    edges = np.linspace(0, 1, 16), np.linspace(0, 1, 11)
    across = 1 - x if x_down else x
    expected = np.histogram2d(y, across, bins=edges)[0]
    known = np.isfinite(values)
    total = np.histogram2d(y[known], across[known], bins=edges, weights=values[known])[0]
    number = np.histogram2d(y[known], across[known], bins=edges)[0]
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(np.isnan(means), number == 0)
    np.testing.assert_allclose(means[number > 0], (total[number > 0] / number[number > 0]), rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_nearest_point_is_nearest_on_the_screen(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(3000, 4000, 50), rng.uniform(4.5, 5.2, 50)
    view, at = View((3000.0, 4000.0), (4.5, 5.2), 500, 300, True), (rng.uniform(3000, 4000), rng.uniform(4.5, 5.2))
    far = np.hypot((x - at[0]) / 1000 * 500, (y - at[1]) / 0.7 * 300)
    assert nearest(x, y, view, at) == far.argmin()
    right = nearest(x, y, view, at, "right")
    if right is not None:
        assert x[right] < at[0]
        assert abs(y[right] - at[1]) / 0.7 * 300 <= abs(x[right] - at[0]) / 1000 * 500 * (1 + 1e-9)
    assert nearest(np.array([np.nan]), np.array([1.0]), view, at) is None
    assert nearest(x[:1], y[:1], view, at, without=0) is None
