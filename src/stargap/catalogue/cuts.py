"""The cuts of the final catalogue, as bits and never deletions, counted beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from stargap.errors import UsageError
from stargap.flags import NOTES, FinalCut, Flag
from stargap.paper import LEFT_AFTER_CUT
from stargap.settings import Settings
from stargap.survey.cleaning.rules import is_rejected
from stargap.survey.sample import CutCount, Sample
from stargap.tables.nulls import equal_columns, numbers

__all__ = ["CUT_COLUMNS", "NOTES", "CutSettings", "final_cuts"]

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]

_LABELS = ("rv", "teff", "logg", "m_h")
_LEAST_BIN = 100
_LEAST_SIGMA = 0.05  # dex: where most errors of a bin are at their floor, the next larger ones are no outliers


class CutSettings(Settings):
    """The cuts of the paper's section 4.

    Example:
        >>> CutSettings(errors="paper").hottest_teff
        4300.0
    """

    hottest_teff: float = 4300.0
    """Spectra with a higher Teff are left out (K; section 4, criterion 1)."""
    errors: Literal["stargap", "paper"] = "stargap"
    """What an error of RV, Teff, log g or [M/H] is compared with: "paper" takes the mean and standard deviation of all
    spectra together (criterion 1), which at 5 sigma is little more than a cut in S/N; "stargap" the median and robust
    scatter of the logarithm of errors at about the same S/N."""
    error_sigmas: Annotated[float, Field(gt=0)] = 5.0
    """Standard deviations above its population beyond which an error is too large (criterion 1)."""
    snr_bins: Annotated[int, Field(ge=1, le=1000)] = 20
    """For errors = "stargap": bins of S/N with equal numbers of spectra, of 100 at least."""
    largest_chi2: Annotated[float, Field(gt=0)] = 50.0
    """Spectra with a larger reduced chi-square are left out (criterion 2)."""
    least_age: Annotated[float, Field(ge=0)] = 1.0
    """Spectra of stars whose mean or median kinematic age is lower are left out (Gyr; criterion 3)."""
    keep_unmodelled: bool = False
    """Keep spectra that are unlike the training or of giants, whose labels are outside the range of the training or at
    a bound, whose fit did not converge, or that show a second star or H-alpha beyond chromospheres. The paper has no
    such cut and its preset keeps them."""


_UNCERTAIN: Final = {
    "rv": FinalCut.RV_UNCERTAIN,
    "teff": FinalCut.TEFF_UNCERTAIN,
    "logg": FinalCut.LOGG_UNCERTAIN,
    "m_h": FinalCut.M_H_UNCERTAIN,
}
"""The bit that is set where the error of a label is an outlier."""

_UNMODELLED: Final = (
    ("unlike the training", FinalCut.UNLIKE_TRAINING, Flag.UNLIKE_TRAINING | Flag.GIANT),
    ("outside the training", FinalCut.OUTSIDE_TRAINING, Flag.OUTSIDE_TRAINING),
    ("convergence", FinalCut.NOT_CONVERGED, Flag.NOT_CONVERGED),
    ("bounds", FinalCut.AT_BOUND, Flag.TEFF_AT_BOUND | Flag.M_H_AT_BOUND),
    ("second stars", FinalCut.NOT_SINGLE, Flag.DOUBLE_LINED | Flag.EMISSION),
)
"""Names, bits and flags of the cuts that `CutSettings.keep_unmodelled` leaves out."""

CUT_COLUMNS: Final = (
    *("spectrum_id", "in_sample", "clean_flags", "flags", "snr_r", "snr_i", "activity_3sigma"),
    *_LABELS,
    *(f"e_{name}" for name in _LABELS),
    *("chi2", "age_mean", "age_median", "age_median_msto"),
)
"""The columns that the cuts look at."""


def final_cuts(columns: Mapping[str, ArrayLike], settings: CutSettings | None = None) -> Sample:
    """Apply the cuts of the paper's section 4, in its order, after those of the sample and the cleaning.

    Cuts of our own follow: spectra that the model does not describe (see `CutSettings.keep_unmodelled`).

    Errors are judged one-sided against the population of spectra that pass all cuts before. With errors = "stargap"
    that is, in each bin of S/N (the lower of r and i), the median of log10 of the error and 1.4826 times its median
    absolute deviation, at least 0.05 dex. Bits are set for every spectrum, whatever other cuts say of it.

    Args:
        columns: `CUT_COLUMNS`, each ``(row,)``; spectrum_id, in_sample, clean_flags and flags are needed, others are
            null everywhere where they are missing.
        settings: limits.

    Returns:
        columns spectrum_id, cuts (int64) and in_final_catalogue (bool), the count of each cut, and notes;
        `print_counts` and `counts_table` of `stargap.survey.sample` show it.

    Raises:
        UsageError: a column is missing, or lengths differ.

    Example:
        >>> spectra = {"spectrum_id": [0, 1], "in_sample": [True, True], "clean_flags": [0, 0], "flags": [0, 0],
        ...            "rv": [1.0, 2.0], "teff": [3500.0, 4400.0], "logg": [4.8, 4.8], "m_h": [0.0, 0.0]}
        >>> cuts = final_cuts(spectra)
        >>> cuts.columns["in_final_catalogue"], FinalCut.describe(cuts.columns["cuts"][1] & ~NOTES)
        (array([ True, False]), 'Teff too high for an M dwarf')
        >>> [(count.name, count.left) for count in cuts.counts][:4]
        [('sample', 2), ('cleaning', 2), ('labels', 2), ('Teff', 1)]
    """
    settings = CutSettings() if settings is None else settings
    given = equal_columns(columns, "spectrum_id")
    missing = [name for name in ("in_sample", "clean_flags", "flags") if name not in given]
    if missing:
        message = f"columns missing: {', '.join(map(repr, missing))}; the cuts need the table of a survey run"
        raise UsageError(message)
    rows = len(given["spectrum_id"])
    values = {name: numbers(given, name, rows) for name in CUT_COLUMNS[4:]}
    labels = np.stack([values[name] for name in _LABELS])
    clean_flags = given["clean_flags"].astype(np.int64)

    nothing = np.zeros(rows, dtype=bool)
    steps: list[tuple[str, FinalCut, _Bools, _Bools]] = [
        ("sample", FinalCut.NOT_IN_SAMPLE, given["in_sample"] != 1, nothing),
        ("cleaning", FinalCut.NOT_CLEAN, is_rejected(clean_flags), nothing),
        ("labels", FinalCut.NO_LABELS, np.asarray(np.isnan(labels).any(axis=0)), nothing),
        ("Teff", FinalCut.TOO_HOT, values["teff"] > settings.hottest_teff, nothing),
        ("log g", FinalCut.LOGG_AT_BOUND, _any_flag(given["flags"], Flag.LOGG_AT_BOUND), nothing),
    ]
    population = ~np.any([failed for _, _, failed, _ in steps], axis=0) if rows else nothing
    snr = np.minimum(values["snr_r"], values["snr_i"])
    for name, bit in _UNCERTAIN.items():
        large, unknown = _outliers(values[f"e_{name}"], snr, population, settings)
        steps.append((f"error of {name}", bit, large, unknown))
    young = (values["age_mean"] < settings.least_age) | (values["age_median"] < settings.least_age)
    no_age = np.isnan(values["age_mean"]) & np.isnan(values["age_median"])
    steps.append(("chi2", FinalCut.POOR_FIT, values["chi2"] > settings.largest_chi2, np.isnan(values["chi2"])))
    steps.append(("age", FinalCut.YOUNG, young, no_age))
    if not settings.keep_unmodelled:
        steps += [(name, bit, _any_flag(given["flags"], any_of), nothing) for name, bit, any_of in _UNMODELLED]

    flags, kept, counts = np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool), []
    for step, bit, failed, unknown in steps:
        flags[failed] |= bit
        left = kept & ~failed
        before, out, dark, after = (int(np.count_nonzero(part)) for part in (kept, kept & failed, kept & unknown, left))
        counts.append(CutCount(step, before, out, dark, after, LEFT_AFTER_CUT.get(step)))
        kept = left
    flags[np.any([unknown for name, _, _, unknown in steps if name.startswith("error")], axis=0)] |= (
        FinalCut.ERROR_UNKNOWN
    )
    flags[no_age] |= FinalCut.AGE_UNKNOWN
    active = values["activity_3sigma"] == 1
    flags[active] |= FinalCut.ACTIVE
    other = np.count_nonzero(kept & (values["age_median_msto"] < settings.least_age))
    notes = (
        f"{np.count_nonzero(kept & active):,} spectra left are of stars active beyond 3 sigma "
        "(activity_3sigma), whose labels are suspect",
        f"{other:,} spectra left have a median age below {settings.least_age:g} Gyr under the turn-off calibration, "
        "which is not used for the cut",
    )
    ids = given["spectrum_id"].astype(np.int64)
    return Sample({"spectrum_id": ids, "cuts": flags, "in_final_catalogue": kept}, tuple(counts), notes)


def _any_flag(flags: NDArray[Any], any_of: Flag) -> _Bools:
    known = flags.astype(np.int64)
    return np.asarray((known >= 0) & (known & int(any_of) != 0))


def _outliers(errors: _Floats, snr: _Floats, population: _Bools, settings: CutSettings) -> tuple[_Bools, _Bools]:
    """Return which errors are too large, and which cannot be judged."""
    unknown = np.isnan(errors)
    if settings.errors == "paper":
        known_errors = np.sort(errors[population & ~unknown])  # the order of rows must not matter, to the last digit
        limit = known_errors.mean() + settings.error_sigmas * known_errors.std() if len(known_errors) else np.inf
        return errors > limit, unknown
    unknown = unknown | np.isnan(snr)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_error = np.log10(errors)
    known = np.flatnonzero(population & ~unknown & np.isfinite(log_error))
    if not len(known):
        return np.zeros(len(errors), dtype=bool), unknown
    bins = max(1, min(settings.snr_bins, len(known) // _LEAST_BIN))
    edges = np.quantile(snr[known], np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, snr, side="right")
    largest = np.full(bins, np.inf)
    for number in range(bins):
        here = log_error[known[place[known] == number]]
        if len(here):
            middle = np.median(here)
            sigma = max(1.4826 * float(np.median(np.abs(here - middle))), _LEAST_SIGMA)
            largest[number] = middle + settings.error_sigmas * sigma
    return ~unknown & (log_error > largest[place]), unknown
