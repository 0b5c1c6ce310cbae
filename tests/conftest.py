"""Fixtures shared by every test: simulated stars, one measured batch of them, and how two tables are compared.

What fixtures need is imported in them: the controller of pytest-xdist loads this file and runs no test.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from helpers.stars import MockStars

    from stargap.measurement.fits import Fitted
    from stargap.measurement.star import Columns
    from stargap.settings import MeasureSettings
    from stargap.spectra.spectrum import Spectrum
    from stargap.theory.emulator import Emulator

collect_ignore_glob = ["*conftest.py"]
"""Their doctests: where several folders are named, pytest has loaded several modules of this name by then."""
ALLOWED_SKIPS = ("no GPU", "root may read everything")


def pytest_configure(config):
    """Check annotated arrays at every call, which has to begin before the package is imported."""
    if not config.getoption("numprocesses", None):
        import array_checks  # noqa: F401


def pytest_terminal_summary(terminalreporter):
    """Where every tool is installed, a test that is skipped for want of one has not been run: that is a failure."""
    if "STARGAP_SKIPS_FAIL" not in os.environ:
        return
    odd = [
        f"{report.nodeid}: {report.longrepr[2]}"
        for report in terminalreporter.getreports("skipped")
        if not any(reason in report.longrepr[2] for reason in ALLOWED_SKIPS)
    ]
    if odd:
        terminalreporter.section("skipped for a reason that is none here")
        terminalreporter.line("\n".join(odd))
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Arrays are small here, and threads that wait for each other cost more than they save."""
    from stargap.processor import single_thread

    with single_thread():
        yield


@pytest.fixture(scope="session")
def processes():
    """Processes that start at once: forks of a server that has imported what they need."""
    from helpers.processes import PRELOADED

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a folder that the first of pytest-xdist's workers makes for all, whose tests only read it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        done = root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(root / name)
                done.touch()
        return root / name

    return folder


@pytest.fixture(scope="session")
def simulated_survey(made_once) -> Path:
    """A small survey in LAMOST's files."""
    from stargap.mock.write import write_survey

    return made_once("survey", lambda folder: write_survey(folder, 40, seed=3, repeats=0.2, junk=0.1))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real grids, spectra and tables; tests that need it are skipped where it is not."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("STARGAP_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set STARGAP_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    from stargap.theory.emulator import shipped_emulator

    return shipped_emulator()


@pytest.fixture(scope="session")
def simulate(emulator) -> Callable[..., MockStars]:
    """Inactive stars unless told otherwise; arguments of `mock_stars`, and `snr` can be one number."""
    import numpy as np
    from helpers.stars import mock_stars

    def make(count: int, *, seed: int, snr: float | Sequence[float] | None = None, **options) -> MockStars:
        options = {"active_fraction": 0.0} | options
        level = None if snr is None else np.broadcast_to(np.asarray(snr, dtype=float), (count,))
        return mock_stars(emulator, count, seed=seed, snr=level, **options)

    return make


@pytest.fixture(scope="session")
def spectra() -> Callable[[MockStars], list[Spectrum]]:
    """The stars as a reader would give them."""
    from stargap.spectra.spectrum import Facts, Spectrum

    def make(stars: MockStars) -> list[Spectrum]:
        facts = Facts(layout="arrays")
        return [
            Spectrum(stars.wavelength, flux, ivar, facts) for flux, ivar in zip(stars.flux, stars.ivar, strict=True)
        ]

    return make


@pytest.fixture(scope="session")
def mixed(simulate) -> MockStars:
    """128 stars of every quality, a fifth of them active, defects included."""
    import numpy as np

    snr = np.random.default_rng(0).choice([3.0, 5.0, 10.0, 30.0, 100.0], 128)
    return simulate(128, seed=21, snr=snr, active_fraction=0.2)


@pytest.fixture(scope="session")
def settings() -> MeasureSettings:
    from stargap.settings import MeasureSettings

    return MeasureSettings()


@pytest.fixture(scope="session")
def numbered(mixed, spectra) -> list[Spectrum]:
    """The 128 mixed stars with facts that tell them apart."""
    from stargap.spectra.spectrum import Facts

    return [
        replace(star, facts=Facts(layout="arrays", path=f"{row}.fits", obsid=1000 + row, designation=f"S{row}"))
        for row, star in enumerate(spectra(mixed))
    ]


@pytest.fixture(scope="session")
def batch(numbered, settings, emulator) -> tuple[Columns, Fitted]:
    """What is measured of the 128 mixed stars."""
    from stargap.measurement.star import measure_batch

    return measure_batch(numbered, settings, emulator)


@pytest.fixture(scope="session")
def whole(batch) -> Columns:
    return batch[0]


@pytest.fixture(scope="session")
def differences() -> Callable[..., list[str]]:
    """Names of the columns that are not the same bits (NaN equals NaN, masks aside), ``spectrum_id`` left out."""
    import numpy as np

    def compare(one: Columns, other: Columns, rows=slice(None), other_rows=slice(None)) -> list[str]:
        assert one.keys() == other.keys()
        odd = []
        for name in one.keys() - {"spectrum_id"}:
            left, right = np.asarray(one[name])[rows], np.asarray(other[name])[other_rows]
            assert left.shape == right.shape
            if not ((left == right) | ((left != left) & (right != right))).all():
                odd.append(name)
        return sorted(odd)

    return compare
