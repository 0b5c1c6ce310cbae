"""Bands and lines of M dwarfs: the one table of definitions that measurements, columns and documentation follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from stargap.pixels import air_to_vacuum

__all__ = ["BANDS", "FEATURES", "HALPHA", "HBETA", "LINES", "Feature", "feature", "subtype_name"]

Band = tuple[float, float]


@dataclass(frozen=True)
class Feature:
    """One quantity that is measured of the flux in some bands.

    Args:
        name: of its column; its error is ``e_`` and this name.
        about: one ASCII line without a full stop, of at most 65 characters.
        band: first and last wavelength (A).
        reference: the same of what it is compared with.
        scale: of these wavelengths; `vacuum` converts them.
        source: where the definition was published, or that it is ours.
        checked: what the numbers were compared with.
        kind: ``ratio``, the mean flux of the band over that of the reference, whose bands count equally; ``width``, the
            equivalent width (A) of the band under the straight line through the mean fluxes of the reference bands,
            which count by their widths.
        emission: whether a width is positive in emission; else in absorption.
    """

    name: str
    about: str
    band: Band
    reference: tuple[Band, ...]
    scale: Literal["air", "vacuum"]
    source: str
    checked: str
    kind: Literal["ratio", "width"] = "ratio"
    emission: bool = False

    def vacuum(self) -> tuple[Band, tuple[Band, ...]]:
        """Return the band and those of the reference in vacuum (A).

        Example:
            >>> band, reference = feature("tio5").vacuum()
            >>> [round(edge, 2) for edge in (*band, *reference[0])]
            [7127.96, 7136.97, 7043.94, 7047.94]
        """
        if self.scale == "vacuum":
            return self.band, self.reference
        band, *reference = ((air_to_vacuum(low), air_to_vacuum(high)) for low, high in (self.band, *self.reference))
        return band, tuple(reference)


LINES: Final = {
    "Hα": (6562.80,),
    "Li I": (6707.80,),
    "K I": (7664.91, 7698.96),
    "Na I": (8183.26, 8194.82),
    "Ca II": (8498.02, 8542.09, 8662.14),
}
"""Lines of cool stars (A, air; NIST Atomic Spectra Database)."""
BANDS: Final = {"CaH2": (6814.0, 6846.0), "CaH3": (6960.0, 6990.0), "TiO5": (7126.0, 7135.0)}
"""Bands of Reid et al. (1995) (A, air)."""
HALPHA: Final = air_to_vacuum(6562.801)
"""6564.61 A, vacuum."""
HBETA: Final = air_to_vacuum(4861.325)
"""4862.68 A, vacuum (the line list of SDSS's pipeline)."""
_REID: Final = "Reid et al. 1995, AJ 110, 1838"
_LEPINE: Final = "Lepine et al. 2003, AJ 125, 1598"
_LEPINE_2013: Final = "Lepine et al. 2013, AJ 145, 102"
_HAMMER: Final = "Covey et al. 2007, AJ 134, 2398 (The Hammer)"
_CENARRO: Final = "Cenarro et al. 2001, MNRAS 326, 959"
_MANN: Final = "Mann et al. 2013, AJ 145, 52"
_KEMMER: Final = "Kemmer et al. 2025, A&A 697 (arXiv:2504.08363), table A.1"
_BY_LIST: Final = "a public list of index definitions"
_BY_HAMMER: Final = "The Hammer and PyHammer"
_BY_STARS: Final = "its published values of 20 stars, below"
_BY_CAT: Final = "public code for the triplet"
_BY_MANN: Final = "the authors' own code"
_TRIPLET: Final = ((8474.0, 8484.0), (8563.0, 8577.0), (8619.0, 8642.0), (8700.0, 8725.0), (8776.0, 8792.0))
_BY_5668: Final = ((5660.0, 5675.0), (6586.0, 6607.0))
_BY_7044: Final = ((7042.0, 7046.0),)


def _ratio(
    name: str, what: str, band: Band, reference: tuple[Band, ...], source: str, checked: str = _BY_LIST
) -> Feature:
    return Feature(name, f"{what} band index", band, reference, "air", source, checked)


def _width(
    name: str, what: str, band: Band, reference: tuple[Band, ...], scale: Literal["air", "vacuum"], source: str,
    checked: str, emission: bool = False,
) -> Feature:  # fmt: skip
    about = f"{what} equivalent width, positive in {'emission' if emission else 'absorption'}"
    return Feature(name, about, band, reference, scale, source, checked, "width", emission)


FEATURES: Final = (
    _ratio("tio5", "TiO5", (7126.0, 7135.0), _BY_7044, _REID, f"{_BY_LIST}; {_BY_HAMMER}"),
    _ratio("cah2", "CaH2", (6814.0, 6846.0), _BY_7044, _REID, f"{_BY_LIST}; {_BY_HAMMER}"),
    _ratio("cah3", "CaH3", (6960.0, 6990.0), _BY_7044, _REID, f"{_BY_LIST}; {_BY_HAMMER}"),
    _ratio("cah1", "CaH1", (6380.0, 6390.0), ((6345.0, 6355.0), (6410.0, 6420.0)), _REID),
    _ratio("tio1", "TiO1", (6718.0, 6723.0), ((6703.0, 6708.0),), _REID),
    _ratio("tio2", "TiO2", (7058.0, 7061.0), ((7043.0, 7046.0),), _REID),
    _ratio("tio3", "TiO3", (7092.0, 7097.0), ((7079.0, 7084.0),), _REID),
    _ratio("tio4", "TiO4", (7130.0, 7135.0), ((7115.0, 7120.0),), _REID),
    _ratio("tio6", "TiO6", (7745.0, 7765.0), ((7550.0, 7570.0),), _LEPINE_2013, f"{_BY_LIST} (inverted); {_BY_STARS}"),
    _ratio("tio7", "TiO7", (8440.0, 8470.0), ((8400.0, 8420.0),), _LEPINE),
    _ratio("vo1", "VO1", (7430.0, 7470.0), ((7550.0, 7570.0),), _LEPINE, f"{_BY_LIST}; {_BY_HAMMER}"),
    _ratio("vo2", "VO2", (7920.0, 7960.0), ((8130.0, 8150.0),), _LEPINE_2013, _BY_STARS),
    _ratio("caoh", "CaOH", (6230.0, 6240.0), ((6345.0, 6354.0),), _REID),
    Feature("color_1", "Color-1, flux at 8950 over that at 7400 Angstrom", (8900.0, 9000.0), ((7350.0, 7450.0),),
            "vacuum", f"Hawley et al. 2002, AJ 123, 3409; {_MANN}", _BY_MANN),
    _ratio("na_d", "Na I D", (5880.0, 5905.0), ((5910.0, 5935.0),), _HAMMER, _BY_HAMMER),
    _ratio("na_8190", "Na I 8190", (8177.0, 8201.0), ((8151.0, 8175.0),), _HAMMER, _BY_HAMMER),
    _width("k_7699_ew", "K I 7699", (7696.0, 7706.0), ((7688.0, 7694.0), (7708.0, 7714.0)), "vacuum",
           "ours: 5 A either side of 7701.08 A", "the line's wavelength alone"),
    _width("ca_8498_ew", "Ca II 8498", (8484.0, 8513.0), _TRIPLET, "air", _CENARRO, _BY_CAT),
    _width("ca_8542_ew", "Ca II 8542", (8522.0, 8562.0), _TRIPLET, "air", _CENARRO, _BY_CAT),
    _width("ca_8662_ew", "Ca II 8662", (8642.0, 8682.0), _TRIPLET, "air", _CENARRO, _BY_CAT),
    _width("mann_6118_ew", "Mann feature 3 (6118 A)", (6108.0, 6128.0), _BY_5668, "vacuum", _MANN, _BY_MANN),
    _width("mann_6232_ew", "Mann feature 4 (6232 A)", (6222.0, 6242.0), _BY_5668, "vacuum", _MANN, _BY_MANN),
    _width("mann_6416_ew", "Mann feature 5 (6416 A)", (6395.5, 6436.5), _BY_5668, "vacuum", _MANN, _BY_MANN),
    _width("mann_7540_ew", "Mann feature 6 (7540 A)", (7530.0, 7550.0), ((7390.0, 7500.0), (8100.0, 8160.0)),
           "vacuum", _MANN, _BY_MANN),
    _width("mann_8208_ew", "Mann feature 7 (8208 A)", (8190.5, 8225.5), ((8100.0, 8160.0), (8230.0, 8300.0)),
           "vacuum", _MANN, _BY_MANN),
    _width("mann_8684_ew", "Mann feature 8 (8684 A)", (8671.0, 8697.0), ((8590.0, 8620.0), (8890.0, 8920.0)),
           "vacuum", _MANN, _BY_MANN),
    Feature("hbeta_ew", "H-beta equivalent width, positive in emission; not simulated",
            (HBETA - 7.0, HBETA + 7.0), ((HBETA - 19.61, HBETA - 9.61), (HBETA + 9.61, HBETA + 19.61)), "vacuum",
            "ours: the windows of H-alpha", "the line's wavelength alone", "width", emission=True),
    Feature("he_d3_ew", "He I D3 equivalent width, positive in emission; not simulated",
            (5873.1, 5878.1), ((5869.85, 5872.35), (5879.85, 5882.35)), "air", _KEMMER,
            "the line's wavelength alone", "width", emission=True),
    _width("halpha_ew", "H-alpha", (HALPHA - 7.0, HALPHA + 7.0), ((HALPHA - 19.61, HALPHA - 9.61),
           (HALPHA + 9.61, HALPHA + 19.61)), "vacuum", "West et al. 2004, AJ 128, 426, and 2011, AJ 141, 97 (line); "
           "the continuum windows are ours", "the catalogue's paper, section 4.4 (line alone)", emission=True),
)  # fmt: skip
"""All features, in the order of their columns."""

_BY_NAME: Final = {one.name: one for one in FEATURES}


def feature(name: str) -> Feature:
    """Return a feature by the name of its column.

    Example:
        >>> feature("caoh").band
        (6230.0, 6240.0)
    """
    return _BY_NAME[name]


def subtype_name(spt: float) -> str:
    """Return a numeric subtype as astronomers write it; K dwarfs have no tenths, since K8 and K9 do not exist.

    Example:
        >>> [subtype_name(spt) for spt in (0.6, 3.0, -0.2, -1.1, -2.3, -4.0, float("nan"))]
        ['M0.6', 'M3.0', 'M0.0', 'K7', 'K5', '<K5', '']
    """
    if spt >= -0.5:
        return f"M{max(spt, 0.0):.1f}"
    if spt >= -2.5:
        return "K7" if spt >= -1.5 else "K5"
    return "<K5" if spt == spt else ""
