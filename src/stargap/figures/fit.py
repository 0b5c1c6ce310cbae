"""One star's fit: the spectrum with its pseudo-continuum, data and model, residuals, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stargap.figures.style import new_figure, plain_style
from stargap.flags import Flag
from stargap.marks import MARKED, usable
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.log_lambda import NativeBatch
from stargap.spectra.prepare import Prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fit_figure"]

DATA, MODEL, SHADE = "0.15", "#d55e00", "#0072b2"


@plain_style()
def fit_figure(
    columns: Mapping[str, NDArray[Any]], row: int, *, native: NativeBatch, prepared: Prepared, model: Tensor
) -> Figure:
    """Draw the fit of one row.

    Args:
        columns: measured columns, arrays ``(row,)``.
        row: which row of these and of the following.
        native: the observed spectra.
        prepared: the same, normalised in the rest frame.
        model: normalised spectra of the fits, ``(row, pixel)``.

    Returns:
        a matplotlib Figure of three panels: flux and pseudo-continuum, normalised data and model with the pixels left
        out of the fit shaded, and residuals over errors. Errors in the title are the random and the systematic one
        together.
    """
    star = prepared
    wave = star.grid.wavelength
    rv = np.nan_to_num(float(columns["rv"][row]))
    native_wave = LOG_LAMBDA.wavelength / (1 + rv / SPEED_OF_LIGHT)
    good = native.ivar[row].numpy() > 0
    observed = np.where(good, native.flux[row].numpy(), np.nan)
    used = star.good[row].numpy()
    flux, sigma = star.flux[row].numpy(), star.sigma[row].numpy()
    best = np.where(star.continuum[row].numpy() > 0, model[row].numpy(), np.nan)
    continuum = np.where(star.continuum[row].numpy() > 0, star.continuum[row].numpy(), np.nan)

    figure = new_figure(10, 6.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 1.5, 0.7])
    top.plot(native_wave, observed, color=DATA, lw=0.7, label="observed")
    top.plot(wave, continuum, color=SHADE, lw=1.2, label="pseudo-continuum")
    inside = (native_wave > wave[0]) & (native_wave < wave[-1])
    if np.isfinite(observed[inside]).any():
        top.set_ylim(min(0.0, np.nanpercentile(observed[inside], 0.2)), 1.15 * np.nanpercentile(observed[inside], 99.8))
    top.set_ylabel("flux (scaled)")
    top.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)

    middle.plot(wave, np.where(used, flux, np.nan), color=DATA, lw=0.7, label="normalised data")
    middle.plot(wave, best, color=MODEL, lw=0.8, alpha=0.9, label="model")
    spread = np.concatenate([flux[used], best[used]])
    if spread.size:
        low, high = np.percentile(spread, [0.3, 99.7])
        middle.set_ylim(low - 0.15 * (high - low), high + 0.3 * (high - low))
    middle.set_ylabel("normalised flux")
    middle.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)

    residual = np.where(used, (flux - best) / sigma, np.nan)
    bottom.axhline(0, color="0.6", lw=0.6)
    bottom.plot(wave, residual, color=DATA, lw=0.5)
    limit = 5.0 if not used.any() else float(np.clip(1.3 * np.nanpercentile(np.abs(residual), 99), 3, 1e4))
    bottom.set_ylim(-limit, limit)
    bottom.set_ylabel("residual / σ")
    bottom.set_xlabel("rest-frame wavelength (Å, vacuum)")
    bottom.set_xlim(wave[0], wave[-1])
    for axis in (top, middle, bottom):
        axis.fill_between(
            wave,
            0,
            1,
            where=~used,
            transform=axis.get_xaxis_transform(),
            color=SHADE,
            alpha=0.12,
            lw=0,
            step="mid",
        )
        axis.tick_params(direction="in", top=True, right=True)
    figure.suptitle(_title(columns, row), fontsize=9, parse_math=False)
    return figure


def _title(columns: Mapping[str, NDArray[Any]], row: int) -> str:
    bits = int(columns["flags"][row])

    def value(name: str, digits: int, unit: str = "") -> str:
        number, error = float(columns[name][row]), float(columns[f"e_{name}"][row])
        systematic = float(columns[f"e_{name}_sys"][row]) if f"e_{name}_sys" in columns else np.nan
        error = error if np.isnan(systematic) else float(np.hypot(error, systematic))
        mark = name if name in MARKED else "activity"
        if not np.isfinite(number) or not usable(mark, np.array([bits]))[0]:
            return "–"
        spread = f" ± {error:.{digits}f}" if np.isfinite(error) else ""
        return f"{number:.{digits}f}{spread}{unit}"

    name = str(columns["designation"][row]) or Path(str(columns["path"][row])).name
    obsid = f"  obsid {columns['obsid'][row]}" if columns["obsid"][row] > 0 else ""
    lines = [
        f"{name}{obsid}   S/N r {columns['snr_r'][row]:.0f}, i {columns['snr_i'][row]:.0f}",
        f"RV {value('rv', 1, ' km/s')}   Teff {value('teff', 0, ' K')}   log g {value('logg', 2)}   "
        f"[M/H] {value('m_h', 2)}   χ² {columns['chi2'][row]:.2f}",
        f"SpT {value('spt', 1)}   EW Hα {value('halpha_ew', 2, ' Å')}",
    ]
    flags = Flag.describe(bits)
    text = "\n".join(lines + ([f"flags: {flags}"] if flags else []))
    return text.encode("utf-8", "backslashreplace").decode()
