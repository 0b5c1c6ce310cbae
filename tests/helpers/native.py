"""Spectra on native pixels from arrays, and vacuum wavelengths by a second formula."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from stargap.pixels import BLUE_KEPT, LOG_LAMBDA
from stargap.spectra.log_lambda import NativeBatch

__all__ = ["morton", "native"]


def morton(air: ArrayLike) -> NDArray[np.float64]:
    """Return vacuum wavelengths (A) by the IAU standard (Morton 2000, ApJS 130, 403, eq. 8), inverted by iteration.

    Example:
        >>> morton(6562.801).round(3)
        np.float64(6564.614)
    """
    given = np.asarray(air, dtype=float)
    vacuum = given
    for _ in range(10):
        s2 = (1e4 / vacuum) ** 2
        vacuum = given * (1 + 8.34254e-5 + 2.406147e-2 / (130 - s2) + 1.5998e-4 / (38.9 - s2))
    return vacuum


def native(flux: ArrayLike, ivar: ArrayLike = 1e4) -> NativeBatch:
    """Return flux and inverse variance on the log-lambda grid, ``(star, native)`` or of one star, as a batch.

    The pixels blueward of the grid can stand before it.

    Example:
        >>> len(native(np.ones(1891))), bool(native(np.ones(96 + 1891)).blue_ivar.all())
        (1, True)
    """
    given = np.atleast_2d(np.asarray(flux, dtype=float))
    weights = np.broadcast_to(np.asarray(ivar, dtype=float), given.shape)
    tensors = [torch.as_tensor(values.copy(), dtype=torch.float32) for values in (given, weights)]
    scale, spikes = torch.ones(len(given), dtype=torch.float64), torch.zeros(len(given))
    if given.shape[1] == LOG_LAMBDA.count:
        return NativeBatch(*tensors, scale, spikes)
    blue, grid = (
        [values[:, part] for values in tensors] for part in (slice(BLUE_KEPT.size), slice(BLUE_KEPT.size, None))
    )
    return NativeBatch(*grid, scale, spikes, blue_flux=blue[0], blue_ivar=blue[1])
