"""Opens a FITS file safely: whole, unharmed and bounded, or one SpectrumError that says why not.

A walk over the blocks of the file stands in for ``astropy.io.fits``, which passes lost gzip trailers and
other damage in silence and meets the rest with misleading errors. The walk refuses all of it before any array
is made, gives no warnings, is safe in threads and takes a quarter of the time. Tests hold it against astropy.
"""

from __future__ import annotations

import stat
import zlib
from pathlib import Path

import numpy as np

from stargap.errors import SpectrumError
from stargap.spectra.hdu import Hdu

__all__ = ["open_fits", "split_hdus"]

_BLOCK = 2880
_MAX_BYTES = 1 << 28
_GZIP_MAGIC = b"\x1f\x8b"
_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))


def open_fits(path: str | Path) -> list[Hdu]:
    """Read a FITS file, plain or gzip by its content whatever its name says, and return its HDUs.

    Checked before anything is decoded: that it is a regular file of 1 byte to 256 MiB (also unzipped), the
    CRC and length of gzip data, that every header ends and every HDU is as long as its header promises, and
    CHECKSUM and DATASUM where present. Bytes after the last HDU are ignored. Bytes of a header outside
    printable ASCII read as ``?``.

    Raises:
        SpectrumError: any of these fails, or the file cannot be opened.
    """
    raw = _read_bytes(path)
    if raw[:2] == _GZIP_MAGIC:
        raw = _gunzip(raw, path)
    return split_hdus(raw, path)


def split_hdus(raw: bytes, path: str | Path = "") -> list[Hdu]:
    """Walk over the bytes of an unzipped FITS file and return its HDUs; `path` is for the error only.

    Raises:
        SpectrumError: not FITS, cut short, a damaged header, or a checksum that does not fit.

    Example:
        >>> from stargap.errors import SpectrumError
        >>> try:
        ...     split_hdus(b"<!DOCTYPE html><html>404</html>")
        ... except SpectrumError as error:
        ...     print(error.reason)
        not a FITS file (starts with HTML)
    """
    if not raw:
        raise SpectrumError(path, "the file is empty")
    if not raw.startswith(b"SIMPLE  ="):
        html = raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
        raise SpectrumError(path, "not a FITS file (starts with HTML)" if html else "not a FITS file")
    view, start, hdus = memoryview(raw), 0, []
    while start == 0 or raw.startswith(b"XTENSION", start):
        cards, data = _header(raw, start, path)
        hdu = Hdu(cards, view[data:])
        try:
            size = hdu.size
        except ValueError as error:
            raise SpectrumError(path, "a header is damaged") from error
        if data + size > len(raw):
            raise SpectrumError(path, "the file is cut short (less data than its header promises)")
        end = data + -(-size // _BLOCK) * _BLOCK
        if "CHECKSUM" in cards or "DATASUM" in cards:
            _verify_sums(hdu, raw[start:data], raw[data:end], path)
        hdus.append(Hdu(cards, view[data : data + size]))
        start = end
    return hdus


def _read_bytes(path: str | Path) -> bytes:
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SpectrumError(
                path, "is a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            )
        if status.st_size > _MAX_BYTES:
            raise SpectrumError(path, "too large for one spectrum (over 256 MiB)")
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
    members: list[bytes] = []
    room = _MAX_BYTES
    while raw[:2] == _GZIP_MAGIC:
        engine = zlib.decompressobj(wbits=31)
        try:
            members.append(engine.decompress(raw, room + 1))
        except zlib.error as error:
            raise SpectrumError(path, "gzip data are damaged or cut short") from error
        room -= len(members[-1])
        if room < 0:
            raise SpectrumError(path, "too large for one spectrum (over 256 MiB)")
        if not engine.eof:
            raise SpectrumError(path, "gzip data are damaged or cut short")
        raw = engine.unused_data
    return b"".join(members)


def _header(raw: bytes, start: int, path: str | Path) -> tuple[dict[str, str], int]:
    end = raw.find(b"END     ", start)
    while end >= 0 and (end - start) % 80:
        end = raw.find(b"END     ", end + 1)
    if end < 0:
        raise SpectrumError(path, "a header is cut short or damaged (no END card)")
    text = raw[start:end].translate(_PRINTABLE).decode("ascii")
    cards: dict[str, str] = {}
    for at in range(0, end - start, 80):
        if text[at + 8 : at + 10] == "= ":
            cards.setdefault(text[at : at + 8].rstrip(), text[at + 10 : at + 80])
    return cards, start + -(-(end + 80 - start) // _BLOCK) * _BLOCK


def _verify_sums(hdu: Hdu, header: bytes, data: bytes, path: str | Path) -> None:
    data_sum = _sum32(data + bytes(-len(data) % _BLOCK))
    promised = hdu.value("DATASUM")
    data_differ = promised not in (None, "") and str(promised).strip() != str(data_sum)
    all_differ = bool(hdu.value("CHECKSUM")) and _sum32(header, data_sum) not in (0, 0xFFFFFFFF)
    if data_differ or all_differ:
        raise SpectrumError(path, "a checksum does not fit: the file is damaged")


def _sum32(raw: bytes, start: int = 0) -> int:
    total = start + int(np.frombuffer(raw, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total
