"""A survey run as one call: `stargap.run`."""

from __future__ import annotations

from pathlib import Path

from stargap.console import bars
from stargap.errors import UsageError
from stargap.pipeline.engine import default_workers, run_survey
from stargap.pipeline.freshness import StageState
from stargap.pipeline.settings import SurveySettings
from stargap.settings import read_settings_as

__all__ = ["run"]


def run(
    survey: str | Path | SurveySettings,
    *,
    until: str | None = None,
    since: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[StageState]:
    """Do every stage of a survey run that is not done, from spectra on disk to a catalogue and its report.

    What ``stargap run`` does: a run that was stopped resumes when it is called again, with the same products. For parts
    of a run on several machines see `stargap.pipeline.engine.run_survey`.

    Args:
        survey: TOML file with the settings (``stargap settings --write`` makes one), or the settings themselves.
        until: name of the last stage to do.
        since: name of the first stage to do: it and those after it are made again.
        workers: processes; by default as many as there are cores and memory for.
        progress: show progress bars on a terminal or in a notebook.

    Returns:
        how far each stage is, in their order: ``stage``, ``state`` ("done" or not), ``rows``, ``failures``. Tables are
        in the folder that the settings name ``output``.

    Raises:
        UsageError: settings that cannot be read, unknown stages, or a folder of another run.

    Example:
        >>> import stargap
        >>> stargap.run("nowhere.toml")
        Traceback (most recent call last):
        stargap.errors.UsageError: nowhere.toml: cannot be read (No such file or directory)
    """
    settings = survey if isinstance(survey, SurveySettings) else read_settings_as(SurveySettings, survey)
    if workers is not None and workers < 1:
        message = f"workers is {workers}; it must be 1 or more"
        raise UsageError(message)
    with bars(progress) as report:
        return run_survey(
            settings,
            until=until,
            since=since,
            workers=default_workers(settings.measure.device) if workers is None else workers,
            progress=report,
        )
