"""Laws of stars: one row each, single spectra unchanged, errors of means right, blocks without effect."""

import numpy as np
import pytest
from scipy import stats

from stargap.catalogue import stars
from stargap.catalogue.stars import combine_spectra, combine_stars, star_numbers
from stargap.marks import with_marks
from stargap.photometry.joint import joint_labels
from stargap.photometry.surface import magnitude_table
from stargap.tables.columns import CATALOGUE, INT_NULL, STARS
from stargap.tables.conform import conform, validate
from stargap.tables.write import write_table

LABELS = ("rv", "teff", "logg", "m_h")


def spectra(star, *, seed=1):
    """Spectra in the final catalogue of stars with given numbers."""
    random = np.random.default_rng(seed)
    rows = len(star)
    table = {c.name: np.full(rows, c.null, object if c.dtype == "str" else c.dtype) for c in CATALOGUE}
    table["spectrum_id"] = np.arange(rows)
    table["gaia_source_id"] = 6917528997577384320 + np.asarray(star, dtype=np.int64)
    table["snr_r"] = random.uniform(5, 100, rows).astype("f4")
    table["snr_i"] = table["snr_r"] * np.float32(1.4)
    table["in_final_catalogue"] = np.ones(rows, bool)
    for name, centre in {"rv": -20, "teff": 3500, "logg": 4.9, "m_h": -0.2, "a_m": 0, "spt": 2, "halpha_ew": 0}.items():
        error = 1 / table["snr_r"].astype(float) * abs(centre or 1)
        table[name] = (centre + error * random.normal(size=rows)).astype("f4")
        table[f"e_{name}"] = error.astype("f4")
        if name in LABELS:
            table[f"e_{name}_sys"] = np.full(rows, 0.05, "f4")
    for name in ("flags", "cuts", "sample_flags", "clean_flags"):
        table[name] = np.zeros(rows, np.int64)
    table["vb_flag"] = np.zeros(rows, np.int32)
    table["designation"] = np.array([f"J{i}" for i in star], dtype=object)
    return table


def test_velocities_that_vary_are_found_at_the_rate_of_their_probability():
    rng = np.random.default_rng(5)
    stars, epochs = 4000, 4
    number = np.repeat(np.arange(stars), epochs)
    rows = {c.name: np.full(number.size, c.null, object if c.dtype == "str" else c.dtype) for c in CATALOGUE}
    error = rng.uniform(2.0, 8.0, number.size)
    moving = np.arange(stars) % 100 == 0
    orbit = np.where(moving[number], 60.0 * rng.choice([-1.0, 1.0], number.size), 0.0)
    rows |= {"rv": rng.normal(10.0, error) + orbit, "e_rv": error, "teff": np.full(number.size, 3400.0)}
    rows |= {"use_rv": np.ones(number.size, np.int64), "snr_r": np.full(number.size, 20.0)}
    rows |= {"snr_i": rows["snr_r"].copy()}
    rows["use_rv"][:epochs] = 0
    rows["rv"][epochs : 2 * epochs - 1] = np.nan
    table = combine_spectra(rows, number, "weighted")
    assert table["rv_variable"][:2].tolist() == [INT_NULL, INT_NULL]
    assert np.isnan(table["p_constant_rv"][:2]).all()
    known = np.arange(2, stars)
    quiet = known[~moving[known]]
    assert stats.kstest(table["p_constant_rv"][quiet], "uniform").pvalue > 0.01
    assert table["rv_variable"][quiet].sum() <= 3
    assert abs(table["rv_chi2"][quiet].mean() - 1) < 0.05
    several = known[moving[known]]
    differ = np.array([len(set(orbit[number == star])) > 1 for star in several])
    assert (table["rv_variable"][several[differ]] == 1).mean() > 0.95


def test_numbers_are_in_order_of_appearance_and_exact():
    ids = np.array([9, 5, INT_NULL, 9, 6917528997577384321, INT_NULL, 6917528997577384320])
    star, count = star_numbers(ids)
    assert star.tolist() == [0, 1, 2, 0, 3, 4, 5]
    assert count == 6
    assert star_numbers([])[1] == 0


def test_a_single_spectrum_is_its_star():
    table = spectra(np.arange(200))
    for name in ("teff", "e_teff", "e_teff_sys"):
        table[name][3] = np.nan
    table["e_rv"][4], table["snr_i"][5], table["snr_r"][6] = np.nan, np.nan, -3.0
    table = with_marks(table)
    result = conform(combine_spectra(table, np.arange(200), "weighted"), schema=STARS)
    for column in STARS:
        if column.name in table and column.name not in ("activity", "activity_3sigma", "p_active", "use_activity"):
            np.testing.assert_array_equal(result[column.name], table[column.name], column.name)
    assert (result["n_spectra"] == 1).all()
    assert all(np.isnan(result[f"scatter_{name}"]).all() for name in LABELS)
    assert validate(result, schema=STARS) == []


def test_means_errors_and_scatter_of_many_epochs():
    star = np.repeat(np.arange(3000), 6)
    table = spectra(star)
    result = combine_spectra(table, star, "weighted")
    for name, truth in {"rv": -20, "teff": 3500, "logg": 4.9, "m_h": -0.2}.items():
        pull = (result[name] - truth) / result[f"e_{name}"]
        assert abs(pull.mean()) < 0.1
        assert pull.std() == pytest.approx(1, abs=0.05)
        np.testing.assert_allclose(result[f"e_{name}_sys"], 0.05, rtol=1e-6)
        expected = table[name].reshape(-1, 6).astype(float).std(axis=1, ddof=1)
        np.testing.assert_allclose(result[f"scatter_{name}"], expected, rtol=1e-5)
    assert (result["n_epochs"] == 6).all()
    np.testing.assert_allclose(result["snr_r"], np.sqrt((table["snr_r"].reshape(-1, 6) ** 2).sum(axis=1)), rtol=1e-5)


def test_the_best_spectrum_is_that_of_the_highest_snr_and_can_stand_alone():
    table = spectra([0, 1, 0, 0])
    table["snr_r"], table["snr_i"] = np.float32([50, 9, 60, 70]), np.float32([50, 9, 60, 20])
    for combine in ("weighted", "best"):
        result = combine_spectra(table, np.array([0, 1, 0, 0]), combine)
        assert result["spectrum_id"].tolist() == [2, 1]
        assert np.isfinite(result["scatter_teff"]).tolist() == [True, False]
        assert (result["teff"][0] == table["teff"][2]) == (combine == "best")
    assert result["n_epochs"].tolist() == [3, 1]
    assert result["snr_r"].tolist() == [60, 9]


def test_spectra_outside_the_final_catalogue_count_only_where_there_is_no_other():
    table = spectra([0, 0, 1, 1, 2])
    table["in_final_catalogue"][:] = [True, False, False, False, False]
    table["cuts"][:] = [0, 8, 8, 16, 4]
    table["flags"][:] = [1, 2, 4, 8, 16]
    table["teff"][4] = np.nan
    table["vb_flag"][:] = [0, 1, 1, 2, 0]
    result = combine_spectra(table, np.array([0, 0, 1, 1, 2]), "weighted")
    assert result["in_final_catalogue"].tolist() == [True, False, False]
    assert result["n_spectra"].tolist() == [2, 2, 1]
    assert result["n_epochs"].tolist() == [1, 2, 0]
    assert result["cuts"].tolist() == [0, 24, 4]
    assert result["flags"].tolist() == [1, 12, 16]
    assert result["vb_flag"].tolist() == [0, 3, 0]
    assert result["teff"][0] == table["teff"][0]
    assert np.isnan(result["teff"][2])


def test_unknown_values_and_snr_spoil_nothing():
    table = spectra([0, 0, 0, 1, 1])
    table["rv"][0], table["snr_r"][[1, 3, 4]] = np.nan, np.nan
    table["snr_i"][[1, 3, 4]] = np.nan
    result = combine_spectra(table, np.array([0, 0, 0, 1, 1]), "weighted")
    assert result["rv"][0] == pytest.approx(table["rv"][2], rel=1e-6)
    assert result["rv"][1] == pytest.approx(table["rv"][3:].mean(), rel=1e-6)
    assert np.isfinite(result["scatter_rv"]).all()
    assert np.isnan(result["snr_r"][1])


def test_activity_follows_from_the_combined_width():
    table = spectra([0, 0, 1, 2])
    table["halpha_ew"], table["e_halpha_ew"] = np.float32([1, 1, 1, np.nan]), np.float32([0.1, 0.1, 0.1, np.nan])
    table["snr_r"][:] = table["snr_i"][:] = 10
    result = combine_spectra(table, np.array([0, 0, 1, 2]), "weighted")
    assert result["activity"].tolist() == [1, 1, INT_NULL]
    assert result["activity_3sigma"].tolist() == [1, 0, INT_NULL]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_and_order_have_no_effect(tmp_path, monkeypatch, block):
    random = np.random.default_rng(5)
    ids = random.integers(0, 40, 100)
    star, count = star_numbers(ids)
    table = spectra(ids)
    write_table(table, tmp_path / "spectra.parquet", schema=CATALOGUE, provenance={})
    whole = combine_spectra(table, star, "weighted")
    monkeypatch.setattr(stars, "_STARS_PER_BLOCK", block)
    monkeypatch.setattr(stars, "_ROWS", 13)
    parts = list(combine_stars(tmp_path / "spectra.parquet", star, count, "weighted"))
    assert len(parts) == -(-count // block)
    for column in STARS:
        np.testing.assert_array_equal(np.concatenate([part[column.name] for part in parts]), whole[column.name])
    assert [path.name for path in tmp_path.iterdir()] == ["spectra.parquet"]
    shuffled = random.permutation(100)
    again = combine_spectra({name: values[shuffled] for name, values in table.items()}, star[shuffled], "weighted")
    for name in ("spectrum_id", "n_epochs", "cuts", "designation"):
        np.testing.assert_array_equal(again[name], whole[name])
    np.testing.assert_allclose(again["teff"], whole["teff"], rtol=1e-12)


def with_photometry(table, star):
    """Spectra with the magnitudes of single stars of 3500 K and solar [M/H] at 10 pc, and joint labels."""
    rows, magnitudes = len(star), magnitude_table()(np.array([3500.0]), np.array([0.0]), np.array([0]))[0][0]
    table |= {f"{band}_mag": np.full(rows, magnitudes[k]) for k, band in enumerate(("g", "bp", "rp", "ks"))}
    table |= {"e_ks_mag": np.full(rows, 0.02), "parallax": np.full(rows, 99.97), "e_parallax": np.full(rows, 0.02)}
    table |= {"ruwe": np.ones(rows), "a_v_phot": np.zeros(rows), "e_a_v_phot": np.zeros(rows)}
    table["m_h"] = table["m_h"] + 0.2
    marked = with_marks(table)
    return marked | joint_labels(marked, marked)


def test_combined_labels_are_joined_with_photometry_once():
    star = np.array([0, 0, 0, 0, 1])
    table = spectra(star)
    table |= {f"e_{name}": np.full(5, error) for name, error in (("teff", 60.0), ("logg", 0.05), ("m_h", 0.15))}
    table |= {f"e_{name}_sys": np.zeros(5) for name in ("teff", "logg", "m_h")}
    table["snr_r"][:] = table["snr_i"][:] = 20.0
    table = with_photometry(table, star)
    found = combine_spectra(table, star, "weighted")
    for name in ("teff_joint", "e_teff_joint", "p_single_joint", "use_joint"):
        assert found[name][1] == table[name][4]
    combined = {name: values[:1] for name, values in found.items()}
    combined |= {name: np.full(1, np.nan) for name in ("rho_teff_logg", "rho_teff_m_h", "rho_logg_m_h")}
    again = joint_labels(combined, combined)
    assert found["teff_joint"][0] == again["teff_joint"][0] != table["teff_joint"][0]
    assert found["e_teff"][0] == pytest.approx(30.0)
    assert found["e_teff_joint"][0] < table["e_teff_joint"][0]
    assert found["e_teff_joint"][0] > 1 / np.sqrt(4 / 60**2 + 4 / 46**2)
    best = combine_spectra(table, star, "best")
    assert best["teff_joint"][0] in table["teff_joint"][:4]


def test_without_joint_labels_none_are_made():
    found = combine_spectra(spectra(np.array([0, 0])), np.array([0, 0]), "weighted")
    assert np.isnan(found["teff_joint"]).all()
    assert found["joint_flags"].tolist() == [INT_NULL]
