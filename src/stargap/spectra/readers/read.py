"""One entrance for spectrum files: opens them, recognises the layout by structure, and returns a checked Spectrum."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from stargap.errors import SpectrumError, UsageError
from stargap.spectra.address import join_address, split_address
from stargap.spectra.exchange import read_with_specutils
from stargap.spectra.readers.content import Content, check_spectrum, facts_with_snr
from stargap.spectra.readers.desi import count_desi, is_desi, parse_desi
from stargap.spectra.readers.fitsfile import is_table_hdu, load_fits, open_fits
from stargap.spectra.readers.frame import to_vacuum_heliocentric
from stargap.spectra.readers.image import is_image, parse_image
from stargap.spectra.readers.lamost_image import is_lamost_image, parse_lamost_image
from stargap.spectra.readers.mrs import count_mrs, is_mrs, parse_mrs
from stargap.spectra.readers.mwm import count_mwm, is_mwm, parse_mwm
from stargap.spectra.readers.named import is_named_table, parse_named_table
from stargap.spectra.readers.plain import HDUs
from stargap.spectra.readers.sdss import is_sdss, parse_sdss
from stargap.spectra.readers.spplate import count_spplate, is_spplate, parse_spplate
from stargap.spectra.readers.statements import Stated, check_statements
from stargap.spectra.readers.table import has_ivar, is_table, parse_table
from stargap.spectra.readers.text import is_text, parse_text
from stargap.spectra.reading import ReadSettings
from stargap.spectra.resolution import instrument_resolution
from stargap.spectra.spectrum import Spectrum

__all__ = ["read_spectrum", "spectrum_addresses"]

OWN = ("table", "image")
"""Layouts whose files are no survey's: what they state of their wavelengths is obeyed."""

LAYOUTS: tuple[tuple[Callable[[HDUs], bool], Callable[[HDUs, str | Path], Content]], ...] = (
    (is_sdss, parse_sdss),
    (is_lamost_image, parse_lamost_image),
    (is_table, parse_table),
)
"""How each layout of one spectrum is recognised and read, most specific first: the first that fits reads a file."""


@dataclass(frozen=True)
class Collection:
    """A layout of files that can hold several spectra: how to recognise it, to count them, and to read one."""

    recognises: Callable[[HDUs, str | Path], bool]
    count: Callable[[HDUs], int]
    parse: Callable[[HDUs, str | Path, int], Content]


COLLECTIONS = (
    Collection(is_mrs, count_mrs, parse_mrs),
    Collection(is_mwm, count_mwm, parse_mwm),
    Collection(is_desi, count_desi, parse_desi),
    Collection(is_spplate, count_spplate, parse_spplate),
)
"""They are tried before `LAYOUTS`."""

TELLING = re.compile(r"(coadd|spectra|spPlate|mwmVisit|mwmStar|med)-", re.IGNORECASE)
"""Beginnings of names of files that can hold several spectra: only these are opened to see how many there are."""
LARGEST = 1 << 31
"""Bytes that such a file may have."""


def read_spectrum(path: str | Path, read: ReadSettings | None = None) -> Spectrum:
    """Read one spectrum of a file, plain or gzip: LAMOST, SDSS and BOSS, SDSS-V, DESI, a table, an image or text.

    Layouts (docs/formats.md) are recognised by content, never by the name. Units that the file states are honoured.

    Args:
        path: of the file; of one with several spectra the address of one, such as ``coadd-main-dark-1.fits#12``, which
            counts from 0.
        read: what is known of files that do not say it themselves, such as names of columns.

    Returns:
        arrays ``(pixel,)`` in native float64: wavelength in A (vacuum, heliocentric, strictly increasing), flux in the
        file's units (finite), ivar in 1/flux^2 (0 at every pixel that must not be used), and the facts of the headers.
        No file stays open.

    Raises:
        SpectrumError: the file cannot be used, and why; nothing else is raised whatever the file holds.

    Example:
        >>> from stargap.errors import SpectrumError
        >>> try:
        ...     read_spectrum("no-such-file.fits")
        ... except SpectrumError as error:
        ...     print(error)
        no-such-file.fits: the file does not exist
    """
    read = ReadSettings() if read is None else read
    try:
        with np.errstate(all="ignore"):
            content = _content(path, read)
            if read.instrument is not None:
                content = replace(content, resolution=partial(instrument_resolution, instrument=read.instrument))
            spectrum = check_spectrum(content, path)
            return replace(spectrum, facts=facts_with_snr(spectrum))
    except (SpectrumError, UsageError):
        raise
    except Exception as error:
        raise SpectrumError(path, f"damaged content ({type(error).__name__})") from error


def _content(path: str | Path, read: ReadSettings) -> Content:
    file, place = split_address(path)
    if read.format is not None:
        found = read_with_specutils(file, read.format, place)
        facts = replace(found.facts, path=str(path))
        content = Content(found.wavelength, found.flux, found.ivar, facts=facts)
        return to_vacuum_heliocentric(content, [], read, path, default=Stated(False, "heliocentric"))
    if is_text(file):
        return to_vacuum_heliocentric(parse_text(file, read), [], read, path, default=Stated())
    with _opened(path) as hdul:
        return _parse(hdul, path, read)


def spectrum_addresses(path: str | Path) -> list[str | Path]:
    """Return the address of every spectrum of a file that holds several; else the path as it was given.

    Only files with `TELLING` names are opened. One that cannot be read is returned as it was given, so that it gets its
    row, and so is one with a single spectrum.

    Example:
        >>> spectrum_addresses("spec-4055-55359-0044.fits")
        ['spec-4055-55359-0044.fits']
    """
    file, place = split_address(path)
    if place is not None or not TELLING.match(Path(file).name):
        return [path]
    try:
        with _opened(file) as hdul:
            kind = _collection(hdul, file)
            count = 0 if kind is None else kind.count(hdul)
    except Exception:  # read_spectrum says what it is
        return [path]
    return [path] if count < 2 else [join_address(path, number) for number in range(count)]


@contextmanager
def _opened(path: str | Path) -> Iterator[HDUs]:
    """Open the file of an address; the last file that can hold several spectra is kept in memory."""
    file, place = split_address(path)
    if place is None and not TELLING.match(Path(file).name):
        with open_fits(file) as hdul:
            yield hdul
        return
    try:
        status = Path(file).stat()
        stamp = (status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):
        stamp = (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield _kept(file, *stamp)


@lru_cache(maxsize=1)
def _kept(file: str, *stamp: int) -> HDUs:
    return load_fits(file, largest=LARGEST)


def _collection(hdul: HDUs, path: str | Path) -> Collection | None:
    return next((kind for kind in COLLECTIONS if kind.recognises(hdul, path)), None)


def _parse(hdul: HDUs, path: str | Path, read: ReadSettings) -> Content:
    file, place = split_address(path)
    kind = _collection(hdul, file)
    headers = [hdu.header for hdu in hdul]
    if kind is None:
        if place is not None:
            raise SpectrumError(path, "the file holds one spectrum: name it without a number")
        content = _single(hdul, path, read)
        if content.facts.layout in OWN:
            default = Stated(False, "heliocentric") if content.facts.layout == "table" else Stated()
            return to_vacuum_heliocentric(content, headers, read, path, default=default)
    else:
        content = _one_of(kind, hdul, path)
    check_statements(headers, path)
    if read.air:
        raise SpectrumError(path, f"wavelengths of {content.facts.layout} files are in vacuum, not in air")
    return content


def _single(hdul: HDUs, path: str | Path, read: ReadSettings) -> Content:
    if read.columns:
        return parse_named_table(hdul, path, read)
    if is_image(hdul):
        return parse_image(hdul, path, read)
    parse = next((parse for recognises, parse in LAYOUTS if recognises(hdul)), None)
    has_errors = is_named_table(hdul, errors=read.snr is None)
    if parse is not None and not (parse is parse_table and not has_ivar(hdul) and has_errors):
        return parse(hdul, path)
    if is_named_table(hdul):
        return parse_named_table(hdul, path, read)
    raise SpectrumError(path, f"no spectrum of a known layout in it ({_describe(hdul)})")


def _one_of(kind: Collection, hdul: HDUs, path: str | Path) -> Content:
    file, place = split_address(path)
    count = kind.count(hdul)
    if place is None and count > 1:
        last = join_address(Path(file).name, count - 1)
        raise SpectrumError(path, f"the file holds {count} spectra: name one, as {last} names the last")
    if place is not None and place >= max(count, 1):
        raise SpectrumError(path, f"the file holds {count} spectra, numbered from 0")
    return kind.parse(hdul, path, place or 0)


def _describe(hdul: HDUs) -> str:
    kinds = ["a table" if is_table_hdu(hdu) else f"{hdu.header['NAXIS']}-D data" for hdu in hdul[:4]]
    return "HDUs hold " + ", ".join(kinds) + (" ..." if len(hdul) > 4 else "")
