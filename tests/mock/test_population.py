"""Binaries, variable and young stars, wide pairs: what they change, and that they change nothing else."""

import numpy as np
import pytest
import torch

from stargap.catalogue.ages import is_young, kinematic_ages
from stargap.errors import UsageError
from stargap.mock.instrument import CHUNK, Blend, Truth, observe
from stargap.mock.nature import shipped_nature
from stargap.mock.population import PLAIN, Population, draw_kinds, draw_unresolved, young_orbits
from stargap.mock.survey import simulate_survey
from stargap.mock.targets import GAIA
from stargap.pixels import LOG_LAMBDA, SPEED_OF_LIGHT

EVERY = {"seed": 11, "junk": 0.1, "repeats": 0.1}


@pytest.fixture(scope="module")
def plain():
    (chunk,) = simulate_survey(CHUNK, population=PLAIN, **EVERY)
    return chunk


@pytest.fixture(scope="module")
def mixed():
    (chunk,) = simulate_survey(CHUNK, population=Population(0.5, 0.15, 0.15, 0.3), **EVERY)
    return chunk


def test_stars_of_no_kind_are_the_same_with_and_without_the_others(plain, mixed):
    touched = mixed.truth["binary"] | mixed.truth["young"]
    assert 0.3 < touched.mean() < 0.8
    for one, two, other in zip(plain.spectra, mixed.spectra, touched, strict=True):
        assert np.array_equal(one.flux, two.flux) != other
    for name in ("teff", "logg", "m_h", "active", "snr_r", "obsid", "source_id"):
        np.testing.assert_array_equal(plain.truth[name], mixed.truth[name])
    row = np.searchsorted(mixed.gaia["source_id"], mixed.truth["source_id"][~touched])
    for name in GAIA:
        np.testing.assert_array_equal(plain.gaia[name][row], mixed.gaia[name][row])


def test_only_dwarfs_are_of_a_kind_and_repeats_share_it(mixed):
    truth = mixed.truth
    for name in ("binary", "variable", "young", "wide_pair"):
        assert truth[name].dtype == bool
        assert truth[name].any()
        assert not truth[name][truth["kind"] != "dwarf"].any()
        for star in np.unique(truth["star"]):
            assert len(set(truth[name][truth["star"] == star].tolist())) == 1
    np.testing.assert_array_equal(np.isfinite(truth["companion_light"]), truth["binary"])


def test_binaries_are_brighter_and_redder_by_the_light_of_the_companion(plain, mixed):
    def placed(chunk):
        gaia = chunk.gaia
        with np.errstate(invalid="ignore"):
            return gaia["phot_g_mean_mag"] + 5 * np.log10(gaia["parallax"].clip(1e-3)) - 10, (
                gaia["phot_bp_mean_mag"] - gaia["phot_rp_mean_mag"]
            )

    row = np.searchsorted(mixed.gaia["source_id"], mixed.truth["source_id"])
    sharp = np.min([each.gaia["parallax"] / each.gaia["parallax_error"] for each in (plain, mixed)], axis=0)[row] > 50
    use = mixed.truth["binary"] & ~mixed.truth["young"] & sharp
    (g0, colour0), (g1, colour1) = placed(plain), placed(mixed)
    brighter, redder = (g1 - g0)[row][use], (colour1 - colour0)[row][use]
    light = mixed.truth["companion_light"][use]
    assert brighter.min() > -0.95
    assert np.corrcoef(brighter, -2.5 * np.log10(1 + light))[0, 1] > 0.9
    assert redder.min() > -1e-9
    assert redder.max() < 0.4
    raised = (mixed.gaia["ruwe"] > 1.4)[row]
    assert raised[use].mean() > raised[~mixed.truth["binary"]].mean() + 0.1


def test_companions_are_no_hotter_and_twins_add_as_much_light():
    labels = np.tile([[3600.0, 4.8, -0.2, 0.0]], (2000, 1))
    found = draw_unresolved(np.random.default_rng(2), labels)
    assert (found.labels[:, 0] <= 3600.0).all()
    assert (found.labels[:, 0] >= 2800.0).all()
    assert (found.labels[:, 2] == -0.2).all()
    order = np.argsort(found.labels[:, 0])
    assert (np.diff(found.light[order]) > 0).all()
    assert found.light.max() == pytest.approx(1.0, abs=0.01)
    assert 0.25 < np.isfinite(found.ruwe).mean() < 0.35


def truth_of(count):
    return Truth(
        labels=np.tile([[3500.0, 4.8, 0.0, 0.0]], (count, 1)),
        active=np.zeros(count, dtype=bool),
        rv=np.zeros(count),
        rv_used=np.zeros(count),
        snr_r=np.full(count, 100.0),
        snr_i=np.full(count, 100.0),
        spectrograph=np.ones(count, dtype=np.int64),
        fibre=np.ones(count, dtype=np.int64),
        resolution=np.full(count, 1800.0),
    )


def test_a_twin_at_rest_changes_nothing_and_a_moving_one_stands_between():
    """The blend is the light-weighted sum: of a twin at velocity v, what a star at v/2 looks like, to first order."""
    nature, wave = shipped_nature(), LOG_LAMBDA.wavelength
    labels = np.array([[3500.0, 4.8, 0.0, 0.0]])

    def seen(rv, light):
        blend = Blend(np.array([0]), labels, np.array([light]), np.array([rv]))
        return observe(nature, truth_of(2), wave, seed=3, blend=blend)[2].astype(float)

    alone = observe(nature, truth_of(2), wave, seed=3)[2].astype(float)
    np.testing.assert_allclose(seen(0.0, 1.0), alone, rtol=2e-5)
    np.testing.assert_array_equal(seen(60.0, 1.0)[1], alone[1])
    slope = np.gradient(alone[0], wave)
    for light in (1.0, 0.25):
        inner = slice(300, -300)
        shift = -np.sum((seen(40.0, light)[0] - alone[0])[inner] * (slope * wave)[inner])
        shift *= SPEED_OF_LIGHT / np.sum((slope * wave)[inner] ** 2)
        assert shift == pytest.approx(40.0 * light / (1 + light), rel=0.15)


def test_young_stars_are_found_by_their_kinematic_ages_and_others_are_not():
    pytest.importorskip("galpy")
    (chunk,) = simulate_survey(CHUNK, seed=4, junk=0.0, repeats=0.0, population=Population(0.0, 0.0, 0.15, 0.0))
    gaia, truth = chunk.gaia, chunk.truth
    stars = {name: gaia[name] for name in ("ra", "dec", "parallax", "pmra", "pmdec")}
    stars |= {f"e_{name}": gaia[f"{name}_error"] for name in ("parallax", "pmra", "pmdec")}
    found = kinematic_ages(stars | {"spectrum_id": truth["star"], "rv": truth["rv"], "e_rv": np.full(CHUNK, 0.1)})
    seen, young = is_young(found.columns, "rgb"), truth["young"]
    assert seen[young].mean() > 0.4
    assert seen[~young].mean() < 0.03
    assert np.nanmedian(found.columns["ln_jz"][young]) < np.nanmedian(found.columns["ln_jz"][~young]) - 3
    assert truth["active"][young].mean() > 2 * truth["active"][~young].mean()


def test_velocities_of_young_stars_are_one_motion_seen_from_the_sun():
    """Speed does not depend on the frame, and stars that share one motion converge."""
    many = young_orbits(np.random.default_rng(5), np.full(4000, 0.2))
    speed = np.sqrt(many["east"] ** 2 + many["north"] ** 2 + many["rv"] ** 2)
    assert np.sqrt(np.mean(speed**2)) == pytest.approx(np.sqrt(8**2 + 14**2 + 8**2 + 10**2 + 7**2 + 1.5**2), rel=0.03)
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    there = SkyCoord(many["ra"] * u.deg, many["dec"] * u.deg, distance=200 * u.pc).galactic
    height = there.cartesian.z.to_value(u.pc) + 20.8
    assert abs(height.mean()) < 1
    assert height.std() == pytest.approx(12, rel=0.1)
    assert (many["dec"] > -15).all()


def test_kinds_are_as_frequent_as_asked_and_more_often_active():
    rng = np.random.default_rng(1)
    active = rng.random(200_000) < 0.12
    kinds = draw_kinds(rng, Population(), np.ones(200_000, dtype=bool), active)
    for name, fraction in vars(Population()).items():
        mine = getattr(kinds, {"binaries": "binary", "variables": "variable", "pairs": "wide_pair"}.get(name, name))
        assert mine.mean() == pytest.approx(fraction, rel=0.05)
    assert active[kinds.young].mean() == pytest.approx(0.65, abs=0.02)
    assert active[kinds.variable].mean() == pytest.approx(0.4, abs=0.02)
    assert active[kinds.binary].mean() == pytest.approx(0.12, abs=0.01)


@pytest.mark.parametrize("bad", [{"binaries": -0.1}, {"pairs": 1.1}, {"young": 0.2}, {"variables": float("nan")}])
def test_fractions_that_make_no_sense_are_refused(bad):
    with pytest.raises(UsageError, match=f"population of {next(iter(bad))}"):
        Population(**bad)


def test_no_binary_no_blend():
    nothing = Blend(np.empty(0, dtype=int), np.empty((0, 4)), np.empty(0), np.empty(0))
    one, two = (observe(shipped_nature(), truth_of(1), LOG_LAMBDA.wavelength, seed=1, blend=b) for b in (None, nothing))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, two, strict=True))


def test_young_stars_nearer_than_their_height_are_not_at_one_place():
    near = young_orbits(np.random.default_rng(6), np.full(2000, 0.01))
    places = np.stack([near["ra"], near["dec"]], axis=1)
    assert len(np.unique(places.round(6), axis=0)) == 2000
