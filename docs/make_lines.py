"""Write docs/lines.md: the definitions in `stargap.features`, and real stars beside published values."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent / "results"))
from pages import number, read_index, reflow, table

import stargap
from stargap.features import FEATURES
from stargap.measurement.halpha import CHI, CHI_SCATTER
from stargap.statistics import robust_scatter

THEIRS = {
    "tio5": "TiO5", "cah2": "CaH2", "cah3": "CaH3", "vo1": "VO1", "tio6": "TiO6", "vo2": "VO2", "zeta": "zeta",
    "halpha_ew": "EWHa",
}  # fmt: skip
"""Our columns, and those of Lepine et al. (2013), whose equivalent widths are negative in emission."""
SAME = 3.0
"""Distance (arcsec) within which a star is the same."""

Array = NDArray[np.float64]


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lamost/ and labels/")
    given = parser.parse_args()
    if not (given.data / "lamost" / "index.csv").is_file():
        print(f"{given.data / 'lamost'}: there is no index.csv; name the data folder with --data", file=sys.stderr)
        return 2
    pairs = published_pairs(given.data)
    (Path(__file__).parent / "lines.md").write_text(page(pairs), encoding="utf-8")
    return 0


def published_pairs(data: Path) -> dict[str, tuple[Array, Array]]:
    """Return ours and those of Lepine et al. (2013), of the stars with good LAMOST spectra, by column."""
    with (data / "labels" / "lepine2013.csv").open(newline="", encoding="utf-8") as file:
        catalogue = [row for row in csv.DictReader(file) if row["TiO5"]]
    ra, dec = (np.array([float(row[name]) for row in catalogue]) for name in ("RAJ2000", "DEJ2000"))
    paths, rows = [], []
    for row in read_index(data / "lamost", "cool"):
        if row["note"] or not row["ra"]:
            continue
        here, there = float(row["ra"]), float(row["dec"])
        apart = 3600 * np.hypot((ra - here) * np.cos(np.radians(there)), dec - there)
        if apart.min() < SAME:
            paths.append(data / "lamost" / "cool" / row["file"])
            rows.append(catalogue[int(apart.argmin())])
    measured = stargap.measure(paths, progress=False)
    return {
        name: (
            np.ma.filled(np.ma.asarray(measured[name]).astype(float), np.nan),
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


def page(pairs: dict[str, tuple[Array, Array]]) -> str:
    """Return the page."""
    chi = table(
        ["subtype", *(f"M{k}" for k in range(len(CHI)))],
        [["chi", *(f"{value:.3f}" for value in CHI)], ["scatter", *(f"{value:.3f}" for value in CHI_SCATTER)]],
    )
    emission = ", ".join(f"`{one.name}`" for one in FEATURES if one.emission)
    text = reflow(_TEXT.replace("EMISSION", emission))
    for name, content in {"DEFINITIONS": definitions(), "PUBLISHED": _published(pairs), "CHI_TABLE": chi}.items():
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
line, or the reference is below 3 sigma, or there is no RV. Spectra are kept from 5875 to 9078 A (vacuum): that is why
H-beta and He I D3 are not measured, nor the features of Mann et al. (2013) blueward of it, which their calibrations
of [Fe/H] need.

## Definitions

DEFINITIONS

Telluric bands are not corrected: water vapour (8100–8240 A) touches `na_8190`, `vo2` and `mann_8208_ew`, and the A
band begins next to `k_7699_ew`.

## Real stars beside published values

Those of Lépine et al. (2013) are of other telescopes and resolutions; they warn that indices of one star differ
between observatories by such amounts, and correct for it. Ours are as measured, of good LAMOST spectra within 3
arcsec.

PUBLISHED

## Activity

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
