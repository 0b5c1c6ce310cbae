"""Trials on pages: hostile text in everything that a report shows, opened in a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from reliability_runs import Survey
from reliability_trials import Tally

from stargap.tables.columns import CATALOGUE
from stargap.tables.parquet import provenance_of, read_columns
from stargap.tables.read import read_table
from stargap.tables.write import write_table

__all__ = ["hostile_pages"]

CALL = "(window.hit = window.hit || []).push({0})"
PAYLOADS = (
    "<script>CALL</script>",
    "</script><script>CALL</script>",
    "<img src=x onerror='CALL'>",
    '"><svg onload="CALL">',
    "' onmouseover='CALL",
    "</title><script>CALL</script>",
    "</pre></details><iframe srcdoc='<script>parent.CALL</script>'></iframe>",
    "<a href='javascript:CALL'>x</a>",
    "{{{{ CALL }}}}",
    "{{% raw %}}<script>CALL</script>",
    "<!--<script>CALL</script>-->",
    "]]><script>CALL</script>",
    "\\u003cscript\\u003eCALL\\u003c/script\\u003e",
    "&lt;script&gt;CALL&lt;/script&gt;",
    "<meta http-equiv=refresh content='0;url=javascript:CALL'>",
    "<base href='https://example.org/'>",
    "<link rel=stylesheet href='https://example.org/x.css'>",
    "<form action='https://example.org'><input name=x autofocus onfocus='CALL'></form>",
    "`-${{CALL}}-`",
    "');CALL;//",
    "\u2028CALL\u2029",
    "<style>@import 'https://example.org/x.css';</style>",
    "<template><script>CALL</script></template><details open ontoggle='CALL'>",
    "\x00<script>CALL</script>\x1b[31m",
)
PLACES = ("title", "authors", "settings", "provenance", "training data of a model", "cuts", "cleaning", "comparison",
          "designation", "subclass", "release", "version")  # fmt: skip
"""Where the texts are put."""
INTRUDERS = """
[...document.querySelectorAll("*")].filter((one) =>
  [...one.attributes].some((a) => a.name.startsWith("on") || /^\\s*(javascript|https?):/i.test(a.value))
  || ["IFRAME", "BASE", "FORM", "SVG", "META"].includes(one.tagName.toUpperCase())
     && !(one.id === "find-form" || one.hasAttribute("charset") || one.name === "viewport")).length
"""
"""Elements of a page that its template does not have: with handlers, addresses of servers, or of a foreign kind."""


def browser(profile: Path) -> Any:
    """Return a page of a headless Chromium, None where there is no browser."""
    path = Path(__file__).parents[2] / "tests" / "validation" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Page(profile) if any(map(shutil.which, module.NAMES)) else None


def hostile_pages(survey: Survey, work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Put texts that try to run a script, or to load something, into a run, and open its report."""
    from stargap.validation.report import figures
    from stargap.validation.report.page import write_report

    tally = Tally("hostile texts in pages", "shown as text; no script runs, nothing is loaded, nothing is added")
    chromium = browser(work / "profile")
    payloads = [text.replace("CALL", CALL).format(number) for number, text in enumerate(PAYLOADS[:tries])]
    folder = work / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(survey.run, folder, copy_function=os.link)
    figures_of_a_report, figures.FIGURES = figures.FIGURES, ()
    try:
        for place in PLACES:
            _spoil(folder, place, payloads)
        page = write_report(folder, output=work / "pages-report", spectra=0)
    finally:
        figures.FIGURES = figures_of_a_report
    found = _opened(chromium, page) if chromium is not None else _as_text(page)
    for number in range(len(payloads)):
        for place in PLACES:
            tally.add(f"text {number} in {place}: {found}" if found else "")
    tally.note = "in Chromium" if chromium is not None else "in an HTML parser: no browser is installed"
    for one in (folder, page.parent):
        shutil.rmtree(one)
    return [tally]


def _spoil(folder: Path, place: str, payloads: list[str]) -> None:
    """Write every text into one place of a run; into every row of a column."""
    text = "\n".join(payloads)
    table = folder / "catalogue" / "spectra.parquet"
    if place in ("title", "authors", "provenance"):
        provenance = provenance_of(table)
        about = json.loads(provenance["catalogue_settings"])
        if place == "provenance":
            provenance["creator"] = text
        else:
            about[place] = text
        _rewrite(table, {}, provenance | {"catalogue_settings": json.dumps(about)})
    elif place == "settings":
        _replace(
            folder / "survey.toml", (folder / "survey.toml").read_text() + "".join(f"# {one}\n" for one in payloads)
        )
    elif place == "training data of a model":
        _edit(folder / "emulator" / "emulator.json", lambda card: card | {"training_data": text, "kind": text})
    elif place == "cuts":
        _edit(folder / "catalogue" / "cuts.json", lambda cuts: cuts | {"notes": payloads})
    elif place == "cleaning":
        dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
        pictures = [{"title": one, "reason": one, "png": dot} for one in payloads]
        _edit(folder / "cleaning.json", lambda page: page | {"pictures": pictures})
    elif place == "comparison":
        sheet = {"title": text, "header": payloads, "rows": [payloads], "left": 1}
        path = folder / "compare" / "hostile" / "comparison.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"title": text, "sheets": [sheet], "notes": payloads}))
    else:
        rows = len(read_columns(table, [place])[place])
        _rewrite(table, {place: np.full(rows, text, dtype=object)}, provenance_of(table))


def _rewrite(table: Path, changed: dict[str, Any], provenance: dict[str, str]) -> None:
    columns = read_columns(table) | changed
    known = {column.name: columns[column.name] for column in CATALOGUE if column.name in columns}
    write_table(known, table, schema=CATALOGUE, provenance=provenance)


def _edit(path: Path, change: Any) -> None:
    _replace(path, json.dumps(change(json.loads(path.read_text()))))


def _replace(path: Path, text: str) -> None:
    path.unlink()  # it is shared with the run that it was copied from
    path.write_text(text, encoding="utf-8")


def _opened(chromium: Any, page: Path) -> str:
    """Return what the texts did to a page in a browser, with every row of its explorer shown once."""
    try:
        _would_notice(chromium, page.with_name("control.html"))
        chromium.problems.clear()
        chromium.open(page)
        chromium.until("document.getElementById('explorer').dataset.loaded")
        chromium.run("document.getElementById('columns').open = true")
        ids = read_table(page.parents[1] / "pages" / "catalogue" / "spectra.parquet", ["spectrum_id"])["spectrum_id"]
        for spectrum_id in ids.tolist():
            chromium.run(f"document.getElementById('find').value = '{spectrum_id}'")
            chromium.run("document.querySelector('#find-form button').click()")
            chromium.run("new Promise((done) => setTimeout(done, 30))")
        hit, added = chromium.run("JSON.stringify(window.hit || [])"), chromium.run(INTRUDERS)
        if hit != "[]":
            return f"scripts ran: {hit}"
        if added:
            return f"{added} elements that the page does not have"
        return f"the browser met {chromium.problems[0]}" if chromium.problems else ""
    finally:
        chromium.close()


def _would_notice(chromium: Any, page: Path) -> None:
    """Open a page in which a text is an element, and see that its script is noticed."""
    page.write_text(f"<!doctype html><title>x</title>{PAYLOADS[2].replace('CALL', CALL).format(0)}", encoding="utf-8")
    chromium.open(page)
    chromium.until("(window.hit || []).length === 1")
    assert chromium.run(INTRUDERS) == 1
    page.unlink()


def _as_text(page: Path) -> str:
    """Return what an HTML parser finds of the texts as elements."""
    from html.parser import HTMLParser

    found = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("iframe", "base", "svg") or any(name.startswith("on") for name, _ in attrs):
                found.append(tag)

    Elements().feed(page.read_text(encoding="utf-8"))
    return f"elements that the page does not have: {', '.join(found)}" if found else ""
