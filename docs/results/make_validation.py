"""Make docs/results/validation.md: every headline number of the paper beside those of a simulated survey.

The survey is simulated and run through every stage in a work folder; what is there is not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stargap.mock.survey_store import write_survey_store
from stargap.mock.tables import companion_tables
from stargap.run.engine import run_survey
from stargap.run.settings import SurveySettings

SEED = 2024
HERE = Path(__file__).parent


def settings_of(work: Path) -> SurveySettings:
    """Return how the survey is run: the models inside the package, [a/M] = 0 as nature has it, ages."""
    return SurveySettings.model_validate(
        {
            "output": work / "run",
            "input": {"gaia": work / "gaia.parquet", "simulated": True},
            "transfer": {"use": "simulated", "prior": {"alpha": 0.0}},
            "measure": {"fixed": {"a_m": 0.0}},
            "catalogue": {"companions": companion_tables(work), "position_epoch": 2016.0},
            "publish": {"ages": True, "formats": []},
        }
    )


def finished(work: Path, stars: int, workers: int) -> None:
    """Simulate and run what is not there yet."""
    if not (work / "run/store/manifest.json").exists():
        write_survey_store(work, stars, seed=SEED, store=work / "run/store")
    for state in run_survey(settings_of(work).absolute(), workers=workers):
        if state.state != "done":
            message = f"{state.stage}: {state.state}; {state.failures}"
            raise RuntimeError(message)


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/validation"))
    parser.add_argument("--stars", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    finished(given.work, given.stars, given.workers)


if __name__ == "__main__":
    main()
