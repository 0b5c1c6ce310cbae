"""Round trips through every format and reader, with ids, units, UCDs, nulls and provenance kept."""

import contextlib
import csv
import gzip
import hashlib
import io
import warnings

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.io import fits, votable
from astropy.table import Table
from astropy.units import UnitsWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.tables import fits as fitstable
from stargap.tables import text, write
from stargap.tables import votable as our_votable
from stargap.tables.columns import INT_NULL, MEASURED, STARS, Column
from stargap.tables.conform import conform
from stargap.tables.fits import write_fits
from stargap.tables.parquet import read_columns, write_columns
from stargap.tables.read import read_table
from stargap.tables.write import write_long_table, write_table

GAIA = 6917528997577384321
SUFFIXES = [".fits", ".fits.gz", ".parquet", ".csv", ".vot", ".xml", ".ecsv"]
PROVENANCE = {
    "version": "0.1.0",
    "settings": '{"grid": "' + "x" * 400 + "it's <&> \\ \"" + '"}&',
    "a name.longer than eight": "naïve\nsecond line",
    "teff": "a name that is also a column's",
    "empty": "",
}
PATHS = ["/data/spec-1.fits.gz", 'été/名 "a",<b>&\\n.fits', "trailing ", "bad-\udce9.fits", ""]


def some(rows, *, null=False):
    """A table of ``rows`` rows, with nulls in every third one or everywhere."""
    random = np.random.default_rng(7)
    table = {}
    for column in MEASURED:
        if column.dtype == "str":
            values = np.array([f"{column.name} {i}" for i in range(rows)], dtype=object)
        elif column.dtype.startswith("int"):
            values = random.integers(0, 1000, rows)
        else:
            values = random.normal(100, 10, rows)
        gone = np.ones(rows, bool) if null else np.arange(rows) % 3 == 2
        table[column.name] = np.where(gone, column.null, values).astype(values.dtype)
    table["spectrum_id"] = GAIA + np.arange(rows)
    if not null:
        table["path"] = np.array((PATHS * rows)[:rows], dtype=object)
        table["obsid"] = np.where(np.arange(rows) % 3 == 2, INT_NULL, GAIA)
    return table


def unescaped(cells):
    return [cell.encode("ascii").decode("unicode_escape") for cell in cells]


def strings(column):
    """The text of an astropy column, masked cells empty."""
    cells = np.ma.filled(np.ma.asarray(column, dtype=object), "").tolist()
    return [cell.decode("ascii") if isinstance(cell, bytes) else cell for cell in cells]


def assert_astropy_equal(read, expected, *, escaped=False):
    assert read.colnames == [column.name for column in MEASURED]
    for column in MEASURED:
        values = read[column.name]
        if column.dtype == "str":
            cells = strings(values)
            kept = expected[column.name].tolist()
            assert (unescaped(cells) if escaped else cells) == (kept if escaped else [c.rstrip() for c in kept])
        else:
            assert values.dtype.newbyteorder("=") == np.dtype(column.dtype)
            filled = values.filled(column.null) if hasattr(values, "filled") else values
            np.testing.assert_array_equal(np.asarray(filled), expected[column.name])
            assert str(values.unit or "") == {"km/s": "km / s"}.get(column.unit, column.unit) or (
                column.unit == "Angstrom" and values.unit == "0.1 nm"
            )


CASES = [pytest.param(some(rows, null=null), id=f"{rows}-{null}") for rows, null in
         [(0, False), (1, False), (1, True), (7, False), (3, True)]]  # fmt: skip


@pytest.mark.parametrize("table", CASES)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_fits(tmp_path, table, suffix):
    path = tmp_path / f"t{suffix}"
    write_table(table, path, provenance=PROVENANCE)
    assert_astropy_equal(Table.read(path, hdu=1), conform(table), escaped=True)
    with fits.open(path, checksum=True) as hdus:
        header = hdus[1].header
        assert [hdu.verify_checksum() for hdu in hdus] == [hdu.verify_datasum() for hdu in hdus] == [1, 1]
        hdus.verify("exception")
    for number, column in enumerate(MEASURED, start=1):
        assert header[f"TTYPE{number}"] == column.name
        assert header.get(f"TUNIT{number}", "") == {"km/s": "km/s"}.get(column.unit, column.unit)
        assert header[f"TUCD{number}"] == column.ucd
        assert header[f"TCOMM{number}"] == column.description
        assert header.get(f"TNULL{number}") == (INT_NULL if column.dtype.startswith("int") else None)
    assert (header["TLMIN5"], header["TLMAX5"]) == (0.0, 360.0)
    cards = unescaped(header[f"PROV{number}"] for number in range(1, len(PROVENANCE) + 1))
    assert cards == [f"{name} = {value}" for name, value in PROVENANCE.items()]


def test_a_flipped_bit_in_fits_is_noticed(tmp_path):
    path = tmp_path / "t.fits"
    write_table(some(5), path, provenance={})
    data = path.read_bytes()
    assert data.count(b"failure 1") == 1
    path.write_bytes(data.replace(b"failure 1", b"failure 0"))
    with fits.open(path) as hdus:
        assert [hdu.verify_datasum() for hdu in hdus] == [1, 0]


@pytest.mark.parametrize("table", CASES)
def test_parquet(tmp_path, table):
    path = tmp_path / "t.parquet"
    write_table(table, path, provenance=PROVENANCE)
    expected = conform(table)
    read = pq.read_table(path)
    assert read.column_names == [column.name for column in MEASURED]
    for column in MEASURED:
        field = read.schema.field(column.name)
        kinds = {"str": "string", "float32": "float", "float64": "double"}
        assert str(field.type) == kinds.get(column.dtype, column.dtype)
        kept = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        about = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
        assert {key: kept[key] for key in about if about[key]} == {key: text for key, text in about.items() if text}
        values, null = read[column.name], column.is_null(expected[column.name])
        assert values.null_count == (0 if column.dtype == "str" else null.sum())
        if column.dtype.startswith("int"):
            assert values.fill_null(INT_NULL).to_pylist() == expected[column.name].tolist()
        else:
            np.testing.assert_array_equal(values.to_numpy(), expected[column.name])
    metadata = {key.decode(): text.decode() for key, text in pq.read_metadata(path).metadata.items()}
    assert PROVENANCE.items() <= metadata.items()
    header = votable.parse_single_table(io.BytesIO(metadata["IVOA.VOTable-Parquet.content"].encode()))
    assert [field.name for field in header.fields] == read.column_names
    frame = pl.read_parquet(path)
    assert frame["spectrum_id"].to_list() == expected["spectrum_id"].tolist()
    assert frame["path"].to_list() == expected["path"].tolist()
    assert frame["fiber"].null_count() == (expected["fiber"] == INT_NULL).sum()


@pytest.mark.parametrize("table", CASES)
def test_csv(tmp_path, table):
    path = tmp_path / "t.csv"
    write_table(table, path, provenance=PROVENANCE)
    expected = conform(table)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == [column.name for column in MEASURED]
    assert len(rows) == len(expected["spectrum_id"]) + 1
    for column, *cells in zip(MEASURED, *rows[1:], strict=True):
        values = expected[column.name]
        null = column.is_null(values)
        assert [cell == "" for cell in cells] == null.tolist()
        kept = [cell for cell in cells if cell]
        kind = np.dtype(column.dtype).type if column.dtype != "str" else str
        assert [kind(cell) for cell in kept] == values[~null].tolist()
    types = {
        "str": pl.String,
        "int64": pl.Int64,
        "int32": pl.Int32,
        "float64": pl.Float64,
        "float32": pl.Float32,
    }
    frame = pl.read_csv(path, schema={column.name: types[column.dtype] for column in MEASURED})
    assert frame["spectrum_id"].to_list() == expected["spectrum_id"].tolist()
    assert frame["teff"].null_count() == np.isnan(expected["teff"]).sum()


@pytest.mark.parametrize("table", CASES)
@pytest.mark.parametrize("suffix", [".vot", ".xml"])
def test_votable(tmp_path, table, suffix):
    path = tmp_path / f"t{suffix}"
    write_table(table, path, provenance=PROVENANCE)
    document = votable.parse(path, verify="exception")
    element = document.get_first_table()
    assert_astropy_equal(element.to_table(), conform(table))
    for field, column in zip(element.fields, MEASURED, strict=True):
        assert (field.name, field.ucd, field.description) == (column.name, column.ucd, column.description)
        assert field.values.null == (INT_NULL if column.dtype.startswith("int") else None)
        assert field.values.max == (
            column.valid_range[1] if np.isfinite((column.valid_range or [0, np.inf])[1]) else None
        )
    infos = {info.name: info.value for info in document.resources[0].infos}
    assert list(infos) == list(PROVENANCE)
    assert unescaped(infos.values()) == list(PROVENANCE.values())


@pytest.mark.parametrize("table", CASES)
def test_ecsv(tmp_path, table):
    path = tmp_path / "t.ecsv"
    write_table(table, path, provenance=PROVENANCE)
    read = Table.read(path)
    assert_astropy_equal(read, conform(table))
    assert dict(read.meta) == PROVENANCE
    for column in MEASURED:
        assert read[column.name].description == column.description
        assert read[column.name].meta == {"ucd": column.ucd}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("null", [False, True])
def test_long_identifiers_are_exact_in_the_readers_of_others(tmp_path, suffix, null):
    ids = [6917528997577384321, 2**63 - 1, 2**53 + 1, -1] + [None] * null
    path = tmp_path / f"t{suffix}"
    schema = (Column("gaia_source_id", "int64"), Column("row", "int64"))
    write_table({"gaia_source_id": ids, "row": range(len(ids))}, path, schema=schema, provenance={})
    if suffix in (".csv", ".parquet"):
        read = pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
        assert read["gaia_source_id"].dtype == pl.Int64
        assert read["gaia_source_id"].to_list() == ids
    if suffix == ".parquet":
        assert pq.read_table(path)["gaia_source_id"].to_pylist() == ids
    else:
        column = Table.read(path)["gaia_source_id"]
        assert column.dtype.newbyteorder("=") == np.int64
        assert np.ma.asarray(column).tolist() == ids


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bool_columns_and_infinities(tmp_path, suffix):
    schema = (Column("good", "bool", "", "meta.code"), Column("x", "float32", "km/s", "phys.veloc"))
    path = tmp_path / f"t{suffix}"
    write_table({"good": [True, False, True], "x": [np.inf, -np.inf, 1e-7]}, path, schema=schema, provenance={})
    if suffix == ".parquet":
        read = pq.read_table(path).to_pydict()
    elif suffix == ".csv":
        read = pl.read_csv(path)
    else:
        read = Table.read(path)
        assert read["good"].dtype == bool
    assert list(read["good"]) == [True, False, True]
    np.testing.assert_array_equal(np.asarray(read["x"], dtype=np.float32), np.float32([np.inf, -np.inf, 1e-7]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_comes_as_lists_or_arrays_of_any_kind(tmp_path, suffix):
    schema = (Column("spectrum_id", "int64"), Column("path", "str"))
    texts = ["a.fits", "", "bc.fits"]
    written = set()
    for path in (texts, np.array(texts), np.array(texts, dtype=object), np.array(texts, dtype="S")):
        write_table({"spectrum_id": [1, 2, 3], "path": path}, tmp_path / f"t{suffix}", schema=schema, provenance={})
        written.add((tmp_path / f"t{suffix}").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_tables_give_equal_bytes(tmp_path, suffix):
    digests = set()
    for name in ("one", "two"):
        write_table(some(20), tmp_path / f"{name}{suffix}", provenance=PROVENANCE)
        digests.add(hashlib.sha256((tmp_path / f"{name}{suffix}").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_rows_than_a_block(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(text, "_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(our_votable, "_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(fitstable, "_ROWS", 4)
    path = tmp_path / f"t{suffix}"
    table = some(10)
    write_table(table, path, provenance={})
    if suffix == ".parquet":
        ids = pq.read_table(path)["spectrum_id"].to_pylist()
    elif suffix == ".csv":
        ids = pl.read_csv(path)["spectrum_id"].to_list()
    else:
        ids = Table.read(path)["spectrum_id"].tolist()
    assert ids == table["spectrum_id"].tolist()


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".parquet"])
@pytest.mark.parametrize("rows", [0, 10])
def test_a_table_in_parts_has_the_same_bytes(tmp_path, suffix, rows):
    table = some(rows)
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    write_table(table, whole, provenance={"seed": "1"})
    write_long_table(
        lambda names: ({name: table[name][first : first + 3] for name in names} for first in range(0, rows, 3)),
        parts,
        schema=MEASURED,
        provenance={"seed": "1"},
    )
    assert parts.read_bytes() == whole.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_survives_fits_and_its_header(texts):
    schema = (Column("path", "str"),)
    file = io.BytesIO()
    arrays = conform({"path": texts}, schema=schema)
    write_fits(lambda columns: [arrays], schema, {"text": texts[0]}, file)
    file.seek(0)
    with fits.open(file, checksum=True) as hdus:
        cells = [str(cell) for cell in hdus[1].data["path"]]
        card = hdus[1].header["PROV1"]
    assert unescaped(cells) == arrays["path"].tolist()
    assert unescaped([card]) == [f"text = {texts[0]}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("step", ["writing", "syncing", "renaming"])
def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch, suffix, step):
    old = tmp_path / f"old{suffix}"
    old.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def half(arrays, schema, provenance, file):
        file.write(b"half a table")
        fail()

    if step == "writing":
        monkeypatch.setitem(write._WRITERS, suffix, half)
    elif step == "syncing":
        monkeypatch.setattr("os.fsync", fail)
    else:
        monkeypatch.setattr("pathlib.Path.replace", fail)
    for name in (f"new{suffix}", f"old{suffix}"):
        with pytest.raises(OSError, match="No space left"):
            write_table(some(2), tmp_path / name, provenance={})
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(write._WRITERS, ".csv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_table(some(2), tmp_path / "t.csv", provenance={})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_and_its_suffix_read_in_any_case(tmp_path):
    path = tmp_path / "T.FITS.GZ"
    path.write_text("old")
    write_table(some(2), str(path), provenance={})
    assert gzip.decompress(path.read_bytes()).startswith(b"SIMPLE")
    assert [file.name for file in tmp_path.iterdir()] == ["T.FITS.GZ"]


def test_requests_that_cannot_be_carried_out(tmp_path):
    for name in ("t.hdf5", "t", "t.fits.bz2", "t.txt"):
        with pytest.raises(UsageError, match=r"\.fits, \.fits\.gz, \.parquet, \.csv, \.vot, \.xml, \.ecsv$"):
            write_table(some(1), tmp_path / name, provenance={})
    with pytest.raises(UsageError, match=r"folder .* does not exist"):
        write_table(some(1), tmp_path / "no" / "t.csv", provenance={})
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        write_table(some(1), tmp_path / "d.csv", provenance={})
    with pytest.raises(UsageError, match="columns missing: 'teff'"):
        write_table({k: v for k, v in some(1).items() if k != "teff"}, tmp_path / "t.csv", provenance={})
    assert [file.name for file in tmp_path.iterdir()] == ["d.csv"]


def test_no_reader_warns_of_a_unit(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitsWarning)
        for suffix in (".fits", ".vot", ".ecsv"):
            write_table(some(2), tmp_path / f"t{suffix}", provenance=PROVENANCE)
            width = Table.read(tmp_path / f"t{suffix}")["halpha_ew"]
            assert width.unit.to("nm") == pytest.approx(0.1)


def test_a_flipped_bit_in_a_parquet_page_is_noticed(tmp_path):
    path, rows = tmp_path / "t.parquet", 2000
    schema = (Column("spectrum_id", "int64"), Column("teff", "float32", "K"))
    teff = np.random.default_rng(1).uniform(3000, 4000, rows).astype(np.float32)
    write_table({"spectrum_id": np.arange(rows), "teff": teff}, path, schema=schema, provenance={})
    content = path.read_bytes()
    pages = [(c.dictionary_page_offset or c.data_page_offset, c.total_compressed_size) for c in _chunks(path)]
    random, silent = np.random.default_rng(2), 0
    for trial in range(60):
        start, size = pages[trial % len(pages)]
        damaged = bytearray(content)
        damaged[start + 40 + random.integers(size - 40)] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        for read in (read_columns, read_table):
            with contextlib.suppress(UsageError):
                silent += not np.array_equal(read(path)["teff"], teff)
    assert silent == 0


def _chunks(path):
    group = pq.ParquetFile(path).metadata.row_group(0)
    return [group.column(number) for number in range(group.num_columns)]


def test_a_product_whose_labels_cannot_be_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    write_columns(path, {"teff": np.array([3400.0, 1e-35]), "row": np.arange(2)})
    assert read_columns(path, ["row"])["row"].tolist() == [0, 1]
    with pytest.raises(UsageError, match=r"is damaged \(teff is 1e-35 in row 1, outside 2000 to 7000"):
        read_columns(path)
    with pytest.raises(UsageError, match="has no column 'logg'"):
        read_columns(path, ["logg"])
    with pytest.raises(UsageError, match="the file does not exist"):
        read_columns(tmp_path / "none.parquet")


def test_astropy_reads_units_from_our_parquet(tmp_path):
    """Its reader of Parquet with a VOTable header joins text by its length, and needs pandas."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    rows = {column.name: [None] * 3 for column in MEASURED}
    rows |= {"spectrum_id": [0, 1, 2], "teff": [3500.0, None, 3300.0], "designation": ["J1", "", "J333"]}
    write_table(rows, tmp_path / "t.parquet", schema=MEASURED, provenance={"creator": "stargap"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table.read(tmp_path / "t.parquet", format="parquet.votable")
    assert str(table["teff"].unit) == "K"
    assert table["designation"].tolist() == ["J1", "", "J333"]
    assert table["teff"][0] == 3500.0


def test_nulls_of_parquet_are_nulls(tmp_path):
    rows = {column.name: [None] * 2 for column in MEASURED} | {"spectrum_id": [0, 1], "teff": [3500.0, None]}
    write_table(rows, tmp_path / "t.parquet", schema=MEASURED, provenance={})
    read = pq.read_table(tmp_path / "t.parquet")
    assert read["teff"].to_pylist() == [3500.0, None]
    assert read["obsid"].null_count == 2
    assert read["failure"].to_pylist() == ["", ""]


def test_votables_say_in_which_system_positions_and_times_are(tmp_path):
    rows = {column.name: [None] for column in STARS} | {"spectrum_id": [0], "in_final_catalogue": [True]}
    write_table(rows, tmp_path / "t.vot", schema=STARS, provenance={})
    resource = votable.parse(str(tmp_path / "t.vot")).resources[0]
    systems = {one.ID: (one.system, one.epoch) for one in resource.coordinate_systems}
    assert systems == {"icrs": ("ICRS", None), "gaia_dr3": ("ICRS", "J2016.0")}
    refs = {field.name: field.ref for field in resource.tables[0].fields if field.ref}
    assert refs == {"ra": "icrs", "dec": "icrs", "parallax": "gaia_dr3", "pmra": "gaia_dr3", "pmdec": "gaia_dr3"}
    rows = {column.name: [None] for column in MEASURED} | {"spectrum_id": [0]}
    write_table(rows, tmp_path / "m.vot", schema=MEASURED, provenance={})
    (time,) = votable.parse(str(tmp_path / "m.vot")).resources[0].time_systems
    assert (time.ID, time.timeorigin, time.timescale) == ("local_night", "MJD-origin", "UNKNOWN")
