"""How a residual transfer is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stargap.settings import Settings

__all__ = ["ResidualSettings"]


class ResidualSettings(Settings):
    """How a residual transfer is trained."""

    stars: Annotated[int, Field(ge=100)] = 12_000
    """Training spectra that the correction is fitted to: the brightest."""
    match_stars: Annotated[int, Field(ge=100)] = 6_000
    """Training spectra that the label map is fitted to: drawn at random, since a cut in S/N selects labels."""
    gauge_stars: Annotated[int, Field(ge=100)] = 3_000
    """Bright spectra that find the pixels which the emulator cannot reproduce."""
    validation_stars: Annotated[int, Field(ge=50)] = 1_000
    """Validation spectra that choose between rounds."""
    gauge_rounds: Annotated[int, Field(ge=0, le=20)] = 3
    """Fits that each end with a new error floor, pixel by pixel; 0 keeps a floor of 0.015 everywhere."""
    rounds: Annotated[int, Field(ge=0, le=20)] = 2
    """Corrections, each followed by fits through it."""
    degree: Annotated[int, Field(ge=0, le=4)] = 2
    """Of the correction in Teff and [M/H]."""
    map_degree: Annotated[int, Field(ge=0, le=3)] = 1
    """Of the label map."""
    ridge: Annotated[float, Field(gt=0)] = 0.05
    """Expected size of a coefficient of the correction (relative flux)."""
    floor: Annotated[float, Field(gt=0)] = 0.003
    """Least error floor (normalised flux)."""
    match: bool = True
    """Fit the label map to the label prior; otherwise labels are those at which the emulator fits, or, with anchors,
    those that agree with these alone. A hundred anchors or more need no prior, and the match is left out."""
    effective: Annotated[float, Field(gt=0)] = 150.0
    """Stars that the match of labels to the prior is worth: how well the prior is known."""
    free_mix: bool = False
    """Let the survey's labels be mixed otherwise than the prior; sensible with anchor stars (see `fit_label_map`)."""
    sequence: bool = True
    """Use the main sequence of the bright stars as a prior on log g."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the split of spectra, of samples and of the fit to the prior."""
