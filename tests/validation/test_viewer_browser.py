"""`stargap view` in a headless browser: pictures, clicks, filters, marks, hostile texts."""

import base64
import csv
import json
import re
import shutil
import threading

import numpy as np
import pytest
from chromium import Page
from helpers.viewing import viewing

from stargap.tables.columns import CATALOGUE
from stargap.tables.parquet import read_columns
from stargap.tables.write import write_table
from stargap.validation.viewer.spectra import RunSpectra

STATE = "document.getElementById('explorer').dataset"
HOSTILE = "<img src=x onerror=alert(1)>'\"&</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("browser"))
    page.size(1500, 950)
    yield page
    page.close()


@pytest.fixture(scope="module")
def hostile_run(finished_run, tmp_path_factory):
    """A moved copy of the run, in which a star is called what would be a script."""
    folder = tmp_path_factory.mktemp("moved") / "a <b>run"
    shutil.copytree(finished_run, folder)
    path = folder / "catalogue/spectra.parquet"
    table = read_columns(path)
    table["designation"][np.flatnonzero(table["in_final_catalogue"])[0]] = HOSTILE
    write_table(table, path, schema=CATALOGUE, provenance={})
    return folder


@pytest.fixture(scope="module")
def table(hostile_run):
    return read_columns(hostile_run / "catalogue/spectra.parquet")


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    return tmp_path_factory.mktemp("marks") / "marked.csv"


@pytest.fixture(scope="module")
def viewer(hostile_run, marks, browser):
    with viewing(hostile_run, marks) as found:
        yield found
        browser.open("about:blank")  # whose connections the server would wait for


@pytest.fixture
def opened(browser, viewer):
    browser.problems.clear()
    browser.open(viewer.address)
    browser.until(f"{STATE}.loaded && {STATE}.ready")
    yield browser
    assert browser.problems == []


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').textContent")


def chosen(browser, action):
    """Return the spectrum_id that is shown after an action."""
    browser.run(f"delete {STATE}.ready")
    action()
    browser.until(f"{STATE}.ready")
    return int(browser.run(f"{STATE}.ready"))


def test_a_click_shows_the_star_its_spectrum_and_its_model(opened, table):
    row = int(np.flatnonzero(table["in_final_catalogue"])[4])
    box = opened.run(
        "(() => { const box = document.getElementById('kiel').getBoundingClientRect(); return [box.left, box.top]; })()"
    )
    place = opened.run(f"stargapExplorer.place('kiel', {table['teff'][row]}, {table['logg'][row]})")
    found = chosen(opened, lambda: opened.click(box[0] + place[0], box[1] + place[1]))
    assert found == table["spectrum_id"][row]
    assert text(opened, "summary").startswith(table["designation"][row])
    assert f"Teff {table['teff'][row]:.0f}" in text(opened, "summary")
    assert sum(value is not None for value in opened.run("stargapExplorer.spectrum().flux")) > 1800
    opened.until(f"{STATE}.fitted === '{row}'")
    assert text(opened, "spectrum-note") == ""
    model = [value for value in opened.run("stargapExplorer.spectrum().model") if value is not None]
    assert np.median(model) == pytest.approx(1, abs=0.02)
    opened.run("document.getElementById('columns').open = true")
    opened.until(f"document.getElementById('row').dataset.shown === '{found}'")
    cells = opened.run("Array.from(document.querySelectorAll('#row tr'), (row) => row.cells[0].textContent)")
    assert {"spectrum_id", "teff", "e_teff"} <= set(cells)


def test_hostile_texts_are_texts(opened, table):
    row = int(np.flatnonzero(table["designation"] == HOSTILE)[0])
    opened.run(f"document.getElementById('find').value = {json.dumps(HOSTILE)}")
    found = chosen(opened, lambda: opened.run("document.querySelector('#find-form button').click()"))
    assert found == table["spectrum_id"][row]
    assert text(opened, "summary").startswith(HOSTILE)
    assert opened.run("document.querySelectorAll('img, h1 b').length") == 0
    assert opened.run("document.querySelector('h1').textContent") == "a <b>run"
    links = opened.run(
        "Array.from(document.querySelectorAll('#links a'), (one) => [one.textContent, one.href, one.rel])"
    )
    assert [name for name, _, _ in links] == ["SIMBAD", "Gaia archive"]
    for _, address, rel in links:
        assert str(table["gaia_source_id"][row]) in address
        assert rel == "noopener noreferrer"


def test_filters_and_steps(opened, table):
    def show(words):
        opened.run(f"document.getElementById('filter').value = '{words}'")
        before = opened.run(f"{STATE}.kiel")
        opened.run("document.querySelector('#filter-form button').click()")
        opened.until(f"{STATE}.kiel !== '{before}' || document.getElementById('filter-error').textContent")
        return text(opened, "filter-error")

    opened.problems.clear()
    assert show("tef > 3000") == "no column 'tef'; did you mean 'teff'?"
    assert [one["entry"]["text"] for one in opened.problems] == [
        "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    ]
    opened.problems.clear()
    assert show("in_final_catalogue = true; teff < 3600") == ""
    kept = np.flatnonzero(table["in_final_catalogue"] & (table["teff"] < 3600))
    assert text(opened, "counts").startswith(f"{len(kept)} of {len(table['teff'])} spectra pass the filter")
    opened.run(f"stargapExplorer.select({kept[0]}), null")
    opened.until(f"{STATE}.ready === '{table['spectrum_id'][kept[0]]}'")
    assert chosen(opened, lambda: opened.key("n")) == table["spectrum_id"][kept[1]]
    assert chosen(opened, lambda: opened.key("p")) == table["spectrum_id"][kept[0]]
    opened.run("document.getElementById('kiel').focus()")
    before = opened.run("stargapExplorer.diagrams.kiel.view.x")
    opened.key("+")
    opened.until(f"stargapExplorer.diagrams.kiel.view.x[0] > {before[0]}")
    low, high = opened.run("stargapExplorer.diagrams.kiel.view.x")
    opened.run("document.getElementById('keep-view').click()")
    opened.until("document.getElementById('filter').value.includes('..')")
    ends = re.search(r"teff ([\d.]+)\.\.([\d.]+); logg", opened.run("document.getElementById('filter').value"))
    np.testing.assert_allclose([float(end) for end in ends.groups()], [low, high], rtol=1e-5)
    opened.run("document.getElementById('kiel').focus()")
    opened.key("0")
    opened.until(f"stargapExplorer.diagrams.kiel.view.x[0] === {before[0]}")


def test_marks_are_kept(opened, table, marks):
    row = int(np.flatnonzero(table["in_final_catalogue"])[2])
    name = table["spectrum_id"][row]
    opened.run(f"stargapExplorer.select({row}), null")
    opened.until(f"{STATE}.ready === '{name}'")
    opened.run(f"document.getElementById('note').value = {json.dumps(HOSTILE)}")
    opened.key("r")
    opened.until(f"{STATE}.marked === '{name} reject'")
    (kept,) = csv.DictReader(marks.read_text().splitlines())
    assert (kept["spectrum_id"], kept["mark"], kept["note"]) == (str(name), "reject", HOSTILE)
    assert float(kept["teff"]) == pytest.approx(float(table["teff"][row]), rel=1e-6)
    assert text(opened, "marked-rows") == f"{name}reject{HOSTILE}"
    assert opened.run("document.querySelector('#mark-form button[aria-pressed=true]').value") == "reject"
    opened.run("document.getElementById('note').value = 'a lamp'; document.getElementById('note').focus()")
    opened.run(f"delete {STATE}.marked")
    for kind in ("keyDown", "keyUp"):
        enter = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
        opened.send("Input.dispatchKeyEvent", type=kind, **enter)
    opened.until(f"{STATE}.marked")
    assert text(opened, "marked-rows") == f"{name}rejecta lamp"  # and not kept, by the first button of the form
    opened.run("document.activeElement.blur()")
    opened.run("document.querySelector('#mark-form button[value=\"\"]').click()")
    opened.until(f"{STATE}.marked === '{name} '")
    assert text(opened, "marked-rows") == ""


def test_a_note_is_not_given_to_the_next_star(opened, table, marks, monkeypatch):
    first, second = np.flatnonzero(table["in_final_catalogue"])[2:4]
    read, slow = RunSpectra.observed, threading.Event()
    opened.run(f"stargapExplorer.select({first}), null")
    opened.until(f"{STATE}.ready === '{table['spectrum_id'][first]}'")
    opened.run("document.getElementById('note').value = 'of the first'")
    monkeypatch.setattr(RunSpectra, "observed", lambda self, one: (slow.wait(20), read(self, one))[1])
    name = table["spectrum_id"][second]
    try:
        opened.run(f"stargapExplorer.select({second}), null")
        opened.until(f"{STATE}.chosen === '{name}'")
        opened.key("l")  # before its spectrum is there
        opened.until(f"{STATE}.marked === '{name} look'")
    finally:
        slow.set()
    (kept,) = csv.DictReader(marks.read_text().splitlines())
    assert (kept["spectrum_id"], kept["note"]) == (str(name), "")
    opened.until(f"{STATE}.ready === '{name}'")
    opened.run("document.querySelector('#mark-form button[value=\"\"]').click()")
    opened.until(f"{STATE}.marked === '{name} '")


def test_many_points_are_drawn_in_bins_and_dark_pages_are_dark(opened, monkeypatch):
    monkeypatch.setattr("stargap.validation.viewer.explore.MOST_POINTS", 5)
    opened.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        opened.run("stargapExplorer.redrawAll()")
        drawn = opened.run(
            "(() => { const canvas = document.querySelector('#kiel canvas'); const data = "
            "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; let seen = 0; "
            "for (let i = 0; i < data.length; i += 4) if (Math.max(data[i], data[i + 1], data[i + 2]) - "
            "Math.min(data[i], data[i + 1], data[i + 2]) > 60) seen++; return seen; })()"
        )
        assert drawn >= 4 * 10  # bins of 2 x 2 pixels in the colours of the scale
        paper = opened.run("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, paper[4:-1].split(","))) < 60
    finally:
        opened.send("Emulation.setEmulatedMedia", features=[])


def test_both_diagrams_have_the_scale_that_is_shown(opened, viewer, monkeypatch):
    monkeypatch.setattr("stargap.validation.viewer.explore.MOST_POINTS", 5)
    opened.run("document.getElementById('colour').value = 'count'")
    diagrams = "stargapExplorer.diagrams"
    for axis, top in (("x", 90_000), ("y", 90)):
        opened.run(f"{diagrams}.kiel.plot.setScale('{axis}', {{min: 0, max: {top}}})")
        opened.until(f"{diagrams}.kiel.view.{axis}[1] === {top}")
    opened.run("stargapExplorer.redrawAll()")
    highs, counted = {}, {}
    for name in ("kiel", "hr"):
        ends = opened.run(f"(({{view, size}}) => [...view.x, ...view.y, ...size.map(Math.round)])({diagrams}.{name})")
        view = dict(zip(("x0", "x1", "y0", "y1", "width", "height"), ends, strict=True))
        words = opened.run("document.getElementById('filter').value")
        content = viewer.ask("diagram", name=name, colour="count", filter=words, **view)
        highs[name] = content["scale"]["high"]
        counted[name] = np.frombuffer(base64.b64decode(content["values"]), "<f4").max()
    assert highs["hr"] < highs["kiel"]  # which is crowded now
    palette = viewer.ask("start")["palette"]
    for name in highs:
        brightest = opened.run(
            f"(({{bins, width, height}}) => Array.from({{length: width * height}}, (_, i) => bins(i)).filter(Boolean)"
            f".sort((a, b) => a[1] - b[1]).pop())({diagrams}.{name}.content)"
        )
        place = round(float(counted[name]) / highs["kiel"] * (len(palette) - 1))
        assert "#" + bytes(brightest[:3]).hex() == palette[place]
    assert float(text(opened, "colour-high")) == pytest.approx(highs["kiel"], abs=0.006)
