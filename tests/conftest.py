"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Arrays are small here, and threads that wait for each other cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real grids, spectra and tables; tests that need it are skipped where it is not."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("STARGAP_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set STARGAP_SHARED_DATA")
    return folder
