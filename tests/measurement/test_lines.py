"""Bands and lines against plain numpy on one spectrum, with the published definitions written down a second time."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.native import morton, native

from stargap.features import FEATURES, feature
from stargap.measurement.bands import line_width
from stargap.measurement.halpha import CHI, CHI_SCATTER, halpha_luminosity, measure_halpha
from stargap.measurement.lines import line_columns, measure_feature
from stargap.measurement.stack import stack
from stargap.pixels import BLUE_WAVELENGTH, LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.spectrum import Spectrum
from stargap.tables.columns import CATALOGUE, MEASURED

WAVE = np.concatenate([BLUE_WAVELENGTH, LOG_LAMBDA.wavelength])
BLUE_FLUX = 0.3 + 0.05 * np.sin(BLUE_WAVELENGTH / 3) + 0.2 * np.exp(-0.5 * ((BLUE_WAVELENGTH - 4863) / 2) ** 2)
"""What stands for the pixels of stars that the emulator does not have."""
TRIPLET = [(8474, 8484), (8563, 8577), (8619, 8642), (8700, 8725), (8776, 8792)]
PUBLISHED = {
    "tio1": ("air", (6718, 6723), [(6703, 6708)]),
    "tio2": ("air", (7058, 7061), [(7043, 7046)]),
    "tio3": ("air", (7092, 7097), [(7079, 7084)]),
    "tio4": ("air", (7130, 7135), [(7115, 7120)]),
    "tio5": ("air", (7126, 7135), [(7042, 7046)]),
    "tio6": ("air", (7745, 7765), [(7550, 7570)]),
    "tio7": ("air", (8440, 8470), [(8400, 8420)]),
    "cah1": ("air", (6380, 6390), [(6345, 6355), (6410, 6420)]),
    "cah2": ("air", (6814, 6846), [(7042, 7046)]),
    "cah3": ("air", (6960, 6990), [(7042, 7046)]),
    "caoh": ("air", (6230, 6240), [(6345, 6354)]),
    "vo1": ("air", (7430, 7470), [(7550, 7570)]),
    "vo2": ("air", (7920, 7960), [(8130, 8150)]),
    "color_1": ("vacuum", (8900, 9000), [(7350, 7450)]),
    # The Hammer in vacuum, as PyHammer has it
    "na_d": ("vacuum", (5881.6297, 5906.6364), [(5911.6378, 5936.6445)]),
    "na_8190": ("vacuum", (8179.2482, 8203.2547), [(8153.2412, 8177.2477)]),
    "k_7699_ew": ("vacuum", (7696, 7706), [(7688, 7694), (7708, 7714)]),
    "ca_8498_ew": ("air", (8484, 8513), TRIPLET),
    "ca_8542_ew": ("air", (8522, 8562), TRIPLET),
    "ca_8662_ew": ("air", (8642, 8682), TRIPLET),
    # the authors give centres and widths in microns
    "mann_6118_ew": ("vacuum", (6118 - 10, 6118 + 10), [(5660, 5675), (6586, 6607)]),
    "mann_6232_ew": ("vacuum", (6232 - 10, 6232 + 10), [(5660, 5675), (6586, 6607)]),
    "mann_6416_ew": ("vacuum", (6416 - 20.5, 6416 + 20.5), [(5660, 5675), (6586, 6607)]),
    "mann_7540_ew": ("vacuum", (7540 - 10, 7540 + 10), [(7390, 7500), (8100, 8160)]),
    "mann_8208_ew": ("vacuum", (8208 - 17.5, 8208 + 17.5), [(8100, 8160), (8230, 8300)]),
    "mann_8684_ew": ("vacuum", (8684 - 13, 8684 + 13), [(8590, 8620), (8890, 8920)]),
    # the vacuum wavelength that SDSS's pipeline publishes, with the windows of H-alpha
    "hbeta_ew": ("vacuum", (4862.683 - 7, 4862.683 + 7), [(4843.073, 4853.073), (4872.293, 4882.293)]),
    "he_d3_ew": ("air", (5875.6 - 2.5, 5875.6 + 2.5), [(5871.1 - 1.25, 5871.1 + 1.25), (5881.1 - 1.25, 5881.1 + 1.25)]),
    "halpha_ew": ("vacuum", (6564.614 - 7, 6564.614 + 7), [(6545.004, 6555.004), (6574.224, 6584.224)]),
}
"""Reid 1995, Lepine 2003 and 2013, Covey 2007, Cenarro 2001, Mann 2013 and Kemmer 2025, each with others."""


def fine(flux, low, high, rv):
    """Wavelengths (A, rest frame) about every 0.001 A and the flux there, constant within each native pixel."""
    count = round((high - low) * 1e3)
    rest = low + (high - low) * (np.arange(count) + 0.5) / count
    pixel = np.searchsorted(WAVE * 10 ** (LOG_LAMBDA.step / 2), rest * (1 + rv / SPEED_OF_LIGHT))
    return rest, flux[pixel]


def expected(one, flux, rv):
    """One feature by plain integration."""
    scale, band, reference = PUBLISHED[one.name]
    band, *reference = (morton(np.array(edges)) if scale == "air" else np.array(edges) for edges in (band, *reference))
    means = [fine(flux, *side, rv)[1].mean() for side in reference]
    wave, inside = fine(flux, *band, rv)
    if one.kind == "ratio":
        return inside.mean() / np.mean(means)
    centres, widths = np.mean(reference, axis=1), np.diff(reference, axis=1)[:, 0]
    line = np.polyval(np.polyfit(centres, means, 1, w=np.sqrt(widths)), wave)
    return (-1 if one.emission else 1) * (1 - inside / line).mean() * (band[1] - band[0])


def pixels(batch, row):
    return torch.cat([batch.blue_flux[row], batch.flux[row]]).double().numpy()


@pytest.fixture(scope="module")
def stars(simulate, spectra):
    labels = np.array([[4000.0, 4.7, 0.1, 0.0], [3500.0, 4.8, -0.3, 0.12], [3000.0, 5.1, 0.0, 0.0]])
    made = simulate(3, seed=31, snr=1e4, labels=labels, rv=np.array([-150.0, 20.0, 90.0]), bad_pixels=False)
    flux, ivar = (getattr(to_log_lambda(spectra(made)), name).numpy() for name in ("flux", "ivar"))
    blue = flux[:, :1] * BLUE_FLUX / BLUE_FLUX[-1]
    return native(np.hstack([blue, flux]), np.hstack([1e7 + 0 * blue, ivar])), torch.as_tensor(made.rv)


def test_the_table_has_every_published_definition():
    assert {one.name for one in FEATURES} == PUBLISHED.keys()
    for one in FEATURES:
        scale, band, reference = PUBLISHED[one.name]
        theirs = [morton(np.array(edges)) if scale == "air" else np.array(edges) for edges in (band, *reference)]
        ours, beside = one.vacuum()
        np.testing.assert_allclose([ours, *beside], theirs, atol=0.02, err_msg=one.name)


@pytest.mark.parametrize("name", [one.name for one in FEATURES if one.name != "halpha_ew"])
def test_features_equal_plain_integration(name, stars):
    batch, rv = stars
    one = feature(name)
    found = measure_feature(one, batch, rv).mean
    for row in range(len(batch)):
        value = expected(one, pixels(batch, row), float(rv[row]))
        # edges of pixels are off by up to 0.0005 A of at least 2.5 A
        assert found[row].item() == pytest.approx(value, rel=4e-4, abs=2e-3)


def test_halpha_has_a_continuum_that_is_level_within_the_line(stars):
    batch, rv = stars
    found = measure_halpha(batch, rv).width
    _, band, reference = PUBLISHED["halpha_ew"]
    for row in range(len(batch)):
        flux, velocity = pixels(batch, row), float(rv[row])
        level = np.mean([fine(flux, *side, velocity)[1].mean() for side in reference])
        assert found[row].item() == pytest.approx(14 * (fine(flux, *band, velocity)[1].mean() / level - 1), abs=2e-3)


def test_molecules_get_stronger_towards_cooler_stars(stars):
    """So that the comparisons above are of spectra with bands."""
    for name in ("tio2", "tio5", "cah2", "cah3", "caoh"):
        values = measure_feature(feature(name), *stars).mean
        assert values[0] - 0.05 > values[1] > values[2] + 0.05


@pytest.fixture(scope="module")
def repeats(simulate, spectra):
    """One star 1,500 times with noise of S/N 40 on its pixels, and the star itself."""
    star = simulate(1, seed=33, snr=1e5, labels=[[3400.0, 4.9, -0.2, 0.08]], rv=np.array([30.0]), bad_pixels=False)
    flux = to_log_lambda(spectra(star)).flux[0].double().numpy()
    flux = np.concatenate([flux[0] * BLUE_FLUX / BLUE_FLUX[-1], flux])
    sigma = np.sqrt(flux.clip(0.05)) / 40
    sigma[::7] *= 3
    noise = np.random.default_rng(34).standard_normal((1500, flux.size))
    return native(flux + sigma * noise, sigma**-2), native(flux, sigma**-2)


def test_errors_equal_the_scatter_of_repeats(repeats):
    many, one = repeats
    for name in PUBLISHED.keys() - {"halpha_ew"}:
        values = measure_feature(feature(name), many, torch.full((1500,), 30.0)).mean
        truth = measure_feature(feature(name), one, torch.full((1,), 30.0))
        # 1,500 repeats: known to 1.8 %
        assert truth.variance.sqrt().item() == pytest.approx(values.std().item(), rel=0.08), name
        assert values.mean().item() == pytest.approx(truth.mean.item(), abs=0.15 * values.std().item()), name


@pytest.mark.parametrize("slope", [0.0, 0.003])
@pytest.mark.parametrize("depth", [1.5, -4.0])
def test_a_planted_line_is_recovered_on_a_sloping_continuum(depth, slope):
    rv = 40.0
    apart = WAVE / (1 + rv / SPEED_OF_LIGHT) - 7701.08
    line = depth * np.exp(-0.5 * (apart / 1.2) ** 2) / (1.2 * np.sqrt(2 * np.pi))
    level = 1 + slope * apart.clip(-50, 50)
    batch = native(level * (1 - line))
    found = line_width(batch, torch.tensor([rv]), (7694.0, 7708.0), [(7680.0, 7690.0), (7712.0, 7722.0)])
    assert found.mean.item() == pytest.approx(depth, rel=2e-3)


def test_a_line_of_the_side_of_the_noise_is_null():
    rng = np.random.default_rng(35)
    batch = native(rng.normal(0, 1, (1000, WAVE.size)), 1.0)
    for name in ("k_7699_ew", "ca_8542_ew", "mann_8208_ew", "cah1"):
        values = measure_feature(feature(name), batch, torch.zeros(1000)).mean
        assert torch.isfinite(values).sum() < 12, name  # 3 sigma by chance: 0.13 %


def test_a_gap_gives_nulls_and_no_others():
    ivar = np.where(np.abs(WAVE - 8544) < 3, 0.0, 1e4)
    columns = line_columns(native(np.ones(WAVE.size), ivar), torch.zeros(1), np.ones(1))
    nulls = {name for name in PUBLISHED if np.isnan(columns[name][0])}
    assert nulls == {"ca_8542_ew"}
    assert np.isnan(columns["e_ca_8542_ew"][0])
    nothing = line_columns(native(np.ones(WAVE.size)), torch.full((1,), torch.nan), np.ones(1))
    assert all(np.isnan(nothing[name][0]) for name in PUBLISHED)


def test_noise_above_the_stated_one_scales_errors_alone(stars):
    batch, rv = stars
    plain, loud = line_columns(batch, rv, np.ones(3)), line_columns(batch, rv, np.full(3, 1.5))
    for name in PUBLISHED:
        np.testing.assert_array_equal(loud[name], plain[name])
        np.testing.assert_allclose(loud[f"e_{name}"], 1.5 * plain[f"e_{name}"])


# --- activity ---------------------------------------------------------------------------------------------------


def test_luminosity_is_chi_times_the_width():
    """Douglas et al. (2014): chi of M0, M3 and M9, and halfway between M3 and M4."""
    spt = np.array([0.0, 3.0, 9.0, 3.5, -0.3, -1.0, 9.6, np.nan])
    value, error = halpha_luminosity(np.full(8, 4.0), np.zeros(8), spt)
    chi = np.array([6.6453e-5, 4.4872e-5, 0.3522e-5, (4.4872e-5 + 3.5926e-5) / 2, 6.6453e-5])
    np.testing.assert_allclose(value[:5], 4 * chi)
    assert np.isnan(value[5:]).all()
    np.testing.assert_allclose(error[:2], 4e-5 * np.array([0.6207, 0.4967]))
    noisy = halpha_luminosity(np.zeros(1), np.full(1, 0.2), np.zeros(1))[1]
    np.testing.assert_allclose(noisy, 0.2 * 6.6453e-5)
    assert len(CHI) == len(CHI_SCATTER) == 10


def test_probability_of_activity_is_that_of_the_noise():
    width, snr = 0.4, 30.0
    line = width * np.exp(-0.5 * ((WAVE - 6564.614) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    noise = np.random.default_rng(3).standard_normal((4000, WAVE.size)) / snr
    one = measure_halpha(native(1 + line, snr**2), torch.zeros(1))
    many = measure_halpha(native(1 + line + noise, snr**2), torch.zeros(4000))
    # the share of noisy spectra with EW > 0.75 A, known to 0.5 %
    assert (many.active == 1).double().mean().item() == pytest.approx(one.probability.item(), abs=0.02)
    assert 0.005 < one.probability.item() < 0.3
    assert torch.isnan(measure_halpha(native(np.zeros(WAVE.size)), torch.zeros(1)).probability).all()


def test_columns_are_those_of_the_table():
    for schema in (MEASURED, CATALOGUE):
        by_name = {column.name: column for column in schema}
        for one in FEATURES:
            assert by_name[one.name].description == one.about
            assert by_name[one.name].unit == ("Angstrom" if one.kind == "width" else "")
            assert f"e_{one.name}" in by_name


# --- blueward of the log-lambda grid ----------------------------------------------------------------------------

WHOLE = 10 ** (1e-4 * np.arange(35682, 39588))
"""The pixels of LAMOST's files."""
FINER = 10 ** (1e-4 * np.arange(35682.3, 39588.0, 0.4))
COARSER = 10 ** (1e-4 * np.arange(35682.3, 39588.0, 1.2))
"""Pixels that are averaged over those of the grid, and interpolated."""
CENTRE = {"hbeta_ew": 4862.683, "he_d3_ew": 5877.249}
"""Of the lines (A, vacuum)."""


def observed(name, width=0.0, rv=0.0, wave=WHOLE, sigma=None):
    """A spectrum with a line in emission on a sloping continuum, without noise, at LAMOST's line spread by default."""
    centre = CENTRE[name]
    sigma = centre / 1800 / 2.3548 if sigma is None else sigma
    rest = wave / (1 + rv / SPEED_OF_LIGHT)
    line = width * np.exp(-0.5 * ((rest - centre) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return Spectrum(wave, (0.3 + 1e-4 * (rest - centre)) * (1 + line), np.full(wave.size, 1e6))


def emission(name, spectrum, rv=0.0):
    found = measure_feature(feature(name), to_log_lambda([spectrum]), torch.tensor([rv]))
    return found.mean.item(), found.variance.sqrt().item()


@pytest.mark.parametrize("rv", [-600.0, -31.0, 0.0, 600.0])
@pytest.mark.parametrize("width", [2.5, -0.8])
def test_hbeta_is_positive_in_emission_at_the_velocity_of_the_star(width, rv):
    value, error = emission("hbeta_ew", observed("hbeta_ew", width, rv), rv)
    assert value == pytest.approx(width, abs=0.02)
    assert 0.003 < error < 0.1
    for wave in (FINER, COARSER):
        value, _ = emission("hbeta_ew", observed("hbeta_ew", width, rv, wave, sigma=2.0), rv)
        assert value == pytest.approx(width, abs=0.03)


@pytest.mark.parametrize("rv", [-600.0, -160.0, -120.0, -31.0, 0.0, 600.0])
@pytest.mark.parametrize("width", [2.5, -0.8])
def test_he_d3_has_nine_tenths_of_a_line_wherever_it_is_on_the_edge_of_the_grid(width, rv):
    value, error = emission("he_d3_ew", observed("he_d3_ew", width, rv), rv)
    assert value == pytest.approx(0.9 * width, rel=0.02)
    assert 0.003 < error < 0.1
    for wave in (FINER, COARSER):  # which broaden it
        value, _ = emission("he_d3_ew", observed("he_d3_ew", width, rv, wave), rv)
        assert value == pytest.approx(0.87 * width, rel=0.04)


@pytest.mark.parametrize(("name", "lost", "seen"), [("hbeta_ew", 900.0, 600.0), ("he_d3_ew", -900.0, -600.0)])
def test_lines_are_null_where_they_are_not_covered_whole(name, lost, seen):
    assert np.isnan(emission(name, observed(name, 2.0, lost), lost)).all()
    assert np.isfinite(emission(name, observed(name, 2.0, seen), seen)).all()
    for edge in (CENTRE[name] + 7, 5875):
        assert np.isnan(emission(name, observed(name, 2.0, wave=WHOLE[edge < WHOLE]))).all()
    spectrum = observed(name, 2.0)
    spectrum.ivar[np.abs(WHOLE - CENTRE[name] - 2).argmin()] = 0.0
    assert np.isnan(emission(name, spectrum)).all()


def test_he_d3_lies_on_the_grid_alone_where_the_star_recedes():
    assert np.isfinite(emission("he_d3_ew", observed("he_d3_ew", 2.0, 200.0, WHOLE[WHOLE > 5874]), 200.0)).all()


@pytest.mark.parametrize(("name", "rv"), [("hbeta_ew", 0.0), ("he_d3_ew", 60.0), ("he_d3_ew", -300.0)])
def test_emission_is_no_spike_and_a_hit_pixel_is(name, rv):
    # of He I D3 the part outside raises the continuum
    inside = pytest.approx(40.0, rel=1e-2) if name == "hbeta_ew" else pytest.approx(40.0 * 0.81, rel=2e-2)
    assert emission(name, observed(name, 40.0, rv), rv)[0] == inside
    hit = observed(name, 0.0, rv)
    hit.flux[np.abs(WHOLE - CENTRE[name] * (1 + rv / SPEED_OF_LIGHT)).argmin()] *= 30
    batch = to_log_lambda([hit])
    blue = rv <= 0
    assert int((batch.blue_ivar == 0).sum()) == blue
    assert batch.spikes.tolist() == [not blue]  # counted on the grid alone
    assert np.isnan(emission(name, hit, rv)).all()


def test_pixels_of_the_grid_do_not_see_those_blueward_of_it(stars):
    batch, _ = stars
    spectra = [Spectrum(WAVE, pixels(batch, row), np.full(WAVE.size, 1e4)) for row in range(len(batch))]
    blue = BLUE_WAVELENGTH.size
    spectra[0].flux[blue - 5 : blue] *= 60
    spectra[0].flux[blue] *= 10  # a spike, if not beside those
    whole = to_log_lambda(spectra)
    cut = to_log_lambda([Spectrum(WAVE[blue:], one.flux[blue:], one.ivar[blue:]) for one in spectra])
    for name in ("flux", "ivar", "scale", "spikes", "resolution"):
        assert torch.equal(getattr(whole, name), getattr(cut, name))
    assert whole.spikes.tolist() == [1, 0, 0]
    assert whole.blue_ivar[1:].all()
    assert not cut.blue_ivar.any()


@pytest.mark.parametrize("name", CENTRE)
def test_stacks_keep_lines_blueward_of_the_grid(name):
    velocity, pixel = [-80.0, 10.0, 100.0], LOG_LAMBDA.step * np.log(10.0)
    mean = stack([observed(name, 2.5, rv) for rv in velocity], rv=velocity)
    value, error = emission(name, mean, 10.0)
    left = (90.0 / SPEED_OF_LIGHT - pixel) * np.sqrt(2.0 / 3.0)  # two of three are shifted by a pixel
    broad = CENTRE[name] * np.hypot(1 / 1800 / 2.3548, left)
    assert value == pytest.approx(emission(name, observed(name, 2.5, 10.0, sigma=broad), 10.0)[0], abs=0.01)
    assert error == pytest.approx(emission(name, observed(name, 2.5, 10.0), 10.0)[1] / np.sqrt(3), rel=0.1)
    red = [Spectrum(WHOLE[-1880:], np.ones(1880), np.ones(1880))] * 2
    assert stack(red, rv=[0.0, 0.0]).wavelength.size == LOG_LAMBDA.count


# --- real stars -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_of_lines():
    """The functions that write docs/lines.md."""
    docs = Path(__file__).parents[2] / "docs"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(docs / "results")
        return runpy.run_path(str(docs / "make_lines.py"))


@pytest.mark.slow
def test_hbeta_of_real_stars_goes_with_halpha(shared_data, page_of_lines):
    """LAMOST's M dwarfs: emission where H-alpha has it, and none, within the noise, where it does not."""
    _, stars = page_of_lines["good_stars"](shared_data)
    found = page_of_lines["emission"](stars, "hbeta_ew")
    assert found["measured"] > 70
    assert (found["active"], found["quiet"]) == (10, 30)
    assert found["detected"] >= 7
    assert found["correlation"] > 0.8
    assert 1.0 < found["ratio"] < 2.0
    assert abs(found["level"]) < 0.2
    assert found["scatter"] < 1.2 * found["error"]


@pytest.mark.slow
def test_he_d3_of_real_stars_is_of_active_ones(shared_data, page_of_lines):
    """LAMOST's M dwarfs, of which few are bright enough, and mean spectra of SDSS, where late subtypes are active."""
    _, stars = page_of_lines["good_stars"](shared_data)
    found = page_of_lines["emission"](stars, "he_d3_ew")
    assert found["measured"] > 70
    assert (found["active"], found["known"], found["quiet"]) == (10, 3, 17)
    assert found["found"] >= 2
    assert 0.1 < found["strength"] < 0.2
    assert abs(found["level"]) < 0.05
    assert found["scatter"] < 1.5 * found["error"]
    means = page_of_lines["helium_by_type"](shared_data)
    assert max(abs(means[kind]) for kind in page_of_lines["EARLY"]) < 0.1
    assert 0.1 < means["M5"] < means["M6"] < means["M7"]


@pytest.mark.slow
def test_indices_of_real_stars_follow_published_ones(shared_data, page_of_lines):
    """Against Lepine et al. (2013): other telescopes, whose indices differ among themselves by as much."""
    pairs = page_of_lines["published_pairs"](shared_data)
    assert len(pairs["tio5"][0]) == 20
    for name, (ours, theirs) in pairs.items():
        known = np.isfinite(ours - theirs)
        assert np.corrcoef(ours[known], theirs[known])[0, 1] > (0.5 if name == "zeta" else 0.75), name
        off = np.median((ours - theirs)[known])
        assert abs(off) < (0.5 if name == "halpha_ew" else 0.15 if name == "zeta" else 0.08), name
