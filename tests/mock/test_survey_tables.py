"""Tables of others on a simulated survey: true but for what they say, incomplete on purpose, read by what is ready."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from stargap.catalogue.companions import find_companions
from stargap.flags import Companion
from stargap.mock.instrument import CHUNK
from stargap.mock.survey import simulate_survey
from stargap.mock.tables import (
    APOGEE,
    LASPM,
    LITERATURE,
    PRIMARY_ERRORS,
    STAR_BAD,
    TABLES,
    companion_tables,
    compared_tables,
    tables_of,
)
from stargap.mock.write import write_survey, write_survey_store
from stargap.tables.read import read_table
from stargap.validation.binaries import run_binaries
from stargap.validation.matching import match_stars, our_columns, their_columns

STARS, SEED = 10 * CHUNK, 9


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return write_survey_store(tmp_path_factory.mktemp("survey"), STARS, seed=SEED, repeats=0.0)


@pytest.fixture(scope="module")
def truth(survey):
    return read_table(survey / "truth.parquet")


@pytest.fixture(scope="module")
def perfect(truth):
    """A catalogue that says the truth of every star."""
    labels = {name: truth[name] for name in ("teff", "logg", "m_h", "rv", "snr_r", "spectrum_id", "obsid")}
    return labels | {"gaia_source_id": truth["source_id"], "in_final_catalogue": truth["kind"] == "dwarf"}


@pytest.fixture(scope="module")
def catalogue(perfect, tmp_path_factory):
    import pyarrow as pa

    path = tmp_path_factory.mktemp("catalogue") / "spectra.parquet"
    pq.write_table(pa.table(perfect), path)
    return path


def test_every_table_says_that_it_is_simulated(survey):
    told = json.loads((survey / "tables.json").read_text())
    assert told["simulated"] is True
    assert set(told["tables"]) == set(TABLES)
    for name in TABLES:
        with (survey / name).open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) > 20
        assert {line["simulated"] for line in lines} == {"True"}


def test_rows_do_not_depend_on_how_many_stars_are_asked_for():
    short, whole = (list(simulate_survey(count, seed=5)) for count in (60, CHUNK))
    for (name, few), many in zip(
        tables_of(short[0], seed=5).items(), tables_of(whole[0], seed=5).values(), strict=True
    ):
        known = {tuple(row) for row in zip(*(values.tolist() for values in many.values()), strict=True)}
        rows = [tuple(row) for row in zip(*(values.tolist() for values in few.values()), strict=True)]
        assert set(rows) <= known, name
    assert (
        tables_of(short[0], seed=6)["apogee.csv"]["TEFF"].tolist()
        != tables_of(short[0], seed=5)["apogee.csv"]["TEFF"].tolist()
    )


def test_a_survey_of_files_has_the_tables_of_its_store(tmp_path):
    write_survey(tmp_path / "files", 30, seed=2)
    write_survey_store(tmp_path / "store", 30, seed=2)
    for name in (*TABLES, "tables.json"):
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "store" / name).read_bytes()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_ready_settings_find_the_offsets_that_the_tables_were_made_with(survey, perfect, place):
    path, settings = compared_tables(survey)[place]
    table = read_table(path, their_columns(settings))
    matched = match_stars({name: perfect[name] for name in our_columns(settings)[0]} | perfect, table, settings)
    assert len(matched.rows) > 100
    assert settings.simulated
    if place == 0:
        source = read_table(path)["source"][matched.reference_rows]
        groups = [(source == name, told) for name, told in LITERATURE.items()]
    else:
        groups = [(np.ones(len(matched.rows), dtype=bool), (APOGEE, LASPM)[place - 1])]
    if place == 1:
        flags = read_table(path)["ASPCAPFLAG"]
        assert 0 < (flags & STAR_BAD != 0).mean() < 0.08
        assert not (flags[matched.reference_rows] & STAR_BAD).any()
    for rows, told in groups:
        for name, (offset, scatter) in told.items():
            delta = matched.reference[name][rows] - matched.ours[name][rows]
            delta = delta[np.isfinite(delta)]
            assert delta.mean() == pytest.approx(offset, abs=4 * scatter / np.sqrt(len(delta)))
            assert delta.std() == pytest.approx(scatter, rel=0.25)


def test_marks_are_incomplete_and_not_quite_pure(survey, truth):
    gaia = read_table(survey / "gaia.parquet")
    row = np.searchsorted(gaia["source_id"], truth["source_id"])
    stars = {name: gaia[name][row] for name in ("ra", "dec", "pmra", "pmdec")}
    stars |= {"spectrum_id": truth["spectrum_id"], "gaia_source_id": truth["source_id"]}
    flags = find_companions(stars, companion_tables(survey), epoch=2016.0).flags
    for bit, name, low, high in (
        (Companion.BINARY, "binary", 0.55, 0.68),
        (Companion.VARIABLE, "variable", 0.6, 0.8),
    ):
        marked, true = flags & bit != 0, truth[name].astype(bool)
        assert low < marked[true].mean() < high
        assert 0 < marked[~true].mean() < 0.015


def test_the_three_cuts_of_wide_binaries_have_something_to_cut(survey, catalogue):
    found = run_binaries(catalogue, survey / "wide_binaries.csv", survey / "fgk_primaries.csv")
    assert len(found.cuts) == 4
    for cut in found.cuts[1:]:
        assert cut.failed > 0
        assert cut.left > 20
    delta = found.m_h - found.primary_m_h
    assert np.median(delta) == pytest.approx(0.0, abs=0.02)
    assert 1.4826 * np.median(np.abs(delta)) == pytest.approx(PRIMARY_ERRORS[0], rel=0.3)


def test_pairs_that_pass_every_cut_are_bound_but_for_few(survey, catalogue, truth):
    found = run_binaries(catalogue, survey / "wide_binaries.csv", survey / "fgk_primaries.csv")
    bound = set(truth["source_id"][truth["wide_pair"].astype(bool)].tolist())
    listed = set(read_table(survey / "wide_binaries.csv")["source_id2"].tolist())
    assert bound <= listed
    assert len(listed - bound) > 0.05 * len(bound)
    left = found.gaia_source_id.tolist()
    assert np.mean([one in bound for one in left]) > 0.95
