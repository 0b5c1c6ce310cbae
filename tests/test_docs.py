"""The documents that are made from code are up to date."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_columns_page_is_what_the_schema_says():
    page = runpy.run_path(str(ROOT / "docs/make_columns.py"))["page"]()
    assert (ROOT / "docs/columns.md").read_text(encoding="utf-8") == page, "run: python docs/make_columns.py"


def test_every_command_is_in_the_readme():
    from stargap.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [name for name in app if not name.startswith("-")]
    survey = {"run", "stage", "settings", "mock", "missing"}
    tables = {"gaia", "catalogue", "report", "compare", "binaries", "show", "validate"}
    assert set(commands) == {"measure", "demo", "emulator", "train"} | survey | tables
    for command in commands:
        assert f"stargap {command}" in readme or f"make {command}" in readme


def test_every_relative_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"
