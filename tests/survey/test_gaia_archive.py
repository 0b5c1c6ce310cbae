"""Gaia through TAP: the queries, run by SQLite as they are, fetch all that the joins need, exactly and once."""

import re
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stargap.errors import UsageError
from stargap.survey.gaia import archive as gaia_tap
from stargap.survey.gaia.archive import GaiaFetch, fetch_gaia, read_targets
from stargap.survey.gaia.join import GAIA_COLUMNS, join_gaia, read_gaia
from stargap.tables.columns import INT_NULL, Column
from stargap.tables.read import read_table
from stargap.tables.write import write_table

FIRST = 6917528997577384321
NAMES = ("source_id", "ra", "dec", "ref_epoch", *GAIA_COLUMNS.values())


def sky(rows, *, seed=1):
    """A Gaia of one small field at RA 0, some of whose stars are fast and some without proper motion."""
    random = np.random.default_rng(seed)
    table = {name: random.normal(10, 1, rows) for name in NAMES}
    table["ph_qual"] = random.choice(np.array(["AAA", "AAD", "EEC"], dtype=object), rows)
    table["source_id"] = FIRST + 2 * np.arange(rows)
    table["ra"] = random.uniform(-0.05, 0.05, rows) % 360
    table["dec"] = random.uniform(59.9, 60.1, rows)
    table["ref_epoch"] = np.full(rows, 2016.0)
    for name in ("pmra", "pmdec"):
        table[name] = np.clip(random.normal(0, 1, rows) * 10 ** random.uniform(0, 4, rows), -7000, 7000)
    for name in ("ks_m", "ks_msigcom"):
        table[name][::4] = np.nan
    table["ph_qual"][::4] = ""
    for name in ("pmra", "pmdec", "radial_velocity"):
        table[name][::5] = np.nan
    return table


def apart(one, other):
    (ra, dec), (ra2, dec2) = (np.radians([float(word) for word in words.split()[:2]]) for words in (one, other))
    hav = np.sin((dec - dec2) / 2) ** 2 + np.cos(dec) * np.cos(dec2) * np.sin((ra - ra2) / 2) ** 2
    return float(np.degrees(2 * np.arcsin(np.sqrt(hav))))


class Answer:
    def __init__(self, table, status="OK"):
        self.table, self.status = table, (status, "")

    def to_table(self):
        return self.table


class Service:
    """A TAP service that runs ADQL in SQLite; the calls that `fails` names by number fail."""

    def __init__(self, gaia, *, fails=(), upper=False):
        self.base = sqlite3.connect(":memory:", check_same_thread=False)
        for name in ("gaiadr1", "gaiadr3", "tap_upload"):
            self.base.execute(f"ATTACH ':memory:' AS {name}")
        tmass = ("ks_m", "ks_msigcom", "ph_qual")
        self._fill("gaiadr3.gaia_source", {name: values for name, values in gaia.items() if name not in tmass})
        there = np.isfinite(gaia["ks_m"])  # as in the archive: a key of the merged catalogue, then a designation
        keys, names = np.flatnonzero(there), np.array([f"2M{key}" for key in np.flatnonzero(there)], dtype=object)
        neighbours = {"source_id": gaia["source_id"][there], "clean_tmass_psc_xsc_oid": keys}
        self._fill("gaiadr3.tmass_psc_xsc_best_neighbour", neighbours)
        self._fill("gaiadr3.tmass_psc_xsc_join", {"clean_tmass_psc_xsc_oid": keys, "original_psc_source_id": names})
        found = {name: gaia[name][there] for name in tmass}
        self._fill("gaiadr1.tmass_original_valid", {"designation": names, **found})
        point = {"POINT": 3, "CIRCLE": 4}
        for name, count in point.items():
            self.base.create_function(name, count, lambda frame, *place: " ".join(map(repr, place)))
        self.base.create_function("CONTAINS", 2, lambda p, c: int(apart(p, c) <= float(c.split()[2])))
        self.base.create_function("DISTANCE", 2, apart)
        self.base.create_function("SQRT", 1, lambda value: None if value is None else value**0.5)
        self.fails, self.upper, self.asked, self.calls = set(fails), upper, [], 0

    def _fill(self, name, columns):
        self.base.execute(f"DROP TABLE IF EXISTS {name}")
        self.base.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
        rows = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
        rows = [[None if cell != cell else cell for cell in row] for row in rows]
        self.base.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)

    def run_async(self, query, *, uploads):
        self.calls += 1
        if self.calls in self.fails:
            raise ConnectionError("the line is\ndown")
        (ours,) = uploads.values()
        self.asked.append(len(ours))
        self._fill("tap_upload.ours", {name: ours[name] for name in ours.colnames})
        cursor = self.base.execute(query)
        cells = [list(row) for row in zip(*cursor.fetchall(), strict=True)]
        table = Table()
        for place, (name, *_) in enumerate(cursor.description):
            column = cells[place] if cells else []
            kind = {"source_id": np.int64, "ph_qual": "U3"}.get(name, float)
            nothing = "" if kind == "U3" else 0
            filled = np.array([nothing if cell is None else cell for cell in column], dtype=kind)
            table[name.upper() if self.upper else name] = MaskedColumn(filled, mask=[cell is None for cell in column])
        return Answer(table)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    taken = []
    monkeypatch.setattr(gaia_tap.time, "sleep", taken.append)
    return taken


def assert_same(read, gaia, rows):
    order = rows[np.argsort(gaia["source_id"][rows])]
    assert read["ph_qual"].tolist() == gaia["ph_qual"][order].tolist()
    for name in NAMES:
        assert read[name].dtype == (np.int64 if name == "source_id" else np.float64)
        np.testing.assert_array_equal(read[name], gaia[name][order])


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_sources_come_by_identifier_each_once(tmp_path, chunk, upper):
    gaia, path = sky(20), tmp_path / "gaia.parquet"
    rows = np.array([3, 0, 5, 11, 5, 19, 4])
    ids = np.append(gaia["source_id"][rows], [INT_NULL, 0, FIRST + 1])
    service, told = Service(gaia, upper=upper), []
    fetched = fetch_gaia(
        {"gaia_source_id": ids}, path, service=service, chunk=chunk, progress=lambda *step: told.append(step)
    )
    assert fetched == GaiaFetch(ids=7, found=6, positions=0, sources=6)
    assert_same(read_gaia(path), gaia, np.unique(rows))
    assert max(service.asked) <= chunk
    assert sum(service.asked) == 7
    assert told[-1] == ("identifiers", 7, 7)
    assert [done for _, done, _ in told] == sorted({min(chunk * (i + 1), 7) for i in range(7)})
    assert list(tmp_path.iterdir()) == [path]


def test_units_and_origin_are_in_the_table(tmp_path):
    gaia, path = sky(2), tmp_path / "gaia.parquet"
    fetch_gaia({"gaia_source_id": gaia["source_id"]}, path, service=Service(gaia))
    schema = pq.read_schema(path)
    units = {name: (schema.field(name).metadata or {}).get(b"unit", b"").decode() for name in schema.names}
    assert {units[name] for name in ("parallax", "parallax_error")} == {"mas"}
    assert (units["pmra"], units["radial_velocity"], units["phot_g_mean_mag"]) == ("mas/yr", "km/s", "mag")
    assert schema.metadata[b"table"].startswith(b"gaiadr3.gaia_source")


def test_a_failure_is_tried_again_after_longer_and_longer_pauses(tmp_path, pauses):
    gaia, path = sky(6), tmp_path / "gaia.parquet"
    service = Service(gaia, fails=[2, 3])
    fetched = fetch_gaia({"gaia_source_id": gaia["source_id"]}, path, service=service, chunk=2)
    assert fetched.sources == 6
    assert (service.calls, service.asked) == (5, [2, 2, 2])
    assert pauses == sorted(pauses)
    assert len(pauses) == 2


def test_it_goes_on_where_it_stopped(tmp_path):
    gaia, path = sky(6), tmp_path / "gaia.parquet"
    targets = {"gaia_source_id": gaia["source_id"]}
    with pytest.raises(UsageError, match=r"the line is down; the same command goes on .*TAP_UPLOAD.ours"):
        fetch_gaia(targets, path, service=Service(gaia, fails=range(3, 99)), chunk=2)
    assert not path.exists()
    upload = read_table(tmp_path / "gaia.parquet.parts" / "identifiers.vot")
    assert upload["source_id"].tolist() == gaia["source_id"].tolist()
    service = Service(gaia)
    fetch_gaia(targets, path, service=service, chunk=2)
    assert service.asked == [2]
    fetch_gaia(targets, tmp_path / "at_once.parquet", service=Service(gaia), chunk=2)
    assert path.read_bytes() == (tmp_path / "at_once.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_answers_to_another_question_are_not_taken(tmp_path):
    gaia, path = sky(6), tmp_path / "gaia.parquet"
    with pytest.raises(UsageError):
        fetch_gaia({"gaia_source_id": gaia["source_id"]}, path, service=Service(gaia, fails=range(2, 99)), chunk=2)
    fetched = fetch_gaia({"gaia_source_id": gaia["source_id"][3:]}, path, service=Service(gaia), chunk=2)
    assert fetched == GaiaFetch(3, 3, 0, 3)
    assert read_table(path)["source_id"].tolist() == gaia["source_id"][3:].tolist()


def test_the_query_in_the_error_runs_by_hand(tmp_path):
    gaia, path = sky(6), tmp_path / "gaia.parquet"
    with pytest.raises(UsageError) as caught:
        fetch_gaia({"gaia_source_id": gaia["source_id"]}, path, service=Service(gaia, fails=range(99)))
    query = re.search(r"SELECT .*", str(caught.value))[0]
    answer = Service(gaia).run_async(query, uploads={"ours": Table({"source_id": gaia["source_id"][:1]})}).to_table()
    assert answer["source_id"].tolist() == [FIRST]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), latest=st.floats(2010, 2024), earliest=st.sampled_from([1995.0, 2000.0, 2012.0]))
def test_what_is_fetched_joins_as_all_of_gaia_does(tmp_path, seed, latest, earliest):
    random = np.random.default_rng(seed)
    gaia = sky(60, seed=seed)
    rows = random.integers(0, 60, 12)
    years = random.uniform(min(earliest, latest), latest, 12) - 2016
    motion = np.nan_to_num(gaia["pmra"][rows]), np.nan_to_num(gaia["pmdec"][rows])
    off = random.normal(0, 1, (2, 12)) / 3600
    index = {
        "spectrum_id": np.arange(12),
        "gaia_source_id": np.where(random.random(12) < 0.3, gaia["source_id"][rows], INT_NULL),
        "ra": (gaia["ra"][rows] + (motion[0] * years / 3.6e6 + off[0]) / np.cos(np.radians(gaia["dec"][rows]))) % 360,
        "dec": gaia["dec"][rows] + motion[1] * years / 3.6e6 + off[1],
        "lmjd": 51544.5 + (np.full(12, latest) - 2000) * 365.25,
    }
    path = tmp_path / "gaia.parquet"
    fetched = fetch_gaia(index, path, service=Service(gaia), chunk=5, earliest=earliest)
    assert fetched.sources <= 60
    whole = join_gaia(index, gaia, radius_arcsec=3.0, earliest=earliest)
    part = join_gaia(index, read_gaia(path), radius_arcsec=3.0, earliest=earliest)
    assert (whole.columns["gaia_source_id"] != INT_NULL).any()
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(part.columns[name], values)
    np.testing.assert_array_equal(part.ambiguous, whole.ambiguous)


def test_an_identifier_that_gaia_lacks_is_asked_by_position(tmp_path):
    gaia, path = sky(5), tmp_path / "gaia.parquet"
    index = {
        "gaia_source_id": [FIRST, 12, INT_NULL, INT_NULL, 13],
        "ra": [gaia["ra"][0], gaia["ra"][1] - 360, np.nan, -9999, gaia["ra"][1]],
        "dec": [gaia["dec"][0], gaia["dec"][1], 5, -9999, gaia["dec"][1]],
    }
    fetched = fetch_gaia(index, path, service=Service(gaia))
    assert fetched.ids == 3
    assert fetched.found == 1
    assert fetched.positions <= 2  # a whole turn can cost the last digit
    assert gaia["source_id"][1] in read_table(path)["source_id"]


def test_nothing_to_ask(tmp_path):
    service, path = Service(sky(3)), tmp_path / "gaia.parquet"
    for targets in ({"gaia_source_id": []}, {"ra": [np.nan], "dec": [5]}, {"ra": [], "dec": []}):
        assert fetch_gaia(targets, path, service=service) == GaiaFetch(0, 0, 0, 0)
        assert len(read_gaia(path)["source_id"]) == 0
    assert service.calls == 0


def test_answers_that_cannot_be_right(tmp_path):
    gaia, path = sky(3), tmp_path / "gaia.parquet"
    targets = {"gaia_source_id": gaia["source_id"]}

    def answering(answer):
        service = Service(gaia)
        service.run_async = lambda query, uploads: answer
        return service

    whole = Table(gaia)
    short = whole.copy()
    short.remove_columns(["ruwe", "bp_rp"])
    floats = whole.copy()
    floats["source_id"] = floats["source_id"].astype(float)
    for answer, reason in (
        (Answer(short), "the answer lacks ruwe, bp_rp"),
        (Answer(floats), "source_id: holds floats"),
        (Answer(whole, "OVERFLOW"), "cuts its answers short"),
    ):
        with pytest.raises(UsageError, match=reason):
            fetch_gaia(targets, path, service=answering(answer))
        assert not path.exists()


def test_requests_that_cannot_be_carried_out(tmp_path):
    ids = {"gaia_source_id": [FIRST]}
    for targets, name, chunk, reason in (
        (ids, "gaia.csv", 5, r"its name must end in \.parquet"),
        (ids, "no/gaia.parquet", 5, "does not exist"),
        (ids, "gaia.parquet", 0, "chunk is 0"),
        ({"ra": [1.0]}, "gaia.parquet", 5, "neither gaia_source_id nor ra and dec"),
        ({"gaia_source_id": [6.9e18]}, "gaia.parquet", 5, "holds floats"),
        ({"ra": [1.0], "dec": [1.0, 2.0]}, "gaia.parquet", 5, "has shape"),
    ):
        with pytest.raises(UsageError, match=reason):
            fetch_gaia(targets, tmp_path / name, service=Service(sky(1)), chunk=chunk)
    assert list(tmp_path.iterdir()) == []


def test_without_pyvo_it_says_what_to_install(tmp_path, monkeypatch, pauses):
    monkeypatch.setitem(sys.modules, "pyvo.dal", None)
    with pytest.raises(UsageError, match=r"pip install 'stargap\[tap\]'.*Or by hand"):
        fetch_gaia({"gaia_source_id": [FIRST]}, tmp_path / "gaia.parquet")
    assert pauses == []


def test_targets_of_stores_and_tables(tmp_path):
    schema = (Column("gaia_source_id", "int64"), Column("ra", "float64"), Column("dec", "float64"))
    table = {"gaia_source_id": [FIRST, None], "ra": [1.0, 2.0], "dec": [3.0, 4.0]}
    (tmp_path / "store").mkdir()
    for path in (tmp_path / "store" / "index.parquet", tmp_path / "t.fits"):
        write_table(table, path, schema=schema, provenance={})
        targets = read_targets(path.parent if path.suffix == ".parquet" else path)
        assert targets["gaia_source_id"].tolist() == [FIRST, INT_NULL]
    write_table({"x": [1]}, tmp_path / "x.csv", schema=[Column("x", "int64")], provenance={})
    with pytest.raises(UsageError, match="has neither gaia_source_id nor ra and dec"):
        read_targets(tmp_path / "x.csv")


class Tap(BaseHTTPRequestHandler):
    """The asynchronous half of TAP over HTTP: a job that is done at once."""

    def log_message(self, *_):
        pass

    def _say(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/async"):
            self.server.job = body
        self._say(303, Location=f"http://127.0.0.1:{self.server.server_port}/tap/async/1")

    def do_DELETE(self):
        self.server.deleted = True
        self._say(200)

    def do_GET(self):
        here = f"http://127.0.0.1:{self.server.server_port}/tap/async/1"
        if "/results/" in self.path:
            upload = re.search(rb"<\?xml.*?</VOTABLE>", self.server.job, re.DOTALL)[0]
            query = re.search(rb"SELECT g\.[^\r\n]*", self.server.job)[0].decode()
            ours = Table.read(BytesIO(upload), format="votable")
            table = self.server.service.run_async(query, uploads={"ours": ours}).to_table()
            out = BytesIO()
            table.write(out, format="votable")
            answer = out.getvalue().decode().replace("<TABLE>", '<INFO name="QUERY_STATUS" value="OK"/><TABLE>')
            return self._say(200, answer.encode(), **{"Content-Type": "application/x-votable+xml"})
        job = (
            '<uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" '
            'version="1.1"><uws:jobId>1</uws:jobId><uws:phase>COMPLETED</uws:phase><uws:results>'
            f'<uws:result id="result" xlink:href="{here}/results/result"/></uws:results></uws:job>'
        )
        return self._say(200, job.encode(), **{"Content-Type": "text/xml"})


def test_pyvo_asks_a_service_over_http(tmp_path):
    pytest.importorskip("pyvo")
    gaia, path = sky(9), tmp_path / "gaia.parquet"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tap)
    server.service, server.deleted = Service(gaia), False
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/tap"
        fetched = fetch_gaia({"gaia_source_id": gaia["source_id"]}, path, service=address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert fetched == GaiaFetch(9, 9, 0, 9)
    assert_same(read_gaia(path), gaia, np.arange(9))
    assert server.deleted
