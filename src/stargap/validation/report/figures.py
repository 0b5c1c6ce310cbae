"""The figures of a report: which there are, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stargap.catalogue.velocity import LEAST_STARS, VelocityScale
from stargap.figures.style import png
from stargap.validation.report import drawing, transfers
from stargap.validation.report.data import Columns, RunData
from stargap.validation.report.drawing import Drawn, NotDrawn, Source

if TYPE_CHECKING:
    from stargap.validation.report.fitted import FittedSpectra

__all__ = ["Picture", "draw_figures", "draw_spectra", "scale_text"]

DPI = 110


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure as the page shows it: a PNG and the data behind it, or else the reason why there is none."""

    name: str
    title: str
    caption: str
    png: bytes = b""
    columns: Columns | None = None
    reason: str = ""


def draw_figures(data: RunData) -> Iterator[Picture]:
    """Draw every figure of the paper that a run has the data for, and of simulated stars one against the truth.

    Args:
        data: of the run.
    """
    yield from _draw(Source(data, None, ""), [one for one in FIGURES if one.draw not in OF_SPECTRA])


def draw_spectra(data: RunData, fitted: FittedSpectra | None, why_not: str = "") -> Iterator[Picture]:
    """Draw the figures of single spectra beside their models: 5, 7 and 8.

    Args:
        data: of the run.
        fitted: some of its spectra beside their models.
        why_not: why there are none.
    """
    yield from _draw(Source(data, fitted, why_not), [one for one in FIGURES if one.draw in OF_SPECTRA])


def _draw(run: Source, planned: Sequence[Planned]) -> Iterator[Picture]:
    for name, title, caption, draw in planned:
        if draw is drawing.recovery and run.data.truth is None:
            continue
        if draw is drawing.velocity:
            caption = f"{caption} {scale_text(run.data.velocity)}".strip()
        caption = f"{caption} Simulated stars." if run.data.simulated else caption
        try:
            figure, columns = draw(run)
            yield Picture(name, title, caption, png(figure, dpi=DPI), columns)
        except NotDrawn as error:
            yield Picture(name, title, caption, reason=str(error))
        except Exception as error:  # one figure must not take the whole report with it
            yield Picture(name, title, caption, reason=f"drawing it failed: {type(error).__name__}: {error}")


def scale_text(scale: VelocityScale | None) -> str:
    """Return what was done to velocities and their errors by means of Gaia's, empty where that is not known.

    Example:
        >>> scale_text(VelocityScale(measured=False, stars=7))
        "7 stars have velocities of Gaia's, fewer than 50: no zero point was measured, velocities are as the model ..."
    """
    if scale is None:
        return ""
    if not scale.measured:
        return (
            f"{scale.stars:,} stars have velocities of Gaia's, fewer than {LEAST_STARS}: no zero point was measured, "
            "velocities are as the model gives them."
        )
    return (
        f"A zero point of {scale.zero_point:+.2f} ± {scale.e_zero_point:.2f} km/s, measured on {scale.stars:,} of "
        f"these stars, has been subtracted, and a floor of {scale.floor:.2f} ± {scale.e_floor:.2f} km/s is in "
        "e_rv_sys. "
        f"On the scale of the other half, each half of the stars has a median of {scale.left_out_median:+.2f} and a "
        f"scatter of {scale.left_out_scatter:.2f} km/s, {scale.left_out_pull:.2f} times the published errors."
    )


class Planned(NamedTuple):
    """A figure of the report: the name of its files, its heading, its caption, and what draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[Source], Drawn]


# fmt: off
_PLAN: tuple[tuple[str, str, str, Callable[[Source], Drawn]], ...] = (
    ("01-sky", "Figure 1: the sky", "Stars of the final catalogue in Galactic coordinates.", drawing.sky),
    ("02-snr", "Figure 2: S/N",
     "S/N per pixel of all spectra in r and i; the sample starts at the dashed line.", drawing.snr),
    ("03-emulator", "Figure 3: errors of the emulator",
     "Errors of The Payne on spectra it was not trained on.", drawing.emulator),
    ("04-velocity", "Figure 4: velocities against Gaia's",
     "Our radial velocities of stars in the final catalogue, means of their spectra, against Gaia's, and their "
     "differences; n counts stars.", drawing.velocity),
    ("05-processing", "Figure 5: one spectrum's processing",
     "A spectrum with its pseudo-continuum, its error, and both after division; pixels that fits leave out are shaded.",
     drawing.processing),
    ("05b-fit", "One spectrum's fit", "The same spectrum, its best model, and residuals over errors.", drawing.fit),
    ("06-losses", "Figure 6: losses", "Losses of the transfer's training.", transfers.losses),
    ("07-tsne", "Figure 7: the two domains",
     "t-SNE of observed spectra and of models of others before and after the transfer, and, where it is a network, of "
     "both in its shared latent; distances between far points mean nothing.", transfers.tsne),
    ("08-residuals", "Figure 8: residuals",
     "Mean |residual| / σ of observed spectra against their best models, before and after the transfer.",
     transfers.residuals),
    ("09-kiel", "Figure 9: Kiel diagram",
     "log g against Teff of stars in the final catalogue, coloured by [M/H], with PARSEC isochrones of 5 Gyr.",
     drawing.kiel),
    ("10-precision", "Figure 10: scatter of repeats",
     "Scatter of repeated observations against S/N in r, with the curve a / (S/N) + b.", drawing.precision),
    ("11-hr", "Figure 11: Gaia's HR diagram",
     "Stars of the final catalogue on Gaia's HR diagram coloured by [M/H], and histograms of G and distance.",
     drawing.hr),
    ("12-active", "Figure 12: active stars",
     "Active stars on Gaia's HR diagram, with the 15, 50 and 85 percentiles of all stars.", drawing.active),
    ("13-subtype", "Figure 13: subtypes", "Subtypes from TiO5 and the pipeline's subclasses.", drawing.subtype),
    ("14-literature", "Figure 14: literature",
     "Labels against literature; filled symbols are of S/N above 50.", drawing.literature),
    ("15-apogee", "Figure 15: APOGEE", "Labels against APOGEE's, and their differences.", drawing.apogee),
    ("16-methods", "Figure 16: other methods", "HR and Kiel diagrams of several methods.", drawing.methods),
    ("17-differences", "Figure 17: other methods", "Our labels minus those of other methods.", drawing.differences),
    ("18-binaries", "Figure 18: wide binaries",
     "[M/H] of M dwarfs against [Fe/H] of their FGK primaries.", drawing.binaries),
    ("18b-photometry", "Spectrum against photometry",
     "Labels of spectra in the final catalogue against labels from Gaia's and 2MASS's photometry, of stars that are "
     "probably single and within the range of the relations. Below, errors of either and of both together.",
     drawing.photometry),
    ("19-recovery", "Recovered minus true",
     "Inactive M dwarfs of the final catalogue: recovered minus true, with the published errors.", drawing.recovery),
)
# fmt: on
FIGURES = tuple(Planned(*one) for one in _PLAN)
"""The figures in the order of the page, which is that of their names; the last is of simulated stars alone."""
OF_SPECTRA = (drawing.processing, drawing.fit, transfers.tsne, transfers.residuals)
"""What draws spectra that are fitted again."""
