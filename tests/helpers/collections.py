"""Files of several spectra, built with astropy from the published data models of SDSS-V, SDSS, DESI and LAMOST MRS."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from stargap.pixels import SPEED_OF_LIGHT

__all__ = ["BOSS_LOGLAM", "boss_rows", "rest", "write_desi", "write_mrs", "write_mwm", "write_spplate"]

BOSS_LOGLAM = 3.5523 + 1e-4 * np.arange(4648)
"""The pixels of astra's BOSS spectra."""


def boss_rows(count, seed=1):
    """Flux and ivar of `count` spectra that differ, ``(row, 4648)``, in numbers that float32 holds."""
    rng = np.random.default_rng(seed)
    flux = rng.uniform(50, 100, (count, BOSS_LOGLAM.size)).astype("f4").astype(float)
    return flux, np.full(flux.shape, 0.25)


def rest(wavelength, velocity):
    """Wavelengths as astra moves them to the rest frame."""
    return wavelength * (1 - velocity / SPEED_OF_LIGHT)


def write_mwm(path, hdus, *, header=None):
    """Write an ``mwmStar`` or ``mwmVisit`` file: `hdus` maps a name to its columns (name to array of rows)."""
    cards = {"V_ASTRA": "0.6.0", "SDSS_ID": 54000001, "RA": 128.607899, "DEC": -1.144317} | (header or {})
    tables = []
    for name in ("BOSS/APO", "BOSS/LCO", "APOGEE/APO", "APOGEE/LCO"):
        columns = hdus.get(name, {"sdss_id": np.zeros(0, "i8")})
        made = [_column(key, values) for key, values in columns.items()]
        table = fits.BinTableHDU.from_columns(made, name=name)
        table.header["INSTRMNT"] = name.split("/")[0]
        table.header.update({"CRVAL": 3.5523, "CDELT": 1e-4, "NPIXELS": BOSS_LOGLAM.size})
        tables.append(table)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards)), *tables]).writeto(path, checksum=True)
    return path


def _column(name, values):
    array = np.asarray(values)
    count = array.shape[1] if array.ndim == 2 else 1
    kind = {"i8": "K", "i4": "J", "f8": "D", "f4": "E", "b1": "L"}.get(array.dtype.str[1:], f"{array.itemsize}A")
    return fits.Column(name, f"{count}{kind}" if array.ndim == 2 else kind, array=array)


def write_spplate(path, flux, ivar, and_mask, fibres):
    """Write a ``spPlate`` file: `fibres` are the columns of PLUGMAP."""
    header = {
        "TELESCOP": "SDSS 2.5-M", "PLATEID": 3606, "MJD": 55182, "RUN2D": "v5_13_2", "COEFF0": 3.5523, "COEFF1": 1e-4,
        "RA": 28.001, "DEC": 0.0003, "EXPTIME": 9003.0, "HELIO_RV": 25.65, "VACUUM": True,
        "CRVAL1": 3.5523, "CD1_1": 1e-4, "CRPIX1": 1, "CTYPE1": "LINEAR", "DC-FLAG": 1, "BUNIT": "1E-17 erg/cm^2/s/Ang",
    }  # fmt: skip
    made = [_column(name, values) for name, values in fibres.items()]
    fits.HDUList(
        [
            fits.PrimaryHDU(flux.astype("f4"), header=fits.Header(header)),
            fits.ImageHDU(ivar.astype("f4"), name="IVAR"),
            fits.ImageHDU(and_mask.astype("i4"), name="ANDMASK"),
            fits.ImageHDU(and_mask.astype("i4"), name="ORMASK"),
            fits.ImageHDU(np.ones(flux.shape, "f4"), name="WAVEDISP"),
            fits.BinTableHDU.from_columns(made, name="PLUGMAP"),
            fits.ImageHDU(np.zeros(flux.shape, "f4"), name="SKY"),
        ]
    ).writeto(path)
    return path


DESI_UNITS = {
    "WAVELENGTH": {"BUNIT": "Angstrom"},
    "FLUX": {"BUNIT": "10**-17 erg/(s cm2 Angstrom)"},
    "IVAR": {"BUNIT": "10**+34 (s2 cm4 Angstrom2) / erg2"},
}
DESI_ARMS = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}


def write_desi(path, targets, spectrum, *, objtype=None, mask=None, sigma=0.9, arms="BRZ", coadd=True):
    """Write a ``coadd`` or ``spectra`` file; `spectrum` gives flux and ivar ``(target, pixel)`` of an arm's pixels.

    Args:
        path: of the file.
        targets: TARGETIDs.
        spectrum: function of an arm and its wavelengths.
        objtype: of each target; TGT by default.
        mask: pixels of the R arm that are masked in every spectrum.
        sigma: of the rows of the resolution matrix (pixels of 0.8 A).
        arms: which arms there are.
        coadd: whether exposures were co-added.
    """
    count = len(targets)
    fibre = {
        "TARGETID": np.array(targets, dtype="i8"),
        "TARGET_RA": np.linspace(10, 11, count),
        "TARGET_DEC": np.linspace(-2, 2, count),
        "OBJTYPE": np.array(objtype or ["TGT"] * count, dtype="S3"),
    }
    fibre |= {"COADD_EXPTIME": np.full(count, 900.0, "f4")} if coadd else {"MJD": np.full(count, 59300.4)}
    hdus = [fits.BinTableHDU.from_columns([_column(*item) for item in fibre.items()], name="FIBERMAP")]
    offsets = np.arange(5, -6, -1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    for arm in arms:
        low, high = DESI_ARMS[arm]
        wave = np.round(low + 0.8 * np.arange(round((high - low) / 0.8) + 1), 1)
        flux, ivar = spectrum(arm, wave)
        bits = np.zeros(flux.shape, "i4")
        if arm == "R" and mask is not None:
            bits[:, mask] = 1
        matrix = np.broadcast_to((kernel / kernel.sum())[None, :, None], (count, offsets.size, wave.size))
        for name, data in (("WAVELENGTH", wave), ("FLUX", flux.astype("f4")), ("IVAR", ivar.astype("f4")),
                           ("MASK", bits), ("RESOLUTION", matrix.astype("f4"))):  # fmt: skip
            hdus.append(fits.ImageHDU(data, header=fits.Header(DESI_UNITS.get(name, {})), name=f"{arm}_{name}"))
    scores = fits.BinTableHDU.from_columns([fits.Column("TARGETID", "K", array=fibre["TARGETID"])], name="SCORES")
    header = fits.Header({"HPXPIXEL": 38863} | ({"INFIL000": "spectra-sv1-dark-38863.fits"} if coadd else {}))
    fits.HDUList([fits.PrimaryHDU(header=header), *hdus, scores]).writeto(path)
    return path


def write_mrs(path, spectra, *, rows=False, axis="LOGLAM"):
    """Write a LAMOST MRS file: `spectra` maps HDU names to wavelength, flux, ivar and mask ``(pixel,)``.

    Args:
        path: of the file.
        spectra: by the name of the HDU, such as COADD_R or R-84420148.
        rows: one row per pixel, as in DR7, or one row in all.
        axis: LOGLAM or WAVELENGTH.
    """
    header = {"OBSID": 628704218, "DESIG": "LAMOST J192102.78+424113.2", "RA": 290.26, "DEC": 42.68, "PLANID": "TD1"}
    hdus = [fits.PrimaryHDU(header=fits.Header(header | {"LMJD": 58625, "SPID": 12, "FIBERID": 76}))]
    for name, (wave, flux, ivar, mask) in spectra.items():
        bits = "PIXMASK" if name[1] == "-" else "ANDMASK"
        columns = {"FLUX": flux, "IVAR": ivar, axis: np.log10(wave) if axis == "LOGLAM" else wave, bits: mask}
        made = []
        for key, values in columns.items():
            kind = "J" if key == bits else "D"
            array = values if rows else np.asarray(values)[None]
            made.append(fits.Column(key, kind if rows else f"{len(values)}{kind}", array=array))
        table = fits.BinTableHDU.from_columns(made, name=name)
        table.header["EXPTIME"] = 1200.0
        hdus.append(table)
    fits.HDUList(hdus).writeto(path)
    return path
