"""The documents that are made from code are up to date."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from stargap.transfer.anchored.model import lamost_transfer

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("docs/make_*.py"), *ROOT.glob("docs/results/make_*.py"), *ROOT.glob("benchmarks/*.py")])


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch):
    for folder in ("docs", "docs/results"):
        monkeypatch.syspath_prepend(ROOT / folder)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_starts(script, monkeypatch, capsys):
    """All that it imports is there, and it says how it is used."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_leave_one_out_baselines_leave_their_own_star_out():
    pages = runpy.run_path(str(ROOT / "docs/results/pages.py"))
    line, constant = pages["leave_one_out_line"], pages["leave_one_out_constant"]
    rng = np.random.default_rng(5)
    x, y = rng.random(12), rng.random(12)
    for star in range(12):
        others = np.arange(12) != star
        slope, start = np.polyfit(x[others], y[others], 1)
        assert line(x, y)[star] == pytest.approx(start + slope * x[star])
        assert constant(y)[star] == pytest.approx(y[others].mean())
    assert np.isnan(line([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])).all()
    assert np.isnan(line([1.0, 2.0, np.nan], [1.0, 2.0, 3.0])).all()
    np.testing.assert_allclose(constant([0.1, np.nan, 0.3]), [0.3, np.nan, 0.1])


def test_columns_page_is_what_the_schema_says():
    page = runpy.run_path(str(ROOT / "docs/make_columns.py"))["page"]()
    assert (ROOT / "docs/columns.md").read_text(encoding="utf-8") == page, "run: python docs/make_columns.py"


def test_page_of_lines_has_the_definitions_of_the_code():
    definitions = runpy.run_path(str(ROOT / "docs/make_lines.py"))["definitions"]()
    assert definitions in (ROOT / "docs/lines.md").read_text(encoding="utf-8"), "run: python docs/make_lines.py"


def test_every_command_is_in_the_readme_or_on_the_page_of_surveys():
    from stargap.cli.main import app

    readme = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/survey.md"))
    commands = [name for name in app if not name.startswith("-")]
    survey = {"run", "stage", "settings", "mock", "missing"}
    tables = {"gaia", "extinction", "photometry", "catalogue", "report", "compare", "binaries", "show", "validate"}
    assert set(commands) == {"measure", "demo", "view", "emulator", "train", "completion", "limits"} | survey | tables
    for command in commands:
        assert f"stargap {command}" in readme or f"make {command}" in readme


def command_lines():
    """Return every line of a block of commands in README and docs that calls stargap, with its page."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|sh|shell|console)?\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*bin/)?stargap (.*)", line.strip())
                if command:
                    found.append(pytest.param(command[1], id=f"{page.relative_to(ROOT)}: {command[1]}"[:80]))
    return found


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_of_the_documents_is_understood(line):
    from stargap.cli.main import app

    words = shlex.split(re.split(r"[|>;&]", line)[0], comments=True)
    if "--help" not in words and "--version" not in words:
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_every_relative_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def test_the_validation_page_says_worse_where_it_is():
    """A verdict needs two standard errors, and a number that the paper lacks gets none."""
    from stargap.statistics import compare

    line = runpy.run_path(str(ROOT / "docs/results/make_validation.py"))["Line"]
    found = compare(np.random.default_rng(0).normal(0.5, 1.0, 2000), np.zeros(2000))
    for paper, verdict in ((0.9, "larger"), (1.0, "same"), (1.1, "smaller"), (np.nan, "")):
        assert line("x", 0.0, paper, found, 1, "").verdict == verdict
    assert line("x", 0.3, 1.0, found, 1, "").biased
    assert not line("x", -0.5, 1.0, found, 1, "").biased
    few = compare([1.0, 2.0], [0.0, 0.0])
    assert line("x", 0.0, 0.1, few, 1, "").verdict == ""


def test_the_model_card_is_of_the_model_that_ships_and_stands_in_package_and_docs():
    card = (ROOT / "docs/model-lamost.md").read_text(encoding="utf-8")
    assert card == (ROOT / "src/stargap/models/transfer-lamost.md").read_text(encoding="utf-8")
    shipped = lamost_transfer().card
    assert f"model {shipped.sha256[:16]}" in card
    assert f"Emulator {shipped.emulator.sha256[:16]}" in card
    page = (ROOT / "docs/results/real-stars.md").read_text(encoding="utf-8")
    assert f"model {shipped.sha256[:16]}" in page
