"""The paper's numbers beside those of a survey run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from stargap.figures.survey import subclass_numbers
from stargap.flags import FinalCut
from stargap.statistics import robust_scatter, statistics
from stargap.survey.cleaning.rules import is_rejected
from stargap.validation.report.data import RunData
from stargap.validation.report.spectra import FittedSpectra
from stargap.validation.report.truth import DIGITS, QUANTITIES, errors_of, plain_stars
from stargap.validation.sheets import Sheet, number

__all__ = ["PAPER_OFFSETS", "PAPER_REPEATS", "headline_sheet"]

PAPER_OFFSETS = {"rv": (3.0, 9.0), "teff": (12.0, 70.0), "logg": (-0.04, 0.17), "m_h": (-0.06, 0.20)}
"""Median and scatter of velocities against Gaia's (section 2.3), of labels against literature (section 5.1)."""
PAPER_REPEATS = {"rv": (9.7, 3.7), "teff": (61.0, 22.0), "logg": (0.07, 0.02), "m_h": (0.14, 0.05)}
"""Scatter of repeats at S/N 10 and 100 (section 4.1)."""


def headline_sheet(data: RunData, fitted: FittedSpectra | None) -> Sheet:
    """Return the paper's numbers beside the run's, and where the truth is known what the run says against it.

    Offsets are median ± standard deviation after a 3-sigma clip (METHOD.md 11).

    Args:
        data: of the run.
        fitted: some of its spectra beside their models.
    """
    title = "The paper and this run"
    header = ("quantity", "paper, real stars", f"this run{data.mark}")
    rows = [*_counts(data), *_offsets(data), *_repeats(data), *_residuals(data, fitted)]
    if data.truth is None:
        return Sheet(title, header, tuple(row[:3] for row in rows))
    return Sheet(title, (*header, "against the truth (simulated)"), tuple(rows))


def _counts(data: RunData) -> Iterator[tuple[str, str, str, str]]:
    spectra, final = data.spectra, data.final
    inside = spectra["cuts"] & int(FinalCut.NOT_IN_SAMPLE) == 0
    clean = inside & ~is_rejected(spectra["clean_flags"])
    active = spectra["activity"][final] == 1
    counts: list[tuple[str, int, str]] = [
        ("spectra of class M dwarf", 818_686, _count_m_dwarfs(data)),
        ("left after the cuts of the sample and the cleaning", 538_107, f"{clean.sum():,}"),
        ("spectra in the final catalogue", 507_513, f"{final.sum():,}"),
        ("stars in the final catalogue", 426_008, f"{data.stars['in_final_catalogue'].sum():,}"),
    ]
    for title, paper, ours in counts:
        yield title, f"{paper:,}", ours, ""
    share = f"{active.sum():,} ({100 * active.mean():.1f} %)" if active.size else "-"
    yield "active spectra among them", "33,623 (6.6 %)", share, _true_activity(data)


def _count_m_dwarfs(data: RunData) -> str:
    """Return what passes the first cut of the sample; all spectra where its counts are gone."""
    first = next((sheet.rows[0] for sheet in data.cuts if sheet.rows and sheet.rows[0][0] == "class M dwarf"), None)
    return first[4] if first is not None else f"{len(data.final):,}"


def _true_activity(data: RunData) -> str:
    if data.truth is None or not data.final.any():
        return ""
    true = data.truth["active"].astype(bool)[data.final & data.truth["known"]]
    return f"{true.sum():,} ({100 * true.mean():.1f} %)" if true.size else ""


def _offsets(data: RunData) -> Iterator[tuple[str, str, str, str]]:
    spectra, final = data.spectra, data.final
    gaia = _told(spectra["rv"][final], spectra["gaia_rv"][final], DIGITS["rv"])
    literature = "see comparisons" if data.comparisons else "not compared"
    for name, (median, scatter) in PAPER_OFFSETS.items():
        digits, of = DIGITS[name], "Gaia's" if name == "rv" else "literature"
        title = QUANTITIES[name].replace(" (", f" − {of} (")
        paper = f"{median:+.{digits}f} ± {scatter:.{digits}f}"
        yield title, paper, gaia if name == "rv" else literature, _against_truth(data, name)
    classes = _told(subclass_numbers(spectra["subclass"][final]), spectra["spt"][final], 2)
    yield "subclass of the pipeline − SpT (subclasses)", "+0.18 ± 0.74", classes, ""


def _against_truth(data: RunData, name: str) -> str:
    if data.truth is None:
        return ""
    plain = plain_stars(data)
    ours, true = np.asarray(data.spectra[name], dtype=float)[plain], np.asarray(data.truth[name], dtype=float)[plain]
    pull = (ours - true) / errors_of(data.spectra, name)[plain]
    pulls = number(robust_scatter(pull[np.isfinite(pull)]), digits=2)
    return f"{_told(ours, true, DIGITS[name])}, pulls {pulls}"


def _told(ours: ArrayLike, reference: ArrayLike, digits: int) -> str:
    first, second = np.asarray(ours, dtype=float), np.asarray(reference, dtype=float)
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return "too few"
    found = statistics(first[both], second[both])
    return f"{found.median:+z.{digits}f} ± {found.clipped:.{digits}f} (n {both.sum():,})"


def _repeats(data: RunData) -> Iterator[tuple[str, str, str, str]]:
    for name, title in QUANTITIES.items():
        for snr, paper in zip((10.0, 100.0), PAPER_REPEATS[name], strict=True):
            curve = data.precision.errors.get(name)
            ours = np.nan if curve is None else float(curve.repeat_error(snr))
            digits = DIGITS[name]
            told = f"{ours:.{digits}f}" if np.isfinite(ours) else "too few repeats"
            yield f"scatter of repeats at S/N {snr:g}, {title}", f"{paper:.{digits}f}", told, ""


def _residuals(data: RunData, fitted: FittedSpectra | None) -> Iterator[tuple[str, str, str, str]]:
    if fitted is None:
        return
    after = number(_middle(fitted.after), digits=2)
    if fitted.before is None:
        yield "mean |residual| / σ of the emulator (no transfer)", "over 2.0", after, ""
        return
    yield "mean |residual| / σ before the transfer", "over 2.0", number(_middle(fitted.before), digits=2), ""
    yield "mean |residual| / σ after the transfer", "1.68", after, ""


def _middle(values: ArrayLike) -> float:
    given = np.asarray(values, dtype=float)
    finite = given[np.isfinite(given)]
    return float(np.median(finite)) if finite.size else np.nan
