"""What users get: every format keeps ids, units, UCDs and nulls; Table 1 is the paper's; the ReadMe describes bytes."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import ascii as text_tables
from astropy.io import fits, votable
from astropy.table import Table

from stargap.catalogue.build import CatalogueSettings
from stargap.catalogue.publish import paper_table, write_catalogue
from stargap.errors import UsageError
from stargap.flags import FLAG_COLUMNS
from stargap.tables import cds
from stargap.tables.cds import write_fixed_width
from stargap.tables.columns import CATALOGUE, INT_NULL, PAPER, STARS, Column
from stargap.tables.parquet import read_columns
from stargap.tables.write import write_table

GAIA = 6917528997577384321
FORMATS = ("fits", "fits.gz", "csv", "vot", "ecsv", "cds")
READ = ("fits", "fits.gz", "vot", "ecsv")


def some(schema, rows):
    """A table with a null in every third row of each column, and identifiers of 19 digits."""
    random = np.random.default_rng(4)
    table = {}
    for column in schema:
        if column.dtype == "str":
            values = np.array([f"{column.name} <{i}> é" for i in range(rows)], dtype=object)
        elif column.dtype == "bool":
            values = np.arange(rows) % 4 > 0
        else:
            low, high = column.valid_range or (0, 1000)
            low, high = max(low, -1000), min(high, 2 * abs(low) + 1000)
            whole = column.dtype.startswith("int")
            values = random.integers(low, high + 1, rows) if whole else random.uniform(low, high, rows)
        if column.dtype != "bool":
            values[np.arange(rows) % 3 == 2] = column.null
        table[column.name] = values.astype(object if column.dtype == "str" else column.dtype)
    table["spectrum_id"] = GAIA + np.arange(rows)
    return table


def catalogue(folder, rows=20, **about):
    provenance = {"creator": "stargap 0.1.0", "catalogue_settings": CatalogueSettings(**about).model_dump_json()}
    for name, schema in (("spectra", CATALOGUE), ("stars", STARS)):
        write_table(some(schema, rows), folder / f"{name}.parquet", schema=schema, provenance=provenance)
    return folder


def test_every_format_keeps_ids_nulls_and_units(tmp_path):
    folder = catalogue(tmp_path, 20)
    written = write_catalogue(folder, formats=FORMATS)
    assert len({path.name for path in written}) == len(written) == 14
    assert all(path.exists() for path in written)
    for name, schema in (("spectra", CATALOGUE), ("stars", STARS)):
        expected = read_columns(folder / f"{name}.parquet")
        for suffix in READ:
            table = Table.read(folder / f"{name}.{suffix}")
            assert table.colnames == [column.name for column in schema]
            for column in schema:
                assert str(table[column.name].unit or "") in (column.unit, "0.1 nm", column.unit.replace("/", " / "))
                values = np.ma.asarray(table[column.name])
                null = column.is_null(expected[column.name])
                if column.dtype not in ("bool", "str"):
                    np.testing.assert_array_equal(column.is_null(values), null, column.name)
                    kept = np.ma.getdata(values)[~null]
                    np.testing.assert_array_equal(kept, expected[column.name][~null], column.name)
                    assert kept.dtype.newbyteorder("=") == np.dtype(column.dtype)
        with fits.open(folder / f"{name}.fits", checksum=True) as hdus:
            header = hdus[1].header
            assert [header.get(f"TUCD{i}") for i in range(1, len(schema) + 1)] == [column.ucd for column in schema]
        frame = pl.read_parquet(folder / f"{name}.parquet")
        assert frame["gaia_source_id"].to_list() == [
            None if i == INT_NULL else i for i in expected["gaia_source_id"].tolist()
        ]
        field = pq.read_schema(folder / f"{name}.parquet").field("parallax")
        assert field.metadata[b"unit"] == b"mas"


@pytest.mark.parametrize("rows", [1, 50])
def test_the_readme_of_the_cds_describes_every_byte(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(cds, "_ROWS", 7)
    folder = catalogue(tmp_path, rows, title="Étoiles", authors="A. Author, B. Author")
    write_catalogue(folder, formats=["cds"])
    readme = (folder / "ReadMe").read_text(encoding="ascii")
    lines = readme.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == r"\xc9toiles"
    assert "A. Author, B. Author" in lines[1]
    for name, schema in (("spectra", CATALOGUE), ("stars", STARS)):
        data = (folder / f"{name}.dat").read_text(encoding="ascii").splitlines()
        assert len(data) == rows
        assert re.search(rf"{name}.dat +{len(data[0])} +{rows} ", readme)
        assert len({len(line) for line in data}) == 1
        expected = read_columns(folder / f"{name}.parquet")
        table = text_tables.read(str(folder / f"{name}.dat"), readme=str(folder / "ReadMe"), format="cds")
        assert table.colnames == [column.name for column in schema]
        for column in schema:
            read = table[column.name]
            null = column.is_null(expected[column.name])
            assert np.ma.getmaskarray(np.ma.asarray(read)).tolist() == null.tolist(), column.name
            kept, wanted = np.ma.asarray(read)[~null], expected[column.name][~null]
            if column.dtype == "str":
                assert [cell.encode().decode("unicode_escape") for cell in kept.tolist()] == wanted.tolist()
            elif column.dtype.startswith("float"):
                np.testing.assert_allclose(kept.astype(float), wanted, rtol=0, atol=0.501 * 10.0**-column.decimals)
            else:
                assert kept.tolist() == wanted.astype(np.int64).tolist()
            if column.unit and not null.all():
                assert read.unit == units.Unit(column.unit)
    for column, bits in FLAG_COLUMNS.items():
        assert f"): {column} is the sum of 2^bit" in readme
        for flag in bits:
            assert re.sub(r"\s+", " ", flag.sentence) in re.sub(r"\s+", " ", readme)


def test_fixed_width_of_awkward_numbers(tmp_path):
    schema = (Column("x", "float32", decimals=2), Column("n", "int64"), Column("ok", "bool"))
    x = np.float32([-0.004, 999.999, np.nan, -12.5, 1e6])
    write_table({"x": x, "n": [-(2**62), 2**62, INT_NULL, 0, 7], "ok": [True] * 5}, tmp_path / "t.parquet",
                schema=schema, provenance={})  # fmt: skip
    fixed = write_fixed_width(tmp_path / "t.parquet", tmp_path / "t.dat", schema=schema, about="")
    lines = fixed.path.read_text().splitlines()
    assert [field.form for field in fixed.fields] == ["F10.2", "I20", "I1"]
    assert [line.split() for line in lines] == [
        ["-0.00", str(-(2**62)), "1"],
        ["1000.00", str(2**62), "1"],
        ["1"],
        ["-12.50", "0", "1"],
        ["1000000.00", "7", "1"],
    ]
    assert {len(line) for line in lines} == {33}


@pytest.mark.parametrize("suffix", ["fits", "csv", "vot", "ecsv"])
def test_table_1_is_the_papers(tmp_path, suffix):
    folder = catalogue(tmp_path)
    written = write_catalogue(folder, formats=[suffix], paper=True)
    assert [path.name for path in written] == [f"table1.{suffix}", "README.md"]
    options = {"csv": {"format": "csv"}, "vot": {"use_names_over_ids": True}}.get(suffix, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table.read(written[0], **options)
    assert table.colnames == [column.name for column in PAPER]
    ours = read_columns(folder / "spectra.parquet")
    kept = ours["in_final_catalogue"]
    assert len(table) == np.count_nonzero(kept)
    for theirs, name in {"obsid": "obsid", "[M/H]": "m_h", "e_[M/H]": "e_m_h_paper", "Plx": "parallax"}.items():
        values = np.asarray(np.ma.filled(np.ma.asarray(table[theirs]), INT_NULL))
        expected = np.where(np.isnan(ours[name][kept]), INT_NULL, ours[name][kept])
        np.testing.assert_array_equal(values.astype(ours[name].dtype), expected.astype(ours[name].dtype))
        assert (values == INT_NULL).any()
    assert set(np.asarray(table["VBFlag"])) <= {0, 1, 2}


def test_a_variable_binary_is_a_variable_in_table_1():
    columns = {c.name: np.full(6, c.null, object if c.dtype == "str" else c.dtype) for c in CATALOGUE if c.paper_name}
    columns["vb_flag"] = np.int32([0, 1, 2, 3, 6, INT_NULL])
    table = paper_table(columns | {"in_final_catalogue": np.ones(6, bool)})
    assert table["VBFlag"].tolist() == [0, 1, 2, 1, 2, 0]
    assert table["Teff"].tolist() == [INT_NULL] * 6
    assert table["ID"].tolist() == [""] * 6


def test_the_readme_says_licence_citation_provenance_and_cuts(tmp_path):
    folder = catalogue(tmp_path, title="M dwarfs", authors="A. Author", licence="CC0-1.0", citation="Author 2026")
    (folder / "cuts.md").write_text("| cut | left |")
    write_catalogue(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "# M dwarfs",
        "A. Author",
        "Licence: CC0-1.0.",
        "Author 2026",
        "* creator: `stargap 0.1.0`",
        "| cut |",
    ):
        assert words in text
    assert re.search(r"`spectra\.\*` \| 20 \|", text)


def test_requests_that_cannot_be_carried_out(tmp_path):
    with pytest.raises(UsageError, match=r"unknown format 'hdf5': choose among fits, fits.gz, csv, vot, ecsv, cds"):
        write_catalogue(tmp_path, formats=["hdf5"])
    with pytest.raises(UsageError, match=r"holds no spectra.parquet; build the catalogue first"):
        write_catalogue(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settings_in_a_product_are_json(tmp_path):
    folder = catalogue(tmp_path)
    told = pq.read_schema(folder / "stars.parquet").metadata
    assert json.loads(told[b"catalogue_settings"])["licence"] == "CC-BY-4.0"


@pytest.mark.skipif(shutil.which("stilts") is None, reason="needs STILTS (Debian package stilts) on the path")
@pytest.mark.parametrize(("suffix", "made"), [("fits", "votable-binary2"), ("vot", "fits-basic")])
def test_stilts_keeps_ids_units_ucds_and_nulls(tmp_path, suffix, made):
    folder = catalogue(tmp_path)
    write_catalogue(folder, formats=[suffix])
    out = tmp_path / "copy"
    subprocess.run(["stilts", "tcopy", f"in={folder / f'spectra.{suffix}'}", f"out={out}", f"ofmt={made}"], check=True)
    expected = read_columns(folder / "spectra.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # STILTS writes units in its own spelling
        if "votable" in made:
            table = Table.read(out, format="votable")
            ucds = [field.ucd for field in votable.parse_single_table(out).fields]
        else:
            table, header = Table.read(out, format="fits"), fits.getheader(out, 1)
            ucds = [header[f"TUCD{i}"] for i in range(1, len(CATALOGUE) + 1)]
    assert ucds == [column.ucd for column in CATALOGUE]
    for column in CATALOGUE:
        values, null = np.ma.asarray(table[column.name]), column.is_null(expected[column.name])
        if column.dtype not in ("bool", "str"):
            got = np.ma.filled(values, INT_NULL if column.dtype.startswith("int") else np.nan)
            np.testing.assert_array_equal(got, expected[column.name], column.name)
            assert null.any() or column.name == "spectrum_id"
        unit = str(table[column.name].unit or "").replace("0.1nm", "Angstrom")  # as VOTable spells it
        assert units.Unit(unit) == units.Unit(column.unit)


@pytest.mark.filterwarnings("ignore")
def test_hats_keeps_ids_and_nulls_and_leaves_out_rows_without_a_position(tmp_path):
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed")
    folder = catalogue(tmp_path, 20)
    written = write_catalogue(folder, formats=["hats"])
    assert [str(path.relative_to(folder)) for path in written] == ["hats/spectra", "hats/stars", "README.md"]
    write_catalogue(folder, formats=["hats"])
    expected = read_columns(folder / "spectra.parquet")
    there = np.isfinite(expected["ra"]) & np.isfinite(expected["dec"])
    found = lsdb.open_catalog(folder / "hats" / "spectra").compute()
    assert sorted(found["spectrum_id"].tolist()) == sorted(expected["spectrum_id"][there].tolist())
    assert found["teff"].isna().sum() == np.isnan(expected["teff"][there]).sum()


def test_hats_without_lsdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lsdb", None)
    with pytest.raises(UsageError, match=r"pip install 'stargap\[hats\]'"):
        write_catalogue(catalogue(tmp_path, 3), formats=["hats"])


def test_published_settings_name_files_without_their_folders():
    about = CatalogueSettings(companions={
        "sb2": {"table": "/home/somebody/sb2.fits", "means": "binary", "keys": ("source_id",)},
        "vizier": {"table": "I/358/vclassre", "means": "variable", "keys": ("Source",)},
    })  # fmt: skip
    assert [one.table for one in about.published().companions.values()] == ["sb2.fits", "I/358/vclassre"]
    assert "somebody" not in about.published().model_dump_json()
