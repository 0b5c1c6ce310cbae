"""Every figure of the paper: what it shows, and that no table breaks it."""

from __future__ import annotations

import io
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from stargap.catalogue.precision import ErrorModel, Precision, fit_precision
from stargap.catalogue.repeat_scatter import repeat_scatter
from stargap.errors import UsageError
from stargap.figures.comparison import (
    apogee_figure,
    binaries_figure,
    differences_figure,
    literature_figure,
    velocity_figure,
)
from stargap.figures.diagrams import TRACKS, active_figure, hr_figure, kiel_figure, methods_figure
from stargap.figures.emulator import emulator_figure
from stargap.figures.panels import DENSE
from stargap.figures.precision import precision_figure
from stargap.figures.processing import processing_figure
from stargap.figures.survey import sky_figure, snr_figure, subclass_numbers, subtype_figure
from stargap.figures.transfer import residual_figure, tsne_figure
from stargap.theory.isochrones import shipped_isochrones

LABELS = ("teff", "logg", "m_h")
DENSE_FIGURES = ["sky", "velocity", "kiel", "hr", "active", "literature", "apogee", "methods"]
DENSE_FIGURES += ["differences", "binaries"]
UNCALIBRATED = Precision(errors={})


def make_stars(count, seed=0):
    """A table of stars that resemble M dwarfs."""
    rng = np.random.default_rng(seed)
    m_h = rng.normal(-0.1, 0.3, count)
    teff = rng.uniform(2900, 4100, count)
    bp_rp = 1.8 + (4100 - teff) / 700 + 0.2 * m_h
    return {
        "ra": rng.uniform(0, 360, count),
        "dec": np.degrees(np.arcsin(rng.uniform(-0.2, 0.9, count))),
        "snr_r": np.exp(rng.normal(2.8, 0.7, count)),
        "snr_i": np.exp(rng.normal(3.2, 0.7, count)),
        "rv": rng.normal(0, 40, count),
        "teff": teff,
        "logg": 4.8 - 0.0004 * (teff - 3500) + rng.normal(0, 0.05, count),
        "m_h": m_h,
        "bp_rp": bp_rp,
        "m_g": 4.0 + 2.6 * bp_rp - m_h,
        "g_mag": rng.normal(15.5, 1.0, count),
        "distance": rng.gamma(3.0, 80.0, count),
        "activity": (rng.random(count) < 0.3).astype(np.int32),
        "spt": rng.normal(2.0, 1.5, count),
        "subclass": np.array([f"dM{number}" for number in rng.integers(0, 7, count)], dtype=object),
        "gaia_source_id": 10**18 + rng.integers(0, max(count // 3, 1), count),
        "source": rng.choice(["Birky 2020", "Sarmento 2021"], count).astype(object),
    }


FIGURES = {
    "sky": lambda t: sky_figure(t["ra"], t["dec"]),
    "snr": lambda t: snr_figure(t["snr_r"], t["snr_i"]),
    "velocity": lambda t: velocity_figure(t["rv"], 0.9 * t["rv"] + 1.0),
    "kiel": lambda t: kiel_figure(t["teff"], t["logg"], t["m_h"]),
    "precision": lambda t: precision_figure(repeat_scatter(t, UNCALIBRATED)),
    "hr": lambda t: hr_figure(t["bp_rp"], t["m_g"], t["m_h"], t["g_mag"], t["distance"]),
    "active": lambda t: active_figure(t["bp_rp"], t["m_g"], t["m_h"], t["activity"]),
    "subtype": lambda t: subtype_figure(t["spt"], t["subclass"]),
    "literature": lambda t: literature_figure(t, others(t), t["source"], t["snr_r"]),
    "apogee": lambda t: apogee_figure(t, others(t)),
    "methods": lambda t: methods_figure({"ours": t, "SLAM": {name: t[name] for name in ("teff", "m_h")}}),
    "differences": lambda t: differences_figure(t, {"ULySS": others(t), "SLAM": {"teff": t["teff"], "m_h": t["m_h"]}}),
    "binaries": lambda t: binaries_figure(t["m_h"], t["m_h"] + 0.1, t["snr_r"]),
    "emulator": lambda t: emulator_figure(np.column_stack([t[name] for name in (*LABELS, "m_h")]), t["snr_r"] / 1e4),
    "residuals": lambda t: residual_figure(t["snr_r"] / 10, t["snr_r"] / 12),
    "tsne": lambda t: tsne_figure(*[{"synthetic": np.column_stack([t["ra"], t["dec"]])}] * 2),
}


def others(table):
    return {name: table[name] + shift for name, shift in zip(LABELS, (30.0, 0.05, -0.1), strict=True)}


def written(figure):
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=25)
        return file.getvalue()


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def panels(figure):
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


@pytest.mark.parametrize("name", FIGURES)
def test_any_table_makes_a_figure_with_units_on_its_axes(name):
    assert written(FIGURES[name](make_stars(1))).startswith(b"\x89PNG")
    table = make_stars(300)
    before = {key: values.copy() for key, values in table.items()}
    figure = FIGURES[name](table)
    for key, values in table.items():
        np.testing.assert_array_equal(values, before[key])
    shared = "".join(axis.get_xlabel() for axis in figure.axes)
    for axis in panels(figure) if name != "tsne" else ():
        words = axis.get_xlabel() + axis.get_ylabel() or shared
        assert re.search(r"\((km/s|K|dex|deg|mag|pc|subclasses|%)\)|S/N|stars|spectra|σ", words), words


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_makes_a_figure_that_says_so(name):
    figure = FIGURES[name](make_stars(0))
    written(figure)
    assert "no stars" in texts(figure)


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"emulator", "tsne"}))
def test_a_table_of_nulls_is_as_an_empty_one(name):
    table = make_stars(20)
    nulls = {key: np.full(20, np.nan) if values.dtype.kind == "f" else values for key, values in table.items()}
    nulls["subclass"] = np.full(20, "Non", dtype=object)
    assert "no stars" in texts(FIGURES[name](nulls))


@pytest.mark.parametrize("name", DENSE_FIGURES)
def test_many_stars_are_a_map(name):
    table = make_stars(2 * DENSE)
    table["activity"] = np.ones(2 * DENSE, dtype=np.int32)
    table["snr_r"] += 60.0
    for stars, kind in ((table, "QuadMesh"), (make_stars(100), "PathCollection")):
        figure = FIGURES[name](stars)
        kinds = {type(one).__name__ for axis in panels(figure)[:3] for one in axis.collections}
        assert kinds == {kind}, "one kind in all panels"


@pytest.mark.parametrize("name", ["sky", "literature"])
def test_equal_tables_make_equal_bytes(name):
    table = make_stars(200)
    assert written(FIGURES[name](table)) == written(FIGURES[name](table))


def test_titles_are_shown():
    table = make_stars(30)
    figure = kiel_figure(table["teff"], table["logg"], table["m_h"], title="simulated stars, 5 $ each")
    assert figure.get_suptitle() == "simulated stars, 5 $ each"
    written(figure)


def test_sky_has_the_centre_in_the_middle_and_longitude_to_the_left():
    # the Galactic centre, the pole, and l = 90 deg, b = 0 (in Cygnus)
    figure = sky_figure([266.405, 192.859, 318.004], [-28.936, 27.128, 48.330])
    places = np.degrees(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(places[0], [0, 0], atol=0.01)
    assert places[1, 1] == pytest.approx(90, abs=0.01)
    np.testing.assert_allclose(places[2], [-90, 0], atol=0.01)


def test_sky_density_is_stars_per_square_degree():
    rng = np.random.default_rng(2)
    count = 400_000
    figure = sky_figure(rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count))))
    density = figure.axes[0].collections[0].get_array()
    assert density.mean() == pytest.approx(count / 41_252.96, rel=0.01)


def test_snr_counts_every_spectrum_or_says_that_it_has_none():
    figure = snr_figure(np.array([4.0, 6.0, 20.0, np.nan, -9999.0, 0.0]), np.full(6, 10.0))
    top, bottom = figure.axes
    assert sum(patch.get_height() for patch in top.patches) == 3
    assert "66.7%" in top.texts[0].get_text()
    assert "3 without" in top.texts[0].get_text()
    assert "without" not in bottom.texts[0].get_text()
    assert top.lines[0].get_xdata() == [5.0, 5.0]


def test_subclasses():
    found = subclass_numbers(["M3", "dM3.5", "sdM1", "K7", "dK5", "K3", "", None, "dM", "A7IV", "M12", " M4 "])
    np.testing.assert_array_equal(found, [3, 3.5, 1, -1, -2, -3, *[np.nan] * 5, 4])


def test_subtypes_beyond_the_ends_are_counted():
    figure = subtype_figure([-250.0, 0.0, 40.0, np.nan], ["M0", "M1", "K2", "Non"])
    (axis,) = figure.axes
    bars = [patch for patch in axis.patches if hasattr(patch, "get_height")]
    assert bars[0].get_height() == bars[-1].get_height() == 1
    assert sum(bar.get_height() for bar in bars) == 3
    assert "n 3" in axis.texts[-1].get_text()
    assert "median +1.0" in axis.texts[-1].get_text(), "subclass less SpT"


def test_processing_gives_back_what_was_observed_and_shades_what_is_not_fitted():
    wave = np.arange(6000.0, 6100.0)
    observed, continuum = 5.0 + np.sin(wave / 7), np.linspace(4, 6, 100)
    good = np.ones(100, dtype=bool)
    good[20:30] = False
    figure = processing_figure(wave, observed / continuum, 0.1 / continuum, continuum, good)
    flux, error, normal, _ = figure.axes
    np.testing.assert_allclose(flux.lines[0].get_ydata(), observed)
    np.testing.assert_allclose(flux.lines[1].get_ydata(), continuum)
    np.testing.assert_allclose(error.lines[0].get_ydata(), np.where(good, 0.1, np.nan))
    for axis in figure.axes:
        (shade,) = axis.collections
        (path,) = shade.get_paths()
        assert path.vertices[:, 0].min() >= 6019.5
        assert path.vertices[:, 0].max() <= 6030.5
    assert normal.get_ylim()[0] < (observed / continuum).min()
    written(figure)
    bad = processing_figure(wave, np.full(100, np.nan), np.ones(100), np.zeros(100), np.zeros(100))
    assert texts(bad) == ["no pixels"] * 4
    written(bad)


def test_velocity_says_ours_less_the_reference():
    table = make_stars(500)
    figure = velocity_figure(table["rv"] + 3.0, table["rv"])
    assert any("median +3.0" in text for text in texts(figure))
    top, bottom = panels(figure)
    assert top.get_xlim() == top.get_ylim() == bottom.get_xlim()
    assert "Gaia RVS RV (km/s)" in bottom.get_xlabel()


def test_kiel_axes_point_as_usual_and_show_all_isochrones():
    table = make_stars(500)
    figure = kiel_figure(table["teff"], table["logg"], table["m_h"])
    axis = figure.axes[0]
    assert axis.xaxis_inverted()
    assert axis.yaxis_inverted()
    assert len(axis.lines) == len(TRACKS)
    right, left = sorted(axis.get_xlim())
    assert right < table["teff"].min() < table["teff"].max() < left
    solar = shipped_isochrones()
    np.testing.assert_array_equal(axis.lines[3].get_ydata(), solar.logg[solar.m_h == 0.0])


def test_scatter_of_repeats_is_that_of_one_spectrum():
    rng = np.random.default_rng(5)
    star = np.repeat(np.arange(3000), 2)
    snr = rng.uniform(5, 60, star.size)
    table = {"gaia_source_id": star, "snr_r": snr, "e_teff": 400 / snr, "e_rv": 50 / snr}
    for name, truth, a, b in (("teff", 3500.0, 400.0, 10.0), ("rv", 0.0, 50.0, 3.0)):
        table[name] = truth + rng.normal(size=star.size) * (a / snr + b)
    model = fit_precision(table, names=["teff", "rv"])
    figure = precision_figure(repeat_scatter(table, model))
    rv, teff, logg, m_h = figure.axes
    assert [text.get_text() for axis in (logg, m_h) for text in axis.texts] == ["no stars"] * 2
    for axis, a, b in ((rv, 50.0, 3.0), (teff, 400.0, 10.0)):
        x, y = axis.lines[0].get_xydata().T
        assert len(x) == 6, "bins of 10 from 0 to 60"
        np.testing.assert_allclose(y, a / x + b, rtol=0.12)
        assert "3,000 repeats of 3,000 stars" in axis.texts[0].get_text()
    # without a curve the scatter is that of all spectra of a star alike: right on average, flatter
    none = Precision(errors={"rv": ErrorModel(calibrated=False, stars=0, repeats=0)})
    plain = precision_figure(repeat_scatter(table, none))
    assert "too few" in plain.axes[0].texts[0].get_text()
    assert plain.axes[0].lines[0].get_ydata()[2] == pytest.approx(50 / 25 + 3, rel=0.4)
    with pytest.raises(UsageError, match="floats"):
        repeat_scatter(table | {"gaia_source_id": star + 0.5}, model)


def test_active_stars_alone_are_drawn_over_percentiles_of_all():
    table = make_stars(4000)
    figure = active_figure(table["bp_rp"], table["m_g"], table["m_h"], table["activity"])
    axis = figure.axes[0]
    assert len(axis.collections[0].get_offsets()) == table["activity"].sum()
    bright, middle, faint = (line.get_ydata() for line in axis.lines)
    assert (bright < middle).all()
    assert (middle < faint).all()
    assert axis.yaxis_inverted()
    # they are percentiles of M_G
    below = table["m_g"] < np.interp(table["bp_rp"], axis.lines[0].get_xdata(), bright)
    assert below.mean() == pytest.approx(0.15, abs=0.02)


def test_hr_diagram_counts_what_its_histograms_leave_out():
    table = make_stars(400)
    table["distance"][0] = 1e6
    figure = hr_figure(*(table[name] for name in ("bp_rp", "m_g", "m_h", "g_mag", "distance")))
    distance = panels(figure)[-1]
    assert sum(patch.get_height() for patch in distance.patches) == 399
    assert "1 outside" in texts(figure)


def test_literature_has_a_marker_a_source_and_numbers_above_50():
    table = make_stars(300)
    figure = literature_figure(table, others(table), table["source"], table["snr_r"])
    teff, _, _, sources = panels(figure)
    drawn = sum(len(points.get_offsets()) for points in teff.collections)
    assert drawn == 300
    high = int((table["snr_r"] > 50).sum())
    assert any(f"S/N > 50\nn {high}\nmedian -30" in text.get_text() for text in teff.texts)
    assert {label.get_text() for label in sources.get_yticklabels()} == {"Birky 2020", "Sarmento 2021"}
    assert sum(bar.get_width() for bar in sources.patches) == 300 + high


def test_apogee_metallicity_is_compared_for_warm_stars_alone():
    table = make_stars(1000)
    apogee = others(table)
    figure = apogee_figure(table, apogee)
    warm = int((apogee["teff"] > 3500).sum())
    said = [axis.texts[-1].get_text() for axis in panels(figure)[:3]]
    assert said[0].startswith("n 1,000\n")
    assert said[2].startswith(f"n {warm}\n")
    for top, bottom in zip(panels(figure)[:3], panels(figure)[3:], strict=True):
        assert top.get_xlim() == top.get_ylim() == bottom.get_xlim()


def test_methods_share_limits_and_say_what_one_has_not():
    table = make_stars(200)
    slam = {name: table[name] for name in ("bp_rp", "m_g", "teff", "m_h")}
    figure = methods_figure({"ours": table, "SLAM": slam})
    above, below = panels(figure)[:2], panels(figure)[2:]
    assert [axis.get_title() for axis in above] == ["ours", "SLAM"]
    assert above[0].get_xlim() == above[1].get_xlim()
    assert below[0].get_ylim() == below[1].get_ylim()
    assert texts(figure) == ["no log g"]
    written(methods_figure({}))


def test_differences_share_limits_in_a_row():
    table = make_stars(500)
    figure = differences_figure(table, {"ULySS": others(table), "SLAM": {"teff": table["teff"] - 500}})
    rows = np.array(panels(figure)).reshape(3, 2)
    for row in rows:
        assert row[0].get_ylim() == row[1].get_ylim()
    assert "median +500" in rows[0, 1].texts[-1].get_text()
    assert rows[1, 1].texts[0].get_text() == "no stars"
    written(differences_figure(table, {}))


def test_binaries_above_each_snr():
    table = make_stars(600)
    figure = binaries_figure(table["m_h"] + 0.1, table["m_h"], table["snr_r"])
    for axis, least in zip(panels(figure), (5, 20, 50), strict=True):
        rows = table["snr_r"] > least
        assert axis.get_title() == f"S/N > {least}"
        assert len(axis.collections[0].get_offsets()) == rows.sum()
        low, high = np.percentile(table["m_h"][rows] + 0.1, [5, 95])
        assert axis.texts[-1].get_text() == f"5 to 95 %: {low:+.1f} to {high:+.1f}"
        assert "median +0.10" in axis.texts[-2].get_text()
    assert "no stars" in texts(binaries_figure([0.1], [0.1], [10.0]))


def test_the_gallery_has_every_figure_and_is_small():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d+) ", page, flags=re.MULTILINE) == [str(number) for number in range(1, 19)]
    pictures = sorted((docs / "figures").glob("*.png"))
    assert {f"figures/{path.name}" for path in pictures} == set(re.findall(r"\((figures/[^)]+)\)", page))
    assert all(path.stat().st_size <= 40_000 for path in pictures)
    for module, function in re.findall(r"^## .*`(\w+)\.(\w+)\(", page, flags=re.MULTILINE):
        assert hasattr(import_module(f"stargap.figures.{module}"), function)
