"""Two runs on one folder: together with the same settings, never with others, and never stopped by a dead one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stargap.errors import UsageError
from stargap.pipeline.engine import run_survey
from stargap.pipeline.owner import owned
from stargap.pipeline.perform import Job, perform
from stargap.settings import example_toml


def pretend(folder, **about):
    """Let another process have written its name into the folder."""
    (folder / "owners").mkdir(parents=True, exist_ok=True)
    with owned(folder, "other"):
        (path,) = (folder / "owners").glob("*.json")
        told = json.loads(path.read_text()) | about
    (folder / "owners/other.json").write_text(json.dumps(told))


def test_other_settings_are_refused_while_somebody_works(tmp_path):
    with owned(tmp_path, "one"):
        with owned(tmp_path, "one"):
            assert len(list((tmp_path / "owners").glob("*.json"))) == 2
        with pytest.raises(UsageError, match=r"process \d+ on .*, started 2.*, works on this run with other"):
            owned(tmp_path, "two").__enter__()
    assert list((tmp_path / "owners").iterdir()) == []


def test_a_process_that_was_killed_stops_nobody_and_is_told_of(tmp_path, caplog):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    pretend(tmp_path, pid=ended.pid)
    with owned(tmp_path, "one"):
        assert len(list((tmp_path / "owners").glob("*.json"))) == 1
    assert "was killed; this run resumes its work" in caplog.text


def test_a_process_of_the_same_number_that_started_later_is_another(tmp_path):
    pretend(tmp_path, process_start="1")
    with owned(tmp_path, "one"):
        pass


def test_another_host_cannot_be_asked_so_it_is_named_with_its_file(tmp_path):
    pretend(tmp_path, host="node17")
    with pytest.raises(UsageError, match=r"on node17, .*if it has ended, delete .*owners/other.json"):
        owned(tmp_path, "one").__enter__()
    with owned(tmp_path, "other"):
        pass
    (tmp_path / "owners/other.json").write_text("{")
    with pytest.raises(UsageError, match=r"other.json: cannot be read .* delete it"):
        owned(tmp_path, "one").__enter__()


def test_a_second_run_with_other_settings_is_refused_and_the_first_goes_on(asked, tmp_path):
    folder = tmp_path / "run"
    refused = []

    def interfere(stage, done, total):
        if stage == "ingest" and not refused:
            with pytest.raises(UsageError, match="works on this run with other settings") as caught:
                run_survey(asked(folder, measure={"max_iterations": 2}), until="ingest")
            refused.append(caught)

    states = run_survey(asked(folder), until="sample", progress=interfere)
    assert refused
    assert [state.state for state in states[:2]] == ["done", "done"]


def test_a_job_is_not_done_with_other_settings(asked, tmp_path):
    folder = tmp_path / "run"
    run_survey(asked(folder), until="ingest")
    (folder / "survey.toml").write_text(example_toml(asked(folder, measure={"max_iterations": 2}).absolute()))
    with pytest.raises(UsageError, match=r"survey.toml: was changed while the run went on"):
        perform(Job(folder, "sample", 0, 60.0, "0" * 64))


def test_a_folder_of_somebody_else_is_left_alone(asked, tmp_path):
    (tmp_path / "survey.toml").write_text("mine")
    (tmp_path / "catalogue").mkdir()
    with pytest.raises(UsageError, match=r"holds files that are not stargap's, such as 'catalogue'"):
        run_survey(asked(tmp_path), until="ingest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "survey.toml"]
    assert (tmp_path / "survey.toml").read_text() == "mine"
