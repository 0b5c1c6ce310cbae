"""Readers of single model spectra as servers give them out: SVO, PHOENIX NewEra, SPHINX, MARCS surface fluxes."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy import units as u
from astropy.io import votable
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.theory.formats import Spectrum, flux_scale, labels_from_name, ordered, read_packed

__all__ = ["MARCS_WAVE", "is_svo", "read_marcs", "read_newera", "read_sphinx", "read_svo"]

MARCS_WAVE = "flx_wavelengths.vac"
SVO_SUFFIXES = (".dat.txt", ".dat.xml", ".xml", ".vot", ".svo", ".dat")
FLUX = u.erg / u.s / u.cm**2 / u.AA
VACUUM = re.compile(r"BT-?(Settl|NextGen|Cond|Dusty)|AMES|NextGen|PHOENIX|DRIFT", re.IGNORECASE)
"""Families of models whose wavelengths are in vacuum, by the first line of SVO's files: all are made with PHOENIX,
whose output is documented so (phoenix.ens-lyon.fr/Grids/FORMAT; Husser et al. 2013)."""
_SVO_LINE = re.compile(r"^#\s*(teff|logg|meta|alpha|afe)\s*=\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)", re.MULTILINE)
_SVO_UNIT = re.compile(r"^#\s*column\s*(\d+)\s*:\s*\w+\s*\(([^)]*)\)", re.MULTILINE | re.IGNORECASE)
_SPHINX = re.compile(
    r"teff_(?P<teff>[\d.]+)_logg_(?P<logg>[\d.]+)_logz_(?P<m_h>[+-]?[\d.]+)_ctoo_(?P<ratio>[\d.]+?)(?:_spectra)?\.txt",
    re.IGNORECASE,
)
_MARCS = re.compile(
    r"[ps](?P<teff>\d{4})_g(?P<logg>[+-][\d.]+)_m[\d.]+_t\d+_\w\w_z(?P<m_h>[+-][\d.]+)_a(?P<a_m>[+-][\d.]+)_.*\.flx",
    re.IGNORECASE,
)


def is_svo(path: Path) -> bool:
    """Whether a file is one of SVO's: by its suffix, and by its first bytes.

    Example:
        >>> is_svo(Path("no-such-file.dat.txt"))
        False
    """
    if not path.name.lower().endswith(SVO_SUFFIXES):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(2048)
    except OSError:
        return False
    return b"VOTABLE" in start or re.search(rb"^#\s*teff\s*=", start, re.MULTILINE) is not None


def read_svo(path: str | Path) -> Spectrum:
    """Read a spectrum of SVO's server of theoretical spectra (svo2.cab.inta-csic.es/theory/newov2), text or VOTable.

    Labels are its ``teff``, ``logg``, ``meta`` and ``alpha`` (or ``afe``, 0 where there is neither); columns and units
    those of the lines ``# column 1: WAVELENGTH (ANGSTROM)``, the flux linear. Files do not say whether wavelengths are
    in air: those of `VACUUM` families are not, and others are refused.

    Returns:
        Labels ``(4,)``: Teff (K), log g, [M/H], [a/M]; increasing vacuum wavelengths ``(pixel,)`` (A); surface flux
        ``(pixel,)`` (erg/s/cm2/A).

    Raises:
        UsageError: labels are missing, the family is not known to be in vacuum, or the file is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> text = "# BT-Settl (CIFIST)\\n# teff = 3500 K\\n# logg = 5 log(cm/s2)\\n# meta = 0\\n"
        >>> text += "# column 1: WAVELENGTH (ANGSTROM)\\n# column 2: FLUX (ERG/CM2/S/A)\\n6000 1e5\\n6001 2e5\\n"
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "lte035-5.0-0.0.BT-Settl.7.dat.txt"
        ...     _ = path.write_text(text)
        ...     labels, wavelength, flux = read_svo(path)
        >>> labels.tolist(), wavelength, flux
        ([3500.0, 5.0, 0.0, 0.0], array([6000., 6001.]), array([100000., 200000.]))
    """
    data = read_packed(path)
    title, stated, columns, named = _votable(data, path) if b"VOTABLE" in data[:2048] else _text(data, path)
    missing = {"teff", "logg", "meta"} - set(stated)
    if missing:
        msg = f"{path}: states no {' and no '.join(sorted(missing))}"
        raise UsageError(msg)
    if VACUUM.search(f"{title} {Path(path).name}") is None:
        msg = f"{path}: nothing says whether wavelengths of {title!r} are in air; those of PHOENIX models are in vacuum"
        raise UsageError(msg)
    labels = np.array([stated["teff"], stated["logg"], stated["meta"], stated.get("alpha", stated.get("afe", 0.0))])
    wave, flux = columns
    wave = wave * flux_scale(path, named[0], u.AA)
    return labels + 0.0, *ordered(path, wave, flux * flux_scale(path, named[1], FLUX))


def read_newera(path: str | Path) -> Spectrum:
    """Read a spectrum of PHOENIX NewEra (Hauschildt et al. 2025, A&A 698, A47): ``lte*.PHOENIX-NewEra*.HSR.h5``.

    ``PHOENIX_SPECTRUM/wl`` are vacuum wavelengths (A), ``flux`` is log10 of erg/s/cm2/cm. Labels come from the name.

    Returns:
        As `read_svo`.

    Raises:
        UsageError: the name states no labels, or the file is damaged or another kind of HDF5.
    """
    labels = labels_from_name(path)
    try:
        with h5py.File(path, "r") as file:
            group = file["PHOENIX_SPECTRUM"]
            wave, flux = (np.asarray(group[key][()], dtype=np.float64).ravel() for key in ("wl", "flux"))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        msg = f"{path}: is not a readable spectrum of PHOENIX NewEra ({error})"
        raise UsageError(msg) from error
    if wave.shape != flux.shape:
        msg = f"{path}: {flux.size} fluxes do not fit {wave.size} wavelengths"
        raise UsageError(msg)
    return labels, *ordered(path, wave, 10.0 ** (flux - 8.0))


def read_sphinx(path: str | Path) -> Spectrum:
    """Read a spectrum of SPHINX (Iyer et al. 2023, ApJ 944, 41): ``Teff_*_logg_*_logZ_*_CtoO_*.txt``.

    Two columns: vacuum wavelength (micron), flux (W/m2/m). The carbon-to-oxygen ratio is no label here: keep spectra of
    one ratio in a folder. Those of the first release have R = 250, which is too coarse for low-resolution surveys.

    Returns:
        As `read_svo`; [a/M] is 0.

    Raises:
        UsageError: the name states no labels, or the file is no table of numbers.
    """
    found = _SPHINX.fullmatch(Path(path).name)
    if found is None:
        msg = f"{path}: the name does not state labels like Teff_3000.0_logg_5.0_logZ_+0.0_CtoO_0.5.txt does"
        raise UsageError(msg)
    (wave, flux), _ = _numbers(read_packed(path), path, 2)
    labels = np.array([*(float(found[key]) for key in ("teff", "logg", "m_h")), 0.0])
    return labels + 0.0, *ordered(path, wave * 1e4, flux * 1e-7)


def read_marcs(path: str | Path) -> Spectrum:
    """Read the surface flux of a MARCS model (marcs.astro.uu.se; Gustafsson et al. 2008): ``*.flx``, packed or not.

    One column of fluxes (erg/s/cm2/A); the vacuum wavelengths are in ``flx_wavelengths.vac``, looked for beside it and
    in the two folders above, packed or not. Fluxes are samples at R = 20,000, right in the mean over many of them, not
    a spectrum of that resolving power. The names' z is [Fe/H], taken as [M/H], and a is [a/Fe], taken as [a/M].

    Returns:
        As `read_svo`.

    Raises:
        UsageError: the name states no labels, there are no wavelengths, or the two files do not fit.
    """
    found = _MARCS.match(Path(path).name)
    if found is None:
        msg = f"{path}: the name does not state labels like p3200_g+5.0_m0.0_t01_st_z+0.00_a+0.00_..._s+0.00.flx does"
        raise UsageError(msg)
    folders = [Path(path).parent, *Path(path).absolute().parent.parents[:2]]
    names = (MARCS_WAVE, f"{MARCS_WAVE}.gz")
    there = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
    if there is None:
        msg = f"{path}: {MARCS_WAVE} is missing; looked in {', '.join(map(str, folders))}"
        raise UsageError(msg)
    ((wave,), _), ((flux,), _) = _numbers(read_packed(there), there, 1), _numbers(read_packed(path), path, 1)
    if wave.shape != flux.shape:
        msg = f"{path}: {flux.size} fluxes do not fit the {wave.size} wavelengths of {there}"
        raise UsageError(msg)
    return np.array([float(found[key]) for key in ("teff", "logg", "m_h", "a_m")]) + 0.0, *ordered(path, wave, flux)


_Read = tuple[str, dict[str, float], list[NDArray[np.float64]], tuple[str, str]]


def _text(data: bytes, path: str | Path) -> _Read:
    head = b"\n".join(line for line in data.splitlines()[:200] if line.startswith(b"#")).decode("latin-1")
    stated = {key.lower(): float(value) for key, value in _SVO_LINE.findall(head)}
    units = {int(number): unit for number, unit in _SVO_UNIT.findall(head)}
    columns, _ = _numbers(data, path, 2)
    return head.splitlines()[0].lstrip("# ") if head else "", stated, columns, (
        _unit(units.get(1, "")), _unit(units.get(2, "")))  # fmt: skip


def _votable(data: bytes, path: str | Path) -> _Read:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = votable.parse(BytesIO(data), verify="ignore")
        table = parsed.get_first_table()
        stated = {}
        for parameter in [*table.params, *(p for r in parsed.resources for p in r.params)]:
            name = str(parameter.name or parameter.ID).lower()
            if name in ("teff", "logg", "meta", "alpha", "afe"):
                stated[name] = float(parameter.value)
        columns: list[NDArray[np.float64]] = []
        for field in table.fields[:2]:
            columns.append(np.ma.filled(np.ma.asarray(table.array[field.ID], dtype=float), np.nan))
        units = [_unit(str(field.unit or "")) for field in table.fields[:2]]
        title = " ".join(str(text) for text in (parsed.description, table.description, *(
            resource.description for resource in parsed.resources)) if text)  # fmt: skip
    except Exception as error:  # astropy's reader raises whatever it meets
        msg = f"{path}: is not a readable VOTable of a spectrum ({error})"
        raise UsageError(msg) from error
    if len(columns) < 2:
        msg = f"{path}: the VOTable has no columns of wavelength and flux"
        raise UsageError(msg)
    return title, stated, columns, (units[0], units[1])


def _unit(text: str) -> str:
    """Return a unit as astropy writes it; SVO writes them in capitals."""
    plain = text.strip().upper().replace(" ", "")
    known = {"": "", "ANGSTROM": "Angstrom", "ERG/CM2/S/A": "erg s-1 cm-2 Angstrom-1", "NM": "nm", "MICRON": "um"}
    return known.get(plain, text.strip())


def _numbers(data: bytes, path: str | Path, columns: int) -> tuple[list[NDArray[np.float64]], int]:
    """Return the first columns of a table of text, and how many lines it has; comments begin with #."""
    lines = [line.split() for line in data.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    try:
        table = np.array([[float(item) for item in line[:columns]] for line in lines]).reshape(-1, columns)
    except ValueError:
        msg = f"{path}: a line does not begin with {columns} number{'s' if columns > 1 else ''}"
        raise UsageError(msg) from None
    found: list[Any] = list(table.T)
    return found, len(table)
