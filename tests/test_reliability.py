"""A small part of docs/results/reliability.md: whatever goes wrong is noticed, refused in words, or without effect."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/results")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs/results")
        from reliability_runs import Survey

        return Survey.make(tmp_path_factory.mktemp("reliability"), stars=12)


def nothing_lost(tallies, least):
    for one in tallies:
        assert one.lost == [], one.kind
        assert one.tries >= least, one.kind


@pytest.mark.slow
def test_damaged_files_are_read_soundly_or_refused_in_words(tmp_path):
    from reliability_files import FORMATS, damaged_files

    tallies = damaged_files(tmp_path, 25, np.random.default_rng(1))
    assert len(tallies) == len(FORMATS)
    nothing_lost(tallies, 25)


@pytest.mark.slow
def test_odd_names_are_names(tmp_path):
    from reliability_files import odd_names

    nothing_lost(odd_names(tmp_path, 4, np.random.default_rng(1)), 4)


def test_trials_notice_what_is_lost(tmp_path):
    """A harness that never counts a loss would prove nothing."""
    import os
    import time

    from reliability_trials import HELD, Tally, run_trials

    from stargap.errors import UsageError

    def trial(case):
        if case == "dies":
            os._exit(3)
        if case == "sleeps":
            time.sleep(5)
        if case == "raises":
            raise KeyError(case)
        if case == "refuses":
            raise UsageError(case)
        return HELD if case == "fine" else f"{case} says so"

    cases = ["fine", "dies", "refuses", "raises", "sleeps", "told", "fine"]
    tally = run_trials(Tally("any", ""), trial, cases, seconds=0.5)
    assert (tally.tries, tally.held) == (7, 3)
    for why, word in zip(tally.lost, ("exit code 3", "KeyError", "more than 0.5 s", "told says so"), strict=True):
        assert word in why


@pytest.mark.slow
def test_hostile_texts_stay_texts(survey, tmp_path):
    from reliability_pages import PLACES, hostile_pages

    nothing_lost(hostile_pages(survey, tmp_path, 100, np.random.default_rng(1)), 20 * len(PLACES))


@pytest.mark.slow
def test_flipped_bits_are_noticed_or_without_effect(survey, tmp_path):
    from reliability_runs import flipped_bits

    nothing_lost(flipped_bits(survey, tmp_path, 6, np.random.default_rng(2)), 6)


@pytest.mark.slow
def test_a_run_on_a_disk_that_is_too_small_ends_in_words_and_then_the_same(survey, tmp_path):
    from reliability_runs import full_disks

    nothing_lost(full_disks(survey, tmp_path, 1, np.random.default_rng(3)), 1)
