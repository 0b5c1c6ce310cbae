"""Bit flags of photometric labels; the value of each is a sentence."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["PHOT_FLAG_TEXT", "PhotFlag"]


class PhotFlag(IntFlag):
    """Why photometric labels are null or to be used with care."""

    NO_PHOTOMETRY = 1 << 0
    NO_PARALLAX = 1 << 1
    LOW_PARALLAX_SN = 1 << 2
    HIGH_RUWE = 1 << 3
    NO_KS = 1 << 4
    BINARY_LIKELY = 1 << 5
    EXTINCTION_UNKNOWN = 1 << 6
    OUTSIDE_RELATIONS = 1 << 7
    INCONSISTENT = 1 << 8
    NO_SOLUTION = 1 << 9


PHOT_FLAG_TEXT: dict[PhotFlag, str] = {
    PhotFlag.NO_PHOTOMETRY: "no BP or RP magnitude: no photometric labels",
    PhotFlag.NO_PARALLAX: "no parallax, or one below 5 sigma: no photometric labels",
    PhotFlag.LOW_PARALLAX_SN: "the parallax is below 20 sigma: [M/H] and log g from photometry are poor",
    PhotFlag.HIGH_RUWE: "RUWE above 1.4: the astrometry does not fit a single star",
    PhotFlag.NO_KS: "no Ks magnitude of quality A to C: photometric labels are from Gaia alone",
    PhotFlag.BINARY_LIKELY: "an unresolved companion is more likely than none: too bright for a single star",
    PhotFlag.EXTINCTION_UNKNOWN: "beyond 70 pc without a given extinction: 0.5 mag/kpc assumed, with an error as large",
    PhotFlag.OUTSIDE_RELATIONS: "photometric labels outside 2780 to 4100 K or [M/H] -0.54 to +0.53: extrapolated",
    PhotFlag.INCONSISTENT: "the magnitudes do not fit together: a blend, a bad magnitude, or no M dwarf",
    PhotFlag.NO_SOLUTION: "the magnitudes are those of no M dwarf: no photometric labels",
}
