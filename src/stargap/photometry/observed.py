"""What is known of stars' photometry: magnitudes with errors, distance modulus and extinction, from columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.photometry.extinction import COEFFICIENTS, LOCAL_BUBBLE, R_V, expected_extinction
from stargap.tables.nulls import numbers

__all__ = ["INPUTS", "Photometry", "distance_modulus", "observed"]

_Floats = NDArray[np.float64]

INPUTS: dict[str, tuple[str, ...]] = {
    "g_mag": ("phot_g_mean_mag",),
    "bp_mag": ("phot_bp_mean_mag",),
    "rp_mag": ("phot_rp_mean_mag",),
    "ks_mag": ("ks_m",),
    "e_g_mag": (),
    "e_bp_mag": (),
    "e_rp_mag": (),
    "e_ks_mag": ("ks_msigcom",),
    "ks_quality": ("ph_qual",),
    "parallax": (),
    "e_parallax": ("parallax_error",),
    "ruwe": (),
    "a_v": (),
    "e_a_v": (),
    "ebv": (),
    "e_ebv": (),
}
"""Columns that are used, and their other names in the tables of Gaia and 2MASS (mag, mas)."""

_NEEDED = ("bp_mag", "rp_mag", "parallax", "e_parallax")
LEAST_SN = 5.0
"""Parallaxes below this many sigma say too little of a distance for labels."""
LOW_SN = 20.0
HIGH_RUWE = 1.4
ZERO_POINT = -0.03
"""Parallax zero point of Gaia DR3 at the magnitudes of M dwarfs (mas; Lindegren et al. 2021, A&A 649, A4)."""
LENGTH = 500.0
"""Scale (pc) of the distance prior."""
_FLOORS = np.array([0.003, 0.005, 0.005, 0.01])
_KS_ERROR = 0.03
_TOGETHER = 1_000
"""Stars whose distances are integrated together: their arrays fit the caches."""


@dataclass(frozen=True, eq=False)
class Photometry:
    """Stars, one a row, whatever is known of them.

    Args:
        magnitudes: absolute G, BP, RP, Ks ``(star, 4)`` by the mean distance modulus and extinction; NaN where unknown.
        covariance: of these (mag^2), ``(star, 4, 4)``: each band's error, and what all share through parallax and
            extinction; the identity in rows and columns of unknown bands.
        ruwe: Gaia's RUWE, ``(star,)``; NaN where unknown.
        a_v: extinction and its error that are in these (mag), ``(star, 2)``; NaN without a distance.
        usable: which stars have BP, RP and a parallax that is good enough, ``(star,)``.
        flags: of `PhotFlag`, int64 ``(star,)``.
    """

    magnitudes: _Floats
    covariance: _Floats
    ruwe: _Floats
    a_v: _Floats
    usable: NDArray[np.bool_]
    flags: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.flags)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> Photometry:
        """Return some of the stars."""
        return Photometry(*(getattr(self, field.name)[rows] for field in fields(self)))


def observed(table: Mapping[str, ArrayLike], *, zero_point: float = ZERO_POINT, length: float = LENGTH) -> Photometry:
    """Return the photometry that columns give, under stargap's names or those of Gaia's and 2MASS's tables (`INPUTS`).

    Null are NaN, -9999, what is masked, None in a list, and infinities. Without errors of G, BP and RP those of DR3 at
    the magnitude are taken; without one of Ks, 0.03 mag. Ks of a quality other than A, B or C in ``ks_quality`` (one
    letter, or 2MASS's three) is left out. Extinction is ``a_v`` or 3.1 ``ebv``, with errors, or 0.05 mag and 16 %
    of it; none within 70 pc; where it is null beyond, `extinction.expected_extinction` with as large an error, and a
    flag.

    Args:
        table: columns ``(star,)``; BP, RP, the parallax (mas) and its error must be there.
        zero_point: of the parallaxes (mas), subtracted.
        length: see `distance_modulus`.

    Raises:
        UsageError: a needed column is missing, or columns are not of one length.

    Example:
        >>> star = {"bp_mag": [10.7], "rp_mag": [8.3], "ks_mag": [6.0], "parallax": [100.0], "e_parallax": [0.02]}
        >>> observed(star).magnitudes.round(2)
        array([[ nan, 10.7,  8.3,  6. ]])
    """
    columns = _columns(table)
    size = len(columns["parallax"])
    magnitudes = np.stack([columns[f"{band}_mag"] for band in ("g", "bp", "rp", "ks")], axis=1)
    good_ks = _good_quality(table, size) if "ks_quality" in table or "ph_qual" in table else np.ones(size, dtype=bool)
    magnitudes[~good_ks, 3] = np.nan
    modulus, e_modulus, snr = distance_modulus(
        columns["parallax"] - zero_point, columns["e_parallax"], length=length, least_snr=LEAST_SN
    )
    a_v, e_a_v, guessed = _extinction(columns, 10 ** (1 + modulus / 5))
    usable = np.isfinite(modulus) & np.isfinite(magnitudes[:, 1]) & np.isfinite(magnitudes[:, 2])

    shared = (e_modulus**2)[:, None, None] + (e_a_v**2)[:, None, None] * np.outer(COEFFICIENTS, COEFFICIENTS)
    covariance = shared + _errors(columns, magnitudes)[:, :, None] ** 2 * np.eye(4)
    known = np.isfinite(magnitudes) & usable[:, None]
    covariance = np.where(known[:, :, None] & known[:, None, :], covariance, np.eye(4))
    absolute = magnitudes - modulus[:, None] - a_v[:, None] * COEFFICIENTS

    flags = np.zeros(size, dtype=np.int64)
    for flag, where in (
        (PhotFlag.NO_PHOTOMETRY, ~np.isfinite(magnitudes[:, 1:3]).all(axis=1)),
        (PhotFlag.NO_PARALLAX, ~np.isfinite(modulus)),
        (PhotFlag.LOW_PARALLAX_SN, np.isfinite(modulus) & (snr < LOW_SN)),
        (PhotFlag.HIGH_RUWE, columns["ruwe"] > HIGH_RUWE),
        (PhotFlag.NO_KS, ~np.isfinite(magnitudes[:, 3])),
        (PhotFlag.EXTINCTION_UNKNOWN, guessed),
    ):
        flags[where] |= int(flag)
    extinction = np.where(np.isfinite(modulus)[:, None], np.stack([a_v, e_a_v], axis=1), np.nan)
    return Photometry(np.where(known, absolute, np.nan), covariance, columns["ruwe"], extinction, usable, flags)


def distance_modulus(
    parallax: ArrayLike, error: ArrayLike, *, length: float = LENGTH, least_snr: float = LEAST_SN
) -> tuple[_Floats, _Floats, _Floats]:
    """Return mean and standard deviation of the distance modulus of stars, and the S/N of their parallaxes.

    Moments of the posterior of a Gaussian parallax under a prior d^2 exp(-d / length) of the distance d (Bailer-Jones
    2015), by quadrature over five sigma to both sides.

    Args:
        parallax: mas, without its zero point, ``(star,)``.
        error: mas.
        length: scale of the prior (pc).
        least_snr: parallaxes of fewer sigma, negative and unknown ones give NaN.

    Example:
        >>> modulus, error, snr = distance_modulus([100.0, 10.0, -1.0], [1.0, 1.0, 1.0])
        >>> modulus.round(3), error.round(3)
        (array([1.000e-03, 5.101e+00,       nan]), array([0.022, 0.234,   nan]))
    """
    value, sigma = np.asarray(parallax, dtype=float), np.asarray(error, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        snr = np.where(sigma > 0, value / sigma, np.nan)
        good = np.isfinite(snr) & (snr >= least_snr)
    mean, spread = np.full((2, *snr.shape), np.nan)
    rows = np.flatnonzero(good)
    for first in range(0, len(rows), _TOGETHER):
        some = rows[first : first + _TOGETHER]
        mean[some], spread[some] = _modulus_moments(value[some], sigma[some], length)
    return mean, spread, snr


def _modulus_moments(value: _Floats, sigma: _Floats, length: float) -> tuple[_Floats, _Floats]:
    """Return mean and standard deviation of the distance modulus, ``(star,)`` each."""
    value, sigma = value[:, None], sigma[:, None]
    true = np.maximum(value + sigma * np.linspace(-5.0, 5.0, 81), value / 100)
    distance = 1000 / true
    log_distance = np.log(distance)
    # the density in parallax: that in distance times |dd / dparallax|
    log_weight = -0.5 * ((true - value) / sigma) ** 2 + 4 * log_distance - distance / length
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    moduli = 5 / np.log(10) * log_distance - 5
    mean = (weight * moduli).sum(axis=1)
    return mean, np.sqrt((weight * (moduli - mean[:, None]) ** 2).sum(axis=1))


def _columns(table: Mapping[str, ArrayLike]) -> dict[str, _Floats]:
    """Return every column of `INPUTS` but the quality as float64, NaN where null or missing."""
    given = {name: next((n for n in (name, *others) if n in table), None) for name, others in INPUTS.items()}
    lacking = [" or ".join((name, *INPUTS[name])) for name in _NEEDED if given[name] is None]
    if lacking:
        message = f"photometric labels need columns that are not there: {'; '.join(lacking)}"
        raise UsageError(message)
    size = len(np.atleast_1d(np.asarray(table[str(given["parallax"])], dtype=object)))
    columns = {}
    for name, theirs in given.items():
        if name == "ks_quality":
            continue
        here: dict[str, Any] = {} if theirs is None else {theirs: np.ma.asanyarray(table[theirs])}
        columns[name] = numbers(here, theirs or name, size)
        if columns[name].shape != (size,):
            message = f"column {theirs!r} has shape {columns[name].shape}, and the parallax ({size},): one value a star"
            raise UsageError(message)
    return columns


def _good_quality(table: Mapping[str, ArrayLike], size: int) -> NDArray[np.bool_]:
    """Return whether 2MASS's quality of Ks is A, B or C; where it is not given it counts as good."""
    raw = np.ma.filled(np.ma.asarray(table["ks_quality" if "ks_quality" in table else "ph_qual"]).astype(object), "")
    if raw.shape != (size,):
        message = f"the quality of Ks has shape {raw.shape}, and the parallax ({size},): one value a star"
        raise UsageError(message)
    letters = [(value.decode() if isinstance(value, bytes) else str(value or "")).strip()[-1:] for value in raw]
    return np.array([letter in ("", "A", "B", "C") for letter in letters])


def _extinction(columns: dict[str, _Floats], distance: _Floats) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
    """Return A_V, its error, and where both are a guess."""
    a_v = np.where(np.isfinite(columns["a_v"]), columns["a_v"], R_V * columns["ebv"])
    error = np.where(np.isfinite(columns["a_v"]), columns["e_a_v"], R_V * columns["e_ebv"])
    error = np.where(np.isfinite(error) & (error >= 0), error, np.hypot(0.05, 0.16 * a_v))
    expected = np.nan_to_num(expected_extinction(distance))
    guessed = ~np.isfinite(a_v) & (distance > LOCAL_BUBBLE)
    a_v, error = np.where(np.isfinite(a_v), a_v, expected), np.where(np.isfinite(a_v), error, expected)
    near = ~(distance > LOCAL_BUBBLE)
    return np.where(near, 0.0, a_v), np.where(near, 0.0, error), guessed


def _errors(columns: dict[str, _Floats], magnitudes: _Floats) -> _Floats:
    """Return errors ``(star, 4)``, at least those of the zero points."""
    with np.errstate(over="ignore"):
        typical = np.stack(
            [
                10 ** (0.3 * (magnitudes[:, 0] - 28.0)),
                10 ** (0.35 * (magnitudes[:, 1] - 23.5)),
                10 ** (0.35 * (magnitudes[:, 2] - 23.0)),
                np.full(len(magnitudes), _KS_ERROR),
            ],
            axis=1,
        )
    given = np.stack([columns[f"e_{band}_mag"] for band in ("g", "bp", "rp", "ks")], axis=1)
    errors = np.where(np.isfinite(given) & (given >= 0), given, typical)
    return np.asarray(np.hypot(np.nan_to_num(errors), _FLOORS))
