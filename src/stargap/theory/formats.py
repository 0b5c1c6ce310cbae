"""Readers of single model spectra: BT-Settl (ASCII and FITS) and PHOENIX-ACES."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from stargap.errors import UsageError

__all__ = ["flux_scale", "labels_from_name", "ordered", "read_bt_settl_ascii", "read_bt_settl_fits", "read_packed",
           "read_phoenix_aces"]  # fmt: skip

Spectrum = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Labels (4,), wavelength (pixel,), flux (pixel,)."""

DF = -8.0
"""log10 of what turns BT-Settl's erg/s/cm2/cm into erg/s/cm2/A."""
MOST_LOG_FLUX = 25.0
"""No star has this much flux (log10 of erg/s/cm2/cm at the surface; 70,000 K has 20)."""
PHOENIX_WAVE = "WAVE_PHOENIX-ACES-AGSS-COND-2011.fits"
KEYWORDS = ("PHXTEFF", "PHXLOGG", "PHXM_H", "PHXALPHA")
LABEL_TOLERANCE = (1.0, 0.05, 0.05, 0.05)

NAME = re.compile(
    r"^lte(?P<teff>\d{3,5}(?:\.\d+)?)(?P<gravity>[+-]\d+(?:\.\d+)?)(?P<m_h>[+-]\d+(?:\.\d+)?)"
    r"(?:a(?P<a>[+-]?\d+(?:\.\d+)?)|\.Alpha=(?P<alpha>[+-]?\d+(?:\.\d+)?))?\.(?:BT-Settl|PHOENIX-ACES|PHOENIX-NewEra)",
    re.IGNORECASE,
)
NUMBER = rb"([+-]?(?:\d++\.?\d*+|\.\d++)(?:[DdEe][+-]?\d++)?+)"
PAIR = rb"[ \t]*+" + NUMBER + rb"(?:[ \t]++|(?=[+-]))" + NUMBER + rb"(?=[ \t\r\n+-]|\Z)"
ROW = re.compile(rb"^" + PAIR, re.MULTILINE)
LOST = re.compile(rb"^(?!" + PAIR + rb"|[ \t]*+(?:[#!;%]|\r?$))[^\n]*+", re.MULTILINE)


def labels_from_name(path: str | Path) -> NDArray[np.float64]:
    """Return the labels that the name of a BT-Settl, PHOENIX-ACES or PHOENIX NewEra file states.

    ``lte{Teff}-{log g}{[M/H]}``, then ``a{[a/M]}`` (BT-Settl) or ``.Alpha={[a/M]}`` (PHOENIX-ACES), 0 when
    left out. Teff is in units of 100 K with three digits before the point, and in K with more. The sign
    before log g is a separator, turned round for a negative log g; that of [M/H] is its own.

    Returns:
        ``(4,)``: Teff (K), log g, [M/H], [a/M] (dex).

    Raises:
        UsageError: the name is of another kind.

    Example:
        >>> labels_from_name("lte030.5-5.0-0.5a+0.2.BT-Settl.spec.7.xz").tolist()
        [3050.0, 5.0, -0.5, 0.2]
        >>> labels_from_name("lte03000-4.50+0.5.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits").tolist()
        [3000.0, 4.5, 0.5, 0.0]
    """
    teff, logg, m_h, a_m = _named(path)
    if teff is None or logg is None or m_h is None:
        msg = f"{path}: the name does not state labels like lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7 does"
        raise UsageError(msg)
    return np.array([teff, logg, m_h, a_m or 0.0]) + 0.0


def read_bt_settl_ascii(path: str | Path) -> Spectrum:
    """Read a BT-Settl ASCII spectrum (``lte*.BT-Settl.spec.7``, plain or compressed whatever its name says).

    Column 1 is the vacuum wavelength (A), in no order; the flux is 10^(column 2 - 8). Fortran ``D``
    exponents and columns that touch (``6000.1234-12.3456``) are read; further columns, blank lines and
    comments are not. Of a repeated wavelength the first stays. Source: the FORMAT file of the grids at
    phoenix.ens-lyon.fr.

    Returns:
        Labels ``(4,)`` from the name: Teff (K), log g, [M/H], [a/M]; increasing wavelengths ``(pixel,)`` (A);
        surface flux ``(pixel,)`` (erg/s/cm2/A).

    Raises:
        UsageError: the name states no labels, the file is damaged, a line is no spectrum's, or column 2 is
            not a log flux (copies from other servers hold the flux itself).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "lte030-5.0-0.0.BT-Settl.spec.7"
        ...     _ = path.write_text("6001.00 1.40000D+01\\n 6000.00 1.30000D+01\\n  900.00-1.00000D+00\\n")
        ...     labels, wavelength, flux = read_bt_settl_ascii(path)
        >>> labels[0], wavelength, flux
        (np.float64(3000.0), array([ 900., 6000., 6001.]), array([1.e-09, 1.e+05, 1.e+06]))
    """
    labels = labels_from_name(path)
    data = read_packed(path)
    rows = ROW.findall(data)
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if lines > len(rows) and (lost := LOST.search(data)):
        number, line = data.count(b"\n", 0, lost.start()) + 1, lost[0][:40].decode("ascii", "replace")
        msg = f"{path}: line {number} does not begin with a wavelength and a log flux: {line!r}"
        raise UsageError(msg)
    text = b" ".join(b" ".join(row) for row in rows).replace(b"D", b"E").replace(b"d", b"e")
    columns = np.array([float(value) for value in text.split()]).reshape(-1, 2)
    if columns.size and columns[:, 1].max() > MOST_LOG_FLUX:
        msg = f"{path}: column 2 reaches {columns[:, 1].max():g}, so it is not the log10 of a flux"
        raise UsageError(msg)
    return labels, *ordered(path, columns[:, 0], 10.0 ** (columns[:, 1] + DF))


def read_bt_settl_fits(path: str | Path) -> Spectrum:
    """Read a BT-Settl FITS spectrum (``lte*.BT-Settl.spec.fits``, plain or compressed).

    HDU 1 is a table with ``Wavelength`` (micron, vacuum) and ``Flux`` (W/m2/um = 0.1 erg/s/cm2/A); units
    stated in the file are obeyed. Labels come from ``PHXTEFF``, ``PHXLOGG``, ``PHXM_H``, ``PHXALPHA`` of
    either header, and from the name where a keyword is missing.

    Returns:
        As `read_bt_settl_ascii`.

    Raises:
        UsageError: the file is damaged or of another kind, or its header and name contradict each other.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> table = fits.BinTableHDU.from_columns(
        ...     [fits.Column("Wavelength", "D", array=[0.6, 0.7]), fits.Column("Flux", "D", array=[5e6, 6e6])]
        ... )
        >>> with TemporaryDirectory() as folder:
        ...     table.writeto(path := Path(folder) / "lte030.0-5.0-0.0a+0.0.BT-Settl.spec.fits")
        ...     labels, wavelength, flux = read_bt_settl_fits(path)
        >>> labels.tolist(), wavelength, flux
        ([3000.0, 5.0, 0.0, 0.0], array([6000., 7000.]), array([500000., 600000.]))
    """
    table, header = _read_hdu(path, 1)
    names = {name.lower(): name for name in (table.dtype.names or ())}
    if missing := {"wavelength", "flux"} - set(names):
        msg = f"{path}: HDU 1 has no column {' and no '.join(sorted(missing))}"
        raise UsageError(msg)
    stated = [_stated_unit(header, names[key]) for key in ("wavelength", "flux")]
    wave_scale = flux_scale(path, stated[0] or "um", u.AA)
    to_flux = flux_scale(path, stated[1] or "W m-2 um-1", u.erg / u.s / u.cm**2 / u.AA)
    wavelength = np.asarray(table[names["wavelength"]], dtype=np.float64).ravel() * wave_scale
    flux = np.asarray(table[names["flux"]], dtype=np.float64).ravel() * to_flux
    return _labels(path, header), *ordered(path, wavelength, flux)


def read_phoenix_aces(path: str | Path, *, wavelength_path: str | Path | None = None) -> Spectrum:
    """Read a PHOENIX-ACES high-resolution spectrum (Husser et al. 2013, A&A 553, A6).

    HDU 0 is an image of the flux (erg/s/cm2/cm); the vacuum wavelengths (A) are in their own file, looked for
    beside the spectrum and one and two folders up, as the Goettingen server lays them out.

    Args:
        path: ``lte*.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits``.
        wavelength_path: the wavelength file, if it is elsewhere.

    Returns:
        As `read_bt_settl_ascii`; labels as `read_bt_settl_fits`.

    Raises:
        UsageError: no wavelength file is found, it does not fit the spectrum, the file is damaged or of
            another kind, or its header and name contradict each other.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "lte03000-5.00-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"
        ...     fits.PrimaryHDU(np.array([5e13, 6e13])).writeto(path)
        ...     fits.PrimaryHDU(np.array([6000.0, 7000.0])).writeto(Path(folder) / PHOENIX_WAVE)
        ...     labels, wavelength, flux = read_phoenix_aces(path)
        >>> labels.tolist(), wavelength, flux
        ([3000.0, 5.0, 0.0, 0.0], array([6000., 7000.]), array([500000., 600000.]))
    """
    image, header = _read_hdu(path, 0)
    to_flux = flux_scale(path, header.get("BUNIT") or "erg/s/cm2/cm", u.erg / u.s / u.cm**2 / u.AA)
    if wavelength_path is None:
        folders = [Path(path).parent, *Path(path).absolute().parent.parents[:2]]
        if not (found := [folder / PHOENIX_WAVE for folder in folders if (folder / PHOENIX_WAVE).is_file()]):
            msg = f"{path}: {PHOENIX_WAVE} is missing; looked in {', '.join(map(str, folders))}"
            raise UsageError(msg)
        wavelength_path = found[0]
    wavelength, _ = _read_hdu(wavelength_path, 0)
    if image.ndim != 1 or wavelength.shape != image.shape:
        msg = f"{path}: {image.shape} fluxes do not fit the {wavelength.shape} wavelengths of {wavelength_path}"
        raise UsageError(msg)
    return _labels(path, header), *ordered(path, wavelength, image.astype(np.float64) * to_flux)


def read_packed(path: str | Path) -> bytes:
    """Return the content of a file, unpacked if it is gzip, bzip2 or xz.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"BZh"):
            return bz2.decompress(data)
        return lzma.decompress(data) if data.startswith(b"\xfd7zXZ\x00") else data
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UsageError(msg) from error


def ordered(
    path: str | Path, wavelength: NDArray[Any], flux: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sort by wavelength, keeping the first of equals."""
    wave, first = np.unique(np.asarray(wavelength, dtype=np.float64), return_index=True)
    if wave.size < 2 or not np.isfinite(wave).all() or wave[0] <= 0:
        msg = f"{path}: holds no spectrum of two or more finite, positive wavelengths"
        raise UsageError(msg)
    return wave, flux[first]


def _read_hdu(path: str | Path, index: int) -> tuple[NDArray[Any], fits.Header]:
    """Return the data of one HDU, and its header over that of HDU 0."""
    data = read_packed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)
            warnings.filterwarnings("error", message=".*truncated", category=AstropyUserWarning)
            with fits.open(BytesIO(data), memmap=False) as hdus:
                array, header = hdus[index].data, hdus[0].header.copy()
                if index:
                    header.update(hdus[index].header)
                if array is None:
                    msg = f"HDU {index} is empty"
                    raise ValueError(msg)
                return np.array(array), header
    except (OSError, ValueError, TypeError, IndexError, KeyError, AstropyUserWarning) as error:
        msg = f"{path}: is not a readable FITS file of this kind ({error})"
        raise UsageError(msg) from error


def _stated_unit(header: fits.Header, column: str) -> str | None:
    for i in range(1, int(header.get("TFIELDS", 0)) + 1):
        if header.get(f"TTYPE{i}") == column:
            unit = header.get(f"TUNIT{i}")
            return None if unit is None else str(unit)
    return None


def flux_scale(path: str | Path, stated: str, target: u.UnitBase) -> float:
    """Return what turns values in a stated unit into the target unit.

    Raises:
        UsageError: it cannot be done.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return float(u.Unit(stated).to(target))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        msg = f"{path}: the unit {stated!r} cannot be brought to {target}"
        raise UsageError(msg) from error


def _named(path: str | Path) -> list[float | None]:
    if (found := NAME.match(Path(path).name)) is None:
        return [None] * 4
    teff = float(found["teff"]) * (100.0 if len(found["teff"].split(".")[0]) == 3 else 1.0)
    alpha = found["a"] or found["alpha"]
    return [teff, -float(found["gravity"]), float(found["m_h"]), None if alpha is None else float(alpha)]


def _labels(path: str | Path, header: fits.Header) -> NDArray[np.float64]:
    """Labels of the header, of the name where a keyword is missing; both must agree where both speak."""
    stated = [header.get(key) for key in KEYWORDS]
    labels = labels_from_name(path) if None in stated else np.zeros(4)
    for i, (value, name, tolerance) in enumerate(zip(stated, _named(path), LABEL_TOLERANCE, strict=True)):
        if value is None:
            continue
        if not isinstance(value, int | float) or not abs(value - (value if name is None else name)) <= tolerance:
            msg = f"{path}: {KEYWORDS[i]} = {value!r} in the header contradicts {name} in the name"
            raise UsageError(msg)
        labels[i] = value
    return labels + 0.0
