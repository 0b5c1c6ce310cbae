"""Bit flags of every table: each bit has a name and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from functools import lru_cache
from typing import Final

__all__ = ["FLAG_COLUMNS", "NOTES", "NULL_LABELS", "USER_BITS", "AgeFlag", "BitFlag", "Clean", "Companion", "Cut",
           "FinalCut", "Flag", "JointFlag", "PhotFlag", "PrecisionFlag", "bit_text", "set_bits",
           "worst_first"]  # fmt: skip

USER_BITS: Final = 24
"""Bits from this one to 31 are left to users."""


class BitFlag(IntFlag):
    """A set of bits, each defined by its value and the sentence that explains it.

    Example:
        >>> Flag.LOW_SN.sentence
        'S/N below 5 in r or i'
        >>> Flag.describe(Flag.LOW_SN | Flag.ACTIVE)
        'S/N below 5 in r or i; H-alpha in emission: labels are suspect'
        >>> Flag.describe(0), Flag.describe(1 << 24)
        ('', 'user bit 24')
    """

    sentence: str

    def __new__(cls, value: int, sentence: str = "") -> BitFlag:
        """Make a member from its bit and its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    @classmethod
    @lru_cache(maxsize=4096)
    def describe(cls, bits: int) -> str:
        """Return the sentences of the bits that are set, in the order of their definition,
        joined by ``"; "``; unknown bits are named by number."""
        bits = int(bits)
        known = [member for member in cls if bits & member]
        others = set_bits(bits & ~sum(known))
        return "; ".join([member.sentence for member in known] + [_unknown(bit) for bit in others])


def set_bits(mask: int) -> list[int]:
    """Return the numbers of the bits that are set; none where the mask is null (-9999).

    Example:
        >>> set_bits(5), set_bits(-9999)
        ([0, 2], [])
    """
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1] if mask > 0 else []


def _unknown(bit: int) -> str:
    return f"{'user' if USER_BITS <= bit < 32 else 'unknown'} bit {bit}"


class Flag(BitFlag):
    """Why a number is missing or should be used with care, the worst first.

    Bits 24 to 31 are left to users, so that more of ours go beyond. Which of them make a number unusable is defined in
    `stargap.marks`.
    """

    UNREADABLE = 1 << 0, "the file could not be read"
    NOT_SELECTED = 1 << 23, "outside the sample and not measured: sample_flags say why"
    TOO_FEW_PIXELS = 1 << 1, "too few good pixels for labels, or for velocity too where that is null"
    UNLIKE_TRAINING = 1 << 32, "the spectrum is unlike all that the model was made of: labels mean nothing"
    GIANT = 1 << 33, "CaH is too weak for a dwarf with this much TiO: a giant"
    DOUBLE_LINED = 1 << 37, "lines of a second star: a double-lined binary or a blend"
    EMISSION = 1 << 38, "H-alpha stronger than chromospheres make it: accretion, a flare, or a companion"
    BAD_FIT = 1 << 15, "reduced chi-square above 50"
    RV_WEAK = 1 << 8, "no significant velocity signal"
    RV_EDGE = 1 << 6, "the velocity is at the edge of the search"
    NOT_CONVERGED = 1 << 9, "the fit of velocity or labels did not converge"
    FAR_OUTSIDE = 1 << 34, "labels beyond those of the training stars by more than twice their errors"
    OUTSIDE_TRAINING = 1 << 22, "labels beyond those of the stars that the transfer was trained on"
    TEFF_AT_BOUND = 1 << 10, "Teff is at the edge of the model"
    LOGG_AT_BOUND = 1 << 11, "log g is at the edge of the model"
    M_H_AT_BOUND = 1 << 12, "[M/H] is at the edge of the model"
    POOR_FIT = 1 << 20, "reduced chi-square above 8: not an M dwarf that the model knows, or bad data"
    RV_AMBIGUOUS = 1 << 7, "another velocity fits nearly as well"
    STARTS_DISAGREE = 1 << 14, "fits from different starts disagree and fit about equally well"
    DOMAINS_DISAGREE = (
        1 << 21,
        ("labels of the synthetic and the observed domain differ by more than a transfer explains"),
    )
    LOW_SN = 1 << 4, "S/N below 5 in r or i"
    MANY_BAD_PIXELS = 1 << 2, "more than 20 % of the fitted pixels are bad"
    BAD_CONTINUUM = 1 << 3, "the pseudo-continuum is not positive in places"
    ACTIVE = 1 << 18, "H-alpha in emission: labels are suspect"
    A_M_AT_BOUND = 1 << 13, "[a/M] is at the edge of the model"
    PARTIAL_COVERAGE = 1 << 36, "less than 95 % of 6000-8900 A: labels come from what there is"
    FRAME_UNKNOWN = 1 << 35, "the frame of the wavelengths is not known: RV is not heliocentric"
    NO_SUBTYPE = 1 << 16, "pixels of TiO5 are missing, or its reference is below 3 sigma: no subtype"
    NO_HALPHA = 1 << 17, "pixels at H-alpha are missing, or its continuum is below 3 sigma: no equivalent width"
    SPIKES_REMOVED = 1 << 19, "isolated pixels far from their surroundings were given weight zero"
    SN_FROM_IVAR = 1 << 5, "S/N computed from the inverse variance"


class Cut(BitFlag):
    """What the sample's cuts say of a spectrum; a cut that sets neither of its bits is passed."""

    NOT_M_DWARF = 1 << 0, "not an M dwarf by the survey's class"
    CLASS_UNKNOWN = 1 << 1, "the survey gives no class"
    LOW_SN = 1 << 2, "S/N in r or i too low"
    SN_UNKNOWN = 1 << 3, "S/N in r or i unknown"
    BAD_FIBER = 1 << 4, "fibre not plugged, or a bad trace, flat or arc"
    FIBER_UNKNOWN = 1 << 5, "state of the fibre unknown"
    HIGH_RUWE = 1 << 6, "RUWE too high: possibly a binary"
    RUWE_UNKNOWN = 1 << 7, "RUWE unknown"
    M_G_OUTSIDE = 1 << 8, "absolute magnitude not that of an M dwarf"
    M_G_UNKNOWN = 1 << 9, "absolute magnitude unknown: no parallax, or one of low S/N"
    COLOUR_OUTSIDE = 1 << 10, "BP - RP not that of an M dwarf"
    COLOUR_UNKNOWN = 1 << 11, "BP - RP unknown"
    FIBER_WARNING = 1 << 12, "the fibre has a warning"
    NO_GAIA = 1 << 13, "no Gaia source found"
    BY_POSITION = 1 << 14, "joined with Gaia by position, not by identifier"
    AMBIGUOUS = 1 << 15, "several Gaia sources within the search radius"


class Clean(BitFlag):
    """Why a spectrum was rejected, or should be looked at. Bits 24 to 31 are left to users."""

    FEW_PIXELS = 1 << 0, "too few good pixels to be judged"
    MISSING_ARM = 1 << 1, "no good pixels at one end: part of an arm is missing"
    NO_SIGNAL = 1 << 2, "no signal above the noise"
    ROUGH = 1 << 3, "sharp structure where M dwarfs have none: sky lines, a lamp or spikes"
    OUTLIER = 1 << 4, "unlike every cluster by more than noise and the scatter of stars"
    WEAK_BANDS = 1 << 5, "its cluster has no bands of TiO and CaH"
    GIANT = 1 << 6, "its cluster has TiO without CaH: giants"
    NOT_QUIET = 1 << 7, "its cluster has structure where M dwarfs have none"
    BORDERLINE = 1 << 8, "its cluster is borderline"
    OVERRULED_KEEP = 1 << 9, "its cluster was rejected by rule and kept by a person"
    OVERRULED_REJECT = 1 << 10, "its cluster was rejected by a person"
    KEPT = 1 << 11, "kept by a person, whatever the rules say"
    REJECTED = 1 << 12, "rejected by a person"


class FinalCut(BitFlag):
    """What the cuts of the final catalogue say of a spectrum; the bits in `NOTES` remove nothing."""

    NOT_IN_SAMPLE = 1 << 0, "not in the sample: sample_flags say why"
    NOT_CLEAN = 1 << 1, "rejected by the cleaning: clean_flags say why"
    NO_LABELS = 1 << 2, "RV, Teff, log g or [M/H] could not be measured: flags say why"
    TOO_HOT = 1 << 3, "Teff too high for an M dwarf"
    LOGG_AT_BOUND = 1 << 4, "log g is at the edge of the model"
    RV_UNCERTAIN = 1 << 5, "the error of RV is an outlier"
    TEFF_UNCERTAIN = 1 << 6, "the error of Teff is an outlier"
    LOGG_UNCERTAIN = 1 << 7, "the error of log g is an outlier"
    M_H_UNCERTAIN = 1 << 8, "the error of [M/H] is an outlier"
    POOR_FIT = 1 << 9, "chi-square too large"
    YOUNG = 1 << 10, "mean or median kinematic age too low for the isochrones of the label prior"
    ERROR_UNKNOWN = 1 << 11, "an error of RV, Teff, log g or [M/H] is unknown, or the S/N is"
    AGE_UNKNOWN = 1 << 12, "kinematic age unknown"
    ACTIVE = 1 << 13, "H-alpha in emission: labels are suspect"
    UNLIKE_TRAINING = 1 << 14, "a giant, or unlike all that the model was made of"
    OUTSIDE_TRAINING = 1 << 15, "labels beyond those of the stars that the transfer was trained on"
    NOT_CONVERGED = 1 << 16, "the fit of velocity or labels did not converge"
    AT_BOUND = 1 << 17, "Teff or [M/H] is at the edge of the model"
    NOT_SINGLE = 1 << 18, "lines of a second star, or H-alpha stronger than chromospheres make it"


class Companion(BitFlag):
    """What other catalogues say of a star."""

    VARIABLE = 1 << 0, "variable candidate in another catalogue"
    BINARY = 1 << 1, "binary candidate in another catalogue"
    AMBIGUOUS = 1 << 2, "several rows of another catalogue within the search radius"


class AgeFlag(BitFlag):
    """Why a star has no kinematic age, or should be used with care."""

    NO_RV = 1 << 0, "no radial velocity"
    NO_PARALLAX = 1 << 1, "no parallax"
    LOW_PARALLAX_SNR = 1 << 2, "parallax below 5 of its errors, or its error unknown: no distance"
    NO_PROPER_MOTION = 1 << 3, "no proper motion"
    NO_POSITION = 1 << 4, "no position"
    NO_ACTION = 1 << 5, "no vertical action: the star would leave the Galaxy"
    ERROR_UNKNOWN = 1 << 6, "the error of the radial velocity or proper motion is unknown and was taken as 0"


class PrecisionFlag(BitFlag):
    """Why errors of a spectrum should be used with care."""

    OUTSIDE_SNR = 1 << 0, "S/N outside that of the repeats: errors are extrapolated"
    NO_SNR = 1 << 1, "no S/N, or not positive: no calibrated errors"
    NOT_CALIBRATED = 1 << 2, "too few repeats in the survey, or none of other S/N: errors are those of the fit"


class PhotFlag(BitFlag):
    """Why labels from photometry are null, or should be used with care."""

    NO_PHOTOMETRY = 1 << 0, "no BP or RP magnitude: no photometric labels"
    NO_PARALLAX = 1 << 1, "no parallax, or one below 5 sigma: no photometric labels"
    LOW_PARALLAX_SN = 1 << 2, "the parallax is below 20 sigma: [M/H] and log g from photometry are poor"
    HIGH_RUWE = 1 << 3, "RUWE above 1.4: the astrometry does not fit a single star"
    NO_KS = 1 << 4, "no Ks magnitude of quality A to C: photometric labels are from Gaia alone"
    BINARY_LIKELY = 1 << 5, "an unresolved companion is more likely than none: too bright for a single star"
    EXTINCTION_UNKNOWN = 1 << 6, "beyond 70 pc without a given extinction: 0.5 mag/kpc assumed, with an error as large"
    OUTSIDE_RELATIONS = 1 << 7, "photometric labels outside 2780 to 4100 K or [M/H] -0.54 to +0.53: extrapolated"
    INCONSISTENT = 1 << 8, "the magnitudes do not fit together: a blend, a bad magnitude, or no M dwarf"
    NO_SOLUTION = 1 << 9, "the magnitudes are those of no M dwarf: no photometric labels"


class JointFlag(BitFlag):
    """Why joint labels of spectrum and photometry are null, or should be used with care."""

    NO_SPECTRUM = 1 << 0, "no usable labels of the spectrum, or fixed ones: no joint labels"
    NO_PHOTOMETRY = 1 << 1, "no photometry to join (phot_flags say why): no joint labels"
    NO_SOLUTION = 1 << 2, "joint labels at the edge of the relations' table, or not converged: no joint labels"
    TENSION = 1 << 3, "spectrum and photometry disagree by more than chance: a blend, a wrong source, or a bad fit"
    BINARY_LIKELY = 1 << 4, "an unresolved companion is more likely than none, by spectrum and photometry together"
    OUTSIDE_RELATIONS = 1 << 5, "joint labels outside 2780 to 4100 K or [M/H] -0.54 to +0.53: relations extrapolated"


NULL_LABELS: Final = Flag.UNREADABLE | Flag.TOO_FEW_PIXELS | Flag.NOT_SELECTED
"""Any of these bits means that the labels are null."""
NOTES: Final = FinalCut.ERROR_UNKNOWN | FinalCut.AGE_UNKNOWN | FinalCut.ACTIVE
"""Bits of `FinalCut` that describe a spectrum and do not remove it."""

FLAG_COLUMNS: Final[Mapping[str, type[BitFlag]]] = {
    "flags": Flag,
    "sample_flags": Cut,
    "clean_flags": Clean,
    "cuts": FinalCut,
    "vb_flag": Companion,
    "age_flags": AgeFlag,
    "precision_flags": PrecisionFlag,
    "phot_flags": PhotFlag,
    "joint_flags": JointFlag,
}
"""The columns that are bit masks, and the bits of each."""


def bit_text(column: str, bit: int) -> tuple[str, str]:
    """Return the name and the sentence of a bit of a column.

    Example:
        >>> bit_text("flags", 4)
        ('low_sn', 'S/N below 5 in r or i')
        >>> bit_text("cuts", 30)
        ('bit_30', 'user bit 30')
    """
    for member in FLAG_COLUMNS[column]:
        if member == 1 << bit:
            return str(member.name).lower(), member.sentence
    return f"bit_{bit}", _unknown(bit)


def worst_first(column: str, mask: int) -> list[int]:
    """Return the numbers of the bits of a column that are set, the worst first and unknown ones last.

    Example:
        >>> worst_first("flags", Flag.LOW_SN | Flag.BAD_FIT | 1 << 24), worst_first("flags", -9999)
        ([15, 4, 24], [])
    """
    order = [int(member).bit_length() - 1 for member in FLAG_COLUMNS[column]]
    return sorted(set_bits(mask), key=lambda bit: order.index(bit) if bit in order else len(order) + bit)
