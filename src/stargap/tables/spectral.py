"""Columns of bands, lines, the subtype and activity, made from the definitions in `stargap.features`."""

from __future__ import annotations

from typing import Final

from stargap.features import FEATURES, Feature
from stargap.tables.column import Column, with_error

__all__ = ["SPECTRAL"]

_RATIO: Final = "phot.flux.density;arith.ratio"
_ACTIVITY: Final = "meta.code.class;spect.line.eqWidth"
_SUBTYPE: Final = "Numeric subtype from TiO5: -2 = K5, -1 = K7, 0 to 7 = M0 to M7"
_FIRST: Final = ("tio5", "cah2", "cah3")
_LUMINOSITY: Final = "L(H-alpha) over L(bol): halpha_ew times chi of the subtype"


def _columns(one: Feature) -> tuple[Column, Column]:
    if one.kind == "ratio":
        return with_error(one.name, "", _RATIO, one.about, (-20, 20))
    letter = "BVRI"[sum(one.band[0] >= edge for edge in (5000, 6000, 7500))]
    return with_error(one.name, "Angstrom", f"spect.line.eqWidth;em.opt.{letter}", one.about, (-100, 1000))


_OF = {one.name: _columns(one) for one in FEATURES}

SPECTRAL: tuple[Column, ...] = (
    *with_error("spt", "", "src.spType", _SUBTYPE, (-250, 250), "SpT"),
    *(column for name in _FIRST for column in _OF[name]),
    *with_error("zeta", "", "spect.line.strength;arith.ratio", "Metallicity index zeta(TiO5, CaH2 + CaH3)"),
    *(column for name, columns in _OF.items() if name not in (*_FIRST, "halpha_ew") for column in columns),
    *_OF["halpha_ew"],
    Column("activity", "int32", "", _ACTIVITY, "1 if halpha_ew > 0.75 Angstrom, else 0", (0, 1), "Activity"),
    Column("activity_3sigma", "int32", "", _ACTIVITY, "1 if halpha_ew - 3 e_halpha_ew > 0.75 Angstrom, else 0", (0, 1)),
    Column("p_active", "float32", "", "stat.probability", "Probability that halpha_ew > 0.75 Angstrom", (0, 1)),
    *with_error("lhalpha_lbol", "", "phys.luminosity;arith.ratio", _LUMINOSITY, (-1, 1), decimals=7),
)
"""The columns, in order: subtype, bands and lines, H-alpha and activity."""
