"""Write docs/lines.md: the definitions in `stargap.features`, and real stars beside published values."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent / "results"))
from pages import number, read_index, reflow, table
from real_star_data import read_templates

import stargap
from stargap.features import FEATURES, feature
from stargap.measurement.halpha import CHI, CHI_SCATTER
from stargap.measurement.lines import measure_feature
from stargap.spectra.log_lambda import to_log_lambda
from stargap.statistics import robust_scatter

THEIRS = {
    "tio5": "TiO5", "cah2": "CaH2", "cah3": "CaH3", "vo1": "VO1", "tio6": "TiO6", "vo2": "VO2", "zeta": "zeta",
    "halpha_ew": "EWHa",
}  # fmt: skip
"""Our columns, and those of Lepine et al. (2013), whose equivalent widths are negative in emission."""
SAME = 3.0
"""Distance (arcsec) within which a star is the same."""
CALIBRATION = {
    "mann_6416_ew": -0.20, "mann_8684_ew": 0.48, "mann_8208_ew": 0.24, "mann_6118_ew": 0.14, "color_1": -0.204,
}  # fmt: skip
CONSTANT = -0.32
"""[Fe/H] of stars later than M2 is this and the sum of columns times those (Mann et al. 2013, as the authors' code)."""
QUIET = 0.3
"""H-alpha (A) below which a star is not active."""
KNOWN = {"hbeta_ew": 0.5, "he_d3_ew": 0.1}
"""Error (A) of a line above which it is not called well known."""

EARLY = ("K5", "K7", "M0", "M1", "M2", "M3", "M4")
"""Subtypes of which few stars are active."""

Array = NDArray[np.float64]


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/ and labels/")
    given = parser.parse_args()
    if not (given.data / "lamost" / "index.csv").is_file():
        print(f"{given.data / 'lamost'}: there is no index.csv; name the data folder with --data", file=sys.stderr)
        return 2
    (Path(__file__).parent / "lines.md").write_text(page(given.data), encoding="utf-8")
    return 0


@cache
def good_stars(data: Path) -> tuple[list[dict[str, str]], dict[str, Array]]:
    """Return the index and the measurements of LAMOST's cool stars without a known defect."""
    rows = [row for row in read_index(data / "lamost", "cool") if not row["note"]]
    table = stargap.measure([data / "lamost" / "cool" / row["file"] for row in rows], progress=False).arrays()
    return rows, {name: table[name].astype(float) for name, values in table.items() if values.dtype.kind in "if"}


def emission(stars: Mapping[str, Array], name: str) -> dict[str, float]:
    """Return how a line goes with H-alpha: of active stars, and of active and quiet ones where it is well known."""
    halpha, line, error = (stars[column] for column in ("halpha_ew", name, f"e_{name}"))
    active = (stars["activity_3sigma"] == 1) & np.isfinite(line)
    known = error < KNOWN[name]
    quiet = (halpha < QUIET) & known
    found = line > 3 * error
    return {
        "measured": float(np.isfinite(line).sum()),
        "active": float(active.sum()),
        "detected": float(found[active].sum()),
        "correlation": float(np.corrcoef(halpha[active], line[active])[0, 1]),
        "ratio": float(np.median((line / halpha)[active])),
        "known": float((active & known).sum()),
        "found": float(found[active & known].sum()),
        "strength": float(np.median(line[active & known])),
        "quiet": float(quiet.sum()),
        "false": float(found[quiet].sum()),
        "level": float(np.median(line[quiet])),
        "scatter": float(robust_scatter(line[quiet])),
        "error": float(np.median(error[quiet])),
    }


def helium_by_type(data: Path) -> dict[str, float]:
    """Return He I D3 (A) of the mean SDSS spectra of solar [Fe/H] (Kesseli et al. 2017), by subtype."""
    means = [one for one in read_templates(data / "templates") if one.group == "sdss" and one.value == 0]
    native = to_log_lambda([one.spectrum for one in means])
    found = measure_feature(feature("he_d3_ew"), native, torch.zeros(len(means))).mean
    return dict(zip((one.kind for one in means), found.tolist(), strict=True))


def iron(rows: list[dict[str, str]], stars: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return [Fe/H] by the calibration of Mann et al. (2013) and of the literature, of stars later than M2."""
    ours = CONSTANT + sum(weight * stars[name] for name, weight in CALIBRATION.items())
    theirs = np.array([float(row["feh_Mann"] or row["feh"] or "nan") for row in rows])
    known = (stars["spt"] > 2) & np.isfinite(ours + theirs)
    return ours[known], theirs[known]


def published_pairs(data: Path) -> dict[str, tuple[Array, Array]]:
    """Return ours and those of Lepine et al. (2013), of the stars with good LAMOST spectra, by column."""
    with (data / "labels" / "lepine2013.csv").open(newline="", encoding="utf-8") as file:
        catalogue = [row for row in csv.DictReader(file) if row["TiO5"]]
    ra, dec = (np.array([float(row[name]) for row in catalogue]) for name in ("RAJ2000", "DEJ2000"))
    index, measured = good_stars(data)
    places, rows = [], []
    for place, row in enumerate(index):
        if not row["ra"]:
            continue
        here, there = float(row["ra"]), float(row["dec"])
        apart = 3600 * np.hypot((ra - here) * np.cos(np.radians(there)), dec - there)
        if apart.min() < SAME:
            places.append(place)
            rows.append(catalogue[int(apart.argmin())])
    return {
        name: (
            measured[name][places],
            np.array([(-1 if name == "halpha_ew" else 1) * float(row[column] or "nan") for row in rows]),
        )
        for name, column in THEIRS.items()
    }


def definitions() -> str:
    """Return the table of definitions; a test holds the page against it."""
    rows = [
        [f"`{one.name}`", one.kind, _edges((one.band,)), _edges(one.reference), one.scale, one.source, one.checked]
        for one in FEATURES
    ]
    head = ["column", "kind", "band (A)", "reference (A)", "scale", "source", "compared with"]
    return table(head, rows).replace("---:", ":---")


def _edges(bands: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"{low:g}–{high:g}" for low, high in bands)


def _published(pairs: dict[str, tuple[Array, Array]]) -> str:
    rows = []
    for name, (ours, theirs) in pairs.items():
        known = np.isfinite(ours - theirs)
        off = (ours - theirs)[known]
        correlation = np.corrcoef(ours[known], theirs[known])[0, 1]
        spread = number(float(robust_scatter(theirs[known])), 3)
        rows.append([
            f"`{name}`", str(known.sum()), number(float(np.median(off)), 3, sign=True),
            number(float(robust_scatter(off)), 3), spread, number(float(correlation), 2),
        ])  # fmt: skip
    head = ["column", "stars", "median of ours − theirs", "robust scatter", "robust spread of theirs", "correlation"]
    return table(head, rows)


def _sentences(data: Path) -> dict[str, str]:
    """Return the numbers of the text by the names that stand for them."""
    rows, stars = good_stars(data)
    (ours, theirs), by_type = iron(rows, stars), helium_by_type(data)
    off = ours - theirs
    digits = {"correlation": 2, "ratio": 1, "strength": 2, "level": 2, "scatter": 2, "error": 2}
    lines = {"": emission(stars, "hbeta_ew"), "D3 ": emission(stars, "he_d3_ew")}
    return {
        f"<{line}{name}>": number(value, digits.get(name, 0))
        for line, found in lines.items()
        for name, value in found.items()
    } | {
        "<early D3>": number(max(abs(by_type[kind]) for kind in EARLY), 2),
        **{f"<{kind} D3>": number(by_type[kind], 2) for kind in ("M5", "M6", "M7")},
        "<iron>": str(off.size),
        "<iron off>": number(float(np.median(off)), 2, sign=True),
        "<iron scatter>": number(float(robust_scatter(off)), 2),
        "<iron correlation>": number(float(np.corrcoef(ours, theirs)[0, 1]), 2),
        "<iron spread>": number(float(theirs.std()), 2),
    }


def page(data: Path) -> str:
    """Return the page."""
    chi = table(
        ["subtype", *(f"M{k}" for k in range(len(CHI)))],
        [["chi", *(f"{value:.3f}" for value in CHI)], ["scatter", *(f"{value:.3f}" for value in CHI_SCATTER)]],
    )
    *others, last = (f"`{one.name}`" for one in FEATURES if one.emission)
    text = _TEXT.replace("EMISSION", f"{', '.join(others)} and {last}")
    for name, content in _sentences(data).items():
        text = text.replace(name, content)
    text = reflow(text)
    published = _published(published_pairs(data))
    for name, content in {"DEFINITIONS": definitions(), "PUBLISHED": published, "CHI_TABLE": chi}.items():
        text = text.replace(f"\n{name}\n", f"\n{content}\n")
    return text


_TEXT = """# Bands, lines and activity

Made by `python docs/make_lines.py` from `stargap.features`, the one table that measurements, columns and this page
follow.

All are measured on the flux itself, on native pixels (whole ones and fractions), in the rest frame at the measured
RV. A `ratio` is the mean flux of the band over that of the reference; several reference bands count equally. A
`width` is the equivalent width in A under the straight line through the mean fluxes of the reference bands (least
squares where there are more than two, each by its width). Widths are positive in absorption, but for EMISSION, which
are positive in emission. Errors are of photon noise. Null: more than a fifth of a band is missing, or a pixel of a
line, or the reference is below 3 sigma, or there is no RV. Spectra are kept from 5875 to 9078 A (vacuum), and of
what is blueward of it H-beta with its continuum, the continuum at 5660 A of three features of Mann et al. (2013), and
what He I D3 needs from 5859 A on, at any velocity up to 600 km/s: these five are null where a spectrum, or a store made
before, does not reach there. Simulated stars have no lines there, but a black body in files, and no pixels in the
store of `stargap mock --store`.

## Definitions

DEFINITIONS

Telluric bands are not corrected: water vapour (8100–8240 A) touches `na_8190`, `vo2` and `mann_8208_ew`, and the A
band begins next to `k_7699_ew`.

## Real stars beside published values

Those of Lépine et al. (2013) are of other telescopes and resolutions; they warn that indices of one star differ
between observatories by such amounts, and correct for it. Ours are as measured, of good LAMOST spectra within 3
arcsec.

PUBLISHED

## Iron after Mann et al. (2013)

Of their eight visible features six are measured, 3 to 8, and Color-1. Features 1 and 2 (4648 and 5608 A), which their
relation for types up to M2 needs, are not: with their continua they take twice as many further pixels. For later types
their relation is [Fe/H] = −0.20 F5 + 0.48 F8 + 0.24 F7 + 0.14 F3 − 0.204 Color-1 − 0.32 (`mann_6416_ew`,
`mann_8684_ew`, `mann_8208_ew`, `mann_6118_ew`, `color_1`). It is no column: the authors ask to correct for the
instrument with ten or more stars of known [Fe/H] where spectra are not of SNIFS, and features 3 to 5 have continua on
both sides of the place where LAMOST's arms meet. Of <iron> LAMOST stars later than M2 with [Fe/H] of the literature
it is off by <iron off> dex, with a robust scatter of <iron scatter> and a correlation of <iron correlation>; but these
stars differ by <iron spread> dex only.

## Activity

`hbeta_ew` has the windows of `halpha_ew`. Of <measured> LAMOST spectra with Hβ <active> are active at three sigma in
Hα, and <detected> of these show Hβ in emission at three sigma; their widths correlate by <correlation>, and EW(Hβ) /
EW(Hα) is <ratio> in the median. In <quiet> stars with EW(Hα) below 0.3 A and an error of Hβ below 0.5 A it is
<level> A in the median, with a robust scatter of <scatter> A, where errors are <error> A.

`he_d3_ew` has windows of CARMENES, which lie between a band of TiO and the wing of Na I D. At R = 1800 a tenth of
the line is outside of them; and the photosphere is not subtracted, as it is there. LAMOST's arms meet at this line,
so that most of its spectra are too noisy for it. Of <D3 measured> spectra with He I D3 <D3 active> are active at
three sigma in Hα; <D3 known> of these have an error of He I D3 below 0.1 A, and <D3 found> of them show it in
emission at three sigma, with <D3 strength> A in the median. In <D3 quiet> stars with EW(Hα) below 0.3 A and such an
error it is <D3 level> A in the median, with a robust scatter of <D3 scatter> A, where errors are <D3 error> A;
<D3 false> of them are above three sigma. In the mean SDSS spectra of solar [Fe/H] of Kesseli et al. (2017) it is
within <early D3> A of 0 from K5 to M4, and <M5 D3>, <M6 D3> and <M7 D3> A at M5, M6 and M7, where most stars are
active.

`activity` is the paper's flag, EW(Hα) > 0.75 A; `p_active` is the probability that it is, given the noise of the
measurement, without a prior; `activity_3sigma` asks for three sigma. `lhalpha_lbol` is L(Hα) / L(bol) = EW × chi,
with chi by subtype (10^-5 / A), from Douglas et al. (2014), interpolated; null before M0 and after M9. Its error
holds the noise and the scatter of chi between stars of one subtype. Nothing is taken off for the photosphere, which
absorbs a few tenths of an A: inactive stars come out at or below 0.

CHI_TABLE

`spt` prints as K5, K7, M0.6: K dwarfs have no tenths.
"""


if __name__ == "__main__":
    sys.exit(main())
