"""Stacked spectra in a run: stars with several usable spectra have labels of all together, others have none."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import stargap
from stargap.catalogue.precision import Precision
from stargap.pipeline.folder import Run
from stargap.pipeline.stacks import make_stacks
from stargap.settings import MeasureSettings
from stargap.spectra.readers.read import read_spectrum
from stargap.tables.columns import INT_NULL
from stargap.tables.parquet import read_columns
from stargap.tables.read import read_table


@pytest.fixture(scope="module")
def stars(whole):
    return read_table(whole / "catalogue" / "stars.parquet")


def test_stars_with_several_usable_spectra_have_a_stack(whole, stars):
    table = read_table(whole / "measured.parquet")
    usable = table["in_sample"] & (table["clean_flags"] == 0) & (table["use_rv"] == 1) & (table["use_teff"] == 1)
    count = np.array([(usable & (table["gaia_source_id"] == one)).sum() for one in stars["gaia_source_id"]])
    several = (count > 1) & (stars["gaia_source_id"] != INT_NULL)
    assert several.sum() > 2
    np.testing.assert_array_equal(stars["n_stack"], np.where(several, count, INT_NULL))
    np.testing.assert_array_equal(np.isfinite(stars["teff_stack"]), several)
    here = np.flatnonzero(several)
    assert (stars["snr_r_stack"][here] > 1.2 * stars["snr_r"][here] / np.sqrt(count[here])).all()
    assert np.abs(stars["teff_stack"] - stars["teff"])[here].max() < 100


def test_a_stack_is_that_of_the_public_function(whole, stars):
    row = int(np.flatnonzero(stars["n_stack"] == 2)[0])
    table = read_table(whole / "measured.parquet")
    rows = np.flatnonzero((table["gaia_source_id"] == stars["gaia_source_id"][row]) & (table["use_teff"] == 1))
    spectra = [read_spectrum(table["path"][one]) for one in rows]
    mean = stargap.stack(spectra, rv=table["rv"][rows])
    settings = MeasureSettings(fixed={"a_m": 0.0}, starts=1)
    found = stargap.measure(mean, model="emulator", settings=settings, progress=False).arrays()
    for name, tolerance in (("teff", 0.5), ("logg", 0.005), ("m_h", 0.005), ("chi2", 0.01)):
        assert found[name][0] == pytest.approx(stars[f"{name}_stack"][row], abs=tolerance)
    model = Precision.model_validate_json((whole / "catalogue" / "precision.json").read_bytes()).errors["teff"]
    error = model.calibrated_error(found["e_teff"], found["snr_r"])[0]
    assert stars["e_teff_stack"][row] == pytest.approx(error, rel=0.02)


def test_without_stacks_there_are_none(whole, asked, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    made = make_stacks(Run(tmp_path / "run", asked(whole, fit={"stacks": False})), 0)
    assert made.rows == 0
    columns = read_columns(made.products[0])
    assert {"gaia_source_id", "teff_stack", "use_stack"} <= set(columns)
    assert all(len(values) == 0 for values in columns.values())
