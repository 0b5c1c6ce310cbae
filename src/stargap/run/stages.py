"""The stages of a survey run: what each follows from, and what makes a piece of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stargap.run.folder import Made, Run
from stargap.run.models import (
    after_transfer,
    emulator_settings,
    make_emulator,
    make_labels,
    make_transfer,
    prior_settings,
    transfer_settings,
)
from stargap.run.photometry import make_photometry
from stargap.run.report import make_report, report_digests
from stargap.run.settings import SurveySettings
from stargap.run.spectra import (
    file_states,
    gaia_digest,
    make_ingest,
    make_measured,
    make_prepared,
    make_sample,
    make_velocity,
    rescue_ingest,
)
from stargap.run.tables import make_catalogue, make_clean, make_table, overrule_digest

__all__ = ["STAGES", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A stage: its name, what it does, whether a shard is its piece (or else all is), and how a piece is made.

    ``after`` names the stages whose products it reads, ``settings`` the part of the settings that it follows from, in
    JSON types, ``outside`` digests of files from outside the run, and ``make`` makes a piece, in any process. A stage
    that is ``apart`` is made again without a word when its settings or the version changed: no rows are mixed in it.
    """

    name: str
    about: str
    sharded: bool
    after: Callable[[SurveySettings], tuple[str, ...]]
    settings: Callable[[SurveySettings], dict[str, Any]]
    make: Callable[[Run, int | None], Made]
    outside: Callable[[Run, int | None], dict[str, str]] = lambda run, unit: {}
    rescue: Callable[[Run, int], None] | None = None
    apart: bool = False


def _only(*names: str) -> Callable[[SurveySettings], dict[str, Any]]:
    """Return a function that picks some of a run's settings."""
    return lambda settings: settings.model_dump(mode="json", include=set(names))


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "read files into the store of native pixels",
        True,
        lambda settings: (),
        _only("ingest"),
        make_ingest,
        file_states,
        rescue_ingest,
    ),
    Stage(
        "sample",
        "join Gaia and apply the cuts",
        True,
        lambda settings: ("ingest",),
        _only("sample"),
        make_sample,
        gaia_digest,
    ),
    Stage(
        "photometry",
        "label stars by Gaia's and 2MASS's photometry",
        True,
        lambda settings: ("sample",),
        _only("photometry"),
        make_photometry,
    ),
    Stage(
        "emulator",
        "train The Payne, or take a trained one",
        False,
        lambda settings: (),
        emulator_settings,
        make_emulator,
    ),
    Stage(
        "velocity",
        "measure radial velocities of the sample",
        True,
        lambda settings: ("ingest", "sample", "emulator"),
        _only("measure"),
        make_velocity,
    ),
    Stage(
        "prepare",
        "shift to the rest frame, resample and normalise",
        True,
        lambda settings: ("ingest", "velocity"),
        lambda settings: {"measure": {"preset": settings.measure.preset}},
        make_prepared,
    ),
    Stage(
        "clean",
        "find spectra that are not of M dwarfs",
        False,
        lambda settings: ("prepare",),
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
        make_labels,
    ),
    Stage(
        "transfer",
        "train Cycle-StarNet's transfer, or take a trained one",
        False,
        after_transfer,
        transfer_settings,
        make_transfer,
    ),
    Stage(
        "measure",
        "fit labels, subtypes and activity",
        True,
        lambda settings: ("ingest", "velocity", "prepare", "emulator", "transfer"),
        _only("measure"),
        make_measured,
    ),
    Stage(
        "table",
        "join everything into one table",
        False,
        lambda settings: ("sample", "photometry", "clean", "measure"),
        lambda settings: {},
        make_table,
    ),
    Stage(
        "catalogue",
        "calibrate errors, combine spectra of a star, cut and publish",
        False,
        lambda settings: ("table",),
        _only("catalogue", "publish"),
        make_catalogue,
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
            "table",
            "catalogue",
        ),
        _only("report"),
        make_report,
        report_digests,
        apart=True,
    ),
)
"""All stages, in the order in which they are done."""
