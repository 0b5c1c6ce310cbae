"""Arrays with units and masks as plain arrays: wavelengths in A, inverse variances in 1/flux^2, 0 where masked."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from astropy import units as u
from astropy.utils.masked import Masked
from numpy.typing import NDArray

__all__ = ["Logarithmic", "attach_unit", "plain_arrays"]

_FLUX = u.erg / (u.s * u.cm**2 * u.AA)
_NOTHING = {"", "NONE", "RELATIVE", "ARBITRARY", "NORMALIZED", "NORMALISED", "DIMENSIONLESS", "UNITLESS", "-"}
_LOGARITHM = re.compile(r"\s*(?:log(?:10)?|dex)\s*[(\[]\s*(.*?)\s*[)\]]\s*|\s*log(?:10)?\s+(.*)", re.IGNORECASE)
_ALIASES = (
    (r"\bA(?=[-+*^\d]|\b)|\b[Aa]ng(?:s|st|str|stroms?|stroem)?\b\.?|\bANG(?:STROMS?)?\b", "Angstrom"),
    (r"\b(?:[Mm]icron|MICRON|[Mm]icromet(?:er|re))s?\b|µm|μm", "um"),
    (r"\b[Nn]anomet(?:er|re)s?\b|\bNM\b", "nm"),
    (r"\bergs\b|\bERGS?\b", "erg"),
    (r"\bcounts\b", "count"),
    (r"\bADUs?\b", "adu"),
    (r"\^", "**"),
)
"""How files write units, and how astropy reads them; nobody gives wavelengths in ampere."""
_POWER = re.compile(r"(1\s*/\s*)?\((.+)\)\s*(?:\*\*|\^)?\s*\(?\s*([-+]?\d+)\s*\)?")


class Logarithmic:
    """Decimal logarithms of wavelengths, with the unit of the wavelengths.

    Args:
        values: ``(pixel,)``.
        unit: of the wavelengths; None is taken as A.
    """

    def __init__(self, values: Any, unit: u.UnitBase | None = None) -> None:
        self.values, self.unit = values, unit


def attach_unit(values: Any, text: str | None, *, logarithm: bool = False) -> Any:
    """Return `values` with the unit that a file states for them, and unchanged where it states none.

    Args:
        values: ``(pixel,)``.
        text: such as ``nm``, ``1E-17 erg/cm^2/s/Ang`` or ``log10(Angstrom)``.
        logarithm: whether they are logarithms whatever `text` says.

    Raises:
        ValueError: the unit is not understood.

    Example:
        >>> attach_unit(np.array([600.0, 700.0]), "nm")
        <Quantity [600., 700.] nm>
    """
    inner = _LOGARITHM.fullmatch(text or "")
    unit = _parse((inner[1] or inner[2]) if inner else text or "")
    if inner or logarithm:
        return Logarithmic(values, unit)
    return values if unit is None else u.Quantity(np.asarray(values, dtype=float), unit)


def plain_arrays(
    wavelength: Any, flux: Any, ivar: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return wavelengths (A), fluxes, inverse variances and masks as plain arrays of the shapes they have.

    Each argument is anything that numpy accepts, a masked array, a table's column or a Quantity among them. Fluxes keep
    their unit, in which inverse variances are then expressed; fluxes per frequency and in photons become fluxes per
    wavelength. Pixels whose wavelength is masked are left out.

    Returns:
        wavelength ``(pixel,)``, flux, ivar, and whether either of the two is masked, in the shapes that they have.

    Raises:
        ValueError: units that do not fit together, or are not those of such quantities.

    Example:
        >>> wave, flux, ivar, masked = plain_arrays([600, 700] * u.nm, np.ma.array([2, 3], mask=[0, 1]), [1, 1])
        >>> wave, flux, masked
        (array([6000., 7000.]), array([2., 3.]), array([False,  True]))
    """
    wave, absent = _wavelengths(wavelength)
    values, masked, unit = _split(flux)
    weights, unweighted, weight_unit = _split(ivar)
    values, weights = _common_units(wave, values, unit, weights, weight_unit)
    bad = np.zeros(values.shape, dtype=bool) if masked is None else masked.copy()
    if unweighted is not None and unweighted.size == bad.size:
        bad |= unweighted.reshape(bad.shape)
    if absent is not None and absent.any() and absent.shape == values.shape[-1:] == weights.shape[-1:]:
        wave, values, weights = wave[~absent], values[..., ~absent], weights[..., ~absent]
        bad = bad[..., ~absent]
    return wave, values, weights, bad


def _wavelengths(given: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    logarithm = isinstance(given, Logarithmic)
    values, mask, unit = _split(given.values if logarithm else given)
    unit = given.unit if logarithm else unit
    if logarithm:
        with np.errstate(over="ignore"):
            values = 10.0**values
    if unit is None or unit == u.AA:
        return values, mask
    try:
        return np.asarray(u.Quantity(values, unit).to_value(u.AA, u.spectral())), mask
    except u.UnitConversionError:
        message = f"wavelengths are in {unit}, which is no unit of wavelength"
        raise ValueError(message) from None


def _common_units(
    wave: NDArray[np.float64],
    flux: NDArray[np.float64],
    unit: Any,
    ivar: NDArray[np.float64],
    ivar_unit: Any,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(unit, u.function.FunctionUnitBase) or (unit and any(b.is_equivalent(u.dex) for b in unit.bases)):
        message = f"fluxes are in {unit}, where linear ones are needed"
        raise ValueError(message)
    if ivar_unit is not None:
        if unit is None:
            message = f"inverse variances are in {ivar_unit} and fluxes have no unit: state both or neither"
            raise ValueError(message)
        try:
            ivar = ivar * ivar_unit.to(unit**-2)
        except (u.UnitConversionError, AttributeError):
            message = f"inverse variances are in {ivar_unit}, which is not one over the square of {unit}"
            raise ValueError(message) from None
    if unit is None or unit.is_equivalent(_FLUX) or not unit.is_equivalent(_FLUX, u.spectral_density(1 * u.AA)):
        return flux, ivar
    if wave.shape != flux.shape[-1:]:
        return flux, ivar  # whose lengths are refused elsewhere
    factor = unit.to(_FLUX, np.ones(wave.shape), u.spectral_density(u.Quantity(wave, u.AA)))
    return flux * factor, ivar / factor**2


def _split(given: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None, Any]:
    """Return values, mask and unit of an array; None for a mask or unit that it does not have."""
    if isinstance(given, list | tuple) and len(given):
        if any(isinstance(item, u.Quantity) for item in given):
            given = u.Quantity(given)
        elif any(np.ma.isMaskedArray(item) for item in given):
            given = np.ma.stack(given)
    unit, mask = getattr(given, "unit", None), None
    if isinstance(given, Masked):
        given, mask = given.unmasked, np.asarray(given.mask)
    elif np.ma.isMaskedArray(given):
        given, mask = np.ma.getdata(given), np.ma.getmaskarray(given)
    if isinstance(given, u.Quantity):
        given = given.value
    with np.errstate(invalid="ignore"):
        values = np.array(given, dtype=np.float64)
    return values, mask, _parse(unit) if isinstance(unit, str) else unit


def _parse(text: str) -> Any:
    """Return the unit that a text names, None for no unit."""
    text = text.strip()
    if text.upper() in _NOTHING:
        return None
    power = _POWER.fullmatch(text)
    if power:
        unit = _parse(power[2])
        return None if unit is None else unit ** (-int(power[3]) if power[1] else int(power[3]))
    cleaned = text
    for pattern, name in _ALIASES:
        cleaned = re.sub(pattern, name, cleaned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # about the style of the text
        try:
            return u.Unit(cleaned)
        except ValueError:
            message = f"the unit {text!r} is not understood"
            raise ValueError(message) from None
