"""Spectra in text files: CSV, ECSV, and columns parted by blanks or tabs."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from stargap.errors import SpectrumError
from stargap.spectra.readers.columns import inverse_variance, spectrum_columns
from stargap.spectra.readers.content import Content
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Facts
from stargap.spectra.units import attach_unit

__all__ = ["TEXT_SUFFIXES", "is_text", "parse_text"]

TEXT_SUFFIXES = (".csv", ".ecsv", ".txt", ".dat", ".ascii", ".tsv")
_LARGEST = 1 << 26
"""Bytes that a text file of one spectrum may have."""
_PLAIN = ("wavelength", "flux", "error")
"""Columns of a file of two or three columns of numbers without names."""


def is_text(path: str | Path) -> bool:
    """Whether the name is that of a text file, packed or not, and its content not that of a FITS file.

    Example:
        >>> is_text("star.csv.gz"), is_text("star.fits")
        (True, False)
    """
    if not Path(path).name.lower().removesuffix(".gz").endswith(TEXT_SUFFIXES):
        return False
    try:
        with Path(path).open("rb") as file:
            start = file.read(4096)
        if start.startswith(b"\x1f\x8b"):
            start = zlib.decompressobj(wbits=31).decompress(start, 80)
    except (OSError, ValueError, zlib.error):
        return True
    return not start.startswith(b"SIMPLE  =")


def parse_text(path: str | Path, read: ReadSettings) -> Content:
    """Read a table of text with a name for each column, or two or three columns of numbers without names.

    Units are those that ECSV states, or that follow a name in brackets: ``wave [nm]``. Whether wavelengths are in air
    is what `read` says.

    Raises:
        SpectrumError: no table, no columns of wavelength and flux, no errors, or nothing says whether it is in air.
    """
    table = _table(path)
    if all(isinstance(name, str) and name.startswith("col") for name in table.colnames) and len(table.colnames) < 4:
        table.rename_columns(table.colnames, list(_PLAIN[: len(table.colnames)]))
    names, units = _names_and_units(table)
    found = spectrum_columns(names, read, path)
    values: dict[str, Any] = {
        key: _values(table[table.colnames[names.index(name)]], units[names.index(name)], name, path)
        for key, name in found.items()
    }
    flux = values["flux"]
    ivar = inverse_variance(flux, values.get("error"), values.get("ivar"), read, path)
    wavelength = values["wavelength"]
    return Content(wavelength, flux, ivar, None, Facts(path=str(path), layout="text"))


def _table(path: str | Path) -> Table:
    try:
        raw = Path(path).read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                raw = packed.read(_LARGEST + 1)
    except FileNotFoundError:
        raise SpectrumError(path, "the file does not exist") from None
    except (OSError, EOFError) as error:
        raise SpectrumError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(raw) > _LARGEST:
        raise SpectrumError(path, "too large for one spectrum (over 64 MiB)")
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    kinds = (
        ["ascii.ecsv"] if text.startswith("# %ECSV") else ["ascii.csv", "ascii.basic", "ascii.tab", "ascii.no_header"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in kinds:
            try:
                table = Table.read(text.splitlines(), format=kind)
            except Exception:  # astropy's readers raise what they meet
                continue
            if len(table.colnames) > 1 and len(table) and not _numbers(table.colnames):
                return table
    raise SpectrumError(path, "not a text table of a spectrum")


def _numbers(names: list[str]) -> bool:
    """Whether a first row of numbers was taken for names."""
    try:
        return all(np.isfinite(float(name.split("_")[0])) for name in names)
    except ValueError:
        return False


def _names_and_units(table: Table) -> tuple[list[str], list[str | None]]:
    names, units = [], []
    for name in table.colnames:
        stem, _, rest = name.partition("[") if "[" in name else name.partition("(")
        names.append(stem.strip() or name)
        stated = table[name].unit
        units.append(str(stated) if stated is not None else rest.rstrip("]) ").strip() or None)
    return names, units


def _values(column: Any, unit: str | None, name: str, path: str | Path) -> Any:
    try:
        filled = np.ma.asarray(getattr(column, "value", column)).astype(float)
    except (TypeError, ValueError):
        raise SpectrumError(path, f"the column {name} holds no numbers") from None
    plain = np.where(np.ma.getmaskarray(filled), np.nan, np.ma.getdata(filled))
    try:
        return attach_unit(plain, unit, logarithm=name.lower().startswith("log"))
    except ValueError as error:
        raise SpectrumError(path, f"{name}: {error}") from None
