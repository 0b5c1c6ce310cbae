"""Which columns of a table are wavelength, flux and error: those that the user names, or those of the usual names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u

from stargap.errors import SpectrumError
from stargap.spectra.reading import Quantity, ReadSettings

__all__ = ["has_spectrum", "inverse_variance", "spectrum_columns"]

_USUAL: dict[Quantity, re.Pattern[str]] = {
    "wavelength": re.compile(
        r"(log_?)?(wave|wavelength|wavelengths|lambda|lam|wl|wvl)(_?(aa?|ang|angstroms?|nm|vac))?"
    ),
    "flux": re.compile(r"flux|flam|fluxes|f_lambda|flux_lambda|spec|spectrum|counts"),
    "error": re.compile(r"err|error|errors|sigma|flux_?err(or)?|e_?flux|err_?flux|uncertainty|unc|stdev|std|noise"),
    "ivar": re.compile(r"ivar|invvar|inv_var|inverse_variance|flux_?ivar|weight"),
}


def spectrum_columns(names: Iterable[str], read: ReadSettings, path: str | Path) -> dict[Quantity, str]:
    """Return the names of the columns for wavelength, flux and, where there is one, error or ivar.

    Args:
        names: of the table's columns.
        read: `columns` of it are taken before those of the usual names.
        path: named in the error.

    Raises:
        SpectrumError: there is none, or several have usual names.

    Example:
        >>> spectrum_columns(["wave_A", "FLUX", "err"], ReadSettings(), "a.csv")
        {'wavelength': 'wave_A', 'flux': 'FLUX', 'error': 'err'}
    """
    given, found = list(names), {}
    for quantity, pattern in _USUAL.items():
        chosen = read.columns.get(quantity)
        if chosen is None and quantity in ("error", "ivar") and {"error", "ivar"} & {*read.columns}:
            continue
        name_pattern = re.compile(re.escape(chosen), re.IGNORECASE) if chosen is not None else pattern
        matches = [name for name in given if name_pattern.fullmatch(name.strip() if chosen else name.strip().lower())]
        if len(matches) > 1:
            raise SpectrumError(path, f"columns {', '.join(matches)} could be the {quantity}: name one (--columns)")
        if not matches and (chosen is not None or quantity in ("wavelength", "flux")):
            what = f"column {chosen}" if chosen is not None else f"column for the {quantity}; name it (--columns)"
            raise SpectrumError(path, f"no {what}; there are {', '.join(given[:8])}{' ...' if len(given) > 8 else ''}")
        if matches:
            found[quantity] = matches[0]
    return found


def has_spectrum(names: Iterable[str], *, errors: bool = False) -> bool:
    """Whether columns of the usual names hold wavelengths and fluxes, and also errors.

    Example:
        >>> has_spectrum(["LAMBDA", "FLUX"]), has_spectrum(["FLUX", "IVAR"])
        (True, False)
    """
    lower = [name.strip().lower() for name in names]
    there = {quantity for quantity, pattern in _USUAL.items() if any(pattern.fullmatch(name) for name in lower)}
    return {"wavelength", "flux"} <= there and (not errors or bool(there & {"error", "ivar"}))


def inverse_variance(flux: Any, error: Any, ivar: Any, read: ReadSettings, path: str | Path) -> Any:
    """Return inverse variances from whichever of the two a file has, or from the S/N that the user gives.

    Args:
        flux: ``(pixel,)``, with its unit if it has one.
        error: standard deviations of the same shape, or None; 0 and NaN are bad pixels, and all of them no errors.
        ivar: inverse variances, or None.
        read: whose ``snr`` is used where there is neither.
        path: named in the error.

    Raises:
        SpectrumError: there is neither, and no ``snr``.

    Example:
        >>> inverse_variance(np.ones(2), np.array([0.5, 0.0]), None, ReadSettings(), "a.csv")
        array([4., 0.])
    """
    if ivar is not None:
        return ivar
    if error is not None:
        unit = getattr(error, "unit", None)
        mask = np.ma.getmaskarray(error) if np.ma.isMaskedArray(error) else None
        sigma = np.asarray(getattr(error, "value", error), dtype=float)
        bad = ~(np.isfinite(sigma) & (sigma > 0)) | (False if mask is None else mask)
        values = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, sigma) ** 2)
        if not bad.all() or read.snr is None:
            return values if unit is None else u.Quantity(values, unit**-2)
    if read.snr is None:
        raise SpectrumError(path, "no errors of the fluxes: name their column (--columns), or give a S/N (--snr)")
    values = np.asarray(getattr(flux, "value", flux), dtype=float)
    unit = getattr(flux, "unit", None)
    level = np.nanmedian(np.abs(values[values != 0])) if (values != 0).any() else 1.0
    weights = np.full(values.shape, (read.snr / level) ** 2)
    return weights if unit is None else u.Quantity(weights, unit**-2)
