"""A small simulated survey in LAMOST's files, and how a run of it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from stargap.mock.write import write_survey
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings

STARS, SHARD_ROWS = 40, 16


@pytest.fixture(scope="session")
def survey(tmp_path_factory):
    return write_survey(tmp_path_factory.mktemp("survey"), STARS, seed=3, repeats=0.2, junk=0.1)


@pytest.fixture(scope="session")
def asked(survey):
    """Return settings of a run of the survey into a folder."""

    def settings(output: Path, **changes) -> SurveySettings:
        given = {
            "input": {
                "spectra": [str(survey / "spectra")],
                "catalogue": survey / "lamost.csv",
                "gaia": survey / "gaia.parquet",
            },
            "ingest": {"shard_rows": SHARD_ROWS},
            "transfer": {"use": "none", "prior": {"draws": 1000, "alpha": 0.0}},
            "measure": {"fixed": {"a_m": 0.0}, "starts": 1},
            "report": {"skip": True},
        }
        return SurveySettings(output=output, **{**given, **changes})

    return settings


@pytest.fixture(scope="session")
def whole(asked, tmp_path_factory):
    """A run in one process, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    states = run_survey(asked(folder))
    assert [state.state for state in states] == ["done"] * len(states)
    return folder
