"""Units and masks of arrays, from files (TUNIT, BUNIT) and from users (Quantity, masked arrays, columns)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.utils.masked import Masked

from stargap.errors import SpectrumError, UsageError
from stargap.spectra.inputs import list_spectra, spectra_from_arrays
from stargap.spectra.readers.content import Content, check_spectrum
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.spectrum import Spectrum
from stargap.spectra.units import attach_unit

CGS = u.erg / u.s / u.cm**2 / u.AA
WAVE = np.linspace(6000.0, 8900.0, 12)
FLUX = np.linspace(2.0, 3.0, 12)
IVAR = np.linspace(4.0, 9.0, 12)
MASK = np.arange(12) == 5


def read(flux, wavelength, ivar) -> Spectrum:
    (spectrum,) = spectra_from_arrays(flux, wavelength, ivar)
    return spectrum


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *((text, u.AA) for text in ("Angstrom", "A", "AA", "Ang", "ang.", "Angstroms", "ANGSTROM", "0.1 nm")),
        *((text, u.um) for text in ("um", "micron", "Microns", "µm", "micrometer")),
        *((text, u.nm) for text in ("nm", "nanometers", "10**-9 m")),
        *((text, 1e-17 * CGS) for text in ("1E-17 erg/cm^2/s/Ang", "1e-17 ergs/s/cm2/A", "10^(-17) erg s-1 cm-2 A-1")),
        *((text, CGS**-2) for text in ("(erg/cm^2/s/Ang)^-2", "1/(erg/s/cm2/AA)**2", "erg-2 s2 cm4 Angstrom2")),
        ("counts", u.count),
        ("ADU", u.adu),
    ],
)
def test_units_as_files_write_them(text, unit):
    quantity = attach_unit(np.ones(1), text)
    assert quantity.unit.to(unit) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", " ", None, "none", "relative"])
def test_no_unit(text):
    assert isinstance(attach_unit(WAVE, text), np.ndarray)
    assert not isinstance(attach_unit(WAVE, text), u.Quantity)


def test_units_that_are_not_understood_are_refused():
    with pytest.raises(ValueError, match="the unit 'furlong' is not understood"):
        attach_unit(WAVE, "furlong")


@pytest.mark.parametrize("unit", [u.nm, u.um, u.m, u.AA, u.Hz, u.eV])
def test_wavelengths_of_any_unit(unit):
    given = u.Quantity(WAVE, u.AA).to(unit, u.spectral())
    spectrum = check_spectrum(Content(given, FLUX, IVAR), "a.fits")
    np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-14)
    np.testing.assert_array_equal(np.sort(spectrum.flux), FLUX)
    np.testing.assert_array_equal(spectrum.flux, FLUX)


def test_inverse_variances_are_brought_to_the_unit_of_the_fluxes():
    flux = u.Quantity(FLUX, 1e-17 * CGS)
    spectrum = read(flux, WAVE * u.AA, (IVAR / flux.unit**2).to(CGS**-2))
    np.testing.assert_allclose(spectrum.flux, FLUX, rtol=1e-14)
    np.testing.assert_allclose(spectrum.ivar, IVAR, rtol=1e-12)


def test_fluxes_per_frequency_become_fluxes_per_wavelength():
    given = (FLUX * CGS).to(u.Jy, u.spectral_density(WAVE * u.AA))
    ratio = given.value / FLUX
    spectrum = read(given, WAVE, IVAR / ratio**2 / u.Jy**2)
    np.testing.assert_allclose(spectrum.flux, FLUX, rtol=1e-12)
    np.testing.assert_allclose(spectrum.ivar, IVAR, rtol=1e-12)


@pytest.mark.parametrize(
    ("flux", "wavelength", "ivar", "reason"),
    [
        (FLUX, WAVE * u.km / u.s, IVAR, "wavelengths are in km / s"),
        (FLUX * u.mag, WAVE, IVAR, "linear ones are needed|not one over the square"),
        (FLUX * u.ABmag, WAVE, IVAR, "linear ones are needed"),
        (FLUX * CGS, WAVE, IVAR / CGS, "not one over the square of"),
        (FLUX, WAVE, IVAR / CGS**2, "fluxes have no unit"),
        ([1 * u.m, 2 * u.s], WAVE, IVAR, "cannot be used"),
    ],
)
def test_units_that_do_not_fit_are_refused(flux, wavelength, ivar, reason):
    with pytest.raises(UsageError, match=reason):
        spectra_from_arrays(flux, wavelength, ivar)


@pytest.mark.parametrize(
    "masked",
    [
        lambda values: np.ma.array(values, mask=MASK),
        lambda values: Masked(values, mask=MASK),
        lambda values: MaskedColumn(values, mask=MASK),
        lambda values: [np.ma.array(values, mask=MASK)],
    ],
)
@pytest.mark.parametrize("which", ["flux", "ivar"])
def test_masked_pixels_have_weight_zero(masked, which):
    arrays = {"flux": FLUX, "ivar": IVAR}
    spectrum = read(
        masked(arrays["flux"]) if which == "flux" else FLUX, WAVE, masked(IVAR) if which == "ivar" else IVAR
    )
    np.testing.assert_array_equal(spectrum.ivar, np.where(MASK, 0.0, IVAR))
    np.testing.assert_array_equal(spectrum.flux[~MASK], FLUX[~MASK])


def test_masked_quantities_and_columns_with_units():
    table = Table({"wave": WAVE / 10, "flux": np.ma.array(FLUX, mask=MASK), "ivar": IVAR}, units={"wave": "nm"})
    for flux in (table["flux"], Masked(FLUX * CGS, mask=MASK)):
        spectrum = read(flux, table["wave"], IVAR)
        np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-14)
        np.testing.assert_array_equal(spectrum.ivar == 0, MASK)


def test_pixels_without_a_wavelength_are_left_out():
    wave = np.ma.array(np.where(MASK, np.nan, WAVE), mask=MASK)
    np.testing.assert_array_equal(read(FLUX, wave, IVAR).flux, FLUX[~MASK])
    spectrum = check_spectrum(Content(wave, FLUX, IVAR), "a.fits")
    np.testing.assert_array_equal(spectrum.wavelength, WAVE[~MASK])


def test_a_spectrum_of_masked_arrays_keeps_its_mask():
    spectrum = check_spectrum(Content(WAVE, np.ma.array(FLUX, mask=MASK), IVAR), "a.fits")
    np.testing.assert_array_equal(spectrum.ivar == 0, MASK)


# ---- files


def table(path, *, units, name="WAVELENGTH", wavelength=WAVE):
    columns = [
        fits.Column(column, "D", unit=units.get(column), array=values)
        for column, values in {name: wavelength, "FLUX": FLUX, "IVAR": IVAR}.items()
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    return path


@pytest.mark.parametrize(("unit", "factor"), [("nm", 0.1), ("um", 1e-4), ("micron", 1e-4), ("Angstrom", 1), ("A", 1)])
def test_tunit_of_wavelengths_is_honoured(unit, factor, tmp_path):
    spectrum = read_spectrum(table(tmp_path / "a.fits", units={"WAVELENGTH": unit}, wavelength=WAVE * factor))
    np.testing.assert_allclose(spectrum.wavelength, WAVE, rtol=1e-14)
    assert spectrum.facts.layout == "table"


@pytest.mark.parametrize(("unit", "offset"), [("log10(Angstrom)", 0), ("Angstrom", 0), ("log(nm)", -1), (None, 0)])
def test_tunit_of_loglam_is_honoured(unit, offset, tmp_path):
    path = table(tmp_path / "a.fits", units={"LOGLAM": unit}, name="LOGLAM", wavelength=np.log10(WAVE) + offset)
    np.testing.assert_allclose(read_spectrum(path).wavelength, WAVE, rtol=1e-13)


def test_tunit_of_fluxes_and_inverse_variances_is_honoured(tmp_path):
    flux = "1E-17 erg/cm^2/s/Ang"
    path = table(tmp_path / "a.fits", units={"FLUX": flux, "IVAR": f"1/({flux})^2"})
    np.testing.assert_allclose(read_spectrum(path).ivar, IVAR, rtol=1e-14)
    path = table(tmp_path / "b.fits", units={"FLUX": "1e-17 erg/cm^2/s/Ang", "IVAR": "1e34 erg-2 cm4 s2 Angstrom2"})
    np.testing.assert_allclose(read_spectrum(path).ivar, IVAR, rtol=1e-14)


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ({"WAVELENGTH": "furlong"}, "WAVELENGTH: the unit 'furlong' is not understood"),
        ({"WAVELENGTH": "s"}, "wavelengths are in s"),
        ({"FLUX": "mag"}, "fluxes are in mag, where linear ones are needed"),
        ({"FLUX": "adu", "IVAR": "adu"}, "not one over the square of adu"),
    ],
)
def test_files_with_other_units_are_refused(units, reason, tmp_path):
    with pytest.raises(SpectrumError, match=reason):
        read_spectrum(table(tmp_path / "a.fits", units=units))


def test_bunit_of_an_image_is_honoured(files, tmp_path):
    with fits.open(io.BytesIO(files["lamost-image"])) as hdul:
        hdul[0].header["BUNIT"] = "mag"
        hdul.writeto(tmp_path / "a.fits", output_verify="ignore")
    with pytest.raises(SpectrumError, match="linear ones are needed"):
        read_spectrum(tmp_path / "a.fits")


# ---- what is to be measured


@pytest.mark.parametrize(
    "given",
    [
        np.array(["b", "a"]),
        np.array(["b", "a"], dtype=object),
        np.array([b"b", b"a"]),
        Table({"path": ["b", "a"]})["path"],
        np.ma.array(["b", "a"]),
        ("b", "a"),
    ],
)
def test_paths_in_any_sequence(given):
    assert list_spectra(given) == ["b", "a"]


def test_one_path_is_enough_and_other_things_are_refused():
    assert list_spectra(np.array("a")) == list_spectra("a") == list_spectra(b"a") == ["a"]
    with pytest.raises(UsageError, match="need wavelength and ivar"):
        list_spectra(np.ones(3))
    with pytest.raises(UsageError, match="not a float"):
        list_spectra([1.5])
    with pytest.raises(UsageError, match="item 1 is masked"):
        list_spectra(np.ma.array(["a", "b"], mask=[False, True]))
