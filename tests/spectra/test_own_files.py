"""Files that are no survey's: text, images of one dimension, tables of other names, and spectra of specutils."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord, get_body_barycentric_posvel
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.time import Time

import stargap
from stargap.errors import SpectrumError, UsageError
from stargap.pixels import SPEED_OF_LIGHT, air_to_vacuum
from stargap.spectra.inputs import list_spectra, spectra_from_arrays
from stargap.spectra.readers.observer import barycentric_velocity
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Spectrum

WAVE = np.linspace(6000.0, 9000.0, 1501)
FLUX = 2 + np.sin(WAVE / 50)
ERROR = np.where(np.arange(1501) == 3, 0.0, 0.1)
VACUUM = ReadSettings(air=False)


def same(spectrum, *, wave=WAVE, flux=FLUX, ivar=None):
    expected = np.where(ERROR > 0, 1 / np.where(ERROR > 0, ERROR, 1) ** 2, 0) if ivar is None else ivar
    np.testing.assert_allclose(spectrum.wavelength, wave, rtol=1e-7)
    np.testing.assert_allclose(spectrum.flux, flux, rtol=1e-6)
    np.testing.assert_allclose(spectrum.ivar, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "head", "sep"),
    [
        ("a.csv", "wave_A,flux,err", ","),
        ("a.csv.gz", "LAMBDA,Flux,sigma", ","),
        ("a.txt", "# wavelength flux error", " "),
        ("a.dat", "", "  "),
        ("a.tsv", "wl\tflux\terr", "\t"),
        ("b.csv", "# a comment\n wave , flux , err", " , "),
    ],
)
def test_text_files_are_read_by_their_columns(name, head, sep, tmp_path, check_invariants):
    lines = [sep.join(f"{v:.10g}" for v in row) for row in zip(WAVE, FLUX, ERROR, strict=True)]
    text = "\n".join([head, *lines] if head else lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    spectrum = read_spectrum(tmp_path / name, VACUUM)
    check_invariants(spectrum)
    same(spectrum)
    assert (spectrum.facts.layout, spectrum.facts.frame) == ("text", "unknown")


def test_text_says_air_frame_and_names_or_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    Table({"x": WAVE, "y": FLUX, "z": ERROR}).write(path)
    names = {"wavelength": "x", "flux": "Y", "error": "z"}
    with pytest.raises(SpectrumError, match="no column for the wavelength; name it"):
        read_spectrum(path, VACUUM)
    with pytest.raises(SpectrumError, match=r"nothing says whether wavelengths are in air or vacuum: give --air"):
        read_spectrum(path, ReadSettings(columns=names))
    spectrum = read_spectrum(path, ReadSettings(columns=names, air=True, frame="heliocentric"))
    same(spectrum, wave=air_to_vacuum(WAVE))
    assert spectrum.facts.frame is None
    with pytest.raises(SpectrumError, match="no column w"):
        read_spectrum(path, ReadSettings(columns=names | {"error": "w"}, air=True))


def test_without_errors_the_user_gives_a_snr(tmp_path):
    path = tmp_path / "a.csv"
    Table({"wave": WAVE, "flux": FLUX, "err": np.full(1501, np.nan)}).write(path)
    assert not read_spectrum(path, VACUUM).ivar.any()
    assert (read_spectrum(path, ReadSettings(air=False, snr=50)).ivar > 0).all()
    path.unlink()
    Table({"wave": WAVE, "flux": FLUX}).write(path)
    with pytest.raises(SpectrumError, match=r"no errors of the fluxes: name their column .* or give a S/N"):
        read_spectrum(path, VACUUM)
    spectrum = read_spectrum(path, ReadSettings(air=False, snr=50))
    np.testing.assert_allclose(np.median(spectrum.flux) * np.sqrt(spectrum.ivar), 50)


def test_units_of_ecsv_are_honoured(tmp_path):
    path = tmp_path / "a.ecsv"
    table = Table({"wave": WAVE / 10 * u.nm, "flux": FLUX * u.mJy, "err": ERROR * 1e3 * u.uJy})
    table.write(path)
    spectrum = read_spectrum(path, VACUUM)
    per_wavelength = (1 * u.mJy).to_value("erg s-1 cm-2 AA-1", u.spectral_density(WAVE * u.AA))
    np.testing.assert_allclose(spectrum.flux, FLUX * per_wavelength, rtol=1e-7)
    np.testing.assert_allclose(spectrum.flux * np.sqrt(spectrum.ivar), np.where(ERROR > 0, FLUX / 0.1, 0), rtol=1e-6)


@pytest.mark.parametrize("text", [b"", b"hello\nworld\n", b"\x00\x01\x02", b"wave,flux,err\n6000,a,1\n"])
def test_other_text_is_refused(text, tmp_path):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(SpectrumError):
        read_spectrum(tmp_path / "a.csv", VACUUM)


@pytest.mark.parametrize("columns", [("lambda", "flux", "error"), ("WAVE", "SPEC", "ERR")])
@pytest.mark.parametrize("vector", [False, True])
def test_fits_tables_of_other_names(columns, vector, tmp_path):
    arrays = [array[None] if vector else array for array in (WAVE, FLUX, ERROR)]
    made = [fits.Column(n, f"{a.shape[-1]}D" if vector else "D", array=a) for n, a in zip(columns, arrays, strict=True)]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(made)]).writeto(tmp_path / "a.fits")
    spectrum = read_spectrum(tmp_path / "a.fits")
    same(spectrum)
    assert (spectrum.facts.layout, spectrum.facts.frame) == ("table", None)
    named = {"wavelength": columns[0], "flux": columns[1], "ivar": columns[2]}
    np.testing.assert_allclose(read_spectrum(tmp_path / "a.fits", ReadSettings(columns=named)).ivar, ERROR)


def image(header, data=FLUX, **others):
    units = {"CRPIX1": 1.0, "CRVAL1": 6000.0, "CDELT1": 2.0}
    hdus = [fits.PrimaryHDU(np.asarray(data, ">f8"), header=fits.Header(units | header))]
    return fits.HDUList([*hdus, *(fits.ImageHDU(values, name=name) for name, values in others.items())])


LOG = np.log10(6000.0) + 1e-4 * np.arange(1501)


@pytest.mark.parametrize(
    ("header", "wave"),
    [
        ({"CTYPE1": "WAVE"}, WAVE),
        ({"CTYPE1": "AWAV"}, air_to_vacuum(WAVE)),
        ({"CTYPE1": "WAVE", "CUNIT1": "nm", "CRVAL1": 600.0, "CDELT1": 0.2}, WAVE),
        ({"CTYPE1": "WAVE", "CRPIX1": 11.0, "CRVAL1": 6020.0}, WAVE),
        ({"VACUUM": True, "CRVAL1": LOG[0], "CD1_1": 1e-4, "CDELT1": 1e-4, "DC-FLAG": 1}, 10**LOG),
        ({"CTYPE1": "WAVE-LOG", "CDELT1": 1.5}, 6000 * np.exp(1.5 * np.arange(1501) / 6000)),
        ({"CTYPE1": "AWAV-LOG", "CDELT1": 1.5}, air_to_vacuum(6000 * np.exp(1.5 * np.arange(1501) / 6000))),
    ],
)
def test_images_of_one_dimension(header, wave, tmp_path, check_invariants):
    image(header, ERR=ERROR).writeto(tmp_path / "a.fits")
    spectrum = read_spectrum(tmp_path / "a.fits")
    check_invariants(spectrum)
    same(spectrum, wave=wave)
    assert (spectrum.facts.layout, spectrum.facts.frame) == ("image", "unknown")


def test_images_agree_with_specutils(tmp_path):
    specutils = pytest.importorskip("specutils")
    path = tmp_path / "a.fits"
    for header in ({"CTYPE1": "WAVE"}, {"CTYPE1": "WAVE-LOG", "CDELT1": 1.5}):
        image(header | {"CUNIT1": "Angstrom", "BUNIT": "erg s-1 cm-2 Angstrom-1"}).writeto(path, overwrite=True)
        theirs = specutils.Spectrum.read(path, format="wcs1d-fits")
        ours = read_spectrum(path, ReadSettings(snr=10))
        np.testing.assert_allclose(ours.wavelength, theirs.spectral_axis.to_value("AA"), rtol=1e-9)
        np.testing.assert_allclose(ours.flux, theirs.flux.value)


def test_images_with_bands_of_iraf_or_an_axis_of_one(tmp_path):
    bands = np.stack([FLUX, FLUX, FLUX, ERROR])[:, None, :]
    cards = {"CTYPE1": "LINEAR", "BANDID1": "spectrum - optimal", "BANDID4": "sigma - of the spectrum"}
    image(cards, bands).writeto(tmp_path / "a.fits")
    same(read_spectrum(tmp_path / "a.fits", VACUUM))
    image({"VACUUM": 1}, FLUX[None], IVAR=ERROR).writeto(tmp_path / "b.fits")
    same(read_spectrum(tmp_path / "b.fits"), ivar=ERROR)
    with pytest.raises(SpectrumError, match="nothing says whether wavelengths are in air"):
        read_spectrum(tmp_path / "a.fits")


def test_what_header_and_user_say_must_agree(tmp_path, files):
    image({"CTYPE1": "AWAV"}, ERR=ERROR).writeto(tmp_path / "a.fits")
    with pytest.raises(SpectrumError, match="the header says that wavelengths are in air"):
        read_spectrum(tmp_path / "a.fits", VACUUM)
    (tmp_path / "b.fits").write_bytes(files["lamost-image"])
    with pytest.raises(SpectrumError, match="wavelengths of lamost-image files are in vacuum"):
        read_spectrum(tmp_path / "b.fits", ReadSettings(air=True))
    image({"VACUUM": True, "AIR": True}, ERR=ERROR).writeto(tmp_path / "c.fits")
    with pytest.raises(SpectrumError, match="VACUUM = T and AIR = T contradict each other"):
        read_spectrum(tmp_path / "c.fits")


PLACE = {"RA": 150.0, "DEC": 20.0, "MJD-OBS": 58849.2, "OBSERVAT": "KPNO"}


def independent(time, ra, dec, longitude, latitude, height):
    """Velocity of the observer towards a star from the ephemeris and the Earth's rotation alone (km/s)."""
    star = SkyCoord(ra, dec, unit="deg").cartesian.xyz.value
    _, earth = get_body_barycentric_posvel("earth", Time(time, format="mjd"))
    site = EarthLocation.from_geodetic(longitude, latitude, height)
    _, rotation = site.get_gcrs_posvel(Time(time, format="mjd"))
    return float(sum((earth.xyz + rotation.xyz).to_value("km/s") * star))


def test_barycentric_velocity_is_that_of_the_earth():
    velocity = barycentric_velocity([fits.Header(PLACE)])
    assert velocity == pytest.approx(independent(58849.2, 150.0, 20.0, -111.6, 31.9633, 2120), abs=0.01)
    text = {"RA": "10:00:00", "DEC": "+20:00:00", "DATE-OBS": "2020-01-01T04:48:00", "SITELONG": -111.6}
    rest = {"SITELAT": 31.9633, "SITEELEV": 2120.0}
    assert barycentric_velocity([fits.Header(text), fits.Header(rest)]) is None
    assert barycentric_velocity([fits.Header(text | rest)]) == pytest.approx(velocity, abs=0.01)
    later = barycentric_velocity([fits.Header(PLACE | {"EXPTIME": 7200.0})])
    assert later == pytest.approx(barycentric_velocity([fits.Header(PLACE | {"MJD-OBS": 58849.2 + 1 / 24})]), abs=1e-6)


@pytest.mark.parametrize("missing", [None, "RA", "MJD-OBS", "OBSERVAT"])
def test_observed_wavelengths_are_corrected_or_flagged(missing, tmp_path):
    cards = {"CTYPE1": "WAVE", "SPECSYS": "TOPOCENT"} | {k: v for k, v in PLACE.items() if k != missing}
    image(cards, ERR=ERROR).writeto(tmp_path / "a.fits")
    spectrum = read_spectrum(tmp_path / "a.fits")
    velocity = barycentric_velocity([fits.Header(PLACE)]) if missing is None else 0.0
    np.testing.assert_allclose(spectrum.wavelength, WAVE * (1 + velocity / SPEED_OF_LIGHT), rtol=1e-12)
    assert spectrum.facts.frame == (None if missing is None else "observed")
    assert spectrum.facts.helio_rv == (velocity if missing is None else None)


def test_arrays_in_air_and_their_frame():
    (one,) = spectra_from_arrays(FLUX, WAVE, np.ones(1501), ReadSettings(air=True, frame="rest"))
    np.testing.assert_array_equal(one.wavelength, air_to_vacuum(WAVE))
    assert one.facts.frame == "rest"


def test_spectra_go_to_specutils_and_back():
    specutils = pytest.importorskip("specutils")
    ours = Spectrum(WAVE, FLUX, np.where(ERROR > 0, 100.0, 0.0))
    theirs = ours.to_specutils()
    assert isinstance(theirs, specutils.Spectrum)
    assert theirs.mask.sum() == 1
    for given in (theirs, [theirs], specutils.SpectrumList([theirs])):
        (back,) = list_spectra(given)
        np.testing.assert_allclose(back.wavelength, ours.wavelength)
        np.testing.assert_array_equal(back.flux[back.ivar > 0], FLUX[ERROR > 0])
        np.testing.assert_array_equal(back.ivar, ours.ivar)


def test_spectra_of_specutils_of_any_axis_and_uncertainty():
    specutils = pytest.importorskip("specutils")
    unit = u.Unit("1e-17 erg s-1 cm-2 AA-1")
    flux = np.stack([FLUX, 2 * FLUX]) * unit
    one = specutils.Spectrum(
        spectral_axis=WAVE[::-1] / 10 * u.nm, flux=flux, uncertainty=StdDevUncertainty(np.full((2, 1501), 0.1))
    )
    first, second = list_spectra([one])
    np.testing.assert_allclose(first.wavelength, WAVE)
    np.testing.assert_allclose(second.flux, 2 * FLUX[::-1])
    np.testing.assert_allclose(second.ivar, 100.0)
    with pytest.raises(UsageError, match="without an uncertainty"):
        list_spectra(specutils.Spectrum(spectral_axis=WAVE * u.AA, flux=FLUX * unit))


def test_measure_takes_spectra_of_specutils(tmp_path):
    pytest.importorskip("specutils")
    flat = Spectrum(WAVE, np.ones(1501), np.ones(1501)).to_specutils()
    table = stargap.measure([flat, flat], model="emulator")
    assert table["failure"].tolist() in (["", ""], [None, None])
    assert len(table) == 2


def test_a_loader_of_specutils_reads_what_we_do_not(tmp_path):
    specutils = pytest.importorskip("specutils")
    path = tmp_path / "a.fits"
    unit = u.Unit("erg s-1 cm-2 AA-1")
    given = specutils.Spectrum(
        spectral_axis=WAVE * u.AA, flux=FLUX * unit, uncertainty=InverseVariance(np.full(1501, 4.0))
    )
    given.write(path, format="tabular-fits")
    spectrum = read_spectrum(path, ReadSettings(format="tabular-fits"))
    same(spectrum, ivar=np.full(1501, 4.0))
    assert spectrum.facts.layout == "specutils"
    with pytest.raises(SpectrumError, match="specutils cannot read it as HST/COS"):
        read_spectrum(path, ReadSettings(format="HST/COS"))
