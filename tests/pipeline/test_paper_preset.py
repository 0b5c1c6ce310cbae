"""The paper's preset: its choices in every stage, by default and in a small run of all stages."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.reports import quick_reports
from pydantic import ValidationError

import stargap
from stargap.catalogue.precision import Precision
from stargap.cli.main import main
from stargap.errors import UsageError
from stargap.measurement.models import load_transfer
from stargap.mock.write import write_survey
from stargap.pipeline.engine import run_survey
from stargap.pipeline.settings import SurveySettings
from stargap.pixels import PAPER, STARGAP
from stargap.settings import read_settings_as
from stargap.starnet.transfer import StarnetTransfer
from stargap.tables.parquet import read_columns
from stargap.validation.report.data import read_run
from stargap.validation.report.figures import draw_figures, draw_spectra
from stargap.validation.report.spectra import fit_again

STARS = 14


def test_the_preset_is_the_paper_s_choice_in_every_stage():
    paper = SurveySettings(preset="paper")
    assert (paper.sample.subclasses, paper.sample.keep_unknown, paper.sample.fiber_mask) == (("dM",), False, 0)
    assert (paper.transfer.use, paper.transfer.architecture, paper.transfer.spectra) == ("train", "reference", 110_000)
    assert paper.transfer.prior.preset == "paper"
    network = paper.transfer.reference
    assert (network.iterations, network.batch, network.learning_rate, network.decay) == (500_000, 8, 1e-4, 0.7)
    assert network.milestones == (50_000, 100_000, 150_000, 200_000)
    assert (paper.measure.preset, paper.measure.optimiser, paper.measure.free_alpha) == ("paper", "lbfgs", False)
    assert (paper.measure.lamost_noise_factor, paper.measure.lamost_rv_floor) == (1.0, 0.0)
    assert (paper.catalogue.errors, paper.catalogue.cuts.errors) == ("paper", "paper")
    assert (paper.publish.ages, paper.publish.paper_table) == (True, True)


def test_what_is_given_counts_more_than_the_preset():
    given = {
        "measure": {"optimiser": "lm"},
        "catalogue": {"cuts": {"hottest_teff": 4000.0}},
        "publish": {"ages": False},
    }
    paper = SurveySettings(preset="paper", **given)
    assert (paper.measure.optimiser, paper.measure.preset) == ("lm", "paper")
    assert (paper.catalogue.cuts.hottest_teff, paper.catalogue.cuts.errors) == (4000.0, "paper")
    assert (paper.publish.ages, paper.publish.paper_table) == (False, True)
    assert SurveySettings(preset="paper", measure=paper.measure).measure == paper.measure
    with pytest.raises(ValidationError, match="'stargap' or 'paper'"):
        SurveySettings(preset="papers")


def run(words):
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def test_the_command_line_writes_it(tmp_path, capsys):
    path = tmp_path / "paper.toml"
    assert run(["settings", "--preset", "paper", "--write", str(path)]) == 0
    assert read_settings_as(SurveySettings, path) == SurveySettings(preset="paper")
    capsys.readouterr()
    assert run(["settings", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text()
    assert run(["settings", str(path), "--preset", "paper"]) == 2
    assert 'write preset = "paper" into' in capsys.readouterr().err


@pytest.fixture(scope="module")
def survey(made_once):
    make = partial(write_survey, stars=STARS, seed=3, repeats=0.2, junk=0.0)
    return made_once("survey of the paper", make)


@pytest.fixture(scope="module")
def paper(survey, made_once):
    """The folder of a run with the preset, few iterations of training and of fits."""

    def run(folder):
        settings = SurveySettings(
            preset="paper",
            output=folder,
            input={
                "spectra": [str(survey / "spectra")],
                "catalogue": survey / "lamost.csv",
                "gaia": survey / "gaia.parquet",
                "simulated": True,
            },
            transfer={"prior": {"draws": 1000}, "reference": {"iterations": 2, "batch": 1, "device": "cpu"}},
            measure={"max_iterations": 2, "starts": 1},
            report={"skip": True},
        )
        assert {state.state for state in run_survey(settings)} == {"done"}

    return made_once("run of the paper", run)


@pytest.mark.slow
def test_the_preset_runs_from_files_to_the_catalogue(paper):
    transfer = load_transfer(paper / "transfer" / "transfer.safetensors")
    assert isinstance(transfer, StarnetTransfer)
    assert (transfer.grid, transfer.iterations, transfer.card.simulated) == (PAPER, 2, True)
    table = pq.read_table(paper / "measured.parquet")
    assert b"starnet-transfer" in table.schema.metadata[b"model"]
    assert json.loads(table.schema.metadata[b"settings"])["measure"]["optimiser"] == "lbfgs"
    inside = table["in_sample"].to_numpy()
    assert np.isfinite(table["teff"].to_numpy()[inside]).mean() > 0.8
    assert np.isfinite(table["teff_syn"].to_numpy()[inside]).mean() > 0.8
    assert (paper / "catalogue" / "table1.fits").exists()


@pytest.mark.slow
def test_published_errors_are_the_paper_s_equations(paper):
    catalogue, table = (
        pq.read_table(paper / "catalogue" / "spectra.parquet"),
        pq.read_table(paper / "measured.parquet"),
    )
    model = Precision.model_validate_json((paper / "catalogue" / "precision.json").read_bytes())
    snr = table["snr_r"].to_numpy()
    for name in ("rv", "teff", "logg", "m_h"):
        repeat = model.errors[name].repeat_error(np.where(snr > 0, snr, np.nan))
        expected = np.hypot(repeat, table[f"e_{name}"].to_numpy())
        np.testing.assert_allclose(catalogue[f"e_{name}"].to_numpy(), expected, rtol=1e-5)
        np.testing.assert_array_equal(catalogue[f"e_{name}"].to_numpy(), catalogue[f"e_{name}_paper"].to_numpy())


@pytest.mark.slow
def test_its_network_measures_spectra_of_the_paper_s_preset_alone(paper, survey):
    path = paper / "transfer" / "transfer.safetensors"
    files = sorted((survey / "spectra").rglob("*.fits*"))[:2]
    settings = stargap.MeasureSettings(preset="paper", max_iterations=2, optimiser="lm")
    found = stargap.measure(files, model=path, settings=settings)
    assert len(found) == 2
    assert found.provenance["pixel_grid"] == PAPER.digest != STARGAP.digest
    with pytest.raises(UsageError, match="prepared by the paper preset, not stargap"):
        stargap.measure(files, model=path)


@pytest.mark.slow
def test_the_report_draws_the_training_of_its_network(paper):
    table = read_columns(paper / "measured.parquet", ["spectrum_id", "in_sample"])
    fitted = fit_again(paper, table["spectrum_id"][table["in_sample"].astype(bool)])
    assert fitted.latents is not None
    assert np.isfinite(fitted.latents).all()
    with quick_reports():
        run = read_run(paper)
        pictures = {picture.name: picture for picture in (*draw_figures(run), *draw_spectra(run, fitted))}
    for name in ("06-losses", "07-tsne", "08-residuals"):
        assert pictures[name].png, pictures[name].reason
    assert set(pictures["07-tsne"].columns["panel"]) == {"before", "after", "latent"}
    assert pictures["06-losses"].columns["step"][-1] == 2
