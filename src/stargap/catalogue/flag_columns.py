"""Which columns are bit masks, and the sentence of each of their bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stargap.catalogue.cleaning_rules import CLEAN_TEXT
from stargap.catalogue.companions import COMPANION_TEXT
from stargap.catalogue.cuts import FINAL_CUT_TEXT
from stargap.catalogue.sample import CUT_TEXT
from stargap.flags import FLAG_TEXT

__all__ = ["FLAG_COLUMNS", "flag_sentences"]

FLAG_COLUMNS: Final[Mapping[str, Mapping[Any, str]]] = {
    "flags": FLAG_TEXT,
    "sample_flags": CUT_TEXT,
    "clean_flags": CLEAN_TEXT,
    "cuts": FINAL_CUT_TEXT,
    "vb_flag": COMPANION_TEXT,
}
"""By column, the sentences of its bits."""


def flag_sentences(column: str, bits: int) -> list[str]:
    """Return one line for each bit that is set: its name and its sentence; none where the mask is null.

    Example:
        >>> flag_sentences("flags", 16 | 1 << 30)
        ['low_sn: S/N below 5 in r or i', 'bit_30: of no known meaning']
        >>> flag_sentences("flags", -9999)
        []
    """
    if bits < 0:
        return []
    known = {int(flag): f"{str(flag.name).lower()}: {text}" for flag, text in FLAG_COLUMNS[column].items()}
    places = (1 << place for place in range(bits.bit_length()) if bits >> place & 1)
    return [known.get(bit, f"bit_{bit.bit_length() - 1}: of no known meaning") for bit in places]
