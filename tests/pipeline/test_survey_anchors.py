"""A run whose transfer is tied to its own photometry and to a table of known labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from stargap.pipeline.engine import run_survey
from stargap.pipeline.model_choice import after_transfer, transfer_settings
from stargap.pipeline.settings import SurveySettings
from stargap.tables.read import read_table

SETTINGS = {"directions": 1, "folds": 3}


@pytest.fixture(scope="module")
def known(survey, tmp_path_factory):
    """Labels of every star of the survey as a literature table gives them, 20 K too warm."""
    truth = read_table(survey / "truth.parquet", ["source_id", "teff", "logg", "m_h", "kind"])
    _, rows = np.unique(truth["source_id"], return_index=True)
    rows = [row for row in rows if truth["source_id"][row] > 0 and truth["kind"][row] == "dwarf"]
    path = tmp_path_factory.mktemp("known") / "benchmarks.csv"
    lines = [f"{truth['source_id'][r]},{truth['teff'][r] + 20},{truth['logg'][r]},{truth['m_h'][r]}" for r in rows]
    path.write_text("gaia_source_id,teff,logg,m_h\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def anchored(asked, known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchored") / "run"
    transfer = {
        "use": "train", "architecture": "anchored", "anchors": [str(known)], "photometric_anchors": 10,
        "anchored": SETTINGS, "prior": {"draws": 1000},
    }  # fmt: skip
    states = run_survey(asked(folder, transfer=transfer), until="transfer")
    assert {state.state for state in states if state.stage != "measure"} >= {"done"}
    return folder


def test_the_transfer_is_made_of_the_survey_s_own_stars(anchored):
    card = json.loads((anchored / "transfer" / "transfer.json").read_text())
    assert card["kind"] == "anchored-transfer"
    assert card["scores"]["anchors"] > 20
    assert card["scores"]["left_out"] > card["scores"]["anchors"]  # photometry beside the literature
    lines = (anchored / "transfer" / "cross-validation.csv").read_text().splitlines()
    assert len(lines) == 1 + card["scores"]["left_out"]


def test_anchors_are_among_what_the_transfer_follows_from(known, tmp_path):
    transfer = {"use": "train", "anchors": [str(known)]}
    settings = SurveySettings(transfer=transfer)
    assert {"sample", "photometry"} <= set(after_transfer(settings))
    before = transfer_settings(settings)
    copy = tmp_path / "benchmarks.csv"
    copy.write_bytes(known.read_bytes())
    assert transfer_settings(SurveySettings(transfer=transfer | {"anchors": [str(copy)]})) == before
    copy.write_text(known.read_text() + "1,3300,4.9,0\n")
    assert transfer_settings(SurveySettings(transfer=transfer | {"anchors": [str(copy)]})) != before
    assert "photometry" not in after_transfer(SurveySettings(transfer={"use": "train"}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"use": "train", "architecture": "anchored"}, "needs photometric_anchors, a number of stars, or anchors"),
        ({"use": "none", "photometric_anchors": 10}, 'photometric_anchors is only for use = "train"'),
        ({"use": "train", "architecture": "reference", "photometric_anchors": 9}, "photometric_anchors is only for"),
        ({"use": "train", "anchored": {"folds": 3}}, 'anchored is only for architecture = "anchored"'),
    ],
)
def test_settings_that_would_change_nothing(given, says):
    with pytest.raises(ValidationError, match=says):
        SurveySettings(transfer=given)
