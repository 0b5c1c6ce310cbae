"""stargap: labels, velocities and activity of M dwarfs from low-resolution survey spectra.

`measure` is what most people need; its help lists arguments, shapes, units and errors. Names are imported at their
first use, so that ``import stargap`` is quick.

Example:
    >>> import stargap
    >>> dir(stargap)
    ['MeasureSettings', 'Measurements', 'ReadSettings', 'Spectrum', '__version__', 'measure', ..., 'to_scale', 'train']
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from stargap.measurement.files import measure
    from stargap.measurement.measurements import Measurements
    from stargap.measurement.plot import plot
    from stargap.measurement.stack import stack
    from stargap.pipeline.public import run
    from stargap.pipeline.train import train
    from stargap.settings import MeasureSettings
    from stargap.spectra.readers.read import read_spectrum
    from stargap.spectra.reading import ReadSettings
    from stargap.spectra.spectrum import Spectrum
    from stargap.validation.scales import to_scale

__all__ = [
    "MeasureSettings",
    "Measurements",
    "ReadSettings",
    "Spectrum",
    "__version__",
    "measure",
    "plot",
    "read_spectrum",
    "run",
    "stack",
    "to_scale",
    "train",
]

_HOMES = {
    "MeasureSettings": "stargap.settings",
    "Spectrum": "stargap.spectra.spectrum",
    "Measurements": "stargap.measurement.measurements",
    "measure": "stargap.measurement.files",
    "plot": "stargap.measurement.plot",
    "read_spectrum": "stargap.spectra.readers.read",
    "ReadSettings": "stargap.spectra.reading",
    "run": "stargap.pipeline.public",
    "stack": "stargap.measurement.stack",
    "to_scale": "stargap.validation.scales",
    "train": "stargap.pipeline.train",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        message = f"module 'stargap' has no attribute {name!r}"
        raise AttributeError(message)
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def _version() -> str:
    """Return the version of the installed package, which is that of its tag in git."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = globals()["__version__"] = version("stargap")
    except PackageNotFoundError:  # its files are used without an installation
        found = "0+unknown"
    return found


def __dir__() -> list[str]:
    return __all__
