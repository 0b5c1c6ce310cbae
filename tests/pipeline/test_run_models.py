"""Which models a run takes: the transfer for LAMOST by default, and none where it would be wrong."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stargap.flags import Flag
from stargap.pipeline.engine import run_survey
from stargap.pipeline.model_choice import emulator_settings, transfer_settings
from stargap.pipeline.settings import SurveySettings
from stargap.transfer.anchored.model import lamost_transfer


def test_the_default_is_the_transfer_for_lamost_with_its_own_emulator():
    settings = SurveySettings()
    assert settings.transfer.use == "lamost"
    card = lamost_transfer().card
    assert transfer_settings(settings) == {"transfer": {"model": card.sha256}}
    assert emulator_settings(settings) == {"emulator": {"model": card.emulator.sha256}}
    none = SurveySettings(transfer={"use": "none"})
    assert transfer_settings(none) == {"transfer": {"model": None}}


@pytest.mark.parametrize("use", ["lamost", "simulated", "train"])
def test_the_paper_s_preparation_is_not_that_of_our_transfers(use):
    with pytest.raises(ValidationError, match=f'transfer.use = "{use}" needs: set transfer.use to "none"'):
        SurveySettings(measure={"preset": "paper"}, transfer={"use": use})
    assert SurveySettings(measure={"preset": "paper"}, transfer={"use": "none"}).measure.preset == "paper"


def test_simulated_spectra_are_not_for_the_model_of_real_ones():
    with pytest.raises(ValidationError, match=r'"lamost" is for real spectra, and input\.simulated is true'):
        SurveySettings(input={"simulated": True})
    for use in ("simulated", "none", "train"):
        assert SurveySettings(input={"simulated": True}, transfer={"use": use}).transfer.use == use


def test_a_file_of_a_transfer_is_known_by_what_is_in_it(tmp_path):
    transfer = lamost_transfer()
    card = transfer.card
    about = {name: getattr(card, name) for name in ("training_data", "settings", "scores", "simulated", "seed")}
    transfer.save(tmp_path / "m.safetensors", **about)
    one, other = (
        SurveySettings(transfer=given)
        for given in ({"use": "lamost"}, {"use": "model", "model": tmp_path / "m.safetensors"})
    )
    assert transfer_settings(one) == transfer_settings(other)
    assert emulator_settings(one) == emulator_settings(other)


@pytest.mark.slow
def test_a_run_through_the_transfer_for_lamost(asked, tmp_path):
    """Of simulated files that do not say so: what is tested is the machinery."""
    states = run_survey(asked(tmp_path / "run", transfer={"use": "lamost"}), until="table")
    assert next(state for state in states if state.stage == "table").state == "done"
    table = pq.read_table(tmp_path / "run" / "measured.parquet")
    assert b"anchored-transfer" in table.schema.metadata[b"model"]
    assert b"simulated" not in table.schema.metadata
    measured = np.isfinite(table["teff"].to_numpy())
    assert measured.sum() > 20
    systematic = table["e_teff_sys"].to_numpy()
    assert (systematic[measured] == float(lamost_transfer().own[0])).all()
    assert np.isnan(systematic[~measured]).all()
    assert np.isfinite(table["teff_syn"].to_numpy()[measured]).all()
    assert not (table["flags"].to_numpy()[~measured] & int(Flag.UNLIKE_TRAINING)).any()
