"""stargap: labels, velocities and activity of M dwarfs from low-resolution survey spectra."""

from importlib import import_module
from typing import Any

__all__ = ["__version__", "measure", "read_spectrum"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "measure":
        return import_module("stargap.measurement.files").measure
    if name == "read_spectrum":
        return import_module("stargap.spectra.readers.read").read_spectrum
    message = f"module 'stargap' has no attribute {name!r}"
    raise AttributeError(message)
