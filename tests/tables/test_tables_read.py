"""Tables in the wild: every format gives the same arrays, ids are exact, and damage is one clear error."""

import gzip
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.tables import source
from stargap.tables.columns import INT_NULL, Column
from stargap.tables.read import read_table
from stargap.tables.write import write_table

GAIA = 6917528997577384321
SUFFIXES = [".fits", ".fits.gz", ".parquet", ".csv", ".vot", ".ecsv"]
SCHEMA = (
    Column("source_id", "int64"),
    Column("ra", "float64", "deg"),
    Column("ruwe", "float32"),
    Column("fiber", "int32"),
    Column("subclass", "str"),
)
ids = st.integers(-(2**63), 2**63 - 1)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ours(rows, *, null=False):
    table = {
        "source_id": [GAIA + i for i in range(rows)],
        "ra": [0.1 + i for i in range(rows)],
        "ruwe": [1.5 + i for i in range(rows)],
        "fiber": list(range(rows)),
        "subclass": [("dM1", "M2", "sdM0")[i % 3] for i in range(rows)],
    }
    return {name: [None] * rows if null else values for name, values in table.items()}


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("rows", "null"), [(0, False), (1, False), (1, True), (5, False), (3, True)])
def test_what_we_write_reads_back(tmp_path, suffix, rows, null):
    path = tmp_path / f"t{suffix}"
    write_table(ours(rows, null=null), path, schema=SCHEMA, provenance={"version": "1"})
    table = read_table(path)
    assert list(table) == [column.name for column in SCHEMA]
    assert all(len(values) == rows for values in table.values())
    typed = suffix not in (".csv", ".ecsv") or (rows and not null)
    kinds = "ifffO" if not typed else "iffiO"
    assert all(table[c.name].dtype.isnative for c in SCHEMA)
    if typed:
        assert "".join(table[c.name].dtype.kind for c in SCHEMA) == kinds
        assert table["source_id"].tolist() == [INT_NULL if null else GAIA + i for i in range(rows)]
        assert table["subclass"].tolist() == [v or "" for v in ours(rows, null=null)["subclass"]]
        assert table["fiber"].tolist() == [INT_NULL if null else i for i in range(rows)]
    np.testing.assert_array_equal(table["ra"], np.array(ours(rows, null=null)["ra"], dtype=float))
    np.testing.assert_array_equal(table["ruwe"], np.array(ours(rows, null=null)["ruwe"], dtype=np.float32))


@quick
@given(cells=st.lists(st.none() | ids, min_size=1, max_size=6), suffix=st.sampled_from(SUFFIXES))
def test_ids_are_exact_beside_nulls(tmp_path, cells, suffix):
    path = tmp_path / f"ids{suffix}"
    schema = (Column("source_id", "int64"), Column("row", "int64"))
    write_table({"source_id": cells, "row": range(len(cells))}, path, schema=schema, provenance={})
    table = read_table(path, ["SOURCE_ID"])
    kept = [INT_NULL if cell is None else cell for cell in cells]
    if suffix in (".csv", ".ecsv") and set(kept) == {INT_NULL}:
        assert np.isnan(table["SOURCE_ID"]).all()
    else:
        assert table["SOURCE_ID"].dtype == np.int64
        assert table["SOURCE_ID"].tolist() == kept


@pytest.mark.parametrize("delimiter", ["|", ",", "\t", ";"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_delimiters_nulls_and_quotes(tmp_path, delimiter, ending):
    lines = [
        ("obsid", "Gaia_Source_ID", "snrr", "subclass", "flag", "late"),
        ("101", str(GAIA), "7.5", '"dM1, M|2"', "true", "1"),
        ("102", "", "null", '""', "false", "2.5"),
        ("103", "null", "-9999", "Non", "False", ""),
    ]
    text = ending.join(delimiter.join(cells) for cells in lines) + ending
    if delimiter == "|":
        text = "\ufeff" + text
    path = write(tmp_path / "lamost.txt", text)
    table = read_table(path)
    assert table["obsid"].tolist() == [101, 102, 103]
    assert table["Gaia_Source_ID"].tolist() == [GAIA, INT_NULL, INT_NULL]
    np.testing.assert_array_equal(table["snrr"], [7.5, np.nan, -9999])
    assert table["subclass"].tolist() == ["dM1, M|2", "", "Non"]
    assert table["flag"].tolist() == [True, False, False]
    np.testing.assert_array_equal(table["late"], [1, 2.5, np.nan])


def test_a_type_is_told_from_the_whole_column(tmp_path):
    rows = 300_000  # several blocks of the parser
    path = write(tmp_path / "long.csv", "a,b,c\n" + "1,7,\n" * rows + f"1.5,{GAIA},x\n")
    table = read_table(path)
    assert table["a"][-1] == 1.5
    assert table["b"][-1] == GAIA
    assert (table["c"][0], table["c"][-1]) == ("", "x")


def test_ecsv_of_the_gaia_archive(tmp_path):
    table = Table({"source_id": [GAIA, 5], "ra": [1.0, 2.0], "name": ["Gaia DR3 5", ""]})
    table["ruwe"] = MaskedColumn([1.1, 2.2], mask=[False, True])
    path = tmp_path / "gaia.ecsv"
    table.write(path, format="ascii.ecsv")
    read = read_table(path)
    assert read["source_id"].tolist() == [GAIA, 5]
    assert read["name"].tolist() == ["Gaia DR3 5", ""]
    np.testing.assert_array_equal(read["ruwe"], [1.1, np.nan])
    text = "# %ECSV 1.0\n# ---\n# delimiter: ','\nsource_id,ruwe\n" + f"{GAIA},null\n6,1.0\n"
    packed = tmp_path / "GaiaSource_000000-003111.csv.gz"
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    read = read_table(packed)
    assert read["source_id"].tolist() == [GAIA, 6]
    np.testing.assert_array_equal(read["ruwe"], [np.nan, 1])


@pytest.mark.parametrize("layout", ["binary2", "tabledata"])
def test_votable_nulls(tmp_path, layout):
    table = Table()
    table["SOURCE_ID"] = MaskedColumn([GAIA, 5], mask=[False, True])
    table["ra"] = MaskedColumn([1.5, 2.5], mask=[True, False])
    table["flag"] = MaskedColumn([True, False], mask=[False, True])
    table["spt"] = ["M1", "été"]
    table["two"] = [[1.0, 2.0], [3.0, 4.0]]
    path = tmp_path / "t.xml"
    table.write(path, format="votable", tabledata_format=layout)
    read = read_table(path, ["source_id", "ra", "flag", "spt"])
    assert read["source_id"].tolist() == [GAIA, INT_NULL]
    np.testing.assert_array_equal(read["ra"], [np.nan, 2.5])
    assert read["flag"][0] == 1
    assert read["spt"].tolist() == ["M1", "été"]
    assert "two" not in read_table(path)


def test_fits_of_others(tmp_path):
    columns = [
        fits.Column("Source", "K", array=[GAIA, -1], null=-1),
        fits.Column("SHORT", "I", array=[7, -32768], null=-32768),
        fits.Column("byte", "B", array=[7, 255], null=255),
        fits.Column("unsigned", "J", bzero=2**31, array=np.array([7, 2**32 - 1], dtype=np.uint32)),
        fits.Column("scaled", "I", array=np.array([2, 4], dtype=np.int16)),
        fits.Column("flag", "L", array=[True, False]),
        fits.Column("text", "5A", array=["M1", ""]),
        fits.Column("pair", "2E", array=[[1, 2], [3, 4]]),
        fits.Column("vary", "PE()", array=[[1.0], [1.0, 2.0]]),
        fits.Column("mag", "E", array=[np.nan, 12.5]),
    ]
    path = tmp_path / "others.fits"
    image, table = fits.PrimaryHDU(np.zeros((2, 2))), fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL5"], table.header["TZERO5"] = 0.5, 10.0
    fits.HDUList([image, fits.ImageHDU(np.zeros(3)), table]).writeto(path)
    read = read_table(path)
    assert "pair" not in read
    assert "vary" not in read
    assert {name: values.tolist() for name, values in read.items() if name != "mag"} == {
        "Source": [GAIA, INT_NULL],
        "SHORT": [7, INT_NULL],
        "byte": [7, INT_NULL],
        "unsigned": [7, 2**32 - 1],
        "scaled": [11, 12],
        "flag": [True, False],
        "text": ["M1", ""],
    }
    assert all(read[name].dtype == np.int64 for name in ("Source", "SHORT", "byte", "unsigned"))
    assert read["mag"].dtype == np.float32
    assert read["mag"].dtype.isnative
    raw = path.read_bytes()
    start = raw.index(np.array(GAIA, dtype=">i8").tobytes())
    place = start + 8 + 2 + 1 + 4 + 2
    assert raw[place : place + 1] == b"T"
    path.write_bytes(raw[:place] + b"\0" + raw[place + 1 :])
    assert read_table(path, ["flag"])["flag"].tolist() == [INT_NULL, 0]
    with pytest.raises(UsageError, match="'pair' holds arrays"):
        read_table(path, ["pair"])


def test_results_do_not_hold_the_file(tmp_path):
    path = tmp_path / "t.fits"
    write_table(ours(3), path, schema=SCHEMA, provenance={})
    table = read_table(path)
    path.write_bytes(b"")
    assert table["source_id"].tolist() == [GAIA, GAIA + 1, GAIA + 2]
    table["ra"][0] = 5.0


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "source_id": pa.array([GAIA, None], pa.uint64()),
            "small": pa.array([1, None], pa.int8()),
            "half": pa.array([1.5, None], pa.float16()),
            "money": pa.array(["1.25", None]).cast(pa.decimal128(5, 2)),
            "word": pa.array(["dM1", None]).dictionary_encode(),
            "flag": pa.array([True, None]),
            "day": pa.array([0, None], pa.date32()),
            "nothing": pa.nulls(2),
            "list": pa.array([[1], [2]]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert "list" not in read
    assert read["source_id"].tolist() == [GAIA, INT_NULL]
    assert read["small"].tolist() == [1, INT_NULL]
    for name, value in (("half", 1.5), ("money", 1.25), ("nothing", np.nan)):
        np.testing.assert_array_equal(read[name], [value, np.nan])
    assert read["word"].tolist() == ["dM1", ""]
    assert read["flag"].tolist() == [1, INT_NULL]
    assert read["day"].tolist() == ["1970-01-01", ""]
    pq.write_table(pa.table({"big": pa.array([2**64 - 1], pa.uint64())}), tmp_path / "big.parquet")
    with pytest.raises(UsageError, match="exceeds int64"):
        read_table(tmp_path / "big.parquet")


def test_bytes_that_are_no_utf8(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"name,obsid\nM\xe9,1\n,2\n")
    assert read_table(path)["name"].tolist() == ["M\\xe9", ""]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_choice_of_columns(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    write_table(ours(2), path, schema=SCHEMA, provenance={})
    assert list(read_table(path, ["RUWE", "ra"], optional=["bp_rp", "fiber"])) == ["RUWE", "ra", "fiber"]
    assert read_table(path, [], optional=["bp_rp"]) == {}
    twice = read_table(path, ["ra", "RA"])
    np.testing.assert_array_equal(twice["ra"], twice["RA"])
    with pytest.raises(UsageError, match=r"no column 'sourceid'; did you mean 'source_id'\?"):
        read_table(path, ["sourceid", "ra"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_a_table_are_those_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    schema = (*SCHEMA, Column("good", "bool"))
    table = ours(5) | {"good": [True, False, True, True, False]}
    table["ruwe"][3], table["fiber"][0], table["subclass"][4] = None, None, ""
    write_table(table, path, schema=schema, provenance={})
    whole = read_table(path)
    for rows in ([], [4, 0, 0], [2], np.arange(5)):
        part = read_table(path, rows=rows)
        assert list(part) == list(whole)
        for name, values in part.items():
            assert values.dtype == whole[name].dtype
            np.testing.assert_array_equal(values, whole[name][np.asarray(rows, dtype=int)])
    with pytest.raises(UsageError, match="out of bounds"):
        read_table(path, ["source_id"], rows=[5])


def test_a_parquet_table_is_read_in_the_memory_of_one_column(tmp_path):
    path = tmp_path / "t.parquet"
    rows, columns = 100_000, 40
    schema = tuple(Column(f"c{number}", "float64") for number in range(columns))
    values = np.random.default_rng(1).normal(size=rows)
    write_table({column.name: values for column in schema}, path, schema=schema, provenance={})
    read_table(path, ["c0"])
    tracemalloc.start()
    try:
        assert read_table(path, rows=[7])["c3"][0] == values[7]
        assert tracemalloc.get_traced_memory()[1] < columns * values.nbytes / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.fits", b"", "is empty"),
        ("page.csv", b"<!DOCTYPE html><html><body>404</body></html>", "is no table"),
        ("image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no table"),
        ("ragged.csv", b"a,b\n1,2\n3\n", "cannot be read as text"),
        ("twice.csv", b"a,a\n1,2\n", "'a' stands there 2 times"),
        ("cut.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-9], "cannot be read"),
        ("cut.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("cut.vot", b"<?xml version='1.0'?><VOTABLE version='1.4'><RESOURCE>", "cannot be read as VOTable"),
        ("image.fits", fits.PrimaryHDU(np.zeros(3)).header.tostring().encode().ljust(5760, b"\0"), "no binary table"),
    ],
)
def test_clear_errors(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as error:
        read_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


VIZIER = """#
#   VizieR Astronomical Server
#Title: x
{blank}_RAJ2000{d}Name{d}Teff{d}plx
deg{d}{d}K{d}arcsec
--------{d}-----{d}----{d}---
10.684708{d}A    {d}3371{d} 0.010
042.97543{d}B    {d}    {d}-
#END#
"""


@pytest.mark.parametrize("delimiter", ["\t", "|", ";"])
@pytest.mark.parametrize("blank", ["", "\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_vizier(tmp_path, delimiter, blank, encoding):
    path = tmp_path / "t.tsv"
    path.write_bytes(VIZIER.format(d=delimiter, blank=blank).encode(encoding))
    table = read_table(path, ["_RAJ2000", "Teff", "plx", "Name"], units={"plx": "mas", "Teff": "K"})
    np.testing.assert_array_equal(table["_RAJ2000"], [10.684708, 42.97543])
    np.testing.assert_array_equal(table["Teff"], [3371, INT_NULL])
    np.testing.assert_allclose(table["plx"], [10, np.nan], rtol=1e-15)
    assert table["Name"].tolist() == ["A", "B"]


def test_spaces_null_words_and_comments_of_other_encodings(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_bytes(
        b"# \xe9t\xe9\nobsid, teff , kind,late\n1, 3400.5, dM1 ,7\n\n2, None, -, <NA>\n# note\n3,   ,\\N, masked\n"
    )
    table = read_table(path)
    assert list(table) == ["obsid", "teff", "kind", "late"]
    assert table["obsid"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table["teff"], [3400.5, np.nan, np.nan])
    assert table["kind"].tolist() == ["dM1", "", ""]
    assert table["late"].tolist() == [7, INT_NULL, INT_NULL]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_word_among_numbers_is_named_where_numbers_are_needed(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    words = {"a": ["1.5", "masked", "bright"], "b": ["x", "y", "z"]}
    write_table(words, path, schema=(Column("a", "str"), Column("b", "str")), provenance={})
    assert read_table(path, ["b"])["b"].tolist() == ["x", "y", "z"]
    place = "line" if suffix in (".csv", ".ecsv") else "row 3"
    with pytest.raises(UsageError, match=rf"column 'a', {place}.*: 'bright' is not a number"):
        read_table(path, ["a"], units={"a": ""})
    if suffix == ".csv":
        with pytest.raises(UsageError, match="line 4: 'bright'"):
            read_table(path, ["a"], units={"a": ""})


@pytest.mark.parametrize("suffix", [".fits", ".parquet", ".vot", ".ecsv"])
def test_units_that_a_file_states_are_converted(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    schema = (Column("parallax", "float64", "arcsec"), Column("teff", "float64", "km"), Column("n", "int64", "m/s"))
    write_table({"parallax": [0.01], "teff": [3000.0], "n": [5000]}, path, schema=schema, provenance={})
    table = read_table(path, ["PARALLAX", "n"], units={"PARALLAX": "mas", "n": "km/s"})
    np.testing.assert_allclose([table["PARALLAX"][0], table["n"][0]], [10, 5])
    assert read_table(path, ["parallax"])["parallax"][0] == 0.01
    with pytest.raises(UsageError, match="column 'teff': its unit is km, which cannot be converted to K"):
        read_table(path, ["teff"], units={"teff": "K"})


def _hdus(path, *tables):
    units = [fits.BinTableHDU.from_columns([fits.Column(n, f, array=a) for n, f, a in table]) for table in tables]
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(path, overwrite=True)
    return path


def test_the_table_that_has_the_columns_and_rows_is_meant(tmp_path):
    path, none = tmp_path / "t.fits", np.empty(0, dtype=np.int64)
    wanted = ("source_id", "K", [GAIA]), ("ra", "D", [1.5])
    empty = ("source_id", "K", none), ("ra", "D", none)
    about = (("KEY", "5A", ["a"]), ("VALUE", "5A", ["b"]))
    for tables in ((empty, wanted), (about, wanted), (about, empty, wanted), (wanted, about)):
        assert read_table(_hdus(path, *tables), ["source_id", "RA"])["source_id"].tolist() == [GAIA]
        assert read_table(path, [], optional=["ra"])["ra"].tolist() == [1.5]
    assert read_table(_hdus(path, empty, about), ["source_id"])["source_id"].tolist() == []
    with pytest.raises(UsageError, match=r"HDU 1 \(1 rows\) and HDU 2 \(1 rows\) have these columns"):
        read_table(_hdus(path, wanted, wanted), ["source_id"])


VOT = """<?xml version="1.0"?><{p}VOTABLE version="1.4" xmlns{q}="http://www.ivoa.net/xml/VOTable/v1.3">
<{p}RESOURCE type="results">{info}<{p}TABLE><{p}FIELD name="n" datatype="int"/><{p}DATA>{data}</{p}DATA></{p}TABLE>
{end}</{p}RESOURCE></{p}VOTABLE>"""
ROWS = "<{p}TABLEDATA><{p}TR><{p}TD>7</{p}TD></{p}TR></{p}TABLEDATA>"


@pytest.mark.parametrize("p", ["", "vot:"])
def test_votable_of_services(tmp_path, p):
    path = tmp_path / "t.vot"

    rows = ROWS.format(p=p)

    def made(info="", end="", data=rows):
        return write(path, VOT.format(p=p, q=":vot" if p else "", info=info, end=end, data=data))

    def status(value, words):
        return f'<{p}INFO name="QUERY_STATUS" value="{value}">{words}</{p}INFO>'

    assert read_table(made(status("OK", "")))["n"].tolist() == [7]
    with pytest.raises(UsageError, match=r"service's error: Column parallx is unknown"):
        read_table(made(status("ERROR", "Column parallx\n is unknown")))
    for words in ("", "at 2000 rows"):
        with pytest.raises(UsageError, match=rf"cut short .*QUERY_STATUS = OVERFLOW.*{words}"):
            read_table(made(status("OK", ""), status("OVERFLOW", words)))
    stream = f'<{p}BINARY><{p}STREAM encoding="base64" href="http://127.0.0.1:9/x"/></{p}BINARY>'
    with pytest.raises(UsageError, match=r"at another address \(http://127\.0\.0\.1:9/x\), which is not read"):
        read_table(made(data=stream))
    packed = tmp_path / "t.vot.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    with pytest.raises(UsageError, match="at another address"):
        read_table(packed)


def test_an_error_document_without_a_table(tmp_path):
    text = '<VOTABLE><RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">no such table</INFO>'
    with pytest.raises(UsageError, match="service's error: no such table"):
        read_table(write(tmp_path / "e.vot", text + "</RESOURCE></VOTABLE>"))
    text = '<!DOCTYPE x [<!ENTITY a "b">]><VOTABLE><RESOURCE></RESOURCE></VOTABLE>'
    with pytest.raises(UsageError, match="defines XML entities"):
        read_table(write(tmp_path / "b.vot", text))


def test_work_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_LEAST_BOUND", 1 << 20)
    bomb = tmp_path / "bomb.csv.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(b"a,b\n")
        file.write(b"0,0\n" * (1 << 20))
    with pytest.raises(UsageError, match="unpacks to more than 200 times its size"):
        read_table(bomb)
    with pytest.raises(UsageError, match="line 1 is longer"):
        read_table(write(tmp_path / "line.csv", "a" * (1 << 20)))
    with pytest.raises(UsageError, match="20,000 columns in line 1"):
        read_table(write(tmp_path / "wide.csv", ",".join(f"c{n}" for n in range(20_000)) + "\n"))
    with pytest.raises(UsageError, match=r"line 3 has 1 cells and the header 2: '3'"):
        read_table(write(tmp_path / "ragged.csv", "a,b\n1,2\n3\n"))


def test_parquet_columns_of_unequal_length_are_refused(tmp_path):
    """Each number of rows in the file, made wrong in turn; which of them pyarrow notices depends on its version."""
    path, refused = tmp_path / "t.parquet", 0
    pq.write_table(pa.table({"a": [1, 2, 3, 4], "b": [1.0, 2.0, 3.0, 4.0]}), path, compression="none")
    content = path.read_bytes()
    for place in (found.start() for found in re.finditer(b"\x16\x08", content)):
        path.write_bytes(content[:place] + b"\x16\x06" + content[place + 2 :])
        try:
            assert {len(values) for values in read_table(path).values()} == {4}
        except UsageError:
            refused += 1
    assert refused


def test_missing_files(tmp_path):
    with pytest.raises(UsageError, match="the file does not exist"):
        read_table(tmp_path / "none.fits")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_is_one_kind_of_error(tmp_path, suffix):
    good = tmp_path / f"good{suffix}"
    write_table(ours(20), good, schema=SCHEMA, provenance={})
    raw, random = good.read_bytes(), np.random.default_rng(3)
    bad, refused = tmp_path / f"bad{suffix}", 0
    for trial in range(40):
        damaged = bytearray(raw)
        if trial % 2:
            damaged = damaged[: random.integers(len(raw))]
        else:
            damaged[random.integers(len(raw))] ^= 1 << random.integers(8)
        bad.write_bytes(damaged)
        try:
            lengths = {len(values) for values in read_table(bad).values()}
            assert len(lengths) <= 1
        except UsageError:
            refused += 1
    assert refused >= (15 if suffix in (".csv", ".ecsv") else 25)


def test_real_tables(shared_data):
    safe = read_table(shared_data / "labels" / "birky2020_safe.csv.gz", ["gaia_id", "plx"])
    assert safe["gaia_id"].dtype == np.float64  # the file itself lost the digits
    assert len(safe["plx"]) > 5000
    carmenes = read_table(Path(shared_data) / "labels" / "carmenes_ix.csv.gz", ["GaiaDR3_id", "ra", "ruwe"])
    assert carmenes["GaiaDR3_id"][:2].tolist() == [2767387380324493184, 2767384425386994048]
