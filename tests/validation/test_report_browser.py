"""The report in a headless browser: it loads without errors, and a click shows the star that was clicked."""

import base64
import re
import time
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import pytest
from chromium import Page

from stargap.tables.columns import CATALOGUE, STARS
from stargap.tables.parquet import read_columns
from stargap.tables.write import write_table
from stargap.validation.report import figures
from stargap.validation.report.explorer import choose_rows
from stargap.validation.report.fitted import FittedSpectra, RawSpectra
from stargap.validation.report.page import write_report
from stargap.validation.report.spectra import fit_again

MANY, SHOWN = 50_000, 2_000
EXPLORER = "document.getElementById('explorer').dataset"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("browser"))
    page.size(1280, 900)
    yield page
    page.close()


@pytest.fixture(scope="module")
def written(written_report):
    return written_report / "index.html"


def opened(browser, path):
    browser.problems.clear()
    browser.open(path)
    browser.until(f"{EXPLORER}.loaded && {EXPLORER}.ready")
    browser.run("document.getElementById('columns').open = true")
    assert browser.problems == []


def place(browser, diagram, index):
    """Where a point is on the screen, once its diagram is in view."""
    browser.run(f"document.getElementById('{diagram}').scrollIntoView({{block: 'center'}})")
    corner = browser.run(
        f"(() => {{ const box = document.getElementById('{diagram}').getBoundingClientRect(); "
        "return [box.left, box.top]; })()"
    )
    inside = inside_place(browser, diagram, index)
    return corner[0] + inside[0], corner[1] + inside[1]


def inside_place(browser, diagram, index):
    """Where a point is in its diagram."""
    return browser.run(f"stargapExplorer.place('{diagram}', ...stargapReport.values('{diagram}', {index}))")


def shown_after_click(browser, diagram, x, y):
    browser.run(f"delete {EXPLORER}.ready")
    browser.click(x, y)
    browser.until(f"{EXPLORER}.ready")
    return browser.run(f"{EXPLORER}.ready")


def pixel(browser, diagram, x, y):
    pen = f"document.querySelector('#{diagram} canvas').getContext('2d')"
    return browser.run(f"Array.from({pen}.getImageData({x}, {y}, 1, 1).data)")


def row_shown(browser):
    browser.until(f"document.getElementById('row').dataset.shown === {EXPLORER}.ready")
    cells = "(row) => [row.cells[0].textContent, row.cells[1].textContent]"
    return dict(browser.run(f"Array.from(document.querySelectorAll('#row tr'), {cells})"))


def find(browser, text):
    browser.run(f"document.getElementById('find').value = '{text}'")
    browser.run("document.querySelector('#find-form button').click()")


def status(browser):
    return browser.run("document.getElementById('status').textContent")


def test_click_shows_the_star_its_spectrum_and_its_row(browser, written, finished_run):
    opened(browser, written)
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    rows = choose_rows(table)
    fitted = fit_again(finished_run, table["spectrum_id"][rows])
    final = np.flatnonzero(table["in_final_catalogue"][rows])
    assert len(final) > 10
    for diagram, number in (("kiel", final[3]), ("kiel", final[-1]), ("hr", final[5])):
        row = rows[number]
        x, y = place(browser, diagram, number)
        assert shown_after_click(browser, diagram, x, y) == str(table["spectrum_id"][row])
        cells = row_shown(browser)
        assert cells["spectrum_id"] == str(table["spectrum_id"][row])
        assert cells["gaia_source_id"] == str(table["gaia_source_id"][row])
        assert float(cells["m_h"]) == pytest.approx(float(table["m_h"][row]), abs=0.00051)
        for name, values in (("observed", fitted.observed), ("model", fitted.model), ("residual", fitted.residual)):
            seen = browser.run(f"stargapExplorer.spectrum().{name}")
            expected = values[number]
            np.testing.assert_array_equal(np.isnan(np.array(seen, dtype=float)), np.isnan(expected))
            largest = np.nanmax(np.abs(expected))
            np.testing.assert_allclose(np.array(seen, dtype=float), expected, atol=largest / 32767 * 0.51)
        # the ring around the point is dark, and the point inside it is not white
        here = inside_place(browser, diagram, number)
        ring = [pixel(browser, diagram, round(here[0]) + dx, round(here[1])) for dx in (7, 8)]
        assert min(sum(colour[:3]) for colour in ring) < 150
        assert sum(pixel(browser, diagram, round(here[0]), round(here[1]))[:3]) < 3 * 250
    assert browser.problems == []


def test_labels_that_cannot_be_used_are_marked(browser, written, finished_run):
    opened(browser, written)
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    rows = choose_rows(table)
    for use in (0, 1):
        number = int(np.flatnonzero(table["use_teff"][rows] == use)[0])
        browser.run("document.getElementById('removed').checked = true")
        find(browser, str(table["spectrum_id"][rows[number]]))
        browser.until(f"{EXPLORER}.ready === '{table['spectrum_id'][rows[number]]}'")
        row_shown(browser)
        heads = "(row) => row.className + ' ' + row.cells[0].textContent + ': ' + row.cells[3].textContent"
        lines = browser.run(f"Array.from(document.querySelectorAll('#row tr'), {heads})")
        teff = next(line for line in lines if " teff: " in line)
        assert teff == (
            "unusable teff: cannot be used. Effective temperature" if use == 0 else " teff: Effective temperature"
        )
        assert any(line.startswith("unusable e_teff_sys: cannot be used") for line in lines) == (use == 0)
    assert browser.problems == []


def test_status_tells_the_identifiers_in_full(browser, written, finished_run):
    opened(browser, written)
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    rows = choose_rows(table)
    number = int(np.flatnonzero(table["in_final_catalogue"][rows] & (table["gaia_source_id"][rows] > 2**53))[0])
    gaia = str(table["gaia_source_id"][rows[number]])
    find(browser, gaia)
    browser.until(f"{EXPLORER}.ready")
    assert gaia in status(browser)
    find(browser, "no star")
    assert status(browser) == "no star: no spectrum in the explorer has this identifier or designation."
    other = int(np.flatnonzero(table["in_final_catalogue"][rows])[-1])
    browser.run(f"delete {EXPLORER}.ready")
    find(browser, table["designation"][rows[other]])
    browser.until(f"{EXPLORER}.ready === '{table['spectrum_id'][rows[other]]}'")
    assert browser.problems == []


def test_keyboard_moves_from_star_to_star(browser, written, finished_run):
    opened(browser, written)
    browser.run("document.getElementById('kiel').focus()")
    browser.key("ArrowRight")
    browser.until(f"{EXPLORER}.ready")
    moved = 0
    for key, axis, way in (("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowDown", 1, 1), ("ArrowUp", 1, -1)):
        before = inside_place(browser, "kiel", f"stargapReport.index({EXPLORER}.chosen)")
        browser.key(key)
        browser.until(f"{EXPLORER}.ready")
        after = inside_place(browser, "kiel", f"stargapReport.index({EXPLORER}.chosen)")
        assert way * (after[axis] - before[axis]) >= 0
        moved += after != before
    assert moved >= 2  # a star at an edge has none beyond it
    assert browser.problems == []


def test_spectra_and_diagrams_zoom_and_move(browser, written):
    opened(browser, written)
    for name, ends in (("fit", "stargapSpectrum.plots.fit"), ("kiel", "stargapExplorer.diagrams.kiel.plot")):
        scale = f"[{ends}.scales.x.min, {ends}.scales.x.max]"
        whole = browser.run(scale)
        browser.run(f"document.getElementById('{name}').focus()")
        browser.key("+")
        browser.until(f"{ends}.scales.x.max < {whole[1]}")
        middle, width = np.mean(whole), whole[1] - whole[0]
        np.testing.assert_allclose(browser.run(scale), [middle - 0.4 * width, middle + 0.4 * width])
        if name == "fit":
            used = browser.run(f"[{ends}.scales.x, {ends}.scales.y].map((one) => [one.min, one.max])")
            seen = browser.run("stargapExplorer.spectrum()")
            inside = [
                value for wave, *both in zip(seen["wave"], seen["observed"], seen["model"], strict=True)
                for value in both if value is not None and used[0][0] <= wave <= used[0][1]
            ]  # fmt: skip
            assert used[1][0] < min(inside)  # all that is in view is seen
            assert used[1][1] > max(inside)
            browser.key("ArrowRight")
            browser.until(f"{ends}.scales.x.min > {middle - 0.39 * width}")
            for other in ("flux", "residual"):  # the panels of one spectrum show the same wavelengths
                assert browser.run(f"stargapSpectrum.plots.{other}.scales.x.min") == browser.run(scale)[0]
        browser.key("0")
        browser.until(f"{ends}.scales.x.max === {whole[1]}")
    # a box that is dragged is what is shown; the click that ends it chooses no star
    at, chosen = place(browser, "kiel", 0), browser.run(f"{EXPLORER}.chosen")
    before = browser.run("stargapExplorer.diagrams.kiel.view")
    for kind, x, y in (("mousePressed", 0, 0), ("mouseMoved", 40, 40), ("mouseReleased", 40, 40)):
        place_now = {"x": at[0] + x, "y": at[1] + y}
        browser.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place_now)
    after = browser.run("stargapExplorer.diagrams.kiel.view")
    assert after["x"][1] - after["x"][0] < 0.3 * (before["x"][1] - before["x"][0])
    assert after["y"][1] - after["y"][0] < 0.3 * (before["y"][1] - before["y"][0])
    assert browser.run(f"{EXPLORER}.chosen") == chosen
    assert browser.problems == []


def test_spectra_that_a_cut_removes_are_shown_on_request(browser, written, finished_run):
    opened(browser, written)
    table = read_columns(finished_run / "catalogue/spectra.parquet")
    rows = choose_rows(table)
    removed = np.flatnonzero(~table["in_final_catalogue"][rows])
    if not len(removed):
        pytest.skip("this survey has none")
    wanted = str(table["spectrum_id"][rows[removed[0]]])
    browser.run("document.getElementById('removed').click()")
    assert shown_after_click(browser, "kiel", *place(browser, "kiel", removed[0])) == wanted
    assert "not in the final catalogue" in status(browser)


def test_on_a_narrow_screen_nothing_is_cut_off_or_squeezed(browser, written, finished_run):
    browser.size(390, 800)
    try:
        opened(browser, written)
        browser.click(*place(browser, "kiel", 0))
        browser.until(f"{EXPLORER}.ready")
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        row_shown(browser)
        cells = browser.run("Array.from(document.querySelectorAll('#row tr'), (row) => row.cells[1].clientHeight)")
        assert len(cells) > 20
        assert np.median(cells) < 60, "a number stands on one line"
        assert browser.run("document.getElementById('chosen').clientHeight") < 800
        # every number of the tables is on one line, and the way to it is a scroll
        tall = browser.run(
            "Array.from(document.querySelectorAll('main td.number'))"
            ".filter((cell) => getComputedStyle(cell).whiteSpace !== 'nowrap').length"
        )
        assert tall == 0
    finally:
        browser.size(1280, 900)


def test_printed_it_has_few_pages_without_what_only_a_screen_can_do(browser, written):
    opened(browser, written)
    browser.run("document.querySelectorAll('figure img').forEach((img) => { img.style.width = '100%'; })")
    printed = base64.b64decode(browser.send("Page.printToPDF", printBackground=True)["data"])
    assert 3 < len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    browser.send("Emulation.setEmulatedMedia", media="print")
    hidden = "['contents', 'explorer'].every((id) => document.getElementById(id).offsetParent === null)"
    assert browser.run(hidden)
    browser.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("width", [1400, 390])
def test_contents_stay_and_mark_the_section_that_is_read(browser, written, width):
    browser.size(width, 800)
    try:
        opened(browser, written)
        for name in ("truth", "headlines", "cuts", "run"):
            browser.run(f"document.querySelector('#contents a[href=\"#{name}\"]').click()")
            browser.until("document.querySelectorAll('#contents a[aria-current]').length === 1")
            marked = "document.querySelector('#contents a[aria-current]')"
            browser.until(f"{marked} !== null && {marked}.hash === '#{name}'")
            box = browser.run(f"(() => {{ const b = {marked}.getBoundingClientRect(); return [b.top, b.right]; }})()")
            assert 0 <= box[0] < 800
            assert box[1] <= width
            top = browser.run(f"document.getElementById('{name}').getBoundingClientRect().top")
            assert top > -1 or name == "run", "a section is not hidden by the contents"
    finally:
        browser.size(1280, 900)


def luminance(colour):
    """Relative luminance of a CSS colour rgb(r, g, b) (WCAG 2.1)."""
    parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "cleaning.html"])
def test_text_stands_out_in_either_scheme(browser, written, scheme, name):
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        browser.open(written.parent / name)
        shades = "(node) => { const style = getComputedStyle(node); return [style.color, style.backgroundColor]; }"
        paper = luminance(browser.run(f"({shades})(document.body)")[1])
        assert (paper > 0.9) == (scheme == "light")
        for colour, behind in browser.run(f"Array.from(document.querySelectorAll('p, a, td, th, li, pre'), {shades})"):
            under = paper if behind == "rgba(0, 0, 0, 0)" else luminance(behind)
            low, high = sorted((luminance(colour), under))
            assert (high + 0.05) / (low + 0.05) >= 4.5
        pictures = browser.run(f"Array.from(document.querySelectorAll('main img'), {shades})")
        assert pictures
        assert scheme == "light" or all(behind == "rgb(255, 255, 255)" for _, behind in pictures)
    finally:
        browser.send("Emulation.setEmulatedMedia", features=[])


def test_missing_file_is_told(browser, written):
    (written.parent / "rows").rename(written.parent / "rows-away")
    try:
        browser.open(written)
        browser.until("document.getElementById('status').textContent.includes('rows/000.js is missing')")
    finally:
        (written.parent / "rows-away").rename(written.parent / "rows")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A catalogue of 50,000 spectra, of which 2,000 have one that says which it is in its first pixels."""
    folder = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(5)
    teff = random.uniform(2900, 4200, MANY)
    table = {column.name: np.full(MANY, column.null) for column in CATALOGUE if column.dtype not in ("bool", "str")}
    table |= {column.name: np.full(MANY, "", dtype=object) for column in CATALOGUE if column.dtype == "str"}
    table |= {
        "spectrum_id": 2**60 + random.permutation(MANY),
        "gaia_source_id": 2**61 + np.arange(MANY),
        "teff": teff,
        "logg": 6.5 - teff / 2400 + random.normal(0, 0.08, MANY),
        "m_h": random.normal(-0.2, 0.3, MANY),
        "bp_rp": 5.5 - teff / 1000 + random.normal(0, 0.05, MANY),
        "m_g": 20.0 - teff / 300 + random.normal(0, 0.4, MANY),
        "snr_r": random.uniform(5, 100, MANY),
        "in_final_catalogue": random.random(MANY) < 0.95,
        "flags": np.zeros(MANY, dtype=np.int64),
        "sample_flags": np.zeros(MANY, dtype=np.int64),
        "clean_flags": np.zeros(MANY, dtype=np.int64),
        "cuts": np.zeros(MANY, dtype=np.int64),
    }
    (folder / "catalogue").mkdir()
    write_table(table, folder / "catalogue/spectra.parquet", schema=CATALOGUE, provenance={"creator": "test"})
    stars = {name: values for name, values in table.items() if name in {column.name for column in STARS}}
    rest = {c.name: np.full(MANY, c.null if c.dtype != "bool" else False, dtype=object if c.dtype == "str" else None)
            for c in STARS if c.name not in stars}  # fmt: skip
    write_table(stars | rest, folder / "catalogue/stars.parquet", schema=STARS, provenance={})
    (folder / "catalogue/precision.json").write_text('{"version": "0", "errors": {}}')
    return folder, table


@contextmanager
def in_this_process(function, *arguments):
    """Stand in for `alongside`: another process would not see what a test has changed."""
    result = cache(partial(function, *arguments))
    yield result
    result()


@pytest.mark.slow
def test_fifty_thousand_stars(browser, many, tmp_path, monkeypatch):
    folder, table = many
    wave = 6000.5 + 2.0 * np.arange(1450)

    def marked(_, spectrum_id):
        values = np.tile(np.sin(wave / 50).astype(np.float32), (len(spectrum_id), 1))
        values[:, 0] = (spectrum_id - 2**60) / MANY
        number = np.ones(len(spectrum_id))
        raw = RawSpectra.empty(len(spectrum_id), 2901)
        unknown = np.ones((len(spectrum_id), 4))
        return FittedSpectra(wave, values, values, values, number, unknown, None, None, None, raw)

    monkeypatch.setattr("stargap.validation.report.spectra.fit_again", marked)
    monkeypatch.setattr("stargap.validation.report.page.alongside", in_this_process)
    monkeypatch.setattr(figures, "FIGURES", ())
    page = write_report(folder, output=tmp_path)
    began = time.monotonic()
    opened(browser, page)
    assert browser.run(f"{EXPLORER}.loaded") == str(MANY)
    assert time.monotonic() - began < 10
    rows = choose_rows(table)
    ids, final = table["spectrum_id"][rows], table["in_final_catalogue"][rows]
    # pixels of every star from those of two
    corners = [inside_place(browser, "kiel", i) for i in range(2)]
    teff, logg = (table[name][rows].astype(np.float32).astype(float) for name in ("teff", "logg"))
    x, y = (
        np.polynomial.Polynomial.fit(values[:2], [corner[axis] for corner in corners], 1)(values)
        for axis, values in enumerate((teff, logg))
    )
    random = np.random.default_rng(1)
    for only in (True, False):
        if not only:
            browser.run("document.getElementById('only').click()")
        pickable = np.flatnonzero(final & ((np.arange(MANY) < SHOWN) | (not only)))
        for _ in range(4):
            at = round(float(random.uniform(100, 500))), round(float(random.uniform(60, 300)))
            far = np.hypot(x[pickable] - at[0], y[pickable] - at[1])
            origin = np.subtract(place(browser, "kiel", 0), corners[0])
            began = time.monotonic()
            found = shown_after_click(browser, "kiel", *(origin + at))
            assert time.monotonic() - began < 3
            # a click is rounded to whole pixels of the canvas
            near = ids[pickable[far <= far.min() + 1.5]]
            assert int(found) in near
            number = int(np.flatnonzero(ids == int(found))[0])
            first = browser.run("stargapExplorer.spectrum() && stargapExplorer.spectrum().observed[0]")
            if number < SHOWN:
                assert first == pytest.approx((int(found) - 2**60) / MANY, abs=1e-4)
            else:
                assert first is None
            assert row_shown(browser)["spectrum_id"] == found
    redraw = browser.run(
        "(async () => { const start = performance.now(); document.getElementById('colour').value = 'snr_r'; "
        "await stargapExplorer.redrawAll(); return performance.now() - start; })()"
    )
    print(f"redraw of {MANY} points: {redraw:.0f} ms")
    assert redraw < 2000
    assert browser.problems == []
