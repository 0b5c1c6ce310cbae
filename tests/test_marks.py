"""Marks follow from flags: what spoils a number makes it unusable, and nothing is marked twice."""

import numpy as np
import pytest

from stargap.flags import FLAG_COLUMNS, Flag, worst_first
from stargap.marks import CARE, MARKED, UNUSABLE, usable, with_marks
from stargap.tables.columns import CATALOGUE, INT_NULL, MEASURED, STARS


def marked(*flags, **values):
    rows = {name: np.zeros(len(flags)) for name in MARKED} | {name: np.array(one) for name, one in values.items()}
    return with_marks(rows | {"flags": np.array([int(flag) for flag in flags], dtype=np.int64)})


def test_every_table_of_labels_has_both_marks_of_every_quantity():
    wanted = {f"{mark}_{name}" for mark in ("use", "care") for name in MARKED}
    for schema in (MEASURED, CATALOGUE, STARS):
        assert wanted <= {column.name for column in schema}


def test_without_flags_everything_known_is_usable_without_care():
    table = marked(0, 0, teff=[3500.0, np.nan], activity=[1, INT_NULL])
    assert table["use_rv"].tolist() == table["use_logg"].tolist() == [1, 1]
    assert table["use_teff"].tolist() == table["use_activity"].tolist() == [1, 0]
    assert not any(table[f"care_{name}"].any() for name in MARKED)


@pytest.mark.parametrize(
    "flag",
    [
        Flag.UNLIKE_TRAINING,
        Flag.GIANT,
        Flag.DOUBLE_LINED,
        Flag.EMISSION,
        Flag.FAR_OUTSIDE,
        Flag.NOT_CONVERGED,
        Flag.TEFF_AT_BOUND,
        Flag.LOGG_AT_BOUND,
        Flag.M_H_AT_BOUND,
        Flag.POOR_FIT,
        Flag.RV_WEAK,
        Flag.RV_AMBIGUOUS,
    ],
)
def test_labels_of_what_the_model_does_not_describe_are_not_usable(flag):
    table = marked(flag | Flag.ACTIVE)
    assert [int(table[f"use_{name}"][0]) for name in ("teff", "logg", "m_h")] == [0, 0, 0]
    assert not any(table[f"care_{name}"].any() for name in ("teff", "logg", "m_h"))


@pytest.mark.parametrize("flag", [Flag.OUTSIDE_TRAINING, Flag.ACTIVE, Flag.LOW_SN, Flag.DOMAINS_DISAGREE])
def test_doubts_ask_for_care_alone(flag):
    table = marked(flag)
    assert [int(table[f"use_{name}"][0]) for name in MARKED] == [1] * len(MARKED)
    assert table["care_teff"].tolist() == [1]
    assert table["care_rv"].tolist() == [int(flag == Flag.LOW_SN)]


def test_a_null_mask_and_the_bits_of_users_say_nothing_good_and_nothing_bad():
    assert usable("rv", np.array([INT_NULL, 1 << 24])).tolist() == [False, True]


def test_no_flag_is_both_a_verdict_and_a_doubt_and_verdicts_come_first_where_flags_are_listed():
    order = list(Flag)
    for name in MARKED:
        assert not UNUSABLE[name] & CARE[name]
    worst = max(order.index(flag) for flag in order if UNUSABLE["teff"] & flag)
    assert worst < min(order.index(flag) for flag in (Flag.LOW_SN, Flag.ACTIVE, Flag.SN_FROM_IVAR))
    everything = int(np.bitwise_or.reduce([int(flag) for flag in Flag]))
    assert [1 << bit for bit in worst_first("flags", everything)] == [int(flag) for flag in order]
    assert Flag.describe(everything).split("; ") == [flag.sentence for flag in order]
    assert all(worst_first(column, 0) == [] for column in FLAG_COLUMNS)
