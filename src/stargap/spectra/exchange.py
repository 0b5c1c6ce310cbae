"""Spectra from and to specutils, an extra of this package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u

from stargap.errors import SpectrumError, UsageError
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.units import plain_arrays

if TYPE_CHECKING:
    import specutils

__all__ = ["from_specutils", "is_specutils", "read_with_specutils", "to_specutils"]


def is_specutils(item: object) -> bool:
    """Whether an object is a spectrum of specutils; the package is not imported for it.

    Example:
        >>> is_specutils("spec-1.fits")
        False
    """
    return type(item).__module__.split(".")[0] == "specutils" and hasattr(item, "spectral_axis")


def from_specutils(given: Any, path: str = "") -> list[Spectrum]:
    """Return the spectra of a ``specutils.Spectrum`` or ``SpectrumCollection``, one a row of its fluxes.

    Wavelengths are taken to be vacuum and heliocentric, as those of arrays. Masked pixels have weight 0.

    Args:
        given: with an uncertainty of any kind.
        path: what the rows of tables call it.

    Raises:
        UsageError: it has no uncertainty, or units that are not those of a spectrum.
    """
    uncertainty = given.uncertainty
    if uncertainty is None or not hasattr(uncertainty, "represent_as"):
        message = "a spectrum of specutils without an uncertainty: set it, as an InverseVariance for instance"
        raise UsageError(message)
    from astropy.nddata import InverseVariance

    unit = given.flux.unit
    with np.errstate(divide="ignore"):
        weight = uncertainty.represent_as(InverseVariance)
    ivar = u.Quantity(np.asarray(weight.array, dtype=float), weight.unit or unit**-2)
    flux = np.atleast_2d(given.flux.value).reshape(-1, given.flux.shape[-1])
    ivar_rows = np.atleast_2d(ivar.value).reshape(flux.shape)
    mask = np.zeros(flux.shape, dtype=bool) if given.mask is None else np.asarray(given.mask, bool).reshape(flux.shape)
    axis = np.atleast_2d(given.spectral_axis.to_value(given.spectral_axis.unit))
    made = []
    for row, (values, weights, bad) in enumerate(zip(flux, ivar_rows, mask, strict=True)):
        wavelength = u.Quantity(axis[row if len(axis) > 1 else 0], given.spectral_axis.unit)
        try:
            wave, f, w, _ = plain_arrays(wavelength, u.Quantity(values, unit), u.Quantity(weights, ivar.unit))
        except (ValueError, TypeError) as error:
            message = f"a spectrum of specutils that cannot be used: {error}"
            raise UsageError(message) from None
        order = np.argsort(wave, kind="stable")
        good = (np.isfinite(f) & np.isfinite(w) & (w > 0) & ~bad)[order]
        f, w = np.where(good, f[order], 0.0), np.where(good, w[order], 0.0)
        made.append(Spectrum(wave[order], f, w, Facts(path=path, layout="specutils")))
    return made


def to_specutils(spectrum: Spectrum) -> specutils.Spectrum:
    """Return a spectrum as a ``specutils.Spectrum``: wavelengths in A, fluxes without a unit, pixels of ivar 0 masked.

    Raises:
        UsageError: specutils is not installed.
    """
    package = _specutils()
    from astropy.nddata import InverseVariance

    return package.Spectrum(
        spectral_axis=u.Quantity(spectrum.wavelength, u.AA),
        flux=u.Quantity(spectrum.flux, u.dimensionless_unscaled),
        uncertainty=InverseVariance(spectrum.ivar),
        mask=spectrum.ivar == 0,
        meta={name: value for name, value in vars(spectrum.facts).items() if value is not None},
    )


def read_with_specutils(path: str | Path, loader: str, place: int | None) -> Spectrum:
    """Read a file with one of the loaders of specutils.

    Args:
        path: of the file.
        loader: name of the loader.
        place: which of its spectra, counted from 0.

    Raises:
        SpectrumError: specutils cannot read it, or it holds several spectra and `place` names none.
        UsageError: specutils is not installed.
    """
    package = _specutils()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read = package.SpectrumList.read(str(path), format=loader)
            except Exception:  # a loader of single spectra alone
                read = [package.Spectrum.read(str(path), format=loader)]
        spectra = [one for item in read for one in from_specutils(item, str(path))]
    except Exception as error:  # loaders raise whatever they meet
        raise SpectrumError(path, f"specutils cannot read it as {loader} ({error})") from None
    if place is None and len(spectra) > 1:
        raise SpectrumError(
            path, f"the file holds {len(spectra)} spectra: name one, as {Path(path).name}#0 is the first"
        )
    if not 0 <= (place or 0) < len(spectra):
        raise SpectrumError(path, f"the file holds {len(spectra)} spectra, numbered from 0")
    return spectra[place or 0]


def _specutils() -> Any:
    try:
        import specutils
    except ImportError:
        message = "specutils is not installed: pip install 'stargap[specutils]'"
        raise UsageError(message) from None
    return specutils
