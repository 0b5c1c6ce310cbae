"""Opening files: damage, compression, links and permissions (ROBUSTNESS cases 1, 2, 5, 6, 7, 8)."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from stargap.errors import SpectrumError
from stargap.mock.files import write_lamost
from stargap.spectra.readers.read import read_spectrum

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")
GZIP_REASON = "gzip data are damaged or cut short"
CUT_REASON = "the file is cut short (less data than its header promises)"
HEADER_REASON = "a header is cut short or damaged (no END card)"
SUM_REASON = "a checksum does not fit: the file is damaged"


def read_bytes(raw: bytes, path: Path):
    path.write_bytes(raw)
    return read_spectrum(path)


def end_of_data(raw: bytes) -> int:
    with fits.open(io.BytesIO(raw)) as hdul:
        return hdul[-1].fileinfo()["datLoc"] + hdul[-1].size


def reason_of(raw: bytes, path: Path) -> str:
    with pytest.raises(SpectrumError) as caught:
        read_bytes(raw, path)
    assert caught.value.path == str(path)
    assert str(path) not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "not a FITS file (starts with HTML)"),
        (b"<HTML><head></head></HTML>", "not a FITS file (starts with HTML)"),
        (gzip.compress(b"<html>gone</html>", mtime=0), "not a FITS file (starts with HTML)"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"obsid|uid|snrg\n101001|G1|12\n", "not a FITS file"),
        (b"SIMPLE", "not a FITS file"),
        (b"SIMPLE  =                    T", HEADER_REASON),
        (b"\x1f\x8b", GZIP_REASON),
    ],
)
def test_case_1_not_fits(content, reason, tmp_path):
    assert reason_of(content, tmp_path / "spec.fits.gz") == reason


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_1_cut_short(layout, files, tmp_path):
    raw = files[layout]
    end = end_of_data(raw)
    data = raw.rindex(b"END     ") // 2880 * 2880 + 2880
    for length in (81, 2880, 3000):
        assert reason_of(raw[:length], tmp_path / "cut.fits") == HEADER_REASON
    for length in (data, data + 1, end - 1):
        assert reason_of(raw[:length], tmp_path / "cut.fits") == CUT_REASON


def test_case_1_cut_in_and_before_the_header_of_the_table(files, tmp_path):
    raw = files["lamost-table"]
    start = raw.index(b"XTENSION")
    assert reason_of(raw[: start + 900], tmp_path / "cut.fits") == HEADER_REASON
    expected = "no spectrum of a known layout in it (HDUs hold 0-D data)"
    assert reason_of(raw[:start], tmp_path / "cut.fits") == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_1_cut_gzip(layout, files, tmp_path):
    packed = gzip.compress(files[layout], mtime=0)
    for lost in (1, 4, 8, 9, len(packed) // 2, len(packed) - 3):
        assert reason_of(packed[:-lost], tmp_path / "cut.fits.gz") == GZIP_REASON


def test_case_1_every_flipped_bit_of_gzip_data_is_found(files, tmp_path):
    packed = gzip.compress(files["lamost-image"], mtime=0)
    for at in range(12, len(packed), len(packed) // 100):
        damaged = bytearray(packed)
        damaged[at] ^= 1 << (at % 8)
        assert reason_of(bytes(damaged), tmp_path / "flip.fits.gz") == GZIP_REASON


def test_case_1_flipped_bits_under_a_checksum_are_found(files, summed, tmp_path, check_invariants, same_arrays):
    whole = read_bytes(summed, tmp_path / "sum.fits")
    assert same_arrays(whole, read_bytes(files["lamost-table"], tmp_path / "plain.fits"))
    check_invariants(whole)
    for at in (summed.index(b"dM2"), summed.index(b"332.2"), len(summed) - 5000, len(summed) - 4000):
        damaged = bytearray(summed)
        damaged[at] ^= 1
        assert reason_of(bytes(damaged), tmp_path / "flip.fits") == SUM_REASON


def test_case_1_a_wrong_datasum_alone_is_found(files, tmp_path, same_arrays):
    raw = files["lamost-image"]
    data = raw[raw.rindex(b"END     ") // 2880 * 2880 + 2880 :]
    total = int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))
    right = (total & 0xFFFFFFFF) + (total >> 32)
    for value, good in ((right, True), (right + 1, False)):
        card = f"DATASUM = '{value}'".ljust(80).encode()
        at = raw.index(b"DC-FLAG")
        changed = raw[:at] + card + raw[at + 80 :]
        if good:
            assert same_arrays(read_bytes(changed, tmp_path / "a.fits"), read_bytes(raw, tmp_path / "b.fits"))
        else:
            assert reason_of(changed, tmp_path / "a.fits") == SUM_REASON


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"NAXIS1  =                  205", b"NAXIS1  =           4000000000"),
        (b"NAXIS2  =                    5", b"NAXIS2  = 99999999999999999999"),
    ],
)
def test_case_1_impossible_sizes_are_refused_at_once(old, new, files, tmp_path):
    raw = files["lamost-image"]
    assert old in raw
    (tmp_path / "big.fits").write_bytes(raw.replace(old, new))
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(SpectrumError) as caught:
        read_spectrum(tmp_path / "big.fits")
    elapsed = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == CUT_REASON
    assert elapsed < 1
    assert peak < 1e6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"BITPIX  =                  -32", b"BITPIX  =                  -31"),
        (b"NAXIS1  =                  205", b"NAXIS1  =                 -205"),
        (b"NAXIS   =                    2", b"NAXIS   =                   ' '"),
        (b"NAXIS   =                    2", b"NAXIS   =                  999"),
        (b"NAXIS   =                    2", b"NAXYS   =                    2"),
    ],
)
def test_case_1_damaged_structure_cards(old, new, files, tmp_path):
    raw = files["lamost-image"]
    assert old in raw
    changed = raw.replace(old.ljust(31), new.ljust(31))
    assert len(changed) == len(raw)
    assert reason_of(changed, tmp_path / "bad.fits") == "a header is damaged"


@pytest.mark.parametrize("tforms", ["1000", "0000"])
def test_case_1_columns_that_do_not_fill_the_row(tforms, files, tmp_path):
    raw = files["lamost-table"].replace(b"'205E    '", f"'{tforms}E   '".encode())
    assert raw != files["lamost-table"]
    assert reason_of(raw, tmp_path / "bad.fits") == "damaged content (ValueError)"


def test_case_1_too_large_files_are_not_even_opened(tmp_path, monkeypatch):
    with (tmp_path / "big.fits").open("wb") as stream:
        stream.truncate((256 << 20) + 1)
    monkeypatch.delattr(os, "open")
    with pytest.raises(SpectrumError, match="too large for one spectrum"):
        read_spectrum(tmp_path / "big.fits")


def test_case_1_gzip_bomb(files, tmp_path):
    bomb = gzip.compress(files["lamost-image"] + bytes(300 << 20), compresslevel=1, mtime=0)
    assert len(bomb) < 3e6
    assert reason_of(bomb, tmp_path / "bomb.fits") == "too large for one spectrum (over 256 MiB)"


def test_case_64_work_is_bounded_as_bytes_are(files, tmp_path):
    structure = [
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
    ]
    cards = b"".join(text.ljust(80) for text in structure)
    end = b"END".ljust(80)
    long = (cards + 20_000 * b"HISTORY x".ljust(80) + end).ljust(2880 * 600)
    assert (
        reason_of(gzip.compress(long, mtime=0), tmp_path / "a.fits")
        == "a header is too long for one spectrum (over 1 MiB)"
    )
    members = gzip.compress(b"", mtime=0) * 10_001
    assert reason_of(members, tmp_path / "b.fits") == "over 10,000 gzip members, which is not one spectrum"
    small = b"".join(
        text.ljust(80) for text in (b"XTENSION= 'IMAGE   '", *structure[1:], b"PCOUNT  = 0", b"GCOUNT  = 1", b"END")
    ).ljust(2880)
    many = (cards + end).ljust(2880) + 1000 * small
    assert reason_of(many, tmp_path / "c.fits") == "over 1,000 HDUs, which is not one spectrum"


def test_gzip_files_of_many_blocks_are_read(files, tmp_path, same_arrays):
    raw = files["lamost-image"]
    blocks = b"".join(gzip.compress(raw[first : first + 100], mtime=0) for first in range(0, len(raw), 100))
    assert same_arrays(read_bytes(blocks, tmp_path / "a.fits"), read_bytes(raw, tmp_path / "b.fits"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_1_trailing_junk_and_missing_padding_are_harmless(layout, files, tmp_path, same_arrays):
    raw = files[layout]
    expected = read_bytes(raw, tmp_path / "whole.fits")
    junk = b"trailing junk" * 500
    assert same_arrays(read_bytes(raw + junk, tmp_path / "a.fits"), expected)
    assert same_arrays(read_bytes(gzip.compress(raw + junk, mtime=0), tmp_path / "b.fits"), expected)
    assert same_arrays(read_bytes(gzip.compress(raw, mtime=0) + junk, tmp_path / "c.fits"), expected)
    assert same_arrays(read_bytes(raw[: end_of_data(raw)], tmp_path / "d.fits"), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["spec.fits", "spec.fits.gz", "spec.fits.fits", "spec", "spec.txt"])
def test_case_2_compression_is_told_by_content_whatever_the_name(layout, name, files, star, tmp_path):
    raw = files[layout]
    half = len(raw) // 2
    for content in (
        raw,
        gzip.compress(raw, mtime=0),
        gzip.compress(raw[:half], mtime=0) + gzip.compress(raw[half:], mtime=0),
    ):
        spectrum = read_bytes(content, tmp_path / name)
        assert spectrum.facts.layout == layout
        assert spectrum.facts.path == str(tmp_path / name)
        np.testing.assert_array_equal(spectrum.flux, star.flux)
        np.testing.assert_array_equal(spectrum.ivar, star.ivar)
        np.testing.assert_allclose(spectrum.wavelength, star.wavelength, rtol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_case_5_arrays_go_into_torch(layout, files, tmp_path, check_invariants):
    torch = pytest.importorskip("torch")
    spectrum = read_bytes(files[layout], tmp_path / "spec.fits")
    check_invariants(spectrum)
    assert torch.from_numpy(spectrum.flux).sum().item() == pytest.approx(spectrum.flux.sum())


def test_case_6_what_is_no_readable_file(files, tmp_path):
    (tmp_path / "dangling.fits").symlink_to(tmp_path / "nowhere.fits")
    (tmp_path / "loop.fits").symlink_to(tmp_path / "loop.fits")
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "link-to-pipe.fits").symlink_to(tmp_path / "pipe.fits")
    (tmp_path / "link-to-device.fits").symlink_to("/dev/zero")
    vanished = tmp_path / "vanished.fits"
    vanished.write_bytes(files["lamost-image"])
    read_spectrum(vanished)
    vanished.unlink()
    expected = {
        tmp_path: "is a directory",
        tmp_path / "pipe.fits": "not a regular file",
        tmp_path / "link-to-pipe.fits": "not a regular file",
        tmp_path / "link-to-device.fits": "not a regular file",
        tmp_path / "dangling.fits": "a link to a file that does not exist",
        vanished: "the file does not exist",
        tmp_path / "no" / "folder.fits": "the file does not exist",
    }
    for path, reason in expected.items():
        with pytest.raises(SpectrumError) as caught:
            read_spectrum(path)
        assert caught.value.reason == reason
    with pytest.raises(SpectrumError, match="cannot be read"):
        read_spectrum(tmp_path / "loop.fits")
    with pytest.raises(SpectrumError, match="not a possible file name"):
        read_spectrum("null\0byte.fits")


def test_case_6_no_permission(files, tmp_path, monkeypatch):
    path = tmp_path / "locked.fits"
    path.write_bytes(files["lamost-image"])
    path.chmod(0)
    if os.access(path, os.R_OK):

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SpectrumError) as caught:
        read_spectrum(path)
    assert caught.value.reason == "permission denied"


def test_case_7_many_reads_leave_no_file_open(files, tmp_path):
    raw = files["lamost-table"]
    bad = (raw[:9000], gzip.compress(raw, mtime=0)[:-4], b"<html>", raw.replace(b"IVAR", b"VARI"))
    contents = [raw, gzip.compress(raw, mtime=0), *bad]
    paths = [tmp_path / f"{number}.fits" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    paths += [tmp_path, tmp_path / "missing.fits"]

    counts, good = set(), 0
    for number in range(800):
        try:
            read_spectrum(paths[number % len(paths)])
            good += 1
        except SpectrumError:
            pass
        if number % 50 == 0:
            counts.add(len(os.listdir("/dev/fd")))  # noqa: PTH208
    assert good == 200
    assert len(counts) == 1


def test_case_8_the_same_obsid_twice(files, star, tmp_path):
    one = read_bytes(files["lamost-image"], tmp_path / "one.fits")
    write_lamost(tmp_path / "two.fits", star.wavelength, 2 * star.flux, star.ivar, obsid=101001)
    two = read_spectrum(tmp_path / "two.fits")
    assert one.facts.obsid == two.facts.obsid == 101001
    assert one.facts.path != two.facts.path
    np.testing.assert_array_equal(two.flux, 2 * one.flux)


def test_a_fits_file_of_something_else_says_what_it_holds(tmp_path):
    cube = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros((2, 3, 4))) for _ in range(9))])
    cube.writeto(tmp_path / "cube.fits")
    table = fits.BinTableHDU.from_columns([fits.Column("FLUX", "E", array=np.zeros(3))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    for name, expected in {
        "cube": "no spectrum of a known layout in it (HDUs hold 0-D data, 3-D data, 3-D data, 3-D data ...)",
        "table": "no spectrum of a known layout in it (HDUs hold 0-D data, a table)",
    }.items():
        with pytest.raises(SpectrumError) as caught:
            read_spectrum(tmp_path / f"{name}.fits")
        assert caught.value.reason == expected


def test_copies_of_a_real_file_read_alike(shared_data, tmp_path, same_arrays):
    source = shared_data / "lamost" / "formats" / "101008.fits"
    shutil.copy(source, tmp_path / "copy.fits.gz")
    assert same_arrays(read_spectrum(source), read_spectrum(tmp_path / "copy.fits.gz"))
