"""`stargap view` without a browser: what it answers, whom it refuses, and what becomes of marks."""

import base64
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.viewing import TOKEN, viewing

from stargap.errors import UsageError
from stargap.flags import Clean
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.settings import read_settings_as
from stargap.survey.cleaning.marked import read_marked
from stargap.tables.columns import CATALOGUE
from stargap.tables.parquet import read_columns
from stargap.validation.compare import run_compare
from stargap.validation.matching import CompareSettings
from stargap.validation.report.spectra import fit_again
from stargap.validation.viewer import serve
from stargap.validation.viewer.marks import COLUMNS, MarkedStars
from stargap.validation.viewer.table import Catalogue

WHOLE = {"x0": 2500, "x1": 4500, "y0": 4, "y1": 6, "width": 400, "height": 300}
KIEL = WHOLE | {"name": "kiel"}


@pytest.fixture(scope="module")
def table(finished_run):
    return read_columns(finished_run / "catalogue/spectra.parquet")


@pytest.fixture(scope="module")
def viewer(finished_run, tmp_path_factory):
    with viewing(finished_run, tmp_path_factory.mktemp("marks") / "marked.csv") as found:
        yield found


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


# ---- answers


def test_it_begins_with_a_usable_star_of_the_final_catalogue(viewer, table):
    start = viewer.ask("start")
    assert start["count"] == len(table["teff"])
    assert start["simulated"] is True
    assert start["filter"] == "in_final_catalogue = true"
    assert table["use_teff"][start["first"]] == 1
    assert table["in_final_catalogue"][start["first"]]


def test_a_diagram_has_the_points_that_pass_the_filter(viewer, table):
    for text, kept in (("", np.isfinite(table["teff"])), ("teff > 3500", table["teff"] > 3500)):
        content = viewer.ask("diagram", colour="m_h", filter=text, **KIEL)
        np.testing.assert_array_equal(floats(content["x"]), table["teff"][kept])
        np.testing.assert_array_equal(floats(content["y"]), table["logg"][kept])
        np.testing.assert_array_equal(floats(content["values"]), table["m_h"][kept])
    assert "counts" not in content
    assert content["text"] == f"{kept.sum()} of {len(kept)} spectra pass the filter"
    assert content["seen"] == f"{kept.sum()} in view"
    assert viewer.ask("diagram", colour="m_h", filter="tef > 1", **KIEL) == {
        "error": "no column 'tef'; did you mean 'teff'?"
    }


def test_any_column_of_numbers_colours(viewer, table):
    kept = np.isfinite(table["teff"])
    colours = viewer.ask("start")["colours"]
    assert (colours["e_teff"], colours["m_h"]) == ("e_teff (K)", "[M/H] (dex)")
    assert next(iter(colours)) == "m_h"
    assert not {"designation", "in_final_catalogue"} & set(colours)
    for name in ("lmjd", "cluster", "e_rv"):
        content = viewer.ask("diagram", colour=name, filter="", **KIEL)
        known = table[name][kept] if name == "e_rv" else np.where(table[name] == -9999, np.nan, table[name])[kept]
        np.testing.assert_array_equal(floats(content["values"]), known.astype(np.float32))
        assert content["scale"]["low"] <= np.nanmedian(known) <= content["scale"]["high"]


def test_many_points_are_binned(viewer, table, monkeypatch):
    monkeypatch.setattr("stargap.validation.viewer.explore.MOST_POINTS", 5)
    content = viewer.ask("diagram", colour="count", filter="", **KIEL)
    counts = np.frombuffer(base64.b64decode(content["counts"]), "<u4")
    assert counts.sum() == np.isfinite(table["teff"]).sum()
    assert len(counts) == content["width"] * content["height"]
    assert floats(content["values"]).max() == pytest.approx(np.log10(counts.max()))


def test_pick_and_step_and_neighbour_stay_within_the_filter(viewer, table):
    text = "in_final_catalogue = true; m_h < 0"
    kept = np.flatnonzero(table["in_final_catalogue"] & (table["m_h"] < 0) & np.isfinite(table["teff"]))
    row = int(kept[len(kept) // 2])
    at = {"x": float(table["teff"][row]), "y": float(table["logg"][row])}
    assert viewer.ask("pick", filter=text, **KIEL, **at) == row
    right = viewer.ask("step", filter=text, row=row, direction="right", **KIEL)
    assert right is None or (right in kept and table["teff"][right] < table["teff"][row])
    walked, here = [], -1
    while (here := viewer.ask("neighbour", filter=text, row=here, way=1)) is not None:
        walked.append(here)
    assert walked == kept.tolist()
    assert viewer.ask("neighbour", filter=text, row=int(kept[0]), way=-1) is None


def test_a_star_is_found_by_each_of_its_names_with_its_repeats(viewer, table):
    source = table["gaia_source_id"]
    known = source[source != -9999]
    several = int(np.flatnonzero(source == known[np.argmax((known[:, None] == known).sum(axis=1))])[0])
    assert viewer.ask("find", text=source[several]) == np.flatnonzero(source == source[several])[0]
    for name in ("spectrum_id", "obsid"):
        assert viewer.ask("find", text=f" {table[name][several]} ") == several
    first = np.flatnonzero(table["designation"] == table["designation"][several])[0]
    assert viewer.ask("find", text=table["designation"][several]) == first
    for text in ("", "-9999", "no star", "9" * 30, "³"):
        assert "no spectrum has this" in viewer.ask("find", text=text)["error"]
    star = viewer.ask("star", row=several)
    repeats = np.flatnonzero(source == source[several]).tolist()
    assert [one["key"] for one in star["repeats"]] == repeats
    assert len(repeats) > 1
    assert star["id"] == str(table["spectrum_id"][several])
    cells = viewer.ask("cells", row=several)
    assert len(cells) == len(CATALOGUE)
    assert str(source[several]) in cells
    assert star["summary"]["links"] == []  # nobody knows more of simulated stars


def test_spectra_are_those_of_the_run(viewer, table, finished_run):
    row = viewer.ask("start")["first"]
    seen, fitted = viewer.ask("observed", row=row), viewer.ask("fitted", row=row)
    again = fit_again(finished_run, table["spectrum_id"][[row]], step=1)
    assert seen["flux"] == fitted["flux"]
    whole = np.frombuffer(base64.b64decode(fitted["fit"]["data"]), "<i2").reshape(3, -1).astype(float)
    whole[whole == -32768] = np.nan
    observed, model, residual = whole * np.array(fitted["fit"]["scale"])[:, None]
    for one, expected in ((observed, again.observed), (model, again.model), (residual, again.residual)):
        np.testing.assert_allclose(one, expected[0], atol=np.nanmax(np.abs(expected)) / 32767)
    assert fitted["rv"][0] == pytest.approx(float(table["rv"][row] + table["rv_zero"][row]), abs=1e-3)


def test_a_spectrum_that_was_not_measured_has_no_model(viewer, table):
    row = int(np.flatnonzero(np.isnan(table["rv"]) & (table["snr_r"] > 0))[0])
    assert viewer.ask("observed", row=row)["rv"] == [None]
    assert "were not measured" in viewer.ask("fitted", row=row)["error"]


def test_a_moved_run_without_its_store_says_what_is_missing(finished_run, tmp_path, table):
    shutil.copytree(finished_run / "catalogue", tmp_path / "elsewhere/catalogue")
    row = int(np.flatnonzero(np.isfinite(table["teff"]))[0])
    with viewing(tmp_path / "elsewhere") as moved:
        assert moved.ask("star", row=row)["id"] == str(table["spectrum_id"][row])
        for name in ("observed", "fitted"):
            assert "elsewhere" in moved.ask(name, row=row)["error"]
        assert moved.ask("start")["marks"] is None
        assert "with --marks" in moved.mark(row, "keep")["error"]


def test_a_catalogue_that_was_made_anew_is_not_mixed_with_the_old_one(finished_run, tmp_path):
    shutil.copytree(finished_run / "catalogue", tmp_path / "catalogue")
    catalogue = Catalogue(tmp_path)
    old = catalogue.column("teff")
    shutil.copyfile(tmp_path / "catalogue/stars.parquet", catalogue.path)
    assert catalogue.column("teff") is old
    for read in (lambda: catalogue.column("logg"), lambda: catalogue.row(0)):
        with pytest.raises(UsageError, match="was made anew; start stargap view again"):
            read()


@pytest.mark.parametrize(
    ("name", "query", "reason"),
    [
        ("star", {"row": 10**6}, "no row 1000000"),
        ("star", {"row": -1}, "no row -1"),
        ("star", {"row": "1.5"}, "row must be a whole number"),
        ("observed", {"row": "../../etc/passwd"}, "row must be a whole number"),
        ("diagram", KIEL | {"colour": "subclass"}, "no column of numbers 'subclass'"),
        ("diagram", KIEL | {"colour": "m_h", "name": "sky"}, "no diagram 'sky'"),
        ("diagram", KIEL | {"colour": "m_h", "x0": "nan"}, "x0 must be a number"),
        ("diagram", KIEL | {"colour": "m_h", "width": 10**6}, "1 to 8000 pixels"),
        ("step", KIEL | {"row": 3, "direction": "away"}, "no direction 'away'"),
    ],
)
def test_what_makes_no_sense_is_refused(viewer, name, query, reason):
    assert reason in viewer.ask(name, **query)["error"]


# ---- whom it answers


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        (f"/{TOKEN}/start", {}, 200),
        (f"/{TOKEN}x/start", {}, 404),
        (f"/{TOKEN[:-1]}/start", {}, 404),
        ("/start", {}, 404),
        ("/", {}, 404),
        ("//start", {}, 404),
        (f"/%C3%A9/{TOKEN}", {}, 404),
        (f"/{TOKEN}/start", {"host": "evil.example:80"}, 421),
        (f"/{TOKEN}/start", {"host": "127.0.0.1"}, 421),
        (f"/{TOKEN}/start", {"origin": "http://evil.example"}, 403),
        (f"/{TOKEN}/../../etc/passwd", {}, 404),
        (f"/{TOKEN}/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        (f"/{TOKEN}/catalogue/spectra.parquet", {}, 404),
        (f"/{TOKEN}/star", {"method": "DELETE"}, 405),
        (f"/{TOKEN}/marks", {"method": "POST", "body": b"{}"}, 400),
        (f"/{TOKEN}", {}, 307),  # to the address with a slash, beside which the page's answers are
    ],
)
def test_only_who_knows_the_address_is_answered(viewer, path, given, status):
    found, headers, body = viewer.request(path, **given)
    assert found == status
    assert b"root:" not in body
    if found in (403, 404, 421):
        assert TOKEN.encode() not in body
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"row": true, "mark": "keep", "note": ""}', b'{"row": 1, "mark": "keep"}', b"[" * 9000]
)
def test_marks_that_are_none_are_refused(viewer, body):
    given = {"method": "POST", "body": body, "content_type": "application/json"}
    assert viewer.request(f"/{TOKEN}/marks", **given)[0] == 400
    assert viewer.ask("marks") == []


def test_the_page_runs_its_own_script_alone(viewer):
    _, headers, body = viewer.request(f"/{TOKEN}/")
    policy = headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = body.decode()
    assert page.count("<script") == page.count(f'<script nonce="{nonce}">') == 1
    assert viewer.request(f"/{TOKEN}/")[1]["content-security-policy"] != policy


# ---- marks


@pytest.fixture
def marked(finished_run, table, tmp_path):
    """A list with three stars, made through the server, and the rows that they are of."""
    stars, first = np.unique(table["gaia_source_id"], return_index=True)
    rows = first[(stars != -9999) & table["in_final_catalogue"][first]][:3].tolist()
    with viewing(finished_run, tmp_path / "marked.csv") as viewer:
        viewer.mark(rows[0], "reject", 'a lamp, "sic"\n=1+1')
        viewer.mark(rows[1], "reject", "again")
        viewer.mark(rows[1], "look", "again")
        listed = viewer.mark(rows[2], "keep")
        assert [one["mark"] for one in listed] == ["reject", "look", "keep"]
        assert "must be one of keep, reject, look" in viewer.mark(rows[2], "adore")["error"]
        assert "500 characters" in viewer.mark(rows[2], "keep", "x" * 501)["error"]
        assert len(viewer.mark(rows[2], "")) == 2
        viewer.mark(rows[2], "keep")
    return tmp_path / "marked.csv", rows


def test_the_list_is_gone_on_with(marked):
    path, rows = marked
    again = MarkedStars(path)
    assert [one["note"] for one in again.listed()] == ['a lamp, "sic" =1+1', "again", ""]
    before = path.read_bytes()
    row = {name: np.array([10**6]) for name in COLUMNS[:-2]}
    again.put("keep", "", lambda: row)
    again.put("", "", lambda: row)
    assert path.read_bytes() == before
    assert len(rows) == len(list(csv.reader(before.decode().splitlines()))) - 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("spectrum_id,teff\n1,3000\n", "lacks spectrum_id, mark or note"),
        ("spectrum_id,mark,note,mine\n1,keep,,x\n", "columns that would be lost, such as 'mine'"),
        ("spectrum_id,mark,note\n1,adore,\n", "has the mark 'adore'"),
        ("spectrum_id,mark,note\nx,keep,\n", "spectrum 'x'"),
        ("spectrum_id,mark,note\n007,keep,\n", "spectrum '007': spectrum_id must be a whole number, without zeros"),
        ("mark,note,spectrum_id\nkeep\n", "spectrum ''"),
        ("spectrum_id,mark,note\n7,keep,a\n7,look,b\n", "spectrum 7 has several rows: keep one"),
        ("spectrum_id,mark,note\n7,keep,a, and b\n", "more cells than there are columns: they would be lost"),
        ("spectrum_id,mark,note,note\n7,keep,a,b\n", "has a column twice"),
        ("PAR1\0\0", "lacks spectrum_id"),
    ],
)
def test_a_file_of_something_else_is_not_written_over(tmp_path, content, reason):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(reason)):
        MarkedStars(path)
    assert path.read_text() == content
    with pytest.raises(UsageError, match="there is no folder"):
        MarkedStars(tmp_path / "none" / "marked.csv")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "a\x1b\x85\n b", "a\x1ab"])
def test_odd_characters_do_not_spoil_the_list(tmp_path, text):
    star = {name: np.array([7]) for name in COLUMNS[:-2]} | {"designation": np.array([text], dtype=object)}
    (listed,) = MarkedStars(tmp_path / "marked.csv").put("keep", text, lambda: star)
    assert listed["note"] == "a b"
    assert read_marked(tmp_path / "marked.csv")["spectrum_id"].tolist() == [7]


def test_two_viewers_of_one_list_lose_no_mark(tmp_path):
    def mark(first):
        marked = MarkedStars(tmp_path / "marked.csv")  # one of its own, as another program has
        for number in range(first, first + 10):
            marked.put("keep", "", lambda one=number: {name: np.array([one]) for name in COLUMNS[:-2]})

    threads = [threading.Thread(target=mark, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(MarkedStars(tmp_path / "marked.csv").listed()) == 20


def test_links_and_permissions_of_the_list_stay(tmp_path, monkeypatch):
    path, link = tmp_path / "marked.csv", tmp_path / "link.csv"
    path.write_text("spectrum_id,mark,note\n8,keep,\n")
    path.chmod(0o600)
    link.symlink_to(path)
    MarkedStars(link).put("look", "", lambda: {name: np.array([7]) for name in COLUMNS[:-2]})
    assert link.is_symlink()
    assert [one["spectrum_id"] for one in MarkedStars(path).listed()] == ["8", "7"]
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("os.access", lambda place, mode: place != path)  # tests may run as root, who may write all
    with pytest.raises(UsageError, match=r"marked\.csv is read-only"):
        MarkedStars(link)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(UsageError, match="is no file; name a CSV"):
            MarkedStars(tmp_path / name)


def test_the_cleaning_takes_the_list(marked, finished_run, table, tmp_path):
    path, rows = marked
    read = read_marked(path)
    np.testing.assert_array_equal(read["spectrum_id"], table["spectrum_id"][[rows[0], rows[2]]])
    np.testing.assert_array_equal(read["flags"], [Clean.REJECTED, Clean.KEPT])
    shutil.copytree(finished_run, tmp_path / "run")
    given = read_settings_as(SurveySettings, tmp_path / "run/survey.toml")
    update = {"output": tmp_path / "run", "input": given.input.model_copy(update={"marked": path})}
    states = run_survey(given.model_copy(update=update), only="clean")
    assert next(state.state for state in states if state.stage == "clean") == "done"
    parts = [read_columns(part) for part in sorted((tmp_path / "run/clean").glob("*.parquet"))]
    flags = dict(zip(np.concatenate([part["spectrum_id"] for part in parts]).tolist(),
                     np.concatenate([part["clean_flags"] for part in parts]).tolist(), strict=True))  # fmt: skip
    rejected = dict(zip(np.concatenate([part["spectrum_id"] for part in parts]).tolist(),
                        np.concatenate([part["rejected"] for part in parts]).tolist(), strict=True))  # fmt: skip
    ids = table["spectrum_id"][rows].tolist()
    assert [flags[one] & int(Clean.REJECTED | Clean.KEPT) for one in ids] == [Clean.REJECTED, 0, Clean.KEPT]
    assert [rejected[one] for one in ids] == [True, False, False]


def test_a_list_of_another_run_is_refused(marked, finished_run, tmp_path):
    path, _ = marked
    rows = list(csv.DictReader(path.read_text().splitlines()))
    rows[0]["obsid"] = "12345"
    with (tmp_path / "other.csv").open("w") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    shutil.copytree(finished_run, tmp_path / "run")
    given = read_settings_as(SurveySettings, tmp_path / "run/survey.toml")
    update = {"output": tmp_path / "run", "input": given.input.model_copy(update={"marked": tmp_path / "other.csv"})}
    reason = r"spectrum \d+ has obsid 12345, and \d+ in this run: the table is of another"
    with pytest.raises(UsageError, match=reason):
        run_survey(given.model_copy(update=update), only="clean")
    with pytest.raises(UsageError, match=reason):  # before hours of marking that no run takes
        serve.serve(finished_run, marks=tmp_path / "other.csv", open_browser=False)


def test_a_comparison_takes_the_list_in_place_of_a_catalogue(marked, table, tmp_path):
    path, rows = marked
    reference = tmp_path / "reference.csv"
    lines = [f"{table['gaia_source_id'][row]},{table['teff'][row] + 10 * place}" for place, row in enumerate(rows)]
    reference.write_text("\n".join(["source,teff", *lines]) + "\n")
    found = run_compare(path, reference, CompareSettings(columns={"teff": "teff"}, key="source", resamples=0))
    assert found.agreements[0].result.n == 3
    assert found.agreements[0].result.values.median == pytest.approx(-10, abs=0.01)
    back = run_compare(
        reference.parent / "marked.csv",
        path,
        CompareSettings(columns={"m_h": "m_h"}, key="gaia_source_id", resamples=0),
    )
    assert back.agreements[0].result.values.median == 0


# ---- the command


def view(*words):
    return subprocess.run(
        [sys.executable, "-m", "stargap", "view", "--no-open", *map(str, words)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_runs_without_a_catalogue_are_told(tmp_path):
    (tmp_path / "begun/receipts").mkdir(parents=True)
    (tmp_path / "a.csv").touch()
    reasons = {
        "none": "there is no such folder",
        "a.csv": "is a file; name the folder",
        "begun": "has no catalogue yet; finish it",
        ".": "not the folder of a run",
    }
    for name, reason in reasons.items():
        with pytest.raises(UsageError, match=reason):
            Catalogue(tmp_path / name)


def test_the_browser_is_opened_without_the_secret_among_its_words(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    serve._open(f"http://127.0.0.1:1/{TOKEN}/", tmp_path)
    (address,) = opened
    assert TOKEN not in address
    assert f'content="0;url=http://127.0.0.1:1/{TOKEN}/"' in Path(address.removeprefix("file://")).read_text()


def test_a_port_that_is_taken_and_a_missing_extra_are_told(finished_run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = view(finished_run, "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert re.search(r"port \d+ is taken by another program: give another --port", done.stderr)
    (tmp_path / "uvicorn.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "stargap", "view", str(finished_run)],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'stargap[view]'" in done.stderr


def test_ctrl_c_ends_it_and_it_listens_to_this_machine_alone(finished_run):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    command = [sys.executable, "-m", "stargap", "view", "--no-open", str(finished_run)]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        address = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/([\w-]{43})/\n", lines[1])
        with pytest.raises(OSError, match="refused"):  # it would be answered if every address were listened to
            socket.create_connection(("127.0.0.2", int(address[1])), timeout=5).close()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "ended\n"
        assert process.wait(20) == 0
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_answers_are_json_without_numbers_that_json_lacks(viewer):
    for name, query in (("start", {}), ("diagram", KIEL | {"colour": "chi2", "filter": "", "x0": 9000, "x1": 9001})):
        json.dumps(viewer.ask(name, **query), allow_nan=False)
