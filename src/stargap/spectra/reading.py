"""Properties of spectra stated by the user, where their files do not state them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from stargap.errors import UsageError
from stargap.settings import Settings

__all__ = ["Quantity", "ReadSettings", "named_columns"]

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
    instrument: str | float | list[tuple[float, float]] | None = None
    """Resolving power lambda / FWHM, where a file does not tell: the name of an instrument
    (`stargap.spectra.linespread.INSTRUMENTS`), a number, or pairs of wavelength (A) and number. Without it spectra are
    taken to be as sharp as LAMOST's."""
    format: str | None = None
    """Name of a loader of specutils, such as ``6dFGS-tabular``, to read files with."""


def named_columns(given: Sequence[str]) -> dict[Quantity, str]:
    """Return names of columns from ``quantity=name``, as given on a command line.

    Raises:
        UsageError: something else is given.

    Example:
        >>> named_columns(["wavelength=WAVE", "flux=SPEC"])
        {'wavelength': 'WAVE', 'flux': 'SPEC'}
    """
    found: dict[Quantity, str] = {}
    for text in given:
        quantity, _, name = text.partition("=")
        known = next((one for one in get_args(Quantity) if one == quantity.strip()), None)
        if known is None or not name.strip():
            message = f"{text!r}: columns are named as wavelength=NAME, flux=NAME, error=NAME or ivar=NAME"
            raise UsageError(message)
        found[known] = name.strip()
    return found
