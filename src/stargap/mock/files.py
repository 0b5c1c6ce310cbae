"""Writes spectra as LAMOST low-resolution files, in each of the three layouts of the real ones."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.spectra.readers.content import snr_by_band
from stargap.spectra.spectrum import Facts

__all__ = ["Layout", "write_lamost"]

Layout = Literal["lamost-dr1", "lamost-image", "lamost-table"]
_Card: TypeAlias = tuple[str, str | float | bool, str]

_MISSING = -9999.0
_MJD_ZERO = date(1858, 11, 17)
_ROW_NAMES = {
    "lamost-dr1": "Flux Inverse Subcontinuum Andmask Ormask",
    "lamost-image": "Flux, Inverse, Wavelength, Andmask, Ormask",
}
_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")
_RELEASES = {"lamost-image": "LAMOST DR7", "lamost-table": "LAMOST DR10"}


def write_lamost(
    path: str | Path,
    wavelength: ArrayLike,
    flux: ArrayLike,
    ivar: ArrayLike,
    *,
    layout: Layout = "lamost-image",
    andmask: ArrayLike = 0,
    ormask: ArrayLike = 0,
    obsid: int | None = None,
    designation: str | None = None,
    ra: float | None = None,
    dec: float | None = None,
    snr: Mapping[str, float | None] | None = None,
    subclass: str = "M2",
    object_class: str = "STAR",
    release: str | None = None,
    plan_id: str = "SIM",
    lmjd: int = 58000,
    spectrograph: int = 1,
    fiber: int = 1,
    date_obs: str | None = None,
    exposure: float = 5400.0,
    fiber_mask: int = 0,
    pipeline_z: float | None = None,
    helio_rv: float = 0.0,
    compress: bool | None = None,
) -> Path:
    """Write one spectrum as a LAMOST low-resolution file; ``spectra.read.read_spectrum`` reads it back.

    Arrays are stored as float32. The file appears under its name only when it is complete, and equal
    arguments give equal bytes.

    Args:
        path: where to write; a file there is replaced.
        wavelength: ``(pixel,)``, vacuum A; for ``lamost-dr1`` it must be linear in its logarithm.
        flux: ``(pixel,)``, any linear unit.
        ivar: ``(pixel,)``, in 1/flux^2, 0 where a pixel is bad.
        layout: the image of DR1 or of DR2-DR8, or the table of DR9 and later.
        andmask: ``(pixel,)`` or a scalar, bits set in every exposure.
        ormask: ``(pixel,)`` or a scalar, bits set in at least one exposure.
        obsid: OBSID; like DATA_V and the fibre mask it is left out of ``lamost-dr1``, as in real DR1 files.
        designation: without the leading ``LAMOST``.
        ra: deg.
        dec: deg.
        snr: S/N by band, keys u, g, r, i, z; absent or None is written as -9999. By default it is computed
            from `ivar`, rounded to 0.01; with ``{}`` the file has no S/N cards.
        subclass: SUBCLASS.
        object_class: CLASS.
        release: DATA_V, by default one that used the layout.
        plan_id: PLANID.
        lmjd: local modified Julian day.
        spectrograph: SPID.
        fiber: FIBERID.
        date_obs: DATE-OBS, by default 14:00 UTC on day `lmjd`.
        exposure: EXPTIME (s).
        fiber_mask: FIBERMAS, or FIB_MASK in the table.
        pipeline_z: Z; None is written as -9999.
        helio_rv: heliocentric correction already applied (km/s).
        compress: gzip the file; by default when its name ends in ``.gz``.

    Returns:
        The path.

    Raises:
        UsageError: an unknown layout, arrays of unequal lengths, or wavelengths that DR1's cards cannot give.

    Example:
        >>> from stargap.spectra.readers.read import read_spectrum
        >>> grid = 10 ** (3.5682 + 1e-4 * np.arange(3909))
        >>> path = getfixture("tmp_path") / "spec.fits.gz"
        >>> spectrum = read_spectrum(write_lamost(path, grid, grid, 1 / grid, obsid=7, subclass="dM2"))
        >>> spectrum.flux.shape, spectrum.facts.obsid, spectrum.facts.subclass, spectrum.facts.snr_r
        ((3909,), 7, 'dM2', 78.49)
    """
    path = Path(path)
    if layout not in get_args(Layout):
        message = f"layout {layout!r} is not one of {', '.join(get_args(Layout))}"
        raise UsageError(message)
    wave = np.asarray(wavelength, dtype=np.float64)
    rows = _rows(wave, flux, ivar, andmask, ormask)
    if snr is None:
        good = np.isfinite(rows["FLUX"]) & np.isfinite(rows["IVAR"]) & (rows["IVAR"] > 0)
        measured = snr_by_band(wave[good], rows["FLUX"][good].astype(float), rows["IVAR"][good].astype(float))
        snr = {name[-1]: None if value is None else round(value, 2) for name, value in measured.items()}
    facts = Facts(
        path=path.name.removesuffix(".gz"),
        layout=layout,
        release=release or _RELEASES.get(layout),
        obsid=obsid,
        designation=designation and f"LAMOST {designation}",
        ra=ra,
        dec=dec,
        subclass=subclass,
        object_class=object_class,
        plan_id=plan_id,
        lmjd=lmjd,
        spectrograph=spectrograph,
        fiber=fiber,
        date_obs=date_obs or f"{_MJD_ZERO + timedelta(days=int(lmjd))}T14:00:00",
        exposure=exposure,
        fiber_mask=fiber_mask,
        pipeline_z=_MISSING if pipeline_z is None else pipeline_z,
        helio_rv=helio_rv,
    )
    cards = _cards(facts, snr, _dispersion(wave, layout))
    content = io.BytesIO()
    (_table(cards, rows) if layout == "lamost-table" else _image(cards, rows, layout)).writeto(content)
    packed = path.suffix == ".gz" if compress is None else compress
    with replacing(path) as file:
        file.write(gzip.compress(content.getvalue(), 6, mtime=0) if packed else content.getvalue())
    return path


def _rows(wave: NDArray[np.float64], *given: ArrayLike) -> dict[str, NDArray[np.float32]]:
    try:
        with np.errstate(over="ignore"):
            arrays = [np.broadcast_to(np.asarray(array, np.float32), (wave.size,)) for array in given]
    except ValueError as error:
        message = f"flux, ivar and masks do not fit {wave.size} wavelengths: {error}"
        raise UsageError(message) from error
    return dict(zip(("FLUX", "IVAR", "ANDMASK", "ORMASK"), arrays, strict=True)) | {
        "WAVELENGTH": wave.astype(np.float32),
        "NORMALIZATION": _normalised(arrays[0]),
    }


def _normalised(flux: NDArray[np.float32]) -> NDArray[np.float32]:
    smooth = np.convolve(np.nan_to_num(flux, posinf=0, neginf=0), np.full(301, 1 / 301), "same")[: flux.size]
    good = np.isfinite(flux) & (smooth > 0)
    return np.where(good, flux / np.where(good, smooth, 1), 1).astype(np.float32)


def _dispersion(wave: NDArray[np.float64], layout: Layout) -> tuple[float | None, float | None]:
    if wave.size < 2 or not (np.isfinite(wave) & (wave > 0)).all():
        start = step = error = np.inf
    else:
        logarithm = np.log10(wave)
        start = round(float(logarithm[0]), 10)
        step = round(float(logarithm[-1] - logarithm[0]) / (wave.size - 1), 10)
        error = float(np.abs(start + step * np.arange(wave.size) - logarithm).max())
    if layout == "lamost-dr1" and not error < 0.01 * abs(step):
        message = "lamost-dr1 gives wavelengths by COEFF0 and COEFF1: they must be linear in log10"
        raise UsageError(message)
    return (start, step) if np.isfinite(error) else (None, None)


def _cards(facts: Facts, snr: Mapping[str, float | None], dispersion: tuple[float | None, float | None]) -> list[_Card]:
    dr1, table = facts.layout == "lamost-dr1", facts.layout == "lamost-table"
    start, step = dispersion
    cards: list[tuple[str, str | float | bool | None, str]] = [
        ("COMMENT", "--------FILE INFORMATION", ""),
        ("FILENAME", facts.path, ""),
        ("OBSID", None if dr1 else facts.obsid, "Unique number ID of this spectrum"),
        ("AUTHOR", "stargap", "Simulated: not an observation"),
        ("DATA_V", None if dr1 else facts.release, "Data release version"),
        ("EXTEN0", _ROW_NAMES.get(facts.layout), ""),
        ("N_EXTEN", 2 if table else 1, "The extension number"),
        ("EXTNAME", "Flux" if facts.layout == "lamost-image" else None, "The extension name"),
        ("COMMENT", "--------OBSERVATION PARAMETERS", ""),
        ("TELESCOP", "LAMOST", "GuoShouJing Telescope"),
        ("DATE-OBS", facts.date_obs, "The observation median UTC"),
        ("LMJD", facts.lmjd, "Local Modified Julian Day"),
        ("PLANID", facts.plan_id, "Plan ID in use"),
        ("RA", facts.ra, "[deg] Right ascension of object"),
        ("DEC", facts.dec, "[deg] Declination of object"),
        ("DESIG", facts.designation, "Designation of LAMOST target"),
        ("FIBERID", facts.fiber, "Fiber ID of Object"),
        ("OBJTYPE", "Star", "Object type from input catalog"),
        ("FIBERTYP" if not table else "FIB_TYPE", "Obj", "Fiber type of object"),
        ("FIB_MASK" if table else "FIBERMAS", None if dr1 else facts.fiber_mask, "Bitmask of warning values"),
        ("RADECSYS", "FK5", "Equatorial coordinate system"),
        ("EQUINOX", 2000.0, "Equinox in years"),
        ("EXPTIME", facts.exposure, "[s] Minimum of exposure time for all cameras"),
        ("SPID", facts.spectrograph, "Spectrograph ID"),
        ("COMMENT", "--------DATA REDUCTION PARAMETERS", ""),
        ("HELIO", True, "Heliocentric correction"),
        ("HELIO_RV", facts.helio_rv, "[km/s] Heliocentric correction"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", start, "Central wavelength (log10) of first pixel"),
        ("COEFF1", step, "Log10 dispersion per pixel"),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("COMMENT", "--------SPECTRA ANALYSIS RESULTS", ""),
        ("CLASS", facts.object_class, "Class of object"),
        ("SUBCLASS", facts.subclass, "Subclass of object"),
        ("Z", facts.pipeline_z, "Redshift of object"),
    ]
    for band in "ugriz" if snr else "":
        value = snr.get(band)
        key = f"{'SN_' if dr1 else 'SNR'}{band.upper()}"
        cards.append((key, _MISSING if value is None else value, f"SNR of {band} filter"))
    return [(key, value, comment) for key, value, comment in cards if value is not None]


def _image(cards: list[_Card], rows: dict[str, NDArray[np.float32]], layout: Layout) -> fits.HDUList:
    third = "NORMALIZATION" if layout == "lamost-dr1" else "WAVELENGTH"
    names = ("FLUX", "IVAR", third, "ANDMASK", "ORMASK")
    return fits.HDUList([fits.PrimaryHDU(np.stack([rows[name] for name in names]), fits.Header(cards))])


def _table(cards: list[_Card], rows: dict[str, NDArray[np.float32]]) -> fits.HDUList:
    columns = [fits.Column(name, f"{rows[name].size}E", array=rows[name][np.newaxis]) for name in _COLUMNS]
    table = fits.BinTableHDU.from_columns(columns, name="COADD")
    return fits.HDUList([fits.PrimaryHDU(header=fits.Header(cards)), table])
