"""How an anchored transfer is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stargap.settings import Settings

__all__ = ["AnchorSettings"]


class AnchorSettings(Settings):
    """How an anchored transfer is made."""

    teff_degree: Annotated[int, Field(ge=0, le=3)] = 0
    """Of the correction in Teff; 0 is one factor a pixel, and the directions take up what changes."""
    metallicity_degree: Annotated[int, Field(ge=0, le=2)] = 0
    """Of the correction in [M/H]; 0 keeps the synthetic spectra's own change with metallicity."""
    ridge: Annotated[float, Field(gt=0)] = 0.2
    """Expected size of the correction (relative flux); of each power of Teff (per 300 K) or [M/H] (per 0.3 dex) a half,
    a quarter and so on."""
    floor: Annotated[float, Field(gt=0)] = 0.02
    """Where the search for the scatter of anchors about the correction begins; half of it is the least floor."""
    gap_weight: Annotated[float, Field(ge=0)] = 0.0
    """Share of the correction itself that is added to the floor: badly modelled bands lose their say, the blue with
    its order in [M/H] first."""
    gap_smoothing: Annotated[float, Field(ge=0)] = 20.0
    """Width over which that share is averaged (A, standard deviation of a Gaussian)."""
    directions: Annotated[int, Field(ge=0, le=20)] = 8
    """Ways in which spectra may differ that are fitted with the labels and not published."""
    prior: bool = True
    """Hold log g near the 5 Gyr isochrone at the star's own Teff and [M/H]; otherwise it is free within 0.5 dex."""
    logg_width: Annotated[float, Field(gt=0, lt=9)] = 0.02
    """Width of that prior (dex); gravities from M_K scatter by this about the sequence."""
    m_h: Annotated[float, Field(gt=-9, lt=9)] = -0.05
    """Mean of the prior on [M/H] (dex)."""
    m_h_width: Annotated[float, Field(gt=0, lt=9)] = 0.5
    """Its width (dex)."""
    reach: Annotated[float, Field(ge=0)] = 200.0
    """How far beyond the anchors' Teff the correction goes on (K)."""
    contrast: Annotated[float, Field(gt=0, le=2)] = 0.7
    """Power of the emulator's normalised flux: real bands are shallower than synthetic ones, and change less."""
    alpha_slope: Annotated[float, Field(ge=-1, le=1)] = 0.15
    """[a/M] of all fits at [M/H] = -1, 0 at solar. The paper's 0.4 gives chi-square of metal-poor stars two minima."""
    label_map: bool = True
    """Bring fitted labels to the anchors' scale with what anchors left out in turn say: the stretch of [M/H], Teff."""
    map_reach: Annotated[float, Field(gt=0)] = 1.0
    """[M/H] below solar (dex) where that stretch has gone down to a half; further down labels are the spectrum's."""
    folds: Annotated[int, Field(ge=3, le=1000)] = 8
    """Groups of stars that are left out in turn, three with 500 anchors or more. The stars of one are judged by a map
    made without them too: this many trainings squared, and halved."""
