"""How a run of the simulated survey is asked for, and one that is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings

SHARD_ROWS = 16


@pytest.fixture(scope="session")
def survey(simulated_survey):
    return simulated_survey


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
def whole(asked, made_once):
    """A run in one process, never stopped, which tests only read or copy."""

    def run(folder: Path):
        assert {state.state for state in run_survey(asked(folder))} == {"done"}

    return made_once("whole", run)
