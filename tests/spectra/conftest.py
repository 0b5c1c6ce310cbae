"""A small star for tests of the readers, and what must hold of every spectrum that is read."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from stargap.mock.files import write_lamost
from stargap.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Star:
    """Arrays that survive a round trip through float32 unchanged."""

    wavelength: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]


@pytest.fixture(scope="session")
def star() -> Star:
    rng = np.random.default_rng(1)
    wavelength = (10 ** (3.755 + 0.001 * np.arange(205))).astype(np.float32).astype(np.float64)
    flux = rng.uniform(50, 100, wavelength.size).astype(np.float32).astype(np.float64)
    ivar = rng.uniform(0.5, 2, wavelength.size).astype(np.float32).astype(np.float64)
    ivar[[3, 40]] = 0
    return Star(wavelength, flux, ivar)


@pytest.fixture(scope="session")
def files(star, tmp_path_factory) -> dict[str, bytes]:
    """Plain bytes of the star's file in each LAMOST layout."""
    folder = tmp_path_factory.mktemp("files")
    arrays = (star.wavelength, star.flux, star.ivar)
    facts = {
        "obsid": 101001,
        "designation": "J220848.54-020324.3",
        "subclass": "dM2",
        "ra": 332.2,
        "dec": -2.1,
    }
    return {
        layout: write_lamost(folder / f"{layout}.fits", *arrays, layout=layout, **facts).read_bytes()
        for layout in ("lamost-dr1", "lamost-image", "lamost-table")
    }


@pytest.fixture(scope="session")
def summed(files) -> bytes:
    """The table file with CHECKSUM and DATASUM in both HDUs, as astropy writes them."""
    buffer = io.BytesIO()
    with fits.open(io.BytesIO(files["lamost-table"])) as hdul:
        hdul.writeto(buffer, checksum=True, output_verify="ignore")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def same_arrays() -> Callable[[Spectrum, Spectrum], bool]:
    def same(one: Spectrum, other: Spectrum) -> bool:
        names = ("wavelength", "flux", "ivar")
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)

    return same


@pytest.fixture(scope="session")
def check_invariants() -> Callable[[Spectrum], None]:
    def check(spectrum: Spectrum) -> None:
        arrays = (spectrum.wavelength, spectrum.flux, spectrum.ivar)
        for array in arrays:
            assert array.dtype == np.dtype(np.float64)
            assert array.dtype.isnative
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert array.shape == (spectrum.wavelength.size,)
            assert np.isfinite(array).all()
        assert (np.diff(spectrum.wavelength) > 0).all()
        assert (spectrum.wavelength > 0).all()
        assert (spectrum.ivar >= 0).all()
        facts = spectrum.facts
        assert facts.layout
        assert facts.snr_source in {"header", "ivar"}
        assert facts.obsid is None or 0 <= facts.obsid < 2**63
        assert facts.ra is None or 0 <= facts.ra <= 360
        assert facts.dec is None or -90 <= facts.dec <= 90
        for text in (facts.subclass, facts.designation, facts.plan_id, facts.date_obs, facts.release):
            assert text is None or (text.isascii() and text.isprintable() and text.strip() == text != "")

    return check
