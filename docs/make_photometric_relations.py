"""Fit the photometric relations of stargap: python docs/make_photometric_relations.py FOLDER (of published tables).

FOLDER holds mann2015.csv (Mann et al. 2015, 2016) and carmenes_ix.csv.gz (Cifuentes et al. 2025, with Gaia DR3 and
2MASS photometry). What is printed is the content of src/stargap/photometry/data/relations.json; a test holds it to
that. Mann's stars are found in the second table by position, carried back to 2000 by proper motion; their photometry is
that of DR3, never the synthetic BP and RP of Mann et al., from which DR3's BP differs by -0.19 mag.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]

RADIUS = 6.0
"""Arcsec. The nearest star of the second table is within 5.1 arcsec, or farther than 1,700."""
RUWE = 1.4
CLIP = 4.0
PHOTOMETRY = ("G_mag", "BP_mag", "RP_mag", "Ks_mag")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, gzipped or not."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return list(csv.DictReader(text.splitlines()))


def numbers(rows: list[dict[str, str]], name: str) -> _Floats:
    """Return a column, NaN where it holds no number."""
    result = np.full(len(rows), np.nan)
    for place, row in enumerate(rows):
        try:
            result[place] = float(row[name])
        except ValueError:
            continue
    return result


def nearest(mann: list[dict[str, str]], gaia: list[dict[str, str]]) -> NDArray[np.int64]:
    """Return for each of Mann's stars the row of the other table, or -1."""
    dec = numbers(gaia, "dec") - 16 * np.nan_to_num(numbers(gaia, "pmdec")) / 3.6e6
    cosine = np.cos(np.radians(dec))
    ra = numbers(gaia, "ra") - 16 * np.nan_to_num(numbers(gaia, "pmra")) / 3.6e6 / cosine
    rows = np.full(len(mann), -1)
    for star, (alpha, delta) in enumerate(
        zip(numbers(mann, "RAJ2000"), numbers(mann, "DEJ2000"), strict=True),
    ):
        apart = np.nan_to_num(np.hypot((ra - alpha) * cosine, dec - delta) * 3600, nan=np.inf)
        rows[star] = apart.argmin() if apart.min() < RADIUS else -1
    return rows


def absolute(rows: list[dict[str, str]]) -> dict[str, _Floats]:
    """Return colours and absolute magnitudes."""
    g, bp, rp, ks = (numbers(rows, name) for name in PHOTOMETRY)
    modulus = 5 * np.log10(100 / numbers(rows, "parallax"))
    quality = np.array([row["Qf_2M"][2:3] == "A" for row in rows])
    ks = np.where(quality, ks, np.nan)
    return {"bp_rp": bp - rp, "g_rp": g - rp, "bp_ks": bp - ks, "m_g": g - modulus, "m_ks": ks - modulus}


def fit(
    values: dict[str, _Floats],
    target: _Floats,
    inputs: tuple[str, str],
    zero: tuple[float, float],
    terms: list[tuple[int, int]],
    use: NDArray[np.bool_],
    *,
    clip: float = np.inf,
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return coefficients of a polynomial with their scatter, each star predicted by the others; and the stars used."""
    x, y = (values[name] - origin for name, origin in zip(inputs, zero, strict=True))
    use = use & np.isfinite(x + y + target)
    matrix = np.stack([x**i * y**j for i, j in terms], axis=1)
    allowed = use
    for _ in range(10):
        coefficients = np.linalg.lstsq(matrix[use], target[use], rcond=None)[0]
        apart = np.abs(target - matrix @ coefficients)
        now = allowed & (apart < clip * 1.4826 * np.median(apart[use]))
        if (now == use).all():
            break
        use = now
    inside = matrix[use]
    leverage = np.einsum("ij,ji->i", inside, np.linalg.pinv(inside))
    left_out = (target[use] - inside @ coefficients) / (1 - leverage)
    robust = 1.4826 * np.median(np.abs(left_out - np.median(left_out)))
    ranges = {name: [round(float(edge(values[name][use])), 3) for edge in (np.min, np.max)] for name in inputs}
    return {
        "inputs": list(inputs),
        "zero": list(zero),
        "terms": [list(term) for term in terms],
        "coefficients": [float(f"{value:.8g}") for value in coefficients],
        "range": ranges,
        "stars": int(use.sum()),
        "scatter": round(float(left_out.std()), 4),
        "robust_scatter": round(float(robust), 4),
    }, use


def mann_relations(mann: list[dict[str, str]], gaia: list[dict[str, str]]) -> dict[str, Any]:
    """Return [Fe/H] with Ks, and [Fe/H] and Teff from Gaia alone, as Mann's stars give them."""
    rows = nearest(mann, gaia)
    matched = [gaia[row] for row in rows]
    values = absolute(matched)
    use = (rows >= 0) & (numbers(matched, "ruwe") < RUWE)
    m_h, teff = numbers(mann, "[Fe/H]"), numbers(mann, "Teff")
    with_ks = [(0, 0), (1, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
    cubic = [(i, j) for i in range(4) for j in range(3) if i + j < 4]
    result = {}
    result["m_h_from_ks"], _ = fit(values, m_h, ("bp_ks", "m_ks"), (5.0, 7.0), with_ks, use)
    result["m_h_from_gaia"], _ = fit(values, m_h, ("bp_rp", "m_g"), (2.2, 9.5), cubic, use)
    result["teff_from_gaia"], _ = fit(values, teff, ("bp_rp", "m_g"), (2.2, 9.5), cubic, use)
    return result


def surface(gaia: list[dict[str, str]]) -> dict[str, Any]:
    """Return BP - RP and G - RP of single M dwarfs at (BP - Ks, M_Ks), and how far real ones are from it."""
    values = absolute(gaia)
    single = np.array([len(row["Component"].strip("-()")) < 2 and not row["SB"] and not row["Group"] for row in gaia])
    use = single & (numbers(gaia, "ruwe") < RUWE) & ~(numbers(gaia, "rho01") < 5)
    use &= (values["m_ks"] > 4.4) & (values["m_ks"] < 9.9) & (numbers(gaia, "eKs_mag") < 0.03)
    use &= numbers(gaia, "parallax") > 50 * numbers(gaia, "parallax_error")
    cubic = [(i, j) for i in range(4) for j in range(4 - i)]
    result, kept, apart = {}, use, []
    for name in ("bp_rp", "g_rp"):
        result[name], stars = fit(values, values[name], ("bp_ks", "m_ks"), (5.0, 7.0), cubic, use, clip=CLIP)
        kept = kept & stars
    for name in ("bp_rp", "g_rp"):
        x, y = values["bp_ks"] - 5.0, values["m_ks"] - 7.0
        powers = np.stack([x**i * y**j for i, j in cubic], axis=1)
        apart.append((values[name] - powers @ np.array(result[name]["coefficients"]))[kept])
    # BP - RP is as far from the surface as errors of Ks alone move stars along it: take these away
    slopes = []
    for name in ("bp_rp", "g_rp"):
        shifted = [_at(result[name], values["bp_ks"] - step, values["m_ks"] + step)[kept] for step in (-0.005, 0.005)]
        slopes.append((shifted[1] - shifted[0]) / 0.01)
    errors = numbers(gaia, "eKs_mag")[kept]
    noise = np.array([[np.mean(a * b * errors**2) for b in slopes] for a in slopes])
    covariance = np.cov(apart) - noise
    return result | {"covariance": [[float(f"{value:.3g}") for value in row] for row in covariance]}


def _at(relation: dict[str, Any], x: _Floats, y: _Floats) -> _Floats:
    x, y = x - relation["zero"][0], y - relation["zero"][1]
    powers = [x**i * y**j for i, j in relation["terms"]]
    return np.asarray(np.tensordot(relation["coefficients"], powers, 1))


def relations(folder: Path) -> dict[str, Any]:
    """Return all that is shipped."""
    mann, gaia = read(folder / "mann2015.csv"), read(folder / "carmenes_ix.csv.gz")
    return {
        "sources": {
            "labels": "Mann et al. 2015, ApJ 804, 64, with the erratum 2016, ApJ 819, 87",
            "photometry": "Gaia DR3 and 2MASS (quality A in Ks) of the same stars, RUWE < 1.4",
            "surface": "single M dwarfs of Cifuentes et al. 2025 (CARMENES IX), RUWE < 1.4, outside young groups",
            "script": "docs/make_photometric_relations.py",
        },
        **mann_relations(mann, gaia),
        "surface": surface(gaia),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the tables")
    print(json.dumps(relations(parser.parse_args().folder), indent=1))
