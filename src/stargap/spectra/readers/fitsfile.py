"""Opens a FITS file safely: whole, unharmed and bounded, or one SpectrumError that says why not.

``astropy.io.fits`` reads every HDU that is not plain (`stargap.spectra.readers.plain`), but it meets lost gzip
trailers, cut files and impossible sizes in silence or with misleading errors, and reads on into what follows the last
HDU. So files are unzipped and HDUs read one by one here, and what a header promises is checked before its data are
touched.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.io.fits.hdu import BITPIX2DTYPE
from astropy.io.fits.hdu.base import ExtensionHDU

from stargap.errors import SpectrumError
from stargap.spectra.readers.cards import card
from stargap.spectra.readers.plain import BLOCK, CARD, END, HDU, MAX_HEADER, PRINTABLE, HDUs, PlainHDU, plain_hdu

__all__ = ["column_names", "is_image_hdu", "is_table_hdu", "load_fits", "open_fits", "table_column"]

_MAX_BYTES = 1 << 28
_MAX_HDUS = 1000
"""A full SDSS file, with each of its exposures, has fewer than a hundred."""
_MAX_MEMBERS = 10_000
"""Members that a gzip file may have; block-compressed files have one per 64 KiB."""
_GZIP_MAGIC = b"\x1f\x8b"
_CUT = "the file is cut short (less data than its header promises)"
_DAMAGED = "a header is damaged"
_NO_END = "a header is cut short or damaged (no END card)"
_ENDLESS = re.compile(rb"NAXIS *= *\+?0*[1-9]\d{3}", re.IGNORECASE)  # astropy makes a list of this length at once


@contextmanager
def open_fits(path: str | Path) -> Iterator[HDUs]:
    """Read a FITS file, plain or gzip by its content whatever its name says, and give its HDUs from memory.

    Checked before anything is decoded: that it is a regular file of 1 byte to 256 MiB (also unzipped, from at most
    10,000 parts), the CRC and length of gzip data, that it has at most 1,000 HDUs and no header over 1 MiB, that every
    header ends and every HDU is as long as its header promises, and CHECKSUM and DATASUM where present. Bytes
    after the last HDU are ignored. Bytes of a header outside printable ASCII read as ``?``. Inside the ``with``,
    warnings are off (in every thread of the process).

    Raises:
        SpectrumError: any of these fails, or the file cannot be opened.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield load_fits(path)


def load_fits(path: str | Path, *, largest: int = _MAX_BYTES) -> HDUs:
    """Return the HDUs of a FITS file from memory, checked as `open_fits` says.

    Args:
        path: of the file.
        largest: bytes that it may have, also unzipped.

    Raises:
        SpectrumError: as `open_fits`.
    """
    raw = _read_bytes(path, largest)
    if raw[:2] == _GZIP_MAGIC:
        raw = _gunzip(raw, path, largest)
    if not raw:
        raise SpectrumError(path, "the file is empty")
    if not raw.startswith(b"SIMPLE  ="):
        html = raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
        raise SpectrumError(path, "not a FITS file (starts with HTML)" if html else "not a FITS file")
    try:
        return _units(raw, path)
    except SpectrumError:
        raise
    except OverflowError as error:  # more bytes than any file can have
        raise SpectrumError(path, _CUT) from error
    except OSError as error:
        raise SpectrumError(path, _NO_END) from error
    except Exception as error:  # astropy meets damage with almost any class, UnboundLocalError among them
        raise SpectrumError(path, _DAMAGED) from error


def is_table_hdu(hdu: HDU) -> bool:
    """Whether an HDU is a binary table."""
    return hdu.columns is not None if isinstance(hdu, PlainHDU) else isinstance(hdu, fits.BinTableHDU)


def is_image_hdu(hdu: HDU) -> bool:
    """Whether an HDU is an image, which may have no pixels."""
    return hdu.columns is None if isinstance(hdu, PlainHDU) else isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU)


def column_names(hdu: HDU) -> Set[str]:
    """Return the names of the columns of a binary table, in upper case; nothing for another kind of HDU.

    Raises:
        ValueError: the columns do not fill the row.
    """
    if isinstance(hdu, PlainHDU):
        return (hdu.columns or {}).keys()
    if not isinstance(hdu, fits.BinTableHDU):
        return set()
    if hdu.columns.dtype.itemsize != hdu.header["NAXIS1"]:
        message = "the columns do not fill the row"
        raise ValueError(message)
    return {name.upper() for name in hdu.columns.names}


def table_column(hdu: HDU, name: str) -> Any:
    """Return what a table says of a column, with name, format and unit, by its name in upper case."""
    if isinstance(hdu, PlainHDU):
        return (hdu.columns or {})[name]
    return next(one for one in hdu.columns if one.name.upper() == name)


def _too_large(largest: int) -> str:
    what = "one spectrum" if largest == _MAX_BYTES else "one file"
    return f"too large for {what} (over {largest >> 20} MiB)"


def _read_bytes(path: str | Path, largest: int) -> bytes:
    file = Path(path)
    try:
        _check_status(
            file.stat(), path, largest
        )  # before it is opened: to open a device or a FIFO can do things or wait
        with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:  # noqa: PTH123
            _check_status(os.fstat(stream.fileno()), path, largest)
            return stream.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        dangling = file.is_symlink()
        reason = "a link to a file that does not exist" if dangling else "the file does not exist"
        raise SpectrumError(path, reason) from error
    except ValueError as error:
        raise SpectrumError(path, "not a possible file name") from error
    except PermissionError as error:
        raise SpectrumError(path, "permission denied") from error
    except OSError as error:
        raise SpectrumError(path, f"cannot be read ({error.strerror or type(error).__name__})") from error


def _check_status(status: os.stat_result, path: str | Path, largest: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SpectrumError(path, "is a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size > largest:
        raise SpectrumError(path, _too_large(largest))


def _gunzip(raw: bytes, path: str | Path, largest: int) -> bytes:
    """Unzip all members of gzip data, in time that grows with their number and size alone."""
    content, place, members = bytearray(), 0, 0
    try:
        while raw.startswith(_GZIP_MAGIC, place):
            members += 1
            if members > _MAX_MEMBERS:
                raise SpectrumError(path, f"over {_MAX_MEMBERS:,} gzip members, which is not one spectrum")
            engine, step = zlib.decompressobj(wbits=31), 1 << 12
            while not engine.eof:
                piece = raw[place : place + step]
                if not piece:
                    raise EOFError
                place, step = place + len(piece), min(2 * step, 1 << 24)
                content += engine.decompress(piece, largest + 1 - len(content))
                if len(content) > largest:
                    raise SpectrumError(path, _too_large(largest))
            place -= len(engine.unused_data)
    except (zlib.error, EOFError) as error:
        raise SpectrumError(path, "gzip data are damaged or cut short") from error
    return bytes(content)


def _units(raw: bytes, path: str | Path) -> HDUs:
    start, hdus = 0, list[HDU]()
    while start == 0 or raw.startswith(b"XTENSION", start):
        if len(hdus) == _MAX_HDUS:
            raise SpectrumError(path, f"over {_MAX_HDUS:,} HDUs, which is not one spectrum")
        plain = plain_hdu(raw, start)
        hdu, start = (plain, plain.end) if plain is not None else _of_astropy(raw, start, path)
        hdus.append(hdu)
    return hdus


def _of_astropy(raw: bytes, start: int, path: str | Path) -> tuple[HDU, int]:
    """Return the HDU that begins at `start`, and where the next one begins."""
    _check_header(raw, start, path)
    hdu = _unit(io.BytesIO(raw + bytes(-len(raw) % BLOCK)), start)
    place = hdu.fileinfo()
    if place["datLoc"] + hdu.size > len(raw):
        raise SpectrumError(path, _CUT)
    sums = (("CHECKSUM", hdu.verify_checksum), ("DATASUM", hdu.verify_datasum))
    if not all(verify() for key, verify in sums if card(hdu.header, key)):
        raise SpectrumError(path, "a checksum does not fit: the file is damaged")
    return hdu, place["datLoc"] + place["datSpan"]


def _check_header(raw: bytes, start: int, path: str | Path) -> None:
    """Refuse a header whose work would be too much, before astropy sees it."""
    header = raw[start : start + MAX_HEADER]
    end = next((place for place in range(0, len(header), CARD) if header.startswith(END, place)), None)
    if end is None and len(header) == MAX_HEADER:
        raise SpectrumError(path, "a header is too long for one spectrum (over 1 MiB)")
    if _ENDLESS.search(header[:end]):
        raise SpectrumError(path, _DAMAGED)


def _unit(stream: io.BytesIO, start: int) -> fits.PrimaryHDU | ExtensionHDU:
    stream.seek(start)
    hdu = (ExtensionHDU if start else fits.PrimaryHDU).readfrom(stream, uint=True)
    stream.seek(start)
    header = stream.read(hdu.fileinfo()["datLoc"] - start)
    clean = header.translate(PRINTABLE)
    if header != clean:
        stream.seek(start)
        stream.write(clean)
        return _unit(stream, start)
    cards = hdu.header
    counts = [cards["NAXIS"], cards.get("PCOUNT", 0), cards.get("GCOUNT", 1)]
    counts += [cards[f"NAXIS{axis}"] for axis in range(1, cards["NAXIS"] + 1)]
    known = cards["BITPIX"] in BITPIX2DTYPE and cards.get("TFIELDS", 0) in range(1000)
    if not known or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError
    return hdu
