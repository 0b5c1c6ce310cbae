"""Pairs are those that the paper's cuts leave, counted once, and planted differences come back."""

import csv
import io

import numpy as np
import pytest

from stargap.cli.main import main
from stargap.errors import UsageError
from stargap.settings import example_toml, read_settings_as
from stargap.tables.columns import CATALOGUE, Column
from stargap.tables.write import write_table
from stargap.validation.binaries import BinarySettings, compare_binaries, run_binaries

PLAIN = BinarySettings(resamples=50)
START = 4_472_832_130_942_575_872


def survey(count=2000, seed=0):
    """M dwarfs, pairs in either order, and primaries; [M/H] differs by 0.04 and the scatter 3 / (S/N)."""
    random = np.random.default_rng(seed)
    m_dwarf, primary = START + np.arange(count), START + 10**6 + np.arange(count)
    metals, velocity, snr = random.normal(-0.2, 0.3, count), random.normal(0, 30, count), random.uniform(5, 100, count)
    ours = {"gaia_source_id": m_dwarf, "snr_r": snr, "rv": velocity + random.normal(0, 2, count)}
    ours["m_h"] = metals + 0.04 + random.normal(0, 3 / snr)
    swap = random.random(count) < 0.5
    pairs = {"source_id1": np.where(swap, m_dwarf, primary), "source_id2": np.where(swap, primary, m_dwarf)}
    pairs |= {"R_chance_align": np.full(count, 1e-4), "pairdistance": np.full(count, 10 / 3600)}
    bright = {"gaia_source_id": primary, "feh": metals, "rv": velocity, "snrg": np.full(count, 50.0)}
    return ours, pairs, bright


def test_planted_difference_comes_back_in_every_bin():
    ours, pairs, bright = survey()
    found = compare_binaries(ours, pairs, bright, PLAIN)
    assert [one.snr_above for one in found.agreements] == [5, 20, 50]
    delta = ours["m_h"] - bright["feh"]
    for one in found.agreements:
        rows = ours["snr_r"] > one.snr_above
        assert one.result.n == rows.sum()
        assert one.result.values.median == pytest.approx(np.median(delta[rows]))
        assert abs(one.result.values.median - 0.04) < 4 * one.result.errors.median
        assert one.m_h == pytest.approx(np.percentile(ours["m_h"][rows], [5, 95]))
        assert one.delta == pytest.approx(np.percentile(delta[rows], [5, 95]))
    scatter = [one.result.values.scatter for one in found.agreements]
    assert scatter[0] > scatter[1] > scatter[2]


def test_each_cut_removes_what_it_should():
    ours, pairs, bright = survey(100)
    pairs["R_chance_align"][:10] = 0.01
    pairs["R_chance_align"][10] = np.nan
    pairs["pairdistance"][5:20] = 3 / 3600
    bright["rv"][18:30] = ours["rv"][18:30] + 10.5
    ours["rv"][30:33] = np.nan
    found = compare_binaries(ours, pairs, bright, PLAIN)
    counts = [(cut.before, cut.failed, cut.unknown, cut.left) for cut in found.cuts]
    assert counts == [(100, 0, 0, 100), (100, 10, 1, 89), (89, 9, 0, 80), (80, 10, 3, 67)]
    np.testing.assert_array_equal(found.gaia_source_id, ours["gaia_source_id"][33:])
    np.testing.assert_array_equal(found.primary_id, bright["gaia_source_id"][33:])
    assert np.abs(found.delta_rv).max() < 10


def test_cuts_can_be_left_out():
    ours, pairs, bright = survey(20)
    chosen = BinarySettings(chance="", separation="", rv="", prefer="", resamples=0)
    pairs = {name: pairs[name] for name in ("source_id1", "source_id2")}
    found = compare_binaries(ours, pairs, {name: bright[name] for name in ("gaia_source_id", "feh")}, chosen)
    assert [cut.name for cut in found.cuts] == ["FGK + M pairs"]
    assert len(found.m_h) == 20
    assert found.cuts[-1].paper is None


def test_two_m_dwarfs_are_no_pair_and_a_star_counts_once():
    ours = {
        "gaia_source_id": [1, 2, 3, 3],
        "snr_r": [30.0, 30.0, 9.0, 60.0],
        "rv": [0.0] * 4,
        "m_h": [0.1, 0.2, 0.3, 0.4],
    }
    pairs = {"source_id1": [1, 11, 12, 13], "source_id2": [2, 3, 3, 99]}
    pairs |= {"R_chance_align": [0.0] * 4, "pairdistance": [0.5, 0.0, 0.5, 0.5]}
    bright = {"gaia_source_id": [2, 11, 12, 12, 13], "feh": [0.0, 0.1, 0.2, 0.3, 0.4], "rv": [0.0] * 5}
    bright |= {"snrg": [9.0, 9.0, 9.0, 50.0, 9.0]}
    found = compare_binaries(ours, pairs, bright, PLAIN)
    assert found.gaia_source_id.tolist() == [3]
    assert found.primary_id.tolist() == [12]
    assert (found.m_h.tolist(), found.primary_m_h.tolist(), found.snr.tolist()) == ([0.4], [0.3], [60.0])


def test_only_the_final_catalogue_counts():
    ours, pairs, bright = survey(10)
    ours["in_final_catalogue"] = np.arange(10) < 3
    assert len(compare_binaries(ours, pairs, bright, PLAIN).m_h) == 3
    assert len(compare_binaries(ours, pairs, bright, BinarySettings(rows="all", resamples=0)).m_h) == 10


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pairs(count):
    found = compare_binaries(*survey(count), PLAIN)
    assert found.agreements[0].result.n <= count
    assert "nan" not in found.markdown().lower()
    assert len(list(csv.reader(io.StringIO(found.csv())))) == count + 1


def test_nothing_in_common_and_all_null():
    ours, pairs, bright = survey(5)
    assert len(compare_binaries(ours, pairs, bright | {"gaia_source_id": np.arange(5)}, PLAIN).m_h) == 0
    null = np.full(5, np.nan)
    assert compare_binaries(ours | {"m_h": null}, pairs, bright, PLAIN).agreements[0].result.n == 0
    assert len(compare_binaries(ours, pairs, bright | {"feh": null}, PLAIN).m_h) == 0
    assert len(compare_binaries(ours | {"rv": null}, pairs, bright, PLAIN).m_h) == 0


def test_floats_as_identifiers_are_refused():
    ours, pairs, bright = survey(5)
    pairs["source_id1"] = pairs["source_id1"].astype(float)
    with pytest.raises(UsageError, match="source_id1: holds floats"):
        compare_binaries(ours, pairs, bright, PLAIN)
    with pytest.raises(UsageError, match="the table of primaries has no column 'feh'"):
        compare_binaries(ours, survey(5)[1], {name: bright[name] for name in ("gaia_source_id", "rv", "snrg")}, PLAIN)


def test_paper_stands_beside_ours_and_simulated_is_said():
    found = compare_binaries(*survey(50), PLAIN, simulated=True)
    page = found.markdown()
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert all("simulated" in line for line in headings)
    assert "| 868 |" in page
    assert "| +0.04 | 0.24 |" in page
    assert "| -1.20 to +0.50 |" in page
    assert "simulated" not in compare_binaries(*survey(50), PLAIN).markdown()


def written(tmp_path, ours, pairs, bright):
    write_table(ours, tmp_path / "c.parquet", schema=[c for c in CATALOGUE if c.name in ours], provenance={})
    ids = ("source_id1", "source_id2")
    schema = [Column(name, "int64" if name in ids else "float64") for name in pairs]
    write_table(pairs, tmp_path / "pairs.fits", schema=schema, provenance={})
    schema = [Column(name, "int64" if name == "gaia_source_id" else "float64") for name in bright]
    write_table(bright, tmp_path / "bright.csv", schema=schema, provenance={})
    return tmp_path / "c.parquet", tmp_path / "pairs.fits", tmp_path / "bright.csv"


def test_files_in_and_out(tmp_path):
    ours, pairs, bright = survey(50)
    files = written(tmp_path, ours, pairs, bright)
    found = run_binaries(*files, PLAIN, tmp_path / "out")
    assert found.agreements[0].result.n == 50
    assert (tmp_path / "out" / "binaries.md").read_text() == found.markdown()
    rows = list(csv.DictReader((tmp_path / "out" / "binaries.csv").read_text().splitlines()))
    assert [int(row["gaia_source_id"]) for row in rows] == ours["gaia_source_id"].tolist()


def said(capsys, *words):
    """What a command prints, and its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return told.out, told.err, end.value.code


def test_command_prints_the_cuts_and_the_numbers_beside_the_papers(tmp_path, capsys):
    ours, pairs, bright = survey(50)
    files = written(tmp_path, ours, pairs, bright)
    out, _, code = said(capsys, "binaries", *files, "-o", tmp_path / "out")
    lines = out.splitlines()
    assert code == 0
    assert "…" not in out, "a number that is cut short is another number"
    for cut in ("R_chance_align < 0.01", "separation > 3 arcsec", "|dRV| < 10 km/s"):
        assert any(line.startswith(cut) for line in lines)
    found = run_binaries(*files)
    for one, scatter in zip(found.agreements, ("0.24", "0.21", "0.15"), strict=True):
        line, spans = [line for line in lines if line.startswith(f"> {one.snr_above:g} ")]
        cells = line.split()
        assert int(cells[2]) == one.result.n
        assert float(cells[3]) == pytest.approx(one.result.values.median, abs=0.0006)
        assert cells[-1] == scatter
        assert "{:+.2f} to {:+.2f}".format(*one.delta) in spans
    assert lines[-1] == f"wrote {tmp_path / 'out' / 'binaries.md'}"
    assert (tmp_path / "out" / "binaries.md").read_text() == found.markdown()


def test_command_takes_other_names_of_columns_and_other_cuts(tmp_path, capsys):
    ours, pairs, bright = survey(50)
    pairs = {"sep_arcsec": np.linspace(0.1, 5, 50), **{name: pairs[name] for name in ("source_id1", "source_id2")}}
    files = written(tmp_path, ours, pairs, bright)
    (tmp_path / "b.toml").write_text('chance = ""\nseparation = "sep_arcsec"\nseparation_unit = 1.0\n')
    out, _, code = said(capsys, "binaries", *files, "--settings", tmp_path / "b.toml")
    assert code == 0
    assert "R_chance_align" not in out
    (cut,) = [line.split() for line in out.splitlines() if line.startswith("separation > 3 arcsec")]
    assert cut[4:8] == ["50", "29", "0", "21"]
    _, error, code = said(capsys, "binaries", *files)
    assert (code, "'R_chance_align'" in error) == (2, True)


def test_published_pairs_that_carry_their_primaries(shared_data):
    from stargap.tables.read import read_table

    table = read_table(shared_data / "labels" / "birky2020_binaries.csv.gz")
    ours = {"gaia_source_id": table["Mdwarf_Gaia_ID"], "m_h": table["Mdwarf_FEH"]}
    ours |= {"snr_r": np.full(len(table["Mdwarf_FEH"]), 99.0), "rv": np.zeros(len(table["Mdwarf_FEH"]))}
    chosen = BinarySettings(
        first="Companion_Gaia_ID", second="Mdwarf_Gaia_ID", key="Companion_Gaia_ID", m_h="Companion_FEH",
        chance="", separation="", rv="", prefer="",
    )  # fmt: skip
    found = compare_binaries(ours, table, table, chosen)
    assert found.agreements[0].result.n == len(np.unique(table["Mdwarf_Gaia_ID"]))
    assert abs(found.agreements[0].result.values.median) < 0.1


def test_settings_survive_toml(tmp_path):
    (tmp_path / "b.toml").write_text(example_toml(PLAIN))
    assert read_settings_as(BinarySettings, tmp_path / "b.toml") == PLAIN
