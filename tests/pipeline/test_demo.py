"""The demonstration: a whole survey in LAMOST's files, joined with its truth by identifier, resumed when run again."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.reports import quick_reports

from stargap.flags import Companion
from stargap.mock.tables import companion_tables
from stargap.pipeline.demo import run_demo
from stargap.validation.report.truth import QUANTITIES

STARS = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with quick_reports():
        return run_demo(tmp_path_factory.mktemp("demo"), stars=STARS, seed=5)


def number(text):
    return float(re.match(r"[-+]?[\d.,]+", text)[0].replace(",", ""))


@pytest.mark.slow
def test_every_stage_is_done_and_every_spectrum_has_its_row(demo):
    assert {state.state for state in demo.states} == {"done"}
    truth = pq.read_table(demo.folder / "truth.parquet")
    spectra = pq.read_table(demo.folder / "run/catalogue/spectra.parquet")
    assert sorted(spectra["obsid"].to_pylist()) == sorted(truth["obsid"].to_pylist())
    assert (demo.report.parent / "figures/19-recovery.png").stat().st_size > 1_000
    assert (demo.folder / "run/cleaning.html").exists()


@pytest.mark.slow
def test_the_numbers_are_those_of_the_tables_against_the_truth(demo):
    rows = {row[0]: row for row in demo.headlines[0].rows}
    spectra = pq.read_table(demo.folder / "run/catalogue/spectra.parquet")
    assert number(rows["spectra of class M dwarf"][2]) <= len(spectra)
    final = spectra["in_final_catalogue"].to_numpy(zero_copy_only=False)
    assert number(rows["spectra in the catalogue"][2]) == final.sum() > 20
    truth = pq.read_table(demo.folder / "truth.parquet")
    known = dict(zip(truth["obsid"].to_pylist(), range(len(truth)), strict=True))
    place = np.array([known[obsid] for obsid in spectra["obsid"].to_pylist()])
    off = spectra["teff"].to_numpy() - truth["teff"].to_numpy()[place]
    dwarf = (truth["kind"].to_numpy() == "dwarf") & ~truth["active"].to_numpy(zero_copy_only=False)
    used = np.isfinite(off) & dwarf[place] & final
    assert number(rows["Teff − literature (K)"][3]) == pytest.approx(np.median(off[used]), abs=0.6)
    assert abs(number(rows["RV − Gaia's (km/s)"][3])) < 5
    assert {row[0] for row in demo.headlines[1].rows} == set(QUANTITIES.values())


@pytest.mark.slow
def test_tables_of_others_are_used_where_each_has_its_place(demo):
    spectra = pq.read_table(demo.folder / "run/catalogue/spectra.parquet")
    flags = spectra["vb_flag"].to_numpy()
    listed = pq.read_table(demo.folder / "truth.parquet", columns=["source_id", "binary", "variable"]).to_pydict()
    true = {name: {s for s, yes in zip(listed["source_id"], listed[name], strict=True) if yes} for name in listed}
    ids = np.array(spectra["gaia_source_id"].to_pylist(), dtype=object)
    for bit, name in ((Companion.BINARY, "binary"), (Companion.VARIABLE, "variable")):
        marked = set(ids[flags & int(bit) != 0].tolist())
        assert 0 < len(marked & true[name]) < len(true[name])
    assert set(demo.settings.catalogue.companions) == set(companion_tables(demo.folder))
    page = demo.report.read_text(encoding="utf-8")
    for text in ("Comparison with simulated literature", "Comparison with simulated APOGEE"):
        assert text in page
    for name in ("binary: vb_flag", "variable: vb_flag", "young: cuts"):
        assert name in page
    figures = {path.name[:2] for path in (demo.report.parent / "figures").glob("*.png")}
    assert {"14", "15", "16", "17", "18"} <= figures


@pytest.mark.slow
def test_a_headline_that_the_paper_has_stands_beside_it(demo):
    rows = {row[0]: row for row in demo.headlines[0].rows}
    for title in ("[M/H] − primary's, S/N > 5", "Teff − literature, S/N > 50", "log g − APOGEE", "[M/H] − APOGEE"):
        assert "±" in rows[title][1]
    assert rows["variable candidates"][3].endswith("pure")
    assert all(len(row) == 4 for row in demo.headlines[0].rows)


@pytest.mark.slow
def test_run_again_it_makes_nothing_and_says_the_same(demo):
    paths = [path for path in (demo.folder / "run").rglob("*") if path.is_file() and path.name != "survey.toml"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    with quick_reports():
        again = run_demo(demo.folder, stars=STARS, seed=5)
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    assert again.headlines == demo.headlines
