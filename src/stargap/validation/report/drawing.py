"""What each figure of a report is drawn from, and why one cannot be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.labels import LABELS
from stargap.photometry.likelihood import Population
from stargap.validation.report.compared import compared_figure, kind_of
from stargap.validation.report.data import Columns, RunData
from stargap.validation.report.truth import QUANTITIES, errors_of, plain_stars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stargap.validation.report.fitted import Example, FittedSpectra

__all__ = [
    "Drawn",
    "NotDrawn",
    "Source",
    "active",
    "apogee",
    "binaries",
    "differences",
    "emulator",
    "fit",
    "hr",
    "kiel",
    "literature",
    "methods",
    "photometry",
    "precision",
    "processing",
    "recovery",
    "sky",
    "snr",
    "subtype",
    "velocity",
]

MOST_ERRORBARS = 3000
"""Stars with error bars in the figure of recovered labels."""

Drawn = tuple["Figure", Columns]
"""A figure and the columns that it shows."""


class NotDrawn(UsageError):
    """What a figure needs is not there; the message says what."""


@dataclass(frozen=True, eq=False)
class Source:
    """What figures are drawn from: the run, some of its spectra beside their models, or why there are none."""

    data: RunData
    refitted: FittedSpectra | None
    why_not: str

    @property
    def title(self) -> str:
        """Words above a figure."""
        return "simulated stars" if self.data.simulated else ""

    @property
    def fitted(self) -> FittedSpectra:
        """Spectra beside their models.

        Raises:
            NotDrawn: there are none.
        """
        if self.refitted is None:
            raise NotDrawn(self.why_not)
        return self.refitted


def _some(columns: Columns, names: tuple[str, ...], rows: NDArray[Any]) -> Columns:
    return {name: columns[name][rows] for name in names}


def _final_stars(data: RunData, *names: str) -> Columns:
    return _some(data.stars, ("gaia_source_id", *names), np.asarray(data.stars["in_final_catalogue"], dtype=bool))


def sky(run: Source) -> Drawn:
    """Draw figure 1."""
    data, title = run.data, run.title
    from stargap.figures.survey import sky_figure

    stars = _final_stars(data, "ra", "dec")
    return sky_figure(stars["ra"], stars["dec"], title=title), stars


def snr(run: Source) -> Drawn:
    """Draw figure 2."""
    data, title = run.data, run.title
    from stargap.figures.survey import snr_figure

    columns = _some(data.spectra, ("spectrum_id", "snr_r", "snr_i"), np.ones(len(data.final), dtype=bool))
    return snr_figure(columns["snr_r"], columns["snr_i"], title=title), columns


def emulator(run: Source) -> Drawn:
    """Draw figure 3, which a run has no data for."""
    data = run.data
    errors = data.cards.get("emulator", {}).get("validation", {})
    numbers = ", ".join(f"{name.replace('_', ' ')} {100 * value:.3g} %" for name, value in errors.items())
    message = (
        "errors of single validation spectra are not kept with a run; stargap emulator --plot draws them. The "
        f"emulator's card: |F_model - F_recon| / F_model (eq. 1): {numbers or 'nothing'}"
    )
    raise NotDrawn(message)


def velocity(run: Source) -> Drawn:
    """Draw figure 4."""
    data, title = run.data, run.title
    from stargap.figures.comparison import velocity_figure

    stars = _final_stars(data, "rv", "e_rv", "gaia_rv", "e_gaia_rv")
    if not (np.isfinite(stars["rv"]) & np.isfinite(stars["gaia_rv"])).any():
        message = "no star of the final catalogue has a velocity of Gaia's"
        raise NotDrawn(message)
    return velocity_figure(stars["rv"], stars["gaia_rv"], title=title), stars


def processing(run: Source) -> Drawn:
    """Draw figure 5."""
    columns, title = _example(run).normal, run.title
    from stargap.figures.processing import processing_figure

    figure = processing_figure(
        columns["wavelength"], columns["flux"], columns["sigma"], columns["continuum"], columns["good"], title=title
    )
    return figure, columns


def fit(run: Source) -> Drawn:
    """Draw the fit of the same spectrum."""
    one, stars = _example(run), run.data.spectra
    from stargap.figures.fit import fit_figure

    here = np.flatnonzero(stars["spectrum_id"] == one.columns["spectrum_id"])
    return fit_figure(one.columns | _some(stars, ("bp_rp", "m_g"), here), 0, one.spectrum), one.normal


def _example(run: Source) -> Example:
    if run.fitted.example is None:
        message = "no spectrum was measured"
        raise NotDrawn(message)
    return run.fitted.example


def kiel(run: Source) -> Drawn:
    """Draw figure 9."""
    data, title = run.data, run.title
    from stargap.figures.diagrams import kiel_figure

    stars = _final_stars(data, "teff", "logg", "m_h")
    return kiel_figure(stars["teff"], stars["logg"], stars["m_h"], title=title), stars


def precision(run: Source) -> Drawn:
    """Draw figure 10."""
    data, title = run.data, run.title
    from stargap.catalogue.repeat_scatter import repeat_scatter
    from stargap.figures.precision import precision_figure

    names = ("spectrum_id", "gaia_source_id", "snr_r", "rv", "teff", "logg", "m_h")
    columns = _some(data.spectra, names, data.final)
    return precision_figure(repeat_scatter(columns, data.precision), title=title), columns


def hr(run: Source) -> Drawn:
    """Draw figure 11."""
    data, title = run.data, run.title
    from stargap.figures.diagrams import hr_figure

    stars = _final_stars(data, "bp_rp", "m_g", "m_h", "g_mag", "distance")
    figure = hr_figure(*(stars[name] for name in ("bp_rp", "m_g", "m_h", "g_mag", "distance")), title=title)
    return figure, stars


def active(run: Source) -> Drawn:
    """Draw figure 12."""
    data, title = run.data, run.title
    from stargap.figures.diagrams import active_figure

    stars = _final_stars(data, "bp_rp", "m_g", "m_h", "activity")
    return active_figure(*(stars[name] for name in ("bp_rp", "m_g", "m_h", "activity")), title=title), stars


def subtype(run: Source) -> Drawn:
    """Draw figure 13."""
    data, title = run.data, run.title
    from stargap.figures.survey import subtype_figure

    columns = _some(data.spectra, ("spectrum_id", "spt", "subclass"), data.final)
    return subtype_figure(columns["spt"], columns["subclass"], title=title), columns


def _compared(run: Source, number: int, kind: str, what: str) -> Drawn:
    data = run.data
    tables = [one for one in data.tables if kind_of(one.name) == kind]
    if not any(len(one.matched.rows) for one in tables):
        message = f"no table {what} that has stars of this run was given: name one in [report.comparisons]"
        raise NotDrawn(message)
    return compared_figure(number, tables, data.spectra, title=run.title)


def literature(run: Source) -> Drawn:
    """Draw figure 14."""
    return _compared(run, 14, "literature", "of literature labels")


def apogee(run: Source) -> Drawn:
    """Draw figure 15."""
    return _compared(run, 15, "apogee", "of APOGEE")


def methods(run: Source) -> Drawn:
    """Draw figure 16."""
    return _compared(run, 16, "methods", "of another method")


def differences(run: Source) -> Drawn:
    """Draw figure 17."""
    return _compared(run, 17, "methods", "of another method")


def binaries(run: Source) -> Drawn:
    """Draw figure 18."""
    data, title = run.data, run.title
    from stargap.figures.comparison import binaries_figure
    from stargap.tables.read import read_table

    path = next(iter(sorted((data.folder / "compare").glob("*/binaries.csv"))), None)
    if data.binaries is not None:
        pairs = data.binaries.columns
    elif path is not None:
        pairs = read_table(path)
    else:
        message = (
            "no pairs were compared: name tables of wide binaries and of primaries in [report.binaries], or give "
            "stargap binaries the output RUN/compare/NAME"
        )
        raise NotDrawn(message)
    if not np.isfinite(pairs["m_h"]).any():
        message = "the cuts leave no pair of an FGK star and one of our M dwarfs"
        raise NotDrawn(message)
    return binaries_figure(pairs["m_h"], pairs["primary_m_h"], pairs["snr"], title=title), pairs


def photometry(run: Source) -> Drawn:
    """Draw labels of spectra against those of photometry."""
    data = run.data
    from stargap.figures.photometry import photometry_figure

    unsure = PhotFlag.BINARY_LIKELY | PhotFlag.INCONSISTENT | PhotFlag.OUTSIDE_RELATIONS | PhotFlag.LOW_PARALLAX_SN
    rows = data.final & (data.spectra["phot_flags"] & int(unsure) == 0) & np.isfinite(data.spectra["teff_phot"])
    if not rows.any():
        message = "no star of the final catalogue has labels from photometry: they need Gaia's magnitudes and parallax"
        raise NotDrawn(message)
    names = ("teff", "logg", "m_h")
    marked = tuple(f"{mark}{name}_{what}" for what in ("phot", "joint") for name in names for mark in ("", "e_"))
    alone = tuple(f"e_{name}{what}" for name in names for what in ("", "_sys"))
    columns = _some(data.spectra, ("spectrum_id", "snr_r", *names, *alone, *marked), rows)
    theirs = {name: columns[f"{name}_phot"] for name in names}
    scatter = dict(zip(names, np.diag(Population().scatter()), strict=True))
    noise = {name: np.sqrt(np.maximum(columns[f"e_{name}_phot"] ** 2 - scatter[name], 0.0)) for name in names}
    errors = None
    if np.isfinite(columns["teff_joint"]).any():
        both = {name: np.hypot(columns[f"e_{name}"], np.nan_to_num(columns[f"e_{name}_sys"])) for name in names}
        errors = {"spectrum alone": both} | {
            said: {name: columns[f"e_{name}_{what}"] for name in names}
            for said, what in (("photometry alone", "phot"), ("both together", "joint"))
        }
    figure = photometry_figure(columns, theirs, columns["snr_r"], noise=noise, errors=errors, title=run.title)
    return figure, columns


def recovery(run: Source) -> Drawn:
    """Draw recovered minus true, of simulated stars."""
    data = run.data
    from stargap.figures.recovery import recovery_figure

    assert data.truth is not None
    rows = np.flatnonzero(plain_stars(data))
    columns: Columns = {"spectrum_id": data.spectra["spectrum_id"][rows], "snr_r": data.spectra["snr_r"][rows]}
    for name in QUANTITIES:
        columns |= {name: data.spectra[name][rows], f"e_{name}": errors_of(data.spectra, name)[rows]}
        columns[f"true_{name}"] = np.asarray(data.truth[name], dtype=float)[rows]
    some = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_ERRORBARS])
    shown = {name: values[some] for name, values in columns.items()}
    labels = np.stack([shown.get(f"true_{name}", np.zeros(len(some))) for name in LABELS], axis=1)
    return recovery_figure(shown, labels, shown["true_rv"], shown["snr_r"]), columns
