"""Laws of the final cuts: bits and counts agree, errors are judged as METHOD 9 says, unknown removes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.catalogue.cuts import CUT_COLUMNS, CutSettings, final_cuts
from stargap.errors import UsageError
from stargap.flags import NOTES, Clean, FinalCut, Flag
from stargap.pipeline.preset import PAPER_PRESET


def survey(rows, *, seed=3):
    """A clean survey: S/N of 5 to 300, errors that go as a/(S/N) + b with 0.1 dex of scatter."""
    random = np.random.default_rng(seed)
    snr = 10 ** random.uniform(0.7, 2.5, rows)
    table = {"spectrum_id": np.arange(rows), "in_sample": np.ones(rows, bool), "snr_r": snr, "snr_i": 1.5 * snr}
    table |= {name: np.zeros(rows, np.int64) for name in ("clean_flags", "flags", "activity_3sigma")}
    for name, (value, error) in {"rv": (20, 60), "teff": (3500, 500), "logg": (4.9, 0.5), "m_h": (-0.2, 1)}.items():
        table[name] = np.full(rows, float(value))
        table[f"e_{name}"] = error * (1 / snr + 0.01) * 10 ** random.normal(0, 0.1, rows)
    ages = {name: np.full(rows, 5.0) for name in ("age_mean", "age_median", "age_median_msto")}
    return table | ages | {"chi2": np.ones(rows)}


def cut(table, **options):
    result = final_cuts(table, CutSettings(**options))
    return result.columns["cuts"], result.columns["in_final_catalogue"], result


def test_every_bit_has_a_sentence_and_no_column_is_forgotten():
    assert set(CUT_COLUMNS) == set(survey(1))
    assert max(FinalCut) < 1 << 24
    assert FinalCut.describe(0) == ""


def test_each_cut_takes_what_it_should_and_nothing_else():
    table = survey(2000)
    plain, _, _ = cut(table)
    assert np.count_nonzero(plain) <= 2  # 4 x 2000 errors with normal scatter, at 5 robust sigma
    spoilt = {
        FinalCut.NOT_IN_SAMPLE: ("in_sample", False),
        FinalCut.NOT_CLEAN: ("clean_flags", int(Clean.WEAK_BANDS)),
        FinalCut.NO_LABELS: ("m_h", np.nan),
        FinalCut.TOO_HOT: ("teff", 4300.1),
        FinalCut.LOGG_AT_BOUND: ("flags", int(Flag.LOGG_AT_BOUND | Flag.LOW_SN)),
        FinalCut.RV_UNCERTAIN: ("e_rv", 1e4),
        FinalCut.TEFF_UNCERTAIN: ("e_teff", 1e5),
        FinalCut.LOGG_UNCERTAIN: ("e_logg", 1e3),
        FinalCut.M_H_UNCERTAIN: ("e_m_h", np.inf),
        FinalCut.POOR_FIT: ("chi2", 50.1),
        FinalCut.YOUNG: ("age_mean", 0.99),
        FinalCut.AGE_UNKNOWN: ("age_mean", np.nan),
        FinalCut.ERROR_UNKNOWN: ("e_rv", np.nan),
        FinalCut.ACTIVE: ("activity_3sigma", 1),
        FinalCut.UNLIKE_TRAINING: ("flags", int(Flag.UNLIKE_TRAINING)),
        FinalCut.OUTSIDE_TRAINING: ("flags", int(Flag.OUTSIDE_TRAINING)),
        FinalCut.NOT_CONVERGED: ("flags", int(Flag.NOT_CONVERGED | Flag.SPIKES_REMOVED)),
        FinalCut.AT_BOUND: ("flags", int(Flag.M_H_AT_BOUND)),
        FinalCut.NOT_SINGLE: ("flags", int(Flag.DOUBLE_LINED)),
    }
    assert set(spoilt) == set(FinalCut)
    plain_rows = np.flatnonzero(plain == 0)
    for row, (name, value) in zip(plain_rows, spoilt.values(), strict=False):
        table[name][row] = value
    table["age_median"][plain_rows[list(spoilt).index(FinalCut.AGE_UNKNOWN)]] = np.nan
    table["e_m_h"][plain_rows[8]] = 1e4  # an infinite error is null: not to be judged
    flags, final, _ = cut(table)
    for row, bit in zip(plain_rows, spoilt, strict=False):
        assert flags[row] == bit, bit
        assert final[row] == bool(bit & NOTES), bit
    rest = plain_rows[len(spoilt) :]
    assert not flags[rest].any()
    assert final[rest].all()


def test_what_fits_say_of_themselves_removes_nothing_in_the_papers_preset():
    table = survey(400)
    table["flags"][:4] = [Flag.GIANT, Flag.OUTSIDE_TRAINING, Flag.NOT_CONVERGED, Flag.TEFF_AT_BOUND]
    ours, theirs = cut(table)[0], cut(table, **PAPER_PRESET["catalogue"]["cuts"])[0]
    unmodelled = FinalCut.UNLIKE_TRAINING | FinalCut.OUTSIDE_TRAINING | FinalCut.NOT_CONVERGED | FinalCut.AT_BOUND
    assert np.count_nonzero(ours & int(unmodelled)) == 4
    assert not (theirs & int(unmodelled)).any()


def test_limits_themselves_stay():
    table = survey(4)
    table["teff"][:], table["chi2"][:], table["age_mean"][:] = 4300.0, 50.0, 1.0
    assert cut(table)[1].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from(["stargap", "paper"]))
def test_counts_and_bits_agree_whatever_is_null(rows, seed, errors):
    table = survey(rows, seed=seed)
    random = np.random.default_rng(seed)
    for name, values in table.items():
        gone = random.random(rows) < 0.1
        if name == "in_sample":
            values[gone] = False
        elif name in ("clean_flags", "flags"):
            values[gone] = random.integers(0, 2**11, rows)[gone]
        elif values.dtype.kind == "f":
            values[gone] = random.choice([np.nan, -9999, np.inf, 1e9, 0.0], rows)[gone]
    flags, final, result = cut(table, errors=errors)
    np.testing.assert_array_equal(final, flags & ~int(NOTES) == 0)
    left = rows
    for count in result.counts:
        assert count.before == left
        assert count.left == count.before - count.failed
        left = count.left
    assert left == np.count_nonzero(final)
    shuffled = random.permutation(rows)
    again, _, _ = cut({name: values[shuffled] for name, values in table.items()}, errors=errors)
    np.testing.assert_array_equal(again, flags[shuffled])


def test_the_papers_reading_is_a_cut_in_snr_and_ours_is_not():
    table = survey(20_000)
    uncertain = int(FinalCut.RV_UNCERTAIN | FinalCut.TEFF_UNCERTAIN | FinalCut.LOGG_UNCERTAIN | FinalCut.M_H_UNCERTAIN)
    theirs, ours = (cut(table, errors=errors)[0] & uncertain != 0 for errors in ("paper", "stargap"))
    assert theirs.any()
    assert table["snr_r"][theirs].max() < 10
    assert ours.mean() < 1e-3
    bright = np.flatnonzero(table["snr_r"] > 200)[0]
    table["e_teff"][bright] *= 8  # still smaller than those of faint stars
    assert not cut(table, errors="paper")[0][bright] & uncertain
    assert cut(table)[0][bright] & FinalCut.TEFF_UNCERTAIN


def test_errors_at_their_floor_make_no_outliers_of_others():
    table = survey(1000)
    table["e_rv"][:] = 5.0
    table["e_rv"][:10] = 8.0
    table["e_rv"][10] = 50.0
    flags, _, _ = cut(table, snr_bins=1)
    assert np.flatnonzero(flags & FinalCut.RV_UNCERTAIN).tolist() == [10]


def test_small_errors_are_no_outliers():
    table = survey(1000)
    for name in ("e_rv", "e_teff", "e_logg", "e_m_h"):
        table[name][::50] /= 1e6
    table["e_rv"][0] = 0.0
    assert not cut(table)[0][::50].any()


def test_what_other_cuts_drop_does_not_widen_the_population():
    table = survey(1000)
    table["in_sample"][500:] = False
    table["e_rv"][500:] = 1e6
    table["e_rv"][0] *= 100
    for errors in ("paper", "stargap"):
        assert cut(table, errors=errors, error_sigmas=4)[0][0] & FinalCut.RV_UNCERTAIN


def test_a_persons_word_on_a_cluster_is_the_last():
    table = survey(3)
    table["clean_flags"][:] = [Clean.GIANT | Clean.OVERRULED_KEEP, Clean.OVERRULED_REJECT, Clean.BORDERLINE]
    flags, _, _ = cut(table)
    assert (flags & FinalCut.NOT_CLEAN != 0).tolist() == [False, True, False]


def test_the_counts_stand_beside_the_papers():
    from stargap.survey.sample import counts_table

    table = survey(10)
    table["age_median"][:3], table["age_median_msto"][3:7] = 0.5, 0.5
    lines = counts_table(final_cuts(table)).splitlines()
    assert "| cleaning | 10 | 0 | 0 | 10 | 538,107 |" in lines
    assert "| age | 10 | 3 | 0 | 7 | 507,513 |" in lines
    assert any("4 spectra left have a median age below 1 Gyr under the turn-off calibration" in line for line in lines)


def test_tables_that_are_not_a_surveys_are_refused():
    with pytest.raises(UsageError, match="columns missing: 'clean_flags', 'flags'; the cuts need the table"):
        final_cuts({"spectrum_id": [1], "in_sample": [True]})
