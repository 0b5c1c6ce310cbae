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
    median flux, shifted by whole pixels (69 km/s), and averaged with its inverse variances; pixels that lie on the grid
    are not interpolated. Shifts are those after which the velocities differ least. What differs still broadens lines,
    which the resolving power of the mean includes. Wavelengths are such that the mean is at the mean velocity (weighted
    by squared S/N). Inverse variances of spectra that do not lie on the grid are such that errors of labels stay true
    although interpolation correlates pixels (chi-square is then below 1). Spectra of which no velocity is usable are
    left out.

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
    mean, middle = co_added([spectra[row] for row in used], velocity[used])
    return replace(mean, wavelength=mean.wavelength * 10.0 ** (-middle * LOG_LAMBDA.step))


def co_added(chosen: list[Spectrum], velocity: NDArray[np.float64]) -> tuple[Spectrum, float]:
    """Return the mean of spectra of one star, as `stack` describes it, on the grid, and how far it is from there.

    Args:
        chosen: at least one.
        velocity: heliocentric (km/s), ``(spectrum,)``, finite.

    Returns:
        the mean, and the pixels, at most half of one, by which it is further red than at the mean velocity: 0 where
        none was shifted.
    """
    flux, ivar, power = _on_grid(chosen)
    first = 0 if ivar[:, : BLUE_KEPT.size].any() else BLUE_KEPT.size
    snr2 = np.array([_squared_snr(*one) for one in zip(flux, ivar, strict=True)])
    share = np.maximum(snr2, 1e-12)
    share /= share.sum()
    pixel = np.log1p(velocity / SPEED_OF_LIGHT) / (LOG_LAMBDA.step * np.log(10.0))
    whole, spread = _shifts(pixel, share)
    flux, ivar = (_shifted(values, whole) for values in (flux, ivar))
    weight = ivar.sum(axis=0)
    mean = np.divide((flux * ivar).sum(axis=0), weight, out=np.zeros(weight.shape), where=weight > 0)
    facts = replace(chosen[int(snr2.argmax())].facts, path="", obsid=None, snr_source=None)
    wave = 10.0 ** (_INDEX[first:] * LOG_LAMBDA.step)
    resolution = np.full(wave.size, broadened(power, spread))
    return Spectrum(wave, mean[first:], weight[first:], facts, resolution), float(-(share @ whole))


def _shifts(pixel: NDArray[np.float64], share: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """Return the pixels by which each spectrum is shifted to the blue, and the variance of what still differs.

    Args:
        pixel: velocities, in pixels.
        share: weights of the spectra, 1 in all.
    """
    trials = np.rint(pixel - pixel[:, None]).astype(np.int64)  # each spectrum in turn stays where it is
    left = pixel - trials
    spreads = ((left - (left @ share)[:, None]) ** 2) @ share
    best = trials[int(np.argmin(spreads))]
    return best - np.rint(share @ best).astype(np.int64), float(spreads.min())


def _squared_snr(flux: NDArray[np.float64], ivar: NDArray[np.float64]) -> float:
    good = np.flatnonzero(ivar[BLUE_KEPT.size :] > 0) + BLUE_KEPT.size
    return float(np.median(flux[good] ** 2 * ivar[good])) if good.size else 0.0


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
