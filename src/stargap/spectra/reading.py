"""What a user says of spectra whose files do not say it themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stargap.settings import Settings

__all__ = ["Quantity", "ReadSettings"]

Quantity = Literal["wavelength", "flux", "error", "ivar"]


class ReadSettings(Settings):
    """How spectra are read of which files, or arrays, do not say everything; files of surveys need none of it.

    Example:
        >>> ReadSettings(air=True, columns={"flux": "SPEC"}).columns
        {'flux': 'SPEC'}
    """

    air: bool | None = None
    """Whether wavelengths are in air (true) or vacuum (false), where a file does not say. Text files and images of one
    dimension that do not say it are refused without it; other tables and arrays are then taken to be in vacuum."""
    frame: Literal["heliocentric", "observed", "rest"] | None = None
    """Frame of the wavelengths, where a file does not say: heliocentric; observed, which is corrected if the header
    names time, site and position; or rest. Velocities that are not heliocentric are flagged."""
    columns: dict[Quantity, str] = {}
    """Names of a table's columns, where they are not the usual ones; error is the standard deviation of the flux."""
    snr: Annotated[float, Field(gt=0)] | None = None
    """S/N per pixel of spectra that come without errors; without it they are refused."""
    format: str | None = None
    """Name of a loader of specutils, such as ``6dFGS-tabular``, to read files with."""
