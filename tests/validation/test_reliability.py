"""A small part of docs/results/reliability.md: whatever goes wrong is noticed, refused in words, or without effect."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/results")


@pytest.fixture
def survey(finished_run):
    from reliability_runs import Survey, products

    return Survey(finished_run, products(finished_run))


def nothing_lost(tallies, least):
    for one in tallies:
        assert one.lost == [], one.kind
        assert one.tries >= least, one.kind


@pytest.mark.slow
def test_damaged_files_are_read_soundly_or_refused_in_words(tmp_path):
    from reliability_files import FORMATS, damaged_files

    tallies = damaged_files(tmp_path, 12, np.random.default_rng(1))
    assert len(tallies) == len(FORMATS)
    nothing_lost(tallies, 12)


@pytest.mark.slow
def test_odd_names_are_names(tmp_path):
    from reliability_files import odd_names

    nothing_lost(odd_names(tmp_path, 3, np.random.default_rng(1)), 3)


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
