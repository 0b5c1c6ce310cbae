"""The rules of the cleaning: settings with their limits, and the reasons for which spectra are rejected."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stargap.flags import Clean
from stargap.settings import Settings

__all__ = ["OF_CLUSTER", "OF_SPECTRUM", "QUIET", "CleaningSettings", "is_rejected"]

QUIET: Final = (
    (6018, 6048), (6333, 6378), (6393, 6423), (6438, 6453), (6498, 6513), (6618, 6648), (6663, 6678), (6738, 6768),
    (6798, 6828), (6933, 6993), (7008, 7023), (7368, 7578), (7713, 7728), (7743, 7758), (7773, 7788), (7818, 7833),
    (7848, 7863), (7923, 7938), (7953, 7983), (8013, 8073), (8253, 8298), (8313, 8403), (8478, 8508), (8553, 8598),
    (8613, 8658), (8733, 8808), (8823, 8838), (8853, 8868),
)  # fmt: skip
"""Where the 44 mean dwarfs of types K5-M9, [Fe/H] -2 to +1, of Kesseli et al. (2017, ApJS 230, 16) stay within 5 % of
their pseudo-continuum (A, vacuum; docs/make_cleaning_limits.py)."""


class CleaningSettings(Settings):
    """The rules of the cleaning and their limits (paper section 2.1; METHOD section 1, point 4).

    Limits on bands come from the mean spectra of Kesseli et al. (2017), prepared like the stars
    (docs/make_cleaning_limits.py prints them); those on noise and flatness leave a margin for survey spectra.

    Example:
        >>> CleaningSettings(clusters=60).rounds
        8
    """

    clusters: Annotated[int, Field(ge=1, le=1000)] = 48
    """Clusters of a round; a quarter of the number of spectra where that is fewer."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 8
    """Most rounds: what remains is clustered anew until no cluster is rejected."""
    sample: Annotated[int, Field(ge=100)] = 50_000
    """Most spectra, drawn at random, that K-means sees in a round; all are then assigned to the clusters."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the sample and of K-means."""
    noise_factor: Annotated[float, Field(ge=1, le=10)] | None = None
    """Noise over what the inverse variance says; by default measured: the median, over spectra of which a bin is worse
    than 4 %, of the differences between neighbouring quiet bins over what their errors give, at least 1. LAMOST co-adds
    have about 1.5 (docs/results/emulator-stars.md)."""
    scatter: Annotated[float, Field(gt=0, le=1)] = 0.03
    """What members of one cluster may differ by, a fraction of the flux in bins of 15 A, added to their noise."""
    relative_scatter: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The same, a fraction of the depth of a band: what members differ by where bands are deep, as in late dwarfs. It
    counts in the distance of a spectrum from its cluster."""
    least_coverage: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Fraction of the bins below which a spectrum is rejected; saturated bright dwarfs keep about half."""
    longest_end: Annotated[float, Field(gt=0)] = 800.0
    """A spectrum without good pixels over more than this at either end (A) lacks part of an arm. Gaps within, as
    saturation leaves them, are none of this rule."""
    least_snr: Annotated[float, Field(ge=0)] = 2.0
    """Median S/N per native pixel below which a spectrum holds no signal."""
    most_roughness: Annotated[float, Field(gt=0)] = 0.05
    """Scatter of pixels about straight lines within quiet bins that noise does not explain, a fraction of the flux; the
    three worst bins do not count, so that cosmic hits do not."""
    most_distance: Annotated[float, Field(gt=0)] = 0.9
    """Mean over the bins, but for the two that differ most, of squared differences from the cluster, over those that
    noise, `scatter` and `relative_scatter` give."""
    least_bands: float = 0.03
    """Depth of TiO5 plus depth of CaH1 below which a cluster has no bands: mean dwarfs of K7 and [Fe/H] -0.5 or more
    show 0.037 to 0.049, of M0 0.09 or more, of K5 0.005 to 0.031. K7 dwarfs of [Fe/H] -1 show none and are lost."""
    borderline_bands: float = 0.05
    """The same below which it is borderline."""
    least_cah1: float = 0.02
    """Depth of CaH1 below which a cluster whose TiO5 is deeper than 0.15 is of giants: dwarfs show 0.03 or more."""
    most_quiet: Annotated[float, Field(gt=0)] = 0.08
    """Rms deviation of a cluster from 1 in quiet bins; dwarfs of all types show up to 0.03 (models of late metal-poor
    ones 0.07). Above two thirds of it a cluster is borderline."""
    least_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """A cluster smaller than this fraction of the mean cluster is dissolved: its spectra are compared with the others,
    so that rare spectra must resemble one of them."""


OF_SPECTRUM = Clean.FEW_PIXELS | Clean.MISSING_ARM | Clean.NO_SIGNAL | Clean.ROUGH | Clean.OUTLIER
OF_CLUSTER = Clean.WEAK_BANDS | Clean.GIANT | Clean.NOT_QUIET


def is_rejected(flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which spectra are not to be used by bits of `Clean` ``(star,)``, a person's verdicts above the rules'.

    Example:
        >>> is_rejected(np.array([0, Clean.ROUGH, Clean.GIANT, Clean.GIANT | Clean.OVERRULED_KEEP, Clean.BORDERLINE]))
        array([False,  True,  True, False, False])
        >>> is_rejected(np.array([Clean.ROUGH | Clean.KEPT, Clean.OVERRULED_REJECT | Clean.KEPT, Clean.REJECTED]))
        array([False, False,  True])
    """
    of_cluster = (flags & int(OF_CLUSTER) != 0) & (flags & int(Clean.OVERRULED_KEEP) == 0)
    others = of_cluster | (flags & int(OF_SPECTRUM | Clean.OVERRULED_REJECT) != 0)
    return np.asarray((others & (flags & int(Clean.KEPT) == 0)) | (flags & int(Clean.REJECTED) != 0))
