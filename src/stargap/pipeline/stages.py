"""The stages of a survey run: what each follows from, and what makes a piece of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from stargap.pipeline.folder import Made, Run
from stargap.pipeline.inputs import file_states, gaia_digest
from stargap.pipeline.model_choice import after_transfer, emulator_settings, prior_settings, transfer_settings
from stargap.pipeline.photometry import make_joint, make_photometry
from stargap.pipeline.report import make_report, report_digests
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.tables import companion_digests, make_catalogue, make_clean, make_table, overrule_digest
from stargap.tables.columns import CATALOGUE, DOMAINS, JOINT, MEASURED, PHOTOMETRIC, STACKED, STARS, SURVEY, Column

__all__ = ["STAGES", "TRAINING", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    ``name`` and ``about`` name it and say what it does; a ``sharded`` stage has one piece per shard, another stage has
    one. ``after`` names the stages whose products it reads, ``settings`` returns the settings that it follows from, in
    JSON types, and ``outside`` digests of files outside the run. ``make`` makes a piece, in any process; ``rescue``
    clears the way after a process died over a piece. ``schema`` are the columns of its tables, as far as
    `stargap.tables.columns` lays them down: a piece with other columns is made again. A stage that is ``remade`` is
    made again without asking when its settings or the version changed, since it mixes no rows. A ``gathered`` stage has
    pieces that always need all shards of an earlier one: parts of a run leave them to the end. ``trains`` says whether
    it trains a model, which may take ``TRAINING`` times as long as another piece.
    """

    name: str
    about: str
    sharded: bool
    after: Callable[[SurveySettings], tuple[str, ...]]
    settings: Callable[[SurveySettings], dict[str, Any]]
    make: Callable[[Run, int | None], Made]
    outside: Callable[[Run, int | None], dict[str, str]] = lambda run, unit: {}
    rescue: Callable[[Run, int], None] | None = None
    schema: tuple[Column, ...] = ()
    remade: bool = False
    gathered: bool = False
    trains: Callable[[SurveySettings], bool] = lambda settings: False


TRAINING = 24.0
"""Time limit of a piece that trains a model, over that of another."""


def _later(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a module that is imported at its first call: what measures needs torch, states do not."""
    return lambda *given: getattr(import_module(f"stargap.pipeline.{module}"), function)(*given)


def _only(*names: str) -> Callable[[SurveySettings], dict[str, Any]]:
    """Return a function that picks some of a run's settings."""
    return lambda settings: _file_names(settings.model_dump(mode="json", include=set(names)))


def _file_names(value: Any) -> Any:
    """Return settings in JSON types with the name of a file for its whole path: its content counts, not its place."""
    if isinstance(value, dict):
        return {name: _file_names(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_file_names(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "read files into the store of native pixels",
        True,
        lambda settings: (),
        _only("ingest"),
        _later("spectra", "make_ingest"),
        file_states,
        _later("spectra", "rescue_ingest"),
    ),
    Stage(
        "gaia",
        "sort Gaia's table by place and identifier",
        False,
        lambda settings: (),
        lambda settings: {},
        _later("spectra", "make_gaia"),
        gaia_digest,
    ),
    Stage(
        "sample",
        "join Gaia and apply the cuts",
        True,
        lambda settings: ("ingest", "gaia"),
        _only("sample"),
        _later("spectra", "make_sample"),
    ),
    Stage(
        "photometry",
        "label stars by Gaia's and 2MASS's photometry",
        True,
        lambda settings: ("sample",),
        _only("photometry"),
        make_photometry,
        schema=PHOTOMETRIC,
    ),
    Stage(
        "emulator",
        "train The Payne, or take a trained one",
        False,
        lambda settings: (),
        emulator_settings,
        _later("models", "make_emulator"),
        trains=lambda settings: settings.emulator.grid is not None,
    ),
    Stage(
        "velocity",
        "measure radial velocities of the sample",
        True,
        lambda settings: ("ingest", "sample", "emulator"),
        _only("measure"),
        _later("spectra", "make_velocity"),
    ),
    Stage(
        "prepare",
        "normalise spectra at rest and average them in bins",
        True,
        lambda settings: ("ingest", "velocity"),
        lambda settings: {"measure": {"preset": settings.measure.preset}},
        _later("spectra", "make_bins"),
    ),
    Stage(
        "clean",
        "find spectra that are not of M dwarfs",
        False,
        lambda settings: ("ingest", "velocity", "prepare"),
        _only("cleaning"),
        make_clean,
        overrule_digest,
    ),
    Stage(
        "labels",
        "draw labels of synthetic spectra along isochrones",
        False,
        lambda settings: (),
        prior_settings,
        _later("models", "make_labels"),
    ),
    Stage(
        "transfer",
        "train Cycle-StarNet's transfer, or take a trained one",
        False,
        after_transfer,
        transfer_settings,
        _later("models", "make_transfer"),
        trains=lambda settings: settings.transfer.use == "train",
    ),
    Stage(
        "measure",
        "fit labels, subtypes and activity",
        True,
        lambda settings: ("ingest", "velocity", "emulator", "transfer"),
        _only("measure"),
        _later("spectra", "make_measured"),
        schema=(*MEASURED, *DOMAINS),
    ),
    Stage(
        "joint",
        "label spectra by spectrum and photometry together",
        True,
        lambda settings: ("sample", "measure"),
        lambda settings: settings.model_dump(mode="json", include={"photometry": True, "fit": {"joint"}}),
        make_joint,
        schema=JOINT,
    ),
    Stage(
        "table",
        "join everything into one table",
        False,
        lambda settings: ("sample", "photometry", "clean", "measure", "joint"),
        lambda settings: settings.model_dump(mode="json", include={"input": {"simulated"}}),
        make_table,
        schema=SURVEY,
    ),
    Stage(
        "stack",
        "fit the stacked spectra of stars with several",
        True,
        lambda settings: ("ingest", "emulator", "transfer", "table"),
        lambda settings: settings.model_dump(mode="json", include={"measure": True, "fit": {"stacks"}}),
        _later("stacks", "make_stacks"),
        schema=STACKED,
        gathered=True,
    ),
    Stage(
        "catalogue",
        "calibrate errors, combine spectra of a star, cut and publish",
        False,
        lambda settings: ("table", "stack"),
        _only("catalogue", "publish"),
        make_catalogue,
        companion_digests,
        schema=(*CATALOGUE, *STARS),
    ),
    Stage(
        "report",
        "write the report",
        False,
        lambda settings: (
            "ingest",
            "sample",
            "photometry",
            "emulator",
            "velocity",
            "clean",
            "transfer",
            "joint",
            "table",
            "catalogue",
        ),
        _only("report"),
        make_report,
        report_digests,
        remade=True,
    ),
)
"""All stages, in the order in which they are done."""
