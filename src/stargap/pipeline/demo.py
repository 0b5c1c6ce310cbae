"""The demonstration: a simulated survey in LAMOST's own files, through every stage, beside the paper and the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stargap.files import replacing
from stargap.mock.tables import companion_tables, compared_tables, reported_tables
from stargap.mock.write import write_survey
from stargap.pipeline.engine import StageState, run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.settings import example_toml
from stargap.validation.binaries import BinarySettings
from stargap.validation.report.data import read_run
from stargap.validation.report.headlines import headline_sheet
from stargap.validation.report.truth import truth_sheets
from stargap.validation.sheets import Sheet

__all__ = ["Demo", "headlines", "run_demo"]

EXPLORED = 500
"""Spectra in the report's explorer."""


@dataclass(frozen=True)
class Demo:
    """What `run_demo` made.

    ``folder``, ``settings`` and ``states`` of the run; ``headlines``, the paper's numbers beside the run's, and the
    measured values minus the truth by S/N; ``report``, its page.
    """

    folder: Path
    settings: SurveySettings
    states: list[StageState]
    headlines: tuple[Sheet, ...]
    report: Path


def run_demo(
    folder: str | Path,
    *,
    stars: int = 2000,
    seed: int = 1,
    ages: bool = False,
    workers: int = 1,
    progress: Callable[[str, int, int], Any] | None = None,
) -> Demo:
    """Simulate a survey as LAMOST files and run every stage on it, with the transfer for simulated stars.

    Nature is not the model here: the stars are of other physics than the synthetic spectra, and the transfer inside the
    package was trained on such stars, not on these. What comes out says how the machinery does, and nothing of accuracy
    on real stars. The survey's tables of others give the run its marks of variables and binaries, and the report its
    comparisons and wide binaries.

    Args:
        folder: where the survey and the run (``run/``) go; a demo that was stopped goes on there.
        stars: targets of the survey.
        seed: of everything random.
        ages: add kinematic ages, which need galpy.
        workers: processes.
        progress: called as ``progress(what, done, total)``.
    """
    folder = Path(folder)
    write_survey(
        folder,
        stars,
        seed=seed,
        mix="matched",
        progress=None if progress is None else lambda done, total: progress("simulating", done, total),
    )
    settings = SurveySettings.model_validate(
        {
            "output": folder / "run",
            "input": {
                "spectra": [str(folder / "spectra")],
                "catalogue": folder / "lamost.csv",
                "gaia": folder / "gaia.parquet",
                "simulated": True,
            },
            "transfer": {"use": "simulated", "prior": {"alpha": 0.0}},
            "catalogue": {"companions": companion_tables(folder), "position_epoch": 2016.0},
            "publish": {"ages": ages, "formats": ["fits"]},
            "report": reported_tables(folder, spectra=EXPLORED),
        }
    )
    with replacing(folder / "survey.toml") as file:
        file.write(example_toml(settings).encode())
    states = run_survey(settings, workers=workers, progress=progress)
    return Demo(folder, settings, states, headlines(folder), folder / "run/report/index.html")


def headlines(folder: str | Path) -> tuple[Sheet, ...]:
    """Return the paper's numbers beside those of a demo, and what it measured minus the truth by S/N.

    Args:
        folder: that of a finished demo.
    """
    folder = Path(folder)
    data = read_run(
        folder / "run",
        truth=folder / "truth.parquet",
        comparisons=compared_tables(folder),
        binaries=(folder / "wide_binaries.csv", folder / "fgk_primaries.csv", BinarySettings()),
    )
    return headline_sheet(data), truth_sheets(data)[0]
