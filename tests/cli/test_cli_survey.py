"""Commands of a survey run: what they print, write, refuse and exit with."""

from __future__ import annotations

import tomllib

import pyarrow.parquet as pq
import pytest
from helpers.reports import quick_reports

from stargap.cli.main import main
from stargap.mock.write import write_survey
from stargap.pipeline.engine import StageState
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.stages import STAGES
from stargap.settings import read_settings_as


def said(capsys, *words):
    """What a command prints, and its exit code."""
    code = 0
    try:
        with quick_reports():
            main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    told = capsys.readouterr()
    return told.out, told.err, code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_are_printed_with_what_each_means_and_read_back(here, capsys):
    out, _, code = said(capsys, "settings")
    assert code == 0
    assert "Largest Gaia RUWE (section 2.1, cut 2)" in " ".join(out.split())
    keys = [line for line in out.splitlines() if line and not line.startswith(("#", "["))]
    explained = [line for line in out.splitlines() if line.startswith("# ")]
    assert len(explained) >= len(keys)
    out, _, code = said(capsys, "settings", "--write", "survey.toml")
    assert (code, "stargap run survey.toml" in out) == (0, True)
    assert read_settings_as(SurveySettings, here / "survey.toml") == SurveySettings()
    assert said(capsys, "settings", "--write", "survey.toml")[1:] == (
        "stargap: survey.toml exists: name a new file\n",
        2,
    )


def test_every_field_of_every_table_is_explained(here, capsys):
    out, _, _ = said(capsys, "settings")
    lines = out.splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            assert lines[number - 1].startswith("#"), f"{line} has no explanation"
    assert tomllib.loads(out)["measure"]["preset"] == "stargap"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[sampel]\n", "unknown key 'sampel'; did you mean 'sample'?"),
        ("[sample]\nlargest_rue = 1.2\n", "unknown key 'sample.largest_rue'; did you mean 'sample.largest_ruwe'?"),
        (
            "[transfer.training]\nstar = 500\n",
            "unknown key 'transfer.training.star'; did you mean 'transfer.training.stars'?",
        ),
        ('[transfer]\nuse = "model"\n', 'use = "model" and model, the path of a transfer, go together'),
        ("[emulator]\nmodel = 'a'\ngrid = 'b'\n", "model and grid are both given: choose one"),
        ("[ingest]\nshard_rows = 0\n", "ingest.shard_rows: Input should be greater than or equal to 1"),
    ],
)
def test_bad_settings_name_the_nearest_key_or_the_reason(here, capsys, text, reason):
    (here / "survey.toml").write_text(text)
    for words in (("run", "survey.toml"), ("settings", "survey.toml"), ("stage", "sample", "survey.toml")):
        _, error, code = said(capsys, *words)
        assert code == 2
        assert reason in error


def test_a_mock_survey_is_run_to_its_table_and_told_of(here, capsys):
    out, _, code = said(capsys, "mock", "--stars", 12, "--store", "--repeats", 0, "-o", "sim")
    assert (code, "stargap run sim/survey.toml" in out) == (0, True)
    out, _, code = said(capsys, "run", "sim/survey.toml", "--workers", 1)
    assert code == 0
    assert "12" in out
    assert "table " in out
    assert "818,686" in out, "the cuts stand beside the paper's"
    assert len(pq.read_table(here / "sim/run/measured.parquet")) == 12
    assert (here / "sim/run/cleaning.html").exists()
    assert "report    sim/run/report/index.html" in out
    assert "Against the truth" in (here / "sim/run/report/index.html").read_text()
    out, _, code = said(capsys, "run", "sim/survey.toml", "--status")
    assert out.count("done") == len(STAGES)
    out, _, code = said(capsys, "stage", "clean", "sim/survey.toml", "--workers", 1)
    assert "rejected" in out
    out, _, code = said(capsys, "report", "sim/survey.toml", "-o", "page", "--spectra", 1)
    assert (code, out) == (0, "report page/index.html\n")
    assert "Against the truth" in (here / "page/index.html").read_text(), "the settings name the truth"
    out, _, code = said(capsys, "run", "sim/survey.toml", "--status")
    assert out.count("done") == len(STAGES), "a report elsewhere is not the run's"
    out, _, code = said(capsys, "catalogue", "sim/survey.toml", "--formats", "vot", "csv", "--paper")
    assert code == 0
    assert "538,107" in out
    folder = here / "sim/run/catalogue"
    for name in ("spectra.fits", "stars.parquet", "stars.vot", "stars.csv", "table1.vot"):
        assert (folder / name).exists()
    out, _, code = said(capsys, "show", folder / "spectra.fits", "--id", 3)
    assert (code, "spectrum_id" in out, "teff" in out) == (0, True, True)
    assert said(capsys, "validate", folder / "stars.vot")[2] == 0
    out, _, code = said(capsys, "compare", folder / "spectra.parquet", "sim/truth.parquet", "--reference", "truth")
    assert (code, "simulated" in out, "Teff" in out) == (0, True, True)
    out, _, code = said(capsys, "compare", folder / "spectra.parquet", "sim/apogee.csv", "--reference", "apogee-dr17")
    assert (code, "simulated" in out) == (0, True)
    assert (pq.read_table(folder / "stars.parquet", columns=["vb_flag"])["vb_flag"].to_numpy() >= 0).all()
    _, error, code = said(capsys, "compare", folder / "spectra.parquet", "sim/truth.parquet")
    assert (code, "--reference NAME or --settings FILE" in error) == (2, True)
    assert said(capsys, "validate", here / "sim/truth.parquet")[2] == 2


def test_pieces_that_failed_are_named_and_the_exit_code_is_3(here, capsys, monkeypatch):
    failed = StageState("measure", "fit", "failed", 1, 2, 10, 1.0, {}, {1: "its process died, twice"})
    monkeypatch.setattr("stargap.pipeline.engine.run_survey", lambda *given, **options: [failed])
    (here / "survey.toml").write_text('[input]\nspectra = ["a.fits"]\n')
    _, error, code = said(capsys, "run", "survey.toml", "--workers", 1)
    assert code == 3
    assert "failed: measure shard 1: its process died, twice" in error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--shard", "3"), "write i/N, such as 3/40"),
        (("--shard", "5/4"), "i/N with i from 1 to N"),
        (("--until", "cleaning"), "no stage 'cleaning'"),
        (("--workers", "0"), "--workers is 0"),
        (("--dask", "tcp://127.0.0.1:1"), "no scheduler answers"),
    ],
)
def test_requests_that_make_no_sense_are_one_line_and_exit_2(here, capsys, monkeypatch, words, reason):
    if "--dask" in words:
        distributed = pytest.importorskip("distributed")
        client = distributed.Client
        monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout=timeout / 20))
    (here / "survey.toml").write_text('[input]\nspectra = ["a.fits"]\n')
    _, error, code = said(capsys, "run", "survey.toml", *words)
    assert code == 2
    assert reason in error
    assert error.count("\n") == 1


def test_files_still_to_be_downloaded_are_listed(here, capsys):
    write_survey(here / "sim", 3, seed=1, repeats=0.0)
    paths = sorted((here / "sim/spectra").rglob("*.fits.gz"))
    paths[1].unlink()
    out, _, code = said(capsys, "missing", "sim/lamost.csv", "sim/spectra", "-o", "download.csv")
    assert (code, "1 files to download" in out) == (0, True)
    lines = (here / "download.csv").read_text().splitlines()
    assert lines[0] == "obsid,path"
    assert len(lines) == 2
    assert lines[1].endswith(paths[1].name)
