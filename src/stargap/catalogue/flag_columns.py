"""Which columns are bit masks, and the sentence of each of their bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stargap.catalogue.ages import AGE_FLAG_TEXT
from stargap.catalogue.cleaning_rules import CLEAN_TEXT
from stargap.catalogue.companions import COMPANION_TEXT
from stargap.catalogue.cuts import FINAL_CUT_TEXT
from stargap.catalogue.precision import PRECISION_FLAG_TEXT
from stargap.catalogue.sample import CUT_TEXT
from stargap.flags import FLAG_TEXT, USER_BITS

__all__ = ["FLAG_COLUMNS", "bit_text", "set_bits"]

FLAG_COLUMNS: Final[Mapping[str, Mapping[Any, str]]] = {
    "flags": FLAG_TEXT,
    "sample_flags": CUT_TEXT,
    "clean_flags": CLEAN_TEXT,
    "cuts": FINAL_CUT_TEXT,
    "vb_flag": COMPANION_TEXT,
    "age_flags": AGE_FLAG_TEXT,
    "precision_flags": PRECISION_FLAG_TEXT,
}
"""By column, the sentences of its bits."""


def set_bits(mask: int) -> list[int]:
    """Return the numbers of the bits that are set; none where the mask is null (-9999).

    Example:
        >>> set_bits(5), set_bits(-9999)
        ([0, 2], [])
    """
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1] if mask > 0 else []


def bit_text(column: str, bit: int) -> tuple[str, str]:
    """Return the name and the sentence of a bit of a column.

    Example:
        >>> bit_text("flags", 4)
        ('low_sn', 'S/N below 5 in r or i')
        >>> bit_text("cuts", 30)
        ('bit_30', 'user bit 30')
    """
    for flag, sentence in FLAG_COLUMNS[column].items():
        if flag == 1 << bit:
            return str(flag.name).lower(), sentence
    return f"bit_{bit}", f"{'user' if USER_BITS <= bit < 32 else 'unknown'} bit {bit}"
