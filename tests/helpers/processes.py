"""What tests start in other processes, which are killed or interrupted there: forks of a server, that start at once."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from stargap.cli.main import main
from stargap.pipeline.engine import run_survey
from stargap.processor import single_thread

PRELOADED = ("pytest", "torch._dynamo", "sklearn.mixture", "astropy.table", "stargap.pipeline.engine",
             "stargap.pipeline.train", "stargap.measurement.files", "stargap.starnet.training")  # fmt: skip


def run_command(words, folder: Path):
    """Run ``stargap`` in a process of its own group, with its output in files of a folder, where it runs."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.chdir(folder)
    with (
        Path("stderr").open("w", buffering=1) as error,
        Path("stdout").open("w", buffering=1) as out,
        contextlib.redirect_stderr(error),
        contextlib.redirect_stdout(out),
        single_thread(),
    ):
        main(words)


def run_alone(settings, workers: int = 1):
    """Run a survey in a process of its own group."""
    os.setsid()
    with single_thread():
        run_survey(settings, workers=workers)
