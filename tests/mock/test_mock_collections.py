"""Simulated files of DESI and SDSS-V: the same stars, in those surveys' layouts, as specutils and our readers find."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from stargap.mock import write
from stargap.mock.collections import write_desi, write_mwm_visits
from stargap.mock.spectrographs import DESI_ARMS, SPECTROGRAPHS_BY_NAME, desi_arm
from stargap.mock.survey import simulate_survey
from stargap.pixels import SPEED_OF_LIGHT
from stargap.spectra.inputs import find_spectra
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.tables.read import read_table

MANY = {"seed": 4, "junk": 0.2, "repeats": 0.5}


@pytest.fixture(scope="module", params=["desi", "sdss-v"])
def written(request, tmp_path_factory):
    """A folder, its chunk and its instrument."""
    (chunk,) = simulate_survey(8, **MANY, instrument=request.param)
    with pytest.MonkeyPatch.context() as patch:  # simulated once
        patch.setattr(write, "simulate_survey", lambda *given, **options: iter([chunk]))
        folder = write.write_survey(tmp_path_factory.mktemp(request.param), 8, **MANY, instrument=request.param)
    return folder, chunk, request.param


def test_rows_of_the_truth_are_those_of_an_ingest(written):
    folder, chunk, _ = written
    paths = find_spectra([folder / "spectra"])
    truth = read_table(folder / "truth.parquet")
    assert [str(path.relative_to(folder / "spectra")) for path in paths] == truth["path"].tolist()
    assert truth["spectrum_id"].tolist() == list(range(len(paths)))
    assert len(paths) > 8
    assert chunk.truth["star"].tolist() == truth["star"].tolist()


def test_what_is_read_is_what_was_observed(written):
    folder, chunk, instrument = written
    for one in chunk.spectra:
        found = read_spectrum(folder / "spectra" / one.facts.path)
        for name in ("layout", "target_id", "designation", "plan_id", "lmjd", "fiber", "exposure"):
            assert getattr(found.facts, name) == getattr(one.facts, name), name
        assert found.facts.ra == pytest.approx(one.facts.ra, abs=1e-7)
        assert found.facts.dec == pytest.approx(one.facts.dec, abs=1e-7)
        assert found.facts.frame is None
        both = (found.wavelength > 6000) & (found.wavelength < 8900)
        if instrument == "desi":
            good = one.ivar > 0
            np.testing.assert_allclose(found.wavelength, one.wavelength, atol=1e-6)
            np.testing.assert_allclose(found.ivar, one.ivar, rtol=1e-6)
            tolerance = 1e-5 * np.abs(one.flux).max()
            np.testing.assert_allclose(found.flux[good], one.flux[good], rtol=1e-4, atol=tolerance)
            np.testing.assert_allclose(found.resolution[both], one.resolution[both], rtol=0.01)
        else:
            inside = one.ivar * np.interp(one.wavelength, found.wavelength, found.ivar) > 0
            inside &= (one.wavelength > 6000) & (one.wavelength < 8900)
            ivar, flux = (
                np.interp(one.wavelength, found.wavelength, getattr(found, n))[inside] for n in ("ivar", "flux")
            )
            assert np.median(ivar / one.ivar[inside]) == pytest.approx(1.0, abs=0.02)
            shared = (flux - one.flux[inside]) * np.sqrt(one.ivar[inside])
            assert np.median(np.abs(shared)) < 1.0  # less than the noise that interpolation changes


def test_specutils_reads_the_files(written):
    specutils = pytest.importorskip("specutils")
    folder, chunk, instrument = written
    one = next(spectrum for spectrum in chunk.spectra if spectrum.facts.path.endswith("#0"))
    path = folder / "spectra" / one.facts.path.removesuffix("#0")
    name = "DESI coadd" if instrument == "desi" else "SDSS-V mwm"
    ours = read_spectrum(f"{path}#0")
    for theirs in specutils.SpectrumList.read(path, format=name):
        wave, flux = theirs.spectral_axis.to_value("AA"), np.atleast_2d(theirs.flux.value)[0]
        if instrument == "desi":
            known = np.isin(wave.round(1), ours.wavelength[ours.ivar > 0].round(1))
            known &= ~np.isin(wave.round(1), shared_pixels())
            same = np.interp(wave[known], ours.wavelength, ours.flux)
            np.testing.assert_allclose(flux[known], same, rtol=1e-4, atol=1e-6 * flux.max())
        else:
            assert wave.size == ours.wavelength.size


def shared_pixels():
    wave, count = np.unique(np.concatenate([desi_arm(arm) for arm in DESI_ARMS]), return_counts=True)
    return wave[count > 1].round(1)


def test_arms_of_desi_share_the_information_where_they_overlap(tmp_path):
    wave = SPECTROGRAPHS_BY_NAME["desi"].wavelength
    facts = Facts(layout="desi", target_id=1, ra=1.0, dec=2.0, fiber=3, plan_id="80001", lmjd=59000, exposure=900.0)
    star = Spectrum(wave, np.ones(wave.size), np.full(wave.size, 4.0), facts, np.full(wave.size, 4000.0))
    path = write_desi(tmp_path / "coadd-0-80001-thru20200101.fits", [star] * 40, rng=np.random.default_rng(1))
    with fits.open(path) as hdul:
        arms = {arm: (hdul[f"{arm}_FLUX"].data, hdul[f"{arm}_IVAR"].data) for arm in DESI_ARMS}
    for one, other in (("B", "R"), ("R", "Z")):
        left, right = (np.isin(desi_arm(arm), np.intersect1d(desi_arm(one), desi_arm(other))) for arm in (one, other))
        np.testing.assert_allclose(arms[one][1][:, left], 2.0)
        np.testing.assert_allclose(arms[other][1][:, right], 2.0)
        apart = arms[one][0][:, left] - arms[other][0][:, right]
        assert apart.std() == pytest.approx(1.0, rel=0.1)  # two of variance 1/2 about the mean, opposite


def test_visits_of_sdss_v_are_moved_to_rest_and_keep_their_noise(tmp_path):
    wave = SPECTROGRAPHS_BY_NAME["sdss-v"].wavelength
    rng, velocity = np.random.default_rng(2), 123.4
    line = 1 - 0.5 * np.exp(-0.5 * ((wave / 7000.0 - 1) * SPEED_OF_LIGHT / 150.0) ** 2)
    noise = rng.normal(0, 0.01, wave.size)
    facts = Facts(
        layout="sdss-mwm", target_id=54000001, release="v6_1_3", plan_id="1", lmjd=59000, exposure=1.0, ra=1.0, dec=1.0
    )
    spectra = [Spectrum(wave, flux, np.full(wave.size, 1e4), facts) for flux in (line, noise)]
    path = write_mwm_visits(tmp_path / "mwmVisit-0.6.0-54000001.fits", spectra, np.full(2, velocity), np.full(2, 3.0))
    with fits.open(path) as hdul:
        flux = hdul["BOSS/APO"].data["flux"]
    place = 7000.0 * (1 - velocity / SPEED_OF_LIGHT)
    assert np.average(wave, weights=1.0 - flux[0].astype(float)) == pytest.approx(place, abs=0.05)
    inside = flux[1, 100:-100].astype(float)
    assert inside.std() == pytest.approx(0.01, rel=0.05)
    assert abs(np.corrcoef(inside[1:], inside[:-1])[0, 1]) < 0.06
    back = read_spectrum(f"{path}#0")
    assert np.abs(np.interp(wave, back.wavelength, back.flux) - line).max() < 0.02
