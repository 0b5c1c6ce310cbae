"""Files of several spectra: SDSS-V mwm, spPlate, DESI and LAMOST MRS, against what went in and against specutils."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from helpers.collections import BOSS_LOGLAM, boss_rows, rest, write_desi, write_mrs, write_mwm, write_spplate

from stargap.errors import SpectrumError
from stargap.spectra.inputs import find_spectra, list_spectra
from stargap.spectra.readers.read import read_spectrum, spectrum_addresses
from stargap.spectra.store.ingest import ingest_shard
from stargap.spectra.store.plan import extend_plan, file_inputs
from stargap.spectra.store.settings import IngestSettings
from stargap.spectra.store.shards import Shard

FULLREJECT, NEARBADPIXEL = 1 << 18, 1 << 4
IDS = [39633293045302999, 39633293045302998, -5]
WAVE = 10**BOSS_LOGLAM


def star_columns(velocity, *, seed=1, flags=None):
    flux, ivar = boss_rows(1, seed)
    pixels = np.zeros(flux.shape, "f4") if flags is None else flags
    return {
        "sdss_id": np.array([54000001], "i8"), "telescope": np.array([b"apo25m"]), "run2d": np.array([b"v6_1_3"]),
        "min_mjd": np.array([59500], "i4"), "max_mjd": np.array([59600], "i4"), "snr": np.array([30.0], "f4"),
        "v_rad": np.array([velocity], "f4"), "wavelength": WAVE[None], "flux": flux.astype("f4"),
        "ivar": ivar.astype("f4"), "pixel_flags": pixels,
    }  # fmt: skip


def visit_columns(velocities, in_stack):
    count = len(velocities)
    flux, ivar = boss_rows(count)
    return {
        "sdss_id": np.full(count, 54000001, "i8"), "telescope": np.array([b"apo25m"] * count),
        "mjd": np.array(59500 + np.arange(count), "i4"), "fieldid": np.full(count, 15010, "i4"),
        "exptime": np.full(count, 900.0, "f4"), "snr": np.full(count, 30.0, "f4"),
        "xcsao_v_rad": np.array(velocities, "f4"), "in_stack": np.array(in_stack), "flux": flux.astype("f4"),
        "ivar": ivar.astype("f4"), "pixel_flags": np.zeros(flux.shape, "i8"),
    }  # fmt: skip


def test_mwm_star_is_brought_back_from_the_rest_frame(tmp_path, check_invariants):
    flags = np.zeros((1, WAVE.size), "f4")
    flags[0, [7, 9]] = FULLREJECT, NEARBADPIXEL
    path = write_mwm(tmp_path / "mwmStar-0.6.0-54000001.fits", {"BOSS/APO": star_columns(61.1, flags=flags)})
    assert spectrum_addresses(path) == [path]
    spectrum = read_spectrum(path)
    check_invariants(spectrum)
    flux, ivar = boss_rows(1)
    np.testing.assert_allclose(rest(spectrum.wavelength, 61.1), WAVE, rtol=1e-9)
    np.testing.assert_array_equal(spectrum.flux, flux[0])
    assert np.flatnonzero(spectrum.ivar != ivar[0]).tolist() == [7]
    facts = spectrum.facts
    assert (facts.layout, facts.frame, facts.target_id, facts.lmjd) == ("sdss-mwm", None, 54000001, 59500)
    assert (facts.ra, facts.dec, facts.designation) == (128.607899, -1.144317, "SDSS_ID 54000001")


def test_mwm_star_of_both_observatories_is_two_spectra(tmp_path):
    hdus = {"BOSS/APO": star_columns(10.0), "BOSS/LCO": star_columns(20.0, seed=2), "APOGEE/APO": star_columns(0.0)}
    path = write_mwm(tmp_path / "mwmStar-0.6.0-54000001.fits", hdus)
    assert spectrum_addresses(path) == [f"{path}#0", f"{path}#1"]
    assert find_spectra([tmp_path]) == find_spectra([path])
    for place, (velocity, seed) in enumerate([(10.0, 1), (20.0, 2)]):
        spectrum = read_spectrum(f"{path}#{place}")
        np.testing.assert_allclose(rest(spectrum.wavelength, velocity), WAVE, rtol=1e-9)
        np.testing.assert_array_equal(spectrum.flux, boss_rows(1, seed)[0][0])
        assert spectrum.facts.path == f"{path}#{place}"
    with pytest.raises(SpectrumError, match=r"the file holds 2 spectra: name one, as mwmStar-.*#1 names the last"):
        read_spectrum(path)
    with pytest.raises(SpectrumError, match="the file holds 2 spectra, numbered from 0"):
        read_spectrum(f"{path}#2")


def test_mwm_visits_in_the_stack_were_shifted_and_others_not(tmp_path):
    columns = visit_columns([55.0, 1e3, np.nan], [True, False, True])
    path = write_mwm(tmp_path / "mwmVisit-0.6.0-54000001.fits", {"BOSS/LCO": columns})
    spectra = [read_spectrum(address) for address in list_spectra(path)]
    np.testing.assert_allclose(rest(spectra[0].wavelength, 55.0), WAVE, rtol=1e-12)
    for spectrum in spectra[1:]:
        np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-12)
    assert [spectrum.facts.frame for spectrum in spectra] == [None, None, "rest"]
    assert [spectrum.facts.lmjd for spectrum in spectra] == [59500, 59501, 59502]
    for spectrum, flux in zip(spectra, boss_rows(3)[0], strict=True):
        np.testing.assert_array_equal(spectrum.flux, flux)


def test_mwm_without_boss_is_refused(tmp_path):
    path = write_mwm(tmp_path / "mwmStar-0.6.0-1.fits", {"APOGEE/APO": star_columns(0.0)})
    with pytest.raises(SpectrumError, match="without a BOSS spectrum"):
        read_spectrum(path)


def test_mwm_agrees_with_specutils(tmp_path):
    specutils = pytest.importorskip("specutils")
    path = write_mwm(tmp_path / "mwmStar-0.6.0-54000001.fits", {"BOSS/APO": star_columns(0.0)})
    (theirs,) = specutils.SpectrumList.read(path, format="SDSS-V mwm")
    same_as(read_spectrum(path), theirs)


def same_as(ours, theirs):
    good = ours.ivar > 0
    np.testing.assert_allclose(ours.wavelength, theirs.spectral_axis.to_value("AA"), rtol=1e-9)
    np.testing.assert_allclose(ours.flux[good], np.squeeze(theirs.flux.value)[good], rtol=1e-6)
    np.testing.assert_allclose(ours.ivar[good], np.squeeze(theirs.uncertainty.array)[good], rtol=1e-6)


@pytest.fixture
def plate(tmp_path):
    flux, ivar = boss_rows(3)
    masks = np.zeros(flux.shape, "i4")
    masks[1, [5, 6]] = FULLREJECT, NEARBADPIXEL
    fibres = {
        "FIBERID": np.array([1, 2, 3], "i4"), "RA": np.array([28.1, 28.2, 28.3]), "DEC": np.array([0.1, 0.2, 0.3]),
        "OBJTYPE": np.array([b"GALAXY", b"SPECTROPHOTO_STD", b"SKY"]),
    }  # fmt: skip
    return write_spplate(tmp_path / "spPlate-3606-55182.fits", flux, ivar, masks, fibres)


def test_spplate_has_a_spectrum_a_fibre(plate, check_invariants):
    assert spectrum_addresses(plate) == [f"{plate}#{place}" for place in range(3)]
    spectrum = read_spectrum(f"{plate}#1")
    check_invariants(spectrum)
    np.testing.assert_allclose(spectrum.wavelength, WAVE)
    np.testing.assert_array_equal(spectrum.flux, boss_rows(3)[0][1])
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [5]
    facts = spectrum.facts
    assert (facts.layout, facts.designation, facts.fiber) == ("sdss-plate", "spec-3606-55182-0002", 2)
    assert (facts.ra, facts.dec, facts.plan_id, facts.helio_rv) == (28.2, 0.2, "3606", 25.65)
    with pytest.raises(SpectrumError, match="fibre 3 is on the sky"):
        read_spectrum(f"{plate}#2")


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning", "ignore::astropy.units.UnitsWarning")
def test_spplate_agrees_with_specutils(plate):
    specutils = pytest.importorskip("specutils")
    theirs = specutils.Spectrum.read(plate, format="SDSS spPlate", limit=3)
    ours = read_spectrum(f"{plate}#0")
    np.testing.assert_allclose(ours.flux, theirs.flux.value[0], rtol=1e-6)
    np.testing.assert_allclose(ours.ivar, theirs.uncertainty.array[0], rtol=1e-6)


def desi_arms(arm, wave):
    level = {"B": 1.0, "R": 2.0, "Z": 3.0}[arm]
    flux = np.array([[10.0], [20.0], [30.0]]) + level + wave / 1e4
    return flux, np.full(flux.shape, {"B": 1.0, "R": 2.0, "Z": 6.0}[arm])


def test_desi_arms_are_joined_by_their_weights(tmp_path, check_invariants):
    path = write_desi(
        tmp_path / "coadd-main-dark-38863.fits", IDS, desi_arms, mask=[100], objtype=["TGT", "TGT", "SKY"]
    )
    assert list_spectra([path]) == [f"{path}#{place}" for place in range(3)]
    spectrum = read_spectrum(f"{path}#1")
    check_invariants(spectrum)
    assert spectrum.wavelength.size == 7781  # 3600 to 9824 A in steps of 0.8 A
    np.testing.assert_allclose(np.diff(spectrum.wavelength), 0.8)
    at = {
        wave: np.argmin(np.abs(spectrum.wavelength - wave)) for wave in (4000.0, 5776.0, 5840.0, 7000.0, 7560.0, 9000.0)
    }
    expected = {4000.0: 1.0, 5776.0: 5 / 3, 7000.0: 2.0, 7560.0: 2.75, 9000.0: 3.0}
    at = {wave: np.argmin(np.abs(spectrum.wavelength - wave)) for wave in (*expected, 5840.0)}
    for wave, level in expected.items():
        assert spectrum.flux[at[wave]] == pytest.approx(20 + level + wave / 1e4, abs=1e-5)
    assert [spectrum.ivar[at[wave]] for wave in expected] == [1, 3, 2, 8, 6]
    assert spectrum.ivar[at[5840.0]] == 0  # the masked pixel of the R arm
    facts = spectrum.facts
    assert (facts.layout, facts.target_id, facts.designation) == ("desi", IDS[1], f"DESI {IDS[1]}")
    assert (facts.ra, facts.dec, facts.exposure, facts.snr_source) == (10.5, 0.0, 900.0, "ivar")
    with pytest.raises(SpectrumError, match="a sky fibre"):
        read_spectrum(f"{path}#2")


def test_desi_agrees_with_specutils(tmp_path):
    specutils = pytest.importorskip("specutils")
    path = write_desi(tmp_path / "coadd-main-dark-38863.fits", IDS, desi_arms)
    theirs = specutils.SpectrumList.read(path, format="DESI coadd")
    ours = read_spectrum(f"{path}#0")
    for arm in theirs:
        wave = arm.spectral_axis.to_value("AA")
        alone = (wave > 3600) & ((wave < 5760) | (wave > 5800)) & ((wave < 7520) | (wave > 7620))
        place = np.searchsorted(ours.wavelength, wave[alone] - 0.01)
        np.testing.assert_allclose(ours.flux[place], arm.flux.value[0][alone], rtol=1e-6)
        np.testing.assert_allclose(ours.ivar[place], arm.uncertainty.array[0][alone], rtol=1e-6)


def test_desi_spectra_have_a_row_an_exposure_and_may_lack_an_arm(tmp_path):
    ids = [IDS[0], IDS[0], IDS[1]]
    path = write_desi(tmp_path / "spectra-main-bright-1.fits", ids, desi_arms, arms="RZ", coadd=False)
    spectra = [read_spectrum(address) for address in list_spectra(path)]
    assert [spectrum.facts.target_id for spectrum in spectra] == ids
    assert [spectrum.facts.lmjd for spectrum in spectra] == [59300] * 3


def test_nights_of_desi_tiles_are_those_of_their_exposures(tmp_path):
    path = write_desi(tmp_path / "coadd-2-545-thru20210510.fits", IDS, desi_arms)
    with fits.open(path) as hdul:
        columns = {"TARGETID": ("K", [IDS[1], IDS[1], IDS[2]]), "MJD": ("D", [59344.2, 59346.4, 59350.0])}
        made = [fits.Column(name, kind, array=np.array(values)) for name, (kind, values) in columns.items()]
        hdul.insert(2, fits.BinTableHDU.from_columns(made, name="EXP_FIBERMAP"))
        hdul.writeto(tmp_path / "coadd-2-546-thru20210510.fits")
    spectra = [read_spectrum(address) for address in list_spectra(tmp_path / "coadd-2-546-thru20210510.fits")]
    assert [spectrum.facts.lmjd for spectrum in spectra] == [None, 59345, 59350]


def test_desi_arms_of_other_grids_are_refused(tmp_path):
    path = write_desi(tmp_path / "coadd-main-dark-1.fits", IDS, desi_arms)
    with fits.open(path) as hdul:
        hdul["Z_WAVELENGTH"].data += 0.3
        hdul.writeto(tmp_path / "coadd-main-dark-2.fits")
    with pytest.raises(SpectrumError, match="do not share their wavelengths"):
        read_spectrum(f"{tmp_path / 'coadd-main-dark-2.fits'}#0")


@pytest.mark.parametrize(("rows", "axis"), [(True, "LOGLAM"), (False, "WAVELENGTH")])
def test_mrs_gives_the_red_co_add_and_its_exposures(rows, axis, tmp_path, check_invariants):
    wave = 10 ** (np.log10(6300) + 1e-5 * np.arange(3400))
    flux = 1 + np.linspace(0, 1, wave.size)
    mask = np.zeros(wave.size, "i4")
    mask[3] = 1
    spectra = {
        "COADD_B": (wave, 9 * flux, flux, mask), "COADD_R": (wave, flux, flux, mask),
        "B-84420148": (wave, 9 * flux, flux, mask), "R-84420171": (wave, 3 * flux, flux, mask),
        "R-84420148": (wave, 2 * flux, flux, mask),
    }  # fmt: skip
    path = write_mrs(tmp_path / "med-58625-TD1_sp12-076.fits", spectra, rows=rows, axis=axis)
    found = [read_spectrum(address) for address in list_spectra(path)]
    assert len(found) == 3
    for spectrum, factor in zip(found, (1, 2, 3), strict=True):
        check_invariants(spectrum)
        np.testing.assert_allclose(spectrum.wavelength, wave)
        np.testing.assert_allclose(spectrum.flux, factor * flux)
        assert np.flatnonzero(spectrum.ivar == 0).tolist() == [3]
        assert (spectrum.facts.layout, spectrum.facts.obsid, spectrum.facts.plan_id) == ("mrs", 628704218, "TD1")
    assert [spectrum.facts.lmjd for spectrum in found] == [58625, 84420148 // 1440, 84420171 // 1440]


def test_mrs_without_a_red_arm_is_refused(tmp_path):
    wave = np.linspace(4950, 5350, 500)
    path = write_mrs(tmp_path / "med-1.fits", {"COADD_B": (wave, wave, wave, np.zeros(500, "i4"))})
    with pytest.raises(SpectrumError, match="without a spectrum of the red arm"):
        read_spectrum(path)


def test_a_file_of_one_spectrum_has_no_numbers(files, tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(files["lamost-image"])
    with pytest.raises(SpectrumError, match="holds one spectrum: name it without a number"):
        read_spectrum(f"{path}#0")
    odd = tmp_path / "a.fits#0"
    odd.write_bytes(files["lamost-table"])
    assert read_spectrum(odd).facts.layout == "lamost-table"


def test_files_that_cannot_be_read_keep_one_row(tmp_path):
    (tmp_path / "coadd-1.fits").write_bytes(b"SIMPLE  = nothing")
    assert list_spectra([tmp_path / "coadd-1.fits", tmp_path / "med-2.fits"]) == [
        tmp_path / "coadd-1.fits",
        tmp_path / "med-2.fits",
    ]


def test_every_spectrum_of_a_file_has_a_row_in_a_store(tmp_path):
    path = write_desi(tmp_path / "coadd-main-dark-1.fits", IDS, desi_arms, objtype=["TGT", "SKY", "TGT"])
    store, settings = tmp_path / "store", IngestSettings()
    store.mkdir()
    assert extend_plan(store, file_inputs(find_spectra([path])), settings.model_dump()) == 3
    done = ingest_shard(store, 0, settings)
    assert (done.rows, done.read, done.failures) == (3, 3, {"a sky fibre (OBJTYPE = SKY)": 1})
    shard = Shard.open(store, 0)
    assert [fact.target_id for fact in shard.facts()] == [IDS[0], None, IDS[2]]
    assert [fact.path for fact in shard.facts()] == [f"{path}#{place}" for place in range(3)]
    assert (shard.read().ivar > 0).any(dim=1).tolist() == [True, False, True]
    assert ingest_shard(store, 0, settings).read == 0
    write_desi(tmp_path / "other.fits", IDS, desi_arms).replace(path)
    assert ingest_shard(store, 0, settings).read == 3
