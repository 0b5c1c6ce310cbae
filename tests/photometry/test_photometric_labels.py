"""Labels of simulated and real stars: calibrated errors, pairs found, a row for every star."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photometry_simulation import simulate

from stargap.flags import PhotFlag
from stargap.photometry.labels import LABEL_NAMES, label_covariance, photometric_labels
from stargap.photometry.likelihood import Population


def compared(table, true, population=None):
    labels = photometric_labels(table, population=population)
    difference = np.stack([labels[f"{name}_phot"] for name in LABEL_NAMES], axis=1) - true
    good = np.isfinite(difference).all(axis=1)
    covariance = label_covariance(labels)
    pulls = difference / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return labels, difference, covariance, pulls, good


@pytest.mark.parametrize("ks", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_errors_are_calibrated(ks, fraction):
    population = Population(binary_fraction=fraction)
    table, true, component = simulate(4000, seed=3, population=population, ks=ks)
    table["ruwe"][:] = np.nan  # simulated RUWE are not distributed as those of real stars, of which the odds are
    labels, difference, covariance, pulls, good = compared(table, true, population)
    assert good.mean() > 0.99
    spread = np.sqrt((pulls[good] ** 2).mean(axis=0))
    assert ((spread > 0.9) & (spread < 1.1)).all()
    taken = good & (component == 0) & (labels["p_single"] > 0.5)
    assert (np.abs(pulls[taken].mean(axis=0)) < 0.07).all()
    # relations give the mean label of stars of the same photometry: the truth lies about a line of slope one on them
    slope = np.polyfit(labels["m_h_phot"][taken], true[taken, 2], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.06)
    together = np.einsum("si,sij,sj->s", difference[good], np.linalg.inv(covariance[good]), difference[good])
    assert together.mean() / 3 == pytest.approx(1.0, abs=0.08)
    if fraction:
        single, p = (component == 0)[good], labels["p_single"][good]
        for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 0.9), (0.9, 1.0)):
            some = (p >= low) & (p <= high)
            assert single[some].mean() == pytest.approx(p[some].mean(), abs=0.06)
        assert (p[~single] < 0.5).mean() > 0.25
        assert (p[single] < 0.5).mean() < 0.03


def test_pairs_widen_errors():
    table, true, component = simulate(4000, seed=8)
    _, difference, covariance, _, good = compared(table, true)
    width = np.sqrt(covariance[:, 2, 2])
    pair = component > 0
    assert np.median(width[good & pair]) > np.median(width[good & ~pair])
    alone = photometric_labels(table, population=Population(binary_fraction=0.0))["m_h_phot"] - true[:, 2]
    with_pairs = difference[:, 2]
    assert np.nanmean(alone[good & pair]) > 0.15  # what a pair does to [M/H] if nobody thinks of it
    assert with_pairs[good & pair].mean() < 0.5 * np.nanmean(alone[good & pair])


def test_one_row_for_each_star_whatever_it_is():
    table, _, _ = simulate(12, seed=9)
    for row, (name, value) in enumerate(
        [("parallax", -5.0), ("parallax", np.nan), ("bp_mag", np.nan), ("rp_mag", np.inf), ("e_parallax", -9999.0)]
    ):
        table[name][row] = value
    table["bp_mag"][5], table["rp_mag"][6] = 25.0, -3.0
    table["g_mag"][7], table["ks_mag"][7], table["ruwe"][7], table["a_v"][7] = [np.nan] * 4
    table["ks_mag"][8] += 0.4
    labels = photometric_labels(table)
    assert {values.shape for values in labels.values()} == {(12,)}
    null = np.isnan(labels["teff_phot"])
    assert null[:5].all()
    assert not null[7:].any()
    for name in labels:
        if name != "phot_flags":
            np.testing.assert_array_equal(np.isnan(labels[name]), null)
    flags = labels["phot_flags"]
    assert (flags[null] & int(PhotFlag.NO_PHOTOMETRY | PhotFlag.NO_PARALLAX | PhotFlag.NO_SOLUTION) > 0).all()
    assert flags[8] & PhotFlag.INCONSISTENT
    assert flags[7] & PhotFlag.NO_KS


def test_no_stars():
    nothing = photometric_labels({name: np.empty(0) for name in simulate(1)[0]})
    assert {values.shape for values in nothing.values()} == {(0,)}
    assert nothing["phot_flags"].dtype == np.int64


def test_neighbours_do_not_matter():
    table, _, _ = simulate(30, seed=10)
    together = photometric_labels(table)
    alone = photometric_labels({name: values[[17]] for name, values in table.items()})
    for name, values in together.items():
        np.testing.assert_array_equal(values[[17]], alone[name])


def test_nearer_means_brighter_means_metal_richer():
    table, _, _ = simulate(1, seed=11)
    rows = {name: np.repeat(values, 5) for name, values in table.items()}
    rows["parallax"] = rows["parallax"] * np.array([1.1, 1.05, 1.0, 0.95, 0.9])
    labels = photometric_labels(rows, population=Population(binary_fraction=0.0))
    assert (np.diff(labels["m_h_phot"]) > 0).all()


def test_giants_and_white_dwarfs_have_no_labels_that_pass():
    table = {
        "g_mag": [5.0, 14.0],
        "bp_mag": [6.0, 14.2],
        "rp_mag": [4.0, 13.8],
        "ks_mag": [2.0, 13.5],
        "parallax": [10.0, 30.0],
        "e_parallax": [0.05, 0.05],
    }
    flags = photometric_labels(table)["phot_flags"]
    assert (flags & int(PhotFlag.NO_SOLUTION | PhotFlag.INCONSISTENT | PhotFlag.OUTSIDE_RELATIONS) > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-40, 40) | st.just(np.nan)] * 4, st.floats(-10, 800), st.floats(-1, 10)),
        min_size=1,
        max_size=4,
    )
)
def test_nothing_fails(rows):
    g, bp, rp, ks, parallax, error = np.array(rows).T
    table = {"g_mag": g, "bp_mag": bp, "rp_mag": rp, "ks_mag": ks, "parallax": parallax, "e_parallax": error}
    labels = photometric_labels(table)
    assert len(labels["teff_phot"]) == len(rows)
    good = np.isfinite(labels["teff_phot"])
    assert (labels["e_teff_phot"][good] > 0).all()
    assert (np.linalg.eigvalsh(label_covariance(labels)[good]) > 0).all()


def test_real_stars(shared_data):
    import gzip

    with gzip.open(shared_data / "labels" / "carmenes_ix.csv.gz", "rt") as stream:
        lines = [line.rstrip("\n").split(",") for line in stream]
    names = {name: place for place, name in enumerate(lines[0])}
    rows = {line[names["Name"]]: line for line in lines if line[names["GJ"]] in ("273", "436", "581", "628")}

    def column(name):
        return np.array([float(line[names[name]]) for line in rows.values()])

    table = {
        "g_mag": column("G_mag"),
        "bp_mag": column("BP_mag"),
        "rp_mag": column("RP_mag"),
        "ks_mag": column("Ks_mag"),
    }
    table |= {"parallax": column("parallax"), "e_parallax": column("parallax_error"), "ruwe": column("ruwe")}
    labels = photometric_labels(table)
    mann = {"273": (3317, -0.11), "436": (3479, 0.01), "581": (3395, -0.15), "628": (3272, -0.03)}
    for place, line in enumerate(rows.values()):
        teff, m_h = mann[line[names["GJ"]]]
        assert labels["teff_phot"][place] == pytest.approx(teff, abs=110)
        assert labels["m_h_phot"][place] == pytest.approx(m_h, abs=0.16)
        assert labels["p_single"][place] > 0.8
