"""What a measurement starts from: files that the user named, or arrays."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stargap.errors import UsageError
from stargap.pixels import air_to_vacuum
from stargap.spectra.exchange import from_specutils, is_specutils
from stargap.spectra.readers.read import spectrum_addresses
from stargap.spectra.reading import ReadSettings
from stargap.spectra.resolution import instrument_resolution
from stargap.spectra.spectrum import Facts, Spectrum
from stargap.spectra.units import plain_arrays

__all__ = ["SUFFIXES", "expand_spectra", "files_below", "find_spectra", "list_spectra", "spectra_from_arrays"]

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz")
_PATTERN = re.compile(r"^@|[*?[]")
"""What a path that is none may begin with or hold: a list, or a glob."""
_LONGEST_LIST = 1 << 28
"""Bytes that a list of files may have, about two million names."""


def find_spectra(inputs: Sequence[str | Path]) -> list[Path]:
    """Expand files, folders, globs and ``@list.txt`` into paths, in the order given; folders are searched for FITS.

    A plain path that does not exist is kept, so that it gets its row. A file with several spectra becomes one path a
    spectrum (`stargap.spectra.readers.read.spectrum_addresses`).

    Raises:
        UsageError: nothing was given, a list that cannot be read, a folder or glob without a FITS file.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "a.fits").write_bytes(b"")
        >>> [path.name for path in find_spectra([folder, folder / "missing.fits"])]
        ['a.fits', 'missing.fits']
    """
    found: list[Path] = []
    for given in inputs:
        text, path = str(given), Path(given)
        exists = _is(path.exists)
        if text.startswith("@") and not exists:
            found += _listed(text)
        elif _is(path.is_dir):
            found += _inside(path)
        elif any(mark in text for mark in "*?[") and not exists:
            try:
                matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
            except (ValueError, NotImplementedError) as error:
                message = f"{text}: {error}"
                raise UsageError(message) from None
            if not matches:
                message = f"{text}: no file matches"
                raise UsageError(message)
            found += matches
        else:
            found.append(path)
    if not found:
        message = "no spectra given: name files, folders, globs or @list.txt"
        raise UsageError(message)
    return [Path(address) for path in found for address in spectrum_addresses(path)]


def expand_spectra(items: Sequence[str | Path | Spectrum]) -> list[str | Path | Spectrum]:
    """Expand the folders, globs and ``@list.txt`` among some items as `find_spectra` does; others are unchanged.

    Raises:
        UsageError: as `find_spectra`.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "a.fits").write_bytes(b"")
        >>> [Path(str(path)).name for path in expand_spectra([str(folder / "*.fits"), "missing.fits"])]
        ['a.fits', 'missing.fits']
    """
    found: list[str | Path | Spectrum] = []
    for item in items:
        if isinstance(item, Spectrum) or not (_PATTERN.search(str(item)) or _is(Path(item).is_dir)):
            found.append(item)
        else:
            found += [item] if _is(Path(item).is_file) else find_spectra([item])
    return found


def _listed(text: str) -> list[Path]:
    """Return the files in a list; it may come from a pipe."""
    try:
        with Path(text[1:]).open("rb") as file:
            content = file.read(_LONGEST_LIST + 1)
    except (OSError, ValueError) as error:
        message = f"{text}: the list cannot be read ({error})"
        raise UsageError(message) from None
    if len(content) > _LONGEST_LIST:
        message = f"{text}: a list of more than 256 MiB; name the folder that holds the files"
        raise UsageError(message)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        lines = content.decode("utf-16", "replace").splitlines()
    else:
        lines = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").splitlines()
    return [Path(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (OSError, ValueError):
        return False  # the reader says why in the row


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder: in each folder the files by name, then its folders by name.

    Raises:
        UsageError: one of the folders cannot be searched.
    """

    def refuse(error: OSError) -> NoReturn:
        message = f"{error.filename}: cannot be searched ({error.strerror})"
        raise UsageError(message) from None

    for top, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(top, name) for name in sorted(names))


def _inside(folder: Path) -> list[Path]:
    inside = sorted(path for path in files_below(folder) if path.name.lower().endswith(SUFFIXES))
    if not inside and folder.name.lower().endswith(SUFFIXES):
        return [folder]
    if not inside:
        message = f"{folder}: no FITS file in this folder (looked for {', '.join(SUFFIXES)})"
        raise UsageError(message)
    return inside


def list_spectra(spectra: Any) -> list[str | Path | Spectrum]:
    """Return one or several paths and `Spectrum` objects, however they are given, as a list; one item a spectrum.

    Args:
        spectra: a path, a `Spectrum`, a ``specutils.Spectrum``, or any sequence, array or table's column of them.

    Raises:
        UsageError: an item is neither, or numbers are given.

    Example:
        >>> list_spectra(np.array(["b.fits", "a.fits"]))
        ['b.fits', 'a.fits']
    """
    if isinstance(spectra, str | bytes | os.PathLike | Spectrum):
        spectra = [spectra]
    if np.ma.isMaskedArray(spectra) and np.ma.getmaskarray(spectra).any():
        message = f"item {int(np.flatnonzero(np.ma.getmaskarray(spectra))[0])} is masked: it names no file"
        raise UsageError(message)
    if isinstance(spectra, np.ndarray):
        if spectra.dtype.kind not in "OUST":
            message = "arrays of fluxes need wavelength and ivar"
            raise UsageError(message)
        spectra = np.asarray(spectra).ravel().tolist()
    items: list[str | Path | Spectrum] = []
    for item in [spectra] if is_specutils(spectra) else spectra:
        if isinstance(item, Spectrum):
            items.append(item)
        elif is_specutils(item):
            items += from_specutils(item)
        elif isinstance(item, str | bytes | os.PathLike):
            path = os.fsdecode(item)
            items += spectrum_addresses(Path(path) if isinstance(item, os.PathLike) else path)
        else:
            message = f"a spectrum is a path or a Spectrum, not a {type(item).__name__}"
            raise UsageError(message)
    return items


def spectra_from_arrays(flux: Any, wavelength: Any, ivar: Any, read: ReadSettings | None = None) -> list[Spectrum]:
    """Return arrays as spectra, one per row of the fluxes.

    Masked pixels and those that are not finite get an ``ivar`` of 0. Units, where there are any, are honoured: see
    `stargap.spectra.units.plain_arrays`.

    Args:
        flux: ``(pixel,)`` or ``(star, pixel)``.
        wavelength: ``(pixel,)``, vacuum, heliocentric, strictly increasing; A unless it has a unit.
        ivar: inverse variances of the fluxes, of the same shape.
        read: whether wavelengths are in air, and their frame, if they are not vacuum and heliocentric.

    Raises:
        UsageError: shapes or units that do not agree, or impossible wavelengths.

    Example:
        >>> (star,) = spectra_from_arrays(np.ma.array([1.0, 9.0], mask=[0, 1]), [6000.0, 6001.0], [4.0, 4.0])
        >>> star.flux, star.ivar
        (array([1., 0.]), array([4., 0.]))
    """
    try:
        wave, values, weights, masked = plain_arrays(wavelength, flux, ivar)
    except (ValueError, TypeError) as error:
        message = f"arrays that cannot be used: {error}"
        raise UsageError(message) from None
    values, weights, masked = np.atleast_2d(values), np.atleast_2d(weights), np.atleast_2d(masked)
    if values.ndim != 2 or wave.ndim != 1 or values.shape != weights.shape or values.shape[1] != wave.size:
        message = f"shapes do not agree: wavelength {wave.shape}, flux {values.shape}, ivar {weights.shape}"
        raise UsageError(message)
    if not (np.isfinite(wave).all() and (wave > 0).all() and (np.diff(wave) > 0).all()):
        message = "wavelength must be finite, positive and strictly increasing"
        raise UsageError(message)
    good = np.isfinite(values) & np.isfinite(weights) & (weights > 0) & ~masked
    values, weights = np.where(good, values, 0.0), np.where(good, weights, 0.0)
    if read is not None and read.air:
        wave = air_to_vacuum(wave)
    frame = None if read is None or read.frame == "heliocentric" else read.frame
    instrument = None if read is None else read.instrument
    power = None if instrument is None else instrument_resolution(wave, instrument)
    facts = Facts(layout="arrays", frame=frame)
    return [Spectrum(wave, f, w, facts, power) for f, w in zip(values, weights, strict=True)]
