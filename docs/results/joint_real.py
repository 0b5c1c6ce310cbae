"""Real LAMOST stars by spectrum, by photometry and by both, each through a model that has not seen it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pages import number, table
from real_star_anchors import Photometry
from real_star_recipes import RECIPES, SHIPPED, read_bench

from stargap.flags import JointFlag
from stargap.photometry.joint import joint_labels
from stargap.photometry.labels import LABEL_NAMES, photometric_labels
from stargap.statistics import compare
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchored.model import lamost_transfer
from stargap.transfer.anchored.train import cross_validate

Array = NDArray[np.float64]
COLUMNS = {"g_mag": "G_mag", "bp_mag": "BP_mag", "rp_mag": "RP_mag", "ks_mag": "Ks_mag", "e_ks_mag": "eKs_mag",
           "parallax": "parallax", "e_parallax": "parallax_error", "ruwe": "ruwe"}  # fmt: skip


def real_text(data: Path) -> str:
    """Return the part of the section on real stars."""
    bench, photometry = read_bench(data), Photometry(data)
    found = cross_validate(bench.anchors, shipped_emulator(), RECIPES[SHIPPED], scored=bench.scored)
    with (data / "lamost" / "index.csv").open(encoding="utf-8") as file:
        header = file.readline().strip().split(",")
        lines = [dict(zip(header, line.rstrip("\n").split(","), strict=False)) for line in file]
    places = {line["file"]: photometry.find(line["ra"], line["dec"]) for line in lines}
    rows = [row for row in bench.rows("lamost") if places.get(bench.stars[row].name) is not None]
    rows = [row for row in rows if np.isfinite(found.labels[row, :3]).all()]
    sources = [places[bench.stars[row].name] for row in rows]
    table_of = {ours: photometry.column[theirs][sources] for ours, theirs in COLUMNS.items()}
    table_of |= {"a_v": np.zeros(len(rows)), "e_a_v": np.zeros(len(rows))}
    own = lamost_transfer().own.numpy()
    spectrum = {}
    for k, name in enumerate(LABEL_NAMES):
        spectrum |= {name: found.labels[rows, k], f"e_{name}": found.errors[rows, k]}
        spectrum |= {f"e_{name}_sys": np.full(len(rows), own[k])}
        spectrum |= {f"use_{name}": np.ones(len(rows), int), f"care_{name}": np.zeros(len(rows), int)}
    both = spectrum | photometric_labels(table_of) | joint_labels(spectrum, table_of)
    known = np.stack([bench.stars[row].literature for row in rows])
    lines_of = []
    for title, what in (("spectrum alone", ""), ("photometry alone", "_phot"), ("both together", "_joint")):
        cells = [title]
        for place, name, digits in ((0, "teff", 0), (2, "m_h", 2)):
            one = compare(both[name + what], known[:, place])
            cells += [number(one.values.median, digits, error=one.errors.median, sign=True),
                      number(one.values.clipped, digits, error=one.errors.clipped)]  # fmt: skip
        lines_of.append(cells)
    tense = int((both["joint_flags"] & int(JointFlag.TENSION) != 0).sum())
    head = ["labels − literature", "Teff: median (K)", "clipped (K)", "[M/H]: median (dex)", "clipped (dex)"]
    return f"""### Real stars

{len(rows)} spectra of LAMOST that the model is judged by (S/N above 15, RUWE below 1.6), each through the shipped
recipe without its star, joined with its own photometry; errors of the spectrum are those of the card. The model's
scale is photometry's, so photometry cannot judge: these are against the literature of the stars, mostly by CARMENES
spectra, which itself scatters by about 40 K and 0.15 dex about anything. So few stars of high S/N can show that
nothing breaks, and no more. Spectrum and photometry disagree for {tense} of them.

{table(head, lines_of)}"""
