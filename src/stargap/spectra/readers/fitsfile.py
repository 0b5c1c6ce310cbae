"""Opens a FITS file safely: whole, unharmed and bounded, or one SpectrumError that says why not.

``astropy.io.fits`` does the reading, but it meets lost gzip trailers, cut files and impossible sizes in silence
or with misleading errors, and reads on into what follows the last HDU. So files are unzipped and HDUs read one
by one here, and what a header promises is checked before its data are touched.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from astropy.io import fits
from astropy.io.fits.hdu import BITPIX2DTYPE
from astropy.io.fits.hdu.base import ExtensionHDU

from stargap.errors import SpectrumError

__all__ = ["Value", "card", "column_names", "open_fits"]

Value: TypeAlias = str | int | float | bool | None

_MAX_BYTES = 1 << 28
_BLOCK = 2880
_GZIP_MAGIC = b"\x1f\x8b"
_CUT = "the file is cut short (less data than its header promises)"
_DAMAGED = "a header is damaged"
_TOO_LARGE = "too large for one spectrum (over 256 MiB)"
_ENDLESS = re.compile(rb"NAXIS *= *\+?0*[1-9]\d{3}")  # astropy makes a list of this length at once
_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))


@contextmanager
def open_fits(path: str | Path) -> Iterator[fits.HDUList]:
    """Read a FITS file, plain or gzip by its content whatever its name says, and give its HDUs from memory.

    Checked before anything is decoded: that it is a regular file of 1 byte to 256 MiB (also unzipped), the
    CRC and length of gzip data, that every header ends and every HDU is as long as its header promises, and
    CHECKSUM and DATASUM where present. Bytes after the last HDU are ignored. Bytes of a header outside
    printable ASCII read as ``?``. Inside the ``with``, warnings are off (in every thread of the process).

    Raises:
        SpectrumError: any of these fails, or the file cannot be opened.
    """
    raw = _read_bytes(path)
    if raw[:2] == _GZIP_MAGIC:
        raw = _gunzip(raw, path)
    if not raw:
        raise SpectrumError(path, "the file is empty")
    if not raw.startswith(b"SIMPLE  ="):
        html = raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
        raise SpectrumError(path, "not a FITS file (starts with HTML)" if html else "not a FITS file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hdul = _units(raw, path)
        except SpectrumError:
            raise
        except OverflowError as error:  # more bytes than any file can have
            raise SpectrumError(path, _CUT) from error
        except OSError as error:
            raise SpectrumError(path, "a header is cut short or damaged (no END card)") from error
        except Exception as error:  # astropy meets damage with almost any class, UnboundLocalError among them
            raise SpectrumError(path, _DAMAGED) from error
        yield hdul


def card(header: fits.Header, key: str) -> Value:
    """Return the value of a card: text, a number or a bool; None when it is missing, empty or not FITS.

    Example:
        >>> header = fits.Header.fromstring("SNRR    = 37.99 / SNR".ljust(80) + "OBSID   = ?!".ljust(80))
        >>> card(header, "SNRR"), card(header, "OBSID"), card(header, "SUBCLASS")
        (37.99, None, None)
    """
    try:
        value = header.get(key)
    except fits.VerifyError:
        return None
    return value if isinstance(value, str | int | float) else None


def column_names(hdu: fits.PrimaryHDU | ExtensionHDU) -> set[str]:
    """Return the names of the columns of a binary table, in upper case; nothing for another kind of HDU.

    Raises:
        ValueError: the columns do not fill the row.
    """
    if not isinstance(hdu, fits.BinTableHDU):
        return set()
    if hdu.columns.dtype.itemsize != hdu.header["NAXIS1"]:
        message = "the columns do not fill the row"
        raise ValueError(message)
    return {name.upper() for name in hdu.columns.names}


def _read_bytes(path: str | Path) -> bytes:
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SpectrumError(path, "is a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if status.st_size > _MAX_BYTES:
            raise SpectrumError(path, _TOO_LARGE)
        with file.open("rb") as stream:
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


def _gunzip(raw: bytes, path: str | Path) -> bytes:
    content = b""
    try:
        while raw[:2] == _GZIP_MAGIC:
            engine = zlib.decompressobj(wbits=31)
            content += engine.decompress(raw, _MAX_BYTES + 1 - len(content))
            if len(content) > _MAX_BYTES:
                raise SpectrumError(path, _TOO_LARGE)
            if not engine.eof:
                raise EOFError
            raw = engine.unused_data
    except (zlib.error, EOFError) as error:
        raise SpectrumError(path, "gzip data are damaged or cut short") from error
    return content


def _units(raw: bytes, path: str | Path) -> fits.HDUList:
    if _ENDLESS.search(raw.upper()):
        raise SpectrumError(path, _DAMAGED)
    stream, start, hdus = io.BytesIO(raw + bytes(-len(raw) % _BLOCK)), 0, []
    while start == 0 or raw.startswith(b"XTENSION", start):
        hdu = _unit(stream, start)
        place = hdu.fileinfo()
        if place["datLoc"] + hdu.size > len(raw):
            raise SpectrumError(path, _CUT)
        sums = (("CHECKSUM", hdu.verify_checksum), ("DATASUM", hdu.verify_datasum))
        if not all(verify() for key, verify in sums if card(hdu.header, key)):
            raise SpectrumError(path, "a checksum does not fit: the file is damaged")
        hdus.append(hdu)
        start = place["datLoc"] + place["datSpan"]
    return fits.HDUList(hdus)


def _unit(stream: io.BytesIO, start: int) -> fits.PrimaryHDU | ExtensionHDU:
    stream.seek(start)
    hdu = (ExtensionHDU if start else fits.PrimaryHDU).readfrom(stream, uint=True)
    stream.seek(start)
    header = stream.read(hdu.fileinfo()["datLoc"] - start)
    clean = header.translate(_PRINTABLE)
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
