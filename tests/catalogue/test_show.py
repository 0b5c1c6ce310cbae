"""The terminal table: all that matters within 80 columns, on any terminal or none."""

import io

import numpy as np
import pytest
from rich.console import Console

from stargap.catalogue.schema import INT_NULL, MEASURED
from stargap.catalogue.show import print_table
from stargap.errors import UsageError
from stargap.flags import Flag


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


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_it_fits(width):
    table = survey(5)
    table["flags"][:] = 0b111 << 4
    lines = printed(table, width=width)
    assert max(map(len, lines)) <= width
    row = lines[2]
    assert ("spec-55000-F5902_sp00-000" in row) == (width >= 100)
    assert row.split()[0].endswith("00-000")
    assert f"{table['rv'][0]:.1f}±2.5" in row
    assert f"{table['teff'][0]:.0f}±11" in row
    assert f"{table['logg'][0]:.2f}±0.01" in row
    assert f"{table['spt'][0]:.1f}" in row.split()
    assert "low_sn" in row


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
    names = [line.split("  ")[0] for line in printed(table, width=120)[2:6]]
    assert names == ["[red]a", "é 名", r"a\x1b[31m", ".fits"]


def test_ascii_terminals():
    table = survey(3)
    table["path"][0] = "é.fits"
    table["flags"][:] = 1 << 31 - 3 | 1 << 4
    lines = printed(table, width=120, encoding="ascii")
    assert lines[2].startswith(r"\xe9 ")
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
