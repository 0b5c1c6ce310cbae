"""Air to vacuum, and to the heliocentric frame, for files that are not a survey's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from stargap.errors import SpectrumError
from stargap.pixels import SPEED_OF_LIGHT, air_to_vacuum
from stargap.spectra.readers.content import Content
from stargap.spectra.readers.plain import Header
from stargap.spectra.readers.statements import Stated, stated_of
from stargap.spectra.reading import ReadSettings
from stargap.spectra.units import plain_arrays

__all__ = ["to_vacuum_heliocentric"]


def to_vacuum_heliocentric(
    content: Content, headers: Iterable[Header], read: ReadSettings, path: str | Path, *, default: Stated
) -> Content:
    """Return a spectrum with vacuum, heliocentric wavelengths, as far as the headers and the user tell.

    Args:
        content: as it stands in the file.
        headers: of the file.
        read: what the user says; it must not contradict the headers.
        path: named in the error.
        default: what holds where neither says anything.

    Raises:
        SpectrumError: nothing says whether wavelengths are in air, or header and user contradict each other.
    """
    given = list(headers)
    stated = stated_of(given, path)
    if read.air is not None and stated.air is not None and read.air != stated.air:
        raise SpectrumError(path, f"the header says that wavelengths are in {'air' if stated.air else 'vacuum'}")
    air = next((said for said in (stated.air, read.air, default.air) if said is not None), None)
    if air is None:
        raise SpectrumError(path, "nothing says whether wavelengths are in air or vacuum: give --air or --vacuum")
    frame = stated.frame or read.frame or default.frame
    try:
        wave, flux, ivar, masked = plain_arrays(content.wavelength, content.flux, content.ivar)
    except (ValueError, TypeError) as error:
        raise SpectrumError(path, str(error)) from None
    wave = air_to_vacuum(wave) if air else wave
    facts = content.facts
    if frame != "heliocentric":
        velocity = None
        if frame == "observed":
            from stargap.spectra.readers.observer import barycentric_velocity

            velocity = barycentric_velocity(given)
        frame = None if velocity is not None else frame or "unknown"
        wave = wave * (1 + (velocity or 0.0) / SPEED_OF_LIGHT)
        facts = replace(facts, frame=frame, helio_rv=velocity if velocity is not None else facts.helio_rv)
    bad = masked if content.bad is None else masked | np.asarray(content.bad, dtype=bool)
    return Content(wave, flux, ivar, bad, facts, content.resolution)
