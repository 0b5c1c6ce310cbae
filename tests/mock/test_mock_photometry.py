"""The simulated photometry differs from the relations that measure it by just what it says, and by what light does."""

import numpy as np
import pytest

from stargap.mock.instrument import CHUNK
from stargap.mock.nature import nature_labels
from stargap.mock.photometry import BUBBLE, COEFFICIENTS, Relations, absolute_magnitudes, observe_light, with_companions
from stargap.mock.population import PLAIN, Population
from stargap.mock.targets import draw_catalogued, draw_targets
from stargap.mock.write import write_survey_store
from stargap.photometry.labels import photometric_labels
from stargap.photometry.observed import INPUTS
from stargap.survey.gaia.join import read_gaia
from stargap.tables.parquet import read_columns

EXACT = Relations(0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
GIVEN = ("phot_g_mean_mag", "phot_bp_mean_mag", "phot_rp_mean_mag", "ks_m", "ks_msigcom", "ph_qual", "parallax",
         "parallax_error", "ruwe")  # fmt: skip


def targets(population, relations, chunks=10):
    """Targets as a survey draws them, without their spectra."""
    every, active = nature_labels(chunks * CHUNK, seed=100)
    parts = []
    for number in range(chunks):
        rows = slice(number * CHUNK, (number + 1) * CHUNK)
        rng, *others = (np.random.default_rng([1, stream, number]) for stream in (4, 7, 10))
        target = draw_targets(rng, *others, every[rows], active[rows], 0.0, 0.0, population, relations)
        parts.append(target | draw_catalogued(rng, number, target))
    names = [name for name, value in parts[0].items() if isinstance(value, np.ndarray)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def measured(target):
    """Photometric labels less the true ones, of stars for which nothing has to be guessed."""
    found = photometric_labels({name: target[name] for name in GIVEN} | {"a_v": target["a_v"]})
    return {name: found[f"{name}_phot"] - target["labels"][:, place] for name, place in (("teff", 0), ("m_h", 2))} | {
        "p_single": found["p_single"]
    }


@pytest.fixture(scope="module")
def single():
    target = targets(PLAIN, Relations())
    return target, measured(target)


def test_labels_of_single_stars_are_off_by_what_the_relations_say(single):
    target, off = single
    relations = Relations()
    for name, place, pivot, digits in (("teff", 0, 3500.0, 5.0), ("m_h", 2, 0.0, 0.012)):
        use = np.isfinite(off[name]) & (off["p_single"] > 0.5) & (target["parallax"] > 100 * target["parallax_error"])
        true = target["labels"][use, place] - pivot
        slope, offset = np.polyfit(true, off[name][use], 1)
        assert offset == pytest.approx(getattr(relations, f"{name}_offset"), abs=digits)
        assert slope + 1 == pytest.approx(getattr(relations, f"{name}_slope"), abs=0.02)
        scatter = np.std(off[name][use] - slope * true)
        assert getattr(relations, f"{name}_scatter") * 0.95 < scatter < getattr(relations, f"{name}_scatter") * 1.3


def test_exact_relations_give_the_true_labels():
    rng = np.random.default_rng(2)
    labels = np.column_stack([rng.uniform(3000, 4000, 50), np.full(50, 4.8), rng.uniform(-0.5, 0.4, 50), np.zeros(50)])
    magnitudes = absolute_magnitudes(labels, np.zeros((50, 4)), EXACT)
    table = {f"{band}_mag": magnitudes[:, k] for k, band in enumerate(("g", "bp", "rp", "ks"))}
    nearby = {"parallax": np.full(50, 100.0 - 0.03), "e_parallax": np.full(50, 0.01), "a_v": np.zeros(50)}
    found = photometric_labels(table | nearby)
    assert np.abs(found["teff_phot"] - labels[:, 0]).max() < 2.0
    assert np.abs(found["m_h_phot"] - labels[:, 2]).max() < 0.01


def test_companions_and_youth_make_stars_seem_metal_rich(single):
    target, off = single
    mixed = targets(Population(0.5, 0.0, 0.15, 0.0), Relations())
    theirs = measured(mixed)["m_h"]
    np.testing.assert_array_equal(mixed["labels"], target["labels"])
    pairs, young = mixed["binary"] & ~mixed["young"], mixed["young"] & ~mixed["binary"]
    alone = ~mixed["binary"] & ~mixed["young"]
    assert np.nanmedian((theirs - off["m_h"])[alone]) == 0
    assert np.nanmean((theirs - off["m_h"])[pairs]) > 0.06
    assert np.nanmean((theirs - off["m_h"])[young]) > 0.06
    twins = pairs & (mixed["companion_light"] > 0.8)
    assert np.nanmean(measured(mixed)["p_single"][twins]) < 0.5 < np.nanmean(measured(mixed)["p_single"][alone])
    assert 0.2 < (mixed["ruwe"][mixed["binary"]] > 1.4).mean() < 0.4


def test_a_companion_adds_its_light_in_each_band():
    star, cool = np.array([[3700.0, 4.7, 0.0, 0.0]]), np.array([[3000.0, 5.0, 0.0, 0.0]])
    one, two = (absolute_magnitudes(each, np.zeros((1, 4)), Relations()) for each in (star, cool))
    both = with_companions(one, star, cool, Relations())
    np.testing.assert_allclose(10 ** (-0.4 * both), 10 ** (-0.4 * one) + 10 ** (-0.4 * two), rtol=1e-12)
    assert (np.diff((one - both)[0, [1, 0, 2, 3]]) > 0).all()  # the redder the band, the more


def test_dust_dims_each_band_by_its_share_and_not_the_nearest_stars():
    absolute = np.tile([[10.0, 11.4, 8.8, 6.5]], (4000, 1))
    light = observe_light(np.random.default_rng(3), absolute, np.linspace(11.0, 19.0, 4000))
    near = light.distance < BUBBLE
    assert (light.a_v[near] == 0).all()
    assert (light.a_v[~near] > 0).all()
    seen = np.stack(
        [light.columns[name] for name in ("phot_g_mean_mag", "phot_bp_mean_mag", "phot_rp_mean_mag", "ks_m")]
    )
    dimmed = seen.T - absolute - 5 * np.log10(light.distance / 10)[:, None]
    known = np.isfinite(dimmed).all(axis=1)
    assert 0.95 < known.mean() < 1.0
    share = np.array([np.polyfit(light.a_v[known], dimmed[known, band], 1)[0] for band in range(4)])
    np.testing.assert_allclose(share, COEFFICIENTS, atol=0.02)


def test_the_table_is_one_of_gaia_with_2mass_that_the_sample_reads(tmp_path):
    folder = write_survey_store(tmp_path, 60, seed=3, junk=0.3, repeats=0.0)
    read = read_gaia(folder / "gaia.parquet")
    assert set(GIVEN) <= set(read)
    theirs = {name for ours, others in INPUTS.items() for name in (ours, *others)}
    assert set(GIVEN) <= theirs
    truth = read_columns(folder / "truth.parquet", ["a_v", "distance"])
    np.testing.assert_array_equal(truth["a_v"] > 0, truth["distance"] > BUBBLE)
    np.testing.assert_array_equal(np.isfinite(read["ks_m"]), read["ph_qual"] != "")
