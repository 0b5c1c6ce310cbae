"""Prepared spectra in bins: what the cleaning sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stargap.files import replacing
from stargap.pixels import STARGAP, WINDOWS
from stargap.survey.cleaning.rules import QUIET, CleaningSettings

__all__ = [
    "BIN",
    "BIN_CENTRES",
    "NATIVE",
    "QUIET_BINS",
    "ROWS",
    "Features",
    "SpectraPart",
    "bin_spectra",
    "joined_features",
]

LARGEST = 1e4
"""Normalised flux beyond which a pixel is bad, whatever its mask says."""
BINNED = 512
"""Spectra binned at a time."""
ROWS = 8192
"""Spectra compared with all clusters at a time; part of the definition, since sums round."""
FIRST_BIN, BIN = 6003, 15
"""Bins of 15 A from 6003 A: their edges fall on the TiO heads at 7053 and 8433 A, and single bins hold CaH at 6385 A,
the TiO5 band and each line of the Ca II triplet."""
NATIVE = 1.73
"""Width of a native pixel at 7500 A (A)."""
CORRELATION = 1.5 * NATIVE
"""Variance of a mean of 1 A pixels over that of independent ones: they share native pixels, and interpolation makes
their errors smaller."""
NOISY = 0.04
MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a standard normal variable."""
WORST = 3
"""Quiet bins that do not count in the roughness."""


def _bins() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Centres of the bins clear of excluded windows, their first pixels, and which are quiet."""
    edges = np.arange(FIRST_BIN, STARGAP.stop - BIN, BIN)
    clear = np.ones(edges.size, dtype=bool)
    for window in WINDOWS:
        clear &= (edges + BIN <= window.low) | (edges >= window.high)
    edges = edges[clear]
    quiet = np.array([any(low <= edge and edge + BIN <= high for low, high in QUIET) for edge in edges])
    return edges + BIN / 2, (edges - STARGAP.start).astype(np.int64), quiet


BIN_CENTRES, STARTS, QUIET_BINS = _bins()
"""Centres of the bins (A)."""


class SpectraPart(Protocol):
    """Prepared spectra, ``(star, pixel)`` on ``STARGAP.wavelength``: `PreparedSpectra` are such."""

    @property
    def flux(self) -> NDArray[np.float32]:
        """Normalised flux."""

    @property
    def sigma(self) -> NDArray[np.float32]:
        """Its error."""

    @property
    def good(self) -> NDArray[np.bool_]:
        """Pixels that may be used."""


class DiskRows:
    """A float16 array ``(star, bin)`` in a file, which is open, and in memory, only while rows are asked for.

    Args:
        path: of the file.
        count: of its rows.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float16]:
        """Return a copy of some rows."""
        return np.array(np.load(self._path, mmap_mode="r")[rows])

    def __setitem__(self, rows: slice, values: NDArray[np.float16]) -> None:
        np.load(self._path, mmap_mode="r+")[rows] = values


@dataclass(frozen=True)
class Features:
    """Binned spectra: ``depth`` (flux - 1) and ``sigma``, float16 ``(star, bin)``, NaN where bad.

    ``inside`` and ``expected (star,)`` are the variances of pixels within quiet bins, measured and by their errors.
    """

    depth: NDArray[np.float16] | DiskRows
    sigma: NDArray[np.float16] | DiskRows
    inside: NDArray[np.float32]
    expected: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inside)

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` file an array into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            with replacing(folder / f"{field.name}.npy") as file:
                np.save(file, getattr(self, field.name)[:])

    @classmethod
    def load(cls, folder: Path) -> Features:
        """Return what `save` wrote; depths and sigmas stay on disk, in files that are closed: shards are many."""
        inside, expected = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("inside", "expected"))
        depth, sigma = (DiskRows(folder / f"{name}.npy", len(inside)) for name in ("depth", "sigma"))
        return cls(depth, sigma, inside, expected)

    def rows(self, rows: NDArray[np.int64], settings: CleaningSettings) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return depths (0 where bad) and weights, float32 ``(row, bin)``."""
        depth, sigma = self.depth[rows].astype(np.float32), self.sigma[rows].astype(np.float32)
        bad = np.isnan(depth)
        variance = ((settings.noise_factor or 1.0) * sigma) ** 2 + settings.scatter**2
        return np.where(bad, 0, depth), np.where(bad, 0, 1 / variance)

    def rough(self, rows: NDArray[np.int64], settings: CleaningSettings) -> NDArray[np.float32]:
        """Return the scatter of pixels within quiet bins that noise does not explain ``(row,)``."""
        excess = self.inside[rows] - (settings.noise_factor or 1.0) ** 2 * self.expected[rows]
        return np.asarray(np.sqrt(excess.clip(0)))

    def noise_factor(self) -> float:
        """Return the noise of neighbouring quiet bins over what their errors say, at least 1."""
        pair = np.flatnonzero(QUIET_BINS[1:] & QUIET_BINS[:-1] & (np.diff(BIN_CENTRES) == BIN))
        ratios = [np.empty(0)]
        for first in range(0, len(self), ROWS):
            depth, sigma = (array[first : first + ROWS].astype(np.float64) for array in (self.depth, self.sigma))
            noisy = np.flatnonzero((~np.isnan(sigma)).any(axis=1))
            noisy = noisy[np.nanmedian(sigma[noisy], axis=1) > NOISY]
            pulls = (depth[:, pair + 1] - depth[:, pair]) / np.hypot(sigma[:, pair + 1], sigma[:, pair])
            pulls = np.abs(pulls[noisy])
            ratios.append(np.nanmedian(pulls[(~np.isnan(pulls)).any(axis=1)], axis=1))
        every = np.concatenate(ratios)
        return float(np.clip(np.median(every) / MEDIAN_OF_NORMAL, 1.0, 10.0)) if every.size else 1.0


def joined_features(parts: Sequence[Features], folder: Path | None = None) -> Features:
    """Return the features of several parts in one, in order.

    Args:
        parts: read once.
        folder: where depths and sigmas are kept; in memory if None.
    """
    count = sum(map(len, parts))
    depth, sigma = (_rows(folder, name, (count, STARTS.size)) for name in ("depth", "sigma"))
    inside, expected = np.empty((2, count), dtype=np.float32)
    first = 0
    for part in parts:
        rows = slice(first, first + len(part))
        depth[rows], sigma[rows] = part.depth[:], part.sigma[:]
        inside[rows], expected[rows] = part.inside, part.expected
        first += len(part)
    return Features(depth, sigma, inside, expected)


def bin_spectra(spectra: SpectraPart) -> Features:
    """Average spectra in bins; a bin needs half of its pixels, and pixels that are not finite are bad.

    Each row is summed by itself, so that the result does not depend on how many are binned at a time.

    Example:
        >>> from stargap.spectra.prepared import PreparedSpectra
        >>> features = bin_spectra(PreparedSpectra.empty(2))
        >>> features.depth.shape, bool(np.isnan(features.depth).all())
        ((2, 146), True)
    """
    pixels = (STARTS[:, None] + np.arange(BIN)).ravel()
    place = np.arange(BIN) - (BIN - 1) / 2
    count, bins = len(spectra.flux), STARTS.size
    depth, error = np.empty((2, count, bins), dtype=np.float16)
    within, expected = np.empty((2, count), dtype=np.float32)
    for first in range(0, count, BINNED):
        rows = slice(first, first + BINNED)
        flux, sigma, good = (array[rows][:, pixels] for array in (spectra.flux, spectra.sigma, spectra.good))
        value, pixel_error, use = (array.reshape(len(flux), bins, BIN) for array in (flux, sigma, good))
        use = use & np.isfinite(value) & np.isfinite(pixel_error) & (pixel_error > 0) & (np.abs(value) < LARGEST)
        number = use.sum(axis=2)
        enough = number >= BIN // 2
        number = np.maximum(number, 1)
        mean = np.where(use, value, 0).sum(axis=2, dtype=np.float64) / number
        noise = (np.where(use, pixel_error, 0).astype(np.float64) ** 2).sum(axis=2) / number
        rest = np.where(use, value - mean[:, :, None], 0)
        slope = (rest * place).sum(axis=2) / np.maximum((use * place**2).sum(axis=2), 1)
        inside = (np.where(use, rest - slope[:, :, None] * place, 0) ** 2).sum(axis=2) / number
        depth[rows] = np.where(enough, np.clip(mean - 1, -100, 100), np.nan)
        error[rows] = np.where(enough, np.sqrt(CORRELATION * noise / number).clip(1e-4, 1e4), np.nan)
        within[rows], expected[rows] = _without_worst(np.where(enough & QUIET_BINS, inside, np.nan), noise)
    return Features(depth, error, within, expected)


def _rows(folder: Path | None, name: str, shape: tuple[int, int]) -> NDArray[np.float16] | DiskRows:
    if folder is None:
        return np.empty(shape, dtype=np.float16)
    path = folder / f"{name}.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    return DiskRows(path, shape[0])


def _without_worst(
    inside: NDArray[np.float64], expected: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average two variances ``(star, bin)`` over bins, leaving out NaN and the bins where the first is largest."""
    order = np.argsort(inside, axis=1)  # NaN last
    count = (~np.isnan(inside)).sum(axis=1)
    use = np.arange(inside.shape[1]) < (count - WORST)[:, None]
    number = np.maximum(count - WORST, 1)
    sums = [np.where(use, np.take_along_axis(array, order, axis=1), 0).sum(axis=1) for array in (inside, expected)]
    return sums[0] / number, sums[1] / number
