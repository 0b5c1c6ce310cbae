"""The paper's numbers beside those of a survey run, and, of simulated stars, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap import paper
from stargap.figures.survey import subclass_numbers
from stargap.flags import Companion, FinalCut
from stargap.statistics import robust_scatter, statistics
from stargap.survey.cleaning.rules import is_rejected
from stargap.validation.matching import NAMES, UNITS, Quantity
from stargap.validation.report.compared import Compared, kind_of
from stargap.validation.report.data import RunData
from stargap.validation.report.truth import (
    DIGITS,
    QUANTITIES,
    errors_of,
    known_dwarfs,
    percentage,
    plain_stars,
)
from stargap.validation.sheets import Sheet, number

if TYPE_CHECKING:
    from stargap.validation.report.fitted import FittedSpectra

__all__ = ["headline_sheet"]

BRIGHT = 50.0
"""S/N above which the paper gives the scatter once more."""

Row = tuple[str, str, str, str]
"""The quantity, and what the paper, the run, and the run against the truth say."""


def headline_sheet(data: RunData, fitted: FittedSpectra | None = None) -> Sheet:
    """Return the paper's numbers beside the run's, and where the truth is known the run's errors against it.

    Offsets from other sources are median ± standard deviation after a 3-sigma clip (METHOD.md 11). Offsets from the
    truth are of inactive M dwarfs in the final catalogue, and pulls are over the published and the systematic error.
    "Found" is the percentage of the true stars that a flag marks, and "pure" that of the marked stars that are true.

    Args:
        data: of the run.
        fitted: some of its spectra beside their models.
    """
    title = "The paper and this run"
    header = ("quantity", "paper, real stars", f"this run{data.mark}")
    rows = [*_counts(data), *_flags(data), *_offsets(data), *_binaries(data), *_subclass(data)]
    rows += _residuals(fitted)
    if data.truth is None:
        return Sheet(title, header, tuple(row[:3] for row in rows))
    return Sheet(title, (*header, "against the truth (simulated)"), tuple(rows))


def _counts(data: RunData) -> Iterator[Row]:
    """Yield how many spectra and stars each step leaves."""
    inside = data.spectra["cuts"] & int(FinalCut.NOT_IN_SAMPLE) == 0
    rejected = is_rejected(data.spectra["clean_flags"])
    lost = ""
    if data.truth is not None:
        dwarf = known_dwarfs(data.truth) | ~data.truth["known"]
        lost = f"{percentage(rejected[inside & ~dwarf])} of junk, {percentage(rejected[inside & dwarf])} of stars lost"
    stars = data.stars["in_final_catalogue"].sum()
    yield "spectra of class M dwarf", f"{paper.M_DWARF_SPECTRA:,}", _count_m_dwarfs(data), ""
    yield "left by sample and cleaning", f"{paper.CLEAN_SPECTRA:,}", f"{(inside & ~rejected).sum():,}", lost
    yield "spectra in the catalogue", f"{paper.CATALOGUE_SPECTRA:,}", f"{data.final.sum():,}", ""
    yield "stars in the catalogue", f"{paper.CATALOGUE_STARS:,}", f"{stars:,}", ""


def _count_m_dwarfs(data: RunData) -> str:
    """Return how many spectra pass the first cut of the sample, or the number of all where that is not recorded."""
    first = next((sheet.rows[0] for sheet in data.cuts if sheet.rows and sheet.rows[0][0] == "class M dwarf"), None)
    return first[4] if first is not None else f"{len(data.final):,}"


def _flags(data: RunData) -> Iterator[Row]:
    """Yield how many spectra are marked, and how complete and pure the marks are among measured M dwarfs."""
    spectra, final = data.spectra, data.final
    variable, binary = (spectra["vb_flag"] & int(bit) != 0 for bit in (Companion.VARIABLE, Companion.BINARY))
    young = spectra["cuts"] & int(FinalCut.YOUNG) != 0
    aged = spectra["cuts"] & int(FinalCut.AGE_UNKNOWN) == 0
    matched = spectra["vb_flag"] >= 0
    total = paper.CATALOGUE_SPECTRA
    marks = [
        ("active", "active spectra", paper.ACTIVE_SPECTRA, spectra["activity"] == 1, spectra["activity"] >= 0, final),
        ("variable", "variable candidates", paper.VARIABLE_SPECTRA, variable & matched, matched, final),
        ("binary", "binary candidates", None, binary & matched, matched, final),
        ("young", "spectra removed as young", None, young, aged, np.ones_like(final)),
    ]
    for name, title, theirs, marked, judged, counted in marks:
        count = int((marked & counted).sum())
        share = "" if name == "young" or not final.any() else f" ({percentage(marked[final])})"
        printed = "" if theirs is None else f"{theirs:,} ({theirs / total:.1%})".replace("%)", " %)")
        yield title, printed, f"{count:,}{share}", _found(data, name, marked, judged)


def _found(data: RunData, name: str, marked: NDArray[np.bool_], judged: NDArray[np.bool_]) -> str:
    if data.truth is None or name not in data.truth:
        return ""
    considered = known_dwarfs(data.truth) & np.isfinite(np.asarray(data.spectra["teff"], dtype=float)) & judged
    if not considered.any():
        return "none judged"
    true = data.truth[name]
    return f"{percentage(marked[considered & true])} found, {percentage(true[considered & marked])} pure"


def _offsets(data: RunData) -> Iterator[Row]:
    """Yield offsets from Gaia, literature and APOGEE, and the scatter of repeats, of each quantity."""
    spectra, final = data.spectra, data.final
    literature, apogee = (
        [one for one in data.tables if kind_of(one.name) == kind] for kind in ("literature", "apogee")
    )
    absent = "see comparisons" if data.comparisons else "not compared"
    for name in QUANTITIES:
        digits, other = DIGITS[name], "Gaia's" if name == "rv" else "literature"
        bias, scatter = paper.OFFSETS[name]
        if name == "rv":
            ours = _offset(spectra["rv"][final], spectra["gaia_rv"][final], digits, _spectra_of_stars(data))
        else:
            ours = _offset(*_in_common(literature, name), digits, "stars") if literature else absent
        title = f"{NAMES[name]} − {other} ({UNITS[name]})"
        yield title, f"{bias:+.{digits}f} ± {scatter:.{digits}f}", ours, _against_truth(data, name)
        if name in paper.BRIGHT_SCATTER and literature:
            bright = f"± {paper.BRIGHT_SCATTER[name]:.{digits}f}"
            yield (
                f"{NAMES[name]} − literature, S/N > {BRIGHT:g}",
                bright,
                _offset(*_in_common(literature, name, snr_above=BRIGHT), digits, "stars"),
                "",
            )
        if name != "rv" and apogee:
            one = next(one for one in apogee[0].comparison.agreements if one.quantity == name)
            printed = f"{one.paper_bias:+.{digits}f} ± {one.paper_scatter:.{digits}f}"
            yield f"{NAMES[name]} − APOGEE", printed, _offset(*_in_common(apogee, name), digits, "stars"), ""
        for snr, printed_scatter in zip((10.0, 100.0), paper.REPEATS[name], strict=True):
            curve = data.precision.errors.get(name)
            error = np.nan if curve is None else float(curve.repeat_error(snr))
            found = f"{error:.{digits}f}" if np.isfinite(error) else "too few repeats"
            yield f"{NAMES[name]}, repeats at S/N {snr:g}", f"{printed_scatter:.{digits}f}", found, ""


def _spectra_of_stars(data: RunData) -> str:
    """Return what velocities against Gaia's are counted in: spectra, and the stars that figure 4 shows."""
    both = np.isfinite(data.stars["rv"]) & np.isfinite(data.stars["gaia_rv"])
    return f"spectra of {np.count_nonzero(both & (data.stars['in_final_catalogue'] == 1)):,} stars"


def _in_common(
    tables: list[Compared], name: Quantity, *, snr_above: float = -np.inf
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return our values and theirs of the stars of all tables that have the quantity."""
    having = [one.matched for one in tables if name in one.matched.ours]
    rows = [~(one.snr <= snr_above) for one in having]
    ours, theirs = (
        np.concatenate([np.empty(0), *(getattr(one, side)[name][kept] for one, kept in zip(having, rows, strict=True))])
        for side in ("ours", "reference")
    )
    return ours, theirs


def _against_truth(data: RunData, name: Quantity) -> str:
    if data.truth is None:
        return ""
    plain = plain_stars(data)
    ours, true = np.asarray(data.spectra[name], dtype=float)[plain], np.asarray(data.truth[name], dtype=float)[plain]
    pull = (ours - true) / errors_of(data.spectra, name)[plain]
    pulls = number(robust_scatter(pull[np.isfinite(pull)]), digits=2)
    return f"{_offset(ours, true, DIGITS[name], 'spectra')}, pulls {pulls}"


def _offset(ours: ArrayLike, reference: ArrayLike, digits: int, what: str) -> str:
    first, second = np.asarray(ours, dtype=float), np.asarray(reference, dtype=float)
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return "too few"
    found = statistics(first[both], second[both])
    return f"{found.median:+z.{digits}f} ± {found.clipped:.{digits}f} ({both.sum():,} {what})"


def _binaries(data: RunData) -> Iterator[Row]:
    """Yield how [M/H] agrees with that of the FGK primaries of wide binaries."""
    for one in () if data.binaries is None else data.binaries.agreements:
        theirs = paper.BINARIES.get(one.snr_above)
        printed = "" if theirs is None else f"{theirs.bias:+.2f} ± {theirs.scatter:.2f}"
        values, count = one.result.values, one.result.n
        ours = f"{values.median:+z.2f} ± {values.clipped:.2f} ({count:,} pairs)" if count >= 3 else "too few"
        yield f"[M/H] − primary's, S/N > {one.snr_above:g}", printed, ours, ""


def _subclass(data: RunData) -> Iterator[Row]:
    bias, scatter = paper.SUBCLASS_OFFSET
    ours = _offset(
        subclass_numbers(data.spectra["subclass"][data.final]), data.spectra["spt"][data.final], 2, "spectra"
    )
    yield "pipeline's subclass − SpT", f"{bias:+.2f} ± {scatter:.2f}", ours, ""


def _residuals(fitted: FittedSpectra | None) -> Iterator[Row]:
    """Yield the medians of mean |residual| / sigma of the spectra that were fitted again."""
    if fitted is None:
        return
    after = number(_finite_median(fitted.after), digits=2)
    if fitted.before is None:
        yield "mean |residual| / σ, emulator", "over 2.0", after, ""
        return
    yield "mean |residual| / σ, before", "over 2.0", number(_finite_median(fitted.before), digits=2), ""
    yield "mean |residual| / σ, after", f"{paper.RESIDUAL:g}", after, ""


def _finite_median(values: ArrayLike) -> float:
    given = np.asarray(values, dtype=float)
    finite = given[np.isfinite(given)]
    return float(np.median(finite)) if finite.size else np.nan
