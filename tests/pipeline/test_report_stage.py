"""The report as a stage: made once, again when what it shows changed, and never in the way of the rest of a run."""

from __future__ import annotations

import hashlib
import shutil

import pyarrow.parquet as pq
import pytest
from helpers.reports import quick_reports
from pydantic import ValidationError

import stargap.validation.report.page as report
from stargap.errors import UsageError
from stargap.pipeline import engine, freshness, stages
from stargap.pipeline.engine import run_survey, stage_states
from stargap.pipeline.folder import Run
from stargap.pipeline.settings import SurveySettings
from stargap.settings import example_toml, read_settings_as
from stargap.validation.report.settings import ReportSettings

COMPARED = '{"title": "Comparison with APOGEE", "sheets": [], "notes": []}'


@pytest.fixture
def folder(whole, tmp_path):
    """A finished run that has no report yet."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def told(monkeypatch):
    """What reports are asked for, each made in no time."""
    calls = []

    def write(folder, **given):
        calls.append(given)
        (folder / "report/figures").mkdir(parents=True, exist_ok=True)
        (folder / "report/figures/09-kiel.png").write_bytes(b"drawn")
        (folder / "report/index.html").write_text(f"page {len(calls)}")
        return folder / "report/index.html"

    monkeypatch.setattr(report, "write_report", write)
    return calls


def products(folder):
    """When all but the report was written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "report" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in paths if path.name != "survey.toml"}


def report_of(states):
    return next(state for state in states if state.stage == "report")


def test_a_run_ends_with_its_report_and_makes_it_once(asked, folder, survey):
    before = products(folder)
    settings = asked(folder, report={"truth": survey / "truth.parquet", "spectra": 2})
    with quick_reports():
        state = report_of(run_survey(settings))
    lines = pq.read_metadata(folder / "measured.parquet").num_rows
    assert (state.state, state.rows) == ("done", lines)
    assert state.counts["figures"] == len(list((folder / "report/figures").glob("*.png"))) > 5
    page = (folder / "report/index.html").read_text()
    assert "Against the truth" in page
    assert '<th scope="row">catalogue</th>' in page
    assert '<th scope="row">report</th>' not in page, "it cannot tell its own time"
    made = {path: path.stat().st_mtime_ns for path in (folder / "report").rglob("*")}
    assert report_of(run_survey(settings)).state == "done"
    assert {path: path.stat().st_mtime_ns for path in (folder / "report").rglob("*")} == made
    assert products(folder) == before
    # the same once more, byte for byte, although the receipt of the report is there now
    content = {path: path.read_bytes() for path in made if path.is_file()}
    with quick_reports():
        run_survey(settings, since="report")
    assert {path: path.read_bytes() for path in made if path.is_file()} == content


def test_it_is_made_again_when_what_it_shows_changed_and_nothing_else_is(asked, folder, survey, tmp_path, told):
    before = products(folder)
    truth = tmp_path / "truth.parquet"
    shutil.copy(survey / "truth.parquet", truth)
    steps = [
        ({}, lambda: None),
        ({"spectra": 7}, lambda: None),
        ({"spectra": 7, "truth": truth}, lambda: None),
        ({"spectra": 7, "truth": truth}, lambda: truth.write_bytes(truth.read_bytes() + b" ")),
        ({"spectra": 7}, lambda: (folder / "report/figures/09-kiel.png").unlink()),
    ]
    for number, (given, change) in enumerate(steps, start=1):
        change()
        settings = asked(folder, report=given)
        if number > 1:
            assert report_of(stage_states(Run(folder, settings.absolute()))).state == "waiting"
        for _ in range(2):
            assert {state.state for state in run_survey(settings)} == {"done"}
            assert len(told) == number
    assert (told[1]["spectra"], told[2]["truth"]) == (7, truth)
    (folder / "compare/apogee").mkdir(parents=True)
    (folder / "compare/apogee/comparison.json").write_text(COMPARED)
    run_survey(settings)
    assert len(told) == len(steps) + 1
    shutil.rmtree(folder / "compare")
    assert products(folder) == before


def test_another_catalogue_has_another_report(asked, folder, told):
    run_survey(asked(folder, report={}))
    run_survey(asked(folder, report={}, catalogue={"title": "another"}), since="catalogue")
    assert len(told) == 2


def test_another_version_makes_another_report_without_a_word(asked, folder, told, monkeypatch):
    run_survey(asked(folder, report={}))
    monkeypatch.setattr(freshness, "__version__", "99.0")
    assert report_of(stage_states(Run(folder, asked(folder, report={}).absolute()))).state == "waiting"
    remade = next(stage for stage in stages.STAGES if stage.remade)
    monkeypatch.setattr(stages, "STAGES", (remade,))
    freshness.refuse_other_settings(Run(folder, asked(folder, report={"seed": 5}).absolute()), again=())


def test_no_report_is_made_where_none_is_wanted_and_parts_leave_it_to_the_gather(asked, folder, told):
    state = report_of(run_survey(asked(folder, report={"skip": True})))
    assert (state.state, state.rows) == ("done", 0)
    settings = asked(folder, report={})
    run_survey(settings, part=(1, 1))
    assert told == []
    run_survey(settings, gather=True)
    assert len(told) == 1
    assert not run_survey(settings, only="report")[-1].failures
    assert len(told) == 1


def test_what_a_report_shows_does_not_change_the_tables(asked, folder):
    one, two = (Run(folder, asked(folder, report=given)) for given in ({}, {"spectra": 1, "skip": True}))
    assert one.provenance() == two.provenance()
    first, second = (pq.read_schema(folder / name).metadata for name in ("measured.parquet", "catalogue/stars.parquet"))
    assert b'"report"' not in first[b"settings"] + second[b"settings"]


def test_a_file_that_is_not_there_is_told_of_before_anything_is_done(asked, tmp_path):
    given = {"comparisons": {"mann": {"table": tmp_path / "mann.csv", "reference": "mann2015"}}}
    with pytest.raises(UsageError, match=r"report: .*mann\.csv: there is no such file"):
        run_survey(asked(tmp_path / "run", report=given))
    assert not (tmp_path / "run").exists()
    run_survey(asked(tmp_path / "run", report=given), until="ingest")
    run_survey(asked(tmp_path / "run", report=given | {"skip": True}), until="sample")


def test_a_file_that_went_away_does_not_hide_how_far_a_run_is(asked, folder, survey, tmp_path, told):
    truth = tmp_path / "truth.parquet"
    shutil.copy(survey / "truth.parquet", truth)
    settings = asked(folder, report={"truth": truth})
    run_survey(settings)
    truth.unlink()
    states = {state.stage: state.state for state in stage_states(Run(folder, settings.absolute()))}
    assert (states["catalogue"], states["report"]) == ("done", "waiting")


def test_a_report_that_fails_leaves_the_catalogue_and_says_why(asked, folder, monkeypatch):
    def fail(*_, **__):
        message = "no room to draw in"
        raise RuntimeError(message)

    monkeypatch.setattr(report, "write_report", fail)
    monkeypatch.setattr(engine, "each_alone", lambda make, jobs: [make(*job) for job in jobs])
    states = {state.stage: state for state in run_survey(asked(folder, report={}))}
    assert states["catalogue"].state == "done"
    assert states["report"].failures == {None: "RuntimeError: no room to draw in, twice"}


def test_its_settings_reach_it(asked, folder, tmp_path, told):
    for name in ("mann.csv", "mine.csv", "pairs.fits", "bright.csv"):
        (tmp_path / name).write_text(name)
    given = {
        "points": 70,
        "seed": 3,
        "binaries": {"pairs": tmp_path / "pairs.fits", "primaries": tmp_path / "bright.csv", "settings": {"m_h": "mh"}},
        "comparisons": {
            "mann": {"table": tmp_path / "mann.csv", "reference": "mann2015"},
            "mine": {"table": tmp_path / "mine.csv", "settings": {"name": "Mine", "key": "id", "columns": {"rv": "v"}}},
        },
    }
    run_survey(asked(folder, report=given))
    (one,) = told
    assert [(path.name, how.name) for path, how in one["comparisons"]] == [
        ("mann.csv", "Mann 2015"),
        ("mine.csv", "Mine"),
    ]
    pairs, primaries, how = one["binaries"]
    assert (pairs.name, primaries.name, how.m_h) == ("pairs.fits", "bright.csv", "mh")
    assert (one["points"], one["seed"], one["truth"]) == (70, 3, None)


# ---- its settings

GIVEN = {
    "truth": "truth.parquet",
    "binaries": {"pairs": "pairs.fits", "primaries": "bright.csv"},
    "comparisons": {
        'of "2020"': {"table": "mine.csv", "settings": {"key": "id", "columns": {"rv": "v"}, "keep": {"q": (0, 1)}}},
        "mann": {"table": "mann.csv", "reference": "mann2015"},
    },
}


def test_settings_survive_toml_and_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = SurveySettings(report=GIVEN)
    (tmp_path / "survey.toml").write_text(example_toml(settings))
    assert read_settings_as(SurveySettings, tmp_path / "survey.toml") == settings
    absolute = settings.absolute().report
    names = ["truth.parquet", "pairs.fits", "bright.csv", "mine.csv", "mann.csv"]
    assert absolute.files == [tmp_path / name for name in names]
    assert absolute.absolute() == absolute
    digest = hashlib.sha256(example_toml(settings.absolute()).encode()).hexdigest()
    (tmp_path / "absolute.toml").write_text(example_toml(settings.absolute()))
    again = read_settings_as(SurveySettings, tmp_path / "absolute.toml")
    assert hashlib.sha256(example_toml(again).encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"comparisons": {"mann": {"table": "m.csv", "reference": "man2015"}}}, "did you mean 'mann2015'"),
        ({"comparisons": {"mann": {"table": "m.csv"}}}, "give reference, the name of ready settings, or settings"),
        ({"comparisons": {"mann": {"reference": "mann2015"}}}, "Field required"),
        ({"binaries": {"pairs": "pairs.fits"}}, "pairs and primaries go together"),
        ({"spectra": -1}, "greater than or equal to 0"),
        ({"truht": "t.parquet"}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense(given, reason):
    with pytest.raises(ValidationError, match=reason):
        ReportSettings(**given)
