"""The picture of one fit in a notebook: `stargap.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stargap.errors import UsageError
from stargap.figures.fit import fit_figure
from stargap.measurement.measurements import Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]


def plot(result: Measurements, row: int = 0) -> Figure:
    """Draw the fit of one row of what ``stargap.measure(..., spectra=True)`` returned.

    A notebook shows the figure; ``figure.savefig("fit.png")`` writes it. It is what ``stargap measure --plot`` draws.

    Args:
        result: or rows of it, such as ``result[result["use_teff"] == 1]``.
        row: which of its rows, from 0; negative ones count from the end.

    Raises:
        UsageError: it was measured without ``spectra=True``, or there is no such row.

    Example:
        >>> import numpy as np
        >>> import stargap
        >>> wave = 10.0 ** (1e-4 * np.arange(37600, 39590))
        >>> flux = 1 + 0.1 * np.sin(wave / 50)
        >>> table = stargap.measure(flux, wavelength=wave, ivar=0 * wave + 400, model="emulator", spectra=True)
        >>> len(stargap.plot(table, 0).axes)
        5
    """
    if not -len(result) <= row < len(result):
        message = f"there is no row {row}: the table has {len(result)}, counted from 0"
        raise UsageError(message)
    place = row % len(result)
    return fit_figure(result, place, result.spectra.of(int(result["spectrum_id"][place])))
