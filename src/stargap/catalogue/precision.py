"""Errors that repeated observations confirm: their scatter against S/N, and the errors of fits scaled to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from stargap import __version__
from stargap.catalogue.repeats import LEAST_PULL, MAD_ERROR, PIVOT, Bins, Repeats, fit_curve, fit_scale
from stargap.errors import UsageError
from stargap.flags import PrecisionFlag
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import equal_columns, numbers, whole_ids

__all__ = ["BinScatter", "ErrorModel", "Precision", "fit_precision",
           "published_errors"]  # fmt: skip

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]

QUANTITIES = ("rv", "teff", "logg", "m_h")
LEAST_REPEATS = 100
"""Repeats (spectra beyond the first of each star) below which no model is fitted."""
IN_BIN = 50
MOST_BINS = 12


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BinScatter(_Frozen):
    """Repeats in one bin of S/N.

    ``snr``, their median; ``repeats``, how many; ``scatter`` of one spectrum at this S/N and its error, in the
    quantity's unit; ``pull``, the robust scatter over the calibrated error, 1 if that is right.
    """

    snr: float
    repeats: float
    scatter: float
    e_scatter: float
    pull: float


class ErrorModel(_Frozen):
    """How errors of one quantity follow from its fit and the S/N x; plain numbers, in the quantity's unit.

    The calibrated error is sqrt((k e_fit)^2 + floor^2) with ln k = ln scale + slope u + bend u^2, u = ln(x / 20); the
    scatter of repeats is a / x + b (paper section 4.1, eq. 9). Without enough repeats ``calibrated`` is false, the
    errors are those of the fit and the curve is null.
    """

    calibrated: bool
    stars: int
    """Stars with two usable spectra or more."""
    repeats: int
    """Spectra beyond the first of each of these."""
    snr_range: tuple[float, float] | None = None
    """Of the repeats."""
    scale: float = 1.0
    e_scale: float | None = None
    slope: float = 0.0
    e_slope: float | None = None
    bend: float = 0.0
    e_bend: float | None = None
    """Null where the bend is held at 0: below 300 repeats."""
    floor: Annotated[float, Field(ge=0)] = 0.0
    e_floor: float | None = None
    """Null where the floor is 0."""
    a: float | None = None
    e_a: float | None = None
    b: float | None = None
    e_b: float | None = None
    held: Literal["", "a", "b"] = ""
    """Which of a and b the unbounded fit made negative, and is held at 0; its error is that of the unbounded fit."""
    bins: tuple[BinScatter, ...] = ()

    def repeat_error(self, snr: ArrayLike) -> _Floats:
        """Return a / x + b at S/N above 0, any shape; NaN elsewhere, and where there is no curve."""
        x = np.asarray(snr, dtype=float)
        if self.a is None or self.b is None:
            return np.full(x.shape, np.nan)
        return self.a / np.where(x > 0, x, np.nan) + self.b

    def calibrated_error(self, fit_error: ArrayLike, snr: ArrayLike) -> _Floats:
        """Return the error that repeats confirm; NaN without a fit error or a positive S/N.

        Beyond the range of the repeats the scale of its nearer end holds.
        """
        error, x = np.asarray(fit_error, dtype=float), np.asarray(snr, dtype=float)
        if self.snr_range is None:
            return error.copy()
        u = np.log(np.clip(np.where(x > 0, x, PIVOT), *self.snr_range) / PIVOT)
        scaled = self.scale * np.exp(self.slope * u + self.bend * u**2) * error
        return np.where(x > 0, np.hypot(scaled, self.floor), np.nan)


class Precision(_Frozen):
    """Error models of several quantities; ``model_dump_json`` and ``model_validate_json`` save and load it.

    Example:
        >>> model = Precision(errors={"rv": ErrorModel(calibrated=False, stars=2, repeats=3)})
        >>> Precision.model_validate_json(model.model_dump_json()) == model
        True
    """

    version: str = __version__
    errors: dict[str, ErrorModel]


def fit_precision(
    columns: Mapping[str, ArrayLike],
    *,
    snr: str = "snr_r",
    star: str = "gaia_source_id",
    names: Sequence[str] = QUANTITIES,
    use: ArrayLike | None = None,
) -> Precision:
    """Fit error models to stars with several spectra (paper section 4.1).

    A spectrum's distance from the mean of its star, weighted by errors s_i, has the variance s_i^2 - 1 / W with
    W = sum 1 / s_i^2; for equal errors that is s^2 (n - 1) / n. Divided by its root, distances have a robust scatter
    (1.4826 times the median of their absolute values) of 1 in every bin of S/N if the s_i are right: once for
    s_i = a / x + b, once for the calibrated errors of `ErrorModel`. Both are fitted by least squares to the scatter in
    3 to 12 bins of equal numbers of spectra. Only the core of the distribution is fitted, not its tails.

    What spectra of one star share, such as a model that is wrong for its type, does not show in repeats.
    Fewer than 100 repeats give a model that says so and leaves errors unchanged.

    Args:
        columns: ``(row,)``: the S/N, the star's identifier (int64, -9999 without one), and each quantity with its
            error, such as teff and e_teff. Nulls are -9999 and NaN.
        snr: name of the S/N.
        star: name of the identifier that spectra of one star share.
        names: quantities.
        use: spectra that may count, ``(row,)`` bool; all by default.

    Raises:
        UsageError: a column is missing, lengths differ, or identifiers are floats.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> star, snr = np.repeat(np.arange(500), 3), rng.uniform(5, 100, 1500)
        >>> table = {"gaia_source_id": star, "snr_r": snr, "teff": 3500 + rng.normal(0, 600 / snr), "e_teff": 300 / snr}
        >>> model = fit_precision(table, names=["teff"]).errors["teff"]
        >>> model.calibrated, model.repeats, round(model.scale), round(float(model.repeat_error(20.0)), -1)
        (True, 1000, 2, 30.0)
    """
    given = equal_columns(columns, star)
    for name in (snr, *(part for quantity in names for part in (quantity, f"e_{quantity}"))):
        if name not in given:
            message = f"no column {name!r}; give the S/N, the star, and each quantity with its error"
            raise UsageError(message)
    ids, rows = whole_ids(given[star], star), len(given[star])
    chosen = (ids != INT_NULL) & (np.ones(rows, dtype=bool) if use is None else np.asarray(use, dtype=bool))
    signal = numbers(given, snr, rows)
    models = {}
    for name in names:
        value, error = numbers(given, name, rows), numbers(given, f"e_{name}", rows)
        good = np.flatnonzero(chosen & np.isfinite(value) & _ordinary(error) & _ordinary(signal))
        _, inverse, count = np.unique(ids[good], return_inverse=True, return_counts=True)
        several = count[inverse] > 1
        kept = good[several]
        _, group = np.unique(inverse[several], return_inverse=True)
        models[name] = _fit_one(Repeats(value[kept], error[kept], signal[kept], group))
    return Precision(errors=models)


def published_errors(model: Precision, columns: Mapping[str, ArrayLike], *, snr: str = "snr_r") -> dict[str, Any]:
    """Return the errors of a catalogue, their terms, and flags; no other column is read or changed.

    For each quantity of the model, such as teff: ``e_teff``, calibrated; ``e_teff_fit``, as given; ``e_teff_repeat``,
    a / x + b; ``e_teff_paper`` = sqrt(e_teff_repeat^2 + e_teff_fit^2), the paper's eq. 8, which counts the noise of
    the spectrum twice. ``precision_flags`` (int64) has the bits of `PrecisionFlag` for any of the quantities.

    Args:
        model: from `fit_precision`.
        columns: ``(row,)``: the S/N and the fit's errors, such as e_teff.
        snr: name of the S/N column that the model was fitted with.

    Raises:
        UsageError: the S/N is missing, or lengths differ.

    Example:
        >>> one = ErrorModel(calibrated=True, stars=90, repeats=200, snr_range=(5, 80), scale=0.5, floor=3, a=100, b=1)
        >>> model = Precision(errors={"teff": one})
        >>> table = published_errors(model, {"snr_r": [10.0, 2.0, 0.0], "e_teff": [8.0, 8.0, 8.0]})
        >>> table["e_teff"], table["e_teff_paper"].round(1), table["precision_flags"]
        (array([ 5.,  5., nan]), array([13.6, 51.6,  nan]), array([0, 1, 2]))
    """
    given = equal_columns(columns, snr)
    rows = len(given[snr])
    signal = numbers(given, snr, rows)
    signal = np.where(signal > 0, signal, np.nan)
    flags = np.where(np.isnan(signal), int(PrecisionFlag.NO_SNR), 0)
    table: dict[str, Any] = {}
    for name, one in model.errors.items():
        fit = numbers(given, f"e_{name}", rows)
        repeat = one.repeat_error(signal)
        table |= {f"e_{name}": one.calibrated_error(fit, signal), f"e_{name}_fit": fit, f"e_{name}_repeat": repeat}
        table[f"e_{name}_paper"] = np.hypot(repeat, fit)
        if one.snr_range is None:
            flags |= PrecisionFlag.NOT_CALIBRATED
        else:
            outside = (signal < one.snr_range[0]) | (signal > one.snr_range[1])
            flags |= np.where(outside, int(PrecisionFlag.OUTSIDE_SNR), 0)
    return table | {"precision_flags": flags}


def _ordinary(values: _Floats) -> _Bools:
    """Return where values are positive and within a factor of a million of their median: others cannot be weighed."""
    positive = values > 0
    middle = float(np.median(values[positive])) if positive.any() else 1.0
    return positive & (values > 1e-6 * middle) & (values < 1e6 * middle)


def _fit_one(data: Repeats) -> ErrorModel:
    stars = int(data.star.max()) + 1 if len(data.star) else 0
    repeats = len(data.star) - stars
    bins = Bins(data, int(np.clip(repeats // IN_BIN, 3, MOST_BINS))) if repeats >= LEAST_REPEATS else None
    if bins is None or len(bins.rows) < 3 or bins.scatter(data.error)[0].min() <= LEAST_PULL:
        return ErrorModel(calibrated=False, stars=stars, repeats=repeats)
    curve, scatter, relative = fit_curve(data, bins)
    model = ErrorModel(
        calibrated=True,
        stars=stars,
        repeats=repeats,
        snr_range=(float(data.snr.min()), float(data.snr.max())),
        **curve._asdict(),
        **fit_scale(data, bins)._asdict(),
    )
    pull, _ = bins.scatter(model.calibrated_error(data.error, data.snr))
    left = (MAD_ERROR / relative) ** 2
    points = np.stack([bins.snr, left, scatter, scatter * relative, pull], axis=1).tolist()
    found = tuple(BinScatter(snr=x, repeats=n, scatter=y, e_scatter=e, pull=z) for x, n, y, e, z in points)
    return model.model_copy(update={"bins": found})
