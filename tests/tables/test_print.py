"""The terminal table: all that matters within 80 columns, on any terminal or none."""

import io

import numpy as np
import pytest
from rich.console import Console

from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS, FinalCut, Flag, bit_text, set_bits
from stargap.tables.columns import CATALOGUE, INT_NULL, MEASURED, STARS
from stargap.tables.print import print_table
from stargap.tables.show import print_rows
from stargap.tables.write import write_table


def survey(rows):
    random = np.random.default_rng(3)
    table = {column.name: [None] * rows for column in MEASURED}
    table["path"] = [f"/a/b/spec-55{i:03d}-F5902_sp{i % 16:02d}-{i:03d}.fits.gz" for i in range(rows)]
    centres = {"snr_r": (40, 3), "rv": (-150, 20), "teff": (3400, 90), "logg": (4.9, 0.1), "m_h": (-0.3, 0.1)}
    for name, (centre, spread) in centres.items():
        table[name] = random.normal(centre, spread, rows)
        table[f"e_{name}"] = np.full(rows, 0.123 * spread)
    table["spt"], table["halpha_ew"] = random.uniform(0, 7, rows), random.normal(0, 2, rows)
    return table | {"flags": np.zeros(rows, dtype=np.int32)}


def printed(table, *, width=80, encoding="utf-8", **options):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_table(table, console=Console(file=file, width=width), **options)
    file.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_printed_errors_are_the_random_and_the_systematic_one_together():
    table = survey(3) | {"teff": [3400.0] * 3, "e_teff": [30.0, 30.0, 30.0], "e_teff_sys": [40.0, None, np.nan]}
    text = "\n".join(printed(table))
    assert [text.count("3400±50"), text.count("3400±30")] == [1, 2]
    del table["e_teff_sys"]
    assert "\n".join(printed(table)).count("3400±30") == 3


def test_flags_beyond_the_bits_of_users_are_spelled_out():
    table = survey(2) | {"flags": np.array([0, Flag.UNLIKE_TRAINING], dtype=np.int64)}
    assert printed(table)[-1].startswith("  1 × unlike_training: the spectrum is unlike all")


def test_numbers_that_cannot_be_used_are_not_shown():
    table = survey(3)
    table["flags"] = np.array([0, Flag.UNLIKE_TRAINING | Flag.LOW_SN, Flag.TEFF_AT_BOUND], dtype=np.int64)
    lines = printed(table, width=140)
    assert lines[2].split()[1:8].count("–") == 0
    assert [line[0] for line in lines[2:5]] == [" ", "✗", "✗"]
    assert lines[3].split()[3:9] == ["–"] * 6
    assert lines[4].split()[4:7] == ["–"] * 3
    assert f"{table['rv'][2]:.1f}±2.5" in lines[4]
    assert lines[3].endswith("unlike_training, low_sn"), "the worst first"
    assert lines[6].startswith("  ✗ marks labels that cannot be used, in 2 of these rows")
    assert [line.split()[2] for line in lines[7:]] == ["unlike_training:", "teff_at_bound:", "low_sn:"]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_it_fits(width):
    table = survey(5)
    table["flags"][:] = Flag.LOW_SN | Flag.SN_FROM_IVAR | Flag.MANY_BAD_PIXELS
    lines = printed(table, width=width)
    assert max(map(len, lines)) <= width
    row = lines[2]
    assert ("spec-55000-F5902_sp00-000" in row) == (width >= 100)
    assert row.split()[1].endswith("00-000")
    assert f"{table['rv'][0]:.1f}±2.5" in row
    assert f"{table['teff'][0]:.0f}±11" in row
    assert f"{table['logg'][0]:.2f}±0.01" in row
    assert f"M{table['spt'][0]:.1f}" in row.split()
    assert "low_sn" in row


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_flag_is_cut_and_names_stay_different(width):
    """The worst flag of every row is whole, in its line or below it; files of one plate differ in the middle."""
    table = survey(4)
    table["path"] = [f"spec-55862-B{plate}_sp{spid:02d}-006.fits.gz" for plate in (6202, 6212) for spid in (1, 7)]
    table["flags"] = [0, Flag.OUTSIDE_TRAINING | Flag.LOW_SN | Flag.ACTIVE, Flag.UNLIKE_TRAINING | Flag.BAD_FIT, 16]
    lines = printed(table, width=width)
    lines = lines[: lines.index("4 spectra")]
    assert width < 80 or max(map(len, lines)) <= width
    rows = "\n".join(lines[2:])
    for flag in ("outside_training", "unlike_training", "low_sn"):
        assert flag in rows
    assert "outside_training, low_sn, active" in rows or "outside_training +2" in rows
    assert (width >= 100) == (lines[0].split()[-1] == "flags")
    names = [line[2:].split()[0] for line in lines[2:] if not line.startswith("    ")]
    assert len(set(names)) == 4


def test_rows_that_cannot_be_used_are_dim_on_a_terminal():
    table = survey(2) | {"flags": np.array([0, Flag.UNLIKE_TRAINING])}
    raw = io.StringIO()
    print_table(table, console=Console(file=raw, width=100, force_terminal=True, color_system="standard"))
    assert [line.startswith("\x1b[2m✗") for line in raw.getvalue().splitlines()[2:4]] == [False, True]


def test_numbers_are_whole_on_a_narrow_console():
    table = survey(1)
    assert f"{table['rv'][0]:.1f}±2.5" in "".join(printed(table, width=30))


def test_long_tables_are_cut_but_counted():
    table = survey(1000)
    table["flags"][900:] = Flag.ACTIVE | Flag.LOW_SN
    lines = printed(table)
    assert lines[42:] == [
        "... 960 more rows",
        "1000 spectra",
        "  100 × low_sn: S/N below 5 in r or i",
        "  100 × active: H-alpha in emission: labels are suspect",
    ]
    assert len(printed(survey(40))) == 43
    assert printed(survey(7), max_rows=0) == ["... 7 more rows", "7 spectra"]


def test_nulls_and_no_rows():
    table = {column.name: [None] for column in MEASURED}
    lines = printed(table | {"flags": [INT_NULL]})
    assert lines[2].split() == ["–"] * 8
    assert lines[3:] == ["1 spectrum"]
    assert printed({column.name: [] for column in MEASURED}) == ["0 spectra"]


def test_a_value_without_an_error_stands_alone():
    table = survey(2)
    table["e_teff"][1] = np.nan
    lines = printed(table)
    assert f" {table['teff'][1]:.0f} " in lines[3]
    assert lines[2].index("±11") == lines[3].index(f"{table['teff'][1]:.0f}") + 4


def test_odd_names_are_shown_as_they_are():
    table = survey(4)
    table["path"] = ["x/[red]a.fits", "é 名.fits", "a\x1b[31m.fits", ".fits"]
    names = [line[2:].split("  ")[0] for line in printed(table, width=120)[2:6]]
    assert names == ["[red]a", "é 名", r"a\x1b[31m", ".fits"]


def test_ascii_terminals():
    table = survey(3)
    table["path"][0] = "é.fits"
    table["flags"][:] = 1 << 31 - 3 | 1 << 4
    lines = printed(table, width=120, encoding="ascii")
    assert lines[2].startswith(r"! \xe9 ")
    assert f"{table['rv'][0]:.1f}+-2.5" in lines[2]
    assert lines[-1] == "  3 x bit_28: user bit 28"


def test_no_escape_codes_without_a_terminal(capsys):
    print_table(survey(2))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "2 spectra" in out


def test_bad_requests():
    table = survey(2)
    with pytest.raises(UsageError, match="max_rows is -1"):
        print_table(table, max_rows=-1)
    del table["teff"]
    with pytest.raises(UsageError, match="columns missing: 'teff'"):
        print_table(table)


def test_every_bit_of_every_column_has_a_name_and_a_sentence():
    for column, bits in FLAG_COLUMNS.items():
        for flag in bits:
            assert bit_text(column, int(flag).bit_length() - 1) == (flag.name.lower(), flag.sentence)
        assert bit_text(column, 23)[1] in ("unknown bit 23", Flag.NOT_SELECTED.sentence)
        assert bit_text(column, 31) == ("bit_31", "user bit 31")
        assert bit_text(column, 40) == ("bit_40", "unknown bit 40")
    assert {c.name for c in CATALOGUE if "Bit" in c.description} == set(FLAG_COLUMNS)
    assert set_bits(0) == set_bits(INT_NULL) == []
    assert set_bits(1 << 31 | 1) == [0, 31]


def test_the_catalogue_is_shown_by_designation_with_all_its_flags():
    table = {column.name: [None] * 3 for column in CATALOGUE}
    table |= {"designation": ["J1", "J2", ""], "flags": [16, 0, INT_NULL], "cuts": [0, 8, INT_NULL]}
    lines = printed(table)
    assert [line[:4].strip() for line in lines[2:5]] == ["! J1", "J2", "–"]
    assert lines[5:] == [
        "3 spectra",
        "  ! marks what should be used with care, in 1 of these rows",
        "  1 × low_sn: S/N below 5 in r or i",
        "  1 × cuts too_hot: Teff too high for an M dwarf",
    ]


def star(folder, suffix=".fits"):
    rows = {column.name: [None] * 3 for column in STARS}
    rows |= {"spectrum_id": [11, 12, 13], "gaia_source_id": [6917528997577384320, 6917528997577384321, None]}
    rows |= {"designation": ["J1", "é\x1b[31m", "J1"], "teff": [3195.04, None, 3300.0], "e_teff": [22.0, None, 3.0]}
    rows |= {"cuts": [int(FinalCut.YOUNG | FinalCut.ACTIVE) | 1 << 27, None, 0], "in_final_catalogue": [False] * 3}
    write_table(rows, folder / f"stars{suffix}", schema=STARS, provenance={})
    return folder / f"stars{suffix}"


def test_all_that_is_known_is_wrapped_to_the_terminal(tmp_path):
    file = star(tmp_path)
    for width in (80, 100):
        lines = rows_printed(file, ["11"], width=width)
        assert max(map(len, lines)) <= width
        text = " ".join(" ".join(lines).split())
        assert "mean or median kinematic age too low for the isochrones of the label prior" in text


def test_labels_that_cannot_be_used_are_marked(tmp_path):
    row = {column.name: [None] for column in MEASURED} | {"spectrum_id": [0], "flags": [int(Flag.GIANT)]}
    row |= {"teff": [3500.0], "e_teff": [30.0], "e_teff_sys": [40.0], "rv": [10.0], "limit_teff": [20.0]}
    write_table(row, tmp_path / "t.fits", schema=MEASURED, provenance={})
    told = {line.split()[0]: line for line in rows_printed(tmp_path / "t.fits", ["0"])}
    assert all("✗ cannot be used" in told[name] for name in ("teff", "e_teff", "e_teff_sys", "limit_teff"))
    assert "✗" not in told["rv"]


def rows_printed(*request, width=300, encoding="utf-8"):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_rows(*request, console=Console(file=file, width=width))
    file.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


@pytest.mark.parametrize("suffix", [".fits", ".parquet", ".vot", ".csv", ".ecsv"])
def test_a_star_is_found_by_any_of_its_identifiers(tmp_path, suffix):
    file = star(tmp_path, suffix)
    lines = rows_printed(file, ["6917528997577384320"])
    assert lines == rows_printed(file, ["11"])
    told = {line.split()[0]: line.split()[1:] for line in lines}
    assert told["gaia_source_id"][0] == "6917528997577384320"
    assert told["teff"] == ["3195.0", "K", "Effective", "temperature"]
    assert told["young:"][:3] == ["mean", "or", "median"]
    assert told["active:"] == ["H-alpha", "in", "emission:", "labels", "are", "suspect"]
    assert told["bit_27:"] == ["user", "bit", "27"]
    nulls = " ".join(lines).partition("null: ")[2].split()
    assert "logg," in nulls
    assert "teff," not in nulls
    assert len({line.index("K ") for line in lines if " K " in line}) == 1


def test_a_spectrum_is_found_by_its_path(tmp_path):
    rows = {column.name: [None] * 2 for column in MEASURED}
    rows |= {"spectrum_id": [0, 1], "path": ["a/spec-1.fits", "a/spec-2.fits"]}
    write_table(rows, tmp_path / "t.fits", schema=MEASURED, provenance={})
    assert rows_printed(tmp_path / "t.fits", ["a/spec-2.fits"]) == rows_printed(tmp_path / "t.fits", ["1"])


def test_several_rows_are_apart_and_each_is_shown_once(tmp_path):
    file = star(tmp_path)
    lines = rows_printed(file, ["J1", "11"])
    assert lines.count("") == 1
    assert [line.split()[1] for line in lines if line.startswith("spectrum_id")] == ["11", "13"]


def test_any_terminal_is_safe(tmp_path):
    lines = rows_printed(star(tmp_path), ["12"], encoding="ascii")
    assert all("\x1b" not in line for line in lines)
    assert any(line.startswith("null: ") for line in lines)


def test_identifiers_that_are_not_there(tmp_path):
    file = star(tmp_path)
    for wanted in ("-9999", "", "14", "011", "1_1", "6917528997577384322", str(11 + 2**64), "J"):
        with pytest.raises(UsageError, match=f"no row has '{wanted}' as its spectrum_id, gaia_source_id, designation"):
            rows_printed(file, [wanted])
    with pytest.raises(UsageError, match="does not exist"):
        rows_printed(tmp_path / "no.fits", ["1"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="none of stargap's tables: it has columns 'a', 'b'"):
        rows_printed(tmp_path / "t.csv", ["1"])
