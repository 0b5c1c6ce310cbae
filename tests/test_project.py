"""What surrounds the code: how to cite, install, release and join; the same facts everywhere."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITED = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
META = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
RECIPE = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text(encoding="utf-8"))


def test_every_place_says_the_same_of_the_project():
    project = PROJECT["project"]
    home = project["urls"]["Homepage"]
    assert CITED["repository-code"] == META["codeRepository"] == RECIPE["about"]["homepage"] == home
    assert META["license"].endswith(project["license"])
    assert CITED["license"] == RECIPE["about"]["license"] == project["license"]
    assert META["description"] == RECIPE["about"]["summary"] == project["description"]
    assert CITED["version"] == META["version"] == RECIPE["context"]["version"]
    for page in ("CONTRIBUTING.md", ".github/ISSUE_TEMPLATE/config.yml"):
        assert home in (ROOT / page).read_text(encoding="utf-8")


def test_the_recipe_needs_what_the_package_needs():
    other = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    needed = [line.split(" >=") for line in RECIPE["requirements"]["run"]]
    found = {other.get(name, name): version for name, version in needed if name != "python"}
    assert found == dict(one.split(">=") for one in PROJECT["project"]["dependencies"])
    assert set(RECIPE["requirements"]["host"][2:]) == {
        one.split(">=")[0] for one in PROJECT["build-system"]["requires"]
    }


def workflow(name):
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))


def test_workflows_run_what_is_there():
    jobs = workflow("tests.yml")["jobs"]
    assert set(jobs) == {"lint", "tests", "lowest-direct", "docs", "wheel"}
    supported = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported == ["3.11", "3.12", "3.13", "3.14"]
    commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for path in re.findall(r"(?:tests|docs)/[\w/.]+", commands):
        assert (ROOT / path).exists(), path
    for extra in re.search(r'-e "\.\[([\w,]+)\]"', commands)[1].split(","):
        assert extra in PROJECT["project"]["optional-dependencies"]
    for group in re.findall(r"--group (\w+)", commands):
        assert group in PROJECT["dependency-groups"]


def test_a_release_is_by_tag_and_needs_no_password():
    release = workflow("release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}, "YAML reads the key `on` as true"
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "tests"
    assert not any("password" in str(step) for step in publish["steps"])
    assert PROJECT["tool"]["hatch"]["version"]["source"] == "vcs"


def test_links_of_the_readme_work_where_its_files_are_not():
    """What PyPI shows: the substitutions that the build makes leave no relative link."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    for one in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert images
    assert all(target.startswith("https://") for target in targets)
    assert all(any(target.endswith(image) for target in targets if "raw." in target) for image in images)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_forms_for_issues_are_complete(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    assert all(part["attributes"]["label"] for part in content["body"])


def test_the_paper_s_references_are_those_it_names():
    text, references = (ROOT / "paper.md").read_text(encoding="utf-8"), (ROOT / "paper.bib").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} <= set(head)
    named = set(re.findall(r"@([A-Z]\w+)", text))
    assert named == set(re.findall(r"@\w+\{(\w+),", references))
    for section in ("Summary", "Statement of need", "State of the field", "References"):
        assert f"\n# {section}\n" in text
    assert 250 < len(text.split()) < 1200


def test_hooks_before_a_commit_are_those_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = {
        hook["entry"].removeprefix(".venv/bin/") for repo in hooks if repo["repo"] == "local" for hook in repo["hooks"]
    }
    assert entries == {"ruff check", "ruff format", "mypy", "lint-imports"}


def test_the_library_in_our_pages_is_the_one_that_its_author_published():
    folder = ROOT / "src/stargap/validation/report/templates/uplot"
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert str((folder / "LICENSE").relative_to(ROOT)) in PROJECT["project"]["license-files"]
