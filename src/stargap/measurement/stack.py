"""Several spectra of one star as one: shifted by their velocities and averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.measurement.files import measure
from stargap.pixels import BLUE, BLUE_KEPT, LOG_LAMBDA, SPEED_OF_LIGHT
from stargap.settings import MeasureSettings
from stargap.spectra.inputs import expand_spectra, list_spectra
from stargap.spectra.linespread import broadened, to_resolution
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.readers.read import read_spectrum
from stargap.spectra.reading import ReadSettings
from stargap.spectra.spectrum import Spectrum

__all__ = ["co_added", "stack"]

_INDEX = np.concatenate([BLUE.first + BLUE_KEPT, LOG_LAMBDA.first + np.arange(LOG_LAMBDA.count)])
"""Common logarithms of the wavelengths of all pixels that are kept of a spectrum, in steps of the grid."""


def stack(
    inputs: Any,
    *,
    rv: ArrayLike | None = None,
    settings: MeasureSettings | None = None,
    model: str | Path | None = None,
    read: ReadSettings | None = None,
) -> Spectrum:
    """Co-add spectra of one star after their velocities, so that `stargap.measure` fits one set of labels to all.

    Each is brought to the log-lambda grid and, where resolving powers differ, to the lowest of them, divided by its
    median flux, shifted by the whole number of pixels (69 km/s) that brings it nearest to the mean velocity (weighted
    by squared S/N), and averaged with its inverse variances. So nothing is interpolated that lies on the grid, and
    noise of neighbouring pixels stays independent; the velocities that are left over lower the resolving power of the
    mean, which says so. Spectra of which no velocity is usable are left out.

    Args:
        inputs: files, folders and so on, or `Spectrum` objects, as `stargap.measure` takes them.
        rv: heliocentric velocities (km/s), ``(spectrum,)``, NaN for a spectrum to leave out; measured if not given.
        settings: of the measurement of velocities.
        model: as for `stargap.measure`.
        read: as for `stargap.measure`.

    Returns:
        the mean spectrum, with the facts of the one of the highest S/N and without a path.

    Raises:
        UsageError: velocities of another number, or none that is usable.
        SpectrumError: a file that cannot be read.

    Example:
        >>> import stargap
        >>> wave = LOG_LAMBDA.wavelength
        >>> one = stargap.Spectrum(wave, 1 + 0 * wave, 25 + 0 * wave)
        >>> mean = stargap.stack([one, one, one, one], rv=[0.0, 0.0, 0.0, 0.0])
        >>> round(float(np.median(mean.flux * np.sqrt(mean.ivar))), 3)
        10.0
    """
    given = expand_spectra(list_spectra(inputs))
    spectra = [item if isinstance(item, Spectrum) else read_spectrum(item, read) for item in given]
    if rv is None:
        table = measure(spectra, settings=settings, model=model, progress=False).arrays()
        velocity = np.where(table["use_rv"] == 1, table["rv"], np.nan).astype(float)
    else:
        velocity = np.atleast_1d(np.asarray(rv, dtype=float))
    if velocity.shape != (len(spectra),):
        message = f"{len(spectra)} spectra and {velocity.size} velocities: give one for each"
        raise UsageError(message)
    used = np.flatnonzero(np.isfinite(velocity))
    if not used.size:
        message = "no spectrum has a usable velocity: nothing to co-add"
        raise UsageError(message)
    return co_added([spectra[row] for row in used], velocity[used])


def co_added(chosen: list[Spectrum], velocity: NDArray[np.float64]) -> Spectrum:
    """Return the mean of spectra of one star, as `stack` describes it.

    Args:
        chosen: at least one.
        velocity: heliocentric (km/s), ``(spectrum,)``, finite.
    """
    snr2 = np.array([_squared_snr(one) for one in chosen])
    share = np.maximum(snr2, 1e-12) / np.maximum(snr2, 1e-12).sum()
    pixel = np.log1p(velocity / SPEED_OF_LIGHT) / (LOG_LAMBDA.step * np.log(10.0))
    whole = np.rint(pixel - share @ pixel).astype(np.int64)
    left = pixel - share @ pixel - whole
    flux, ivar, power = _on_grid(chosen)
    first = 0 if ivar[:, : BLUE_KEPT.size].any() else BLUE_KEPT.size
    flux, ivar = (_shifted(values, whole) for values in (flux, ivar))
    weight = ivar.sum(axis=0)
    mean = np.divide((flux * ivar).sum(axis=0), weight, out=np.zeros(weight.shape), where=weight > 0)
    facts = replace(chosen[int(snr2.argmax())].facts, path="", obsid=None, snr_source=None)
    middle = float(share @ left)  # 0 unless some were shifted
    wave = 10.0 ** ((_INDEX[first:] - middle) * LOG_LAMBDA.step)
    smeared = broadened(power, float(share @ (left - middle) ** 2))
    return Spectrum(wave, mean[first:], weight[first:], facts, np.full(wave.size, smeared))


def _squared_snr(spectrum: Spectrum) -> float:
    good = spectrum.ivar > 0
    return float(np.median(spectrum.flux[good] ** 2 * spectrum.ivar[good])) if good.any() else 0.0


def _on_grid(spectra: list[Spectrum]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return fluxes and inverse variances on the pixels ``_INDEX``, ``(spectrum, pixel)``, and resolving power."""
    native = to_log_lambda(spectra)
    flux, ivar = native.flux.double().numpy().copy(), native.ivar.double().numpy()
    lowest = float(native.resolution.min())
    for row, power in enumerate(native.resolution.tolist()):
        if power > lowest:
            flux[row] = to_resolution(flux[row], ivar[row], np.full(flux.shape[1], power), lowest)
    blue = native.blue_flux.double().numpy(), native.blue_ivar.double().numpy()
    return np.hstack([blue[0], flux]), np.hstack([blue[1], ivar]), lowest


def _shifted(values: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what each row has so many pixels further red, 0 where it has no such pixel."""
    wanted = _INDEX + whole[:, None]
    place = np.searchsorted(_INDEX, wanted).clip(max=_INDEX.size - 1)
    return np.where(_INDEX[place] == wanted, np.take_along_axis(values, place, axis=1), 0.0)
