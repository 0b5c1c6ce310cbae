"""Bit flags of a measurement; the value of each is a sentence."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["FLAG_TEXT", "NULL_LABELS", "Flag", "flag_text"]


class Flag(IntFlag):
    """Why a number is missing or should be used with care. Bits 24 to 31 are left to users; more of ours go beyond."""

    UNREADABLE = 1 << 0
    TOO_FEW_PIXELS = 1 << 1
    MANY_BAD_PIXELS = 1 << 2
    BAD_CONTINUUM = 1 << 3
    LOW_SN = 1 << 4
    SN_FROM_IVAR = 1 << 5
    RV_EDGE = 1 << 6
    RV_AMBIGUOUS = 1 << 7
    RV_WEAK = 1 << 8
    NOT_CONVERGED = 1 << 9
    TEFF_AT_BOUND = 1 << 10
    LOGG_AT_BOUND = 1 << 11
    M_H_AT_BOUND = 1 << 12
    A_M_AT_BOUND = 1 << 13
    STARTS_DISAGREE = 1 << 14
    BAD_FIT = 1 << 15
    NO_SUBTYPE = 1 << 16
    NO_HALPHA = 1 << 17
    ACTIVE = 1 << 18
    SPIKES_REMOVED = 1 << 19
    POOR_FIT = 1 << 20
    DOMAINS_DISAGREE = 1 << 21
    OUTSIDE_TRAINING = 1 << 22
    NOT_SELECTED = 1 << 23
    UNLIKE_TRAINING = 1 << 32


FLAG_TEXT: dict[Flag, str] = {
    Flag.UNREADABLE: "the file could not be read",
    Flag.TOO_FEW_PIXELS: "too few good pixels for labels, or for velocity too where that is null",
    Flag.MANY_BAD_PIXELS: "more than 20 % of the fitted pixels are bad",
    Flag.BAD_CONTINUUM: "the pseudo-continuum is not positive in places",
    Flag.LOW_SN: "S/N below 5 in r or i",
    Flag.SN_FROM_IVAR: "S/N computed from the inverse variance",
    Flag.RV_EDGE: "the velocity is at the edge of the search",
    Flag.RV_AMBIGUOUS: "another velocity fits nearly as well",
    Flag.RV_WEAK: "no significant velocity signal",
    Flag.NOT_CONVERGED: "the fit of velocity or labels did not converge",
    Flag.TEFF_AT_BOUND: "Teff is at the edge of the model",
    Flag.LOGG_AT_BOUND: "log g is at the edge of the model",
    Flag.M_H_AT_BOUND: "[M/H] is at the edge of the model",
    Flag.A_M_AT_BOUND: "[a/M] is at the edge of the model",
    Flag.STARTS_DISAGREE: "fits from different starts disagree and fit about equally well",
    Flag.BAD_FIT: "reduced chi-square above 50",
    Flag.POOR_FIT: "reduced chi-square above 8: not an M dwarf that the model knows, or bad data",
    Flag.NO_SUBTYPE: "pixels of TiO5 are missing, or its reference is below 3 sigma: no subtype",
    Flag.NO_HALPHA: "pixels at H-alpha are missing, or its continuum is below 3 sigma: no equivalent width",
    Flag.SPIKES_REMOVED: "isolated pixels far from their surroundings were given weight zero",
    Flag.ACTIVE: "H-alpha in emission: labels are suspect",
    Flag.DOMAINS_DISAGREE: "labels of the synthetic and the observed domain differ by more than a transfer explains",
    Flag.OUTSIDE_TRAINING: "labels beyond those of the stars that the transfer was trained on",
    Flag.UNLIKE_TRAINING: "the spectrum is unlike all that the model was made of: labels mean nothing",
    Flag.NOT_SELECTED: "outside the sample and not measured: sample_flags say why",
}

USER_BITS = 24
"""Bits from here to 31 are left to users."""

NULL_LABELS = Flag.UNREADABLE | Flag.TOO_FEW_PIXELS | Flag.NOT_SELECTED
"""Any of these bits means that the labels are null."""


def flag_text(flags: int) -> str:
    """Return the sentences of the bits that are set, joined by ``"; "``; unknown bits are named by number.

    Example:
        >>> flag_text(Flag.LOW_SN | Flag.ACTIVE)
        'S/N below 5 in r or i; H-alpha in emission: labels are suspect'
        >>> flag_text(0), flag_text(1 << 24)
        ('', 'user bit 24')
    """
    parts = [sentence for flag, sentence in FLAG_TEXT.items() if flags & flag]
    known = sum(FLAG_TEXT)
    others = (bit for bit in range(63) if (int(flags) >> bit) & 1 and not (known >> bit) & 1)
    parts += [f"{'user' if USER_BITS <= bit < 32 else 'unknown'} bit {bit}" for bit in others]
    return "; ".join(parts)
