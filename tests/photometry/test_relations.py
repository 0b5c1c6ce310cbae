"""Relations against published numbers, and the fitted ones against the script that made them."""

import csv
import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from stargap.photometry import relations
from stargap.photometry.fitted import fitted, surface_covariance

DOCS = Path(__file__).resolve().parents[2] / "docs"


def script():
    specification = importlib.util.spec_from_file_location("made", DOCS / "make_photometric_relations.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def column(rows, name):
    return np.array([float(row[name]) if row[name] else np.nan for row in rows])


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        # each written out by hand once more, in Horner's form
        (
            relations.mass_from_ks,
            6.0,
            10 ** (-0.642 + 1.5 * (0.208 - 1.5 * (8.43e-4 + 1.5 * (7.87e-3 - 1.5 * (1.42e-4 + 1.5 * 2.13e-4))))),
        ),
        (relations.radius_from_ks, 6.0, 1.9305 + 6.0 * (-0.3466 + 6.0 * 0.01647)),
        (relations.teff_from_colour, 2.0, 3500 * (2.18138891 - 2.1109575 + 1.45792128 - 0.5261024 + 0.07700464)),
    ],
)
def test_as_published(function, given, expected):
    assert function(given) == pytest.approx(expected, rel=1e-9)


def test_trappist_1_weighs_what_mann_2019_say():
    # the example of their code: Ks = 10.296 at 12.136 pc
    assert relations.mass_from_ks(10.296 - 5 * np.log10(12.136 / 10)) == pytest.approx(0.089, abs=0.001)


def test_metallicity_terms():
    assert relations.radius_from_ks(7.0, 0.5) / relations.radius_from_ks(7.0) == pytest.approx(1 + 0.5 * 0.04458)
    subdwarf = relations.radius_of_subdwarf
    assert subdwarf(7.0, -2.0) / subdwarf(7.0, 0.0) == pytest.approx(1 - 2 * 0.079)
    assert np.diff(relations.teff_from_colour(2.5, [0.0, 0.5])) == pytest.approx(3500 * 0.05078185 / 2)


@pytest.mark.parametrize(
    ("function", "outside"),
    [
        (relations.teff_from_colour, [(1.7, 0.0), (4.41, 0.0), (2.0, 0.6), (2.0, -0.6), (np.nan, 0.0), (2.0, np.nan)]),
        (relations.radius_from_ks, [(4.5, 0.0), (9.9, 0.0), (7.0, -1.0), (np.nan, 0.0)]),
        (relations.radius_of_subdwarf, [(4.5, -1.0), (7.0, -2.1), (7.0, 0.6)]),
        (relations.m_h_from_ks, [(3.0, 5.0), (9.0, 9.0), (5.0, 4.0), (5.0, 10.0), (6.5, 7.0), (4.0, 7.0)]),
        (relations.m_h_from_gaia, [(1.5, 9.0), (5.0, 14.0), (2.2, 7.0), (2.2, 15.0)]),
        (relations.teff_from_gaia, [(1.5, 9.0), (5.0, 14.0), (2.2, 7.0), (2.2, 15.0)]),
    ],
)
def test_null_outside(function, outside):
    first, second = np.array(outside).T
    assert np.isnan(function(first, second)).all()


def test_mass_range():
    assert np.isnan(relations.mass_from_ks([3.9, 11.1, np.nan])).all()


def test_mann_stars(shared_data):
    with (shared_data / "labels" / "mann2015.csv").open() as stream:
        mann = list(csv.DictReader(stream))
    made = script()
    gaia = made.read(shared_data / "labels" / "carmenes_ix.csv.gz")
    rows = made.nearest(mann, gaia)
    values = made.absolute([gaia[row] for row in rows])
    use = (rows >= 0) & (made.numbers([gaia[row] for row in rows], "ruwe") < 1.4)
    teff = relations.teff_from_colour(values["bp_rp"], column(mann, "[Fe/H]")) - column(mann, "Teff")
    assert abs(np.nanmedian(teff[use])) < 10
    assert np.nanstd(teff[use]) < 48
    radius = relations.radius_from_ks(values["m_ks"], column(mann, "[Fe/H]")) / column(mann, "R") - 1
    assert abs(np.nanmedian(radius[use])) < 0.01
    mass = relations.mass_from_ks(values["m_ks"]) / column(mann, "M") - 1
    assert abs(np.nanmedian(mass[use])) < 0.02
    metallicity = relations.m_h_from_ks(values["bp_ks"], values["m_ks"]) - column(mann, "[Fe/H]")
    assert np.nanstd(metallicity[use]) < 0.085


def test_mamajek_sequence(shared_data):
    lines = (shared_data / "labels" / "EEM_dwarf_UBVIJHK_colors_Teff.txt").read_text().splitlines()
    header = next(line for line in lines if line.startswith("#SpT") and "Teff" in line).lstrip("#").split()
    rows = [
        dict(zip(header, line.split(), strict=False)) for line in lines if line[:1] == "M" and line[2:4] in ("V ", ".5")
    ]
    for row in rows:
        m_ks = float(row["M_Ks"])
        if 4.7 < m_ks < 9.5:
            assert relations.mass_from_ks(m_ks) == pytest.approx(float(row["Msun"]), rel=0.08)
            assert relations.radius_from_ks(m_ks) == pytest.approx(float(row["R_Rsun"]), rel=0.08)
            assert relations.teff_from_colour(float(row["Bp-Rp"])) == pytest.approx(float(row["Teff"]), abs=110)
    assert len(rows) > 8


def test_shipped_coefficients_are_those_of_the_script(shared_data):
    shipped = json.loads((files("stargap") / "photometry" / "data" / "relations.json").read_text())
    made = json.loads(json.dumps(script().relations(shared_data / "labels")))
    for name in ("m_h_from_ks", "m_h_from_gaia", "teff_from_gaia"):
        assert made[name].keys() == shipped[name].keys()
        np.testing.assert_allclose(made[name]["coefficients"], shipped[name]["coefficients"], rtol=1e-5)
        assert made[name]["stars"] == shipped[name]["stars"]
    np.testing.assert_allclose(made["surface"]["covariance"], shipped["surface"]["covariance"], rtol=0.02)


def test_trial_of_the_metallicity_is_met():
    # an independent fit to 126 of these stars
    x, m = np.meshgrid(np.linspace(-0.8, 2.5, 9), np.linspace(-2, 2.5, 9))
    trial = -0.15823 + 0.55695 * x - 0.26169 * m + 0.0082386 * m**2 - 0.047927 * m**3 - 0.0021127 * m**4
    assert np.abs(fitted("m_h_from_ks")(x + 5, m + 7) - trial).max() < 0.03


def test_surface_covariance_is_positive():
    assert (np.linalg.eigvalsh(surface_covariance()) > 0).all()
