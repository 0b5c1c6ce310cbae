"""The time limit of a piece holds however the work is spread."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest

from stargap.pipeline import stages
from stargap.pipeline.engine import run_survey
from stargap.pipeline.perform import Job, _time_limit, _TimeIsUp, perform


def test_work_is_interrupted_whatever_it_catches():
    with pytest.raises(_TimeIsUp), _time_limit(0.05):
        _sleeps_although_interrupted()
    with _time_limit(0.05):
        pass
    time.sleep(0.1)  # nothing comes later


def _sleeps_although_interrupted():
    with contextlib.suppress(Exception):  # as a reader of files would
        time.sleep(5)
    time.sleep(5)


@pytest.mark.parametrize("name", ["sample", "emulator"])
def test_a_piece_that_hangs_fails_in_this_process_too(asked, tmp_path, monkeypatch, name):
    place = [stage.name for stage in stages.STAGES].index(name)
    hanging = replace(stages.STAGES[place], make=lambda run, unit: time.sleep(30))
    states = run_survey(asked(tmp_path / "run"), until="gaia")
    assert [state.state for state in states[:2]] == ["done", "done"]
    from stargap.pipeline.folder import Run

    run = Run(tmp_path / "run", asked(tmp_path / "run").absolute())
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES[:place], hanging, *stages.STAGES[place + 1 :]))
    unit = 0 if hanging.sharded else None
    outcome = perform(Job(run.folder, name, unit, 0.2, run.digest))
    assert outcome.failure == "it took longer than 0.2 s (--timeout)"
    assert not run.receipt(name, unit).exists()


def test_one_worker_keeps_the_limit(asked, tmp_path):
    states = run_survey(asked(tmp_path / "run"), until="ingest", workers=1, timeout=1e-4)
    assert states[0].state == "failed"
    assert set(states[0].failures.values()) == {"it took longer than 0.0001 s (--timeout), twice"}
