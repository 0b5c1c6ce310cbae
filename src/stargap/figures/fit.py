"""One star's fit: the spectrum with its pseudo-continuum, data and model, residuals, H-alpha, and where the star is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stargap.features import BANDS, LINES, subtype_name
from stargap.figures.panels import BOX, no_stars, tidy
from stargap.figures.style import new_figure, plain_style
from stargap.flags import Flag
from stargap.marks import MARKED, usable
from stargap.pixels import air_to_vacuum
from stargap.spectra.modelled import Masked, ModelledSpectra
from stargap.theory.isochrones import shipped_isochrones

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fit_figure"]

DATA, MODEL, SHADE, STAR = "0.15", "#d55e00", "#0072b2", "#009e73"
TRACKS: Final = (-1.0, -0.5, 0.0, 0.3)
NEAR_HALPHA: Final = 45.0
"""Half the width of the panel of H-alpha (A)."""
_WIDE = 150
"""Characters of a line of the title."""


@plain_style()
def fit_figure(columns: Mapping[str, Any], row: int, spectrum: ModelledSpectra) -> Figure:
    """Draw the fit of one row.

    Args:
        columns: measured columns, arrays ``(row,)``; with ``bp_rp`` and ``m_g`` the star is shown in Gaia's HR diagram.
        row: which row of these.
        spectrum: of this star alone.

    Returns:
        a matplotlib Figure: flux and pseudo-continuum with lines and bands; normalised data and model, with the pixels
        left out of the fit shaded; residuals over errors; H-alpha, which the fit leaves out; and the star beside
        isochrones. Errors in the title are the random and the systematic one together.
    """
    figure = new_figure(12, 7)
    cells = figure.add_gridspec(3, 2, width_ratios=[4.2, 1], height_ratios=[1.2, 1.5, 0.7])
    top = figure.add_subplot(cells[0, 0])
    middle, bottom = (figure.add_subplot(cells[place, 0], sharex=top) for place in (1, 2))
    wave, used = spectrum.wavelength, spectrum.mask[0] == 0
    _draw_flux(top, spectrum)
    _draw_fit(middle, spectrum, used)
    _draw_residuals(bottom, spectrum, used)
    bottom.set_xlim(wave[0], wave[-1])
    for axis in (top, middle):
        axis.tick_params(labelbottom=False)
    for axis in (top, middle, bottom):
        shade: dict[str, Any] = {"color": SHADE, "alpha": 0.12, "lw": 0, "step": "mid"}
        axis.fill_between(wave, 0, 1, where=~used, transform=axis.get_xaxis_transform(), **shade)
        axis.tick_params(direction="in", top=True, right=True)
    _draw_halpha(figure.add_subplot(cells[0, 1]), spectrum)
    _draw_place(figure.add_subplot(cells[1:, 1]), columns, row)
    figure.suptitle(_title(columns, row), fontsize=9, parse_math=False)
    return figure


def _draw_flux(axis: Axes, spectrum: ModelledSpectra) -> None:
    wave, flux = spectrum.wavelength, _observed(spectrum)
    axis.plot(wave, flux, color=DATA, lw=0.7, label="observed")
    axis.plot(wave, spectrum.continuum[0], color=SHADE, lw=1.2, label="pseudo-continuum")
    low, high = 0.0, 1.0
    if np.isfinite(flux).any():
        low, high = min(0.0, float(np.nanpercentile(flux, 0.2))), float(np.nanpercentile(flux, 99.8))
    axis.set_ylim(low, high + 0.35 * (high - low))
    axis.set_ylabel("flux (as in the file)")
    axis.legend(loc="lower left", frameon=False, fontsize=8, ncols=2)
    across = axis.get_xaxis_transform()
    for name, lines in LINES.items():
        places = [float(air_to_vacuum(line)) for line in lines]
        axis.vlines(places, 0.80, 0.86, transform=across, color="0.4", lw=0.8)
        axis.text(float(np.mean(places)), 0.88, name, transform=across, ha="center", va="bottom", fontsize=7)
    for name, ends in BANDS.items():
        first, last = (float(air_to_vacuum(end)) for end in ends)
        axis.fill_between([first, last], 0.80, 0.84, transform=across, color="0.4", lw=0)
        axis.text((first + last) / 2, 0.88, name, transform=across, ha="center", va="bottom", fontsize=7)


def _observed(spectrum: ModelledSpectra) -> NDArray[np.float32]:
    return np.where(spectrum.mask[0] & Masked.BAD, np.float32(np.nan), spectrum.flux[0])


def _draw_fit(axis: Axes, spectrum: ModelledSpectra, used: NDArray[np.bool_]) -> None:
    continuum = np.where(used, spectrum.continuum[0], np.nan)
    data, model = spectrum.flux[0] / continuum, spectrum.model[0] / continuum
    axis.plot(spectrum.wavelength, data, color=DATA, lw=0.7, label="normalised data")
    axis.plot(spectrum.wavelength, model, color=MODEL, lw=0.8, alpha=0.9, label="model")
    spread = np.concatenate([data[used], model[used]])
    spread = spread[np.isfinite(spread)]
    if spread.size:
        low, high = np.percentile(spread, [0.3, 99.7])
        axis.set_ylim(low - 0.15 * (high - low), high + 0.3 * (high - low))
    axis.set_ylabel("normalised flux")
    axis.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)


def _draw_residuals(axis: Axes, spectrum: ModelledSpectra, used: NDArray[np.bool_]) -> None:
    residual = spectrum.residual[0] / spectrum.error[0]
    known = used & np.isfinite(residual)
    axis.axhline(0, color="0.6", lw=0.6)
    axis.plot(spectrum.wavelength, residual, color=DATA, lw=0.5)
    limit = 5.0 if not known.any() else float(np.clip(1.3 * np.percentile(np.abs(residual[known]), 99), 3, 1e4))
    axis.set_ylim(-limit, limit)
    axis.set_ylabel("residual / σ")
    axis.set_xlabel("rest-frame wavelength (Å, vacuum)")


def _draw_halpha(axis: Axes, spectrum: ModelledSpectra) -> None:
    centre = float(air_to_vacuum(LINES["Hα"][0]))
    near = np.abs(spectrum.wavelength - centre) < NEAR_HALPHA
    axis.plot(spectrum.wavelength[near], _observed(spectrum)[near], color=DATA, lw=0.9, drawstyle="steps-mid")
    axis.axvline(centre, color="0.6", lw=0.8, ls=":")
    axis.set_xlim(centre - NEAR_HALPHA, centre + NEAR_HALPHA)
    axis.set_title("Hα, left out of the fit", fontsize=8)
    axis.tick_params(direction="in", labelsize=7, labelleft=False)


def _draw_place(axis: Axes, columns: Mapping[str, Any], row: int) -> None:
    """Show the star among PARSEC isochrones of 5 Gyr: in Gaia's HR diagram where M_G is known, else log g and Teff."""
    in_hr = all(np.isfinite(_number(columns, name, row)) for name in ("bp_rp", "m_g"))
    names = ("bp_rp", "m_g") if in_hr else ("teff", "logg")
    tracks = shipped_isochrones()
    x, y = (tracks.bp_mag - tracks.rp_mag, tracks.g_mag) if in_hr else (tracks.teff, tracks.logg)
    for m_h in TRACKS:
        track = np.isclose(tracks.m_h, tracks.m_h[np.abs(tracks.m_h - m_h).argmin()])
        axis.plot(x[track], y[track], color="0.65", lw=0.8)
        coolest = np.flatnonzero(track)[np.nanargmax(x[track]) if in_hr else np.nanargmin(x[track])]
        axis.text(x[coolest], y[coolest], f"{m_h:+.1f}", fontsize=7, color="0.4", ha="center", va="top")
    values = [_usable(columns, name, row) for name in names]
    if np.isfinite(values).all():
        errors = [_total(columns, name, row) for name in names]
        spread = [error if np.isfinite(error) else None for error in errors]
        axis.errorbar(values[0], values[1], xerr=spread[0], yerr=spread[1], fmt="o", color=STAR, ms=5, capsize=2)
    else:
        no_stars(axis, "labels cannot\nbe used")
    axis.set_xlabel("BP − RP (mag)" if in_hr else "Teff (K)", fontsize=8)
    axis.set_ylabel("M$_G$ (mag)" if in_hr else "log g", fontsize=8)
    axis.invert_yaxis()
    if not in_hr:
        axis.invert_xaxis()
    tidy(axis)
    axis.tick_params(labelsize=7)
    axis.text(0.03, 0.02, "PARSEC, 5 Gyr; [M/H]", transform=axis.transAxes, fontsize=6, color="0.4", bbox=BOX)


def _number(columns: Mapping[str, Any], name: str, row: int) -> float:
    if name not in _names(columns):
        return float("nan")
    value = np.ma.asarray(columns[name])[row]
    return float("nan") if value is np.ma.masked else float(value)


def _names(columns: Mapping[str, Any]) -> list[str]:
    return list(getattr(columns, "colnames", columns))


def _usable(columns: Mapping[str, Any], name: str, row: int) -> float:
    """Return a number, NaN where its flags say that it cannot be used."""
    mark = name if name in MARKED else "activity" if name in ("spt", "halpha_ew") else ""
    bits = np.array([int(columns["flags"][row])])
    return _number(columns, name, row) if not mark or usable(mark, bits)[0] else float("nan")


def _total(columns: Mapping[str, Any], name: str, row: int) -> float:
    """Return the random and the systematic error together, NaN where there is none."""
    error, systematic = _number(columns, f"e_{name}", row), _number(columns, f"e_{name}_sys", row)
    return error if np.isnan(systematic) else float(np.hypot(error, systematic))


def _title(columns: Mapping[str, Any], row: int) -> str:
    def value(name: str, digits: int, unit: str = "") -> str:
        number, error = _usable(columns, name, row), _total(columns, name, row)
        if not np.isfinite(number):
            return "–"
        return f"{number:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else "") + unit

    names = [Path(str(columns["path"][row])).name, str(columns["designation"][row])]
    obsid = _number(columns, "obsid", row)
    names += [f"obsid {obsid:.0f}"] if obsid > 0 else []
    snr = {band: _number(columns, f"snr_{band}", row) for band in "ri"}
    names += ["S/N " + ", ".join(f"{band} {value:.0f}" for band, value in snr.items())] if snr["r"] > -np.inf else []
    lines = [
        "   ".join(name for name in names if name),
        f"RV {value('rv', 1, ' km/s')}   Teff {value('teff', 0, ' K')}   log g {value('logg', 2)}   "
        f"[M/H] {value('m_h', 2)}   χ² {value('chi2', 2)}   "
        f"SpT {subtype_name(_usable(columns, 'spt', row)) or '–'}   EW Hα {value('halpha_ew', 2, ' Å')}",
    ]
    if flags := Flag.describe(int(columns["flags"][row])):
        lines += textwrap.wrap(f"flags: {flags}", _WIDE)
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()
