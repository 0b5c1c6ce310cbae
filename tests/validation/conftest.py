"""The small simulated survey, run to its catalogue, for tests of what is made of it."""

import pytest

from stargap.mock.write import write_survey
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.validation.report.page import write_report

TITLE = 'M dwarfs <b>& "others"</b>'


@pytest.fixture(scope="session")
def simulated_survey(tmp_path_factory):
    return write_survey(tmp_path_factory.mktemp("simulated"), 40, seed=3, repeats=0.2, junk=0.1)


@pytest.fixture(scope="session")
def finished_run(simulated_survey, made_once):
    settings = {
        "input": {
            "spectra": [str(simulated_survey / "spectra")],
            "catalogue": simulated_survey / "lamost.csv",
            "gaia": simulated_survey / "gaia.parquet",
        },
        "ingest": {"shard_rows": 16},
        "transfer": {"use": "simulated", "prior": {"draws": 1000, "alpha": 0.0}},
        "measure": {"starts": 1},
        "catalogue": {"title": TITLE},
        "publish": {"formats": []},
        "report": {"skip": True},
    }

    def run(folder):
        assert {state.state for state in run_survey(SurveySettings(output=folder, **settings))} == {"done"}

    return made_once("finished", run)


@pytest.fixture(scope="session")
def written_report(simulated_survey, finished_run, made_once):
    """The folder of a report of the run, which tests only read; its name needs quoting in an address."""
    truth = simulated_survey / "truth.parquet"
    return made_once("a report", lambda folder: write_report(finished_run, output=folder, truth=truth))
