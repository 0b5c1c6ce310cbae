"""Random damage: a sound spectrum or a SpectrumError, never anything else (ROBUSTNESS case 1)."""

from __future__ import annotations

import gzip

from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import SpectrumError
from stargap.spectra.readers.read import read_spectrum

LAYOUTS = ("lamost-dr1", "lamost-image", "lamost-table")
EDIT = st.tuples(st.integers(0, 8000) | st.integers(0, 2**20), st.integers(1, 255))
TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=70)


def damage(raw, changes):
    damaged = bytearray(raw)
    for at, bits in changes:
        damaged[at % len(damaged)] ^= bits
    return bytes(damaged)


def spectrum_or_reason(raw, path):
    path.write_bytes(raw)
    try:
        return read_spectrum(path), "a spectrum"
    except SpectrumError as error:
        return None, error.reason


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    changes=st.lists(EDIT, min_size=1, max_size=8),
    kept=st.floats(0.3, 4),
    packed=st.booleans(),
)
def test_case_1_any_damage(files, check_invariants, tmp_path_factory, layout, changes, kept, packed):
    raw = damage(files[layout], changes)
    raw = raw[: int(len(raw) * kept)]
    content = gzip.compress(raw, 1, mtime=0) if packed else raw
    spectrum, reason = spectrum_or_reason(content, tmp_path_factory.getbasetemp() / "fuzz.fits")
    assert 5 < len(reason) < 120
    if spectrum is not None:
        check_invariants(spectrum)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(layout=st.sampled_from(LAYOUTS), number=st.integers(0, 120), value=TEXT)
def test_case_1_any_header_value(files, check_invariants, tmp_path_factory, layout, number, value):
    raw = bytearray(files[layout])
    raw[number * 80 + 10 : number * 80 + 80] = value.encode("latin-1").ljust(70)
    spectrum, reason = spectrum_or_reason(bytes(raw), tmp_path_factory.getbasetemp() / "card.fits")
    assert 5 < len(reason) < 120
    if spectrum is not None:
        check_invariants(spectrum)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(at=st.integers(0, 2**20), bits=st.integers(1, 255), packed=st.booleans())
def test_case_1_under_crc_or_checksum_damage_never_changes_the_numbers(
    files, summed, same_arrays, tmp_path_factory, at, bits, packed
):
    folder = tmp_path_factory.getbasetemp()
    original, _ = spectrum_or_reason(summed, folder / "original.fits")
    raw = damage(gzip.compress(files["lamost-table"], mtime=0) if packed else summed, [(at, bits)])
    spectrum, reason = spectrum_or_reason(raw, folder / "damaged.fits")
    assert spectrum is None or same_arrays(spectrum, original)
    assert 5 < len(reason) < 120
